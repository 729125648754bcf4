//! From a store to PostgreSQL: [`ExportToPostgres`].
//!
//! ```text
//! sql.rs         tokens of SQLite's SQL: what PRAGMAs do not say
//! expression.rs  expressions that mean the same at the server
//! schema.rs      reads the tables of one snapshot, and writes their statements for the server
//! statements.rs  what the statements of the service use that the server does otherwise
//! comments.rs    comments in the SQL of a table
//! others.rs      what is not made: views, triggers, virtual tables, with the SQL to review
//! rules.rs       types of columns that were asked for
//! estimate.rs    how long an export would take, by a sample
//! quarantine.rs  rows that are set aside
//! scan.rs        reads all rows: types for the columns, and the values that do not fit them
//! copy.rs        the rows by binary COPY
//! compare.rs     reads the rows back inside the transaction that wrote them, and compares them with those that were sent
//! resume.rs      the same by one transaction for each table, and one at the end: it goes on where it was broken off
//! session.rs     statements at the server, which a cancellation ends
//! mod.rs         one transaction: the tables, the rows, keys, indexes, checks, foreign keys; COMMIT only if both sides are
//!                the same
//! ```

mod comments;
mod compare;
mod copy;
mod estimate;
mod expression;
mod others;
mod quarantine;
mod report;
mod resume;
mod rules;
mod scan;
mod schema;
mod session;
mod sql;
mod statements;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::panic::Location;
use std::time::{Duration, Instant};

use postgres::{Client, Transaction};
use rusqlite::Connection;

use self::compare::Compared;
pub use self::report::{
    ExportDifference, ExportEstimate, ExportMisfit, ExportNote, ExportReport, ExportStatement, ExportedTable,
};
use self::schema::{Column, Schema, Table};
use self::session::commit;
use super::events;
use super::types::PgType;
use super::url::{Server, on_a_thread};
use crate::connection::sql_text::quoted;
use crate::engine::Engine;
use crate::error::{Error, Outcome, Result};
use crate::maintenance::progress::ProgressReporter;
use crate::telemetry::call_site::CallSite;
use crate::telemetry::export::RunningExport;
use crate::telemetry::stats::LastExport;

const OPERATION: &str = "export";

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
/// It reads one snapshot, writes in one transaction, and reads the rows of the server back before it commits: so the target has
/// all tables with the same rows, or is as it was. The store serves meanwhile. Memory: some MB, and some times the largest row.
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
    resumes: bool,
    /// The schema in which the tables are made, if that is not their own.
    staging: Option<String>,
    /// Statements to look at, and how often each ran.
    statements: Vec<(String, u64)>,
    probes: bool,
    reporter: ProgressReporter<ExportProgress>,
    /// Its entry in the statistics, while it runs.
    running: Option<RunningExport>,
}

