//! Calls of SQLite and of the system for which rusqlite and the standard library have no safe form. This is the only
//! file of the crate with `unsafe` code.

#![allow(unsafe_code)]

use std::borrow::Cow;
use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering::AcqRel, Ordering::Acquire};
use std::time::Instant;

use rusqlite::hooks::{AuthContext, Authorization};
use rusqlite::{Connection, ffi};

use super::change_counters::ChangeCounters;
use crate::runtime::process_mutex::try_until;
use crate::telemetry::stats::PageCacheStats;

/// Registers functions that each fork of this process calls on its thread: before it, and after it in both processes.
/// SQLite is initialized first, as no function could hold back another thread that does that.
pub(super) fn at_fork(before: extern "C" fn(), in_parent: extern "C" fn(), in_child: extern "C" fn()) {
    type Handler = Option<extern "C" fn()>;
    // SAFETY: the declaration is POSIX's: three handlers without arguments, each of which may be null; 0 or an error
    // number.
    unsafe extern "C" {
        fn pthread_atfork(before: Handler, in_parent: Handler, in_child: Handler) -> c_int;
    }
    // SAFETY: any thread may initialize SQLite at any time, and the opening that follows reports a failure. The handlers
    // are safe functions of this crate, and stay in place as long as the process. If there is no memory to register
    // them, forks are not seen.
    unsafe {
        ffi::sqlite3_initialize();
        let _ = pthread_atfork(Some(before), Some(in_parent), Some(in_child));
    }
}

/// SQLite's static mutexes (<https://sqlite.org/c3ref/c_mutex_fast.html>), in the order in which it takes them: each may
/// be taken under those before it. `APP1` to `APP3`, `VFS2` and `VFS3` are left out: they belong to other code, which may
/// fork while it has one.
const STATIC_MUTEXES: [c_int; 7] = [
    ffi::SQLITE_MUTEX_STATIC_OPEN, // a shared cache is opened
    ffi::SQLITE_MUTEX_STATIC_VFS1, // the unix VFS's open files, and names for temporary ones
    ffi::SQLITE_MUTEX_STATIC_PRNG, // looks for the VFS
    ffi::SQLITE_MUTEX_STATIC_MAIN, // the lists of VFSs and of shared caches
    ffi::SQLITE_MUTEX_STATIC_LRU,  // the page caches, which free pages
    ffi::SQLITE_MUTEX_STATIC_PMEM, // memory for pages
    ffi::SQLITE_MUTEX_STATIC_MEM,  // memory
];

/// SQLite's static mutexes that the thread has. It must not call SQLite meanwhile.
pub(super) struct StaticMutexes {
    /// Null for one that another thread did not release in time.
    taken: [*mut ffi::sqlite3_mutex; STATIC_MUTEXES.len()],
    pub(super) is_complete: bool,
}

impl StaticMutexes {
    /// Takes them, and leaves out what another thread does not release until then.
    pub(super) fn hold(until: Instant) -> Self {
        let mut held = Self {
            taken: [ptr::null_mut(); STATIC_MUTEXES.len()],
            is_complete: true,
        };
        for (mutex, id) in held.taken.iter_mut().zip(STATIC_MUTEXES) {
            // SAFETY: a static mutex lives as long as the process. The call allocates nothing for one, and gives null
            // for one that this SQLite does not have, or if it was built without mutexes.
            let found = unsafe { ffi::sqlite3_mutex_alloc(id) };
            // SAFETY: as above; a null pointer is no mutex, and cannot be busy. `try_until` calls this on this thread.
            let try_it = || (unsafe { ffi::sqlite3_mutex_try(found) } == ffi::SQLITE_OK).then_some(found);
            match try_until(until, try_it) {
                Some(taken) => *mutex = taken,
                None => held.is_complete = false,
            }
        }
        held
    }
}

impl Drop for StaticMutexes {
    fn drop(&mut self) {
        for mutex in self.taken.iter().rev() {
            // SAFETY: `hold` has taken it on this thread, since the pointer keeps this value from other threads; in a
            // forked child this thread is the copy of that one. A null pointer is no mutex.
            unsafe { ffi::sqlite3_mutex_leave(*mutex) };
        }
    }
}

/// Whether a foreign key constraint is violated that SQLite would check at COMMIT.
///
/// The counter "returns zero for the current value if and only if all foreign key constraints (deferred or immediate)
/// have been resolved", <https://sqlite.org/c3ref/c_dbstatus_options.html>.
pub(crate) fn deferred_violation(conn: &Connection) -> bool {
    db_status(conn, ffi::SQLITE_DBSTATUS_DEFERRED_FKS, false).is_some_and(|now| now != 0)
}

