//! The files that a store has open: their identities, checks that their names still mean them, and the locks on them.
//!
//! SQLite opens the database, its WAL (`-wal`) and the WAL index (`-shm`) by name, and each connection opens them
//! again. A name can come to mean another file while a store is open (`rename`, `rm`, a restore). So [`OpenFile`]
//! records the device and inode of each at opening. A connection that opens later is compared before it is used, and
//! the watchdog compares at each tick. `stat` opens nothing.
//!
//! # Closing
//!
//! Each connection of the store holds a [`Lease`]. The last lease releases the locks of `file_lock.rs` before its
//! connection closes, so that SQLite can delete the WAL, and then the claim.
//!
//! `state` is a mutex around the number of leases and the locks. It is held while a lease is taken or released and
//! while the watchdog checks, so no check meets a file that the store is just closing. Under it: `stat`, `fcntl`, a
//! read of `/proc/locks`; no SQLite call, no user code.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Instant;
use std::{fmt, fs, io, mem};

use rusqlite::ffi;

use super::file::{DatabaseFile, FileId};
use super::file_lock::{self, FileLocks, LockedFile, Use};
use super::open_files::Claim;
use super::read_only::Frozen;
use super::wal_index::WalIndex;
use crate::error::{Error, Result};
use crate::options::Access;
use crate::runtime::fork::Process;
use crate::runtime::sync::{Arc, Mutex, MutexGuard, Weak};
use crate::telemetry::event::event;
use crate::telemetry::stats::ReadOnly;

/// The files that a store has open.
#[derive(Debug)]
pub(crate) struct OpenFile {
    path: PathBuf,
    files: Vec<Known>,
    /// What a store that only reads sees. `None` for one that writes.
    read_only: Option<ReadOnly>,
    /// The files of a snapshot, on which there are no locks.
    frozen: Option<Frozen>,
    /// Only the leases keep the claim alive: a closed store has none, even if its handle lives on.
    claim: Weak<Claim>,
    /// The process that owns the connections and locks.
    process: Process,
    /// The descriptor of `-shm`, if the locks have one. It is not under `state`, which is held while a file system is
    /// asked: a reader of the WAL index waits for no file system.
    index: OnceLock<Arc<File>>,
    state: Mutex<FileState>,
}

/// The identity of one file at opening.
#[derive(Debug)]
struct Known {
    file: SqliteFile,
    path: PathBuf,
    id: FileId,
}

#[derive(Debug, Default)]
struct FileState {
    /// Number of leases that are not yet released.
    leases: usize,
    /// `None` where the system has no such locks, and after their release.
    locks: Option<FileLocks>,
}

/// One of SQLite's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SqliteFile {
    Database,
    Log,
    Index,
}

impl SqliteFile {
    fn suffix(self) -> &'static str {
        match self {
            SqliteFile::Database => "",
            SqliteFile::Log => "-wal",
            SqliteFile::Index => "-shm",
        }
    }

    fn of(self, database: &Path) -> PathBuf {
        let mut name = OsString::from(database);
        name.push(self.suffix());
        name.into()
    }
}

/// A change to the files of an open store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FileChange {
    /// The name does not exist any more.
    Removed(SqliteFile, PathBuf),
    /// The name means another file.
    Replaced(SqliteFile, PathBuf),
    /// SQLite's locks on the file are gone.
    Unlocked(LockedFile, PathBuf),
}

impl FileChange {
    /// The error that poisons the store. `SQLITE_READONLY_DBMOVED` is what SQLite itself returns for a database file
    /// that was moved, <https://sqlite.org/rescode.html#readonly_dbmoved>.
    pub(crate) fn to_error(&self) -> rusqlite::Error {
        let code = match self {
            FileChange::Removed(..) | FileChange::Replaced(..) => ffi::SQLITE_READONLY_DBMOVED,
            FileChange::Unlocked(..) => ffi::SQLITE_READONLY_CANTLOCK,
        };
        rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some(self.to_string()))
    }
}

impl fmt::Display for FileChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileChange::Removed(file, path) => {
                write!(
                    f,
                    "{} was deleted or renamed while the store had it open; ",
                    path.display()
                )?;
                advise(*file, f)
            }
            FileChange::Replaced(file, path) => {
                write!(
                    f,
                    "{} was replaced by another file while the store had it open; ",
                    path.display()
                )?;
                advise(*file, f)
            }
            FileChange::Unlocked(file, path) => {
                let name = match file {
                    LockedFile::Database => "the database file",
                    LockedFile::Index => "its -shm file",
                };
                write!(
                    f,
                    "code in this process opened and closed {name} ({}), as std::fs::read or a copy of the folder \
                     does, which dropped SQLite's locks on it, so other processes may write at the same time: restart \
                     the service, and copy the database with Store::backup instead",
                    path.display()
                )
            }
        }
    }
}

