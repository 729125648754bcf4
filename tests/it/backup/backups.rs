//! `Store::backup`, `backup_compact` and `backup_every`: a backup is one complete, verified snapshot, or no file at
//! all.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::ops::ControlFlow::{Break, Continue};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use larder::rusqlite::{Connection, OpenFlags};
use larder::{Access, Alert, AlertKind, Backup, BackupReport, BackupStage, Error, Options, Outcome, Store};
use tempfile::{TempDir, tempdir};

use crate::support::child::{Child, PATIENCE, Task, after_mounting, as_ordinary_user, listen, set_mode, tell};
use crate::support::{RaiseOnDrop, log, names_in, remove_from_schedule, serious};

/// Two accounts and what was moved between them: the sum stays, and so does the number of rows of both logs.
const BANK: &str = "CREATE TABLE account(id INTEGER PRIMARY KEY, amount INTEGER NOT NULL) STRICT;
    CREATE TABLE taken(id INTEGER PRIMARY KEY, note BLOB NOT NULL) STRICT;
    CREATE TABLE given(id INTEGER PRIMARY KEY, note BLOB NOT NULL) STRICT;
    INSERT INTO account VALUES (1, 1000), (2, 1000);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400)
    INSERT INTO taken SELECT i, randomblob(400) FROM n;
    INSERT INTO given SELECT * FROM taken;";

const MOVE: &str = "UPDATE account SET amount = amount - 1 WHERE id = 1;
    INSERT INTO taken(note) VALUES (randomblob(400));
    UPDATE account SET amount = amount + 1 WHERE id = 2;
    INSERT INTO given(note) VALUES (randomblob(400));";

/// Tables of every kind, with names that need quoting.
const RICH: &str = "CREATE TABLE \"a \"\"b\"\" 'c'\"(\"x \"\"y\"\"\" BLOB, \"select\" TEXT, rowid REAL, oid, _rowid_);
    INSERT INTO \"a \"\"b\"\" 'c'\" VALUES (randomblob(100000), 'é', 0.1, NULL, 7), (zeroblob(0), '', -0.0, 1, 8);
    CREATE TABLE w(a TEXT COLLATE NOCASE, b INT, c, PRIMARY KEY (b DESC, a)) WITHOUT ROWID;
    INSERT INTO w VALUES ('x', 1, 'one'), ('y', 1, 2.5), ('x', 2, NULL);
    CREATE TABLE g(n INTEGER PRIMARY KEY AUTOINCREMENT, twice INT AS (n * 2) STORED, half AS (n / 2.0));
    INSERT INTO g(n) VALUES (3), (5); CREATE INDEX halves ON g(half);
    CREATE VIRTUAL TABLE five USING fts5(text); INSERT INTO five VALUES ('one two'), ('three');
    CREATE VIRTUAL TABLE boxes USING rtree(id, x0, x1); INSERT INTO boxes VALUES (1, 2, 3);
    CREATE VIEW v AS SELECT * FROM g; CREATE TRIGGER t AFTER DELETE ON g BEGIN DELETE FROM w; END;
    ANALYZE;";

/// In a process of its own.
pub(crate) fn child(task: &Task) {
    match task.role.as_str() {
        "dies" => dies(&task.args),
        "fills the disk" => fills_the_disk(Path::new(&task.args[0])),
        "may not write" => may_not_write(&task.args),
        "has the same schedule" => has_the_same_schedule(&task.args),
        role => panic!("{role}"),
    }
}

/// A store and a folder for backups.
struct Place {
    store: Store,
    folder: TempDir,
}

impl Place {
    fn new(sql: &'static str) -> Self {
        Self::with(Options::new(), sql)
    }

    fn with(options: Options, sql: &'static str) -> Self {
        let store = options.open_temp().unwrap();
        store.write(move |tx| tx.execute_batch(sql)).unwrap();
        let folder = tempdir().unwrap();
        Self { store, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn compact(&self, name: &str) -> Backup<'_> {
        self.store.backup_compact(self.path(name))
    }

    /// In small steps.
    fn backup(&self, name: &str) -> Backup<'_> {
        self.store.backup(self.path(name)).pages_per_step(5)
    }
}

/// As anybody would open it who may only read.
fn opened(path: &Path) -> Connection {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap()
}

fn number(conn: &Connection, sql: &str) -> i64 {
    conn.query_row(sql, [], |row| row.get(0)).unwrap()
}

/// What moves in the bank: all of it or nothing.
#[track_caller]
fn moved(path: &Path) -> i64 {
    let conn = opened(path);
    assert_eq!(number(&conn, "SELECT sum(amount) FROM account"), 2000);
    let moved = number(&conn, "SELECT 1000 - amount FROM account WHERE id = 1");
    assert_eq!(number(&conn, "SELECT count(*) FROM taken"), 400 + moved);
    assert_eq!(number(&conn, "SELECT count(*) FROM given"), 400 + moved);
    moved
}

#[track_caller]
fn failed(backup: larder::Result<BackupReport>, says: &str) -> Error {
    let error = backup.unwrap_err();
    assert!(matches!(error, Error::Backup { .. }), "{error:?}");
    assert!(error.to_string().contains(says), "{says}: {error}");
    assert_eq!(error.outcome(), Outcome::RolledBack);
    error
}

#[track_caller]
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < give_up, "{what}");
        thread::yield_now();
    }
}

// ---- what a backup is ----

#[test]
fn backup_is_one_self_contained_file() {
    let place = Place::new(BANK);
    place.store.write(|tx| tx.execute_batch(MOVE)).unwrap();
    let path = place.path("copy");
    let report = place.store.backup(&path).run().unwrap();
    assert_eq!(report.path, path);
    assert_eq!(report.bytes(), fs::metadata(&path).unwrap().len());
    assert!(
        report.is_verified() && report.check.as_ref().unwrap().is_ok(),
        "{report:?}"
    );
    assert_eq!((report.rows, report.checksum.as_deref()), (804, None));
    assert!(report.wal_pinned_for <= report.duration);
    assert_eq!(
        report.to_string().split(" (").next(),
        Some(format!("{}: {} bytes, 804 rows, verified", path.display(), report.bytes()).as_str())
    );
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(moved(&path), 1);
    // Reading it has made no file, so it can be read where no file can be made.
    assert_eq!(names_in(place.folder.path()), ["copy"]);
    assert_eq!(fs::read(&path).unwrap()[18..20], [1, 1], "it is not in WAL mode");
    // And it opens as a store.
    let store = Store::open(&path).unwrap();
    store.write(|tx| tx.execute_batch(MOVE)).unwrap();
    drop(store);
    assert_eq!(place.store.check().full().run().unwrap().tables, 3);
}

