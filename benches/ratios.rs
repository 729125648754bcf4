//! larder and its floor, side by side: `cargo bench --bench ratios`.
//!
//! Machines are noisy and shared, so an absolute number means little. Each pair runs in turns, a slice of one, then a
//! slice of the other. The output is the median of the ratios of neighbouring slices, with the lowest and the highest,
//! and the same median of the turns before which the cores were near and of those before which they were far apart, with
//! the round trip of a cache line.
//!
//! The floor always has a copy of the file: SQLite counts the shared locks that the connections of a process hold on a
//! file, so on the store's own file a private connection would make fewer system calls than it does in a program of
//! its own.
//!
//! An argument after `--` selects the pairs with that text in their name. `LARDER_BENCH_SECS` is the time for each pair
//! (default 6), `LARDER_BENCH_DIR` the folder.

#[path = "ratios/beside.rs"]
mod beside;
#[path = "ratios/calls.rs"]
mod calls;
mod data;
mod measure;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use data::{Data, INSERT, Random, SELECT};
use larder::rusqlite::Connection;
use larder::{Access, Durability, Options, Store};
use measure::{Busy, Compared, Rounds, compare, repeat, submitted, tasks, threads};
use tokio::runtime::Runtime;

const ROUNDS: u32 = 11;
const DURABILITIES: [(&str, Durability); 2] = [("NORMAL", Durability::Normal), ("FULL", Durability::Full)];
/// One operation in this many is a write in the mixed load.
const MIX: i64 = 10;

/// The time of a slice, and which pairs are wanted.
struct Run {
    slice: Duration,
    wanted: Option<String>,
}

fn main() {
    measure::be_busy_if_asked();
    calls::make_reads_if_asked();
    // `cargo test --benches` runs this, too, only to check that it works.
    let quick = std::env::args().any(|arg| arg == "--test");
    let seconds = std::env::var("LARDER_BENCH_SECS").ok().and_then(|s| s.parse().ok());
    let seconds: f64 = if quick { 0.1 } else { seconds.unwrap_or(6.0) };
    let run = Run {
        slice: Duration::from_secs_f64(seconds / f64::from(ROUNDS) / 2.0),
        wanted: std::env::args().skip(1).find(|arg| !arg.starts_with("--")),
    };
    let data = Data::make();
    println!("a cache line from core to core and back: {:.0?}", measure::line());
    println!(
        "{:<62} {:>11} {:>11} {:>7}  lowest..highest of {ROUNDS}",
        "", "larder/s", "floor/s", "ratio"
    );
    reads(&run, &data);
    if run.wants("system calls a read") {
        calls::print(&data);
    }
    writes(&run, &data);
    batches(&run, &data);
    many_callers(&run, &data, 64);
    in_flight(&run, &data, 1024);
    mixed(&run, &data, 64);
    beside::print(&run, &data);
    println!("a cache line from core to core and back: {:.0?}", measure::line());
}

/// Both files have a log with a commit in it, as those of a service have. With an empty one, SQLite asks the system for
/// the size of the file in each transaction.
fn reads(run: &Run, data: &Data) {
    let store = data.store("store.db", Options::new());
    larder_write(&store);
    let floor = data.copy("floor.db");
    let writer = data::connect(&floor, Durability::Normal);
    data::write_in_transaction(&writer);
    for count in [1, 2] {
        let connect = |_| (data::connect(&floor, Durability::Normal), Random::new());
        let ours = || {
            threads(
                run.slice,
                count,
                |_| Random::new(),
                |ids| drop(larder_read(&store, ids.user())),
            )
        };
        run.print(
            &format!("read of one row, {count} threads / BEGIN; SELECT; COMMIT"),
            ours,
            || {
                threads(run.slice, count, connect, |(conn, ids)| {
                    drop(data::read_in_transaction(conn, ids.user()))
                })
            },
        );
        run.print(
            &format!("read of one row, {count} threads / autocommit SELECT"),
            ours,
            || {
                threads(run.slice, count, connect, |(conn, ids)| {
                    drop(autocommit_read(conn, ids.user()))
                })
            },
        );
    }
    let runtime = Runtime::new().expect("a runtime");
    let mutex = Mutex::new(data::connect(&floor, Durability::Normal));
    run.print(
        "read of one row, 64 tasks / Mutex<Connection>, 64 threads",
        || tasks(&runtime, run.slice, 64, |seed, end| client(store.clone(), seed, end, 0)),
        || threads(run.slice, 64, seeded, |ids| drop(locked_read(&mutex, ids.user()))),
    );
    let exclusive = data.store("exclusive.db", Options::new().access(Access::Exclusive));
    larder_write(&exclusive);
    let conn = data::connect(&floor, Durability::Normal);
    let (mut ours, mut theirs) = (Random::new(), Random::new());
    run.print(
        "read of one row, Exclusive / autocommit SELECT, Shared",
        || repeat(run.slice, || drop(larder_read(&exclusive, ours.user()))),
        || repeat(run.slice, || drop(autocommit_read(&conn, theirs.user()))),
    );
}

