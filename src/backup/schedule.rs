//! Scheduled backups, of which the newest are kept.
//!
//! Each schedule has a thread of its own, `larder-backup`, because a backup takes long. It owns nothing of the store,
//! so it keeps none open, and ends when the store closes: it sleeps on the readers' census, which closing wakes.

use std::fs::File;
use std::io::ErrorKind;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fmt, fs, mem};

use super::copy::CopyPlan;
use super::failure::Failure;
use super::series::Series;
use super::{BackupProgress, BackupReport, Source, StopSignal, last_backup, staging, stamp};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::maintenance::progress::ProgressReporter;
use crate::read::Readers;
use crate::runtime::clock::uptime;
use crate::runtime::panic::caught;
use crate::telemetry::Telemetry;
use crate::telemetry::call_site::CallSite;
use crate::telemetry::event::event;

/// How often the thread checks the clock: its sleep does not advance while the machine is suspended.
const CLOCK_CHECK: Duration = Duration::from_secs(60);

/// How often the thread checks whether another process is still making a backup of the same series.
const TURN_CHECK: Duration = Duration::from_secs(1);

/// How long another process may at least take for a backup.
const SHORTEST_TURN: Duration = Duration::from_secs(60);

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
    telemetry: Arc<Telemetry>,
    number: u64,
}

