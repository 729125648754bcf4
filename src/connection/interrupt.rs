//! What stops the SQL of a connection, and the memory of why it was stopped.
//!
//! SQLite has one progress handler and one trace callback a connection. This file is the only one that sets them, so that no
//! part of larder overwrites what another has set.
//!
//! # The reasons
//!
//! | reason | set by | looked at |
//! |---|---|---|
//! | a [`Limit`]: of a write, of a read, of a reader's age | [`Interrupt::bound`], for one closure | in a statement, at the begin of each, at each of its rows, at the end of the closure |
//! | the task of a read has gone away | `runtime/cancellation.rs` | in a statement, at the begin of each |
//! | a watcher: a progress callback, a backup's time-out, the store closes, a write waits for idle maintenance | [`Interrupt::watch`] | in a statement, at the begin of each |
//!
//! # Where it is looked
//!
//! - **In a statement:** the progress handler, set once as the connection is opened. SQLite counts the steps of a prepared
//!   statement over all its runs, so a statement that is held and run in a loop comes to it, too.
//! - **At the start of a statement, and at its rows:** many short statements, or one with other code between its runs or
//!   its rows, reach the handler late or never. So for a closure that has a limit, or a task, and for work that
//!   is watched, SQLite's trace callback reports each statement that starts, larder's or the closure's, and the rows of a
//!   limited one; a late one is interrupted. It is set with the bound and taken away with it: other closures pay nothing for
//!   it. Where `on_connect` has set a trace of its own that is left alone, and larder's own methods look in its place.
//! - **At the end of the closure:** [`Bounded::end`]. A closure may run no SQL any more, or take the handler away. (A statement
//!   that is only prepared is not stopped.)
//!
//! A closure may set a handler of its own (`tx.progress_handler(..)`), which then stands in the place of this one until the
//! closure ends and [`Interrupt::put_back`] is called. Its limit is still looked at where statements begin and at the end.
//!
//! # What is remembered
//!
//! SQLite gives `SQLITE_INTERRUPT` for every cause, `get_interrupt_handle` and a handler of the program's included.
//! So the reason is noted before SQL is stopped, and [`Interrupt::explain`] tells it. Where none is noted it was none of
//! larder's, and the error stays what SQLite says.
//!
//! # Threads
//!
//! Only the thread that uses the connection touches this, one closure at a time; handlers are called by SQLite on that
//! thread. rusqlite wants them to be `Send`, so the fields are atomics, all relaxed, and one mutex, which nobody waits for.
//!
//! # The clock
//!
//! The coarse clock (5 ns) is asked first. It ticks every 4 ms, so it may be as much too early or too late. Where it says
//! that the time is over the exact one is asked, too: no limit is hit too early.

use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::c_api::{self, Events, Trace, Traced};
use crate::error::Error;
use crate::runtime::cancellation;
use crate::runtime::clock::Tick;
use crate::runtime::panic::quietly;
use crate::runtime::sync::{Arc, Mutex};

/// How many steps of SQLite's virtual machine lie between two looks: some microseconds, or in an integrity check as many
/// pages, which may have to come from the disk. A look takes some 5 ns.
const STEPS: i32 = 200;

/// For [`Interrupt::until`]: there is no limit.
const NEVER: u64 = u64::MAX;

/// Nothing has been stopped.
const NOTHING: u8 = 0;
const CANCELLED: u8 = 1;
const WATCHER: u8 = 2;
const LIMIT: u8 = 3;

/// How long a closure may take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Limit {
    pub(crate) kind: LimitKind,
    pub(crate) time: Duration,
}

/// Which option a [`Limit`] comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(u8)]
pub(crate) enum LimitKind {
    Write = 0,
    Read = 1,
    ReaderAge = 2,
}

impl Limit {
    /// The one that is over first.
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
                "this write ran into WriteOptions::execution_timeout and was rolled back: do less in one write, or raise it"
            }
            LimitKind::Read => "this read ran into ReadOptions::execution_timeout: read in pages, or raise it",
            LimitKind::ReaderAge => {
                "this read held its snapshot for longer than Options::max_reader_age: read in pages, or raise it"
            }
        };
        Error::Interrupted {
            limit: self.time,
            advice,
        }
    }
}

