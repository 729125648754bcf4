//! Adopts the records of other tools, once: while the database has no record of larder or Dbmate.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::record::{Applied, Details, Record, columns, create, note};
use super::{Adopt, Migrations};
use crate::error::{MigrationError, Result};

pub(crate) const GOOSE: &str = "goose_db_version";

/// The applied migrations in another tool's record, if it is to be adopted and was not yet.
#[derive(Debug, Default)]
pub(crate) struct Adoption {
    /// Each version, with the time of its application if known.
    pub(crate) versions: BTreeMap<u64, Option<String>>,
}

impl Adoption {
    /// `None` if there is nothing to adopt.
    ///
    /// # Errors
    ///
    /// [`MigrationError::NotAdopted`] if another tool has migrated the database and `Migrations::adopt` was not called.
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
                let problem = "Goose has migrated this database (it has a table goose_db_version): call \
                               Migrations::adopt(Adopt::Goose) to continue from there, or Adopt::Nothing to ignore it"
                    .to_owned();
                return Err(MigrationError::NotAdopted { problem }.into());
            }
            None if user_version > 0 => {
                let problem = format!(
                    "this database has user_version {user_version} and no record of migrations: call \
                     Migrations::adopt(Adopt::UserVersion) if it counts the applied migrations, or Adopt::Nothing if \
                     not"
                );
                return Err(MigrationError::NotAdopted { problem }.into());
            }
            None => return Ok(None),
        };
        Ok((!versions.is_empty()).then_some(Self { versions }))
    }

    /// Enters the adopted versions in larder's record.
    pub(crate) fn enter(&self, conn: &Connection, set: &Migrations) -> Result<()> {
        create(conn)?;
        for (version, applied_at) in &self.versions {
            // The digits of the file name, as Dbmate would write them, if there is a file.
            let migration = set.find(*version);
            let recorded = migration.map_or_else(|| version.to_string(), |migration| migration.digits.clone());
            conn.execute("INSERT INTO main.schema_migrations(version) VALUES (?1)", [&recorded])?;
            if let Some(migration) = migration {
                note(conn, &recorded, migration, applied_at.as_deref())?;
            }
        }
        Ok(())
    }

    /// The record after the adoption.
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

/// Goose adds a row for each step, up or down, and the last row of a version is the valid one; newer releases delete
/// the row instead. Version 0 stands for the table itself.
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

/// All versions of the set up to this one, which must be in the set.
fn up_to(set: &Migrations, user_version: i64) -> Result<BTreeMap<u64, Option<String>>> {
    let last = match u64::try_from(user_version) {
        Ok(0) => return Ok(BTreeMap::new()),
        Ok(last) => last,
        Err(_) => {
            let problem = format!(
                "this database has user_version {user_version}, which is no count of migrations: call \
                 Migrations::adopt(Adopt::Nothing) if none was applied"
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
            "this database has user_version {last}, and no migration has that version: number the migrations as \
             user_version counts them, from 1"
        );
        return Err(MigrationError::NotAdopted { problem }.into());
    }
    let versions = set.list.iter().map(|migration| migration.version);
    Ok(versions
        .filter(|version| *version <= last)
        .map(|version| (version, None))
        .collect())
}
