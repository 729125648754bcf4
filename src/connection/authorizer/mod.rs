//! The SQL guard: which SQL a closure may not run, and the error it gets instead.
//!
//! SQLite calls the authorizer whenever it *prepares* a statement, including a re-prepare after a schema change, and
//! calls the commit hook before every commit. Both are set once per connection and share one [`SqlGuard`] with the
//! thread that uses the connection. Only that thread uses the guard, one job at a time; the atomics and the mutex exist
//! because rusqlite requires hooks to be `Send`.
//!
//! larder's own statements pass: [`SqlGuard::as_internal`] sets a flag while they are prepared *and stepped*. Their
//! text carries a private comment, or a closure's `prepare_cached("COMMIT")` would find larder's statement in the
//! cache.
//!
//! A migration is user SQL with a few more privileges: see [`Privilege`]. A module that runs SQL of its own, such as a
//! full-text table, has savepoints: see `savepoints.rs`.
//!
//! The guard stops SQL and mistakes. It does not stop a closure that removes it (`conn.authorizer(None)`).

pub(in crate::connection) mod policy;
mod savepoints;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};

use rusqlite::hooks::{AuthContext, Authorization};
use rusqlite::{Connection, ffi};

use self::policy::WRITE_INSTEAD;
use self::savepoints::Savepoints;
use super::c_api::{self, Action, Permission};
use super::change_counters::ChangeCounters;
use super::known_columns::KnownColumns;
use crate::error::{Error, message, primary_code};
use crate::options::Role;
use crate::runtime::panic::quietly;
use crate::runtime::sync::{Arc, Mutex};

/// What the running SQL may do.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(u8)]
pub(crate) enum Privilege {
    /// The privileges of a closure.
    Closure = 0,
    /// A migration in its transaction: also the PRAGMAs of a table rebuild.
    Migration = 1,
    /// A migration without a transaction: also transactions of its own.
    NoTransaction = 2,
    /// A `VACUUM` of such a migration.
    Vacuum = 3,
}

/// What the statements of a migration may change in the database, as far as its tables go. Names are in lower case.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    /// Tables and views whose rows or indexes may change, or which are created, dropped or altered.
    pub(crate) tables: BTreeSet<String>,
    /// Tables that are created or dropped, or altered under this name.
    pub(crate) defined: BTreeSet<String>,
    /// Whether a table is created.
    pub(crate) made: bool,
    /// Whether a table is altered. That may change what other tables refer to.
    pub(crate) altered: bool,
    /// Whether a `VACUUM` may give rows other rowids.
    pub(crate) vacuumed: bool,
    /// Tables that get a trigger, or lose one.
    pub(crate) triggered: BTreeSet<String>,
    /// Whether a PRAGMA was run, which may set something on the connection.
    pub(crate) settings: bool,
}

impl Touched {
    /// Whether a table is created, dropped or altered.
    pub(crate) fn defines_tables(&self) -> bool {
        !self.defined.is_empty()
    }

    /// Adds what a later statement touches.
    pub(crate) fn add(&mut self, later: Self) {
        // Not `append`, which rebuilds the whole set.
        self.tables.extend(later.tables);
        self.defined.extend(later.defined);
        self.triggered.extend(later.triggered);
        self.made |= later.made;
        self.altered |= later.altered;
        self.vacuumed |= later.vacuumed;
        self.settings |= later.settings;
    }
}

struct Refusal {
    statement: String,
    instead: &'static str,
}

pub(crate) struct SqlGuard {
    role: Role,
    internal: AtomicBool,
    /// A [`Privilege`], as a number.
    privilege: AtomicU8,
    /// The views and triggers that migrations have created since [`SqlGuard::take_made_code`].
    made_code: Mutex<Vec<String>>,
    /// What a migration has touched since the last [`SqlGuard::take_touched`].
    touched: Mutex<Touched>,
    may_make_temporary: AtomicBool,
    prepared_write: AtomicBool,
    refused: AtomicBool,
    /// `Some` if `refused`.
    refusal: Mutex<Option<Refusal>>,
    /// Whether [`SqlGuard::changes_of`] is recording the changes of a statement into `seen`.
    watched: AtomicBool,
    seen: Mutex<Vec<Change>>,
    changes: Arc<ChangeCounters>,
    schema_change: AtomicBool,
    schema_change_is_open: AtomicBool,
    analyzed: AtomicBool,
    /// Whether the schema may have changed since [`SqlGuard::take_stale_statements`].
    stale: AtomicBool,
    /// Whether the columns of a table or a view of the file may have changed since [`SqlGuard::take_new_columns`].
    new_columns: AtomicBool,
    savepoints: Savepoints,
    known_columns: KnownColumns,
    /// Names of the temporary objects that existed before any closure ran.
    kept: BTreeSet<String>,
    /// A token; rusqlite holds a second count of it, and of `commit_hook`, while SQLite calls this guard.
    authorizer: Arc<()>,
    commit_hook: Arc<()>,
}

