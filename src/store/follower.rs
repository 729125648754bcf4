//! A [`Follower`]: how it opens with options, and the methods with which it is read, which are a store's.

#[cfg(feature = "async")]
use std::borrow::Cow;
#[cfg(feature = "async")]
use std::future::Future;
use std::path::Path;
use std::time::Duration;

use rusqlite::Params;

use super::{Options, Store, own_errors};
#[cfg(feature = "async")]
use super::{RowStream, futures};
use crate::backup::Backup;
use crate::error::{Error, Result};
use crate::maintenance::check::Check;
use crate::options::ReadOptions;
use crate::replica::{Follower, FollowerOptions, ReplicaOptions, follower};
use crate::telemetry::stats::Stats;
use crate::transaction::ReadTx;
use crate::transaction::flow::Flow;
use crate::transaction::from_row::FromRow;
use crate::write::closing::CloseReport;

/// How long a promotion waits for the newest transactions, and for its claim.
const CLAIM_PATIENCE: Duration = Duration::from_secs(30);

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
    /// - [`Error::Diverged`]: the file at `path` is another database, or damaged; it was changed by another program; or the
    ///   replica is not the one that was followed. Nothing was changed.
    /// - [`Error::AlreadyOpen`]: this process has the file open, as a follower's or a store's.
    /// - [`Error::Restore`]: the replica is empty or cannot be read, and the file does not exist.
    /// - [`Error::Replica`]: the URL cannot be used, or files of the replica are damaged or missing, and no others lead on.
    /// - [`Error::Open`]: this SQLite was built without `SQLITE_ENABLE_DBPAGE_VTAB`, or as [`Options::open`].
    /// - The other errors of [`Options::open`].
    pub fn follow(self, replica: impl Into<FollowerOptions>, path: impl AsRef<Path>) -> Result<Follower> {
        self.validate()?;
        self.refuse_read_only("follow: a follower writes its primary's pages, and nothing else; leave it out")?;
        self.refuse_key("follow")?;
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
        futures::read_async(self.engine(), "read_async", options, f)
    }

    /// Runs one query in one snapshot, and returns its rows as values, one by one: see
    /// [`Store::read_stream`](crate::Store::read_stream). The stream does not keep the follower open.
    ///
    /// # Errors
    ///
    /// As [`Store::read_stream`](crate::Store::read_stream).
    ///
    /// # Panics
    ///
    /// As [`Store::read_stream`](crate::Store::read_stream).
    #[cfg(feature = "async")]
    #[cfg_attr(docsrs, doc(cfg(feature = "async")))]
    #[track_caller]
    pub fn read_stream<T>(
        &self,
        sql: impl Into<Cow<'static, str>>,
        params: impl Params + Send + 'static,
    ) -> RowStream<T>
    where
        T: FromRow + Send + 'static,
    {
        self.read_stream_with(ReadOptions::new(), sql, params)
    }

    /// As [`read_stream`](Self::read_stream), with options for this call: timeouts, a label.
    ///
    /// # Errors
    ///
    /// As [`Store::read_stream_with`](crate::Store::read_stream_with).
    ///
    /// # Panics
    ///
    /// As [`Store::read_stream`](crate::Store::read_stream).
    #[cfg(feature = "async")]
    #[cfg_attr(docsrs, doc(cfg(feature = "async")))]
    #[track_caller]
    pub fn read_stream_with<T>(
        &self,
        options: ReadOptions,
        sql: impl Into<Cow<'static, str>>,
        params: impl Params + Send + 'static,
    ) -> RowStream<T>
    where
        T: FromRow + Send + 'static,
    {
        RowStream::new(self.engine(), options, sql.into(), params)
    }
}

