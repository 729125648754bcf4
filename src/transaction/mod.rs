//! What a closure receives: [`ReadTx`], one snapshot, or [`WriteTx`], one atomic change.
//!
//! The methods of both use the statement cache, which rusqlite's methods of the same names do not, and return larder's
//! error. Both deref to [`rusqlite::Connection`], so a helper that takes `&Connection` accepts them, too.

#[cfg(feature = "derive")]
pub mod derived;
pub(crate) mod flow;
pub(crate) mod from_row;
pub mod fts5;
pub(crate) mod hot_statement;
#[cfg(feature = "derive")]
pub(crate) mod macros;
mod scan;
mod values;
mod write_tx;

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::time::{Duration, Instant};

use rusqlite::{CachedStatement, Connection, OptionalExtension, Params, Row, Statement, ffi};

use self::flow::Flow;
use self::hot_statement::Prepare;
pub(crate) use self::write_tx::ENDED;
pub use self::write_tx::WriteTx;
use crate::connection::authorizer::SqlGuard;
use crate::connection::c_api;
use crate::connection::cause::{self, Explained};
use crate::connection::constraint;
use crate::connection::interrupt::{Interrupt, OnRawAccess};
use crate::connection::sql_text::{is_alter, refuse_nul};
use crate::connection::stored_sql::with_double_quoted_strings;
use crate::error::{Error, ErrorContext, ErrorOrigin, Outcome, Result, primary_code};
use crate::runtime::clock::Tick;
use crate::telemetry::activity::ActivitySlot;
use crate::telemetry::slow_log::{QueryPlan, SlowStatement};
use crate::telemetry::usage::{Rows, StatementShard, bounded_sql};

/// The length in bytes from which the text of a statement is not kept in the cache, which is bounded in number only:
/// SQLite and the cache have a copy each.
const MAX_CACHED: usize = 256 * 1024;

/// One snapshot of the database, passed to the closure of [`Store::read`](crate::Store::read).
///
/// All queries of the closure see the database as of one commit, at least as new as every write that was acknowledged
/// before the read began. The snapshot is taken at the first statement. An async read may share a snapshot that another
/// async read has taken.
///
/// ```
/// use larder::{ReadTx, Result, Store};
///
/// fn tables(tx: &ReadTx<'_>) -> Result<Vec<String>> {
///     tx.scalars("SELECT name FROM sqlite_schema WHERE type = 'table'", [])
/// }
///
/// let store = Store::open_temp()?;
/// assert!(store.read(tables)?.is_empty());
/// // A `WriteTx` is taken, too.
/// store.write(|tx| {
///     tx.execute_batch("CREATE TABLE users(name TEXT) STRICT")?;
///     assert_eq!(tables(tx)?, ["users"]);
///     Ok(())
/// })?;
/// # Ok::<_, larder::Error>(())
/// ```
pub struct ReadTx<'a> {
    conn: &'a Connection,
    guard: &'a SqlGuard,
    interrupt: &'a Interrupt,
    /// Knows the call site, for errors.
    activity: &'a ActivitySlot,
    on_raw_access: Option<&'a dyn OnRawAccess>,
    slow: Duration,
    /// Whether the closure has used the connection directly.
    raw_access: Cell<bool>,
    slowest: RefCell<Option<SlowStatement>>,
    /// Rows returned by queries.
    rows: Cell<u64>,
    /// The time that its queries have waited for the consumer of their rows.
    waited: Cell<Duration>,
    /// Whether a statement found the disk full.
    full: Cell<bool>,
    /// The text of the statement whose error ended the transaction, if one did.
    ended_by: RefCell<Option<String>>,
    /// The text of the statement that a time limit stopped, if one did.
    stopped: RefCell<Option<String>>,
    /// The statistics of statements, if they are counted.
    statements: Option<&'a RefCell<StatementShard>>,
    prepared: &'a dyn Prepare,
}

