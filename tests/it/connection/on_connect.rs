//! `Options::on_connect`: what it may do for which role, and what it may not set.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder::rusqlite::hooks::{AuthContext, Authorization};
use larder::rusqlite::{Connection, MAIN_DB};
use larder::{Access, DryRun, Error, Migration, Migrations, Options, Role, Store};
use tempfile::{TempDir, tempdir};

use crate::support::names_in;

const FILL: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT) STRICT; INSERT INTO t(x) VALUES ('a'), ('b');
    CREATE VIRTUAL TABLE boxes USING rtree(id, x0, x1); INSERT INTO boxes VALUES (1, 2, 3);";

/// A folder with a store in it.
struct Place {
    folder: TempDir,
    options: Options,
    store: Store,
}

impl Place {
    fn new(on_connect: impl Fn(&Connection, Role) -> larder::Result<()> + Send + Sync + 'static) -> Self {
        let folder = tempdir().unwrap();
        let path = folder.path().join("app.db");
        let plain = Store::open(&path).unwrap();
        plain.write(|tx| tx.execute_batch(FILL)).unwrap();
        plain.close().unwrap();
        let migrations = Migrations::new([Migration::new(1, "u", "CREATE TABLE u(x INTEGER) STRICT")]).at_open(false);
        let options = Options::new().migrations(migrations).on_connect(on_connect);
        let store = options.clone().open(&path).unwrap();
        Self { folder, options, store }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Everything that opens a copy.
    fn use_copies(&self) -> larder::Result<()> {
        self.store.backup(self.path("plain")).checksum(true).run()?;
        self.store.backup_compact(self.path("compact")).run()?;
        self.store.migrate_dry_run(DryRun::Backup)?;
        self.options
            .clone()
            .restore(self.path("plain"), self.path("restored"))?;
        fs::remove_file(self.path("plain")).unwrap();
        fs::remove_file(self.path("compact")).unwrap();
        fs::remove_file(self.path("restored")).unwrap();
        Ok(())
    }
}

/// It was called as the writer of copies, of dry runs, and of the source of a restore.
#[test]
fn copies_have_a_role_of_their_own() {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&calls);
    let place = Place::new(move |conn, role| {
        let path = PathBuf::from(conn.path().unwrap());
        seen.lock().unwrap().push((path, role));
        Ok(())
    });
    place.use_copies().unwrap();
    place.store.migrate_dry_run(DryRun::Schema).unwrap();
    let own = place.store.path().to_owned();
    for (path, role) in calls.lock().unwrap().iter() {
        assert_eq!(*role == Role::Copy, *path != own, "{role:?} {}", path.display());
    }
}

#[test]
fn writes_of_the_writer_hinder_no_copy() {
    let place = Place::new(|conn, role| {
        if role == Role::Writer {
            conn.execute_batch("CREATE TABLE IF NOT EXISTS starts(at INT); INSERT INTO starts VALUES (1)")?;
        }
        Ok(())
    });
    place.use_copies().unwrap();
    place.store.migrate_dry_run(DryRun::Schema).unwrap();
    let starts = |tx: &larder::ReadTx<'_>| tx.query_row("SELECT count(*) FROM starts", [], |row| row.get::<_, i64>(0));
    assert_eq!(place.store.read(starts).unwrap(), 1);
}

/// "Is the disk full?", said the backup, because the new copy had no such table yet.
#[test]
fn reading_a_table_hinders_no_copy() {
    let place = Place::new(|conn, _| {
        let _: String = conn.query_row("SELECT x FROM t WHERE id = 1", [], |row| row.get(0))?;
        let _: i64 = conn.query_row("SELECT count(*) FROM boxes", [], |row| row.get(0))?;
        Ok(())
    });
    place.use_copies().unwrap();
    // The schema alone: the table is there, and empty.
    let place = Place::new(|conn, _| {
        let _: i64 = conn.query_row("SELECT count(*) FROM t", [], |row| row.get(0))?;
        Ok(conn.execute_batch("CREATE TEMP TABLE IF NOT EXISTS scratch(x); INSERT INTO scratch VALUES (1)")?)
    });
    place.use_copies().unwrap();
    place.store.migrate_dry_run(DryRun::Schema).unwrap();
}

