//! Folders for what is deleted later: unfinished copies, the copies of dry runs, temporary databases.
//!
//! A process that is killed leaves its folder behind. So each folder is locked (`flock(2)`, which the kernel releases
//! when a process ends), and a process that creates one removes the unlocked ones beside it. Opening a database does
//! the same in its folder, once per process: a killed dry run would otherwise leave a copy there that nothing removes.
//!
//! The lock is on the folder and not on a file in it, because on some systems it would conflict with SQLite's own locks.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

use super::file::FileId;
use super::file_lock;
use super::filesystem;
use super::open_error::open_error;
use crate::error::Result;
use crate::runtime::process_mutex::ProcessMutex;
use crate::telemetry::event::event;

/// The folder in memory that Linux has for all users.
const IN_MEMORY: &str = "/dev/shm";

/// The free space, in bytes, from which it is used: 1 GiB. Containers have 64 MiB there by default, which the tests of a
/// service can fill.
const MIN_IN_MEMORY: u64 = 1 << 30;

/// The content of a folder, by which it is named.
#[derive(Clone, Copy)]
pub(crate) enum Content {
    /// A copy that does not have its name yet.
    Copy,
    /// The copy of a dry run.
    DryRun,
    /// A database of its own.
    Database,
}

impl Content {
    const ALL: [Self; 3] = [Self::Copy, Self::DryRun, Self::Database];

    const fn prefix(self) -> &'static str {
        match self {
            Self::Copy => ".larder-backup-",
            Self::DryRun => ".larder-dry-run-",
            Self::Database => "larder-temp-",
        }
    }
}

/// A folder that only its owner can enter. Dropping this deletes it with its contents.
#[derive(Debug)]
pub(crate) struct TempFolder {
    path: PathBuf,
    /// The lock on it, where the file system has locks.
    _locked: File,
}

impl TempFolder {
    /// Creates one for a database in the system's folder for temporary files.
    pub(crate) fn new() -> Result<Self> {
        Self::for_database(&std::env::temp_dir(), Content::Database)
    }

    /// Creates one for a temporary store: in memory, if the system has a folder there with enough room, and `TMPDIR` is not
    /// set; otherwise in the system's folder for temporary files.
    pub(crate) fn for_store() -> Result<Self> {
        if std::env::var_os("TMPDIR").is_some() || !cfg!(target_os = "linux") {
            return Self::new();
        }
        match Self::in_memory(Path::new(IN_MEMORY), MIN_IN_MEMORY) {
            Ok(folder) => Ok(folder),
            Err(reason) => {
                let folder = Self::new()?;
                event!(
                    debug,
                    "larder::open",
                    { folder = %folder.path.display(), reason },
                    "the temporary store is not in memory"
                );
                Ok(folder)
            }
        }
    }

    /// Creates one in memory, or says why not.
    fn in_memory(parent: &Path, room: u64) -> Result<Self, String> {
        let shown = parent.display();
        if !filesystem::is_in_memory(parent) {
            return Err(format!("there is no file system in memory at {shown}"));
        }
        // Those of killed processes may be what takes the room.
        if is_first_look(parent).unwrap_or(false) {
            remove_leftovers(parent);
        }
        if let Some(available) = filesystem::lacks(parent, room) {
            let available = available >> 20;
            return Err(format!(
                "{shown} has {available} MiB of free space, fewer than {}",
                room >> 20
            ));
        }
        Self::inside(parent, Content::Database).map_err(|error| format!("no folder can be created in {shown}: {error}"))
    }

    /// Creates one for the copy of a dry run, in the folder of the database.
    pub(crate) fn beside(database: &Path) -> Result<Self> {
        Self::for_database(database.parent().unwrap_or(Path::new("/")), Content::DryRun)
    }

    fn for_database(parent: &Path, content: Content) -> Result<Self> {
        let created = Self::inside(parent, content);
        let folder = created.map_err(|error| open_error(parent, "no temporary folder can be created in it", error))?;
        folder.remove_leftovers();
        Ok(folder)
    }

