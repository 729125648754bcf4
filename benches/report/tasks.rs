//! Tasks of a runtime that read and write, on as many threads as there are cores, compared with threads that block. And
//! the effect of a read of 100 ms in one task on the others: slices with such reads and without, in turns.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use larder::{Durability, Options, ReadTx, Store, WriteTx};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::data::{Data, INSERT, Random, SELECT};
use crate::load::{Load, load};
use crate::measure::{Latencies, median};
use crate::{ROUNDS, Run};

/// The number of progress steps.
pub(crate) const STEPS: u64 = 4;

/// The duration of a long read, plus the overrun of its last statement.
const LONG: Duration = Duration::from_millis(100);

const READERS: u32 = 4;

/// The effect of consecutive long reads on the short reads of other tasks.
pub(crate) struct LongReads {
    pub(crate) number: usize,
    /// The median duration, in seconds.
    pub(crate) length: f64,
    /// The 99th percentile of the others in seconds, without and with long reads: medians of the slices.
    pub(crate) without: f64,
    pub(crate) with: f64,
    /// The median difference of neighbouring slices, the lowest and the highest.
    pub(crate) added: f64,
    pub(crate) lowest: f64,
    pub(crate) highest: f64,
}

/// Where the time of an operation goes that has nothing beside it: medians.
pub(crate) struct Parts {
    pub(crate) name: &'static str,
    /// From the call to the closure: the way there, and for a write also BEGIN.
    pub(crate) before: Duration,
    /// The closure.
    pub(crate) inside: Duration,
    /// From the closure to the caller: the way back, and for a write also COMMIT.
    pub(crate) after: Duration,
    pub(crate) whole: Duration,
}

/// When a closure began and ended.
type Times = (Instant, Instant);

/// One task, or one thread that blocks, and nobody else.
pub(crate) fn alone(run: &Run, data: &Data) -> Vec<Parts> {
    run.step("one task alone");
    let runtime = Runtime::new().expect("a runtime");
    let store = data.store("store.db", Options::new());
    let for_task = |operation: Box<dyn Fn(i64) -> AloneFuture + Send>| {
        let time = run.load;
        let task = runtime.spawn(async move {
            let (mut parts, mut random) = (Timed::new(), Random::new());
            let start = Instant::now();
            while start.elapsed() < time {
                let called = Instant::now();
                let times = operation(random.user()).await;
                parts.add(called, times);
            }
            parts
        });
        runtime.block_on(task).expect("the task does not panic")
    };
    let for_thread = |operation: fn(&Store, i64) -> Times| {
        let (mut parts, mut random) = (Timed::new(), Random::new());
        let start = Instant::now();
        while start.elapsed() < run.load {
            let called = Instant::now();
            parts.add(called, operation(&store, random.user()));
        }
        parts
    };
    let handle = || store.clone();
    let hop = Hop::start();
    let parts = vec![
        for_thread(|store, user| store.read(|tx| timed_select(tx, user)).expect("found")).parts("`read`, a thread"),
        for_task({
            let store = handle();
            Box::new(move |user| {
                let times = store.read(|tx| timed_select(tx, user)).expect("found");
                Box::pin(async move { times })
            })
        })
        .parts("`read`, on the thread of a task"),
        for_task({
            let store = handle();
            Box::new(move |user| {
                let read = store.read_async(move |tx| timed_select(tx, user));
                Box::pin(async move { read.await.expect("found") })
            })
        })
        .parts("`read_async`"),
        for_task(Box::new(move |_| hop.there_and_back())).parts("a task's hop to a thread and back, no more"),
        for_thread(|store, user| store.write(move |tx| timed_insert(tx, user)).expect("written"))
            .parts("`write`, NORMAL, a thread"),
        for_task({
            let store = handle();
            Box::new(move |user| {
                let write = store.write_async(move |tx| timed_insert(tx, user));
                Box::pin(async move { write.await.expect("written") })
            })
        })
        .parts("`write_async`, NORMAL"),
    ];
    store.close().expect("the store closes");
    parts
}

/// A thread with a channel that leads to it, and a channel back for each call: what a library has to do at least whose
/// connections have threads.
struct Hop(mpsc::Sender<oneshot::Sender<Times>>);

impl Hop {
    fn start() -> Self {
        let (send, receive) = mpsc::channel::<oneshot::Sender<Times>>();
        std::thread::spawn(move || {
            for reply in receive {
                let now = Instant::now();
                let _ = reply.send((now, now));
            }
        });
        Self(send)
    }

