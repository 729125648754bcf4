//! The rows of the documents: the operation of each on a store, and on its floor.

use std::fs;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use larder::rusqlite::Connection;
use larder::{Durability, Options, Store};

use crate::data::{self, COUNT, Data, FEED, FEEDS, INSERT, JOIN, POSTS, RANGE, Random, SELECT, USERS};
use crate::measure::{Compared, Latencies, compare, repeat, threads};
use crate::{ROUNDS, Run};

/// The number of progress steps.
pub(crate) const STEPS: u64 = 17;

/// The unit of a number.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Unit {
    /// Operations per second.
    Rate,
    /// Rows per second, in transactions of 1000.
    Rows,
    /// Milliseconds per operation.
    Milliseconds,
    /// The ratio of the two rates.
    Times,
    /// Calls of `read` per operation.
    Calls,
}

/// One number of the documents, and its measurement here.
pub(crate) struct Row {
    pub(crate) source: &'static str,
    pub(crate) operation: &'static str,
    /// The number in the documents.
    pub(crate) figure: &'static str,
    pub(crate) unit: Unit,
    /// The other side of the comparison.
    pub(crate) against: &'static str,
    pub(crate) found: Compared,
}

/// Writes per second by the number of clients.
pub(crate) struct Curve {
    pub(crate) name: &'static str,
    pub(crate) points: Vec<(usize, f64)>,
}

const VPS: &str = "a $20 VPS, NVMe";
const VPS4: &str = "a 4-vCPU VPS";
const RYZEN: &str = "Ryzen 9900X, NVMe Gen5";
const P50: &str = "another comparison, p50";
const CLAIM: &str = "claims about settings";
const PRIVATE: &str = "a private connection";

pub(crate) fn measure(run: &Run, data: &Data) -> (Vec<Row>, Vec<Curve>) {
    let mut rows = Vec::new();
    reads(run, data, &mut rows);
    writes(run, data, &mut rows);
    settings(run, data, &mut rows);
    (rows, curves(run, data))
}

fn reads(run: &Run, data: &Data, rows: &mut Vec<Row>) {
    let store = data.store("store.db", Options::new());
    let conn = data.connection("floor.db", Durability::Normal);
    let pair = |what, sql, end| {
        run.step(what);
        let (mut ours, mut theirs) = (Random::new(), Random::new());
        compare(
            ROUNDS,
            || {
                repeat(run.slice, || {
                    assert!(data::read_rows(&store, sql, ours.below(end) + 1) > 0)
                })
            },
            || {
                repeat(run.slice, || {
                    assert!(data::rows_in_transaction(&conn, sql, theirs.below(end) + 1) > 0)
                })
            },
        )
    };
    let point = pair("point reads", SELECT, USERS);
    let join = pair("joins", JOIN, POSTS);
    let feed = pair("feeds", FEED, FEEDS);
    let count = pair("counts", COUNT, USERS - 100);
    let range = pair("ranges", RANGE, POSTS - 100);
    let row = |source, operation, figure, unit, found| Row {
        source,
        operation,
        figure,
        unit,
        against: PRIVATE,
        found,
    };
    rows.push(row(
        VPS,
        "SELECT by primary key",
        "~400,000/s",
        Unit::Rate,
        point.again(),
    ));
    rows.push(row(VPS, "SELECT with JOIN (2 tables)", "~50,000/s", Unit::Rate, join));
    rows.push(row(
        VPS4,
        "one row by primary key",
        "0.008 ms",
        Unit::Milliseconds,
        point.again(),
    ));
    rows.push(row(
        VPS4,
        "feed query, 50 rows, indexed",
        "0.12 ms",
        Unit::Milliseconds,
        feed,
    ));
    rows.push(row(
        VPS4,
        "aggregate count with filter",
        "0.9 ms",
        Unit::Milliseconds,
        count,
    ));
    rows.push(row(RYZEN, "point reads", "~85,000/s", Unit::Rate, point.again()));
    rows.push(row(
        RYZEN,
        "range queries, 100 rows each",
        "~18,000/s",
        Unit::Rate,
        range,
    ));
    run.step("the median point read");
    let medians = compare(
        ROUNDS,
        || 1.0 / median_of(run.slice, point_read(&store)),
        || 1.0 / median_of(run.slice, point_floor(&conn)),
    );
    rows.push(row(
        P50,
        "SELECT by primary key",
        "0.01 ms",
        Unit::Milliseconds,
        medians,
    ));
}

