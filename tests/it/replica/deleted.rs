//! Replicas of which a part is deleted while a store has them open.

use std::time::{Duration, Instant};
use std::{fs, thread};

use larder::rusqlite::Connection;
use larder::{Options, Store};

use super::store::{Place, close, fill, wait_until};
use crate::support::child::PATIENCE;
use crate::support::log;

fn told(place: &Place) -> Vec<log::Event> {
    let path = place.database().display().to_string();
    log::events(|event| event.message.contains("owner.json of the replica is gone") && event.mentions(&path))
}

/// A store whose files are merged each second.
fn open(place: &Place) -> Store {
    let replica = place.to().levels([1, 2, 4].map(Duration::from_secs));
    Options::new().replicate_to(replica).open(place.database()).unwrap()
}

fn flush(store: &Store) {
    store.replica().unwrap().flush(PATIENCE).unwrap();
}

/// Waits until something was merged, so that the spool does not have it any more.
fn wait_for_merge(place: &Place) {
    let level = place.replica().join("ltx/1");
    wait_until("a merge", || {
        fs::read_dir(&level).is_ok_and(|mut files| files.next().is_some())
    });
}

/// All of it at once: the store may write meanwhile.
fn empty(place: &Place) {
    let gone = place.replica().with_file_name("gone");
    fs::rename(place.replica(), &gone).unwrap();
    fs::remove_dir_all(gone).unwrap();
}

/// The number of rows that a restore has; `None` if it fails.
fn restored(place: &Place) -> Option<u32> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("restored.db");
    let replica = place.replica();
    Store::restore_from(replica.to_str().unwrap()).to(&path).ok()?;
    let database = Connection::open(&path).unwrap();
    let count = database.query_row("SELECT count(*) FROM entry", [], |row| row.get(0));
    count.ok()
}

/// What the events say was missing.
fn lacks(place: &Place) -> Vec<String> {
    wait_until("an event", || !told(place).is_empty());
    told(place)
        .iter()
        .map(|event| event.expect("lacks").to_owned())
        .collect()
}

/// A step of the levels that was under way as the replica was emptied may fail, and is tried again after a minute.
fn wait_for_rows(place: &Place, rows: u32) {
    let give_up = Instant::now() + 4 * PATIENCE;
    while restored(place) != Some(rows) {
        assert!(Instant::now() < give_up, "{:?}", restored(place));
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn emptied_replica_of_a_busy_store_is_made_whole() {
    let place = Place::new();
    let store = open(&place);
    fill(&store, 10);
    flush(&store);
    wait_for_merge(&place);
    empty(&place);
    fill(&store, 10);
    flush(&store);
    wait_for_rows(&place, 20);
    assert_eq!(lacks(&place).len(), 1);
    close(store);
    // It has its owner again, who has closed it.
    let owner = fs::read_to_string(place.replica().join("larder/owner.json")).unwrap();
    let owner: serde_json::Value = serde_json::from_str(&owner).unwrap();
    assert_eq!(owner["closed"], true, "{owner}");
    assert_eq!(restored(&place), Some(20));
    close(place.open());
}

#[test]
fn emptied_replica_of_an_idle_store_is_made_whole() {
    let place = Place::new();
    let store = open(&place);
    fill(&store, 10);
    flush(&store);
    wait_for_merge(&place);
    empty(&place);
    wait_for_rows(&place, 10);
    assert_eq!(lacks(&place).len(), 1);
    close(store);
}

#[test]
fn owner_alone_that_was_deleted_is_entered_again() {
    let place = Place::new();
    let store = open(&place);
    fill(&store, 10);
    flush(&store);
    wait_for_merge(&place);
    let owner = place.replica().join("larder/owner.json");
    fs::remove_file(&owner).unwrap();
    wait_until("an owner", || owner.exists());
    assert_eq!(lacks(&place), [""]);
    close(store);
    assert_eq!(restored(&place), Some(10));
}
