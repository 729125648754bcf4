//! Beside a service that writes: the store of this process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;

use larder::{Options, Store};

use crate::support::{PATIENCE, Place};

/// Raises the flag when it is dropped, so that a failed assertion ends the service, too.
struct RaiseOnDrop<'a>(&'a AtomicBool);

impl Drop for RaiseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A service that keeps two tables equal, as fast as it can. It waits long for the lock of a command on a slow disk.
fn while_service_writes(place: &Place, run: impl FnOnce(&Store)) -> i64 {
    let options = Options::new().busy_timeout(PATIENCE).queue_timeout(PATIENCE);
    let store = options.open(place.path("app.db")).unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE one(n INTEGER) STRICT; CREATE TABLE two(n INTEGER) STRICT"))
        .unwrap();
    let stop = AtomicBool::new(false);
    let (begins, has_begun) = channel();
    let written = thread::scope(|scope| {
        let (stop, store) = (&stop, &store);
        let stops = RaiseOnDrop(stop);
        let service = scope.spawn(move || {
            let mut written = 0;
            while !stop.load(Ordering::Relaxed) {
                let write = move |tx: &larder::WriteTx<'_>| {
                    tx.execute("INSERT INTO one VALUES (?1)", [written])?;
                    tx.execute("INSERT INTO two VALUES (?1)", [written])
                };
                store.write(write).unwrap();
                written += 1;
                if written == 1 {
                    begins.send(()).unwrap();
                }
            }
            written
        });
        has_begun.recv_timeout(PATIENCE).unwrap();
        run(store);
        drop(stops);
        service.join().unwrap()
    });
    assert!(store.poisoned().is_none());
    assert_eq!(
        store
            .read(|tx| tx.scalar::<i64>("SELECT count(*) FROM two", []))
            .unwrap(),
        written
    );
    store.close().unwrap();
    written
}

#[test]
fn verbs_that_read_disturb_no_service() {
    let place = Place::with_database();
    let written = while_service_writes(&place, |_| {
        place.say("check app.db --full").assert_code(0);
        place.say("stats app.db --rows").assert_code(0);
        place.json("advice app.db", 0);
        for n in 0..3 {
            let select = "SELECT (SELECT count(*) FROM one) - (SELECT count(*) FROM two)";
            let rows = place.run(&["sql", "app.db", select, "--json"]).assert_code(0).json();
            assert_eq!(rows["rows"][0][0], 0);
            place.say(&format!("backup app.db copy-{n}.db")).assert_code(0);
            let copy = format!("copy-{n}.db");
            assert_eq!(
                place.count(&copy, "SELECT count(*) FROM one"),
                place.count(&copy, "SELECT count(*) FROM two")
            );
        }
    });
    assert!(written > 0);
}

#[test]
fn verbs_that_write_take_turns_with_a_service() {
    let place = Place::with_database();
    let lines: String = (1000..6000).map(|n| format!("{n},1\n")).collect();
    place.write("item.csv", format!("id,owner\n{lines}"));
    place.write(
        "migrations/1_more.sql",
        "CREATE TABLE more(id INTEGER PRIMARY KEY) STRICT;",
    );
    while_service_writes(&place, |store| {
        let imported = place.json("import app.db item.csv --slices --wait 60s", 0);
        assert_eq!(imported["rows"], 5000);
        assert_eq!(
            store
                .read(|tx| tx.scalar::<i64>("SELECT count(*) FROM item", []))
                .unwrap(),
            5100
        );
        place.say("migrate up app.db --adopt nothing --wait 60s").assert_code(0);
        assert_eq!(
            store
                .read(|tx| tx.scalar::<i64>("SELECT count(*) FROM more", []))
                .unwrap(),
            0
        );
        place.say("vacuum app.db --wait 60s").assert_code(0);
    });
    place.say("check app.db --full").assert_code(0);
    assert_eq!(place.names().iter().filter(|name| name.ends_with(".db")).count(), 1);
}
