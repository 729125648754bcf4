//! First come, first served: a bounded queue of jobs, and the line behind it.
//!
//! There are two in a store: that of the writes, which the writer thread serves, and that of the reads that tasks wait
//! for, which some reader threads serve. The threads that take jobs are its *workers*.
//!
//! One mutex guards all jobs, in the order in which they came. The first `capacity` of them are queued. Those after
//! them stand in line: the jobs themselves, not their threads. As a worker takes a job from the front, the first in
//! line moves up into the queue. Blocking and async callers differ only in how they wait for the reply.
//!
//! The mutex is held to put a job in, to take one out, and to look through them. The only lock that may be taken under
//! it is a slot's (`pending.rs`), when a job moves up and when the alarm rings. The relay (`relay.rs`), which wakes
//! the tasks whose reads are done, has a lock of its own, which is never held together with it. No closure is ever
//! dropped under it, and no waker of a runtime's woken, since they may call back into the store.
//!
//! Nobody overtakes, since there is one order. No wake-up is lost: a worker says that it sleeps under the lock, after
//! it has found no job there, and who puts a job in, or closes, decides under the lock whether to call one
//! (`workers.rs`), and then wakes it. `some` is whether there are jobs, written under the lock, for those who look again
//! and again before they sleep.
//!
//! What the lock guards goes from core to core with it. So it is little, no job is looked at under it without need, and
//! `some` is written only when it changes.
//!
//! Whoever waits on a thread wakes up by itself at its deadline. A task is woken by the alarm (`alarm.rs`): it leaves
//! its waker at the slot first, and then sets the alarm, if that is not set for as early a time. When it rings it is
//! first taken as not set, and then the jobs are looked through under the lock. So a task either finds the alarm not
//! set, and sets it, or its job and its waker are found. It withdraws the job itself. (A worker that has taken a job
//! and cannot begin looks at its deadline itself.)
//!
//! Nothing is lost at closing: `closed` is set under the lock, and after that no job is put in. `discard` takes every
//! job out and drops it, and a job that is dropped tells its caller `Closed`. A worker discards what is left when it
//! ends; a closer discards when its time is over, though a job is still run.

mod alarm;
mod relay;
mod workers;

use std::cell::Cell;
use std::collections::VecDeque;
use std::mem;
use std::time::Duration;

use self::alarm::Alarm;
use self::relay::{Relay, Told};
use self::workers::{Sleep, WATCH, Workers};
use crate::apart::Apart;
use crate::error::{Error, Result};
use crate::handoff::Handoff;
use crate::job::{Answered, Job, quietly};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Arc, Condvar, Instant, Mutex, MutexGuard, PoisonError, RELAY_TIME};
use crate::timer;

/// What a worker's sleep came to.
pub(crate) enum Slept {
    Job(Job),
    Closed,
    /// Nothing came in the time that it had.
    Long,
}

/// What the jobs are.
pub(crate) enum Kind {
    Writes,
    Reads { readers: u32 },
}

struct Jobs {
    /// The queue, then the line.
    all: VecDeque<Job>,
    /// How many there ever were.
    came: u64,
    /// About how many of `all` were withdrawn.
    withdrawn: usize,
    /// The most that there were at once.
    deepest: usize,
    workers: Workers,
}

/// The jobs that had come by some moment.
#[derive(Clone, Copy)]
pub(crate) struct Came(u64);

pub(crate) struct Admission {
    id: u64,
    kind: Kind,
    capacity: usize,
    jobs: Apart<Mutex<Jobs>>,
    some: Apart<AtomicBool>,
    called: Condvar,
    closed: AtomicBool,
    /// Jobs that were discarded.
    discarded: AtomicU64,
    /// Why a worker could not begin, of late: for those whose time is over meanwhile.
    trouble: Mutex<Option<String>>,
    alarm: Alarm,
    relay: Relay,
    handoff: Handoff,
}

thread_local! {
    /// The queue whose worker this thread is; 0 for none.
    static WORKS_FOR: Cell<u64> = const { Cell::new(0) };
}

