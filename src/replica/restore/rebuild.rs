//! Makes a state of the database from the files of a replica, in a file that has no name yet.
//!
//! A file that is gone was compacted away meanwhile, and one that is damaged may have its transactions in others, too:
//! either makes a new plan, and the database is written from the beginning. The second time such a file is left out of
//! the plan. What is made is never older than what the first plan would have made.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::apply::{ApplyError, apply};
use super::fetch::Fetch;
use super::plan::{PlanError, Target, Txid, plan, restorable};
use super::progress::{Counted, ReplicaRestoreProgress, RestoreReporter};
use super::time;
use crate::backup::{Build, Failure};
use crate::error::Result;
use crate::replica::ltx::Header;
use crate::replica::storage::{FileInfo, Storage, StorageError, Txids, all_files, request};

/// The problem of a state that has no files of its own any more.
pub(super) const MERGED: &str = "the replica has this transaction only together with others; restore another state";

/// What was made.
pub(in crate::replica) struct Rebuilt {
    /// The header of the last file.
    pub(in crate::replica) header: Header,
    pub(in crate::replica) files: usize,
    /// Bytes of these files.
    pub(in crate::replica) bytes: u64,
    /// The files that could not be used, and why.
    pub(in crate::replica) unusable: Vec<String>,
}

/// Writes the wanted state into the file of `build`.
pub(in crate::replica) fn rebuild(
    storage: &Storage,
    target: Target,
    build: &Build,
    reporter: &RestoreReporter,
) -> Result<Rebuilt> {
    let mut attempts = Attempts::new(storage, target);
    loop {
        let made = attempts
            .plan()
            .and_then(|files| write(storage, &files, build, reporter).map(|header| (files, header)));
        match made {
            Ok((files, header)) => {
                return Ok(Rebuilt {
                    header,
                    files: files.len(),
                    bytes: files.iter().map(|file| file.size).sum(),
                    unusable: attempts.unusable().collect(),
                });
            }
            Err(Stop::File(file, problem)) => attempts.failed(file, problem),
            Err(Stop::Failure(failure)) => return Err(build.failed(failure)),
        }
    }
}

/// Why one attempt ended.
enum Stop {
    /// The file cannot be used.
    File(FileInfo, String),
    Failure(Failure),
}

/// Writes the pages of the files. Returns the header of the last one.
fn write(storage: &Storage, files: &[FileInfo], build: &Build, reporter: &RestoreReporter) -> Result<Header, Stop> {
    go_on(reporter.report(ReplicaRestoreProgress::of(files)))?;
    build
        .file()
        .set_len(0)
        .map_err(ApplyError::Writing)
        .map_err(|error| stop(None, error))?;
    let (mut fetch, mut last) = (Fetch::new(storage, files), None::<Header>);
    while let Some((file, opened)) = fetch.next() {
        let opened = opened.map_err(|error| stop(Some(file), ApplyError::Storage(error)))?;
        let prepare = |header: &Header| prepare(header, last.as_ref(), build);
        let opened = Counted::new(opened, reporter);
        let header = apply(opened, file, build.file(), prepare).map_err(|error| stop(Some(file), error))?;
        last = Some(header);
        let progress = reporter.stage();
        go_on(reporter.enter(ReplicaRestoreProgress {
            files_done: progress.files_done + 1,
            ..progress
        }))?;
    }
    go_on(reporter.report(reporter.stage()))?;
    Ok(last.expect("a plan has files"))
}

/// Compares the header of a file with that of the file before it, and checks that there is room for the database.
fn prepare(header: &Header, last: Option<&Header>, build: &Build) -> Result<(), ApplyError> {
    let bytes = |header: &Header| u64::from(header.commit) * u64::from(header.page_size);
    if let Some(last) = last.filter(|last| last.page_size != header.page_size) {
        let (before, after) = (last.page_size, header.page_size);
        return Err(ApplyError::Invalid(format!(
            "its pages have {after} bytes, and those before it {before}"
        )));
    }
    let before = last.map_or(0, bytes);
    if bytes(header) > before {
        build.check_room(bytes(header) - before).map_err(ApplyError::Target)?;
    }
    Ok(())
}

/// The error of work that is stopped. Whatever stopped it reports why.
fn go_on(said: ControlFlow<()>) -> Result<(), Stop> {
    match said {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Stop::Failure(Failure::new("it was stopped"))),
    }
}

fn stop(file: Option<&FileInfo>, error: ApplyError) -> Stop {
    match (error, file) {
        (ApplyError::Invalid(problem), Some(file)) => Stop::File(*file, problem),
        (ApplyError::Storage(error), Some(file)) if error.is_not_found() => Stop::File(*file, "it is missing".into()),
        (ApplyError::Storage(error), _) => Stop::Failure(unread(error)),
        (ApplyError::Target(failure), _) => Stop::Failure(failure),
        (ApplyError::Invalid(problem), None) => Stop::Failure(Failure::found("a file is not valid", problem)),
        (ApplyError::Reading(error), _) => Stop::Failure(Failure::of("the replica cannot be read", error)),
        (ApplyError::Writing(error), _) => Stop::Failure(Failure::of(
            "the database cannot be written; check the free space and the disk",
            error,
        )),
    }
}

pub(super) fn unread(error: StorageError) -> Failure {
    Failure::of("the replica cannot be read", error)
}

/// The attempts of one restore.
struct Attempts<'s> {
    storage: &'s Storage,
    target: Target,
    /// What the first plan would have made.
    promised: u64,
    /// How often a file failed, and what was wrong with it the last time.
    failed: BTreeMap<(u8, Txids), (u32, String)>,
}

