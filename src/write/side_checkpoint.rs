//! Checkpoints on a thread of their own while a bulk job runs, so that other writes do not wait for them.
//!
//! A checkpoint of 1000 pages takes 5 to 30 ms. On the writer thread every write waits for it. During a bulk job one is
//! due every few slices, so these waits are the longest that its other callers see. A `PASSIVE` checkpoint takes no lock
//! that a commit needs ("Checkpoint as many frames as possible without waiting for any database readers or writers to
//! finish", <https://sqlite.org/c3ref/wal_checkpoint_v2.html>), so it can run beside commits, on a connection of its own.
//!
//! ```text
//! the writer thread                                        larder-checkpoint
//!   finish_groups: a checkpoint is due, a bulk job runs
//!     hand_over      ------------------------------------>   the first request: opens its connection, moves nothing
//!                                                            each further one:
//!   serves writes, and slices while the log is short         PRAGMA wal_checkpoint(PASSIVE), a sync of the database
//!                                                            on a disk error: poisons the store
//!     take_side_checkpoint  <-----------------------------   leaves the result, summons the writer thread
//!   moves the last few pages itself: the log starts over
//! ```
//!
//! # Who owns what
//!
//! The thread owns its connection, which runs no SQL but this PRAGMA: no user's SQL, no `on_connect`. It lives from the
//! first checkpoint that is due during a bulk job until no slice has come for [`BULK`], none waits, no checkpoint runs,
//! and the store is idle or the next checkpoint is due. However long a checkpoint takes, there is no idle maintenance
//! beside it. One request at a time goes through `handover.rs`. All bookkeeping (`checkpointer.rs`, counters,
//! events) is the writer thread's. Two checkpoints never run at once: [`Writer::finish_side_checkpoint`] waits for the
//! thread before the writer thread makes any checkpoint itself.
//!
//! # The log starts over
//!
//! A commit writes the log from its start only if all of it has been moved. Writes beside the checkpoint leave a rest.
//! So while the log is shorter than [`DRAINS_FROM`] (eight steps of `Options::checkpoint_pages`, half of `wal_limit`), slices
//! go on beside the checkpoints. From there on the log is *drained*: slices wait in [`SideCheckpoints::slices`], other writes
//! go on, and once the rest is small the writer thread moves it itself. A log that grows to [`HOLDS_FROM`] holds slices back
//! in any case, and above `wal_limit` the writer thread makes a `RESTART`, as without a bulk job. If a reader keeps a
//! checkpoint from its end, slices are not held back for it.
//!
//! # Errors
//!
//! An I/O error poisons the store *on this thread*, before the result is handed back, so no later checkpoint repeats a
//! failed sync, and a commit that returns after it is not acknowledged (`Writer::commit_transaction`). Linux also reports
//! a failed sync to each descriptor of the file that is open then, so a commit of `FULL` that comes in between fails by
//! itself. A descriptor that is opened later has no word of it, and would copy frames that the disk has lost. So the first
//! request only opens the connection: the writer thread asks between two groups, so a sync of its own that failed before
//! the connection was open has poisoned the store by the second request. Any other
//! error (a full disk) is retried when the log has grown, as on the writer thread. If the connection cannot be opened,
//! the writer thread makes the checkpoints as without a bulk job. If a COMMIT poisons the store, the writer thread
//! interrupts the checkpoint and waits for it before any caller learns of the poison; an interrupt ends the copying of
//! pages, but that wait lasts as long as a sync that has begun. If another thread poisons the store, the writer thread does
//! so before its next job. A panic goes on, on the writer thread, and ends the store.
//!
//! # Closing, exclusive jobs, and others
//!
//! - **Closing** runs the queued writes without waiting for the running checkpoint. Slices that were held back run once it
//!   is over, or reply `Closed` once the time is over. Only then does the writer thread wait for it without a limit, as it
//!   would for its own; the caller of `close` waits for its deadline at most. Then the thread ends, and its connection is
//!   closed before the writing one.
//! - **Exclusive jobs** (a migration's step, `VACUUM`), saving the log of a file that has lost its name, and idle
//!   maintenance end the thread first.
//! - **The readers' keeper** stands aside for the time of the checkpoint, as for any.
//! - **Not** with `Checkpoints::Left`; not with a replica, whose log may restart only behind a seal (`log_keeper.rs`); not
//!   where `on_connect` attaches a database, whose log the same attempt moves.
//! - **A fork** leaves the child with the writer's memory and without this thread; it uses neither.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rusqlite::{InterruptHandle, ffi};

