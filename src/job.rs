//! One write as the queue and the writer thread see it, whatever its closure and its result are.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::ffi;
use tracing::Span;

use crate::error::{Error, Result};
use crate::options::Durability;
use crate::pending::{Reply, Slot};
use crate::site::CallSite;
use crate::transaction::WriteTx;

/// What the writer has to know of a job before it runs it.
pub(crate) struct Terms {
    pub(crate) site: CallSite,
    pub(crate) durability: Durability,
    pub(crate) limit: Option<Duration>,
    pub(crate) asked: Instant,
    pub(crate) deadline: Instant,
    pub(crate) span: Span,
}

/// What the caller is told.
pub(crate) enum Verdict {
    /// What its closure came to.
    Own,
    /// This, whatever its closure came to.
    Failed(Error),
}

pub(crate) trait Job: Send {
    fn terms(&self) -> &Terms;
    /// See [`Slot`] for these four.
    fn get_in_line(&self);
    fn leave_line(&self) -> bool;
    fn start(&self) -> bool;
    fn is_withdrawn(&self) -> bool;
    /// Runs the closure, keeps what it came to, and says whether that was `Ok`, or else the kind of its error.
    fn run(&mut self, tx: &WriteTx<'_>) -> std::result::Result<(), &'static str>;
    fn finish(self: Box<Self>, verdict: Verdict);
}

pub(crate) struct Write<F, T> {
    terms: Terms,
    closure: Option<F>,
    reply: Option<Reply<T>>,
    slot: Arc<Slot<T>>,
    finished: bool,
}

impl<F, T> Write<F, T> {
    pub(crate) fn new(terms: Terms, closure: F, slot: Arc<Slot<T>>) -> Self {
        Self {
            terms,
            closure: Some(closure),
            reply: None,
            slot,
            finished: false,
        }
    }
}

impl<F, T> Job for Write<F, T>
where
    F: FnOnce(&WriteTx<'_>) -> Result<T> + Send,
    T: Send,
{
    fn terms(&self) -> &Terms {
        &self.terms
    }

    fn get_in_line(&self) {
        self.slot.get_in_line();
    }

    fn leave_line(&self) -> bool {
        self.slot.leave_line()
    }

    fn start(&self) -> bool {
        self.slot.start()
    }

    fn is_withdrawn(&self) -> bool {
        self.slot.is_withdrawn()
    }

    fn run(&mut self, tx: &WriteTx<'_>) -> std::result::Result<(), &'static str> {
        let Some(closure) = self.closure.take() else {
            return Err("run twice");
        };
        let span = &self.terms.span;
        let result = catch_unwind(AssertUnwindSafe(|| span.in_scope(|| closure(tx))));
        let reply = match result {
            Ok(result) => Reply::Returned(tx.judge(result)),
            Err(payload) => Reply::Panicked(payload),
        };
        let ended = match &reply {
            Reply::Returned(Ok(_)) => Ok(()),
            Reply::Returned(Err(error)) => Err(error.kind()),
            Reply::Panicked(_) => Err("panic"),
        };
        self.reply = Some(reply);
        ended
    }

    fn finish(mut self: Box<Self>, verdict: Verdict) {
        let (reply, unwanted) = match (verdict, self.reply.take()) {
            (Verdict::Own, Some(own)) => (own, None),
            (Verdict::Own, None) => (Reply::Returned(Err(Error::Closed)), None),
            (Verdict::Failed(error @ Error::Interrupted { .. }), own @ Some(Reply::Returned(_))) => {
                (Reply::Returned(Err(error)), own)
            }
            // Its own error or panic says more than what became of the others.
            (Verdict::Failed(_), Some(own @ (Reply::Returned(Err(_)) | Reply::Panicked(_)))) => (own, None),
            (Verdict::Failed(error), own) => (Reply::Returned(Err(error)), own),
        };
        self.finished = true;
        self.slot.complete(reply);
        // After the reply: it is user code, and may panic.
        drop(unwanted);
    }
}

/// Drops a job that nobody wants any more, and with it what its closure holds, which is user code and may panic.
pub(crate) fn drop_quietly(job: Box<dyn Job>) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(job)));
}

/// Finishes a job. A result that nobody waits for any more is dropped here, which is user code, too.
pub(crate) fn finish(job: Box<dyn Job>, verdict: Verdict) {
    let _ = catch_unwind(AssertUnwindSafe(|| job.finish(verdict)));
}

/// The last resort: a job that goes without a reply leaves one. It was in the queue of a store that has closed, or
/// (never, unless larder has a bug) on a writer thread that panicked.
impl<F, T> Drop for Write<F, T> {
    fn drop(&mut self) {
        if self.finished || self.slot.is_withdrawn() {
            return;
        }
        let error = if self.slot.has_started() {
            let source = ffi::Error::new(ffi::SQLITE_INTERNAL);
            let message = Some("larder's writer thread panicked: please report it".to_owned());
            Error::CommitUnknown {
                source: Arc::new(rusqlite::Error::SqliteFailure(source, message)),
            }
        } else {
            Error::Closed
        };
        self.slot.complete(Reply::Returned(Err(error)));
    }
}
