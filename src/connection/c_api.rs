//! What larder must ask of SQLite, and of the system, and what rusqlite and the standard library have no safe form of. This
//! is the one file of the crate with `unsafe` in it.

#![allow(unsafe_code)]

use std::borrow::Cow;
use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr::{self, NonNull};
use std::sync::{Arc, Once};

use rusqlite::hooks::{AuthContext, Authorization};
use rusqlite::{Connection, ffi};

use super::change_counters::ChangeCounters;
use crate::runtime::fork;
use crate::telemetry::stats::PageCacheStats;

/// Has each fork of this process counted, in the child (`runtime/fork.rs`).
pub(crate) fn count_forks() {
    type Handler = Option<extern "C" fn()>;
    // SAFETY: the declaration is POSIX's: three handlers without arguments, each of which may be null; 0 or an error number.
    unsafe extern "C" {
        fn pthread_atfork(before: Handler, in_parent: Handler, in_child: Handler) -> c_int;
    }
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        // SAFETY: the handler is a function of this crate that adds to an atomic, which a child of a process with several
        // threads may do. It stays where it is for as long as the process. Without memory for it forks are not counted.
        let _ = unsafe { pthread_atfork(None, None, Some(fork::count)) };
    });
}

/// Whether a foreign key constraint is violated that would be judged at COMMIT.
///
/// It "returns zero for the current value if and only if all foreign key constraints (deferred or immediate) have been
/// resolved", <https://sqlite.org/c3ref/c_dbstatus_options.html>.
pub(crate) fn deferred_violation(conn: &Connection) -> bool {
    db_status(conn, ffi::SQLITE_DBSTATUS_DEFERRED_FKS, false).is_some_and(|now| now != 0)
}

/// Whether that error is the last that the connection gave: the same code and the same message. Any statement that goes
/// well after it makes the connection forget it.
pub(crate) fn gave_last(conn: &Connection, error: &rusqlite::Error) -> bool {
    let (code, message) = match error {
        rusqlite::Error::SqliteFailure(code, Some(message)) => (code, message),
        rusqlite::Error::SqlInputError { error, msg, .. } => (error, msg),
        _ => return false,
    };
    // SAFETY: `handle` is an open connection for as long as `conn` is borrowed, and it is used on this thread only.
    // The message is a C string that stays until the next call on the connection, which comes after its use.
    unsafe {
        let db = conn.handle();
        ffi::sqlite3_extended_errcode(db) == code.extended_code
            && CStr::from_ptr(ffi::sqlite3_errmsg(db)).to_string_lossy() == message.as_str()
    }
}

