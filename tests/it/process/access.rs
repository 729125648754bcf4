//! Access to the file by other processes: `Access::Shared`, `Access::Exclusive`, and recovery after a process is
//! killed.

use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;
use std::{fs, thread};

use larder::rusqlite::{self, Connection, ErrorCode};
use larder::{Access, Durability, Error, Options, Outcome, Store};
use tempfile::{TempDir, tempdir};

use crate::support::child::{self, Child, has_python, listen, tell};

pub(crate) fn child(task: &child::Task) {
    let path = &task.args[0];
    match task.role.as_str() {
        "read and write" => {
            let conn = Connection::open(path).unwrap();
            conn.busy_timeout(Duration::from_secs(task.args[1].parse().unwrap()))
                .unwrap();
            read_and_write(&conn);
        }
        "read and write by larder" => {
            let store = Store::open(path).unwrap();
            while listen() == "go on" {
                let n = store
                    .write(|tx| {
                        tx.execute("INSERT INTO t(who) VALUES ('child')", [])?;
                        tx.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0))
                    })
                    .unwrap();
                tell(n);
            }
            store.close().unwrap();
        }
        "hold open" => {
            let access = if task.args[1] == "exclusive" {
                Access::Exclusive
            } else {
                Access::Shared
            };
            let store = Options::new().access(access).open(path).unwrap();
            tell("open");
            for n in 0.. {
                if listen() != "go on" {
                    break;
                }
                let id = store
                    .write(move |tx| tx.insert("INSERT INTO t(who) VALUES (?1)", [n]))
                    .unwrap();
                tell(id);
            }
            store.close().unwrap();
        }
        "hold the write lock" => {
            let conn = Connection::open(path).unwrap();
            conn.execute_batch("BEGIN IMMEDIATE; INSERT INTO t(who) VALUES ('child')")
                .unwrap();
            tell("holding");
            listen();
            conn.execute_batch("COMMIT").unwrap();
            tell("released");
        }
        "write for ever" => {
            let durability = if task.args[1] == "full" {
                Durability::Full
            } else {
                Durability::Normal
            };
            // A small log and a large row, so that the kill also meets checkpoints and logs that start over.
            let store = Options::new()
                .durability(durability)
                .checkpoint_pages(20)
                .open(path)
                .unwrap();
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        loop {
                            let row = "INSERT INTO t(who) VALUES (randomblob(1000))";
                            let id = store.write(|tx| tx.insert(row, [])).unwrap();
                            tell(id);
                        }
                    });
                }
            });
        }
        "write, checkpoint and change the schema" => {
            let conn = Connection::open(path).unwrap();
            conn.busy_timeout(child::PATIENCE).unwrap();
            conn.execute_batch("PRAGMA synchronous = NORMAL").unwrap();
            for n in 0..200 {
                conn.execute("INSERT INTO t(who) VALUES ('child')", []).unwrap();
                if n % 20 == 10 {
                    // Whether it can finish or not: what matters is that it tries.
                    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
                        .unwrap();
                }
                if n % 50 == 25 {
                    conn.execute_batch(&format!(
                        "CREATE INDEX i{n} ON t(who); ALTER TABLE t ADD COLUMN c{n} TEXT"
                    ))
                    .unwrap();
                }
            }
            tell("done");
        }
        other => panic!("no role {other:?}"),
    }
}

/// Says which rows it sees, adds one, says how that went.
fn read_and_write(conn: &Connection) {
    let seen = conn.query_row("SELECT group_concat(who, ' ') FROM t", [], |row| {
        row.get::<_, String>(0)
    });
    tell(seen.unwrap_or_else(|e| e.to_string()));
    let wrote = conn.execute("INSERT INTO t(who) VALUES ('other')", []);
    tell(wrote.map_or_else(|e| e.to_string(), |_| "wrote".into()));
}

