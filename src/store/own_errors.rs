//! Reads and writes whose closures return an error of the application's own type. How it travels: `error/own.rs`.

#[cfg(feature = "async")]
use std::borrow::Cow;
#[cfg(feature = "async")]
use std::future::Future;

use rusqlite::Params;

#[cfg(feature = "async")]
use super::futures;
use super::{Engine, Store};
use crate::error::own::{Aside, carry, unpack};
use crate::error::{Error, Result};
use crate::options::{ReadOptions, WriteOptions};
use crate::transaction::flow::Flow;
use crate::transaction::from_row::FromRow;
use crate::transaction::{ReadTx, WriteTx};

/// # Own errors
///
/// As `write` and `read`, for closures that return an error of your own. That error comes back as it was; larder's own
/// come by `From`. So the type needs `From<larder::Error>`, and nothing else: an enum with `#[from] larder::Error`, a
/// `Box<dyn Error + Send + Sync>`, `anyhow::Error`.
///
/// ```
/// use larder::{Store, WriteTx};
///
/// #[derive(Debug, thiserror::Error)]
/// enum OrderError {
///     #[error("only {0} in stock")]
///     OutOfStock(i64),
///     #[error("not a number: {0}")]
///     Quantity(#[from] std::num::ParseIntError),
///     #[error(transparent)]
///     Db(#[from] larder::Error),
/// }
///
/// fn place(tx: &WriteTx<'_>, quantity: &str) -> Result<i64, OrderError> {
///     let quantity: i64 = quantity.parse()?;
///     let stock: i64 = tx.scalar("SELECT quantity FROM stock", [])?;
///     if stock < quantity {
///         return Err(OrderError::OutOfStock(stock)); // rolls back
///     }
///     tx.execute("UPDATE stock SET quantity = quantity - ?1", [quantity])?;
///     Ok(stock - quantity)
/// }
///
/// # let store = Store::open_temp()?;
/// # let stock = "CREATE TABLE stock(quantity INTEGER NOT NULL) STRICT; INSERT INTO stock VALUES (10)";
/// # store.write(move |tx| tx.execute_batch(stock))?;
/// assert_eq!(store.transact(|tx| place(tx, "3"))?, 7);
/// let error = store.transact(|tx| place(tx, "8")).unwrap_err();
/// assert!(matches!(error, OrderError::OutOfStock(7)));
/// let error = store.transact(|tx| place(tx, "many")).unwrap_err();
/// assert!(matches!(error, OrderError::Quantity(_)));
/// # Ok::<_, OrderError>(())
/// ```
///
/// A closure has to say the type of its error, unless something else does: `|tx| -> Result<_, OrderError> { .. }`.
/// Use `write` and `read` for closures that have no error of their own.
impl Store {
    /// As [`write`](Self::write), for a closure with an error type of your own.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// let made = store.transact(|tx| -> Result<_, Box<dyn std::error::Error + Send + Sync>> {
    ///     let port: u16 = "8080".parse()?;
    ///     tx.execute_batch("CREATE TABLE settings(port INTEGER) STRICT")?;
    ///     Ok(tx.execute("INSERT INTO settings VALUES (?1)", [port])?)
    /// })?;
    /// assert_eq!(made, 1);
    /// # Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The error that `f` returned, with all its changes rolled back, or an error of [`write`](Self::write), by
    /// `E::from`. That one also takes the place of the closure's, if larder has ended the write: after
    /// [`WriteOptions::execution_timeout`], or because a [savepoint](WriteTx::transact) could not be undone.
    ///
    /// [`Stats`](crate::Stats) and the slow log count an error of your own as `app`, whatever it contains.
    ///
    /// # Panics
    ///
    /// If `f` panics, or `E::from`, or the drop of an error. No such panic harms the store.
    #[track_caller]
    pub fn transact<T, E, F>(&self, f: F) -> Result<T, E>
    where
        F: FnOnce(&WriteTx<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        self.transact_with(WriteOptions::new(), f)
    }

