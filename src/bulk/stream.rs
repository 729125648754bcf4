//! Rows that an async stream gives. The task that awaits the job polls the stream, so it may be of any runtime; the
//! driver has a thread of its own, and wakes the task for more rows and at the end.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;

use super::driver::Driver;
use super::feed::{Ended, Feed, Over};
use super::futures::start;
use super::row::{self, BulkRow};
use super::{BATCH_ROWS, Bulk, BulkReport, ROOM};
use crate::error::Result;
use crate::telemetry::call_site::CallSite;

impl Bulk {
    /// As [`insert`](Self::insert), with the rows of an async stream. Await [`BulkStream::run_async`].
    ///
    /// ```
    /// # futures_executor::block_on(async {
    /// # let store = larder::Store::open_temp()?;
    /// # store.write_async(|tx| tx.execute_batch("CREATE TABLE log(n INTEGER) STRICT")).await?;
    /// let rows = futures_util::stream::iter((0..1000).map(|n| (n,)));
    /// let job = store.bulk().insert_stream("INSERT INTO log(n) VALUES (?1)", rows);
    /// assert_eq!(job.run_async().await?.rows, 1000);
    /// # Ok::<_, larder::Error>(())
    /// # }).unwrap();
    /// ```
    #[cfg_attr(docsrs, doc(cfg(feature = "async")))]
    pub fn insert_stream<S>(self, sql: impl Into<String>, rows: S) -> BulkStream<S>
    where
        S: Stream,
        S::Item: BulkRow,
    {
        BulkStream {
            bulk: self,
            sql: sql.into(),
            rows,
        }
    }
}

/// A job whose rows come from an async stream. Made by [`Bulk::insert_stream`].
#[cfg_attr(docsrs, doc(cfg(feature = "async")))]
#[must_use = "nothing is done before `run_async` is awaited"]
pub struct BulkStream<S> {
    bulk: Bulk,
    sql: String,
    rows: S,
}

impl<S> BulkStream<S>
where
    S: Stream,
    S::Item: BulkRow,
{
    /// Runs the job. The future works on any runtime, and does nothing before its first poll.
    ///
    /// The task polls the stream, and only while there is room: see [`Bulk::insert`]. While the stream is pending, the rows
    /// that it has given are committed, and no transaction is open. The future is ready at once, also while the
    /// stream is pending, when a row fails the job, the progress callback cancels it, or the store closes.
    ///
    /// Dropping the future cancels the job at the end of its slice: what is committed stays. The job does not keep the
    /// store open.
    ///
    /// ```
    /// # futures_executor::block_on(async {
    /// # let store = larder::Store::open_temp()?;
    /// # store.write_async(|tx| tx.execute_batch("CREATE TABLE log(n INTEGER) STRICT")).await?;
    /// let rows = futures_util::stream::iter((0..10_000).map(|n| (n,)));
    /// let report = store
    ///     .bulk()
    ///     .insert_stream("INSERT INTO log(n) VALUES (?1)", rows)
    ///     .run_async()
    ///     .await?;
    /// assert_eq!(report.rows, 10_000);
    /// # Ok::<_, larder::Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// As [`BulkJob::run_async`](super::BulkJob::run_async).
    ///
    /// # Panics
    ///
    /// As [`BulkJob::run`](super::BulkJob::run).
    #[track_caller]
    pub fn run_async(self) -> impl Future<Output = Result<BulkReport>> + use<S> {
        run(self, Location::caller())
    }
}

async fn run<S>(job: BulkStream<S>, caller: &'static Location<'static>) -> Result<BulkReport>
where
    S: Stream,
    S::Item: BulkRow,
{
    let BulkStream { bulk, sql, rows } = job;
    let cancel = bulk.cancelled_by();
    let feed = Arc::new(Feed::new(ROOM));
    let driven = Arc::clone(&feed);
    let mut report = pin!(start(cancel, move || {
        bulk.check()?;
        let site = CallSite::new(bulk.label.clone().map(Into::into), caller);
        let (driver, done) = Driver::start(bulk, sql, site, Arc::clone(&driven))?;
        driven.begin(done.rows);
        driver.run()
    })?);
    let mut rows = pin!(rows);
    let mut giving = Giving {
        skip: None,
        ended: false,
    };
    poll_fn(|context| {
        if let Poll::Ready(report) = report.as_mut().poll(context) {
            return Poll::Ready(report);
        }
        if !giving.ended {
            // Its end is that of the report.
            let _ = giving.poll(rows.as_mut(), &feed, context);
        }
        Poll::Pending
    })
    .await
}

/// How far the stream is.
struct Giving {
    /// Rows to leave out, once they are known.
    skip: Option<u64>,
    ended: bool,
}

impl Giving {
    /// Puts rows into the feed until there is no room, or no row. Some thousand rows are enough for one poll.
    fn poll<S>(
        &mut self,
        mut rows: Pin<&mut S>,
        feed: &Feed<S::Item>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Over>>
    where
        S: Stream,
        S::Item: BulkRow,
    {
        let skip = match &mut self.skip {
            Some(skip) => skip,
            none => none.insert(ready!(feed.poll_skip(context))?),
        };
        for _ in 0..2 * BATCH_ROWS {
            ready!(feed.poll_room(context))?;
            let polled = catch_unwind(AssertUnwindSafe(|| rows.as_mut().poll_next(context)));
            let row = match polled {
                Ok(Poll::Ready(Some(row))) => row,
                Ok(Poll::Ready(None)) => return self.end(feed, Ended::Done),
                Ok(Poll::Pending) => return Poll::Pending,
                Err(panic) => return self.end(feed, Ended::Panicked(panic)),
            };
            if *skip > 0 {
                *skip -= 1;
                continue;
            }
            // A ToSql and the hint are user code, too.
            let looked = catch_unwind(AssertUnwindSafe(|| (row::bytes(&row), rows.size_hint())));
            let (bytes, (least, most)) = match looked {
                Ok(looked) => looked,
                Err(panic) => return self.end(feed, Ended::Panicked(panic)),
            };
            if feed.put_polled(row, bytes) {
                feed.set_left((Some(least) == most).then_some(least as u64));
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn end<R>(&mut self, feed: &Feed<R>, ended: Ended) -> Poll<Result<(), Over>> {
        self.ended = true;
        feed.end(ended);
        Poll::Ready(Ok(()))
    }
}
