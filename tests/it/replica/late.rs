//! A store that opens while its storage is away: it serves, and goes on with its replica once that is back, if it is its
//! own.

use std::fs;
use std::path::{Path, PathBuf};
#[cfg(feature = "s3")]
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder::{Access, AlertKind, Error, OnDivergence, Options, ReplicaOptions, ReplicaState, Role, Store};
use tempfile::TempDir;

#[cfg(feature = "s3")]
use super::servers::{KEY, Proxy, SECRET, Service};
use super::store::{close, close_away, fill, rows, spool_of, unmerged, wait_until};
use crate::support::child::PATIENCE;
use crate::support::child::{Child, has_python};
#[cfg(feature = "s3")]
use crate::support::child::{Task, listen, tell, this_binary};
use crate::support::log;

/// A database, and a volume with its replica.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        log::collect();
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("data")).unwrap();
        fs::create_dir(folder.path().join("volume")).unwrap();
        Self { folder }
    }

    /// With a replica that the closed database is in.
    fn with_replica() -> Self {
        let place = Self::new();
        let store = place.open(place.to());
        for n in 1..5 {
            fill(&store, n);
            store.replica().unwrap().flush(PATIENCE).unwrap();
        }
        close(store);
        place
    }

    /// With a replica, and a database that was restored from it.
    fn restored() -> Self {
        let place = Self::with_replica();
        fs::remove_file(place.database()).unwrap();
        fs::remove_dir_all(spool_of(&place.database())).unwrap();
        Store::restore_from(place.volume().join("replica").to_str().unwrap())
            .to(place.database())
            .unwrap();
        place
    }

    fn database(&self) -> PathBuf {
        self.folder.path().join("data/app.db")
    }

    fn volume(&self) -> PathBuf {
        self.folder.path().join("volume")
    }

    fn unmounted(&self) -> PathBuf {
        self.folder.path().join("unmounted")
    }

    fn unmount(&self) {
        fs::rename(self.volume(), self.unmounted()).unwrap();
    }

    fn mount(&self) {
        fs::rename(self.unmounted(), self.volume()).unwrap();
    }

    fn to(&self) -> ReplicaOptions {
        replica_in(&self.volume())
    }

    fn open(&self, replica: ReplicaOptions) -> Store {
        Options::new()
            .replicate_to(replica)
            .monitor_interval(Duration::from_millis(50))
            .open(self.database())
            .unwrap()
    }

    /// Opens while the volume is not there, and writes.
    fn open_away(&self, replica: ReplicaOptions) -> Store {
        let store = self.open(replica);
        let before = store.stats().replica.unwrap();
        assert_eq!(before.state, ReplicaState::StorageAway);
        let problem = before.problem.unwrap();
        assert!(problem.contains("create it, or mount its file system"), "{problem}");
        fill(&store, 7);
        wait_until("it is captured", || {
            store.stats().replica.unwrap().sealed > before.sealed
        });
        store
    }

    /// `owner.json` of the replica, while it is there.
    fn owner(&self) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.volume().join("replica/larder/owner.json")).unwrap()).unwrap()
    }

    /// As if the process that has closed the replica had been killed.
    fn forget_closing(&self) {
        let mut owner = self.owner();
        owner["closed"] = false.into();
        let path = self.volume().join("replica/larder/owner.json");
        fs::write(path, serde_json::to_vec(&owner).unwrap()).unwrap();
    }

    /// The idle store claims the replica by that transaction, page 1 once more, and its closing leaves the replica to the
    /// next opening.
    #[track_caller]
    fn expect_claim(&self, store: Store, txid: u64) {
        let is_claim = |claim: &serde_json::Value| claim["txid"] == txid;
        wait_until("it claims the replica", || {
            self.owner()["claims"].as_array().unwrap().iter().any(is_claim)
        });
        close(store);
        let owner = self.owner();
        assert_eq!(owner["closed"], true, "{owner}");
        self.compare_closed();
        // The next opening needs none.
        let store = self.open(self.to());
        assert_eq!(store.stats().replica.unwrap().sealed, txid);
        close(store);
    }

    /// The newest state of the replica is the closed database.
    #[track_caller]
    fn compare_closed(&self) {
        let restored = self.folder.path().join("restored.db");
        Store::restore_from(self.volume().join("replica").to_str().unwrap())
            .to(&restored)
            .unwrap();
        assert!(fs::read(self.database()).unwrap() == fs::read(restored).unwrap());
    }
}

