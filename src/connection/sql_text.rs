//! SQL that is put together, and names that SQLite returns.

use rusqlite::Row;

use super::c_api::is_keyword;

/// Quotes a name for SQL.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A name as people would write it: quoted where it has to be.
pub(crate) fn readable(name: &str) -> String {
    let mut chars = name.chars();
    let begins_well = chars
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == '_');
    let is_plain = begins_well && chars.all(|next| next.is_ascii_alphanumeric() || next == '_');
    if is_plain && !is_keyword(name) {
        return name.to_owned();
    }
    quoted(name)
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
