//! What several test modules need.

pub(crate) mod child;
pub(crate) mod log;
#[cfg(feature = "metrics")]
pub(crate) mod prometheus;
#[cfg(feature = "async")]
pub(crate) mod tasks;

use std::sync::mpsc::{Sender, channel};

use larder::{Pending, Store};

/// A write that is running, and goes on until it is told something or the sender is dropped.
pub(crate) fn blocker(store: &Store) -> (Sender<()>, Pending<()>) {
    let (let_go, told) = channel();
    let (running, runs) = channel();
    let pending = store
        .submit(move |_tx| {
            running.send(()).unwrap();
            let _ = told.recv();
            Ok(())
        })
        .unwrap();
    runs.recv().unwrap();
    (let_go, pending)
}

/// Rows in the table `t`.
pub(crate) fn count(store: &Store) -> i64 {
    store
        .read(|tx| tx.query_row("SELECT count(*) FROM t", [], |row| row.get(0)))
        .unwrap()
}
