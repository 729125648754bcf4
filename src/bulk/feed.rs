//! The rows between the source that gives them and the slices that write them.
//!
//! Three parties share a feed, and its lock:
//!
//! - The source, on the thread that calls `run`, on one of its own, or in a task, puts one row after the other, and waits
//!   while there is no room.
//! - The driver, on another thread, waits until a slice is due, submits it, waits for its reply, and says whether
//!   its rows are committed. There is one slice at a time.
//! - The slice, on the writer thread, takes one batch after the other and never waits: a feed that is empty ends it.
//!
//! # A source that blocks
//!
//! No row is kept where only the source can reach it. Rows that are no batch yet are here, too (`open`), so the driver
//! submits them when they have waited for [`LINGER`], whatever the source does. A slice is due before that when half of
//! the room is taken, when the source has ended, and when it waits for a commit.
//!
//! # No wake-up is lost
//!
//! The source waits for room, for a commit, or for the end of the job. Each is a change of the state under the lock, by
//! the slice or the driver, which notify it afterwards. A task has left its waker under the same lock.
//!
//! The driver waits for the first row, for a full batch, for a request to commit, or for the end of the source, all changed
//! under the lock by the source, which notifies it; and for a time, by itself. The source notifies it only if
//! `driver_waits`: the driver sets this under the lock before it waits.
//!
//! # Bounds
//!
//! Rows stay here until their transaction is committed. If it was rolled back, they are ready once more. The source has to
//! wait while [`Room::batches`] are ready, or while all rows here have [`Room::bytes`]; the last row may exceed
//! them.

use std::any::Any;
use std::collections::VecDeque;
use std::mem;
use std::task::Waker;
#[cfg(feature = "async")]
use std::task::{Context, Poll};
use std::time::Duration;

use super::slice::Next;
use crate::error::Error;
use crate::runtime::panic::quietly;
use crate::runtime::sync::{Condvar, Instant, Mutex, MutexGuard};

/// How long rows wait for more of them.
pub(super) const LINGER: Duration = Duration::from_millis(10);

/// How many rows a feed holds.
#[derive(Clone, Copy)]
pub(super) struct Room {
    /// Rows and bytes of a batch.
    pub(super) batch_rows: usize,
    pub(super) batch_bytes: usize,
    /// Batches that may be ready.
    pub(super) batches: usize,
    /// Bytes of all rows that are not committed.
    pub(super) bytes: usize,
}

pub(super) struct Feed<R> {
    room: Room,
    state: Mutex<State<R>>,
    /// Notifies the source.
    for_source: Condvar,
    /// Notifies the driver.
    for_driver: Condvar,
}

struct Batch<R> {
    /// Each row with the bytes of its values.
    rows: Vec<(R, usize)>,
    /// The first row that is not written yet.
    next: usize,
    /// The first row that is not committed yet.
    committed: usize,
}

impl<R> Batch<R> {
    fn new(rows: Vec<(R, usize)>) -> Self {
        Self {
            rows,
            next: 0,
            committed: 0,
        }
    }

    /// Notes that what is written is committed. Returns the number of these rows, and their bytes.
    fn commit(&mut self) -> (usize, usize) {
        let rows = &self.rows[self.committed..self.next];
        self.committed = self.next;
        (rows.len(), rows.iter().map(|(_, bytes)| bytes).sum())
    }
}

struct State<R> {
    /// Rows that are no batch yet, and their bytes.
    open: Vec<(R, usize)>,
    open_bytes: usize,
    ready: VecDeque<Batch<R>>,
    /// Batches that the current slice has written.
    written: Vec<Batch<R>>,
    /// Rows that are not committed, and their bytes.
    rows: usize,
    bytes: usize,
    /// Since when rows wait for a slice.
    since: Option<Instant>,
    /// When the last slice was submitted.
    submitted: Option<Instant>,
    /// Rows that earlier runs have written, once they are known.
    #[cfg(feature = "async")]
    skip: Option<u64>,
    /// The source waits until all its rows are committed.
    asks_for_commit: bool,
    /// Taken by the driver at the end.
    ended: Option<Ended>,
    /// The number of rows that the source has yet to give, if it is known.
    left: Option<u64>,
    /// No slice will be submitted.
    is_over: bool,
    /// Of a source that is a task and waits.
    waker: Option<Waker>,
    driver_waits: bool,
}

/// How a source has ended.
pub(super) enum Ended {
    Done,
    Failed(Error),
    Panicked(Box<dyn Any + Send>),
}

/// What the driver finds.
pub(super) enum Found {
    /// Rows for a slice.
    Rows,
    /// Nothing yet.
    Nothing,
    /// No rows, and none will come.
    End(Ended),
}

/// The job is over: it takes no more rows.
#[derive(Debug)]
pub(super) struct Over;

/// When a slice is due.
enum Due {
    Now,
    In(Duration),
    /// When the source says so, unless it has ended.
    Open,
}

