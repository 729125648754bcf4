//! The rows of an export on their way to the server, by binary COPY.

use std::io::Write;

use postgres::Transaction;
use rusqlite::Connection;
use rusqlite::types::ValueRef;

use super::quarantine::Quarantine;
use super::scan::each;
use super::schema::Table;
use super::{ExportStage, ExportToPostgres};
use crate::error::{Outcome, Result};
use crate::postgres::canonical::Value;
use crate::postgres::types::append_field;
use crate::postgres::url::Server;

/// How a binary COPY begins.
pub(super) const COPY_HEAD: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// How many bytes are sent to the server at once.
const BUFFER: usize = 64 * 1024;

impl ExportToPostgres<'_> {
    /// Sends the rows of a table, and returns how many were set aside.
    pub(super) fn copy(
        &self,
        conn: &Connection,
        server: &Server,
        tx: &mut Transaction<'_>,
        table: &Table,
        copied: &mut u64,
        quarantine: &mut Quarantine,
    ) -> Result<u64> {
        let set_aside = quarantine.rows();
        let fields = table.columns.iter().filter(|column| column.generated.is_none()).count() as i16;
        let what = format!("the rows of table {}", table.name);
        let writer = tx.copy_in(&table.copy_in(&self.schema));
        let mut writer = writer.map_err(|error| server.error(&what, error, Outcome::RolledBack))?;
        let broken = |error| server.broken(&what, error);
        let mut buffer = COPY_HEAD.to_vec();
        each(conn, table, |rowid, values| {
            if quarantine.take(table, rowid, values)? {
                return self.step(ExportStage::Copy, copied);
            }
            buffer.extend(fields.to_be_bytes());
            for (at, (value, column)) in values.iter().zip(&table.columns).enumerate() {
                if column.generated.is_none() {
                    append_field(&value_at(server, table, at, *value)?, column.kind, &mut buffer);
                }
            }
            if buffer.len() >= BUFFER {
                writer.write_all(&buffer).map_err(broken)?;
                buffer.clear();
            }
            self.step(ExportStage::Copy, copied)
        })?;
        buffer.extend((-1_i16).to_be_bytes());
        writer.write_all(&buffer).map_err(broken)?;
        let finished = writer.finish();
        finished.map_err(|error| server.error(&what, error, Outcome::RolledBack))?;
        Ok(quarantine.rows() - set_aside)
    }
}

/// The value as it is written. The scan has found all that do not fit: another one is an error.
pub(super) fn value_at<'v>(server: &Server, table: &Table, at: usize, value: ValueRef<'v>) -> Result<Value<'v>> {
    match table.fit(at, value) {
        Ok(value) => Ok(value),
        Err(_) if table.columns[at].misfits_are_null => Ok(Value::Null),
        Err(misfit) => {
            let (column, reason) = (&table.columns[at].name, misfit.reason());
            let what = format!(
                "{}.{column}: {reason}, which the scan of the same rows has not found",
                table.name
            );
            Err(server.failed(&what))
        }
    }
}
