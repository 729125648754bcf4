//! A store that only reads: `Options::read_only(true)`.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use larder::rusqlite::Connection;
use larder::{Access, Durability, Error, Migration, MigrationError, Migrations, Options, ReadOnly, Role, Store};
use tempfile::{TempDir, tempdir};

use crate::support::child::{Child, Task, as_ordinary_user, listen, set_mode, tell, with_read_only_mount};
use crate::support::log::{collect, wait_for};
use crate::support::{count, keep_log, names_in, until};

const MODULE: &str = "store::read_only";

pub(crate) fn child(task: &Task) {
    let path = Path::new(&task.args[0]);
    match task.role.as_str() {
        // Writes what it is told to, without a checkpoint.
        "writes" => {
            let store = Options::new().checkpoint_pages(1_000_000).open(path).unwrap();
            // Nor with one when it is idle for a second.
            let _keeps_its_log = (task.args.len() > 1).then(|| keep_log(path));
            tell("open");
            while listen() == "write" {
                store.write(|tx| tx.execute("INSERT INTO t VALUES (1)", [])).unwrap();
                tell("written");
            }
            drop(store);
            tell("closed");
        }
        // Reads all that are named.
        "reads" => {
            for path in &task.args {
                tell(read(Path::new(path)));
            }
        }
        // Says why it cannot be opened.
        "tries" => {
            let opened = reader().busy_timeout(Duration::from_millis(20)).open(path);
            tell(opened.unwrap_err());
        }
        // Reads whenever it is told to.
        "goes on reading" => {
            let store = reader().open(path).unwrap();
            tell(format!("{:?}", store.stats().read_only.unwrap()));
            while listen() == "read" {
                match rows(&store) {
                    Ok(rows) => tell(rows),
                    Err(error) => tell(format!("{}: {error}", kind(&error))),
                }
            }
            store.close().unwrap();
        }
        other => panic!("{other}"),
    }
}

fn kind(error: &Error) -> &'static str {
    match error {
        Error::SnapshotChanged { .. } => "SnapshotChanged",
        Error::Open { .. } => "Open",
        _ => "another error",
    }
}

fn rows(store: &Store) -> larder::Result<i64> {
    store.read(|tx| tx.scalar("SELECT count(*) FROM t", []))
}

/// Uses a store as far as that writes nothing. What is seen, and how many rows.
fn read(path: &Path) -> String {
    let store = match reader().monitor_interval(Duration::from_millis(5)).open(path) {
        Ok(store) => store,
        Err(error) => return error.to_string(),
    };
    let rows = count(&store);
    // On every connection.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(count(&store), rows));
        }
    });
    assert!(store.check().run().unwrap().is_ok());
    let elsewhere = tempdir().unwrap();
    let report = store.backup(elsewhere.path().join("backup.db")).run().unwrap();
    assert!(report.check.unwrap().is_ok());
    assert!(matches!(
        store.write(|_| Ok(())),
        Err(Error::ReadOnly { call: "write", .. })
    ));
    #[cfg(feature = "async")]
    {
        let mut stream = store.read_stream::<(i64,)>("SELECT a FROM t", []);
        let mut streamed = 0;
        while let Some(row) = futures_executor::block_on(stream.next()) {
            row.unwrap();
            streamed += 1;
        }
        assert_eq!(streamed, rows);
    }
    let stats = store.stats();
    assert_eq!(stats.alerts, []);
    assert!(stats.database.pages > 0, "{stats:?}");
    assert!(store.advice().iter().all(|finding| finding.topic != "external_commits"));
    let report = store.close().unwrap();
    assert!(!report.wal_truncated && report.never_started == 0, "{report}");
    format!("{:?} {rows}", stats.read_only.unwrap())
}

fn reader() -> Options {
    Options::new().read_only(true)
}

/// A database with three rows, which is closed.
fn make(path: &Path) {
    make_with(Options::new(), path);
}

fn make_with(options: Options, path: &Path) {
    let store = options.open(path).unwrap();
    let sql = "CREATE TABLE t(a INTEGER NOT NULL) STRICT; INSERT INTO t VALUES (1), (2), (3)";
    store.write(move |tx| tx.execute_batch(sql)).unwrap();
    assert!(store.close().unwrap().wal_truncated);
}