#[test]
fn backup_has_every_kind_of_table() {
    for page_size in [512, 4096, 65536] {
        let place = Place::with(Options::new().page_size(page_size), RICH);
        let plain = place.backup("plain").checksum(true).run().unwrap();
        let compact = place.compact("compact").checksum(true).run().unwrap();
        let again = place.backup("again").checksum(true).run().unwrap();
        assert_eq!(plain.page_size, page_size);
        assert_eq!(plain.checksum.as_ref().unwrap().len(), 64);
        assert_eq!(plain.checksum, again.checksum);
        assert_eq!(plain.checksum, compact.checksum);
        assert_eq!(plain.rows, compact.rows);
        for name in ["plain", "compact"] {
            let conn = opened(&place.path(name));
            let found = number(&conn, "SELECT rowid FROM five WHERE five MATCH 'three'");
            assert_eq!(found, 2);
            assert_eq!(number(&conn, "SELECT half = 2.5 FROM g WHERE twice = 10"), 1);
        }
        // As many rows, and one other value.
        for change in [
            "UPDATE w SET c = 2 WHERE c = 'one'",
            "UPDATE \"a \"\"b\"\" 'c'\" SET _rowid_ = 9 WHERE _rowid_ = 8",
            "DROP VIEW v",
        ] {
            let before = place.backup("before").overwrite(true).checksum(true).run().unwrap();
            place.store.write(move |tx| tx.execute_batch(change)).unwrap();
            let after = place.backup("after").overwrite(true).checksum(true).run().unwrap();
            assert_ne!(before.checksum, after.checksum, "{change}");
        }
    }
}

#[test]
fn an_empty_database_has_a_backup() {
    let place = Place::new("");
    for (report, name) in [
        (place.backup("plain").checksum(true).run(), "plain"),
        (place.store.backup_compact(place.path("compact")).run(), "compact"),
    ] {
        let report = report.unwrap();
        assert!(
            report.is_verified() && report.rows == 0 && report.pages >= 1,
            "{report:?}"
        );
        assert_eq!(
            number(&opened(&place.path(name)), "SELECT count(*) FROM sqlite_schema"),
            0
        );
    }
}

#[test]
fn compact_backup_keeps_rows_without_free_pages() {
    let place = Place::new(BANK);
    place
        .store
        .write(|tx| tx.execute("DELETE FROM given WHERE id > 1", []))
        .unwrap();
    let plain = place.backup("plain").checksum(true).run().unwrap();
    let compact = place.compact("compact").checksum(true).run().unwrap();
    assert!(compact.pages < plain.pages, "{compact} {plain}");
    assert_eq!(compact.checksum, plain.checksum);
    assert!(compact.is_verified());
    let path = place.path("compact");
    assert_eq!(number(&opened(&path), "PRAGMA freelist_count"), 0);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(names_in(place.folder.path()), ["compact", "plain"]);
}

#[test]
fn unverified_backup_says_so() {
    let place = Place::new(BANK);
    let report = place.backup("copy").verify(false).checksum(true).run().unwrap();
    assert!(!report.is_verified() && report.check.is_none() && report.checksum.is_none());
    assert!(report.to_string().contains("not verified"), "{report}");
    assert!(!place.store.stats().last_backup.unwrap().verified);
    assert_eq!(moved(&place.path("copy")), 0);
    assert_eq!(names_in(place.folder.path()), ["copy"]);
}

/// It is the database as it is. A backup that nobody could make for one old row would be worse.
#[test]
fn dangling_foreign_keys_are_copied_and_reported() {
    let sql = "CREATE TABLE a(id INTEGER PRIMARY KEY); CREATE TABLE b(a INT REFERENCES a); INSERT INTO b VALUES (7)";
    let place = Place::with(Options::new().foreign_keys(false), sql);
    let report = place.backup("copy").run().unwrap();
    let check = report.check.as_ref().unwrap();
    assert!(!check.is_ok() && check.problems.is_empty());
    assert_eq!(check.total_foreign_key_violations, 1);
    assert!(
        report
            .to_string()
            .contains("1 foreign keys without a parent row, the first: b row 1 (a) -> a"),
        "{report}"
    );
}

#[test]
fn exclusive_store_can_be_backed_up() {
    let place = Place::with(Options::new().access(Access::Exclusive), BANK);
    place.backup("plain").run().unwrap();
    place.store.backup_compact(place.path("compact")).run().unwrap();
    assert_eq!((moved(&place.path("plain")), moved(&place.path("compact"))), (0, 0));
    place.store.write(|tx| tx.execute_batch(MOVE)).unwrap();
    assert!(place.store.close().unwrap().wal_truncated);
}

// ---- while others read and write ----

#[test]
fn backup_excludes_later_writes_and_delays_none() {
    for compact in [false, true] {
        let place = Place::new(BANK);
        let store = place.store.clone();
        let writes = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&writes);
        let backup = if compact {
            place.store.backup_compact(place.path("copy")).pages_per_step(5)
        } else {
            place.backup("copy")
        };
        let report = backup
            .progress(move |_| {
                // On this very thread: it could wait for nobody.
                store.write(|tx| tx.execute_batch(MOVE)).unwrap();
                counted.fetch_add(1, Ordering::Relaxed);
                Continue(())
            })
            .run()
            .unwrap();
        assert!(writes.load(Ordering::Relaxed) > 10, "{writes:?}");
        assert_eq!(report.rows, 802);
        assert_eq!(moved(&place.path("copy")), 0);
    }
}

#[test]
fn backup_under_load_is_one_snapshot() {
    let place = Place::new(BANK);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = RaiseOnDrop(&stop);
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    place.store.write(|tx| tx.execute_batch(MOVE)).unwrap();
                }
            });
        }
        let mut before = 0;
        for round in 0..4 {
            let name = format!("copy {round}");
            let floor = place.store.stats().committed_writes;
            place.backup(&name).checksum(true).run().unwrap();
            let now = moved(&place.path(&name));
            // All that was acknowledged before it began. The first write made the bank.
            assert!(
                now + 1 >= i64::try_from(floor).unwrap() && now >= before,
                "{before} {now} {floor}"
            );
            before = now;
        }
    });
}

#[test]
fn progress_reaches_all_pages_through_the_stages() {
    let place = Place::new(BANK);
    let (send, told) = channel();
    let here = thread::current().id();
    let report = place
        .store
        .backup_compact(place.path("copy"))
        .pages_per_step(7)
        .progress(move |progress| {
            assert_eq!(thread::current().id(), here);
            send.send(*progress).unwrap();
            Continue(())
        })
        .run()
        .unwrap();
    let told: Vec<_> = told.iter().collect();
    let copying: Vec<_> = told.iter().take_while(|at| at.stage == BackupStage::Copy).collect();
    let total = copying[0].pages_total;
    assert!(
        total >= report.pages && copying.len() as u64 == total.div_ceil(7),
        "{told:?}"
    );
    for (at, step) in copying.iter().zip(1..) {
        assert_eq!((at.pages_done, at.pages_total), (total.min(step * 7), total));
        assert!(at.bytes_per_second > 0);
    }
    let mut stages: Vec<_> = told.iter().map(|at| at.stage).collect();
    stages.dedup();
    let (copying, verifying) = (BackupStage::Copy, BackupStage::Verify);
    assert_eq!(stages, [copying, verifying, BackupStage::Compact, verifying]);
    assert!(told.is_sorted_by_key(|at| at.elapsed), "{told:?}");
}

