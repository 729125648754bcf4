//! Limits the events of one kind per second. The next event reports how many were suppressed.

use std::mem;
use std::time::{Duration, Instant};

pub(crate) struct RateLimiter {
    per_second: u32,
    /// Events that may still be emitted in the current second.
    left: u32,
    /// The start of the current second.
    since: Instant,
    suppressed: u64,
}

impl RateLimiter {
    pub(crate) fn new(per_second: u32) -> Self {
        Self {
            per_second,
            left: per_second,
            since: Instant::now(),
            suppressed: 0,
        }
    }

    /// Returns how many events were suppressed since the last one that was emitted; `None` if this one is suppressed.
    pub(crate) fn try_acquire(&mut self, now: Instant) -> Option<u64> {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            self.since = now;
            self.left = self.per_second;
        }
        if self.left == 0 {
            self.suppressed += 1;
            return None;
        }
        self.left -= 1;
        Some(mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limiter_passes_its_rate_and_counts_the_rest() {
        let mut limiter = RateLimiter::new(20);
        let start = Instant::now();
        assert_eq!((0..100).filter_map(|_| limiter.try_acquire(start)).count(), 20);
        let next = start + Duration::from_secs(2);
        assert_eq!(limiter.try_acquire(next), Some(80));
        assert_eq!((0..100).filter_map(|_| limiter.try_acquire(next)).count(), 19);
        assert_eq!(RateLimiter::new(0).try_acquire(start), None);
    }
}
