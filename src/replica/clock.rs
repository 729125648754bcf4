//! The clock of the storage. A commit made with the machine's clock at 2099 would spoil restores by time until then, since
//! times never go back. So the storage says what time it is when a replica is opened, and from time to time; from there
//! on the uptime of the machine tells it, and the local clock is believed unless it is further ahead than [`MOST_AHEAD`].
//!
//! One atomic: a reader gets this or the last answer, whole.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::runtime::clock::uptime;

/// The local clock may be so far ahead of the storage's.
const MOST_AHEAD: Duration = Duration::from_secs(5 * 60);

const UNKNOWN: i64 = i64::MIN;

/// What time the storage says it is.
#[derive(Debug)]
pub(super) struct StorageClock {
    /// The storage's time at the boot of this machine, in milliseconds since 1970.
    at_boot: AtomicI64,
}

impl StorageClock {
    pub(super) fn new() -> Self {
        Self {
            at_boot: AtomicI64::new(UNKNOWN),
        }
    }

    /// The storage says that it is this time.
    pub(super) fn set(&self, time: SystemTime) {
        self.at_boot.store(millis(time) - up(), Relaxed);
    }

    /// The time of a file after one of that time, in milliseconds since 1970. It is later, even if the clock was set back.
    pub(super) fn after(&self, last: i64) -> i64 {
        self.now().max(last.saturating_add(1))
    }

    /// How far the local clock is ahead of the storage's, if that is too far.
    pub(super) fn ahead(&self) -> Option<Duration> {
        let ahead = local().saturating_sub(self.storages()?);
        let ahead = Duration::from_millis(ahead.max(0).cast_unsigned());
        (ahead > MOST_AHEAD).then_some(ahead)
    }

    fn now(&self) -> i64 {
        match (self.ahead(), self.storages()) {
            (Some(_), Some(time)) => time,
            _ => local(),
        }
    }

    fn storages(&self) -> Option<i64> {
        let at_boot = self.at_boot.load(Relaxed);
        (at_boot != UNKNOWN).then(|| at_boot + up())
    }
}

fn local() -> i64 {
    millis(SystemTime::now())
}

fn up() -> i64 {
    i64::try_from(uptime().as_millis()).unwrap_or(0)
}

fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn is_now(found: i64, time: SystemTime) -> bool {
        (found - millis(time)).unsigned_abs() < 30_000
    }

    #[test]
    fn local_time_counts_unless_it_is_far_ahead() {
        let (clock, now) = (StorageClock::new(), SystemTime::now());
        assert!(clock.ahead().is_none() && is_now(clock.after(0), now));
        for (storage, expected) in [
            (now + 100 * MINUTE, now),
            (now - 4 * MINUTE, now),
            (now - 6 * MINUTE, now - 6 * MINUTE),
            (UNIX_EPOCH, UNIX_EPOCH),
        ] {
            clock.set(storage);
            assert!(is_now(clock.after(0), expected), "{storage:?}");
            assert_eq!(clock.ahead().is_some(), expected != now);
        }
    }

    #[test]
    fn times_never_go_back() {
        let clock = StorageClock::new();
        clock.set(SystemTime::now() - 100 * MINUTE);
        let last = millis(SystemTime::now());
        assert_eq!(clock.after(last), last + 1);
    }
}
