//! Rows that are set aside: they are not in their table at the server, but in one of their own.

use std::io::Write as _;

use postgres::Transaction;
use rusqlite::Connection;
use rusqlite::types::ValueRef;

use super::compare::{Unordered, sum};
use super::copy::{COPY_END, COPY_HEAD};
use super::scan::{TableRow, each};
use super::schema::{Column, Schema, Table};
use super::{ExportStage, ExportToPostgres, OnMisfit};
use crate::connection::sql_text::{quoted, string};
use crate::error::{Error, Outcome, Result};
use crate::postgres::canonical::Value;
use crate::postgres::types::{PgType, append_field};
use crate::postgres::url::Server;

/// The table at the server.
pub(super) const NAME: &str = "larder_quarantine";

impl ExportToPostgres<'_> {
    /// Whether rows of a table are set aside.
    pub(super) fn sets_aside(&self, table: &Table) -> bool {
        self.on_misfit == OnMisfit::Quarantine && table.has_misfits
    }

    /// Makes the table, if rows are set aside. An earlier run may have made it in the schema of a resumable export.
    pub(super) fn make_quarantine(&self, server: &Server, tx: &mut Transaction<'_>, schema: &Schema) -> Result<()> {
        if !schema.tables.iter().any(|table| self.sets_aside(table)) {
            return Ok(());
        }
        let mut create = create(self.working_schema());
        if self.staging.is_some() {
            create = create.replacen("CREATE TABLE", "CREATE TABLE IF NOT EXISTS", 1);
        }
        self.execute(server, tx, &format!("table {NAME}"), &create)
    }

    /// Sends the rows of a table that are set aside: as SQL that puts them into it once their values are mended. They are read
    /// once more, so that none is kept in memory.
    pub(super) fn send_aside(
        &self,
        conn: &Connection,
        server: &Server,
        tx: &mut Transaction<'_>,
        of: &Table,
    ) -> Result<()> {
        if !self.sets_aside(of) {
            return Ok(());
        }
        let failed = |error| server.error(&format!("table {NAME}"), error, Outcome::RolledBack);
        let broken = |error| server.broken(&format!("the rows of table {NAME}"), error);
        let mut writer = tx
            .copy_in(&table().copy_in(self.working_schema(), false))
            .map_err(failed)?;
        writer.write_all(COPY_HEAD).map_err(broken)?;
        self.each_aside(conn, of, ExportStage::Copy, |row| writer.write_all(row).map_err(broken))?;
        writer.write_all(&COPY_END).map_err(broken)?;
        writer.finish().map_err(failed)?;
        Ok(())
    }

    /// Reads the rows back, and the store's once more.
    pub(super) fn is_same_aside(
        &self,
        conn: &Connection,
        server: &Server,
        tx: &mut Transaction<'_>,
        schema: &Schema,
    ) -> Result<bool> {
        let mut here = Unordered::default();
        let tables = || schema.tables.iter().filter(|table| self.sets_aside(table));
        for table in tables() {
            self.each_aside(conn, table, ExportStage::Compare, |row| {
                here.add(row);
                Ok(())
            })?;
        }
        if tables().next().is_none() {
            return Ok(true);
        }
        let what = format!("reading table {NAME} back");
        let table = table();
        let (copy, columns) = (table.copy_out(self.working_schema()), table.columns.len());
        let there = self.at_server(server, tx, |tx| {
            tx.copy_out(&copy).map(|mut reader| sum(&mut reader, columns))
        })?;
        let there = match there {
            // Another program has dropped the table or one of its columns.
            Err(error) if self.staging.is_some() && is_missing(&error) => return Ok(false),
            there => there.map_err(|error| server.error(&what, error, Outcome::RolledBack))?,
        };
        let there = there.map_err(|error| server.broken(&what, error))?;
        Ok(here.finish() == there.finish())
    }

    /// Keeps others from writing to the table until the end of the transaction. False if there is none, though rows are set
    /// aside: another program has dropped it.
    pub(super) fn lock_aside(&self, server: &Server, tx: &mut Transaction<'_>, schema: &Schema) -> Result<bool> {
        if !schema.tables.iter().any(|table| self.sets_aside(table)) {
            return Ok(true);
        }
        let what = format!("table {NAME}");
        let lock = format!(
            "LOCK TABLE {}.{NAME} IN SHARE ROW EXCLUSIVE MODE",
            quoted(self.working_schema())
        );
        match self.in_savepoint(server, tx, &what, &lock)? {
            None => Ok(true),
            Some(error) if is_missing(&error) => Ok(false),
            Some(error) => Err(server.error(&what, error, Outcome::RolledBack)),
        }
    }

    /// Drops the table if it has other columns: another program has changed it since the earlier run. Its rows are sent
    /// again at the end.
    pub(super) fn drop_other_quarantine(&self, server: &Server, tx: &mut Transaction<'_>) -> Result<()> {
        let what = format!("table {NAME}");
        let name = format!("{}.{NAME}", quoted(self.working_schema()));
        let columns = "SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0
             AND NOT attisdropped ORDER BY attnum";
        let columns = tx.query(columns, &[&name]);
        let columns = columns.map_err(|error| server.error(&what, error, Outcome::RolledBack))?;
        let found = columns.iter().map(|row| row.get::<_, &str>(0));
        if found.eq(table().columns.iter().map(|column| column.target.as_str())) {
            return Ok(());
        }
        self.execute(server, tx, &what, &format!("DROP TABLE IF EXISTS {name}"))
    }

    /// The error of rows that were set aside and are others at the server.
    pub(super) fn aside_differs(&self, server: &Server) -> Error {
        server.failed(&format!(
            "table {NAME} has other rows at the server; {}",
            self.what_is_kept()
        ))
    }

    /// Calls `f` with the rows that are set aside, as rows of a binary COPY.
    fn each_aside(
        &self,
        conn: &Connection,
        table: &Table,
        stage: ExportStage,
        mut f: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let (mut rows, mut bytes) = (0, Vec::new());
        each(conn, &table.select(false), |row| {
            if table.is_misfit(row)? {
                bytes.clear();
                append_aside(table, row, &mut bytes)?;
                f(&bytes)?;
            }
            self.step(stage, &mut rows)
        })
    }
}

