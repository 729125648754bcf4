//! One job: what it does, its terms, and the slot for its reply, in one allocation.
//!
//! There are three kinds. A closure given to [`Store::write`](crate::Store::write) runs [`InTransaction`], which it may
//! share with others. What larder does itself runs [`Alone`]: it has the writer to itself, and no transaction is open. A
//! closure given to `Store::read_async` runs [`InSnapshot`], on a reader thread.
//!
//! Two hands hold it. The [`Job`] goes through the queue to the thread that runs and finishes it; the
//! [`Pending`](crate::Pending) stays with the caller and waits at the slot. One allocation, since the caller's
//! allocator would otherwise go without the memory that the writer frees, and it is the caller who is last to let go.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;
use std::time::Duration;

use rusqlite::ffi;

use crate::admission::Admission;
use crate::error::{Error, Result};
use crate::event::CallerSpan;
use crate::fork::{self, Process};
use crate::options::Durability;
use crate::panics::{caught, quietly};
use crate::pending::{Caller, Pending, Reply, Slot, Waits, wake};
use crate::readers::Snapshot;
use crate::runtime::cancellation::{self, Cancelled};
use crate::site::CallSite;
use crate::sync::{Arc, Instant, Mutex, PoisonError};
use crate::transaction::ReadTx;
use crate::transaction::WriteTx;
use crate::writer::Writer;

/// Where a job runs.
pub(crate) enum Place<'a, 'tx> {
    Transaction(&'a WriteTx<'tx>),
    Alone(&'a mut Writer),
    Snapshot(&'a mut Snapshot<'tx>),
}

/// What a job does.
pub(crate) trait Work<T>: Send {
    /// Which [`Place`] it is run in.
    const ALONE: bool;

    /// What is said of it if it was begun, and its thread panicked, which would be a bug of larder's.
    fn lost(source: rusqlite::Error) -> Error {
        Error::CommitUnknown {
            source: Arc::new(source),
        }
    }

