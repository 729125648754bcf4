//! The writer thread: one thread, one connection, all writes.
//!
//! ```text
//! run -> next            the first job: carried over, queued, or waited for
//!     -> run_exclusive   a job that has the writer to itself; or
//!     -> commit_group    BEGIN IMMEDIATE
//!          -> run_job      the first job; then each queued job, in a savepoint
//!          -> commit       COMMIT
//!          -> reply        count, publish, then reply to each caller
//!     -> checkpoint      if due
//! close                  readers, statistics, TRUNCATE checkpoint, connection
//! ```
//!
//! # Who owns what
//!
//! The writer thread owns the connection, its guard and the current group. It shares two structures with other threads.
//! [`Shared`] holds the queue (`queue/mod.rs`), the poison, which is set once, and the state of closing (`closing.rs`).
//! [`Telemetry`] belongs to the store, and only this thread writes its `Counters`. The writer thread holds none of
//! their locks while a closure runs, while SQLite works, or while it wakes a caller. So it never waits for a caller.
//! Callers wait for it, and a call that it would make to itself is an error (`Reentrant`).
//!
//! Each submitted job gets exactly one reply: the job is in the queue, in line, in `carried` or in `group`. Each of
//! these finishes the job or drops it, and a dropped job replies (`queue/job.rs`). Only `reply` sends the reply of a
//! successful write, after COMMIT has returned.

mod checkpointer;
pub(crate) mod closing;
pub(crate) mod context;
mod exclusive;
mod foreign_keys;
mod group;
mod idle;
mod reset;
mod shutdown;
mod statistics;
mod wal;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Instant;

use rusqlite::Connection;

use self::checkpointer::{Checkpointer, PATIENCE};
use self::closing::Closing;
use self::context::{WriteJob, Writes};
use self::foreign_keys::DeferredKeys;
use self::group::{CommitFailure, Ran};
use self::idle::IdleMaintenance;
use self::shutdown::PanicGuard;
pub(crate) use self::wal::DatabaseSize;
use self::wal::Looked;
use crate::connection::authorizer::SqlGuard;
use crate::connection::cause::explained;
use crate::connection::interrupt::Interrupt;
use crate::connection::open_file::{Lease, OpenFile};
use crate::connection::temp_folder::TempFolder;
use crate::connection::transaction_control::{Control, ControlStatements};
use crate::connection::{Baseline, GuardedConnection};
use crate::error::{Error, Result};
use crate::options::{Durability, Settings};
use crate::queue::pending::Queue;
use crate::queue::{JobQueue, Slept};
use crate::read::Readers;
use crate::runtime::fork;
use crate::telemetry::Telemetry;
use crate::telemetry::page_cache::CacheShare;
use crate::telemetry::slow_log::{Slow, SlowLog};
use crate::telemetry::usage::{CallSiteShard, StatementShard};

/// The state that the writer thread shares with the callers. It has cache lines to itself: each write reads the poison,
/// and a neighbour in memory may be written all the time.
#[repr(align(128))]
pub(crate) struct Shared {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<OpenFile>,
    pub(crate) queue: Arc<JobQueue<Writes>>,
    pub(crate) closing: Closing,
    poison: OnceLock<Arc<rusqlite::Error>>,
    /// The files of the store have changed, and the writer thread has yet to move its log.
    log_wants_saving: AtomicBool,
}

impl Shared {
    pub(crate) fn new(file: Arc<OpenFile>, queue: Arc<JobQueue<Writes>>) -> Self {
        Self {
            path: file.path().to_owned(),
            file,
            queue,
            closing: Closing::default(),
            poison: OnceLock::new(),
            log_wants_saving: AtomicBool::new(false),
        }
    }

    /// The error of every write after a disk error, or after the files were changed from outside.
    pub(crate) fn poison(&self) -> Option<Error> {
        self.poison.get().map(|source| Error::Poisoned {
            source: Arc::clone(source),
        })
    }
}

pub(crate) struct Writer {
    shared: Arc<Shared>,
    readers: Arc<Readers>,
    telemetry: Arc<Telemetry>,
    options: Settings,
    /// The state in which the connection was opened. Dropped before the connection.
    baseline: Baseline,
    /// Dropped before the connection, too.
    control: ControlStatements,
    /// Declared before the connection, so that a panicking thread drops it first.
    lease: Lease,
    conn: Connection,
    guard: Arc<SqlGuard>,
    interrupt: Arc<Interrupt>,
    /// The number of groups and exclusive jobs so far, and of connections.
    jobs: u64,
    /// Why the connection is to be replaced before the next job.
    spoiled: Option<&'static str>,
    /// Whether the last group has left a running statement.
    left_running: bool,
    checkpointer: Checkpointer,
    /// The current level of `PRAGMA synchronous`.
    durability: Durability,
    deferred_keys: DeferredKeys,
    /// A job that did not fit into the last group.
    carried: Option<WriteJob>,
    /// Successful jobs of the open transaction, in order. Empty while none is open.
    group: Vec<Ran>,
    /// When the thread last waited for readers while the log exceeded its hard limit.
    tried_when_full: Option<Instant>,
    /// Number of jobs in the last group.
    last_group: usize,
    /// Reports of slow jobs, emitted after the replies.
    slow: Vec<Slow>,
    slow_log: SlowLog,
    /// Events that are emitted after the replies.
    deferred: RefCell<Vec<Deferred>>,
    sites: CallSiteShard,
    /// `Some` if statements are counted.
    statements: Option<RefCell<StatementShard>>,
    cache: CacheShare,
    looked: Looked,
    idle_maintenance: IdleMaintenance,
    /// Dropped after the connection has closed.
    folder: Option<Arc<TempFolder>>,
}

