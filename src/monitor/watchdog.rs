//! Samples a store at an interval, and emits an event when an alert fires and when it clears.
//!
//! A timer thread (`runtime/timer.rs`) runs one tick per store every [`Options::monitor_interval`]. A tick asks the
//! file system, which may hang, and calls event subscribers. A tick that does not end delays only the later ticks of
//! its own store. A tick first takes a sample, for which it takes other parts' locks one at a time and holds none of
//! its own; then it takes `state`, compares, and releases it; then it emits events. So
//! [`Store::stats`](crate::Store::stats) never waits for a file system or for a subscriber. The timer thread has a weak
//! reference to the store and owns nothing of it. When the store closes, [`Watchdog::end`] stops the ticks and clears
//! all alerts.
//!
//! With the feature `metrics` each tick also exports to the recorder (`metrics/exporter.rs`), under the lock of
//! `exporter`, which otherwise only the end takes. A recorder is user code, which may panic, and may close the store:
//! `publishing` holds the token of the thread that has the lock, so an end on that same thread leaves the last
//! publication to it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::mem;
#[cfg(feature = "metrics")]
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[cfg(feature = "metrics")]
use super::metrics::exporter::Exporter;
use super::rules::{Observation, RULES, Rule};
use crate::connection::filesystem::{Space, space};
use crate::connection::open_file::FileChange;
use crate::options::Settings;
use crate::read::Readers;
use crate::runtime::panic::quietly;
use crate::runtime::sync::{Arc, Mutex};
use crate::runtime::timer::{self, Periodic};
#[cfg(feature = "metrics")]
use crate::telemetry::activity::thread_token;
use crate::telemetry::alert::{Alert, AlertKind};
use crate::telemetry::backup_history::FailingBackups;
use crate::telemetry::bulk::WaitingJob;
use crate::telemetry::counters::LONG_WAIT;
use crate::telemetry::event::event;
use crate::telemetry::follower::FollowerSample;
use crate::telemetry::histogram::{distribution, sum};
use crate::telemetry::replica::ReplicaSample;
use crate::telemetry::retention::{FailingSweeps, HeldRule};
use crate::telemetry::stats::{Activity, DatabaseStats, Stats};
use crate::telemetry::usage;
use crate::telemetry::{Measurement, Telemetry};
use crate::write::Shared;
use histogram::Histogram;

/// The longest acceptable wait of the first job in the queue.
const HEAD_WAIT: Duration = Duration::from_secs(1);

/// A window with fewer than [`MIN_SAMPLES`] waits is extended by the next ticks, to at most this many, before its
/// percentile is used.
const WINDOW: usize = 60;
const MIN_SAMPLES: u64 = 20;

/// The minutes of an hour.
const MINUTES: usize = 60;
const MINUTE: Duration = Duration::from_secs(60);

/// An alert clears after this many ticks without its condition.
const CLEAR_AFTER: u32 = 3;

/// Thresholds above which a database server is worth considering.
pub(super) const LONG_WAITS_PERCENT: f64 = 5.0;
pub(super) const WRITES_A_SECOND: f64 = 10_000.0;
pub(super) const BUSY_PERCENT: f64 = 80.0;

/// From so many writes in a transaction on, commits are shared.
const SHARED_COMMITS: f64 = 2.0;

const GIB: u64 = 1 << 30;

pub(crate) struct Watchdog {
    sampler: Arc<Sampler>,
    /// The periodic ticks; `None` if the monitor interval is zero.
    looks: Option<Periodic>,
}

struct Sampler {
    shared: Arc<Shared>,
    readers: Arc<Readers>,
    telemetry: Arc<Telemetry>,
    options: Settings,
    state: Mutex<WatchState>,
    /// `Some` until the end.
    #[cfg(feature = "metrics")]
    exporter: Mutex<Option<Exporter>>,
    /// The token of the thread that holds the lock of `exporter`, or 0.
    #[cfg(feature = "metrics")]
    publishing: AtomicUsize,
    /// Whether the next publication is the last one.
    #[cfg(feature = "metrics")]
    is_over: AtomicBool,
}

