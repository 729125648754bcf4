//! The maintenance of an idle store: the writer thread moves the log into the database file, returns free pages to the
//! file system, and refreshes the statistics of the query planner (`statistics.rs`). Each step is short, and the queue
//! comes first again after it. The store is idle once no thread has written for a while.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::ffi;

use super::checkpointer::{Mode, PATIENCE};
use super::statistics::Refreshed;
use super::{CommitFailure, Writer};
use crate::connection::transaction_control::Control;
use crate::error::{extended_code, primary_code};
use crate::telemetry::event::event;

/// How long no thread writes before the writer thread runs a checkpoint and idle maintenance.
const IDLE: Duration = Duration::from_secs(1);

/// Pages returned in one transaction: 4 MB, some milliseconds.
const VACUUM_PAGES: u64 = 1000;

/// Back-off after a failed maintenance step.
const BACKOFF: Duration = Duration::from_secs(60);

/// How long due statistics wait for an idle moment; at most its interval.
const OPTIMIZE_GRACE: Duration = Duration::from_secs(60 * 60);

/// The size of a database, in pages, from which its statistics are due once it has doubled.
const LARGE_PAGES: u64 = 1000;

/// When each step is due.
pub(super) struct IdleMaintenance {
    optimized: Instant,
    /// Size of the database at that time, in pages.
    optimized_pages: u64,
    /// Earliest time of the next vacuum step, after one has failed.
    vacuum_from: Instant,
    optimize_from: Instant,
}

impl IdleMaintenance {
    /// For a store that has just opened, with a database of so many pages.
    pub(super) fn new(pages: u64) -> Self {
        let now = Instant::now();
        Self {
            optimized: now,
            optimized_pages: pages,
            vacuum_from: now,
            optimize_from: now,
        }
    }
}

impl Writer {
    /// When maintenance is due, if there is no write before.
    pub(super) fn idle_due(&self, now: Instant) -> Option<Instant> {
        if self.shared.poison.get().is_some() || self.options.read_only {
            return None;
        }
        // The end of that checkpoint wakes the writer thread.
        if self.side.is_running() || self.side.has_slices() {
            return None;
        }
        let idle = self.last_used + IDLE;
        let is_open = !self.conn.is_autocommit();
        if is_open || self.side.has_thread() || !self.checkpointer.is_empty() || self.may_vacuum(now) {
            return Some(idle);
        }
        self.optimize_due().map(|due| due.max(idle))
    }

    /// Called once it is [due](Self::idle_due).
    pub(super) fn run_idle_maintenance(&mut self) {
        // A transaction whose ROLLBACK failed keeps SQLite's lock from other processes.
        self.roll_back();
        self.end_side_checkpoints();
        if !self.checkpointer.is_empty() {
            self.checkpoint(Mode::Passive, PATIENCE);
        }
        let now = Instant::now();
        if self.optimize_due().is_some_and(|due| now >= due) {
            self.optimize(true);
        }
        if self.may_vacuum(now) {
            self.give_back();
        }
        self.last_used = Instant::now();
        self.emit_deferred();
    }

    /// Called under load: runs the step whose idle moment did not come for long.
    pub(super) fn run_overdue_maintenance(&mut self) {
        if self
            .optimize_due()
            .is_some_and(|due| due.elapsed() >= self.options.optimize_interval.min(OPTIMIZE_GRACE))
        {
            self.optimize(false);
        }
    }

    /// `None` for a copy that follows another database. A store that writes nothing itself, to a file that others write,
    /// keeps the statistics up to date as well: its reads are planned by them.
    fn optimize_due(&self) -> Option<Instant> {
        let last = &self.idle_maintenance;
        let pages = self.telemetry.counters.size().pages;
        let has_doubled = pages >= LARGE_PAGES && pages / 2 >= last.optimized_pages;
        let by_time = last.optimized.checked_add(self.options.optimize_interval)?;
        let due = if has_doubled { last.optimized } else { by_time };
        (!self.options.follows).then_some(due.max(last.optimize_from))
    }

    /// Whether there are many free pages that can be returned.
    fn may_vacuum(&self, now: Instant) -> bool {
        let size = self.telemetry.counters.size();
        self.options.incremental_vacuum
            && !self.options.follows
            && size.free_pages > VACUUM_PAGES
            && size.free_pages > size.pages / 10
            && self.telemetry.counters.has_incremental_vacuum()
            && now >= self.idle_maintenance.vacuum_from
            && self.refused_by_keeper().is_none()
    }

    fn give_back(&mut self) {
        let before = self.telemetry.counters.size().free_pages;
        let result = self.vacuum_step();
        self.look_at_file();
        let after = self.telemetry.counters.size().free_pages;
        if result.is_err() || after >= before {
            self.idle_maintenance.vacuum_from = Instant::now() + BACKOFF;
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
            "returned free pages to the file system"
        );
    }

    fn vacuum_step(&mut self) -> rusqlite::Result<()> {
        self.try_roll_back()?;
        self.set_durability(self.options.durability)?;
        self.conn.busy_timeout(PATIENCE)?;
        let begun = self.run_internal(Control::BeginWrite);
        self.conn.busy_timeout(self.options.busy_timeout)?;
        begun?;
        let vacuumed = self.guard.as_internal(|| {
            let mut statement = self
                .conn
                .prepare(&format!("PRAGMA main.incremental_vacuum({VACUUM_PAGES})"))?;
            // One page is returned per step.
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

    /// In an idle moment, it stops for the first write that arrives, and goes on in the next one. Under load it analyses
    /// one table.
    fn optimize(&mut self, is_idle: bool) {
        let queue = Arc::clone(&self.shared.queue);
        let watching = is_idle.then(|| {
            let queue = Arc::clone(&queue);
            self.interrupt.watch(&self.conn, move || queue.length() > 0)
        });
        let mut tables = 0;
        // The commits of ANALYZE are counted only after the last one: the keeper would take them for another process's.
        let readers = Arc::clone(&self.readers);
        let aside = readers.stand_aside();
        let result = self.refresh_statistics(|| {
            tables += 1;
            if is_idle { queue.length() == 0 } else { tables == 1 }
        });
        drop(watching);
        self.note_commits();
        drop(aside);
        let now = Instant::now();
        match &result {
            Ok(Refreshed::All) => {
                self.idle_maintenance.optimized = now;
                self.idle_maintenance.optimized_pages = self.telemetry.counters.size().pages;
            }
            // Under load the next table is due at the next checkpoint.
            Ok(Refreshed::Some) if !is_idle => {}
            Ok(Refreshed::Some) => self.idle_maintenance.optimize_from = now + IDLE,
            Err(error) if primary_code(error) == Some(ffi::SQLITE_INTERRUPT) => {
                self.idle_maintenance.optimize_from = now + IDLE
            }
            Err(_) => self.idle_maintenance.optimize_from = now + BACKOFF,
        }
        event!(
            debug,
            "larder::maintenance",
            self.shared.path,
            { "db.response.status_code" = result.as_ref().err().and_then(extended_code) },
            "refreshed the statistics of the query planner"
        );
        // Each ANALYZE commits by itself.
        if let Err(error) = result
            && primary_code(&error) == Some(ffi::SQLITE_IOERR)
        {
            self.poison(&Arc::new(error));
        }
    }
}
