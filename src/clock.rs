//! Deadlines, and a clock that is cheap to read.

use std::time::{Duration, Instant};

/// `from + by`, or a far future where that cannot be told: `Instant` has an end, and `Duration::MAX` is past it.
pub(crate) fn later(from: Instant, by: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    from.checked_add(by).unwrap_or_else(|| from + CENTURY)
}

/// A moment as the kernel's coarse clock tells it, some 4 ms apart. It takes 4 ns to read where `Instant` takes
/// 20, and a read of one row would ask `Instant` four times, for limits of many milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tick(Duration);

impl Tick {
    pub(crate) fn now() -> Self {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        const CLOCK: rustix::time::ClockId = rustix::time::ClockId::MonotonicCoarse;
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Monotonic;
        let now = rustix::time::clock_gettime(CLOCK);
        // The monotonic clock counts up from the boot, so neither part is negative.
        Self(Duration::new(now.tv_sec as u64, now.tv_nsec as u32))
    }

    pub(crate) fn elapsed(self) -> Duration {
        Tick::now().0.saturating_sub(self.0)
    }

    pub(crate) fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by))
    }

    /// Nanoseconds since the boot: for an atomic.
    pub(crate) fn nanos(self) -> u64 {
        self.0.as_nanos() as u64
    }
}
