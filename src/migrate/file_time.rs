//! Versions that are times: `2024-03-05-101500_users` is 20240305101500.

/// The version at the start of a file name, as digits, and its length in the name.
pub(super) fn version(name: &str) -> (String, usize) {
    time(name).unwrap_or_else(|| {
        let digits: String = name.chars().take_while(char::is_ascii_digit).collect();
        let length = digits.len();
        (digits, length)
    })
}

/// The start of a name that begins with a year and a month, or with a date that is none: `2024-03_users`, `2024-3-5_users`.
/// Its version would be the year alone.
pub(super) fn part_of_date(name: &str) -> Option<&str> {
    let mut rest = Rest { name, at: 0 };
    if rest.digits() != 4 || !(1900..=2999).contains(&rest.take(4).parse().unwrap_or(0)) {
        return None;
    }
    for _ in 0..2 {
        let before = rest.at;
        let count = if rest.skip(SEPARATORS) { rest.digits() } else { 0 };
        if !(1..=2).contains(&count) {
            rest.at = before;
            break;
        }
        rest.take(count);
    }
    let ends = !rest.left().starts_with(|c: char| c.is_ascii_alphanumeric());
    (rest.at > 4 && ends).then(|| &name[..rest.at])
}

/// A date, perhaps with a time, that separators divide. `None` for digits alone, which are a version as they are.
fn time(name: &str) -> Option<(String, usize)> {
    let mut rest = Rest { name, at: 0 };
    let mut digits = rest.date()?;
    let is_divided = rest.at > digits.len();
    digits += &rest.time().unwrap_or_default();
    if is_divided {
        // Diesel's `2025-03-05-101500-0000_users`.
        digits += &rest.suffix().unwrap_or_default();
    }
    let divided = rest.at > digits.len();
    // Letters or digits right after it are no part of a time: `20240305t_users`.
    let ends = !rest.left().starts_with(|c: char| c.is_ascii_alphanumeric());
    (divided && ends).then_some((digits, rest.at))
}

struct Rest<'n> {
    name: &'n str,
    at: usize,
}

/// The characters inside a time, and between the version and the name.
pub(super) const SEPARATORS: &[char] = &['-', '_', '.', ' '];

