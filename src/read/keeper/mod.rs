//! A connection that holds an open snapshot of the newest commit while reads come, so that they cost no system call.
//!
//! The beginning and the end of a read transaction take and release a lock on a read mark of the WAL index: two calls
//! of `fcntl`, four after a commit, which are most of a short read and which the kernel serialises. But SQLite counts
//! the shared locks of one process, and asks the system only for the first of them and after the last
//! (`unixShmLock` in <https://sqlite.org/src/file/src/os_unix.c>). While the keeper holds the mark of the newest
//! commit, every other connection of the process takes it in memory. Reads do not depend on the keeper: each begins its
//! own snapshot, and SQLite chooses its mark.
//!
//! # Rules
//!
//! - **Renewal.** A read that finds that the store has committed since the keeper's snapshot began renews it, on its own
//!   thread, before its own snapshot begins. So there is no renewal for a commit that nothing reads. If the last
//!   snapshot served fewer than [`PAYS`] reads, reads do without for a while, twice as long each time.
//! - **Lease.** A snapshot of the keeper is [`LEASE`] old at most: a tick of the timer renews it, or ends it if no read
//!   came since the tick before. Otherwise it would pin the log for another process, of whose commits the store's own
//!   say nothing.
//! - **Other writers.** Each tick compares the commits of all processes with the store's own. If another process
//!   writes, the keeper lets go for a second, twice as long each further time, a minute at most.
//! - **Checkpoints.** The thread that makes one takes the lock of the keeper, ends its snapshot, and keeps the lock
//!   until the checkpoint is over ([`Readers::stand_aside`]). A flag that reads reset would not do: under overlapping
//!   reads some read would always begin the keeper again, on the mark that the checkpoint waits for.
//! - **Not** in an exclusive store, which has no such locks; not where the system has no open-file-description locks,
//!   since other writers cannot be seen there; and not once the watchdog has found a lock dropped: a lock that is
//!   counted is not asked for again ([`Readers::switch_off_keeper`]).
//! - Not a read: the connection is in no statistics of readers, and no limit of their age applies to it.
//!
//! # Locks
//!
//! `held` guards the connection. Reads, ticks and the watchdog only try it, so they never wait; the writer thread, the
//! one that makes checkpoints beside a bulk job, and a closing thread wait for at most one renewal, which has no busy
//! time-out. Under it: larder's own SQL on the keeper's connection. The connection opens on a timer thread, without the
//! lock. `kept`, `commits` and `next` are hints, read without it: a stale value costs a read some system calls or one
//! attempt in vain.

#[cfg(test)]
mod tests;

use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::time::{Duration, Instant};

use super::Readers;
use super::dedicated::DedicatedReader;
use crate::connection::c_api::KeptStatement;
use crate::connection::open_file::OpenFile;
use crate::options::Access;
use crate::runtime::clock::Tick;
use crate::runtime::panic::{caught, quietly};
use crate::runtime::sync::{Mutex, MutexGuard};
use crate::runtime::timer;

/// The longest time that a snapshot of the keeper lasts, but for a late timer.
const LEASE: Duration = Duration::from_millis(5);

/// The reads that a snapshot of the keeper has to serve until the next commit, or it costs more than it saves.
const PAYS: u64 = 3;

/// The reads that have to come within a lease, or the ticks cost more than the keeper saves.
const READS_A_LEASE: u64 = 16;

/// How long reads do without the keeper once it has not paid; doubled each time.
const FIRST_REST: Duration = Duration::from_millis(1);
const LONGEST_REST: Duration = Duration::from_millis(64);

/// How long they do without before they ask for the connection again.
const OPENING: Duration = Duration::from_millis(20);

/// The reads of a store before its keeper opens.
const OPENS_AFTER: u64 = 64;

/// How long the keeper lets go when another process writes, or if its connection cannot be opened; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The uncounted commits that show another writer. One may be the store's own, which is counted once COMMIT returns.
const OTHERS: i32 = 2;

/// No snapshot is held. The number of commits never gets there.
const NONE: u64 = u64::MAX;

/// It has cache lines to itself: each read looks at it, and the writer thread changes `commits`.
#[repr(align(128))]
pub(super) struct Keeper {
    /// The store's commits, as the writer thread counts them: modulo 2^32.
    commits: AtomicU64,
    /// Their number when the keeper's snapshot began, or [`NONE`].
    kept: AtomicU64,
    /// The [`Tick`] from which reads may renew the keeper, or [`NONE`].
    next: AtomicU64,
    /// Switched off for good.
    is_off: AtomicBool,
    held: Mutex<Held>,
}

struct Held {
    state: State,
    /// The number of reads before the first one of the snapshot.
    began_at: u64,
    /// How long reads do without once the keeper has not paid.
    rest: Duration,
    /// The next pause, and the end of the last one.
    pause: Duration,
    paused_until: Tick,
    /// Whether a tick is due.
    ticks: bool,
    /// The number of reads at the last tick.
    reads: u64,
    /// The commits of all processes but for this store's, when they were first compared: at most so many.
    others: Option<u32>,
}

