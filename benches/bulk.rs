//! Many rows beside a caller that writes one row every 2 ms: `cargo bench --bench bulk`.
//!
//! Each row goes into a table with an index in random order. The ways take turns: all rows in one transaction; a loop of
//! transactions of 1000 rows, on larder and on a `Mutex<Connection>`; `Store::bulk`. Each is measured alone and beside the
//! caller, then the rows are deleted again. The output has the medians of all rounds: rows a second, what part that is of
//! one transaction alone, how long the caller's writes took, and how large the log became.
//!
//! `LARDER_BENCH_ROWS` (default 400,000), `LARDER_BENCH_ROUNDS` (default 5), `LARDER_BENCH_DIR` (default: the target
//! folder), `LARDER_BENCH_WAYS` (a part of their names).

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use larder::rusqlite::{Connection, params};
use larder::{Options, Result, Store};

const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, key INTEGER NOT NULL, text TEXT NOT NULL) STRICT;
                      CREATE INDEX t_by_key ON t(key);
                      CREATE TABLE other(n INTEGER) STRICT";
const INSERT: &str = "INSERT INTO t(id, key, text) VALUES (?1, ?2, ?3)";
const OTHER: &str = "INSERT INTO other VALUES (1)";

/// The pause between two writes of the other caller.
const PAUSE: Duration = Duration::from_millis(2);

fn main() -> Result<()> {
    let is_bench = std::env::args().any(|arg| arg == "--bench");
    let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().expect(name));
    let rows = number("LARDER_BENCH_ROWS", if is_bench { 400_000 } else { 4000 });
    let rounds = number("LARDER_BENCH_ROUNDS", if is_bench { 5 } else { 1 });
    let wanted = std::env::var("LARDER_BENCH_WAYS").unwrap_or_default();
    let parent = std::env::var("LARDER_BENCH_DIR").unwrap_or_else(|_| env!("CARGO_TARGET_TMPDIR").to_owned());
    let mut ways = [
        Way::new("one transaction", false, one_transaction),
        Way::new("loop of 1000", false, loop_of_1000),
        Way::new("loop of 1000, Mutex", false, loop_on_mutex),
        Way::new("bulk", false, bulk),
        Way::new("one transaction, beside", true, one_transaction),
        Way::new("loop of 1000, beside", true, loop_of_1000),
        Way::new("loop of 1000, Mutex, beside", true, loop_on_mutex),
        Way::new("bulk, beside", true, bulk),
        Way::new("bulk delete", false, bulk_delete),
        Way::new("bulk delete, beside", true, bulk_delete),
    ];
    for _ in 0..rounds {
        for way in ways.iter_mut().filter(|way| way.name.contains(&wanted)) {
            let folder = tempfile::tempdir_in(&parent).expect("LARDER_BENCH_DIR can be written");
            way.round(&folder.path().join("app.db"), rows)?;
        }
    }
    let base = ways[0].rate();
    println!(
        "{rows} rows, {rounds} rounds\n{:<28} {:>10} {:>6} {:>9} {:>9} {:>9} {:>8}",
        "", "rows/s", "", "p50 ms", "p99 ms", "worst ms", "log MB"
    );
    for way in ways.iter().filter(|way| !way.rates.is_empty()) {
        println!(
            "{:<28} {:>10.0} {:>6.2} {:>9.2} {:>9.2} {:>9.2} {:>8.1}",
            way.name,
            way.rate(),
            way.rate() / base,
            median(&way.p50),
            median(&way.p99),
            median(&way.worst),
            median(&way.log),
        );
    }
    Ok(())
}

/// A store, or a connection that callers lock.
enum Target {
    Store(Store),
    Mutex(Mutex<Connection>),
}

struct Way {
    name: &'static str,
    beside: bool,
    run: fn(&Target, i64) -> Result<()>,
    rates: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
    worst: Vec<f64>,
    log: Vec<f64>,
}

impl Way {
    fn new(name: &'static str, beside: bool, run: fn(&Target, i64) -> Result<()>) -> Self {
        Self {
            name,
            beside,
            run,
            rates: Vec::new(),
            p50: Vec::new(),
            p99: Vec::new(),
            worst: Vec::new(),
            log: Vec::new(),
        }
    }

    fn rate(&self) -> f64 {
        median(&self.rates)
    }

