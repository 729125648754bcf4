//! One timer for the deadlines of all async callers of a queue.
//!
//! An async task has no thread that could sleep until its deadline, and a runtime's timers belong to that runtime. So
//! each queue has one [`Alarm`], on timer threads that all stores of the process share (`runtime/timer.rs`). The alarm
//! is set for the earliest deadline of the waiting tasks, or for [`FAR`] from now if that is sooner. When it rings, the
//! queue scans its jobs. Most waits are shorter than that, so a task normally pays one read of an atomic.
//!
//! `at` is the time of the alarm that counts. A timer that fires for another time was set before an earlier deadline
//! arrived, and does nothing.
//!
//! A scan takes the queue's lock. So a ring is followed by a pause of [`RESOLUTION`], or longer if the scan was slow,
//! in which the alarm cannot be set. A task is therefore woken at most one pause after its deadline.

use std::time::Duration;

use crate::runtime::sync::Instant;
use crate::runtime::sync::atomic::{AtomicU64, Ordering};

const RESOLUTION: Duration = Duration::from_millis(5);

/// The pause is this many times as long as the scan.
const PAUSES: u32 = 20;

/// Upper bound of a setting, so an entry of the timer that no longer counts does not stay for long.
const FAR: Duration = Duration::from_secs(1);

const NEVER: u64 = u64::MAX;

/// Times are in nanoseconds since the store was opened.
#[derive(Debug)]
pub(super) struct Alarm {
    opened: Instant,
    at: AtomicU64,
    /// The end of the pause.
    not_before: AtomicU64,
}

impl Alarm {
    pub(super) fn new() -> Self {
        Self {
            opened: Instant::now(),
            at: AtomicU64::new(NEVER),
            not_before: AtomicU64::new(0),
        }
    }

    /// Sets the alarm, unless it already rings earlier. Returns the time for which it was set.
    pub(super) fn set(&self, deadline: Instant) -> Option<u64> {
        let not_before = self.not_before.load(Ordering::SeqCst);
        let at = self.nanos(deadline).max(not_before);
        if at >= self.at.load(Ordering::SeqCst) {
            return None;
        }
        let far = self.nanos(Instant::now() + FAR).max(not_before);
        let at = at.min(far);
        (at < self.at.fetch_min(at, Ordering::SeqCst)).then_some(at)
    }

    /// Whether `at` is the alarm that counts. If so, it clears the alarm.
    pub(super) fn rings(&self, at: u64) -> bool {
        self.at
            .compare_exchange(at, NEVER, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    /// Starts the pause after a scan that ended at `ended` and held the queue's lock for `looking`.
    pub(super) fn pause(&self, looking: Duration, ended: Instant) {
        // Bounded, because the process may have been stopped during the scan.
        let pause = looking.saturating_mul(PAUSES).clamp(RESOLUTION, FAR);
        self.not_before.store(self.nanos(ended + pause), Ordering::SeqCst);
    }

    pub(super) fn time(&self, at: u64) -> Instant {
        self.opened + Duration::from_nanos(at)
    }

    fn nanos(&self, time: Instant) -> u64 {
        let nanos = time.saturating_duration_since(self.opened).as_nanos();
        u64::try_from(nanos).map_or(NEVER - 1, |nanos| nanos.min(NEVER - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn earliest_deadline_is_set_and_rings_once() {
        let alarm = Alarm::new();
        let late = alarm.set(alarm.opened + ms(90)).unwrap();
        assert_eq!(alarm.set(alarm.opened + ms(90)), None, "it is set already");
        assert_eq!(alarm.set(alarm.opened + ms(95)), None);
        let early = alarm.set(alarm.opened + ms(30)).unwrap();
        assert!(alarm.rings(early));
        assert!(!alarm.rings(early));
        assert!(!alarm.rings(late), "the thread that looks at the ring sets it again");
        assert_eq!(alarm.set(alarm.opened + ms(90)), Some(late));
        assert!(alarm.rings(late));
    }

    #[test]
    fn distant_deadline_is_capped() {
        let alarm = Alarm::new();
        let at = alarm.set(alarm.opened + Duration::from_secs(1 << 40)).unwrap();
        assert!(alarm.time(at) <= Instant::now() + FAR);
        assert!(alarm.set(alarm.opened).is_some(), "an earlier one counts");
    }

    #[test]
    fn pause_after_ring_grows_with_search_time() {
        let alarm = Alarm::new();
        let ended = alarm.opened + ms(10);
        alarm.pause(ms(10), ended);
        let at = alarm.set(alarm.opened).unwrap();
        assert_eq!(alarm.time(at), ended + ms(200));
        alarm.pause(ms(0), ended);
        let at = alarm.set(alarm.opened).unwrap();
        assert_eq!(alarm.time(at), ended + RESOLUTION);
        let stopped = ended + Duration::from_secs(3600);
        assert!(alarm.rings(at));
        alarm.pause(stopped - ended, stopped);
        let at = alarm.set(alarm.opened).unwrap();
        assert_eq!(alarm.time(at), stopped + FAR);
    }
}