/// The data that is compared from one tick to the next.
struct WatchState {
    window: Window,
    /// The rates of the last ticks, one per tick.
    rates: VecDeque<Rates>,
    /// The rates at the beginning of each minute of the last hour.
    minutes: VecDeque<Rates>,
    /// The total time of each call site's writes at the last tick.
    totals: HashMap<String, Duration>,
    active: BTreeMap<AlertKind, Active>,
    ended: bool,
}

/// The waits of the ticks since the window began.
struct Window {
    since: Histogram,
    looks: usize,
    /// The 95th percentile of the waits in the last window with enough samples.
    p95: Duration,
}

#[derive(Clone, Copy)]
struct Rates {
    at: Instant,
    writes: u64,
    waits: u64,
    long_waits: u64,
    groups: u64,
    /// Time that the writer has spent on BEGIN, closures and COMMIT.
    busy: Duration,
}

/// An alert that has fired and not cleared.
struct Active {
    since: Instant,
    found: Condition,
    /// Ticks in a row without the condition.
    quiet: u32,
}

/// A condition that a tick found to be wrong.
#[derive(Clone)]
struct Condition {
    kind: AlertKind,
    measurement: Measurement,
    site: Option<String>,
    reason: Option<String>,
}

enum Change {
    Begins(Condition),
    IsOver(Condition, Duration),
}

/// The writes of the last minute. See [`Watchdog::recent_writes`].
#[derive(Clone, Copy, Default)]
pub(crate) struct RecentWrites {
    /// Whether the window is long enough to judge a sustained rate.
    pub(crate) is_long: bool,
    /// Number of writes that have started.
    pub(crate) waits: u64,
    pub(crate) writes_a_second: f64,
    /// Percentage of the writes with a long wait.
    pub(crate) long_waits: f64,
    /// Percentage of the time for which the writer was busy.
    pub(crate) busy: f64,
    /// Mean number of writes in a transaction.
    pub(crate) writes_a_group: f64,
    /// Whether more than half of the last 60 minutes, and one an hour ago, had many long waits, or many writes, or a busy
    /// writer that shares its commits.
    pub(crate) hour_of_waits: bool,
    pub(crate) hour_of_writes: bool,
    pub(crate) hour_of_work: bool,
}

impl Rates {
    /// The writes from then to now.
    fn since(&self, then: &Rates) -> RecentWrites {
        let seconds = (self.at - then.at).as_secs_f64();
        let waits = self.waits - then.waits;
        RecentWrites {
            waits,
            writes_a_second: (self.writes - then.writes) as f64 / seconds.max(f64::MIN_POSITIVE),
            long_waits: 100.0 * (self.long_waits - then.long_waits) as f64 / waits.max(1) as f64,
            busy: 100.0 * self.busy.saturating_sub(then.busy).as_secs_f64() / seconds.max(f64::MIN_POSITIVE),
            writes_a_group: (self.writes - then.writes) as f64 / (self.groups - then.groups).max(1) as f64,
            ..RecentWrites::default()
        }
    }
}

/// The state of the store at one tick, before it is compared with the previous one.
pub(super) struct Sample {
    now: Instant,
    waits: Histogram,
    rates: Rates,
    totals: Vec<(String, Duration)>,
    pub(super) writing: Option<Activity>,
    head_wait: Duration,
    /// The checkpoint that runs beside a bulk job.
    pub(super) side_checkpoint: Option<Activity>,
    pub(super) waiting_job: Option<WaitingJob>,
    pub(super) queued: usize,
    pub(super) wal_bytes: u64,
    pub(super) unfinished: u64,
    pub(super) database: DatabaseStats,
    /// Bytes in a WAL that another process has written since the writer thread's last commit, if a part of it is not
    /// in the database.
    pub(super) external_wal_bytes: Option<u64>,
    /// The oldest running read; a backup or a check, too.
    pub(super) oldest: Option<Activity>,
    pub(super) oldest_of_the_application: Option<Activity>,
    /// Free bytes, and the threshold below which they are too few. See [`too_few`].
    pub(super) room: Option<(u64, u64)>,
    pub(super) full_for: Option<String>,
    pub(super) failing_backups: Option<FailingBackups>,
    pub(super) failing_sweeps: Option<FailingSweeps>,
    pub(super) held_clock: Option<HeldRule>,
    pub(super) replica: Option<ReplicaSample>,
    pub(super) follower: Option<FollowerSample>,
    pub(super) file_change: Option<FileChange>,
}