/// The connection of a transaction, with what belongs to it.
#[derive(Clone, Copy)]
pub(crate) struct Connected<'a> {
    pub(crate) conn: &'a Connection,
    pub(crate) guard: &'a SqlGuard,
    pub(crate) interrupt: &'a Interrupt,
    pub(crate) activity: &'a ActivitySlot,
}

impl<'a> ReadTx<'a> {
    pub(crate) fn new(
        connected: Connected<'a>,
        on_raw_access: Option<&'a dyn OnRawAccess>,
        slow: Duration,
        statements: Option<&'a RefCell<StatementShard>>,
        prepared: &'a dyn Prepare,
    ) -> Self {
        let Connected {
            conn,
            guard,
            interrupt,
            activity,
        } = connected;
        Self {
            conn,
            guard,
            interrupt,
            activity,
            on_raw_access,
            slow,
            raw_access: Cell::new(false),
            slowest: RefCell::new(None),
            rows: Cell::new(0),
            waited: Cell::new(Duration::ZERO),
            full: Cell::new(false),
            ended_by: RefCell::new(None),
            stopped: RefCell::new(None),
            statements,
            prepared,
        }
    }

    /// Runs a query and calls `f` for its first row. Further rows are ignored.
    ///
    /// # Errors
    ///
    /// [`Error::Sqlite`] with `QueryReturnedNoRows` if there is no row; see [`query_optional`](Self::query_optional).
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// let two: i64 = store.read(|tx| tx.query_row("SELECT 1 + ?1", [1], |row| row.get(0)))?;
    /// assert_eq!(two, 2);
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn query_row<T, P, F>(&self, sql: &str, params: P, f: F) -> Result<T>
    where
        P: Params,
        F: FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    {
        self.with_statement(sql, |statement| {
            statement.query_row(params, |row| {
                self.count_row();
                f(row)
            })
        })
    }

    /// As [`query_row`](Self::query_row), but returns `None` if there is no row.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// let sql = "SELECT value FROM json_each('[5, 8]') WHERE value > ?1";
    /// let above = |n: i64| store.read(|tx| tx.query_optional(sql, [n], |row| row.get::<_, i64>(0)));
    /// assert_eq!((above(6)?, above(8)?), (Some(8), None));
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The error of SQLite or of `f`.
    pub fn query_optional<T, P, F>(&self, sql: &str, params: P, f: F) -> Result<Option<T>>
    where
        P: Params,
        F: FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    {
        self.with_statement(sql, |statement| {
            let row = statement.query_row(params, |row| {
                self.count_row();
                f(row)
            });
            row.optional()
        })
    }