/// A database with three rows, and two more in the WAL of a process that was killed.
fn make_killed(path: &Path) {
    make(path);
    let mut writer = Child::start(MODULE, "writes", &[path.to_str().unwrap(), "keeps its log"]);
    writer.expect("open");
    for _ in 0..2 {
        writer.say("write");
        writer.expect("written");
    }
    writer.kill();
    assert!(fs::metadata(beside(path, "-wal")).unwrap().len() > 0);
}

fn make_in_rollback_mode(path: &Path) {
    let conn = Connection::open(path).unwrap();
    conn.execute_batch("CREATE TABLE t(a INTEGER NOT NULL) STRICT; INSERT INTO t VALUES (1), (2), (3)")
        .unwrap();
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A file, and what a write would change of it.
#[derive(Debug, PartialEq)]
struct Seen {
    name: String,
    inode: u64,
    times: [i64; 4],
    bytes: Vec<u8>,
}

/// What is in a folder.
fn state(folder: &Path) -> Vec<Seen> {
    let of = |name: String| {
        let path = folder.join(&name);
        let file = fs::metadata(&path).unwrap();
        Seen {
            name,
            inode: file.ino(),
            times: [file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec()],
            bytes: fs::read(&path).unwrap(),
        }
    };
    names_in(folder).into_iter().map(of).collect()
}

#[track_caller]
fn problem(opened: larder::Result<Store>, path: &Path) -> String {
    match opened {
        Err(Error::Open {
            path: named, problem, ..
        }) => {
            assert_eq!(named, path);
            problem
        }
        other => panic!("{other:?}"),
    }
}

/// A database with three rows, in a folder of its own.
fn place() -> (TempDir, PathBuf) {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    make(&path);
    (folder, path)
}

#[test]
fn calls_that_write_are_refused_by_name() {
    let (folder, path) = place();
    let set = Migrations::new([Migration::new(1, "more", "CREATE TABLE more(a INTEGER) STRICT")]);
    let store = reader().migrations(set.at_open(false)).open(&path).unwrap();
    let refused = |call: &str, result: larder::Result<()>| match result.unwrap_err() {
        error @ Error::ReadOnly { .. } => {
            let wanted = format!(
                "{call} is refused, because {} was opened with Options::read_only(true): call it on a store without \
                 that option, in the process that owns the database",
                path.display()
            );
            assert_eq!(error.to_string(), wanted);
            assert_eq!(error.outcome(), larder::Outcome::NotStarted);
            assert!(!error.is_retryable());
        }
        other => panic!("{call}: {other:?}"),
    };
    refused("write", store.write(|_| Ok(())));
    refused("submit", store.submit(|_| Ok(())).map(drop));
    refused("transact", store.transact(|_| -> larder::Result<()> { Ok(()) }));
    refused("vacuum", store.vacuum().run().map(drop));
    refused("migrate", store.migrate().map(drop));
    refused("migrate", store.migrate_to(1).map(drop));
    let backups = tempdir().unwrap();
    let hour = Duration::from_secs(3600);
    refused("backup_every", store.backup_every(hour, 1, backups.path()).map(drop));
    refused("retain", store.retain("t", "at", hour).map(drop));
    // What reads goes on.
    assert_eq!(count(&store), 3);
    assert_eq!(
        store
            .query(|tx| -> larder::Result<i64> { tx.scalar("SELECT max(a) FROM t", []) })
            .unwrap(),
        3
    );
    assert_eq!(store.migrations().unwrap().pending.len(), 1);
    for on in [larder::DryRun::Schema, larder::DryRun::Backup] {
        assert_eq!(store.migrate_dry_run(on).unwrap().steps.len(), 1);
    }
    assert!(store.poisoned().is_none());
    let error = store
        .read(|tx| tx.execute("DELETE FROM t", []).map_err(Error::from))
        .unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    let report = store.close().unwrap();
    assert_eq!(
        report.wal_kept_because.as_deref(),
        Some("Options::read_only writes nothing, so the files are left as they are")
    );
    assert!(
        names_in(folder.path())
            .iter()
            .all(|name| ["app.db", "app.db-shm", "app.db-wal"].contains(&&**name))
    );
}

#[cfg(feature = "async")]
#[test]
fn async_calls_read_and_refuse_to_write() {
    let (_folder, path) = place();
    let store = reader().open(&path).unwrap();
    futures_executor::block_on(async {
        let rows: i64 = store
            .read_async(|tx| tx.scalar("SELECT count(*) FROM t", []))
            .await
            .unwrap();
        assert_eq!(rows, 3);
        let refused = store.write_async(|_| Ok(())).await;
        assert!(matches!(refused, Err(Error::ReadOnly { .. })), "{refused:?}");
        store.close_async().await.unwrap();
    });
}

#[test]
fn commits_of_another_process_are_seen() {
    let (_folder, path) = place();
    let mut writer = Child::start(MODULE, "writes", &[path.to_str().unwrap()]);
    writer.expect("open");
    let store = reader().monitor_interval(Duration::from_millis(5)).open(&path).unwrap();
    assert_eq!(store.stats().read_only, Some(ReadOnly::Live));
    for rows in 4..300 {
        writer.say("write");
        writer.expect("written");
        assert_eq!(count(&store), rows);
    }
    let stats = until(&store, |stats| stats.external_commits >= 100);
    assert_eq!(stats.alerts, []);
    assert!(store.advice().iter().all(|finding| finding.topic != "external_commits"));
    assert_eq!(writer.finish(), ["closed"]);
    assert_eq!(count(&store), 299);
    store.close().unwrap();
}

#[test]
fn log_of_killed_process_is_read_and_kept() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    make_killed(&path);
    let bytes = || (fs::read(&path).unwrap(), fs::read(beside(&path, "-wal")).unwrap());
    let before = bytes();
    assert_eq!(read(&path), "Live 5");
    assert!(bytes() == before);
    assert_eq!(names_in(folder.path()), ["app.db", "app.db-shm", "app.db-wal"]);
    // The next store that writes takes it over.
    let store = Store::open(&path).unwrap();
    assert_eq!(count(&store), 5);
    assert!(store.close().unwrap().wal_truncated);
}

