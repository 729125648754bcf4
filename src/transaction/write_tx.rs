//! [`WriteTx`]: one atomic change, and savepoints in it.

use std::cell::RefCell;
use std::ops::{Deref, Range};
use std::time::Duration;

use rusqlite::fallible_iterator::FallibleIterator as _;
use rusqlite::{Batch, Params, Statement, ffi};

use super::hot_statement::Prepare;
use super::{Connected, ReadTx};
use crate::connection::authorizer::Change;
use crate::connection::c_api;
use crate::connection::change_counters::signed;
use crate::connection::sql_text::{is_alter, may_alter, refuse_nul, statements};
use crate::connection::stored_sql::with_double_quoted_strings;
use crate::connection::transaction_control::Control;
use crate::error::own::Aside;
use crate::error::{Error, Result};
use crate::runtime::clock::Tick;
use crate::telemetry::usage::StatementShard;

/// One atomic write, passed to the closure of [`Store::write`](crate::Store::write).
///
/// It has all methods of [`ReadTx`], and its queries see its own changes. The write commits if the closure returns
/// `Ok`, and rolls back if it returns `Err`. SQL in the closure cannot commit or roll back.
///
/// ```
/// use larder::{Result, Store, WriteTx, rusqlite::params};
///
/// fn rename(tx: &WriteTx<'_>, id: i64, name: &str) -> Result<bool> {
///     Ok(tx.execute("UPDATE users SET name = ?2 WHERE id = ?1", params![id, name])? == 1)
/// }
///
/// # let store = Store::open_temp()?;
/// # store.write(|tx| tx.execute_batch("CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT"))?;
/// let renamed = store.write(|tx| {
///     let id = tx.insert("INSERT INTO users(name) VALUES ('Ada')", [])?;
///     rename(tx, id, "Ada Lovelace")
/// })?;
/// assert!(renamed);
/// # Ok::<_, larder::Error>(())
/// ```
pub struct WriteTx<'a> {
    read: ReadTx<'a>,
    /// Set if a savepoint could not be rolled back. Then the whole job must be, whatever its closure returns.
    undo_failed: RefCell<Option<Error>>,
}

impl<'a> WriteTx<'a> {
    pub(crate) fn new(
        connected: Connected<'a>,
        slow: Duration,
        statements: Option<&'a RefCell<StatementShard>>,
        prepared: &'a dyn Prepare,
    ) -> Self {
        Self {
            read: ReadTx::new(connected, None, slow, statements, prepared),
            undo_failed: RefCell::new(None),
        }
    }

    /// Runs one statement and returns the number of rows that it changed.
    ///
    /// # Errors
    ///
    /// The error of SQLite; [`Error::Refused`] for SQL that ends the transaction or leaves the database.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// let users = "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT";
    /// let changed = store.write(move |tx| {
    ///     tx.execute_batch(users)?;
    ///     tx.execute("INSERT INTO users(name) VALUES (?1)", ["Ada"])
    /// })?;
    /// assert_eq!(changed, 1);
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn execute<P: Params>(&self, sql: &str, params: P) -> Result<usize> {
        self.with_statement(sql, |statement| self.execute_counted(sql, statement, params))
    }

    /// SQLite's own count belongs to the last `INSERT`, `UPDATE` or `DELETE`, which may have been another statement.
    fn execute_counted(
        &self,
        sql: &str,
        statement: &mut Statement<'_>,
        params: impl Params,
    ) -> rusqlite::Result<usize> {
        if counts_its_rows(sql) {
            return statement.execute(params);
        }
        let before = self.conn.total_changes();
        let changed = statement.execute(params)?;
        Ok(if self.conn.total_changes() == before {
            0
        } else {
            changed
        })
    }

