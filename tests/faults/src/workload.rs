//! The operations of the store under test, and the journal of its replies.
//!
//! Each job writes rows to several tables by a known plan ([`Job`]); the first column of its row in `entry` is the
//! number of its commit. So after any failure the tables show how many commits are there, and
//! [`Model`](crate::model::Model) what the tables must then hold, byte for byte: no partial job, no job out of order,
//! no part of a job that was rolled back.

use std::fs;
use std::ops::ControlFlow;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use larder::rusqlite::Connection;
use larder::{
    Access, BackupProgress, BackupStage, CloseReport, Durability, Error, Outcome, ReadOptions, Store, WriteOptions,
    WriteTx,
};

use crate::answer::{Answer, Asked, Bell, Gate, Reply};
use crate::check::is_as_recorded;
use crate::copies::{Bytes, Copy, has_unfinished};
use crate::job::{Deliberate, Job};
use crate::journal::{Journal, Said, Told};
use crate::settings::{LONG, NEWEST, Settings};
use crate::system::Unseen;
use crate::trace::Disk;

pub const DATABASE: &str = "app.db";

#[derive(Clone, Debug)]
pub enum Op {
    /// A write by `Store::write_with`, on this thread.
    Write(Job),
    /// Writes that are queued together while the writer is busy, so that it takes them into one group, as far as they
    /// fit.
    Group(Vec<Job>),
    /// A bulk job of one row, whose statement changes nothing. For a second after it, another thread makes the checkpoints.
    Bulk,
    Read,
    /// Begins a read that stays open.
    Pin,
    Unpin,
    Close,
    /// Drops the last clone.
    Drop,
    /// Opens the store if it is not open.
    Open,
    /// Migrates to that version, up or down.
    Migrate(u64),
    Backup(Backup),
    /// Waits until everything is in the replica.
    Flush,
    Pause(Duration),
    /// Another connection runs this SQL, as another process would.
    Other(&'static str),
    /// Restores a database from a backup.
    Restore {
        from: String,
        to: String,
    },
}

/// The plan of a backup.
#[derive(Clone, Debug)]
pub struct Backup {
    to: String,
    overwrite: bool,
    compact: bool,
    /// Jobs that are written while pages are copied.
    during: Vec<Job>,
}

impl Backup {
    /// A backup to an unused name.
    pub fn new(to: &str) -> Self {
        Self {
            to: to.to_owned(),
            overwrite: false,
            compact: false,
            during: vec![],
        }
    }

    /// A backup that may replace a file.
    pub fn over(to: &str) -> Self {
        Self {
            overwrite: true,
            ..Self::new(to)
        }
    }

    pub fn compact(self) -> Self {
        Self { compact: true, ..self }
    }

    pub fn during(self, jobs: impl Into<Vec<Job>>) -> Self {
        Self {
            during: jobs.into(),
            ..self
        }
    }
}

/// Pages per step: few, so that there are several steps.
const STEP: u32 = 3;

struct LongRead {
    release: Sender<()>,
    thread: JoinHandle<larder::Result<()>>,
}

/// A store, and the journal of its replies.
pub struct Run {
    pub disk: Arc<Disk>,
    path: PathBuf,
    settings: Settings,
    store: Option<Store>,
    long_read: Option<LongRead>,
    pub journal: Journal,
}

impl Run {
    pub fn new(disk: &Arc<Disk>, folder: &Path, settings: &Settings) -> Self {
        Self {
            disk: Arc::clone(disk),
            path: folder.join(DATABASE),
            settings: settings.clone(),
            store: None,
            long_read: None,
            journal: Journal::default(),
        }
    }

    /// Runs one job outside of any journal.
    pub fn write_one(store: &Store, options: WriteOptions, job: &Job) -> larder::Result<i64> {
        let job = job.clone();
        store.write_with(options, move |tx| job.run(tx, &AtomicI64::new(0)))
    }

    /// Records the initial commits, which are durable and were acknowledged before the recording.
    pub fn begin_with(&mut self, commits: &[Job]) {
        let told = |(i, job): (usize, &Job)| Told {
            job: job.clone(),
            number: i as i64 + 1,
            said: Said::Committed,
            at: 0,
            durable: true,
        };
        self.journal.told.extend(commits.iter().enumerate().map(told));
    }

    /// The disk works from now on.
    pub fn take_time(&mut self) {
        self.settings.patience = LONG;
    }

