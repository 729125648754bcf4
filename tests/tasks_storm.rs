//! A hundred thousand futures that are dropped at random moments, among others that are awaited.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use larder::{Error, Options, Result, Store};

use crate::support::count;
use crate::support::tasks::{
    Call, Dice, ENDLESS, PATIENCE, counting, finish, ids, insert, inserting, one_thread, store_with,
};

const THREADS: i64 = 4;
const CANCELLED_EACH: usize = 25_000;

struct CountWakes(AtomicUsize);

impl Wake for CountWakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// One thread of the storm, and what it knows.
struct Stormer {
    store: Store,
    dice: Dice,
    /// Closures that ran to their end with `Ok`.
    ended: Arc<AtomicI64>,
    waker: Waker,
    runtime: tokio::runtime::Runtime,
    /// Somebody else drops what is sent here.
    dropper: Sender<Call<i64>>,
    acknowledged: Vec<i64>,
    cancelled: usize,
}

impl Stormer {
    fn new(store: &Store, seed: i64, ended: &Arc<AtomicI64>, dropper: Sender<Call<i64>>) -> Self {
        Self {
            store: store.clone(),
            dice: Dice::new(seed as u64 + 1),
            ended: Arc::clone(ended),
            waker: Waker::from(Arc::new(CountWakes(AtomicUsize::new(0)))),
            runtime: one_thread(),
            dropper,
            acknowledged: Vec::new(),
            cancelled: 0,
        }
    }

    fn write(&self, id: i64) -> Call<i64> {
        let ended = Arc::clone(&self.ended);
        Box::pin(self.store.write_async(move |tx| {
            insert(tx, id)?;
            if id % 7 == 0 {
                return Err(Error::app("one in seven is rolled back"));
            }
            ended.fetch_add(1, Ordering::SeqCst);
            Ok(id)
        }))
    }

    fn read(&mut self) -> Call<i64> {
        let sql = if self.dice.roll(8) == 0 {
            ENDLESS
        } else {
            "SELECT max(id) FROM t"
        };
        let read = self
            .store
            .read_async(move |tx| tx.query_row(sql, [], |row| row.get::<_, Option<i64>>(0)));
        Box::pin(async move { read.await.map(|id| id.unwrap_or(-1)) })
    }

    /// Polls some times, or none, and drops it, or lets another thread.
    fn cancel(&mut self, mut call: Call<i64>) -> Option<Result<i64>> {
        let waker = if self.dice.roll(2) == 0 {
            Waker::noop()
        } else {
            &self.waker
        };
        let mut context = Context::from_waker(waker);
        for _ in 0..self.dice.roll(4) {
            if let Poll::Ready(result) = Pin::new(&mut call).poll(&mut context) {
                return Some(result);
            }
            for _ in 0..self.dice.roll(2000) {
                std::hint::spin_loop();
            }
        }
        self.cancelled += 1;
        if self.dice.roll(4) == 0 {
            self.dropper.send(call).unwrap();
        }
        None
    }

    fn time_out(&mut self, call: Call<i64>) -> Option<Result<i64>> {
        let time = Duration::from_micros(self.dice.roll(1500));
        let result = self
            .runtime
            .block_on(async { tokio::time::timeout(time, call).await })
            .ok();
        self.cancelled += usize::from(result.is_none());
        result
    }

    fn note(&mut self, id: i64, result: Option<Result<i64>>) {
        match result {
            Some(Ok(inserted)) => {
                assert_eq!(inserted, id, "each gets its own reply");
                self.acknowledged.push(id);
            }
            Some(Err(Error::App(_))) => assert_eq!(id % 7, 0),
            None => {}
            Some(Err(other)) => panic!("{other:?}"),
        }
    }

    fn storm(&mut self, ids: impl Iterator<Item = i64>) {
        for id in ids {
            if self.cancelled == CANCELLED_EACH {
                return;
            }
            match self.dice.roll(100) {
                0..2 => {
                    let write = finish(self.write(id));
                    self.note(id, Some(write));
                }
                2..4 => drop(finish(counting(&self.store)).unwrap()),
                4 => {
                    let write = self.write(id);
                    let result = self.time_out(write);
                    self.note(id, result);
                }
                5 => {
                    let read = self.read();
                    self.time_out(read).map(Result::unwrap);
                }
                6..60 => {
                    let write = self.write(id);
                    let result = self.cancel(write);
                    self.note(id, result);
                }
                _ => {
                    let read = self.read();
                    self.cancel(read).map(Result::unwrap);
                }
            }
        }
    }
}

#[test]
fn a_hundred_thousand_cancellations_at_random_leave_everything_as_it_should_be() {
    let store = store_with(Options::new().queue(32).readers(2));
    let ended = Arc::new(AtomicI64::new(0));
    let (dropper, to_drop) = channel();
    let acknowledged: Vec<i64> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let mut stormer = Stormer::new(&store, thread, &ended, dropper.clone());
                scope.spawn(move || {
                    stormer.storm((thread..).step_by(THREADS as usize));
                    stormer.acknowledged
                })
            })
            .collect();
        drop(dropper);
        to_drop.into_iter().for_each(drop);
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    // The writer has finished everything that was asked for before.
    store.write(|_| Ok(())).unwrap();
    let there: HashSet<i64> = ids(&store).into_iter().collect();
    assert_eq!(
        there.len() as i64,
        ended.load(Ordering::SeqCst),
        "a closure's end is its commit"
    );
    assert!(!acknowledged.is_empty());
    assert!(
        acknowledged.iter().all(|id| there.contains(id)),
        "an acknowledged write is lost"
    );
    finish(inserting(&store, -1)).unwrap();
    for _ in 0..10 {
        assert_eq!(finish(counting(&store)).unwrap(), there.len() as i64 + 1);
        assert_eq!(count(&store), there.len() as i64 + 1);
    }
    // No reader is left in a transaction, and no closure is left anywhere.
    let report = store.close_within(PATIENCE).unwrap();
    assert!(report.wal_truncated, "{report}");
    assert_eq!((report.finished, report.never_started), (0, 0), "{report}");
    assert_eq!(Arc::strong_count(&ended), 1);
}
