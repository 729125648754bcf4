//! A database that does not go on from its replica is set aside, and the replica is restored in its place.

use std::fs;
use std::path::{Path, PathBuf};

use larder::rusqlite::Connection;
use larder::{At, Error, FollowerOptions, OnDivergence, Options, Replica, ReplicaOptions, Store};

use super::store::{Place, close, copy_folder, fill, rows, spool_of};
use crate::support::child::PATIENCE;
use crate::support::{keep_log, log};

fn restores(place: &Place) -> ReplicaOptions {
    place.to().on_divergence(OnDivergence::Restore)
}

fn open(place: &Place) -> Store {
    let opened = Options::new().replicate_to(restores(place)).open(place.database());
    opened.unwrap()
}

/// Another store has gone on with the replica, and closed: it has 33 rows, and the database here 20.
fn diverged() -> Place {
    let place = Place::new();
    let store = place.open();
    fill(&store, 20);
    store.replica().unwrap().flush(PATIENCE).unwrap();
    store.close().unwrap();
    let machine = tempfile::tempdir().unwrap();
    let replica = place.to().restore_if_missing(true);
    let other = Options::new()
        .replicate_to(replica)
        .open(machine.path().join("app.db"))
        .unwrap();
    fill(&other, 13);
    close(other);
    place
}

fn set_aside(store: &Store) -> PathBuf {
    store
        .stats()
        .replica
        .unwrap()
        .set_aside
        .expect("a database was set aside")
}

fn rows_of(path: &Path) -> u32 {
    let database = Connection::open(path).unwrap();
    database
        .query_row("SELECT count(*) FROM entry", [], |row| row.get(0))
        .unwrap()
}

#[test]
fn diverged_database_is_set_aside() {
    let place = diverged();
    let error = place.options().open(place.database()).unwrap_err();
    assert!(error.to_string().contains("OnDivergence::Restore"), "{error}");
    let before = fs::read(place.database()).unwrap();
    let store = open(&place);
    assert_eq!(rows(&store), 33);
    let aside = set_aside(&store);
    assert!(before == fs::read(&aside).unwrap(), "it is as it was");
    assert!(spool_of(&aside).join("position").exists());
    let path = place.database().display().to_string();
    let told = log::events(|event| event.message.contains("was set aside") && event.mentions(&path));
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].expect("aside"), aside.display().to_string());
    fill(&store, 1);
    close(store);
    place.compare_closed();
    assert_eq!(rows_of(&aside), 20);
    // The next opening goes on.
    let store = open(&place);
    assert_eq!((rows(&store), store.stats().replica.unwrap().set_aside), (34, None));
    close(store);
}

#[test]
fn database_that_was_never_replicated_is_set_aside() {
    let place = Place::new();
    let store = place.open();
    fill(&store, 7);
    close(store);
    let other = place.database().with_file_name("other.db");
    let store = Store::open(&other).unwrap();
    fill(&store, 3);
    store.close().unwrap();
    let store = Options::new().replicate_to(restores(&place)).open(&other).unwrap();
    assert_eq!(rows(&store), 7);
    let aside = set_aside(&store);
    assert!(
        aside.display().to_string().contains("other.db.diverged-"),
        "{}",
        aside.display()
    );
    assert!(!spool_of(&aside).exists());
    close(store);
    assert_eq!(rows_of(&aside), 3);
}

/// The log goes along: the newest rows are in it alone.
#[test]
fn log_goes_with_the_database() {
    let place = Place::new();
    let store = place.open();
    let reader = keep_log(&place.database());
    fill(&store, 5);
    store.replica().unwrap().flush(PATIENCE).unwrap();
    let volume = tempfile::tempdir().unwrap();
    copy_folder(place.database().parent().unwrap(), volume.path());
    drop(reader);
    fill(&store, 5);
    close(store);
    let path = volume.path().join("app.db");
    assert!(fs::metadata(volume.path().join("app.db-wal")).unwrap().len() > 0);
    let store = Options::new().replicate_to(restores(&place)).open(&path).unwrap();
    assert_eq!(rows(&store), 10);
    let aside = set_aside(&store);
    assert_eq!(rows_of(&aside), 5);
    close(store);
}

#[test]
fn database_in_use_is_not_set_aside() {
    let place = diverged();
    let other = Connection::open(place.database()).unwrap();
    other
        .execute_batch("PRAGMA journal_mode = WAL; SELECT * FROM entry")
        .unwrap();
    let error = Options::new()
        .replicate_to(restores(&place))
        .open(place.database())
        .unwrap_err();
    assert!(matches!(error, Error::Open { .. }), "{error}");
    assert!(error.to_string().contains("another program has it open"), "{error}");
    assert_eq!(rows_of(&place.database()), 20);
    drop(other);
    let store = Store::open(place.database()).unwrap();
    let error = Options::new()
        .replicate_to(restores(&place))
        .open(place.database())
        .unwrap_err();
    assert!(matches!(error, Error::AlreadyOpen { .. }), "{error}");
    drop(store);
    let store = open(&place);
    assert_eq!(rows(&store), 33);
    close(store);
}