impl<'s> Attempts<'s> {
    fn new(storage: &'s Storage, target: Target) -> Self {
        Self {
            storage,
            target,
            promised: 0,
            failed: BTreeMap::new(),
        }
    }

    fn failed(&mut self, file: FileInfo, problem: String) {
        let (times, last) = self.failed.entry((file.level, file.txids)).or_default();
        (*times, *last) = (*times + 1, problem);
    }

    /// Whether the file failed twice.
    fn is_unusable(&self, file: &FileInfo) -> bool {
        self.failed
            .get(&(file.level, file.txids))
            .is_some_and(|(times, _)| *times > 1)
    }

    /// The files that failed twice, and why.
    fn unusable(&self) -> impl Iterator<Item = String> {
        let twice = self.failed.iter().filter(|(_, (times, _))| *times > 1);
        twice.map(|((level, txids), (_, problem))| format!("{}: {problem}", self.storage.name(*level, *txids)))
    }

    /// Lists the files, and plans with those that are usable.
    fn plan(&mut self) -> Result<Vec<FileInfo>, Stop> {
        let mut files = self.list()?;
        files.retain(|file| !self.is_unusable(file));
        let timestamp = |file: &FileInfo| {
            let (storage, level, txids) = (self.storage.clone(), file.level, file.txids);
            let found = request(self.storage, async move { storage.timestamp(level, txids).await });
            found.map_err(|error| stop(Some(file), ApplyError::Storage(error)).into())
        };
        let planned = plan(&files, self.target, timestamp);
        let reached = |planned: &[FileInfo]| planned.last().map_or(0, |file| file.txids.max);
        match planned {
            Ok(planned) if reached(&planned) >= self.promised || self.may_fall_back() => {
                self.promised = self.promised.max(reached(&planned));
                Ok(planned)
            }
            Ok(planned) => Err(Stop::Failure(self.lost(Some(reached(&planned))))),
            Err(Trouble::Stop(stop)) => Err(stop),
            Err(Trouble::Plan(_)) if self.unusable().next().is_some() => {
                let before = restorable(&files)
                    .into_iter()
                    .rfind(|txid| *txid < self.promised.max(1));
                Err(Stop::Failure(self.lost(before)))
            }
            Err(Trouble::Plan(error)) => Err(Stop::Failure(self.explain(error)?)),
        }
    }

    /// Whether an older state may be made than the first plan promised. By time it may: the file that ended at the last
    /// transaction before that time may have been compacted into a later one.
    fn may_fall_back(&self) -> bool {
        matches!(self.target, Target::Before(_)) && self.unusable().next().is_none()
    }

    fn list(&self) -> Result<Vec<FileInfo>, Stop> {
        let storage = self.storage.clone();
        let listed = request(self.storage, async move { all_files(&storage).await });
        listed.map_err(|error| Stop::Failure(unread(error)))
    }

    /// Files cannot be used, and the others do not make the state.
    fn lost(&self, before: Option<u64>) -> Failure {
        let mut detail: Vec<String> = self.unusable().collect();
        if detail.is_empty() {
            detail.push("files were deleted during the restore".into());
        }
        if let Some(txid) = before {
            detail.push(format!("the state after TXID {} can be restored", Txid(txid)));
        }
        Failure::found(
            "the replica has files that cannot be used, and no others with their transactions; restore an earlier \
             state by its TXID",
            detail.join("; "),
        )
    }

    fn explain(&self, error: PlanError) -> Result<Failure, Stop> {
        if error == PlanError::Empty && self.is_of_an_old_litestream()? {
            return Ok(Failure::new(
                "the replica was written by Litestream 0.3 (it has a folder `generations`), whose format larder does \
                 not read; restore it with that Litestream",
            ));
        }
        Ok(explain(error))
    }

    fn is_of_an_old_litestream(&self) -> Result<bool, Stop> {
        let storage = self.storage.clone();
        let found = request(self.storage, async move { storage.has_generations().await });
        found.map_err(|error| Stop::Failure(unread(error)))
    }
}

/// Why there is no plan.
enum Trouble {
    Plan(PlanError),
    Stop(Stop),
}

impl From<PlanError> for Trouble {
    fn from(error: PlanError) -> Self {
        Self::Plan(error)
    }
}

impl From<Stop> for Trouble {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

pub(in crate::replica) fn explain(error: PlanError) -> Failure {
    match error {
        PlanError::Empty => Failure::new("the replica has no files; check the URL, its bucket and its path"),
        PlanError::Gap { missing, reached } => {
            let before = match reached {
                Some(txid) => format!("the last state before them is that after TXID {}", Txid(txid)),
                None => "and no snapshot has them".to_owned(),
            };
            Failure::found(
                "the replica lacks transactions; restore the state before them by its TXID",
                format!("no file has {missing}, and others have later ones; {before}"),
            )
        }
        PlanError::Merged { txid, before, after } => {
            let known = [before, after].into_iter().flatten().map(|txid| Txid(txid).to_string());
            let known: Vec<_> = known.collect();
            Failure::found(
                MERGED,
                format!("TXID {}; the states next to it: {}", Txid(txid), known.join(", ")),
            )
        }
        PlanError::Beyond { txid, newest } => Failure::found(
            "the replica does not have this transaction; restore another state",
            format!("TXID {}; the newest is {}", Txid(txid), Txid(newest)),
        ),
        PlanError::TooEarly { first } => Failure::found(
            "the replica does not go back to this time; restore a later state",
            format!(
                "the oldest state is that after TXID {}, of {} at the latest",
                Txid(first.txids.max),
                time::of(first.modified)
            ),
        ),
    }
}
