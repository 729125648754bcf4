//! The pool of connections that read: check out, check in, wait, open another.

use super::{Reader, Readers};
use crate::error::{Error, Outcome, Result};
use crate::options::WhenFull;
use crate::queue::pending::Queue;
use crate::runtime::clock::Tick;
use crate::runtime::panic::{caught, quietly};
use crate::runtime::timer;
use crate::telemetry::event::event;
use crate::telemetry::slow_log::Slow;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use std::{mem, thread};

/// How often a read that waits for a connection checks whether the store has closed.
pub(super) const CLOSE_POLL: Duration = Duration::from_millis(50);

/// How often a read that finds no connection yields its core before it sleeps. The borrowers of the connections may be
/// waiting for that core.
pub(super) const YIELDS_BEFORE_SLEEP: u32 = 4;

/// A connection of the pool. Boxed, because each read moves it several times.
pub(super) type PooledReader = Box<Reader>;

impl Readers {
    pub(super) fn check_out(
        &self,
        timeout: Duration,
        when_full: WhenFull,
        on_writer_thread: bool,
    ) -> Result<CheckedOut<'_>> {
        let found = self.find(|| {
            self.waits.fetch_add(1, Ordering::Relaxed);
            self.wait_for_one(timeout, when_full, on_writer_thread)
        });
        found.map(|reader| self.checked_out(reader))
    }

    /// Goes on with the wait of a read whose [`check_out`](Self::check_out) was in vain.
    pub(super) fn check_out_again(&self, timeout: Duration) -> Result<CheckedOut<'_>> {
        let found = self.find(|| self.wait_for_one(timeout, WhenFull::Wait, false));
        found.map(|reader| self.checked_out(reader))
    }

    fn checked_out(&self, reader: PooledReader) -> CheckedOut<'_> {
        CheckedOut {
            readers: self,
            reader: Some(reader),
        }
    }

    /// Takes an idle connection, or waits for one.
    fn find(&self, wait: impl FnOnce() -> Result<PooledReader>) -> Result<PooledReader> {
        if self.queue.is_left() {
            return Err(Error::forked());
        }
        if self.active.is_closed() {
            return Err(Error::Closed);
        }
        match self.pop_idle() {
            Some(reader) => Ok(reader),
            None => wait(),
        }
    }

    pub(super) fn pop_idle(&self) -> Option<PooledReader> {
        let own = self.slots.own();
        own.count();
        own.take()
            .or_else(|| self.idle.lock().pop())
            .or_else(|| self.slots.take_any())
    }

    /// Returns a clean connection to the idle ones, and closes any other.
    pub(super) fn check_in(&self, reader: PooledReader) {
        if !reader.may_be_used_again() || self.active.is_closed() {
            let spoiled = reader.spoiled;
            drop(reader);
            // A read that found the pool full before is asleep once this thread has the lock. When it is woken, it
            // starts the opening of another connection.
            self.idle.lock().openings.closed();
            self.came_back.notify_one();
            if let Some(reason) = spoiled {
                event!(
                    warn,
                    "larder::read",
                    self.path,
                    { reason },
                    "a read left its connection in a bad state, so the connection was closed; another one opens when \
                     needed"
                );
            }
            return;
        }
        let Some(reader) = self.put_into_slot(reader) else {
            return;
        };
        let mut idle = self.idle.lock();
        let mut wake = idle.may_wake();
        if idle.is_a_sleepers_turn() {
            idle.kept.push(reader);
            wake = true;
        } else {
            idle.connections.push(reader);
        }
        drop(idle);
        if wake {
            self.came_back.notify_one();
        }
        if self.active.is_closed() {
            drop(self.pop_idle());
        }
    }

    /// Returns a connection to the slot of this thread. The result is `Some` if it has to be returned to all.
    fn put_into_slot(&self, reader: PooledReader) -> Option<PooledReader> {
        if self.sleepers.load(Ordering::Relaxed) > 0 {
            return Some(reader);
        }
        let own = self.slots.own();
        if let Some(reader) = own.put(reader) {
            return Some(reader);
        }
        if self.active.is_closed() {
            drop(self.pop_idle());
            return None;
        }
        // Loaded again, after the put.
        if self.sleepers.load(Ordering::Relaxed) > 0 {
            return own.take();
        }
        None
    }

    /// Sleeps until a connection was returned or opened, or `patience` is over, and takes a connection if there still
    /// is one.
    pub(super) fn sleep(
        &self,
        patience: Duration,
        when_full: WhenFull,
        on_writer_thread: bool,
    ) -> Result<Option<PooledReader>> {
        let mut idle = self.idle.lock();
        if let Some(reader) = idle.pop().or_else(|| self.slots.take_any()) {
            return Ok(Some(reader));
        }
        let may_wait = when_full == WhenFull::Wait && !on_writer_thread;
        if !may_wait && idle.openings.is_full() {
            drop(idle);
            return Err(self.full(on_writer_thread));
        }
        if idle.openings.begin(Instant::now()) {
            drop(idle);
            self.open_in_background();
            idle = self.idle.lock();
            if let Some(reader) = idle.pop() {
                return Ok(Some(reader));
            }
        }
        if idle.sleepers == 0 {
            idle.last_turn = Some(Tick::now());
        }
        idle.sleepers += 1;
        self.sleepers.store(idle.sleepers, Ordering::Relaxed);
        let found = self.slots.take_any();
        if found.is_none() {
            idle = self.came_back.wait_timeout(idle, patience).0;
        }
        idle.sleepers -= 1;
        self.sleepers.store(idle.sleepers, Ordering::Relaxed);
        if let Some(reader) = found {
            return Ok(Some(reader));
        }
        idle.waking = false;
        let found = idle.kept.pop().or_else(|| idle.connections.pop());
        let wake = !idle.connections.is_empty() && idle.may_wake();
        drop(idle);
        if wake {
            self.came_back.notify_one();
        }
        Ok(found)
    }

    /// The error of a read that finds every connection in use and may not wait for one.
    pub(super) fn full(&self, on_writer_thread: bool) -> Error {
        let capacity = self.size as usize;
        if on_writer_thread || self.active.held_by_this_thread() == capacity {
            return reentrant();
        }
        Error::QueueFull {
            capacity,
            context: None,
        }
    }

    /// Runs an opening that has begun, on a timer thread. It does not borrow from the read that wanted it.
    pub(super) fn open_in_background(&self) {
        let this = self.this.upgrade().expect("a read borrows from its Arc");
        timer::at(Instant::now(), move || while this.open_one() {});
    }

    /// Opens the connection whose opening has begun. Returns whether another opening has begun afterwards.
    pub(super) fn open_one(&self) -> bool {
        let reason = match caught(|| self.manager.open(self.options.busy_timeout)) {
            Some(Ok(reader)) => {
                let mut idle = self.idle.lock();
                idle.openings.succeeded();
                let another = idle.wants_more() && idle.openings.begin(Instant::now());
                drop(idle);
                self.check_in(Box::new(reader));
                return another;
            }
            Some(Err(error)) => reason_of(error),
            None => "larder panicked; please report this bug".to_owned(),
        };
        self.idle.lock().openings.failed(reason, Instant::now());
        false
    }

    /// Waits until one of the connections is returned or another is opened, since all open ones are in use.
    pub(super) fn wait_for_one(
        &self,
        timeout: Duration,
        when_full: WhenFull,
        on_writer_thread: bool,
    ) -> Result<PooledReader> {
        let start = Instant::now();
        for _ in 0..YIELDS_BEFORE_SLEEP {
            thread::yield_now();
            if let Some(reader) = self.pop_idle() {
                return Ok(reader);
            }
        }
        loop {
            let left = timeout.saturating_sub(start.elapsed());
            if let Some(reader) = self.sleep(left.min(CLOSE_POLL), when_full, on_writer_thread)? {
                return Ok(reader);
            }
            if self.active.is_closed() {
                return Err(Error::Closed);
            }
            // Not before the first wait, because inspecting every connection takes longer than a read.
            let held_here = self.active.held_by_this_thread();
            if held_here == self.size as usize {
                return Err(reentrant());
            }
            // Not by `left`, because a sleeper may have been woken early and found nothing.
            if start.elapsed() >= timeout {
                return self.last_try(start, held_here);
            }
        }
    }

    /// Takes a connection for a read whose timeout is over, if one is idle now. The read began to wait at `start`.
    pub(super) fn last_try(&self, start: Instant, held_here: usize) -> Result<PooledReader> {
        let mut idle = self.idle.lock();
        if let Some(reader) = idle.pop().or_else(|| self.slots.take_any()) {
            return Ok(reader);
        }
        let last_error = idle.openings.trouble(Instant::now());
        drop(idle);
        Err(Error::ReadQueueTimeout {
            waited: start.elapsed(),
            readers: self.size,
            held_here,
            last_error,
            context: None,
        })
    }
}

