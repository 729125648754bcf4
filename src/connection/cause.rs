//! Why SQLite failed, where its code has several causes.
//!
//! "unable to open database file" may be a missing permission, a path that is too long or a process without file
//! descriptors; "database or disk is full" may be a table whose ids have run out. So the file, the files beside it, the
//! mount, the process and the disk are asked, once the error is there.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rusqlite::{Connection, ffi};
use rustix::fs::{Access, AtFlags, CWD, StatVfsMountFlags, accessat, statvfs};
use rustix::io::Errno;

use super::c_api;
use super::filesystem::{space, temporary_folder};
use crate::error::{extended_code, primary_code};

/// The longest path that SQLite opens: the journal's, which is longer, has at most 512 bytes (`MAX_PATHNAME` of the Unix
/// VFS).
const LONGEST_PATH: usize = 512 - "-journal".len();

/// Bytes below which a disk counts as full. An extent, a reserve or another process may have the rest.
const NO_ROOM: u64 = 1 << 20;

/// "If the max_page_count is not changed", <https://sqlite.org/pragma.html#pragma_max_page_count>.
const PAGES_WITHOUT_LIMIT: i64 = 0xffff_fffe;

/// An error whose message has its cause.
pub(crate) struct Explained {
    pub(crate) error: rusqlite::Error,
    /// Whether the database cannot grow: the disk is full, or the limit of its pages is reached.
    pub(crate) is_full: bool,
}

/// Adds the cause to the message of the error that the connection has just returned, if the error has several causes and
/// this one can be found out.
pub(crate) fn explain(conn: &Connection, error: rusqlite::Error) -> Explained {
    // First of all, because SQLite does not keep the error number of a full disk.
    let last = io::Error::last_os_error();
    let code = primary_code(&error);
    let path = conn.path().map(Path::new);
    let (cause, is_full) = match (code, path) {
        (Some(ffi::SQLITE_FULL), path) => full(conn, path, &last),
        _ if extended_code(&error) == Some(ffi::SQLITE_READONLY_DBMOVED) => {
            let cause = "the file was moved, replaced or deleted while it was open: restart the service";
            (Some(cause.to_owned()), false)
        }
        (Some(code), Some(path)) if has_causes(code) => {
            let system = io::Error::from_raw_os_error(c_api::system_errno(conn));
            (of_files(path, code, &system), false)
        }
        _ => (None, false),
    };
    let error = match cause {
        Some(cause) => with_cause(error, &cause),
        None => error,
    };
    Explained { error, is_full }
}

/// As [`explain`], for callers that do not need to know whether the disk is full.
pub(crate) fn explained(conn: &Connection, error: rusqlite::Error) -> rusqlite::Error {
    explain(conn, error).error
}

fn with_cause(error: rusqlite::Error, cause: &str) -> rusqlite::Error {
    match error {
        rusqlite::Error::SqliteFailure(code, message) => {
            let message = message.unwrap_or_else(|| code.to_string());
            rusqlite::Error::SqliteFailure(code, Some(format!("{message}: {cause}")))
        }
        other => other,
    }
}

/// Whether an error of that code says nothing about its cause.
fn has_causes(code: i32) -> bool {
    matches!(
        code,
        ffi::SQLITE_CANTOPEN | ffi::SQLITE_PERM | ffi::SQLITE_READONLY | ffi::SQLITE_IOERR
    )
}

/// Why a database cannot be opened, read or written. `system` is what the operating system said, if that is known; it
/// may be from an earlier call, so the files are asked first.
pub(super) fn of_files(path: &Path, code: i32, system: &io::Error) -> Option<String> {
    no_descriptor()
        .or_else(|| path_too_long(path, code))
        .or_else(|| read_only_mount(path))
        .or_else(|| forbidden(path, code))
        .or_else(|| said(system).map(str::to_owned))
}

/// Opens another file. A process that lacks descriptors mostly still does.
fn no_descriptor() -> Option<String> {
    let error = File::open("/dev/null").err()?;
    let is_lack = matches!(Errno::from_io_error(&error), Some(Errno::MFILE | Errno::NFILE));
    is_lack.then(|| said(&error).map(str::to_owned)).flatten()
}

