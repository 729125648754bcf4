//! The ways to write many rows, and the caller beside them. Also a part of `benches/peers/bulk`, which adds others.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use larder::rusqlite::{self, Connection, params};
use larder::{Options, Result, Store};

pub(crate) const SCHEMA: &str =
    "CREATE TABLE t(id INTEGER PRIMARY KEY, key INTEGER NOT NULL, text TEXT NOT NULL) STRICT;
                          CREATE INDEX t_by_key ON t(key);
                          CREATE TABLE other(n INTEGER) STRICT";
const INSERT: &str = "INSERT INTO t(id, key, text) VALUES (?1, ?2, ?3)";
pub(crate) const OTHER: &str = "INSERT INTO other VALUES (1)";

/// Connections that are not larder's are set up so.
pub(crate) const SET_UP: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL";

/// The ways that the others are compared with.
const ONE_TRANSACTION: &str = "one transaction";
const ONE_DELETE: &str = "one DELETE";

/// The pause between two writes of the other caller.
const PAUSE: Duration = Duration::from_millis(2);

/// Twice the default of `Options::wal_limit`.
const MOST_LOG: u64 = 2 * (64 << 20);

/// A database, shared by the load and the other caller.
pub(crate) trait Target: Sync {
    /// Creates the tables.
    fn create(&self) -> Result<()>;

    /// Writes the row of the other caller.
    fn write_one(&self) -> Result<()>;

    /// Writes these rows in one transaction.
    fn write_rows(&self, ids: Range<i64>) -> Result<()>;

    /// larder's store, if it is one.
    fn store(&self) -> Option<&Store> {
        None
    }
}

impl Target for Store {
    fn create(&self) -> Result<()> {
        self.write(|tx| tx.execute_batch(SCHEMA))
    }

    fn write_one(&self) -> Result<()> {
        self.write(|tx| tx.execute(OTHER, []).map(drop))
    }

    fn write_rows(&self, ids: Range<i64>) -> Result<()> {
        self.write(move |tx| {
            for (id, key, text) in ids.map(row) {
                tx.execute(INSERT, params![id, key, text])?;
            }
            Ok(())
        })
    }

    fn store(&self) -> Option<&Store> {
        Some(self)
    }
}

impl Target for Mutex<Connection> {
    fn create(&self) -> Result<()> {
        Ok(self.lock().expect("no panic").execute_batch(SCHEMA)?)
    }

    fn write_one(&self) -> Result<()> {
        Ok(self.lock().expect("no panic").execute(OTHER, []).map(drop)?)
    }

    fn write_rows(&self, ids: Range<i64>) -> Result<()> {
        Ok(in_transaction(&self.lock().expect("no panic"), ids)?)
    }
}

/// A row as a source makes it: the key is in random order.
fn row(id: i64) -> (i64, i64, String) {
    (
        id,
        id.wrapping_mul(6_364_136_223_846_793_005) >> 20,
        format!("the text of row {id}"),
    )
}

pub(crate) fn in_transaction(conn: &Connection, ids: Range<i64>) -> rusqlite::Result<()> {
    conn.execute_batch("BEGIN IMMEDIATE")?;
    let mut insert = conn.prepare_cached(INSERT)?;
    for (id, key, text) in ids.map(row) {
        insert.execute(params![id, key, text])?;
    }
    conn.execute_batch("COMMIT")
}

fn open_store(path: &Path) -> Result<Box<dyn Target>> {
    Ok(Box::new(Options::new().open(path)?))
}

fn open_mutex(path: &Path) -> Result<Box<dyn Target>> {
    let conn = Connection::open(path)?;
    conn.execute_batch(SET_UP)?;
    Ok(Box::new(Mutex::new(conn)))
}

pub(crate) fn one_transaction(target: &dyn Target, rows: i64) -> Result<()> {
    target.write_rows(0..rows)
}

pub(crate) fn loop_of_1000(target: &dyn Target, rows: i64) -> Result<()> {
    let mut froms = (0..rows).step_by(1000);
    froms.try_for_each(|from| target.write_rows(from..(from + 1000).min(rows)))
}

fn bulk(target: &dyn Target, rows: i64) -> Result<()> {
    let store = target.store().expect("it is larder's");
    store.bulk().insert(INSERT, (0..rows).map(row)).run().map(drop)
}

