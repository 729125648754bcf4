//! What was applied: Dbmate's table `schema_migrations`, and beside it `larder_migrations`.
//!
//! `schema_migrations` is the one that counts, and is made as Dbmate makes it, so that both tools agree at any time.
//! `larder_migrations` has what Dbmate does not keep: name, checksum, time, duration. A version that Dbmate applied
//! is entered there when larder first sees it, as the files are then; a row whose version Dbmate has rolled back means
//! nothing and is replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rusqlite::{Connection, params};

use super::error::MigrationError;
use super::{Adopt, Direction, Migration, Migrations};
use crate::error::Result;

pub(crate) const TABLE: &str = "schema_migrations";
pub(crate) const DETAILS: &str = "larder_migrations";
pub(crate) const GOOSE: &str = "goose_db_version";
const DETAIL_COLUMNS: [&str; 6] = ["version", "name", "checksum", "applied_at", "duration_us", "unfinished"];

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
    /// `None` if nobody has looked yet.
    pub(crate) checksum: Option<String>,
    pub(crate) applied_at: Option<String>,
    pub(crate) duration: Option<Duration>,
}

impl Applied {
    /// What an error calls it whose file is not at hand.
    pub(crate) fn told(&self, version: u64) -> String {
        match &self.details {
            Some(details) if !details.name.is_empty() => format!("{version} ({})", details.name),
            _ => version.to_string(),
        }
    }
}

/// All that the database says of its migrations.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// There is a record, though perhaps nothing in it.
    begun: bool,
    pub(crate) applied: BTreeMap<u64, Applied>,
    /// Versions, as they are recorded, of migrations that run outside a transaction and were begun, and where they went.
    unfinished: Vec<(String, Direction)>,
}