/// What the connection's page cache has done since this was last asked, and the memory that the connection takes.
pub(crate) fn take_cache(conn: &Connection) -> PageCacheStats {
    let number = |now: Option<c_int>| now.and_then(|now| u64::try_from(now).ok()).unwrap_or_default();
    let take = |what| number(db_status(conn, what, true));
    let held = |what| number(db_status(conn, what, false));
    PageCacheStats {
        hits: take(ffi::SQLITE_DBSTATUS_CACHE_HIT),
        misses: take(ffi::SQLITE_DBSTATUS_CACHE_MISS),
        written: take(ffi::SQLITE_DBSTATUS_CACHE_WRITE),
        spills: take(ffi::SQLITE_DBSTATUS_CACHE_SPILL),
        memory_bytes: held(ffi::SQLITE_DBSTATUS_CACHE_USED)
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

/// Which statements [`reset_leaked`] resets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Leaked {
    /// Those that somebody prepared, and handles of blobs that were opened for writing. Full-text and R-tree tables keep
    /// handles that only read, for as long as a transaction is open.
    Ours,
    /// Handles of blobs that only read, too. Only where no transaction is open, or the connection is not used again.
    All,
}

/// Resets every statement that was left in the middle of its rows, and says how many there were. Their cursors
/// close, so they no longer hold a snapshot open or keep a COMMIT from being made.
///
/// A `Statement`, a `Rows`, a `Row` and a `Blob` borrow the connection, so whoever has it as `&mut` has shown the compiler
/// that none is left in use: what is still in the middle of its rows was forgotten (`std::mem::forget`, a
/// leaked box) and nobody can reach it, or it is back in the statement cache, where a reset is what it needs.
pub(crate) fn reset_leaked(conn: &mut Connection, which: Leaked) -> usize {
    let mut reset = 0;
    // SAFETY: the pointers come from SQLite's own list of this connection's statements. `&mut` shows that no
    // `Row` is in use whose memory a reset could free (see above). One without text is the inside of a handle of a blob,
    // which a module's table seeks anew before it reads by it. Resetting one statement may finalize others, so the walk
    // begins again after each.
    unsafe {
        let db = conn.handle();
        let mut statement = ffi::sqlite3_next_stmt(db, ptr::null_mut());
        while !statement.is_null() {
            let is_ours = !ffi::sqlite3_sql(statement).is_null() || ffi::sqlite3_stmt_readonly(statement) == 0;
            if ffi::sqlite3_stmt_busy(statement) != 0 && (is_ours || which == Leaked::All) {
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

/// A limit of the connection, <https://sqlite.org/c3ref/limit.html>; it is changed to `value` unless that is negative. -1
/// for one that this SQLite does not know.
pub(crate) fn limit(conn: &Connection, limit: c_int, value: c_int) -> c_int {
    // SAFETY: `handle` is an open connection for as long as `conn` is borrowed, and it is used on this thread only.
    unsafe { ffi::sqlite3_limit(conn.handle(), limit, value) }
}

/// A setting of the connection that is a number, <https://sqlite.org/c3ref/c_dbconfig_enable_fkey.html>; it is changed to
/// `value` unless that is negative. `None` for one that this SQLite does not know.
pub(crate) fn config(conn: &Connection, config: c_int, value: c_int) -> Option<c_int> {
    let mut now: c_int = 0;
    // SAFETY: `handle` is an open connection for as long as `conn` is borrowed, and it is used on this thread only. The
    // settings that [`Baseline`](crate::connection) asks for take an integer, and a pointer to one that SQLite writes
    // before it returns; one that SQLite does not know it refuses without a look at the arguments.
    let code = unsafe { ffi::sqlite3_db_config(conn.handle(), config, value, &mut now as *mut c_int) };
    (code == ffi::SQLITE_OK).then_some(now)
}

/// Takes away a trace, and a profile.
pub(crate) fn remove_trace(conn: &Connection) {
    // SAFETY: `handle` is an open connection for as long as `conn` is borrowed, and it is used on this thread only.
    unsafe { ffi::sqlite3_trace_v2(conn.handle(), 0, None, ptr::null_mut()) };
}

/// Takes away who is asked for a collation that is missing.
pub(crate) fn remove_collation_needed(conn: &Connection) {
    // SAFETY: as above.
    unsafe { ffi::sqlite3_collation_needed(conn.handle(), ptr::null_mut(), None) };
}

thread_local! {
    static TRACED: Cell<bool> = const { Cell::new(false) };
}

unsafe extern "C" fn note_trace(_: c_uint, _: *mut c_void, _: *mut c_void, _: *mut c_void) -> c_int {
    TRACED.set(true);
    0
}

/// Traces statements of the connection, to see by [`trace_was_replaced`] whether somebody else sets a trace.
pub(crate) fn trace_for_others(conn: &Connection) {
    // SAFETY: `handle` is an open connection for as long as `conn` is borrowed, and it is used on this thread only. The
    // function uses none of its pointers.
    unsafe {
        let events = ffi::SQLITE_TRACE_STMT as c_uint;
        ffi::sqlite3_trace_v2(conn.handle(), events, Some(note_trace), ptr::null_mut());
    }
}

/// Whether somebody else has set a trace since [`trace_for_others`]. SQLite does not tell; but then a statement is not traced by that.
pub(crate) fn trace_was_replaced(conn: &Connection) -> rusqlite::Result<bool> {
    TRACED.set(false);
    conn.query_row("SELECT 1", [], |_| Ok(()))?;
    Ok(!TRACED.get())
}

/// A statement that shows whether SQLite has made all statements of the connection be prepared anew. Dropped before the
/// connection is closed, which SQLite refuses as long as there are statements.
pub(crate) struct Sentinel(NonNull<ffi::sqlite3_stmt>);

// SAFETY: the pointer is used with the connection alone, by whichever thread has that. SQLite's connections without a
// mutex may go from thread to thread (`SQLITE_THREADSAFE` 1 or 2).
unsafe impl Send for Sentinel {}

impl Sentinel {
    pub(crate) fn prepare(conn: &Connection) -> rusqlite::Result<Self> {
        let mut statement = ptr::null_mut();
        // SAFETY: `handle` is an open connection for as long as `conn` is borrowed, and it is used on this thread only. The
        // text is a C string, and `statement` lives until SQLite has written it.
        let code = unsafe {
            let sql = c"SELECT 1/*larder*/".as_ptr();
            let flags = ffi::SQLITE_PREPARE_PERSISTENT as c_uint;
            ffi::sqlite3_prepare_v3(conn.handle(), sql, -1, flags, &mut statement, ptr::null_mut())
        };
        match (code, NonNull::new(statement)) {
            (ffi::SQLITE_OK, Some(statement)) => Ok(Self(statement)),
            _ => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)),
        }
    }

    /// Whether that has happened since this was last asked.
    pub(crate) fn was_expired(&self) -> rusqlite::Result<bool> {
        let statement = self.0.as_ptr();
        // SAFETY: it is finalized in the drop alone, and the connection outlives it (see above).
        let (stepped, reset, prepared) = unsafe {
            (
                ffi::sqlite3_step(statement),
                ffi::sqlite3_reset(statement),
                ffi::sqlite3_stmt_status(statement, ffi::SQLITE_STMTSTATUS_REPREPARE, 1),
            )
        };
        match (stepped, reset) {
            (ffi::SQLITE_ROW, ffi::SQLITE_OK) => Ok(prepared > 0),
            (_, code) => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)),
        }
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        // SAFETY: the connection is still open (see above), and nobody has the pointer any more.
        unsafe { ffi::sqlite3_finalize(self.0.as_ptr()) };
    }
}

/// Sets what `last_insert_rowid` says.
pub(crate) fn set_last_insert_rowid(conn: &Connection, rowid: i64) {
    // SAFETY: `handle` is an open connection for as long as `conn` is borrowed, and it is used on this thread only.
    unsafe { ffi::sqlite3_set_last_insert_rowid(conn.handle(), rowid) }
}

/// Defines the SQL functions `last_insert_rowid`, `changes` and `total_changes` of the connection anew, to say what those
/// counters say. They may be used wherever SQLite's own may, so also in triggers and views.
pub(crate) fn define_change_functions(conn: &Connection, counters: &Arc<ChangeCounters>) -> rusqlite::Result<()> {
    type Function = unsafe extern "C" fn(*mut ffi::sqlite3_context, c_int, *mut *mut ffi::sqlite3_value);
    let functions: [(&CStr, Function); 3] = [
        (c"last_insert_rowid", tell_last_insert_rowid),
        (c"changes", tell_changes),
        (c"total_changes", tell_total_changes),
    ];
    for (name, function) in functions {
        let kept = Arc::into_raw(Arc::clone(counters)).cast_mut().cast::<c_void>();
        // SAFETY: `handle` is an open connection for as long as `conn` is borrowed, and `name` is a C string. `kept` is one
        // count of the `Arc`, which SQLite gives to `release` once: when the function is replaced, when the connection
        // closes, or when this call fails.
        let code = unsafe {
            ffi::sqlite3_create_function_v2(
                conn.handle(),
                name.as_ptr(),
                0,
                ffi::SQLITE_UTF8 | ffi::SQLITE_INNOCUOUS,
                kept,
                Some(function),
                None,
                None,
                Some(release),
            )
        };
        if code != ffi::SQLITE_OK {
            return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None));
        }
    }
    Ok(())
}