#[test]
fn call_site_is_named_while_backup_pins_log() {
    let place = Place::new(BANK);
    let store = place.store.clone();
    let (send, named) = channel();
    let backup = place.backup("copy").progress(move |progress| {
        let stats = store.stats();
        send.send((progress.stage, stats.readers.oldest_read.map(|read| read.site)))
            .unwrap();
        Continue(())
    });
    let line = line!() + 1;
    backup.run().unwrap();
    let named: Vec<_> = named.iter().collect();
    let (pinning, alone) = named.split_at(named.iter().position(|(_, site)| site.is_none()).unwrap());
    let site = Some(format!("tests/it/backup/backups.rs:{line}"));
    assert!(
        !pinning.is_empty() && pinning.iter().all(|named| named.1 == site),
        "{named:?}"
    );
    // The copy is looked at alone.
    let unnamed = (BackupStage::Verify, None);
    assert!(alone.iter().all(|named| *named == unnamed), "{named:?}");
    assert_eq!(place.store.stats().readers.in_use, 0);
}

/// It has a connection of its own.
#[test]
fn backup_uses_no_reader_of_the_pool() {
    let place = Place::with(
        Options::new().readers(1).read_queue_timeout(Duration::from_secs(30)),
        BANK,
    );
    let store = place.store.clone();
    let backup = place.backup("copy").progress(move |_| {
        let here: i64 = store
            .read(|tx| tx.query_row("SELECT count(*) FROM given", [], |row| row.get(0)))
            .unwrap();
        assert_eq!(here, 400);
        Continue(())
    });
    backup.run().unwrap();
    // Nor does it want one: inside a read that holds the only one.
    place.store.read(|_| place.backup("another").run()).unwrap();
}

// ---- what stops it ----

const STAGES: [BackupStage; 3] = [BackupStage::Copy, BackupStage::Compact, BackupStage::Verify];

/// A backup in place of another file, which tells its stage to `f`.
fn in_place(place: &Place, stage: BackupStage, mut f: impl FnMut() + Send + 'static) -> Backup<'_> {
    fs::write(place.path("copy"), "what was there").unwrap();
    let backup = place
        .store
        .backup_compact(place.path("copy"))
        .overwrite(true)
        .pages_per_step(5);
    backup.progress(move |progress| {
        if progress.stage == stage {
            f();
            return Break(());
        }
        Continue(())
    })
}

#[track_caller]
fn assert_as_it_was(place: &Place) {
    assert_eq!(names_in(place.folder.path()), ["copy"]);
    assert_eq!(fs::read_to_string(place.path("copy")).unwrap(), "what was there");
    assert_eq!(place.store.stats().readers.in_use, 0);
    place.store.write(|tx| tx.execute_batch(MOVE)).unwrap();
}

#[test]
fn cancelled_backup_leaves_old_file() {
    let place = Place::new(BANK);
    for stage in STAGES {
        let error = in_place(&place, stage, || {}).run().unwrap_err();
        assert!(matches!(error, Error::Cancelled { work: "backup" }), "{error:?}");
        assert_as_it_was(&place);
        let last = place.store.stats().last_backup.unwrap();
        assert!(last.error.unwrap().contains("cancelled") && last.bytes == 0);
    }
}

#[test]
fn panicking_callback_leaves_old_file_and_resumes() {
    let place = Place::new(BANK);
    for stage in STAGES {
        let backup = in_place(&place, stage, || panic!("by the callback"));
        let panic = catch_unwind(AssertUnwindSafe(|| backup.run())).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"by the callback"));
        assert_as_it_was(&place);
    }
}

#[test]
fn timed_out_backup_leaves_old_file() {
    let place = Place::new(BANK);
    fs::write(place.path("copy"), "what was there").unwrap();
    // Before its first step is over, and in a pause.
    for (timeout, pause) in [
        (Duration::ZERO, Duration::ZERO),
        (Duration::from_millis(50), PATIENCE * 60),
    ] {
        let backup = place.backup("copy").overwrite(true).timeout(timeout).pause(pause);
        let error = backup.run().unwrap_err();
        assert!(
            matches!(error, Error::Interrupted { limit, .. } if limit == timeout),
            "{error:?}"
        );
        assert!(error.to_string().contains("Backup::timeout"), "{error}");
        assert_as_it_was(&place);
    }
}

#[test]
fn closing_stops_backup_at_each_stage() {
    for stage in STAGES {
        let place = Place::new(BANK);
        let (store, closer) = (place.store.clone(), Arc::new(Mutex::new(None)));
        let (closing, mut closes) = (Arc::clone(&closer), Some(place.store.clone()));
        let backup = place.store.backup_compact(place.path("copy")).pages_per_step(5);
        let backup = backup.progress(move |progress| {
            if progress.stage == stage
                && let Some(closes) = closes.take()
            {
                *closing.lock().unwrap() = Some(thread::spawn(move || closes.close().unwrap()));
                wait_until("the store closes", || {
                    matches!(store.read(|_| Ok(())), Err(Error::Closed))
                });
            }
            Continue(())
        });
        let error = backup.run().unwrap_err();
        assert!(matches!(error, Error::Closed), "{error:?}");
        assert_eq!(names_in(place.folder.path()), [""; 0]);
        let report = closer.lock().unwrap().take().unwrap().join().unwrap();
        assert!(report.wal_truncated, "nobody was in its way: {report}");
        assert!(matches!(place.backup("copy").run(), Err(Error::Closed)));
        assert_eq!(names_in(place.folder.path()), [""; 0]);
    }
}

#[test]
fn closing_ends_the_pause_of_a_backup() {
    let place = Place::new(BANK);
    let (send, begun) = channel();
    let backup = place.backup("copy").pause(PATIENCE * 60).progress(move |_| {
        send.send(()).unwrap();
        Continue(())
    });
    let store = &place.store;
    thread::scope(|scope| {
        scope.spawn(move || {
            begun.recv().unwrap();
            assert!(store.close().unwrap().wal_truncated);
        });
        assert!(matches!(backup.run(), Err(Error::Closed)));
    });
}

#[test]
fn closing_in_the_callback_is_refused() {
    let place = Place::new(BANK);
    let store = place.store.clone();
    let backup = place.backup("copy").progress(move |_| {
        assert!(matches!(store.close(), Err(Error::Reentrant { call: "close", .. })));
        Continue(())
    });
    backup.run().unwrap();
}

#[test]
fn backup_step_has_at_least_one_page() {
    let place = Place::new(BANK);
    let error = place.backup("copy").pages_per_step(0).run().unwrap_err();
    assert!(
        matches!(
            error,
            Error::Options {
                option: "pages_per_step",
                ..
            }
        ),
        "{error:?}"
    );
    place.backup("one").pages_per_step(1).run().unwrap();
    place.backup("all").pages_per_step(u32::MAX).run().unwrap();
    assert_eq!((moved(&place.path("one")), moved(&place.path("all"))), (0, 0));
}

// ---- where it may not go ----

/// With and without leave to overwrite. Nothing changes.
#[track_caller]
fn refused(place: &Place, target: impl AsRef<Path>, says: &str) {
    for folder in [place.folder.path(), place.store.path().parent().unwrap()] {
        let before = names_in(folder);
        for overwrite in [false, true] {
            let backup = place.store.backup(&target).overwrite(overwrite).run();
            failed(backup, says);
            failed(place.store.backup_compact(&target).overwrite(overwrite).run(), says);
        }
        assert_eq!(names_in(folder), before);
    }
    place.store.write(|tx| tx.execute_batch(MOVE)).unwrap();
}