#[track_caller]
fn assert_names_the_write(error: &Error, write: &str) {
    let text = error.to_string();
    assert!(text.contains("on_connect") && text.contains("Role::Copy"), "{text}");
    assert!(text.contains(write), "{write}: {text}");
}

#[test]
fn write_to_a_copy_is_refused_by_name() {
    for (sql, names) in [
        ("INSERT INTO t(x) VALUES ('c')", "INSERT INTO t"),
        ("UPDATE t SET x = 'c'", "UPDATE t"),
        ("DELETE FROM t", "DELETE FROM t"),
        ("CREATE TABLE v(x)", "CREATE of v"),
        ("DROP TABLE t", "DROP of t"),
        ("ALTER TABLE t RENAME TO v", "ALTER TABLE t"),
        ("PRAGMA user_version = 7", "PRAGMA user_version"),
        ("BEGIN; INSERT INTO t(x) VALUES ('c'); COMMIT", "INSERT INTO t"),
    ] {
        let place = Place::new(move |conn, role| {
            if role == Role::Copy {
                conn.execute_batch(sql)?;
            }
            Ok(())
        });
        let error = place.store.backup(place.path("backup")).run().unwrap_err();
        assert_names_the_write(&error, names);
        assert!(!error.to_string().contains("disk"), "{error}");
        assert_names_the_write(&place.store.migrate_dry_run(DryRun::Backup).unwrap_err(), names);
        // A backup that is restored keeps each byte.
        let plain = Options::new();
        let store = plain.open(place.path("other.db")).unwrap();
        store.write(|tx| tx.execute_batch(FILL)).unwrap();
        store.backup(place.path("backup")).run().unwrap();
        let before = fs::read(place.path("backup")).unwrap();
        let error = place
            .options
            .clone()
            .restore(place.path("backup"), place.path("restored"))
            .unwrap_err();
        assert_names_the_write(&error, names);
        assert_eq!(fs::read(place.path("backup")).unwrap(), before, "{sql}");
        assert!(!place.path("restored").exists());
    }
}

/// PRAGMAs that services set for every connection.
#[test]
fn pragmas_of_the_file_leave_the_backup_alone() {
    let place = Place::new(|conn, role| {
        if role == Role::Copy {
            conn.execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA locking_mode = EXCLUSIVE; PRAGMA auto_vacuum = NONE;
                 PRAGMA incremental_vacuum; PRAGMA optimize; PRAGMA foreign_keys = ON; PRAGMA synchronous = NORMAL",
            )?;
        }
        Ok(())
    });
    place.store.backup(place.path("backup")).run().unwrap();
    let before = fs::read(place.path("backup")).unwrap();
    place
        .options
        .clone()
        .restore(place.path("backup"), place.path("restored"))
        .unwrap();
    assert_eq!(fs::read(place.path("backup")).unwrap(), before);
    let names = names_in(place.folder.path());
    assert!(!names.iter().any(|name| name.starts_with("backup-")), "{names:?}");
}

fn journal_mode(path: &Path) -> String {
    let conn = Connection::open(path).unwrap();
    conn.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap()
}

/// larder's PRAGMAs were for every database of the connection: a backup set the journal of the attached one, and failed
/// with "is the disk full?: database is locked".
#[test]
fn attached_database_is_left_alone() {
    let aside = tempdir().unwrap();
    let other = aside.path().join("other.db");
    let conn = Connection::open(&other).unwrap();
    conn.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE o(x)")
        .unwrap();
    let attached = other.clone();
    let place = Place::new(move |conn, _| {
        conn.execute("ATTACH ?1 AS other", [attached.to_str().unwrap()])?;
        Ok(())
    });
    for _ in 0..2 {
        place.use_copies().unwrap();
        // In use by others all the while.
        conn.execute_batch("INSERT INTO o VALUES (1)").unwrap();
    }
    place.store.check().full().run().unwrap();
    place.store.vacuum().run().unwrap();
    place.store.close().unwrap();
    drop(conn);
    assert_eq!(journal_mode(&other), "wal");
}

// ---- what larder needs for itself ----

