//! Errors of SQLite that have several causes: the message names the one that it was.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use larder::rusqlite::{Connection, ffi};
use larder::{AlertKind, Error, Migration, Migrations, Options, Store, WriteTx};
use tempfile::{TempDir, tempdir};

use crate::support::child::{Child, PATIENCE, Task, after_mounting, as_ordinary_user, listen, set_mode, tell};

const MODULE: &str = "connection::causes";

pub(crate) fn child(task: &Task) {
    let path = Path::new(&task.args[0]);
    match task.role.as_str() {
        "open" => tell(opened(path)),
        "open without descriptors" => without_descriptors(path),
        "fill the disk" => fill_the_disk(path),
        role => panic!("{role}"),
    }
}

/// The error of opening the file, in one line, or what else it came to.
fn opened(path: &Path) -> String {
    match Store::open(path) {
        Ok(_) => "opened".to_owned(),
        Err(error @ Error::Open { .. }) => error.to_string().replace('\n', " "),
        Err(error) => format!("{error:?}"),
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[track_caller]
fn assert_says(message: &str, wanted: &[&str]) {
    for wanted in wanted {
        assert!(message.contains(wanted), "{wanted}: {message}");
    }
}

/// Whether the file, its `-wal` or its `-shm` is the reason.
#[track_caller]
fn assert_names(message: &str, name: &str) {
    for other in ["the file (", "its -wal (", "its -shm (", "its folder"] {
        let named = message.contains(other);
        assert_eq!(named, other.starts_with(name), "{other}: {message}");
    }
}

// ---- CANTOPEN, READONLY ----

/// A database in a folder for anybody, open in this process: with a `-wal` and a `-shm`.
struct Shared {
    _folder: TempDir,
    path: PathBuf,
    _store: Store,
}

impl Shared {
    fn new() -> Self {
        let folder = tempdir().unwrap();
        set_mode(folder.path(), 0o777);
        let path = folder.path().join("app.db");
        let store = Store::open(&path).unwrap();
        store.write(|tx| tx.execute_batch("CREATE TABLE t(x)")).unwrap();
        for suffix in ["", "-wal", "-shm"] {
            set_mode(&beside(&path, suffix), 0o666);
        }
        Self {
            _folder: folder,
            path,
            _store: store,
        }
    }

    /// What an ordinary user is told who opens it.
    fn opened(&self) -> Option<String> {
        let binary = tempdir().unwrap();
        let command = as_ordinary_user(binary.path())?;
        let child = Child::start_by(command, MODULE, "open", &[self.path.to_str().unwrap()]);
        let line = child.line();
        child.finish();
        Some(line)
    }
}

#[test]
fn file_that_may_not_be_used_is_named() {
    let shared = Shared::new();
    let Some(line) = shared.opened() else { return };
    assert_eq!(line, "opened");
    for (suffix, name) in [("", "the file ("), ("-wal", "its -wal ("), ("-shm", "its -shm (")] {
        for (mode, verb) in [(0o444, "may not write"), (0o000, "may not read")] {
            let file = beside(&shared.path, suffix);
            set_mode(&file, mode);
            let message = shared.opened().unwrap();
            set_mode(&file, 0o666);
            assert_names(&message, name);
            let mode = format!("has mode {mode:o}");
            assert_says(&message, &[verb, "permission denied", "check owner and mode", &mode]);
        }
    }
    assert_eq!(shared.opened().unwrap(), "opened");
}

#[test]
fn folder_that_may_not_be_written_is_named() {
    let folder = tempdir().unwrap();
    let (inner, binary) = (folder.path().join("inner"), tempdir().unwrap());
    fs::create_dir(&inner).unwrap();
    set_mode(folder.path(), 0o755);
    let path = inner.join("app.db");
    Store::open(&path).unwrap().close().unwrap();
    set_mode(&path, 0o666);
    set_mode(&inner, 0o555);
    let Some(command) = as_ordinary_user(binary.path()) else {
        return;
    };
    let child = Child::start_by(command, MODULE, "open", &[path.to_str().unwrap()]);
    let message = child.line();
    child.finish();
    set_mode(&inner, 0o755);
    assert_names(&message, "its folder");
    assert_says(&message, &["may not create files", "check owner and mode"]);
}

#[test]
fn link_or_folder_as_log_is_named() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    Store::open(&path).unwrap().close().unwrap();
    let log = beside(&path, "-wal");
    fs::create_dir(&log).unwrap();
    assert_says(&opened(&path), &["its -wal is not a regular file"]);
    fs::remove_dir(&log).unwrap();
    std::os::unix::fs::symlink("elsewhere", &log).unwrap();
    assert_says(&opened(&path), &["its -wal is a symbolic link"]);
    fs::remove_file(&log).unwrap();
    assert_eq!(opened(&path), "opened");
}

/// A path of so many bytes, whose folder exists.
fn long_path(folder: &TempDir, length: usize) -> PathBuf {
    let mut path = folder.path().canonicalize().unwrap();
    while length - path.as_os_str().len() > 200 {
        path.push("f".repeat(100));
    }
    fs::create_dir_all(&path).unwrap();
    let name = length - path.as_os_str().len() - 1;
    path.join("n".repeat(name))
}

#[test]
fn path_that_is_too_long_is_named() {
    let folder = tempdir().unwrap();
    let fits = long_path(&folder, 504);
    let store = Store::open(&fits).unwrap();
    let too_long = long_path(&folder, 505);
    assert_says(&opened(&too_long), &["has 505 bytes", "at most 504", "a shorter path"]);
    // A copy lies in a folder of its own, whose name makes the path longer.
    let deep = long_path(&folder, 480);
    fs::create_dir(&deep).unwrap();
    let backup = store.backup(deep.join("copy")).run().unwrap_err().to_string();
    assert_says(&backup, &["at most 504", "a shorter path"]);
    assert!(!backup.contains("is the disk full?"), "{backup}");
}

fn without_descriptors(path: &Path) {
    let store = Store::open(path.with_file_name("open.db")).unwrap();
    let mut taken = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        taken.push(file);
    }
    tell(opened(path));
    tell(opened(&path.with_file_name("new.db")));
    let backup = store.backup(path.with_file_name("copy")).run();
    tell(backup.unwrap_err().to_string());
    drop(taken);
    tell(opened(path));
    listen();
}

