//! Jobs that an async caller awaits. A job blocks, so it has a thread of its own, and its future is the reply of that
//! thread: no runtime is needed.

use std::future::Future;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};

use super::{Bulk, BulkJob, BulkReport, Source, thread};
use crate::error::Result;
use crate::queue::pending::Queue;
use crate::queue::slot::{Caller, Reply, Slot};
use crate::runtime::panic::quietly;
use crate::write::Shared;

impl<S: Source + Send + 'static> BulkJob<S> {
    /// As [`run`](Self::run), but on threads of its own, `larder-bulk`, and returns a future for any runtime. It does
    /// nothing before its first poll.
    ///
    /// Dropping the future cancels the job at the end of its slice, as the progress callback does: what is committed
    /// stays. The job does not keep the store open: once the last clone of the `Store` is dropped, it ends with
    /// [`Error::Closed`](crate::Error::Closed) as the reason. Neither the job nor the future waits for a source that
    /// blocks: its thread is left to it, and ends, with the drop of the source, when the next row comes.
    ///
    /// ```
    /// # futures_executor::block_on(async {
    /// # let store = larder::Store::open_temp()?;
    /// # store.write_async(|tx| tx.execute_batch("CREATE TABLE log(n INTEGER) STRICT")).await?;
    /// let rows = (0..10_000).map(|n| (n,));
    /// let report = store
    ///     .bulk()
    ///     .insert("INSERT INTO log(n) VALUES (?1)", rows)
    ///     .run_async()
    ///     .await?;
    /// assert_eq!(report.rows, 10_000);
    /// # Ok::<_, larder::Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run), and [`Error::Open`](crate::Error::Open) if no thread can be started.
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run).
    #[cfg_attr(docsrs, doc(cfg(feature = "async")))]
    #[track_caller]
    pub fn run_async(self) -> impl Future<Output = Result<BulkReport>> + Send + use<S> {
        let caller = Location::caller();
        let cancel = self.bulk.cancelled_by();
        on_a_thread(cancel, move || self.run_apart(caller))
    }
}

/// What cancels a job from another thread.
pub(super) struct Cancel {
    is_cancelled: Arc<AtomicBool>,
    shared: Arc<Shared>,
}

impl Bulk {
    pub(super) fn cancelled_by(&self) -> Cancel {
        Cancel {
            is_cancelled: Arc::clone(&self.is_cancelled),
            shared: Arc::clone(&self.store.shared),
        }
    }
}

/// Runs a job on a thread of its own from the first poll on.
pub(super) async fn on_a_thread(
    cancel: Cancel,
    job: impl FnOnce() -> Result<BulkReport> + Send + 'static,
) -> Result<BulkReport> {
    start(cancel, job)?.await
}

/// Starts the thread of a job.
pub(super) fn start(cancel: Cancel, job: impl FnOnce() -> Result<BulkReport> + Send + 'static) -> Result<Running> {
    cancel.shared.queue.check_caller("run_async")?;
    let slot = Arc::new(Slot::new(Caller::Task));
    let running = Running {
        slot: Arc::clone(&slot),
        is_cancelled: cancel.is_cancelled,
        shared: cancel.shared,
    };
    let run = move || {
        let report = catch_unwind(AssertUnwindSafe(job));
        let reply = report.map_or_else(Reply::Panicked, Reply::Returned);
        // The waker is user code.
        quietly(|| slot.complete(reply));
    };
    thread("a bulk job", &running.shared.path, run)?;
    Ok(running)
}

/// The future of the report. Its drop cancels the job.
pub(super) struct Running {
    slot: Arc<Slot<BulkReport>>,
    is_cancelled: Arc<AtomicBool>,
    shared: Arc<Shared>,
}

impl Future for Running {
    type Output = Result<BulkReport>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let reply = self.slot.poll_reply(context, false);
        // The job would wait for the writer, and the writer for it.
        if reply.is_pending() && self.shared.queue.is_worker() {
            return Poll::Ready(Err(self.shared.queue.reentrant("run_async")));
        }
        reply
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.is_cancelled.store(true, Relaxed);
    }
}
