//! Retentions by a clock that a test sets.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use super::clock_guard::Reading;
use super::{RetainOptions, Retention};
use crate::Store;

const START: u64 = 1_775_044_805;
const DAY: u64 = 86_400;
const YEAR: u64 = 365 * DAY;

/// How long rows are kept. The table is looked at twice a second.
const KEEP: Duration = Duration::from_secs(5);

/// The seconds of the clock in the upper half, and those of the uptime in the lower one: a look reads both at once.
type Machine = AtomicU64;

fn reading(machine: &Machine) -> Reading {
    let both = machine.load(SeqCst);
    Reading {
        wall: Duration::from_secs(both >> 32),
        uptime: Duration::from_secs(both & u64::from(u32::MAX)),
        boot: "one".to_owned(),
    }
}

fn pass(machine: &Machine, seconds: u64) {
    machine.fetch_add(seconds << 32 | seconds, SeqCst);
}

fn store() -> Store {
    let store = Store::open_temp().unwrap();
    let table = "CREATE TABLE t(at INTEGER NOT NULL) STRICT; CREATE INDEX t_by_at ON t(at)";
    store.write(move |tx| tx.execute_batch(table)).unwrap();
    store
}

fn retain(store: &Store, clock: fn() -> Reading) -> Retention {
    // Longer than a day, an alert is raised.
    let hold = Duration::from_secs(2 * DAY);
    let options = RetainOptions {
        clock,
        ..RetainOptions::new().clock_hold(hold)
    };
    store.retain_with(options, "t", "at", KEEP).unwrap()
}

fn insert(store: &Store, at: u64) {
    store
        .write(move |tx| tx.execute("INSERT INTO t VALUES (?1)", [at as i64]))
        .unwrap();
}

fn rows(store: &Store) -> i64 {
    store.read(|tx| tx.scalar("SELECT count(*) FROM t", [])).unwrap()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if is_so() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("it never came to: {what}");
}

/// Waits for two sweeps, of which the second has begun after the call.
fn sweeps(store: &Store) {
    let mut last = Duration::ZERO;
    let mut ends = 0;
    until("a sweep", || {
        let Some(ago) = store.stats().retention[0].last_sweep_ago else {
            return false;
        };
        ends += u32::from(ago < last);
        last = ago;
        ends >= 2
    });
}

fn ahead(store: &Store) -> Option<u64> {
    Some(store.stats().retention[0].clock_ahead?.as_secs())
}

#[test]
fn clock_that_jumps_deletes_nothing_before_it_is_followed() {
    static MACHINE: Machine = AtomicU64::new(START << 32 | DAY);
    let store = store();
    for second in 0..4 {
        insert(&store, START - second);
    }
    let _retention = retain(&store, || reading(&MACHINE));
    sweeps(&store);
    MACHINE.fetch_add(YEAR << 32, SeqCst);
    until("the jump", || ahead(&store) == Some(YEAR));
    until("the alert", || {
        store
            .stats()
            .alerts
            .iter()
            .any(|alert| alert.kind.name() == "retention_clock")
    });
    insert(&store, START + YEAR);
    sweeps(&store);
    assert_eq!(rows(&store), 5);
    // They become old by the time that passes.
    pass(&MACHINE, 3);
    until("two old rows", || rows(&store) == 4);
    pass(&MACHINE, 10);
    until("the rest", || rows(&store) == 1);
    assert_eq!(ahead(&store), Some(YEAR));
    pass(&MACHINE, 2 * DAY);
    until("that it is followed", || ahead(&store).is_none());
    until("the row of the jump", || rows(&store) == 0);
}

#[test]
fn clock_that_is_set_right_again_is_followed() {
    static MACHINE: Machine = AtomicU64::new(START << 32 | DAY);
    let store = store();
    insert(&store, START);
    let _retention = retain(&store, || reading(&MACHINE));
    sweeps(&store);
    MACHINE.fetch_add(YEAR << 32, SeqCst);
    until("the jump", || ahead(&store).is_some());
    MACHINE.fetch_sub(YEAR << 32, SeqCst);
    until("the right time", || ahead(&store).is_none());
    // Back by a year, and a row from then.
    MACHINE.fetch_sub(YEAR << 32, SeqCst);
    insert(&store, START - YEAR);
    sweeps(&store);
    assert_eq!(rows(&store), 2);
    MACHINE.fetch_add(YEAR << 32, SeqCst);
    until("the row from a year ago", || rows(&store) == 1);
}

#[test]
fn trusted_clock_is_followed_at_once() {
    static MACHINE: Machine = AtomicU64::new(START << 32 | DAY);
    let store = store();
    insert(&store, START);
    let retention = retain(&store, || reading(&MACHINE));
    sweeps(&store);
    MACHINE.fetch_add(YEAR << 32, SeqCst);
    until("the jump", || ahead(&store).is_some());
    store.trust_clock();
    until("the row", || rows(&store) == 0);
    assert_eq!(ahead(&store), None);
    // The next one is held, by a retention that begins after it, too.
    insert(&store, START + YEAR);
    MACHINE.fetch_add(YEAR << 32, SeqCst);
    until("the jump", || ahead(&store).is_some());
    drop(retention);
    let _again = retain(&store, || reading(&MACHINE));
    sweeps(&store);
    assert_eq!((ahead(&store), rows(&store)), (Some(YEAR), 1));
}

#[test]
fn table_that_is_dropped_has_no_held_clock() {
    static MACHINE: Machine = AtomicU64::new(START << 32 | DAY);
    let store = store();
    insert(&store, START);
    let _retention = retain(&store, || reading(&MACHINE));
    sweeps(&store);
    MACHINE.fetch_add(YEAR << 32, SeqCst);
    until("the jump", || ahead(&store) == Some(YEAR));
    store.write(|tx| tx.execute_batch("ALTER TABLE t RENAME TO u")).unwrap();
    until("no clock", || ahead(&store).is_none());
    // It is still held.
    store.write(|tx| tx.execute_batch("ALTER TABLE u RENAME TO t")).unwrap();
    until("the clock", || ahead(&store) == Some(YEAR));
    assert_eq!(rows(&store), 1);
}

/// More than are read at once, of an index that does not order them.
#[test]
fn many_rows_of_one_time_go() {
    let store = Store::open_temp().unwrap();
    let table = "CREATE TABLE t(at INTEGER NOT NULL, n INTEGER) STRICT; CREATE INDEX t_by_at ON t(at, n);
                 WITH RECURSIVE i(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < 2000)
                     INSERT INTO t SELECT unixepoch() - 100, i FROM i";
    store.write(move |tx| tx.execute_batch(table)).unwrap();
    let _retention = store.retain("t", "at", KEEP).unwrap();
    until("the end of a sweep", || {
        store.stats().retention[0].last_sweep_ago.is_some()
    });
    assert_eq!(rows(&store), 0);
}
