//! Beside a service that writes: the store of this process.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use larder::{Options, Store};

use crate::stalls::{RaiseOnDrop, unless_stalled};
use crate::support::{PATIENCE, Place};

/// For how long no command may keep a service from writing: the default of [`Options::busy_timeout`].
const HOLD: Duration = Duration::from_secs(5);

/// Runs commands beside a service, in a new place each time, until one of its writes began and ended meanwhile. Each of
/// them took less than [`HOLD`], or the machine was slow: then once more.
fn while_service_writes(options: &Options, run: impl Fn(&Place, &Store)) {
    for _ in 0..20 {
        let beside = unless_stalled(HOLD / 5, || {
            let beside = write_beside(options, &run)?;
            let (longest, fits) = (beside.longest, beside.longest < HOLD);
            fits.then_some(beside.writes)
                .ok_or_else(|| format!("a write of the service took {longest:?}"))
        });
        // The first of two may have begun before.
        if beside >= 2 {
            return;
        }
    }
    panic!("no write of the service fell into the time of the commands");
}

/// The writes of a service that were committed while the commands ran.
struct Beside {
    writes: i64,
    longest: Duration,
}

/// A service keeps two tables equal, as fast as it can.
fn write_beside(options: &Options, run: impl FnOnce(&Place, &Store)) -> Result<Beside, String> {
    let place = Place::with_database();
    let store = options.clone().open(place.path("app.db")).unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE one(n INTEGER) STRICT; CREATE TABLE two(n INTEGER) STRICT"))
        .unwrap();
    let (stop, written) = (AtomicBool::new(false), AtomicI64::new(0));
    let (begins, has_begun) = channel();
    let (writes, longest) = thread::scope(|scope| {
        let (stop, written, store) = (&stop, &written, &store);
        let stops = RaiseOnDrop(stop);
        let service = scope.spawn(move || -> larder::Result<Duration> {
            let mut longest = Duration::ZERO;
            while !stop.load(Ordering::Relaxed) {
                let n = written.load(Ordering::Relaxed);
                let write = move |tx: &larder::WriteTx<'_>| {
                    tx.execute("INSERT INTO one VALUES (?1)", [n])?;
                    tx.execute("INSERT INTO two VALUES (?1)", [n])
                };
                let began = Instant::now();
                store.write(write)?;
                longest = longest.max(began.elapsed());
                written.store(n + 1, Ordering::SeqCst);
                // Only the first one is waited for.
                let _ = begins.send(());
            }
            Ok(longest)
        });
        has_begun.recv_timeout(PATIENCE).unwrap();
        let before = written.load(Ordering::SeqCst);
        run(&place, store);
        let writes = written.load(Ordering::SeqCst) - before;
        drop(stops);
        (writes, service.join().unwrap())
    });
    assert!(store.poisoned().is_none());
    let rows =
        |table: &'static str| store.read(move |tx| tx.scalar::<i64>(&format!("SELECT count(*) FROM {table}"), []));
    let written = written.into_inner();
    assert_eq!((rows("one").unwrap(), rows("two").unwrap()), (written, written));
    store.close().unwrap();
    place.say("check app.db --full").assert_code(0);
    let longest = longest.map_err(|error| format!("a write of the service failed: {error}"))?;
    Ok(Beside { writes, longest })
}

#[test]
fn verbs_that_read_disturb_no_service() {
    while_service_writes(&Options::new(), |place, _| {
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
}

/// Both sides wait long for the lock of the other on a slow disk.
#[test]
fn verbs_that_write_take_turns_with_a_service() {
    let options = Options::new().busy_timeout(PATIENCE).queue_timeout(PATIENCE);
    let lines: String = (1000..6000).map(|n| format!("{n},1\n")).collect();
    while_service_writes(&options, |place, store| {
        place.write("item.csv", format!("id,owner\n{lines}"));
        place.write(
            "migrations/1_more.sql",
            "CREATE TABLE more(id INTEGER PRIMARY KEY) STRICT;",
        );
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
        assert_eq!(place.names().iter().filter(|name| name.ends_with(".db")).count(), 1);
    });
}
