//! A bulk job as larder's `bulk/` runs it: a source that fills the feed, a driver, and slices that empty the feed.

use std::task::Poll;

use shuttle::future::block_on;

use self::feed::{Ended, Feed, Found, LINGER, Over, Room};
use self::slice::Next;
use crate::error::Error;
use crate::queue::pending::Pending;
use crate::store::Store;
use crate::sync::{Arc, Condvar, Mutex};
use crate::time::one_in;

#[expect(dead_code, reason = "a retention's feed needs no driver")]
#[path = "../../../src/bulk/feed.rs"]
mod feed;

mod slice {
    #[derive(Clone, Copy, PartialEq)]
    pub(super) enum Next {
        GoOn,
        StopAfter,
        StopBefore,
    }
}

const ROOM: Room = Room {
    batch_rows: 2,
    batch_bytes: 100,
    batches: 2,
    bytes: 50,
};

pub(crate) struct Job {
    rows: usize,
    feed: Feed<usize>,
    /// Rows that are committed, and whether the job is over.
    seen: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Job {
    pub(crate) fn new(rows: usize) -> Arc<Self> {
        Arc::new(Self {
            rows,
            feed: Feed::new(ROOM),
            seen: Mutex::new((0, false)),
            changed: Condvar::new(),
        })
    }

    /// The source on a thread of its own. Now and then it blocks until a row is committed: no other row will come before.
    pub(crate) fn give(&self) {
        for row in 0..self.rows {
            if self.feed.put(row, bytes(row)).is_err() {
                return;
            }
            if one_in(4) && self.block_until(row + 1).is_err() {
                return;
            }
            if one_in(4) {
                if self.feed.wait_for_commit().is_err() {
                    return;
                }
                assert!(self.seen.lock().0 > row, "a row before is not committed");
            }
        }
        self.feed.end(Ended::Done);
    }

    /// The source in a task.
    pub(crate) fn give_polled(&self) {
        let skipped = block_on(std::future::poll_fn(|context| self.feed.poll_skip(context)));
        let Ok(skipped) = skipped else { return };
        for row in skipped as usize..self.rows {
            let room = block_on(std::future::poll_fn(|context| {
                if one_in(4) {
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                self.feed.poll_room(context)
            }));
            if room.is_err() {
                return;
            }
            self.feed.put_polled(row, bytes(row));
            if one_in(4) && self.block_until(row + 1).is_err() {
                return;
            }
        }
        self.feed.end(Ended::Done);
    }

    fn block_until(&self, rows: usize) -> Result<(), Over> {
        let mut seen = self.seen.lock();
        while seen.0 < rows {
            if seen.1 {
                return Err(Over);
            }
            seen = self.changed.wait(seen);
        }
        Ok(())
    }

    /// The driver. Each row is committed once, in order.
    pub(crate) fn drive(self: &Arc<Self>, store: &Store) {
        self.feed.begin(0);
        let mut committed = Vec::new();
        let mut failed = false;
        let ended = loop {
            match self.feed.wait(10 * LINGER) {
                Found::Rows => {}
                Found::Nothing if store.queue().is_closed() => break false,
                Found::Nothing => continue,
                Found::End(_) => break true,
            }
            let Ok(slice) = self.submit(store, failed) else { break false };
            match slice.wait() {
                Ok(written) => {
                    failed = false;
                    let bytes_written: usize = written.iter().map(|row| bytes(*row)).sum();
                    committed.extend(written);
                    self.see(committed.len(), false);
                    assert_eq!(self.feed.committed(), bytes_written);
                }
                Err(Error::Closed) => break false,
                Err(_) => {
                    failed = true;
                    self.feed.rolled_back();
                }
            }
        };
        self.feed.over();
        self.see(committed.len(), true);
        let all: Vec<usize> = (0..self.rows).collect();
        assert_eq!(committed, all[..committed.len()]);
        assert!(!ended || committed.len() == self.rows, "rows are missing");
    }

    fn see(&self, rows: usize, is_over: bool) {
        *self.seen.lock() = (rows, is_over);
        self.changed.notify_one();
    }

    /// A slice of some rows. It may fail in the middle.
    fn submit(self: &Arc<Self>, store: &Store, failed: bool) -> Result<Pending<Vec<usize>>, Error> {
        let job = Arc::clone(self);
        store.submit_slice(failed, move |_| {
            let mut written = Vec::new();
            let result: Result<(), Error> = job.feed.write_each(|row| {
                if !failed && one_in(6) {
                    return Err(Error::App);
                }
                if !written.is_empty() && one_in(8) {
                    return Ok(Next::StopBefore);
                }
                written.push(*row);
                Ok(if one_in(4) { Next::StopAfter } else { Next::GoOn })
            });
            result.map(|()| written)
        })
    }
}

/// Some rows are larger than all room.
fn bytes(row: usize) -> usize {
    if row % 5 == 4 { 60 } else { 5 }
}
