//! [`Commits`]: how many transactions all processes have committed.
//!
//! SQLite counts them in the index of the log, and from zero again once a process has rebuilt it, because another was
//! killed amid a commit. The count here goes on: it never goes back, and it is another one wherever the index shows another
//! place in the log. How many were made meanwhile is not known then. So the next capture finds another number in the log,
//! and a full file follows.

use super::capture::Committed;
use crate::connection::wal_index::WalIndex;

pub(super) struct Commits {
    last: Committed,
    /// By how much this count is ahead of the index.
    ahead: u32,
}

impl Commits {
    /// Goes on from what is committed as the store opens.
    pub(super) fn new(committed: Committed) -> Self {
        Self {
            last: committed,
            ahead: 0,
        }
    }

    /// Counts to an index that was read after the one before.
    pub(super) fn count(&mut self, index: WalIndex) -> Committed {
        let mut now = Committed::of(index);
        now.commits = now.commits.wrapping_add(self.ahead);
        if self.is_recounted(now) {
            let next = self.last.commits.wrapping_add(1);
            self.ahead = self.ahead.wrapping_add(next.wrapping_sub(now.commits));
            now.commits = next;
        }
        self.last = now;
        now
    }

    /// Whether that cannot come after the last count. A log that begins again has no frames until the next commit.
    fn is_recounted(&self, now: Committed) -> bool {
        if self.last.salts.is_none() {
            return false;
        }
        let made = now.commits.wrapping_sub(self.last.commits).cast_signed();
        let is_elsewhere = (now.frames, now.salts) != (self.last.frames, self.last.salts);
        made < 0 || (made == 0 && now.frames > 0 && is_elsewhere)
    }
}

impl Committed {
    pub(super) fn of(index: WalIndex) -> Self {
        Self {
            frames: index.frames,
            commits: index.changes,
            salts: Some(index.salts),
        }
    }
}
