//! Opening a [`Store`], and restoring the file of one. [`Options`] has the same methods, at the end of a chain of
//! setters. They are here and not in `options.rs`, which every lower part imports.

use std::path::Path;
use std::sync::Arc;

use super::{Inner, Options, Store};
use crate::backup::{self, RestoreReport};
use crate::connection::filesystem::TempFolder;
use crate::engine::Engine;
use crate::error::Result;
use crate::migrate;

impl Options {
    /// Opens `path`, creating it with mode `0600` if it is not there, and starts the writer thread.
    ///
    /// # Errors
    ///
    /// - [`Error::Options`](crate::Error::Options): a value is out of range.
    /// - [`Error::Open`](crate::Error::Open): a folder, a symbolic link, no database, no permission, no parent
    ///   folder, `:memory:`.
    /// - [`Error::AlreadyOpen`](crate::Error::AlreadyOpen): this process has a store on the file. A store that is
    ///   just closing is waited for.
    /// - [`Error::InUse`](crate::Error::InUse): another process holds the file.
    /// - [`Error::UnsupportedFilesystem`](crate::Error::UnsupportedFilesystem),
    ///   [`Error::SqliteTooOld`](crate::Error::SqliteTooOld): it would not be safe.
    /// - [`Error::Pragma`](crate::Error::Pragma): a setting did not take effect.
    /// - [`Error::Migration`](crate::Error::Migration): a migration failed, or the set does not fit the database.
    /// - whatever [`on_connect`](Self::on_connect) returned.
    pub fn open(self, path: impl AsRef<Path>) -> Result<Store> {
        Store::open_with(self, path.as_ref())
    }

    /// Restores a backup with these options: with what [`on_connect`](Self::on_connect) sets, and page caches of
    /// [`cache_size`](Self::cache_size). See [`Store::restore`].
    ///
    /// # Errors
    ///
    /// As [`Store::restore`].
    pub fn restore(self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<RestoreReport> {
        self.validate()?;
        backup::restore(&self.settings, from.as_ref(), to.as_ref())
    }

    /// Opens a new database in a temporary folder of its own, for tests. See [`Store::open_temp`].
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_temp(self) -> Result<Store> {
        Store::open_temp_with(self)
    }
}

impl Store {
    /// Opens the database with every default, creating the file if it is not there.
    ///
    /// # Errors
    ///
    /// See [`Options::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Options::new().open(path)
    }

    /// Opens a new database in a temporary folder of its own, which goes when the last clone is dropped. For
    /// tests: it is a real file with a real write-ahead log, so what a test sees is what production does.
    ///
    /// # Errors
    ///
    /// See [`Options::open`].
    pub fn open_temp() -> Result<Self> {
        Options::new().open_temp()
    }

    /// Makes a database at `to` of the backup at `from`, to be opened like any other.
    ///
    /// The backup is checked before anything is made, as [`Backup`](crate::Backup) checks a copy, and the database after
    /// it. It has mode `0600`. There must be no file at `to`, nor one beside it that SQLite would take for its log: to
    /// restore where a database was, move that and its `-wal` away first; they may still be wanted. The backup may be
    /// any SQLite database, also one that is in use.
    ///
    /// ```
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let (backup, path) = (folder.path().join("backup"), folder.path().join("app.db"));
    /// use larder::Store;
    /// # Store::open_temp()?.backup(&backup).run()?;
    ///
    /// let report = Store::restore(&backup, &path)?;
    /// println!("{report}");
    /// let store = Store::open(&path)?;
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Restore`](crate::Error::Restore): what is wrong with the backup, or in the way at `to`; there is
    /// nothing new there then.
    /// [`Error::AlreadyOpen`](crate::Error::AlreadyOpen) if this process has `to` open.
    pub fn restore(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<RestoreReport> {
        Options::new().restore(from, to)
    }

    fn open_with(options: Options, path: &Path) -> Result<Self> {
        options.validate()?;
        Self::assemble(options, path, None)
    }

    fn open_temp_with(options: Options) -> Result<Self> {
        options.validate()?;
        let folder = TempFolder::new()?;
        let path = folder.database();
        Self::assemble(options, &path, Some(Arc::new(folder)))
    }

    fn assemble(options: Options, path: &Path, folder: Option<Arc<TempFolder>>) -> Result<Self> {
        let patience = options.open_timeout();
        let Options { settings, migrations } = options;
        let engine = Engine::open(settings, path, folder, patience)?;
        if let Some(migrations) = &migrations
            && migrations.are_made_at_open()
        {
            migrate::to_newest(&engine, migrations)?;
        }
        // Its last exclusive job may have left the writer with a setting that could not be made right.
        if let Some(poisoned) = engine.shared.poison() {
            return Err(poisoned);
        }
        let inner = Inner { engine, migrations };
        Ok(Self { inner: Arc::new(inner) })
    }
}
