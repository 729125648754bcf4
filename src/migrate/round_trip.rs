//! Up, down, up: whether each way down of a set undoes its way up. For tests, on temporary stores.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::plan::Target;
use super::record::{DETAILS, TABLE};
use super::{Migration, Migrations, read, to};
use crate::connection::sql_text::{tokens, unquoted};
use crate::connection::temp_folder::TempFolder;
use crate::engine::Engine;
use crate::error::{Direction, Error, MigrationError, Result};
use crate::options::{Checkpoints, Settings};

/// The number of differences that an error names.
const MAX_REPORTED: usize = 5;

/// The number of tokens that show a difference.
const EXCERPT: usize = 8;

/// Applies, undoes and applies again each migration, on top of those before it.
///
/// # Errors
///
/// [`MigrationError::Check`] with an error for each migration that has one, but for those above one that cannot be
/// applied.
pub(crate) fn round_trip(settings: &Settings, set: &Migrations) -> Result<()> {
    set.validate()?;
    let mut set = set.clone().at_open(false);
    set.backup = None;
    let mut problems = Vec::new();
    let mut next = 0;
    while next < set.list.len() {
        let trial = Trial::open(settings, &set)?;
        next = trial.run(next, &mut problems)?;
        trial.close();
    }
    match problems.is_empty() {
        true => Ok(()),
        false => Err(MigrationError::Check { problems }.into()),
    }
}

/// A temporary store.
struct Trial<'s> {
    engine: Engine,
    set: &'s Migrations,
    /// Deleted after the store has closed.
    _folder: TempFolder,
}

impl<'s> Trial<'s> {
    fn open(settings: &Settings, set: &'s Migrations) -> Result<Self> {
        let folder = TempFolder::for_store()?;
        let mut settings = settings.clone();
        settings.readers = 1;
        settings.checkpoints = Checkpoints::Own;
        let patience = settings.busy_timeout;
        Ok(Self {
            engine: Engine::open(settings, &folder.database(), None, patience, None)?,
            set,
            _folder: folder,
        })
    }

    fn close(self) {
        self.engine.close(self.engine.options.close_timeout);
    }

    /// Examines the migrations from there on. Returns the next one to be examined in a new store, which is needed after
    /// one that has left this one in another state.
    fn run(&self, first: usize, problems: &mut Vec<MigrationError>) -> Result<usize> {
        self.to(self.version_before(first))?;
        for (at, migration) in self.set.list.iter().enumerate().skip(first) {
            let before = Schema::read(&self.engine)?;
            if let Err(error) = self.to(migration.version) {
                problems.push(of_migration(error)?);
                return Ok(self.set.list.len());
            }
            match self.again(migration, at, &before) {
                Ok(()) => {}
                Err(error) => match of_migration(error)? {
                    // Nothing was done.
                    problem @ MigrationError::NoDown { .. } => problems.push(problem),
                    problem => {
                        problems.push(problem);
                        return Ok(at + 1);
                    }
                },
            }
        }
        Ok(self.set.list.len())
    }

    /// Undoes the newest migration and applies it again.
    fn again(&self, migration: &Migration, at: usize, before: &Schema) -> Result<()> {
        let applied = Schema::read(&self.engine)?;
        self.to(self.version_before(at))?;
        Schema::read(&self.engine)?.refuse(before, migration, Direction::Down)?;
        self.to(migration.version)?;
        Schema::read(&self.engine)?.refuse(&applied, migration, Direction::Up)
    }

    fn to(&self, version: u64) -> Result<()> {
        to(&self.engine, self.set, Target::Version(version)).map(drop)
    }

    fn version_before(&self, at: usize) -> u64 {
        at.checked_sub(1).map_or(0, |before| self.set.list[before].version)
    }
}

/// The error of a migration; any other error is that of the check.
fn of_migration(error: Error) -> Result<MigrationError> {
    match error {
        Error::Migration(error) => Ok(*error),
        other => Err(other),
    }
}

/// The objects of a schema that migrations make, and the numbers in the header.
struct Schema {
    /// By kind and name, each with its SQL.
    objects: BTreeMap<(String, String), String>,
    numbers: [(&'static str, i64); 2],
}

impl Schema {
    fn read(engine: &Engine) -> Result<Self> {
        read(engine, |tx| Ok(Self::of(tx)?))
    }

    fn of(conn: &Connection) -> rusqlite::Result<Self> {
        // SQLite makes the others, or a virtual table does.
        let mut statement = conn.prepare(
            "SELECT type, name, sql FROM main.sqlite_schema
             WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND tbl_name NOT IN (?1, ?2)
               AND tbl_name NOT IN (SELECT name FROM pragma_table_list WHERE type = 'shadow')",
        )?;
        let objects = statement.query_map([TABLE, DETAILS], |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?)))?;
        let number = |pragma| -> rusqlite::Result<_> {
            let number = conn.query_row(&format!("PRAGMA main.{pragma}"), [], |row| row.get(0))?;
            Ok((pragma, number))
        };
        Ok(Self {
            objects: objects.collect::<rusqlite::Result<_>>()?,
            numbers: [number("user_version")?, number("application_id")?],
        })
    }