    /// Runs an `INSERT` of one row and returns its rowid.
    ///
    /// # Errors
    ///
    /// The errors of [`execute`](Self::execute), `StatementChangedRows` unless exactly one row changed, and
    /// [`Error::NoRowid`] if there is no new row with a rowid: an upsert that updated a row, an `INSERT` into a table
    /// `WITHOUT ROWID`, or an `UPDATE`. If an upsert may update, return the key with SQL:
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// let users = "CREATE TABLE users(id INTEGER PRIMARY KEY, mail TEXT UNIQUE) STRICT";
    /// let upsert = "INSERT INTO users(mail) VALUES (?1)
    ///               ON CONFLICT(mail) DO UPDATE SET mail = excluded.mail RETURNING id";
    /// let ids = store.write(move |tx| {
    ///     tx.execute_batch(users)?;
    ///     let id = || tx.query_row(upsert, ["ada@example.org"], |row| row.get::<_, i64>("id"));
    ///     Ok([id()?, id()?])
    /// })?;
    /// assert_eq!(ids, [1, 1]);
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn insert<P: Params>(&self, sql: &str, params: P) -> Result<i64> {
        let inserted = self.with_statement(sql, |statement| {
            let mask = self.guard.changes().mask(self.conn);
            let changed = self.execute_counted(sql, statement, params)?;
            Ok((changed, mask.end()))
        })?;
        let error = match inserted {
            (1, Some(rowid)) => return Ok(rowid),
            (0 | 1, None) => self.no_rowid(sql, inserted.0),
            (changed, _) => rusqlite::Error::StatementChangedRows(changed).into(),
        };
        Err(self.located(error, Some(sql)))
    }

    /// Why the statement gave no rowid, as far as SQLite can tell.
    fn no_rowid(&self, sql: &str, changed: usize) -> Error {
        let mut changes = self.guard.changes_of(|| drop(self.conn.prepare(sql)));
        changes.retain(|change| !change.by_trigger);
        let inserts = changes.iter().find(|change| change.code == ffi::SQLITE_INSERT);
        let without_rowid = |change: &Change| {
            let look = "SELECT wr FROM pragma_table_list WHERE schema = ?1 AND name = ?2/*larder*/";
            let at = (&change.database, &change.table);
            let look = || self.conn.query_row(look, at, |row| row.get::<_, bool>(0));
            self.guard.as_internal(look).unwrap_or(false)
        };
        let reason = match inserts {
            None => "there is no INSERT in the statement".to_owned(),
            // In rusqlite's words.
            _ if changed == 0 => return rusqlite::Error::StatementChangedRows(0).into(),
            Some(change) if without_rowid(change) => format!("the table `{}` is WITHOUT ROWID", change.table),
            Some(_) if changes.iter().any(|change| change.code == ffi::SQLITE_UPDATE) => {
                "its ON CONFLICT clause has updated a row that was there".to_owned()
            }
            Some(change) => format!("SQLite has set no rowid for its row in `{}`", change.table),
        };
        Error::NoRowid { reason, context: None }
    }

    /// The rowid of the last row that this closure inserted into a table with rowids; 0 if it has inserted none. The
    /// SQL function of the same name returns the same. For a single `INSERT`, [`insert`](Self::insert) is safer.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE t(x INTEGER) STRICT"))?;
    /// let last = store.write(|tx| {
    ///     tx.execute("INSERT INTO t VALUES (10), (20)", [])?;
    ///     Ok(tx.last_insert_rowid())
    /// })?;
    /// assert_eq!(last, 2);
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn last_insert_rowid(&self) -> i64 {
        self.conn.last_insert_rowid()
    }

    /// The number of rows that the last `INSERT`, `UPDATE` or `DELETE` of this closure changed; 0 if there was none.
    /// The SQL function of the same name returns the same.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE t(x INTEGER) STRICT; INSERT INTO t VALUES (1), (2), (3)"))?;
    /// let changed = store.write(|tx| {
    ///     tx.execute_batch("UPDATE t SET x = 0; DELETE FROM t WHERE rowid > 1")?;
    ///     Ok(tx.changes())
    /// })?;
    /// assert_eq!(changed, 2);
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn changes(&self) -> u64 {
        let (changes, total) = (signed(self.conn.changes()), signed(self.conn.total_changes()));
        self.guard.changes().changes(changes, total).unsigned_abs()
    }

    /// The number of rows that this closure has changed so far, including those changed by triggers and foreign keys,
    /// and those in savepoints that were rolled back. The SQL function of the same name returns the same.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE t(x INTEGER) STRICT; INSERT INTO t VALUES (1), (2), (3)"))?;
    /// let changed = store.write(|tx| {
    ///     tx.execute_batch("UPDATE t SET x = 0; DELETE FROM t WHERE rowid > 1")?;
    ///     Ok(tx.total_changes())
    /// })?;
    /// assert_eq!(changed, 5);
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn total_changes(&self) -> u64 {
        let total = signed(self.conn.total_changes());
        self.guard.changes().total(total).unsigned_abs()
    }