#[test]
fn database_and_its_sidecars_are_refused_as_target() {
    let place = Place::new(BANK);
    let database = place.store.path().to_owned();
    refused(&place, &database, "open");
    for ending in ["-wal", "-shm", "-journal"] {
        let mut name = database.clone().into_os_string();
        name.push(ending);
        refused(&place, name, "a WAL, a WAL index or a journal");
    }
    // A hard link is on the file system of its file, and a temporary store may be in memory.
    let (link, hard) = (place.path("link"), database.with_file_name("hard"));
    symlink(&database, &link).unwrap();
    refused(&place, &link, "symbolic link");
    fs::hard_link(&database, &hard).unwrap();
    refused(&place, &hard, "this process has open");
    fs::remove_file(&hard).unwrap();
    // Nor another store's.
    let other = Place::new(BANK);
    refused(&place, other.store.path(), "this process has open");
    assert_eq!(place.store.close().unwrap().wal_kept_because, None);
    let store = Store::open(&database).unwrap();
    assert!(store.check().full().run().unwrap().is_ok());
}

#[test]
fn target_must_be_a_file_in_a_folder() {
    let place = Place::new(BANK);
    fs::create_dir(place.path("folder")).unwrap();
    fs::write(place.path("file"), "").unwrap();
    symlink("nothing", place.path("dangling")).unwrap();
    refused(&place, place.path("missing/copy"), "create it first: No such file");
    refused(&place, place.path("file/copy"), "Not a directory");
    refused(&place, place.path("folder"), "is a folder");
    refused(&place, place.path("folder/"), "not the name of a file");
    refused(&place, place.path("dangling"), "symbolic link");
    for path in ["", "/", "..", "a\0b"] {
        refused(&place, path, "not the name of a file");
    }
    // They would be played into the copy.
    for ending in ["-wal", "-shm", "-journal"] {
        fs::write(place.path(&format!("copy{ending}")), "").unwrap();
        refused(&place, place.path("copy"), "beside the target");
        fs::remove_file(place.path(&format!("copy{ending}"))).unwrap();
    }
    // The folder may be a link, a name need not be UTF-8.
    symlink("folder", place.path("way")).unwrap();
    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::OsStr::from_bytes(b"way/\xff?mode=ro");
    let report = place
        .store
        .backup_compact(place.folder.path().join(name))
        .run()
        .unwrap();
    assert!(
        report
            .path
            .starts_with(place.folder.path().canonicalize().unwrap().join("folder"))
    );
    assert!(report.path.exists());
}

#[test]
fn existing_file_stays_unless_overwrite_is_allowed() {
    let place = Place::new(BANK);
    place.backup("copy").run().unwrap();
    let inode = fs::metadata(place.path("copy")).unwrap().ino();
    place.store.write(|tx| tx.execute_batch(MOVE)).unwrap();
    failed(place.backup("copy").run(), "the target exists already");
    assert_eq!(
        (
            moved(&place.path("copy")),
            fs::metadata(place.path("copy")).unwrap().ino()
        ),
        (0, inode)
    );
    place.backup("copy").overwrite(true).run().unwrap();
    assert_eq!(moved(&place.path("copy")), 1);
    assert_eq!(names_in(place.folder.path()), ["copy"]);
}

#[test]
fn one_of_two_backups_to_one_name_wins() {
    for overwrite in [false, true] {
        let place = Place::new(BANK);
        let (store, path) = (place.store.clone(), place.path("copy"));
        let mut second = Some(path.clone());
        let first = place.backup("copy").overwrite(overwrite).progress(move |_| {
            if let Some(path) = second.take() {
                store.write(|tx| tx.execute_batch(MOVE)).unwrap();
                store.backup(path).overwrite(overwrite).run().unwrap();
            }
            Continue(())
        });
        let first = first.run();
        if overwrite {
            first.unwrap();
            assert_eq!(moved(&path), 0, "the one that was whole last");
        } else {
            let error = failed(first, "the target exists already");
            assert!(!error.is_retryable());
            assert_eq!(moved(&path), 1);
        }
        assert_eq!(names_in(place.folder.path()), ["copy"]);
    }
}

#[test]
fn simultaneous_backups_to_different_names_succeed() {
    let place = Place::new(BANK);
    thread::scope(|scope| {
        for name in ["a", "b", "c", "d"] {
            let place = &place;
            scope.spawn(move || place.backup(name).run().unwrap());
        }
    });
    assert_eq!(names_in(place.folder.path()), ["a", "b", "c", "d"]);
    for name in ["a", "b", "c", "d"] {
        assert_eq!(moved(&place.path(name)), 0);
    }
}

/// The race for the name itself: each has looked, and nobody was there.
#[test]
fn simultaneous_backups_to_one_name_make_one() {
    let place = Place::new(BANK);
    let made = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| match place.backup("copy").run() {
                Ok(_) => drop(made.fetch_add(1, Ordering::Relaxed)),
                Err(error) => assert!(matches!(error, Error::Backup { .. }), "{error:?}"),
            });
        }
    });
    assert_eq!(made.into_inner(), 1);
    assert_eq!(names_in(place.folder.path()), ["copy"]);
    assert_eq!(moved(&place.path("copy")), 0);
}

#[test]
fn damaged_database_leaves_the_old_backup() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch(BANK).unwrap();
    conn.close().unwrap();
    let pages = fs::metadata(&path).unwrap().len() / 4096;
    for page in [2, pages / 2, pages - 1] {
        let damaged = folder.path().join(format!("damaged-{page}.db"));
        fs::copy(&path, &damaged).unwrap();
        let file = File::options().write(true).open(&damaged).unwrap();
        file.write_all_at(&[0xff; 64], page * 4096).unwrap();
        drop(file);
        let backups = tempdir().unwrap();
        fs::write(backups.path().join("copy"), "what was there").unwrap();
        let store = Store::open(&damaged).unwrap();
        for compact in [false, true] {
            let to = backups.path().join("copy");
            let backup = if compact {
                store.backup_compact(to)
            } else {
                store.backup(to)
            };
            failed(backup.overwrite(true).run(), "damaged");
            assert_eq!(names_in(backups.path()), ["copy"]);
            assert_eq!(
                fs::read_to_string(backups.path().join("copy")).unwrap(),
                "what was there"
            );
        }
    }
}

/// Somebody changes the copy before it is looked at.
#[test]
fn copy_that_differs_from_database_is_refused() {
    for (change, checksum, is_found) in [
        ("DELETE FROM given WHERE id = 7", false, true),
        ("CREATE TABLE another(x)", false, true),
        ("UPDATE given SET note = zeroblob(400) WHERE id = 7", false, false),
        ("UPDATE given SET note = zeroblob(400) WHERE id = 7", true, true),
        ("UPDATE account SET amount = amount + 1", true, true),
    ] {
        let place = Place::new(BANK);
        let folder = place.folder.path().to_owned();
        let mut change = Some(change);
        let backup = place.backup("copy").checksum(checksum).progress(move |progress| {
            if progress.stage == BackupStage::Verify
                && let Some(sql) = change.take()
            {
                let unfinished = folder.join(&names_in(&folder)[0]).join("copy.db");
                let copy = Connection::open(unfinished).unwrap();
                copy.execute_batch(sql).unwrap();
                copy.close().unwrap();
            }
            Continue(())
        });
        let made = backup.run();
        if is_found {
            failed(made, "differs from the database");
            assert_eq!(names_in(place.folder.path()), [""; 0]);
        } else {
            made.unwrap();
        }
    }
}

