//! `Durability::Replicated`: a write is acknowledged once it is in the replica.

use std::fs;
use std::path::Path;
use std::time::Duration;

use futures_util::FutureExt;
use larder::rusqlite::Connection;
use larder::{
    Access, CloseReport, Durability, Error, Migration, Migrations, Options, Outcome, Pending, ReplicaOptions, Store,
    WhenFull, WriteOptions,
};

use super::store::{Place, close, close_away, fill, rows, wait_until};
use crate::support::child::{Child, PATIENCE, Task, tell};
use crate::support::with_longer_limits;

const HOUR: Duration = Duration::from_secs(3600);
const SOON: Duration = Duration::from_millis(50);

fn replicated() -> WriteOptions {
    WriteOptions::new().durability(Durability::Replicated)
}

fn add(store: &Store) -> larder::Result<usize> {
    store.write_with(replicated(), |tx| {
        tx.execute("INSERT INTO entry(noise) VALUES (x'00')", [])
    })
}

fn submit(store: &Store) -> Pending<usize> {
    let write = |tx: &larder::WriteTx<'_>| tx.execute("INSERT INTO entry(noise) VALUES (x'00')", []);
    store.submit_with(replicated(), write).unwrap()
}

/// The number of rows that the replica alone has.
fn rows_in(replica: &Path) -> u32 {
    let folder = tempfile::tempdir().unwrap();
    let restored = folder.path().join("restored.db");
    Store::restore_from(replica.to_str().unwrap()).to(&restored).unwrap();
    rows(&Store::open(&restored).unwrap())
}

/// A store with an empty table that is in the replica. Nothing but a write that waits begins an upload.
fn store(place: &Place, change: impl FnOnce(ReplicaOptions) -> ReplicaOptions, options: Options) -> Store {
    let replica = change(place.to().interval(HOUR));
    let store = options.replicate_to(replica).open(place.database()).unwrap();
    fill(&store, 0);
    store.replica().unwrap().flush(PATIENCE).unwrap();
    store
}

#[test]
fn acknowledged_write_is_in_the_replica() {
    for access in [Access::Shared, Access::Exclusive] {
        let place = Place::new();
        let store = store(&place, |replica| replica, Options::new().access(access));
        add(&store).unwrap();
        assert_eq!(rows_in(&place.replica()), 1);
        submit(&store).wait().unwrap();
        assert_eq!(rows_in(&place.replica()), 2);
        let write = store.write_async_with(replicated(), |tx| {
            tx.execute("INSERT INTO entry(noise) VALUES (x'00')", [])
        });
        futures_executor::block_on(write).unwrap();
        assert_eq!(rows_in(&place.replica()), 3);
        let stats = store.stats().replica.unwrap();
        assert_eq!(
            (stats.waiting_writes, stats.acknowledgement_time.count),
            (0, 3),
            "{stats:?}"
        );
        close(store);
        place.compare_closed();
    }
}

#[test]
fn writes_share_an_upload() {
    let place = Place::new();
    let store = store(&place, |replica| replica, Options::new());
    let uploads = || store.stats().replica.unwrap().uploads;
    let before = uploads();
    let writes: Vec<_> = (0..500).map(|_| submit(&store)).collect();
    for write in writes {
        write.wait().unwrap();
    }
    assert_eq!(rows_in(&place.replica()), 500);
    assert!(uploads() - before < 250, "{} uploads", uploads() - before);
    close(store);
}

#[test]
fn write_without_a_change_is_acknowledged() {
    let place = Place::new();
    let store = store(&place, |replica| replica, Options::new());
    let count = store.write_with(replicated(), |tx| {
        tx.query_row("SELECT count(*) FROM entry", [], |row| row.get::<_, u32>(0))
    });
    assert_eq!(count.unwrap(), 0);
    let error = store.write_with(replicated(), |tx| tx.execute("INSERT INTO missing VALUES (1)", []));
    assert_eq!(error.unwrap_err().outcome(), Outcome::RolledBack);
    close(store);
}

#[test]
fn waiting_write_holds_no_other_up() {
    let place = Place::new();
    let store = store(&place, |replica| replica, Options::new());
    let outage = place.outage();
    let mut waits = submit(&store);
    // Each of these is committed after it.
    fill(&store, 20);
    assert_eq!(rows(&store), 21, "others see it from its commit on");
    assert!(waits.wait_timeout(SOON).is_none());
    assert_eq!(waiting(&store), 1);
    outage.end();
    store.replica().unwrap().flush(PATIENCE).unwrap();
    assert_eq!(waits.wait().unwrap(), 1);
    assert_eq!(rows_in(&place.replica()), 21);
    close(store);
}

