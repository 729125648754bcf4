//! Streams of rows, for tasks. `read/streams.rs` has the threads that read them, `read/row_channel.rs` how the rows get
//! here.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::mem;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::{FusedStream, Stream};
use rusqlite::Params;

use super::futures::{Awaited, read_submission};
use super::{Engine, Store};
use crate::error::Result;
use crate::options::ReadOptions;
use crate::queue::pending::Pending;
use crate::read::row_channel::RowChannel;
use crate::read::streams::{self, Consumer, Ended};
use crate::telemetry::streams::StreamCounters;
use crate::transaction::from_row::FromRow;

/// # Streams
///
/// A stream returns rows while they are read: for a result that is too large to collect, such as a download or an export.
/// These methods need the feature `async`.
#[cfg_attr(docsrs, doc(cfg(feature = "async")))]
impl Store {
    /// Runs one query in one snapshot, and returns its rows as values, one by one.
    ///
    /// ```
    /// # futures_executor::block_on(async {
    /// # let store = larder::Store::open_temp()?;
    /// # store.write_async(|tx| tx.execute_batch("CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT;
    /// #     INSERT INTO users(name) VALUES ('Ada'), ('Grace')")).await?;
    /// let sql = "SELECT id, name FROM users WHERE id > ?1 ORDER BY id";
    /// let mut users = store.read_stream::<(i64, String)>(sql, [0]);
    /// while let Some(user) = users.next().await {
    ///     let (id, name) = user?;
    ///     println!("{id} {name}");
    /// }
    /// # Ok::<_, larder::Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// The values are a tuple or a struct ([`FromRow`]). Parameters are an array, a tuple, or
    /// [`params_from_iter`](rusqlite::params_from_iter) of a `Vec`: they go to another thread.
    ///
    /// # How it runs
    ///
    /// Nothing happens before the first poll. Then a stream thread of larder begins the snapshot, which is at least as new
    /// as every write that was acknowledged before, and runs the query. It is at most 512 rows, or
    /// 512 KiB and two rows, ahead of the task; then it waits. So memory is bounded whatever the size of the result.
    ///
    /// A stream that is dropped ends at once: its SQL is interrupted, and its connection returns to the pool.
    ///
    /// # A slow consumer holds back the log
    ///
    /// The snapshot lasts from the first poll until the end or the drop of the stream, and the write-ahead log cannot be
    /// reset meanwhile: it grows with each commit. That is so however slow the client is that the rows are sent to.
    ///
    /// - **What shows it:** [`ReaderStats::oldest_read`](crate::ReaderStats::oldest_read), with the line of this call
    ///   and its age; the alert [`OldRead`](crate::AlertKind::OldRead) after
    ///   [`Options::max_reader_age`](crate::Options::max_reader_age), which [`advice`](Self::advice) reports too; and
    ///   [`LargeWal`](crate::AlertKind::LargeWal). [`ReaderStats::streams`](crate::ReaderStats::streams) counts
    ///   streams, rows and the time for which they waited for their tasks; all other statistics and the slow log count
    ///   the time of the query, without that wait.
    /// - **What bounds it:** [`Options::stream_idle_timeout`](crate::Options::stream_idle_timeout), 60 s by default, or
    ///   [`ReadOptions::idle_timeout`]: a stream that waits to go on and is not polled for so long ends with an error.
    ///   [`ReadOptions::execution_timeout`], the time of the whole stream with that of its consumer;
    ///   [`Options::interrupt_old_readers`](crate::Options::interrupt_old_readers), for all reads;
    ///   [`Options::wal_hard_limit`](crate::Options::wal_hard_limit), the size of the log, past which writes fail.
    ///
    /// A result that may take minutes is better read in pages by key, each a read of its own, if it need not be one snapshot.
    ///
    /// # How many at once
    ///
    /// A stream keeps a connection of the pool, and one less than [`Options::readers`](crate::Options::readers) (but at least
    /// one) run at once. Further streams wait in line, for [`ReadOptions::queue_timeout`]. So streams alone cannot take the
    /// last connection from other reads, unless there is only one. A task that holds streams and waits for another one may
    /// wait for itself, until that time is over.
    ///
    /// # Errors
    ///
    /// An error is the last item, after all rows that were read before it:
    ///
    /// - the errors of [`ReadTx::all`](crate::ReadTx::all): those of SQLite, and of a row that is not a `T`;
    /// - [`ReadQueueTimeout`](crate::Error::ReadQueueTimeout): no stream thread and connection became free in time;
    /// - [`Interrupted`](crate::Error::Interrupted): its time limit was over, or it was not polled for too long;
    /// - [`Closed`](crate::Error::Closed): the store was closed. A store that closes does not wait for the end of streams;
    ///   the stream does not keep it open.
    ///
    /// A stream that was cut off never ends without an error.
    ///
    /// # Panics
    ///
    /// If the conversion of a row panics. The panic resumes in the task, after the rows before it.
    #[track_caller]
    pub fn read_stream<T>(
        &self,
        sql: impl Into<Cow<'static, str>>,
        params: impl Params + Send + 'static,
    ) -> RowStream<T>
    where
        T: FromRow + Send + 'static,
    {
        self.read_stream_with(ReadOptions::new(), sql, params)
    }

