//! One group: the jobs that share a transaction, from BEGIN to the replies.
//!
//! # One job in a group
//!
//! The first job of a transaction needs no savepoint: the transaction is its savepoint. After *every* job, successful
//! or not, the writer thread checks `is_autocommit`: on a full disk, an I/O error, an interrupt, lack of memory,
//! `RAISE(ROLLBACK)` or `ON CONFLICT ROLLBACK`, SQLite has ended the whole transaction, even if the closure swallowed
//! the error. Then all jobs before it reply `RolledBack`, and the jobs after it get a new transaction.

use super::Writer;
use super::context::{Grouped, WriteJob};
use crate::connection::c_api;
use crate::connection::constraint;
use crate::connection::interrupt::{Limit, LimitKind};
use crate::connection::synchronous;
use crate::connection::transaction_control::Control;
use crate::error::{Error, ErrorContext, commit_is_unknown, extended_code, primary_code};
use crate::options::Durability;
use crate::queue::job::{Job, Resolution, Scope};
use crate::queue::pending::Queue;
use crate::telemetry::event::event;
use crate::telemetry::slow_log::{Call, Slow, SlowStatement};
use crate::transaction::hot_statement::Prepared;
use crate::transaction::{Connected, ENDED, WriteTx};
use rusqlite::ffi;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

const ENDED_AFTER: &str = "SQLite ended the whole transaction as the connection was reset after the closure (an I/O error or \
                           no memory)";

/// A job whose closure has run.
pub(super) struct Ran {
    pub(super) job: Job<Grouped>,
    /// The index of its call site's counters.
    pub(super) site: Option<usize>,
    /// Rows that the job changed.
    pub(super) changed: u64,
}

/// The run of one closure.
struct Execution {
    /// The kind of its error, if it failed.
    result: std::result::Result<(), &'static str>,
    /// The error of a closure that ran for longer than its limit.
    overrun: Option<Error>,
    /// The statement whose error ended the transaction, if one did.
    ended_by: Option<String>,
    /// Whether it may have changed settings of the connection, which no rollback undoes.
    left_settings: bool,
    ended: Instant,
}

/// The outcome of a transaction whose COMMIT failed.
pub(super) enum CommitFailure {
    /// The outcome is unknown; the store is poisoned.
    Unknown(Arc<rusqlite::Error>),
    RolledBack(rusqlite::Error),
}

/// The kind of error that the caller receives (`queue/job.rs`): mostly the closure's own error says more.
fn told(error: &Error, own: Option<&'static str>) -> &'static str {
    match (error, own) {
        (Error::Interrupted { .. }, Some("panic")) => "panic",
        (Error::Interrupted { .. }, _) | (_, None) => error.kind(),
        (_, Some(own)) => own,
    }
}

/// Which jobs may be in a group.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Members {
    All,
    /// The first job and no other.
    OnlyFirst,
}

impl Writer {
    /// Returns the number of its jobs, whatever became of them.
    pub(super) fn commit_group(&mut self, first: Job<Grouped>, members: Members) -> usize {
        self.jobs += 1;
        let mut jobs = 0;
        let began = Instant::now();
        let mut now = began;
        // Writes may join a slice for as long as any other group, however long the slice was.
        let mut joined_from = began;
        let had_savepoints = self.guard.may_open_savepoint();
        let mut candidate = Some(WriteJob::Grouped(first));
        while let Some(job) = candidate {
            let job = match job {
                WriteJob::Grouped(job) if self.fits(&job) => job,
                other => {
                    self.carried = Some(other);
                    break;
                }
            };
            let is_slice = job.order().is_slice;
            let alone = members == Members::OnlyFirst || job.order().is_alone;
            jobs += 1;
            if let Some(job) = self.claim(job, now) {
                now = match self.begin(job, now) {
                    Some((job, begun)) => self.run_job(job, begun),
                    None => Instant::now(),
                };
            }
            if is_slice {
                joined_from = now;
                self.side.note_slice(now);
            }
            let full = self.group.len() >= self.options.max_group_size
                || now - joined_from >= self.options.max_group_time
                || self.spoiled.is_some()
                // A job that runs in no savepoint of larder's may have left one open.
                || self.guard.may_open_savepoint() != had_savepoints;
            candidate = if alone || full { None } else { self.take_job() };
        }
        self.last_group = self.group.len();
        self.last_used = now;
        if self.commit() {
            self.reply(began);
        }
        self.reset_left_running();
        jobs
    }

