//! The progress callback of a long operation, which may cancel it.
//!
//! SQLite calls the progress handler of a connection between the steps of its work, on the thread that does the work
//! (`connection/interrupt.rs`), and the handler calls the callback. rusqlite would catch a panic of the callback and go
//! on. So an [`Observed`] catches it, stops the work, and resumes the panic once the connection is restored.

use std::any::Any;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use rusqlite::Connection;

use crate::connection::interrupt::{Interrupt, Watching};
use crate::error::{Error, Result};
use crate::runtime::clock::Tick;
use crate::runtime::sync::{Arc, Mutex, MutexGuard};

type Callback<S> = Box<dyn FnMut(S, Duration) -> ControlFlow<()> + Send>;

/// Returns the error that stops the work, if it has to stop.
type Limit = Box<dyn Fn() -> Option<Error> + Send>;

/// Work with a progress callback, or without one. `S` is the type of its stages.
pub(crate) struct ProgressReporter<S> {
    /// Only the thread that does the work locks it. The mutex exists because rusqlite requires handlers to be `Send`.
    state: Arc<Mutex<ReporterState<S>>>,
}

struct ReporterState<S> {
    stage: S,
    every: Duration,
    began: Tick,
    /// When the callback was last called.
    last: Tick,
    /// `None` while it is called.
    callback: Option<Callback<S>>,
    limit: Option<Limit>,
    stop: Option<StopReason>,
}

/// Why the work stops.
enum StopReason {
    Cancelled,
    AtLimit(Error),
    Panicked(Box<dyn Any + Send>),
}

impl<S: Copy + Send + 'static> ProgressReporter<S> {
    pub(crate) fn new(stage: S) -> Self {
        let now = Tick::now();
        Self {
            state: Arc::new(Mutex::new(ReporterState {
                stage,
                every: Duration::ZERO,
                began: now,
                last: now,
                callback: None,
                limit: None,
                stop: None,
            })),
        }
    }

    /// Sets the callback, which is called at most once per `every`.
    pub(crate) fn call(&self, every: Duration, callback: impl FnMut(S, Duration) -> ControlFlow<()> + Send + 'static) {
        let mut state = self.lock();
        state.every = every;
        state.callback = Some(Box::new(callback));
    }

    /// Sets a limit that each look checks too: a timeout, or the closing of the store.
    pub(crate) fn set_limit(&self, limit: impl Fn() -> Option<Error> + Send + 'static) {
        self.lock().limit = Some(Box::new(limit));
    }

    /// Another handle of the same work.
    pub(crate) fn handle(&self) -> Self {
        Self {
            state: Arc::clone(&self.state),
        }
    }

    /// Marks the start of the work.
    pub(crate) fn begin(&self) {
        let mut state = self.lock();
        state.began = Tick::now();
        state.last = state.began;
    }

    /// Watches the SQL on a connection until the guard is dropped.
    #[must_use = "the watching ends when the guard is dropped"]
    pub(crate) fn watch<'c>(&self, conn: &'c Connection, interrupt: &'c Arc<Interrupt>) -> Option<Watching<'c>> {
        let state = self.lock();
        if state.callback.is_none() && state.limit.is_none() {
            return None;
        }
        drop(state);
        let reporter = self.handle();
        Some(interrupt.watch(conn, move || reporter.poll().is_break()))
    }

    /// Enters a stage.
    pub(crate) fn enter(&self, stage: S) -> ControlFlow<()> {
        self.lock().stage = stage;
        self.poll()
    }

    /// Enters a stage without a look at whether the work goes on.
    #[cfg(feature = "replicate")]
    pub(crate) fn note(&self, stage: S) {
        self.lock().stage = stage;
    }

    /// Enters a stage, and calls the callback even if it is not due.
    pub(crate) fn report(&self, stage: S) -> ControlFlow<()> {
        let mut state = self.lock();
        state.stage = stage;
        if state.is_stopped() {
            return ControlFlow::Break(());
        }
        self.call_back(state)
    }

    pub(crate) fn stage(&self) -> S {
        self.lock().stage
    }

    /// Calls the callback if it is due, and returns whether the work goes on.
    pub(crate) fn poll(&self) -> ControlFlow<()> {
        let mut state = self.lock();
        if state.is_stopped() {
            return ControlFlow::Break(());
        }
        if state.last.elapsed() < state.every {
            return ControlFlow::Continue(());
        }
        self.call_back(state)
    }

    /// Calls the callback without the lock.
    fn call_back(&self, mut state: MutexGuard<'_, ReporterState<S>>) -> ControlFlow<()> {
        let Some(mut callback) = state.callback.take() else {
            return ControlFlow::Continue(());
        };
        let (stage, elapsed) = (state.stage, state.began.elapsed());
        drop(state);
        let said = catch_unwind(AssertUnwindSafe(|| callback(stage, elapsed)));
        let mut state = self.lock();
        state.callback = Some(callback);
        state.last = Tick::now();
        state.stop = match said {
            Ok(ControlFlow::Continue(())) => None,
            Ok(ControlFlow::Break(())) => Some(StopReason::Cancelled),
            Err(payload) => Some(StopReason::Panicked(payload)),
        };
        state.verdict()
    }

    /// Returns why the work was stopped. Call it once the connection is restored.
    ///
    /// # Errors
    ///
    /// [`Error::Cancelled`], or the error of the limit.
    ///
    /// # Panics
    ///
    /// If the callback panicked.
    pub(crate) fn end(&self, work: &'static str) -> Result<()> {
        let stop = self.lock().stop.take();
        match stop {
            None => Ok(()),
            Some(StopReason::Cancelled) => Err(Error::Cancelled { work }),
            Some(StopReason::AtLimit(error)) => Err(error),
            Some(StopReason::Panicked(payload)) => resume_unwind(payload),
        }
    }

    fn lock(&self) -> MutexGuard<'_, ReporterState<S>> {
        self.state.lock()
    }
}

impl<S> ReporterState<S> {
    /// Whether the work has to stop, by the callback or by the limit.
    fn is_stopped(&mut self) -> bool {
        if self.stop.is_none() {
            let reached = self.limit.as_ref().and_then(|limit| limit());
            self.stop = reached.map(StopReason::AtLimit);
        }
        self.stop.is_some()
    }

    fn verdict(&self) -> ControlFlow<()> {
        match self.stop {
            None => ControlFlow::Continue(()),
            Some(_) => ControlFlow::Break(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callback_runs_only_when_due_and_until_stopped() {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&calls);
        let reporter = ProgressReporter::new(0);
        reporter.call(Duration::from_secs(3600), move |stage, _| {
            seen.lock().push(stage);
            ControlFlow::Break(())
        });
        reporter.begin();
        assert!(reporter.enter(1).is_continue());
        reporter.lock().every = Duration::ZERO;
        assert!(reporter.enter(2).is_break());
        assert!(reporter.enter(3).is_break());
        assert_eq!(*calls.lock(), [2]);
        assert!(matches!(reporter.end("it"), Err(Error::Cancelled { work: "it" })));
    }
}
