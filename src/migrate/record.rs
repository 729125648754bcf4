//! The record of applied migrations: Dbmate's table `schema_migrations`, and beside it `larder_migrations`.
//!
//! `schema_migrations` is authoritative, and is created as Dbmate creates it, so that both tools always agree.
//! `larder_migrations` has the details that Dbmate does not keep: name, checksum, time, duration. A version that Dbmate
//! applied gets its details when larder first sees it, from the files of that time; a row whose version Dbmate has
//! rolled back is ignored and replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rusqlite::{Connection, params};

use super::{Direction, Migration, Migrations};
use crate::error::{Error, MigrationError, Result};

pub(crate) const TABLE: &str = "schema_migrations";
pub(crate) const DETAILS: &str = "larder_migrations";
const DETAIL_COLUMNS: [&str; 6] = ["version", "name", "checksum", "applied_at", "duration_us", "unfinished"];

/// A version that was applied.
#[derive(Clone, Debug)]
pub(crate) struct Applied {
    /// The version as the record writes it.
    pub(crate) recorded: String,
    pub(crate) details: Option<Details>,
}

#[derive(Clone, Debug)]
pub(crate) struct Details {
    pub(crate) name: String,
    /// `None` if it was never computed.
    pub(crate) checksum: Option<String>,
    pub(crate) applied_at: Option<String>,
    pub(crate) duration: Option<Duration>,
}

impl Applied {
    /// The name of the migration in an error, if its file is not available.
    pub(crate) fn told(&self, version: u64) -> String {
        match &self.details {
            Some(details) if !details.name.is_empty() => format!("{version} ({})", details.name),
            _ => version.to_string(),
        }
    }
}

/// The whole migration record of a database.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// Whether a record exists, even an empty one.
    pub(super) begun: bool,
    /// Whether both tables exist.
    complete: bool,
    pub(crate) applied: BTreeMap<u64, Applied>,
    /// Migrations outside a transaction that began and did not end: the version as it is recorded, and the direction.
    unfinished: Vec<(String, Direction)>,
}

impl Record {
    /// Reads the record, as the versions of this set.
    pub(crate) fn of(conn: &Connection, set: &Migrations) -> Result<Self> {
        let mut record = Self::read(conn)?;
        record.resolve(set);
        record.refuse_rails(conn, set)?;
        Ok(record)
    }

    /// Rails has the same table for versions of its own, and another one beside it.
    fn refuse_rails(&self, conn: &Connection, set: &Migrations) -> Result<()> {
        let other = self.applied.keys().find(|version| set.find(**version).is_none());
        let Some(version) = other.filter(|_| !self.complete) else {
            return Ok(());
        };
        if columns(conn, "ar_internal_metadata")?.is_none() {
            return Ok(());
        }
        let problem = format!(
            "Rails has migrated this database (it has a table ar_internal_metadata), and no migration has the version \
             {version} of its record schema_migrations, a name that larder needs for its own: {RENAME}"
        );
        Err(MigrationError::NotAdopted { problem }.into())
    }

