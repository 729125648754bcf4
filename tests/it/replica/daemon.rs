//! The real daemon of Litestream takes over a replica of larder's, and a store takes over from the daemon.

use std::fs;
use std::path::Path;

use larder::rusqlite::Connection;
use larder::rusqlite::config::DbConfig;
use larder::{Checkpoints, Error, OnDivergence, Options, Store};

use super::litestream::{Litestream, end, files, wait};
use super::store::{Place, close, fill, rows};
use crate::support::child::PATIENCE;
use crate::support::log;

/// Writes by SQLite beside the daemon, until the daemon has copied each.
fn write_beside(litestream: &Litestream, place: &Place, keeps_log: bool) {
    let replica = place.replica();
    let mut daemon = litestream.replicate(&place.database(), &replica);
    let sqlite = Connection::open(place.database()).unwrap();
    sqlite.busy_timeout(PATIENCE).unwrap();
    sqlite
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, keeps_log)
        .unwrap();
    for _ in 0..5 {
        let before = files(&replica, 0).len();
        sqlite
            .execute("INSERT INTO entry(noise) VALUES (randomblob(3000))", [])
            .unwrap();
        wait(|| files(&replica, 0).len() > before);
    }
    end(&mut daemon);
    if !keeps_log {
        sqlite
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .unwrap();
    }
    drop(sqlite);
}

fn newest(replica: &Path) -> u64 {
    let all = fs::read_dir(replica.join("ltx/0")).unwrap().filter_map(|file| {
        let name = file.unwrap().file_name().into_string().unwrap();
        u64::from_str_radix(name.get(17..33)?, 16).ok()
    });
    all.max().unwrap()
}

/// What it restores at the tip is the closed database, and at that transaction that one.
fn compare(litestream: &Litestream, place: &Place, older: (u64, &[u8])) {
    // Older ones cannot read what a store writes.
    if litestream.knows_blocks() {
        let version = &litestream.version;
        assert!(
            litestream.restore(&place.replica(), None) == fs::read(place.database()).unwrap(),
            "{version}"
        );
        assert!(
            litestream.restore(&place.replica(), Some(older.0)) == older.1,
            "{version}"
        );
    }
    let to = place.database().with_file_name("restored.db");
    let report = Store::restore_from(place.replica().to_str().unwrap()).to(&to).unwrap();
    assert!(
        fs::read(&to).unwrap() == fs::read(place.database()).unwrap(),
        "{report}"
    );
    fs::remove_file(&to).unwrap();
    fs::remove_dir_all(to.with_file_name("restored.db-replica")).unwrap();
}

/// A replica of a closed store, with 20 rows.
fn replicated() -> (Place, u64, Vec<u8>) {
    let place = Place::new();
    let store = place.open();
    fill(&store, 20);
    close(store);
    let (txid, state) = (newest(&place.replica()), fs::read(place.database()).unwrap());
    (place, txid, state)
}

#[test]
fn store_goes_on_behind_the_daemon() {
    for litestream in Litestream::all().iter().filter(|litestream| litestream.knows_blocks()) {
        let version = &litestream.version;
        let (place, txid, state) = replicated();
        write_beside(litestream, &place, true);
        let theirs = newest(&place.replica());
        assert!(theirs > txid, "{version}");
        let store = place.open();
        assert_eq!(rows(&store), 25, "{version}");
        fill(&store, 5);
        assert_eq!(
            store.replica().unwrap().flush(PATIENCE).unwrap(),
            theirs + 1,
            "{version}"
        );
        close(store);
        assert_eq!(place.rebases(), [""; 0], "{version}");
        let path = place.database().display().to_string();
        let told = log::events(|event| event.message.contains("goes on behind them") && event.mentions(&path));
        assert_eq!(told.len(), 1, "{version}");
        compare(litestream, &place, (txid, &state));
        // And back once more.
        write_beside(litestream, &place, true);
        let store = place.open();
        assert_eq!(rows(&store), 35, "{version}");
        close(store);
        assert_eq!(place.rebases(), [""; 0], "{version}");
        compare(litestream, &place, (txid, &state));
    }
}

/// The log of the daemon's newest file is gone, so nothing shows that the database is where the replica ends.
#[test]
fn emptied_log_behind_the_daemon_is_refused() {
    for litestream in Litestream::all().iter().filter(|litestream| litestream.knows_blocks()) {
        let version = &litestream.version;
        let (place, txid, state) = replicated();
        write_beside(litestream, &place, false);
        let theirs = newest(&place.replica());
        let error = place.options().open(place.database()).unwrap_err();
        assert!(matches!(error, Error::Diverged { .. }), "{version}: {error}");
        assert_eq!(newest(&place.replica()), theirs, "{version}: nothing was written");
        let replica = place.to().on_divergence(OnDivergence::Rebase);
        let store = Options::new().replicate_to(replica).open(place.database()).unwrap();
        assert_eq!(rows(&store), 25, "{version}");
        fill(&store, 5);
        close(store);
        assert_eq!(
            place.rebases(),
            ["the replica was newer than the database"],
            "{version}"
        );
        compare(litestream, &place, (txid, &state));
    }
}

