//! Findings about statements that scan whole tables, or for which SQLite builds an index on each run.
//!
//! The counters alone are not advice. A scan of the result of a view or a subquery cannot have an index, and neither can
//! an automatic index of one, so a finding names a table (`transaction/scan.rs`). A statement that wants the whole table
//! scans it rightly: it returns or changes most of the rows that it visits, or it has no condition.

use super::schema::definition::tokens;
use super::{Finding, Severity};
use crate::telemetry::stats::StatementStats;
use crate::telemetry::usage::is_cut;

/// Threshold for the rows that a statement scans per run.
const SCAN: f64 = 1000.0;

/// The maximum number of statements to report, the worst first.
const STATEMENTS: usize = 10;

pub(super) fn look(statements: &[StatementStats]) -> Vec<Finding> {
    let scans = statements.iter().filter_map(full_table_scan).take(STATEMENTS);
    let indexes = statements.iter().filter_map(missing_index).take(STATEMENTS);
    scans.chain(indexes).collect()
}

fn full_table_scan(statement: &StatementStats) -> Option<Finding> {
    let steps = per_run(statement, statement.full_scan_steps);
    let wanted = per_run(statement, statement.rows.max(statement.rows_changed));
    if statement.scanned_tables.is_empty() || steps <= SCAN || wanted * 2.0 >= steps || !index_may_help(&statement.sql)
    {
        return None;
    }
    let tables = statement.scanned_tables.join(", ");
    let message = format!("a statement scans all of {tables}: {}", statement.sql);
    let remedy = "EXPLAIN QUERY PLAN shows how (SCAN): add an index that serves its condition, its join or its ORDER \
                  BY; instead of OFFSET, continue after the last key; LIKE '%..' needs a full-text table";
    let finding = Finding::new(Severity::Warning, "full_table_scan", message, remedy);
    Some(finding.with_measurement(steps, SCAN, "rows"))
}

fn missing_index(statement: &StatementStats) -> Option<Finding> {
    let rows = per_run(statement, statement.automatic_index_rows);
    if statement.automatically_indexed_tables.is_empty() || rows == 0.0 {
        return None;
    }
    let tables = statement.automatically_indexed_tables.join(", ");
    let message = format!(
        "SQLite builds an index of {tables} for each run of a statement: {}",
        statement.sql
    );
    let remedy = "EXPLAIN QUERY PLAN shows its columns (AUTOMATIC INDEX): create that index";
    let finding = Finding::new(Severity::Warning, "missing_index", message, remedy);
    Some(finding.with_measurement(rows, 0.0, "rows"))
}

fn per_run(statement: &StatementStats, total: u64) -> f64 {
    total as f64 / statement.calls.max(1) as f64
}

/// Aggregate functions of SQLite.
const AGGREGATES: [&str; 8] = [
    "avg",
    "count",
    "group_concat",
    "max",
    "min",
    "string_agg",
    "sum",
    "total",
];

/// Whether the statement has a condition or a join, wants the first rows in some order, or the smallest or the greatest
/// value alone. Otherwise it reads the whole table with or without an index.
fn index_may_help(sql: &str) -> bool {
    let tokens = tokens(sql);
    let has = |word: &str| tokens.iter().any(|token| token == word);
    let calls = tokens
        .windows(2)
        .filter(|pair| pair[1] == "(")
        .map(|pair| pair[0].as_str());
    let mut aggregates = calls.filter(|name| AGGREGATES.contains(name));
    // "Queries that contain a single MIN() or MAX() aggregate function .. might be satisfied by doing a single index
    // lookup", <https://sqlite.org/optoverview.html#minmax>.
    let only = aggregates.next().filter(|_| aggregates.next().is_none());
    // The end of the text may be missing.
    is_cut(sql)
        || has("where")
        || has("join")
        || has("limit") && has("order")
        || matches!(only, Some("min" | "max")) && !has("group")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(sql: &str, steps: u64, rows: u64) -> StatementStats {
        StatementStats {
            sql: sql.into(),
            calls: 10,
            errors: 0,
            total_time: Default::default(),
            latency: Default::default(),
            rows,
            rows_changed: 0,
            scanned_tables: vec!["t".into()],
            automatically_indexed_tables: Vec::new(),
            full_scan_steps: steps,
            sorts: 0,
            automatic_index_rows: 0,
        }
    }

    #[test]
    fn scan_that_an_index_shortens_is_told() {
        for sql in [
            "SELECT * FROM t WHERE a = ?1",
            "SELECT * FROM t NATURAL JOIN u",
            "SELECT * FROM t ORDER BY a LIMIT 10",
            "SELECT max ( a ) FROM t",
            "UPDATE t SET a = 1 where b",
        ] {
            let found = look(&[statement(sql, 10_010, 100)]);
            assert_eq!(found.len(), 1, "{sql}");
            assert!(
                found[0].topic == "full_table_scan" && found[0].message.contains(sql),
                "{}",
                found[0]
            );
            assert!(
                look(&[statement(sql, 10_000, 100)]).is_empty(),
                "as many as the threshold: {sql}"
            );
        }
    }

    #[test]
    fn scan_that_is_wanted_is_not_told() {
        for (sql, rows) in [
            ("SELECT * FROM t", 10_010),
            ("SELECT * FROM t WHERE NOT deleted", 9000),
            ("SELECT kind, count(*), max(a) FROM t GROUP BY kind", 3),
            ("SELECT max(a), sum(b) FROM t", 1),
            ("SELECT min(a), max(a) FROM t", 1),
            ("SELECT sum(a) FROM t -- where", 10),
            ("SELECT 'where' FROM t", 10),
            ("DELETE FROM \"where\"", 0),
            ("SELECT a FROM t ORDER BY a", 10_010),
        ] {
            assert_eq!(look(&[statement(sql, 10_010, rows)]), [], "{sql}");
        }
        let changes = StatementStats {
            rows_changed: 9000,
            ..statement("UPDATE t SET a = 1 WHERE b", 10_010, 0)
        };
        assert_eq!(look(&[changes]), []);
        let view = StatementStats {
            scanned_tables: Vec::new(),
            ..statement("SELECT * FROM view WHERE a = 1", 10_010, 0)
        };
        assert_eq!(look(&[view]), []);
    }

    #[test]
    fn only_automatic_index_of_a_table_is_told() {
        let of = |tables: &[&str]| StatementStats {
            automatic_index_rows: 1,
            automatically_indexed_tables: tables.iter().map(|table| (*table).to_owned()).collect(),
            ..statement("wants an index", 0, 0)
        };
        let found = look(&[of(&["t", "u"])]);
        assert_eq!((found.len(), found[0].topic), (1, "missing_index"));
        assert!(found[0].message.contains("an index of t, u") && found[0].message.ends_with(": wants an index"));
        assert_eq!(look(&[of(&[])]), []);
    }
}
