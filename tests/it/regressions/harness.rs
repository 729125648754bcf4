//! Regression tests for defects that the fault harness (`tests/faults`) found and that can be shown without its disk
//! and its allocator. The harness's suite `found` has the others.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use larder::rusqlite::{Connection, ffi};
use larder::{Error, Migration, Migrations, Options, Store};
use tempfile::tempdir;

use crate::support::child::{Child, Task, tell};

pub(crate) fn child(task: &Task) {
    match task.role.as_str() {
        "opens and closes stores" => opens_and_closes_stores(),
        role => panic!("no role {role:?}"),
    }
}

/// `PRAGMA journal_mode = WAL` gives its row, "wal", before it commits the change of the file's header. That commit's error
/// was lost with the rest of the statement: on a full disk the store opened in rollback mode, took itself to be in WAL
/// mode, and with `synchronous = NORMAL` the power could take what it acknowledged.
#[test]
#[allow(unsafe_code)]
fn open_fails_if_switch_to_wal_cannot_commit() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch("CREATE TABLE t(x)").unwrap();
    conn.close().unwrap();
    // The switch is the first commit in a file that has its tables. The commits after it would report the refusal, too.
    static REFUSES: AtomicBool = AtomicBool::new(true);
    let first = AtomicBool::new(true);
    let options = Options::new().on_connect(move |conn, _| {
        // By SQLite's own function: larder refuses a hook of rusqlite's.
        if first.swap(false, Ordering::SeqCst) {
            unsafe extern "C" fn refuse_once(_: *mut std::ffi::c_void) -> std::ffi::c_int {
                REFUSES.swap(false, Ordering::SeqCst).into()
            }
            // SAFETY: the connection is open, and the function uses no data.
            unsafe { ffi::sqlite3_commit_hook(conn.handle(), Some(refuse_once), std::ptr::null_mut()) };
        }
        Ok(())
    });

    let error = options.clone().open(&path).unwrap_err();
    let code = error.sqlite().and_then(|e| e.sqlite_error()).map(|e| e.extended_code);
    assert_eq!(code, Some(ffi::SQLITE_CONSTRAINT_COMMITHOOK), "{error:?}");

    let store = options.open(&path).unwrap();
    let mode: String = store
        .read(|tx| tx.query_row("PRAGMA journal_mode", [], |row| row.get(0)))
        .unwrap();
    assert_eq!(mode, "wal");
}

/// A guard that was to act only if the writer thread panics was forgotten (`std::mem::forget`) where it had not, and with
/// it the counters and the queue of the store that it shared: 82 KB stayed behind each store that was closed.
#[test]
fn closed_store_leaks_no_memory() {
    if !cfg!(target_os = "linux") {
        return;
    }
    // Two threads that allocate at once may get another arena, and that is no leak.
    let one_arena = "export MALLOC_ARENA_MAX=1";
    let child = Child::start_in_shell(one_arena, "regressions::harness", "opens and closes stores", &[]);
    let resident: Vec<u64> = (0..=ROUNDS).map(|_| child.line().parse().unwrap()).collect();
    child.finish();
    let grown = resident.last().unwrap().saturating_sub(resident[0]);
    assert!(grown < GROWTH, "{STORES} stores have left {grown} bytes behind");
}

/// What was lost with all of them was eight times as much.
const GROWTH: u64 = 2 << 20;
const STORES: u32 = 200;
const ROUNDS: u32 = 10;

/// Tells how much memory it has before and after each round, so that the parent sees it go on. What is made once is made
/// before.
fn opens_and_closes_stores() {
    let open_and_close = || {
        let store = Store::open_temp().unwrap();
        store.write(|tx| tx.execute_batch("CREATE TABLE t(x)")).unwrap();
        store.close().unwrap();
    };
    (0..STORES / 4).for_each(|_| open_and_close());
    tell(resident());
    for _ in 0..ROUNDS {
        (0..STORES / ROUNDS).for_each(|_| open_and_close());
        tell(resident());
    }
}

/// Bytes of memory of its own that this process has in use: `RssAnon` of proc(5). `VmRSS` counts the pages of the program,
/// too, which come as they are first used.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).unwrap();
    kib.parse::<u64>().unwrap() * 1024
}

/// SQLite has each name of a statement judged before it runs, also one that stands in the schema alone and is not UTF-8. At
/// such a name rusqlite's authorizer panics: no statement that met one could be made, and a program with
/// `panic = "abort"` would have ended.
#[test]
fn names_not_utf8_are_accepted() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, cafe TEXT NOT NULL DEFAULT 'black') STRICT;
         CREATE INDEX t_cafe ON t(cafe);
         CREATE TRIGGER t_cafe_in AFTER INSERT ON t BEGIN UPDATE t SET cafe = upper(cafe) WHERE id = new.id; END;
         INSERT INTO t(id) VALUES (1);
         CREATE TABLE cafe(x);
         INSERT INTO cafe VALUES (7);
         PRAGMA writable_schema = ON;
         UPDATE sqlite_schema SET
             name = CAST(replace(CAST(name AS BLOB), 'cafe', x'636166e9') AS TEXT),
             tbl_name = CAST(replace(CAST(tbl_name AS BLOB), 'cafe', x'636166e9') AS TEXT),
             sql = CAST(replace(CAST(sql AS BLOB), 'cafe', x'636166e9') AS TEXT);",
    )
    .unwrap();
    conn.close().unwrap();

    let migrations = Migrations::new([Migration::new(
        1,
        "fresh",
        "CREATE TABLE fresh(id INTEGER PRIMARY KEY) STRICT",
    )]);
    let store = Options::new()
        .max_statements(10)
        .migrations(migrations)
        .open(&path)
        .unwrap();
    let all = "SELECT * FROM t ORDER BY id";
    let rows = |tx: &larder::ReadTx<'_>| tx.query_map(all, [], |row| Ok((row.get(0)?, row.get(1)?)));
    let read: Vec<(i64, String)> = store.read(rows).unwrap();
    assert_eq!(read, [(1, "BLACK".to_owned())]);
    store
        .write(|tx| tx.execute("INSERT INTO t VALUES (2, 'white')", []))
        .unwrap();
    // What is not allowed is refused as ever.
    let refused = store
        .write(|tx| tx.execute("ATTACH 'other.db' AS other", []))
        .unwrap_err();
    assert!(matches!(refused, Error::Refused { .. }), "{refused}");
    let read: Vec<(i64, String)> = store.read(rows).unwrap();
    assert_eq!(read[1], (2, "WHITE".to_owned()));

    assert!(store.check().run().unwrap().is_ok());
    // Advice looks at names, and says what is in its way.
    let advice = store.advice();
    let unread = advice
        .iter()
        .find(|finding| finding.topic == "schema_not_read")
        .unwrap();
    assert!(unread.remedy.contains("not UTF-8"), "{unread:?}");
    let copy = folder.path().join("copy.db");
    store.backup(&copy).checksum(true).run().unwrap();
    store.backup_compact(folder.path().join("compact.db")).run().unwrap();
    store.close().unwrap();
    let restored = folder.path().join("restored.db");
    Store::restore(&copy, &restored).unwrap();
    let copied: Vec<(i64, String)> = Store::open(&restored).unwrap().read(rows).unwrap();
    assert_eq!(copied, read);
}