#[test]
fn unwritable_folder_is_an_error() {
    let folder = tempdir().unwrap();
    let Some(command) = as_ordinary_user(folder.path()) else {
        return;
    };
    let backups = folder.path().join("backups");
    fs::create_dir(&backups).unwrap();
    set_mode(&backups, 0o555);
    let child = Child::start_by(
        command,
        "backup::backups",
        "may not write",
        &[backups.to_str().unwrap()],
    );
    child.expect("done");
    child.finish();
}

fn may_not_write(args: &[String]) {
    let place = Place::new(BANK);
    let error = failed(
        place.store.backup(Path::new(&args[0]).join("copy")).run(),
        "its owner and its mode",
    );
    assert!(error.to_string().contains("Permission denied"), "{error}");
    tell("done");
    listen();
}

#[test]
fn full_disk_is_an_error_and_frees_space() {
    let folder = tempdir().unwrap();
    let disk = folder.path().to_str().unwrap();
    let mount = format!("mount -t tmpfs -o size=1536k larder '{disk}'");
    let Some(command) = after_mounting(&mount) else {
        return;
    };
    let child = Child::start_by(command, "backup::backups", "fills the disk", &[disk]);
    child.expect("done");
    child.finish();
}

/// Enough for two backups, and not for three.
fn fills_the_disk(disk: &Path) {
    let place = Place::new(BANK);
    let to = |name: &str| disk.join(name);
    place.store.backup(to("first")).run().unwrap();
    let ballast = to("ballast");
    // It is known before.
    fs::write(&ballast, vec![1; 1 << 20]).unwrap();
    failed(place.store.backup(to("second")).run(), "too little free space");
    failed(
        place.store.backup(to("first")).overwrite(true).run(),
        "too little free space",
    );
    fs::remove_file(&ballast).unwrap();
    // It is found out.
    for stage in STAGES {
        place
            .store
            .write(|tx| tx.execute("DELETE FROM given WHERE id > 100", []))
            .unwrap();
        let ballast = ballast.clone();
        let copy = if stage == BackupStage::Compact {
            place.store.backup_compact(to("first"))
        } else {
            place.store.backup(to("first"))
        };
        let copy = copy.overwrite(true).pages_per_step(5).progress(move |progress| {
            if progress.stage == stage && !ballast.exists() {
                // As much as there is.
                let error = fs::write(&ballast, vec![1; 4 << 20]).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::StorageFull);
            }
            Continue(())
        });
        // To make it a file that needs no other takes a little room as well.
        let error = failed(copy.run(), "is the disk full?");
        assert!(error.sqlite().is_some(), "{error:?}");
        assert_eq!(names_in(disk), ["ballast", "first"]);
        fs::remove_file(to("ballast")).unwrap();
        assert_eq!(number(&opened(&to("first")), "SELECT sum(amount) FROM account"), 2000);
    }
    tell("done");
    listen();
}

// ---- one that is killed ----

/// Makes a backup, and waits at that stage to be killed.
fn dies(args: &[String]) {
    let [database, to, stage] = args else { panic!() };
    let (stage, store) = (stage.clone(), Store::open(database).unwrap());
    let mut calls = 0;
    let backup = store
        .backup_compact(to)
        .overwrite(true)
        .pages_per_step(5)
        .progress(move |progress| {
            calls += 1;
            if format!("{:?}", progress.stage) == stage && calls > 3 {
                tell("at it");
                listen();
            }
            Continue(())
        });
    backup.run().unwrap();
}

#[test]
fn killed_backup_is_removed_by_the_next() {
    for stage in STAGES {
        let folder = tempdir().unwrap();
        let (database, copy) = (folder.path().join("app.db"), folder.path().join("copy"));
        let store = Store::open(&database).unwrap();
        store.write(|tx| tx.execute_batch(BANK)).unwrap();
        store.backup(&copy).run().unwrap();
        store.write(|tx| tx.execute_batch(MOVE)).unwrap();
        let args = [
            database.to_str().unwrap(),
            copy.to_str().unwrap(),
            &format!("{stage:?}"),
        ];
        let child = Child::start("backup::backups", "dies", &args);
        child.expect("at it");
        // Not what is still being made.
        store.backup(folder.path().join("another")).run().unwrap();
        let left = |names: Vec<String>| names.iter().any(|name| name.starts_with(".larder-backup-"));
        assert!(left(names_in(folder.path())));
        child.kill();
        assert_eq!(moved(&copy), 0);
        assert!(left(names_in(folder.path())));
        store.backup(&copy).overwrite(true).run().unwrap();
        assert_eq!(moved(&copy), 1);
        assert!(!left(names_in(folder.path())), "{:?}", names_in(folder.path()));
    }
}

// ---- schedules ----

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Those of the schedule of a temporary store.
fn scheduled(folder: &Path) -> Vec<String> {
    let mut names = names_in(folder);
    names.retain(|name| name.starts_with("temp.db.2") && name.len() == "temp.db.20260401T120000Z".len());
    names
}

fn backup_alert(store: &Store) -> Option<Alert> {
    let alerts = store.stats().alerts;
    alerts.into_iter().find(|alert| alert.kind == AlertKind::BackupFailed)
}

/// Holds the backups of schedules before they write anything.
#[derive(Default)]
struct Gate {
    is_closed: AtomicBool,
    held: AtomicUsize,
}

impl Gate {
    /// Each of them opens a connection first, and is held there.
    fn in_options(self: &Arc<Self>, options: Options) -> Options {
        let gate = Arc::clone(self);
        options.on_connect(move |_, _| {
            if thread::current().name() == Some("larder-backup") && gate.is_closed.load(Ordering::SeqCst) {
                gate.held.fetch_add(1, Ordering::SeqCst);
                wait_until("it may go on", || !gate.is_closed.load(Ordering::SeqCst));
            }
            Ok(())
        })
    }

    /// Returns once so many are held. None of them is in the middle of one.
    fn close(&self, schedules: usize) {
        self.is_closed.store(true, Ordering::SeqCst);
        wait_until("they are held", || self.held.load(Ordering::SeqCst) == schedules);
    }

    fn open(&self) {
        self.is_closed.store(false, Ordering::SeqCst);
    }
}

fn stamp(age: Duration) -> String {
    let conn = Connection::open_in_memory().unwrap();
    let sql = format!(
        "SELECT strftime('temp.db.%Y%m%dT%H%M%SZ', 'now', '-{} seconds')",
        age.as_secs()
    );
    conn.query_row(&sql, [], |row| row.get(0)).unwrap()
}

