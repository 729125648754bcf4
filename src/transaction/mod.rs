//! What a closure receives: [`ReadTx`], one snapshot, or [`WriteTx`], one atomic change.
//!
//! The methods of both use the statement cache, which rusqlite's methods of the same names do not, and return larder's
//! error. Both deref to [`rusqlite::Connection`], so a helper that takes `&Connection` accepts them, too.

pub(crate) mod hot_statement;

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::time::{Duration, Instant};

use rusqlite::{CachedStatement, Connection, OptionalExtension, Params, Row, Statement, ffi};

use self::hot_statement::Prepare;
use crate::connection::authorizer::{Change, SqlGuard};
use crate::connection::c_api;
use crate::connection::change_counters::signed;
use crate::connection::interrupt::Interrupt;
use crate::error::{Error, ErrorOrigin, Outcome, Result, primary_code};
use crate::runtime::clock::Tick;
use crate::telemetry::slow_log::{QueryPlan, SlowStatement};
use crate::telemetry::usage::StatementShard;

/// larder's own statements, each with its private comment (see `connection/authorizer.rs`).
pub(crate) mod sql {
    pub(crate) const BEGIN_READ: &str = "BEGIN/*larder*/";
    pub(crate) const BEGIN_WRITE: &str = "BEGIN IMMEDIATE/*larder*/";
    pub(crate) const COMMIT: &str = "COMMIT/*larder*/";
    pub(crate) const ROLLBACK: &str = "ROLLBACK/*larder*/";
    pub(crate) const SAVEPOINT: &str = "SAVEPOINT larder/*larder*/";
    pub(crate) const RELEASE: &str = "RELEASE larder/*larder*/";
    pub(crate) const ROLLBACK_TO: &str = "ROLLBACK TO larder/*larder*/";
}

/// Runs one of larder's own statements, from the cache.
pub(crate) fn run_internal(conn: &Connection, guard: &SqlGuard, sql: &str) -> rusqlite::Result<()> {
    guard.as_internal(|| conn.prepare_cached(sql)?.execute([]).map(drop))
}

/// One snapshot of the database. Given to the closure of [`Store::read`](crate::Store::read).
///
/// Everything that the closure reads is as of one moment, at least as new as every write acknowledged before
/// the read began. The snapshot is taken at the first statement, or, of a task's read, perhaps at that of another task's
/// before it.
pub struct ReadTx<'a> {
    conn: &'a Connection,
    guard: &'a SqlGuard,
    interrupt: &'a Interrupt,
    slow: Duration,
    /// Whether the closure has used the connection directly.
    raw_access: Cell<bool>,
    slowest: RefCell<Option<SlowStatement>>,
    /// Rows returned by queries.
    rows: Cell<u64>,
    /// Whether a statement found the disk full.
    full: Cell<bool>,
    /// The statistics of statements, if they are counted.
    statements: Option<&'a RefCell<StatementShard>>,
    prepared: &'a dyn Prepare,
}

impl<'a> ReadTx<'a> {
    pub(crate) fn new(
        conn: &'a Connection,
        guard: &'a SqlGuard,
        interrupt: &'a Interrupt,
        slow: Duration,
        statements: Option<&'a RefCell<StatementShard>>,
        prepared: &'a dyn Prepare,
    ) -> Self {
        Self {
            conn,
            guard,
            interrupt,
            slow,
            raw_access: Cell::new(false),
            slowest: RefCell::new(None),
            rows: Cell::new(0),
            full: Cell::new(false),
            statements,
            prepared,
        }
    }

    /// Gives the one row of a query to `f`; rows after it are not looked at.
    ///
    /// # Errors
    ///
    /// [`Error::Sqlite`] with `QueryReturnedNoRows` if there is no row: see
    /// [`query_optional`](Self::query_optional).
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

    /// As [`query_row`](Self::query_row), with `None` if there is no row.
    ///
    /// # Errors
    ///
    /// What SQLite or `f` said.
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

    /// Maps every row, and collects what comes of it.
    ///
    /// # Errors
    ///
    /// What SQLite said, or what `f` said of the first row that it refused.
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

