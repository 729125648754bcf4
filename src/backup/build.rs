//! A database that is written as a whole, by a restore or a verification of a replica, or an import from PostgreSQL: in the
//! folder of unfinished copies, checked as a copy is, and named as one.
//!
//! Two threads check it: one the pages and the indexes, the other the foreign keys, for which it looks up each row's parent.
//! The other one then syncs the file, while the first still reads. A check of a backup has one thread, since a service has
//! its own use for the others.

use std::fs::File;
use std::ops::ControlFlow;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, Scope, ScopedJoinHandle};

use super::copy::{CHECKING, Copier, CopyPlan, Whose, cannot, cannot_open, check_room, refuse_damage};
use super::failure::{Failure, Result as BuildResult};
use super::fingerprint::Fingerprint;
use super::staging::{Copy, Staging, Unfinished, cannot_create};
use super::{BackupProgress, CALLBACK_INTERVAL};
use crate::connection::temp_folder::{Content, TempFolder};
use crate::connection::{self, Private, check_sqlite, open_files, open_original};
use crate::error::{Error, Result};
use crate::maintenance::check::{self, CheckReport};
use crate::maintenance::progress::ProgressReporter;
use crate::options::Settings;
use crate::runtime::sync::Arc;
use crate::runtime::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// A database without its name. Dropping it deletes it.
pub(crate) struct Build {
    /// The URL of what the database is made from.
    from: String,
    to: PathBuf,
    /// `None` if it is never to have a name.
    staging: Option<Staging>,
    copy: Copy,
    /// Dropped last.
    _unfinished: Unfinished,
}

impl Build {
    /// Checks that a database may be put at `to`, and creates an empty file for it.
    pub(crate) fn begin(from: &str, to: &Path) -> Result<Self> {
        Self::beside(from, to, |to| Staging::new(to, false))
    }

    /// The same while there is a database at `to`, which is moved away or replaced once this one is whole.
    #[cfg(feature = "replicate")]
    pub(crate) fn begin_beside(from: &str, to: &Path) -> Result<Self> {
        Self::beside(from, to, |to| Staging::occupied(to, false))
    }

    fn beside(from: &str, to: &Path, place: impl FnOnce(&Path) -> BuildResult<Staging>) -> Result<Self> {
        check_sqlite(to)?;
        // Before the check for a file at `to`: a store also reserves the name of a file that was moved away.
        if open_files::is_open(to) {
            return Err(Error::AlreadyOpen {
                path: to.into(),
                closing: None,
            });
        }
        let begun = place(to).and_then(|staging| Ok((staging.begin()?, Some(staging))));
        Self::within(from, to, begun)
    }

    /// Creates an empty file for a database that is only to be looked at, in a folder for temporary files.
    pub(crate) fn temporary(from: &str, folder: &Path) -> Result<Self> {
        check_sqlite(folder)?;
        let begun = TempFolder::inside(folder, Content::Copy).map_err(cannot_create);
        let begun = begun.map(|folder| {
            folder.remove_leftovers();
            (Unfinished(folder), None)
        });
        Self::within(from, folder, begun)
    }

    fn within(from: &str, to: &Path, begun: BuildResult<(Unfinished, Option<Staging>)>) -> Result<Self> {
        let created = begun.and_then(|(unfinished, staging)| Ok((unfinished.create("copy.db")?, unfinished, staging)));
        let (copy, unfinished, staging) = created.map_err(|failure| failure.of_replica(from, to))?;
        Ok(Self {
            from: from.to_owned(),
            to: to.to_owned(),
            staging,
            copy,
            _unfinished: unfinished,
        })
    }

    /// The path of the file until it has its name.
    #[cfg(feature = "postgres")]
    pub(crate) fn path(&self) -> &Path {
        &self.copy.path
    }

    /// The file to write.
    pub(crate) fn file(&self) -> &File {
        &self.copy.file
    }

    /// The file, to read what was written.
    #[cfg(feature = "replicate")]
    pub(crate) fn written(&self) -> std::io::Result<File> {
        File::open(&self.copy.path)
    }

    /// Checks that there is room for so many bytes.
    pub(crate) fn check_room(&self, bytes: u64) -> BuildResult<()> {
        check_room(&self.copy.path, bytes, false)
    }

    /// Checks the database for damage, and changes nothing in it. `with_rows` reads all of them, too. The check ends with
    /// an error once `go_on`, which is called some ten times a second, says so.
    pub(crate) fn check(
        &self,
        settings: &Settings,
        with_rows: bool,
        mut go_on: impl FnMut() -> ControlFlow<()> + Send + 'static,
    ) -> Result<(CheckReport, Option<Fingerprint>)> {
        let reporter = ProgressReporter::new(BackupProgress::NOTHING);
        reporter.call(CALLBACK_INTERVAL, move |_, _| go_on());
        let looked = self.look(settings, with_rows, &reporter);
        looked.map_err(|failure| self.failed(failure))
    }

