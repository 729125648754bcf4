//! Opens every SQLite connection: the open flags, the PRAGMAs and the SQL guard. No other module opens one.
//!
//! SQLite reports no error for a PRAGMA that it does not know or refuses to set. So each PRAGMA is set, read back and
//! compared; one that did not take effect is an [`Error::Pragma`] that names it.

pub(crate) mod authorizer;
mod baseline;
pub(crate) mod c_api;
pub(crate) mod change_counters;
pub(crate) mod file;
pub(crate) mod file_lock;
pub(crate) mod interrupt;
pub(crate) mod open_file;
pub(crate) mod open_files;
pub(crate) mod wal_resync;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use r2d2::ManageConnection;
use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, MAIN_DB, OpenFlags, ffi};

use self::authorizer::SqlGuard;
use self::baseline::OwnHooks;
pub(crate) use self::baseline::{Baseline, Restored};
use self::file::{DatabaseFile, temporary_folder};
use self::interrupt::Interrupt;
use self::open_file::{Lease, OpenFile};
use crate::error::{Error, Result, extended_code, primary_code};
use crate::options::{Access, AutoVacuum, Durability, OnConnect, Role, Settings};
use crate::runtime::clock::later;
use crate::runtime::panic::caught;
use crate::telemetry::event::event;

/// Retry interval for the switch to WAL while another process has the file open.
const TRY_WAL: Duration = Duration::from_millis(5);

/// The first SQLite without the bug that can corrupt the index of a full-text table.
pub(crate) const FULL_TEXT_MENDED: i32 = 3_054_000;

/// The name of one full-text table, if the schema has any.
pub(crate) const FIRST_FULL_TEXT_TABLE: &str = "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND sql LIKE \
                                                'CREATE VIRTUAL TABLE%USING fts%' LIMIT 1";

/// Returns a row if this build has one mutex around all page caches.
pub(crate) const HAS_PAGE_CACHE_MUTEX: &str =
    "SELECT 1 FROM pragma_compile_options WHERE compile_options = 'ENABLE_MEMORY_MANAGEMENT'";

/// In memory. 1 would mean a file.
const TEMP_STORE: i32 = 2;

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

/// A connection to a private file, with its interrupt.
pub(crate) struct Private {
    pub(crate) conn: Connection,
    pub(crate) interrupt: Arc<Interrupt>,
}

