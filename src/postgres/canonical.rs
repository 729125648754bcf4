//! One value of either side of a move, its bytes for the comparison of an import, and the SHA-256 of the rows of a table.
//! (An export compares the bytes of a binary COPY.)
//!
//! The canonical form of a value is a byte for its kind, then: nothing for NULL; one byte for a boolean; 8 bytes, big
//! endian, for an integer, a real number, a time; 4 for a date; the length in 8 bytes and the bytes for all others. A
//! row is the number of its columns in 4 bytes, and its values. NaN has one form, and zero no sign: SQLite keeps neither.

use std::borrow::Cow;

use sha2::{Digest, Sha256};

/// Microseconds since 2000-01-01 00:00:00, as PostgreSQL counts them. The ends of the range are its infinities.
pub(crate) type Microseconds = i64;

/// A value that both sides can hold.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    Integer(i64),
    Real(f64),
    Text(Cow<'a, str>),
    Blob(Cow<'a, [u8]>),
    /// Decimal digits as PostgreSQL writes them, with all digits of the scale; or `NaN`, `Infinity`, `-Infinity`.
    Numeric(String),
    /// Days since 2000-01-01.
    Date(i32),
    /// Microseconds since midnight.
    Time(i64),
    Timestamp(Microseconds),
    /// In UTC.
    Timestamptz(Microseconds),
    Uuid([u8; 16]),
    /// JSON as text.
    Json(Cow<'a, str>),
}

impl Value<'_> {
    /// Appends the canonical form.
    pub(crate) fn append_to(&self, out: &mut Vec<u8>) {
        let sized = |out: &mut Vec<u8>, kind: u8, bytes: &[u8]| {
            out.push(kind);
            out.extend((bytes.len() as u64).to_be_bytes());
            out.extend(bytes);
        };
        let fixed = |out: &mut Vec<u8>, kind: u8, bytes: &[u8]| {
            out.push(kind);
            out.extend(bytes);
        };
        match self {
            Value::Null => out.push(0),
            Value::Bool(value) => fixed(out, 1, &[u8::from(*value)]),
            Value::Integer(value) => fixed(out, 2, &value.to_be_bytes()),
            Value::Real(value) => fixed(out, 3, &without_sign_of_zero(*value).to_bits().to_be_bytes()),
            Value::Text(text) => sized(out, 4, text.as_bytes()),
            Value::Blob(bytes) => sized(out, 5, bytes),
            Value::Numeric(digits) => sized(out, 6, digits.as_bytes()),
            Value::Date(days) => fixed(out, 7, &days.to_be_bytes()),
            Value::Time(time) => fixed(out, 8, &time.to_be_bytes()),
            Value::Timestamp(time) => fixed(out, 9, &time.to_be_bytes()),
            Value::Timestamptz(time) => fixed(out, 10, &time.to_be_bytes()),
            Value::Uuid(bytes) => sized(out, 11, bytes),
            Value::Json(text) => sized(out, 12, text.as_bytes()),
        }
    }
}

/// Appends the canonical form of a blob that `write` appends the bytes of.
pub(crate) fn append_blob<E>(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
    Value::Blob(Cow::Borrowed(&[])).append_to(out);
    let begin = out.len();
    write(out)?;
    let length = (out.len() - begin) as u64;
    out[begin - 8..begin].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

fn without_sign_of_zero(value: f64) -> f64 {
    match value {
        _ if value.is_nan() => f64::NAN,
        0.0 => 0.0,
        _ => value,
    }
}

/// The SHA-256 of the rows of one side of a table, in the order in which they are read.
#[derive(Clone, Default)]
pub(crate) struct TableHash {
    sha: Sha256,
    rows: u64,
}

impl TableHash {
    /// Adds the canonical values of one row.
    pub(crate) fn add(&mut self, columns: usize, row: &[u8]) {
        self.sha.update((columns as u32).to_be_bytes());
        self.sha.update(row);
        self.rows += 1;
    }

    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// In hexadecimal digits.
    pub(crate) fn finish(self) -> String {
        crate::runtime::hex::hex(&self.sha.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(value: &Value<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        value.append_to(&mut out);
        out
    }

    #[test]
    fn values_of_other_kinds_and_bounds_have_other_bytes() {
        let all = [
            Value::Null,
            Value::Integer(1),
            Value::Real(1.0),
            Value::Bool(true),
            Value::Text("1".into()),
            Value::Blob(b"1".as_slice().into()),
            Value::Numeric("1".into()),
            Value::Numeric("1.0".into()),
            Value::Text("".into()),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(all[at + 1..].iter().all(|other| bytes(one) != bytes(other)), "{one:?}");
        }
        let two = |a: &str, b: &str| [bytes(&Value::Text(a.into())), bytes(&Value::Text(b.into()))].concat();
        assert_ne!(two("a", "bc"), two("ab", "c"));
        assert_eq!(bytes(&Value::Real(-0.0)), bytes(&Value::Real(0.0)));
        let mut row = bytes(&Value::Null);
        append_blob(&mut row, |out| {
            out.extend(b"abc");
            Ok::<(), ()>(())
        })
        .unwrap();
        assert_eq!(
            row,
            [bytes(&Value::Null), bytes(&Value::Blob(b"abc".as_slice().into()))].concat()
        );
    }
}
