//! Calls that return futures: an async caller awaits them. `blocking.rs` has their blocking forms.

use std::future::Future;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::{Engine, Store};
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
use crate::write::context::WriteOrder;

/// # Async
///
/// These methods need the feature `async`, which is on by default. They return futures that any runtime can poll,
/// without a timer of that runtime and without blocking its threads. A future does nothing before its first poll.
///
/// The closures run on threads of larder, so they may block, but they may not borrow. Inside a closure, do not wait for
/// another of these futures; in most cases that returns [`Reentrant`](crate::Error::Reentrant).
///
/// A future does not keep the store open, so keep a clone of the `Store` as long as the future is in use. When the last
/// clone is dropped, queued writes are finished, and later polls return [`Closed`](crate::Error::Closed).
///
/// A future can be dropped, as `select!` and timeouts of a runtime do:
///
/// | | before the closure starts | while it runs | after it has run |
/// |---|---|---|---|
/// | `write_async` | the write never runs | the write goes on, and commits or rolls back | the result is dropped |
/// | `read_async` | the read never runs | its SQL is interrupted | the result is dropped |
/// | `close_async` | the store stays open | closing goes on | |
///
/// So after its future is dropped, a write has happened completely or not at all, and the caller cannot tell which. To
/// find out, await the write in a task of its own. To go on without the result, use
/// [`submit_async`](Self::submit_async), which waits for room in the queue without blocking the thread: dropping a
/// [`Pending`] does not cancel the write.
///
/// A closure is dropped on the thread where it has run, or, if it has not started, on the thread that drops the future.
#[cfg_attr(docsrs, doc(cfg(feature = "async")))]
impl Store {
    /// As [`write`](Self::write), but returns a future.
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
    /// As [`write`](Self::write). Blocking and async callers share one queue, first come, first served; an async caller
    /// enters it at its first poll. [`QueueTimeout`](crate::Error::QueueTimeout) comes at most some 5 ms late (more if
    /// many thousands of callers wait).
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

