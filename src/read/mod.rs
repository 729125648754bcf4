//! The pool of read-only connections. A read borrows one, on the calling thread, for one snapshot.
//!
//! - [`Idle`]: the stack of idle connections, their number (`openings.rs`), and the reads that sleep until one is
//!   returned. One mutex guards it, held for a push or a pop. No other lock is taken and no connection is dropped under
//!   it. A sleeping read has found, under the lock, that the stack was empty and that no further connection might be
//!   opened. A thread that returns a connection wakes a sleeper, unless one is on its way, which will wake the next. So
//!   no connection is idle while a read sleeps. A connection that is closed instead of returned also wakes a sleeper,
//!   which starts the opening of another. Each sleeper wakes itself every `CLOSE_POLL` and checks whether its time is
//!   over, whether the store has closed, and whether a failed opening may be retried.
//! - Connections are opened on a timer thread (`runtime/timer.rs`), one at a time for each store. `Options::on_connect`
//!   and the disk may be slow there: a read waits no longer than its timeout, and other stores do not wait at all. The
//!   connection enters the pool when it is open.
//! - A connection that is returned with an open transaction or statement is closed; otherwise its stale snapshot would
//!   be that of the next borrower.
//! - [`ActiveReaders`]: which connections are open, and the activity of each.
//! - [`dedicated::DedicatedReader`]: a connection outside the pool, for a backup or for freshness checks
//!   (`freshness.rs`).
//! - The queue of the async reads, and the reader threads that serve it (`worker.rs`).

mod active;
pub(crate) mod context;
mod dedicated;
mod freshness;
mod idle;
mod openings;
mod worker;

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{mem, thread};

use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::{Connection, TransactionState};

use self::active::{ActiveReaders, Registration};
use self::context::Reads;
pub(crate) use self::dedicated::begin_snapshot;
use self::idle::Idle;
use self::worker::Started;
use crate::connection::authorizer::SqlGuard;
use crate::connection::c_api::{self, Leaked};
use crate::connection::interrupt::{Interrupt, Limit, LimitKind};
use crate::connection::open_file::{Lease, OpenFile};
use crate::connection::{Baseline, GuardedConnection, Restored, close, open_reader, reader_source};
use crate::error::{Error, Outcome, Result};
use crate::options::{Settings, WhenFull};
use crate::queue::JobQueue;
use crate::queue::pending::Queue;
use crate::queue::spin::AdaptiveSpin;
use crate::runtime::clock::Tick;
use crate::runtime::panic::{caught, quietly};
use crate::runtime::sync::{Arc, Condvar, Mutex, Weak};
use crate::runtime::timer;
use crate::telemetry::Telemetry;
use crate::telemetry::activity::ActivitySlot;
use crate::telemetry::call_site::CallSite;
use crate::telemetry::event::{CallerSpan, event};
use crate::telemetry::page_cache::CacheShare;
use crate::telemetry::slow_log::{Call, Slow, SlowLog, SlowStatement};
use crate::telemetry::stats::{Activity, ReaderStats};
use crate::telemetry::usage::{CallSiteShard, StatementShard};
use crate::transaction::hot_statement::{Prepare, Prepared};
use crate::transaction::{ReadTx, run_internal, sql};

/// How often a read that waits for a connection checks whether the store has closed.
const CLOSE_POLL: Duration = Duration::from_millis(50);

/// How often a read that finds no connection yields its core before it sleeps. The borrowers of the connections may be
/// waiting for that core.
const YIELDS_BEFORE_SLEEP: u32 = 4;

/// How often closing checks for connections that have become idle.
const IDLE_POLL: Duration = Duration::from_millis(5);

/// A connection of the pool. Boxed, because each read moves it several times.
type PooledReader = Box<Reader>;

