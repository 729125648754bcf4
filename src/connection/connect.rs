//! Opens each connection of larder, and gives it its key first of all. No other file opens one.
//!
//! SQLCipher, <https://www.zetetic.net/sqlcipher/sqlcipher-api/>, encrypts every page before it is written, to the
//! database, the log or a journal. Its salt is in the place of SQLite's header, so nothing shows whether a file is
//! encrypted or is no database: "file is not a database" is its error for a wrong key, a wrong page size and a plain file.
//!
//! An SQLite that is not SQLCipher ignores `PRAGMA key` without an error, and would write a plain file.

use std::ffi::CStr;
use std::path::Path;

use r2d2::ManageConnection;
use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::{Connection, OpenFlags, ffi};

use super::file_lock;
use super::open_error::explain_open;
use crate::error::{Error, ErrorOrigin, Result, primary_code};
use crate::options::{Key, Settings};

/// SQLCipher's default. SQLite's is the same.
const DEFAULT_PAGE_SIZE: u64 = 4096;

/// Opens a file, with SQLite's VFS of that name if there is one.
pub(super) fn connect(path: &Path, flags: OpenFlags, vfs: Option<&CStr>, options: &Settings) -> Result<Connection> {
    let conn = match vfs {
        None => Connection::open_with_flags(path, flags),
        Some(vfs) => Connection::open_with_flags_and_vfs(path, flags, vfs),
    };
    let conn = conn.map_err(|error| explain_open(path, error))?;
    unlock(&conn, options)?;
    Ok(conn)
}

/// Opens a connection that reads.
pub(super) fn connect_by(source: &SqliteConnectionManager, path: &Path, options: &Settings) -> Result<Connection> {
    let conn = source.connect().map_err(|error| explain_open(path, error))?;
    unlock(&conn, options)?;
    Ok(conn)
}

/// Opens a file whose pages are not read, without a key.
#[cfg(feature = "replicate")]
pub(super) fn connect_to_lock(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    Connection::open_with_flags(path, flags)
}

/// Opens an empty database in memory, to copy the pages of a database with these options into it.
pub(super) fn connect_in_memory(options: &Settings) -> Result<Connection> {
    let conn = Connection::open_in_memory().map_err(Error::not_started)?;
    unlock(&conn, options)?;
    Ok(conn)
}

/// Opens an empty database in memory, without a key.
pub(in crate::connection) fn connect_to_nothing() -> rusqlite::Result<Connection> {
    Connection::open_in_memory()
}

/// Refuses a key that the linked SQLite would ignore, before a file is created.
pub(crate) fn check_key(options: &Settings) -> Result<()> {
    match options.key {
        None => Ok(()),
        Some(_) => connect_in_memory(options).map(drop),
    }
}

fn unlock(conn: &Connection, options: &Settings) -> Result<()> {
    match &options.key {
        Some(key) => unlock_with(conn, key, options.page_size),
        None => Ok(()),
    }
}

fn unlock_with(conn: &Connection, key: &Key, page_size: u64) -> Result<()> {
    let run = |sql: &str| {
        conn.execute_batch(sql)
            .map_err(|error| Error::not_started(without_text(&error)))
    };
    run(&format!("PRAGMA key = {}", key.literal()))?;
    if !has_cipher(conn) {
        return Err(Error::Options {
            option: "key",
            problem: "the linked SQLite is not SQLCipher, and would write a plain file: enable larder's feature \
                      `sqlcipher`, or leave the key out"
                .into(),
        });
    }
    // By default SQLCipher writes to stderr what larder's error says. The level is that of the process; an `on_connect` may
    // set another one.
    run("PRAGMA cipher_log_level = NONE")?;
    if page_size != DEFAULT_PAGE_SIZE {
        run(&format!("PRAGMA cipher_page_size = {page_size}"))?;
    }
    Ok(())
}

/// Whether the linked SQLite is SQLCipher.
fn has_cipher(conn: &Connection) -> bool {
    conn.query_row("PRAGMA cipher_version", [], |_| Ok(())).is_ok()
}

/// The error without the SQL, which has the key.
fn without_text(error: &rusqlite::Error) -> rusqlite::Error {
    let code = primary_code(error).unwrap_or(ffi::SQLITE_ERROR);
    rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some("the key could not be set".into()))
}

/// Says what "file is not a database" means for this file and these options.
pub(super) fn explain_key(path: &Path, options: &Settings, error: Error) -> Error {
    let of_sqlite = match &error {
        Error::Open {
            source: Some(source), ..
        } => source.downcast_ref().and_then(primary_code),
        other => other.sqlite().and_then(primary_code),
    };
    // `on_connect` may have failed with the error of another database.
    let is_foreign = matches!(
        error,
        Error::Sqlite {
            origin: ErrorOrigin::Other,
            ..
        }
    );
    if is_foreign || of_sqlite != Some(ffi::SQLITE_NOTADB) {
        return error;
    }
    let is_plain = file_lock::is_plain(path);
    let problem = match (&options.key, is_plain) {
        (Some(_), Some(true)) => {
            "it is a plain database, and Options::key is set: leave the key out, or encrypt the database first \
             (sqlcipher_export)"
        }
        (Some(_), _) => {
            "Options::key is not its key, or Options::page_size is not its page size, or it is not a database of \
             SQLCipher 4"
        }
        (None, Some(true)) => return error,
        (None, _) if is_sqlcipher() => {
            "it is not an SQLite database, or it is encrypted: for a database of SQLCipher, give Options::key"
        }
        (None, _) => {
            "it is not an SQLite database, or it is encrypted: for a database of SQLCipher, enable larder's feature \
             `sqlcipher` and give Options::key"
        }
    };
    Error::Open {
        path: path.into(),
        problem: problem.into(),
        source: match error {
            Error::Open { source, .. } => source,
            _ => None,
        },
    }
}

fn is_sqlcipher() -> bool {
    connect_to_nothing().is_ok_and(|conn| has_cipher(&conn))
}
