//! Verifying a replica: a restore, then every file.
//!
//! Files may be merged and deleted meanwhile, by this store or another process. A restore makes a new plan then, and if
//! that cannot make the state that was read from the store any more, a newer one is read. A file that is gone when it is
//! its turn is looked for in a new list. Neither says anything about the replica.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};
use std::{env, fmt};

use super::apply::{ApplyError, read_through};
use super::check;
use super::fetch::Fetch;
use super::plan::{PlanError, SNAPSHOTS, Target, Txid, plan};
use super::progress::{Counted, ReplicaRestoreProgress, RestoreReporter, reporter};
use super::rebuild::{MERGED, explain, rebuild};
use crate::backup::{Build, Fingerprint, NO_ROOM};
use crate::error::{Error, Result};
use crate::maintenance::check::CheckReport;
use crate::options::Settings;
use crate::replica::storage::{FailureKind, FileInfo, Storage, StorageError, all_files, gaps, request};
use crate::telemetry::event::event;

/// So many states are read at most, until one can be restored.
const STATES: u32 = 3;

/// The rows of a store after one of its transactions, to compare a restored database with.
pub(crate) struct Snapshot {
    pub(crate) txid: u64,
    pub(crate) rows: Fingerprint,
}

/// Reads the rows of a snapshot, and makes sure that the replica has all of it.
type TakeSnapshot<'r> = Box<dyn Fn() -> Result<Snapshot> + 'r>;

/// Takes the files that cannot be used.
type TakeDamaged<'r> = Box<dyn FnOnce(Vec<(FileInfo, String)>) + 'r>;

/// Takes note of the first problem that was found.
type Note<'r> = Box<dyn FnOnce(Option<String>, bool) + 'r>;

/// A check of a whole replica, which [`run`](Self::run) starts. Made by [`Replica::verify`](crate::Replica::verify).
///
/// It reads every file to its end and compares the checksums, and looks for transactions that no file has.
/// [`restore`](Self::restore) also restores the newest state into a temporary folder, and checks that database.
#[must_use = "nothing is verified before `run`"]
pub struct ReplicaVerify<'r> {
    storage: &'r Storage,
    settings: Settings,
    restore: bool,
    folder: PathBuf,
    snapshot: Option<TakeSnapshot<'r>>,
    damaged: Option<TakeDamaged<'r>>,
    note: Option<Note<'r>>,
    reporter: RestoreReporter,
}

impl<'r> ReplicaVerify<'r> {
    pub(crate) fn new(storage: &'r Storage, settings: Settings) -> Self {
        Self {
            storage,
            settings,
            restore: false,
            folder: env::temp_dir(),
            snapshot: None,
            damaged: None,
            note: None,
            reporter: RestoreReporter::new(ReplicaRestoreProgress::NOTHING),
        }
    }

    /// Compares the restored database with a snapshot of the store.
    pub(crate) fn compare(mut self, snapshot: impl Fn() -> Result<Snapshot> + 'r) -> Self {
        self.snapshot = Some(Box::new(snapshot));
        self
    }

    /// Has `note` called once the verification has ended: with the first problem, if there is one, and whether the newest
    /// state was restored.
    pub(crate) fn note(mut self, note: impl FnOnce(Option<String>, bool) + 'r) -> Self {
        self.note = Some(Box::new(note));
        self
    }

    /// Looks by that handle whether to go on.
    pub(in crate::replica) fn watched_by(mut self, reporter: RestoreReporter) -> Self {
        self.reporter = reporter;
        self
    }

    /// Hands over the files that cannot be used, and why.
    pub(crate) fn damaged(mut self, take: impl FnOnce(Vec<(FileInfo, String)>) + 'r) -> Self {
        self.damaged = Some(Box::new(take));
        self
    }

    /// Also restores the newest state and checks it with `integrity_check`. The default is `false`: a restore downloads
    /// all that it needs a second time, and needs room for the database.
    pub fn restore(mut self, restore: bool) -> Self {
        self.restore = restore;
        self
    }

