//! Branches: a new replica that begins with a state of another one, and goes on by itself.
//!
//! First this process enters itself as the owner of the new place, which no other can then. The files that make the
//! state are copied under the same names, the last one first, so that nothing can be restored from a branch that is not
//! complete. At the end the owner closes it. So a store opens it as it would open any replica on a new machine, and neither
//! of the two ever sees what the other one adds. If it fails, what was copied is deleted, and then the owner. What a killed
//! process leaves has an owner that has not closed it.
//!
//! Within a bucket the storage copies. Between two folders an object gets a second name, after it was read and checked.
//! Otherwise it is read, checked and written.

use std::fmt;
use std::fs::File;
use std::io;
use std::time::SystemTime;

use super::fence::{Entry, Fence};
use super::restore::apply::{ApplyError, read_through};
use super::restore::plan::{PlanError, Target, Txid, plan};
use super::restore::rebuild::explain;
use super::restore::time;
use super::runtime;
use super::storage::{Created, FailureKind, FileInfo, Storage, StorageError, all_files, request};
use crate::connection::temp_folder::TempFolder;
use crate::error::{Error, Result};
use crate::runtime::sync::Arc;
use crate::runtime::{date, random};
use crate::telemetry::event::event;

/// So often it is begun again, because files of the plan were merged meanwhile.
const ATTEMPTS: u32 = 4;

/// A larger file goes through a temporary one.
const IN_MEMORY: u64 = 8 << 20;

/// A state of a replica. See [`Replica::branch`](crate::Replica::branch).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum At {
    /// The newest.
    Newest,
    /// The newest that was captured before this time.
    Time(SystemTime),
    /// That after this transaction, which the replica must have by itself.
    Txid(u64),
}

/// The result of [`Replica::branch`](crate::Replica::branch).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BranchReport {
    /// The new replica, without the query of its URL.
    pub url: String,
    /// The transaction with which it begins.
    pub txid: u64,
    /// When that transaction was captured.
    pub timestamp: SystemTime,
    /// Number of files that were copied.
    pub files: u64,
    /// Number of bytes in them.
    pub bytes: u64,
}

impl fmt::Display for BranchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: the state after TXID {} of {}, {} files with {} bytes",
            self.url,
            Txid(self.txid),
            time::of(self.timestamp),
            self.files,
            self.bytes
        )
    }
}

pub(super) fn branch(from: &Storage, at: At, to: &Storage) -> Result<BranchReport> {
    let target = match at {
        At::Newest => Target::Newest,
        At::Time(time) => Target::Before(time::millis_up(time)),
        At::Txid(txid) => Target::Txid(txid),
    };
    let mut files = planned(from, target)?;
    let asked = to.clone();
    request(to, async move { asked.probe().await })?;
    let fence = Fence::new(to.clone(), random::number());
    enter(&fence, to)?;
    let mut attempts = ATTEMPTS;
    let timestamp = loop {
        let (source, copies, place) = (from.clone(), files.clone(), to.clone());
        let copied = request(to, async move { Ok(copy_all(&source, &copies, &place).await) })?;
        attempts -= 1;
        match copied {
            Ok(timestamp) => break timestamp,
            // A file that was merged meanwhile is part of another one.
            Err(error) if error.is_not_found() && attempts > 0 => {
                delete(to, &files).map_err(|_| error)?;
                files = match planned(from, target) {
                    Ok(files) => files,
                    Err(error) => return Err(give_up(to, &[], error)),
                };
            }
            Err(error) => return Err(give_up(to, &files, error.into())),
        }
    };
    let last = *files.last().expect("a plan has files");
    let closed = request(to, async move { fence.close().await });
    match closed {
        Ok(true) => {}
        Ok(false) => return Err(taken(to)),
        Err(error) => return Err(give_up(to, &files, error.into())),
    }
    let report = BranchReport {
        url: to.to_string(),
        txid: last.txids.max,
        timestamp: time::from_millis(timestamp),
        files: files.len() as u64,
        bytes: files.iter().map(|file| file.size).sum(),
    };
    event!(
        info,
        "larder::replica",
        { replica = %from, branch = %to, txid = %Txid(report.txid), files = report.files, bytes = report.bytes },
        "branch of a replica made"
    );
    Ok(report)
}

/// Makes this process the owner of a place where nothing is.
fn enter(fence: &Fence, to: &Storage) -> Result<()> {
    let (asked, entering) = (to.clone(), fence.clone());
    let (owner, there, entry) = request(to, async move {
        let seen = entering.owner().await?;
        let there = asked.anything().await?;
        if seen.is_some() || there.is_some() {
            return Ok((seen.map(|seen| seen.owner), there, None));
        }
        let entry = entering.enter(None, random::number(), SystemTime::now()).await?;
        Ok((None, None, Some(entry)))
    })?;
    let reason = match (owner, there, entry) {
        (_, _, Some(Entry::Entered)) => return Ok(()),
        (Some(owner), ..) => format!(
            "it has an owner already, {}, since {}",
            owner.host,
            date::utc(owner.since())
        ),
        (None, Some(there), _) => format!("it has files already, such as {there}"),
        _ => return Err(taken(to)),
    };
    Err(failed(
        to,
        format!("{reason}, so no branch is made there; choose another URL, or delete what is there"),
    ))
}

