//! [`Migrations`]: a set of migrations, and how it is applied.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, fs};

use super::{Migration, MigrationError, parse};
use crate::error::{Error, Result};
#[cfg(doc)]
use crate::{Options, Store};

/// The record of another tool, which larder takes over. See [`Migrations::adopt`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Adopt {
    /// Goose's table `goose_db_version`.
    Goose,
    /// sqlx's table `_sqlx_migrations`. A migration that sqlx began and did not finish is an error.
    Sqlx,
    /// Diesel's table `__diesel_schema_migrations`.
    Diesel,
    /// refinery's table `refinery_schema_history`.
    Refinery,
    /// `PRAGMA user_version`, as `rusqlite_migration` and many programs use it: every version up to it is applied.
    UserVersion,
    /// These versions, whatever tool has applied them. A new database, which has no tables, gets all migrations all the
    /// same.
    Applied(Vec<u64>),
    /// Nothing: `user_version` and other tools' tables are ignored, and all migrations are pending.
    Nothing,
}

/// The set of migrations of a program, in the order of their versions.
///
/// It comes from a list, from files embedded in the program, or from a folder. Files may have the format of Dbmate,
/// that of Goose, or be plain numbered SQL:
///
/// | format | file name | content |
/// |---|---|---|
/// | Dbmate | `20260401120000_users.sql` | `-- migrate:up` and `-- migrate:down`, optionally with `transaction:false` |
/// | Goose | `00001_users.sql` | `-- +goose Up`, `Down`, `StatementBegin`, `StatementEnd`, `NO TRANSACTION` |
/// | plain | `001_users.sql` and optionally `001_users.down.sql`; or `001_users/up.sql` and `down.sql` | only SQL |
///
/// The version may be a time with separators: that of Diesel's folder `2024-03-05-101500_users` is 20240305101500.
///
/// [`Options::migrations`] applies them when the store opens. Each migration is one transaction with
/// `foreign_keys=OFF`, so that it can rebuild a table (create, copy, drop, rename) without deleting the rows of its
/// children, and `PRAGMA foreign_key_check` runs before the commit. Applied versions are recorded in Dbmate's table
/// `schema_migrations`, so Dbmate and larder can both migrate a database. Name, checksum, time and duration are in
/// `larder_migrations`.
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
    pub(super) list: Arc<[Migration]>,
    /// The source of the list, for errors.
    pub(super) origin: String,
    pub(super) allow_gaps: bool,
    pub(super) at_open: bool,
    pub(super) adopt: Option<Adopt>,
    /// Versions whose comments are no markers.
    pub(super) plain_comments: BTreeSet<u64>,
    pub(super) backup: Option<PathBuf>,
    pub(super) stop: Option<StopWhen>,
}

/// Says whether a run is to stop.
#[derive(Clone)]
pub(super) struct StopWhen(Arc<dyn Fn() -> bool + Send + Sync>);

impl fmt::Debug for StopWhen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StopWhen(..)")
    }
}