    /// Maps each row with `f` and collects the results.
    ///
    /// # Errors
    ///
    /// The error of SQLite, or the first error of `f`, which ends the query.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// let names: Vec<String> = store.read(|tx| {
    ///     tx.query_map("SELECT value FROM json_each(?1)", [r#"["ant","bee"]"#], |row| row.get(0))
    /// })?;
    /// assert_eq!(names, ["ant", "bee"]);
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn query_map<T, P, F>(&self, sql: &str, params: P, mut f: F) -> Result<Vec<T>>
    where
        P: Params,
        F: FnMut(&Row<'_>) -> rusqlite::Result<T>,
    {
        self.with_statement(sql, |statement| {
            let rows = statement.query_map(params, |row| {
                self.count_row();
                f(row)
            })?;
            rows.collect()
        })
    }

    /// Calls `f` for each row without collecting them. [`each`](Self::each) makes values of the rows.
    ///
    /// `f` returns `()`, or a [`ControlFlow`](std::ops::ControlFlow) to stop early; see [`Flow`].
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// let mut bytes = 0;
    /// store.read(|tx| {
    ///     tx.query_each("SELECT value FROM json_each(?1)", [r#"["ant","bee"]"#], |row| {
    ///         bytes += row.get_ref(0)?.as_str()?.len(); // without a copy
    ///         Ok(())
    ///     })
    /// })?;
    /// assert_eq!(bytes, 6);
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The error of SQLite, or the first error of `f`, which ends the query.
    pub fn query_each<P, F, R>(&self, sql: &str, params: P, mut f: F) -> Result<R>
    where
        P: Params,
        F: FnMut(&Row<'_>) -> rusqlite::Result<R>,
        R: Flow,
    {
        self.with_statement(sql, |statement| {
            let mut rows = statement.query(params)?;
            while let Some(row) = rows.next()? {
                self.count_row();
                let flow = f(row)?;
                if flow.is_break() {
                    return Ok(flow);
                }
            }
            Ok(R::CONTINUE)
        })
    }

    /// Whether the query returns a row.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// let sql = "SELECT 1 FROM sqlite_schema WHERE name = ?1";
    /// assert!(!store.read(|tx| tx.exists(sql, ["users"]))?);
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The error of SQLite.
    pub fn exists<P: Params>(&self, sql: &str, params: P) -> Result<bool> {
        self.with_statement(sql, |statement| statement.exists(params))
    }

    /// Prepares a statement of rusqlite. As [`Connection::prepare`], but refuses SQL with a NUL, of which SQLite would read
    /// only the beginning.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// let columns = store.read(|tx| {
    ///     let statement = tx.prepare("SELECT 1 AS id, 'Ada' AS name")?;
    ///     Ok(statement.column_count())
    /// })?;
    /// assert_eq!(columns, 2);
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The error of SQLite, or `NulError`.
    pub fn prepare(&self, sql: &str) -> rusqlite::Result<Statement<'_>> {
        refuse_nul(sql)?;
        Connection::prepare(self, sql)
    }

    /// As [`prepare`](Self::prepare), from the statement cache.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// # store.write(|tx| tx.execute_batch("CREATE TABLE squares(n INTEGER, square INTEGER) STRICT"))?;
    /// store.write(|tx| {
    ///     let mut insert = tx.prepare_cached("INSERT INTO squares VALUES (?1, ?2)")?;
    ///     for n in 0..100 {
    ///         insert.execute([n, n * n])?;
    ///     }
    ///     Ok(())
    /// })?;
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The error of SQLite, or `NulError`.
    pub fn prepare_cached(&self, sql: &str) -> rusqlite::Result<CachedStatement<'_>> {
        refuse_nul(sql)?;
        Connection::prepare_cached(self, sql)
    }

    /// Prepares the statement, or takes it from the cache, and runs it.
    fn with_statement<T>(
        &self,
        sql: &str,
        f: impl FnOnce(&mut CachedStatement<'_>) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let start = Tick::now();
        let waited_before = self.waited.get();
        if let Some(error) = self.refuses_start(start) {
            return Err(self.located(error, Some(sql)));
        }
        let changes = || self.conn.total_changes();
        let counted = self
            .statements
            .map(|page| (page, Instant::now(), self.rows.get(), changes()));
        let own = Cell::new(None);
        let run = |statement: &mut CachedStatement<'_>| {
            let result = f(statement);
            // Checked before other statements run to describe this one. A row's closure may have returned another
            // connection's error.
            own.set(result.as_ref().err().map(|error| c_api::gave_last(self.conn, error)));
            let waited = self.waited.get() - waited_before;
            if let Some((page, began, rows, before)) = counted {
                let rows = Rows {
                    returned: self.rows.get() - rows,
                    changed: changes().saturating_sub(before),
                };
                let time = began.elapsed().saturating_sub(waited);
                self.count(sql, statement, page, time, rows, result.is_err());
            }
            self.note_time(start.elapsed().saturating_sub(waited), || {
                let text = (statement.parameter_count() > 0).then(|| bounded_sql(sql).into_owned());
                (text, self.plan(sql))
            });
            result
        };
        self.with_prepared(sql, run).map_err(|error| {
            let own = own.get().unwrap_or_else(|| c_api::gave_last(self.conn, &error));
            self.explain_as(error, own, Some(sql))
        })
    }