enum State {
    /// For good.
    Closed,
    Absent,
    /// On a timer thread.
    Opening,
    Open(Box<Connected>),
}

/// The connection, with its statements, which are dropped before it.
struct Connected {
    begin: KeptStatement,
    look: KeptStatement,
    end: KeptStatement,
    reader: DedicatedReader,
}

/// The keeper holds no snapshot, and begins none, until this is dropped.
pub(crate) struct StandsAside<'k> {
    _held: MutexGuard<'k, Held>,
}

impl Keeper {
    pub(super) fn new(access: Access, file: &OpenFile) -> Self {
        let may_keep = access == Access::Shared && file.wal_index().is_some();
        Self {
            commits: AtomicU64::new(0),
            kept: AtomicU64::new(NONE),
            next: AtomicU64::new(if may_keep { 0 } else { NONE }),
            is_off: AtomicBool::new(false),
            held: Mutex::new(Held {
                state: if may_keep { State::Absent } else { State::Closed },
                began_at: 0,
                rest: FIRST_REST,
                pause: FIRST_PAUSE,
                paused_until: Tick::now(),
                ticks: false,
                reads: 0,
                others: None,
            }),
        }
    }

    /// Whether a read should renew the keeper.
    fn is_due(&self) -> bool {
        self.kept.load(Relaxed) != self.commits.load(Relaxed) && Tick::now().nanos() >= self.next.load(Relaxed)
    }

    /// Has reads do without for so long.
    fn wait(&self, time: Duration) {
        self.next.store(Tick::now().plus(time).nanos(), Relaxed);
    }

    /// Ends the snapshot. If that fails, the connection is closed.
    fn let_go(&self, held: &mut Held) {
        self.kept.store(NONE, Relaxed);
        if let State::Open(connected) = &held.state
            && connected.end().is_err()
        {
            held.state = State::Absent;
        }
    }

    /// Ends the snapshot, and begins one of the newest commit. If that fails, reads do without for a while.
    fn renew(&self, held: &mut Held) {
        self.let_go(held);
        // Loaded first: for a commit that comes in between, the next read renews again.
        let commits = self.commits.load(Relaxed);
        if let State::Open(connected) = &held.state
            && connected.begin().is_ok()
        {
            return self.kept.store(commits, Relaxed);
        }
        self.rest(held);
    }

    /// Lets go because the keeper has not paid.
    fn rest(&self, held: &mut Held) {
        self.let_go(held);
        self.wait(held.rest);
        held.rest = (held.rest * 2).min(LONGEST_REST);
    }

    /// Closes the connection for good, if it was switched off meanwhile.
    fn close_if_off(&self, held: &mut Held) -> bool {
        let off = self.is_off.load(Acquire);
        if off {
            self.let_go(held);
            held.state = State::Closed;
        }
        off
    }

    /// Lets go for some time.
    fn pause(&self, held: &mut Held) {
        self.let_go(held);
        held.paused_until = Tick::now().plus(held.pause);
        self.next.store(held.paused_until.nanos(), Relaxed);
        held.pause = (held.pause * 2).min(LONGEST_PAUSE);
    }

    fn close(&self) {
        let mut held = self.held.lock();
        self.let_go(&mut held);
        self.next.store(NONE, Relaxed);
        let state = mem::replace(&mut held.state, State::Closed);
        drop(held);
        drop(state);
    }

    /// Whether another process has committed since the first look.
    fn sees_others(&self, held: &mut Held, file: &OpenFile) -> bool {
        // The store's commits at that look lie between these two.
        let before = self.commits.load(Acquire) as u32;
        let Some(index) = file.wal_index() else { return false };
        let after = self.commits.load(Acquire) as u32;
        let at_most = index.changes.wrapping_sub(before);
        let at_least = index.changes.wrapping_sub(after);
        let first = *held.others.get_or_insert(at_most);
        if at_least.wrapping_sub(first).cast_signed() >= OTHERS {
            held.others = None;
            return true;
        }
        // Fewer after a rebuild of the index, whose count starts again.
        if at_most.wrapping_sub(first).cast_signed() < 0 {
            held.others = Some(at_most);
        }
        false
    }
}

impl Connected {
    fn open(readers: &Readers) -> crate::error::Result<Self> {
        let reader = DedicatedReader::open(readers, Duration::ZERO, None)?;
        let prepared = reader.with_conn(|conn| {
            conn.busy_timeout(Duration::ZERO)?;
            // Each renewal would map the file again.
            conn.execute_batch("PRAGMA main.mmap_size = 0")?;
            let prepare = |sql| KeptStatement::prepare(conn, sql);
            Ok((
                prepare("BEGIN")?,
                // A transaction begins with its first read. This one reads a page at most.
                prepare("PRAGMA main.data_version")?,
                prepare("COMMIT")?,
            ))
        });
        let (begin, look, end) = prepared.map_err(crate::error::Error::not_started)?;
        Ok(Self {
            begin,
            look,
            end,
            reader,
        })
    }