    /// As [`transact`](Self::transact), with options for this call.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE jobs(id INTEGER PRIMARY KEY, state TEXT) STRICT"))?;
    /// use larder::WriteOptions;
    ///
    /// #[derive(Debug, thiserror::Error)]
    /// enum JobError {
    ///     #[error("there is no job {0}")]
    ///     Missing(i64),
    ///     #[error(transparent)]
    ///     Db(#[from] larder::Error),
    /// }
    ///
    /// let id = 7;
    /// let done = store.transact_with(WriteOptions::new().label("finish job"), move |tx| {
    ///     match tx.execute("UPDATE jobs SET state = 'done' WHERE id = ?1", [id])? {
    ///         0 => Err(JobError::Missing(id)),
    ///         _ => Ok(()),
    ///     }
    /// });
    /// assert!(matches!(done, Err(JobError::Missing(7))));
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`transact`](Self::transact), and those of [`write_with`](Self::write_with).
    ///
    /// # Panics
    ///
    /// As [`transact`](Self::transact).
    #[track_caller]
    pub fn transact_with<T, E, F>(&self, options: WriteOptions, f: F) -> Result<T, E>
    where
        F: FnOnce(&WriteTx<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let options = self.write_options(options);
        let own = move |tx: &WriteTx<'_>| f(tx).map_err(carry);
        self.engine().write("transact", options, own).map_err(unpack)
    }

    /// As [`read`](Self::read), for a closure with an error type of your own. It may borrow, and the error need not be
    /// `Send`.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE prices(cents TEXT) STRICT; INSERT INTO prices VALUES ('250')"))?;
    /// # type AppError = Box<dyn std::error::Error>;
    /// let cents = store.query(|tx| -> Result<i64, AppError> {
    ///     let text: String = tx.scalar("SELECT cents FROM prices", [])?;
    ///     Ok(text.parse()?)
    /// })?;
    /// assert_eq!(cents, 250);
    /// # Ok::<_, AppError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The error that `f` returned, or an error of [`read`](Self::read), by `E::from`.
    ///
    /// # Panics
    ///
    /// As [`transact`](Self::transact).
    #[track_caller]
    pub fn query<T, E: From<Error> + 'static>(&self, f: impl FnOnce(&ReadTx<'_>) -> Result<T, E>) -> Result<T, E> {
        self.query_with(ReadOptions::new(), f)
    }

    /// As [`query`](Self::query), with options for this call.
    ///
    /// ```
    /// use larder::ReadOptions;
    /// # let store = larder::Store::open_temp()?;
    /// # type AppError = Box<dyn std::error::Error>;
    ///
    /// let one = store.query_with(ReadOptions::new().label("health"), |tx| -> Result<i64, AppError> {
    ///     Ok(tx.scalar::<String>("SELECT '1'", [])?.parse()?)
    /// })?;
    /// assert_eq!(one, 1);
    /// # Ok::<_, AppError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`query`](Self::query), and those of [`read_with`](Self::read_with).
    ///
    /// # Panics
    ///
    /// As [`transact`](Self::transact).
    #[track_caller]
    pub fn query_with<T, E: From<Error> + 'static>(
        &self,
        options: ReadOptions,
        f: impl FnOnce(&ReadTx<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        query(self.engine(), self.read_options(options), f)
    }

    /// Runs one query in one snapshot, on the calling thread, and calls `f` with the value of each row, without collecting
    /// them. It is [`query`](Self::query) and [`ReadTx::each`] in one call.
    ///
    /// `f` returns `()` for each row, or a [`ControlFlow`](std::ops::ControlFlow) to stop early; see [`Flow`]. The snapshot
    /// ends before the call returns, also if `f` stops, fails or panics.
    ///
    /// ```
    /// use std::ops::ControlFlow::{self, Break, Continue};
    ///
    /// # type AppError = Box<dyn std::error::Error + Send + Sync>;
    /// # let store = larder::Store::open_temp()?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE payments(id INTEGER PRIMARY KEY, cents TEXT NOT NULL) STRICT;
    /// #     INSERT INTO payments(cents) VALUES ('250'), ('900'), ('75')"))?;
    /// let (sql, mut sum) = ("SELECT id, cents FROM payments ORDER BY id", 0);
    /// let passed = store.query_each(sql, [], |(id, cents): (i64, String)| -> Result<_, AppError> {
    ///     sum += cents.parse::<i64>()?;
    ///     Ok(if sum > 1000 { Break(id) } else { Continue(()) })
    /// })?;
    /// assert_eq!((passed, sum), (Break(2), 1150));
    /// # Ok::<_, AppError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The first error that `f` returned, which ends the query, or an error of [`read`](Self::read) or of
    /// [`ReadTx::all`], by `E::from`.
    ///
    /// # Panics
    ///
    /// As [`transact`](Self::transact).
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
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE users(name TEXT) STRICT; INSERT INTO users VALUES ('Ada'), ('Grace')"))?;
    /// # type AppError = Box<dyn std::error::Error + Send + Sync>;
    /// use std::io::Write;
    /// use std::time::Duration;
    /// use larder::ReadOptions;
    ///
    /// let options = ReadOptions::new().label("export").execution_timeout(Duration::from_secs(60));
    /// let (sql, mut out) = ("SELECT name FROM users ORDER BY name", Vec::new());
    /// store.query_each_with(options, sql, [], |(name,): (String,)| -> Result<(), AppError> {
    ///     Ok(writeln!(out, "{name}")?)
    /// })?;
    /// assert_eq!(out, b"Ada\nGrace\n");
    /// # Ok::<_, AppError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`query_each`](Self::query_each), and those of [`read_with`](Self::read_with).
    ///
    /// # Panics
    ///
    /// As [`transact`](Self::transact).
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
}

