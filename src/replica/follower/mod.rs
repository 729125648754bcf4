//! [`Follower`]: a copy of a replicated database on another machine, which follows the primary and is read as a store is.
//!
//! | what | where |
//! |---|---|
//! | which replica, and how often it is looked at | `options.rs` |
//! | how it begins | `open.rs` |
//! | whether the database file is as the follower left it | `local.rs` |
//! | what it has reached; threads and locks | `following.rs` |
//! | who waits for a token, and whose transaction that is | `wait.rs` |
//! | the task that looks for files | `poll.rs` |
//! | files are here, whole, before the database is locked | `download.rs` |
//! | files into the database, as one transaction | `apply.rs` |
//! | the newest state into the database, where files do not lead to it | `resync.rs` |
//! | the claim of a follower that is promoted | `promote.rs` |
//! | why a look failed | `trouble.rs` |
//! | what closing notes | `keeper.rs` |
//! | how far it is behind | `lag.rs` |
//!
//! A follower has an engine of its own, as a store has, with the pool of readers, the watchdog and the writer thread.
//! Only the follower gives that thread anything to write. The methods that read are in `store/follower.rs`.

mod apply;
mod download;
mod following;
mod keeper;
mod lag;
mod local;
mod open;
mod options;
mod poll;
mod promote;
mod resync;
mod trouble;
mod wait;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use self::apply::Source;
pub(crate) use self::following::Following;
pub use self::lag::Lag;
pub(crate) use self::open::open;
pub use self::options::FollowerOptions;
use self::trouble::Trouble;
use super::runtime;
use super::storage::{all_files, request};
use super::token::Token;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::options::Settings;
use crate::queue::pending::Queue;
use crate::runtime::sync::Arc;

/// A copy of a replicated database that follows its primary, and is read as a [`Store`](crate::Store) is.
///
/// It restores the database if the file is missing, brings it to the newest state before anybody reads, and then applies
/// what the primary uploads. Each read is one snapshot of a state that the primary was in, and never older than the one
/// before it. Other processes may read the file, too (the `sqlite3` shell, Datasette), and none may write to it: a
/// change is noticed, and the follower then stops instead of mixing it with the primary's.
///
/// The storage is enough: primary and follower need no connection to one another. Followers are only read; writes go to
/// the primary. How far a follower is behind is [`lag`](Self::lag), and [`wait_for`](Self::wait_for) makes a reader see
/// its own writes.
///
/// A `Follower` is a handle. Clone it and pass the clones around. Dropping the last clone closes it.
///
/// ```
/// # let folder = tempfile::tempdir().unwrap();
/// # let (path, replica) = (folder.path().join("app.db"), folder.path().join("replica"));
/// # let (replica, copy) = (replica.to_str().unwrap(), folder.path().join("follower.db"));
/// use std::time::Duration;
/// use larder::{Follower, Options};
///
/// // The primary.
/// let store = Options::new().replicate_to(replica).open(&path)?; // or "s3://bucket/app"
/// store.write(|tx| tx.execute_batch("CREATE TABLE users(id INTEGER PRIMARY KEY)"))?;
/// store.replica()?.flush(Duration::from_secs(10))?;
///
/// // On another machine.
/// let follower = Follower::open(replica, &copy)?;
/// store.write(|tx| tx.execute("INSERT INTO users VALUES (7)", []))?;
/// let token = store.replica()?.token(); // text, for a header
/// follower.wait_for(token, Duration::from_secs(10))?;
/// let users: i64 = follower.read(|tx| tx.query_row("SELECT count(*) FROM users", [], |row| row.get(0)))?;
/// assert_eq!(users, 1);
/// # follower.close()?;
/// # Ok::<_, larder::Error>(())
/// ```
///
/// A follower needs an SQLite that was built with `SQLITE_ENABLE_DBPAGE_VTAB`. The bundled one is, with the line that the
/// [guide](crate::guide::replication) shows.
#[derive(Clone)]
pub struct Follower {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) engine: Engine,
    following: Arc<Following>,
    pub(crate) options: FollowerOptions,
}

/// # Following
impl Follower {
    /// Follows the replica at a URL, with a database at `path` that is the follower's own.
    /// [`Options::follow`](crate::Options::follow) opens it with other options.
    ///
    /// # Errors
    ///
    /// See [`Options::follow`](crate::Options::follow).
    pub fn open(url: &str, path: impl AsRef<Path>) -> Result<Self> {
        open(Settings::default(), &url.into(), path.as_ref())
    }

