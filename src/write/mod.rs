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
//! close                  readers, optimize, TRUNCATE checkpoint, connection
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
//!
//! # One job in a group
//!
//! The first job of a transaction needs no savepoint: the transaction is its savepoint. After *every* job, successful
//! or not, the writer thread checks `is_autocommit`: on a full disk, an I/O error, an interrupt, lack of memory,
//! `RAISE(ROLLBACK)` or `ON CONFLICT ROLLBACK`, SQLite has ended the whole transaction, even if the closure swallowed
//! the error. Then all jobs before it reply `RolledBack`, and the jobs after it get a new transaction.

mod checkpointer;
pub(crate) mod closing;
pub(crate) mod context;
mod exclusive;
mod foreign_keys;
mod idle;
mod shutdown;
mod wal;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use std::{mem, thread};

use rusqlite::{Connection, ffi};

use self::checkpointer::{Checkpointer, Mode, PATIENCE};
use self::closing::Closing;
use self::context::{Grouped, WriteJob, Writes};
use self::foreign_keys::DeferredKeys;
use self::idle::IdleMaintenance;
use self::shutdown::PanicGuard;
pub(crate) use self::wal::DatabaseSize;
use self::wal::Looked;
use crate::connection::authorizer::SqlGuard;
use crate::connection::c_api::{self, Leaked};
use crate::connection::filesystem::TempFolder;
use crate::connection::interrupt::{Interrupt, Limit, LimitKind};
use crate::connection::open_file::{Lease, OpenFile};
use crate::connection::{self, Baseline, GuardedConnection, Restored, synchronous};
use crate::error::{Error, Result, extended_code, primary_code};
use crate::options::{Durability, Settings};
use crate::queue::job::{Job, Resolution, Scope};
use crate::queue::pending::Queue;
use crate::queue::{JobQueue, Slept};
use crate::read::Readers;
use crate::runtime::fork;
use crate::runtime::panic::caught;
use crate::telemetry::Telemetry;
use crate::telemetry::event::event;
use crate::telemetry::page_cache::CacheShare;
use crate::telemetry::slow_log::{Call, Slow, SlowLog, SlowStatement};
use crate::telemetry::usage::{CallSiteShard, StatementShard};
use crate::transaction::hot_statement::Prepared;
use crate::transaction::{ENDED, WriteTx, run_internal, sql};

const ENDED_AFTER: &str = "SQLite ended the whole transaction as the connection was reset after the closure (an I/O error or \
                           no memory)";

/// How long the queue stays empty before the writer thread runs a checkpoint and idle maintenance.
const IDLE: Duration = Duration::from_secs(1);

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
    /// Declared before the connection, so that a panicking thread drops it first.
    lease: Lease,
    conn: Connection,
    guard: Arc<SqlGuard>,
    interrupt: Arc<Interrupt>,
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

/// A job whose closure has run.
struct Ran {
    job: Job<Grouped>,
    /// The index of its call site's counters.
    site: Option<usize>,
    /// Rows that the job changed.
    changed: u64,
}

/// The run of one closure.
struct Execution {
    /// The kind of its error, if it failed.
    result: std::result::Result<(), &'static str>,
    /// The error of a closure that ran for longer than its limit.
    overrun: Option<Error>,
    /// Whether it may have changed settings of the connection, which no rollback undoes.
    left_settings: bool,
    ended: Instant,
}

/// The outcome of a transaction whose COMMIT failed.
enum CommitFailure {
    /// The outcome is unknown; the store is poisoned.
    Unknown(Arc<rusqlite::Error>),
    RolledBack(rusqlite::Error),
}

/// Whether a COMMIT with that error may have taken effect.
///
/// SQLite writes the commit frame, syncs it, and then enters it in the index. Only these errors can come from there or
/// later; all others come before it.
pub(crate) fn commit_is_unknown(error: &rusqlite::Error) -> bool {
    matches!(
        primary_code(error),
        Some(ffi::SQLITE_IOERR | ffi::SQLITE_NOMEM | ffi::SQLITE_CANTOPEN | ffi::SQLITE_PROTOCOL) | None
    )
}

