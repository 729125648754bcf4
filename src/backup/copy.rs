//! Makes a copy: the pages, then optionally a `VACUUM` of them, then the checks.

use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ffi};

use super::failure::{Failure, Result};
use super::fingerprint::Fingerprint;
use super::staging::{self, Copy, Unfinished};
use super::{BackupProgress, BackupStage};
use crate::connection::filesystem::lacks;
use crate::connection::interrupt::Interrupt;
use crate::connection::{self, Private, open_copy_alone, open_target, read_back, write_carelessly};
use crate::error::{Error, ErrorOrigin, is_damage, primary_code, schema_advice};
use crate::maintenance::check::{self, CheckReport};
use crate::maintenance::integrity::{Lacking, is_of_an_index};
use crate::maintenance::progress::ProgressReporter;
use crate::maintenance::{integrity, pages};
use crate::options::Settings;

/// Bytes written between two syncs. A checkpoint that syncs the database at the same time waits in the file system for
/// all unwritten data, including a copy's.
const SYNC: u64 = 16 << 20;

const COPYING: &str = "the pages cannot be copied; is the disk full?";
const COMPACTING: &str = "the copy cannot be compacted; is the disk full?";
pub(super) const COUNTING: &str = "the rows of the database cannot be counted; check it (Store::check)";
pub(super) const OPENING: &str = "the copy cannot be opened";
pub(super) const CHECKING: &str = "the copy cannot be checked";
pub(super) const DAMAGED: &str = "the database is damaged, or the disk of the copy; check the database (Store::check), and \
                       restore an older backup if it is damaged";

pub(super) const INDEX_DAMAGED: &str = "an index of the database is damaged, and its table may be whole; REINDEX it in a \
                                        write, check the database (Store::check), then make the backup again";

/// There is no room for a copy.
pub(crate) const NO_ROOM: &str =
    "the disk has too little free space; free disk space, or choose a folder on another disk";

/// How to make a copy.
#[derive(Clone, Debug)]
pub(super) struct CopyPlan {
    pub(super) pages_per_step: u32,
    pub(super) pause: Duration,
    pub(super) verify: bool,
    pub(super) checksum: bool,
    pub(super) compact: bool,
}

impl Default for CopyPlan {
    fn default() -> Self {
        Self {
            pages_per_step: 1024,
            pause: Duration::ZERO,
            verify: true,
            checksum: false,
            compact: false,
        }
    }
}

/// Makes one copy, with its settings and its progress.
pub(super) struct Copier<'a> {
    pub(super) options: &'a Settings,
    pub(super) plan: &'a CopyPlan,
    pub(super) reporter: &'a ProgressReporter<BackupProgress>,
    /// Waits between two steps.
    pub(super) pause: &'a dyn Fn(Duration),
}

/// Which database is checked.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Whose {
    /// The copy, which may be changed for the check.
    Copy,
    /// The source, whose copy is checked later.
    Source,
}

/// The result of a copy.
pub(super) struct CopyReport {
    pub(super) page_size: u64,
    pub(super) pages: u64,
    /// The findings of the check; `None` if the copy is not verified.
    pub(super) check: Option<CheckReport>,
    pub(super) rows: u64,
    pub(super) checksum: Option<String>,
}