impl Record {
    /// Reads it.
    pub(crate) fn read(conn: &Connection) -> Result<Self> {
        let mut record = Self::default();
        let mut details = record.read_details(conn)?;
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
        let mut statement = conn.prepare("SELECT CAST(version AS TEXT) FROM main.schema_migrations")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let recorded: String = row.get::<_, Option<String>>(0)?.unwrap_or_default();
            let version = recorded.parse::<i64>().ok().filter(|version| *version > 0);
            let Some(version) = version else {
                return Err(MigrationError::Record {
                    table: TABLE,
                    problem: format!("{recorded:?} in it is not a version, a number from 1: correct or delete it"),
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
        record.begun |= !record.applied.is_empty();
        Ok(record)
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
                    "its columns are {}, so something else made it: rename it",
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

    /// Versions that were applied and have no details yet, of which the set knows them.
    pub(crate) fn without_details<'r>(&'r self, set: &'r Migrations) -> impl Iterator<Item = (&'r str, &'r Migration)> {
        self.applied
            .iter()
            .filter(|(version, applied)| applied.details.is_none() && !self.is_unfinished(**version))
            .filter_map(|(version, applied)| Some((applied.recorded.as_str(), set.find(*version)?)))
    }

    /// How the version of a migration is written in the record, or will be.
    pub(crate) fn version_of<'r>(&'r self, migration: &'r Migration) -> &'r str {
        self.applied
            .get(&migration.version)
            .map_or(&migration.digits, |applied| &applied.recorded)
    }

    /// Whether both have the same versions, written the same.
    pub(crate) fn agrees_with(&self, other: &Self) -> bool {
        let written = |record: &Self| -> Vec<String> {
            record
                .applied
                .values()
                .map(|applied| applied.recorded.clone())
                .collect()
        };
        written(self) == written(other)
    }

    fn is_unfinished(&self, version: u64) -> bool {
        self.unfinished
            .iter()
            .any(|(recorded, _)| recorded.parse() == Ok(version))
    }

    /// A migration of the set that was begun outside a transaction.
    pub(crate) fn unfinished(&self, set: &Migrations) -> Option<MigrationError> {
        self.unfinished.iter().find_map(|(recorded, direction)| {
            let migration = set.find(recorded.parse().ok()?)?;
            Some(MigrationError::Unfinished {
                file: migration.file.clone(),
                version: recorded.clone(),
                direction: *direction,
            })
        })
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
        params![migration.digits, migration.name, migration.checksum(), micros],
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
        params![recorded, migration.name, migration.checksum(), applied_at],
    )?;
    Ok(())
}

/// Marks a migration that is about to run outside a transaction, with the direction in which it goes.
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

/// Takes the mark away again: the migration has done nothing.
pub(crate) fn unmark(conn: &Connection, version: &str, direction: Direction) -> rusqlite::Result<()> {
    let sql = match direction {
        Direction::Up => "DELETE FROM main.larder_migrations WHERE version = ?1",
        Direction::Down => "UPDATE main.larder_migrations SET unfinished = 0 WHERE version = ?1",
    };
    conn.execute(sql, [version]).map(drop)
}

/// How the mark is written.
fn unfinished(direction: Direction) -> i64 {
    match direction {
        Direction::Up => 1,
        Direction::Down => 2,
    }
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
        if record.begun {
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
            None if user_version > 0 => {
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
        let entry = |(version, applied_at): (&u64, &Option<String>)| {
            let details = Details {
                name: String::new(),
                checksum: None,
                applied_at: applied_at.clone(),
                duration: None,
            };
            let recorded = version.to_string();
            let applied = Applied {
                recorded,
                details: Some(details),
            };
            (*version, applied)
        };
        self.versions.iter().map(entry).collect()
    }
}

/// Goose adds a row for each step, up or down, and takes the last one of a version for what holds; newer ones delete
/// the row instead. The version 0 stands for the table itself.
fn goose(conn: &Connection) -> rusqlite::Result<BTreeMap<u64, Option<String>>> {
    let mut versions = BTreeMap::new();
    let Some(columns) = columns(conn, GOOSE)? else {
        return Ok(versions);
    };
    let has = |column: &str| columns.iter().any(|name| name == column);
    if !(has("version_id") && has("is_applied")) {
        return Ok(versions);
    }
    let time = if has("tstamp") {
        "strftime('%Y-%m-%dT%H:%M:%fZ', tstamp)"
    } else {
        "NULL"
    };
    let sql = format!("SELECT version_id, is_applied, {time} FROM main.goose_db_version ORDER BY rowid");
    let mut statement = conn.prepare(&sql)?;
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
    let last = match u64::try_from(user_version) {
        Ok(0) => return Ok(BTreeMap::new()),
        Ok(last) => last,
        Err(_) => {
            let problem = format!(
                "this database has user_version {user_version}, which counts no migrations: call \
                 Migrations::adopt(Adopt::Nothing) if none was made"
            );
            return Err(MigrationError::NotAdopted { problem }.into());
        }
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

/// Rows whose foreign key points nowhere.
#[derive(Debug, PartialEq)]
pub(crate) struct Dangling {
    /// The first few: table, rowid, and the table that it points to.
    pub(crate) first: Vec<String>,
    pub(crate) total: u64,
}

impl Dangling {
    /// Looks at every table that refers to another, but for those that could not be checked before either.
    pub(crate) fn read(conn: &Connection, now: &References, before: &References) -> rusqlite::Result<Self> {
        const TOLD: usize = 5;
        let (mut first, mut total) = (Vec::new(), 0);
        for table in now.children().filter(|table| !before.mismatched.contains(*table)) {
            let mut statement = conn.prepare(&check(table))?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                total += 1;
                if first.len() < TOLD {
                    let (table, rowid, parent): (String, Option<i64>, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
                    let row = rowid.map_or_else(String::new, |rowid| format!(" row {rowid}"));
                    first.push(format!("{table}{row} -> {parent}"));
                }
            }
        }
        Ok(Self { first, total })
    }
}

fn check(table: &str) -> String {
    format!("PRAGMA main.foreign_key_check(\"{}\")", table.replace('"', "\"\""))
}

/// Which table refers to which by a foreign key.
#[derive(Debug, Default)]
pub(crate) struct References {
    /// Child, parent, and whether the parent is there.
    all: BTreeMap<(String, String), bool>,
    /// Children whose parent has no unique index to refer to. SQLite gives an error for them, "foreign key mismatch",
    /// instead of checking their rows.
    mismatched: BTreeSet<String>,
}

impl References {
    pub(crate) fn read(conn: &Connection) -> rusqlite::Result<Self> {
        let mut statement = conn.prepare(
            "SELECT DISTINCT child.name, key.\"table\",
                    EXISTS (SELECT 1 FROM main.sqlite_schema AS parent
                            WHERE parent.type = 'table' AND parent.name = key.\"table\" COLLATE NOCASE)
             FROM main.sqlite_schema AS child, pragma_foreign_key_list(child.name, 'main') AS key
             WHERE child.type = 'table'",
        )?;
        let all = statement.query_map([], |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?)))?;
        let mut references = Self {
            all: all.collect::<rusqlite::Result<_>>()?,
            mismatched: BTreeSet::new(),
        };
        // The error comes as the statement is prepared, before any row is looked at.
        let mismatched = references
            .children()
            .filter(|table| conn.prepare(&check(table)).is_err());
        references.mismatched = mismatched.cloned().collect();
        Ok(references)
    }

    fn children(&self) -> impl Iterator<Item = &String> {
        let children: BTreeSet<_> = self.all.keys().map(|(child, _)| child).collect();
        children.into_iter()
    }

    /// Tables whose reference was turned from one that was there to one that is not: `ALTER TABLE p RENAME TO p_old` takes
    /// the children of `p` along, and `DROP TABLE p_old` then leaves them without a parent. With no rows in them
    /// `foreign_key_check` finds nothing. (A parent that is dropped itself, or made later, is another matter.)
    pub(crate) fn turned_since(&self, before: &Self) -> Vec<String> {
        let lost = |child: &str| {
            let lost = |((table, parent), there): (&(String, String), &bool)| {
                *there && table == child && !self.all.contains_key(&(table.clone(), parent.clone()))
            };
            before.all.iter().any(lost)
        };
        let gone = self
            .all
            .iter()
            .filter(|(reference, there)| !**there && !before.all.contains_key(*reference));
        gone.filter(|((child, _), _)| lost(child))
            .map(|((child, parent), _)| {
                format!("{child} -> {parent}, which is no more (a rename took the reference along)")
            })
            .collect()
    }
}
