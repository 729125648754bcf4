//! Sources that block, are quick, or end badly, and what the job does meanwhile.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use larder::{Error, Stats, Store};

use crate::support::{RaiseOnDrop, blocker, count, until};

const INSERT: &str = "INSERT INTO t(id) VALUES (?1)";

fn store() -> Store {
    let store = Store::open_temp().unwrap();
    store
        .write(|tx| {
            tx.execute_batch(
                "CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT;
                 CREATE TABLE beside(n INTEGER) STRICT",
            )
        })
        .unwrap();
    store
}

/// Whether a job has run for so long that a source without bounds would have given all its rows.
fn waits(stats: &Stats) -> bool {
    stats.bulk.iter().any(|job| job.age > Duration::from_millis(200))
}

#[test]
fn single_rows_of_a_slow_source_are_committed_one_by_one() {
    let store = store();
    let (sender, receiver) = sync_channel::<(i64,)>(0);
    thread::scope(|scope| {
        let job = scope.spawn(|| store.bulk().resumable("slow").insert(INSERT, receiver).run());
        for id in 0..5 {
            sender.send((id,)).unwrap();
            until(&store, |_| count(&store) == id + 1);
            let cursor = "SELECT rows FROM larder_bulk WHERE name = 'slow'";
            assert_eq!(store.read(|tx| tx.scalar::<i64>(cursor, [])).unwrap(), id + 1);
        }
        drop(sender);
        let report = job.join().unwrap().unwrap();
        assert_eq!((report.rows, report.slices, report.bytes), (5, 5, 40));
    });
}

#[test]
fn job_whose_source_blocks_is_cancelled_by_its_callback() {
    let store = store();
    let (sender, receiver) = sync_channel::<(i64,)>(0);
    thread::scope(|scope| {
        let job = scope.spawn(|| {
            let cancels = |progress: &larder::BulkProgress| match progress.rows {
                0 => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
            };
            store
                .bulk()
                .resumable("blocked")
                .progress(cancels)
                .insert(INSERT, receiver)
                .run()
        });
        sender.send((1,)).unwrap();
        until(&store, |stats| stats.bulk.is_empty() && count(&store) == 1);
        // Its name is free, though the call has not returned.
        let again = store.bulk().resumable("blocked").insert(INSERT, [(1,), (2,)]).run();
        assert_eq!(again.unwrap().rows, 1);
        // The row that unblocks the source is not taken.
        let _ = sender.send((3,));
        let report = job.join().unwrap().unwrap();
        assert!(report.cancelled && report.rows == 1, "{report:?}");
    });
    assert_eq!(count(&store), 2);
}

#[test]
fn store_closes_while_the_source_blocks() {
    let store = store();
    let (sender, receiver) = sync_channel::<(i64,)>(0);
    let again = store.clone();
    let job = thread::spawn(move || again.bulk().insert(INSERT, receiver).run());
    sender.send((1,)).unwrap();
    until(&store, |_| count(&store) == 1);
    assert!(store.close().unwrap().wal_truncated);
    let _ = sender.send((2,));
    drop(sender);
    let error = job.join().unwrap().unwrap_err();
    assert!(
        matches!(&error, Error::Bulk { rows: 1, source, .. } if matches!(**source, Error::Closed)),
        "{error}"
    );
}

#[test]
fn source_waits_while_the_writer_is_busy() {
    let store = store();
    let pulled = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (let_go, running) = blocker(&store);
        let job = scope.spawn(|| {
            let rows = (0..100_000).inspect(|_| {
                pulled.fetch_add(1, SeqCst);
            });
            store.bulk().insert(INSERT, rows.map(|id| (id,))).run()
        });
        // The batch of the slice that is queued may have fewer rows.
        until(&store, |stats| waits(stats) && pulled.load(SeqCst) >= 7 * 512);
        // Nothing is committed, so no more can be taken.
        let most = pulled.load(SeqCst);
        assert!(most <= 8 * 512 + 1, "{most}");
        drop(let_go);
        running.wait().unwrap();
        assert_eq!(job.join().unwrap().unwrap().rows, 100_000);
    });
}

#[test]
fn large_rows_are_few_in_memory() {
    const SIZE: usize = 40 << 20;
    let store = Store::open_temp().unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT"))
        .unwrap();
    let pulled = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (let_go, running) = blocker(&store);
        let job = scope.spawn(|| {
            let rows = (0..4i64).map(|id| {
                pulled.fetch_add(1, SeqCst);
                (id, vec![id as u8; SIZE])
            });
            store.bulk().insert("INSERT INTO t VALUES (?1, ?2)", rows).run()
        });
        until(&store, |stats| waits(stats) && pulled.load(SeqCst) >= 2);
        // One is in the feed, and one waits for room.
        assert_eq!(pulled.load(SeqCst), 2);
        drop(let_go);
        running.wait().unwrap();
        let report = job.join().unwrap().unwrap();
        assert_eq!((report.rows, report.bytes), (4, 4 * (SIZE as u64 + 8)));
    });
    let sizes: Vec<i64> = store.read(|tx| tx.scalars("SELECT length(body) FROM t", [])).unwrap();
    assert_eq!(sizes, [SIZE as i64; 4]);
}

#[test]
fn bytes_are_those_of_committed_rows() {
    let store = store();
    let rows = (0..20_000).chain([5]).map(|id| (id,));
    let error = store.bulk().insert(INSERT, rows).run().unwrap_err();
    assert!(
        matches!(
            error,
            Error::Bulk {
                rows: 20_000,
                row: Some(20_001),
                ..
            }
        ),
        "{error}"
    );
    let report = store
        .bulk()
        .progress(|progress| match progress.rows {
            0 => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        })
        .insert(INSERT, (20_000..).map(|id: i64| (id,)))
        .run()
        .unwrap();
    assert!(report.cancelled && report.rows > 0);
    assert_eq!(report.bytes, 8 * report.rows);
}

#[test]
fn share_is_kept_beside_other_writes() {
    let store = store();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let raised = RaiseOnDrop(&over);
        scope.spawn(|| {
            while !over.load(SeqCst) {
                store
                    .write(|tx| tx.execute("INSERT INTO beside VALUES (1)", []))
                    .unwrap();
            }
        });
        let job = scope.spawn(|| {
            let rows = (0..).take_while(|_| !over.load(SeqCst)).map(|id: i64| (id,));
            store.bulk().share(0.1).label("a tenth").insert(INSERT, rows).run()
        });
        // At 1 it would be near 1: slices follow each other.
        until(&store, |stats| {
            let job = stats.bulk.iter().find(|job| job.site == "a tenth");
            job.is_some_and(|job| job.rows > 3000 && job.share < 0.2)
        });
        drop(raised);
        job.join().unwrap().unwrap();
    });
}

#[test]
fn shares_out_of_range_are_refused() {
    let store = store();
    for share in [0.0, -0.5, 1.01, f64::NAN, f64::INFINITY] {
        let error = store.bulk().share(share).insert(INSERT, [(1,)]).run().unwrap_err();
        assert!(
            matches!(
                error,
                Error::Options {
                    option: "Bulk::share",
                    ..
                }
            ),
            "{error}"
        );
    }
    assert_eq!(store.bulk().share(0.01).insert(INSERT, [(1,)]).run().unwrap().rows, 1);
}
