//! Makes one step, as an exclusive job.
//!
//! ```text
//! PRAGMA foreign_keys = OFF            before BEGIN: inside a transaction it is a no-op
//! BEGIN IMMEDIATE                      waits for other processes that migrate
//!   read the record, plan the step     under the lock, so that one process makes each step
//!   the migration's statements
//!   PRAGMA foreign_key_check
//!   record the step
//! COMMIT
//! PRAGMA foreign_keys = ON             by the writer, after every exclusive job
//! ```
//!
//! With foreign keys on, a table rebuild (create, copy, drop, rename) would delete the rows of every child by cascade
//! at the DROP: SQLite makes "an implicit DELETE FROM" first, <https://sqlite.org/foreignkeys.html#fk_schemacommands>.
//! With foreign keys off, SQLite checks none of them on the way, so all are checked at the end.
//!
//! A migration without a transaction is marked as begun in a first transaction, and recorded as applied in a last one.
//! Nothing protects it in between. A process that finds the mark, after a kill or because another process is running
//! the migration, does not run it again.

use std::cell::Cell;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ffi};

use super::adopt::Adoption;
use super::checks::{Dangling, NewStrings, References, tables_not_strict};
use super::plan::{Step, Target};
use super::record::{self, Record};
use super::script::{ScriptStop, Spot, StopError};
use super::{Direction, MigrationStep, Migrations};
use crate::backup;
use crate::connection::authorizer::{Privilege, TableChange};
use crate::connection::cause::explained;
use crate::error::{
    Error, MigrationError, Outcome, Result, commit_is_unknown, is_damage, not_begun, primary_code, schema_advice,
};
use crate::telemetry::event::event;
use crate::transaction::ENDED;
use crate::write::Writer;

/// The input of a step.
#[derive(Clone, Debug)]
pub(crate) struct StepRequest {
    pub(crate) set: Migrations,
    pub(crate) target: Target,
    /// How long to wait for other processes.
    pub(crate) patience: Duration,
    /// Whether to make a backup first, if there is a step to make.
    pub(crate) backup: bool,
    /// The tables without STRICT that earlier steps created.
    pub(crate) not_strict: Vec<String>,
}

/// The result of a step.
pub(crate) enum StepOutcome {
    /// There was nothing to do.
    Nothing,
    /// The record was updated; there may be more to do.
    Record,
    /// Another process runs this migration outside a transaction, or left it unfinished.
    Unfinished(MigrationError),
    Made(Made),
}

pub(crate) struct Made {
    pub(crate) step: MigrationStep,
    pub(crate) backup: Option<PathBuf>,
    /// The tables without STRICT that this step or earlier ones created.
    pub(crate) not_strict: Vec<String>,
}

/// Makes the next step.
pub(crate) fn step(writer: &mut Writer, request: &StepRequest) -> Result<StepOutcome> {
    foreign_keys_off(writer)?;
    begin(writer, request.patience)?;
    let done = StepRunner {
        writer,
        request,
        kept: Cell::new(0),
    }
    .make();
    writer.roll_back_own();
    done
}

fn foreign_keys_off(writer: &Writer) -> Result<()> {
    let conn = writer.conn();
    writer
        .guard()
        .as_internal(|| conn.execute_batch("PRAGMA foreign_keys = OFF"))
        .map_err(Error::not_started)
}

fn begin(writer: &mut Writer, patience: Duration) -> Result<()> {
    writer.begin_immediate(patience).map_err(|error| {
        if primary_code(&error) == Some(ffi::SQLITE_BUSY) {
            MigrationError::Locked { waited: patience }.into()
        } else {
            Error::not_started(error)
        }
    })
}

struct StepRunner<'w> {
    writer: &'w mut Writer,
    request: &'w StepRequest,
    /// Number of statements that are committed already.
    kept: Cell<usize>,
}

