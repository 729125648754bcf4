//! One job: what it does, its metadata, and the slot for its reply, in one allocation.
//!
//! A queue carries jobs of one or more *scopes*. A [`Scope`] says what the work is given when it runs: a transaction, the
//! writer, a snapshot. The scopes stand beside the workers that run them (`write/context.rs`, `read/context.rs`).
//! Nothing here depends on which there are.
//!
//! A job has two owners: the queue, and then a worker, by a [`Job`], and the caller, by a [`Pending`](crate::Pending).
//! Both share one allocation, which the caller frees, so the memory returns to the allocator arena that it came from.

use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

use super::pending::{Caller, Reply, Slot, Waits, wake};
use crate::error::{Error, Result};
use crate::runtime::cancellation::{self, Cancelled};
use crate::runtime::fork::{self, Process};
use crate::runtime::panic::{caught, quietly};
use crate::runtime::sync::{Arc, Instant, Mutex};
use crate::telemetry::call_site::CallSite;
use crate::telemetry::event::CallerSpan;

/// Where a kind of job runs.
pub(crate) trait Scope: 'static {
    /// What its work is given.
    type Context<'a, 'tx>
    where
        'tx: 'a;

    /// What its worker has to know before it runs one.
    type Order: Send + Sync;

    /// The error of a job whose worker panicked after the start, which would be a bug of larder's.
    fn lost() -> Error;
}

/// What a job does.
pub(crate) trait Work<S: Scope, T>: Send {
    fn run(self, context: S::Context<'_, '_>) -> Result<T>;
}

/// What the queue has to know of a job.
pub(crate) struct JobMeta {
    pub(crate) site: CallSite,
    pub(crate) asked: Instant,
    pub(crate) deadline: Instant,
    pub(crate) span: CallerSpan,
}

/// What the caller is told.
pub(crate) enum Resolution {
    /// What its closure came to.
    Own,
    /// This, whatever its closure came to.
    Failed(Error),
}

/// What both hands hold, in this order: what is read and written beside what is only read.
#[repr(C)]
pub(crate) struct Request<S: Scope, W, T> {
    meta: JobMeta,
    order: S::Order,
    /// There until it is run. Taken by the hand that has the `Job`, and by who has withdrawn it, so hardly anybody ever
    /// waits for the lock.
    work: Mutex<Option<W>>,
    slot: Slot<T>,
}

impl<S: Scope, W, T> Request<S, W, T> {
    pub(crate) fn new(meta: JobMeta, order: S::Order, work: W, caller: Caller) -> Self {
        Self {
            meta,
            order,
            work: Mutex::new(Some(work)),
            slot: Slot::new(caller),
        }
    }

    fn take_work(&self) -> Option<W> {
        self.work.lock().take()
    }
}

impl<S: Scope, W: Work<S, T>, T> Request<S, W, T> {
    /// What the closure comes to, unless it was called before.
    fn call(&self, context: S::Context<'_, '_>) -> Option<Reply<T>> {
        let work = self.take_work()?;
        let span = &self.meta.span;
        let process = Process::current();
        let called = catch_unwind(AssertUnwindSafe(|| span.in_scope(|| work.run(context))));
        if process.is_left() {
            fork::end_child();
        }
        Some(called.map_or_else(Reply::Panicked, Reply::Returned))
    }
}

impl<S: Scope, W: Send, T: Send> Waits<T> for Request<S, W, T> {
    fn slot(&self) -> &Slot<T> {
        &self.slot
    }

    fn drop_work(&self) {
        // Not under the lock: what the closure holds is user code.
        let work = self.take_work();
        quietly(|| drop(work));
    }
}

/// A job as the queue sees it, whatever its scope, its work and its result are.
pub(crate) trait Queued: Cancelled + Send + Sync {
    fn meta(&self) -> &JobMeta;
    /// See [`Slot`] for these.
    fn get_in_line(&self);
    fn leave_line(&self);
    fn start(&self) -> bool;
    fn is_withdrawn(&self) -> bool;
    fn take_waker(&self) -> Option<Waker>;
}

/// A job as its worker sees it, whatever its work and its result are.
trait DynJob<S: Scope>: Queued {
    fn order(&self) -> &S::Order;
    fn run(&self, context: S::Context<'_, '_>) -> std::result::Result<(), &'static str>;
    fn answer(&self, context: S::Context<'_, '_>);
    /// Gives back who is to be woken.
    #[must_use]
    fn finish(&self, resolution: Resolution) -> Option<Waker>;
    /// The job goes without having been finished.
    fn abandon(&self);
}

impl<S: Scope, W, T> Cancelled for Request<S, W, T> {
    fn is_cancelled(&self) -> bool {
        self.slot.is_abandoned()
    }
}

impl<S: Scope, W: Send, T: Send> Queued for Request<S, W, T> {
    fn meta(&self) -> &JobMeta {
        &self.meta
    }

    fn get_in_line(&self) {
        self.slot.get_in_line();
    }

    fn leave_line(&self) {
        self.slot.leave_line();
    }

    fn start(&self) -> bool {
        self.slot.start()
    }

    fn is_withdrawn(&self) -> bool {
        self.slot.is_withdrawn()
    }

    fn take_waker(&self) -> Option<Waker> {
        self.slot.take_waker()
    }
}

