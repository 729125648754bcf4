//! A field as a value of its column.

use larder::rusqlite::types::Value;

use super::table::{Affinity, Column};

/// The texts that stand for NULL.
pub(crate) struct Nulls(Vec<Vec<u8>>);

impl Nulls {
    pub(crate) fn new(given: &[String]) -> Self {
        match given {
            [] => Self(vec![Vec::new()]),
            given => Self(given.iter().map(|text| text.clone().into_bytes()).collect()),
        }
    }

    pub(crate) fn has(&self, field: &[u8]) -> bool {
        self.0.iter().any(|null| null == field)
    }
}

/// The value of a field, or what is wrong with it.
pub(crate) fn value(field: Option<&[u8]>, column: &Column, nulls: &Nulls) -> Result<Value, String> {
    let field = field.unwrap_or_default();
    if nulls.has(field) {
        return Ok(Value::Null);
    }
    if column.affinity == Affinity::Blob {
        return Ok(Value::Blob(field.to_owned()));
    }
    let name = &column.name;
    let text = std::str::from_utf8(field)
        .map_err(|_| format!("column {name}: the text is not in UTF-8: convert the file, with iconv"))?;
    let wrong = |kind: &str| format!("column {name}: {text:?} is no {kind}");
    Ok(match column.affinity {
        Affinity::Integer => Value::Integer(integer(text).ok_or_else(|| wrong("INTEGER"))?),
        Affinity::Real => Value::Real(real(text).ok_or_else(|| wrong("REAL"))?),
        Affinity::Numeric => match (integer(text), real(text)) {
            (Some(number), _) => Value::Integer(number),
            (None, Some(number)) => Value::Real(number),
            (None, None) => Value::Text(text.to_owned()),
        },
        Affinity::Text | Affinity::Blob => Value::Text(text.to_owned()),
    })
}

pub(crate) fn integer(text: &str) -> Option<i64> {
    text.trim().parse().ok()
}

/// A number in decimal digits: no `inf`, no `nan`.
pub(crate) fn real(text: &str) -> Option<f64> {
    let text = text.trim();
    let is_decimal = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E'));
    let number = text.parse().ok().filter(|_| is_decimal);
    number.filter(|number: &f64| number.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, affinity: Affinity) -> Result<Value, String> {
        let column = Column {
            name: "c".into(),
            field: 0,
            affinity,
        };
        value(Some(text.as_bytes()), &column, &Nulls::new(&[]))
    }

    #[test]
    fn values_have_the_type_of_their_column() {
        assert_eq!(of("", Affinity::Integer), Ok(Value::Null));
        assert_eq!(of(" 12", Affinity::Integer), Ok(Value::Integer(12)));
        assert_eq!(of("1e3", Affinity::Real), Ok(Value::Real(1000.0)));
        assert_eq!(of("007", Affinity::Text), Ok(Value::Text("007".into())));
        assert_eq!(of("ab", Affinity::Blob), Ok(Value::Blob(b"ab".to_vec())));
        assert_eq!(of("2.5", Affinity::Numeric), Ok(Value::Real(2.5)));
        assert_eq!(
            of("2026-04-01", Affinity::Numeric),
            Ok(Value::Text("2026-04-01".into()))
        );
        for (text, affinity) in [
            ("12.5", Affinity::Integer),
            ("9223372036854775808", Affinity::Integer),
            ("inf", Affinity::Real),
            ("NaN", Affinity::Real),
            ("1e999", Affinity::Real),
        ] {
            let problem = of(text, affinity).unwrap_err();
            assert!(problem.contains("column c") && problem.contains(text), "{problem}");
        }
    }

    #[test]
    fn null_is_what_was_given() {
        let nulls = Nulls::new(&["NA".into(), "-".into()]);
        assert!(nulls.has(b"NA") && nulls.has(b"-") && !nulls.has(b""));
    }
}
