//! Opens every SQLite connection: the open flags, the PRAGMAs and the SQL guard. No other module opens one.
//!
//! SQLite reports no error for a PRAGMA that it does not know or refuses to set. So each PRAGMA is set, read back and
//! compared; one that did not take effect is an [`Error::Pragma`] that names it.

pub(crate) mod authorizer;
mod baseline;
pub(crate) mod c_api;
pub(crate) mod cause;
pub(crate) mod change_counters;
mod connect;
pub(crate) mod constraint;
mod copy;
pub(crate) mod file;
pub(crate) mod file_lock;
pub(crate) mod filesystem;
pub(crate) mod forks;
#[cfg(feature = "replicate")]
pub(crate) mod in_use;
pub(crate) mod interrupt;
pub(crate) mod known_columns;
mod on_connect;
mod open_error;
pub(crate) mod open_file;
pub(crate) mod open_files;
mod pragma;
#[cfg(feature = "replicate")]
pub(crate) mod raw_pages;
mod read_only;
pub(crate) mod sql_text;
pub(crate) mod stored_sql;
pub(crate) mod temp_folder;
pub(crate) mod transaction_control;
pub(crate) mod wal_index;
mod wal_mode;
pub(crate) mod wal_resync;

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::limits::Limit;
use rusqlite::{Connection, MAIN_DB, OpenFlags, ffi};

use self::authorizer::SqlGuard;
use self::baseline::OwnHooks;
pub(crate) use self::baseline::{Baseline, Restored};
pub(crate) use self::connect::check_key;
use self::connect::{connect, connect_by, explain_key};
#[cfg(any(feature = "postgres", feature = "replicate"))]
pub(crate) use self::copy::map_whole;
pub(crate) use self::copy::{
    Private, open_copy_alone, open_memory, open_original, open_other, open_target, set_up_memory, write_carelessly,
};
use self::file::DatabaseFile;
use self::interrupt::Interrupt;
use self::open_error::{execute, explain_open, refuse};
use self::open_file::{Lease, OpenFile};
use self::pragma::{
    TEMP_STORE, accept_double_quoted_strings, auto_vacuum, execute_pragma, set, set_checkpoint_at_close, set_common,
    trust_schema, verify,
};
pub(crate) use self::pragma::{page_size, read_back, set_for_jobs, settings, synchronous, with_temporary_files};
use self::stored_sql::SchemaObject;
use self::wal_mode::switch_to_wal;
use crate::error::{Error, Result, extended_code};
use crate::options::{Access, Role, Settings};
use crate::runtime::clock::later;
use crate::runtime::panic::caught;
use crate::telemetry::event::event;
use crate::telemetry::stats::ReadOnly;

/// The first SQLite without the bug that can corrupt the index of a full-text table.
pub(crate) const FULL_TEXT_MENDED: i32 = 3_054_000;

/// The name of one full-text table, if the schema has any.
pub(crate) const FIRST_FULL_TEXT_TABLE: &str = "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND sql LIKE \
                                                'CREATE VIRTUAL TABLE%USING fts%' LIMIT 1";

/// Returns a row if this build has one mutex around all page caches.
pub(crate) const HAS_PAGE_CACHE_MUTEX: &str =
    "SELECT 1 FROM pragma_compile_options WHERE compile_options = 'ENABLE_MEMORY_MANAGEMENT'";

/// A connection with its SQL guard and its interrupt.
pub(crate) struct GuardedConnection {
    /// The settings that the connection was opened with. Dropped before the connection.
    pub(crate) baseline: Baseline,
    /// Released before the connection closes: fields are dropped in this order.
    pub(crate) lease: Lease,
    pub(crate) conn: Connection,
    pub(crate) guard: Arc<SqlGuard>,
    pub(crate) interrupt: Arc<Interrupt>,
}

/// Called before the process uses SQLite. Has forks seen from now on. Refuses an SQLite version that can corrupt the
/// database, and a forked child in which SQLite would hang (`forks.rs`).
///
/// SQLite 3.7.0 introduced the WAL-reset bug, <https://sqlite.org/wal.html#walresetbug>, and 3.51.3 fixed it; the fix
/// was backported to 3.50.7 and 3.44.6.
pub(crate) fn check_sqlite(path: &Path) -> Result<()> {
    if has_wal_reset_bug(rusqlite::version_number()) {
        return Err(Error::SqliteTooOld {
            version: rusqlite::version().into(),
        });
    }
    forks::see();
    forks::check(path)
}