    /// Refuses a difference from the schema as it was at the same version.
    fn refuse(&self, was: &Self, migration: &Migration, after: Direction) -> Result<()> {
        let mut differences = self.differences(was);
        if differences.is_empty() {
            return Ok(());
        }
        let more = differences.len().saturating_sub(MAX_REPORTED);
        if more > 0 {
            differences.truncate(MAX_REPORTED);
            differences.push(format!("{more} more differences"));
        }
        Err(MigrationError::NotRestored {
            file: migration.file.clone(),
            version: migration.version,
            after,
            differences,
        }
        .into())
    }

    fn differences(&self, was: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        for ((kind, name), sql) in &was.objects {
            match self.objects.get(&(kind.clone(), name.clone())) {
                None => differences.push(format!("the {kind} {name} is missing")),
                Some(now) => differences.extend(difference(sql, now).map(|text| format!("the {kind} {name} {text}"))),
            }
        }
        let left = self.objects.keys().filter(|object| !was.objects.contains_key(*object));
        differences.extend(left.map(|(kind, name)| format!("the {kind} {name} is left")));
        for ((pragma, was), (_, now)) in was.numbers.iter().zip(&self.numbers) {
            if was != now {
                differences.push(format!("{pragma} was {was} and is {now}"));
            }
        }
        differences
    }
}

/// The first difference of two texts for SQLite: white space, comments, and the quotes and the case of names do not
/// count. `ALTER TABLE` changes them.
fn difference(was: &str, now: &str) -> Option<String> {
    let [was, now] = [was, now].map(|sql| tokens(sql).collect::<Vec<_>>());
    let same = was.iter().zip(&now).take_while(|(was, now)| is_same(was, now)).count();
    if same == was.len() && same == now.len() {
        return None;
    }
    let excerpt = |tokens: &[&str]| {
        // A token before the difference tells where it is.
        let from = same.saturating_sub(1);
        let end = tokens.len().min(from + EXCERPT);
        let rest = if end < tokens.len() { " .." } else { "" };
        format!("{}{rest}", tokens[from..end].join(" "))
    };
    Some(format!("was `{}` and is `{}`", excerpt(&was), excerpt(&now)))
}

/// Whether two tokens are the same name, word or sign, or the same string.
fn is_same(one: &str, other: &str) -> bool {
    let is_string = |token: &str| token.starts_with('\'');
    match is_string(one) || is_string(other) {
        true => one == other,
        false => unquoted(one).eq_ignore_ascii_case(&unquoted(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(sql: &str) -> Schema {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(sql).unwrap();
        Schema::of(&conn).unwrap()
    }

    #[track_caller]
    fn assert_differences(was: &str, now: &str, expected: &[&str]) {
        assert_eq!(schema(now).differences(&schema(was)), expected);
    }

    #[test]
    fn same_schema_in_other_words_is_no_difference() {
        let table = "CREATE TABLE users(id INTEGER PRIMARY KEY,\n  name TEXT -- of the user\n) STRICT;";
        for sql in [
            "CREATE TABLE \"users\"(\"id\" integer primary key, [name] TEXT) STRICT",
            "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT) STRICT;
             ALTER TABLE users ADD COLUMN email TEXT; ALTER TABLE users DROP COLUMN email",
            "CREATE TABLE other(id INTEGER PRIMARY KEY, name TEXT) STRICT; ALTER TABLE other RENAME TO users",
            "CREATE TABLE users(id INTEGER PRIMARY KEY, label TEXT) STRICT; ALTER TABLE users RENAME label TO name",
        ] {
            assert_differences(table, sql, &[]);
        }
        let added = format!("{table} ALTER TABLE users ADD COLUMN email TEXT; ALTER TABLE users DROP COLUMN email");
        assert_differences(table, &added, &[]);
        // The tables of a virtual table, and SQLite's own.
        assert_differences(
            "",
            "CREATE TABLE t(a INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO t VALUES (1); DROP TABLE t; ANALYZE",
            &[],
        );
        assert_differences(
            "CREATE VIRTUAL TABLE f USING fts5(a)",
            "CREATE VIRTUAL TABLE f USING fts5(a); INSERT INTO f VALUES ('x')",
            &[],
        );
    }

    #[test]
    fn each_difference_is_named() {
        let table = "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT DEFAULT 'x') STRICT;";
        assert_differences(table, "", &["the table users is missing"]);
        assert_differences("", table, &["the table users is left"]);
        let index = format!("{table} CREATE INDEX by_name ON users(name); PRAGMA user_version = 7");
        assert_differences(
            table,
            &index,
            &["the index by_name is left", "user_version was 0 and is 7"],
        );
        assert_differences(
            table,
            "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT DEFAULT 'X') STRICT",
            &["the table users was `DEFAULT 'x' ) STRICT` and is `DEFAULT 'X' ) STRICT`"],
        );
        assert_differences(
            table,
            "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT DEFAULT 'x', email TEXT, age INTEGER, a, b) ",
            &["the table users was `'x' ) STRICT` and is `'x' , email TEXT , age INTEGER , ..`"],
        );
        assert_differences(
            table,
            &table.replace("STRICT", ""),
            &["the table users was `) STRICT` and is `)`"],
        );
    }
}