    /// Why a statement may not start now.
    fn refuses_start(&self, now: Tick) -> Option<Error> {
        let stopped = self
            .interrupt
            .stops_start(now)
            .then(|| self.explain_interrupt())
            .flatten();
        stopped.or_else(|| self.conn.is_autocommit().then(ended))
    }

    /// Runs `run` with the hot statement or with one from the cache. An ALTER parses the whole schema, which may be older
    /// than the rule that `"x"` is not a string.
    fn with_prepared<T>(
        &self,
        sql: &str,
        run: impl FnOnce(&mut CachedStatement<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        if is_alter(sql) {
            refuse_nul(sql)?;
            let run = || run(&mut self.conn.prepare_cached(sql)?);
            return with_double_quoted_strings(self.conn, self.guard, run);
        }
        let is_long = sql.len() > MAX_CACHED;
        if may_be_explain(sql) {
            self.forget_explain(sql);
        } else if !is_long && self.prepared.again(sql) {
            return self.with_held(sql, run);
        }
        refuse_nul(sql)?;
        let mut statement = self.conn.prepare_cached(sql)?;
        let result = run(&mut statement);
        if is_long {
            statement.discard();
        }
        result
    }

    fn with_held<T>(
        &self,
        sql: &str,
        run: impl FnOnce(&mut CachedStatement<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let mut run = Some(run);
        let mut result = None;
        self.prepared.with_held(sql, &mut |statement| {
            result = run.take().map(|run| run(statement));
        })?;
        result.expect("it was run, since it was prepared")
    }

    /// Removes an EXPLAIN from the statement cache: SQLite does not prepare it again after a change of the schema, so
    /// it would read freed memory.
    fn forget_explain(&self, sql: &str) {
        match self.conn.prepare_cached(sql) {
            Ok(statement) if statement.is_explain() != 0 => statement.discard(),
            _ => {}
        }
    }

    fn count(
        &self,
        sql: &str,
        statement: &Statement<'_>,
        page: &RefCell<StatementShard>,
        time: Duration,
        rows: Rows,
        failed: bool,
    ) {
        if is_no_statement(sql, statement) {
            return;
        }
        let mut page = page.borrow_mut();
        if let Some(place) = page.find(&*bounded_sql(sql)) {
            let find_tables = || scan::tables(self.conn, sql).unwrap_or_default();
            page[place].ran(statement, time, rows, failed, find_tables);
        }
    }

    fn count_row(&self) {
        self.rows.set(self.rows.get() + 1);
    }

    /// Whether SQLite has ended the whole transaction.
    pub(crate) fn has_ended(&self) -> bool {
        self.conn.is_autocommit()
    }

    /// Whether one of its statements found the disk full.
    pub(crate) fn found_disk_full(&self) -> bool {
        self.full.get()
    }

    /// Number of rows that its queries returned.
    pub(crate) fn rows(&self) -> u64 {
        self.rows.get()
    }

    /// A query has waited for the consumer of its rows. That time counts for limits and for the age of the read, and not
    /// for its statistics.
    pub(crate) fn note_wait(&self, waited: Duration) {
        self.waited.set(self.waited.get() + waited);
    }

    /// The time noted by [`note_wait`](Self::note_wait).
    pub(crate) fn waited(&self) -> Duration {
        self.waited.get()
    }

    /// When the time limit of the closure is over, if it has one.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.interrupt.deadline()
    }

    /// The error of a query that waited until its [`deadline`](Self::deadline).
    pub(crate) fn late(&self, sql: &str) -> Error {
        self.located(self.interrupt.pass_deadline(), Some(sql))
    }

    /// The error of a query that was stopped after `limit`.
    pub(crate) fn stopped_after(&self, limit: Duration, advice: &'static str, sql: &str) -> Error {
        let error = Error::Interrupted {
            limit,
            advice,
            context: None,
        };
        self.located(error, Some(sql))
    }

    fn note_time(&self, took: Duration, describe: impl FnOnce() -> (Option<String>, Option<QueryPlan>)) {
        if took < self.slow {
            return;
        }
        let mut slowest = self.slowest.borrow_mut();
        if slowest.as_ref().is_none_or(|slowest| took > slowest.took) {
            let (text, plan) = describe();
            *slowest = Some(SlowStatement { took, text, plan });
        }
    }

    /// Takes some 20 us, after a statement that took many milliseconds.
    fn plan(&self, sql: &str) -> Option<QueryPlan> {
        let mut explain = self.conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).ok()?;
        // The parameters stay unbound.
        let steps = explain.raw_query().mapped(|row| row.get("detail"));
        let steps: Vec<String> = steps.collect::<rusqlite::Result<_>>().ok()?;
        let is_scan = |step: &&String| {
            step.starts_with("SCAN ") && !step.contains("CONSTANT ROW") && !step.contains("VIRTUAL TABLE")
        };
        let scans = steps.iter().filter(is_scan).count();
        (!steps.is_empty()).then(|| QueryPlan {
            steps: steps.join("; "),
            scans,
        })
    }

