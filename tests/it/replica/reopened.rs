//! A follower opens again by itself after its machine has failed, whatever is left beside its database; and it finds
//! transactions that were merged before it looked for them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use larder::replica::ltx::{Decoder, Header, merge};
use larder::rusqlite::Connection;
use larder::rusqlite::config::DbConfig;
use larder::{Error, FollowerOptions, Store};

use super::follower::{close, copy, follow, of, options, resyncs, rows, upload};
use super::litestream::put;
use super::store::{Place, copy_folder};
use crate::support::log;

fn beside(place: &Place, ending: &str) -> PathBuf {
    let mut name = copy(place).into_os_string();
    name.push(ending);
    name.into()
}

/// The contents of the file of each transaction that is there by itself.
fn transactions(replica: &Path, first: u64, last: u64) -> Vec<Vec<u8>> {
    let read = |txid| fs::read(transaction(replica, txid)).unwrap();
    (first..=last).map(read).collect()
}

fn transaction(replica: &Path, txid: u64) -> PathBuf {
    replica.join(format!("ltx/0/{txid:016x}-{txid:016x}.ltx"))
}

fn merged(files: &[Vec<u8>]) -> (Header, Vec<u8>) {
    let inputs = files.iter().map(|file| Decoder::new(file.as_slice()).unwrap());
    let (bytes, _) = merge(inputs.collect(), Vec::new()).unwrap();
    (*Decoder::new(bytes.as_slice()).unwrap().header(), bytes)
}

/// The replica as retention leaves it: a snapshot, and the newest transaction.
fn keep_snapshot_alone(place: &Place, store: &Store) {
    let last = upload(store, 1);
    let (header, bytes) = merged(&transactions(&place.replica(), 1, last));
    put(&place.replica(), 9, &header, &bytes);
    for txid in 1..last {
        fs::remove_file(transaction(&place.replica(), txid)).unwrap();
    }
}

#[test]
fn files_without_database_are_no_obstacle() {
    for left in [&["-shm"][..], &["-wal"], &["-journal"], &["-wal", "-shm", "-journal"]] {
        let place = Place::new();
        let store = place.open();
        upload(&store, 10);
        close(&follow(&place));
        fs::remove_file(copy(&place)).unwrap();
        for ending in left {
            fs::write(beside(&place, ending), [7; 5000]).unwrap();
        }
        upload(&store, 1);
        let follower = follow(&place);
        assert_eq!((rows(&follower), resyncs(&follower)), (11, 0), "{left:?}");
        close(&follower);
        for ending in left {
            let kept = fs::read(beside(&place, &format!(".before-following{ending}"))).ok();
            let expected = (*ending != "-shm").then(|| vec![7; 5000]);
            assert!(kept == expected, "{left:?}: {ending}");
        }
        super::store::close(store);
    }
}

/// Where its restore had given the database its name, and the power went before that was noted. What was restored is restored
/// again, and no copy of it is kept.
#[test]
fn half_restored_database_is_restored_again() {
    let place = Place::new();
    let store = place.open();
    upload(&store, 10);
    for round in 0..3 {
        let follower = follow(&place);
        assert_eq!(rows(&follower), 10 + round);
        close(&follower);
        forget_restore(&place);
        fs::write(beside(&place, "-shm"), [7; 500]).unwrap();
        // Another program has looked at it.
        fs::write(beside(&place, "-wal"), "").unwrap();
        upload(&store, 1);
    }
    close(&follow(&place));
    assert!(!beside(&place, ".before-following").exists());
    // In another file, as a copied volume has it.
    forget_restore(&place);
    let other = beside(&place, ".copy");
    fs::copy(copy(&place), &other).unwrap();
    fs::rename(&other, copy(&place)).unwrap();
    let follower = follow(&place);
    assert_eq!(rows(&follower), 13);
    close(&follower);
    assert!(!beside(&place, ".before-following").exists());
    super::store::close(store);
}

