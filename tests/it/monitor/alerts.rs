//! An alert emits one event when it fires and one when it clears. While active it is in `Store::stats` and
//! `Store::advice`, with the call site responsible.

use std::ops::ControlFlow;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use larder::rusqlite::hooks::{AuthContext, Authorization};
use larder::{
    Alert, AlertKind, Finding, Migration, Migrations, Options, ReadOptions, Role, Severity, Stats, Store, WriteOptions,
    WriteTx,
};
use tracing::Level;

use crate::support::{log, until};
use crate::write::groups::Gate;

/// Looks often, so that a test need not wait.
fn watching(options: Options) -> Store {
    watching_each(Duration::from_millis(5), options)
}

fn watching_each(interval: Duration, options: Options) -> Store {
    log::collect();
    let store = options.monitor_interval(interval).open_temp().unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, data BLOB) STRICT"))
        .unwrap();
    store
}

fn alert(store: &Store, kind: AlertKind) -> Option<Alert> {
    store.stats().alerts.into_iter().find(|alert| alert.kind == kind)
}

#[track_caller]
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < give_up, "{what}");
        thread::yield_now();
    }
}

#[track_caller]
fn begins(store: &Store, kind: AlertKind) -> Alert {
    let mut begun = None;
    wait_until(&format!("{kind} does not begin"), || {
        begun = alert(store, kind);
        begun.is_some()
    });
    begun.expect("it is there")
}

#[track_caller]
fn is_over(store: &Store, kind: AlertKind) {
    wait_until(&format!("{kind} is not over"), || alert(store, kind).is_none());
}

fn events(store: &Store, kind: AlertKind) -> Vec<log::Event> {
    let path = store.path().to_str().unwrap().to_owned();
    log::events(|event| {
        event.target == "larder::alert"
            && event.field("db.namespace") == Some(&path)
            && event.field("alert") == Some(kind.name())
    })
}

/// It began once and is over once, and both name who it was.
#[track_caller]
fn told_once(store: &Store, kind: AlertKind, site: Option<&str>) {
    wait_until("an event is missing", || events(store, kind).len() >= 2);
    let events = events(store, kind);
    let told: Vec<_> = events
        .iter()
        .map(|event| (event.level, event.message.as_str()))
        .collect();
    assert_eq!(told, [(Level::WARN, "alert fired"), (Level::INFO, "alert cleared")]);
    for event in &events {
        assert_eq!(event.field("site"), site, "{event:?}");
    }
}

fn finding(store: &Store, topic: &str) -> Option<Finding> {
    store.advice().into_iter().find(|finding| finding.topic == topic)
}

#[test]
fn read_that_pins_the_log_is_named() {
    let store = watching(
        Options::new()
            .max_reader_age(Duration::from_millis(10))
            .checkpoint_pages(1)
            .wal_limit(64 * 1024),
    );
    let kinds = [AlertKind::OldRead, AlertKind::LargeWal, AlertKind::StuckCheckpoint];
    store
        .read_with(ReadOptions::new().label("the report"), |tx| {
            tx.exists("SELECT 1 FROM t", [])?;
            for _ in 0..30 {
                store.write(|tx| tx.execute("INSERT INTO t(data) VALUES (zeroblob(8000))", []))?;
            }
            for kind in kinds {
                let alert = begins(&store, kind);
                assert_eq!(alert.site.as_deref(), Some("the report"), "{alert:?}");
                assert!(alert.measurement.value >= alert.measurement.threshold, "{alert:?}");
                let finding = finding(&store, kind.name()).expect("it is a finding, too");
                assert!(finding.message.contains("the report"), "{finding}");
            }
            let stats = store.stats();
            assert!(
                stats.wal_bytes > 64 * 1024 && stats.consecutive_unfinished_checkpoints >= 10,
                "{stats:?}"
            );
            assert_eq!(stats.readers.oldest_read.expect("it reads").site, "the report");
            Ok(())
        })
        .unwrap();
    // The next commit has a checkpoint made that finishes.
    store.write(|tx| tx.execute("DELETE FROM t", [])).unwrap();
    for kind in kinds {
        is_over(&store, kind);
        told_once(&store, kind, Some("the report"));
        assert_eq!(finding(&store, kind.name()), None);
    }
}

#[test]
fn each_old_read_is_named() {
    let store = watching(Options::new().max_reader_age(Duration::from_millis(10)));
    for label in ["the first", "the second"] {
        store
            .read_with(ReadOptions::new().label(label), |_| {
                wait_until("it is not named", || {
                    events(&store, AlertKind::OldRead)
                        .iter()
                        .any(|event| event.level == Level::WARN && event.field("site") == Some(label))
                });
                Ok(())
            })
            .unwrap();
    }
}

