//! Rows that are set aside: [`Quarantine`].

use std::io::Write as _;

use postgres::Transaction;
use rusqlite::types::ValueRef;

use super::compare::{CopyRows, Row, Rows};
use super::copy::COPY_HEAD;
use super::schema::{Column, Table};
use crate::connection::sql_text::{quoted, string};
use crate::error::{Outcome, Result};
use crate::postgres::canonical::Value;
use crate::postgres::types::{PgType, append_field};
use crate::postgres::url::Server;

/// The table at the server.
pub(super) const NAME: &str = "larder_quarantine";

/// Rows that are not in their table at the server, as SQL that puts them there once their values are mended. They are kept
/// in memory until the other rows are sent.
pub(super) struct Quarantine {
    is_on: bool,
    rows: Vec<[Value<'static>; 4]>,
}

impl Quarantine {
    pub(super) fn new(is_on: bool) -> Self {
        Self {
            is_on,
            rows: Vec::new(),
        }
    }

    /// Number of rows.
    pub(super) fn rows(&self) -> u64 {
        self.rows.len() as u64
    }

    /// Takes a row if it does not fit, and returns whether it did.
    pub(super) fn take(&mut self, table: &Table, rowid: Option<i64>, values: &[ValueRef<'_>]) -> Result<bool> {
        if !self.is_on || !table.is_set_aside(values) {
            return Ok(false);
        }
        let misfits = values.iter().enumerate().filter_map(|(at, value)| {
            let misfit = table.fit(at, *value).err()?;
            Some(format!("{}: {}", table.columns[at].name, misfit.reason()))
        });
        let reasons: Vec<String> = misfits.collect();
        let columns = table
            .columns
            .iter()
            .zip(values)
            .filter(|(column, _)| !column.is_generated);
        let (names, literals): (Vec<String>, Vec<String>) = columns
            .map(|(column, value)| (quoted(&column.name), literal(*value)))
            .unzip();
        let statement = format!(
            "INSERT INTO {}({}) VALUES ({})",
            quoted(&table.name),
            names.join(", "),
            literals.join(", ")
        );
        self.rows.push([
            Value::Text(table.name.clone().into()),
            rowid.map_or(Value::Null, Value::Integer),
            Value::Text(reasons.join("; ").into()),
            Value::Text(statement.into()),
        ]);
        Ok(true)
    }

    /// Makes the table, and sends the rows.
    pub(super) fn write(&self, server: &Server, tx: &mut Transaction<'_>, schema: &str) -> Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let failed = |error| server.error(&format!("table {NAME}"), error, Outcome::RolledBack);
        let table = table();
        tx.batch_execute(&table.create(schema)).map_err(failed)?;
        let mut writer = tx.copy_in(&table.copy_in(schema)).map_err(failed)?;
        let broken = |error| server.broken(&format!("the rows of table {NAME}"), error);
        writer.write_all(COPY_HEAD).map_err(broken)?;
        let mut field = Vec::new();
        for row in &self.rows {
            field.clear();
            field.extend((row.len() as i16).to_be_bytes());
            for (value, column) in row.iter().zip(&table.columns) {
                append_field(value, column.kind, &mut field);
            }
            writer.write_all(&field).map_err(broken)?;
        }
        writer.write_all(&(-1_i16).to_be_bytes()).map_err(broken)?;
        writer.finish().map_err(failed)?;
        Ok(())
    }

    /// Reads the rows back.
    pub(super) fn compare(&self, server: &Server, tx: &mut Transaction<'_>, schema: &str) -> Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let what = format!("reading table {NAME} back");
        let table = table();
        let reader = tx.copy_out(&table.copy_out(schema));
        let reader = reader.map_err(|error| server.error(&what, error, Outcome::RolledBack))?;
        let broken = |error| server.broken(&what, error);
        let mut theirs = CopyRows::begin(reader).map_err(broken)?;
        let (mut here, mut there) = (Rows::new(false), Rows::new(false));
        let mut row = Row::default();
        for ours in &self.rows {
            row.clear();
            ours.iter().for_each(|value| row.push(value));
            here.add(ours.len(), &row.bytes);
        }
        while theirs.next(&table.columns, &mut row).map_err(broken)? {
            there.add(table.columns.len(), &row.bytes);
        }
        if here.finish() != there.finish() {
            return Err(server.failed(&format!(
                "table {NAME} has other rows at the server; nothing was kept there"
            )));
        }
        Ok(())
    }
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