/// The connections that read. The struct has cache lines to itself: each async read changes its reference count, which
/// lies before it in memory.
#[repr(align(128))]
pub(crate) struct Readers {
    path: PathBuf,
    file: Arc<OpenFile>,
    options: Settings,
    manager: Manager,
    /// For openings, which continue without the read that wanted them.
    this: Weak<Self>,
    idle: Mutex<Idle<PooledReader>>,
    came_back: Condvar,
    active: Arc<ActiveReaders>,
    /// The async reads.
    queue: Arc<JobQueue<Reads>>,
    /// Whether the threads that serve `queue` were started. Starting them takes `starting_threads`.
    threads_run: AtomicBool,
    starting_threads: Mutex<Started>,
    size: u32,
    /// Reads that found no idle connection, and the number of them that got none in time.
    waits: AtomicU64,
    timeouts: AtomicU64,
    /// Slow reads, and the rate limit of their events.
    slow_reads: AtomicU64,
    slow_log: SlowLog,
    slow: Duration,
    age: Option<Duration>,
    /// Number of calls of [`forget_statements`](Self::forget_statements).
    schema: AtomicU64,
}

impl Readers {
    /// Opens one reader directly, so that its error is reported unchanged. Then creates the pool, whose connections
    /// open on demand.
    pub(crate) fn open(
        file: &Arc<OpenFile>,
        options: &Settings,
        telemetry: &Arc<Telemetry>,
        patience: Duration,
    ) -> Result<Arc<Self>> {
        let active = Arc::new(ActiveReaders::default());
        let manager = Manager {
            telemetry: Arc::clone(telemetry),
            source: reader_source(file.path()),
            file: Arc::clone(file),
            options: options.clone(),
            active: Arc::clone(&active),
        };
        drop(manager.open(patience)?);
        Ok(Arc::new_cyclic(|this| Self {
            path: file.path().to_owned(),
            file: Arc::clone(file),
            options: options.clone(),
            manager,
            this: this.clone(),
            idle: Mutex::new(Idle::new(options.readers)),
            came_back: Condvar::new(),
            active,
            queue: JobQueue::new(
                Reads::new(options.readers),
                options.queue_capacity,
                options.readers as usize,
                AdaptiveSpin::new(options.spin_time),
            ),
            threads_run: AtomicBool::new(false),
            starting_threads: Mutex::default(),
            size: options.readers,
            waits: AtomicU64::new(0),
            timeouts: AtomicU64::new(0),
            slow_reads: AtomicU64::new(0),
            slow_log: SlowLog::new(options.slow_events_per_second),
            slow: options.slow_read_threshold,
            age: options.interrupt_old_readers.then_some(options.max_reader_age),
            schema: AtomicU64::new(0),
        }))
    }

    /// Runs `f` in one snapshot, for no longer than `limit`.
    pub(crate) fn read<T>(
        &self,
        timeout: Duration,
        when_full: WhenFull,
        limit: Option<Duration>,
        site: CallSite,
        on_writer_thread: bool,
        f: impl FnOnce(&ReadTx<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut checked_out = self.check_out(timeout, when_full, on_writer_thread)?;
        let result = self.begin(checked_out.reader(), site)?.read(limit, f);
        if !checked_out.reader().slow.is_empty() {
            self.report_slow(checked_out.give_back());
        }
        result
    }

    /// Called without a connection in hand, because a subscriber may be slow.
    fn report_slow(&self, slow: Vec<Slow>) {
        self.slow_log.report(&self.path, slow, 1);
    }

    /// Runs larder's own SQL in one snapshot, without a time limit: it never counts as slow or too old.
    pub(crate) fn inspect<T>(
        &self,
        timeout: Duration,
        site: CallSite,
        on_writer_thread: bool,
        f: impl FnOnce(&Connection, &Arc<Interrupt>) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let mut checked_out = self.check_out(timeout, WhenFull::Wait, on_writer_thread)?;
        self.begin(checked_out.reader(), site)?.inspect(f)
    }

    fn begin<'r>(&'r self, reader: &'r mut Reader, site: CallSite) -> Result<Snapshot<'r>> {
        let new_schema = reader.keep_statements_of(self.schema.load(Ordering::Acquire));
        let snapshot = Snapshot::begin(self, reader, site)?;
        if new_schema {
            snapshot.look_at_schema()?;
        }
        Ok(snapshot)
    }

    fn check_out(&self, timeout: Duration, when_full: WhenFull, on_writer_thread: bool) -> Result<CheckedOut<'_>> {
        if self.queue.is_left() {
            return Err(Error::forked());
        }
        if self.active.is_closed() {
            return Err(Error::Closed);
        }
        let reader = match self.pop_idle() {
            Some(reader) => reader,
            None => self.wait_for_one(timeout, when_full, on_writer_thread)?,
        };
        Ok(CheckedOut {
            readers: self,
            reader: Some(reader),
        })
    }

