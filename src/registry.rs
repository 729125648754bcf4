//! One store a file a process.
//!
//! A file is known by device and inode, so a second name for it (a hard link, another path to the same folder)
//! is the same file. One mutex guards the table of open files, and one condition variable tells those who
//! wait that an entry has gone. An entry is made before SQLite opens the file and goes when the writer has
//! closed it, on whichever thread that is.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::file::FileId;

struct Entry {
    /// Whose it is: a later store on the same file has another.
    owner: u64,
    closing: bool,
}

static FILES: Mutex<Option<HashMap<FileId, Entry>>> = Mutex::new(None);
static GONE: Condvar = Condvar::new();

/// Whether a store of this process has the file open.
pub(crate) fn is_open(file: FileId) -> bool {
    lock().get_or_insert_default().contains_key(&file)
}

/// The right to have the file open. Dropping it gives the file free.
#[derive(Debug)]
pub(crate) struct Claim {
    file: FileId,
}

impl Claim {
    /// Claims a file; one that is just being closed is waited for.
    pub(crate) fn take(file: FileId, owner: u64, path: &Path, patience: Duration) -> Result<Self> {
        let deadline = Instant::now() + patience;
        let mut files = lock();
        loop {
            let table = files.get_or_insert_default();
            match table.get(&file) {
                None => {
                    table.insert(file, Entry { owner, closing: false });
                    return Ok(Self { file });
                }
                Some(Entry { closing: false, .. }) => return Err(Error::AlreadyOpen { path: path.into() }),
                Some(Entry { closing: true, .. }) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(Error::AlreadyOpen { path: path.into() });
                    }
                    files = GONE.wait_timeout(files, left).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    /// From here on a new claim waits instead of failing.
    pub(crate) fn closing(file: FileId, owner: u64) {
        if let Some(entry) = lock().get_or_insert_default().get_mut(&file)
            && entry.owner == owner
        {
            entry.closing = true;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock().get_or_insert_default().remove(&self.file);
        GONE.notify_all();
    }
}

fn lock() -> MutexGuard<'static, Option<HashMap<FileId, Entry>>> {
    FILES.lock().unwrap_or_else(PoisonError::into_inner)
}