/// The transaction after the last one that was sealed.
fn next_of(store: &Store) -> u64 {
    store.stats().replica.unwrap().sealed + 1
}

fn replica_in(volume: &Path) -> ReplicaOptions {
    unmerged(volume.join("replica").to_str().unwrap()).interval(Duration::from_millis(20))
}

/// The newest state of that replica, on another machine.
fn elsewhere(volume: &Path) -> (TempDir, Store) {
    let machine = tempfile::tempdir().unwrap();
    let replica = replica_in(volume).restore_if_missing(true);
    let store = Options::new()
        .replicate_to(replica)
        .open(machine.path().join("app.db"))
        .unwrap();
    (machine, store)
}

fn is_raised(store: &Store, kind: AlertKind) -> bool {
    store.stats().alerts.iter().any(|alert| alert.kind == kind)
}

#[test]
fn own_replica_is_caught_up() {
    let place = Place::with_replica();
    place.unmount();
    let store = place.open_away(place.to());
    wait_until("the alert is raised", || is_raised(&store, AlertKind::ReplicaFailing));
    place.mount();
    store.replica().unwrap().flush(PATIENCE).unwrap();
    assert_eq!(rows(&store), 17);
    let replica = store.stats().replica.unwrap();
    assert_eq!((replica.problem, replica.behind), (None, Duration::ZERO));
    wait_until("the alert clears", || !is_raised(&store, AlertKind::ReplicaFailing));
    close(store);
    place.compare_closed();
    let owner = fs::read_to_string(place.volume().join("replica/larder/owner.json")).unwrap();
    assert!(owner.contains("\"closed\":true"), "{owner}");
}

#[test]
fn idle_store_enters_its_replica() {
    let place = Place::with_replica();
    place.unmount();
    let store = place.open(place.to());
    place.mount();
    let path = place.database().display().to_string();
    log::wait_for(|event| event.message.contains("could not be reached at opening") && event.mentions(&path));
    let owner = fs::read_to_string(place.volume().join("replica/larder/owner.json")).unwrap();
    assert!(owner.contains("\"closed\":false"), "{owner}");
    let replica = store.stats().replica.unwrap();
    assert_eq!((replica.state, replica.behind), (ReplicaState::Idle, Duration::ZERO));
    assert_eq!(replica.uploaded, replica.sealed);
    close(store);
    place.compare_closed();
}

/// It never claimed it, and stayed without an owner that knows of a fence.
#[test]
fn idle_store_claims_its_replica_after_a_kill() {
    let place = Place::with_replica();
    place.forget_closing();
    place.unmount();
    let store = place.open(place.to());
    let claim = next_of(&store);
    place.mount();
    place.expect_claim(store, claim);
}

#[test]
fn idle_store_takes_over_late() {
    let place = Place::with_replica();
    let (_machine, other) = elsewhere(&place.volume());
    place.unmount();
    let store = place.open(place.to().take_over(true));
    let claim = next_of(&store);
    place.mount();
    place.expect_claim(store, claim);
    fill(&other, 1);
    let error = other.replica().unwrap().flush(PATIENCE).unwrap_err();
    assert!(matches!(error, Error::Fenced { .. }), "{error}");
}

/// What waits was sealed by the opening before, so that a copy of the volume may upload it, too.
#[test]
fn idle_store_claims_behind_what_waited() {
    let place = Place::with_replica();
    place.unmount();
    close_away(place.open_away(place.to()));
    let store = place.open(place.to());
    let claim = next_of(&store);
    place.mount();
    place.expect_claim(store, claim);
}