    /// Whether the job may join the open transaction, or begin one. `synchronous` cannot be changed inside a
    /// transaction. The jobs before a slice would wait for all of it, and its savepoint would keep the old content of
    /// each page.
    fn fits(&self, job: &Job<Grouped>) -> bool {
        let order = job.order();
        self.group.is_empty() || (!order.is_alone && order.durability <= self.durability && !order.is_slice)
    }

    /// Starts the job, unless its caller has withdrawn it, its deadline has passed or the store is poisoned.
    pub(super) fn claim<S: Scope>(&mut self, job: Job<S>, now: Instant) -> Option<Job<S>> {
        if !job.start() {
            return None;
        }
        let meta = job.meta();
        let waited = now.saturating_duration_since(meta.asked);
        let error = if now >= meta.deadline {
            Some(Error::QueueTimeout { waited, context: None })
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
    pub(super) fn begin(&mut self, job: Job<Grouped>, now: Instant) -> Option<(Job<Grouped>, Instant)> {
        if !self.group.is_empty() {
            return Some((job, now));
        }
        if let Some(error) = self.wal_full().or_else(|| self.refused_by_keeper()) {
            self.fail(job, error);
            return None;
        }
        if let Err(error) = self.replace_spoiled() {
            self.fail(job, error);
            return None;
        }
        let wanted = job.order().durability;
        let before = Instant::now();
        // A transaction whose ROLLBACK failed for lack of memory would block every later write.
        let begun = self
            .try_roll_back()
            .and_then(|()| self.set_durability(wanted))
            .and_then(|()| self.run_internal(Control::BeginWrite));
        let Err(error) = begun else {
            let after = Instant::now();
            self.telemetry.counters.begin.add_time(after - before);
            return Some((job, after));
        };
        if primary_code(&error) == Some(ffi::SQLITE_BUSY) {
            self.locked_out = Some((now, error.to_string()));
        }
        self.fail(job, Error::not_started(error));
        if !self.is_callers {
            self.fail_locked_out();
        }
        None
    }

    /// Fails the queued jobs that have waited for SQLite's lock as long as a job whose BEGIN has failed. Only on the
    /// writer thread: what their closures own is dropped here, which is not for another caller's thread.
    pub(super) fn fail_locked_out(&mut self) {
        let Some((since, text)) = self.locked_out.take() else {
            return;
        };
        while let Some(job) = self.queued() {
            let job = match job {
                WriteJob::Grouped(job) if job.meta().asked <= since => job,
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
    }

    /// Not from the statement cache, and no statement is kept: "Some pragmas take effect during the SQL compilation
    /// stage, not the execution stage", <https://sqlite.org/pragma.html>.
    pub(super) fn set_durability(&mut self, wanted: Durability) -> rusqlite::Result<()> {
        if wanted != self.durability {
            let pragma = format!("PRAGMA main.synchronous = {}", synchronous(wanted));
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

    /// Opens the savepoint that undoes the job. The first job of a transaction needs none, unless the end of a savepoint
    /// must release those that the job leaves open. Without one the last value is false.
    fn ensure_savepoint(&mut self, job: Job<Grouped>, started: Instant) -> Option<(Job<Grouped>, Instant, bool)> {
        if self.group.is_empty() && !self.guard.may_open_savepoint() {
            return Some((job, started, false));
        }
        let Err(error) = self.run_internal(Control::Savepoint) else {
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
        let connected = Connected {
            conn: &self.conn,
            guard: &self.guard,
            interrupt: &self.interrupt,
            activity: &self.telemetry.writing,
        };
        let tx = WriteTx::new(
            connected,
            self.options.slow_write_threshold,
            self.statements.as_ref(),
            &prepared,
        );
        let result = job.run(&tx);
        let left_settings = tx.had_raw_access() || limit.is_some();
        let (ended_by, stopped) = (tx.ended_by(), tx.stopped());
        let (slowest, rows_read, disk_full) = (tx.slowest(), tx.rows(), tx.found_disk_full());
        drop(prepared);
        let ended = Instant::now();
        let overrun = bounded.and_then(|bounded| bounded.end(ended, result.is_ok()));
        let overrun = overrun.map(|error| error.at(|| ErrorContext::of_statement(stopped)));
        self.telemetry.writing.end();
        let changed = self.conn.total_changes().saturating_sub(before);
        let ran = Ran { job, site, changed };
        self.note_run(&ran, ended - started, rows_read, disk_full);
        let error = overrun.as_ref().map(Error::kind).or(result.err());
        self.note_if_slow(&ran, started, ended, error, slowest);
        let execution = Execution {
            result,
            overrun,
            ended_by,
            left_settings,
            ended,
        };
        (ran, execution)
    }

    /// Keeps the changes of the job for the commit of its group, or undoes them and replies.
    fn conclude(&mut self, ran: Ran, execution: Execution, nested: bool) {
        let Execution {
            result,
            overrun,
            ended_by,
            ..
        } = execution;
        let ended_inside = self.conn.is_autocommit();
        self.guard.take_stale_statements(&self.conn);
        if execution.left_settings {
            self.tidy();
        }
        let settled = self.settle(result.is_ok(), ended_inside, execution.left_settings);
        if let Some(error) = overrun.or(settled) {
            let error = error.at(|| ErrorContext::of_statement(ended_by));
            return self.undo(ran, told(&error, result.err()), Resolution::Failed(error), nested);
        }
        if let Err(kind) = result {
            return self.undo(ran, kind, Resolution::Own, nested);
        }
        if nested && let Err(error) = self.run_internal(Control::Release) {
            let error = Error::from(error);
            return self.undo(ran, error.kind(), Resolution::Failed(error), nested);
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

    /// Finds errors that a closure did not see, and drops its temporary objects. `ended_inside` says whether SQLite had
    /// ended the transaction when the closure returned. After that, only the reset of a connection that was `tidied`
    /// may have ended it.
    fn settle(&mut self, ok: bool, ended_inside: bool, tidied: bool) -> Option<Error> {
        if ended_inside || tidied && self.conn.is_autocommit() {
            return Some(Error::RolledBack {
                reason: if ended_inside { ENDED } else { ENDED_AFTER },
                caused_by_closure: ended_inside,
                source: None,
                context: None,
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
                let error = rusqlite::Error::SqliteFailure(code, message);
                let violated = constraint::violated_deferred(&self.conn, &self.guard);
                return Some(Error::of_store(error).at(|| ErrorContext::of_constraint(violated)));
            }
            Err(error) => return Some(error.into()),
        }
        if self.guard.may_make_temporary() {
            let dropped = self.drop_temporary();
            self.guard.take_stale_statements(&self.conn);
            return dropped.err().map(Error::from);
        }
        None
    }

    /// Undoes the job, by its savepoint or by the transaction if no other job has used it, and replies to its caller.
    fn undo(&mut self, ran: Ran, kind: &'static str, resolution: Resolution, nested: bool) {
        // ROLLBACK TO leaves the savepoint open: RELEASE must follow.
        let undone = nested
            && !self.group.is_empty()
            && !self.conn.is_autocommit()
            && self
                .run_internal(Control::RollbackTo)
                .and_then(|()| self.run_internal(Control::Release))
                .is_ok();
        self.deferred_keys.rolled_back();
        self.guard.transaction_ended(false);
        if !undone {
            self.roll_back();
        }
        self.tell(ran, kind, resolution);
        if !undone {
            self.lose_group(
                "another write of the same group made SQLite end the whole transaction",
                None,
            );
        }
    }

    /// Ends the transaction, unless SQLite has done so.
    pub(super) fn roll_back(&self) {
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

    pub(super) fn try_roll_back(&self) -> rusqlite::Result<()> {
        self.deferred_keys.rolled_back();
        self.guard.transaction_ended(false);
        if self.conn.is_autocommit() {
            Ok(())
        } else {
            self.run_internal(Control::Rollback)
        }
    }

    /// Replies to every job of the group that its transaction was rolled back.
    fn lose_group(&mut self, reason: &'static str, source: Option<&Arc<rusqlite::Error>>) {
        let writes = self.group.len();
        if writes == 0 {
            return;
        }
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
                context: None,
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

    /// Called after every commit of the connection: of a group, of maintenance or of an exclusive job.
    pub(super) fn note_commits(&mut self) {
        self.checkpointer.committed();
        let commits = self.checkpointer.commits();
        self.telemetry.counters.committed(commits);
        self.readers.committed(commits);
        if let Some(keeper) = self.shared.keeper() {
            keeper.committed(self.checkpointer.frames(), commits);
        }
        if self.guard.take_analyzed() {
            self.readers.forget_statistics();
        }
        if self.guard.take_new_columns() {
            self.readers.forget_statements();
        }
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
    pub(super) fn commit_transaction(&mut self) -> std::result::Result<(), CommitFailure> {
        let Err(error) = self.run_internal(Control::Commit) else {
            self.note_commits();
            self.deferred_keys.committed();
            self.guard.transaction_ended(true);
            // Meanwhile the watchdog has found that the log or the database is no longer the file that other processes
            // see. If another primary has taken the replica over, this file has the commit all the same.
            return match self.shared.poison.get() {
                Some(source) if !self.shared.is_stopped() => Err(CommitFailure::Unknown(Arc::clone(source))),
                _ => Ok(()),
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
        let mut held = Vec::new();
        let mut group = mem::take(&mut self.group);
        for ran in group.drain(..) {
            if let Some(site) = ran.site {
                self.sites[site].committed(ran.changed);
            }
            if ran.job.order().durability == Durability::Replicated {
                held.push(WriteJob::Grouped(ran.job));
            } else {
                ran.job.finish(Resolution::Own);
            }
        }
        self.group = group;
        self.hold(held);
        let now = Instant::now();
        self.shared.queue.spin().replied(jobs as usize, now - began);
        self.cache.report(now, || c_api::take_cache(&self.conn));
    }

    /// Replies to the caller of a job that was not started.
    pub(super) fn fail<S: Scope>(&mut self, job: Job<S>, error: Error) {
        self.finish(job, error.kind(), Resolution::Failed(error));
    }

    /// Replies to the caller of a job that was not committed.
    fn tell(&mut self, ran: Ran, kind: &'static str, resolution: Resolution) {
        if let Some(site) = ran.site {
            self.sites[site].failed();
        }
        self.finish(ran.job, kind, resolution);
    }

    pub(super) fn finish<S: Scope>(&mut self, job: Job<S>, kind: &'static str, resolution: Resolution) {
        self.telemetry.counters.failed(kind);
        self.count_finished(1);
        let resolution = match resolution {
            Resolution::Failed(error) => Resolution::Failed(error.with_site(|| job.meta().site.to_string())),
            Resolution::Own => Resolution::Own,
        };
        job.finish(resolution);
    }

    pub(super) fn count_finished(&mut self, jobs: u64) {
        if self.shared.queue.is_closed() {
            self.telemetry.counters.finished_closing.add(jobs);
        }
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
        if lasted < self.options.slow_write_threshold || ran.job.order().is_slice {
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

    pub(super) fn report_slow(&mut self) {
        self.slow_log
            .report(&self.shared.path, self.slow.drain(..), self.last_group);
    }
}
