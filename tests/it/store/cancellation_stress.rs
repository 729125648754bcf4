//! A hundred thousand futures dropped at random moments, beside others that are awaited.
//!
//! Every async call takes part, each with and without `WhenFull::Fail`: polled by hand with wakers that are counted,
//! awaited, under a timeout, as an aborted task of a multi-threaded runtime, in bursts that fill the queue, and dropped
//! by another thread than the one that polled. A drop counts if the future was polled and pending. Futures that were
//! never polled take part as well, but were in no queue.
//!
//! For each future:
//!
//! - an awaited one is woken: only a wake-up from larder polls it again, and a missing one fails the test;
//! - one that was left pending and is ready at a later poll has had its last waker woken;
//! - a closure that succeeded has committed, once; one that was refused, or whose future was never polled, has not run;
//! - acknowledged data is stored.
//!
//! At the end every reader thread and every connection still serves, all of them at once; no transaction is open, no
//! job is queued, and every closure has been dropped.

use crate::support::{read_or_fail, write_or_fail};
use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use larder::{Error, Options, ReadTx, Result, Store};
use tokio::runtime::{Handle, Runtime};

use crate::support::tasks::{
    Call, Dice, ENDLESS, PATIENCE, asked, counting, finish, ids, insert, inserting, many_threads, one_thread,
    store_with,
};

const THREADS: i64 = 4;
const READERS: u32 = 2;
const QUEUE: usize = 32;
const CANCELLATIONS: usize = 100_000;

/// More than there is room for.
const CROWD: u64 = 2 * QUEUE as u64;

/// How the futures ended, of all threads.
#[derive(Default)]
struct Ends {
    /// Dropped though they were pending.
    cancelled: AtomicUsize,
    never_polled: AtomicUsize,
    /// Ready at a later poll than the first.
    woken: AtomicUsize,
    /// A call that may not wait found a full queue.
    refused: AtomicUsize,
}

fn one_more(counter: &AtomicUsize) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn number(counter: &AtomicUsize) -> usize {
    counter.load(Ordering::Relaxed)
}

/// A call that counts how it ends.
struct Counted {
    call: Call<i64>,
    stage: Stage,
    ends: Arc<Ends>,
}

enum Stage {
    NotPolled,
    Pending,
    Ready,
}

impl Future for Counted {
    type Output = Result<i64>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = self.call.as_mut().poll(context);
        match (&polled, &self.stage) {
            (Poll::Pending, _) => self.stage = Stage::Pending,
            (Poll::Ready(result), before) => {
                if matches!(before, Stage::Pending) {
                    one_more(&self.ends.woken);
                }
                if matches!(result, Err(Error::QueueFull { .. })) {
                    one_more(&self.ends.refused);
                }
                self.stage = Stage::Ready;
            }
        }
        polled
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        match self.stage {
            Stage::NotPolled => one_more(&self.ends.never_polled),
            Stage::Pending => one_more(&self.ends.cancelled),
            Stage::Ready => {}
        }
    }
}

/// A waker that tells whether it was woken.
#[derive(Default)]
struct Bell(AtomicBool);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Bell {
    /// It is woken just after the reply was left, so that may still be to come.
    fn has_rung(&self) {
        let began = Instant::now();
        while !self.0.load(Ordering::SeqCst) {
            assert!(
                began.elapsed() < PATIENCE,
                "a future is ready, and its task was not woken"
            );
            thread::yield_now();
        }
    }
}

/// One thread of the storm, and what it knows.
struct Stormer {
    store: Store,
    dice: Dice,
    /// Closures that ran to their end with `Ok`.
    ended: Arc<AtomicI64>,
    ends: Arc<Ends>,
    /// Its own, for time-outs, and one that all share.
    timer: Runtime,
    runtime: Handle,
    /// Somebody else drops what is sent here.
    dropper: Sender<Counted>,
    acknowledged: Vec<i64>,
    /// Writes that never ran, or were rolled back.
    undone: Vec<i64>,
}

impl Stormer {
    fn counted(&self, call: Call<i64>) -> Counted {
        Counted {
            call,
            stage: Stage::NotPolled,
            ends: Arc::clone(&self.ends),
        }
    }

