//! SQLite's result codes, and their meaning for a caller.

use std::error::Error as _;
use std::sync::Arc;

use rusqlite::ffi;

use super::{ErrorOrigin, Outcome};

pub(super) fn disk_is_full(source: &Option<Arc<rusqlite::Error>>) -> bool {
    source
        .as_ref()
        .is_some_and(|e| primary_code(e) == Some(ffi::SQLITE_FULL))
}

/// The remedy for the few SQLite errors that an operator, not a programmer, has to act on.
pub(super) fn advice(source: &rusqlite::Error, outcome: Outcome, origin: ErrorOrigin) -> &'static str {
    if origin == ErrorOrigin::Other {
        return "";
    }
    match (primary_code(source), outcome) {
        (Some(ffi::SQLITE_BUSY), Outcome::NotStarted) => {
            "; another process held SQLite's lock for longer than the busy timeout, so the call did not start: find \
             that process, then try again"
        }
        // Without its cause.
        (Some(ffi::SQLITE_FULL), _) if source.to_string() == "database or disk is full" => {
            "; free disk space, or raise max_page_count, then try again"
        }
        (Some(ffi::SQLITE_CORRUPT), _) if extended_code(source) == Some(ffi::SQLITE_CORRUPT_VTAB) => {
            "; rebuild the damaged full-text or R-tree table"
        }
        _ if is_damage(source) => "; stop the service and restore a verified backup",
        _ => schema_advice(source),
    }
}

const UNSAFE: &str = "unsafe use of ";

/// The remedy where a setting of larder is stricter than the SQL of the schema. SQLite has no code for these errors.
pub(crate) fn schema_advice(source: &rusqlite::Error) -> &'static str {
    let message = message(source);
    if message.contains("unsafe use of virtual table ") {
        "; a view or a trigger of the schema uses it: set Options::trusted_schema(true) if nobody else writes the schema \
         (a module marked SQLITE_VTAB_DIRECTONLY is refused all the same)"
    } else if message.contains(UNSAFE) {
        "; the schema calls it, in a view, a trigger, a constraint, a column or an index: register it with \
         FunctionFlags::SQLITE_INNOCUOUS if it is harmless in any SQL, or set Options::trusted_schema(true) if nobody \
         else writes the schema (a function marked SQLITE_DIRECTONLY is refused all the same)"
    } else if message.ends_with("should this be a string literal in single-quotes?") {
        "; if it stands in a view or a trigger that was made elsewhere, create that again with single quotes, or set \
         Options::double_quoted_strings(true)"
    } else if message.starts_with("no such collation sequence") {
        "; define it in Options::on_connect, for every role (Connection::create_collation, larder's feature `collation`)"
    } else {
        ""
    }
}

/// The message of SQLite alone, without the SQL text, which rusqlite appends to some.
pub(crate) fn message(error: &rusqlite::Error) -> &str {
    match error {
        rusqlite::Error::SqlInputError { msg, .. } => msg,
        rusqlite::Error::SqliteFailure(_, Some(message)) => message,
        _ => "",
    }
}

/// SQLite's extended result code, whichever variant of rusqlite carries it.
pub(crate) fn extended_code(error: &rusqlite::Error) -> Option<i32> {
    let inner = error.source().and_then(|s| s.downcast_ref::<ffi::Error>());
    inner.or_else(|| error.sqlite_error()).map(|e| e.extended_code)
}

/// SQLite's primary result code: the low byte of the extended one.
pub(crate) fn primary_code(error: &rusqlite::Error) -> Option<i32> {
    extended_code(error).map(|code| code & 0xff)
}