/// A table that a statement changes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    /// `SQLITE_INSERT`, `SQLITE_UPDATE` or `SQLITE_DELETE`.
    pub(crate) code: i32,
    pub(crate) database: String,
    pub(crate) table: String,
    /// The column that an UPDATE sets.
    pub(crate) column: Option<String>,
    pub(crate) by_trigger: bool,
}

impl SqlGuard {
    /// Installs the guard on a connection whose temporary objects are `kept`.
    pub(crate) fn install(conn: &Connection, role: Role, kept: BTreeSet<String>) -> rusqlite::Result<Arc<Self>> {
        let guard = Arc::new(Self {
            role,
            internal: AtomicBool::new(false),
            privilege: AtomicU8::new(Privilege::Closure as u8),
            made_code: Mutex::default(),
            touched: Mutex::default(),
            may_make_temporary: AtomicBool::new(false),
            prepared_write: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            refusal: Mutex::new(None),
            watched: AtomicBool::new(false),
            seen: Mutex::default(),
            changes: Arc::new(ChangeCounters::new()),
            schema_change: AtomicBool::new(false),
            schema_change_is_open: AtomicBool::new(false),
            analyzed: AtomicBool::new(false),
            stale: AtomicBool::new(false),
            new_columns: AtomicBool::new(false),
            savepoints: Savepoints::default(),
            known_columns: KnownColumns::default(),
            kept,
            authorizer: Arc::default(),
            commit_hook: Arc::default(),
        });
        if role == Role::Writer {
            c_api::define_change_functions(conn, &guard.changes)?;
        }
        guard.set_authorizer(conn)?;
        guard.set_commit_hook(conn)?;
        Ok(guard)
    }

    fn set_authorizer(self: &Arc<Self>, conn: &Connection) -> rusqlite::Result<()> {
        c_api::authorize(conn, self, Arc::clone(&self.authorizer))
    }

    fn set_commit_hook(self: &Arc<Self>, conn: &Connection) -> rusqlite::Result<()> {
        let this = Arc::clone(self);
        let token = Arc::clone(&self.commit_hook);
        // Without this hook, the statements after a swallowed RAISE(ROLLBACK) would be committed one by one, in
        // autocommit mode. The hook's `true` turns such a commit into a rollback.
        conn.commit_hook(Some(move || {
            let _kept = &token;
            !this.internal.load(Relaxed) && !this.is_outside_transaction()
        }))
    }

