//! Which constraint a statement violated, from SQLite's code and message.
//!
//! SQLite reports a code and one line of text, without quotes: `UNIQUE constraint failed: t.a, t.b`. A name may contain
//! dots, commas and spaces, so the line is split with the schema at hand ([`Schema`]): a part counts as a table or a
//! column if there is one.

use std::fmt;

use rusqlite::ffi;

use super::sqlite::{extended_code, message, primary_code};

const UNIQUE: &str = "UNIQUE constraint failed: ";
const NOT_NULL: &str = "NOT NULL constraint failed: ";
const CHECK: &str = "CHECK constraint failed: ";
const FOREIGN_KEY: &str = "FOREIGN KEY constraint failed";

/// Readings of one message that are compared.
const MAX_READINGS: usize = 16;

/// The constraint that a statement violated. See [`Error::constraint`](super::Error::constraint).
///
/// Names are written as in the schema, without quotes.
///
/// ```
/// use larder::{Constraint, Error};
///
/// /// What the user is told.
/// fn answer(error: &Error) -> String {
///     match error.constraint() {
///         Some(Constraint::Unique { columns, .. }) => format!("{} is taken", columns.join(", ")),
///         Some(Constraint::NotNull { column, .. }) => format!("{column} is missing"),
///         Some(Constraint::Check { name }) => format!("not allowed: {name}"),
///         _ => "internal error".into(),
///     }
/// }
///
/// # let store = larder::Store::open_temp()?;
/// # store.write(|tx| tx.execute_batch("CREATE TABLE users(email TEXT NOT NULL UNIQUE) STRICT; INSERT INTO users VALUES ('a@b.c')"))?;
/// let error = store.write(|tx| tx.execute("INSERT INTO users VALUES ('a@b.c')", [])).unwrap_err();
/// assert_eq!(answer(&error), "email is taken");
/// # Ok::<_, Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Constraint {
    /// `UNIQUE`, or a unique index on columns.
    Unique {
        /// The table.
        table: String,
        /// The columns of the constraint, in its order.
        columns: Vec<String>,
    },
    /// A unique index on expressions.
    UniqueIndex {
        /// The index.
        index: String,
        /// Its table, if the schema is known.
        table: Option<String>,
    },
    /// `PRIMARY KEY`.
    PrimaryKey {
        /// The table.
        table: String,
        /// The columns of the key, in its order.
        columns: Vec<String>,
    },
    /// The rowid of a table that has no `INTEGER PRIMARY KEY`.
    RowId {
        /// The table.
        table: String,
    },
    /// `NOT NULL`.
    NotNull {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// `CHECK`.
    Check {
        /// Its name, or its expression if it has none.
        name: String,
    },
    /// A foreign key.
    ForeignKey {
        /// The keys that the statement can have violated. If there is one, it is the one: SQLite does not say which, so
        /// larder asks the schema for the keys that the statement touches as child or as parent. Empty if the statement
        /// is not known.
        keys: Vec<ForeignKey>,
    },
    /// `RAISE(ABORT, ..)`, `RAISE(FAIL, ..)` or `RAISE(ROLLBACK, ..)` in a trigger.
    Trigger {
        /// The text of the trigger.
        message: String,
    },
    /// The type of a column of a `STRICT` table.
    DataType {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// Another one, such as that of a virtual table, or names that cannot be told apart.
    Other {
        /// SQLite's message.
        message: String,
    },
}

/// A foreign key of the schema.
///
/// ```
/// use larder::Constraint;
///
/// # let store = larder::Store::open_temp()?;
/// # store.write(|tx| tx.execute_batch("CREATE TABLE users(id INTEGER PRIMARY KEY) STRICT;
/// #     CREATE TABLE orders(user INTEGER REFERENCES users) STRICT"))?;
/// let error = store.write(|tx| tx.execute("INSERT INTO orders VALUES (7)", [])).unwrap_err();
/// let Some(Constraint::ForeignKey { keys }) = error.constraint() else { panic!("{error}") };
/// assert_eq!((keys[0].table.as_str(), keys[0].parent.as_str()), ("orders", "users"));
/// assert_eq!(keys[0].to_string(), "orders(user) refers to users");
/// # Ok::<_, larder::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ForeignKey {
    /// The table that has the key: the child.
    pub table: String,
    /// Its columns that refer to the parent.
    pub columns: Vec<String>,
    /// The table that they refer to.
    pub parent: String,
}

