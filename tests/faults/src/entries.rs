//! Writes that show whether they are complete, for suites with several concurrent processes or threads, where the order
//! of commits is not known in advance.
//!
//! Each writer is a *client* that counts its own writes, `k`. A write adds a row to `entry`, whose `n` is the number of
//! the commit, and rows to `part`, whose bytes follow from client and count, and raises its client's `tally`. It may
//! also clear an earlier entry, which then has no parts. So the tables alone show which writes are there and whether
//! each is complete: no gap in `n`, no client's writes out of order, no part too many or too few.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use fastrand::Rng;
use larder::rusqlite::{self, Connection, OptionalExtension, params};
use larder::{Error, Migration, Migrations, WriteTx};

use crate::job::any_length;

/// A client, and the number of its write.
pub type Id = (i64, i64);

pub fn migrations() -> Migrations {
    Migrations::new([Migration::new(
        1,
        "tables",
        "CREATE TABLE entry(
             n INTEGER PRIMARY KEY, client INTEGER NOT NULL, k INTEGER NOT NULL, parts INTEGER NOT NULL,
             sum INTEGER NOT NULL, cleared INTEGER, UNIQUE (client, k)
         ) STRICT;
         CREATE TABLE part(
             entry INTEGER NOT NULL REFERENCES entry(n) DEFERRABLE INITIALLY DEFERRED,
             i INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (entry, i)
         ) STRICT, WITHOUT ROWID;
         CREATE TABLE tally(client INTEGER PRIMARY KEY, jobs INTEGER NOT NULL, bytes INTEGER NOT NULL) STRICT;",
    )])
}

/// How a write ends. All but the first must leave nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    Commit,
    AppError,
    Constraint,
    /// A part whose entry is missing at the end.
    DeferredKey,
    /// SQLite ends the transaction of the whole group.
    OrRollback,
}

const FAILURES: [End; 4] = [End::AppError, End::Constraint, End::DeferredKey, End::OrRollback];

/// One write.
#[derive(Clone, Debug)]
pub struct Job {
    pub id: Id,
    /// The size of each part, in bytes.
    pub parts: Vec<usize>,
    /// Whether to clear an earlier entry, and the number that selects it.
    pub clear: Option<u64>,
    pub end: End,
}

impl Job {
    pub fn plain(id: Id) -> Self {
        Self {
            id,
            parts: vec![40, 400],
            clear: None,
            end: End::Commit,
        }
    }

    pub fn any(id: Id, rng: &mut Rng) -> Self {
        Self {
            id,
            parts: (0..rng.usize(1..5)).map(|_| any_length(rng)).collect(),
            clear: (rng.u32(0..6) == 0).then(|| rng.u64(..)),
            end: if rng.u32(0..8) == 0 {
                FAILURES[rng.usize(0..FAILURES.len())]
            } else {
                End::Commit
            },
        }
    }

    pub fn commits(&self) -> bool {
        self.end == End::Commit
    }

    /// Runs the write in the caller's transaction. Returns the number of its commit.
    pub fn write(&self, conn: &Connection) -> larder::Result<i64> {
        let n: i64 = conn.query_row("SELECT ifnull(max(n), 0) + 1 FROM entry", [], |row| row.get(0))?;
        let (mut sum, mut bytes) = (0, 0);
        let mut insert = conn.prepare_cached("INSERT INTO part VALUES (?1, ?2, ?3)")?;
        for (i, length) in self.parts.iter().enumerate() {
            let data = data(self.id, i as i64, *length);
            sum += checksum(&data);
            bytes += *length as i64;
            insert.execute(params![n, i as i64, data])?;
        }
        let (client, k) = self.id;
        let row = params![n, client, k, self.parts.len() as i64, sum];
        conn.prepare_cached("INSERT INTO entry VALUES (?1, ?2, ?3, ?4, ?5, NULL)")?
            .execute(row)?;
        conn.prepare_cached(
            "INSERT INTO tally VALUES (?1, 1, ?2)
             ON CONFLICT DO UPDATE SET jobs = jobs + 1, bytes = bytes + excluded.bytes",
        )?
        .execute([client, bytes])?;
        if let Some(choice) = self.clear {
            clear(conn, n, choice)?;
        }
        self.finish(conn, n)?;
        Ok(n)
    }

    /// The closure for a store.
    pub fn closure(&self) -> impl FnOnce(&WriteTx<'_>) -> larder::Result<i64> + Send + 'static {
        let job = self.clone();
        move |tx| job.write(tx)
    }

    fn finish(&self, conn: &Connection, n: i64) -> larder::Result<()> {
        let again = "INTO entry SELECT * FROM entry WHERE n = ?1";
        match self.end {
            End::Commit => {}
            End::AppError => return Err(Error::app("wanted")),
            End::Constraint => drop(conn.execute(&format!("INSERT {again}"), [n])?),
            End::DeferredKey => drop(conn.execute("INSERT INTO part VALUES (-1, ?1, x'00')", [n])?),
            End::OrRollback => drop(conn.execute(&format!("INSERT OR ROLLBACK {again}"), [n])?),
        }
        Ok(())
    }
}

/// Removes the parts of one of the earlier entries.
fn clear(conn: &Connection, n: i64, choice: u64) -> rusqlite::Result<()> {
    let chosen = (choice % n.unsigned_abs()).max(1);
    let entry: Option<i64> = conn
        .prepare_cached("SELECT n FROM entry WHERE n = ?1 AND n < ?2 AND cleared IS NULL")?
        .query_row(params![chosen as i64, n], |row| row.get(0))
        .optional()?;
    if let Some(entry) = entry {
        conn.prepare_cached("DELETE FROM part WHERE entry = ?1")?
            .execute([entry])?;
        conn.prepare_cached("UPDATE entry SET cleared = ?2 WHERE n = ?1")?
            .execute([entry, n])?;
    }
    Ok(())
}

/// The bytes of a part, which follow from the writer's identity.
fn data(id: Id, i: i64, length: usize) -> Vec<u8> {
    let seed = crate::cases::seed(id.0 as u64, id.1 as u64, i as u64);
    let mut data = vec![0; length];
    Rng::with_seed(seed).fill(&mut data);
    data
}

fn checksum(data: &[u8]) -> i64 {
    data.iter().map(|byte| i64::from(*byte)).sum::<i64>() + data.len() as i64
}

// ---- the contents ----

/// A commit.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub id: Id,
    /// The commit that cleared its parts.
    cleared: Option<i64>,
    parts: i64,
    sum: i64,
}