    fn round(&mut self, path: &Path, rows: i64) -> Result<()> {
        let target = if self.name.contains("Mutex") {
            let conn = Connection::open(path)?;
            conn.execute_batch(&format!(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; {SCHEMA}"
            ))?;
            Target::Mutex(Mutex::new(conn))
        } else {
            let store = Options::new().open(path)?;
            store.write(|tx| tx.execute_batch(SCHEMA))?;
            Target::Store(store)
        };
        if self.name.contains("delete") {
            one_transaction(&target, rows)?;
        }
        let over = AtomicBool::new(false);
        let (took, mut waits) = thread::scope(|scope| {
            let other = self.beside.then(|| scope.spawn(|| write_beside(&target, &over)));
            // The caller has begun.
            thread::sleep(10 * PAUSE);
            let began = Instant::now();
            let ran = (self.run)(&target, rows);
            let took = began.elapsed();
            over.store(true, Relaxed);
            let waits = other.map_or(Ok(Vec::new()), |other| other.join().expect("the caller writes"));
            ran.and(waits).map(|waits| (took, waits))
        })?;
        waits.sort_unstable();
        let at = |part: f64| {
            let last = waits.len().saturating_sub(1);
            waits
                .get((last as f64 * part) as usize)
                .map_or(0.0, |wait| wait.as_secs_f64() * 1e3)
        };
        self.rates.push(rows as f64 / took.as_secs_f64());
        self.p50.push(at(0.5));
        self.p99.push(at(0.99));
        self.worst.push(at(1.0));
        let log = match &target {
            Target::Store(store) => store.stats().largest_wal_bytes,
            Target::Mutex(_) => {
                let mut log = path.as_os_str().to_owned();
                log.push("-wal");
                std::fs::metadata(log).map_or(0, |log| log.len())
            }
        };
        self.log.push(log as f64 / 1e6);
        Ok(())
    }
}

/// Writes a row every 2 ms, and returns how long each took.
fn write_beside(target: &Target, over: &AtomicBool) -> Result<Vec<Duration>> {
    let mut waits = Vec::new();
    while !over.load(Relaxed) {
        let began = Instant::now();
        match target {
            Target::Store(store) => drop(store.write(|tx| tx.execute(OTHER, []))?),
            Target::Mutex(conn) => drop(conn.lock().expect("no panic").execute(OTHER, [])?),
        }
        waits.push(began.elapsed());
        thread::sleep(PAUSE);
    }
    Ok(waits)
}

/// A row as a source makes it: the key is in random order.
fn row(id: i64) -> (i64, i64, String) {
    (
        id,
        id.wrapping_mul(6_364_136_223_846_793_005) >> 20,
        format!("the text of row {id}"),
    )
}

fn in_transaction(conn: &Connection, ids: std::ops::Range<i64>) -> Result<()> {
    conn.execute_batch("BEGIN IMMEDIATE")?;
    let mut insert = conn.prepare_cached(INSERT)?;
    for (id, key, text) in ids.map(row) {
        insert.execute(params![id, key, text])?;
    }
    Ok(conn.execute_batch("COMMIT")?)
}

fn insert_all(store: &Store, ids: std::ops::Range<i64>) -> Result<()> {
    store.write(move |tx| {
        for (id, key, text) in ids.map(row) {
            tx.execute(INSERT, params![id, key, text])?;
        }
        Ok(())
    })
}

fn one_transaction(target: &Target, rows: i64) -> Result<()> {
    match target {
        Target::Store(store) => insert_all(store, 0..rows),
        Target::Mutex(conn) => in_transaction(&conn.lock().expect("no panic"), 0..rows),
    }
}

fn loop_of_1000(target: &Target, rows: i64) -> Result<()> {
    let Target::Store(store) = target else {
        return loop_on_mutex(target, rows);
    };
    (0..rows)
        .step_by(1000)
        .try_for_each(|from| insert_all(store, from..(from + 1000).min(rows)))
}

fn loop_on_mutex(target: &Target, rows: i64) -> Result<()> {
    let Target::Mutex(conn) = target else {
        return loop_of_1000(target, rows);
    };
    (0..rows)
        .step_by(1000)
        .try_for_each(|from| in_transaction(&conn.lock().expect("no panic"), from..(from + 1000).min(rows)))
}

fn bulk(target: &Target, rows: i64) -> Result<()> {
    let Target::Store(store) = target else { return Ok(()) };
    store.bulk().insert(INSERT, (0..rows).map(row)).run().map(drop)
}

fn bulk_delete(target: &Target, rows: i64) -> Result<()> {
    let Target::Store(store) = target else { return Ok(()) };
    let report = store.bulk().delete("t", "id < ?1", (rows,)).run()?;
    assert_eq!(report.rows, rows.unsigned_abs());
    Ok(())
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
