//! Concurrency: blocking writers by threads and durability, the documents' 10 writing threads, 1,024 submitted writes
//! in flight, and 64 threads with nine reads in ten operations.
//!
//! `cargo bench --bench concurrency`
//!
//! The floor is one connection with every PRAGMA that larder sets, behind a `Mutex`, as in many programs. As many
//! threads share it as call the store, or 64 where the store has one caller. The mixed load has a better floor,
//! too, in which each thread reads on its own connection and only the writes take the `Mutex`. A private connection
//! without any lock is the column of 1 thread, and `cargo bench --bench writes`.

mod cases;
mod data;

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use cases::{DURABILITIES, THREADS, share};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use data::{Data, INSERT, Random, SELECT};
use larder::rusqlite::Connection;
use larder::{Access, Durability, Pending, Store};

/// The documents' row "concurrent writes, 10 threads".
const DOCUMENTS: usize = 10;
/// Writes that are submitted and not yet waited for.
const IN_FLIGHT: usize = 1024;
/// Clients of the mixed load, and of the floor of the writes in flight.
const CLIENTS: usize = 64;
/// One operation in this many is a write in the mixed load.
const MIX: i64 = 10;

/// The connection and random numbers of one thread.
struct Client {
    conn: Connection,
    random: Random,
}

fn concurrency(c: &mut Criterion) {
    let data = Data::make();
    for (name, durability) in DURABILITIES {
        let store = cases::store(&data, Access::Shared, durability);
        let floor = Mutex::new(cases::floor(&data, Access::Shared, durability));
        writers(
            &mut group(c, &format!("blocking writers, {name}")),
            &store,
            &floor,
            &THREADS,
        );
        writers(
            &mut group(c, &format!("concurrent writes, {name}")),
            &store,
            &floor,
            &[DOCUMENTS],
        );
        in_flight(&mut group(c, &format!("writes in flight, {name}")), &store, &floor);
    }
    for (name, durability) in DURABILITIES {
        mixed(&mut group(c, &format!("mixed 90/10, {name}")), &data, durability);
    }
}

fn group<'a>(c: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group
        .throughput(Throughput::Elements(1))
        .sampling_mode(SamplingMode::Flat);
    group
}

fn writers(group: &mut BenchmarkGroup<'_, WallTime>, store: &Store, floor: &Mutex<Connection>, threads: &[usize]) {
    for &threads in threads {
        let mut callers = vec![(); threads];
        group.bench_function(BenchmarkId::new("store.write", threads), |b| {
            b.iter_custom(|iters| share(iters, &mut callers, |(), turn| turn.repeat(|| write(store))));
        });
        group.bench_function(BenchmarkId::new("Mutex<Connection>", threads), |b| {
            b.iter_custom(|iters| {
                share(iters, &mut callers, |(), turn| {
                    turn.repeat(|| data::write_in_transaction(&lock(floor)))
                })
            });
        });
    }
}

fn in_flight(group: &mut BenchmarkGroup<'_, WallTime>, store: &Store, floor: &Mutex<Connection>) {
    group.bench_function(BenchmarkId::new("store.submit", IN_FLIGHT), |b| {
        b.iter_custom(|iters| submit(store, iters));
    });
    let mut callers = vec![(); CLIENTS];
    group.bench_function(BenchmarkId::new("Mutex<Connection>, threads", CLIENTS), |b| {
        b.iter_custom(|iters| {
            share(iters, &mut callers, |(), turn| {
                turn.repeat(|| data::write_in_transaction(&lock(floor)))
            })
        });
    });
}

fn mixed(group: &mut BenchmarkGroup<'_, WallTime>, data: &Data, durability: Durability) {
    let store = cases::store(data, Access::Shared, durability);
    let path = data.copy("floor.db");
    let floor = Mutex::new(data::connect(&path, durability));
    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|n| Client {
            conn: data::connect(&path, durability),
            random: Random::seeded(n as u64),
        })
        .collect();
    group.bench_function(BenchmarkId::new("store", CLIENTS), |b| {
        b.iter_custom(|iters| {
            share(iters, &mut clients, |Client { random, .. }, turn| {
                turn.repeat(|| {
                    if random.below(MIX) == 0 {
                        write(&store);
                    } else {
                        read(&store, random.user());
                    }
                })
            })
        });
    });
    group.bench_function(BenchmarkId::new("Mutex<Connection>", CLIENTS), |b| {
        b.iter_custom(|iters| {
            share(iters, &mut clients, |Client { random, .. }, turn| {
                turn.repeat(|| {
                    if random.below(MIX) == 0 {
                        data::write_in_transaction(&lock(&floor));
                    } else {
                        data::read_in_transaction(&lock(&floor), random.user());
                    }
                })
            })
        });
    });
    group.bench_function(BenchmarkId::new("Mutex<Connection>, private readers", CLIENTS), |b| {
        b.iter_custom(|iters| {
            share(iters, &mut clients, |Client { conn, random }, turn| {
                turn.repeat(|| {
                    if random.below(MIX) == 0 {
                        data::write_in_transaction(&lock(&floor));
                    } else {
                        data::read_in_transaction(conn, random.user());
                    }
                })
            })
        });
    });
}

fn read(store: &Store, id: i64) -> String {
    store
        .read(|tx| tx.query_row(SELECT, [id], |row| row.get(0)))
        .expect("found")
}

fn write(store: &Store) -> i64 {
    store.write(|tx| tx.insert(INSERT, (1, "click"))).expect("written")
}

fn lock(conn: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    conn.lock().expect("nobody panicked")
}

/// One caller, which waits for a quarter of the writes whenever all are in flight.
fn submit(store: &Store, iters: u64) -> Duration {
    let mut pending = VecDeque::<Pending<i64>>::with_capacity(IN_FLIGHT);
    let began = Instant::now();
    for _ in 0..iters {
        if pending.len() == IN_FLIGHT {
            for write in pending.drain(..IN_FLIGHT / 4) {
                write.wait().expect("written");
            }
        }
        pending.push_back(store.submit(|tx| tx.insert(INSERT, (1, "click"))).expect("queued"));
    }
    for write in pending {
        write.wait().expect("written");
    }
    began.elapsed()
}

criterion_group! { name = benches; config = cases::criterion(); targets = concurrency }
criterion_main!(benches);