use super::checkpointer::{Mode, PATIENCE, Row, Started, attempt_passive};
use super::context::WriteJob;
use super::handover::Handover;
use super::wal::sync_failed;
use super::{Deferred, Shared, Writer};
use crate::connection::{CheckpointConnection, open_for_checkpoints};
use crate::error::{Error, primary_code};
use crate::options::{Checkpoints, Settings};
use crate::queue::pending::Queue;
use crate::read::Readers;
use crate::telemetry::Telemetry;
use crate::telemetry::call_site::CallSite;
use crate::telemetry::event::event;

/// How long after its last slice a bulk job counts as running. While a checkpoint runs or a slice waits, it runs, too.
const BULK: Duration = Duration::from_secs(1);

/// The eighths of `wal_limit`, or twice as many steps of the log, from which it is drained. While it is, slices wait,
/// whatever its length: so it is not done often.
const DRAINS_FROM: u32 = 4;

/// The same from which slices wait for the checkpoint that runs.
const HOLDS_FROM: u32 = 6;

/// Checkpoints by this thread in a row while the log is drained. The writer thread moves what is left then.
const ROUNDS: u32 = 4;

/// The time between two interrupts of a checkpoint that is to stop.
const INTERRUPTS: Duration = Duration::from_millis(1);

/// The time between two looks at the deadline of closing.
const LOOKS: Duration = Duration::from_millis(10);

/// The part of a step that the writer thread moves itself.
const SMALL: u32 = 8;

/// The writer's side.
#[derive(Default)]
pub(super) struct SideCheckpoints {
    thread: Option<CheckpointThread>,
    /// Of the checkpoint that runs.
    started: Option<Started>,
    /// Whether slices wait until the log starts over.
    drains: bool,
    /// Checkpoints since it is drained.
    rounds: u32,
    /// Slices that wait, in the order of their arrival.
    slices: VecDeque<WriteJob>,
    last_slice: Option<Instant>,
    /// Whether its connection could not be opened.
    is_unusable: bool,
}

struct CheckpointThread {
    handover: Arc<Handover<Outcome>>,
    /// Of its connection, once that is open.
    interrupt: Arc<OnceLock<InterruptHandle>>,
    /// Taken as it ends.
    thread: Option<JoinHandle<()>>,
}

/// The result of a checkpoint.
enum Outcome {
    /// The connection is open, and nothing was moved.
    Opened,
    Moved(Row),
    /// The store was poisoned already.
    Nothing,
    NotOpened(Error),
    Failed(rusqlite::Error),
    /// The store is poisoned now. Its event, unless it was so before.
    Poisoned(Option<Deferred>),
    Panicked(Box<dyn Any + Send>),
}

impl SideCheckpoints {
    pub(super) fn is_running(&self) -> bool {
        self.started.is_some()
    }

    pub(super) fn has_thread(&self) -> bool {
        self.thread.is_some()
    }

    pub(super) fn note_slice(&mut self, now: Instant) {
        self.last_slice = Some(now);
    }

    /// The slices that wait, for closing.
    pub(super) fn take_slices(&mut self) -> VecDeque<WriteJob> {
        std::mem::take(&mut self.slices)
    }

    /// Whether slices wait for the writer thread.
    pub(super) fn has_slices(&self) -> bool {
        !self.slices.is_empty()
    }

    fn bulk_runs(&self) -> bool {
        self.is_running() || self.has_slices() || self.last_slice.is_some_and(|last| last.elapsed() < BULK)
    }

    fn stop_draining(&mut self) {
        self.drains = false;
        self.rounds = 0;
    }
}

impl Writer {
    /// Whether slices wait for a checkpoint.
    pub(super) fn holds_slices(&self) -> bool {
        self.side.is_running() && (self.side.drains || self.checkpointer.has_reached(HOLDS_FROM))
    }

    /// The next job: one that was carried over, or the first in the queue. A slice waits if it has to.
    pub(super) fn take_job(&mut self) -> Option<WriteJob> {
        loop {
            let job = self.carried.take().or_else(|| self.queued())?;
            match job {
                WriteJob::Grouped(job) if job.order().is_slice && self.holds_slices() => {
                    self.side.slices.push_back(job.into());
                }
                other => return Some(other),
            }
        }
    }

    /// The first job of the next group. A slice that has waited was there before those in the queue.
    pub(super) fn take_next(&mut self) -> Option<WriteJob> {
        if self.side.has_slices() && !self.holds_slices() {
            match self.carried.take() {
                // It has come after them.
                Some(WriteJob::Grouped(job)) if job.order().is_slice => self.side.slices.push_back(job.into()),
                Some(other) => return Some(other),
                None => {}
            }
            return self.side.slices.pop_front();
        }
        self.take_job()
    }