/// The files of the folder of the database, and of the replica, with their contents.
fn all_files(place: &Place) -> Vec<(PathBuf, Vec<u8>)> {
    let mut folders = vec![place.database().parent().unwrap().to_owned(), place.replica()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => files.push((path.clone(), fs::read(path).unwrap())),
            }
        }
    }
    files.sort();
    files
}

/// The URL of another database was given by mistake, or that of a branch. Nothing is set aside, restored or uploaded,
/// whether the file is there or not, and whether the other one's transactions are more or fewer.
#[test]
fn replica_of_another_database_is_refused() {
    for (rows, is_missing) in [(1, false), (30, false), (1, true), (30, true)] {
        let (place, other) = (Place::new(), Place::new());
        for (place, rows) in [(&place, 10), (&other, rows)] {
            let store = place.open();
            for _ in 0..rows {
                fill(&store, 1);
                store.replica().unwrap().flush(PATIENCE).unwrap();
            }
            close(store);
        }
        if is_missing {
            fs::remove_file(place.database()).unwrap();
        }
        let before = (all_files(&place), all_files(&other));
        for then in [OnDivergence::Refuse, OnDivergence::Rebase, OnDivergence::Restore] {
            let replica = other.to().on_divergence(then).take_over(true).restore_if_missing(true);
            let error = Options::new().replicate_to(replica).open(place.database()).unwrap_err();
            assert!(matches!(error, Error::Diverged { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains("one of another database, or a branch"), "{text}");
            assert!(text.contains("Check the URL"), "{text}");
            assert!(before == (all_files(&place), all_files(&other)), "{then:?}");
        }
    }
}

/// A branch has a number of its own, and what was restored from it is its own.
#[test]
fn database_of_a_branch_goes_on_with_it() {
    let (place, branch) = (Place::new(), Place::new());
    let store = place.open();
    fill(&store, 5);
    store.replica().unwrap().flush(PATIENCE).unwrap();
    let url = branch.replica().to_str().unwrap().to_owned();
    Replica::open(place.replica().to_str().unwrap())
        .unwrap()
        .branch(At::Newest, &url)
        .unwrap();
    close(store);
    let error = Options::new()
        .replicate_to(restores(&branch))
        .open(place.database())
        .unwrap_err();
    assert!(matches!(error, Error::Diverged { .. }), "{error}");
    Store::restore_from(&url).to(branch.database()).unwrap();
    let store = open(&branch);
    assert_eq!((rows(&store), store.stats().replica.unwrap().set_aside), (5, None));
    fill(&store, 1);
    close(store);
    branch.compare_closed();
    // The way out of the error: the database becomes one that was never replicated.
    fs::rename(spool_of(&place.database()), place.replica().with_extension("aside")).unwrap();
    let store = Options::new()
        .replicate_to(restores(&branch))
        .open(place.database())
        .unwrap();
    assert_eq!(rows(&store), 6);
    assert_eq!(rows_of(&set_aside(&store)), 5);
    close(store);
}

/// As the daemon of Litestream leaves a replica, which says nothing of whether it still runs.
#[test]
fn replica_without_an_owner_is_restored_to_take_over() {
    for has_file in [false, true] {
        let place = Place::new();
        let store = place.open();
        fill(&store, 7);
        close(store);
        fs::remove_file(place.replica().join("larder/owner.json")).unwrap();
        let path = place.database().with_file_name("new.db");
        if has_file {
            let store = Store::open(&path).unwrap();
            fill(&store, 3);
            store.close().unwrap();
        }
        let replica = restores(&place).restore_if_missing(true);
        let error = Options::new().replicate_to(replica.clone()).open(&path).unwrap_err();
        assert!(matches!(error, Error::Replica { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("such as the daemon of Litestream"), "{text}");
        assert!(text.contains("take_over(true)"), "{text}");
        assert_eq!(path.exists(), has_file, "nothing was changed");
        assert!(!place.replica().join("larder/owner.json").exists());
        let store = Options::new()
            .replicate_to(replica.take_over(true))
            .open(&path)
            .unwrap();
        assert_eq!(rows(&store), 7);
        fill(&store, 1);
        close(store);
        // From now on it has an owner.
        let store = Options::new()
            .replicate_to(restores(&place).restore_if_missing(true))
            .open(path.with_extension("again"))
            .unwrap();
        assert_eq!(rows(&store), 8);
        close(store);
    }
}

/// Its owner was deleted, and the folder beside the database shows whose it is.
#[test]
fn own_replica_without_an_owner_is_restored() {
    let place = Place::new();
    let store = place.open();
    fill(&store, 7);
    close(store);
    fs::remove_file(place.replica().join("larder/owner.json")).unwrap();
    fs::remove_file(place.database()).unwrap();
    let store = open(&place);
    assert_eq!(rows(&store), 7);
    close(store);
}

/// What shows whose it is has to be in it: this database was replicated to another URL.
#[test]
fn another_replica_without_an_owner_is_refused() {
    for (rows, is_missing) in [(1, false), (30, false), (1, true), (30, true)] {
        let (place, other) = (Place::new(), Place::new());
        for (place, rows) in [(&place, 10), (&other, rows)] {
            let store = place.open();
            for _ in 0..rows {
                fill(&store, 1);
                store.replica().unwrap().flush(PATIENCE).unwrap();
            }
            close(store);
        }
        fs::remove_file(other.replica().join("larder/owner.json")).unwrap();
        if is_missing {
            fs::remove_file(place.database()).unwrap();
        }
        let before = (all_files(&place), all_files(&other));
        let replica = restores(&other).restore_if_missing(true);
        let error = Options::new().replicate_to(replica).open(place.database()).unwrap_err();
        assert!(matches!(error, Error::Replica { .. }), "{error}");
        assert!(
            error.to_string().contains("such as the daemon of Litestream"),
            "{error}"
        );
        assert!(before == (all_files(&place), all_files(&other)));
    }
}

#[test]
fn emptied_replica_restores_nothing() {
    let place = Place::new();
    let store = place.open();
    fill(&store, 9);
    store.replica().unwrap().flush(PATIENCE).unwrap();
    fill(&store, 1);
    close(store);
    fs::remove_dir_all(place.replica()).unwrap();
    let error = Options::new()
        .replicate_to(restores(&place))
        .open(place.database())
        .unwrap_err();
    assert!(matches!(error, Error::Diverged { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("OnDivergence::Rebase") && !text.contains("OnDivergence::Restore"),
        "{text}"
    );
    assert_eq!(rows_of(&place.database()), 10);
}

/// A process was killed after it had renamed the database alone. Returns the new name.
fn renamed_alone(place: &Place) -> PathBuf {
    let aside = place.database().with_file_name("app.db.diverged-20260401T120000Z");
    fs::write(place.database().with_file_name("app.db-wal"), "the log").unwrap();
    fs::write(
        spool_of(&place.database()).join("aside"),
        aside.file_name().unwrap().as_encoded_bytes(),
    )
    .unwrap();
    fs::rename(place.database(), &aside).unwrap();
    aside
}

#[track_caller]
fn assert_all_renamed(aside: &Path) {
    assert_eq!(
        fs::read(aside.with_file_name("app.db.diverged-20260401T120000Z-wal")).unwrap(),
        b"the log"
    );
    assert!(spool_of(aside).join("position").exists());
}

#[test]
fn follower_finishes_for_a_killed_process() {
    let place = diverged();
    let aside = renamed_alone(&place);
    let replica = FollowerOptions::of(place.replica().to_str().unwrap());
    let follower = Options::new().follow(replica, place.database()).unwrap();
    assert_all_renamed(&aside);
    let rows: u32 = follower
        .read(|tx| tx.query_row("SELECT count(*) FROM entry", [], |row| row.get(0)))
        .unwrap();
    assert_eq!(rows, 33);
    follower.close().unwrap();
}

/// The volume has another path as the next process starts.
#[test]
fn killed_process_is_followed_after_a_move() {
    let place = diverged();
    let aside = renamed_alone(&place);
    let folder = place.database().parent().unwrap().to_owned();
    let moved = folder.with_file_name("moved");
    fs::rename(folder, &moved).unwrap();
    let store = Options::new()
        .replicate_to(restores(&place))
        .open(moved.join("app.db"))
        .unwrap();
    assert_eq!(rows(&store), 33);
    assert_all_renamed(&moved.join(aside.file_name().unwrap()));
    close(store);
}

/// The next process has other options.
#[test]
fn killed_process_is_followed() {
    let place = diverged();
    let aside = renamed_alone(&place);
    let error = place.options().open(place.database()).unwrap_err();
    assert!(matches!(error, Error::Diverged { .. }), "{error}");
    assert_all_renamed(&aside);
    let store = open(&place);
    assert_eq!((rows(&store), store.stats().replica.unwrap().set_aside), (33, None));
    close(store);
}
