//! What a connection is doing: whose closure it runs, and since when.
//!
//! The thread that runs the closure writes it, others only look. The lock is held for that alone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::call_site::CallSite;
use crate::runtime::sync::Mutex;

/// What a connection is doing.
#[derive(Default)]
pub(crate) struct ActivitySlot {
    /// Whether it is doing it still. A closure ends with this alone, and leaves the rest for the next to write over.
    active: AtomicBool,
    current: Mutex<Option<ActiveClosure>>,
}

pub(crate) struct ActiveClosure {
    pub(crate) since: Instant,
    pub(crate) site: CallSite,
    pub(crate) thread: usize,
}

impl ActivitySlot {
    pub(crate) fn begin(&self, since: Instant, site: CallSite) {
        *self.current.lock() = Some(ActiveClosure {
            since,
            site,
            thread: thread_token(),
        });
        self.active.store(true, Ordering::Release);
    }

    pub(crate) fn end(&self) {
        self.active.store(false, Ordering::Release);
    }

    pub(crate) fn inspect<T>(&self, f: impl FnOnce(&mut ActiveClosure) -> T) -> Option<T> {
        if !self.active.load(Ordering::Acquire) {
            return None;
        }
        self.current.lock().as_mut().map(f)
    }

    /// Who it is, and for how long.
    pub(crate) fn activity(&self) -> Option<super::stats::Activity> {
        self.inspect(|current| super::stats::Activity {
            site: current.site.to_string(),
            age: current.since.elapsed(),
        })
    }

    pub(crate) fn site(&self) -> String {
        self.inspect(|read| read.site.to_string()).unwrap_or_default()
    }
}

/// A number that no other living thread has: the address of a variable of its own.
pub(crate) fn thread_token() -> usize {
    thread_local! {
        static TOKEN: u8 = const { 0 };
    }
    TOKEN.with(|token| std::ptr::from_ref(token).addr())
}
