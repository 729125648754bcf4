//! Opening databases.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use larder::{Checkpoints, Durability, Options, Store};

use crate::args::Database;
use crate::failure::Result;

impl Database {
    /// Opens it to read: nothing is created, and nothing is written.
    pub(crate) fn open_to_read(&self) -> Result<Store> {
        Ok(self.to_read().open(&self.database)?)
    }

    pub(crate) fn to_read(&self) -> Options {
        self.options().read_only(true)
    }

    /// The options of a database that is written, and that must exist.
    pub(crate) fn to_write(&self) -> Options {
        let options = self
            .options()
            .create(false)
            .durability(Durability::Full)
            .incremental_vacuum(false);
        match keeper(&self.database) {
            Some(_) => options.checkpoints(Checkpoints::Left),
            None => options,
        }
    }

    fn options(&self) -> Options {
        let wait = self.wait.max(Duration::from_millis(1));
        Options::new()
            .busy_timeout(wait)
            .migration_timeout(wait)
            .trusted_schema(self.trusted_schema)
            .double_quoted_strings(self.double_quoted_strings)
            .monitor_interval(Duration::ZERO)
    }
}

/// The folder of a replica beside the database: larder's, or that of Litestream's daemon. Who replicates a database must
/// have read its log before a checkpoint empties it, so the checkpoints are left to that process.
fn keeper(database: &Path) -> Option<PathBuf> {
    let name = database.file_name()?;
    let with = |before: &str, after: &str| {
        let mut folder = OsString::from(before);
        folder.push(name);
        folder.push(after);
        database.with_file_name(folder)
    };
    [with("", "-replica"), with(".", "-litestream")]
        .into_iter()
        .find(|folder| folder.is_dir())
}