#[test]
fn schedule_starts_at_once_and_keeps_the_newest() {
    let place = Place::new(BANK);
    let folder = place.folder.path();
    let old: Vec<_> = (2..6).rev().map(|days| stamp(DAY * days)).collect();
    for name in &old {
        fs::write(place.path(name), "old").unwrap();
    }
    let others = [
        "temp.db",
        "temp.db.before-2.20200101T000000.123Z",
        "temp.db.20200101",
        "x.20200101T000000Z",
    ];
    for name in others {
        fs::write(place.path(name), "another").unwrap();
    }
    let schedule = place.store.backup_every(DAY, 3, folder).unwrap();
    wait_until("it is made", || place.store.stats().last_backup.is_some());
    wait_until("old ones go", || scheduled(folder).len() == 3);
    drop(schedule);
    let kept = scheduled(folder);
    let last = place.store.stats().last_backup.unwrap();
    assert_eq!(kept[..2], old[2..]);
    assert_eq!(place.path(&kept[2]), last.path);
    assert!(last.verified && last.bytes > 0 && last.error.is_none(), "{last:?}");
    assert_eq!(moved(&last.path), 0);
    for name in others {
        assert!(place.path(name).exists(), "{name}");
    }
}

#[test]
fn schedule_continues_from_the_newest_backup() {
    let place = Place::new(BANK);
    let folder = place.folder.path();
    fs::write(place.path(&stamp(DAY / 2)), "of before the restart").unwrap();
    let schedule = place.store.backup_every(DAY, 3, folder).unwrap();
    // It is stopped before it is due, however long that takes.
    drop(schedule);
    assert_eq!(scheduled(folder).len(), 1);
    assert_eq!(place.store.stats().last_backup, None);
}

/// A backup that was opened as it lies, to look at it, was removed under its store.
#[test]
fn schedule_removes_no_backup_that_is_open() {
    let place = Place::new(BANK);
    let old = [3, 2].map(|days| place.path(&stamp(DAY * days)));
    for path in &old {
        place.store.backup(path).run().unwrap();
    }
    let looked_at = Store::open(&old[1]).unwrap();
    let schedule = place.store.backup_every(DAY, 1, place.folder.path()).unwrap();
    wait_until("the other one goes", || !old[0].exists());
    drop(schedule);
    let last = place.store.stats().last_backup.unwrap();
    assert!(old[1].exists() && last.path.exists() && scheduled(place.folder.path()).len() == 2);
    looked_at
        .write(|tx| tx.execute_batch("CREATE TABLE looked_at(x)"))
        .unwrap();
    assert!(looked_at.check().run().unwrap().is_ok());
}

#[test]
fn schedule_makes_backups_in_sequence() {
    let place = Place::new(BANK);
    let _schedule = place
        .store
        .backup_every(Duration::from_secs(1), 2, place.folder.path())
        .unwrap();
    let mut seen = std::collections::BTreeSet::new();
    wait_until("there are four", || {
        let names = scheduled(place.folder.path());
        assert!(names.len() <= 3, "{names:?}");
        seen.extend(names);
        seen.len() >= 4
    });
}

#[test]
fn failing_schedule_is_an_alert_and_removes_nothing() {
    log::collect();
    let gate = Arc::new(Gate::default());
    let watched = Options::new().monitor_interval(Duration::from_millis(5));
    let place = Place::with(gate.in_options(watched), BANK);
    let folder = place.path("backups");
    fs::create_dir(&folder).unwrap();
    let line = line!() + 1;
    let schedule = place.store.backup_every(Duration::from_secs(1), 1, &folder).unwrap();
    wait_until("the first is made", || !scheduled(&folder).is_empty());
    gate.close(1);
    let kept = scheduled(&folder);
    assert_eq!(kept.len(), 1, "{kept:?}");
    let away = place.path("away");
    fs::rename(&folder, &away).unwrap();
    gate.open();
    // The one that was held had found the folder. Those after it do not.
    let held =
        log::wait_for(|event| event.message == "a scheduled backup failed" && event.mentions(folder.to_str().unwrap()));
    let reason = held.expect("reason");
    assert!(
        reason.contains("no file can be created in the folder of the target") && reason.contains("No such file"),
        "{held:?}"
    );
    let mut begun = None;
    wait_until("the alert is of one after it", || {
        begun = backup_alert(&place.store)
            .filter(|alert| alert.reason.as_deref().is_some_and(|said| !said.contains(reason)));
        begun.is_some()
    });
    assert_eq!(scheduled(&away), kept);
    let begun = begun.unwrap();
    assert_eq!(
        begun.site.as_deref(),
        Some(format!("tests/it/backup/backups.rs:{line}").as_str())
    );
    let reason = begun.reason.unwrap();
    assert!(
        reason.contains("folder of the target cannot be used") && reason.contains("No such file"),
        "{reason}"
    );
    let last = place.store.stats().last_backup.unwrap();
    assert!(reason.starts_with(&format!(
        "backups to {}: ",
        folder.canonicalize().unwrap_or(folder.clone()).display()
    )));
    assert!(
        reason.ends_with(last.error.as_deref().unwrap()) && last.bytes == 0,
        "{last:?}"
    );
    let advice = place.store.advice();
    assert!(
        advice
            .iter()
            .any(|finding| finding.topic == "backup_failed" && finding.message.contains(&reason))
    );
    let path = place.store.path().to_str().unwrap().to_owned();
    let told = log::wait_for(|event| {
        event.target == "larder::alert"
            && event.field("db.namespace") == Some(&path)
            && event.field("alert") == Some("backup_failed")
    });
    assert!(told.expect("reason").contains(folder.to_str().unwrap()), "{told:?}");
    assert_eq!(scheduled(&away), kept);
    fs::rename(&away, &folder).unwrap();
    wait_until("the alert is over", || serious(&place.store.stats()).is_empty());
    assert_eq!(place.store.stats().last_backup.unwrap().error, None);
    drop(schedule);
}

// ---- whose backups they are ----

/// The names of the backups that a schedule has made of databases named `app.db`.
fn of_app_db(folder: &Path) -> Vec<String> {
    let mut names = names_in(folder);
    names.retain(|name| name.starts_with("app.db"));
    names
}

/// A store whose only table has that name, in a folder of that name.
fn tenant(place: &Place, name: &str) -> Store {
    let folder = place.path(name);
    fs::create_dir_all(&folder).unwrap();
    let store = Store::open(folder.join("app.db")).unwrap();
    let create = format!("CREATE TABLE IF NOT EXISTS {name}(x)");
    store.write(move |tx| tx.execute_batch(&create)).unwrap();
    store
}

/// The tenant whose backup it is.
fn tenant_of(backup: &Path) -> String {
    let table = "SELECT group_concat(name) FROM sqlite_schema";
    opened(backup).query_row(table, [], |row| row.get(0)).unwrap()
}

