//! Backups in the soak. A thread makes one now and then, restores it, opens it as a store, and compares it with the
//! journal of the writes acknowledged before, with the writes requested by then, and with snapshots of the source. In
//! every second round the writer is held while the backup begins, so that the snapshot beside it is the one that the
//! backup copies: both are equal, byte for byte. In the other rounds no thread is held, and the backup lies between the
//! snapshots before and after it. The number of steps of such a backup during the longest concurrent write is printed
//! but not checked: the write may have waited for a vacuum, for the disk or for the machine.
//!
//! A schedule makes further backups while the store is open. At any time its folder holds no more backups than it keeps
//! plus the newest, none larger than the database can be; at the end each is complete by itself, and none has less data
//! than the one before it.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use larder::rusqlite::{Connection, OpenFlags};
use larder::{BackupSchedule, BackupStage, Error, Pending, Store};

use super::{KEPT, LONGEST, Soak, TASKS, WRITERS, options, report_of, tallies};
use crate::check::sound;

/// Interval of the turns, unless the run is so short that a quarter of it is less.
const EVERY: Duration = Duration::from_secs(30);

/// The minimum number of turns, under load.
const TURNS: u64 = 2;

/// Many steps, and a pause between them, so that writes run beside them.
const PAGES_PER_STEP: u32 = 16;
const REST: Duration = Duration::from_millis(2);

/// The interval of the schedule.
const INTERVAL: Duration = Duration::from_secs(2);
const KEEP: usize = 3;

/// The prefix of the file that says whose backups a folder has.
const SERIES: &str = ".larder-series-";

/// An upper bound of the database's size: the bytes of all items that clients keep, at most doubled by pages that are
/// half empty, or free.
const LARGEST: u64 = 2 * (WRITERS + TASKS) as u64 * KEPT as u64 * LONGEST as u64;

pub struct Backups {
    folder: PathBuf,
    scheduled: PathBuf,
    /// Held during a turn, whose connections must not be measured.
    turn: Mutex<()>,
    turns: AtomicU64,
    /// Names of the schedule's backups.
    names: Mutex<BTreeSet<String>>,
    pub beside: Arc<Beside>,
}

/// Writes beside a backup that does not hold the writer. Times are in microseconds.
#[derive(Default)]
pub struct Beside {
    running: AtomicBool,
    steps: AtomicU64,
    longest_step: AtomicU64,
    longest_write: AtomicU64,
    /// The most steps during one write.
    most_steps: AtomicU64,
}

/// The start of a write, and the step after which it began.
pub struct Write(Instant, u64);

impl Beside {
    pub fn begin_write(&self) -> Write {
        Write(Instant::now(), self.steps.load(Ordering::SeqCst))
    }

    pub fn end_write(&self, Write(began, step): Write) {
        if self.running.load(Ordering::SeqCst) {
            let steps = self.steps.load(Ordering::SeqCst).saturating_sub(step);
            self.most_steps.fetch_max(steps, Ordering::SeqCst);
            self.longest_write
                .fetch_max(began.elapsed().as_micros() as u64, Ordering::SeqCst);
        }
    }

    fn begin(&self) {
        for figure in [&self.steps, &self.longest_step, &self.longest_write, &self.most_steps] {
            figure.store(0, Ordering::SeqCst);
        }
        self.running.store(true, Ordering::SeqCst);
    }

    fn step(&self, took: Duration) {
        self.steps.fetch_add(1, Ordering::SeqCst);
        self.longest_step.fetch_max(took.as_micros() as u64, Ordering::SeqCst);
    }

    fn end(&self) {
        self.running.store(false, Ordering::SeqCst);
    }
}

impl fmt::Display for Beside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |figure: &AtomicU64| figure.load(Ordering::SeqCst);
        write!(
            f,
            "{} steps, the longest {} us; the longest write meanwhile {} us, at most {} steps long",
            of(&self.steps),
            of(&self.longest_step),
            of(&self.longest_write),
            of(&self.most_steps)
        )
    }
}

/// The contents of a snapshot: each client's writes and their sum, and a hash of all items.
#[derive(Clone, Debug, PartialEq)]
struct Content {
    tallies: Vec<(i64, i64)>,
    items: u64,
}

