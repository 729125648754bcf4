//! The writer: one connection, all writes, and one seat for the thread that writes (`seat.rs`).
//!
//! ```text
//! serve                    the writer thread: takes the seat, works, leaves it, sleeps (seat.rs)
//!   work -> next             the first job: carried over, queued, or spun for
//!        -> run_exclusive    a job that has the writer to itself; or
//!        -> commit_group     BEGIN IMMEDIATE
//!             -> run_job       the first job; then each queued job, in a savepoint
//!             -> commit        COMMIT
//!             -> reply         count, publish, then reply to each caller
//!        -> finish_groups    events; a checkpoint, if due, or a request for one (side_checkpoint.rs)
//!   close                    readers, statistics, TRUNCATE checkpoint, connection
//!
//! run                      a blocking caller: takes the seat if it is free (seat.rs)
//!   run_here -> commit_group   for its own job alone
//! ```
//!
//! # Who owns what
//!
//! The holder of the seat owns the connection, its guard and the current group. It shares two structures with other
//! threads. [`Shared`] holds the queue (`queue/mod.rs`), the poison, which is set once, and the state of closing
//! (`closing.rs`). [`Telemetry`] belongs to the store, and only the holder writes its `Counters`. The holder has none of
//! their locks while a closure runs, while SQLite works, or while it wakes a caller. So the writer thread waits for a caller
//! only where the caller has the seat. Callers wait for it, and a call that the holder would make to itself is an error
//! (`Reentrant`).
//!
//! Each submitted job gets exactly one reply: the job is in the queue, in line, in `carried` or in `group`. Each of
//! these finishes the job or drops it, and a dropped job replies (`queue/job.rs`). Only `reply` sends the reply of a
//! successful write, after COMMIT has returned.
//!
//! # A store that only reads
//!
//! With `Options::read_only` the writer's connection is one that reads, `Shared::check` refuses every job before it is
//! queued, and the thread sleeps until closing: no maintenance is due, and no checkpoint. It reads the settings and the
//! size as the store opens, and drains the readers as it closes.

mod checkpointer;
pub(crate) mod closing;
pub(crate) mod context;
mod exclusive;
mod foreign_keys;
mod group;
mod handover;
pub(crate) mod held;
mod idle;
pub(crate) mod log_keeper;
mod reset;
pub(crate) mod seat;
mod shutdown;
mod side_checkpoint;
mod statistics;
mod wal;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Instant, SystemTime};

use rusqlite::Connection;

use self::checkpointer::{Checkpointer, PATIENCE};
use self::closing::Closing;
use self::context::{Grouped, WriteJob, Writes};
use self::foreign_keys::DeferredKeys;
use self::group::{CommitFailure, Members, Ran};
use self::idle::IdleMaintenance;
use self::log_keeper::LogKeeper;
use self::seat::{LONE_GROUPS, Rest, Seat};
use self::side_checkpoint::SideCheckpoints;
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
use crate::queue::JobQueue;
use crate::queue::job::Job;
use crate::queue::pending::Queue;
use crate::read::Readers;
use crate::runtime::{cancellation, fork};
use crate::telemetry::Telemetry;
use crate::telemetry::page_cache::CacheShare;
use crate::telemetry::slow_log::{Slow, SlowLog};
use crate::telemetry::usage::{CallSiteShard, StatementShard};

/// The state that the writer shares with the callers. It has cache lines to itself: each write reads the poison,
/// and a neighbour in memory may be written all the time.
#[repr(align(128))]
pub(crate) struct Shared {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<OpenFile>,
    pub(crate) queue: Arc<JobQueue<Writes>>,
    pub(crate) closing: Closing,
    poison: OnceLock<Arc<rusqlite::Error>>,
    /// The store is then poisoned, too.
    stopped: OnceLock<Stopped>,
    /// The files of the store have changed, and the writer thread has yet to move its log.
    log_wants_saving: AtomicBool,
    /// Who keeps the contents of the log, if anyone does. Set before the writer starts.
    keeper: OnceLock<Arc<dyn LogKeeper>>,
}

impl Shared {
    pub(crate) fn new(file: Arc<OpenFile>, queue: Arc<JobQueue<Writes>>) -> Self {
        Self {
            path: file.path().to_owned(),
            file,
            queue,
            closing: Closing::default(),
            poison: OnceLock::new(),
            stopped: OnceLock::new(),
            log_wants_saving: AtomicBool::new(false),
            keeper: OnceLock::new(),
        }
    }

    pub(crate) fn keep_log(&self, keeper: Arc<dyn LogKeeper>) {
        let is_first = self.keeper.set(keeper).is_ok();
        debug_assert!(is_first, "a store has one keeper of its log");
    }

