//! Promotion: one process becomes the primary, and those that lose the race change nothing.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use larder::replica::fence::Fence;
use larder::replica::runtime;
use larder::replica::storage::Storage;
use larder::{Error, Follower, OnDivergence, Options, ReplicaOptions, Store};
use tokio::sync::Semaphore;

use super::follower::{catch_up, close, copy, fill, follow, of, options, rows, upload};
use super::hooked::Hooked;
use super::litestream::Litestream;
use super::store::Place;
use crate::support::child::PATIENCE;

/// A replica in memory, and databases in a folder.
struct Race {
    folder: tempfile::TempDir,
    url: String,
    hooked: Arc<Hooked>,
}

impl Race {
    fn new(name: &str) -> Self {
        crate::support::log::collect();
        Self {
            folder: tempfile::tempdir().unwrap(),
            url: format!("memory:{name}"),
            hooked: Hooked::named(name),
        }
    }

    fn to(&self) -> ReplicaOptions {
        super::store::unmerged(&self.url).interval(Duration::from_millis(20))
    }

    fn open(&self) -> Store {
        let path = self.folder.path().join("app.db");
        Options::new().replicate_to(self.to()).open(path).unwrap()
    }

    fn follow(&self, name: &str) -> Follower {
        let replica = larder::FollowerOptions::of(&self.url).interval(Duration::from_millis(10));
        options().follow(replica, self.folder.path().join(name)).unwrap()
    }

    fn owner(&self) -> larder::replica::fence::Owner {
        let fence = Fence::new(Storage::connect(&self.url).unwrap(), 0);
        let owner = runtime::wait(async move { fence.owner().await }).unwrap().unwrap();
        owner.unwrap().owner
    }

    /// Holds up Creates of that transaction. Each permit lets one of them go on.
    fn hold(&self, txid: u64) -> (Arc<Semaphore>, Arc<Semaphore>) {
        let (there, may) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let gates = (Arc::clone(&there), Arc::clone(&may));
        let key = format!("ltx/0/{txid:016x}-{txid:016x}.ltx");
        self.hooked.before(move |verb, asked| {
            let (there, may) = (Arc::clone(&gates.0), Arc::clone(&gates.1));
            let is_held = verb == "PUT" && asked == key;
            Box::pin(async move {
                if is_held {
                    there.add_permits(1);
                    may.acquire().await.unwrap().forget();
                }
                Ok(())
            })
        });
        (there, may)
    }
}

fn wait_for(semaphore: &Arc<Semaphore>) {
    let waiting = Arc::clone(semaphore);
    runtime::wait(async move { waiting.acquire().await.unwrap().forget() }).unwrap();
}

#[track_caller]
fn refused(promoted: larder::Result<Store>) -> String {
    let error = promoted.map(drop).unwrap_err();
    assert!(matches!(error, Error::Diverged { .. }), "{error}");
    let told = error.to_string();
    assert!(told.contains("That process is the primary"), "{told}");
    told
}

/// Two followers are promoted at once. Both have entered, and one of them creates the file first.
#[test]
fn one_of_two_promoted_followers_wins() {
    for first_enters_last in [false, true] {
        let race = Race::new(&format!("two-{first_enters_last}"));
        let store = race.open();
        let tip = upload(&store, 10);
        let (one, two) = (race.follow("one.db"), race.follow("two.db"));
        let clones = [one.clone(), two.clone()];
        let (there, may) = race.hold(tip + 1);
        std::thread::scope(|scope| {
            let to = race.to();
            let one = scope.spawn(move || one.promote(Options::new().replicate_to(to)));
            wait_for(&there);
            let to = race.to();
            let two = scope.spawn(move || two.promote(Options::new().replicate_to(to)));
            wait_for(&there);
            // The semaphore is fair: the first that waits is the first that goes on.
            may.add_permits(1);
            let promoted = one.join().unwrap().unwrap();
            if first_enters_last {
                // The winner goes on before the other one knows.
                upload(&promoted, 1);
            }
            may.add_permits(1);
            refused(two.join().unwrap());
            let owner = race.owner();
            assert!(owner.before.is_none() && !owner.closed, "{owner:?}");
            upload(&promoted, 3);
            let token = promoted.replica().unwrap().token();
            clones[1].wait_for(token, PATIENCE).unwrap();
            assert!(matches!(clones[0].read(|_| Ok(())).unwrap_err(), Error::Closed));
            assert_eq!(rows(&clones[1]), if first_enters_last { 14 } else { 13 });
            assert_eq!(promoted.close().unwrap().replicated, Some(true));
        });
        // It can be followed again.
        close(&clones[1]);
        drop(clones);
        let rows = rows(&race.follow("two.db"));
        assert_eq!(rows, if first_enters_last { 14 } else { 13 });
        end(store);
    }
}

