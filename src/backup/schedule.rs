//! Scheduled backups, of which the newest are kept.
//!
//! Each schedule has a thread of its own, `larder-backup`, because a backup takes long. It owns nothing of the store,
//! so it keeps none open, and ends when the store closes: it sleeps on the readers' census, which closing wakes.

use std::ffi::OsString;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fmt, fs, mem};

use super::copy::CopyPlan;
use super::staging::with;
use super::{BackupProgress, BackupReport, Source, StopSignal, stamp};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::maintenance::progress::ProgressReporter;
use crate::read::Readers;
use crate::runtime::clock::uptime;
use crate::runtime::panic::{caught, quietly};
use crate::telemetry::call_site::CallSite;
use crate::telemetry::event::event;

/// How often the thread checks the clock: its sleep does not advance while the machine is suspended.
const CLOCK_CHECK: Duration = Duration::from_secs(60);

/// The shortest interval, because the names of backups have seconds.
const SHORTEST: Duration = Duration::from_secs(1);

/// A schedule of backups. Made by [`Store::backup_every`](crate::Store::backup_every).
///
/// Dropping it stops the schedule: a running backup stops at its next step, and the drop waits for that. A schedule
/// does not keep its store open, and ends when the store is closed.
#[must_use = "dropping it stops the schedule"]
pub struct BackupSchedule {
    readers: Arc<Readers>,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    folder: PathBuf,
}

impl BackupSchedule {
    #[track_caller]
    pub(crate) fn start(engine: &Engine, interval: Duration, keep: usize, folder: &Path) -> Result<Self> {
        let source = Source::of(engine);
        static SCHEDULES: AtomicU64 = AtomicU64::new(1);
        let site = CallSite::new(None, Location::caller());
        check(interval, keep)?;
        if source.readers.is_left() {
            return Err(Error::forked());
        }
        if source.readers.is_closed() {
            return Err(Error::Closed);
        }
        let folder = usable(folder)?;
        let stopped = Arc::new(AtomicBool::new(false));
        let readers = Arc::clone(&source.readers);
        let runner = Runner {
            number: SCHEDULES.fetch_add(1, Ordering::Relaxed),
            series: BackupSeries::new(&folder, &source.path),
            source,
            interval,
            keep,
            stopped: Arc::clone(&stopped),
            site,
        };
        let thread = thread::Builder::new().name("larder-backup".into());
        let failed = |source: std::io::Error| Error::Backup {
            path: folder.clone(),
            problem: "the operating system refused a thread for the schedule",
            detail: Some(source.to_string()),
            source: Some(Box::new(source)),
        };
        let thread = thread.spawn(move || runner.run()).map_err(failed)?;
        Ok(Self {
            readers,
            stopped,
            thread: Some(thread),
            folder,
        })
    }
}

