//! A store on a file that may be damaged, with all operations of a service.
//!
//! SQLite decides how it treats damage. larder must ensure:
//! - each call returns, and an error has a message and an outcome;
//! - a write whose outcome is *rolled back* or *not started* left nothing;
//! - a backup that reports success opens alone and is sound; a failed one leaves its target unchanged, and no other
//!   file;
//! - the same for a restored database.

use std::fs;
use std::path::Path;
use std::time::Duration;

use arbitrary::Arbitrary;
use larder::rusqlite::ErrorCode;
use larder::rusqlite::types::ValueRef;
use larder::{
    Backup, DryRun, Error, Migration, Migrations, Options, Outcome, ReadTx, Result, Store, WriteOptions, WriteTx,
};

use crate::{sound, told};

/// Time limit for a damaged schema's triggers and views.
const LIMIT: Duration = Duration::from_secs(2);

/// Rows that are read per table: enough to reach its later pages.
const ROWS: usize = 500;

/// The operations besides reads and writes, which always run.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Tasks {
    pub check: bool,
    pub full_check: bool,
    pub advice: bool,
    pub backup: bool,
    pub compact: bool,
    pub restore: bool,
    pub vacuum: bool,
    pub migrate: bool,
    pub dry_run: bool,
}

/// The migrations of a program that has applied the first one already.
pub fn migrations() -> Migrations {
    Migrations::new([
        Migration::new(1, "made", "CREATE TABLE made(id INTEGER PRIMARY KEY, text TEXT) STRICT")
            .down("DROP TABLE made"),
        Migration::new(2, "more", "ALTER TABLE made ADD COLUMN more TEXT").down("ALTER TABLE made DROP COLUMN more"),
    ])
    .at_open(false)
}

/// Runs all operations, and closes the store.
pub fn exercise(store: &Store, folder: &Path, tasks: Tasks) {
    read(store);
    write(store, 1);
    if tasks.migrate {
        migrate(store, tasks.dry_run);
    }
    if tasks.check {
        judge(store.check().run().map(|report| report.to_string()));
    }
    if tasks.full_check {
        judge(store.check().full().run().map(|report| report.to_string()));
    }
    if tasks.backup {
        back_up(|to| store.backup(to), &folder.join("backup"));
    }
    if tasks.compact {
        back_up(|to| store.backup_compact(to), &folder.join("compact"));
    }
    if tasks.vacuum {
        judge(store.vacuum().run().map(|report| report.to_string()));
    }
    if tasks.advice {
        for finding in store.advice() {
            assert!(!finding.to_string().is_empty());
        }
    }
    write(store, 2);
    read(store);
    assert!(!format!("{:?}", store.stats()).is_empty());
    if tasks.restore {
        restore(store.path(), &folder.join("restored"));
    }
    let report = store.close().expect("nobody is inside a closure");
    assert_eq!(report.never_started, 0, "{report}");
}

fn judge<T>(result: Result<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            refuse_wrong_errors(&error);
            told(&error);
            None
        }
    }
}

/// Fails for an error that has no cause here: no other process has the file, every call is permitted, and the disk is
/// sound.
pub fn refuse_wrong_errors(error: &Error) {
    let wrong = matches!(
        error,
        Error::Options { .. }
            | Error::AlreadyOpen { .. }
            | Error::InUse { .. }
            | Error::UnsupportedFilesystem { .. }
            | Error::SqliteTooOld { .. }
            | Error::QueueFull { .. }
            | Error::QueueTimeout { .. }
            | Error::ReadQueueTimeout { .. }
            | Error::Reentrant { .. }
            | Error::Cancelled { .. }
            | Error::Closed
            | Error::App(_)
    );
    let busy = error.sqlite().and_then(|error| error.sqlite_error_code()) == Some(ErrorCode::DatabaseBusy);
    assert!(!wrong && !busy, "not an error of the file: {error:?}");
}

// ---- reads and writes ----

fn read(store: &Store) {
    let Some(tables) = judge(store.read(tables)) else {
        return;
    };
    for table in tables {
        judge(store.read(|tx| read_table(tx, &table)));
    }
}

/// The tables. Names may not be UTF-8. Views are left out, because they may be anything, even infinite.
fn tables(tx: &ReadTx<'_>) -> Result<Vec<String>> {
    let sql = "SELECT CAST(name AS BLOB) FROM sqlite_schema WHERE type = 'table' LIMIT 50";
    tx.query_map(sql, [], |row| {
        Ok(String::from_utf8_lossy(bytes(row.get_ref(0)?)).into_owned())
    })
}