    /// How far the follower has come, and since when it may be behind.
    pub fn lag(&self) -> Lag {
        let figures = self.engine().telemetry.follower.stats();
        Lag::of(&figures.expect("a follower has figures"))
    }

    /// Waits until the follower has everything that a [`Token`] stands for, so that the next read sees it.
    ///
    /// The follower looks at the replica at once, and then every interval.
    ///
    /// # Errors
    ///
    /// - [`Error::Behind`]: it has not, after that time. Read what is here, read from the primary, or wait again.
    /// - [`Error::Diverged`]: the token is of another replica; or of a write that may be lost, because its primary had not
    ///   uploaded it when another process went on with the replica; or the follower has [stopped](Self::stopped), which is
    ///   [`Error::Poisoned`] if its database takes no more writes.
    /// - [`Error::Replica`]: whose write it is has to be asked, and the storage refuses that, or does not answer in that time.
    /// - [`Error::Closed`].
    pub fn wait_for(&self, token: Token, timeout: Duration) -> Result<()> {
        if self.engine().queue().is_left() {
            return Err(Error::forked());
        }
        self.inner.following.wait_for(token, timeout)
    }

    /// As [`wait_for`](Self::wait_for), but returns a future, which any runtime can poll: it needs no timer of that runtime,
    /// and blocks none of its threads. It does nothing before its first poll, can be dropped at any time, and does not keep
    /// the follower open.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let (path, copy, replica) = (folder.path().join("a.db"), folder.path().join("b.db"), folder.path().join("replica"));
    /// # let url = replica.to_str().unwrap();
    /// # futures_executor::block_on(async {
    /// # let store = larder::Options::new().replicate_to(url).open(&path)?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE users(id INTEGER PRIMARY KEY); INSERT INTO users VALUES (7)"))?;
    /// # store.replica()?.flush(Duration::from_secs(10))?;
    /// # let follower = larder::Follower::open(url, &copy)?;
    /// # let token = store.replica()?.token();
    /// follower.wait_for_async(token, Duration::from_secs(2)).await?;
    /// let users: i64 = follower
    ///     .read_async(|tx| tx.query_row("SELECT count(*) FROM users", [], |row| row.get(0)))
    ///     .await?;
    /// # assert_eq!(users, 1);
    /// # follower.close()?;
    /// # Ok::<_, larder::Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// As [`wait_for`](Self::wait_for).
    #[cfg(feature = "async")]
    #[cfg_attr(docsrs, doc(cfg(feature = "async")))]
    pub fn wait_for_async(&self, token: Token, timeout: Duration) -> impl Future<Output = Result<()>> + Send + use<> {
        let (shared, following) = (Arc::clone(&self.engine().shared), Arc::clone(&self.inner.following));
        async move {
            if shared.queue.is_left() {
                return Err(Error::forked());
            }
            following.wait_for_async(token, timeout).await
        }
    }

    /// Why the follower applies nothing any more: [`Error::Diverged`], if the replica is another one now, or another
    /// program has changed the database; [`Error::Poisoned`], if the files of the database were moved, SQLite's locks on
    /// them were dropped, or the disk has failed. `None` while it follows. For a health check: reads go on, and see no newer
    /// state.
    pub fn stopped(&self) -> Option<Error> {
        self.inner.following.stopped()
    }
}

impl Follower {
    /// Waits until everything is here that the replica has now.
    pub(crate) fn catch_up(&self, timeout: Duration) -> Result<()> {
        let following = &self.inner.following;
        let storage = following.storage.clone();
        let files = request(&following.storage, async move { all_files(&storage).await })?;
        let txid = files.iter().map(|file| file.txids.max).max().unwrap_or(0);
        self.wait_for(Token::plain(0, txid), timeout)
    }

    /// Checks that the follower goes on, and that no other program has changed the database.
    pub(crate) fn check_is_ours(&self) -> Result<()> {
        let following = &self.inner.following;
        let this = Arc::clone(following);
        let applied = runtime::wait(async move { this.run(Source::Planned(Vec::new())).await });
        let applied = applied.map_err(|error| following.storage.no_thread(error))?;
        if let Some(stopped) = self.stopped() {
            return Err(stopped);
        }
        match applied {
            Ok(()) => Ok(()),
            Err(Trouble::Local(error)) => Err(error),
            Err(Trouble::Closing) => Err(Error::Closed),
            Err(other) => Err(following.diverged(other.describe())),
        }
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.inner.engine
    }
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower")
            .field("path", &self.engine().path())
            .field("replica", &self.inner.following.storage)
            .finish_non_exhaustive()
    }
}
