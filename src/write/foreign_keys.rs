//! Whether a job has violated a deferred foreign key, judged for that job alone.
//!
//! SQLite keeps a count for each connection: a violation adds 1, and its repair subtracts 1. COMMIT fails unless the
//! count is 0. `SQLITE_DBSTATUS_DEFERRED_FKS` says whether the count is above 0, and no interface says whether it is
//! below. It is below 0 where a transaction has violated a key and has repaired rows that were orphans before (from a
//! connection without foreign keys): while the count is 0 SQLite does not look for such rows; otherwise it does, and
//! subtracts 1 for each.
//!
//! Every job begins with a count of 0: the jobs before it in the group were judged, and `ROLLBACK TO` restores the
//! count of the savepoint. So a job is judged as its own COMMIT would have judged it if its remaining count can be
//! distinguished from 0. A count that is not above 0 is distinguished from 0 by one more violation, in a table that
//! belongs to larder: the violation raises a count of 0 to 1, and a lower count to 0 at most. Deleting that row lowers
//! 1 to 0 again. This takes about 1 us, and is done only where the schema has a deferred key. The table is in a
//! database in memory, attached on first use, so it is in no file and among no user's temporary objects. It is created
//! in the job's transaction, and again if that was rolled back.
//!
//! Whether the schema has a deferred key is looked up again when the schema may have changed. After any change of the
//! schema, by any process, SQLite prepares a statement again before it runs it. So as long as no writing statement has
//! been prepared ([`SqlGuard::take_prepared_write`](crate::connection::authorizer::SqlGuard::take_prepared_write)),
//! none has run against another schema. An answer that was looked up in a transaction since rolled back is forgotten,
//! because the next change may reuse its version number.
//!
//! Temporary objects are checked only where there may be some. SQLite opens a database for them when a statement first
//! names it, and each savepoint on the connection costs more from then on.

use std::cell::Cell;

use rusqlite::limits::Limit;
use rusqlite::{Connection, ffi};

use super::Writer;
use crate::connection::c_api;
use crate::error::primary_code;

const ATTACH: &str = "ATTACH ':memory:' AS larder_internal";

/// `WITHOUT ROWID`, so that no `update_hook` sees the table.
const MAKE_TABLE: &str = "CREATE TABLE larder_internal.larder_foreign_keys(id INTEGER PRIMARY KEY, parent INTEGER NOT NULL \
                          REFERENCES larder_foreign_keys(id) DEFERRABLE INITIALLY DEFERRED) WITHOUT ROWID";
const VIOLATE: &str = "INSERT INTO larder_internal.larder_foreign_keys VALUES (1, 2)/*larder*/";
const MEND: &str = "DELETE FROM larder_internal.larder_foreign_keys/*larder*/";

/// Part of the SQL of each table that has a deferred key.
const DEFERRED: &[u8] = b"DEFERRED";

/// The last answer about the schema's deferred keys.
#[derive(Default)]
pub(super) struct DeferredKeys {
    known: Cell<Option<Known>>,
    /// Whether `known` was looked up in the open transaction.
    fresh: Cell<bool>,
}

#[derive(Clone, Copy)]
struct Known {
    /// `PRAGMA schema_version` of the file and of the temporary database.
    versions: [i64; 2],
    any: bool,
}

impl DeferredKeys {
    /// Called after a COMMIT.
    pub(super) fn committed(&self) {
        self.fresh.set(false);
    }

    /// Called after a ROLLBACK, also to a savepoint.
    pub(super) fn rolled_back(&self) {
        if self.fresh.take() {
            self.known.set(None);
        }
    }
}

impl Writer {
    /// Whether COMMIT would fail because of this job.
    pub(super) fn violates_deferred_keys(&self) -> rusqlite::Result<bool> {
        if c_api::deferred_violation(&self.conn) {
            return Ok(true);
        }
        if !self.options.foreign_keys || !self.schema_has_deferred_keys()? {
            return Ok(false);
        }
        self.guard.as_internal(|| count_is_negative(&self.conn))
    }

