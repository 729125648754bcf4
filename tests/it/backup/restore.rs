//! `Store::restore`: makes a working database from a verified backup, or nothing.

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use larder::rusqlite::Connection;
use larder::{Access, BackupStage, Error, Options, RestoreOptions, Store};
use tempfile::{TempDir, tempdir};

use crate::support::child::{Child, Task, as_ordinary_user, listen, set_mode, tell, with_read_only_mount};
use crate::support::{count, names_in};

const FILL: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT NOT NULL, data BLOB NOT NULL) STRICT;
    CREATE INDEX names ON t(name);
    CREATE VIRTUAL TABLE words USING fts5(text); INSERT INTO words VALUES ('one two'), ('three');
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
    INSERT INTO t SELECT i, 'name ' || i, randomblob(100) FROM n;";

/// In a process of its own.
pub(crate) fn child(task: &Task) {
    match task.role.as_str() {
        "restores" => restores(&task.args),
        _ => waits_in_a_restore(&task.args),
    }
}

/// Restores the backups of the first folder to the second.
fn restores(args: &[String]) {
    let [from, to] = [0, 1].map(|at| PathBuf::from(&args[at]));
    let mut restored = 0;
    for name in args[2].split(' ') {
        let report = Store::restore(from.join(name), to.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(report.verified && report.check.is_ok(), "{report:?}");
        restored += 1;
    }
    tell(restored);
}

/// Restores, and waits in the middle of it to be killed.
fn waits_in_a_restore(args: &[String]) {
    let [backup, path] = args else { panic!() };
    let stops = Options::new().on_connect(|conn, _| {
        let is_copy = conn.path().is_some_and(|path| path.contains(".larder-backup-"));
        let has_pages = || conn.query_row("PRAGMA page_count", [], |row| row.get::<_, i64>(0));
        if is_copy && has_pages()? > 1 {
            tell("at it");
            listen();
        }
        Ok(())
    });
    stops.restore(backup, path).unwrap();
}

/// A folder with a backup, and the checksum of that.
struct Place {
    folder: TempDir,
    checksum: String,
}

impl Place {
    fn new() -> Self {
        let store = Store::open_temp().unwrap();
        store.write(|tx| tx.execute_batch(FILL)).unwrap();
        let folder = tempdir().unwrap();
        let report = store.backup(folder.path().join("backup")).checksum(true).run().unwrap();
        Self {
            folder,
            checksum: report.checksum.unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

#[track_caller]
fn refused(place: &Place, from: impl AsRef<Path>, to: impl AsRef<Path>, says: &str) {
    let before = place.names();
    let error = Store::restore(from, to).unwrap_err();
    assert!(matches!(error, Error::Restore { .. }), "{error:?}");
    assert!(error.to_string().contains(says), "{says}: {error}");
    assert_eq!(place.names(), before);
}

#[test]
fn killed_restore_is_removed_by_whoever_comes() {
    let place = Place::new();
    let (backup, path) = (place.path("backup"), place.path("app.db"));
    let left = || place.names().iter().any(|name| name.starts_with(".larder-"));
    let killed = |meanwhile: &dyn Fn()| {
        let args = [backup.to_str().unwrap(), path.to_str().unwrap()];
        let child = Child::start("backup::restore", "", &args);
        child.expect("at it");
        meanwhile();
        assert!(left() && !path.exists());
        child.kill();
        assert!(left() && !path.exists());
    };
    // While it goes on, nobody takes it away.
    killed(&|| drop(Store::restore(&backup, place.path("meanwhile.db")).unwrap()));
    Store::restore(&backup, &path).unwrap();
    assert!(!left(), "{:?}", place.names());
    fs::remove_file(&path).unwrap();
    killed(&|| {});
    Store::open(place.path("another.db")).unwrap().close().unwrap();
    assert!(!left(), "{:?}", place.names());
}

#[test]
fn restored_store_has_the_backed_up_data() {
    let place = Place::new();
    let (backup, path) = (place.path("backup"), place.path("app.db"));
    let before = fs::read(&backup).unwrap();
    let report = Store::restore(&backup, &path).unwrap();
    assert_eq!(report.path, path);
    assert_eq!(
        (report.checksum.as_str(), report.check.is_ok()),
        (place.checksum.as_str(), true)
    );
    assert_eq!(report.bytes(), fs::metadata(&path).unwrap().len());
    assert!(report.to_string().contains(" rows, verified ("), "{report}");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(place.names(), ["app.db", "backup"]);
    assert_eq!(fs::read(&backup).unwrap(), before);

    let store = Store::open(&path).unwrap();
    assert_eq!(count(&store), 500);
    store.write(|tx| tx.execute("DELETE FROM t WHERE id = 1", [])).unwrap();
    let mode: String = store
        .read(|tx| tx.query_row("PRAGMA journal_mode", [], |row| row.get(0)))
        .unwrap();
    assert_eq!(mode, "wal");
    assert!(store.check().full().run().unwrap().is_ok());
    let again = store.backup(place.path("again")).checksum(true).run().unwrap();
    assert_ne!(again.checksum.unwrap(), place.checksum);
    assert!(store.close().unwrap().wal_truncated);
}

#[test]
fn compact_backup_can_be_restored() {
    let place = Place::new();
    let store = Store::open(place.path("backup")).unwrap();
    let report = store
        .backup_compact(place.path("compact"))
        .checksum(true)
        .run()
        .unwrap();
    drop(store);
    assert_eq!(report.checksum.as_ref(), Some(&place.checksum));
    let report = Store::restore(place.path("compact"), place.path("app.db")).unwrap();
    assert_eq!(report.checksum, place.checksum);
}

/// Whatever options open it, restore it: a key, for one.
#[test]
fn restore_uses_options_for_its_connections() {
    let place = Place::new();
    let roles = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = std::sync::Arc::clone(&roles);
    let options = Options::new().on_connect(move |conn, _| {
        seen.lock().unwrap().push(PathBuf::from(conn.path().unwrap()));
        Ok(())
    });
    options.restore(place.path("backup"), place.path("app.db")).unwrap();
    let seen = roles.lock().unwrap();
    assert!(
        seen.contains(&place.path("backup").canonicalize().unwrap()) && seen.len() >= 3,
        "{seen:?}"
    );
    drop(seen);
    let error = Options::new()
        .readers(0)
        .restore(place.path("backup"), place.path("other"))
        .unwrap_err();
    assert!(matches!(error, Error::Options { option: "readers", .. }), "{error:?}");
}

#[test]
fn database_in_use_is_restored_from_one_snapshot() {
    let place = Place::new();
    for (access, name) in [(Access::Shared, "a"), (Access::Exclusive, "b")] {
        let path = place.path(&format!("live-{name}.db"));
        let store = Options::new().access(access).open(&path).unwrap();
        store.write(|tx| tx.execute_batch(FILL)).unwrap();
        Store::restore(&path, place.path(name)).unwrap();
        // It has not lost its locks, nor its log.
        store.write(|tx| tx.execute("DELETE FROM t WHERE id > 10", [])).unwrap();
        assert_eq!(count(&store), 10);
        assert!(place.path(&format!("live-{name}.db-wal")).exists());
        assert!(store.close().unwrap().wal_truncated);
        let restored = Store::open(place.path(name)).unwrap();
        assert_eq!(count(&restored), 500);
    }
}

#[test]
fn restore_never_overwrites_anything() {
    let place = Place::new();
    let backup = place.path("backup");
    fs::write(place.path("file"), "what was there").unwrap();
    fs::create_dir(place.path("folder")).unwrap();
    symlink("nothing", place.path("dangling")).unwrap();
    refused(&place, &backup, place.path("file"), "the target exists already");
    refused(&place, &backup, &backup, "the target exists already");
    refused(&place, &backup, place.path("folder"), "is a folder");
    refused(&place, &backup, place.path("dangling"), "symbolic link");
    refused(&place, &backup, place.path("missing/app.db"), "create it first");
    refused(&place, &backup, "", "not the name of a file");
    assert_eq!(fs::read_to_string(place.path("file")).unwrap(), "what was there");
    for ending in ["-wal", "-shm", "-journal"] {
        let left = place.path(&format!("app.db{ending}"));
        fs::write(&left, "of the old database").unwrap();
        refused(&place, &backup, place.path("app.db"), "beside the target");
        fs::remove_file(left).unwrap();
    }
    let store = Store::open(place.path("open.db")).unwrap();
    let error = Store::restore(&backup, place.path("open.db")).unwrap_err();
    assert!(matches!(error, Error::AlreadyOpen { .. }), "{error:?}");
    store.write(|tx| tx.execute_batch(FILL)).unwrap();
    refused(
        &place,
        &backup,
        place.path("open.db-journal"),
        "a WAL, a WAL index or a journal",
    );
}

#[test]
fn file_not_a_backup_is_refused() {
    let place = Place::new();
    let to = place.path("app.db");
    fs::write(place.path("empty"), "").unwrap();
    fs::write(place.path("text"), "This is no database. ".repeat(100)).unwrap();
    fs::create_dir(place.path("folder")).unwrap();
    refused(&place, place.path("missing"), &to, "cannot be found");
    refused(&place, place.path("empty"), &to, "fewer bytes");
    refused(&place, place.path("text"), &to, "not an SQLite database");
    refused(&place, place.path("folder"), &to, "not a regular file");
}

#[test]
fn damaged_backup_is_refused() {
    let place = Place::new();
    let pages = fs::metadata(place.path("backup")).unwrap().len() / 4096;
    for page in 1..pages {
        let damaged = place.path("damaged");
        fs::copy(place.path("backup"), &damaged).unwrap();
        let file = File::options().write(true).open(&damaged).unwrap();
        file.write_all_at(&[0xff; 64], page * 4096).unwrap();
        drop(file);
        refused(&place, &damaged, place.path("app.db"), "");
        fs::remove_file(damaged).unwrap();
    }
    // Cut short.
    let file = File::options().write(true).open(place.path("backup")).unwrap();
    file.set_len(pages / 2 * 4096).unwrap();
    drop(file);
    refused(&place, place.path("backup"), place.path("app.db"), "damaged");
}

/// As other tools leave it: with pages that are in the log alone.
#[test]
fn log_of_copied_database_is_restored_with_it() {
    let place = Place::new();
    let path = place.path("live.db");
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0")
        .unwrap();
    conn.execute_batch(FILL).unwrap();
    fs::copy(&path, place.path("copied")).unwrap();
    fs::copy(place.path("live.db-wal"), place.path("copied-wal")).unwrap();
    drop(conn);
    Store::restore(place.path("copied"), place.path("app.db")).unwrap();
    assert_eq!(count(&Store::open(place.path("app.db")).unwrap()), 500);
}

// ---- where SQLite would write beside the backup ----

/// Databases as people copy them, each with the files beside it, and 500 rows.
fn copied_databases(to: &Path) -> Vec<&'static str> {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let copy = |name: &str, endings: &[&str]| {
        for ending in endings {
            let file = |path: &Path| PathBuf::from(format!("{}{ending}", path.display()));
            fs::copy(file(&path), file(&to.join(name))).unwrap();
        }
    };
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch(FILL).unwrap();
    copy("plain", &[""]);
    // In the middle of a transaction that has spilled its pages.
    conn.execute_batch("PRAGMA cache_size = 5; BEGIN; UPDATE t SET data = randomblob(100); DELETE FROM t WHERE id > 3")
        .unwrap();
    copy("half", &["", "-journal"]);
    conn.execute_batch("ROLLBACK; PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0")
        .unwrap();
    conn.execute_batch("DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (1, 'again', zeroblob(9))")
        .unwrap();
    copy("with-log", &["", "-wal"]);
    copy("with-all", &["", "-wal", "-shm"]);
    conn.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    copy("with-index", &["", "-shm"]);
    conn.close().unwrap();
    // Marked as being in WAL mode.
    copy("closed", &[""]);
    vec!["plain", "half", "with-log", "with-all", "with-index", "closed"]
}

/// Each file in a folder, with its bytes.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let names = names_in(folder).into_iter();
    names
        .map(|name| (name.clone(), fs::read(folder.join(name)).unwrap()))
        .collect()
}

#[test]
fn restoring_changes_no_backup() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let names = copied_databases(from.path());
    let mut before = contents(from.path());
    for name in &names {
        let report = Store::restore(from.path().join(name), to.path().join(name)).unwrap();
        assert!(report.check.is_ok(), "{name}: {report:?}");
        let mut after = contents(from.path());
        for contents in [&mut before, &mut after] {
            // The locks of a log whose process was killed are written again.
            contents.retain(|(name, _)| name != "with-all-shm");
        }
        assert!(after == before, "{name}: {:?}", names_in(from.path()));
        assert_eq!(count(&Store::open(to.path().join(name)).unwrap()), 500, "{name}");
    }
}

