//! The place of an unfinished copy: a folder beside the target that only its owner can enter. A whole copy then takes
//! the target's name.
//!
//! So the target's name means a whole copy or the previous file, even if the process is killed. A killed run leaves its
//! folder behind, which the next run beside it removes (`connection/temp_folder.rs`).

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::failure::{Failure, Result};
use crate::connection::open_files;
use crate::connection::temp_folder::{Content, TempFolder};

/// A copy may not replace the file.
pub(super) const EXISTS: &str = "the target exists already; choose another name, or move the file away";

/// The suffixes of the files that SQLite keeps beside a database.
pub(super) const BESIDE: [&str; 3] = ["-wal", "-shm", "-journal"];

/// The target of a copy.
pub(super) struct Staging {
    /// An absolute path. Only its last component may be a symbolic link.
    pub(super) path: PathBuf,
    pub(super) folder: PathBuf,
    /// Whether the copy may replace a file.
    pub(super) overwrite: bool,
}

impl Staging {
    /// Checks that a copy may be put at `path`.
    pub(super) fn new(path: &Path, overwrite: bool) -> Result<Self> {
        let staging = Self::occupied(path, overwrite)?;
        staging.check()?;
        Ok(staging)
    }

    /// For a path that is made free before the copy gets its name.
    pub(super) fn occupied(path: &Path, overwrite: bool) -> Result<Self> {
        let bytes = path.as_os_str().as_encoded_bytes();
        let named = !bytes.ends_with(b"/") && !bytes.contains(&0);
        let Some(name) = path.file_name().filter(|_| named) else {
            return Err(Failure::new(
                "the target is not the name of a file; give the path of a file in a folder",
            ));
        };
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        // SQLite would refuse a symbolic link in the path, and could parse a relative path as a URI.
        let folder = usable(folder)?;
        let staging = Self {
            path: folder.join(name),
            folder,
            overwrite,
        };
        staging.check_name()?;
        Ok(staging)
    }

    fn check_name(&self) -> Result<()> {
        let name = self.path.as_os_str();
        if BESIDE.iter().any(|ending| is_beside_a_file(name, ending)) {
            return Err(Failure::new(
                "the target has the name of a WAL, a WAL index or a journal, and SQLite would read the copy as one; \
                 choose another name",
            ));
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        let name = self.path.as_os_str();
        if open_files::is_open(&self.path) {
            return Err(Failure::new(
                "the target is a database that this process has open; choose another name",
            ));
        }
        match fs::symlink_metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Failure::of("the target cannot be inspected", error)),
            Ok(there) => self.may_replace(&there)?,
        }
        // SQLite would treat such a file as the copy's own, and recover the copy from it.
        if let Some(left) = BESIDE.iter().find(|ending| exists(&with(name, ending))) {
            let left = with(name, left).display().to_string();
            return Err(Failure::found(
                "SQLite would apply a WAL, a WAL index or a journal beside the target to the copy; close the program \
                 that has that file open, or move the file away",
                left,
            ));
        }
        Ok(())
    }

    fn may_replace(&self, there: &fs::Metadata) -> Result<()> {
        let problem = if there.is_dir() {
            "the target is a folder; give the path of a file in it"
        } else if there.is_symlink() {
            "the target is a symbolic link, which larder does not follow; give the path of a file"
        } else if !there.is_file() {
            "the target is not a regular file; choose another name"
        } else if !self.overwrite {
            EXISTS
        } else {
            return Ok(());
        };
        Err(Failure::new(problem))
    }

    /// Creates the folder for the copy beside the target.
    pub(super) fn begin(&self) -> Result<Unfinished> {
        let folder = TempFolder::inside(&self.folder, Content::Copy).map_err(cannot_create)?;
        folder.remove_leftovers();
        Ok(Unfinished(folder))
    }

    /// Syncs the copy, then gives it its name.
    pub(super) fn finish(&self, copy: Copy) -> Result<()> {
        // Files that a connection could not write or remove at its close.
        if BESIDE.iter().any(|ending| exists(&with(copy.path.as_os_str(), ending))) {
            return Err(Failure::new(
                "SQLite has left a WAL or a journal beside the copy; try again",
            ));
        }
        copy.sync()?;
        let Copy { path, file } = copy;
        // Closed first: once the copy has its name, other code may open it, and a close would then drop the locks of a
        // connection in this process.
        drop(file);
        // A file may have appeared since the last check.
        self.check()?;
        let renamed = if self.overwrite {
            fs::rename(&path, &self.path)
        } else {
            rename_to_new(&path, &self.path)
        };
        renamed.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Failure::of("another program has created the target meanwhile", error),
            _ => Failure::of("the copy cannot be renamed to the target", error),
        })?;
        File::open(&self.folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| {
                Failure::of(
                    "the file is there and complete, but its folder cannot be synced, so a power failure could remove \
                     its name",
                    error,
                )
            })
    }
}