    fn pop_idle(&self) -> Option<PooledReader> {
        self.idle.lock().pop()
    }

    /// Returns a clean connection to the idle ones, and closes any other.
    fn check_in(&self, reader: PooledReader) {
        if !reader.may_be_used_again() || self.active.is_closed() {
            let spoiled = reader.spoiled;
            drop(reader);
            // A read that found the pool full before is asleep once this thread has the lock. When it is woken, it
            // starts the opening of another connection.
            self.idle.lock().openings.closed();
            self.came_back.notify_one();
            if let Some(reason) = spoiled {
                event!(
                    warn,
                    "larder::read",
                    self.path,
                    { reason },
                    "a read has left its connection so that it was closed; another one is opened when it is needed"
                );
            }
            return;
        }
        let mut idle = self.idle.lock();
        let mut wake = idle.may_wake();
        if idle.is_a_sleepers_turn() {
            idle.kept.push(reader);
            wake = true;
        } else {
            idle.connections.push(reader);
        }
        drop(idle);
        if wake {
            self.came_back.notify_one();
        }
        if self.active.is_closed() {
            drop(self.pop_idle());
        }
    }

    /// Sleeps until a connection was returned or opened, or `patience` is over, and takes a connection if there still
    /// is one.
    fn sleep(&self, patience: Duration, when_full: WhenFull, on_writer_thread: bool) -> Result<Option<PooledReader>> {
        let mut idle = self.idle.lock();
        if let Some(reader) = idle.pop() {
            return Ok(Some(reader));
        }
        let may_wait = when_full == WhenFull::Wait && !on_writer_thread;
        if !may_wait && idle.openings.is_full() {
            drop(idle);
            return Err(self.full(on_writer_thread));
        }
        if idle.openings.begin(Instant::now()) {
            drop(idle);
            self.open_in_background();
            idle = self.idle.lock();
            if let Some(reader) = idle.pop() {
                return Ok(Some(reader));
            }
        }
        if idle.sleepers == 0 {
            idle.last_turn = Some(Tick::now());
        }
        idle.sleepers += 1;
        let (mut idle, _) = self.came_back.wait_timeout(idle, patience);
        idle.sleepers -= 1;
        idle.waking = false;
        let found = idle.kept.pop().or_else(|| idle.connections.pop());
        let wake = !idle.connections.is_empty() && idle.may_wake();
        drop(idle);
        if wake {
            self.came_back.notify_one();
        }
        Ok(found)
    }

    /// The error of a read that finds every connection in use and may not wait for one.
    fn full(&self, on_writer_thread: bool) -> Error {
        let capacity = self.size as usize;
        if on_writer_thread || self.active.held_by_this_thread() == capacity {
            return reentrant();
        }
        Error::QueueFull { capacity }
    }

    /// Runs an opening that has begun, on a timer thread. It does not borrow from the read that wanted it.
    fn open_in_background(&self) {
        let this = self.this.upgrade().expect("a read borrows from its Arc");
        timer::at(Instant::now(), move || while this.open_one() {});
    }

    /// Opens the connection whose opening has begun. Returns whether another opening has begun afterwards.
    fn open_one(&self) -> bool {
        let reason = match caught(|| self.manager.open(self.options.busy_timeout)) {
            Some(Ok(reader)) => {
                let mut idle = self.idle.lock();
                idle.openings.succeeded();
                let another = idle.wants_more() && idle.openings.begin(Instant::now());
                drop(idle);
                self.check_in(Box::new(reader));
                return another;
            }
            Some(Err(error)) => reason_of(error),
            None => "larder panicked: please report it".to_owned(),
        };
        self.idle.lock().openings.failed(reason, Instant::now());
        false
    }

