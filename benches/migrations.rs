//! Many migrations of a new database, and a hundred of a large table during reads: `cargo bench --bench migrations`.
//!
//! First the time in which larder applies 200, 800 and 2,000 migrations, and one that makes 2,000 tables, beside a plain
//! loop: `BEGIN`, the migration, `PRAGMA foreign_key_check`, `COMMIT`, with the same settings of the connection and of
//! the commits. Both sides run in turns; the output has both medians and the ratio.
//!
//! Then the large table:
//!
//! It builds a database of `LARDER_BENCH_MB` (default 1024) in `LARDER_BENCH_DIR` (default: the target folder), then
//! applies 100 migrations at run time: columns, tables, indexes, updates, rebuilds of a parent whose children refer to
//! it `ON DELETE CASCADE`, and one rebuild of the large table itself. Meanwhile two threads read one row after another.
//! The output is the time of each kind of migration, the latency of the reads with and without concurrent migrations,
//! the largest WAL, and the peak memory of the process (Linux only).

#[path = "migrations/many.rs"]
mod many;
mod measure;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use larder::rusqlite::params;
use larder::{Migration, Migrations, Options, Result, Store};
use measure::Latencies;

const ACCOUNTS: i64 = 20_000;
/// Bytes in the text of an event; a row is some 40 larger.
const BODY: usize = 460;
const READERS: usize = 2;

fn main() -> Result<()> {
    let quick = std::env::args().any(|arg| arg == "--test");
    many::compare(quick)?;
    if std::env::args().any(|arg| arg == "--many") {
        return Ok(());
    }
    let megabytes = std::env::var("LARDER_BENCH_MB").ok().and_then(|mb| mb.parse().ok());
    let megabytes: i64 = if quick { 2 } else { megabytes.unwrap_or(1024) };
    let parent = std::env::var("LARDER_BENCH_DIR").unwrap_or_else(|_| env!("CARGO_TARGET_TMPDIR").to_owned());
    let folder = tempfile::Builder::new()
        .prefix("larder-bench")
        .tempdir_in(parent)
        .expect("LARDER_BENCH_DIR can be written");
    let store = Options::new()
        .migrations(migrations().at_open(false))
        .open(folder.path().join("large.db"))?;
    store.migrate_to(1)?;
    let rows = megabytes * (1 << 20) / (BODY as i64 + 40);
    fill(&store, rows)?;
    let mb = |bytes: u64| bytes / (1 << 20);
    let file = fs::metadata(store.path()).map_or(0, |file| file.len());
    println!("{rows} rows, {} MB, memory so far {} MB", mb(file), memory_mb("VmHWM:"));
    println!(
        "the disk's own fsync: {:.1?} (median of 300)",
        measure::fsync(folder.path()).0
    );

    let alone = Readers::start(&store, rows);
    thread::sleep(if quick {
        Duration::from_millis(20)
    } else {
        Duration::from_secs(5)
    });
    print_reads("reads alone", alone.stop());

    let readers = Readers::start(&store, rows);
    let memory = Memory::watch();
    let began = Instant::now();
    let report = store.migrate()?;
    let took = began.elapsed();
    let anonymous = memory.stop();
    print_reads("reads beside the migrations", readers.stop());

    println!("\n{} migrations in {took:.1?}", report.steps.len());
    let mut kinds: Vec<(&str, Vec<Duration>)> = Vec::new();
    for step in &report.steps {
        match kinds.iter_mut().find(|(kind, _)| *kind == step.name) {
            Some((_, times)) => times.push(step.duration),
            None => kinds.push((&step.name, vec![step.duration])),
        }
    }
    for (kind, times) in &mut kinds {
        times.sort();
        let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
        println!(
            "  {:>3} x {kind:<34} median {median:>9.1?}  longest {longest:>9.1?}",
            times.len()
        );
    }
    let events: i64 = store.read(|tx| tx.query_row("SELECT count(*) FROM events", [], |row| row.get(0)))?;
    assert_eq!(events, rows, "no row of a child was lost");
    println!("largest write-ahead log {} MB", mb(store.stats().largest_wal_bytes));
    println!(
        "most memory {} MB, of which at most {anonymous} MB its own",
        memory_mb("VmHWM:")
    );
    println!("{}", store.close()?);
    Ok(())
}