fn has_wal_reset_bug(version: i32) -> bool {
    !matches!(version, 3_044_006..=3_044_999 | 3_050_007..=3_050_999 | 3_051_003..)
}

/// Opens the writing connection and takes its first lock.
pub(crate) fn open_writer(
    file: &DatabaseFile,
    options: &Settings,
    patience: Duration,
) -> Result<(Arc<OpenFile>, GuardedConnection)> {
    begin_to_write(file, options, patience).map_err(|error| explain_key(&file.path, options, error))
}

fn begin_to_write(
    file: &DatabaseFile,
    options: &Settings,
    patience: Duration,
) -> Result<(Arc<OpenFile>, GuardedConnection)> {
    let path = &file.path;
    let was_new = file.is_new()?;
    let conn = open_to_write(path, options)?;
    let unsynced = keep_unsynced_wal(&conn, path)?;
    let hooks = prepare(&conn, options, Role::Writer, patience)?;
    // A process that was killed while it created the file leaves a journal. The first read plays it back, and the file is
    // new again.
    first_look(&conn, path)?;
    let new = file.is_new()?;
    if new && !was_new {
        // This connection keeps the settings of the file that it has seen.
        drop((hooks, conn));
        return begin_to_write(file, options, patience);
    }
    if new {
        init_new_file(&conn, path, options)?;
    }
    switch_to_wal(&conn, path, patience)?;
    refuse_readonly(&conn, path)?;
    // Declared after the connection, so an error from here on releases the locks before the connection closes.
    let open_file = OpenFile::new(file, options.access, later(Instant::now(), patience))?;
    let lease = open_file.lease().ok_or(Error::Closed)?;
    if unsynced {
        resync_wal(&conn, path, options.closes_with_checkpoint())?;
    }
    if new {
        verify_new_file(&conn, options)?;
    }
    if !options.double_quoted_strings {
        warn_about_strings(&conn, path);
    }
    hint_at_memory_management(&conn);
    Ok((open_file, configure_writer(conn, lease, options, hooks)?))
}

/// Says whether the WAL is marked as one whose sync failed. If opening fails, closing this connection must not checkpoint
/// such a WAL.
fn keep_unsynced_wal(conn: &Connection, path: &Path) -> Result<bool> {
    let unsynced = wal_resync::is_marked(path)?;
    if unsynced {
        set_checkpoint_at_close(conn, false)?;
    }
    Ok(unsynced)
}

/// Writes and syncs a marked WAL again, under the lock of writers.
fn resync_wal(conn: &Connection, path: &Path, checkpoint_at_close: bool) -> Result<()> {
    execute(conn, path, "BEGIN IMMEDIATE")?;
    wal_resync::resync(path)?;
    execute(conn, path, "COMMIT")?;
    set_checkpoint_at_close(conn, checkpoint_at_close)
}

/// Sets what only a new file can be given. SQLite fixes both values when it writes the first page, which the switch to WAL
/// does.
fn init_new_file(conn: &Connection, path: &Path, options: &Settings) -> Result<()> {
    let auto_vacuum = auto_vacuum(options.auto_vacuum);
    execute(conn, path, &format!("PRAGMA main.page_size = {}", options.page_size))?;
    execute(conn, path, &format!("PRAGMA main.auto_vacuum = {auto_vacuum}"))
}

fn verify_new_file(conn: &Connection, options: &Settings) -> Result<()> {
    verify(conn, "page_size", options.page_size)?;
    verify(conn, "auto_vacuum", auto_vacuum(options.auto_vacuum))
}

fn refuse_readonly(conn: &Connection, path: &Path) -> Result<()> {
    if !conn.is_readonly(MAIN_DB).map_err(Error::not_started)? {
        return Ok(());
    }
    let cause = cause::of_files(path, ffi::SQLITE_READONLY, &io::Error::from(io::ErrorKind::Other));
    let problem = cause.unwrap_or_else(|| "SQLite could open the file only to read it".to_owned());
    Err(refuse(path, &problem))
}

/// Opens a new writing connection, to replace one that a closure left in a state that cannot be restored.
pub(crate) fn open_writer_again(file: &Arc<OpenFile>, options: &Settings) -> Result<GuardedConnection> {
    let path = file.path();
    let lease = file.lease().ok_or(Error::Closed)?;
    file.compare()?;
    let conn = open_to_write(path, options)?;
    // Redeclared after the connection, so an error from here on releases the lease before the connection closes.
    let lease = lease;
    let hooks = prepare(&conn, options, Role::Writer, options.busy_timeout)?;
    first_look(&conn, path)?;
    verify(&conn, "journal_mode", "wal")?;
    // For the same reason as in `open_reader`.
    file.compare()?;
    configure_writer(conn, lease, options, hooks)
}