/// Whether `error` is the connection's most recent error: the same code and the same message. Any later statement that
/// succeeds clears the connection's error.
pub(crate) fn gave_last(conn: &Connection, error: &rusqlite::Error) -> bool {
    let (code, message) = match error {
        rusqlite::Error::SqliteFailure(code, Some(message)) => (code, message),
        rusqlite::Error::SqlInputError { error, msg, .. } => (error, msg),
        _ => return false,
    };
    // SAFETY: `handle` is an open connection for as long as `conn` is borrowed, and it is used on this thread only. The
    // message is a C string that stays valid until the next call on the connection, which comes after its use.
    unsafe {
        let db = conn.handle();
        ffi::sqlite3_extended_errcode(db) == code.extended_code
            && CStr::from_ptr(ffi::sqlite3_errmsg(db)).to_string_lossy() == message.as_str()
    }
}

/// The error number of the operating system behind the connection's most recent I/O error, or behind a file that it
/// could not open.
pub(crate) fn system_errno(conn: &Connection) -> c_int {
    // SAFETY: `handle` is an open connection for as long as `conn` is borrowed, and it is used on this thread only.
    unsafe { ffi::sqlite3_system_errno(conn.handle()) }
}

/// Returns the activity of the connection's page cache since the last call, and the connection's memory use.
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

/// One counter of a connection. If `taken`, counters that support it restart from zero.
fn db_status(conn: &Connection, what: c_int, taken: bool) -> Option<c_int> {
    let (mut now, mut highest): (c_int, c_int) = (0, 0);
    // SAFETY: `handle` is an open connection for as long as `conn` is borrowed, and it is used on this thread
    // only; both pointers are to live integers that SQLite writes before it returns.
    let code = unsafe { ffi::sqlite3_db_status(conn.handle(), what, &mut now, &mut highest, c_int::from(taken)) };
    (code == ffi::SQLITE_OK).then_some(now)
}

/// The statements that [`reset_leaked`] resets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Leaked {
    /// Statements that user code prepared, and blob handles opened for writing. Full-text and R-tree tables keep
    /// read-only handles for as long as a transaction is open.
    Ours,
    /// Also read-only blob handles. Only where no transaction is open, or the connection is not used again.
    All,
}

