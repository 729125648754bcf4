//! The pool of read-only connections. A read borrows one, on the calling thread, for one snapshot.
//!
//! - [`Idle`]: the stack of idle connections, their number (`openings.rs`), and the reads that sleep until one is
//!   returned. One mutex guards it, held for a push or a pop. No lock but that of a slot is taken, and no connection is
//!   dropped, under it. A sleeping read has found, under the lock, that the stack was empty and that no further connection might be
//!   opened. A thread that returns a connection wakes a sleeper, unless one is on its way, which will wake the next. So
//!   no connection is idle while a read sleeps. A connection that is closed instead of returned also wakes a sleeper,
//!   which starts the opening of another. Each sleeper wakes itself every `CLOSE_POLL` and checks whether its time is
//!   over, whether the store has closed, and whether a failed opening may be retried.
//! - [`Slots`]: the idle connections of threads that read all the time, taken without that mutex (`slots.rs`).
//! - Connections are opened on a timer thread (`runtime/timer.rs`), one at a time for each store. `Options::on_connect`
//!   and the disk may be slow there: a read waits no longer than its timeout, and other stores do not wait at all. The
//!   connection enters the pool when it is open.
//! - A connection that is returned with an open transaction or statement is closed; otherwise its stale snapshot would
//!   be that of the next borrower.
//! - [`ActiveReaders`]: which connections are open, and the activity of each.
//! - [`dedicated::DedicatedReader`]: a connection outside the pool, for a backup or for freshness checks
//!   (`freshness.rs`).
//! - [`Keeper`]: a connection that holds an open snapshot, so that the others need no system call to begin theirs.
//! - The queue of the async reads, and the reader threads that serve it (`worker.rs`).
//! - The queue of the streams, and the stream threads that serve it (`streams.rs`, `row_channel.rs`).

mod active;
pub(crate) mod context;
mod dedicated;
mod freshness;
mod idle;
mod keeper;
mod openings;
mod pool;
mod reader;
pub(crate) mod row_channel;
mod slots;
mod snapshot;
pub(crate) mod streams;
mod worker;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use self::active::ActiveReaders;
use self::context::Reads;
#[cfg(feature = "replicate")]
pub(crate) use self::dedicated::DedicatedReader;
pub(crate) use self::dedicated::begin_snapshot;
use self::idle::Idle;
use self::keeper::Keeper;
use self::pool::{CLOSE_POLL, CheckedOut, PooledReader};
use self::reader::Manager;
pub(crate) use self::reader::Reader;
use self::slots::Slots;
pub(crate) use self::snapshot::Snapshot;
use self::streams::Streams;
use self::worker::Started;
use crate::connection::interrupt::Interrupt;
use crate::connection::open_file::OpenFile;
use crate::connection::reader_source;
use crate::error::{Error, Result};
use crate::options::{Settings, WhenFull};
use crate::queue::JobQueue;
use crate::queue::pending::Queue;
use crate::queue::spin::AdaptiveSpin;
use crate::runtime::sync::{Arc, Condvar, Mutex, Weak};
use crate::telemetry::Telemetry;
use crate::telemetry::call_site::CallSite;
use crate::telemetry::slow_log::{Slow, SlowLog};
use crate::telemetry::stats::{Activity, ReaderStats};
use crate::transaction::ReadTx;

