//! Sets a database aside in whose place its replica is restored: [`OnDivergence::Restore`](super::OnDivergence).
//!
//! Its files get another name, `app.db.diverged-20260401T120000Z`, and so do those beside it. What the spool knows of it
//! goes along, into the folder of a spool with that name. Nothing is deleted and nothing overwritten.
//!
//! A follower does the same with a database that cannot be shown to be a state of its replica, under the name
//! `app.db.before-following`, as long as there are not too many of these. What its spool knows stays: it is of the replica.
//!
//! A process may be killed between two renames. So the new name is on the disk before the first of them, in the file
//! `aside` of the spool, and the next opening goes on with what is left, whatever its options are, and also that of a
//! follower. The file goes before the replica is restored: it never names what was restored.
//!
//! No other process may have the database open. The lock of the spool keeps other replicated stores out, and SQLite's
//! exclusive lock shows all others.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use chrono::{DateTime, Utc};

use super::spool::Spool;
use crate::connection::in_use::is_in_use;
use crate::connection::open_files;
use crate::error::{Error, Result};

/// What is moved: the database, and what SQLite keeps beside it.
pub(super) const FILES: [&str; 4] = ["", "-wal", "-shm", "-journal"];

/// Sets the database aside, and returns its new name.
///
/// # Errors
///
/// It is open, in this process or another, or a file cannot be renamed.
pub(super) fn set_aside(path: &Path, spool: &Spool) -> Result<PathBuf> {
    if open_files::is_open(path) {
        return Err(Error::AlreadyOpen {
            path: path.into(),
            closing: None,
        });
    }
    if path.exists() && is_in_use(path) {
        return Err(Error::Open {
            path: path.into(),
            problem: "it cannot be set aside to restore its replica, because another program has it open; stop that \
                      program first (`fuser -v` names it)"
                .into(),
            source: None,
        });
    }
    let now = DateTime::<Utc>::from(SystemTime::now()).format("%Y%m%dT%H%M%SZ");
    rename_all(path, spool, &format!(".diverged-{now}"), None).map_err(|error| failed(path, error))
}

/// Gives all files a free name that goes on with `suffix`, and returns it. It is on the disk before the first is renamed.
///
/// # Errors
///
/// A file cannot be renamed; or there are `most` databases with such names.
pub(super) fn rename_all(path: &Path, spool: &Spool, suffix: &str, most: Option<u32>) -> io::Result<PathBuf> {
    let to = free_name(path, suffix, most)?;
    spool.begin_aside(&to)?;
    rename_to(path, spool, &to)?;
    Ok(to)
}

/// Goes on with what a killed process has begun.
///
/// # Errors
///
/// A file cannot be renamed, or its new name is taken.
pub(super) fn go_on(path: &Path, spool: &Spool) -> Result<()> {
    let begun = spool.aside();
    begun
        .and_then(|to| to.map_or(Ok(()), |to| rename_to(path, spool, &to)))
        .map_err(|error| failed(path, error))
}

fn rename_to(path: &Path, spool: &Spool, to: &Path) -> io::Result<()> {
    for ending in FILES {
        rename(&with(path, ending), &with(to, ending))?;
    }
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()?;
    if Spool::is_there(path) && !spool.follows() {
        spool.move_to(&Spool::folder_of(to))?;
    }
    spool.end_aside()
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    if !is_there(from) {
        return Ok(());
    }
    if is_there(to) {
        let problem = format!("{} exists already", to.display());
        return Err(io::Error::new(ErrorKind::AlreadyExists, problem));
    }
    fs::rename(from, to)
}

fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// One of the first `most` names that begin with that of the database and go on with `suffix`, which no file has, nor one
/// beside it.
pub(super) fn free_name(path: &Path, suffix: &str, most: Option<u32>) -> io::Result<PathBuf> {
    let names = (1..=most.unwrap_or(u32::MAX)).map(|number| match number {
        1 => with(path, suffix),
        number => with(path, &format!("{suffix}-{number}")),
    });
    let is_free = |name: &PathBuf| {
        let files = FILES.iter().chain(&["-replica"]);
        files.into_iter().all(|ending| !is_there(&with(name, ending)))
    };
    names.into_iter().find(is_free).ok_or_else(|| too_many(path, suffix))
}

fn too_many(path: &Path, suffix: &str) -> io::Error {
    io::Error::other(format!(
        "{} and its numbered successors are databases that were renamed before, and no more are kept: look whether they have \
         anything that the primary lacks, and then move away or delete all files whose names begin with one of these names (a \
         -wal or a -journal alone counts)",
        with(path, suffix).display()
    ))
}

pub(super) fn with(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    name.into()
}

fn failed(path: &Path, error: io::Error) -> Error {
    Error::Open {
        path: path.into(),
        problem: format!(
            "it cannot be set aside to restore its replica: {error}. Move it away with all files whose names begin with \
             its own, and call ReplicaOptions::restore_if_missing(true)"
        ),
        source: Some(Box::new(error)),
    }
}
