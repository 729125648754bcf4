//! PRAGMAs: each one is set, read back and compared.
//!
//! SQLite returns no error for a PRAGMA that it does not know or will not set. One that did not take effect is an
//! [`Error::Pragma`] that names it.
//!
//! Each names `main`. Without a name, `journal_mode`, `locking_mode`, `mmap_size` and others also set the databases that
//! [`on_connect`](crate::Options::on_connect) has attached.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ffi};

use super::authorizer::SqlGuard;
use super::cause::explained;
use super::filesystem::temporary_folder;
use crate::error::{Error, Result, primary_code};
use crate::options::{AutoVacuum, Durability, Settings};

/// In memory. 1 would mean a file.
pub(super) const TEMP_STORE: i32 = 2;

/// Sets whether closing the file's last connection makes a checkpoint.
pub(super) fn set_checkpoint_at_close(conn: &Connection, on: bool) -> Result<()> {
    configure(
        conn,
        "no_ckpt_on_close",
        DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE,
        !on,
    )
}

/// SQLite's number for the level.
pub(crate) fn synchronous(durability: Durability) -> i64 {
    match durability {
        Durability::Normal => 1,
        Durability::Full | Durability::Replicated => 2,
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
/// where the database is encrypted, because SQLite sorts in temporary files that are not; and
/// where temporary objects exist: "when the temp_store setting is changed, all existing temporary tables, indices,
/// triggers, and views are immediately deleted", <https://sqlite.org/pragma.html#pragma_temp_store>.
///
/// If the setting cannot be restored here, [`set_for_jobs`] reports it.
pub(crate) fn with_temporary_files<T>(conn: &Connection, guard: &SqlGuard, vacuum: impl FnOnce() -> T) -> T {
    let objects = "SELECT EXISTS (SELECT 1 FROM temp.sqlite_schema)";
    let has_objects = guard.as_internal(|| conn.query_row(objects, [], |row| row.get(0)));
    if has_objects.unwrap_or(true) || temporary_folder().is_none() || is_encrypted(conn, guard) {
        return vacuum();
    }
    let store_in = |place: i32| guard.as_internal(|| conn.execute_batch(&format!("PRAGMA temp_store = {place}")));
    let _ = store_in(1);
    let done = vacuum();
    let _ = store_in(TEMP_STORE);
    done
}

/// Whether the connection has a key of SQLCipher.
fn is_encrypted(conn: &Connection, guard: &SqlGuard) -> bool {
    guard.as_internal(|| read_back(conn, "cipher_status").is_ok_and(|status| status == "1"))
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

/// Applies the settings that every connection has.
pub(super) fn set_common(conn: &Connection, options: &Settings, trusted: bool) -> Result<()> {
    set(conn, "busy_timeout", options.busy_timeout.as_millis())?;
    trust_schema(conn, trusted)?;
    accept_double_quoted_strings(conn, options.double_quoted_strings)?;
    configure(conn, "defensive", DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    // A negative size is in KiB, a positive one in pages.
    set(conn, "cache_size", format!("-{}", options.cache_size / 1024))?;
    set(conn, "mmap_size", options.mmap_size)?;
    set(conn, "foreign_keys", i32::from(options.foreign_keys))?;
    set(conn, "temp_store", TEMP_STORE)
}

/// Sets whether the schema may use functions that are not marked as innocuous.
pub(super) fn trust_schema(conn: &Connection, trust: bool) -> Result<()> {
    configure(conn, "trusted_schema", DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, trust)
}

/// Sets whether `"x"` may be a string, in new SQL and in the SQL of the schema.
pub(super) fn accept_double_quoted_strings(conn: &Connection, accept: bool) -> Result<()> {
    configure(conn, "dqs_dml", DbConfig::SQLITE_DBCONFIG_DQS_DML, accept)?;
    configure(conn, "dqs_ddl", DbConfig::SQLITE_DBCONFIG_DQS_DDL, accept)
}

pub(super) fn set(conn: &Connection, name: &'static str, value: impl ToString) -> Result<()> {
    let value = value.to_string();
    execute_pragma(conn, name, &value)?;
    verify(conn, name, value)
}

pub(super) fn execute_pragma(conn: &Connection, name: &'static str, value: impl ToString) -> Result<()> {
    let value = value.to_string();
    let done = conn.execute_batch(&format!("PRAGMA main.{name} = {value}"));
    done.map_err(|error| pragma_failed(conn, name, value, error))
}

pub(super) fn verify(conn: &Connection, name: &'static str, wanted: impl ToString) -> Result<()> {
    let wanted = wanted.to_string();
    match read_back(conn, name) {
        Ok(got) if got == wanted => Ok(()),
        Ok(got) => Err(pragma_error(name, wanted, got, None)),
        Err(error) => Err(pragma_failed(conn, name, wanted, error)),
    }
}

fn pragma_failed(conn: &Connection, name: &'static str, wanted: String, error: rusqlite::Error) -> Error {
    let error = explained(conn, error);
    pragma_error(name, wanted, error.to_string(), Some(error))
}

pub(super) fn configure(conn: &Connection, name: &'static str, config: DbConfig, wanted: bool) -> Result<()> {
    match conn.set_db_config(config, wanted) {
        Ok(got) if got == wanted => Ok(()),
        Ok(got) => Err(pragma_error(name, wanted.to_string(), got.to_string(), None)),
        Err(e) => Err(pragma_error(name, wanted.to_string(), e.to_string(), Some(e))),
    }
}

/// The value of a PRAGMA, as text.
pub(crate) fn read_back(conn: &Connection, name: &str) -> rusqlite::Result<String> {
    conn.query_row(&format!("PRAGMA main.{name}"), [], |row| {
        Ok(match row.get_ref(0)? {
            rusqlite::types::ValueRef::Integer(n) => n.to_string(),
            other => other.as_str()?.to_owned(),
        })
    })
}

/// The size of a page. SQLCipher reports that of an encrypted database as text.
pub(crate) fn page_size(conn: &Connection) -> rusqlite::Result<u64> {
    let size = read_back(conn, "page_size")?;
    size.parse().map_err(|_| rusqlite::Error::InvalidQuery)
}

fn pragma_error(name: &'static str, wanted: String, got: String, source: Option<rusqlite::Error>) -> Error {
    let failed = source.as_ref().and_then(primary_code);
    let hint = match name {
        _ if matches!(
            failed,
            Some(ffi::SQLITE_CANTOPEN | ffi::SQLITE_READONLY | ffi::SQLITE_FULL)
        ) =>
        {
            "SQLite failed, whatever the setting"
        }
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

pub(super) fn auto_vacuum(mode: AutoVacuum) -> i64 {
    match mode {
        AutoVacuum::None => 0,
        AutoVacuum::Full => 1,
        AutoVacuum::Incremental => 2,
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
}
