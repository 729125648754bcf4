//! The tables that a statement scans, from its `EXPLAIN`.
//!
//! SQLite counts each step of a full scan and each row of an automatic index
//! (<https://sqlite.org/c3ref/c_stmtstatus_counter.html>), but not of what: of a table, or of the result of a view or a
//! subquery, for which no index can be created. `EXPLAIN QUERY PLAN` names aliases. The byte code has both: the
//! instruction at the end of a counted loop has the number of the counter as its P5, and its cursor was opened on the
//! root page of a table or an index, or not.
//!
//! "The details of the EXPLAIN .. output .. may change from one release of SQLite to the next",
//! <https://sqlite.org/lang_explain.html>. Where it has changed no table is found, and the advice is not given; a test
//! fails.

use std::collections::{BTreeSet, HashMap};

use rusqlite::{Connection, Result};

use crate::telemetry::usage::ScannedTables;

/// `SQLITE_STMTSTATUS_FULLSCAN_STEP` and `SQLITE_STMTSTATUS_AUTOINDEX`.
const FULL_SCAN_STEP: i64 = 1;
const AUTOMATIC_INDEX: i64 = 3;

/// The number of `main` among the databases of a connection.
const MAIN: i64 = 0;

/// Takes as long as to prepare the statement, and some 20 us more.
///
/// # Errors
///
/// The statement cannot be prepared here.
pub(super) fn tables(conn: &Connection, sql: &str) -> Result<ScannedTables> {
    let (mut scanned, mut indexed) = (BTreeSet::new(), BTreeSet::new());
    let mut roots = HashMap::new();
    let mut explain = conn.prepare(&format!("EXPLAIN {sql}"))?;
    // The parameters stay unbound.
    let mut rows = explain.raw_query();
    while let Some(row) = rows.next()? {
        let instruction: String = row.get("opcode")?;
        let (cursor, counter): (i64, i64) = (row.get("p1")?, row.get("p5")?);
        match instruction.as_str() {
            // The program of a trigger has cursors of its own.
            "Init" => roots.clear(),
            "OpenRead" | "OpenWrite" | "ReopenIdx" if row.get::<_, i64>("p3")? == MAIN => {
                roots.insert(cursor, row.get::<_, i64>("p2")?);
            }
            "Next" | "Prev" if counter == FULL_SCAN_STEP => scanned.extend(roots.get(&cursor)),
            "Next" | "Prev" if counter == AUTOMATIC_INDEX => indexed.extend(roots.get(&cursor)),
            _ => {}
        }
    }
    drop(rows);
    Ok(ScannedTables {
        scanned: names(conn, &scanned)?,
        indexed: names(conn, &indexed)?,
    })
}

fn names(conn: &Connection, roots: &BTreeSet<i64>) -> Result<BTreeSet<String>> {
    if roots.is_empty() {
        return Ok(BTreeSet::new());
    }
    let mut name = conn.prepare("SELECT tbl_name FROM main.sqlite_schema WHERE rootpage = ?1/*larder*/")?;
    let all = roots.iter().map(|root| {
        let found = name.query_map([root], |row| row.get(0))?;
        found.collect::<Result<Vec<String>>>()
    });
    Ok(all.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}
