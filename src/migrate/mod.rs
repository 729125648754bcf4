//! Migrations: a set of them, the record of the applied ones, and the steps between the two.
//!
//! ```text
//! Migrations        the set, from a list, files or a folder          parse.rs, markers.rs
//!   | plan          the next step, and the refusals                  plan.rs
//!   v
//! one job a step    exclusive, under SQLite's write lock             step.rs, script.rs, checks.rs
//!   |
//!   v
//! the record        schema_migrations, larder_migrations             record.rs, adopt.rs
//! ```
//!
//! Each step is its own transaction, which reads the record, runs one migration and records it. So exactly one process
//! runs a step, even if several migrate at once; a process that waited for the lock finds the step recorded and
//! continues with the next. A kill leaves a database between two steps. If there is nothing to do, migrations take no
//! lock (a store takes the write lock for a moment as it opens, for other reasons: `connection/mod.rs`).
//!
//! The calling thread drives the migration: it sends the writer thread one job after another ([`to`]), and other writes
//! run between them.

mod adopt;
mod checks;
mod dry_run;
mod markers;
mod parse;
mod plan;
mod record;
mod script;
mod step;

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use std::{fs, thread};

use rusqlite::Connection;

use self::adopt::Adoption;
pub use self::dry_run::DryRun;
use self::plan::Target;
use self::record::Record;
use self::script::Script;
use self::step::{Made, StepOutcome, StepRequest};
use crate::connection::filesystem::TempFolder;
use crate::engine::Engine;
pub use crate::error::{Direction, MigrationError};
use crate::error::{Error, Result};
use crate::options::ReadOptions;
use crate::telemetry::event::event;
use crate::write::Writer;
#[cfg(doc)]
use crate::{Options, Store};

/// Interval at which a process checks whether another has finished a migration outside a transaction.
const UNFINISHED_POLL: Duration = Duration::from_millis(50);

/// One change of the schema: a version, a name, the SQL of the way up, and perhaps that of the way down.
///
/// ```
/// use larder::Migration;
///
/// let users = Migration::new(1, "users", "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT")
///     .down("DROP TABLE users");
/// assert_eq!(users.version(), 1);
/// ```
#[derive(Clone, Debug)]
pub struct Migration {
    version: u64,
    /// The version as it is recorded: the digits of the file name.
    digits: String,
    name: Cow<'static, str>,
    /// The name of the migration in errors.
    file: String,
    up: Script,
    down: Option<Script>,
    checksum: OnceLock<String>,
}

impl Migration {
    /// A migration for a list in the program. Versions begin at 1. The SQL is that of the way up alone, with no markers
    /// in it; for a file of Dbmate's or Goose's there is [`Migrations::files`].
    pub fn new(version: u64, name: impl Into<Cow<'static, str>>, up: impl AsRef<str>) -> Self {
        let name = name.into();
        let file = format!("{version} ({name})");
        Self {
            version,
            digits: version.to_string(),
            name,
            up: Script::new(file.clone(), 1, up.as_ref(), true),
            down: None,
            checksum: OnceLock::new(),
            file,
        }
    }

    /// The way back. The default is none: then [`Store::migrate_to`] refuses to go below this version.
    pub fn down(mut self, sql: impl AsRef<str>) -> Self {
        let script = Script::new(self.file.clone(), 1, sql.as_ref(), self.up.transaction);
        self.down = (!script.is_blank()).then_some(script);
        self
    }

    /// Runs it outside a transaction, for a `VACUUM` or a transaction of its own. What it did before it failed stays,
    /// and whoever meets it unfinished is told so ([`MigrationError::Unfinished`]).
    pub fn without_transaction(mut self) -> Self {
        self.up.transaction = false;
        if let Some(down) = &mut self.down {
            down.transaction = false;
        }
        self
    }

    /// The checksum of the way up, which is what was applied.
    fn checksum(&self) -> &str {
        self.checksum.get_or_init(|| self.up.checksum())
    }

    /// Its version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Its name: what follows the version in a file's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// A record of migrations that another tool has kept, to be taken over. See [`Migrations::adopt`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Adopt {
    /// Goose's table `goose_db_version`: what it has as applied was applied.
    Goose,
    /// `PRAGMA user_version`, as `rusqlite_migration` and many programs count: every version up to it was applied.
    UserVersion,
    /// Nothing: `user_version` or Goose's table mean something else, and all migrations are pending.
    Nothing,
}

