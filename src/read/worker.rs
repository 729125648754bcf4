//! The threads that make the reads that tasks wait for, some of them in one snapshot.
//!
//! There are as many as connections in the pool, started when the first task reads. Each takes the first job of the
//! queue, borrows a connection, begins a snapshot, runs the job, and then those behind it, one at a time, as long as
//! each had come into the queue before the snapshot began: so it is as new as every write that was acknowledged before
//! the read was asked for. Then it gives the connection back, and begins anew. Such a group is bounded in number and in
//! time, and it owns nothing but the job it runs: while that takes long the others are in the queue for other threads
//! (`queue/workers.rs`). Jobs that have come since may join it if nobody has committed anything since it began
//! (`freshness.rs`): which jobs those are is noted before it is looked.
//!
//! Each job has its reply as its closure ends; who wakes its task is the matter of `queue/wake_relay.rs`. A thread that
//! finds no job first wakes those who wait there, if it has left any; so does one that tells of slow reads, once it has
//! given the connection back. A panic is caught (`queue/job.rs`). What a closure has
//! set on the connection is put right before the next one; one that ended the transaction, or left a statement open, is
//! the last of its group.
//!
//! A job whose task has gone away meanwhile is stopped by the progress handler of its connection, which asks which job
//! its own thread runs. So it can hit no other job, however late it comes.

use std::mem;
use std::time::Duration;

use super::context::{InSnapshot, Pooled, Reads};
use super::freshness::{Freshness, Version};
use super::{CLOSE_POLL, CheckedOut, Readers};
use crate::error::{Error, Result};
use crate::options::WhenFull;
use crate::queue::job::{Job, Resolution};
use crate::queue::pending::Queue;
use crate::queue::{JobQueue, Sequence, Slept};
use crate::runtime::fork;
use crate::runtime::panic::caught;
use crate::runtime::sync::atomic::Ordering;
use crate::runtime::sync::{Arc, Instant, thread};
use crate::telemetry::event::event;

/// At most so many reads share a snapshot.
const GROUP_JOBS: u32 = 256;

/// No further read joins a snapshot that is so old.
const GROUP_TIME: Duration = Duration::from_millis(4);

/// After this time a thread that the operating system did not give is asked for again.
const RETRY: Duration = Duration::from_secs(1);

/// The reader threads that were started.
#[derive(Default)]
pub(super) struct Started {
    threads: u32,
    /// When the operating system last gave none for the next one.
    failed: Option<Instant>,
}

impl Readers {
    /// The queue of the reads that tasks wait for. Starts the threads that serve it.
    ///
    /// # Errors
    ///
    /// [`Error::Open`] if the operating system gives no thread. The next call tries again. [`Error::Forked`].
    pub(crate) fn queue(self: &Arc<Self>) -> Result<Arc<JobQueue<Reads>>> {
        if self.queue.is_left() {
            return Err(Error::forked());
        }
        if !self.threads_run.load(Ordering::Acquire) {
            let mut started = self.starting_threads.lock();
            let pauses = started.failed.is_some_and(|failed| failed.elapsed() < RETRY);
            let mut fewer = None;
            if !self.threads_run.load(Ordering::Acquire) && !self.queue.is_closed() && !pauses {
                fewer = self.start_threads(&mut started)?;
            }
            drop(started);
            // Without the lock: the subscriber may read from the store.
            if let Some(threads) = fewer {
                event!(
                    warn,
                    "larder::read",
                    self.path,
                    { threads, wanted = self.size },
                    "the operating system gave fewer threads for reads than there are connections"
                );
            }
        }
        Ok(Arc::clone(&self.queue))
    }

    /// That queue, if all its threads have been started.
    pub(crate) fn served_queue(&self) -> Option<Arc<JobQueue<Reads>>> {
        self.threads_run
            .load(Ordering::Acquire)
            .then(|| Arc::clone(&self.queue))
    }

    /// Whether the calling thread is one of those.
    pub(crate) fn is_reader_thread(&self) -> bool {
        self.queue.is_worker()
    }

    /// Starts those that are missing. Gives their number if the system gave fewer, the first time that it did.
    fn start_threads(self: &Arc<Self>, started: &mut Started) -> Result<Option<u32>> {
        while started.threads < self.size {
            let readers = Arc::clone(self);
            let thread = thread::Builder::new().name(format!("larder-read-{}", started.threads));
            let Err(error) = thread.spawn(move || readers.serve()) else {
                started.threads += 1;
                continue;
            };
            if started.threads == 0 {
                return Err(Error::no_thread(&self.path, "its reads", error));
            }
            // Those that there are serve all reads. A later call tries again.
            let is_first = started.failed.replace(Instant::now()).is_none();
            return Ok(is_first.then_some(started.threads));
        }
        self.threads_run.store(true, Ordering::Release);
        Ok(None)
    }

