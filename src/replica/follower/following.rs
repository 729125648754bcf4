//! [`Following`]: the database as the tasks and callers of a follower see it: what it has reached, and who waits for that.
//!
//! # Who does what
//!
//! - **The task that follows** (`poll.rs`), on the thread `larder-replica`, looks for files and hands them over, one job
//!   after another.
//! - **The writer thread** of the follower's engine runs these jobs (`apply.rs`). It alone writes to the database, to the
//!   position and to `local`; and it makes the checkpoints, as for any store.
//! - **Callers** of `wait_for` and `wait_for_async` wait for a future on `larder-replica`, which waits until enough is
//!   reached, and asks the storage whose it is (`wait.rs`).
//!
//! `reached` is held for a look or a change, and nothing is taken under it. Every change is followed by a notification of
//! all who wait. A thread looks under the lock that it waits with; a future is among those who are notified (`told`)
//! before it looks. So no wake-up is lost. The permit of a `Notify` is kept until the task takes
//! it. The task waits for a job as a future, never with a lock; the writer thread waits for requests, which run on other
//! threads, without a lock of SQLite, and never for the task, but for closing, by which time no job is left.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::Notify;

use super::local::Local;
use crate::error::Error;
use crate::replica::fence::{Opening, Owner};
use crate::replica::position::Position;
use crate::replica::spool::Spool;
use crate::replica::storage::Storage;
use crate::runtime::sync::{Arc, Condvar, Instant, Mutex, MutexGuard, Weak};
use crate::telemetry::Telemetry;
use crate::telemetry::follower::FollowerFigures;
use crate::write::Shared;

/// The shortest pause between two looks: an interval of zero means this.
pub(super) const SHORTEST: Duration = Duration::from_millis(5);

pub(crate) struct Following {
    pub(super) path: PathBuf,
    pub(super) storage: Storage,
    pub(super) spool: Spool,
    pub(super) interval: Duration,
    pub(super) shared: Weak<Shared>,
    pub(super) telemetry: Arc<Telemetry>,
    reached: Mutex<Reached>,
    /// Wakes the threads that wait for a change of it.
    changed: Condvar,
    /// The same for futures.
    pub(super) told: Notify,
    /// How many wait for a transaction.
    waiting: AtomicUsize,
    /// Wakes the task that follows.
    pub(super) wake: Notify,
    /// When closing is over. Set once.
    pub(super) closing: OnceLock<Instant>,
}

/// What the database has.
pub(super) struct Reached {
    /// Up to where the files are applied.
    pub(super) position: Position,
    pub(super) local: Local,
    /// The openings that have written to the replica while it had this number.
    pub(super) nodes: BTreeSet<u64>,
    /// The opening whose transaction was applied last; 0 if it is not known.
    pub(super) maker: u64,
    /// The openings of the replica, as they were known last.
    pub(super) openings: Vec<Opening>,
    /// What is known of the statistics of the query planner.
    pub(super) statistics: u64,
    /// Why nothing is applied any more.
    pub(super) stopped: Option<String>,
    /// What went wrong at the last look.
    pub(super) problem: Option<String>,
    /// The task has ended, or has not begun.
    pub(super) ended: bool,
}

impl Following {
    pub(super) fn new(
        (shared, telemetry): (&Arc<Shared>, &Arc<Telemetry>),
        (storage, spool): (Storage, Spool),
        interval: Duration,
        (position, local): (Position, Local),
    ) -> Arc<Self> {
        let interval = interval.max(SHORTEST);
        telemetry
            .follower
            .begin(storage.to_string(), interval, position.txid, position.timestamp);
        Arc::new(Self {
            path: shared.path.clone(),
            storage,
            spool,
            interval,
            shared: Arc::downgrade(shared),
            telemetry: Arc::clone(telemetry),
            reached: Mutex::new(Reached {
                position,
                local,
                nodes: BTreeSet::new(),
                maker: 0,
                openings: Vec::new(),
                statistics: 0,
                stopped: None,
                problem: None,
                ended: true,
            }),
            changed: Condvar::new(),
            told: Notify::new(),
            waiting: AtomicUsize::new(0),
            wake: Notify::new(),
            closing: OnceLock::new(),
        })
    }

    pub(super) fn reached(&self) -> MutexGuard<'_, Reached> {
        self.reached.lock()
    }

    /// Changes what is reached, and tells those who wait for it.
    pub(super) fn reach<T>(&self, change: impl FnOnce(&mut Reached) -> T) -> T {
        let result = change(&mut self.reached());
        self.changed.notify_all();
        self.told.notify_waiters();
        result
    }

    pub(super) fn position(&self) -> Position {
        self.reached().position
    }

    /// Keeps the list of the openings that have written to the replica. `owner` was read after transaction `at` was applied.
    pub(super) fn knows(&self, owner: &Owner, at: u64) {
        self.reach(|reached| {
            reached.openings.clone_from(&owner.openings);
            // One that has entered and not made its claim is none yet.
            let last = owner.openings.last().filter(|_| owner.before.is_none());
            if let Some(last) = last.filter(|last| last.first <= at && reached.position.txid == at) {
                reached.maker = last.opening;
            }
        });
    }

    pub(super) fn figures(&self) -> &FollowerFigures {
        &self.telemetry.follower
    }

    /// Whether the follower is closing, or its opening has failed.
    pub(super) fn closes(&self) -> bool {
        let closes = |shared: Arc<Shared>| shared.closing.deadline().is_some();
        self.closing.get().is_some() || self.shared.upgrade().is_none_or(closes)
    }

    /// The error of a database and a replica that do not fit.
    pub(super) fn diverged(&self, problem: String) -> Error {
        Error::Diverged {
            path: self.path.clone(),
            url: self.storage.to_string(),
            problem,
        }
    }

    /// Why nothing is applied any more.
    pub(super) fn stopped(&self) -> Option<Error> {
        let problem = self.reached().stopped.clone();
        match problem {
            Some(problem) => Some(self.diverged(problem)),
            None => self.poison(),
        }
    }

    /// Why the database takes no more writes.
    pub(super) fn poison(&self) -> Option<Error> {
        self.shared.upgrade()?.poison()
    }

    /// Somebody waits for a transaction, until what is returned is dropped.
    pub(super) fn awaits(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Relaxed);
        Waiting(&self.waiting)
    }

    pub(super) fn is_awaited(&self) -> bool {
        self.waiting.load(Relaxed) > 0
    }

    /// Waits until the task has ended, or until then.
    pub(super) fn wait_for_end(&self, until: Instant) {
        let mut reached = self.reached();
        while !reached.ended {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            reached = self.changed.wait_timeout(reached, left).0;
        }
    }
}

/// Somebody waits for a transaction.
pub(super) struct Waiting<'f>(&'f AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
