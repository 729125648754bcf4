//! A bounded FIFO queue of jobs with an overflow line.
//!
//! A [`QueueKind`] defines what a queue carries. A store has three: that of the writes, served by the writer
//! thread, that of the async reads, served by the reader threads, and that of the streams, served by the stream threads. The threads that serve a queue are its *workers*.
//!
//! # What is shared
//!
//! One mutex guards all jobs, in the order of their arrival (`list.rs`). The first `capacity` jobs are queued. The jobs
//! after them stand in line: the jobs themselves, not their threads. When a job leaves the queue, the first job in line
//! moves up. Blocking and async callers differ only in how they wait for the reply.
//!
//! The mutex is held to insert a job, to remove one and, when the alarm rings, to scan [`BATCH`] of them. Each of these
//! takes the same few steps at any length. A caller that withdraws its job removes it at once, by its [`Ticket`]. A job
//! that is withdrawn but still listed counts as any other, also when it moves up.
//!
//! The thread that holds the seat of the queue's only worker (`write/seat.rs`) works for the queue meanwhile: for as long
//! as the guard of [`JobQueue::work_here`] lives, a call that would wait for the queue is refused on this thread.
//!
//! # Locks
//!
//! A slot's lock (`slot.rs`) is the only lock that may be taken under the mutex: when a job moves up, and when the
//! alarm rings. The wake relay (`wake_relay.rs`), which wakes the tasks of completed reads, has its own lock, which is
//! never held together with the mutex. No closure is dropped under the mutex and no waker is woken under it, because
//! both may call back into the store.
//!
//! # Why no wake-up is lost
//!
//! No job overtakes another, because there is one order. A worker registers as asleep under the lock, after it found no
//! job there. A thread that inserts a job, or closes the queue, decides under the lock whether to call a worker
//! (`workers.rs`), and wakes it after the lock is released. A worker may also be summoned for work that is not a job;
//! that is recorded under the lock, too. A submitter, a thread or a task, leaves its waker under the lock of its slot,
//! where it has seen that its job is in the line. The thread that moves the job up takes the waker under the same lock,
//! and wakes it once the mutex is released. `non_empty` says whether there are jobs. It is written under the lock, for
//! workers that spin before they sleep.
//!
//! The data that the lock guards moves from core to core with the lock. So it is small, no job is read under the lock
//! without need, and `non_empty` is written only when it changes.
//!
//! # Deadlines
//!
//! A blocked caller wakes itself at its deadline; an async caller is woken by the alarm (`deadline.rs`). The task first
//! leaves its waker in the slot, and then sets the alarm, unless the alarm rings as early already. A ring first clears
//! the alarm and then scans the jobs, [`BATCH`] at a time under the lock. A job keeps its entry in the list until it
//! leaves, so the scan misses none. So either the task finds the alarm cleared and sets it, or the scan finds the job
//! and its waker. The woken task withdraws the job itself. (A worker that has taken a job and cannot begin checks the
//! job's deadline itself.)
//!
//! # Closing
//!
//! No job is lost at closing: `closed` is set under the lock, and no job is inserted after that. `discard` removes and
//! drops every job, and a dropped job replies `Closed` to its caller. A worker discards the rest when it ends. The
//! closing thread discards when its time is over, even while a job still runs.

mod deadline;
pub(crate) mod job;
mod list;
pub(crate) mod pending;
pub(crate) mod slot;
pub(crate) mod spin;
mod wake_relay;
mod workers;

use std::cell::Cell;
use std::marker::PhantomData;
use std::mem;
use std::ops::Deref;
use std::task::Waker;
use std::time::Duration;

use crossbeam_utils::CachePadded;

