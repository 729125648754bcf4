//! The slow log: one event for each slow write and each slow read, so many in a second.
//!
//! A subscriber is user code and may take its time. So what is slow is kept where it ends ([`Slow`]) and told later
//! ([`SlowLog::report`]), by the same thread: a read once its connection has been given back, a task's read once all of its
//! group have their replies, a write after the replies of its group. No lock is held meanwhile.

use std::path::Path;
use std::time::{Duration, Instant};

use super::event::{CallerSpan, event};
use super::rate_limiter::RateLimiter;
use crate::runtime::sync::Mutex;

/// The slow reads of a store, or its slow writes.
pub(crate) struct SlowLog {
    /// Taken for one look, and only for what is slow.
    limiter: Mutex<RateLimiter>,
}

/// A read or a write that was slow.
pub(crate) struct Slow {
    /// The caller's.
    pub(crate) span: CallerSpan,
    pub(crate) site: String,
    pub(crate) lasted: Duration,
    /// The kind of its error.
    pub(crate) error: Option<&'static str>,
    pub(crate) slowest: Option<SlowStatement>,
    pub(crate) call: Call,
}

/// What is told of the one and not of the other.
pub(crate) enum Call {
    Read {
        rows: u64,
    },
    Write {
        /// Rows that it changed.
        changed: u64,
        /// How long it was in the queue.
        waited: Duration,
    },
}

/// The slowest statement that was slow.
#[derive(Debug)]
pub(crate) struct SlowStatement {
    pub(crate) took: Duration,
    /// Only of a statement with parameters: the text of one without may have data in it.
    pub(crate) text: Option<String>,
    pub(crate) plan: Option<QueryPlan>,
}

/// How SQLite goes about a statement, as `EXPLAIN QUERY PLAN` says. It has names in it, and no data.
#[derive(Debug)]
pub(crate) struct QueryPlan {
    /// Its steps.
    pub(crate) steps: String,
    /// How many of them go through all of a table or an index: "a full-table scan .. is reported with SCAN",
    /// <https://sqlite.org/eqp.html>.
    pub(crate) scans: usize,
}

impl SlowLog {
    pub(crate) fn new(events_per_second: u32) -> Self {
        Self {
            limiter: Mutex::new(RateLimiter::new(events_per_second)),
        }
    }

    /// Emits an event for each of those, as many as may be. `group` is how many writes shared the transaction.
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