/// # Reading, with own errors
///
/// As [`Store`'s](crate::Store#own-errors), for closures that return an error of your own.
impl Follower {
    /// As [`read`](Self::read), for a closure with an error type of your own: see [`Store::query`](crate::Store::query).
    ///
    /// ```
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let (path, replica) = (folder.path().join("app.db"), folder.path().join("replica"));
    /// # let (replica, copy) = (replica.to_str().unwrap(), folder.path().join("follower.db"));
    /// # let store = larder::Options::new().replicate_to(replica).open(&path)?;
    /// # store.replica()?.flush(std::time::Duration::from_secs(10))?;
    /// # type AppError = Box<dyn std::error::Error>;
    /// use larder::Follower;
    ///
    /// let follower = Follower::open(replica, &copy)?;
    /// let one = follower.query(|tx| -> Result<i64, AppError> {
    ///     Ok(tx.query_row("SELECT '1'", [], |row| row.get::<_, String>(0))?.parse()?)
    /// })?;
    /// assert_eq!(one, 1);
    /// # follower.close()?;
    /// # Ok::<_, AppError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Store::query`](crate::Store::query).
    ///
    /// # Panics
    ///
    /// As [`Store::query`](crate::Store::query).
    #[track_caller]
    pub fn query<T, E: From<Error> + 'static>(&self, f: impl FnOnce(&ReadTx<'_>) -> Result<T, E>) -> Result<T, E> {
        self.query_with(ReadOptions::new(), f)
    }

    /// As [`query`](Self::query), with options for this call.
    ///
    /// # Errors
    ///
    /// As [`Store::query_with`](crate::Store::query_with).
    ///
    /// # Panics
    ///
    /// As [`Store::query`](crate::Store::query).
    #[track_caller]
    pub fn query_with<T, E: From<Error> + 'static>(
        &self,
        options: ReadOptions,
        f: impl FnOnce(&ReadTx<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        own_errors::query(self.engine(), options, f)
    }

    /// Runs one query in one snapshot, on the calling thread, and calls `f` with the value of each row: see
    /// [`Store::query_each`](crate::Store::query_each).
    ///
    /// # Errors
    ///
    /// As [`Store::query_each`](crate::Store::query_each).
    ///
    /// # Panics
    ///
    /// As [`Store::query`](crate::Store::query).
    #[track_caller]
    pub fn query_each<T, R, E>(&self, sql: &str, params: impl Params, f: impl FnMut(T) -> Result<R, E>) -> Result<R, E>
    where
        T: FromRow,
        R: Flow,
        E: From<Error> + 'static,
    {
        self.query_each_with(ReadOptions::new(), sql, params, f)
    }

    /// As [`query_each`](Self::query_each), with options for this call.
    ///
    /// # Errors
    ///
    /// As [`Store::query_each_with`](crate::Store::query_each_with).
    ///
    /// # Panics
    ///
    /// As [`Store::query`](crate::Store::query).
    #[track_caller]
    pub fn query_each_with<T, R, E>(
        &self,
        options: ReadOptions,
        sql: &str,
        params: impl Params,
        f: impl FnMut(T) -> Result<R, E>,
    ) -> Result<R, E>
    where
        T: FromRow,
        R: Flow,
        E: From<Error> + 'static,
    {
        self.query_with(options, |tx| tx.each(sql, params, f))
    }

    /// As [`query`](Self::query), but returns a future: see [`Store::query_async`](crate::Store::query_async).
    ///
    /// # Errors
    ///
    /// As [`Store::query_async`](crate::Store::query_async).
    ///
    /// # Panics
    ///
    /// As [`Store::query_async`](crate::Store::query_async).
    #[cfg(feature = "async")]
    #[cfg_attr(docsrs, doc(cfg(feature = "async")))]
    #[track_caller]
    pub fn query_async<T, E, F>(&self, f: F) -> impl Future<Output = Result<T, E>> + Send + use<T, E, F>
    where
        F: FnOnce(&ReadTx<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        self.query_async_with(ReadOptions::new(), f)
    }

    /// As [`query_with`](Self::query_with), but returns a future.
    ///
    /// # Errors
    ///
    /// As [`Store::query_async_with`](crate::Store::query_async_with).
    ///
    /// # Panics
    ///
    /// As [`Store::query_async`](crate::Store::query_async).
    #[cfg(feature = "async")]
    #[cfg_attr(docsrs, doc(cfg(feature = "async")))]
    #[track_caller]
    pub fn query_async_with<T, E, F>(
        &self,
        options: ReadOptions,
        f: F,
    ) -> impl Future<Output = Result<T, E>> + Send + use<T, E, F>
    where
        F: FnOnce(&ReadTx<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        own_errors::query_async(self.engine(), options, f)
    }

    /// As [`query_each`](Self::query_each), but returns a future: see
    /// [`Store::query_each_async`](crate::Store::query_each_async).
    ///
    /// # Errors
    ///
    /// As [`Store::query_each_async`](crate::Store::query_each_async).
    ///
    /// # Panics
    ///
    /// As [`Store::query_async`](crate::Store::query_async).
    #[cfg(feature = "async")]
    #[cfg_attr(docsrs, doc(cfg(feature = "async")))]
    #[track_caller]
    pub fn query_each_async<T, R, E, S, P, F>(
        &self,
        sql: S,
        params: P,
        f: F,
    ) -> impl Future<Output = Result<R, E>> + Send + use<T, R, E, S, P, F>
    where
        T: FromRow,
        R: Flow + Send + 'static,
        E: From<Error> + Send + 'static,
        S: Into<Cow<'static, str>>,
        P: Params + Send + 'static,
        F: FnMut(T) -> Result<R, E> + Send + 'static,
    {
        self.query_each_async_with(ReadOptions::new(), sql, params, f)
    }

    /// As [`query_each_with`](Self::query_each_with), but returns a future.
    ///
    /// # Errors
    ///
    /// As [`Store::query_each_async_with`](crate::Store::query_each_async_with).
    ///
    /// # Panics
    ///
    /// As [`Store::query_async`](crate::Store::query_async).
    #[cfg(feature = "async")]
    #[cfg_attr(docsrs, doc(cfg(feature = "async")))]
    #[track_caller]
    pub fn query_each_async_with<T, R, E, S, P, F>(
        &self,
        options: ReadOptions,
        sql: S,
        params: P,
        f: F,
    ) -> impl Future<Output = Result<R, E>> + Send + use<T, R, E, S, P, F>
    where
        T: FromRow,
        R: Flow + Send + 'static,
        E: From<Error> + Send + 'static,
        S: Into<Cow<'static, str>>,
        P: Params + Send + 'static,
        F: FnMut(T) -> Result<R, E> + Send + 'static,
    {
        let sql = sql.into();
        self.query_async_with(options, move |tx| tx.each(&sql, params, f))
    }
}

