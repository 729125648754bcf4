//! What was applied: Dbmate's table `schema_migrations`, and beside it `larder_migrations`.
//!
//! `schema_migrations` is the one that counts, and is made as Dbmate makes it, so that both tools agree at any time.
//! `larder_migrations` has what Dbmate does not keep: name, checksum, time, duration. A version that Dbmate applied
//! is entered there when larder first sees it, as the files are then; a row whose version Dbmate has rolled back means
//! nothing and is replaced.

use std::collections::BTreeMap;
use std::time::Duration;

use rusqlite::{Connection, params};

use super::error::MigrationError;
use super::{Adopt, Migration, Migrations};
use crate::error::Result;

pub(crate) const TABLE: &str = "schema_migrations";
pub(crate) const DETAILS: &str = "larder_migrations";
const GOOSE: &str = "goose_db_version";

/// A version that was applied.
#[derive(Clone, Debug)]
pub(crate) struct Applied {
    /// The version as it is written in the record.
    pub(crate) recorded: String,
    pub(crate) details: Option<Details>,
}

#[derive(Clone, Debug)]
pub(crate) struct Details {
    pub(crate) name: String,
    pub(crate) checksum: String,
    pub(crate) applied_at: Option<String>,
    pub(crate) duration: Option<Duration>,
}

/// All that the database says of its migrations.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) applied: BTreeMap<u64, Applied>,
    /// Versions, as they are recorded, of migrations that run outside a transaction and were begun.
    pub(crate) unfinished: Vec<String>,
}

