//! The reader threads, which run async reads, several of them in one snapshot.
//!
//! There are as many reader threads as connections in the pool, started by the first async read. A reader thread takes
//! the first job of the queue, borrows a connection, begins a snapshot and runs the job. It then runs the jobs behind
//! it, one at a time, as long as each of them arrived in the queue before the snapshot began. So the snapshot includes
//! every write that was acknowledged before the read was requested. Then the thread returns the connection, and starts
//! again. Such a group is bounded in number and in time, and it owns only the job that runs: during a long job, the
//! others stay in the queue for other threads (`queue/workers.rs`). Later jobs may join the group if no connection has
//! committed since it began (`freshness.rs`). The set of those jobs is recorded before that check.
//!
//! Each job has its reply when its closure ends; `queue/wake_relay.rs` decides which thread wakes its task. A thread
//! that finds no job first wakes the tasks that wait there, if it has left any replies. So does a thread that reports
//! slow reads, once it has returned the connection. A panic is caught (`queue/job.rs`). Settings that a closure has
//! changed on the connection are restored before the next closure. A closure that ended the transaction, or left a
//! statement open, is the last of its group.
//!
//! A job whose task has gone away is stopped by the progress handler of its connection, which checks the job that its
//! own thread runs. So the handler cannot stop another job, however late it runs.

use std::mem;
use std::time::Duration;

use super::context::{InSnapshot, Pooled, Reads};
use super::freshness::{Freshness, Version};
use super::{CLOSE_POLL, CheckedOut, Readers, Snapshot};
use crate::error::{Error, Result};
use crate::options::WhenFull;
use crate::queue::job::{Job, Resolution};
use crate::queue::pending::Queue;
use crate::queue::{JobQueue, Sequence};
use crate::runtime::fork;
use crate::runtime::panic::caught;
use crate::runtime::sync::atomic::Ordering;
use crate::runtime::sync::{Arc, Instant, thread};
use crate::telemetry::event::event;

/// Upper bound of the reads that share a snapshot.
const GROUP_JOBS: u32 = 256;

/// Age of a snapshot after which no further read joins it.
const GROUP_TIME: Duration = Duration::from_millis(4);

/// Pause before the operating system is asked again for a thread that it refused.
const RETRY: Duration = Duration::from_secs(1);

/// The reader threads that were started.
#[derive(Default)]
pub(super) struct Started {
    threads: u32,
    /// When the operating system last refused the next thread.
    failed: Option<Instant>,
}