/// The kind of error that the caller receives (`queue/job.rs`): mostly the closure's own error says more.
fn told(error: &Error, own: Option<&'static str>) -> &'static str {
    match (error, own) {
        (Error::Interrupted { .. }, Some("panic")) => "panic",
        (Error::Interrupted { .. }, _) | (_, None) => error.kind(),
        (_, Some(own)) => own,
    }
}

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
        let writer = Self {
            sites: CallSiteShard::new(&telemetry.write_sites),
            statements: StatementShard::if_on(&telemetry.statements).map(RefCell::new),
            cache: CacheShare::new(&telemetry.cache),
            looked: Looked::default(),
            idle_maintenance: IdleMaintenance::new(),
            slow_log: SlowLog::new(options.slow_events_per_second),
            shared,
            readers,
            telemetry,
            options,
            baseline,
            lease,
            conn,
            guard,
            interrupt,
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
        self.look_at_file();
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

    // ---- taking jobs ----

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
        match queue.sleep(self.idle_patience()) {
            Slept::Job(job) => Some(job),
            Slept::Closed => None,
            Slept::Long => {
                // A transaction whose ROLLBACK failed keeps SQLite's lock from other processes.
                self.roll_back();
                if !self.checkpointer.is_empty() {
                    self.checkpoint(Mode::Passive, PATIENCE);
                }
                self.run_idle_maintenance();
                self.emit_deferred();
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

    // ---- one group ----

    fn commit_group(&mut self, first: Job<Grouped>) {
        let began = Instant::now();
        let mut now = began;
        let mut candidate = Some(WriteJob::Grouped(first));
        while let Some(job) = candidate {
            let job = match job {
                WriteJob::Grouped(job) if self.fits(&job) => job,
                other => {
                    self.carried = Some(other);
                    break;
                }
            };
            let alone = job.order().limit.is_some();
            if let Some(job) = self.claim(job, now) {
                now = match self.begin(job, now) {
                    Some((job, begun)) => self.run_job(job, begun),
                    None => Instant::now(),
                };
            }
            let full = self.group.len() >= self.options.max_group_size
                || now - began >= self.options.max_group_time
                || self.spoiled.is_some();
            candidate = if alone || full {
                None
            } else {
                self.carried.take().or_else(|| self.queued())
            };
        }
        self.last_group = self.group.len();
        if self.commit() {
            self.reply(began);
        }
        self.reset_left_running();
        self.report_slow();
    }

    /// Whether the job may join the open transaction, or begin one. `synchronous` cannot be changed inside a
    /// transaction.
    fn fits(&self, job: &Job<Grouped>) -> bool {
        let order = job.order();
        self.group.is_empty() || (order.limit.is_none() && order.durability <= self.durability)
    }

    /// Starts the job, unless its caller has withdrawn it, its deadline has passed or the store is poisoned.
    fn claim<S: Scope>(&mut self, job: Job<S>, now: Instant) -> Option<Job<S>> {
        if !job.start() {
            return None;
        }
        let meta = job.meta();
        let waited = now.saturating_duration_since(meta.asked);
        let error = if now >= meta.deadline {
            Some(Error::QueueTimeout { waited })
        } else {
            self.shared.poison()
        };
        if let Some(error) = error {
            self.fail(job, error);
            return None;
        }
        self.telemetry.counters.waited(waited);
        Some(job)
    }

    /// Begins a transaction for the job, if none is open. Returns when the transaction began. If BEGIN fails, the job
    /// has not started, and neither have those jobs that have waited for SQLite's lock as long as it has.
    fn begin(&mut self, job: Job<Grouped>, now: Instant) -> Option<(Job<Grouped>, Instant)> {
        if !self.group.is_empty() {
            return Some((job, now));
        }
        if let Some(error) = self.wal_full() {
            self.fail(job, error);
            return None;
        }
        if let Err(error) = self.replace_spoiled() {
            self.fail(job, error);
            return None;
        }
        let wanted = job.order().durability.max(self.options.durability);
        let before = Instant::now();
        // A transaction whose ROLLBACK failed for lack of memory would block every later write.
        let begun = self
            .try_roll_back()
            .and_then(|()| self.set_durability(wanted))
            .and_then(|()| self.run_internal(sql::BEGIN_WRITE));
        let Err(error) = begun else {
            let after = Instant::now();
            self.telemetry.counters.begin.add_time(after - before);
            return Some((job, after));
        };
        let busy = primary_code(&error) == Some(ffi::SQLITE_BUSY);
        let text = error.to_string();
        self.fail(job, Error::not_started(error));
        while busy && let Some(job) = self.queued() {
            let job = match job {
                WriteJob::Grouped(job) if job.meta().asked <= now => job,
                // An exclusive job waits for the lock by itself, and longer.
                other => {
                    self.carried = Some(other);
                    break;
                }
            };
            if let Some(job) = self.claim(job, Instant::now()) {
                let error = rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_BUSY), Some(text.clone()));
                self.fail(job, Error::not_started(error));
            }
        }
        None
    }

    /// Not from the statement cache, and no statement is kept: "Some pragmas take effect during the SQL compilation
    /// stage, not the execution stage", <https://sqlite.org/pragma.html>.
    fn set_durability(&mut self, wanted: Durability) -> rusqlite::Result<()> {
        if wanted != self.durability {
            let pragma = format!("PRAGMA synchronous = {}", synchronous(wanted));
            self.guard.as_internal(|| self.conn.execute_batch(&pragma))?;
            self.durability = wanted;
        }
        Ok(())
    }

    /// Runs one job in the open transaction, and ensures that it takes effect wholly or not at all. Returns when its
    /// closure ended.
    fn run_job(&mut self, job: Job<Grouped>, started: Instant) -> Instant {
        let Some((job, started, nested)) = self.ensure_savepoint(job, started) else {
            return Instant::now();
        };
        let (ran, execution) = self.execute(job, started);
        let ended = execution.ended;
        self.conclude(ran, execution, nested);
        ended
    }

    /// Opens the savepoint that undoes the job. The first job of a transaction needs none; the last value is then false.
    fn ensure_savepoint(&mut self, job: Job<Grouped>, started: Instant) -> Option<(Job<Grouped>, Instant, bool)> {
        if self.group.is_empty() {
            return Some((job, started, false));
        }
        let Err(error) = self.run_internal(sql::SAVEPOINT) else {
            return Some((job, started, true));
        };
        // A virtual table of an earlier job could not be flushed. This job did not cause that, and has not started: it
        // gets a new transaction.
        self.roll_back();
        self.lose_group("a savepoint could not be made", Some(&Arc::new(error)));
        self.begin(job, started).map(|(job, begun)| (job, begun, false))
    }

    /// Runs the closure and counts it.
    fn execute(&mut self, job: Job<Grouped>, started: Instant) -> (Ran, Execution) {
        self.guard.reset();
        self.interrupt.reset();
        let site = self.sites.find(&job.meta().site);
        self.telemetry.writing.begin(started, job.meta().site.clone());
        let before = self.guard.changes().restart(&self.conn);
        let limit = job.order().limit.map(|time| Limit {
            kind: LimitKind::Write,
            time,
        });
        let bounded = self.interrupt.bound(&self.conn, started, limit);
        let prepared = Prepared::new(&self.conn);
        let tx = WriteTx::new(
            &self.conn,
            &self.guard,
            &self.interrupt,
            self.options.slow_write_threshold,
            self.statements.as_ref(),
            &prepared,
        );
        let result = job.run(&tx);
        let left_settings = tx.had_raw_access() || limit.is_some();
        let (slowest, rows_read, disk_full) = (tx.slowest(), tx.rows(), tx.found_disk_full());
        drop(prepared);
        let ended = Instant::now();
        let overrun = bounded.and_then(|bounded| bounded.end(ended, result.is_ok()));
        self.telemetry.writing.end();
        let changed = self.conn.total_changes().saturating_sub(before);
        let ran = Ran { job, site, changed };
        self.note_run(&ran, ended - started, rows_read, disk_full);
        let error = overrun.as_ref().map(Error::kind).or(result.err());
        self.note_if_slow(&ran, started, ended, error, slowest);
        let execution = Execution {
            result,
            overrun,
            left_settings,
            ended,
        };
        (ran, execution)
    }

    /// Keeps the changes of the job for the commit of its group, or undoes them and replies.
    fn conclude(&mut self, ran: Ran, execution: Execution, nested: bool) {
        let Execution { result, overrun, .. } = execution;
        let ended_inside = self.conn.is_autocommit();
        if execution.left_settings {
            self.tidy();
        }
        let settled = self.settle(result.is_ok(), ended_inside, execution.left_settings);
        if let Some(error) = overrun.or(settled) {
            return self.undo(ran, told(&error, result.err()), Resolution::Failed(error), nested);
        }
        if let Err(kind) = result {
            return self.undo(ran, kind, Resolution::Own, nested);
        }
        if nested && let Err(error) = self.run_internal(sql::RELEASE) {
            return self.undo(ran, "Sqlite", Resolution::Failed(error.into()), nested);
        }
        self.group.push(ran);
    }

    /// Counts a closure that has run.
    fn note_run(&self, ran: &Ran, time: Duration, rows_read: u64, full: bool) {
        self.telemetry.counters.execute.add_time(time);
        if let Some(site) = ran.site {
            self.sites[site].ran(time, rows_read);
        }
        if full {
            self.telemetry.counters.disk_was_full(ran.job.meta().site.clone());
        }
    }

    /// Resets state that a closure may have left on the connection through rusqlite's own methods, and that no rollback
    /// resets.
    fn tidy(&mut self) {
        let _ = self.interrupt.put_back(&self.conn);
        let _ = self.conn.busy_timeout(self.options.busy_timeout);
        Checkpointer::watch_log(&self.conn);
        if let Restored::NotAll(reason) = self.baseline.restore(&self.conn, &self.guard) {
            self.spoiled.get_or_insert(reason);
        }
        if self.conn.is_busy() {
            self.reset_leaked(Leaked::Ours);
            self.left_running = self.conn.is_busy();
        }
    }

    fn reset_leaked(&mut self, which: Leaked) {
        let leaked = c_api::reset_leaked(&mut self.conn, which);
        if leaked > 0 {
            self.defer(move |path| {
                event!(
                    warn,
                    "larder::write",
                    path,
                    { leaked },
                    "a closure forgot statements that were in the middle of their rows; they were reset"
                );
            });
        }
    }

    /// Called after a transaction. Inside one, a leaked `Blob` that only reads cannot be distinguished from a `Blob`
    /// that a full-text table keeps; the latter is closed with the transaction. A statement that still runs would block
    /// every checkpoint of the log.
    fn reset_left_running(&mut self) {
        if self.left_running && self.conn.is_autocommit() {
            self.left_running = false;
            self.reset_leaked(Leaked::All);
        }
    }

    /// Between two groups: replaces a connection that a closure has left in a state that cannot be reset.
    ///
    /// # Errors
    ///
    /// The new connection could not be opened. No job runs on the old one, and the next job tries again.
    fn replace_spoiled(&mut self) -> Result<()> {
        let Some(reason) = self.spoiled else { return Ok(()) };
        let open = || connection::open_writer_again(&self.shared.file, &self.options);
        let GuardedConnection {
            baseline,
            lease,
            conn,
            guard,
            interrupt,
        } = caught(open).unwrap_or_else(|| {
            Err(Error::Options {
                option: "on_connect",
                problem: "it panicked for the writer".into(),
            })
        })?;
        Checkpointer::watch_log(&conn);
        self.roll_back();
        self.reset_leaked(Leaked::All);
        self.baseline = baseline;
        self.guard = guard;
        self.interrupt = interrupt;
        self.durability = self.options.durability;
        self.deferred_keys = DeferredKeys::default();
        self.looked.forget_version();
        let mut old = mem::replace(&mut self.lease, lease);
        old.release();
        connection::close(mem::replace(&mut self.conn, conn));
        drop(old);
        self.spoiled = None;
        self.defer(move |path| {
            event!(
                warn,
                "larder::write",
                path,
                { reason },
                "a write has left its connection so that it was closed and another one opened"
            );
        });
        Ok(())
    }

    /// Finds errors that a closure did not see, and drops its temporary objects. `ended_inside` says whether SQLite had
    /// ended the transaction when the closure returned. After that, only the reset of a connection that was `tidied`
    /// may have ended it.
    fn settle(&mut self, ok: bool, ended_inside: bool, tidied: bool) -> Option<Error> {
        if ended_inside || tidied && self.conn.is_autocommit() {
            return Some(Error::RolledBack {
                reason: if ended_inside { ENDED } else { ENDED_AFTER },
                caused_by_closure: ended_inside,
                source: None,
            });
        }
        if !ok {
            return None;
        }
        // "Deferred foreign key constraints are not checked until the transaction tries to COMMIT", so the violation
        // would be that of the whole group. <https://sqlite.org/foreignkeys.html#fk_deferred>
        match self.violates_deferred_keys() {
            Ok(false) => {}
            Ok(true) => {
                let code = ffi::Error::new(ffi::SQLITE_CONSTRAINT_FOREIGNKEY);
                let message =
                    Some("FOREIGN KEY constraint failed (a deferred one, judged at the end of the closure)".to_owned());
                return Some(rusqlite::Error::SqliteFailure(code, message).into());
            }
            Err(error) => return Some(error.into()),
        }
        if self.guard.may_make_temporary() {
            return self.drop_temporary().err().map(Error::from);
        }
        None
    }

    /// Undoes the job, by its savepoint or by the transaction if no other job has used it, and replies to its caller.
    fn undo(&mut self, ran: Ran, kind: &'static str, resolution: Resolution, nested: bool) {
        // ROLLBACK TO leaves the savepoint open: RELEASE must follow.
        let undone = nested
            && !self.conn.is_autocommit()
            && self
                .run_internal(sql::ROLLBACK_TO)
                .and_then(|()| self.run_internal(sql::RELEASE))
                .is_ok();
        self.deferred_keys.rolled_back();
        self.guard.transaction_ended(false);
        if !undone {
            self.roll_back();
        }
        self.tell(ran, kind, resolution);
        if !undone && !self.group.is_empty() {
            self.lose_group(
                "another write of the same group made SQLite end the whole transaction",
                None,
            );
        }
    }

    /// Ends the transaction, unless SQLite has done so.
    fn roll_back(&self) {
        if let Err(error) = self.try_roll_back() {
            self.defer(move |path| {
                event!(
                    error,
                    "larder::write",
                    path,
                    { "db.response.status_code" = extended_code(&error) },
                    "ROLLBACK failed"
                );
            });
        }
    }

    fn try_roll_back(&self) -> rusqlite::Result<()> {
        self.deferred_keys.rolled_back();
        self.guard.transaction_ended(false);
        if self.conn.is_autocommit() {
            Ok(())
        } else {
            self.run_internal(sql::ROLLBACK)
        }
    }

    /// Replies to every job of the group that its transaction was rolled back.
    fn lose_group(&mut self, reason: &'static str, source: Option<&Arc<rusqlite::Error>>) {
        let writes = self.group.len();
        let code = source.and_then(|e| extended_code(e));
        self.defer(move |path| {
            event!(
                warn,
                "larder::write",
                path,
                { writes, reason, "db.response.status_code" = code },
                "group rolled back"
            );
        });
        for ran in mem::take(&mut self.group) {
            let error = Error::RolledBack {
                reason,
                caused_by_closure: false,
                source: source.map(Arc::clone),
            };
            self.tell(ran, error.kind(), Resolution::Failed(error));
        }
    }

    /// Commits the open transaction. If COMMIT fails, replies to every job of the group with its outcome.
    fn commit(&mut self) -> bool {
        if self.group.is_empty() {
            return false;
        }
        self.end_in_child();
        let before = Instant::now();
        let committed = self.commit_transaction();
        self.telemetry.counters.commit.add_time(before.elapsed());
        match committed {
            Ok(()) => return true,
            Err(CommitFailure::Unknown(source)) => {
                for ran in mem::take(&mut self.group) {
                    let error = Error::CommitUnknown {
                        source: Arc::clone(&source),
                    };
                    self.tell(ran, error.kind(), Resolution::Failed(error));
                }
            }
            Err(CommitFailure::RolledBack(error)) => self.commit_was_rolled_back(error),
        }
        false
    }

    fn commit_was_rolled_back(&mut self, error: rusqlite::Error) {
        let first = &self.group[0].job;
        if primary_code(&error) == Some(ffi::SQLITE_FULL) {
            self.telemetry.counters.disk_was_full(first.meta().site.clone());
        }
        if self.group.len() > 1 {
            let reason = "COMMIT failed and SQLite rolled the transaction back";
            return self.lose_group(reason, Some(&Arc::new(error)));
        }
        // The single job caused the failure, for example by a virtual table that checks a constraint at the end.
        let ran = self.group.remove(0);
        let error = Error::from(error);
        self.tell(ran, error.kind(), Resolution::Failed(error));
    }

    /// Runs COMMIT. If it fails, determines the outcome, and poisons the store if that is unknown.
    fn commit_transaction(&mut self) -> std::result::Result<(), CommitFailure> {
        let Err(error) = self.run_internal(sql::COMMIT) else {
            self.checkpointer.committed();
            self.deferred_keys.committed();
            self.guard.transaction_ended(true);
            // Meanwhile the watchdog has found that the log or the database is no longer the file that other processes
            // see.
            return match self.shared.poison.get() {
                None => Ok(()),
                Some(source) => Err(CommitFailure::Unknown(Arc::clone(source))),
            };
        };
        self.roll_back();
        if commit_is_unknown(&error) {
            let source = Arc::new(error);
            self.poison(&source);
            return Err(CommitFailure::Unknown(source));
        }
        Err(CommitFailure::RolledBack(error))
    }

    /// Counts, publishes, then replies to each caller.
    fn reply(&mut self, began: Instant) {
        let counters = &self.telemetry.counters;
        let jobs = self.group.len() as u64;
        counters.writes.add(jobs);
        counters.groups.add(1);
        counters.group_size.add(jobs);
        counters.wal_bytes.set(self.checkpointer.bytes());
        counters.largest_wal_bytes.raise_to(self.checkpointer.bytes());
        self.count_finished(jobs);
        for ran in self.group.drain(..) {
            if let Some(site) = ran.site {
                self.sites[site].committed(ran.changed);
            }
            ran.job.finish(Resolution::Own);
        }
        let now = Instant::now();
        self.shared.queue.spin().replied(jobs as usize, now - began);
        self.cache.report(now, || c_api::take_cache(&self.conn));
    }

    // ---- one job ----

    /// Replies to the caller of a job that was not started.
    fn fail<S: Scope>(&mut self, job: Job<S>, error: Error) {
        self.finish(job, error.kind(), Resolution::Failed(error));
    }

    /// Replies to the caller of a job that was not committed.
    fn tell(&mut self, ran: Ran, kind: &'static str, resolution: Resolution) {
        if let Some(site) = ran.site {
            self.sites[site].failed();
        }
        self.finish(ran.job, kind, resolution);
    }

    fn finish<S: Scope>(&mut self, job: Job<S>, kind: &'static str, resolution: Resolution) {
        self.telemetry.counters.failed(kind);
        self.count_finished(1);
        job.finish(resolution);
    }

    fn count_finished(&mut self, jobs: u64) {
        if self.shared.queue.is_closed() {
            self.telemetry.counters.finished_closing.add(jobs);
        }
    }

    /// Drops every temporary object, inside the job's transaction: a leftover object would shadow the table of the same
    /// name for later jobs.
    ///
    /// Temporary tables may refer to each other, even in a circle. So their foreign keys are deferred while they are
    /// dropped, and no key is left to check when all tables are gone.
    fn drop_temporary(&self) -> rusqlite::Result<()> {
        let list = "SELECT type, name FROM temp.sqlite_schema WHERE type IN ('trigger', 'view', 'table') \
                    AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY type = 'table', rowid/*larder*/";
        self.guard.as_internal(|| {
            let mut statement = self.conn.prepare_cached(list)?;
            let objects = statement
                .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            let objects: Vec<_> = objects
                .into_iter()
                .filter(|(_, name)| !self.guard.keeps(name))
                .collect();
            if objects.is_empty() {
                return Ok(());
            }
            self.conn.execute_batch("PRAGMA defer_foreign_keys = ON")?;
            for (kind, name) in objects {
                let name = name.replace('"', "\"\"");
                self.conn
                    .execute_batch(&format!("DROP {kind} IF EXISTS temp.\"{name}\""))?;
            }
            self.conn.execute_batch("PRAGMA defer_foreign_keys = OFF")
        })
    }

    fn note_if_slow(
        &mut self,
        ran: &Ran,
        started: Instant,
        ended: Instant,
        error: Option<&'static str>,
        slowest: Option<SlowStatement>,
    ) {
        let lasted = ended - started;
        if lasted < self.options.slow_write_threshold {
            return;
        }
        self.telemetry.counters.slow_writes.add(1);
        let meta = ran.job.meta();
        let waited = started.saturating_duration_since(meta.asked);
        let changed = ran.changed;
        self.slow.push(Slow {
            span: meta.span.clone(),
            site: meta.site.to_string(),
            lasted,
            error,
            slowest,
            call: Call::Write { changed, waited },
        });
    }

    fn report_slow(&mut self) {
        self.slow_log
            .report(&self.shared.path, self.slow.drain(..), self.last_group);
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

    fn run_internal(&self, sql: &str) -> rusqlite::Result<()> {
        run_internal(&self.conn, &self.guard, sql)
    }
}