/// Resets every statement that was stepped but not run to its end, and returns their number. Their cursors close, so
/// they no longer hold a snapshot open or block a COMMIT.
///
/// A `Statement`, a `Rows`, a `Row` and a `Blob` borrow the connection, so `&mut Connection` proves that none is in
/// use. A statement that is still not at its end was leaked (`std::mem::forget`, a leaked box) and is unreachable, or
/// it is back in the statement cache, where a reset is what it needs.
pub(crate) fn reset_leaked(conn: &mut Connection, which: Leaked) -> usize {
    let mut reset = 0;
    // SAFETY: the pointers come from SQLite's own list of this connection's statements. `&mut` proves that no `Row` is
    // in use whose memory a reset could free (see above). A statement without text is the inside of a blob handle,
    // which a module's table seeks again before it reads through it. Resetting one statement may finalize others, so
    // the walk restarts after each.
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

/// Returns a limit of the connection, <https://sqlite.org/c3ref/limit.html>, and sets it to `value` unless that is
/// negative. -1 for a limit that this SQLite does not know.
pub(crate) fn limit(conn: &Connection, limit: c_int, value: c_int) -> c_int {
    // SAFETY: `handle` is an open connection for as long as `conn` is borrowed, and it is used on this thread only.
    unsafe { ffi::sqlite3_limit(conn.handle(), limit, value) }
}

/// Returns a numeric setting of the connection, <https://sqlite.org/c3ref/c_dbconfig_enable_fkey.html>, after setting
/// it to `value` unless that is negative. `None` for a setting that this SQLite does not know.
pub(crate) fn config(conn: &Connection, config: c_int, value: c_int) -> Option<c_int> {
    let mut now: c_int = 0;
    // SAFETY: `handle` is an open connection for as long as `conn` is borrowed, and it is used on this thread only. The
    // settings that [`Baseline`](crate::connection) reads take an integer, and a pointer to one that SQLite writes
    // before it returns; SQLite refuses a setting that it does not know without reading the arguments.
    let code = unsafe { ffi::sqlite3_db_config(conn.handle(), config, value, &mut now as *mut c_int) };
    (code == ffi::SQLITE_OK).then_some(now)
}

/// Removes a trace, or a profile.
pub(crate) fn remove_trace(conn: &Connection) {
    // SAFETY: `handle` is an open connection for as long as `conn` is borrowed, and it is used on this thread only.
    unsafe { ffi::sqlite3_trace_v2(conn.handle(), 0, None, ptr::null_mut()) };
}

/// Removes the callback for missing collations.
pub(crate) fn remove_collation_needed(conn: &Connection) {
    // SAFETY: as above.
    unsafe { ffi::sqlite3_collation_needed(conn.handle(), ptr::null_mut(), None) };
}

/// Removes the hook that SQLite calls after a commit to the WAL. Whether it had data: rusqlite's has its function, and
/// that of `PRAGMA wal_autocheckpoint` a number of pages.
pub(crate) fn remove_wal_hook(conn: &Connection) -> bool {
    // SAFETY: as above. The pointer that it returns is only compared.
    unsafe { !ffi::sqlite3_wal_hook(conn.handle(), None, ptr::null_mut()).is_null() }
}

/// Whether a name is a keyword of SQL, and has to be quoted.
pub(crate) fn is_keyword(name: &str) -> bool {
    let length = c_int::try_from(name.len()).unwrap_or(c_int::MAX);
    // SAFETY: SQLite reads no more than `length` bytes of the text.
    unsafe { ffi::sqlite3_keyword_check(name.as_ptr().cast::<c_char>(), length) != 0 }
}

/// A connection, as a hook of its own sees it.
struct HookedConnection(*mut ffi::sqlite3);

// SAFETY: SQLite calls a hook on the thread that uses the connection, and on no other.
unsafe impl Send for HookedConnection {}

/// Installs a commit hook that rolls back what writes to `main`, while `refuses` says so. It lets writes to temporary and
/// attached databases pass. rusqlite keeps `token` while the hook is installed.
pub(crate) fn guard_main(
    conn: &Connection,
    refuses: impl Fn() -> bool + Send + 'static,
    token: Arc<()>,
) -> rusqlite::Result<()> {
    // SAFETY: only the hook below uses the handle, which SQLite calls while the connection is open.
    let hooked = HookedConnection(unsafe { conn.handle() });
    conn.commit_hook(Some(move || {
        let (hooked, _kept) = (&hooked, &token);
        // SAFETY: the connection is open and commits now, on this thread. The call only reads the state, which the
        // rules for hooks allow.
        let state = unsafe { ffi::sqlite3_txn_state(hooked.0, c"main".as_ptr()) };
        state == ffi::SQLITE_TXN_WRITE && refuses()
    }))
}

/// The number of bytes at the end of each page that SQLite does not use, `SQLITE_FCNTL_RESERVE_BYTES` in
/// <https://sqlite.org/c3ref/c_fcntl_begin_atomic_write.html>.
pub(crate) fn reserved_bytes(conn: &Connection) -> u64 {
    let mut bytes: c_int = -1;
    // SAFETY: as above. The call reads and writes one integer, whose value of -1 changes nothing.
    let code = unsafe {
        let bytes = (&mut bytes as *mut c_int).cast::<c_void>();
        ffi::sqlite3_file_control(conn.handle(), c"main".as_ptr(), ffi::SQLITE_FCNTL_RESERVE_BYTES, bytes)
    };
    if code == ffi::SQLITE_OK {
        u64::try_from(bytes).unwrap_or(0)
    } else {
        0
    }
}

/// Keeps the memory map of the connection's database over the commits of others, as long as it is the map that SQLite
/// would make.
///
/// A snapshot that sees a new commit asks the VFS to drop the map, because the file may have changed (`xUnfetch` without a
/// page, in `pagerBeginReadTransaction`). In Linux a shared map always shows what the file holds, but a size that has
/// changed would make it too small, or reach beyond the end of the file, where an access is a SIGBUS. So from now on the
/// map is dropped if a new one would have another size, and otherwise kept (docs/decisions.md).
///
/// It does nothing for another VFS than SQLite's own, and for one with methods that this code does not know.
pub(crate) fn keep_map(conn: &Connection) {
    if !cfg!(target_os = "linux") {
        return;
    }
    // SAFETY: `handle` is an open connection for as long as `conn` is borrowed, and it is used on this thread only. The
    // two controls write a pointer each. The name of a VFS is a C string, and a file whose methods are not null is open;
    // both stay until the connection closes. `original` is a constant of SQLite's. SQLite reads the field `pMethods` for
    // each call, and the new methods are a constant, too: they differ from the original ones in `xUnfetch`.
    unsafe {
        let mut vfs: *mut ffi::sqlite3_vfs = ptr::null_mut();
        let mut file: *mut ffi::sqlite3_file = ptr::null_mut();
        let control = |what, pointer: *mut c_void| {
            ffi::sqlite3_file_control(conn.handle(), c"main".as_ptr(), what, pointer) == ffi::SQLITE_OK
        };
        let found = control(ffi::SQLITE_FCNTL_VFS_POINTER, (&raw mut vfs).cast())
            && control(ffi::SQLITE_FCNTL_FILE_POINTER, (&raw mut file).cast());
        if !found || vfs.is_null() || file.is_null() || CStr::from_ptr((*vfs).zName) != c"unix" {
            return;
        }
        let original = (*file).pMethods;
        if original.is_null() {
            return;
        }
        if let Some(kept) = KeptMap::for_files(original).filter(|kept| ptr::eq(kept.original, original)) {
            (*file).pMethods = &kept.methods;
        }
    }
}

type FileSize = unsafe extern "C" fn(*mut ffi::sqlite3_file, *mut ffi::sqlite3_int64) -> c_int;
type FileControl = unsafe extern "C" fn(*mut ffi::sqlite3_file, c_int, *mut c_void) -> c_int;
type Fetch = unsafe extern "C" fn(*mut ffi::sqlite3_file, ffi::sqlite3_int64, c_int, *mut *mut c_void) -> c_int;
type Unfetch = unsafe extern "C" fn(*mut ffi::sqlite3_file, ffi::sqlite3_int64, *mut c_void) -> c_int;

/// The methods of SQLite's unix VFS for the files of [`keep_map`], with those that they call.
struct KeptMap {
    methods: ffi::sqlite3_io_methods,
    original: *const ffi::sqlite3_io_methods,
    size: FileSize,
    control: FileControl,
    fetch: Fetch,
    unfetch: Unfetch,
}

// SAFETY: nothing in it changes, and its pointers are to constants and functions of SQLite.
unsafe impl Send for KeptMap {}
// SAFETY: as above.
unsafe impl Sync for KeptMap {}

/// All database files have the same methods. Null before the first one. It is never freed.
static KEPT: AtomicPtr<KeptMap> = AtomicPtr::new(ptr::null_mut());

/// The bytes that SQLite wants mapped after a page, in case a damaged one is read beyond its end (`unixFetch`).
const BEYOND: i64 = 256;

impl KeptMap {
    /// The methods for all files, made for the first one. `None` if this code does not know those of that file.
    ///
    /// # Safety
    ///
    /// `original` points to the methods of an open file, which are a constant.
    unsafe fn for_files(original: *const ffi::sqlite3_io_methods) -> Option<&'static Self> {
        let known = KEPT.load(Acquire);
        if known.is_null() {
            // SAFETY: as the caller promises.
            let made = Box::into_raw(Box::new(unsafe { Self::of(original) }?));
            if KEPT.compare_exchange(ptr::null_mut(), made, AcqRel, Acquire).is_err() {
                // SAFETY: no other thread has seen the box.
                drop(unsafe { Box::from_raw(made) });
            }
        }
        // SAFETY: once it is not null it points to a box that is never freed nor changed.
        unsafe { KEPT.load(Acquire).as_ref() }
    }

    /// # Safety
    ///
    /// `original` points to the methods of an open file, which are a constant.
    unsafe fn of(original: *const ffi::sqlite3_io_methods) -> Option<Self> {
        // SAFETY: as the caller promises. Methods of version 3 are exactly those of the type: a later version has more,
        // and SQLite would look for them behind the copy.
        let methods = unsafe {
            if (*original).iVersion != 3 {
                return None;
            }
            *original
        };
        let (unfetch, fetch) = (methods.xUnfetch?, methods.xFetch?);
        Some(Self {
            methods: ffi::sqlite3_io_methods {
                xUnfetch: Some(unfetch_unless_kept),
                ..methods
            },
            original,
            size: methods.xFileSize?,
            control: methods.xFileControl?,
            fetch,
            unfetch,
        })
    }

    /// Whether the map of the file has the size that a new one would have. If there is none, it is made.
    ///
    /// # Safety
    ///
    /// `file` is an open file with these methods, used on this thread only, of which no page is fetched.
    unsafe fn fits(&self, file: *mut ffi::sqlite3_file) -> bool {
        let (mut size, mut limit) = (0, -1);
        // SAFETY: as the caller promises. Both calls write one integer. A limit of -1 only asks for the limit.
        let known = unsafe {
            (self.size)(file, &mut size) == ffi::SQLITE_OK
                && (self.control)(file, ffi::SQLITE_FCNTL_MMAP_SIZE, (&raw mut limit).cast()) == ffi::SQLITE_OK
        };
        let size = size.min(limit);
        // SAFETY: as the caller promises.
        known && size > BEYOND && unsafe { self.reaches(file, size) && !self.reaches(file, size + 1) }
    }

    /// Whether the map has at least `size` bytes, of which there are more than [`BEYOND`].
    ///
    /// # Safety
    ///
    /// As for [`fits`](Self::fits).
    unsafe fn reaches(&self, file: *mut ffi::sqlite3_file, size: i64) -> bool {
        let (offset, mut byte) = (size - BEYOND - 1, ptr::null_mut());
        // SAFETY: as the caller promises. A byte that is fetched is given back at once, and not read.
        unsafe {
            let fetched = (self.fetch)(file, offset, 1, &mut byte) == ffi::SQLITE_OK && !byte.is_null();
            fetched && (self.unfetch)(file, offset, byte) == ffi::SQLITE_OK
        }
    }
}