/// The progress of an [`ExportToPostgres`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExportProgress {
    /// The current stage.
    pub stage: ExportStage,
    /// Number of rows in this stage so far, in all tables. The scan reads the rows of a table again where [`OnMisfit::Text`]
    /// changes one of its types, or the values of a column without a clear type have done so on the way. The copy and the
    /// comparison read those of a table again if some of them are set aside.
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
    /// Making keys, indexes, checks and foreign keys. It has no rows. A cancellation ends the statement of the server.
    Index,
    /// Reading the rows of the server back, and comparing them with those of the store. The number of rows so far is an
    /// estimate by their bytes. It goes back if the rows of a table have to be read again.
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
            resumes: false,
            staging: None,
            statements: Vec::new(),
            probes: false,
            running: None,
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

    /// The types of columns as text, such as a file has: `table.column = uuid`, one a line, with `#` before a comment and
    /// double quotes around names that need them. A rule counts more than an earlier call for its column.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE users(id TEXT PRIMARY KEY, born TEXT)"))?;
    /// let rules = "
    ///     users.id = uuid
    ///     users.born = date   # since version 3
    /// ";
    /// let plan = store.export_to_postgres("postgres://app@db.example/app").types(rules)?.dry_run()?;
    /// assert!(plan.tables[0].create.contains(r#""id" uuid"#));
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Options`] with the line of a rule that is none, or whose type larder does not know.
    pub fn types(mut self, rules: &str) -> Result<Self> {
        self.types.extend(rules::parse(rules)?);
        Ok(self)
    }

    /// Chooses narrower types where every value fits, and says so in the report: `boolean` for `CHECK (x IN (0, 1))`, `json`
    /// for `CHECK (json_valid(x))`, and for columns of text that have values `uuid`, `date`, and `timestamptz` of ISO times,
    /// which are UTC without an offset. Times in a key, a foreign key or a unique index stay text: two texts may be one
    /// instant. The default is `false`: a column of text stays text.
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

    /// Exports table by table, for very large databases: each table is committed to the schema `larder_export_NAME`, where
    /// `NAME` is that of the target, and all are moved to the target at the end, at once. The default is `false`: one
    /// transaction.
    ///
    /// If it is broken off by any means, the target is as it was, and the same export goes on: a table that is complete is kept
    /// if the store still has the same rows, and made again otherwise. All are compared at the end. `DROP SCHEMA
    /// larder_export_NAME CASCADE` gives up.
    ///
    /// ```no_run
    /// # let store = larder::Store::open_temp()?;
    /// let export = || store.export_to_postgres("postgres://app@db.example/app").resumable(true);
    /// let report = export().run().or_else(|error| if error.is_retryable() { export().run() } else { Err(error) })?;
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn resumable(mut self, resumable: bool) -> Self {
        self.resumes = resumable;
        self
    }

    /// Has [`dry_run`](Self::dry_run) look at a statement of the service, which ran so many times, 0 if that is not known.
    /// The text may have several statements. A dry run looks at those of [`Stats::statements`](crate::Stats::statements)
    /// in any case, so this is for a program that is not the service.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// let export = store.export_to_postgres("postgres://app@db.example/app");
    /// let plan = export.statement("INSERT OR IGNORE INTO seen(id) VALUES (?1)", 7).dry_run()?;
    /// assert_eq!(plan.statements[0].differences[0].what, "INSERT OR IGNORE");
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn statement(mut self, sql: impl Into<String>, calls: u64) -> Self {
        self.statements.push((sql.into(), calls));
        self
    }

    /// Whether [`dry_run`](Self::dry_run) measures the server too: it writes a sample of each table to a schema of a
    /// random name, reads it back, and rolls all back. Without it, the estimate has no part of the server. The default is
    /// `false`: a dry run connects to no server.
    pub fn probe(mut self, probe: bool) -> Self {
        self.probes = probe;
        self
    }

    /// Calls `f` at the start of each stage, before the rows of each table are written, and some ten times a second, on a
    /// thread of the export.
    /// `ControlFlow::Break(())` cancels the export, and the target is as it was. [`run`](Self::run) returns once the server
    /// has rolled back.
    pub fn progress(mut self, mut f: impl FnMut(&ExportProgress) -> ControlFlow<()> + Send + 'static) -> Self {
        self.reporter = ProgressReporter::new(ExportProgress::at(ExportStage::Scan, 0));
        self.reporter.call(CALLBACK_INTERVAL, move |progress, elapsed| {
            f(&ExportProgress { elapsed, ..progress })
        });
        self
    }

    /// Reads all rows and connects to no server, unless [`probe`](Self::probe) asks for it: the statements, the misfits,
    /// what the target would not have, which statements of the service have to change, and how long it would take.
    ///
    /// # Errors
    ///
    /// [`Error::Options`] for the URL or a column that does not exist, [`Error::Cancelled`], [`Error::Closed`], the
    /// errors of a read, and [`Error::Postgres`] from a [`probe`](Self::probe).
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

    fn on_a_thread(mut self, site: CallSite, writes: bool) -> Result<ExportReport> {
        self.staging = (self.resumes && writes).then(|| resume::staging(&self.schema));
        on_a_thread("larder-export", self.engine.path(), "an export", || {
            self.export(site, writes)
        })
    }

    fn export(mut self, site: CallSite, writes: bool) -> Result<ExportReport> {
        let began = Instant::now();
        let server = Server::parse(&self.url)?;
        let (shown, of) = (server.to_string(), site.to_string());
        let exports = &self.engine.telemetry.exports;
        self.running = Some(exports.begin(shown.clone(), of.clone(), !writes));
        let made = self.run_on(&server, site, writes, began);
        if writes && !matches!(made, Err(Error::Closed)) {
            exports.note(LastExport {
                server: shown.clone(),
                ago: Duration::ZERO,
                duration: began.elapsed(),
                rows: made.as_ref().map_or(0, ExportReport::rows),
                error: made.as_ref().err().map(|error| error.kind().to_owned()),
            });
            events::exported(self.engine.path(), &shown, &of, began.elapsed(), &made);
        }
        made
    }

    fn run_on(&self, server: &Server, site: CallSite, writes: bool, began: Instant) -> Result<ExportReport> {
        let readers = std::sync::Arc::clone(&self.engine.readers);
        self.reporter.begin();
        self.reporter
            .set_limit(move || readers.is_closed().then_some(Error::Closed));
        let dedicated = self.engine.readers.dedicated(site)?;
        let made = dedicated.with_conn(|conn| {
            let _watching = self.reporter.watch(conn, dedicated.interrupt());
            // All pages are read once or some times: in the memory of the process they would only count as its own.
            conn.execute_batch("PRAGMA mmap_size = 0")?;
            self.of_snapshot(conn, server, writes)
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
            notes: Vec::new(),
            statements: Vec::new(),
            statements_seen: 0,
            estimate: None,
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
        let began = Instant::now();
        for table in &mut schema.tables {
            let (misfits, is_fatal) = self.scan(conn, table, &mut scanned, &mut report.notes)?;
            fatal |= is_fatal;
            report.misfits.extend(misfits);
            report.notes.extend(changed(table));
            report.tables.push(ExportedTable {
                name: table.name.clone(),
                target: table.target.clone(),
                create: String::new(),
                rows: table.rows,
                quarantined: 0,
                resumed: false,
                sha256: None,
            });
        }
        let scan = began.elapsed();
        report.notes.splice(0..0, others::notes(&schema, &self.schema));
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
            self.look_at_statements(&schema, &mut report);
            self.estimate(conn, server, &mut schema, &mut report, scan)?;
        } else if fatal {
            let lines: Vec<String> = report.misfits.iter().map(ToString::to_string).collect();
            return Err(server.failed(&format!(
                "nothing was written, because values do not fit: {}; change them, give the column another type by \
                 column_type, or set on_misfit",
                lines.join("; ")
            )));
        } else {
            let mut client = session::begin(server)?;
            let is_utf8 = session::is_utf8(server, &mut client)?;
            for table in &mut schema.tables {
                table.orders_text &= is_utf8;
            }
            if self.resumes {
                self.write_by_table(conn, server, &mut client, &mut schema, &mut report)?;
            } else {
                self.write(conn, server, &mut client, &mut schema, &mut report)?;
            }
        }
        // The server may have refused generated columns.
        for (table, exported) in schema.tables.iter().zip(&mut report.tables) {
            exported.create = table.create(&self.schema);
        }
        report.is_written = writes;
        Ok(report)
    }

    /// Which statements of the service have to change.
    fn look_at_statements(&self, schema: &Schema, report: &mut ExportReport) {
        let own = self.engine.watch.stats().statements;
        let own = own.into_iter().map(|statement| (statement.sql, statement.calls));
        let texts: Vec<(String, u64)> = own.chain(self.statements.iter().cloned()).collect();
        let names = statements::Names::of(schema);
        (report.statements, report.statements_seen) = statements::look(&texts, &names);
        report.notes.extend(statements::parameters(&texts));
    }

    /// Reports a stage at its start, so that a short one is seen too.
    fn enter(&self, stage: ExportStage) -> Result<()> {
        self.report(stage, 0)
    }

    fn report(&self, stage: ExportStage, rows: u64) -> Result<()> {
        self.note(stage, rows);
        going(self.reporter.report(ExportProgress::at(stage, rows)))
    }

    fn write(
        &self,
        conn: &Connection,
        server: &Server,
        client: &mut Client,
        schema: &mut Schema,
        report: &mut ExportReport,
    ) -> Result<()> {
        self.refuse_what_is_there(server, client, schema)?;
        let begun = client.transaction();
        let mut tx = begun.map_err(|error| server.error("BEGIN", error, Outcome::RolledBack))?;
        if self.schema != "public" {
            let create = format!("CREATE SCHEMA IF NOT EXISTS {}", quoted(&self.schema));
            self.execute(server, &mut tx, "the schema", &create)?;
        }
        for table in &mut schema.tables {
            self.create(server, &mut tx, table, self.working_schema(), &mut report.notes)?;
        }
        self.make_quarantine(server, &mut tx, schema)?;
        let (mut copied, mut sent) = (0, Vec::new());
        self.enter(ExportStage::Copy)?;
        for (table, exported) in schema.tables.iter().zip(&mut report.tables) {
            let of_table = self.copy(conn, server, &mut tx, table, &mut copied)?;
            exported.quarantined = of_table.set_aside;
            sent.push(of_table);
        }
        self.set_aside(conn, server, &mut tx, schema)?;
        self.enter(ExportStage::Index)?;
        for table in &schema.tables {
            self.keys(server, &mut tx, table)?;
        }
        self.finish(conn, server, &mut tx, schema, &mut report.notes)?;
        let mut compared = 0;
        self.enter(ExportStage::Compare)?;
        self.compare_aside(conn, server, &mut tx, schema, &mut compared)?;
        for ((table, exported), sent) in schema.tables.iter().zip(&mut report.tables).zip(&sent) {
            match self.compare(conn, server, &mut tx, table, sent, &mut compared)? {
                Compared::Same(sha256) => exported.sha256 = Some(sha256),
                Compared::Differs(what) => return Err(self.differs(server, table, &what)),
            }
        }
        commit(server, tx)
    }

    /// Makes the keys of a table, and the statistics by which the server plans how to read it.
    fn keys(&self, server: &Server, tx: &mut Transaction<'_>, table: &Table) -> Result<()> {
        let schema = self.working_schema();
        let analyze = format!("ANALYZE {}", table.qualified(schema));
        for statement in table.keys(schema).into_iter().chain([analyze]) {
            let what = format!("the keys and statistics of table {}", table.name);
            self.execute(server, tx, &what, &statement)?;
        }
        Ok(())
    }

    /// Sets the sequences, makes what loses no row if it fails, and has deferred triggers run.
    fn finish(
        &self,
        conn: &Connection,
        server: &Server,
        tx: &mut Transaction<'_>,
        schema: &Schema,
        notes: &mut Vec<ExportNote>,
    ) -> Result<()> {
        for table in &schema.tables {
            self.sequence(conn, server, tx, table)?;
        }
        for table in &schema.tables {
            for (what, statement) in self.later(schema, table) {
                self.attempt(server, tx, &what, statement, notes)?;
            }
        }
        // Deferred triggers run here rather than at COMMIT, so that the comparison sees what they change.
        self.execute(server, tx, "the deferred triggers", "SET CONSTRAINTS ALL IMMEDIATE")
    }

    /// The schema in which the tables are made.
    fn working_schema(&self) -> &str {
        self.staging.as_deref().unwrap_or(&self.schema)
    }

    /// Makes a table; without its generated columns, if the server refuses their expressions.
    fn create(
        &self,
        server: &Server,
        tx: &mut Transaction<'_>,
        table: &mut Table,
        schema: &str,
        notes: &mut Vec<ExportNote>,
    ) -> Result<()> {
        if let Some(error) = self.create_in(server, tx, table, schema)? {
            table.ungenerate(&format!(": {}", super::url::describe(&error)), notes);
        }
        Ok(())
    }

    /// Makes a table in a schema. Without its generated columns, if the server refuses their expressions: returns its error.
    fn create_in(
        &self,
        server: &Server,
        tx: &mut Transaction<'_>,
        table: &Table,
        schema: &str,
    ) -> Result<Option<postgres::Error>> {
        let what = format!("table {}", table.name);
        let Some(error) = self.in_savepoint(server, tx, &what, &table.create(schema))? else {
            return Ok(None);
        };
        if !table.has_made_columns() {
            return Err(server.error(&what, error, Outcome::RolledBack));
        }
        self.execute(server, tx, &what, &table.create_as(schema, false))?;
        Ok(Some(error))
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
        let name = table.qualified(self.working_schema());
        let done = self.at_server(server, tx, |tx| tx.execute(set, &[&name, column, &last]))?;
        let what = format!("the sequence of table {}", table.name);
        done.map_err(|error| server.error(&what, error, Outcome::RolledBack))?;
        Ok(())
    }

    /// The statements after the data whose failure loses no row: indexes, checks, foreign keys. `None` where there is no
    /// translation.
    fn later(&self, schema: &Schema, table: &Table) -> Vec<(String, Option<String>)> {
        let at = self.working_schema();
        let mut all = self.indexes(table, at);
        let columns: Vec<&Column> = table.columns.iter().collect();
        for check in table
            .checks
            .iter()
            .filter(|check| !expression::is_implied(check, &table.columns))
        {
            let translated = expression::translated(check, &columns);
            let alter = translated.map(|text| format!("ALTER TABLE {} ADD CHECK ({text})", table.qualified(at)));
            all.push((format!("check of table {}: {}", table.name, sql::shown(check)), alter));
        }
        for key in &table.foreign_keys {
            let parent = schema
                .tables
                .iter()
                .find(|parent| parent.name.eq_ignore_ascii_case(&key.parent));
            let alter = parent.and_then(|parent| table.foreign_key(key, parent, at));
            all.push((format!("foreign key of table {} to {}", table.name, key.parent), alter));
        }
        all.extend(table.comments(at));
        all
    }

    /// The statements of the indexes that are no constraints, in a schema. `None` where there is no translation.
    fn indexes(&self, table: &Table, schema: &str) -> Vec<(String, Option<String>)> {
        let indexes = table.indexes.iter().filter(|index| !index.is_constraint);
        let indexes = indexes.map(|index| (format!("index {}", index.name), table.index(index, schema)));
        let of_keys = table
            .nocase_keys(schema)
            .into_iter()
            .map(|(what, sql)| (what, Some(sql)));
        indexes.chain(of_keys).collect()
    }

    /// Shows in the statistics how far it is.
    fn note(&self, stage: ExportStage, rows: u64) {
        if let Some(running) = &self.running {
            running.note(stage.name(), rows);
        }
    }

    fn step(&self, stage: ExportStage, rows: &mut u64) -> Result<()> {
        *rows += 1;
        if !rows.is_multiple_of(256) {
            return Ok(());
        }
        self.reach(stage, *rows)
    }

    fn reach(&self, stage: ExportStage, rows: u64) -> Result<()> {
        self.note(stage, rows);
        going(self.reporter.enter(ExportProgress::at(stage, rows)))
    }

    /// Calls the progress callback if it is due, during a wait.
    fn poll(&self) -> Result<()> {
        going(self.reporter.poll())
    }
}