#[test]
fn lack_of_descriptors_is_named() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    Store::open(&path).unwrap().close().unwrap();
    let child = Child::start_in_shell(
        "ulimit -n 64",
        MODULE,
        "open without descriptors",
        &[path.to_str().unwrap()],
    );
    for _ in 0..3 {
        let message = child.line();
        assert_says(&message, &["ulimit -n"]);
        assert!(!message.contains("owner") && !message.contains("disk"), "{message}");
    }
    assert_eq!(child.line(), "opened");
    child.finish();
}

// ---- FULL ----

const SPACE: &str = "size=1536k";

#[test]
fn full_disk_is_named_with_what_is_left() {
    let folder = tempdir().unwrap();
    let disk = folder.path().to_str().unwrap();
    let mount = format!("mount -t tmpfs -o {SPACE} larder '{disk}'");
    let Some(command) = after_mounting(&mount) else {
        return;
    };
    let child = Child::start_by(command, MODULE, "fill the disk", &[&format!("{disk}/app.db")]);
    for _ in 0..2 {
        let message = child.line();
        assert_says(&message, &["the disk of", disk, "bytes left", "free disk space"]);
        assert!(!message.contains("max_page_count"), "{message}");
    }
    child.expect("alert");
    child.finish();
}

fn fill_the_disk(path: &Path) {
    let store = Options::new()
        .monitor_interval(Duration::from_millis(1))
        .open(path)
        .unwrap();
    store.write(|tx| tx.execute_batch("CREATE TABLE t(x)")).unwrap();
    let large = "INSERT INTO t VALUES (randomblob(8000000))";
    tell(store.write(|tx| tx.execute(large, [])).unwrap_err());
    tell(store.write(|tx| Ok(Connection::execute(tx, large, [])?)).unwrap_err());
    let give_up = Instant::now() + PATIENCE;
    while !alerts(&store).contains(&AlertKind::DiskFull) {
        assert!(Instant::now() < give_up);
    }
    tell("alert");
    listen();
}

fn alerts(store: &Store) -> Vec<AlertKind> {
    store.stats().alerts.into_iter().map(|alert| alert.kind).collect()
}

const LAST_ID: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT);
    INSERT INTO t VALUES (9223372036854775807);
    CREATE TABLE other(x)";

/// With a read that is soon too old: an alert of a look after what went before.
fn watched() -> Store {
    let options = Options::new()
        .monitor_interval(Duration::from_millis(1))
        .max_reader_age(Duration::from_millis(1));
    options.open_temp().unwrap()
}

