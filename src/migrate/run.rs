//! One step, as a job that has the writer to itself.
//!
//! ```text
//! PRAGMA foreign_keys = OFF            a no-op inside a transaction, so before it
//! BEGIN IMMEDIATE                      waits for other processes that migrate
//!   read the record, plan the step     under the lock, so that each step is made by one process
//!   the migration's statements
//!   PRAGMA foreign_key_check
//!   enter it in the record
//! COMMIT
//! PRAGMA foreign_keys = ON             by the writer, after every such job
//! ```
//!
//! With foreign keys on, a table rebuild (create, copy, drop, rename) would delete the rows of every child by cascade
//! at the DROP: SQLite makes "an implicit DELETE FROM" first, <https://sqlite.org/foreignkeys.html#fk_schemacommands>.
//! With them off nothing is judged on the way, so all of it is judged at the end.
//!
//! A migration that asks for no transaction is marked as begun in a first transaction, and entered as made in a last
//! one. In between nothing protects it; whoever finds the mark, after a kill or in another process, does not run it again.

use std::cell::Cell;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rusqlite::ffi;

use super::error::MigrationError;
use super::plan::{Step, Target};
use super::record::{self, Adoption, Record};
use super::script::{Spot, Stop, StopError};
use super::{MigrationStep, Migrations};
use crate::backup;
use crate::error::{Error, Result, primary_code};
use crate::event::event;
use crate::fence::{Licence, TableChange};
use crate::transaction::ENDED;
use crate::writer::Writer;

/// What a step is to do.
#[derive(Clone, Debug)]
pub(crate) struct Errand {
    pub(crate) set: Migrations,
    pub(crate) target: Target,
    /// How long to wait for other processes.
    pub(crate) patience: Duration,
    /// Make a backup first, if there is a step to make.
    pub(crate) backup: bool,
}

/// What it has done.
pub(crate) enum Did {
    /// There was nothing to do.
    Nothing,
    /// Brought the record up to date: there may be more to do.
    Record,
    /// Another process runs this migration outside a transaction, or has left it unfinished.
    Unfinished(MigrationError),
    Made(Made),
}

pub(crate) struct Made {
    pub(crate) step: MigrationStep,
    pub(crate) backup: Option<PathBuf>,
    /// Tables that it made and that are not STRICT.
    pub(crate) not_strict: Vec<String>,
}

/// Makes the next step.
pub(crate) fn step(writer: &mut Writer, errand: &Errand) -> Result<Did> {
    foreign_keys_off(writer)?;
    begin(writer, errand.patience)?;
    let done = Attempt {
        writer,
        errand,
        kept: Cell::new(0),
    }
    .make();
    writer.roll_back_own();
    done
}

fn foreign_keys_off(writer: &Writer) -> Result<()> {
    let conn = writer.conn();
    writer
        .fence()
        .own(|| conn.execute_batch("PRAGMA foreign_keys = OFF"))
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

struct Attempt<'w> {
    writer: &'w mut Writer,
    errand: &'w Errand,
    /// How many statements are committed already.
    kept: Cell<usize>,
}