impl<R> State<R> {
    fn has_room(&self, room: &Room) -> bool {
        self.ready.len() < room.batches && self.bytes < room.bytes
    }

    fn push(&mut self, row: R, bytes: usize, room: &Room) -> bool {
        self.open.push((row, bytes));
        self.open_bytes += bytes;
        self.left = self.left.map(|left| left.saturating_sub(1));
        self.rows += 1;
        self.bytes += bytes;
        let is_full = self.open.len() >= room.batch_rows || self.open_bytes >= room.batch_bytes;
        if is_full {
            self.close_batch();
        }
        is_full
    }

    fn close_batch(&mut self) {
        if !self.open.is_empty() {
            let capacity = self.open.len();
            let rows = mem::replace(&mut self.open, Vec::with_capacity(capacity));
            self.ready.push_back(Batch::new(rows));
            self.open_bytes = 0;
        }
    }

    fn due(&self, room: &Room) -> Due {
        let Some(since) = self.since else { return Due::Open };
        let is_half_full = self.ready.len() * 2 >= room.batches || self.bytes >= room.bytes / 2;
        if is_half_full || self.ended.is_some() || self.asks_for_commit {
            return Due::Now;
        }
        match LINGER.checked_sub(since.elapsed()) {
            Some(left) if !left.is_zero() => Due::In(left),
            _ => Due::Now,
        }
    }

    /// After a slice: rows that it has left wait since before it.
    fn wait_on(&mut self) {
        if !self.ready.is_empty() {
            self.since = self.submitted;
        }
    }
}

impl<R> Feed<R> {
    pub(super) fn new(room: Room) -> Self {
        Self {
            room,
            state: Mutex::new(State {
                open: Vec::new(),
                open_bytes: 0,
                ready: VecDeque::new(),
                written: Vec::new(),
                rows: 0,
                bytes: 0,
                since: None,
                submitted: None,
                #[cfg(feature = "async")]
                skip: None,
                asks_for_commit: false,
                ended: None,
                left: None,
                is_over: false,
                waker: None,
                driver_waits: false,
            }),
            for_source: Condvar::new(),
            for_driver: Condvar::new(),
        }
    }

    /// A feed of these rows alone, for one slice.
    pub(super) fn of(rows: Vec<R>) -> Self {
        let feed = Self::new(Room {
            batch_rows: rows.len(),
            batch_bytes: usize::MAX,
            batches: 1,
            bytes: usize::MAX,
        });
        let batch = Batch::new(rows.into_iter().map(|row| (row, 0)).collect());
        feed.lock().ready.push_back(batch);
        feed
    }

    fn lock(&self) -> MutexGuard<'_, State<R>> {
        self.state.lock()
    }

    fn wake_source(&self, mut state: MutexGuard<'_, State<R>>) {
        let waker = state.waker.take();
        drop(state);
        self.for_source.notify_one();
        if let Some(waker) = waker {
            quietly(|| waker.wake());
        }
    }

    fn wake_driver(&self, state: MutexGuard<'_, State<R>>) {
        let waits = state.driver_waits;
        drop(state);
        if waits {
            self.for_driver.notify_one();
        }
    }
}

/// For the source.
impl<R> Feed<R> {
    /// Waits for room, and puts a row. Returns whether a batch is full with it.
    pub(super) fn put(&self, row: R, bytes: usize) -> Result<bool, Over> {
        let mut state = self.lock();
        while !state.is_over && !state.has_room(&self.room) {
            state = self.for_source.wait(state);
        }
        if state.is_over {
            return Err(Over);
        }
        Ok(self.put_now(state, row, bytes))
    }

    fn put_now(&self, mut state: MutexGuard<'_, State<R>>, row: R, bytes: usize) -> bool {
        let is_first = state.since.is_none();
        if is_first {
            state.since = Some(Instant::now());
        }
        let is_full = state.push(row, bytes, &self.room);
        if is_first || is_full {
            self.wake_driver(state);
        }
        is_full
    }

    /// The number of rows that are still to come, if the source knows it.
    pub(super) fn set_left(&self, left: Option<u64>) {
        self.lock().left = left;
    }

    /// Waits until all rows so far are committed.
    pub(super) fn wait_for_commit(&self) -> Result<(), Over> {
        let mut state = self.lock();
        while !state.is_over && state.rows > 0 {
            if !mem::replace(&mut state.asks_for_commit, true) && state.driver_waits {
                self.for_driver.notify_one();
            }
            state = self.for_source.wait(state);
        }
        state.asks_for_commit = false;
        if state.is_over { Err(Over) } else { Ok(()) }
    }

    pub(super) fn check(&self) -> Result<(), Over> {
        if self.lock().is_over { Err(Over) } else { Ok(()) }
    }

    pub(super) fn end(&self, ended: Ended) {
        let mut state = self.lock();
        if state.is_over {
            drop(state);
            // It may be a panic, whose drop is user code.
            return quietly(|| drop(ended));
        }
        state.ended = Some(ended);
        self.wake_driver(state);
    }
}