impl Admission {
    pub(crate) fn new(kind: Kind, capacity: usize, workers: usize, handoff: Handoff) -> Self {
        static QUEUES: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        Self {
            id: QUEUES.fetch_add(1, Ordering::Relaxed),
            kind,
            capacity,
            jobs: Apart(Mutex::new(Jobs {
                all: VecDeque::new(),
                came: 0,
                withdrawn: 0,
                deepest: 0,
                workers: Workers::new(workers),
            })),
            some: Apart::default(),
            called: Condvar::new(),
            closed: AtomicBool::new(false),
            discarded: AtomicU64::new(0),
            trouble: Mutex::new(None),
            alarm: Alarm::new(),
            relay: Relay::default(),
            handoff,
        }
    }

    /// Queues the job, or puts it in line.
    pub(crate) fn enqueue(&self, job: Job) -> Result<()> {
        let jobs = self.lock();
        if jobs.all.len() >= self.capacity {
            job.get_in_line();
        }
        self.put(jobs, job)
    }

    /// Queues the job if there is room for it and nobody in line.
    pub(crate) fn try_enqueue(&self, job: Job) -> Result<()> {
        let mut jobs = self.lock();
        let mut gone = VecDeque::new();
        if jobs.all.len() >= self.capacity && jobs.withdrawn > 0 {
            gone = self.sweep(&mut jobs);
        }
        let result = if jobs.all.len() < self.capacity || self.is_closed() {
            self.put(jobs, job)
        } else {
            drop(jobs);
            drop(job);
            Err(Error::QueueFull {
                capacity: self.capacity,
            })
        };
        drop(gone);
        result
    }

    fn put(&self, mut jobs: MutexGuard<'_, Jobs>, job: Job) -> Result<()> {
        if self.is_closed() {
            drop(jobs);
            drop(job);
            return Err(Error::Closed);
        }
        jobs.all.push_back(job);
        jobs.came += 1;
        let length = jobs.all.len();
        jobs.deepest = jobs.deepest.max(length);
        if length == 1 {
            self.some.store(true, Ordering::Relaxed);
        }
        let call = jobs.workers.call(length);
        drop(jobs);
        if call {
            self.called.notify_one();
        }
        Ok(())
    }

    /// For a worker: the next job, if there is one.
    pub(crate) fn take(&self) -> Option<Job> {
        if !self.some.load(Ordering::Relaxed) {
            return None;
        }
        self.take_from(self.lock())
    }

    /// Those that have come by now, taken or not.
    pub(crate) fn came(&self) -> Came {
        Came(self.lock().came)
    }

    /// Those that have come by now, if there is a job.
    pub(crate) fn came_by_now(&self) -> Option<Came> {
        self.some.load(Ordering::Relaxed).then(|| self.came())
    }

    /// For a worker: the next job, if there is one and it is one of those.
    pub(crate) fn take_of(&self, those: Came) -> Option<Job> {
        if !self.some.load(Ordering::Relaxed) {
            return None;
        }
        let jobs = self.lock();
        // So many came before the first. If some behind it were swept out it is fewer, and this one may be missed.
        let before = jobs.came - jobs.all.len() as u64;
        if before < those.0 { self.take_from(jobs) } else { None }
    }

    /// For a worker: how long one job took, on average of those that it made together.
    pub(crate) fn took(&self, each: Duration) {
        self.lock().workers.took(each.as_nanos() as u64);
    }

    /// For a worker: sleeps until it is called, or the store closes, for no longer than its patience, if it has one.
    pub(crate) fn sleep(&self, patience: Option<Duration>) -> Slept {
        let mut jobs = self.lock();
        while jobs.all.is_empty() && !self.is_closed() {
            let mut sleep = jobs.workers.fall_asleep();
            loop {
                let on_watch = matches!(sleep, Sleep::OnWatch(_)).then_some(WATCH);
                let (woken, time_is_over) = self.wait(jobs, on_watch.or(patience));
                jobs = woken;
                if jobs.workers.answer_call(&sleep) {
                    break;
                }
                let queued = jobs.all.len();
                let patience_is_over = time_is_over && on_watch.is_none();
                let watched = time_is_over && jobs.workers.look(&mut sleep, queued);
                if watched || patience_is_over || self.is_closed() {
                    jobs.workers.wake_up(&sleep);
                    if patience_is_over && queued == 0 && !self.is_closed() {
                        return Slept::Long;
                    }
                    break;
                }
            }
        }
        match self.take_from(jobs) {
            Some(job) => Slept::Job(job),
            None => Slept::Closed,
        }
    }

