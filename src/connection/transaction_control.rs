//! The statements with which larder begins and ends transactions and savepoints.
//!
//! rusqlite's statement cache hashes the text, and moves the statement, each time a statement leaves it or returns. A read
//! runs two of these statements, and a write in a group runs two: the cache took a fifth of a short read's time, and an
//! eighth of a short write's. So the writer's connection, and each one in the pool, keeps its own
//! ([`ControlStatements`]), prepared at their first run.

use std::cell::OnceCell;

use rusqlite::Connection;

use super::authorizer::SqlGuard;
use super::c_api::KeptStatement;

/// One of these statements.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Control {
    BeginRead = 0,
    BeginWrite = 1,
    Commit = 2,
    Rollback = 3,
    Savepoint = 4,
    Release = 5,
    RollbackTo = 6,
}

const COUNT: usize = 7;

impl Control {
    /// Its text, with larder's private comment (see `authorizer.rs`).
    fn sql(self) -> &'static str {
        match self {
            Self::BeginRead => "BEGIN/*larder*/",
            Self::BeginWrite => "BEGIN IMMEDIATE/*larder*/",
            Self::Commit => "COMMIT/*larder*/",
            Self::Rollback => "ROLLBACK/*larder*/",
            Self::Savepoint => "SAVEPOINT larder/*larder*/",
            Self::Release => "RELEASE larder/*larder*/",
            Self::RollbackTo => "ROLLBACK TO larder/*larder*/",
        }
    }

    /// Runs it from rusqlite's cache, where no [`ControlStatements`] are at hand.
    pub(crate) fn run_cached(self, conn: &Connection, guard: &SqlGuard) -> rusqlite::Result<()> {
        guard.as_internal(|| conn.prepare_cached(self.sql())?.execute([]).map(drop))
    }
}

/// The statements of one connection. Dropped before the connection closes, because SQLite refuses to close a connection
/// with open statements.
#[derive(Default)]
pub(crate) struct ControlStatements([OnceCell<KeptStatement>; COUNT]);

impl ControlStatements {
    pub(crate) fn run(&self, conn: &Connection, guard: &SqlGuard, control: Control) -> rusqlite::Result<()> {
        guard.as_internal(|| {
            let place = &self.0[control as usize];
            match place.get() {
                Some(statement) => statement.run(conn),
                None => {
                    let statement = KeptStatement::prepare(conn, control.sql())?;
                    place.get_or_init(|| statement).run(conn)
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::options::Role;

    #[test]
    fn control_statements_survive_expiry_and_report_errors() {
        let conn = Connection::open_in_memory().unwrap();
        let guard = SqlGuard::install(&conn, Role::Writer, BTreeSet::new()).unwrap();
        let control = ControlStatements::default();
        for _ in 0..3 {
            control.run(&conn, &guard, Control::BeginWrite).unwrap();
            control.run(&conn, &guard, Control::Savepoint).unwrap();
            control.run(&conn, &guard, Control::Release).unwrap();
            control.run(&conn, &guard, Control::Commit).unwrap();
            // It expires every statement, which SQLite then prepares again.
            let expire = || conn.execute_batch("CREATE TABLE t(n); DROP TABLE t; VACUUM");
            guard.as_internal(expire).unwrap();
        }
        let error = control.run(&conn, &guard, Control::Commit).unwrap_err();
        assert_eq!(error.to_string(), "cannot commit - no transaction is active");
        let cached = Control::Commit.run_cached(&conn, &guard).unwrap_err();
        assert_eq!(error, cached);
        drop(control);
        conn.close().unwrap();
    }
}
