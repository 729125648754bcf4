//! [`Replica`]: the handle of a replica.

use std::fmt;
use std::sync::Arc;

use super::branch::{At, BranchReport, branch};
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

    /// Makes a new replica at a URL, which begins with a state of this one and goes on by itself: for a test on real data, or
    /// to look at the past while the present goes on. This replica is left as it is.
    ///
    /// The files that make the state are copied: by the bucket, if both URLs are in one, so that nothing is downloaded; by
    /// links between folders of one file system; otherwise through this machine. What goes through it is checked; a
    /// [`verify`](Self::verify) of the branch checks the rest. If it fails, nothing is left at the URL. Open the branch like any replica on a new machine,
    /// with [`ReplicaOptions::restore_if_missing`](crate::ReplicaOptions::restore_if_missing), or follow it. To delete it,
    /// delete what is at its URL.
    ///
    /// ```
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    /// # let (path, replica, branch) = (at("app.db"), at("replica"), at("branch"));
    /// use std::time::Duration;
    /// use larder::{At, Options, Replica, ReplicaOptions};
    ///
    /// # let store = Options::new().replicate_to(replica.as_str()).open(&path)?;
    /// # store.replica()?.flush(Duration::from_secs(10))?;
    /// let report = Replica::open(&replica)?.branch(At::Newest, &branch)?; // or At::Time(an_hour_ago)
    /// println!("{report}");
    /// let options = ReplicaOptions::to(&branch).restore_if_missing(true);
    /// let test = Options::new().replicate_to(options).open(folder.path().join("test.db"))?;
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Replica`](crate::Error::Replica): this replica does not have the state, or a file of it is damaged; there
    /// is something at the URL already, which the error names; another process makes a branch there; or one of the two
    /// cannot be used.
    pub fn branch(&self, at: At, url: &str) -> Result<BranchReport> {
        branch(&self.storage, at, &Storage::connect(url)?)
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
