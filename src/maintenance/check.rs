//! Checks the whole database for damage, and for foreign keys that point nowhere.
//!
//! The check only reads: `quick_check` or `integrity_check` in one snapshot, then `foreign_key_check`, table by table,
//! in another, so that neither pins the WAL for longer than necessary. The report contains SQLite's findings, even if
//! damage stopped SQLite early. An error means that the check itself could not run.

use std::fmt;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ffi};

use super::progress::ProgressReporter;
#[cfg(doc)]
use crate::Store;
use crate::connection::sql_text::{foreign_key_check, name};
use crate::engine::Engine;
use crate::error::{Result, is_damage, primary_code};

/// The name of the operation in errors.
const OPERATION: &str = "check";

/// The maximum number of violations reported in full.
const MAX_REPORTED: usize = 100;

/// A check that was not begun. Made by [`Store::check`].
///
/// By default it is SQLite's [`quick_check`](https://sqlite.org/pragma.html#pragma_quick_check), which looks at every page
/// and every row, and counts the entries of indexes; [`full`](Self::full) also compares them with their tables. Then
/// foreign keys are checked, also in a store that does not enforce them.
///
/// It reads on the calling thread (from a task: `spawn_blocking`, or its like) with a connection of the pool, and everybody
/// reads and writes on. But while each of its two parts lasts, the write-ahead log cannot be emptied, as with any long
/// read. Since it was asked for, it is not slow, and [`interrupt_old_readers`](crate::Options::interrupt_old_readers) does
/// not stop it; only the log names one that is older than [`max_reader_age`](crate::Options::max_reader_age).
///
/// It finds what is damaged, not what was lost: a write that never reached the disk leaves a sound database.
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

/// How far a [`Check`] has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckProgress {
    /// What it does.
    pub stage: CheckStage,
    /// How long it has run, all stages together.
    pub elapsed: Duration,
}

/// What a [`Check`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckStage {
    /// `quick_check` or `integrity_check`. SQLite does not say how much of it is left.
    Integrity,
    /// `foreign_key_check`.
    ForeignKeys {
        /// Tables that are done.
        tables_done: usize,
        /// Tables that have foreign keys.
        tables_total: usize,
    },
}

/// What a [`Check`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckReport {
    /// Whether indexes were compared with their tables.
    pub full: bool,
    /// What SQLite says of damage, or of a table whose foreign keys cannot be checked. Empty if there is none. SQLite stops
    /// at 100.
    pub problems: Vec<String>,
    /// The first 100 rows whose foreign key points nowhere. In a damaged database that may be for want of the row that they
    /// point to.
    pub foreign_key_violations: Vec<ForeignKeyViolation>,
    /// How many there are in all.
    pub total_foreign_key_violations: u64,
    /// Tables in the database, but for SQLite's own.
    pub tables: u32,
    /// How long it took.
    pub duration: Duration,
}

/// A row whose foreign key points nowhere. See [`CheckReport::foreign_key_violations`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ForeignKeyViolation {
    /// Its table.
    pub table: String,
    /// Its rowid; a table `WITHOUT ROWID` has none.
    pub rowid: Option<i64>,
    /// The columns of the foreign key.
    pub columns: Vec<String>,
    /// The table that they refer to.
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

    /// Also compares each index with its table, by `integrity_check`. That takes several times as long. The default is not
    /// to.
    pub fn full(mut self) -> Self {
        self.full = true;
        self
    }

    /// Calls `f` while it runs, with at least `every` between two calls; returning `ControlFlow::Break(())` cancels.
    ///
    /// `f` is called on the thread that called [`run`](Self::run), and may write to the store. For a small database it may
    /// never be called.
    pub fn progress(
        self,
        every: Duration,
        mut f: impl FnMut(&CheckProgress) -> ControlFlow<()> + Send + 'static,
    ) -> Self {
        self.reporter
            .call(every, move |stage, elapsed| f(&CheckProgress { stage, elapsed }));
        self
    }

    /// Makes it. A damaged database is no error: [`CheckReport::is_ok`] says what it is.
    ///
    /// # Errors
    ///
    /// [`Cancelled`](crate::Error::Cancelled), an I/O error, and those of a [`read`](Store::read) that does not start.
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
            integrity(conn, &mut report)
        });
        self.judge(looked, &mut report)?;
        let looked = self.engine.inspect(|conn, interrupt| {
            let _watching = self.reporter.watch(conn, interrupt);
            // If this stops early, `end` returns the reason.
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

    /// Runs after the connection is back in the pool: damage is added to the report, and other errors are returned.
    fn judge(&self, looked: Result<()>, report: &mut CheckReport) -> Result<()> {
        self.reporter.end(OPERATION)?;
        let Err(error) = looked else { return Ok(()) };
        match error.sqlite().filter(|error| is_damage(error)) {
            Some(damage) => {
                report.problems.push(format!("SQLite could not go on: {damage}"));
                Ok(())
            }
            None => Err(error),
        }
    }
}

/// Checks for damage; a full report includes indexes.
pub(crate) fn integrity(conn: &Connection, report: &mut CheckReport) -> rusqlite::Result<()> {
    let pragma = if report.full { "integrity_check" } else { "quick_check" };
    let mut statement = conn.prepare(&format!("PRAGMA main.{pragma}"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let said = name(row, 0)?;
        // One row may hold several lines under a title.
        let problems = said.lines().filter(|line| *line != "ok" && !line.starts_with("***"));
        report.problems.extend(problems.map(str::to_owned));
    }
    let count =
        "SELECT count(*) FROM main.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";
    report.tables = conn.query_row(count, [], |row| row.get(0))?;
    Ok(())
}

/// Checks for foreign keys that point nowhere. `enter` receives the number of finished tables and of all tables, and
/// may stop the check.
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
            Err(error) if is_of_the_table(&error) => {
                let problem = format!("the foreign keys of {child} cannot be checked: {}", reason(&error));
                report.problems.push(problem);
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

/// Whether the error concerns one table: a "foreign key mismatch" (the parent has no unique index to refer to), or
/// damage that may not affect the others.
fn is_of_the_table(error: &rusqlite::Error) -> bool {
    is_damage(error) || primary_code(error) == Some(ffi::SQLITE_ERROR)
}

/// The error without the text of the PRAGMA.
fn reason(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        other => other.to_string(),
    }
}

impl CheckReport {
    /// Whether nothing was found.
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty() && self.total_foreign_key_violations == 0
    }
}

/// One line, with the first of each kind.
impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let check = if self.full { "full check" } else { "quick check" };
        write!(f, "{check} of {} tables: ", self.tables)?;
        if self.is_ok() {
            write!(f, "ok")?;
        }
        if let Some(first) = self.problems.first() {
            write!(f, "{} problems, the first: {first}", self.problems.len())?;
        }
        if let Some(first) = self.foreign_key_violations.first() {
            let and = if self.problems.is_empty() { "" } else { "; " };
            let total = self.total_foreign_key_violations;
            write!(f, "{and}{total} foreign keys that point nowhere, the first: {first}")?;
        }
        write!(f, " ({:.1?})", self.duration)
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