const HOLD_THE_WRITE_LOCK: &str = "
conn = sqlite3.connect(args[0], isolation_level=None)
conn.execute('BEGIN IMMEDIATE')
tell('holding')
listen()
conn.execute('ROLLBACK')
conn.close()
tell('released')
";

/// Another process has SQLite's write lock as the store opens, so that page 1 cannot be read.
#[test]
fn claim_waits_for_another_process() {
    if !has_python() {
        return;
    }
    let place = Place::with_replica();
    place.forget_closing();
    let other = Arc::new(Mutex::new(None));
    let (path, holds) = (place.database(), Arc::clone(&other));
    let store = Options::new()
        .access(Access::Shared)
        .busy_timeout(Duration::from_millis(50))
        .on_connect(move |_, role| {
            // Opening needs the lock itself, until the first reader.
            let mut other = holds.lock().unwrap();
            if role == Role::Reader && other.is_none() {
                let child = Child::python(HOLD_THE_WRITE_LOCK, &[path.to_str().unwrap()]);
                child.expect("holding");
                *other = Some(child);
            }
            Ok(())
        })
        .replicate_to(place.to())
        .open(place.database())
        .unwrap();
    let before = store.stats().replica.unwrap();
    assert_eq!(before.sealed, before.uploaded, "there is no file for the claim");
    let mut other = other.lock().unwrap();
    let child = other.as_mut().unwrap();
    child.say("go on");
    child.expect("released");
    drop(other);
    place.expect_claim(store, before.sealed + 1);
}

#[test]
fn store_that_stays_away_closes_in_time() {
    let place = Place::with_replica();
    place.unmount();
    // It cannot know.
    close_away(place.open(place.to()));
    close_away(place.open_away(place.to()));
    // The next opening has it all the same.
    place.mount();
    let store = place.open(place.to());
    assert_eq!(rows(&store), 17);
    close(store);
    place.compare_closed();
}

/// Its spool is empty: it has no file of what the replica ends with.
#[test]
fn restored_database_knows_its_replica() {
    let place = Place::restored();
    place.unmount();
    let store = place.open_away(place.to());
    place.mount();
    store.replica().unwrap().flush(PATIENCE).unwrap();
    close(store);
    place.compare_closed();
}

/// What it commits then is waiting in the spool, on top of a transaction that the spool has no file of.
#[test]
fn commit_after_a_restore_waits_for_the_storage() {
    let place = Place::restored();
    let store = place.open(place.to());
    let restored = store.stats().replica.unwrap().uploaded;
    place.unmount();
    fill(&store, 7);
    close_away(store);
    // Once more without the storage, which comes back while the store is open.
    let store = place.open_away(place.to());
    place.mount();
    store.replica().unwrap().flush(PATIENCE).unwrap();
    assert_eq!(rows(&store), 24);
    place.unmount();
    fill(&store, 3);
    close_away(store);
    // With the storage at the opening.
    place.mount();
    let store = place.open(place.to());
    assert_eq!(rows(&store), 27);
    close(store);
    place.compare_closed();
    let file = format!("ltx/0/{restored:016x}-{restored:016x}.ltx");
    assert!(
        place.volume().join("replica").join(file).exists(),
        "nothing was begun again"
    );
}

#[test]
fn commit_after_a_restore_waits_for_the_next_opening() {
    let place = Place::restored();
    let store = place.open(place.to());
    place.unmount();
    fill(&store, 7);
    close_away(store);
    place.mount();
    let store = place.open(place.to().on_divergence(OnDivergence::Restore));
    assert_eq!(rows(&store), 17);
    close(store);
    place.compare_closed();
}

