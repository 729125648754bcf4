//! `Store::vacuum`: frees space and keeps the data; a failure leaves the database unchanged.

use std::fs;
use std::io::Write as _;
use std::ops::ControlFlow::{Break, Continue};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use larder::rusqlite::{Connection, ErrorCode, ffi::SQLITE_IOERR_WRITE};
use larder::{Access, AutoVacuum, Error, Migration, Migrations, Options, Outcome, Result, Role, Store};
use tempfile::{TempDir, tempdir};

use crate::support::child::{self, Child, after_mounting, is_root, skipped, succeeds, tell};
use crate::support::count;

/// In blocks of 512 bytes, or of 1024 where the shell is bash: a limit of 256 KiB or 512 KiB for each file.
const FILE_LIMIT: &str = "trap '' XFSZ; ulimit -f 512";

/// 4000 rows of some 300 bytes; then every second is deleted.
const FILL: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, data BLOB NOT NULL);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000)
    INSERT INTO t SELECT i, 'name ' || i, randomblob(300) FROM n;";
const THIN_OUT: &str = "DELETE FROM t WHERE id % 2 = 0 OR id > 3000";
const LEFT: i64 = 1500;

fn fill(store: &Store) {
    store.write(|tx| tx.execute_batch(FILL)).unwrap();
    store.write(|tx| tx.execute_batch(THIN_OUT)).unwrap();
}

fn filled(options: Options) -> Store {
    let store = options.open_temp().unwrap();
    fill(&store);
    store
}

fn contents(store: &Store) -> Vec<(i64, String, Vec<u8>)> {
    let row = |row: &larder::rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    store.read(|tx| tx.query_map("SELECT * FROM t", [], row)).unwrap()
}

fn pragma(store: &Store, name: &'static str) -> String {
    let sql = format!("SELECT CAST(\"{name}\" AS TEXT) FROM pragma_{name}");
    store.write(move |tx| tx.query_row(&sql, [], |row| row.get(0))).unwrap()
}

fn file_bytes(store: &Store) -> u64 {
    fs::metadata(store.path()).unwrap().len()
}

fn log_bytes(path: &Path) -> u64 {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    fs::metadata(log).map_or(0, |log| log.len())
}

#[track_caller]
fn assert_sound(store: &Store) {
    let report = store.check().full().run().unwrap();
    assert!(report.is_ok(), "{report}");
}

/// Writes, and gives space back: nothing of what went wrong is left.
#[track_caller]
fn assert_works(store: &Store) {
    assert_sound(store);
    assert_eq!(pragma(store, "temp_store"), "2");
    assert_eq!(pragma(store, "foreign_keys"), "1");
    let before = count(store);
    store
        .write(|tx| tx.insert("INSERT INTO t(name, data) VALUES ('one more', zeroblob(1))", []))
        .unwrap();
    let report = store.vacuum().run().unwrap();
    assert!(report.bytes_after < report.bytes_before, "{report}");
    assert_eq!(count(store), before + 1);
    assert_sound(store);
}

#[test]
fn vacuum_frees_space_and_keeps_data() {
    let store = filled(Options::new());
    let data = contents(&store);
    assert_eq!(data.len() as i64, LEFT);
    let report = store.vacuum().run().unwrap();
    assert!(report.wal_truncated, "{report}");
    assert!(report.bytes_after < report.bytes_before / 2, "{report}");
    assert_eq!(file_bytes(&store), report.bytes_after);
    assert_eq!(log_bytes(store.path()), 0);
    let stats = store.stats();
    assert_eq!(stats.database.bytes(), report.bytes_after);
    assert_eq!((stats.database.free_pages, stats.wal_bytes), (0, 0));
    assert!(stats.largest_wal_bytes >= report.bytes_after, "{stats:?}");
    assert_eq!(contents(&store), data);
    let line = report.to_string();
    let numbers = format!("{} -> {} bytes (", report.bytes_before, report.bytes_after);
    assert!(line.starts_with(&numbers), "{line}");
    assert_sound(&store);
    assert!(store.close().unwrap().wal_truncated);
}

