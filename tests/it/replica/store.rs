//! A store that is replicated to a folder: what is in the replica is what the store has, byte for byte.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, io};

use larder::rusqlite::Connection;
use larder::{
    Access, AlertKind, Durability, Error, OnDivergence, Options, Outcome, ReplicaOptions, ReplicaState, Store,
};
use tempfile::TempDir;

use super::File;
use super::litestream::Litestream;
use crate::support::child::{Child, PATIENCE, Task, tell};
use crate::support::outage::Outage;
use crate::support::{keep_log, log};

/// A database and its replica, each in a folder of its own.
pub(super) struct Place {
    folder: TempDir,
}

impl Place {
    pub(super) fn new() -> Self {
        log::collect();
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("data")).unwrap();
        Self { folder }
    }

    pub(super) fn database(&self) -> PathBuf {
        self.folder.path().join("data/app.db")
    }

    pub(super) fn replica(&self) -> PathBuf {
        self.folder.path().join("replica")
    }

    /// Takes the storage away.
    pub(super) fn outage(&self) -> Outage {
        Outage::of(self.replica())
    }

    pub(super) fn to(&self) -> ReplicaOptions {
        self.to_url(self.replica().to_str().unwrap())
    }

    pub(super) fn to_url(&self, url: &str) -> ReplicaOptions {
        unmerged(url).interval(Duration::from_millis(20))
    }

    pub(super) fn options(&self) -> Options {
        Options::new().replicate_to(self.to())
    }

    pub(super) fn open(&self) -> Store {
        self.options().open(self.database()).unwrap()
    }

    /// The sealed transactions in the replica, oldest first.
    pub(super) fn transactions(&self) -> Vec<File> {
        let Ok(entries) = fs::read_dir(self.replica().join("ltx/0")) else {
            return Vec::new();
        };
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let files: Vec<_> = paths
            .iter()
            .map(|path| File::decode(&fs::read(path).unwrap()[..]).unwrap())
            .collect();
        for (n, file) in (1..).zip(&files) {
            assert_eq!((file.header.min_txid, file.header.max_txid), (n, n), "no gap");
        }
        assert!(files.is_sorted_by_key(|file| file.header.timestamp));
        files
    }

    /// Why full files were made after the first, as the events say.
    pub(super) fn rebases(&self) -> Vec<String> {
        let path = self.database().display().to_string();
        let events = log::events(|event| event.message.contains("has every page") && event.mentions(&path));
        events.iter().map(|event| event.expect("reason").to_owned()).collect()
    }

    /// The database that the transactions of the replica make.
    pub(super) fn restored(&self) -> Vec<u8> {
        let mut database = Vec::new();
        for file in self.transactions() {
            file.apply(&mut database);
        }
        database
    }

    /// Compares the closed database with its replica, and with what each `litestream` here restores.
    #[track_caller]
    pub(super) fn compare_closed(&self) {
        let database = fs::read(self.database()).unwrap();
        assert!(database == self.restored(), "the replica is the database");
        for litestream in Litestream::all().iter().filter(|litestream| litestream.knows_blocks()) {
            assert!(database == litestream.restore(&self.replica(), None));
        }
    }
}

/// A century, whose multiples no test comes to the end of.
pub(super) const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// A replica whose files are not merged. By default each half minute of the clock ends with a merge, also in the middle of a
/// test.
pub(super) fn unmerged(url: impl AsRef<str>) -> ReplicaOptions {
    ReplicaOptions::to(url.as_ref()).levels([1, 2, 4].map(|n| n * CENTURY))
}

/// Closes a store whose storage is away, which gets little time, and waits until it has ended.
#[track_caller]
pub(super) fn close_away(store: Store) {
    store.close_within(Duration::from_millis(300)).unwrap();
    // On a slow disk the writer thread may need longer, and this is its report.
    let report = store.close_within(PATIENCE).unwrap();
    assert_eq!(report.replicated, Some(false), "{report}");
}

#[track_caller]
pub(super) fn close(store: Store) {
    let report = store.close().unwrap();
    assert!(report.wal_truncated, "{report}");
    assert_eq!(report.replicated, Some(true), "{report}");
}

pub(super) fn fill(store: &Store, rows: u32) {
    store
        .write(move |tx| {
            tx.execute_batch("CREATE TABLE IF NOT EXISTS entry(n INTEGER PRIMARY KEY, noise BLOB) STRICT")?;
            for _ in 0..rows {
                tx.execute("INSERT INTO entry(noise) VALUES (randomblob(900))", [])?;
            }
            Ok(())
        })
        .unwrap();
}

#[track_caller]
pub(super) fn wait_until(what: &str, mut is_true: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !is_true() {
        assert!(Instant::now() < give_up, "{what}: it does not come");
        std::thread::yield_now();
    }
}

pub(super) fn rows(store: &Store) -> u32 {
    store
        .read(|tx| tx.query_row("SELECT count(*) FROM entry", [], |row| row.get(0)))
        .unwrap()
}

#[test]
fn file_in_the_place_of_the_spool_is_named() {
    let place = Place::new();
    let spool = place.database().with_file_name("app.db-replica");
    fs::write(&spool, "not ours").unwrap();
    let error = place.options().open(place.database()).err().unwrap().to_string();
    assert!(error.contains("app.db-replica"), "{error}");
    assert!(error.ends_with("Move the file of that name away"), "{error}");
    assert_eq!(fs::read_to_string(&spool).unwrap(), "not ours");
    fs::remove_file(&spool).unwrap();
    place.open().close().unwrap();
}