/// Gives back a page, or drops the map unless it fits.
///
/// # Safety
///
/// `file` has the methods of [`KEPT`], and the rest is as SQLite calls it.
unsafe extern "C" fn unfetch_unless_kept(
    file: *mut ffi::sqlite3_file,
    offset: ffi::sqlite3_int64,
    page: *mut c_void,
) -> c_int {
    // SAFETY: as the caller promises. Methods that call this are those of `KEPT`, which is never freed. SQLite has no
    // page fetched when it asks to drop the map.
    unsafe {
        let Some(kept) = KEPT.load(Acquire).as_ref() else {
            return ffi::SQLITE_OK;
        };
        if page.is_null() && kept.fits(file) {
            return ffi::SQLITE_OK;
        }
        (kept.unfetch)(file, offset, page)
    }
}

thread_local! {
    static TRACED: Cell<bool> = const { Cell::new(false) };
}

unsafe extern "C" fn note_trace(_: c_uint, _: *mut c_void, _: *mut c_void, _: *mut c_void) -> c_int {
    TRACED.set(true);
    0
}

/// Traces the connection's statements, so that [`trace_was_replaced`] can detect another trace.
pub(crate) fn trace_for_others(conn: &Connection) {
    // SAFETY: `handle` is an open connection for as long as `conn` is borrowed, and it is used on this thread only. The
    // function uses none of its pointers.
    unsafe {
        let events = ffi::SQLITE_TRACE_STMT as c_uint;
        ffi::sqlite3_trace_v2(conn.handle(), events, Some(note_trace), ptr::null_mut());
    }
}