impl Content {
    fn of(conn: &Connection) -> larder::Result<Self> {
        let mut statement = conn.prepare("SELECT client, k, value, data FROM item ORDER BY client, k")?;
        let mut rows = statement.query([])?;
        let mut hasher = DefaultHasher::new();
        while let Some(row) = rows.next()? {
            let item: (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            item.hash(&mut hasher);
            row.get_ref(3)?.as_blob().map_err(Error::app)?.hash(&mut hasher);
        }
        Ok(Self {
            tallies: tallies(conn)?,
            items: hasher.finish(),
        })
    }

    /// Whether each client has at least as many writes, and as large a sum, as in `before`.
    fn follows(&self, before: &Self) -> bool {
        let mut both = self.tallies.iter().zip(&before.tallies);
        both.all(|((jobs, sum), (before, sum_before))| jobs >= before && sum >= sum_before)
    }
}

impl Backups {
    pub fn beside(database: &Path) -> io::Result<Self> {
        let (folder, scheduled) = (database.with_file_name("backups"), database.with_file_name("scheduled"));
        fs::create_dir(&folder)?;
        fs::create_dir(&scheduled)?;
        Ok(Self {
            folder,
            scheduled,
            turn: Mutex::new(()),
            turns: AtomicU64::new(0),
            names: Mutex::default(),
            beside: Arc::default(),
        })
    }

    pub fn schedule(&self, store: &Store) -> larder::Result<BackupSchedule> {
        store.backup_every(INTERVAL, KEEP, &self.scheduled)
    }

    /// Pauses the turns while this is held.
    pub fn pause(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there were enough turns, and the schedule has removed old backups.
    pub fn are_enough(&self) -> bool {
        self.turns.load(Ordering::SeqCst) >= TURNS && self.names().len() > KEEP
    }

    fn names(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks that a schedule's folder is bounded. Returns the number of its backups so far.
    pub fn look_at_scheduled(&self) -> Result<usize, String> {
        let (mut files, mut unfinished) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&self.scheduled).map_err(|error| error.to_string())? {
            let entry = entry.map_err(|error| error.to_string())?;
            // The file may be gone by now.
            let Ok(metadata) = entry.metadata() else { continue };
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(SERIES) {
                continue;
            }
            if metadata.is_dir() {
                unfinished.push(name);
                continue;
            }
            if metadata.len() > LARGEST {
                return Err(format!("the backup {name} has {} bytes", metadata.len()));
            }
            files.push(name);
        }
        if files.len() > KEEP + 1 || unfinished.len() > 1 {
            return Err(format!(
                "a schedule that keeps {KEEP} has {files:?}, unfinished {unfinished:?}"
            ));
        }
        let mut names = self.names();
        names.extend(files);
        Ok(names.len())
    }

    /// Checks, after the store has closed, that each backup is whole by itself.
    pub fn judge_scheduled(&self) -> Result<(), String> {
        self.look_at_scheduled()?;
        let mut before: Option<Content> = None;
        for name in names_in(&self.scheduled)? {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
            let conn = Connection::open_with_flags(self.scheduled.join(&name), flags);
            let conn = conn.map_err(|error| format!("{name}: {error}"))?;
            sound(&conn).map_err(|problem| format!("{name}: {problem}"))?;
            let content = Content::of(&conn).map_err(|error| format!("{name}: {error}"))?;
            if before.as_ref().is_some_and(|before| !content.follows(before)) {
                return Err(format!(
                    "{name} has less than the one before it: {content:?}, {before:?}"
                ));
            }
            before = Some(content);
        }
        match before {
            Some(_) => Ok(()),
            None => Err("the schedule has left no backup".into()),
        }
    }
}

fn names_in(folder: &Path) -> Result<Vec<String>, String> {
    let entries = fs::read_dir(folder).map_err(|error| error.to_string())?;
    let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
    let names: io::Result<Vec<String>> = entries.map(name).collect();
    let mut names = names.map_err(|error| error.to_string())?;
    names.retain(|name| !name.starts_with(SERIES));
    names.sort();
    Ok(names)
}

/// Holds the writer, which runs one write at a time: no other write commits before this sender is dropped.
fn hold(store: &Store) -> larder::Result<(Sender<()>, Pending<()>)> {
    let ((tell, held), (release, released)) = (channel(), channel::<()>());
    let pending = store.submit(move |_| {
        let _ = tell.send(());
        let _ = released.recv();
        Ok(())
    })?;
    match held.recv() {
        Ok(()) => Ok((release, pending)),
        // The write did not start.
        Err(_) => Err(pending.wait().err().unwrap_or(Error::Closed)),
    }
}

impl Soak {
    /// Makes turns until the end.
    pub(super) fn back_up(&self, time: Duration) -> Result<(), String> {
        let every = EVERY.min(time / 4);
        let mut next = Instant::now() + every / 2;
        while !self.together.is_over() {
            if Instant::now() < next {
                self.pause(Duration::from_millis(10));
                continue;
            }
            match self.back_up_once() {
                Ok(()) => next += every,
                // Meanwhile the store is closed and reopened, and a long read may fill the WAL.
                Err(error) if may_pass(&error) => self.pause(Duration::from_millis(50)),
                Err(error) => return Err(format!("a backup: {error}")),
            }
        }
        Ok(())
    }

