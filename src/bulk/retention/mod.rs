//! Retention: rows of a table whose time is older than a duration are deleted, in slices, as long as the store is open.
//!
//! ```text
//! Retainer     the rules of a store, one for each call of Store::retain or of Options::retain
//!   sweep.rs   the thread larder-retain: for each rule a look at an interval, and slices for what it finds
//!     clock_guard.rs  the time by which rows are old: the clock's, unless it has jumped
//!     record.rs  what is known of the clock, in the table larder_retention
//!     look.rs  what a look reads, by the index: the form of the times, and the oldest rows
//! ```
//!
//! The thread starts with the first rule and ends with the last, or when the store closes: it sleeps on the readers'
//! census, which closing wakes. It owns nothing of the store, so it keeps none open. The lock of the [`Retainer`] is held
//! to look at the list of rules; the figures' lock is taken under it.

mod clock_guard;
mod look;
mod record;
mod sweep;
#[cfg(test)]
mod tests;

use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use self::clock_guard::{Reading, default_hold};
use self::look::{Age, Target};
use self::sweep::Sweeper;
#[cfg(doc)]
use crate::Store;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::read::Readers;
use crate::runtime::sync::Mutex;
use crate::telemetry::Telemetry;
use crate::telemetry::call_site::CallSite;

/// The shortest time for which rows are kept: times as text are to the second.
const SHORTEST: Duration = Duration::from_secs(1);

/// The default of [`RetainOptions::rows_per_minute`].
const ROWS_PER_MINUTE: u64 = 100_000;

/// Options of a retention. See [`Store::retain_with`].
#[derive(Clone, Debug)]
#[must_use = "options do nothing until they are given to a call"]
pub struct RetainOptions {
    milliseconds: bool,
    rows_per_minute: u64,
    stale: bool,
    clock_hold: Option<Duration>,
    /// A test sets another.
    clock: fn() -> Reading,
}

impl Default for RetainOptions {
    fn default() -> Self {
        Self {
            milliseconds: false,
            rows_per_minute: ROWS_PER_MINUTE,
            stale: false,
            clock_hold: None,
            clock: Reading::now,
        }
    }
}

impl RetainOptions {
    /// Creates options with every default.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether integers in the column are milliseconds since 1970. The default is `false`: seconds. It has no effect on
    /// times that are text.
    ///
    /// It is never guessed. An integer that cannot be of this unit is an error, and no row is deleted: one of
    /// 100,000,000,000 or more is no time in seconds (it would be after the year 5138), and a smaller one is none in
    /// milliseconds (it would be before March 1973). One below 100,000,000 is none in seconds either: a key, a number of
    /// days, 0 for "never".
    pub fn milliseconds(mut self, milliseconds: bool) -> Self {
        self.milliseconds = milliseconds;
        self
    }

    /// The most rows that are deleted in a minute, at least 1. The default is 100,000: on an ordinary machine some seconds
    /// of the writer's time, and 144 million rows a day. A table that has far too many old rows at first shrinks at this
    /// rate, and its deleted pages do not flood the log, the replica and the disk all at once.
    pub fn rows_per_minute(mut self, rows: u64) -> Self {
        self.rows_per_minute = rows;
        self
    }

    /// Whether rows go although the column has no time of the last year before they are too old. The default is `false`:
    /// when a retention first looks at such a column, it is refused, since its numbers may count from another time than
    /// 1970, such as 1980 or 2000, or be no times at all. A column that has once had a newer time is not asked again.
    pub fn stale(mut self, stale: bool) -> Self {
        self.stale = stale;
        self
    }