impl Migrations {
    /// Creates a set from a list in the program. It is validated when the store opens.
    ///
    /// ```
    /// use larder::{Migration, Migrations};
    ///
    /// let users = "CREATE TABLE users(id INTEGER PRIMARY KEY) STRICT";
    /// let migrations = Migrations::new([Migration::new(1, "users", users).down("DROP TABLE users")]);
    /// # assert_eq!(migrations.iter().count(), 1);
    /// ```
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
    /// [`migrations!`](crate::migrations) takes all files of a folder (feature `derive`). With the crate `include_dir`,
    /// the set of a folder is `Migrations::files(FOLDER.files().map(|file| (file.path(), file.contents())))`.
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
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # std::fs::write(folder.path().join("001_users.sql"), "CREATE TABLE users(id INTEGER PRIMARY KEY) STRICT")?;
    /// # let folder = folder.path();
    /// use larder::{Migrations, Options};
    ///
    /// let migrations = Migrations::folder(folder)?;
    /// let store = Options::new().migrations(migrations).open_temp()?;
    /// # assert_eq!(store.migrations()?.applied[0].name, "users");
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Migration`] with [`MigrationError::Read`]: the folder or a file cannot be read; or with
    /// [`MigrationError::Format`]: a file is in none of the formats.
    pub fn folder(path: impl AsRef<Path>) -> Result<Self> {
        let folder = path.as_ref();
        let files = files_in(folder)?;
        let read = |path: &PathBuf| fs::read(path).map_err(|source| unreadable(path, source));
        let contents = files.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        // Errors name a file relative to the folder.
        let names = files.iter().map(|file| file.strip_prefix(folder).unwrap_or(file));
        let list = parse::files(names.zip(contents.iter().map(Vec::as_slice)))?;
        Ok(Self::sorted(list, format!("the folder {}", folder.display())))
    }

    /// The set of [`migrations!`](crate::migrations). `folder` is its argument; `path` is where that was as the program
    /// was compiled, in a build with debug assertions.
    ///
    /// # Errors
    ///
    /// As [`files`](Self::files); [`MigrationError::NotEmbedded`].
    #[doc(hidden)]
    pub fn embedded(files: &[(&str, &[u8])], folder: &str, path: Option<&str>) -> Result<Self> {
        if let Some(path) = path {
            refuse_new_files(files, folder, Path::new(path))?;
        }
        Self::files(files.iter().copied())
    }

    fn sorted(mut list: Vec<Migration>, origin: String) -> Self {
        list.sort_by_key(|migration| migration.version);
        Self {
            list: list.into(),
            origin,
            allow_gaps: false,
            at_open: true,
            adopt: None,
            plain_comments: BTreeSet::new(),
            backup: None,
            stop: None,
        }
    }

    /// Allows gaps in the versions. The default is `false`: each of these is [`MigrationError::Gap`]:
    ///
    /// - numbered versions are not consecutive (the first may be any; dates need not be consecutive);
    /// - an applied version is not in the set;
    /// - a pending version is lower than an applied one. With `true`, it is applied late.
    ///
    /// ```
    /// use larder::{Migration, Migrations, Options};
    ///
    /// let set = || Migrations::new([
    ///     Migration::new(1, "users", "CREATE TABLE users(id INTEGER PRIMARY KEY) STRICT"),
    ///     Migration::new(3, "roles", "CREATE TABLE roles(id INTEGER PRIMARY KEY) STRICT"),
    /// ]);
    /// assert!(Options::new().migrations(set()).open_temp().is_err());
    /// Options::new().migrations(set().allow_gaps(true)).open_temp()?;
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn allow_gaps(mut self, allow: bool) -> Self {
        self.allow_gaps = allow;
        self
    }

    /// Applies the pending migrations when the store opens. The default is `true`. With `false`, call
    /// [`Store::migrate`], for example after a tool has shown what is pending.
    ///
    /// ```
    /// use larder::{Migration, Migrations, Options};
    ///
    /// let set = Migrations::new([Migration::new(1, "users", "CREATE TABLE users(id INTEGER PRIMARY KEY) STRICT")]);
    /// let store = Options::new().migrations(set.at_open(false)).open_temp()?;
    /// for pending in store.migrations()?.pending {
    ///     println!("{} {} is pending", pending.version, pending.name);
    /// }
    /// store.migrate()?;
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn at_open(mut self, apply: bool) -> Self {
        self.at_open = apply;
        self
    }

    /// Takes over the record of another tool, once: as long as there is no record of larder or Dbmate. The record of
    /// the other tool is not changed. By default, a database that another tool has migrated is
    /// [`MigrationError::NotAdopted`]: by the table in which one of some forty tools records what it has applied, or by
    /// a `user_version` above 0. The same error says that the record asked for is not there, but another one is.
    ///
    /// For a tool whose record has no versions of migrations, give the versions that it has applied:
    ///
    /// ```
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("app.db");
    /// # larder::rusqlite::Connection::open(&path)?.execute_batch(
    /// #     "CREATE TABLE d1_migrations(id INTEGER PRIMARY KEY, name TEXT UNIQUE, applied_at TIMESTAMP);
    /// #      INSERT INTO d1_migrations(name) VALUES ('0001_users.sql'); CREATE TABLE users(id INTEGER PRIMARY KEY)")?;
    /// use larder::{Adopt, Migrations, Options};
    ///
    /// let migrations = Migrations::files([
    ///     ("0001_users.sql", "CREATE TABLE users(id INTEGER PRIMARY KEY) STRICT"),
    ///     ("0002_email.sql", "ALTER TABLE users ADD COLUMN email TEXT"),
    /// ])?;
    /// let migrations = migrations.adopt(Adopt::Applied(vec![1]));
    /// let store = Options::new().migrations(migrations).open(&path)?; // applies 0002 only
    /// # assert_eq!(store.migrations()?.applied.len(), 2);
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn adopt(mut self, from: Adopt) -> Self {
        self.adopt = Some(from);
        self
    }

    /// Says that the comments of these versions are only comments. By default, a migration without a way down is
    /// refused if one of its comments looks like the beginning of a way down, as `-- Down` does, and SQL follows: it
    /// would run right after the way up. The file of an applied migration must not change, so this says it instead.
    ///
    /// ```
    /// use larder::{Migration, Migrations, Options};
    ///
    /// let sql = "CREATE TABLE users(id INTEGER PRIMARY KEY) STRICT;
    ///     -- Down with rowids
    ///     CREATE TABLE roles(name TEXT PRIMARY KEY) STRICT, WITHOUT ROWID";
    /// let set = Migrations::new([Migration::new(1, "users", sql)]).plain_comments([1]);
    /// Options::new().migrations(set).open_temp()?;
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn plain_comments(mut self, versions: impl IntoIterator<Item = u64>) -> Self {
        self.plain_comments.extend(versions);
        self
    }