    fn serve(&self) {
        self.queue.become_worker();
        let mut freshness = Freshness::new(self);
        // Whether tasks may still be waiting to be woken by others, for reads of this thread.
        let mut left = false;
        while let Some(job) = self.next(&mut left) {
            if job.is_withdrawn() {
                continue;
            }
            // Closures and wakers are caught where they are called. The thread is to outlive a bug of larder's, too.
            let read = || {
                if let Err((job, error)) = self.read_group(job, &mut freshness, &mut left) {
                    fail(job, error);
                }
            };
            if caught(read).is_none() {
                event!(
                    error,
                    "larder::read",
                    self.path,
                    { "error.type" = "panic" },
                    "a reader thread panicked, outside of any closure: please report it"
                );
            }
        }
    }

    /// The job to begin a group with; `None` once the store has closed.
    fn next(&self, left: &mut bool) -> Option<Job<Pooled>> {
        if self.queue.is_left() {
            // User code has forked on this thread, and returned in the child.
            fork::end_child();
        }
        let awake = self.queue.pop().or_else(|| {
            if mem::take(left) {
                self.queue.deliver_all();
            }
            let spin = self.queue.spin();
            spin.spin_for_job(|| self.queue.pop())
        });
        awake.or_else(|| match self.queue.sleep(None) {
            Slept::Job(job) => Some(job),
            Slept::Closed | Slept::Long => None,
        })
    }

    /// # Errors
    ///
    /// The first job, if it could not be started.
    fn read_group(
        &self,
        first: Job<Pooled>,
        freshness: &mut Freshness<'_>,
        left: &mut bool,
    ) -> std::result::Result<(), (Job<Pooled>, Error)> {
        let mut checked_out = match self.check_out_for(&first) {
            Ok(checked_out) => checked_out,
            Err(error) => return Err((first, error)),
        };
        let seen = freshness.seen();
        let mut those = self.queue.sequence();
        let began = Instant::now();
        let mut snapshot = match self.begin(checked_out.reader(), first.meta().site.clone()) {
            Ok(snapshot) => snapshot,
            Err(error) => return Err((first, error)),
        };
        // When those that came so far began, for their deadlines.
        let mut joined = began;
        let mut jobs = 0;
        let mut next = Some(first);
        while let Some(job) = next {
            jobs += 1;
            if jobs > 1 {
                snapshot.enter(job.meta().site.clone());
            }
            let mut paused = true;
            if joined >= job.meta().deadline {
                let waited = job.meta().asked.elapsed();
                fail(job, self.queue.too_late(waited));
            } else if job.start() {
                let limit = *job.order();
                let snapshot = &mut snapshot;
                paused = self.queue.deliver(job.answer(InSnapshot { snapshot, limit }));
                *left = !paused;
            }
            if paused {
                snapshot.pause();
            }
            let over = jobs == GROUP_JOBS || snapshot.since() - began >= GROUP_TIME || !snapshot.serves_more();
            if over {
                break;
            }
            next = self.queue.pop_before(those);
            if next.is_none()
                && let Some(newer) = self.who_may_join(seen, freshness)
            {
                those = newer;
                snapshot.pause();
                joined = snapshot.since();
                next = self.queue.pop_before(those);
            }
        }
        drop(snapshot);
        self.queue.took(began.elapsed() / jobs);
        let slow = checked_out.give_back();
        if !slow.is_empty() {
            // A subscriber may take its time, which no task waits for.
            if mem::take(left) {
                self.queue.deliver_all();
            }
            self.report_slow(slow);
        }
        Ok(())
    }

    /// The jobs that have come by now, if there are any and nobody has committed anything since that was seen.
    fn who_may_join(&self, seen: Option<Version>, freshness: &mut Freshness<'_>) -> Option<Sequence> {
        let sequence = self.queue.sequence_if_non_empty()?;
        freshness.is_latest(seen).then_some(sequence)
    }

    /// A connection for the job, within its time.
    fn check_out_for(&self, job: &Job<Pooled>) -> Result<CheckedOut<'_>> {
        loop {
            let left = job.meta().deadline.saturating_duration_since(Instant::now());
            match self.check_out(left.min(CLOSE_POLL), WhenFull::Wait, false) {
                Ok(checked_out) => {
                    self.queue.kind().note_trouble(None);
                    return Ok(checked_out);
                }
                Err(Error::ReadQueueTimeout { last_error, .. }) => {
                    self.queue.kind().note_trouble(last_error);
                    if job.is_withdrawn() || left <= CLOSE_POLL {
                        return Err(self.queue.too_late(job.meta().asked.elapsed()));
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Tells the job that it was not started, unless its task does not wait any more.
fn fail(job: Job<Pooled>, error: Error) {
    if job.start() {
        job.finish(Resolution::Failed(error));
    }
}
