//! From a store to PostgreSQL: [`ExportToPostgres`].
//!
//! ```text
//! sql.rs         tokens of SQLite's SQL: what PRAGMAs do not say
//! expression.rs  expressions that mean the same at the server
//! schema.rs      reads the tables of one snapshot, and writes their statements for the server
//! quarantine.rs  rows that are set aside
//! scan           reads all rows: types for the columns, and the values that do not fit them
//! copy           one transaction: the tables, the rows by binary COPY, then keys, indexes, checks, foreign keys
//! compare        reads both sides inside that transaction, row by row; COMMIT only if they are the same
//! ```

mod expression;
mod quarantine;
mod report;
mod schema;
mod sql;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::panic::Location;
use std::time::{Duration, Instant};

use postgres::{Client, Transaction};
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use sha2::{Digest, Sha256};

use self::quarantine::Quarantine;
pub use self::report::{ExportMisfit, ExportNote, ExportReport, ExportedTable};
use self::schema::{Column, Schema, Table};
use super::canonical::{TableHash, Value};
use super::types::{Misfit, PgType, append_field, fit, of_binary};
use super::url::{Server, on_a_thread};
use crate::connection::sql_text::quoted;
use crate::engine::Engine;
use crate::error::{Error, Outcome, Result};
use crate::maintenance::progress::ProgressReporter;
use crate::telemetry::call_site::CallSite;

const OPERATION: &str = "export";

/// So many differing rows of a table are named.
const MAX_NAMED: usize = 5;

/// What the statements of an export take for granted.
const SESSION: &str = "SET standard_conforming_strings = on; SET synchronize_seqscans = off; SET statement_timeout = 0; \
     SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0";

/// How a binary COPY begins.
const COPY_HEAD: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// How many bytes are sent to the server at once.
const BUFFER: usize = 64 * 1024;

/// How often the callback is called.
const CALLBACK_INTERVAL: Duration = Duration::from_millis(100);

/// What becomes of values that do not fit the type of their column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnMisfit {
    /// The export fails before anything is written, and names them. The default.
    #[default]
    Fail,
    /// They become NULL. A misfit in a key still fails.
    Null,
    /// The column becomes `text`, and numbers their digits. Blobs, and text with U+0000 or that is not UTF-8,
    /// still fail.
    Text,
    /// Their rows go to the table `larder_quarantine` instead of their own: the table, the rowid, the reasons, and the
    /// row as an INSERT statement of SQLite. The comparison includes them. A foreign key to such a row is not made.
    Quarantine,
}

/// An export to PostgreSQL, which [`run`](Self::run) starts. Made by
/// [`Store::export_to_postgres`](crate::Store::export_to_postgres).
///
/// It reads one snapshot, writes in one transaction, and reads both sides before it commits: so the target has all
/// tables with the same rows, or is as it was. The store serves meanwhile. Memory: one row, 64 KiB, and the rows that are
/// set aside.
///
/// The snapshot pins the WAL until the export ends, as any long read does. Do not call it in an async task: use
/// `spawn_blocking` or its like.
#[must_use = "nothing is read before `run`"]
pub struct ExportToPostgres<'s> {
    engine: &'s Engine,
    url: String,
    schema: String,
    types: BTreeMap<(String, String), PgType>,
    infers: bool,
    on_misfit: OnMisfit,
    reporter: ProgressReporter<ExportProgress>,
}

/// The progress of an [`ExportToPostgres`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExportProgress {
    /// The current stage.
    pub stage: ExportStage,
    /// Number of rows in this stage so far, in all tables. The scan reads each row twice, and three times where
    /// [`OnMisfit::Text`] changes a type of its table.
    pub rows: u64,
    /// Time since the export began.
    pub elapsed: Duration,
}

/// A stage of an [`ExportToPostgres`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExportStage {
    /// Reading all rows, to find values that do not fit.
    Scan,
    /// Writing the rows.
    Copy,
    /// Reading both sides.
    Compare,
}

impl<'s> ExportToPostgres<'s> {
    pub(crate) fn new(engine: &'s Engine, url: &str) -> Self {
        Self {
            engine,
            url: url.to_owned(),
            schema: "public".to_owned(),
            types: BTreeMap::new(),
            infers: false,
            on_misfit: OnMisfit::default(),
            reporter: ProgressReporter::new(ExportProgress::at(ExportStage::Scan, 0)),
        }
    }

    /// The schema at the server, which is made if there is none of that name. The default is `public`.
    pub fn schema(mut self, name: impl Into<String>) -> Self {
        self.schema = name.into();
        self
    }

    /// The type of one column at the server. Without it, the declared type and the values decide.
    pub fn column_type(mut self, table: impl Into<String>, column: impl Into<String>, kind: PgType) -> Self {
        self.types.insert((table.into(), column.into()), kind);
        self
    }

