//! Rewrites a WAL whose sync failed. A marker file beside the database records the failure; the next store that opens
//! the database rewrites and syncs the WAL before it appends to it.
//!
//! Linux reports a failed write once. After that, ext4 and xfs treat its pages as clean: readers find the data in the
//! page cache, and no later sync writes it (<https://wiki.postgresql.org/wiki/Fsync_Errors>). So a restarted service
//! would recover the WAL from memory, append to it, see every sync succeed, and lose all the writes that it
//! acknowledged in a power cut, because recovery ends at the first frame that is not on the disk.
//!
//! Rewriting the same bytes makes the pages dirty again, and a sync then writes them or reports an error. SQLite's
//! write lock is held for that; without it no process appends to the WAL or resets it. A failed sync of a checkpoint
//! needs no such care: its pages are still in the WAL, and the next checkpoint writes them again.
//!
//! The marker file is not synced. A power cut may remove it, but a power cut clears the page cache, too, and later
//! reads see the contents of the disk.
//!
//! Only a marked WAL is rewritten at opening: a disk that corrupts the blocks in flight during a power cut would get a
//! second chance at frames that were safe.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::file::beside;
use crate::error::{Error, Result};
use crate::telemetry::event::event;

/// Bytes that are read and written at a time.
const CHUNK: usize = 1 << 20;

const EXPLANATION: &str = "The disk failed the database beside this file. The next larder::Store that opens the \
                           database writes its -wal to the disk once more, and then removes this file.\n";

fn marker(database: &Path) -> PathBuf {
    beside(database, "-unsynced")
}

/// Creates the marker file. Must be called before any caller learns of the disk error. The caller [`report`]s an error
/// of this after all replies.
pub(crate) fn mark(database: &Path) -> io::Result<()> {
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(marker(database))
        .and_then(|mut file| file.write_all(EXPLANATION.as_bytes()));
    match made {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

pub(crate) fn report(database: &Path, error: &io::Error) {
    event!(
        error,
        "larder::poison",
        database,
        { %error },
        "the marker file for rewriting the WAL cannot be created: restart the machine before the service"
    );
}

pub(crate) fn is_marked(database: &Path) -> Result<bool> {
    marker(database)
        .try_exists()
        .map_err(|error| failed(database, "cannot look for word of it", error))
}

/// Rewrites the WAL's bytes, syncs them and removes the marker. The caller holds SQLite's write lock.
pub(crate) fn resync(database: &Path) -> Result<()> {
    let bytes = rewrite(&beside(database, "-wal")).map_err(|error| {
        failed(
            database,
            "its log could not be written once more: check the disk, then open it again",
            error,
        )
    })?;
    event!(
        warn,
        "larder::open",
        database,
        { wal_bytes = bytes },
        "rewrote and synced the WAL after an earlier disk error"
    );
    fs::remove_file(marker(database)).map_err(|error| failed(database, "its file -unsynced cannot be removed", error))
}

/// Returns the number of bytes in the WAL.
fn rewrite(log: &Path) -> io::Result<u64> {
    let log = match OpenOptions::new().read(true).write(true).open(log) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other?,
    };
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    loop {
        let read = log.read_at(&mut buffer, at)?;
        if read == 0 {
            break;
        }
        log.write_all_at(&buffer[..read], at)?;
        at += read as u64;
    }
    log.sync_all()?;
    Ok(at)
}

fn failed(database: &Path, problem: &str, error: io::Error) -> Error {
    Error::Open {
        path: database.into(),
        problem: format!("the disk has failed it before, and {problem}: {error}"),
        source: Some(Box::new(error)),
    }
}
