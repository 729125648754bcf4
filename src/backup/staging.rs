//! The place of an unfinished copy: a folder beside the target that only its owner can enter. A whole copy then takes
//! the target's name.
//!
//! So the target's name means a whole copy or the previous file, even if the process is killed. A killed run leaves its
//! folder behind. Each run holds a lock on its folder (`flock(2)`, which the kernel releases when a process ends), so
//! the next run recognizes the folders without a lock holder and removes them. The lock is on the folder and not on the
//! copy, because on some systems it would conflict with SQLite's own locks.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

use super::failure::{Failure, Result};
use crate::connection::file::FileId;
use crate::connection::filesystem::create_private_folder;
use crate::connection::open_files;
use crate::telemetry::event::event;

/// The prefix of the folders of unfinished copies.
const UNFINISHED: &str = ".larder-backup-";

/// The suffixes of the files that SQLite keeps beside a database.
const BESIDE: [&str; 3] = ["-wal", "-shm", "-journal"];

/// The target of a copy.
pub(super) struct Staging {
    /// An absolute path. Only its last component may be a symbolic link.
    pub(super) path: PathBuf,
    pub(super) folder: PathBuf,
    /// Whether the copy may replace a file.
    overwrite: bool,
}

impl Staging {
    /// Checks that a copy may be put at `path`.
    pub(super) fn new(path: &Path, overwrite: bool) -> Result<Self> {
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
        let folder = folder
            .canonicalize()
            .map_err(|error| Failure::of("the folder of the target cannot be used; create it first", error))?;
        let staging = Self {
            path: folder.join(name),
            folder,
            overwrite,
        };
        staging.check()?;
        Ok(staging)
    }

    fn check(&self) -> Result<()> {
        let name = self.path.as_os_str();
        if BESIDE.iter().any(|ending| is_beside_a_file(name, ending)) {
            return Err(Failure::new(
                "the target has the name of a WAL, a WAL index or a journal, and SQLite would read the copy as one; \
                 choose another name",
            ));
        }
        if open_files::is_open(&self.path) {
            return Err(Failure::new(
                "the target is a database that this process has open; choose another name",
            ));
        }
        match fs::symlink_metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(Failure::of(
                    "the target cannot be inspected; check the folder, its owner and its mode",
                    error,
                ));
            }
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
            "the target exists already; choose another name, or move the file away (Backup::overwrite replaces it)"
        } else {
            return Ok(());
        };
        Err(Failure::new(problem))
    }

    /// Creates the folder for the copy beside the target.
    pub(super) fn begin(&self) -> Result<Unfinished> {
        let unfinished = Unfinished::new(&self.folder).map_err(|error| {
            Failure::of(
                "no file can be created in the folder of the target; check the folder, its owner and its mode",
                error,
            )
        })?;
        unfinished.remove_leftovers(&self.folder);
        Ok(unfinished)
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
fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // The kernel or the file system does not know the flag.
        Err(Errno::NOSYS | Errno::INVAL | Errno::OPNOTSUPP) => link(from, to),
        other => Ok(other?),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    link(from, to)
}

/// Adds a second name, which fails if that name exists. The first name is deleted with its folder.
fn link(from: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(from, to)
}

/// A folder for unfinished copies. Dropping this deletes it with its contents.
pub(super) struct Unfinished {
    path: PathBuf,
    /// Locked, where the file system has locks.
    folder: File,
}

/// A copy that does not have its final name yet.
pub(super) struct Copy {
    pub(super) path: PathBuf,
    /// Opened before anything was written, so that its sync reports every failed write.
    file: File,
}

impl Copy {
    pub(super) fn sync(&self) -> Result<()> {
        let synced = self.file.sync_all();
        synced.map_err(|error| Failure::of("the copy cannot be synced; is the disk full or failing?", error))
    }
}

impl Unfinished {
    fn new(beside: &Path) -> io::Result<Self> {
        loop {
            let path = create_private_folder(beside, UNFINISHED).map_err(|(_, error)| error)?;
            let opened = open_folder(&path).and_then(|folder| {
                let is_own = lock(&folder) != Lock::Held && is_at(&folder, &path)?;
                Ok(is_own.then_some(folder))
            });
            match opened {
                Ok(Some(folder)) => return Ok(Self { path, folder }),
                // Another run took the folder for a leftover before it was locked.
                Ok(None) => continue,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    let _ = fs::remove_dir(&path);
                    return Err(error);
                }
            }
        }
    }

    /// Creates a file in the folder that only its owner can read.
    pub(super) fn create(&self, name: &str) -> Result<Copy> {
        let path = self.path.join(name);
        let file = create(&path)?;
        Ok(Copy { path, file })
    }

    /// Removes the folders that killed runs left behind.
    fn remove_leftovers(&self, beside: &Path) {
        let Ok(entries) = fs::read_dir(beside) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(UNFINISHED.as_bytes()) && entry.path() != self.path {
                self.remove_if_left(&entry.path());
            }
        }
    }

    fn remove_if_left(&self, path: &Path) {
        let Ok(folder) = open_folder(path) else { return };
        // Without locks, the state of a folder is unknown. In a folder that everyone can write to, the leftover may
        // belong to another user.
        let is_there = lock(&folder) == Lock::Taken && is_at(&folder, path).unwrap_or(false);
        if !is_there || owner(&folder) != owner(&self.folder) {
            return;
        }
        match fs::remove_dir_all(path) {
            Ok(()) => event!(
                info,
                "larder::backup",
                { leftover = %path.display() },
                "removed the folder of a backup that was killed"
            ),
            Err(error) => event!(
                warn,
                "larder::backup",
                { leftover = %path.display(), %error },
                "the folder of a backup that was killed cannot be removed"
            ),
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            event!(
                warn,
                "larder::backup",
                { leftover = %self.path.display(), %error },
                "the folder of a backup cannot be removed"
            );
        }
    }
}

/// Creates a file that only its owner can read.
pub(super) fn create(path: &Path) -> Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| {
            Failure::of(
                "the file cannot be created; check the folder, its owner and its mode",
                error,
            )
        })
}

fn open_folder(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

#[derive(PartialEq)]
enum Lock {
    Taken,
    /// Another process or run holds it.
    Held,
    /// The file system has no such locks.
    None,
}

fn lock(folder: &File) -> Lock {
    match flock(folder, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Lock::Taken,
        Err(Errno::WOULDBLOCK) => Lock::Held,
        Err(_) => Lock::None,
    }
}

/// Whether `path` still names this folder.
fn is_at(folder: &File, path: &Path) -> io::Result<bool> {
    Ok(FileId::of(&folder.metadata()?) == FileId::of(&fs::symlink_metadata(path)?))
}

fn owner(folder: &File) -> Option<u32> {
    folder.metadata().ok().map(|folder| folder.uid())
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

    #[test]
    fn folder_of_ended_run_is_removed_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let staging = Staging::new(&folder.path().join("copy"), false).unwrap();
        let goes_on = staging.begin().unwrap();
        let left = folder.path().join(format!("{UNFINISHED}7"));
        fs::create_dir(&left).unwrap();
        fs::write(left.join("copy.db"), "half").unwrap();
        let another = staging.begin().unwrap();
        assert!(goes_on.path.exists() && another.path.exists() && !left.exists());
        drop((goes_on, another));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
