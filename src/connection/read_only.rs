//! The files of a store that only reads (`Options::read_only`), and how SQLite opens them.
//!
//! | the files | how they are opened | what is seen |
//! |---|---|---|
//! | in rollback mode; or in WAL mode, and `-wal` and `-shm` are there or can be created | as always, to read only | each commit of other processes ([`Live`](ReadOnly::Live)) |
//! | in WAL mode, without `-wal`, where this process may not create it, or may not write the database | `immutable=1` | the file as it is ([`Snapshot`](ReadOnly::Snapshot)) |
//! | the same, with a `-wal` and without `-shm` | `vfs=unix-none` and `locking_mode=EXCLUSIVE`, which keep the WAL index on the heap | the file and the commits in its `-wal` ([`SnapshotWithLog`](ReadOnly::SnapshotWithLog)) |
//!
//! "If the -shm and -wal files already exist or those files can be created or the database is immutable", SQLite opens a
//! read-only WAL database, <https://sqlite.org/wal.html#read_only_databases>. Otherwise no process has the file open in
//! WAL mode: each keeps a `-shm` beside it, or the index on its heap and the file locked (`Access::Exclusive`), which is
//! asked before. SQLite then opens the snapshot without locks, so a process that opens the file to write would not be kept
//! from it. Therefore each read compares the files before and after ([`Frozen`]): a
//! change is an error, and never a torn read. Snapshots map no memory, because a file that shrinks under a map ends the
//! process.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::{OpenFlags, ffi};

use super::cause::{may_create_beside, may_write};
use super::file::{DatabaseFile, FileId};
use super::file_lock;
use super::open_error::refuse;
use crate::error::{Error, Result, extended_code, primary_code};
use crate::options::Settings;
use crate::telemetry::stats::ReadOnly;

const FLAGS: OpenFlags = OpenFlags::SQLITE_OPEN_READ_ONLY
    .union(OpenFlags::SQLITE_OPEN_NO_MUTEX)
    .union(OpenFlags::SQLITE_OPEN_NOFOLLOW)
    .union(OpenFlags::SQLITE_OPEN_EXRESCODE);

/// The factory of connections that read: `r2d2_sqlite`'s manager with read-only flags.
pub(crate) fn source(path: &Path, seen: Option<ReadOnly>) -> SqliteConnectionManager {
    let query = match seen {
        None | Some(ReadOnly::Live) => return SqliteConnectionManager::file(path).with_flags(FLAGS),
        Some(ReadOnly::Snapshot) => "immutable=1",
        Some(ReadOnly::SnapshotWithLog) => "vfs=unix-none",
    };
    SqliteConnectionManager::file(uri(path, query)).with_flags(FLAGS | OpenFlags::SQLITE_OPEN_URI)
}

/// The absolute path as a URI, <https://sqlite.org/uri.html>.
fn uri(path: &Path, query: &str) -> PathBuf {
    let mut uri = b"file:".to_vec();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => uri.push(*byte),
            byte => uri.extend(format!("%{byte:02X}").bytes()),
        }
    }
    uri.extend(format!("?mode=ro&{query}").bytes());
    OsString::from_vec(uri).into()
}

/// The snapshot as which the files must be opened, so that SQLite creates none that belong to this process: a process that
/// may write the database could not use them.
pub(super) fn of_others(file: &DatabaseFile, options: &Settings) -> Result<Option<(ReadOnly, Frozen)>> {
    let is_others = !may_write(&file.path) && may_create_beside(&file.path);
    let frozen = Frozen::of(&file.path);
    // The header of an encrypted file cannot be read.
    let has_log = || options.key.is_some() || file_lock::is_in_wal_mode(&file.path, file.id).unwrap_or(false);
    // A process with the index on its heap has a lock, which opening as always waits for.
    let is_open = || file_lock::is_locked(&file.path, file.id).unwrap_or(false);
    if is_others && frozen.lacks_index() && has_log() && !is_open() {
        return frozen.view().map(Some);
    }
    Ok(None)
}

