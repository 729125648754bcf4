//! Rows that are set aside: they are not in their table at the server, but in one of their own.

use postgres::Transaction;
use rusqlite::Connection;
use rusqlite::types::ValueRef;

use super::compare::Unordered;
use super::scan::{TableRow, each};
use super::schema::{Column, Schema, Table};
use super::{ExportStage, ExportToPostgres, OnMisfit};
use crate::connection::sql_text::{quoted, string};
use crate::error::Result;
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

    /// Whether rows of any table are set aside.
    pub(super) fn sets_any_aside(&self, schema: &Schema) -> bool {
        schema.tables.iter().any(|table| self.sets_aside(table))
    }

    /// Makes the table of the rows that are set aside, if there are any. This is in the transaction that ends the export, so no
    /// other program sees the table before.
    pub(super) fn make_quarantine(&self, server: &Server, tx: &mut Transaction<'_>, schema: &Schema) -> Result<()> {
        if !self.sets_any_aside(schema) {
            return Ok(());
        }
        // It was not there when the export began.
        let what = match &self.staging {
            Some(staging) => {
                format!("table {NAME} (the next export drops a table of that name in the schema {staging})")
            }
            None => format!("table {NAME}"),
        };
        self.execute(server, tx, &what, &create(self.working_schema()))
    }

    /// Sends the rows that are set aside: as SQL that puts them into their own table once their values are mended. They are
    /// read once more, so that none is kept in memory.
    pub(super) fn set_aside(
        &self,
        conn: &Connection,
        server: &Server,
        tx: &mut Transaction<'_>,
        schema: &Schema,
    ) -> Result<()> {
        if !self.sets_any_aside(schema) {
            return Ok(());
        }
        let what = format!("the rows of table {NAME}");
        let copy = table().copy_in(self.working_schema());
        // On from the rows that were sent.
        let mut rows = self.reporter.stage().rows;
        self.report(ExportStage::Copy, rows)?;
        self.sending(server, tx, &what, &copy, |filler| {
            self.each_aside(conn, schema, ExportStage::Copy, &mut rows, |row| {
                filler.block.extend_from_slice(row);
                filler.end_row()
            })
        })?;
        Ok(())
    }

    /// Reads the rows back, and the store's once more. An error if they are others.
    pub(super) fn compare_aside(
        &self,
        conn: &Connection,
        server: &Server,
        tx: &mut Transaction<'_>,
        schema: &Schema,
        compared: &mut u64,
    ) -> Result<()> {
        if !self.sets_any_aside(schema) {
            return Ok(());
        }
        let mut here = Unordered::default();
        self.each_aside(conn, schema, ExportStage::Compare, compared, |row| {
            here.add(row);
            Ok(())
        })?;
        let there = self.sum_at_server(server, tx, &table())?;
        if here.finish() == there.finish() {
            return Ok(());
        }
        Err(self.differs(server, &table(), "it has other rows there"))
    }

    /// Calls `f` with the rows that are set aside, as rows of a binary COPY.
    fn each_aside(
        &self,
        conn: &Connection,
        schema: &Schema,
        stage: ExportStage,
        rows: &mut u64,
        mut f: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut bytes = Vec::new();
        for table in schema.tables.iter().filter(|table| self.sets_aside(table)) {
            each(conn, &table.select(false), |row| {
                if table.is_misfit(row)? {
                    bytes.clear();
                    append_aside(table, row, &mut bytes)?;
                    f(&bytes)?;
                }
                self.step(stage, rows)
            })?;
        }
        Ok(())
    }
}

/// Appends the row of the quarantine that a row becomes: its table, its rowid, the reasons, its statement.
fn append_aside(table: &Table, row: &TableRow<'_>, out: &mut Vec<u8>) -> Result<()> {
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