    pub fn all(&mut self, ops: &[Op]) {
        ops.iter().for_each(|op| self.step(op));
    }

    pub fn step(&mut self, op: &Op) {
        match op {
            Op::Open => self.open(),
            Op::Close => self.close(),
            Op::Drop => self.drop_store(),
            Op::Write(job) => {
                self.open();
                self.write(job);
            }
            Op::Group(jobs) => {
                self.open();
                self.group(jobs);
            }
            Op::Bulk => {
                self.open();
                self.bulk();
            }
            Op::Read => {
                self.open();
                self.read();
            }
            Op::Pin => {
                self.open();
                self.pin();
            }
            Op::Unpin => self.unpin(),
            Op::Migrate(version) => {
                self.open();
                self.migrate(*version);
            }
            Op::Backup(backup) => {
                self.open();
                self.back_up(backup);
            }
            Op::Flush => {
                self.open();
                self.flush();
            }
            Op::Pause(time) => thread::sleep(*time),
            Op::Other(sql) => self.other(sql),
            Op::Restore { from, to } => self.restore(from, to),
        }
    }

    fn open(&mut self) {
        if self.store.is_some() {
            return;
        }
        self.journal.opens.push(self.disk.now());
        self.journal.poisoned = false;
        match self.settings.options().open(&self.path) {
            Ok(store) => {
                self.resolve(&store, self.disk.now());
                self.journal.version = Some(NEWEST);
                self.store = Some(store);
            }
            Err(error) => self.journal.open_errors.push(error),
        }
    }

    /// Resolves unknown outcomes once the file was recovered, as their error tells the caller to do.
    fn resolve(&mut self, store: &Store, now: usize) {
        for told in &mut self.journal.told {
            let Said::Unknown(text) = &told.said else { continue };
            let found = store.read(|tx| {
                tx.exists(
                    "SELECT 1 FROM entry WHERE n = ?1 AND job = ?2",
                    [told.number, told.job.id],
                )
            });
            match found {
                Ok(true) => (told.said, told.durable, told.at) = (Said::Committed, false, now),
                Ok(false) => told.said = Said::RolledBack(format!("by the restart, after {text}")),
                // The next open resolves it.
                Err(error) => return self.journal.read_errors.push(error),
            }
        }
    }

    fn close(&mut self) {
        self.unpin();
        let Some(store) = self.store.take() else { return };
        let from = self.disk.now();
        match store.close() {
            Ok(report) => self.note_close(from, &report),
            Err(error) => self.journal.close_errors.push(error.to_string()),
        }
    }

    fn note_close(&mut self, from: usize, report: &CloseReport) {
        let to = self.disk.now();
        if report.wal_truncated {
            self.journal.emptied.push(to);
        }
        match &report.not_replicated_because {
            None if report.replicated.is_some() => self.journal.replicated.push((to, self.commits())),
            None => {}
            Some(reason) => self.journal.unreplicated.push(reason.clone()),
        }
        if self.journal.poisoned {
            self.journal.poisoned_closes.push((from, to, report.wal_truncated));
        }
    }

    /// The number of acknowledged commits.
    fn commits(&self) -> usize {
        let told = self.journal.told.iter();
        told.filter(|told| told.said == Said::Committed).count()
    }

    fn flush(&mut self) {
        let Some(store) = &self.store else { return };
        let commits = self.commits();
        match store
            .replica()
            .and_then(|replica| replica.flush(self.settings.patience))
        {
            Ok(_) => self.journal.replicated.push((self.disk.now(), commits)),
            Err(error) => self.journal.unreplicated.push(error.to_string()),
        }
    }

    fn other(&mut self, sql: &str) {
        if self.settings.access == Access::Exclusive || !self.path.exists() {
            return;
        }
        self.journal.others += 1;
        // It may fail: the store may be writing, or the disk.
        let _ = Connection::open(&self.path).and_then(|conn| conn.execute_batch(sql));
    }

    /// Drops the store, which closes by itself; the next open waits for it.
    fn drop_store(&mut self) {
        self.unpin();
        self.store = None;
    }

    fn bulk(&mut self) {
        let Some(store) = &self.store else { return };
        // It may fail, as any write may, and has changed nothing.
        let _ = store.bulk().insert("DELETE FROM entry WHERE n = ?1", [(-1,)]).run();
    }