    /// Runs larder's own SQL on the connection.
    pub(crate) fn inspect<T>(&self, f: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let conn: &Connection = self;
        self.guard.as_internal(|| f(conn)).map_err(|error| self.explain(error))
    }

    /// Whether the closure may have left state on the connection. The methods of this type leave none.
    pub(crate) fn had_raw_access(&self) -> bool {
        self.raw_access.get()
    }

    pub(crate) fn slowest(&self) -> Option<SlowStatement> {
        self.slowest.take()
    }

    /// The meaning of an error that was just returned, by this connection or by another that the closure uses.
    fn explain(&self, error: rusqlite::Error) -> Error {
        let own = c_api::gave_last(self.conn, &error);
        self.explain_as(error, own, None)
    }

    /// Like [`explain`](Self::explain), for an error that is known to be this connection's (`own`) or another's. `sql` is
    /// the statement that failed, if it is known.
    fn explain_as(&self, error: rusqlite::Error, own: bool, sql: Option<&str>) -> Error {
        let constraint = if own {
            constraint::violated(self.conn, self.guard, &error, sql)
        } else {
            None
        };
        let explained = self.meaning(error, own);
        if self.conn.is_autocommit() {
            note_first(&self.ended_by, sql);
        }
        self.note_stopped(&explained, sql);
        explained.at(|| ErrorContext {
            constraint,
            ..self.context(sql)
        })
    }

    fn meaning(&self, error: rusqlite::Error, own: bool) -> Error {
        if let rusqlite::Error::NulError(_) = error {
            return has_nul();
        }
        let Some(code) = primary_code(&error) else {
            return self.of_this(error.into());
        };
        if code == ffi::SQLITE_INTERRUPT
            && let Some(stopped) = self.explain_interrupt()
        {
            return stopped;
        }
        // A refusal is kept until it is reported.
        let refused = self.guard.has_refused_by(&error);
        if !own && !refused {
            return Error::of_another(error);
        }
        if code == ffi::SQLITE_INTERRUPT {
            return self.of_this(interrupted_by_program(error));
        }
        let Explained { error, is_full } = self.guard.as_internal(|| cause::explain(self.conn, error));
        if is_full {
            self.full.set(true);
        }
        self.of_this(self.guard.explain(error))
    }

    /// A read has written nothing, and an error of the application's own type may take this one away from
    /// [`judge_read`](Self::judge_read).
    fn of_this(&self, error: Error) -> Error {
        if self.guard.is_of_reader() {
            not_started(error)
        } else {
            error
        }
    }

    /// Adds where it arose.
    fn located(&self, error: Error, sql: Option<&str>) -> Error {
        self.note_stopped(&error, sql);
        error.at(|| self.context(sql))
    }

    fn context(&self, sql: Option<&str>) -> ErrorContext {
        ErrorContext {
            site: self.activity.site(),
            statement: sql.map(|sql| bounded_sql(sql).into_owned()),
            ..ErrorContext::default()
        }
    }

