//! Rows into values: [`FromRow`], and errors that name the column and the type.
//!
//! rusqlite's own errors name a column and what is in it, but not what was expected. The names of columns are compared
//! once a compiled statement, not once a row: see [`FromRow::find`] and `connection/known_columns.rs`.

use std::any::type_name;
use std::cell::OnceCell;
use std::error::Error as StdError;
use std::fmt;

use rusqlite::types::{FromSql, FromSqlError, Type};
use rusqlite::{Error, Result, Row, Statement};

use crate::connection::known_columns::{Columns, KnownColumns};

/// The index in an error of rusqlite whose message shall be that of the inner error alone.
const NO_INDEX: usize = usize::MAX;

/// A value that is made of one row: what [`ReadTx::one`](crate::ReadTx::one), [`optional`](crate::ReadTx::optional) and
/// [`all`](crate::ReadTx::all) return.
///
/// Three kinds of types have it:
///
/// - tuples, by position;
/// - every type that is `TryFrom<&Row<'_>>` with an error that converts into [`rusqlite::Error`];
/// - a struct with `#[derive(larder::FromRow)]` (feature `derive`), by the names of its fields.
///
/// ```
/// use larder::rusqlite::{self, Row};
///
/// struct User {
///     id: i64,
///     name: String,
/// }
///
/// impl TryFrom<&Row<'_>> for User {
///     type Error = rusqlite::Error;
///
///     fn try_from(row: &Row<'_>) -> rusqlite::Result<Self> {
///         Ok(Self { id: row.get("id")?, name: row.get("name")? })
///     }
/// }
///
/// let store = larder::Store::open_temp()?;
/// let user: User = store.read(|tx| tx.one("SELECT 7 AS id, 'Ada' AS name", []))?;
/// assert_eq!((user.id, user.name.as_str()), (7, "Ada"));
/// # Ok::<_, larder::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not made of a row",
    note = "one column: use `scalar` or `scalars`, or a tuple of one, `({Self},)`; each element of a tuple is one column",
    note = "a struct: `#[derive(larder::FromRow)]` (feature `derive`), or implement `TryFrom<&Row<'_>>`"
)]
pub trait FromRow: Sized {
    /// Whether [`find`](Self::find) may add columns.
    #[doc(hidden)]
    const HAS_NAMES: bool = true;

    /// Finds the columns of the value in a result, and adds where they are. Called at most once a query, and not again for
    /// each row; nor for a later query of the same text, as long as the connection compiles no statement.
    ///
    /// # Errors
    ///
    /// `InvalidColumnName` if the result lacks a column, or has two of its name.
    fn find(names: &ColumnNames<'_>, found: &mut FoundColumns) -> Result<()>;

    /// Makes the value of a row. It takes the columns that [`find`](Self::find) has added.
    ///
    /// # Errors
    ///
    /// `FromSqlConversionFailure`, whose message names the column, what is in it and what was expected.
    fn read(row: &Row<'_>, columns: &mut NextColumn<'_>) -> Result<Self>;

    /// Makes the value of one row: for the methods of rusqlite and for
    /// [`query_map`](crate::ReadTx::query_map). It finds the columns again for each row.
    ///
    /// # Errors
    ///
    /// As [`find`](Self::find) and [`read`](Self::read).
    fn from_row(row: &Row<'_>) -> Result<Self> {
        Self::read(
            row,
            &mut NextColumn::of(FoundColumns::of::<Self>(row.as_ref())?.as_slice()),
        )
    }
}

impl<T> FromRow for T
where
    T: for<'r> TryFrom<&'r Row<'r>, Error: Into<Error>>,
{
    const HAS_NAMES: bool = false;

    fn find(_: &ColumnNames<'_>, _: &mut FoundColumns) -> Result<()> {
        Ok(())
    }

    fn read(row: &Row<'_>, _: &mut NextColumn<'_>) -> Result<Self> {
        Self::try_from(row).map_err(|error| explain::<T>(row, error.into()))
    }
}

/// The names of a result's columns, for a type that implements [`FromRow`] by hand: a column may be missing, or have
/// another name in an older database.
///
/// ```
/// use larder::rusqlite::{self, Row};
/// use larder::{ColumnNames, FoundColumns, FromRow, NextColumn};
///
/// /// `discount` may be missing.
/// #[derive(Debug, PartialEq)]
/// struct Price {
///     cents: i64,
///     discount: Option<i64>,
/// }
///
/// impl FromRow for Price {
///     fn find(names: &ColumnNames<'_>, found: &mut FoundColumns) -> rusqlite::Result<()> {
///         found.push(Some(names.require("cents", "the field `cents` of `Price`")?));
///         found.push(names.position("discount")?);
///         Ok(())
///     }
///
///     fn read(row: &Row<'_>, columns: &mut NextColumn<'_>) -> rusqlite::Result<Self> {
///         let cents = row.get(columns.index().expect("it was required"))?;
///         let discount = columns.index().map(|at| row.get(at)).transpose()?;
///         Ok(Self { cents, discount })
///     }
/// }
///
/// let store = larder::Store::open_temp()?;
/// let price: Price = store.read(|tx| tx.one("SELECT 250 AS cents", []))?;
/// assert_eq!(price, Price { cents: 250, discount: None });
/// let error = store.read(|tx| tx.all::<Price>("SELECT 250 AS price", [])).unwrap_err();
/// assert!(error.to_string().contains("`cents`, which the field `cents` of `Price` needs"), "{error}");
/// # Ok::<_, larder::Error>(())
/// ```
pub struct ColumnNames<'s> {
    statement: &'s Statement<'s>,
    /// Tuples do not ask for them.
    names: OnceCell<Vec<&'s str>>,
}

