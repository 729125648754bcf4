//! Opening a [`Store`]. [`Options`] has the same methods, for the end of a chain of setters.

use std::path::Path;
use std::sync::Arc;

#[cfg(feature = "replicate")]
use super::replication;
use super::{Inner, Options, Store};
use crate::backup::{self, RestoreOptions, RestoreReport};
use crate::bulk::retention::Retainer;
use crate::connection::temp_folder::TempFolder;
#[cfg(not(feature = "replicate"))]
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::migrate::{self, Migrations};
#[cfg(feature = "replicate")]
use crate::replica::ReplicaRestore;
#[cfg(feature = "replicate")]
use crate::replica::storage::Storage;

/// # Opening
impl Options {
    /// Opens the database at `path` and starts the writer thread. A missing file is created with mode `0600`.
    ///
    /// ```
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("app.db");
    /// use larder::{Durability, Migration, Migrations, Options};
    ///
    /// let users = "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT";
    /// let store = Options::new()
    ///     .migrations(Migrations::new([Migration::new(1, "users", users)]))
    ///     .durability(Durability::Full)
    ///     .open(&path)?;
    /// # store.close()?;
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - [`Error::Options`](crate::Error::Options): a value is out of range.
    /// - [`Error::Open`](crate::Error::Open): the path is a folder, a symbolic link, no database or `:memory:`, its
    ///   parent folder does not exist, or the permissions do not allow it.
    /// - [`Error::AlreadyOpen`](crate::Error::AlreadyOpen): this process has a store on the file. If that store is
    ///   closing, the call waits for it first.
    /// - [`Error::InUse`](crate::Error::InUse): another process holds the file locked.
    /// - [`Error::UnsupportedFilesystem`](crate::Error::UnsupportedFilesystem) and
    ///   [`Error::SqliteTooOld`](crate::Error::SqliteTooOld): the file could be corrupted.
    /// - [`Error::Pragma`](crate::Error::Pragma): a setting did not take effect.
    /// - [`Error::Migration`](crate::Error::Migration): a migration failed, or the set does not fit the database.
    /// - The error that [`on_connect`](Self::on_connect) returned.
    pub fn open(self, path: impl AsRef<Path>) -> Result<Store> {
        Store::open_with(self, path.as_ref())
    }

    /// Opens a new database in a temporary folder, for tests. See [`Store::open_temp`].
    ///
    /// ```
    /// # use larder::Options;
    /// let store = Options::new().readers(2).open_temp()?;
    /// assert!(store.path().exists());
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_temp(self) -> Result<Store> {
        Store::open_temp_with(self)
    }

    /// Checks the migrations in a test: each is applied, undone and applied again, on top of those before it, on temporary
    /// stores with these options. It finds a way down that is missing, that fails, or that does not restore the schema,
    /// and a way up that makes another schema the second time. Rows are not compared, and there are none but those that
    /// the migrations insert.
    ///
    /// ```
    /// use larder::{Error, Migration, Migrations, Options};
    ///
    /// fn options() -> Options {
    ///     let users = "CREATE TABLE users(id INTEGER PRIMARY KEY, email TEXT) STRICT; CREATE INDEX by_email ON users(email)";
    ///     Options::new().migrations(Migrations::new([
    ///         Migration::new(1, "users", users).down("DROP TABLE users"),
    ///         Migration::new(2, "name", "ALTER TABLE users ADD COLUMN name TEXT"),
    ///     ]))
    /// }
    ///
    /// // #[test]
    /// fn migrations_can_be_undone() -> Result<(), Error> {
    ///     options().check_migrations()
    /// }
    /// # let error = migrations_can_be_undone().unwrap_err();
    /// # assert!(error.to_string().contains("migration 2 (name) cannot be undone"), "{error}");
    /// ```
    ///
    /// # Errors
    ///
    /// - [`Error::Migration`](crate::Error::Migration) with
    ///   [`MigrationError::Check`](crate::MigrationError::Check): its `problems` name each migration that has one. One that
    ///   cannot be applied is the last of them. Or with the error of a set that no store would open with.
    /// - [`Error::Options`](crate::Error::Options): there are no migrations, or a value is out of range.
    pub fn check_migrations(self) -> Result<()> {
        self.validate()?;
        self.validate_temp()?;
        let set = self.migrations.as_ref().ok_or_else(|| Error::Options {
            option: "migrations",
            problem: "there are none to check: give them to Options::migrations".into(),
        })?;
        migrate::round_trip(&self.settings, set)
    }

