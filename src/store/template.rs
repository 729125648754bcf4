//! [`Template`]: the database that temporary stores begin with.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use super::{Options, Store};
use crate::connection::temp_folder::TempFolder;
use crate::error::{Error, Result};
use crate::options::Checkpoints;

/// A database in memory, migrated and filled once, that temporary stores begin with. For tests: a copy opens in the time
/// of a store without migrations, however many there are.
///
/// Each store has a copy of its own. The template holds the database file, so it takes as much memory.
///
/// ```
/// use std::sync::LazyLock;
/// use larder::{Migration, Migrations, Options, Result, Store, Template};
///
/// fn options() -> Options {
///     let users = "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT";
///     Options::new().migrations(Migrations::new([Migration::new(1, "users", users)]))
/// }
///
/// /// For the tests: migrated, with one user.
/// fn store() -> Store {
///     static TEMPLATE: LazyLock<Template> = LazyLock::new(|| {
///         let fill = |store: &Store| {
///             store.write(|tx| tx.insert("INSERT INTO users(name) VALUES ('Ada')", []))?;
///             Ok(())
///         };
///         options().template_with(fill).unwrap()
///     });
///     TEMPLATE.open_temp().unwrap()
/// }
///
/// // #[test]
/// fn user_can_be_removed() -> Result<()> {
///     let store = store();
///     assert_eq!(store.write(|tx| tx.execute("DELETE FROM users", []))?, 1);
///     Ok(())
/// }
/// # user_can_be_removed()?;
/// # user_can_be_removed()?;
/// # Ok::<_, larder::Error>(())
/// ```
///
/// What the migrations and the closure have made is the same in all copies: a random id, a time, the times in the record
/// of the migrations.
#[derive(Clone)]
pub struct Template {
    options: Options,
    database: Arc<[u8]>,
}

/// # In tests
impl Options {
    /// Makes a template of a temporary store with these options: its migrations are applied once, and not again for each
    /// test. See [`Template`].
    ///
    /// ```
    /// use larder::{Migration, Migrations, Options};
    ///
    /// let users = "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT";
    /// let migrations = Migrations::new([Migration::new(1, "users", users)]);
    /// let template = Options::new().migrations(migrations).template()?;
    /// let store = template.open_temp()?;
    /// assert_eq!(store.migrations()?.applied.len(), 1);
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`open_temp`](Self::open_temp). [`Error::Options`] together with `replicate_to`, because all copies would write
    /// to one replica.
    pub fn template(self) -> Result<Template> {
        self.template_with(|_| Ok(()))
    }

    /// As [`template`](Self::template), with what the closure writes: rows that all tests need.
    ///
    /// ```
    /// # use larder::{Options, Store};
    /// let create = "CREATE TABLE users(name TEXT NOT NULL) STRICT; INSERT INTO users VALUES ('Ada')";
    /// let template = Options::new().template_with(|store| store.write(|tx| tx.execute_batch(create)))?;
    /// let name: String = template.open_temp()?.read(|tx| tx.scalar("SELECT name FROM users", []))?;
    /// assert_eq!(name, "Ada");
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`template`](Self::template), and the error of the closure.
    pub fn template_with(self, fill: impl FnOnce(&Store) -> Result<()>) -> Result<Template> {
        #[cfg(feature = "replicate")]
        if self.replica.is_some() {
            return Err(Error::Options {
                option: "replicate_to",
                problem: "all copies of a template would write to one replica: leave it out here, or open a store of its own \
                          for the tests that need it"
                    .into(),
            });
        }
        let mut making = self.clone();
        // The whole database is to be in its file.
        making.settings.checkpoints = Checkpoints::Own;
        let store = making.open_temp()?;
        fill(&store)?;
        let report = store.close()?;
        if let Some(reason) = report.wal_kept_because {
            return Err(unusable(store.path(), &reason, None));
        }
        // The store is closed: no lock is lost with the descriptor.
        let database = fs::read(store.path())
            .map_err(|error| unusable(store.path(), "the database cannot be read again", Some(error)))?;
        Ok(Template {
            options: self,
            database: database.into(),
        })
    }
}

impl Template {
    /// Opens a copy as a temporary store, with the options of the template. See [`Store::open_temp`].
    ///
    /// ```
    /// # use larder::Options;
    /// let create = "CREATE TABLE users(name TEXT NOT NULL) STRICT";
    /// let template = Options::new().template_with(|store| store.write(|tx| tx.execute_batch(create)))?;
    /// let (one, other) = (template.open_temp()?, template.open_temp()?);
    /// one.write(|tx| tx.execute("INSERT INTO users VALUES ('Ada')", []))?;
    /// // Each is a database of its own.
    /// assert!(!other.read(|tx| tx.exists("SELECT 1 FROM users", []))?);
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Options::open_temp`].
    pub fn open_temp(&self) -> Result<Store> {
        let folder = TempFolder::for_store()?;
        let path = folder.database();
        self.write(&path)
            .map_err(|error| unusable(&path, "the copy cannot be written", Some(error)))?;
        Store::assemble(self.options.clone(), &path, Some(Arc::new(folder)))
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(&self.database)
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.database.len();
        f.debug_struct("Template")
            .field("bytes", &bytes)
            .finish_non_exhaustive()
    }
}

fn unusable(path: &Path, problem: &str, source: Option<io::Error>) -> Error {
    Error::Open {
        path: path.into(),
        problem: match &source {
            Some(error) => format!("no template can be made or copied: {problem}: {error}"),
            None => format!("no template can be made: the store did not close as a whole: {problem}"),
        },
        source: source.map(Into::into),
    }
}