    /// Chooses narrower types where every value fits, and says so in the report: `boolean` for `CHECK (x IN (0, 1))`, `json`
    /// for `CHECK (json_valid(x))`, and for columns of text that have values `uuid`, `date`, and `timestamptz` of ISO times,
    /// which are UTC without an offset. The default is `false`: a column of text stays text.
    ///
    /// The type counts from then on: a program that writes other text to the column gets an error of the server.
    pub fn infer_types(mut self, infer: bool) -> Self {
        self.infers = infer;
        self
    }

    /// What becomes of values that do not fit the type of their column. The default is [`OnMisfit::Fail`].
    pub fn on_misfit(mut self, policy: OnMisfit) -> Self {
        self.on_misfit = policy;
        self
    }

    /// Calls `f` at the start of each stage and some ten times a second, on a thread of the export.
    /// `ControlFlow::Break(())` cancels the export, and the target is as it was.
    pub fn progress(mut self, mut f: impl FnMut(&ExportProgress) -> ControlFlow<()> + Send + 'static) -> Self {
        self.reporter = ProgressReporter::new(ExportProgress::at(ExportStage::Scan, 0));
        self.reporter.call(CALLBACK_INTERVAL, move |progress, elapsed| {
            f(&ExportProgress { elapsed, ..progress })
        });
        self
    }

    /// Reads all rows and connects to no server: the statements, the misfits, and what the target would not have.
    ///
    /// # Errors
    ///
    /// [`Error::Options`] for the URL or a column that does not exist, [`Error::Cancelled`], [`Error::Closed`], and the
    /// errors of a read.
    #[track_caller]
    pub fn dry_run(self) -> Result<ExportReport> {
        let site = CallSite::new(None, Location::caller());
        self.on_a_thread(site, false)
    }

    /// Exports.
    ///
    /// # Errors
    ///
    /// As [`dry_run`](Self::dry_run), and [`Error::Postgres`]: values that do not fit, a table that is already there, an
    /// error of the server, or rows that differ. Its outcome says whether the target is as it was.
    #[track_caller]
    pub fn run(self) -> Result<ExportReport> {
        let site = CallSite::new(None, Location::caller());
        self.on_a_thread(site, true)
    }

    fn on_a_thread(self, site: CallSite, writes: bool) -> Result<ExportReport> {
        on_a_thread("larder-export", self.engine.path(), "an export", || {
            self.export(site, writes)
        })
    }

    fn export(&self, site: CallSite, writes: bool) -> Result<ExportReport> {
        let began = Instant::now();
        let server = Server::parse(&self.url)?;
        let readers = std::sync::Arc::clone(&self.engine.readers);
        self.reporter.begin();
        self.reporter
            .set_limit(move || readers.is_closed().then_some(Error::Closed));
        let dedicated = self.engine.readers.dedicated(site)?;
        let made = dedicated.with_conn(|conn| {
            let _watching = self.reporter.watch(conn, dedicated.interrupt());
            self.of_snapshot(conn, &server, writes)
        });
        let made = self.reporter.end(OPERATION).and(made);
        dedicated.unchanged()?;
        let mut report = made?;
        report.duration = began.elapsed();
        Ok(report)
    }

    fn of_snapshot(&self, conn: &Connection, server: &Server, writes: bool) -> Result<ExportReport> {
        let mut schema = Schema::read(conn)?;
        let mut report = ExportReport {
            server: server.to_string(),
            is_written: false,
            tables: Vec::new(),
            misfits: Vec::new(),
            notes: others(&schema),
            duration: Duration::ZERO,
        };
        for (table, column) in self.types.keys() {
            let found = schema.tables.iter().find(|known| known.name == *table);
            if !found.is_some_and(|table| table.columns.iter().any(|known| known.name == *column)) {
                return Err(Error::Options {
                    option: "column_type",
                    problem: format!("there is no column {column} in a table {table}"),
                });
            }
        }
        let mut fatal = false;
        let mut scanned = 0;
        self.enter(ExportStage::Scan)?;
        for table in &mut schema.tables {
            let (rows, misfits, is_fatal) = self.scan(conn, table, &mut scanned, &mut report.notes)?;
            fatal |= is_fatal;
            report.misfits.extend(misfits);
            report.notes.extend(changed(table));
            report.tables.push(ExportedTable {
                name: table.name.clone(),
                target: table.target.clone(),
                create: table.create(&self.schema),
                rows,
                quarantined: 0,
                sha256: None,
            });
        }
        if self.on_misfit == OnMisfit::Quarantine && schema.tables.iter().any(|table| table.target == quarantine::NAME)
        {
            return Err(Error::Options {
                option: "on_misfit",
                problem: format!(
                    "the store has a table {}, the name of that for rows set aside",
                    quarantine::NAME
                ),
            });
        }
        if !writes {
            for table in &schema.tables {
                let later = self.later(&schema, table).into_iter();
                let left_out = later.filter(|(_, statement)| statement.is_none());
                report.notes.extend(left_out.map(|(what, _)| untranslated(what)));
            }
            return Ok(report);
        }
        if fatal {
            let lines: Vec<String> = report.misfits.iter().map(ToString::to_string).collect();
            return Err(server.failed(&format!(
                "nothing was written, because values do not fit: {}; change them, give the column another type by \
                 column_type, or set on_misfit",
                lines.join("; ")
            )));
        }
        let mut client = server.connect()?;
        self.write(conn, server, &mut client, &mut schema, &mut report)?;
        report.is_written = true;
        Ok(report)
    }

