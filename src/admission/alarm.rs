//! When the next of those who await an answer is to be woken, since its time is over.
//!
//! A task has no thread of its own that could sleep until its deadline, and a runtime's timer is the runtime's. So each queue
//! has one alarm, on a clock that all stores of the process share (`timer.rs`). It is set for the earliest deadline of those
//! who wait, and when it rings the queue is looked through. As deadlines are seconds away and waits are not, that is
//! once in some seconds, and all that a task pays for it is one look at an atomic.
//!
//! `at` is the alarm that counts. One that rings and is not it was set before an earlier one, and does nothing.

use std::time::{Duration, Instant};

use crate::sync::atomic::{AtomicU64, Ordering};

/// Between two rings at least. Nobody is woken later than that after its deadline, unless jobs are so many that looking
/// through them takes long.
const STEP: Duration = Duration::from_millis(5);

/// At most this share of the time is spent looking through the jobs, with the lock held.
const LOOKING_SHARE: u32 = 20;

const NEVER: u64 = u64::MAX;

#[derive(Debug)]
pub(super) struct Alarm {
    opened: Instant,
    /// Nanoseconds since then.
    at: AtomicU64,
}

impl Alarm {
    pub(super) fn new() -> Self {
        Self {
            opened: Instant::now(),
            at: AtomicU64::new(NEVER),
        }
    }

    /// Sets it, unless it rings before. Gives what it is set for.
    pub(super) fn set(&self, deadline: Instant) -> Option<u64> {
        let at = deadline.saturating_duration_since(self.opened).as_nanos() as u64;
        let earlier = at < self.at.load(Ordering::SeqCst) && at < self.at.fetch_min(at, Ordering::SeqCst);
        earlier.then_some(at)
    }

    /// Whether this is the alarm that counts. Then none is set.
    pub(super) fn rings(&self, at: u64) -> bool {
        self.at
            .compare_exchange(at, NEVER, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }
}

/// How long after a ring the next one may be, if it took so long to look through the jobs.
pub(super) fn pause(looking: Duration) -> Duration {
    STEP.max(LOOKING_SHARE * looking)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_jobs_are_looked_through_less_often() {
        assert_eq!(pause(Duration::from_micros(10)), STEP);
        assert_eq!(pause(Duration::from_millis(10)), Duration::from_millis(200));
    }

    #[test]
    fn the_earliest_counts_and_rings_once() {
        let alarm = Alarm::new();
        let in_ms = |ms| alarm.opened + Duration::from_millis(ms);
        let late = alarm.set(in_ms(90)).unwrap();
        assert_eq!(alarm.set(in_ms(90)), None, "it is set already");
        assert_eq!(alarm.set(in_ms(95)), None);
        let early = alarm.set(in_ms(30)).unwrap();
        assert!(alarm.rings(early));
        assert!(!alarm.rings(early));
        assert!(!alarm.rings(late), "whoever looks at the ring sets it anew");
        assert_eq!(alarm.set(in_ms(90)), Some(late));
        assert!(alarm.rings(late));
    }
}