/// A connection that moves the log into the database file and does nothing else. `on_connect` does not run for it.
pub(crate) struct CheckpointConnection {
    /// Released before the connection closes: fields are dropped in this order.
    _lease: Lease,
    conn: Connection,
}

impl CheckpointConnection {
    pub(crate) fn conn(&self) -> &Connection {
        &self.conn
    }
}

/// Opens a connection for checkpoints beside the writing one, which is open.
pub(crate) fn open_for_checkpoints(
    file: &Arc<OpenFile>,
    options: &Settings,
    patience: Duration,
) -> Result<CheckpointConnection> {
    let path = file.path();
    let lease = file.lease().ok_or(Error::Closed)?;
    file.compare()?;
    let opened = CheckpointConnection {
        _lease: lease,
        conn: open_to_write(path, options)?,
    };
    let conn = opened.conn();
    set_checkpoint_at_close(conn, false)?;
    set(conn, "busy_timeout", patience.as_millis())?;
    // As in `prepare_for`: SQLite loads the schema.
    trust_schema(conn, true)?;
    accept_double_quoted_strings(conn, true)?;
    first_look(conn, path)?;
    verify(conn, "journal_mode", "wal")?;
    // For the same reason as in `open_reader`.
    file.compare()?;
    set(conn, "synchronous", synchronous(options.durability))?;
    set(conn, "wal_autocheckpoint", 0)?;
    set(conn, "mmap_size", 0)?;
    // A checkpoint waits for nothing.
    set(conn, "busy_timeout", 0)?;
    Ok(opened)
}

fn open_to_write(path: &Path, options: &Settings) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW
        | OpenFlags::SQLITE_OPEN_EXRESCODE;
    let vfs = match options.access {
        Access::Shared => None,
        // The file's first connection decides whether the WAL index is on the heap. Readers use the default VFS and
        // share that index.
        Access::Exclusive => Some(c"unix-excl"),
    };
    let conn = connect(path, flags, vfs, options)?;
    if !options.closes_with_checkpoint() {
        // SQLite would move a log that is not kept yet, or that is another process's to move, into the file, should
        // opening fail or the connection be replaced. The connections of readers cannot.
        set_checkpoint_at_close(&conn, false)?;
    }
    Ok(conn)
}

fn configure_writer(conn: Connection, lease: Lease, options: &Settings, hooks: OwnHooks) -> Result<GuardedConnection> {
    // Redeclared so that an error drops them in the right order.
    let (conn, lease) = (conn, lease);
    set_common(&conn, options, hooks.trusts_schema())?;
    set(&conn, "synchronous", synchronous(options.durability))?;
    set(&conn, "journal_size_limit", options.journal_size_limit)?;
    set(&conn, "wal_autocheckpoint", 0)?;
    install_guard(conn, lease, options, Role::Writer, hooks)
}

/// Installs the SQL guard on a configured connection, and records its settings.
fn install_guard(
    conn: Connection,
    lease: Lease,
    options: &Settings,
    role: Role,
    hooks: OwnHooks,
) -> Result<GuardedConnection> {
    // Redeclared so that an error drops them in the right order.
    let (conn, lease) = (conn, lease);
    let kept = if baseline::may_have_temporary(options, role) {
        temporary_objects(&conn).map_err(Error::not_started)?
    } else {
        BTreeSet::new()
    };
    let guard = SqlGuard::install(&conn, role, kept).map_err(Error::not_started)?;
    let baseline = Baseline::read(&conn, &guard, options, hooks)?;
    let interrupt = Interrupt::install(&conn, !hooks.has_trace()).map_err(Error::not_started)?;
    Ok(GuardedConnection {
        baseline,
        lease,
        conn,
        guard,
        interrupt,
    })
}

fn temporary_objects(conn: &Connection) -> rusqlite::Result<BTreeSet<String>> {
    let mut statement = conn.prepare("SELECT name FROM temp.sqlite_schema")?;
    let names = statement.query_map([], |row| row.get(0))?;
    names.collect()
}

/// The factory of connections that read the files.
pub(crate) fn reader_source(file: &OpenFile) -> SqliteConnectionManager {
    read_only::source(file.path(), file.read_only())
}

