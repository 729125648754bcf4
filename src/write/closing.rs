//! The report of a closed store, and how closing threads receive it.

use std::fmt;
use std::time::Duration;

use crate::runtime::sync::{Condvar, Instant, Mutex};

/// What [`Store::close`](crate::Store::close) did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CloseReport {
    /// Queued writes that were finished, well or badly, after the store was told to close.
    pub finished: u64,
    /// Queued writes that were never started; their callers got [`Closed`](crate::Error::Closed).
    pub never_started: u64,
    /// Whether all of the write-ahead log is in the database file and the log was cut to nothing.
    pub wal_truncated: bool,
    /// Why not, if it was not. The next open will find the rest in the log; nothing is lost.
    pub wal_kept_because: Option<String>,
    /// How long the last part took: readers, `PRAGMA optimize`, the checkpoint. The queue was drained before it.
    pub duration: Duration,
}

impl fmt::Display for CloseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} queued writes finished, {} never started, ",
            self.finished, self.never_started
        )?;
        match &self.wal_kept_because {
            None => write!(f, "the write-ahead log was emptied"),
            Some(reason) => write!(f, "the write-ahead log was kept: {reason}"),
        }?;
        write!(f, " ({:.1?})", self.duration)
    }
}

/// A mutex guards the deadline, which the first closing thread sets, and the report, which the writer thread leaves
/// once. The condition variable wakes the closing threads when the report is there.
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
    /// Sets the writer thread's deadline to close. A second closing thread may bring it forward, not back.
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

    /// The report, or `None` if there is none by then.
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
