//! A `tracing` subscriber that panics or calls back into the store changes no outcome and stops no thread.
//!
//! The writer thread uses the global subscriber, so each case runs in a separate process with a global subscriber of
//! this module.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use std::{fmt, thread};

use larder::{AlertKind, Error, Options, Outcome, ReadOptions, Result, Store, WriteOptions, WriteTx};
use tempfile::tempdir;
use tracing::span::{Attributes, Id, Record};
use tracing::{Metadata, Subscriber, info_span};
use tracing_core::span::Current;

use crate::support::child::{self, Child, tell};
use crate::support::{count, remove_from_schedule, until};
use crate::write::groups::{Gate, grouping};

/// What the subscriber does each time that it is called.
static CONDUCT: AtomicUsize = AtomicUsize::new(OBEDIENT);

const OBEDIENT: usize = 0;
const PANICS: usize = 1;
const PANICS_AT_EXIT: usize = 2;
const CALLS_BACK: usize = 3;

/// The messages of larder's events, and the store that is called back.
static HEARD: Mutex<Vec<String>> = Mutex::new(Vec::new());
static STORE: OnceLock<Store> = OnceLock::new();

struct Rude;

thread_local! {
    static ENTERED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
    static CALLING: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

fn act() {
    match CONDUCT.load(Ordering::SeqCst) {
        PANICS => resume_unwind(Box::new("the subscriber panicked")),
        CALLS_BACK => call_back(),
        _ => {}
    }
}

fn act_at_exit() {
    if CONDUCT.load(Ordering::SeqCst) == PANICS_AT_EXIT {
        resume_unwind(Box::new("the subscriber panicked"));
    }
}

fn call_back() {
    let Some(store) = STORE.get() else { return };
    if CALLING.replace(true) {
        return;
    }
    let _ = store.stats();
    let _ = store.poisoned();
    let mut failed = store.read(|tx| tx.exists("SELECT 1 FROM t", [])).err();
    // A caller of this module may hold the writer at its gate.
    let thread = thread::current();
    if thread.name().is_some_and(|name| name.starts_with("larder-")) {
        let wait = WriteOptions::new().queue_timeout(Duration::from_secs(20));
        let written = store.write_with(wait, |tx| tx.execute("INSERT INTO heard VALUES (1)", []));
        failed = failed.or(written.err());
    }
    let hung = failed.filter(|error| matches!(error, Error::QueueTimeout { .. } | Error::ReadQueueTimeout { .. }));
    CALLING.set(false);
    if let Some(error) = hung {
        lock().push(format!("hung: {error}"));
    }
}

fn lock() -> std::sync::MutexGuard<'static, Vec<String>> {
    HEARD.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Subscriber for Rude {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("larder") || metadata.is_span()
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Message(String);
        impl tracing::field::Visit for Message {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
                if field.name() == "message" {
                    self.0 = format!("{value:?}");
                }
            }
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        lock().push(message.0);
        act();
    }

    fn enter(&self, _: &Id) {
        act();
        ENTERED.set(ENTERED.get() + 1);
    }

    fn exit(&self, _: &Id) {
        ENTERED.set(ENTERED.get() - 1);
        act();
        act_at_exit();
    }

    fn clone_span(&self, id: &Id) -> Id {
        act();
        id.clone()
    }

    fn try_close(&self, _: Id) -> bool {
        act();
        act_at_exit();
        true
    }

    fn current_span(&self) -> Current {
        static METADATA: OnceLock<&'static Metadata<'static>> = OnceLock::new();
        let metadata = METADATA.get_or_init(|| info_span!("request").metadata().expect("all spans are enabled"));
        act();
        Current::new(Id::from_u64(1), metadata)
    }
}

fn install(conduct: usize) {
    tracing::subscriber::set_global_default(Rude).expect("the process has no other");
    // Its metadata.
    let _ = Rude.current_span();
    CONDUCT.store(conduct, Ordering::SeqCst);
}

/// In the child: the event was emitted, if not now then soon.
#[track_caller]
fn heard(message: &str) {
    let give_up = Instant::now() + child::PATIENCE;
    while !lock().iter().any(|heard| heard.starts_with(message)) {
        assert!(Instant::now() < give_up, "{message:?} is not among {:?}", lock());
        thread::yield_now();
    }
}