const READ_AND_WRITE_IN_PYTHON: &str = "
try:
    conn = sqlite3.connect(args[0], timeout=int(args[1]))
    tell(conn.execute(\"SELECT group_concat(who, ' ') FROM t\").fetchone()[0])
except sqlite3.OperationalError as e:
    tell(e)
try:
    conn.execute(\"INSERT INTO t(who) VALUES ('other')\")
    conn.commit()
    tell('wrote')
except sqlite3.OperationalError as e:
    tell(e)
";

/// A folder and the path of a database in it with an empty table `t`.
fn database() -> (TempDir, String) {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db").to_str().unwrap().to_owned();
    let store = Store::open(&path).unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, who ANY NOT NULL) STRICT"))
        .unwrap();
    store.close().unwrap();
    (folder, path)
}

fn patient_for_200_ms() -> Options {
    Options::new().busy_timeout(Duration::from_millis(200))
}

fn add(store: &Store, who: &'static str) -> larder::Result<i64> {
    store.write(move |tx| tx.insert("INSERT INTO t(who) VALUES (?1)", [who]))
}

fn everybody(store: &Store) -> Vec<String> {
    store
        .read(|tx| tx.query_map("SELECT who FROM t ORDER BY id", [], |row| row.get(0)))
        .unwrap()
}

fn count(store: &Store) -> i64 {
    store
        .read(|tx| tx.query_row("SELECT count(*) FROM t", [], |row| row.get(0)))
        .unwrap()
}

#[track_caller]
fn assert_in_use<T>(result: larder::Result<T>) {
    match result.map(drop) {
        Err(error @ Error::InUse { .. }) => {
            let message = error.to_string();
            assert!(
                message.contains("another process") && message.contains("try again"),
                "{message}"
            );
            assert!(error.is_retryable());
        }
        other => panic!("{other:?}"),
    }
}

// ---- shared ----

#[track_caller]
fn sees_and_adds_beside(store: &Store, other: impl Fn() -> Child) {
    add(store, "larder").unwrap();
    let child = other();
    child.expect("larder");
    child.expect("wrote");
    child.finish();
    assert_eq!(everybody(store), ["larder", "other"]);
    add(store, "larder").unwrap();
    let child = other();
    child.expect("larder other larder");
    child.expect("wrote");
    child.finish();
}

#[test]
fn python_reads_and_writes_beside_a_shared_store() {
    if !has_python() {
        return;
    }
    let (_folder, path) = database();
    let store = Store::open(&path).unwrap();
    sees_and_adds_beside(&store, || Child::python(READ_AND_WRITE_IN_PYTHON, &[&path, "60"]));
    assert!(store.close().unwrap().wal_truncated);
}

#[test]
fn another_process_works_beside_a_shared_store() {
    let (_folder, path) = database();
    let store = Store::open(&path).unwrap();
    sees_and_adds_beside(&store, || {
        Child::start("process::access", "read and write", &[&path, "60"])
    });
    assert!(store.close().unwrap().wal_truncated);
}

#[test]
fn stores_of_two_processes_see_each_others_rows() {
    let (_folder, path) = database();
    let store = Store::open(&path).unwrap();
    let mut child = Child::start("process::access", "read and write by larder", &[&path]);
    for round in 1..=20 {
        add(&store, "parent").unwrap();
        child.say("go on");
        child.expect(&(2 * round).to_string());
        assert_eq!(count(&store), 2 * round);
    }
    child.finish();
    // The child closed its store, which is not the last: the log must still be there for this one.
    add(&store, "parent").unwrap();
    assert_eq!(count(&store), 41);
}

#[test]
fn other_process_writing_and_altering_fails_no_call() {
    let (_folder, path) = database();
    let store = Options::new()
        .busy_timeout(child::PATIENCE)
        .checkpoint_pages(10)
        .open(&path)
        .unwrap();
    let child = Child::start("process::access", "write, checkpoint and change the schema", &[&path]);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..100 {
                    let id = add(&store, "larder").unwrap();
                    // Every column of a statement in the cache, however many there are by now.
                    let row = store
                        .read(|tx| tx.query_row("SELECT * FROM t WHERE id = ?1", [id], |row| row.get::<_, String>(1)));
                    assert_eq!(row.unwrap(), "larder");
                }
            });
        }
    });
    child.expect("done");
    child.finish();
    assert_eq!(count(&store), 500);
    let columns = store
        .read(|tx| Ok(tx.prepare("SELECT * FROM t")?.column_count()))
        .unwrap();
    assert_eq!(columns, 6);
    assert!(store.close().unwrap().wal_truncated);
}

// ---- exclusive ----