/// # Own errors, async
///
/// These methods need the feature `async`. What is said of [`write_async`](Self::write_async) and
/// [`read_async`](Self::read_async) holds for them, too: their threads, what they block, and what it means to drop them.
#[cfg(feature = "async")]
#[cfg_attr(docsrs, doc(cfg(feature = "async")))]
impl Store {
    /// As [`transact`](Self::transact), but returns a future.
    ///
    /// ```
    /// # futures_executor::block_on(async {
    /// # let store = larder::Store::open_temp()?;
    /// # store.write_async(|tx| tx.execute_batch("CREATE TABLE users(id INTEGER PRIMARY KEY, age INTEGER) STRICT")).await?;
    /// # type AppError = Box<dyn std::error::Error + Send + Sync>;
    /// let age = String::from("36");
    /// let id = store
    ///     .transact_async(move |tx| -> Result<i64, AppError> {
    ///         let age: u8 = age.parse()?;
    ///         Ok(tx.insert("INSERT INTO users(age) VALUES (?1)", [age])?)
    ///     })
    ///     .await?;
    /// # assert_eq!(id, 1);
    /// # Ok::<_, AppError>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// As [`transact`](Self::transact) and [`write_async`](Self::write_async).
    ///
    /// # Panics
    ///
    /// As [`transact`](Self::transact), in the task that polls.
    #[track_caller]
    pub fn transact_async<T, E, F>(&self, f: F) -> impl Future<Output = Result<T, E>> + Send + use<T, E, F>
    where
        F: FnOnce(&WriteTx<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        self.transact_async_with(WriteOptions::new(), f)
    }

    /// As [`transact_with`](Self::transact_with), but returns a future.
    ///
    /// ```
    /// # futures_executor::block_on(async {
    /// # let store = larder::Store::open_temp()?;
    /// # store.write_async(|tx| tx.execute_batch("CREATE TABLE users(age INTEGER) STRICT")).await?;
    /// # type AppError = Box<dyn std::error::Error + Send + Sync>;
    /// use std::time::Duration;
    /// use larder::WriteOptions;
    ///
    /// let options = WriteOptions::new().label("import").queue_timeout(Duration::from_secs(1));
    /// let age = String::from("36");
    /// let insert = move |tx: &larder::WriteTx<'_>| -> Result<i64, AppError> {
    ///     let age: u8 = age.parse()?;
    ///     Ok(tx.insert("INSERT INTO users(age) VALUES (?1)", [age])?)
    /// };
    /// assert_eq!(store.transact_async_with(options, insert).await?, 1);
    /// # Ok::<_, AppError>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// As [`transact_async`](Self::transact_async) and [`write_async_with`](Self::write_async_with).
    ///
    /// # Panics
    ///
    /// As [`transact_async`](Self::transact_async).
    #[track_caller]
    pub fn transact_async_with<T, E, F>(
        &self,
        options: WriteOptions,
        f: F,
    ) -> impl Future<Output = Result<T, E>> + Send + use<T, E, F>
    where
        F: FnOnce(&WriteTx<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let own = move |tx: &WriteTx<'_>| f(tx).map_err(carry);
        let write = futures::write_async(self, "transact_async", options, own);
        async move { write.await.map_err(unpack) }
    }

