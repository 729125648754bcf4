//! Rows that something else knows by an implicit rowid.
//!
//! "The VACUUM command may change the ROWIDs for entries in any tables that do not have an explicit INTEGER PRIMARY
//! KEY", <https://sqlite.org/lang_vacuum.html>. A full-text table with external content finds its rows by their rowids, and
//! so does any virtual table that a trigger keeps up to date. After a VACUUM it may find other rows.

use std::collections::BTreeMap;

use super::tables::{Schema, Table, TableKind};
use crate::connection::sql_text::{quoted, tokens, unquoted};
use crate::error::Result;
use crate::monitor::advice::{Finding, Severity};
use crate::transaction::ReadTx;

const VIRTUAL_TABLES: &str =
    "SELECT name, sql FROM main.sqlite_schema WHERE type = 'table' AND sql LIKE 'CREATE VIRTUAL%'";

const TRIGGERS: &str = "SELECT tbl_name, sql FROM main.sqlite_schema WHERE type = 'trigger' AND sql LIKE '%id%'";

/// The names of a rowid.
const ROWID: [&str; 3] = ["rowid", "oid", "_rowid_"];

pub(super) fn look(tx: &ReadTx<'_>, schema: &Schema) -> Result<Vec<Finding>> {
    let of_virtual: Vec<(String, String)> = pairs(tx, VIRTUAL_TABLES)?;
    if of_virtual.is_empty() {
        return Ok(Vec::new());
    }
    // By the virtual table, so that each is reported once.
    let mut found = BTreeMap::new();
    for (name, sql) in &of_virtual {
        if let Some(content) = content(sql)
            && let Some(table) = schema.table(&content)
            && has_implicit_rowid(tx, table)?
        {
            found.insert(name.as_str(), table);
        }
    }
    for (table, sql) in pairs(tx, TRIGGERS)? {
        let Some(table) = schema.table(&table) else { continue };
        let Some(keeper) = keeper(&sql, of_virtual.iter().map(|(name, _)| name.as_str())) else {
            continue;
        };
        if !found.contains_key(keeper) && has_implicit_rowid(tx, table)? {
            found.insert(keeper, table);
        }
    }
    Ok(found.into_iter().map(|(name, table)| finding(name, table)).collect())
}

fn finding(name: &str, table: &Table) -> Finding {
    let message = format!(
        "{name} knows the rows of {} by their rowids, and VACUUM may change those: the table has no INTEGER PRIMARY KEY",
        table.name
    );
    let remedy = format!(
        "Give {} an INTEGER PRIMARY KEY (rebuild the table in a migration). Until then, rebuild {name} after each \
         VACUUM (full text with external content: INSERT INTO {1}({1}) VALUES('rebuild'))",
        table.name,
        quoted(name)
    );
    Finding::new(Severity::Warning, "implicit_rowid", message, remedy)
}