/// All the migrations of a program, in the order of their versions.
///
/// From a list, from files that are embedded in the program, or from a folder, in the formats of Dbmate and Goose and
/// as plain numbered SQL:
///
/// | format | a file's name | inside |
/// |---|---|---|
/// | Dbmate | `20260401120000_users.sql` | `-- migrate:up`, `-- migrate:down`, each perhaps with `transaction:false` |
/// | Goose | `00001_users.sql` | `-- +goose Up`, `Down`, `StatementBegin`, `StatementEnd`, `NO TRANSACTION` |
/// | plain | `001_users.sql`, perhaps with `001_users.down.sql`; or `001_users/up.sql` and `down.sql` | SQL alone |
///
/// [`Options::migrations`] has them applied as a store opens. Each is one transaction, with `foreign_keys=OFF` so that
/// a table can be rebuilt (create, copy, drop, rename) without losing the rows of its children, and
/// `PRAGMA foreign_key_check` before it commits. What was applied is recorded in Dbmate's own table
/// `schema_migrations`, so Dbmate and larder may take turns; name, checksum, time and duration stand in
/// `larder_migrations`.
///
/// ```
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("app.db");
/// use larder::{Migration, Migrations, Options};
///
/// let migrations = Migrations::new([
///     Migration::new(1, "users", "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT")
///         .down("DROP TABLE users"),
///     Migration::new(2, "email", "ALTER TABLE users ADD COLUMN email TEXT")
///         .down("ALTER TABLE users DROP COLUMN email"),
/// ]);
/// let store = Options::new().migrations(migrations).open(&path)?;
/// assert_eq!(store.migrations()?.applied.len(), 2);
/// # Ok::<_, larder::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Migrations {
    list: Arc<[Migration]>,
    /// The source of the list, for errors.
    origin: String,
    allow_gaps: bool,
    at_open: bool,
    adopt: Option<Adopt>,
    backup: Option<PathBuf>,
}

impl Migrations {
    /// A list in the program. It is checked when the store opens.
    pub fn new(list: impl IntoIterator<Item = Migration>) -> Self {
        Self::sorted(list.into_iter().collect(), "the list".into())
    }

    /// Files that are embedded in the program: their names and what is in them.
    ///
    /// ```
    /// use larder::Migrations;
    ///
    /// let migrations = Migrations::files([
    ///     ("001_users.sql", "CREATE TABLE users(id INTEGER PRIMARY KEY) STRICT"),
    ///     ("001_users.down.sql", "DROP TABLE users"),
    /// ])?;
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// With the crate `include_dir`, a folder is
    /// `Migrations::files(FOLDER.files().map(|file| (file.path(), file.contents())))`.
    ///
    /// # Errors
    ///
    /// [`Error::Migration`] with [`MigrationError::Format`] for a file in no format that larder knows.
    pub fn files<P, C>(files: impl IntoIterator<Item = (P, C)>) -> Result<Self>
    where
        P: AsRef<Path>,
        C: AsRef<[u8]>,
    {
        let files: Vec<_> = files.into_iter().collect();
        let list = parse::files(files.iter().map(|(path, contents)| (path.as_ref(), contents.as_ref())))?;
        let origin = format!(
            "the embedded files ({}, of which none is named like 001_name.sql)",
            files.len()
        );
        Ok(Self::sorted(list, origin))
    }

    /// A folder, read now. Files that are not SQL are passed over, and so are folders, but for those that have an
    /// `up.sql`.
    ///
    /// # Errors
    ///
    /// [`Error::Migration`] with [`MigrationError::Read`] if it cannot be read, [`MigrationError::Format`] for a file in
    /// no format that larder knows.
    pub fn folder(path: impl AsRef<Path>) -> Result<Self> {
        let folder = path.as_ref();
        let mut files = Vec::new();
        for path in entries(folder)? {
            if path.is_dir() {
                files.extend(
                    ["up.sql", "down.sql"]
                        .map(|name| path.join(name))
                        .into_iter()
                        .filter(|file| file.exists()),
                );
            } else if parse::may_be_one(&path) {
                files.push(path);
            }
        }
        let read = |path: &PathBuf| fs::read(path).map_err(|source| unreadable(path, source));
        let contents = files.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        // Errors name a file relative to the folder.
        let names = files.iter().map(|file| file.strip_prefix(folder).unwrap_or(file));
        let list = parse::files(names.zip(contents.iter().map(Vec::as_slice)))?;
        Ok(Self::sorted(list, format!("the folder {}", folder.display())))
    }