fn read_table(tx: &ReadTx<'_>, table: &str) -> Result<usize> {
    let sql = format!("SELECT * FROM \"{}\" LIMIT {ROWS}", table.replace('"', "\"\""));
    let mut length = 0;
    let mut statement = tx.prepare(&sql)?;
    let columns = statement.column_count();
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        for column in 0..columns {
            length += bytes(row.get_ref(column)?).len();
        }
    }
    Ok(length)
}

fn bytes(value: ValueRef<'_>) -> &[u8] {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes,
        _ => &[],
    }
}

/// Several writes. Each inserts a mark first, so that there is something to undo if the rest fails.
fn write(store: &Store, round: u32) {
    const WRITES: &[&str] = &[
        "INSERT INTO item(name, size, note) VALUES ('new', 7, hex(zeroblob(900)))",
        "UPDATE item SET size = size + 1",
        "DELETE FROM item WHERE id % 3 = 0",
        "INSERT OR REPLACE INTO pair VALUES ('a', 1, 'x'), ('zz', 2, 'y')",
        "INSERT INTO child(item) SELECT min(id) FROM item",
        "INSERT INTO words(text) VALUES ('a few more words')",
        "DELETE FROM words WHERE words MATCH 'word5'",
        "CREATE TABLE IF NOT EXISTS fresh(id INTEGER PRIMARY KEY, x) STRICT; DROP TABLE IF EXISTS fresh",
        "CREATE TABLE fresh2(id INTEGER PRIMARY KEY, x ANY) STRICT; INSERT INTO fresh2(x) SELECT id FROM item; DROP TABLE fresh2",
    ];
    for (number, sql) in WRITES.iter().enumerate() {
        let mark = format!("mark {round}.{number}");
        let job = {
            let mark = mark.clone();
            move |tx: &WriteTx<'_>| {
                tx.execute("INSERT INTO mark(text) VALUES (?1)", [&mark])?;
                tx.execute_batch(sql)
            }
        };
        let Err(error) = store.write_with(WriteOptions::new().execution_timeout(LIMIT), job) else {
            continue;
        };
        refuse_wrong_errors(&error);
        if matches!(told(&error), Outcome::RolledBack | Outcome::NotStarted) {
            let left = store.read(|tx| tx.exists("SELECT 1 FROM mark WHERE text = ?1", [&mark]));
            assert!(!matches!(left, Ok(true)), "{sql} failed and left its mark: {error:?}");
        }
    }
}

fn migrate(store: &Store, dry: bool) {
    let before = judge(store.migrations());
    if dry {
        judge(store.migrate_dry_run(DryRun::Schema));
        judge(store.migrate_dry_run(DryRun::Backup));
        let after = judge(store.migrations());
        assert!(
            before.is_none() || after.is_none() || before == after,
            "a dry run was none"
        );
    }
    judge(store.migrate());
    judge(store.migrate_to(0));
}

// ---- copies ----

/// Backs up twice: to a new name, and over a file.
fn back_up<'s>(begin: impl Fn(&Path) -> Backup<'s>, to: &Path) {
    let before = names(to);
    let made = judge(begin(to).timeout(LIMIT).run());
    judge_copy(made.map(|report| report.is_verified()), to, None, before);
    let there = b"what was there".to_vec();
    fs::write(to, &there).expect("a file can be written");
    let before = names(to);
    let refused = begin(to).timeout(LIMIT).run().expect_err("there is a file");
    told(&refused);
    assert_eq!(
        fs::read(to).ok().as_ref(),
        Some(&there),
        "it was overwritten without being asked to"
    );
    let made = judge(begin(to).overwrite(true).timeout(LIMIT).run());
    judge_copy(made.map(|report| report.is_verified()), to, Some(there), before);
    let _ = fs::remove_file(to);
}

fn restore(from: &Path, to: &Path) {
    let before = names(to);
    // There is no reader here whose limit would apply: views and triggers are not run.
    let made = judge(Options::new().cache_size(256 << 10).restore(from, to));
    judge_copy(made.map(|_| true), to, None, before);
    if to.exists() {
        drop(judge(Store::open(to)).expect("what was restored opens"));
    }
}

/// Checks a copy. `made` tells whether it was verified, if it was made; `there` is the previous file, and `before` the
/// names beside it.
fn judge_copy(made: Option<bool>, to: &Path, there: Option<Vec<u8>>, before: Vec<String>) {
    match made {
        Some(verified) => {
            assert!(verified, "it says that it has not looked");
            if let Err(problem) = sound(to) {
                panic!("a copy that was verified is not sound: {problem}");
            }
        }
        None => {
            assert_eq!(fs::read(to).ok(), there, "it failed, and its target is not as it was");
            assert_eq!(names(to), before, "it failed, and left something behind");
        }
    }
}

/// The names in the file's folder.
fn names(file: &Path) -> Vec<String> {
    let folder = file.parent().expect("a file is in a folder");
    let entries = fs::read_dir(folder).expect("the folder can be read");
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