    /// One turn: a backup, and a store opened from it.
    pub(super) fn back_up_once(&self) -> larder::Result<()> {
        let _turn = self.backups.pause();
        let turn = self.backups.turns.load(Ordering::SeqCst);
        let path = self.backups.folder.join("backup");
        let least = self.acknowledged();
        let content = if turn.is_multiple_of(2) {
            self.back_up_held(&path)?
        } else {
            self.back_up_beside_others(&path, turn)?
        };
        let most = self.asked();
        for (client, (jobs, _)) in content.tallies.iter().enumerate() {
            let (least, most) = (least[client], most[client]);
            report_of(
                (least..=most).contains(jobs),
                &format!("the backup has {jobs} writes of client {client}, and it must be {least} to {most}"),
            )?;
        }
        let names = names_in(&self.backups.folder).map_err(Error::app)?;
        report_of(names == ["backup"], &format!("the folder of backups has {names:?}"))?;
        self.backups.turns.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// No write commits between the snapshot of the source and the start of the backup.
    fn back_up_held(&self, path: &Path) -> larder::Result<Content> {
        let store = self.store();
        let (release, pending) = hold(&store)?;
        let source = store.read(|tx| Content::of(tx))?;
        // The first step has begun the snapshot.
        let mut release = Some(release);
        let report = store
            .backup(path)
            .overwrite(true)
            .checksum(true)
            .pages_per_step(PAGES_PER_STEP)
            .progress(move |_| {
                drop(release.take());
                ControlFlow::Continue(())
            })
            .run()?;
        pending.wait()?;
        let restored = restore(path, report.checksum)?;
        report_of(
            restored == source,
            &format!("the backup has {restored:?}, and its source had {source:?}"),
        )?;
        eprintln!(
            "soak: a backup of {} pages, restored, is what its source was",
            report.pages
        );
        Ok(restored)
    }

    fn back_up_beside_others(&self, path: &Path, turn: u64) -> larder::Result<Content> {
        let store = self.store();
        let before = store.read(|tx| Content::of(tx))?;
        let writes = self.acknowledged().iter().sum::<i64>();
        let (beside, mut last) = (Arc::clone(&self.backups.beside), Instant::now());
        let backup = if turn % 4 == 1 {
            store.backup(path)
        } else {
            store.backup_compact(path)
        };
        self.backups.beside.begin();
        let made = backup
            .overwrite(true)
            .checksum(true)
            .pages_per_step(PAGES_PER_STEP)
            .pause(REST)
            .progress(move |progress| {
                if progress.stage == BackupStage::Copy {
                    beside.step(last.elapsed());
                    last = Instant::now();
                }
                ControlFlow::Continue(())
            })
            .run();
        self.backups.beside.end();
        let report = made?;
        let writes = self.acknowledged().iter().sum::<i64>() - writes;
        let after = store.read(|tx| Content::of(tx))?;
        let restored = restore(path, report.checksum)?;
        report_of(
            restored.follows(&before) && after.follows(&restored),
            &format!("the backup has {restored:?}, its source had {before:?} before and {after:?} after it"),
        )?;
        eprintln!(
            "soak: a backup of {} pages in {:.1?}, restored, beside {writes} writes: {}",
            report.pages, report.duration, self.backups.beside
        );
        Ok(restored)
    }
}

/// Opens a store from the backup, checks that it works, and returns its contents.
fn restore(backup: &Path, checksum: Option<String>) -> larder::Result<Content> {
    let path = backup.with_file_name("restored.db");
    let report = Store::restore(backup, &path)?;
    report_of(
        Some(&report.checksum) == checksum.as_ref(),
        &format!(
            "the checksum of the restored is {}, of the backup {checksum:?}",
            report.checksum
        ),
    )?;
    let store = options().open(&path)?;
    let content = store.read(|tx| Content::of(tx))?;
    let check = store.check().full().run()?;
    report_of(check.is_ok(), &check)?;
    store.write(|tx| tx.execute("UPDATE tally SET sum = sum + 1", []))?;
    let closed = store.close()?;
    report_of(closed.wal_truncated, &closed)?;
    fs::remove_file(&path).map_err(Error::app)?;
    Ok(content)
}

fn may_pass(error: &Error) -> bool {
    matches!(error, Error::Closed | Error::WalFull { .. }) || error.is_retryable()
}
