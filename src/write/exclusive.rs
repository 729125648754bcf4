//! Exclusive jobs, which have the writer to themselves, with no transaction open: migrations and vacuums.
//!
//! An exclusive job begins and ends its own transactions, with [`begin_immediate`](Writer::begin_immediate) and
//! [`commit_own`](Writer::commit_own), so it may change settings that cannot be changed inside a transaction. It is
//! acknowledged when it returns. Before the next job, `restore` resets the connection, whatever state the job left,
//! even by a panic.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ffi};

use super::context::{Exclusive, WriteJob};
use super::{CommitFailure, Writer};
use crate::connection::authorizer::SqlGuard;
use crate::connection::transaction_control::Control;
use crate::connection::{self, interrupt::Interrupt};
use crate::error::{Error, Result, extended_code};
use crate::options::{Durability, Settings};
use crate::queue::job::{Job, Resolution};
use crate::read::Readers;

impl Writer {
    pub(super) fn run_exclusive(&mut self, job: Job<Exclusive>) {
        self.jobs += 1;
        let Some(job) = self.claim(job, Instant::now()) else {
            return;
        };
        self.end_side_checkpoints();
        if let Some(error) = self.wal_full().or_else(|| self.refused_by_keeper()) {
            return self.fail(job, error);
        }
        if let Err(error) = self.replace_spoiled() {
            return self.fail(job, error);
        }
        // A transaction whose ROLLBACK failed for lack of memory would block the job.
        if let Err(error) = self.try_roll_back() {
            return self.fail(job, Error::not_started(error));
        }
        self.guard.reset();
        let before = self.guard.changes().restart(&self.conn);
        self.interrupt.reset();
        let site = self.sites.find(&job.meta().site);
        let began = Instant::now();
        self.telemetry.writing.begin(began, job.meta().site.clone());
        let result = job.run(self);
        self.telemetry.writing.end();
        if let Some(site) = site {
            let usage = &self.sites[site];
            usage.ran(began.elapsed(), 0);
            match result {
                Ok(()) => usage.committed(self.conn.total_changes().saturating_sub(before)),
                Err(_) => usage.failed(),
            }
        }
        self.restore();
        self.last_used = Instant::now();
        self.look_at_size();
        let counters = &self.telemetry.counters;
        if let Err(kind) = result {
            counters.failed(kind);
        }
        counters.wal_bytes.set(self.checkpointer.bytes());
        counters.largest_wal_bytes.raise_to(self.checkpointer.bytes());
        self.count_finished(1);
        if result.is_ok() && self.options.durability == Durability::Replicated {
            self.hold(vec![WriteJob::Exclusive(job)]);
        } else {
            job.finish(Resolution::Own);
        }
    }

    /// Resets the connection to its state between jobs. A connection that cannot be reset must not write any more:
    /// without its foreign keys it would accept rows that it should refuse. So the store is poisoned.
    fn restore(&mut self) {
        self.roll_back();
        // The job may have committed by itself.
        self.note_commits();
        self.guard.take_stale_statements(&self.conn);
        // By the PRAGMAs that it sets. The SQL of a job replaces no function.
        self.guard.expired_statements();
        self.tidy();
        let restored = if self.guard.may_make_temporary() {
            self.drop_temporary()
        } else {
            Ok(())
        };
        let restored = restored.map_err(Error::from).and_then(|()| {
            let options = &self.options;
            let restored = self.guard.as_internal(|| connection::set_for_jobs(&self.conn, options));
            self.guard.expired_statements();
            restored
        });
        if let Err(error) = restored {
            let source = match error {
                Error::Sqlite { source, .. } => source,
                other => rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_INTERNAL), Some(other.to_string())),
            };
            self.poison(&Arc::new(source));
        }
    }

    pub(crate) fn conn(&self) -> &Connection {
        &self.conn
    }

    pub(crate) fn guard(&self) -> &SqlGuard {
        &self.guard
    }

    /// The number of this exclusive job. It is one more than that of the last one if nothing was written in between.
    pub(crate) fn jobs(&self) -> u64 {
        self.jobs
    }

    pub(crate) fn interrupt(&self) -> &Arc<Interrupt> {
        &self.interrupt
    }

    pub(crate) fn options(&self) -> &Settings {
        &self.options
    }

    pub(crate) fn readers(&self) -> &Readers {
        &self.readers
    }

    pub(crate) fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Begins a transaction whose commit is synced. Waits for other processes for at most `patience`.
    pub(crate) fn begin_immediate(&mut self, patience: Duration) -> rusqlite::Result<()> {
        self.try_roll_back()?;
        self.set_durability(Durability::Full)?;
        self.conn.busy_timeout(patience)?;
        let begun = self.run_internal(Control::BeginWrite);
        self.conn.busy_timeout(self.options.busy_timeout)?;
        begun
    }

    /// Commits the transaction that the job has begun.
    ///
    /// # Errors
    ///
    /// [`Error::CommitUnknown`], or SQLite's error if the transaction was rolled back.
    pub(crate) fn commit_own(&mut self) -> Result<()> {
        self.commit_transaction().map_err(|failure| match failure {
            CommitFailure::Unknown(source) => Error::CommitUnknown { source },
            CommitFailure::RolledBack(error) => error.into(),
        })
    }

    /// The error of a job whose own COMMIT failed with an unknown outcome. Poisons the store.
    pub(crate) fn unknown(&self, error: &Error) -> Error {
        let code = error.sqlite().and_then(extended_code).unwrap_or(ffi::SQLITE_IOERR);
        let source = rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some(error.to_string()));
        let source = Arc::new(source);
        self.poison(&source);
        Error::CommitUnknown { source }
    }

    pub(crate) fn poisoned(&self) -> Option<Error> {
        self.shared.poison()
    }

    /// Rolls back the transaction that the job has begun, if it is still open.
    pub(crate) fn roll_back_own(&mut self) {
        self.roll_back();
    }

    /// Discards the cached statements of all connections, because the schema has changed.
    pub(crate) fn forget_statements(&self) {
        self.conn.flush_prepared_statement_cache();
        self.readers.forget_statements();
    }

    /// Whether an exclusive job that has work left may do more of it before it returns. Not if a job waits or is carried
    /// over, if the store closes or is poisoned, if a checkpoint is due, if the log is too large, or if there may be
    /// temporary objects: what comes between two jobs is then necessary.
    pub(crate) fn may_go_on(&self) -> bool {
        let queue = &self.shared.queue;
        queue.length() == 0
            && self.carried.is_none()
            && !self.side.has_slices()
            && !queue.is_closed()
            && self.shared.poison.get().is_none()
            && self.spoiled.is_none()
            && self.checkpointer.due().is_none()
            && self.checkpointer.over_hard_limit().is_none()
            && !self.guard.may_have_temporary()
    }

    /// Counts a failure that the job itself does not return.
    pub(crate) fn count_failed(&self, error: &Error) {
        self.telemetry.counters.failed(error.kind());
    }
}
