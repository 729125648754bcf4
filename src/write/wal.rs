//! The writer thread and its log: when a checkpoint is tried, and what its failure means.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use std::{fs, io};

use rusqlite::ffi;

use super::checkpointer::{Mode, PATIENCE, Progress};
use super::{Deferred, Shared, Stopped, Writer};
use crate::connection;
use crate::connection::file::beside;
use crate::connection::open_file::FileChange;
use crate::connection::wal_resync;
use crate::error::{Error, extended_code, primary_code};
use crate::options::{Access, Checkpoints};
use crate::queue::pending::Queue;
use crate::telemetry::event::event;

/// How often the writer thread waits for readers while the log exceeds its hard limit and writes are refused.
const TRY_WHEN_FULL: Duration = Duration::from_millis(100);

/// How often the settings are read: it takes some 100 us.
const LOOK_AT_SETTINGS: Duration = Duration::from_secs(10);

/// The last readings of the file, and their time.
#[derive(Default)]
pub(super) struct Looked {
    data_version: Option<u64>,
    at_settings: Option<Instant>,
}

impl Looked {
    /// The stored version belongs to a replaced connection.
    pub(super) fn forget_version(&mut self) {
        self.data_version = None;
    }
}

/// Size of a database in pages, and of a page in bytes.
pub(crate) struct DatabaseSize {
    pub(crate) page: u64,
    pub(crate) pages: u64,
    pub(crate) free: u64,
}

impl Writer {
    /// The error of every write while the log exceeds its hard limit, after one more attempt to shrink it.
    pub(super) fn wal_full(&mut self) -> Option<Error> {
        self.checkpointer.over_hard_limit()?;
        // Waiting for readers takes a while, and every job of a long queue runs this check: most attempts do not wait.
        let patient = self.tried_when_full.is_none_or(|last| last.elapsed() >= TRY_WHEN_FULL);
        self.checkpoint(Mode::Restart, if patient { PATIENCE } else { Duration::ZERO });
        if patient {
            self.tried_when_full = Some(Instant::now());
        }
        let limit = self.checkpointer.over_hard_limit()?;
        Some(Error::WalFull {
            wal_bytes: self.checkpointer.bytes(),
            limit,
            oldest: self.readers.oldest(),
        })
    }

    pub(super) fn checkpoint(&mut self, mode: Mode, patience: Duration) {
        if self.shared.poison.get().is_some() {
            return;
        }
        if self.options.checkpoints == Checkpoints::Left {
            self.checkpointer.leave(&self.conn, &self.guard, mode);
            return self.look_at_file();
        }
        let shared = Arc::clone(&self.shared);
        let done = shared
            .queue
            .spin()
            .blocking_section(|| self.run_checkpoint(mode, patience));
        let Some(done) = done.transpose() else { return };
        // Set before the checkpoint is counted, so that a thread that sees it counted sees the new size, too.
        self.telemetry.counters.wal_bytes.set(self.checkpointer.bytes());
        self.look_at_file();
        match done {
            Ok(progress) => self.note_progress(mode, progress),
            Err(error) => self.checkpoint_failed(error),
        }
    }

    /// Runs one attempt, unless the keeper of the log (`log_keeper.rs`) does not allow it. Meanwhile the readers' keeper
    /// (`read/keeper/`) holds no snapshot.
    pub(super) fn run_checkpoint(&mut self, mode: Mode, patience: Duration) -> rusqlite::Result<Option<Progress>> {
        self.finish_side_checkpoint();
        let shared = Arc::clone(&self.shared);
        let keeper = shared.keeper();
        let must = mode != Mode::Passive;
        if keeper.is_some_and(|keeper| !keeper.before_checkpoint(must)) {
            self.checkpointer.put_off(&self.conn, &self.guard, must);
            return Ok(None);
        }
        let progress = {
            let _aside = self.readers.stand_aside();
            self.checkpointer.run(&self.conn, &self.guard, mode, patience)?
        };
        if let Some(keeper) = keeper {
            keeper.after_checkpoint(progress);
        }
        Ok(Some(progress))
    }

