//! Which reader connections are open, and the activity of each.
//!
//! One mutex guards the list. Each entry has a mutex around its activity, which its borrower takes once a read, and
//! other threads only to inspect it. An entry's mutex may be taken under that of the list, never the other way round.
//! No user code runs under either. One condition variable signals that an entry was removed, or that the store closes.
//! A closing thread waits on it, and so does a backup that pauses between two steps.
//!
//! `closed` is set under the list's lock, and a connection is listed under that lock before it is opened. So no
//! connection opens after `closed` is set, and an empty list then means that the last connection has been closed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::runtime::clock::later;
use crate::runtime::sync::{Arc, Condvar, Mutex};
use crate::telemetry::activity::{ActivitySlot, thread_token};
use crate::telemetry::stats::Activity;

/// The open reader connections.
#[derive(Default)]
pub(super) struct ActiveReaders {
    closed: AtomicBool,
    open: Mutex<Vec<Arc<OpenReader>>>,
    changed: Condvar,
}

/// An open connection.
struct OpenReader {
    activity: ActivitySlot,
    /// Outside the pool: a connection of a backup, or of a reader thread for its freshness checks.
    dedicated: bool,
    /// Whether the connection holds no snapshot (any more), though the work that it was opened for goes on.
    released: AtomicBool,
}

impl ActiveReaders {
    /// Lists a connection of the pool.
    pub(super) fn enter(self: &Arc<Self>) -> Result<Registration> {
        self.admit(false)
    }

    /// Lists a connection outside the pool.
    pub(super) fn enter_dedicated(self: &Arc<Self>) -> Result<Registration> {
        self.admit(true)
    }

    fn admit(self: &Arc<Self>, dedicated: bool) -> Result<Registration> {
        let mut all = self.open.lock();
        if self.is_closed() {
            return Err(Error::Closed);
        }
        let open = Arc::new(OpenReader {
            activity: ActivitySlot::default(),
            dedicated,
            released: AtomicBool::new(false),
        });
        all.push(Arc::clone(&open));
        Ok(Registration {
            active: Arc::clone(self),
            open,
        })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(super) fn close(&self) {
        let _open = self.open.lock();
        self.closed.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    /// Waits for at most `time`, until the store closes, or until `is_over` is true at a [`wake`](Self::wake).
    pub(super) fn pause(&self, time: Duration, is_over: impl Fn() -> bool) {
        let until = later(Instant::now(), time);
        let mut open = self.open.lock();
        while !self.is_closed() && !is_over() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            open = self.changed.wait_timeout(open, left).0;
        }
    }

    /// Wakes paused threads so they re-check their condition.
    pub(super) fn wake(&self) {
        // A thread that checked before sleeps on the condition variable once this thread has the lock.
        let _open = self.open.lock();
        self.changed.notify_all();
    }

    pub(super) fn wait_until_empty(&self, patience: Duration) -> bool {
        let open = self.open.lock();
        let open = self.changed.wait_timeout_while(open, patience, |open| !open.is_empty());
        open.is_empty()
    }

    /// Number of pool connections that this thread holds.
    pub(super) fn held_by_this_thread(&self) -> usize {
        let open = self.open.lock();
        open.iter()
            .filter(|open| !open.dedicated && open.is_held_here())
            .count()
    }

    /// Whether this thread uses any connection, in the pool or outside it.
    pub(super) fn in_use_by_this_thread(&self) -> bool {
        self.open.lock().iter().any(|open| open.is_held_here())
    }

    /// The oldest running read of the application: not a backup, not a check.
    pub(super) fn oldest_of_the_application(&self) -> Option<Activity> {
        let open = self.open.lock();
        let reads = open.iter().filter(|open| open.activity.is_of_the_application());
        reads.filter_map(|open| open.reading()).max_by_key(|read| read.age)
    }

    /// The oldest running read, and the number of running reads.
    pub(super) fn reading(&self) -> (Option<Activity>, usize) {
        let reads: Vec<_> = self.open.lock().iter().filter_map(|open| open.reading()).collect();
        let count = reads.len();
        (reads.into_iter().max_by_key(|read| read.age), count)
    }

    /// Number of connections open for reads, of the pool and of backups.
    pub(super) fn count(&self) -> usize {
        let open = self.open.lock();
        open.iter().filter(|open| !open.is_released()).count()
    }
}

impl OpenReader {
    fn is_held_here(&self) -> bool {
        let this = thread_token();
        self.activity.inspect(|read| read.thread == this).unwrap_or(false)
    }

    fn reading(&self) -> Option<Activity> {
        if self.is_released() {
            return None;
        }
        self.activity.activity()
    }

    fn is_released(&self) -> bool {
        self.released.load(Ordering::Acquire)
    }
}

/// Lists a connection for as long as it lives.
pub(super) struct Registration {
    active: Arc<ActiveReaders>,
    open: Arc<OpenReader>,
}

impl Registration {
    pub(super) fn activity(&self) -> &ActivitySlot {
        &self.open.activity
    }

    /// Marks that the connection holds no snapshot. A closing thread still waits for the entry to be removed.
    pub(super) fn release(&self) {
        self.open.released.store(true, Ordering::Release);
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.active.open.lock().retain(|other| !Arc::ptr_eq(other, &self.open));
        self.active.changed.notify_all();
    }
}
