//! The slot in which a job's reply is left, and [`Pending`], the caller's handle that waits for it.
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

use std::any::Any;
use std::future::Future;
use std::mem;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::Ticket;
use super::spin::AdaptiveSpin;
use crate::error::{Error, Outcome, Result};
use crate::runtime::clock::later;
use crate::runtime::panic::quietly;
use crate::runtime::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use crate::runtime::sync::thread::{self, Thread};
use crate::runtime::sync::{Arc, Instant, Mutex, MutexGuard};

/// The result of a closure.
pub(crate) enum Reply<T> {
    Returned(Result<T>),
    Panicked(Box<dyn Any + Send>),
}

impl<T> Reply<T> {
    fn deliver(self) -> Result<T> {
        match self {
            Reply::Returned(result) => result,
            Reply::Panicked(payload) => resume_unwind(payload),
        }
    }
}

const IN_LINE: u8 = 0;
const QUEUED: u8 = 1;
const STARTED: u8 = 2;
const WITHDRAWN: u8 = 3;
const ABANDONED: u8 = 4;

/// How the caller waits for the reply.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Caller {
    /// A blocked thread.
    Thread,
    /// A thread that first waits only until its job is in the queue.
    Submitter,
    /// An async task, which does nothing else while it waits.
    Task,
}

/// `repr(C)` fixes the order: the reply keeps `done` away from the lock. A caller that spins on `done` would slow down
/// the worker's locking if the two shared a cache line.
#[repr(C)]
pub(crate) struct Slot<T> {
    stage: AtomicU8,
    caller: Caller,
    inner: Mutex<Inner<T>>,
    /// True once the reply is in the slot, so that a spinning caller need not take the lock. Not used for a task.
    done: AtomicBool,
}

#[repr(C)]
struct Inner<T> {
    /// Whether the caller may take the reply.
    ready: bool,
    waker: Option<Waker>,
    reply: Option<Reply<T>>,
}

impl<T> Inner<T> {
    /// Takes the reply, if it is ready, and a waker that is not woken yet. The waker is to be woken without the lock.
    fn take(&mut self) -> Option<(Reply<T>, Option<Waker>)> {
        if !self.ready {
            return None;
        }
        let reply = self.reply.take();
        let reply = reply.expect("the result of this write has been taken already");
        Some((reply, self.waker.take()))
    }
}

/// A job as its caller sees it.
pub(crate) trait Waits<T>: Send + Sync {
    fn slot(&self) -> &Slot<T>;

    /// Drops the closure of a job that was withdrawn or refused, since it will not run.
    fn drop_work(&self);
}

/// The queue that holds a job, independent of what it carries.
pub(crate) trait Queue: Send + Sync {
    /// Whether this process is a child forked from the process of the workers. No thread serves the queue here, and its
    /// locks may stay held.
    fn is_left(&self) -> bool;

    /// Whether the calling thread is one of the workers.
    fn is_worker(&self) -> bool;

    fn spin(&self) -> &AdaptiveSpin;

    /// Removes a job that its caller has withdrawn. The removal is immediate, so that a stuck worker and impatient
    /// callers do not make the line grow without end.
    fn withdrawn(&self, ticket: Ticket);

    /// The task of the job with that [`Pending::id`] has its reply, or has gone away.
    fn fetched(&self, id: usize);

    /// Makes sure that a task which awaits a job with that deadline is woken once the deadline has passed.
    fn wake_at(&self, deadline: Instant);

    /// The error of a job whose deadline passed before its start.
    fn too_late(&self, waited: Duration) -> Error;

    /// The error of a call that would wait for its own thread. The write that it would wait for goes on.
    fn reentrant(&self, call: &'static str) -> Error;
}

enum Withdrawn {
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