    fn look(
        &self,
        settings: &Settings,
        with_rows: bool,
        reporter: &ProgressReporter<BackupProgress>,
    ) -> BuildResult<(CheckReport, Option<Fingerprint>)> {
        let plan = CopyPlan::default();
        let copier = Copier {
            options: settings,
            plan: &plan,
            reporter,
            pause: &|_| {},
        };
        let private = self.open(settings)?;
        let looked = thread::scope(|scope| {
            let keys = Keys::start(scope, self, settings);
            let add_keys = |report: &mut CheckReport| match keys {
                Some(keys) => keys.join(report, reporter),
                None => copier.check_keys(&private.conn, report),
            };
            let checked = copier
                .check_with(&private, Whose::Source, add_keys)
                .and_then(refuse_damage);
            checked.and_then(|report| Ok((report, with_rows.then(|| rows(&private, reporter)).transpose()?)))
        });
        connection::close(private.conn);
        looked
    }

    fn open(&self, settings: &Settings) -> BuildResult<Private> {
        let Some(private) = open_original(&self.copy.path, settings, true).map_err(cannot_open)? else {
            return Err(Failure::new(
                "SQLite cannot open the database in its folder; check the folder, its owner and its mode",
            ));
        };
        // Not for a backup: a disk that fails under a memory map ends the process, and backups go to lesser disks than a
        // database that is to be opened.
        connection::map_whole(&private.conn, settings).map_err(|error| Failure::of(CHECKING, error))?;
        Ok(private)
    }

    /// What the thread does that checks the foreign keys, until `over` is set.
    fn check_keys(&self, private: &Private, over: Arc<AtomicBool>) -> BuildResult<CheckReport> {
        let mut report = CheckReport::default();
        let told = Arc::clone(&over);
        let _watching = private.interrupt.watch(&private.conn, move || over.load(Relaxed));
        let stopped = |_, _| match told.load(Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        let checked = check::foreign_keys(&private.conn, &mut report, stopped);
        checked.map_err(|error| cannot(CHECKING, error))?;
        // The sync before the database gets its name is short then. Nothing stops it, so none begins once the check is over.
        if self.staging.is_some() && !told.load(Relaxed) {
            self.copy.sync()?;
        }
        Ok(report)
    }

    /// Gives the database its name, which must still be free, and returns its path.
    pub(crate) fn finish(self) -> Result<PathBuf> {
        let Self {
            from,
            to,
            staging,
            copy,
            ..
        } = self;
        let staging = staging.expect("a database that is to have a name");
        staging.finish(copy).map_err(|failure| failure.of_replica(&from, &to))?;
        Ok(staging.path)
    }

    /// The same in place of the file that has the name, if there is one. At no time is there none.
    #[cfg(feature = "replicate")]
    pub(crate) fn replace(mut self) -> Result<PathBuf> {
        if let Some(staging) = &mut self.staging {
            staging.overwrite = true;
        }
        self.finish()
    }

    /// The error of work that was stopped: whatever stopped it reports why.
    pub(crate) fn stopped(&self) -> Error {
        self.failed(Failure::stopped())
    }

    /// The error of a restore that ends here.
    pub(crate) fn failed(&self, failure: Failure) -> Error {
        failure.of_replica(&self.from, &self.to)
    }
}

fn rows(private: &Private, reporter: &ProgressReporter<BackupProgress>) -> BuildResult<Fingerprint> {
    let _watching = reporter.watch(&private.conn, &private.interrupt);
    Fingerprint::read(&private.conn, true).map_err(|error| Failure::of(CHECKING, error))
}

/// The check of the foreign keys on a thread of its own, which is to stop once this is dropped.
struct Keys<'scope> {
    thread: ScopedJoinHandle<'scope, BuildResult<CheckReport>>,
    /// Closed when the thread ends.
    ended: Receiver<()>,
    over: Over,
}

/// Set once it is dropped.
struct Over(Arc<AtomicBool>);

impl<'scope> Keys<'scope> {
    /// `None` if there is no connection or no thread for it.
    fn start<'env>(scope: &'scope Scope<'scope, 'env>, build: &'env Build, settings: &Settings) -> Option<Self> {
        // Not on the thread: the other connection has made the log and its index by now, and this one finds both.
        let private = build.open(settings).ok()?;
        let (over, (running, ended)) = (Arc::new(AtomicBool::new(false)), channel());
        let told = Arc::clone(&over);
        let work = move || {
            let _running: Sender<()> = running;
            let checked = build.check_keys(&private, told);
            connection::close(private.conn);
            checked
        };
        let thread = thread::Builder::new().name("larder-keys".into());
        let thread = thread.spawn_scoped(scope, work).ok()?;
        let over = Over(over);
        Some(Self { thread, ended, over })
    }

    /// Waits for the thread, and adds what it has found.
    fn join(self, report: &mut CheckReport, reporter: &ProgressReporter<BackupProgress>) -> BuildResult<()> {
        while let Err(RecvTimeoutError::Timeout) = self.ended.recv_timeout(CALLBACK_INTERVAL) {
            self.over.0.fetch_or(reporter.poll().is_break(), Relaxed);
        }
        report.add_keys(self.thread.join().unwrap_or_else(|payload| resume_unwind(payload))?);
        Ok(())
    }
}

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}
