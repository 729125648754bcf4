//! Settings: the effect of the PRAGMAs, each against SQLite's default, on one private connection without larder.
//!
//! `cargo bench --bench settings`
//!
//! - defaults and production: reads of one row and of a row of two tables; inserts of one row. The defaults are a plain
//!   `Connection::open` with no PRAGMA at all, on a file with a rollback journal; production is every PRAGMA that
//!   larder sets.
//! - `synchronous`: NORMAL and FULL, in WAL mode and with a rollback journal.
//! - `mmap_size`: on and off, for point reads and for scans of the largest table, with larder's cache size and with
//!   SQLite's default, a small cache that just holds the smaller table.
//!
//! The floor is the connection with the defaults. Both sides use `prepare_cached` or both hold their statement, so
//! only the settings differ; and the file is in the system's page cache, as that of a running service is.

mod cases;
mod data;

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use data::{Data, INSERT, JOIN, POSTS, Random, SELECT, USERS};
use larder::Durability;
use larder::rusqlite::{self, Connection, Statement};

/// Name, SQL, and the maximum of its parameter: a table of some 2 MB, and one of some 60 MB.
const POINTS: [(&str, &str, i64); 2] = [("point read", SELECT, USERS), ("join", JOIN, POSTS)];
/// Every page of the largest table.
const SCAN: &str = "SELECT sum(length(body)) FROM posts WHERE id > ?1";

fn settings(c: &mut Criterion) {
    let data = Data::make();
    reads(c, &data);
    inserts(c, &data);
    mmap(c, &data);
}

fn reads(c: &mut Criterion, data: &Data) {
    let sides = [
        ("defaults", defaults(data, "defaults.db")),
        ("production", production(data, "production.db", Durability::Normal)),
    ];
    points(c, "settings", &sides);
}

fn inserts(c: &mut Criterion, data: &Data) {
    let defaults_but_normal = defaults(data, "defaults-normal.db");
    let sides = [
        ("defaults", defaults(data, "defaults.db")),
        (
            "defaults but NORMAL",
            changed(defaults_but_normal, "synchronous = NORMAL"),
        ),
        (
            "production but FULL",
            production(data, "production-full.db", Durability::Full),
        ),
        ("production", production(data, "production.db", Durability::Normal)),
    ];
    let mut group = c.benchmark_group("settings, single-row insert");
    group.throughput(Throughput::Elements(1));
    for (side, conn) in &sides {
        group.bench_function(BenchmarkId::new("cached", side), |b| {
            b.iter(|| cached(conn, INSERT, |insert| insert.insert((1, "click"))));
        });
        let mut insert = conn.prepare(INSERT).expect("the statement is prepared");
        group.bench_function(BenchmarkId::new("held", side), |b| {
            b.iter(|| insert.insert((1, "click")).expect("written"));
        });
    }
    group.finish();
}

fn mmap(c: &mut Criterion, data: &Data) {
    let conn = |name| production(data, name, Durability::Normal);
    let small = |name| changed(conn(name), "cache_size = -2000");
    let sides = [
        ("off", changed(conn("off.db"), "mmap_size = 0")),
        ("on", conn("on.db")),
        ("off, small cache", changed(small("off-small.db"), "mmap_size = 0")),
        ("on, small cache", small("on-small.db")),
    ];
    points(c, "mmap", &sides);
    let mut group = c.benchmark_group("mmap, scan");
    group
        .throughput(Throughput::Elements(POSTS as u64))
        .sampling_mode(SamplingMode::Flat)
        .measurement_time(Duration::from_secs(2));
    for (side, conn) in &sides {
        group.bench_function(BenchmarkId::new("cached", side), |b| {
            b.iter(|| data::rows(conn, SCAN, 0));
        });
    }
    group.finish();
}

fn points(c: &mut Criterion, theme: &str, sides: &[(&str, Connection)]) {
    for (name, sql, last) in POINTS {
        let mut group = c.benchmark_group(format!("{theme}, {name}"));
        group.throughput(Throughput::Elements(1));
        for (side, conn) in sides {
            let mut ids = Random::new();
            group.bench_function(BenchmarkId::new("cached", side), |b| {
                b.iter(|| cached(conn, sql, |select| text(select, ids.below(last) + 1)));
            });
            let mut ids = Random::new();
            let mut select = conn.prepare(sql).expect("the statement is prepared");
            group.bench_function(BenchmarkId::new("held", side), |b| {
                b.iter(|| text(&mut select, ids.below(last) + 1).expect("found"));
            });
        }
        group.finish();
    }
}

/// SQLite without any configuration.
fn defaults(data: &Data, name: &str) -> Connection {
    let path = data.copy(name);
    // WAL mode is the only one of these settings that the file keeps.
    let conn = Connection::open(&path).expect("the connection opens");
    let mode: String = conn
        .pragma_update_and_check(None, "journal_mode", "DELETE", |row| row.get(0))
        .expect("the journal mode is set");
    assert_eq!(mode, "delete");
    conn.close().expect("the file closes");
    Connection::open(&path).expect("the connection opens")
}

fn production(data: &Data, name: &str, durability: Durability) -> Connection {
    data::connect(&data.copy(name), durability)
}

fn changed(conn: Connection, pragma: &str) -> Connection {
    conn.execute_batch(&format!("PRAGMA {pragma}"))
        .expect("the PRAGMA is set");
    conn
}

fn cached<T>(conn: &Connection, sql: &str, f: impl FnOnce(&mut Statement<'_>) -> rusqlite::Result<T>) -> T {
    conn.prepare_cached(sql)
        .and_then(|mut statement| f(&mut statement))
        .expect("the statement goes well")
}

fn text(select: &mut Statement<'_>, id: i64) -> rusqlite::Result<String> {
    select.query_row([id], |row| row.get(0))
}

criterion_group! { name = benches; config = cases::criterion(); targets = settings }
criterion_main!(benches);
