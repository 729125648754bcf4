//! Savepoints that are not larder's.
//!
//! SQLite asks the authorizer in the same way about SQL of a closure and about SQL that a module runs inside a statement of
//! the closure: FTS4's `optimize(docs)` makes a savepoint and releases it. Both kinds differ in *when* they are prepared:
//! the module's is prepared while a statement runs. SQLite says so as long as that statement has returned no row
//! ([`Progress::Running`]). Later it says only that the statement is not at its end, and a closure may hold the rows of such
//! a statement, too. Then the name decides: a module that ran for the first row has used it before.
//!
//! A session (`sqlite3changeset_apply`) is called by the closure, outside any statement. Its names are fixed.
//!
//! No such savepoint outlasts its job, whether the module or the closure opened it. The transaction of a job that may have opened one is committed or
//! rolled back after that job; on that connection every later job runs in a savepoint of larder's, and its end releases
//! those inside. So none can be rolled back to from another job.
//!
//! Only savepoints are treated in this way. A `COMMIT`, an `ATTACH` or a PRAGMA is refused wherever it is prepared: no
//! module of SQLite needs one inside a transaction, and the table-valued functions of PRAGMAs prepare theirs inside a
//! statement, too.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::connection::c_api::Progress;
use crate::runtime::sync::Mutex;

/// The name of all savepoints of larder.
const OWN: &str = "larder";

/// The savepoints of `sqlite3changeset_apply` and `sqlite3session_changeset`.
const OF_SESSIONS: [&str; 4] = [APPLY, "changeset", "replace_op", "update_op"];
const APPLY: &str = "changeset_apply";

/// The maximum number of names to remember.
const MAX_NAMES: usize = 64;

#[derive(Default)]
pub(super) struct Savepoints {
    /// Whether one was allowed on this connection. A later closure may step it from the statement cache, so this never
    /// becomes false again.
    allowed: AtomicBool,
    /// Whether a changeset is being applied.
    applying: AtomicBool,
    /// Names that modules have used while a statement ran, in lower case.
    names: Mutex<BTreeSet<String>>,
}

impl Savepoints {
    pub(super) fn may_be_open(&self) -> bool {
        self.allowed.load(Relaxed)
    }

    /// Forgets a changeset of an earlier closure.
    pub(super) fn reset(&self) {
        self.applying.store(false, Relaxed);
    }

    /// Whether a changeset is being applied, which defers foreign keys meanwhile.
    pub(super) fn applies_changeset(&self) -> bool {
        self.applying.load(Relaxed)
    }

    /// Whether a module or a session may have prepared the statement. `operation` is `BEGIN`, `RELEASE` or `ROLLBACK`.
    pub(super) fn allows(
        &self,
        operation: &str,
        name: &str,
        with_sessions: bool,
        progress: impl FnOnce() -> Progress,
    ) -> bool {
        let name = name.to_ascii_lowercase();
        if name == OWN {
            return false;
        }
        let of_session = with_sessions && OF_SESSIONS.contains(&name.as_str());
        let allowed = of_session || self.is_of_module(&name, progress());
        if allowed {
            self.allowed.store(true, Relaxed);
        }
        if of_session && name == APPLY {
            self.applying.store(operation != "RELEASE", Relaxed);
        }
        allowed
    }

    fn is_of_module(&self, name: &str, progress: Progress) -> bool {
        match progress {
            Progress::Idle => false,
            Progress::AfterRow => self.names.lock().contains(name),
            Progress::Running => {
                let mut names = self.names.lock();
                if names.len() < MAX_NAMES {
                    names.insert(name.to_owned());
                }
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_savepoints_are_told_by_time_then_name() {
        let savepoints = Savepoints::default();
        let allows = |name, progress| savepoints.allows("BEGIN", name, false, || progress);
        assert!(!allows("fts3", Progress::Idle));
        assert!(!allows("fts3", Progress::AfterRow));
        assert!(!savepoints.may_be_open());
        assert!(allows("FTS3", Progress::Running));
        assert!(savepoints.may_be_open());
        assert!(allows("fts3", Progress::AfterRow));
        assert!(!allows("other", Progress::AfterRow));
        assert!(!allows("fts3", Progress::Idle));
        assert!(!allows("Larder", Progress::Running));
    }

    #[test]
    fn session_savepoints_need_sessions() {
        let savepoints = Savepoints::default();
        let allows = |operation, with_sessions| {
            savepoints.allows(operation, "changeset_apply", with_sessions, || Progress::Idle)
        };
        assert!(!allows("BEGIN", false));
        assert!(!savepoints.applies_changeset());
        assert!(allows("BEGIN", true));
        assert!(savepoints.applies_changeset());
        assert!(allows("ROLLBACK", true));
        assert!(savepoints.applies_changeset());
        assert!(allows("RELEASE", true));
        assert!(!savepoints.applies_changeset());
        assert!(savepoints.may_be_open());
    }
}