/// Whether other code set a trace since [`trace_for_others`]. SQLite does not report it, but then a statement no longer
/// reaches larder's trace.
pub(crate) fn trace_was_replaced(conn: &Connection) -> rusqlite::Result<bool> {
    TRACED.set(false);
    conn.query_row("SELECT 1", [], |_| Ok(()))?;
    Ok(!TRACED.get())
}

/// A statement that is prepared once, kept beside its connection, and run again and again. It has no parameters.
/// Dropped before the connection closes, because SQLite refuses to close a connection with open statements.
pub(crate) struct KeptStatement(NonNull<ffi::sqlite3_stmt>);

// SAFETY: only the thread that has the connection uses the pointer. SQLite's connections without a mutex may move
// between threads (`SQLITE_THREADSAFE` 1 or 2).
unsafe impl Send for KeptStatement {}

impl KeptStatement {
    pub(crate) fn prepare(conn: &Connection, sql: &str) -> rusqlite::Result<Self> {
        let mut statement = ptr::null_mut();
        let length = c_int::try_from(sql.len()).unwrap_or(c_int::MAX);
        // SAFETY: `handle` is an open connection for as long as `conn` is borrowed, and it is used on this thread only.
        // SQLite reads no more than `length` bytes of the text, and `statement` lives until SQLite has written it.
        let code = unsafe {
            let flags = ffi::SQLITE_PREPARE_PERSISTENT as c_uint;
            let text = sql.as_ptr().cast::<c_char>();
            ffi::sqlite3_prepare_v3(conn.handle(), text, length, flags, &mut statement, ptr::null_mut())
        };
        match (code, NonNull::new(statement)) {
            (ffi::SQLITE_OK, Some(statement)) => Ok(Self(statement)),
            _ => Err(last_error(conn, code)),
        }
    }

    /// Runs it to its end, or to its first row.
    pub(crate) fn run(&self, conn: &Connection) -> rusqlite::Result<()> {
        let statement = self.0.as_ptr();
        // SAFETY: only the drop finalizes the statement, and its connection stays open until then (see above). That is
        // `conn`, so it is used on this thread only.
        let (stepped, reset) = unsafe {
            assert_eq!(
                ffi::sqlite3_db_handle(statement),
                conn.handle(),
                "the statement belongs to this connection"
            );
            (ffi::sqlite3_step(statement), ffi::sqlite3_reset(statement))
        };
        match stepped {
            ffi::SQLITE_DONE | ffi::SQLITE_ROW if reset == ffi::SQLITE_OK => Ok(()),
            ffi::SQLITE_DONE | ffi::SQLITE_ROW => Err(last_error(conn, reset)),
            code => Err(last_error(conn, code)),
        }
    }