/// Databases of each kind. What a store sees that may not write there.
fn databases(folder: &Path) -> Vec<(String, &'static str)> {
    let closed = |name: &str, page_size| {
        make_with(Options::new().page_size(page_size), &folder.join(name));
        (name.to_owned(), "Snapshot 3")
    };
    let mut all = vec![
        closed("closed ?#% ü.db", 4096),
        closed("small.db", 512),
        closed("large.db", 65_536),
    ];
    for (name, without, seen) in [
        ("killed.db", None, "Live 5"),
        ("copied ?#% ü.db", Some("-shm"), "SnapshotWithLog 5"),
        ("without log.db", Some("-wal"), "Snapshot 3"),
    ] {
        make_killed(&folder.join(name));
        if let Some(suffix) = without {
            fs::remove_file(beside(&folder.join(name), suffix)).unwrap();
        }
        all.push((name.to_owned(), seen));
    }
    make(&folder.join("empty log.db"));
    fs::write(folder.join("empty log.db-wal"), "").unwrap();
    all.push(("empty log.db".to_owned(), "SnapshotWithLog 3"));
    make_in_rollback_mode(&folder.join("rollback.db"));
    all.push(("rollback.db".to_owned(), "Live 3"));
    all
}

#[test]
fn databases_that_cannot_be_written_are_read() {
    let folder = tempdir().unwrap();
    let databases = databases(folder.path());
    let paths: Vec<_> = databases.iter().map(|(name, _)| folder.path().join(name)).collect();
    let args: Vec<_> = paths.iter().map(|path| path.to_str().unwrap()).collect();
    let check = |child: Child| {
        for (name, seen) in &databases {
            assert_eq!(child.line(), *seen, "{name}");
        }
        child.finish();
    };
    if let Some(command) = with_read_only_mount(folder.path()) {
        let before = state(folder.path());
        check(Child::start_by(command, MODULE, "reads", &args));
        assert!(state(folder.path()) == before, "{:?}", names_in(folder.path()));
    }
    let binary = tempdir().unwrap();
    if let Some(command) = as_ordinary_user(binary.path()) {
        for name in names_in(folder.path()) {
            set_mode(&folder.path().join(name), 0o444);
        }
        set_mode(folder.path(), 0o555);
        let before = state(folder.path());
        check(Child::start_by(command, MODULE, "reads", &args));
        assert!(state(folder.path()) == before, "{:?}", names_in(folder.path()));
        set_mode(folder.path(), 0o755);
    }
}

