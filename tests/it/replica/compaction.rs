//! A store that is replicated compacts its replica while it runs.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use larder::{Error, Options, Replica, ReplicaOptions, Store};

use super::litestream::Litestream;
use super::store::{CENTURY, Place, close, spool_of, wait_until};
use crate::support::child::PATIENCE;
use crate::support::log;

fn open(place: &Place) -> Store {
    let replica = place.to().levels([1, 2, 4].map(Duration::from_secs));
    Options::new().replicate_to(replica).open(place.database()).unwrap()
}

fn write(store: &Store, n: i64) {
    let sql = "INSERT INTO entry(n, noise) VALUES (?1, randomblob(700))";
    store.write(move |tx| tx.execute(sql, [n])).unwrap();
    store.replica().unwrap().flush(PATIENCE).unwrap();
}

/// The first and the last transaction of each file of that level, in order.
fn files(place: &Place, level: u8) -> BTreeSet<(u64, u64)> {
    let Ok(entries) = fs::read_dir(place.replica().join(format!("ltx/{level}"))) else {
        return BTreeSet::new();
    };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.map(|name| txids(name.strip_suffix(".ltx").unwrap())).collect()
}

fn txids(text: &str) -> (u64, u64) {
    let number = |text| u64::from_str_radix(text, 16).unwrap();
    let (first, last) = text.split_once('-').unwrap();
    (number(first), number(last))
}

/// The same of the files that were merged into that level, as the events say.
fn merges(place: &Place, level: u8) -> Vec<(u64, u64)> {
    let (path, level) = (place.database().display().to_string(), level.to_string());
    let events = log::events(|event| {
        event.message == "files of the replica were merged into one"
            && event.mentions(&path)
            && event.expect("level") == level
    });
    events.iter().map(|event| txids(event.expect("txids"))).collect()
}

/// Waits until files were merged into that level.
fn merged(place: &Place, level: u8) {
    wait_until("files are merged", || !merges(place, level).is_empty());
}