    /// Creates one, and locks it.
    pub(crate) fn inside(parent: &Path, content: Content) -> io::Result<Self> {
        loop {
            let path = create(parent, content.prefix())?;
            let opened = open(&path).and_then(|folder| {
                let is_own = lock(&folder) != Lock::Held && is_at(&folder, &path)?;
                Ok(is_own.then_some(folder))
            });
            match opened {
                Ok(Some(folder)) => return Ok(Self { path, _locked: folder }),
                // Another process took the folder for a leftover before it was locked.
                Ok(None) => continue,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    let _ = fs::remove_dir(&path);
                    return Err(error);
                }
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.path.join("temp.db")
    }

    /// Removes the folders beside this one that killed processes have left. In the system's folders for temporary files,
    /// which have many names, once in a process.
    pub(crate) fn remove_leftovers(&self) {
        let is_of_system = |parent: &Path| parent == Path::new(IN_MEMORY) || parent == std::env::temp_dir();
        if let Some(parent) = self.path.parent()
            && (!is_of_system(parent) || is_first_look(parent).unwrap_or(false))
        {
            remove_leftovers(parent);
        }
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            event!(
                warn,
                "larder::close",
                { folder = %self.path.display(), %error },
                "the temporary folder cannot be removed"
            );
        }
        // The room of a database in it is free once no descriptor is left.
        file_lock::close_deleted();
    }
}

/// Removes the folders that killed processes have left in a database's folder, once in a process.
pub(crate) fn tidy(folder: &Path) {
    let is_temporary = folder.file_name().is_some_and(|name| is_name(name.as_encoded_bytes()));
    if !is_temporary && is_first_look(folder).unwrap_or(false) {
        remove_leftovers(folder);
    }
}

/// Whether this process looks into the folder for the first time. Thousands of stores may open in one folder. A new
/// folder may have the inode of one that was deleted, so the path counts, too.
fn is_first_look(folder: &Path) -> io::Result<bool> {
    static SEEN: ProcessMutex<BTreeSet<(PathBuf, FileId)>> = ProcessMutex::new(BTreeSet::new());
    let id = FileId::of(&fs::metadata(folder)?);
    Ok(SEEN.lock().insert((folder.to_owned(), id)))
}

fn remove_leftovers(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    let names = entries.flatten().map(|entry| entry.file_name());
    for name in names.filter(|name| is_name(name.as_encoded_bytes())) {
        remove_if_left(&parent.join(name));
    }
}

/// Whether [`create`] gives such names.
fn is_name(name: &[u8]) -> bool {
    let Some(rest) = Content::ALL
        .iter()
        .find_map(|content| name.strip_prefix(content.prefix().as_bytes()))
    else {
        return false;
    };
    let parts: Vec<&[u8]> = rest.split(|byte| *byte == b'-').collect();
    let is_number = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
    matches!(parts[..], [process, count, nanos]
        if is_number(process) && is_number(count) && nanos.len() == 8 && nanos.iter().all(u8::is_ascii_hexdigit))
}

fn remove_if_left(path: &Path) {
    let Ok(folder) = open(path) else { return };
    // In a world-writable folder, the leftover may belong to another user.
    let user = rustix::process::geteuid().as_raw();
    let is_own = folder.metadata().is_ok_and(|folder| folder.uid() == user);
    // Without locks, the state of a folder is unknown.
    if !is_own || lock(&folder) != Lock::Taken || !is_at(&folder, path).unwrap_or(false) {
        return;
    }
    match fs::remove_dir_all(path) {
        Ok(()) => event!(
            info,
            "larder::backup",
            { leftover = %path.display() },
            "removed the folder of a process that was killed"
        ),
        Err(error) => event!(
            warn,
            "larder::backup",
            { leftover = %path.display(), %error },
            "the folder of a process that was killed cannot be removed"
        ),
    }
}

