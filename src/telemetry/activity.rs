//! The activity of a connection: the closure that it runs now, its call site and its start.
//!
//! Only the thread that runs the closure writes the slot; other threads read it. The lock is held only for that.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::call_site::CallSite;
use crate::runtime::sync::Mutex;

/// The current activity of one connection, if any.
#[derive(Default)]
pub(crate) struct ActivitySlot {
    /// Whether the closure still runs. A closure's end clears only this; the next closure overwrites the rest.
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

    /// The call site of the running closure, and its age.
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

/// A number that identifies the calling thread among the living ones: the address of a thread-local variable.
pub(crate) fn thread_token() -> usize {
    thread_local! {
        static TOKEN: u8 = const { 0 };
    }
    TOKEN.with(|token| std::ptr::from_ref(token).addr())
}