    /// How long a jump of the clock is held before rows are deleted by it. The default is the shorter of one day and the
    /// time for which rows are kept. Zero follows each jump at once; [`Duration::MAX`] follows none before
    /// [`Store::trust_clock`].
    ///
    /// A clock that is set a year ahead by mistake would make every row too old. So the time of a retention advances with
    /// the uptime of the machine, and follows the clock where the two differ by at most a tenth of the time for which rows
    /// are kept (at least a second, at most three days). A larger jump ahead is followed when the process has run for this
    /// long since, and the clock has kept the time; rows go on to become old by the time from before. A clock that goes
    /// back is followed at once: rows stay for longer.
    ///
    /// A machine that was off, or a copy of the database that is opened later, looks the same as a clock that was set
    /// ahead, so a long absence is held, too. (On Linux, a process that comes back on the same boot knows how long it was
    /// away.)
    pub fn clock_hold(mut self, hold: Duration) -> Self {
        self.clock_hold = Some(hold);
        self
    }
}

/// What is to be kept of a table.
#[derive(Clone, Debug)]
pub(crate) struct RetainRule {
    table: String,
    column: String,
    keep: Duration,
    options: RetainOptions,
}

impl RetainRule {
    pub(crate) fn new(table: &str, column: &str, keep: Duration, options: RetainOptions) -> Self {
        Self {
            table: table.to_owned(),
            column: column.to_owned(),
            keep,
            options,
        }
    }

    pub(crate) fn validate(&self) -> Result<()> {
        if self.keep < SHORTEST {
            return wrong(format!("{:?} is too short: keep rows for at least 1 s", self.keep));
        }
        if self.options.rows_per_minute == 0 {
            return wrong("rows_per_minute is 0: give at least 1".to_owned());
        }
        Ok(())
    }

    /// How long a jump of the clock is held.
    fn hold(&self) -> Duration {
        self.options.clock_hold.unwrap_or_else(|| default_hold(self.keep))
    }

    fn is_of_same_column(&self, other: &Self) -> bool {
        self.table.eq_ignore_ascii_case(&other.table) && self.column.eq_ignore_ascii_case(&other.column)
    }
}

fn wrong<T>(problem: String) -> Result<T> {
    Err(Error::Options {
        option: "retain",
        problem,
    })
}

/// A running retention. Made by [`Store::retain`].
///
/// Its drop ends the retention. A slice that has begun still commits, which takes milliseconds; the drop does not wait for
/// it. A retention does not keep its store open, and ends when the store is closed.
#[must_use = "dropping it ends the retention"]
pub struct Retention {
    rule: Arc<Rule>,
    retainer: Arc<Retainer>,
    readers: Arc<Readers>,
    telemetry: Arc<Telemetry>,
}

impl Retention {
    /// Refuses a table that cannot be swept as it is.
    #[track_caller]
    pub(crate) fn start(engine: &Engine, retainer: &Arc<Retainer>, rule: RetainRule) -> Result<Self> {
        let site = CallSite::new(None, Location::caller());
        rule.validate()?;
        engine.shared.queue.check_caller("retain")?;
        if engine.options.read_only {
            return Err(Error::ReadOnly {
                path: engine.path().into(),
                call: "retain",
            });
        }
        if engine.shared.queue.is_closed() {
            return Err(Error::Closed);
        }
        let timeout = engine.options.read_queue_timeout;
        engine.read_internal("larder: retain", timeout, |tx| {
            let target = Target::find(tx, &rule)??;
            let now = (rule.options.clock)().wall;
            let Some(form) = target.times(tx, &rule)?? else {
                return Ok(());
            };
            if !rule.options.stale
                && let Age::Refused(refusal) = target.age(tx, &rule, now, form)?
                && record::find(tx, &rule)?.is_none_or(|record| !record.is_checked)
            {
                return Err(refusal.into());
            }
            target.check_oldest(tx, &rule, now, form)??;
            Ok(())
        })?;
        let rule = retainer.add(engine, rule, site)?;
        Ok(Self {
            rule,
            retainer: Arc::clone(retainer),
            readers: Arc::clone(&engine.readers),
            telemetry: Arc::clone(&engine.telemetry),
        })
    }
}

impl Drop for Retention {
    fn drop(&mut self) {
        if self.readers.is_left() {
            return;
        }
        self.retainer.remove(&self.rule, &self.telemetry);
        self.readers.wake();
    }
}

