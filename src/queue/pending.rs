//! [`Pending`], the caller's handle on a job, which waits for the reply at the job's slot (`slot.rs`).
//!
//! A caller that blocks wakes itself at its deadline and withdraws the job. A task is woken for that by the queue's
//! alarm. `Pending` is public, and so is not generic over what the queue carries: it holds the queue as `dyn`
//! [`Queue`].

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::Ticket;
use super::slot::{ABANDONED, IN_LINE, Reply, STARTED, Slot, Withdrawn, wake};
use super::spin::AdaptiveSpin;
use crate::error::{Error, Outcome, Result};
use crate::runtime::clock::later;
use crate::runtime::panic::quietly;
use crate::runtime::sync::atomic::Ordering;
use crate::runtime::sync::thread::{self, Thread};
use crate::runtime::sync::{Arc, Instant};
use crate::telemetry::call_site::CallSite;

/// A job as its caller sees it.
pub(crate) trait Waits<T>: Send + Sync {
    fn slot(&self) -> &Slot<T>;

    /// The call that queued it.
    fn site(&self) -> &CallSite;

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

    /// Counts a job that its caller has withdrawn at its deadline.
    fn timed_out(&self);

    /// The task of the job with that [`Pending::id`] has its reply, or has gone away.
    fn fetched(&self, id: usize);

    /// Makes sure that a task which awaits a job with that deadline is woken once the deadline has passed.
    fn wake_at(&self, deadline: Instant);

    /// The error of a job whose deadline passed before its start.
    fn too_late(&self, waited: Duration) -> Error;

    /// The error of a call that would wait for its own thread. The write that it would wait for goes on.
    fn reentrant(&self, call: &'static str) -> Error;
}

/// A write queued by [`Store::submit`](crate::Store::submit).
///
/// Wait for its result with [`wait`](Self::wait), or `.await` it on any runtime. Dropping the `Pending` discards the
/// result, and the write goes on.
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

    /// Blocks until the write is committed or has failed.
    ///
    /// # Errors
    ///
    /// The errors of [`Store::write`](crate::Store::write). On the writer thread it returns [`Error::Reentrant`] unless
    /// the result has arrived already, and the write goes on.
    ///
    /// # Panics
    ///
    /// If the closure panicked. The panic resumes on the calling thread.
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

    /// Blocks for at most `timeout`. It returns `None` if there is no result yet; the write goes on, and the call can
    /// be repeated.
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
            if !park_until(Some(self.deadline)) && self.time_out() {
                return Err(self.too_late());
            }
        }
    }

    /// As [`wait_for_room`](Self::wait_for_room), for a task; or until there is a reply.
    pub(crate) fn poll_room(&self, context: &Context<'_>, until_reply: bool) -> Poll<Result<()>> {
        if self.queue.is_left() {
            return Poll::Ready(Err(self.forked()));
        }
        // A waker is the runtime's code, so it is neither cloned nor dropped under the lock.
        let waker = context.waker().clone();
        let mut inner = self.slot().lock();
        if inner.ready || !until_reply && self.slot().stage.load(Ordering::SeqCst) != IN_LINE {
            return Poll::Ready(Ok(()));
        }
        let old = inner.waker.replace(waker);
        drop(inner);
        drop(old);
        if self.queue.is_worker() {
            return Poll::Ready(Err(self.queue.reentrant("submit_async")));
        }
        if self.slot().has_started() {
            return Poll::Pending;
        }
        if Instant::now() >= self.deadline && self.time_out() {
            return Poll::Ready(Err(self.too_late()));
        }
        self.queue.wake_at(self.deadline);
        Poll::Pending
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
                if self.time_out() {
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

    /// Withdraws the job at its deadline, unless it has started.
    fn time_out(&self) -> bool {
        self.withdraw(|| self.queue.timed_out())
    }

    /// Withdraws the job, unless it has started.
    fn give_up(&self) -> bool {
        self.withdraw(|| {})
    }

    /// Withdraws the job, and calls `count`, unless it has started or was withdrawn before.
    fn withdraw(&self, count: impl FnOnce()) -> bool {
        match self.slot().withdraw() {
            Withdrawn::TooLate => return self.slot().is_withdrawn(),
            Withdrawn::Now => count(),
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

    /// Whether this process is a child forked from the process of the workers.
    pub(crate) fn is_left(&self) -> bool {
        self.queue.is_left()
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
        let error = self.queue.too_late(self.asked.elapsed());
        error.with_site(|| self.job.site().to_string())
    }
}

/// Resolves to the result of the closure once the write is committed, or to an error as [`wait`](Pending::wait) does.
/// On the writer thread it resolves to [`Error::Reentrant`] instead of waiting forever, and the write goes on.
///
/// # Panics
///
/// If the closure panicked; the panic resumes in the polling task. If it is polled again after it has resolved.
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
        if woken && Instant::now() >= self.deadline && self.time_out() {
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
