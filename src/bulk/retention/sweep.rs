//! The thread of a store's retentions, `larder-retain`.
//!
//! A sweep of a rule is a look for old rows, and slices until a look finds none. Each look is short, by the index. Each
//! slice waits for its moment: no other thread has written for [`QUIET`], and none is about to. Beside writes that do not
//! pause it is taken all the same after a gap of [`GAPS`] times the last slice, so the slices have at most one part in
//! [`GAPS`] of the writer's time, and old rows do not pile up.
//!
//! A sweep passes each old row once, also those that a constraint keeps. As long as there are such rows, the next sweeps
//! begin behind them, where rows become old, and all are tried again after [`ALL_AGAIN`] sweeps, or later if there are so
//! many that more than one part in [`PAUSE_AFTER_ALL`] of the time would go into rows that cannot go; after an hour
//! ([`LONGEST_PAUSE`]) at the latest.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rusqlite::ffi;

use super::clock_guard::{ClockGuard, Held, LONGEST_HOLD, Reading};
use super::look::{self, Age, OldRow, Position, Refusal, Target, Walk};
use super::record::{self, Record};
use super::{Retainer, Rule};
use crate::bulk::feed::Feed;
use crate::bulk::slice::{Budget, Done, Slice};
use crate::bulk::{ALONE_LOG, LEAST_ROWS, OnViolation, PATIENCE, SLICE, SLICE_LOG};
use crate::engine::Engine;
use crate::error::{Error, Result, primary_code};
use crate::options::{Settings, WhenFull};
use crate::queue::Submission;
use crate::queue::slot::Caller;
use crate::read::Readers;
use crate::runtime::clock::uptime;
use crate::runtime::panic::caught;
use crate::telemetry::Telemetry;
use crate::telemetry::bulk::{RETAINS, Running};
use crate::telemetry::call_site::CallSite;
use crate::telemetry::event::event;
use crate::transaction::{ReadTx, WriteTx};
use crate::write::Shared;
use crate::write::context::WriteOrder;

/// How often a rule looks for old rows; more often if it keeps them for less than ten times as long.
const INTERVAL: Duration = Duration::from_secs(60);
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

/// How soon a sweep that failed is tried again, at the earliest.
const SHORTEST_RETRY: Duration = Duration::from_secs(1);

/// How often the thread looks at the clock: its sleep does not advance while the machine is suspended.
const CLOCK_CHECK: Duration = Duration::from_secs(60);

/// The window of [`RetainOptions::rows_per_minute`](super::RetainOptions::rows_per_minute).
const MINUTE: Duration = Duration::from_secs(60);

/// How long no other thread has written in an idle moment.
const QUIET: Duration = Duration::from_millis(100);
const QUIET_CHECK: Duration = Duration::from_millis(20);

/// The gap between two slices beside writes that do not pause.
const GAPS: u32 = 40;
const SHORTEST_GAP: Duration = Duration::from_millis(200);

/// The time of a slice in an idle moment, if no write arrives.
const ALONE: Duration = Duration::from_millis(50);

/// Rows of the first look, and the most.
const FIRST_ROWS: u64 = 500;
const MOST_ROWS: u64 = 8192;

/// When rows that could not be deleted are tried again: after so many intervals, and so many times the time that they took,
/// but after an hour at the latest.
const ALL_AGAIN: u32 = 10;
const PAUSE_AFTER_ALL: u32 = 20;
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// By how much a slice is made smaller that fails because of one of its rows.
const SMALLER: u64 = 8;

/// The state of the thread.
pub(super) struct Sweeper {
    retainer: Arc<Retainer>,
    shared: Arc<Shared>,
    readers: Arc<Readers>,
    telemetry: Arc<Telemetry>,
    settings: Settings,
    /// The writes of the store at the last look, and when one of another thread was seen.
    writes: u64,
    company: Instant,
    /// When the last slice ended, and the time that it took.
    last_slice: (Instant, Duration),
}

