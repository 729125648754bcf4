//! The three things that larder must ask of SQLite and rusqlite has no safe form of. This is the one file of the
//! crate with `unsafe` in it.

#![allow(unsafe_code)]

use std::ffi::c_int;
use std::ptr;

use rusqlite::{Connection, ffi};

use crate::stats::CacheStats;

/// Whether a foreign key constraint is violated that would be judged at COMMIT.
///
/// It "returns zero for the current value if and only if all foreign key constraints (deferred or immediate) have been
/// resolved", <https://sqlite.org/c3ref/c_dbstatus_options.html>.
pub(crate) fn deferred_violation(conn: &Connection) -> bool {
    db_status(conn, ffi::SQLITE_DBSTATUS_DEFERRED_FKS, false).is_some_and(|now| now != 0)
}

/// What the connection's page cache has done since this was last asked, and the memory that the connection takes.
pub(crate) fn take_cache(conn: &Connection) -> CacheStats {
    let number = |now: Option<c_int>| now.and_then(|now| u64::try_from(now).ok()).unwrap_or_default();
    let take = |what| number(db_status(conn, what, true));
    let held = |what| number(db_status(conn, what, false));
    CacheStats {
        hits: take(ffi::SQLITE_DBSTATUS_CACHE_HIT),
        misses: take(ffi::SQLITE_DBSTATUS_CACHE_MISS),
        written: take(ffi::SQLITE_DBSTATUS_CACHE_WRITE),
        spills: take(ffi::SQLITE_DBSTATUS_CACHE_SPILL),
        memory: held(ffi::SQLITE_DBSTATUS_CACHE_USED)
            + held(ffi::SQLITE_DBSTATUS_SCHEMA_USED)
            + held(ffi::SQLITE_DBSTATUS_STMT_USED),
    }
}

/// One number about a connection, which starts anew from zero if it is `taken` and of those that can.
fn db_status(conn: &Connection, what: c_int, taken: bool) -> Option<c_int> {
    let (mut now, mut highest): (c_int, c_int) = (0, 0);
    // SAFETY: `handle` is an open connection for as long as `conn` is borrowed, and it is used on this thread
    // only; both pointers are to live integers that SQLite writes before it returns.
    let code = unsafe { ffi::sqlite3_db_status(conn.handle(), what, &mut now, &mut highest, c_int::from(taken)) };
    (code == ffi::SQLITE_OK).then_some(now)
}

/// Resets every statement that was left in the middle of its rows, and says how many there were. Their cursors
/// close, so they no longer hold a snapshot open or keep a COMMIT from being made.
///
/// A `Statement`, a `Rows` and a `Row` borrow the connection, so whoever has it as `&mut` has shown the compiler
/// that none is left in use: what is still in the middle of its rows was forgotten (`std::mem::forget`, a
/// leaked box) and nobody can reach it, or it is back in the statement cache, where a reset is what it needs.
pub(crate) fn reset_leaked(conn: &mut Connection) -> usize {
    let mut reset = 0;
    // SAFETY: the pointers come from SQLite's own list of this connection's statements. `&mut` shows that no
    // `Row` is in use whose memory a reset could free (see above). One without text is not a statement that
    // somebody prepared but the inside of an incremental-blob handle, as full-text tables keep; it is let be.
    // Resetting one statement may finalize others, so the walk begins again after each.
    unsafe {
        let db = conn.handle();
        let mut statement = ffi::sqlite3_next_stmt(db, ptr::null_mut());
        while !statement.is_null() {
            if ffi::sqlite3_stmt_busy(statement) != 0 && !ffi::sqlite3_sql(statement).is_null() {
                ffi::sqlite3_reset(statement);
                reset += 1;
                statement = ffi::sqlite3_next_stmt(db, ptr::null_mut());
            } else {
                statement = ffi::sqlite3_next_stmt(db, statement);
            }
        }
    }
    reset
}