/// Refuses an SQLite version that can corrupt the database.
///
/// SQLite 3.7.0 introduced the WAL-reset bug, <https://sqlite.org/wal.html#walresetbug>, and 3.51.3 fixed it; the fix
/// was backported to 3.50.7 and 3.44.6.
pub(crate) fn check_sqlite_version() -> Result<()> {
    if has_wal_reset_bug(rusqlite::version_number()) {
        return Err(Error::SqliteTooOld {
            version: rusqlite::version().into(),
        });
    }
    Ok(())
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
    let path = &file.path;
    let conn = open_to_write(path, options)?;
    let unsynced = keep_unsynced_wal(&conn, path)?;
    let hooks = prepare(&conn, options, Role::Writer, patience)?;
    // A power cut while the file was being created leaves a journal. The first read plays it back, and the file is new
    // again.
    first_look(&conn, path)?;
    let new = file.is_new()?;
    if new {
        init_new_file(&conn, path, options)?;
    }
    switch_to_wal(&conn, path, patience)?;
    refuse_readonly(&conn, path)?;
    // Declared after the connection, so an error from here on releases the locks before the connection closes.
    let open_file = OpenFile::new(file, options.access, later(Instant::now(), patience))?;
    let lease = open_file.lease().ok_or(Error::Closed)?;
    if unsynced {
        resync_wal(&conn, path)?;
    }
    if new {
        verify_new_file(&conn, options)?;
    }
    warn_about_fts(&conn);
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
fn resync_wal(conn: &Connection, path: &Path) -> Result<()> {
    execute(conn, path, "BEGIN IMMEDIATE")?;
    wal_resync::resync(path)?;
    execute(conn, path, "COMMIT")?;
    set_checkpoint_at_close(conn, true)
}

/// Sets what only a new file can be given. SQLite fixes both values when it writes the first page, which the switch to WAL
/// does.
fn init_new_file(conn: &Connection, path: &Path, options: &Settings) -> Result<()> {
    let auto_vacuum = auto_vacuum(options.auto_vacuum);
    execute(conn, path, &format!("PRAGMA page_size = {}", options.page_size))?;
    execute(conn, path, &format!("PRAGMA auto_vacuum = {auto_vacuum}"))
}

fn verify_new_file(conn: &Connection, options: &Settings) -> Result<()> {
    verify(conn, "page_size", options.page_size)?;
    verify(conn, "auto_vacuum", auto_vacuum(options.auto_vacuum))
}

fn refuse_readonly(conn: &Connection, path: &Path) -> Result<()> {
    if !conn.is_readonly(MAIN_DB).map_err(Error::not_started)? {
        return Ok(());
    }
    Err(Error::Open {
        path: path.into(),
        problem: "this process may read the file but not write it: change its owner or mode".into(),
        source: None,
    })
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

fn open_to_write(path: &Path, options: &Settings) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW
        | OpenFlags::SQLITE_OPEN_EXRESCODE;
    match options.access {
        Access::Shared => Connection::open_with_flags(path, flags),
        // The file's first connection decides whether the WAL index is on the heap. Readers use the default VFS and
        // share that index.
        Access::Exclusive => Connection::open_with_flags_and_vfs(path, flags, c"unix-excl"),
    }
    .map_err(|e| explain_open(path, e))
}

fn configure_writer(conn: Connection, lease: Lease, options: &Settings, hooks: OwnHooks) -> Result<GuardedConnection> {
    // Redeclared so that an error drops them in the right order.
    let (conn, lease) = (conn, lease);
    set_common(&conn, options)?;
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

/// Sets whether closing the file's last connection makes a checkpoint.
fn set_checkpoint_at_close(conn: &Connection, on: bool) -> Result<()> {
    configure(
        conn,
        "no_ckpt_on_close",
        DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE,
        !on,
    )
}

/// The factory of reading connections: `r2d2_sqlite`'s manager with read-only flags.
pub(crate) fn reader_source(path: &Path) -> SqliteConnectionManager {
    SqliteConnectionManager::file(path).with_flags(
        OpenFlags::SQLITE_OPEN_READ_ONLY
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_NOFOLLOW
            | OpenFlags::SQLITE_OPEN_EXRESCODE,
    )
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
    file.compare()?;
    let conn = source.connect().map_err(|e| explain_open(path, e))?;
    // Redeclared after the connection, so an error from here on releases the lease before the connection closes.
    let lease = lease;
    let hooks = prepare(&conn, options, Role::Reader, patience)?;
    first_look(&conn, path)?;
    // By now SQLite has opened the file and the WAL by name, so the comparisons before and after cover both opens.
    file.compare()?;
    set_common(&conn, options)?;
    // A read-only connection can still write another file, by `VACUUM INTO` or `ATTACH`.
    conn.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)
        .map_err(Error::not_started)?;
    set(&conn, "query_only", 1)?;
    install_guard(conn, lease, options, Role::Reader, hooks)
}

/// Opens a private copy of the database, to write it or to check it.
pub(crate) fn open_copy(path: &Path, options: &Settings) -> Result<Private> {
    open_copy_with(path, options, |_| Ok(()))
}

/// Runs `first` before [`Options::on_connect`], which may read the file.
fn open_copy_with(path: &Path, options: &Settings, first: impl FnOnce(&Connection) -> Result<()>) -> Result<Private> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW
        | OpenFlags::SQLITE_OPEN_EXRESCODE;
    let conn = Connection::open_with_flags(path, flags).map_err(|e| explain_open(path, e))?;
    first(&conn)?;
    let hooks = prepare(&conn, options, Role::Writer, options.busy_timeout)?;
    let interrupt = Interrupt::install(&conn, !hooks.has_trace()).map_err(Error::not_started)?;
    Ok(Private { conn, interrupt })
}

/// Opens a private copy of the database and makes it self-contained. Pages copied from a database in WAL mode mark the
/// copy as WAL, too, and a process with read access alone cannot open a WAL file in a folder that it may not write to.
pub(crate) fn open_copy_alone(path: &Path, options: &Settings) -> Result<Private> {
    let private = open_copy_with(path, options, |conn| {
        // "In exclusive locking mode, the wal-index is kept in heap memory", <https://sqlite.org/wal.html#noshm>: no `-shm`.
        set(conn, "locking_mode", "exclusive")
    })?;
    let conn = &private.conn;
    first_look(conn, path)?;
    // The caller syncs the whole copy at the end if it must be durable.
    set(conn, "synchronous", 0)?;
    set(conn, "journal_mode", "delete")?;
    set_for_copies(conn, options)?;
    Ok(private)
}

/// Opens a file as the source of a copy: a backup to restore.
///
/// A read-only connection would leave a `-shm` beside a file in WAL mode, so this one may write. SQLite recovers the
/// WAL or journal that a crash left, as in any other open.
pub(crate) fn open_original(path: &Path, options: &Settings) -> Result<Private> {
    let original = open_copy(path, options)?;
    let conn = &original.conn;
    first_look(conn, path)?;
    set_for_copies(conn, options)?;
    set(conn, "query_only", 1)?;
    Ok(original)
}

