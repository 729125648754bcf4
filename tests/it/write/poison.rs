//! A failing disk: acknowledged data is kept, a write with unknown outcome is reported as such, and the store accepts
//! no write after it.
//!
//! The failure is real, in a separate process: under `ulimit -f` a write beyond the limit fails with `EFBIG`, which
//! SQLite reports as an I/O error. No file can grow past the limit, the write-ahead log first of all. A full disk
//! (`SQLITE_FULL`) is a different error, simulated by `PRAGMA max_page_count`.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::support::{blocker, keep_log, log, write_or_fail};
use larder::rusqlite::ffi::SQLITE_IOERR_WRITE;
use larder::rusqlite::{self, ErrorCode};
use larder::{Error, Options, Outcome, Role, Store, WriteOptions, WriteTx};
use tempfile::{TempDir, tempdir};

use crate::support::child::{self, Child, succeeds, tell};

/// In blocks of 512 bytes, or of 1024 where the shell is bash: a limit of 256 KiB or 512 KiB.
const LIMIT: &str = "trap '' XFSZ; ulimit -f 512";

/// More than either.
const LARGE: usize = 600 * 1024;

pub(crate) fn child(task: &child::Task) {
    let path = Path::new(&task.args[0]);
    match task.role.as_str() {
        "write until the disk fails" => write_until_the_disk_fails(path),
        "a group that does not fit" => group_that_does_not_fit(path),
        "a statement that does not fit" => statement_that_does_not_fit(path),
        "a checkpoint that does not fit" => checkpoint_that_does_not_fit(path),
        "a checkpoint beside a bulk job that does not fit" => checkpoint_beside_bulk_job_that_does_not_fit(path),
        "a bulk job until the disk fails" => bulk_job_until_the_disk_fails(path),
        "a checkpoint that does not fit, and no write after it" => checkpoint_that_does_not_fit_and_no_write(path),
        "a close that does not fit" => close_that_does_not_fit(path),
        "an opening whose log cannot be written again" => opening_whose_log_cannot_be_written_again(path),
        other => panic!("no role {other:?}"),
    }
}

/// A row of some 4 KB.
fn add(tx: &WriteTx<'_>) -> larder::Result<i64> {
    tx.insert("INSERT INTO t(data) VALUES (randomblob(4000))", [])
}

fn code(error: &Error) -> Option<i32> {
    error
        .sqlite()
        .and_then(rusqlite::Error::sqlite_error)
        .map(|e| e.extended_code)
}

fn count(store: &Store) -> i64 {
    store
        .read(|tx| tx.query_row("SELECT count(*) FROM t", [], |row| row.get(0)))
        .unwrap()
}

#[track_caller]
fn assert_poisoned(error: &Error) {
    assert!(matches!(error, Error::Poisoned { .. }), "{error:?}");
    assert_eq!((error.outcome(), error.is_retryable()), (Outcome::NotStarted, false));
    assert_eq!(code(error), Some(SQLITE_IOERR_WRITE));
    let message = error.to_string();
    assert!(
        message.contains("disk I/O error") && message.contains("restart"),
        "{message}"
    );
}

#[track_caller]
fn assert_unknown(error: &Error) {
    assert!(matches!(error, Error::CommitUnknown { .. }), "{error:?}");
    assert_eq!((error.outcome(), error.is_retryable()), (Outcome::Unknown, false));
    assert_eq!(code(error), Some(SQLITE_IOERR_WRITE));
    let message = error.to_string();
    assert!(
        message.contains("outcome is unknown") && message.contains("before you repeat the write"),
        "{message}"
    );
    assert!(message.contains("ulimit -f"), "the cause: {message}");
}