    /// Calls `f` with every row, and keeps none.
    ///
    /// # Errors
    ///
    /// What SQLite said, or what `f` said of the first row that it refused.
    pub fn query_each<P, F>(&self, sql: &str, params: P, mut f: F) -> Result<()>
    where
        P: Params,
        F: FnMut(&Row<'_>) -> rusqlite::Result<()>,
    {
        self.with_statement(sql, |statement| {
            let mut rows = statement.query(params)?;
            while let Some(row) = rows.next()? {
                self.count_row();
                f(row)?;
            }
            Ok(())
        })
    }

    /// Whether the query has a row.
    ///
    /// # Errors
    ///
    /// What SQLite said.
    pub fn exists<P: Params>(&self, sql: &str, params: P) -> Result<bool> {
        self.with_statement(sql, |statement| statement.exists(params))
    }

    /// Prepares the statement, or takes it from the cache, and runs it.
    fn with_statement<T>(
        &self,
        sql: &str,
        f: impl FnOnce(&mut CachedStatement<'_>) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let start = Tick::now();
        if let Some(over) = self.interrupt.check(start) {
            return Err(over);
        }
        if self.conn.is_autocommit() {
            return Err(ended());
        }
        let counted = self.statements.map(|page| (page, Instant::now(), self.rows.get()));
        let own = Cell::new(None);
        let run = |statement: &mut CachedStatement<'_>| {
            let result = f(statement);
            // Checked before other statements run to describe this one. A row's closure may have returned another
            // connection's error.
            own.set(result.as_ref().err().map(|error| c_api::gave_last(self.conn, error)));
            if let Some((page, began, rows)) = counted {
                let rows = self.rows.get() - rows;
                self.count(sql, statement, page, began.elapsed(), rows, result.is_err());
            }
            self.note_time(start, || {
                let text = (statement.parameter_count() > 0).then(|| sql.to_owned());
                (text, self.plan(sql))
            });
            result
        };
        let may_be_explain = may_be_explain(sql);
        if may_be_explain {
            self.forget_explain(sql);
        }
        let result = if !may_be_explain && self.prepared.again(sql) {
            self.with_held(sql, run)
        } else {
            self.conn
                .prepare_cached(sql)
                .and_then(|mut statement| run(&mut statement))
        };
        result.map_err(|error| match own.get() {
            Some(own) => self.explain_as(error, own),
            None => self.explain(error),
        })
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
        rows: u64,
        failed: bool,
    ) {
        if is_no_statement(sql, statement) {
            return;
        }
        let mut page = page.borrow_mut();
        if let Some(place) = page.find(sql) {
            page[place].ran(statement, time, rows, failed);
        }
    }

    fn count_row(&self) {
        self.rows.set(self.rows.get() + 1);
    }

    /// Whether one of its statements found the disk full.
    pub(crate) fn found_disk_full(&self) -> bool {
        self.full.get()
    }

    /// Number of rows that its queries returned.
    pub(crate) fn rows(&self) -> u64 {
        self.rows.get()
    }

    fn note_time(&self, start: Tick, describe: impl FnOnce() -> (Option<String>, Option<QueryPlan>)) {
        let took = start.elapsed();
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
        self.explain_as(error, own)
    }

    /// Like [`explain`](Self::explain), for an error that is known to be this connection's (`own`) or another's.
    fn explain_as(&self, error: rusqlite::Error, own: bool) -> Error {
        let Some(code) = primary_code(&error) else {
            return error.into();
        };
        if code == ffi::SQLITE_INTERRUPT
            && let Some(stopped) = self.explain_interrupt()
        {
            return stopped;
        }
        // A refusal is kept until it is reported.
        let refused = code == ffi::SQLITE_AUTH && self.guard.has_refused();
        if !own && !refused {
            return Error::of_another(error);
        }
        match code {
            ffi::SQLITE_INTERRUPT => return interrupted_by_program(error),
            ffi::SQLITE_FULL => self.full.set(true),
            _ => {}
        }
        self.guard.explain(error)
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
                ..
            } => self.explain(source),
            // The error may come from a call of another store.
            Error::Sqlite { source, origin, .. } => Error::Sqlite {
                source,
                outcome: Outcome::RolledBack,
                origin,
            },
            other => other,
        })
    }
}

impl ReadTx<'_> {
    /// The result of a read. It wrote nothing in any case, and either it was one snapshot or it failed.
    pub(crate) fn judge_read<T>(&self, result: Result<T>) -> Result<T> {
        match self.explain_result(result) {
            Ok(_) if self.conn.is_autocommit() => Err(ended()),
            Err(Error::Sqlite { source, origin, .. }) if origin != ErrorOrigin::Other => Err(Error::Sqlite {
                source,
                outcome: Outcome::NotStarted,
                origin,
            }),
            other => other,
        }
    }
}

/// An I/O error, lack of memory or an interrupt may end the transaction. The next statement would run in another one.
fn ended() -> Error {
    let code = ffi::Error::new(ffi::SQLITE_ABORT_ROLLBACK);
    let message = "SQLite has ended this transaction after the error of an earlier statement: return that error";
    Error::of_store(rusqlite::Error::SqliteFailure(code, Some(message.into())))
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
    let message =
        "interrupted by an interrupt handle or a progress handler of the program, not by a limit of the store";
    Error::of_store(rusqlite::Error::SqliteFailure(code, Some(message.into())))
}