    /// For an exclusive job: moves the whole log into the database file and truncates it, unless readers block that, or
    /// another process makes the checkpoints. Returns whether the log is empty.
    pub(crate) fn empty_log(&mut self) -> bool {
        // Picks up what the job has committed by itself.
        self.note_commits();
        self.telemetry
            .counters
            .largest_wal_bytes
            .raise_to(self.checkpointer.bytes());
        self.checkpoint(Mode::Truncate, PATIENCE);
        self.log_is_empty()
    }

    /// Whether the log's file has no byte. Opens no file.
    pub(crate) fn log_is_empty(&self) -> bool {
        fs::metadata(beside(&self.shared.path, "-wal")).is_ok_and(|log| log.len() == 0)
    }

    /// Reads the size of the database, whether another process has written to it, and the settings. No caller waits for
    /// these, and nothing depends on them, so an error is ignored.
    pub(super) fn look_at_file(&mut self) {
        self.look_at_size();
        self.look_for_external_commits();
        let counters = &self.telemetry.counters;
        let read = self.looked.at_settings;
        if read.is_none_or(|last| last.elapsed() >= LOOK_AT_SETTINGS) {
            self.looked.at_settings = Some(Instant::now());
            let settings = || connection::settings(&self.conn, &self.options, self.durability);
            counters.pragmas(self.guard.as_internal(settings));
        }
    }

    /// Reads the size of the database.
    pub(super) fn look_at_size(&self) {
        if let Ok(size) = self.size() {
            self.telemetry.counters.database(size.page, size.pages, size.free);
        }
    }

    fn look_for_external_commits(&mut self) {
        let external = &self.telemetry.counters.external_commits;
        if let Some(index) = self.shared.file.wal_index() {
            return external.compare(index.changes, self.checkpointer.commits(), Instant::now());
        }
        if self.options.access == Access::Exclusive {
            return;
        }
        // "The \"PRAGMA data_version\" value is a local property of each database connection", and changes only by
        // commits of other connections, <https://sqlite.org/pragma.html#pragma_data_version>. The readers make none. It
        // also changes when another process restarts the log.
        if let Ok(version) = self.number("PRAGMA main.data_version") {
            let before = self.looked.data_version.replace(version);
            let others_wrote = before.is_some_and(|before| before != version);
            external.add(u64::from(others_wrote), Instant::now());
        }
    }

    /// The size of the database.
    pub(crate) fn size(&self) -> rusqlite::Result<DatabaseSize> {
        Ok(DatabaseSize {
            page: self.guard.as_internal(|| connection::page_size(&self.conn))?,
            pages: self.number("PRAGMA main.page_count")?,
            free: self.number("PRAGMA main.freelist_count")?,
        })
    }

    /// The value of a PRAGMA.
    fn number(&self, pragma: &str) -> rusqlite::Result<u64> {
        let read = || self.conn.query_row(pragma, [], |row| row.get::<_, i64>(0));
        self.guard.as_internal(read).map(i64::unsigned_abs)
    }

    pub(super) fn note_progress(&self, mode: Mode, progress: Progress) {
        let counters = &self.telemetry.counters;
        let (log, moved) = (u64::from(progress.log), u64::from(progress.moved));
        if progress.finished() {
            counters.checkpoints.add(u64::from(progress.log > 0));
            counters.consecutive_unfinished_checkpoints.set(0);
        } else {
            counters.unfinished_checkpoints.add(1);
            counters.consecutive_unfinished_checkpoints.add(1);
        }
        counters.checkpoint(log, moved, progress.busy, progress.finished());
        if progress.finished() {
            return;
        }
        if self.checkpointer.over_limit() {
            let (wal_bytes, oldest_reader) = (self.checkpointer.bytes(), self.readers.oldest());
            self.defer(move |path| {
                event!(
                    warn,
                    "larder::checkpoint",
                    path,
                    {
                        ?mode,
                        busy = progress.busy,
                        log_pages = progress.log,
                        moved_pages = progress.moved,
                        wal_bytes,
                        oldest_reader,
                    },
                    "the WAL is larger than its limit, and a checkpoint could not finish"
                );
            });
        }
    }

    /// A log whose sync failed is never synced again: the kernel may have dropped the pages that it could not write.
    fn checkpoint_failed(&mut self, error: rusqlite::Error) {
        if primary_code(&error) == Some(ffi::SQLITE_IOERR) {
            return self.poison(&Arc::new(error));
        }
        self.checkpoint_is_retried(error);
    }

