//! SQLite's allocator, which can fail: ours around its own. It can be installed only in a process that has not used
//! SQLite yet, so the cases run in child processes.

use std::ffi::{c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use larder::rusqlite::ffi::{self, sqlite3_mem_methods};

type Malloc = unsafe extern "C" fn(c_int) -> *mut c_void;
type Realloc = unsafe extern "C" fn(*mut c_void, c_int) -> *mut c_void;

static REAL: OnceLock<(Malloc, Realloc)> = OnceLock::new();

/// The number of the allocation that fails; 0 for none.
static NTH: AtomicI64 = AtomicI64::new(0);
static STICKY: AtomicBool = AtomicBool::new(false);
static COUNT: AtomicI64 = AtomicI64::new(0);

/// Installs the allocator. `lookaside` tells whether each connection has its own lookaside memory, as shipped, so that
/// small allocations bypass the allocator.
pub fn install(lookaside: bool) {
    // SAFETY: no connection was opened yet and no other thread uses SQLite, so it is not initialised, and may be
    // configured; GETMALLOC fills all of the struct, which is plain data; MALLOC copies it; ours keep the contract of
    // what they wrap, which is to give a block or null.
    unsafe {
        let mut methods: sqlite3_mem_methods = std::mem::zeroed();
        assert_eq!(
            ffi::sqlite3_config(ffi::SQLITE_CONFIG_GETMALLOC, &raw mut methods),
            ffi::SQLITE_OK
        );
        let real = (
            methods.xMalloc.expect("SQLite has one"),
            methods.xRealloc.expect("SQLite has one"),
        );
        assert!(REAL.set(real).is_ok(), "once");
        methods.xMalloc = Some(x_malloc);
        methods.xRealloc = Some(x_realloc);
        assert_eq!(
            ffi::sqlite3_config(ffi::SQLITE_CONFIG_MALLOC, &raw mut methods),
            ffi::SQLITE_OK
        );
        if !lookaside {
            let none: c_int = 0;
            assert_eq!(
                ffi::sqlite3_config(ffi::SQLITE_CONFIG_LOOKASIDE, none, none),
                ffi::SQLITE_OK
            );
        }
    }
}

unsafe extern "C" fn x_malloc(bytes: c_int) -> *mut c_void {
    match REAL.get() {
        // SAFETY: SQLite's own argument, passed on.
        Some((malloc, _)) if !fails() => unsafe { malloc(bytes) },
        _ => std::ptr::null_mut(),
    }
}

unsafe extern "C" fn x_realloc(block: *mut c_void, bytes: c_int) -> *mut c_void {
    match REAL.get() {
        // SAFETY: SQLite's own arguments, passed on; the block is one of the real allocator's.
        Some((_, realloc)) if !fails() => unsafe { realloc(block, bytes) },
        _ => std::ptr::null_mut(),
    }
}

fn fails() -> bool {
    let count = COUNT.fetch_add(1, Ordering::SeqCst) + 1;
    match NTH.load(Ordering::SeqCst) {
        0 => false,
        nth => count == nth || (count > nth && STICKY.load(Ordering::SeqCst)),
    }
}

/// From now on the Nth allocation fails, the first being 1; if `sticky`, also all that follow.
pub fn arm(nth: i64, sticky: bool) {
    COUNT.store(0, Ordering::SeqCst);
    STICKY.store(sticky, Ordering::SeqCst);
    NTH.store(nth, Ordering::SeqCst);
}

/// Memory is available again.
pub fn disarm() {
    NTH.store(0, Ordering::SeqCst);
}

/// Whether an allocation has failed since `arm`, if it is still armed.
pub fn was_hit() -> bool {
    let nth = NTH.load(Ordering::SeqCst);
    nth > 0 && COUNT.load(Ordering::SeqCst) >= nth
}

/// The number of allocations since `arm`.
pub fn count() -> i64 {
    COUNT.load(Ordering::SeqCst)
}
