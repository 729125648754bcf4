//! The usage of call sites and statements: the entries of the two tables, and their aggregation.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use histogram::Histogram;
use rusqlite::{Statement, StatementStatus};

use super::call_site::CallSite;
use super::counters::Counter;
use super::histogram::{Amounts, Latency, distribution};
use super::sharded::{Shard, ShardedTable};
use super::stats::{CallSiteStats, Operation, StatementStats};

/// The name of the shared entry for keys past the bound.
const OTHER: &str = "other";

pub(crate) type CallSiteTable = ShardedTable<CallSite, CallSiteUsage>;
pub(crate) type CallSiteShard = Shard<CallSite, CallSiteUsage>;
pub(crate) type StatementTable = ShardedTable<String, StatementUsage>;
pub(crate) type StatementShard = Shard<String, StatementUsage>;

/// The number of runs, their errors and their times.
struct RunTimes {
    errors: Counter,
    nanos: Counter,
    /// Its count is the number of runs.
    times: Amounts,
}

impl Default for RunTimes {
    fn default() -> Self {
        Self {
            errors: Counter::default(),
            nanos: Counter::default(),
            times: Amounts::coarse(),
        }
    }
}

impl RunTimes {
    fn ran(&self, time: Duration) {
        let nanos = super::histogram::nanos(time);
        self.nanos.add(nanos);
        self.times.add(nanos);
    }
}

/// The usage of one call site, on one connection.
#[derive(Default)]
pub(crate) struct CallSiteUsage {
    runs: RunTimes,
    rows_changed: Counter,
    rows_read: Counter,
}

impl CallSiteUsage {
    /// Records one run of the closure.
    pub(crate) fn ran(&self, time: Duration, rows_read: u64) {
        self.runs.ran(time);
        if rows_read > 0 {
            self.rows_read.add(rows_read);
        }
    }

    pub(crate) fn failed(&self) {
        self.runs.errors.add(1);
    }

    pub(crate) fn committed(&self, rows_changed: u64) {
        self.rows_changed.add(rows_changed);
    }
}

/// The usage of one statement, on one connection.
#[derive(Default)]
pub(crate) struct StatementUsage {
    runs: RunTimes,
    rows: Counter,
    full_scan_steps: Counter,
    sorts: Counter,
    automatic_index_rows: Counter,
}

impl StatementUsage {
    pub(crate) fn ran(&self, statement: &Statement<'_>, time: Duration, rows: u64, failed: bool) {
        self.runs.ran(time);
        self.rows.add(rows);
        if failed {
            self.runs.errors.add(1);
        }
        let take = |status| u64::try_from(statement.reset_status(status)).unwrap_or_default();
        self.full_scan_steps.add(take(StatementStatus::FullscanStep));
        self.sorts.add(take(StatementStatus::Sort));
        self.automatic_index_rows.add(take(StatementStatus::AutoIndex));
    }
}

/// The total time of each call site's closures.
pub(crate) fn totals(sites: &CallSiteTable) -> Vec<(String, Duration)> {
    let total = |entries: Vec<Arc<CallSiteUsage>>| entries.iter().map(|entry| entry.runs.nanos.get()).sum();
    let entries = sites.entries().into_iter();
    let named = entries.map(|(site, entries)| (name(site), Duration::from_nanos(total(entries))));
    named.collect()
}

/// All call sites, the most expensive first.
pub(crate) fn sites(writes: &CallSiteTable, reads: &CallSiteTable) -> Vec<CallSiteStats> {
    let mut all = Vec::new();
    for (operation, sites) in [(Operation::Write, writes), (Operation::Read, reads)] {
        all.extend(sites_of(operation, sites));
    }
    all.sort_by_key(|site| std::cmp::Reverse(site.total_time));
    all
}

fn sites_of(operation: Operation, sites: &CallSiteTable) -> Vec<CallSiteStats> {
    let stats = |(site, entries): (String, Vec<Arc<CallSiteUsage>>)| {
        let sum = |counter: fn(&CallSiteUsage) -> &Counter| entries.iter().map(|entry| counter(entry).get()).sum();
        let (latency, errors, total_time) = together(entries.iter().map(|entry| &entry.runs));
        CallSiteStats {
            site,
            operation,
            calls: latency.count,
            errors,
            total_time,
            latency,
            rows_changed: sum(|usage| &usage.rows_changed),
            rows_read: sum(|usage| &usage.rows_read),
        }
    };
    // Omits a call site whose closure has started but never ended.
    let all = by_name(sites).into_iter().map(stats);
    all.filter(|site| site.calls > 0).collect()
}

/// The times of each call site's closures, in nanoseconds.
#[cfg(feature = "metrics")]
pub(crate) fn times(sites: &CallSiteTable) -> Vec<(String, Histogram)> {
    let times = |(site, entries): (String, Vec<Arc<CallSiteUsage>>)| {
        let runs = entries.iter().map(|entry| &entry.runs);
        (site, all_times(runs))
    };
    let all = by_name(sites).into_iter().map(times);
    all.filter(|(_, times)| times.iter().any(|bucket| bucket.count() > 0))
        .collect()
}

/// Merges the entries of one line of code, which may have several addresses.
fn by_name(sites: &CallSiteTable) -> BTreeMap<String, Vec<Arc<CallSiteUsage>>> {
    let mut by_name = BTreeMap::<_, Vec<_>>::new();
    for (site, entries) in sites.entries() {
        by_name.entry(name(site)).or_default().extend(entries);
    }
    by_name
}

fn name(site: Option<CallSite>) -> String {
    site.map_or_else(|| OTHER.to_owned(), |site| site.to_string())
}

/// All statements, the most expensive first.
pub(crate) fn statements(statements: &StatementTable) -> Vec<StatementStats> {
    let stats = |(text, entries): (Option<String>, Vec<Arc<StatementUsage>>)| {
        let sum = |counter: fn(&StatementUsage) -> &Counter| entries.iter().map(|entry| counter(entry).get()).sum();
        let (latency, errors, total_time) = together(entries.iter().map(|entry| &entry.runs));
        StatementStats {
            sql: text.unwrap_or_else(|| OTHER.to_owned()),
            calls: latency.count,
            errors,
            total_time,
            latency,
            rows: sum(|usage| &usage.rows),
            full_scan_steps: sum(|usage| &usage.full_scan_steps),
            sorts: sum(|usage| &usage.sorts),
            automatic_index_rows: sum(|usage| &usage.automatic_index_rows),
        }
    };
    let mut all: Vec<_> = statements.entries().into_iter().map(stats).collect();
    all.retain(|statement| statement.calls > 0);
    all.sort_by_key(|statement| std::cmp::Reverse(statement.total_time));
    all
}

fn together<'a>(runs: impl Iterator<Item = &'a RunTimes> + Clone) -> (Latency, u64, Duration) {
    let (mut errors, mut nanos, mut max) = (0, 0, 0);
    for run in runs.clone() {
        errors += run.errors.get();
        nanos += run.nanos.get();
        max = max.max(run.times.max());
    }
    let times = all_times(runs);
    (distribution(&times, max).into(), errors, Duration::from_nanos(nanos))
}

fn all_times<'a>(runs: impl Iterator<Item = &'a RunTimes>) -> Histogram {
    let mut times = Amounts::coarse().load();
    for run in runs {
        // All histograms have the same shape, and no counter reaches 2^64 runs.
        let _ = times.checked_add_assign(&run.times.load());
    }
    times
}
