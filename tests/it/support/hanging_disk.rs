//! A disk that hangs for one thread: SQLite's own VFS with another `xWrite`, the default of a child process.

#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void};
use std::sync::{Condvar, Mutex, OnceLock};
use std::{ptr, thread};

use rusqlite::ffi::{self, sqlite3_file, sqlite3_io_methods, sqlite3_vfs};

/// The thread whose writes to a database hang, and how many do.
static HANGING: Mutex<(Option<&str>, u32)> = Mutex::new((None, 0));
static CHANGED: Condvar = Condvar::new();

type Open = unsafe extern "C" fn(*mut sqlite3_vfs, *const c_char, *mut sqlite3_file, c_int, *mut c_int) -> c_int;

static REAL_OPEN: OnceLock<Open> = OnceLock::new();
static REAL_METHODS: OnceLock<sqlite3_io_methods> = OnceLock::new();

/// Makes it the default. No connection is open yet.
pub(crate) fn install() {
    // SAFETY: the default VFS is registered, and lives as long as the process.
    let mut vfs = unsafe { *ffi::sqlite3_vfs_find(ptr::null()) };
    REAL_OPEN.set(vfs.xOpen.unwrap()).expect("it is installed once");
    vfs.pNext = ptr::null_mut();
    vfs.zName = c"hanging".as_ptr();
    vfs.xOpen = Some(x_open);
    // SAFETY: the object is leaked, so it lives as long as the process.
    let code = unsafe { ffi::sqlite3_vfs_register(Box::into_raw(Box::new(vfs)), 1) };
    assert_eq!(code, ffi::SQLITE_OK);
}

/// Writes to the database by threads of that name hang from now on, or, with `None`, end.
pub(crate) fn hang(thread: Option<&'static str>) {
    HANGING.lock().unwrap().0 = thread;
    CHANGED.notify_all();
}

/// Waits until one hangs.
pub(crate) fn wait_for_hang() {
    let mut hanging = HANGING.lock().unwrap();
    while hanging.1 == 0 {
        hanging = CHANGED.wait(hanging).unwrap();
    }
}

unsafe extern "C" fn x_open(
    vfs: *mut sqlite3_vfs,
    path: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    let open = REAL_OPEN.get().unwrap();
    // SAFETY: the arguments are SQLite's own, and this VFS differs from the real one in its name alone.
    let code = unsafe { open(vfs, path, file, flags, out) };
    if code != ffi::SQLITE_OK || flags & ffi::SQLITE_OPEN_MAIN_DB == 0 {
        return code;
    }
    // SAFETY: a file that is open has methods, which are static.
    let real = REAL_METHODS.get_or_init(|| unsafe { *(*file).pMethods });
    let mut methods = *real;
    methods.xWrite = Some(x_write);
    // SAFETY: the methods are leaked, and but for one those of the file.
    unsafe { (*file).pMethods = Box::into_raw(Box::new(methods)) };
    code
}

unsafe extern "C" fn x_write(
    file: *mut sqlite3_file,
    from: *const c_void,
    bytes: c_int,
    at: ffi::sqlite3_int64,
) -> c_int {
    {
        let mut hanging = HANGING.lock().unwrap();
        let name = thread::current().name().map(str::to_owned);
        while hanging.0.is_some() && hanging.0 == name.as_deref() {
            hanging.1 += 1;
            CHANGED.notify_all();
            hanging = CHANGED.wait(hanging).unwrap();
            hanging.1 -= 1;
        }
    }
    let write = REAL_METHODS.get().and_then(|real| real.xWrite).unwrap();
    // SAFETY: the arguments are SQLite's own.
    unsafe { write(file, from, bytes, at) }
}
