//! A slice: the part of a job that the writer thread does in one transaction.
//!
//! A slice is a write like any other, in the queue like any other, with two differences (`write/group.rs`): it is the
//! first of its group or none, so that no write waits inside its savepoint, and it is never reported as slow. The writes
//! that arrive while it runs join its transaction after it, each in a savepoint, and share its commit.
//!
//! It ends when the feed is empty, when its time is over, or when it has written as many rows as the last slices had room
//! for: a row of a large index costs a page, and the commit takes as long as there are pages. Its time runs from the moment
//! at which another write begins to wait for it ([`Timer`]), so that none waits for longer, and not from its start.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::cursor::Cursor;
use super::feed::Feed;
use super::report::Violation;
use super::row::BulkRow;
use super::{MAX_VIOLATIONS, OnViolation, Resume};
use crate::error::{Error, Result};
use crate::transaction::WriteTx;
use crate::write::Shared;

/// Violations of one slice for the callback of [`Bulk::on_skip`](super::Bulk::on_skip).
const MAX_NAMED: usize = 10_000;

pub(super) struct Slice<R> {
    pub(super) feed: Arc<Feed<R>>,
    pub(super) shared: Arc<Shared>,
    pub(super) sql: Arc<str>,
    pub(super) on_violation: OnViolation,
    /// How many rows it may skip.
    pub(super) may_skip: u64,
    /// Whether the driver wants to know of each row that is skipped, and not only of the first ones.
    pub(super) names_all: bool,
    pub(super) cursor: Option<Cursor>,
    /// Number of rows before this slice, with those of earlier runs.
    pub(super) position: u64,
    pub(super) budget: Budget,
    /// Rows of this slice so far, for a reply that comes without its report.
    pub(super) reached: Arc<AtomicU64>,
}

/// What a slice may take.
#[derive(Clone, Copy)]
pub(super) struct Budget {
    /// The time for which another write may wait for it to end.
    pub(super) slice: Duration,
    /// Its time in all, once another write waits. Not less than `slice`.
    pub(super) beside: Duration,
    /// Its time in all. Not less than `beside`.
    pub(super) alone: Duration,
    pub(super) rows: u64,
}

/// The time of a slice.
struct Timer {
    budget: Budget,
    /// Its time when it ends. The first write that waits decides.
    end: Duration,
}

impl Timer {
    /// `waits` says whether another write waits from the start.
    fn new(budget: Budget, waits: bool) -> Self {
        let mut timer = Self {
            budget,
            end: budget.alone,
        };
        timer.look(Duration::ZERO, waits);
        timer
    }

    fn look(&mut self, elapsed: Duration, waits: bool) {
        if waits {
            let Budget { slice, beside, .. } = self.budget;
            self.end = self.end.min(beside).min(elapsed.saturating_add(slice));
        }
    }

    /// Whether the slice is over after that time. `waits` says whether another write waits now.
    fn is_over(&mut self, elapsed: Duration, waits: bool) -> bool {
        self.look(elapsed, waits);
        elapsed >= self.end
    }
}

/// What a slice has done.
#[derive(Default)]
pub(super) struct Done {
    /// Rows taken from the feed, with those that were skipped.
    pub(super) rows: u64,
    pub(super) changed: u64,
    /// Rows whose statement has changed something itself, and not by a trigger.
    pub(super) hit: u64,
    pub(super) skipped: u64,
    pub(super) violations: Vec<Violation>,
    /// Skipped lines that are no rows.
    pub(super) bad_lines: u64,
    /// The row after the last one.
    pub(super) failed: Option<Failed>,
    /// Whether another write waited as it ended.
    pub(super) made_wait: bool,
    /// Whether it ended because it had written its rows.
    pub(super) was_full: bool,
    /// When it began.
    pub(super) began: Option<Instant>,
    /// Its time on the writer thread, without the commit.
    pub(super) took: Duration,
}

/// A row that fails the job.
pub(super) struct Failed {
    /// The number of its line, of a row of a file.
    pub(super) line: Option<u64>,
    pub(super) error: Error,
}

