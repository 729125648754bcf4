//! What a connection is doing: whose closure it runs, and since when.
//!
//! The thread that runs the closure writes it, others only look. The lock is held for that alone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::call_site::CallSite;
use crate::runtime::sync::Mutex;

/// What a connection is doing.
#[derive(Default)]
pub(crate) struct Doing {
    /// Whether it is doing it still. A closure ends with this alone, and leaves the rest for the next to write over.
    active: AtomicBool,
    running: Mutex<Option<Running>>,
}

pub(crate) struct Running {
    pub(crate) since: Instant,
    pub(crate) site: CallSite,
    pub(crate) thread: usize,
}

impl Doing {
    pub(crate) fn begin(&self, since: Instant, site: CallSite) {
        *self.running.lock() = Some(Running {
            since,
            site,
            thread: thread_token(),
        });
        self.active.store(true, Ordering::Release);
    }

    pub(crate) fn end(&self) {
        self.active.store(false, Ordering::Release);
    }

    pub(crate) fn look<T>(&self, f: impl FnOnce(&mut Running) -> T) -> Option<T> {
        if !self.active.load(Ordering::Acquire) {
            return None;
        }
        self.running.lock().as_mut().map(f)
    }

    /// Who it is, and for how long.
    pub(crate) fn activity(&self) -> Option<super::stats::Activity> {
        self.look(|running| super::stats::Activity {
            site: running.site.to_string(),
            age: running.since.elapsed(),
        })
    }

    pub(crate) fn site(&self) -> String {
        self.look(|read| read.site.to_string()).unwrap_or_default()
    }
}

/// A number that no other living thread has: the address of a variable of its own.
pub(crate) fn thread_token() -> usize {
    thread_local! {
        static TOKEN: u8 = const { 0 };
    }
    TOKEN.with(|token| std::ptr::from_ref(token).addr())
}