/// What was restored may be the last copy, so it stays until the replica has shown its files.
#[test]
fn half_restored_database_stays_while_its_replica_is_away() {
    let place = Place::new();
    let store = place.open();
    upload(&store, 10);
    close(&follow(&place));
    super::store::close(store);
    forget_restore(&place);
    let restored = fs::read(copy(&place)).unwrap();
    let fails = |said: &str| {
        let error = options().follow(of(&place), copy(&place)).unwrap_err();
        assert!(matches!(error, Error::Replica { .. }), "{error}");
        assert!(error.to_string().contains(said), "{error}");
        assert!(fs::read(copy(&place)).unwrap() == restored, "{error}");
        assert!(!beside(&place, ".before-following").exists());
    };
    let outage = place.outage();
    fails("");
    outage.end();
    // As at a URL that is mistyped.
    let aside = place.replica().with_extension("away");
    fs::rename(place.replica(), &aside).unwrap();
    fails("it has no files");
    fs::create_dir_all(place.replica()).unwrap();
    fails("it has no files");
    fs::remove_dir_all(place.replica()).unwrap();
    fs::rename(&aside, place.replica()).unwrap();
    let follower = follow(&place);
    assert_eq!(rows(&follower), 10);
    close(&follower);
}

/// The replica lists its files, and they are damaged: that shows only as they are read. Until a restored database is checked,
/// the old one keeps its name and its rows, whatever it is.
#[test]
fn local_copy_outlives_a_replica_that_cannot_be_restored() {
    for is_changed in [false, true] {
        let place = Place::new();
        let store = place.open();
        upload(&store, 10);
        let follower = follow(&place);
        if is_changed {
            upload(&store, 1);
            super::follower::catch_up(&store, &follower);
        }
        close(&follower);
        if is_changed {
            // So that it cannot be shown to be as it was left.
            let other = beside(&place, ".copy");
            fs::copy(copy(&place), &other).unwrap();
            fs::rename(&other, copy(&place)).unwrap();
            upload(&store, 1);
            keep_snapshot_alone(&place, &store);
        } else {
            forget_restore(&place);
        }
        super::store::close(store);
        let (local, mark) = (
            fs::read(copy(&place)).unwrap(),
            beside(&place, "-replica").join("follows"),
        );
        let marked = fs::read(&mark).unwrap();
        let sound = place.replica().with_extension("sound");
        copy_folder(&place.replica(), &sound);
        damage(&place.replica().join("ltx"));
        for _ in 0..2 {
            let error = options().follow(of(&place), copy(&place)).unwrap_err();
            assert!(error.to_string().contains("checksum"), "{error}");
            assert!(fs::read(copy(&place)).unwrap() == local, "{error}");
            assert!(fs::read(&mark).unwrap() == marked, "{error}");
            assert!(!beside(&place, ".before-following").exists());
        }
        fs::remove_dir_all(place.replica()).unwrap();
        fs::rename(&sound, place.replica()).unwrap();
        let follower = follow(&place);
        assert_eq!(rows(&follower), if is_changed { 13 } else { 10 });
        close(&follower);
        assert_eq!(beside(&place, ".before-following").exists(), is_changed);
    }
}

/// Flips a bit of a page in each file.
fn damage(levels: &Path) {
    for level in fs::read_dir(levels).unwrap() {
        for file in fs::read_dir(level.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let mut bytes = fs::read(&path).unwrap();
            bytes[120] ^= 1;
            fs::write(&path, bytes).unwrap();
        }
    }
}

/// A killed process leaves the old database under the name, or the new one: the mark is of both.
#[test]
fn mark_knows_the_database_before_and_after_its_replacement() {
    let place = Place::new();
    let store = place.open();
    upload(&store, 10);
    close(&follow(&place));
    let before = fs::read(copy(&place)).unwrap();
    forget_restore(&place);
    upload(&store, 1);
    close(&follow(&place));
    let after = fs::read(copy(&place)).unwrap();
    assert!(before != after);
    for (n, left) in [before, after].into_iter().enumerate() {
        fs::write(copy(&place), left).unwrap();
        forget_restore(&place);
        let follower = follow(&place);
        assert_eq!(rows(&follower), 11, "{n}");
        close(&follower);
        assert!(!beside(&place, ".before-following").exists());
    }
    super::store::close(store);
}