/// The schema is untrusted.
fn set_for_copies(conn: &Connection, options: &Settings) -> Result<()> {
    configure(conn, "trusted_schema", DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    configure(conn, "defensive", DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    set(conn, "cache_size", format!("-{}", options.cache_size / 1024))
}

/// Turns off the journal and syncing. For a new file, which is deleted on any error.
pub(crate) fn write_carelessly(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = OFF")
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
            "a closure forgot a prepared statement, so a connection stays open until the process ends"
        );
    }
}

/// SQLite's number for the level.
pub(crate) fn synchronous(durability: Durability) -> i64 {
    match durability {
        Durability::Normal => 1,
        Durability::Full => 2,
    }
}

/// Restores the settings of the writing connection that an exclusive job may have changed.
pub(crate) fn set_for_jobs(conn: &Connection, options: &Settings) -> Result<()> {
    set(conn, "foreign_keys", i32::from(options.foreign_keys))?;
    set(conn, "legacy_alter_table", 0)?;
    set(conn, "temp_store", TEMP_STORE)
}

/// Runs a `VACUUM`, which builds its copy of the database in a temporary database. That is a file for the duration, or
/// it would take as much memory as the database has bytes. It stays in memory where no folder can hold the file, and
/// where temporary objects exist: "when the temp_store setting is changed, all existing temporary tables, indices,
/// triggers, and views are immediately deleted", <https://sqlite.org/pragma.html#pragma_temp_store>.
///
/// If the setting cannot be restored here, [`set_for_jobs`] reports it.
pub(crate) fn with_temporary_files<T>(conn: &Connection, guard: &SqlGuard, vacuum: impl FnOnce() -> T) -> T {
    let objects = "SELECT EXISTS (SELECT 1 FROM temp.sqlite_schema)";
    let has_objects = guard.as_internal(|| conn.query_row(objects, [], |row| row.get(0)));
    if has_objects.unwrap_or(true) || temporary_folder().is_none() {
        return vacuum();
    }
    let store_in = |place: i32| guard.as_internal(|| conn.execute_batch(&format!("PRAGMA temp_store = {place}")));
    let _ = store_in(1);
    let done = vacuum();
    let _ = store_in(TEMP_STORE);
    done
}

/// The settings in effect on the writing connection, as SQLite reports them. (After a write with a stricter durability,
/// `synchronous` is at `level`; that is reported as the configured durability.)
pub(crate) fn settings(conn: &Connection, options: &Settings, level: Durability) -> BTreeMap<&'static str, String> {
    const NAMES: &[&str] = &[
        "auto_vacuum",
        "busy_timeout",
        "cache_size",
        "encoding",
        "foreign_keys",
        "journal_mode",
        "journal_size_limit",
        "locking_mode",
        "max_page_count",
        "mmap_size",
        "page_size",
        "recursive_triggers",
        "secure_delete",
        "synchronous",
        "temp_store",
        "trusted_schema",
        "wal_autocheckpoint",
    ];
    let read = |name: &&'static str| Some((*name, read_back(conn, name).ok()?));
    let mut settings: BTreeMap<_, _> = NAMES.iter().filter_map(read).collect();
    if settings.get("synchronous") == Some(&synchronous(level).to_string()) {
        settings.insert("synchronous", synchronous(options.durability).to_string());
    }
    settings
}

/// Configures the connection before the first read of the file. Returns which hooks `on_connect` set.
fn prepare(conn: &Connection, options: &Settings, role: Role, patience: Duration) -> Result<OwnHooks> {
    // Set first, so that the following statements can wait for a lock.
    set(conn, "busy_timeout", patience.as_millis())?;
    conn.set_prepared_statement_cache_capacity(options.statement_cache_capacity);
    let Some(OnConnect(on_connect)) = &options.on_connect else {
        return Ok(OwnHooks::default());
    };
    // A later change would delete the temporary objects of `on_connect`.
    execute_pragma(conn, "temp_store", TEMP_STORE)?;
    // Runs before anything that reads the file, because it may set the encryption key.
    let hooks = OwnHooks::of(conn, || {
        on_connect(conn, role).map_err(|error| error.with_origin(|source| c_api::gave_last(conn, source)))
    })?;
    if !conn.is_autocommit() {
        return Err(Error::Options {
            option: "on_connect",
            problem: "it left a transaction open: COMMIT it, or do in Store::write what is not for every connection"
                .into(),
        });
    }
    set(conn, "busy_timeout", patience.as_millis())?;
    Ok(hooks)
}

