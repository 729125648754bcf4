//! The one place that stops SQL on a connection, and the record of why it was stopped.
//!
//! SQLite has one progress handler and one trace callback per connection. Only this file sets them, so no part of
//! larder overwrites another's.
//!
//! # The reasons
//!
//! | reason | set by | checked |
//! |---|---|---|
//! | a [`Limit`]: of a write, of a read, of a reader's age | [`Interrupt::bound`], for one closure | inside a statement, at the start of each, at each of its rows, at the end of the closure |
//! | the task of a read was dropped | `runtime/cancellation.rs` | inside a statement, at the start of each |
//! | a watcher: a progress callback, a backup's time-out, the store closes, a write waits for idle maintenance | [`Interrupt::watch`] | inside a statement, at the start of each |
//!
//! # The places
//!
//! - **Inside a statement:** the progress handler, set once when the connection is opened. SQLite counts the steps of a
//!   prepared statement over all its runs, so a statement that a closure holds and runs in a loop reaches the handler,
//!   too.
//! - **At the start of a statement, and at its rows:** many short statements, or one with other code between its runs
//!   or rows, reach the handler late or never. So larder's own methods check before each statement. For a closure with
//!   a limit, and for watched work, SQLite's trace callback also reports each statement that starts, larder's or the
//!   closure's, and the rows of a limited one; a late statement is interrupted. A closure with a task and no limit is
//!   traced from the moment when it uses the connection directly ([`OnRawAccess`]): setting and removing the
//!   trace costs 3 % of a short read, and most reads use larder's methods only. Other closures pay nothing. Where
//!   `on_connect` set its own trace, that trace stays.
//! - **At the end of the closure:** [`Bounded::end`]. A closure may run no more SQL, or remove the handler. (A
//!   statement that is only prepared is not stopped.)
//!
//! A closure may set its own handler (`tx.progress_handler(..)`), which replaces this one until the closure ends and
//! [`Interrupt::put_back`] is called. Its limit is still checked where statements start and at the end.
//!
//! # The record
//!
//! SQLite returns `SQLITE_INTERRUPT` for every cause, including `get_interrupt_handle` and a handler of the program. So
//! the reason is recorded before SQL is stopped, and [`Interrupt::explain`] returns it. Without a record the cause was
//! not larder's, and SQLite's error is returned unchanged.
//!
//! # Threads
//!
//! Only the thread that uses the connection uses this, one closure at a time; SQLite calls handlers on that thread.
//! rusqlite requires handlers to be `Send`, so the fields are relaxed atomics and one mutex, which is never contended.
//!
//! # The clock
//!
//! The coarse clock (5 ns) is read first. It ticks every 4 ms, so it may be that much early or late. When it says that
//! the time is over, the exact clock decides: no limit fires early.

use std::cell::RefCell;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::c_api::{self, Events, Trace, Traced};
use crate::error::Error;
use crate::runtime::cancellation;
use crate::runtime::clock::{Tick, later};
use crate::runtime::panic::quietly;
use crate::runtime::sync::{Arc, Mutex};

/// Steps of SQLite's virtual machine between two checks: some microseconds, or in an integrity check as many pages,
/// which may have to come from the disk. A check takes some 5 ns.
const STEPS: i32 = 200;

/// A value of [`Interrupt::until`]: there is no limit.
const NEVER: u64 = u64::MAX;

/// A value of [`Interrupt::stopped`]: nothing was stopped.
const NOTHING: u8 = 0;
const CANCELLED: u8 = 1;
const WATCHER: u8 = 2;
const LIMIT: u8 = 3;

/// The time limit of a closure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Limit {
    pub(crate) kind: LimitKind,
    pub(crate) time: Duration,
}

/// The option that a [`Limit`] comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(u8)]
pub(crate) enum LimitKind {
    Write = 0,
    Read = 1,
    ReaderAge = 2,
}

impl Limit {
    /// The limit that ends first.
    #[inline]
    pub(crate) fn earlier(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (Some(one), Some(other)) => Some(if other.time < one.time { other } else { one }),
            (one, other) => one.or(other),
        }
    }

    fn error(self) -> Error {
        let advice = match self.kind {
            LimitKind::Write => {
                "the write exceeded WriteOptions::execution_timeout and was rolled back; do less in one write, or \
                 raise it"
            }
            LimitKind::Read => "the read exceeded ReadOptions::execution_timeout; read in pages, or raise it",
            LimitKind::ReaderAge => {
                "the read held its snapshot for longer than Options::max_reader_age; read in pages, or raise it"
            }
        };
        Error::Interrupted {
            limit: self.time,
            advice,
            context: None,
        }
    }
}

/// Returns whether to stop the work.
type Watcher = Box<dyn FnMut() -> bool + Send>;