/// The connection itself, with all of rusqlite's methods that take `&self`. Other closures use the same connection
/// afterwards. What those methods set is therefore refused, or taken back after the closure; the rest is for the closure to
/// leave alone. A closure that uses only the methods of [`ReadTx`] and [`WriteTx`] has nothing to think of.
///
/// | method | what becomes of it |
/// |---|---|
/// | `execute`, `query_row`, `prepare`, `prepare_cached`, `pragma_query`, .. | SQL is refused as in larder's own methods, and is not counted in [`Stats`](crate::Stats) |
/// | `unchecked_transaction`, `pragma_update`, `PRAGMA temp.user_version` | refused: [`Error::Refused`] |
/// | a `Statement` or `Rows` that is forgotten (`std::mem::forget`) | reset. The statement stays until the connection closes |
/// | `blob_open`, and a `Blob` that is forgotten | reset in a write; in a read the connection is replaced. Its memory is lost |
/// | `set_limit`, `set_db_config`, `set_prepared_statement_cache_capacity` | reset to what it was when the connection had been opened |
/// | `busy_timeout`, `busy_handler`, `progress_handler`, `wal_hook` | reset; in the closure itself they put larder's own out of work: then a limit of time is looked at where statements begin, and at the end of the closure |
/// | `update_hook`, `rollback_hook`, `trace_v2` | removed, unless [`Options::on_connect`](crate::Options::on_connect) has set one of the kind: then what the closure has set stays, as SQLite does not tell |
/// | `collation_needed` | removed, unless there is an `on_connect`: then it stays |
/// | `commit_hook`, `authorizer` | the connection is replaced after the closure, since it was without larder's own meanwhile. Dangerous: what a closure does without them is not refused |
/// | `create_scalar_function`, `create_aggregate_function`, `create_window_function`, `create_collation`, `remove_function`, `remove_collation` | the connection is replaced, where one was there before under that name and number of arguments. Dangerous: a new one stays, on this connection alone. Define them in `on_connect` |
/// | `create_module`, `preupdate_hook`, `load_extension` | stays. Dangerous: use `on_connect` |
/// | `last_insert_rowid`, `Statement::insert` | 0 before the closure's first insert; see [`WriteTx::insert`] for a rowid that is surely of its row |
/// | `changes`, and what rusqlite's `execute` returns for DDL | may be that of an earlier closure before the first change of this one: use [`WriteTx::changes`], or the SQL function |
/// | `total_changes` | of all closures on the connection: use [`WriteTx::total_changes`] |
/// | `get_interrupt_handle` | dangerous: kept beyond the closure, it stops the statements of others |
/// | `Backup` that is forgotten | dangerous: the source stays in use until the process ends |
/// | `cache_flush`, `release_memory`, `flush_prepared_statement_cache`, `set_errmsg` | harm nobody |
/// | `is_autocommit`, `is_busy`, `path`, `db_name`, `limit`, `db_config`, `transaction_state`, `serialize`, .. | only tell |
///
/// A replaced writer's connection takes about a millisecond, and its page cache starts empty; an event says so
/// (`larder::write`, `larder::read`).
impl Deref for ReadTx<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.raw_access.set(true);
        self.prepared.put_back();
        self.conn
    }
}

/// One change of the database, all or nothing. Given to the closure of [`Store::write`](crate::Store::write).
///
/// It can do what a [`ReadTx`] can, and sees its own changes. The closure's `Ok` commits and its `Err` rolls
/// back; the SQL inside may not.
pub struct WriteTx<'a> {
    read: ReadTx<'a>,
    /// Set if a savepoint could not be rolled back. Then the whole job must be, whatever its closure returns.
    undo_failed: RefCell<Option<Error>>,
}

impl<'a> WriteTx<'a> {
    pub(crate) fn new(
        conn: &'a Connection,
        guard: &'a SqlGuard,
        interrupt: &'a Interrupt,
        slow: Duration,
        statements: Option<&'a RefCell<StatementShard>>,
        prepared: &'a dyn Prepare,
    ) -> Self {
        Self {
            read: ReadTx::new(conn, guard, interrupt, slow, statements, prepared),
            undo_failed: RefCell::new(None),
        }
    }

    /// Runs one statement and says how many rows it changed.
    ///
    /// # Errors
    ///
    /// What SQLite said; [`Error::Refused`] for SQL that ends the transaction or leaves the database.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// let changed = store.write(|tx| {
    ///     tx.execute_batch("CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT")?;
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

