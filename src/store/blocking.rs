//! Calls that block: a caller waits on its own thread. `futures.rs` has their async forms.

use std::time::Duration;

use super::Store;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::options::{ReadOptions, WriteOptions};
use crate::queue::pending::Pending;
use crate::queue::slot::Caller;
use crate::transaction::{ReadTx, WriteTx};
use crate::write::closing::CloseReport;

/// # Writing, reading and closing
impl Store {
    /// Runs `f` in a transaction, and blocks until the transaction is committed.
    ///
    /// Writes that are queued at the same time share one commit. Each write is still atomic on its own: if its closure
    /// fails, panics or violates a constraint, only that write is rolled back. `f` runs at most once.
    ///
    /// For a closure with an error type of your own there is [`transact`](Self::transact).
    ///
    /// Which thread runs `f`, and with how large a stack, is not specified. A write that finds no other going on saves the
    /// way to the writer thread, and runs on the calling thread. So `f` must not block on a future: the calling thread
    /// may be one of an async runtime, which then panics.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT"))?;
    /// let name = String::from("Ada");
    /// let id = store.write(move |tx| {
    ///     tx.insert("INSERT INTO users(name) VALUES (?1)", [name])
    /// })?; // committed
    /// # assert_eq!(id, 1);
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The error that `f` returned, with all its changes rolled back, or one of the errors below. [`Error::outcome`]
    /// says what happened to the write:
    /// - not started: [`QueueTimeout`](Error::QueueTimeout), [`Poisoned`](Error::Poisoned),
    ///   [`WalFull`](Error::WalFull), [`Closed`](Error::Closed), [`Reentrant`](Error::Reentrant) (a write inside a
    ///   write), and [`Sqlite`](Error::Sqlite) BUSY if another process held the lock;
    /// - rolled back: [`Sqlite`](Error::Sqlite), [`App`](Error::App), [`Refused`](Error::Refused),
    ///   [`RolledBack`](Error::RolledBack);
    /// - unknown: [`CommitUnknown`](Error::CommitUnknown).
    ///
    /// # Panics
    ///
    /// If `f` panics. The write is rolled back, and the panic resumes on the calling thread.
    #[track_caller]
    pub fn write<T, F>(&self, f: F) -> Result<T>
    where
        F: FnOnce(&WriteTx<'_>) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        self.write_with(WriteOptions::new(), f)
    }

