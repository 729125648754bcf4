//! Deadlines, and a clock that is cheap to read.

use std::fs;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// `from + by`, but within a century: `Instant` has an end, and `Duration::MAX` is past it.
pub(crate) fn later(from: Instant, by: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    from + by.min(CENTURY)
}

/// The uptime of the machine, for events that are hours away. On Linux it is `CLOCK_BOOTTIME`, which continues while
/// the machine is suspended and cannot be set. `Instant` (`CLOCK_MONOTONIC`) stops during a suspend, so a day would
/// become a day of being awake. The time of day jumps when it is set. On other systems it is `CLOCK_MONOTONIC`.
pub(crate) fn uptime() -> Duration {
    #[cfg(target_os = "linux")]
    let clock = ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = ClockId::Monotonic;
    let now = clock_gettime(clock);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// What tells one boot of the machine from another, for [`uptime`]. Empty if the system does not say: only Linux does.
pub(crate) fn boot_id() -> String {
    let read = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    read.map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// A reading of the kernel's coarse clock, in nanoseconds since the boot; on Linux it advances about every 4 ms.
/// Reading it takes 5 ns where `Instant` takes 20, and a read of one row would read `Instant` four times, for limits of
/// many milliseconds.
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