    fn write(&mut self, id: i64) -> Counted {
        let ended = Arc::clone(&self.ended);
        let write = move |tx: &larder::WriteTx<'_>| {
            insert(tx, id)?;
            if id % 7 == 0 {
                return Err(Error::app("one in seven is rolled back"));
            }
            ended.fetch_add(1, Ordering::SeqCst);
            Ok(id)
        };
        let call: Call<i64> = if self.dice.roll(4) == 0 {
            Box::pin(self.store.write_async_with(write_or_fail(), write))
        } else {
            Box::pin(self.store.write_async(write))
        };
        self.counted(call)
    }

    fn read(&mut self, sql: &'static str) -> Counted {
        let read = move |tx: &ReadTx<'_>| tx.query_row(sql, [], |row| Ok(row.get::<_, Option<i64>>(0)?.unwrap_or(-1)));
        let call: Call<i64> = if self.dice.roll(4) == 0 {
            Box::pin(self.store.read_async_with(read_or_fail(), read))
        } else {
            Box::pin(self.store.read_async(read))
        };
        self.counted(call)
    }

    fn short_read(&mut self) -> Counted {
        self.read("SELECT max(id) FROM t")
    }

    /// Not for who awaits it.
    fn any_read(&mut self) -> Counted {
        if self.dice.roll(8) == 0 {
            self.read(ENDLESS)
        } else {
            self.short_read()
        }
    }

    /// Polls some times, or not at all. If it is ready then, the waker that was left last has been woken.
    fn poll(&mut self, call: &mut Counted) -> Option<Result<i64>> {
        let mut left: Option<Arc<Bell>> = None;
        for _ in 0..self.dice.roll(4) {
            let bell = (self.dice.roll(2) == 0).then(|| Arc::new(Bell::default()));
            let waker = bell.clone().map_or(Waker::noop().clone(), Waker::from);
            if let Poll::Ready(result) = Pin::new(&mut *call).poll(&mut Context::from_waker(&waker)) {
                if let Some(bell) = left {
                    bell.has_rung();
                }
                return Some(result);
            }
            left = bell;
            for _ in 0..self.dice.roll(2000) {
                std::hint::spin_loop();
            }
        }
        None
    }

    /// Drops it, or has another thread do it.
    fn cancel(&mut self, call: Counted) {
        if self.dice.roll(4) == 0 {
            self.dropper.send(call).unwrap();
        }
    }

    fn poll_and_cancel(&mut self, mut call: Counted) -> Option<Result<i64>> {
        let result = self.poll(&mut call);
        if result.is_none() {
            self.cancel(call);
        }
        result
    }

    /// By hand first, so that other wakers are forgotten for that of this thread.
    fn poll_and_await(&mut self, mut call: Counted) -> Result<i64> {
        self.poll(&mut call).unwrap_or_else(|| finish(call))
    }

    fn time_out(&mut self, call: Counted) -> Option<Result<i64>> {
        let time = Duration::from_micros(self.dice.roll(1500));
        let within = async { tokio::time::timeout(time, call).await };
        self.timer.block_on(within).ok()
    }

    /// As a task of its own, which is aborted, perhaps, before it has run or when it is through.
    fn spawn(&mut self, call: Counted, abort: bool) -> Option<Result<i64>> {
        let task = self.runtime.spawn(call);
        if abort {
            for _ in 0..self.dice.roll(20_000) {
                std::hint::spin_loop();
            }
            task.abort();
        }
        match finish(task) {
            Ok(result) => Some(result),
            Err(error) => {
                assert!(abort && error.is_cancelled(), "{error}");
                None
            }
        }
    }

    /// So many at once that there is no room for them. Some are awaited, in another order than they have asked in.
    fn crowd(&mut self, first: i64) {
        let mut calls: Vec<(i64, Counted)> = Vec::new();
        for n in 0..self.dice.roll(CROWD) as i64 {
            let id = first + n * THREADS;
            let mut call = self.write(id);
            match Pin::new(&mut call).poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(result) => self.note(id, Some(result)),
                Poll::Pending => calls.push((id, call)),
            }
        }
        while !calls.is_empty() {
            let any = self.dice.roll(calls.len() as u64) as usize;
            let (id, call) = calls.swap_remove(any);
            if self.dice.roll(3) == 0 {
                let result = finish(call);
                self.note(id, Some(result));
            } else {
                self.cancel(call);
            }
        }
    }

    /// What became of a write: its result, if anybody waited for that.
    fn note(&mut self, id: i64, result: Option<Result<i64>>) {
        match result {
            Some(Ok(inserted)) => {
                assert_eq!(inserted, id, "each gets its own reply");
                self.acknowledged.push(id);
            }
            Some(Err(Error::App(_))) => {
                assert_eq!(id % 7, 0);
                self.undone.push(id);
            }
            Some(Err(Error::QueueFull { capacity: QUEUE, .. })) => self.undone.push(id),
            None => {}
            Some(Err(other)) => panic!("{other:?}"),
        }
    }

    fn look_at_read(result: Option<Result<i64>>) {
        match result {
            None | Some(Ok(_) | Err(Error::QueueFull { capacity: QUEUE, .. })) => {}
            Some(Err(other)) => panic!("{other:?}"),
        }
    }

    fn storm(&mut self, first: i64) {
        let mut next = first;
        while number(&self.ends.cancelled) < CANCELLATIONS {
            let id = next;
            next += THREADS;
            match self.dice.roll(100) {
                0..4 => {
                    let write = self.write(id);
                    let result = self.poll_and_await(write);
                    self.note(id, Some(result));
                }
                4..8 => {
                    let read = self.short_read();
                    Self::look_at_read(Some(self.poll_and_await(read)));
                }
                8 => {
                    let write = self.write(id);
                    let result = self.time_out(write);
                    self.note(id, result);
                }
                9 => {
                    let read = self.any_read();
                    Self::look_at_read(self.time_out(read));
                }
                10..13 => {
                    let (write, abort) = (self.write(id), self.dice.roll(3) > 0);
                    let result = self.spawn(write, abort);
                    self.note(id, result);
                }
                13..16 => {
                    let abort = self.dice.roll(3) > 0;
                    let read = if abort { self.any_read() } else { self.short_read() };
                    Self::look_at_read(self.spawn(read, abort));
                }
                16 => {
                    self.crowd(id);
                    next += CROWD as i64 * THREADS;
                }
                17 => {
                    let write = self.write(id);
                    self.cancel(write);
                    self.undone.push(id);
                }
                18..64 => {
                    let write = self.write(id);
                    let result = self.poll_and_cancel(write);
                    self.note(id, result);
                }
                _ => {
                    let read = self.any_read();
                    Self::look_at_read(self.poll_and_cancel(read));
                }
            }
        }
    }
}

