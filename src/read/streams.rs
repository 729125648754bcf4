//! Streams: reads whose rows are handed to a task while they are read.
//!
//! A stream lasts as long as its consumer takes, and keeps a thread and a connection meanwhile. So streams have threads
//! of their own, `larder-stream-N`, and a queue of their own, which those threads serve one job at a time: other async
//! reads never wait for a thread that a slow consumer keeps. They have one thread less than the pool has connections
//! (at least one). So while all of them run, one connection is left for all other reads, and streams beyond that number
//! wait in line until their time is over.
//!
//! A stream thread takes a job, borrows a connection, begins a snapshot and runs the query. `row_channel.rs` says how the
//! rows get to the task, who owns what, and why it cannot deadlock. When the query ends, the thread returns the
//! connection, and then replies: the reply is the end of the stream. So a task that has seen the end, or has dropped the
//! stream and waited, finds the connection idle and the write-ahead log no longer held back.
//!
//! The query ends early when the stream was dropped, when the store closes ([`Error::Closed`]) or when its time limit is
//! over, or its consumer has not polled for the idle limit ([`Error::Interrupted`]). The thread finds out before each
//! row, while it waits for room, and in the middle of a statement, by the progress handler: the [`Token`] says there
//! whether the stream is still wanted. A panic, which can only come from a conversion of a row, is caught here, so that
//! the snapshot is ended as for any closure; it travels in the reply, and resumes in the task.
//!
//! Why no wake-up of a stream's start or end is lost is argued in `queue/mod.rs` and `queue/slot.rs`, as for any job. The
//! mutex around the number of threads is held while they start; no other lock is taken under it.

use std::any::Any;
use std::borrow::Cow;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use rusqlite::{Params, ffi};

use super::Readers;
use super::context::{InSnapshot, Pooled, Reads};
use super::row_channel::{Patience, RowChannel, Stop};
use super::worker::fail;
use crate::error::{Error, Result, primary_code};
use crate::options::Settings;
use crate::queue::job::{Job, Resolution, Work};
use crate::queue::pending::{Pending, Queue};
use crate::queue::spin::AdaptiveSpin;
use crate::queue::{JobQueue, Submission};
use crate::runtime::cancellation::{self, Cancelled};
use crate::runtime::fork;
use crate::runtime::panic::caught;
use crate::runtime::sync::{Arc, Instant, Mutex, thread};
use crate::telemetry::event::event;
use crate::telemetry::streams::StreamCounters;
use crate::transaction::ReadTx;
use crate::transaction::from_row::FromRow;

/// How a query ended that ran without an error: at its last row or with the stream, or by this panic.
pub(crate) type Ended = std::result::Result<(), Box<dyn Any + Send>>;

const IDLE: &str = "the consumer did not poll the stream for Options::stream_idle_timeout or ReadOptions::idle_timeout, \
                    and the stream kept a connection and the write-ahead log meanwhile; drop a stream that is not read on, \
                    read in pages, or raise the limit";

/// The threads of the streams, and their queue.
pub(super) struct Streams {
    pub(super) queue: Arc<JobQueue<Reads>>,
    /// Number of threads that serve it, in the end.
    most: u32,
    /// Number of threads that were started.
    threads: Mutex<u32>,
    pub(super) counters: Arc<StreamCounters>,
}

impl Streams {
    pub(super) fn new(options: &Settings) -> Self {
        let most = options.readers.saturating_sub(1).max(1);
        let spin = AdaptiveSpin::new(options.spin_time);
        Self {
            queue: JobQueue::new(Reads::new(options.readers), options.queue_capacity, most as usize, spin),
            most,
            threads: Mutex::new(0),
            counters: Arc::default(),
        }
    }
}

impl Readers {
    /// The queue of the streams. Starts the threads that serve it.
    ///
    /// # Errors
    ///
    /// [`Error::Open`] if the operating system refuses the first thread. [`Error::Forked`].
    pub(crate) fn stream_queue(self: &Arc<Self>) -> Result<Arc<JobQueue<Reads>>> {
        let Streams {
            queue, most, threads, ..
        } = &self.streams;
        if queue.is_left() {
            return Err(Error::forked());
        }
        let mut threads = threads.lock();
        while *threads < *most && !queue.is_closed() {
            let readers = Arc::clone(self);
            let thread = thread::Builder::new().name(format!("larder-stream-{threads}"));
            match thread.spawn(move || readers.serve_streams()) {
                Ok(_) => *threads += 1,
                Err(error) if *threads == 0 => return Err(Error::no_thread(&self.path, "its streams", error)),
                // The threads that run serve all streams. The next stream tries again.
                Err(_) => break,
            }
        }
        Ok(Arc::clone(queue))
    }

    /// The counters of all streams.
    pub(crate) fn stream_counters(&self) -> Arc<StreamCounters> {
        Arc::clone(&self.streams.counters)
    }

    /// Whether the calling thread is a reader thread or a stream thread.
    pub(crate) fn is_worker_thread(&self) -> bool {
        self.is_reader_thread() || self.streams.queue.is_worker()
    }