impl RecentWrites {
    /// A share needs a sample.
    pub(crate) fn has_long_waits(&self) -> bool {
        self.waits >= MIN_SAMPLES && self.long_waits > LONG_WAITS_PERCENT
    }

    /// Whether the rate is high for one writer.
    pub(crate) fn has_many_writes(&self) -> bool {
        self.writes_a_second > WRITES_A_SECOND
    }

    /// Whether the writer has little time left, although many writes share a commit.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy > BUSY_PERCENT && self.writes_a_group >= SHARED_COMMITS
    }
}

impl Watchdog {
    pub(crate) fn start(
        shared: &Arc<Shared>,
        readers: &Arc<Readers>,
        telemetry: &Arc<Telemetry>,
        options: &Settings,
    ) -> Self {
        let sampler = Arc::new(Sampler {
            shared: Arc::clone(shared),
            readers: Arc::clone(readers),
            telemetry: Arc::clone(telemetry),
            options: options.clone(),
            state: Mutex::new(WatchState::new(telemetry)),
            #[cfg(feature = "metrics")]
            exporter: Mutex::new(Some(Exporter::new(&shared.path))),
            #[cfg(feature = "metrics")]
            publishing: AtomicUsize::new(0),
            #[cfg(feature = "metrics")]
            is_over: AtomicBool::new(false),
        });
        let weak = Arc::downgrade(&sampler);
        let look = move || {
            if let Some(sampler) = weak.upgrade() {
                quietly(|| sampler.look());
                // The last owner drops the options, and with them user code.
                quietly(|| drop(sampler));
            }
        };
        let wanted = !options.monitor_interval.is_zero();
        let looks = wanted.then(|| timer::every(options.monitor_interval, look));
        Self { sampler, looks }
    }

    /// The store's statistics, with its alerts.
    pub(crate) fn stats(&self) -> Stats {
        self.sampler.stats()
    }

    /// Stops the ticks of a store that has closed, and clears its alerts.
    pub(crate) fn end(&self) {
        if let Some(looks) = &self.looks {
            looks.cancel();
        }
        let mut state = self.sampler.state.lock();
        state.ended = true;
        let active = mem::take(&mut state.active);
        drop(state);
        for active in active.into_values() {
            self.sampler.emit(Change::IsOver(active.found, active.since.elapsed()));
        }
        #[cfg(feature = "metrics")]
        if self.looks.is_some() {
            self.sampler.publish(true);
        }
    }

    /// Summarizes the writes of the last minute (the last [`WINDOW`] ticks).
    pub(crate) fn recent_writes(&self) -> RecentWrites {
        let state = self.sampler.state.lock();
        let (Some(first), Some(last)) = (state.rates.front(), state.rates.back()) else {
            return RecentWrites::default();
        };
        let minutes = state.minutes.iter().zip(state.minutes.iter().skip(1));
        let most = |is_so: fn(&RecentWrites) -> bool| {
            let so = minutes.clone().filter(|(from, to)| is_so(&to.since(from))).count();
            state.minutes.len() > MINUTES && so * 2 > MINUTES
        };
        RecentWrites {
            is_long: state.rates.len() >= WINDOW / 2,
            hour_of_waits: most(RecentWrites::has_long_waits),
            hour_of_writes: most(RecentWrites::has_many_writes),
            hour_of_work: most(RecentWrites::is_busy),
            ..last.since(first)
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        if self.sampler.readers.is_left() {
            return;
        }
        self.end();
    }
}

impl Sampler {
    fn stats(&self) -> Stats {
        Stats {
            alerts: self.state.lock().alerts(),
            ..Stats::collect(&self.shared, &self.readers, &self.telemetry)
        }
    }

    #[cfg(feature = "metrics")]
    fn publish(&self, is_last: bool) {
        self.is_over.fetch_or(is_last, Ordering::AcqRel);
        // The recorder closed the store inside a publication; that publication does the rest.
        if self.publishing.load(Ordering::Relaxed) == thread_token() {
            return;
        }
        let mut exporter = self.exporter.lock();
        self.publishing.store(thread_token(), Ordering::Relaxed);
        // An end that comes during a publication needs another one, with the last figures.
        loop {
            let is_over = self.is_over.load(Ordering::Acquire);
            if let Some(exporter) = &mut *exporter {
                quietly(|| exporter.publish(&self.stats(), &self.telemetry));
            }
            if is_over {
                quietly(|| *exporter = None);
            }
            if is_over || !self.is_over.load(Ordering::Acquire) {
                break;
            }
        }
        self.publishing.store(0, Ordering::Relaxed);
    }

