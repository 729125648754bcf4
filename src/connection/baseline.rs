//! The settings of a connection as it was opened, and their restoration after a closure that had raw access to the
//! connection.
//!
//! Other closures cost nothing here. There are three kinds of settings:
//!
//! - SQLite reports limits and `sqlite3_db_config`. They are compared and set again.
//! - SQLite does not report the authorizer, the hooks, the trace, the busy handler and the capacity of the statement
//!   cache. They are set again, or removed. A token detects a replaced authorizer or commit hook: rusqlite drops the
//!   old closure when another is set, and the token's count goes down.
//! - SQLite can neither report nor restore a redefined function or collation, nor the changes made while there was no
//!   authorizer. They cost the connection. SQLite re-prepares every statement after a function or a collation was
//!   replaced, so a sentinel statement shows whether that happened. A schema change has the same effect; the authorizer
//!   sees it, and then the number of functions and collations decides.
//!
//! `sqlite3_db_config` expires all statements, too, when it changes a setting. So where the sentinel has not expired, the
//! settings are not compared, which would take longer than all of the above. The two that can change without it
//! ([`SILENT`]) always are.
//!
//! A hook set by `on_connect` cannot be set again, because SQLite does not report it. It is left alone.

use std::sync::Arc;

use rusqlite::hooks::Action;
use rusqlite::{Connection, ffi};

use super::authorizer::SqlGuard;
use super::c_api::{self, KeptStatement};
use crate::error::{Error, Result};
use crate::options::{Role, Settings};
use crate::runtime::panic::quietly;

/// The whole range of `sqlite3_limit`.
const LIMITS: std::ops::Range<i32> = ffi::SQLITE_LIMIT_LENGTH..13;

/// The codes of `sqlite3_db_config` that take a number: `ENABLE_FKEY` to `FP_DIGITS`.
const CONFIG: std::ops::Range<i32> = ffi::SQLITE_DBCONFIG_ENABLE_FKEY..1024;

/// Those of them that can change while no statement expires: `sqlite3_enable_load_extension` sets the first, too, and
/// the second (`FP_DIGITS`) only concerns the output of numbers.
const SILENT: [i32; 2] = [ffi::SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1023];

/// The result of [`Baseline::restore`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Restored {
    /// The connection is as it was.
    All,
    /// The connection must be replaced, for this reason.
    NotAll(&'static str),
}

/// The hooks that `on_connect` set, and whether its connection trusts the schema.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OwnHooks {
    update: bool,
    rollback: bool,
    trace: bool,
    /// Assumed after any `on_connect`; SQLite has no call that reports it.
    collation_needed: bool,
    trusts_schema: bool,
}

impl OwnHooks {
    /// Those of a connection without an `on_connect`.
    pub(super) fn none(trusts_schema: bool) -> Self {
        Self {
            trusts_schema,
            ..Self::default()
        }
    }
    /// Runs `on_connect` and detects the hooks that it sets: rusqlite drops the old closure of a hook when another is
    /// set.
    pub(super) fn of(conn: &Connection, on_connect: impl FnOnce() -> Result<()>) -> Result<Self> {
        let (update, rollback) = (Arc::new(()), Arc::new(()));
        let (updated, rolled_back) = (Arc::clone(&update), Arc::clone(&rollback));
        let set = || {
            conn.update_hook(Some(move |_: Action, _: &str, _: &str, _: i64| {
                let _kept = &updated;
            }))?;
            conn.rollback_hook(Some(move || {
                let _kept = &rolled_back;
            }))
        };
        set().map_err(Error::not_started)?;
        c_api::trace_for_others(conn);
        on_connect()?;
        let own = Self {
            update: Arc::strong_count(&update) == 1,
            rollback: Arc::strong_count(&rollback) == 1,
            trace: c_api::trace_was_replaced(conn).unwrap_or(true),
            collation_needed: true,
            trusts_schema: c_api::config(conn, ffi::SQLITE_DBCONFIG_TRUSTED_SCHEMA, -1) == Some(1),
        };
        own.remove_others(conn);
        Ok(own)
    }

    /// Whether `on_connect` set a trace, or may have.
    pub(super) fn has_trace(self) -> bool {
        self.trace
    }

    /// Whether the schema may use functions that are not marked as innocuous.
    pub(super) fn trusts_schema(self) -> bool {
        self.trusts_schema
    }

    /// Removes all hooks that are known not to be `on_connect`'s. Dropping a closure's hooks runs user code.
    fn remove_others(self, conn: &Connection) {
        if !self.update {
            quietly(|| drop(conn.update_hook(None::<fn(Action, &str, &str, i64)>)));
        }
        if !self.rollback {
            quietly(|| drop(conn.rollback_hook(None::<fn()>)));
        }
        if !self.trace {
            c_api::remove_trace(conn);
        }
        if !self.collation_needed {
            c_api::remove_collation_needed(conn);
        }
    }
}

pub(crate) struct Baseline {
    limits: Vec<i32>,
    /// `None` for a code that this SQLite does not know.
    config: Vec<Option<i32>>,
    hooks: OwnHooks,
    /// The number of functions and collations.
    names: i64,
    /// Whether some of them may be `on_connect`'s.
    own_names: bool,
    statement_cache_capacity: usize,
    /// Detects whether SQLite has expired all statements of the connection.
    sentinel: KeptStatement,
}

