//! One job: its closure, its metadata and the slot for its reply, in one allocation.
//!
//! A queue carries jobs of one or more *scopes*. A [`Scope`] defines the context that a closure receives when it runs:
//! a transaction, the writer or a snapshot. Scopes are defined beside the workers that run them (`write/context.rs`,
//! `read/context.rs`). This module depends on no particular scope.
//!
//! A job has two owners: the queue and then a worker (`Job`), and the caller ([`Pending`](crate::Pending)). Both share
//! one allocation, freed by the caller, so memory returns to the allocator arena that it came from.

use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

use super::pending::Waits;
use super::slot::{Caller, Reply, Slot, wake};
use crate::error::{Error, Result};
use crate::runtime::cancellation::{self, Cancelled};
use crate::runtime::fork::{self, Process};
use crate::runtime::panic::{caught, quietly};
use crate::runtime::sync::{Arc, Instant, Mutex};
use crate::telemetry::call_site::CallSite;
use crate::telemetry::event::CallerSpan;

/// Where jobs of one kind run.
pub(crate) trait Scope: 'static {
    /// The context that a job's closure receives.
    type Context<'a, 'tx>
    where
        'tx: 'a;

    /// Instructions that the worker reads before it runs the job.
    type Order: Send + Sync;

    /// The error of a job whose worker panicked after the start. Such a panic would be a bug in larder.
    fn lost() -> Error;
}

/// A job's closure.
pub(crate) trait Work<S: Scope, T>: Send {
    fn run(self, context: S::Context<'_, '_>) -> Result<T>;
}

/// The part of a job that the queue reads.
pub(crate) struct JobMeta {
    pub(crate) site: CallSite,
    pub(crate) asked: Instant,
    pub(crate) deadline: Instant,
    pub(crate) span: CallerSpan,
}

/// The source of a job's reply.
pub(crate) enum Resolution {
    /// The result of its own closure.
    Own,
    /// This error, whatever the closure returned.
    Failed(Error),
}

/// The allocation that both owners share. `repr(C)` fixes the order: the read-only fields first, then those that are
/// written.
#[repr(C)]
pub(crate) struct Request<S: Scope, W, T> {
    meta: JobMeta,
    order: S::Order,
    /// `Some` until the closure runs. It is taken by the owner of the `Job`, or by the caller that withdrew the job, so
    /// the lock is hardly ever contended.
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

    /// The reply of a job that has been finished on the caller's own thread.
    pub(crate) fn reply(&self) -> Result<T> {
        let reply = self.slot.lock().take();
        let (reply, _) = reply.expect("a job leaves its reply when it is finished or dropped");
        reply.deliver()
    }
}

impl<S: Scope, W: Work<S, T>, T> Request<S, W, T> {
    /// Runs the closure and returns its result, or `None` if the closure was taken before.
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

    fn site(&self) -> &CallSite {
        &self.meta.site
    }

    fn drop_work(&self) {
        // Dropped without the lock, because the closure's captures run user code.
        let work = self.take_work();
        quietly(|| drop(work));
    }
}

/// A job as the queue sees it, independent of its scope, closure and result type.
pub(crate) trait Queued: Cancelled + Send + Sync {
    fn meta(&self) -> &JobMeta;
    /// [`Slot`] documents these.
    fn get_in_line(&self);
    #[must_use]
    fn leave_line(&self) -> Option<Waker>;
    fn start(&self) -> bool;
    fn is_withdrawn(&self) -> bool;
    fn take_waker(&self) -> Option<Waker>;
    /// Whether a thread does nothing but wait for the reply.
    fn blocks_thread(&self) -> bool;
}

/// A job as its worker sees it, independent of its closure and result type.
trait DynJob<S: Scope>: Queued {
    fn order(&self) -> &S::Order;
    fn run(&self, context: S::Context<'_, '_>) -> std::result::Result<(), &'static str>;
    fn answer(&self, context: S::Context<'_, '_>);
    /// Returns the waker to wake.
    #[must_use]
    fn finish(&self, resolution: Resolution) -> Option<Waker>;
    /// Called when the job is dropped unfinished.
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

    fn leave_line(&self) -> Option<Waker> {
        self.slot.leave_line()
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

    fn blocks_thread(&self) -> bool {
        self.slot.caller == Caller::Thread
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
            // The job's own error or panic says more than the error of its group.
            (_, Some(own @ (Reply::Returned(Err(_)) | Reply::Panicked(_)))) => (own, None),
            (error, own) => (Reply::Returned(Err(error)), own),
        };
        self.slot.complete(reply);
        // Dropped after the reply, because the drop runs user code and may panic.
        drop(unwanted);
        if refused {
            self.drop_work();
        }
        None
    }

    /// Leaves a reply, so each slot gets exactly one. The job was queued in a store that has closed, or its larder
    /// thread panicked (a bug in larder).
    fn abandon(&self) {
        if !self.slot.is_withdrawn() {
            let error = if self.slot.has_started() {
                S::lost()
            } else {
                Error::Closed
            };
            self.slot.complete(Reply::Returned(Err(error)));
        }
        // Dropped after the reply, because the closure's captures run user code and may panic.
        self.drop_work();
    }
}

/// The queue's handle to a job. A job is finished once; if it is dropped unfinished, the drop leaves the reply.
pub(crate) struct Job<S: Scope> {
    /// `Some` until the job is finished or dropped.
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

    /// The worker's instructions for this job.
    pub(crate) fn order(&self) -> &S::Order {
        self.inner().order()
    }

    /// Runs the closure and keeps its result in the slot. Returns `Ok`, or the kind of the closure's error.
    pub(crate) fn run(&self, context: S::Context<'_, '_>) -> std::result::Result<(), &'static str> {
        self.inner().run(context)
    }

    /// Runs the closure for an async task and leaves its result in the slot. While the closure runs, the thread can
    /// check whether the task has gone away ([`cancellation::is_cancelled`]).
    pub(crate) fn answer(mut self, context: S::Context<'_, '_>) -> CompletedJob {
        let inner = self.inner();
        let token = self.inner.clone().expect("it is there until the job is finished");
        cancellation::with(token as Arc<dyn Cancelled>, || inner.answer(context));
        // Taken only here: if larder itself panics before, the drop of `self` still leaves a reply.
        CompletedJob(self.inner.take().expect("it was there"))
    }

    /// Delivers the reply to the caller. A result without a caller is dropped here. That drop runs user code and may
    /// panic, and so may the waker.
    pub(crate) fn finish(mut self, resolution: Resolution) {
        let inner = self.inner.take();
        let waker = caught(|| inner.as_ref().and_then(|inner| inner.finish(resolution)));
        // Dropped before the wake-up, so the caller is the last owner and frees the memory.
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

/// A job whose reply is in its slot and whose task is not woken yet.
pub(crate) struct CompletedJob(Arc<dyn Queued>);

impl CompletedJob {
    /// The same number as [`Pending::id`].
    pub(crate) fn id(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    /// Takes the waker, or `None` if the task has fetched the reply without it or has gone away.
    pub(crate) fn take_waker(&self) -> Option<Waker> {
        self.0.take_waker()
    }

    /// Wakes the task with the waker that was taken from the slot.
    pub(crate) fn wake(self, waker: Option<Waker>) {
        // Dropped before the wake-up, so the caller is the last owner and frees the memory.
        quietly(|| drop(self));
        quietly(|| wake(waker));
    }
}
