//! Files of an open store that change from outside: a closed descriptor drops SQLite's locks, the database or its log
//! is replaced or removed, or the file is opened under a second name.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use larder::rusqlite::{Connection, ffi};
use larder::{Access, AlertKind, Durability, Error, Options, Outcome, Stats, Store, WriteOptions};
use tempfile::{TempDir, tempdir};

use crate::support::child::{self, Child, after_mounting, has_python, is_root, listen, skipped, tell};
use crate::support::{count, names_in, serious, until};

/// How often the watchdog looks.
const WATCH: Duration = Duration::from_millis(50);

pub(crate) fn child(task: &child::Task) {
    let path = Path::new(&task.args[0]);
    match task.role.as_str() {
        "write after a close" => write_after_a_close(path, &task.args[1], &task.args[2]),
        "write by a plain connection" => write_by_a_plain_connection(path),
        "write without a log" => write_without_a_log(path),
        "open" => match Options::new().allow_linked_file(task.args[1] == "allowed").open(path) {
            Ok(_) => tell("open"),
            Err(error) => tell(error),
        },
        role => panic!("{role}"),
    }
}

/// An argument of a child is not empty.
fn suffix_of(argument: &str) -> &str {
    argument.strip_prefix("app.db").unwrap()
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn database() -> (TempDir, PathBuf) {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    (folder, path)
}

fn watched() -> Options {
    Options::new().monitor_interval(WATCH)
}

fn open_with_table(path: &Path, options: Options) -> Store {
    let store = options.open(path).unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, who TEXT)"))
        .unwrap();
    store
}

fn add(store: &Store) -> larder::Result<i64> {
    store.write(|tx| tx.insert("INSERT INTO t(who) VALUES ('store')", []))
}

/// Another process looks at the database, as the `sqlite3` shell would, and closes it.
fn look_from_outside(path: &Path) -> String {
    let script = "
try:
    c = sqlite3.connect(args[0], timeout=0.2)
    tell(c.execute('SELECT count(*) FROM t').fetchone()[0])
    c.close()
except sqlite3.Error as e:
    tell(e)
";
    let child = Child::python(script, &[path.to_str().unwrap()]);
    let said = child.line();
    child.finish();
    said
}

fn rows_after_recovery(path: &Path) -> i64 {
    let conn = Connection::open(path).unwrap();
    let sound: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
    conn.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
}

fn poisoned(store: &Store, kind: AlertKind) -> Error {
    let alert = |stats: &Stats| stats.alerts.iter().any(|alert| alert.kind == kind);
    until(store, alert);
    store.poisoned().expect("the alert comes with the poison")
}

fn code_of(error: &Error) -> i32 {
    match error {
        Error::Poisoned { source } => source.sqlite_error().unwrap().extended_code,
        other => panic!("{other:?}"),
    }
}

// ---- descriptors that somebody closes ----

/// In the child: the service reads its own files, another process looks, then 100 writes are acknowledged.
fn write_after_a_close(path: &Path, access: &str, suffix: &str) {
    let access = match access {
        "exclusive" => Access::Exclusive,
        _ => Access::Shared,
    };
    // Without the watchdog: what is tried is that nothing is lost before it looks.
    let store = open_with_table(path, Options::new().access(access).monitor_interval(Duration::ZERO));
    add(&store).unwrap();
    drop(fs::read(beside(path, suffix_of(suffix))).unwrap());
    tell("closed");
    listen();
    for n in 0..100 {
        let full = WriteOptions::new().durability(Durability::Full);
        store
            .write_with(full, |tx| tx.insert("INSERT INTO t(who) VALUES ('store')", []))
            .unwrap();
        tell(n);
    }
    tell("written");
    listen();
}

