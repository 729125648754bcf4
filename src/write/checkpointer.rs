//! The policy of checkpoints: when to move the write-ahead log into the database file, and how hard to try.
//!
//! The writer thread runs checkpoints, after it has replied. Every `checkpoint_pages` it tries a `PASSIVE` one, which
//! waits for no reader; beside a bulk job another thread does that (`side_checkpoint.rs`). Overlapping short readers can
//! keep `PASSIVE` from ever finishing, because a commit reuses the log from its start only "if the entire WAL has been
//! transferred into the database and synced and if no readers are making use of the WAL",
//! <https://sqlite.org/wal.html>. So above `wal_limit` the attempt is a `RESTART`, which waits for readers, for at most
//! [`PATIENCE`].
//!
//! With `Checkpoints::Left` another process makes them. Then the same moments are those at which the writer thread looks
//! at the file.
//!
//! A store with a replica makes fewer attempts: each ends with a file for the replica, and a file is a request to its
//! storage. While the log is smaller than half of `wal_limit`, the next attempt comes no sooner than [`KEPT_PAUSE`] after
//! the last.
//!
//! An attempt that could not finish is repeated once the log has grown by as much again, not at every commit. Above
//! `wal_limit` the first retries come much sooner, since short readers only need another chance. The following ones
//! come ever later, since a long reader would cost [`PATIENCE`] each time.

use std::cell::Cell;
use std::time::{Duration, Instant};

use rusqlite::{Connection, MAIN_DB};

use crate::connection::authorizer::SqlGuard;
use crate::connection::read_back;
use crate::connection::sql_text::quoted;
use crate::error::{Error, Result};
use crate::options::Settings;

/// How long a RESTART checkpoint may block the writer thread.
pub(crate) const PATIENCE: Duration = Duration::from_millis(20);

/// The shortest time between two checkpoints of a store with a replica.
const KEPT_PAUSE: Duration = Duration::from_millis(250);

const PASSIVE: &str = "PRAGMA main.wal_checkpoint(PASSIVE)";

thread_local! {
    /// Pages in the log after this thread's last commit, until they are taken. rusqlite's `wal_hook` takes a plain
    /// `fn`, which can only leave them in a static. A thread that writes to another store inside a write has two writing
    /// connections; then the inner one [puts aside](put_aside) what the outer one has left.
    static PAGES: Cell<Option<u32>> = const { Cell::new(None) };

    /// The number of this thread's commits, until they are taken.
    static COMMITS: Cell<u32> = const { Cell::new(0) };

    /// The same for a database that `on_connect` has attached.
    static ATTACHED_PAGES: Cell<u32> = const { Cell::new(0) };
}

/// What the WAL hook of another store has left on this thread. Its drop puts it back.
#[must_use = "its drop puts it back"]
pub(super) struct Hooked {
    pages: Option<u32>,
    commits: u32,
    attached_pages: u32,
}

/// Clears what the WAL hook has left on this thread, for the writer of another store.
pub(super) fn put_aside() -> Hooked {
    Hooked {
        pages: PAGES.take(),
        commits: COMMITS.take(),
        attached_pages: ATTACHED_PAGES.take(),
    }
}

impl Drop for Hooked {
    fn drop(&mut self) {
        PAGES.set(self.pages);
        COMMITS.set(self.commits);
        ATTACHED_PAGES.set(self.attached_pages);
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mode {
    Passive,
    Restart,
    Truncate,
}

/// The row that `PRAGMA wal_checkpoint` returns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    pub(crate) busy: bool,
    pub(crate) log: u32,
    pub(crate) moved: u32,
}

impl Progress {
    pub(crate) fn finished(self) -> bool {
        !self.busy && self.moved == self.log
    }
}

pub(crate) struct Checkpointer {
    frame: u64,
    step: u32,
    limit: u64,
    hard_limit: Option<u64>,
    busy_timeout: Duration,
    /// Whether each attempt ends with a file for a replica.
    keeps_log: bool,
    last_attempt: Option<Instant>,
    commits: u32,
    /// Pages in the log.
    log: u32,
    /// Pages of the log that are known to be in the database file.
    moved: u32,
    /// How often the log has begun from its start.
    restarts: u32,
    /// Pages in the log at which the next attempt is due.
    next: u32,
    /// Growth of the log, in pages, after which an unfinished RESTART is retried; doubled each time.
    retry: u32,
    /// Whether the whole log is in the database file.
    empty: bool,
    /// Databases that `on_connect` has attached, and the pages in the log of one of them. No other code checkpoints
    /// those.
    attached: Vec<String>,
    attached_log: u32,
}

impl Checkpointer {
    /// Watches the log through a hook, which SQLite calls on the committing thread.
    pub(crate) fn watch(conn: &Connection, guard: &SqlGuard, options: &Settings) -> Result<Self> {
        let page_size: u64 = guard
            .as_internal(|| read_back(conn, "page_size"))?
            .parse()
            .unwrap_or(options.page_size);
        let attached = guard
            .as_internal(|| attached_databases(conn))
            .map_err(Error::not_started)?;
        Self::watch_log(conn);
        // "Each frame consists of a 24-byte frame-header followed by a page-size bytes of page data",
        // <https://sqlite.org/fileformat2.html#the_write_ahead_log>.
        let frame = page_size + 24;
        let step = u64::from(options.checkpoint_pages)
            .min(options.wal_limit / frame / 4)
            .max(1) as u32;
        Ok(Self {
            frame,
            step,
            limit: options.wal_limit,
            hard_limit: options.wal_hard_limit,
            busy_timeout: options.busy_timeout,
            keeps_log: options.keeps_log,
            last_attempt: None,
            commits: 0,
            log: 0,
            moved: 0,
            restarts: 0,
            next: step,
            retry: (step / 16).max(1),
            empty: false,
            attached,
            attached_log: 0,
        })
    }