    /// As [`read_stream`](Self::read_stream), with options for this call: timeouts, a label.
    ///
    /// ```
    /// # futures_executor::block_on(async {
    /// # let store = larder::Store::open_temp()?;
    /// use std::time::Duration;
    /// use larder::ReadOptions;
    ///
    /// let options = ReadOptions::new().execution_timeout(Duration::from_secs(600)).label("export");
    /// let mut rows = store.read_stream_with::<(i64,)>(options, "SELECT 1 UNION ALL SELECT 2", ());
    /// let mut sum = 0;
    /// while let Some(row) = rows.next().await {
    ///     sum += row?.0;
    /// }
    /// assert_eq!(sum, 3);
    /// # Ok::<_, larder::Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// As [`read_stream`](Self::read_stream), and [`QueueFull`](crate::Error::QueueFull) with
    /// [`ReadOptions::when_full`], if [`Options::queue_capacity`](crate::Options::queue_capacity) streams wait in line.
    ///
    /// # Panics
    ///
    /// As [`read_stream`](Self::read_stream).
    #[track_caller]
    pub fn read_stream_with<T>(
        &self,
        options: ReadOptions,
        sql: impl Into<Cow<'static, str>>,
        params: impl Params + Send + 'static,
    ) -> RowStream<T>
    where
        T: FromRow + Send + 'static,
    {
        RowStream::new(self.engine(), self.read_options(options), sql.into(), params)
    }
}

/// The rows of a query, as [`Store::read_stream`](crate::Store::read_stream) reads them.
///
/// It is a [`Stream`] of [`Result<T>`](crate::Result), for any runtime, and has [`next`](Self::next) for a plain loop.
/// After its last item it returns `None`, again and again. Its drop ends the query.
///
/// ```
/// # futures_executor::block_on(async {
/// # let store = larder::Store::open_temp()?;
/// use futures_util::TryStreamExt;
///
/// let sql = "SELECT value FROM json_each('[1, 2, 3]')";
/// let rows = store.read_stream::<(i64,)>(sql, ());
/// let even: Vec<_> = rows.try_filter(|(n,)| std::future::ready(n % 2 == 0)).try_collect().await?;
/// assert_eq!(even, [(2,)]);
/// # Ok::<_, larder::Error>(())
/// # }).unwrap();
/// ```
#[must_use = "a stream does nothing until it is polled"]
#[cfg_attr(docsrs, doc(cfg(feature = "async")))]
pub struct RowStream<T> {
    /// Rows that were taken from the channel.
    rows: VecDeque<T>,
    channel: Arc<RowChannel<T>>,
    counters: Arc<StreamCounters>,
    stage: Stage,
}

type Start = Box<dyn FnOnce() -> Result<Pending<Ended>> + Send>;

enum Stage {
    NotStarted(Start),
    Running(Awaited<Ended>),
    /// All rows were taken from the channel.
    Ending(Result<Ended>),
    Over,
}