fn taken(to: &Storage) -> Error {
    failed(
        to,
        "another process has made a branch or a replica there meanwhile; choose another URL".into(),
    )
}

/// Leaves nothing behind, and tells why. What cannot be deleted has an owner that has not closed it.
fn give_up(to: &Storage, files: &[FileInfo], error: Error) -> Error {
    let deleting = to.clone();
    let is_deleted = delete(to, files).is_ok() && request(to, async move { deleting.delete_owner().await }).is_ok();
    if !is_deleted {
        event!(
            warn,
            "larder::replica",
            { branch = %to, %error },
            "a branch could not be completed, and not all of it could be deleted: delete what is at its URL"
        );
    }
    error
}

fn delete(to: &Storage, files: &[FileInfo]) -> Result<(), StorageError> {
    let (deleting, files) = (to.clone(), files.to_vec());
    request(to, async move {
        // The last one, which was the first, goes last.
        for file in &files {
            deleting.delete(file.level, file.txids).await?;
        }
        Ok(())
    })
}

/// The files that make the state. One whose time is looked up may have been merged since it was listed.
fn planned(from: &Storage, target: Target) -> Result<Vec<FileInfo>> {
    let mut attempts = ATTEMPTS;
    loop {
        attempts -= 1;
        match plan_once(from, target) {
            Err(Stop::Storage(error)) if error.is_not_found() && attempts > 0 => {}
            Err(Stop::Storage(error)) => return Err(error.into()),
            Err(Stop::Plan(error)) => return Err(failed(from, explain(error).sentence())),
            Ok(files) => return Ok(files),
        }
    }
}

fn plan_once(from: &Storage, target: Target) -> Result<Vec<FileInfo>, Stop> {
    let listed = from.clone();
    let files = request(from, async move { all_files(&listed).await }).map_err(Stop::Storage)?;
    let timestamp = |file: &FileInfo| {
        let (storage, level, txids) = (from.clone(), file.level, file.txids);
        request(from, async move { storage.timestamp(level, txids).await }).map_err(Stop::Storage)
    };
    plan(&files, target, timestamp)
}

enum Stop {
    Plan(PlanError),
    Storage(StorageError),
}

impl From<PlanError> for Stop {
    fn from(error: PlanError) -> Self {
        Self::Plan(error)
    }
}

/// Copies the files, and returns the time of the last one.
async fn copy_all(from: &Storage, files: &[FileInfo], to: &Storage) -> Result<i64, StorageError> {
    let last = files.last().expect("a plan has files");
    let timestamp = from.timestamp(last.level, last.txids).await?;
    for file in files.iter().rev() {
        copy(from, file, to).await?;
    }
    Ok(timestamp)
}

/// Copies a file. It is read to its end and checked, unless the bucket copies it.
async fn copy(from: &Storage, file: &FileInfo, to: &Storage) -> Result<(), StorageError> {
    let FileInfo { level, txids, size, .. } = *file;
    let damaged = |error: ApplyError| {
        let what = format!("{} could not be copied", from.name(level, txids));
        from.failure(what, FailureKind::Permanent, error.to_string())
    };
    let checked = *file;
    if from.is_folder() && to.is_folder() {
        let opened = from.reader(level, txids).await?;
        let sound = runtime::blocking(move || read_through(opened, &checked).map(drop)).await;
        sound.map_err(|error| from.no_thread(error))?.map_err(damaged)?;
    }
    if to.copy_from(from, file).await? {
        return Ok(());
    }
    let timestamp = from.timestamp(level, txids).await?;
    let created = if size <= IN_MEMORY {
        let bytes = from.get(level, txids).await?;
        let read = bytes.clone();
        let sound = runtime::blocking(move || read_through(&read[..], &checked).map(drop)).await;
        sound.map_err(|error| from.no_thread(error))?.map_err(damaged)?;
        to.create(level, txids, timestamp, bytes).await?
    } else {
        let mut opened = from.reader(level, txids).await?;
        let copied = runtime::blocking(move || {
            let folder = TempFolder::new()
                .map_err(io::Error::other)
                .map_err(ApplyError::Writing)?;
            let path = folder.database();
            let mut file = File::create(&path).map_err(ApplyError::Writing)?;
            io::copy(&mut opened, &mut file).map_err(ApplyError::Reading)?;
            read_through(File::open(&path).map_err(ApplyError::Reading)?, &checked)?;
            let file = File::open(&path).map_err(ApplyError::Reading)?;
            Ok((folder, Arc::new(file)))
        });
        let (_folder, file) = copied.await.map_err(|error| from.no_thread(error))?.map_err(damaged)?;
        to.create(level, txids, timestamp, file).await?
    };
    match created {
        Created::New => Ok(()),
        Created::Exists => {
            let what = format!("{} could not be created", to.name(level, txids));
            let reason = "it exists: another process writes there".to_owned();
            Err(to.failure(what, FailureKind::Permanent, reason))
        }
    }
}

fn failed(storage: &Storage, what: String) -> Error {
    Error::Replica {
        what,
        url: storage.to_string(),
        retryable: false,
        source: None,
    }
}