    fn sorted(mut list: Vec<Migration>, origin: String) -> Self {
        list.sort_by_key(|migration| migration.version);
        Self {
            list: list.into(),
            origin,
            allow_gaps: false,
            at_open: true,
            adopt: None,
            backup: None,
        }
    }

    /// Whether versions may be left out. The default is `false`: it is an error ([`MigrationError::Gap`]) if numbers are
    /// not one after another (dates need not be, and the first may be any), if a version that was applied is not in the
    /// set, and if one that was not applied comes before one that was. With `true` the last is applied late.
    pub fn allow_gaps(mut self, allow: bool) -> Self {
        self.allow_gaps = allow;
        self
    }

    /// Whether opening the store applies what is pending. The default is `true`. With `false` it is
    /// [`Store::migrate`] that does, for a tool that first wants to look.
    pub fn at_open(mut self, apply: bool) -> Self {
        self.at_open = apply;
        self
    }

    /// Takes over what another tool has recorded, once: as long as there is no record of larder's or Dbmate's. The
    /// default is to refuse a database that another tool seems to have migrated ([`MigrationError::NotAdopted`]). The
    /// other record is left as it is.
    pub fn adopt(mut self, from: Adopt) -> Self {
        self.adopt = Some(from);
        self
    }

    /// Makes a backup in this folder before the first of the migrations that are to be made, and makes them only once it
    /// has been checked: `integrity_check` of the copy, and the number of rows of every table. The default is none.
    ///
    /// The backup of `app.db` before version 7 is `app.db.before-7.TIME`, and `app.db.before-down-7.TIME` before 7 is
    /// undone. It is removed again if that first migration fails by a mistake of its own, since the database is then as
    /// it was. Of a version the first backup is kept and the two newest. Nobody can write while it is made. Where
    /// several processes migrate at once, each that makes a step makes a backup before its first.
    pub fn backup_to(mut self, folder: impl Into<PathBuf>) -> Self {
        self.backup = Some(folder.into());
        self
    }

    /// The migrations, in the order of their versions.
    pub fn iter(&self) -> impl Iterator<Item = &Migration> {
        self.list.iter()
    }

    pub(crate) fn are_made_at_open(&self) -> bool {
        self.at_open
    }
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = |source| unreadable(folder, source);
    let mut entries = fs::read_dir(folder)
        .map_err(unreadable)?
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<Vec<_>>>()
        .map_err(unreadable)?;
    entries.sort();
    Ok(entries)
}

fn unreadable(path: &Path, source: std::io::Error) -> Error {
    let path = path.into();
    MigrationError::Read { path, source }.into()
}

/// What a database has had of a set. See [`Store::migrations`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MigrationStatus {
    /// What was applied, by version.
    pub applied: Vec<AppliedMigration>,
    /// What was not, by version.
    pub pending: Vec<PendingMigration>,
}

/// A migration that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AppliedMigration {
    /// Its version.
    pub version: u64,
    /// Its name.
    pub name: String,
    /// When, in UTC, as `2026-04-01T12:00:00.000Z`. `None` if another tool applied it and did not say.
    pub applied_at: Option<String>,
    /// How long its SQL and its checks took. `None` if another tool applied it.
    pub duration: Option<Duration>,
}

/// A migration that has not been applied.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PendingMigration {
    /// Its version.
    pub version: u64,
    /// Its name.
    pub name: String,
}

/// What was done. See [`Store::migrate`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MigrationReport {
    /// The migrations that this process made, in order. Another may have made some of those that were pending.
    pub steps: Vec<MigrationStep>,
    /// The backup that was made before the first; see [`Migrations::backup_to`].
    pub backup: Option<PathBuf>,
}

impl MigrationReport {
    /// Adds a step. Returns the tables without STRICT that it and earlier ones created.
    fn add(&mut self, made: Made) -> Result<Vec<String>> {
        let (version, direction) = (made.step.version, made.step.direction);
        let again = |step: &MigrationStep| step.version == version && step.direction == direction;
        if self.steps.iter().any(again) {
            return Err(MigrationError::Crossed { version }.into());
        }
        self.steps.push(made.step);
        self.backup = made.backup.or(self.backup.take());
        Ok(made.not_strict)
    }
}