/// The interrupt of one connection.
pub(crate) struct Interrupt {
    /// Whether the trace callback is free: `on_connect` set none.
    may_trace: bool,
    /// The deadline on the coarse clock, in nanoseconds.
    until: AtomicU64,
    /// The deadline on the exact clock, in nanoseconds since `epoch`.
    until_exactly: AtomicU64,
    epoch: Instant,
    /// The [`LimitKind`], for the error. It stays after the limit is removed.
    kind: AtomicU8,
    /// The time of the [`Limit`] in nanoseconds, for the error.
    time: AtomicU64,
    /// The first reason that stopped SQL since [`reset`](Self::reset).
    stopped: AtomicU8,
    /// Whether the closure has a task and no limit, so that it is not traced yet.
    has_untraced_task: AtomicBool,
    is_watched: AtomicBool,
    /// `Some` if `is_watched`, except while it is being called.
    watcher: Mutex<Option<Watcher>>,
}

impl Interrupt {
    /// Installs the interrupt on a connection that was just opened. `may_trace` unless the program has a trace on it.
    pub(crate) fn install(conn: &Connection, may_trace: bool) -> rusqlite::Result<Arc<Self>> {
        let interrupt = Arc::new(Self {
            may_trace,
            until: AtomicU64::new(NEVER),
            until_exactly: AtomicU64::new(NEVER),
            epoch: Instant::now(),
            kind: AtomicU8::new(LimitKind::Write as u8),
            time: AtomicU64::new(0),
            stopped: AtomicU8::new(NOTHING),
            has_untraced_task: AtomicBool::new(false),
            is_watched: AtomicBool::new(false),
            watcher: Mutex::new(None),
        });
        interrupt.put_back(conn)?;
        Ok(interrupt)
    }

    /// Sets the progress handler again, after a closure that may have replaced it.
    pub(crate) fn put_back(self: &Arc<Self>, conn: &Connection) -> rusqlite::Result<()> {
        let interrupt = Arc::clone(self);
        let mut set = Ok(());
        // This drops the closure's handler, which is user code, after the new handler is in place.
        quietly(|| set = conn.progress_handler(STEPS, Some(move || interrupt.stops_here())));
        set
    }

    /// Forgets the reason that stopped an earlier closure.
    pub(crate) fn reset(&self) {
        if self.stopped.load(Relaxed) != NOTHING {
            self.stopped.store(NOTHING, Relaxed);
        }
    }

    /// Bounds the closure that began at `began`, until [`Bounded::end`] or the drop. `None` if it has neither a limit
    /// nor a task.
    #[inline]
    pub(crate) fn bound<'c>(
        self: &'c Arc<Self>,
        conn: &'c Connection,
        began: Instant,
        limit: Option<Limit>,
    ) -> Option<Bounded<'c>> {
        let traced = match limit {
            Some(limit) => {
                self.set(began, limit);
                self.trace(conn, Events::AndRows)
            }
            None if cancellation::is_possible() => {
                self.has_untraced_task.store(true, Relaxed);
                None
            }
            None => return None,
        };
        Some(Bounded {
            interrupt: self,
            conn,
            limit,
            traced: RefCell::new(traced),
        })
    }

    fn set(&self, began: Instant, limit: Limit) {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(NEVER);
        let began = nanos(began.saturating_duration_since(self.epoch));
        self.kind.store(limit.kind as u8, Relaxed);
        self.time.store(nanos(limit.time), Relaxed);
        self.until_exactly
            .store(began.saturating_add(nanos(limit.time)), Relaxed);
        self.until.store(Tick::now().plus(limit.time).nanos(), Relaxed);
    }

    /// Whether a statement must not start, because the limit is over or the task was dropped. Records the reason.
    #[inline]
    pub(crate) fn stops_start(&self, now: Tick) -> bool {
        if self.is_over(now) {
            return true;
        }
        let cancelled = self.has_untraced_task.load(Relaxed) && cancellation::is_cancelled();
        if cancelled {
            self.note(CANCELLED);
        }
        cancelled
    }

    /// The meaning of an `SQLITE_INTERRUPT` error, if a limit was the reason.
    pub(crate) fn explain(&self) -> Option<Error> {
        (self.stopped.load(Relaxed) == LIMIT).then(|| self.current().error())
    }

    /// The end of the limit, if there is one.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let until = self.until_exactly.load(Relaxed);
        (until != NEVER).then(|| later(self.epoch, Duration::from_nanos(until)))
    }

    /// Records that the limit has stopped the closure, which has waited until then, and returns the error.
    pub(crate) fn pass_deadline(&self) -> Error {
        self.note(LIMIT);
        self.current().error()
    }

    /// Whether SQL was stopped because the task was dropped.
    pub(crate) fn was_cancelled(&self) -> bool {
        self.stopped.load(Relaxed) == CANCELLED
    }

    /// Calls `watcher` while SQL runs on the connection, until the guard is dropped. SQL stops once it returns true.
    pub(crate) fn watch<'c>(
        self: &'c Arc<Self>,
        conn: &'c Connection,
        watcher: impl FnMut() -> bool + Send + 'static,
    ) -> Watching<'c> {
        self.set_watcher(Some(Box::new(watcher)));
        self.is_watched.store(true, Relaxed);
        Watching {
            interrupt: self,
            _traced: self.trace(conn, Events::Statements),
        }
    }

    fn trace<'c>(self: &Arc<Self>, conn: &'c Connection, events: Events) -> Option<Traced<'c, Self>> {
        self.may_trace.then(|| c_api::trace(conn, self, events))
    }

    fn set_watcher(&self, watcher: Option<Watcher>) {
        let mut place = self.watcher.lock();
        let old = mem::replace(&mut *place, watcher);
        drop(place);
        drop(old);
    }

    fn current(&self) -> Limit {
        let kind = match self.kind.load(Relaxed) {
            0 => LimitKind::Write,
            1 => LimitKind::Read,
            _ => LimitKind::ReaderAge,
        };
        let time = Duration::from_nanos(self.time.load(Relaxed));
        Limit { kind, time }
    }

    /// Whether the limit is over. Records the reason if it is.
    #[inline]
    fn is_over(&self, now: Tick) -> bool {
        now.nanos() >= self.until.load(Relaxed) && self.is_over_exactly()
    }

    #[cold]
    fn is_over_exactly(&self) -> bool {
        if !self.is_over_at(Instant::now()) {
            return false;
        }
        self.note(LIMIT);
        true
    }

    fn is_over_at(&self, now: Instant) -> bool {
        let until = self.until_exactly.load(Relaxed);
        let since = now.saturating_duration_since(self.epoch).as_nanos();
        until != NEVER && since >= u128::from(until)
    }

    fn note(&self, reason: u8) {
        if self.stopped.load(Relaxed) == NOTHING {
            self.stopped.store(reason, Relaxed);
        }
    }

    /// Calls the watcher, without the lock.
    fn ask_watcher(&self) -> bool {
        let take = || self.watcher.lock().take();
        let Some(mut watcher) = take() else { return false };
        let stops = watcher();
        self.set_watcher(Some(watcher));
        stops
    }
}