    /// Calls `f` at the beginning and the end of each stage of the restore, and some ten times a second while files are
    /// read. `ControlFlow::Break(())` cancels the verification. Bytes are counted for the restore alone.
    ///
    /// The callback runs on the thread that called [`run`](Self::run).
    pub fn progress(mut self, f: impl FnMut(&ReplicaRestoreProgress) -> ControlFlow<()> + Send + 'static) -> Self {
        self.reporter = reporter(f);
        self
    }

    /// Restores into a folder in this one, and deletes it afterwards. The default is the system's folder for temporary
    /// files.
    pub fn folder(mut self, folder: impl AsRef<Path>) -> Self {
        self.folder = folder.as_ref().to_owned();
        self
    }

    /// Runs the check. What is wrong with the replica is no error; see [`VerifyReport::is_ok`].
    ///
    /// # Errors
    ///
    /// [`Error::Replica`](crate::Error::Replica): the replica cannot be read; or its files are sound, and each state was
    /// merged with later ones before it was restored. [`Error::Restore`](crate::Error::Restore): the folder cannot be used;
    /// or the files are sound, and it has no room for the database.
    pub fn run(self) -> Result<VerifyReport> {
        let began = Instant::now();
        self.reporter.begin();
        let looked = self.look();
        let mut report = self.reporter.end("verification").and(looked)?;
        report.duration = began.elapsed();
        report.tell(self.storage);
        if let Some(note) = self.note {
            note(report.problems.first().cloned(), report.restored.is_some());
        }
        if let Some(take) = self.damaged {
            take(std::mem::take(&mut report.damaged));
        }
        Ok(report)
    }

    fn look(&self) -> Result<VerifyReport> {
        let mut report = VerifyReport::default();
        // First: what the snapshot is compared with may be merged into other files before long.
        let unrestored = match self.restore {
            true => self.restore_a_state(&mut report)?,
            false => None,
        };
        self.go_on()?;
        let usable = self.read_files(&mut report)?;
        report.newest = usable.iter().map(|file| file.txids.max).max();
        find_gaps(&usable, &mut report);
        match unrestored {
            // The files are sound, and nothing is known of their contents.
            Some(error) if report.is_ok() => Err(error),
            Some(error) => {
                report.problems.push(error.to_string());
                Ok(report)
            }
            None => Ok(report),
        }
    }

    /// Restores the state of a snapshot, or the newest, and takes note of what is wrong with it. Returns why that was not
    /// possible, if the reason says nothing about the replica.
    fn restore_a_state(&self, report: &mut VerifyReport) -> Result<Option<Error>> {
        for _ in 0..STATES {
            let snapshot = self.snapshot.as_ref().map(|take| take()).transpose()?;
            let build = Build::temporary(&self.storage.to_string(), &self.folder)?;
            match self.restore_to(&build, snapshot, report) {
                Err(error) if is_merged(&error) => self.go_on()?,
                Err(error) if is_away(&error) => return self.go_on().and(Err(error)),
                Err(error) if is_no_room(&error) => return Ok(Some(error)),
                Err(error) => {
                    report.problems.push(error.to_string());
                    return Ok(None);
                }
                Ok(()) => return Ok(None),
            }
        }
        Ok(Some(Error::Replica {
            what: format!(
                "it cannot be compared with the store: {STATES} times, the state that was read from it had been merged with \
                 later ones before it was restored. A longer ReplicaOptions::l0_retention leaves more time"
            ),
            retryable: true,
            url: self.storage.to_string(),
            source: None,
        }))
    }