#[track_caller]
fn nothing_is_lost_after_a_close(access: &str, closed: &str) {
    if !has_python() {
        return;
    }
    let (_folder, path) = database();
    let args = [path.to_str().unwrap(), access, closed];
    let mut child = Child::start("connection::file_changes", "write after a close", &args);
    child.expect("closed");
    let seen = look_from_outside(&path);
    child.say("go on");
    for n in 0..100 {
        child.expect(&n.to_string());
    }
    child.expect("written");
    let looked_again = look_from_outside(&path);
    child.kill();
    assert_eq!(rows_after_recovery(&path), 101);
    match access {
        "exclusive" => assert!(
            seen.contains("locked") && looked_again.contains("locked"),
            "{seen}, {looked_again}"
        ),
        _ => assert_eq!((seen.as_str(), looked_again.as_str()), ("1", "101")),
    }
}

/// The service read its database file (to hash or send it), which dropped SQLite's locks. The `sqlite3` shell then took
/// itself for the last connection and deleted the log: 100 writes with `Durability::Full` were acknowledged and lost.
#[test]
fn closed_database_descriptor_loses_no_write() {
    nothing_is_lost_after_a_close("shared", "app.db");
}

#[test]
fn closed_database_descriptor_keeps_exclusive_store_exclusive() {
    nothing_is_lost_after_a_close("exclusive", "app.db");
}

/// The same with a copy of the whole folder, which reads the `-shm`, too.
#[test]
fn closed_shm_descriptor_loses_no_write() {
    nothing_is_lost_after_a_close("shared", "app.db-shm");
}

/// A store that has closed must not have closed a descriptor of its own: the plain connection would lose its locks.
fn write_by_a_plain_connection(path: &Path) {
    let plain = Connection::open(path).unwrap();
    plain
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; PRAGMA synchronous = FULL;
             CREATE TABLE t(id INTEGER PRIMARY KEY, who TEXT); INSERT INTO t VALUES (NULL, 'plain')",
        )
        .unwrap();
    for _ in 0..3 {
        let store = Store::open(path).unwrap();
        assert_eq!(count(&store), 1);
        store.close().unwrap();
    }
    tell("closed");
    listen();
    for _ in 0..100 {
        plain.execute("INSERT INTO t VALUES (NULL, 'plain')", []).unwrap();
    }
    tell("written");
    listen();
}

#[test]
fn closed_store_leaves_other_connections_their_locks() {
    if !has_python() {
        return;
    }
    let (_folder, path) = database();
    let mut child = Child::start(
        "connection::file_changes",
        "write by a plain connection",
        &[path.to_str().unwrap()],
    );
    child.expect("closed");
    assert_eq!(look_from_outside(&path), "1");
    child.say("go on");
    child.expect("written");
    child.kill();
    assert_eq!(rows_after_recovery(&path), 101);
}

#[track_caller]
fn dropped_locks_are_noticed(access: Access, suffix: &str) {
    let (_folder, path) = database();
    let store = open_with_table(&path, watched().access(access));
    add(&store).unwrap();
    drop(File::open(beside(&path, suffix)).unwrap());

    let error = poisoned(&store, AlertKind::LocksDropped);
    assert_eq!(code_of(&error), ffi::SQLITE_READONLY_CANTLOCK);
    let message = error.to_string();
    assert!(
        message.contains("Store::backup") && message.contains("restart"),
        "{message}"
    );
    let refused = add(&store).unwrap_err();
    assert!(matches!(refused, Error::Poisoned { .. }), "{refused:?}");
    assert_eq!(refused.outcome(), Outcome::NotStarted);
    assert_eq!(count(&store), 1);
    store.close().unwrap();
    let store = Store::open(&path).unwrap();
    add(&store).unwrap();
    assert_eq!(count(&store), 2);
}

#[test]
fn dropped_locks_of_database_poison() {
    dropped_locks_are_noticed(Access::Shared, "");
}

#[test]
fn dropped_locks_of_shm_poison() {
    dropped_locks_are_noticed(Access::Shared, "-shm");
}

#[test]
fn dropped_locks_of_exclusive_store_poison() {
    dropped_locks_are_noticed(Access::Exclusive, "");
}

