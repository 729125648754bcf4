//! Deadlines.

use std::time::{Duration, Instant};

/// `from + by`, or a far future where that cannot be told: `Instant` has an end, and `Duration::MAX` is past it.
pub(crate) fn later(from: Instant, by: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    from.checked_add(by).unwrap_or_else(|| from + CENTURY)
}