    /// Returns and clears whether SQLite has re-prepared the statement, because all statements of the connection had
    /// expired when it was run.
    pub(crate) fn take_reprepared(&self) -> bool {
        // SAFETY: as above. It reads and clears a counter of the statement.
        unsafe { ffi::sqlite3_stmt_status(self.0.as_ptr(), ffi::SQLITE_STMTSTATUS_REPREPARE, 1) > 0 }
    }
}

impl Drop for KeptStatement {
    fn drop(&mut self) {
        // SAFETY: the connection is still open (see above), and there is no other copy of the pointer.
        unsafe { ffi::sqlite3_finalize(self.0.as_ptr()) };
    }
}

/// The error of that code that the connection has just returned.
#[cold]
fn last_error(conn: &Connection, code: c_int) -> rusqlite::Error {
    // SAFETY: `handle` is an open connection for as long as `conn` is borrowed, and it is used on this thread only. The
    // message is a C string that stays until the next call on the connection, which comes after its use.
    let message = unsafe {
        CStr::from_ptr(ffi::sqlite3_errmsg(conn.handle()))
            .to_string_lossy()
            .into_owned()
    };
    rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some(message))
}

/// Sets the value of `last_insert_rowid`.
pub(crate) fn set_last_insert_rowid(conn: &Connection, rowid: i64) {
    // SAFETY: `handle` is an open connection for as long as `conn` is borrowed, and it is used on this thread only.
    unsafe { ffi::sqlite3_set_last_insert_rowid(conn.handle(), rowid) }
}

/// Overrides the SQL functions `last_insert_rowid`, `changes` and `total_changes` of the connection with the values of
/// `counters`. SQL may use them wherever it may use SQLite's own, including triggers and views.
pub(crate) fn define_change_functions(conn: &Connection, counters: &Arc<ChangeCounters>) -> rusqlite::Result<()> {
    type Function = unsafe extern "C" fn(*mut ffi::sqlite3_context, c_int, *mut *mut ffi::sqlite3_value);
    let functions: [(&CStr, Function); 3] = [
        (c"last_insert_rowid", tell_last_insert_rowid),
        (c"changes", tell_changes),
        (c"total_changes", tell_total_changes),
    ];
    for (name, function) in functions {
        let kept = Arc::into_raw(Arc::clone(counters)).cast_mut().cast::<c_void>();
        // SAFETY: `handle` is an open connection for as long as `conn` is borrowed, and `name` is a C string. `kept` is
        // one count of the `Arc`, which SQLite passes to `release` once: when the function is replaced, when the
        // connection closes, or when this call fails.
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
        done(code)?;
    }
    Ok(())
}

/// Defines an SQL function that takes any number of arguments and returns NULL, for statements that are only prepared.
pub(crate) fn define_stub_function(conn: &Connection, name: &str) -> rusqlite::Result<()> {
    unsafe extern "C" fn nothing(_: *mut ffi::sqlite3_context, _: c_int, _: *mut *mut ffi::sqlite3_value) {}
    let name = CString::new(name)?;
    let flags = ffi::SQLITE_UTF8 | ffi::SQLITE_INNOCUOUS | ffi::SQLITE_DETERMINISTIC;
    // SAFETY: `handle` is an open connection for as long as `conn` is borrowed, and `name` is a C string, which SQLite
    // copies. The function uses none of its pointers.
    let code = unsafe {
        ffi::sqlite3_create_function_v2(
            conn.handle(),
            name.as_ptr(),
            -1,
            flags,
            ptr::null_mut(),
            Some(nothing),
            None,
            None,
            None,
        )
    };
    done(code)
}

/// Defines a collation for which all strings are equal, for statements that are only prepared.
pub(crate) fn define_stub_collation(conn: &Connection, name: &str) -> rusqlite::Result<()> {
    unsafe extern "C" fn equal(_: *mut c_void, _: c_int, _: *const c_void, _: c_int, _: *const c_void) -> c_int {
        0
    }
    let name = CString::new(name)?;
    // SAFETY: as above.
    let code = unsafe {
        ffi::sqlite3_create_collation_v2(
            conn.handle(),
            name.as_ptr(),
            ffi::SQLITE_UTF8,
            ptr::null_mut(),
            Some(equal),
            None,
        )
    };
    done(code)
}

fn done(code: c_int) -> rusqlite::Result<()> {
    match code {
        ffi::SQLITE_OK => Ok(()),
        code => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)),
    }
}

