//! Findings about the running store: its alerts, and signs that it outgrows SQLite. Those about statements are in
//! `statements.rs`.

use super::statements;
use crate::monitor::advice::{Finding, Severity};
use crate::monitor::rules::Rule;
use crate::monitor::watchdog::{BUSY_PERCENT, LONG_WAITS_PERCENT, RecentWrites, WRITES_A_SECOND};
use crate::telemetry::alert::Alert;
use crate::telemetry::external_commits::LastHour;
use crate::telemetry::stats::{RetentionStats, Stats};

/// The size above which a database server is worth considering.
const LARGE: u64 = 50_000_000_000;

/// The pages in the log from which Litestream's daemon waits for readers, to truncate it (`truncate-page-n`).
const LITESTREAM_PAGES: u64 = 121_359;

/// Findings that explain long waits. Their remedies come before a database server.
const CAUSES_OF_WAITS: &[&str] = &[
    "disk_full",
    "external_commits",
    "foreign_key_without_index",
    "full_table_scan",
    "large_wal",
    "log_left",
    "missing_index",
    "old_read",
    "poisoned",
    "stale_statistics",
    "stuck_checkpoint",
];

/// The findings from the measurements.
pub(super) fn look(stats: &Stats, recent_writes: &RecentWrites, external: LastHour) -> Vec<Finding> {
    let mut findings: Vec<_> = stats.alerts.iter().map(of_alert).collect();
    findings.extend(statements::look(&stats.statements));
    findings.extend(stats.retention.iter().filter_map(retention_without_index));
    findings.extend(stats.retention.iter().filter_map(retention_kept_rows));
    findings.extend(signs_of_growth(stats, recent_writes, external));
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

/// A retention that deletes nothing, because each look for old rows would read the whole table.
fn retention_without_index(retention: &RetentionStats) -> Option<Finding> {
    let create_index = retention.create_index.as_ref()?;
    let RetentionStats {
        table, column, site, ..
    } = retention;
    let message =
        format!("the retention of {table} ({site}) deletes nothing, because no index begins with its column {column}");
    let remedy = format!("Create the index, in a migration: {create_index}");
    Some(Finding::new(
        Severity::Warning,
        "retention_without_index",
        message,
        remedy,
    ))
}

/// A retention whose old rows stay, because rows of other tables refer to them.
fn retention_kept_rows(retention: &RetentionStats) -> Option<Finding> {
    let kept_by = retention.kept_by.as_ref()?;
    let RetentionStats {
        table, site, rows_kept, ..
    } = retention;
    let message = format!("{rows_kept} old rows of {table} stay ({site}), because rows of {kept_by} refer to them");
    let remedy = format!(
        "Delete the rows of {kept_by} first, for instance by a retention of their own, or declare the foreign key ON DELETE \
         CASCADE"
    );
    Some(Finding::new(Severity::Warning, "retention_kept_rows", message, remedy))
}

/// Signs that one machine and one writer may not be enough one day.
fn signs_of_growth(stats: &Stats, recent: &RecentWrites, external: LastHour) -> Vec<Finding> {
    let bytes = stats.database.bytes();
    let of = |severity, topic, message: &str, remedy: &str, (value, threshold, unit): (f64, f64, &'static str)| {
        Finding::new(severity, topic, message.to_owned(), remedy).with_measurement(value, threshold, unit)
    };
    let findings = [
        recent.has_long_waits().then(|| {
            of(
                Severity::Warning,
                "long_queue_waits",
                "many writes of the last minute waited longer than 100 ms",
                "Find the writes that use most of the writer's time in Stats::call_sites, and shorten them",
                (recent.long_waits, LONG_WAITS_PERCENT, "%"),
            )
        }),
        (recent.is_long && recent.is_busy()).then(|| {
            of(
                Severity::Warning,
                "busy_writer",
                "the writer has little time left, although writes share their commits",
                "Shorten the writes that use most of the writer's time (Stats::call_sites), load many rows by Store::bulk, and \
                 put independent data into a store of its own",
                (recent.busy, BUSY_PERCENT, "%"),
            )
        }),
        (recent.is_long && recent.has_many_writes()).then(|| {
            of(
                Severity::Warning,
                "high_write_rate",
                "the write rate is very high",
                "Combine small writes into one where they belong together; the throughput of one writer is limited",
                (recent.writes_a_second, WRITES_A_SECOND, "1/s"),
            )
        }),
        (external.commits > 0).then(|| {
            let (severity, message) = if external.is_sustained {
                (Severity::Warning, "another process writes to the database all the time")
            } else {
                (Severity::Note, "another process has written to the database in the last hour")
            };
            of(
                severity,
                "external_commits",
                message,
                "Let that process write through this service, or open the store with Access::Exclusive: SQLite does not \
                 queue two writing processes in order, and their calls can fail with BUSY",
                (external.commits as f64, 0.0, "commits"),
            )
        }),
        (bytes > LARGE).then(|| {
            of(
                Severity::Warning,
                "large_database",
                "the database is very large",
                "Backups and VACUUM take long: move old or independent data to another store",
                (bytes as f64, LARGE as f64, "B"),
            )
        }),
    ];
    findings.into_iter().flatten().collect()
}

/// A log that the process to which the checkpoints are left does not move.
pub(super) fn log_left(stats: &Stats) -> Option<Finding> {
    let limit = 2 * LITESTREAM_PAGES * stats.database.page_size;
    (stats.wal_bytes > limit).then(|| {
        Finding::new(
            Severity::Warning,
            "log_left",
            "the WAL grows, and the process to which Options::checkpoints leaves the checkpoints makes none".to_owned(),
            "Start that process (litestream replicate), or look in its log why it copies nothing; without one, use \
             Checkpoints::Own",
        )
        .with_measurement(stats.wal_bytes as f64, limit as f64, "B")
    })
}

/// Two signs that have lasted for an hour are a reason to consider a server. A sign does not count if another finding
/// explains it and has a remedy.
pub(super) fn outgrown(
    findings: &[Finding],
    stats: &Stats,
    recent: &RecentWrites,
    external: LastHour,
) -> Option<Finding> {
    let has = |topics: &[&str]| findings.iter().any(|finding| topics.contains(&finding.topic));
    let signs = [
        (recent.hour_of_waits && !has(CAUSES_OF_WAITS)).then_some("many writes wait longer than 100 ms"),
        // A busy writer makes others wait: that is one sign.
        (recent.hour_of_work && !recent.hour_of_waits && !has(CAUSES_OF_WAITS))
            .then_some("the writer is busy although writes share their commits"),
        recent.hour_of_writes.then_some("the write rate is very high"),
        external
            .is_sustained
            .then_some("another process writes to the database"),
        (stats.database.bytes() > LARGE).then_some("the database is very large"),
    ];
    let signs: Vec<_> = signs.into_iter().flatten().collect();
    if signs.len() < 2 {
        return None;
    }
    let message = format!(
        "for an hour there have been signs that PostgreSQL is the better choice: {}",
        signs.join("; ")
    );
    let remedy = "Each sign has a remedy of its own, to try first; together they suggest that one writer on one machine is \
                  no longer enough. What a move would take is in the guide on PostgreSQL";
    let finding = Finding::new(Severity::Warning, "time_for_postgresql", message, remedy);
    Some(finding.with_measurement(signs.len() as f64, 2.0, "signs"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::stats::DatabaseStats;

    const NO_HOUR: LastHour = LastHour {
        commits: 0,
        is_sustained: false,
    };

    fn topics(stats: &Stats, recent: &RecentWrites, external: LastHour) -> Vec<&'static str> {
        look(stats, recent, external)
            .iter()
            .map(|finding| finding.topic)
            .collect()
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
        assert!(topics(&Stats::default(), &RecentWrites::default(), NO_HOUR).is_empty());
    }

    #[test]
    fn each_sign_of_growth_is_told() {
        let (quiet, small) = (RecentWrites::default(), Stats::default());
        let waits = RecentWrites {
            waits: 20,
            long_waits: 5.1,
            ..quiet
        };
        assert_eq!(topics(&small, &waits, NO_HOUR), ["long_queue_waits"]);
        let three = RecentWrites { waits: 3, ..waits };
        assert!(topics(&small, &three, NO_HOUR).is_empty());
        let many = RecentWrites {
            is_long: true,
            writes_a_second: 10_001.0,
            ..quiet
        };
        assert_eq!(topics(&small, &many, NO_HOUR), ["high_write_rate"]);
        let busy = RecentWrites {
            is_long: true,
            busy: 90.0,
            writes_a_group: 8.0,
            ..quiet
        };
        let found = look(&small, &busy, NO_HOUR);
        assert_eq!((found.len(), found[0].topic), (1, "busy_writer"));
        assert!(found[0].to_string().contains("90"), "{}", found[0]);
        let alone = RecentWrites {
            writes_a_group: 1.2,
            ..busy
        };
        assert!(topics(&small, &alone, NO_HOUR).is_empty());
        let burst = RecentWrites { is_long: false, ..many };
        assert!(topics(&small, &burst, NO_HOUR).is_empty());
        let once = LastHour {
            commits: 1,
            is_sustained: false,
        };
        let found = look(&small, &quiet, once);
        assert_eq!(
            (found[0].topic, found[0].severity),
            ("external_commits", Severity::Note)
        );
        let found = look(
            &small,
            &quiet,
            LastHour {
                is_sustained: true,
                ..once
            },
        );
        assert_eq!(
            (found[0].topic, found[0].severity),
            ("external_commits", Severity::Warning)
        );
        assert_eq!(topics(&large(), &quiet, NO_HOUR), ["large_database"]);
    }

    #[test]
    fn log_that_nobody_moves_is_told() {
        let database = DatabaseStats {
            page_size: 4096,
            ..DatabaseStats::default()
        };
        let stats = |wal_bytes| Stats {
            wal_bytes,
            database,
            ..Stats::default()
        };
        // The daemon lets it grow to 497 MB.
        assert_eq!(log_left(&stats(700_000_000)), None);
        assert_eq!(log_left(&stats(1_000_000_000)).unwrap().topic, "log_left");
    }

    #[test]
    fn two_signs_for_an_hour_advise_a_server() {
        let hour = RecentWrites {
            hour_of_waits: true,
            hour_of_writes: true,
            ..RecentWrites::default()
        };
        let waits = RecentWrites {
            hour_of_writes: false,
            ..hour
        };
        let external = LastHour {
            commits: 100,
            is_sustained: true,
        };
        let told = |findings: &[Finding], stats: &Stats, recent: &RecentWrites, external: LastHour| {
            outgrown(findings, stats, recent, external).map(|finding| finding.message)
        };
        let message = told(&[], &large(), &hour, NO_HOUR).unwrap();
        for sign in ["writes wait", "write rate", "very large"] {
            assert!(message.contains(sign), "{message}");
        }
        assert!(told(&[], &large(), &waits, NO_HOUR).is_some());
        assert_eq!(told(&[], &Stats::default(), &waits, NO_HOUR), None);
        let work = RecentWrites {
            hour_of_work: true,
            ..RecentWrites::default()
        };
        let message = told(&[], &large(), &work, NO_HOUR).unwrap();
        assert!(message.contains("writer is busy"), "{message}");
        let both = RecentWrites {
            hour_of_waits: true,
            ..work
        };
        assert_eq!(told(&[], &Stats::default(), &both, NO_HOUR), None);
        let scan = Finding::new(Severity::Warning, "full_table_scan", String::new(), "");
        assert_eq!(told(&[scan], &large(), &work, NO_HOUR), None);
        // What the last minute shows is no reason.
        let minute = RecentWrites {
            is_long: true,
            waits: 1000,
            long_waits: 50.0,
            writes_a_second: 20_000.0,
            ..RecentWrites::default()
        };
        assert_eq!(told(&[], &large(), &minute, NO_HOUR), None);
        // The waits have a cause with a remedy, which is in the list: a scan, or the other process.
        for topic in CAUSES_OF_WAITS {
            let cause = Finding::new(Severity::Warning, topic, String::new(), "");
            assert_eq!(told(&[cause], &large(), &waits, NO_HOUR), None, "{topic}");
        }
        let found = look(&Stats::default(), &waits, external);
        assert_eq!(told(&found, &Stats::default(), &waits, external), None);
        assert!(told(&found, &large(), &waits, external).is_some());
    }
}