    fn read(&mut self) {
        let Some(store) = &self.store else { return };
        let options = ReadOptions::new().queue_timeout(self.settings.patience);
        let done = store.read_with(options, |tx| {
            tx.exists("SELECT 1 FROM part WHERE length(data) > 100000", [])?;
            tx.query_row("SELECT sum(amount) FROM account", [], |row| row.get::<_, i64>(0))
        });
        match done {
            Ok(0) => {}
            Ok(other) => panic!("a snapshot has {other} on its accounts, which is half a write"),
            Err(error) => self.journal.read_errors.push(error),
        }
    }

    fn pin(&mut self) {
        let (None, Some(store)) = (&self.long_read, self.store.clone()) else {
            return;
        };
        let (reading, reads) = channel();
        let (release, released) = channel();
        let thread = thread::spawn(move || {
            store.read(|tx| {
                tx.exists("SELECT 1 FROM entry", [])?;
                let _ = reading.send(());
                let _ = released.recv();
                Ok(())
            })
        });
        // Returns an error if the read has failed.
        let _ = reads.recv();
        self.long_read = Some(LongRead { release, thread });
    }

    fn unpin(&mut self) {
        let Some(LongRead { release, thread }) = self.long_read.take() else {
            return;
        };
        let _ = release.send(());
        if let Err(error) = thread.join().expect("a read does not panic") {
            self.journal.read_errors.push(error);
        }
    }

    // ---- migrations ----

    fn migrate(&mut self, version: u64) {
        let Some(store) = &self.store else { return };
        match store.migrate_to(version) {
            Ok(_) => self.journal.version = Some(version),
            Err(error) => {
                self.journal.poisoned |= poisons(&error);
                // The error concerns the failed step; or the look for the next step failed, and this step may be made.
                let is_undone = matches!(error.outcome(), Outcome::NotStarted | Outcome::RolledBack);
                if !(is_undone && matches!(error, Error::Migration(_))) {
                    self.journal.version = None;
                }
            }
        }
    }

    /// Checks that the schema matches the reported migrations.
    pub fn look_at_schema(&self) -> Result<(), String> {
        let Some(store) = &self.store else { return Ok(()) };
        let recorded = store.read(|tx| Ok(is_as_recorded(tx)));
        recorded.map_err(|error| error.to_string())??;
        let status = store.migrations().map_err(|error| error.to_string())?;
        let newest = status.applied.last().map_or(0, |applied| applied.version);
        match self.journal.version {
            Some(version) if version != newest => {
                Err(format!("it is at version {newest}, and was said to be at {version}"))
            }
            _ => Ok(()),
        }
    }

    // ---- copies ----

    fn back_up(&mut self, backup: &Backup) {
        let Some(store) = self.store.clone() else { return };
        let path = self.path.with_file_name(&backup.to);
        let (disk, writing) = (Arc::clone(&self.disk), store.clone());
        let mut jobs = backup.during.clone().into_iter();
        let (told, hear) = channel();
        let progress = move |progress: &BackupProgress| {
            if progress.stage == BackupStage::Copy
                && let Some(job) = jobs.next()
            {
                let asked = ask(&disk, &writing, &job, None, &Arc::default());
                let _ = told.send((job, asked.wait()));
            }
            ControlFlow::Continue(())
        };
        let made = if backup.compact {
            store.backup_compact(&path)
        } else {
            store.backup(&path)
        };
        let made = made.overwrite(backup.overwrite).pages_per_step(STEP).progress(progress);
        let commits = self
            .journal
            .told
            .iter()
            .filter(|told| told.said == Said::Committed)
            .count();
        let commits = (commits, commits + self.journal.unknown().len());
        let copy = self.begin_copy(&backup.to, commits);
        let result = made.run();
        self.end_copy(copy, result.map(drop));
        let meanwhile: Vec<_> = hear.try_iter().collect();
        let (written, rest) = (meanwhile.len(), &backup.during);
        for (job, (number, result, at)) in meanwhile {
            self.tell(&job, number, result, at);
        }
        for job in &rest[written..] {
            self.group(std::slice::from_ref(job));
        }
    }

    fn restore(&mut self, from: &str, to: &str) {
        let commits = self.journal.copy(from).map_or((0, 0), |copy| copy.commits);
        let (source, target) = (self.path.with_file_name(from), self.path.with_file_name(to));
        let original = self.bytes(from);
        let copy = self.begin_copy(to, commits);
        let result = self.settings.options().restore(source, target);
        self.end_copy(copy, result.map(drop));
        assert!(
            original == self.bytes(from),
            "the backup was changed as a database was made of it"
        );
    }