#[test]
fn long_write_is_named_and_full_queue_reported() {
    let store = watching(Options::new().queue_capacity(3));
    let (let_go, told) = channel::<()>();
    let (running, runs) = channel();
    let hog = store
        .submit_with(WriteOptions::new().label("the import"), move |_| {
            running.send(()).unwrap();
            let _ = told.recv();
            Ok(())
        })
        .unwrap();
    runs.recv().unwrap();
    let queued: Vec<_> = (0..3).map(|_| store.submit(|_| Ok(())).unwrap()).collect();
    // It has to run for a while to be the one that is named.
    wait_until("it does not run", || {
        store
            .stats()
            .running_write
            .is_some_and(|write| write.age > Duration::from_millis(110))
    });
    for kind in [AlertKind::QueueFull, AlertKind::SlowQueue] {
        let alert = begins(&store, kind);
        let finding = finding(&store, kind.name()).expect("it is a finding, too");
        if kind == AlertKind::SlowQueue {
            assert_eq!(alert.site.as_deref(), Some("the import"));
            assert!(finding.message.contains("the import"), "{finding}");
        }
    }
    let stats = store.stats();
    assert_eq!(
        (stats.queued, stats.running_write.expect("it runs").site.as_str()),
        (3, "the import")
    );
    drop(let_go);
    hog.wait().unwrap();
    queued.into_iter().for_each(|write| write.wait().unwrap());
    for kind in [AlertKind::QueueFull, AlertKind::SlowQueue] {
        is_over(&store, kind);
        wait_until("an event is missing", || events(&store, kind).len() == 2);
        assert_eq!(finding(&store, kind.name()), None);
    }
}

#[test]
fn many_slow_writes_raise_an_alert() {
    // Its window of 60 looks is long enough for what is to be seen in it.
    let store = watching_each(Duration::from_millis(100), Options::new());
    let gate = Gate::hold(&store);
    let writes: Vec<_> = (0..30).map(|_| store.submit(|_| Ok(())).unwrap()).collect();
    wait_until("time goes by", || {
        store
            .stats()
            .running_write
            .is_some_and(|write| write.age > Duration::from_millis(150))
    });
    gate.open();
    writes.into_iter().for_each(|write| write.wait().unwrap());
    let alert = begins(&store, AlertKind::SlowQueue);
    assert!(
        alert.measurement.value > 0.1 && alert.measurement.unit == "s",
        "{alert:?}"
    );
    assert!(finding(&store, "long_queue_waits").is_some(), "{:?}", store.advice());
    is_over(&store, AlertKind::SlowQueue);
    wait_until("they are no longer of the last minute", || {
        finding(&store, "long_queue_waits").is_none()
    });
}

#[test]
fn full_database_names_the_failed_write() {
    // A disk that is full at so many pages.
    let store = watching(Options::new().on_connect(|conn, role| {
        if role == Role::Writer {
            conn.query_row("PRAGMA max_page_count = 50", [], |_| Ok(()))?;
        }
        Ok(())
    }));
    let fill = WriteOptions::new().label("the upload");
    let error = store
        .write_with(fill, |tx| {
            for _ in 0..100 {
                tx.execute("INSERT INTO t(data) VALUES (zeroblob(4000))", [])?;
            }
            Ok(())
        })
        .unwrap_err();
    assert!(error.to_string().contains("full"), "{error}");
    let alert = begins(&store, AlertKind::DiskFull);
    assert_eq!(alert.site.as_deref(), Some("the upload"));
    let told = finding(&store, "disk_full").expect("it is a finding, too");
    assert!(told.message.contains("the upload"), "{told}");
    assert_eq!(store.stats().failures_by_error["sqlite_full"], 1);
    store
        .write(|tx| tx.execute("INSERT INTO t(data) VALUES (NULL)", []))
        .unwrap();
    is_over(&store, AlertKind::DiskFull);
    told_once(&store, AlertKind::DiskFull, Some("the upload"));
}

#[test]
fn free_pages_alert_lasts_until_they_are_freed() {
    let store = watching(
        Options::new()
            .page_size(512)
            .incremental_vacuum(false)
            .checkpoint_pages(1),
    );
    let fill = || {
        store
            .write(|tx| {
                tx.execute_batch(
                    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
                     INSERT INTO t(data) SELECT zeroblob(400) FROM n",
                )
            })
            .unwrap();
    };
    fill();
    store.write(|tx| tx.execute("DELETE FROM t", [])).unwrap();
    let alert = begins(&store, AlertKind::FreePages);
    assert!(
        alert.measurement.value > 25.0 && alert.measurement.unit == "%",
        "{alert:?}"
    );
    assert!(finding(&store, "free_pages").is_some());
    fill();
    is_over(&store, AlertKind::FreePages);
}