#[test]
fn closed_store_is_in_its_replica() {
    for access in [Access::Shared, Access::Exclusive] {
        for durability in [Durability::Normal, Durability::Full] {
            let place = Place::new();
            let store = place
                .options()
                .access(access)
                .durability(durability)
                .open(place.database())
                .unwrap();
            for n in 0..30 {
                fill(&store, n);
            }
            close(store);
            place.compare_closed();
        }
    }
}

#[test]
fn flush_waits_until_it_is_uploaded() {
    let place = Place::new();
    let store = place.open();
    for n in 1..10 {
        fill(&store, n);
        let txid = store.replica().unwrap().flush(PATIENCE).unwrap();
        let copy = place.database().with_extension("copy");
        fs::write(&copy, place.restored()).unwrap();
        let count = Connection::open(&copy)
            .unwrap()
            .query_row("SELECT count(*) FROM entry", [], |row| row.get::<_, u32>(0));
        assert_eq!(count.unwrap(), (1..=n).sum::<u32>());
        assert_eq!(store.replica().unwrap().uploaded(), txid);
        assert_eq!(store.replica().unwrap().behind(), None);
    }
    close(store);
    place.compare_closed();
}

#[test]
fn reopened_store_goes_on_from_frame_to_frame() {
    for access in [Access::Shared, Access::Exclusive] {
        let place = Place::new();
        for round in 0..4 {
            let store = place.options().access(access).open(place.database()).unwrap();
            if round != 2 {
                fill(&store, 20);
            }
            close(store);
            place.compare_closed();
        }
        assert_eq!(place.rebases(), [""; 0]);
    }
}

#[test]
fn checkpoints_under_load_lose_nothing() {
    for access in [Access::Shared, Access::Exclusive] {
        let place = Place::new();
        let options = place.options().access(access).checkpoint_pages(20).wal_limit(256 << 10);
        let store = options.open(place.database()).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| (0..150).for_each(|n| fill(&store, n % 7)));
            }
            scope.spawn(|| {
                (0..300).for_each(|_| {
                    drop(store.read(|tx| tx.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))))
                })
            });
        });
        let counted = rows(&store);
        close(store);
        place.compare_closed();
        assert_eq!(place.rebases(), [""; 0], "{counted} rows");
    }
}

#[test]
fn vacuum_and_shrinking_are_replicated() {
    let place = Place::new();
    let store = place.open();
    fill(&store, 500);
    store
        .write(|tx| tx.execute("DELETE FROM entry WHERE n % 10 <> 0", []))
        .unwrap();
    store.replica().unwrap().flush(PATIENCE).unwrap();
    store.vacuum().run().unwrap();
    fill(&store, 3);
    close(store);
    place.compare_closed();
}

/// Each vacuum empties the log before it begins, and an emptied log begins again, too.
#[test]
fn killed_store_goes_on_behind_vacuums_that_were_cancelled() {
    let place = Place::new();
    let (database, replica) = (place.database(), place.replica());
    let args = [database.to_str().unwrap(), replica.to_str().unwrap()];
    let child = Child::start("replica::store", "vacuum", &args);
    assert_eq!(child.line(), "written");
    drop(child);
    let store = place.options().access(Access::Exclusive).open(&database).unwrap();
    assert_eq!(rows(&store), 101);
    close(store);
    assert_eq!(place.rebases(), [""; 0]);
    place.compare_closed();
}

/// The other process, which is killed.
pub(crate) fn child(task: &Task) {
    let [path, url] = &task.args[..] else {
        panic!("two arguments")
    };
    // Nothing is captured but by a flush, or before a checkpoint.
    let replica = unmerged(url).interval(Duration::from_secs(3600));
    let options = Options::new().access(Access::Exclusive).replicate_to(replica);
    let store = options.open(path).unwrap();
    fill(&store, 100);
    store.replica().unwrap().flush(PATIENCE).unwrap();
    for _ in 0..3 {
        let cancelled = store.vacuum().progress(Duration::ZERO, |_| ControlFlow::Break(()));
        cancelled.run().unwrap_err();
    }
    fill(&store, 1);
    tell("written");
    loop {
        std::thread::park();
    }
}

#[test]
fn pages_of_each_size_are_replicated() {
    for page_size in [512, 1024, 16384, 65536] {
        let place = Place::new();
        let store = place.options().page_size(page_size).open(place.database()).unwrap();
        (0..10).for_each(|n| fill(&store, n * 5));
        close(store);
        place.compare_closed();
    }
}

#[test]
fn existing_database_is_replicated_whole() {
    let place = Place::new();
    let store = Store::open(place.database()).unwrap();
    fill(&store, 300);
    store.close().unwrap();
    let store = place.open();
    assert_eq!(rows(&store), 300);
    close(store);
    place.compare_closed();
}

#[test]
fn other_process_that_writes_is_replicated() {
    let place = Place::new();
    let store = place.open();
    fill(&store, 10);
    let other = Connection::open(place.database()).unwrap();
    for n in 0..50 {
        fill(&store, 1);
        other
            .execute("INSERT INTO entry(noise) VALUES (zeroblob(2000))", [])
            .unwrap();
        if n % 10 == 9 {
            other
                .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
                .unwrap();
        }
    }
    store.replica().unwrap().flush(PATIENCE).unwrap();
    drop(other);
    close(store);
    place.compare_closed();
}

