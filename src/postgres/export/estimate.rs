//! How long an export would take, by a sample of each table.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use postgres::{Client, Transaction};
use rusqlite::Connection;
use sha2::{Digest, Sha256};

use super::copy::{COPY_END, COPY_HEAD};
use super::scan::TableRow;
use super::schema::{Schema, Table};
use super::{ExportEstimate, ExportReport, ExportToPostgres, session};
use crate::connection::sql_text::quoted;
use crate::error::{Outcome, Result};
use crate::postgres::url::Server;

/// A sample has at most so many rows of a table.
const ROWS: usize = 10_000;

/// A sample has about so many bytes of a table, the same number from each place.
const BYTES: usize = 1 << 20;

/// A sample of a table with rowids is taken from so many places.
const PLACES: usize = 10;

/// The sample of a table.
struct Sample {
    rows: u64,
    /// As a binary COPY sends it.
    copy: Vec<u8>,
    /// How long it took to encode it.
    encoding: Duration,
    /// How long it took to hash it.
    hashing: Duration,
}

impl ExportToPostgres<'_> {
    /// Estimates how long an export would take, if reading all rows took `scan`. With [`ExportToPostgres::probe`], the samples
    /// are written to tables in a schema of their own, with keys and indexes, read back, and rolled back.
    pub(super) fn estimate(
        &self,
        conn: &Connection,
        server: &Server,
        schema: &mut Schema,
        report: &mut ExportReport,
        scan: Duration,
    ) -> Result<()> {
        let mut estimate = ExportEstimate {
            sample_rows: 0,
            sample_bytes: 0,
            bytes: 0,
            // The scan and the copy read each row.
            here: scan * 2,
            server: None,
        };
        let rows = report.rows();
        let mut client = self.probes.then(|| session::begin(server)).transpose()?;
        let probe = client.as_mut().map(|client| Probe::begin(self, server, client));
        let mut probe = probe.transpose()?;
        for (table, exported) in schema.tables.iter_mut().zip(&report.tables) {
            if let Some(probe) = &mut probe {
                self.create(server, &mut probe.tx, table, &probe.schema, &mut report.notes)?;
            }
            let sample = Sample::take(conn, server, table)?;
            let factor = exported.rows as f64 / sample.rows.max(1) as f64;
            let sent = sample.copy.len() - COPY_HEAD.len() - COPY_END.len();
            estimate.sample_rows += sample.rows;
            estimate.sample_bytes += sent as u64;
            estimate.bytes += (sent as f64 * factor) as u64;
            // They are hashed when they are sent, and when they are read back.
            estimate.here += (sample.encoding + sample.hashing * 2).mul_f64(factor);
            if table.has_made_columns() {
                // The comparison reads them in the store, too.
                estimate.here += scan.mul_f64(exported.rows as f64 / rows.max(1) as f64);
                estimate.here += sample.encoding.mul_f64(factor);
            }
            if let Some(probe) = &mut probe {
                let time = probe.send(table, &sample)?.mul_f64(factor);
                *estimate.server.get_or_insert_default() += time;
            }
        }
        probe.map_or(Ok(()), Probe::end)?;
        report.estimate = Some(estimate);
        Ok(())
    }
}

/// A transaction that is rolled back.
struct Probe<'c> {
    export: &'c ExportToPostgres<'c>,
    server: &'c Server,
    tx: Transaction<'c>,
    schema: String,
}

impl<'c> Probe<'c> {
    fn begin(export: &'c ExportToPostgres<'c>, server: &'c Server, client: &'c mut Client) -> Result<Self> {
        let schema = format!("larder_probe_{:016x}", crate::runtime::random::number());
        let begun = client.transaction();
        let mut tx = begun.map_err(|error| server.error("BEGIN", error, Outcome::NotStarted))?;
        let what = "the schema of the probe, which needs the right CREATE on the database";
        export.execute(server, &mut tx, what, &format!("CREATE SCHEMA {}", quoted(&schema)))?;
        Ok(Self {
            export,
            server,
            tx,
            schema,
        })
    }