/// The kernel tells one holder of a lock. With another process beside it must be found out who the others are.
#[test]
fn dropped_locks_are_noticed_beside_another_process() {
    if !has_python() {
        return;
    }
    let (_folder, path) = database();
    let store = open_with_table(&path, watched());
    add(&store).unwrap();
    let script = "
c = sqlite3.connect(args[0])
tell(c.execute('SELECT count(*) FROM t').fetchone()[0])
listen()
";
    let other = Child::python(script, &[path.to_str().unwrap()]);
    other.expect("1");
    assert_eq!(serious(&store.stats()), []);
    drop(File::open(&path).unwrap());
    poisoned(&store, AlertKind::LocksDropped);
    other.finish();
}

/// A healthy store with neighbours of every kind: nothing is reported.
#[test]
fn held_locks_raise_no_alert() {
    let (_folder, path) = database();
    for access in [Access::Shared, Access::Exclusive] {
        let store = open_with_table(&path, watched().access(access));
        let looks = Instant::now() + 6 * WATCH;
        while Instant::now() < looks {
            add(&store).unwrap();
            count(&store);
            store.vacuum().run().unwrap();
        }
        assert!(
            store
                .stats()
                .alerts
                .iter()
                .all(|alert| alert.kind != AlertKind::LocksDropped)
        );
        assert!(store.poisoned().is_none());
        store.close().unwrap();
    }
}

#[test]
fn closed_stores_leave_one_descriptor_a_file() {
    let (folder, path) = database();
    let open = || {
        let in_folder =
            |entry: &fs::DirEntry| fs::read_link(entry.path()).is_ok_and(|to| to.starts_with(folder.path()));
        let all = fs::read_dir("/proc/self/fd").unwrap();
        all.filter(|entry| in_folder(entry.as_ref().unwrap())).count()
    };
    for _ in 0..10 {
        let store = open_with_table(&path, Options::new());
        store.close().unwrap();
    }
    // The database's, and that of the last `-shm`, which SQLite has removed.
    assert!(open() <= 2, "{}", open());
    // The last connection has removed the log: the locks were released in time.
    assert_eq!(names_in(folder.path()), ["app.db"]);
}

// ---- files that are moved, removed, replaced ----

/// Reads went by name to the new file, writes by descriptor to the old one, and a backup of the new one was "verified".
#[test]
fn replaced_database_is_noticed_and_never_read() {
    let (folder, path) = database();
    let store = open_with_table(&path, watched().readers(2));
    add(&store).unwrap();
    assert_eq!(count(&store), 1);
    let other = folder.path().join("other.db");
    let conn = Connection::open(&other).unwrap();
    conn.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, who TEXT); CREATE TABLE only_in_other(x)")
        .unwrap();
    drop(conn);
    fs::rename(&other, &path).unwrap();

    // Before the watchdog has looked, too.
    let backup = store.backup(folder.path().join("copy")).run();
    let error = backup.unwrap_err().to_string();
    assert!(
        error.contains("replaced") && !folder.path().join("copy").exists(),
        "{error}"
    );

    let error = poisoned(&store, AlertKind::FileMoved);
    assert_eq!(code_of(&error), ffi::SQLITE_READONLY_DBMOVED);
    let message = error.to_string();
    assert!(
        message.contains("app.db was replaced") && message.contains("restart"),
        "{message}"
    );
    assert!(matches!(add(&store).unwrap_err(), Error::Poisoned { .. }));
    assert_eq!(count(&store), 1);
    // The log of the old file must not be played into the new one.
    until(&store, |_| {
        fs::metadata(beside(&path, "-wal")).is_ok_and(|log| log.len() == 0)
    });
    drop(store);
    let store = Store::open(&path).unwrap();
    assert_eq!(count(&store), 0);
    assert!(store.check().full().run().unwrap().is_ok());
}

#[test]
fn removed_database_is_noticed() {
    for access in [Access::Shared, Access::Exclusive] {
        let (_folder, path) = database();
        let store = open_with_table(&path, watched().access(access));
        add(&store).unwrap();
        fs::remove_file(&path).unwrap();
        let message = poisoned(&store, AlertKind::FileMoved).to_string();
        assert!(message.contains("app.db was deleted"), "{message}");
        assert!(matches!(add(&store).unwrap_err(), Error::Poisoned { .. }));
    }
}

