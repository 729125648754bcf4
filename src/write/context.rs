//! What the queue of writes carries, and the context in which its jobs run.
//!
//! There are two kinds of job. A closure given to [`Store::write`](crate::Store::write) runs in a transaction that it
//! may share with others ([`Grouped`]). A migration or a vacuum has the writer to itself, with no transaction open
//! ([`Exclusive`]).

use std::ops::Deref;
use std::time::Duration;

use super::seat::Seat;
use super::{Shared, Writer};
use crate::error::{Error, Outcome, Result};
use crate::options::{Durability, WhenFull, WriteOptions};
use crate::queue::job::{Job, Queued, Resolution, Scope, Work};
use crate::queue::pending::Pending;
use crate::queue::slot::Caller;
use crate::queue::{QueueKind, Submission};
use crate::runtime::sync::{Arc, Instant};
use crate::transaction::WriteTx;

/// The queue that the writer thread serves.
pub(crate) struct Writes;

pub(crate) enum WriteJob {
    Grouped(Job<Grouped>),
    Exclusive(Job<Exclusive>),
}

/// Jobs that run in a transaction of the writer thread.
pub(crate) struct Grouped;

/// Jobs that have the writer to themselves.
pub(crate) struct Exclusive;

/// Instructions for the writer thread about a job that joins a group.
pub(crate) struct WriteOrder {
    pub(crate) durability: Durability,
    pub(crate) limit: Option<Duration>,
    /// Whether it is a slice of a bulk job, which is the first job of its group and is never slow.
    pub(crate) is_slice: bool,
    /// Whether no other job may join its group.
    pub(crate) is_alone: bool,
}

impl WriteOrder {
    /// Of a write to a store with that durability, which none of its writes is below.
    pub(crate) fn of(options: &WriteOptions, least: Durability) -> Self {
        Self {
            durability: options.durability.unwrap_or_default().max(least),
            limit: options.execution_timeout,
            is_slice: false,
            is_alone: options.execution_timeout.is_some(),
        }
    }

    /// Of a slice of a bulk job, which other jobs may join or not.
    pub(crate) fn of_slice(least: Durability, is_alone: bool) -> Self {
        Self {
            durability: least,
            limit: None,
            is_slice: true,
            is_alone,
        }
    }
}

impl Scope for Grouped {
    type Context<'a, 'tx>
        = &'a WriteTx<'tx>
    where
        'tx: 'a;
    type Order = WriteOrder;

    fn lost() -> Error {
        lost()
    }
}

impl Scope for Exclusive {
    type Context<'a, 'tx>
        = &'a mut Writer
    where
        'tx: 'a;
    type Order = ();

    fn lost() -> Error {
        lost()
    }
}

/// The error of [`Durability::Replicated`] without a replica.
pub(crate) fn no_replica() -> Error {
    Error::Options {
        option: "durability",
        problem: "Replicated needs a replica: open the store with Options::replicate_to, or use Full".to_owned(),
    }
}

fn lost() -> Error {
    Error::CommitUnknown {
        source: Arc::new(Error::worker_panicked()),
    }
}

impl<F, T> Work<Grouped, T> for F
where
    F: FnOnce(&WriteTx<'_>) -> Result<T> + Send,
{
    fn run(self, tx: &WriteTx<'_>) -> Result<T> {
        tx.judge(self(tx))
    }
}

impl<F, T> Work<Exclusive, T> for F
where
    F: FnOnce(&mut Writer) -> Result<T> + Send,
{
    fn run(self, writer: &mut Writer) -> Result<T> {
        self(writer)
    }
}

impl From<Job<Grouped>> for WriteJob {
    fn from(job: Job<Grouped>) -> Self {
        Self::Grouped(job)
    }
}

impl From<Job<Exclusive>> for WriteJob {
    fn from(job: Job<Exclusive>) -> Self {
        Self::Exclusive(job)
    }
}

impl WriteJob {
    pub(crate) fn finish(self, resolution: Resolution) {
        match self {
            Self::Grouped(job) => job.finish(resolution),
            Self::Exclusive(job) => job.finish(resolution),
        }
    }
}

impl Deref for WriteJob {
    type Target = dyn Queued;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Grouped(job) => &**job,
            Self::Exclusive(job) => &**job,
        }
    }
}

