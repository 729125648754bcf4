//! Rows of another database.

use std::fs;
use std::path::{Path, PathBuf};

use larder::rusqlite::Connection;
use larder::{Error, Store};
use tempfile::TempDir;

use crate::support::child::{Child, PATIENCE, has_python};
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
        "PRAGMA page_size = 65536",
        "PRAGMA encoding = 'UTF-16le'",
        "PRAGMA encoding = 'UTF-16be'; PRAGMA page_size = 1024; PRAGMA journal_mode = WAL",
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
    assert_eq!(count(&place.store), 18_000);
    let wrong: i64 = place
        .store
        .read(|tx| tx.scalar("SELECT count(*) FROM t WHERE text <> 'Größe ' || id", []))
        .unwrap();
    assert_eq!(wrong, 0);
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

#[test]
fn part_that_is_the_store_or_in_use_is_refused_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("app.db");
    let store = Store::open(&own).unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT"))
        .unwrap();
    let link = folder.path().join("link.db");
    std::os::unix::fs::symlink(&own, &link).unwrap();
    for path in [&own, &link] {
        let error = store
            .bulk()
            .copy_from(path, "SELECT * FROM t", INSERT)
            .run()
            .unwrap_err();
        assert!(error.to_string().contains("the file of this store"), "{error}");
    }
    store.close().unwrap();

    let place = Place::new();
    let (path, conn) = place.part("", 0, 10);
    conn.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let options = larder::Options::new().busy_timeout(std::time::Duration::from_millis(10));
    let store = options.open_temp().unwrap();
    let error = store.bulk().copy_from(&path, SELECT, INSERT).run().unwrap_err();
    assert!(
        error.to_string().contains("locked") && error.to_string().contains("part 0.db"),
        "{error}"
    );
    let folder = place.folder.path();
    let error = store.bulk().copy_from(folder, SELECT, INSERT).run().unwrap_err();
    assert!(error.to_string().contains(&folder.display().to_string()), "{error}");
    conn.execute_batch("ROLLBACK").unwrap();
    assert_eq!(place.copy(&path).unwrap().rows, 10);
}

/// Another process adds pairs of rows, each in a transaction. One snapshot has whole pairs, whatever is added meanwhile.
#[test]
fn part_that_another_process_writes_is_one_snapshot() {
    if !has_python() {
        return;
    }
    for journal in ["wal", "delete"] {
        let place = Place::new();
        let (path, conn) = place.part(&format!("PRAGMA journal_mode = {journal}"), 0, 20_000);
        conn.close().unwrap();
        let script = "
import time
conn = sqlite3.connect(args[0], timeout=60, isolation_level=None)
conn.execute('PRAGMA synchronous = OFF')
n = 20000
while True:
    conn.execute('BEGIN IMMEDIATE')
    conn.executemany('INSERT INTO part VALUES (?, ?)', [(n, 'one'), (n + 1, 'two')])
    conn.execute('COMMIT')
    n += 2
    if n == 20010: tell('writing')
    time.sleep(0.001)
";
        let writer = Child::python(script, &[path.to_str().unwrap()]);
        writer.expect("writing");
        let mut last = 0;
        for _ in 0..5 {
            let select = "SELECT id + 1000000000 * (SELECT count(*) FROM part), text FROM part";
            let report = place.store.bulk().copy_from(&path, select, INSERT).run().unwrap();
            assert!(
                report.rows.is_multiple_of(2) && report.rows > last,
                "{journal}: {report}"
            );
            // The whole statement has seen one state.
            let sql = "SELECT count(*) FROM t WHERE id / 1000000000 <> ?1";
            let others = report.rows.cast_signed();
            let (all, of_others): (i64, i64) = place
                .store
                .read(|tx| Ok((tx.scalar("SELECT count(*) FROM t", [])?, tx.scalar(sql, [others])?)))
                .unwrap();
            assert_eq!((all, of_others), (others, 0), "{journal}");
            place.store.write(|tx| tx.execute("DELETE FROM t", [])).unwrap();
            last = report.rows;
            // It goes on writing between two copies.
            let size = || {
                let conn = Connection::open(&path).unwrap();
                conn.busy_timeout(PATIENCE).unwrap();
                let count = conn.query_row("SELECT count(*) FROM part", [], |row| row.get::<_, i64>(0));
                count.unwrap().unsigned_abs()
            };
            while size() <= last {
                std::thread::yield_now();
            }
        }
        writer.kill();
    }
}