#[test]
fn write_that_is_late_stays_committed() {
    with_longer_limits(SOON, |limit| {
        let place = Place::new();
        let store = store(&place, |replica| replica.replicate_timeout(limit), Options::new());
        let outage = place.outage();
        let error = add(&store).unwrap_err();
        outage.end();
        let Error::NotReplicated { waited, reason } = &error else {
            panic!("{error}");
        };
        assert!(*waited >= limit, "{waited:?}");
        assert!(reason.ends_with("goes up later"), "{reason}");
        assert_eq!((error.outcome(), error.is_retryable()), (Outcome::Local, false));
        assert_eq!(rows(&store), 1);
        store.replica().unwrap().flush(PATIENCE).unwrap();
        assert_eq!(rows_in(&place.replica()), 1);
        close(store);
        // On a slow machine its upload may not have begun.
        let is_captured = reason != "the transactions are still being read from the WAL; it goes up later";
        assert!(!is_captured || reason.contains("replica"), "{reason}");
        is_captured.then_some(())
    });
}

/// Each slice waits for the replica. One that is late is committed and counted, and the job goes on behind it.
#[test]
fn bulk_job_goes_on_behind_a_slice_that_is_late() {
    let place = Place::new();
    let load = |store: &Store, to: i64| {
        let job = store.bulk().resumable("load");
        job.insert("INSERT INTO entry VALUES (?1, x'00')", (0..to).map(|n| (n,)))
            .run()
    };
    let durable = || Options::new().durability(Durability::Replicated);
    let first = store(&place, |replica| replica, durable());
    assert_eq!(load(&first, 3000).unwrap().rows, 3000);
    assert_eq!(rows_in(&place.replica()), 3000);
    close(first);

    let hasty = place.to().interval(HOUR).replicate_timeout(SOON);
    let second = durable().replicate_to(hasty).open(place.database()).unwrap();
    let outage = place.outage();
    let error = load(&second, 10_000).unwrap_err();
    let Error::Bulk {
        rows: late,
        resumed_from,
        source,
        ..
    } = &error
    else {
        panic!("{error}")
    };
    assert!(matches!(**source, Error::NotReplicated { .. }), "{error}");
    assert_eq!((error.outcome(), *resumed_from), (Outcome::Local, 3000));
    assert!(*late > 0, "{error}");
    assert_eq!(u64::from(rows(&second)), 3000 + late);
    outage.end();
    second.replica().unwrap().flush(PATIENCE).unwrap();
    close(second);

    let third = durable()
        .replicate_to(place.to().interval(HOUR))
        .open(place.database())
        .unwrap();
    let report = load(&third, 10_000).unwrap();
    assert_eq!(report.resumed_from, 3000 + late);
    assert_eq!((rows(&third), rows_in(&place.replica())), (10_000, 10_000));
    close(third);
    place.compare_closed();
}

#[test]
fn closing_replies_to_waiting_writes() {
    let place = Place::new();
    let store = store(&place, |replica| replica, Options::new());
    let waits = submit(&store);
    let report: CloseReport = store.close().unwrap();
    assert_eq!(report.replicated, Some(true), "{report}");
    waits.wait().unwrap();

    let store = place.options().open(place.database()).unwrap();
    let outage = place.outage();
    let waits = submit(&store);
    wait_until("it is committed", || rows(&store) == 2);
    close_away(store);
    let error = waits.wait().unwrap_err();
    assert!(matches!(error, Error::NotReplicated { .. }), "{error}");
    outage.end();
    close(place.open());
    assert_eq!(rows_in(&place.replica()), 2);
}

