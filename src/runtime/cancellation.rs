//! Whether the work of a thread is still wanted.
//!
//! A reader thread stores a token in its thread-local for as long as it runs the closure of an async read ([`with`]).
//! The connection's interrupt (`connection/interrupt.rs`) calls [`is_cancelled`], and so need not know that there are
//! jobs. Only its own thread accesses the thread-local. Any thread may cancel a token at any time, and a cancelled token
//! stays cancelled. So an answer is about the closure that runs now and about no other.

use std::cell::RefCell;

use super::sync::Arc;

/// Work that may become unwanted while it runs.
pub(crate) trait Cancelled {
    /// Whether the work was cancelled. Called often, so it must be cheap.
    fn is_cancelled(&self) -> bool;
}

thread_local! {
    /// The token of the async read whose closure this thread runs.
    static CURRENT: RefCell<Option<Arc<dyn Cancelled>>> = const { RefCell::new(None) };
}

/// Whether this thread runs the closure of an async read.
pub(crate) fn is_possible() -> bool {
    CURRENT.try_with(|token| token.borrow().is_some()).unwrap_or(false)
}

/// Whether this thread runs the closure of an async read whose task has gone away.
pub(crate) fn is_cancelled() -> bool {
    // A thread that is ending, and reads once more while it ends, runs no such closure.
    let cancelled = CURRENT.try_with(|token| token.borrow().as_ref().is_some_and(|token| token.is_cancelled()));
    cancelled.unwrap_or(false)
}

/// Runs `f` under that token.
pub(crate) fn with<T>(token: Arc<dyn Cancelled>, f: impl FnOnce() -> T) -> T {
    replaced(Some(token), f)
}

/// Runs `f`, which is not cancelled, even inside the closure of an async read.
pub(crate) fn without<T>(f: impl FnOnce() -> T) -> T {
    if is_possible() { replaced(None, f) } else { f() }
}

fn replaced<T>(token: Option<Arc<dyn Cancelled>>, f: impl FnOnce() -> T) -> T {
    struct Restore(Option<Arc<dyn Cancelled>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT.set(self.0.take());
        }
    }
    let _restore = Restore(CURRENT.with(|current| current.replace(token)));
    f()
}