fn writes(run: &Run, data: &Data, rows: &mut Vec<Row>) {
    let store = data.store("store.db", Options::new());
    let conn = data.connection("floor.db", Durability::Normal);
    run.step("single inserts");
    let single = compare(
        ROUNDS,
        || repeat(run.slice, || insert(&store)),
        || repeat(run.slice, || data::write_in_transaction(&conn)),
    );
    run.step("the median insert");
    let medians = compare(
        ROUNDS,
        || 1.0 / median_of(run.slice, || insert(&store)),
        || 1.0 / median_of(run.slice, || data::write_in_transaction(&conn)),
    );
    run.step("batches");
    let batch = compare(
        ROUNDS,
        || repeat(run.slice, || data::batch(&store, 1000)),
        || repeat(run.slice, || data::batch_in_transaction(&conn, 1000)),
    );
    run.step("ten threads");
    let mutex = Mutex::new(conn);
    let ten = compare(
        ROUNDS,
        || threads(run.slice, 10, |_| (), |()| insert(&store)),
        || threads(run.slice, 10, |_| (), |()| locked(&mutex)),
    );
    let row = |source, operation, figure, unit, against, found| Row {
        source,
        operation,
        figure,
        unit,
        against,
        found,
    };
    rows.push(row(
        VPS,
        "INSERT, single row",
        "~80,000/s",
        Unit::Rate,
        PRIVATE,
        single.again(),
    ));
    rows.push(row(
        VPS,
        "INSERT, batched, 1000 rows",
        "~300,000 rows/s",
        Unit::Rows,
        PRIVATE,
        batch.again(),
    ));
    rows.push(row(
        VPS4,
        "single INSERT",
        "0.05 ms",
        Unit::Milliseconds,
        PRIVATE,
        single.again(),
    ));
    rows.push(row(
        VPS4,
        "bulk INSERT, 1K rows",
        "12 ms",
        Unit::Milliseconds,
        PRIVATE,
        batch,
    ));
    let claim = "\"serialized; PostgreSQL wins\"";
    rows.push(row(
        VPS4,
        "concurrent writes, 10 threads",
        claim,
        Unit::Rate,
        "Mutex<Connection>",
        ten,
    ));
    rows.push(row(
        RYZEN,
        "inserts, single writer",
        "~12,000/s",
        Unit::Rate,
        PRIVATE,
        single,
    ));
    rows.push(row(
        P50,
        "single INSERT",
        "0.05 ms",
        Unit::Milliseconds,
        PRIVATE,
        medians,
    ));
}

/// Both sides are private connections here: this compares SQLite's settings, not larder.
fn settings(run: &Run, data: &Data, rows: &mut Vec<Row>) {
    let production = data.connection("store.db", Durability::Normal);
    let defaults = Connection::open(data.copy("floor.db")).expect("the file opens");
    let leave_wal = "PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode = DELETE";
    defaults.execute_batch(leave_wal).expect("nobody else has the file");
    let mut row = |operation, figure, unit, against, found| {
        rows.push(Row {
            source: CLAIM,
            operation,
            figure,
            unit,
            against,
            found,
        });
    };
    run.step("PRAGMAs, reads");
    let (mut ours, mut theirs) = (Random::new(), Random::new());
    let found = compare(
        ROUNDS,
        || repeat(run.slice, || assert!(data::rows(&production, SELECT, ours.user()) > 0)),
        || repeat(run.slice, || assert!(data::rows(&defaults, SELECT, theirs.user()) > 0)),
    );
    row(
        "production PRAGMAs, point reads",
        "5 to 10 times",
        Unit::Times,
        "SQLite's defaults",
        found,
    );
    run.step("PRAGMAs, writes");
    let found = compare(
        ROUNDS,
        || repeat(run.slice, || data::write_in_transaction(&production)),
        || repeat(run.slice, || data::write_in_transaction(&defaults)),
    );
    row(
        "production PRAGMAs, single inserts",
        "(none)",
        Unit::Times,
        "SQLite's defaults",
        found,
    );
    run.step("synchronous");
    let full = data.connection("full.db", Durability::Full);
    let found = compare(
        ROUNDS,
        || repeat(run.slice, || data::write_in_transaction(&production)),
        || repeat(run.slice, || data::write_in_transaction(&full)),
    );
    row(
        "synchronous=NORMAL, single inserts",
        "2 to 5 times",
        Unit::Times,
        "synchronous=FULL",
        found,
    );
    run.step("mmap");
    let plain = data.connection("plain.db", Durability::Normal);
    // A small cache, so that pages come from the file: that is where a memory map can help.
    for conn in [&production, &plain] {
        conn.execute_batch("PRAGMA cache_size = -2000")
            .expect("the cache is set");
    }
    plain.execute_batch("PRAGMA mmap_size = 0").expect("the map is set");
    let (mut ours, mut theirs) = (Random::new(), Random::new());
    let found = compare(
        ROUNDS,
        || {
            repeat(run.slice, || {
                assert!(data::rows(&production, JOIN, ours.below(POSTS) + 1) > 0)
            })
        },
        || {
            repeat(run.slice, || {
                assert!(data::rows(&plain, JOIN, theirs.below(POSTS) + 1) > 0)
            })
        },
    );
    row(
        "mmap, joins with a cache of 2 MB",
        "(none)",
        Unit::Times,
        "mmap_size=0",
        found,
    );
    run.step("mmap, system calls");
    if calls_of_read().is_some() {
        let found = compare(
            ROUNDS,
            || calls_each(1_000, || data::rows(&production, JOIN, ours.below(POSTS) + 1)),
            || calls_each(1_000, || data::rows(&plain, JOIN, theirs.below(POSTS) + 1)),
        );
        row(
            "mmap, calls of read for such a join",
            "\"half the system calls\"",
            Unit::Calls,
            "mmap_size=0",
            found,
        );
    }
}