/// A replica that the daemon has begun, beside a store that left its checkpoints to it.
#[test]
fn replica_of_the_daemon_is_taken_over() {
    for litestream in &Litestream::all() {
        let version = &litestream.version;
        let place = Place::new();
        let left = || {
            Options::new()
                .checkpoints(Checkpoints::Left)
                .open(place.database())
                .unwrap()
        };
        let store = left();
        fill(&store, 20);
        let mut daemon = litestream.replicate(&place.database(), &place.replica());
        wait(|| !files(&place.replica(), 0).is_empty());
        let before = files(&place.replica(), 0).len();
        fill(&store, 4);
        wait(|| files(&place.replica(), 0).len() > before);
        store.close().unwrap();
        end(&mut daemon);
        let theirs = newest(&place.replica());
        let state = litestream.restore(&place.replica(), Some(theirs));
        let store = place.open();
        assert_eq!(rows(&store), 24, "{version}");
        fill(&store, 1);
        assert_eq!(
            store.replica().unwrap().flush(PATIENCE).unwrap(),
            theirs + 1,
            "{version}"
        );
        close(store);
        assert_eq!(place.rebases(), [""; 0], "{version}");
        compare(litestream, &place, (theirs, &state));
    }
}

/// The database has gone on in the log, in another way than the replica.
#[test]
fn other_frames_at_the_place_are_refused() {
    for litestream in Litestream::all().iter().filter(|litestream| litestream.knows_blocks()) {
        let (place, ..) = replicated();
        let copy = tempfile::tempdir().unwrap();
        let sqlite = Connection::open(place.database()).unwrap();
        sqlite
            .execute("INSERT INTO entry(noise) VALUES (randomblob(3000))", [])
            .unwrap();
        super::store::copy_folder(place.database().parent().unwrap(), copy.path());
        sqlite
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
            .unwrap();
        drop(sqlite);
        write_beside(litestream, &place, true);
        // The same log, up to its first transaction.
        let other = Connection::open(copy.path().join("app.db")).unwrap();
        other
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
            .unwrap();
        for _ in 0..20 {
            other
                .execute("INSERT INTO entry(noise) VALUES (randomblob(3000))", [])
                .unwrap();
        }
        drop(other);
        let opened = Options::new().replicate_to(place.to()).open(copy.path().join("app.db"));
        let error = opened.unwrap_err();
        assert!(
            matches!(error, Error::Diverged { .. }),
            "{}: {error}",
            litestream.version
        );
    }
}

/// Its owner has closed, and the daemon has written since: it may still run, and no fence would stop it. The owner's own
/// database shows that the daemon was where it is, and every other has to be told.
#[test]
fn replica_that_the_daemon_wrote_last_is_taken_over_when_told() {
    for litestream in Litestream::all().iter().filter(|litestream| litestream.knows_blocks()) {
        let (place, ..) = replicated();
        write_beside(litestream, &place, true);
        let all = rows(&Store::open(place.database()).unwrap());
        let path = |name: &str| place.database().with_file_name(name);
        for name in ["restored.db", "rebased.db"] {
            let store = Store::open(path(name)).unwrap();
            fill(&store, 2);
            store.close().unwrap();
        }
        let owner = || fs::read(place.replica().join("larder/owner.json")).unwrap();
        let (before, files_before) = (owner(), files(&place.replica(), 0));
        let ways = [
            ("missing.db", place.to().restore_if_missing(true)),
            ("restored.db", place.to().on_divergence(OnDivergence::Restore)),
            ("rebased.db", place.to().on_divergence(OnDivergence::Rebase)),
        ];
        let is_told = |error: &Error| {
            let text = error.to_string();
            assert!(matches!(error, Error::Replica { .. }), "{text}");
            for part in ["by a program that is not larder, after its owner", "take_over(true)"] {
                assert!(text.contains(part), "{part}: {text}");
            }
        };
        // Copies of the newest state, by a restore and by a follower.
        Store::restore_from(place.replica().to_str().unwrap())
            .to(path("copy.db"))
            .unwrap();
        super::follower::close(
            &super::follower::options()
                .follow(super::follower::of(&place), path("was.db"))
                .unwrap(),
        );
        for name in ["copy.db", "was.db", "was.db"] {
            is_told(&Options::new().replicate_to(place.to()).open(path(name)).unwrap_err());
        }
        for (name, to) in &ways {
            is_told(&Options::new().replicate_to(to.clone()).open(path(name)).unwrap_err());
        }
        let follower = super::follower::follow(&place);
        let clone = follower.clone();
        is_told(&follower.promote(Options::new().replicate_to(place.to())).unwrap_err());
        assert!(!path("missing.db").exists());
        // It is a follower's as before.
        drop(
            super::follower::options()
                .follow(super::follower::of(&place), path("was.db"))
                .unwrap(),
        );
        assert_eq!(
            (owner(), files(&place.replica(), 0)),
            (before, files_before),
            "nothing was written"
        );

        let promoted = clone
            .promote(Options::new().replicate_to(place.to().take_over(true)))
            .unwrap();
        assert_eq!(rows(&promoted), all);
        fill(&promoted, 1);
        close(promoted);
        // A store of larder's is the last one again.
        let (name, to) = &ways[0];
        let store = Options::new().replicate_to(to.clone()).open(path(name)).unwrap();
        assert_eq!(rows(&store), all + 1);
        close(store);
    }
}
