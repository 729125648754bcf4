//! Verifications in the background, and what advice says of replicas.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use larder::replica::levels::{LevelTimes, Levels, Merge};
use larder::replica::runtime;
use larder::replica::storage::{Storage, StorageError};
use larder::{AlertKind, LastVerify, Options, Store};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use tokio::sync::Semaphore;

use super::follower::upload;
use super::hooked::Hooked;
use super::store::{Place, close, fill, spool_of, wait_until};
use crate::support::child::PATIENCE;
use crate::support::outage::Outage;
use crate::support::{log, with_stalls};

const SECOND: Duration = Duration::from_secs(1);

fn open(place: &Place) -> Store {
    let replica = place.to().verify_every(SECOND);
    Options::new().replicate_to(replica).open(place.database()).unwrap()
}

/// With rows that are in the replica.
fn open_uploaded(place: &Place) -> Store {
    let store = open(place);
    upload(&store, 30);
    store
}

fn last_verify(store: &Store) -> Option<LastVerify> {
    store.stats().replica.unwrap().last_verify
}

fn is_raised(store: &Store) -> bool {
    let alerts = store.stats().alerts;
    alerts.iter().any(|alert| alert.kind == AlertKind::VerifyFailed)
}

#[test]
fn replica_is_verified_again_and_again() {
    let place = Place::new();
    let store = open(&place);
    fill(&store, 30);
    let path = place.replica().display().to_string();
    let made = || log::events(|event| event.message == "replica verified" && event.mentions(&path));
    wait_until("it is verified twice", || {
        fill(&store, 1);
        made().len() > 1
    });
    for event in made() {
        assert_eq!((event.expect("problems"), event.expect("compared")), ("0", "true"));
    }
    let last = last_verify(&store).unwrap();
    assert_eq!(last.problem, None);
    assert!(last.ago < PATIENCE && !is_raised(&store));
    close(store);
    // The next store knows.
    let store = place.open();
    assert!(last_verify(&store).unwrap().problem.is_none());
    store.replica().unwrap().flush(PATIENCE).unwrap();
    assert!(
        store
            .advice()
            .iter()
            .all(|finding| finding.topic != "replica_not_verified")
    );
    close(store);
}

#[test]
fn damaged_file_raises_the_alert() {
    let place = Place::new();
    let store = Options::new()
        .replicate_to(place.to().verify_every(2 * SECOND))
        .monitor_interval(Duration::from_millis(20))
        .open(place.database())
        .unwrap();
    fill(&store, 30);
    store.replica().unwrap().flush(PATIENCE).unwrap();
    let path = place.replica().join("ltx/0/0000000000000001-0000000000000001.ltx");
    let sound = fs::read(&path).unwrap();
    let raised = (0..10).find_map(|_| {
        let (raised, lost) = with_stalls(|| damage(&place, &path, &sound[..150]));
        // The monitor had two seconds to see it: a hundred times as long as it takes.
        assert!(raised.is_some() || lost > SECOND, "no alert was raised");
        raised
    });
    let raised = raised.expect("the machine kept the monitor from its work each time");
    let reason = raised.expect("reason");
    assert!(reason.contains("0000000000000001"), "{reason}");
    wait_until("the alert clears", || !is_raised(&store));
    assert!(fs::read(&path).unwrap() == sound, "it was written once more");
    let report = store.replica().unwrap().verify().restore(true).run().unwrap();
    assert!(report.is_ok(), "{report}");
    close(store);
}

/// Damages a file of the replica, and waits until a verification has found that, and the next one has not any more, since
/// the store has written the file again. Gives the event of the alert.
fn damage(place: &Place, path: &std::path::Path, contents: &[u8]) -> Option<log::Event> {
    let replica = place.replica().display().to_string();
    let verified = || log::events(|event| event.message == "replica verified" && event.mentions(&replica));
    let before = verified().len();
    fs::write(path, contents).unwrap();
    wait_until("the damage is found, and mended", || {
        let mut since = verified()
            .into_iter()
            .skip(before)
            .map(|event| event.expect("problems") != "0");
        since.any(|finds| finds) && since.any(|finds| !finds)
    });
    let database = place.database().display().to_string();
    let raised = log::events(|event| {
        event.message == "alert fired" && event.field("alert") == Some("verify_failed") && event.mentions(&database)
    });
    raised.into_iter().next()
}

/// Neither can the file be read in the spool then, nor one with every page begun.
#[test]
fn damage_that_is_found_while_the_spool_is_away_is_mended_after_it() {
    let place = Place::new();
    let store = open_uploaded(&place);
    let spool = Outage::of(spool_of(&place.database()));
    let path = place.replica().join("ltx/0/0000000000000001-0000000000000001.ltx");
    fs::write(&path, &fs::read(&path).unwrap()[..150]).unwrap();
    wait_until("the alert is raised", || is_raised(&store));
    let database = place.database().display().to_string();
    let cannot =
        || log::events(|event| event.message.contains("levels of the replica could not") && event.mentions(&database));
    wait_until("the whole database could not be captured", || {
        let mut told = cannot().into_iter();
        told.any(|event| {
            event
                .expect("error")
                .contains("the whole database could not be captured")
        })
    });
    spool.end();
    wait_until("the alert clears", || !is_raised(&store));
    let report = store.replica().unwrap().verify().restore(true).run().unwrap();
    assert!(report.is_ok(), "{report}");
    close(store);
}