    fn serve_streams(&self) {
        let queue = &self.streams.queue;
        queue.become_worker();
        loop {
            if queue.is_left() {
                // A conversion has forked on this thread, and returned in the child.
                fork::end_child();
            }
            let Some(job) = queue.pop().or_else(|| queue.sleep()) else {
                return;
            };
            if job.is_withdrawn() {
                continue;
            }
            // Panics of conversions and wakers are caught where they are called. Here, the thread also survives a bug in
            // larder.
            if caught(|| self.run_stream(job)).is_none() {
                event!(
                    error,
                    "larder::read",
                    self.path,
                    { "error.type" = "panic" },
                    "a stream thread panicked, outside any conversion; please report this bug"
                );
            }
        }
    }

    fn run_stream(&self, job: Job<Pooled>) {
        let queue = &self.streams.queue;
        let mut checked_out = match self.check_out_for(queue, &job) {
            Ok(checked_out) => checked_out,
            Err(error) => return fail(queue, job, error),
        };
        let began = Instant::now();
        let mut snapshot = match self.begin(checked_out.reader(), job.meta().site.clone()) {
            Ok(snapshot) => snapshot,
            Err(error) => return fail(queue, job, error),
        };
        if began >= job.meta().deadline {
            drop(snapshot);
            let waited = job.meta().asked.elapsed();
            return fail(queue, job, queue.too_late(waited));
        }
        if !job.start() {
            return;
        }
        let limit = *job.order();
        let open = self.streams.counters.open();
        // Its result is in the slot.
        let _ = job.run(InSnapshot {
            snapshot: &mut snapshot,
            limit,
        });
        drop(open);
        drop(snapshot);
        let slow = checked_out.give_back();
        queue.took(began.elapsed());
        job.finish(Resolution::Own);
        if !slow.is_empty() {
            self.report_slow(slow);
        }
    }
}

/// The query of a stream.
struct Query<T, P> {
    sql: Cow<'static, str>,
    params: P,
    consumer: Consumer<T>,
    queue: Arc<JobQueue<Reads>>,
}

/// What a stream knows of its consumer.
pub(crate) struct Consumer<T> {
    pub(crate) channel: Arc<RowChannel<T>>,
    /// How long it may go without a poll.
    pub(crate) idle_timeout: Duration,
    pub(crate) counters: Arc<StreamCounters>,
}

/// Queues a stream.
pub(crate) fn enqueue<T, P>(
    queue: Arc<JobQueue<Reads>>,
    submission: Submission,
    limit: Option<Duration>,
    sql: Cow<'static, str>,
    params: P,
    consumer: Consumer<T>,
) -> Result<Pending<Ended>>
where
    T: FromRow + Send + 'static,
    P: Params + Send + 'static,
{
    queue.check_caller(submission.call)?;
    let query = Query {
        sql,
        params,
        consumer,
        queue: Arc::clone(&queue),
    };
    queue.enqueue::<Pooled, _, _>(submission, limit, query)
}

impl<T, P> Work<Pooled, Ended> for Query<T, P>
where
    T: FromRow + Send + 'static,
    P: Params + Send,
{
    fn run(self, context: InSnapshot<'_, '_>) -> Result<Ended> {
        let token = Arc::new(Token {
            channel: Arc::clone(&self.consumer.channel),
            queue: Arc::clone(&self.queue),
        });
        let InSnapshot { snapshot, limit } = context;
        let closes = Arc::clone(&self.queue);
        let read = || snapshot.read(limit, |tx| self.rows(tx));
        let read = cancellation::with(token, || catch_unwind(AssertUnwindSafe(read)));
        match read {
            Ok(Ok(())) => Ok(Ok(())),
            Err(panic) => Ok(Err(panic)),
            // The token has interrupted it.
            Ok(Err(error)) if closes.is_closed() && is_interrupted(&error) => Err(Error::Closed),
            Ok(Err(error)) => Err(error),
        }
    }
}

impl<T: FromRow, P: Params> Query<T, P> {
    fn rows(self, tx: &ReadTx<'_>) -> Result<()> {
        let Consumer {
            channel,
            idle_timeout,
            counters,
        } = self.consumer;
        let patience = || Patience {
            deadline: tx.deadline(),
            idle: idle_timeout,
        };
        let waited = |time| {
            tx.note_wait(time);
            counters.waited(time);
        };
        let closes = || self.queue.is_closed();
        let mut stopped = None;
        tx.pass_on(&self.sql, self.params, |row: T, bytes| {
            match channel.push(row, bytes, patience, waited, closes) {
                Ok(()) => ControlFlow::Continue(()),
                Err(stop) => {
                    stopped = Some(stop);
                    ControlFlow::Break(())
                }
            }
        })?;
        match stopped {
            None | Some(Stop::ConsumerGone) => Ok(()),
            Some(Stop::Closing) => Err(Error::Closed),
            Some(Stop::Late) => Err(tx.late(&self.sql)),
            Some(Stop::Idle) => {
                counters.was_idle();
                Err(tx.stopped_after(idle_timeout, IDLE, &self.sql))
            }
        }
    }
}

fn is_interrupted(error: &Error) -> bool {
    error.sqlite().and_then(primary_code) == Some(ffi::SQLITE_INTERRUPT)
}

/// Says in the middle of a statement whether the stream is still wanted.
struct Token<T> {
    channel: Arc<RowChannel<T>>,
    queue: Arc<JobQueue<Reads>>,
}

impl<T> Cancelled for Token<T> {
    fn is_cancelled(&self) -> bool {
        self.channel.is_abandoned() || self.queue.is_closed()
    }
}
