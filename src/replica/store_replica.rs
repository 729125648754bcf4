//! [`StoreReplica`]: the replica of an open store.

use std::time::Duration;

use super::replication::Replication;
use super::restore::progress::{ReplicaRestoreProgress, RestoreReporter};
use super::restore::verify::{ReplicaVerify, Snapshot};
use super::token::Token;
use crate::backup::Fingerprint;
use crate::engine::{Engine, run_exclusive};
use crate::error::{Error, Result};
use crate::options::Settings;
use crate::queue::pending::Queue;
use crate::runtime::clock::later;
use crate::runtime::sync::{Arc, Instant};
use crate::write::Shared;

/// A snapshot of a transaction is tried so often while other processes write.
const TRIES: u32 = 100;

/// How long a verification waits until the replica has the snapshot that it is compared with.
const PATIENCE: Duration = Duration::from_secs(60);

/// The replica of an open store. See [`Store::replica`](crate::Store::replica).
#[derive(Clone, Copy)]
pub struct StoreReplica<'a> {
    engine: &'a Engine,
    replication: &'a Arc<Replication>,
}

impl<'a> StoreReplica<'a> {
    pub(crate) fn new(engine: &'a Engine, replication: &'a Arc<Replication>) -> Self {
        Self { engine, replication }
    }

    /// Waits until everything that is committed now is in the replica. Returns the transaction of the replica that has
    /// it. An upload that waits to be tried again is tried at once.
    ///
    /// # Errors
    ///
    /// - [`Error::NotReplicated`]: it is not, after that time. What is committed stays committed, and goes up later.
    /// - [`Error::Fenced`]: another process has taken the replica over. [`Error::Diverged`]: the storage was away as the
    ///   store opened, and has another replica now.
    /// - [`Error::Forked`].
    pub fn flush(&self, timeout: Duration) -> Result<u64> {
        if self.engine.queue().is_left() {
            return Err(Error::forked());
        }
        flush(self.replication, &self.engine.shared, timeout)
    }

    /// What stands for everything that is committed now, so that a reader of a follower can wait for it: give it to
    /// [`Follower::wait_for`](crate::Follower::wait_for). It makes no request, and waits for no upload.
    pub fn token(&self) -> Token {
        self.replication.token()
    }

    /// The last transaction that is in the replica; 0 before the first.
    pub fn uploaded(&self) -> u64 {
        self.replication.progress().uploaded
    }

    /// Why the replica does not have everything that is committed now, or `None` if it has. A commit waits for its
    /// [`ReplicaOptions::interval`](crate::ReplicaOptions::interval), so a store that writes is behind most of the time;
    /// [`Stats::replica`](crate::Stats::replica) says by how much.
    pub fn behind(&self) -> Option<String> {
        self.replication.behind()
    }

    /// Checks every file of the replica. With [`ReplicaVerify::restore`] it also restores a state that the store has now,
    /// and compares all rows. Nothing happens before [`ReplicaVerify::run`]. The alert
    /// [`AlertKind::VerifyFailed`](crate::AlertKind::VerifyFailed) is active until a verification finds no problem.
    ///
    /// A damaged file that the store still has is written once more. If the newest state cannot be restored without one
    /// that it has not, the store uploads the whole database again, so that the states after that can be.
    ///
    /// ```
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let (path, replica) = (folder.path().join("app.db"), folder.path().join("replica"));
    /// # let store = larder::Options::new().replicate_to(replica.to_str().unwrap()).open(&path)?;
    /// let report = store.replica()?.verify().restore(true).run()?;
    /// println!("{report}");
    /// assert!(report.is_ok());
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn verify(&self) -> ReplicaVerify<'a> {
        let (engine, replication) = (self.engine, self.replication);
        let reporter = RestoreReporter::new(ReplicaRestoreProgress::NOTHING);
        let compared = reporter.handle();
        ReplicaVerify::new(&replication.storage, engine.options.clone())
            .note(|problem, restored| replication.was_verified(problem, restored))
            .damaged(|files| replication.found_damaged(files))
            .watched_by(reporter)
            .compare(move || snapshot(replication, &engine.shared, &engine.options, &compared))
    }
}

/// Waits until everything that is committed now is in the replica.
fn flush(replication: &Replication, shared: &Shared, timeout: Duration) -> Result<u64> {
    let began = Instant::now();
    let flushed = replication.flush(later(began, timeout));
    flushed.map_err(|reason| match shared.poison() {
        Some(stopped @ (Error::Fenced { .. } | Error::Diverged { .. })) => stopped,
        Some(poison) => Error::NotReplicated {
            waited: began.elapsed(),
            reason: format!("{poison}; nothing more is read from the log"),
        },
        None => Error::NotReplicated {
            waited: began.elapsed(),
            reason: format!("{reason}; it goes up later"),
        },
    })
}

/// The rows after a transaction that the replica has. The reporter may stop it.
pub(super) fn snapshot(
    replication: &Arc<Replication>,
    shared: &Shared,
    settings: &Settings,
    reporter: &RestoreReporter,
) -> Result<Snapshot> {
    // The first file has the whole database, and may take a while.
    flush(replication, shared, PATIENCE)?;
    let unverified = |problem: String| Error::Replica {
        what: format!("it cannot be compared with the store: {problem}"),
        retryable: true,
        url: replication.storage.to_string(),
        source: None,
    };
    for _ in 0..TRIES {
        let freezing = Arc::clone(replication);
        let frozen = run_exclusive(shared, settings, "verify", move |writer| {
            let turn = writer.turn();
            Ok(freezing.freeze(&turn))
        })?;
        if let Some((txid, mut reader)) = frozen.map_err(unverified)? {
            let rows = reader.with_conn(|conn| {
                let _watching = reporter.watch(conn, reader.interrupt());
                Fingerprint::read(conn, true)
            });
            reader.end();
            let rows = rows?;
            flush(replication, shared, PATIENCE)?;
            return Ok(Snapshot { txid, rows });
        }
    }
    Err(unverified("other processes write to the database all the time".into()))
}