fn pairs(tx: &ReadTx<'_>, sql: &str) -> Result<Vec<(String, String)>> {
    tx.query_map(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// Whether the table has rowids that are no column of its own.
fn has_implicit_rowid(tx: &ReadTx<'_>, table: &Table) -> Result<bool> {
    let has_alias = || match table.primary_key.as_slice() {
        [only] => table.is_rowid_alias(only),
        _ => false,
    };
    if table.kind != TableKind::Ordinary || table.without_rowid || has_alias() {
        return Ok(false);
    }
    let column = "SELECT 1 FROM pragma_table_xinfo(?1, 'main') WHERE lower(name) = 'rowid'";
    Ok(!tx.exists(column, [&table.name])?)
}

/// The table whose rows a full-text table indexes by their rowids.
fn content(sql: &str) -> Option<String> {
    let mut module = tokens(sql)
        .skip_while(|token| !token.eq_ignore_ascii_case("using"))
        .skip(1);
    let module = unquoted(module.next()?).to_ascii_lowercase();
    if !matches!(module.as_str(), "fts3" | "fts4" | "fts5") {
        return None;
    }
    let content = option(sql, "content").filter(|content| !content.is_empty())?;
    let rowid = option(sql, "content_rowid").unwrap_or_else(|| "rowid".into());
    ROWID
        .iter()
        .any(|name| rowid.eq_ignore_ascii_case(name))
        .then_some(content)
}

/// The value of an option of a full-text table: `name = value`.
fn option(sql: &str, name: &str) -> Option<String> {
    let tokens: Vec<&str> = tokens(sql).collect();
    let option = tokens
        .windows(3)
        .find(|option| option[0].eq_ignore_ascii_case(name) && option[1] == "=")?;
    Some(unquoted(option[2]).into_owned())
}

/// The virtual table to which a trigger passes the rowid of its row.
fn keeper<'a>(trigger: &str, mut names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let words: Vec<String> = tokens(trigger)
        .map(|token| unquoted(token).to_ascii_lowercase())
        .collect();
    let passes_rowid = words.windows(3).any(|words| {
        let [row, dot, column] = words else { return false };
        matches!(row.as_str(), "new" | "old") && dot == "." && ROWID.contains(&column.as_str())
    });
    let is_written = |name: &str| {
        words
            .windows(2)
            .any(|words| matches!(words[0].as_str(), "into" | "from" | "update") && words[1].eq_ignore_ascii_case(name))
    };
    names.find(|name| passes_rowid && is_written(name))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_found, found, with_schema};

    const TOPIC: &str = "implicit_rowid";

    #[test]
    fn index_of_implicit_rowids_is_found() {
        for sql in [
            "CREATE TABLE docs(body TEXT) STRICT; CREATE VIRTUAL TABLE words USING fts5(body, content='docs')",
            "CREATE TABLE Docs(body TEXT) STRICT; CREATE VIRTUAL TABLE words USING FTS5(body, content = docs)",
            "CREATE TABLE docs(id TEXT PRIMARY KEY, body TEXT) STRICT;
             CREATE VIRTUAL TABLE words USING fts5(body, content=\"docs\", content_rowid='rowid')",
            "CREATE TABLE docs(id INT PRIMARY KEY, body TEXT) STRICT;
             CREATE VIRTUAL TABLE words USING fts4(content=\"docs\", body)",
            "CREATE TABLE docs(body TEXT) STRICT; CREATE VIRTUAL TABLE words USING fts5(body, content='');
             CREATE TRIGGER t AFTER INSERT ON docs BEGIN
                 INSERT INTO words(rowid, body) VALUES (new.rowid, new.body); END",
            "CREATE TABLE docs(a REAL, b REAL) STRICT; CREATE VIRTUAL TABLE words USING rtree(id, a, b);
             CREATE TRIGGER t AFTER DELETE ON docs BEGIN DELETE FROM \"words\" WHERE id = OLD._rowid_; END",
        ] {
            let there = found(&with_schema(sql), TOPIC);
            assert_eq!(there.len(), 1, "{sql}: {there:#?}");
            assert!(there[0].message.starts_with("words knows the rows of"), "{}", there[0]);
        }
    }

    #[test]
    fn index_of_declared_keys_is_not_reported() {
        for sql in [
            "CREATE TABLE docs(id INTEGER PRIMARY KEY, body TEXT) STRICT;
             CREATE VIRTUAL TABLE words USING fts5(body, content='docs', content_rowid='id')",
            "CREATE TABLE docs(id INTEGER PRIMARY KEY, body TEXT) STRICT;
             CREATE VIRTUAL TABLE words USING fts5(body, content='docs')",
            "CREATE TABLE docs(number INT UNIQUE, body TEXT) STRICT;
             CREATE VIRTUAL TABLE words USING fts5(body, content='docs', content_rowid=number)",
            "CREATE TABLE docs(rowid INT, body TEXT) STRICT;
             CREATE VIRTUAL TABLE words USING fts5(body, content='docs')",
            "CREATE TABLE docs(body TEXT) STRICT; CREATE VIRTUAL TABLE words USING fts5(body);
             CREATE TRIGGER t AFTER UPDATE ON docs BEGIN UPDATE docs SET body = '' WHERE rowid = new.rowid; END",
            "CREATE TABLE docs(id INTEGER PRIMARY KEY, body TEXT) STRICT; CREATE VIRTUAL TABLE words USING fts5(body);
             CREATE TRIGGER t AFTER INSERT ON docs BEGIN
                 INSERT INTO words(rowid, body) VALUES (new.rowid, new.body); END",
        ] {
            assert_found(sql, TOPIC, &[]);
        }
    }
}
