//! A check of the whole database for damage, and for foreign keys without a parent row.
//!
//! It only reads: `quick_check` or `integrity_check` in one snapshot (`integrity.rs` sorts what they say, `pages.rs`
//! looks at what they leave out), then `foreign_key_check`, table by table, in another, so that neither pins the WAL
//! longer than necessary. Damage goes into the report, even if SQLite had to stop there. An error means that the check
//! could not run.

use std::fmt;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ffi};

use super::integrity::{Lacking, lacks_a_name, of_lacking};
use super::progress::ProgressReporter;
use super::{integrity, pages};
#[cfg(doc)]
use crate::Store;
use crate::connection::sql_text::{foreign_key_check, name};
use crate::engine::Engine;
use crate::error::{Result, is_damage, primary_code};

/// The name of this work in errors.
const OPERATION: &str = "check";

/// How many violations are reported in full.
pub(super) const MAX_REPORTED: usize = 100;

/// A check of the whole database, which [`run`](Self::run) starts. Made by [`Store::check`].
///
/// By default the check is SQLite's [`quick_check`](https://sqlite.org/pragma.html#pragma_quick_check): it reads every
/// page and every row, and counts the entries of each index. [`full`](Self::full) also compares the indexes with their
/// tables. Then the foreign keys are checked, even in a store that does not enforce them.
///
/// The check runs on the calling thread (in async code, use `spawn_blocking` or its like) with a connection of the
/// pool, while reads and writes go on. Each of its two parts holds a snapshot, so the WAL cannot be reset meanwhile. A
/// check never counts as slow, and [`interrupt_old_readers`](crate::Options::interrupt_old_readers) does not stop it;
/// the alert about an old read names it after [`max_reader_age`](crate::Options::max_reader_age).
///
/// A check finds damage, but not lost data: a write that never reached the disk leaves a valid database.
///
/// Two things SQLite leaves out where it may only read: CHECK constraints, and, for many schemas with views or virtual
/// tables, whether a page is used and free at the same time. larder looks at them in a copy in memory, if the database
/// has no more bytes than [`Options::cache_size`](crate::Options::cache_size). Of a larger one,
/// [`CheckReport::not_checked`] says what was not looked at (with auto-vacuum, CHECK constraints alone). A
/// [`Store::backup`] looks at all of it.
///
/// A table whose schema needs a collation or a function that [`Options::on_connect`](crate::Options::on_connect) has
/// not defined is in [`CheckReport::not_checked`], with the name that is missing. It is no damage. Of such a table no
/// row is looked at, and at most the pages are.
///
/// ```
/// use std::ops::ControlFlow;
/// use std::time::Duration;
///
/// # let store = larder::Store::open_temp()?;
/// let report = store
///     .check()
///     .full()
///     .progress(Duration::from_secs(1), |progress| {
///         println!("{:?}, {:.0?}", progress.stage, progress.elapsed);
///         ControlFlow::Continue(())
///     })
///     .run()?;
/// assert!(report.is_ok(), "{report}");
/// # Ok::<_, larder::Error>(())
/// ```
#[must_use = "nothing is checked before `run`"]
pub struct Check<'s> {
    engine: &'s Engine,
    full: bool,
    reporter: ProgressReporter<CheckStage>,
}

/// The progress of a [`Check`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckProgress {
    /// The current stage.
    pub stage: CheckStage,
    /// Time since the check started, over all stages.
    pub elapsed: Duration,
}

/// A stage of a [`Check`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckStage {
    /// `quick_check` or `integrity_check`. SQLite does not report how much is left.
    Integrity,
    /// `foreign_key_check`.
    ForeignKeys {
        /// Number of tables that are done.
        tables_done: usize,
        /// Number of tables that have foreign keys.
        tables_total: usize,
    },
}

/// The findings of a [`Check`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct CheckReport {
    /// Whether the indexes were compared with their tables.
    pub full: bool,
    /// SQLite's messages about damage: pages, trees, and indexes that differ from their tables. The first 100.
    pub problems: Vec<String>,
    /// What is wrong with the data of sound pages, and what mends it. The first 100.
    ///
    /// - Values that a constraint refuses, because it was added after them: NOT NULL, CHECK, the type of a column.
    /// - A full-text index, or the data of another virtual table, that differs from its content.
    /// - Tables whose foreign keys cannot be checked.
    pub findings: Vec<String>,
    /// Number of all findings.
    pub total_findings: u64,
    /// What was not checked, and why: see [`Check`].
    pub not_checked: Vec<String>,
    /// The first 100 rows whose foreign key has no parent row. In a corrupt database the parent row itself may be lost.
    pub foreign_key_violations: Vec<ForeignKeyViolation>,
    /// Number of all rows whose foreign key has no parent row.
    pub total_foreign_key_violations: u64,
    /// Number of tables, without those of SQLite itself.
    pub tables: u32,
    /// Duration of the check.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
    pub duration: Duration,
}

