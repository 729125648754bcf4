//! Deadlines, and a clock that is cheap to read.

use std::time::{Duration, Instant};

/// `from + by`, but within a century: `Instant` has an end, and `Duration::MAX` is past it.
pub(crate) fn later(from: Instant, by: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    from + by.min(CENTURY)
}

/// A moment as the kernel's coarse clock tells it, on Linux some 4 ms apart, in nanoseconds since the boot. It takes
/// 5 ns to read where `Instant` takes 20, and a read of one row would ask `Instant` four times, for limits of many
/// milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tick(u64);

impl Tick {
    pub(crate) fn now() -> Self {
        // Not `Instant::now`, which also writes to a variable that all threads share.
        let ticks = coarsetime::Instant::now_without_cache_update().as_ticks();
        Self(coarsetime::Duration::from_ticks(ticks).as_nanos())
    }

    pub(crate) fn elapsed(self) -> Duration {
        Duration::from_nanos(Tick::now().0.saturating_sub(self.0))
    }

    pub(crate) fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// For an atomic.
    pub(crate) fn nanos(self) -> u64 {
        self.0
    }
}
