//! The point read and the single-row write, each beside the same on a private connection.
//!
//! `cargo bench --bench first`. For ratios, which need both sides in the same moments, see `ratios.rs`.

mod data;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use data::{INSERT, Ids, SELECT};
use larder::Durability;

fn reads(c: &mut Criterion) {
    let folder = data::folder();
    let store = data::store(&folder, "store.db", Durability::Normal);
    let conn = data::connection(&folder, "floor.db", Durability::Normal);
    let mut group = c.benchmark_group("point read");
    group.throughput(Throughput::Elements(1));

    let mut ids = Ids::new();
    let mut next = || ids.next().expect("endless");
    group.bench_function("store.read", |b| {
        b.iter_batched(
            &mut next,
            |id| {
                store
                    .read(|tx| tx.query_row(SELECT, [id], |row| row.get::<_, String>(0)))
                    .expect("found")
            },
            BatchSize::SmallInput,
        );
    });
    group.bench_function("private connection, BEGIN..COMMIT", |b| {
        b.iter_batched(
            &mut next,
            |id| data::read_in_transaction(&conn, id),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn writes(c: &mut Criterion) {
    for (name, durability) in [("NORMAL", Durability::Normal), ("FULL", Durability::Full)] {
        let folder = data::folder();
        let store = data::store(&folder, "store.db", durability);
        let conn = data::connection(&folder, "floor.db", durability);
        let mut group = c.benchmark_group(format!("single-row write, {name}"));
        group.throughput(Throughput::Elements(1));
        group.bench_function("store.write", |b| {
            b.iter(|| store.write(|tx| tx.insert(INSERT, (1, "click"))).expect("written"));
        });
        group.bench_function("private connection, BEGIN IMMEDIATE..COMMIT", |b| {
            b.iter(|| data::write_in_transaction(&conn));
        });
        group.finish();
    }
}

criterion_group!(benches, reads, writes);
criterion_main!(benches);
