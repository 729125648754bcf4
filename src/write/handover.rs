//! One request at a time from the writer thread to a thread that helps it, and the result back.
//!
//! The state has a lock, and nothing is taken under it. The writer thread asks only after it has taken the last result, so
//! there is never more than one of either. The other thread waits on the condition variable for a request, or for the
//! end; the writer thread, which mostly only looks, may wait there for the result. Each change that one of them waits for
//! is made under the lock, and notified after it; and a wait looks at the state before it sleeps: no wake-up is lost. An
//! end that comes during a request lets the request end first.

use std::time::Duration;

use crate::runtime::sync::{Condvar, Mutex};

pub(super) struct Handover<R> {
    state: Mutex<State<R>>,
    changed: Condvar,
}

struct State<R> {
    stage: Stage<R>,
    has_ended: bool,
}

enum Stage<R> {
    Idle,
    Asked,
    Running,
    Done(R),
}

impl<R> Handover<R> {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                stage: Stage::Idle,
                has_ended: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// For the writer thread, which has taken the last result: makes a request.
    pub(super) fn ask(&self) {
        let mut state = self.state.lock();
        debug_assert!(matches!(state.stage, Stage::Idle), "one request at a time");
        state.stage = Stage::Asked;
        self.changed.notify_all();
    }

    /// For the writer thread: takes the result, if it is there.
    pub(super) fn take(&self) -> Option<R> {
        self.state.lock().take()
    }

    /// For the writer thread: waits for the result. `None` if there was no request.
    pub(super) fn wait(&self) -> Option<R> {
        let mut state = self.state.lock();
        while matches!(state.stage, Stage::Asked | Stage::Running) {
            state = self.changed.wait(state);
        }
        state.take()
    }

    /// For the writer thread: waits for the result for at most that long, and leaves it. Returns whether no request runs.
    pub(super) fn is_over_within(&self, time: Duration) -> bool {
        let mut state = self.state.lock();
        let runs = |state: &State<R>| matches!(state.stage, Stage::Asked | Stage::Running);
        if runs(&state) {
            (state, _) = self.changed.wait_timeout(state, time);
        }
        !runs(&state)
    }

    /// For the writer thread: no request follows.
    pub(super) fn end(&self) {
        self.state.lock().has_ended = true;
        self.changed.notify_all();
    }

    /// For the other thread: waits for a request. False at the end.
    pub(super) fn next(&self) -> bool {
        let mut state = self.state.lock();
        loop {
            if matches!(state.stage, Stage::Asked) {
                state.stage = Stage::Running;
                return true;
            }
            if state.has_ended {
                return false;
            }
            state = self.changed.wait(state);
        }
    }

    /// For the other thread: leaves the result of the request.
    pub(super) fn done(&self, result: R) {
        self.state.lock().stage = Stage::Done(result);
        self.changed.notify_all();
    }
}

impl<R> State<R> {
    fn take(&mut self) -> Option<R> {
        match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Done(result) => Some(result),
            other => {
                self.stage = other;
                None
            }
        }
    }
}
