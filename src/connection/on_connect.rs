//! Runs `Options::on_connect` on a connection that was just opened, and sees what it does.
//!
//! SQLite has one commit hook, one WAL hook and one authorizer per connection. larder needs them, and cannot call
//! another one after its own, because SQLite does not return the old function. So `on_connect` may not set them.
//!
//! On a copy it may not write to `main`. SQLite asks the authorizer when it *prepares* a statement, and a module may
//! prepare writes that it never runs (rtree does so when a table is first used). So the authorizer only notes that a
//! statement writes, and the commit hook turns a commit that writes to `main` into a rollback.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rusqlite::hooks::{AuthContext, Authorization};
use rusqlite::{Connection, ffi};

use super::authorizer::policy::{HEADER_VALUES, changes_schema};
use super::baseline::OwnHooks;
use super::c_api::{self, Action, Authorizer, Permission};
use super::pragma::read_back;
use crate::error::{Error, ErrorContext, ErrorOrigin, Result, extended_code, message, primary_code};
use crate::options::{OnConnect, Role};
use crate::runtime::panic::quietly;
use crate::runtime::sync::Arc;

/// PRAGMAs that change a file, or that keep other programs from it.
const OF_THE_FILE: &[&str] = &[
    "auto_vacuum",
    "encoding",
    "incremental_vacuum",
    "journal_mode",
    "locking_mode",
    "optimize",
    "page_size",
    "schema_version",
    "wal_checkpoint",
    "writable_schema",
];

