//! Whether this process is the one that opened a store, or a child forked from it.
//!
//! `fork` copies the memory of the process and one thread. The copy of a store has no writer thread and no reader
//! threads. Its locks may be held by threads that do not exist in the child. Its connections share the parent's files,
//! on which SQLite must not be used after a fork
//! (<https://sqlite.org/howtocorrupt.html#_carrying_an_open_database_across_a_fork_>). So a forked child uses no part
//! of a store that its parent opened. It leaks the store: a child that closed a connection would release
//! open-file-description locks, which it shares with the parent.
//!
//! A handler that `connection/forks.rs` registers with the system counts forks, in the child. So the check costs one
//! load of a variable that is hardly ever written.

use std::process;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Number of forks between the process that registered the handler and this one.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// Called in the child, right after a fork.
pub(crate) fn count() {
    FORKS.fetch_add(1, Relaxed);
}

/// The process in which an object was created.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Process(u32);

impl Process {
    /// The process of the program's start.
    pub(crate) const FIRST: Self = Self(0);

    pub(crate) fn current() -> Self {
        Self(FORKS.load(Relaxed))
    }

    /// Whether the calling process is a child forked since.
    pub(crate) fn is_left(self) -> bool {
        self != Self::current()
    }
}

/// Ends a forked child whose closure returned on a thread that belongs to larder. The thread would continue the
/// parent's work: a writer thread would commit the transaction a second time.
pub(crate) fn end_child() -> ! {
    eprintln!("larder: a closure forked and returned in the child, which ends here: call exec or _exit in the closure");
    process::abort()
}