/// A storage that is away says nothing about the replica.
#[test]
fn verification_that_is_not_possible_is_told() {
    let place = Place::new();
    let store = open_uploaded(&place);
    let outage = place.outage();
    let away = Instant::now();
    let path = place.database().display().to_string();
    let told = || log::events(|event| event.message.contains("could not be verified") && event.mentions(&path));
    wait_until("it is told", || !told().is_empty());
    assert!(last_verify(&store).is_none_or(|last| last.problem.is_none()));
    outage.end();
    let is_new = |last: LastVerify| last.ago < away.elapsed();
    wait_until("it is verified", || last_verify(&store).is_some_and(is_new));
    close(store);
}

/// One file of the transactions up to that one, in place of them but the last, as an owner makes it.
fn merge_up_to(tip: u64, url: &str) {
    merge(1..=tip, url);
}

fn merge(txids: std::ops::RangeInclusive<u64>, url: &str) {
    let (storage, spool) = (Storage::connect(url).unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir(spool.path().join("tmp")).unwrap();
    let folder = spool.path().to_owned();
    let merged = runtime::wait(async move {
        let mut levels = Levels::open(storage.clone(), LevelTimes::default(), folder).await?;
        let mut inputs = storage.list(0).await?;
        inputs.retain(|file| txids.contains(&file.txids.max));
        levels
            .merge(
                Merge {
                    to: 1,
                    inputs: inputs.clone(),
                },
                &|| true,
            )
            .await?;
        for input in &inputs[..inputs.len() - 1] {
            storage.delete(0, input.txids).await?;
        }
        Ok::<_, StorageError>(())
    });
    merged.unwrap().unwrap();
}

/// Holds the first request for a file that comes, until `then` has ended.
fn holding_a_download<T: Send>(hooked: &Hooked, work: impl FnOnce() -> T + Send, then: impl FnOnce()) -> T {
    let (there, may) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (asked, goes_on) = (Arc::clone(&there), Arc::clone(&may));
    hooked.before(move |verb, key| {
        let (there, may) = (Arc::clone(&there), Arc::clone(&may));
        async move {
            if verb == "GET" && key.ends_with(".ltx") {
                there.add_permits(1);
                may.acquire().await.unwrap().forget();
            }
            Ok(())
        }
        .boxed()
    });
    std::thread::scope(|scope| {
        let working = scope.spawn(work);
        runtime::wait(async move { asked.acquire().await.unwrap().forget() }).unwrap();
        hooked.before(|_, _| async { Ok(()) }.boxed());
        then();
        goes_on.add_permits(1000);
        working.join().unwrap()
    })
}

/// Its restore takes longer than the files are kept: that says nothing about the replica.
#[test]
fn state_that_was_merged_meanwhile_is_no_problem() {
    let (place, hooked) = (Place::new(), Hooked::named("merged-meanwhile"));
    let url = "memory:merged-meanwhile";
    let store = Options::new()
        .replicate_to(place.to_url(url))
        .open(place.database())
        .unwrap();
    upload(&store, 10);
    upload(&store, 1);
    let verify = || store.replica().unwrap().verify().restore(true).run().unwrap();
    let report = holding_a_download(&hooked, verify, || {
        upload(&store, 1);
        let tip = upload(&store, 1);
        merge_up_to(tip, url);
    });
    assert!(report.is_ok(), "{report}");
    let restored = report.restored.unwrap();
    assert!(
        restored.is_compared && Some(restored.txid) == report.newest,
        "{restored:?}"
    );
    assert!(!is_raised(&store));
    store.close().unwrap();
}

/// Each state is merged with a later one before it is restored. The files are read all the same, and what is wrong with
/// them is told.
#[test]
fn damage_is_found_where_no_state_can_be_compared() {
    for is_damaged in [false, true] {
        let (place, url) = (Place::new(), format!("memory:never-compared-{is_damaged}"));
        let hooked = Hooked::named(&format!("never-compared-{is_damaged}"));
        let store = Options::new()
            .replicate_to(place.to_url(&url))
            .open(place.database())
            .unwrap();
        upload(&store, 10);
        let merged = upload(&store, 1);
        merge_up_to(merged, &url);
        let key = format!("ltx/0/{merged:016x}-{merged:016x}.ltx");
        if is_damaged {
            // The merged file has what it had.
            let hooked = Arc::clone(&hooked);
            let key = Path::from(key.as_str());
            runtime::wait(async move { hooked.store.put(&key, "damaged".into()).await.unwrap() }).unwrap();
        }
        let newest = Arc::new(AtomicU64::new(upload(&store, 1)));
        let (there, may) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let (asked, goes_on, held) = (Arc::clone(&there), Arc::clone(&may), Arc::clone(&newest));
        hooked.before(move |verb, key| {
            let (there, may) = (Arc::clone(&there), Arc::clone(&may));
            let txid = held.load(Relaxed);
            let is_held = verb == "GET" && key == format!("ltx/0/{txid:016x}-{txid:016x}.ltx");
            async move {
                if is_held {
                    there.add_permits(1);
                    may.acquire().await.unwrap().forget();
                }
                Ok(())
            }
            .boxed()
        });
        let verified = std::thread::scope(|scope| {
            let verifying = scope.spawn(|| store.replica().unwrap().verify().restore(true).run());
            for attempt in 1..=3 {
                let asked = Arc::clone(&asked);
                runtime::wait(async move { asked.acquire().await.unwrap().forget() }).unwrap();
                let first = newest.swap(0, Relaxed);
                upload(&store, 1);
                let tip = upload(&store, 1);
                merge(first..=tip, &url);
                let next = upload(&store, 1);
                if attempt < 3 {
                    newest.store(next, Relaxed);
                }
                goes_on.add_permits(1);
            }
            verifying.join().unwrap()
        });
        let not_compared = "it cannot be compared with the store";
        if is_damaged {
            let report = verified.unwrap();
            assert_eq!((report.problems.len(), &report.restored), (2, &None), "{report:?}");
            assert!(report.problems[0].contains(&key), "{report:?}");
            assert!(report.problems[1].contains(not_compared), "{report:?}");
        } else {
            let error = verified.unwrap_err();
            assert!(
                error.is_retryable() && error.to_string().contains(not_compared),
                "{error}"
            );
        }
        store.close().unwrap();
    }
}

#[test]
fn closing_does_not_wait_for_a_verification() {
    // One that ends between the look and the close shows nothing.
    assert!((0..20).any(|_| closes_in_the_middle_of_a_verification()));
}

fn closes_in_the_middle_of_a_verification() -> bool {
    let place = Place::new();
    let store = open(&place);
    let many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400000)
                INSERT INTO entry(noise) SELECT zeroblob(20) FROM n";
    fill(&store, 1);
    store.write(move |tx| tx.execute(many, [])).unwrap();
    store.replica().unwrap().flush(PATIENCE).unwrap();
    let verifying = || {
        let reads = store.stats().readers;
        reads.oldest_read.is_some_and(|read| read.site.contains("verify"))
    };
    wait_until("it reads the rows", verifying);
    let report = store.close().unwrap();
    assert!(report.wal_truncated && report.replicated == Some(true), "{report}");
    // Its end would have been noted.
    !spool_of(&place.database()).join("verified").exists()
}