    /// As [`write_with`](Self::write_with), but returns a future.
    ///
    /// ```
    /// # futures_executor::block_on(async {
    /// # let store = larder::Store::open_temp()?;
    /// # store.write_async(|tx| tx.execute_batch("CREATE TABLE hits(page TEXT) STRICT")).await?;
    /// use larder::{Error, WhenFull, WriteOptions};
    ///
    /// let options = WriteOptions::new().label("hit").when_full(WhenFull::Fail);
    /// match store.write_async_with(options, |tx| tx.insert("INSERT INTO hits VALUES ('/')", [])).await {
    ///     Err(Error::QueueFull { .. }) => println!("busy: answer 503"),
    ///     written => println!("row {}", written?),
    /// }
    /// # Ok::<_, Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// As [`write_with`](Self::write_with) and [`write_async`](Self::write_async).
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
        write_async(self, "write_async", options, f)
    }

    /// As [`submit`](Self::submit), but returns a future: a task that submits writes waits for room in the queue without
    /// blocking its thread.
    ///
    /// ```
    /// # futures_executor::block_on(async {
    /// # let store = larder::Store::open_temp()?;
    /// # store.write_async(|tx| tx.execute_batch("CREATE TABLE log(n INTEGER) STRICT")).await?;
    /// let mut pending = Vec::new();
    /// for n in 0..100 {
    ///     let insert = store.submit_async(move |tx| tx.insert("INSERT INTO log VALUES (?1)", [n]));
    ///     pending.push(insert.await?); // queued
    /// }
    /// for write in pending {
    ///     write.await?; // committed
    /// }
    /// # Ok::<_, larder::Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// A future that is dropped before it has resolved has the effect that is listed for `write_async`. A dropped
    /// [`Pending`] lets the write go on.
    ///
    /// With [`Durability::Replicated`](crate::Durability::Replicated), once as many writes as the queue has room for wait
    /// for the replica, the future resolves when this one has its reply.
    ///
    /// # Errors
    ///
    /// As [`submit`](Self::submit), at the latest some 5 ms after the deadline.
    #[track_caller]
    pub fn submit_async<T, F>(&self, f: F) -> impl Future<Output = Result<Pending<T>>> + Send + use<T, F>
    where
        F: FnOnce(&WriteTx<'_>) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        self.submit_async_with(WriteOptions::new(), f)
    }

    /// As [`submit_with`](Self::submit_with), but returns a future.
    ///
    /// ```
    /// # futures_executor::block_on(async {
    /// # let store = larder::Store::open_temp()?;
    /// # store.write_async(|tx| tx.execute_batch("CREATE TABLE hits(page TEXT) STRICT")).await?;
    /// use std::time::Duration;
    /// use larder::WriteOptions;
    ///
    /// let options = WriteOptions::new().queue_timeout(Duration::from_millis(200));
    /// let pending = store.submit_async_with(options, |tx| tx.insert("INSERT INTO hits VALUES ('/')", [])).await?;
    /// let row = pending.await?; // or drop it: the write goes on
    /// # assert_eq!(row, 1);
    /// # Ok::<_, larder::Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// As [`submit_with`](Self::submit_with) and [`submit_async`](Self::submit_async).
    #[track_caller]
    pub fn submit_async_with<T, F>(
        &self,
        options: WriteOptions,
        f: F,
    ) -> impl Future<Output = Result<Pending<T>>> + Send + use<T, F>
    where
        F: FnOnce(&WriteTx<'_>) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let options = self.write_options(options);
        let order = WriteOrder::of(&options, self.engine().options.durability);
        let submission = self
            .engine()
            .write_submission("submit_async", options, Caller::SubmittingTask);
        let shared = Arc::clone(&self.engine().shared);
        async move {
            let until_reply = shared.holds_too_many(&order);
            let pending = Some(shared.enqueue_write(submission, order, f)?);
            Submitted { pending, until_reply }.await
        }
    }

    /// As [`read`](Self::read), but returns a future: `f` runs on a reader thread, and may share its snapshot with
    /// reads of other async callers.
    ///
    /// The snapshot is at least as new as every write that was acknowledged before the first poll. There are as many
    /// reader threads as connections in the pool. They start at the first async read, and share the connections with
    /// [`read`](Self::read).
    ///
    /// ```
    /// # futures_executor::block_on(async {
    /// # let store = larder::Store::open_temp()?;
    /// let id = 2;
    /// let double: i64 = store
    ///     .read_async(move |tx| tx.scalar("SELECT 2 * ?1", [id]))
    ///     .await?;
    /// assert_eq!(double, 4);
    /// # Ok::<_, larder::Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read). [`ReadQueueTimeout`](crate::Error::ReadQueueTimeout) comes at most some 5 ms late.
    /// [`Reentrant`](crate::Error::Reentrant) comes inside the closure of another `read_async`.
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

    /// As [`read_with`](Self::read_with), but returns a future. [`ReadOptions::queue_timeout`] covers the wait for a
    /// reader thread and for a connection.
    ///
    /// ```
    /// # futures_executor::block_on(async {
    /// # let store = larder::Store::open_temp()?;
    /// use std::time::Duration;
    /// use larder::ReadOptions;
    ///
    /// let options = ReadOptions::new().label("tables").execution_timeout(Duration::from_secs(2));
    /// let tables: i64 = store
    ///     .read_async_with(options, |tx| tx.scalar("SELECT count(*) FROM sqlite_schema", []))
    ///     .await?;
    /// # assert_eq!(tables, 0);
    /// # Ok::<_, larder::Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// As [`read_with`](Self::read_with) and [`read_async`](Self::read_async). [`QueueFull`](crate::Error::QueueFull)
    /// comes at the first poll.
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
        read_async(self.engine(), "read_async", self.read_options(options), f)
    }

    /// As [`close`](Self::close), but returns a future. Await it before the last clone is dropped, because that drop
    /// would close the store too, and block the runtime's thread.
    ///
    /// Async reads that have not started when the queued writes are finished fail with
    /// [`Closed`](crate::Error::Closed).
    ///
    /// ```
    /// # futures_executor::block_on(async {
    /// # let store = larder::Store::open_temp()?;
    /// let report = store.close_async().await?; // at the end of `main`, once the server has stopped
    /// println!("{report}");
    /// # Ok::<_, larder::Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// As [`close`](Self::close).
    pub fn close_async(&self) -> impl Future<Output = Result<CloseReport>> + Send + use<> {
        self.close_async_within(self.engine().options.close_timeout)
    }

    /// As [`close_within`](Self::close_within), but returns a future.
    ///
    /// # Errors
    ///
    /// As [`close_within`](Self::close_within).
    pub fn close_async_within(&self, timeout: Duration) -> impl Future<Output = Result<CloseReport>> + Send + use<> {
        close_async(self.clone(), Self::engine, timeout)
    }
}