/// Says whether the work is to stop.
type Watcher = Box<dyn FnMut() -> bool + Send>;

/// The interrupt of one connection.
pub(crate) struct Interrupt {
    may_trace: bool,
    /// When the limit is over, on the coarse clock in nanoseconds.
    until: AtomicU64,
    /// The same on the exact clock, in nanoseconds since `epoch`.
    until_exactly: AtomicU64,
    epoch: Instant,
    /// The [`Limit`], for its error. It stays when the limit is taken away.
    kind: AtomicU8,
    time: AtomicU64,
    /// What has stopped SQL first, since [`reset`](Self::reset).
    stopped: AtomicU8,
    is_watched: AtomicBool,
    /// There if `is_watched`, but not while it is called.
    watcher: Mutex<Option<Watcher>>,
}

impl Interrupt {
    /// Sets it on a connection that has just been opened. `may_trace` unless the program has a trace on it.
    pub(crate) fn install(conn: &Connection, may_trace: bool) -> rusqlite::Result<Arc<Self>> {
        let interrupt = Arc::new(Self {
            may_trace,
            until: AtomicU64::new(NEVER),
            until_exactly: AtomicU64::new(NEVER),
            epoch: Instant::now(),
            kind: AtomicU8::new(LimitKind::Write as u8),
            time: AtomicU64::new(0),
            stopped: AtomicU8::new(NOTHING),
            is_watched: AtomicBool::new(false),
            watcher: Mutex::new(None),
        });
        interrupt.put_back(conn)?;
        Ok(interrupt)
    }

    /// Sets the progress handler again, after a closure that may have set another.
    pub(crate) fn put_back(self: &Arc<Self>, conn: &Connection) -> rusqlite::Result<()> {
        let interrupt = Arc::clone(self);
        let mut set = Ok(());
        // It drops a handler that the closure has set, which is user code, once this one is in its place.
        quietly(|| set = conn.progress_handler(STEPS, Some(move || interrupt.stops_here())));
        set
    }

    /// Forgets what stopped an earlier closure.
    pub(crate) fn reset(&self) {
        if self.stopped.load(Relaxed) != NOTHING {
            self.stopped.store(NOTHING, Relaxed);
        }
    }

    /// Bounds the closure that has begun then, until [`Bounded::end`] or the drop. `None` if nothing but SQL itself would
    /// stop it.
    #[inline]
    pub(crate) fn bound<'c>(
        self: &'c Arc<Self>,
        conn: &'c Connection,
        began: Instant,
        limit: Option<Limit>,
    ) -> Option<Bounded<'c>> {
        match limit {
            Some(limit) => self.set(began, limit),
            None if cancellation::is_possible() => {}
            None => return None,
        }
        // Rows cost little beside what a closure does with them, but a read that is only to be cancelled has no hurry.
        let events = if limit.is_some() {
            Events::AndRows
        } else {
            Events::Statements
        };
        Some(Bounded {
            interrupt: self,
            limit,
            _traced: self.trace(conn, events),
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

    /// The error of a limit that is over, for a statement that would begin.
    #[inline]
    pub(crate) fn check(&self, now: Tick) -> Option<Error> {
        self.is_over(now).then(|| self.current().error())
    }

    /// What an error with the code `SQLITE_INTERRUPT` means, if a limit was the reason.
    pub(crate) fn explain(&self) -> Option<Error> {
        (self.stopped.load(Relaxed) == LIMIT).then(|| self.current().error())
    }

    /// Whether SQL was stopped since the task has gone away.
    pub(crate) fn was_cancelled(&self) -> bool {
        self.stopped.load(Relaxed) == CANCELLED
    }

    /// Has that asked while SQL runs on the connection, until the guard is dropped. SQL is stopped once it says so.
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

    /// Whether the limit is over, which is noted.
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

    /// Not under the lock.
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

/// A closure that has a limit, or a task.
pub(crate) struct Bounded<'c> {
    interrupt: &'c Interrupt,
    limit: Option<Limit>,
    _traced: Option<Traced<'c, Interrupt>>,
}

impl Bounded<'_> {
    /// Takes the bound away from a closure that has ended then. The error of its limit, if its SQL was stopped by it, or if
    /// it went `well` but took too long; what another one came to by itself says more.
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
    }
}

/// Work that has a watcher.
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