    /// Runs every statement of `sql`, separated by semicolons, without parameters.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// let batch = "CREATE TABLE t(x INTEGER) STRICT; INSERT INTO t VALUES (1); INSERT INTO missing VALUES (2)";
    /// let error = store.write(move |tx| tx.execute_batch(batch)).unwrap_err();
    /// assert_eq!(error.statement(), Some("INSERT INTO missing VALUES (2)"));
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`execute`](Self::execute); [`Error::statement`] is the one that failed. The statements before the
    /// error stay in the transaction; return the error from the closure to roll them back.
    pub fn execute_batch(&self, sql: &str) -> Result<()> {
        let start = Tick::now();
        if let Some(error) = self.refuses_start(start) {
            let first = statements(sql).next();
            return Err(self.located(error, first.map(|at| &sql[at])));
        }
        let result = self.run_batch(sql);
        self.note_time(start.elapsed(), || (None, None));
        result
    }

    /// An ALTER needs a setting of its own, as in [`ReadTx`].
    fn run_batch(&self, sql: &str) -> Result<()> {
        refuse_nul(sql).map_err(|error| self.explain_as(error, false, Some(sql)))?;
        let may_alter = may_alter(sql);
        let mut batch = Batch::new(self.conn, sql);
        let mut done = 0;
        let failed = |error, done| self.explain_in_batch(error, sql, done);
        while let Some(mut statement) = batch.next().map_err(|error| failed(error, done))? {
            let is_alter = may_alter && statement.expanded_sql().is_some_and(|sql| is_alter(&sql));
            let mut run = || statement.raw_query().next().map(drop);
            let ran = if is_alter {
                with_double_quoted_strings(self.conn, self.guard, run)
            } else {
                run()
            };
            ran.map_err(|error| failed(error, done))?;
            done += 1;
        }
        Ok(())
    }

    /// The meaning of an error of the statement that follows `done` others of the text.
    fn explain_in_batch(&self, error: rusqlite::Error, sql: &str, done: usize) -> Error {
        let own = c_api::gave_last(self.conn, &error);
        let Some(at) = statements(sql).nth(done) else {
            return self.explain_as(error, own, None);
        };
        let error = without_rest(error, sql, &at);
        self.explain_as(error, own, Some(&sql[at]))
    }

    /// Runs `f` in a savepoint, a nested transaction. If `f` returns `Ok`, its changes are kept; if it returns `Err` or
    /// panics, only its changes are rolled back.
    ///
    /// # Errors
    ///
    /// The error of `f`; [`Error::RolledBack`] if SQLite has ended the whole transaction, after which this write can do
    /// nothing more.
    ///
    /// ```
    /// # use larder::Error;
    /// # let store = larder::Store::open_temp()?;
    /// store.write(|tx| {
    ///     tx.execute_batch("CREATE TABLE log(line TEXT) STRICT")?;
    ///     let attempt = tx.savepoint(|tx| {
    ///         tx.execute("INSERT INTO log VALUES ('tried')", [])?;
    ///         Err::<(), _>(Error::app("changed my mind"))
    ///     });
    ///     assert!(attempt.is_err());
    ///     tx.execute("INSERT INTO log VALUES ('went on')", [])
    /// })?;
    /// let lines: Vec<String> =
    ///     store.read(|tx| tx.query_map("SELECT line FROM log", [], |row| row.get(0)))?;
    /// assert_eq!(lines, ["went on"]);
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn savepoint<T>(&self, f: impl FnOnce(&WriteTx<'_>) -> Result<T>) -> Result<T> {
        let savepoint = Savepoint::begin(self)?;
        // Explained before the savepoint is rolled back, because SQLite then forgets whose error it is.
        let value = self.explain_result(f(self))?;
        savepoint.release()?;
        Ok(value)
    }

    /// As [`savepoint`](Self::savepoint), for a closure with an error type of your own. So what a closure of
    /// [`Store::transact`](crate::Store::transact) does can also be a part of another one.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE imports(n INTEGER NOT NULL) STRICT"))?;
    /// # type AppError = Box<dyn std::error::Error + Send + Sync>;
    /// let skipped = store.transact(|tx| -> Result<usize, AppError> {
    ///     let mut skipped = 0;
    ///     for line in ["1", "two", "3"] {
    ///         let import = tx.transact(|tx| -> Result<(), AppError> {
    ///             tx.execute("INSERT INTO imports VALUES (0)", [])?;
    ///             let n: i64 = line.parse()?; // undoes that row
    ///             tx.execute("UPDATE imports SET n = ?1 WHERE n = 0", [n])?;
    ///             Ok(())
    ///         });
    ///         skipped += usize::from(import.is_err());
    ///     }
    ///     Ok(skipped)
    /// })?;
    /// assert_eq!(skipped, 1);
    /// # let rows: i64 = store.read(|tx| tx.query_row("SELECT count(*) FROM imports", [], |row| row.get(0)))?;
    /// # assert_eq!(rows, 2);
    /// # Ok::<_, AppError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The error of `f`; an error of [`savepoint`](Self::savepoint), by `E::from`.
    pub fn transact<T, E: From<Error> + 'static>(&self, f: impl FnOnce(&WriteTx<'_>) -> Result<T, E>) -> Result<T, E> {
        let mut aside = Aside::default();
        let done = self.savepoint(|tx| f(tx).map_err(|own| aside.put(own)));
        done.map_err(|error| aside.take(error))
    }

    /// The result of a write, as its caller sees it.
    pub(crate) fn judge<T>(&self, result: Result<T>) -> Result<T> {
        match self.undo_failed.take() {
            Some(error) => Err(error),
            None => self.explain_result(result),
        }
    }

    fn run_internal(&self, control: Control) -> Result<()> {
        if self.conn.is_autocommit() {
            return Err(Error::RolledBack {
                reason: ENDED,
                caused_by_closure: true,
                source: None,
                context: None,
            }
            .at(|| self.context(None)));
        }
        control
            .run_cached(self.conn, self.guard)
            .map_err(|error| self.explain(error))
    }
}