#[test]
fn change_while_closed_is_a_full_file() {
    let place = Place::new();
    let store = place.open();
    fill(&store, 10);
    close(store);
    let before = place.transactions().len();
    let other = Connection::open(place.database()).unwrap();
    other
        .execute("INSERT INTO entry(noise) VALUES (zeroblob(2000))", [])
        .unwrap();
    other.close().unwrap();
    let store = place.open();
    assert_eq!(rows(&store), 11);
    close(store);
    place.compare_closed();
    assert_eq!(
        place.rebases(),
        ["the database was changed while no store replicated it"]
    );
    let files = place.transactions();
    assert_eq!(files[before].pages.len() as u32, files[before].header.commit);
}

/// A process that was killed before its first transaction was captured has left a position. The replica has nothing then
/// that would be begun again, and nothing is told.
#[test]
fn killed_before_the_first_file_is_no_rebase() {
    let place = Place::new();
    let store = Options::new().open(place.database()).unwrap();
    fill(&store, 20_000);
    store.close().unwrap();
    // The first file takes a while to write. If it was there already, the next store is quicker to look.
    let copy = (0..200).find_map(|_| {
        let store = place.open();
        let copy = after_power_cut(&place, &[]);
        close(store);
        fs::remove_dir_all(spool_of(&place.database())).unwrap();
        fs::remove_dir_all(place.replica()).unwrap();
        copy.transactions().is_empty().then_some(copy)
    });
    let copy = copy.expect("a store that was killed in time");
    assert!(spool_of(&copy.database()).join("position").exists());
    let store = copy.open();
    fill(&store, 5);
    assert_eq!(rows(&store), 20_005);
    close(store);
    assert_eq!(copy.rebases(), [""; 0]);
    copy.compare_closed();
}

#[test]
fn replica_of_another_database_is_refused() {
    let place = Place::new();
    let store = place.open();
    fill(&store, 10);
    close(store);
    let before = place.restored();
    let other = place.database().with_file_name("other.db");
    let store = Store::open(&other).unwrap();
    fill(&store, 3);
    store.close().unwrap();
    let contents = fs::read(&other).unwrap();
    let error = place.options().open(&other).unwrap_err();
    assert!(matches!(error, Error::Diverged { .. }), "{error}");
    assert!(error.to_string().contains("has never been replicated to it"), "{error}");
    assert!(before == place.restored());
    assert!(contents == fs::read(&other).unwrap());

    let replica = place.to().on_divergence(OnDivergence::Rebase);
    let store = Options::new().replicate_to(replica).open(&other).unwrap();
    close(store);
    assert!(fs::read(&other).unwrap() == place.restored());
}

#[test]
fn missing_file_does_not_empty_its_replica() {
    let place = Place::new();
    let store = place.open();
    fill(&store, 10);
    close(store);
    let before = place.restored();
    for with_spool in [true, false] {
        let _ = fs::remove_file(place.database());
        if !with_spool {
            fs::remove_dir_all(place.database().with_file_name("app.db-replica")).unwrap();
        }
        let error = place.options().open(place.database()).unwrap_err();
        assert!(matches!(error, Error::Diverged { .. }), "{error}");
        assert!(error.to_string().contains("does not exist"), "{error}");
        assert!(!place.database().exists());
        assert!(before == place.restored());
    }
}

#[test]
fn storage_that_is_away_stops_no_write() {
    let place = Place::new();
    let store = place.open();
    fill(&store, 10);
    store.replica().unwrap().flush(PATIENCE).unwrap();
    let outage = place.outage();
    for n in 0..20 {
        fill(&store, n);
    }
    let error = store.replica().unwrap().flush(Duration::from_millis(200)).unwrap_err();
    assert!(matches!(error, Error::NotReplicated { .. }), "{error}");
    assert_eq!(error.outcome(), Outcome::Local);
    assert!(store.replica().unwrap().behind().is_some());
    outage.end();
    store.replica().unwrap().flush(PATIENCE).unwrap();
    close(store);
    place.compare_closed();
}

/// The sizes of the files in a spool, in the order of their transactions, without those that are deleted meanwhile.
fn files_by_age(folder: &Path) -> Vec<u64> {
    let entries = fs::read_dir(folder).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let sizes = paths.iter().map(|path| match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        metadata => Some(metadata.unwrap().len()),
    });
    sizes.flatten().collect()
}

#[test]
fn full_spool_is_dropped_and_the_whole_goes_up() {
    let place = Place::new();
    let replica = place.to().spool_limit(1 << 20);
    let store = Options::new().replicate_to(replica).open(place.database()).unwrap();
    fill(&store, 10);
    store.replica().unwrap().flush(PATIENCE).unwrap();
    let outage = place.outage();
    let sealed = || store.stats().replica.unwrap().sealed;
    let before = sealed();
    fill(&store, 1);
    // It is never dropped, since its upload is tried.
    wait_until("a small file waits", || sealed() > before);
    let folder = spool_of(&place.database()).join("0");
    let add = || {
        fill(&store, 100);
        let _ = store.replica().unwrap().flush(Duration::from_millis(30));
        // What waits is dropped once the file is sealed that is too much.
        let before: u64 = files_by_age(&folder).iter().rev().skip(1).sum();
        assert!(before < 2 << 20, "{before}");
    };
    wait_until("the drop", || {
        add();
        let behind = store.replica().unwrap().behind();
        behind.is_some_and(|behind| behind.contains("spool_limit"))
    });
    (0..20).for_each(|_| add());
    wait_until("the spool is small", || {
        files_by_age(&folder).iter().sum::<u64>() < 2 << 20
    });
    let behind = store.replica().unwrap().behind().unwrap();
    assert!(behind.contains("spool_limit"), "{behind}");
    outage.end();
    store.replica().unwrap().flush(PATIENCE).unwrap();
    fill(&store, 10);
    close(store);
    place.compare_closed();
    assert_eq!(place.rebases(), ["what waited to be uploaded was dropped"]);
}