/// What tells the next store to write the log again.
fn word(path: &Path) -> PathBuf {
    beside(path, "-unsynced")
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[track_caller]
fn assert_log_is_kept(store: &Store, path: &Path) {
    let report = store.close().unwrap();
    assert!(!report.wal_truncated);
    let reason = report.wal_kept_because.unwrap();
    assert!(reason.contains("poisoned") && reason.contains("recovery"), "{reason}");
    assert!(log_size(path) > 0, "the log has gone");
}

fn log_of(path: &Path) -> PathBuf {
    beside(path, "-wal")
}

fn log_size(path: &Path) -> u64 {
    fs::metadata(log_of(path)).map_or(0, |log| log.len())
}

fn write_until_the_disk_fails(path: &Path) {
    let store = Store::open(path).unwrap();
    // It is the log that does not fit, and no checkpoint of a writer that had to wait for the next write.
    let _reader = keep_log(path);
    let error = loop {
        match store.write(add) {
            Ok(id) => tell(id),
            Err(error) => break error,
        }
    };
    assert_unknown(&error);
    let acknowledged = count(&store);
    assert!(acknowledged > 10, "{acknowledged}");

    // From here on each kind of write is refused by name, at once; reads go on, and see what was acknowledged.
    for _ in 0..3 {
        assert_poisoned(&store.write(add).unwrap_err());
        assert_poisoned(&store.write_with(write_or_fail(), add).unwrap_err());
        assert_poisoned(&store.submit(add).unwrap_err());
        // A small one, too, for which there would be room.
        assert_poisoned(
            &store
                .write(|tx| tx.execute("DELETE FROM t WHERE id = 1", []))
                .unwrap_err(),
        );
        assert_eq!(count(&store), acknowledged);
    }
    assert_log_is_kept(&store, path);
    tell("done");
}

fn group_that_does_not_fit(path: &Path) {
    let store = Options::new()
        .max_group_time(Duration::from_secs(20))
        .open(path)
        .unwrap();
    tell(store.write(add).unwrap());
    let (let_go, blocked) = blocker(&store);
    let rows = LARGE / 4000;
    let group: Vec<_> = (0..rows).map(|_| store.submit(add).unwrap()).collect();
    // One with a limit is never in a group with others: this is not started before the group has failed.
    let alone = WriteOptions::new().execution_timeout(child::PATIENCE);
    let behind = store.submit_with(alone, add).unwrap();
    drop(let_go);
    assert_unknown(&blocked.wait().unwrap_err());
    for write in group {
        assert_unknown(&write.wait().unwrap_err());
    }
    assert_poisoned(&behind.wait().unwrap_err());
    assert_poisoned(&store.write(add).unwrap_err());
    assert_eq!(count(&store), 1);
    assert_log_is_kept(&store, path);
    tell(format!("group of {}", rows));
}

fn statement_that_does_not_fit(path: &Path) {
    // So small a cache that the pages go to the log before COMMIT.
    let store = Options::new()
        .cache_size(16 * 1024)
        .max_group_time(Duration::from_secs(20))
        .open(path)
        .unwrap();
    tell(store.write(add).unwrap());
    let (let_go, blocked) = blocker(&store);
    let before = store.submit(add).unwrap();
    let large = store
        .submit(|tx| {
            let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1000)
                        INSERT INTO t(data) SELECT randomblob(4000) FROM n";
            tx.execute(fill, [])
        })
        .unwrap();
    let after = store.submit(add).unwrap();
    drop(let_go);
    let error = large.wait().unwrap_err();
    assert!(matches!(error, Error::Sqlite { .. }), "{error:?}");
    assert_eq!(
        (error.outcome(), code(&error)),
        (Outcome::RolledBack, Some(SQLITE_IOERR_WRITE))
    );
    // SQLite has ended the whole transaction, with those before it, and nothing of it can come back: no commit
    // frame was written. So they may try again, and the store is not poisoned.
    for error in [blocked.wait().unwrap_err(), before.wait().unwrap_err()] {
        assert!(matches!(error, Error::RolledBack { .. }), "{error:?}");
        assert!(error.is_retryable());
    }
    tell(after.wait().unwrap());
    tell(store.write(add).unwrap());
    assert_eq!(count(&store), 3);
    store.close().unwrap();
    tell("done");
}

fn checkpoint_that_does_not_fit(path: &Path) {
    // The parent has made the database larger than the limit: its end cannot be written, the log can.
    let store = Options::new().checkpoint_pages(1).mmap_size(0).open(path).unwrap();
    let last: i64 = store
        .read(|tx| tx.query_row("SELECT max(id) FROM t", [], |row| row.get(0)))
        .unwrap();
    let touch = "UPDATE t SET data = 'touched' WHERE id = ?1";
    // Acknowledged before the checkpoint failed, and kept.
    assert_eq!(store.write(move |tx| tx.execute(touch, [last])).unwrap(), 1);
    let began = Instant::now();
    let error = loop {
        match store.write(|_| Ok(())) {
            Ok(()) => assert!(began.elapsed() < child::PATIENCE, "the checkpoint has not failed"),
            Err(error) => break error,
        }
    };
    assert_poisoned(&error);
    let touched = store
        .read(|tx| tx.exists("SELECT 1 FROM t WHERE id = ?1 AND data = 'touched'", [last]))
        .unwrap();
    assert!(touched);
    assert_log_is_kept(&store, path);
    tell(last);
}

