//! Migrations: the set in the program, the record in the database, and the steps from one to the other.
//!
//! ```text
//! Migrations      the set, from a list, files or a folder        parse.rs, file_time.rs, markers.rs, lost_markers.rs
//!   | plan        which migration is next, and which are errors  plan.rs
//!   v
//! one job a step  an exclusive job, under SQLite's write lock    step.rs, script.rs
//!   | checks      foreign keys, tables without STRICT            references.rs, orphans.rs, strictness.rs, checks.rs
//!   |
//!   v
//! the record      schema_migrations, larder_migrations           record.rs, adopt.rs
//! ```
//!
//! Each step is a transaction of its own: it reads the record, runs one migration and enters it in the record. So each
//! migration is applied once, by one process, even if several migrate at the same time; a process that waited for the
//! lock finds the step done and goes on to the next. After a kill the database is between two steps. If there is
//! nothing to do, migrating takes no lock (opening a store takes the write lock for a moment, for other reasons:
//! `connection/mod.rs`).
//!
//! The calling thread drives: it queues one job after another ([`to`]), and other writes run between them.

mod adopt;
mod checks;
mod create;
mod dry_run;
mod effects;
mod file_time;
mod known;
mod lost_markers;
#[cfg(feature = "derive")]
pub(crate) mod macros;
mod markers;
mod migration;
mod orphans;
mod parse;
mod plan;
mod record;
mod references;
mod report;
mod round_trip;
mod script;
mod set;
mod step;
mod strictness;

use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use self::adopt::Adoption;
pub use self::dry_run::DryRun;
pub use self::migration::Migration;
use self::plan::Target;
use self::record::Record;
pub use self::report::{AppliedMigration, MigrationReport, MigrationStatus, MigrationStep, PendingMigration};
pub(crate) use self::round_trip::round_trip;
pub use self::set::{Adopt, Migrations};
use self::step::{OldOrphans, StepOutcome, StepRequest};
use crate::connection::temp_folder::TempFolder;
use crate::engine::Engine;
use crate::error::Result;
pub use crate::error::{Direction, MigrationError};
use crate::options::{Checkpoints, OnConnect};
use crate::telemetry::event::event;
use crate::transaction::ReadTx;
use crate::write::Writer;
#[cfg(doc)]
use crate::{Options, Store};

/// How often a process checks whether another has finished a migration that runs outside a transaction.
const UNFINISHED_POLL: Duration = Duration::from_millis(50);

/// The applied and the pending migrations.
pub(crate) fn status(conn: &Connection, set: &Migrations) -> Result<MigrationStatus> {
    let mut record = Record::of(conn, set)?;
    if let Some(adoption) = Adoption::find(conn, set, &record)? {
        record.applied = adoption.as_applied();
    }
    let applied = record.applied.iter().map(|(version, applied)| {
        let details = applied.details.as_ref();
        let in_set = set.find(*version).map(|migration| migration.name.clone().into_owned());
        AppliedMigration {
            version: *version,
            name: in_set.or(details.map(|d| d.name.clone())).unwrap_or_default(),
            applied_at: details.and_then(|d| d.applied_at.clone()),
            duration: details.and_then(|d| d.duration),
        }
    });
    let pending = set.pending(&record.applied).map(|migration| PendingMigration {
        version: migration.version,
        name: migration.name.clone().into_owned(),
    });
    Ok(MigrationStatus {
        applied: applied.collect(),
        pending: pending.collect(),
    })
}

/// Whether there is anything to do. It takes no lock.
fn anything_to_do(conn: &Connection, set: &Migrations, target: Target) -> Result<bool> {
    let record = Record::of(conn, set)?;
    if Adoption::find(conn, set, &record)?.is_some() {
        return Ok(true);
    }
    let next = set.next(&record.applied, target)?;
    Ok(next.is_some() || record.unfinished(set).is_some() || record.without_details(set).next().is_some())
}

/// Migrates to the newest version.
pub(crate) fn to_newest(engine: &Engine, set: &Migrations) -> Result<MigrationReport> {
    to(engine, set, Target::Newest)
}

/// For a store that only reads: refuses a database that lacks a migration of the set, as code for a newer schema would
/// read an older one.
pub(crate) fn refuse_pending(engine: &Engine, set: &Migrations) -> Result<()> {
    let (next, pending) = read(engine, |tx| {
        let mut record = Record::of(tx, set)?;
        if let Some(adoption) = Adoption::find(tx, set, &record)? {
            record.applied = adoption.as_applied();
        }
        if let Some(unfinished) = record.unfinished(set) {
            return Err(unfinished.into());
        }
        let next = set.next(&record.applied, Target::Newest)?;
        let first = set.pending(&record.applied).next();
        let file = first.map_or(String::new(), |migration| migration.file.clone());
        let version = first.map_or(0, |migration| migration.version);
        Ok((next.map(|_| (file, version)), set.pending(&record.applied).count()))
    })?;
    match next {
        None => Ok(()),
        Some((file, version)) => Err(MigrationError::Pending { file, version, pending }.into()),
    }
}