/// The storage comes back for the next store only, which is told why it begins with the whole.
#[test]
fn dropped_spool_is_told_to_the_next_store() {
    let place = Place::new();
    let replica = place.to().spool_limit(1 << 20);
    let store = Options::new().replicate_to(replica).open(place.database()).unwrap();
    fill(&store, 10);
    store.replica().unwrap().flush(PATIENCE).unwrap();
    let outage = place.outage();
    wait_until("the drop", || {
        fill(&store, 100);
        let behind = store.replica().unwrap().behind();
        behind.is_some_and(|behind| behind.contains("spool_limit"))
    });
    close_away(store);
    outage.end();
    let store = place.open();
    fill(&store, 1);
    close(store);
    place.compare_closed();
    assert_eq!(
        place.rebases(),
        ["the last store ended before it had captured the whole database"]
    );
}

/// The transactions that a flush waits for are dropped meanwhile: the full file that replaces them has a smaller number.
#[test]
fn flush_ends_though_the_spool_was_dropped() {
    let place = Place::new();
    let replica = place.to().spool_limit(1 << 20);
    let store = Options::new().replicate_to(replica).open(place.database()).unwrap();
    fill(&store, 10);
    store.replica().unwrap().flush(PATIENCE).unwrap();
    let outage = place.outage();
    let sealed = || store.stats().replica.unwrap().sealed;
    let first = sealed();
    wait_until("files that wait", || {
        fill(&store, 1);
        sealed() > first + 5
    });
    let (waiting, problem) = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| store.replica().unwrap().flush(PATIENCE));
        wait_until("the drop", || {
            fill(&store, 100);
            sealed() < first + 5
        });
        outage.end();
        // Uploads are tried again at once.
        store.replica().unwrap().flush(PATIENCE).unwrap();
        (waiting.join().unwrap(), store.replica().unwrap().behind())
    });
    waiting.unwrap();
    assert_eq!(problem, None);
    close(store);
    place.compare_closed();
}

#[test]
fn second_primary_is_fenced() {
    let place = Place::new();
    let store = place.open();
    fill(&store, 10);
    let txid = store.replica().unwrap().flush(PATIENCE).unwrap();
    // Another primary's transaction.
    let name = |txid: u64| format!("ltx/0/{txid:016x}-{txid:016x}.ltx");
    let mut theirs = place.transactions().pop().unwrap();
    theirs.header.min_txid = txid + 1;
    theirs.header.max_txid = txid + 1;
    let theirs = theirs.encode();
    fs::write(place.replica().join(name(txid + 1)), &theirs).unwrap();
    fill(&store, 1);
    let error = store.replica().unwrap().flush(PATIENCE).unwrap_err();
    assert!(matches!(error, Error::Fenced { .. }), "{error}");
    let error = store.write(|tx| tx.execute("DELETE FROM entry", [])).unwrap_err();
    assert!(matches!(error, Error::Fenced { .. }), "{error}");
    assert!(matches!(store.poisoned(), Some(Error::Fenced { .. })));
    assert_eq!(rows(&store), 11);
    assert!(theirs == fs::read(place.replica().join(name(txid + 1))).unwrap());
    let report = store.close().unwrap();
    assert_eq!(report.replicated, Some(false), "{report}");
}

/// The folder of the database with all its files, copied by another process: closing a descriptor of the database would
/// end this process's locks on it.
pub(super) fn copy_folder(from: &Path, to: &Path) {
    let copy = || Command::new("cp").arg("-r").arg(from.join(".")).arg(to).status();
    // No checkpoint empties the log between the copies of both.
    let databases = ["app.db", "data/app.db"].map(|name| from.join(name));
    let _reader = databases.iter().find(|path| path.exists()).map(|path| keep_log(path));
    // A file of the running store may get its name, and so lose the one before, while it is copied.
    let is_copied = (0..20).any(|_| {
        let _ = fs::remove_dir_all(to);
        fs::create_dir(to).unwrap();
        copy().unwrap().success()
    });
    assert!(is_copied);
}

/// The database, its log, spool and replica as a power cut leaves them that spares what was synced and takes these files.
fn after_power_cut(place: &Place, lost: &[&str]) -> Place {
    let copy = Place::new();
    copy_folder(place.folder.path(), copy.folder.path());
    for name in lost {
        fs::remove_file(copy.folder.path().join("data").join(name)).unwrap();
    }
    copy
}

#[test]
fn lost_position_is_that_of_the_newest_file() {
    let place = Place::new();
    let store = place.open();
    for n in 1..10 {
        fill(&store, n);
        store.replica().unwrap().flush(PATIENCE).unwrap();
    }
    let copy = after_power_cut(&place, &["app.db-replica/position"]);
    close(store);
    let store = copy.open();
    assert_eq!(rows(&store), 45);
    fill(&store, 5);
    close(store);
    assert_eq!(copy.rebases(), [""; 0]);
    copy.compare_closed();
}