impl ForeignKey {
    pub(crate) fn new(table: String, columns: Vec<String>, parent: String) -> Self {
        Self { table, columns, parent }
    }
}

impl fmt::Display for ForeignKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}({}) refers to {}",
            self.table,
            self.columns.join(", "),
            self.parent
        )
    }
}

/// What a message is read with.
pub(crate) trait Schema {
    fn has_table(&self, table: &str) -> bool;
    fn has_column(&self, table: &str, column: &str) -> bool;
    fn table_of_index(&self, index: &str) -> Option<String>;
    /// Whether the statement changes the table, itself or by a trigger.
    fn is_changed(&self, table: &str) -> bool;
    /// Whether these are the columns of a unique constraint of the table.
    fn is_unique(&self, table: &str, columns: &[&str]) -> bool;
    /// The keys that the statement may violate.
    fn foreign_keys(&self) -> Vec<ForeignKey>;
}

/// No schema: only plain words count as names.
struct PlainWords;

impl Schema for PlainWords {
    fn has_table(&self, table: &str) -> bool {
        let is_of_word = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
        !table.is_empty() && table.chars().all(is_of_word)
    }

    fn has_column(&self, _: &str, column: &str) -> bool {
        self.has_table(column)
    }

    fn table_of_index(&self, _: &str) -> Option<String> {
        None
    }

    fn is_changed(&self, _: &str) -> bool {
        true
    }

    fn is_unique(&self, _: &str, _: &[&str]) -> bool {
        true
    }

    fn foreign_keys(&self) -> Vec<ForeignKey> {
        Vec::new()
    }
}

/// The constraint of an error, read without a schema.
pub(super) fn plainly(error: &rusqlite::Error) -> Option<Constraint> {
    violated(error, &PlainWords)
}

/// The constraint of an error.
pub(crate) fn violated(error: &rusqlite::Error, schema: &dyn Schema) -> Option<Constraint> {
    let kind = Kind::of(error)?;
    let message = message(error);
    let read = match kind {
        Kind::Unique => unique(message, schema),
        Kind::PrimaryKey => {
            of_table(message, UNIQUE, schema).map(|(table, columns)| Constraint::PrimaryKey { table, columns })
        }
        Kind::RowId => rowid(message, schema),
        Kind::NotNull => {
            one(message.strip_prefix(NOT_NULL), schema).map(|(table, column)| Constraint::NotNull { table, column })
        }
        Kind::DataType => one(message.split_once(" column ").map(|(_, named)| named), schema)
            .map(|(table, column)| Constraint::DataType { table, column }),
        Kind::Check => message
            .strip_prefix(CHECK)
            .map(|name| Constraint::Check { name: name.into() }),
        Kind::ForeignKey => {
            let keys = schema.foreign_keys();
            Some(Constraint::ForeignKey { keys })
        }
        Kind::Trigger => Some(Constraint::Trigger {
            message: message.into(),
        }),
        Kind::Other => None,
    };
    Some(read.unwrap_or_else(|| Constraint::Other {
        message: message.into(),
    }))
}

/// The kind of a violated constraint, by SQLite's code.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Unique,
    PrimaryKey,
    RowId,
    NotNull,
    Check,
    ForeignKey,
    Trigger,
    DataType,
    Other,
}