/// In the child: the log loses its name, the watchdog sees it, and the process is killed.
fn write_without_a_log(path: &Path) {
    let store = open_with_table(path, watched());
    for _ in 0..50 {
        add(&store).unwrap();
    }
    fs::remove_file(beside(path, "-wal")).unwrap();
    let mut acknowledged = 50;
    // Writes go on until the watchdog has looked.
    while add(&store).is_ok() {
        acknowledged += 1;
    }
    // What the log held is in the database file once the log has no byte.
    let open_files = fs::read_dir("/proc/self/fd").unwrap();
    let log = open_files
        .map(|entry| entry.unwrap().path())
        .find(|entry| fs::read_link(entry).is_ok_and(|to| to.to_string_lossy().ends_with("app.db-wal (deleted)")))
        .expect("SQLite has the log open");
    until(&store, |_| fs::metadata(&log).is_ok_and(|log| log.len() == 0));
    tell(acknowledged);
    listen();
}

/// Writes were acknowledged for as long as the process lived, into a log that no other process could find.
#[test]
fn removed_log_is_saved_and_poisons() {
    let (_folder, path) = database();
    let child = Child::start(
        "connection::file_changes",
        "write without a log",
        &[path.to_str().unwrap()],
    );
    let acknowledged: i64 = child.line().parse().unwrap();
    child.kill();
    assert!(acknowledged >= 50);
    // The write that the watchdog met in its COMMIT was told that its outcome is unknown.
    let rows = rows_after_recovery(&path);
    assert!(
        rows == acknowledged || rows == acknowledged + 1,
        "{rows}, {acknowledged} acknowledged"
    );
}

#[test]
fn removed_index_poisons() {
    let (_folder, path) = database();
    let store = open_with_table(&path, watched());
    fs::remove_file(beside(&path, "-shm")).unwrap();
    let message = poisoned(&store, AlertKind::FileMoved).to_string();
    assert!(message.contains("app.db-shm was deleted"), "{message}");
}

#[test]
fn changed_file_is_noticed_at_close() {
    let (_folder, path) = database();
    let store = open_with_table(&path, Options::new().monitor_interval(Duration::ZERO));
    add(&store).unwrap();
    fs::rename(&path, beside(&path, ".old")).unwrap();
    let report = store.close().unwrap();
    assert!(!report.wal_truncated, "{report}");
}

/// Two stores shared one log by name inside one process, where POSIX locks exclude nobody: every row was lost.
#[test]
fn second_store_at_the_same_path_is_refused() {
    for replace in [false, true] {
        let (folder, path) = database();
        let store = open_with_table(&path, Options::new().monitor_interval(Duration::ZERO));
        add(&store).unwrap();
        fs::rename(&path, folder.path().join("moved.db")).unwrap();
        if replace {
            drop(Connection::open(&path).unwrap().execute_batch("CREATE TABLE t(id)"));
        }
        let names = names_in(folder.path());
        let second = Store::open(&path).unwrap_err();
        assert!(matches!(second, Error::AlreadyOpen { .. }), "{second:?}");
        // The refusal has made no file.
        assert_eq!(names_in(folder.path()), names);
        // By its new name it is still the file of the store.
        let moved = Store::open(folder.path().join("moved.db")).unwrap_err();
        assert!(matches!(moved, Error::AlreadyOpen { .. }), "{moved:?}");
        drop(store);
        Store::open(&path).unwrap();
    }
}

/// With the pool on the old file and the freshness check on the new one, reads were older than acknowledged writes.
#[test]
fn restore_over_open_store_is_refused() {
    let (folder, path) = database();
    let store = open_with_table(&path, Options::new().monitor_interval(Duration::ZERO));
    add(&store).unwrap();
    let backup = folder.path().join("backup");
    store.backup(&backup).run().unwrap();
    let away = folder.path().join("away");
    fs::create_dir(&away).unwrap();
    for suffix in ["", "-wal", "-shm"] {
        let name = beside(&path, suffix);
        fs::rename(&name, away.join(name.file_name().unwrap())).unwrap();
    }
    let refused = Store::restore(&backup, &path).unwrap_err();
    assert!(matches!(refused, Error::AlreadyOpen { .. }), "{refused:?}");
    assert!(!path.exists());
    // A backup to that path is refused as well.
    assert!(store.backup(&path).run().is_err());
    assert!(!path.exists());
}