    /// As [`query`](Self::query), but returns a future: `f` runs on a reader thread, so it may not borrow, and its error
    /// is `Send`.
    ///
    /// ```
    /// # futures_executor::block_on(async {
    /// # let store = larder::Store::open_temp()?;
    /// # type AppError = Box<dyn std::error::Error + Send + Sync>;
    /// let version = store
    ///     .query_async(|tx| -> Result<u32, AppError> {
    ///         let text: String = tx.scalar("SELECT '42'", [])?;
    ///         Ok(text.parse()?)
    ///     })
    ///     .await?;
    /// assert_eq!(version, 42);
    /// # Ok::<_, AppError>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// As [`query`](Self::query) and [`read_async`](Self::read_async).
    ///
    /// # Panics
    ///
    /// As [`transact_async`](Self::transact_async).
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
    /// ```
    /// # futures_executor::block_on(async {
    /// # let store = larder::Store::open_temp()?;
    /// # type AppError = Box<dyn std::error::Error + Send + Sync>;
    /// use std::time::Duration;
    /// use larder::ReadOptions;
    ///
    /// let options = ReadOptions::new().label("report").execution_timeout(Duration::from_secs(2));
    /// let report = store.query_async_with(options, |tx| -> Result<u32, AppError> {
    ///     Ok(tx.scalar::<String>("SELECT '42'", [])?.parse()?)
    /// });
    /// assert_eq!(report.await?, 42);
    /// # Ok::<_, AppError>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// As [`query_async`](Self::query_async) and [`read_async_with`](Self::read_async_with).
    ///
    /// # Panics
    ///
    /// As [`transact_async`](Self::transact_async).
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
        query_async(self.engine(), self.read_options(options), f)
    }

    /// As [`query_each`](Self::query_each), but returns a future: `f` runs on a reader thread, so it may not borrow, and its
    /// error is `Send`. Where the task itself needs the rows, use [`read_stream`](Self::read_stream).
    ///
    /// ```
    /// # futures_executor::block_on(async {
    /// # let store = larder::Store::open_temp()?;
    /// # store.write_async(|tx| tx.execute_batch("CREATE TABLE users(name TEXT) STRICT; INSERT INTO users VALUES ('Ada')")).await?;
    /// # type AppError = Box<dyn std::error::Error + Send + Sync>;
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("names");
    /// use std::io::Write;
    ///
    /// let mut file = std::io::BufWriter::new(std::fs::File::create(&path)?);
    /// store
    ///     .query_each_async("SELECT name FROM users", (), move |(name,): (String,)| -> Result<(), AppError> {
    ///         Ok(writeln!(file, "{name}")?)
    ///     })
    ///     .await?;
    /// # assert_eq!(std::fs::read_to_string(&path)?, "Ada\n");
    /// # Ok::<_, AppError>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// As [`query_each`](Self::query_each) and [`read_async`](Self::read_async).
    ///
    /// # Panics
    ///
    /// As [`transact_async`](Self::transact_async).
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
    /// ```
    /// # futures_executor::block_on(async {
    /// # let store = larder::Store::open_temp()?;
    /// # store.write_async(|tx| tx.execute_batch("CREATE TABLE users(name TEXT) STRICT; INSERT INTO users VALUES ('Ada'), ('')")).await?;
    /// # type AppError = Box<dyn std::error::Error + Send + Sync>;
    /// use larder::ReadOptions;
    ///
    /// let options = ReadOptions::new().label("look for empty names");
    /// let look = |(id, name): (i64, String)| -> Result<(), AppError> {
    ///     if name.is_empty() { Err(format!("user {id} has no name").into()) } else { Ok(()) }
    /// };
    /// let looked = store.query_each_async_with(options, "SELECT rowid, name FROM users", (), look).await;
    /// assert_eq!(looked.unwrap_err().to_string(), "user 2 has no name");
    /// # Ok::<_, larder::Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// As [`query_each_async`](Self::query_each_async) and [`read_async_with`](Self::read_async_with).
    ///
    /// # Panics
    ///
    /// As [`transact_async`](Self::transact_async).
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

/// Why `write` is not generic over the error: nothing determines it here.
///
/// ```compile_fail
/// let store = larder::Store::open_temp().unwrap();
/// let _ = store.transact(|tx| {
///     tx.exists("SELECT 1", [])?;
///     Ok(())
/// });
/// ```
///
/// ```
/// let store = larder::Store::open_temp().unwrap();
/// let _ = store.write(|tx| {
///     tx.exists("SELECT 1", [])?;
///     Ok(())
/// });
/// ```
#[cfg(doctest)]
struct Annotated;

/// Reads on the calling thread.
#[track_caller]
pub(super) fn query<T, E: From<Error> + 'static>(
    engine: &Engine,
    options: ReadOptions,
    f: impl FnOnce(&ReadTx<'_>) -> Result<T, E>,
) -> Result<T, E> {
    let mut aside = Aside::default();
    let mut has_run = false;
    let read = engine.read(options, |tx| {
        has_run = true;
        f(tx).map_err(|own| aside.put(own))
    });
    read.map_err(|error| match error {
        // Once the closure has run, it can only be about a call inside.
        Error::Reentrant { instead, outcome, .. } if !has_run => {
            let call = "query";
            E::from(Error::Reentrant { call, instead, outcome })
        }
        error => aside.take(error),
    })
}

/// Reads in a job of its own.
#[cfg(feature = "async")]
#[track_caller]
pub(super) fn query_async<T, E, F>(
    engine: &Engine,
    options: ReadOptions,
    f: F,
) -> impl Future<Output = Result<T, E>> + Send + use<T, E, F>
where
    F: FnOnce(&ReadTx<'_>) -> Result<T, E> + Send + 'static,
    T: Send + 'static,
    E: From<Error> + Send + 'static,
{
    let own = move |tx: &ReadTx<'_>| f(tx).map_err(carry);
    let read = futures::read_async(engine, "query_async", options, own);
    async move { read.await.map_err(unpack) }
}