    /// Waits for no longer than that, and says whether the time is over.
    fn wait<'a>(&self, jobs: MutexGuard<'a, Jobs>, patience: Option<Duration>) -> (MutexGuard<'a, Jobs>, bool) {
        let Some(patience) = patience else {
            let jobs = self.called.wait(jobs).unwrap_or_else(PoisonError::into_inner);
            return (jobs, false);
        };
        let (jobs, waited) = self
            .called
            .wait_timeout(jobs, patience)
            .unwrap_or_else(PoisonError::into_inner);
        (jobs, waited.timed_out())
    }

    fn take_from(&self, mut jobs: MutexGuard<'_, Jobs>) -> Option<Job> {
        let job = jobs.all.pop_front()?;
        if jobs.withdrawn > 0 && job.is_withdrawn() {
            jobs.withdrawn -= 1;
        }
        let unwanted = self.move_up(&mut jobs);
        let left = jobs.all.len();
        if left == 0 {
            self.some.store(false, Ordering::Relaxed);
        }
        let call = jobs.workers.taken(left);
        drop(jobs);
        if call {
            self.called.notify_one();
        }
        drop(unwanted);
        Some(job)
    }

    /// There is room for one more in the queue. Gives back those in line that nobody wants any more, to be dropped
    /// without the lock.
    #[must_use]
    fn move_up(&self, jobs: &mut Jobs) -> Vec<Job> {
        let mut unwanted = Vec::new();
        let last = self.capacity - 1;
        while let Some(first_in_line) = jobs.all.get(last) {
            if first_in_line.leave_line() {
                break;
            }
            unwanted.extend(jobs.all.remove(last));
            jobs.withdrawn = jobs.withdrawn.saturating_sub(1);
        }
        unwanted
    }

    /// A caller has withdrawn a job. They are swept out once they are many, so that a stuck worker and impatient
    /// callers do not make the line grow without end.
    pub(crate) fn withdrawn(&self) {
        let mut jobs = self.lock();
        jobs.withdrawn += 1;
        if jobs.withdrawn < 64 || jobs.withdrawn < jobs.all.len() / 2 {
            return;
        }
        let gone = self.sweep(&mut jobs);
        drop(jobs);
        drop(gone);
    }

    /// Takes out those that were withdrawn, to be dropped without the lock, and fills the queue from the line.
    #[must_use]
    fn sweep(&self, jobs: &mut Jobs) -> VecDeque<Job> {
        let queued = self.capacity.min(jobs.all.len());
        let line = jobs.all.split_off(queued);
        let partition = |jobs: VecDeque<Job>| -> (VecDeque<Job>, VecDeque<Job>) {
            jobs.into_iter().partition(|job| job.is_withdrawn())
        };
        let (mut gone, kept) = partition(mem::take(&mut jobs.all));
        let (mut gone_from_line, mut line) = partition(line);
        let queued = kept.len();
        jobs.all = kept;
        jobs.all.append(&mut line);
        for job in jobs.all.iter().take(self.capacity).skip(queued) {
            job.leave_line();
        }
        gone.append(&mut gone_from_line);
        jobs.withdrawn = 0;
        self.some.store(!jobs.all.is_empty(), Ordering::Relaxed);
        gone
    }

    /// No further jobs. What is queued or in line stays.
    pub(crate) fn close(&self) {
        let jobs = self.lock();
        self.closed.store(true, Ordering::SeqCst);
        drop(jobs);
        self.called.notify_all();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Drops every job that is queued or in line, each of which tells its caller that it was not started.
    pub(crate) fn discard(&self) {
        let mut jobs = self.lock();
        let rest = mem::take(&mut jobs.all);
        self.some.store(false, Ordering::Relaxed);
        drop(jobs);
        let wanted = rest.iter().filter(|job| !job.is_withdrawn()).count();
        self.discarded.fetch_add(wanted as u64, Ordering::SeqCst);
        drop(rest);
    }

    /// How many jobs were discarded.
    pub(crate) fn discarded(&self) -> u64 {
        self.discarded.load(Ordering::SeqCst)
    }

    /// How many jobs are queued or in line.
    pub(crate) fn length(&self) -> usize {
        self.lock().all.len()
    }

    /// How long the job has waited that is the next to be taken.
    pub(crate) fn longest_wait(&self, now: Instant) -> Duration {
        let jobs = self.lock();
        let first = jobs.all.iter().find(|job| !job.is_withdrawn());
        first.map_or(Duration::ZERO, |job| now.saturating_duration_since(job.terms().asked))
    }

    /// The most that there were.
    pub(crate) fn deepest(&self) -> usize {
        self.lock().deepest
    }

    pub(crate) fn handoff(&self) -> &Handoff {
        &self.handoff
    }

    /// For a worker: the reply of a task's job is there. Its task is woken, by this thread or by another task. Whether
    /// this thread has woken tasks.
    pub(crate) fn tell(self: &Arc<Self>, answered: Answered) -> bool {
        match self.relay.tell(answered) {
            Told::Woken => true,
            Told::Waits => false,
            Told::SetTimer => {
                let this = Arc::downgrade(self);
                timer::at(Instant::now() + RELAY_TIME, move || {
                    if let Some(this) = this.upgrade() {
                        this.relay.ring();
                    }
                });
                false
            }
        }
    }

    /// For a worker that has no job: wakes the tasks that others were to wake.
    pub(crate) fn tell_all(&self) {
        self.relay.wake_all();
    }

    /// The task of that job has its reply, or has gone away.
    pub(crate) fn fetched(&self, id: usize) {
        self.relay.fetched(id);
    }

    /// From now on, whoever awaits a job of that deadline is woken when it is over.
    pub(crate) fn wake_at(self: &Arc<Self>, deadline: Instant) {
        if let Some(at) = self.alarm.set(deadline) {
            let this = Arc::downgrade(self);
            timer::at(self.alarm.time(at), move || {
                if let Some(this) = this.upgrade() {
                    this.ring(at);
                }
            });
        }
    }

    fn ring(self: &Arc<Self>, at: u64) {
        if !self.alarm.rings(at) {
            return;
        }
        let mut wakers = Vec::new();
        let mut next: Option<Instant> = None;
        let jobs = self.lock();
        let now = Instant::now();
        for job in jobs.all.iter().filter(|job| !job.is_withdrawn()) {
            let deadline = job.terms().deadline;
            if deadline <= now {
                wakers.extend(job.take_waker());
            } else {
                next = Some(next.map_or(deadline, |next| next.min(deadline)));
            }
        }
        drop(jobs);
        self.alarm.pause(now, Instant::now());
        if let Some(next) = next {
            self.wake_at(next);
        }
        for waker in wakers {
            quietly(|| waker.wake());
        }
    }

    /// Marks the calling thread as one of the workers.
    pub(crate) fn become_worker(&self) {
        WORKS_FOR.set(self.id);
    }

    /// Whether the calling thread is one of the workers.
    pub(crate) fn is_worker(&self) -> bool {
        WORKS_FOR.get() == self.id
    }

    /// Of a job whose time was over before it was started.
    pub(crate) fn too_late(&self, waited: Duration) -> Error {
        match &self.kind {
            Kind::Writes => Error::QueueTimeout { waited },
            Kind::Reads { readers } => Error::ReadTimeout {
                waited,
                readers: *readers,
                held_here: 0,
                last_error: self.trouble().clone(),
            },
        }
    }

    /// Of a call that would wait for its own thread.
    pub(crate) fn reentrant(&self, call: &'static str) -> Error {
        let instead = match &self.kind {
            Kind::Writes => {
                "it was called inside a write, on the writer thread that would have to make the write; wait for it \
                 outside"
            }
            Kind::Reads { .. } => {
                "it was called inside a read, on a reader thread that others wait for, too: use the transaction that \
                 the closure was given, or wait for it outside"
            }
        };
        Error::Reentrant { call, instead }
    }

    /// For a worker: what keeps it from its work, or `None` once nothing does.
    pub(crate) fn note_trouble(&self, reason: Option<String>) {
        *self.trouble() = reason;
    }

    fn trouble(&self) -> MutexGuard<'_, Option<String>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
