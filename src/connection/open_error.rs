//! The errors of opening a file.

use std::borrow::Cow;
use std::io;
use std::path::Path;

use rusqlite::{Connection, ffi};

use super::cause::{explained, of_files};
use crate::error::{Error, Result, extended_code, primary_code, schema_advice};

pub(super) fn execute(conn: &Connection, path: &Path, sql: &str) -> Result<()> {
    conn.execute_batch(sql).map_err(|error| match primary_code(&error) {
        Some(ffi::SQLITE_FULL) => Error::not_started(explained(conn, error)),
        _ => explain_open(path, error),
    })
}

/// Translates SQLite's error codes while a file is being opened.
pub(super) fn explain_open(path: &Path, source: rusqlite::Error) -> Error {
    // First of all: a connection that could not be opened is gone, and with it what SQLite knew.
    let system = io::Error::last_os_error();
    let advice = schema_advice(&source);
    if !advice.is_empty() {
        return Error::Open {
            path: path.into(),
            problem: format!("{source}{advice}"),
            source: Some(Box::new(source)),
        };
    }
    let cause = || primary_code(&source).and_then(|code| of_files(path, code, &system));
    let problem: Cow<'_, str> = match primary_code(&source) {
        Some(ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED) => {
            return Error::InUse {
                path: path.into(),
                source,
            };
        }
        Some(ffi::SQLITE_NOTADB) => "it is not an SQLite database, or it is encrypted".into(),
        Some(ffi::SQLITE_CORRUPT) => "it is damaged: restore a backup that was checked".into(),
        Some(ffi::SQLITE_CANTOPEN | ffi::SQLITE_PERM | ffi::SQLITE_AUTH)
            if extended_code(&source) == Some(ffi::SQLITE_CANTOPEN_SYMLINK) =>
        {
            "it is a symbolic link: give the target's path".into()
        }
        Some(ffi::SQLITE_CANTOPEN | ffi::SQLITE_PERM) => {
            cause().map_or("SQLite cannot open it, its -wal or its -shm".into(), Cow::from)
        }
        Some(ffi::SQLITE_IOERR) => cause().map_or("reading it failed: look at the disk".into(), Cow::from),
        Some(ffi::SQLITE_READONLY) => {
            cause().map_or("SQLite cannot write it, and a WAL must be written".into(), Cow::from)
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