    /// Returns whether the guard was still installed, and reinstalls it if not.
    pub(crate) fn stood(self: &Arc<Self>, conn: &Connection) -> bool {
        let authorizes = Arc::strong_count(&self.authorizer) > 1;
        let guards = Arc::strong_count(&self.commit_hook) > 1;
        // The closure's hooks are dropped first, and their drop is user code. These calls fail only for a connection
        // that rusqlite does not own.
        if !authorizes {
            quietly(|| drop(conn.authorizer(None::<fn(AuthContext<'_>) -> Authorization>)));
            let _ = self.set_authorizer(conn);
        }
        if !guards {
            quietly(|| drop(conn.commit_hook(None::<fn() -> bool>)));
            let _ = self.set_commit_hook(conn);
        }
        authorizes && guards
    }

    /// Returns and clears whether a statement that changes the schema was prepared, or such a change was rolled back.
    /// larder's own statements count, too.
    pub(crate) fn take_schema_change(&self) -> bool {
        self.schema_change.swap(false, Relaxed)
    }

    /// Returns and clears whether an ANALYZE was prepared. larder's own statements count, too.
    pub(crate) fn take_analyzed(&self) -> bool {
        self.analyzed.load(Relaxed) && self.analyzed.swap(false, Relaxed)
    }

    /// larder has changed a setting that expires all statements. The next look at them is not to take that for the
    /// doing of a closure.
    pub(crate) fn expired_statements(&self) {
        self.schema_change.store(true, Relaxed);
    }

    /// Empties the statement cache if its statements may report the columns of an older schema: SQLite prepares such a
    /// statement again when it is run, but reports its old columns until then.
    ///
    /// In a closure this is done again and again, because a statement that changes the schema may be run long after it
    /// was prepared.
    pub(crate) fn drop_stale_statements(&self, conn: &Connection) {
        if self.stale.load(Relaxed) {
            conn.flush_prepared_statement_cache();
        }
    }

    /// Empties the statement cache in the same case, after a closure that is over.
    pub(crate) fn take_stale_statements(&self, conn: &Connection) {
        self.drop_stale_statements(conn);
        self.stale.store(false, Relaxed);
    }

    /// Returns and clears whether a statement was prepared that changes the columns of a table or a view of the file.
    pub(crate) fn take_new_columns(&self) -> bool {
        self.new_columns.load(Relaxed) && self.new_columns.swap(false, Relaxed)
    }

    /// Whether a savepoint may be open that is not larder's, now or in later transactions.
    pub(crate) fn may_open_savepoint(&self) -> bool {
        self.savepoints.may_be_open()
    }

    /// A transaction was committed, or rolled back (possibly to a savepoint). Undoing a schema change is a schema
    /// change, too.
    pub(crate) fn transaction_ended(&self, committed: bool) {
        if self.schema_change_is_open.load(Relaxed) {
            self.schema_change_is_open.store(false, Relaxed);
            if !committed {
                self.schema_change.store(true, Relaxed);
            }
        }
    }

    /// Whether the temporary object `name` existed before any closure ran.
    pub(crate) fn keeps(&self, name: &str) -> bool {
        self.kept.contains(name)
    }

    /// Runs larder's own statements.
    pub(crate) fn as_internal<T>(&self, f: impl FnOnce() -> T) -> T {
        struct Lower<'a>(&'a AtomicBool);
        impl Drop for Lower<'_> {
            fn drop(&mut self) {
                self.0.store(false, Relaxed);
            }
        }
        self.internal.store(true, Relaxed);
        let _lower = Lower(&self.internal);
        f()
    }

    /// Where the columns of values are in the results of the statements that the connection has compiled.
    pub(crate) fn known_columns(&self) -> &KnownColumns {
        &self.known_columns
    }

    /// The connection's change counters, as closures see them.
    pub(crate) fn changes(&self) -> &ChangeCounters {
        &self.changes
    }

    pub(crate) fn is_of_reader(&self) -> bool {
        self.role == Role::Reader
    }

    /// Returns the tables that the statement prepared by `prepare` changes, itself or by triggers.
    pub(crate) fn changes_of(&self, prepare: impl FnOnce()) -> Vec<Change> {
        self.watched.store(true, Relaxed);
        prepare();
        self.watched.store(false, Relaxed);
        mem::take(&mut self.seen.lock())
    }

    fn note_change(&self, action: &Action<'_>) {
        if let (ffi::SQLITE_INSERT | ffi::SQLITE_UPDATE | ffi::SQLITE_DELETE, Some(table), Some(database)) =
            (action.code, &action.first, &action.database)
        {
            let change = Change {
                code: action.code,
                database: database.to_string(),
                table: table.to_string(),
                column: action.second.as_ref().map(ToString::to_string),
                by_trigger: action.accessor.is_some(),
            };
            self.seen.lock().push(change);
        }
    }

    /// Runs the SQL of a migration.
    pub(crate) fn with_privilege<T>(&self, privilege: Privilege, f: impl FnOnce() -> T) -> T {
        struct Revoke<'a>(&'a AtomicU8);
        impl Drop for Revoke<'_> {
            fn drop(&mut self) {
                self.0.store(Privilege::Closure as u8, Relaxed);
            }
        }
        self.privilege.store(privilege as u8, Relaxed);
        let _revoke = Revoke(&self.privilege);
        f()
    }

    fn has_privilege(&self, privilege: Privilege) -> bool {
        self.privilege.load(Relaxed) == privilege as u8
    }

    fn is_outside_transaction(&self) -> bool {
        self.has_privilege(Privilege::NoTransaction) || self.has_privilege(Privilege::Vacuum)
    }

    /// Returns and clears what the statements of a migration that were prepared may change.
    pub(crate) fn take_touched(&self) -> Touched {
        mem::take(&mut self.touched.lock())
    }

