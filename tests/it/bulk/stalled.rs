//! An alert names the job that makes no progress, and what it waits for.

use std::path::Path;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use larder::{Alert, AlertKind, Error, Options, Pending, Store, WriteOptions};

use crate::support::child::{Child, Task, tell};
use crate::support::{blocker_with, count, hanging_disk, until};

fn open(path: &Path) -> Store {
    let options = Options::new()
        .monitor_interval(Duration::from_millis(50))
        .checkpoint_pages(20);
    let store = options.open(path).unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT"))
        .unwrap();
    store
}

fn stalled(store: &Store) -> Option<Alert> {
    let alerts = store.stats().alerts;
    alerts.into_iter().find(|alert| alert.kind == AlertKind::BulkStalled)
}

/// Waits until the alert has fired, and gives it; or until it has cleared.
fn wait_for_alert(store: &Store, is_active: bool) -> Option<Alert> {
    until(store, |stats| {
        thread::sleep(Duration::from_millis(20));
        stats.alerts.iter().any(|alert| alert.kind == AlertKind::BulkStalled) == is_active
    });
    stalled(store)
}

fn job(store: &Store, name: Option<&'static str>) -> thread::JoinHandle<Error> {
    let store = store.clone();
    thread::spawn(move || {
        let rows = (1..i64::MAX).map(|id| (id, "some text for the log"));
        let job = store.bulk().label("nightly load");
        let job = match name {
            Some(name) => job.resumable(name),
            None => job,
        };
        let insert = "INSERT INTO t VALUES (?1, ?2)";
        job.insert(insert, rows).run().unwrap_err()
    })
}

/// A write that runs until the sender is dropped.
fn slow_write(store: &Store) -> (Sender<()>, Pending<()>) {
    blocker_with(store, WriteOptions::new().label("slow write"))
}

pub(crate) fn child(task: &Task) {
    hanging_disk::install();
    let store = open(Path::new(&task.args[0]));
    hanging_disk::hang(Some("larder-checkpoint"));
    let job = job(&store, Some("orders of March"));
    hanging_disk::wait_for_hang();
    let alert = wait_for_alert(&store, true).unwrap();
    assert_eq!(alert.site.as_deref(), Some("nightly load"));
    let reason = alert.reason.unwrap();
    assert!(
        reason.contains("\"orders of March\"") && reason.contains("larder-checkpoint"),
        "{reason}"
    );
    assert!(alert.measurement.value > 10.0 && alert.measurement.unit == "s");
    // Other writes and reads go on.
    store
        .write(|tx| tx.execute("INSERT INTO t VALUES (-1, 'beside')", []))
        .unwrap();
    let rows = count(&store);
    hanging_disk::hang(None);
    wait_for_alert(&store, false);
    until(&store, |stats| {
        stats.bulk.iter().any(|job| job.rows.cast_signed() > rows)
    });
    store.close().unwrap();
    let error = job.join().unwrap();
    let Error::Bulk { rows, .. } = &error else {
        panic!("{error}")
    };
    tell(rows);
}

#[test]
fn job_that_waits_for_a_disk_that_hangs_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let child = Child::start("bulk::stalled", "hang", &[path.to_str().unwrap()]);
    let rows: i64 = child.line().parse().unwrap();
    child.finish();
    let store = open(&path);
    assert_eq!(count(&store), rows + 1);
    assert!(store.check().full().run().unwrap().is_ok());
}

/// A write that does not end is named, and the job that waits for it. A job that waits for its source is in order.
#[test]
fn job_that_waits_for_another_write_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("app.db"));
    let (let_go, slow) = slow_write(&store);
    let job = job(&store, None);
    let alert = wait_for_alert(&store, true).unwrap();
    let reason = alert.reason.unwrap();
    assert_eq!(alert.site.as_deref(), Some("nightly load"));
    assert!(reason.contains("the write of slow write does not end"), "{reason}");
    drop(let_go);
    slow.wait().unwrap();
    wait_for_alert(&store, false);
    store.close().unwrap();
    job.join().unwrap();
}

/// Both writes of a sweep: that of its record, and that of its first slice.
#[test]
fn retention_that_waits_for_another_write_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let store = open(&path);
    store
        .write(|tx| {
            tx.execute_batch(
                "CREATE TABLE logs(at INTEGER NOT NULL) STRICT; CREATE INDEX logs_by_at ON logs(at);
                 INSERT INTO logs VALUES (unixepoch() - 7200), (unixepoch() - 60)",
            )
        })
        .unwrap();
    let rows = |store: &Store| {
        store
            .read(|tx| tx.scalar::<i64>("SELECT count(*) FROM logs", []))
            .unwrap()
    };
    let hour = Duration::from_secs(3600);
    for has_record in [false, true] {
        let (let_go, slow) = slow_write(&store);
        let retention = store.retain("logs", "at", hour).unwrap();
        let alert = wait_for_alert(&store, true).unwrap();
        assert_eq!(alert.site.as_deref(), Some("larder: retain logs"), "{has_record}");
        let reason = alert.reason.unwrap();
        assert!(
            reason.contains("the retention of logs waits: the write of slow write does not end"),
            "{has_record}: {reason}"
        );
        assert_eq!(rows(&store), 2);
        drop(let_go);
        slow.wait().unwrap();
        wait_for_alert(&store, false);
        until(&store, |stats| stats.retention[0].rows == 1);
        assert_eq!(rows(&store), 1);
        drop(retention);
        let old = "INSERT INTO logs VALUES (unixepoch() - 7200)";
        store.write(move |tx| tx.execute(old, [])).unwrap();
    }
    store.close().unwrap();
}

/// A slice that is committed does not wait for the writer.
#[cfg(feature = "replicate")]
#[test]
fn job_that_waits_for_the_replica_is_named() {
    use larder::{Durability, ReplicaOptions};

    use crate::support::child::PATIENCE;
    use crate::support::outage::Outage;

    let folder = tempfile::tempdir().unwrap();
    let replica = folder.path().join("replica");
    let to = ReplicaOptions::to(replica.to_str().unwrap())
        .interval(Duration::from_millis(20))
        .replicate_timeout(2 * PATIENCE);
    let options = Options::new()
        .monitor_interval(Duration::from_millis(50))
        .durability(Durability::Replicated)
        .replicate_to(to);
    let store = options.open(folder.path().join("app.db")).unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT"))
        .unwrap();
    let outage = Outage::of(&replica);
    let job = job(&store, None);
    let alert = wait_for_alert(&store, true).unwrap();
    let reason = alert.reason.unwrap();
    assert!(
        reason.contains("its slice is committed, and waits for the replica"),
        "{reason}"
    );
    outage.end();
    wait_for_alert(&store, false);
    store.close().unwrap();
    job.join().unwrap();
}