    pub(super) fn checkpoint_is_retried(&self, error: rusqlite::Error) {
        self.defer(move |path| {
            event!(
                warn,
                "larder::checkpoint",
                path,
                { "db.response.status_code" = extended_code(&error) },
                "a checkpoint failed; it is retried when the WAL has grown"
            );
        });
    }

    pub(super) fn poison(&self, source: &Arc<rusqlite::Error>) {
        let event = self.shared.disk_failed(Arc::clone(source));
        self.stop_side_checkpoint();
        self.deferred.borrow_mut().extend(event);
    }
}

impl Writer {
    /// Moves the log into the open database file, if the watchdog requests it: the log, or the database, has lost its
    /// name, and content that only the log holds would be lost with this process.
    pub(super) fn save_log_if_wanted(&mut self) {
        if !self.shared.log_wants_saving.swap(false, Ordering::AcqRel) || self.options.read_only {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let path = &shared.path;
        if !shared.file.may_save_log() {
            event!(
                error,
                "larder::poison",
                path,
                {},
                "the WAL was not moved into the database, because another process has created a new one"
            );
            return;
        }
        self.end_side_checkpoints();
        self.roll_back();
        // What the file has matters more now than how the replica goes on.
        if let Some(keeper) = shared.keeper() {
            keeper.give_up_log();
        }
        let done = self.checkpointer.run(&self.conn, &self.guard, Mode::Truncate, PATIENCE);
        let finished = done.as_ref().is_ok_and(|progress| progress.finished());
        event!(
            warn,
            "larder::poison",
            path,
            { finished, "db.response.status_code" = done.as_ref().err().and_then(extended_code) },
            "moved the WAL into the open database file"
        );
    }
}

/// The error of a failed sync, as SQLite's own would be.
pub(super) fn sync_failed(what: &str, error: &io::Error) -> rusqlite::Error {
    let code = ffi::Error::new(ffi::SQLITE_IOERR_FSYNC);
    rusqlite::Error::SqliteFailure(code, Some(format!("{what} cannot be synced: {error}")))
}

impl Shared {
    /// Poisons the store: the keeper of its log could not sync the log. Returns the event of that.
    pub(crate) fn log_sync_failed(&self, error: &io::Error) -> Option<Deferred> {
        self.disk_failed(Arc::new(sync_failed("the WAL", error)))
    }

    /// Poisons the store. Returns the event of that, unless it was poisoned before.
    pub(super) fn disk_failed(&self, source: Arc<rusqlite::Error>) -> Option<Deferred> {
        let marked = wal_resync::mark(&self.path);
        let code = extended_code(&source);
        self.set_poison(source).then_some(())?;
        Some(Box::new(move |path| {
            if let Err(error) = marked {
                wal_resync::report(path, &error);
            }
            event!(
                error,
                "larder::poison",
                path,
                { "db.response.status_code" = code, "error.type" = "poisoned" },
                "the store is poisoned by a disk error: it is read-only until it is reopened"
            );
        }))
    }

    /// Whether the store takes no more writes, though its files are sound.
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.get().is_some()
    }

    /// Ends all writes.
    pub(crate) fn stop(&self, stopped: Stopped) {
        let _ = self.stopped.set(stopped);
        let code = ffi::Error::new(ffi::SQLITE_READONLY);
        let source = rusqlite::Error::SqliteFailure(code, self.poison().map(|error| error.to_string()));
        self.set_poison(Arc::new(source));
    }

    /// Poisons the store: its files are no longer those that were opened, or SQLite's locks on them are gone. The
    /// writer thread then moves the log where that saves it.
    pub(crate) fn file_changed(&self, change: &FileChange) {
        if !self.set_poison(Arc::new(change.to_error())) {
            return;
        }
        // Without its locks the store must not write to the database either.
        if !matches!(change, FileChange::Unlocked(..)) {
            self.log_wants_saving.store(true, Ordering::Release);
        }
        // It stops a checkpoint beside a bulk job, too.
        self.queue.summon();
        // Last, because a subscriber may be slow.
        event!(
            error,
            "larder::poison",
            self.path,
            { reason = %change, "error.type" = "poisoned" },
            "the store is poisoned, because its files were changed from outside: it is read-only until it is reopened"
        );
    }
}
