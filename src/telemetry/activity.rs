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
    /// Whether it is work of larder's own that may take long: a backup or a check.
    is_internal: bool,
}

impl ActivitySlot {
    pub(crate) fn begin(&self, since: Instant, site: CallSite) {
        self.set(since, site, false);
    }

    /// Begins a backup or a check.
    pub(crate) fn begin_internal(&self, since: Instant, site: CallSite) {
        self.set(since, site, true);
    }

    fn set(&self, since: Instant, site: CallSite, is_internal: bool) {
        *self.current.lock() = Some(ActiveClosure {
            since,
            site,
            thread: thread_token(),
            is_internal,
        });
        self.active.store(true, Ordering::Release);
    }

    /// Whether the running closure is the application's, not a backup or a check.
    pub(crate) fn is_of_the_application(&self) -> bool {
        self.inspect(|current| !current.is_internal).unwrap_or(false)
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