/// A second follower is promoted between the claim of the first and the opening of its store.
#[test]
fn promotion_behind_a_claim_names_the_new_primary() {
    let race = Race::new("behind-a-claim");
    let store = race.open();
    upload(&store, 10);
    let (one, two) = (race.follow("one.db"), race.follow("two.db"));
    let (there, may) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (gates, entries) = ((Arc::clone(&there), Arc::clone(&may)), AtomicU32::new(0));
    race.hooked.before(move |verb, asked| {
        let (there, may) = (Arc::clone(&gates.0), Arc::clone(&gates.1));
        // The first one enters, claims, and closes for the store that is to be opened.
        let is_entry = verb == "PUT" && asked == "larder/owner.json";
        let is_held = is_entry && entries.fetch_add(1, Relaxed) == 1;
        Box::pin(async move {
            if is_held {
                there.add_permits(1);
                may.acquire().await.unwrap().forget();
            }
            Ok(())
        })
    });
    std::thread::scope(|scope| {
        let to = race.to();
        let one = scope.spawn(move || one.promote(Options::new().replicate_to(to)));
        wait_for(&there);
        let promoted = two.promote(Options::new().replicate_to(race.to()));
        may.add_permits(1);
        refused(one.join().unwrap());
        let promoted = promoted.unwrap();
        upload(&promoted, 1);
        let follower = race.follow("one.db");
        catch_up(&promoted, &follower);
        assert_eq!(rows(&follower), 11);
    });
    end(store);
}

fn end(store: Store) {
    store.close_within(Duration::from_millis(1)).unwrap();
}

/// The old primary uploads while a follower claims. It applies that, and claims again.
#[test]
fn promotion_goes_on_behind_the_old_primary() {
    let race = Race::new("old-primary");
    let store = race.open();
    let tip = upload(&store, 10);
    let follower = race.follow("follower.db");
    let (there, may) = race.hold(tip + 1);
    fill(&store, 7);
    wait_for(&there);
    // The primary's file is under way. The follower has entered, and waits with its own.
    std::thread::scope(|scope| {
        let to = race.to();
        let promoted = scope.spawn(move || follower.promote(Options::new().replicate_to(to)));
        wait_for(&there);
        assert!(race.owner().before.is_some());
        may.add_permits(1);
        store.replica().unwrap().flush(PATIENCE).unwrap();
        may.add_permits(1);
        let promoted = promoted.join().unwrap().unwrap();
        let rows = promoted.read(|tx| tx.query_row("SELECT count(*) FROM entry", [], |row| row.get::<_, u32>(0)));
        assert_eq!(rows.unwrap(), 17);
        upload(&promoted, 1);
    });
    super::store::wait_until("the fence", || {
        matches!(
            store.write(|tx| tx.execute("DELETE FROM entry", [])),
            Err(Error::Fenced { .. })
        )
    });
}