/// A read-only mount, or another user's folder. The restore said "check owner and mode".
#[test]
fn backup_in_read_only_folder_is_restored() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let names = copied_databases(from.path());
    let before = contents(from.path());
    let [from, to] = [from.path(), to.path()];
    let args = [from.to_str().unwrap(), to.to_str().unwrap(), &names.join(" ")];
    let all = names.len().to_string();
    let check = |child: Child| {
        child.expect(&all);
        child.finish();
        assert!(contents(from) == before, "{:?}", names_in(from));
        for name in &names {
            assert_eq!(count(&Store::open(to.join(name)).unwrap()), 500, "{name}");
            fs::remove_file(to.join(name)).unwrap();
        }
    };
    if let Some(command) = with_read_only_mount(from) {
        check(Child::start_by(command, "backup::restore", "restores", &args));
    }
    let binary = tempdir().unwrap();
    if let Some(command) = as_ordinary_user(binary.path()) {
        for name in names_in(from) {
            set_mode(&from.join(name), 0o444);
        }
        set_mode(from, 0o555);
        set_mode(to, 0o777);
        check(Child::start_by(command, "backup::restore", "restores", &args));
        set_mode(from, 0o755);
    }
}

#[test]
fn restore_onto_a_file_names_no_option_of_backups() {
    let place = Place::new();
    fs::write(place.path("app.db"), "what was there").unwrap();
    let error = Store::restore(place.path("backup"), place.path("app.db")).unwrap_err();
    assert!(error.to_string().contains("move the file away"), "{error}");
    assert!(!error.to_string().contains("overwrite"), "{error}");
    let store = Store::open_temp().unwrap();
    let error = store.backup(place.path("app.db")).run().unwrap_err();
    assert!(error.to_string().contains("Backup::overwrite"), "{error}");
}

#[test]
fn cancelled_restore_leaves_no_file() {
    let place = Place::new();
    let backup = place.path("backup");
    let before = names_in(place.folder.path());
    // Each look in its turn is the last, until none is left.
    for last in 0.. {
        let looks = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&looks);
        let options = RestoreOptions::new().progress(move |progress| {
            assert!(progress.pages_done <= progress.pages_total || progress.stage != BackupStage::Copy);
            match seen.fetch_add(1, Ordering::Relaxed) {
                look if look == last => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        });
        match Store::restore_with(options, &backup, place.path("new.db")) {
            Ok(report) => {
                assert!(
                    last > 0 && looks.load(Ordering::Relaxed) == last && report.verified,
                    "{last}"
                );
                break;
            }
            Err(error) => {
                assert!(
                    matches!(error, Error::Cancelled { work: "restore" }),
                    "{last}: {error:?}"
                );
                assert_eq!(names_in(place.folder.path()), before, "{last}");
            }
        }
    }
}
