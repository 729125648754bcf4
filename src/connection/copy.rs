//! Connections to private files: copies of the database, and the originals of a restore.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, MAIN_DB, OpenFlags, ffi};

use super::connect::{connect, connect_in_memory, explain_key};
use super::file::beside;
use super::interrupt::Interrupt;
use super::open_error::explain_open;
use super::pragma::{accept_double_quoted_strings, configure, read_back, set, trust_schema};
use super::{first_look, open_files, prepare, prepare_for};
use crate::error::{Error, Result, primary_code};
use crate::options::{Role, Settings};

/// A connection to a private file, with its interrupt.
pub(crate) struct Private {
    pub(crate) conn: Connection,
    pub(crate) interrupt: Arc<Interrupt>,
}

fn open(path: &Path, access: OpenFlags, options: &Settings) -> Result<Connection> {
    let flags =
        access | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW | OpenFlags::SQLITE_OPEN_EXRESCODE;
    connect(path, flags, None, options)
}

/// Opens a database that is not the store's, to read rows of it.
pub(crate) fn open_other(path: &Path, options: &Settings) -> Result<Connection> {
    let conn = open(path, OpenFlags::SQLITE_OPEN_READ_ONLY, options)?;
    conn.busy_timeout(options.busy_timeout).map_err(Error::not_started)?;
    trust_schema(&conn, false)?;
    Ok(conn)
}

/// Opens an empty file, to copy pages into it.
///
/// `on_connect` may set a key, which the pages need. It may as well read tables that are not there yet, so its error
/// does not count here: it is called again once the copy has its pages.
pub(crate) fn open_target(path: &Path, options: &Settings) -> Result<Connection> {
    let conn = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE, options)?;
    if prepare(&conn, options, Role::Copy, options.busy_timeout).is_err() && !conn.is_autocommit() {
        conn.execute_batch("ROLLBACK").map_err(Error::not_started)?;
    }
    Ok(conn)
}

/// Opens an empty database in memory, for a copy.
pub(crate) fn open_memory(options: &Settings) -> Result<Connection> {
    connect_in_memory(options)
}

/// Lets `on_connect` set up a copy in memory, which has its pages.
pub(crate) fn set_up_memory(conn: &Connection, options: &Settings) -> Result<()> {
    prepare(conn, options, Role::Copy, options.busy_timeout).map(drop)
}

/// Opens a private copy of the database and makes it self-contained. Pages copied from a database in WAL mode mark the
/// copy as WAL, too, and a process with read access alone cannot open a WAL file in a folder that it may not write to.
///
/// `is_verified` if the database is to be sound. If not, an unreadable schema is no error.
pub(crate) fn open_copy_alone(path: &Path, options: &Settings, is_verified: bool) -> Result<Private> {
    begin_alone(path, options, is_verified).map_err(|error| explain_key(path, options, error))
}

fn begin_alone(path: &Path, options: &Settings, is_verified: bool) -> Result<Private> {
    let conn = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE, options)?;
    // "In exclusive locking mode, the wal-index is kept in heap memory", <https://sqlite.org/wal.html#noshm>: no `-shm`.
    // Set before `on_connect`, which may read the file.
    set(&conn, "locking_mode", "exclusive")?;
    let hooks = prepare(&conn, options, Role::Copy, options.busy_timeout)?;
    let interrupt = Interrupt::install(&conn, !hooks.has_trace()).map_err(Error::not_started)?;
    set_tolerance(&conn, is_verified)?;
    first_look(&conn, path)?;
    // The caller syncs the whole copy at the end if it must be durable.
    set(&conn, "synchronous", 0)?;
    set(&conn, "journal_mode", "delete")?;
    set_for_copies(&conn, options, is_verified, hooks.trusts_schema())?;
    Ok(Private { conn, interrupt })
}