/// Whether SQLite was compiled with sessions, which record and apply changesets.
pub(crate) fn has_sessions() -> bool {
    // SAFETY: the argument is a C string, and the call only compares it with SQLite's own.
    unsafe { ffi::sqlite3_compileoption_used(c"ENABLE_SESSION".as_ptr()) != 0 }
}

/// # Safety
///
/// `kept` is a count of an `Arc<ChangeCounters>` that only this call gives back.
unsafe extern "C" fn release(kept: *mut c_void) {
    // SAFETY: as the caller promises.
    drop(unsafe { Arc::from_raw(kept.cast_const().cast::<ChangeCounters>()) });
}

/// # Safety
///
/// `context` belongs to a call of a function of [`define_change_functions`].
unsafe fn tell(context: *mut ffi::sqlite3_context, value: impl FnOnce(&ChangeCounters, *mut ffi::sqlite3) -> i64) {
    // SAFETY: SQLite passes a valid context. Its user data is the `Arc` that SQLite keeps until `release`, and its
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

/// An action of a statement, as SQLite reports it to an authorizer: <https://sqlite.org/c3ref/set_authorizer.html>. The
/// schema stores names as they were written, and they need not be UTF-8; invalid bytes become U+FFFD.
pub(crate) struct Action<'a> {
    /// `SQLITE_READ` and the like, <https://sqlite.org/c3ref/c_alter_table.html>, which defines the next two fields.
    pub(crate) code: c_int,
    pub(crate) first: Option<Cow<'a, str>>,
    pub(crate) second: Option<Cow<'a, str>>,
    /// `main`, `temp`, ..
    pub(crate) database: Option<Cow<'a, str>>,
    /// The trigger or view that contains the action, if it is not the statement itself.
    pub(crate) accessor: Option<Cow<'a, str>>,
    /// The connection, which stays open for as long as the action is looked at.
    db: *mut ffi::sqlite3,
}

/// What the statements of a connection are doing while another one is prepared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Progress {
    /// None has begun, or each has ended.
    Idle,
    /// One has returned a row. It may wait for its caller, or run on towards the next row.
    AfterRow,
    /// One runs, and has not returned a row yet: a function or a module that it calls prepares the other.
    Running,
}

impl Action<'_> {
    /// What the statements of the connection are doing.
    pub(crate) fn progress(&self) -> Progress {
        let mut progress = Progress::Idle;
        // SAFETY: SQLite calls the authorizer, with this action, on the thread that uses the connection. The pointers
        // come from SQLite's own list of its statements, and these calls change nothing. A statement without text is
        // the inside of a blob handle, which runs no SQL.
        unsafe {
            let mut statement = ffi::sqlite3_next_stmt(self.db, ptr::null_mut());
            while !statement.is_null() {
                if ffi::sqlite3_stmt_busy(statement) != 0 && !ffi::sqlite3_sql(statement).is_null() {
                    // "If prepared statement P does not have results ready to return .. then sqlite3_data_count(P)
                    // returns 0", <https://sqlite.org/c3ref/data_count.html>.
                    if ffi::sqlite3_data_count(statement) == 0 {
                        return Progress::Running;
                    }
                    progress = Progress::AfterRow;
                }
                statement = ffi::sqlite3_next_stmt(self.db, statement);
            }
        }
        progress
    }
}

/// The authorizer's answer.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(i32)]
pub(crate) enum Permission {
    Allow = ffi::SQLITE_OK,
    Deny = ffi::SQLITE_DENY,
    /// Makes a PRAGMA do nothing.
    Ignore = ffi::SQLITE_IGNORE,
}

/// Decides about each action of a statement that is prepared.
pub(crate) trait Authorizer: Send + Sync + 'static {
    fn authorize(&self, action: &Action<'_>) -> Permission;
}

/// Installs an authorizer for the statements prepared on the connection from now on.
///
/// rusqlite's own authorizer panics at a name that is not UTF-8. It catches the panic, but the statement fails, so a
/// table with such a column would be unreadable; and a program built with `panic = "abort"` would abort.
///
/// rusqlite keeps `token` while the authorizer is installed.
pub(crate) fn authorize<J: Authorizer>(conn: &Connection, authorizer: &Arc<J>, token: Arc<()>) -> rusqlite::Result<()> {
    let asked = Arc::new(Asked {
        authorizer: Arc::clone(authorizer),
        // SAFETY: `handle` is an open connection for as long as `conn` is borrowed. The pointer is used in calls of the
        // authorizer only, which SQLite makes while the connection is open.
        db: unsafe { conn.handle() },
    });
    let kept = (Arc::clone(&asked), token);
    // SQLite calls `ask` instead of this closure. rusqlite keeps the closure, and thereby the authorizer.
    conn.authorizer(Some(move |_: AuthContext<'_>| {
        let _kept = &kept;
        Authorization::Deny
    }))?;
    let asked = Arc::as_ptr(&asked).cast_mut().cast::<c_void>();
    // SAFETY: `handle` is an open connection for as long as `conn` is borrowed. SQLite has the pointer to the
    // authorizer until another authorizer is set, or none. Only rusqlite does that, on request and when it closes the
    // connection, and it calls SQLite before it drops the closure that keeps the authorizer.
    done(unsafe { ffi::sqlite3_set_authorizer(conn.handle(), Some(ask::<J>), asked) })
}

