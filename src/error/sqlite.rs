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
        (Some(ffi::SQLITE_FULL), _) => "; free disk space, or raise max_page_count, then try again",
        (Some(ffi::SQLITE_CORRUPT), _) if extended_code(source) == Some(ffi::SQLITE_CORRUPT_VTAB) => {
            "; rebuild the damaged full-text or R-tree table"
        }
        _ if is_damage(source) => "; stop the service and restore a verified backup",
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

/// Whether the error means that the database is damaged.
pub(crate) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(primary_code(error), Some(ffi::SQLITE_CORRUPT | ffi::SQLITE_NOTADB))
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