/// What SQLite would create there, the owner of the database might not be able to write.
#[test]
fn nothing_is_created_beside_a_file_of_others() {
    let (folder, path) = place();
    set_mode(&path, 0o444);
    set_mode(folder.path(), 0o777);
    let before = state(folder.path());
    let binary = tempdir().unwrap();
    let Some(command) = as_ordinary_user(binary.path()) else {
        return;
    };
    let child = Child::start_by(command, MODULE, "reads", &[path.to_str().unwrap()]);
    child.expect("Snapshot 3");
    child.finish();
    assert!(state(folder.path()) == before, "{:?}", names_in(folder.path()));
}

#[test]
fn change_of_a_snapshot_fails_its_reads() {
    for with_log in [false, true] {
        let folder = tempdir().unwrap();
        let path = folder.path().join("app.db");
        make_killed(&path);
        fs::remove_file(beside(&path, "-shm")).unwrap();
        if !with_log {
            fs::remove_file(beside(&path, "-wal")).unwrap();
        }
        for name in names_in(folder.path()) {
            set_mode(&folder.path().join(name), 0o644);
        }
        set_mode(folder.path(), 0o555);
        let binary = tempdir().unwrap();
        let Some(command) = as_ordinary_user(binary.path()) else {
            return;
        };
        let mut child = Child::start_by(command, MODULE, "goes on reading", &[path.to_str().unwrap()]);
        let (seen, rows) = if with_log {
            ("SnapshotWithLog", "5")
        } else {
            ("Snapshot", "3")
        };
        child.expect(seen);
        child.say("read");
        child.expect(rows);
        set_mode(folder.path(), 0o755);
        let store = Store::open(&path).unwrap();
        store.write(|tx| tx.execute("INSERT INTO t VALUES (7)", [])).unwrap();
        let mut refused = || {
            child.say("read");
            let line = child.line();
            assert!(
                line.starts_with("SnapshotChanged: ") && line.contains("was changed by another process"),
                "{line}"
            );
            assert!(line.ends_with("so what was read may be torn: open it again"), "{line}");
        };
        refused();
        // Also once the process that wrote has closed the file.
        store.close().unwrap();
        refused();
        child.say("end");
        child.finish();
    }
}

#[test]
fn log_beside_a_cut_file_is_kept() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    make_killed(&path);
    fs::write(&path, "").unwrap();
    let log = fs::read(beside(&path, "-wal")).unwrap();
    for options in [reader(), Options::new().create(false)] {
        let refused = problem(options.open(&path), &path);
        assert!(refused.contains("the -wal beside it has commits"), "{refused}");
        assert!(
            refused.contains("copy both files again, or restore a backup"),
            "{refused}"
        );
        assert!(fs::read(beside(&path, "-wal")).unwrap() == log);
    }
}

#[test]
fn replaced_file_has_to_be_opened_again() {
    let (folder, path) = place();
    let store = reader().open(&path).unwrap();
    assert_eq!(count(&store), 3);
    let new = folder.path().join("new.db");
    make(&new);
    fs::rename(&new, &path).unwrap();
    let refused = |wanted: &str| match rows(&store).unwrap_err() {
        Error::Open { problem, .. } => assert!(problem.contains(wanted), "{problem}"),
        other => panic!("{other:?}"),
    };
    refused("was replaced by another file while the store had it open: open the store again");
    fs::remove_file(&path).unwrap();
    refused("was deleted or renamed while the store had it open");
    store.close().unwrap();
}