impl Record {
    /// Reads it.
    pub(crate) fn read(conn: &Connection) -> Result<Self> {
        let mut record = Self::default();
        let Some(columns) = columns(conn, TABLE)? else {
            return Ok(record);
        };
        if columns != ["version"] {
            return Err(MigrationError::Record {
                table: TABLE,
                problem: format!(
                    "Dbmate's has one column, version, and this one has {}, so another tool made it: rename it, and \
                     enter in a new one what was applied",
                    columns.join(", ")
                ),
            }
            .into());
        }
        let mut details = record.read_details(conn)?;
        let mut statement = conn.prepare("SELECT CAST(version AS TEXT) FROM main.schema_migrations")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let recorded: String = row.get::<_, Option<String>>(0)?.unwrap_or_default();
            let version = recorded.parse::<i64>().ok().filter(|version| *version > 0);
            let Some(version) = version else {
                return Err(MigrationError::Record {
                    table: TABLE,
                    problem: format!("{recorded:?} in it is not a version, which is a number: correct or delete it"),
                }
                .into());
            };
            let details = details.remove(&recorded);
            record.applied.insert(version as u64, Applied { recorded, details });
        }
        Ok(record)
    }

    fn read_details(&mut self, conn: &Connection) -> Result<BTreeMap<String, Details>> {
        let mut all = BTreeMap::new();
        if columns(conn, DETAILS)?.is_none() {
            return Ok(all);
        }
        let mut statement = conn.prepare(
            "SELECT version, name, checksum, applied_at, duration_us, unfinished FROM main.larder_migrations",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let version: String = row.get(0)?;
            if row.get(5)? {
                self.unfinished.push(version);
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

    /// Versions that were applied and have no details yet, of which the set knows them.
    pub(crate) fn without_details<'r>(&'r self, set: &'r Migrations) -> impl Iterator<Item = (&'r str, &'r Migration)> {
        self.applied
            .iter()
            .filter(|(_, applied)| applied.details.is_none())
            .filter_map(|(version, applied)| Some((applied.recorded.as_str(), set.find(*version)?)))
    }

    pub(crate) fn is_unfinished(&self, migration: &Migration) -> bool {
        self.unfinished
            .iter()
            .any(|version| version.parse() == Ok(migration.version))
    }
}

/// The columns of a table, or `None` if there is no such table.
fn columns(conn: &Connection, table: &str) -> rusqlite::Result<Option<Vec<String>>> {
    let mut statement = conn.prepare("SELECT name FROM pragma_table_info(?1, 'main')")?;
    let names = statement
        .query_map([table], |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    Ok((!names.is_empty()).then_some(names))
}

/// Makes both tables, if they are not there.
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

/// Enters a migration that has just been made. Its duration is that of its SQL and its checks, without the COMMIT
/// that carries the entry.
pub(crate) fn enter(conn: &Connection, migration: &Migration, took: Duration) -> rusqlite::Result<()> {
    create(conn)?;
    conn.execute(
        "INSERT INTO main.schema_migrations(version) VALUES (?1)",
        [&migration.digits],
    )?;
    let micros = i64::try_from(took.as_micros()).unwrap_or(i64::MAX);
    conn.execute(
        "INSERT OR REPLACE INTO main.larder_migrations(version, name, checksum, applied_at, duration_us)
         VALUES (?1, ?2, ?3, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), ?4)",
        params![migration.digits, migration.name, migration.up.checksum(), micros],
    )?;
    Ok(())
}

/// Takes out a migration that has just been undone.
pub(crate) fn remove(conn: &Connection, recorded: &str) -> rusqlite::Result<()> {
    conn.execute("DELETE FROM main.schema_migrations WHERE version = ?1", [recorded])?;
    conn.execute("DELETE FROM main.larder_migrations WHERE version = ?1", [recorded])?;
    Ok(())
}

/// Enters the details of a version that another tool has applied.
pub(crate) fn note(
    conn: &Connection,
    recorded: &str,
    migration: &Migration,
    applied_at: Option<&str>,
) -> rusqlite::Result<()> {
    conn.execute(
        "INSERT OR REPLACE INTO main.larder_migrations(version, name, checksum, applied_at) VALUES (?1, ?2, ?3, ?4)",
        params![recorded, migration.name, migration.up.checksum(), applied_at],
    )?;
    Ok(())
}

/// Marks a migration that is about to run outside a transaction.
pub(crate) fn begin(conn: &Connection, migration: &Migration) -> rusqlite::Result<()> {
    create(conn)?;
    conn.execute(
        "INSERT OR REPLACE INTO main.larder_migrations(version, name, checksum, unfinished) VALUES (?1, ?2, ?3, 1)",
        params![migration.digits, migration.name, migration.up.checksum()],
    )?;
    Ok(())
}

/// What another tool says was applied, if it is to be taken over and has not been yet.
#[derive(Debug, Default)]
pub(crate) struct Adoption {
    /// Version, and when it was applied if that is known.
    pub(crate) versions: BTreeMap<u64, Option<String>>,
}

impl Adoption {
    /// `None` if there is nothing to adopt.
    ///
    /// # Errors
    ///
    /// [`MigrationError::NotAdopted`] if another tool has migrated the database and nobody has said what to do.
    pub(crate) fn find(conn: &Connection, set: &Migrations, record: &Record) -> Result<Option<Self>> {
        if !record.applied.is_empty() {
            return Ok(None);
        }
        let goose = goose(conn)?;
        let user_version: i64 = conn.query_row("PRAGMA main.user_version", [], |row| row.get(0))?;
        let versions = match set.adopt {
            Some(Adopt::Goose) => goose,
            Some(Adopt::UserVersion) => up_to(set, user_version)?,
            Some(Adopt::Nothing) => return Ok(None),
            None if !goose.is_empty() => {
                let problem = "Goose has migrated this database, by its table goose_db_version: call \
                               Migrations::adopt(Adopt::Goose) to go on from there, or Adopt::Nothing if that is over"
                    .to_owned();
                return Err(MigrationError::NotAdopted { problem }.into());
            }
            None if user_version != 0 => {
                let problem = format!(
                    "this database has user_version {user_version} and no record of migrations: call \
                     Migrations::adopt(Adopt::UserVersion) if that is how its migrations were counted, or \
                     Adopt::Nothing if it is not"
                );
                return Err(MigrationError::NotAdopted { problem }.into());
            }
            None => return Ok(None),
        };
        Ok((!versions.is_empty()).then_some(Self { versions }))
    }

    /// Enters it in the record.
    pub(crate) fn enter(&self, conn: &Connection, set: &Migrations) -> Result<()> {
        create(conn)?;
        for (version, applied_at) in &self.versions {
            // As Dbmate would write it, if there is a file.
            let migration = set.find(*version);
            let recorded = migration.map_or_else(|| version.to_string(), |migration| migration.digits.clone());
            conn.execute("INSERT INTO main.schema_migrations(version) VALUES (?1)", [&recorded])?;
            if let Some(migration) = migration {
                note(conn, &recorded, migration, applied_at.as_deref())?;
            }
        }
        Ok(())
    }

    /// The record as it will be.
    pub(crate) fn as_applied(&self) -> BTreeMap<u64, Applied> {
        let entry = |version: &u64| Applied {
            recorded: version.to_string(),
            details: None,
        };
        self.versions.keys().map(|version| (*version, entry(version))).collect()
    }
}

/// Goose adds a row for each step, up or down, and takes the last one of a version for what holds; newer ones delete
/// the row instead. The version 0 stands for the table itself.
fn goose(conn: &Connection) -> rusqlite::Result<BTreeMap<u64, Option<String>>> {
    let mut versions = BTreeMap::new();
    if columns(conn, GOOSE)?.is_none() {
        return Ok(versions);
    }
    let sql = "SELECT version_id, is_applied, CAST(tstamp AS TEXT) FROM main.goose_db_version ORDER BY id";
    let mut statement = conn.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let version = row.get::<_, i64>(0)?;
        match row.get(1)? {
            true if version > 0 => versions.insert(version as u64, row.get(2)?),
            _ => versions.remove(&(version as u64)),
        };
    }
    Ok(versions)
}