    /// Reads the record.
    pub(crate) fn read(conn: &Connection) -> Result<Self> {
        let mut record = Self::default();
        let mut details = record.read_details(conn)?;
        let Some(columns) = columns(conn, TABLE)? else {
            return Ok(record);
        };
        if columns != ["version"] {
            return Err(of_another_tool(&columns, record.begun).into());
        }
        let mut statement = conn.prepare("SELECT CAST(version AS TEXT) FROM main.schema_migrations")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let recorded: String = row.get::<_, Option<String>>(0)?.unwrap_or_default();
            let version = recorded.parse::<i64>().ok().filter(|version| *version > 0);
            let Some(version) = version else {
                return Err(MigrationError::Record {
                    table: TABLE,
                    problem: format!("its entry {recorded:?} is not a version (a number from 1): correct or delete it"),
                }
                .into());
            };
            let details = details.remove(&recorded);
            let applied = Applied { recorded, details };
            if let Some(other) = record.applied.insert(version as u64, applied) {
                return Err(MigrationError::Record {
                    table: TABLE,
                    problem: format!(
                        "it has version {version} twice, once as {:?}: delete one of them",
                        other.recorded
                    ),
                }
                .into());
            }
        }
        record.complete = record.begun;
        record.begun |= !record.applied.is_empty();
        Ok(record)
    }

    /// Finds the migrations that an earlier version of larder recorded under another version: it took the year of
    /// `2024-03-05-101500_users` for all of it.
    fn resolve(&mut self, set: &Migrations) {
        let recorded: Vec<u64> = self.applied.keys().copied().collect();
        for version in recorded {
            let details = self.applied[&version].details.as_ref();
            let Some(migration) = set.recorded_as(version, details) else {
                continue;
            };
            if migration.version != version
                && !self.applied.contains_key(&migration.version)
                && let Some(applied) = self.applied.remove(&version)
            {
                self.applied.insert(migration.version, applied);
            }
        }
    }

    /// Adds a migration that was just applied, by [`enter`].
    pub(crate) fn entered(&mut self, migration: &Migration, took: Duration) {
        self.begun = true;
        self.complete = true;
        let details = Details {
            name: migration.name.clone().into_owned(),
            checksum: Some(migration.checksum().to_owned()),
            applied_at: None,
            duration: Some(took),
        };
        let applied = Applied {
            recorded: migration.digits.clone(),
            details: Some(details),
        };
        self.applied.insert(migration.version, applied);
    }

    fn read_details(&mut self, conn: &Connection) -> Result<BTreeMap<String, Details>> {
        let mut all = BTreeMap::new();
        let Some(columns) = columns(conn, DETAILS)? else {
            return Ok(all);
        };
        if !DETAIL_COLUMNS
            .iter()
            .all(|column| columns.iter().any(|name| name == column))
        {
            return Err(MigrationError::Record {
                table: DETAILS,
                problem: format!(
                    "its columns are {}, so another tool created it: rename it",
                    columns.join(", ")
                ),
            }
            .into());
        }
        self.begun = true;
        let mut statement = conn.prepare(
            "SELECT version, name, checksum, applied_at, duration_us, unfinished FROM main.larder_migrations",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let version: String = row.get(0)?;
            let mark: i64 = row.get(5)?;
            if mark != 0 {
                let direction = if mark == unfinished(Direction::Down) {
                    Direction::Down
                } else {
                    Direction::Up
                };
                self.unfinished.push((version, direction));
                continue;
            }
            let details = Details {
                name: row.get(1)?,
                checksum: row.get(2)?,
                applied_at: row.get(3)?,
                duration: row.get::<_, Option<i64>>(4)?.map(|us| Duration::from_micros(us as u64)),
            };
            all.insert(version, details);
        }
        Ok(all)
    }

    /// The versions of the set that were applied and have no details yet.
    pub(crate) fn without_details<'r>(&'r self, set: &'r Migrations) -> impl Iterator<Item = (&'r str, &'r Migration)> {
        self.applied
            .iter()
            .filter(|(_, applied)| applied.details.is_none() && !self.is_unfinished(&applied.recorded))
            .filter_map(|(version, applied)| Some((applied.recorded.as_str(), set.find(*version)?)))
    }

    /// The version of a migration as the record writes it, or will write it.
    pub(crate) fn version_of<'r>(&'r self, migration: &'r Migration) -> &'r str {
        self.applied
            .get(&migration.version)
            .map_or(&migration.digits, |applied| &applied.recorded)
    }

    /// Whether both have the same versions, written the same.
    pub(crate) fn agrees_with(&self, other: &Self) -> bool {
        let written = |record: &Self| -> BTreeSet<String> {
            record
                .applied
                .values()
                .map(|applied| applied.recorded.clone())
                .collect()
        };
        written(self) == written(other)
    }

    fn is_unfinished(&self, version: &str) -> bool {
        let version = version.parse::<u64>();
        self.unfinished
            .iter()
            .any(|(recorded, _)| recorded.parse::<u64>() == version)
    }

    /// The error for a migration of the set that began outside a transaction and did not end.
    pub(crate) fn unfinished(&self, set: &Migrations) -> Option<MigrationError> {
        self.unfinished.iter().find_map(|(recorded, direction)| {
            let migration = set.recorded_as(recorded.parse().ok()?, None)?;
            Some(MigrationError::Unfinished {
                file: migration.file.clone(),
                version: recorded.clone(),
                direction: *direction,
            })
        })
    }
}

/// How to make room for larder's record.
const RENAME: &str = "run ALTER TABLE schema_migrations RENAME TO former_migrations, then open the store with \
                      Migrations::adopt(Adopt::Applied(versions)) and the versions of the migrations that are applied \
                      already";

/// The error for a `schema_migrations` that is not Dbmate's. `begun`: it was, since larder's own table is there.
fn of_another_tool(columns: &[String], begun: bool) -> MigrationError {
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let tool = match columns.as_slice() {
        ["version", "dirty"] if !begun => "golang-migrate",
        ["version", "inserted_at"] if !begun => "Ecto",
        ["filename"] if !begun => "Sequel",
        ["id"] if !begun => "geni",
        _ => {
            return MigrationError::Record {
                table: TABLE,
                problem: format!(
                    "Dbmate's table has one column, version, and this one has {}, so another tool created it: {RENAME}",
                    columns.join(", ")
                ),
            };
        }
    };
    MigrationError::NotAdopted {
        problem: format!(
            "{tool} has migrated this database: its record schema_migrations (columns: {}) has the name that larder \
             needs for its own: {RENAME}",
            columns.join(", ")
        ),
    }
}

