//! The schema of a connection, with which the message of a violated constraint is read.
//!
//! It is read only after SQLite has failed a statement, so other statements cost the same. The lookup of a name takes well
//! under a microsecond; the keys of the schema are read only for a violated foreign key.

use std::cell::OnceCell;

use rusqlite::{Connection, ffi};

use super::authorizer::{Change, SqlGuard};
use super::sql_text::may_replace;
use crate::error::constraint::{self, Schema};
use crate::error::{Constraint, ForeignKey, primary_code};

/// A foreign key, and its columns in the parent.
struct Key {
    key: ForeignKey,
    /// As the key names them; empty if it means the primary key.
    parent_columns: Vec<String>,
}

/// The constraint that the statement `sql` of this connection has just violated.
pub(crate) fn violated(
    conn: &Connection,
    guard: &SqlGuard,
    error: &rusqlite::Error,
    sql: Option<&str>,
) -> Option<Constraint> {
    if primary_code(error) != Some(ffi::SQLITE_CONSTRAINT) {
        return None;
    }
    let changes = OnceCell::new();
    constraint::violated(
        error,
        &OfConnection {
            conn,
            guard,
            sql,
            changes,
        },
    )
}

/// For a deferred key that is found violated at the end of a closure: the keys that are deferred, or all of them if none
/// is by its declaration.
pub(crate) fn violated_deferred(conn: &Connection, guard: &SqlGuard) -> Constraint {
    let keys = guard.as_internal(|| {
        let only = "AND m.sql LIKE '%deferred%'";
        match keys(conn, only) {
            Ok(deferred) if deferred.is_empty() => keys(conn, ""),
            deferred => deferred,
        }
    });
    let keys = keys.unwrap_or_default().into_iter().map(|key| key.key).collect();
    Constraint::ForeignKey { keys }
}

struct OfConnection<'c> {
    conn: &'c Connection,
    guard: &'c SqlGuard,
    sql: Option<&'c str>,
    changes: OnceCell<Vec<Change>>,
}

impl OfConnection<'_> {
    fn changes(&self) -> &[Change] {
        self.changes.get_or_init(|| match self.sql {
            Some(sql) => self.guard.changes_of(|| drop(self.conn.prepare(sql))),
            None => Vec::new(),
        })
    }

    fn can_be_violated(&self, key: &Key) -> bool {
        self.changes().iter().any(|change| {
            let sets = |columns: &[String]| {
                let column = change.column.as_deref().unwrap_or_default();
                columns.iter().any(|name| name.eq_ignore_ascii_case(column))
            };
            let is_child = change.table.eq_ignore_ascii_case(&key.key.table);
            let is_parent = change.table.eq_ignore_ascii_case(&key.key.parent);
            match change.code {
                ffi::SQLITE_INSERT => is_child || is_parent && self.replaces(change),
                ffi::SQLITE_UPDATE => {
                    is_child && sets(&key.key.columns)
                        || is_parent && (sets(&self.parent_columns(key)) || self.replaces(change))
                }
                _ => is_parent,
            }
        })
    }

    /// Whether the change may delete rows that conflict with new ones. SQLite does not ask the authorizer about that.
    /// The statement may say so, a constraint of the table, or the trigger that makes the change.
    fn replaces(&self, change: &Change) -> bool {
        let sql = "SELECT sql FROM main.sqlite_schema WHERE instr(lower(sql), 'replace')
                   AND (type = 'table' AND name = ?1 COLLATE NOCASE OR type = 'trigger' AND ?2)/*larder*/";
        let of_schema = || {
            let mut statement = self.conn.prepare(sql)?;
            let texts = statement.query_map((&change.table, change.by_trigger), |row| row.get(0))?;
            texts.collect::<rusqlite::Result<Vec<String>>>()
        };
        self.sql.is_some_and(may_replace)
            || self
                .guard
                .as_internal(of_schema)
                .is_ok_and(|texts| texts.iter().any(|text| may_replace(text)))
    }

    /// Whether the column is an `INTEGER PRIMARY KEY`, for which there is no index.
    fn is_rowid(&self, table: &str, column: &str) -> bool {
        let sql = "SELECT count(*) = 1 AND max(name) = ?2 FROM pragma_table_info(?1) WHERE pk > 0/*larder*/";
        self.guard
            .as_internal(|| self.conn.query_row(sql, [table, column], |row| row.get(0)))
            .unwrap_or(false)
    }

    fn parent_columns(&self, key: &Key) -> Vec<String> {
        if !key.parent_columns.is_empty() {
            return key.parent_columns.clone();
        }
        let sql = "SELECT name FROM pragma_table_info(?1) WHERE pk > 0/*larder*/";
        let names = self.guard.as_internal(|| {
            let mut statement = self.conn.prepare(sql)?;
            let names = statement.query_map([&key.key.parent], |row| row.get(0))?;
            names.collect::<rusqlite::Result<Vec<String>>>()
        });
        let mut names = names.unwrap_or_default();
        names.push("rowid".into());
        names
    }
}