#[test]
fn vacuum_keeps_the_kind_of_file() {
    for (mode, number) in [
        (AutoVacuum::None, "0"),
        (AutoVacuum::Full, "1"),
        (AutoVacuum::Incremental, "2"),
    ] {
        let store = filled(Options::new().page_size(8192).auto_vacuum(mode));
        store
            .write(|tx| tx.execute_batch("PRAGMA user_version = 42; PRAGMA application_id = 43"))
            .unwrap();
        store.vacuum().run().unwrap();
        for (name, value) in [
            ("auto_vacuum", number),
            ("page_size", "8192"),
            ("user_version", "42"),
            ("application_id", "43"),
            ("journal_mode", "wal"),
            ("synchronous", "1"),
            ("temp_store", "2"),
            ("foreign_keys", "1"),
        ] {
            assert_eq!(pragma(&store, name), value, "{name}");
        }
    }
}

#[test]
fn exclusive_store_can_be_vacuumed() {
    let store = filled(Options::new().access(Access::Exclusive));
    let report = store.vacuum().run().unwrap();
    assert!(
        report.wal_truncated && report.bytes_after < report.bytes_before,
        "{report}"
    );
    assert_eq!(file_bytes(&store), report.bytes_after);
    assert_works(&store_with_more(store));
}

/// With something to give back.
fn store_with_more(store: Store) -> Store {
    store
        .write(|tx| tx.execute_batch("CREATE TABLE more AS SELECT * FROM t; DROP TABLE more"))
        .unwrap();
    store
}

#[test]
fn prepared_statements_survive_vacuum() {
    let store = filled(Options::new().readers(2));
    let insert = "INSERT INTO t(name, data) VALUES (?1, zeroblob(1))";
    let find = "SELECT id FROM t WHERE name = ?1";
    let both = |name: &'static str| {
        let id = store.write(move |tx| tx.insert(insert, [name])).unwrap();
        let found = || store.read(|tx| tx.query_row(find, [name], |row| row.get::<_, i64>(0)));
        // On both readers.
        let twice = store.read(|_| Ok((found()?, found()?))).unwrap();
        assert_eq!(twice, (id, id));
    };
    both("before");
    store.vacuum().run().unwrap();
    both("after");
}

#[test]
fn old_snapshot_survives_vacuum_and_file_shrinks_later() {
    let store = filled(Options::new());
    let before = store.vacuum().progress(Duration::ZERO, |_| Break(())).run();
    assert!(before.is_err(), "it only moved the log into the file");
    let before = file_bytes(&store);
    let old = store
        .read(|tx| {
            let number = || tx.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0));
            let first = number()?;
            let report = store.vacuum().run()?;
            assert!(!report.wal_truncated, "{report}");
            assert!(report.bytes_after < report.bytes_before, "{report}");
            assert!(report.to_string().contains("when the WAL can be reset"), "{report}");
            store.write(|tx| tx.execute_batch("DELETE FROM t"))?;
            assert_eq!(number()?, first);
            tx.query_row("SELECT sum(length(data)) FROM t", [], |row| row.get::<_, i64>(0))
        })
        .unwrap();
    assert_eq!(old, LEFT * 300);
    assert_eq!(count(&store), 0);
    assert!(store.close().unwrap().wal_truncated);
    assert!(file_bytes(&store) < before / 2);
}

#[test]
fn writes_wait_for_vacuum_and_follow() {
    let store = filled(Options::new());
    let (begun, has_begun) = channel();
    let (go_on, told) = channel::<()>();
    thread::scope(|scope| {
        let vacuum = scope.spawn(|| {
            store
                .vacuum()
                .progress(Duration::ZERO, move |_| {
                    let _ = begun.send(());
                    let _ = told.recv();
                    Continue(())
                })
                .run()
        });
        has_begun.recv().unwrap();
        let insert = |n: i64| {
            store
                .submit(move |tx| tx.insert("INSERT INTO t(name, data) VALUES (?1, zeroblob(1))", [n]))
                .unwrap()
        };
        let writes: Vec<_> = (0..5).map(insert).collect();
        let second = scope.spawn(|| store.vacuum().run());
        let stats = store.stats();
        assert!(stats.queued >= 5, "{stats:?}");
        let site = stats.running_write.expect("it runs").site;
        assert_eq!(site, "larder: vacuum");
        assert_eq!(count(&store), LEFT, "reads go on");
        drop(go_on);
        assert!(vacuum.join().unwrap().is_ok());
        for write in writes {
            write.wait().unwrap();
        }
        assert!(second.join().unwrap().is_ok());
    });
    assert_eq!(count(&store), LEFT + 5);
    assert_works(&store_with_more(store));
}