use self::deadline::Alarm;
use self::job::{CompletedJob, Job, JobMeta, Queued, Request, Scope, Work};
pub(crate) use self::list::Ticket;
use self::list::{List, Removed};
use self::pending::{Pending, Queue};
use self::slot::{Caller, wake};
use self::spin::AdaptiveSpin;
use self::wake_relay::{Delivery, WakeRelay};
use self::workers::{Sleep, WATCH, Workers};
use crate::error::{Error, Result};
use crate::options::WhenFull;
use crate::runtime::clock::later;
use crate::runtime::fork::Process;
use crate::runtime::panic::quietly;
use crate::runtime::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::runtime::sync::{Arc, Condvar, Instant, Mutex, MutexGuard, RELAY_TIME, Weak, thread};
use crate::runtime::timer;
use crate::telemetry::call_site::CallSite;
use crate::telemetry::event::CallerSpan;

/// Jobs scanned for their deadlines each time the lock is held.
const BATCH: usize = 128;

/// The jobs that a queue carries, and the errors for callers that it cannot serve.
pub(crate) trait QueueKind: Send + Sync + 'static {
    /// A job of any scope that this queue carries.
    type Job: Deref<Target = dyn Queued> + Send;

    /// The error of [`Queue::too_late`].
    fn too_late(&self, waited: Duration) -> Error;

    /// The error of a worker that would queue a job for itself and wait for it.
    fn nested(&self, call: &'static str) -> Error;

    /// The error of [`Queue::reentrant`].
    fn reentrant(&self, call: &'static str) -> Error;
}

/// A call that queues a job.
pub(crate) struct Submission {
    pub(crate) call: &'static str,
    pub(crate) site: CallSite,
    /// How long the job may wait for its start.
    pub(crate) timeout: Duration,
    pub(crate) caller: Caller,
    pub(crate) when_full: WhenFull,
}

impl Submission {
    /// Makes the job of the call.
    pub(crate) fn request<S: Scope, W, T>(self, order: S::Order, work: W) -> Arc<Request<S, W, T>> {
        let asked = Instant::now();
        let meta = JobMeta {
            site: self.site,
            asked,
            deadline: later(asked, self.timeout),
            span: CallerSpan::current(),
        };
        Arc::new(Request::new(meta, order, work, self.caller))
    }
}

struct Jobs<J> {
    all: List<J>,
    /// High-water mark of the number of jobs.
    deepest: usize,
    workers: Workers,
    /// Whether the worker is summoned for work that is not a job.
    summoned: bool,
}

/// How many jobs no worker has seen, by the reason. The workers count the jobs that they fail themselves.
#[derive(Clone, Copy)]
pub(crate) struct Refusals {
    /// The queue was full, and the caller did not wait.
    pub(crate) full: u64,
    /// The caller has withdrawn the job at its deadline.
    pub(crate) timed_out: u64,
    /// The store was poisoned.
    pub(crate) poisoned: u64,
    /// The store closed before the job started.
    pub(crate) closed: u64,
}

impl Refusals {
    /// By the kind of error that the callers of writes received.
    pub(crate) fn by_kind(&self) -> [(&'static str, u64); 4] {
        [
            ("queue_full", self.full),
            ("queue_timeout", self.timed_out),
            ("poisoned", self.poisoned),
            ("closed", self.closed),
        ]
    }
}

/// All jobs that had arrived by some moment.
#[derive(Clone, Copy)]
pub(crate) struct Sequence(u64);

pub(crate) struct JobQueue<K: QueueKind> {
    id: u64,
    kind: K,
    capacity: usize,
    jobs: CachePadded<Mutex<Jobs<K::Job>>>,
    non_empty: CachePadded<AtomicBool>,
    called: Condvar,
    closed: AtomicBool,
    /// Number of discarded jobs.
    discarded: AtomicU64,
    /// The jobs that no worker has seen, by the reason.
    full: AtomicU64,
    timed_out: AtomicU64,
    poisoned: AtomicU64,
    alarm: Alarm,
    relay: WakeRelay,
    spin: AdaptiveSpin,
    /// The process that the workers live in.
    process: Process,
    /// For the timer, which does not keep the queue alive.
    this: Weak<Self>,
}

/// The number of queues that a thread may work for at a time.
const MOST_QUEUES: usize = 4;

/// A place of [`WORKS_FOR`] without a queue.
const NONE: u64 = 0;

thread_local! {
    /// The queues that this thread works for. A closure that writes to another store works for both queues, and so may
    /// the closure inside it. (The key has no destructor, so that it is there until the thread has ended.)
    static WORKS_FOR: Cell<[u64; MOST_QUEUES]> = const { Cell::new([NONE; MOST_QUEUES]) };
}

/// The calling thread works for a queue until this is dropped.
pub(crate) struct WorksHere {
    place: usize,
    /// Only its own thread may drop it.
    _not_send: PhantomData<*const ()>,
}

impl Drop for WorksHere {
    fn drop(&mut self) {
        let mut queues = WORKS_FOR.get();
        queues[self.place] = NONE;
        WORKS_FOR.set(queues);
    }
}

impl<K: QueueKind> JobQueue<K> {
    pub(crate) fn new(kind: K, capacity: usize, workers: usize, spin: AdaptiveSpin) -> Arc<Self> {
        static QUEUES: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        Arc::new_cyclic(|this| Self {
            id: QUEUES.fetch_add(1, Ordering::Relaxed),
            kind,
            capacity,
            jobs: CachePadded::new(Mutex::new(Jobs {
                all: List::new(capacity),
                deepest: 0,
                workers: Workers::new(workers),
                summoned: false,
            })),
            non_empty: CachePadded::default(),
            called: Condvar::new(),
            closed: AtomicBool::new(false),
            discarded: AtomicU64::new(0),
            full: AtomicU64::new(0),
            timed_out: AtomicU64::new(0),
            poisoned: AtomicU64::new(0),
            alarm: Alarm::new(),
            relay: WakeRelay::default(),
            spin,
            process: Process::current(),
            this: Weak::clone(this),
        })
    }

    pub(crate) fn kind(&self) -> &K {
        &self.kind
    }

    /// Refuses a call that no worker can serve: in a forked child, or on a worker's own thread.
    pub(crate) fn check_caller(&self, call: &'static str) -> Result<()> {
        if self.is_left() {
            return Err(Error::forked());
        }
        if self.is_worker() {
            return Err(self.kind.nested(call));
        }
        Ok(())
    }

    /// Queues a job and returns the caller's handle to its reply.
    pub(crate) fn enqueue<S, W, T>(
        self: Arc<Self>,
        submission: Submission,
        order: S::Order,
        work: W,
    ) -> Result<Pending<T>>
    where
        S: Scope,
        Job<S>: Into<K::Job>,
        W: Work<S, T> + 'static,
        T: Send + 'static,
    {
        let when_full = submission.when_full;
        self.enqueue_request(submission.request(order, work), when_full)
    }

    /// As [`enqueue`](Self::enqueue), for a job that is made already.
    pub(crate) fn enqueue_request<S, W, T>(
        self: Arc<Self>,
        request: Arc<Request<S, W, T>>,
        when_full: WhenFull,
    ) -> Result<Pending<T>>
    where
        S: Scope,
        Job<S>: Into<K::Job>,
        W: Work<S, T> + 'static,
        T: Send + 'static,
    {
        let (asked, deadline) = (request.meta().asked, request.meta().deadline);
        let ticket = self.put(Job::new(Arc::clone(&request)).into(), when_full);
        let ticket = ticket.map_err(|error| error.with_site(|| request.meta().site.to_string()))?;
        Ok(Pending::new(request, self, ticket, asked, deadline))
    }

    /// How many jobs the queue holds before the others stand in line.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Counts a job that finds no room, and returns its error.
    pub(crate) fn refuse_full(&self) -> Error {
        self.full.fetch_add(1, Ordering::Relaxed);
        Error::QueueFull {
            capacity: self.capacity,
            context: None,
        }
    }

    fn put(&self, job: K::Job, when_full: WhenFull) -> Result<Ticket> {
        let mut jobs = self.lock();
        let is_full = jobs.all.is_full();
        let refused = match when_full {
            _ if self.is_closed() => Some(Error::Closed),
            WhenFull::Fail if is_full => Some(self.refuse_full()),
            _ => None,
        };
        if let Some(error) = refused {
            drop(jobs);
            drop(job);
            return Err(error);
        }
        if is_full {
            job.get_in_line();
        }
        let ticket = jobs.all.push(job);
        let length = jobs.all.len();
        jobs.deepest = jobs.deepest.max(length);
        if length == 1 {
            self.non_empty.store(true, Ordering::Relaxed);
        }
        let call = jobs.workers.call(length);
        drop(jobs);
        if call {
            self.called.notify_one();
        }
        Ok(ticket)
    }

    /// For a worker: takes the next job, if there is one.
    pub(crate) fn pop(&self) -> Option<K::Job> {
        if !self.non_empty.load(Ordering::Relaxed) {
            return None;
        }
        self.pop_from(self.lock())
    }

    /// The jobs that have arrived by now, including those already taken.
    pub(crate) fn sequence(&self) -> Sequence {
        Sequence(self.lock().all.pushed())
    }

    /// The jobs that have arrived by now, or `None` if the queue is empty.
    pub(crate) fn sequence_if_non_empty(&self) -> Option<Sequence> {
        self.non_empty.load(Ordering::Relaxed).then(|| self.sequence())
    }

    /// For a worker: takes the next job, if it belongs to that sequence.
    pub(crate) fn pop_before(&self, those: Sequence) -> Option<K::Job> {
        if !self.non_empty.load(Ordering::Relaxed) {
            return None;
        }
        let jobs = self.lock();
        let is_one = jobs.all.first().is_some_and(|(_, number)| number < those.0);
        if is_one { self.pop_from(jobs) } else { None }
    }

    /// For a worker: records the time of one job, an average over the jobs of its group.
    pub(crate) fn took(&self, each: Duration) {
        self.lock().workers.took(each.as_nanos() as u64);
    }

    /// For a worker: sleeps until there is a job, and takes it. `None` once the queue is closed and empty.
    pub(crate) fn sleep(&self) -> Option<K::Job> {
        let mut jobs = self.lock();
        while jobs.all.is_empty() && !self.is_closed() {
            (jobs, _) = self.sleep_once(jobs, None);
        }
        self.pop_from(jobs)
    }

    /// For the only worker of a queue: sleeps until there is a job, which it does not take, or until the queue closes, it
    /// is [summoned](Self::summon), or its patience (if any) runs out. The job may have been withdrawn by then.
    pub(crate) fn rest(&self, patience: Option<Duration>) {
        let mut jobs = self.lock();
        if jobs.all.is_empty() && !self.is_closed() && !jobs.summoned {
            (jobs, _) = self.sleep_once(jobs, patience);
        }
        jobs.summoned = false;
    }

    /// Ends the [rest](Self::rest) of the worker, or its next one.
    pub(crate) fn summon(&self) {
        let mut jobs = self.lock();
        jobs.summoned = true;
        let call = jobs.workers.call_any();
        drop(jobs);
        if call {
            self.called.notify_one();
        }
    }

    /// Sleeps until the worker is called, finds a job that no other takes, or runs out of patience, and returns whether
    /// that was so. A spurious wake-up does not end it.
    fn sleep_once<'a>(
        &self,
        mut jobs: MutexGuard<'a, Jobs<K::Job>>,
        patience: Option<Duration>,
    ) -> (MutexGuard<'a, Jobs<K::Job>>, bool) {
        let mut sleep = jobs.workers.fall_asleep();
        loop {
            let on_watch = matches!(sleep, Sleep::OnWatch(_));
            let timed_out;
            (jobs, timed_out) = self.wait(jobs, if on_watch { Some(WATCH) } else { patience });
            if jobs.workers.answer_call(&sleep) {
                return (jobs, false);
            }
            let queued = jobs.all.len();
            let patience_is_over = timed_out && !on_watch;
            let found = timed_out && jobs.workers.look(&mut sleep, queued);
            if patience_is_over || found || self.is_closed() {
                jobs.workers.wake_up(&sleep);
                return (jobs, patience_is_over);
            }
        }
    }

    /// Waits for at most `patience`, and returns whether that time is over.
    fn wait<'a>(
        &self,
        jobs: MutexGuard<'a, Jobs<K::Job>>,
        patience: Option<Duration>,
    ) -> (MutexGuard<'a, Jobs<K::Job>>, bool) {
        match patience {
            Some(patience) => self.called.wait_timeout(jobs, patience),
            None => (self.called.wait(jobs), false),
        }
    }

    fn pop_from(&self, mut jobs: MutexGuard<'_, Jobs<K::Job>>) -> Option<K::Job> {
        let (job, moved_up) = Self::leave(jobs.all.pop()?);
        let left = jobs.all.len();
        if left == 0 {
            self.non_empty.store(false, Ordering::Relaxed);
        }
        let call = jobs.workers.taken(left);
        drop(jobs);
        if call {
            self.called.notify_one();
        }
        wake_submitter(moved_up);
        Some(job)
    }

    /// A job leaves the queue or the line, to be run or dropped without the lock. The first job in line may move up: the
    /// waker of its submitter is to be woken without the lock.
    fn leave(removed: Removed<'_, K::Job>) -> (K::Job, Option<Waker>) {
        let moved_up = removed.moves_up.and_then(|first_in_line| first_in_line.leave_line());
        (removed.item, moved_up)
    }

    /// Refuses further jobs. Jobs that are queued or in line stay.
    pub(crate) fn close(&self) {
        let jobs = self.lock();
        self.closed.store(true, Ordering::SeqCst);
        drop(jobs);
        self.called.notify_all();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Drops every job that is queued or in line. Each drop replies to its caller that the job was not started.
    pub(crate) fn discard(&self) {
        let mut jobs = self.lock();
        let rest = jobs.all.take_all();
        self.non_empty.store(false, Ordering::Relaxed);
        drop(jobs);
        let rest: Vec<_> = rest.collect();
        let wanted = rest.iter().filter(|job| !job.is_withdrawn()).count();
        self.discarded.fetch_add(wanted as u64, Ordering::SeqCst);
        drop(rest);
    }

    /// Number of discarded jobs.
    pub(crate) fn discarded(&self) -> u64 {
        self.discarded.load(Ordering::SeqCst)
    }

    /// Counts a job that was refused because the store is poisoned.
    pub(crate) fn count_poisoned(&self) {
        self.poisoned.fetch_add(1, Ordering::Relaxed);
    }

    /// The jobs that no worker has seen.
    pub(crate) fn refusals(&self) -> Refusals {
        Refusals {
            full: self.full.load(Ordering::Relaxed),
            timed_out: self.timed_out.load(Ordering::Relaxed),
            poisoned: self.poisoned.load(Ordering::Relaxed),
            closed: self.discarded(),
        }
    }

    /// Whether no job is queued or in line. A job is seen by the thread that has queued it, and by those that it has told
    /// since, as long as it is there.
    pub(crate) fn is_empty(&self) -> bool {
        !self.non_empty.load(Ordering::Relaxed)
    }

    /// Number of jobs, queued or in line.
    pub(crate) fn length(&self) -> usize {
        self.lock().all.len()
    }

    /// The wait so far of the job that is next.
    pub(crate) fn longest_wait(&self, now: Instant) -> Duration {
        let jobs = self.lock();
        let first = jobs.all.first();
        first.map_or(Duration::ZERO, |(job, _)| {
            now.saturating_duration_since(job.meta().asked)
        })
    }

    /// High-water mark of [`length`](Self::length).
    pub(crate) fn deepest(&self) -> usize {
        self.lock().deepest
    }

    /// For a worker: delivers the reply of an async read. Its task is woken by this thread or by another task. Returns
    /// whether this thread woke any task.
    pub(crate) fn deliver(&self, completed: CompletedJob) -> bool {
        match self.relay.deliver(completed) {
            Delivery::Woken => true,
            Delivery::Waits => false,
            Delivery::SetTimer => {
                let this = Weak::clone(&self.this);
                timer::at(Instant::now() + RELAY_TIME, move || {
                    if let Some(this) = this.upgrade() {
                        this.relay.ring();
                    }
                });
                false
            }
        }
    }

    /// For a worker without a job: wakes the tasks that another task was to wake.
    pub(crate) fn deliver_all(&self) {
        self.relay.wake_all();
    }

    fn ring(&self, at: u64) {
        if !self.alarm.rings(at) {
            return;
        }
        let mut wakers = Vec::new();
        let mut next: Option<Instant> = None;
        let now = Instant::now();
        let mut looking = Duration::ZERO;
        let mut from = 0;
        loop {
            wakers.reserve(BATCH);
            let jobs = self.lock();
            let began = Instant::now();
            for job in jobs.all.in_entries(from, BATCH).filter(|job| !job.is_withdrawn()) {
                let deadline = job.meta().deadline;
                if deadline <= now {
                    wakers.extend(job.take_waker());
                } else {
                    next = Some(next.map_or(deadline, |next| next.min(deadline)));
                }
            }
            from += BATCH;
            let is_last = from >= jobs.all.entries();
            drop(jobs);
            looking += began.elapsed();
            if is_last {
                break;
            }
            // Other threads need the lock, too.
            thread::yield_now();
        }
        self.alarm.pause(looking, Instant::now());
        if let Some(next) = next {
            self.wake_at(next);
        }
        for waker in wakers {
            quietly(|| waker.wake());
        }
    }

    /// Marks the calling thread as one of the workers, until it ends.
    pub(crate) fn become_worker(&self) {
        let works = self.work_here();
        mem::forget(works.expect("a thread that has just begun works for no queue"));
    }

    /// Marks the calling thread as a worker for as long as the guard lives. `None` if it works for too many queues.
    pub(crate) fn work_here(&self) -> Option<WorksHere> {
        let mut queues = WORKS_FOR.get();
        let place = queues.iter().position(|queue| *queue == NONE)?;
        queues[place] = self.id;
        WORKS_FOR.set(queues);
        Some(WorksHere {
            place,
            _not_send: PhantomData,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Jobs<K::Job>> {
        self.jobs.lock()
    }
}

/// Wakes the submitter of a job that has moved up. A runtime's waker is user code, which must not end a worker.
fn wake_submitter(waker: Option<Waker>) {
    if waker.is_some() {
        quietly(|| wake(waker));
    }
}

impl<K: QueueKind> Queue for JobQueue<K> {
    fn is_left(&self) -> bool {
        self.process.is_left()
    }

    fn is_worker(&self) -> bool {
        WORKS_FOR.get().contains(&self.id)
    }

    fn spin(&self) -> &AdaptiveSpin {
        &self.spin
    }

    fn withdrawn(&self, ticket: Ticket) {
        let mut jobs = self.lock();
        let removed = jobs.all.remove(ticket).map(Self::leave);
        if jobs.all.is_empty() {
            self.non_empty.store(false, Ordering::Relaxed);
        }
        drop(jobs);
        if let Some((job, moved_up)) = removed {
            wake_submitter(moved_up);
            drop(job);
        }
    }

    fn timed_out(&self) {
        self.timed_out.fetch_add(1, Ordering::Relaxed);
    }

    fn fetched(&self, id: usize) {
        self.relay.fetched(id);
    }

    fn wake_at(&self, deadline: Instant) {
        if let Some(at) = self.alarm.set(deadline) {
            let this = Weak::clone(&self.this);
            timer::at(self.alarm.time(at), move || {
                if let Some(this) = this.upgrade() {
                    this.ring(at);
                }
            });
        }
    }

    fn too_late(&self, waited: Duration) -> Error {
        self.kind.too_late(waited)
    }

    fn reentrant(&self, call: &'static str) -> Error {
        self.kind.reentrant(call)
    }
}