fn all_slow() -> Options {
    grouping()
        .slow_write_threshold(Duration::ZERO)
        .slow_read_threshold(Duration::ZERO)
        .slow_events_per_second(1_000_000)
        .wal_limit(256 * 1024)
        .monitor_interval(Duration::from_millis(5))
}

fn open(path: &Path) -> Store {
    let store = all_slow().open(path).unwrap();
    store
        .write(|tx| {
            tx.execute_batch(
                "CREATE TABLE t(id INTEGER PRIMARY KEY, data BLOB) STRICT; CREATE TABLE heard(n INTEGER) STRICT;",
            )
        })
        .unwrap();
    store
}

fn insert(tx: &WriteTx<'_>, id: i64) -> Result<usize> {
    tx.execute("INSERT INTO t VALUES (?1, zeroblob(3800))", [id])
}

#[track_caller]
fn assert_its_panic_is_its_own(store: &Store) {
    let write = || store.write::<(), _>(|_| resume_unwind(Box::new("the closure")));
    let payload = catch_unwind(AssertUnwindSafe(write)).unwrap_err();
    assert_eq!(payload.downcast_ref(), Some(&"the closure"));
}

pub(crate) fn child(task: &child::Task) {
    let path = Path::new(&task.args[0]);
    let conduct = match task.args[1].as_str() {
        "panics" => PANICS,
        "panics at exit" => PANICS_AT_EXIT,
        _ => CALLS_BACK,
    };
    install(conduct);
    match task.role.as_str() {
        "writes" => writes(path),
        "reads" => reads(path),
        "spans" => spans(path),
        "poison" => poison(path),
        "maintenance" => maintenance(path),
        #[cfg(feature = "metrics")]
        "recorder" => recorder(path),
        other => panic!("no role {other:?}"),
    }
    CONDUCT.store(OBEDIENT, Ordering::SeqCst);
    let hung: Vec<_> = lock()
        .iter()
        .filter(|heard| heard.starts_with("hung"))
        .cloned()
        .collect();
    assert_eq!(hung, [""; 0]);
    tell("done");
}

/// Runs a role in a process whose subscriber behaves so.
#[track_caller]
fn in_a_process(role: &str, conduct: &str) {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let args = [path.to_str().unwrap(), conduct];
    let child = if role == "poison" {
        Child::start_in_shell("trap '' XFSZ; ulimit -f 2048", "telemetry::subscribers", role, &args)
    } else {
        Child::start("telemetry::subscribers", role, &args)
    };
    child.expect("done");
    child.finish();
}

fn writes(path: &Path) {
    let store = open(path);
    let _ = STORE.set(store.clone());
    heard("store opened");
    // A slow write.
    assert_eq!(store.write(|tx| insert(tx, 1)).unwrap(), 1);
    heard("slow write");
    // A closure that leaves a statement, in a group.
    let gate = Gate::hold(&store);
    let first = store.submit(|tx| insert(tx, 2)).unwrap();
    let leaks = store
        .submit(|tx| {
            insert(tx, 3)?;
            let mut statement = tx.prepare("SELECT * FROM t")?;
            let mut rows = statement.query([])?;
            rows.next()?;
            std::mem::forget(rows);
            std::mem::forget(statement);
            Ok(3)
        })
        .unwrap();
    let last = store.submit(|tx| insert(tx, 4)).unwrap();
    gate.open();
    assert_eq!(
        [first, leaks, last].map(|write| write.wait().unwrap()),
        [1, 3, 1],
        "the outcomes are their own"
    );
    heard("a closure leaked unfinished statements");
    // A group that SQLite rolls back.
    let gate = Gate::hold(&store);
    let lost = [5, 6].map(|id| store.submit(move |tx| insert(tx, id)).unwrap());
    let bad = store
        .submit(|tx| tx.execute("INSERT OR ROLLBACK INTO t VALUES (1, NULL)", []))
        .unwrap();
    let after = store.submit(|tx| insert(tx, 7)).unwrap();
    gate.open();
    for write in lost {
        let error = write.wait().unwrap_err();
        assert!(matches!(error, Error::RolledBack { .. }), "{error:?}");
        assert_eq!(error.outcome(), Outcome::RolledBack);
    }
    let error = bad.wait().unwrap_err();
    assert_eq!(error.outcome(), Outcome::RolledBack, "{error:?}");
    assert_eq!(after.wait().unwrap(), 1);
    heard("group rolled back");
    assert_its_panic_is_its_own(&store);
    store.write(|tx| insert(tx, 8)).unwrap();
    assert_eq!(count(&store), 6);
    assert!(store.close().unwrap().wal_truncated);
    heard("store closed");
}