/// How often closing checks for connections that have become idle.
const IDLE_POLL: Duration = Duration::from_millis(5);

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
    slots: Slots<PooledReader>,
    idle: Mutex<Idle<PooledReader>>,
    /// Number of reads that sleep until a connection is returned. Changed under the lock of `idle`.
    sleepers: AtomicUsize,
    came_back: Condvar,
    active: Arc<ActiveReaders>,
    keeper: Keeper,
    /// The async reads.
    queue: Arc<JobQueue<Reads>>,
    /// Whether the threads that serve `queue` were started. Starting them takes `starting_threads`.
    threads_run: AtomicBool,
    starting_threads: Mutex<Started>,
    streams: Streams,
    size: u32,
    /// Blocking reads that found no idle connection, that got none in time, and that did not wait.
    waits: AtomicU64,
    timeouts: AtomicU64,
    refused: AtomicU64,
    /// Slow reads, and the rate limit of their events.
    slow_reads: AtomicU64,
    slow_log: SlowLog,
    slow: Duration,
    age: Option<Duration>,
    /// Number of calls of [`forget_statements`](Self::forget_statements).
    schema: AtomicU64,
    /// Number of calls of [`forget_statistics`](Self::forget_statistics).
    statistics: AtomicU64,
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
            source: reader_source(file),
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
            slots: Slots::new(),
            sleepers: AtomicUsize::new(0),
            idle: Mutex::new(Idle::new(options.readers)),
            came_back: Condvar::new(),
            active,
            keeper: Keeper::new(options.access, file),
            queue: JobQueue::new(
                Reads::new(options.readers),
                options.queue_capacity,
                options.readers as usize,
                AdaptiveSpin::new(options.spin_time),
            ),
            threads_run: AtomicBool::new(false),
            starting_threads: Mutex::default(),
            streams: Streams::new(options),
            size: options.readers,
            waits: AtomicU64::new(0),
            timeouts: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            slow_reads: AtomicU64::new(0),
            slow_log: SlowLog::new(options.slow_events_per_second),
            slow: options.slow_read_threshold,
            age: options.interrupt_old_readers.then_some(options.max_reader_age),
            schema: AtomicU64::new(0),
            statistics: AtomicU64::new(0),
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
        let checked_out = self.check_out(timeout, when_full, on_writer_thread);
        let mut checked_out = checked_out.map_err(|error| self.refused(error, &site))?;
        let result = self.begin(checked_out.reader(), site)?.read(limit, f);
        if !checked_out.reader().slow.is_empty() {
            self.report_slow(checked_out.give_back());
        }
        result
    }

    /// Counts a blocking read that got no connection, and adds its call site to the error. The queue counts the async
    /// ones.
    fn refused(&self, error: Error, site: &CallSite) -> Error {
        match error {
            Error::ReadQueueTimeout { .. } => {
                self.timeouts.fetch_add(1, Ordering::Relaxed);
            }
            Error::QueueFull { .. } => {
                self.refused.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
        error.with_site(|| site.to_string())
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
        let checked_out = self.check_out(timeout, WhenFull::Wait, on_writer_thread);
        let mut checked_out = checked_out.map_err(|error| self.refused(error, &site))?;
        self.begin_internal(checked_out.reader(), site)?.inspect(f)
    }

    /// Runs larder's own queries in one snapshot. As in [`inspect`](Self::inspect), they never count as slow or too
    /// old, and they are in no statistics of call sites or statements.
    pub(crate) fn read_internal<T>(
        &self,
        timeout: Duration,
        site: CallSite,
        on_writer_thread: bool,
        f: impl FnOnce(&ReadTx<'_>) -> Result<T>,
    ) -> Result<T> {
        let checked_out = self.check_out(timeout, WhenFull::Wait, on_writer_thread);
        let mut checked_out = checked_out.map_err(|error| self.refused(error, &site))?;
        self.begin_internal(checked_out.reader(), site)?.read_internal(f)
    }

    fn begin<'r>(&'r self, reader: &'r mut Reader, site: CallSite) -> Result<Snapshot<'r>> {
        let new_schema = reader.keep_statements_of(self.schema.load(Ordering::Acquire));
        reader.keep_statistics_of(self.statistics.load(Ordering::Acquire))?;
        self.keep();
        let snapshot = Snapshot::begin(self, reader, site)?;
        if new_schema {
            snapshot.look_at_schema()?;
        }
        Ok(snapshot)
    }

    fn begin_internal<'r>(&'r self, reader: &'r mut Reader, site: CallSite) -> Result<Snapshot<'r>> {
        let new_schema = reader.keep_statements_of(self.schema.load(Ordering::Acquire));
        let snapshot = Snapshot::begin_internal(self, reader, site)?;
        if new_schema {
            snapshot.look_at_schema()?;
        }
        Ok(snapshot)
    }

    /// Makes each connection read the statistics of the query planner again before its next read. SQLite reads them
    /// with the schema, and does not notice that another connection has changed them.
    pub(crate) fn forget_statistics(&self) {
        self.statistics.fetch_add(1, Ordering::Release);
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

    /// The oldest running read of the application: not a backup, not a check.
    pub(crate) fn oldest_read_of_the_application(&self) -> Option<Activity> {
        self.active.oldest_of_the_application()
    }

    /// The oldest running read and its age, as text.
    pub(crate) fn oldest(&self) -> Option<String> {
        self.oldest_read()
            .map(|Activity { site, age }| format!("{site}, for {age:.1?}"))
    }

    pub(crate) fn stats(&self) -> ReaderStats {
        let (oldest_read, in_use) = self.active.reading();
        let [reads, streams] = [&self.queue, &self.streams.queue].map(|queue| queue.refusals());
        ReaderStats {
            capacity: self.size,
            open: self.active.count(),
            in_use,
            waits: self.waits.load(Ordering::Relaxed),
            timeouts: self.timeouts.load(Ordering::Relaxed) + reads.timed_out + streams.timed_out,
            refused: self.refused.load(Ordering::Relaxed) + reads.full + streams.full,
            slow_reads: self.slow_reads.load(Ordering::Relaxed),
            queued: self.queue.length() + self.streams.queue.length(),
            deepest_queue: self.queue.deepest().max(self.streams.queue.deepest()),
            oldest_read,
            streams: self.streams.counters.stats(),
        }
    }

    /// Refuses further async reads, and ends the streams. Their threads end.
    pub(crate) fn close_queue(&self) {
        for queue in [&self.queue, &self.streams.queue] {
            queue.close();
            queue.discard();
        }
    }

    /// Closes every connection, and waits until the deadline for those in use.
    ///
    /// # Errors
    ///
    /// The read that is still running.
    pub(crate) fn close(&self, deadline: Instant) -> std::result::Result<(), String> {
        self.close_queue();
        self.close_keeper();
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
            |oldest| format!("a read is running: {oldest}"),
        ))
    }
}