/// The settings of the connections of a store that only reads. Snapshots map no memory (`read_only.rs`), and neither does
/// a file that another process may yet replace under its name.
pub(crate) fn seen_with(options: &Settings, path: &Path, seen: ReadOnly) -> Settings {
    let mmap_size = match seen {
        ReadOnly::Live if !filesystem::copies_at_first_write(path) => options.mmap_size,
        ReadOnly::Live | ReadOnly::Snapshot | ReadOnly::SnapshotWithLog => 0,
    };
    Settings {
        mmap_size,
        ..options.clone()
    }
}

/// Opens the first connection of a store that only reads, and finds out how it can be read (`read_only.rs`).
pub(crate) fn open_only_to_read(
    file: &DatabaseFile,
    options: &Settings,
    patience: Duration,
) -> Result<(Arc<OpenFile>, GuardedConnection)> {
    begin_to_read(file, options, patience).map_err(|error| explain_key(&file.path, options, error))
}

fn begin_to_read(
    file: &DatabaseFile,
    options: &Settings,
    patience: Duration,
) -> Result<(Arc<OpenFile>, GuardedConnection)> {
    let path = &file.path;
    if let Some(problem) = cause::unreadable(path) {
        return Err(refuse(path, &problem));
    }
    let connect = |seen| {
        connect_reader(
            &read_only::source(path, Some(seen)),
            path,
            Some(seen),
            options,
            patience,
        )
    };
    let as_snapshot = |(seen, frozen)| -> Result<_> { Ok((seen, Some(frozen), connect(seen)?)) };
    let (seen, frozen, (conn, hooks)) = match read_only::of_others(file, options)? {
        Some(snapshot) => as_snapshot(snapshot),
        None => match connect(ReadOnly::Live) {
            Ok(connected) => Ok((ReadOnly::Live, None, connected)),
            Err(error) => read_only::snapshot(path, &error)?.map_or(Err(error), as_snapshot),
        },
    }?;
    let has_log = seen == ReadOnly::Live && read_back(&conn, "journal_mode").map_err(Error::not_started)? == "wal";
    let until = later(Instant::now(), patience);
    let open_file = OpenFile::only_to_read(file, seen, frozen, has_log, until)?;
    open_file.unchanged()?;
    let lease = open_file.lease().ok_or(Error::Closed)?;
    if !options.double_quoted_strings {
        warn_about_strings(&conn, path);
    }
    hint_at_memory_management(&conn);
    let reader = configure_reader(conn, lease, &seen_with(options, path, seen), hooks)?;
    Ok((open_file, reader))
}

/// Opens a reading connection.
pub(crate) fn open_reader(
    source: &SqliteConnectionManager,
    file: &Arc<OpenFile>,
    options: &Settings,
    patience: Duration,
) -> Result<GuardedConnection> {
    let path = file.path();
    let lease = file.lease().ok_or(Error::Closed)?;
    let compare = || file.may_be_read().and_then(|()| file.compare());
    compare()?;
    let (conn, hooks) = connect_reader(source, path, file.read_only(), options, patience)?;
    // Redeclared after the connection, so an error from here on releases the lease before the connection closes.
    let lease = lease;
    // By now SQLite has opened the file and the WAL by name, so the comparisons before and after cover both opens.
    compare()?;
    configure_reader(conn, lease, options, hooks)
}

/// Opens a connection that reads, up to the first look at the file. `seen` as for a store that only reads.
fn connect_reader(
    source: &SqliteConnectionManager,
    path: &Path,
    seen: Option<ReadOnly>,
    options: &Settings,
    patience: Duration,
) -> Result<(Connection, OwnHooks)> {
    let conn = connect_by(source, path, options)?;
    if seen.is_some() {
        // Without locks, closing would move the log into the file.
        set_checkpoint_at_close(&conn, false)?;
    }
    if seen == Some(ReadOnly::SnapshotWithLog) {
        // "In exclusive locking mode, the wal-index is kept in heap memory", <https://sqlite.org/wal.html#noshm>. Set
        // before `on_connect`, which may read the file.
        set(&conn, "locking_mode", "exclusive")?;
    }
    let hooks = prepare(&conn, options, Role::Reader, patience)?;
    match read_back(&conn, "journal_mode") {
        Ok(_) => Ok((conn, hooks)),
        Err(e) if seen.is_some() && extended_code(&e) == Some(ffi::SQLITE_READONLY_ROLLBACK) => {
            Err(read_only::hot_journal(path))
        }
        Err(e) => Err(explain_open(path, e)),
    }
}