impl Baseline {
    /// Reads the settings of a connection that was just opened.
    pub(super) fn read(conn: &Connection, guard: &SqlGuard, options: &Settings, hooks: OwnHooks) -> Result<Self> {
        let read = || {
            guard.as_internal(|| {
                Ok(Self {
                    limits: LIMITS.map(|limit| c_api::limit(conn, limit, -1)).collect(),
                    config: CONFIG.map(|config| c_api::config(conn, config, -1)).collect(),
                    hooks,
                    names: count_names(conn)?,
                    own_names: options.on_connect.is_some(),
                    statement_cache_capacity: options.statement_cache_capacity,
                    sentinel: KeptStatement::prepare(conn, "SELECT 1")?,
                })
            })
        };
        read().map_err(Error::not_started)
    }

    /// Restores the connection as far as possible. An error counts as a setting that cannot be restored.
    pub(crate) fn restore(&self, conn: &Connection, guard: &Arc<SqlGuard>) -> Restored {
        let stood = guard.stood(conn);
        for (limit, value) in LIMITS.zip(&self.limits) {
            if c_api::limit(conn, limit, -1) != *value {
                c_api::limit(conn, limit, *value);
            }
        }
        conn.set_prepared_statement_cache_capacity(self.statement_cache_capacity);
        self.hooks.remove_others(conn);
        if !stood {
            // Without the guard, the closure may have run any PRAGMA.
            return Restored::NotAll("it replaced larder's authorizer or commit hook");
        }
        let replaced = "it replaced a function or a collation";
        let schema_changed = guard.take_schema_change();
        let expired = self.take_expired(conn, guard);
        let mut configured = self.restore_config(conn, SILENT);
        if !matches!(expired, Ok(false)) {
            configured |= self.restore_config(conn, CONFIG);
        }
        // To set them has expired the statements again, which is not to be taken for the next closure's doing.
        if configured && self.take_expired(conn, guard).is_err() {
            return Restored::NotAll(replaced);
        }
        match expired {
            Ok(false) => Restored::All,
            // Its settings are restored, but the change of a setting hides whether a function was replaced, too.
            Ok(true) if self.own_names && !schema_changed => Restored::NotAll(if configured {
                "it changed a setting of sqlite3_db_config"
            } else {
                replaced
            }),
            Ok(true) if guard.as_internal(|| count_names(conn)).ok() == Some(self.names) => Restored::All,
            _ => Restored::NotAll(replaced),
        }
    }

    /// Sets those settings of `sqlite3_db_config` again that have changed. Whether any had.
    fn restore_config(&self, conn: &Connection, settings: impl IntoIterator<Item = i32>) -> bool {
        let mut changed = false;
        for setting in settings {
            if let Some(value) = self.config[(setting - CONFIG.start) as usize]
                && c_api::config(conn, setting, -1) != Some(value)
            {
                changed = true;
                c_api::config(conn, setting, value);
            }
        }
        changed
    }

    /// Whether SQLite has expired all statements of the connection since this was last asked.
    fn take_expired(&self, conn: &Connection, guard: &SqlGuard) -> rusqlite::Result<bool> {
        guard.as_internal(|| self.sentinel.run(conn).map(|()| self.sentinel.take_reprepared()))
    }
}

/// The number of functions and collations. An override of a built-in one counts separately.
fn count_names(conn: &Connection) -> rusqlite::Result<i64> {
    let count = "SELECT (SELECT count(*) FROM pragma_function_list) + (SELECT count(*) FROM pragma_collation_list)";
    conn.query_row(count, [], |row| row.get(0))
}

/// Whether `on_connect` may have created temporary objects. Later ones can come only from closures on the writing
/// connection.
pub(super) fn may_have_temporary(options: &Settings, role: Role) -> bool {
    role == Role::Writer && options.on_connect.is_some()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn connection() -> (Connection, Arc<SqlGuard>, Baseline) {
        let conn = Connection::open_in_memory().unwrap();
        let guard = SqlGuard::install(&conn, Role::Writer, BTreeSet::new()).unwrap();
        let baseline = Baseline::read(&conn, &guard, &Settings::default(), OwnHooks::default()).unwrap();
        (conn, guard, baseline)
    }

    /// If this fails with a newer SQLite, the setting that it names belongs to [`SILENT`].
    #[test]
    fn changed_setting_expires_the_statements_unless_it_is_silent() {
        let (conn, guard, baseline) = connection();
        for (setting, value) in CONFIG.zip(&baseline.config) {
            let Some(value) = value else { continue };
            if SILENT.contains(&setting) {
                continue;
            }
            c_api::config(&conn, setting, 1 - value);
            assert_eq!(baseline.take_expired(&conn, &guard), Ok(true), "{setting}");
            assert_eq!(baseline.take_expired(&conn, &guard), Ok(false), "{setting}");
        }
    }

    #[test]
    fn every_changed_setting_is_restored() {
        let (conn, guard, baseline) = connection();
        for (setting, value) in CONFIG.zip(&baseline.config) {
            let Some(value) = value else { continue };
            let other = if *value > 1 { value - 1 } else { 1 - value };
            c_api::config(&conn, setting, other);
            assert_eq!(c_api::config(&conn, setting, -1), Some(other), "{setting}");
            assert_eq!(baseline.restore(&conn, &guard), Restored::All, "{setting}");
            assert_eq!(c_api::config(&conn, setting, -1), Some(*value), "{setting}");
            assert_eq!(baseline.take_expired(&conn, &guard), Ok(false), "{setting}");
        }
    }
}
