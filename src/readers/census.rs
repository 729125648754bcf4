//! Which readers' connections are open, and what each is doing.
//!
//! One mutex guards the list; each entry has one of its own around what it is doing, which its borrower takes twice a
//! read and others only to look. The list's may be held while an entry's is taken, never the other way round. No user
//! code runs under either.
//!
//! `closed` is set under the list's lock, and a connection is entered in the list under it before it is opened. So after
//! that no further one opens, and when the list is empty the last one has been closed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::doing::{Doing, thread_token};
use crate::error::{Error, Result};
use crate::stats::Activity;

/// The connections that are open.
#[derive(Default)]
pub(super) struct Census {
    closed: AtomicBool,
    open: Mutex<Vec<Arc<Doing>>>,
    left: Condvar,
}

impl Census {
    pub(super) fn enter(self: &Arc<Self>) -> Result<Entry> {
        let mut open = self.lock();
        if self.is_closed() {
            return Err(Error::Closed);
        }
        let activity = Arc::new(Doing::default());
        open.push(Arc::clone(&activity));
        Ok(Entry {
            census: Arc::clone(self),
            activity,
        })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(super) fn close(&self) {
        let _open = self.lock();
        self.closed.store(true, Ordering::Release);
    }

    pub(super) fn wait_until_empty(&self, patience: Duration) -> bool {
        let open = self.lock();
        let waited = self.left.wait_timeout_while(open, patience, |open| !open.is_empty());
        waited.unwrap_or_else(PoisonError::into_inner).0.is_empty()
    }

    pub(super) fn held_by_this_thread(&self) -> usize {
        let this = thread_token();
        self.lock()
            .iter()
            .filter(|activity| activity.look(|read| read.thread == this).unwrap_or(false))
            .count()
    }

    /// The oldest of those that read, and how many there are.
    pub(super) fn reading(&self) -> (Option<Activity>, usize) {
        let reads: Vec<_> = self.lock().iter().filter_map(|doing| doing.activity()).collect();
        let count = reads.len();
        (reads.into_iter().max_by_key(|read| read.age), count)
    }

    /// How many are open.
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Doing>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place in the census.
pub(super) struct Entry {
    census: Arc<Census>,
    pub(super) activity: Arc<Doing>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.census.lock().retain(|other| !Arc::ptr_eq(other, &self.activity));
        self.census.left.notify_all();
    }
}
