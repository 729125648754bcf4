//! The types of the columns of a table that is to be created, by the values of its file.

use super::CsvType;
use super::columns::{integer, real};
use crate::connection::sql_text::quoted;

/// Up to it a REAL holds each integer.
const EXACT: u64 = 1 << 53;

/// The narrowest types of the columns of CSV files: `Integer`, `Real` or `Text`. Made by
/// [`BulkCsv::infer`](super::BulkCsv::infer).
///
/// A column is of numbers if all its values are, without those that are NULL. `007` and `+49` are text, which would lose
/// their first characters; so are integers above 2^53 beside fractions, and decimals of more digits than a `REAL` keeps,
/// which would lose their last digits. A column without
/// a value is text.
#[cfg_attr(docsrs, doc(cfg(feature = "csv")))]
#[derive(Clone, Debug, Default)]
pub struct CsvTypes {
    columns: Vec<(String, Seen)>,
}

impl CsvTypes {
    pub(super) fn new(names: Vec<String>) -> Self {
        let columns = names.into_iter().map(|name| (name, Seen::default()));
        Self {
            columns: columns.collect(),
        }
    }

    /// Looks at the fields of a line.
    pub(super) fn look<'f>(&mut self, fields: impl Iterator<Item = &'f [u8]>, nulls: &[Vec<u8>]) {
        for ((_, seen), field) in self.columns.iter_mut().zip(fields) {
            if !nulls.iter().any(|null| null == field) {
                seen.look(field);
            }
        }
    }

    /// Adds what was seen in another file for the same table.
    pub fn merge(&mut self, other: Self) {
        for (name, seen) in other.columns {
            match self.columns.iter_mut().find(|(column, _)| *column == name) {
                Some((_, known)) => known.merge(seen),
                None => self.columns.push((name, seen)),
            }
        }
    }

    /// The columns with their types, in the order of the header.
    pub fn iter(&self) -> impl Iterator<Item = (&str, CsvType)> {
        self.columns.iter().map(|(name, seen)| (name.as_str(), seen.kind()))
    }

    /// The type of a column.
    pub fn get(&self, column: &str) -> Option<CsvType> {
        self.iter().find(|(name, _)| *name == column).map(|(_, kind)| kind)
    }

    /// The statement that creates a `STRICT` table with these columns. It has no key.
    pub fn create_table(&self, table: &str) -> String {
        let columns = self
            .iter()
            .map(|(name, kind)| format!("{} {}", quoted(name), kind.name()));
        let columns: Vec<String> = columns.collect();
        format!("CREATE TABLE {}({}) STRICT", quoted(table), columns.join(", "))
    }
}

impl CsvType {
    /// The type of a column of a `STRICT` table: `INTEGER`, `REAL`, `TEXT`, `BLOB`, or `ANY` for `Numeric`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Integer => "INTEGER",
            Self::Real => "REAL",
            Self::Text => "TEXT",
            Self::Blob => "BLOB",
            Self::Numeric => "ANY",
        }
    }
}

/// What the values of a column were.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    integer: bool,
    /// An integer that a REAL may not hold exactly.
    large: bool,
    real: bool,
    text: bool,
}

impl Seen {
    fn look(&mut self, field: &[u8]) {
        if self.text {
            return;
        }
        let text = std::str::from_utf8(field).ok();
        let text = text.filter(|text| !loses_characters(text));
        if let Some(number) = text.and_then(integer) {
            self.integer = true;
            self.large |= number.unsigned_abs() > EXACT;
            return;
        }
        match text {
            // A whole number that is too large would lose digits.
            Some(text) if text.contains(['.', 'e', 'E']) && keeps_digits(text) => self.real = true,
            _ => self.text = true,
        }
    }

    fn merge(&mut self, other: Self) {
        self.integer |= other.integer;
        self.large |= other.large;
        self.real |= other.real;
        self.text |= other.text;
    }

    fn kind(self) -> CsvType {
        match self {
            Self { text: true, .. } => CsvType::Text,
            Self {
                real: true,
                large: true,
                ..
            } => CsvType::Text,
            Self { real: true, .. } => CsvType::Real,
            Self { integer: true, .. } => CsvType::Integer,
            _ => CsvType::Text,
        }
    }
}

/// Whether a REAL gives the digits of a decimal back: so it has up to 15 of them, or as many as a REAL is written with.
fn keeps_digits(text: &str) -> bool {
    let digits = |text: &str| {
        let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
        let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
        digits.trim_matches('0').to_owned()
    };
    real(text).is_some_and(|number| digits(text) == digits(&format!("{number:e}")))
}

/// Whether a number would not give the text back: `007`, `+7` and ` 7` are names, and would lose their first characters.
fn loses_characters(text: &str) -> bool {
    let digits = text.trim_start_matches('-');
    text.trim() != text
        || text.starts_with('+')
        || digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(values: &[&str]) -> Seen {
        let mut seen = Seen::default();
        values.iter().for_each(|value| seen.look(value.as_bytes()));
        seen
    }

    #[test]
    fn types_are_the_narrowest_that_lose_nothing() {
        use CsvType::{Integer, Real, Text};

        for (values, kind) in [
            (&["1", "-20", "0"][..], Integer),
            (&["1", "0.5", "-1e3"], Real),
            (&["1", "x"], Text),
            (&["01234"], Text),
            (&["+49", "12"], Text),
            (&[], Text),
            (&["9007199254740993"], Integer),
            (&["9007199254740993", "0.5"], Text),
            (&["0.5", "-9007199254740992"], Real),
            (&["99999999999999999999"], Text),
            (&["0.1234567890123456789"], Text),
            (&["9007199254740993.0"], Text),
            (&["1e-400"], Text),
            (&["1e400"], Text),
            (&["0.30000000000000004", "1.50", "0.0", "0.0e7", "-1.25E-3"], Real),
        ] {
            assert_eq!(seen(values).kind(), kind, "{values:?}");
        }
    }

    #[test]
    fn files_of_one_table_are_seen_as_one() {
        let mut both = seen(&["9007199254740993"]);
        both.merge(seen(&["0.5"]));
        assert_eq!(both.kind(), CsvType::Text);
    }
}