    pub(crate) fn ended_by(&self) -> Option<String> {
        self.ended_by.take()
    }

    /// The closure may swallow the error, or put it into one of its own.
    fn note_stopped(&self, error: &Error, sql: Option<&str>) {
        if let Error::Interrupted { .. } = error {
            note_first(&self.stopped, sql);
        }
    }

    /// The statement that a time limit stopped.
    pub(crate) fn stopped(&self) -> Option<String> {
        self.stopped.take()
    }

    /// The limit or the cancellation by which larder has stopped the SQL.
    fn explain_interrupt(&self) -> Option<Error> {
        let cancelled = || self.interrupt.was_cancelled().then(gone);
        self.interrupt.explain().or_else(cancelled)
    }

    /// For the result of the closure: its error may come from one of rusqlite's methods, or from another database.
    pub(crate) fn explain_result<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| match error {
            Error::Sqlite {
                source,
                origin: ErrorOrigin::Unknown,
                context: None,
                ..
            } => self.explain(source),
            // The error may come from a call of another store.
            mut error => {
                if let Error::Sqlite { outcome, .. } = &mut error {
                    *outcome = Outcome::RolledBack;
                }
                error
            }
        })
    }
}

impl ReadTx<'_> {
    /// The result of a read. It wrote nothing in any case, and either it was one snapshot or it failed.
    pub(crate) fn judge_read<T>(&self, result: Result<T>) -> Result<T> {
        match self.explain_result(result) {
            Ok(_) if self.conn.is_autocommit() => Err(self.located(not_started(ended()), None)),
            other => other.map_err(not_started),
        }
    }
}

fn note_first(place: &RefCell<Option<String>>, sql: Option<&str>) {
    let mut place = place.borrow_mut();
    *place = place.take().or_else(|| sql.map(|sql| bounded_sql(sql).into_owned()));
}

/// The error of a read, which wrote nothing.
fn not_started(mut error: Error) -> Error {
    if let Error::Sqlite { outcome, origin, .. } = &mut error
        && *origin != ErrorOrigin::Other
    {
        *outcome = Outcome::NotStarted;
    }
    error
}

/// An I/O error, lack of memory or an interrupt may end the transaction. The next statement would run in another one.
fn ended() -> Error {
    let code = ffi::Error::new(ffi::SQLITE_ABORT_ROLLBACK);
    let message = "SQLite has ended this transaction after the error of an earlier statement: return that error";
    Error::of_store(rusqlite::Error::SqliteFailure(code, Some(message.into())))
}

/// The error of SQL, or a name in it, with a NUL.
fn has_nul() -> Error {
    Error::refused(
        "SQL with a NUL character",
        "remove it, because SQLite would read only what is before it; text that has one can be a parameter",
    )
}

/// The error of a cancelled read. Only the closure sees it.
fn gone() -> Error {
    let code = ffi::Error::new(ffi::SQLITE_INTERRUPT);
    let message = "the task that asked for this read has gone away: return this error";
    Error::of_store(rusqlite::Error::SqliteFailure(code, Some(message.into())))
}

/// The error of an interrupt that did not come from larder.
fn interrupted_by_program(error: rusqlite::Error) -> Error {
    let rusqlite::Error::SqliteFailure(code, _) = error else {
        return Error::of_store(error);
    };
    let message = "an interrupt handle or a progress handler of the program has interrupted the statement, not a limit \
                   of the store";
    Error::of_store(rusqlite::Error::SqliteFailure(code, Some(message.into())))
}