/// Each removed the other's, and the second had none until the first's was as old as the interval.
#[test]
fn tenants_with_one_folder_keep_their_backups() {
    let place = Place::new("");
    let folder = place.path("backups");
    fs::create_dir(&folder).unwrap();
    let made = || -> Vec<String> {
        let names = of_app_db(&folder);
        names.iter().map(|name| tenant_of(&folder.join(name))).collect()
    };
    // Stopped, moved and started again: it goes on with its own.
    for round in 0..2 {
        let stores = ["ada", "bob", "cyd"].map(|name| tenant(&place, name));
        let schedules = stores
            .each_ref()
            .map(|store| store.backup_every(DAY, 2, &folder).unwrap());
        wait_until("each has one", || made().len() == 3);
        let mut tenants = made();
        tenants.sort();
        assert_eq!(tenants, ["ada", "bob", "cyd"], "{round}");
        drop((schedules, stores));
        let mut moved = place.path("bob").into_os_string();
        moved.push("by");
        fs::rename(place.path("bob"), &moved).unwrap();
        fs::rename(&moved, place.path("bob")).unwrap();
    }
    let stores = ["ada", "bob"].map(|name| tenant(&place, name));
    let second = Duration::from_secs(1);
    let schedules = stores
        .each_ref()
        .map(|store| store.backup_every(second, 2, &folder).unwrap());
    wait_until("each has made some", || {
        stores.iter().all(|store| store.stats().last_backup.is_some())
    });
    let stems = stores.each_ref().map(|store| {
        let last = store.stats().last_backup.unwrap();
        assert_eq!(last.error, None);
        let name = last.path.file_name().unwrap().to_str().unwrap().to_owned();
        name[..name.len() - "20260401T120000Z".len()].to_owned()
    });
    assert_ne!(stems[0], stems[1]);
    let of_stem = |stem: &String| {
        let names = of_app_db(&folder);
        names
            .into_iter()
            .filter(|name| name.starts_with(stem))
            .collect::<Vec<_>>()
    };
    let mut seen = [(); 2].map(|()| std::collections::BTreeSet::new());
    wait_until("each has made four", || {
        seen.iter_mut()
            .zip(&stems)
            .for_each(|(seen, stem)| seen.extend(of_stem(stem)));
        seen.iter().all(|seen| seen.len() >= 4)
    });
    // One more while it is made.
    assert!(stems.iter().all(|stem| of_stem(stem).len() <= 3));
    drop(schedules);
    for (stem, tenant) in stems.iter().zip(["ada", "bob"]) {
        assert!(of_stem(stem).iter().all(|name| tenant_of(&folder.join(name)) == tenant));
    }
    assert_eq!(made().iter().filter(|tenant| *tenant == "cyd").count(), 1);
}

#[test]
fn second_schedule_into_one_folder_is_refused() {
    let place = Place::new(BANK);
    let line = line!() + 1;
    let first = place.store.backup_every(DAY, 3, place.folder.path()).unwrap();
    let link = place.path("link");
    symlink(place.folder.path(), &link).unwrap();
    for folder in [place.folder.path(), &link] {
        let error = place.store.backup_every(DAY * 7, 5, folder).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, Error::Backup { .. }), "{error:?}");
        assert!(message.contains("a folder of its own"), "{message}");
        assert!(
            message.contains(&format!("tests/it/backup/backups.rs:{line}")),
            "{message}"
        );
    }
    let weekly = place.path("weekly");
    fs::create_dir(&weekly).unwrap();
    let second = place.store.backup_every(DAY * 7, 5, &weekly).unwrap();
    drop(first);
    let _third = place.store.backup_every(DAY * 7, 5, place.folder.path()).unwrap();
    drop(second);
}

/// Instances of one service, each with the same schedule of the same database. Those that started together chose the
/// same name, and one of them had an alert.
fn has_the_same_schedule(args: &[String]) {
    let options = Options::new().monitor_interval(Duration::from_millis(5));
    let store = options.open(&args[0]).unwrap();
    tell("ready");
    assert_eq!(listen(), "go");
    let schedule = store.backup_every(Duration::from_secs(1), 100, &args[1]).unwrap();
    while store.stats().last_backup.is_none() && of_app_db(Path::new(&args[1])).is_empty() {
        thread::yield_now();
    }
    tell("one is there");
    assert_eq!(listen(), "stop");
    assert_eq!(store.stats().last_backup.and_then(|last| last.error), None);
    assert_eq!(serious(&store.stats()), []);
    drop(schedule);
    tell("done");
}

#[test]
fn instances_with_one_schedule_make_one_series() {
    let place = Place::new("");
    let folder = place.path("backups");
    fs::create_dir(&folder).unwrap();
    let database = place.path("app.db");
    let store = Store::open(&database).unwrap();
    store.write(|tx| tx.execute_batch(BANK)).unwrap();
    let args = [database.to_str().unwrap(), folder.to_str().unwrap()];
    let mut instances: Vec<_> = (0..3)
        .map(|_| Child::start("backup::backups", "has the same schedule", &args))
        .collect();
    instances.iter().for_each(|instance| instance.expect("ready"));
    instances.iter_mut().for_each(|instance| instance.say("go"));
    instances.iter().for_each(|instance| instance.expect("one is there"));
    wait_until("there are four", || of_app_db(&folder).len() >= 4);
    let names = of_app_db(&folder);
    for instance in &mut instances {
        instance.say("stop");
        instance.expect("done");
    }
    for name in &names {
        assert_eq!(moved(&folder.join(name)), 0);
    }
    // One a second, and not one of each.
    let seconds: Vec<i64> = names.iter().map(|name| second_of(name)).collect();
    let span = seconds.last().unwrap() - seconds[0];
    assert!(span + 1 >= names.len() as i64, "{names:?}");
    assert!(
        names.iter().all(|name| name.len() == "app.db.20260401T120000Z".len()),
        "{names:?}"
    );
}

fn second_of(name: &str) -> i64 {
    let digits: Vec<&str> = [(7, 4), (11, 2), (13, 2), (16, 2), (18, 2), (20, 2)]
        .map(|(from, length)| &name[from..from + length])
        .to_vec();
    let [year, month, day, hour, minute, second] = digits[..] else {
        panic!()
    };
    let sql = format!("SELECT unixepoch('{year}-{month}-{day} {hour}:{minute}:{second}')");
    number(&Connection::open_in_memory().unwrap(), &sql)
}

// ---- when they were made ----

/// No backup was made by a service that was restarted more often than the interval, for 73 years.
#[test]
fn later_backup_counts_for_nothing_and_is_told() {
    log::collect();
    let place = Place::new(BANK);
    let folder = place.folder.path();
    let later = ["temp.db.20990101T000000Z".to_owned(), stamp_in(3600)];
    let old = stamp(DAY * 2);
    for name in later.iter().chain([&old]) {
        fs::write(place.path(name), "by name").unwrap();
    }
    let _schedule = place.store.backup_every(DAY, 1, folder).unwrap();
    wait_until("it is made", || place.store.stats().last_backup.is_some());
    let made = place.store.stats().last_backup.unwrap();
    assert_eq!(made.error, None);
    wait_until("the old one goes", || !place.path(&old).exists());
    assert_eq!(moved(&made.path), 0);
    assert!(later.iter().all(|name| place.path(name).exists()));
    let path = place.store.path().to_str().unwrap().to_owned();
    let told = log::wait_for(|event| event.field("db.namespace") == Some(&path) && event.mentions("is after now"));
    assert!(
        told.expect("backup").ends_with(&later[1]),
        "the first of them: {told:?}"
    );
    let advice = place.store.advice();
    let finding = advice.iter().find(|finding| finding.message.contains("is after now"));
    assert!(
        finding.is_some_and(|finding| finding.message.contains(&later[1])),
        "{advice:?}"
    );
}

