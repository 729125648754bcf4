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
use super::checks::NewStrings;
use super::known::Known;
use super::orphans::{Moved, Violations};
use super::plan::{Step, Target};
use super::record::{self, Record};
use super::references::References;
use super::script::{ScriptStop, Spot, StopError};
use super::strictness::TableEvent;
use super::{Direction, MigrationStep, Migrations};
use crate::backup;
use crate::connection::authorizer::{Privilege, Touched};
use crate::connection::cause::explained;
use crate::error::{
    Error, MigrationError, Outcome, Result, commit_is_unknown, is_damage, not_begun, primary_code, schema_advice,
};
use crate::telemetry::call_site::CallSite;
use crate::telemetry::event::event;
use crate::transaction::ENDED;
use crate::write::Writer;

/// The input of a step.
#[derive(Debug)]
pub(crate) struct StepRequest {
    pub(crate) set: Migrations,
    pub(crate) target: Target,
    /// How long to wait for other processes.
    pub(crate) patience: Duration,
    /// Whether to make a backup first, if there is a step to make.
    pub(crate) backup: bool,
    /// What the last step has left.
    pub(crate) known: Option<Known>,
}

/// The result of a step.
pub(crate) enum StepOutcome {
    /// There was nothing to do.
    Nothing,
    /// The record was updated; there may be more to do.
    Record,
    /// Another process runs this migration outside a transaction, or left it unfinished.
    Unfinished(MigrationError),
    Made(Box<Made>),
    /// There may be more to do.
    More,
}

pub(crate) struct Made {
    pub(crate) step: MigrationStep,
    pub(crate) backup: Option<PathBuf>,
    /// What happened to tables without STRICT.
    pub(crate) tables: Vec<TableEvent>,
    pub(crate) orphans: OldOrphans,
}

/// Rows whose foreign key has referred to no row since before the migrations.
#[derive(Clone, Debug, Default)]
pub(crate) struct OldOrphans {
    pub(crate) total: u64,
    /// Their tables, and those to which they refer.
    pub(crate) tables: Vec<String>,
}

/// The number of violations that an error names.
const MAX_REPORTED: usize = 5;

/// How long a job makes steps. Other jobs wait meanwhile, and none is made while one waits.
const BATCH: Duration = Duration::from_millis(100);

/// The steps that one job has made, and what it has met then.
pub(crate) struct Batch {
    pub(crate) made: Vec<Made>,
    /// For the next job. `None` also if there is to be none.
    pub(crate) known: Option<Known>,
    pub(crate) end: Result<StepOutcome>,
}

/// Makes the next step, and others after it as long as no other job waits.
///
/// # Errors
///
/// The error of the first step. That of a later one is in the [`Batch`].
pub(crate) fn steps(writer: &mut Writer, mut request: StepRequest) -> Result<Batch> {
    let began = Instant::now();
    let mut known = request.known.take();
    foreign_keys_off(writer)?;
    let mut batch = Batch {
        made: Vec::new(),
        known: None,
        end: Ok(StepOutcome::More),
    };
    loop {
        let end = match step(writer, &request, known.take()) {
            Ok((StepOutcome::Made(made), left)) => {
                batch.made.push(*made);
                known = left;
                request.backup = false;
                let goes_on = known.as_ref().is_some_and(|known| !known.settings) && writer.may_go_on();
                if goes_on && began.elapsed() < BATCH && !request.set.stops() {
                    continue;
                }
                break;
            }
            Ok((outcome, _)) => Ok(outcome),
            Err(error) if batch.made.is_empty() => return Err(error),
            Err(error) => {
                writer.count_failed(&error);
                Err(error)
            }
        };
        batch.end = end;
        break;
    }
    if !batch.made.is_empty() {
        writer.forget_statements();
    }
    batch.known = known;
    Ok(batch)
}

