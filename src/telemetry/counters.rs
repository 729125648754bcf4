//! Counters that the holder of the writer's seat writes and any thread reads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release, fence};
use std::time::{Duration, Instant};

use super::call_site::CallSite;
use super::external_commits::ExternalCommits;
use super::histogram::Amounts;
use super::stats::{Checkpoint, DatabaseStats, Stats};
use crate::runtime::sync::Mutex;

/// A wait longer than this counts as a long wait.
pub(crate) const LONG_WAIT: Duration = Duration::from_millis(100);

/// Only the holder of the writer's seat writes these, but for `external_commits`, so a load and a store make an addition.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) writes: Counter,
    failures_by_error: Mutex<BTreeMap<&'static str, u64>>,
    pub(crate) groups: Counter,
    pub(crate) group_size: Amounts,
    pub(crate) slow_writes: Counter,
    pub(crate) queue_wait: Amounts,
    pub(crate) long_waits: Counter,
    pub(crate) begin: Amounts,
    pub(crate) execute: Amounts,
    pub(crate) commit: Amounts,
    pub(crate) wal_bytes: Counter,
    pub(crate) largest_wal_bytes: Counter,
    /// The largest log that the watchdog has seen, including what other processes wrote.
    largest_wal_seen: AtomicU64,
    pub(crate) checkpoints: Counter,
    pub(crate) unfinished_checkpoints: Counter,
    pub(crate) consecutive_unfinished_checkpoints: Counter,
    pub(crate) external_commits: ExternalCommits,
    /// Commits of the writing connection, of whatever kind; modulo 2^32.
    own_commits: AtomicU64,
    /// One more than that while the writer's seat is free, and [`TAKEN`] otherwise.
    free: AtomicU64,
    /// The last write that hit a full disk, and the number of committed writes at that time.
    full: Mutex<Option<(CallSite, u64)>>,
    /// The settings as the store opened, and the latest ones.
    pragmas: Mutex<[Pragmas; 2]>,
    /// Jobs finished since the store began to close.
    pub(crate) finished_closing: Counter,
    file: Mutex<FileCounters>,
}

/// The value of `Counters::free` while a thread has the writer's seat.
const TAKEN: u64 = 0;

/// Settings, as SQLite reports them.
pub(crate) type Pragmas = BTreeMap<&'static str, String>;