#[track_caller]
fn is_locked_out(child: Child) {
    for what in ["reading", "writing"] {
        let said = child.line();
        assert!(said.contains("database is locked"), "{what}: {said}");
    }
    child.finish();
}

#[test]
fn python_is_locked_out_of_an_exclusive_store() {
    if !has_python() {
        return;
    }
    let (_folder, path) = database();
    let store = Options::new().access(Access::Exclusive).open(&path).unwrap();
    add(&store, "larder").unwrap();
    is_locked_out(Child::python(READ_AND_WRITE_IN_PYTHON, &[&path, "0"]));
    assert_eq!(everybody(&store), ["larder"]);
}

#[test]
fn process_is_locked_out_until_exclusive_store_closes() {
    let (_folder, path) = database();
    let store = Options::new().access(Access::Exclusive).open(&path).unwrap();
    // From the start, before the first write, too.
    is_locked_out(Child::start("process::access", "read and write", &[&path, "0"]));
    add(&store, "larder").unwrap();
    is_locked_out(Child::start("process::access", "read and write", &[&path, "0"]));
    store.close().unwrap();
    let child = Child::start("process::access", "read and write", &[&path, "60"]);
    child.expect("larder");
    child.expect("wrote");
    child.finish();
}

#[test]
fn exclusive_store_has_no_shm_file() {
    let (old_folder, old) = database();
    let new_folder = tempdir().unwrap();
    let new = new_folder.path().join("app.db").to_str().unwrap().to_owned();
    for (folder, path) in [(&old_folder, old), (&new_folder, new)] {
        let store = Options::new().access(Access::Exclusive).open(&path).unwrap();
        store
            .write(|tx| tx.execute_batch("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, who)"))
            .unwrap();
        add(&store, "larder").unwrap();
        assert_eq!(count(&store), 1);
        let mut files: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|f| f.unwrap().file_name())
            .collect();
        files.sort();
        assert_eq!(files, ["app.db", "app.db-wal"]);
    }
}

#[test]
fn exclusive_stores_readers_see_every_acknowledged_write() {
    let (_folder, path) = database();
    let store = Options::new().access(Access::Exclusive).readers(4).open(&path).unwrap();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..2000 {
                    let id = add(&store, "larder").unwrap();
                    let seen = store
                        .read(|tx| tx.exists("SELECT 1 FROM t WHERE id = ?1", [id]))
                        .unwrap();
                    assert!(seen, "row {id} was acknowledged and is not there");
                }
            });
        }
    });
    assert_eq!(count(&store), 8000);
}

#[test]
fn exclusive_store_is_refused_while_file_is_open() {
    let (_folder, path) = database();
    let exclusive = || patient_for_200_ms().access(Access::Exclusive).open(&path);
    let mut child = Child::start("process::access", "hold open", &[&path, "shared"]);
    child.expect("open");
    assert_in_use(exclusive());
    child.say("go on");
    child.expect("1");
    assert_in_use(exclusive());
    child.finish();
    assert_eq!(count(&exclusive().unwrap()), 1);
}

#[test]
fn store_is_refused_while_process_holds_file_exclusively() {
    let (_folder, path) = database();
    let mut child = Child::start("process::access", "hold open", &[&path, "exclusive"]);
    child.expect("open");
    child.say("go on");
    child.expect("1");
    for access in [Access::Shared, Access::Exclusive] {
        assert_in_use(patient_for_200_ms().access(access).open(&path));
    }
    child.finish();
    for access in [Access::Shared, Access::Exclusive] {
        assert_eq!(count(&patient_for_200_ms().access(access).open(&path).unwrap()), 1);
    }
}

#[test]
fn writes_of_killed_exclusive_process_are_recovered() {
    for access in [Access::Shared, Access::Exclusive] {
        let (_folder, path) = database();
        let mut child = Child::start("process::access", "hold open", &[&path, "exclusive"]);
        child.expect("open");
        for n in 1..=50 {
            child.say("go on");
            child.expect(&n.to_string());
        }
        child.kill();
        assert!(log_size(&path) > 0, "the kill came too late to prove anything");
        let store = patient_for_200_ms().access(access).open(&path).unwrap();
        assert_eq!(count(&store), 50);
    }
}