impl fmt::Debug for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RetainRule {
            table, column, keep, ..
        } = &self.rule.what;
        f.debug_struct("Retention")
            .field("table", table)
            .field("column", column)
            .field("keep", keep)
            .finish_non_exhaustive()
    }
}

/// The rules of a store, and whether its thread runs.
#[derive(Default)]
pub(crate) struct Retainer {
    rules: Mutex<Rules>,
    /// Number of changes of the list, for the thread.
    changes: AtomicU64,
    /// Number of calls that trust the clock.
    trusts: AtomicU64,
}

#[derive(Default)]
struct Rules {
    all: Vec<Arc<Rule>>,
    last: u64,
    thread_runs: bool,
}

struct Rule {
    number: u64,
    what: RetainRule,
    site: CallSite,
    has_ended: AtomicBool,
    /// Calls that trust the clock, as it began.
    trusts: u64,
}

impl Retainer {
    /// Starts the rules of [`Options::retain`](crate::Options::retain), which last until the store closes. What is wrong
    /// with a table is reported by the first sweep: the migration that makes it right may come later.
    pub(crate) fn start(self: &Arc<Self>, engine: &Engine, rules: Vec<RetainRule>) -> Result<()> {
        if engine.options.read_only || engine.options.follows {
            return Ok(());
        }
        for rule in rules {
            let site = CallSite::Label("Options::retain".into());
            self.add(engine, rule, site)?;
        }
        Ok(())
    }

    fn add(self: &Arc<Self>, engine: &Engine, what: RetainRule, site: CallSite) -> Result<Arc<Rule>> {
        let mut rules = self.rules.lock();
        if let Some(other) = rules.all.iter().find(|other| other.what.is_of_same_column(&what)) {
            return wrong(format!(
                "the column {} of {} has a retention already, of {:?}, started at {}: drop that first",
                what.column, what.table, other.what.keep, other.site
            ));
        }
        if !rules.thread_runs {
            let sweeper = Sweeper::new(engine, self);
            let thread = thread::Builder::new().name("larder-retain".into());
            thread
                .spawn(move || sweeper.run())
                .map_err(|error| Error::no_thread(engine.path(), "its retentions", error))?;
            rules.thread_runs = true;
        }
        rules.last += 1;
        let rule = Arc::new(Rule {
            number: rules.last,
            what,
            site,
            has_ended: AtomicBool::new(false),
            trusts: self.trusts(),
        });
        let RetainRule {
            table, column, keep, ..
        } = &rule.what;
        let figures = &engine.telemetry.retention;
        figures.begin(rule.number, &rule.site, (table, column), *keep);
        rules.all.push(Arc::clone(&rule));
        self.changes.fetch_add(1, Ordering::Release);
        drop(rules);
        engine.readers.wake();
        Ok(rule)
    }

    fn remove(&self, rule: &Rule, telemetry: &Telemetry) {
        rule.has_ended.store(true, Ordering::Release);
        self.rules.lock().all.retain(|other| other.number != rule.number);
        self.changes.fetch_add(1, Ordering::Release);
        telemetry.retention.forget(rule.number);
    }

    /// For the thread: the rules, or `None` if there are none, and it ends.
    fn rules(&self) -> Option<Vec<Arc<Rule>>> {
        let mut rules = self.rules.lock();
        if rules.all.is_empty() {
            rules.thread_runs = false;
            return None;
        }
        Some(rules.all.clone())
    }

    /// The thread ends, since the store closes.
    fn end(&self, telemetry: &Telemetry) {
        let mut rules = self.rules.lock();
        rules.thread_runs = false;
        for rule in rules.all.drain(..) {
            telemetry.retention.forget(rule.number);
        }
    }

    /// The running retentions follow the clock as it is now.
    pub(crate) fn trust_clock(&self, readers: &Readers) {
        self.trusts.fetch_add(1, Ordering::AcqRel);
        self.changes.fetch_add(1, Ordering::Release);
        readers.wake();
    }

    fn trusts(&self) -> u64 {
        self.trusts.load(Ordering::Acquire)
    }

    fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }
}
