//! Adopts the records of other tools, once: while the database has no record of larder or Dbmate.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;

use super::record::{Applied, Details, Record, columns, create, note};
use super::{Adopt, Migrations};
use crate::connection::sql_text::{name, quoted};
use crate::error::{MigrationError, Result};
use crate::monitor::advice::{DIESEL, GOOSE, MIGRATION_TOOLS, REFINERY, SQLX};

/// Each version that was applied, with the time of its application if known.
type Versions = BTreeMap<u64, Option<String>>;

/// The applied migrations in another tool's record, if it is to be adopted and was not yet.
#[derive(Debug, Default)]
pub(crate) struct Adoption {
    pub(crate) versions: Versions,
}

impl Adoption {
    /// `None` if there is nothing to adopt.
    ///
    /// # Errors
    ///
    /// [`MigrationError::NotAdopted`] if another tool has migrated the database and `Migrations::adopt` does not ask
    /// for its record.
    pub(crate) fn find(conn: &Connection, set: &Migrations, record: &Record) -> Result<Option<Self>> {
        if record.begun {
            return Ok(None);
        }
        let versions = match &set.adopt {
            Some(Adopt::Nothing) => return Ok(None),
            Some(Adopt::Applied(versions)) => given(conn, versions)?,
            Some(Adopt::UserVersion) => up_to(set, user_version(conn)?)?,
            Some(Adopt::Goose) => goose(conn)?,
            Some(Adopt::Sqlx) => sqlx(conn)?,
            Some(Adopt::Diesel) => plain(conn, "Diesel", DIESEL, "run_on")?,
            Some(Adopt::Refinery) => plain(conn, "refinery", REFINERY, "applied_on")?,
            None => Versions::new(),
        };
        if versions.is_empty() {
            return refuse_others(conn, set.adopt.as_ref()).map(|()| None);
        }
        let known = |(version, at)| {
            let migration = set.recorded_as(version, None);
            (migration.map_or(version, |migration| migration.version), at)
        };
        let versions = versions.into_iter().map(known).collect();
        Ok(Some(Self { versions }))
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

fn not_adopted(problem: String) -> crate::error::Error {
    MigrationError::NotAdopted { problem }.into()
}

/// Refuses a database that another tool has migrated: its migrations would run once more.
fn refuse_others(conn: &Connection, asked: Option<&Adopt>) -> Result<()> {
    // An empty list says that none was applied.
    if matches!(asked, Some(Adopt::Applied(versions)) if versions.is_empty()) {
        return Ok(());
    }
    let mut found = Vec::new();
    for (tool, table) in records(conn)? {
        if table.eq_ignore_ascii_case(GOOSE) && goose(conn)?.is_empty() {
            continue;
        }
        let adopt = match table.to_ascii_lowercase().as_str() {
            GOOSE => "Adopt::Goose to continue from there",
            SQLX => "Adopt::Sqlx to continue from there",
            DIESEL => "Adopt::Diesel to continue from there",
            REFINERY => "Adopt::Refinery to continue from there",
            _ => "Adopt::Applied(versions) with the versions of the migrations that its rows name",
        };
        found.push((
            format!("{tool} has migrated this database (it has a table {table})"),
            adopt,
        ));
    }
    let user_version = user_version(conn)?;
    if user_version > 0 && asked != Some(&Adopt::UserVersion) {
        let told = format!("this database has user_version {user_version} and no record of larder");
        found.push((told, "Adopt::UserVersion if it counts the applied migrations"));
    }
    if found.is_empty() {
        return Ok(());
    }
    let (told, ways): (Vec<_>, Vec<_>) = found.into_iter().unzip();
    let not_asked = match asked {
        Some(asked) => format!(", and nothing of what Migrations::adopt asks for, {}", asked.told()),
        None => String::new(),
    };
    Err(not_adopted(format!(
        "{}{not_asked}: call Migrations::adopt with {}, or with Adopt::Nothing to apply all migrations all the same",
        told.join(", and "),
        ways.join(", or ")
    )))
}

impl Adopt {
    /// What it asks for, in an error.
    fn told(&self) -> &'static str {
        match self {
            Self::Goose => GOOSE,
            Self::Sqlx => SQLX,
            Self::Diesel => DIESEL,
            Self::Refinery => REFINERY,
            Self::UserVersion => "user_version",
            Self::Applied(_) => "a database with tables",
            Self::Nothing => "nothing",
        }
    }
}

/// The records of migration tools that have an entry: the tool and its table.
fn records(conn: &Connection) -> Result<Vec<(&'static str, String)>> {
    let mut found = Vec::new();
    for (tool, table) in tables_of_tools(conn)? {
        let any = format!("SELECT 1 FROM main.{}", quoted(&table));
        if conn.prepare(&any)?.exists([])? {
            found.push((tool, table));
        }
    }
    Ok(found)
}

/// The tables of migration tools, with or without entries.
pub(super) fn tables_of_tools(conn: &Connection) -> rusqlite::Result<Vec<(&'static str, String)>> {
    let mut found = Vec::new();
    for table in tables(conn)? {
        let mut of_name = MIGRATION_TOOLS
            .iter()
            .filter(|tool| table.eq_ignore_ascii_case(tool.table))
            .peekable();
        if of_name.peek().is_none() {
            continue;
        }
        let columns = columns(conn, &table)?.unwrap_or_default();
        if let Some(tool) = of_name.find(|tool| tool.has_columns(&columns)) {
            found.push((tool.name, table));
        }
    }
    Ok(found)
}

fn tables(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let sql = "SELECT name FROM main.sqlite_schema WHERE type = 'table' ORDER BY rowid";
    let mut statement = conn.prepare(sql)?;
    let names = statement.query_map([], |row| name(row, 0))?;
    names.collect()
}

fn user_version(conn: &Connection) -> rusqlite::Result<i64> {
    conn.query_row("PRAGMA main.user_version", [], |row| row.get(0))
}

/// The versions that the program says are applied. To a new database nothing was applied: it has no table but perhaps
/// the empty record of a tool.
fn given(conn: &Connection, versions: &[u64]) -> Result<Versions> {
    let of_tools: BTreeSet<String> = tables_of_tools(conn)?.into_iter().map(|(_, table)| table).collect();
    let of_the_application = |table: &String| {
        let lower = table.to_ascii_lowercase();
        !lower.starts_with("sqlite_") && lower != super::record::TABLE && !of_tools.contains(table)
    };
    let is_new = !tables(conn)?.iter().any(of_the_application) && records(conn)?.is_empty();
    if is_new {
        return Ok(Versions::new());
    }
    Ok(versions.iter().map(|version| (*version, None)).collect())
}

/// The expression for the time in that column, if there is one.
fn time(columns: &[String], column: &str) -> String {
    if columns.iter().any(|name| name.eq_ignore_ascii_case(column)) {
        format!("strftime('%Y-%m-%dT%H:%M:%fZ', {column})")
    } else {
        "NULL".to_owned()
    }
}

/// Goose adds a row for each step, up or down, and the last row of a version is the valid one; newer releases delete
/// the row instead. Version 0 stands for the table itself.
fn goose(conn: &Connection) -> rusqlite::Result<Versions> {
    let mut versions = BTreeMap::new();
    let Some(columns) = columns(conn, GOOSE)? else {
        return Ok(versions);
    };
    let has = |column: &str| columns.iter().any(|name| name == column);
    if !(has("version_id") && has("is_applied")) {
        return Ok(versions);
    }
    let time = time(&columns, "tstamp");
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

/// sqlx enters a migration before it runs outside a transaction, and sets `success` afterwards.
fn sqlx(conn: &Connection) -> Result<Versions> {
    let columns = columns(conn, SQLX)?.unwrap_or_default();
    if columns.iter().any(|column| column == "success") {
        let unfinished = format!("SELECT CAST(version AS TEXT) FROM main.{SQLX} WHERE success IS NOT 1");
        let mut statement = conn.prepare(&unfinished)?;
        let mut rows = statement.query([])?;
        if let Some(row) = rows.next()? {
            let version = name(row, 0)?;
            return Err(not_adopted(format!(
                "sqlx began migration {version} and did not finish it (success is not 1 in {SQLX}): finish it by hand \
                 and set success to 1, or undo it and delete the row"
            )));
        }
    }
    plain(conn, "sqlx", SQLX, "installed_on")
}

/// A record that has one row for each migration that is applied.
fn plain(conn: &Connection, tool: &str, table: &str, time_column: &str) -> Result<Versions> {
    let mut versions = Versions::new();
    let columns = columns(conn, table)?.unwrap_or_default();
    if !columns.iter().any(|column| column == "version") {
        return Ok(versions);
    }
    let time = time(&columns, time_column);
    let mut statement = conn.prepare(&format!("SELECT CAST(version AS TEXT), {time} FROM main.{table}"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let told = name(row, 0)?;
        match told.parse::<u64>() {
            // Diesel has set up its own functions by it, which SQLite has no use for.
            Ok(0) => {}
            Ok(version) => drop(versions.insert(version, row.get(1)?)),
            Err(_) => {
                return Err(not_adopted(format!(
                    "the entry {told:?} in {tool}'s record {table} is no number: call \
                     Migrations::adopt(Adopt::Applied(versions)) with the versions that are applied"
                )));
            }
        }
    }
    Ok(versions)
}

/// All versions of the set up to this one, which must be in the set.
fn up_to(set: &Migrations, user_version: i64) -> Result<Versions> {
    let last = match u64::try_from(user_version) {
        Ok(0) => return Ok(BTreeMap::new()),
        Ok(last) => last,
        Err(_) => {
            return Err(not_adopted(format!(
                "this database has user_version {user_version}, which is no count of migrations: call \
                 Migrations::adopt(Adopt::Nothing) if none was applied"
            )));
        }
    };
    let newest = set.list.last().map_or(0, |migration| migration.version);
    if last > newest {
        return Err(MigrationError::Newer { version: last, newest }.into());
    }
    if set.find(last).is_none() {
        return Err(not_adopted(format!(
            "this database has user_version {last}, and no migration has that version: number the migrations as \
             user_version counts them, from 1"
        )));
    }
    let versions = set.list.iter().map(|migration| migration.version);
    Ok(versions
        .filter(|version| *version <= last)
        .map(|version| (version, None))
        .collect())
}
