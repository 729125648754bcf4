//! The end of the writer thread: its steps, in order, once the queue is closed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::ffi;

use super::checkpointer::Mode;
use super::closing::{self, CloseReport};
use super::{Shared, Writer};
use crate::connection;
use crate::connection::wal_resync;
use crate::error::{code_name, extended_code, primary_code};
use crate::options::Checkpoints;
use crate::runtime::clock::later;
use crate::telemetry::event::event;

impl Writer {
    /// Called once the queue is closed, and is drained or its time is over.
    pub(super) fn close(mut self) {
        let began = Instant::now();
        let deadline = self
            .shared
            .closing
            .deadline()
            .unwrap_or_else(|| later(began, self.options.close_timeout));
        // First, because the checkpoint that runs may take longer than these may wait.
        let discarded = self.discard_rest();
        self.end_side_checkpoints();
        self.emit_deferred();
        if let Some(change) = self.shared.file.look() {
            self.shared.file_changed(&change);
        }
        self.save_log_if_wanted();
        if let Some(keeper) = self.shared.keeper()
            && self.shared.poison.get().is_none()
        {
            // What another process has done to the log shows now, while there is time to read the whole database.
            let _ = keeper.before_checkpoint(true);
            self.take_turn_of_keeper();
        }
        let wal_kept_because = self.finish_log(deadline);
        if let Some(keeper) = self.shared.keeper()
            && self.shared.poison.get().is_none()
        {
            keeper.last_turn(&self.turn());
        }
        // SQLite runs a checkpoint when the last connection closes, and a failed sync must not be retried.
        let _ = self
            .conn
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, wal_kept_because.is_some());
        let (shared, telemetry) = (Arc::clone(&self.shared), Arc::clone(&self.telemetry));
        self.close_connection();
        let replicated = shared.keeper().and_then(|keeper| keeper.closed(deadline));
        let report = CloseReport {
            finished: telemetry.counters.finished_closing.get(),
            never_started: shared.queue.discarded() + discarded,
            wal_truncated: wal_kept_because.is_none(),
            wal_kept_because,
            replicated: replicated.as_ref().map(|replicated| replicated.because.is_none()),
            not_replicated_because: replicated.and_then(|replicated| replicated.because),
            duration: began.elapsed(),
        };
        event!(
            info,
            "larder::close",
            shared.path,
            {
                finished = report.finished,
                never_started = report.never_started,
                wal_truncated = report.wal_truncated,
                wal_kept_because = report.wal_kept_because,
                replicated = report.replicated,
                not_replicated_because = report.not_replicated_because,
                duration_ms = report.duration.as_millis() as u64,
            },
            "store closed"
        );
        shared.closing.report(report);
    }

    /// Drops the jobs that were not started, each of which replies `Closed`. Returns how many had left the queue.
    fn discard_rest(&mut self) -> u64 {
        let left = self.carried.take().into_iter().chain(self.side.take_slices());
        let discarded = left.filter(|job| !job.is_withdrawn()).count() as u64;
        self.shared.queue.discard();
        discarded
    }

    /// Waits for the reads, then empties the log. Returns the reason if the log is kept.
    fn finish_log(&mut self, deadline: Instant) -> Option<String> {
        let read = self.readers.close(deadline);
        if self.options.read_only {
            return Some(read.err().unwrap_or_else(|| closing::ONLY_READ.to_owned()));
        }
        if self.shared.poison.get().is_some() {
            let why = match self.shared.stopped.get() {
                Some(_) => "the store took no more writes, because of its replica, so the log is left as it is",
                None => "the store is poisoned, so the log is left as it is for recovery",
            };
            return Some(why.to_owned());
        }
        if let Err(reader) = read {
            return Some(reader);
        }
        let kept = self.truncate_log(deadline).err()?;
        if let Kept::Failed(_, error) = &kept
            && primary_code(error) == Some(ffi::SQLITE_IOERR)
            && let Err(error) = wal_resync::mark(&self.shared.path)
        {
            wal_resync::report(&self.shared.path, &error);
        }
        Some(kept.to_string())
    }

    fn close_connection(self) {
        let Self {
            baseline,
            control,
            mut lease,
            conn,
            folder,
            ..
        } = self;
        drop((baseline, control));
        lease.release();
        connection::close(conn);
        lease.writer_closed();
        drop(lease);
        drop(folder);
    }

    /// Refreshes the statistics of the query planner, then runs a checkpoint that empties the log.
    ///
    /// # Errors
    ///
    /// The reason why the log could not be emptied.
    fn truncate_log(&mut self, deadline: Instant) -> std::result::Result<(), Kept> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Kept::TimeOver);
        }
        // A store that wrote nothing (its migrations may not have fitted) changes nothing, nor does a follower.
        let wrote = self.telemetry.counters.has_committed() && !self.options.follows;
        let in_time = || Instant::now() < deadline;
        let refreshed = if wrote {
            self.refresh_statistics(in_time).map(drop)
        } else {
            Ok(())
        };
        self.note_commits();
        if let Err(error) = refreshed {
            // The failed sync may have covered acknowledged writes, too.
            if primary_code(&error) == Some(ffi::SQLITE_IOERR) {
                return Err(Kept::Failed("ANALYZE", error));
            }
            event!(
                debug,
                "larder::close",
                { "db.response.status_code" = extended_code(&error) },
                "the statistics of the query planner were not refreshed"
            );
        }
        if self.options.checkpoints == Checkpoints::Left {
            self.checkpointer.leave(&self.conn, &self.guard, Mode::Truncate);
            return Err(Kept::Left);
        }
        let patience = left.min(self.options.busy_timeout);
        let checkpoint = self.run_checkpoint(Mode::Truncate, patience);
        match checkpoint {
            Ok(Some(progress)) if progress.finished() => Ok(()),
            Ok(Some(_)) => Err(Kept::InUse),
            Ok(None) => Err(Kept::NotReplicated),
            Err(error) => Err(Kept::Failed("the checkpoint", error)),
        }
    }
}

/// Why the WAL was not truncated.
#[derive(Debug, thiserror::Error)]
enum Kept {
    #[error("the close timeout was over")]
    TimeOver,
    #[error("another process, or a connection of this one that is not the store's, is using the WAL")]
    InUse,
    #[error("its last transactions could not be written to the replica's folder beside the database")]
    NotReplicated,
    #[error("{}", closing::LEFT)]
    Left,
    /// Without SQLite's message, because the reason goes to an event.
    #[error("{0} failed with SQLite's error {code}, {name}", code = extended_code(.1).unwrap_or(ffi::SQLITE_ERROR),
        name = code_name(.1))]
    Failed(&'static str, rusqlite::Error),
}

impl Shared {
    /// Ends the store if larder itself panics in the writer's seat, which would be a bug: closes the queue, drops the
    /// jobs, which then reply, and reports the closing.
    pub(super) fn end_after_panic(&self) {
        self.queue.close();
        self.queue.discard();
        self.closing.report(CloseReport {
            finished: 0,
            never_started: 0,
            wal_truncated: false,
            wal_kept_because: Some("the writer thread panicked; please report this bug".into()),
            replicated: None,
            not_replicated_because: None,
            duration: Duration::ZERO,
        });
    }
}
