//! What a task calls: the same as a thread, but it awaits instead of blocking.

use std::future::Future;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::Store;
use crate::error::Result;
use crate::options::{ReadOptions, WriteOptions};
use crate::queue::Submission;
use crate::queue::pending::Pending;
use crate::queue::slot::{Caller, Reply, Slot};
use crate::read;
use crate::runtime::panic::quietly;
use crate::runtime::sync::{Arc, thread};
use crate::telemetry::call_site::CallSite;
use crate::transaction::{ReadTx, WriteTx};
use crate::write::closing::CloseReport;
use crate::write::context::{Grouped, WriteOrder};

/// # For tasks
///
/// With the feature `async`, a default one. These give futures that any runtime can poll: they do not block its thread,
/// and need no timer of its. Each does nothing before it is first polled. The closures run on larder's own threads, so
/// they may block, and may not borrow; to wait for another such future inside one is no good idea, and mostly
/// `Reentrant`.
///
/// The futures do not keep the store open: keep a clone for as long as they are needed. When the last one goes what is
/// queued is still made, and what comes after is [`Closed`](crate::Error::Closed).
///
/// What dropping such a future does, as `select!` or a runtime's timeout would:
///
/// | | not started | running | done |
/// |---|---|---|---|
/// | `write_async` | is never run | goes on, and commits or rolls back; its result is dropped | its result is dropped |
/// | `read_async` | is never run | its SQL is interrupted | its result is dropped |
/// | `close_async` | the store stays open | closing goes on | |
///
/// So a write whose future was dropped has happened entirely or not at all, but nobody knows which. To know, let a task
/// of its own await it. To go on without its result use [`submit`](Self::submit): dropping a [`Pending`] lets the write
/// go on.
///
/// A closure is dropped where it ends: on larder's thread, or, if it has not started, by whoever drops the future.
#[cfg_attr(docsrs, doc(cfg(feature = "async")))]
impl Store {
    /// As [`write`](Self::write), for a task.
    ///
    /// ```
    /// # futures_executor::block_on(async {
    /// # let store = larder::Store::open_temp()?;
    /// # store.write_async(|tx| tx.execute_batch("CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT) STRICT")).await?;
    /// let name = String::from("Ada");
    /// let id = store
    ///     .write_async(move |tx| tx.insert("INSERT INTO users(name) VALUES (?1)", [name]))
    ///     .await?; // committed
    /// # assert_eq!(id, 1);
    /// # Ok::<_, larder::Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write). A write that could not be started in time is
    /// [`QueueTimeout`](crate::Error::QueueTimeout), some 5 ms after that time at the latest (more, if many thousands
    /// wait). A task stands in line with the threads, first come first served from its first poll.
    ///
    /// # Panics
    ///
    /// As [`write`](Self::write).
    #[track_caller]
    pub fn write_async<T, F>(&self, f: F) -> impl Future<Output = Result<T>> + Send + use<T, F>
    where
        F: FnOnce(&WriteTx<'_>) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        self.write_async_with(WriteOptions::new(), f)
    }

    /// As [`write_with`](Self::write_with), for a task.
    ///
    /// # Errors
    ///
    /// As [`write_with`](Self::write_with) and [`write_async`](Self::write_async);
    /// [`QueueFull`](crate::Error::QueueFull) comes at the first poll.
    ///
    /// # Panics
    ///
    /// As [`write`](Self::write).
    #[track_caller]
    pub fn write_async_with<T, F>(
        &self,
        options: WriteOptions,
        f: F,
    ) -> impl Future<Output = Result<T>> + Send + use<T, F>
    where
        F: FnOnce(&WriteTx<'_>) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let order = WriteOrder::of(&options);
        let submission = self.engine().write_submission("write_async", options, Caller::Task);
        // Not the store itself: a future that is dropped late would close it, and block its runtime's thread.
        let shared = Arc::clone(&self.engine().shared);
        async move { Awaited(shared.enqueue::<Grouped, _, _>(submission, order, f)?).await }
    }

