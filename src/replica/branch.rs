//! Branches: a new replica that begins with a state of another one, and goes on by itself.
//!
//! The files that make the state are copied under the same names, and the new replica gets a number of its own and an
//! owner that has closed it. So a store opens it as it would open any replica on a new machine, and neither of the two
//! ever sees what the other one adds. The last file is copied first: a branch that is not complete has a gap at its
//! beginning, and nothing can be restored from it.

use std::fmt;
use std::fs::File;
use std::io;
use std::time::SystemTime;

use super::fence::Fence;
use super::restore::apply::{ApplyError, read_through};
use super::restore::plan::{PlanError, Target, Txid, plan};
use super::restore::rebuild::explain;
use super::restore::time;
use super::runtime;
use super::storage::{Created, FailureKind, FileInfo, Storage, StorageError, all_files, request};
use crate::connection::temp_folder::TempFolder;
use crate::error::{Error, Result};
use crate::runtime::random;
use crate::runtime::sync::Arc;
use crate::telemetry::event::event;

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
    refuse_used(to)?;
    let files = planned(from, target)?;
    let last = *files.last().expect("a plan has files");
    let (source, copies, target) = (from.clone(), files.clone(), to.clone());
    let timestamp = request(to, async move {
        let timestamp = source.timestamp(last.level, last.txids).await?;
        for file in copies.iter().rev() {
            copy(&source, file, &target).await?;
        }
        let fence = Fence::new(target, random::number());
        fence.enter(None, random::number(), SystemTime::now()).await?;
        fence.close().await?;
        Ok(timestamp)
    })?;
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

/// Refuses a place that has files, or an owner.
fn refuse_used(to: &Storage) -> Result<()> {
    let asked = to.clone();
    let is_used = request(to, async move {
        let is_owned = Fence::new(asked.clone(), 0).owner().await?.is_some();
        Ok(is_owned || !all_files(&asked).await?.is_empty())
    })?;
    if !is_used {
        return Ok(());
    }
    Err(failed(
        to,
        "it has files already, so no branch is made there; choose another URL, or delete what is there".into(),
    ))
}

/// The files that make the state.
fn planned(from: &Storage, target: Target) -> Result<Vec<FileInfo>> {
    let listed = from.clone();
    let files = request(from, async move { all_files(&listed).await })?;
    let timestamp = |file: &FileInfo| {
        let (storage, level, txids) = (from.clone(), file.level, file.txids);
        request(from, async move { storage.timestamp(level, txids).await }).map_err(Stop::Storage)
    };
    plan(&files, target, timestamp).map_err(|stop| match stop {
        Stop::Storage(error) => error.into(),
        Stop::Plan(error) => failed(from, explain(error).sentence()),
    })
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

/// Copies a file, which is read to its end and checked.
async fn copy(from: &Storage, file: &FileInfo, to: &Storage) -> Result<(), StorageError> {
    let FileInfo { level, txids, size, .. } = *file;
    let damaged = |error: ApplyError| {
        let what = format!("{} could not be copied", from.name(level, txids));
        from.failure(what, FailureKind::Permanent, error.to_string())
    };
    let timestamp = from.timestamp(level, txids).await?;
    let checked = *file;
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