    /// Moves the job from the line into the queue, unless it was withdrawn.
    pub(crate) fn leave_line(&self) {
        // Under the lock, because `wait_for_room` checks the stage under it. So the waker taken here is that of a
        // thread. A runtime's waker must not be woken here, where the queue's lock is held.
        let mut inner = self.lock();
        let moved = self.advance(IN_LINE, QUEUED);
        let waker = if moved && self.caller == Caller::Submitter {
            inner.waker.take()
        } else {
            None
        };
        drop(inner);
        wake(waker);
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

    fn withdraw(&self) -> Withdrawn {
        if self.advance(IN_LINE, WITHDRAWN) || self.advance(QUEUED, WITHDRAWN) {
            Withdrawn::Now
        } else {
            Withdrawn::TooLate
        }
    }

    fn advance(&self, from: u8, to: u8) -> bool {
        self.stage
            .compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock()
    }
}

pub(crate) fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// A write that was queued by [`Store::submit`](crate::Store::submit).
///
/// Wait for it with [`wait`](Self::wait), or `.await` it on any runtime. Dropping it lets the write go on, and
/// discards its result.
#[must_use = "dropping a Pending lets the write go on and loses its result: `wait` for it, or `.await` it"]
pub struct Pending<T> {
    job: Arc<dyn Waits<T>>,
    queue: Arc<dyn Queue>,
    /// The place of the job in the queue.
    ticket: Ticket,
    asked: Instant,
    deadline: Instant,
    /// A task has polled before, so a further poll means that it was woken.
    polled: bool,
    /// A task has received the reply.
    answered: bool,
}

impl<T> Pending<T> {
    /// For a job that is in that queue or its line.
    pub(crate) fn new(
        job: Arc<dyn Waits<T>>,
        queue: Arc<dyn Queue>,
        ticket: Ticket,
        asked: Instant,
        deadline: Instant,
    ) -> Self {
        Self {
            job,
            queue,
            ticket,
            asked,
            deadline,
            polled: false,
            answered: false,
        }
    }

    /// Blocks until the write is committed, or is known not to be.
    ///
    /// # Errors
    ///
    /// The closure's own error; [`Error::QueueTimeout`] if it could not be started in time; the rest as
    /// [`Store::write`](crate::Store::write); [`Error::Reentrant`] on the writer thread itself, unless the result is there
    /// already: the write goes on then.
    ///
    /// # Panics
    ///
    /// If the closure panicked: its panic goes on here.
    pub fn wait(self) -> Result<T> {
        if self.queue.is_left() {
            return Err(self.forked());
        }
        if self.queue.is_worker() {
            return self
                .reply_now()
                .unwrap_or_else(|| Err(self.queue.reentrant("Pending::wait")));
        }
        match self.reply_by(None) {
            Some(reply) => reply.deliver(),
            None => Err(self.too_late()),
        }
    }

    /// Blocks for at most `timeout`. `None` means that there is no result yet: the write goes on, and this can be
    /// called again.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    ///
    /// # Panics
    ///
    /// As [`wait`](Self::wait), and if the result has been taken already.
    pub fn wait_timeout(&mut self, timeout: Duration) -> Option<Result<T>> {
        if self.queue.is_left() {
            return Some(Err(self.forked()));
        }
        if self.queue.is_worker() {
            let reply = self.reply_now();
            return reply.or_else(|| Some(Err(self.queue.reentrant("Pending::wait_timeout"))));
        }
        let until = later(Instant::now(), timeout);
        match self.reply_by(Some(until)) {
            Some(reply) => Some(reply.deliver()),
            None if self.slot().is_withdrawn() => Some(Err(self.too_late())),
            None => None,
        }
    }

    /// The result of the write, if it is known. For a worker, which cannot wait.
    fn reply_now(&self) -> Option<Result<T>> {
        let reply = self.slot().lock().take();
        if let Some((reply, unwoken)) = reply {
            quietly(|| wake(unwoken));
            return Some(reply.deliver());
        }
        self.slot().is_withdrawn().then(|| Err(self.too_late()))
    }

    /// Blocks until the write is in the queue or its deadline has passed.
    pub(crate) fn wait_for_room(&self) -> Result<()> {
        loop {
            let mut inner = self.slot().lock();
            if inner.ready || self.slot().stage.load(Ordering::SeqCst) != IN_LINE {
                return Ok(());
            }
            let old = inner.waker.replace(thread_waker());
            drop(inner);
            drop(old);
            if !park_until(Some(self.deadline)) && self.give_up() {
                return Err(self.too_late());
            }
        }
    }

