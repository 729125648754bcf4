//! A spool that is full: what waits is dropped, or writes are refused.

use std::fs;
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use larder::{Access, AlertKind, Error, Options, Outcome, ReplicaOptions, Store, WhenSpoolFull};

use super::store::{Place, close, close_away, fill, rows, wait_until};
use crate::support::child::PATIENCE;
use crate::support::log;

const MIB: u64 = 1 << 20;

/// Rows of one write that is larger than a MiB.
const OVER_A_MIB: u32 = 1300;

/// Nothing is sealed but by [`seal`].
fn hourly(place: &Place) -> ReplicaOptions {
    place.to().interval(Duration::from_secs(3600))
}

fn refuses(place: &Place) -> ReplicaOptions {
    hourly(place).spool_limit(MIB).when_full(WhenSpoolFull::RefuseWrites)
}

fn open(place: &Place, replica: ReplicaOptions) -> Store {
    Options::new().replicate_to(replica).open(place.database()).unwrap()
}

/// Has what is committed sealed, which the storage does not get.
fn seal(store: &Store) {
    let flush = || store.replica().unwrap().flush(Duration::ZERO);
    let is_read = || flush().map_or_else(|error| !error.to_string().contains("read from the WAL"), |_| true);
    wait_until("it is sealed", is_read);
}

fn is_raised(store: &Store) -> bool {
    let alerts = store.stats().alerts;
    alerts.iter().any(|alert| alert.kind == AlertKind::SpoolFull)
}

#[test]
fn writes_are_refused_until_uploads_make_room() {
    let place = Place::new();
    let store = open(&place, refuses(&place));
    fill(&store, 10);
    store.replica().unwrap().flush(PATIENCE).unwrap();
    let outage = place.outage();
    let mut written = 10;
    let error = loop {
        let wrote = store.write(|tx| tx.execute_batch("INSERT INTO entry(noise) VALUES (randomblob(90000))"));
        match wrote {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 1000, "the spool has no bound");
        seal(&store);
    };
    assert_eq!((error.outcome(), error.is_retryable()), (Outcome::NotStarted, true));
    let Error::SpoolFull {
        spool,
        bytes,
        limit,
        reason,
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!(
        (spool, *limit),
        (&place.database().with_file_name("app.db-replica"), MIB)
    );
    assert!(*bytes > MIB && *bytes < 2 * MIB && !reason.is_empty(), "{error}");
    let told = error.to_string();
    for part in [
        &spool.display().to_string(),
        "1048576",
        "spool_limit",
        "WhenSpoolFull::Rebase",
        reason,
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let async_too = store
        .submit(|tx| tx.execute("DELETE FROM entry", []))
        .unwrap()
        .wait()
        .unwrap_err();
    assert!(matches!(async_too, Error::SpoolFull { .. }), "{async_too}");
    assert_eq!(rows(&store), written, "reads go on");
    assert!(
        store
            .stats()
            .replica
            .unwrap()
            .problem
            .unwrap()
            .contains("writes are refused")
    );
    wait_until("the alert is raised", || is_raised(&store));
    assert_eq!(store.stats().failures_by_error.get("spool_full"), Some(&2));
    outage.end();
    store.replica().unwrap().flush(PATIENCE).unwrap();
    fill(&store, 1);
    assert_eq!(rows(&store), written + 1);
    wait_until("the alert clears", || !is_raised(&store));
    close(store);
    place.compare_closed();
    assert_eq!(place.rebases(), [""; 0], "nothing was dropped");
    let path = place.database().display().to_string();
    for message in ["the spool is full, so writes are refused", "the spool has room again"] {
        let told = log::events(|event| event.message.contains(message) && event.mentions(&path));
        assert!(!told.is_empty(), "{message}");
    }
}

/// The closure runs as the spool becomes full.
#[test]
fn running_write_ends_as_the_spool_fills() {
    let place = Place::new();
    let store = open(&place, refuses(&place));
    fill(&store, 1);
    store.replica().unwrap().flush(PATIENCE).unwrap();
    let outage = place.outage();
    fill(&store, OVER_A_MIB);
    seal(&store);
    fill(&store, OVER_A_MIB);
    let ((began, has_begun), (go_on, goes_on)) = (channel(), channel::<()>());
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            store.write(move |tx| {
                began.send(()).unwrap();
                goes_on.recv().unwrap();
                tx.execute("INSERT INTO entry(noise) VALUES (randomblob(9))", [])
            })
        });
        has_begun.recv().unwrap();
        seal(&store);
        wait_until("the spool is full", || is_raised(&store));
        go_on.send(()).unwrap();
        assert_eq!(writing.join().unwrap().unwrap(), 1);
    });
    let error = store.write(|tx| tx.execute("DELETE FROM entry", [])).unwrap_err();
    assert!(matches!(error, Error::SpoolFull { .. }), "{error}");
    outage.end();
    store.replica().unwrap().flush(PATIENCE).unwrap();
    assert_eq!(rows(&store), 2 * OVER_A_MIB + 2);
    close(store);
    place.compare_closed();
    assert_eq!(place.rebases(), [""; 0]);
}