    pub(crate) fn keeper(&self) -> Option<&Arc<dyn LogKeeper>> {
        self.keeper.get()
    }

    /// Ends all writes. Returns whether the store was not poisoned before.
    fn set_poison(&self, source: Arc<rusqlite::Error>) -> bool {
        let is_first = self.poison.set(source).is_ok();
        if is_first && let Some(keeper) = self.keeper() {
            keeper.poisoned();
        }
        is_first
    }

    /// The error of every write to a store that only reads.
    fn only_reads(&self, call: &'static str) -> Option<Error> {
        self.file.read_only().map(|_| Error::ReadOnly {
            path: self.path.clone(),
            call,
        })
    }

    /// The error of every write after a disk error, after the files were changed from outside, or after the store was
    /// [`Stopped`].
    pub(crate) fn poison(&self) -> Option<Error> {
        if let Some(stopped) = self.stopped.get() {
            return Some(stopped.to_error(&self.path));
        }
        self.poison.get().map(|source| Error::Poisoned {
            source: Arc::clone(source),
        })
    }
}

/// Why a store takes no more writes, though its files are sound.
pub(crate) enum Stopped {
    /// Another primary has taken the replica over.
    Fenced { by: String, since: SystemTime },
    /// The replica is not the one that the store goes on with.
    Diverged { url: String, problem: String },
}