    fn there_and_back(&self) -> AloneFuture {
        let (send, receive) = oneshot::channel();
        self.0.send(send).expect("the thread lives");
        Box::pin(async move { receive.await.expect("the thread replies") })
    }
}

type AloneFuture = Pin<Box<dyn Future<Output = Times> + Send>>;

fn timed_select(tx: &ReadTx<'_>, user: i64) -> larder::Result<Times> {
    let began = Instant::now();
    drop(select(tx, user)?);
    Ok((began, Instant::now()))
}

fn timed_insert(tx: &WriteTx<'_>, user: i64) -> larder::Result<Times> {
    let began = Instant::now();
    tx.insert(INSERT, (user, "click"))?;
    Ok((began, Instant::now()))
}

struct Timed {
    before: Latencies,
    inside: Latencies,
    after: Latencies,
    whole: Latencies,
}

impl Timed {
    fn new() -> Self {
        let [before, inside, after, whole] = std::array::from_fn(|_| Latencies::new());
        Self {
            before,
            inside,
            after,
            whole,
        }
    }

    fn add(&mut self, called: Instant, (began, ended): Times) {
        self.after.add(ended.elapsed());
        self.whole.add(called.elapsed());
        self.before.add(began - called);
        self.inside.add(ended - began);
    }

    fn parts(&self, name: &'static str) -> Parts {
        Parts {
            name,
            before: self.before.at(0.5),
            inside: self.inside.at(0.5),
            after: self.after.at(0.5),
            whole: self.whole.at(0.5),
        }
    }
}

pub(crate) fn measure(run: &Run, data: &Data) -> (Vec<Load>, LongReads) {
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
    store.close().expect("the store closes");
    run.step("a long read among others");
    let slices = Tasks {
        runtime: &runtime,
        time: run.slice,
    };
    let store = data.store("store.db", Options::new().readers(READERS));
    let (pair, long_reads) = slices.with_long_reads_and_without(&store);
    loads.extend(pair);
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
    (loads, long_reads)
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

/// Counts for [`LONG`] in one snapshot, and returns the seconds that it took.
fn read_for_long(tx: &ReadTx<'_>) -> larder::Result<f64> {
    let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000) SELECT count(*) FROM n";
    let began = Instant::now();
    while began.elapsed() < LONG {
        tx.query_row(sql, [], |row| row.get::<_, i64>(0))?;
    }
    Ok(began.elapsed().as_secs_f64())
}

struct Tasks<'a> {
    runtime: &'a Runtime,
    time: Duration,
}

impl Tasks<'_> {
    /// Tasks that each start the next operation as soon as the last one is done.
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

    fn with_long_reads_and_without(&self, store: &Store) -> ([Load; 2], LongReads) {
        let p99 = |load: &Load| load.latencies.at(0.99).as_secs_f64();
        let (mut without, mut with, mut added, mut lengths) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut sum: Option<[Load; 2]> = None;
        for _ in 0..ROUNDS {
            let names = [
                format!("63 tasks, point reads with {READERS} readers"),
                format!(
                    "the same, beside a task that reads for {} ms at a time",
                    LONG.as_millis()
                ),
            ];
            let alone = self.run(&names[0], 63, store, read);
            let beside = self.beside_long_reads(&names[1], store, &mut lengths);
            without.push(p99(&alone));
            with.push(p99(&beside));
            added.push(p99(&beside) - p99(&alone));
            sum = Some(match sum {
                None => [alone, beside],
                Some([all_alone, all_beside]) => [all_alone.join(alone), all_beside.join(beside)],
            });
        }
        let loads = sum.expect("there was a round").map(|load| Load {
            done: load.done / f64::from(ROUNDS),
            ..load
        });
        let long_reads = LongReads {
            number: lengths.len(),
            length: median(&mut lengths),
            without: median(&mut without),
            with: median(&mut with),
            added: median(&mut added),
            lowest: added[0],
            highest: added[added.len() - 1],
        };
        (loads, long_reads)
    }

    /// As [`run`](Self::run), beside one task that makes one long read after another, as long as the others run.
    fn beside_long_reads(&self, name: &str, store: &Store, lengths: &mut Vec<f64>) -> Load {
        let end = Instant::now() + self.time;
        let long = store.clone();
        let long = self.runtime.spawn(async move {
            let mut lengths = Vec::new();
            while Instant::now() < end {
                lengths.push(long.read_async(read_for_long).await.expect("it counts"));
            }
            lengths
        });
        let others = self.run(name, 63, store, read);
        lengths.extend(self.runtime.block_on(long).expect("no task panics"));
        others
    }
}
