//! The registry that allows one store per file per process.
//!
//! A file has two identities, and a store claims both. One is its *place*, the folder's device and inode and the file's
//! name: SQLite finds `-wal` and `-shm` by name, so two stores at one place would share a WAL even if the file was
//! replaced meanwhile. The other is the file's own device and inode: a second name for the file means the same file.
//!
//! One mutex guards the table of claims, and one condition variable wakes the waiters when a claim is dropped or
//! changes. No thread holds the mutex while it opens or closes a file. A store claims the place before it creates or
//! opens the file. The claim ends when the last connection of its store has closed, on whichever thread that happens:
//! each connection holds an [`Arc`](std::sync::Arc) of it (`open_file.rs`).
//!
//! A store that gave up waiting for a read has closed its writer while the read continues. Its claim then still
//! excludes a store with another [`Access`], whose locks would differ from those of the read's connection, and any
//! store if the file was replaced. A store with the same access on the same file may open beside it.

use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, io};

use super::file::FileId;
use crate::error::{Error, Result};
use crate::options::Access;
use crate::runtime::clock::later;
use crate::runtime::fork::Process;
use crate::runtime::process_mutex::ProcessMutex;
use crate::runtime::sync::{Arc, Condvar, MutexGuard};

/// The place of a file: its folder and its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    folder: FileId,
    name: OsString,
}

impl Place {
    /// # Errors
    ///
    /// The folder cannot be examined, or the path names no file.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self {
            folder: FileId::of(&fs::metadata(folder)?),
            name: name.to_owned(),
        })
    }
}

struct ClaimedFile {
    /// The process that has the file open. A forked child keeps its parent's claims.
    process: Process,
    /// The store that made the claim.
    owner: u64,
    place: Place,
    /// `None` until the file is known to exist.
    file: Option<FileId>,
    access: Access,
    stage: Stage,
    /// `Some` once the store is closing.
    holder: Option<Holder>,
}

/// Describes what keeps a closing store from closing, if known. Called without the lock.
pub(crate) type Holder = Arc<dyn Fn() -> Option<String> + Send + Sync>;

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Open,
    Closing,
    /// The writing connection has closed. Reads continue.
    Reading,
}

impl ClaimedFile {
    /// Whether a store with `access` may open `file` beside this claim.
    fn admits(&self, file: Option<FileId>, access: Access) -> bool {
        self.stage == Stage::Reading && self.access == access && self.file.is_some() && self.file == file
    }
}

static CLAIMS: ProcessMutex<Vec<ClaimedFile>> = ProcessMutex::new(Vec::new());
static GONE: Condvar = Condvar::new();

/// Whether a store of this process has the file at `path` open, or opened another file at that path earlier.
pub(crate) fn is_open(path: &Path) -> bool {
    is_claimed(path, |_| true)
}

/// Refuses a file that a store of this process has open. One that is closing is no error yet.
pub(crate) fn refuse_open(path: &Path) -> Result<()> {
    if is_claimed(path, |entry| entry.process.is_left()) {
        return Err(Error::forked());
    }
    if !is_claimed(path, |entry| entry.stage == Stage::Open) {
        return Ok(());
    }
    Err(Error::AlreadyOpen {
        path: path.into(),
        closing: None,
    })
}

fn is_claimed(path: &Path, filter: impl Fn(&ClaimedFile) -> bool) -> bool {
    let place = Place::of(path).ok();
    let file = fs::symlink_metadata(path).ok().map(|file| FileId::of(&file));
    lock().iter().filter(|entry| filter(entry)).any(|entry| {
        place.as_ref().is_some_and(|place| entry.place == *place) || (file.is_some() && entry.file == file)
    })
}

/// The right to have a file open. Dropping it releases the file.
#[derive(Debug)]
pub(crate) struct Claim {
    owner: u64,
    access: Access,
}

impl Claim {
    /// Claims a place; `file` is the file there, if any. Waits for a store that is closing there.
    pub(crate) fn take(
        place: Place,
        file: Option<FileId>,
        owner: u64,
        access: Access,
        path: &Path,
        patience: Duration,
    ) -> Result<Self> {
        let is_taken = |entry: &ClaimedFile| entry.place == place && !entry.admits(file, access);
        let mut claims = wait_until_free(path, patience, is_taken)?;
        claims.push(ClaimedFile {
            process: Process::current(),
            owner,
            place,
            file: None,
            access,
            stage: Stage::Open,
            holder: None,
        });
        Ok(Self { owner, access })
    }

    /// Claims the file at the place, too.
    pub(crate) fn take_file(&self, file: FileId, path: &Path, patience: Duration) -> Result<()> {
        let is_taken = |entry: &ClaimedFile| {
            entry.owner != self.owner && entry.file == Some(file) && !entry.admits(Some(file), self.access)
        };
        let mut claims = wait_until_free(path, patience, is_taken)?;
        if let Some(entry) = claims.iter_mut().find(|entry| entry.owner == self.owner) {
            entry.file = Some(file);
        }
        Ok(())
    }

    /// Marks the store as closing: from now on a new claim of the same file waits instead of failing. If that wait
    /// times out, its error quotes `holder`.
    pub(crate) fn closing(owner: u64, holder: Holder) {
        enter(owner, Stage::Closing);
        if let Some(entry) = lock().iter_mut().find(|entry| entry.owner == owner) {
            entry.holder.get_or_insert(holder);
        }
    }

    /// The writing connection has closed.
    pub(crate) fn writer_closed(&self) {
        enter(self.owner, Stage::Reading);
        GONE.notify_all();
    }
}

fn enter(owner: u64, stage: Stage) {
    if let Some(entry) = lock().iter_mut().find(|entry| entry.owner == owner)
        && entry.stage != Stage::Reading
    {
        entry.stage = stage;
    }
}

/// Waits while a closing store has the claim. An open store is an error.
fn wait_until_free(
    path: &Path,
    patience: Duration,
    is_taken: impl Fn(&ClaimedFile) -> bool,
) -> Result<MutexGuard<'static, Vec<ClaimedFile>>> {
    let deadline = later(Instant::now(), patience);
    let mut claims = lock();
    loop {
        let Some(entry) = claims.iter().find(|entry| is_taken(entry)) else {
            return Ok(claims);
        };
        if entry.process.is_left() {
            return Err(Error::forked());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if entry.stage == Stage::Open || left.is_zero() {
            let closing = (entry.stage != Stage::Open).then(|| entry.holder.clone());
            drop(claims);
            let told = |holder: Option<Holder>| {
                let holder = holder.and_then(|holder| holder());
                holder.unwrap_or_else(|| "its last connection is being closed".to_owned())
            };
            return Err(Error::AlreadyOpen {
                path: path.into(),
                closing: closing.map(told),
            });
        }
        claims = GONE.wait_timeout(claims, left).0;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock().retain(|entry| entry.owner != self.owner);
        GONE.notify_all();
    }
}

fn lock() -> MutexGuard<'static, Vec<ClaimedFile>> {
    CLAIMS.lock()
}
