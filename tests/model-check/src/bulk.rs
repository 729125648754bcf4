//! A bulk job as larder's `bulk/mod.rs` runs it: a thread that fills the feed, and slices that empty it.

use self::feed::{Batch, Feed, Found};
use self::slice::Next;
use crate::error::Error;
use crate::queue::pending::Pending;
use crate::store::Store;
use crate::sync::Arc;
use crate::time::one_in;
use std::time::Duration;

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

/// Rows of a batch.
const BATCH: usize = 2;

/// Writes the rows of some batches. Each is committed once, in order.
pub(crate) fn job(store: &Store, batches: usize) {
    let rows: Vec<usize> = (0..batches * BATCH).collect();
    let feed = Arc::new(Feed::new(2));
    let mut committed = Vec::new();
    let mut slice: Option<Pending<Vec<usize>>> = None;
    let mut source = rows.chunks(BATCH);
    let mut failed = false;
    loop {
        let batch = source.next();
        let drains = batch.is_none();
        if let Some(batch) = batch {
            feed.push(Batch::new(batch.to_vec()));
        }
        loop {
            let must_wait = drains || !feed.is_running();
            let patience = Duration::from_secs(if must_wait { 1000 } else { 0 });
            if let Some(reply) = slice.as_mut().and_then(|slice| slice.wait_timeout(patience)) {
                slice = None;
                match reply {
                    Ok(written) => {
                        failed = false;
                        feed.committed();
                        committed.extend(written);
                    }
                    Err(Error::Closed) => return assert_eq!(committed, rows[..committed.len()]),
                    Err(_) => {
                        failed = true;
                        feed.rolled_back();
                    }
                }
            }
            if slice.is_none() && !feed.is_empty() {
                feed.begin();
                match submit(store, &feed, failed) {
                    Ok(pending) => slice = Some(pending),
                    Err(_) => return assert_eq!(committed, rows[..committed.len()]),
                }
            }
            if slice.is_none() || !drains && matches!(feed.wait(), Found::Room) {
                break;
            }
        }
        if drains && slice.is_none() {
            return assert_eq!(committed, rows);
        }
    }
}

/// A slice of some rows. It may fail in the middle.
fn submit(store: &Store, feed: &Arc<Feed<usize>>, failed: bool) -> Result<Pending<Vec<usize>>, Error> {
    let feed = Arc::clone(feed);
    store.submit_slice(failed, move |_| {
        let mut written = Vec::new();
        let result = feed.write_each(|row| {
            if !failed && one_in(6) {
                return Err(Error::App);
            }
            if one_in(8) {
                return Ok(Next::StopBefore);
            }
            written.push(*row);
            Ok(if one_in(4) { Next::StopAfter } else { Next::GoOn })
        });
        feed.end();
        result.map(|()| written)
    })
}