/// Opens a file as the source of a copy: a backup to restore. `None` if SQLite would have to write beside the file to
/// read it, and may not, or if that would leave a file behind: then the caller copies the file and what is beside it.
///
/// - With a `-wal` and a `-shm`, or a journal, beside it, some program uses the file, or was killed while it did. A
///   read-only connection changes nothing, and takes SQLite's locks.
/// - With one of the first two alone, the files were copied to this place. A read-only connection would create the other.
/// - With nothing beside it, only a connection that may write removes the files that SQLite creates for a database in
///   WAL mode. SQL cannot write by it.
///
/// `is_verified` as for [`open_copy_alone`].
pub(crate) fn open_original(path: &Path, options: &Settings, is_verified: bool) -> Result<Option<Private>> {
    let [wal, shm, journal] = ["-wal", "-shm", "-journal"].map(|ending| size_beside(path, ending));
    let is_used_here = open_files::is_open(path);
    if wal.is_some() != shm.is_some() && !is_used_here {
        return Ok(None);
    }
    let is_used = is_used_here || shm.is_some() || journal > Some(0);
    let access = if is_used {
        OpenFlags::SQLITE_OPEN_READ_ONLY
    } else {
        OpenFlags::SQLITE_OPEN_READ_WRITE
    };
    let conn = open(path, access, options)?;
    // It may have been opened to read only after all, and then it removes nothing that it creates.
    if !is_used && conn.is_readonly(MAIN_DB).unwrap_or(true) && is_marked_as_wal(path) {
        return Ok(None);
    }
    match set_up_original(conn, path, options, is_verified) {
        Ok(original) => Ok(Some(original)),
        Err(error) if is_about_access(&error) => Ok(None),
        Err(error) => Err(explain_key(path, options, error)),
    }
}

fn set_up_original(conn: Connection, path: &Path, options: &Settings, is_verified: bool) -> Result<Private> {
    let hooks = prepare_for(&conn, options, Role::Copy, true, options.busy_timeout)?;
    let interrupt = Interrupt::install(&conn, !hooks.has_trace()).map_err(Error::not_started)?;
    set_tolerance(&conn, is_verified)?;
    first_look(&conn, path)?;
    // Reads the first page, and so finds a journal that has to be rolled back.
    read_back(&conn, "schema_version").map_err(|e| explain_open(path, e))?;
    set_for_copies(&conn, options, is_verified, hooks.trusts_schema())?;
    set(&conn, "query_only", 1)?;
    Ok(Private { conn, interrupt })
}

/// Whether the header of a file that no process has open says that the database is in WAL mode.
fn is_marked_as_wal(path: &Path) -> bool {
    let mut header = [0; 20];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut header));
    read.is_ok() && header[18..] == [2, 2]
}

/// The size of a file that SQLite keeps beside a database, if it is there.
fn size_beside(path: &Path, ending: &str) -> Option<u64> {
    fs::metadata(beside(path, ending)).ok().map(|file| file.len())
}

/// Whether SQLite could not open, create or write a file that it needs.
fn is_about_access(error: &Error) -> bool {
    let of_sqlite = |error: &rusqlite::Error| {
        matches!(
            primary_code(error),
            Some(ffi::SQLITE_CANTOPEN | ffi::SQLITE_READONLY | ffi::SQLITE_PERM)
        )
    };
    match error {
        Error::Open { source, .. } => source
            .as_ref()
            .and_then(|source| source.downcast_ref())
            .is_some_and(of_sqlite),
        error => error.sqlite().is_some_and(of_sqlite),
    }
}

/// With a writable schema, SQLite opens a database whose schema or size is wrong, so that its pages can be copied.
fn set_tolerance(conn: &Connection, is_verified: bool) -> Result<()> {
    if is_verified {
        Ok(())
    } else {
        set(conn, "writable_schema", 1)
    }
}

/// What a copy has in its schema is checked or written again as it is, double-quoted strings included.
fn set_for_copies(conn: &Connection, options: &Settings, is_verified: bool, trusts_schema: bool) -> Result<()> {
    trust_schema(conn, trusts_schema)?;
    accept_double_quoted_strings(conn, true)?;
    // It would end the tolerance.
    configure(conn, "defensive", DbConfig::SQLITE_DBCONFIG_DEFENSIVE, is_verified)?;
    set(conn, "cache_size", format!("-{}", options.cache_size / 1024))
}

/// Maps the whole of a new file, which no other process can make shorter, unless the store maps nothing. SQLite maps up to
/// 2 GiB.
#[cfg(any(feature = "postgres", feature = "replicate"))]
pub(crate) fn map_whole(conn: &Connection, options: &Settings) -> rusqlite::Result<()> {
    match options.mmap_size {
        0 => Ok(()),
        _ => conn.execute_batch(&format!("PRAGMA main.mmap_size = {}", i64::MAX)),
    }
}

/// Turns off the journal and syncing. For a new file, which is deleted on any error.
pub(crate) fn write_carelessly(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch("PRAGMA main.synchronous = OFF; PRAGMA main.journal_mode = OFF")
}