/// A store takes the replica over, and the old primary is faster: that one goes on as the owner.
#[test]
fn lost_claim_of_a_store_leaves_the_owner() {
    let race = Race::new("lost-claim");
    let store = race.open();
    let tip = upload(&store, 10);
    let before = race.owner();
    let (there, may) = race.hold(tip + 1);
    fill(&store, 7);
    wait_for(&there);
    let taken = race.to().take_over(true).restore_if_missing(true);
    let rival = Options::new()
        .replicate_to(taken)
        .open(race.folder.path().join("rival.db"));
    let rival = rival.unwrap();
    wait_for(&there);
    may.add_permits(1);
    store.replica().unwrap().flush(PATIENCE).unwrap();
    may.add_permits(1);
    let error = rival.replica().unwrap().flush(PATIENCE).unwrap_err();
    assert!(matches!(error, Error::Fenced { .. }), "{error}");
    let after = race.owner();
    assert_eq!(
        (after.node, after.opening, after.since),
        (before.node, before.opening, before.since)
    );
    assert!(after.before.is_none() && !after.closed, "{after:?}");
    upload(&store, 1);
    assert_eq!(store.close().unwrap().replicated, Some(true));
    assert!(race.owner().closed);
}

/// Promoted without its folder being a store's: nothing is left that another opening has to claim.
#[test]
fn promotion_of_a_closed_replica_is_one_claim() {
    let place = Place::new();
    let store = place.open();
    upload(&store, 10);
    let follower = follow(&place);
    catch_up(&store, &follower);
    super::store::close(store);
    let promoted = follower.promote(Options::new().replicate_to(place.to())).unwrap();
    upload(&promoted, 1);
    assert_eq!(promoted.close().unwrap().replicated, Some(true));
    assert_eq!(rows(&follow(&place)), 11);
}

/// The daemon cannot be kept from going on, so it has to be said that it was stopped.
#[test]
fn replica_of_the_daemon_is_not_promoted() {
    for litestream in Litestream::all() {
        let place = Place::new();
        let conn = larder::rusqlite::Connection::open(place.database()).unwrap();
        conn.busy_timeout(PATIENCE).unwrap();
        conn.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE entry(n INTEGER PRIMARY KEY, noise BLOB)")
            .unwrap();
        let mut daemon = litestream.replicate(&place.database(), &place.replica());
        super::store::wait_until("the daemon's first file", || {
            !super::litestream::files(&place.replica(), 0).is_empty()
        });
        let follower = follow(&place);
        let clone = follower.clone();
        let error = follower
            .promote(Options::new().replicate_to(place.to()))
            .map(drop)
            .unwrap_err();
        let told = error.to_string();
        assert!(
            told.contains("daemon of Litestream") && told.contains("take_over(true)"),
            "{told}"
        );
        assert!(!place.replica().join("larder/owner.json").exists());
        conn.execute("INSERT INTO entry(noise) VALUES (x'01')", []).unwrap();
        super::store::wait_until("it follows on", || rows(&clone) == 1);
        super::litestream::end(&mut daemon);
        let promoted = clone
            .promote(Options::new().replicate_to(place.to().take_over(true)))
            .unwrap();
        upload(&promoted, 1);
        assert_eq!(promoted.close().unwrap().replicated, Some(true));
        close(&options().follow(of(&place), copy(&place)).unwrap());
        drop(conn);
    }
}

/// An option that is wrong is told before anything is claimed.
#[test]
fn wrong_options_promote_nothing() {
    let place = Place::new();
    let store = place.open();
    upload(&store, 10);
    let owner = place.replica().join("larder/owner.json");
    let before = fs::read(&owner).unwrap();
    let follower = follow(&place);
    let error = follower.promote(Options::new().readers(0)).map(drop).unwrap_err();
    assert!(matches!(error, Error::Options { .. }), "{error}");
    assert!(fs::read(&owner).unwrap() == before);
    upload(&store, 1);
}