    /// As [`read`](Self::read), for a task: `f` runs on a reader thread, perhaps in one snapshot with other tasks'
    /// reads.
    ///
    /// The snapshot is at least as new as every write acknowledged before the first poll. There are as many reader
    /// threads as connections in the pool, which they share with [`read`](Self::read); they start when the first task
    /// reads.
    ///
    /// ```
    /// # futures_executor::block_on(async {
    /// # let store = larder::Store::open_temp()?;
    /// let id = 2;
    /// let double: i64 = store.read_async(move |tx| tx.query_row("SELECT 2 * ?1", [id], |row| row.get(0))).await?;
    /// assert_eq!(double, 4);
    /// # Ok::<_, larder::Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read). [`ReadQueueTimeout`](crate::Error::ReadQueueTimeout) if it could not be started in time, some 5 ms
    /// after that at the latest; [`Reentrant`](crate::Error::Reentrant) inside the closure of another `read_async`.
    ///
    /// # Panics
    ///
    /// If `f` panics.
    #[track_caller]
    pub fn read_async<T, F>(&self, f: F) -> impl Future<Output = Result<T>> + Send + use<T, F>
    where
        F: FnOnce(&ReadTx<'_>) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        self.read_async_with(ReadOptions::new(), f)
    }

    /// As [`read_with`](Self::read_with), for a task. [`ReadOptions::queue_timeout`] is for waiting in the queue and for a
    /// connection.
    ///
    /// # Errors
    ///
    /// As [`read_async`](Self::read_async), [`Interrupted`](crate::Error::Interrupted) past
    /// [`ReadOptions::execution_timeout`], and [`QueueFull`](crate::Error::QueueFull) at the first poll if the queue is
    /// full and the call may not wait ([`ReadOptions::when_full`]).
    ///
    /// # Panics
    ///
    /// If `f` panics.
    #[track_caller]
    pub fn read_async_with<T, F>(
        &self,
        options: ReadOptions,
        f: F,
    ) -> impl Future<Output = Result<T>> + Send + use<T, F>
    where
        F: FnOnce(&ReadTx<'_>) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let timeout = options.queue_timeout;
        let submission = Submission {
            call: "read_async",
            site: CallSite::new(options.label, Location::caller()),
            timeout: timeout.unwrap_or(self.engine().options.read_queue_timeout),
            caller: Caller::Task,
            when_full: options.when_full,
        };
        let limit = options.execution_timeout;
        let readers = &self.engine().readers;
        let queue = readers.served_queue().ok_or_else(|| Arc::clone(readers));
        async move {
            let queue = queue.or_else(|readers| readers.queue())?;
            Awaited(read::context::enqueue(queue, submission, limit, f)?).await
        }
    }

    /// As [`close`](Self::close), for a task. Call it before the last clone is dropped: a drop closes the store, too,
    /// but blocks the thread of the runtime that it happens on.
    ///
    /// Reads that tasks wait for are told [`Closed`](crate::Error::Closed) if they have not started when the writes are
    /// done.
    ///
    /// # Errors
    ///
    /// As [`close`](Self::close).
    pub fn close_async(&self) -> impl Future<Output = Result<CloseReport>> + Send + use<> {
        self.close_async_within(self.engine().options.close_timeout)
    }

    /// As [`close_within`](Self::close_within), for a task.
    ///
    /// # Errors
    ///
    /// As [`close_within`](Self::close_within).
    pub fn close_async_within(&self, timeout: Duration) -> impl Future<Output = Result<CloseReport>> + Send + use<> {
        let store = self.clone();
        async move {
            store.engine().may_close()?;
            let slot = Arc::new(Slot::new(Caller::Task));
            let closed = Closed(Arc::clone(&slot));
            // Closing blocks, and a thread costs little beside it.
            let closing = store.clone();
            let close = move || {
                let report = catch_unwind(AssertUnwindSafe(|| closing.close_within(timeout)));
                quietly(|| drop(closing));
                let reply = report.map_or_else(Reply::Panicked, Reply::Returned);
                // The waker is user code.
                quietly(|| slot.complete(reply));
            };
            let thread = thread::Builder::new().name("larder-close".into()).spawn(close);
            if thread.is_err() {
                // Better that this thread waits than that the store stays open.
                return store.close_within(timeout);
            }
            drop(store);
            closed.await
        }
    }
}

/// A job that somebody awaits: dropped, it goes as the table above says.
struct Awaited<T>(Pending<T>);

impl<T> Future for Awaited<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = Pin::new(&mut self.0).poll(context);
        polled.map_err(|error| self.0.withdraw_unwaited(error))
    }
}

impl<T> Drop for Awaited<T> {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// What closing came to.
struct Closed(Arc<Slot<CloseReport>>);

impl Future for Closed {
    type Output = Result<CloseReport>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_reply(context, false)
    }
}