fn checkpoint_beside_bulk_job_that_does_not_fit(path: &Path) {
    // As above, by the thread that makes the checkpoints of a bulk job.
    let store = Options::new().checkpoint_pages(1).mmap_size(0).open(path).unwrap();
    let last: i64 = store
        .read(|tx| tx.query_row("SELECT max(id) FROM t", [], |row| row.get(0)))
        .unwrap();
    let touch = "UPDATE t SET data = 'touched' WHERE id = ?1";
    assert_eq!(store.bulk().insert(touch, [(last,)]).run().unwrap().rows, 1);
    let began = Instant::now();
    let error = loop {
        match store.write(|_| Ok(())) {
            Ok(()) => assert!(began.elapsed() < child::PATIENCE, "the checkpoint has not failed"),
            // Its COMMIT returned after the checkpoint had failed.
            Err(Error::CommitUnknown { .. }) => {}
            Err(error) => break error,
        }
    };
    assert_poisoned(&error);
    #[cfg(target_os = "linux")]
    assert!(crate::bulk::checkpoints::has_checkpoint_thread());
    let again = store.bulk().insert(touch, [(last,)]).run().unwrap_err();
    assert!(
        matches!(&again, Error::Bulk { source, .. } if matches!(**source, Error::Poisoned { .. })),
        "{again:?}"
    );
    let touched = store
        .read(|tx| tx.exists("SELECT 1 FROM t WHERE id = ?1 AND data = 'touched'", [last]))
        .unwrap();
    assert!(touched);
    assert_log_is_kept(&store, path);
    tell(last);
}

fn checkpoint_that_does_not_fit_and_no_write(path: &Path) {
    log::collect();
    let store = Options::new().checkpoint_pages(1).mmap_size(0).open(path).unwrap();
    let last: i64 = store
        .read(|tx| tx.query_row("SELECT max(id) FROM t", [], |row| row.get(0)))
        .unwrap();
    let touch = "UPDATE t SET data = 'touched' WHERE id = ?1";
    assert_eq!(store.bulk().insert(touch, [(last,)]).run().unwrap().rows, 1);
    let event = log::wait_for(|event| event.target == "larder::poison");
    assert_eq!(event.field("error.type"), Some("poisoned"), "{event:?}");
    assert_poisoned(&store.write(|_| Ok(())).unwrap_err());
    assert_log_is_kept(&store, path);
    tell(last);
}

const ROWS: u64 = 20_000;

fn load(store: &Store) -> larder::Result<larder::BulkReport> {
    let rows = (0..ROWS.cast_signed()).map(|id| (id, "x".repeat(100)));
    let job = store.bulk().resumable("load");
    job.insert("INSERT INTO t VALUES (?1, ?2)", rows).run()
}

fn bulk_job_until_the_disk_fails(path: &Path) {
    let store = Store::open(path).unwrap();
    let error = load(&store).unwrap_err();
    let Error::Bulk { rows, source, .. } = &error else {
        panic!("{error}")
    };
    assert_unknown(source);
    assert_eq!(error.outcome(), Outcome::Unknown);
    assert_eq!(count(&store), rows.cast_signed());
    for again in [
        load(&store).unwrap_err(),
        store.bulk().delete("t", "id >= ?1", (0,)).run().unwrap_err(),
    ] {
        assert_eq!(again.outcome(), Outcome::NotStarted, "{again:?}");
        assert!(again.to_string().contains("restart"), "{again}");
    }
    assert!(store.stats().bulk.is_empty());
    tell(rows);
}

