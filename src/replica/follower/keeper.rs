//! The follower as the keeper of its own log (`write/log_keeper.rs`): it allows every checkpoint, and as it closes it
//! notes how the file is left, so that the next opening knows it again.

use std::time::Duration;

use super::Following;
use super::local::Local;
use crate::replica::position::{Position, Stamps};
use crate::runtime::sync::Instant;
use crate::write::closing::Replicated;
use crate::write::context::WriteJob;
use crate::write::held;
use crate::write::log_keeper::{CheckpointProgress, LogKeeper, Turn};

impl LogKeeper for Following {
    fn committed(&self, _frames: u32, _commits: u32) {}

    fn is_ready(&self, _must: bool) -> bool {
        true
    }

    fn before_checkpoint(&self, _must: bool) -> bool {
        true
    }

    fn after_checkpoint(&self, _progress: CheckpointProgress) {}

    /// A follower takes no writes, and has no replica of its own.
    fn hold(&self, jobs: Vec<WriteJob>) {
        for job in jobs {
            held::refuse(job, Duration::ZERO, "a follower uploads nothing");
        }
    }

    fn held(&self) -> usize {
        0
    }

    fn wait_for_room(&self, _capacity: usize, _timeout: Duration) -> bool {
        true
    }

    /// Those who wait for a token look at it, and so does the task that follows.
    fn poisoned(&self) {
        self.reach(|_| {});
        self.wake.notify_one();
    }

    fn wants_turn(&self) -> bool {
        false
    }

    fn turn(&self, _turn: &Turn<'_>) {}

    fn last_turn(&self, turn: &Turn<'_>) {
        if !turn.all_moved {
            return;
        }
        let run = |sql: &str| turn.guard.as_internal(|| turn.conn.execute_batch(sql));
        // No other process writes meanwhile.
        if run("BEGIN IMMEDIATE").is_err() {
            return;
        }
        if let Some(stamps) = self.stamps() {
            let position = Position {
                log: None,
                emptied: true,
                file: Some(stamps),
                ..self.position()
            };
            // Without it the next opening compares the database with the replica.
            let _ = self.spool.write_position(&position, true);
        }
        let _ = run("ROLLBACK");
    }

    fn closed(&self, deadline: Instant) -> Option<Replicated> {
        let _ = self.closing.set(deadline);
        self.wake.notify_one();
        self.wait_for_end(deadline);
        self.spool.release();
        None
    }
}

impl Following {
    /// Those of the file, if it has what the follower wrote and nothing else.
    fn stamps(&self) -> Option<Stamps> {
        let shared = self.shared.upgrade()?;
        let Local::Ours { changes } = self.reached().local else {
            return None;
        };
        if shared.file.wal_index().map(|index| index.changes) != changes {
            return None;
        }
        Stamps::take(&*shared.file.database_file()?)
    }
}
