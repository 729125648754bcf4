//! A copy of a database that was checked before it got its name.
//!
//! The copy is made page by page, by SQLite's backup interface, from a snapshot that a read-only connection of its own
//! holds, into a file beside the target. It is then opened by itself, checked (`integrity_check`, and the number of rows
//! of every table against the snapshot), synced, and renamed. So under the target's name there is a whole backup or
//! none.

use std::error::Error as StdError;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use crate::connection::{self, open_copy, open_reader, reader_source};
use crate::options::Options;

/// Pages that are copied in one go.
const STEP: i32 = 4096;

type Result<T, E = Failure> = std::result::Result<T, E>;

/// Why there is no backup.
pub(crate) struct Failure {
    pub(crate) problem: String,
    pub(crate) source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Failure {
    fn of(what: &str, source: impl StdError + Send + Sync + 'static) -> Self {
        Self {
            problem: format!("{what}: {source}"),
            source: Some(Box::new(source)),
        }
    }

    fn new(problem: String) -> Self {
        Self { problem, source: None }
    }
}

/// Copies the database into a folder, as `STEM.TIME`, once the copy has been checked. Of those that have this stem the
/// first stays, since what happened after it may be what it is needed for, and the two newest, of which this one may be
/// taken back: more would fill the disk of whoever is started again and again.
pub(crate) fn make(database: &Path, options: &Options, folder: &Path, stem: &OsStr, time: &str) -> Result<PathBuf> {
    // SQLite would refuse a symbolic link on the way there, and could take a relative path for a URI.
    let folder = folder
        .canonicalize()
        .map_err(|error| Failure::of("its folder cannot be used; create it first", error))?;
    let source = open_reader(&reader_source(database), database, options, options.busy_timeout)
        .map_err(|error| Failure::of("the database cannot be read", error))?;
    let partial = folder.join(with(stem, ".partial"));
    let made = source.fence.own(|| -> Result<()> {
        let begun = source.conn.execute_batch("BEGIN");
        begun.map_err(|error| Failure::of("the database cannot be read", error))?;
        copy(&source.conn, options, &partial)?;
        verify(&source.conn, options, &partial)
    });
    connection::close(source.conn);
    let to = folder.join(with(stem, &format!(".{time}")));
    let kept = made.and_then(|()| keep(&partial, &to, &folder));
    match kept {
        Ok(()) => remove_old(&folder, stem),
        Err(_) => drop(fs::remove_file(&partial)),
    }
    kept.map(|()| to)
}

fn with(stem: &OsStr, ending: &str) -> OsString {
    let mut name = stem.to_owned();
    name.push(ending);
    name
}

/// Removes the backups of this stem between the first and the two newest.
fn remove_old(folder: &Path, stem: &OsStr) {
    let prefix = with(stem, ".");
    let is_one = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        // A time, and nothing after it.
        name.strip_prefix(prefix.as_encoded_bytes())
            .is_some_and(|rest| rest.ends_with(b"Z") && rest[0].is_ascii_digit())
    };
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut all: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(is_one).collect();
    all.sort();
    for path in all.iter().skip(1).take(all.len().saturating_sub(3)) {
        let _ = fs::remove_file(path);
    }
}

/// Copies the snapshot of the connection's open transaction into a new file. One that is left from an attempt that was
/// killed is written anew.
pub(crate) fn copy(source: &Connection, options: &Options, to: &Path) -> Result<()> {
    create(to).map_err(|error| {
        Failure::of(
            "the file cannot be created; check the folder, its owner and its mode",
            error,
        )
    })?;
    let mut target = open_copy(to, options).map_err(|error| Failure::of("the copy cannot be opened", error))?;
    let failed = |error| Failure::of("the pages cannot be copied; is the disk full?", error);
    // The snapshot begins with the first read. Without one the backup would begin anew at each write of another.
    source
        .query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
        .map_err(failed)?;
    {
        let backup = Backup::new(source, &mut target).map_err(failed)?;
        loop {
            match backup.step(STEP).map_err(failed)? {
                StepResult::Done => break,
                StepResult::More => {}
                // Nobody else has the file, and the source is a snapshot.
                _ => return Err(Failure::new("something else has opened the copy".into())),
            }
        }
    }
    connection::close(target);
    Ok(())
}

fn create(path: &Path) -> io::Result<()> {
    // A log that is left there would be taken for that of the new file.
    for ending in ["", "-wal", "-shm", "-journal"] {
        match fs::remove_file(with(path.as_os_str(), ending)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map(drop)
}

/// Opens the copy by itself and looks whether it is sound and has what the snapshot has.
fn verify(source: &Connection, options: &Options, path: &Path) -> Result<()> {
    let copy = open_copy(path, options).map_err(|error| Failure::of("the copy cannot be opened", error))?;
    let failed = |error| Failure::of("the copy cannot be checked", error);
    let found: String = copy
        .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
        .map_err(failed)?;
    if found != "ok" {
        return Err(Failure::new(format!(
            "integrity_check says of the copy: {found}; check the database itself, and restore an older backup if it \
             is damaged, too"
        )));
    }
    let (rows, copied) = (counts(source).map_err(failed)?, counts(&copy).map_err(failed)?);
    connection::close(copy);
    if rows != copied {
        return Err(Failure::new("the copy does not have the same tables and rows".into()));
    }
    Ok(())
}

/// Every table and how many rows it has.
fn counts(conn: &Connection) -> rusqlite::Result<Vec<(String, i64)>> {
    let sql = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'shadow') ORDER BY name";
    let mut statement = conn.prepare(sql)?;
    let tables = statement
        .query_map([], |row| row.get::<_, String>(0))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    tables
        .into_iter()
        .map(|table| {
            let sql = format!("SELECT count(*) FROM main.\"{}\"", table.replace('"', "\"\""));
            let count = conn.query_row(&sql, [], |row| row.get(0))?;
            Ok((table, count))
        })
        .collect()
}

/// Makes the copy last, then gives it its name.
fn keep(partial: &Path, to: &Path, folder: &Path) -> Result<()> {
    let sync = |path: &Path| File::open(path)?.sync_all();
    sync(partial)
        .and_then(|()| fs::rename(partial, to))
        .and_then(|()| sync(folder))
        .map_err(|error| Failure::of("the copy cannot be synced and renamed", error))
}
