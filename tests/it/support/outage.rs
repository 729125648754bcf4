//! A folder that is away: the replica of a store, or its spool.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

/// A file is where the folder was, and each request fails.
///
/// The two are exchanged in one step. A store that is at work must not find nothing in between, and create the folder.
#[must_use]
pub(crate) struct Outage {
    folder: PathBuf,
    aside: PathBuf,
}

impl Outage {
    pub(crate) fn of(folder: impl AsRef<Path>) -> Self {
        let folder = folder.as_ref().to_owned();
        let aside = folder.with_extension("aside");
        fs::write(&aside, "not a folder").unwrap();
        let outage = Self { folder, aside };
        outage.exchange();
        outage
    }

    pub(crate) fn end(self) {
        self.exchange();
        fs::remove_file(self.aside).unwrap();
    }

    fn exchange(&self) {
        renameat_with(CWD, &self.folder, CWD, &self.aside, RenameFlags::EXCHANGE).unwrap();
    }
}
