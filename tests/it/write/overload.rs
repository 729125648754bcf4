//! Several problems at once, under load: each one shows in the statistics, in an event and in the advice, with the call
//! site responsible, and all of them clear.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use larder::{AlertKind, Error, Options, ReadOptions, Result, Stats, Store, WriteOptions};
use tracing::Level;

use crate::support::child::{Child, Task, after_mounting, listen, tell};
use crate::support::{RaiseOnDrop, log};

/// In another process, on a disk of its own.
pub(crate) fn child(task: &Task) {
    assert_eq!(task.role, "fill the disk");
    fill_the_disk(Path::new(&task.args[0]));
    tell("done");
    listen();
}

fn options() -> Options {
    Options::new()
        .monitor_interval(Duration::from_millis(10))
        .max_reader_age(Duration::from_millis(20))
        .checkpoint_pages(8)
        .wal_limit(256 * 1024)
        .queue_capacity(8)
}

fn add(tx: &larder::WriteTx<'_>) -> Result<i64> {
    tx.insert("INSERT INTO t(data) VALUES (zeroblob(3000))", [])
}

fn make(store: &Store) {
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, data BLOB) STRICT"))
        .unwrap();
}

/// Reads and writes until it is told to stop. It puts up with what a loaded store says.
fn load(store: &Store, stop: &AtomicBool) {
    while !stop.load(Relaxed) {
        let label = WriteOptions::new()
            .label("load: write")
            .queue_timeout(Duration::from_millis(200));
        match store.write_with(label, add) {
            Ok(_) | Err(Error::QueueTimeout { .. } | Error::Sqlite { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        let label = ReadOptions::new().label("load: read");
        store
            .read_with(label, |tx| tx.exists("SELECT 1 FROM t WHERE id = 1", []))
            .unwrap();
    }
}

/// What an operator would look at. Waits until all three say the same.
#[track_caller]
fn shows(store: &Store, kind: AlertKind, site: &str) {
    let give_up = Instant::now() + Duration::from_secs(60);
    let named = |stats: &Stats| {
        let mut alerts = stats.alerts.iter();
        alerts.any(|alert| alert.kind == kind && alert.site.as_deref() == Some(site))
    };
    let advised = || {
        let advice = store.advice();
        advice
            .iter()
            .any(|finding| finding.topic == kind.name() && finding.message.contains(site))
    };
    while !(named(&store.stats()) && advised() && told(store, kind, Level::WARN, site)) {
        assert!(
            Instant::now() < give_up,
            "{kind} by {site}: {:#?}\n{:#?}",
            store.stats().alerts,
            store.advice()
        );
        thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until all three say so. The load may raise the alert once more, for itself, between two looks at them.
#[track_caller]
fn clears(store: &Store, kind: AlertKind, site: &str) {
    let give_up = Instant::now() + Duration::from_secs(60);
    let active = |stats: &Stats| stats.alerts.iter().any(|alert| alert.kind == kind);
    let advised = || store.advice().iter().any(|finding| finding.topic == kind.name());
    while active(&store.stats()) || advised() || !told(store, kind, Level::INFO, site) {
        assert!(
            Instant::now() < give_up,
            "{kind} does not end: {:#?}\n{:#?}",
            store.stats(),
            store.advice()
        );
        thread::sleep(Duration::from_millis(1));
    }
}

fn told(store: &Store, kind: AlertKind, level: Level, site: &str) -> bool {
    let path = store.path().to_str().unwrap();
    let found = log::events(|event| {
        event.target == "larder::alert"
            && event.level == level
            && event.field("db.namespace") == Some(path)
            && event.field("alert") == Some(kind.name())
            && event.field("site") == Some(site)
    });
    !found.is_empty()
}

#[test]
fn each_problem_under_load_is_reported_and_clears() {
    log::collect();
    let store = options().open_temp().unwrap();
    make(&store);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _over = RaiseOnDrop(&stop);
        // The alerts name the read that was the oldest as they fired, so none of the others may be older.
        a_read_pins_the_log(&store, || {
            for _ in 0..3 {
                scope.spawn(|| load(&store, &stop));
            }
        });
        a_write_hogs_the_writer(&store);
    });
    let stats = store.stats();
    assert!(
        stats.committed_writes > 0 && stats.call_sites.iter().any(|site| site.site == "load: read"),
        "{stats:?}"
    );
}

fn a_read_pins_the_log(store: &Store, start_load: impl FnOnce()) {
    let kinds = [AlertKind::OldRead, AlertKind::LargeWal, AlertKind::StuckCheckpoint];
    let report = ReadOptions::new().label("the monthly report");
    store
        .read_with(report, |tx| {
            tx.exists("SELECT 1 FROM t", [])?;
            start_load();
            for kind in kinds {
                shows(store, kind, "the monthly report");
            }
            Ok(())
        })
        .unwrap();
    for kind in kinds {
        clears(store, kind, "the monthly report");
    }
}

/// It takes all that others write their time, so the queue fills.
fn a_write_hogs_the_writer(store: &Store) {
    let (let_go, hears) = channel::<()>();
    let (running, runs) = channel();
    let import = store
        .submit_with(WriteOptions::new().label("the import"), move |tx| {
            add(tx)?;
            running.send(()).unwrap();
            let _ = hears.recv();
            Ok(())
        })
        .unwrap();
    runs.recv().unwrap();
    // Nobody else is named: it has run for long before the queue is full.
    let give_up = Instant::now() + Duration::from_secs(60);
    while store
        .stats()
        .running_write
        .is_none_or(|write| write.age < Duration::from_millis(150))
    {
        assert!(Instant::now() < give_up);
        thread::yield_now();
    }
    let queued: Vec<_> = (0..8).filter_map(|_| store.submit(|_| Ok(())).ok()).collect();
    shows(store, AlertKind::QueueFull, "the import");
    shows(store, AlertKind::SlowQueue, "the import");
    let stats = store.stats();
    assert_eq!(stats.running_write.expect("it runs").site, "the import");
    assert!(stats.queued >= 8);
    drop(let_go);
    import.wait().unwrap();
    queued.into_iter().for_each(|write| write.wait().unwrap());
    clears(store, AlertKind::QueueFull, "the import");
    clears(store, AlertKind::SlowQueue, "the import");
}

#[test]
fn full_disk_is_reported_with_culprit_and_clears() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().to_str().unwrap();
    let mount = format!("mount -t tmpfs -o size=8m larder '{disk}'");
    let Some(command) = after_mounting(&mount) else {
        return;
    };
    let child = Child::start_by(command, "write::overload", "fill the disk", &[disk]);
    // On a slow disk the rows take their time.
    while child.line() != "done" {}
    child.finish();
}

/// 8 MB are soon full.
fn fill_the_disk(folder: &Path) {
    log::collect();
    // What will be thrown away to make room.
    let ballast = folder.join("ballast");
    std::fs::write(&ballast, vec![1; 2 << 20]).unwrap();
    let store = options().open(folder.join("app.db")).unwrap();
    make(&store);
    let upload = || WriteOptions::new().label("the upload");
    let mut rows = 0;
    let error = loop {
        match store.write_with(upload(), add) {
            Ok(_) => rows += 1,
            Err(error) => break error,
        }
        if rows % 100 == 0 {
            tell(rows);
        }
        assert!(rows < 10_000, "the disk is larger than it should be");
    };
    assert!(error.to_string().contains("full"), "{error}");
    shows(&store, AlertKind::DiskFull, "the upload");
    tell("full");
    // Nothing is lost, and it reads on.
    let count: i64 = store
        .read(|tx| tx.query_row("SELECT count(*) FROM t", [], |row| row.get(0)))
        .unwrap();
    assert_eq!(count, rows);
    std::fs::remove_file(ballast).unwrap();
    store.write(add).unwrap();
    clears(&store, AlertKind::DiskFull, "the upload");
    store.close().unwrap();
}
