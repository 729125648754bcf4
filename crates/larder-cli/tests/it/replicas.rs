//! `replicate`.

use std::fs;
use std::time::Duration;

use larder::{Follower, Options, Store};

use crate::support::Place;

/// A store whose replica is in the folder `replica`, with a row of each of two uploads.
fn replicated(place: &Place) -> Store {
    let url = place.path("replica");
    let store = Options::new()
        .replicate_to(url.to_str().unwrap())
        .open(place.path("app.db"))
        .unwrap();
    let create = "CREATE TABLE IF NOT EXISTS t(n INTEGER PRIMARY KEY) STRICT";
    store.write(move |tx| tx.execute_batch(create)).unwrap();
    for n in 1..=2 {
        store
            .write(move |tx| tx.execute("INSERT INTO t VALUES (?1)", [n]))
            .unwrap();
        flush(&store);
    }
    store
}

fn flush(store: &Store) {
    store.replica().unwrap().flush(Duration::from_secs(60)).unwrap();
}

#[test]
fn states_are_listed_restored_and_verified() {
    let place = Place::new();
    let store = replicated(&place);
    let status = place.json("replicate status replica --max-age 1h", 0);
    assert_eq!(status["ok"], true);
    let newest = status["newest"]["txid"].as_u64().unwrap();
    assert!(status["states"].as_u64().unwrap() >= 2, "{status}");
    assert!(
        status["newest"]["timestamp"].as_str().unwrap().ends_with('Z'),
        "{status}"
    );
    let run = place.say("replicate status replica --max-age 1ms").assert_code(1);
    assert!(run.out.contains("problem: the newest state is older"), "{run:?}");
    let points = place.json("replicate points replica", 0);
    let spans = points["spans"].as_array().unwrap();
    assert_eq!(spans.last().unwrap()["last"]["txid"].as_u64(), Some(newest));

    let restored = place.json("replicate restore replica new.db", 0);
    assert_eq!(restored["txid"].as_u64(), Some(newest));
    assert_eq!(place.count("new.db", "SELECT count(*) FROM t"), 2);
    place
        .say(&format!("replicate restore replica older.db --txid {}", newest - 1))
        .assert_code(0);
    assert_eq!(place.count("older.db", "SELECT count(*) FROM t"), 1);
    place
        .say("replicate restore replica never.db --ago 1h")
        .assert_fails(3, &[]);
    place
        .say("replicate restore replica never.db --at 2001-01-01T00:00:00Z")
        .assert_fails(3, &[]);
    place
        .say("replicate restore replica never.db --at yesterday")
        .assert_code(2);
    place
        .say("replicate restore replica never.db --ago 1h --txid 1")
        .assert_code(2);
    place.say("replicate restore replica never.db --txid 0").assert_code(2);
    assert!(!place.path("never.db").exists());
    place
        .say("replicate restore replica new.db")
        .assert_fails(3, &["new.db"]);

    let verified = place.json("replicate verify replica", 0);
    assert_eq!(
        (&verified["ok"], &verified["restored"]["rows"]),
        (&true.into(), &2.into())
    );
    assert!(place.json("replicate verify replica --files-only", 0)["restored"].is_null());
    store.close().unwrap();
}

#[test]
fn damaged_replica_is_a_problem() {
    let place = Place::new();
    replicated(&place).close().unwrap();
    let mut folders = vec![place.path("replica")];
    let mut damaged = 0;
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "ltx") {
                let mut bytes = fs::read(&path).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0xff;
                fs::write(&path, bytes).unwrap();
                damaged += 1;
            }
        }
    }
    assert!(damaged > 0);
    let run = place.say("replicate verify replica").assert_code(1);
    assert!(run.out.contains("problem: "), "{run:?}");
    assert_eq!(place.json("replicate verify replica", 1)["ok"], false);
    place
        .say("replicate restore replica new.db")
        .assert_fails(3, &["new.db"]);
    assert!(!place.path("new.db").exists());
}

#[test]
fn missing_replica_is_named_and_not_created() {
    let place = Place::new();
    for verb in ["status nowhere", "points nowhere", "restore nowhere new.db"] {
        place.say(&format!("replicate {verb}")).assert_fails(3, &["nowhere"]);
    }
    place.say("replicate verify nowhere").assert_code(1);
    place.say("replicate status ftp://host/app").assert_fails(3, &["ftp"]);
    assert!(place.names().is_empty(), "{:?}", place.names());
}

/// A checkpoint by the command would have the whole database uploaded once more.
#[test]
fn commands_that_write_leave_checkpoints_to_the_service() {
    let place = Place::new();
    let store = replicated(&place);
    let lines: String = (100..5100).map(|n| format!("{n}\n")).collect();
    place.write("t.csv", format!("n\n{lines}"));
    place.say("import app.db t.csv").assert_code(0);
    // The service has the rows, and hands them on.
    store.write(|tx| tx.execute("INSERT INTO t VALUES (99)", [])).unwrap();
    flush(&store);
    let stats = store.stats().replica.unwrap();
    assert_eq!((stats.rebases, stats.problem), (0, None));
    place.say("replicate restore replica new.db").assert_code(0);
    assert_eq!(place.count("new.db", "SELECT count(*) FROM t"), 5003);
    store.close().unwrap();
}

#[test]
fn copy_of_a_follower_is_not_written() {
    let place = Place::new();
    let store = replicated(&place);
    let url = place.path("replica");
    let follower = Follower::open(url.to_str().unwrap(), place.path("copy.db")).unwrap();
    place.write("t.csv", "n\n7\n");
    place.write("migrations/1_more.sql", "CREATE TABLE more(n INTEGER) STRICT;");
    std::os::unix::fs::symlink("copy.db", place.path("link.db")).unwrap();
    let refuse = || {
        for verb in [
            "import copy.db t.csv",
            "import link.db t.csv",
            "vacuum copy.db",
            "migrate up copy.db",
            "migrate down copy.db",
        ] {
            let parts = ["is the copy of a follower", "the primary's database", "promote"];
            place.say(verb).assert_fails(3, &parts);
        }
        assert_eq!(place.count("copy.db", "SELECT count(*) FROM t"), 2);
        place.say("check copy.db").assert_code(0);
    };
    refuse();
    follower.close().unwrap();
    refuse();
    store.close().unwrap();
}