fn reads(path: &Path) {
    let store = all_slow().readers(2).open(path).unwrap();
    store
        .write(|tx| {
            tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, data BLOB) STRICT; CREATE TABLE heard(n INTEGER)")
        })
        .unwrap();
    let _ = STORE.set(store.clone());
    for _ in 0..10 {
        assert_eq!(count(&store), 0);
    }
    heard("slow read");
    #[cfg(feature = "async")]
    for _ in 0..10 {
        let read = store.read_async(|tx| tx.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)));
        assert_eq!(futures_executor::block_on(read).unwrap(), 0);
    }
    // A checkpoint that a reader keeps from finishing.
    store
        .read_with(ReadOptions::new().label("reads on"), |tx| {
            assert!(!tx.exists("SELECT 1 FROM t", [])?);
            for round in 0..20 {
                store.write(move |tx| (0..50).try_for_each(|id| insert(tx, 50 * round + id).map(drop)))?;
            }
            Ok(())
        })
        .unwrap();
    heard("the WAL is larger than its limit");
    heard("alert fired");
    assert_eq!(count(&store), 1000);
    #[cfg(feature = "async")]
    {
        let report = futures_executor::block_on(store.close_async()).unwrap();
        assert!(report.wal_truncated, "{report}");
    }
    store.close().unwrap();
    assert!(
        !store
            .stats()
            .alerts
            .iter()
            .any(|alert| alert.kind == AlertKind::LargeWal)
    );
}

fn spans(path: &Path) {
    let store = open(path);
    let _ = STORE.set(store.clone());
    assert_eq!(store.write(|tx| insert(tx, 1)).unwrap(), 1);
    // A subscriber that panics at the entry has not been told of it.
    let inside = u64::from(CONDUCT.load(Ordering::SeqCst) != PANICS);
    for _ in 0..2 {
        assert_eq!(
            store.write(|_| Ok(ENTERED.get())).unwrap(),
            inside,
            "the span before it was left"
        );
    }
    let pending = store.submit(|tx| insert(tx, 2)).unwrap();
    drop(store.submit(|tx| insert(tx, 3)).unwrap());
    assert_eq!(pending.wait().unwrap(), 1);
    #[cfg(feature = "async")]
    {
        assert_eq!(
            futures_executor::block_on(store.write_async(|tx| insert(tx, 4))).unwrap(),
            1
        );
        let read = store.read_async(|tx| tx.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)));
        assert_eq!(futures_executor::block_on(read).unwrap(), 4);
        drop(store.write_async(|tx| insert(tx, 5)));
    }
    assert_its_panic_is_its_own(&store);
    let error = store.write(|_| Err::<(), _>(Error::app("no"))).unwrap_err();
    assert_eq!(error.to_string(), "no");
    store.close().unwrap();
}

fn poison(path: &Path) {
    let store = open(path);
    let _ = STORE.set(store.clone());
    let large = |tx: &WriteTx<'_>| tx.execute("INSERT INTO t(data) VALUES (zeroblob(3000000))", []);
    let error = store.write(large).unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown, "{error:?}");
    let error = store.write(|tx| insert(tx, 1)).unwrap_err();
    assert!(matches!(error, Error::Poisoned { .. }), "{error:?}");
    assert!(store.poisoned().is_some());
    heard("the store is poisoned by a disk error");
    assert_eq!(count(&store), 0, "reads go on");
    let report = store.close().unwrap();
    assert!(!report.wal_truncated);
}