/// An upload that a reply waits for does not wait for the position, which comes before the next checkpoint.
#[test]
fn killed_store_goes_on_behind_the_files_of_waiting_writes() {
    for access in [Access::Shared, Access::Exclusive] {
        let place = Place::new();
        let replica = place.to().interval(Duration::from_secs(3600));
        let options = Options::new().access(access).durability(Durability::Replicated);
        let store = options.replicate_to(replica).open(place.database()).unwrap();
        // The store checkpoints once it is idle, which may be before it is copied.
        let copy = (0..200).find_map(|_| {
            fill(&store, 1);
            let copy = after_power_cut(&place, &[]);
            let (position, newest) = position_and_newest(&copy);
            (position < newest).then_some(copy)
        });
        let copy = copy.expect("a position behind the newest file");
        wait_until("it has checkpointed", || {
            let (position, newest) = position_and_newest(&place);
            position == newest
        });
        let written = rows(&store);
        close(store);
        place.compare_closed();
        let store = copy.open();
        assert_eq!(rows(&store), written);
        fill(&store, 5);
        close(store);
        assert_eq!(copy.rebases(), [""; 0]);
        copy.compare_closed();
    }
}

/// The transaction of the position in the spool, and the newest file there.
fn position_and_newest(place: &Place) -> (u64, u64) {
    let spool = spool_of(&place.database());
    let position = fs::read_to_string(spool.join("position")).unwrap();
    let txid = position.lines().find_map(|line| line.strip_prefix("txid ")).unwrap();
    let names = fs::read_dir(spool.join("0"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let newest = names.max().unwrap().into_string().unwrap();
    (txid.parse().unwrap(), u64::from_str_radix(&newest[..16], 16).unwrap())
}

/// Another process appends to the log of a killed store, empties it, and is killed, too. What it wrote is in the database
/// alone, and no page of it is new.
#[test]
fn changes_of_a_killed_process_are_not_missed() {
    for access in [Access::Shared, Access::Exclusive] {
        for way in ["cut", "as long as before", "begun again"] {
            let place = Place::new();
            let store = place.options().access(access).open(place.database()).unwrap();
            fill(&store, 9);
            store.replica().unwrap().flush(PATIENCE).unwrap();
            let position = spool_of(&place.database()).join("position");
            wait_until("all of the log is in the database", || {
                fs::read_to_string(&position).unwrap().contains("emptied 1")
            });
            let killed = copy_at_once(&place);
            drop(store);
            let log = killed.database().with_file_name("app.db-wal");
            let length = || fs::metadata(&log).unwrap().len();
            let end = length();
            let other = Connection::open(killed.database()).unwrap();
            let change = |n: u32| other.execute("UPDATE entry SET noise = randomblob(900) WHERE n = ?1", [n]);
            change(5).unwrap();
            let mode = if way == "begun again" { "PASSIVE" } else { "TRUNCATE" };
            let sql = format!("PRAGMA wal_checkpoint({mode})");
            other.query_row(&sql, [], |_| Ok(())).unwrap();
            match way {
                "cut" => assert_eq!(length(), 0),
                "as long as before" => {
                    while length() < end {
                        change(1).unwrap();
                    }
                }
                _ => (0..end / 4096).for_each(|_| {
                    change(1).unwrap();
                }),
            }
            let killed = copy_at_once(&killed);
            drop(other);
            let store = killed.options().access(access).open(killed.database()).unwrap();
            fill(&store, 1);
            close(store);
            killed.compare_closed();
            assert_eq!(killed.rebases().len(), 1, "{access:?}, {way}");
        }
    }
}

/// A copy of all files, as a kill leaves them. A file may lose its name meanwhile.
fn copy_at_once(place: &Place) -> Place {
    let copy = Place::new();
    let (from, to) = (place.folder.path().join("."), copy.folder.path());
    let is_copied = (0..20).any(|_| {
        let _ = fs::remove_dir_all(to);
        fs::create_dir(to).unwrap();
        Command::new("cp")
            .arg("-r")
            .arg(&from)
            .arg(to)
            .status()
            .unwrap()
            .success()
    });
    assert!(is_copied);
    copy
}

#[test]
fn log_emptied_by_another_before_closing_is_replicated() {
    let place = Place::new();
    let replica = place.to().interval(Duration::from_secs(3600));
    let store = Options::new().replicate_to(replica).open(place.database()).unwrap();
    fill(&store, 10);
    store.replica().unwrap().flush(PATIENCE).unwrap();
    let other = Connection::open(place.database()).unwrap();
    for _ in 0..2 {
        other
            .execute("INSERT INTO entry(noise) VALUES (zeroblob(2000))", [])
            .unwrap();
        other
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .unwrap();
    }
    drop(other);
    close(store);
    place.compare_closed();
}

#[test]
fn opening_waits_for_the_store_that_closes() {
    let place = Place::new();
    for n in 1..20 {
        let store = place.open();
        fill(&store, n);
        drop(store);
    }
    close(place.open());
    place.compare_closed();
    assert_eq!(place.rebases(), [""; 0]);
}

pub(super) fn spool_of(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push("-replica");
    name.into()
}

#[test]
fn spool_keeps_the_newest_file_alone() {
    let place = Place::new();
    let store = place.open();
    (0..10).for_each(|n| {
        fill(&store, n);
        store.replica().unwrap().flush(PATIENCE).unwrap();
    });
    close(store);
    let kept = fs::read_dir(spool_of(&place.database()).join("0")).unwrap().count();
    assert_eq!(kept, 1);
}

#[test]
fn restored_database_goes_on_with_its_replica() {
    let place = Place::new();
    let store = place.open();
    fill(&store, 10);
    close(store);
    fs::remove_file(place.database()).unwrap();
    let error = Store::restore_from(place.replica().to_str().unwrap())
        .to(place.database())
        .unwrap_err();
    assert!(error.to_string().contains("app.db-replica"), "{error}");
    fs::remove_dir_all(spool_of(&place.database())).unwrap();
    let report = Store::restore_from(place.replica().to_str().unwrap())
        .to(place.database())
        .unwrap();
    assert_eq!(report.txid, place.transactions().len() as u64);
    let store = place.open();
    fill(&store, 5);
    assert_eq!(rows(&store), 15);
    close(store);
    place.compare_closed();
    assert_eq!(place.rebases(), [""; 0]);
}

#[test]
fn older_state_does_not_become_the_newest() {
    let place = Place::new();
    let store = place.open();
    fill(&store, 10);
    let txid = store.replica().unwrap().flush(PATIENCE).unwrap();
    fill(&store, 10);
    close(store);
    let before = place.restored();
    let older = place.database().with_file_name("older.db");
    let report = Store::restore_from(place.replica().to_str().unwrap())
        .txid(txid)
        .to(&older)
        .unwrap();
    assert_eq!(report.txid, txid);
    let error = place.options().open(&older).unwrap_err();
    assert!(matches!(error, Error::Diverged { .. }), "{error}");
    assert!(
        error.to_string().contains(&format!("up to transaction {txid}")),
        "{error}"
    );
    assert!(before == place.restored());
}

#[test]
fn missing_database_is_restored_if_asked() {
    for with_spool in [true, false] {
        let place = Place::new();
        let store = place.open();
        fill(&store, 10);
        close(store);
        fs::remove_file(place.database()).unwrap();
        if !with_spool {
            fs::remove_dir_all(spool_of(&place.database())).unwrap();
        }
        let replica = place.to().restore_if_missing(true);
        let store = Options::new().replicate_to(replica).open(place.database()).unwrap();
        assert_eq!(rows(&store), 10);
        fill(&store, 1);
        close(store);
        place.compare_closed();
        assert_eq!(place.rebases(), [""; 0]);
    }
}

#[test]
fn restore_adds_what_was_not_uploaded() {
    let place = Place::new();
    let store = place.open();
    fill(&store, 10);
    store.replica().unwrap().flush(PATIENCE).unwrap();
    let outage = place.outage();
    for rows in [7, 8] {
        // What is not sealed is in the log alone, which goes with the database.
        let sealed = || store.stats().replica.unwrap().sealed;
        let before = sealed();
        fill(&store, rows);
        wait_until("it is sealed", || {
            let _ = store.replica().unwrap().flush(Duration::from_millis(10));
            sealed() > before
        });
    }
    close_away(store);
    outage.end();
    fs::remove_file(place.database()).unwrap();
    let replica = place.to().restore_if_missing(true);
    let store = Options::new().replicate_to(replica).open(place.database()).unwrap();
    assert_eq!(rows(&store), 25);
    close(store);
    place.compare_closed();
}

#[test]
fn verification_compares_all_rows() {
    let place = Place::new();
    let store = place.open();
    fill(&store, 50);
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| (0..200).for_each(|_| fill(&store, 1)));
        let report = store.replica().unwrap().verify().restore(true).run().unwrap();
        assert!(report.is_ok(), "{report}");
        let restored = report.restored.as_ref().unwrap();
        assert!(restored.is_compared && restored.rows >= 50, "{report}");
        writing.join().unwrap();
    });
    // A file of the past is damaged.
    store.replica().unwrap().flush(PATIENCE).unwrap();
    let path = place.replica().join("ltx/0/0000000000000001-0000000000000001.ltx");
    let mut file = fs::read(&path).unwrap();
    file.truncate(150);
    fs::write(&path, file).unwrap();
    let report = store.replica().unwrap().verify().run().unwrap();
    assert!(!report.is_ok(), "{report}");
    let is_raised = || {
        store
            .stats()
            .alerts
            .iter()
            .any(|alert| alert.kind == AlertKind::VerifyFailed)
    };
    wait_until("the alert is raised", is_raised);
}