    /// Waits until one of the connections is returned or another is opened, since all open ones are in use.
    fn wait_for_one(&self, timeout: Duration, when_full: WhenFull, on_writer_thread: bool) -> Result<PooledReader> {
        self.waits.fetch_add(1, Ordering::Relaxed);
        let start = Instant::now();
        for _ in 0..YIELDS_BEFORE_SLEEP {
            thread::yield_now();
            if let Some(reader) = self.pop_idle() {
                return Ok(reader);
            }
        }
        loop {
            let left = timeout.saturating_sub(start.elapsed());
            if let Some(reader) = self.sleep(left.min(CLOSE_POLL), when_full, on_writer_thread)? {
                return Ok(reader);
            }
            if self.active.is_closed() {
                return Err(Error::Closed);
            }
            // Not before the first wait, because inspecting every connection takes longer than a read.
            let held_here = self.active.held_by_this_thread();
            if held_here == self.size as usize {
                return Err(reentrant());
            }
            // Not by `left`, because a sleeper may have been woken early and found nothing.
            if start.elapsed() >= timeout {
                return self.last_try(start, held_here);
            }
        }
    }

    /// Takes a connection for a read whose timeout is over, if one is idle now. The read began to wait at `start`.
    fn last_try(&self, start: Instant, held_here: usize) -> Result<PooledReader> {
        let mut idle = self.idle.lock();
        if let Some(reader) = idle.pop() {
            return Ok(reader);
        }
        let last_error = idle.openings.trouble(Instant::now());
        drop(idle);
        self.timeouts.fetch_add(1, Ordering::Relaxed);
        Err(Error::ReadQueueTimeout {
            waited: start.elapsed(),
            readers: self.size,
            held_here,
            last_error,
        })
    }

    /// Makes each connection empty its statement cache before its next read. SQLite itself prepares a statement again
    /// at its next use if the schema has changed, so a read that is just beginning is correct, too.
    pub(crate) fn forget_statements(&self) {
        self.schema.fetch_add(1, Ordering::Release);
    }

    /// Whether this process is a child forked from the store's process.
    pub(crate) fn is_left(&self) -> bool {
        self.queue.is_left()
    }

    /// Whether the store is closing or closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.active.is_closed()
    }

    /// Waits for at most `time`, until the store closes, or until `is_over` is true at a [`wake`](Self::wake).
    pub(crate) fn pause(&self, time: Duration, is_over: impl Fn() -> bool) {
        self.active.pause(time, is_over);
    }

    /// Wakes paused threads so they re-check their condition.
    pub(crate) fn wake(&self) {
        self.active.wake();
    }

    /// Whether the calling thread is inside a read of this store, or in a callback of its backup.
    pub(crate) fn in_use_by_this_thread(&self) -> bool {
        self.active.in_use_by_this_thread()
    }

    /// The oldest running read.
    pub(crate) fn oldest_read(&self) -> Option<Activity> {
        self.active.reading().0
    }

    /// The oldest running read and its age, as text.
    pub(crate) fn oldest(&self) -> Option<String> {
        self.oldest_read()
            .map(|Activity { site, age }| format!("{site}, for {age:.1?}"))
    }

    pub(crate) fn stats(&self) -> ReaderStats {
        let (oldest_read, in_use) = self.active.reading();
        ReaderStats {
            capacity: self.size,
            open: self.active.count(),
            in_use,
            waits: self.waits.load(Ordering::Relaxed),
            timeouts: self.timeouts.load(Ordering::Relaxed),
            slow_reads: self.slow_reads.load(Ordering::Relaxed),
            queued: self.queue.length(),
            deepest_queue: self.queue.deepest(),
            oldest_read,
        }
    }

    /// Refuses further async reads. Their threads end.
    pub(crate) fn close_queue(&self) {
        self.queue.close();
        self.queue.discard();
    }

    /// Closes every connection, and waits until the deadline for those in use.
    ///
    /// # Errors
    ///
    /// The read that is still running.
    pub(crate) fn close(&self, deadline: Instant) -> std::result::Result<(), String> {
        self.close_queue();
        self.active.close();
        // In turns: a connection that was being opened when the active readers closed becomes idle only now, and an
        // idle connection is closed when it is borrowed.
        loop {
            while let Some(idle) = self.pop_idle() {
                drop(idle);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if self.active.wait_until_empty(left.min(IDLE_POLL)) {
                return Ok(());
            }
            if left.is_zero() {
                break;
            }
        }
        Err(self.oldest().map_or_else(
            || "a reader's connection is still being opened or closed".to_owned(),
            |oldest| format!("a read goes on: {oldest}"),
        ))
    }
}