/// # Safety
///
/// `kept` is a count of an `Arc<ChangeCounters>` that nobody else gives back.
unsafe extern "C" fn release(kept: *mut c_void) {
    // SAFETY: as the caller promises.
    drop(unsafe { Arc::from_raw(kept.cast_const().cast::<ChangeCounters>()) });
}

/// # Safety
///
/// `context` is that of a call of a function of [`define_change_functions`].
unsafe fn tell(context: *mut ffi::sqlite3_context, value: impl FnOnce(&ChangeCounters, *mut ffi::sqlite3) -> i64) {
    // SAFETY: SQLite calls it with a valid context, whose user data is the `Arc` that it keeps until `release`, and whose
    // connection is open and used by this thread.
    unsafe {
        let counters = ffi::sqlite3_user_data(context).cast_const().cast::<ChangeCounters>();
        let value = value(&*counters, ffi::sqlite3_context_db_handle(context));
        ffi::sqlite3_result_int64(context, value);
    }
}

unsafe extern "C" fn tell_last_insert_rowid(
    context: *mut ffi::sqlite3_context,
    _: c_int,
    _: *mut *mut ffi::sqlite3_value,
) {
    // SAFETY: SQLite calls it, with its context and the context's connection.
    unsafe {
        tell(context, |counters, db| {
            counters.rowid(ffi::sqlite3_last_insert_rowid(db))
        })
    }
}

