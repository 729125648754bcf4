//! The invariants of a folder after any failure: the store opens, SQLite finds no damage, the tables hold a prefix of
//! the commits, byte for byte and no shorter than promised, and the store keeps working.

use std::path::Path;

use fastrand::Rng;
use larder::rusqlite::{Connection, OpenFlags};
use larder::{Durability, Store, WriteOptions};

use crate::job::Job;
use crate::model::Model;
use crate::replicated;
use crate::settings::{LONG, Settings};
use crate::workload::{DATABASE, Run};

/// The permitted contents.
pub struct Expected<'a> {
    /// All commits that may be there, in their order.
    pub jobs: Vec<&'a Job>,
    /// The number of commits that must be there.
    pub least: usize,
    /// The number of commits that must be in the replica.
    pub in_replica: usize,
}

/// The number of the write that is made after a failure.
const AFTERWARDS: i64 = 1_000_000;

/// Opens the database in the folder, and checks everything. Returns the number of commits.
///
/// # Errors
///
/// The first violation.
pub fn check(folder: &Path, settings: &Settings, expected: &Expected<'_>, rng: &mut Rng) -> Result<usize, String> {
    let path = folder.join(DATABASE);
    if rng.u32(0..4) == 0 && path.exists() {
        raw(&path).map_err(|problem| format!("rusqlite, before larder: {problem}"))?;
    }
    let in_replica = prefix_in_replica(settings, expected, rng)?;
    let settings = Settings {
        patience: LONG,
        ..settings.clone()
    };
    let store = settings
        .options()
        .open(&path)
        .map_err(|error| format!("larder does not open it: {error}"))?;
    let found = look(&store, expected)?;
    if found < in_replica {
        return Err(format!(
            "the replica has {in_replica} commits, and the database {found}"
        ));
    }
    go_on(&store, found as i64, rng)?;
    // After an outage, the whole database follows what had been sealed before.
    if settings
        .replica
        .as_ref()
        .is_some_and(|replica| replica.spool_limit < 1 << 30 || rng.bool())
    {
        let flushed = store.replica().and_then(|replica| replica.flush(LONG));
        flushed.map_err(|error| format!("flushing: {error}"))?;
    }
    let report = store.close().map_err(|error| format!("closing: {error}"))?;
    if !report.wal_truncated {
        return Err(format!("closing: {report}"));
    }
    if let Some(replica) = &settings.replica {
        if report.replicated != Some(true) {
            return Err(format!("closing: {report}"));
        }
        replica
            .compare(&path, rng)
            .map_err(|problem| format!("the replica of the closed database: {problem}"))?;
    }
    let conn = raw(&path).map_err(|problem| format!("rusqlite, after larder: {problem}"))?;
    settings.is_made_so(&conn)?;
    let after = Model::read(&conn)?.commits();
    if after != found + 1 {
        return Err(format!(
            "there were {found} commits and one more, and {after} after closing"
        ));
    }
    Ok(found)
}

/// Checks that the replica has a prefix of the commits, and each of its transactions a prefix of that. Returns the number
/// of its commits.
fn prefix_in_replica(settings: &Settings, expected: &Expected<'_>, rng: &mut Rng) -> Result<usize, String> {
    let Some(replica) = &settings.replica else { return Ok(0) };
    let commits = |most: usize| {
        move |txid: u64, restored: &Path| Ok((txid, prefix_of(&expected.jobs[..most], &replicated::open(restored)?)?))
    };
    let newest = replica.restored(None, commits(expected.jobs.len()))?;
    let (txid, found) = newest.unwrap_or_default();
    if found < expected.in_replica {
        return Err(format!(
            "the replica has {found} commits, and {} were said to be there",
            expected.in_replica
        ));
    }
    if rng.u32(0..4) == 0
        && let Some(earlier) = replica.earlier(txid, rng)?
    {
        replica.restored(Some(earlier), commits(found))?;
    }
    Ok(found)
}

/// Checks that the tables of a restored database are those after some of these commits, and returns how many.
fn prefix_of(jobs: &[&Job], conn: &Connection) -> Result<usize, String> {
    is_as_recorded(conn)?;
    let tables = conn.table_exists(None, "account").map_err(|error| error.to_string())?;
    if !tables {
        return Ok(0);
    }
    let model = Model::read(conn)?;
    let count = model.commits();
    let jobs = jobs.get(..count);
    let jobs = jobs.ok_or_else(|| format!("{count} commits are in the replica, which is too many"))?;
    let wanted = Model::after(jobs.iter().copied());
    match wanted.difference(&model) {
        // The accounts come with a later migration than their table.
        Some(difference) if count > 0 => Err(format!("after {count} commits, {difference}")),
        _ => Ok(count),
    }
}

/// Checks the contents through the store's own reads.
pub fn look(store: &Store, expected: &Expected<'_>) -> Result<usize, String> {
    let found = store.read(|tx| Ok(sound(tx).and_then(|()| Model::read(tx))));
    let model = found.map_err(|error| format!("reading: {error}"))??;
    let (count, most) = (model.commits(), expected.jobs.len());
    if count < expected.least || count > most {
        return Err(format!(
            "{count} commits are there, and it must be {} to {most}",
            expected.least
        ));
    }
    let wanted = Model::after(expected.jobs[..count].iter().copied());
    match wanted.difference(&model) {
        Some(difference) => Err(format!("after {count} commits, {difference}")),
        None => Ok(count),
    }
}

fn go_on(store: &Store, found: i64, rng: &mut Rng) -> Result<(), String> {
    let options = if rng.bool() {
        WriteOptions::new().durability(Durability::Full)
    } else {
        WriteOptions::new()
    };
    let number =
        Run::write_one(store, options, &Job::plain(AFTERWARDS)).map_err(|e| format!("a write after it: {e}"))?;
    if number != found + 1 {
        return Err(format!("a write after it is commit {number}, not {}", found + 1));
    }
    Ok(())
}

/// SQLite's own checks.
pub fn sound(conn: &Connection) -> Result<(), String> {
    let ask = || -> larder::rusqlite::Result<String> {
        let said: String = conn.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
        if said != "ok" {
            return Ok(format!("integrity_check: {said}"));
        }
        let mut violations = conn.prepare("PRAGMA foreign_key_check")?;
        let violated = violations.exists([])?;
        Ok(if violated {
            "a foreign key is violated".into()
        } else {
            said
        })
    };
    match ask() {
        Ok(said) if said == "ok" => Ok(()),
        Ok(said) => Err(said),
        Err(error) => Err(format!("checking: {error}")),
    }
}

/// Checks that the schema matches the record of migrations.
pub fn is_as_recorded(conn: &Connection) -> Result<(), String> {
    let ask = || -> larder::rusqlite::Result<bool> {
        if !conn.table_exists(None, "larder_migrations")? {
            return Ok(true);
        }
        let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'part_by_job')
                   = EXISTS (SELECT 1 FROM larder_migrations WHERE CAST(version AS INTEGER) = 3)";
        conn.query_row(sql, [], |row| row.get(0))
    };
    match ask() {
        Ok(true) => Ok(()),
        Ok(false) => Err("the record of migrations is not what the schema says".into()),
        Err(error) => Err(format!("reading the record of migrations: {error}")),
    }
}

/// Opens the database with rusqlite alone, as an operator's tool would.
fn raw(path: &Path) -> Result<Connection, String> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).map_err(|error| error.to_string())?;
    sound(&conn)?;
    is_as_recorded(&conn)?;
    Ok(conn)
}
