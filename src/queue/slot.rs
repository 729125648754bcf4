//! The slot of a job: how far the job is, and its reply.
//!
//! The `Job`, owned by the queue and then by one of its workers, and the `Pending`, owned by the caller, share one slot
//! (`job.rs`). The slot has two shared parts:
//!
//! - `stage`, an atomic. It only moves forward: in line -> queued -> started -> abandoned, or from either of the first
//!   two to withdrawn. Each move is one compare-and-swap, so a deadline and a start cannot both win. The worker moves
//!   it to *started*, and must reply. The caller moves it to *withdrawn*, and must not expect a reply. *Abandoned* is a
//!   job whose caller has gone away since the start: its reply will not be read.
//! - `inner`, a mutex around the reply and the caller's waker. The worker stores the reply, possibly before the caller
//!   may see it. It then marks the reply as ready and takes the waker under the lock, and wakes after it has released
//!   the lock. The caller checks for a ready reply and leaves its waker under the same lock. So either the caller sees
//!   the reply or the worker sees the waker: no wake-up is lost.
//!
//! An async read differs: the worker leaves the waker in the slot, for the thread that is to wake the task
//! (`wake_relay.rs`). A task that comes by itself takes its waker out together with the reply. The alarm
//! (`queue/mod.rs`) also takes the waker and wakes it; its task then checks the clock and leaves its waker again. No
//! other lock is taken under `inner`.
//!
//! A job that is dropped without a reply leaves one itself (`job.rs`), so each slot gets exactly one.
//!
//! Where cores are far apart, the cost of an async read is mostly the cache lines that travel between the two cores. So
//! a slot is small, and holds the reply in one place.

use crate::error::Result;
use crate::runtime::panic::quietly;
use crate::runtime::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use crate::runtime::sync::{Mutex, MutexGuard};
use std::any::Any;
use std::panic::resume_unwind;
use std::task::{Context, Poll, Waker};

/// The result of a closure.
pub(crate) enum Reply<T> {
    Returned(Result<T>),
    Panicked(Box<dyn Any + Send>),
}

impl<T> Reply<T> {
    pub(super) fn deliver(self) -> Result<T> {
        match self {
            Reply::Returned(result) => result,
            Reply::Panicked(payload) => resume_unwind(payload),
        }
    }
}

pub(super) const IN_LINE: u8 = 0;
const QUEUED: u8 = 1;
pub(super) const STARTED: u8 = 2;
const WITHDRAWN: u8 = 3;
pub(super) const ABANDONED: u8 = 4;

/// How the caller waits for the reply.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Caller {
    /// A blocked thread.
    Thread,
    /// A thread that first waits only until its job is in the queue.
    Submitter,
    /// An async task, which does nothing else while it waits.
    Task,
    /// An async task that first waits only until its job is in the queue.
    SubmittingTask,
}

/// `repr(C)` fixes the order: the reply keeps `done` away from the lock. A caller that spins on `done` would slow down
/// the worker's locking if the two shared a cache line.
#[repr(C)]
pub(crate) struct Slot<T> {
    pub(super) stage: AtomicU8,
    pub(super) caller: Caller,
    pub(super) inner: Mutex<Inner<T>>,
    /// True once the reply is in the slot, so that a spinning caller need not take the lock. Not used for a task.
    pub(super) done: AtomicBool,
}

#[repr(C)]
pub(super) struct Inner<T> {
    /// Whether the caller may take the reply.
    pub(super) ready: bool,
    pub(super) waker: Option<Waker>,
    pub(super) reply: Option<Reply<T>>,
}

impl<T> Inner<T> {
    /// Takes the reply, if it is ready, and a waker that is not woken yet. The waker is to be woken without the lock.
    pub(super) fn take(&mut self) -> Option<(Reply<T>, Option<Waker>)> {
        if !self.ready {
            return None;
        }
        let reply = self.reply.take();
        let reply = reply.expect("the result of this write has been taken already");
        Some((reply, self.waker.take()))
    }
}

pub(super) enum Withdrawn {
    Now,
    /// The job has started, and its reply will come, or it was withdrawn before.
    TooLate,
}

impl<T> Slot<T> {
    pub(crate) fn new(caller: Caller) -> Self {
        const { assert!(size_of::<Option<Reply<T>>>() >= 64, "done is on a line of its own") };
        Self {
            stage: AtomicU8::new(QUEUED),
            caller,
            inner: Mutex::new(Inner {
                ready: false,
                waker: None,
                reply: None,
            }),
            done: AtomicBool::new(false),
        }
    }

