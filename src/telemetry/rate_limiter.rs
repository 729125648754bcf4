//! How many events of one kind there may be in a second. What was left out is told with the next.

use std::mem;
use std::time::{Duration, Instant};

pub(crate) struct Ration {
    a_second: u32,
    left: u32,
    /// Up to when it has been given.
    since: Instant,
    left_out: u64,
}

impl Ration {
    pub(crate) fn new(a_second: u32) -> Self {
        Self {
            a_second,
            left: a_second,
            since: Instant::now(),
            left_out: 0,
        }
    }

    /// How many were left out since the last that was not; `None` if this one is to be left out.
    pub(crate) fn take(&mut self, now: Instant) -> Option<u64> {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            self.since = now;
            self.left = self.a_second;
        }
        if self.left == 0 {
            self.left_out += 1;
            return None;
        }
        self.left -= 1;
        Some(mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_go_through_each_second_and_none_is_lost_from_the_count() {
        let mut ration = Ration::new(20);
        let start = Instant::now();
        assert_eq!((0..100).filter_map(|_| ration.take(start)).count(), 20);
        let next = start + Duration::from_secs(2);
        assert_eq!(ration.take(next), Some(80));
        assert_eq!((0..100).filter_map(|_| ration.take(next)).count(), 19);
        assert_eq!(Ration::new(0).take(start), None);
    }
}