impl Schema for OfConnection<'_> {
    fn has_table(&self, table: &str) -> bool {
        self.conn.table_exists(None, table).unwrap_or(false)
    }

    fn has_column(&self, table: &str, column: &str) -> bool {
        self.conn.column_exists(None, table, column).unwrap_or(false)
    }

    fn table_of_index(&self, index: &str) -> Option<String> {
        let sql = "SELECT tbl_name FROM main.sqlite_schema WHERE type = 'index' AND name = ?1/*larder*/";
        self.guard
            .as_internal(|| self.conn.query_row(sql, [index], |row| row.get(0)))
            .ok()
    }

    fn is_changed(&self, table: &str) -> bool {
        let changes = self.changes();
        changes.is_empty() || changes.iter().any(|change| change.table.eq_ignore_ascii_case(table))
    }

    fn is_unique(&self, table: &str, columns: &[&str]) -> bool {
        let sql = "SELECT list.name, info.name FROM pragma_index_list(?1) AS list, pragma_index_info(list.name) AS info
                   WHERE list.\"unique\" ORDER BY list.seq, info.seqno/*larder*/";
        let indexes = self.guard.as_internal(|| {
            let mut statement = self.conn.prepare(sql)?;
            let columns = statement.query_map([table], |row| Ok((row.get(0)?, row.get(1)?)))?;
            columns.collect::<rusqlite::Result<Vec<(String, Option<String>)>>>()
        });
        let indexes = indexes.unwrap_or_default();
        let is_key = |index: &[(String, Option<String>)]| {
            let names = index.iter().map(|(_, column)| column.as_deref());
            names.eq(columns.iter().map(|column| Some(*column)))
        };
        indexes.chunk_by(|one, next| one.0 == next.0).any(is_key)
            || matches!(columns, [column] if self.is_rowid(table, column))
    }

    fn foreign_keys(&self) -> Vec<ForeignKey> {
        if self.changes().is_empty() {
            return Vec::new();
        }
        let all = self.guard.as_internal(|| keys(self.conn, "")).unwrap_or_default();
        let possible = all.into_iter().filter(|key| self.can_be_violated(key));
        possible.map(|key| key.key).collect()
    }
}

/// The foreign keys of the file, of tables of which `also` holds.
fn keys(conn: &Connection, also: &str) -> rusqlite::Result<Vec<Key>> {
    let sql = format!(
        "SELECT m.name, k.id, k.\"table\", k.\"from\", k.\"to\"
         FROM main.sqlite_schema AS m, pragma_foreign_key_list(m.name, 'main') AS k
         WHERE m.type = 'table' {also} ORDER BY m.rowid, k.id, k.seq/*larder*/"
    );
    let mut statement = conn.prepare(&sql)?;
    let mut rows = statement.query([])?;
    let mut keys: Vec<Key> = Vec::new();
    let mut last = None;
    while let Some(row) = rows.next()? {
        let (table, id): (String, i64) = (row.get(0)?, row.get(1)?);
        let (from, to): (String, Option<String>) = (row.get(3)?, row.get(4)?);
        let this = Some((table.clone(), id));
        if this != last {
            keys.push(Key {
                key: ForeignKey::new(table, Vec::new(), row.get(2)?),
                parent_columns: Vec::new(),
            });
            last = this;
        }
        if let Some(key) = keys.last_mut() {
            key.key.columns.push(from);
            key.parent_columns.extend(to);
        }
    }
    Ok(keys)
}