/// Why a connection was not opened. An error of `on_connect` is user code.
fn reason_of(error: Error) -> String {
    let text = caught(|| error.to_string());
    quietly(|| drop(error));
    text.unwrap_or_else(|| "Options::on_connect gave an error whose Display panicked".into())
}

fn reentrant() -> Error {
    Error::Reentrant {
        call: "read",
        instead: "every reader is busy, and this is the writer thread or the thread that holds them all: use the \
                  transaction that the closure was given, or raise Options::readers",
        outcome: Outcome::NotStarted,
    }
}

/// A connection of the pool, in use.
struct CheckedOut<'r> {
    readers: &'r Readers,
    /// `Some` until the drop.
    reader: Option<PooledReader>,
}

impl CheckedOut<'_> {
    fn reader(&mut self) -> &mut Reader {
        self.reader.as_mut().expect("it is there until the drop")
    }

    /// Returns the connection to the pool, and the pending reports of slow reads on it.
    fn give_back(mut self) -> Vec<Slow> {
        mem::take(&mut self.reader().slow)
    }
}

impl Drop for CheckedOut<'_> {
    fn drop(&mut self) {
        if let Some(mut reader) = self.reader.take() {
            if self.readers.queue.is_left() {
                return mem::forget(reader);
            }
            if !reader.clean {
                reader.end_snapshot();
            }
            self.readers.check_in(reader);
        }
    }
}

/// Opens the connections of the pool.
struct Manager {
    source: SqliteConnectionManager,
    file: Arc<OpenFile>,
    options: Settings,
    active: Arc<ActiveReaders>,
    telemetry: Arc<Telemetry>,
}

impl Manager {
    fn open(&self, patience: Duration) -> Result<Reader> {
        let registration = self.active.enter()?;
        let opened = caught(|| open_reader(&self.source, &self.file, &self.options, patience));
        let GuardedConnection {
            baseline,
            lease,
            conn,
            guard,
            interrupt,
        } = opened.unwrap_or_else(|| {
            Err(Error::Options {
                option: "on_connect",
                problem: "it panicked for a reader".into(),
            })
        })?;
        Ok(Reader {
            baseline: Some(baseline),
            conn: Some(conn),
            guard,
            interrupt,
            busy_timeout: self.options.busy_timeout,
            clean: true,
            spoiled: None,
            schema: 0,
            sites: CallSiteShard::new(&self.telemetry.read_sites),
            statements: StatementShard::if_on(&self.telemetry.statements).map(RefCell::new),
            cache: CacheShare::new(&self.telemetry.cache),
            slow: Vec::new(),
            lease,
            registration,
        })
    }
}

/// A connection of the pool.
pub(crate) struct Reader {
    /// The state in which the connection was opened. `Some` until the drop, and dropped before the connection.
    baseline: Option<Baseline>,
    /// `Some` until the drop.
    conn: Option<Connection>,
    guard: Arc<SqlGuard>,
    interrupt: Arc<Interrupt>,
    busy_timeout: Duration,
    /// No transaction, statement or snapshot is left open on the connection.
    clean: bool,
    /// Why the connection must not be used again, if a closure has spoiled it.
    spoiled: Option<&'static str>,
    /// The schema that its statements were prepared for.
    schema: u64,
    sites: CallSiteShard,
    /// `Some` if statements are counted.
    statements: Option<RefCell<StatementShard>>,
    cache: CacheShare,
    /// Slow reads that are not reported yet.
    slow: Vec<Slow>,
    lease: Lease,
    /// The last field, so that the connection is closed before it leaves the active readers.
    registration: Registration,
}

