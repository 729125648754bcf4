//! Pages that are used twice. SQLite's own check does not look for them if the schema begins with a view, as it puts it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use larder::rusqlite::Connection;
use larder::{CheckReport, Error, Options, RestoreOptions, Store};
use tempfile::{TempDir, tempdir};

use crate::support::names_in;

const PAGE: u64 = 4096;

/// A table with several leaves, and another one that has left free pages.
const FILL: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, data BLOB NOT NULL);
    CREATE TABLE gone(id INTEGER PRIMARY KEY, data BLOB NOT NULL);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
    INSERT INTO t SELECT i, randomblob(200) FROM n;
    INSERT INTO gone SELECT * FROM t;
    DROP TABLE gone;";

/// What is newest in the schema, and may hide the rest from SQLite. The last one hides nothing.
const NEWEST: [&str; 4] = [
    "CREATE VIEW v AS SELECT id FROM t",
    "CREATE VIRTUAL TABLE pages USING dbstat",
    "CREATE VIEW v AS SELECT id FROM t; CREATE TRIGGER g INSTEAD OF INSERT ON v BEGIN SELECT 1; END;
     CREATE VIRTUAL TABLE words USING fts5(text); CREATE VIEW w AS SELECT * FROM words",
    "CREATE TABLE u(id INTEGER PRIMARY KEY)",
];

/// How a page of the table gets onto the freelist.
#[derive(Clone, Copy, Debug)]
enum Damage {
    /// In addition to the free pages.
    Added,
    /// In place of a free page, which is lost. All sums stay.
    Swapped,
}

fn made_by(auto_vacuum: u32, newest: &str) -> (TempDir, PathBuf) {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch(&format!("PRAGMA auto_vacuum = {auto_vacuum}; {FILL} {newest}"))
        .unwrap();
    conn.close().unwrap();
    (folder, path)
}

fn number_at(file: &File, at: u64) -> u32 {
    let mut bytes = [0; 4];
    file.read_exact_at(&mut bytes, at).unwrap();
    u32::from_be_bytes(bytes)
}

