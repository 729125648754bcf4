//! [`Migration`]: a version, a name, and the SQL of both directions.

use std::borrow::Cow;
use std::sync::OnceLock;

use super::script::Script;
#[cfg(doc)]
use super::{MigrationError, Migrations};
#[cfg(doc)]
use crate::Store;

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
    pub(super) version: u64,
    /// The version as it is recorded: the digits of the file name.
    pub(super) digits: String,
    pub(super) name: Cow<'static, str>,
    /// What an earlier release read in the file name, if that is not the same.
    pub(super) former: Option<Former>,
    /// The name of the migration in errors.
    pub(super) file: String,
    pub(super) up: Script,
    pub(super) down: Option<Script>,
    /// Whether the way down is in the same file, below its marker.
    pub(super) has_marked_down: bool,
    pub(super) checksum: OnceLock<String>,
}

/// The version and the name that larder read in a file name before it knew times with separators in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Former {
    pub(super) version: u64,
    pub(super) name: String,
}

impl Migration {
    /// Creates a migration for a list in the program. Versions start at 1. `up` is the SQL that applies it, without
    /// markers; [`Migrations::files`] reads files in the format of Dbmate or Goose.
    pub fn new(version: u64, name: impl Into<Cow<'static, str>>, up: impl AsRef<str>) -> Self {
        let name = name.into();
        let file = format!("{version} ({name})");
        Self {
            version,
            digits: version.to_string(),
            name,
            former: None,
            up: Script::new(file.clone(), 1, up.as_ref(), true),
            down: None,
            has_marked_down: false,
            checksum: OnceLock::new(),
            file,
        }
    }

    /// Sets the SQL that undoes the migration. The default is none: then [`Store::migrate_to`] cannot go below this
    /// version.
    ///
    /// ```
    /// use larder::Migration;
    ///
    /// let migration = Migration::new(1, "users", "CREATE TABLE users(id INTEGER PRIMARY KEY) STRICT").down("DROP TABLE users");
    /// # let _ = migration;
    /// ```
    pub fn down(mut self, sql: impl AsRef<str>) -> Self {
        let script = Script::new(self.file.clone(), 1, sql.as_ref(), self.up.transaction);
        self.down = (!script.is_blank()).then_some(script);
        self
    }

    /// Runs the migration outside a transaction, for a `VACUUM` or for SQL with transactions of its own. If it fails,
    /// the effects of its first statements stay, and later calls return [`MigrationError::Unfinished`].
    ///
    /// ```
    /// use larder::{Migration, Migrations, Options};
    ///
    /// # let folder = tempfile::tempdir().unwrap();
    /// let set = Migrations::new([Migration::new(1, "compact", "VACUUM").without_transaction()]);
    /// let store = Options::new().migrations(set).open(folder.path().join("app.db"))?;
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn without_transaction(mut self) -> Self {
        self.up.transaction = false;
        if let Some(down) = &mut self.down {
            down.transaction = false;
        }
        self
    }

    /// The checksum of `up`, which is what was applied.
    pub(super) fn checksum(&self) -> &str {
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