unsafe extern "C" fn tell_changes(context: *mut ffi::sqlite3_context, _: c_int, _: *mut *mut ffi::sqlite3_value) {
    // SAFETY: as above.
    unsafe {
        tell(context, |counters, db| {
            counters.changes(ffi::sqlite3_changes64(db), ffi::sqlite3_total_changes64(db))
        })
    }
}

unsafe extern "C" fn tell_total_changes(context: *mut ffi::sqlite3_context, _: c_int, _: *mut *mut ffi::sqlite3_value) {
    // SAFETY: as above.
    unsafe { tell(context, |counters, db| counters.total(ffi::sqlite3_total_changes64(db))) }
}

/// What a statement is about to do, as SQLite tells an authorizer: <https://sqlite.org/c3ref/set_authorizer.html>. Names
/// stand in the schema as they were written, and need not be UTF-8: what is not comes as U+FFFD.
pub(crate) struct Action<'a> {
    /// `SQLITE_READ` and the like, <https://sqlite.org/c3ref/c_alter_table.html>, which says what the next two are.
    pub(crate) code: c_int,
    pub(crate) first: Option<Cow<'a, str>>,
    pub(crate) second: Option<Cow<'a, str>>,
    /// `main`, `temp`, ..
    pub(crate) database: Option<Cow<'a, str>>,
    /// The trigger or view that it is inside of, if it is not the statement itself.
    pub(crate) accessor: Option<Cow<'a, str>>,
}

/// What is said to that.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(i32)]
pub(crate) enum Permission {
    Allow = ffi::SQLITE_OK,
    Deny = ffi::SQLITE_DENY,
}

/// Who is asked about each statement as it is prepared.
pub(crate) trait Authorizer: Send + Sync + 'static {
    fn authorize(&self, action: &Action<'_>) -> Permission;
}