impl QueueKind for Writes {
    type Job = WriteJob;

    fn too_late(&self, waited: Duration) -> Error {
        Error::QueueTimeout { waited, context: None }
    }

    fn nested(&self, call: &'static str) -> Error {
        Error::Reentrant {
            call,
            instead: "inside a write, use the transaction passed to the closure, and tx.savepoint(|tx| ..) to nest",
            outcome: Outcome::NotStarted,
        }
    }

    fn reentrant(&self, call: &'static str) -> Error {
        Error::Reentrant {
            call,
            instead: "the write goes on, so do not repeat it; wait for it outside the closure",
            outcome: Outcome::Unknown,
        }
    }
}

impl Shared {
    /// Runs a write on the calling thread if the writer's seat is free, or queues it and waits.
    pub(crate) fn write<W, T>(&self, seat: &Seat, submission: Submission, order: WriteOrder, work: W) -> Result<T>
    where
        W: Work<Grouped, T> + 'static,
        T: Send + 'static,
    {
        self.check(submission.call)?;
        self.check_replica(&submission, &order)?;
        let when_full = submission.when_full;
        // The reply of a write that waits for the replica does not come on this thread.
        let may_run_here = order.durability < Durability::Replicated;
        let request = submission.request::<Grouped, _, _>(order, work);
        if may_run_here && seat.run(self, || Job::new(Arc::clone(&request))) {
            return request.reply();
        }
        Arc::clone(&self.queue).enqueue_request(request, when_full)?.wait()
    }

    /// Queues a write, unless the store is poisoned.
    pub(crate) fn enqueue_write<W, T>(&self, submission: Submission, order: WriteOrder, work: W) -> Result<Pending<T>>
    where
        W: Work<Grouped, T> + 'static,
        T: Send + 'static,
    {
        // First: the writer thread would wait for itself.
        self.check(submission.call)?;
        self.check_replica(&submission, &order)?;
        Arc::clone(&self.queue).enqueue(submission, order, work)
    }

    /// Queues a job, unless the store is poisoned.
    pub(crate) fn enqueue<S, W, T>(&self, submission: Submission, order: S::Order, work: W) -> Result<Pending<T>>
    where
        S: Scope,
        Job<S>: Into<WriteJob>,
        W: Work<S, T> + 'static,
        T: Send + 'static,
    {
        self.check(submission.call)?;
        Arc::clone(&self.queue).enqueue(submission, order, work)
    }

    /// Refuses a write that is to be in the replica, if there is none. If as many writes wait for it as the queue has room
    /// for, it refuses one that does not wait, and lets a submitter wait.
    fn check_replica(&self, submission: &Submission, order: &WriteOrder) -> Result<()> {
        if order.durability < Durability::Replicated {
            return Ok(());
        }
        let Some(keeper) = self.keeper() else {
            return Err(no_replica());
        };
        let capacity = self.queue.capacity();
        let checked = match (submission.when_full, submission.caller) {
            (WhenFull::Fail, _) if keeper.held() >= capacity => Err(self.queue.refuse_full()),
            (WhenFull::Wait, Caller::Submitter) => {
                let began = Instant::now();
                let has_room = keeper.wait_for_room(capacity, submission.timeout);
                let waited = began.elapsed();
                has_room
                    .then_some(())
                    .ok_or(Error::QueueTimeout { waited, context: None })
            }
            _ => Ok(()),
        };
        checked.map_err(|error| error.with_site(|| submission.site.to_string()))
    }

    /// Whether a write that is to be in the replica would add to as many as the queue has room for.
    pub(crate) fn holds_too_many(&self, order: &WriteOrder) -> bool {
        let held = || self.keeper().map_or(0, |keeper| keeper.held());
        order.durability >= Durability::Replicated && held() >= self.queue.capacity()
    }

    /// Refuses a call that cannot be served.
    fn check(&self, call: &'static str) -> Result<()> {
        self.queue.check_caller(call)?;
        if let Some(only_reads) = self.only_reads(call) {
            return Err(only_reads);
        }
        if let Some(poisoned) = self.poison() {
            self.queue.count_poisoned();
            return Err(poisoned);
        }
        Ok(())
    }
}