/// A row whose foreign key has no parent row. See [`CheckReport::foreign_key_violations`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct ForeignKeyViolation {
    /// Table of the row.
    pub table: String,
    /// Rowid of the row; `None` in a table `WITHOUT ROWID`.
    pub rowid: Option<i64>,
    /// Columns of the foreign key.
    pub columns: Vec<String>,
    /// Table that the foreign key refers to.
    pub parent: String,
}

impl<'s> Check<'s> {
    pub(crate) fn new(engine: &'s Engine) -> Self {
        Self {
            engine,
            full: false,
            reporter: ProgressReporter::new(CheckStage::Integrity),
        }
    }

    /// Also compares each index with its table, with `integrity_check`. This takes several times as long. The default
    /// is `quick_check`.
    pub fn full(mut self) -> Self {
        self.full = true;
        self
    }

    /// Calls `f` during the check, at most once per `every`. `ControlFlow::Break(())` cancels the check.
    ///
    /// The callback runs on the thread that called [`run`](Self::run), and may write to the store. A check of a small
    /// database may finish without a call.
    pub fn progress(
        self,
        every: Duration,
        mut f: impl FnMut(&CheckProgress) -> ControlFlow<()> + Send + 'static,
    ) -> Self {
        self.reporter
            .call(every, move |stage, elapsed| f(&CheckProgress { stage, elapsed }));
        self
    }

    /// Runs the check. A damaged database is not an error; see [`CheckReport::is_ok`].
    ///
    /// # Errors
    ///
    /// [`Cancelled`](crate::Error::Cancelled), an I/O error, and the errors of a [`read`](Store::read) that does not
    /// start.
    ///
    /// # Panics
    ///
    /// If the progress callback panics.
    #[track_caller]
    pub fn run(self) -> Result<CheckReport> {
        let began = Instant::now();
        let mut report = CheckReport {
            full: self.full,
            ..CheckReport::default()
        };
        self.reporter.begin();
        let looked = self.engine.inspect(|conn, interrupt| {
            let _watching = self.reporter.watch(conn, interrupt);
            let left_out = integrity::check(conn, &mut report, Lacking::IsReported)?;
            pages::complete(conn, &self.engine.options, left_out, &mut report)
        });
        self.judge(looked, &mut report)?;
        let looked = self.engine.inspect(|conn, interrupt| {
            let _watching = self.reporter.watch(conn, interrupt);
            // If the callback stops it, `end` returns the reason.
            foreign_keys(conn, &mut report, |tables_done, tables_total| {
                self.reporter.enter(CheckStage::ForeignKeys {
                    tables_done,
                    tables_total,
                })
            })
        });
        self.judge(looked, &mut report)?;
        report.duration = began.elapsed();
        Ok(report)
    }

    /// Sorts the errors, once the connection is back in the pool: corruption goes into the report, others to the
    /// caller.
    fn judge(&self, looked: Result<()>, report: &mut CheckReport) -> Result<()> {
        self.reporter.end(OPERATION)?;
        let Err(error) = looked else { return Ok(()) };
        match error.sqlite().filter(|error| is_damage(error)) {
            Some(damage) => {
                report.problems.push(format!("SQLite stopped: {damage}"));
                Ok(())
            }
            None => Err(error),
        }
    }
}

/// Checks the foreign keys. `enter` gets the numbers of tables done and in total before each table, and may stop the
/// check.
pub(crate) fn foreign_keys(
    conn: &Connection,
    report: &mut CheckReport,
    mut enter: impl FnMut(usize, usize) -> ControlFlow<()>,
) -> rusqlite::Result<()> {
    let children = children(conn)?;
    for (done, child) in children.iter().enumerate() {
        if enter(done, children.len()).is_break() {
            return Ok(());
        }
        match violations(conn, child, report) {
            Err(error) if lacks_a_name(&error.to_string()) => {
                report
                    .not_checked
                    .push(of_lacking(&format!("the foreign keys of {child}"), &error));
            }
            Err(error) if is_of_the_table(&error) => {
                let said = format!("the foreign keys of {child} cannot be checked: {}", reason(&error));
                if is_damage(&error) {
                    report.add_problem(said);
                } else {
                    report.add_finding(said);
                }
            }
            other => other?,
        }
    }
    Ok(())
}