    /// Has the thread make the checkpoint that is due. Returns false if the writer thread is to make it.
    pub(super) fn hand_over(&mut self, mode: Mode) -> bool {
        if self.shared.poison.get().is_some() {
            return false;
        }
        if !self.side.bulk_runs() {
            self.end_side_checkpoints();
            return false;
        }
        let hands_over = mode == Mode::Passive
            && !self.side.is_unusable
            && !self.checkpointer.has_attached()
            && self.shared.keeper().is_none()
            && self.options.checkpoints != Checkpoints::Left;
        if !hands_over {
            self.side.stop_draining();
            return false;
        }
        self.side.drains |= self.checkpointer.has_reached(DRAINS_FROM);
        self.side.rounds += u32::from(self.side.drains);
        let is_small = self.checkpointer.rest() <= self.checkpointer.step() / SMALL;
        if self.side.drains && (is_small || self.side.rounds > ROUNDS) {
            self.side.stop_draining();
            return false;
        }
        let started = self.checkpointer.started();
        match self.checkpoint_thread() {
            Ok(thread) => thread.handover.ask(),
            Err(_) => {
                self.side.is_unusable = true;
                self.side.stop_draining();
                return false;
            }
        }
        self.side.started = Some(started);
        true
    }

    fn checkpoint_thread(&mut self) -> std::io::Result<&CheckpointThread> {
        match &mut self.side.thread {
            Some(thread) => Ok(thread),
            none => {
                let started = CheckpointThread::start(&self.shared, &self.readers, &self.telemetry, &self.options)?;
                Ok(none.insert(started))
            }
        }
    }

    /// Takes the result of a checkpoint that is over. Returns whether there was one.
    pub(super) fn take_side_checkpoint(&mut self) -> bool {
        if self.side.is_running()
            && let Some(thread) = &self.side.thread
            && let Some(outcome) = thread.handover.take()
        {
            self.side_checkpoint_ended(outcome);
            return true;
        }
        false
    }

    /// Waits for the checkpoint that runs, if one does.
    pub(super) fn finish_side_checkpoint(&mut self) {
        if !self.side.is_running() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let thread = self.side.thread.as_ref();
        let outcome = shared
            .queue
            .spin()
            .blocking_section(|| thread.and_then(|thread| thread.handover.wait()));
        if let Some(outcome) = outcome {
            self.side_checkpoint_ended(outcome);
        }
    }

    /// For a closing store: waits for the checkpoint that runs until the time to close is over. Returns false if it is over
    /// first.
    pub(super) fn side_checkpoint_ends_in_time(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let ends = shared.queue.spin().blocking_section(|| {
            let Some(thread) = self.side.thread.as_ref().filter(|_| self.side.is_running()) else {
                return true;
            };
            // Another call of `close` may bring the deadline forward.
            while !thread.handover.is_over_within(LOOKS) {
                if self.time_to_close_is_over() {
                    return false;
                }
            }
            true
        });
        if ends {
            self.finish_side_checkpoint();
        }
        ends
    }

    /// For a store that is poisoned now: has the checkpoint that runs end before its next page, and waits for that, so that
    /// the files are left alone once a caller knows of the poison. An interrupt that comes before the PRAGMA is lost.
    pub(super) fn stop_side_checkpoint(&self) {
        let Some(thread) = self.side.thread.as_ref().filter(|_| self.side.is_running()) else {
            return;
        };
        while !thread.handover.is_over_within(INTERRUPTS) {
            if let Some(handle) = thread.interrupt.get() {
                handle.interrupt();
            }
        }
    }

    /// Waits for the checkpoint that runs, and ends the thread.
    pub(super) fn end_side_checkpoints(&mut self) {
        self.finish_side_checkpoint();
        self.side.stop_draining();
        self.side.is_unusable = false;
        if let Some(mut thread) = self.side.thread.take() {
            thread.end();
        }
    }