fn maintenance(path: &Path) {
    let store = open(path);
    let _ = STORE.set(store.clone());
    for id in 0..10 {
        store.write(move |tx| insert(tx, id)).unwrap();
    }
    let folder = path.parent().unwrap();
    store.backup(folder.join("copy.db")).run().unwrap();
    store.backup_compact(folder.join("compact.db")).run().unwrap();
    store.vacuum().run().unwrap();
    assert!(store.check().run().unwrap().is_ok());
    let backups = folder.join("backups");
    std::fs::create_dir(&backups).unwrap();
    let schedule = store.backup_every(Duration::from_secs(1), 2, &backups).unwrap();
    until(&store, |stats| {
        stats.last_backup.as_ref().is_some_and(|last| last.error.is_none())
    });
    // The next one cannot be made.
    remove_from_schedule(&backups);
    until(&store, |stats| {
        stats.alerts.iter().any(|alert| alert.kind == AlertKind::BackupFailed)
    });
    heard("a scheduled backup failed");
    std::fs::create_dir(&backups).unwrap();
    until(&store, |stats| {
        !stats.alerts.iter().any(|alert| alert.kind == AlertKind::BackupFailed)
    });
    drop(schedule);
    store.write(|tx| insert(tx, 100)).unwrap();
    store.close().unwrap();
}

/// A recorder of the `metrics` facade behaves as the subscriber, and may also close the store.
#[cfg(feature = "metrics")]
fn recorder(path: &Path) {
    use std::sync::atomic::AtomicBool;

    use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

    struct RudeRecorder;

    static TOLD: AtomicUsize = AtomicUsize::new(0);
    static CLOSES: AtomicBool = AtomicBool::new(false);

    fn act_as_recorder() {
        TOLD.fetch_add(1, Ordering::SeqCst);
        if let Some(store) = STORE.get()
            && CONDUCT.load(Ordering::SeqCst) == CALLS_BACK
            && CLOSES.load(Ordering::SeqCst)
        {
            store.close().unwrap();
        }
        act();
    }

    impl Recorder for RudeRecorder {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
            act_as_recorder();
            Counter::noop()
        }

        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            act_as_recorder();
            Gauge::noop()
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    metrics::set_global_recorder(RudeRecorder).unwrap_or_else(|_| panic!("the process has no other"));
    let store = open(path);
    let _ = STORE.set(store.clone());
    let told = || TOLD.load(Ordering::SeqCst);
    let before = told();
    until(&store, |_| told() > before + 3);
    store.write(|tx| insert(tx, 1)).unwrap();
    CLOSES.store(true, Ordering::SeqCst);
    if CONDUCT.load(Ordering::SeqCst) == CALLS_BACK {
        heard("store closed");
    }
    assert!(store.close().unwrap().wal_truncated);
}

#[cfg(feature = "metrics")]
#[test]
fn panicking_recorder_fails_no_close() {
    in_a_process("recorder", "panics");
}

/// The close waited for the lock of the publication that had called it.
#[cfg(feature = "metrics")]
#[test]
fn recorder_that_closes_the_store_does_not_hang() {
    in_a_process("recorder", "calls back");
}

/// The writer thread ended by the subscriber's panic, so all later writes were `Closed`, and the members of a group that
/// was rolled back were told `CommitUnknown`.
#[test]
fn panicking_subscriber_changes_no_write() {
    in_a_process("writes", "panics");
}

#[test]
fn panicking_subscriber_changes_no_read() {
    in_a_process("reads", "panics");
}

/// A panic at the entry of the caller's span was told as the closure's, which never ran.
#[test]
fn panicking_subscriber_of_spans_changes_no_write() {
    in_a_process("spans", "panics");
}

#[test]
fn subscriber_that_panics_at_exit_changes_no_write() {
    in_a_process("spans", "panics at exit");
}

#[test]
fn panicking_subscriber_hides_no_poison() {
    in_a_process("poison", "panics");
}

#[test]
fn panicking_subscriber_stops_no_maintenance() {
    in_a_process("maintenance", "panics");
}

#[test]
fn subscriber_calling_back_in_writes_does_not_hang() {
    in_a_process("writes", "calls back");
}

#[test]
fn subscriber_calling_back_in_reads_does_not_hang() {
    in_a_process("reads", "calls back");
}

#[test]
fn subscriber_calling_back_in_spans_does_not_hang() {
    in_a_process("spans", "calls back");
}

#[test]
fn subscriber_calling_back_at_poison_does_not_hang() {
    in_a_process("poison", "calls back");
}

#[test]
fn subscriber_calling_back_in_maintenance_does_not_hang() {
    in_a_process("maintenance", "calls back");
}
