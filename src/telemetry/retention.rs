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
    all: Mutex<All>,
}

#[derive(Default)]
struct All {
    rules: BTreeMap<u64, Figures>,
    /// Rows that were deleted, also by rules that have ended.
    rows: u64,
}

/// A clock that has jumped ahead.
#[derive(Clone, Copy)]
pub(crate) struct HeldClock {
    pub(crate) ahead: Duration,
    /// The time until it is followed.
    pub(crate) left: Duration,
}

/// A rule that does not follow the clock.
#[derive(Clone)]
pub(crate) struct HeldRule {
    pub(crate) site: CallSite,
    pub(crate) table: String,
    pub(crate) clock: HeldClock,
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
    kept: u64,
    kept_by: Option<String>,
    clock: Option<HeldClock>,
    /// Whether an operator is to look at that clock.
    clock_matters: bool,
}

/// A rule whose sweeps fail.
#[derive(Clone)]
pub(crate) struct FailingSweeps {
    pub(crate) site: CallSite,
    pub(crate) in_a_row: u64,
    /// With the table. Contains no data from the database but a time.
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
            kept: 0,
            kept_by: None,
            clock: None,
            clock_matters: false,
        };
        self.all.lock().rules.insert(rule, begun);
    }

    /// Removes a rule that has ended.
    pub(crate) fn forget(&self, rule: u64) {
        self.all.lock().rules.remove(&rule);
    }

    fn change(&self, rule: u64, change: impl FnOnce(&mut Figures)) {
        if let Some(figures) = self.all.lock().rules.get_mut(&rule) {
            change(figures);
        }
    }

    /// After a slice.
    pub(crate) fn deleted(&self, rule: u64, rows: u64) {
        let mut all = self.all.lock();
        all.rows += rows;
        if let Some(figures) = all.rules.get_mut(&rule) {
            figures.rows += rows;
        }
    }

    /// Rows that retentions have deleted, also those that have ended.
    pub(crate) fn rows(&self) -> u64 {
        self.all.lock().rows
    }

    /// After a sweep: old rows that have not gone.
    pub(crate) fn kept(&self, rule: u64, rows: u64) {
        self.change(rule, |figures| figures.kept = rows);
    }

    /// A clock that is not followed, or none.
    pub(crate) fn clock(&self, rule: u64, clock: Option<HeldClock>, matters: bool) {
        self.change(rule, |figures| {
            figures.clock = clock;
            figures.clock_matters = matters;
        });
    }

    /// The rule that is farthest behind a clock that it will follow.
    pub(crate) fn held(&self) -> Option<HeldRule> {
        let all = self.all.lock();
        let held = all.rules.values().filter(|figures| figures.clock_matters);
        let held = held.filter_map(|figures| Some((figures, figures.clock?)));
        let (figures, clock) = held.max_by_key(|(_, clock)| clock.ahead)?;
        Some(HeldRule {
            site: figures.site.clone(),
            table: figures.table.clone(),
            clock,
        })
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
            figures.kept_by = None;
        });
    }

    /// `ways` are the index to create, and the tables whose rows keep old ones.
    pub(crate) fn failed(&self, rule: u64, reason: String, can_pass: bool, ways: (Option<String>, Option<String>)) {
        self.change(rule, |figures| {
            figures.failures += 1;
            figures.is_failing = !can_pass || figures.failures >= PASSING_FAILURES;
            figures.reason = Some(reason);
            (figures.create_index, figures.kept_by) = ways;
        });
    }

    /// The rule with the most failures in a row.
    pub(crate) fn failing(&self) -> Option<FailingSweeps> {
        let all = self.all.lock();
        let failing = all.rules.values().filter(|figures| figures.is_failing);
        let worst = failing.max_by_key(|figures| figures.failures)?;
        Some(FailingSweeps {
            site: worst.site.clone(),
            in_a_row: worst.failures,
            reason: format!("{}: {}", worst.table, worst.reason.as_deref().unwrap_or_default()),
        })
    }

    pub(crate) fn stats(&self) -> Vec<RetentionStats> {
        let now = uptime();
        let all = self.all.lock();
        let stats = all.rules.values().map(|figures| RetentionStats {
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
            rows_kept: figures.kept,
            kept_by: figures.kept_by.clone(),
            clock_ahead: figures.clock.map(|clock| clock.ahead),
            clock_followed_in: figures.clock.map(|clock| clock.left),
        });
        stats.collect()
    }
}