    fn side_checkpoint_ended(&mut self, outcome: Outcome) {
        let Some(started) = self.side.started.take() else {
            return;
        };
        match outcome {
            Outcome::Moved(row) => {
                let is_same = started.is_same_log(self.checkpointer.started());
                let progress = self.checkpointer.note_beside(started, row, self.side.drains);
                if !is_same || !progress.finished() || self.checkpointer.is_empty() {
                    self.side.stop_draining();
                }
                // As in `checkpoint`.
                self.telemetry.counters.wal_bytes.set(self.checkpointer.bytes());
                self.look_at_file();
                self.note_progress(Mode::Passive, progress);
                return;
            }
            Outcome::Opened => {
                // The request that moves something follows at once. The job counts as running, however long the opening
                // took.
                self.side.rounds = self.side.rounds.saturating_sub(1);
                self.side.note_slice(Instant::now());
                return;
            }
            Outcome::Nothing => self.checkpointer.beside_failed(),
            Outcome::NotOpened(error) => {
                self.side.is_unusable = true;
                self.defer(move |path| {
                    event!(
                        debug,
                        "larder::checkpoint",
                        path,
                        { %error },
                        "the connection for checkpoints beside a bulk job could not be opened, so other writes wait for them"
                    );
                });
            }
            Outcome::Failed(error) => {
                self.checkpointer.beside_failed();
                self.checkpoint_is_retried(error);
            }
            Outcome::Poisoned(event) => {
                self.checkpointer.beside_failed();
                self.deferred.borrow_mut().extend(event);
            }
            Outcome::Panicked(bug) => resume_unwind(bug),
        }
        self.side.stop_draining();
    }
}

impl CheckpointThread {
    fn start(
        shared: &Arc<Shared>,
        readers: &Arc<Readers>,
        telemetry: &Arc<Telemetry>,
        options: &Settings,
    ) -> std::io::Result<Self> {
        let handover = Arc::new(Handover::new());
        let interrupt = Arc::new(OnceLock::new());
        let server = Server {
            shared: Arc::clone(shared),
            readers: Arc::clone(readers),
            telemetry: Arc::clone(telemetry),
            options: options.clone(),
            handover: Arc::clone(&handover),
            interrupt: Arc::clone(&interrupt),
        };
        let thread = thread::Builder::new().name("larder-checkpoint".into());
        let thread = thread.spawn(move || server.serve())?;
        Ok(Self {
            handover,
            interrupt,
            thread: Some(thread),
        })
    }

    /// Ends the idle thread, and waits until it has closed its connection.
    fn end(&mut self) {
        self.handover.end();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for CheckpointThread {
    /// After a panic of the writer's: waits for nothing.
    fn drop(&mut self) {
        self.handover.end();
    }
}

/// The thread.
struct Server {
    shared: Arc<Shared>,
    readers: Arc<Readers>,
    telemetry: Arc<Telemetry>,
    options: Settings,
    handover: Arc<Handover<Outcome>>,
    interrupt: Arc<OnceLock<InterruptHandle>>,
}

impl Server {
    fn serve(self) {
        let mut connection = None;
        while self.handover.next() {
            let running = &self.telemetry.side_checkpoint;
            running.begin_internal(Instant::now(), CallSite::Label("larder: checkpoint".into()));
            let attempt = catch_unwind(AssertUnwindSafe(|| self.attempt(&mut connection)));
            running.end();
            self.handover.done(attempt.unwrap_or_else(Outcome::Panicked));
            self.shared.queue.summon();
        }
    }

    /// Without this, the writer thread would sync all pages that were moved: SQLite leaves it to the attempt that reaches
    /// the end of the log. It proves nothing, since that attempt syncs again; but where it fails, no other may.
    fn sync_database(&self) -> rusqlite::Result<()> {
        let Some(database) = self.shared.file.database_file() else {
            return Ok(());
        };
        database
            .sync_data()
            .map_err(|error| sync_failed("the database", &error))
    }

    fn attempt(&self, connection: &mut Option<CheckpointConnection>) -> Outcome {
        if self.shared.poison.get().is_some() {
            return Outcome::Nothing;
        }
        let connection = match connection {
            Some(connection) => connection,
            none => match open_for_checkpoints(&self.shared.file, &self.options, PATIENCE) {
                Ok(opened) => {
                    // The thread has one connection.
                    let _ = self.interrupt.set(opened.conn().get_interrupt_handle());
                    *none = Some(opened);
                    return Outcome::Opened;
                }
                Err(error) => return Outcome::NotOpened(error),
            },
        };
        let done = {
            let _aside = self.readers.stand_aside();
            attempt_passive(connection.conn())
        };
        let is_poisoned = || self.shared.poison.get().is_some();
        let done = match done {
            Ok(row) if !is_poisoned() => self.sync_database().map(|()| row),
            done => done,
        };
        match done {
            // Also in a store that is poisoned: the next opening has to know that a sync may have failed.
            Err(error) if primary_code(&error) == Some(ffi::SQLITE_IOERR) => {
                Outcome::Poisoned(self.shared.disk_failed(Arc::new(error)))
            }
            _ if is_poisoned() => Outcome::Nothing,
            Ok(row) => Outcome::Moved(row),
            Err(error) => Outcome::Failed(error),
        }
    }
}