/// Has SQLite ask that authorizer about what is prepared on the connection from now on.
///
/// rusqlite's own authorizer panics at a name that is not UTF-8. It catches that, but the statement fails, so that a table
/// with such a column could not be read; and a program that aborts where it panics would end.
///
/// `token` is kept for as long as the authorizer is asked.
pub(crate) fn authorize<J: Authorizer>(conn: &Connection, authorizer: &Arc<J>, token: Arc<()>) -> rusqlite::Result<()> {
    let kept = (Arc::clone(authorizer), token);
    // SQLite asks `ask` instead. It is there since rusqlite keeps it, and so the authorizer.
    conn.authorizer(Some(move |_: AuthContext<'_>| {
        let _kept = &kept;
        Authorization::Deny
    }))?;
    let authorizer = Arc::as_ptr(authorizer).cast_mut().cast::<c_void>();
    // SAFETY: `handle` is an open connection for as long as `conn` is borrowed. SQLite has the pointer to the
    // authorizer until another authorizer is set, or none. Only rusqlite does that, when it is told to and as it closes
    // the connection, and it tells SQLite before it drops the closure that keeps the authorizer.
    let code = unsafe { ffi::sqlite3_set_authorizer(conn.handle(), Some(ask::<J>), authorizer) };
    match code {
        ffi::SQLITE_OK => Ok(()),
        code => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)),
    }
}

/// # Safety
///
/// `authorizer` points to a living `J`, and each of the others to a C string or nowhere.
unsafe extern "C" fn ask<J: Authorizer>(
    authorizer: *mut c_void,
    code: c_int,
    first: *const c_char,
    second: *const c_char,
    database: *const c_char,
    accessor: *const c_char,
) -> c_int {
    // SAFETY: as the caller promises; SQLite leaves the strings alone until it has its answer.
    let (authorizer, text) = unsafe {
        let text = |text: *const c_char| (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy());
        (&*authorizer.cast::<J>(), [first, second, database, accessor].map(text))
    };
    let [first, second, database, accessor] = text;
    let action = Action {
        code,
        first,
        second,
        database,
        accessor,
    };
    authorizer.authorize(&action) as c_int
}

/// Who is told of the statements that run on a connection.
pub(crate) trait Trace: Send + Sync + 'static {
    /// Whether the statement is to be interrupted. Must not panic.
    fn stops_here(&self) -> bool;
}

/// What of a statement is told.
#[derive(Clone, Copy)]
pub(crate) enum Events {
    /// That it begins.
    Statements = ffi::SQLITE_TRACE_STMT as isize,
    /// Also each row that it gives.
    AndRows = (ffi::SQLITE_TRACE_STMT | ffi::SQLITE_TRACE_ROW) as isize,
}

/// Has SQLite tell of the statements that run on the connection, until this is dropped. It takes the place of any other
/// trace callback.
pub(crate) fn trace<'c, T: Trace>(conn: &'c Connection, told: &Arc<T>, events: Events) -> Traced<'c, T> {
    let told = Arc::clone(told);
    let pointer = Arc::as_ptr(&told).cast_mut().cast::<c_void>();
    // SAFETY: `handle` is an open connection for as long as `conn` is borrowed. SQLite has the pointer until the callback is
    // taken away: by another one, or by the drop of the guard, which keeps what it points to until after that.
    unsafe { ffi::sqlite3_trace_v2(conn.handle(), events as c_uint, Some(traced::<T>), pointer) };
    Traced { conn, _told: told }
}

/// A connection whose statements are told of.
pub(crate) struct Traced<'c, T: Trace> {
    conn: &'c Connection,
    _told: Arc<T>,
}

impl<T: Trace> Drop for Traced<'_, T> {
    fn drop(&mut self) {
        // SAFETY: `handle` is an open connection for as long as it is borrowed here.
        unsafe { ffi::sqlite3_trace_v2(self.conn.handle(), 0, None, ptr::null_mut()) };
    }
}

/// # Safety
///
/// `told` points to a living `T`, and `statement` to the statement that runs: so it is for both of [`Events`].
unsafe extern "C" fn traced<T: Trace>(
    _event: c_uint,
    told: *mut c_void,
    statement: *mut c_void,
    _text: *mut c_void,
) -> c_int {
    // SAFETY: as the caller promises. An interrupt "is safe .. from a thread different from the thread that is currently
    // running the database operation" and only raises a flag, which the statement looks at after this.
    unsafe {
        if (*told.cast::<T>()).stops_here() {
            ffi::sqlite3_interrupt(ffi::sqlite3_db_handle(statement.cast()));
        }
    }
    0
}