    fn schema_has_deferred_keys(&self) -> rusqlite::Result<bool> {
        let may_be_new = self.guard.take_prepared_write();
        let known = self.deferred_keys.known.get();
        match known {
            Some(known) if !may_be_new => return Ok(known.any),
            _ => {}
        }
        let versions = self.guard.as_internal(|| self.schema_versions())?;
        match known {
            Some(known) if known.versions == versions => return Ok(known.any),
            _ => {}
        }
        let any = self.guard.as_internal(|| self.find_deferred_keys())?;
        self.deferred_keys.known.set(Some(Known { versions, any }));
        self.deferred_keys.fresh.set(true);
        Ok(any)
    }

    fn schema_versions(&self) -> rusqlite::Result<[i64; 2]> {
        let version = |sql| {
            let mut statement = self.conn.prepare_cached(sql)?;
            statement.query_row([], |row| row.get(0))
        };
        let temporary = if self.guard.may_have_temporary() {
            version("PRAGMA temp.schema_version/*larder*/")?
        } else {
            0
        };
        Ok([version("PRAGMA main.schema_version/*larder*/")?, temporary])
    }

    /// Where the word has another meaning, more jobs are checked than need it. The same holds beside an attached
    /// database, whose schema has its own version.
    fn find_deferred_keys(&self) -> rusqlite::Result<bool> {
        let attached = "SELECT EXISTS (SELECT 1 FROM pragma_database_list WHERE name NOT IN \
                        ('main', 'temp', 'larder_internal'))/*larder*/";
        if self.conn.prepare_cached(attached)?.query_row([], |row| row.get(0))? {
            return Ok(true);
        }
        let tables = if self.guard.may_have_temporary() {
            "SELECT sql FROM main.sqlite_schema WHERE type = 'table' UNION ALL \
             SELECT sql FROM temp.sqlite_schema WHERE type = 'table'/*larder*/"
        } else {
            "SELECT sql FROM main.sqlite_schema WHERE type = 'table'/*larder*/"
        };
        let mut statement = self.conn.prepare_cached(tables)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let sql = row.get_ref(0)?.as_bytes_or_null()?.unwrap_or_default();
            if sql
                .windows(DEFERRED.len())
                .any(|word| word.eq_ignore_ascii_case(DEFERRED))
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// For a count that is not above 0.
fn count_is_negative(conn: &Connection) -> rusqlite::Result<bool> {
    // The rollback of the transaction that created the table removes the table; the statement stays in the cache.
    let violate = || conn.prepare_cached(VIOLATE)?.execute([]);
    match violate() {
        Err(error) if primary_code(&error) == Some(ffi::SQLITE_ERROR) && !conn.is_autocommit() => {
            if !make_table(conn)? {
                return Ok(false);
            }
            violate()?
        }
        other => other?,
    };
    let is_zero = c_api::deferred_violation(conn);
    conn.prepare_cached(MEND)?.execute([])?;
    Ok(!is_zero)
}

/// Returns whether the table could be created. It cannot where `on_connect` has attached as many databases as SQLite
/// allows.
fn make_table(conn: &Connection) -> rusqlite::Result<bool> {
    let attached = "SELECT count(*) FROM pragma_database_list WHERE name = 'larder_internal'";
    if conn.query_row(attached, [], |row| row.get::<_, i64>(0))? == 0 {
        // `on_connect` may have set a lower limit.
        let limit = conn.set_limit(Limit::SQLITE_LIMIT_ATTACHED, i32::MAX)?;
        let done = conn.execute_batch(ATTACH);
        conn.set_limit(Limit::SQLITE_LIMIT_ATTACHED, limit)?;
        match done {
            Err(error) if primary_code(&error) == Some(ffi::SQLITE_ERROR) => return Ok(false),
            other => other?,
        }
    }
    conn.execute_batch(MAKE_TABLE).map(|()| true)
}
