//! Findings about the running store: its alerts, its statements, and whether it has outgrown SQLite.

use crate::monitor::advice::{Finding, Severity};
use crate::monitor::rules::Rule;
use crate::monitor::watchdog::RecentWrites;
use crate::telemetry::alert::Alert;
use crate::telemetry::stats::{StatementStats, Stats};

/// Thresholds above which a database server is worth considering.
const LONG_WAITS: f64 = 5.0;
const WRITES_A_SECOND: f64 = 10_000.0;
const LARGE: u64 = 50_000_000_000;

/// Threshold for the rows that a statement scans per run.
const SCAN: f64 = 1000.0;

/// The maximum number of statements to report, the worst first.
const STATEMENTS: usize = 10;

/// The findings from the measurements.
pub(super) fn look(stats: &Stats, recent_writes: &RecentWrites) -> Vec<Finding> {
    let mut findings: Vec<_> = stats.alerts.iter().map(of_alert).collect();
    findings.extend(statements(&stats.statements));
    findings.extend(outgrown(stats, recent_writes));
    findings
}

fn of_alert(alert: &Alert) -> Finding {
    let by = alert.site.as_ref().map_or(String::new(), |site| format!(": {site}"));
    let why = alert
        .reason
        .as_ref()
        .map_or(String::new(), |reason| format!(" ({reason})"));
    let rule = Rule::of(alert.kind);
    let message = format!("for {:.1?} {}{by}{why}", alert.age, rule.description);
    let measurement = alert.measurement;
    Finding::new(rule.severity, alert.kind.name(), message, rule.remedy).with_measurement(
        measurement.value,
        measurement.threshold,
        measurement.unit,
    )
}

/// Statements that scan whole tables, or for which SQLite builds an index on each run.
fn statements(statements: &[StatementStats]) -> Vec<Finding> {
    let scan = |statement: &StatementStats| {
        let steps = statement.full_scan_steps as f64 / statement.calls.max(1) as f64;
        let message = format!("a statement scans whole tables: {}", statement.sql);
        let remedy = "EXPLAIN QUERY PLAN shows which tables (SCAN): add an index on the columns of its search";
        (steps > SCAN).then(|| {
            Finding::new(Severity::Warning, "full_table_scan", message, remedy).with_measurement(steps, SCAN, "rows")
        })
    };
    let index = |statement: &StatementStats| {
        let rows = statement.automatic_index_rows as f64 / statement.calls.max(1) as f64;
        let message = format!("SQLite builds an index for each run of a statement: {}", statement.sql);
        let remedy = "EXPLAIN QUERY PLAN shows its columns (AUTOMATIC INDEX): create that index";
        (rows > 0.0).then(|| {
            Finding::new(Severity::Warning, "missing_index", message, remedy).with_measurement(rows, 0.0, "rows")
        })
    };
    let scans = statements.iter().filter_map(scan).take(STATEMENTS);
    let indexes = statements.iter().filter_map(index).take(STATEMENTS);
    scans.chain(indexes).collect()
}