impl Reader {
    /// Empties the statement cache if it belongs to another schema, and returns whether it did.
    fn keep_statements_of(&mut self, schema: u64) -> bool {
        let new = self.schema != schema;
        if new && let Some(conn) = &self.conn {
            conn.flush_prepared_statement_cache();
        }
        self.schema = schema;
        new
    }

    /// Ends a snapshot that did not end by itself: a leaked `Rows` keeps it open, even on a connection without a user.
    /// SQLite does not close a connection that has statements.
    fn end_snapshot(&mut self) {
        if let Some(conn) = &mut self.conn {
            let end = |conn: &Connection| {
                (conn.is_autocommit() || run_internal(conn, &self.guard, sql::ROLLBACK).is_ok()) && holds_nothing(conn)
            };
            c_api::reset_leaked(conn, Leaked::Ours);
            self.clean = end(conn);
            if !self.clean {
                // A leaked `Blob`. The connection is closed, or stays open if SQLite refuses that, but holds nothing.
                c_api::reset_leaked(conn, Leaked::All);
                end(conn);
            }
        }
    }

    fn may_be_used_again(&self) -> bool {
        self.clean && self.spoiled.is_none()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.baseline.take();
        self.lease.release();
        if let Some(conn) = self.conn.take() {
            close(conn);
        }
    }
}

/// The read transaction of one closure, or of the closures of several async reads. Its drop ends the transaction, also
/// after a panic.
pub(crate) struct Snapshot<'r> {
    readers: &'r Readers,
    conn: &'r Connection,
    prepared: Prepared<'r>,
    guard: &'r Arc<SqlGuard>,
    interrupt: &'r Arc<Interrupt>,
    busy_timeout: Duration,
    clean: &'r mut bool,
    spoiled: &'r mut Option<&'static str>,
    baseline: Option<&'r Baseline>,
    sites: &'r mut CallSiteShard,
    statements: Option<&'r RefCell<StatementShard>>,
    cache: &'r mut CacheShare,
    slow: &'r mut Vec<Slow>,
    activity: &'r ActivitySlot,
    /// When the current closure began, or when the last one ended.
    since: Instant,
    /// The index of its call site's counters.
    site: Option<usize>,
    /// Whether a closure has used the connection directly, and the connection has not been tidied since.
    raw_access: bool,
}

impl<'r> Snapshot<'r> {
    fn begin(readers: &'r Readers, reader: &'r mut Reader, site: CallSite) -> Result<Self> {
        reader.clean = false;
        let conn = connection(&reader.conn);
        let mut snapshot = Self {
            readers,
            conn,
            prepared: Prepared::new(conn),
            guard: &reader.guard,
            interrupt: &reader.interrupt,
            busy_timeout: reader.busy_timeout,
            clean: &mut reader.clean,
            spoiled: &mut reader.spoiled,
            baseline: reader.baseline.as_ref(),
            sites: &mut reader.sites,
            statements: reader.statements.as_ref(),
            cache: &mut reader.cache,
            slow: &mut reader.slow,
            activity: reader.registration.activity(),
            since: Instant::now(),
            site: None,
            raw_access: false,
        };
        snapshot.enter(site);
        run_internal(snapshot.conn, snapshot.guard, sql::BEGIN_READ).map_err(Error::not_started)?;
        Ok(snapshot)
    }

    /// Begins the read of a closure with that call site, at the time when the one before ended: that saves a read of
    /// the clock, some 3 % of a short read.
    fn enter(&mut self, site: CallSite) {
        self.site = self.sites.find(&site);
        self.guard.reset();
        self.interrupt.reset();
        self.activity.begin(self.since, site);
    }

    /// Restarts the clock after other work, so that its time is not counted for the next closure.
    fn pause(&mut self) {
        self.since = Instant::now();
    }

    fn since(&self) -> Instant {
        self.since
    }

