//! Opening databases.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use larder::{Checkpoints, Durability, Options, Store};

use crate::args::Database;
use crate::failure::{Failure, Result};
use crate::output::Output;

/// What errors have as the place of a call, which is taken out of their messages: it says nothing to a user.
pub(crate) const LABEL: &str = "larder";

/// Opens a database. All handles come from here.
pub(crate) fn open(options: Options, path: &Path) -> larder::Result<Store> {
    Ok(options.open(path)?.labelled(LABEL))
}

impl Database {
    /// Opens it to read: nothing is created, and nothing is written.
    pub(crate) fn open_to_read(&self) -> Result<Store> {
        Ok(open(self.to_read(), &self.database)?)
    }

    pub(crate) fn to_read(&self) -> Options {
        self.options().read_only(true)
    }

    /// Opens it to write, with these changes to the options. It must exist, unless they say otherwise.
    pub(crate) fn open_to_write(&self, change: impl FnOnce(Options) -> Options, output: &Output) -> Result<Store> {
        if is_followers(&self.database) {
            return Err(Failure::Other(format!(
                "{} is the copy of a follower, which a write would stop: write to the primary's database, or promote the \
                 follower (Follower::promote)",
                self.database.display()
            )));
        }
        let had_journal = has_rollback_journal(&self.database);
        let store = open(change(self.to_write()), &self.database)?;
        if had_journal {
            output.note(&format!(
                "{} had a rollback journal, and is in WAL mode from now on",
                self.database.display()
            ));
        }
        Ok(store)
    }

    fn to_write(&self) -> Options {
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

/// Whether the header of a database names another journal than the log. It is read before SQLite opens the file: to close
/// it later would end the locks of this process.
fn has_rollback_journal(database: &Path) -> bool {
    const VERSION: usize = 18;
    let mut header = [0; VERSION + 1];
    let is_file = database.metadata().is_ok_and(|file| file.is_file());
    let mut read = || File::open(database)?.read_exact(&mut header);
    is_file && read().is_ok() && header.starts_with(b"SQLite format 3\0") && header[VERSION] == 1
}

/// Whether the folder beside the database has the mark of a follower.
fn is_followers(database: &Path) -> bool {
    beside(database, "", "-replica").is_some_and(|folder| folder.join("follows").exists())
}

/// The folder of a replica beside the database: larder's, or that of Litestream's daemon. Who replicates a database must
/// have read its log before a checkpoint empties it, so the checkpoints are left to that process.
fn keeper(database: &Path) -> Option<PathBuf> {
    let folders = [beside(database, "", "-replica"), beside(database, ".", "-litestream")];
    folders.into_iter().flatten().find(|folder| folder.is_dir())
}

/// The folder that has the name of the database between these. A link leads to the database.
fn beside(database: &Path, before: &str, after: &str) -> Option<PathBuf> {
    let database = database.canonicalize().unwrap_or_else(|_| database.to_owned());
    let mut folder = OsString::from(before);
    folder.push(database.file_name()?);
    folder.push(after);
    Some(database.with_file_name(folder))
}
