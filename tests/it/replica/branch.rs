//! Branches: made once, whole or not at all, and by the storage itself where that can copy.

use std::fs;
use std::sync::Arc;

use futures_util::{FutureExt, TryStreamExt};
use larder::{At, Error, Options, Replica, ReplicaOptions, Store};
use object_store::ObjectStore;
use tokio::sync::Semaphore;

use super::follower::upload;
use super::hooked::{Hooked, away};
use super::store::Place;

/// A replica with a few transactions.
fn source() -> (Place, Store, Replica) {
    let place = Place::new();
    let store = place.open();
    for _ in 0..3 {
        upload(&store, 10);
    }
    let replica = Replica::open(place.replica().to_str().unwrap()).unwrap();
    (place, store, replica)
}

fn objects(hooked: &Hooked) -> Vec<String> {
    let listed = hooked.store.list(None).map_ok(|object| object.location.to_string());
    let listed = larder::replica::runtime::wait(listed.try_collect::<Vec<_>>());
    listed.unwrap().unwrap()
}

fn rows_of(url: &str, place: &Place, name: &str) -> u32 {
    let to = ReplicaOptions::to(url).restore_if_missing(true);
    let path = place.database().with_file_name(name);
    let store = Options::new().replicate_to(to).open(path).unwrap();
    let rows = store.read(|tx| tx.query_row("SELECT count(*) FROM entry", [], |row| row.get(0)));
    rows.unwrap()
}

/// Both find nothing there, and then both enter.
#[test]
fn one_of_two_branches_is_made() {
    let (place, _store, replica) = source();
    let hooked = Hooked::named("two-branches");
    let (there, may) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (asked, goes_on) = (Arc::clone(&there), Arc::clone(&may));
    hooked.before(move |verb, key| {
        let (there, may) = (Arc::clone(&there), Arc::clone(&may));
        async move {
            if verb == "PUT" && key == "larder/owner.json" {
                there.add_permits(1);
                may.acquire().await.unwrap().forget();
            }
            Ok(())
        }
        .boxed()
    });
    let made = std::thread::scope(|scope| {
        let branches = [(); 2].map(|()| scope.spawn(|| replica.branch(At::Newest, "memory:two-branches")));
        let both = larder::replica::runtime::wait(async move { asked.acquire_many(2).await.unwrap().forget() });
        both.unwrap();
        goes_on.add_permits(100);
        branches.map(|branch| branch.join().unwrap())
    });
    let (made, refused): (Vec<_>, Vec<_>) = made.into_iter().partition(Result::is_ok);
    assert_eq!((made.len(), refused.len()), (1, 1));
    let error = refused.into_iter().next().unwrap().unwrap_err();
    assert!(matches!(error, Error::Replica { .. }), "{error}");
    assert!(error.to_string().contains("another process has made"), "{error}");
    assert_eq!(rows_of("memory:two-branches", &place, "branch.db"), 30);
}

#[test]
fn place_that_is_not_empty_is_named() {
    let (place, store, replica) = source();
    let url = place.replica().with_file_name("branch");
    let refused = |named: &str| {
        let error = replica.branch(At::Newest, url.to_str().unwrap()).unwrap_err();
        assert!(error.to_string().contains(named), "{named}: {error}");
        assert!(error.to_string().contains("no branch is made there"), "{error}");
    };
    for name in [
        "photo.jpg",
        "ltx/3/anything",
        "generations/1/snapshots/0.lz4",
        "deep/below/file",
    ] {
        let path = url.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "mine").unwrap();
        refused(name);
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        assert!(!url.join("larder/owner.json").exists());
        fs::remove_dir_all(&url).unwrap();
    }
    fs::create_dir_all(url.join("ltx/0")).unwrap();
    replica.branch(At::Newest, url.to_str().unwrap()).unwrap();
    refused("it has an owner already");
    let error = replica
        .branch(At::Newest, place.replica().to_str().unwrap())
        .unwrap_err();
    assert!(
        error.to_string().contains("it has an owner already"),
        "onto itself: {error}"
    );
    upload(&store, 1);
}

/// Whatever the last file is that is written: nothing can be restored, and the next try is as the first.
#[test]
fn failed_branch_leaves_nothing() {
    let (place, _store, replica) = source();
    let hooked = Hooked::named("failed-branch");
    let files = place.transactions().len();
    for allowed in 0..=files {
        let left = Arc::new(Semaphore::new(allowed));
        hooked.before(move |verb, key| {
            let left = Arc::clone(&left);
            let is_last = allowed == files && key == "larder/owner.json" && left.available_permits() == 0;
            async move {
                if verb == "PUT" && key.ends_with(".ltx") {
                    left.try_acquire().map_err(|_| away())?.forget();
                }
                if verb == "PUT" && is_last { Err(away()) } else { Ok(()) }
            }
            .boxed()
        });
        let error = replica.branch(At::Newest, "memory:failed-branch").unwrap_err();
        assert!(error.to_string().contains("the storage is away"), "{error}");
        assert_eq!(objects(&hooked), ["larder/probe"], "{allowed}");
    }
    hooked.before(|_, _| async { Ok(()) }.boxed());
    replica.branch(At::Newest, "memory:failed-branch").unwrap();
    assert_eq!(rows_of("memory:failed-branch", &place, "branch.db"), 30);
}

/// An object has two names then, and neither replica changes the other's.
#[test]
fn folders_share_the_files_of_a_branch() {
    use std::os::unix::fs::MetadataExt;
    let (place, store, replica) = source();
    let url = place.replica().with_file_name("branch");
    replica.branch(At::Newest, url.to_str().unwrap()).unwrap();
    let inodes = |replica: &std::path::Path| -> Vec<(u64, std::time::SystemTime)> {
        let folder = fs::read_dir(replica.join("ltx/0")).unwrap();
        let mut files: Vec<_> = folder.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let metadata = files.iter().map(|file| fs::metadata(file).unwrap());
        metadata.map(|file| (file.ino(), file.modified().unwrap())).collect()
    };
    assert_eq!(inodes(&place.replica()), inodes(&url));
    let branch = Options::new()
        .replicate_to(ReplicaOptions::to(url.to_str().unwrap()).restore_if_missing(true))
        .open(place.database().with_file_name("branch.db"))
        .unwrap();
    upload(&branch, 5);
    upload(&store, 7);
    drop(branch);
    super::store::close(store);
    for replica in [&place.replica(), &url] {
        let verified = Replica::open(replica.to_str().unwrap())
            .unwrap()
            .verify()
            .restore(true)
            .run();
        assert!(verified.as_ref().is_ok_and(|verified| verified.is_ok()), "{verified:?}");
    }
    // Deleted, the other one stays.
    fs::remove_dir_all(place.replica()).unwrap();
    assert_eq!(rows_of(url.to_str().unwrap(), &place, "again.db"), 35);
}