/// Reads the file for the first time, so that an error is reported for the file and not for some PRAGMA.
fn first_look(conn: &Connection, path: &Path) -> Result<()> {
    read_back(conn, "journal_mode")
        .map(drop)
        .map_err(|e| explain_open(path, e))
}

/// Applies the settings that every connection has.
fn set_common(conn: &Connection, options: &Settings) -> Result<()> {
    set(conn, "busy_timeout", options.busy_timeout.as_millis())?;
    configure(conn, "trusted_schema", DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    configure(conn, "dqs_dml", DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
    configure(conn, "dqs_ddl", DbConfig::SQLITE_DBCONFIG_DQS_DDL, false)?;
    configure(conn, "defensive", DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    // A negative size is in KiB, a positive one in pages.
    set(conn, "cache_size", format!("-{}", options.cache_size / 1024))?;
    set(conn, "mmap_size", options.mmap_size)?;
    set(conn, "foreign_keys", i32::from(options.foreign_keys))?;
    set(conn, "temp_store", TEMP_STORE)
}

/// Reads the file for the first time, which takes the first lock, and switches to WAL if the file is not in WAL mode
/// yet.
///
/// The switch needs a moment with no other connection. SQLite does not wait for that moment and returns "database is
/// locked" at once, so the switch is retried until the deadline.
fn switch_to_wal(conn: &Connection, path: &Path, patience: Duration) -> Result<()> {
    let until = later(Instant::now(), patience);
    loop {
        match try_wal(conn, path) {
            Err(Error::Pragma {
                source: Some(source), ..
            }) if primary_code(&source) == Some(ffi::SQLITE_BUSY) && Instant::now() < until => {
                thread::sleep(TRY_WAL);
            }
            other => return other,
        }
    }
}

fn try_wal(conn: &Connection, path: &Path) -> Result<()> {
    let mode = read_back(conn, "journal_mode").map_err(|e| explain_open(path, e))?;
    // A write transaction without writes creates the WAL and its index, and takes the lock that excludes other
    // processes.
    let use_log = || execute(conn, path, "BEGIN IMMEDIATE; COMMIT");
    if mode == "wal" {
        return use_log();
    }
    let failed = |got: String, source: Option<rusqlite::Error>| Error::Pragma {
        name: "journal_mode",
        wanted: "wal".into(),
        got,
        hint: "could not switch to WAL, since another process uses the file in rollback mode (or the file system has \
               no shared memory): stop that process for the moment of the switch, then open again",
        source: source.map(Arc::new),
    };
    match switch(conn) {
        Ok(mode) if mode == "wal" => use_log(),
        Ok(mode) => Err(failed(mode, None)),
        Err(e) if primary_code(&e) == Some(ffi::SQLITE_BUSY) => Err(failed(e.to_string(), Some(e))),
        Err(e) => Err(explain_open(path, e)),
    }
}

/// SQLite returns "wal" before it commits the change of the file header, so the statement is stepped to its end.
/// `query_row` would reset it after the row and lose the error of a commit that fails there; the file would stay in
/// rollback mode.
fn switch(conn: &Connection) -> rusqlite::Result<String> {
    let mut statement = conn.prepare("PRAGMA journal_mode = WAL")?;
    let mut rows = statement.query([])?;
    let mode = rows.next()?.ok_or(rusqlite::Error::QueryReturnedNoRows)?.get(0)?;
    while rows.next()?.is_some() {}
    Ok(mode)
}

fn set(conn: &Connection, name: &'static str, value: impl ToString) -> Result<()> {
    let value = value.to_string();
    execute_pragma(conn, name, &value)?;
    verify(conn, name, value)
}

fn execute_pragma(conn: &Connection, name: &'static str, value: impl ToString) -> Result<()> {
    let value = value.to_string();
    conn.execute_batch(&format!("PRAGMA {name} = {value}"))
        .map_err(|e| pragma_error(name, value, e.to_string(), Some(e)))
}

fn verify(conn: &Connection, name: &'static str, wanted: impl ToString) -> Result<()> {
    let wanted = wanted.to_string();
    match read_back(conn, name) {
        Ok(got) if got == wanted => Ok(()),
        Ok(got) => Err(pragma_error(name, wanted, got, None)),
        Err(e) => Err(pragma_error(name, wanted, e.to_string(), Some(e))),
    }
}

fn configure(conn: &Connection, name: &'static str, config: DbConfig, wanted: bool) -> Result<()> {
    match conn.set_db_config(config, wanted) {
        Ok(got) if got == wanted => Ok(()),
        Ok(got) => Err(pragma_error(name, wanted.to_string(), got.to_string(), None)),
        Err(e) => Err(pragma_error(name, wanted.to_string(), e.to_string(), Some(e))),
    }
}

/// The value of a PRAGMA, as text.
pub(crate) fn read_back(conn: &Connection, name: &str) -> rusqlite::Result<String> {
    conn.query_row(&format!("PRAGMA {name}"), [], |row| {
        Ok(match row.get_ref(0)? {
            rusqlite::types::ValueRef::Integer(n) => n.to_string(),
            other => other.as_str()?.to_owned(),
        })
    })
}

fn pragma_error(name: &'static str, wanted: String, got: String, source: Option<rusqlite::Error>) -> Error {
    let failed = source.as_ref().and_then(primary_code);
    let hint = match name {
        _ if matches!(
            failed,
            Some(ffi::SQLITE_NOMEM | ffi::SQLITE_IOERR | ffi::SQLITE_CORRUPT)
        ) =>
        {
            "SQLite failed, whatever the setting: look at the memory of the process, and at the disk, then try again"
        }
        "mmap_size" => "this SQLite was compiled with a lower SQLITE_MAX_MMAP_SIZE: lower Options::mmap_size",
        "foreign_keys" => "this SQLite was compiled without foreign keys: link another, or use the `bundled` feature",
        _ => {
            "the linked SQLite, or an Options::on_connect, does not let it be set: use the `bundled` feature, look \
             at on_connect"
        }
    };
    Error::Pragma {
        name,
        wanted,
        got,
        hint,
        source: source.map(Arc::new),
    }
}

fn execute(conn: &Connection, path: &Path, sql: &str) -> Result<()> {
    conn.execute_batch(sql).map_err(|e| explain_open(path, e))
}

/// Translates SQLite's error codes while a file is being opened.
fn explain_open(path: &Path, source: rusqlite::Error) -> Error {
    let problem = match primary_code(&source) {
        Some(ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED) => {
            return Error::InUse {
                path: path.into(),
                source,
            };
        }
        Some(ffi::SQLITE_NOTADB) => "it is not an SQLite database, or it is encrypted",
        Some(ffi::SQLITE_CORRUPT) => "it is damaged: restore a backup that was checked",
        Some(ffi::SQLITE_CANTOPEN | ffi::SQLITE_PERM | ffi::SQLITE_AUTH)
            if extended_code(&source) == Some(ffi::SQLITE_CANTOPEN_SYMLINK) =>
        {
            "it is a symbolic link: give the target's path"
        }
        Some(ffi::SQLITE_CANTOPEN | ffi::SQLITE_PERM) => {
            "this process may not read and write the file, its -wal and -shm, or make files in its folder: check \
             owner and mode"
        }
        Some(ffi::SQLITE_IOERR) => {
            "reading it failed: look at the disk, and whether its -wal and -shm are files of the same owner"
        }
        Some(ffi::SQLITE_READONLY) => {
            "the file, its folder or its file system is read-only, and a WAL must be written: check owner, mode and \
             mount"
        }
        _ => return Error::not_started(source),
    };
    Error::Open {
        path: path.into(),
        problem: format!("{problem} ({source})"),
        source: Some(Box::new(source)),
    }
}

fn auto_vacuum(mode: AutoVacuum) -> i64 {
    match mode {
        AutoVacuum::None => 0,
        AutoVacuum::Full => 1,
        AutoVacuum::Incremental => 2,
    }
}

fn warn_about_fts(conn: &Connection) {
    if rusqlite::version_number() >= FULL_TEXT_MENDED {
        return;
    }
    let table = conn.query_row(FIRST_FULL_TEXT_TABLE, [], |row| row.get::<_, String>(0));
    if let Ok(table) = table {
        event!(
            warn,
            "larder::open",
            { "db.collection.name" = %table, sqlite = rusqlite::version() },
            "the schema has full-text tables and SQLite is older than 3.54.0, which mends their index: \
             check them ('integrity-check') and update when you can"
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

    /// Regression: a store that was out of memory reported that SQLite was compiled without foreign keys (found by the
    /// `oom` suite).
    #[test]
    fn memory_error_in_pragma_is_reported_as_such() {
        let hint = |code| {
            let source = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
            pragma_error("foreign_keys", "1".into(), source.to_string(), Some(source)).to_string()
        };
        assert!(hint(ffi::SQLITE_NOMEM).contains("look at the memory"));
        assert!(hint(ffi::SQLITE_AUTH).contains("compiled without"));
    }

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