fn close_that_does_not_fit(path: &Path) {
    // As above, with the first checkpoint at the close.
    let store = Options::new().mmap_size(0).open(path).unwrap();
    let last: i64 = store
        .read(|tx| tx.query_row("SELECT max(id) FROM t", [], |row| row.get(0)))
        .unwrap();
    // The writer has no idle moment between the write and the close, in which it would make a checkpoint.
    let (let_go, blocked) = blocker(&store);
    let touch = "UPDATE t SET data = 'touched' WHERE id = ?1";
    let touched = store.submit(move |tx| tx.execute(touch, [last])).unwrap();
    let report = thread::scope(|scope| {
        let closes = scope.spawn(|| store.close().unwrap());
        let began = Instant::now();
        loop {
            match store.submit(|_| Ok(())) {
                Ok(_) => assert!(began.elapsed() < child::PATIENCE, "the close has not begun"),
                Err(Error::Closed) => break,
                Err(error) => panic!("{error}"),
            }
            thread::sleep(Duration::from_millis(1));
        }
        drop(let_go);
        closes.join().unwrap()
    });
    blocked.wait().unwrap();
    assert_eq!(touched.wait().unwrap(), 1);
    assert!(!report.wal_truncated);
    let reason = report.wal_kept_because.unwrap();
    let told = "the checkpoint failed with SQLite's error 778, sqlite_ioerr";
    assert_eq!(reason, told);
    assert!(log_size(path) > 0, "the log has gone");
    tell(last);
}

fn opening_whose_log_cannot_be_written_again(path: &Path) {
    let error = Store::open(path).unwrap_err();
    assert!(matches!(error, Error::Open { .. }), "{error:?}");
    assert_eq!(error.outcome(), Outcome::NotStarted);
    let message = error.to_string();
    assert!(
        message.contains("app.db") && message.contains("could not be written once more: check the disk"),
        "{message}"
    );
    tell("refused");
}

fn database() -> (TempDir, std::path::PathBuf) {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let store = Store::open(&path).unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, data ANY NOT NULL) STRICT"))
        .unwrap();
    store.close().unwrap();
    (folder, path)
}

/// Runs a role of [`child`] on a disk that fails and gives what it told, or `None` if there is none (said visibly).
fn on_a_failing_disk(role: &str, path: &Path) -> Option<Vec<String>> {
    if !succeeds(std::process::Command::new("sh").args(["-c", LIMIT])) {
        child::skipped("this shell cannot limit the size of files");
        return None;
    }
    let told = Child::start_in_shell(LIMIT, "write::poison", role, &[path.to_str().unwrap()]).finish();
    assert!(!told.is_empty());
    Some(told)
}

#[track_caller]
fn assert_healthy(store: &Store) {
    let check: String = store
        .read(|tx| tx.query_row("PRAGMA integrity_check", [], |row| row.get(0)))
        .unwrap();
    assert_eq!(check, "ok");
    store.write(add).unwrap();
}

#[test]
fn failed_commit_is_unknown_and_poisons_the_store() {
    let (_folder, path) = database();
    let Some(told) = on_a_failing_disk("write until the disk fails", &path) else {
        return;
    };
    let (done, acknowledged) = told.split_last().unwrap();
    assert_eq!(done, "done");
    let store = Store::open(&path).unwrap();
    for id in acknowledged {
        let id: i64 = id.parse().unwrap();
        assert!(
            store
                .read(|tx| tx.exists("SELECT 1 FROM t WHERE id = ?1", [id]))
                .unwrap(),
            "row {id} is lost"
        );
    }
    // The one whose outcome was unknown may have come back.
    let more = count(&store) - acknowledged.len() as i64;
    assert!((0..=1).contains(&more), "{more}");
    assert_healthy(&store);
}

#[test]
fn group_of_failed_commit_is_all_or_nothing() {
    let (_folder, path) = database();
    let Some(told) = on_a_failing_disk("a group that does not fit", &path) else {
        return;
    };
    let store = Store::open(&path).unwrap();
    assert_eq!(told[0], "1");
    let group: i64 = told[1].strip_prefix("group of ").unwrap().parse().unwrap();
    let rows = count(&store);
    assert!(rows == 1 || rows == 1 + group, "{rows}");
    assert_healthy(&store);
}

#[test]
fn failed_statement_rolls_back_without_poison() {
    let (_folder, path) = database();
    if on_a_failing_disk("a statement that does not fit", &path).is_none() {
        return;
    }
    let store = Store::open(&path).unwrap();
    assert_eq!(count(&store), 3);
    assert_healthy(&store);
}

/// Makes the database larger than the limit.
fn fill(path: &Path) {
    let store = Store::open(path).unwrap();
    for _ in 0..LARGE / 4000 {
        store.write(add).unwrap();
    }
    store.close().unwrap();
}