    /// Makes a backup in this folder before the first pending migration, and verifies it (`integrity_check`, and the
    /// number of rows in every table) before it applies any. The default is no backup.
    ///
    /// - The backup of `app.db` before version 7 is `app.db.before-7.TIME`, or `app.db.before-down-7.TIME` before
    ///   version 7 is undone. If the folder has those of another `app.db`, a number follows the name, as for
    ///   [`Store::backup_every`](crate::Store::backup_every).
    /// - It is deleted again if the first migration fails because of its SQL, since the database is then unchanged.
    /// - For each version, the first backup and the two newest are kept. One whose time is after now is not counted.
    /// - Writes wait while it is made.
    /// - If several processes migrate at once, each makes a backup before the first migration that it applies itself.
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, backups) = (folder.path().join("app.db"), folder.path().join("backups"));
    /// # std::fs::create_dir(&backups)?;
    /// # use larder::{Migration, Migrations, Options, Store};
    /// # Store::open(&path)?.write(|tx| tx.execute_batch("CREATE TABLE users(id INTEGER PRIMARY KEY) STRICT"))?;
    /// let set = Migrations::new([Migration::new(1, "name", "ALTER TABLE users ADD COLUMN name TEXT")]);
    /// let store = Options::new().migrations(set.backup_to(&backups)).open(&path)?;
    /// # assert!(std::fs::read_dir(&backups)?.count() >= 1);
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn backup_to(mut self, folder: impl Into<PathBuf>) -> Self {
        self.backup = Some(folder.into());
        self
    }

    /// Stops a run between two of its migrations once `stop` returns true, for a signal that asks a program to end. It is
    /// called before each migration, on the writer thread or on that of the caller. The run fails with
    /// [`MigrationError::Stopped`]; what it has applied or undone is complete, and a further run goes on from there. A
    /// migration that has begun is not stopped, nor is the wait for SQLite's write lock. By default nothing stops a run.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicBool, Ordering};
    /// use larder::{Error, Migration, MigrationError, Migrations, Options};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("app.db");
    /// let ends = Arc::new(AtomicBool::new(false)); // a handler of signals sets it
    /// let asked = Arc::clone(&ends);
    /// let migrations = Migrations::new([Migration::new(1, "users", "CREATE TABLE users(id INTEGER PRIMARY KEY) STRICT")])
    ///     .at_open(false)
    ///     .stop_when(move || asked.load(Ordering::Relaxed));
    /// let store = Options::new().migrations(migrations).open(&path)?;
    /// ends.store(true, Ordering::Relaxed);
    /// let Err(Error::Migration(stopped)) = store.migrate() else { panic!("it is stopped") };
    /// assert!(matches!(*stopped, MigrationError::Stopped { made: 0 }));
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn stop_when(mut self, stop: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.stop = Some(StopWhen(Arc::new(stop)));
        self
    }

    /// Whether a run is to stop before its next migration.
    pub(super) fn stops(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| (stop.0)())
    }

    /// The migrations in the order of their versions.
    ///
    /// ```
    /// use larder::{Migration, Migrations};
    ///
    /// let set = Migrations::new([Migration::new(1, "users", "CREATE TABLE users(id INTEGER PRIMARY KEY) STRICT")]);
    /// let names: Vec<_> = set.iter().map(Migration::name).collect();
    /// assert_eq!(names, ["users"]);
    /// ```
    pub fn iter(&self) -> impl Iterator<Item = &Migration> {
        self.list.iter()
    }

    pub(crate) fn are_made_at_open(&self) -> bool {
        self.at_open
    }
}

/// The files of a folder that may be migrations, in order.
fn files_in(folder: &Path) -> Result<Vec<PathBuf>> {
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
    Ok(files)
}

/// Cargo does not notice a new file by itself: only the files that are in the program are known to it.
fn refuse_new_files(embedded: &[(&str, &[u8])], folder: &str, path: &Path) -> Result<()> {
    // The program may run elsewhere.
    let Ok(files) = files_in(path) else { return Ok(()) };
    let mut names = files.iter().map(|file| file.strip_prefix(path).unwrap_or(file));
    let is_new = |name: &&Path| embedded.iter().all(|(known, _)| Path::new(known) != *name);
    match names.find(is_new) {
        None => Ok(()),
        Some(name) => Err(MigrationError::NotEmbedded {
            file: name.display().to_string(),
            folder: folder.to_owned(),
        }
        .into()),
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