// ---- cancelled, panicked, refused ----

#[test]
fn cancelled_vacuum_leaves_database_unchanged() {
    let store = filled(Options::new());
    let (data, pages) = (contents(&store), pragma(&store, "page_count"));
    let error = store
        .vacuum()
        .progress(Duration::ZERO, |_| Break(()))
        .run()
        .unwrap_err();
    assert!(matches!(error, Error::Cancelled { work: "vacuum", .. }), "{error:?}");
    assert_eq!((error.outcome(), error.is_retryable()), (Outcome::RolledBack, false));
    assert!(
        error.to_string().contains("cancelled by its progress callback"),
        "{error}"
    );
    assert_eq!((contents(&store), pragma(&store, "page_count")), (data, pages));
    assert_eq!(store.stats().failures_by_error["cancelled"], 1);
    assert_works(&store);
}

#[test]
fn panic_of_vacuum_callback_reaches_the_caller() {
    let store = filled(Options::new());
    let vacuum = || {
        let boom = |_: &larder::VacuumProgress| resume_unwind(Box::new("the callback's"));
        store.vacuum().progress(Duration::ZERO, boom).run()
    };
    let panic = catch_unwind(AssertUnwindSafe(vacuum)).unwrap_err();
    assert_eq!(*panic.downcast::<&str>().unwrap(), "the callback's");
    assert_eq!(count(&store), LEFT);
    assert_works(&store);
}

#[test]
fn callback_may_read_but_not_write() {
    let store = filled(Options::new());
    let seen = Arc::new(Mutex::new(None));
    let (of_callback, tell) = (store.clone(), Arc::clone(&seen));
    store
        .vacuum()
        .progress(Duration::ZERO, move |_| {
            let write = of_callback.write(|_| Ok(()));
            let vacuum = of_callback.vacuum().run();
            *tell.lock().unwrap() = Some((count(&of_callback), write, vacuum.map(drop)));
            Continue(())
        })
        .run()
        .unwrap();
    let (rows, write, vacuum) = seen.lock().unwrap().take().expect("it was called");
    assert_eq!(rows, LEFT);
    for refused in [write, vacuum] {
        assert!(matches!(refused, Err(Error::Reentrant { .. })), "{refused:?}");
    }
}

#[test]
fn vacuum_inside_a_write_is_refused() {
    let store = filled(Options::new());
    let inside = store.clone();
    let error = store.write(move |_| inside.vacuum().run()).unwrap_err();
    assert!(matches!(error, Error::Reentrant { call: "vacuum", .. }), "{error:?}");
    assert_works(&store);
}

#[test]
fn vacuum_of_closed_store_fails_as_closed() {
    let store = filled(Options::new());
    store.close().unwrap();
    assert!(matches!(store.vacuum().run(), Err(Error::Closed)));
}

