//! The rows between the thread that reads them and the slices that write them.
//!
//! The thread of the job pushes batches and waits while there are as many as there is room for. The slice, on the writer thread,
//! takes one after the other and never waits: a feed that is empty ends the slice. Only the thread of the job waits on the
//! condition variable. The slice notifies it, under the lock, when a batch has left and when the slice is over, and these
//! are all that the wait looks at. So no wake-up is lost. A slice that fails before it starts notifies no thread: the
//! wait ends every [`LOOK_EVERY`] for a look at its reply.
//!
//! Rows stay here until their transaction is committed. If it was rolled back, they are ready once more.

use std::collections::VecDeque;
use std::time::Duration;

use super::slice::Next;
use crate::runtime::sync::{Condvar, Mutex, MutexGuard};

/// See the module.
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(super) struct Batch<R> {
    rows: Vec<R>,
    /// The first row that is not written yet.
    next: usize,
}

impl<R> Batch<R> {
    pub(super) fn new(rows: Vec<R>) -> Self {
        Self { rows, next: 0 }
    }
}

pub(super) struct Feed<R> {
    /// Batches that may be ready.
    room: usize,
    state: Mutex<State<R>>,
    changed: Condvar,
}

struct State<R> {
    ready: VecDeque<Batch<R>>,
    /// Batches that the current slice has written.
    written: Vec<Batch<R>>,
    /// Where the slice began in its first batch.
    began_at: usize,
    is_running: bool,
}

/// What the thread of the job finds after its wait.
pub(super) enum Found {
    Room,
    /// There is no room. The slice is over, or it is time to look at its reply.
    NoRoom,
}

impl<R> Feed<R> {
    pub(super) fn new(room: usize) -> Self {
        Self {
            room,
            state: Mutex::new(State {
                ready: VecDeque::new(),
                written: Vec::new(),
                began_at: 0,
                is_running: false,
            }),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<R>> {
        self.state.lock()
    }

    pub(super) fn push(&self, batch: Batch<R>) {
        self.lock().ready.push_back(batch);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().ready.is_empty()
    }

    /// Whether a slice was submitted and has not ended.
    pub(super) fn is_running(&self) -> bool {
        self.lock().is_running
    }

    /// Waits until there is room for a batch, or no slice runs.
    pub(super) fn wait(&self) -> Found {
        let mut state = self.lock();
        loop {
            if state.ready.len() < self.room {
                return Found::Room;
            }
            if !state.is_running {
                return Found::NoRoom;
            }
            let (guard, is_late) = self.changed.wait_timeout(state, LOOK_EVERY);
            if is_late {
                return Found::NoRoom;
            }
            state = guard;
        }
    }

    /// Before a slice is submitted.
    pub(super) fn begin(&self) {
        let mut state = self.lock();
        state.is_running = true;
        state.began_at = state.ready.front().map_or(0, |batch| batch.next);
    }

    /// For the slice: writes the rows one by one until there are none, or `write` says that it is over.
    pub(super) fn write_each<E>(&self, mut write: impl FnMut(&R) -> Result<Next, E>) -> Result<(), E> {
        loop {
            let Some(mut batch) = self.lock().ready.pop_front() else {
                return Ok(());
            };
            let mut next = Ok(Next::GoOn);
            while let Some(row) = batch.rows.get(batch.next) {
                next = write(row);
                batch.next += usize::from(matches!(next, Ok(Next::GoOn | Next::StopAfter)));
                if !matches!(next, Ok(Next::GoOn)) {
                    break;
                }
            }
            let mut state = self.lock();
            if batch.next < batch.rows.len() {
                state.ready.push_front(batch);
            } else {
                state.written.push(batch);
            }
            self.changed.notify_one();
            drop(state);
            if next? != Next::GoOn {
                return Ok(());
            }
        }
    }

    /// The slice is over. Its transaction is still to be committed.
    pub(super) fn end(&self) {
        self.lock().is_running = false;
        self.changed.notify_one();
    }

    /// The rows of the last slice are committed.
    pub(super) fn committed(&self) {
        let written = std::mem::take(&mut self.lock().written);
        drop(written);
    }

    /// The rows of the last slice were rolled back: they are ready again.
    pub(super) fn rolled_back(&self) {
        let mut state = self.lock();
        state.is_running = false;
        if let Some(partly) = state.ready.front_mut() {
            partly.next = 0;
        }
        while let Some(mut batch) = state.written.pop() {
            batch.next = 0;
            state.ready.push_front(batch);
        }
        let began_at = state.began_at;
        if let Some(first) = state.ready.front_mut() {
            first.next = began_at;
        }
    }
}
