//! Rows that are set aside: they are not in their table at the server, but in one of their own.

use std::io::Write as _;
use std::sync::atomic::AtomicBool;

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
        let reader = match tx.copy_out(&table.copy_out(self.working_schema())) {
            // Another program has changed its columns.
            Err(error) if error.as_db_error().is_some() => return Ok(false),
            reader => reader.map_err(|error| server.error(&what, error, Outcome::RolledBack))?,
        };
        let there =
            sum(reader, table.columns.len(), &AtomicBool::new(false)).map_err(|error| server.broken(&what, error))?;
        Ok(here.finish() == there.finish())
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
