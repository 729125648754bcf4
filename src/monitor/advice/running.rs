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
        let message = format!("a statement goes through whole tables: {}", statement.sql);
        let remedy = "EXPLAIN QUERY PLAN says which (SCAN): add an index on what it looks for";
        (steps > SCAN).then(|| {
            Finding::new(Severity::Warning, "statement-scans", message, remedy).with_measurement(steps, SCAN, "rows")
        })
    };
    let index = |statement: &StatementStats| {
        let rows = statement.automatic_index_rows as f64 / statement.calls.max(1) as f64;
        let message = format!("SQLite makes an index for each run of a statement: {}", statement.sql);
        let remedy = "EXPLAIN QUERY PLAN says on what (AUTOMATIC INDEX): make that index";
        (rows > 0.0).then(|| {
            Finding::new(Severity::Warning, "missing-index", message, remedy).with_measurement(rows, 0.0, "rows")
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
            let message = "many of the last minute's writes waited for longer than 100 ms".to_owned();
            let remedy = "Look in Stats::call_sites for the writes that take most of the writer's time";
            Finding::new(Severity::Warning, "long-queue-waits", message, remedy).with_measurement(
                recent_writes.long_waits,
                LONG_WAITS,
                "%",
            )
        }),
        (recent_writes.is_long && recent_writes.writes_a_second > WRITES_A_SECOND).then(|| {
            let message = "the store makes very many writes".to_owned();
            let remedy = "Put many into one write where they belong together; one writer has an end somewhere";
            Finding::new(Severity::Warning, "high-write-rate", message, remedy).with_measurement(
                recent_writes.writes_a_second,
                WRITES_A_SECOND,
                "1/s",
            )
        }),
        (stats.external_commits > 0).then(|| {
            let message = "another process writes to the database".to_owned();
            let remedy = "Have it ask this service to write, or open the store with Access::Exclusive: two writers wait \
                          for each other without order, and BUSY is theirs to deal with";
            Finding::new(Severity::Warning, "external-commits", message, remedy).with_measurement(
                stats.external_commits as f64,
                0.0,
                "commits",
            )
        }),
        (bytes > LARGE).then(|| {
            let message = "the database is very large".to_owned();
            let remedy = "Backups and VACUUM take long: keep what is old, or apart, in a store of its own";
            Finding::new(Severity::Warning, "large-database", message, remedy).with_measurement(
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
        let message = format!("it is time to look at PostgreSQL: {}", reasons.join("; "));
        let remedy = "Each may have a remedy of its own here; together they say that one machine's one writer is no longer \
                      enough";
        let count = findings.len() as f64;
        let finding = Finding::new(Severity::Warning, "time-for-postgresql", message, remedy);
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
        assert_eq!(topics(&small, &waits), ["long-queue-waits"]);
        assert_eq!(topics(&small, &many), ["high-write-rate"]);
        assert!(topics(&small, &burst).is_empty());
        assert_eq!(topics(&others, &quiet), ["external-commits"]);
        assert_eq!(topics(&large(), &quiet), ["large-database"]);
        let two = look(&large(), &many);
        let last = two.last().unwrap();
        assert_eq!((two.len(), last.topic), (3, "time-for-postgresql"));
        for reason in ["very many writes", "very large"] {
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
            told[0].0 == "statement-scans" && told[0].1.ends_with(": scans"),
            "{told:?}"
        );
        assert!(
            told[1].0 == "missing-index" && told[1].1.ends_with(": wants an index"),
            "{told:?}"
        );
    }
}