/// Puts a leaf of the table on the freelist: <https://sqlite.org/fileformat2.html#the_freelist>.
fn damage(path: &Path, how: Damage) {
    let conn = Connection::open(path).unwrap();
    let leaf: u32 = conn
        .query_row(
            "SELECT max(pageno) FROM dbstat WHERE name = 't' AND pagetype = 'leaf'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    conn.close().unwrap();
    let file = File::options().read(true).write(true).open(path).unwrap();
    let trunk = u64::from(number_at(&file, 32) - 1) * PAGE;
    let leaves = number_at(&file, trunk + 4);
    assert!(leaves > 1, "{leaves}");
    let write = |number: u32, at| file.write_all_at(&number.to_be_bytes(), at).unwrap();
    match how {
        Damage::Swapped => write(leaf, trunk + 8),
        Damage::Added => {
            write(leaf, trunk + 8 + u64::from(leaves) * 4);
            write(leaves + 1, trunk + 4);
            write(number_at(&file, 36) + 1, 36);
        }
    }
}

fn check_of(path: &Path, full: bool, options: Options) -> CheckReport {
    let store = options.open(path).unwrap();
    let check = store.check();
    if full { check.full() } else { check }.run().unwrap()
}

/// A cache that is smaller than the database.
fn small_cache() -> Options {
    Options::new().cache_size(16 << 10)
}

/// The freelist was not looked at where the newest object of the schema had no root page. The check said that all was
/// well, a backup was "verified", and the next rows overwrote others.
#[test]
fn page_both_used_and_free_is_found() {
    for newest in NEWEST {
        for how in [Damage::Added, Damage::Swapped] {
            for auto_vacuum in [0, 2] {
                for full in [false, true] {
                    let (_folder, path) = made_by(auto_vacuum, newest);
                    damage(&path, how);
                    let report = check_of(&path, full, Options::new());
                    assert!(report.is_damaged(), "{newest} {how:?} {auto_vacuum} {full}: {report:?}");
                    assert!(!report.is_ok());
                }
            }
        }
    }
}

#[test]
fn backup_of_page_used_twice_fails() {
    for newest in NEWEST {
        for how in [Damage::Added, Damage::Swapped] {
            let (folder, path) = made_by(0, newest);
            damage(&path, how);
            let store = Store::open(&path).unwrap();
            let copies = tempdir().unwrap();
            for backup in [
                store.backup(copies.path().join("plain")),
                store.backup(copies.path().join("sum")).checksum(true),
            ] {
                let error = backup.run().unwrap_err();
                assert!(
                    error.to_string().contains("the database is damaged"),
                    "{newest} {how:?}: {error}"
                );
            }
            assert_eq!(names_in(copies.path()), [""; 0]);
            drop(store);
            let error = Store::restore(&path, folder.path().join("restored.db")).unwrap_err();
            assert!(matches!(error, Error::Restore { .. }), "{error:?}");
            assert!(
                error.to_string().contains("the backup is damaged"),
                "{newest} {how:?}: {error}"
            );
            assert_eq!(names_in(folder.path()), ["app.db"]);
        }
    }
}

/// A database that is larger than the memory for it: its pages are counted, and the report says what that cannot tell.
#[test]
fn large_database_is_counted_or_not_checked() {
    for newest in &NEWEST[..3] {
        for auto_vacuum in [0, 2] {
            let (_folder, path) = made_by(auto_vacuum, newest);
            let sound = check_of(&path, true, small_cache());
            assert!(sound.is_ok(), "{newest}: {sound:?}");
            let is_hidden = *newest != NEWEST[2];
            let all_is_checked = auto_vacuum == 2 || !is_hidden;
            assert_eq!(sound.not_checked.is_empty(), all_is_checked, "{newest}: {sound:?}");
            assert_eq!(
                sound.to_string().contains("; not checked: "),
                !all_is_checked,
                "{sound}"
            );
            for how in [Damage::Added, Damage::Swapped] {
                let (_folder, path) = made_by(auto_vacuum, newest);
                damage(&path, how);
                let report = check_of(&path, true, small_cache());
                let told = report.is_damaged() || !report.not_checked.is_empty();
                assert!(told, "{newest} {how:?} {auto_vacuum}: {report:?}");
                if auto_vacuum == 2 || matches!(how, Damage::Added) {
                    assert!(report.is_damaged(), "{newest} {how:?} {auto_vacuum}: {report:?}");
                }
            }
        }
    }
}

#[test]
fn sound_database_with_any_newest_object_is_ok() {
    for newest in NEWEST {
        for auto_vacuum in [0, 1, 2] {
            let (folder, path) = made_by(auto_vacuum, newest);
            for full in [false, true] {
                let report = check_of(&path, full, Options::new());
                assert!(report.is_ok() && report.not_checked.is_empty(), "{newest}: {report:?}");
            }
            let store = Store::open(&path).unwrap();
            let made = store.backup(folder.path().join("copy")).checksum(true).run().unwrap();
            let check = made.check.as_ref().unwrap();
            assert!(check.is_ok() && check.not_checked.is_empty(), "{newest}: {made:?}");
            let restored = Store::restore(folder.path().join("copy"), folder.path().join("restored")).unwrap();
            assert_eq!(Some(restored.checksum), made.checksum);
            // The check has changed nothing in the copy.
            let copy = Connection::open(folder.path().join("copy")).unwrap();
            let objects = |conn: &Connection| -> Vec<(String, String)> {
                let mut statement = conn
                    .prepare("SELECT name, sql FROM sqlite_schema WHERE sql NOT NULL")
                    .unwrap();
                let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
                rows.collect::<Result<_, _>>().unwrap()
            };
            let original = Connection::open(&path).unwrap();
            assert_eq!(objects(&copy), objects(&original));
        }
    }
}

/// What is left of the only backup there is.
#[test]
fn damaged_backup_is_restored_if_not_verified() {
    let (folder, path) = made_by(0, NEWEST[0]);
    damage(&path, Damage::Swapped);
    let unverified = || RestoreOptions::new().verify(false);
    let report = Store::restore_with(unverified(), &path, folder.path().join("a")).unwrap();
    assert!(
        !report.verified && report.rows == 0 && report.checksum.is_empty(),
        "{report:?}"
    );
    assert!(report.to_string().contains("not verified"), "{report}");
    let restored = Connection::open(folder.path().join("a")).unwrap();
    let rows: i64 = restored
        .query_row("SELECT count(*) FROM t", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 300);
    // One page of nonsense: the damage is in the report.
    let nonsense = File::options().write(true).open(&path).unwrap();
    nonsense.write_all_at(&[0xff; 64], 3 * PAGE).unwrap();
    let report = Store::restore_with(unverified(), &path, folder.path().join("b")).unwrap();
    assert!(report.check.is_damaged() && !report.verified, "{report:?}");
    assert!(report.to_string().contains("problems, the first: "), "{report}");
    // Cut short, and with a schema that cannot be read.
    let length = fs::metadata(&path).unwrap().len();
    nonsense.set_len(length / PAGE / 2 * PAGE).unwrap();
    let report = Store::restore_with(unverified(), &path, folder.path().join("c")).unwrap();
    assert!(report.check.is_damaged(), "{report:?}");
    assert_eq!(report.bytes(), length / PAGE / 2 * PAGE);
    let (_folder, path) = made_by(
        0,
        "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = 'CREATE TABEL t' WHERE name = 't'",
    );
    Store::restore(&path, folder.path().join("d")).unwrap_err();
    let report = Store::restore_with(unverified(), &path, folder.path().join("d")).unwrap();
    assert!(report.check.is_damaged(), "{report:?}");
    assert_eq!(names_in(folder.path()), ["a", "app.db", "b", "c", "d"]);
}