/// A folder for copies, without symbolic links in its path.
pub(super) fn usable(folder: &Path) -> Result<PathBuf> {
    folder.canonicalize().map_err(|error| {
        let problem = match error.kind() {
            io::ErrorKind::NotFound => "the folder of the target cannot be used; create it first",
            io::ErrorKind::PermissionDenied => {
                "the folder of the target cannot be used; check owner and mode of the folders on the way"
            }
            _ => "the folder of the target cannot be used",
        };
        Failure::of(problem, error)
    })
}

fn is_beside_a_file(name: &OsStr, ending: &str) -> bool {
    let bytes = name.as_encoded_bytes();
    let base = bytes.strip_suffix(ending.as_bytes());
    // The suffix is ASCII, so the rest is a whole name.
    base.is_some_and(|base| exists(std::os::unix::ffi::OsStrExt::from_bytes(base)))
}

fn exists(path: &OsStr) -> bool {
    fs::symlink_metadata(path).is_ok()
}

pub(super) fn with(stem: &OsStr, ending: &str) -> OsString {
    let mut name = stem.to_owned();
    name.push(ending);
    name
}

/// Renames a file, but never over another one.
#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
pub(super) fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // The kernel or the file system does not know the flag.
        Err(Errno::NOSYS | Errno::INVAL | Errno::OPNOTSUPP) => link(from, to),
        other => Ok(other?),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
pub(super) fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    link(from, to)
}

/// Adds a second name, which fails if that name exists. The first name is deleted with its folder.
fn link(from: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(from, to)
}

/// A folder for unfinished copies. Dropping this deletes it with its contents.
pub(super) struct Unfinished(pub(super) TempFolder);

/// A copy that does not have its final name yet.
pub(super) struct Copy {
    pub(super) path: PathBuf,
    /// Opened before anything was written, so that its sync reports every failed write.
    pub(super) file: File,
}

impl Copy {
    pub(super) fn sync(&self) -> Result<()> {
        let synced = self.file.sync_all();
        synced.map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Failure::of(
                "the copy cannot be synced; free disk space, or choose another folder",
                error,
            ),
            _ => Failure::of("the copy cannot be synced; look at the disk", error),
        })
    }
}

impl Unfinished {
    /// Creates a file in the folder that only its owner can read.
    pub(super) fn create(&self, name: &str) -> Result<Copy> {
        let path = self.0.path().join(name);
        let file = create(&path)?;
        Ok(Copy { path, file })
    }
}

/// Creates a file that only its owner can read.
pub(super) fn create(path: &Path) -> Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(cannot_create)
}

/// No file or folder can be created where the target is to be.
pub(super) fn cannot_create(error: io::Error) -> Failure {
    let problem = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "no file can be created in the folder of the target; check the folder, its owner and its mode"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "no file can be created in the folder of the target; mount its file system for writing, or choose another \
             folder"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "no file can be created in the folder of the target; free disk space there, or choose another folder"
        }
        _ if matches!(Errno::from_io_error(&error), Some(Errno::MFILE | Errno::NFILE)) => {
            "no file can be created in the folder of the target; close files, or raise the limit of open files \
             (ulimit -n)"
        }
        _ => "no file can be created in the folder of the target",
    };
    Failure::of(problem, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that appears between the check and the rename.
    #[test]
    fn existing_file_keeps_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        for give_name in [rename_to_new, link] {
            fs::write(&from, "new").unwrap();
            fs::write(&to, "old").unwrap();
            assert_eq!(give_name(&from, &to).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(fs::read_to_string(&to).unwrap(), "old");
            fs::remove_file(&to).unwrap();
            give_name(&from, &to).unwrap();
            assert_eq!(fs::read_to_string(&to).unwrap(), "new");
            fs::remove_file(&to).unwrap();
        }
    }
}
