//! Migrations: the set in the program, the record in the database, and the steps from one to the other.
//!
//! ```text
//! Migrations      the set, from a list, files or a folder        parse.rs, markers.rs
//!   | plan        which migration is next, and which are errors  plan.rs
//!   v
//! one job a step  an exclusive job, under SQLite's write lock    step.rs, script.rs, checks.rs
//!   |
//!   v
//! the record      schema_migrations, larder_migrations           record.rs, adopt.rs
//! ```
//!
//! Each step is a transaction of its own: it reads the record, runs one migration and enters it in the record. So each
//! migration is applied once, by one process, even if several migrate at the same time; a process that waited for the lock
//! finds the step done and goes on to the next. After a kill the database is between two steps. If there is nothing to do,
//! migrating takes no lock (opening a store takes the write lock for a moment, for other reasons: `connection/mod.rs`).
//!
//! The calling thread drives: it queues one job after another ([`to`]), and other writes run between them.

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

/// How often a process checks whether another has finished a migration that runs outside a transaction.
const UNFINISHED_POLL: Duration = Duration::from_millis(50);

/// One schema change: a version, a name, the SQL that applies it, and optionally the SQL that undoes it.
///
/// ```
/// use larder::Migration;
///
/// let sql = "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT";
/// let users = Migration::new(1, "users", sql).down("DROP TABLE users");
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
    /// Creates a migration for a list in the program. Versions start at 1. `up` is the SQL that applies it, without markers;
    /// [`Migrations::files`] reads files in the format of Dbmate or Goose.
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

    /// Sets the SQL that undoes the migration. The default is none: then [`Store::migrate_to`] cannot go below this version.
    pub fn down(mut self, sql: impl AsRef<str>) -> Self {
        let script = Script::new(self.file.clone(), 1, sql.as_ref(), self.up.transaction);
        self.down = (!script.is_blank()).then_some(script);
        self
    }

    /// Runs the migration outside a transaction, for a `VACUUM` or for SQL with transactions of its own. If it fails, the
    /// effects of its first statements stay, and later calls return [`MigrationError::Unfinished`].
    pub fn without_transaction(mut self) -> Self {
        self.up.transaction = false;
        if let Some(down) = &mut self.down {
            down.transaction = false;
        }
        self
    }

    /// The checksum of `up`, which is what was applied.
    fn checksum(&self) -> &str {
        self.checksum.get_or_init(|| self.up.checksum())
    }

    /// The version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The name: the part of a file's name after the version.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// The record of another tool, which larder takes over. See [`Migrations::adopt`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Adopt {
    /// Goose's table `goose_db_version`.
    Goose,
    /// `PRAGMA user_version`, as `rusqlite_migration` and many programs use it: every version up to it is applied.
    UserVersion,
    /// Nothing: `user_version` or Goose's table is ignored, and all migrations are pending.
    Nothing,
}