/// Why a connection was not opened. An error of `on_connect` is user code.
pub(super) fn reason_of(error: Error) -> String {
    let text = caught(|| error.to_string());
    quietly(|| drop(error));
    text.unwrap_or_else(|| "Options::on_connect gave an error whose Display panicked".into())
}

pub(super) fn reentrant() -> Error {
    Error::Reentrant {
        call: "read",
        instead: "all readers are in use, and this thread holds them or runs a write: use the transaction \
                  passed to the closure, or raise Options::readers",
        outcome: Outcome::NotStarted,
    }
}

/// A connection of the pool, in use.
pub(super) struct CheckedOut<'r> {
    pub(super) readers: &'r Readers,
    /// `Some` until the drop.
    pub(super) reader: Option<PooledReader>,
}

impl CheckedOut<'_> {
    pub(super) fn reader(&mut self) -> &mut Reader {
        self.reader.as_mut().expect("it is there until the drop")
    }

    /// Returns the connection to the pool, and the pending reports of slow reads on it.
    pub(super) fn give_back(mut self) -> Vec<Slow> {
        mem::take(&mut self.reader().slow)
    }
}

impl Drop for CheckedOut<'_> {
    fn drop(&mut self) {
        if let Some(mut reader) = self.reader.take() {
            if self.readers.queue.is_left() {
                return mem::forget(reader);
            }
            if !reader.clean {
                reader.end_snapshot();
            }
            self.readers.check_in(reader);
        }
    }
}