#[test]
fn alerts_clear_when_the_store_closes() {
    let store = watching(Options::new().max_reader_age(Duration::from_millis(1)));
    let path = store.path().to_str().unwrap().to_owned();
    let label = ReadOptions::new().label("still there");
    store
        .read_with(label, |_| {
            begins(&store, AlertKind::OldRead);
            // The alert is listed before its event is there.
            wait_until("an event is missing", || !events(&store, AlertKind::OldRead).is_empty());
            Ok(())
        })
        .unwrap();
    drop(store);
    let of_store = |event: &log::Event| event.target == "larder::alert" && event.field("db.namespace") == Some(&path);
    let events = log::events(of_store);
    assert_eq!(events.len(), 2, "{events:#?}");
    assert_eq!(events[1].message, "alert cleared");
}

#[test]
fn monitor_that_is_off_raises_no_alert() {
    log::collect();
    let store = Options::new()
        .monitor_interval(Duration::ZERO)
        .max_reader_age(Duration::from_millis(1))
        .open_temp()
        .unwrap();
    store
        .read(|_| {
            // By then one that looks as often as it does by default would have named it.
            let is_old = |stats: &Stats| {
                stats
                    .readers
                    .oldest_read
                    .as_ref()
                    .is_some_and(|read| read.age.as_secs() >= 3)
            };
            assert_eq!(until(&store, is_old).alerts, []);
            Ok(())
        })
        .unwrap();
    assert!(events(&store, AlertKind::OldRead).is_empty());
}

#[test]
fn setting_changed_behind_the_authorizer_is_undone() {
    let store = watching(Options::new());
    let cache_size = |tx: &WriteTx<'_>| tx.query_row("PRAGMA cache_size", [], |row| row.get::<_, i64>(0));
    let before = store.write(cache_size).unwrap();
    store
        .write(|tx| {
            tx.authorizer(None::<fn(AuthContext<'_>) -> Authorization>)?;
            Ok(tx.pragma_update(None, "cache_size", -123)?)
        })
        .unwrap();
    assert_eq!(store.write(cache_size).unwrap(), before);
}

/// A migration outside a transaction may change how the file is vacuumed.
#[test]
fn setting_changed_by_migration_is_reported() {
    let migration = Migration::new(1, "full", "PRAGMA auto_vacuum = FULL").without_transaction();
    let migrations = Migrations::new([migration]).at_open(false);
    let store = watching(Options::new().checkpoint_pages(1).migrations(migrations));
    until(&store, |stats| !stats.pragmas.is_empty());
    assert_eq!(finding(&store, "pragma_changed"), None);
    store.migrate().unwrap();
    // Settings are looked at again after some seconds, at a checkpoint.
    until(&store, |stats| {
        store
            .write(|tx| tx.execute("INSERT INTO t(data) VALUES (NULL)", []))
            .unwrap();
        stats.pragmas["auto_vacuum"] == "1"
    });
    let found = finding(&store, "pragma_changed").expect("it is found");
    assert!(
        found.message.contains("auto_vacuum was 2") && found.message.contains("is 1 now"),
        "{found}"
    );
}

/// They raised `old_read`, whose advice is to read in pages.
#[test]
fn backups_and_checks_are_no_old_reads() {
    let store = watching(Options::new().max_reader_age(Duration::from_millis(1)).readers(2));
    let folder = tempfile::tempdir().unwrap();
    let ticks = |store: &Store| {
        // Several ticks later: another read is old by then.
        store
            .read_with(ReadOptions::new().label("an old read"), |_| {
                let alert = begins(store, AlertKind::OldRead);
                assert_eq!(alert.site.as_deref(), Some("an old read"));
                assert_ne!(store.stats().readers.oldest_read.unwrap().site, "an old read");
                Ok(())
            })
            .unwrap();
    };
    let inside = store.clone();
    store
        .check()
        .full()
        .progress(Duration::ZERO, move |_| {
            ticks(&inside);
            ControlFlow::Break(())
        })
        .run()
        .unwrap_err();
    let inside = store.clone();
    store
        .backup(folder.path().join("copy.db"))
        .progress(move |_| {
            ticks(&inside);
            ControlFlow::Break(())
        })
        .run()
        .unwrap_err();
}

/// It came at every open, and a user of the bundled SQLite could do nothing about it.
#[test]
fn full_text_table_is_no_warning_at_open() {
    let store = watching(Options::new());
    store
        .write(|tx| tx.execute_batch("CREATE VIRTUAL TABLE texts USING fts5(body)"))
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("copy.db");
    store.backup(&path).run().unwrap();
    let copy = Store::open(&path).unwrap();
    let path = copy.path().to_str().unwrap().to_owned();
    let of_copy = |event: &log::Event| event.mentions(&path) && event.level < Level::INFO;
    assert!(log::events(of_copy).is_empty(), "{:#?}", log::events(of_copy));
    assert!(log::events(|event| event.level < Level::INFO && event.message.contains("full-text")).is_empty());
    if let Some(finding) = finding(&copy, "sqlite_with_known_bugs") {
        assert_eq!(finding.severity, Severity::Note);
    }
}