#[track_caller]
fn assert_no_disk_alert(store: &Store) {
    store
        .read(|_| {
            let give_up = Instant::now() + PATIENCE;
            while !alerts(store).contains(&AlertKind::OldRead) {
                assert!(Instant::now() < give_up);
            }
            Ok(())
        })
        .unwrap();
    assert!(
        !alerts(store).contains(&AlertKind::DiskFull),
        "{:?}",
        store.stats().alerts
    );
    assert!(store.advice().iter().all(|finding| !finding.message.contains("disk")));
}

/// It was "free disk space", with a critical alert.
#[test]
fn last_autoincrement_id_is_not_a_full_disk() {
    const INSERT: &str = "INSERT INTO t DEFAULT VALUES";
    let ways: [fn(&WriteTx<'_>) -> larder::Result<()>; 5] = [
        |tx| tx.execute(INSERT, []).map(drop),
        |tx| tx.insert(INSERT, []).map(drop),
        |tx| tx.execute_batch(INSERT),
        |tx| Ok(Connection::execute_batch(tx, INSERT)?),
        |tx| tx.savepoint(|tx| Ok(Connection::execute_batch(tx, INSERT)?)),
    ];
    let store = watched();
    store.write(|tx| tx.execute_batch(LAST_ID)).unwrap();
    for way in ways {
        let error = store.write(way).unwrap_err();
        let code = error.sqlite().and_then(|error| error.sqlite_extended_error_code());
        assert_eq!(code, Some(ffi::SQLITE_FULL), "{error:?}");
        let message = error.to_string();
        assert_says(
            &message,
            &["AUTOINCREMENT table t", "9223372036854775807", "sqlite_sequence"],
        );
        assert!(!message.contains("disk space"), "{message}");
    }
    assert_no_disk_alert(&store);
    // What the message says helps.
    let mend = "DELETE FROM t WHERE id = 9223372036854775807;
        UPDATE sqlite_sequence SET seq = (SELECT coalesce(max(id), 0) FROM t) WHERE name = 't'";
    store.write(|tx| tx.execute_batch(mend)).unwrap();
    assert_eq!(store.write(|tx| tx.insert(INSERT, [])).unwrap(), 1);
}

/// No table says so any more, once the transaction is rolled back.
#[test]
fn last_id_of_lost_transaction_is_no_full_disk() {
    let store = watched();
    let seed = "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO t DEFAULT VALUES";
    store.write(move |tx| tx.execute_batch(seed)).unwrap();
    let both = "INSERT INTO t VALUES (9223372036854775807); INSERT INTO t DEFAULT VALUES";
    let error = store.write(move |tx| tx.execute_batch(both)).unwrap_err();
    assert_says(&error.to_string(), &["AUTOINCREMENT table"]);
    assert_no_disk_alert(&store);
}

#[test]
fn migration_says_why_a_table_is_full() {
    let list = [
        Migration::new(1, "t", LAST_ID),
        Migration::new(2, "more", "INSERT INTO t DEFAULT VALUES"),
    ];
    let error = Options::new()
        .migrations(Migrations::new(list))
        .open_temp()
        .unwrap_err();
    assert_says(&error.to_string(), &["AUTOINCREMENT table t", "sqlite_sequence"]);
}

#[test]
fn limit_of_pages_is_not_a_full_disk() {
    let limited = Options::new().on_connect(|conn, _| {
        conn.query_row("PRAGMA max_page_count = 50", [], |_| Ok(()))?;
        Ok(())
    });
    let store = limited.open_temp().unwrap();
    store.write(|tx| tx.execute_batch("CREATE TABLE t(x)")).unwrap();
    let large = "INSERT INTO t VALUES (randomblob(1000000))";
    let message = store.write(|tx| tx.execute(large, [])).unwrap_err().to_string();
    assert_says(&message, &["may have 50 pages", "raise PRAGMA max_page_count"]);
}

#[test]
fn vacuum_in_a_closure_names_the_methods() {
    let store = Store::open_temp().unwrap();
    let into = tempdir().unwrap();
    let into = format!("VACUUM INTO '{}'", into.path().join("copy").display());
    for sql in ["VACUUM".to_owned(), "VACUUM main".to_owned(), into] {
        let (write, read) = (sql.clone(), sql);
        for error in [
            store.write(move |tx| tx.execute_batch(&write)).unwrap_err(),
            store.read(|tx| Ok(Connection::execute_batch(tx, &read)?)).unwrap_err(),
        ] {
            assert!(matches!(error, Error::Refused { .. }), "{error:?}");
            assert_says(&error.to_string(), &["Store::vacuum", "Store::backup_compact"]);
        }
    }
}