fn path_too_long(path: &Path, code: i32) -> Option<String> {
    let length = path.as_os_str().len();
    (code == ffi::SQLITE_CANTOPEN && length > LONGEST_PATH).then(|| {
        format!("its path has {length} bytes, and SQLite opens one of at most {LONGEST_PATH}: choose a shorter path")
    })
}

fn read_only_mount(path: &Path) -> Option<String> {
    let is_read_only = |path: &Path| statvfs(path).is_ok_and(|stat| stat.f_flag.contains(StatVfsMountFlags::RDONLY));
    let folder = path.parent()?;
    (is_read_only(path) || is_read_only(folder)).then(|| {
        "its file system is mounted read-only, or was made so after an error of the disk: mount it for writing, or copy \
         the file"
            .to_owned()
    })
}

/// The first of the database's files that this process may not use as SQLite has to.
fn forbidden(path: &Path, code: i32) -> Option<String> {
    let beside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        name
    };
    for (suffix, name) in [
        ("", "the file"),
        ("-wal", "its -wal"),
        ("-shm", "its -shm"),
        ("-journal", "its -journal"),
    ] {
        let file = beside(suffix);
        match fs::symlink_metadata(&file) {
            Ok(metadata) if metadata.is_symlink() => {
                return Some(format!(
                    "{name} is a symbolic link, which SQLite does not follow: put the file itself there"
                ));
            }
            Ok(metadata) if !metadata.is_file() => {
                return Some(format!(
                    "{name} is not a regular file: move it away, if it was not made by SQLite"
                ));
            }
            Ok(metadata) => {
                if let Some(cause) = denied(file.as_ref(), name, &metadata) {
                    return Some(cause);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && suffix.is_empty() => {
                return (code == ffi::SQLITE_CANTOPEN).then(|| "the file is not there any more".to_owned());
            }
            Err(_) => {}
        }
    }
    let folder = path.parent()?;
    let metadata = fs::metadata(folder).ok()?;
    let denied = may(folder, Access::WRITE_OK | Access::EXEC_OK).err()?;
    Some(format!(
        "this process may not create files in its folder, where SQLite needs -wal and -shm ({}): check owner and mode",
        about(denied, &metadata)
    ))
}

fn denied(file: &Path, name: &str, metadata: &Metadata) -> Option<String> {
    for (access, verb) in [(Access::READ_OK, "read"), (Access::WRITE_OK, "write")] {
        if let Err(error) = may(file, access) {
            let about = about(error, metadata);
            return Some(format!(
                "this process may not {verb} {name} ({about}): check owner and mode"
            ));
        }
    }
    None
}

/// Whether SQLite can create its files beside the database.
pub(super) fn may_create_beside(path: &Path) -> bool {
    path.parent()
        .is_none_or(|folder| may(folder, Access::WRITE_OK | Access::EXEC_OK).is_ok())
}

pub(super) fn may_write(path: &Path) -> bool {
    may(path, Access::WRITE_OK).is_ok()
}

/// The first of the files that a store reads and this process may not read.
pub(super) fn unreadable(path: &Path) -> Option<String> {
    [("", "the file"), ("-wal", "its -wal")]
        .into_iter()
        .find_map(|(suffix, name)| {
            let mut file = path.as_os_str().to_owned();
            file.push(suffix);
            let metadata = fs::symlink_metadata(&file).ok()?;
            let error = may(file.as_ref(), Access::READ_OK).err()?;
            let about = about(error, &metadata);
            Some(format!(
                "this process may not read {name} ({about}): check owner and mode"
            ))
        })
}

/// What this process may do by its effective user. Any other error is none of permissions.
fn may(path: &Path, access: Access) -> Result<(), Errno> {
    match accessat(CWD, path, access, AtFlags::EACCESS) {
        Err(error @ (Errno::ACCESS | Errno::PERM | Errno::ROFS)) => Err(error),
        _ => Ok(()),
    }
}

fn about(error: Errno, metadata: &Metadata) -> String {
    let (user, owner, mode) = (
        rustix::process::geteuid().as_raw(),
        metadata.uid(),
        metadata.mode() & 0o7777,
    );
    let error = match error {
        Errno::ACCESS => "permission denied",
        Errno::PERM => "it is immutable, as lsattr shows",
        _ => "it is mounted read-only",
    };
    format!("{error}; it belongs to user {owner} and has mode {mode:o}, the process runs as user {user}")
}

/// What an error of the operating system means for a database, and the way out.
pub(super) fn said(system: &io::Error) -> Option<&'static str> {
    match Errno::from_io_error(system)? {
        Errno::ACCESS => Some("permission denied: check owner and mode of the file and of its folder"),
        Errno::MFILE => Some(
            "this process has no file descriptor left: close files, or raise its limit (ulimit -n, LimitNOFILE of systemd)",
        ),
        Errno::NFILE => Some("the system has no file descriptor left: close files, or raise fs.file-max"),
        Errno::NOSPC => Some("the disk is full: free disk space, then try again"),
        Errno::DQUOT => Some("the disk quota is used up: free disk space, or raise the quota"),
        Errno::FBIG => Some("a file would be larger than the process may write (ulimit -f), or the file system allows"),
        Errno::IO => Some("the device failed: look at the disk, and at the kernel's log"),
        Errno::ROFS => {
            Some("the file system is read-only, perhaps after an error of the disk: look at the kernel's log")
        }
        Errno::NOMEM => Some("there is not enough memory"),
        Errno::STALE => Some("the file on the server is no longer the one that was opened: open the database again"),
        _ => None,
    }
}

