//! Whether a database that this process does not serve is open somewhere.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{OpenFlags, ffi};

use super::connect::connect_to_lock;
use crate::error::primary_code;

/// Whether any connection has the database open, of this process or another, or may have: where that cannot be asked, for
/// example for want of a file descriptor. A file that SQLite does not take for a database is not open. A journal that a
/// killed process has left is rolled back.
///
/// SQLite gives its exclusive lock, which every open connection to a database in WAL mode withstands.
pub(crate) fn is_in_use(path: &Path) -> bool {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let Ok(conn) = connect_to_lock(path, flags) else {
        return path.exists();
    };
    // Closing it must not empty the log.
    let locked = conn
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .and_then(|_| conn.busy_timeout(Duration::ZERO))
        .and_then(|()| conn.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; ROLLBACK"));
    let code = locked.err().and_then(|error| primary_code(&error));
    !matches!(code, None | Some(ffi::SQLITE_NOTADB | ffi::SQLITE_CORRUPT))
}