/// Migrates to a version, up or down.
pub(crate) fn to_version(engine: &Engine, set: &Migrations, version: u64) -> Result<MigrationReport> {
    to(engine, set, Target::Version(version))
}

/// Migrates up to a version.
pub(crate) fn up_to(engine: &Engine, set: &Migrations, version: u64) -> Result<MigrationReport> {
    to(engine, set, Target::UpTo(version))
}

/// Migrates down to a version.
pub(crate) fn down_to(engine: &Engine, set: &Migrations, version: u64) -> Result<MigrationReport> {
    to(engine, set, Target::DownTo(version))
}

/// Runs larder's own queries.
fn read<T>(engine: &Engine, f: impl FnOnce(&ReadTx<'_>) -> Result<T>) -> Result<T> {
    engine.read_internal("larder: migrate", engine.options.read_queue_timeout, f)
}

fn to(engine: &Engine, set: &Migrations, target: Target) -> Result<MigrationReport> {
    let mut report = MigrationReport::default();
    if !read(engine, |tx| anything_to_do(tx, set, target))? {
        return Ok(report);
    }
    let mut noted = Noted::default();
    let ended = drive(engine, set, target, &mut report, &mut noted);
    if !noted.not_strict.is_empty() {
        event!(
            warn,
            "larder::migrate",
            engine.path(),
            { tables = noted.not_strict.join(", ") },
            "these tables were created without STRICT, so their INTEGER columns accept strings; \
             Options::require_strict makes this an error"
        );
    }
    if noted.orphans.total > 0 {
        event!(
            warn,
            "larder::migrate",
            engine.path(),
            { rows = noted.orphans.total, tables = noted.orphans.tables.join(", ") },
            "rows whose foreign key refers to no row were there before the migrations, and still are"
        );
    }
    ended.map(|()| report)
}

/// What a run has noted for its events.
#[derive(Default)]
struct Noted {
    /// The tables without STRICT that it created.
    not_strict: Vec<String>,
    orphans: OldOrphans,
}

/// Runs one step after another until none is left.
fn drive(
    engine: &Engine,
    set: &Migrations,
    target: Target,
    report: &mut MigrationReport,
    noted: &mut Noted,
) -> Result<()> {
    let patience = engine.options.migration_timeout;
    let mut met_unfinished = None;
    let mut known = None;
    loop {
        // A run that has made its last step is not stopped any more.
        if set.stops() && read(engine, |tx| anything_to_do(tx, set, target))? {
            let made = report.steps.len();
            return Err(MigrationError::Stopped { made }.into());
        }
        let request = StepRequest {
            set: set.clone(),
            target,
            patience,
            backup: report.steps.is_empty(),
            known: known.take(),
        };
        let batch = engine.run_exclusive("migrate", move |writer: &mut Writer| step::steps(writer, request))?;
        for made in batch.made {
            met_unfinished = None;
            strictness::keep(&mut noted.not_strict, made.tables);
            report.orphans = made.orphans.total;
            noted.orphans = made.orphans;
            report.add(made.step, made.backup)?;
        }
        known = batch.known;
        match batch.end? {
            StepOutcome::Nothing => return Ok(()),
            StepOutcome::Record => met_unfinished = None,
            StepOutcome::Made(_) | StepOutcome::More => {}
            StepOutcome::Unfinished(error) => {
                let since = *met_unfinished.get_or_insert_with(Instant::now);
                if since.elapsed() >= patience {
                    return Err(error.into());
                }
                thread::sleep(UNFINISHED_POLL);
            }
        }
    }
}

/// Applies every pending migration to a copy.
pub(crate) fn dry_run(engine: &Engine, set: &Migrations, on: DryRun) -> Result<MigrationReport> {
    let folder = match on {
        DryRun::Schema => TempFolder::new()?,
        // Nothing is created beside a database that is only read.
        DryRun::Backup if engine.options.read_only => TempFolder::new()?,
        DryRun::Backup => TempFolder::beside(engine.path())?,
    };
    let path = folder.database();
    let mut set = set.clone().at_open(false);
    set.backup = None;
    let mut options = engine.options.clone();
    options.readers = 1;
    // No other process has the copy.
    options.migration_timeout = Duration::from_millis(1);
    options.checkpoints = Checkpoints::Own;
    options.create = true;
    options.read_only = false;
    options.on_connect = options.on_connect.map(OnConnect::for_copy);
    let patience = options.busy_timeout;
    match on {
        DryRun::Schema => read(engine, |tx| dry_run::SchemaCopy::read(tx))?.write(&options, &path)?,
        DryRun::Backup => read(engine, |tx| dry_run::copy(tx, &engine.options, &path))?,
    }
    let copy = Engine::open(options, &path, None, patience, None)?;
    let report = to_newest(&copy, &set);
    copy.close(copy.options.close_timeout);
    report
}