// ---- a lock held elsewhere ----

#[test]
fn locked_write_is_not_started_and_reads_continue() {
    let (_folder, path) = database();
    let store = patient_for_200_ms().open(&path).unwrap();
    add(&store, "larder").unwrap();
    let child = Child::start("process::access", "hold the write lock", &[&path]);
    child.expect("holding");

    let (ran, has_run) = channel::<()>();
    let error = store
        .write(move |_tx| {
            ran.send(()).unwrap();
            Ok(())
        })
        .unwrap_err();
    assert!(has_run.recv().is_err(), "the closure was run");
    assert_eq!(
        error.sqlite().and_then(rusqlite::Error::sqlite_error_code),
        Some(ErrorCode::DatabaseBusy)
    );
    assert!(matches!(error, Error::Sqlite { .. }), "{error:?}");
    assert_eq!((error.outcome(), error.is_retryable()), (Outcome::NotStarted, true));
    assert!(error.to_string().contains("another process"), "{error}");
    assert_eq!(everybody(&store), ["larder"]);

    // Released while a write waits, and the write is made.
    thread::scope(|scope| {
        let patient = scope.spawn(|| {
            loop {
                match add(&store, "larder") {
                    Err(error) if error.is_retryable() => {}
                    other => break other,
                }
            }
        });
        child.finish();
        patient.join().unwrap().unwrap();
    });
    add(&store, "larder").unwrap();
    assert_eq!(everybody(&store), ["larder", "child", "larder", "larder"]);
}

#[test]
fn queued_writes_share_one_busy_timeout() {
    // Not one busy timeout after the other: sixteen of them would be more than anybody waits.
    let (_folder, path) = database();
    let store = Options::new().busy_timeout(Duration::from_secs(1)).open(&path).unwrap();
    let child = Child::start("process::access", "hold the write lock", &[&path]);
    child.expect("holding");
    let pending: Vec<_> = (0..16)
        .map(|_| {
            store
                .submit(|tx| tx.insert("INSERT INTO t(who) VALUES (1)", []))
                .unwrap()
        })
        .collect();
    let began = std::time::Instant::now();
    for write in pending {
        let error = write.wait().unwrap_err();
        assert_eq!(
            (error.outcome(), error.is_retryable()),
            (Outcome::NotStarted, true),
            "{error}"
        );
    }
    assert!(
        began.elapsed() < Duration::from_secs(12),
        "they waited one after the other"
    );
    child.finish();
    add(&store, "larder").unwrap();
    assert_eq!(everybody(&store), ["child", "larder"]);
}

// ---- SIGKILL ----

/// Kills a process that writes, after so many acknowledgements; every acknowledged row must be there.
fn kill_and_recover(path: &str, durability: &str, acknowledgements: usize) {
    let child = Child::start("process::access", "write for ever", &[path, durability]);
    let mut acknowledged: Vec<String> = (0..acknowledgements).map(|_| child.line()).collect();
    acknowledged.extend(child.kill());

    let store = Store::open(path).unwrap();
    for id in &acknowledged {
        let id: i64 = id.parse().unwrap();
        let there = store
            .read(|tx| tx.exists("SELECT 1 FROM t WHERE id = ?1", [id]))
            .unwrap();
        assert!(there, "row {id} was acknowledged and is lost");
    }
    let check: String = store
        .read(|tx| tx.query_row("PRAGMA integrity_check", [], |row| row.get(0)))
        .unwrap();
    assert_eq!(check, "ok");
    store.close().unwrap();
}

#[test]
fn killed_process_keeps_acknowledged_rows_at_normal() {
    let (_folder, path) = database();
    for acknowledgements in [1, 50, 120, 300] {
        kill_and_recover(&path, "normal", acknowledgements);
    }
}

#[test]
fn killed_process_keeps_acknowledged_rows_at_full() {
    let (_folder, path) = database();
    for acknowledgements in [1, 20, 60] {
        kill_and_recover(&path, "full", acknowledgements);
    }
}

/// Bytes in the log. Its metadata only: a descriptor of the database itself would cost a store its locks.
fn log_size(path: &str) -> u64 {
    fs::metadata(Path::new(&format!("{path}-wal"))).map_or(0, |log| log.len())
}
