//! [`LogKeeper`]: who keeps the contents of the log before SQLite writes over them. Replication is one (`replica/`).
//!
//! SQLite begins the log again once all of it is in the database file, and only a checkpoint moves it there. The holder
//! of the seat commits and runs the checkpoints, so a keeper that is asked before each of them misses nothing that this
//! store commits. The holder waits for the keeper in [`before_checkpoint`](LogKeeper::before_checkpoint) alone, and that
//! call waits for no network.

use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::Writer;
use super::checkpointer::Mode;
pub(crate) use super::checkpointer::Progress as CheckpointProgress;
use super::closing::Replicated;
use super::context::WriteJob;
use crate::connection::authorizer::SqlGuard;
use crate::error::Error;
use crate::read::Readers;
use crate::runtime::sync::Arc;

/// The calls come from the holder of the writer's seat, all but the first two from the writer thread.
pub(crate) trait LogKeeper: Send + Sync {
    /// Called after every commit: the log has so many committed frames, and this store has made so many commits since it
    /// was opened, modulo 2^32.
    fn committed(&self, frames: u32, commits: u32);

    /// Why a write that is about to begin is refused. Called for each, also on the threads of callers.
    fn refusal(&self) -> Option<Error> {
        None
    }

    /// Whether [`before_checkpoint`](Self::before_checkpoint) would allow a checkpoint, or has to be told that one is
    /// due. Asked between two groups while one is due.
    fn is_ready(&self, must: bool) -> bool;

    /// Keeps what is committed. Returns whether a checkpoint may run. `must` says that the log is too large, or is to be
    /// emptied: then this call takes as long as it needs. Otherwise it may leave the work to another thread.
    fn before_checkpoint(&self, must: bool) -> bool;

    /// Called before the log is moved into a file that has lost its name, whatever is kept of it.
    fn give_up_log(&self) {}

    /// Called after every checkpoint that did not fail.
    fn after_checkpoint(&self, progress: CheckpointProgress);

    /// Takes committed jobs whose replies wait for the replica, in the order of their commits, and finishes them.
    fn hold(&self, jobs: Vec<WriteJob>);

    /// The number of replies that wait.
    fn held(&self) -> usize;

    /// Waits until fewer replies than that wait. Returns false if that takes too long.
    fn wait_for_room(&self, capacity: usize, timeout: Duration) -> bool;

    /// Called once the store is poisoned: nothing more is committed.
    fn poisoned(&self);

    /// Whether [`turn`](Self::turn) is wanted. The keeper then summons the writer thread.
    fn wants_turn(&self) -> bool;

    /// Called between two groups.
    fn turn(&self, turn: &Turn<'_>);

    /// Called as the store closes, before its connection does: nothing is committed by this store any more.
    fn last_turn(&self, turn: &Turn<'_>);

    /// Called once the connection has closed. Returns what the report of closing says, if it has a replica to say it of.
    fn closed(&self, deadline: Instant) -> Option<Replicated>;
}

/// A moment in which this store commits nothing.
pub(crate) struct Turn<'a> {
    pub(crate) conn: &'a Connection,
    pub(crate) guard: &'a SqlGuard,
    pub(crate) readers: &'a Arc<Readers>,
    /// Whether the last checkpoint has moved everything that this store had committed.
    pub(crate) all_moved: bool,
}

impl Writer {
    /// For an idle writer thread and between two groups: gives the keeper of the log its turn.
    pub(super) fn take_turn_of_keeper(&mut self) {
        let Some(keeper) = self.shared.keeper() else { return };
        if keeper.wants_turn() && self.shared.poison.get().is_none() {
            self.roll_back();
            keeper.turn(&self.turn());
        }
    }

    /// Gives committed jobs to the keeper of the log, which replies to them.
    pub(super) fn hold(&self, jobs: Vec<WriteJob>) {
        if let Some(keeper) = self.shared.keeper().filter(|_| !jobs.is_empty()) {
            keeper.hold(jobs);
        }
    }

    pub(crate) fn turn(&self) -> Turn<'_> {
        Turn {
            conn: &self.conn,
            guard: &self.guard,
            readers: &self.readers,
            all_moved: self.checkpointer.is_empty(),
        }
    }

    /// The error of a write that the keeper of the log refuses.
    pub(super) fn refused_by_keeper(&self) -> Option<Error> {
        self.shared.keeper()?.refusal()
    }

    /// The checkpoint that is due, if it may be tried now.
    pub(super) fn due_checkpoint(&self) -> Option<Mode> {
        if self.side.is_running() {
            return None;
        }
        let is_ready = |mode| {
            let keeper = self.shared.keeper();
            keeper.is_none_or(|keeper| keeper.is_ready(mode != Mode::Passive))
        };
        self.checkpointer.due().filter(|mode| is_ready(*mode))
    }
}