impl<'n> Rest<'n> {
    fn left(&self) -> &'n str {
        &self.name[self.at..]
    }

    /// The number of digits that come next.
    fn digits(&self) -> usize {
        let left = self.left();
        left.len() - left.trim_start_matches(|c: char| c.is_ascii_digit()).len()
    }

    fn take(&mut self, count: usize) -> &'n str {
        let taken = &self.left()[..count];
        self.at += count;
        taken
    }

    fn skip(&mut self, one_of: &[char]) -> bool {
        let found = self.left().starts_with(one_of);
        self.at += usize::from(found);
        found
    }

    /// `20240305`, or the same with separators.
    fn date(&mut self) -> Option<String> {
        let date = match self.digits() {
            8 => self.take(8).to_owned(),
            4 => {
                let mut date = self.take(4).to_owned();
                for _ in 0..2 {
                    if !self.skip(SEPARATORS) || self.digits() != 2 {
                        return None;
                    }
                    date += self.take(2);
                }
                date
            }
            _ => return None,
        };
        let part = |from: usize, until: usize| date[from..until].parse::<u32>().unwrap_or_default();
        let plausible =
            (1900..=2999).contains(&part(0, 4)) && (1..=12).contains(&part(4, 6)) && (1..=31).contains(&part(6, 8));
        plausible.then_some(date)
    }

    /// `101500`, `1015`, `10-15-00` or `10-15`, after a separator or a T, and perhaps before a Z.
    fn time(&mut self) -> Option<String> {
        let start = self.at;
        let time = self.clock();
        if time.is_none() {
            self.at = start;
        }
        time
    }

    fn clock(&mut self) -> Option<String> {
        if !self.skip(SEPARATORS) && !self.skip(&['T', 't']) {
            return None;
        }
        let time = match self.digits() {
            count @ (4 | 6) => self.take(count).to_owned(),
            2 => {
                let mut time = self.take(2).to_owned();
                while time.len() < 6 {
                    let before = self.at;
                    if !(self.skip(SEPARATORS) || self.skip(&[':'])) || self.digits() != 2 {
                        self.at = before;
                        break;
                    }
                    time += self.take(2);
                }
                time
            }
            _ => return None,
        };
        let part = |from: usize| {
            time.get(from..from + 2)
                .map_or(0, |part| part.parse::<u32>().unwrap_or(99))
        };
        if time.len() < 4 || part(0) > 23 || part(2) > 59 || part(4) > 60 {
            return None;
        }
        if self.skip(&['Z', 'z']) && self.left().starts_with(|c: char| c.is_ascii_alphanumeric()) {
            return None;
        }
        (!self.left().starts_with(|c: char| c.is_ascii_alphanumeric())).then_some(time)
    }

    /// A number after a hyphen, before the underscore that begins the name, as Diesel reads it.
    fn suffix(&mut self) -> Option<String> {
        let start = self.at;
        if self.skip(&['-']) {
            let count = self.digits();
            let number = self.take(count);
            if (1..=4).contains(&count) && (self.left().is_empty() || self.left().starts_with('_')) {
                return Some(number.to_owned());
            }
        }
        self.at = start;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_with_separators_are_versions() {
        for (name, digits, rest) in [
            ("2024-03-05-101500_users", "20240305101500", "_users"),
            ("2024_03_05_101500_users", "20240305101500", "_users"),
            ("2024-03-05_10-15-00_users", "20240305101500", "_users"),
            ("2024-03-05 10.15.00 users", "20240305101500", " users"),
            ("2024.03.05.101500.users", "20240305101500", ".users"),
            ("2024-03-05T10:15:00Z_users", "20240305101500", "_users"),
            ("2024-03-05T101500_users", "20240305101500", "_users"),
            ("20240305T101500_users", "20240305101500", "_users"),
            ("20240305T101500Z-users", "20240305101500", "-users"),
            ("20240305-101500_users", "20240305101500", "_users"),
            ("20240305_101500_users", "20240305101500", "_users"),
            ("20240305_1015_users", "202403051015", "_users"),
            ("2024-03-05-10-15_users", "202403051015", "_users"),
            ("2024-03-05_users", "20240305", "_users"),
            ("2024_03_05_users", "20240305", "_users"),
            ("2024-03-05", "20240305", ""),
            ("2024-03-05-101500", "20240305101500", ""),
            ("2025-03-05-101500-0000_users", "202503051015000000", "_users"),
            ("2024-03-05-01_users", "2024030501", "_users"),
            ("2024-03-05-2fa_login", "20240305", "-2fa_login"),
            ("2024_03_05_2_factor", "20240305", "_2_factor"),
            ("2024-03-05-12-monkeys", "20240305", "-12-monkeys"),
        ] {
            assert_eq!(version(name), (digits.to_owned(), name.len() - rest.len()), "{name}");
        }
    }

    #[test]
    fn parts_of_dates_are_found() {
        for (name, part) in [
            ("2024-03_users", "2024-03"),
            ("2024_03_users", "2024_03"),
            ("2024-03", "2024-03"),
            ("2024-3-5_users", "2024-3-5"),
            ("2024-13-05_users", "2024-13-05"),
            ("2024-03-32_users", "2024-03-32"),
        ] {
            assert_eq!(part_of_date(name), Some(part), "{name}");
        }
        for name in [
            "2024_users",
            "2024",
            "2024-2fa",
            "2024-03th",
            "20240305_users",
            "0001-02_users",
            "1234-03-05_users",
            "001_03_users",
            "2024-033_users",
            "2024--03",
        ] {
            assert_eq!(part_of_date(name), None, "{name}");
        }
    }

    #[test]
    fn other_versions_are_the_first_digits() {
        for (name, digits) in [
            ("001_users", "001"),
            ("20240305101500_users", "20240305101500"),
            ("20240305101500", "20240305101500"),
            ("20240305_users", "20240305"),
            ("20240305_2fa", "20240305"),
            ("20240305_999999_widgets", "20240305"),
            ("20240305_1_users", "20240305"),
            ("20240305-2_factors", "20240305"),
            ("20240305tables", "20240305"),
            ("2024_users", "2024"),
            ("2024-13-05_users", "2024"),
            ("2024-03-32_users", "2024"),
            ("2024-03_users", "2024"),
            ("0001-02-03_users", "0001"),
            ("2024-3-5_users", "2024"),
            ("1234-03-05_users", "1234"),
            ("2024-03-05th", "2024"),
            ("1780000000_unix", "1780000000"),
            ("1-2-3", "1"),
            ("users", ""),
        ] {
            assert_eq!(version(name), (digits.to_owned(), digits.len()), "{name}");
        }
    }
}