/// Writes for a task that calls it by that name.
#[track_caller]
pub(super) fn write_async<T, F>(
    store: &Store,
    call: &'static str,
    options: WriteOptions,
    f: F,
) -> impl Future<Output = Result<T>> + Send + use<T, F>
where
    F: FnOnce(&WriteTx<'_>) -> Result<T> + Send + 'static,
    T: Send + 'static,
{
    let engine = store.engine();
    let options = store.write_options(options);
    let order = WriteOrder::of(&options, engine.options.durability);
    let submission = engine.write_submission(call, options, Caller::Task);
    // Not the store: if the future were the last to hold it, its drop would close the store and block the runtime.
    let shared = Arc::clone(&engine.shared);
    async move { Awaited(shared.enqueue_write(submission, order, f)?).await }
}

/// Reads in a job of its own.
#[track_caller]
pub(super) fn read_async<T, F>(
    engine: &Engine,
    call: &'static str,
    options: ReadOptions,
    f: F,
) -> impl Future<Output = Result<T>> + Send + use<T, F>
where
    F: FnOnce(&ReadTx<'_>) -> Result<T> + Send + 'static,
    T: Send + 'static,
{
    let limit = options.execution_timeout;
    let submission = read_submission(engine, call, options);
    let readers = &engine.readers;
    let queue = readers.served_queue().ok_or_else(|| Arc::clone(readers));
    async move {
        let queue = queue.or_else(|readers| readers.queue())?;
        Awaited(read::context::enqueue(queue, submission, limit, f)?).await
    }
}

/// A read as the queue takes it. Its timeout defaults to that of the store.
#[track_caller]
pub(super) fn read_submission(engine: &Engine, call: &'static str, options: ReadOptions) -> Submission {
    let timeout = options.queue_timeout;
    Submission {
        call,
        site: CallSite::new(options.label, Location::caller()),
        timeout: timeout.unwrap_or(engine.options.read_queue_timeout),
        caller: Caller::Task,
        when_full: options.when_full,
    }
}

/// Closes the engine of a handle.
pub(super) async fn close_async<H: Clone + Send + 'static>(
    handle: H,
    engine: fn(&H) -> &Engine,
    timeout: Duration,
) -> Result<CloseReport> {
    engine(&handle).may_close()?;
    let slot = Arc::new(Slot::new(Caller::Task));
    let closed = Closed(Arc::clone(&slot));
    // Closing blocks, so it has a thread of its own.
    let closing = handle.clone();
    let close = move || {
        let report = catch_unwind(AssertUnwindSafe(|| Ok(engine(&closing).close(timeout))));
        quietly(|| drop(closing));
        let reply = report.map_or_else(Reply::Panicked, Reply::Returned);
        // The waker is user code.
        quietly(|| slot.complete(reply));
    };
    let thread = thread::Builder::new().name("larder-close".into()).spawn(close);
    if thread.is_err() {
        // Without a thread, blocking this one is better than leaving the store open.
        return Ok(engine(&handle).close(timeout));
    }
    drop(handle);
    closed.await
}

/// The future of a job. Dropping it has the effect that the table above describes.
pub(super) struct Awaited<T>(pub(super) Pending<T>);

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

/// The future of a place in the queue. Dropping it before that has the effect of dropping the future of a write.
struct Submitted<T> {
    pending: Option<Pending<T>>,
    /// Whether it resolves when there is a reply, instead.
    until_reply: bool,
}

impl<T> Future for Submitted<T> {
    type Output = Result<Pending<T>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let pending = self.pending.as_ref().expect("it was not polled after it resolved");
        match pending.poll_room(context, self.until_reply) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) => Poll::Ready(Ok(self.pending.take().expect("it was there"))),
            Poll::Ready(Err(error)) => Poll::Ready(Err(pending.withdraw_unwaited(error))),
        }
    }
}

impl<T> Drop for Submitted<T> {
    fn drop(&mut self) {
        if let Some(pending) = &self.pending {
            pending.abandon();
        }
    }
}

/// The future of the report of closing.
struct Closed(Arc<Slot<CloseReport>>);

impl Future for Closed {
    type Output = Result<CloseReport>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_reply(context, false)
    }
}