impl<'s> ColumnNames<'s> {
    pub(super) fn of(statement: &'s Statement<'s>) -> Self {
        Self {
            statement,
            names: OnceCell::new(),
        }
    }

    fn names(&self) -> &[&'s str] {
        self.names.get_or_init(|| self.statement.column_names())
    }

    /// The index of the column `name`, which ASCII letters of the other case match too, as in SQL.
    ///
    /// # Errors
    ///
    /// `InvalidColumnName` if two columns have the name.
    pub fn position(&self, name: &str) -> Result<Option<usize>> {
        let mut found = (0..)
            .zip(self.names())
            .filter(|(_, column)| column.eq_ignore_ascii_case(name))
            .map(|(at, _)| at);
        let first = found.next();
        match found.next() {
            Some(_) => Err(Error::InvalidColumnName(format!(
                "`{name}` is ambiguous, since two columns of the result have that name: rename one with AS"
            ))),
            None => Ok(first),
        }
    }

    /// As [`position`](Self::position), for a column that must be there. `field` is what needs it.
    ///
    /// # Errors
    ///
    /// `InvalidColumnName` if no column or two columns have the name.
    pub fn require(&self, name: &str, field: &str) -> Result<usize> {
        self.position(name)?.ok_or_else(|| {
            let names: Vec<_> = self.names().iter().map(|name| format!("`{name}`")).collect();
            let has = if names.is_empty() {
                "no column".to_owned()
            } else {
                names.join(", ")
            };
            Error::InvalidColumnName(format!("`{name}`, which {field} needs; the result has {has}"))
        })
    }
}

/// Where the columns of a value are in a result, in the order in which it is read. [`ColumnNames`] has an example.
#[derive(Debug, Default)]
pub struct FoundColumns(Vec<Option<usize>>);

impl FoundColumns {
    /// The columns of `T` in the result of a statement.
    pub(super) fn of<T: FromRow>(statement: &Statement<'_>) -> Result<Self> {
        let mut found = Self::default();
        T::find(&ColumnNames::of(statement), &mut found)?;
        Ok(found)
    }

    /// Those of a query of `sql` that has returned this row.
    pub(super) fn known<T: FromRow>(row: &Row<'_>, sql: &str, known: &KnownColumns) -> Result<Columns> {
        let find: for<'n, 'f> fn(&'n ColumnNames<'_>, &'f mut Self) -> Result<()> = T::find;
        known.of(find as usize, sql, || {
            Self::of::<T>(row.as_ref()).map(|found| found.0.into())
        })
    }

    /// Adds one; `None` if the result does not have it.
    pub fn push(&mut self, index: Option<usize>) {
        self.0.push(index);
    }

    pub(super) fn as_slice(&self) -> &[Option<usize>] {
        &self.0
    }
}

/// The columns that were found, one after another. [`ColumnNames`] has an example.
#[derive(Debug)]
pub struct NextColumn<'f>(std::slice::Iter<'f, Option<usize>>);

impl<'f> NextColumn<'f> {
    pub(super) fn of(columns: &'f [Option<usize>]) -> Self {
        Self(columns.iter())
    }

    /// The index of the next column; `None` if the result does not have it.
    #[inline]
    pub fn index(&mut self) -> Option<usize> {
        self.0.next().copied().flatten()
    }
}

/// A column of a row. As [`Row::get`], with an error that says which type was expected, and of which `field`.
#[inline]
pub(crate) fn column<T: FromSql>(row: &Row<'_>, index: usize, field: Option<&'static str>) -> Result<T> {
    let value = row.get_ref(index)?;
    T::column_result(value).map_err(|error| {
        let wanted = match field {
            Some(field) => Wanted::Field(field, short_name::<T>()),
            None => Wanted::Value(short_name::<T>()),
        };
        conversion(row, index, wanted, error.into())
    })
}