    fn begin_copy(&self, name: &str, commits: (usize, usize)) -> Copy {
        Copy {
            name: name.to_owned(),
            began: self.disk.now(),
            ended: usize::MAX,
            commits,
            result: Ok(()),
            before: self.bytes(name),
            after: None,
            has_left: false,
        }
    }

    fn end_copy(&mut self, copy: Copy, result: larder::Result<()>) {
        let _unseen = Unseen::begin();
        self.journal.copies.push(Copy {
            ended: self.disk.now(),
            result,
            after: self.bytes(&copy.name),
            has_left: self.path.parent().is_some_and(has_unfinished),
            ..copy
        });
    }

    /// The file under that name.
    fn bytes(&self, name: &str) -> Option<Bytes> {
        let _unseen = Unseen::begin();
        fs::read(self.path.with_file_name(name)).ok().map(Into::into)
    }

    // ---- writes ----

    fn write(&mut self, job: &Job) {
        let Some(store) = self.store.clone() else { return };
        let number = Arc::new(AtomicI64::new(0));
        let (own, theirs) = (job.clone(), Arc::clone(&number));
        let options = options_of(job);
        let result = panic::catch_unwind(AssertUnwindSafe(|| {
            store.write_with(options, move |tx| own.run(tx, &theirs))
        }));
        self.tell(job, number.load(Ordering::SeqCst), result, self.disk.now());
    }

    fn group(&mut self, jobs: &[Job]) {
        let Some(store) = self.store.clone() else { return };
        let gate = Arc::new(Gate::default());
        let (release, released) = channel::<()>();
        let mut hold = Some((released, Arc::clone(&gate)));
        let asked: Vec<_> = jobs
            .iter()
            .map(|job| ask(&self.disk, &store, job, hold.take(), &gate))
            .collect();
        let _ = release.send(());
        for (job, asked) in jobs.iter().zip(asked) {
            let (number, result, at) = asked.wait();
            self.tell(job, number, result, at);
        }
    }

    fn tell(&mut self, job: &Job, number: i64, result: Reply, at: usize) {
        let said = match result {
            Ok(Ok(n)) if n == number => Said::Committed,
            Ok(Ok(n)) => panic!("job {} was told that it is commit {n}, not {number}", job.id),
            Ok(Err(error)) => {
                self.journal.poisoned |= poisons(&error);
                Said::of(&error)
            }
            Err(payload) if payload.is::<Deliberate>() => Said::RolledBack("it panicked".into()),
            Err(payload) => panic::resume_unwind(payload),
        };
        self.journal.told.push(Told {
            durable: job.full || self.settings.durability == Durability::Full,
            job: job.clone(),
            number,
            said,
            at,
        });
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.unpin();
    }
}

/// Whether the error says that the store is poisoned now.
fn poisons(error: &Error) -> bool {
    matches!(error, Error::Poisoned { .. } | Error::CommitUnknown { .. })
}

fn options_of(job: &Job) -> WriteOptions {
    let options = WriteOptions::new();
    if job.full {
        options.durability(Durability::Full)
    } else {
        options
    }
}

/// Submits a write. The first of a group holds the writer until all are queued, if it runs at all.
fn ask(disk: &Arc<Disk>, store: &Store, job: &Job, hold: Option<(Receiver<()>, Arc<Gate>)>, gate: &Gate) -> Asked {
    let number = Arc::new(AtomicI64::new(0));
    let (own, theirs) = (job.clone(), Arc::clone(&number));
    let bell = Arc::new(Bell::new(disk));
    let first = hold.is_some();
    let heard = Arc::clone(&bell);
    let closure = move |tx: &WriteTx<'_>| {
        heard.begin();
        if let Some((released, gate)) = hold {
            gate.open();
            let _ = released.recv();
        }
        own.run(tx, &theirs)
    };
    let answer = match store.submit_with(options_of(job), closure) {
        Err(error) => Answer::Here(Ok(Err(error))),
        Ok(mut pending) => match bell.poll(&mut pending) {
            Some(result) => Answer::Here(result),
            None => Answer::Awaited(pending),
        },
    };
    match answer {
        Answer::Here(_) => bell.ring(),
        // The rest is queued once the writer runs the first, so that it finds them all.
        Answer::Awaited(_) if first => gate.wait(&bell),
        Answer::Awaited(_) => {}
    }
    Asked { number, answer, bell }
}