    /// Runs an `INSERT` of one row and gives its rowid.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute), `StatementChangedRows` if it was not exactly one row, and [`Error::NoRowid`] if it
    /// was no new row with a rowid: an upsert that updated a row, an `INSERT` into a table `WITHOUT ROWID`, or an `UPDATE`.
    /// Where an upsert may update, let it return the key:
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// let upsert = "INSERT INTO users(mail) VALUES (?1) ON CONFLICT(mail) DO UPDATE SET mail = excluded.mail
    ///               RETURNING id";
    /// let ids = store.write(move |tx| {
    ///     tx.execute_batch("CREATE TABLE users(id INTEGER PRIMARY KEY, mail TEXT UNIQUE) STRICT")?;
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
        match inserted {
            (1, Some(rowid)) => Ok(rowid),
            (0 | 1, None) => Err(self.no_rowid(sql, inserted.0)),
            (changed, _) => Err(rusqlite::Error::StatementChangedRows(changed).into()),
        }
    }

    /// Why the statement gave no rowid, as far as SQLite can tell.
    fn no_rowid(&self, sql: &str, changed: usize) -> Error {
        let changes = self.guard.changes_of(|| drop(self.conn.prepare(sql)));
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
        Error::NoRowid { reason }
    }

    /// The rowid of the last row that this closure has inserted into a table with rowids: 0 if there is none yet, as on a
    /// new connection. The SQL function of this name says the same. For one `INSERT`, [`insert`](Self::insert) is safer.
    pub fn last_insert_rowid(&self) -> i64 {
        self.conn.last_insert_rowid()
    }

    /// How many rows the last `INSERT`, `UPDATE` or `DELETE` of this closure has changed: 0 if there is none yet. The SQL
    /// function of this name says the same.
    pub fn changes(&self) -> u64 {
        let (changes, total) = (signed(self.conn.changes()), signed(self.conn.total_changes()));
        self.guard.changes().changes(changes, total).unsigned_abs()
    }

    /// How many rows this closure has changed so far, by triggers and foreign keys, too, and also where a savepoint was
    /// rolled back. The SQL function of this name says the same.
    pub fn total_changes(&self) -> u64 {
        let total = signed(self.conn.total_changes());
        self.guard.changes().total(total).unsigned_abs()
    }

    /// Runs every statement of `sql`, separated by semicolons, without parameters.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute). What ran before the error stays in the transaction: return the error to
    /// undo it.
    pub fn execute_batch(&self, sql: &str) -> Result<()> {
        let start = Tick::now();
        if let Some(over) = self.interrupt.check(start) {
            return Err(over);
        }
        let result = self.conn.execute_batch(sql).map_err(|error| self.explain(error));
        self.note_time(start, || (None, None));
        result
    }

    /// Nests: runs `f` in a savepoint, keeps what it did if it gives `Ok`, and undoes just that if it gives
    /// `Err` or panics.
    ///
    /// # Errors
    ///
    /// What `f` gave; [`Error::RolledBack`] if SQLite ended the whole transaction meanwhile, after which nothing
    /// more can be done in this write.
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
    /// let lines: Vec<String> = store.read(|tx| tx.query_map("SELECT line FROM log", [], |row| row.get(0)))?;
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

    /// The result of a write, as its caller sees it.
    pub(crate) fn judge<T>(&self, result: Result<T>) -> Result<T> {
        match self.undo_failed.take() {
            Some(error) => Err(error),
            None => self.explain_result(result),
        }
    }

    fn run_internal(&self, sql: &str) -> Result<()> {
        if self.conn.is_autocommit() {
            return Err(Error::RolledBack {
                reason: ENDED,
                caused_by_closure: true,
                source: None,
            });
        }
        run_internal(self.conn, self.guard, sql).map_err(|error| self.explain(error))
    }
}

/// Whether the text consists of spaces, semicolons and comments only. rusqlite panics when asked for the counters of
/// an empty statement.
fn is_no_statement(sql: &str, statement: &Statement<'_>) -> bool {
    let begins = sql.as_bytes().first().is_some_and(u8::is_ascii_alphabetic);
    !begins && statement.column_count() == 0 && statement.readonly() && statement.expanded_sql().is_none()
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

/// Checks the first letter: a comment or a space may precede the keyword.
fn may_be_explain(sql: &str) -> bool {
    let first = sql.as_bytes().first();
    first.is_some_and(|first| !first.is_ascii_alphabetic() || first.eq_ignore_ascii_case(&b'e'))
}

/// Why a write is rolled back although its closure did not ask for it.
pub(crate) const ENDED: &str = "SQLite ended the whole transaction inside the closure (ON CONFLICT ROLLBACK, \
                                RAISE(ROLLBACK), a full disk, an I/O error or no memory)";

/// What a [`ReadTx`] can do, and by it the connection: see there for what becomes of what is set on that.
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
        tx.run_internal(sql::SAVEPOINT)?;
        Ok(Self { tx, released: false })
    }

    fn release(mut self) -> Result<()> {
        self.tx.run_internal(sql::RELEASE)?;
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
            .run_internal(sql::ROLLBACK_TO)
            .and_then(|()| self.tx.run_internal(sql::RELEASE))
        {
            *self.tx.undo_failed.borrow_mut() = Some(error);
        }
    }
}
