//! The usage of call sites and statements: the entries of the two tables, and their aggregation.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use histogram::Histogram;
use rusqlite::{Statement, StatementStatus};

use super::call_site::{CallSite, beginning};
use super::counters::Counter;
use super::histogram::{Amounts, Latency, distribution};
use super::sharded::{Shard, ShardedTable};
use super::stats::{CallSiteStats, Operation, StatementStats};

/// The maximum length of a statement's text in the statistics, in bytes.
const MAX_SQL: usize = 2048;

/// The name of the shared entry for keys past the bound.
pub(crate) const OTHER: &str = "other";

pub(crate) type CallSiteTable = ShardedTable<CallSite, CallSiteUsage>;
pub(crate) type CallSiteShard = Shard<CallSite, CallSiteUsage>;
pub(crate) type StatementTable = ShardedTable<Arc<str>, StatementUsage>;
pub(crate) type StatementShard = Shard<Arc<str>, StatementUsage>;

/// The text of a statement as the table keeps it, which bounds the table in bytes: a longer text than [`MAX_SQL`] is
/// cut. Its end then has the length and a hash of the whole, so that two texts with the same beginning stay apart.
pub(crate) fn bounded_sql(sql: &str) -> Cow<'_, str> {
    if sql.len() <= MAX_SQL {
        return Cow::Borrowed(sql);
    }
    let mut hash = DefaultHasher::new();
    sql.hash(&mut hash);
    let (beginning, length, hash) = (beginning(sql, MAX_SQL), sql.len(), hash.finish());
    Cow::Owned(format!("{beginning} .. (cut; {length} bytes, hash {hash:016x})"))
}

/// Whether [`bounded_sql`] has cut the text.
pub(crate) fn is_cut(sql: &str) -> bool {
    sql.len() > MAX_SQL
}

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
    rows_changed: Counter,
    /// Set at most once, when it is asked for by the figures.
    tables: OnceLock<ScannedTables>,
}

/// The tables that a statement reads in ways that an index may avoid.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ScannedTables {
    /// Read from beginning to end.
    pub(crate) scanned: BTreeSet<String>,
    /// SQLite builds an index of them for each run.
    pub(crate) indexed: BTreeSet<String>,
}

impl StatementUsage {
    /// Counts one run. `find_tables` is called once, by the first run that has scanned much, or that has built an index
    /// of something: a table, or the result of a subquery.
    pub(crate) fn ran(
        &self,
        statement: &Statement<'_>,
        time: Duration,
        rows: Rows,
        failed: bool,
        find_tables: impl FnOnce() -> ScannedTables,
    ) {
        self.runs.ran(time);
        self.rows.add(rows.returned);
        self.rows_changed.add(rows.changed);
        if failed {
            self.runs.errors.add(1);
        }
        let take = |status| u64::try_from(statement.reset_status(status)).unwrap_or_default();
        let (scanned, indexed) = (take(StatementStatus::FullscanStep), take(StatementStatus::AutoIndex));
        self.full_scan_steps.add(scanned);
        self.sorts.add(take(StatementStatus::Sort));
        self.automatic_index_rows.add(indexed);
        if !failed && (scanned > MANY_STEPS || indexed > 0) {
            self.tables.get_or_init(find_tables);
        }
    }
}

/// The rows of one run of a statement.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    pub(crate) returned: u64,
    /// Inserted, updated or deleted, by triggers and foreign key actions, too.
    pub(crate) changed: u64,
}

/// The steps of a full scan from which it is worth to know the tables.
const MANY_STEPS: u64 = 100;

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
    let stats = |(text, entries): (Option<Arc<str>>, Vec<Arc<StatementUsage>>)| {
        let sum = |counter: fn(&StatementUsage) -> &Counter| entries.iter().map(|entry| counter(entry).get()).sum();
        let (latency, errors, total_time) = together(entries.iter().map(|entry| &entry.runs));
        let tables = |of: fn(&ScannedTables) -> &BTreeSet<String>| {
            let known = entries.iter().filter_map(|entry| entry.tables.get());
            let all: BTreeSet<_> = known.flat_map(|tables| of(tables).iter().cloned()).collect();
            all.into_iter().collect()
        };
        StatementStats {
            sql: text.map_or_else(|| OTHER.to_owned(), |text| text.to_string()),
            rows_changed: sum(|usage| &usage.rows_changed),
            scanned_tables: tables(|tables| &tables.scanned),
            automatically_indexed_tables: tables(|tables| &tables.indexed),
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