    fn begin(&self) -> rusqlite::Result<()> {
        self.reader.with_conn(|conn| {
            self.begin.run(conn)?;
            self.look.run(conn)
        })
    }

    fn end(&self) -> rusqlite::Result<()> {
        self.reader.with_conn(|conn| {
            if conn.is_autocommit() {
                Ok(())
            } else {
                self.end.run(conn)
            }
        })
    }
}

impl Readers {
    /// Tells the keeper how many commits the store has made.
    pub(crate) fn committed(&self, commits: u32) {
        self.keeper.commits.store(u64::from(commits), Release);
    }

    /// Lets the keeper stand aside while a checkpoint runs.
    pub(crate) fn stand_aside(&self) -> StandsAside<'_> {
        let mut held = self.keeper.held.lock();
        self.keeper.let_go(&mut held);
        StandsAside { _held: held }
    }

    /// Closes the keeper for good.
    pub(crate) fn close_keeper(&self) {
        self.keeper.close();
    }

    /// Lets the keeper hold no snapshot any more, and waits for no lock. A snapshot that a read is just beginning there
    /// ends at the next tick.
    pub(crate) fn switch_off_keeper(&self) {
        self.keeper.is_off.store(true, Release);
        self.keeper.next.store(NONE, Relaxed);
        if let Some(mut held) = self.keeper.held.try_lock() {
            self.keeper.close_if_off(&mut held);
        }
    }

    /// Called before each read begins its snapshot.
    pub(super) fn keep(&self) {
        if self.keeper.is_due() {
            self.renew_keeper();
        }
    }

    #[cold]
    fn renew_keeper(&self) {
        let keeper = &self.keeper;
        let Some(mut held) = keeper.held.try_lock() else { return };
        // A tick may have paused it meanwhile.
        if keeper.close_if_off(&mut held) || !keeper.is_due() {
            return;
        }
        let reads = self.slots.reads();
        match &held.state {
            State::Closed => return,
            State::Opening => return keeper.wait(OPENING),
            State::Absent if reads < OPENS_AFTER => return,
            State::Absent => {
                held.state = State::Opening;
                let this = self.this.clone();
                return timer::at(Instant::now(), move || {
                    if let Some(readers) = this.upgrade() {
                        readers.open_keeper();
                        quietly(|| drop(readers));
                    }
                });
            }
            State::Open(_) => {}
        }
        let has_ended = keeper.kept.load(Relaxed) != NONE;
        if has_ended && reads - held.began_at < PAYS {
            return keeper.rest(&mut held);
        }
        if has_ended {
            held.rest = FIRST_REST;
        }
        held.began_at = reads;
        keeper.renew(&mut held);
        if !mem::replace(&mut held.ticks, true) {
            held.reads = reads;
            held.others = None;
            keeper.sees_others(&mut held, &self.file);
            self.tick_later();
        }
    }

    fn open_keeper(&self) {
        let opened = caught(|| Connected::open(self).ok()).flatten();
        let mut held = self.keeper.held.lock();
        if !matches!(held.state, State::Opening) {
            drop(held);
            return drop(opened);
        }
        held.state = opened.map_or(State::Absent, |connected| State::Open(Box::new(connected)));
        if matches!(held.state, State::Absent) {
            self.keeper.pause(&mut held);
        }
    }

    fn tick_later(&self) {
        let this = self.this.clone();
        timer::at(Instant::now() + LEASE, move || {
            if let Some(readers) = this.upgrade() {
                readers.tick();
                quietly(|| drop(readers));
            }
        });
    }

    /// Renews the lease, or ends it.
    fn tick(&self) {
        let reads = self.slots.reads();
        let Some(mut held) = self.keeper.held.try_lock() else {
            return self.tick_later();
        };
        let keeper = &self.keeper;
        if keeper.close_if_off(&mut held) {
            return;
        }
        let kept = keeper.kept.load(Relaxed);
        let came = reads - mem::replace(&mut held.reads, reads);
        if kept == NONE || came < READS_A_LEASE {
            held.ticks = false;
            if kept != NONE {
                keeper.rest(&mut held);
            }
            return;
        }
        if keeper.sees_others(&mut held, &self.file) {
            held.ticks = false;
            return keeper.pause(&mut held);
        }
        if held.paused_until.elapsed() > held.pause {
            held.pause = FIRST_PAUSE;
        }
        // A snapshot that is not the newest is left to the next read: it may not come, or not pay.
        if kept == keeper.commits.load(Relaxed) {
            keeper.renew(&mut held);
        } else {
            keeper.let_go(&mut held);
        }
        self.tick_later();
    }
}
