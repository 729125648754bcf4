//! What has to happen before and after the process forks, so that a child can open stores of its own.
//!
//! A mutex that another thread had at the moment of the fork stays locked in the child: those of larder's
//! ([`ProcessMutex`](crate::runtime::process_mutex::ProcessMutex)), and SQLite's static ones, which guard its memory, its
//! page caches and the open files of the unix VFS. A store of the child's would wait for them without end. So the forking
//! thread takes all of them first, which keeps *every* thread of the process out, also those that use SQLite without
//! larder, and costs nothing but at a fork. SQLite's other mutexes belong to a connection or to one open file, and the
//! child may open none that its parent has open. The allocator's and the system's own are theirs to see to.
//!
//! *No deadlock:* larder's come first, since no code of larder's calls SQLite under one of them; then SQLite's, in its
//! own order; and each is only tried, for [`PATIENCE`] in all. A thread that forks while it has one itself (in a log
//! callback of SQLite's), or beside one that a hanging file system keeps inside SQLite, forks after that time. In the
//! child an opening then tries once more, and is an error rather than a hang.
//!
//! The handlers run on the forking thread, so what it holds between them is in a thread-local. Two threads may fork at
//! once: the second waits for the first one's mutexes.

use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::c_api::{StaticMutexes, at_fork};
use super::open_error::refuse;
use crate::error::Result;
use crate::runtime::fork;
use crate::runtime::process_mutex::{self, AllMutexes};

/// The longest time that a fork waits for other threads.
const PATIENCE: Duration = Duration::from_secs(1);

static IS_REGISTERED: AtomicBool = AtomicBool::new(false);

/// Whether this process was forked while a thread had a mutex that it did not release in time.
static MAY_BE_LOCKED: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// No destructor: a fork may come when those of the thread have run.
    static HELD: Cell<Option<ManuallyDrop<Held>>> = const { Cell::new(None) };
}

/// Dropped in this order: SQLite's, which were taken last, are released first.
struct Held {
    sqlite: StaticMutexes,
    larder: AllMutexes,
}

impl Held {
    fn take() -> Self {
        let until = Instant::now() + PATIENCE;
        let larder = process_mutex::hold(until);
        let sqlite = StaticMutexes::hold(until);
        Self { sqlite, larder }
    }

    fn is_complete(&self) -> bool {
        self.sqlite.is_complete && self.larder.is_complete
    }
}

/// Has forks seen from now on. Called before the process uses SQLite, or starts a thread that its children lack.
pub(crate) fn see() {
    // Not a `Once`: a fork in the middle would leave it locked in the child. Twice does no harm.
    if !IS_REGISTERED.load(Relaxed) {
        at_fork(before, in_parent, in_child);
        IS_REGISTERED.store(true, Relaxed);
    }
}

/// Refuses what would hang in a forked child.
///
/// # Errors
///
/// [`Error::Open`](crate::error::Error::Open) in a child of a process in which a thread had one of the mutexes, and kept
/// it.
pub(super) fn check(path: &Path) -> Result<()> {
    if MAY_BE_LOCKED.load(Relaxed) {
        if !Held::take().is_complete() {
            let problem = "this process was forked while another thread of its parent was inside SQLite and did not \
                           come out, so it can open no database: call exec after the fork, or fork before other \
                           threads use SQLite";
            return Err(refuse(path, problem));
        }
        MAY_BE_LOCKED.store(false, Relaxed);
    }
    Ok(())
}

extern "C" fn before() {
    let held = HELD.take().unwrap_or_else(|| ManuallyDrop::new(Held::take()));
    HELD.set(Some(held));
}

extern "C" fn in_parent() {
    drop(HELD.take().map(ManuallyDrop::into_inner));
}

extern "C" fn in_child() {
    fork::count();
    if let Some(held) = HELD.take().map(ManuallyDrop::into_inner) {
        MAY_BE_LOCKED.store(!held.is_complete(), Relaxed);
    }
}