#[test]
fn file_switched_to_wal_has_to_be_opened_again() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    make_in_rollback_mode(&path);
    let store = reader().open(&path).unwrap();
    assert_eq!(count(&store), 3);
    let conn = Connection::open(&path).unwrap();
    let switched = "PRAGMA journal_mode = WAL; INSERT INTO t VALUES (4)";
    conn.execute_batch(switched).unwrap();
    conn.close().unwrap();
    assert_eq!(names_in(folder.path()), ["app.db"]);
    match rows(&store).unwrap_err() {
        Error::Open { problem, .. } => assert!(problem.contains("has switched it to WAL"), "{problem}"),
        other => panic!("{other:?}"),
    }
    // SQLite would have created its files, as those of this process.
    assert_eq!(names_in(folder.path()), ["app.db"]);
    store.close().unwrap();
    drop(store);
    assert_eq!(count(&reader().open(&path).unwrap()), 4);
}

/// Its index is on its heap, so no `-shm` shows that it is there.
#[test]
fn exclusive_store_of_others_is_no_snapshot() {
    let (folder, path) = place();
    set_mode(&path, 0o644);
    set_mode(folder.path(), 0o777);
    let writer = Options::new().access(Access::Exclusive).open(&path).unwrap();
    writer.write(|tx| tx.execute("INSERT INTO t VALUES (4)", [])).unwrap();
    assert_eq!(names_in(folder.path()), ["app.db", "app.db-wal"]);
    let before = state(folder.path());
    let binary = tempdir().unwrap();
    let Some(command) = as_ordinary_user(binary.path()) else {
        return;
    };
    let child = Child::start_by(command, MODULE, "tries", &[path.to_str().unwrap()]);
    let refused = child.line();
    assert!(refused.contains("is locked by another process"), "{refused}");
    child.finish();
    assert!(state(folder.path()) == before, "{:?}", names_in(folder.path()));
    writer.close().unwrap();
}

#[test]
fn missing_file_is_refused_and_nothing_is_created() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app ?#% ü.db");
    let refused = problem(reader().open(&path), &path);
    assert!(
        refused.starts_with("it does not exist, and Options::read_only(true) creates no file: check the path"),
        "{refused}"
    );
    let inside = folder.path().join("none/app.db");
    assert!(problem(reader().open(&inside), &inside).contains("cannot be used"));
    let link = folder.path().join("link.db");
    symlink(&path, &link).unwrap();
    assert!(problem(reader().open(&link), &link).contains("symbolic link"));
    assert!(problem(reader().open(folder.path()), folder.path()).contains("folder"));
    let other = folder.path().join("other.db");
    fs::write(&other, "this is no database".repeat(100)).unwrap();
    assert!(problem(reader().open(&other), &other).contains("not an SQLite database"));
    assert_eq!(names_in(folder.path()), ["link.db", "other.db"]);
    fs::write(&path, "").unwrap();
    let store = reader().open(&path).unwrap();
    assert_eq!(
        store
            .read(|tx| tx.scalar::<i64>("SELECT count(*) FROM sqlite_schema", []))
            .unwrap(),
        0
    );
    store.close().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
}

#[test]
fn journal_of_killed_process_is_not_played_back() {
    let folder = tempdir().unwrap();
    let (original, path) = (folder.path().join("original.db"), folder.path().join("copy.db"));
    make_in_rollback_mode(&original);
    let conn = Connection::open(&original).unwrap();
    conn.execute_batch(
        "PRAGMA cache_size = 2; BEGIN;
         INSERT INTO t WITH RECURSIVE n(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < 50000) SELECT n FROM n",
    )
    .unwrap();
    for suffix in ["", "-journal"] {
        fs::copy(beside(&original, suffix), beside(&path, suffix)).unwrap();
    }
    // SQLite sets the owner of a journal that it opens, if it runs as root, which shows in a time of the file.
    let contents = || -> Vec<_> {
        let files = state(folder.path()).into_iter();
        files.map(|file| (file.name, file.bytes)).collect()
    };
    let before = contents();
    let refused = problem(reader().open(&path), &path);
    assert!(
        refused.contains("left a -journal, which must be played back"),
        "{refused}"
    );
    assert!(refused.contains("open it once to write"), "{refused}");
    assert!(contents() == before);
    // As the message says.
    let store = Store::open(&path).unwrap();
    assert_eq!(count(&store), 3);
    store.close().unwrap();
    drop(store);
    assert_eq!(read(&path), "Live 3");
}