fn bulk_delete(target: &dyn Target, rows: i64) -> Result<()> {
    let store = target.store().expect("it is larder's");
    let report = store.bulk().delete("t", "id < ?1", (rows,)).run()?;
    assert_eq!(report.rows, rows.unsigned_abs());
    Ok(())
}

fn one_delete(target: &dyn Target, rows: i64) -> Result<()> {
    let store = target.store().expect("it is larder's");
    let deleted = store.write(move |tx| tx.execute("DELETE FROM t WHERE id < ?1", [rows]))?;
    assert_eq!(deleted as u64, rows.unsigned_abs());
    Ok(())
}

type Open = fn(&Path) -> Result<Box<dyn Target>>;
type Run = fn(&dyn Target, i64) -> Result<()>;

pub(crate) struct Way {
    name: String,
    beside: bool,
    open: Open,
    run: Run,
    /// Whether the rows are in the table before.
    is_filled: bool,
    rates: Vec<f64>,
    /// In milliseconds: all writes of the other caller, and those during which no checkpoint ended.
    waits: Waits,
    waits_without: Waits,
    /// In bytes.
    log: Vec<f64>,
    checkpoints: u64,
    is_larders: bool,
}

#[derive(Default)]
struct Waits {
    p50: Vec<f64>,
    p99: Vec<f64>,
    worst: Vec<f64>,
}

impl Waits {
    fn add(&mut self, mut waits: Vec<Duration>) {
        waits.sort_unstable();
        let last = waits.len().saturating_sub(1);
        let at = |part: f64| {
            let wait = waits.get((last as f64 * part) as usize);
            wait.map_or(0.0, |wait| wait.as_secs_f64() * 1e3)
        };
        self.p50.push(at(0.5));
        self.p99.push(at(0.99));
        self.worst.push(at(1.0));
    }
}

/// A write of the other caller.
struct Wait {
    took: Duration,
    had_checkpoint: bool,
}

/// A way alone, and beside the other caller.
pub(crate) fn pair(name: &str, open: Open, run: Run) -> [Way; 2] {
    let way = |beside, name| Way {
        name,
        beside,
        open,
        run,
        is_filled: false,
        rates: Vec::new(),
        waits: Waits::default(),
        waits_without: Waits::default(),
        log: Vec::new(),
        checkpoints: 0,
        is_larders: false,
    };
    [way(false, name.to_owned()), way(true, format!("{name}, beside"))]
}

/// The same on a table that has all rows.
fn filled(ways: [Way; 2]) -> [Way; 2] {
    ways.map(|way| Way { is_filled: true, ..way })
}