/// A statement that is long enough for SQLite to look whether it is to be stopped.
fn scan(tx: &ReadTx<'_>) -> Result<i64> {
    tx.query_row("SELECT count(*) FROM t WHERE id >= -1", [], |row| row.get(0))
}

/// Each reader thread holds its connection until all are held, so none of them is left out.
fn scan_by_every_reader_thread(store: &Store) -> Vec<i64> {
    let all_in = Arc::new(Barrier::new(READERS as usize));
    let scan = || -> Call<i64> {
        let all_in = Arc::clone(&all_in);
        Box::pin(store.read_async(move |tx| {
            all_in.wait();
            scan(tx)
        }))
    };
    let reads: Vec<_> = (0..READERS).map(|_| asked(scan())).collect();
    reads.into_iter().map(|read| finish(read).unwrap()).collect()
}

/// Each inside another, so that all of them are held by this thread.
fn scan_on_so_many_connections(store: &Store, number: u32) -> Result<Vec<i64>> {
    if number == 0 {
        return Ok(Vec::new());
    }
    store.read(|tx| {
        let mut rows = scan_on_so_many_connections(store, number - 1)?;
        rows.push(scan(tx)?);
        Ok(rows)
    })
}

#[test]
fn hundred_thousand_random_cancellations_leave_no_trace() {
    let store = store_with(Options::new().queue_capacity(QUEUE).readers(READERS));
    let (ended, ends) = (Arc::new(AtomicI64::new(0)), Arc::new(Ends::default()));
    let runtime = many_threads();
    let (dropper, to_drop) = channel();
    let (mut acknowledged, mut undone) = (Vec::new(), Vec::new());
    thread::scope(|scope| {
        let stormers = (0..THREADS).map(|thread| Stormer {
            store: store.clone(),
            dice: Dice::new(thread as u64 + 1),
            ended: Arc::clone(&ended),
            ends: Arc::clone(&ends),
            timer: one_thread(),
            runtime: runtime.handle().clone(),
            dropper: dropper.clone(),
            acknowledged: Vec::new(),
            undone: Vec::new(),
        });
        let threads: Vec<_> = (0..THREADS)
            .zip(stormers)
            .map(|(thread, mut stormer)| {
                scope.spawn(move || {
                    stormer.storm(thread);
                    (stormer.acknowledged, stormer.undone)
                })
            })
            .collect();
        drop(dropper);
        to_drop.into_iter().for_each(drop);
        for thread in threads {
            let (acknowledged_there, undone_there) = thread.join().unwrap();
            acknowledged.extend(acknowledged_there);
            undone.extend(undone_there);
        }
    });
    drop(runtime);
    // The writer has finished everything that was asked for before.
    store.write(|_| Ok(())).unwrap();

    assert!(number(&ends.cancelled) >= CANCELLATIONS);
    for (what, counter) in [
        ("was dropped before its first poll", &ends.never_polled),
        ("was woken", &ends.woken),
        ("found a full queue", &ends.refused),
    ] {
        assert!(
            number(counter) > 1000,
            "{} {what}: this test has tested little",
            number(counter)
        );
    }
    let there: HashSet<i64> = ids(&store).into_iter().collect();
    assert_eq!(
        there.len() as i64,
        ended.load(Ordering::SeqCst),
        "a closure's end is its commit"
    );
    assert!(acknowledged.len() > 1000, "{}", acknowledged.len());
    assert!(
        acknowledged.iter().all(|id| there.contains(id)),
        "an acknowledged write is lost"
    );
    assert!(
        undone.iter().all(|id| !there.contains(id)),
        "a write is there that never ran, or was rolled back"
    );

    finish(inserting(&store, -1)).unwrap();
    let rows = there.len() as i64 + 1;
    assert!(rows > 4096, "{rows}: a scan of so few is not looked at");
    assert_eq!(scan_by_every_reader_thread(&store), [rows; READERS as usize]);
    assert_eq!(
        scan_on_so_many_connections(&store, READERS).unwrap(),
        [rows; READERS as usize]
    );
    assert_eq!(finish(counting(&store)).unwrap(), rows);
    // No reader is left in a transaction, and no closure is left anywhere.
    let report = store.close_within(PATIENCE).unwrap();
    assert!(report.wal_truncated, "{report}");
    assert_eq!((report.finished, report.never_started), (0, 0), "{report}");
    assert_eq!(Arc::strong_count(&ended), 1);
}
