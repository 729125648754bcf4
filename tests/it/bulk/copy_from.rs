//! Rows of another database.

use std::fs;
use std::path::{Path, PathBuf};

use larder::rusqlite::Connection;
use larder::{Error, Store};
use tempfile::TempDir;

use crate::support::count;

const SELECT: &str = "SELECT id, text FROM part ORDER BY id";
const INSERT: &str = "INSERT INTO t(id, text) VALUES (?1, ?2)";

struct Place {
    folder: TempDir,
    store: Store,
}

impl Place {
    fn new() -> Self {
        let store = Store::open_temp().unwrap();
        store
            .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT"))
            .unwrap();
        Self {
            folder: tempfile::tempdir().unwrap(),
            store,
        }
    }

    /// A database with rows, set up by these PRAGMAs.
    fn part(&self, pragmas: &str, from: i64, to: i64) -> (PathBuf, Connection) {
        let path = self.folder.path().join(format!("part {from}.db"));
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch(pragmas).unwrap();
        conn.execute_batch(&format!(
            "CREATE TABLE part(id INTEGER PRIMARY KEY, text TEXT);
             WITH RECURSIVE i(i) AS (SELECT {from} UNION ALL SELECT i + 1 FROM i WHERE i + 1 < {to})
             INSERT INTO part SELECT i, 'Größe ' || i FROM i"
        ))
        .unwrap();
        (path, conn)
    }

    fn copy(&self, path: &Path) -> larder::Result<larder::BulkReport> {
        self.store.bulk().copy_from(path, SELECT, INSERT).run()
    }
}

#[test]
fn parts_of_any_kind_are_merged() {
    let place = Place::new();
    for (part, pragmas) in [
        "",
        "PRAGMA page_size = 512",
        "PRAGMA encoding = 'UTF-16le'",
        "PRAGMA journal_mode = WAL",
    ]
    .into_iter()
    .enumerate()
    {
        let from = part as i64 * 3000;
        // It stays open, as that of a program that uses it.
        let (path, _conn) = place.part(pragmas, from, from + 3000);
        assert_eq!(place.copy(&path).unwrap().rows, 3000, "{pragmas}");
    }
    assert_eq!(count(&place.store), 12_000);
    let last: String = place
        .store
        .read(|tx| tx.scalar("SELECT text FROM t WHERE id = 11999", []))
        .unwrap();
    assert_eq!(last, "Größe 11999");
}

#[test]
fn resumed_copy_goes_on() {
    let place = Place::new();
    let (path, conn) = place.part("", 0, 2000);
    let copy = || {
        place
            .store
            .bulk()
            .resumable("merge")
            .copy_from(&path, SELECT, INSERT)
            .run()
            .unwrap()
    };
    assert_eq!(copy().rows, 2000);
    conn.execute("INSERT INTO part VALUES (5000, 'one more')", []).unwrap();
    let report = copy();
    assert_eq!((report.resumed_from, report.rows), (2000, 1));
    assert_eq!(count(&place.store), 2001);
}

#[test]
fn parts_that_cannot_be_read_are_named() {
    let place = Place::new();
    let missing = place.folder.path().join("missing.db");
    let error = place.copy(&missing).unwrap_err().to_string();
    assert!(error.contains("missing.db"), "{error}");
    assert!(!missing.exists());
    let (path, _conn) = place.part("", 0, 10);
    let error = place
        .store
        .bulk()
        .copy_from(&path, "SELECT * FROM absent", INSERT)
        .run()
        .unwrap_err();
    assert!(
        error.to_string().contains("part 0.db") && error.to_string().contains("no such table: absent"),
        "{error}"
    );
    let text = place.folder.path().join("text.db");
    fs::write(&text, "no database".repeat(100)).unwrap();
    let error = place.copy(&text).unwrap_err();
    assert!(
        error.to_string().contains("text.db") && error.to_string().contains("not a database"),
        "{error}"
    );
    assert_eq!(count(&place.store), 0);
}

#[test]
fn damaged_part_keeps_the_rows_before_the_damage() {
    let place = Place::new();
    let (path, conn) = place.part("PRAGMA page_size = 512", 0, 20_000);
    conn.close().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 2048].fill(0xff);
    fs::write(&path, bytes).unwrap();
    let error = place.copy(&path).unwrap_err();
    let Error::Bulk { rows, .. } = error else {
        panic!("{error}")
    };
    assert!(
        error.to_string().contains("malformed") && error.to_string().contains("part 0.db"),
        "{error}"
    );
    assert_eq!(count(&place.store), rows as i64);
    assert!(place.store.check().run().unwrap().is_ok());
}
