//! A [`Follower`]: how it opens with options, and the methods with which it is read, which are a store's.

#[cfg(feature = "async")]
use std::future::Future;
use std::path::Path;
use std::time::Duration;

use super::Options;
#[cfg(feature = "async")]
use super::futures;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::options::ReadOptions;
use crate::replica::{Follower, FollowerOptions, follower};
use crate::telemetry::stats::Stats;
use crate::transaction::ReadTx;
use crate::write::closing::CloseReport;

/// # Following
impl Options {
    /// Opens a [`Follower`] of a replica, with a database at `path` that is the follower's own: its folder
    /// `follower.db-replica` is beside it, and belongs to it. Takes a URL, or [`FollowerOptions`] with an interval.
    ///
    /// Of these options it uses those that are about reads, connections, checkpoints and monitoring. The access is always
    /// [`Access::Shared`](crate::Access::Shared), and nothing is ever written to the database but the primary's pages: no
    /// migrations, no statistics of the query planner, no vacuum.
    ///
    /// ```
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let (path, replica) = (folder.path().join("app.db"), folder.path().join("replica"));
    /// # let (replica, copy) = (replica.to_str().unwrap(), folder.path().join("follower.db"));
    /// use std::time::Duration;
    /// use larder::Options;
    ///
    /// let store = Options::new().replicate_to(replica).open(&path)?;
    /// store.replica()?.flush(Duration::from_secs(10))?;
    ///
    /// let follower = Options::new().readers(16).follow(replica, &copy)?;
    /// println!("{}", follower.lag());
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - [`Error::Diverged`]: the file at `path` is another database; it was changed by another program; or the replica is
    ///   not the one that was followed. Nothing was changed.
    /// - [`Error::Restore`]: the replica is empty or cannot be read, and the file does not exist.
    /// - [`Error::Replica`]: the URL cannot be used, or files of the replica are damaged or missing, and no others lead on.
    /// - [`Error::Open`]: this SQLite was built without `SQLITE_ENABLE_DBPAGE_VTAB`, or as [`Options::open`].
    /// - The other errors of [`Options::open`].
    pub fn follow(self, replica: impl Into<FollowerOptions>, path: impl AsRef<Path>) -> Result<Follower> {
        self.validate()?;
        follower::open(self.settings, &replica.into(), path.as_ref())
    }
}

/// # Reading
impl Follower {
    /// Runs `f` on the calling thread, in one snapshot of the database: a state that the primary was in.
    ///
    /// # Errors
    ///
    /// As [`Store::read`](crate::Store::read).
    ///
    /// # Panics
    ///
    /// If `f` panics.
    #[track_caller]
    pub fn read<T>(&self, f: impl FnOnce(&ReadTx<'_>) -> Result<T>) -> Result<T> {
        self.read_with(ReadOptions::new(), f)
    }

    /// As [`read`](Self::read), with options for this call: timeouts, a label.
    ///
    /// # Errors
    ///
    /// As [`Store::read_with`](crate::Store::read_with).
    ///
    /// # Panics
    ///
    /// If `f` panics.
    #[track_caller]
    pub fn read_with<T>(&self, options: ReadOptions, f: impl FnOnce(&ReadTx<'_>) -> Result<T>) -> Result<T> {
        self.engine().read(options, f)
    }

    /// As [`read`](Self::read), but returns a future: see [`Store::read_async`](crate::Store::read_async). The future does
    /// not keep the follower open.
    ///
    /// # Errors
    ///
    /// As [`Store::read_async`](crate::Store::read_async).
    ///
    /// # Panics
    ///
    /// If `f` panics.
    #[cfg(feature = "async")]
    #[cfg_attr(docsrs, doc(cfg(feature = "async")))]
    #[track_caller]
    pub fn read_async<T, F>(&self, f: F) -> impl Future<Output = Result<T>> + Send + use<T, F>
    where
        F: FnOnce(&ReadTx<'_>) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        self.read_async_with(ReadOptions::new(), f)
    }

    /// As [`read_with`](Self::read_with), but returns a future.
    ///
    /// # Errors
    ///
    /// As [`Store::read_async_with`](crate::Store::read_async_with).
    ///
    /// # Panics
    ///
    /// If `f` panics.
    #[cfg(feature = "async")]
    #[cfg_attr(docsrs, doc(cfg(feature = "async")))]
    #[track_caller]
    pub fn read_async_with<T, F>(
        &self,
        options: ReadOptions,
        f: F,
    ) -> impl Future<Output = Result<T>> + Send + use<T, F>
    where
        F: FnOnce(&ReadTx<'_>) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        futures::read_async(self.engine(), options, f)
    }
}

/// # Monitoring and closing
impl Follower {
    /// The absolute path of the database file.
    pub fn path(&self) -> &Path {
        self.engine().path()
    }

    /// What the follower is doing now, and what it has done since it was opened. [`Stats::follower`] is about following.
    pub fn stats(&self) -> Stats {
        self.engine().watch.stats()
    }

    /// Closes the follower for all its clones, within [`Options::close_timeout`]: waits for running reads, and moves the
    /// whole WAL into the database file. The next opening goes on from there.
    ///
    /// # Errors
    ///
    /// [`Error::Reentrant`] inside a closure of this follower.
    pub fn close(&self) -> Result<CloseReport> {
        self.close_within(self.engine().options.close_timeout)
    }

    /// As [`close`](Self::close), within `timeout`. The report says what was left undone after that time.
    ///
    /// # Errors
    ///
    /// As [`close`](Self::close).
    pub fn close_within(&self, timeout: Duration) -> Result<CloseReport> {
        self.engine().may_close()?;
        Ok(self.engine().close(timeout))
    }

    /// As [`close`](Self::close), but returns a future. Await it before the last clone is dropped, because that drop would
    /// close the follower too, and block the runtime's thread.
    ///
    /// # Errors
    ///
    /// As [`close`](Self::close).
    #[cfg(feature = "async")]
    #[cfg_attr(docsrs, doc(cfg(feature = "async")))]
    pub fn close_async(&self) -> impl Future<Output = Result<CloseReport>> + Send + use<> {
        let timeout = self.engine().options.close_timeout;
        futures::close_async(self.clone(), Self::engine, timeout)
    }
}
