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

#[derive(Clone, Copy, PartialEq)]
enum State {
    Open,
    Closing,
}

static FILES: Mutex<Option<HashMap<FileId, State>>> = Mutex::new(None);
static GONE: Condvar = Condvar::new();

/// The right to have the file open. Dropping it gives the file free.
#[derive(Debug)]
pub(crate) struct Claim {
    file: FileId,
}

impl Claim {
    /// Claims a file; one that is just being closed is waited for.
    pub(crate) fn take(file: FileId, path: &Path, patience: Duration) -> Result<Self> {
        let deadline = Instant::now() + patience;
        let mut files = lock();
        loop {
            let table = files.get_or_insert_default();
            match table.get(&file) {
                None => {
                    table.insert(file, State::Open);
                    return Ok(Self { file });
                }
                Some(State::Open) => return Err(Error::AlreadyOpen { path: path.into() }),
                Some(State::Closing) => {
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
    pub(crate) fn closing(file: FileId) {
        if let Some(state) = lock().get_or_insert_default().get_mut(&file) {
            *state = State::Closing;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock().get_or_insert_default().remove(&self.file);
        GONE.notify_all();
    }
}

fn lock() -> MutexGuard<'static, Option<HashMap<FileId, State>>> {
    FILES.lock().unwrap_or_else(PoisonError::into_inner)
}