#[test]
fn locked_vacuum_is_not_started_and_retryable() {
    let store = filled(Options::new().busy_timeout(Duration::from_millis(20)));
    let other = Connection::open(store.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = store.vacuum().run().unwrap_err();
    assert_eq!(
        (error.outcome(), error.is_retryable()),
        (Outcome::NotStarted, true),
        "{error:?}"
    );
    other.execute_batch("COMMIT").unwrap();
    assert_works(&store);
}

// ---- temporary files ----

#[test]
fn migration_keeps_temporary_tables_through_vacuum() {
    let sql = "CREATE TEMP TABLE kept(n INT); INSERT INTO kept VALUES (7); VACUUM; INSERT INTO t SELECT n FROM kept";
    let store = Options::new()
        .migrations(Migrations::new([
            Migration::new(1, "t", "CREATE TABLE t(n INT)"),
            Migration::new(2, "vacuum", sql).without_transaction(),
        ]))
        .open_temp()
        .unwrap();
    let seven: i64 = store
        .read(|tx| tx.query_row("SELECT n FROM t", [], |row| row.get(0)))
        .unwrap();
    assert_eq!(seven, 7);
    assert_eq!(pragma(&store, "temp_store"), "2");
}

pub(crate) fn child(task: &child::Task) {
    let path = Path::new(&task.args[0]);
    match task.role.as_str() {
        "a copy in a file" => copy_in_a_file(path),
        "a copy that does not fit" => copy_that_does_not_fit(path),
        "a log that does not fit" => log_that_does_not_fit(path),
        "no room" => no_room(path),
        "no room for the copy" => no_room_for_the_copy(path, Path::new(&task.args[1])),
        "a disk that fills" => disk_that_fills(path),
        "no temporary files" => no_temporary_files(path),
        "a migration without room" => migration_without_room(path),
        other => panic!("no role {other:?}"),
    }
    tell("done");
}

/// So small a page cache that a copy is not kept in it.
fn small_cache() -> Options {
    Options::new().cache_size(16 * 1024)
}

fn database() -> (TempDir, std::path::PathBuf) {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let store = Store::open(&path).unwrap();
    fill(&store);
    store.close().unwrap();
    (folder, path)
}

#[track_caller]
fn run_child(role: &str, path: &Path) {
    Child::start("maintenance::vacuum", role, &[path.to_str().unwrap()]).expect("done");
}

/// In a memory of the size of the database it would be a surprise.
#[test]
#[cfg(target_os = "linux")]
fn vacuum_builds_its_copy_in_a_file() {
    let (_folder, path) = database();
    run_child("a copy in a file", &path);
}

fn copy_in_a_file(path: &Path) {
    let store = small_cache().open(path).unwrap();
    let found = Arc::new(Mutex::new(0));
    let tell = Arc::clone(&found);
    store
        .vacuum()
        .progress(Duration::ZERO, move |_| {
            let mut most = tell.lock().unwrap();
            *most = temporary_files().max(*most);
            Continue(())
        })
        .run()
        .unwrap();
    assert!(*found.lock().unwrap() > 0, "it was in memory");
    assert_eq!(pragma(&store, "temp_store"), "2");
}

/// Those that this process has open, by the name that SQLite gives them.
fn temporary_files() -> usize {
    let files = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let names = files.map(|file| fs::read_link(file.path()).unwrap_or_default());
    names.filter(|name| name.to_string_lossy().contains("etilqs_")).count()
}

// ---- disks that fail or are full ----

#[track_caller]
fn on_a_failing_disk(role: &str, path: &Path) -> bool {
    if !succeeds(Command::new("sh").args(["-c", FILE_LIMIT])) {
        skipped("this shell cannot limit the size of files");
        return false;
    }
    Child::start_in_shell(FILE_LIMIT, "maintenance::vacuum", role, &[path.to_str().unwrap()]).expect("done");
    true
}

fn code(error: &Error) -> Option<i32> {
    error
        .sqlite()
        .and_then(larder::rusqlite::Error::sqlite_error)
        .map(|e| e.extended_code)
}

#[test]
fn failed_copy_leaves_database_unchanged_without_poison() {
    let (_folder, path) = database();
    if on_a_failing_disk("a copy that does not fit", &path) {
        let store = Store::open(&path).unwrap();
        assert_eq!(count(&store), LEFT + 1);
        assert_works(&store);
    }
}

fn copy_that_does_not_fit(path: &Path) {
    let store = small_cache().mmap_size(0).open(path).unwrap();
    let error = store.vacuum().run().unwrap_err();
    assert!(matches!(error, Error::Sqlite { .. }), "{error:?}");
    assert_eq!(
        (error.outcome(), code(&error)),
        (Outcome::RolledBack, Some(SQLITE_IOERR_WRITE))
    );
    assert!(store.poisoned().is_none());
    store
        .write(|tx| tx.insert("INSERT INTO t(name, data) VALUES ('on', zeroblob(1))", []))
        .unwrap();
    // What it changed would not fit into the file.
    store.close().unwrap();
}

#[test]
fn failed_commit_of_vacuum_poisons_and_keeps_data() {
    let (_folder, path) = database();
    if on_a_failing_disk("a log that does not fit", &path) {
        let store = Store::open(&path).unwrap();
        assert_eq!(count(&store), LEFT);
        assert_sound(&store);
        store.vacuum().run().unwrap();
        assert_eq!(count(&store), LEFT);
    }
}

fn log_that_does_not_fit(path: &Path) {
    // The copy is in the page cache.
    let store = Options::new().mmap_size(0).open(path).unwrap();
    let error = store.vacuum().run().unwrap_err();
    assert!(matches!(error, Error::CommitUnknown { .. }), "{error:?}");
    assert_eq!(
        (error.outcome(), code(&error)),
        (Outcome::Unknown, Some(SQLITE_IOERR_WRITE))
    );
    assert!(store.poisoned().is_some());
    for refused in [store.vacuum().run().map(drop), store.write(|_| Ok(()))] {
        assert!(matches!(refused, Err(Error::Poisoned { .. })), "{refused:?}");
    }
    assert_eq!(count(&store), LEFT);
    assert_sound(&store);
    assert!(!store.close().unwrap().wal_truncated);
}

/// Runs a role of [`child`] with a small disk at that folder, of which nothing is left afterwards.
fn on_a_small_disk(role: &str, disk: &Path, kilobytes: u32, path: &Path) {
    if !is_root() {
        return skipped("only root can mount a small disk");
    }
    let mount = format!("mount -t tmpfs -o size={kilobytes}k tmpfs '{}'", disk.display());
    let Some(mut command) = after_mounting(&mount) else {
        return;
    };
    command.env("SQLITE_TMPDIR", disk);
    Child::start_by(
        command,
        "maintenance::vacuum",
        role,
        &[path.to_str().unwrap(), disk.to_str().unwrap()],
    )
    .expect("done");
}

#[track_caller]
fn assert_no_room(error: &Error, folder: &Path) {
    let Error::InsufficientSpace {
        folder: named,
        needed,
        available,
        ..
    } = error
    else {
        panic!("{error:?}")
    };
    assert_eq!(named, folder);
    assert!(needed > available && *available > 0, "{error}");
    assert_eq!((error.outcome(), error.is_retryable()), (Outcome::NotStarted, false));
    let message = error.to_string();
    assert!(
        message.contains(&needed.to_string()) && message.contains(&available.to_string()),
        "{message}"
    );
}

#[test]
fn vacuum_without_space_says_how_much_it_needs() {
    let disk = tempdir().unwrap();
    on_a_small_disk("no room", disk.path(), 4096, &disk.path().join("app.db"));
}

fn no_room(path: &Path) {
    let store = filled_and_opened_again(path);
    let filler = path.with_file_name("filler");
    take_all_but(&filler, 300 * 1024);
    let error = store.vacuum().run().unwrap_err();
    assert_no_room(&error, path.parent().unwrap());
    assert_eq!(count(&store), LEFT);
    fs::remove_file(filler).unwrap();
    assert_works(&store);
    store.close().unwrap();
}

/// With nothing in the log that would need room in the file.
fn filled_and_opened_again(path: &Path) -> Store {
    let store = Store::open(path).unwrap();
    fill(&store);
    assert!(store.close().unwrap().wal_truncated);
    drop(store);
    Store::open(path).unwrap()
}

/// Leaves that many bytes of the disk, or some less.
fn take_all_but(filler: &Path, bytes: u64) {
    let mut file = fs::File::create(filler).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    let length = file.metadata().unwrap().len();
    file.set_len(length.saturating_sub(bytes)).unwrap();
}

#[test]
fn copy_without_space_names_the_temporary_folder() {
    let disk = tempdir().unwrap();
    let (_folder, path) = database();
    on_a_small_disk("no room for the copy", disk.path(), 256, &path);
}

fn no_room_for_the_copy(path: &Path, disk: &Path) {
    let store = small_cache().open(path).unwrap();
    let error = store.vacuum().run().unwrap_err();
    assert_no_room(&error, disk);
    assert!(error.to_string().contains("SQLITE_TMPDIR"), "{error}");
    assert_eq!(count(&store), LEFT);
    store.close().unwrap();
    drop(store);
    // With a cache that has room for it no file is needed.
    let store = Store::open(path).unwrap();
    assert!(store.vacuum().run().is_ok());
    store.close().unwrap();
}

#[test]
fn disk_filling_during_vacuum_fails_and_frees_space() {
    let disk = tempdir().unwrap();
    on_a_small_disk("a disk that fills", disk.path(), 8192, &disk.path().join("app.db"));
}

fn disk_that_fills(path: &Path) {
    let store = filled_and_opened_again(path);
    let data = contents(&store);
    let filler = path.with_file_name("filler");
    let of_callback = filler.clone();
    let mut filled = false;
    let error = store
        .vacuum()
        .progress(Duration::ZERO, move |_| {
            if !filled {
                take_all_but(&of_callback, 100 * 1024);
                filled = true;
            }
            Continue(())
        })
        .run()
        .unwrap_err();
    let full = error.sqlite().and_then(larder::rusqlite::Error::sqlite_error_code);
    assert_eq!(
        (full, error.outcome()),
        (Some(ErrorCode::DiskFull), Outcome::RolledBack),
        "{error:?}"
    );
    assert!(error.to_string().contains("free disk space"), "{error}");
    assert!(store.poisoned().is_none());
    assert_eq!(log_bytes(path), 0, "the log keeps what it could not use");
    assert_eq!(contents(&store), data);
    fs::remove_file(filler).unwrap();
    assert_works(&store);
    store.close().unwrap();
}

#[test]
fn vacuum_without_temporary_folder_builds_in_memory() {
    if !is_root() {
        return skipped("only root can mount folders read-only");
    }
    let (folder, path) = database();
    let mut mount = format!("mount --bind '{0}' '{0}'", folder.path().display());
    for folder in ["/tmp", "/var/tmp", "/usr/tmp"]
        .into_iter()
        .filter(|folder| Path::new(folder).is_dir())
    {
        mount += &format!(" && mount --rbind {folder} {folder} && mount -o remount,bind,ro {folder}");
    }
    mount += " && cd /tmp";
    let Some(mut command) = after_mounting(&mount) else {
        return;
    };
    command.env_remove("TMPDIR").env_remove("SQLITE_TMPDIR");
    Child::start_by(
        command,
        "maintenance::vacuum",
        "no temporary files",
        &[path.to_str().unwrap()],
    )
    .expect("done");
}

fn no_temporary_files(path: &Path) {
    assert!(fs::write("/tmp/larder-test", "").is_err(), "it is read-only");
    let store = small_cache().open(path).unwrap();
    assert_works(&store);
    store.close().unwrap();
}

/// That it fails shows that its copy goes to a file.
#[test]
fn migrations_vacuum_builds_its_copy_in_a_file() {
    let disk = tempdir().unwrap();
    let (_folder, path) = database();
    on_a_small_disk("a migration without room", disk.path(), 256, &path);
}

fn migration_without_room(path: &Path) {
    let vacuum = Migration::new(1, "vacuum", "VACUUM").without_transaction();
    let open = |options: Options| -> Result<Store> { options.migrations(Migrations::new([vacuum.clone()])).open(path) };
    let error = open(small_cache()).unwrap_err();
    let full = error.sqlite().and_then(larder::rusqlite::Error::sqlite_error_code);
    assert_eq!(full, Some(ErrorCode::DiskFull), "{error}");
    let store = open(Options::new()).unwrap();
    assert_eq!(count(&store), LEFT);
    store.close().unwrap();
}

#[test]
fn page_size_set_in_on_connect_survives_vacuum() {
    let store = filled(Options::new().on_connect(|conn, role| {
        if role == Role::Writer {
            conn.execute_batch("PRAGMA page_size = 1024")?;
        }
        Ok(())
    }));
    let before = pragma(&store, "page_size");
    store.vacuum().run().unwrap();
    assert_eq!(pragma(&store, "page_size"), before);
}

/// A copy of many small tables is many short statements, none of which came to a progress handler.
#[test]
fn vacuum_of_many_small_tables_calls_back() {
    let store = Options::new().open_temp().unwrap();
    let tables: String = (0..300)
        .map(|n| format!("CREATE TABLE t{n}(a); INSERT INTO t{n} VALUES (1);"))
        .collect();
    store.write(move |tx| tx.execute_batch(&tables)).unwrap();
    let asked = Arc::new(Mutex::new(0));
    let count = Arc::clone(&asked);
    let vacuum = store.vacuum().progress(Duration::ZERO, move |_| {
        *count.lock().unwrap() += 1;
        Continue(())
    });
    vacuum.run().unwrap();
    assert!(*asked.lock().unwrap() >= 600, "{asked:?}");
    let error = store
        .vacuum()
        .progress(Duration::ZERO, |_| Break(()))
        .run()
        .unwrap_err();
    assert!(matches!(error, Error::Cancelled { work: "vacuum" }), "{error:?}");
    assert_eq!(
        store
            .read(|tx| tx.query_row("SELECT a FROM t299", [], |row| row.get::<_, i64>(0)))
            .unwrap(),
        1
    );
}
