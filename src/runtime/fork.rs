//! Whether this process is the one that opened a store, or was forked from it.
//!
//! `fork` copies the memory of the process and one thread. The copy of a store has no writer thread and no reader threads,
//! its locks may be held by threads that are not there, and its connections share the parent's files, on which SQLite
//! must not be used after a fork (<https://sqlite.org/howtocorrupt.html#_carrying_an_open_database_across_a_fork_>). So a
//! forked child uses nothing of a store that its parent opened. It leaks it: a connection that the child closed would
//! let go of open-file-description locks, which it shares with the parent.
//!
//! A handler that `connection/c_api.rs` registers with the system counts forks, in the child. So the look costs one
//! load of a variable that is hardly ever written.

use std::process;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// How many forks led from the process that registered the handler to this one.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// In the child, right after a fork.
pub(crate) extern "C" fn count() {
    FORKS.fetch_add(1, Relaxed);
}

/// The process in which something was made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Process(u32);

impl Process {
    /// That of the program's start.
    pub(crate) const FIRST: Self = Self(0);

    pub(crate) fn current() -> Self {
        Self(FORKS.load(Relaxed))
    }

    /// Whether the calling process is a child that was forked since.
    pub(crate) fn is_left(self) -> bool {
        self != Self::current()
    }
}

/// Ends a forked child whose closure returned on a thread of larder's. The thread would go on with the parent's work: a
/// writer would commit the transaction a second time.
pub(crate) fn end_child() -> ! {
    eprintln!("larder: a closure forked and returned in the child, which ends here: call exec or _exit in the closure");
    process::abort()
}