fn advise(file: SqliteFile, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str(match file {
        SqliteFile::Database => {
            "the store still reads the file that it opened, which no other process can open any more: restore that \
             file with its -wal, or restore a backup, then restart the service"
        }
        SqliteFile::Log | SqliteFile::Index => {
            "other processes no longer see the writes of this store: make a backup of what it reads (Store::backup), \
             stop every process that uses the database, then start the service again and compare"
        }
    })
}

impl OpenFile {
    /// Records which files are open, and takes the locks on them. A writing connection has them open, in WAL mode.
    pub(crate) fn new(file: &DatabaseFile, access: Access, until: Instant) -> Result<Arc<Self>> {
        let sidecars: &[SqliteFile] = match access {
            Access::Shared => &[SqliteFile::Log, SqliteFile::Index],
            // The WAL index is on the heap.
            Access::Exclusive => &[SqliteFile::Log],
        };
        Self::of(file, sidecars)?.locked(access, until)
    }

    /// As [`new`](Self::new), for a store that only reads. `has_log` if SQLite reads a WAL by its index. In rollback mode
    /// a lock would keep other processes from writing, and a snapshot has none.
    pub(crate) fn only_to_read(
        file: &DatabaseFile,
        seen: ReadOnly,
        frozen: Option<Frozen>,
        has_log: bool,
        until: Instant,
    ) -> Result<Arc<Self>> {
        let sidecars: &[SqliteFile] = if has_log {
            &[SqliteFile::Log, SqliteFile::Index]
        } else {
            &[]
        };
        let open = Self {
            read_only: Some(seen),
            frozen,
            ..Self::of(file, sidecars)?
        };
        if has_log {
            return open.locked(Access::Shared, until);
        }
        open.compare()?;
        Ok(Arc::new(open))
    }

    fn of(file: &DatabaseFile, sidecars: &[SqliteFile]) -> Result<Self> {
        let mut files = vec![Known {
            file: SqliteFile::Database,
            path: file.path.clone(),
            id: file.id,
        }];
        for sidecar in sidecars {
            let path = sidecar.of(&file.path);
            let metadata = fs::symlink_metadata(&path).map_err(|error| {
                open_error(
                    &file.path,
                    format!("its {} cannot be examined", sidecar.suffix()),
                    error,
                )
            })?;
            let id = FileId::of(&metadata);
            files.push(Known {
                file: *sidecar,
                path,
                id,
            });
        }
        Ok(Self {
            path: file.path.clone(),
            files,
            read_only: None,
            frozen: None,
            claim: Arc::downgrade(&file.claim),
            process: Process::current(),
            index: OnceLock::new(),
            state: Mutex::default(),
        })
    }

    fn locked(self, access: Access, until: Instant) -> Result<Arc<Self>> {
        self.compare()?;
        self.lock().locks = self.take_locks(access, until)?;
        if let Some(index) = self.lock().locks.as_ref().and_then(FileLocks::index) {
            let _ = self.index.set(index);
        }
        Ok(Arc::new(self))
    }

    fn take_locks(&self, access: Access, until: Instant) -> Result<Option<FileLocks>> {
        let of = |wanted| {
            let known = self.files.iter().find(|known| known.file == wanted)?;
            Some((known.path.as_path(), known.id))
        };
        let Some(database) = of(SqliteFile::Database) else {
            return Ok(None);
        };
        let by = match self.read_only {
            Some(_) => Use::Read,
            None => Use::Write,
        };
        let locks = FileLocks::take(database, of(SqliteFile::Index), access, by, until)
            .map_err(|error| open_error(&self.path, "its lock cannot be taken".to_owned(), error))?;
        if locks.is_none() {
            event!(
                info,
                "larder::open",
                self.path,
                {},
                "the system has no open-file-description locks, so closing any descriptor of the database in this \
                 process drops SQLite's locks"
            );
        }
        Ok(locks)
    }

    /// What a store that only reads sees. `None` for one that writes.
    pub(crate) fn read_only(&self) -> Option<ReadOnly> {
        self.read_only
    }

    /// Checks that the files of a snapshot are as they were when it was opened. Before and after each read: SQLite has no
    /// locks on them.
    pub(crate) fn unchanged(&self) -> Result<()> {
        self.frozen.as_ref().map_or(Ok(()), |frozen| frozen.compare(&self.path))
    }

    /// Checks before each read of a store that only reads whether its files are still those that it opened: no write
    /// fails that would show it.
    ///
    /// # Errors
    ///
    /// [`Error::SnapshotChanged`]; [`Error::Open`], which names the change.
    pub(crate) fn may_be_read(&self) -> Result<()> {
        if self.read_only != Some(ReadOnly::Live) {
            return self.unchanged();
        }
        let problem = match self.find_moved() {
            Some(FileChange::Removed(_, path)) => format!(
                "{} was deleted or renamed while the store had it open: restore it, then open the store again",
                path.display()
            ),
            Some(FileChange::Replaced(_, path)) => format!(
                "{} was replaced by another file while the store had it open: open the store again",
                path.display()
            ),
            // SQLite would create a -wal and a -shm that belong to this process.
            _ if self.was_switched_to_wal() => "another process has switched it to WAL while the store had it open in \
                 rollback mode: open the store again"
                .to_owned(),
            _ => return Ok(()),
        };
        Err(Error::Open {
            path: self.path.clone(),
            problem,
            source: None,
        })
    }