/// The name of one made in so many seconds.
fn stamp_in(seconds: i64) -> String {
    let conn = Connection::open_in_memory().unwrap();
    let sql = format!("SELECT strftime('temp.db.%Y%m%dT%H%M%SZ', 'now', '{seconds} seconds')");
    conn.query_row(&sql, [], |row| row.get(0)).unwrap()
}

/// Names that are no times say nothing, and stay.
#[test]
fn impossible_times_are_no_backups() {
    let place = Place::new(BANK);
    let names = [
        "temp.db.20261301T000000Z",
        "temp.db.20260230T000000Z",
        "temp.db.99999999T999999Z",
    ];
    for name in names {
        fs::write(place.path(name), "no backup").unwrap();
    }
    let _schedule = place.store.backup_every(DAY, 1, place.folder.path()).unwrap();
    wait_until("it is made", || place.store.stats().last_backup.is_some());
    assert!(names.iter().all(|name| place.path(name).exists()));
    assert!(
        place
            .store
            .advice()
            .iter()
            .all(|finding| !finding.message.contains("is after now"))
    );
}

/// The finding of the one that failed pointed at `last_backup`, which was the success of the other.
#[test]
fn failing_schedule_beside_a_good_one_is_named() {
    let gate = Arc::new(Gate::default());
    let watched = Options::new().monitor_interval(Duration::from_millis(5));
    let place = Place::with(gate.in_options(watched), BANK);
    let folders = ["good", "bad"].map(|name| place.path(name));
    folders.iter().for_each(|folder| fs::create_dir(folder).unwrap());
    let second = Duration::from_secs(1);
    let _good = place.store.backup_every(second, 1, &folders[0]).unwrap();
    let _bad = place.store.backup_every(second, 1, &folders[1]).unwrap();
    wait_until("both make them", || {
        folders.iter().all(|folder| !scheduled(folder).is_empty())
    });
    gate.close(2);
    fs::remove_dir_all(&folders[1]).unwrap();
    gate.open();
    let mut found = None;
    wait_until("the good one made the last", || {
        let last = place.store.stats().last_backup;
        let mut advice = place.store.advice().into_iter();
        found = advice.find(|finding| finding.message.contains("scheduled backups fail"));
        found.is_some() && last.is_some_and(|last| last.error.is_none())
    });
    let finding = found.unwrap();
    assert!(finding.message.contains("No such file"), "{finding}");
    assert!(finding.message.contains(folders[1].to_str().unwrap()), "{finding}");
    assert!(!finding.message.contains(folders[0].to_str().unwrap()), "{finding}");
    assert!(!finding.to_string().contains("last_backup"), "{finding}");
}

#[test]
fn backup_alert_clears_when_schedule_stops() {
    let place = Place::with(Options::new().monitor_interval(Duration::from_millis(5)), BANK);
    let folder = place.path("backups");
    fs::create_dir(&folder).unwrap();
    let schedule = place.store.backup_every(Duration::from_secs(1), 1, &folder).unwrap();
    wait_until("the first is made", || !scheduled(&folder).is_empty());
    remove_from_schedule(&folder);
    wait_until("the alert begins", || backup_alert(&place.store).is_some());
    drop(schedule);
    wait_until("the alert is over", || serious(&place.store.stats()).is_empty());
}

#[test]
fn schedule_keeps_no_store_open() {
    let place = Place::new(BANK);
    let path = place.path("app.db");
    let backups = place.path("backups");
    fs::create_dir(&backups).unwrap();
    let store = Store::open(&path).unwrap();
    let schedule = store.backup_every(DAY, 1, &backups).unwrap();
    drop(store);
    // It would be AlreadyOpen.
    let store = Store::open(&path).unwrap();
    drop(schedule);
    let second = store.backup_every(DAY, 1, &backups).unwrap();
    assert!(store.close().unwrap().wal_truncated);
    assert!(matches!(store.backup_every(DAY, 1, &backups), Err(Error::Closed)));
    drop(store);
    drop(second);
}

#[test]
fn dropped_schedule_cancels_the_running_backup() {
    let (send, opened) = channel();
    let gate = Arc::new(AtomicBool::new(false));
    let (is_open, send) = (Arc::clone(&gate), Mutex::new(send));
    // Each connection is held where it is opened, once there is a schedule.
    let options = Options::new().on_connect(move |_, _| {
        if thread::current().name() == Some("larder-backup") {
            send.lock().unwrap().send(()).unwrap();
            wait_until("it may go on", || is_open.load(Ordering::Acquire));
        }
        Ok(())
    });
    let place = Place::with(options, BANK);
    let schedule = place.store.backup_every(DAY, 1, place.folder.path()).unwrap();
    opened.recv().unwrap();
    let stopper = thread::spawn(move || drop(schedule));
    // It has been told, or will be: it sees that at its next step at the latest.
    gate.store(true, Ordering::Release);
    stopper.join().unwrap();
    let names = names_in(place.folder.path());
    assert!(names.iter().all(|name| !name.starts_with('.')), "{names:?}");
    assert!(place.store.stats().readers.oldest_read.is_none());
}

#[test]
fn schedule_refuses_invalid_settings() {
    let place = Place::new(BANK);
    let folder = place.folder.path();
    let refused = |interval, keep| match place.store.backup_every(interval, keep, folder) {
        Err(Error::Options { option, .. }) => option,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(Duration::from_millis(999), 1), "interval");
    assert_eq!(refused(DAY, 0), "keep");
    fs::write(place.path("file"), "").unwrap();
    for name in ["missing", "file"] {
        let error = place.store.backup_every(DAY, 1, place.path(name)).unwrap_err();
        assert!(matches!(error, Error::Backup { .. }), "{error:?}");
    }
    let _for_ever = place.store.backup_every(Duration::MAX, usize::MAX, folder).unwrap();
    wait_until("the first is made", || !scheduled(folder).is_empty());
}

#[test]
fn schedule_survives_panic_of_on_connect() {
    let armed = Arc::new(AtomicBool::new(true));
    let panics = Arc::clone(&armed);
    let options = Options::new().on_connect(move |_, _| {
        let here = thread::current().name() == Some("larder-backup");
        assert!(!here || !panics.load(Ordering::Relaxed), "by on_connect");
        Ok(())
    });
    let place = Place::with(options.monitor_interval(Duration::from_millis(5)), BANK);
    let _schedule = place
        .store
        .backup_every(Duration::from_secs(1), 1, place.folder.path())
        .unwrap();
    let mut begun = None;
    wait_until("the alert begins", || {
        begun = backup_alert(&place.store);
        begun.is_some()
    });
    let reason = begun.unwrap().reason;
    assert!(reason.unwrap().contains("option `on_connect`: it panicked"));
    armed.store(false, Ordering::Relaxed);
    wait_until("one is made", || !scheduled(place.folder.path()).is_empty());
}