    /// Sets the hook, also after a closure has replaced it.
    pub(crate) fn watch_log(conn: &Connection) {
        conn.wal_hook(Some(|wal, pages| {
            let pages = pages.max(0) as u32;
            if wal.name() == MAIN_DB {
                PAGES.set(Some(pages));
                COMMITS.set(COMMITS.get() + 1);
            } else {
                ATTACHED_PAGES.set(pages);
            }
            Ok(())
        }));
    }

    /// Number of commits to the store's own database, modulo 2^32. The WAL index counts the same transactions: those
    /// that have changed a page.
    pub(crate) fn commits(&self) -> u32 {
        self.commits
    }

    /// Number of committed frames in the log, as of this store's last commit or checkpoint.
    pub(crate) fn frames(&self) -> u32 {
        self.log
    }

    /// Called after every commit.
    pub(crate) fn committed(&mut self) {
        self.commits = self.commits.wrapping_add(COMMITS.take());
        if !self.attached.is_empty() {
            let pages = ATTACHED_PAGES.take();
            if pages > 0 {
                self.attached_log = pages;
                self.empty = false;
            }
        }
        let Some(pages) = PAGES.take() else { return };
        if pages < self.log {
            // SQLite writes the log from its start again.
            self.next = self.step;
            self.retry = (self.step / 16).max(1);
            self.restarts = self.restarts.wrapping_add(1);
            self.moved = 0;
        } else if self.empty {
            // It may have done so, too: the number of pages does not show it.
            self.moved = 0;
        }
        self.log = pages;
        self.empty = false;
    }

    pub(crate) fn due(&self) -> Option<Mode> {
        if self.log < self.next && self.attached_log < self.step {
            None
        } else if self.over_limit() {
            Some(Mode::Restart)
        } else {
            (!self.keeps_log || self.is_far_from_last()).then_some(Mode::Passive)
        }
    }

    /// Whether the last attempt is long ago, or the log large.
    fn is_far_from_last(&self) -> bool {
        self.bytes() > self.limit / 2 || self.last_attempt.is_none_or(|last| last.elapsed() >= KEPT_PAUSE)
    }