/// Emits an event about that database.
type Deferred = Box<dyn FnOnce(&Path) + Send>;

impl Writer {
    /// Starts the writer thread.
    pub(crate) fn start(
        guarded: GuardedConnection,
        options: Settings,
        shared: Arc<Shared>,
        readers: Arc<Readers>,
        telemetry: Arc<Telemetry>,
        folder: Option<Arc<TempFolder>>,
    ) -> Result<()> {
        let GuardedConnection {
            baseline,
            lease,
            conn,
            guard,
            interrupt,
        } = guarded;
        let checkpointer = Checkpointer::watch(&conn, &guard, &options)?;
        let durability = options.durability;
        let mut writer = Self {
            sites: CallSiteShard::new(&telemetry.write_sites),
            statements: StatementShard::if_on(&telemetry.statements).map(RefCell::new),
            cache: CacheShare::new(&telemetry.cache),
            looked: Looked::default(),
            idle_maintenance: IdleMaintenance::new(0),
            slow_log: SlowLog::new(options.slow_events_per_second),
            shared,
            readers,
            telemetry,
            options,
            baseline,
            control: ControlStatements::default(),
            lease,
            conn,
            guard,
            interrupt,
            jobs: 0,
            spoiled: None,
            left_running: false,
            checkpointer,
            durability,
            deferred_keys: DeferredKeys::default(),
            carried: None,
            group: Vec::new(),
            tried_when_full: None,
            last_group: 0,
            slow: Vec::new(),
            deferred: RefCell::default(),
            folder,
        };
        // Here, so that the store has its figures once it is open.
        writer.look_at_file();
        writer.idle_maintenance = IdleMaintenance::new(writer.telemetry.counters.size().pages);
        let thread = thread::Builder::new().name("larder-writer".into());
        let path = writer.shared.path.clone();
        thread
            .spawn(move || writer.run())
            .map(drop)
            .map_err(|error| Error::no_thread(&path, "its writer", error))
    }

    fn run(mut self) {
        self.shared.queue.become_worker();
        let _guard = PanicGuard {
            shared: Arc::clone(&self.shared),
        };
        while let Some(job) = self.next() {
            self.save_log_if_wanted();
            match job {
                WriteJob::Grouped(job) => self.commit_group(job),
                WriteJob::Exclusive(job) => self.run_exclusive(job),
            }
            self.emit_deferred();
            if let Some(mode) = self.checkpointer.due() {
                self.checkpoint(mode, PATIENCE);
                self.run_overdue_maintenance();
                self.emit_deferred();
            }
        }
        self.close();
    }

    /// The first job of the next group; `None` once the store is closing and the queue is drained, or its time is over.
    fn next(&mut self) -> Option<WriteJob> {
        loop {
            self.end_in_child();
            if self.shared.queue.is_closed() && self.time_to_close_is_over() {
                return None;
            }
            if let Some(job) = self.carried.take().or_else(|| self.queued()) {
                self.shared.queue.spin().set_hot(true);
                return Some(job);
            }
            if self.shared.queue.is_closed() {
                // A job may have arrived after the check above, but none arrives any more.
                return self.queued();
            }
            if let Some(job) = self.wait() {
                return Some(job);
            }
        }
    }

    /// Ends the process in a forked child: user code has forked on this thread, and returned in the child.
    fn end_in_child(&self) {
        if self.shared.queue.is_left() {
            fork::end_child();
        }
    }

    /// The next job, if one is queued.
    fn queued(&self) -> Option<WriteJob> {
        self.shared.queue.pop()
    }

    /// Waits for a job. Uses an idle pause for a checkpoint and for maintenance.
    fn wait(&mut self) -> Option<WriteJob> {
        let queue = &self.shared.queue;
        if let Some(job) = queue.spin().spin_for_job(|| queue.pop()) {
            return Some(job);
        }
        let patience = self.idle_patience();
        match self.telemetry.counters.while_asleep(|| queue.sleep(patience)) {
            Slept::Job(job) => Some(job),
            Slept::Closed => None,
            Slept::Long => {
                self.run_idle_maintenance();
                None
            }
        }
    }

    fn time_to_close_is_over(&self) -> bool {
        self.shared
            .closing
            .deadline()
            .is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Defers the event until the callers have their replies, because a subscriber may be slow.
    fn defer(&self, event: impl FnOnce(&Path) + Send + 'static) {
        self.deferred.borrow_mut().push(Box::new(event));
    }

    fn emit_deferred(&self) {
        for event in self.deferred.take() {
            event(&self.shared.path);
        }
    }

    fn run_internal(&self, control: Control) -> rusqlite::Result<()> {
        let done = self.control.run(&self.conn, &self.guard, control);
        done.map_err(|error| self.guard.as_internal(|| explained(&self.conn, error)))
    }
}
