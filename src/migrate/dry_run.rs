//! A dry run: every pending migration on a copy, which is deleted then.

use std::path::Path;

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::adopt::tables_of_tools;
use super::record::{DETAILS, TABLE, columns};
use crate::backup::{self, Failure};
use crate::connection;
use crate::connection::sql_text::quoted;
use crate::error::{Error, Result};
use crate::options::Settings;

/// The kind of copy for a dry run. See [`Store::migrate_dry_run`](crate::Store::migrate_dry_run).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DryRun {
    /// A copy of the schema, without rows except those of the record. It is fast and finds mistakes in SQL. It does not
    /// find rows that violate a new constraint, and it fails for a migration that needs rows of an earlier one.
    Schema,
    /// A copy of the whole file, in a folder beside it. It finds every error that the real run would find, and takes as
    /// long.
    Backup,
}

/// The statements that recreate a database's schema and its migration records.
pub(super) struct SchemaCopy {
    statements: Vec<String>,
}

impl SchemaCopy {
    pub(super) fn read(conn: &Connection) -> Result<Self> {
        // A virtual table creates its shadow tables, and SQLite its internal tables.
        let sql = "SELECT sql FROM sqlite_schema
             WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
               AND NOT (type = 'table' AND name IN (SELECT name FROM pragma_table_list WHERE type = 'shadow'))
               AND NOT (type = 'index' AND tbl_name IN (SELECT name FROM pragma_table_list WHERE type = 'shadow'))
             ORDER BY CASE type WHEN 'table' THEN 0 WHEN 'index' THEN 1 WHEN 'view' THEN 2 ELSE 3 END, rowid";
        let mut statements = strings(conn, sql)?;
        for table in [TABLE, DETAILS] {
            statements.extend(rows(conn, table)?);
        }
        for (_, table) in tables_of_tools(conn)? {
            statements.extend(rows(conn, &table)?);
        }
        let user_version: i64 = conn.query_row("PRAGMA main.user_version", [], |row| row.get(0))?;
        statements.push(format!("PRAGMA user_version = {user_version}"));
        Ok(Self { statements })
    }

    /// Creates a database with this schema. The tables are there before a store opens it, because `on_connect` may read
    /// them.
    pub(super) fn write(&self, options: &Settings, to: &Path) -> Result<()> {
        let conn = backup::create(options, to).map_err(|failure| unusable(to, failure))?;
        // A schema may predate the rule that "x" is not a string. SQLite reads such a schema as it is, so it is written
        // the same way.
        let write = || {
            conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, true)?;
            conn.execute_batch("PRAGMA foreign_keys = OFF; BEGIN")?;
            self.statements
                .iter()
                .try_for_each(|statement| conn.execute_batch(statement))?;
            conn.execute_batch("COMMIT")
        };
        let written = write();
        connection::close(conn);
        written.map_err(Error::not_started)
    }
}

/// The rows of a table, as INSERT statements. None if it does not exist.
fn rows(conn: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    let columns = columns(conn, table)?.unwrap_or_default();
    if columns.is_empty() {
        return Ok(Vec::new());
    }
    let values: Vec<_> = columns
        .iter()
        .map(|column| format!("quote({})", quoted(column)))
        .collect();
    let insert = format!("INSERT INTO main.{} VALUES(", quoted(table)).replace('\'', "''");
    strings(
        conn,
        &format!(
            "SELECT '{insert}' || {} || ')' FROM main.{}",
            values.join(" || ',' || "),
            quoted(table)
        ),
    )
}

fn strings(conn: &Connection, sql: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = conn.prepare(sql)?;
    let strings = statement.query_map([], |row| row.get(0))?;
    strings.collect()
}

/// Copies the connection's snapshot into a new file.
pub(super) fn copy(conn: &Connection, options: &Settings, to: &Path) -> Result<()> {
    backup::copy(conn, options, to).map_err(|failure| unusable(to, failure))
}

fn unusable(copy: &Path, failure: Failure) -> Error {
    Error::Open {
        path: copy.into(),
        problem: failure.sentence(),
        source: failure.source,
    }
}