impl Drop for BackupSchedule {
    fn drop(&mut self) {
        if self.readers.is_left() {
            return mem::forget(self.thread.take());
        }
        self.stopped.store(true, Ordering::Release);
        self.readers.wake();
        if let Some(thread) = self.thread.take()
            // The drop may run on the schedule's own thread, in an event subscriber or in `on_connect`.
            && thread.thread().id() != thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for BackupSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackupSchedule")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

fn check(interval: Duration, keep: usize) -> Result<()> {
    let wrong = |option, problem: &str| {
        Err(Error::Options {
            option,
            problem: problem.into(),
        })
    };
    if interval < SHORTEST {
        return wrong(
            "interval",
            "the interval must be at least 1 s, because the names of backups have seconds",
        );
    }
    if keep == 0 {
        return wrong("keep", "keep at least 1 backup");
    }
    Ok(())
}

fn usable(folder: &Path) -> Result<PathBuf> {
    let failed = |detail: std::io::Error| Error::Backup {
        path: folder.into(),
        problem: "the folder cannot be used; create it first",
        detail: Some(detail.to_string()),
        source: Some(Box::new(detail)),
    };
    let path = folder.canonicalize().map_err(failed)?;
    if !path.is_dir() {
        return Err(failed(std::io::ErrorKind::NotADirectory.into()));
    }
    Ok(path)
}

/// The state of the schedule's thread.
struct Runner {
    number: u64,
    source: Source,
    series: BackupSeries,
    interval: Duration,
    keep: usize,
    stopped: Arc<AtomicBool>,
    site: CallSite,
}

impl Runner {
    fn run(self) {
        let newest = self.series.newest();
        let mut due = uptime().saturating_add(first(newest, stamp::now(), self.interval));
        while self.sleep_until(due) {
            quietly(|| self.make());
            due = next(due, self.interval, uptime());
        }
        self.source.telemetry.backups.forget(self.number);
    }

    /// Sleeps until `due`. Returns whether the schedule still runs.
    fn sleep_until(&self, due: Duration) -> bool {
        loop {
            if self.is_over() {
                return false;
            }
            let left = due.saturating_sub(uptime());
            if left.is_zero() {
                return true;
            }
            let stopped = || self.stopped.load(Ordering::Acquire);
            self.source.readers.pause(left.min(CLOCK_CHECK), stopped);
        }
    }

    fn is_over(&self) -> bool {
        self.stopped.load(Ordering::Acquire) || self.source.readers.is_closed()
    }

    fn make(&self) {
        let history = &self.source.telemetry.backups;
        // A panic does not end the schedule: the next backup may succeed.
        let made = caught(|| self.make_one()).unwrap_or_else(|| {
            Err(Error::Options {
                option: "on_connect",
                problem: "it panicked during a backup".into(),
            })
        });
        match made {
            Ok(report) => {
                history.forget(self.number);
                self.series.keep_newest(self.keep, &report.path);
            }
            Err(Error::Closed) => {}
            Err(error) => {
                let reason = error.without_data();
                history.failed(self.number, &self.site, reason.clone());
                event!(
                    warn,
                    "larder::backup",
                    self.source.path,
                    { folder = %self.series.folder.display(), reason, site = %self.site, "error.type" = error.kind() },
                    "a scheduled backup failed"
                );
            }
        }
    }

    fn make_one(&self) -> Result<BackupReport> {
        let stop = StopSignal {
            readers: Arc::clone(&self.source.readers),
            until: None,
            stopped: Arc::clone(&self.stopped),
        };
        let to = self.series.next(stamp::now());
        let reporter = ProgressReporter::new(BackupProgress::NOTHING);
        self.source
            .run(&to, false, &CopyPlan::default(), &reporter, stop, self.site.clone())
    }
}

/// The time until the first backup. Backups made before a restart of the process count: a service that restarts every
/// day and makes a backup a day makes one a day, and not none.
fn first(newest: Option<u64>, now: u64, interval: Duration) -> Duration {
    // The clock may have been set back since.
    let age = newest.map(|newest| Duration::from_secs(now.saturating_sub(newest)));
    age.map_or(Duration::ZERO, |age| interval.saturating_sub(age))
}

/// The next time after now. Backups missed during suspension, or during a long backup, are skipped.
fn next(due: Duration, interval: Duration, now: Duration) -> Duration {
    let missed = now.saturating_sub(due).as_nanos() / interval.as_nanos();
    let missed = u32::try_from(missed).unwrap_or(u32::MAX);
    due.saturating_add(interval.saturating_mul(missed.saturating_add(1)))
}

/// The backups of one database in one folder, named `STEM.TIME`.
struct BackupSeries {
    folder: PathBuf,
    /// The stem, with its dot.
    prefix: OsString,
}

impl BackupSeries {
    fn new(folder: &Path, database: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            prefix: with(database.file_name().unwrap_or_default(), "."),
        }
    }

    /// An unused name, even if another schedule made a backup in the same second.
    fn next(&self, mut seconds: u64) -> PathBuf {
        loop {
            let path = self.folder.join(with(&self.prefix, &stamp::of(seconds)));
            if fs::symlink_metadata(&path).is_err() {
                return path;
            }
            seconds += 1;
        }
    }

    /// The time and path of each backup, the oldest first.
    fn all(&self) -> Vec<(u64, PathBuf)> {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return Vec::new();
        };
        let stamped = |entry: fs::DirEntry| {
            let name = entry.file_name();
            let stamp = name.as_encoded_bytes().strip_prefix(self.prefix.as_encoded_bytes())?;
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            is_file.then_some((stamp::seconds(stamp)?, entry.path()))
        };
        let mut all: Vec<_> = entries.flatten().filter_map(stamped).collect();
        all.sort();
        all
    }

    fn newest(&self) -> Option<u64> {
        self.all().last().map(|(seconds, _)| *seconds)
    }

    /// Removes all but the newest. The new backup stays even if the clock was set back.
    fn keep_newest(&self, keep: usize, made: &Path) {
        let mut others = self.all();
        others.retain(|(_, path)| path != made);
        let surplus = others.len().saturating_sub(keep - 1);
        for (_, path) in others.into_iter().take(surplus) {
            if let Err(error) = fs::remove_file(&path) {
                event!(
                    warn,
                    "larder::backup",
                    { backup = %path.display(), %error },
                    "an old backup cannot be removed"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn first_backup_waits_until_newest_is_old_enough() {
        assert_eq!(first(None, 10_000, HOUR), Duration::ZERO);
        assert_eq!(first(Some(10_000), 10_000, HOUR), HOUR);
        assert_eq!(first(Some(10_000), 11_000, HOUR), Duration::from_secs(2600));
        assert_eq!(first(Some(10_000), 13_600, HOUR), Duration::ZERO);
        assert_eq!(first(Some(10_000), 99_000, HOUR), Duration::ZERO);
        // The newest backup is from the future.
        assert_eq!(first(Some(10_000), 5000, HOUR), HOUR);
    }

    #[test]
    fn missed_backups_are_skipped_and_schedule_keeps_time() {
        let at = |hours: f64| HOUR.mul_f64(hours);
        assert_eq!(next(at(1.0), HOUR, at(1.0)), at(2.0));
        assert_eq!(next(at(1.0), HOUR, at(1.5)), at(2.0));
        // The machine was suspended for the night.
        assert_eq!(next(at(1.0), HOUR, at(9.25)), at(10.0));
        assert_eq!(next(at(1.0), HOUR, at(9.0)), at(10.0));
        assert_eq!(next(at(1.0), Duration::MAX, at(9.0)), Duration::MAX);
    }
}