/// Signs that one machine and one writer are not enough. Two at once are a reason to consider a server.
fn outgrown(stats: &Stats, recent_writes: &RecentWrites) -> Vec<Finding> {
    let bytes = stats.database.bytes();
    let mut findings: Vec<_> = [
        (recent_writes.long_waits > LONG_WAITS).then(|| {
            let message = "many writes of the last minute waited longer than 100 ms".to_owned();
            let remedy = "Find the writes that use most of the writer's time in Stats::call_sites, and shorten them";
            Finding::new(Severity::Warning, "long_queue_waits", message, remedy).with_measurement(
                recent_writes.long_waits,
                LONG_WAITS,
                "%",
            )
        }),
        (recent_writes.is_long && recent_writes.writes_a_second > WRITES_A_SECOND).then(|| {
            let message = "the write rate is very high".to_owned();
            let remedy = "Combine small writes into one where they belong together; the throughput of one writer is \
                          limited";
            Finding::new(Severity::Warning, "high_write_rate", message, remedy).with_measurement(
                recent_writes.writes_a_second,
                WRITES_A_SECOND,
                "1/s",
            )
        }),
        (stats.external_commits > 0).then(|| {
            let message = "another process writes to the database".to_owned();
            let remedy = "Let that process write through this service, or open the store with Access::Exclusive: \
                          SQLite does not queue two writing processes in order, and their calls can fail with BUSY";
            Finding::new(Severity::Warning, "external_commits", message, remedy).with_measurement(
                stats.external_commits as f64,
                0.0,
                "commits",
            )
        }),
        (bytes > LARGE).then(|| {
            let message = "the database is very large".to_owned();
            let remedy = "Backups and VACUUM take long: move old or independent data to another store";
            Finding::new(Severity::Warning, "large_database", message, remedy).with_measurement(
                bytes as f64,
                LARGE as f64,
                "B",
            )
        }),
    ]
    .into_iter()
    .flatten()
    .collect();
    if findings.len() >= 2 {
        let reasons: Vec<_> = findings.iter().map(|finding| finding.message.as_str()).collect();
        let message = format!("it is time to consider PostgreSQL: {}", reasons.join("; "));
        let remedy = "Each finding has a remedy of its own; together they suggest that one writer on one machine is no \
                      longer enough";
        let count = findings.len() as f64;
        let finding = Finding::new(Severity::Warning, "time_for_postgresql", message, remedy);
        findings.push(finding.with_measurement(count, 2.0, "reasons"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::stats::DatabaseStats;

    fn topics(stats: &Stats, recent_writes: &RecentWrites) -> Vec<&'static str> {
        look(stats, recent_writes).iter().map(|finding| finding.topic).collect()
    }

    fn large() -> Stats {
        let database = DatabaseStats {
            page_size: 4096,
            pages: LARGE / 4096 + 1,
            ..DatabaseStats::default()
        };
        Stats {
            database,
            ..Stats::default()
        }
    }

    #[test]
    fn quiet_store_has_no_advice() {
        assert!(topics(&Stats::default(), &RecentWrites::default()).is_empty());
    }

    #[test]
    fn two_reasons_together_advise_a_server() {
        let quiet = RecentWrites::default();
        let waits = RecentWrites {
            long_waits: 5.1,
            ..quiet
        };
        let many = RecentWrites {
            is_long: true,
            writes_a_second: 10_001.0,
            ..quiet
        };
        let burst = RecentWrites { is_long: false, ..many };
        let others = Stats {
            external_commits: 1,
            ..Stats::default()
        };
        let small = Stats::default();
        assert_eq!(topics(&small, &waits), ["long_queue_waits"]);
        assert_eq!(topics(&small, &many), ["high_write_rate"]);
        assert!(topics(&small, &burst).is_empty());
        assert_eq!(topics(&others, &quiet), ["external_commits"]);
        assert_eq!(topics(&large(), &quiet), ["large_database"]);
        let two = look(&large(), &many);
        let last = two.last().unwrap();
        assert_eq!((two.len(), last.topic), (3, "time_for_postgresql"));
        for reason in ["write rate is very high", "very large"] {
            assert!(last.message.contains(reason), "{last}");
        }
    }

    fn statement(text: &str, scanned: u64, indexed: u64) -> StatementStats {
        StatementStats {
            sql: text.into(),
            calls: 10,
            errors: 0,
            total_time: Default::default(),
            latency: Default::default(),
            rows: 0,
            full_scan_steps: scanned,
            sorts: 0,
            automatic_index_rows: indexed,
        }
    }

    #[test]
    fn statements_that_scan_or_lack_index_are_named() {
        let statements = vec![
            statement("scans", 10_010, 0),
            statement("scans little", 10_000, 0),
            statement("wants an index", 0, 1),
        ];
        let stats = Stats {
            statements,
            ..Stats::default()
        };
        let findings = look(&stats, &RecentWrites::default());
        let told: Vec<_> = findings
            .iter()
            .map(|finding| (finding.topic, &finding.message))
            .collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(
            told[0].0 == "full_table_scan" && told[0].1.ends_with(": scans"),
            "{told:?}"
        );
        assert!(
            told[1].0 == "missing_index" && told[1].1.ends_with(": wants an index"),
            "{told:?}"
        );
    }
}
