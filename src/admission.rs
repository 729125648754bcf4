//! First come, first served: the writer's bounded queue, and the line behind it.
//!
//! One mutex guards all jobs, in the order in which they came. The first `capacity` of them are queued. Those after them
//! stand in line: the jobs themselves, not their threads. As the writer takes a job from the front, the first in line moves
//! up into the queue. Blocking and async callers differ only in how they wait for the reply.
//!
//! The mutex is held to put a job in, to take one out, and to look through those in line. The only lock that may be taken
//! under it is a slot's (`pending.rs`), when a job moves up. No closure is ever dropped under it, since a closure's drop may
//! call back into the store.
//!
//! Nobody overtakes, since there is one order. No wake-up is lost: the writer says that it sleeps under the lock, after it
//! has found no job there, and who puts a job in, or closes, takes that back under the lock and then wakes it. `length` is
//! how many jobs there are, written under the lock, for those who look again and again before they sleep.
//!
//! Nothing is lost at closing: `closed` is set under the lock, and after that no job is put in. `discard` takes every job
//! out and drops it, and a job that is dropped tells its caller `Closed`. The writer discards what is left when it ends; a
//! closer discards when its time is over, though the writer still runs a job.

use std::cell::Cell;
use std::collections::VecDeque;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::apart::Apart;
use crate::error::{Error, Result};
use crate::handoff::Handoff;
use crate::job::Job;

/// What the writer's sleep came to.
pub(crate) enum Slept {
    Job(Job),
    Closed,
    /// Nothing came in the time that it had.
    Long,
}

#[derive(Default)]
struct Jobs {
    /// The queue, then the line.
    all: VecDeque<Job>,
    /// About how many of those in line were withdrawn.
    withdrawn: usize,
    /// The writer sleeps and has not been woken.
    asleep: bool,
}

pub(crate) struct Admission {
    store: u64,
    capacity: usize,
    jobs: Apart<Mutex<Jobs>>,
    length: Apart<AtomicUsize>,
    woken: Condvar,
    closed: AtomicBool,
    /// Jobs that were discarded.
    discarded: AtomicU64,
    handoff: Handoff,
}

thread_local! {
    /// The store whose writer this thread is; 0 for none.
    static WRITES_FOR: Cell<u64> = const { Cell::new(0) };
}

impl Admission {
    pub(crate) fn new(store: u64, capacity: usize, handoff: Handoff) -> Self {
        Self {
            store,
            capacity,
            jobs: Apart::default(),
            length: Apart::default(),
            woken: Condvar::new(),
            closed: AtomicBool::new(false),
            discarded: AtomicU64::new(0),
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
        let jobs = self.lock();
        if jobs.all.len() < self.capacity || self.is_closed() {
            return self.put(jobs, job);
        }
        drop(jobs);
        drop(job);
        Err(Error::QueueFull {
            capacity: self.capacity,
        })
    }

    fn put(&self, mut jobs: MutexGuard<'_, Jobs>, job: Job) -> Result<()> {
        if self.is_closed() {
            drop(jobs);
            drop(job);
            return Err(Error::Closed);
        }
        jobs.all.push_back(job);
        self.length.store(jobs.all.len(), Ordering::Relaxed);
        let wake = mem::take(&mut jobs.asleep);
        drop(jobs);
        if wake {
            self.woken.notify_one();
        }
        Ok(())
    }

    /// For the writer: the next job, if there is one.
    pub(crate) fn take(&self) -> Option<Job> {
        if self.length.load(Ordering::Relaxed) == 0 {
            return None;
        }
        self.take_from(self.lock())
    }

    /// For the writer: sleeps until there is a job or the store closes, for no longer than its patience, if it has one.
    pub(crate) fn sleep(&self, patience: Option<Duration>) -> Slept {
        let mut jobs = self.lock();
        while jobs.all.is_empty() && !self.is_closed() {
            jobs.asleep = true;
            let Some(patience) = patience else {
                jobs = self.woken.wait(jobs).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let (woken, waited) = self
                .woken
                .wait_timeout(jobs, patience)
                .unwrap_or_else(PoisonError::into_inner);
            jobs = woken;
            if waited.timed_out() {
                break;
            }
        }
        jobs.asleep = false;
        match self.take_from(jobs) {
            Some(job) => Slept::Job(job),
            None if self.is_closed() => Slept::Closed,
            None => Slept::Long,
        }
    }

    fn take_from(&self, mut jobs: MutexGuard<'_, Jobs>) -> Option<Job> {
        let job = jobs.all.pop_front()?;
        let unwanted = self.move_up(&mut jobs);
        self.length.store(jobs.all.len(), Ordering::Relaxed);
        drop(jobs);
        drop(unwanted);
        Some(job)
    }

    /// There is room for one more in the queue. Gives back those in line that nobody wants any more, to be dropped without
    /// the lock.
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

    /// A caller has withdrawn a job that stands in line. They are swept out once they are many, so that a stuck
    /// writer and impatient callers do not make the line grow without end.
    pub(crate) fn withdrawn_from_line(&self) {
        let mut jobs = self.lock();
        jobs.withdrawn += 1;
        let in_line = jobs.all.len().saturating_sub(self.capacity);
        if jobs.withdrawn < 64 || jobs.withdrawn < in_line / 2 {
            return;
        }
        let queued = self.capacity.min(jobs.all.len());
        let line = jobs.all.split_off(queued);
        let (gone, mut kept): (VecDeque<Job>, VecDeque<Job>) = line.into_iter().partition(|job| job.is_withdrawn());
        jobs.all.append(&mut kept);
        jobs.withdrawn = 0;
        self.length.store(jobs.all.len(), Ordering::Relaxed);
        drop(jobs);
        drop(gone);
    }

    /// No further jobs. What is queued or in line stays.
    pub(crate) fn close(&self) {
        let mut jobs = self.lock();
        self.closed.store(true, Ordering::SeqCst);
        jobs.asleep = false;
        drop(jobs);
        self.woken.notify_one();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Drops every job that is queued or in line, each of which tells its caller that it was not started.
    pub(crate) fn discard(&self) {
        let mut jobs = self.lock();
        let rest = mem::take(&mut jobs.all);
        self.length.store(0, Ordering::Relaxed);
        drop(jobs);
        let wanted = rest.iter().filter(|job| !job.is_withdrawn()).count();
        self.discarded.fetch_add(wanted as u64, Ordering::SeqCst);
        drop(rest);
    }

    /// How many jobs were discarded.
    pub(crate) fn discarded(&self) -> u64 {
        self.discarded.load(Ordering::SeqCst)
    }

    pub(crate) fn handoff(&self) -> &Handoff {
        &self.handoff
    }

    /// Marks the calling thread as this store's writer.
    pub(crate) fn become_writer_thread(&self) {
        WRITES_FOR.set(self.store);
    }

    /// Whether the calling thread is this store's writer.
    pub(crate) fn is_writer_thread(&self) -> bool {
        WRITES_FOR.get() == self.store
    }

    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