    fn look(&self) {
        let sample = self.take_sample();
        if let Some(change) = &sample.file_change {
            self.readers.switch_off_keeper();
            self.shared.file_changed(change);
        }
        let changes = {
            let mut state = self.state.lock();
            let found = state.compare(&sample, &self.options);
            state.update(found, sample.now)
        };
        for change in changes {
            self.emit(change);
        }
        #[cfg(feature = "metrics")]
        self.publish(false);
    }

    fn take_sample(&self) -> Sample {
        let now = Instant::now();
        let shared = &self.shared;
        let telemetry = &self.telemetry;
        let counters = &telemetry.counters;
        let waits = counters.queue_wait.load();
        Sample {
            now,
            rates: Rates {
                at: now,
                writes: counters.writes.get(),
                waits: distribution(&waits, u64::MAX).count,
                long_waits: counters.long_waits.get(),
                groups: counters.groups.get(),
                busy: Duration::from_nanos(
                    [&counters.begin, &counters.execute, &counters.commit]
                        .map(|times| sum(&times.load()))
                        .into_iter()
                        .fold(0, u64::saturating_add),
                ),
            },
            waits,
            totals: usage::totals(&telemetry.write_sites),
            writing: telemetry.writing.activity(),
            head_wait: shared.queue.longest_wait(now),
            side_checkpoint: telemetry.side_checkpoint.activity(),
            waiting_job: telemetry.bulk.waiting(),
            queued: shared.queue.length(),
            wal_bytes: counters.wal_bytes.get(),
            unfinished: counters.consecutive_unfinished_checkpoints.get(),
            database: counters.size(),
            external_wal_bytes: self.look_at_external_commits(now),
            oldest: self.readers.oldest_read(),
            oldest_of_the_application: self.readers.oldest_read_of_the_application(),
            room: self.room(),
            full_for: counters.full_for().map(|site| site.to_string()),
            failing_backups: telemetry.backups.failing(),
            failing_sweeps: telemetry.retention.failing(),
            held_clock: telemetry.retention.held(),
            replica: telemetry.replica.sample(),
            follower: telemetry.follower.sample(),
            file_change: shared.file.look(),
        }
    }

    /// Counts the commits of other processes while the writer thread sleeps; when it is awake, it counts them itself.
    fn look_at_external_commits(&self, now: Instant) -> Option<u64> {
        let counters = &self.telemetry.counters;
        let (index, own) = counters.look_while_free(|| self.shared.file.wal_index())?;
        let index = index?;
        counters.external_commits.compare(index.changes, own, now);
        counters.saw_wal_bytes(index.bytes());
        let is_external = index.is_unmoved() && index.bytes() > counters.wal_bytes.get();
        is_external.then(|| index.bytes())
    }

    fn room(&self) -> Option<(u64, u64)> {
        // Nothing is written, and a read-only file system is always full.
        if self.options.read_only {
            return None;
        }
        let Space { available, total } = space(self.shared.path.parent()?)?;
        Some((available, too_few(total, self.options.wal_limit)))
    }

    fn emit(&self, change: Change) {
        let path = &self.shared.path;
        match change {
            Change::Begins(Condition {
                kind,
                measurement,
                site,
                reason,
            }) => event!(
                warn,
                "larder::alert",
                path,
                {
                    alert = kind.name(),
                    what = Rule::of(kind).description,
                    site,
                    reason,
                    value = measurement.value,
                    threshold = measurement.threshold,
                    unit = measurement.unit,
                },
                "alert fired"
            ),
            Change::IsOver(Condition { kind, site, .. }, lasted) => event!(
                info,
                "larder::alert",
                path,
                { alert = kind.name(), what = Rule::of(kind).description, site, lasted_ms = lasted.as_millis() as u64 },
                "alert cleared"
            ),
        }
    }
}

/// The free bytes below which a file system of `total` bytes is nearly full: those that a WAL may take until it is
/// moved, but on a small file system no more than a tenth of it; and 5 %, at most 5 GiB.
fn too_few(total: u64, wal_limit: u64) -> u64 {
    let wal = wal_limit.saturating_mul(2).min(total / 10);
    wal.max((total / 20).min(5 * GIB))
}

impl WatchState {
    fn new(telemetry: &Telemetry) -> Self {
        Self {
            window: Window {
                since: telemetry.counters.queue_wait.load(),
                looks: 0,
                p95: Duration::ZERO,
            },
            rates: VecDeque::with_capacity(WINDOW + 1),
            minutes: VecDeque::new(),
            totals: HashMap::new(),
            active: BTreeMap::new(),
            ended: false,
        }
    }