impl Kind {
    pub(super) fn of(error: &rusqlite::Error) -> Option<Self> {
        if primary_code(error) != Some(ffi::SQLITE_CONSTRAINT) {
            return None;
        }
        Some(match extended_code(error)? {
            ffi::SQLITE_CONSTRAINT_UNIQUE => Self::Unique,
            ffi::SQLITE_CONSTRAINT_PRIMARYKEY => Self::PrimaryKey,
            ffi::SQLITE_CONSTRAINT_ROWID => Self::RowId,
            ffi::SQLITE_CONSTRAINT_NOTNULL => Self::NotNull,
            ffi::SQLITE_CONSTRAINT_CHECK => Self::Check,
            ffi::SQLITE_CONSTRAINT_FOREIGNKEY => Self::ForeignKey,
            // SQLite implements `ON DELETE RESTRICT` with a trigger of its own.
            ffi::SQLITE_CONSTRAINT_TRIGGER if message(error) == FOREIGN_KEY => Self::ForeignKey,
            ffi::SQLITE_CONSTRAINT_TRIGGER => Self::Trigger,
            ffi::SQLITE_CONSTRAINT_DATATYPE => Self::DataType,
            // Virtual tables give the code alone. R-trees use SQLite's words.
            ffi::SQLITE_CONSTRAINT if message(error).starts_with(UNIQUE) => Self::Unique,
            _ => Self::Other,
        })
    }

    pub(super) fn is_unique(self) -> bool {
        matches!(self, Self::Unique | Self::PrimaryKey | Self::RowId)
    }
}

fn unique(message: &str, schema: &dyn Schema) -> Option<Constraint> {
    let index = message.strip_prefix(UNIQUE)?.strip_prefix("index '");
    let index = index.and_then(|quoted| quoted.strip_suffix('\''));
    of_table(message, UNIQUE, schema)
        .map(|(table, columns)| Constraint::Unique { table, columns })
        .or_else(|| {
            let index = index?.replace("''", "'");
            let table = schema.table_of_index(&index);
            Some(Constraint::UniqueIndex { index, table })
        })
}

fn rowid(message: &str, schema: &dyn Schema) -> Option<Constraint> {
    let table = message.strip_prefix(UNIQUE)?.strip_suffix(".rowid")?;
    schema
        .has_table(table)
        .then(|| Constraint::RowId { table: table.into() })
}

fn of_table(message: &str, prefix: &str, schema: &dyn Schema) -> Option<(String, Vec<String>)> {
    let mut readings = readings(message.strip_prefix(prefix)?, schema);
    if readings.len() > 1 {
        readings.retain(|(table, columns)| schema.is_changed(table) && schema.is_unique(table, columns));
    }
    let (table, columns) = only(readings)?;
    Some((table.into(), columns.into_iter().map(Into::into).collect()))
}

fn one(named: Option<&str>, schema: &dyn Schema) -> Option<(String, String)> {
    let mut readings = readings(named?, schema);
    readings.retain(|(_, columns)| columns.len() == 1);
    if readings.len() > 1 {
        readings.retain(|(table, _)| schema.is_changed(table));
    }
    let (table, columns) = only(readings)?;
    Some((table.into(), columns[0].into()))
}

fn only<T>(mut all: Vec<T>) -> Option<T> {
    if all.len() == 1 { all.pop() } else { None }
}

type Reading<'m> = (&'m str, Vec<&'m str>);

/// All ways to read `t.a, t.b` that the schema allows.
fn readings<'m>(named: &'m str, schema: &dyn Schema) -> Vec<Reading<'m>> {
    let mut found = Vec::new();
    for (dot, _) in named.match_indices('.') {
        let table = &named[..dot];
        if schema.has_table(table) {
            let next = format!(", {table}.");
            read_columns(table, &next, &named[dot + 1..], schema, &mut Vec::new(), &mut found);
        }
    }
    found
}

fn read_columns<'m>(
    table: &'m str,
    next: &str,
    rest: &'m str,
    schema: &dyn Schema,
    so_far: &mut Vec<&'m str>,
    found: &mut Vec<Reading<'m>>,
) {
    let ends = rest.match_indices(next).map(|(at, _)| at);
    for end in ends.chain([rest.len()]) {
        let column = &rest[..end];
        if found.len() == MAX_READINGS || !schema.has_column(table, column) {
            continue;
        }
        so_far.push(column);
        if end == rest.len() {
            found.push((table, so_far.clone()));
        } else {
            read_columns(table, next, &rest[end + next.len()..], schema, so_far, found);
        }
        so_far.pop();
    }
}
