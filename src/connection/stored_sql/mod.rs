//! The SQL of the schema: what it needs of the connection, and larder's settings do not give.

mod strings;
mod unsafe_use;

use rusqlite::Connection;

pub(crate) use self::strings::{
    accepts_double_quoted_strings, with_double_quoted_strings, with_strings, with_strings_among,
};
pub(crate) use self::unsafe_use::{UnsafeUse, refuse_unsafe_tables, unsafe_uses};
use super::sql_text::{name, quoted, tokens};

/// An object of the schema.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SchemaObject {
    /// `table`, `index`, `view` or `trigger`.
    pub(crate) kind: String,
    pub(crate) name: String,
    /// The table or view that it belongs to.
    pub(crate) table: String,
    pub(crate) sql: String,
}

impl SchemaObject {
    /// All objects that have a text, in the order of their creation.
    pub(crate) fn read(conn: &Connection) -> rusqlite::Result<Vec<Self>> {
        let mut statement = conn.prepare(
            "SELECT type, name, tbl_name, sql FROM main.sqlite_schema
             WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY rowid",
        )?;
        let objects = statement.query_map([], |row| {
            Ok(Self {
                kind: name(row, 0)?,
                name: name(row, 1)?,
                table: name(row, 2)?,
                sql: name(row, 3)?,
            })
        })?;
        objects.collect()
    }

    /// Its kind and name, for a message.
    pub(crate) fn described(&self) -> String {
        format!("the {} {}", self.kind, self.name)
    }

    /// Whether SQLite resolves its names when it is used.
    pub(crate) fn is_code(&self) -> bool {
        self.kind == "view" || self.kind == "trigger"
    }

    pub(crate) fn is_table(&self) -> bool {
        self.kind == "table"
    }

    fn is_virtual(&self) -> bool {
        let mut words = tokens(&self.sql);
        words.next();
        words.next().is_some_and(|word| word.eq_ignore_ascii_case("virtual"))
    }
}

/// The kinds and names of some objects, and the number of the others.
pub(crate) fn names<'a>(objects: impl ExactSizeIterator<Item = &'a SchemaObject>) -> String {
    const MAX_REPORTED: usize = 5;
    let more = objects.len().saturating_sub(MAX_REPORTED);
    let mut names: Vec<_> = objects.take(MAX_REPORTED).map(SchemaObject::described).collect();
    if more > 0 {
        names.push(format!("{more} more"));
    }
    match names.split_last() {
        Some((last, before)) if !before.is_empty() => format!("{} and {last}", before.join(", ")),
        _ => names.concat(),
    }
}

/// Statements that run every trigger, and evaluate every expression, of a table or view.
fn probes(conn: &Connection, table: &str) -> [String; 4] {
    let name = format!("main.{}", quoted(table));
    let columns = column_names(conn, table, "= 0").unwrap_or_default();
    let set: Vec<_> = columns.iter().map(|c| format!("{0} = {0}", quoted(c))).collect();
    [
        format!("SELECT * FROM {name}"),
        format!("INSERT INTO {name} DEFAULT VALUES"),
        format!("UPDATE {name} SET {}", set.join(", ")),
        format!("DELETE FROM {name}"),
    ]
}

/// The columns of a table or view whose `hidden` is that: 0 for those of an ordinary INSERT.
fn column_names(conn: &Connection, table: &str, hidden: &str) -> rusqlite::Result<Vec<String>> {
    let sql = format!("SELECT name FROM pragma_table_xinfo(?1, 'main') WHERE hidden {hidden}");
    let mut statement = conn.prepare(&sql)?;
    let names = statement.query_map([table], |row| name(row, 0))?;
    names.collect()
}