/// Calls the function, and returns which of its hooks stay.
///
/// # Errors
///
/// The error of the function, or [`Error::Options`] for what it may not do.
pub(super) fn run(conn: &Connection, on_connect: &OnConnect, role: Role, is_original: bool) -> Result<OwnHooks> {
    let role = on_connect.role(role);
    let watch = Arc::new(Watch {
        is_copy: role == Role::Copy,
        is_original,
        write: OnceLock::new(),
        has_ended: AtomicBool::new(false),
    });
    let watched = Arc::clone(&watch);
    let refuses = move || watched.write.get().is_some() && !watched.has_ended.load(Relaxed);
    let (authorizer, commit_hook) = (Arc::new(()), Arc::new(()));
    c_api::authorize(conn, &watch, Arc::clone(&authorizer))
        .and_then(|()| c_api::guard_main(conn, refuses, Arc::clone(&commit_hook)))
        .map_err(Error::not_started)?;
    let called = OwnHooks::of(conn, || {
        on_connect
            .call(conn, role)
            .map_err(|error| located(error.with_origin(|source| c_api::gave_last(conn, source)), role))
    });
    // From here on the commit hook lets every commit pass.
    watch.has_ended.store(true, Relaxed);
    let hooks = called.map_err(|error| watch.explain(error))?;
    if !conn.is_autocommit() {
        return refuse(
            "it left a transaction open: COMMIT it, or do in Store::write what is not for every connection".into(),
        );
    }
    // rusqlite drops the closure of a hook when another one is set.
    if Arc::strong_count(&authorizer) == 1 {
        return refuse(
            "it set an authorizer, which larder needs for itself: refuse SQL in the closures instead".into(),
        );
    }
    if Arc::strong_count(&commit_hook) == 1 {
        return refuse(
            "it set a commit hook, which larder needs for itself: do what it does where Store::write returns".into(),
        );
    }
    if has_wal_hook(conn) {
        return refuse(
            "it set a WAL hook, which larder needs for itself: read Stats::wal_bytes, or act where Store::write returns"
                .into(),
        );
    }
    quietly(|| drop(conn.authorizer(None::<fn(AuthContext<'_>) -> Authorization>)));
    Ok(hooks)
}

/// Says of an error of SQLite that it comes from the function, on which connection, and, unless it is of another database,
/// what to do.
fn located(mut error: Error, role: Role) -> Error {
    if let Error::Sqlite {
        source,
        origin,
        context: context @ None,
        ..
    } = &mut error
    {
        let is_foreign = *origin == ErrorOrigin::Other;
        let advice = if is_foreign { "" } else { advice(source, role) };
        let site = format!("Options::on_connect for Role::{role:?}");
        *context = Some(Box::new(ErrorContext::of_on_connect(site, advice)));
    }
    error
}

fn advice(error: &rusqlite::Error, role: Role) -> &'static str {
    match primary_code(error) {
        Some(ffi::SQLITE_READONLY | ffi::SQLITE_AUTH) if role == Role::Reader => {
            "; a reader's connection may only read: write for Role::Writer, or in Store::write"
        }
        Some(ffi::SQLITE_ERROR) if message(error).starts_with("no such table") => {
            "; the tables of a new database come after on_connect, with its migrations: use them in Store::write, or only \
             if they are there"
        }
        _ => "; the function must succeed on each connection of the store, or that connection is not opened",
    }
}

fn refuse<T>(problem: String) -> Result<T> {
    Err(Error::Options {
        option: "on_connect",
        problem,
    })
}

/// Whether there is a WAL hook other than that of `PRAGMA wal_autocheckpoint`. Removes both.
fn has_wal_hook(conn: &Connection) -> bool {
    // "0" also where a hook has replaced it.
    let is_off = read_back(conn, "wal_autocheckpoint").is_ok_and(|pages| pages == "0");
    c_api::remove_wal_hook(conn) && is_off
}

/// What `on_connect` does.
struct Watch {
    is_copy: bool,
    is_original: bool,
    /// The first statement that writes to `main` of a copy.
    write: OnceLock<String>,
    has_ended: AtomicBool,
}

impl Watch {
    /// Names the write that made the function fail.
    fn explain(&self, error: Error) -> Error {
        let refused = error.sqlite().is_some_and(|error| {
            extended_code(error) == Some(ffi::SQLITE_CONSTRAINT_COMMITHOOK)
                || matches!(primary_code(error), Some(ffi::SQLITE_READONLY | ffi::SQLITE_AUTH))
        });
        match self.write.get() {
            Some(write) if refused => Error::Options {
                option: "on_connect",
                problem: format!(
                    "it runs {write} on a copy of the database (Role::Copy), which must stay as it is: write for \
                     Role::Writer only, or in Store::write"
                ),
            },
            _ => error,
        }
    }
}

impl Authorizer for Watch {
    fn authorize(&self, action: &Action<'_>) -> Permission {
        if !self.is_copy {
            return Permission::Allow;
        }
        let pragma = || action.first.as_deref().unwrap_or_default().to_ascii_lowercase();
        match action.code {
            ffi::SQLITE_PRAGMA if self.is_original && OF_THE_FILE.contains(&pragma().as_str()) => {
                return Permission::Ignore;
            }
            // `VACUUM` attaches a temporary database.
            ffi::SQLITE_ATTACH if self.is_original && action.first.as_deref() == Some("") => {
                let _ = self.write.set("VACUUM".into());
                return Permission::Deny;
            }
            _ => {}
        }
        if let Some(write) = write_of(action) {
            let _ = self.write.set(write);
        }
        Permission::Allow
    }
}

/// The statement, if it writes to `main`.
fn write_of(action: &Action<'_>) -> Option<String> {
    let first = action.first.as_deref().unwrap_or_default();
    let of_main = action.database.as_deref() == Some("main");
    let verb = match action.code {
        ffi::SQLITE_PRAGMA => {
            let writes = action.second.is_some() && HEADER_VALUES.contains(&first.to_ascii_lowercase().as_str());
            let elsewhere = action.database.is_some() && !of_main;
            return (writes && !elsewhere).then(|| format!("PRAGMA {first}"));
        }
        ffi::SQLITE_ALTER_TABLE if first == "main" => {
            return Some(format!("ALTER TABLE {}", action.second.as_deref().unwrap_or_default()));
        }
        _ if !of_main => return None,
        // The statement that changes the schema follows, with its name.
        _ if first.starts_with("sqlite_") => return None,
        ffi::SQLITE_INSERT => "INSERT INTO",
        ffi::SQLITE_UPDATE => "UPDATE",
        ffi::SQLITE_DELETE => "DELETE FROM",
        ffi::SQLITE_REINDEX => "REINDEX",
        ffi::SQLITE_ANALYZE => "ANALYZE",
        ffi::SQLITE_DROP_INDEX..=ffi::SQLITE_DROP_VIEW | ffi::SQLITE_DROP_VTABLE => "DROP of",
        code if changes_schema(code) => "CREATE of",
        _ => return None,
    };
    Some(format!("{verb} {first}"))
}