/// Makes a database larger than the limit, lets a child touch its last row, and looks whether that was kept.
#[track_caller]
fn a_row_past_the_limit_is_recovered(role: &str) {
    let (_folder, path) = database();
    fill(&path);
    let Some(told) = on_a_failing_disk(role, &path) else {
        return;
    };
    let last: i64 = told[0].parse().unwrap();
    let store = Store::open(&path).unwrap();
    let touched = store
        .read(|tx| tx.exists("SELECT 1 FROM t WHERE id = ?1 AND data = 'touched'", [last]))
        .unwrap();
    assert!(touched, "an acknowledged write is lost");
    assert_healthy(&store);
}

#[test]
fn failed_checkpoint_poisons_and_log_keeps_rows() {
    a_row_past_the_limit_is_recovered("a checkpoint that does not fit");
}

#[test]
fn failed_checkpoint_beside_bulk_job_poisons_and_log_keeps_rows() {
    a_row_past_the_limit_is_recovered("a checkpoint beside a bulk job that does not fit");
}

#[test]
fn failed_checkpoint_is_reported_without_another_write() {
    a_row_past_the_limit_is_recovered("a checkpoint that does not fit, and no write after it");
}

#[test]
fn failed_checkpoint_at_close_keeps_the_log() {
    a_row_past_the_limit_is_recovered("a close that does not fit");
}

#[test]
fn poisoned_store_leaves_database_file_unchanged() {
    // A checkpoint at the close, by larder or by SQLite's last connection, would sync what the disk has refused.
    let (_folder, path) = database();
    let before = fs::read(&path).unwrap();
    let Some(_) = on_a_failing_disk("write until the disk fails", &path) else {
        return;
    };
    assert_eq!(fs::read(&path).unwrap(), before);
    assert!(log_size(&path) > 0);
}

#[test]
fn poisoned_store_leaves_marker_and_next_rewrites_log() {
    for role in [
        "write until the disk fails",
        "a checkpoint that does not fit",
        "a checkpoint beside a bulk job that does not fit",
        "a close that does not fit",
    ] {
        let (_folder, path) = database();
        if role != "write until the disk fails" {
            fill(&path);
        }
        assert!(!word(&path).exists());
        if on_a_failing_disk(role, &path).is_none() {
            return;
        }
        let text = fs::read_to_string(word(&path)).unwrap();
        assert!(text.contains("larder") && text.contains("-wal"), "{text}");
        let log = fs::read(log_of(&path)).unwrap();
        let file = fs::File::options().write(true).open(log_of(&path)).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();

        let store = Store::open(&path).unwrap();
        assert!(!word(&path).exists(), "{role}");
        assert!(fs::read(log_of(&path)).unwrap() == log, "{role}: the log is another");
        let modified = file.metadata().unwrap().modified().unwrap();
        assert!(modified > SystemTime::UNIX_EPOCH, "{role}: it was not written");
        assert_healthy(&store);
        assert!(store.close().unwrap().wal_truncated);
        assert!(!word(&path).exists());
    }
}

#[test]
fn open_fails_if_log_cannot_be_rewritten() {
    let (_folder, path) = database();
    let store = Store::open(&path).unwrap();
    // A log larger than the limit, and not yet in the database.
    let _reader = keep_log(&path);
    for _ in 0..LARGE / 4000 {
        store.write(add).unwrap();
    }
    let folder = tempdir().unwrap();
    let copy = folder.path().join("app.db");
    fs::copy(&path, &copy).unwrap();
    fs::copy(log_of(&path), log_of(&copy)).unwrap();
    fs::write(word(&copy), "").unwrap();
    let files = || [fs::read(&copy).unwrap(), fs::read(log_of(&copy)).unwrap()];
    let before = files();
    assert!(before[1].len() > LARGE);

    let Some(told) = on_a_failing_disk("an opening whose log cannot be written again", &copy) else {
        return;
    };
    assert_eq!(told, ["refused"]);
    assert!(files() == before);
    assert!(word(&copy).exists());

    let store = Store::open(&copy).unwrap();
    assert_eq!(count(&store), (LARGE / 4000) as i64);
    assert_healthy(&store);
}

