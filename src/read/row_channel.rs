//! The rows of one stream, on their way from its thread to its task.
//!
//! # Who owns what
//!
//! - The *producer* is a stream thread (`streams.rs`). It owns the connection, the snapshot and the statement, makes a
//!   value of each row and [`push`](RowChannel::push)es it.
//! - The *consumer* is the task that polls the stream (`store/streams.rs`). It owns the values that it has taken, all of
//!   the channel's at a time, and returns them one by one.
//! - The channel owns the values between the two: fewer than [`ROWS`] and [`BYTES`], and one row beyond. The consumer
//!   takes them only when it has none left, so a stream holds at most twice as much.
//!
//! The end of the stream does not come through the channel. It is the reply of the stream's job (`queue/slot.rs`), which
//! is sent after the last row was pushed and the connection was returned. So a consumer that has the reply takes the
//! rows once more, and has them all.
//!
//! # Why no wake-up is lost
//!
//! One mutex guards the rows, the consumer's waker, and whether the consumer has gone. The consumer leaves its waker
//! under the lock under which it has seen that there are no rows; the producer takes the waker under the lock under which
//! it pushes a row, and wakes it after the release. So either the consumer sees the row or the producer sees the waker.
//! The consumer leaves its waker with the job, too, and only then returns `Pending`: the reply wakes it as well.
//!
//! The producer waits on the condition variable, under the same lock, while the channel is full and the consumer is there.
//! Both change only under the lock: the consumer takes the rows, or goes, and then notifies a producer that waits. A
//! closing store and the time limits notify no one. So the producer wakes itself at its deadline, and each
//! [`CLOSE_POLL`] to see whether the store closes, as a read does that waits for a connection, and whether the consumer
//! has polled. The consumer takes no lock to say so, since most of its polls find a row that it owns: it sets a flag,
//! which the producer clears. A poll counts from the producer's next look, which is at most one [`CLOSE_POLL`] later.
//!
//! # Why no deadlock is possible
//!
//! No other lock is taken under this one, and no code of the user's runs under it: wakers are cloned, woken and dropped
//! without it, and so are rows. The consumer never blocks on it for longer than a push or a swap. The producer waits for
//! the consumer, and the consumer for the producer, but never both: the one waits while there are rows, the other while
//! there are none. A consumer that never comes back keeps the producer and its connection until the time limit of the
//! read, until it has not polled for the idle limit, or until the store closes; a consumer that is dropped ends both at
//! once, since the producer sees that at its next row, in its wait, or in the middle of a statement
//! (`runtime/cancellation.rs`).

use std::collections::VecDeque;
use std::mem;
use std::task::{Context, Waker};
use std::time::Duration;

use super::CLOSE_POLL;
use crate::runtime::panic::quietly;
use crate::runtime::sync::atomic::{AtomicBool, Ordering};
use crate::runtime::sync::{Condvar, Instant, Mutex, MutexGuard};

/// The channel is full with so many rows.
const ROWS: usize = 256;

/// The channel is full with so many bytes, which bounds it where rows are large.
const BYTES: usize = 256 * 1024;

pub(crate) struct RowChannel<T> {
    state: Mutex<State<T>>,
    /// There is room, or the consumer has gone.
    changed: Condvar,
    /// As `State::has_gone`, for the progress handler.
    has_gone: AtomicBool,
    /// Whether the consumer has polled since the producer looked.
    has_polled: AtomicBool,
}

struct State<T> {
    rows: VecDeque<T>,
    /// The bytes of `rows`.
    bytes: usize,
    /// The consumer's, if it waits for a row.
    waker: Option<Waker>,
    /// Whether the producer waits for room.
    producer_waits: bool,
    /// Whether the consumer has gone.
    has_gone: bool,
}

impl<T> State<T> {
    fn is_full(&self) -> bool {
        self.rows.len() >= ROWS || self.bytes >= BYTES
    }
}

/// Why the producer stops.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Stop {
    /// The stream was dropped.
    ConsumerGone,
    /// The store closes.
    Closing,
    /// The time limit was over while it waited for room.
    Late,
    /// The consumer did not poll for too long while it waited for room.
    Idle,
}

/// What bounds the wait of the producer.
pub(super) struct Patience {
    /// The end of the time limit.
    pub(super) deadline: Option<Instant>,
    /// How long the consumer may go without a poll.
    pub(super) idle: Duration,
}