/// The cause of SQLITE_FULL, and whether the database cannot grow. `last` is the thread's last error number.
fn full(conn: &Connection, path: Option<&Path>, last: &io::Error) -> (Option<String>, bool) {
    let folder = path.and_then(Path::parent);
    let left = |folder: &Path| space(folder).map(|space| space.available);
    let is_full = |folder: &Path| left(folder).is_some_and(|left| left < NO_ROOM);
    let disk = |folder: &Path| {
        let left = left(folder).unwrap_or_default();
        format!(
            "the disk of {} has {left} bytes left: free disk space, then try again",
            folder.display()
        )
    };
    if let Some(folder) = folder.filter(|folder| is_full(folder)) {
        return (Some(disk(folder)), true);
    }
    if let Some(table) = exhausted(conn) {
        let cause = format!(
            "the AUTOINCREMENT table {table} has given out its largest id, {}: delete the row with that id, if it is \
             there, and set the table's seq in sqlite_sequence to the largest id in use",
            i64::MAX
        );
        return (Some(cause), false);
    }
    if let Some(pages) = number(conn, "PRAGMA main.max_page_count").filter(|pages| *pages < PAGES_WITHOUT_LIMIT) {
        let left = folder.and_then(left).unwrap_or_default();
        let cause = format!(
            "the database may have {pages} pages and needs more: raise PRAGMA max_page_count, which Options::on_connect \
             sets, or delete rows; to free disk space does not help, as {left} bytes are left"
        );
        return (Some(cause), true);
    }
    if let Some(folder) = temporary_folder().filter(|folder| is_full(folder)) {
        return (Some(disk(&folder)), true);
    }
    let left = folder
        .and_then(left)
        .map(|left| format!("the disk has {left} bytes left now: "));
    let cause = format!(
        "{}look for a quota, for another program that had filled it, and for an AUTOINCREMENT table whose ids have run \
         out",
        left.unwrap_or_default()
    );
    // If the transaction that gave out the largest id was rolled back, no table says so any more.
    let may_be_ids = number(conn, "SELECT count(*) FROM main.sqlite_sequence").is_some();
    let was_disk = Errno::from_io_error(last) == Some(Errno::NOSPC);
    (Some(cause), was_disk || !may_be_ids)
}

/// An AUTOINCREMENT table that has given out its largest id: "if the table has previously held a row with the largest
/// possible ROWID, then new INSERTs are not allowed and any attempt to insert a new row will fail with an SQLITE_FULL
/// error", <https://sqlite.org/autoinc.html>.
fn exhausted(conn: &Connection) -> Option<String> {
    let sql = format!("SELECT name FROM main.sqlite_sequence WHERE seq = {}", i64::MAX);
    conn.query_row(&sql, [], |row| row.get(0)).ok()
}

fn number(conn: &Connection, sql: &str) -> Option<i64> {
    conn.query_row(sql, [], |row| row.get(0)).ok()
}
