//! Whether the work that a thread does is still wanted.
//!
//! A reader thread puts a token in its thread-local for as long as it runs a task's closure ([`with`]). Code further down
//! asks [`is_cancelled`]: the connection's interrupt (`connection/interrupt.rs`) and nothing else knows that there are
//! jobs. The thread-local is only touched by its own thread. What the token says may be set by any thread at any time, and
//! never goes back. So an answer is about the closure that runs now and about no other.

use std::cell::RefCell;

use super::sync::Arc;

/// Work that may become unwanted while it runs.
pub(crate) trait Cancelled {
    /// Whether it has. Asked again and again, so it must be cheap.
    fn is_cancelled(&self) -> bool;
}

thread_local! {
    /// The token of the closure that this thread runs for a task.
    static CURRENT: RefCell<Option<Arc<dyn Cancelled>>> = const { RefCell::new(None) };
}

/// Whether this thread runs a closure for a task.
pub(crate) fn is_possible() -> bool {
    CURRENT.try_with(|token| token.borrow().is_some()).unwrap_or(false)
}

/// Whether this thread runs a closure for a task that has gone away meanwhile.
pub(crate) fn is_cancelled() -> bool {
    // A thread that ends, and reads once more as it does, runs none.
    let cancelled = CURRENT.try_with(|token| token.borrow().as_ref().is_some_and(|token| token.is_cancelled()));
    cancelled.unwrap_or(false)
}

/// Runs `f` under that token.
pub(crate) fn with<T>(token: Arc<dyn Cancelled>, f: impl FnOnce() -> T) -> T {
    struct Restore(Option<Arc<dyn Cancelled>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT.set(self.0.take());
        }
    }
    let _restore = Restore(CURRENT.with(|current| current.replace(Some(token))));
    f()
}