#[track_caller]
fn assert_refused(on_connect: impl Fn(&Connection) -> larder::Result<()> + Send + Sync + 'static + Clone, says: &str) {
    for refused in [Role::Writer, Role::Reader] {
        let on_connect = on_connect.clone();
        let error = Options::new()
            .on_connect(move |conn, role| if role == refused { on_connect(conn) } else { Ok(()) })
            .open_temp()
            .unwrap_err();
        assert!(
            matches!(
                error,
                Error::Options {
                    option: "on_connect",
                    ..
                }
            ),
            "{error:?}"
        );
        assert!(error.to_string().contains(says), "{error}");
    }
}

/// They were replaced, and nobody was told.
#[test]
fn hooks_that_larder_needs_are_refused() {
    assert_refused(|conn| Ok(conn.commit_hook(Some(|| false))?), "a commit hook");
    assert_refused(
        |conn| Ok(conn.authorizer(Some(|_: AuthContext<'_>| Authorization::Allow))?),
        "an authorizer",
    );
    assert_refused(
        |conn| {
            conn.wal_hook(Some(|_, _| Ok(())));
            Ok(())
        },
        "a WAL hook",
    );
}

#[test]
fn hooks_that_larder_does_not_need_stay() {
    let writes = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&writes);
    let place = Place::new(move |conn, role| {
        conn.execute_batch("PRAGMA wal_autocheckpoint = 0")?;
        conn.rollback_hook(Some(|| {}))?;
        let counted = Arc::clone(&counted);
        conn.update_hook(Some(move |_, _: &str, table: &str, _| {
            *counted.lock().unwrap() += i32::from(role == Role::Writer && table == "t");
        }))?;
        assert!(role != Role::Writer || !conn.is_readonly(MAIN_DB)?);
        Ok(())
    });
    place
        .store
        .write(|tx| tx.execute("INSERT INTO t(x) VALUES ('c')", []))
        .unwrap();
    assert_eq!(*writes.lock().unwrap(), 1);
    place.use_copies().unwrap();
}

/// Connections of the program's own to the store's file, which are still open as the store closes, or close before it.
#[test]
fn connections_that_it_leaves_open_poison_no_store() {
    for (access, is_new) in [
        (Access::Shared, false),
        (Access::Shared, true),
        (Access::Exclusive, false),
    ] {
        for sql in ["SELECT count(*) FROM t", "BEGIN; SELECT count(*) FROM t"] {
            for closes_first in [true, false] {
                let left: Arc<Mutex<Vec<Connection>>> = Arc::default();
                let folder = tempdir().unwrap();
                let path = folder.path().join("app.db");
                if !is_new {
                    let store = Store::open(&path).unwrap();
                    store.write(|tx| tx.execute_batch("CREATE TABLE t(x)")).unwrap();
                    store.close().unwrap();
                }
                let (keeps, raw) = (Arc::clone(&left), path.clone());
                let options = Options::new()
                    .access(access)
                    .busy_timeout(Duration::from_millis(50))
                    .on_connect(move |_, _| {
                        let conn = Connection::open(&raw)?;
                        // The table may not be there yet, and another process could not open the file.
                        let _ = conn.execute_batch(sql);
                        keeps.lock().unwrap().push(conn);
                        Ok(())
                    });
                let store = options.open(&path).unwrap();
                store
                    .write(|tx| tx.execute_batch("CREATE TABLE IF NOT EXISTS t(x)"))
                    .unwrap();
                for n in 0..20 {
                    store
                        .write(move |tx| tx.execute("INSERT INTO t VALUES (?1)", [n]))
                        .unwrap();
                    let rows = store.read(|tx| tx.scalar::<i64>("SELECT count(*) FROM t", [])).unwrap();
                    assert_eq!(rows, n + 1);
                }
                assert!(!left.lock().unwrap().is_empty());
                if closes_first {
                    left.lock().unwrap().clear();
                }
                assert!(store.poisoned().is_none(), "{access:?} {sql}: {:?}", store.poisoned());
                store.close().unwrap();
                left.lock().unwrap().clear();
                let store = Store::open(&path).unwrap();
                let rows = store.read(|tx| tx.scalar::<i64>("SELECT count(*) FROM t", [])).unwrap();
                assert_eq!(rows, 20, "{access:?} {sql}");
                assert!(store.check().full().run().unwrap().is_ok());
                store.close().unwrap();
            }
        }
    }
}