    /// Whether SQLite read no WAL at opening, and would now.
    fn was_switched_to_wal(&self) -> bool {
        let [database] = &self.files[..] else { return false };
        file_lock::is_in_wal_mode(&database.path, database.id).unwrap_or(false)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Checks that each name still means the file that was opened.
    ///
    /// # Errors
    ///
    /// [`Error::Open`], which names the change.
    pub(crate) fn compare(&self) -> Result<()> {
        match self.find_moved() {
            None => Ok(()),
            Some(change) => Err(Error::Open {
                path: self.path.clone(),
                problem: change.to_string(),
                source: None,
            }),
        }
    }

    /// Returns the first file whose name no longer means it. A name that cannot be examined counts as unchanged.
    fn find_moved(&self) -> Option<FileChange> {
        self.files
            .iter()
            .find_map(|known| match fs::symlink_metadata(&known.path) {
                Ok(there) if FileId::of(&there) == known.id => None,
                Ok(_) => Some(FileChange::Replaced(known.file, known.path.clone())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    Some(FileChange::Removed(known.file, known.path.clone()))
                }
                Err(_) => None,
            })
    }

    /// Checks the files of an open store, for the watchdog and before the last checkpoint. `None` if the store has
    /// closed.
    pub(crate) fn look(&self) -> Option<FileChange> {
        let state = self.lock();
        if state.leases == 0 {
            return None;
        }
        self.find_moved().or_else(|| {
            let file = state.locks.as_ref()?.find_dropped()?;
            let path = match file {
                LockedFile::Database => self.path.clone(),
                LockedFile::Index => SqliteFile::Index.of(&self.path),
            };
            Some(FileChange::Unlocked(file, path))
        })
    }

    /// The WAL index. `None` if it is on the heap ([`Access::Exclusive`]), and where the system has no such locks.
    pub(crate) fn wal_index(&self) -> Option<WalIndex> {
        WalIndex::read(self.index.get()?)
    }

    /// Whether there is a WAL index that other processes share.
    pub(crate) fn has_wal_index(&self) -> bool {
        self.index.get().is_some()
    }

    /// The database file, which may be read through this descriptor without dropping a lock. `None` where the system
    /// has no such locks, and after the store has closed.
    pub(crate) fn database_file(&self) -> Option<Arc<File>> {
        self.lock().locks.as_ref().and_then(FileLocks::database)
    }

    /// Whether a checkpoint saves the contents of the WAL: SQLite reads it by the open descriptor, even if the WAL has
    /// no name any more. `false` if another process may have started a new WAL for the same database under that name.
    pub(crate) fn may_save_log(&self) -> bool {
        self.files
            .iter()
            .filter(|known| known.file != SqliteFile::Database)
            .all(|known| match fs::symlink_metadata(&known.path) {
                Ok(there) => FileId::of(&there) == known.id,
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            })
    }

    /// A lease for one more connection of the store. `None` once the store has closed.
    pub(crate) fn lease(self: &Arc<Self>) -> Option<Lease> {
        let claim = self.claim.upgrade()?;
        self.lock().leases += 1;
        Some(Lease {
            file: Some(Arc::clone(self)),
            claim,
        })
    }

    fn lock(&self) -> MutexGuard<'_, FileState> {
        self.state.lock()
    }
}

/// A connection's share of an [`OpenFile`]. [Released](Self::release) before the connection closes, dropped after that.
#[derive(Debug)]
pub(crate) struct Lease {
    /// `Some` until the release.
    file: Option<Arc<OpenFile>>,
    claim: Arc<Claim>,
}

impl Lease {
    /// The files, until the release.
    pub(crate) fn file(&self) -> Option<&Arc<OpenFile>> {
        self.file.as_ref()
    }

    /// The connection that has closed was the writing one.
    pub(crate) fn writer_closed(&self) {
        self.claim.writer_closed();
    }

    /// The connection is about to close. The last lease releases the locks.
    pub(crate) fn release(&mut self) {
        if let Some(file) = self.file.take() {
            if file.process.is_left() {
                // A forked child shares the locks with its parent, which owns them.
                return mem::forget((file, Arc::clone(&self.claim)));
            }
            let mut state = file.lock();
            state.leases -= 1;
            if state.leases == 0 {
                state.locks = None;
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.release();
    }
}

fn open_error(path: &Path, problem: String, source: io::Error) -> Error {
    Error::Open {
        path: path.into(),
        problem: format!("{problem}: {source}"),
        source: Some(Box::new(source)),
    }
}
