//! What the queue of reads carries, and the context in which its jobs run: a snapshot of a reader thread, possibly
//! shared with other reads.

use std::time::Duration;

use super::Snapshot;
use crate::error::{Error, Outcome, Result};
use crate::queue::job::{Job, Scope, Work};
use crate::queue::pending::Pending;
use crate::queue::{JobQueue, QueueKind, Submission};
use crate::runtime::sync::{Arc, Mutex};
use crate::transaction::ReadTx;

/// The queue that the reader threads serve.
pub(crate) struct Reads {
    readers: u32,
    /// Why a reader thread could not begin recently: for the error of a read whose deadline passes meanwhile.
    trouble: Mutex<Option<String>>,
}

/// Jobs that run in a snapshot of a reader thread.
pub(crate) struct Pooled;

/// The snapshot that a read runs in, and its time limit.
pub(crate) struct InSnapshot<'a, 'tx> {
    pub(super) snapshot: &'a mut Snapshot<'tx>,
    pub(super) limit: Option<Duration>,
}

impl Scope for Pooled {
    type Context<'a, 'tx>
        = InSnapshot<'a, 'tx>
    where
        'tx: 'a;
    /// The time limit of the read.
    type Order = Option<Duration>;

    fn lost() -> Error {
        Error::not_started(Error::worker_panicked())
    }
}

impl<F, T> Work<Pooled, T> for F
where
    F: FnOnce(&ReadTx<'_>) -> Result<T> + Send,
{
    fn run(self, context: InSnapshot<'_, '_>) -> Result<T> {
        context.snapshot.read(context.limit, self)
    }
}

impl Reads {
    pub(super) fn new(readers: u32) -> Self {
        Self {
            readers,
            trouble: Mutex::new(None),
        }
    }

    /// Records what keeps a reader thread from its work, or `None` once the obstacle is gone.
    pub(super) fn note_trouble(&self, reason: Option<String>) {
        *self.trouble.lock() = reason;
    }
}

impl QueueKind for Reads {
    type Job = Job<Pooled>;

    fn too_late(&self, waited: Duration) -> Error {
        Error::ReadQueueTimeout {
            waited,
            readers: self.readers,
            held_here: 0,
            last_error: self.trouble.lock().clone(),
            context: None,
        }
    }

    fn nested(&self, call: &'static str) -> Error {
        self.reentrant(call)
    }

    fn reentrant(&self, call: &'static str) -> Error {
        Error::Reentrant {
            call,
            instead: "inside an async read, use the transaction passed to the closure, or wait outside the closure",
            outcome: Outcome::NotStarted,
        }
    }
}

/// Queues a read.
pub(crate) fn enqueue<T, F>(
    queue: Arc<JobQueue<Reads>>,
    submission: Submission,
    limit: Option<Duration>,
    f: F,
) -> Result<Pending<T>>
where
    F: FnOnce(&ReadTx<'_>) -> Result<T> + Send + 'static,
    T: Send + 'static,
{
    queue.check_caller(submission.call)?;
    queue.enqueue::<Pooled, _, _>(submission, limit, f)
}