/// A process that had begun to claim the replica was killed. Its claim is in `owner.json`, and its file is not there.
#[test]
fn claim_that_was_begun_is_made() {
    let place = Place::with_replica();
    let path = place.volume().join("replica/larder/owner.json");
    let mut owner = place.owner();
    let at = owner["since"].clone();
    let tip = fs::read_dir(place.volume().join("replica/ltx/0")).unwrap().count();
    owner["closed"] = false.into();
    owner["claims"] = serde_json::json!([{ "txid": tip + 1, "at": at }]);
    fs::write(&path, serde_json::to_vec(&owner).unwrap()).unwrap();
    place.unmount();
    let store = place.open_away(place.to());
    place.mount();
    store.replica().unwrap().flush(PATIENCE).unwrap();
    close(store);
    place.compare_closed();
}

/// What is in the place of the replica when it comes back.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Found {
    /// Of another database.
    Another,
    /// Nothing.
    Emptied,
    /// Another process has gone on with it, and closed it.
    Ahead,
    /// The same, with a transaction of a number that was used here, too.
    Aside,
}

const ALL: [Found; 4] = [Found::Another, Found::Emptied, Found::Ahead, Found::Aside];

impl Found {
    fn comes(self, place: &Place) {
        match self {
            Found::Another => {
                let other = Place::with_replica();
                fs::remove_dir_all(place.unmounted()).unwrap();
                fs::rename(other.volume(), place.volume()).unwrap();
            }
            Found::Emptied => fs::create_dir(place.volume()).unwrap(),
            Found::Ahead | Found::Aside => {
                let (_machine, other) = elsewhere(&place.unmounted());
                for n in 0..if self == Found::Ahead { 20 } else { 1 } {
                    fill(&other, n + 1);
                    other.replica().unwrap().flush(PATIENCE).unwrap();
                }
                close(other);
                place.mount();
            }
        }
    }

    fn problem(self) -> &'static str {
        match self {
            Found::Another => "this is the one of another database",
            Found::Emptied => "the replica has been emptied",
            Found::Ahead => "and the replica ends with transaction",
            Found::Aside => "was written by another process",
        }
    }
}

/// The files of the volume and their contents.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(contents(&path)),
            false => found.push((path.clone(), fs::read(path).unwrap())),
        }
    }
    found.sort();
    found
}

#[test]
fn other_replica_stops_the_store_by_name() {
    for found in ALL {
        let place = Place::with_replica();
        place.unmount();
        let store = place.open_away(place.to());
        found.comes(&place);
        let before = contents(&place.volume());
        let error = store.replica().unwrap().flush(PATIENCE).unwrap_err();
        assert!(matches!(error, Error::Diverged { .. }), "{found:?}: {error}");
        assert!(error.to_string().contains(found.problem()), "{found:?}: {error}");
        let way_out = match found {
            Found::Another => "Check the URL",
            _ => "OnDivergence::Rebase",
        };
        assert!(error.to_string().contains(way_out), "{error}");
        let error = store.write(|tx| tx.execute("DELETE FROM entry", [])).unwrap_err();
        assert!(matches!(error, Error::Diverged { .. }), "{found:?}: {error}");
        assert_eq!(rows(&store), 17);
        let replica = store.stats().replica.unwrap();
        assert_eq!(replica.state, ReplicaState::Diverged);
        assert!(replica.problem.unwrap().contains(found.problem()));
        wait_until("the alert is raised", || is_raised(&store, AlertKind::Diverged));
        let report = store.close().unwrap();
        assert_eq!(report.replicated, Some(false));
        assert!(report.to_string().contains(found.problem()), "{report}");
        assert!(before == contents(&place.volume()), "{found:?}: nothing was written");
        // Opening says the same.
        let error = Options::new()
            .replicate_to(place.to())
            .open(place.database())
            .unwrap_err();
        assert!(matches!(error, Error::Diverged { .. }), "{found:?}: {error}");
    }
}