impl<T: FromRow + Send + 'static> RowStream<T> {
    #[track_caller]
    pub(super) fn new(
        engine: &Engine,
        options: ReadOptions,
        sql: Cow<'static, str>,
        params: impl Params + Send + 'static,
    ) -> Self {
        let limit = options.execution_timeout;
        let idle_timeout = options.idle_timeout.unwrap_or(engine.options.stream_idle_timeout);
        let submission = read_submission(engine, "read_stream", options);
        // Not the store, as for the future of a write.
        let readers = Arc::clone(&engine.readers);
        let channel = Arc::new(RowChannel::new());
        let counters = readers.stream_counters();
        let consumer = Consumer {
            channel: Arc::clone(&channel),
            idle_timeout,
            counters: Arc::clone(&counters),
        };
        let start = move || streams::enqueue(readers.stream_queue()?, submission, limit, sql, params, consumer);
        Self {
            rows: VecDeque::new(),
            channel,
            counters,
            stage: Stage::NotStarted(Box::new(start)),
        }
    }
}

impl<T> RowStream<T> {
    /// The next row; `None` after the last one, and after an error. A future that is dropped loses no row.
    ///
    /// ```
    /// # futures_executor::block_on(async {
    /// # let store = larder::Store::open_temp()?;
    /// let mut rows = store.read_stream::<(i64,)>("SELECT 7", ());
    /// while let Some(row) = rows.next().await {
    ///     println!("{}", row?.0);
    /// }
    /// # assert!(rows.next().await.is_none());
    /// # Ok::<_, larder::Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Store::read_stream`](crate::Store::read_stream).
    ///
    /// # Panics
    ///
    /// If the conversion of the row panicked.
    pub async fn next(&mut self) -> Option<Result<T>> {
        poll_fn(|context| self.poll_row(context)).await
    }

    fn poll_row(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<T>>> {
        self.channel.poll();
        loop {
            if let Some(row) = self.rows.pop_front() {
                return Poll::Ready(Some(Ok(row)));
            }
            if let Stage::Running(read) = &mut self.stage {
                // In a forked child the lock of the channel may stay held.
                if !read.0.is_left() && self.channel.take(&mut self.rows, context) {
                    self.counters.took(self.rows.len());
                    continue;
                }
                // The task is woken by a row or by the end.
                let ended = ready!(Pin::new(&mut *read).poll(context));
                if !read.0.is_left() {
                    self.channel.take_rest(&mut self.rows);
                    self.counters.took(self.rows.len());
                }
                self.stage = Stage::Ending(ended);
                continue;
            }
            match mem::replace(&mut self.stage, Stage::Over) {
                Stage::NotStarted(start) => match start() {
                    Ok(read) => self.stage = Stage::Running(Awaited(read)),
                    Err(error) => return Poll::Ready(Some(Err(error))),
                },
                Stage::Ending(Err(error)) => return Poll::Ready(Some(Err(error))),
                Stage::Ending(Ok(Err(panic))) => resume_unwind(panic),
                _ => return Poll::Ready(None),
            }
        }
    }
}

impl<T> Unpin for RowStream<T> {}

impl<T> Stream for RowStream<T> {
    type Item = Result<T>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_row(context)
    }
}

impl<T> FusedStream for RowStream<T> {
    fn is_terminated(&self) -> bool {
        matches!(self.stage, Stage::Over) && self.rows.is_empty()
    }
}

impl<T> Drop for RowStream<T> {
    fn drop(&mut self) {
        if let Stage::Running(read) = &self.stage
            && !read.0.is_left()
        {
            // The channel first: a thread that starts the job now finds out.
            self.channel.leave();
        }
    }
}

impl<T> fmt::Debug for RowStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match self.stage {
            Stage::NotStarted(_) => "not started",
            Stage::Running(_) => "running",
            Stage::Ending(_) => "ending",
            Stage::Over => "over",
        };
        f.debug_struct("RowStream")
            .field("stage", &stage)
            .finish_non_exhaustive()
    }
}
