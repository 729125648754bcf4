//! What the code of `#[derive(FromRow)]` calls. It is public for that code alone.

use std::error::Error as StdError;
use std::fmt;

use rusqlite::types::{FromSql, ValueRef};
use rusqlite::{Result, Row};
use serde::de::DeserializeOwned;
use serde_json::Number;
use serde_json::error::Category;

use super::from_row::{self, Problem, Wanted, conversion, short_name};

/// A type of which a column can have a value.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not the value of a column",
    note = "a key, or another type around one value: `#[derive(larder::Id)]`, or implement `larder::rusqlite::types::FromSql`",
    note = "a list, a map, a struct: `#[larder(json)]` reads it from JSON, `#[larder(flatten)]` from columns of their own",
    note = "a type of chrono, jiff, serde_json, time, url or uuid: enable the feature of larder with that name"
)]
pub trait Column: FromSql {}

impl<T: FromSql> Column for T {}

/// A type of which a column can have the JSON.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be read from JSON",
    note = "`#[larder(json)]` needs `serde::Deserialize`: derive it"
)]
pub trait Json: DeserializeOwned {}

impl<T: DeserializeOwned> Json for T {}

/// The column of a field.
///
/// # Errors
///
/// The column has a value that `T` does not take.
#[inline]
pub fn column<T: Column>(row: &Row<'_>, index: Option<usize>, field: &'static str) -> Result<T> {
    from_row::column(row, required(index), Some(field))
}

/// The column of a field, or its default if the result does not have it.
///
/// # Errors
///
/// As [`column`].
#[inline]
pub fn column_or_default<T: Column + Default>(row: &Row<'_>, index: Option<usize>, field: &'static str) -> Result<T> {
    index.map_or_else(|| Ok(T::default()), |_| column(row, index, field))
}

fn required(index: Option<usize>) -> usize {
    index.expect("a value is read from the columns that it has found")
}

/// The column of a field, from JSON. NULL is JSON's `null`.
///
/// # Errors
///
/// The column has no JSON, or that of another type.
pub fn json<T: Json>(row: &Row<'_>, index: Option<usize>, field: &'static str) -> Result<T> {
    let index = required(index);
    let value = row.get_ref(index)?;
    let parsed = match value {
        ValueRef::Null => serde_json::from_value(serde_json::Value::Null).map_err(|_| Problem::Type),
        ValueRef::Text(text) => serde_json::from_slice(text).map_err(|error| NoJson::problem(&error, false)),
        ValueRef::Blob(bytes) => serde_json::from_slice(bytes).map_err(|error| NoJson::problem(&error, true)),
        ValueRef::Integer(number) => of_number(number.into()),
        // JSON has no infinity.
        ValueRef::Real(number) => Number::from_f64(number).ok_or(Problem::Range).and_then(of_number),
    };
    parsed.map_err(|problem| conversion(row, index, Wanted::Field(field, short_name::<T>()), problem))
}

/// A column's number is JSON as it is.
fn of_number<T: Json>(number: Number) -> std::result::Result<T, Problem> {
    serde_json::from_value(number.into()).map_err(|_| Problem::Type)
}

/// The JSON of a field whose column may be missing.
///
/// # Errors
///
/// As [`json`].
pub fn json_or_default<T: Json + Default>(row: &Row<'_>, index: Option<usize>, field: &'static str) -> Result<T> {
    index.map_or_else(|| Ok(T::default()), |_| json(row, index, field))
}

/// Why a column is not the JSON of its field. It does not keep serde_json's error, whose message can have the value.
#[derive(Debug)]
struct NoJson {
    category: Category,
    line: usize,
    column: usize,
    is_blob: bool,
}

impl NoJson {
    fn problem(error: &serde_json::Error, is_blob: bool) -> Problem {
        Problem::Other(Box::new(Self {
            category: error.classify(),
            line: error.line(),
            column: error.column(),
            is_blob,
        }))
    }
}

impl fmt::Display for NoJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, column, .. } = self;
        match self.category {
            Category::Data => write!(f, "its JSON has another shape at line {line}, column {column}"),
            _ if self.is_blob => f.write_str("it is no text of JSON; select json(..) of it if it is JSONB"),
            _ => write!(f, "it is no JSON at line {line}, column {column}"),
        }
    }
}

impl StdError for NoJson {}

/// Number of all names.
pub const fn count(parts: &[&[&str]]) -> usize {
    let (mut count, mut part) = (0, 0);
    while part < parts.len() {
        count += parts[part].len();
        part += 1;
    }
    count
}

/// All names, of which no two may be the same.
pub const fn concat<const N: usize>(parts: &[&[&'static str]]) -> [&'static str; N] {
    let mut all = [""; N];
    let (mut filled, mut part) = (0, 0);
    while part < parts.len() {
        let mut name = 0;
        while name < parts[part].len() {
            let new = parts[part][name];
            let mut before = 0;
            while before < filled {
                let is_new = !new.eq_ignore_ascii_case(all[before]);
                assert!(is_new, "two fields read a column of one name: rename one of them");
                before += 1;
            }
            all[filled] = new;
            filled += 1;
            name += 1;
        }
        part += 1;
    }
    all
}
