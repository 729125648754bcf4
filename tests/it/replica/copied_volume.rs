//! A volume that is copied while its store runs, or after it was killed: two stores with one spool's number.

use std::fs;

use larder::{Error, Options, Store};

use super::store::{Place, close, copy_folder, fill, rows};
use crate::support::child::PATIENCE;

/// A store on a copy of the volume, with the same options and the same replica.
fn open_copy(place: &Place) -> (tempfile::TempDir, Result<Store, Error>) {
    let volume = tempfile::tempdir().unwrap();
    copy_folder(place.database().parent().unwrap(), volume.path());
    let opened = Options::new()
        .replicate_to(place.to())
        .open(volume.path().join("app.db"));
    (volume, opened)
}

fn owner(place: &Place) -> String {
    fs::read_to_string(place.replica().join("larder/owner.json")).unwrap()
}

#[test]
fn copy_fences_the_idle_original() {
    let place = Place::new();
    let original = place.open();
    fill(&original, 10);
    original.replica().unwrap().flush(PATIENCE).unwrap();
    let (volume, copy) = open_copy(&place);
    let copy = copy.unwrap();
    fill(&copy, 5);
    copy.replica().unwrap().flush(PATIENCE).unwrap();
    let before = owner(&place);
    // It is committed to its own file alone.
    fill(&original, 1);
    let error = original.replica().unwrap().flush(PATIENCE).unwrap_err();
    assert!(matches!(error, Error::Fenced { .. }), "{error}");
    assert_eq!(original.close().unwrap().replicated, Some(false));
    assert_eq!(owner(&place), before, "it does not close the replica of the other");
    fill(&copy, 5);
    close(copy);
    assert!(fs::read(volume.path().join("app.db")).unwrap() == place.restored());
    assert!(owner(&place).contains("\"closed\":true"));
}

#[test]
fn original_that_closes_idle_leaves_the_copy_its_owner() {
    let place = Place::new();
    let original = place.open();
    fill(&original, 10);
    original.replica().unwrap().flush(PATIENCE).unwrap();
    let (_volume, copy) = open_copy(&place);
    let copy = copy.unwrap();
    fill(&copy, 5);
    copy.replica().unwrap().flush(PATIENCE).unwrap();
    drop(original.close().unwrap());
    assert!(owner(&place).contains("\"closed\":false"));
    assert_eq!(rows(&copy), 15);
    close(copy);
}

#[test]
fn copy_of_an_older_state_is_refused() {
    let place = Place::new();
    let original = place.open();
    fill(&original, 10);
    original.replica().unwrap().flush(PATIENCE).unwrap();
    let volume = tempfile::tempdir().unwrap();
    copy_folder(place.database().parent().unwrap(), volume.path());
    fill(&original, 1);
    original.replica().unwrap().flush(PATIENCE).unwrap();
    let opened = Options::new()
        .replicate_to(place.to())
        .open(volume.path().join("app.db"));
    let error = opened.unwrap_err();
    assert!(matches!(error, Error::Diverged { .. }), "{error}");
    fill(&original, 1);
    close(original);
    place.compare_closed();
}

/// As after a kill: the owner has not closed, and it is this spool's.
#[test]
fn killed_store_goes_on_by_a_claim() {
    let place = Place::new();
    let store = place.open();
    fill(&store, 10);
    store.replica().unwrap().flush(PATIENCE).unwrap();
    let (volume, copy) = open_copy(&place);
    let copy = copy.unwrap();
    let txid = copy.replica().unwrap().flush(PATIENCE).unwrap();
    let claim = place.transactions().pop().unwrap();
    assert_eq!(
        (claim.header.min_txid, claim.pages.len()),
        (txid, 1),
        "page 1 once more"
    );
    assert!(owner(&place).contains(&format!("\"txid\":{txid}")), "{}", owner(&place));
    drop(store);
    close(copy);
    assert!(fs::read(volume.path().join("app.db")).unwrap() == place.restored());
    // After a clean close there is no claim.
    let before = place.transactions().len();
    close(
        Options::new()
            .replicate_to(place.to())
            .open(volume.path().join("app.db"))
            .unwrap(),
    );
    assert_eq!(place.transactions().len(), before);
}
