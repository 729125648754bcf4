//! Hostile files and operations against a store, for `cargo fuzz`. This crate is shared by the targets.
//!
//! | target | input |
//! |---|---|
//! | `database` | damage to a sound database, or all the bytes of one |
//! | `wal` | damage to the WAL of a store that was not closed, and to its `-shm` |
//! | `wal_frames` | damage to a WAL, which replication and SQLite read |
//! | `ltx` | files of a replica, some of them damaged |
//! | `migrations` | the files of a folder of migrations |
//! | `operations` | calls of the API, one after another, beside a model of their effects |
//!
//! The header of each target lists its assertions. In all of them a panic on any thread ends the run, and so does an
//! input that takes more than `-timeout` seconds.
//!
//! `fuzz/run 60` runs all of them for a minute together, with files in memory; `cargo +nightly fuzz run wal` runs one
//! of them until it fails, with files in the folder of `TMPDIR`.

pub mod damage;
pub mod hostile;
pub mod wal;

use std::error::Error as _;
use std::path::Path;
use std::time::Duration;

use larder::rusqlite::{self, Connection};
use larder::{Error, Options, Outcome};
use tempfile::TempDir;

/// A separate folder for each input, which is deleted after a successful run.
pub fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder for temporary files")
}

/// Options of a store that is quick to open and small. It has no watchdog and no spinning threads.
pub fn options() -> Options {
    Options::new()
        .readers(1)
        .cache_size(256 << 10)
        .mmap_size(0)
        .spin_time(Duration::ZERO)
        .monitor_interval(Duration::ZERO)
}

/// Checks the properties of every error. Returns its outcome.
pub fn told(error: &Error) -> Outcome {
    assert!(!error.to_string().trim().is_empty(), "no sentence: {error:?}");
    let outcome = error.outcome();
    let may_retry = matches!(outcome, Outcome::NotStarted | Outcome::RolledBack);
    assert!(may_retry || !error.is_retryable(), "it could write twice: {error:?}");
    let mut source = error.source();
    while let Some(inner) = source {
        assert!(!inner.to_string().is_empty(), "a source without a sentence: {error:?}");
        source = inner.source();
    }
    outcome
}

/// Runs SQLite's own checks on the file.
///
/// # Errors
///
/// Damage, or the reason why the file could not be checked.
pub fn sound(path: &Path) -> Result<(), String> {
    let ask = || -> rusqlite::Result<Vec<String>> {
        let conn = Connection::open(path)?;
        let mut statement = conn.prepare("PRAGMA integrity_check")?;
        let said = statement.query_map([], |row| row.get(0))?;
        said.collect()
    };
    match ask() {
        Ok(said) if said == ["ok"] => Ok(()),
        Ok(said) => Err(said.join("; ")),
        Err(error) => Err(error.to_string()),
    }
}