    /// Reports a stage at its start, so that a short one is seen too.
    fn enter(&self, stage: ExportStage) -> Result<()> {
        match self.reporter.report(ExportProgress::at(stage, 0)) {
            ControlFlow::Continue(()) => Ok(()),
            // The reporter says why.
            ControlFlow::Break(()) => Err(Error::Cancelled { work: OPERATION }),
        }
    }

    /// Reads all rows of a table: for the types of its columns, and for the values that do not fit them.
    fn scan(
        &self,
        conn: &Connection,
        table: &mut Table,
        scanned: &mut u64,
        notes: &mut Vec<ExportNote>,
    ) -> Result<(u64, Vec<ExportMisfit>, bool)> {
        let mut seen: Vec<Seen> = table.columns.iter().map(|_| Seen::default()).collect();
        each(conn, table, |_, values| {
            for (seen, value) in seen.iter_mut().zip(values) {
                seen.add(*value, self.infers);
            }
            self.step(ExportStage::Scan, scanned)
        })?;
        for (at, seen) in seen.iter().enumerate() {
            let column = &table.columns[at];
            let asked = self.types.get(&(table.name.clone(), column.name.clone())).copied();
            let kind = asked.unwrap_or_else(|| kind_of(&column.declared, &seen.classes));
            let inferred = match asked {
                None if self.infers => inferred(table, column, kind, seen),
                _ => None,
            };
            if let Some((kind, reason)) = inferred {
                notes.push(ExportNote {
                    object: format!("column {}.{}", table.name, column.name),
                    instead: format!("{}: {reason}", kind.sql()),
                });
            }
            let [_, integers, reals, ..] = seen.classes;
            if kind == PgType::Float8 && integers && reals {
                notes.push(ExportNote {
                    object: format!("column {}.{}", table.name, column.name),
                    instead: "integers and real numbers are all double precision: 1 is 1.0".into(),
                });
            }
            table.columns[at].kind = inferred.map_or(kind, |(kind, _)| kind);
        }
        let types = &self.types;
        let name = table.name.clone();
        table.generate(|column| types.contains_key(&(name.clone(), column.name.clone())));
        let (rows, found) = self.misfits(conn, table, scanned)?;
        let listed = |table: &Table, found: Found| -> Vec<ExportMisfit> {
            let misfits = found
                .into_iter()
                .map(|((at, misfit), (count, first_rowid))| ExportMisfit {
                    table: table.name.clone(),
                    column: table.columns[at].name.clone(),
                    target_type: table.columns[at].kind.sql().to_owned(),
                    reason: misfit.reason().to_owned(),
                    count,
                    first_rowid,
                });
            misfits.collect()
        };
        let mut misfits = listed(table, found.clone());
        let mut fatal = false;
        let mut as_text = false;
        for (at, misfit) in found.into_keys() {
            let in_key = table.key.contains(&at);
            let column = &mut table.columns[at];
            match self.on_misfit {
                OnMisfit::Quarantine => {}
                OnMisfit::Text if column.kind != PgType::Text && misfit != Misfit::NullKey => {
                    column.kind = PgType::Text;
                    column.as_text = true;
                    as_text = true;
                }
                // The other reasons of a column that is text by now.
                OnMisfit::Text if column.as_text => {}
                OnMisfit::Null if !in_key && !column.not_null => column.misfits_are_null = true,
                _ => fatal = true,
            }
        }
        if as_text {
            // Values that fitted before may not fit text: blobs, U+0000.
            let (_, found) = self.misfits(conn, table, scanned)?;
            fatal |= !found.is_empty();
            misfits.extend(listed(table, found));
            // An expression of numbers is none of text.
            table.columns.iter_mut().for_each(|column| column.generated = None);
        }
        Ok((rows, misfits, fatal))
    }

    /// Counts the rows, and the values that do not fit.
    fn misfits(&self, conn: &Connection, table: &Table, scanned: &mut u64) -> Result<(u64, Found)> {
        let mut found = Found::new();
        let mut rows = 0;
        each(conn, table, |rowid, values| {
            rows += 1;
            for (at, value) in values.iter().enumerate() {
                if let Err(misfit) = table.fit(at, *value) {
                    found.entry((at, misfit)).or_insert((0, rowid)).0 += 1;
                }
            }
            self.step(ExportStage::Scan, scanned)
        })?;
        Ok((rows, found))
    }