impl BackupSchedule {
    #[track_caller]
    pub(crate) fn start(engine: &Engine, interval: Duration, keep: usize, folder: &Path) -> Result<Self> {
        let source = Source::of(engine);
        static SCHEDULES: AtomicU64 = AtomicU64::new(1);
        let site = CallSite::new(None, Location::caller());
        check(interval, keep)?;
        if engine.options.read_only {
            // The series of a database has a file beside it.
            return Err(Error::ReadOnly {
                path: engine.path().into(),
                call: "backup_every",
            });
        }
        if source.readers.is_left() {
            return Err(Error::forked());
        }
        if source.readers.is_closed() {
            return Err(Error::Closed);
        }
        let folder = usable(folder)?;
        let number = SCHEDULES.fetch_add(1, Ordering::Relaxed);
        let (readers, telemetry) = (Arc::clone(&source.readers), Arc::clone(&source.telemetry));
        let stopped = Arc::new(AtomicBool::new(false));
        let begun = telemetry.backups.begin(number, &site, &folder);
        begun.map_err(|other| makes_them_already(&folder, &other))?;
        let runner = Runner {
            number,
            source,
            folder: folder.clone(),
            interval,
            keep,
            stopped: Arc::clone(&stopped),
            site,
        };
        let thread = thread::Builder::new().name("larder-backup".into());
        let thread = thread.spawn(move || runner.run()).map_err(|source| {
            telemetry.backups.forget(number);
            Error::Backup {
                path: folder.clone(),
                problem: "the operating system refused a thread for the schedule",
                detail: Some(source.to_string()),
                source: Some(Box::new(source)),
            }
        })?;
        Ok(Self {
            readers,
            stopped,
            thread: Some(thread),
            folder,
            telemetry,
            number,
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
        self.telemetry.backups.forget(self.number);
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
    let failed = |failure: Failure| failure.of_backup(folder);
    let path = staging::usable(folder).map_err(failed)?;
    if !path.is_dir() {
        return Err(failed(Failure::new("the path is not a folder; give the path of one")));
    }
    Ok(path)
}

/// Each schedule of a store would remove the other's backups.
fn makes_them_already(folder: &Path, other: &CallSite) -> Error {
    Error::Backup {
        path: folder.into(),
        problem: "another schedule of this store makes backups into the folder, and each would remove those of the \
                  other; give each schedule a folder of its own",
        detail: Some(format!("the other one was started at {other}")),
        source: None,
    }
}

/// The state of the schedule's thread.
struct Runner {
    number: u64,
    source: Source,
    folder: PathBuf,
    interval: Duration,
    keep: usize,
    stopped: Arc<AtomicBool>,
    site: CallSite,
}

impl Runner {
    fn run(self) {
        let mut made = None;
        let mut due = uptime();
        while self.sleep_until(due) {
            let wait = caught(|| self.take_turn(&mut made)).unwrap_or_default();
            due = if wait.is_zero() {
                next(due, self.interval, uptime())
            } else {
                uptime().saturating_add(wait)
            };
        }
        self.source.telemetry.backups.forget(self.number);
    }

    fn series(&self) -> Result<Series> {
        Series::of(&self.folder, &self.source.path).map_err(|failure| failure.of_backup(&self.folder))
    }

    fn tell_name(&self, series: &Series) {
        if series.is_numbered(&self.source.path) {
            event!(
                info,
                "larder::backup",
                self.source.path,
                { folder = %series.folder.display(), series = %series.stem.display() },
                "another database has backups of this name in the folder, so those of this one have a number"
            );
        }
    }

    /// How long until a backup is due, by those in the folder. Backups made before a restart of the process count, and
    /// those of other processes that have the same schedule; of this one's own, which keeps time by itself, none.
    fn wait(&self, series: &Series, made: &Option<PathBuf>) -> Duration {
        let now = stamp::now();
        let all = series.all(stamp::parse);
        let (others, later): (Vec<_>, Vec<_>) = all.into_iter().partition(|(time, _)| !stamp::is_later(*time, now));
        self.tell_later(later.first().map(|(_, path)| path.as_path()));
        let newest = others
            .last()
            .filter(|(_, path)| made.as_ref().is_none_or(|made| path > made));
        first(newest.map(|(time, _)| *time), now, self.interval)
    }

    fn tell_later(&self, later: Option<&Path>) {
        let is_news = self.source.telemetry.backups.note_later(self.number, later);
        if let Some(later) = later.filter(|_| is_news) {
            event!(
                warn,
                "larder::backup",
                self.source.path,
                { backup = %later.display() },
                "the time in a backup's name is after now, so the backup neither counts nor is removed: check the clock, \
                 or move the file away"
            );
        }
    }

    /// Makes a backup, or returns how long the newest suffices that another process has made, or this one before.
    fn take_turn(&self, made: &mut Option<PathBuf>) -> Duration {
        let history = &self.source.telemetry.backups;
        let series = match self.series() {
            Ok(series) => series,
            Err(error) => {
                let failed = Err(error);
                if let Some(last) = last_backup(&self.folder, Duration::ZERO, &failed) {
                    history.note(last);
                }
                self.tell_failed(failed.err());
                return Duration::ZERO;
            }
        };
        let _turn = self.wait_for_turn(&series);
        let suffices = self.wait(&series, made);
        if !suffices.is_zero() {
            history.succeeded(self.number);
            return suffices;
        }
        if made.is_none() {
            self.tell_name(&series);
        }
        match self.make(&series) {
            Ok(report) => {
                history.succeeded(self.number);
                keep_newest(&series, self.keep, &report.path);
                *made = Some(report.path);
            }
            Err(Error::Closed) => {}
            // Where no file can be locked, another process may have made one at the same time.
            Err(_) if !self.wait(&series, made).is_zero() => history.succeeded(self.number),
            Err(error) => self.tell_failed(Some(error)),
        }
        Duration::ZERO
    }

    /// Locks the series, once no other process makes a backup of it. After an interval it goes on without: the other may
    /// hang.
    fn wait_for_turn(&self, series: &Series) -> Option<File> {
        let until = uptime().saturating_add(self.interval.max(SHORTEST_TURN));
        loop {
            if let Some(lock) = series.lock() {
                return lock;
            }
            if uptime() >= until || !self.sleep_until(uptime().saturating_add(TURN_CHECK)) {
                return None;
            }
        }
    }

    fn tell_failed(&self, error: Option<Error>) {
        let Some(error) = error else { return };
        let reason = error.without_data();
        self.source.telemetry.backups.failed(self.number, reason.clone());
        event!(
            warn,
            "larder::backup",
            self.source.path,
            { folder = %self.folder.display(), reason, site = %self.site, "error.type" = error.kind() },
            "a scheduled backup failed"
        );
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

    /// A panic does not end the schedule: the next backup may succeed.
    fn make(&self, series: &Series) -> Result<BackupReport> {
        caught(|| self.make_one(series)).unwrap_or_else(|| {
            Err(Error::Options {
                option: "on_connect",
                problem: "it panicked during a backup".into(),
            })
        })
    }

    fn make_one(&self, series: &Series) -> Result<BackupReport> {
        let stop = StopSignal {
            readers: Arc::clone(&self.source.readers),
            until: None,
            stopped: Arc::clone(&self.stopped),
        };
        let reporter = ProgressReporter::new(BackupProgress::NOTHING);
        let (plan, site) = (CopyPlan::default(), self.site.clone());
        self.source.run(&series.next(), false, &plan, &reporter, stop, site)
    }
}

/// The time until the next backup. A service that restarts every day and makes a backup a day makes one a day, and not
/// none.
fn first(newest: Option<Duration>, now: Duration, interval: Duration) -> Duration {
    let age = newest.map(|newest| now.saturating_sub(newest));
    age.map_or(Duration::ZERO, |age| interval.saturating_sub(age))
}

/// The next time after now. Backups missed during suspension, or during a long backup, are skipped.
fn next(due: Duration, interval: Duration, now: Duration) -> Duration {
    let missed = now.saturating_sub(due).as_nanos() / interval.as_nanos();
    let missed = u32::try_from(missed).unwrap_or(u32::MAX);
    due.saturating_add(interval.saturating_mul(missed.saturating_add(1)))
}

/// Removes all but the newest. The new backup stays even if the clock was set back. What has a time after now does not
/// count, and stays.
fn keep_newest(series: &Series, keep: usize, made: &Path) {
    let now = stamp::now();
    let mut others = series.all(stamp::parse);
    others.retain(|(time, path)| path != made && !stamp::is_later(*time, now));
    let surplus = others.len().saturating_sub(keep - 1);
    for (_, path) in others.into_iter().take(surplus) {
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != ErrorKind::NotFound
        {
            event!(
                warn,
                "larder::backup",
                { backup = %path.display(), %error },
                "an old backup cannot be removed"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn first_backup_waits_until_newest_is_old_enough() {
        let at = Duration::from_secs;
        assert_eq!(first(None, at(10_000), HOUR), Duration::ZERO);
        assert_eq!(first(Some(at(10_000)), at(10_000), HOUR), HOUR);
        assert_eq!(first(Some(at(10_000)), at(11_000), HOUR), at(2600));
        assert_eq!(first(Some(at(10_000)), at(13_600), HOUR), Duration::ZERO);
        assert_eq!(first(Some(at(10_000)), at(99_000), HOUR), Duration::ZERO);
        // The clock of another machine is a little ahead.
        assert_eq!(first(Some(at(10_030)), at(10_000), HOUR), HOUR);
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