impl StepRunner<'_> {
    /// Makes the step in an open transaction. If it returns without ending that transaction, nothing in it is to be
    /// kept.
    fn make(&mut self) -> Result<StepOutcome> {
        let set = &self.request.set;
        let record = self.as_internal(Record::read)?;
        if self.bring_up_to_date(&record)? {
            self.writer.commit_own()?;
            return Ok(StepOutcome::Record);
        }
        if let Some(unfinished) = record.unfinished(set) {
            return Ok(StepOutcome::Unfinished(unfinished));
        }
        let Some(step) = set.next(&record.applied, self.request.target)? else {
            return Ok(StepOutcome::Nothing);
        };
        let backup = self.back_up(step)?;
        let began = Instant::now();
        let made = self.run(step, &record).map_err(|error| self.name(step, error));
        if let (Err(error), Some(backup)) = (&made, &backup)
            && error.outcome() == Outcome::RolledBack
            && !error.sqlite().is_some_and(may_need_the_backup)
        {
            // The database equals the backup. Repeated attempts would fill the disk with backups.
            let _ = fs::remove_file(backup);
        }
        let not_strict = made?;
        let migration = step.migration();
        let step = MigrationStep {
            version: migration.version,
            name: migration.name.clone().into_owned(),
            direction: step.direction(),
            duration: began.elapsed(),
        };
        event!(
            info,
            "larder::migrate",
            self.writer.path(),
            {
                version = step.version,
                migration = migration.file,
                direction = %step.direction,
                duration_ms = step.duration.as_millis() as u64,
            },
            "migration finished"
        );
        Ok(StepOutcome::Made(Made {
            step,
            backup,
            not_strict,
        }))
    }

    /// Adopts another tool's record, and adds missing details. Returns whether there was anything to do.
    fn bring_up_to_date(&self, record: &Record) -> Result<bool> {
        let set = &self.request.set;
        if let Some(adoption) = self.as_internal(|conn| Adoption::find(conn, set, record))? {
            set.check(&adoption.as_applied())?;
            self.as_internal(|conn| adoption.enter(conn, set))?;
            return Ok(true);
        }
        set.check(&record.applied)?;
        let unknown: Vec<_> = record.without_details(set).collect();
        self.as_internal(|conn| {
            if !unknown.is_empty() {
                record::create(conn)?;
            }
            for (recorded, migration) in &unknown {
                record::note(conn, recorded, migration, None)?;
            }
            Ok::<_, Error>(!unknown.is_empty())
        })
    }

    /// Makes the backup on its own reading connection, while this transaction excludes all other writers. An empty
    /// database needs none.
    fn back_up(&self, first: Step<'_>) -> Result<Option<PathBuf>> {
        let Some(folder) = self.request.set.backup.as_ref().filter(|_| self.request.backup) else {
            return Ok(None);
        };
        let look = "SELECT count(*) FROM main.sqlite_schema";
        let objects: i64 = self.as_internal(|conn| conn.query_row(look, [], |row| row.get(0)))?;
        if objects == 0 {
            return Ok(None);
        }
        let database = self.writer.path();
        let middle = match first {
            Step::Up(migration) => format!(".before-{}", migration.digits),
            Step::Down(migration) => format!(".before-down-{}", migration.digits),
        };
        let (readers, options) = (self.writer.readers(), self.writer.options());
        let made = backup::make(readers, options, folder, database, &middle);
        let mut name = database.file_name().unwrap_or_default().to_owned();
        name.push(&middle);
        let path = made.map_err(|failure| MigrationError::Backup {
            path: folder.join(&name),
            problem: failure.sentence(),
            source: failure.source,
        })?;
        event!(info, "larder::migrate", database, { backup = %path.display() }, "backup finished");
        Ok(Some(path))
    }

    /// Runs the statements and the checks, records the step, and commits. Returns the tables without STRICT that were
    /// created.
    fn run(&mut self, step: Step<'_>, record: &Record) -> Result<Vec<String>> {
        let script = step.script();
        event!(
            debug,
            "larder::migrate",
            self.writer.path(),
            { version = step.migration().version, migration = %script.file, direction = %step.direction() },
            "migration started"
        );
        let references = self.as_internal(References::read)?;
        let strings = self.as_internal(|conn| NewStrings::before(conn, script.text()))?;
        self.writer.guard().take_made_code();
        let began = Instant::now();
        let mut tables = Tables {
            not_strict: self.as_internal(tables_not_strict)?,
            made: self.request.not_strict.clone(),
        };
        let end = if script.transaction {
            self.run_script(step, Privilege::Migration, &mut tables)?
        } else {
            self.run_without_transaction(step, record, &mut tables)?
        };
        self.refuse_double_quoted_strings(step, &end, &strings)?;
        self.check_foreign_keys(step, &end, &references)?;
        let entered = self.enter(step, record, began.elapsed());
        entered
            .and_then(|()| self.writer.commit_own())
            .map_err(|error| match error {
                Error::CommitUnknown { .. } => error,
                error => self.failed(step, end, error),
            })?;
        self.writer.forget_statements();
        Ok(tables.made)
    }

    fn run_script(&self, step: Step<'_>, privilege: Privilege, tables: &mut Tables) -> Result<Spot> {
        let (conn, guard) = (self.writer.conn(), self.writer.guard());
        guard.take_table_change();
        let mut committed = Some(guard.changes().restart(conn));
        let ran = step.script().run(conn, guard, privilege, |spot| {
            let was_open = committed.is_none();
            committed = conn.is_autocommit().then(|| conn.total_changes());
            if committed.is_some() {
                if privilege == Privilege::Migration {
                    return Err(ended());
                }
                // Before its COMMIT, nothing of the migration's own transaction is kept.
                if was_open || !spot.only_reads {
                    self.kept.set(spot.number);
                }
            }
            self.look_at_tables(step, spot, tables)
        });
        ran.map_err(|stop| {
            // INSERT OR FAIL keeps the rows before the one that failed.
            if privilege == Privilege::NoTransaction && committed.is_some_and(|changes| conn.total_changes() > changes)
            {
                self.kept.set(stop.spot.number);
            }
            guard.with_privilege(privilege, || self.explain(step, *stop))
        })
    }

    /// Marks the migration as begun, runs it, and begins the transaction that records it.
    fn run_without_transaction(&mut self, step: Step<'_>, record: &Record, tables: &mut Tables) -> Result<Spot> {
        let start = step.script().start();
        // Checked first: existing violations would otherwise be found when nothing can be undone any more.
        let references = self.as_internal(References::read)?;
        self.check_foreign_keys(step, &start, &references)?;
        let (version, direction) = (record.version_of(step.migration()), step.direction());
        self.as_internal(|conn| record::mark(conn, version, step.migration(), direction))?;
        self.writer.commit_own()?;
        // Each statement may have to wait for another process, and earlier statements are committed already.
        self.writer.conn().busy_timeout(self.request.patience)?;
        let ran = match self.run_script(step, Privilege::NoTransaction, tables) {
            Ok(end) if !self.writer.conn().is_autocommit() => Err(self.failed(step, end, open_transaction())),
            other => other,
        };
        self.writer.roll_back_own();
        match ran {
            Ok(end) => {
                begin(self.writer, self.request.patience).map_err(|error| self.failed(step, end.clone(), error))?;
                Ok(end)
            }
            // Each statement has its own COMMIT here.
            Err(error) if error.sqlite().is_some_and(commit_is_unknown) => Err(self.writer.unknown(&error)),
            Err(error) if self.kept.get() > 0 => Err(error),
            Err(error) => Err(match self.unmark(version, direction) {
                Ok(()) => error,
                Err(other) => and_marked(error, &other, &not_begun(version, direction)),
            }),
        }
    }

    fn unmark(&mut self, version: &str, direction: Direction) -> Result<()> {
        begin(self.writer, self.request.patience)?;
        self.as_internal(|conn| record::unmark(conn, version, direction))?;
        self.writer.commit_own()
    }

    /// Records the step, if the record has not changed.
    fn enter(&self, step: Step<'_>, record: &Record, took: Duration) -> Result<()> {
        if !self.as_internal(Record::read)?.agrees_with(record) {
            return Err(changed_the_record());
        }
        let migration = step.migration();
        self.as_internal(|conn| match step {
            Step::Up(_) => record::enter(conn, migration, took),
            Step::Down(_) => record::remove(conn, record.version_of(migration)),
        })
    }

    fn look_at_tables(&self, step: Step<'_>, spot: &Spot, tables: &mut Tables) -> Result<()> {
        let change = self.writer.guard().take_table_change();
        if change == TableChange::None {
            return Ok(());
        }
        let now = self.as_internal(tables_not_strict)?;
        tables.are_now(now, change == TableChange::Made);
        match tables.made.first() {
            Some(table) if self.writer.options().require_strict => Err(MigrationError::NotStrict {
                file: step.script().file.to_string(),
                version: step.migration().version,
                line: spot.line,
                table: table.clone(),
                kept: self.kept.get(),
            }
            .into()),
            _ => Ok(()),
        }
    }

    fn refuse_double_quoted_strings(&self, step: Step<'_>, spot: &Spot, strings: &NewStrings) -> Result<()> {
        let made = self.writer.guard().take_made_code();
        let found = self.as_internal(|conn| strings.find(conn, &made))?;
        let Some(first) = found.first() else { return Ok(()) };
        let refused = Error::Refused {
            statement: format!("a double-quoted string in {}", first.described()),
            instead: "\"..\" is a name, and no column has it: write a string as '..', or set \
                      Options::double_quoted_strings(true)",
        };
        Err(self.failed(step, spot.clone(), refused))
    }

    /// Checks for rows that point nowhere, and for tables that refer to a missing table.
    fn check_foreign_keys(&mut self, step: Step<'_>, spot: &Spot, before: &References) -> Result<()> {
        if !self.writer.options().foreign_keys {
            return Ok(());
        }
        let references = self.as_internal(References::read)?;
        let look = |conn: &Connection| Dangling::read(conn, &references, before);
        let now = self
            .as_internal(look)
            .map_err(|error| self.failed(step, spot.clone(), error))?;
        let lost = references.turned_since(before);
        if now.total == 0 && lost.is_empty() {
            return Ok(());
        }
        self.writer.roll_back_own();
        let look = |conn: &Connection| Dangling::read(conn, before, before);
        let already =
            self.kept.get() == 0 && lost.is_empty() && self.as_internal(look).is_ok_and(|before| before == now);
        Err(MigrationError::ForeignKeys {
            file: step.script().file.to_string(),
            version: step.migration().version,
            total: now.total + lost.len() as u64,
            violations: lost.into_iter().chain(now.first).collect(),
            already,
            kept: self.kept.get(),
        }
        .into())
    }

    /// Adds the step to an error of larder's own work.
    fn name(&self, step: Step<'_>, error: Error) -> Error {
        match error {
            Error::Migration(_) | Error::CommitUnknown { .. } => error,
            error => self.failed(step, step.script().start(), error),
        }
    }

    fn explain(&self, step: Step<'_>, stop: ScriptStop) -> Error {
        let error = match stop.error {
            StopError::Sqlite(error) => {
                let (conn, guard) = (self.writer.conn(), self.writer.guard());
                guard.explain(guard.as_internal(|| explained(conn, error)))
            }
            StopError::Parameter => {
                let problem = "a migration has no parameters: write the value literally, and quote a string that \
                               contains ?, :, @ or $";
                let code = ffi::Error::new(ffi::SQLITE_ERROR);
                rusqlite::Error::SqliteFailure(code, Some(problem.into())).into()
            }
            StopError::Other(error @ Error::Migration(_)) => return error,
            StopError::Other(error) => error,
        };
        self.failed(step, stop.spot, error)
    }

    fn failed(&self, step: Step<'_>, spot: Spot, error: Error) -> Error {
        MigrationError::Failed {
            file: step.script().file.to_string(),
            version: step.migration().version,
            line: spot.line,
            number: spot.number,
            statement: spot.statement,
            reason: reason(&error),
            kept: self.kept.get(),
            source: Box::new(error),
        }
        .into()
    }

    fn as_internal<T, E: Into<Error>>(&self, f: impl FnOnce(&Connection) -> std::result::Result<T, E>) -> Result<T> {
        let conn = self.writer.conn();
        self.writer.guard().as_internal(|| f(conn)).map_err(Into::into)
    }
}