fn create(parent: &Path, prefix: &str) -> io::Result<PathBuf> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    loop {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let nanos = now.map_or(0, |now| now.subsec_nanos());
        let (process, count) = (std::process::id(), COUNT.fetch_add(1, Relaxed));
        let path = parent.join(format!("{prefix}{process}-{count}-{nanos:08x}"));
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(error),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

/// The result of an attempt to lock a file or a folder.
#[derive(PartialEq)]
pub(crate) enum Lock {
    Taken,
    /// Another process, or another descriptor of this one, holds it.
    Held,
    /// The file system has no such locks.
    None,
}

pub(crate) fn lock(file: &File) -> Lock {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Lock::Taken,
        Err(Errno::WOULDBLOCK) => Lock::Held,
        Err(_) => Lock::None,
    }
}

/// Whether `path` still names this folder.
fn is_at(folder: &File, path: &Path) -> io::Result<bool> {
    Ok(FileId::of(&folder.metadata()?) == FileId::of(&fs::symlink_metadata(path)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_of_ended_process_is_removed_others_stay() {
        let parent = tempfile::tempdir().unwrap();
        let goes_on = TempFolder::inside(parent.path(), Content::DryRun).unwrap();
        let left = Content::ALL.map(|content| parent.path().join(format!("{}7-0-00c0ffee", content.prefix())));
        // No names of larder's.
        let others = [
            ".larder-backup-",
            "larder-temp-7",
            ".larder-dry-run-7-0-notahex!",
            "larder-7-0-00c0ffee",
        ];
        let others = others.map(|name| parent.path().join(name));
        for folder in left.iter().chain(&others) {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("copy.db"), "half").unwrap();
        }
        let another = TempFolder::inside(parent.path(), Content::Copy).unwrap();
        another.remove_leftovers();
        assert!(goes_on.path.exists() && another.path.exists());
        assert!(left.iter().all(|folder| !folder.exists()));
        assert!(others.iter().all(|folder| folder.exists()));
        drop((goes_on, another));
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), others.len());
    }

    #[test]
    fn folder_in_memory_needs_room_and_file_system_in_memory() {
        let on_disk = Path::new("/proc");
        let reason = TempFolder::in_memory(on_disk, 0).unwrap_err();
        assert_eq!(reason, "there is no file system in memory at /proc");
        let reason = TempFolder::in_memory(Path::new("/nowhere"), 0).unwrap_err();
        assert_eq!(reason, "there is no file system in memory at /nowhere");
        let in_memory = Path::new(IN_MEMORY);
        if !filesystem::is_in_memory(in_memory) {
            return println!("skipped: there is no {IN_MEMORY}");
        }
        let reason = TempFolder::in_memory(in_memory, u64::MAX).unwrap_err();
        assert!(
            reason.starts_with("/dev/shm has ") && reason.contains(" MiB of free space"),
            "{reason}"
        );
        let folder = TempFolder::in_memory(in_memory, 0).unwrap();
        assert!(folder.path.starts_with(in_memory) && folder.path.exists());
        let path = folder.path.clone();
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn database_folder_is_tidied_once() {
        let parent = tempfile::tempdir().unwrap();
        let left = parent.path().join(".larder-dry-run-7-0-00c0ffee");
        for remains in [false, true] {
            fs::create_dir(&left).unwrap();
            tidy(parent.path());
            assert_eq!(left.exists(), remains);
        }
    }

    /// Some file systems give a new folder the inode of the last one that was deleted.
    #[test]
    fn each_new_folder_is_tidied() {
        for _ in 0..20 {
            let parent = tempfile::tempdir().unwrap();
            let left = parent.path().join(".larder-dry-run-7-0-00c0ffee");
            fs::create_dir(&left).unwrap();
            tidy(parent.path());
            assert!(!left.exists());
        }
    }
}
