//! larder and the floor it stands on, side by side: `cargo bench --bench ratios`.
//!
//! Machines are noisy and shared, so an absolute figure means little. Each pair runs in turns, a slice of one, a
//! slice of the other, and what is printed is the median of the ratios of neighbouring slices, with the lowest and
//! the highest beside it. `LARDER_BENCH_SECS` is the time for each pair (default 6), `LARDER_BENCH_DIR` the folder.

mod data;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use data::{INSERT, Ids, SELECT};
use larder::rusqlite::Connection;
use larder::{Durability, Store};

const ROUNDS: u32 = 11;

fn main() {
    // `cargo test --benches` runs it, too, and only wants to know that it does.
    let quick = std::env::args().any(|arg| arg == "--test");
    let seconds: f64 = std::env::var("LARDER_BENCH_SECS")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(6.0);
    let seconds = if quick { 0.1 } else { seconds };
    let slice = Duration::from_secs_f64(seconds / f64::from(ROUNDS) / 2.0);
    println!(
        "{:<52} {:>11} {:>11} {:>7}  lowest..highest of {ROUNDS}",
        "", "larder/s", "floor/s", "ratio"
    );
    reads(slice);
    writes(slice);
    many_callers(slice, 64);
    in_flight(slice, 1024);
}

fn reads(slice: Duration) {
    let folder = data::folder();
    let store = data::store(&folder, "store.db", Durability::Normal);
    let conn = data::connection(&folder, "floor.db", Durability::Normal);
    let (mut ours, mut theirs) = (Ids::new(), Ids::new());
    compare(
        "read of one row / BEGIN; SELECT; COMMIT",
        || repeat(slice, || drop(larder_read(&store, ours.next().expect("endless")))),
        || {
            repeat(slice, || {
                drop(data::read_in_transaction(&conn, theirs.next().expect("endless")))
            })
        },
    );
    compare(
        "read of one row / autocommit SELECT",
        || repeat(slice, || drop(larder_read(&store, ours.next().expect("endless")))),
        || {
            repeat(slice, || {
                let id = theirs.next().expect("endless");
                let row = conn
                    .prepare_cached(SELECT)
                    .and_then(|mut s| s.query_row([id], |r| r.get::<_, String>(0)));
                drop(row.expect("found"));
            })
        },
    );
}

fn writes(slice: Duration) {
    for (name, durability) in [("NORMAL", Durability::Normal), ("FULL", Durability::Full)] {
        let folder = data::folder();
        let store = data::store(&folder, "store.db", durability);
        let conn = data::connection(&folder, "floor.db", durability);
        compare(
            &format!("write of one row, {name} / BEGIN IMMEDIATE..COMMIT"),
            || repeat(slice, || larder_write(&store)),
            || repeat(slice, || data::write_in_transaction(&conn)),
        );
    }
}

fn many_callers(slice: Duration, callers: usize) {
    for (name, durability) in [("NORMAL", Durability::Normal), ("FULL", Durability::Full)] {
        let folder = data::folder();
        let store = data::store(&folder, "store.db", durability);
        let mutex = Mutex::new(data::connection(&folder, "floor.db", durability));
        compare(
            &format!("{callers} blocking callers, {name} / Mutex<Connection>"),
            || threads(slice, callers, || larder_write(&store)),
            || threads(slice, callers, || locked_write(&mutex)),
        );
        report_groups(&store);
    }
}

fn in_flight(slice: Duration, depth: usize) {
    for (name, durability) in [("NORMAL", Durability::Normal), ("FULL", Durability::Full)] {
        let folder = data::folder();
        let store = data::store(&folder, "store.db", durability);
        let mutex = Mutex::new(data::connection(&folder, "floor.db", durability));
        compare(
            &format!("{depth} submitted writes in flight, {name} / Mutex<Connection>"),
            || submitted(slice, depth, &store),
            || threads(slice, 64, || locked_write(&mutex)),
        );
        report_groups(&store);
    }
}

fn larder_read(store: &Store, id: i64) -> String {
    store
        .read(|tx| tx.query_row(SELECT, [id], |row| row.get(0)))
        .expect("found")
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
        stats.writes as f64 / stats.groups as f64,
        stats.largest_group
    );
}

/// Operations a second of one thread.
fn repeat(slice: Duration, mut f: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut done = 0_u32;
    while start.elapsed() < slice {
        for _ in 0..8 {
            f();
        }
        done += 8;
    }
    f64::from(done) / start.elapsed().as_secs_f64()
}

/// Operations a second of so many threads together.
fn threads(slice: Duration, callers: usize, f: impl Fn() + Sync) -> f64 {
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..callers {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    f();
                    done.fetch_add(1, Relaxed);
                }
            });
        }
        std::thread::sleep(slice);
        stop.store(true, Relaxed);
    });
    done.load(Relaxed) as f64 / start.elapsed().as_secs_f64()
}

/// Writes a second with so many submitted and not yet waited for.
fn submitted(slice: Duration, depth: usize, store: &Store) -> f64 {
    let submit = || store.submit(|tx| tx.insert(INSERT, (1, "click"))).expect("queued");
    let mut pending = std::collections::VecDeque::with_capacity(depth);
    let start = Instant::now();
    let mut done = 0_u32;
    while start.elapsed() < slice {
        while pending.len() < depth {
            pending.push_back(submit());
        }
        for write in pending.drain(..depth / 4) {
            write.wait().expect("written");
            done += 1;
        }
    }
    for write in pending {
        write.wait().expect("written");
        done += 1;
    }
    f64::from(done) / start.elapsed().as_secs_f64()
}

/// Runs both sides in turns and prints the medians.
fn compare(name: &str, mut larder: impl FnMut() -> f64, mut floor: impl FnMut() -> f64) {
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (a, b) = (larder(), floor());
        ours.push(a);
        theirs.push(b);
        ratios.push(a / b);
    }
    let (a, b) = (median(&mut ours), median(&mut theirs));
    let ratio = median(&mut ratios);
    println!(
        "{name:<52} {a:>11.0} {b:>11.0} {ratio:>7.2}  {:.2}..{:.2}",
        ratios[0],
        ratios[ratios.len() - 1]
    );
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
