//! A check after a migration: views, triggers and columns with double-quoted strings.

use rusqlite::Connection;

use crate::connection::sql_text::may_alter;
use crate::connection::stored_sql::{SchemaObject, accepts_double_quoted_strings, with_strings_among};

/// The search for objects with a double-quoted string that a migration creates: such a view or trigger could not be used.
///
/// SQLite itself refuses a `CREATE TABLE` and a `CREATE INDEX` with such a string. But it resolves no name in a view or
/// a trigger as it creates it, and those of an added column as if they were in the schema already.
pub(crate) struct NewStrings {
    /// Whether there can be any.
    possible: bool,
    /// The tables before the migration, if it may add a column.
    tables: Vec<SchemaObject>,
}

impl NewStrings {
    pub(crate) fn before(conn: &Connection, sql: &str) -> rusqlite::Result<Self> {
        let possible = sql.contains('"') && !accepts_double_quoted_strings(conn);
        let mut tables = Vec::new();
        if possible && may_alter(sql) {
            tables = SchemaObject::read(conn)?;
            tables.retain(SchemaObject::is_table);
        }
        Ok(Self { possible, tables })
    }

    /// The objects found, after a migration that has created the views and triggers `made`.
    pub(crate) fn find(&self, conn: &Connection, made: &[String]) -> rusqlite::Result<Vec<SchemaObject>> {
        if !self.possible || (made.is_empty() && self.tables.is_empty()) {
            return Ok(Vec::new());
        }
        let is_made = |object: &SchemaObject| object.is_code() && made.contains(&object.name);
        let is_altered =
            |object: &SchemaObject| !self.tables.is_empty() && object.is_table() && !self.tables.contains(object);
        let now = SchemaObject::read(conn)?;
        let mut found = with_strings_among(conn, &now, |object| is_made(object) || is_altered(object))?;
        if found.iter().any(SchemaObject::is_table) {
            // Those that had a string before, under this name or another.
            let old = with_strings_among(conn, &self.tables, |_| true)?;
            let is_there = |table: &SchemaObject| now.iter().any(|now| now.is_table() && now.name == table.name);
            let renamed = old.iter().any(|table| !is_there(table));
            found.retain(|new| !new.is_table() || !(renamed || old.iter().any(|old| old.name == new.name)));
        }
        Ok(found)
    }
}