/// A read outlived the store. The file was opened again as `Shared`, and other processes stayed locked out.
#[test]
fn other_access_waits_for_leftover_read_to_end() {
    if !has_python() {
        return;
    }
    let (_folder, path) = database();
    let store = open_with_table(&path, Options::new().access(Access::Exclusive));
    add(&store).unwrap();
    let reader = store.clone();
    let (let_go, told) = channel::<()>();
    let (running, runs) = channel();
    let read = thread::spawn(move || {
        reader.read(|tx| {
            tx.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0))?;
            running.send(()).unwrap();
            let _ = told.recv();
            Ok(())
        })
    });
    runs.recv().unwrap();
    store.close_within(Duration::from_millis(1)).unwrap();
    let shared = || Options::new().busy_timeout(Duration::from_millis(50)).open(&path);
    let refused = shared().unwrap_err();
    assert!(matches!(refused, Error::AlreadyOpen { .. }), "{refused:?}");
    drop(let_go);
    read.join().unwrap().unwrap();
    // It was left 1 ms. This waits for its end.
    store.close_within(child::PATIENCE).unwrap();
    let store = shared().unwrap();
    assert_eq!(look_from_outside(&path), "1");
    store.close().unwrap();
}

// ---- one file, two places for its log ----

#[test]
fn hard_linked_file_is_refused_by_each_name() {
    let (folder, path) = database();
    drop(open_with_table(&path, Options::new()));
    let link = folder.path().join("link.db");
    fs::hard_link(&path, &link).unwrap();
    for name in [&path, &link] {
        let error = Store::open(name).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, Error::Open { .. }), "{error:?}");
        assert!(
            message.contains("2 names") && message.contains("allow_linked_file"),
            "{message}"
        );
    }
    assert_eq!(names_in(folder.path()), ["app.db", "link.db"]);
    drop(Options::new().allow_linked_file(true).open(&link).unwrap());
    fs::remove_file(&link).unwrap();
    Store::open(&path).unwrap();
}

#[test]
fn file_mounted_without_its_folder_is_refused() {
    if !is_root() {
        return skipped("only root can mount a file");
    }
    let (folder, path) = database();
    drop(open_with_table(&path, Options::new()));
    let inside = folder.path().join("inside");
    fs::create_dir(&inside).unwrap();
    let mounted = inside.join("app.db");
    fs::write(&mounted, "").unwrap();
    let mount = format!("mount --bind '{}' '{}'", path.display(), mounted.display());
    let open = |allowed: &str| {
        let command = after_mounting(&mount)?;
        let args = [mounted.to_str().unwrap(), allowed];
        let child = Child::start_by(command, "connection::file_changes", "open", &args);
        let line = child.line();
        child.finish();
        Some(line)
    };
    let Some(refused) = open("refused") else { return };
    assert!(
        refused.contains("mounted") && refused.contains("folder instead"),
        "{refused}"
    );
    assert_eq!(open("allowed").as_deref(), Some("open"));
}

// ---- names ----

/// A name of 248 bytes was told that the disk had failed it before.
#[test]
fn name_too_long_for_sidecars_is_explained() {
    let folder = tempdir().unwrap();
    for length in [246, 247, 248, 255] {
        let path = folder.path().join("n".repeat(length));
        let opened = Store::open(&path);
        if length == 246 {
            opened.unwrap();
            continue;
        }
        let message = opened.unwrap_err().to_string();
        assert!(
            message.contains(&format!("{length} bytes")) && message.contains("246"),
            "{message}"
        );
        assert!(!path.exists());
    }
}

#[test]
fn created_file_keeps_its_mode() {
    let (_folder, path) = database();
    drop(Store::open(&path).unwrap());
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
}