impl Attempt<'_> {
    /// In an open transaction. If it returns without having ended that, there is nothing in it to keep.
    fn make(&mut self) -> Result<Did> {
        let set = &self.errand.set;
        let record = self.own(Record::read)?;
        if self.bring_up_to_date(&record)? {
            self.writer.commit_own()?;
            return Ok(Did::Record);
        }
        let Some(step) = set.next(&record.applied, self.errand.target)? else {
            return Ok(Did::Nothing);
        };
        let migration = step.migration();
        if record.is_unfinished(migration) {
            return Ok(Did::Unfinished(MigrationError::Unfinished {
                file: migration.file.clone(),
                version: migration.digits.clone(),
            }));
        }
        let backup = self.back_up(step)?;
        let began = Instant::now();
        let not_strict = self.run(step)?;
        let recorded = record
            .applied
            .get(&migration.version)
            .map(|applied| applied.recorded.as_str());
        self.own(|conn| match step {
            Step::Up(_) => record::enter(conn, migration, began.elapsed()),
            Step::Down(_) => record::remove(conn, recorded.unwrap_or(&migration.digits)),
        })?;
        self.writer.commit_own()?;
        self.writer.forget_statements();
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
            "migration made"
        );
        Ok(Did::Made(Made {
            step,
            backup,
            not_strict,
        }))
    }

    /// Takes over what another tool has recorded. Says whether there was anything.
    fn bring_up_to_date(&self, record: &Record) -> Result<bool> {
        let set = &self.errand.set;
        if let Some(adoption) = self.own(|conn| Adoption::find(conn, set, record))? {
            set.check(&adoption.as_applied())?;
            self.own(|conn| adoption.enter(conn, set))?;
            return Ok(true);
        }
        set.check(&record.applied)?;
        let unknown: Vec<_> = record.without_details(set).collect();
        self.own(|conn| {
            if !unknown.is_empty() {
                record::create(conn)?;
            }
            for (recorded, migration) in &unknown {
                record::note(conn, recorded, migration, None)?;
            }
            Ok::<_, Error>(!unknown.is_empty())
        })
    }

    /// Made by a reader of its own, while this transaction keeps everybody from writing.
    fn back_up(&self, first: Step<'_>) -> Result<Option<PathBuf>> {
        let Some(folder) = self.errand.set.backup.as_ref().filter(|_| self.errand.backup) else {
            return Ok(None);
        };
        let database = self.writer.path();
        let mut name = database.file_name().unwrap_or_default().to_owned();
        name.push(match first {
            Step::Up(migration) => format!(".before-{}", migration.digits),
            Step::Down(migration) => format!(".before-down-{}", migration.digits),
        });
        let path = folder.join(name);
        backup::make(database, self.writer.options(), &path).map_err(|failure| MigrationError::Backup {
            path: path.clone(),
            problem: failure.problem,
            source: failure.source,
        })?;
        Ok(Some(path))
    }

    /// Runs the statements and what is checked after them. Gives the tables that are not STRICT.
    fn run(&mut self, step: Step<'_>) -> Result<Vec<String>> {
        let (migration, script) = (step.migration(), step.script());
        event!(
            debug,
            "larder::migrate",
            self.writer.path(),
            { version = migration.version, migration = %script.file, direction = %step.direction() },
            "migration begins"
        );
        let licence = if script.transaction {
            Licence::Migration
        } else {
            self.own(|conn| record::begin(conn, migration))?;
            self.writer.commit_own()?;
            Licence::NoTransaction
        };
        let mut tables = Tables {
            not_strict: self.own(record::tables_not_strict)?,
            made: Vec::new(),
        };
        let (conn, fence) = (self.writer.conn(), self.writer.fence());
        fence.take_table_change();
        let end = fence.licensed(licence, || {
            let ran = script.run(conn, |spot| {
                if !script.transaction {
                    self.kept.set(spot.number);
                } else if conn.is_autocommit() {
                    return Err(ended());
                }
                self.look_at_tables(step, spot, &mut tables)
            });
            ran.map_err(|stop| self.explain(step, *stop))
        })?;
        if !script.transaction {
            if !conn.is_autocommit() {
                return Err(self.failed(step, end, open_transaction()));
            }
            begin(self.writer, self.errand.patience)?;
        }
        self.check_foreign_keys(step, end)?;
        Ok(tables.made)
    }

    fn look_at_tables(&self, step: Step<'_>, spot: &Spot, tables: &mut Tables) -> Result<()> {
        let change = self.writer.fence().take_table_change();
        if change == TableChange::None {
            return Ok(());
        }
        let now = self.own(record::tables_not_strict)?;
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

    fn check_foreign_keys(&mut self, step: Step<'_>, spot: Spot) -> Result<()> {
        if !self.writer.options().foreign_keys {
            return Ok(());
        }
        let (violations, total) = match self.own(record::foreign_keys) {
            Ok(found) => found,
            Err(error) => return Err(self.failed(step, spot, error)),
        };
        if total == 0 {
            return Ok(());
        }
        self.writer.roll_back_own();
        let before = self.own(record::foreign_keys).unwrap_or_default();
        Err(MigrationError::ForeignKeys {
            file: step.script().file.to_string(),
            version: step.migration().version,
            already: self.kept.get() == 0 && before == (violations.clone(), total),
            violations,
            total,
            kept: self.kept.get(),
        }
        .into())
    }

    fn explain(&self, step: Step<'_>, stop: Stop) -> Error {
        let error = match stop.error {
            // A disk that fails is not the migration's doing; `Error::outcome` of it would say the same.
            StopError::Sqlite(error) => self.writer.fence().explain(error),
            StopError::Parameter => {
                let problem = "a migration has no parameters: write the value out, and put a string that has ? or : \
                               or @ or $ in it into quotes";
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

    fn own<T, E: Into<Error>>(&self, f: impl FnOnce(&rusqlite::Connection) -> std::result::Result<T, E>) -> Result<T> {
        let conn = self.writer.conn();
        self.writer.fence().own(|| f(conn)).map_err(Into::into)
    }
}

/// The tables that are not STRICT.
struct Tables {
    not_strict: Vec<String>,
    /// Those of them that this migration has made.
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
            // It was renamed.
            self.made.push((*new).clone());
        }
        self.made.retain(|table| now.contains(table));
        self.not_strict = now;
    }
}

fn ended() -> Error {
    Error::RolledBack {
        reason: ENDED,
        own_doing: true,
        source: None,
    }
}

fn open_transaction() -> Error {
    Error::Refused {
        statement: "BEGIN without COMMIT".into(),
        instead: "the migration leaves a transaction open at its end, which was rolled back: COMMIT it there",
    }
}

/// What is wrong, without the SQL text, which rusqlite repeats in full.
fn reason(error: &Error) -> String {
    match error {
        Error::Sqlite {
            source: rusqlite::Error::SqlInputError { msg, .. },
            ..
        } => msg.clone(),
        other => other.to_string(),
    }
}