#[test]
fn statistics_say_what_the_replica_has() {
    let place = Place::new();
    let store = place.open();
    fill(&store, 10);
    let txid = store.replica().unwrap().flush(PATIENCE).unwrap();
    let replica = store.stats().replica.unwrap();
    assert_eq!(
        (replica.sealed, replica.uploaded, replica.state),
        (txid, txid, ReplicaState::Idle)
    );
    assert_eq!((replica.problem, replica.behind), (None, Duration::ZERO));
    assert!(replica.uploads >= 1 && replica.uploaded_bytes > 0 && replica.spool_bytes > 0);
    let outage = place.outage();
    fill(&store, 10);
    wait_until("an upload fails", || store.stats().replica.unwrap().failed_uploads > 0);
    let replica = store.stats().replica.unwrap();
    assert_eq!(replica.state, ReplicaState::StorageAway);
    assert!(replica.behind > Duration::ZERO && replica.problem.is_some());
    let flush = || drop(store.replica().unwrap().flush(Duration::from_millis(10)));
    wait_until("the alert is raised", || {
        flush();
        store
            .stats()
            .alerts
            .iter()
            .any(|alert| alert.kind == AlertKind::ReplicaFailing)
    });
    outage.end();
    store.replica().unwrap().flush(PATIENCE).unwrap();
    assert_eq!(store.stats().replica.unwrap().state, ReplicaState::Idle);
    close(store);
    assert_eq!(Store::open(place.database()).unwrap().stats().replica, None);
}

