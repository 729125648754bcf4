//! The retained tables of a store: how many rows were deleted, and which sweeps fail.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::call_site::CallSite;
use super::stats::RetentionStats;
use crate::runtime::clock::uptime;
use crate::runtime::sync::Mutex;

/// Sweeps in a row that may fail for a reason that can pass, such as busy readers.
const PASSING_FAILURES: u64 = 3;

/// Its mutex is held for one read or one change, and no other lock is taken under it.
#[derive(Default)]
pub(crate) struct RetentionFigures {
    rules: Mutex<BTreeMap<u64, Figures>>,
}

struct Figures {
    site: CallSite,
    table: String,
    column: String,
    keep: Duration,
    rows: u64,
    swept: Option<Instant>,
    /// By the uptime of the machine.
    due: Option<Duration>,
    failures: u64,
    is_failing: bool,
    reason: Option<String>,
    create_index: Option<String>,
}

/// A rule whose sweeps fail.
#[derive(Clone)]
pub(crate) struct FailingSweeps {
    pub(crate) site: CallSite,
    pub(crate) in_a_row: u64,
    /// With the table. Contains no data from the database.
    pub(crate) reason: String,
}

impl RetentionFigures {
    pub(crate) fn begin(&self, rule: u64, site: &CallSite, (table, column): (&str, &str), keep: Duration) {
        let begun = Figures {
            site: site.clone(),
            table: table.to_owned(),
            column: column.to_owned(),
            keep,
            rows: 0,
            swept: None,
            due: None,
            failures: 0,
            is_failing: false,
            reason: None,
            create_index: None,
        };
        self.rules.lock().insert(rule, begun);
    }

    /// Removes a rule that has ended.
    pub(crate) fn forget(&self, rule: u64) {
        self.rules.lock().remove(&rule);
    }

    fn change(&self, rule: u64, change: impl FnOnce(&mut Figures)) {
        if let Some(figures) = self.rules.lock().get_mut(&rule) {
            change(figures);
        }
    }

    /// After a slice.
    pub(crate) fn deleted(&self, rule: u64, rows: u64) {
        self.change(rule, |figures| figures.rows += rows);
    }

    pub(crate) fn next_at(&self, rule: u64, due: Duration) {
        self.change(rule, |figures| figures.due = Some(due));
    }

    pub(crate) fn succeeded(&self, rule: u64) {
        self.change(rule, |figures| {
            figures.swept = Some(Instant::now());
            figures.failures = 0;
            figures.is_failing = false;
            figures.reason = None;
            figures.create_index = None;
        });
    }

    pub(crate) fn failed(&self, rule: u64, reason: String, can_pass: bool, create_index: Option<String>) {
        self.change(rule, |figures| {
            figures.failures += 1;
            figures.is_failing = !can_pass || figures.failures >= PASSING_FAILURES;
            figures.reason = Some(reason);
            figures.create_index = create_index;
        });
    }

    /// The rule with the most failures in a row.
    pub(crate) fn failing(&self) -> Option<FailingSweeps> {
        let rules = self.rules.lock();
        let failing = rules.values().filter(|figures| figures.is_failing);
        let worst = failing.max_by_key(|figures| figures.failures)?;
        Some(FailingSweeps {
            site: worst.site.clone(),
            in_a_row: worst.failures,
            reason: format!("{}: {}", worst.table, worst.reason.as_deref().unwrap_or_default()),
        })
    }

    pub(crate) fn stats(&self) -> Vec<RetentionStats> {
        let now = uptime();
        let rules = self.rules.lock();
        let stats = rules.values().map(|figures| RetentionStats {
            table: figures.table.clone(),
            column: figures.column.clone(),
            keep: figures.keep,
            site: figures.site.to_string(),
            rows: figures.rows,
            last_sweep_ago: figures.swept.map(|swept| swept.elapsed()),
            next_in: figures.due.map(|due| due.saturating_sub(now)),
            failures_in_a_row: figures.failures,
            last_error: figures.reason.clone(),
            create_index: figures.create_index.clone(),
        });
        stats.collect()
    }
}