    /// Whether the whole log is in the database file, so that an idle writer thread has nothing to move.
    pub(crate) fn is_empty(&self) -> bool {
        self.empty
    }

    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.log) * self.frame
    }

    pub(crate) fn over_limit(&self) -> bool {
        self.bytes() > self.limit
    }

    /// The hard limit, if the log exceeds it.
    pub(crate) fn over_hard_limit(&self) -> Option<u64> {
        self.hard_limit.filter(|limit| self.bytes() > *limit)
    }

    /// Makes one attempt for each attached database. An error there says nothing about the store's own file.
    fn move_attached(&mut self, conn: &Connection, guard: &SqlGuard, mode: Mode) {
        let mode = if mode == Mode::Truncate { "TRUNCATE" } else { "PASSIVE" };
        self.attached_log = 0;
        for name in &self.attached {
            let pragma = format!("PRAGMA {}.wal_checkpoint({mode})", quoted(name));
            let _ = guard.as_internal(|| conn.query_row(&pragma, [], |_| Ok(())));
        }
    }

    /// In place of an attempt, where another process makes the checkpoints.
    pub(crate) fn leave(&mut self, conn: &Connection, guard: &SqlGuard, mode: Mode) {
        self.move_attached(conn, guard, mode);
        self.next = self.log.saturating_add(self.step);
        self.empty = true;
    }

    /// In place of an attempt that the keeper of the log does not allow. The logs of attached databases are not its own.
    /// If the attempt must be, the next one comes when the log has grown, ever later.
    pub(crate) fn put_off(&mut self, conn: &Connection, guard: &SqlGuard, must: bool) {
        if self.attached_log >= self.step {
            self.move_attached(conn, guard, Mode::Passive);
        }
        if must {
            self.next = self.log.saturating_add(self.retry);
            self.retry = (self.retry * 2).min(self.step);
        }
    }

    /// Makes one attempt.
    pub(crate) fn run(
        &mut self,
        conn: &Connection,
        guard: &SqlGuard,
        mode: Mode,
        patience: Duration,
    ) -> rusqlite::Result<Progress> {
        let pragma = match mode {
            Mode::Passive => PASSIVE,
            Mode::Restart => "PRAGMA main.wal_checkpoint(RESTART)",
            Mode::Truncate => "PRAGMA main.wal_checkpoint(TRUNCATE)",
        };
        if self.keeps_log {
            self.last_attempt = Some(Instant::now());
        }
        conn.busy_timeout(patience)?;
        let row = guard.as_internal(|| attempt(conn, pragma));
        self.move_attached(conn, guard, mode);
        conn.busy_timeout(self.busy_timeout)?;
        // A failed attempt is retried once the log has grown.
        self.next = self.log.saturating_add(self.step);
        let (busy, log, moved) = row?;
        let progress = Progress {
            busy,
            log: log.unwrap_or(self.log),
            moved: moved.unwrap_or(0),
        };
        self.empty = progress.finished();
        self.moved = progress.moved;
        if self.empty && mode != Mode::Passive {
            self.moved = 0;
            // The next commit writes the log from its start.
            self.log = 0;
        } else {
            self.log = progress.log;
        }
        if mode == Mode::Restart && !self.empty {
            self.next = self.log.saturating_add(self.retry);
            self.retry = (self.retry * 2).min(self.step);
        } else {
            self.next = self.log.saturating_add(self.step);
            self.retry = (self.step / 16).max(1);
        }
        Ok(progress)
    }

    /// What the log is before an attempt by another thread.
    pub(super) fn started(&self) -> Started {
        Started {
            restarts: self.restarts,
            commits: self.commits,
        }
    }

    /// Notes what an attempt by another thread has done while this store wrote. `hurries` if the rest is to be moved at
    /// once, so that the log begins from its start.
    pub(super) fn note_beside(&mut self, started: Started, (busy, log, moved): Row, hurries: bool) -> Progress {
        let progress = Progress {
            busy,
            log: log.unwrap_or(self.log),
            moved: moved.unwrap_or(self.moved),
        };
        if started.restarts != self.restarts {
            // Everything was moved, and the log has begun from its start since.
            return progress;
        }
        if started.commits == self.commits {
            self.log = progress.log;
            self.empty = progress.finished();
        }
        self.moved = progress.moved;
        // Where a reader blocks the rest, the next attempt comes when the log has grown.
        let from = if progress.finished() { self.moved } else { self.log };
        self.next = from.saturating_add(self.step);
        if hurries && progress.finished() && !self.empty {
            self.next = self.log;
        }
        progress
    }

    /// After an attempt by another thread that has failed.
    pub(super) fn beside_failed(&mut self) {
        self.next = self.log.saturating_add(self.step);
    }

    /// Pages in the log that are not known to be in the database file.
    pub(super) fn rest(&self) -> u32 {
        self.log.saturating_sub(self.moved)
    }

    /// Whether the log has so many eighths of its limit, or twice as many steps.
    pub(super) fn has_reached(&self, eighths: u32) -> bool {
        let of_limit = self.limit / self.frame * u64::from(eighths) / 8;
        u64::from(self.log) >= of_limit.min(2 * u64::from(self.step) * u64::from(eighths))
    }

    pub(super) fn step(&self) -> u32 {
        self.step
    }

    /// Whether a database that `on_connect` has attached needs attempts, too.
    pub(super) fn has_attached(&self) -> bool {
        !self.attached.is_empty()
    }
}

/// What the log was as another thread began an attempt.
#[derive(Clone, Copy)]
pub(super) struct Started {
    restarts: u32,
    commits: u32,
}

impl Started {
    /// Whether the log has not begun from its start since.
    pub(super) fn is_same_log(self, now: Self) -> bool {
        self.restarts == now.restarts
    }
}

/// The row of an attempt. Both numbers are `None` if SQLite stopped before it could count.
pub(super) type Row = (bool, Option<u32>, Option<u32>);

/// Makes one `PASSIVE` attempt on a connection that runs no other SQL.
pub(super) fn attempt_passive(conn: &Connection) -> rusqlite::Result<Row> {
    attempt(conn, PASSIVE)
}

fn attempt(conn: &Connection, pragma: &str) -> rusqlite::Result<Row> {
    // Not from the statement cache, because a PRAGMA may act when it is prepared.
    conn.query_row(pragma, [], |row| {
        let count = |column| row.get::<_, i64>(column).map(|n| u32::try_from(n).ok());
        Ok((row.get(0)?, count(1)?, count(2)?))
    })
}

fn attached_databases(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let list = "SELECT name FROM pragma_database_list WHERE name NOT IN ('main', 'temp')";
    let mut statement = conn.prepare(list)?;
    let names = statement.query_map([], |row| row.get(0))?;
    names.collect()
}