/// The first file may be a database that is larger than the limit. It is never dropped, so it does not count.
#[test]
fn large_file_in_front_does_not_count() {
    for when_full in [WhenSpoolFull::Rebase, WhenSpoolFull::RefuseWrites] {
        let place = Place::new();
        let store = open(&place, hourly(&place).spool_limit(MIB).when_full(when_full));
        fill(&store, 1);
        store.replica().unwrap().flush(PATIENCE).unwrap();
        let outage = place.outage();
        fill(&store, 4 * OVER_A_MIB);
        for _ in 0..5 {
            seal(&store);
            fill(&store, 1);
        }
        let problem = store.stats().replica.unwrap().problem;
        assert!(!problem.unwrap_or_default().contains("spool"), "{when_full:?}");
        outage.end();
        store.replica().unwrap().flush(PATIENCE).unwrap();
        close(store);
        place.compare_closed();
        assert_eq!(place.rebases(), [""; 0], "{when_full:?}");
    }
}

/// The writer has dropped it before a checkpoint of its own, and the log was cut to nothing since. A killed process leaves
/// its files so, and nothing of it may be missing behind the transaction that is left.
#[test]
fn spool_that_a_killed_exclusive_store_has_dropped_is_followed_by_every_page() {
    let place = Place::new();
    let open = || {
        let options = Options::new().access(Access::Exclusive).checkpoint_pages(100);
        let replica = hourly(&place).spool_limit(MIB);
        options.replicate_to(replica).open(place.database()).unwrap()
    };
    let store = open();
    fill(&store, 10);
    store.replica().unwrap().flush(PATIENCE).unwrap();
    let outage = place.outage();
    let path = place.database().display().to_string();
    let has_dropped = || {
        let told = log::events(|event| event.message.contains("dropped what waited") && event.mentions(&path));
        !told.is_empty()
    };
    wait_until("what waits was dropped", || {
        let before = store.stats().checkpoints;
        // So that the writer captures each of them by itself: a checkpoint comes with a write, a while after the last.
        thread::sleep(Duration::from_millis(300));
        store
            .write(|tx| tx.execute_batch("INSERT INTO entry(noise) VALUES (randomblob(450000))"))
            .unwrap();
        wait_until("a checkpoint ran", || store.stats().checkpoints > before);
        has_dropped()
    });
    store.vacuum().run().unwrap();
    let (data, killed) = (
        place.database().parent().unwrap().to_owned(),
        place.replica().with_file_name("killed"),
    );
    assert!(
        Command::new("cp")
            .arg("-r")
            .args([&data, &killed])
            .status()
            .unwrap()
            .success()
    );
    close_away(store);
    fs::remove_dir_all(&data).unwrap();
    fs::rename(&killed, &data).unwrap();
    outage.end();
    let store = open();
    store.replica().unwrap().flush(PATIENCE).unwrap();
    close(store);
    place.compare_closed();
}