/// The error of a `TryFrom<&Row>`, with what it does not say if it is rusqlite's own.
#[cold]
fn explain<T>(row: &Row<'_>, error: Error) -> Error {
    let (index, problem) = match error {
        Error::InvalidColumnType(index, _, _) => (index, Problem::Type),
        Error::IntegralValueOutOfRange(index, _) => (index, Problem::Range),
        Error::InvalidColumnIndex(_) => {
            let count = row.as_ref().column_count();
            let text = format!(
                "the result has {}, and `{}` takes more",
                columns(count),
                short_name::<T>()
            );
            return Error::FromSqlConversionFailure(NO_INDEX, Type::Null, text.into());
        }
        other => return other,
    };
    conversion(row, index, Wanted::Row(short_name::<T>()), problem)
}

fn columns(count: usize) -> String {
    match count {
        1 => "1 column".to_owned(),
        _ => format!("{count} columns"),
    }
}

#[cold]
pub(crate) fn conversion(row: &Row<'_>, index: usize, wanted: Wanted, problem: Problem) -> Error {
    let found = row.get_ref(index).map_or(Type::Null, |value| value.data_type());
    let name = row.as_ref().column_name(index).unwrap_or("?").to_owned();
    let error = ColumnError {
        name,
        found,
        wanted,
        problem,
    };
    Error::FromSqlConversionFailure(NO_INDEX, found, Box::new(error))
}

/// Why a column does not fit.
#[derive(Debug)]
struct ColumnError {
    name: String,
    found: Type,
    wanted: Wanted,
    problem: Problem,
}

/// What a column is read as.
#[derive(Debug)]
pub(crate) enum Wanted {
    /// A field and its type.
    Field(&'static str, String),
    /// A value of its own, of this type.
    Value(String),
    /// A part of a row, which is read as this type.
    Row(String),
}

#[derive(Debug)]
pub(crate) enum Problem {
    Type,
    Range,
    /// The error of the type.
    Other(Box<dyn StdError + Send + Sync>),
}

impl From<FromSqlError> for Problem {
    fn from(error: FromSqlError) -> Self {
        match error {
            FromSqlError::InvalidType => Self::Type,
            FromSqlError::OutOfRange(_) => Self::Range,
            FromSqlError::Other(error) => Self::Other(error),
            other => Self::Other(Box::new(other)),
        }
    }
}

impl fmt::Display for ColumnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            found,
            wanted,
            problem,
        } = self;
        write!(f, "column `{name}` ")?;
        match problem {
            Problem::Type if *found == Type::Null => write!(f, "is NULL, but {wanted}: {}", wanted.nullable()),
            Problem::Type => write!(f, "is {}, but {wanted}", sql_name(*found)),
            Problem::Range => write!(f, "has a number that does not fit: {wanted}"),
            Problem::Other(error) => write!(f, "cannot be converted: {wanted}: {error}"),
        }
    }
}

impl StdError for ColumnError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.problem {
            Problem::Other(error) => Some(&**error),
            _ => None,
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(field, name) => write!(f, "{field} is of type `{name}`"),
            Self::Value(name) => write!(f, "it is read as `{name}`"),
            Self::Row(name) => write!(f, "the row is read as `{name}`"),
        }
    }
}

impl Wanted {
    /// How NULL can be read.
    fn nullable(&self) -> String {
        match self {
            Self::Field(_, name) | Self::Value(name) => format!("use `Option<{name}>`"),
            Self::Row(_) => "use an Option there".to_owned(),
        }
    }
}

fn sql_name(found: Type) -> &'static str {
    match found {
        Type::Null => "NULL",
        Type::Integer => "an INTEGER",
        Type::Real => "a REAL",
        Type::Text => "TEXT",
        Type::Blob => "a BLOB",
    }
}

/// The name of a type without the paths: `Option<String>`.
pub(crate) fn short_name<T>() -> String {
    let mut short = String::new();
    for part in type_name::<T>().split_inclusive(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')) {
        short.push_str(part.rsplit("::").next().unwrap_or(part));
    }
    short
}

#[cfg(test)]
mod tests {
    use super::short_name;

    #[test]
    fn paths_are_left_out_of_type_names() {
        assert_eq!(short_name::<Option<String>>(), "Option<String>");
        assert_eq!(short_name::<(i64, Vec<std::time::Duration>)>(), "(i64, Vec<Duration>)");
        assert_eq!(short_name::<&[u8]>(), "&[u8]");
    }
}