    fn run(self, place: Place<'_, '_>) -> Result<T>;
}

/// Work in a transaction of the writer's, which it may share with other jobs.
pub(crate) struct InTransaction<F>(pub(crate) F);

impl<F, T> Work<T> for InTransaction<F>
where
    F: FnOnce(&WriteTx<'_>) -> Result<T> + Send,
{
    const ALONE: bool = false;

    fn run(self, place: Place<'_, '_>) -> Result<T> {
        match place {
            Place::Transaction(tx) => tx.judge((self.0)(tx)),
            _ => unreachable!("the writer looks at ALONE, and readers have a queue of their own"),
        }
    }
}

/// Work that has the writer to itself, with no transaction open.
pub(crate) struct Alone<F>(pub(crate) F);

impl<F, T> Work<T> for Alone<F>
where
    F: FnOnce(&mut Writer) -> Result<T> + Send,
{
    const ALONE: bool = true;

    fn run(self, place: Place<'_, '_>) -> Result<T> {
        match place {
            Place::Alone(writer) => (self.0)(writer),
            _ => unreachable!("the writer looks at ALONE, and readers have a queue of their own"),
        }
    }
}

/// Work in a snapshot of a reader thread's, which it may share with other jobs. The second is how long it may run.
pub(crate) struct InSnapshot<F>(pub(crate) F, pub(crate) Option<Duration>);

impl<F, T> Work<T> for InSnapshot<F>
where
    F: FnOnce(&ReadTx<'_>) -> Result<T> + Send,
{
    const ALONE: bool = false;

    fn run(self, place: Place<'_, '_>) -> Result<T> {
        match place {
            Place::Snapshot(snapshot) => snapshot.read(self.1, self.0),
            _ => unreachable!("only reader threads take from the queue of reads"),
        }
    }

    fn lost(source: rusqlite::Error) -> Error {
        Error::not_started(source)
    }
}

/// What has to be known of a job before it is run.
pub(crate) struct Terms {
    pub(crate) site: CallSite,
    pub(crate) durability: Durability,
    pub(crate) limit: Option<Duration>,
    pub(crate) asked: Instant,
    pub(crate) deadline: Instant,
    pub(crate) span: CallerSpan,
}

/// What the caller is told.
pub(crate) enum Verdict {
    /// What its closure came to.
    Own,
    /// This, whatever its closure came to.
    Failed(Error),
}

/// What both hands hold, in this order: what is read and written beside what is only read.
#[repr(C)]
pub(crate) struct Asked<W, T> {
    terms: Terms,
    /// There until it is run. Taken by the hand that has the `Job`, and by who has withdrawn it, so hardly anybody ever
    /// waits for the lock.
    work: Mutex<Option<W>>,
    slot: Slot<T>,
}

impl<W, T> Asked<W, T> {
    pub(crate) fn new(terms: Terms, work: W, slot: Slot<T>) -> Self {
        let work = Mutex::new(Some(work));
        Self { terms, work, slot }
    }

    fn take_work(&self) -> Option<W> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<W: Work<T>, T> Asked<W, T> {
    /// What the closure comes to, unless it was called before.
    fn call(&self, place: Place<'_, '_>) -> Option<Reply<T>> {
        let work = self.take_work()?;
        let span = &self.terms.span;
        let process = Process::current();
        let called = catch_unwind(AssertUnwindSafe(|| span.in_scope(|| work.run(place))));
        if process.is_left() {
            fork::end_child();
        }
        Some(called.map_or_else(Reply::Panicked, Reply::Returned))
    }
}

impl<W: Send, T: Send> Waits<T> for Asked<W, T> {
    fn slot(&self) -> &Slot<T> {
        &self.slot
    }

    fn drop_work(&self) {
        // Not under the lock: what the closure holds is user code.
        let work = self.take_work();
        quietly(|| drop(work));
    }
}

/// A job as the queue and its worker see it, whatever its work and its result are.
trait Task: Cancelled + Send + Sync {
    fn terms(&self) -> &Terms;
    /// See [`Slot`] for these.
    fn get_in_line(&self);
    fn leave_line(&self);
    fn start(&self) -> bool;
    fn is_withdrawn(&self) -> bool;
    fn take_waker(&self) -> Option<Waker>;
    fn is_alone(&self) -> bool;
    fn run(&self, place: Place<'_, '_>) -> std::result::Result<(), &'static str>;
    fn answer(&self, place: Place<'_, '_>);
    /// Gives back who is to be woken.
    #[must_use]
    fn finish(&self, verdict: Verdict) -> Option<Waker>;
    /// The job goes without having been finished.
    fn abandon(&self);
}

impl<W, T> Cancelled for Asked<W, T> {
    fn is_cancelled(&self) -> bool {
        self.slot.is_abandoned()
    }
}

impl<W: Work<T>, T: Send> Task for Asked<W, T> {
    fn terms(&self) -> &Terms {
        &self.terms
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

    fn is_alone(&self) -> bool {
        W::ALONE
    }

    fn run(&self, place: Place<'_, '_>) -> std::result::Result<(), &'static str> {
        let Some(own) = self.call(place) else {
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

    fn answer(&self, place: Place<'_, '_>) {
        if let Some(own) = self.call(place) {
            self.slot.answer(own);
        }
    }

    fn finish(&self, verdict: Verdict) -> Option<Waker> {
        let Verdict::Failed(error) = verdict else {
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
                let source = ffi::Error::new(ffi::SQLITE_INTERNAL);
                let message = Some("a thread of larder's panicked: please report it".to_owned());
                W::lost(rusqlite::Error::SqliteFailure(source, message))
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
pub(crate) struct Job {
    /// There until it is finished or dropped.
    task: Option<Arc<dyn Task>>,
}

impl Job {
    /// Both hands on a new job, for that queue.
    pub(crate) fn new<W, T>(terms: Terms, work: W, caller: Caller, admission: Arc<Admission>) -> (Self, Pending<T>)
    where
        W: Work<T> + 'static,
        T: Send + 'static,
    {
        let (asked, deadline) = (terms.asked, terms.deadline);
        let both = Arc::new(Asked::new(terms, work, Slot::new(caller)));
        let job = Self {
            task: Some(Arc::clone(&both) as Arc<dyn Task>),
        };
        (job, Pending::new(both, admission, asked, deadline))
    }

    fn task(&self) -> &dyn Task {
        self.task.as_deref().expect("it is there until the job is finished")
    }

    pub(crate) fn terms(&self) -> &Terms {
        self.task().terms()
    }

    /// See [`Slot::get_in_line`].
    pub(crate) fn get_in_line(&self) {
        self.task().get_in_line();
    }

    /// See [`Slot::leave_line`].
    pub(crate) fn leave_line(&self) {
        self.task().leave_line();
    }

    /// See [`Slot::start`].
    pub(crate) fn start(&self) -> bool {
        self.task().start()
    }

    /// See [`Slot::is_withdrawn`].
    pub(crate) fn is_withdrawn(&self) -> bool {
        self.task().is_withdrawn()
    }

    /// See [`Slot::take_waker`].
    pub(crate) fn take_waker(&self) -> Option<Waker> {
        self.task().take_waker()
    }

    /// Whether it is to run in [`Place::Alone`].
    pub(crate) fn is_alone(&self) -> bool {
        self.task().is_alone()
    }

    /// Does the work, keeps what it came to, and says whether that was `Ok`, or else the kind of its error.
    pub(crate) fn run(&self, place: Place<'_, '_>) -> std::result::Result<(), &'static str> {
        self.task().run(place)
    }

    /// Does the work, for a task, and leaves what it came to at the slot. Meanwhile the thread knows whether the task has
    /// gone away ([`cancellation::is_cancelled`]).
    pub(crate) fn answer(mut self, place: Place<'_, '_>) -> Answered {
        let task = self.task.clone().expect("it is there until the job is finished");
        cancellation::with(Arc::clone(&task) as Arc<dyn Cancelled>, || task.answer(place));
        // Until here a panic of larder's own would have the job reply as it is dropped.
        self.task = None;
        Answered(task)
    }

    /// Tells the caller. A result that nobody waits for any more is dropped here: that is user code, and may panic. So
    /// are wakers.
    pub(crate) fn finish(mut self, verdict: Verdict) {
        let task = self.task.take();
        let waker = caught(|| task.as_ref().and_then(|task| task.finish(verdict)));
        // First, so that it is the caller who frees the memory.
        quietly(|| drop(task));
        quietly(|| wake(waker.flatten()));
    }
}

/// For whoever holds it and runs it otherwise: the model check's writer.
impl Cancelled for Job {
    fn is_cancelled(&self) -> bool {
        self.task().is_cancelled()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let task = self.task.take();
        quietly(|| {
            if let Some(task) = &task {
                task.abandon();
            }
        });
        quietly(|| drop(task));
    }
}

/// A job whose reply is there for its task, which is still to be woken.
pub(crate) struct Answered(Arc<dyn Task>);

impl Answered {
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