/// Written at checkpoints only.
#[derive(Debug, Default)]
struct FileCounters {
    last: Option<(Instant, Checkpoint)>,
    finished: Option<Instant>,
    pages_at_open: Option<u64>,
    database: DatabaseStats,
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.get() + n, Relaxed);
    }

    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    pub(crate) fn raise_to(&self, n: u64) {
        if n > self.get() {
            self.set(n);
        }
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Counters {
    /// Counts a failed write.
    pub(crate) fn failed(&self, kind: &'static str) {
        *self.failures_by_error.lock().entry(kind).or_default() += 1;
    }

    /// Records a size of the log that the watchdog has seen.
    pub(crate) fn saw_wal_bytes(&self, bytes: u64) {
        self.largest_wal_seen.fetch_max(bytes, Relaxed);
    }

    /// Records the commits of the writing connection so far.
    pub(crate) fn committed(&self, own: u32) {
        self.own_commits.store(u64::from(own), Relaxed);
    }

    /// Whether this store has committed anything.
    pub(crate) fn has_committed(&self) -> bool {
        self.own_commits.load(Relaxed) > 0
    }

    /// The calling thread has taken the writer's seat, and may commit.
    pub(crate) fn seat_taken(&self) {
        self.free.store(TAKEN, Release);
    }

    /// The calling thread leaves the writer's seat, and commits nothing any more.
    pub(crate) fn seat_left(&self) {
        self.free.store(self.own_commits.load(Relaxed) + 1, Release);
    }

    /// Runs `look` for any thread. The result is `None` if the writer's seat was taken meanwhile, and the store may have
    /// committed; otherwise it is that of `look`, with the number of the store's own commits.
    pub(crate) fn look_while_free<T>(&self, look: impl FnOnce() -> T) -> Option<(T, u32)> {
        let before = self.free.load(Acquire);
        let seen = look();
        fence(Acquire);
        let was_free = before != TAKEN && before == self.free.load(Relaxed);
        was_free.then(|| (seen, u32::try_from(before - 1).unwrap_or_default()))
    }

    /// Records the queue wait of a write.
    pub(crate) fn waited(&self, time: Duration) {
        self.queue_wait.add_time(time);
        if time > LONG_WAIT {
            self.long_waits.add(1);
        }
    }

    /// Records a checkpoint.
    pub(crate) fn checkpoint(&self, log_pages: u64, moved_pages: u64, busy: bool, finished: bool) {
        let now = Instant::now();
        let checkpoint = Checkpoint {
            log_pages,
            moved_pages,
            busy,
            ago: Duration::ZERO,
        };
        let mut file = self.file.lock();
        file.last = Some((now, checkpoint));
        if finished {
            file.finished = Some(now);
        }
    }

    /// Records the size of the database file. The first call is made as the store opens.
    pub(crate) fn database(&self, page_size: u64, pages: u64, free_pages: u64) {
        let mut file = self.file.lock();
        let at_open = *file.pages_at_open.get_or_insert(pages);
        file.database = DatabaseStats {
            page_size,
            pages,
            free_pages,
            grown_pages: pages.cast_signed() - at_open.cast_signed(),
        };
    }

    /// Records that a write of this call site hit a full disk.
    pub(crate) fn disk_was_full(&self, site: CallSite) {
        *self.full.lock() = Some((site, self.writes.get()));
    }

    /// The call site that last hit a full disk, if no write was committed since.
    pub(crate) fn full_for(&self) -> Option<CallSite> {
        let full = self.full.lock();
        full.as_ref()
            .filter(|(_, writes)| *writes == self.writes.get())
            .map(|(site, _)| site.clone())
    }

    /// Records the settings. The first call is made as the store opens.
    pub(crate) fn pragmas(&self, now: Pragmas) {
        let [at_open, latest] = &mut *self.pragmas.lock();
        if at_open.is_empty() {
            at_open.clone_from(&now);
        }
        *latest = now;
    }

    /// Whether free pages can be given back a few at a time.
    pub(crate) fn has_incremental_vacuum(&self) -> bool {
        self.pragmas.lock()[1]
            .get("auto_vacuum")
            .is_some_and(|mode| mode == "2")
    }

    /// Settings that differ from those at opening: name, value then, value now.
    pub(crate) fn changed_pragmas(&self) -> Vec<(&'static str, String, String)> {
        let [at_open, latest] = &*self.pragmas.lock();
        let changed = |(name, now): (&&'static str, &String)| {
            let then = at_open.get(name)?;
            (then != now).then(|| (*name, then.clone(), now.clone()))
        };
        latest.iter().filter_map(changed).collect()
    }

    pub(crate) fn size(&self) -> DatabaseStats {
        self.file.lock().database
    }

    /// The statistics that these counters know; all other fields keep their defaults.
    pub(crate) fn snapshot(&self) -> Stats {
        let file = self.file.lock();
        let last_checkpoint = file.last.map(|(at, checkpoint)| Checkpoint {
            ago: at.elapsed(),
            ..checkpoint
        });
        let last_finished_checkpoint_ago = file.finished.map(|at| at.elapsed());
        let database = file.database;
        drop(file);
        let failures_by_error = self.failures_by_error.lock().clone();
        Stats {
            last_checkpoint,
            last_finished_checkpoint_ago,
            database,
            committed_writes: self.writes.get(),
            failed_writes: failures_by_error.values().sum(),
            failures_by_error,
            groups: self.groups.get(),
            group_size: self.group_size.distribution(),
            slow_writes: self.slow_writes.get(),
            queue_wait: self.queue_wait.latency(),
            long_waits: self.long_waits.get(),
            begin: self.begin.latency(),
            execute: self.execute.latency(),
            commit: self.commit.latency(),
            wal_bytes: self.wal_bytes.get(),
            largest_wal_bytes: self.largest_wal_bytes.get().max(self.largest_wal_seen.load(Relaxed)),
            checkpoints: self.checkpoints.get(),
            unfinished_checkpoints: self.unfinished_checkpoints.get(),
            consecutive_unfinished_checkpoints: self.consecutive_unfinished_checkpoints.get(),
            external_commits: self.external_commits.total(),
            sqlite_version: rusqlite::version(),
            pragmas: self.pragmas.lock()[1].clone(),
            ..Stats::default()
        }
    }
}
