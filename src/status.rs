//! The three things that larder must ask of SQLite and rusqlite has no safe form of. This is the one file
//! of the crate with `unsafe` in it.
//!
//! Two of them take the connection by `&mut` or by value. A `Statement`, a `Rows` and a `Row` all borrow the
//! connection, so whoever can call these functions has shown the compiler that none is left in use: what
//! SQLite still lists is unreachable, because safe code forgot it (`std::mem::forget`, a leaked box).

#![allow(unsafe_code)]

use std::ffi::c_int;
use std::ptr;

use rusqlite::{Connection, ffi};

/// Whether a foreign key constraint is violated that would be judged at COMMIT.
///
/// "Zero for the current value if and only if all foreign key constraints (deferred or immediate) have been
/// resolved", <https://sqlite.org/c3ref/c_dbstatus_options.html>.
pub(crate) fn deferred_violation(conn: &Connection) -> bool {
    let (mut now, mut highest): (c_int, c_int) = (0, 0);
    // SAFETY: `handle` is an open connection for as long as `conn` is borrowed, and it is used on this thread
    // only; both pointers are to live integers that SQLite writes before it returns.
    let code = unsafe {
        ffi::sqlite3_db_status(
            conn.handle(),
            ffi::SQLITE_DBSTATUS_DEFERRED_FKS,
            &mut now,
            &mut highest,
            0,
        )
    };
    code == ffi::SQLITE_OK && now != 0
}

/// Resets every statement that was left in the middle of its rows, and says how many there were. Their cursors
/// close, so they no longer hold a snapshot open or keep a COMMIT from being made.
pub(crate) fn reset_leaked(conn: &mut Connection) -> usize {
    let mut reset = 0;
    // SAFETY: the pointers come from SQLite's own list of this connection's statements. `&mut` shows that no
    // `Row` is in use whose memory a reset could free (see above). Resetting one statement may finalize others,
    // those that a virtual table keeps, so the walk begins again after each.
    unsafe {
        let db = conn.handle();
        let mut statement = ffi::sqlite3_next_stmt(db, ptr::null_mut());
        while !statement.is_null() {
            if ffi::sqlite3_stmt_busy(statement) == 0 {
                statement = ffi::sqlite3_next_stmt(db, statement);
            } else {
                ffi::sqlite3_reset(statement);
                reset += 1;
                statement = ffi::sqlite3_next_stmt(db, ptr::null_mut());
            }
        }
    }
    reset
}

/// Closes the connection for good. SQLite refuses to close one that still has statements, and would leave its
/// locks and its file descriptors behind, so what was forgotten is finalized first.
pub(crate) fn close(conn: Connection) -> rusqlite::Result<()> {
    let Err((conn, _)) = conn.close() else {
        return Ok(());
    };
    // SAFETY: the connection is owned here and its statement cache was emptied by `close`, so nothing reachable
    // refers to the statements that are left; `close` has disconnected the virtual tables, which finalized
    // theirs. Each is finalized once, since it leaves SQLite's list.
    unsafe {
        let db = conn.handle();
        loop {
            let statement = ffi::sqlite3_next_stmt(db, ptr::null_mut());
            if statement.is_null() {
                break;
            }
            ffi::sqlite3_finalize(statement);
        }
    }
    conn.close().map_err(|(_, error)| error)
}