/// One migration that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MigrationStep {
    /// Its version.
    pub version: u64,
    /// Its name.
    pub name: String,
    /// Whether it was applied or undone.
    pub direction: Direction,
    /// How long it took, with its COMMIT.
    pub duration: Duration,
}

/// The applied and the pending migrations.
pub(crate) fn status(conn: &Connection, set: &Migrations) -> Result<MigrationStatus> {
    let mut record = Record::read(conn)?;
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

/// Whether there is anything to do, without taking a lock.
fn anything_to_do(conn: &Connection, set: &Migrations, target: Target) -> Result<bool> {
    let record = Record::read(conn)?;
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

/// Migrates to a version, up or down.
pub(crate) fn to_version(engine: &Engine, set: &Migrations, version: u64) -> Result<MigrationReport> {
    to(engine, set, Target::Version(version))
}

/// The options of larder's own reads: their label in statistics.
fn own_read() -> ReadOptions {
    ReadOptions::new().label("larder: migrate")
}

fn to(engine: &Engine, set: &Migrations, target: Target) -> Result<MigrationReport> {
    let mut report = MigrationReport::default();
    if !engine.read(own_read(), |tx| anything_to_do(tx, set, target))? {
        return Ok(report);
    }
    let mut not_strict = Vec::new();
    let ended = drive(engine, set, target, &mut report, &mut not_strict);
    if !not_strict.is_empty() {
        event!(
            warn,
            "larder::migrate",
            engine.path(),
            { tables = not_strict.join(", ") },
            "these tables were made without STRICT, so an INTEGER column of theirs takes strings, too; \
             Options::require_strict refuses that"
        );
    }
    ended.map(|()| report)
}

/// Makes one step after another until none is left.
fn drive(
    engine: &Engine,
    set: &Migrations,
    target: Target,
    report: &mut MigrationReport,
    not_strict: &mut Vec<String>,
) -> Result<()> {
    let patience = engine.options.migration_timeout;
    let mut met_unfinished = None;
    loop {
        let request = StepRequest {
            set: set.clone(),
            target,
            patience,
            backup: report.steps.is_empty(),
            not_strict: not_strict.clone(),
        };
        match engine.run_exclusive("migrate", move |writer: &mut Writer| step::step(writer, &request))? {
            StepOutcome::Nothing => return Ok(()),
            StepOutcome::Record => {}
            StepOutcome::Made(made) => *not_strict = report.add(made)?,
            StepOutcome::Unfinished(error) => {
                let since = *met_unfinished.get_or_insert_with(Instant::now);
                if since.elapsed() >= patience {
                    return Err(error.into());
                }
                thread::sleep(UNFINISHED_POLL);
                continue;
            }
        }
        met_unfinished = None;
    }
}

/// Applies every pending migration to a copy.
pub(crate) fn dry_run(engine: &Engine, set: &Migrations, on: DryRun) -> Result<MigrationReport> {
    let folder = match on {
        DryRun::Schema => TempFolder::new()?,
        DryRun::Backup => TempFolder::beside(engine.path())?,
    };
    let path = folder.database();
    let mut set = set.clone().at_open(false);
    set.backup = None;
    let mut options = engine.options.clone();
    options.readers = 1;
    // No other process has the copy.
    options.migration_timeout = Duration::from_millis(1);
    let patience = options.busy_timeout;
    let copy = match on {
        DryRun::Schema => {
            let schema = engine.read(own_read(), |tx| dry_run::SchemaCopy::read(tx))?;
            let copy = Engine::open(options, &path, None, patience)?;
            copy.run_exclusive("migrate", move |writer: &mut Writer| {
                let conn = writer.conn();
                writer.guard().as_internal(|| {
                    conn.execute_batch("PRAGMA foreign_keys = OFF")?;
                    schema.write(conn)
                })
            })?;
            copy
        }
        DryRun::Backup => {
            engine.read(own_read(), |tx| dry_run::copy(tx, &engine.options, &path))?;
            Engine::open(options, &path, None, patience)?
        }
    };
    let report = to_newest(&copy, &set);
    copy.close(copy.options.close_timeout);
    report
}