/// The snapshot as which the files can be opened, if SQLite failed because it cannot create its files beside them.
pub(super) fn snapshot(path: &Path, failed: &Error) -> Result<Option<(ReadOnly, Frozen)>> {
    let of_sqlite: Option<&rusqlite::Error> = match failed {
        Error::Open { source, .. } => source.as_ref().and_then(|source| source.downcast_ref()),
        other => other.sqlite(),
    };
    // The second, if the permission for the folder is missing.
    let lacks_file = of_sqlite.is_some_and(|error| {
        primary_code(error) == Some(ffi::SQLITE_CANTOPEN)
            || extended_code(error) == Some(ffi::SQLITE_READONLY_DIRECTORY)
    });
    if !lacks_file || may_create_beside(path) {
        return Ok(None);
    }
    let frozen = Frozen::of(path);
    if frozen.lacks_index() {
        return frozen.view().map(Some);
    }
    Ok(None)
}

/// A process was killed in a transaction of the rollback mode.
pub(super) fn hot_journal(path: &Path) -> Error {
    refuse(
        path,
        "a process that wrote it was killed, and left a -journal, which must be played back before the file can be read, \
         and Options::read_only(true) writes nothing: open it once to write, or copy both files and open the copy",
    )
}

/// The files of a snapshot, when it was opened.
#[derive(Debug)]
pub(crate) struct Frozen {
    files: [FrozenFile; 4],
}

#[derive(Debug)]
struct FrozenFile {
    path: PathBuf,
    /// `None` if there was no such file.
    stamp: Option<Stamp>,
}

impl FrozenFile {
    fn is_there(&self) -> bool {
        self.stamp.is_some()
    }
}

/// What changes when a file is written or replaced.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stamp {
    id: FileId,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(file: &Metadata) -> Self {
        Self {
            id: FileId::of(file),
            size: file.len(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }

    /// `Err` if the system cannot say.
    fn at(path: &Path) -> io::Result<Option<Self>> {
        match fs::symlink_metadata(path) {
            Ok(file) => Ok(Some(Self::of(&file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Frozen {
    fn of(path: &Path) -> Self {
        let files = ["", "-wal", "-shm", "-journal"].map(|suffix| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            let path = PathBuf::from(name);
            let stamp = Stamp::at(&path).ok().flatten();
            FrozenFile { path, stamp }
        });
        Self { files }
    }

    /// Whether SQLite lacks a file that it needs to read a database in WAL mode.
    fn lacks_index(&self) -> bool {
        let [_, log, index, _] = &self.files;
        !log.is_there() || !index.is_there()
    }

    /// How the files are read. Without locks SQLite plays back no journal.
    fn view(self) -> Result<(ReadOnly, Self)> {
        let [database, log, _, journal] = &self.files;
        if journal.stamp.is_some_and(|journal| journal.size > 0) {
            return Err(hot_journal(&database.path));
        }
        let seen = if log.is_there() {
            ReadOnly::SnapshotWithLog
        } else {
            ReadOnly::Snapshot
        };
        Ok((seen, self))
    }

    /// Compares the files. `database` is the path that the error names.
    ///
    /// # Errors
    ///
    /// [`Error::SnapshotChanged`]. A file that cannot be examined any more counts as changed.
    pub(super) fn compare(&self, database: &Path) -> Result<()> {
        let is_as_before = |file: &&FrozenFile| Stamp::at(&file.path).is_ok_and(|stamp| stamp == file.stamp);
        match self.files.iter().find(|file| !is_as_before(file)) {
            None => Ok(()),
            Some(changed) => Err(Error::SnapshotChanged {
                path: database.into(),
                changed: changed.path.clone(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_are_escaped_in_uris() {
        let uri = uri(Path::new("/a b/ü?x=1#%20&.db"), "immutable=1");
        assert_eq!(
            uri,
            Path::new("file:/a%20b/%C3%BC%3Fx%3D1%23%2520%26.db?mode=ro&immutable=1")
        );
    }
}