#[test]
fn file_in_rollback_mode_stays_so() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    make_in_rollback_mode(&path);
    let before = state(folder.path());
    let store = reader().open(&path).unwrap();
    assert_eq!(count(&store), 3);
    assert!(state(folder.path()) == before);
    // Its locks are SQLite's: another connection writes between two reads.
    Connection::open(&path)
        .unwrap()
        .execute_batch("INSERT INTO t VALUES (4)")
        .unwrap();
    assert_eq!(count(&store), 4);
    store.close().unwrap();
    assert_eq!(names_in(folder.path()), ["app.db"]);
}

#[test]
fn pending_migration_is_named_at_opening() {
    let (_folder, path) = place();
    let one = || Migration::new(1, "add_a", "CREATE TABLE a(a INTEGER) STRICT");
    let two = || Migration::new(2, "add_b", "CREATE TABLE b(b INTEGER) STRICT");
    let both = || Migrations::new([one(), two()]);
    drop(Options::new().migrations(Migrations::new([one()])).open(&path).unwrap());
    let error = reader().migrations(both()).open(&path).unwrap_err();
    let Error::Migration(migration) = &error else {
        panic!("{error:?}")
    };
    assert!(
        matches!(
            **migration,
            MigrationError::Pending {
                version: 2,
                pending: 1,
                ..
            }
        ),
        "{error:?}"
    );
    let text = error.to_string();
    assert!(
        text.contains("add_b") && text.contains("is pending (1 in all)"),
        "{text}"
    );
    assert!(text.contains("Options::read_only(true) applies none"), "{text}");
    drop(reader().migrations(both().at_open(false)).open(&path).unwrap());
    drop(Options::new().migrations(both()).open(&path).unwrap());
    let store = reader().migrations(both()).open(&path).unwrap();
    assert!(store.migrations().unwrap().pending.is_empty());
    assert!(store.migrate().unwrap().steps.is_empty());
}

#[test]
fn options_that_write_are_refused_with_it() {
    let (_folder, path) = place();
    let refused = |result: larder::Result<Store>, named: &str| match result.unwrap_err() {
        Error::Options {
            option: "read_only",
            problem,
        } => assert!(problem.contains(named), "{problem}"),
        other => panic!("{other:?}"),
    };
    refused(reader().access(Access::Exclusive).open(&path), "Access::Exclusive");
    refused(
        reader().durability(Durability::Replicated).open(&path),
        "Durability::Replicated",
    );
    refused(reader().open_temp(), "temporary database");
    #[cfg(feature = "replicate")]
    {
        let folder = tempdir().unwrap();
        let replica = folder.path().join("replica");
        let replica = replica.to_str().unwrap();
        refused(reader().replicate_to(replica).open(&path), "replicate_to");
        let followed = reader().follow(replica, folder.path().join("copy.db"));
        assert!(
            matches!(
                followed,
                Err(Error::Options {
                    option: "read_only",
                    ..
                })
            ),
            "{followed:?}"
        );
        assert_eq!(names_in(folder.path()), Vec::<String>::new());
    }
}

#[test]
fn file_that_is_open_here_is_refused() {
    let (_folder, path) = place();
    let store = Store::open(&path).unwrap();
    assert!(matches!(reader().open(&path), Err(Error::AlreadyOpen { .. })));
    store.close().unwrap();
    let reading = reader().open(&path).unwrap();
    assert!(matches!(Store::open(&path), Err(Error::AlreadyOpen { .. })));
    assert!(matches!(reader().open(&path), Err(Error::AlreadyOpen { .. })));
    drop(reading);
    Store::open(&path)
        .unwrap()
        .write(|tx| tx.execute("INSERT INTO t VALUES (4)", []))
        .unwrap();
}

#[test]
fn on_connect_sees_readers_and_the_event_says_what_is_seen() {
    collect();
    let (_folder, path) = place();
    let store = reader()
        .on_connect(|_, role| {
            assert_eq!(role, Role::Reader);
            Ok(())
        })
        .open(&path)
        .unwrap();
    assert_eq!(count(&store), 3);
    let path = path.canonicalize().unwrap();
    let opened = wait_for(|event| {
        event.message == "store opened" && event.field("read_only").is_some() && event.mentions(path.to_str().unwrap())
    });
    assert_eq!(opened.expect("read_only"), "live");
    assert_eq!(opened.expect("journal_mode"), "wal");
}