impl Copier<'_> {
    /// Copies the connection's open snapshot. Returns the snapshot's fingerprint.
    pub(super) fn copy(
        &self,
        source: &Connection,
        interrupt: &Arc<Interrupt>,
        copy: &Copy,
    ) -> Result<Option<Fingerprint>> {
        self.copy_pages(source, &copy.path, Some(copy))?;
        if !self.plan.verify {
            return Ok(None);
        }
        self.enter(BackupStage::Verify)?;
        let _watching = self.reporter.watch(source, interrupt);
        Fingerprint::read(source, self.plan.checksum)
            .map(Some)
            .map_err(|error| cannot(COUNTING, error))
    }

    /// Copies the open snapshot into a new file, without any checks.
    pub(super) fn copy_to_new(&self, source: &Connection, to: &Path) -> Result<()> {
        let begun = source.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()));
        begun.map_err(|error| cannot(COPYING, error))?;
        staging::create(to)?;
        self.copy_pages(source, to, None)
    }

    fn copy_pages(&self, source: &Connection, to: &Path, sync: Option<&Copy>) -> Result<()> {
        let failed = |error| cannot(COPYING, error);
        let page_size = number(source, "page_size").map_err(failed)?;
        check_room(
            to,
            page_size * number(source, "page_count").map_err(failed)?,
            self.plan.compact,
        )?;
        let mut target = open_target(to, self.options).map_err(cannot_open)?;
        write_carelessly(&target).map_err(failed)?;
        let copied = self.step_through(source, &mut target, page_size, sync);
        connection::close(target);
        copied
    }

    fn step_through(
        &self,
        source: &Connection,
        target: &mut Connection,
        page_size: u64,
        sync: Option<&Copy>,
    ) -> Result<()> {
        let failed = |error| cannot(COPYING, error);
        let (began, mut synced) = (Instant::now(), 0);
        let backup = Backup::new(source, target).map_err(failed)?;
        let pages = i32::try_from(self.plan.pages_per_step).unwrap_or(i32::MAX);
        loop {
            let stepped = backup.step(pages).map_err(failed)?;
            // The copy is private, and the source is a snapshot.
            if matches!(stepped, StepResult::Busy | StepResult::Locked) {
                return Err(Failure::new("another program has opened the copy"));
            }
            let counts = backup.progress();
            let total = u64::from(counts.pagecount.unsigned_abs());
            let done = total - u64::from(counts.remaining.unsigned_abs()).min(total);
            let seconds = began.elapsed().as_secs_f64().max(f64::MIN_POSITIVE);
            self.proceed(self.reporter.report(BackupProgress {
                stage: BackupStage::Copy,
                pages_done: done,
                pages_total: total,
                bytes_per_second: ((done * page_size) as f64 / seconds) as u64,
                elapsed: Duration::ZERO,
            }))?;
            if matches!(stepped, StepResult::Done) {
                return Ok(());
            }
            if let Some(copy) = sync
                && (done - synced) * page_size >= SYNC
            {
                copy.sync()?;
                synced = done;
            }
            if !self.plan.pause.is_zero() {
                (self.pause)(self.plan.pause);
            }
        }
    }

    /// Finishes the copy after the snapshot has ended: compacts it if required, and checks that it is sound and has the
    /// snapshot's contents.
    pub(super) fn finish(
        &self,
        unfinished: &Unfinished,
        copy: Copy,
        fingerprint: Option<Fingerprint>,
    ) -> Result<(Copy, CopyReport)> {
        let copy = if self.plan.compact {
            self.compact(unfinished, copy)?
        } else {
            copy
        };
        let private = open_copy_alone(&copy.path, self.options, self.plan.verify).map_err(cannot_open)?;
        let verified = self.verify(&private, fingerprint);
        connection::close(private.conn);
        Ok((copy, verified?))
    }

    /// Runs `VACUUM INTO` on the copy and not on the database: it cannot run inside a transaction, so the snapshot that
    /// it read would be unknown.
    fn compact(&self, unfinished: &Unfinished, copy: Copy) -> Result<Copy> {
        self.enter(BackupStage::Compact)?;
        let compact = unfinished.create("compact.db")?;
        let Private { conn, interrupt } =
            open_copy_alone(&copy.path, self.options, self.plan.verify).map_err(cannot_open)?;
        // Bound as bytes, because a path may not be UTF-8.
        let to = ToSqlOutput::Borrowed(ValueRef::Text(compact.path.as_os_str().as_bytes()));
        let watching = self.reporter.watch(&conn, &interrupt);
        let vacuumed = conn.execute("VACUUM main INTO ?1", [to]);
        drop(watching);
        connection::close(conn);
        vacuumed.map_err(|error| cannot(COMPACTING, error))?;
        Ok(compact)
    }

    fn verify(&self, private: &Private, fingerprint: Option<Fingerprint>) -> Result<CopyReport> {
        let failed = |error| cannot(CHECKING, error);
        let conn = &private.conn;
        let mut copied = CopyReport {
            page_size: number(conn, "page_size").map_err(failed)?,
            pages: number(conn, "page_count").map_err(failed)?,
            check: None,
            rows: 0,
            checksum: None,
        };
        let Some(fingerprint) = fingerprint else {
            return Ok(copied);
        };
        self.enter(BackupStage::Verify)?;
        let check = self.check(private, Whose::Copy)?;
        copied.check = Some(refuse_damage(check)?);
        let _watching = self.reporter.watch(conn, &private.interrupt);
        let found = Fingerprint::read(conn, self.plan.checksum).map_err(failed)?;
        if let Some(difference) = fingerprint.difference(&found) {
            return Err(Failure::found(
                "the copy differs from the database; try again, and check the disk of the copy",
                difference,
            ));
        }
        copied.rows = found.rows();
        copied.checksum = found.checksum;
        Ok(copied)
    }

    /// Checks for damage. What is not damage, such as foreign keys that point nowhere, a copy must have as the database
    /// does.
    pub(super) fn check(&self, private: &Private, whose: Whose) -> Result<CheckReport> {
        self.check_with(private, whose, |report| self.check_keys(&private.conn, report))
    }

    /// Checks the foreign keys alone.
    pub(super) fn check_keys(&self, conn: &Connection, report: &mut CheckReport) -> Result<()> {
        let checked = check::foreign_keys(conn, report, |_, _| self.reporter.poll());
        checked.map_err(|error| cannot(CHECKING, error))
    }

    /// As [`check`](Self::check). `keys` adds what is to be said of the foreign keys.
    pub(super) fn check_with(
        &self,
        private: &Private,
        whose: Whose,
        keys: impl FnOnce(&mut CheckReport) -> Result<()>,
    ) -> Result<CheckReport> {
        let failed = |error| cannot(CHECKING, error);
        let conn = &private.conn;
        let began = Instant::now();
        let mut report = CheckReport {
            full: true,
            ..CheckReport::default()
        };
        let _watching = self.reporter.watch(conn, &private.interrupt);
        let left_out = integrity::check(conn, &mut report, Lacking::Fails).map_err(failed)?;
        match whose {
            Whose::Copy if left_out.pages => pages::check_private(conn, &mut report).map_err(failed)?,
            Whose::Source if left_out.pages => report.not_checked.push("whether a page is both used and free".into()),
            _ => {}
        }
        if !report.is_damaged() {
            keys(&mut report)?;
        }
        self.go_on()?;
        report.duration = began.elapsed();
        Ok(report)
    }

    /// The last point at which the copy can be stopped.
    pub(super) fn go_on(&self) -> Result<()> {
        self.proceed(self.reporter.poll())
    }

    fn enter(&self, stage: BackupStage) -> Result<()> {
        let before = self.reporter.stage();
        self.proceed(self.reporter.report(BackupProgress { stage, ..before }))
    }

    fn proceed(&self, said: ControlFlow<()>) -> Result<()> {
        match said {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Failure::stopped()),
        }
    }
}