#[test]
fn replica_in_use_is_taken_over_if_asked() {
    let place = Place::new();
    let zombie = place.open();
    fill(&zombie, 10);
    zombie.replica().unwrap().flush(PATIENCE).unwrap();
    let machine = tempfile::tempdir().unwrap();
    let path = machine.path().join("app.db");
    let replica = place.to().restore_if_missing(true);
    let error = Options::new().replicate_to(replica.clone()).open(&path).unwrap_err();
    assert!(matches!(error, Error::ReplicaInUse { .. }), "{error}");
    for part in [
        "take_over(true)",
        "Follower::open",
        &format!(", process {},", std::process::id()),
    ] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!(!path.exists());
    // What the other does not have yet is lost to it.
    let store = Options::new()
        .replicate_to(replica.take_over(true))
        .open(&path)
        .unwrap();
    assert_eq!(rows(&store), 10);
    fill(&store, 5);
    store.replica().unwrap().flush(PATIENCE).unwrap();
    let _ = zombie.write(|tx| tx.execute("DELETE FROM entry", []));
    let error = zombie.replica().unwrap().flush(PATIENCE).unwrap_err();
    assert!(matches!(error, Error::Fenced { .. }), "{error}");
    let error = zombie.write(|tx| tx.execute("DELETE FROM entry", [])).unwrap_err();
    assert!(matches!(error, Error::Fenced { .. }), "{error}");
    let report = zombie.close().unwrap();
    assert_eq!(report.replicated, Some(false), "{report}");
    assert!(!report.to_string().contains("poisoned"), "{report}");
    fill(&store, 5);
    close(store);
    assert!(fs::read(&path).unwrap() == place.restored());
    // The one that lost does not come back by itself, either.
    let error = place.options().open(place.database()).unwrap_err();
    assert!(matches!(error, Error::Diverged { .. }), "{error}");
}

#[test]
fn emptied_replica_is_refused() {
    let place = Place::new();
    let store = place.open();
    fill(&store, 10);
    store.replica().unwrap().flush(PATIENCE).unwrap();
    fill(&store, 10);
    close(store);
    fs::remove_dir_all(place.replica()).unwrap();
    let error = place.options().open(place.database()).unwrap_err();
    assert!(matches!(error, Error::Diverged { .. }), "{error}");
    assert!(error.to_string().contains("has been emptied"), "{error}");
    assert_eq!(place.transactions(), []);
    let replica = place.to().on_divergence(OnDivergence::Rebase);
    let store = Options::new().replicate_to(replica).open(place.database()).unwrap();
    close(store);
    place.compare_closed();
}