/// Neither of the two databases takes the other's place.
#[test]
fn replica_of_another_database_is_left_alone() {
    for then in [OnDivergence::Rebase, OnDivergence::Restore] {
        let place = Place::with_replica();
        place.unmount();
        let store = place.open_away(place.to().on_divergence(then));
        Found::Another.comes(&place);
        let before = contents(&place.volume());
        let error = store.replica().unwrap().flush(PATIENCE).unwrap_err();
        assert!(error.to_string().contains(Found::Another.problem()), "{error}");
        assert_eq!(store.close().unwrap().replicated, Some(false));
        assert!(before == contents(&place.volume()), "nothing was written");
    }
}

#[test]
fn late_store_names_the_way_out_that_is_left() {
    let place = Place::with_replica();
    place.unmount();
    let store = place.open_away(place.to().on_divergence(OnDivergence::Restore));
    Found::Ahead.comes(&place);
    let error = store.replica().unwrap().flush(PATIENCE).unwrap_err();
    assert!(error.to_string().contains("open the database again"), "{error}");
    store.close().unwrap();
    let store = place.open(place.to().on_divergence(OnDivergence::Restore));
    assert!(store.stats().replica.unwrap().set_aside.is_some());
    close(store);
}

#[test]
fn rebase_goes_on_with_its_own_replica() {
    for found in [Found::Emptied, Found::Ahead, Found::Aside] {
        let place = Place::with_replica();
        place.unmount();
        let store = place.open_away(place.to().on_divergence(OnDivergence::Rebase));
        found.comes(&place);
        store.replica().unwrap().flush(PATIENCE).unwrap();
        fill(&store, 1);
        close(store);
        place.compare_closed();
        let path = place.database().display().to_string();
        let events = log::events(|event| event.message.contains("has every page") && event.mentions(&path));
        assert_eq!(events.len(), 1, "{found:?}: {events:?}");
        assert!(events[0].expect("reason").contains(found.problem()), "{events:?}");
    }
}

#[test]
fn other_owner_fences_the_store() {
    for take_over in [false, true] {
        let place = Place::with_replica();
        place.unmount();
        let store = place.open_away(place.to().take_over(take_over));
        // It has entered itself, and uploaded nothing.
        let (_machine, other) = elsewhere(&place.unmounted());
        place.mount();
        let flushed = store.replica().unwrap().flush(PATIENCE);
        if take_over {
            flushed.unwrap();
            close(store);
            place.compare_closed();
        } else {
            let error = flushed.unwrap_err();
            assert!(matches!(error, Error::Fenced { .. }), "{error}");
            let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
            assert!(error.to_string().contains(&host), "{error}");
            wait_until("the alert is raised", || is_raised(&store, AlertKind::Fenced));
            assert_eq!(store.close().unwrap().replicated, Some(false));
        }
        other.close_within(Duration::from_millis(100)).unwrap();
    }
}

#[cfg(feature = "s3")]
impl Service {
    /// A process with credentials that replicates to the server at that address.
    fn child(address: &str, database: &Path, role: &str) -> Child {
        let mut command = Command::new(this_binary());
        command
            .env("AWS_ACCESS_KEY_ID", KEY)
            .env("AWS_SECRET_ACCESS_KEY", SECRET);
        let url = format!("s3://bucket/app?endpoint=http://{address}");
        Child::start_by(command, "replica::late", role, &[&url, database.to_str().unwrap()])
    }
}

/// The process: it says what became of each line that it is told.
#[cfg(feature = "s3")]
pub(crate) fn child(task: &Task) {
    let replica = unmerged(&task.args[0]).interval(Duration::from_millis(20));
    let opened = Options::new()
        .replicate_to(replica)
        .monitor_interval(Duration::from_millis(50))
        .open(&task.args[1]);
    let store = match opened {
        Ok(store) => store,
        Err(error) => return tell(error),
    };
    tell(format!("{:?}", store.stats().replica.unwrap().state));
    loop {
        let flush = |time| store.replica().unwrap().flush(time);
        let told = match listen().as_str() {
            "write" => store.write(|tx| tx.execute_batch("CREATE TABLE IF NOT EXISTS t(a); INSERT INTO t VALUES (1)")),
            "flush" => flush(PATIENCE).map(drop),
            "alert" => {
                wait_until("the alert is raised", || is_raised(&store, AlertKind::ReplicaFailing));
                Ok(())
            }
            "clock" => {
                wait_until("the alert is raised", || is_raised(&store, AlertKind::ClockAhead));
                Ok(())
            }
            _ => break,
        };
        match told {
            Ok(()) => tell("done"),
            Err(error) => tell(error),
        }
    }
    tell(format!("{:?}", store.close().unwrap().replicated));
}

