//! The slow log: one event for each slow write and each slow read, with a limit per second.
//!
//! A subscriber is user code and may take its time. So a slow call is recorded where it ends ([`Slow`]) and reported
//! later ([`SlowLog::report`]) by the same thread: a blocking read after its connection is back in the pool, an async
//! read after the replies of its group, a write after the replies of its group. No lock is held meanwhile.

use std::path::Path;
use std::time::{Duration, Instant};

use super::event::{CallerSpan, event};
use super::rate_limiter::RateLimiter;
use crate::runtime::sync::Mutex;

/// The slow log of a store's reads, or of its writes.
pub(crate) struct SlowLog {
    /// Locked only for slow calls, and only for one check.
    limiter: Mutex<RateLimiter>,
}

/// A read or a write that was slow.
pub(crate) struct Slow {
    /// The caller's span.
    pub(crate) span: CallerSpan,
    pub(crate) site: String,
    pub(crate) lasted: Duration,
    /// The kind of the call's error.
    pub(crate) error: Option<&'static str>,
    pub(crate) slowest: Option<SlowStatement>,
    pub(crate) call: Call,
}

/// The fields that only a read, or only a write, reports.
pub(crate) enum Call {
    Read {
        rows: u64,
    },
    Write {
        /// Rows that the write changed.
        changed: u64,
        /// The write's queue wait.
        waited: Duration,
    },
}

/// The slowest of the statements that were slow.
#[derive(Debug)]
pub(crate) struct SlowStatement {
    pub(crate) took: Duration,
    /// `Some` only for a statement with parameters: the text of one without may contain data.
    pub(crate) text: Option<String>,
    pub(crate) plan: Option<QueryPlan>,
}

/// The query plan of a statement, from `EXPLAIN QUERY PLAN`. It contains names, and no data.
#[derive(Debug)]
pub(crate) struct QueryPlan {
    /// The steps of the plan.
    pub(crate) steps: String,
    /// The number of steps that scan a whole table or index: "a full-table scan .. is reported with SCAN",
    /// <https://sqlite.org/eqp.html>.
    pub(crate) scans: usize,
}

impl SlowLog {
    pub(crate) fn new(events_per_second: u32) -> Self {
        Self {
            limiter: Mutex::new(RateLimiter::new(events_per_second)),
        }
    }

    /// Emits an event for each slow call, within the limit. `group` is the number of writes in the transaction.
    pub(crate) fn report(&self, path: &Path, slow: impl IntoIterator<Item = Slow>, group: usize) {
        for slow in slow {
            if let Some(suppressed) = self.try_acquire() {
                slow.span.in_scope(|| slow.emit(path, suppressed, group));
            }
        }
    }

    fn try_acquire(&self) -> Option<u64> {
        let mut limiter = self.limiter.lock();
        limiter.try_acquire(Instant::now())
    }
}

impl Slow {
    fn emit(&self, path: &Path, suppressed: u64, group: usize) {
        let slowest = self.slowest.as_ref();
        let plan = slowest.and_then(|statement| statement.plan.as_ref());
        macro_rules! slow {
            ($target:literal, $message:literal, { $($own:tt)* }) => {
                event!(
                    warn,
                    $target,
                    path,
                    {
                        "db.query.text" = slowest.and_then(|statement| statement.text.as_deref()),
                        "error.type" = self.error,
                        site = self.site,
                        duration_ms = self.lasted.as_millis() as u64,
                        slowest_statement_ms = slowest.map(|statement| statement.took.as_millis() as u64),
                        plan = plan.map(|plan| plan.steps.as_str()),
                        full_scans = plan.map(|plan| plan.scans),
                        suppressed,
                        $($own)*
                    },
                    $message
                )
            };
        }
        match self.call {
            Call::Read { rows } => slow!("larder::read", "slow read", { "db.response.returned_rows" = rows }),
            Call::Write { changed, waited } => slow!(
                "larder::write",
                "slow write",
                {
                    rows_changed = changed,
                    queue_wait_ms = waited.as_millis() as u64,
                    group,
                }
            ),
        }
    }
}