#[test]
fn marker_without_a_log_is_removed() {
    let (_folder, path) = database();
    fs::write(word(&path), "").unwrap();
    let store = Store::open(&path).unwrap();
    assert!(!word(&path).exists());
    assert_healthy(&store);
}

#[test]
fn open_fails_if_marker_cannot_be_removed() {
    let (_folder, path) = database();
    fs::create_dir(word(&path)).unwrap();
    let message = Store::open(&path).unwrap_err().to_string();
    assert!(message.contains("its file -unsynced cannot be removed"), "{message}");
    fs::remove_dir(word(&path)).unwrap();
    assert_healthy(&Store::open(&path).unwrap());
}

/// The slice whose commit failed is there or not, and the cursor with it.
#[test]
fn bulk_job_goes_on_after_its_commit_has_failed() {
    let (_folder, path) = database();
    let Some(told) = on_a_failing_disk("a bulk job until the disk fails", &path) else {
        return;
    };
    let committed: u64 = told[0].parse().unwrap();
    let store = Store::open(&path).unwrap();
    let report = load(&store).unwrap();
    assert!(report.resumed_from >= committed, "{committed}: {report}");
    assert_eq!(report.resumed_from + report.rows, ROWS);
    assert_eq!(count(&store), ROWS.cast_signed());
    assert_healthy(&store);
}

// ---- a full disk ----

/// A store whose database cannot have more than 20 pages.
fn small() -> Store {
    let store = Options::new()
        .max_group_time(Duration::from_secs(20))
        .on_connect(|conn, role| {
            if role == Role::Writer {
                conn.query_row("PRAGMA max_page_count = 20", [], |_| Ok(()))?;
            }
            Ok(())
        })
        .open_temp()
        .unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, data BLOB)"))
        .unwrap();
    store
}

#[track_caller]
fn assert_full(error: &Error) {
    let full = error.sqlite().and_then(rusqlite::Error::sqlite_error_code);
    assert!(matches!(error, Error::Sqlite { .. }), "{error:?}");
    assert_eq!(
        (full, error.outcome()),
        (Some(ErrorCode::DiskFull), Outcome::RolledBack)
    );
    assert!(error.to_string().contains("free disk space"), "{error}");
}

#[test]
fn full_disk_fails_one_write_and_store_works() {
    let store = small();
    let error = loop {
        if let Err(error) = store.write(add) {
            break error;
        }
    };
    assert_full(&error);
    let rows = count(&store);
    assert!(rows > 5, "{rows}");
    assert_full(&store.write(add).unwrap_err());
    assert_eq!(count(&store), rows);

    assert_eq!(store.write(|tx| tx.execute("DELETE FROM t", [])).unwrap() as i64, rows);
    store.write(add).unwrap();
    assert_eq!(count(&store), 1);
    assert!(store.close().unwrap().wal_truncated);
}

#[test]
fn neighbours_of_write_on_full_disk_are_retryable() {
    let store = small();
    let (let_go, blocked) = blocker(&store);
    let small_row = |tx: &WriteTx<'_>| tx.insert("INSERT INTO t(data) VALUES ('small')", []);
    let before = store.submit(small_row).unwrap();
    let large = store
        .submit(|tx| tx.insert("INSERT INTO t(data) VALUES (randomblob(200000))", []))
        .unwrap();
    let after = store.submit(small_row).unwrap();
    drop(let_go);

    assert_full(&large.wait().unwrap_err());
    for error in [blocked.wait().unwrap_err(), before.wait().unwrap_err()] {
        assert!(matches!(error, Error::RolledBack { .. }), "{error:?}");
        assert_eq!((error.outcome(), error.is_retryable()), (Outcome::RolledBack, true));
    }
    after.wait().unwrap();
    assert_eq!(count(&store), 1);
    // As they were told: the second try succeeds.
    store.write(small_row).unwrap();
    assert_eq!(count(&store), 2);
}

#[test]
fn nothing_is_written_after_a_swallowed_full_disk() {
    let store = small();
    let error = store
        .write(|tx| {
            let _ = tx.insert("INSERT INTO t(data) VALUES (randomblob(200000))", []);
            let _ = tx.insert("INSERT INTO t(data) VALUES ('small')", []);
            Ok(())
        })
        .unwrap_err();
    assert_eq!(error.outcome(), Outcome::RolledBack, "{error:?}");
    assert_eq!(count(&store), 0);
    store.write(add).unwrap();
}
