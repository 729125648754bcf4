//! A log whose sync has failed: a file beside the database remembers it, and the store that next opens the database
//! writes the log once more before it builds upon it.
//!
//! Linux tells of a write that failed once. Then ext4 and xfs hold its pages for clean: whoever reads the file finds them
//! in memory, and no later sync writes them (<https://wiki.postgresql.org/wiki/Fsync_Errors>). So the service that is
//! started again would recover the log from memory, append to it, be told that every sync went well, and lose in a power
//! cut all that it acknowledged, since recovery ends at the first frame that is not on the disk.
//!
//! The same bytes written over themselves are dirty pages again, which a sync then writes, or says that it cannot. That is
//! done under SQLite's write lock, without which nobody appends to the log or begins it anew. What a checkpoint could not
//! sync needs no such care: it is still in the log, and the next checkpoint writes it again.
//!
//! The file that remembers is not synced. A power cut may take it, but that takes the pages from memory, too; then what
//! is read is what is on the disk.
//!
//! Not every log is written anew at opening, only one that is known to want it: a disk that damages what it is just
//! writing when the power is cut would have a second chance at frames that were safe.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::telemetry::event::event;

/// Bytes that are read and written at a time.
const CHUNK: usize = 1 << 20;

const EXPLANATION: &str = "The disk failed the database beside this file. The next larder::Store that opens the database \
                           writes its -wal to the disk once more, and then removes this file.\n";

fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(database);
    name.push(suffix);
    name.into()
}

fn marker(database: &Path) -> PathBuf {
    beside(database, "-unsynced")
}

/// To be called before anybody is told that the disk has failed. The caller [`report`]s an error, once all are told.
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
        "cannot leave word that the log wants to be written again: restart the machine before the service"
    );
}

pub(crate) fn is_marked(database: &Path) -> Result<bool> {
    marker(database)
        .try_exists()
        .map_err(|error| failed(database, "cannot look for word of it", error))
}

/// Writes the log's bytes over themselves, syncs them, and forgets. The caller has SQLite's write lock.
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
        "the disk had failed this database: its log was written and synced once more"
    );
    fs::remove_file(marker(database)).map_err(|error| failed(database, "its file -unsynced cannot be removed", error))
}

/// Gives the bytes of the log.
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