/// Appends the row of the quarantine that a row becomes: its table, its rowid, the reasons, its statement.
pub(super) fn append_aside(table: &Table, row: &TableRow<'_>, out: &mut Vec<u8>) -> Result<()> {
    let (mut reasons, mut names, mut literals) = (Vec::new(), Vec::new(), Vec::new());
    for (at, column) in table.columns.iter().enumerate() {
        let value = row.value(at)?;
        if let Err(misfit) = table.check(at, value) {
            reasons.push(format!("{}: {}", column.name, misfit.reason()));
        }
        if !column.is_generated {
            names.push(quoted(&column.name));
            literals.push(literal(value));
        }
    }
    let statement = format!(
        "INSERT INTO {}({}) VALUES ({})",
        quoted(&table.name),
        names.join(", "),
        literals.join(", ")
    );
    out.extend(4_i16.to_be_bytes());
    append_field(&Value::Text(table.name.as_str().into()), PgType::Text, out);
    let rowid = row.rowid().map_or(Value::Null, Value::Integer);
    append_field(&rowid, PgType::Int8, out);
    append_field(&Value::Text(reasons.join("; ").into()), PgType::Text, out);
    append_field(&Value::Text(statement.into()), PgType::Text, out);
    Ok(())
}

/// Whether the server has no such table or column.
fn is_missing(error: &postgres::Error) -> bool {
    use postgres::error::SqlState;
    error.code() == Some(&SqlState::UNDEFINED_TABLE) || error.code() == Some(&SqlState::UNDEFINED_COLUMN)
}

/// The statement that makes the table.
pub(super) fn create(schema: &str) -> String {
    table().create(schema)
}

fn table() -> Table {
    let columns = [
        ("table_name", PgType::Text),
        ("row_id", PgType::Int8),
        ("reasons", PgType::Text),
        ("statement", PgType::Text),
    ];
    Table::plain(NAME, columns.map(|(name, kind)| Column::plain(name, kind)).into())
}

/// A value as SQLite's SQL, with all its bits.
fn literal(value: ValueRef<'_>) -> String {
    let hex = |bytes: &[u8]| format!("x'{}'", crate::runtime::hex::hex(bytes));
    match value {
        ValueRef::Null => "NULL".into(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) if number.is_finite() => format!("{number:?}"),
        ValueRef::Real(number) => if number > 0.0 { "9e999" } else { "-9e999" }.into(),
        ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) if !text.contains('\0') => string(text),
            _ => format!("CAST({} AS TEXT)", hex(bytes)),
        },
        ValueRef::Blob(bytes) => hex(bytes),
    }
}
