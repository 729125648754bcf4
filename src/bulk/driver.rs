//! The driver of a job: submits one slice after the other, and has the report.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::ffi;

use super::cursor::Cursor;
use super::feed::{Ended, Feed, Found};
use super::handle::Handle;
use super::report::BulkReport;
use super::row::BulkRow;
use super::slice::{Budget, Done, Failed, Slice};
use super::source::Resume;
use super::tracker::Tracker;
use super::{ALONE_LOG, Bulk, CALLBACK_INTERVAL, LEAST_ROWS, OnViolation, PATIENCE, SLICE_LOG, runs_already};
use crate::error::{Error, Outcome, Result};
use crate::options::WhenFull;
use crate::queue::Submission;
use crate::queue::pending::Pending;
use crate::queue::slot::Caller;
use crate::runtime::sync::Mutex;
use crate::telemetry::bulk::Running;
use crate::telemetry::call_site::CallSite;
use crate::transaction::WriteTx;
use crate::write::context::WriteOrder;

/// The time of a slice while no other thread writes.
const ALONE: Duration = Duration::from_millis(250);

/// How long after the last write of another thread the job counts as alone.
const COMPANY: Duration = Duration::from_secs(1);

/// Rows of the first slice.
const FIRST_ROWS: u64 = 1000;

/// Attempts at a slice that failed through no fault of its rows, and the pause after the first, which doubles: some 5 s.
const ATTEMPTS: u32 = 10;
const RETRY: Duration = Duration::from_millis(10);

pub(super) struct Driver<R> {
    pub(super) store: Handle,
    pub(super) feed: Arc<Feed<R>>,
    site: CallSite,
    sql: Arc<str>,
    on_violation: OnViolation,
    cursor: Option<Cursor>,
    slice: Duration,
    share: f64,
    pause: Duration,
    max_skipped: u64,
    running: Running,
    is_cancelled: Arc<AtomicBool>,
    tracker: Tracker,
    /// The last write of another thread.
    company: Option<Instant>,
    /// The next slice is not submitted before.
    not_before: Option<Instant>,
    /// Rows of the next slice.
    rows: u64,
    /// Size of the log as the last slice was submitted.
    wal_bytes: u64,
    /// The writes of the store after the last slice.
    writes: u64,
    /// Attempts at the current slice.
    attempts: u32,
    /// Rows of the current slice so far.
    reached: Arc<AtomicU64>,
    /// The report of the current slice. The reply may be an error though its transaction is committed.
    done: Arc<Mutex<Option<Done>>>,
}

/// Ends the feed, also when the driver panics.
struct OverOnDrop<R>(Arc<Feed<R>>);

impl<R> Drop for OverOnDrop<R> {
    fn drop(&mut self) {
        self.0.over();
    }
}

impl<R: BulkRow> Driver<R> {
    /// Begins a job, unless one of its name runs. Returns what earlier runs have done.
    pub(super) fn start(bulk: Bulk, sql: String, site: CallSite, feed: Arc<Feed<R>>) -> Result<(Self, Resume)> {
        let store = bulk.store;
        let name = bulk.name.as_deref();
        let running = store.telemetry.bulk.begin(name, site.to_string());
        let running = running.ok_or_else(|| runs_already(name.unwrap_or_default()))?;
        let (cursor, done) = match name {
            Some(name) => {
                let (cursor, done) = Cursor::open(&store, name, &sql)?;
                (Some(cursor), done)
            }
            None => (None, Resume::default()),
        };
        let driver = Self {
            site,
            sql: sql.into(),
            on_violation: bulk.on_violation,
            cursor,
            slice: bulk.slice,
            share: bulk.share,
            pause: bulk.pause,
            max_skipped: bulk.max_skipped,
            feed,
            running,
            is_cancelled: bulk.is_cancelled,
            tracker: Tracker::new(done.rows, bulk.progress, bulk.on_skip),
            company: None,
            not_before: None,
            rows: FIRST_ROWS,
            wal_bytes: 0,
            writes: store.telemetry.counters.writes.get(),
            attempts: 0,
            reached: Arc::default(),
            done: Arc::new(Mutex::new(None)),
            store,
        };
        Ok((driver, done))
    }