    /// The active alerts, the oldest first.
    fn alerts(&self) -> Vec<Alert> {
        let alert = |active: &Active| Alert {
            kind: active.found.kind,
            age: active.since.elapsed(),
            measurement: active.found.measurement,
            site: active.found.site.clone(),
            reason: active.found.reason.clone(),
        };
        let mut alerts: Vec<_> = self.active.values().map(alert).collect();
        alerts.sort_by_key(|alert| Reverse(alert.age));
        alerts
    }

    /// Compares a sample with the thresholds. Returns the conditions that are wrong.
    fn compare(&mut self, sample: &Sample, settings: &Settings) -> Vec<Condition> {
        self.rates.push_back(sample.rates);
        if self.rates.len() > WINDOW {
            self.rates.pop_front();
        }
        if self.minutes.back().is_none_or(|last| sample.now - last.at >= MINUTE) {
            self.minutes.push_back(sample.rates);
        }
        if self.minutes.len() > MINUTES + 1 {
            self.minutes.pop_front();
        }
        self.window.look(&sample.waits);
        let first = Some(sample.head_wait).filter(|wait| *wait > HEAD_WAIT);
        let seen = Observation {
            sample,
            settings,
            queue_wait: self.window.p95.max(first.unwrap_or_default()),
            busiest_writer: self.busiest_writer(sample),
        };
        RULES.iter().filter_map(|rule| Condition::of(rule, &seen)).collect()
    }

    /// The call site that keeps the writer thread busy: that of a long-running write, or else the one with the most
    /// time since the last tick.
    fn busiest_writer(&mut self, sample: &Sample) -> Option<String> {
        let since = |(site, total): &(String, Duration)| {
            let before = self.totals.get(site).copied().unwrap_or_default();
            (total.saturating_sub(before), site.clone())
        };
        let busiest = sample
            .totals
            .iter()
            .map(since)
            .filter(|(took, _)| !took.is_zero())
            .max();
        self.totals = sample.totals.iter().cloned().collect();
        let running = sample.writing.as_ref().filter(|write| write.age > LONG_WAIT);
        running
            .map(|write| write.site.clone())
            .or(busiest.map(|(_, site)| site))
    }