impl Stopped {
    fn to_error(&self, path: &Path) -> Error {
        match self {
            Self::Fenced { by, since } => Error::Fenced {
                by: by.clone(),
                since: *since,
            },
            Self::Diverged { url, problem } => Error::Diverged {
                path: path.into(),
                url: url.clone(),
                problem: problem.clone(),
            },
        }
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
    side: SideCheckpoints,
    /// The current level of `PRAGMA synchronous`.
    durability: Durability,
    deferred_keys: DeferredKeys,
    /// A job that did not fit into the last group.
    carried: Option<WriteJob>,
    /// When a group began whose BEGIN found SQLite's lock taken until its time was over, and SQLite's message: jobs that
    /// have waited as long are still to be failed.
    locked_out: Option<(Instant, String)>,
    /// Whether a caller has the seat.
    is_callers: bool,
    /// Successful jobs of the open transaction, in order. Empty while none is open.
    group: Vec<Ran>,
    /// When the thread last waited for readers while the log exceeded its hard limit.
    tried_when_full: Option<Instant>,
    /// Number of jobs in the last group.
    last_group: usize,
    /// Groups of one blocked caller that the writer thread has run in a row.
    lone_groups: u32,
    /// When the last group or exclusive job ended, or idle maintenance.
    last_used: Instant,
    /// When the sleeping writer thread wakes for idle maintenance.
    wakes_at: Option<Instant>,
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

/// What the writer thread does next.
enum Next {
    Job(WriteJob),
    /// Nothing is queued.
    Idle,
    /// The store is closing, and the queue is drained, or its time is over.
    Closed,
}

/// Emits an event about that database.
type Deferred = Box<dyn FnOnce(&Path) + Send>;

impl Writer {
    /// Starts the writer thread. Returns the seat, which callers may take, too.
    pub(crate) fn start(
        guarded: GuardedConnection,
        options: Settings,
        shared: Arc<Shared>,
        readers: Arc<Readers>,
        telemetry: Arc<Telemetry>,
        folder: Option<Arc<TempFolder>>,
    ) -> Result<Arc<Seat>> {
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
            side: SideCheckpoints::default(),
            durability,
            deferred_keys: DeferredKeys::default(),
            carried: None,
            locked_out: None,
            is_callers: false,
            group: Vec::new(),
            tried_when_full: None,
            last_group: 0,
            lone_groups: LONE_GROUPS,
            last_used: Instant::now(),
            wakes_at: None,
            slow: Vec::new(),
            deferred: RefCell::default(),
            folder,
        };
        // Here, so that the store has its figures once it is open.
        writer.look_at_file();
        writer.idle_maintenance = IdleMaintenance::new(writer.telemetry.counters.size().pages);
        let thread = thread::Builder::new().name("larder-writer".into());
        let shared = Arc::clone(&writer.shared);
        let seat = Seat::new(writer);
        let (its_seat, its_shared) = (Arc::clone(&seat), Arc::clone(&shared));
        thread
            .spawn(move || its_seat.serve(&its_shared))
            .map(|_| seat)
            .map_err(|error| Error::no_thread(&shared.path, "its writer", error))
    }

    /// For the writer thread, in its seat: does what is to be done, until nothing is.
    fn work(&mut self) -> Rest {
        self.telemetry.counters.seat_taken();
        loop {
            self.finish_groups();
            match self.next() {
                Next::Job(WriteJob::Grouped(job)) => self.run_group(job),
                Next::Job(WriteJob::Exclusive(job)) => {
                    self.lone_groups = 0;
                    self.run_exclusive(job);
                }
                Next::Idle => {
                    let now = Instant::now();
                    let due = self.idle_due(now);
                    if due.is_some_and(|due| due <= now) {
                        self.run_idle_maintenance();
                        continue;
                    }
                    self.wakes_at = due;
                    self.telemetry.counters.seat_left();
                    return Rest::Idle {
                        patience: due.map(|due| due - now),
                        offers: self.serves_lone_caller(),
                    };
                }
                // What closes the store may still commit.
                Next::Closed => return Rest::Closed,
            }
        }
    }

    fn run_group(&mut self, first: Job<Grouped>) {
        let blocks_thread = first.blocks_thread();
        let jobs = self.commit_group(first, Members::All);
        let lone = jobs == 1 && blocks_thread && self.shared.queue.is_empty() && self.carried.is_none();
        self.lone_groups = if lone { self.lone_groups.saturating_add(1) } else { 0 };
    }

    /// For a caller, in the seat: runs its job. Returns whether the writer thread has something to do now.
    fn run_here(&mut self, job: Job<Grouped>) -> bool {
        self.telemetry.counters.seat_taken();
        let hooked = checkpointer::put_aside();
        self.is_callers = true;
        cancellation::without(|| self.commit_group(job, Members::OnlyFirst));
        self.is_callers = false;
        drop(hooked);
        self.telemetry.counters.seat_left();
        self.has_unfinished()
    }

    /// Whether a caller that has the seat may run its job. Otherwise something comes first that is for the writer thread.
    fn admits_caller(&self) -> bool {
        self.carried.is_none()
            && self.locked_out.is_none()
            && self.spoiled.is_none()
            && self.checkpointer.over_hard_limit().is_none()
    }

    /// Whether a caller leaves something to the writer thread, which may be asleep.
    fn has_unfinished(&self) -> bool {
        let wakes_too_late = |due| self.wakes_at.is_none_or(|at| due < at);
        self.carried.is_some()
            || self.locked_out.is_some()
            || !self.slow.is_empty()
            || !self.deferred.borrow().is_empty()
            || self.due_checkpoint().is_some()
            || self.idle_due(self.last_used).is_some_and(wakes_too_late)
    }

    /// What comes between two groups, and after those of callers: events, and a checkpoint if one is due.
    fn finish_groups(&mut self) {
        if self.shared.poison.get().is_some() {
            self.stop_side_checkpoint();
        }
        self.save_log_if_wanted();
        self.fail_locked_out();
        // First, because it may leave events, and nothing may wake this thread for them later.
        let ended = self.take_side_checkpoint();
        self.report_slow();
        self.emit_deferred();
        self.take_turn_of_keeper();
        let due = self.due_checkpoint();
        let own = due.filter(|mode| !self.hand_over(*mode));
        if let Some(mode) = own {
            self.checkpoint(mode, PATIENCE);
        }
        if own.is_some() || (ended && !self.side.is_running() && self.shared.poison.get().is_none()) {
            self.run_overdue_maintenance();
            self.emit_deferred();
        }
    }

    /// Whether the last groups were those of one blocked caller at a time (`seat.rs`).
    fn serves_lone_caller(&self) -> bool {
        self.lone_groups >= LONE_GROUPS
    }

    fn next(&mut self) -> Next {
        self.end_in_child();
        let queue = &self.shared.queue;
        if queue.is_closed() && self.time_to_close_is_over() {
            return Next::Closed;
        }
        let mut next = self.take_next();
        if next.is_none() && self.side.has_slices() && self.shared.queue.is_closed() {
            // Slices that were held back come before the end, if there is time.
            if !self.side_checkpoint_ends_in_time() {
                return Next::Closed;
            }
            next = self.take_next();
        }
        if let Some(job) = next {
            self.shared.queue.spin().set_hot(true);
            return Next::Job(job);
        }
        let queue = &self.shared.queue;
        if self.holds_slices() && !queue.is_closed() {
            // It is summoned when the checkpoint is over.
            return Next::Idle;
        }
        if queue.is_closed() {
            // A job may have arrived after the check above, but none arrives any more.
            return queue.pop().map_or(Next::Closed, Next::Job);
        }
        if self.serves_lone_caller() {
            queue.spin().set_hot(false);
            return Next::Idle;
        }
        queue.spin().spin_for_job(|| queue.pop()).map_or(Next::Idle, Next::Job)
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

    pub(super) fn time_to_close_is_over(&self) -> bool {
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