    /// As [`write`](Self::write), with options for this call: durability, timeouts, a label.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE payments(cents INTEGER) STRICT"))?;
    /// use larder::{Durability, WriteOptions};
    ///
    /// let options = WriteOptions::new().durability(Durability::Full).label("payment");
    /// store.write_with(options, |tx| tx.insert("INSERT INTO payments VALUES (250)", []))?; // survives a power failure
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`write`](Self::write), [`Interrupted`](Error::Interrupted) after
    /// [`WriteOptions::execution_timeout`], and [`QueueFull`](Error::QueueFull) with [`WriteOptions::when_full`].
    ///
    /// # Panics
    ///
    /// As [`write`](Self::write).
    #[track_caller]
    pub fn write_with<T, F>(&self, options: WriteOptions, f: F) -> Result<T>
    where
        F: FnOnce(&WriteTx<'_>) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        self.engine().write("write", self.write_options(options), f)
    }

    /// Queues a write and returns a [`Pending`] to wait for or to await. The call blocks only while the queue is full: an
    /// async task calls `submit_async`, which does not block its thread. An error of your own travels in [`Error::app`], or
    /// comes back as it was from [`WriteTx::transact`](crate::WriteTx::transact), whose result is then the value of the
    /// write:
    ///
    /// ```
    /// # #[derive(Debug, thiserror::Error)]
    /// # enum OrderError {
    /// #     #[error("{0} is too many")]
    /// #     TooMany(i64),
    /// #     #[error(transparent)]
    /// #     Db(#[from] larder::Error),
    /// # }
    /// # let store = larder::Store::open_temp()?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE orders(n INTEGER) STRICT"))?;
    /// let pending = store.submit(|tx| {
    ///     Ok(tx.transact(|tx| -> Result<(), OrderError> {
    ///         tx.execute("INSERT INTO orders VALUES (12)", [])?;
    ///         Err(OrderError::TooMany(12)) // undoes the insert
    ///     }))
    /// })?;
    /// assert!(matches!(pending.wait()?, Err(OrderError::TooMany(12))));
    /// # let orders: i64 = store.read(|tx| tx.scalar("SELECT count(*) FROM orders", []))?;
    /// # assert_eq!(orders, 0);
    /// # Ok::<_, OrderError>(())
    /// ```
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE log(n INTEGER) STRICT"))?;
    /// let pending: Vec<_> = (0..100)
    ///     .map(|n| store.submit(move |tx| tx.insert("INSERT INTO log VALUES (?1)", [n])))
    ///     .collect::<larder::Result<_>>()?;
    /// for write in pending {
    ///     write.wait()?; // or write.await
    /// }
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`QueueTimeout`](Error::QueueTimeout) if the queue stayed full, [`Poisoned`](Error::Poisoned),
    /// [`Closed`](Error::Closed), [`Reentrant`](Error::Reentrant). The [`Pending`] returns the other errors of
    /// [`write`](Self::write).
    #[track_caller]
    pub fn submit<T, F>(&self, f: F) -> Result<Pending<T>>
    where
        F: FnOnce(&WriteTx<'_>) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        self.submit_with(WriteOptions::new(), f)
    }

    /// As [`submit`](Self::submit), with options for this call. With [`WhenFull::Fail`](crate::WhenFull::Fail) it never
    /// blocks.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE hits(page TEXT) STRICT"))?;
    /// use larder::{Error, WhenFull, WriteOptions};
    ///
    /// let options = WriteOptions::new().when_full(WhenFull::Fail);
    /// match store.submit_with(options, |tx| tx.insert("INSERT INTO hits VALUES ('/')", [])) {
    ///     Err(Error::QueueFull { .. }) => println!("busy: the hit is not counted"),
    ///     pending => drop(pending?), // the write goes on
    /// }
    /// # Ok::<_, Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`submit`](Self::submit), and [`QueueFull`](Error::QueueFull) with [`WriteOptions::when_full`].
    #[track_caller]
    pub fn submit_with<T, F>(&self, options: WriteOptions, f: F) -> Result<Pending<T>>
    where
        F: FnOnce(&WriteTx<'_>) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let options = self.write_options(options);
        let pending = self.engine().enqueue_write("submit", options, Caller::Submitter, f)?;
        pending.wait_for_room()?;
        Ok(pending)
    }

    /// Runs `f` on the calling thread, in one snapshot of the database.
    ///
    /// The snapshot is at least as new as every write that was acknowledged before this call. Reads and writes do not
    /// wait for each other, but the WAL cannot be reset while the snapshot lasts.
    ///
    /// For a closure with an error type of your own there is [`query`](Self::query).
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE users(name TEXT NOT NULL) STRICT; INSERT INTO users VALUES ('Ada')"))?;
    /// let (count, names) = store.read(|tx| {
    ///     let count: i64 = tx.scalar("SELECT count(*) FROM users", [])?;
    ///     let names: Vec<String> = tx.scalars("SELECT name FROM users", [])?;
    ///     Ok((count, names)) // both of one moment
    /// })?;
    /// assert_eq!((count, names), (1, vec!["Ada".to_owned()]));
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - The error that `f` returned.
    /// - [`ReadQueueTimeout`](Error::ReadQueueTimeout): no connection became available in time.
    /// - [`Refused`](Error::Refused): the SQL writes, or leaves the snapshot.
    /// - [`Reentrant`](Error::Reentrant): this thread would wait for itself.
    /// - [`Closed`](Error::Closed).
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
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// use std::time::Duration;
    /// use larder::ReadOptions;
    ///
    /// let options = ReadOptions::new().execution_timeout(Duration::from_secs(2)).label("report");
    /// let tables: i64 = store.read_with(options, |tx| tx.scalar("SELECT count(*) FROM sqlite_schema", []))?;
    /// # assert_eq!(tables, 0);
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`read`](Self::read), [`Interrupted`](Error::Interrupted) after
    /// [`ReadOptions::execution_timeout`], and [`QueueFull`](Error::QueueFull) with [`ReadOptions::when_full`].
    ///
    /// # Panics
    ///
    /// As [`read`](Self::read).
    #[track_caller]
    pub fn read_with<T>(&self, options: ReadOptions, f: impl FnOnce(&ReadTx<'_>) -> Result<T>) -> Result<T> {
        self.engine().read(self.read_options(options), f)
    }

    /// Closes the store for all its clones, within [`Options::close_timeout`](crate::Options::close_timeout).
    ///
    /// The store accepts no further calls, finishes the queued writes, waits for running reads, refreshes the statistics
    /// of the query planner, and moves the whole WAL into the database file. A second call returns the same report, or waits again if the
    /// first one gave up.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// let report = store.close()?;
    /// println!("{report}"); // 0 queued writes finished, 0 never started, the WAL was truncated (1.2ms)
    /// # assert!(report.wal_kept_because.is_none());
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Reentrant`](Error::Reentrant) inside a closure of this store.
    pub fn close(&self) -> Result<CloseReport> {
        self.close_within(self.engine().options.close_timeout)
    }

    /// As [`close`](Self::close), within `timeout`. The report says what was left undone after that time.
    ///
    /// Writes that have not started then fail with [`Closed`](Error::Closed). A closure that still runs is not
    /// interrupted; the file is closed when it returns.
    ///
    /// # Errors
    ///
    /// As [`close`](Self::close).
    pub fn close_within(&self, timeout: Duration) -> Result<CloseReport> {
        self.engine().may_close()?;
        Ok(self.engine().close(timeout))
    }
}
