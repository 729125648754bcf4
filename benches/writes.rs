//! Writes: one row per transaction from one blocking caller, by durability and access.
//!
//! `cargo bench --bench writes`
//!
//! The floor is `BEGIN IMMEDIATE` .. `COMMIT` on a private connection with every PRAGMA that larder sets, with
//! `prepare_cached` and with held statements, and one INSERT in autocommit. The lower bound is the disk: one page
//! written to a file and one fsync, which a commit with FULL cannot do without.

mod cases;
mod data;

use std::fs::File;
use std::os::unix::fs::FileExt;

use cases::{ACCESSES, DURABILITIES, Held};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use data::{Data, INSERT};
use larder::Store;
use larder::rusqlite::Connection;

/// A page of the database.
const PAGE: usize = 4096;
/// Pages that are written in turn, as many as the WAL has at a checkpoint.
const PAGES: u64 = 1000;

fn writes(c: &mut Criterion) {
    let data = Data::make();
    let mut group = c.benchmark_group("single-row insert");
    group.throughput(Throughput::Elements(1));
    for (durability_name, durability) in DURABILITIES {
        for (access_name, access) in ACCESSES {
            let case = format!("{durability_name}, {access_name}");
            let store = cases::store(&data, access, durability);
            let conn = cases::floor(&data, access, durability);
            group.bench_function(BenchmarkId::new("store.write", &case), |b| b.iter(|| write(&store)));
            group.bench_function(BenchmarkId::new("private BEGIN IMMEDIATE..COMMIT cached", &case), |b| {
                b.iter(|| data::write_in_transaction(&conn));
            });
            let mut held = Held::new(&conn);
            group.bench_function(BenchmarkId::new("private BEGIN IMMEDIATE..COMMIT held", &case), |b| {
                b.iter(|| held.write(1));
            });
            group.bench_function(BenchmarkId::new("private autocommit cached", &case), |b| {
                b.iter(|| autocommit(&conn));
            });
        }
    }
    group.finish();
    disk(c, &data);
}

fn disk(c: &mut Criterion, data: &Data) {
    let file = File::create(data.folder().join("disk")).expect("the file is made");
    let page = [1; PAGE];
    let mut pages = (0..PAGES).cycle().map(|n| n * PAGE as u64);
    let mut write = || {
        let offset = pages.next().expect("endless");
        file.write_all_at(&page, offset).expect("written");
    };
    // The blocks of the file are allocated already, like those of the WAL.
    (0..PAGES).for_each(|_| write());
    file.sync_all().expect("synced");
    let mut group = c.benchmark_group("disk");
    group.throughput(Throughput::Elements(1));
    group.bench_function("one page, fsync", |b| {
        b.iter(|| {
            write();
            file.sync_all().expect("synced");
        });
    });
    group.bench_function("one page, fdatasync", |b| {
        b.iter(|| {
            write();
            file.sync_data().expect("synced");
        });
    });
    group.finish();
}

fn write(store: &Store) -> i64 {
    store.write(|tx| tx.insert(INSERT, (1, "click"))).expect("written")
}

fn autocommit(conn: &Connection) -> i64 {
    conn.prepare_cached(INSERT)
        .and_then(|mut statement| statement.insert((1, "click")))
        .expect("written")
}

criterion_group! { name = benches; config = cases::criterion(); targets = writes }
criterion_main!(benches);