    pub(super) fn run(mut self) -> Result<BulkReport> {
        let over = OverOnDrop(Arc::clone(&self.feed));
        loop {
            match self.feed.wait(CALLBACK_INTERVAL) {
                Found::Rows if self.wait_for_turn()? => {
                    let reply = self.submit()?.wait();
                    self.finish(reply)?;
                }
                Found::Nothing if self.look()? => {}
                Found::Rows | Found::Nothing => return Ok(self.end()),
                Found::End(Ended::Done) => return Ok(self.end()),
                Found::End(Ended::Failed(error)) => return Err(self.failed(None, None, error)),
                Found::End(Ended::Panicked(panic)) => {
                    drop(self);
                    drop(over);
                    resume_unwind(panic);
                }
            }
        }
    }

    fn end(self) -> BulkReport {
        // Before the name of the job is free: its source gives no row from then on.
        self.feed.over();
        self.tracker.finish()
    }

    fn failed(&mut self, row: Option<u64>, line: Option<u64>, source: Error) -> Error {
        self.tracker.tell_end();
        let report = &self.tracker.report;
        Error::of_bulk((report.resumed_from, report.rows), row, line, source)
    }

    /// The number of rows before the next slice.
    fn position(&self) -> u64 {
        self.tracker.report.resumed_from + self.tracker.report.rows
    }

    /// Calls the progress callback, if it is due. Returns false if the job is cancelled.
    fn look(&mut self) -> Result<bool> {
        let is_cancelled = self.tracker.tell(|| self.feed.left()) || self.is_cancelled.load(Relaxed);
        self.tracker.report.cancelled |= is_cancelled;
        if self.store.shared.queue.is_closed() {
            return Err(self.failed(None, None, Error::Closed));
        }
        Ok(!self.tracker.report.cancelled)
    }

    /// Waits until the job has taken no more than its share.
    fn wait_for_turn(&mut self) -> Result<bool> {
        loop {
            if !self.look()? {
                return Ok(false);
            }
            let left = self.not_before.and_then(|at| at.checked_duration_since(Instant::now()));
            match left {
                Some(left) if !left.is_zero() => thread::sleep(left.min(CALLBACK_INTERVAL)),
                _ => return Ok(true),
            }
        }
    }

    fn is_alone(&self) -> bool {
        self.pause.is_zero() && !self.has_company()
    }

    /// Whether other threads write.
    fn has_company(&self) -> bool {
        self.company.is_some_and(|last| last.elapsed() < COMPANY)
    }

    fn budget(&self) -> Budget {
        let beside = match self.pause.is_zero() {
            true => self.slice.saturating_add(self.slice / 4),
            false => self.slice,
        };
        Budget {
            slice: self.slice,
            beside,
            alone: if self.is_alone() { ALONE.max(beside) } else { beside },
            rows: self.rows,
        }
    }

