//! Times as people and Litestream write them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, SecondsFormat};

/// Such as `2026-04-01T12:00:00.123Z`.
pub(crate) fn of(time: SystemTime) -> String {
    let time = DateTime::from_timestamp_millis(millis(time)).unwrap_or_default();
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Whole milliseconds since 1970, rounded down.
pub(crate) fn millis(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX),
    }
}

/// The milliseconds since 1970 of which no earlier one is at or after the time.
pub(crate) fn millis_up(time: SystemTime) -> i64 {
    let millis = millis(time);
    if from_millis(millis) == time {
        millis
    } else {
        millis.saturating_add(1)
    }
}

pub(crate) fn from_millis(millis: i64) -> SystemTime {
    let distance = Duration::from_millis(millis.unsigned_abs());
    let time = if millis < 0 {
        UNIX_EPOCH.checked_sub(distance)
    } else {
        UNIX_EPOCH.checked_add(distance)
    };
    time.unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_to_milliseconds() {
        for (nanos, down, up) in [
            (0, 0, 0),
            (1, 0, 1),
            (999_999, 0, 1),
            (1_000_000, 1, 1),
            (1_000_001, 1, 2),
        ] {
            let time = UNIX_EPOCH + Duration::from_nanos(nanos);
            assert_eq!((millis(time), millis_up(time)), (down, up), "{nanos}");
        }
        let before = UNIX_EPOCH - Duration::from_nanos(1_500_000);
        assert_eq!((millis(before), millis_up(before)), (-2, -1));
        assert_eq!(of(from_millis(1_775_044_800_123)), "2026-04-01T12:00:00.123Z");
    }
}