    fn write(
        &self,
        conn: &Connection,
        server: &Server,
        client: &mut Client,
        schema: &mut Schema,
        report: &mut ExportReport,
    ) -> Result<()> {
        let failed = |what: &str, error| server.error(what, error, Outcome::RolledBack);
        let set = client.batch_execute(SESSION);
        set.map_err(|error| server.error("the settings of the session", error, Outcome::NotStarted))?;
        let begun = client.transaction();
        let mut tx = begun.map_err(|error| failed("BEGIN", error))?;
        if self.schema != "public" {
            let create = format!("CREATE SCHEMA IF NOT EXISTS {}", quoted(&self.schema));
            tx.batch_execute(&create).map_err(|error| failed("the schema", error))?;
        }
        for (table, exported) in schema.tables.iter_mut().zip(&mut report.tables) {
            self.create(server, &mut tx, table, exported, &mut report.notes)?;
        }
        let mut quarantine = Quarantine::new(self.on_misfit == OnMisfit::Quarantine && !report.misfits.is_empty());
        let mut copied = 0;
        self.enter(ExportStage::Copy)?;
        for (table, exported) in schema.tables.iter().zip(&mut report.tables) {
            exported.quarantined = self.copy(conn, server, &mut tx, table, &mut copied, &mut quarantine)?;
        }
        quarantine.write(server, &mut tx, &self.schema)?;
        for table in &schema.tables {
            for key in table.keys(&self.schema) {
                let made = tx.batch_execute(&key);
                made.map_err(|error| failed(&format!("a key of table {}", table.name), error))?;
            }
            self.sequence(conn, server, &mut tx, table)?;
        }
        for table in &schema.tables {
            for (what, statement) in self.later(schema, table) {
                attempt(server, &mut tx, &what, statement, &mut report.notes)?;
            }
        }
        let mut compared = 0;
        self.enter(ExportStage::Compare)?;
        quarantine.compare(server, &mut tx, &self.schema)?;
        for (table, exported) in schema.tables.iter().zip(&mut report.tables) {
            exported.sha256 = Some(self.compare(conn, server, &mut tx, table, &mut compared)?);
        }
        // The server checks what is deferred here.
        tx.commit().map_err(|error| {
            let outcome = if error.as_db_error().is_some() {
                Outcome::RolledBack
            } else {
                Outcome::Unknown
            };
            server.error("COMMIT", error, outcome)
        })
    }