    /// Restores a backup. Of these options, the call uses [`on_connect`](Self::on_connect) and
    /// [`cache_size`](Self::cache_size). See [`Store::restore`].
    ///
    /// # Errors
    ///
    /// As [`Store::restore`].
    pub fn restore(self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<RestoreReport> {
        self.restore_with(RestoreOptions::new(), from, to)
    }

    /// As [`restore`](Self::restore), with options for this call. See [`Store::restore_with`].
    ///
    /// # Errors
    ///
    /// As [`Store::restore`].
    pub fn restore_with(
        self,
        options: RestoreOptions,
        from: impl AsRef<Path>,
        to: impl AsRef<Path>,
    ) -> Result<RestoreReport> {
        self.validate()?;
        backup::restore(&self.settings, options, from.as_ref(), to.as_ref())
    }
}

/// # In tests
impl Migrations {
    /// Checks that each migration can be applied, undone and applied again, on temporary stores with default options. See
    /// [`Options::check_migrations`], which uses other options.
    ///
    /// ```
    /// use larder::Migrations;
    ///
    /// let error = Migrations::files([
    ///     ("001_users.sql", "CREATE TABLE users(id INTEGER PRIMARY KEY) STRICT; CREATE TABLE roles(name TEXT) STRICT"),
    ///     ("001_users.down.sql", "DROP TABLE users"),
    /// ])?
    /// .check()
    /// .unwrap_err();
    /// assert_eq!(
    ///     error.to_string(),
    ///     "migration 001_users.sql: its way down does not restore the schema: the table roles is left",
    /// );
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Options::check_migrations`].
    pub fn check(&self) -> Result<()> {
        Options::new().migrations(self.clone()).check_migrations()
    }
}

/// # Restoring from a replica
#[cfg(feature = "replicate")]
#[cfg_attr(docsrs, doc(cfg(feature = "replicate")))]
impl Options {
    /// Restores a database from its replica. Of these options, the call uses [`on_connect`](Self::on_connect) and
    /// [`cache_size`](Self::cache_size), for the check. See [`Store::restore_from`].
    pub fn restore_from(self, url: &str) -> ReplicaRestore {
        ReplicaRestore::new(Storage::connect(url), self.settings)
    }
}

/// # Restoring from a replica
#[cfg(feature = "replicate")]
#[cfg_attr(docsrs, doc(cfg(feature = "replicate")))]
impl Store {
    /// Restores a database from the replica at a URL or in a folder: larder's, or Litestream's (0.5). By default its
    /// newest state; [`at`](ReplicaRestore::at) and [`txid`](ReplicaRestore::txid) choose an older one. Nothing happens
    /// before [`ReplicaRestore::to`], which goes over no file.
    ///
    /// [`Replica::points`](crate::Replica::points) lists what can be restored.
    ///
    /// ```
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let (url, path) = (folder.path().join("replica"), folder.path().join("app.db"));
    /// # let url = url.to_str().unwrap();
    /// use larder::Store;
    ///
    /// let error = Store::restore_from(url).to(&path).unwrap_err();
    /// assert!(error.to_string().contains("the replica has no files"), "{error}");
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn restore_from(url: &str) -> ReplicaRestore {
        Options::new().restore_from(url)
    }
}

/// # Opening
impl Store {
    /// Opens the database at `path` with default options. A missing file is created. [`Options::open`] opens it with
    /// other options.
    ///
    /// ```
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("app.db");
    /// use larder::{Error, Store};
    ///
    /// let store = Store::open(&path)?;
    /// let clone = store.clone(); // for another thread
    /// let again = Store::open(&path).unwrap_err();
    /// assert!(matches!(again, Error::AlreadyOpen { .. }));
    /// # drop(clone);
    /// # Ok::<_, Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// See [`Options::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Options::new().open(path)
    }

    /// Opens a new database in a temporary folder, which is deleted when the last clone is dropped. For tests: the
    /// database is a real file with a real WAL, so a test sees what production does.
    ///
    /// On Linux the folder is in memory, in `/dev/shm`, if that has 1 GiB of free space and the environment variable
    /// `TMPDIR` is not set; otherwise it is in `TMPDIR` or in `/tmp`. [`path`](Self::path) says where, and an event of the
    /// level `debug` why it is not in memory. The store syncs there as its [`Durability`](crate::Durability) says, which
    /// costs nothing: to measure commits, set `TMPDIR` or open a path on the disk. Set it also for stores that are large
    /// beside the memory limit of a container, which counts these files, and for processes that outlive the session of
    /// their user, at whose end systemd may empty `/dev/shm`.
    ///
    /// [`Template`](crate::Template) spares each test the migrations.
    ///
    /// ```
    /// let store = larder::Store::open_temp()?;
    /// store.write(|tx| tx.execute_batch("CREATE TABLE users(name TEXT NOT NULL) STRICT"))?;
    /// let path = store.path().to_owned();
    /// drop(store);
    /// assert!(!path.exists());
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// See [`Options::open`].
    pub fn open_temp() -> Result<Self> {
        Options::new().open_temp()
    }

    fn open_with(options: Options, path: &Path) -> Result<Self> {
        options.validate()?;
        Self::assemble(options, path, None)
    }

    fn open_temp_with(options: Options) -> Result<Self> {
        options.validate()?;
        options.validate_temp()?;
        let folder = TempFolder::for_store()?;
        let path = folder.database();
        Self::assemble(options, &path, Some(Arc::new(folder)))
    }

    pub(super) fn assemble(options: Options, path: &Path, folder: Option<Arc<TempFolder>>) -> Result<Self> {
        let patience = options.open_timeout();
        let Options {
            settings,
            migrations,
            retain,
            #[cfg(feature = "replicate")]
            replica,
        } = options;
        #[cfg(feature = "replicate")]
        let (engine, replication) = replication::open(settings, path, folder, patience, replica.as_ref())?;
        #[cfg(not(feature = "replicate"))]
        let engine = Engine::open(settings, path, folder, patience, None)?;
        if let Some(migrations) = &migrations
            && migrations.are_made_at_open()
        {
            if engine.options.read_only {
                migrate::refuse_pending(&engine, migrations)?;
            } else {
                migrate::to_newest(&engine, migrations)?;
            }
        }
        // The last migration may have left the writer with a setting that could not be restored.
        if let Some(poisoned) = engine.shared.poison() {
            return Err(poisoned);
        }
        let retainer = Arc::new(Retainer::default());
        retainer.start(&engine, retain)?;
        let inner = Inner {
            engine,
            migrations,
            retainer,
            #[cfg(feature = "replicate")]
            replication,
        };
        Ok(Self {
            inner: Arc::new(inner),
            label: None,
        })
    }
}
