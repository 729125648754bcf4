//! The statistics of SQLite's query planner: when they are out of date, and how they are refreshed.
//!
//! `PRAGMA optimize` looks at the tables that *its* connection has queried, and the writer thread seldom queries. With
//! the bit 0x10000 it looks at all of them. With the bit 1 it changes nothing, and returns an `ANALYZE` for each table
//! whose size has changed tenfold since its last one, and for each that has an index without statistics: "Debug mode. Do
//! not actually perform any optimizations but instead return one line of text for each optimization that would have been
//! done", <https://sqlite.org/pragma.html#pragma_optimize>. It estimates a size from the depth of the tree.
//!
//! So the statements run one at a time. The writer thread checks between them whether a write waits, and what is done
//! stays done. `PRAGMA analysis_limit` bounds each: it reads so many rows of each index, and of the table.
//!
//! Readers keep the statistics that they have read with the schema, until they read it again.

use std::collections::HashSet;

use rusqlite::{Connection, ffi};

use super::Writer;
use super::checkpointer::PATIENCE;
use crate::connection::sql_text::name;
use crate::error::primary_code;

/// Debug mode (1), ANALYZE (2), and all tables (0x10000).
const LIST: &str = "PRAGMA main.optimize(0x10003)";

/// Rows of each index that one ANALYZE reads: what `PRAGMA optimize` takes for a schema of ordinary size.
const ANALYSIS_LIMIT: i64 = 2000;

/// The number of tables from which fewer rows of each are read.
const MANY_TABLES: i64 = 50;

/// How [`Writer::refresh_statistics`] ended.
pub(super) enum Refreshed {
    All,
    /// It has stopped, because `go_on` was false.
    Some,
}

impl Writer {
    /// Runs ANALYZE for each table that needs it, as long as `go_on`. The caller then notes the commits.
    ///
    /// # Errors
    ///
    /// An interrupt, an I/O error, or the first error of a table; the tables after it are analysed all the same.
    pub(super) fn refresh_statistics(&self, mut go_on: impl FnMut() -> bool) -> rusqlite::Result<Refreshed> {
        let refreshed = self.guard.as_internal(|| analyze_all(&self.conn, &mut go_on));
        self.roll_back();
        self.conn.busy_timeout(self.options.busy_timeout)?;
        refreshed
    }
}

fn analyze_all(conn: &Connection, go_on: &mut dyn FnMut() -> bool) -> rusqlite::Result<Refreshed> {
    // The writes that wait should not wait for another process, too.
    conn.busy_timeout(PATIENCE)?;
    let statements = needed(conn)?;
    if statements.is_empty() {
        return Ok(Refreshed::All);
    }
    let own: i64 = conn.query_row("PRAGMA analysis_limit", [], |row| row.get(0))?;
    // As `PRAGMA optimize` does, "to avoid excess run-time in the worst case".
    let few = (MANY_TABLES * ANALYSIS_LIMIT / statements.len() as i64).clamp(100, ANALYSIS_LIMIT);
    set_limit(conn, if own > 0 { own.min(few) } else { few })?;
    let mut failed = None;
    for analyze in statements {
        if !go_on() {
            set_limit(conn, own)?;
            return Ok(Refreshed::Some);
        }
        let Err(error) = conn.execute_batch(&analyze) else {
            continue;
        };
        // An index may need a collation or a function that this connection lacks: that is the error of one table.
        if matches!(primary_code(&error), Some(ffi::SQLITE_INTERRUPT | ffi::SQLITE_IOERR)) {
            set_limit(conn, own)?;
            return Err(error);
        }
        failed.get_or_insert(error);
    }
    set_limit(conn, own)?;
    failed.map_or(Ok(Refreshed::All), Err)
}

/// The statements that `PRAGMA optimize` would run. Those of tables are left out that have no index and never had
/// statistics: nothing could be gained but their size.
fn needed(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let indexed = names(conn, "SELECT tbl_name FROM main.sqlite_schema WHERE type = 'index'")?;
    // The table of statistics may not exist yet.
    let known = names(conn, "SELECT tbl FROM main.sqlite_stat1").unwrap_or_default();
    let lower = |table: &String| table.to_ascii_lowercase();
    let useful: HashSet<String> = indexed.iter().chain(&known).map(lower).collect();
    let mut all = names(conn, LIST)?;
    all.retain(|analyze| table_of(analyze).is_some_and(|table| useful.contains(&lower(&table))));
    Ok(all)
}

/// The first column of each row.
fn names(conn: &Connection, sql: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = conn.prepare(sql)?;
    let names = statement.query_map([], |row| name(row, 0))?;
    names.collect()
}

/// The name in `ANALYZE "main"."name"`.
fn table_of(analyze: &str) -> Option<String> {
    let quoted = analyze.strip_prefix("ANALYZE \"main\".\"")?.strip_suffix('"')?;
    Some(quoted.replace("\"\"", "\""))
}

fn set_limit(conn: &Connection, limit: i64) -> rusqlite::Result<()> {
    conn.execute_batch(&format!("PRAGMA analysis_limit = {limit}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlite_lists_what_it_would_analyze() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(
            "CREATE TABLE \"a \"\"t\"(x); CREATE INDEX i ON \"a \"\"t\"(x); INSERT INTO \"a \"\"t\" VALUES (1);
             CREATE TABLE bare(x); INSERT INTO bare VALUES (1);
             CREATE TABLE empty(x UNIQUE);",
        )
        .unwrap();
        let found = needed(&conn).unwrap();
        assert_eq!(found, ["ANALYZE \"main\".\"a \"\"t\""]);
        assert_eq!(table_of(&found[0]).as_deref(), Some("a \"t"));
        conn.execute_batch(&found[0]).unwrap();
        assert!(needed(&conn).unwrap().is_empty());
        let more = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100)
                    INSERT INTO \"a \"\"t\" SELECT i FROM n";
        conn.execute_batch(more).unwrap();
        assert_eq!(needed(&conn).unwrap(), found);
    }
}
