//! What the writer does with idle moments, besides checkpoints: it gives free pages back, and has SQLite look after its
//! statistics. Each is one short step, after which the queue comes first again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::ffi;

use super::checkpointer::PATIENCE;
use super::{CommitFailure, IDLE, Writer};
use crate::error::{extended_code, primary_code};
use crate::telemetry::event::event;
use crate::transaction::sql;

/// Pages given back in one transaction: 4 MB, some milliseconds.
const STEP: u64 = 1000;

/// How long a chore that failed is let be.
const LET_BE: Duration = Duration::from_secs(60);

/// How long `PRAGMA optimize` waits for an idle moment, once it is due; no longer than its interval.
const GRACE: Duration = Duration::from_secs(60 * 60);

/// When the chores are due.
pub(super) struct Chores {
    optimized: Instant,
    /// Not before that, since it has failed.
    vacuum_from: Instant,
    optimize_from: Instant,
}

impl Chores {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            optimized: now,
            vacuum_from: now,
            optimize_from: now,
        }
    }
}

impl Writer {
    /// How long the queue may stay empty before there is something to do.
    pub(super) fn idle_patience(&self) -> Option<Duration> {
        if self.shared.poison.get().is_some() {
            return None;
        }
        let now = Instant::now();
        let is_open = !self.conn.is_autocommit();
        if is_open || !self.checkpointer.is_empty() || self.may_vacuum(now) {
            return Some(IDLE);
        }
        self.optimize_due()
            .map(|due| due.saturating_duration_since(now).max(IDLE))
    }

    /// Nobody wants anything.
    pub(super) fn do_chores(&mut self) {
        let now = Instant::now();
        if self.optimize_due().is_some_and(|due| now >= due) {
            self.optimize(true);
        }
        if self.may_vacuum(now) {
            self.give_back();
        }
    }

    /// There was no idle moment for long.
    pub(super) fn do_overdue_chores(&mut self) {
        if self
            .optimize_due()
            .is_some_and(|due| due.elapsed() >= self.options.optimize_interval.min(GRACE))
        {
            self.optimize(false);
        }
    }

    /// `None` as long as the store has written nothing.
    fn optimize_due(&self) -> Option<Instant> {
        let wrote = self.telemetry.counters.largest_wal_bytes.get() > 0;
        let due = self.chores.optimized.checked_add(self.options.optimize_interval)?;
        wrote.then_some(due.max(self.chores.optimize_from))
    }

    /// Whether there are many free pages that can be given back.
    fn may_vacuum(&self, now: Instant) -> bool {
        let size = self.telemetry.counters.size();
        self.options.incremental_vacuum
            && size.free_pages > STEP
            && size.free_pages > size.pages / 10
            && self.telemetry.counters.has_incremental_vacuum()
            && now >= self.chores.vacuum_from
    }

    fn give_back(&mut self) {
        let before = self.telemetry.counters.size().free_pages;
        let result = self.vacuum_step();
        self.look_at_file();
        let after = self.telemetry.counters.size().free_pages;
        if result.is_err() || after >= before {
            self.chores.vacuum_from = Instant::now() + LET_BE;
        }
        event!(
            debug,
            "larder::maintenance",
            self.shared.path,
            {
                "db.response.status_code" = result.err().as_ref().and_then(extended_code),
                given_back = before.saturating_sub(after),
                free_pages = after,
            },
            "gave free pages back to the file system"
        );
    }

    fn vacuum_step(&mut self) -> rusqlite::Result<()> {
        self.try_roll_back()?;
        self.set_durability(self.options.durability)?;
        self.conn.busy_timeout(PATIENCE)?;
        let begun = self.own(sql::BEGIN_WRITE);
        self.conn.busy_timeout(self.options.busy_timeout)?;
        begun?;
        let vacuumed = self.fence.own(|| {
            let mut statement = self.conn.prepare(&format!("PRAGMA incremental_vacuum({STEP})"))?;
            // It gives one page back a step.
            let mut rows = statement.raw_query();
            while rows.next()?.is_some() {}
            Ok(())
        });
        if let Err(error) = vacuumed {
            self.roll_back();
            return Err(error);
        }
        self.commit_transaction().map_err(|failure| match failure {
            CommitFailure::RolledBack(error) => error,
            // The store is poisoned.
            CommitFailure::Unknown(source) => {
                let code = extended_code(&source).unwrap_or(ffi::SQLITE_IOERR);
                rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)
            }
        })
    }

    /// One that yields stops for the first write that comes, and is tried again in the next idle moment.
    fn optimize(&mut self, yields: bool) {
        let watching = yields.then(|| {
            let admission = Arc::clone(&self.shared.admission);
            self.interrupt.watch(&self.conn, move || admission.length() > 0)
        });
        let result = self.fence.own(|| self.conn.execute_batch("PRAGMA optimize"));
        drop(watching);
        self.roll_back();
        self.checkpointer.committed();
        let now = Instant::now();
        match &result {
            Ok(()) => self.chores.optimized = now,
            Err(error) if primary_code(error) == Some(ffi::SQLITE_INTERRUPT) => self.chores.optimize_from = now + IDLE,
            Err(_) => self.chores.optimize_from = now + LET_BE,
        }
        event!(
            debug,
            "larder::maintenance",
            self.shared.path,
            { "db.response.status_code" = result.as_ref().err().and_then(extended_code) },
            "ran PRAGMA optimize"
        );
        // It commits by itself.
        if let Err(error) = result
            && primary_code(&error) == Some(ffi::SQLITE_IOERR)
        {
            self.poison(&Arc::new(error));
        }
    }
}
