//! The time in a backup's name, such as `20260401T120000Z`: in UTC, and in an order that sorts by time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::runtime::date;

const DAY: u64 = 86_400;
const LENGTH: usize = "20260401T120000Z".len();

/// How far a stamp may be after now and still be believed: the clocks of two machines differ, and a name that is taken
/// is followed by that of the next second.
const TOLERANCE: Duration = Duration::from_secs(60);

/// The time since 1970, by the system clock.
pub(super) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Whether a time is after now, so that it says nothing about the age of what has it. The clock may have been ahead
/// when the stamp was made, or be behind now, as after the start of a machine that has no clock of its own.
pub(super) fn is_later(time: Duration, now: Duration) -> bool {
    time > now.saturating_add(TOLERANCE)
}

/// To the millisecond, such as `20260401T120000.123Z`.
pub(super) fn precise(since: Duration) -> String {
    let stamp = of(since.as_secs());
    format!("{}.{:03}Z", &stamp[..LENGTH - 1], since.subsec_millis())
}

/// Parses a precise stamp; anything else is `None`.
pub(super) fn parse_precise(stamp: &[u8]) -> Option<Duration> {
    let [whole @ .., b'.', hundreds, tens, ones, b'Z'] = stamp else {
        return None;
    };
    let seconds = seconds(&[whole, b"Z"].concat())?;
    let digits = [hundreds, tens, ones].map(|digit| digit.wrapping_sub(b'0'));
    let millis = digits.iter().fold(0, |number, digit| number * 10 + u64::from(*digit));
    let are_digits = digits.iter().all(|digit| *digit < 10);
    are_digits.then(|| Duration::from_secs(seconds) + Duration::from_millis(millis))
}

pub(super) fn of(seconds: u64) -> String {
    let (year, month, day) = date::of_day(seconds / DAY);
    let second = seconds % DAY;
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{:02}Z", second % 60)
}

/// Parses a stamp into the time since 1970; anything else is `None`.
pub(super) fn parse(stamp: &[u8]) -> Option<Duration> {
    seconds(stamp).map(Duration::from_secs)
}

fn seconds(stamp: &[u8]) -> Option<u64> {
    let stamp = std::str::from_utf8(stamp).ok().filter(|stamp| stamp.len() == LENGTH)?;
    let number = |from: usize, to: usize| stamp.get(from..to)?.parse::<u64>().ok();
    let days = days(number(0, 4)?, number(4, 6)?, number(6, 8)?)?;
    let seconds = days * DAY + number(9, 11)? * 3600 + number(11, 13)? * 60 + number(13, 15)?;
    // A stamp with a non-digit or a wrong month or hour does not survive the round trip.
    (of(seconds) == stamp).then_some(seconds)
}

/// Days since 1970. Years start in March here, so a leap day is the last day of its year.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let year = year.checked_sub(u64::from(month <= 2))?;
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day.checked_sub(1)?;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era).checked_sub(719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamp_is_utc_and_round_trips() {
        for (seconds_since, stamp) in [
            (0, "19700101T000000Z"),
            (951_782_399, "20000228T235959Z"),
            (951_782_400, "20000229T000000Z"),
            (951_868_800, "20000301T000000Z"),
            (1_775_044_800, "20260401T120000Z"),
            (4_107_542_399, "21000228T235959Z"),
            (4_107_542_400, "21000301T000000Z"),
        ] {
            assert_eq!(of(seconds_since), stamp);
            assert_eq!(seconds(stamp.as_bytes()), Some(seconds_since));
        }
        for seconds_since in (0..253_402_300_799).step_by(86_400 * 7 + 12_345) {
            assert_eq!(seconds(of(seconds_since).as_bytes()), Some(seconds_since));
        }
    }

    #[test]
    fn precise_stamps_sort_by_time() {
        let stamps = [999, 1000, 1007, 1_775_044_800_120].map(|ms| precise(Duration::from_millis(ms)));
        let wanted = [
            "19700101T000000.999Z",
            "19700101T000001.000Z",
            "19700101T000001.007Z",
            "20260401T120000.120Z",
        ];
        assert_eq!(stamps, wanted);
        assert!(stamps.is_sorted());
        let parsed = stamps.map(|stamp| parse_precise(stamp.as_bytes()).unwrap().as_millis());
        assert_eq!(parsed, [999, 1000, 1007, 1_775_044_800_120]);
        for other in [
            "20260401T120000Z",
            "20260401T120000.12Z",
            "20260401T120000.1234Z",
            "20260401T120000.+12Z",
            "20261301T120000.123Z",
            ".123Z",
            "Z",
        ] {
            assert_eq!(parse_precise(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn stamp_after_now_is_later_past_the_tolerance() {
        let at = Duration::from_secs;
        for (time, later) in [(0, false), (1000, false), (1060, false), (1061, true), (u64::MAX, true)] {
            assert_eq!(is_later(at(time), at(1000)), later, "{time}");
        }
        assert!(!is_later(Duration::MAX, Duration::MAX));
    }

    #[test]
    fn text_that_is_no_stamp_is_rejected() {
        for other in [
            "",
            "20260401T120000",
            "20260401T120000.123Z",
            "20260401 120000Z",
            "20261301T120000Z",
            "20260230T120000Z",
            "20260400T120000Z",
            "20260401T240000Z",
            "+0260401T120000Z",
            "2026-401T120000Z",
            "20260401T120000Ü",
        ] {
            assert_eq!(seconds(other.as_bytes()), None, "{other}");
        }
    }
}