/// Makes the next step.
fn step(writer: &mut Writer, request: &StepRequest, known: Option<Known>) -> Result<(StepOutcome, Option<Known>)> {
    begin(writer, request.patience)?;
    let done = StepRunner {
        writer,
        request,
        kept: Cell::new(0),
    }
    .make(known);
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
    fn make(&mut self, known: Option<Known>) -> Result<(StepOutcome, Option<Known>)> {
        let set = &self.request.set;
        let known = match known {
            Some(known) if known.holds(self.writer)? => known,
            _ => {
                let record = self.as_internal(|conn| Record::of(conn, set))?;
                if self.bring_up_to_date(&record)? {
                    self.writer.commit_own()?;
                    return Ok((StepOutcome::Record, None));
                }
                if let Some(unfinished) = record.unfinished(set) {
                    return Ok((StepOutcome::Unfinished(unfinished), None));
                }
                Known::read(self.writer, record)?
            }
        };
        let following = known
            .last
            .and_then(|last| set.following(&known.record.applied, self.request.target, last));
        let next = match following {
            Some(step) => Some(step),
            None => set.next(&known.record.applied, self.request.target)?,
        };
        let Some(step) = next else {
            return Ok((StepOutcome::Nothing, None));
        };
        let backup = self.back_up(step)?;
        let began = Instant::now();
        let made = self.run(step, known).map_err(|error| self.name(step, error));
        if let (Err(error), Some(backup)) = (&made, &backup)
            && error.outcome() == Outcome::RolledBack
            && !error.sqlite().is_some_and(may_need_the_backup)
        {
            // The database equals the backup. Repeated attempts would fill the disk with backups.
            let _ = fs::remove_file(backup);
        }
        let Ran { known, tables, orphans } = made?;
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
        let made = Made {
            step,
            backup,
            tables,
            orphans,
        };
        Ok((StepOutcome::Made(Box::new(made)), known))
    }

    /// Adopts another tool's record, and adds missing details. Returns whether there was anything to do.
    fn bring_up_to_date(&self, record: &Record) -> Result<bool> {
        let set = &self.request.set;
        if let Some(adoption) = self.as_internal(|conn| Adoption::find(conn, set, record))? {
            set.check_applied(&adoption.as_applied())?;
            self.as_internal(|conn| adoption.enter(conn, set))?;
            self.check_entered()?;
            return Ok(true);
        }
        set.check_applied(&record.applied)?;
        let unknown: Vec<_> = record.without_details(set).collect();
        self.as_internal(|conn| {
            if !unknown.is_empty() {
                record::create(conn)?;
            }
            for (recorded, migration) in &unknown {
                record::note(conn, recorded, migration, None)?;
            }
            Ok::<_, Error>(())
        })?;
        if !unknown.is_empty() {
            self.check_entered()?;
        }
        Ok(!unknown.is_empty())
    }

    /// Fails if the record has lost what was just entered: it would be updated again and again.
    fn check_entered(&self) -> Result<()> {
        let set = &self.request.set;
        let record = self.as_internal(|conn| Record::of(conn, set))?;
        let is_lost = record.without_details(set).next().is_some()
            || self.as_internal(|conn| Adoption::find(conn, set, &record))?.is_some();
        if is_lost {
            Err(record::loses(record::DETAILS))
        } else {
            Ok(())
        }
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

    /// Runs the statements and the checks, records the step, and commits.
    fn run(&mut self, step: Step<'_>, mut known: Known) -> Result<Ran> {
        let script = step.script();
        event!(
            debug,
            "larder::migrate",
            self.writer.path(),
            { version = step.migration().version, migration = %script.file, direction = %step.direction() },
            "migration started"
        );
        let strings = self.as_internal(|conn| NewStrings::before(conn, script.text()))?;
        self.writer.guard().take_made_code();
        let began = Instant::now();
        let mut effects = Effects::default();
        let end = if script.transaction {
            self.run_script(step, Privilege::Migration, &mut known, &mut effects)?
        } else {
            self.run_without_transaction(step, &mut known, &mut effects)?
        };
        self.refuse_double_quoted_strings(step, &end, &strings)?;
        self.check_foreign_keys(step, &end, &mut known, &effects.touched)?;
        let has_triggers = known.record_has_triggers;
        let entered = self.enter(step, &mut known.record, &effects.touched, has_triggers, began.elapsed());
        entered
            .and_then(|()| self.writer.commit_own())
            .map_err(|error| match error {
                Error::CommitUnknown { .. } => error,
                error => self.failed(step, end, error),
            })?;
        // Its statements are forgotten at the end of the job.
        self.writer.readers().forget_statements();
        let keeps = script.transaction && !touches_record(&effects.touched) && !known.record_has_triggers;
        let violations = known.violations.as_ref();
        Ok(Ran {
            orphans: OldOrphans {
                total: violations.map_or(0, |violations| violations.orphans.len() as u64),
                tables: violations.map_or_else(Vec::new, Violations::tables),
            },
            known: keeps.then(|| known.left_by(self.writer, step.migration().version, effects.touched.settings)),
            tables: effects.tables,
        })
    }

    fn run_script(
        &self,
        step: Step<'_>,
        privilege: Privilege,
        known: &mut Known,
        effects: &mut Effects,
    ) -> Result<Spot> {
        let (conn, guard) = (self.writer.conn(), self.writer.guard());
        guard.take_touched();
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
            self.look_at_tables(step, spot, known, effects)
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
    fn run_without_transaction(&mut self, step: Step<'_>, known: &mut Known, effects: &mut Effects) -> Result<Spot> {
        // Afterwards no connection could tell any more what was there before.
        if known.violations.is_none() && self.writer.options().foreign_keys {
            let found = self.as_internal(|conn| Violations::read(conn, known.references.children()))?;
            known.violations = Some(found);
        }
        let version = known.record.version_of(step.migration()).to_owned();
        let (version, direction) = (version.as_str(), step.direction());
        self.as_internal(|conn| record::mark(conn, version, step.migration(), direction))?;
        self.writer.commit_own()?;
        // Each statement may have to wait for another process, and earlier statements are committed already.
        self.writer.conn().busy_timeout(self.request.patience)?;
        let ran = match self.run_script(step, Privilege::NoTransaction, known, effects) {
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
    fn enter(
        &self,
        step: Step<'_>,
        record: &mut Record,
        touched: &Touched,
        has_triggers: bool,
        took: Duration,
    ) -> Result<()> {
        let migration = step.migration();
        let is_suspect = touches_record(touched) || !step.script().transaction;
        if is_suspect && !self.as_internal(Record::read)?.agrees_with(record) {
            return Err(changed_the_record());
        }
        match step {
            Step::Up(_) => {
                self.as_internal(|conn| record::enter(conn, record, migration, took))?;
                record.entered(migration, took);
            }
            Step::Down(_) => {
                self.as_internal(|conn| record::remove(conn, record.version_of(migration)))?;
                record.applied.remove(&migration.version);
            }
        }
        // The step would be made again and again. (What else is lost shows in the plan of the next one.)
        if is_suspect || has_triggers {
            let kept = self.as_internal(Record::read)?;
            let is_applied = |record: &Record| record.applied.contains_key(&migration.version);
            if is_applied(&kept) != is_applied(record) {
                return Err(record::loses(record::TABLE));
            }
        }
        Ok(())
    }

    /// Looks at what a statement did to tables without STRICT.
    fn look_at_tables(&self, step: Step<'_>, spot: &Spot, known: &mut Known, effects: &mut Effects) -> Result<()> {
        let touched = self.writer.guard().take_touched();
        let events = if touched.defines_tables() {
            self.as_internal(|conn| known.not_strict.follow(conn, &touched))?
        } else {
            Vec::new()
        };
        effects.touched.add(touched);
        let created = events.iter().find_map(|event| match event {
            TableEvent::Created(table) => Some(table.clone()),
            _ => None,
        });
        effects.tables.extend(events);
        match created {
            Some(table) if self.writer.options().require_strict => Err(MigrationError::NotStrict {
                file: step.script().file.to_string(),
                version: step.migration().version,
                line: spot.line,
                table,
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
        let refused = Error::refused(
            format!("a double-quoted string in {}", first.described()),
            "\"..\" is a name, and no column has it: write a string as '..', or set \
             Options::double_quoted_strings(true)",
        );
        Err(self.failed(step, spot.clone(), refused))
    }

    /// Checks for rows that point nowhere, and for tables that refer to a missing table. What was there before the
    /// migration is let be.
    ///
    /// The first step of a run looks at the whole database. A later one looks only where it may have changed anything:
    /// at the tables that it touched and at those that refer to them. A rename may change what any table refers to, and
    /// outside a transaction a statement may have run that was not seen, so then the whole database is looked at.
    fn check_foreign_keys(&mut self, step: Step<'_>, spot: &Spot, known: &mut Known, touched: &Touched) -> Result<()> {
        if !self.writer.options().foreign_keys {
            return Ok(());
        }
        let followed = self.as_internal(|conn| known.references.follow(conn, touched))?;
        let whole = known.violations.is_none() || touched.altered || !step.script().transaction;
        let references = &known.references;
        let found = self.as_internal(|conn| {
            if !whole {
                return Violations::read(conn, references.affected(touched));
            }
            match Violations::none_at_all(conn)? {
                true => Ok(Violations::default()),
                false => Violations::read(conn, references.children()),
            }
        });
        let mut found = found.map_err(|error| self.failed(step, spot.clone(), error))?;
        if !followed.turned.is_empty() || !found.are_none() {
            if known.violations.is_none() {
                known.violations = Some(self.violations_before()?);
            }
            let had = known.violations.as_ref().expect("it was just read");
            let moved = Moved {
                touched,
                before: followed.before.as_ref(),
            };
            self.refuse_new(step, spot, &mut found, had, &moved, followed.turned)?;
        }
        if !whole && let Some(had) = known.violations.take() {
            let mut looked_at = touched.tables.clone();
            looked_at.extend(known.references.affected(touched).map(str::to_ascii_lowercase));
            found.replaces(had, &looked_at);
        }
        known.violations = Some(found);
        Ok(())
    }

    /// Refuses violations that were not there before.
    fn refuse_new(
        &self,
        step: Step<'_>,
        spot: &Spot,
        found: &mut Violations,
        had: &Violations,
        moved: &Moved<'_>,
        turned: Vec<String>,
    ) -> Result<()> {
        let mismatched = found
            .mismatched
            .keys()
            .find(|table| !had.mismatched.contains_key(*table));
        if let Some(table) = mismatched.cloned() {
            let error = found.mismatched.remove(&table).expect("it was just found");
            return Err(self.failed(step, spot.clone(), error.into()));
        }
        let new = found.new_since(had, moved);
        if new.is_empty() && turned.is_empty() {
            return Ok(());
        }
        let first = new.iter().take(MAX_REPORTED).map(|orphan| found.told(orphan));
        Err(MigrationError::ForeignKeys {
            file: step.script().file.to_string(),
            version: step.migration().version,
            total: (turned.len() + new.len()) as u64,
            before: (found.orphans.len() - new.len()) as u64,
            violations: turned.into_iter().chain(first).collect(),
            kept: self.kept.get(),
        }
        .into())
    }

    /// The violations before the step, which another connection still sees.
    fn violations_before(&self) -> Result<Violations> {
        let reader = self
            .writer
            .readers()
            .dedicated(CallSite::Label("larder: migrate".into()))?;
        let read = |conn: &Connection| {
            let references = References::read(conn)?;
            Violations::read(conn, references.children())
        };
        reader.with_conn(read).map_err(Error::from)
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

/// What the statements of a step did.
#[derive(Default)]
struct Effects {
    touched: Touched,
    tables: Vec<TableEvent>,
}

/// A step that was committed.
struct Ran {
    known: Option<Known>,
    tables: Vec<TableEvent>,
    orphans: OldOrphans,
}

/// Whether a migration may have changed the record, or what happens when larder writes to it.
fn touches_record(touched: &Touched) -> bool {
    [record::TABLE, record::DETAILS]
        .iter()
        .any(|table| touched.tables.contains(*table) || touched.triggered.contains(*table))
}

fn ended() -> Error {
    Error::RolledBack {
        reason: ENDED,
        caused_by_closure: true,
        source: None,
        context: None,
    }
}

fn open_transaction() -> Error {
    Error::refused(
        "BEGIN without COMMIT",
        "the migration leaves a transaction open at its end, which was rolled back: end it with COMMIT",
    )
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
    Error::refused(
        "a change of schema_migrations",
        "the table is larder's record of the applied migrations: remove the SQL that writes to it from the migration",
    )
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