impl<S: Scope, W: Work<S, T>, T: Send> DynJob<S> for Request<S, W, T> {
    fn order(&self) -> &S::Order {
        &self.order
    }

    fn run(&self, context: S::Context<'_, '_>) -> std::result::Result<(), &'static str> {
        let Some(own) = self.call(context) else {
            return Err("run twice");
        };
        let ended = match &own {
            Reply::Returned(Ok(_)) => Ok(()),
            Reply::Returned(Err(error)) => Err(error.kind()),
            Reply::Panicked(_) => Err("panic"),
        };
        self.slot.keep(own);
        ended
    }

    fn answer(&self, context: S::Context<'_, '_>) {
        if let Some(own) = self.call(context) {
            self.slot.answer(own);
        }
    }

    fn finish(&self, resolution: Resolution) -> Option<Waker> {
        let Resolution::Failed(error) = resolution else {
            return self.slot.complete_with_kept();
        };
        let own = self.slot.take_kept();
        let refused = own.is_none();
        let (reply, unwanted) = match (error, own) {
            (error @ Error::Interrupted { .. }, own @ Some(Reply::Returned(_))) => (Reply::Returned(Err(error)), own),
            // Its own error or panic says more than what became of the others.
            (_, Some(own @ (Reply::Returned(Err(_)) | Reply::Panicked(_)))) => (own, None),
            (error, own) => (Reply::Returned(Err(error)), own),
        };
        self.slot.complete(reply);
        // After the reply: it is user code, and may panic.
        drop(unwanted);
        if refused {
            self.drop_work();
        }
        None
    }

    /// Leaves a reply, so that each slot gets exactly one. The job was in the queue of a store that has closed, or
    /// (never, unless larder has a bug) on a thread of larder's that panicked.
    fn abandon(&self) {
        if !self.slot.is_withdrawn() {
            let error = if self.slot.has_started() {
                S::lost()
            } else {
                Error::Closed
            };
            self.slot.complete(Reply::Returned(Err(error)));
        }
        // After the reply: what the closure holds is user code, and may panic.
        self.drop_work();
    }
}

/// The hand on a job that goes through the queue. It is finished once, or else it replies as it is dropped.
pub(crate) struct Job<S: Scope> {
    /// There until it is finished or dropped.
    inner: Option<Arc<dyn DynJob<S>>>,
}

impl<S: Scope> Job<S> {
    pub(crate) fn new<W, T>(request: Arc<Request<S, W, T>>) -> Self
    where
        W: Work<S, T> + 'static,
        T: Send + 'static,
    {
        Self { inner: Some(request) }
    }

    fn inner(&self) -> &(dyn DynJob<S> + 'static) {
        self.inner.as_deref().expect("it is there until the job is finished")
    }

    /// What its worker has to know of it.
    pub(crate) fn order(&self) -> &S::Order {
        self.inner().order()
    }

    /// Does the work, keeps what it came to, and says whether that was `Ok`, or else the kind of its error.
    pub(crate) fn run(&self, context: S::Context<'_, '_>) -> std::result::Result<(), &'static str> {
        self.inner().run(context)
    }

    /// Does the work, for a task, and leaves what it came to at the slot. Meanwhile the thread knows whether the task has
    /// gone away ([`cancellation::is_cancelled`]).
    pub(crate) fn answer(mut self, context: S::Context<'_, '_>) -> CompletedJob {
        let inner = self.inner.clone().expect("it is there until the job is finished");
        cancellation::with(Arc::clone(&inner) as Arc<dyn Cancelled>, || inner.answer(context));
        // Until here a panic of larder's own would have the job reply as it is dropped.
        self.inner = None;
        CompletedJob(inner)
    }

    /// Tells the caller. A result that nobody waits for any more is dropped here: that is user code, and may panic. So
    /// are wakers.
    pub(crate) fn finish(mut self, resolution: Resolution) {
        let inner = self.inner.take();
        let waker = caught(|| inner.as_ref().and_then(|inner| inner.finish(resolution)));
        // First, so that it is the caller who frees the memory.
        quietly(|| drop(inner));
        quietly(|| wake(waker.flatten()));
    }
}

impl<S: Scope> Deref for Job<S> {
    type Target = dyn Queued;

    fn deref(&self) -> &Self::Target {
        self.inner()
    }
}

impl<S: Scope> Drop for Job<S> {
    fn drop(&mut self) {
        let inner = self.inner.take();
        quietly(|| {
            if let Some(inner) = &inner {
                inner.abandon();
            }
        });
        quietly(|| drop(inner));
    }
}

/// A job whose reply is there for its task, which is still to be woken.
pub(crate) struct CompletedJob(Arc<dyn Queued>);

impl CompletedJob {
    /// As [`Pending::id`].
    pub(crate) fn id(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    /// The waker, unless the task has come for the reply by itself, or has gone away.
    pub(crate) fn take_waker(&self) -> Option<Waker> {
        self.0.take_waker()
    }

    /// Wakes the task, with the waker that was taken.
    pub(crate) fn wake(self, waker: Option<Waker>) {
        // First, so that it is the caller who frees the memory.
        quietly(|| drop(self));
        quietly(|| wake(waker));
    }
}
