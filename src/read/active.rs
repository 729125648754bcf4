//! Which readers' connections are open, and what each is doing.
//!
//! One mutex guards the list; each entry has one of its own around what it is doing, which its borrower takes once a
//! read and others only to look. The list's may be held while an entry's is taken, never the other way round. No user
//! code runs under either. One condition variable says that an entry has gone, or that the store closes: to who closes
//! it, and to a backup that pauses between two steps.
//!
//! `closed` is set under the list's lock, and a connection is entered in the list under it before it is opened. So after
//! that no further one opens, and when the list is empty the last one has been closed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::runtime::clock::later;
use crate::runtime::sync::{Arc, Condvar, Mutex};
use crate::telemetry::activity::{ActivitySlot, thread_token};
use crate::telemetry::stats::Activity;

/// The connections that are open.
#[derive(Default)]
pub(super) struct ActiveReaders {
    closed: AtomicBool,
    open: Mutex<Vec<Arc<OpenReader>>>,
    changed: Condvar,
}

/// A connection that is open.
struct OpenReader {
    activity: ActivitySlot,
    /// Not of the pool: a backup's, or a reader thread's for its looks.
    dedicated: bool,
    /// It holds no snapshot, or none any more, though what it was opened for goes on.
    released: AtomicBool,
}

impl ActiveReaders {
    /// A connection of the pool.
    pub(super) fn enter(self: &Arc<Self>) -> Result<Registration> {
        self.admit(false)
    }

    /// A connection beside the pool.
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

    /// Waits, but no longer than until the store closes, or until that is so when [`wake`](Self::wake) is called.
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

    /// Has those who pause look whether it is over.
    pub(super) fn wake(&self) {
        // Who has looked before is asleep once this has the lock.
        let _open = self.open.lock();
        self.changed.notify_all();
    }

    pub(super) fn wait_until_empty(&self, patience: Duration) -> bool {
        let open = self.open.lock();
        let open = self.changed.wait_timeout_while(open, patience, |open| !open.is_empty());
        open.is_empty()
    }

    /// Connections of the pool.
    pub(super) fn held_by_this_thread(&self) -> usize {
        let open = self.open.lock();
        open.iter()
            .filter(|open| !open.dedicated && open.is_held_here())
            .count()
    }

    /// Any connection, also one beside the pool.
    pub(super) fn in_use_by_this_thread(&self) -> bool {
        self.open.lock().iter().any(|open| open.is_held_here())
    }

    /// The oldest of those that read, and how many there are.
    pub(super) fn reading(&self) -> (Option<Activity>, usize) {
        let reads: Vec<_> = self.open.lock().iter().filter_map(|open| open.reading()).collect();
        let count = reads.len();
        (reads.into_iter().max_by_key(|read| read.age), count)
    }

    /// How many are open to read, of the pool and of backups.
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

    /// It holds no snapshot. Who closes the store still waits for the entry to go.
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