/// The store would refuse the replica of another database, whatever it is told to do with one that has diverged. So it is
/// refused before the claim, and the follower goes on.
#[test]
fn follower_is_not_promoted_to_another_replica() {
    let (place, other) = (Place::new(), Place::new());
    let store = place.open();
    upload(&store, 10);
    let others = other.open();
    upload(&others, 3);
    super::store::close(others);
    let owner = other.replica().join("larder/owner.json");
    let before = fs::read(&owner).unwrap();
    let follower = follow(&place);
    for (then, expected) in [
        (OnDivergence::Refuse, 11),
        (OnDivergence::Rebase, 12),
        (OnDivergence::Restore, 13),
    ] {
        let to = other.to().on_divergence(then).take_over(true);
        let promoted = follower.clone().promote(Options::new().replicate_to(to));
        let error = promoted.map(drop).unwrap_err();
        assert!(matches!(error, Error::Diverged { .. }), "{error}");
        assert!(
            error.to_string().contains("another database was replicated there"),
            "{error}"
        );
        assert!(fs::read(&owner).unwrap() == before, "{then:?}");
        upload(&store, 1);
        catch_up(&store, &follower);
        assert_eq!(rows(&follower), expected);
    }
    super::store::close(store);
    close(&follower);
}

/// The same for a URL that has nothing.
#[test]
fn follower_begins_an_empty_replica_if_told() {
    let (place, empty) = (Place::new(), Place::new());
    let store = place.open();
    upload(&store, 10);
    let follower = follow(&place);
    for then in [OnDivergence::Refuse, OnDivergence::Restore] {
        let to = empty.to().on_divergence(then).take_over(true);
        let promoted = follower.clone().promote(Options::new().replicate_to(to));
        let error = promoted.map(drop).unwrap_err();
        assert!(matches!(error, Error::Diverged { .. }), "{error}");
        assert!(error.to_string().contains("OnDivergence::Rebase"), "{error}");
        upload(&store, 1);
        catch_up(&store, &follower);
    }
    let to = empty.to().on_divergence(OnDivergence::Rebase);
    let promoted = follower.promote(Options::new().replicate_to(to)).unwrap();
    upload(&promoted, 1);
    assert_eq!(promoted.close().unwrap().replicated, Some(true));
    assert_eq!(rows(&follow(&empty)), 13);
    super::store::close(store);
}

/// The replica of a program that is not larder has no number. Another database's, whose transactions have the same numbers,
/// is not claimed for it.
#[test]
fn follower_without_number_is_promoted_to_its_own_replica() {
    let (place, other) = (Place::new(), Place::new());
    let store = place.open();
    // More transactions than the other primary has after its first rows, with its table or without.
    for rows in [4, 3, 3] {
        upload(&store, rows);
    }
    super::store::close(store);
    fs::remove_file(place.replica().join("larder/owner.json")).unwrap();
    let follower = follow(&place);
    let tip = follower.lag().txid;
    let primary = other.open();
    while upload(&primary, 1) < tip {}
    assert_eq!(super::follower::newest(&other), tip);

    let promoted = follower.clone().promote(Options::new().replicate_to(other.to()));
    let error = promoted.map(drop).unwrap_err();
    assert!(matches!(error, Error::Diverged { .. }), "{error}");
    let told = error.to_string();
    assert!(
        told.contains("is not empty") && told.contains("Promote to the URL"),
        "{told}"
    );
    // Nothing was changed there, and the follower goes on.
    assert_eq!(upload(&primary, 1), tip + 1);
    assert_eq!(rows(&follower), 10);
    super::store::close(primary);
    // To its own, by another path.
    let link = other.replica().with_extension("link");
    std::os::unix::fs::symlink(place.replica(), &link).unwrap();
    let own = ReplicaOptions::to(format!("file://{}", link.display())).take_over(true);
    let promoted = follower.promote(Options::new().replicate_to(own)).unwrap();
    assert_eq!(super::store::rows(&promoted), 10);
    super::store::close(promoted);
}