/// As if the process had been killed between the restore and its note.
fn forget_restore(place: &Place) {
    fs::remove_file(beside(place, "-replica").join("position")).unwrap();
}

/// A follower had restored its database and was killed before it noted that, and a plain store has written to it since.
#[test]
fn half_restored_database_with_other_rows_is_left_alone() {
    for is_in_the_log in [false, true] {
        let place = Place::new();
        let primary = place.open();
        upload(&primary, 10);
        close(&follow(&place));
        forget_restore(&place);
        let plain = Connection::open(copy(&place)).unwrap();
        plain
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, is_in_the_log)
            .unwrap();
        plain.execute("INSERT INTO entry(n) VALUES (1000)", []).unwrap();
        drop(plain);
        let error = options().follow(of(&place), copy(&place)).unwrap_err();
        assert!(matches!(error, Error::Diverged { .. }), "{error}");
        assert!(
            error.to_string().contains("it is not as a follower has left it"),
            "{error}"
        );
        let plain = Connection::open(copy(&place)).unwrap();
        let acknowledged = "SELECT count(*) FROM entry WHERE n = 1000";
        let count: u32 = plain.query_row(acknowledged, [], |row| row.get(0)).unwrap();
        assert_eq!(count, 1);
        super::store::close(primary);
    }
}

