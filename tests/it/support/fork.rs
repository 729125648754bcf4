//! `fork` without `exec`, for which the standard library has no safe function.

#![allow(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};

use rusqlite::ffi;

// SAFETY: the declarations are POSIX's.
unsafe extern "C" {
    fn fork() -> i32;
    fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
    fn alarm(seconds: u32) -> u32;
    fn _exit(code: i32) -> !;
}

/// A child of this process.
pub(crate) struct Forked(i32);

/// The seconds after which a child that hangs is ended by SIGALRM.
const HANGS_AFTER: u32 = 50;

/// Forks. `None` in the child, which has to end by [`end_child`].
pub(crate) fn fork_here() -> Option<Forked> {
    // SAFETY: the child has one thread. What it does beyond async-signal-safe functions is the subject of these tests, in a
    // process that does nothing else.
    match unsafe { fork() } {
        -1 => panic!("fork: {}", std::io::Error::last_os_error()),
        0 => {
            // SAFETY: it takes any number.
            unsafe { alarm(HANGS_AFTER) };
            None
        }
        pid => Some(Forked(pid)),
    }
}

/// Runs `f` in a forked child, which then ends without destructors, with code 0 unless `f` panics. Gives how it ended, as
/// `waitpid` does: 0, or code times 256, or a signal.
pub(crate) fn in_forked_child(f: impl FnOnce()) -> i32 {
    match fork_here() {
        Some(child) => child.wait(),
        None => end_child(f),
    }
}

pub(crate) fn end_child(f: impl FnOnce()) -> ! {
    let ended = catch_unwind(AssertUnwindSafe(f));
    // SAFETY: it takes any code.
    unsafe { _exit(i32::from(ended.is_err())) }
}

impl Forked {
    pub(crate) fn wait(self) -> i32 {
        let mut status = 0;
        // SAFETY: the pointer is to a living integer, and the process a child of this one that nobody else waits for.
        let waited = unsafe { waitpid(self.0, &mut status, 0) };
        assert_eq!(waited, self.0, "{}", std::io::Error::last_os_error());
        status
    }
}

/// Runs `f` under the mutex that SQLite has while it opens and closes files.
pub(crate) fn with_lock_of_open_files<T>(f: impl FnOnce() -> T) -> T {
    // SAFETY: a static mutex lives as long as the process. This thread does not have it, calls SQLite no more while it
    // does, and releases it: in a forked child, too, whose thread is its copy.
    unsafe {
        let mutex = ffi::sqlite3_mutex_alloc(ffi::SQLITE_MUTEX_STATIC_VFS1);
        ffi::sqlite3_mutex_enter(mutex);
        let value = f();
        ffi::sqlite3_mutex_leave(mutex);
        value
    }
}