/// The progress of one rule.
struct Progress {
    due: Duration,
    /// When the current minute began, and the rows that were tried since.
    minute: (Duration, u64),
    /// Rows of the next look.
    rows: u64,
    /// The sweep that goes on; `None` between two.
    sweep: Option<Sweep>,
    /// The old rows that the last sweep has left.
    left: Option<Left>,
    /// `None` before the first look.
    clock: Option<ClockGuard>,
    /// Whether the column had a time near the clock once.
    is_checked: bool,
    /// Calls of [`Retainer::trust_clock`] that are done, and those for which a look is due.
    trusts: u64,
    trusts_seen: u64,
    /// Whether the clock that was told last is ahead; `None` if it is followed.
    told: Option<bool>,
}

struct Sweep {
    walk: Walk,
    tried: u64,
    /// Old rows that have not gone.
    kept: u64,
    /// Those of them that a constraint keeps.
    violating: u64,
    /// Whether it began with the oldest row.
    is_whole: bool,
    began: Duration,
    /// From the first rows on that it has found.
    running: Option<Running>,
}

impl Sweep {
    /// As a write is submitted.
    fn submitted(&self) {
        if let Some(running) = &self.running {
            running.submitted();
        }
    }

    /// After a write: its rows, and the time that it took on the writer thread.
    fn replied(&self, rows: u64, took: Duration) {
        if let Some(running) = &self.running {
            running.note(rows, took);
        }
    }
}

/// What a sweep has left.
#[derive(Default)]
struct Ended {
    kept: u64,
    violating: u64,
}

/// Old rows that have not gone.
struct Left {
    rows: u64,
    violating: u64,
    behind: Position,
    /// When they are tried again.
    again: Duration,
}

/// What a turn has found.
enum Turn {
    /// The sweep goes on at once.
    GoesOn,
    /// The rows of this minute are used up.
    MinuteIsOver,
    Ended,
    Refused(Refusal),
}

impl Progress {
    fn starting(rule: &Rule) -> Self {
        Self {
            due: uptime(),
            minute: (uptime(), 0),
            rows: FIRST_ROWS,
            sweep: None,
            left: None,
            clock: None,
            is_checked: false,
            trusts: rule.trusts,
            trusts_seen: rule.trusts,
            told: None,
        }
    }

    /// Reads the clock. Returns the time by which rows are old.
    fn observe(&mut self, rule: &Rule, reading: &Reading, record: Option<Record>, trusts: u64) -> Duration {
        let (keep, hold) = (rule.what.keep, rule.what.hold());
        self.is_checked |= record.as_ref().is_some_and(|record| record.is_checked);
        let clock = self.clock.get_or_insert_with(|| match record {
            Some(record) => ClockGuard::resume(keep, hold, record.clock, reading),
            None => ClockGuard::new(keep, hold, reading),
        });
        if self.trusts != trusts {
            self.trusts = trusts;
            clock.trust(reading);
        }
        clock.observe(reading)
    }

    /// Begins a sweep, or goes on with it.
    fn sweep(&mut self) -> &mut Sweep {
        let now = uptime();
        let left = self.left.as_ref().filter(|left| now < left.again);
        self.sweep.get_or_insert_with(|| Sweep {
            walk: Walk::from(left.map(|left| left.behind.clone())),
            tried: 0,
            kept: left.map_or(0, |left| left.rows),
            violating: left.map_or(0, |left| left.violating),
            is_whole: left.is_none(),
            began: now,
            running: None,
        })
    }

    /// Ends the sweep. The next one begins behind the old rows that it has left.
    fn end(&mut self, interval: Duration) -> Ended {
        let Some(sweep) = self.sweep.take() else {
            self.left = None;
            return Ended::default();
        };
        let ended = Ended {
            kept: sweep.kept,
            violating: sweep.violating,
        };
        let now = uptime();
        let took = now.saturating_sub(sweep.began);
        let again = match &self.left {
            Some(left) if !sweep.is_whole => left.again,
            _ => now.saturating_add(pause(interval, took, sweep.kept, sweep.tried)),
        };
        let behind = sweep.walk.position.filter(|_| sweep.kept > 0);
        self.left = behind.map(|behind| Left {
            rows: sweep.kept,
            violating: sweep.violating,
            behind,
            again,
        });
        ended
    }

    /// The sweep has failed: the table may be another.
    fn fail(&mut self) {
        self.sweep = None;
        self.left = None;
    }
}