/// For a source that is a task.
#[cfg(feature = "async")]
impl<R> Feed<R> {
    /// The number of rows that earlier runs have written.
    pub(super) fn poll_skip(&self, context: &Context<'_>) -> Poll<Result<u64, Over>> {
        self.poll_state(context, |state, _| state.skip)
    }

    /// Ready once a row may be put.
    pub(super) fn poll_room(&self, context: &Context<'_>) -> Poll<Result<(), Over>> {
        self.poll_state(context, |state, room| state.has_room(room).then_some(()))
    }

    fn poll_state<T>(
        &self,
        context: &Context<'_>,
        look: impl Fn(&State<R>, &Room) -> Option<T>,
    ) -> Poll<Result<T, Over>> {
        let mut state = self.lock();
        if state.is_over {
            return Poll::Ready(Err(Over));
        }
        if let Some(found) = look(&state, &self.room) {
            return Poll::Ready(Ok(found));
        }
        drop(state);
        // A waker is the runtime's code, so it is neither cloned nor dropped under the lock.
        let waker = context.waker().clone();
        state = self.lock();
        let old = state.waker.replace(waker);
        let found = look(&state, &self.room);
        let is_over = state.is_over;
        drop(state);
        drop(old);
        match found {
            _ if is_over => Poll::Ready(Err(Over)),
            Some(found) => Poll::Ready(Ok(found)),
            None => Poll::Pending,
        }
    }

    /// Puts a row, after [`poll_room`](Self::poll_room).
    pub(super) fn put_polled(&self, row: R, bytes: usize) -> bool {
        let state = self.lock();
        if state.is_over {
            return false;
        }
        self.put_now(state, row, bytes)
    }
}

/// For the driver.
impl<R> Feed<R> {
    /// Waits until a slice is due, or the source has ended, but no longer than that.
    pub(super) fn wait(&self, at_most: Duration) -> Found {
        let began = Instant::now();
        let mut state = self.lock();
        loop {
            let left = at_most.saturating_sub(began.elapsed());
            let wait = match state.due(&self.room) {
                Due::Now => {
                    state.close_batch();
                    state.since = None;
                    state.submitted = Some(Instant::now());
                    return Found::Rows;
                }
                Due::In(time) => time.min(left),
                Due::Open => match state.ended.take() {
                    Some(ended) => return Found::End(ended),
                    None => left,
                },
            };
            if left.is_zero() {
                return Found::Nothing;
            }
            state.driver_waits = true;
            state = self.for_driver.wait_timeout(state, wait).0;
            state.driver_waits = false;
        }
    }

    /// The number of rows that are not committed yet, with those that are still to come, if the source knows it.
    pub(super) fn left(&self) -> Option<u64> {
        let state = self.lock();
        state.left.map(|left| left.saturating_add(state.rows as u64))
    }

    /// Lets a source that is a task begin.
    #[cfg(feature = "async")]
    pub(super) fn begin(&self, skip: u64) {
        let mut state = self.lock();
        state.skip = Some(skip);
        self.wake_source(state);
    }

    /// The rows of the last slice are committed. Returns the bytes of their values.
    pub(super) fn committed(&self) -> usize {
        let mut state = self.lock();
        let mut written = mem::take(&mut state.written);
        let (mut rows, mut bytes) = (0, 0);
        for batch in written.iter_mut().chain(state.ready.front_mut()) {
            let (more_rows, more_bytes) = batch.commit();
            rows += more_rows;
            bytes += more_bytes;
        }
        state.rows -= rows;
        state.bytes -= bytes;
        state.wait_on();
        self.wake_source(state);
        drop(written);
        bytes
    }

    /// The rows of the last slice were rolled back: they are ready again.
    pub(super) fn rolled_back(&self) {
        let mut state = self.lock();
        if let Some(partly) = state.ready.front_mut() {
            partly.next = partly.committed;
        }
        while let Some(mut batch) = state.written.pop() {
            batch.next = batch.committed;
            state.ready.push_front(batch);
        }
        state.wait_on();
    }

    /// The job is over. Drops all rows.
    pub(super) fn over(&self) {
        let mut state = self.lock();
        state.is_over = true;
        let rows = (
            mem::take(&mut state.open),
            mem::take(&mut state.ready),
            mem::take(&mut state.written),
            state.ended.take(),
        );
        self.wake_source(state);
        quietly(|| drop(rows));
    }
}

/// For the slice.
impl<R> Feed<R> {
    /// Writes the rows one by one until there are none, or `write` says that it is over.
    pub(super) fn write_each<E>(&self, mut write: impl FnMut(&R) -> Result<Next, E>) -> Result<(), E> {
        loop {
            let mut state = self.lock();
            let Some(mut batch) = state.ready.pop_front() else {
                return Ok(());
            };
            self.wake_source(state);
            let mut next = Ok(Next::GoOn);
            while let Some((row, _)) = batch.rows.get(batch.next) {
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
            drop(state);
            if next? != Next::GoOn {
                return Ok(());
            }
        }
    }
}
