//! Reads: one row by primary key, by threads and access; a join, a feed of 50 rows, a count with a filter and a range
//! of 100 rows, on one thread.
//!
//! `cargo bench --bench reads`
//!
//! The floor is the same read on a private connection, one per thread, with every PRAGMA that larder sets: in
//! `BEGIN` .. `COMMIT` like the store, in autocommit, both with `prepare_cached`, and with a held statement. The sides
//! run one after another; for ratios, whose sides must run in the same moments, see `ratios.rs`.

mod cases;
mod data;

use std::hint::black_box;

use cases::{ACCESSES, THREADS, connect, share};
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use data::{COUNT, Data, FEED, FEEDS, JOIN, POSTS, RANGE, Random, SELECT, USERS};
use larder::rusqlite::{self, Connection, Row, Statement};
use larder::{Access, Durability, Store};

/// Name, SQL, and the maximum of its parameter.
const QUERIES: [(&str, &str, i64); 4] = [
    ("join", JOIN, POSTS),
    ("feed", FEED, FEEDS),
    ("count", COUNT, USERS - 99),
    ("range of 100", RANGE, POSTS - 99),
];

/// The connection and random numbers of one thread.
struct Reader {
    conn: Connection,
    ids: Random,
}

fn reads(c: &mut Criterion) {
    let data = Data::make();
    point_reads(c, &data);
    queries(c, &data);
}

fn point_reads(c: &mut Criterion, data: &Data) {
    for (name, access) in ACCESSES {
        let store = cases::store(data, access, Durability::Normal);
        let floor = data.copy("floor.db");
        let mut readers: Vec<_> = (0..THREADS[THREADS.len() - 1])
            .map(|n| Reader {
                conn: connect(&floor, access, Durability::Normal),
                ids: Random::seeded(n as u64),
            })
            .collect();
        let mut group = c.benchmark_group(format!("point read, {name}"));
        group
            .throughput(Throughput::Elements(1))
            .sampling_mode(SamplingMode::Flat);
        for threads in THREADS {
            let readers = &mut readers[..threads];
            group.bench_function(BenchmarkId::new("store.read", threads), |b| {
                b.iter_custom(|iters| share(iters, readers, |r, turn| turn.repeat(|| read(&store, r.ids.user()))));
            });
            group.bench_function(BenchmarkId::new("private BEGIN..COMMIT cached", threads), |b| {
                b.iter_custom(|iters| {
                    share(iters, readers, |Reader { conn, ids }, turn| {
                        turn.repeat(|| data::read_in_transaction(conn, ids.user()))
                    })
                });
            });
            group.bench_function(BenchmarkId::new("private autocommit cached", threads), |b| {
                b.iter_custom(|iters| {
                    share(iters, readers, |Reader { conn, ids }, turn| {
                        turn.repeat(|| autocommit(conn, ids.user()))
                    })
                });
            });
            group.bench_function(BenchmarkId::new("private held statement", threads), |b| {
                b.iter_custom(|iters| {
                    share(iters, readers, |Reader { conn, ids }, turn| {
                        let mut statement = conn.prepare(SELECT).expect("the statement is prepared");
                        turn.repeat(|| statement.query_row([ids.user()], text).expect("found"))
                    })
                });
            });
        }
        group.finish();
    }
}

fn queries(c: &mut Criterion, data: &Data) {
    let store = cases::store(data, Access::Shared, Durability::Normal);
    let conn = cases::floor(data, Access::Shared, Durability::Normal);
    for (name, sql, last) in QUERIES {
        let mut held = conn.prepare(sql).expect("the statement is prepared");
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Elements(1));
        let mut ids = Random::new();
        group.bench_function("store.read", |b| {
            b.iter(|| data::read_rows(&store, sql, ids.below(last) + 1));
        });
        let mut ids = Random::new();
        group.bench_function("private BEGIN..COMMIT cached", |b| {
            b.iter(|| data::rows_in_transaction(&conn, sql, ids.below(last) + 1));
        });
        let mut ids = Random::new();
        group.bench_function("private autocommit cached", |b| {
            b.iter(|| data::rows(&conn, sql, ids.below(last) + 1));
        });
        let mut ids = Random::new();
        group.bench_function("private held statement", |b| {
            b.iter(|| held_rows(&mut held, ids.below(last) + 1).expect("the query goes well"));
        });
        group.finish();
    }
}

fn text(row: &Row<'_>) -> rusqlite::Result<String> {
    row.get(0)
}

fn read(store: &Store, id: i64) -> String {
    store.read(|tx| tx.query_row(SELECT, [id], text)).expect("found")
}

fn autocommit(conn: &Connection, id: i64) -> String {
    conn.prepare_cached(SELECT)
        .and_then(|mut statement| statement.query_row([id], text))
        .expect("found")
}

fn held_rows(statement: &mut Statement<'_>, id: i64) -> rusqlite::Result<usize> {
    let mut rows = statement.query([id])?;
    let mut count = 0;
    while let Some(row) = rows.next()? {
        black_box(row.get_ref(0)?);
        count += 1;
    }
    Ok(count)
}

criterion_group! { name = benches; config = cases::criterion(); targets = reads }
criterion_main!(benches);