/// # Promotion
impl Follower {
    /// Makes this database the primary: applies everything that is in the replica, claims the replica, closes the follower
    /// for all its clones, and opens a [`Store`] on the same file. `options` are the store's; without
    /// [`Options::replicate_to`] it replicates to the URL that was followed.
    ///
    /// The claim is one conditional PUT. From then on the old primary can never write to the replica again, whatever it
    /// does: its next upload fails, and its writes with [`Error::Fenced`]. What it had committed and not uploaded is in its
    /// own file alone. Other followers follow the new primary by themselves.
    ///
    /// Larder promotes no follower by itself: call this where it is decided that the old primary is to be replaced, by a person
    /// or by an orchestrator, and for one follower. Of two that are promoted at once, one is.
    ///
    /// # Errors
    ///
    /// Before the claim nothing is changed, here or in the replica: the follower goes on for its other clones, and
    /// [`Options::follow`] opens it again.
    ///
    /// - [`Error::Behind`]: what is in the replica could not be applied in 30 s.
    /// - [`Error::Diverged`]: another process has gone on with the replica meanwhile, which the error names: another follower
    ///   that was promoted, or the old primary, which writes all the time. Or the follower has [`stopped`](Self::stopped), or
    ///   another program has changed the database. Or the URL in `options` has the replica of another database, whatever
    ///   [`OnDivergence`](crate::OnDivergence) says, or it has nothing, and is not to be rebased.
    /// - [`Error::Replica`]: the storage does not answer. Or the replica has no owner, or its newest transaction was written
    ///   after that of its owner by another program, such as Litestream, which no claim keeps from going on: stop its
    ///   daemon, and say so with [`ReplicaOptions::take_over`].
    /// - [`Error::Reentrant`] inside a closure of this follower, and errors in the options.
    ///
    /// After the claim this database owns the replica:
    ///
    /// - [`Error::Diverged`]: another follower has claimed it since, which the error names. Follow the replica with this file.
    /// - [`Error::NotReplicated`]: the storage does not answer any more.
    /// - The errors of [`Options::open`]. Open the store with `options` again, or follow the replica with this file.
    pub fn promote(self, options: Options) -> Result<Store> {
        options.validate()?;
        options.refuse_read_only("promote: a primary writes")?;
        let followed = || ReplicaOptions::to(self.inner.options.url.clone());
        let replica = options.replica.clone().unwrap_or_else(followed);
        let claimed = self.claim(&replica, CLAIM_PATIENCE)?;
        let path = self.path().to_owned();
        self.close()?;
        drop(self);
        let opened = options.replicate_to(replica).open(path);
        let store = opened.map_err(|error| match claimed {
            Some(claimed) => claimed.not_opened(error),
            None => error,
        })?;
        store.replica()?.flush(CLAIM_PATIENCE)?;
        Ok(store)
    }
}

/// # Checks and backups
impl Follower {
    /// Checks the whole database, as [`Store::check`] does.
    pub fn check(&self) -> Check<'_> {
        Check::new(self.engine())
    }

    /// Copies the database to a file, as [`Store::backup`] does: the primary has no work with it.
    pub fn backup(&self, to: impl AsRef<Path>) -> Backup<'_> {
        Backup::new(self.engine(), to.as_ref(), false)
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
