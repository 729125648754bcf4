//! Helpers for tests of migrations.

use std::path::Path;

use larder::rusqlite::Connection;
use larder::{
    Direction, Error, Migration, MigrationError, MigrationReport, Migrations, Options, Outcome, Result, Store,
};

/// Migrations 1, 2, 3 .., which are applied when the test calls for it.
pub(crate) fn set<const N: usize>(list: [&'static str; N]) -> Migrations {
    let numbered = (1..).zip(list);
    Migrations::new(numbered.map(|(version, up)| Migration::new(version, format!("step {version}"), up))).at_open(false)
}

#[track_caller]
pub(crate) fn files(files: &[(&str, &str)]) -> Migrations {
    Migrations::files(files.iter().copied()).unwrap()
}

pub(crate) fn store_of(migrations: Migrations) -> Store {
    Options::new().readers(2).migrations(migrations).open_temp().unwrap()
}

/// A store that has had the first of its migrations.
pub(crate) fn after_first<const N: usize>(list: [&'static str; N]) -> Store {
    let store = store_of(set(list));
    store.migrate_to(1).unwrap();
    store
}

/// Every object, every row, and the numbers in the header.
pub(crate) fn contents(store: &Store) -> Vec<String> {
    store
        .read(|tx| {
            let schema = "SELECT concat_ws('|', type, name, tbl_name, sql) FROM sqlite_schema ORDER BY rowid";
            let mut all: Vec<String> = tx.query_map(schema, [], |row| row.get(0))?;
            let numbers = "SELECT concat_ws('|', user_version, schema_version, application_id)
                           FROM pragma_user_version, pragma_schema_version, pragma_application_id";
            all.push(tx.query_row(numbers, [], |row| row.get(0))?);
            let tables = "SELECT name FROM sqlite_schema WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'";
            for table in tx.query_map(tables, [], |row| row.get::<_, String>(0))? {
                let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
                let columns = "SELECT name FROM pragma_table_xinfo(?1)";
                let columns = tx.query_map(columns, [&table], |row| row.get::<_, String>(0))?;
                let values: Vec<_> = columns
                    .iter()
                    .map(|column| format!("quote({})", quoted(column)))
                    .collect();
                let rows = format!(
                    "SELECT concat_ws(',', {}) FROM {} ORDER BY 1",
                    values.join(", "),
                    quoted(&table)
                );
                let rows = tx.query_map(&rows, [], |row| row.get::<_, String>(0))?;
                all.extend(rows.iter().map(|row| format!("{table}: {row}")));
            }
            Ok(all)
        })
        .unwrap()
}

/// The one number that a query gives.
pub(crate) fn number(store: &Store, sql: &str) -> i64 {
    store.read(|tx| tx.query_row(sql, [], |row| row.get(0))).unwrap()
}

pub(crate) fn numbers(store: &Store, sql: &str) -> Vec<i64> {
    store.read(|tx| tx.query_map(sql, [], |row| row.get(0))).unwrap()
}

pub(crate) fn texts(store: &Store, sql: &str) -> Vec<String> {
    store.read(|tx| tx.query_map(sql, [], |row| row.get(0))).unwrap()
}

pub(crate) fn pragma_of_writer(store: &Store, name: &'static str) -> i64 {
    let sql = format!("SELECT * FROM pragma_{name}");
    store.write(move |tx| tx.query_row(&sql, [], |row| row.get(0))).unwrap()
}

pub(crate) fn applied(store: &Store) -> Vec<u64> {
    let status = store.migrations().unwrap();
    status.applied.iter().map(|applied| applied.version).collect()
}

/// The names of the applied migrations.
pub(crate) fn names(store: &Store) -> Vec<String> {
    let status = store.migrations().unwrap();
    status.applied.into_iter().map(|applied| applied.name).collect()
}

pub(crate) fn pending(store: &Store) -> Vec<u64> {
    let status = store.migrations().unwrap();
    status.pending.iter().map(|pending| pending.version).collect()
}

pub(crate) fn steps(report: &MigrationReport) -> Vec<(u64, Direction)> {
    report.steps.iter().map(|step| (step.version, step.direction)).collect()
}

#[track_caller]
pub(crate) fn migration_error<T>(result: Result<T>) -> MigrationError {
    match result {
        Err(Error::Migration(error)) => *error,
        Err(other) => panic!("another error: {other:?}"),
        Ok(_) => panic!("it was accepted"),
    }
}

/// The message of a migration that failed by its own SQL, in a transaction.
#[track_caller]
pub(crate) fn rolled_back<T: std::fmt::Debug>(result: Result<T>) -> String {
    match result {
        Err(error @ Error::Migration(_)) => {
            assert_eq!(error.outcome(), Outcome::RolledBack, "{error}");
            assert!(!error.is_retryable());
            error.to_string()
        }
        other => panic!("{other:?}"),
    }
}

#[track_caller]
pub(crate) fn assert_has(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "no {part:?} in: {message}");
    }
}

/// Runs SQL on a database as another tool would, without larder.
pub(crate) fn made_by(path: impl AsRef<Path>, sql: &str) {
    let conn = Connection::open(path).unwrap();
    conn.execute_batch(sql).unwrap();
    conn.close().unwrap();
}

/// The record of Goose before its first migration.
pub(crate) const GOOSE_TABLE: &str = "
    CREATE TABLE goose_db_version(id INTEGER PRIMARY KEY AUTOINCREMENT, version_id INTEGER NOT NULL,
        is_applied INTEGER NOT NULL, tstamp TIMESTAMP DEFAULT (datetime('now')));
    INSERT INTO goose_db_version(version_id, is_applied) VALUES (0, 1);";

/// A parent with children of every kind of foreign key.
pub(crate) const FAMILY: &str = "
    CREATE TABLE parent(id INTEGER PRIMARY KEY, name TEXT) STRICT;
    CREATE TABLE cascading(id INTEGER PRIMARY KEY, p INTEGER REFERENCES parent(id) ON DELETE CASCADE) STRICT;
    CREATE TABLE nulling(id INTEGER PRIMARY KEY, p INTEGER REFERENCES parent(id) ON DELETE SET NULL) STRICT;
    CREATE TABLE strictly(id INTEGER PRIMARY KEY, p INTEGER REFERENCES parent(id) ON DELETE RESTRICT) STRICT;
    CREATE TABLE late(id INTEGER PRIMARY KEY, p INTEGER REFERENCES parent(id) DEFERRABLE INITIALLY DEFERRED) STRICT;
    INSERT INTO parent VALUES (1, 'a'), (2, 'b');
    INSERT INTO cascading SELECT id + 10, id FROM parent;
    INSERT INTO nulling SELECT id + 20, id FROM parent;
    INSERT INTO strictly SELECT id + 30, id FROM parent;
    INSERT INTO late SELECT id + 40, id FROM parent;";
