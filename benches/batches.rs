//! Batches: transactions of 1,000 rows, by durability and access. The result is in rows, not transactions.
//!
//! `cargo bench --bench batches`
//!
//! The floor is the same transaction on a private connection with every PRAGMA that larder sets, with
//! `prepare_cached` and with held statements.

mod cases;
mod data;

use std::time::Duration;

use cases::{ACCESSES, DURABILITIES, Held};
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use data::Data;

const ROWS: i64 = 1_000;

fn batches(c: &mut Criterion) {
    let data = Data::make();
    let mut group = c.benchmark_group(format!("batch of {ROWS} rows"));
    group
        .throughput(Throughput::Elements(ROWS as u64))
        .sampling_mode(SamplingMode::Flat)
        .sample_size(20)
        .measurement_time(Duration::from_secs(2));
    for (durability_name, durability) in DURABILITIES {
        for (access_name, access) in ACCESSES {
            let case = format!("{durability_name}, {access_name}");
            let store = cases::store(&data, access, durability);
            let conn = cases::floor(&data, access, durability);
            group.bench_function(BenchmarkId::new("store.write", &case), |b| {
                b.iter(|| data::batch(&store, ROWS));
            });
            group.bench_function(BenchmarkId::new("private cached", &case), |b| {
                b.iter(|| data::batch_in_transaction(&conn, ROWS));
            });
            let mut held = Held::new(&conn);
            group.bench_function(BenchmarkId::new("private held", &case), |b| b.iter(|| held.write(ROWS)));
        }
    }
    group.finish();
}

criterion_group! { name = benches; config = cases::criterion(); targets = batches }
criterion_main!(benches);