fn writes(run: &Run, data: &Data) {
    for beside in ["", ", beside a busy process"] {
        for (name, durability) in DURABILITIES {
            let name = format!("write of one row, {name}{beside} / BEGIN IMMEDIATE..COMMIT");
            if !run.wants(&name) {
                continue;
            }
            let _busy = (!beside.is_empty()).then(Busy::start);
            let store = data.store("store.db", Options::new().durability(durability));
            let conn = data.connection("floor.db", durability);
            run.print(
                &name,
                || repeat(run.slice, || larder_write(&store)),
                || repeat(run.slice, || data::write_in_transaction(&conn)),
            );
        }
    }
}

fn batches(run: &Run, data: &Data) {
    let store = data.store("store.db", Options::new());
    let conn = data.connection("floor.db", Durability::Normal);
    run.print(
        "1000 rows in a transaction, NORMAL / the same",
        || repeat(run.slice, || data::batch(&store, 1000)),
        || repeat(run.slice, || data::batch_in_transaction(&conn, 1000)),
    );
}

fn many_callers(run: &Run, data: &Data, callers: usize) {
    for (name, durability) in DURABILITIES {
        let name = format!("{callers} blocking callers, {name} / Mutex<Connection>");
        if !run.wants(&name) {
            continue;
        }
        let store = data.store("store.db", Options::new().durability(durability));
        let mutex = Mutex::new(data.connection("floor.db", durability));
        run.print(
            &name,
            || threads(run.slice, callers, |_| (), |()| larder_write(&store)),
            || threads(run.slice, callers, |_| (), |()| locked_write(&mutex)),
        );
        report_groups(&store);
    }
}

fn in_flight(run: &Run, data: &Data, depth: usize) {
    for (name, durability) in DURABILITIES {
        let name = format!("{depth} submitted writes in flight, {name} / Mutex<Connection>");
        if !run.wants(&name) {
            continue;
        }
        let store = data.store("store.db", Options::new().durability(durability));
        let mutex = Mutex::new(data.connection("floor.db", durability));
        run.print(
            &name,
            || submitted(run.slice, depth, &store, INSERT),
            || threads(run.slice, 64, |_| (), |()| locked_write(&mutex)),
        );
        report_groups(&store);
    }
}

/// Nine reads and a write. For tokio-rusqlite on the other side, see `benches/peers`.
fn mixed(run: &Run, data: &Data, clients: usize) {
    let names =
        ["threads", "tasks"].map(|kind| format!("90 % reads, {clients} {kind} / Mutex<Connection>, 64 threads"));
    if !names.iter().any(|name| run.wants(name)) {
        return;
    }
    let store = data.store("store.db", Options::new());
    let mutex = Mutex::new(data.connection("floor.db", Durability::Normal));
    let locked = || {
        threads(run.slice, clients, seeded, |random| {
            if random.below(MIX) == 0 {
                locked_write(&mutex);
            } else {
                drop(locked_read(&mutex, random.user()));
            }
        })
    };
    let blocking = || {
        threads(run.slice, clients, seeded, |random| {
            if random.below(MIX) == 0 {
                larder_write(&store);
            } else {
                drop(larder_read(&store, random.user()));
            }
        })
    };
    run.print(&names[0], blocking, locked);
    let runtime = Runtime::new().expect("a runtime");
    run.print(
        &names[1],
        || {
            tasks(&runtime, run.slice, clients, |seed, end| {
                client(store.clone(), seed, end, 1)
            })
        },
        locked,
    );
    report_groups(&store);
}

/// A task that reads, and writes in this many of [`MIX`] operations. Returns how many it made.
async fn client(store: Store, seed: u64, end: Instant, writes: i64) -> u64 {
    let (mut random, mut done) = (Random::seeded(seed), 0);
    while Instant::now() < end {
        let user = random.user();
        if random.below(MIX) < writes {
            let write = store.write_async(move |tx| tx.insert(INSERT, (user, "click")));
            write.await.expect("written");
        } else {
            let read = store.read_async(move |tx| tx.query_row(SELECT, [user], |row| row.get::<_, String>(0)));
            drop(read.await.expect("found"));
        }
        done += 1;
    }
    done
}

fn seeded(thread: usize) -> Random {
    Random::seeded(thread as u64)
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

fn locked_read(conn: &Mutex<Connection>, id: i64) -> String {
    autocommit_read(&conn.lock().expect("nobody panicked"), id)
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

impl Run {
    fn wants(&self, name: &str) -> bool {
        self.wanted.as_ref().is_none_or(|wanted| name.contains(wanted))
    }

    fn print(&self, name: &str, ours: impl FnMut() -> f64, theirs: impl FnMut() -> f64) {
        if self.wants(name) {
            print(name, &compare(ROUNDS, ours, theirs));
        }
    }
}

fn print(name: &str, found: &Compared) {
    let by_distance = [("near", &found.near), ("far", &found.far)].map(|(name, rounds)| distance(name, rounds));
    println!(
        "{name:<62} {:>11.0} {:>11.0} {:>7.2}  {:.2}..{:.2}{}",
        found.ours,
        found.theirs,
        found.ratio,
        found.lowest,
        found.highest,
        by_distance.concat()
    );
}

fn distance(name: &str, rounds: &Rounds) -> String {
    match rounds.number {
        0 => String::new(),
        number => format!("  {name} {:.0?}: {:.2} ({number})", rounds.line, rounds.ratio),
    }
}
