//! Many migrations of a new database, beside a plain loop.

use std::path::Path;
use std::time::{Duration, Instant};

use larder::rusqlite::Connection;
use larder::{Migration, Migrations, Options, Result};

use super::measure;

/// Makes a list of that many migrations.
type Make = fn(usize) -> Vec<String>;

pub(super) fn compare(quick: bool) -> Result<()> {
    let (counts, rounds): (&[usize], u32) = if quick { (&[20], 1) } else { (&[200, 800, 2000], 5) };
    let kinds: [(&str, Make); 4] = [
        ("new tables", tables),
        ("new tables that refer to others", children),
        ("tables, columns, indexes and rows", mixed),
        ("rows", rows),
    ];
    let mut cases: Vec<(&str, Make, usize)> = Vec::new();
    for (name, make) in kinds {
        cases.extend(counts.iter().map(|count| (name, make, *count)));
    }
    let largest = counts[counts.len() - 1];
    cases.push(("one migration with that many tables", one_with_all, largest));
    println!("migrations of a new database: larder, plain loop, ratio (lowest to highest)");
    for (name, make, count) in cases {
        let list = make(count);
        let per_second = |seconds: f64| 1.0 / seconds;
        let compared = measure::compare(
            rounds,
            || per_second(in_new_file(|path| with_larder(path, &list))),
            || per_second(in_new_file(|path| plain_loop(path, &list))),
        );
        let milliseconds = |rate: f64| 1000.0 / rate;
        println!(
            "  {count:>5} {name:<36} {:>8.1} ms {:>8.1} ms  {:.2} ({:.2} to {:.2})",
            milliseconds(compared.ours),
            milliseconds(compared.theirs),
            1.0 / compared.ratio,
            1.0 / compared.highest,
            1.0 / compared.lowest
        );
    }
    Ok(())
}

/// The seconds that it takes in a new file, from opening to the last commit. Closing is not measured: larder refreshes
/// the planner's statistics then.
fn in_new_file(run: impl FnOnce(&Path) -> Duration) -> f64 {
    let parent = std::env::var("LARDER_BENCH_DIR").unwrap_or_else(|_| env!("CARGO_TARGET_TMPDIR").to_owned());
    let folder = tempfile::tempdir_in(parent).expect("LARDER_BENCH_DIR can be written");
    run(&folder.path().join("app.db")).as_secs_f64()
}

fn with_larder(path: &Path, list: &[String]) -> Duration {
    let began = Instant::now();
    let migrations = (1..)
        .zip(list)
        .map(|(version, sql)| Migration::new(version, "step", sql));
    let store = Options::new()
        .migrations(Migrations::new(migrations))
        .open(path)
        .expect("the migrations are right");
    let took = began.elapsed();
    store.close().expect("it closes");
    took
}

fn plain_loop(path: &Path, list: &[String]) -> Duration {
    let began = Instant::now();
    let conn = Connection::open(path).expect("the folder can be written");
    conn.execute_batch(
        "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
         PRAGMA cache_size = -64000; PRAGMA mmap_size = 268435456; PRAGMA foreign_keys = OFF;",
    )
    .expect("the settings are right");
    for sql in list {
        conn.execute_batch("BEGIN IMMEDIATE").expect("no other process");
        conn.execute_batch(sql).expect("the migrations are right");
        let mut check = conn.prepare("PRAGMA foreign_key_check").expect("no mismatch");
        assert!(!check.exists([]).expect("it only reads"));
        drop(check);
        conn.execute_batch("COMMIT").expect("the disk has room");
    }
    let took = began.elapsed();
    conn.close().expect("nothing is open");
    took
}

fn table(n: usize) -> String {
    format!("CREATE TABLE t{n}(id INTEGER PRIMARY KEY, name TEXT NOT NULL, at INTEGER) STRICT;")
}

fn child(n: usize) -> String {
    let parent = n.saturating_sub(1);
    format!(
        "CREATE TABLE t{n}(id INTEGER PRIMARY KEY, name TEXT NOT NULL, up INTEGER REFERENCES t{parent}(id)) STRICT;
         INSERT INTO t{n} VALUES (1, 'first', 1);"
    )
}

fn tables(count: usize) -> Vec<String> {
    (0..count).map(table).collect()
}

fn children(count: usize) -> Vec<String> {
    (0..count).map(child).collect()
}

/// As a schema grows: every tenth makes a table, the others change one of those.
fn mixed(count: usize) -> Vec<String> {
    let one = |n: usize| {
        let (latest, some) = (n / 10, n * 7 % (n / 10 + 1));
        match n % 10 {
            0 => child(latest),
            1 | 4 => format!("ALTER TABLE t{some} ADD COLUMN c{n} TEXT"),
            2 | 5 => format!("CREATE INDEX i{n} ON t{some}(name)"),
            3 => format!("UPDATE t{some} SET name = name || 'x'"),
            6 => format!("CREATE VIEW v{n} AS SELECT name FROM t{some}"),
            _ => format!("INSERT INTO t{some}(name) VALUES ('row {n}')"),
        }
    };
    (0..count).map(one).collect()
}

fn rows(count: usize) -> Vec<String> {
    let insert = |n| format!("INSERT INTO t0(name) VALUES ('row {n}')");
    (0..count).map(|n| if n == 0 { table(0) } else { insert(n) }).collect()
}

fn one_with_all(count: usize) -> Vec<String> {
    vec![tables(count).concat()]
}
