//! The report of closing, and how it reaches the callers of `close`.

use std::fmt;
use std::time::Duration;

use crate::runtime::sync::{Condvar, Instant, Mutex};

/// The result of [`Store::close`](crate::Store::close).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CloseReport {
    /// Number of queued writes that ran after the call of `close`, whether they succeeded or failed.
    pub finished: u64,
    /// Number of queued writes that never started. Their callers got [`Closed`](crate::Error::Closed).
    pub never_started: u64,
    /// Whether the whole WAL was moved into the database file, and the WAL file truncated to zero bytes.
    pub wal_truncated: bool,
    /// Why the WAL was not truncated; `None` if it was. No commit is lost: the next open reads the rest from the WAL.
    pub wal_kept_because: Option<String>,
    /// Whether everything that was committed is in the replica; `None` for a store without one
    /// (`Options::replicate_to`), and for a follower.
    pub replicated: Option<bool>,
    /// Why it is not. The rest is uploaded after the next opening.
    pub not_replicated_because: Option<String>,
    /// Duration of the last part of closing, after the queue was drained: readers, statistics, the checkpoint.
    pub duration: Duration,
}

/// Why the WAL is kept where another process makes the checkpoints.
pub(super) const LEFT: &str = "Options::checkpoints leaves the checkpoints to another process";

/// Why a store that only reads leaves the WAL as it is.
pub(super) const ONLY_READ: &str = "Options::read_only writes nothing, so the files are left as they are";

impl CloseReport {
    /// Whether the WAL was kept, and not because the options say so.
    pub(crate) fn failed_to_truncate(&self) -> bool {
        self.wal_kept_because
            .as_deref()
            .is_some_and(|reason| ![LEFT, ONLY_READ].contains(&reason))
    }
}

impl fmt::Display for CloseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} queued writes finished, {} never started, ",
            self.finished, self.never_started
        )?;
        match &self.wal_kept_because {
            None => write!(f, "the WAL was truncated"),
            Some(reason) => write!(f, "the WAL was kept: {reason}"),
        }?;
        match (self.replicated, &self.not_replicated_because) {
            (Some(false), Some(reason)) => write!(f, ", the replica is not complete: {reason}"),
            (Some(true), _) => write!(f, ", the replica is complete"),
            _ => Ok(()),
        }?;
        write!(f, " ({:.1?})", self.duration)
    }
}

/// What became of the replica as the store closed.
pub(crate) struct Replicated {
    /// Why it does not have everything that was committed. `None` if it has.
    pub(crate) because: Option<String>,
}

/// One mutex guards the deadline, which the callers of `close` set, and the report, which the writer thread sets once.
/// The condition variable signals the report.
#[derive(Default)]
pub(crate) struct Closing {
    state: Mutex<CloseState>,
    done: Condvar,
}

#[derive(Default)]
struct CloseState {
    deadline: Option<Instant>,
    report: Option<CloseReport>,
}

impl Closing {
    /// Sets the deadline of the writer. A second call of `close` may bring it forward, not back.
    pub(crate) fn ask(&self, deadline: Instant) {
        let mut state = self.state.lock();
        state.deadline = Some(state.deadline.map_or(deadline, |earlier| earlier.min(deadline)));
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.state.lock().deadline
    }

    pub(crate) fn report(&self, report: CloseReport) {
        self.state.lock().report.get_or_insert(report);
        self.done.notify_all();
    }

    /// Waits for the report, and returns `None` if there is none by then.
    pub(crate) fn wait(&self, until: Instant) -> Option<CloseReport> {
        let mut state = self.state.lock();
        while state.report.is_none() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            state = self.done.wait_timeout(state, left).0;
        }
        state.report.clone()
    }
}