/// The number of this process's calls of `read` and its variants, where the system counts them.
fn calls_of_read() -> Option<f64> {
    let counted = fs::read_to_string("/proc/self/io").ok()?;
    let line = counted.lines().find_map(|line| line.strip_prefix("syscr: "))?;
    line.trim().parse().ok()
}

/// Calls of `read` per run.
fn calls_each(times: u32, mut f: impl FnMut() -> usize) -> f64 {
    let now = || calls_of_read().expect("it was there before");
    let before = now();
    for _ in 0..times {
        assert!(f() > 0);
    }
    (now() - before) / f64::from(times)
}

fn curves(run: &Run, data: &Data) -> Vec<Curve> {
    run.step("throughput by clients");
    let mut curves = Vec::new();
    for (durability, names) in [
        (Durability::Normal, ["larder, NORMAL", "Mutex<Connection>, NORMAL"]),
        (Durability::Full, ["larder, FULL", "Mutex<Connection>, FULL"]),
    ] {
        let store = data.store("store.db", Options::new().durability(durability));
        let mutex = Mutex::new(data.connection("floor.db", durability));
        let [mut ours, mut theirs] = names.map(|name| Curve {
            name,
            points: Vec::new(),
        });
        for clients in [1, 2, 4, 8, 16, 32, 64] {
            let found = compare(
                3,
                || threads(run.slice, clients, |_| (), |()| insert(&store)),
                || threads(run.slice, clients, |_| (), |()| locked(&mutex)),
            );
            ours.points.push((clients, found.ours));
            theirs.points.push((clients, found.theirs));
        }
        curves.extend([ours, theirs]);
    }
    curves
}

impl Compared {
    /// The same measurement, for another row.
    fn again(&self) -> Self {
        Self { ..*self }
    }
}

fn point_read(store: &Store) -> impl FnMut() {
    let mut ids = Random::new();
    move || assert!(data::read_rows(store, SELECT, ids.user()) > 0)
}

fn point_floor(conn: &Connection) -> impl FnMut() {
    let mut ids = Random::new();
    move || assert!(data::rows_in_transaction(conn, SELECT, ids.user()) > 0)
}

fn insert(store: &Store) {
    store.write(|tx| tx.insert(INSERT, (1, "click"))).expect("written");
}

fn locked(conn: &Mutex<Connection>) {
    data::write_in_transaction(&conn.lock().expect("nobody panicked"));
}

/// The median time of one run, in seconds.
fn median_of(slice: Duration, mut f: impl FnMut()) -> f64 {
    let mut times = Latencies::new();
    let start = Instant::now();
    while start.elapsed() < slice {
        let began = Instant::now();
        f();
        times.add(began.elapsed());
    }
    times.at(0.5).as_secs_f64()
}
