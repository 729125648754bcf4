//! Replies that wait for the replica: those of writes with [`Durability::Replicated`](crate::Durability::Replicated).
//!
//! # Who finishes a job
//!
//! The holder of the writer's seat commits such a job in a group like any other. Then it does not finish it, but gives it
//! to [`hold`](HeldReplies::hold), in the order of the commits. From there it is taken once, under the mutex, by the task
//! that acknowledges (`replica/acknowledge.rs`), which finishes it. So a job has one reply: it is in the queue, carried,
//! in the group or here, and a job that is dropped replies, too. After [`end`](HeldReplies::end) nothing is held any
//! more: `hold` gives the jobs back, and the holder of the seat refuses them itself.
//!
//! # Which file has a job's transaction
//!
//! Jobs are numbered as they are held. The thread that captures notes [`newest`](HeldReplies::newest) *before* it asks
//! what is committed. All jobs up to that number are committed by then, so they are in the file that ends this capture,
//! or in one before it, and [`seal`](HeldReplies::seal) says so. Files are sealed one after another, so the jobs with a
//! file are those in front, and their files ascend. Deadlines ascend, too.
//!
//! The mutex is held to append, to mark or to take jobs. No job is finished or dropped under it, and no lock is taken.
//!
//! # How many there are
//!
//! A job leaves the queue as it starts, so the queue bounds no job that waits here. A blocking or async caller has one at a
//! time. A thread that submits without waiting is stopped before it queues the next one, by
//! [`wait_for_room`](HeldReplies::wait_for_room), while there are as many here as the queue has room for.

use std::collections::VecDeque;
use std::time::Duration;

use super::context::WriteJob;
use crate::error::Error;
use crate::queue::job::Resolution;
use crate::runtime::clock::later;
use crate::runtime::sync::{Condvar, Instant, Mutex};

#[derive(Default)]
pub(crate) struct HeldReplies {
    state: Mutex<State>,
    /// Notified when jobs have left.
    room: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Held>,
    /// The number of the last job that was held.
    newest: u64,
    is_over: bool,
}

/// A committed job whose caller waits for the replica.
pub(crate) struct Held {
    job: WriteJob,
    number: u64,
    since: Instant,
    deadline: Instant,
    /// The transaction of the replica that has it, once it is in a file.
    txid: Option<u64>,
}

/// Jobs that are to be finished.
#[derive(Default)]
pub(crate) struct Ready {
    /// They are in the replica.
    pub(crate) replicated: Vec<Held>,
    /// Their time is over.
    pub(crate) late: Vec<Held>,
}

impl HeldReplies {
    /// Holds the replies of jobs that were just committed, for at most that time. Returns the jobs if nothing is held any
    /// more.
    pub(crate) fn hold(&self, jobs: Vec<WriteJob>, timeout: Duration) -> Vec<WriteJob> {
        let since = Instant::now();
        let deadline = later(since, timeout);
        let mut state = self.state.lock();
        if state.is_over {
            return jobs;
        }
        for job in jobs {
            state.newest += 1;
            let number = state.newest;
            state.jobs.push_back(Held {
                job,
                number,
                since,
                deadline,
                txid: None,
            });
        }
        Vec::new()
    }

    pub(crate) fn length(&self) -> usize {
        self.state.lock().jobs.len()
    }

    /// Waits until fewer than `capacity` jobs are held. Returns false if that takes longer than the timeout.
    pub(crate) fn wait_for_room(&self, capacity: usize, timeout: Duration) -> bool {
        let deadline = later(Instant::now(), timeout);
        let mut state = self.state.lock();
        while state.jobs.len() >= capacity && !state.is_over {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.room.wait_timeout(state, left).0;
        }
        true
    }

    /// The number of the last job that was held.
    pub(crate) fn newest(&self) -> u64 {
        self.state.lock().newest
    }

    /// Says that the jobs up to that number are in files up to this transaction. Returns whether a job was without one.
    pub(crate) fn seal(&self, newest: u64, txid: u64) -> bool {
        let mut state = self.state.lock();
        let unsealed = state.jobs.partition_point(|held| held.txid.is_some());
        let sealed = state.jobs.partition_point(|held| held.number <= newest);
        for held in state.jobs.range_mut(unsealed..sealed.max(unsealed)) {
            held.txid = Some(txid);
        }
        sealed > unsealed
    }

    /// Says that the files after that transaction were dropped. Their jobs will be in a later one.
    pub(crate) fn unseal_after(&self, txid: u64) {
        for held in &mut self.state.lock().jobs {
            held.txid = held.txid.filter(|sealed| *sealed <= txid);
        }
    }

    /// How many jobs wait to be in a file.
    pub(crate) fn unsealed(&self) -> usize {
        let state = self.state.lock();
        state.jobs.len() - state.jobs.partition_point(|held| held.txid.is_some())
    }

    /// How many jobs are in files up to that transaction, and are not taken yet.
    pub(crate) fn in_files_up_to(&self, txid: u64) -> usize {
        let state = self.state.lock();
        state
            .jobs
            .partition_point(|held| held.txid.is_some_and(|sealed| sealed <= txid))
    }

    /// Takes the jobs that are in the replica, which has everything up to that transaction, and those whose time is over.
    pub(crate) fn take(&self, uploaded: u64, now: Instant) -> Ready {
        let mut state = self.state.lock();
        let done = |held: &Held| held.txid.is_some_and(|txid| txid <= uploaded);
        let replicated = state.jobs.partition_point(done);
        let replicated = state.jobs.drain(..replicated).collect();
        let late = state.jobs.partition_point(|held| held.deadline <= now);
        let late = state.jobs.drain(..late).collect();
        drop(state);
        self.room.notify_all();
        Ready { replicated, late }
    }

    /// Takes the jobs that are in no file.
    pub(crate) fn take_unsealed(&self) -> Vec<Held> {
        let mut state = self.state.lock();
        let sealed = state.jobs.partition_point(|held| held.txid.is_some());
        let unsealed = state.jobs.drain(sealed..).collect();
        drop(state);
        self.room.notify_all();
        unsealed
    }

    /// Takes all jobs. From now on none is held.
    pub(crate) fn end(&self) -> Vec<Held> {
        let mut state = self.state.lock();
        state.is_over = true;
        let all = state.jobs.drain(..).collect();
        drop(state);
        self.room.notify_all();
        all
    }

    /// When the time of the first job is over.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.state.lock().jobs.front().map(|held| held.deadline)
    }
}

impl Held {
    /// How long its caller has waited for the replica.
    pub(crate) fn waited(&self) -> Duration {
        self.since.elapsed()
    }

    /// Replies with the result of the job.
    pub(crate) fn acknowledge(self) {
        self.job.finish(Resolution::Own);
    }

    /// Replies that the job is not known to be in the replica.
    pub(crate) fn refuse(self, reason: &str) {
        let waited = self.waited();
        refuse(self.job, waited, reason);
    }
}

/// Replies that a committed job is not known to be in the replica.
pub(crate) fn refuse(job: WriteJob, waited: Duration, reason: &str) {
    let reason = reason.to_owned();
    job.finish(Resolution::Failed(Error::NotReplicated { waited, reason }));
}
