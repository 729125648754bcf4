//! Tasks of a runtime that read and write, on as many of its threads as there are cores; beside them threads that do the
//! same by blocking. And what a read of 100 ms in one task does to the others.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use larder::{Durability, Options, ReadTx, Store};
use tokio::runtime::Runtime;

use crate::Run;
use crate::data::{Data, INSERT, Random, SELECT};
use crate::load::{Load, load};
use crate::measure::Latencies;

/// How many steps of progress there are.
pub(crate) const STEPS: u64 = 3;

/// How long the long read takes, about.
const LONG: Duration = Duration::from_millis(100);

pub(crate) fn measure(run: &Run, data: &Data) -> Vec<Load> {
    let runtime = Runtime::new().expect("a runtime");
    let tasks = Tasks {
        runtime: &runtime,
        time: run.load,
    };
    let mut loads = Vec::new();
    run.step("tasks that read");
    let store = data.store("store.db", Options::new());
    loads.push(
        tasks.blocking("2 threads, point reads with `read`", 2, &store, |store, user| {
            name(store, user).is_ok()
        }),
    );
    for clients in [64, 1024] {
        loads.push(tasks.run(&format!("{clients} tasks, point reads"), clients, &store, read));
    }
    run.step("a long read among others");
    let count = steps(&store);
    loads.push(tasks.run("63 tasks, point reads with 4 readers", 63, &store, read));
    loads.push(tasks.beside_long_reads(&store, count));
    store.close().expect("the store closes");
    run.step("tasks that write");
    for durability in [Durability::Normal, Durability::Full] {
        let store = data.store("store.db", Options::new().durability(durability));
        for clients in [64, 1024] {
            loads.push(tasks.run(
                &format!("{clients} tasks, writes, {durability:?}"),
                clients,
                &store,
                write,
            ));
        }
        store.close().expect("the store closes");
    }
    loads
}

fn select(tx: &ReadTx<'_>, user: i64) -> larder::Result<String> {
    tx.query_row(SELECT, [user], |row| row.get(0))
}

fn name(store: &Store, user: i64) -> larder::Result<String> {
    store.read(|tx| select(tx, user))
}

async fn read(store: Arc<Store>, user: i64) -> bool {
    store.read_async(move |tx| select(tx, user)).await.is_ok()
}

async fn write(store: Arc<Store>, user: i64) -> bool {
    store
        .write_async(move |tx| tx.insert(INSERT, (user, "click")))
        .await
        .is_ok()
}

fn counting(tx: &ReadTx<'_>, to: i64) -> larder::Result<i64> {
    let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1) SELECT count(*) FROM n";
    tx.query_row(sql, [to], |row| row.get(0))
}

/// How far to count for it to take [`LONG`].
fn steps(store: &Store) -> i64 {
    let steps = 200_000;
    let began = Instant::now();
    store.read(|tx| counting(tx, steps)).expect("it counts");
    (steps as f64 * LONG.as_secs_f64() / began.elapsed().as_secs_f64()) as i64
}

struct Tasks<'a> {
    runtime: &'a Runtime,
    time: Duration,
}

impl Tasks<'_> {
    /// Tasks each of which begins its next operation as soon as it is through with the last.
    fn run<F>(&self, name: &str, clients: u64, store: &Store, operation: fn(Arc<Store>, i64) -> F) -> Load
    where
        F: Future<Output = bool> + Send + 'static,
    {
        let start = Instant::now();
        let end = start + self.time;
        let store = Arc::new(store.clone());
        let client = |seed| {
            let store = Arc::clone(&store);
            self.runtime.spawn(async move {
                let mut random = Random::seeded(seed);
                let (mut latencies, mut errors) = (Latencies::new(), 0);
                let mut began = start;
                while began < end {
                    errors += u64::from(!operation(Arc::clone(&store), random.user()).await);
                    let ended = Instant::now();
                    latencies.add(ended - began);
                    began = ended;
                }
                (latencies, errors)
            })
        };
        let clients: Vec<_> = (0..clients).map(client).collect();
        let ended = clients
            .into_iter()
            .map(|client| self.runtime.block_on(client).expect("no task panics"));
        let (latencies, errors) = ended.fold((Latencies::new(), 0), |(all, errors), (latencies, more)| {
            (all.join(latencies), errors + more)
        });
        load(name.to_owned(), None, start, errors, latencies)
    }

    fn blocking(
        &self,
        name: &str,
        threads: u64,
        store: &Store,
        operation: impl Fn(&Store, i64) -> bool + Sync,
    ) -> Load {
        let start = Instant::now();
        let end = start + self.time;
        let client = |seed| {
            let mut random = Random::seeded(seed);
            let (mut latencies, mut errors) = (Latencies::new(), 0);
            let mut began = start;
            while began < end {
                errors += u64::from(!operation(store, random.user()));
                let ended = Instant::now();
                latencies.add(ended - began);
                began = ended;
            }
            (latencies, errors)
        };
        let (latencies, errors) = std::thread::scope(|scope| {
            let client = &client;
            let clients: Vec<_> = (0..threads).map(|seed| scope.spawn(move || client(seed))).collect();
            let ended = clients
                .into_iter()
                .map(|client| client.join().expect("no thread panics"));
            ended.fold((Latencies::new(), 0), |(all, errors), (latencies, more)| {
                (all.join(latencies), errors + more)
            })
        });
        load(name.to_owned(), None, start, errors, latencies)
    }

    /// As [`run`](Self::run), beside one task that makes one long read after another.
    fn beside_long_reads(&self, store: &Store, steps: i64) -> Load {
        let end = Instant::now() + self.time;
        let long = store.clone();
        let long = self.runtime.spawn(async move {
            while Instant::now() < end {
                long.read_async(move |tx| counting(tx, steps)).await.expect("it counts");
            }
        });
        let others = self.run(
            "the same, beside a task that reads for 100 ms at a time",
            63,
            store,
            read,
        );
        self.runtime.block_on(long).expect("no task panics");
        others
    }
}