    /// Makes a table; without its generated columns, if the server refuses their expressions.
    fn create(
        &self,
        server: &Server,
        tx: &mut Transaction<'_>,
        table: &mut Table,
        exported: &mut ExportedTable,
        notes: &mut Vec<ExportNote>,
    ) -> Result<()> {
        let failed = |error| server.error(&format!("table {}", exported.name), error, Outcome::RolledBack);
        let mut savepoint = tx.transaction().map_err(failed)?;
        match savepoint.batch_execute(&exported.create) {
            Ok(()) => savepoint.commit().map_err(failed),
            Err(error)
                if error.as_db_error().is_some() && table.columns.iter().any(|column| column.generated.is_some()) =>
            {
                savepoint.rollback().map_err(failed)?;
                for column in table.columns.iter_mut().filter(|column| column.generated.is_some()) {
                    column.generated = None;
                    let reason = super::url::describe(&error);
                    notes.push(ExportNote {
                        object: format!("column {}.{}", table.name, column.name),
                        instead: format!(
                            "an ordinary column with the values of now, since the server refused: {reason}"
                        ),
                    });
                }
                let create = table.create(&self.schema);
                tx.batch_execute(&create).map_err(failed)?;
                exported.create = create;
                Ok(())
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Sends the rows of a table, and returns how many were set aside.
    fn copy(
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

    /// Sets the sequence of an identity behind the greatest key that there is, or was under AUTOINCREMENT.
    fn sequence(&self, conn: &Connection, server: &Server, tx: &mut Transaction<'_>, table: &Table) -> Result<()> {
        if !table.has_identity {
            return Ok(());
        }
        let key = quoted(&table.columns[table.key[0]].name);
        let greatest = format!("SELECT coalesce(max({key}), 0) FROM main.{}", quoted(&table.name));
        let mut last: i64 = conn.query_row(&greatest, [], |row| row.get(0))?;
        let has_sequences = conn
            .prepare("SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_sequence'")?
            .exists([])?;
        if has_sequences {
            let seq = conn.query_row(
                "SELECT max(seq) FROM sqlite_sequence WHERE name = ?1",
                [&table.name],
                |row| row.get::<_, Option<i64>>(0),
            )?;
            last = last.max(seq.unwrap_or(0));
        }
        if last < 1 {
            return Ok(());
        }
        let set = "SELECT setval(pg_get_serial_sequence($1, $2), $3)";
        let column = &table.columns[table.key[0]].target;
        let done = tx.execute(set, &[&table.qualified(&self.schema), column, &last]);
        done.map_err(|error| {
            server.error(
                &format!("the sequence of table {}", table.name),
                error,
                Outcome::RolledBack,
            )
        })?;
        Ok(())
    }

    /// The statements after the data whose failure loses no row: indexes, checks, foreign keys. `None` where there is no
    /// translation.
    fn later(&self, schema: &Schema, table: &Table) -> Vec<(String, Option<String>)> {
        let mut all = Vec::new();
        for index in table.indexes.iter().filter(|index| !index.is_constraint) {
            all.push((format!("index {}", index.name), table.index(index, &self.schema)));
        }
        all.extend(
            table
                .nocase_keys(&self.schema)
                .into_iter()
                .map(|(what, sql)| (what, Some(sql))),
        );
        let columns: Vec<&Column> = table.columns.iter().collect();
        for check in table
            .checks
            .iter()
            .filter(|check| !expression::is_implied(check, &table.columns))
        {
            let translated = expression::translated(check, &columns);
            let alter =
                translated.map(|text| format!("ALTER TABLE {} ADD CHECK ({text})", table.qualified(&self.schema)));
            all.push((format!("check of table {}: {}", table.name, sql::shown(check)), alter));
        }
        for key in &table.foreign_keys {
            let parent = schema
                .tables
                .iter()
                .find(|parent| parent.name.eq_ignore_ascii_case(&key.parent));
            let alter = parent.and_then(|parent| table.foreign_key(key, parent, &self.schema));
            all.push((format!("foreign key of table {} to {}", table.name, key.parent), alter));
        }
        all
    }

    /// Reads both sides of a table, and gives the SHA-256 of its rows.
    fn compare(
        &self,
        conn: &Connection,
        server: &Server,
        tx: &mut Transaction<'_>,
        table: &Table,
        compared: &mut u64,
    ) -> Result<String> {
        let what = format!("reading table {} back", table.name);
        let reader = tx.copy_out(&table.copy_out(&self.schema));
        let reader = reader.map_err(|error| server.error(&what, error, Outcome::RolledBack))?;
        let broken = |error| server.broken(&what, error);
        let mut theirs = CopyRows::begin(reader).map_err(broken)?;
        let is_ordered = table.is_ordered();
        let (mut here, mut there) = (Rows::new(is_ordered), Rows::new(is_ordered));
        let (mut ours, mut other) = (Row::default(), Row::default());
        let mut differences: Vec<String> = Vec::new();
        let count = table.columns.len();
        let read = each(conn, table, |rowid, values| {
            if self.on_misfit == OnMisfit::Quarantine && table.is_set_aside(values) {
                return self.step(ExportStage::Compare, compared);
            }
            ours.clear();
            for (at, value) in values.iter().enumerate() {
                ours.push(&value_at(server, table, at, *value)?);
            }
            let found = theirs.next(&table.columns, &mut other).map_err(broken)?;
            if !found || (is_ordered && ours.bytes != other.bytes) {
                let row = here.rows() + 1;
                let place = rowid.map_or(String::new(), |rowid| format!(" (rowid {rowid} in the store)"));
                let columns = match found {
                    true => format!("differs in {}", ours.differing(&other, &table.columns)),
                    false => "is not there".to_owned(),
                };
                differences.push(format!("row {row}{place} {columns}"));
                if !found || differences.len() == MAX_NAMED {
                    return Err(differs(server, table, &differences));
                }
            }
            here.add(count, &ours.bytes);
            there.add(count, &other.bytes);
            self.step(ExportStage::Compare, compared)
        });
        read?;
        if !differences.is_empty() {
            return Err(differs(server, table, &differences));
        }
        if theirs.next(&table.columns, &mut other).map_err(broken)? {
            return Err(server.failed(&format!(
                "table {} has more rows at the server than in the store; nothing was kept there",
                table.name
            )));
        }
        let (here, there) = (here.finish(), there.finish());
        if here != there {
            return Err(server.failed(&format!(
                "table {} has other rows at the server: SHA-256 {here} in the store, {there} there; nothing was kept there",
                table.name
            )));
        }
        Ok(here)
    }

    fn step(&self, stage: ExportStage, rows: &mut u64) -> Result<()> {
        *rows += 1;
        if rows.is_multiple_of(256) && self.reporter.enter(ExportProgress::at(stage, *rows)).is_break() {
            // The reporter says why.
            return Err(Error::Cancelled { work: OPERATION });
        }
        Ok(())
    }
}

impl ExportProgress {
    fn at(stage: ExportStage, rows: u64) -> Self {
        Self {
            stage,
            rows,
            elapsed: Duration::ZERO,
        }
    }
}

/// A note about what has no translation.
fn untranslated(object: String) -> ExportNote {
    ExportNote {
        object,
        instead: "not made, because it may mean something else at the server: write it by hand".into(),
    }
}

/// Runs a statement in a savepoint. What the server refuses is noted, and the export goes on.
fn attempt(
    server: &Server,
    tx: &mut Transaction<'_>,
    what: &str,
    statement: Option<String>,
    notes: &mut Vec<ExportNote>,
) -> Result<()> {
    let Some(statement) = statement else {
        notes.push(untranslated(what.to_owned()));
        return Ok(());
    };
    let failed = |error| server.error(what, error, Outcome::RolledBack);
    let mut savepoint = tx.transaction().map_err(failed)?;
    match savepoint.batch_execute(&statement) {
        Ok(()) => savepoint.commit().map_err(failed),
        Err(error) if error.as_db_error().is_some() => {
            notes.push(ExportNote {
                object: what.to_owned(),
                instead: format!("not made, the server refused it: {}", super::url::describe(&error)),
            });
            savepoint.rollback().map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Calls `f` with each row of a table: its rowid and its values.
fn each(conn: &Connection, table: &Table, mut f: impl FnMut(Option<i64>, &[ValueRef<'_>]) -> Result<()>) -> Result<()> {
    let mut statement = conn.prepare(&table.select())?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let rowid = row.get_ref(0)?.as_i64().ok();
        let values: rusqlite::Result<Vec<_>> = (1..=table.columns.len()).map(|at| row.get_ref(at)).collect();
        f(rowid, &values?)?;
    }
    Ok(())
}

/// Misfits by column and reason: their number, the first rowid.
type Found = BTreeMap<(usize, Misfit), (u64, Option<i64>)>;

impl Table {
    /// The value of a column as the server takes it.
    fn fit<'v>(&self, at: usize, value: ValueRef<'v>) -> std::result::Result<Value<'v>, Misfit> {
        let column = &self.columns[at];
        match value {
            ValueRef::Null if self.key.contains(&at) => Err(Misfit::NullKey),
            ValueRef::Integer(number) if column.as_text => Ok(Value::Text(number.to_string().into())),
            ValueRef::Real(number) if column.as_text => Ok(Value::Text(format!("{number:?}").into())),
            value => fit(value, column.kind),
        }
    }

    /// Whether a row has a value that does not fit.
    fn is_set_aside(&self, values: &[ValueRef<'_>]) -> bool {
        values
            .iter()
            .enumerate()
            .any(|(at, value)| self.fit(at, *value).is_err())
    }
}

/// The value as it is written. The scan has found all that do not fit: another one is an error.
fn value_at<'v>(server: &Server, table: &Table, at: usize, value: ValueRef<'v>) -> Result<Value<'v>> {
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

fn differs(server: &Server, table: &Table, differences: &[String]) -> Error {
    server.failed(&format!(
        "table {} is not the same at the server, so nothing was kept there: {}; look for triggers, event triggers and \
         rules at the server",
        table.name,
        differences.join("; ")
    ))
}

/// The canonical values of a row.
#[derive(Default)]
struct Row {
    bytes: Vec<u8>,
    /// Where each value ends.
    ends: Vec<usize>,
}

impl Row {
    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    fn push(&mut self, value: &Value<'_>) {
        value.append_to(&mut self.bytes);
        self.ends.push(self.bytes.len());
    }

    fn value(&self, at: usize) -> &[u8] {
        let from = at.checked_sub(1).and_then(|before| self.ends.get(before)).copied();
        let end = self.ends.get(at).copied().unwrap_or_default();
        self.bytes.get(from.unwrap_or_default()..end).unwrap_or_default()
    }

    /// The names of the columns in which it differs.
    fn differing(&self, other: &Row, columns: &[Column]) -> String {
        let differ = columns
            .iter()
            .enumerate()
            .filter(|(at, _)| self.value(*at) != other.value(*at));
        let names: Vec<&str> = differ.map(|(_, column)| column.name.as_str()).collect();
        names.join(", ")
    }
}

/// What was seen of a column.
struct Seen {
    classes: [bool; 5],
    /// Whether all text was a UUID, a date, a time with a date.
    fits: [bool; 3],
    /// Whether all integers were 0 or 1.
    is_bool: bool,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            classes: [false; 5],
            fits: [true; 3],
            is_bool: true,
        }
    }
}

const BY_TEXT: [PgType; 3] = [PgType::Uuid, PgType::Date, PgType::Timestamptz];

impl Seen {
    fn add(&mut self, value: ValueRef<'_>, infers: bool) {
        self.classes[class_index(value)] = true;
        self.is_bool &= !matches!(value, ValueRef::Integer(number) if !(0..=1).contains(&number));
        if infers && matches!(value, ValueRef::Text(_)) {
            for (fits, kind) in self.fits.iter_mut().zip(BY_TEXT) {
                *fits = *fits && fit(value, kind).is_ok();
            }
        }
    }
}

/// A narrower type that all values fit, and the reason.
fn inferred(table: &Table, column: &Column, kind: PgType, seen: &Seen) -> Option<(PgType, &'static str)> {
    let says = |kind: PgType| {
        let mut as_kind = column.clone();
        as_kind.kind = kind;
        let of_column = std::slice::from_ref(&as_kind);
        table
            .checks
            .iter()
            .any(|check| expression::is_implied(check, of_column))
    };
    if kind == PgType::Int8 && says(PgType::Bool) && seen.is_bool && seen.classes[2..] == [false; 3] {
        return Some((PgType::Bool, "a CHECK allows 0 and 1 alone"));
    }
    if kind != PgType::Text || seen.classes[1..] != [false, false, true, false] {
        return None;
    }
    let at = table.columns.iter().position(|known| known.name == column.name);
    let in_index = |index: &schema::Index| index.columns.iter().any(|(column, ..)| *column == at);
    // The server has no order of json, so no key or index either.
    let in_key = table.key.iter().any(|key| Some(*key) == at) || table.indexes.iter().any(in_index);
    if says(PgType::Json) && in_key {
        return None;
    }
    if says(PgType::Json) {
        return Some((PgType::Json, "a CHECK allows JSON alone"));
    }
    let fitting = seen.fits.iter().zip(BY_TEXT).find(|(fits, _)| **fits);
    fitting.map(|(_, kind)| (kind, "all values fit; their text is written in one form from now on"))
}

fn class_index(value: ValueRef<'_>) -> usize {
    match value {
        ValueRef::Null => 0,
        ValueRef::Integer(_) => 1,
        ValueRef::Real(_) => 2,
        ValueRef::Text(_) => 3,
        ValueRef::Blob(_) => 4,
    }
}

/// The type for a column: by the affinity of its declared type (<https://sqlite.org/datatype3.html>), and by the values
/// where that leaves it open.
fn kind_of(declared: &str, seen: &[bool; 5]) -> PgType {
    let declared = declared.to_ascii_uppercase();
    let has = |parts: &[&str]| parts.iter().any(|part| declared.contains(part));
    let [_, integer, real, text, blob] = *seen;
    if has(&["INT"]) {
        return PgType::Int8;
    }
    if has(&["CHAR", "CLOB", "TEXT"]) {
        return PgType::Text;
    }
    let is_open = declared.is_empty() || declared == "ANY";
    if has(&["BLOB"]) || is_open {
        return match (integer, real, text, blob) {
            (_, _, _, true) => PgType::Bytea,
            (_, _, true, _) => PgType::Text,
            (_, true, ..) => PgType::Float8,
            (true, ..) => PgType::Int8,
            _ if is_open => PgType::Text,
            _ => PgType::Bytea,
        };
    }
    if has(&["REAL", "FLOA", "DOUB"]) {
        return PgType::Float8;
    }
    match (integer, real, text) {
        _ if has(&["NUMERIC", "DECIMAL"]) => PgType::Numeric,
        (false, false, true) => PgType::Text,
        (_, true, _) => PgType::Float8,
        (true, ..) => PgType::Int8,
        _ if has(&["DATE", "TIME"]) => PgType::Text,
        _ => PgType::Int8,
    }
}

/// Notes about what is no table.
fn others(schema: &Schema) -> Vec<ExportNote> {
    let note = |other: &schema::Other| {
        let is_full_text = other.sql.to_ascii_lowercase().contains("using fts");
        let instead = match other.kind.as_str() {
            "view" => "not made: write it in the server's SQL",
            "shadow" => "not made, its rows neither: it belongs to a virtual table by its name",
            "trigger" => "not made: write a function and a trigger, or do its work in the program",
            _ if is_full_text => {
                "not made, its rows neither: add a column `tsvector GENERATED ALWAYS AS (to_tsvector('simple', ..)) STORED` \
                 to the table whose text it has, and a GIN index on it"
            }
            _ => "not made, its rows neither: a virtual table has no counterpart",
        };
        let rows = other.rows.map_or(String::new(), |rows| format!("; it has {rows} rows"));
        ExportNote {
            object: format!("{} {}", other.kind, other.name),
            instead: format!(
                "{instead}{rows}; it is {}",
                other.sql.split_whitespace().collect::<Vec<_>>().join(" ")
            ),
        }
    };
    schema.others.iter().map(note).collect()
}

/// Notes about what a table has in another form.
fn changed(table: &Table) -> Vec<ExportNote> {
    let mut notes = Vec::new();
    let mut note = |object: String, instead: &str| {
        notes.push(ExportNote {
            object,
            instead: instead.to_owned(),
        });
    };
    for column in &table.columns {
        let name = format!("column {}.{}", table.name, column.name);
        if column.target != schema::shortened(&column.name) {
            note(name.clone(), &format!("its name is {} there", column.target));
        }
        if column.generated.is_some() {
            continue;
        }
        if column.is_generated {
            note(
                name.clone(),
                "an ordinary column with the values of now: it is no longer generated",
            );
        } else if let Some(text) = &column.default
            && !table.has_identity_at(&column.name)
            && schema::default(text, column.kind).is_none()
        {
            note(
                format!("{name}, DEFAULT {text}"),
                "not made: write it in the server's SQL",
            );
        }
    }
    for column in &table.columns {
        let Some(collation) = &column.collation else { continue };
        let instead = match collation.as_str() {
            "NOCASE" => {
                "comparisons and ORDER BY tell case apart there: compare lower(..); keys and indexes are made on lower(..) too"
            }
            _ => "comparisons and ORDER BY are by the bytes there",
        };
        note(
            format!("collation {collation} of column {}.{}", table.name, column.name),
            instead,
        );
    }
    for (at, collation) in table.key.iter().zip(&table.key_collations) {
        let column = &table.columns[*at];
        // That of the column is noted above.
        if collation != "BINARY" && column.collation.as_ref() != Some(collation) {
            note(
                format!(
                    "collation {collation} of column {} in the primary key of table {}",
                    column.name, table.name
                ),
                "the key is by the bytes there; for text of NOCASE or RTRIM, it has a unique index on lower(..) or rtrim(..) \
                 beside it",
            );
        }
    }
    for index in &table.indexes {
        // That of a column is noted above.
        let is_other = |(column, _, collation): &(Option<usize>, bool, String)| {
            let of_column = column.and_then(|at| table.columns[at].collation.as_deref());
            collation != "BINARY" && !(index.is_constraint && of_column == Some(collation.as_str()))
        };
        if index.columns.iter().any(is_other) {
            note(
                format!("collation in index {} of table {}", index.name, table.name),
                "NOCASE is an index on lower(..): compare lower(..); RTRIM is one on rtrim(..) for a key alone; an index of \
                 another collation is not made",
            );
        }
    }
    for conflict in &table.conflicts {
        note(
            format!("table {}: {conflict}", table.name),
            "an error at the server: write INSERT .. ON CONFLICT .. DO UPDATE or DO NOTHING in the program",
        );
    }
    if table.has_rowid && !table.has_identity {
        note(
            format!("rowid of table {}", table.name),
            "not there: a program that uses it needs a key",
        );
    }
    notes
}

impl Table {
    fn has_identity_at(&self, column: &str) -> bool {
        self.has_identity && self.columns[self.key[0]].name == column
    }
}

/// The rows of one side.
enum Rows {
    /// In the order of the key.
    Ordered(TableHash),
    /// In any order: the sum of the rows' SHA-256, as four numbers that wrap around, and the number of rows.
    Unordered([u64; 4], u64),
}

impl Rows {
    fn new(ordered: bool) -> Self {
        if ordered {
            Rows::Ordered(TableHash::default())
        } else {
            Rows::Unordered([0; 4], 0)
        }
    }

    fn add(&mut self, columns: usize, row: &[u8]) {
        match self {
            Rows::Ordered(hash) => hash.add(columns, row),
            Rows::Unordered(sums, rows) => {
                *rows += 1;
                let digest = Sha256::digest(row);
                for (sum, part) in sums.iter_mut().zip(digest.chunks(8)) {
                    let part = part.iter().fold(0, |part, byte| part << 8 | u64::from(*byte));
                    *sum = sum.wrapping_add(part);
                }
            }
        }
    }

    fn rows(&self) -> u64 {
        match self {
            Rows::Ordered(hash) => hash.rows(),
            Rows::Unordered(_, rows) => *rows,
        }
    }

    fn finish(self) -> String {
        match self {
            Rows::Ordered(hash) => hash.finish(),
            Rows::Unordered(sums, rows) => {
                let mut sha = Sha256::new();
                sums.iter().for_each(|sum| sha.update(sum.to_be_bytes()));
                sha.update(rows.to_be_bytes());
                crate::runtime::hex::hex(&sha.finalize())
            }
        }
    }
}

/// The rows of a binary COPY.
struct CopyRows<R> {
    reader: R,
    field: Vec<u8>,
}

impl<R: Read> CopyRows<R> {
    fn begin(mut reader: R) -> std::io::Result<Self> {
        let mut head = [0; 19];
        reader.read_exact(&mut head)?;
        Ok(Self {
            reader,
            field: Vec::new(),
        })
    }

    /// Reads the canonical values of the next row into `out`. False at the end.
    fn next(&mut self, columns: &[Column], out: &mut Row) -> std::io::Result<bool> {
        out.clear();
        let mut count = [0; 2];
        self.reader.read_exact(&mut count)?;
        if i16::from_be_bytes(count) < 0 {
            return Ok(false);
        }
        for column in columns {
            let mut length = [0; 4];
            self.reader.read_exact(&mut length)?;
            let length = usize::try_from(i32::from_be_bytes(length)).ok();
            self.field.resize(length.unwrap_or(0), 0);
            self.reader.read_exact(&mut self.field)?;
            let value = of_binary(column.kind, length.map(|_| self.field.as_slice()));
            let unknown = || std::io::Error::other(format!("a value of column {} in another form", column.name));
            out.push(&value.ok_or_else(unknown)?);
        }
        Ok(true)
    }
}

impl fmt::Debug for ExportToPostgres<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExportToPostgres")
            .field("store", self.engine)
            .field("schema", &self.schema)
            .field("types", &self.types)
            .field("on_misfit", &self.on_misfit)
            .finish_non_exhaustive()
    }
}
