//! The environment of the criterion benches: the parameters, the floor's connections, and threads that share a
//! count.

#![allow(dead_code, reason = "each bench uses a part of it")]

use std::hint::black_box;
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use criterion::Criterion;
use larder::rusqlite::{Connection, Statement};
use larder::{Access, Durability, Options, Store};

use crate::data::{self, Data, INSERT};

pub(crate) const THREADS: [usize; 4] = [1, 2, 8, 64];
pub(crate) const DURABILITIES: [(&str, Durability); 2] = [("NORMAL", Durability::Normal), ("FULL", Durability::Full)];
pub(crate) const ACCESSES: [(&str, Access); 2] = [("Shared", Access::Shared), ("Exclusive", Access::Exclusive)];

/// Few and short samples, and a tenth of criterion's resamples: a file of benches should finish in a minute and a half.
pub(crate) fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .nresamples(10_000)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}

/// The floor with the same access as the store: `Exclusive` is SQLite's VFS `unix-excl`.
pub(crate) fn connect(path: &Path, access: Access, durability: Durability) -> Connection {
    match access {
        Access::Shared => data::connect(path, durability),
        Access::Exclusive => {
            let uri = format!("file:{}?vfs=unix-excl", path.display());
            data::connect(Path::new(&uri), durability)
        }
    }
}

/// A store on a copy of the rows.
pub(crate) fn store(data: &Data, access: Access, durability: Durability) -> Store {
    let options = Options::new().access(access).durability(durability);
    options.open(data.copy("store.db")).expect("the store opens")
}

/// The floor on a copy of the rows.
pub(crate) fn floor(data: &Data, access: Access, durability: Durability) -> Connection {
    connect(&data.copy("floor.db"), access, durability)
}

/// A write with every statement prepared once.
pub(crate) struct Held<'conn> {
    begin: Statement<'conn>,
    insert: Statement<'conn>,
    commit: Statement<'conn>,
}

impl<'conn> Held<'conn> {
    pub(crate) fn new(conn: &'conn Connection) -> Self {
        let prepare = |sql| conn.prepare(sql).expect("the statement is prepared");
        Self {
            begin: prepare("BEGIN IMMEDIATE"),
            insert: prepare(INSERT),
            commit: prepare("COMMIT"),
        }
    }

    /// Inserts this many rows in one transaction.
    pub(crate) fn write(&mut self, rows: i64) {
        self.begin.execute([]).expect("begun");
        for user in 0..rows {
            self.insert.execute((user, "click")).expect("inserted");
        }
        self.commit.execute([]).expect("committed");
    }
}

/// A thread's share of the operations.
pub(crate) struct Turn<'a> {
    barrier: &'a Barrier,
    count: u64,
}

impl Turn<'_> {
    /// Waits for the other threads, then runs this thread's share. Returns the moment of its start.
    pub(crate) fn repeat<T>(self, mut operation: impl FnMut() -> T) -> Instant {
        self.barrier.wait();
        let began = Instant::now();
        for _ in 0..self.count {
            black_box(operation());
        }
        began
    }
}

/// Shares `iters` operations among as many threads as there are workers. Returns the time from the barrier, when the
/// first of them started, to the last join.
pub(crate) fn share<W: Send>(
    iters: u64,
    workers: &mut [W],
    work: impl Fn(&mut W, Turn<'_>) -> Instant + Sync,
) -> Duration {
    let threads = workers.len() as u64;
    let (barrier, work) = (&Barrier::new(workers.len()), &work);
    thread::scope(|scope| {
        let running: Vec<_> = workers
            .iter_mut()
            .zip(0..)
            .map(|(worker, n)| {
                let count = iters / threads + u64::from(n < iters % threads);
                scope.spawn(move || work(worker, Turn { barrier, count }))
            })
            .collect();
        let began = running
            .into_iter()
            .map(|thread| thread.join().expect("no thread panicked"))
            .min();
        began.expect("there is a thread").elapsed()
    })
}