    /// Fires new alerts, and clears those whose condition was absent for some ticks.
    fn update(&mut self, found: Vec<Condition>, now: Instant) -> Vec<Change> {
        let mut changes = Vec::new();
        if self.ended {
            return changes;
        }
        for active in self.active.values_mut() {
            active.quiet += 1;
        }
        for found in found {
            match self.active.get_mut(&found.kind) {
                // Each old read is reported by name.
                Some(active) if found.kind == AlertKind::OldRead && active.found.site != found.site => {
                    let before = mem::replace(&mut active.found, found.clone());
                    changes.push(Change::IsOver(before, now - active.since));
                    changes.push(Change::Begins(found));
                    (active.since, active.quiet) = (now, 0);
                }
                Some(active) => active.goes_on(found),
                None => {
                    changes.push(Change::Begins(found.clone()));
                    let (since, quiet) = (now, 0);
                    self.active.insert(found.kind, Active { since, found, quiet });
                }
            }
        }
        let over = |active: &Active| active.quiet >= CLEAR_AFTER;
        for active in self.active.values().filter(|active| over(active)) {
            changes.push(Change::IsOver(active.found.clone(), now - active.since));
        }
        self.active.retain(|_, active| !over(active));
        changes
    }
}

impl Condition {
    fn of(rule: &Rule, seen: &Observation<'_>) -> Option<Self> {
        let (value, threshold) = (rule.measure)(seen)?;
        let unit = rule.unit;
        Some(Self {
            kind: rule.kind,
            measurement: Measurement { value, threshold, unit },
            site: (rule.culprit)(seen),
            reason: (rule.reason)(seen),
        })
    }
}

impl Active {
    /// The first call site stays, unless there was none.
    fn goes_on(&mut self, found: Condition) {
        self.quiet = 0;
        self.found.measurement = found.measurement;
        self.found.reason = found.reason;
        if self.found.site.is_none() {
            self.found.site = found.site;
        }
    }
}

impl Window {
    fn look(&mut self, waits: &Histogram) {
        self.looks += 1;
        let Ok(new) = waits.checked_sub(&self.since) else {
            return;
        };
        let new = distribution(&new, u64::MAX);
        if new.count >= MIN_SAMPLES || self.looks >= WINDOW {
            // A percentile of a few waits says nothing.
            let p95 = if new.count >= MIN_SAMPLES { new.p95 } else { 0 };
            self.p95 = Duration::from_nanos(p95);
            self.looks = 0;
            self.since = waits.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn small_file_system_is_full_at_a_tenth() {
        let wal_limit = 64 * MIB;
        // An empty file system of 100 MB was said to be full.
        assert_eq!(too_few(100 * MIB, wal_limit), 10 * MIB);
        assert_eq!(too_few(0, wal_limit), 0);
        assert_eq!(too_few(2 * GIB, wal_limit), 128 * MIB);
        assert_eq!(too_few(20 * GIB, wal_limit), GIB);
        assert_eq!(too_few(1000 * GIB, wal_limit), 5 * GIB);
        assert_eq!(too_few(1000 * GIB, 10 * GIB), 20 * GIB);
        assert_eq!(too_few(100 * GIB, u64::MAX), 10 * GIB);
    }

    #[test]
    fn percentile_of_waits_needs_a_sample() {
        use crate::telemetry::histogram::Amounts;
        let waits = Amounts::default();
        let mut window = Window {
            since: waits.load(),
            looks: 0,
            p95: Duration::ZERO,
        };
        let mut pass = |more: u64| {
            (0..more).for_each(|_| waits.add_time(Duration::from_secs(1)));
            (0..WINDOW).for_each(|_| window.look(&waits.load()));
            window.p95
        };
        assert_eq!(pass(3), Duration::ZERO);
        assert!(pass(20) >= Duration::from_secs(1));
        assert_eq!(pass(0), Duration::ZERO);
    }

    #[test]
    fn share_of_waits_needs_a_sample() {
        let start = Instant::now();
        let at = |seconds: u64, waits: u64, long_waits: u64| Rates {
            at: start + Duration::from_secs(seconds),
            writes: waits,
            waits,
            long_waits,
            groups: 0,
            busy: Duration::ZERO,
        };
        assert!(!at(60, 3, 3).since(&at(0, 0, 0)).has_long_waits());
        assert!(at(60, 20, 2).since(&at(0, 0, 0)).has_long_waits());
        assert!(!at(60, 1000, 50).since(&at(0, 0, 0)).has_long_waits());
        assert!(at(60, 1_000_000, 0).since(&at(0, 0, 0)).has_many_writes());
    }

    #[test]
    fn busy_writer_counts_once_it_shares_commits() {
        use crate::telemetry::histogram::Amounts;
        let start = Instant::now();
        let at = |seconds: u64, writes: u64, groups: u64, busy: u64| Rates {
            at: start + Duration::from_secs(seconds),
            writes,
            waits: writes,
            long_waits: 0,
            groups,
            busy: Duration::from_secs(busy),
        };
        let minute = |writes, groups, busy| at(60, writes, groups, busy).since(&at(0, 0, 0, 0));
        assert!(minute(1000, 100, 55).is_busy());
        assert!(!minute(1000, 100, 40).is_busy());
        assert!(!minute(1000, 900, 55).is_busy());
        assert!(!minute(0, 0, 60).is_busy());
        let times = Amounts::default();
        (0..100).for_each(|_| times.add_time(Duration::from_millis(10)));
        let found = Duration::from_nanos(sum(&times.load())).as_secs_f64();
        assert!((0.9..1.1).contains(&found), "{found}");
    }
}
