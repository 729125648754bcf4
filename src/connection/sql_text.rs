//! SQL that is put together, and names that SQLite returns.

use rusqlite::Row;

/// Quotes a name for SQL.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The statement that returns each row of a table whose foreign key refers to no row.
pub(crate) fn foreign_key_check(table: &str) -> String {
    format!("PRAGMA main.foreign_key_check({})", quoted(table))
}

/// A name in a column. In a damaged database it may not be UTF-8, nor even text.
pub(crate) fn name(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    let bytes = row.get_ref(column)?.as_bytes().unwrap_or_default();
    Ok(String::from_utf8_lossy(bytes).into_owned())
}