/// The lock of a writer in another process, which does not end.
#[test]
fn part_that_another_process_locks_is_named() {
    if !has_python() {
        return;
    }
    let place = Place::new();
    let (path, conn) = place.part("", 0, 10);
    conn.close().unwrap();
    let script = "
conn = sqlite3.connect(args[0], isolation_level=None)
conn.execute('BEGIN EXCLUSIVE')
tell('locked')
listen()
";
    let writer = Child::python(script, &[path.to_str().unwrap()]);
    writer.expect("locked");
    let options = larder::Options::new().busy_timeout(std::time::Duration::from_millis(10));
    let store = options.open_temp().unwrap();
    let error = store.bulk().copy_from(&path, SELECT, INSERT).run().unwrap_err();
    assert!(
        error.to_string().contains("locked") && error.to_string().contains("part 0.db"),
        "{error}"
    );
    writer.kill();
    // The kernel has dropped its locks.
    assert_eq!(place.copy(&path).unwrap().rows, 10);
}

/// The rows of a batch differ in size.
#[test]
fn bytes_are_those_of_each_row() {
    let place = Place::new();
    let (path, conn) = place.part("", 0, 1);
    conn.execute_batch(
        "DELETE FROM part;
         WITH RECURSIVE i(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < 3000)
         INSERT INTO part SELECT i, printf('%.*c', i % 97, 'x') FROM i",
    )
    .unwrap();
    let report = place.copy(&path).unwrap();
    let bytes: i64 = conn
        .query_row("SELECT sum(8 + length(text)) FROM part", [], |row| row.get(0))
        .unwrap();
    assert_eq!(report.bytes, bytes.unsigned_abs());

    let keyed = "CREATE TABLE keyed(key TEXT PRIMARY KEY, n INTEGER) STRICT, WITHOUT ROWID;
                 INSERT INTO keyed SELECT printf('%d%.*c', id, id % 97, 'x'), id FROM t";
    place.store.write(move |tx| tx.execute_batch(keyed)).unwrap();
    let bytes: i64 = place
        .store
        .read(|tx| tx.scalar("SELECT sum(8 + length(key)) FROM keyed", []))
        .unwrap();
    // The value of the condition, and the key.
    let report = place.store.bulk().delete("keyed", "n > ?1", (0,)).run().unwrap();
    assert_eq!((report.rows, report.bytes), (3000, bytes.unsigned_abs()));
}

#[test]
fn text_that_is_no_utf8_is_copied_as_it_is() {
    let place = Place::new();
    let (path, conn) = place.part("", 0, 1);
    conn.execute("INSERT INTO part VALUES (7, CAST(X'61FF62' AS TEXT))", [])
        .unwrap();
    assert_eq!(place.copy(&path).unwrap().rows, 2);
    let hex: String = place
        .store
        .read(|tx| tx.scalar("SELECT hex(text) FROM t WHERE id = 7", []))
        .unwrap();
    assert_eq!(hex, "61FF62");
}

/// A query that gives no row for hours does not keep a job that is cancelled.
#[test]
fn query_without_rows_is_interrupted_by_the_end_of_its_job() {
    let place = Place::new();
    let (path, conn) = place.part("", 0, 10);
    let endless = "WITH RECURSIVE i(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i)
                   SELECT i, i FROM i WHERE i < (SELECT min(id) FROM part)";
    let report = place
        .store
        .bulk()
        .progress(|_| std::ops::ControlFlow::Break(()))
        .copy_from(&path, endless, INSERT)
        .run()
        .unwrap();
    assert!(report.cancelled && report.rows == 0, "{report:?}");
    // The query reads this file, and so locks it, until it is stopped.
    conn.busy_timeout(PATIENCE).unwrap();
    conn.execute("DELETE FROM part", []).unwrap();
}