    /// The reply, or `None` once `until` has passed or the write was withdrawn at its deadline.
    fn reply_by(&self, until: Option<Instant>) -> Option<Reply<T>> {
        let waiting = self.queue.spin().wait();
        let soonest = until.map_or(self.deadline, |until| until.min(self.deadline));
        waiting.spin_for_reply(soonest, || self.slot().done.load(Ordering::Acquire));
        let mut may_withdraw = true;
        loop {
            let mut inner = self.slot().lock();
            if let Some((reply, unwoken)) = inner.take() {
                drop(inner);
                quietly(|| wake(unwoken));
                return Some(reply);
            }
            let old = inner.waker.replace(thread_waker());
            drop(inner);
            drop(old);
            let deadline = may_withdraw.then_some(self.deadline);
            let next = [until, deadline].into_iter().flatten().min();
            if park_until(next) {
                continue;
            }
            if deadline == next {
                if self.give_up() {
                    return None;
                }
                may_withdraw = false;
            } else {
                return None;
            }
        }
    }

    fn slot(&self) -> &Slot<T> {
        self.job.slot()
    }

    /// The job's address: a number that no other live job shares.
    fn id(&self) -> usize {
        Arc::as_ptr(&self.job).addr()
    }

    /// Withdraws the job, unless it has started.
    fn give_up(&self) -> bool {
        match self.slot().withdraw() {
            Withdrawn::TooLate => return self.slot().is_withdrawn(),
            Withdrawn::Now => {}
        }
        self.queue.withdrawn(self.ticket);
        // The closure is dropped now, on this thread, even if a worker already holds the job.
        self.job.drop_work();
        // Last, because dropping a waker runs user code and may panic.
        drop(self.slot().take_waker());
        true
    }

    /// The error for a caller that cannot wait. A write that has not started is withdrawn, and the error says so.
    pub(crate) fn withdraw_unwaited(&self, error: Error) -> Error {
        match error {
            Error::Reentrant { call, instead, .. } if !self.answered && self.give_up() => Error::Reentrant {
                call,
                instead,
                outcome: Outcome::NotStarted,
            },
            other => other,
        }
    }

    /// The caller goes away. A job that has not started never starts.
    pub(crate) fn abandon(&self) {
        if !self.answered && !self.queue.is_left() && !self.give_up() {
            self.slot().advance(STARTED, ABANDONED);
            let waker = self.slot().take_waker();
            self.queue.fetched(self.id());
            // Last, because dropping a waker runs user code and may panic.
            drop(waker);
        }
    }

    /// The error in a forked child. The write goes on in the process that queued it.
    fn forked(&self) -> Error {
        Error::Forked {
            outcome: Outcome::Unknown,
        }
    }

    fn too_late(&self) -> Error {
        self.queue.too_late(self.asked.elapsed())
    }
}

/// Resolves to the closure's result once it is committed. A write that could not be started in time resolves to
/// [`Error::QueueTimeout`].
///
/// On the writer thread itself, where waiting would be for ever, it resolves to [`Error::Reentrant`], and the write goes
/// on.
///
/// # Panics
///
/// If the closure panicked: its panic goes on here. If it is polled after it gave the closure's result.
impl<T> Future for Pending<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.queue.is_left() {
            return Poll::Ready(Err(self.forked()));
        }
        let polled = self.polled;
        if let ready @ Poll::Ready(_) = self.slot().poll_reply(context, polled) {
            self.answered = true;
            self.queue.fetched(self.id());
            return ready;
        }
        if self.queue.is_worker() {
            return Poll::Ready(Err(self.queue.reentrant("Pending::poll")));
        }
        if self.slot().has_started() {
            return Poll::Pending;
        }
        // No clock is read on the first poll: if the deadline has passed, the alarm rings at once.
        let woken = mem::replace(&mut self.polled, true);
        if woken && Instant::now() >= self.deadline && self.give_up() {
            return Poll::Ready(Err(self.too_late()));
        }
        self.queue.wake_at(self.deadline);
        Poll::Pending
    }
}

impl<T> std::fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pending")
            .field("done", &self.slot().done.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}

/// Sleeps until woken (`true`, possibly spuriously) or until `until` has passed (`false`).
fn park_until(until: Option<Instant>) -> bool {
    let Some(until) = until else {
        thread::park();
        return true;
    };
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return false;
    }
    thread::park_timeout(left);
    true
}

fn thread_waker() -> Waker {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    thread_local! {
        static WAKER: Waker = Waker::from(Arc::new(Unpark(thread::current())));
    }
    // In the destructor of another thread-local, `WAKER` may be gone already. Each wait then makes a new waker.
    WAKER
        .try_with(Waker::clone)
        .unwrap_or_else(|_| Waker::from(Arc::new(Unpark(thread::current()))))
}