#[test]
fn durability_of_the_store_holds_for_migrations() {
    let place = Place::new();
    let durable = || Options::new().durability(Durability::Replicated);
    let first = store(&place, |replica| replica, durable());
    fill(&first, 3);
    assert_eq!(rows_in(&place.replica()), 3);
    close(first);

    let steps = Migrations::new([Migration::new(
        1,
        "add a column",
        "ALTER TABLE entry ADD COLUMN more INTEGER",
    )]);
    let options = durable().migrations(steps).replicate_to(place.to().interval(HOUR));
    let migrated = options.open(place.database()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let restored = folder.path().join("restored.db");
    Store::restore_from(place.replica().to_str().unwrap())
        .to(&restored)
        .unwrap();
    let columns = Connection::open(&restored).unwrap();
    columns.execute("INSERT INTO entry(more) VALUES (1)", []).unwrap();
    close(migrated);

    let options = durable().replicate_to(place.to().replicate_timeout(SOON));
    let vacuumed = options.open(place.database()).unwrap();
    let outage = place.outage();
    let error = vacuumed.vacuum().run().unwrap_err();
    assert!(matches!(error, Error::NotReplicated { .. }), "{error}");
    outage.end();
    close(vacuumed);
}

#[test]
fn replicated_needs_a_replica() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let error = Options::new()
        .durability(Durability::Replicated)
        .open(&path)
        .unwrap_err();
    let says =
        "option `durability`: Replicated needs a replica: open the store with Options::replicate_to, or use Full";
    assert_eq!(error.to_string(), says);
    assert!(!path.exists());
    let store = Store::open(&path).unwrap();
    let error = store.write_with(replicated(), |_| Ok(())).unwrap_err();
    assert_eq!(
        (error.to_string().as_str(), error.outcome()),
        (says, Outcome::NotStarted)
    );
    let error = store.submit_with(replicated(), |_| Ok(())).unwrap_err();
    assert_eq!(error.to_string(), says);
    let error = store
        .write_async_with(replicated(), |_| Ok(()))
        .now_or_never()
        .unwrap()
        .unwrap_err();
    assert_eq!(error.to_string(), says);
    store.write(|tx| tx.execute_batch("CREATE TABLE entry(n)")).unwrap();
}

/// The writes that are committed and wait for the replica. A commit can be read a moment before its write is one of them.
fn waiting(store: &Store) -> usize {
    store.stats().replica.unwrap().waiting_writes
}

#[test]
fn replicated_write_that_may_not_wait_finds_no_room() {
    let place = Place::new();
    let store = store(&place, |replica| replica, Options::new().queue_capacity(2));
    let outage = place.outage();
    let waits = [submit(&store), submit(&store)];
    wait_until("they wait for the replica", || waiting(&store) == 2);
    let fail = || replicated().when_full(WhenFull::Fail);
    wait_until("there is no room", || {
        matches!(
            store.write_with(fail(), |_| Ok(())),
            Err(Error::QueueFull { capacity: 2, .. })
        )
    });
    outage.end();
    store.replica().unwrap().flush(PATIENCE).unwrap();
    for write in waits {
        write.wait().unwrap();
    }
    close(store);
}

#[test]
fn submitter_waits_for_room() {
    let place = Place::new();
    let store = store(&place, |replica| replica, Options::new().queue_capacity(2));
    let outage = place.outage();
    let waits = [submit(&store), submit(&store)];
    wait_until("they wait for the replica", || waiting(&store) == 2);
    let soon = replicated().queue_timeout(SOON);
    let error = store.submit_with(soon, |_| Ok(())).unwrap_err();
    assert!(matches!(error, Error::QueueTimeout { .. }), "{error}");
    std::thread::scope(|scope| {
        let third = scope.spawn(|| submit(&store));
        // Others do not wait.
        fill(&store, 1);
        assert!(!third.is_finished());
        outage.end();
        store.replica().unwrap().flush(PATIENCE).unwrap();
        third.join().unwrap().wait().unwrap();
    });
    for write in waits {
        write.wait().unwrap();
    }
    close(store);
    assert_eq!(rows_in(&place.replica()), 4);
}

#[cfg(feature = "async")]
#[test]
fn submitting_task_waits_for_its_reply_without_room() {
    use crate::support::tasks::{Call, begin, finish};
    let place = Place::new();
    let store = store(&place, |replica| replica, Options::new().queue_capacity(2));
    let submitting = || -> Call<Pending<usize>> {
        let write = |tx: &larder::WriteTx<'_>| tx.execute("INSERT INTO entry(noise) VALUES (x'00')", []);
        Box::pin(store.submit_async_with(replicated(), write))
    };
    let outage = place.outage();
    let waits = [finish(submitting()).unwrap(), finish(submitting()).unwrap()];
    wait_until("they wait for the replica", || waiting(&store) == 2);
    let mut third = submitting();
    begin(&mut third);
    wait_until("it waits, too", || waiting(&store) == 3);
    begin(&mut third);
    outage.end();
    store.replica().unwrap().flush(PATIENCE).unwrap();
    finish(finish(third).unwrap()).unwrap();
    for write in waits {
        write.wait().unwrap();
    }
    close(store);
    assert_eq!(rows_in(&place.replica()), 3);
}

