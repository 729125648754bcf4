//! Calls of user code (a subscriber, a waker, a drop, a `Display`) whose panic must not leave larder's own code.

use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Returns the result of `f`, or `None` if it panics. The drop of the panic's payload may panic, too; that panic is
/// caught as well.
pub(crate) fn caught<T>(f: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(value) => Some(value),
        Err(payload) => {
            if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
                mem::forget(second);
            }
            None
        }
    }
}

/// Calls `f`, and swallows its panic.
pub(crate) fn quietly(f: impl FnOnce()) {
    caught(f);
}