impl<R: BulkRow> Slice<R> {
    pub(super) fn run(&self, tx: &WriteTx<'_>) -> Result<Done> {
        let began = Instant::now();
        let before = tx.total_changes();
        let mut done = Done::default();
        let mut last_key = None;
        let most = if self.names_all { MAX_NAMED } else { MAX_VIOLATIONS };
        let mut timer = Timer::new(self.budget, self.made_to_wait());
        self.feed.write_each(|row| -> Result<Next> {
            let (hit, refused) = write_row(tx, &self.sql, row, self.on_violation)?;
            done.hit += u64::from(hit);
            if let Some((error, policy)) = refused {
                let line = row.line();
                if policy == OnViolation::Fail || done.skipped >= self.may_skip {
                    done.failed = Some(Failed { line, error });
                    return Ok(Next::StopBefore);
                }
                done.skipped += 1;
                done.bad_lines += u64::from(row.problem().is_some());
                if done.violations.len() < most {
                    done.violations.push(Violation {
                        row: self.position + done.rows + 1,
                        line,
                        error: error.to_string(),
                    });
                }
            }
            done.rows += 1;
            self.reached.store(done.rows, Relaxed);
            if self.cursor.is_some() {
                last_key = row.key();
            }
            if done.rows >= self.budget.rows {
                done.was_full = true;
                return Ok(Next::StopAfter);
            }
            let names_are_full = self.names_all && done.violations.len() >= most;
            if names_are_full || timer.is_over(began.elapsed(), self.made_to_wait()) {
                return Ok(Next::StopAfter);
            }
            Ok(Next::GoOn)
        })?;
        done.made_wait = !self.shared.queue.is_empty();
        done.changed = tx.total_changes() - before;
        if let Some(cursor) = &self.cursor {
            if done.rows > 0 {
                let rows = self.position + done.rows;
                cursor.save(tx, self.position, Resume { rows, key: last_key })?;
            } else if done.failed.is_some() {
                // A row that another process has written violates a constraint for that reason.
                cursor.check(tx, self.position)?;
            }
        }
        done.began = Some(began);
        done.took = began.elapsed();
        Ok(done)
    }

    /// Whether another write waits, or the store is closing.
    fn made_to_wait(&self) -> bool {
        !self.shared.queue.is_empty() || self.shared.queue.is_closed()
    }
}

/// Writes a row. Returns whether its statement has changed a row; or what is wrong with that row alone, and the policy
/// for it.
pub(super) fn write_row(
    tx: &WriteTx<'_>,
    sql: &str,
    row: &impl BulkRow,
    on_violation: OnViolation,
) -> Result<(bool, Option<(Error, OnViolation)>)> {
    if let Some((problem, policy)) = row.problem() {
        let problem = problem.to_owned();
        return Ok((false, Some((Error::Csv { problem, source: None }, policy))));
    }
    match row.with_values(|values| tx.execute(sql, values)) {
        Ok(changed) => Ok((changed > 0, None)),
        // Of another row of the source it may be right.
        Err(error) if error.is_of_count() => Ok((false, Some((error, OnViolation::Fail)))),
        Err(error) if error.is_of_values() && !tx.has_ended() => Ok((false, Some((error, on_violation)))),
        Err(error) => Err(error),
    }
}

/// What the feed does after a row.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Next {
    GoOn,
    StopAfter,
    /// The row is not written.
    StopBefore,
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn began(waits: bool) -> Timer {
        let budget = Budget {
            slice: 5 * MS,
            beside: 8 * MS,
            alone: 250 * MS,
            rows: 1000,
        };
        Timer::new(budget, waits)
    }

    #[test]
    fn write_that_waits_from_the_start_waits_for_one_slice() {
        let mut timer = began(true);
        assert!(!timer.is_over(4 * MS, true));
        assert!(timer.is_over(5 * MS, true));
    }

    #[test]
    fn time_runs_from_the_moment_when_a_write_begins_to_wait() {
        let mut timer = began(false);
        assert!(!timer.is_over(MS, false));
        assert!(!timer.is_over(2 * MS, true));
        // A write that is withdrawn does not begin it again.
        assert!(!timer.is_over(6 * MS, false));
        assert!(timer.is_over(7 * MS, true));
    }

    #[test]
    fn slice_that_was_long_already_ends_at_once() {
        let mut timer = began(false);
        assert!(!timer.is_over(7 * MS, true));
        assert!(timer.is_over(8 * MS, true));
        let mut timer = began(false);
        assert!(!timer.is_over(100 * MS, false));
        assert!(timer.is_over(101 * MS, true));
    }

    #[test]
    fn slice_that_no_write_waits_for_has_a_longest_time() {
        let mut timer = began(false);
        assert!(!timer.is_over(249 * MS, false));
        assert!(timer.is_over(250 * MS, false));
    }
}