#[test]
fn position_that_cannot_be_written_loses_nothing() {
    let place = Place::new();
    let limits = |replica: ReplicaOptions| replica.spool_limit(1 << 20).interval(SOON);
    let store = store(&place, limits, Options::new());
    let outage = place.outage();
    // A folder where the file is to be.
    let position = place.database().with_file_name("app.db-replica").join("position");
    wait_until("it is in its place", || {
        // The store may write it again between the two.
        let _ = fs::remove_file(&position);
        fs::create_dir_all(position.join("in the way")).is_ok()
    });
    let large = |tx: &larder::WriteTx<'_>| tx.execute("INSERT INTO entry(noise) VALUES (randomblob(400000))", []);
    let mut waits = Vec::new();
    for n in 1..=8 {
        waits.push(store.submit_with(replicated(), large).unwrap());
        wait_until("it is committed", || rows(&store) == n);
        // A capture that fails, and the spool that is full.
        let _ = store.replica().unwrap().flush(SOON * 2);
    }
    fs::remove_dir_all(&position).unwrap();
    outage.end();
    store.replica().unwrap().flush(PATIENCE).unwrap();
    for write in waits {
        write.wait().unwrap();
    }
    assert_eq!(rows_in(&place.replica()), 8);
    close(store);
    assert_eq!(rows_in(&place.replica()), 8);
}

#[test]
fn dropped_spool_keeps_waiting_writes() {
    let place = Place::new();
    let store = store(
        &place,
        |replica| replica.spool_limit(1 << 20).interval(SOON),
        Options::new(),
    );
    let outage = place.outage();
    let large = |tx: &larder::WriteTx<'_>| tx.execute("INSERT INTO entry(noise) VALUES (randomblob(400000))", []);
    let mut waits = Vec::new();
    let is_dropped = || {
        store
            .replica()
            .unwrap()
            .behind()
            .is_some_and(|why| why.contains("spool_limit"))
    };
    while !is_dropped() {
        waits.push(store.submit_with(replicated(), large).unwrap());
        let committed = waits.len() as u32;
        wait_until("it is committed", || rows(&store) == committed);
    }
    outage.end();
    store.replica().unwrap().flush(PATIENCE).unwrap();
    let written = waits.len() as u32;
    for write in waits {
        write.wait().unwrap();
    }
    assert_eq!(rows_in(&place.replica()), written);
    close(store);
}

#[test]
fn fenced_store_acknowledges_nothing() {
    let place = Place::new();
    let store = store(&place, |replica| replica, Options::new());
    add(&store).unwrap();
    // Another primary's transaction.
    let txid = store.replica().unwrap().uploaded() + 1;
    let mut theirs = place.transactions().pop().unwrap();
    theirs.header.min_txid = txid;
    theirs.header.max_txid = txid;
    let name = format!("ltx/0/{txid:016x}-{txid:016x}.ltx");
    fs::write(place.replica().join(name), theirs.encode()).unwrap();
    let error = add(&store).unwrap_err();
    assert!(matches!(error, Error::NotReplicated { .. }), "{error}");
    assert!(error.to_string().contains("taken over"), "{error}");
    let error = add(&store).unwrap_err();
    assert!(matches!(error, Error::Fenced { .. }), "{error}");
    assert_eq!(rows(&store), 2);
}

#[test]
fn acknowledged_writes_survive_the_machine() {
    let place = Place::new();
    let replica = place.replica();
    let (database, url) = (place.database(), replica.to_str().unwrap().to_owned());
    let child = Child::start("replica::replicated", "write", &[database.to_str().unwrap(), &url]);
    let mut acknowledged = 0;
    while acknowledged < 100 {
        acknowledged = child.line().parse().unwrap();
    }
    drop(child);
    fs::remove_dir_all(database.parent().unwrap()).unwrap();
    let there = rows_in(&replica);
    assert!(there >= acknowledged, "{there} of {acknowledged} rows");
}

/// The other process, which is killed.
pub(crate) fn child(task: &Task) {
    let [path, url] = &task.args[..] else {
        panic!("two arguments")
    };
    let store = Options::new().replicate_to(url.as_str()).open(path).unwrap();
    fill(&store, 0);
    for n in 1_u32.. {
        add(&store).unwrap();
        tell(n);
    }
}