    /// Notes what a statement of a migration may change. Its triggers count, and so does what a virtual table does for
    /// it: SQLite asks the authorizer about both.
    fn note_touched(&self, action: &Action<'_>) {
        let lower = |name: &Option<Cow<'_, str>>| name.as_deref().unwrap_or_default().to_ascii_lowercase();
        if action.code == ffi::SQLITE_ALTER_TABLE {
            let mut touched = self.touched.lock();
            touched.tables.insert(lower(&action.second));
            touched.defined.insert(lower(&action.second));
            touched.altered = true;
            return;
        }
        if action.code == ffi::SQLITE_PRAGMA {
            self.touched.lock().settings = true;
            return;
        }
        if action.database.as_deref() == Some("temp") {
            return;
        }
        match action.code {
            ffi::SQLITE_INSERT | ffi::SQLITE_UPDATE | ffi::SQLITE_DELETE => {
                let table = lower(&action.first);
                if !table.starts_with("sqlite_") {
                    self.touched.lock().tables.insert(table);
                }
            }
            ffi::SQLITE_CREATE_INDEX | ffi::SQLITE_DROP_INDEX => {
                self.touched.lock().tables.insert(lower(&action.second));
            }
            ffi::SQLITE_CREATE_VIEW | ffi::SQLITE_DROP_VIEW => {
                self.touched.lock().tables.insert(lower(&action.first));
            }
            ffi::SQLITE_CREATE_TRIGGER | ffi::SQLITE_DROP_TRIGGER => {
                self.touched.lock().triggered.insert(lower(&action.second));
            }
            ffi::SQLITE_CREATE_TABLE | ffi::SQLITE_CREATE_VTABLE | ffi::SQLITE_DROP_TABLE | ffi::SQLITE_DROP_VTABLE => {
                let mut touched = self.touched.lock();
                touched.made |= action.code == ffi::SQLITE_CREATE_TABLE;
                touched.tables.insert(lower(&action.first));
                touched.defined.insert(lower(&action.first));
            }
            _ => {}
        }
    }

    /// Returns and clears the names of the views and triggers that migrations have created.
    pub(crate) fn take_made_code(&self) -> Vec<String> {
        mem::take(&mut self.made_code.lock())
    }

    fn note_vacuum(&self) -> Permission {
        self.touched.lock().vacuumed = true;
        Permission::Allow
    }

    /// Forgets the refusal of an earlier closure, and a changeset that it did not finish.
    pub(crate) fn reset(&self) {
        if self.refused.load(Relaxed) {
            self.take_refusal();
        }
        self.savepoints.reset();
    }

    /// Whether a statement that creates a temporary object was prepared on this connection. A later closure may step it
    /// from the statement cache, so this never becomes false again.
    pub(crate) fn may_make_temporary(&self) -> bool {
        self.may_make_temporary.load(Relaxed)
    }

    /// Whether temporary objects may exist, created by `on_connect` or by a closure.
    pub(crate) fn may_have_temporary(&self) -> bool {
        !self.kept.is_empty() || self.may_make_temporary()
    }

    /// Returns and clears whether a statement that writes was prepared, including a re-prepare after a schema change.
    pub(crate) fn take_prepared_write(&self) -> bool {
        self.prepared_write.load(Relaxed) && self.prepared_write.swap(false, Relaxed)
    }

    /// Whether a refusal is recorded that no error has reported yet, and this one may report it. A function that fails
    /// because of SQL that it runs may pass on the message without the code.
    pub(crate) fn has_refused_by(&self, error: &rusqlite::Error) -> bool {
        self.refused.load(Relaxed)
            && (primary_code(error) == Some(ffi::SQLITE_AUTH) || message(error).starts_with("not authorized"))
    }

    /// Replaces SQLite's bare "not authorized" by an error that names the refused statement and the alternative.
    /// `error` must come from this connection.
    pub(crate) fn explain(&self, error: rusqlite::Error) -> Error {
        if self.has_refused_by(&error)
            && let Some(Refusal { statement, instead }) = self.take_refusal()
        {
            return Error::refused(statement, instead);
        }
        match primary_code(&error) {
            Some(ffi::SQLITE_READONLY) if self.role == Role::Reader => {
                Error::refused("a statement that writes", WRITE_INSTEAD)
            }
            Some(ffi::SQLITE_ERROR) if error.to_string().contains("cannot VACUUM from within a transaction") => {
                let instead = if self.has_privilege(Privilege::Migration) {
                    "SQLite cannot run it inside a transaction: mark this direction of the migration to run \
                         outside one, with `transaction:false` after Dbmate's marker, `-- +goose NO TRANSACTION`, or \
                         Migration::without_transaction"
                } else {
                    "SQLite cannot run it inside a transaction, and a closure runs in one: call Store::vacuum, or \
                         Store::backup_compact for VACUUM INTO"
                };
                Error::refused("VACUUM", instead)
            }
            _ => Error::of_store(error),
        }
    }

    fn refuse(&self, statement: impl Into<String>, instead: &'static str) -> Permission {
        let refusal = Refusal {
            statement: statement.into(),
            instead,
        };
        *self.refusal.lock() = Some(refusal);
        self.refused.store(true, Relaxed);
        Permission::Deny
    }

    fn take_refusal(&self) -> Option<Refusal> {
        self.refused.store(false, Relaxed);
        self.refusal.lock().take()
    }
}