impl Trace for Interrupt {
    fn stops_here(&self) -> bool {
        if self.until.load(Relaxed) != NEVER && self.is_over(Tick::now()) {
            return true;
        }
        if cancellation::is_cancelled() {
            self.note(CANCELLED);
            return true;
        }
        if self.is_watched.load(Relaxed) && self.ask_watcher() {
            self.note(WATCHER);
            return true;
        }
        false
    }
}

/// A closure with a limit, or with a task.
pub(crate) struct Bounded<'c> {
    interrupt: &'c Arc<Interrupt>,
    conn: &'c Connection,
    limit: Option<Limit>,
    traced: RefCell<Option<Traced<'c, Interrupt>>>,
}

/// Is told each time a closure uses the connection directly.
pub(crate) trait OnRawAccess {
    fn raw_access(&self);
}

impl OnRawAccess for Bounded<'_> {
    fn raw_access(&self) {
        if self.interrupt.has_untraced_task.load(Relaxed) {
            self.interrupt.has_untraced_task.store(false, Relaxed);
            // Rows are not traced, because cancelling a read is not urgent.
            *self.traced.borrow_mut() = self.interrupt.trace(self.conn, Events::Statements);
        }
    }
}

impl Bounded<'_> {
    /// Removes the bound from a closure that ended at `ended`. Returns the limit's error if the limit stopped its SQL,
    /// or if it succeeded (`well`) but took too long; another error of the closure says more than the limit's.
    #[inline]
    pub(crate) fn end(self, ended: Instant, well: bool) -> Option<Error> {
        let interrupt = self.interrupt;
        let limit = self.limit?;
        let stopped = interrupt.stopped.load(Relaxed) == LIMIT;
        (stopped || well && interrupt.is_over_at(ended)).then(|| limit.error())
    }
}

impl Drop for Bounded<'_> {
    fn drop(&mut self) {
        self.interrupt.until.store(NEVER, Relaxed);
        self.interrupt.until_exactly.store(NEVER, Relaxed);
        self.interrupt.has_untraced_task.store(false, Relaxed);
    }
}

/// Work with a watcher.
#[must_use = "it is watched until this is dropped"]
pub(crate) struct Watching<'c> {
    interrupt: &'c Interrupt,
    _traced: Option<Traced<'c, Interrupt>>,
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        self.interrupt.is_watched.store(false, Relaxed);
        self.interrupt.set_watcher(None);
    }
}