/// The report, unless it has damage.
pub(super) fn refuse_damage(report: CheckReport) -> Result<CheckReport> {
    let Some(found) = report.problems.first() else {
        return Ok(report);
    };
    let of_indexes = report.problems.iter().all(|line| is_of_an_index(line));
    Err(Failure::found(
        if of_indexes { INDEX_DAMAGED } else { DAMAGED },
        found.clone(),
    ))
}

pub(super) fn cannot(problem: &'static str, error: rusqlite::Error) -> Failure {
    let is_full = primary_code(&error) == Some(ffi::SQLITE_FULL);
    let problem = match problem {
        _ if is_damage(&error) => DAMAGED,
        COPYING if !is_full => "the pages cannot be copied",
        COMPACTING if !is_full => "the copy cannot be compacted",
        problem => problem,
    };
    let advice = schema_advice(&error);
    Failure::of(problem, error).with_advice(advice)
}

pub(super) fn cannot_open(error: Error) -> Failure {
    let own = !matches!(
        error,
        Error::Sqlite {
            origin: ErrorOrigin::Other,
            ..
        }
    );
    let problem = match error.sqlite().filter(|_| own) {
        Some(error) if is_damage(error) => DAMAGED,
        // Switching the copy out of WAL mode may fill the disk.
        Some(error) if primary_code(error) == Some(ffi::SQLITE_FULL) => COPYING,
        _ => OPENING,
    };
    Failure::of(problem, error)
}

fn number(conn: &Connection, pragma: &str) -> rusqlite::Result<u64> {
    Ok(read_back(conn, pragma)?.parse().unwrap_or(0))
}

/// Checks the free space before the copy starts, so that it does not fill the database's disk as well.
pub(super) fn check_room(copy: &Path, bytes: u64, compact: bool) -> Result<()> {
    let needed = if compact { bytes.saturating_mul(2) } else { bytes };
    match lacks(copy.parent().unwrap_or(Path::new("/")), needed) {
        Some(available) => Err(Failure::found(
            NO_ROOM,
            format!("the copy needs about {needed} bytes, and {available} are available"),
        )),
        None => Ok(()),
    }
}