impl Readers {
    /// The queue of the async reads. Starts the threads that serve it.
    ///
    /// # Errors
    ///
    /// [`Error::Open`] if the operating system refuses the first thread; the next call tries again. [`Error::Forked`].
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
            // Without the lock, because the subscriber may read from the store.
            if let Some(threads) = fewer {
                event!(
                    warn,
                    "larder::read",
                    self.path,
                    { threads, wanted = self.size },
                    "the operating system refused a reader thread, so there are fewer reader threads than connections"
                );
            }
        }
        Ok(Arc::clone(&self.queue))
    }

    /// The queue of the async reads, if all its threads have been started.
    pub(crate) fn served_queue(&self) -> Option<Arc<JobQueue<Reads>>> {
        self.threads_run
            .load(Ordering::Acquire)
            .then(|| Arc::clone(&self.queue))
    }

    /// Whether the calling thread is a reader thread.
    pub(crate) fn is_reader_thread(&self) -> bool {
        self.queue.is_worker()
    }

    /// Starts the missing threads. Returns their number if the system first gave fewer than wanted.
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
            // The threads that run serve all reads. A later call tries again.
            let is_first = started.failed.replace(Instant::now()).is_none();
            return Ok(is_first.then_some(started.threads));
        }
        self.threads_run.store(true, Ordering::Release);
        Ok(None)
    }

    fn serve(&self) {
        self.queue.become_worker();
        let mut freshness = Freshness::new(self);
        // Whether tasks may still wait for another task to wake them, for reads of this thread.
        let mut left = false;
        while let Some(job) = self.next(&mut left) {
            if job.is_withdrawn() {
                continue;
            }
            // Panics of closures and wakers are caught where they are called. Here, the thread also survives a bug in
            // larder.
            let read = || {
                if let Err((job, error)) = self.read_group(job, &mut freshness, &mut left) {
                    fail(&self.queue, job, error);
                }
            };
            if caught(read).is_none() {
                event!(
                    error,
                    "larder::read",
                    self.path,
                    { "error.type" = "panic" },
                    "a reader thread panicked, outside any closure; please report this bug"
                );
            }
        }
    }

    /// The first job of the next group; `None` once the store has closed.
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
        awake.or_else(|| self.queue.sleep())
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
        let mut checked_out = match self.check_out_for(&self.queue, &first) {
            Ok(checked_out) => checked_out,
            Err(error) => return Err((first, error)),
        };
        let seen = freshness.seen();
        let members = self.queue.sequence();
        let began = Instant::now();
        let mut snapshot = match self.begin(checked_out.reader(), first.meta().site.clone()) {
            Ok(snapshot) => snapshot,
            Err(error) => return Err((first, error)),
        };
        let mut group = Group {
            queue: &self.queue,
            freshness,
            seen,
            members,
            began,
            joined: began,
            jobs: 1,
        };
        let mut next = Some(first);
        while let Some(job) = next {
            self.run(job, group.joined, &mut snapshot, left);
            next = group.next(&mut snapshot);
        }
        let jobs = group.jobs;
        drop(snapshot);
        self.queue.took(began.elapsed() / jobs);
        let slow = checked_out.give_back();
        if !slow.is_empty() {
            // A subscriber may be slow, and no task should wait for it.
            if mem::take(left) {
                self.queue.deliver_all();
            }
            self.report_slow(slow);
        }
        Ok(())
    }

    /// Runs one job and delivers its reply. Its deadline is compared with `joined`, the moment it got the snapshot. `left`
    /// is set if the reply of this thread may wait for another thread to wake its task.
    fn run(&self, job: Job<Pooled>, joined: Instant, snapshot: &mut Snapshot<'_>, left: &mut bool) {
        let mut paused = true;
        if joined >= job.meta().deadline {
            let waited = job.meta().asked.elapsed();
            fail(&self.queue, job, self.queue.too_late(waited));
        } else if job.start() {
            let limit = *job.order();
            let context = InSnapshot {
                snapshot: &mut *snapshot,
                limit,
            };
            paused = self.queue.deliver(job.answer(context));
            *left = !paused;
        }
        if paused {
            snapshot.pause();
        }
    }

    /// Borrows a connection for a job of that queue, before its deadline.
    pub(super) fn check_out_for(&self, queue: &JobQueue<Reads>, job: &Job<Pooled>) -> Result<CheckedOut<'_>> {
        let mut waits = false;
        loop {
            let left = job.meta().deadline.saturating_duration_since(Instant::now());
            let patience = left.min(CLOSE_POLL);
            let checked_out = if mem::replace(&mut waits, true) {
                self.check_out_again(patience)
            } else {
                self.check_out(patience, WhenFull::Wait, false)
            };
            match checked_out {
                Ok(checked_out) => {
                    queue.kind().note_trouble(None);
                    return Ok(checked_out);
                }
                Err(Error::ReadQueueTimeout { last_error, .. }) => {
                    queue.kind().note_trouble(last_error);
                    if job.is_withdrawn() || left <= CLOSE_POLL {
                        return Err(queue.too_late(job.meta().asked.elapsed()));
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Fails a job that was not started, unless its task has gone away.
pub(super) fn fail(queue: &JobQueue<Reads>, job: Job<Pooled>, error: Error) {
    if !job.start() {
        return;
    }
    if matches!(error, Error::ReadQueueTimeout { .. }) {
        queue.timed_out();
    }
    let error = error.with_site(|| job.meta().site.to_string());
    job.finish(Resolution::Failed(error));
}

/// The jobs that share one snapshot.
struct Group<'a, 'r> {
    queue: &'a JobQueue<Reads>,
    freshness: &'a mut Freshness<'r>,
    /// The version of the database before the snapshot began.
    seen: Option<Version>,
    /// The jobs for which the snapshot is new enough.
    members: Sequence,
    began: Instant,
    /// When the newest members joined, for their deadlines.
    joined: Instant,
    jobs: u32,
}

impl Group<'_, '_> {
    /// Pops the next job, if it may run in this snapshot.
    fn next(&mut self, snapshot: &mut Snapshot<'_>) -> Option<Job<Pooled>> {
        let is_old = snapshot.since() - self.began >= GROUP_TIME;
        if self.jobs == GROUP_JOBS || is_old || !snapshot.serves_more() {
            return None;
        }
        let next = self.queue.pop_before(self.members).or_else(|| {
            self.admit()?;
            snapshot.pause();
            self.joined = snapshot.since();
            self.queue.pop_before(self.members)
        })?;
        self.jobs += 1;
        snapshot.enter(next.meta().site.clone());
        Some(next)
    }

    /// Admits the jobs that have arrived by now, if there are any and no connection has committed since `seen`.
    fn admit(&mut self) -> Option<()> {
        let newer = self.queue.sequence_if_non_empty()?;
        self.freshness.is_latest(self.seen).then(|| self.members = newer)
    }
}