fn configure_reader(conn: Connection, lease: Lease, options: &Settings, hooks: OwnHooks) -> Result<GuardedConnection> {
    // Redeclared so that an error drops them in the right order.
    let (conn, lease) = (conn, lease);
    set_common(&conn, options, hooks.trusts_schema())?;
    // A read-only connection can still write another file, by `VACUUM INTO` or `ATTACH`.
    conn.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)
        .map_err(Error::not_started)?;
    set(&conn, "query_only", 1)?;
    install_guard(conn, lease, options, Role::Reader, hooks)
}

/// Closes a connection for good.
///
/// SQLite refuses to close a connection with open statements. Only a closure that leaked one (`std::mem::forget`)
/// causes that. The descriptors then stay open until the process ends. The connection holds no snapshot, so it blocks
/// nothing.
///
/// Closing drops the hooks of user code, which may panic. The connection closes all the same.
pub(crate) fn close(conn: Connection) {
    if let Some(Err(error)) = caught(|| conn.close().map_err(|(_, error)| error)) {
        event!(
            warn,
            "larder::close",
            { "db.response.status_code" = extended_code(&error) },
            "a closure leaked a prepared statement, so a connection stays open until the process ends"
        );
    }
}

/// Configures the connection before the first read of the file. Returns which hooks `on_connect` set.
fn prepare(conn: &Connection, options: &Settings, role: Role, patience: Duration) -> Result<OwnHooks> {
    prepare_for(conn, options, role, false, patience)
}

/// `is_original` for a file that must stay as it is.
fn prepare_for(
    conn: &Connection,
    options: &Settings,
    role: Role,
    is_original: bool,
    patience: Duration,
) -> Result<OwnHooks> {
    // Set first, so that the following statements can wait for a lock.
    set(conn, "busy_timeout", patience.as_millis())?;
    conn.set_prepared_statement_cache_capacity(options.statement_cache_capacity);
    let Some(on_connect) = &options.on_connect else {
        trust_schema(conn, true)?;
        return Ok(OwnHooks::none(options.trusted_schema));
    };
    // Unless SQLite was built otherwise, it trusts the schema, and nothing would show that `on_connect` wants that.
    trust_schema(conn, options.trusted_schema)?;
    // A later change would delete the temporary objects of `on_connect`.
    execute_pragma(conn, "temp_store", TEMP_STORE)?;
    // Runs before anything that reads the file, because it may set the encryption key.
    let hooks = on_connect::run(conn, on_connect, role, is_original)?;
    set(conn, "busy_timeout", patience.as_millis())?;
    // As SQLite loads the schema, it takes an unsafe function for damage. `set_common` sets what statements may call.
    trust_schema(conn, true)?;
    Ok(hooks)
}

/// Reads the file for the first time, so that an error is reported for the file and not for some PRAGMA.
fn first_look(conn: &Connection, path: &Path) -> Result<()> {
    read_back(conn, "journal_mode")
        .map(drop)
        .map_err(|e| explain_open(path, e))
}

/// A damaged schema is reported elsewhere.
fn warn_about_strings(conn: &Connection, path: &Path) {
    let found = stored_sql::with_strings(conn).unwrap_or_default();
    if found.is_empty() {
        return;
    }
    let objects = stored_sql::names(found.iter());
    if found.iter().any(SchemaObject::is_code) {
        event!(
            warn,
            "larder::open",
            path,
            { objects },
            "the schema has strings in double quotes, so those of these objects that are views or triggers fail: create \
             them again with single quotes, or set Options::double_quoted_strings"
        );
    } else {
        event!(
            info,
            "larder::open",
            path,
            { objects },
            "tables or indexes have strings in double quotes: they work, but a VACUUM by another program may fail"
        );
    }
}

fn hint_at_memory_management(conn: &Connection) {
    if conn.query_row(HAS_PAGE_CACHE_MUTEX, [], |_| Ok(())).is_ok() {
        event!(
            info,
            "larder::open",
            {},
            "SQLite was built with SQLITE_ENABLE_MEMORY_MANAGEMENT, one mutex around all page caches: \
             set LIBSQLITE3_FLAGS = \"-USQLITE_ENABLE_MEMORY_MANAGEMENT\" in .cargo/config.toml for \
             faster concurrent reads"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_with_the_wal_reset_bug_are_refused() {
        for bad in [
            3_007_000, 3_040_001, 3_044_005, 3_045_000, 3_050_006, 3_051_000, 3_051_002,
        ] {
            assert!(has_wal_reset_bug(bad), "{bad}");
        }
        for good in [
            3_044_006, 3_044_007, 3_050_007, 3_051_003, 3_053_002, 3_054_000, 4_000_000,
        ] {
            assert!(!has_wal_reset_bug(good), "{good}");
        }
    }
}