impl Patience {
    /// How long the producer may wait on, if the consumer last polled at `polled`.
    fn left(&self, now: Instant, polled: Instant) -> Result<Duration, Stop> {
        let idle = self.idle.saturating_sub(now - polled);
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(now));
        match left {
            Some(Duration::ZERO) => Err(Stop::Late),
            _ if idle.is_zero() => Err(Stop::Idle),
            _ => Ok(left.map_or(idle, |left| left.min(idle))),
        }
    }
}

impl<T> RowChannel<T> {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                rows: VecDeque::new(),
                bytes: 0,
                waker: None,
                producer_waits: false,
                has_gone: false,
            }),
            changed: Condvar::new(),
            has_gone: AtomicBool::new(false),
            has_polled: AtomicBool::new(false),
        }
    }

    /// Hands over a row. Waits for room as long as `patience` says, and calls `waited` with the time, part by part.
    pub(super) fn push(
        &self,
        row: T,
        bytes: usize,
        patience: impl FnOnce() -> Patience,
        waited: impl FnMut(Duration),
        closes: impl Fn() -> bool,
    ) -> Result<(), Stop> {
        let mut state = self.state.lock();
        if state.is_full() && !state.has_gone {
            let result;
            (state, result) = self.wait_for_room(state, &patience(), waited, &closes);
            result?;
        }
        let stop = if state.has_gone {
            Some(Stop::ConsumerGone)
        } else {
            closes().then_some(Stop::Closing)
        };
        if let Some(stop) = stop {
            // The row is dropped after the lock.
            drop(state);
            return Err(stop);
        }
        state.rows.push_back(row);
        state.bytes += bytes;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            quietly(|| waker.wake());
        }
        Ok(())
    }

    /// Waits until there is room or the consumer has gone.
    fn wait_for_room<'a>(
        &'a self,
        mut state: MutexGuard<'a, State<T>>,
        patience: &Patience,
        mut waited: impl FnMut(Duration),
        closes: impl Fn() -> bool,
    ) -> (MutexGuard<'a, State<T>>, Result<(), Stop>) {
        state.producer_waits = true;
        let mut now = Instant::now();
        let mut polled = now;
        let result = loop {
            if !state.is_full() || state.has_gone {
                break Ok(());
            }
            if closes() {
                break Err(Stop::Closing);
            }
            if self.has_polled.swap(false, Ordering::Relaxed) {
                polled = now;
            }
            let left = match patience.left(now, polled) {
                Ok(left) => left,
                Err(stop) => break Err(stop),
            };
            (state, _) = self.changed.wait_timeout(state, left.min(CLOSE_POLL));
            let before = mem::replace(&mut now, Instant::now());
            waited(now - before);
        };
        state.producer_waits = false;
        (state, result)
    }

    /// The consumer asks for a row. It takes no lock.
    pub(crate) fn poll(&self) {
        if !self.has_polled.load(Ordering::Relaxed) {
            self.has_polled.store(true, Ordering::Relaxed);
        }
    }

    /// Takes all rows into `rows`, which is empty, and returns whether there are any. Otherwise it leaves the task's
    /// waker.
    pub(crate) fn take(&self, rows: &mut VecDeque<T>, context: &Context<'_>) -> bool {
        // A waker is the runtime's code, so it is neither cloned nor dropped under the lock.
        let mut waker = None;
        loop {
            let mut state = self.state.lock();
            if !state.rows.is_empty() {
                self.swap(state, rows);
                return true;
            }
            if waker.is_some() {
                mem::swap(&mut state.waker, &mut waker);
                drop(state);
                return false;
            }
            drop(state);
            waker = Some(context.waker().clone());
        }
    }

    /// As [`take`](Self::take), once no more rows are pushed.
    pub(crate) fn take_rest(&self, rows: &mut VecDeque<T>) {
        self.swap(self.state.lock(), rows);
    }

    fn swap(&self, mut state: MutexGuard<'_, State<T>>, rows: &mut VecDeque<T>) {
        mem::swap(&mut state.rows, rows);
        state.bytes = 0;
        let (waits, stale) = (state.producer_waits, state.waker.take());
        drop(state);
        if waits {
            self.changed.notify_one();
        }
        drop(stale);
    }

    /// The consumer goes, and takes no more rows.
    pub(crate) fn leave(&self) {
        self.has_gone.store(true, Ordering::Relaxed);
        let mut state = self.state.lock();
        state.has_gone = true;
        let rest = (mem::take(&mut state.rows), state.waker.take());
        drop(state);
        self.changed.notify_one();
        drop(rest);
    }

    /// Whether the consumer has gone. It takes no lock.
    pub(super) fn is_abandoned(&self) -> bool {
        self.has_gone.load(Ordering::Relaxed)
    }
}