/// Waits until that level has all uploads, closes, opens, and goes on.
#[test]
fn running_store_merges_its_uploads() {
    let place = Place::new();
    let mut n = 0;
    for level in [2, 3] {
        // A merge that the last closing has interrupted may have made its file, and be told by no event.
        let (before, told) = (files(&place, level), merges(&place, level).len());
        let store = open(&place);
        store
            .write(|tx| tx.execute_batch("CREATE TABLE IF NOT EXISTS entry(n INTEGER PRIMARY KEY, noise BLOB)"))
            .unwrap();
        (0..20).for_each(|_| {
            n += 1;
            write(&store, n);
        });
        let last = store.replica().unwrap().uploaded();
        wait_until("all uploads are merged", || {
            merges(&place, level).iter().any(|merged| merged.1 >= last)
        });
        // Each merge has made one file, and no other one is there.
        wait_until("the files are those of the merges", || {
            let merges = merges(&place, level);
            let made: BTreeSet<_> = merges[told..].iter().copied().collect();
            made.len() == merges.len() - told && files(&place, level) == &before | &made
        });
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
    assert_eq!(files(&place, 9), BTreeSet::new());
    let unfinished = place.database().with_file_name("app.db-replica").join("tmp");
    assert_eq!(fs::read_dir(unfinished).unwrap().count(), 0);
}

fn with_levels(place: &Place, levels: [Duration; 3]) -> Store {
    let replica = place.to().levels(levels);
    let store = Options::new().replicate_to(replica).open(place.database()).unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE entry(n INTEGER PRIMARY KEY, noise BLOB)"))
        .unwrap();
    store
}

fn upload(place: &Place, txid: u64) -> PathBuf {
    place.replica().join(format!("ltx/0/{txid:016x}-{txid:016x}.ltx"))
}

/// What the newest state of the replica is, without the files that are damaged.
#[track_caller]
fn compare_closed(place: &Place, store: Store) {
    close(store);
    let restored = place.database().with_file_name("restored.db");
    Store::restore_from(place.replica().to_str().unwrap())
        .to(&restored)
        .unwrap();
    let database = fs::read(place.database()).unwrap();
    assert!(fs::read(restored).unwrap() == database);
    for litestream in Litestream::all().iter().filter(|litestream| litestream.knows_blocks()) {
        assert!(litestream.restore(&place.replica(), None) == database);
    }
}

/// The task sleeps until the next snapshot once everything is merged, and an upload ends that.
#[test]
fn uploads_after_an_idle_time_are_merged() {
    let place = Place::new();
    let store = with_levels(&place, [1, 2, 4].map(Duration::from_secs));
    write(&store, 1);
    merged(&place, 3);
    write(&store, 2);
    merged_to(&place, store.replica().unwrap().uploaded());
    close(store);
}

/// An upload stays in the spool until it is merged, and the merge downloads none.
#[test]
fn merge_reads_uploads_from_the_spool() {
    let place = Place::new();
    let store = with_levels(&place, [Duration::from_secs(4), CENTURY, 2 * CENTURY]);
    (1..=20).for_each(|n| write(&store, n));
    let last = store.replica().unwrap().uploaded();
    (1..last).for_each(|txid| fs::write(upload(&place, txid), "not read").unwrap());
    merged(&place, 1);
    let kept = || fs::read_dir(spool_of(&place.database()).join("0")).unwrap().count();
    write(&store, 21);
    merged_to(&place, last);
    assert!(kept() <= 2, "{}", kept());
    compare_closed(&place, store);
}

/// Waits until level 1 has that transaction.
fn merged_to(place: &Place, txid: u64) {
    wait_until("it is merged", || {
        merges(place, 1).iter().any(|merged| merged.1 >= txid)
    });
}

#[test]
fn damaged_upload_is_written_once_more() {
    let place = Place::new();
    let store = with_levels(&place, [1, 2, 4].map(|n| n * CENTURY));
    (1..=5).for_each(|n| write(&store, n));
    let whole = fs::read(upload(&place, 3)).unwrap();
    fs::write(upload(&place, 3), &whole[..150]).unwrap();
    fs::remove_file(upload(&place, 4)).unwrap();
    let report = store.replica().unwrap().verify().run().unwrap();
    assert!(!report.is_ok(), "{report}");
    let path = place.database().display().to_string();
    for txid in [3, 4] {
        let name = format!("{txid:016x}.ltx");
        log::wait_for(|event| {
            event.message.ends_with("was written once more")
                && event.mentions(&path)
                && event.expect("file").ends_with(&name)
        });
    }
    assert!(fs::read(upload(&place, 3)).unwrap() == whole);
    let report = store.replica().unwrap().verify().run().unwrap();
    assert!(report.is_ok(), "{report}");
    close(store);
    place.compare_closed();
}

/// Neither the spool nor another file has the transaction: the whole database goes up once more.
#[test]
fn lost_transaction_is_healed_by_a_snapshot() {
    let place = Place::new();
    let store = with_levels(&place, [Duration::from_secs(1), CENTURY, 2 * CENTURY]);
    (1..=5).for_each(|n| write(&store, n));
    let last = store.replica().unwrap().uploaded();
    write(&store, 6);
    merged_to(&place, last);
    let level_1 = fs::read_dir(place.replica().join("ltx/1"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    for path in level_1.chain([upload(&place, 3)]) {
        fs::write(path, "damaged").unwrap();
    }
    let report = store.replica().unwrap().verify().run().unwrap();
    assert!(!report.is_ok(), "{report}");
    write(&store, 7);
    let path = place.database().display().to_string();
    for message in ["so the whole database is uploaded once more", "can be restored again"] {
        log::wait_for(|event| event.message.ends_with(message) && event.mentions(&path));
    }
    write(&store, 8);
    let report = store.replica().unwrap().verify().restore(true).run().unwrap();
    let restored = report.restored.as_ref().unwrap();
    assert!(restored.is_compared, "{report}");
    assert!(
        report.problems.iter().all(|problem| problem.contains(".ltx: ")),
        "{report:?}"
    );
    // It was found before, and nothing has to be done about it now.
    let uploads = store.stats().replica.unwrap().rebases;
    assert_eq!(uploads, 1);
    compare_closed(&place, store);
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