impl Entry {
    /// The entry as of a number of commits.
    pub fn as_of(&self, commits: i64) -> Self {
        Self {
            cleared: self.cleared.filter(|by| *by <= commits),
            ..self.clone()
        }
    }
}

/// All commits, in their order; the first is number 1. Must be called in one snapshot.
///
/// # Errors
///
/// The first violation: an incomplete commit, or one out of order.
pub fn look(conn: &Connection) -> Result<Vec<Entry>, String> {
    let entries = read(conn).map_err(|error| format!("reading: {error}"))??;
    let parts = parts(conn, &entries).map_err(|error| format!("reading: {error}"))??;
    for (entry, n) in entries.iter().zip(1..) {
        let wanted = if entry.cleared.is_some() {
            (0, 0)
        } else {
            (entry.parts, entry.sum)
        };
        let found = parts.get(&n).copied().unwrap_or_default();
        if wanted != found {
            return Err(format!(
                "commit {n} of {:?} is half: {found:?} parts and sum, not {wanted:?}",
                entry.id
            ));
        }
    }
    judge_tally(conn, &entries).map_err(|error| format!("reading: {error}"))??;
    Ok(entries)
}

fn read(conn: &Connection) -> rusqlite::Result<Result<Vec<Entry>, String>> {
    let mut statement = conn.prepare("SELECT n, client, k, cleared, parts, sum FROM entry ORDER BY n")?;
    let mut rows = statement.query([])?;
    let mut entries = Vec::new();
    let mut last: HashMap<i64, i64> = HashMap::new();
    while let Some(row) = rows.next()? {
        let (n, client, k): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        if n != entries.len() as i64 + 1 {
            return Ok(Err(format!(
                "commit {} is missing, and {n} is there",
                entries.len() + 1
            )));
        }
        // Failing writes have negative numbers.
        if k <= 0 {
            return Ok(Err(format!("commit {n} is {:?}, which failed", (client, k))));
        }
        if last.insert(client, k).is_some_and(|before| before >= k) {
            return Ok(Err(format!("commit {n} of client {client} is {k}, out of order")));
        }
        entries.push(Entry {
            id: (client, k),
            cleared: row.get(3)?,
            parts: row.get(4)?,
            sum: row.get(5)?,
        });
    }
    let most = entries.len() as i64;
    match entries.iter().find(|entry| entry.cleared.is_some_and(|by| by > most)) {
        Some(entry) => Ok(Err(format!("{entry:?} was cleared by a commit that is missing"))),
        None => Ok(Ok(entries)),
    }
}

/// The number of parts of each commit, and their checksum.
fn parts(conn: &Connection, entries: &[Entry]) -> rusqlite::Result<Result<HashMap<i64, (i64, i64)>, String>> {
    let mut statement = conn.prepare("SELECT entry, i, data FROM part")?;
    let mut rows = statement.query([])?;
    let mut parts: HashMap<i64, (i64, i64)> = HashMap::new();
    while let Some(row) = rows.next()? {
        let (n, i): (i64, i64) = (row.get(0)?, row.get(1)?);
        let bytes = row.get_ref(2)?.as_blob()?;
        let Some(entry) = usize::try_from(n - 1).ok().and_then(|at| entries.get(at)) else {
            return Ok(Err(format!("there is a part of commit {n}, which is missing")));
        };
        if bytes != data(entry.id, i, bytes.len()) {
            return Ok(Err(format!("part {i} of commit {n} is not what {:?} wrote", entry.id)));
        }
        let part = parts.entry(n).or_default();
        *part = (part.0 + 1, part.1 + checksum(bytes));
    }
    Ok(Ok(parts))
}

fn judge_tally(conn: &Connection, entries: &[Entry]) -> rusqlite::Result<Result<(), String>> {
    let mut count: HashMap<i64, i64> = HashMap::new();
    for entry in entries {
        *count.entry(entry.id.0).or_default() += 1;
    }
    let mut statement = conn.prepare("SELECT client, jobs FROM tally")?;
    let found: rusqlite::Result<HashMap<i64, i64>> =
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect();
    let found = found?;
    Ok(if found == count {
        Ok(())
    } else {
        Err(format!("the tally is {found:?}, the entries say {count:?}"))
    })
}

/// Keeps the files of a failure, and returns their place.
pub fn keep(folder: &Path, suite: &str, case: &str) -> String {
    let kept: PathBuf = std::env::temp_dir().join(format!("larder-faults-failed/{suite}/{case}"));
    let copied = std::fs::create_dir_all(&kept).and_then(|()| copy(folder, &kept));
    match copied {
        Ok(()) => format!("; the files: {}", kept.display()),
        Err(error) => format!("; the files could not be kept: {error}"),
    }
}

/// Copies the contents of a folder.
pub fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            std::fs::create_dir_all(&to)?;
            copy(&entry.path(), &to)?;
        } else {
            std::fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

/// Empties a folder, or creates it.
pub fn clean(folder: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => std::fs::create_dir_all(folder),
    }
}