/// The tables that have foreign keys.
fn children(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = conn.prepare(
        "SELECT name FROM main.sqlite_schema AS child
         WHERE type = 'table' AND EXISTS (SELECT 1 FROM pragma_foreign_key_list(child.name, 'main'))
         ORDER BY name",
    )?;
    let names = statement.query_map([], |row| name(row, 0))?;
    names.collect()
}

fn violations(conn: &Connection, child: &str, report: &mut CheckReport) -> rusqlite::Result<()> {
    let mut statement = conn.prepare(&foreign_key_check(child))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        report.total_foreign_key_violations += 1;
        if report.foreign_key_violations.len() < MAX_REPORTED {
            report.foreign_key_violations.push(ForeignKeyViolation {
                table: name(row, 0)?,
                rowid: row.get(1)?,
                columns: columns(conn, child, row.get(3)?)?,
                parent: name(row, 2)?,
            });
        }
    }
    Ok(())
}

fn columns(conn: &Connection, child: &str, key: i64) -> rusqlite::Result<Vec<String>> {
    let mut statement =
        conn.prepare("SELECT \"from\" FROM pragma_foreign_key_list(?1, 'main') WHERE id = ?2 ORDER BY seq")?;
    let names = statement.query_map((child, key), |row| name(row, 0))?;
    names.collect()
}

/// Whether the error concerns one table only: "foreign key mismatch" (the parent has no unique index), or corruption.
fn is_of_the_table(error: &rusqlite::Error) -> bool {
    is_damage(error) || primary_code(error) == Some(ffi::SQLITE_ERROR)
}

/// The message without the text of the PRAGMA.
pub(super) fn reason(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        other => other.to_string(),
    }
}

impl CheckReport {
    /// Whether the check found nothing: no damage, no finding, no foreign key without a parent row.
    pub fn is_ok(&self) -> bool {
        !self.is_damaged() && self.total_findings == 0 && self.total_foreign_key_violations == 0
    }

    /// Whether the database is damaged: see [`problems`](Self::problems). A damaged database has no backup.
    pub fn is_damaged(&self) -> bool {
        !self.problems.is_empty()
    }

    pub(crate) fn add_problem(&mut self, problem: String) {
        if self.problems.len() < MAX_REPORTED {
            self.problems.push(problem);
        }
    }

    pub(crate) fn add_finding(&mut self, finding: String) {
        self.total_findings += 1;
        if self.findings.len() < MAX_REPORTED {
            self.findings.push(finding);
        }
    }

    /// Adds what was found of the foreign keys.
    #[cfg(any(feature = "postgres", feature = "replicate"))]
    pub(crate) fn add_keys(&mut self, keys: CheckReport) {
        keys.problems.into_iter().for_each(|problem| self.add_problem(problem));
        let unreported = keys.total_findings - keys.findings.len() as u64;
        keys.findings.into_iter().for_each(|finding| self.add_finding(finding));
        self.total_findings += unreported;
        self.not_checked.extend(keys.not_checked);
        self.foreign_key_violations = keys.foreign_key_violations;
        self.total_foreign_key_violations = keys.total_foreign_key_violations;
    }

    /// What was found besides damage: numbers, and the first of each kind.
    pub(crate) fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        if let Some(first) = self.findings.first() {
            remarks.push(format!("{} findings, the first: {first}", self.total_findings));
        }
        if let Some(first) = self.foreign_key_violations.first() {
            let total = self.total_foreign_key_violations;
            remarks.push(format!("{total} foreign keys without a parent row, the first: {first}"));
        }
        remarks.extend(self.not_checked.iter().map(|what| format!("not checked: {what}")));
        remarks
    }
}

/// One line, with the first problem of each kind.
impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let check = if self.full { "full check" } else { "quick check" };
        write!(f, "{check} of {} tables: ", self.tables)?;
        let mut parts = Vec::new();
        if self.is_ok() {
            parts.push("ok".to_owned());
        }
        if let Some(first) = self.problems.first() {
            parts.push(format!("{} problems, the first: {first}", self.problems.len()));
        }
        parts.extend(self.remarks());
        write!(f, "{} ({:.1?})", parts.join("; "), self.duration)
    }
}

impl fmt::Display for ForeignKeyViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.table)?;
        if let Some(rowid) = self.rowid {
            write!(f, " row {rowid}")?;
        }
        write!(f, " ({}) -> {}", self.columns.join(", "), self.parent)
    }
}

impl fmt::Debug for Check<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check")
            .field("store", self.engine)
            .field("full", &self.full)
            .finish_non_exhaustive()
    }
}