    fn submit(&mut self) -> Result<Pending<()>> {
        let counters = &self.store.telemetry.counters;
        self.wal_bytes = counters.wal_bytes.get();
        let slice = Slice {
            feed: Arc::clone(&self.feed),
            shared: Arc::clone(&self.store.shared),
            sql: Arc::clone(&self.sql),
            on_violation: self.on_violation,
            may_skip: self.max_skipped.saturating_sub(self.tracker.report.skipped),
            names_all: self.tracker.names_all(),
            cursor: self.cursor.clone(),
            reached: Arc::clone(&self.reached),
            position: self.position(),
            budget: self.budget(),
        };
        self.reached.store(0, Relaxed);
        *self.done.lock() = None;
        let noted = Arc::clone(&self.done);
        // After a rollback that another write of the group has caused, none may join.
        let order = WriteOrder::of_slice(self.store.options.durability, self.attempts > 0);
        let submission = Submission {
            call: "Bulk::run",
            site: self.site.clone(),
            timeout: PATIENCE,
            caller: Caller::Thread,
            when_full: WhenFull::Wait,
        };
        self.running.submitted();
        let submitted = self.store.enqueue(submission, order, move |tx: &WriteTx<'_>| {
            *noted.lock() = Some(slice.run(tx)?);
            Ok(())
        });
        submitted.map_err(|error| self.failed(None, None, error))
    }

    /// Takes the report of a slice.
    fn finish(&mut self, reply: Result<()>) -> Result<()> {
        if let Err(error) = reply {
            return self.retry(error);
        }
        self.attempts = 0;
        match self.count() {
            Some(Failed { line, error }) => {
                let row = self.position() + 1;
                Err(self.failed(Some(row), line, error))
            }
            None => Ok(()),
        }
    }

    /// Counts a slice that is committed. Returns the row that fails the job.
    fn count(&mut self) -> Option<Failed> {
        let done = self.done.lock().take()?;
        let bytes = self.feed.committed();
        let others = self.note_company(&done);
        self.adapt(&done, others);
        self.pace(&done);
        let report = &mut self.tracker.report;
        report.bytes += bytes as u64;
        report.rows += done.rows;
        report.changed += done.changed;
        report.unchanged += done.rows - done.skipped - done.hit;
        report.skipped += done.skipped;
        report.bad_lines += done.bad_lines;
        report.slices += 1;
        self.tracker.name(done.violations);
        done.failed
    }

    /// The slice was rolled back or did not start. If that was not the fault of its rows, they are ready again.
    fn retry(&mut self, error: Error) -> Result<()> {
        self.attempts += 1;
        let reached = self.reached.load(Relaxed);
        let first = self.position() + 1;
        if error.outcome() == Outcome::Local {
            // Committed, though not known to be in the replica.
            let _ = self.count();
        }
        let nothing_written = matches!(error.outcome(), Outcome::NotStarted | Outcome::RolledBack);
        if !nothing_written || !error.is_retryable() || self.attempts >= ATTEMPTS {
            let error = explain_deferred(error, first, first + reached - 1);
            return Err(self.failed(None, None, error));
        }
        self.feed.rolled_back();
        // A log that is full, or another process's lock, takes a while to go.
        if error.outcome() == Outcome::NotStarted {
            self.not_before = Some(Instant::now() + RETRY * (1 << (self.attempts - 1)));
        }
        Ok(())
    }

    /// Returns whether other threads have written.
    fn note_company(&mut self, done: &Done) -> bool {
        let writes = self.store.telemetry.counters.writes.get();
        let others = done.made_wait || writes > self.writes + 1;
        self.writes = writes;
        if others {
            self.company = Some(Instant::now());
        }
        others
    }

    /// Sets the number of rows of the next slice by what the commit of this one has added to the log.
    fn adapt(&mut self, done: &Done, others: bool) {
        let target = if self.is_alone() && !others {
            ALONE_LOG
        } else {
            SLICE_LOG
        };
        let now = self.store.telemetry.counters.wal_bytes.get();
        // The log may have begun from its start.
        let added = now.checked_sub(self.wal_bytes).unwrap_or(now);
        if added > target {
            let fitting = u128::from(done.rows) * u128::from(target) / u128::from(added);
            self.rows = (fitting as u64).max(LEAST_ROWS);
        } else if done.was_full {
            self.rows *= 2;
        }
    }

    /// Counts the time of a slice, and sets when the next one may come.
    fn pace(&mut self, done: &Done) {
        let took = done.began.map_or(Duration::ZERO, |began| began.elapsed());
        self.running.note(done.rows, took);
        let mut pause = self.pause;
        if self.share < 1.0 && self.has_company() {
            pause = pause.max(took.mul_f64(1.0 / self.share - 1.0));
        }
        self.not_before = Instant::now().checked_add(pause).filter(|_| !pause.is_zero());
    }
}

/// The violation of a deferred foreign key at the end of a slice: says which rows are in it, and what to do.
fn explain_deferred(error: Error, first: u64, last: u64) -> Error {
    match error {
        Error::Sqlite {
            source: rusqlite::Error::SqliteFailure(code, _),
            outcome,
            origin,
            context,
        } if code.extended_code == ffi::SQLITE_CONSTRAINT_FOREIGNKEY => {
            let message = format!(
                "FOREIGN KEY constraint failed: a deferred foreign key is judged at the end of each slice, and after the rows \
                 {first} to {last} of the source a row lacks its parent. Write parents before their children (and delete \
                 them after), or insert NULL and set the parent by a second job, or write all rows in one Store::write"
            );
            Error::Sqlite {
                source: rusqlite::Error::SqliteFailure(code, Some(message)),
                outcome,
                origin,
                context,
            }
        }
        other => other,
    }
}