/// SQLite's result codes that a statement can fail with, by their names in `sqlite3.h`, in snake case. The extended
/// codes come first.
const NAMES: &[(i32, &str)] = &[
    (ffi::SQLITE_CONSTRAINT_CHECK, "sqlite_constraint_check"),
    (ffi::SQLITE_CONSTRAINT_COMMITHOOK, "sqlite_constraint_commithook"),
    (ffi::SQLITE_CONSTRAINT_DATATYPE, "sqlite_constraint_datatype"),
    (ffi::SQLITE_CONSTRAINT_FOREIGNKEY, "sqlite_constraint_foreignkey"),
    (ffi::SQLITE_CONSTRAINT_FUNCTION, "sqlite_constraint_function"),
    (ffi::SQLITE_CONSTRAINT_NOTNULL, "sqlite_constraint_notnull"),
    (ffi::SQLITE_CONSTRAINT_PINNED, "sqlite_constraint_pinned"),
    (ffi::SQLITE_CONSTRAINT_PRIMARYKEY, "sqlite_constraint_primarykey"),
    (ffi::SQLITE_CONSTRAINT_ROWID, "sqlite_constraint_rowid"),
    (ffi::SQLITE_CONSTRAINT_TRIGGER, "sqlite_constraint_trigger"),
    (ffi::SQLITE_CONSTRAINT_UNIQUE, "sqlite_constraint_unique"),
    (ffi::SQLITE_CONSTRAINT_VTAB, "sqlite_constraint_vtab"),
    (ffi::SQLITE_BUSY_SNAPSHOT, "sqlite_busy_snapshot"),
    (ffi::SQLITE_BUSY_TIMEOUT, "sqlite_busy_timeout"),
    (ffi::SQLITE_CORRUPT_VTAB, "sqlite_corrupt_vtab"),
    (ffi::SQLITE_READONLY_DBMOVED, "sqlite_readonly_dbmoved"),
    (ffi::SQLITE_ABORT, "sqlite_abort"),
    (ffi::SQLITE_AUTH, "sqlite_auth"),
    (ffi::SQLITE_BUSY, "sqlite_busy"),
    (ffi::SQLITE_CANTOPEN, "sqlite_cantopen"),
    (ffi::SQLITE_CONSTRAINT, "sqlite_constraint"),
    (ffi::SQLITE_CORRUPT, "sqlite_corrupt"),
    (ffi::SQLITE_ERROR, "sqlite_error"),
    (ffi::SQLITE_FULL, "sqlite_full"),
    (ffi::SQLITE_INTERNAL, "sqlite_internal"),
    (ffi::SQLITE_INTERRUPT, "sqlite_interrupt"),
    (ffi::SQLITE_IOERR, "sqlite_ioerr"),
    (ffi::SQLITE_LOCKED, "sqlite_locked"),
    (ffi::SQLITE_MISMATCH, "sqlite_mismatch"),
    (ffi::SQLITE_MISUSE, "sqlite_misuse"),
    (ffi::SQLITE_NOMEM, "sqlite_nomem"),
    (ffi::SQLITE_NOTADB, "sqlite_notadb"),
    (ffi::SQLITE_NOTFOUND, "sqlite_notfound"),
    (ffi::SQLITE_PERM, "sqlite_perm"),
    (ffi::SQLITE_PROTOCOL, "sqlite_protocol"),
    (ffi::SQLITE_RANGE, "sqlite_range"),
    (ffi::SQLITE_READONLY, "sqlite_readonly"),
    (ffi::SQLITE_SCHEMA, "sqlite_schema"),
    (ffi::SQLITE_TOOBIG, "sqlite_toobig"),
];

/// The errors of rusqlite that are not SQLite's: the first is no failure of the database, and the second is a wrong
/// type in [`Row::get`](rusqlite::Row::get).
const NO_ROWS: &str = "no_rows";
const CONVERSION: &str = "conversion";
const RUSQLITE: &str = "rusqlite";

/// The kind of an error of SQLite or rusqlite. See [`Error::kind`](super::Error::kind).
pub(crate) fn code_name(error: &rusqlite::Error) -> &'static str {
    use rusqlite::Error as E;
    let Some(code) = extended_code(error) else {
        return match error {
            E::QueryReturnedNoRows => NO_ROWS,
            E::FromSqlConversionFailure(..)
            | E::IntegralValueOutOfRange(..)
            | E::InvalidColumnType(..)
            | E::ToSqlConversionFailure(..)
            | E::Utf8Error(..) => CONVERSION,
            _ => RUSQLITE,
        };
    };
    let named = |wanted| NAMES.iter().find(|(code, _)| *code == wanted).map(|(_, name)| *name);
    named(code).or_else(|| named(code & 0xff)).unwrap_or("sqlite")
}

/// All names that [`code_name`] gives.
#[cfg(feature = "metrics")]
pub(super) fn code_names() -> impl Iterator<Item = &'static str> {
    let others = [NO_ROWS, CONVERSION, RUSQLITE, "sqlite"];
    NAMES.iter().map(|(_, name)| *name).chain(others)
}

/// Whether the error means that the database is damaged. A schema that calls an unsafe function is none, though SQLite
/// says so when it loads it.
pub(crate) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(primary_code(error), Some(ffi::SQLITE_CORRUPT | ffi::SQLITE_NOTADB)) && !message(error).contains(UNSAFE)
}

/// Whether a COMMIT with that error may have taken effect.
///
/// SQLite writes the commit frame, syncs it, and then enters it in the index. Only these errors can come from there or
/// later; all others come before it.
pub(crate) fn commit_is_unknown(error: &rusqlite::Error) -> bool {
    matches!(
        primary_code(error),
        Some(ffi::SQLITE_IOERR | ffi::SQLITE_NOMEM | ffi::SQLITE_CANTOPEN | ffi::SQLITE_PROTOCOL) | None
    )
}