#[test]
fn pages_of_another_size_take_another_replica() {
    let place = Place::new();
    let store = place.open();
    fill(&store, 10);
    close(store);
    let rebuild = |page_size: u32| {
        let database = Connection::open(place.database()).unwrap();
        let sql = format!("PRAGMA journal_mode = DELETE; PRAGMA page_size = {page_size}; VACUUM");
        database.execute_batch(&sql).unwrap();
    };
    rebuild(8192);
    let rebases = place.to().on_divergence(OnDivergence::Rebase);
    for replica in [place.to(), rebases.clone()] {
        let error = Options::new().replicate_to(replica).open(place.database()).unwrap_err();
        assert!(matches!(error, Error::Diverged { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("have 8192 bytes, and those in the replica 4096"),
            "{text}"
        );
    }
    // As one that was never replicated: nothing but the replica knows the size.
    let copy = place.folder.path().join("data/copy.db");
    fs::copy(place.database(), &copy).unwrap();
    let error = Options::new().replicate_to(rebases.clone()).open(&copy).unwrap_err();
    assert!(error.to_string().contains("those in the replica 4096"), "{error}");
    // The ways out.
    let elsewhere = place.folder.path().join("elsewhere");
    let store = Options::new()
        .replicate_to(unmerged(elsewhere.to_str().unwrap()))
        .open(&copy)
        .unwrap();
    close(store);
    rebuild(4096);
    let store = place.open();
    fill(&store, 10);
    close(store);
    place.compare_closed();
    // An emptied replica has no size.
    rebuild(512);
    fs::remove_dir_all(place.replica()).unwrap();
    let store = Options::new().replicate_to(rebases).open(place.database()).unwrap();
    store.replica().unwrap().flush(PATIENCE).unwrap();
    close(store);
}

#[test]
fn own_files_of_the_database_are_no_replica() {
    let place = Place::new();
    let database = place.database();
    let spool = database.with_file_name("app.db-replica");
    for (replica, part) in [
        (database.clone(), "is the path of the database"),
        (spool.clone(), "keeps what is not uploaded yet"),
        (spool.join("deeper"), "keeps what is not uploaded yet"),
        (
            place.folder.path().join("data/../data/app.db-replica"),
            "keeps what is not uploaded yet",
        ),
    ] {
        let replica = place.to_url(replica.to_str().unwrap());
        let error = Options::new().replicate_to(replica).open(&database).unwrap_err();
        assert!(matches!(error, Error::Options { .. }), "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!(!database.exists() && !spool.exists());
    // Beside it is another disk's matter.
    let beside = place.to_url(database.with_file_name("app.db-replicas").to_str().unwrap());
    let store = Options::new().replicate_to(beside).open(&database).unwrap();
    fill(&store, 1);
    close(store);
}

#[test]
fn replica_that_cannot_be_used_is_told_at_opening() {
    let place = Place::new();
    let store = place.open();
    fill(&store, 10);
    close(store);
    let outage = place.outage();
    let error = place.options().open(place.database()).unwrap_err();
    assert!(matches!(error, Error::Replica { .. }), "{error}");
    outage.end();
    let store = place.open();
    fill(&store, 10);
    close(store);
    place.compare_closed();
    assert_eq!(place.rebases(), [""; 0]);
    let owner = fs::read_to_string(place.replica().join("larder/owner.json")).unwrap();
    assert!(owner.contains("\"closed\":true"), "{owner}");
}

#[test]
fn history_of_another_primary_is_not_mixed() {
    let place = Place::new();
    let store = place.open();
    fill(&store, 10);
    store.replica().unwrap().flush(PATIENCE).unwrap();
    // Its storage goes away, and what it commits waits, each in a file of its own.
    let outage = place.outage();
    for _ in 0..20 {
        let before = store.stats().replica.unwrap().sealed;
        fill(&store, 1);
        wait_until("it is sealed", || store.stats().replica.unwrap().sealed > before);
    }
    close_away(store);
    outage.end();
    // Another one goes on, with fewer transactions, and closes.
    let machine = tempfile::tempdir().unwrap();
    let path = machine.path().join("app.db");
    let replica = place.to().restore_if_missing(true).take_over(true);
    let other = Options::new().replicate_to(replica).open(&path).unwrap();
    fill(&other, 3);
    close(other);
    let before = place.restored();
    let error = place.options().open(place.database()).unwrap_err();
    assert!(matches!(error, Error::Diverged { .. }), "{error}");
    assert!(error.to_string().contains("written by another process"), "{error}");
    fs::rename(place.database(), place.database().with_extension("aside")).unwrap();
    let replica = place.to().restore_if_missing(true);
    let error = Options::new().replicate_to(replica).open(place.database()).unwrap_err();
    assert!(matches!(error, Error::Diverged { .. }), "{error}");
    fs::rename(place.database().with_extension("aside"), place.database()).unwrap();
    assert!(before == place.restored());
    let replica = place.to().on_divergence(OnDivergence::Rebase);
    let store = Options::new().replicate_to(replica).open(place.database()).unwrap();
    assert_eq!(rows(&store), 30);
    store.replica().unwrap().flush(PATIENCE).unwrap();
    // What is merged later is read from the spool, so nothing there may be of the other history.
    for entry in fs::read_dir(spool_of(&place.database()).join("0")).unwrap() {
        let copy = entry.unwrap();
        let object = place.replica().join("ltx/0").join(copy.file_name());
        assert!(fs::read(copy.path()).unwrap() == fs::read(object).unwrap(), "{copy:?}");
    }
    close(store);
    place.compare_closed();
}

#[test]
fn large_transaction_is_one_file() {
    // Over 64 MiB, which go up in parts.
    replicate_one_transaction(72, 65536);
}

/// Nightly: `cargo test --features replicate --test it -- --ignored`.
#[test]
#[ignore = "it needs 2 GB of disk and half a minute"]
fn transaction_of_300_mib_is_one_file() {
    replicate_one_transaction(300, 4096);
}

/// Commits so many blobs of a MiB at once. The replica has them in one file, and a follower applies them.
fn replicate_one_transaction(blobs: u32, page_size: u64) {
    let place = Place::new();
    let store = place.options().page_size(page_size).open(place.database()).unwrap();
    fill(&store, 1);
    store.replica().unwrap().flush(PATIENCE).unwrap();
    let follower = super::follower::follow(&place);
    let rows = format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {blobs})
         INSERT INTO entry(noise) SELECT randomblob(1 << 20) FROM n"
    );
    store.write(move |tx| tx.execute(&rows, [])).unwrap();
    store.replica().unwrap().flush(PATIENCE).unwrap();
    super::follower::catch_up(&store, &follower);
    assert_eq!(super::follower::rows(&follower), blobs + 1);
    super::follower::close(&follower);
    close(store);
    let pages = place.transactions().iter().map(|file| file.pages.len()).max().unwrap();
    assert!(pages > (blobs << 20) as usize / page_size as usize, "{pages}");
    assert!(fs::read(place.database()).unwrap() == place.restored());
    let restored = place.database().with_file_name("restored.db");
    let report = Store::restore_from(place.replica().to_str().unwrap())
        .to(&restored)
        .unwrap();
    assert!(report.check.as_ref().unwrap().is_ok(), "{report}");
    assert!(fs::read(place.database()).unwrap() == fs::read(restored).unwrap());
}

/// The log of a database that has lost its name is moved into it, whether it was captured or not.
#[test]
fn log_that_was_saved_into_a_renamed_database_is_followed_by_every_page() {
    let place = Place::new();
    let open = || {
        let replica = place.to().interval(Duration::from_secs(3600));
        let options = Options::new().access(Access::Exclusive);
        options.replicate_to(replica).open(place.database()).unwrap()
    };
    let store = open();
    fill(&store, 3);
    store.replica().unwrap().flush(PATIENCE).unwrap();
    store.vacuum().run().unwrap();
    let log = place.database().with_extension("db-wal");
    assert_eq!(fs::metadata(&log).unwrap().len(), 0);
    store.replica().unwrap().flush(PATIENCE).unwrap();
    fill(&store, 2);
    let away = place.database().with_extension("away");
    fs::rename(place.database(), &away).unwrap();
    wait_until("the log is saved", || {
        store.poisoned().is_some() && fs::metadata(&log).is_ok_and(|log| log.len() == 0)
    });
    let _ = store.close_within(PATIENCE);
    fs::rename(&away, place.database()).unwrap();
    let store = open();
    assert_eq!(rows(&store), 5);
    store.replica().unwrap().flush(PATIENCE).unwrap();
    close(store);
    place.compare_closed();
}
