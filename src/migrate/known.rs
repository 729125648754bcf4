//! What a run of migrations knows of the database between two steps, so that a step does not read all of it again.
//!
//! It holds only until there is another writer: another process, which SQLite's `data_version` tells, or another
//! job of this store, which the writer counts.

use rusqlite::Connection;

use super::orphans::Violations;
use super::record::{self, Record};
use super::references::References;
use super::strictness::NotStrict;
use crate::error::Result;
use crate::write::Writer;

#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) record: Record,
    pub(crate) not_strict: NotStrict,
    pub(crate) references: References,
    /// `None` until they were looked at.
    pub(crate) violations: Option<Violations>,
    /// The version of the last step, up or down; `None` at the beginning.
    pub(crate) last: Option<u64>,
    /// Whether writing to the record does more than that.
    pub(crate) record_has_triggers: bool,
    /// Whether the last step may have set something on the connection.
    pub(crate) settings: bool,
    data_version: i64,
    /// The writer's number of the job that left it.
    job: u64,
}

impl Known {
    /// Reads it, in the step's transaction.
    pub(crate) fn read(writer: &Writer, record: Record) -> Result<Self> {
        let keys = writer.options().foreign_keys;
        let conn = writer.conn();
        let read = || {
            Ok(Self {
                record,
                not_strict: NotStrict::read(conn)?,
                references: if keys {
                    References::read(conn)?
                } else {
                    References::default()
                },
                violations: None,
                last: None,
                record_has_triggers: record_has_triggers(conn)?,
                settings: false,
                data_version: data_version(conn)?,
                job: writer.jobs(),
            })
        };
        writer.guard().as_internal(read)
    }

    /// Whether it is still true in this job, which is the one that left it or the next.
    pub(crate) fn holds(&self, writer: &Writer) -> Result<bool> {
        let conn = writer.conn();
        let version = writer.guard().as_internal(|| data_version(conn))?;
        Ok(writer.jobs() - self.job <= 1 && self.data_version == version)
    }

    /// The step of this job was committed.
    pub(crate) fn left_by(mut self, writer: &Writer, version: u64, settings: bool) -> Self {
        self.job = writer.jobs();
        self.last = Some(version);
        self.settings = settings;
        self
    }
}

/// A number that changes when another connection has committed.
fn data_version(conn: &Connection) -> rusqlite::Result<i64> {
    conn.query_row("PRAGMA main.data_version", [], |row| row.get(0))
}

fn record_has_triggers(conn: &Connection) -> rusqlite::Result<bool> {
    let sql = "SELECT 1 FROM main.sqlite_schema WHERE type = 'trigger' AND lower(tbl_name) IN (?1, ?2)";
    conn.prepare(sql)?.exists([record::TABLE, record::DETAILS])
}
