//! When the next of those who await an answer is to be woken, since its time is over.
//!
//! A task has no thread of its own that could sleep until its deadline, and a runtime's timer is the runtime's. So each
//! queue has one alarm, on a clock that all stores of the process share (`runtime/timer.rs`). It is set for the
//! earliest deadline of those who wait, or for [`FAR`] from now if that is sooner, and when it rings the queue is
//! looked through. Waits are shorter than that, so all that a task pays for it is one look at an atomic.
//!
//! `at` is the alarm that counts. One that rings and is not it was set before an earlier one, and does nothing.
//!
//! Looking through the queue takes its lock. So after a ring there is a pause in which it cannot be set, of
//! [`RESOLUTION`], or longer if looking took long: nobody is woken later than that after its deadline.

use std::time::Duration;

use crate::runtime::sync::Instant;
use crate::runtime::sync::atomic::{AtomicU64, Ordering};

const RESOLUTION: Duration = Duration::from_millis(5);

/// The pause is so many times as long as looking took.
const PAUSES: u32 = 20;

/// It is never set for later than that, so that an entry of the clock's that no longer counts does not stay for long.
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

    /// Sets it, unless it rings before. Gives what it is set for.
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

    /// Whether this is the alarm that counts. Then none is set.
    pub(super) fn rings(&self, at: u64) -> bool {
        self.at
            .compare_exchange(at, NEVER, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    /// The jobs were looked through until then, for so long under the queue's lock.
    pub(super) fn pause(&self, looking: Duration, ended: Instant) {
        // However long: the process may have been stopped meanwhile.
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
        assert!(!alarm.rings(late), "whoever looks at the ring sets it anew");
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