    pub(crate) fn read<T>(&mut self, limit: Option<Duration>, f: impl FnOnce(&ReadTx<'_>) -> Result<T>) -> Result<T> {
        let readers = self.readers;
        // Stays set if the closure panics. Otherwise it is set below to whether the closure used the connection.
        self.raw_access = true;
        let age = readers.age.map(|time| Limit {
            kind: LimitKind::ReaderAge,
            time,
        });
        let limit = limit.map(|time| Limit {
            kind: LimitKind::Read,
            time,
        });
        let limit = Limit::earlier(limit, age);
        let bounded = self.interrupt.bound(self.conn, self.since, limit);
        let (result, slowest, raw_access, rows) = {
            let tx = self.tx();
            (tx.judge_read(f(&tx)), tx.slowest(), tx.had_raw_access(), tx.rows())
        };
        self.raw_access = raw_access;
        if result.is_err() {
            // Clears SQLite's last error, which might be taken for one that the next closure returns.
            drop(self.conn.prepare(""));
        }
        let ended = Instant::now();
        let over = bounded.and_then(|bounded| bounded.end(ended, result.is_ok()));
        let result = over.map_or(result, Err);
        let lasted = ended - mem::replace(&mut self.since, ended);
        if let Some(site) = self.site {
            let usage = &self.sites[site];
            usage.ran(lasted, rows);
            if result.is_err() {
                usage.failed();
            }
        }
        self.cache.report(ended, || c_api::take_cache(self.conn));
        if lasted >= readers.slow {
            self.note_slow(lasted, rows, slowest, result.as_ref().err().map(Error::kind));
        }
        result
    }

    /// Records a slow read, which is reported once the connection has been returned.
    fn note_slow(&mut self, lasted: Duration, rows: u64, slowest: Option<SlowStatement>, error: Option<&'static str>) {
        self.readers.slow_reads.fetch_add(1, Ordering::Relaxed);
        let site = self.site();
        self.slow.push(Slow {
            span: CallerSpan::current(),
            site,
            lasted,
            error,
            slowest,
            call: Call::Read { rows },
        });
    }

    fn inspect<T>(&mut self, f: impl FnOnce(&Connection, &Arc<Interrupt>) -> rusqlite::Result<T>) -> Result<T> {
        self.raw_access = true;
        self.guard
            .as_internal(|| f(self.conn, self.interrupt))
            .map_err(Error::not_started)
    }

    /// Runs a statement before a closure can prepare one. SQLite detects a changed schema when it runs a statement, not
    /// when it prepares one: the first statement prepared would still be of the old schema, and be prepared again when
    /// it runs.
    fn look_at_schema(&self) -> Result<()> {
        let look = || {
            self.conn
                .query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
        };
        self.guard.as_internal(look).map_err(Error::not_started)
    }

    /// Whether another closure may read in this snapshot.
    fn serves_more(&mut self) -> bool {
        let left_behind = self.raw_access && self.conn.is_busy();
        self.tidy();
        !left_behind && self.spoiled.is_none() && !self.conn.is_autocommit()
    }

    /// Resets state that a closure may have left on the connection through rusqlite's own methods.
    fn tidy(&mut self) {
        if mem::take(&mut self.raw_access) {
            let _ = self.interrupt.put_back(self.conn);
            let _ = self.conn.busy_timeout(self.busy_timeout);
            if let Some(Restored::NotAll(reason)) = self.baseline.map(|b| b.restore(self.conn, self.guard)) {
                self.spoiled.get_or_insert(reason);
            }
        }
    }

    fn tx(&self) -> ReadTx<'_> {
        ReadTx::new(
            self.conn,
            self.guard,
            self.interrupt,
            self.readers.slow,
            self.statements,
            &self.prepared,
        )
    }

    fn site(&self) -> String {
        self.activity.site()
    }
}

impl Drop for Snapshot<'_> {
    fn drop(&mut self) {
        if self.readers.queue.is_left() {
            return;
        }
        self.prepared.put_back();
        self.tidy();
        let ended = self.conn.is_autocommit() || run_internal(self.conn, self.guard, sql::COMMIT).is_ok();
        *self.clean = ended && holds_nothing(self.conn);
        self.activity.end();
    }
}

fn connection(conn: &Option<Connection>) -> &Connection {
    conn.as_ref().expect("a reader has its connection until it is dropped")
}

fn holds_nothing(conn: &Connection) -> bool {
    conn.is_autocommit() && matches!(conn.transaction_state(None::<&str>), Ok(TransactionState::None))
}