/// What may have another program's rows is never deleted, so only so much of it is kept.
#[test]
fn fourth_copy_is_refused() {
    let place = Place::new();
    let store = place.open();
    upload(&store, 10);
    close(&follow(&place));
    let leave_a_log = || {
        fs::remove_file(copy(&place)).unwrap();
        fs::write(beside(&place, "-wal"), [7; 5000]).unwrap();
    };
    let names = [".before-following", ".before-following-2", ".before-following-3"];
    for name in names {
        leave_a_log();
        close(&follow(&place));
        assert!(beside(&place, &format!("{name}-wal")).exists(), "{name}");
    }
    leave_a_log();
    let error = options().follow(of(&place), copy(&place)).unwrap_err();
    assert!(matches!(error, Error::Open { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("move away or delete all files whose names begin with one of these names"),
        "{error}"
    );
    assert_eq!(fs::read(beside(&place, "-wal")).unwrap(), [7; 5000]);
    // The way out that the error names.
    fs::remove_file(beside(&place, ".before-following-2-wal")).unwrap();
    let follower = follow(&place);
    assert_eq!(rows(&follower), 10);
    close(&follower);
    assert!(names.iter().all(|name| beside(&place, &format!("{name}-wal")).exists()));
    super::store::close(store);
}

/// A database that cannot be shown to be as it was left, and a replica that has the transactions since in a snapshot alone:
/// what the two differ in may be another program's. So the database is kept, and the replica restored. One that is as it
/// was restored has nothing to be kept.
#[test]
fn doubtful_database_is_kept_and_restored() {
    for (has_applied, is_changed) in [(false, false), (true, false), (true, true)] {
        let place = Place::new();
        let store = place.open();
        upload(&store, 99);
        let follower = follow(&place);
        if has_applied {
            upload(&store, 1);
            super::follower::catch_up(&store, &follower);
        }
        close(&follower);
        if !has_applied {
            upload(&store, 1);
        }
        if is_changed {
            let conn = Connection::open(copy(&place)).unwrap();
            conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
                .unwrap();
            conn.execute("UPDATE entry SET noise = x'00' WHERE n = 5", []).unwrap();
        } else {
            // As a copied volume has it: the same contents in another file.
            let other = beside(&place, ".copy");
            fs::copy(copy(&place), &other).unwrap();
            fs::rename(&other, copy(&place)).unwrap();
        }
        upload(&store, 10);
        keep_snapshot_alone(&place, &store);
        let reader = Connection::open(copy(&place)).unwrap();
        let begun = "BEGIN; SELECT count(*) FROM entry";
        reader.execute_batch(begun).unwrap();
        let error = options().follow(of(&place), copy(&place)).unwrap_err();
        assert!(matches!(error, Error::Open { .. }), "{error}");
        assert!(error.to_string().contains("a program may have it open"), "{error}");
        reader
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
            .unwrap();
        drop(reader);
        let follower = follow(&place);
        assert_eq!((rows(&follower), resyncs(&follower)), (111, 0));
        upload(&store, 1);
        super::follower::catch_up(&store, &follower);
        assert_eq!(rows(&follower), 112);
        close(&follower);
        assert_eq!(beside(&place, ".before-following").exists(), has_applied);
        if !has_applied {
            super::store::close(store);
            continue;
        }
        let kept = Connection::open(beside(&place, ".before-following")).unwrap();
        let changed: u32 = kept
            .query_row("SELECT count(*) FROM entry WHERE noise = x'00'", [], |row| row.get(0))
            .unwrap();
        assert_eq!(changed, u32::from(is_changed));
        super::store::close(store);
    }
}

/// The next transaction is not there by itself: it was merged and deleted while the follower did not look.
#[test]
fn merged_transaction_is_found_by_who_waits() {
    let place = Place::new();
    let store = place.open();
    upload(&store, 10);
    let mirror = place.replica().with_file_name("mirror");
    copy_folder(&place.replica(), &mirror);
    let replica = FollowerOptions::of(mirror.to_str().unwrap()).interval(Duration::from_millis(10));
    let follower = options().follow(replica, copy(&place)).unwrap();
    let first = follower.lag().txid + 1;
    let last = (0..3).fold(0, |_, _| upload(&store, 5));
    let (header, bytes) = merged(&transactions(&place.replica(), first, last));
    put(&mirror, 1, &header, &bytes);
    fs::copy(transaction(&place.replica(), last), transaction(&mirror, last)).unwrap();
    // Without anybody who waits the levels are listed after half a minute.
    let token = store.replica().unwrap().token();
    follower.wait_for(token, Duration::from_secs(20)).unwrap();
    assert_eq!(rows(&follower), 25);
    close(&follower);
    super::store::close(store);
}

/// Each on a page of its own: the transaction that has it is applied at the first try.
#[test]
fn new_tables_are_followed_at_once() {
    let place = Place::new();
    let store = place.open();
    upload(&store, 10);
    let follower = follow(&place);
    for n in 0..6 {
        let sql = match n % 3 {
            2 => format!("DROP TABLE t{}", n - 1),
            _ => format!("CREATE TABLE t{n}(a); CREATE INDEX i{n} ON t{n}(a)"),
        };
        store.write(move |tx| tx.execute_batch(&sql)).unwrap();
        super::follower::catch_up(&store, &follower);
        let tables = "SELECT count(*) FROM sqlite_schema WHERE name GLOB 't[0-9]'";
        let count = |tx: &larder::ReadTx<'_>| tx.query_row(tables, [], |row| row.get::<_, u32>(0));
        assert_eq!(follower.read(count).unwrap(), store.read(count).unwrap());
    }
    let path = copy(&place).display().to_string();
    let failed = log::events(|event| event.message.contains("could not go on") && event.mentions(&path));
    assert!(failed.is_empty(), "{failed:?}");
    close(&follower);
    super::store::close(store);
}

/// SQLite writes its version into page 1. Here the follower's file was written by another one than that of this test, and
/// cannot be shown to be as it was left.
#[test]
fn other_version_of_sqlite_is_no_change() {
    let place = Place::new();
    let store = place.open();
    upload(&store, 100);
    close(&follow(&place));
    let mut bytes = fs::read(copy(&place)).unwrap();
    bytes[96..100].copy_from_slice(&3_040_001_u32.to_be_bytes());
    fs::write(beside(&place, ".copy"), bytes).unwrap();
    fs::rename(beside(&place, ".copy"), copy(&place)).unwrap();
    let follower = follow(&place);
    assert_eq!((rows(&follower), resyncs(&follower)), (100, 1));
    upload(&store, 10);
    super::follower::catch_up(&store, &follower);
    assert_eq!(rows(&follower), 110);
    close(&follower);
    super::store::close(store);
}

/// The URL of another database is given by mistake, and the follower's file does not exist.
#[test]
fn another_replica_is_not_restored() {
    let (place, other) = (Place::new(), Place::new());
    let (store, others) = (place.open(), other.open());
    upload(&store, 10);
    upload(&others, 3);
    close(&follow(&place));
    fs::remove_file(copy(&place)).unwrap();
    let position = beside(&place, "-replica").join("position");
    let before = fs::read(&position).unwrap();
    let error = options().follow(of(&other), copy(&place)).unwrap_err();
    assert!(matches!(error, Error::Diverged { .. }), "{error}");
    assert!(
        error.to_string().contains("another database was replicated there"),
        "{error}"
    );
    assert!(!copy(&place).exists(), "nothing is restored");
    assert!(fs::read(&position).unwrap() == before);
    // Its own is.
    let follower = follow(&place);
    assert_eq!(rows(&follower), 10);
    close(&follower);
    super::store::close(store);
    super::store::close(others);
}

/// A process is killed between two renames, and the next one goes on: the log stays beside its database.
#[test]
fn killed_process_leaves_a_database_its_log() {
    let place = Place::new();
    let store = place.open();
    upload(&store, 10);
    for ending in [".before-following", ".before-following-2"] {
        close(&follow(&place));
        let name = format!("follower.db{ending}");
        fs::write(beside(&place, "-replica").join("aside"), &name).unwrap();
        fs::write(beside(&place, "-wal"), "the log").unwrap();
        fs::rename(copy(&place), beside(&place, ending)).unwrap();
        upload(&store, 1);
        let follower = follow(&place);
        assert_eq!(resyncs(&follower), 0);
        close(&follower);
        assert_eq!(fs::read(beside(&place, &format!("{ending}-wal"))).unwrap(), b"the log");
        // It is a follower's still.
        assert!(!beside(&place, &format!("{ending}-replica")).exists());
        assert!(beside(&place, "-replica/position").exists());
        assert!(!beside(&place, "-replica/aside").exists());
    }
    super::store::close(store);
}

/// The name is on the disk before the first rename. Here the second one fails: the name would be too long.
#[test]
fn new_name_is_kept_before_the_first_rename() {
    let place = Place::new();
    let store = place.open();
    upload(&store, 10);
    let path = copy(&place).with_file_name("f".repeat(255 - ".before-following-wal".len()));
    let beside = |ending: &str| {
        let mut name = path.clone().into_os_string();
        name.push(ending);
        PathBuf::from(name)
    };
    fs::create_dir(beside("-replica")).unwrap();
    fs::write(beside("-replica").join("follows"), "").unwrap();
    fs::write(beside("-wal"), "the log").unwrap();
    fs::write(beside("-journal"), "the journal").unwrap();
    let error = options().follow(of(&place), &path).unwrap_err();
    assert!(matches!(error, Error::Open { .. }), "{error}");
    assert_eq!(fs::read(beside(".before-following-wal")).unwrap(), b"the log");
    assert_eq!(fs::read(beside("-journal")).unwrap(), b"the journal");
    let kept = fs::read(beside("-replica").join("aside")).unwrap();
    assert!(kept == beside(".before-following").file_name().unwrap().as_encoded_bytes());
    super::store::close(store);
}