impl Sweeper {
    pub(super) fn new(engine: &Engine, retainer: &Arc<Retainer>) -> Self {
        Self {
            retainer: Arc::clone(retainer),
            shared: Arc::clone(&engine.shared),
            readers: Arc::clone(&engine.readers),
            telemetry: Arc::clone(&engine.telemetry),
            settings: engine.options.clone(),
            writes: engine.telemetry.counters.writes.get(),
            company: Instant::now(),
            last_slice: (Instant::now(), Duration::ZERO),
        }
    }

    pub(super) fn run(mut self) {
        let mut all: HashMap<u64, Progress> = HashMap::new();
        loop {
            let changes = self.retainer.changes();
            let Some(rules) = self.retainer.rules() else { return };
            all.retain(|number, _| rules.iter().any(|rule| rule.number == *number));
            for rule in &rules {
                let progress = all.entry(rule.number).or_insert_with(|| Progress::starting(rule));
                let trusts = self.retainer.trusts();
                if progress.trusts_seen != trusts {
                    progress.trusts_seen = trusts;
                    progress.due = progress.due.min(uptime());
                }
            }
            let next = rules
                .iter()
                .min_by_key(|rule| all.get(&rule.number).map(|progress| progress.due));
            let Some((rule, progress)) = next.and_then(|rule| Some((rule, all.get_mut(&rule.number)?))) else {
                continue;
            };
            if self.shared.queue.is_closed() {
                return self.retainer.end(&self.telemetry);
            }
            let left = progress.due.saturating_sub(uptime());
            if !left.is_zero() {
                let has_changed = || self.retainer.changes() != changes;
                self.readers.pause(left.min(CLOCK_CHECK), has_changed);
                continue;
            }
            self.take_turn(rule, progress);
            self.telemetry.retention.next_at(rule.number, progress.due);
        }
    }

    /// A panic of `on_connect` or of a subscriber does not end the thread.
    fn take_turn(&mut self, rule: &Rule, progress: &mut Progress) {
        let turn = caught(|| self.turn(rule, progress)).unwrap_or_else(|| {
            Err(Error::Options {
                option: "on_connect",
                problem: "it panicked during a sweep".into(),
            })
        });
        let interval = (rule.what.keep / 10).clamp(SHORTEST_INTERVAL, INTERVAL);
        let retry = interval.max(SHORTEST_RETRY);
        let wait = match turn {
            // The other rules come first.
            Ok(Turn::GoesOn) => Duration::ZERO,
            Ok(Turn::MinuteIsOver) => progress.minute.0.saturating_add(MINUTE).saturating_sub(uptime()),
            Ok(Turn::Ended) => {
                let Ended { kept, violating } = progress.end(interval);
                self.telemetry.retention.kept(rule.number, kept);
                if violating > 0 {
                    let refusal = self.kept_by(rule, violating);
                    self.failed(rule, refusal, "constraint", false);
                    retry
                } else {
                    self.telemetry.retention.succeeded(rule.number);
                    interval
                }
            }
            Ok(Turn::Refused(refusal)) => {
                progress.fail();
                // No row is deleted by any clock.
                self.telemetry.retention.clock(rule.number, None, false);
                self.failed(rule, refusal, "options", false);
                retry
            }
            Err(Error::Closed) => INTERVAL,
            Err(error) => {
                progress.fail();
                self.failed(rule, error.without_data().into(), error.kind(), error.is_retryable());
                retry
            }
        };
        progress.due = uptime().saturating_add(wait);
    }

    fn failed(&self, rule: &Rule, refusal: Refusal, kind: &'static str, can_pass: bool) {
        if self.is_over(rule) {
            return;
        }
        let reason = refusal.problem;
        let figures = &self.telemetry.retention;
        figures.failed(
            rule.number,
            reason.clone(),
            can_pass,
            (refusal.create_index, refusal.kept_by),
        );
        event!(
            warn,
            "larder::retention",
            self.shared.path,
            { table = rule.what.table.as_str(), reason, site = %rule.site, "error.type" = kind },
            "old rows could not be deleted; it is tried again"
        );
    }

    /// Why old rows stay.
    fn kept_by(&self, rule: &Rule, rows: u64) -> Refusal {
        let rows = format!("{rows} old rows cannot be deleted");
        let Ok(children) = self.read(|tx| look::children(tx, &rule.what.table)) else {
            return format!("{rows}, since a foreign key or a trigger keeps them").into();
        };
        if children.is_empty() {
            return format!("{rows}, since a trigger keeps them").into();
        }
        let children = children.join(", ");
        let problem = format!(
            "{rows}, since a foreign key keeps them, or a trigger: delete the rows of {children} that refer to them first, \
             or declare the key ON DELETE CASCADE"
        );
        Refusal {
            kept_by: Some(children),
            ..problem.into()
        }
    }

