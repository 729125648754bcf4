//! What a connection was set to when it had been opened, and what a closure that had the connection itself in its hands
//! may have set on it since.
//!
//! Only after such a closure is any of this done. Three kinds of settings:
//!
//! - What SQLite tells is compared and set again: limits, `sqlite3_db_config`.
//! - What it does not tell is set again, or taken away: the authorizer and the commit hook (rusqlite drops the closure of the
//!   one before when another is set, and so a count of a token goes down), the other hooks, trace, the busy handler, the
//!   capacity of the statement cache.
//! - What can be neither told nor set again costs the connection: a redefined function or collation, and anything that
//!   was done while there was no authorizer. SQLite prepares every statement anew after a function or a collation was
//!   replaced, so a statement that is kept for this says whether that has happened. A change of the schema looks the same;
//!   the authorizer hears of it, and then the list of functions and collations decides.
//!
//! A hook that `on_connect` has set cannot be set again, since SQLite does not tell it. It is left alone.

use std::sync::Arc;

use rusqlite::hooks::Action;
use rusqlite::{Connection, ffi};

use super::authorizer::SqlGuard;
use super::c_api::{self, Sentinel};
use crate::error::{Error, Result};
use crate::options::{Role, Settings};
use crate::runtime::panic::quietly;

/// All of `sqlite3_limit`.
const LIMITS: std::ops::Range<i32> = ffi::SQLITE_LIMIT_LENGTH..13;

/// Those of `sqlite3_db_config` that take a number: `ENABLE_FKEY` to `FP_DIGITS`.
const CONFIG: std::ops::Range<i32> = ffi::SQLITE_DBCONFIG_ENABLE_FKEY..1024;

/// What [`Baseline::restore`] came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Restored {
    /// The connection is as it was.
    All,
    /// It has to be replaced, since a closure has done that.
    NotAll(&'static str),
}

/// Hooks that `on_connect` has set.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OwnHooks {
    update: bool,
    rollback: bool,
    trace: bool,
    /// It may have set one; SQLite has no call that tells.
    collation_needed: bool,
}

impl OwnHooks {
    /// Runs `on_connect`. rusqlite drops the closure of a hook when another is set.
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
        };
        own.remove_others(conn);
        Ok(own)
    }

    /// Whether a trace is theirs, or may be.
    pub(super) fn has_trace(self) -> bool {
        self.trace
    }

    /// Takes away all hooks that can be told from those of `on_connect`. A closure's are dropped, which is user code.
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
    /// `None` for what this SQLite does not know.
    config: Vec<Option<i32>>,
    hooks: OwnHooks,
    /// Functions and collations.
    names: i64,
    /// Whether some of them may be those of `on_connect`.
    own_names: bool,
    statement_cache_capacity: usize,
    sentinel: Sentinel,
}

impl Baseline {
    /// Of a connection that has just been opened.
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
                    sentinel: Sentinel::prepare(conn)?,
                })
            })
        };
        read().map_err(Error::not_started)
    }

    /// Makes the connection what it was, as far as that can be done. An error is as good as what cannot be undone.
    pub(crate) fn restore(&self, conn: &Connection, guard: &Arc<SqlGuard>) -> Restored {
        let stood = guard.stood(conn);
        for (limit, value) in LIMITS.zip(&self.limits) {
            if c_api::limit(conn, limit, -1) != *value {
                c_api::limit(conn, limit, *value);
            }
        }
        let mut configured = false;
        for (config, value) in CONFIG.zip(&self.config) {
            if let Some(value) = value
                && c_api::config(conn, config, -1) != Some(*value)
            {
                configured = true;
                c_api::config(conn, config, *value);
            }
        }
        conn.set_prepared_statement_cache_capacity(self.statement_cache_capacity);
        self.hooks.remove_others(conn);
        if !stood {
            // It may have set anything by PRAGMA meanwhile.
            return Restored::NotAll("it replaced larder's authorizer or commit hook");
        }
        let replaced = "it replaced a function or a collation";
        let schema_changed = guard.take_schema_change();
        match guard.as_internal(|| self.sentinel.was_expired()) {
            Ok(false) => Restored::All,
            // What it has set is set again, but that hides whether it has replaced a function, too.
            Ok(true) if self.own_names && !schema_changed => Restored::NotAll(if configured {
                "it changed a setting of sqlite3_db_config"
            } else {
                replaced
            }),
            Ok(true) if guard.as_internal(|| count_names(conn)).ok() == Some(self.names) => Restored::All,
            _ => Restored::NotAll(replaced),
        }
    }
}

/// Of functions and collations; one that stands for one of SQLite's own is another.
fn count_names(conn: &Connection) -> rusqlite::Result<i64> {
    let count = "SELECT (SELECT count(*) FROM pragma_function_list) + (SELECT count(*) FROM pragma_collation_list)";
    conn.query_row(count, [], |row| row.get(0))
}

/// Whether there may be temporary objects of `on_connect`: only the writer's closures can make others.
pub(super) fn may_have_temporary(options: &Settings, role: Role) -> bool {
    role == Role::Writer && options.on_connect.is_some()
}