    /// An error if the work is stopped. What stopped it is the error of [`run`](Self::run).
    fn go_on(&self) -> Result<()> {
        match self.reporter.poll() {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Closed),
        }
    }

    /// Reads every file. Returns those that are sound.
    fn read_files(&self, report: &mut VerifyReport) -> Result<Vec<FileInfo>> {
        let files = self.list()?;
        let (mut fetch, mut sound, mut missing) = (Fetch::new(self.storage, &files), Vec::new(), Vec::new());
        while let Some((file, opened)) = fetch.next() {
            let opened = opened.map(|from| Counted::new(from, &self.reporter));
            let read = opened
                .map_err(ApplyError::Storage)
                .and_then(|from| read_through(from, file));
            self.go_on()?;
            match read {
                Ok(_) => {
                    report.count(file);
                    sound.push(*file);
                }
                Err(ApplyError::Storage(error)) if error.is_not_found() => missing.push(*file),
                Err(ApplyError::Storage(error)) => return Err(error.into()),
                Err(error) => {
                    report.count(file);
                    report.damaged(self.storage, file, &error.to_string());
                }
            }
        }
        if !missing.is_empty() {
            // Those that were compacted away meanwhile are listed no more, and others have their transactions.
            let now = self.list()?;
            let still = missing
                .iter()
                .filter(|file| now.iter().any(|other| is_same(file, other)));
            still.for_each(|file| report.damaged(self.storage, file, "it is listed, and missing"));
            sound.extend(
                now.iter()
                    .filter(|file| !files.iter().any(|other| is_same(file, other))),
            );
        }
        Ok(sound)
    }

    fn list(&self) -> Result<Vec<FileInfo>, StorageError> {
        let storage = self.storage.clone();
        request(self.storage, async move { all_files(&storage).await })
    }

    fn restore_to(&self, build: &Build, snapshot: Option<Snapshot>, report: &mut VerifyReport) -> Result<()> {
        let target = snapshot
            .as_ref()
            .map_or(Target::Newest, |snapshot| Target::Txid(snapshot.txid));
        let rebuilt = rebuild(self.storage, target, build, &self.reporter)?;
        let (check, rows) = check(build, &self.settings, true, &self.reporter)?;
        let rows = rows.expect("the rows were read");
        let header = rebuilt.header;
        report.restored = Some(RestoredState {
            txid: header.max_txid,
            bytes: u64::from(header.commit) * u64::from(header.page_size),
            rows: rows.rows(),
            is_compared: snapshot.is_some(),
            check,
        });
        let difference = snapshot.and_then(|snapshot| snapshot.rows.difference(&rows));
        report.problems.extend(difference.map(|difference| {
            format!("the restored database is not that of the store: {difference}, and other rows in the replica")
        }));
        Ok(())
    }
}

/// Whether the state has no files of its own any more.
fn is_merged(error: &Error) -> bool {
    matches!(error, Error::Restore { problem, .. } if *problem == MERGED)
}

/// Whether the folder has no room for the database.
fn is_no_room(error: &Error) -> bool {
    matches!(error, Error::Restore { problem, .. } if *problem == NO_ROOM)
}

/// Whether the storage does not answer.
fn is_away(error: &Error) -> bool {
    let Error::Restore { source, .. } = error else {
        return false;
    };
    let storage = source.as_ref().and_then(|source| source.downcast_ref::<StorageError>());
    storage.is_some_and(|error| error.kind() == FailureKind::Transient)
}

fn is_same(one: &FileInfo, other: &FileInfo) -> bool {
    (one.level, one.txids) == (other.level, other.txids)
}

/// Looks for transactions that no sound file has, and whether the newest state can be restored.
fn find_gaps(files: &[FileInfo], report: &mut VerifyReport) {
    for gap in gaps(files) {
        report.problems.push(format!("no file has the transactions {gap}"));
        let missing = FileInfo {
            level: 0,
            txids: gap,
            size: 0,
            modified: SystemTime::UNIX_EPOCH,
        };
        report.damaged.push((missing, "no file has the transactions".into()));
    }
    let planned = plan::<PlanError>(files, Target::Newest, |_| unreachable!("the newest state has no time"));
    match planned {
        Ok(_) | Err(PlanError::Gap { .. }) => {}
        Err(error) => report.problems.push(explain(error).sentence()),
    }
}