/// larder's ways, and those on a connection that callers lock.
pub(crate) fn all() -> Vec<Way> {
    [
        pair(ONE_TRANSACTION, open_store, one_transaction),
        pair("loop of 1000", open_store, loop_of_1000),
        pair("loop of 1000, Mutex", open_mutex, loop_of_1000),
        pair("bulk", open_store, bulk),
        filled(pair(ONE_DELETE, open_store, one_delete)),
        filled(pair("bulk delete", open_store, bulk_delete)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl Way {
    fn is_wanted(&self, wanted: &str) -> bool {
        wanted.split(';').any(|part| match part.strip_suffix('.') {
            Some(whole) => self.name == whole,
            None => self.name.contains(part),
        })
    }

    fn round(&mut self, path: &Path, rows: i64) -> Result<()> {
        {
            let target = (self.open)(path)?;
            target.create()?;
            if self.is_filled {
                // They are in the file as the store opens, and not in its log.
                for from in (0..rows).step_by(100_000) {
                    target.write_rows(from..(from + 100_000).min(rows))?;
                }
            }
        }
        let target = (self.open)(path)?;
        let target = &*target;
        let over = AtomicBool::new(false);
        let (took, waits) = thread::scope(|scope| {
            let other = self.beside.then(|| scope.spawn(|| write_beside(target, &over)));
            // The caller has begun.
            thread::sleep(10 * PAUSE);
            let began = Instant::now();
            let ran = (self.run)(target, rows);
            let took = began.elapsed();
            over.store(true, Relaxed);
            let waits = other.map_or(Ok(Vec::new()), |other| other.join().expect("the caller writes"));
            ran.and(waits).map(|waits| (took, waits))
        })?;
        self.rates.push(rows as f64 / took.as_secs_f64());
        let without = waits.iter().filter(|wait| !wait.had_checkpoint).map(|wait| wait.took);
        self.waits_without.add(without.collect());
        self.waits.add(waits.into_iter().map(|wait| wait.took).collect());
        self.checkpoints += checkpoints(target);
        self.is_larders = target.store().is_some();
        let log = match target.store() {
            Some(store) => store.stats().largest_wal_bytes,
            None => {
                let mut log = path.as_os_str().to_owned();
                log.push("-wal");
                std::fs::metadata(log).map_or(0, |log| log.len())
            }
        };
        self.log.push(log as f64);
        Ok(())
    }

    fn print(&self, base: f64) {
        let with = [&self.waits.p50, &self.waits.p99, &self.waits.worst].map(|all| median(all));
        let without = [&self.waits_without.p99, &self.waits_without.worst].map(|all| median(all));
        let log = median(&self.log);
        let cell = |number: f64, is_there: bool| match is_there {
            true => format!("{number:.2}"),
            false => String::new(),
        };
        println!(
            "{:<40} {:>9.0} {:>5} {:>8} {:>8} {:>8} {:>8} {:>8} {:>6.1}{} {:>6}",
            self.name,
            median(&self.rates),
            cell(median(&self.rates) / base, base > 0.0),
            cell(with[0], self.beside),
            cell(with[1], self.beside),
            cell(with[2], self.beside),
            cell(without[0], self.beside && self.is_larders),
            cell(without[1], self.beside && self.is_larders),
            log / 1e6,
            if log > MOST_LOG as f64 { "!" } else { " " },
            self.checkpoints,
        );
    }
}

fn checkpoints(target: &dyn Target) -> u64 {
    target.store().map_or(0, |store| {
        let stats = store.stats();
        stats.checkpoints + stats.unfinished_checkpoints
    })
}

/// Writes a row every 2 ms, and returns how long each took.
fn write_beside(target: &dyn Target, over: &AtomicBool) -> Result<Vec<Wait>> {
    let mut waits = Vec::new();
    while !over.load(Relaxed) {
        let before = checkpoints(target);
        let began = Instant::now();
        target.write_one()?;
        waits.push(Wait {
            took: began.elapsed(),
            had_checkpoint: checkpoints(target) != before,
        });
        thread::sleep(PAUSE);
    }
    Ok(waits)
}

/// Runs all ways in turns, and prints the table.
pub(crate) fn run(is_bench: bool, mut ways: Vec<Way>) -> Result<()> {
    let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().expect(name));
    let rows = number("LARDER_BENCH_ROWS", if is_bench { 400_000 } else { 4000 });
    let rounds = number("LARDER_BENCH_ROUNDS", if is_bench { 5 } else { 1 });
    let wanted = std::env::var("LARDER_BENCH_WAYS").unwrap_or_default();
    let parent = std::env::var_os("LARDER_BENCH_DIR").map_or_else(target_folder, PathBuf::from);
    ways.retain(|way| way.is_wanted(&wanted));
    for _ in 0..rounds {
        for way in &mut ways {
            let folder = tempfile::tempdir_in(&parent).expect("LARDER_BENCH_DIR can be written");
            way.round(&folder.path().join("app.db"), rows)?;
        }
    }
    let rate = |name: &str| {
        let way = ways.iter().find(|way| way.name == name);
        way.map_or(0.0, |way| median(&way.rates))
    };
    let (of_insertion, of_deletion) = (rate(ONE_TRANSACTION), rate(ONE_DELETE));
    println!(
        "{rows} rows, {rounds} rounds; waits in ms\n{:<40} {:>9} {:>5} {:>8} {:>8} {:>8} {:>8} {:>8} {:>7} {:>6}",
        "", "rows/s", "", "p50", "p99", "longest", "p99", "longest", "log", "check-"
    );
    println!(
        "{:<40} {:>9} {:>5} {:>8} {:>8} {:>8} {:>8} {:>8} {:>7} {:>6}",
        "", "", "", "", "", "", "no cp", "no cp", "MB", "points"
    );
    for way in &ways {
        way.print(if way.is_filled { of_deletion } else { of_insertion });
    }
    Ok(())
}

/// A folder on the disk where programs are built.
fn target_folder() -> PathBuf {
    let program = std::env::current_exe().expect("the program has a path");
    program.parent().map_or_else(std::env::temp_dir, Path::to_owned)
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