/// The first migration creates the tables, the others are the hundred.
fn migrations() -> Migrations {
    let schema = "CREATE TABLE accounts(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT;
                  CREATE TABLE events(
                      id INTEGER PRIMARY KEY,
                      account INTEGER NOT NULL REFERENCES accounts(id) ON DELETE CASCADE,
                      at INTEGER NOT NULL,
                      body TEXT NOT NULL
                  ) STRICT;";
    let mut list = vec![Migration::new(1, "the tables", schema)];
    for n in 2..=101 {
        let (name, sql) = match n % 20 {
            0 => (
                "index on the large table",
                format!("CREATE INDEX events_{n} ON events(at, account)"),
            ),
            5 => (
                "update of 1 % of its rows",
                format!("UPDATE events SET at = at + 1 WHERE id % 100 = {}", n / 20),
            ),
            10 => ("rebuild of its parent", rebuild_of_the_parent().to_owned()),
            15 if n == 55 => ("rebuild of the large table", rebuild_of_the_large_table().to_owned()),
            even if even % 2 == 0 => (
                "new column of the large table",
                format!("ALTER TABLE events ADD COLUMN c{n} TEXT"),
            ),
            _ => (
                "new table",
                format!("CREATE TABLE t{n}(id INTEGER PRIMARY KEY, note TEXT) STRICT"),
            ),
        };
        list.push(Migration::new(n, name, sql));
    }
    Migrations::new(list)
}

fn rebuild_of_the_parent() -> &'static str {
    "CREATE TABLE accounts_new(id INTEGER PRIMARY KEY, name TEXT NOT NULL, mail TEXT) STRICT;
     INSERT INTO accounts_new(id, name) SELECT id, name FROM accounts;
     DROP TABLE accounts;
     ALTER TABLE accounts_new RENAME TO accounts;"
}

fn rebuild_of_the_large_table() -> &'static str {
    "CREATE TABLE events_new(
         id INTEGER PRIMARY KEY,
         account INTEGER NOT NULL REFERENCES accounts(id) ON DELETE CASCADE,
         at INTEGER NOT NULL CHECK (at >= 0),
         body TEXT NOT NULL
     ) STRICT;
     INSERT INTO events_new SELECT id, account, at, body FROM events;
     DROP TABLE events;
     ALTER TABLE events_new RENAME TO events;"
}

fn fill(store: &Store, rows: i64) -> Result<()> {
    store.write(|tx| {
        for id in 1..=ACCOUNTS {
            tx.execute(
                "INSERT INTO accounts VALUES (?1, ?2)",
                params![id, format!("account {id}")],
            )?;
        }
        Ok(())
    })?;
    let chunk = 20_000;
    for first in (1..=rows).step_by(chunk) {
        let last = rows.min(first + chunk as i64 - 1);
        store.write(move |tx| {
            for id in first..=last {
                let body = format!("{id:0BODY$}");
                tx.execute(
                    "INSERT INTO events VALUES (?1, ?2, ?3, ?4)",
                    params![id, id % ACCOUNTS + 1, id, body],
                )?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Threads that read one row after another, and time each read.
struct Readers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Latencies>>,
}

impl Readers {
    fn start(store: &Store, rows: i64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let start = |thread: usize| {
            let (store, stop) = (store.clone(), Arc::clone(&stop));
            thread::spawn(move || read_until(&store, &stop, rows, thread as u64 + 1))
        };
        let threads = (0..READERS).map(start).collect();
        Self { stop, threads }
    }

    fn stop(self) -> Latencies {
        self.stop.store(true, Relaxed);
        let times = self
            .threads
            .into_iter()
            .map(|thread| thread.join().expect("a reader does not panic"));
        times.fold(Latencies::new(), Latencies::join)
    }
}

fn read_until(store: &Store, stop: &AtomicBool, rows: i64, mut seed: u64) -> Latencies {
    let mut times = Latencies::new();
    while !stop.load(Relaxed) {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let id = (seed >> 33) as i64 % rows + 1;
        let began = Instant::now();
        let found: i64 = store
            .read(|tx| tx.query_row("SELECT id FROM events WHERE id = ?1", [id], |row| row.get(0)))
            .expect("a read goes well whatever is migrated");
        times.add(began.elapsed());
        assert_eq!(found, id);
    }
    times
}

fn print_reads(what: &str, times: Latencies) {
    println!(
        "{what:<28} {:>9} reads: p50 {:.1?}, p99 {:.1?}, p99.9 {:.1?}, longest {:.1?}",
        times.count(),
        times.at(0.5),
        times.at(0.99),
        times.at(0.999),
        times.longest
    );
}

/// The peak memory of the process, and the anonymous part of it (`RssAnon`: the rest is the mapped database file, which
/// the system reclaims when it needs to). The second is sampled every 10 ms.
struct Memory {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Memory {
    fn watch() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut most = 0;
            while !stopped.load(Relaxed) {
                most = most.max(memory_mb("RssAnon:"));
                thread::sleep(Duration::from_millis(10));
            }
            most
        });
        Self { stop, thread }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Relaxed);
        self.thread.join().expect("it only looks")
    }
}

fn memory_mb(what: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(what));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}