#[cfg(feature = "s3")]
#[test]
fn bucket_behind_a_closed_port_is_caught_up() {
    let (Some(moto), Some(empty)) = (Service::moto("bucket"), Service::moto("bucket")) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("app.db");
    let proxy = Proxy::start("127.0.0.1:0", &moto.url, |_, answer| answer);
    let address = proxy.address();
    let mut first = Service::child(&address, &database, "bucket");
    first.line();
    for line in ["write", "flush"] {
        first.say(line);
        first.expect("done");
    }
    first.say("close");
    first.expect("Some(true)");

    drop(proxy);
    let mut away = Service::child(&address, &database, "bucket");
    away.expect("StorageAway");
    for line in ["write", "alert"] {
        away.say(line);
        away.expect("done");
    }
    let proxy = Proxy::start(&address, &moto.url, |_, answer| answer);
    away.say("flush");
    away.expect("done");
    away.say("close");
    away.expect("Some(true)");

    // Another server has the port, with an empty bucket.
    drop(proxy);
    let mut away = Service::child(&address, &database, "bucket");
    away.expect("StorageAway");
    away.say("write");
    away.expect("done");
    let _proxy = Proxy::start(&address, &empty.url, |_, answer| answer);
    away.say("flush");
    let told = away.line();
    assert!(told.contains("the replica has been emptied"), "{told}");
    away.say("write");
    assert!(away.line().contains("does not fit its replica"));
    away.say("close");
    away.expect("Some(false)");
}

/// The local clock is an hour ahead of the storage's: what is uploaded has the storage's time.
#[cfg(feature = "s3")]
#[test]
fn clock_that_is_ahead_is_not_believed() {
    const HOUR: Duration = Duration::from_secs(3600);
    let Some(moto) = Service::moto("bucket") else { return };
    let folder = tempfile::tempdir().unwrap();
    let earlier = |_: &str, answer: String| {
        let now = chrono::DateTime::<chrono::Utc>::from(std::time::SystemTime::now() - HOUR);
        let line = format!("Last-Modified: {}", now.format("%a, %d %b %Y %H:%M:%S GMT"));
        let lines = answer
            .lines()
            .map(|old| match old.to_ascii_lowercase().starts_with("last-modified:") {
                true => line.as_str(),
                false => old,
            });
        lines.map(|line| format!("{line}\r\n")).collect()
    };
    let proxy = Proxy::start("127.0.0.1:0", &moto.url, earlier);
    let mut child = Service::child(&proxy.address(), &folder.path().join("app.db"), "bucket");
    child.expect("Idle");
    for line in ["write", "flush", "clock"] {
        child.say(line);
        child.expect("done");
    }
    child.say("close");
    child.expect("Some(true)");
    let url = format!("s3://bucket/app?endpoint={}", moto.url);
    let storage = larder::replica::storage::Storage::connect_in(&url, &super::servers::environment(&[])).unwrap();
    let first = larder::replica::storage::Txids::one(1);
    let time = larder::replica::runtime::wait(async move { storage.timestamp(0, first).await });
    let time = std::time::UNIX_EPOCH + Duration::from_millis(time.unwrap().unwrap().cast_unsigned());
    let ago = std::time::SystemTime::now().duration_since(time).unwrap();
    assert!(
        ago >= HOUR - Duration::from_secs(2) && ago < HOUR + PATIENCE * 5,
        "{ago:?}"
    );
}