/// The findings of a [`ReplicaVerify`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct VerifyReport {
    /// The files that were read, by level: their number, and their bytes.
    pub levels: BTreeMap<u8, (u64, u64)>,
    /// The newest transaction.
    pub newest: Option<u64>,
    /// What is wrong: damaged and missing files, transactions that no file has, a restored database that is damaged or
    /// has other rows than its store.
    pub problems: Vec<String>,
    /// The restored database, if it was to be restored, and could be.
    pub restored: Option<RestoredState>,
    /// Duration of the check.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
    pub duration: Duration,
    /// The files that cannot be used, and why. Transactions that no file has count as one of level 0.
    #[cfg_attr(feature = "serde", serde(skip))]
    damaged: Vec<(FileInfo, String)>,
}

/// The database that a [`ReplicaVerify`] restored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct RestoredState {
    /// The transaction after which the database was so.
    pub txid: u64,
    /// Its size in bytes.
    pub bytes: u64,
    /// Number of rows in all tables.
    pub rows: u64,
    /// Whether all rows were compared with those of the store.
    pub is_compared: bool,
    /// The check of the database.
    pub check: CheckReport,
}

impl VerifyReport {
    /// Whether nothing is wrong.
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty()
    }

    /// Number of files that were read.
    pub fn files(&self) -> u64 {
        self.levels.values().map(|(files, _)| files).sum()
    }

    /// Bytes of these files.
    pub fn bytes(&self) -> u64 {
        self.levels.values().map(|(_, bytes)| bytes).sum()
    }

    fn count(&mut self, file: &FileInfo) {
        let (files, bytes) = self.levels.entry(file.level).or_default();
        (*files, *bytes) = (*files + 1, *bytes + file.size);
    }

    fn damaged(&mut self, storage: &Storage, file: &FileInfo, problem: &str) {
        self.damaged.push((*file, problem.to_owned()));
        self.problems
            .push(format!("{}: {problem}", storage.name(file.level, file.txids)));
    }

    fn tell(&self, storage: &Storage) {
        let restored = self.restored.as_ref();
        event!(
            info,
            "larder::replica",
            {
                replica = %storage,
                files = self.files(),
                bytes = self.bytes(),
                newest = self.newest,
                problems = self.problems.len(),
                restored = restored.map(|restored| restored.txid),
                compared = restored.is_some_and(|restored| restored.is_compared),
                duration_ms = self.duration.as_millis() as u64,
            },
            "replica verified"
        );
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} files with {} bytes (", self.files(), self.bytes())?;
        for (at, (level, (files, _))) in self.levels.iter().enumerate() {
            let comma = if at > 0 { ", " } else { "" };
            match *level {
                SNAPSHOTS => write!(f, "{comma}snapshots: {files}")?,
                level => write!(f, "{comma}level {level}: {files}")?,
            }
        }
        f.write_str(")")?;
        if let Some(newest) = self.newest {
            write!(f, " up to TXID {}", Txid(newest))?;
        }
        if let Some(restored) = &self.restored {
            write!(f, "; {restored}")?;
        }
        match self.problems.first() {
            None => write!(f, "; ok ({:.1?})", self.duration),
            Some(first) => write!(
                f,
                "; {} problems, the first: {first} ({:.1?})",
                self.problems.len(),
                self.duration
            ),
        }
    }
}

impl fmt::Display for RestoredState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (txid, bytes, rows) = (Txid(self.txid), self.bytes, self.rows);
        let compared = if self.is_compared {
            ", compared with the store"
        } else {
            ""
        };
        write!(
            f,
            "restored TXID {txid}: {bytes} bytes, {rows} rows{compared}, {}",
            self.check
        )
    }
}