/// The columns of a table, or `None` if the table does not exist.
pub(super) fn columns(conn: &Connection, table: &str) -> rusqlite::Result<Option<Vec<String>>> {
    let mut statement = conn.prepare("SELECT name FROM pragma_table_info(?1, 'main')")?;
    let names = statement
        .query_map([table], |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    Ok((!names.is_empty()).then_some(names))
}

/// Creates both tables, unless they exist.
pub(crate) fn create(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(
        "CREATE TABLE IF NOT EXISTS main.\"schema_migrations\" (version varchar(128) primary key);
         CREATE TABLE IF NOT EXISTS main.larder_migrations(
             version TEXT NOT NULL PRIMARY KEY,
             name TEXT NOT NULL,
             checksum TEXT NOT NULL,
             applied_at TEXT,
             duration_us INTEGER,
             unfinished INTEGER NOT NULL DEFAULT 0
         ) STRICT, WITHOUT ROWID;",
    )
}

/// Records a migration that was just applied. Its duration is that of its SQL and its checks, without the COMMIT that
/// carries the record.
pub(crate) fn enter(conn: &Connection, record: &Record, migration: &Migration, took: Duration) -> rusqlite::Result<()> {
    if !record.complete {
        create(conn)?;
    }
    conn.prepare_cached("INSERT INTO main.schema_migrations(version) VALUES (?1)/*larder*/")?
        .execute([&migration.digits])?;
    let micros = i64::try_from(took.as_micros()).unwrap_or(i64::MAX);
    conn.prepare_cached(
        "INSERT OR REPLACE INTO main.larder_migrations(version, name, checksum, applied_at, duration_us)
         VALUES (?1, ?2, ?3, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), ?4)/*larder*/",
    )?
    .execute(params![migration.digits, migration.name, migration.checksum(), micros])?;
    Ok(())
}

/// Removes a migration that was just undone.
pub(crate) fn remove(conn: &Connection, recorded: &str) -> rusqlite::Result<()> {
    conn.execute("DELETE FROM main.schema_migrations WHERE version = ?1", [recorded])?;
    conn.execute("DELETE FROM main.larder_migrations WHERE version = ?1", [recorded])?;
    Ok(())
}

/// Records the details of a version that another tool applied.
pub(crate) fn note(
    conn: &Connection,
    recorded: &str,
    migration: &Migration,
    applied_at: Option<&str>,
) -> rusqlite::Result<()> {
    conn.execute(
        "INSERT OR REPLACE INTO main.larder_migrations(version, name, checksum, applied_at) VALUES (?1, ?2, ?3, ?4)",
        params![recorded, migration.name, migration.checksum(), applied_at],
    )?;
    Ok(())
}

/// Marks a migration that is about to run outside a transaction, with its direction.
pub(crate) fn mark(
    conn: &Connection,
    version: &str,
    migration: &Migration,
    direction: Direction,
) -> rusqlite::Result<()> {
    create(conn)?;
    conn.execute(
        "INSERT INTO main.larder_migrations(version, name, checksum, unfinished) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT(version) DO UPDATE SET unfinished = excluded.unfinished",
        params![version, migration.name, migration.checksum(), unfinished(direction)],
    )?;
    Ok(())
}

/// Removes the mark of a migration that changed nothing.
pub(crate) fn unmark(conn: &Connection, version: &str, direction: Direction) -> rusqlite::Result<()> {
    let sql = match direction {
        Direction::Up => "DELETE FROM main.larder_migrations WHERE version = ?1",
        Direction::Down => "UPDATE main.larder_migrations SET unfinished = 0 WHERE version = ?1",
    };
    conn.execute(sql, [version]).map(drop)
}

/// The error for a table that has not what was just entered.
pub(crate) fn loses(table: &'static str) -> Error {
    let problem = "it does not keep what larder enters, so a trigger or an index that larder has not created changes that: \
                   drop it";
    MigrationError::Record {
        table,
        problem: problem.to_owned(),
    }
    .into()
}

/// The value of the mark.
fn unfinished(direction: Direction) -> i64 {
    match direction {
        Direction::Up => 1,
        Direction::Down => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_migrations_are_bookkeeping_for_advice() {
        for table in [TABLE, DETAILS] {
            assert!(crate::monitor::advice::is_bookkeeping(table), "{table}");
        }
    }
}
