//! [`Replica`]: the handle of a replica.

use std::fmt;
use std::sync::Arc;

use super::restore::ReplicaRestore;
use super::restore::points::{RestoreSpan, points};
use super::restore::verify::ReplicaVerify;
use super::storage::{Layout, Storage};
use crate::error::Result;
use crate::options::Settings;

/// A replica, to look at and to restore from.
///
/// ```no_run
/// let replica = larder::Replica::open("s3://bucket/app")?;
/// for span in replica.points()? {
///     println!("{span}");
/// }
/// println!("{}", replica.verify().restore(true).run()?);
/// # Ok::<_, larder::Error>(())
/// ```
#[derive(Clone)]
pub struct Replica {
    storage: Storage,
}

impl Replica {
    /// The replica at a URL, or in a folder. Makes no request.
    ///
    /// # Errors
    ///
    /// [`Error::Replica`](crate::Error::Replica): the URL cannot be used.
    pub fn open(url: &str) -> Result<Self> {
        Ok(Self {
            storage: Storage::connect(url)?,
        })
    }

    /// The replica in an object store of the caller's.
    #[doc(hidden)]
    pub fn on(store: Arc<dyn object_store::ObjectStore>, layout: Layout) -> Self {
        Self {
            storage: Storage::on(store, layout),
        }
    }

    /// Lists what can be restored, as spans of the past from the oldest to the newest.
    ///
    /// # Errors
    ///
    /// [`Error::Replica`](crate::Error::Replica): the replica cannot be read.
    pub fn points(&self) -> Result<Vec<RestoreSpan>> {
        Ok(points(&self.storage)?)
    }

    /// Restores a database from it. Nothing happens before [`ReplicaRestore::to`].
    pub fn restore(&self) -> ReplicaRestore {
        ReplicaRestore::new(Ok(self.storage.clone()), Settings::default())
    }

    /// Checks every file, and on request what is restored. Nothing happens before [`ReplicaVerify::run`].
    pub fn verify(&self) -> ReplicaVerify<'_> {
        ReplicaVerify::new(&self.storage, Settings::default())
    }
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Replica").field(&self.storage).finish()
    }
}