    /// The queue is full, so the job joins the line. Called before another thread can see the slot.
    pub(crate) fn get_in_line(&self) {
        self.stage.store(IN_LINE, Ordering::SeqCst);
    }

    /// Moves the job from the line into the queue, unless it was withdrawn. Returns the waker of a submitter. It may be a
    /// runtime's, so it must not be woken here, where the queue's lock is held.
    #[must_use]
    pub(crate) fn leave_line(&self) -> Option<Waker> {
        // Under the lock, because a submitter checks the stage under it.
        let mut inner = self.lock();
        let moved = self.advance(IN_LINE, QUEUED);
        let submits = matches!(self.caller, Caller::Submitter | Caller::SubmittingTask);
        (moved && submits).then(|| inner.waker.take()).flatten()
    }

    /// Starts the job on a worker, unless it was withdrawn.
    pub(crate) fn start(&self) -> bool {
        self.advance(QUEUED, STARTED)
    }

    pub(crate) fn is_withdrawn(&self) -> bool {
        self.stage.load(Ordering::SeqCst) == WITHDRAWN
    }

    pub(crate) fn has_started(&self) -> bool {
        !matches!(self.stage.load(Ordering::SeqCst), IN_LINE | QUEUED | WITHDRAWN)
    }

    /// Whether the caller went away after the start.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.stage.load(Ordering::Relaxed) == ABANDONED
    }

    /// Takes the waker, to be woken by the calling thread.
    pub(crate) fn take_waker(&self) -> Option<Waker> {
        self.lock().waker.take()
    }

    /// Stores a reply that the caller may not take yet.
    pub(crate) fn keep(&self, reply: Reply<T>) {
        self.lock().reply = Some(reply);
    }

    /// Takes the stored reply back, to be replaced by another.
    pub(crate) fn take_kept(&self) -> Option<Reply<T>> {
        self.lock().reply.take()
    }

    /// Leaves the reply and wakes the caller.
    pub(crate) fn complete(&self, reply: Reply<T>) {
        let mut inner = self.lock();
        // Dropped without the lock, because the drop runs user code.
        let kept = inner.reply.replace(reply);
        wake(self.reveal(inner));
        drop(kept);
    }

    /// Leaves the reply of a task that is not woken yet.
    pub(crate) fn answer(&self, reply: Reply<T>) {
        let mut inner = self.lock();
        inner.reply = Some(reply);
        inner.ready = true;
    }

    /// Makes the stored reply ready, and returns the waker to wake.
    #[must_use]
    pub(crate) fn complete_with_kept(&self) -> Option<Waker> {
        let inner = self.lock();
        assert!(inner.reply.is_some(), "a job that is told its own result has run");
        self.reveal(inner)
    }

    fn reveal(&self, mut inner: MutexGuard<'_, Inner<T>>) -> Option<Waker> {
        inner.ready = true;
        let waker = inner.waker.take();
        drop(inner);
        if self.caller != Caller::Task {
            self.done.store(true, Ordering::Release);
        }
        waker
    }

    /// Takes the reply, or leaves the waker of that context. `again` says that the task has polled before.
    pub(crate) fn poll_reply(&self, context: &Context<'_>, again: bool) -> Poll<Result<T>> {
        // A waker is the runtime's code, so it is neither cloned nor dropped under the lock. A task that polls again
        // was most likely woken by the reply, and needs no clone.
        let mut waker = (!again).then(|| context.waker().clone());
        loop {
            let mut inner = self.lock();
            if let Some((reply, unwoken)) = inner.take() {
                drop(inner);
                quietly(|| wake(unwoken));
                return Poll::Ready(reply.deliver());
            }
            if let Some(waker) = waker {
                let old = inner.waker.replace(waker);
                drop(inner);
                drop(old);
                return Poll::Pending;
            }
            drop(inner);
            waker = Some(context.waker().clone());
        }
    }

    pub(super) fn withdraw(&self) -> Withdrawn {
        if self.advance(IN_LINE, WITHDRAWN) || self.advance(QUEUED, WITHDRAWN) {
            Withdrawn::Now
        } else {
            Withdrawn::TooLate
        }
    }

    pub(super) fn advance(&self, from: u8, to: u8) -> bool {
        self.stage
            .compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock()
    }
}

pub(crate) fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
