//! The errors of opening a file.

use std::io;
use std::path::Path;

use rusqlite::{Connection, ffi};

use crate::error::{Error, Result, extended_code, primary_code};

pub(super) fn execute(conn: &Connection, path: &Path, sql: &str) -> Result<()> {
    conn.execute_batch(sql).map_err(|e| explain_open(path, e))
}

/// Translates SQLite's error codes while a file is being opened.
pub(super) fn explain_open(path: &Path, source: rusqlite::Error) -> Error {
    let problem = match primary_code(&source) {
        Some(ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED) => {
            return Error::InUse {
                path: path.into(),
                source,
            };
        }
        Some(ffi::SQLITE_NOTADB) => "it is not an SQLite database, or it is encrypted",
        Some(ffi::SQLITE_CORRUPT) => "it is damaged: restore a backup that was checked",
        Some(ffi::SQLITE_CANTOPEN | ffi::SQLITE_PERM | ffi::SQLITE_AUTH)
            if extended_code(&source) == Some(ffi::SQLITE_CANTOPEN_SYMLINK) =>
        {
            "it is a symbolic link: give the target's path"
        }
        Some(ffi::SQLITE_CANTOPEN | ffi::SQLITE_PERM) => {
            "this process may not read and write the file, its -wal and -shm, or make files in its folder: check \
             owner and mode"
        }
        Some(ffi::SQLITE_IOERR) => {
            "reading it failed: look at the disk, and whether its -wal and -shm are files of the same owner"
        }
        Some(ffi::SQLITE_READONLY) => {
            "the file, its folder or its file system is read-only, and a WAL must be written: check owner, mode and \
             mount"
        }
        _ => return Error::not_started(source),
    };
    Error::Open {
        path: path.into(),
        problem: format!("{problem} ({source})"),
        source: Some(Box::new(source)),
    }
}

pub(super) fn refuse(path: &Path, problem: &str) -> Error {
    Error::Open {
        path: path.into(),
        problem: problem.into(),
        source: None,
    }
}

pub(super) fn open_error(path: &Path, problem: &str, source: io::Error) -> Error {
    Error::Open {
        path: path.into(),
        problem: format!("{problem}: {source}"),
        source: Some(Box::new(source)),
    }
}