    /// Sends the rows, makes keys and indexes, reads the rows back, and gives the time of that.
    fn send(&mut self, table: &Table, sample: &Sample) -> Result<Duration> {
        let what = format!("the probe of table {}", table.name);
        let failed = |error| self.server.error(&what, error, Outcome::RolledBack);
        let broken = |error| self.server.broken(&what, error);
        let began = Instant::now();
        let mut writer = self.tx.copy_in(&table.copy_in(&self.schema)).map_err(failed)?;
        writer.write_all(&sample.copy).map_err(broken)?;
        writer.finish().map_err(failed)?;
        let indexes = table.indexes.iter().filter(|index| !index.is_constraint);
        let indexes = indexes.filter_map(|index| table.index(index, &self.schema));
        for statement in table.keys(&self.schema).into_iter().chain(indexes) {
            // The export reports what the server refuses.
            let _ = self.export.in_savepoint(self.server, &mut self.tx, &what, &statement)?;
        }
        let copy = match table.has_made_columns() {
            true => table.copy_out(&self.schema),
            false => table.copy_out_as_stored(&self.schema),
        };
        let mut reader = self.tx.copy_out(&copy).map_err(failed)?;
        let mut buffer = vec![0; 64 * 1024];
        while reader.read(&mut buffer).map_err(broken)? > 0 {}
        Ok(began.elapsed())
    }

    fn end(self) -> Result<()> {
        let ended = self.tx.rollback();
        ended.map_err(|error| self.server.error("ROLLBACK", error, Outcome::RolledBack))
    }
}

impl Sample {
    fn take(conn: &Connection, server: &Server, table: &Table) -> Result<Self> {
        let mut sample = Self {
            rows: 0,
            copy: COPY_HEAD.to_vec(),
            encoding: Duration::ZERO,
            hashing: Duration::ZERO,
        };
        let (sent, mut sha256) = (table.sent(), Sha256::new());
        table.sample(conn, |place, row| {
            // A row that does not fit is no part of it.
            if !table.is_misfit(row)? {
                let (began, from) = (Instant::now(), sample.copy.len());
                table.append_row(server, row, &sent, &mut sample.copy)?;
                let encoded = began.elapsed();
                sha256.update(&sample.copy[from..]);
                sample.hashing += began.elapsed() - encoded;
                sample.encoding += encoded;
                sample.rows += 1;
            }
            Ok(sample.copy.len() < BYTES / PLACES * (place + 1))
        })?;
        sample.copy.extend(COPY_END);
        Ok(sample)
    }
}

impl Table {
    /// Calls `f` with rows from several places. It returns whether it wants more of that place.
    fn sample(&self, conn: &Connection, mut f: impl FnMut(usize, &TableRow<'_>) -> Result<bool>) -> Result<()> {
        // A column may have the name.
        let is_hidden = self
            .columns
            .iter()
            .any(|column| column.name.eq_ignore_ascii_case("rowid"));
        let has_places = self.has_rowid && !is_hidden;
        let rowid = if has_places { "rowid" } else { "NULL" };
        let columns: Vec<String> = self.columns.iter().map(|column| quoted(&column.name)).collect();
        let from = quoted(&self.name);
        let select = format!("SELECT {rowid}, {} FROM main.{from}", columns.join(", "));
        let mut read = |place: usize, sql: &str, bounds: &[i64]| -> Result<()> {
            let mut statement = conn.prepare(sql)?;
            let mut rows = statement.query(rusqlite::params_from_iter(bounds))?;
            while let Some(row) = rows.next()? {
                if !f(place, &TableRow(row))? {
                    break;
                }
            }
            Ok(())
        };
        if !has_places {
            return read(PLACES - 1, &format!("{select} LIMIT {ROWS}"), &[]);
        }
        let bounds = format!("SELECT min(rowid), max(rowid) FROM main.{from}");
        let bounds = conn.query_row(&bounds, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let (Some(least), Some(greatest)): (Option<i64>, Option<i64>) = bounds else {
            return Ok(());
        };
        let sql = format!(
            "{select} WHERE rowid BETWEEN ?1 AND ?2 ORDER BY rowid LIMIT {}",
            ROWS / PLACES
        );
        let width = i128::from(greatest) - i128::from(least) + 1;
        // The first rowid of a place.
        let begin = |place: usize| i128::from(least) + width * place as i128 / PLACES as i128;
        for place in 0..PLACES {
            let (from, to) = (begin(place), begin(place + 1) - 1);
            if from <= to {
                read(place, &sql, &[from as i64, to as i64])?;
            }
        }
        Ok(())
    }
}