/// Gives access to the connection, with all methods of rusqlite that take `&self`.
///
/// Later closures use the same connection. So larder refuses what these methods would set, or restores it after the
/// closure; the rest must be left alone, as the table says. The methods of [`ReadTx`] and [`WriteTx`] themselves leave
/// nothing behind.
///
/// | method | effect |
/// |---|---|
/// | `execute`, `query_row`, `prepare`, `prepare_cached`, `pragma_query`, .. | SQL is refused as in larder's own methods, but not counted in [`Stats`](crate::Stats). SQL with a NUL is not refused: SQLite reads what is before it |
/// | `prepare_cached`, then `column_names` and the like | right also after this closure has changed the schema, if the closure takes the connection from the transaction again. Otherwise, and if another process changes the schema, they are those of the old schema until the statement is run |
/// | `unchecked_transaction`, `pragma_update`, `PRAGMA temp.user_version` | refused with [`Error::Refused`] |
/// | a leaked `Statement` or `Rows` (`std::mem::forget`) | reset. The statement stays in memory until the connection closes |
/// | `blob_open` with a leaked `Blob` | reset in a write; in a read the connection is replaced. Its memory is lost |
/// | `set_limit`, `set_db_config`, `set_prepared_statement_cache_capacity` | restored to the value at the opening of the connection |
/// | `busy_timeout`, `busy_handler`, `progress_handler`, `wal_hook` | restored. Until the closure returns, they replace larder's own, so time limits are checked only where a statement begins and when the closure returns |
/// | `update_hook`, `rollback_hook`, `trace_v2` | removed. If [`Options::on_connect`](crate::Options::on_connect) has set a hook of the kind, the closure's hook stays, because SQLite does not report which one is set |
/// | `collation_needed` | removed. If there is an `on_connect`, it stays |
/// | `commit_hook`, `authorizer` | the connection is replaced after the closure, because larder's own was off meanwhile. Dangerous: nothing that the closure does without them is refused |
/// | `create_scalar_function`, `create_aggregate_function`, `create_window_function`, `create_collation`, `remove_function`, `remove_collation` | the connection is replaced if the name and number of arguments existed before. Dangerous: a new one stays, on this connection only. Define them in `on_connect` |
/// | `create_module`, `preupdate_hook`, `load_extension` | stays. Dangerous: use `on_connect` |
/// | `last_insert_rowid`, `Statement::insert` | 0 before the first insert of the closure. [`WriteTx::insert`] returns the rowid of exactly its own row |
/// | `changes`, and the result of rusqlite's `execute` for DDL | may be the count of an earlier closure until this one changes a row: use [`WriteTx::changes`] or the SQL function |
/// | `total_changes` | counts all closures on the connection: use [`WriteTx::total_changes`] |
/// | `get_interrupt_handle` | dangerous: kept beyond the closure, it interrupts other closures |
/// | a leaked `Backup` | dangerous: the source stays in use until the process ends |
/// | `cache_flush`, `release_memory`, `flush_prepared_statement_cache`, `set_errmsg` | harmless |
/// | `is_autocommit`, `is_busy`, `path`, `db_name`, `limit`, `db_config`, `transaction_state`, `serialize`, .. | read-only |
///
/// Replacing the writing connection takes about a millisecond, and the new one starts with an empty page cache. An
/// event reports each replacement (`larder::write`, `larder::read`).
impl Deref for ReadTx<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.raw_access.set(true);
        if let Some(told) = self.on_raw_access {
            told.raw_access();
        }
        self.prepared.put_back();
        self.guard.drop_stale_statements(self.conn);
        self.conn
    }
}

/// Whether the text consists of spaces, semicolons and comments only. rusqlite panics when asked for the counters of
/// an empty statement.
fn is_no_statement(sql: &str, statement: &Statement<'_>) -> bool {
    let begins = sql.as_bytes().first().is_some_and(u8::is_ascii_alphabetic);
    !begins && statement.column_count() == 0 && statement.readonly() && statement.expanded_sql().is_none()
}

/// Checks the first letter: a comment or a space may precede the keyword.
fn may_be_explain(sql: &str) -> bool {
    let first = sql.as_bytes().first();
    first.is_some_and(|first| !first.is_ascii_alphabetic() || first.eq_ignore_ascii_case(&b'e'))
}