/// The set of migrations of a program, in the order of their versions.
///
/// It comes from a list, from files embedded in the program, or from a folder. Files may have the format of Dbmate, that of
/// Goose, or be plain numbered SQL:
///
/// | format | file name | content |
/// |---|---|---|
/// | Dbmate | `20260401120000_users.sql` | `-- migrate:up` and `-- migrate:down`, optionally with `transaction:false` |
/// | Goose | `00001_users.sql` | `-- +goose Up`, `Down`, `StatementBegin`, `StatementEnd`, `NO TRANSACTION` |
/// | plain | `001_users.sql` and optionally `001_users.down.sql`; or `001_users/up.sql` and `down.sql` | only SQL |
///
/// [`Options::migrations`] applies them when the store opens. Each migration is one transaction with `foreign_keys=OFF`, so
/// that it can rebuild a table (create, copy, drop, rename) without deleting the rows of its children, and
/// `PRAGMA foreign_key_check` runs before the commit. Applied versions are recorded in Dbmate's table `schema_migrations`, so
/// Dbmate and larder can both migrate a database. Name, checksum, time and duration are in `larder_migrations`.
///
/// ```
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("app.db");
/// use larder::{Migration, Migrations, Options};
///
/// let users = "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT";
/// let migrations = Migrations::new([
///     Migration::new(1, "users", users).down("DROP TABLE users"),
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
    /// Creates a set from a list in the program. It is validated when the store opens.
    pub fn new(list: impl IntoIterator<Item = Migration>) -> Self {
        Self::sorted(list.into_iter().collect(), "the list".into())
    }

    /// Creates a set from files that are embedded in the program: names and contents.
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
    /// With the crate `include_dir`, the set of a folder is
    /// `Migrations::files(FOLDER.files().map(|file| (file.path(), file.contents())))`.
    ///
    /// # Errors
    ///
    /// [`Error::Migration`] with [`MigrationError::Format`]: a file is in none of the formats.
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

    /// Reads a set from a folder. It skips files that are not SQL, and folders without an `up.sql`.
    ///
    /// # Errors
    ///
    /// [`Error::Migration`] with [`MigrationError::Read`]: the folder or a file cannot be read; or with
    /// [`MigrationError::Format`]: a file is in none of the formats.
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

    /// Allows gaps in the versions. The default is `false`: each of these is [`MigrationError::Gap`]:
    ///
    /// - numbered versions are not consecutive (the first may be any; dates need not be consecutive);
    /// - an applied version is not in the set;
    /// - a pending version is lower than an applied one. With `true`, it is applied late.
    pub fn allow_gaps(mut self, allow: bool) -> Self {
        self.allow_gaps = allow;
        self
    }

    /// Applies the pending migrations when the store opens. The default is `true`. With `false`, call [`Store::migrate`], for
    /// example after a tool has shown what is pending.
    pub fn at_open(mut self, apply: bool) -> Self {
        self.at_open = apply;
        self
    }

    /// Takes over the record of another tool, once: as long as there is no record of larder or Dbmate. The record of the
    /// other tool is not changed. By default, a database that another tool seems to have migrated is
    /// [`MigrationError::NotAdopted`].
    pub fn adopt(mut self, from: Adopt) -> Self {
        self.adopt = Some(from);
        self
    }

    /// Makes a backup in this folder before the first pending migration, and verifies it (`integrity_check`, and the number
    /// of rows in every table) before it applies any. The default is no backup.
    ///
    /// - The backup of `app.db` before version 7 is `app.db.before-7.TIME`, or `app.db.before-down-7.TIME` before version 7 is
    ///   undone.
    /// - It is deleted again if the first migration fails because of its SQL, since the database is then unchanged.
    /// - For each version, the first backup and the two newest are kept.
    /// - Writes wait while it is made.
    /// - If several processes migrate at once, each makes a backup before the first migration that it applies itself.
    pub fn backup_to(mut self, folder: impl Into<PathBuf>) -> Self {
        self.backup = Some(folder.into());
        self
    }

    /// The migrations in the order of their versions.
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

/// The applied and the pending migrations of a database. See [`Store::migrations`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MigrationStatus {
    /// The applied migrations, by version.
    pub applied: Vec<AppliedMigration>,
    /// The pending migrations, by version.
    pub pending: Vec<PendingMigration>,
}

/// An applied migration.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AppliedMigration {
    /// Version.
    pub version: u64,
    /// Name.
    pub name: String,
    /// Time when it was applied, in UTC, as `2026-04-01T12:00:00.000Z`. `None` if another tool applied it and recorded no
    /// time.
    pub applied_at: Option<String>,
    /// Duration of its SQL and its checks. `None` if another tool applied it.
    pub duration: Option<Duration>,
}

/// A pending migration.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PendingMigration {
    /// Version.
    pub version: u64,
    /// Name.
    pub name: String,
}

/// The result of [`Store::migrate`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MigrationReport {
    /// The migrations that this process applied or undid, in order. Another process may have applied some of the pending
    /// ones.
    pub steps: Vec<MigrationStep>,
    /// The backup before the first of them. See [`Migrations::backup_to`].
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

/// One migration that was applied or undone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MigrationStep {
    /// Version.
    pub version: u64,
    /// Name.
    pub name: String,
    /// Whether the migration was applied or undone.
    pub direction: Direction,
    /// Duration of the migration, including its COMMIT.
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

/// Whether there is anything to do. It takes no lock.
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

/// The options of larder's own reads, with their label in statistics.
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
            "these tables were created without STRICT, so their INTEGER columns accept strings; \
             Options::require_strict makes this an error"
        );
    }
    ended.map(|()| report)
}

/// Runs one step after another until none is left.
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
