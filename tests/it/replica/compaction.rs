//! A store that is replicated compacts its replica while it runs.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use larder::{Error, Options, Replica, ReplicaOptions, Store};

use super::litestream::Litestream;
use super::store::Place;
use crate::support::child::PATIENCE;

fn open(place: &Place) -> Store {
    let replica = place.to().levels([1, 2, 4].map(Duration::from_secs));
    Options::new().replicate_to(replica).open(place.database()).unwrap()
}

fn write(store: &Store, n: i64) {
    let sql = "INSERT INTO entry(n, noise) VALUES (?1, randomblob(700))";
    store.write(move |tx| tx.execute(sql, [n])).unwrap();
    store.replica().unwrap().flush(PATIENCE).unwrap();
}

fn files(place: &Place, level: u8) -> usize {
    fs::read_dir(place.replica().join(format!("ltx/{level}"))).map_or(0, Iterator::count)
}

/// Writes until the levels have files, closes, opens, and goes on.
#[test]
fn running_store_merges_its_uploads() {
    let place = Place::new();
    let mut n = 0;
    for (level, wanted) in [(2, 1), (3, 1)] {
        let store = open(&place);
        store
            .write(|tx| tx.execute_batch("CREATE TABLE IF NOT EXISTS entry(n INTEGER PRIMARY KEY, noise BLOB)"))
            .unwrap();
        let began = Instant::now();
        while files(&place, level) < wanted {
            assert!(began.elapsed() < PATIENCE, "level {level} stays empty");
            n += 1;
            write(&store, n);
            thread::sleep(Duration::from_millis(50));
        }
        let report = store.close().unwrap();
        assert_eq!(report.replicated, Some(true), "{report}");
        let replica = Replica::open(place.replica().to_str().unwrap()).unwrap();
        let verified = replica.verify().restore(true).run().unwrap();
        assert!(verified.is_ok(), "{verified}");
        println!("{verified}");
        assert!(
            (0..=level).all(|level| verified.levels.contains_key(&level)),
            "{verified}"
        );
        let database = fs::read(place.database()).unwrap();
        let restored = place.replica().join("restored.db");
        replica.restore().to(&restored).unwrap();
        assert!(fs::read(&restored).unwrap() == database);
        fs::remove_file(restored).unwrap();
        let _ = fs::remove_dir_all(place.replica().join("restored.db-replica"));
        for litestream in Litestream::all().iter().filter(|litestream| litestream.knows_blocks()) {
            assert!(
                litestream.restore(&place.replica(), None) == database,
                "{}",
                litestream.version
            );
        }
    }
    assert_eq!(files(&place, 9), 0);
    let unfinished = place.database().with_file_name("app.db-replica").join("tmp");
    assert_eq!(fs::read_dir(unfinished).unwrap().count(), 0);
}

#[test]
fn times_out_of_range_are_refused() {
    let seconds = Duration::from_secs;
    let to = || ReplicaOptions::to("/nowhere");
    for (replica, problem) in [
        (to().levels([seconds(0), seconds(5), seconds(10)]), "1 s is the least"),
        (
            to().levels([5, 12, 24].map(seconds)),
            "12s is no multiple of the one before it, 5s",
        ),
        (to().levels([5, 5, 10].map(seconds)), "5s is no multiple"),
        (to().l0_retention(seconds(59)), "a l0_retention of 59s is below 60s"),
        (to().snapshot_every(seconds(1)), "a snapshot_every of 1s is below 60s"),
        (to().retention(seconds(1)), "a retention of 1s is below 3600s"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let error = Options::new()
            .replicate_to(replica)
            .open(folder.path().join("app.db"))
            .unwrap_err();
        assert!(
            matches!(
                error,
                Error::Options {
                    option: "replicate_to",
                    ..
                }
            ),
            "{error:?}"
        );
        assert!(error.to_string().contains(problem), "{error}");
    }
}
