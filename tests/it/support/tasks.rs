//! Helpers for tests of async calls: futures polled by hand, reads that are held, and every runtime.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use larder::{Options, ReadOptions, ReadTx, Result, Store, WriteTx};

pub(crate) use super::child::PATIENCE;
pub(crate) use super::hear;

/// A future that can be polled by hand.
pub(crate) type Call<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// Never ends by itself.
pub(crate) const ENDLESS: &str =
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";

/// A store with the table `t`, which is empty. Nobody waits in it for less than `PATIENCE`.
pub(crate) fn store_with(options: Options) -> Store {
    let options = options.queue_timeout(2 * PATIENCE).read_queue_timeout(2 * PATIENCE);
    let store = options.open_temp().unwrap();
    create_table(&store);
    store
}

pub(crate) fn create_table(store: &Store) {
    store
        .write(|tx| tx.execute_batch("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY) STRICT"))
        .unwrap();
}

pub(crate) fn insert(tx: &WriteTx<'_>, id: i64) -> Result<i64> {
    tx.insert("INSERT INTO t VALUES (?1)", [id])
}

pub(crate) fn ids(store: &Store) -> Vec<i64> {
    store
        .read(|tx| tx.query_map("SELECT id FROM t ORDER BY id", [], |row| row.get(0)))
        .unwrap()
}

/// One more row, as a write of a task's.
pub(crate) fn inserting(store: &Store, id: i64) -> Call<i64> {
    Box::pin(store.write_async(move |tx| insert(tx, id)))
}

/// How many rows there are, as a read of a task's.
pub(crate) fn counting(store: &Store) -> Call<i64> {
    Box::pin(store.read_async(|tx| tx.query_row("SELECT count(*) FROM t", [], |row| row.get(0))))
}

/// Polls once, for a task that nobody can wake.
pub(crate) fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Polls once. It must be on its way then, since something holds it up.
#[track_caller]
pub(crate) fn begin<F>(future: &mut F)
where
    F: Future + Unpin,
    F::Output: std::fmt::Debug,
{
    let polled = poll(future);
    assert!(polled.is_pending(), "{polled:?}");
}

/// Polls once, so that it has been asked for. It may be ready already.
pub(crate) fn asked<T: Send + 'static>(mut call: Call<T>) -> Call<T> {
    match poll(&mut call) {
        Poll::Ready(result) => Box::pin(std::future::ready(result)),
        Poll::Pending => call,
    }
}

/// Awaits on this thread. Only a wake-up of larder's polls again, and one must come.
#[track_caller]
pub(crate) fn finish<F: Future>(future: F) -> F::Output {
    finish_if_woken(future, PATIENCE).expect("it is woken")
}

/// As [`finish`], or `None` if nobody wakes it for so long.
pub(crate) fn finish_if_woken<F: Future>(future: F, patience: Duration) -> Option<F::Output> {
    struct Bell(Sender<()>);
    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            let _ = self.0.send(());
        }
    }
    let (bell, rung) = channel();
    let waker = Waker::from(Arc::new(Bell(bell)));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(output);
        }
        rung.recv_timeout(patience).ok()?;
    }
}

/// Keeps one reader thread and its connection until it is let go, or dropped: then its task has gone away.
pub(crate) struct HeldRead {
    let_go: Sender<()>,
    read: Call<()>,
}

impl HeldRead {
    /// Returns once its closure runs, however short the store's own time-out is.
    pub(crate) fn hold(store: &Store) -> Self {
        Self::hold_after(store, |_| Ok(()))
    }

    /// As [`hold`](Self::hold), after it has done that.
    pub(crate) fn hold_after<T>(store: &Store, first: impl FnOnce(&ReadTx<'_>) -> Result<T> + Send + 'static) -> Self {
        let (running, runs) = channel();
        let (let_go, told) = channel::<()>();
        let patient = ReadOptions::new().queue_timeout(2 * PATIENCE);
        let mut read: Call<()> = Box::pin(store.read_async_with(patient, move |tx| {
            first(tx)?;
            running.send(()).unwrap();
            let _ = told.recv();
            Ok(())
        }));
        begin(&mut read);
        hear(&runs);
        Self { let_go, read }
    }

    pub(crate) fn let_go(self) {
        finish(self.let_go_alone()).unwrap();
    }

    /// Lets it go, and gives its task, which has not looked yet.
    pub(crate) fn let_go_alone(self) -> Call<()> {
        drop(self.let_go);
        self.read
    }
}

/// Tells when it is dropped.
pub(crate) struct TellTale(Sender<()>);

impl TellTale {
    pub(crate) fn new() -> (Self, Receiver<()>) {
        let (tell, told) = channel();
        (Self(tell), told)
    }
}

impl Drop for TellTale {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

pub(crate) fn one_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
}

pub(crate) fn many_threads() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_time()
        .build()
        .unwrap()
}

/// Runs the same task on each runtime, spawned where it can be.
pub(crate) fn on_every_runtime<F>(task: impl Fn() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    one_thread().block_on(task());
    let runtime = one_thread();
    runtime.block_on(async { tokio::spawn(task()).await.unwrap() });
    let runtime = many_threads();
    runtime.block_on(async { tokio::spawn(task()).await.unwrap() });
    smol::block_on(task());
    smol::block_on(smol::spawn(task()));
    futures_executor::block_on(task());
}

/// Numbers that are the same in each run.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// One of `0..sides`.
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % sides
    }
}
