//! What the index of the log says, and what is done with logs while their keeper allows no checkpoint.

use std::process::Command;
use std::time::Duration;
use std::{fs, thread};

use larder::rusqlite::Connection;
use larder::{Options, Role, Store};

use super::store::{Place, close, fill, rows, wait_until};
use crate::support::child::PATIENCE;
use crate::support::outage::Outage;

/// The number of commits in the index of the log. Read by a process of its own: to close that file here would drop the
/// locks of the store.
fn commits(place: &Place) -> u32 {
    let output = Command::new("od")
        .args(["-An", "-tu4", "-j8", "-N4"])
        .arg(place.database().with_extension("db-shm"))
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

/// As a process leaves the index that is killed amid a commit.
fn tear_index(place: &Place) {
    let index = place.database().with_extension("db-shm");
    let done = Command::new("dd")
        .args(["if=/dev/zero", "bs=96", "count=1", "conv=notrunc", "status=none"])
        .arg(format!("of={}", index.display()))
        .status()
        .unwrap();
    assert!(done.success());
}

/// SQLite counts commits in the index of the log, from zero again once a process has rebuilt it. As many commits as before
/// looked like none.
#[test]
fn rebuilt_index_hides_no_commit() {
    let tried = (0..10).find_map(|_| rebuild_index());
    tried.expect("no checkpoint came between");
}

/// `None` if there was a checkpoint meanwhile: the log then begins at its start, which is another reason for a new file.
fn rebuild_index() -> Option<()> {
    let place = Place::new();
    let hour = Duration::from_secs(3600);
    let store = Options::new()
        .replicate_to(place.to().interval(hour))
        .open(place.database())
        .unwrap();
    for _ in 0..5 {
        fill(&store, 1);
    }
    store.replica().unwrap().flush(PATIENCE).unwrap();
    let before = commits(&place);
    assert!(before > 0);
    tear_index(&place);
    let other = Connection::open(place.database()).unwrap();
    for _ in 0..before {
        other
            .execute("INSERT INTO entry(noise) VALUES (zeroblob(2000))", [])
            .unwrap();
    }
    assert_eq!(commits(&place), before);
    store.replica().unwrap().flush(PATIENCE).unwrap();
    let copy = place.database().with_file_name("restored.db");
    Store::restore_from(place.replica().to_str().unwrap())
        .to(&copy)
        .unwrap();
    let restored: u32 = Connection::open(copy)
        .unwrap()
        .query_row("SELECT count(*) FROM entry", [], |row| row.get(0))
        .unwrap();
    assert_eq!(restored, 5 + before);
    let reason = format!("the log has {before} transactions since the last file, and 1 were counted");
    let rebases = place.rebases();
    let checkpoints = store.stats().checkpoints;
    drop(other);
    assert_eq!(rows(&store), 5 + before);
    close(store);
    place.compare_closed();
    if checkpoints > 0 && rebases != [reason.as_str()] {
        return None;
    }
    assert_eq!(rebases, [reason]);
    Some(())
}

/// The keeper is that of the store's own log. Where it allowed no checkpoint, the logs of attached databases grew as well.
#[test]
fn attached_log_stays_bounded_without_checkpoints() {
    let place = Place::new();
    let attached = place.database().with_file_name("other.db");
    fs::write(&attached, []).unwrap();
    let path = attached.clone();
    let options = Options::new()
        .replicate_to(place.to())
        .checkpoint_pages(20)
        .on_connect(move |conn, role| {
            if role == Role::Writer {
                conn.execute("ATTACH ?1 AS other", [path.to_str().unwrap()])?;
                conn.pragma_update(Some("other"), "journal_mode", "wal")?;
            }
            Ok(())
        });
    let store = options.open(place.database()).unwrap();
    let create = "CREATE TABLE other.o(id INTEGER PRIMARY KEY, data BLOB) STRICT";
    store.write(|tx| tx.execute_batch(create)).unwrap();
    fill(&store, 10);
    store.replica().unwrap().flush(PATIENCE).unwrap();
    // Nothing can be sealed: a file is where the folder of the spool was.
    let spool = place.database().with_file_name("app.db-replica");
    let outage = Outage::of(&spool);
    for _ in 0..60 {
        store
            .write(|tx| {
                for id in 0..20 {
                    tx.execute("INSERT OR REPLACE INTO other.o VALUES (?1, zeroblob(3800))", [id])?;
                }
                tx.execute("INSERT INTO entry(noise) VALUES (randomblob(900))", [])
            })
            .unwrap();
        // Between two checkpoints there may be a quarter of a second, in which a fast writer adds much.
        thread::sleep(Duration::from_millis(30));
    }
    let log = fs::metadata(attached.with_extension("db-wal")).unwrap().len();
    assert!(log < 20 * 20 * 4120, "{log}");
    outage.end();
    wait_until("the replica catches up", || {
        store.replica().unwrap().flush(PATIENCE).is_ok()
    });
    close(store);
    place.compare_closed();
}