/// The tables that are not STRICT.
struct Tables {
    not_strict: Vec<String>,
    /// Those that this migration or earlier ones created.
    made: Vec<String>,
}

impl Tables {
    fn are_now(&mut self, now: Vec<String>, made: bool) {
        let came: Vec<_> = now.iter().filter(|table| !self.not_strict.contains(table)).collect();
        let gone: Vec<_> = self.not_strict.iter().filter(|table| !now.contains(table)).collect();
        if made {
            self.made.extend(came.into_iter().cloned());
        } else if let ([new], [old]) = (&came[..], &gone[..])
            && self.made.contains(old)
        {
            // The table was renamed.
            self.made.push((*new).clone());
        }
        self.made.retain(|table| now.contains(table));
        self.not_strict = now;
    }
}

fn ended() -> Error {
    Error::RolledBack {
        reason: ENDED,
        caused_by_closure: true,
        source: None,
    }
}

fn open_transaction() -> Error {
    Error::Refused {
        statement: "BEGIN without COMMIT".into(),
        instead: "the migration leaves a transaction open at its end, which was rolled back: end it with COMMIT",
    }
}

/// Adds to the error that the mark is still there: it makes a migration that changed nothing look like one that did.
fn and_marked(mut error: Error, because: &Error, way_out: &str) -> Error {
    if let Error::Migration(error) = &mut error
        && let MigrationError::Failed { reason, .. } = &mut **error
    {
        *reason += &format!("; its mark as unfinished could not be removed ({because}): run {way_out}");
    }
    error
}

fn changed_the_record() -> Error {
    Error::Refused {
        statement: "a change of schema_migrations".into(),
        instead: "the table is larder's record of the applied migrations: remove the SQL that writes to it from the \
                  migration",
    }
}

/// Whether a backup may be needed although the migration was rolled back: SQLite's error concerns the disk or the file.
fn may_need_the_backup(error: &rusqlite::Error) -> bool {
    is_damage(error) || commit_is_unknown(error)
}

/// The message without the SQL text, which rusqlite repeats in full.
fn reason(error: &Error) -> String {
    match error {
        Error::Sqlite {
            source: source @ rusqlite::Error::SqlInputError { msg, .. },
            ..
        } => msg.clone() + schema_advice(source),
        other => other.to_string(),
    }
}