/// Every version of the set up to this one, which must be one of them.
fn up_to(set: &Migrations, user_version: i64) -> Result<BTreeMap<u64, Option<String>>> {
    let Ok(last @ 1..) = u64::try_from(user_version) else {
        return Ok(BTreeMap::new());
    };
    let newest = set.list.last().map_or(0, |migration| migration.version);
    if last > newest {
        return Err(MigrationError::Newer { version: last, newest }.into());
    }
    if set.find(last).is_none() {
        let problem = format!(
            "this database has user_version {last}, and no migration has that version: number them as user_version \
             counts, from 1"
        );
        return Err(MigrationError::NotAdopted { problem }.into());
    }
    let versions = set.list.iter().map(|migration| migration.version);
    Ok(versions
        .filter(|version| *version <= last)
        .map(|version| (version, None))
        .collect())
}

/// The tables that are not STRICT. The record is exempt: Dbmate makes it so.
pub(crate) fn tables_not_strict(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = conn.prepare(
        "SELECT name FROM pragma_table_list
         WHERE schema = 'main' AND type = 'table' AND NOT strict
           AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name <> 'schema_migrations'
         ORDER BY name",
    )?;
    let names = statement.query_map([], |row| row.get(0))?;
    names.collect()
}

/// The first few foreign keys that point nowhere, and how many there are.
pub(crate) fn foreign_keys(conn: &Connection) -> rusqlite::Result<(Vec<String>, u64)> {
    const TOLD: usize = 5;
    let mut statement = conn.prepare("PRAGMA main.foreign_key_check")?;
    let mut rows = statement.query([])?;
    let (mut first, mut total) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        total += 1;
        if first.len() < TOLD {
            let (table, rowid, parent): (String, Option<i64>, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let row = rowid.map_or_else(String::new, |rowid| format!(" row {rowid}"));
            first.push(format!("{table}{row} -> {parent}"));
        }
    }
    Ok((first, total))
}
