//! [`StoreReplica`]: the replica of an open store.

use std::time::Duration;

use super::replication::{Replication, waiting_for};
use crate::error::{Error, Result};
use crate::runtime::clock::later;
use crate::runtime::fork::Process;
use crate::runtime::sync::Instant;

/// The replica of an open store. See [`Store::replica`](crate::Store::replica).
#[derive(Clone, Copy)]
pub struct StoreReplica<'a> {
    replication: &'a Replication,
    /// That of the store.
    process: Process,
}

impl<'a> StoreReplica<'a> {
    pub(crate) fn new(replication: &'a Replication) -> Self {
        Self {
            replication,
            process: Process::current(),
        }
    }

    /// Waits until everything that is committed now is in the replica. Returns the transaction of the replica that has
    /// it. An upload that waits to be tried again is tried at once.
    ///
    /// # Errors
    ///
    /// [`Error::NotReplicated`]: it is not, after that time. What is committed stays committed, and goes up later.
    /// [`Error::Forked`].
    pub fn flush(&self, timeout: Duration) -> Result<u64> {
        if self.process.is_left() {
            return Err(Error::forked());
        }
        let began = Instant::now();
        self.replication
            .flush(later(began, timeout))
            .map_err(|reason| Error::NotReplicated {
                waited: began.elapsed(),
                reason,
            })
    }

    /// The last transaction that is in the replica; 0 before the first.
    pub fn uploaded(&self) -> u64 {
        self.replication.progress().uploaded
    }

    /// Why the replica does not have the last transaction that was sealed, or `None` if it has.
    pub fn behind(&self) -> Option<String> {
        let progress = self.replication.progress();
        let is_behind = progress.uploaded < progress.sealed || progress.unsealed.is_some();
        is_behind.then(|| waiting_for(&progress, progress.unsealed.is_none().then_some(progress.sealed)))
    }
}