/// An error that rusqlite gives with the rest of the text, with the statement alone.
fn without_rest(error: rusqlite::Error, text: &str, at: &Range<usize>) -> rusqlite::Error {
    match error {
        rusqlite::Error::SqlInputError {
            error,
            msg,
            sql: rest,
            offset,
        } => {
            let blank = at.start.saturating_sub(text.len() - rest.len());
            rusqlite::Error::SqlInputError {
                error,
                msg,
                sql: text[at.clone()].to_owned(),
                offset: offset.saturating_sub(i32::try_from(blank).unwrap_or(i32::MAX)).max(0),
            }
        }
        other => other,
    }
}

/// Whether the statement is certainly an INSERT, UPDATE, DELETE or REPLACE, by its first letters. SQLite's count of
/// changed rows then belongs to it. After a statement of another kind, the count still belongs to an earlier statement.
fn counts_its_rows(sql: &str) -> bool {
    matches!(
        sql.as_bytes(),
        [b'I' | b'i', b'N' | b'n', ..]
            | [b'U' | b'u', ..]
            | [b'D' | b'd', b'E' | b'e', b'L' | b'l', ..]
            | [b'R' | b'r', b'E' | b'e', b'P' | b'p', ..]
    )
}

/// Why a write is rolled back although its closure did not ask for it.
pub(crate) const ENDED: &str = "SQLite ended the whole transaction inside the closure (ON CONFLICT ROLLBACK, \
                                RAISE(ROLLBACK), a full disk, an I/O error or no memory)";

/// Gives access to the methods of [`ReadTx`], and through it to the connection. See `Deref` of [`ReadTx`].
impl<'a> Deref for WriteTx<'a> {
    type Target = ReadTx<'a>;

    fn deref(&self) -> &ReadTx<'a> {
        &self.read
    }
}

/// An open savepoint. Its drop, after an error or a panic, rolls back to it.
///
/// All savepoints have the same name: RELEASE and ROLLBACK TO act on "the most recent savepoint with a matching name",
/// <https://sqlite.org/lang_savepoint.html>, and these end in the reverse order of their beginning.
struct Savepoint<'tx, 'a> {
    tx: &'tx WriteTx<'a>,
    released: bool,
}

impl<'tx, 'a> Savepoint<'tx, 'a> {
    fn begin(tx: &'tx WriteTx<'a>) -> Result<Self> {
        tx.run_internal(Control::Savepoint)?;
        Ok(Self { tx, released: false })
    }

    fn release(mut self) -> Result<()> {
        self.tx.run_internal(Control::Release)?;
        self.released = true;
        Ok(())
    }
}

impl Drop for Savepoint<'_, '_> {
    fn drop(&mut self) {
        if self.released || self.tx.is_autocommit() {
            return;
        }
        // "The ROLLBACK TO command reverts the state of the database back to what it was just after the
        // corresponding SAVEPOINT", and leaves the savepoint open: RELEASE must follow.
        if let Err(error) = self
            .tx
            .run_internal(Control::RollbackTo)
            .and_then(|()| self.tx.run_internal(Control::Release))
        {
            *self.tx.undo_failed.borrow_mut() = Some(error);
        }
    }
}
