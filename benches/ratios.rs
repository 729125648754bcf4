//! larder and its floor, side by side: `cargo bench --bench ratios`.
//!
//! Machines are noisy and shared, so an absolute number means little. Each pair runs in turns, a slice of one, then a
//! slice of the other. The output is the median of the ratios of neighbouring slices, with the lowest and the highest.
//! `LARDER_BENCH_SECS` is the time for each pair (default 6), `LARDER_BENCH_DIR` the folder.

mod data;
mod measure;

use std::sync::Mutex;
use std::time::Duration;

use data::{Data, INSERT, Random, SELECT};
use larder::rusqlite::Connection;
use larder::{Access, Durability, Options, Store};
use measure::{compare, repeat, submitted, threads};

const ROUNDS: u32 = 11;

fn main() {
    // `cargo test --benches` runs this, too, only to check that it works.
    let quick = std::env::args().any(|arg| arg == "--test");
    let seconds = std::env::var("LARDER_BENCH_SECS").ok().and_then(|s| s.parse().ok());
    let seconds: f64 = if quick { 0.1 } else { seconds.unwrap_or(6.0) };
    let slice = Duration::from_secs_f64(seconds / f64::from(ROUNDS) / 2.0);
    let data = Data::make();
    println!(
        "{:<58} {:>11} {:>11} {:>7}  lowest..highest of {ROUNDS}",
        "", "larder/s", "floor/s", "ratio"
    );
    reads(&data, slice);
    writes(&data, slice);
    batches(&data, slice);
    many_callers(&data, slice, 64);
    in_flight(&data, slice, 1024);
}

fn reads(data: &Data, slice: Duration) {
    let store = data.store("store.db", Options::new());
    let floor = data.copy("floor.db");
    for count in [1, 2] {
        let connect = |_| (data::connect(&floor, Durability::Normal), Random::new());
        let ours = || {
            threads(
                slice,
                count,
                |_| Random::new(),
                |ids| drop(larder_read(&store, ids.user())),
            )
        };
        print(
            &format!("read of one row, {count} threads / BEGIN; SELECT; COMMIT"),
            ours,
            || {
                threads(slice, count, connect, |(conn, ids)| {
                    drop(data::read_in_transaction(conn, ids.user()))
                })
            },
        );
        print(
            &format!("read of one row, {count} threads / autocommit SELECT"),
            ours,
            || {
                threads(slice, count, connect, |(conn, ids)| {
                    drop(autocommit_read(conn, ids.user()))
                })
            },
        );
    }
    let exclusive = data.store("exclusive.db", Options::new().access(Access::Exclusive));
    let conn = data::connect(&floor, Durability::Normal);
    let (mut ours, mut theirs) = (Random::new(), Random::new());
    print(
        "read of one row, Exclusive / autocommit SELECT, Shared",
        || repeat(slice, || drop(larder_read(&exclusive, ours.user()))),
        || repeat(slice, || drop(autocommit_read(&conn, theirs.user()))),
    );
}

fn writes(data: &Data, slice: Duration) {
    for (name, durability) in [("NORMAL", Durability::Normal), ("FULL", Durability::Full)] {
        let store = data.store("store.db", Options::new().durability(durability));
        let conn = data.connection("floor.db", durability);
        print(
            &format!("write of one row, {name} / BEGIN IMMEDIATE..COMMIT"),
            || repeat(slice, || larder_write(&store)),
            || repeat(slice, || data::write_in_transaction(&conn)),
        );
    }
}

fn batches(data: &Data, slice: Duration) {
    let store = data.store("store.db", Options::new());
    let conn = data.connection("floor.db", Durability::Normal);
    print(
        "1000 rows in a transaction, NORMAL / the same",
        || repeat(slice, || data::batch(&store, 1000)),
        || repeat(slice, || data::batch_in_transaction(&conn, 1000)),
    );
}

fn many_callers(data: &Data, slice: Duration, callers: usize) {
    for (name, durability) in [("NORMAL", Durability::Normal), ("FULL", Durability::Full)] {
        let store = data.store("store.db", Options::new().durability(durability));
        let mutex = Mutex::new(data.connection("floor.db", durability));
        print(
            &format!("{callers} blocking callers, {name} / Mutex<Connection>"),
            || threads(slice, callers, |_| (), |()| larder_write(&store)),
            || threads(slice, callers, |_| (), |()| locked_write(&mutex)),
        );
        report_groups(&store);
    }
}

fn in_flight(data: &Data, slice: Duration, depth: usize) {
    for (name, durability) in [("NORMAL", Durability::Normal), ("FULL", Durability::Full)] {
        let store = data.store("store.db", Options::new().durability(durability));
        let mutex = Mutex::new(data.connection("floor.db", durability));
        print(
            &format!("{depth} submitted writes in flight, {name} / Mutex<Connection>"),
            || submitted(slice, depth, &store, INSERT),
            || threads(slice, 64, |_| (), |()| locked_write(&mutex)),
        );
        report_groups(&store);
    }
}

fn larder_read(store: &Store, id: i64) -> String {
    store
        .read(|tx| tx.query_row(SELECT, [id], |row| row.get(0)))
        .expect("found")
}

fn autocommit_read(conn: &Connection, id: i64) -> String {
    let row = conn
        .prepare_cached(SELECT)
        .and_then(|mut s| s.query_row([id], |row| row.get(0)));
    row.expect("found")
}

fn larder_write(store: &Store) {
    store.write(|tx| tx.insert(INSERT, (1, "click"))).expect("written");
}

fn locked_write(conn: &Mutex<Connection>) {
    data::write_in_transaction(&conn.lock().expect("nobody panicked"));
}

fn report_groups(store: &Store) {
    let stats = store.stats();
    println!(
        "    {:.1} writes a group on average, {} at most",
        stats.committed_writes as f64 / stats.groups as f64,
        stats.group_size.max
    );
}

fn print(name: &str, ours: impl FnMut() -> f64, theirs: impl FnMut() -> f64) {
    let found = compare(ROUNDS, ours, theirs);
    println!(
        "{name:<58} {:>11.0} {:>11.0} {:>7.2}  {:.2}..{:.2}",
        found.ours, found.theirs, found.ratio, found.lowest, found.highest
    );
}
