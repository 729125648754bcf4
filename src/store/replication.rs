//! A [`Store`] that is replicated: how it opens, and its handle.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{Options, Store};
use crate::connection::temp_folder::TempFolder;
use crate::engine::{Engine, KeepLog};
use crate::error::{Error, Result};
use crate::options::Settings;
use crate::queue::pending::Queue;
use crate::replica::{self, ReplicaOptions, Replication, StoreReplica};

/// # Replication
impl Options {
    /// Copies the database to a replica while the store runs, in the format of Litestream 0.5: the loss of the machine
    /// costs what was committed in the last [`ReplicaOptions::interval`]. The default is none. Takes the path of a folder, a
    /// URL, or a [`ReplicaOptions`] with its options.
    ///
    /// The store keeps what is not uploaded yet in a folder beside the database, `app.db-replica` for `app.db`. It belongs
    /// to the database: move and delete them together. A replica in that folder is refused as the store opens.
    ///
    /// ```
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let (path, replica) = (folder.path().join("app.db"), folder.path().join("replica"));
    /// # let replica = replica.to_str().unwrap();
    /// use std::time::Duration;
    ///
    /// let store = larder::Options::new().replicate_to(replica).open(&path)?;
    /// store.write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY)"))?;
    /// store.replica()?.flush(Duration::from_secs(10))?; // the table is in the replica
    /// # store.close()?;
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn replicate_to(mut self, replica: impl Into<ReplicaOptions>) -> Self {
        self.replica = Some(replica.into());
        self
    }
}

/// # Replication
impl Store {
    /// The replica of this store.
    ///
    /// # Errors
    ///
    /// [`Error::Options`]: the store was opened without [`Options::replicate_to`]. [`Error::Forked`].
    pub fn replica(&self) -> Result<StoreReplica<'_>> {
        if self.engine().queue().is_left() {
            return Err(Error::forked());
        }
        match &self.inner.replication {
            Some(replication) => Ok(StoreReplica::new(&self.inner.engine, replication)),
            None => Err(Error::Options {
                option: "replicate_to",
                problem: "the store was opened without it".into(),
            }),
        }
    }
}

/// Opens the engine of a store that may be replicated.
pub(super) fn open(
    settings: Settings,
    path: &Path,
    folder: Option<Arc<TempFolder>>,
    patience: Duration,
    replica: Option<&ReplicaOptions>,
) -> Result<(Engine, Option<Arc<Replication>>)> {
    let Some(replica) = replica else {
        return Ok((Engine::open(settings, path, folder, patience, None)?, None));
    };
    let prepared = replica::prepare(path, replica, &settings)?;
    let mut replication = None;
    let begun = &mut replication;
    let replicated = settings.clone();
    let keep_log: KeepLog<'_> = Box::new(move |shared, conn, telemetry| {
        let made = prepared.attach(shared, conn, telemetry, &replicated)?;
        *begun = Some(Arc::clone(&made));
        Ok(made)
    });
    let engine = Engine::open(settings, path, folder, patience, Some(keep_log))?;
    if let Some(replication) = &replication {
        replica::start_verifier(&engine, replication)?;
    }
    Ok((engine, replication))
}