#[test]
fn advice_asks_for_a_verification() {
    let place = Place::new();
    let store = place.open();
    fill(&store, 1);
    store.replica().unwrap().flush(PATIENCE).unwrap();
    let topics = |store: &Store| -> Vec<_> {
        let advice = store.advice();
        let topics = advice.iter().map(|finding| finding.topic);
        topics.filter(|topic| topic.starts_with("replica_")).collect()
    };
    assert_eq!(last_verify(&store), None);
    assert_eq!(topics(&store), ["replica_not_verified"]);
    let report = store.replica().unwrap().verify().restore(true).run().unwrap();
    assert!(report.is_ok(), "{report}");
    assert!(topics(&store).is_empty());
    close(store);
    let replica = place.to().unconditional(true);
    let store = Options::new().replicate_to(replica).open(place.database()).unwrap();
    assert_eq!(topics(&store), ["replica_unconditional"]);
    close(store);
}

#[test]
fn cancelled_verification_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let store = larder::Options::new()
        .replicate_to(at("replica").as_str())
        .open(at("app.db"))
        .unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(n INTEGER) STRICT"))
        .unwrap();
    let patience = std::time::Duration::from_secs(60);
    store.replica().unwrap().flush(patience).unwrap();
    let replica = larder::Replica::open(&at("replica")).unwrap();
    for restore in [true, false] {
        let verify = replica.verify().restore(restore).folder(folder.path());
        let error = verify.progress(|_| std::ops::ControlFlow::Break(())).run();
        match (restore, error) {
            (true, Err(larder::Error::Cancelled { work: "verification" })) => {}
            // Without a restore there may be nothing to look at within a tenth of a second.
            (false, Err(larder::Error::Cancelled { .. }) | Ok(_)) => {}
            (_, other) => panic!("{restore}: {other:?}"),
        }
    }
    let names = crate::support::names_in(folder.path());
    assert!(
        names.iter().all(|name| name.starts_with("app.db") || name == "replica"),
        "{names:?}"
    );
    store.close().unwrap();
}