    /// One look, and one slice for what it has found.
    fn turn(&mut self, rule: &Rule, progress: &mut Progress) -> Result<Turn> {
        let begun = uptime();
        if begun.saturating_sub(progress.minute.0) >= MINUTE {
            progress.minute = (begun, 0);
        }
        let allowed = rule.what.options.rows_per_minute.saturating_sub(progress.minute.1);
        if allowed == 0 {
            return Ok(Turn::MinuteIsOver);
        }
        let limit = progress.rows.min(allowed);
        let (target, rows) = match self.look(rule, progress, limit)? {
            Ok(found) => found,
            Err(refusal) => return Ok(Turn::Refused(refusal)),
        };
        if rows.is_empty() {
            return Ok(Turn::Ended);
        }
        let found = rows.len() as u64;
        let sweep = progress.sweep();
        if sweep.running.is_none() {
            sweep.running = self.running(rule);
            // Whether the store is idle is seen from here on.
            self.company = Instant::now();
        }
        if !self.wait_for_moment(rule) {
            return Ok(Turn::GoesOn);
        }
        let before = self.telemetry.counters.wal_bytes.get();
        sweep.submitted();
        let done = self.delete(rule, target.delete(), rows.clone());
        let (written, took) = done.as_ref().map_or((0, Duration::ZERO), |done| (done.rows, done.took));
        sweep.replied(written, took);
        let done = match done {
            Ok(done) => done,
            // A deferred foreign key or a trigger has undone the slice: the row is looked for by smaller ones.
            Err(error) if is_of_rows(&error) && found > 1 => {
                progress.rows = (found / SMALLER).max(1);
                return Ok(Turn::GoesOn);
            }
            Err(error) if is_of_rows(&error) => Done {
                rows: 1,
                skipped: 1,
                ..Done::default()
            },
            Err(error) => return Err(error),
        };
        let deleted = done.hit;
        self.telemetry.retention.deleted(rule.number, deleted);
        sweep.tried += done.rows;
        let tried = usize::try_from(done.rows).map_or(&rows[..], |tried| &rows[..tried.min(rows.len())]);
        let missed = done.rows - deleted;
        if missed > 0 {
            // Some may have been changed or deleted by others since the look.
            let kept = self.read(|tx| target.count_of(tx, tried))?.min(missed);
            sweep.kept += kept;
            sweep.violating += done.skipped.min(kept);
        }
        sweep.walk.pass(tried);
        progress.minute.1 += done.rows;
        let now = self.telemetry.counters.wal_bytes.get();
        // The log may have begun from its start.
        let added = now.checked_sub(before).unwrap_or(now);
        progress.rows = next_rows(&done, done.rows == found, added, self.is_quiet());
        Ok(Turn::GoesOn)
    }

    /// An entry in the list of the jobs that run.
    fn running(&self, rule: &Rule) -> Option<Running> {
        self.telemetry.bulk.begin(None, site(rule).to_string())
    }

    /// Looks at the clock and for old rows.
    fn look(
        &mut self,
        rule: &Rule,
        progress: &mut Progress,
        limit: u64,
    ) -> Result<Result<(Target, Vec<OldRow>), Refusal>> {
        // In this order: a call that trusts the clock means one that is read after it.
        let trusts = self.retainer.trusts();
        let reading = (rule.what.options.clock)();
        let was_checked = progress.is_checked;
        let found = self.read(|tx| {
            let target = match Target::find(tx, &rule.what)? {
                Ok(target) => target,
                Err(refusal) => return Ok(Err(refusal)),
            };
            let record = match &progress.clock {
                None => record::find(tx, &rule.what)?,
                Some(_) => None,
            };
            let now = progress.observe(rule, &reading, record, trusts);
            let form = match target.times(tx, &rule.what)? {
                Ok(Some(form)) => form,
                Ok(None) => return Ok(Ok((target, Vec::new()))),
                Err(refusal) => return Ok(Err(refusal)),
            };
            if !progress.is_checked && !rule.what.options.stale {
                match target.age(tx, &rule.what, now, form)? {
                    Age::Recent => progress.is_checked = true,
                    Age::Unknown => (),
                    Age::Refused(refusal) => return Ok(Err(refusal)),
                }
            }
            let walk = &mut progress.sweep().walk;
            let rows = target.old_rows(tx, &rule.what, now, form, walk, limit)?;
            Ok(rows.map(|rows| (target, rows)))
        })?;
        if found.is_ok() {
            self.tell_clock(rule, progress, &reading);
            self.save(rule, progress, was_checked)?;
        }
        Ok(found)
    }