/// An authorizer and the connection that asks it.
struct Asked<J> {
    authorizer: Arc<J>,
    db: *mut ffi::sqlite3,
}

// SAFETY: the pointer is used by `ask` only, which SQLite calls on the thread that uses the connection.
unsafe impl<J: Send + Sync> Send for Asked<J> {}
// SAFETY: as above.
unsafe impl<J: Send + Sync> Sync for Asked<J> {}

/// # Safety
///
/// `asked` points to a living `Asked<J>` whose connection is open, and each of the others to a C string or nowhere.
unsafe extern "C" fn ask<J: Authorizer>(
    asked: *mut c_void,
    code: c_int,
    first: *const c_char,
    second: *const c_char,
    database: *const c_char,
    accessor: *const c_char,
) -> c_int {
    // SAFETY: as the caller promises; SQLite does not touch the strings before this returns.
    let (asked, text) = unsafe {
        let text = |text: *const c_char| (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy());
        (
            &*asked.cast::<Asked<J>>(),
            [first, second, database, accessor].map(text),
        )
    };
    let [first, second, database, accessor] = text;
    let action = Action {
        code,
        first,
        second,
        database,
        accessor,
        db: asked.db,
    };
    asked.authorizer.authorize(&action) as c_int
}

/// Lets the connection give no free page back at COMMIT, whatever `auto_vacuum` is.
pub(super) fn keep_free_pages(conn: &Connection) {
    unsafe extern "C" fn none(_: *mut c_void, _: *const c_char, _: c_uint, _: c_uint, _: c_uint) -> c_uint {
        0
    }
    // SAFETY: `handle` is an open connection for as long as `conn` is borrowed. The callback touches none of its
    // arguments, and has no state. "The return value from sqlite3_autovacuum_pages() is SQLITE_OK", or SQLITE_MISUSE.
    unsafe { ffi::sqlite3_autovacuum_pages(conn.handle(), Some(none), ptr::null_mut(), None) };
}

/// Receives the trace events of a connection.
pub(crate) trait Trace: Send + Sync + 'static {
    /// Whether to interrupt the statement. Must not panic.
    fn stops_here(&self) -> bool;
}

/// The trace events to receive.
#[derive(Clone, Copy)]
pub(crate) enum Events {
    /// The start of each statement.
    Statements = ffi::SQLITE_TRACE_STMT as isize,
    /// Also each row that it returns.
    AndRows = (ffi::SQLITE_TRACE_STMT | ffi::SQLITE_TRACE_ROW) as isize,
}

/// Sends the connection's trace events to `told` until the returned guard is dropped. Replaces any other trace
/// callback.
pub(crate) fn trace<'c, T: Trace>(conn: &'c Connection, told: &Arc<T>, events: Events) -> Traced<'c, T> {
    let told = Arc::clone(told);
    let pointer = Arc::as_ptr(&told).cast_mut().cast::<c_void>();
    // SAFETY: `handle` is an open connection for as long as `conn` is borrowed. SQLite has the pointer until the
    // callback is removed: by another callback, or by the drop of the guard, which keeps the target alive until after
    // that.
    unsafe { ffi::sqlite3_trace_v2(conn.handle(), events as c_uint, Some(traced::<T>), pointer) };
    Traced { conn, _told: told }
}

/// A connection whose trace events are received.
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
/// `told` points to a living `T`, and `statement` to the running statement, as both of [`Events`] have it.
unsafe extern "C" fn traced<T: Trace>(
    _event: c_uint,
    told: *mut c_void,
    statement: *mut c_void,
    _text: *mut c_void,
) -> c_int {
    // SAFETY: as the caller promises. An interrupt "is safe .. from a thread different from the thread that is
    // currently running the database operation" and only sets a flag, which the statement checks after this.
    unsafe {
        if (*told.cast::<T>()).stops_here() {
            ffi::sqlite3_interrupt(ffi::sqlite3_db_handle(statement.cast()));
        }
    }
    0
}