/// An error if the work is to stop. The reporter says why.
fn going(flow: ControlFlow<()>) -> Result<()> {
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Cancelled { work: OPERATION }),
    }
}

impl ExportStage {
    fn name(self) -> &'static str {
        match self {
            ExportStage::Scan => "scan",
            ExportStage::Copy => "copy",
            ExportStage::Index => "index",
            ExportStage::Compare => "compare",
        }
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
        sql: None,
        object,
        instead: "not made, because it may mean something else at the server: write it by hand".into(),
    }
}

/// Notes about what a table has in another form.
fn changed(table: &Table) -> Vec<ExportNote> {
    let mut notes = Vec::new();
    let mut note = |object: String, instead: &str| {
        notes.push(ExportNote {
            sql: None,
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

    /// Makes its generated columns ordinary ones, because the server refused one of them. `why` ends the notes about them.
    fn ungenerate(&mut self, why: &str, notes: &mut Vec<ExportNote>) {
        for column in self.columns.iter_mut().filter(|column| column.generated.is_some()) {
            column.generated = None;
            notes.push(ExportNote {
                sql: None,
                object: format!("column {}.{}", self.name, column.name),
                instead: format!(
                    "an ordinary column with the values of now, since the server refused a generated column of this \
                     table{why}"
                ),
            });
        }
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