    /// Saves what is known of the clock, before rows are deleted by it.
    fn save(&mut self, rule: &Rule, progress: &mut Progress, was_checked: bool) -> Result<()> {
        let is_checked = progress.is_checked;
        let Some(clock) = &mut progress.clock else {
            return Ok(());
        };
        let state = match clock.to_save() {
            Some(state) => state.clone(),
            None if is_checked != was_checked => clock.state().clone(),
            None => return Ok(()),
        };
        // A sweep that has found rows is in the list already.
        let of_sweep = progress.sweep.as_ref().and_then(|sweep| sweep.running.as_ref());
        let own = of_sweep.is_none().then(|| self.running(rule)).flatten();
        let running = of_sweep.or(own.as_ref());
        running.inspect(|running| running.submitted());
        let record = Record {
            clock: state,
            is_checked,
        };
        let what = rule.what.clone();
        let order = WriteOrder::of_slice(self.settings.durability, false);
        let saved = self
            .shared
            .enqueue_write(submission(rule), order, move |tx: &WriteTx<'_>| {
                record::save(tx, &what, &record)
            })?
            .wait();
        running.inspect(|running| running.note(0, Duration::ZERO));
        drop(own);
        self.writes = self.telemetry.counters.writes.get();
        match saved {
            Ok(()) => clock.saved(),
            // A full database has no room for it, and the sweep makes room. The next look tries it again.
            Err(error) if clock.state().other.is_none() && is_full(&error) => (),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Reports a clock that is not followed any more, or again.
    fn tell_clock(&self, rule: &Rule, progress: &mut Progress, reading: &Reading) {
        let held = progress.clock.as_ref().and_then(|clock| clock.held(reading));
        let table = rule.what.table.as_str();
        // If rows are kept for a shorter time than a jump is held, none of them can be lost by it. If it is held for very
        // long, they pile up.
        let hold = rule.what.hold();
        let matters = hold < rule.what.keep || hold > LONGEST_HOLD;
        self.telemetry.retention.clock(
            rule.number,
            held.filter(Held::is_ahead).map(|held| held.figures()),
            matters,
        );
        let is_ahead = held.map(|held| held.is_ahead());
        if is_ahead == progress.told {
            return;
        }
        progress.told = is_ahead;
        match held {
            None => event!(
                info,
                "larder::retention",
                self.shared.path,
                { table, site = %rule.site },
                "the clock is followed again"
            ),
            Some(held) if held.is_ahead() => event!(
                warn,
                "larder::retention",
                self.shared.path,
                {
                    table,
                    ahead_s = held.wall.saturating_sub(held.believed).as_secs(),
                    followed_in_s = held.left.as_secs(),
                    site = %rule.site,
                },
                "the clock has jumped ahead: rows are not old by it yet"
            ),
            Some(held) => event!(
                warn,
                "larder::retention",
                self.shared.path,
                { table, behind_s = held.believed.saturating_sub(held.wall).as_secs(), site = %rule.site },
                "the clock has gone back: rows stay for longer"
            ),
        }
    }

    fn read<T>(&self, f: impl FnOnce(&ReadTx<'_>) -> Result<T>) -> Result<T> {
        let site = CallSite::Label("larder: retain".into());
        self.readers
            .read_internal(self.settings.read_queue_timeout, site, false, f)
    }

    fn delete(&mut self, rule: &Rule, delete: String, rows: Vec<OldRow>) -> Result<Done> {
        let count = rows.len() as u64;
        let feed = Arc::new(Feed::of(rows));
        let slice = Slice {
            feed,
            shared: Arc::clone(&self.shared),
            sql: delete.into(),
            may_skip: u64::MAX,
            names_all: false,
            on_violation: OnViolation::Skip,
            cursor: None,
            position: 0,
            reached: Arc::default(),
            budget: Budget {
                slice: SLICE,
                beside: SLICE,
                alone: if self.is_quiet() { ALONE } else { SLICE },
                rows: count,
            },
        };
        let before = self.telemetry.counters.writes.get();
        let order = WriteOrder::of_slice(self.settings.durability, false);
        let pending = self
            .shared
            .enqueue_write(submission(rule), order, move |tx: &WriteTx<'_>| slice.run(tx))?;
        let done = pending.wait();
        self.writes = self.telemetry.counters.writes.get();
        if self.writes > before + 1 {
            self.company = Instant::now();
        }
        let took = done.as_ref().map_or(Duration::ZERO, |done| done.took);
        self.last_slice = (Instant::now(), took);
        done
    }

    /// Whether the rule has ended, or the store closes.
    fn is_over(&self, rule: &Rule) -> bool {
        rule.has_ended.load(Ordering::Acquire) || self.readers.is_closed() || self.shared.queue.is_closed()
    }

    fn is_quiet(&self) -> bool {
        self.company.elapsed() >= QUIET
    }

    fn look_for_writes(&mut self) {
        let writes = self.telemetry.counters.writes.get();
        if writes != self.writes || !self.shared.queue.is_empty() {
            self.writes = writes;
            self.company = Instant::now();
        }
    }

    /// Waits for an idle moment, or until the next slice is due all the same. Returns false if there is to be none.
    fn wait_for_moment(&mut self, rule: &Rule) -> bool {
        let (ended, took) = self.last_slice;
        let gap = (took * GAPS).max(SHORTEST_GAP);
        loop {
            if self.is_over(rule) {
                return false;
            }
            self.look_for_writes();
            if self.is_quiet() || ended.elapsed() >= gap {
                return true;
            }
            let is_over = || rule.has_ended.load(Ordering::Acquire);
            self.readers.pause(QUIET_CHECK, is_over);
        }
    }
}

fn submission(rule: &Rule) -> Submission {
    Submission {
        call: "retain",
        site: site(rule),
        timeout: PATIENCE,
        caller: Caller::Thread,
        when_full: WhenFull::Wait,
    }
}

/// Whether a slice has failed because of what one of its rows is.
fn is_of_rows(error: &Error) -> bool {
    error.is_of_values()
        || matches!(
            error,
            Error::RolledBack {
                caused_by_closure: true,
                ..
            }
        )
}

fn is_full(error: &Error) -> bool {
    error.sqlite().and_then(primary_code) == Some(ffi::SQLITE_FULL)
}

fn site(rule: &Rule) -> CallSite {
    CallSite::Label(format!("{RETAINS}{}", rule.what.table).into())
}

/// The time until rows that could not be deleted are tried again, after a whole sweep that took so long. Of that time, the
/// part of the kept rows counts.
fn pause(interval: Duration, took: Duration, kept: u64, tried: u64) -> Duration {
    let of_kept = took.mul_f64(kept as f64 / tried.max(kept).max(1) as f64);
    let pause = of_kept.saturating_mul(PAUSE_AFTER_ALL).min(LONGEST_PAUSE);
    pause.max(interval * ALL_AGAIN)
}

/// Rows of the next look, by what the slice has managed and by what its commit has added to the log.
fn next_rows(done: &Done, was_all: bool, added: u64, is_quiet: bool) -> u64 {
    let target = if is_quiet { ALONE_LOG } else { SLICE_LOG };
    let fitting = if added > target {
        let fitting = u128::from(done.rows) * u128::from(target) / u128::from(added);
        fitting as u64
    } else if was_all {
        done.rows * 2
    } else {
        done.rows
    };
    fitting.clamp(LEAST_ROWS, MOST_ROWS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_stay_are_tried_again_by_the_time_that_they_took() {
        let pause = |took, kept, tried| pause(INTERVAL, Duration::from_secs(took), kept, tried).as_secs();
        assert_eq!(pause(0, 1, 1), 600);
        assert_eq!(pause(100, 1000, 1000), 2000);
        // The others have taken the most of it.
        assert_eq!(pause(5000, 10, 1_000_000), 600);
        assert_eq!(pause(5000, 300_000, 1_000_000), 3600);
        assert_eq!(pause(100, 0, 0), 600);
    }
}
