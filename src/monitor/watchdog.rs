//! Looks now and then whether something is wrong, and says so when it begins and when it is over.
//!
//! A thread of the timer's (`runtime/timer.rs`) looks at a store, every [`Options::monitor_interval`]. A look asks the
//! file system, which may hang, and calls subscribers of events. One that does not end holds up the further looks at
//! its own store, and nothing else. A look first asks everybody, each under their own lock, and holds none of its own;
//! then takes `state`, compares, and lets go of it; then emits events. So [`Store::stats`](crate::Store::stats) never
//! waits for a file system or for a subscriber. The thread reaches a store by a weak reference and owns nothing of it.
//! With the closing of the store [`Watchdog::end`] ends the looks, and says of what is wrong that it is over.
//!
//! With the feature `metrics` each look also tells the recorder (`metrics/exporter.rs`), under the `exporter`'s lock,
//! which nobody else takes but the end. A recorder is user code, which may panic, and may close the store: `publishing`
//! has the token of the thread that holds the lock, so that the end on that thread leaves the last publication to it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::mem;
#[cfg(feature = "metrics")]
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[cfg(feature = "metrics")]
use super::metrics::exporter::Exporter;
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
use crate::telemetry::counters::LONG_WAIT;
use crate::telemetry::event::event;
use crate::telemetry::histogram::distribution;
use crate::telemetry::stats::{Activity, DatabaseStats, Stats};
use crate::telemetry::usage;
use crate::telemetry::{Measurement, Telemetry};
use crate::write::Shared;
use histogram::Histogram;

/// The first in the queue may wait so long.
const HEAD_WAIT: Duration = Duration::from_secs(1);

/// Waits that are too few to speak of percentiles are put together with the next, for at most so many looks.
const WINDOW: usize = 60;
const MIN_SAMPLES: u64 = 20;

/// So many looks without it, and an alert is over.
const CLEAR_AFTER: u32 = 3;

const LARGE_WAL: u64 = 100_000_000;
const STUCK_CHECKPOINTS: u64 = 10;
const FREE_PAGES: u64 = 1000;
const GIB: u64 = 1 << 30;

pub(crate) struct Watchdog {
    sampler: Arc<Sampler>,
    looks: Option<Periodic>,
}

struct Sampler {
    shared: Arc<Shared>,
    readers: Arc<Readers>,
    telemetry: Arc<Telemetry>,
    options: Settings,
    state: Mutex<WatchState>,
    /// There until the end.
    #[cfg(feature = "metrics")]
    exporter: Mutex<Option<Exporter>>,
    /// The thread that holds the lock of `exporter`, by its token, or 0.
    #[cfg(feature = "metrics")]
    publishing: AtomicUsize,
    /// Whether the next publication is the last one.
    #[cfg(feature = "metrics")]
    is_over: AtomicBool,
}

/// What is compared from one look to the next.
struct WatchState {
    window: Window,
    /// One of each look, the last ones.
    rates: VecDeque<Rates>,
    /// How long each site's writes had run by the last look.
    totals: HashMap<String, Duration>,
    active: BTreeMap<AlertKind, Active>,
    ended: bool,
}

/// Waits since some look ago.
struct Window {
    since: Histogram,
    looks: usize,
    /// What 95 of 100 writes did not wait longer than, when there were last enough.
    p95: Duration,
}

#[derive(Clone, Copy)]
struct Rates {
    at: Instant,
    writes: u64,
    waits: u64,
    long_waits: u64,
}

/// An alert that goes on.
struct Active {
    since: Instant,
    found: Condition,
    /// Looks that have not seen it.
    quiet: u32,
}

/// What a look has found to be wrong.
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

/// How the writes of the last minute went. See [`Watchdog::recent_writes`].
#[derive(Clone, Copy, Default)]
pub(crate) struct RecentWrites {
    /// Whether it was long enough to speak of what goes on and on.
    pub(crate) is_long: bool,
    pub(crate) writes_a_second: f64,
    /// Percent of the writes that waited long.
    pub(crate) long_waits: f64,
}

/// What a look sees, before it is compared with the one before.
struct Sample {
    now: Instant,
    waits: Histogram,
    rates: Rates,
    totals: Vec<(String, Duration)>,
    writing: Option<Activity>,
    head_wait: Duration,
    queued: usize,
    wal_bytes: u64,
    unfinished: u64,
    database: DatabaseStats,
    oldest: Option<Activity>,
    /// Bytes that are free, and below which they are too few.
    room: Option<(u64, u64)>,
    full_for: Option<String>,
    failing_backups: Option<FailingBackups>,
    file_change: Option<FileChange>,
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
                // The last owner drops the options, and user code with them.
                quietly(|| drop(sampler));
            }
        };
        let wanted = !options.monitor_interval.is_zero();
        let looks = wanted.then(|| timer::every(options.monitor_interval, look));
        Self { sampler, looks }
    }

    /// What the store does, and has done.
    pub(crate) fn stats(&self) -> Stats {
        self.sampler.stats()
    }

    /// Ends the looks. The store has closed.
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

    /// How the writes of the last minute went (the last [`WINDOW`] looks).
    pub(crate) fn recent_writes(&self) -> RecentWrites {
        let state = self.sampler.state.lock();
        let (Some(first), Some(last)) = (state.rates.front(), state.rates.back()) else {
            return RecentWrites::default();
        };
        let seconds = (last.at - first.at).as_secs_f64();
        let waits = last.waits - first.waits;
        RecentWrites {
            is_long: state.rates.len() >= WINDOW / 2,
            writes_a_second: (last.writes - first.writes) as f64 / seconds.max(f64::MIN_POSITIVE),
            long_waits: 100.0 * (last.long_waits - first.long_waits) as f64 / waits.max(1) as f64,
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
            ..Stats::collect(&self.shared.queue, &self.readers, &self.telemetry)
        }
    }

    #[cfg(feature = "metrics")]
    fn publish(&self, is_last: bool) {
        self.is_over.fetch_or(is_last, Ordering::AcqRel);
        // The recorder has closed the store: the call that it is in does the rest.
        if self.publishing.load(Ordering::Relaxed) == thread_token() {
            return;
        }
        let mut exporter = self.exporter.lock();
        self.publishing.store(thread_token(), Ordering::Relaxed);
        if let Some(exporter) = &mut *exporter {
            quietly(|| exporter.publish(&self.stats(), &self.telemetry));
        }
        if self.is_over.load(Ordering::Acquire) {
            quietly(|| *exporter = None);
        }
        self.publishing.store(0, Ordering::Relaxed);
    }

    fn look(&self) {
        let sample = self.take_sample();
        if let Some(change) = &sample.file_change {
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
            },
            waits,
            totals: usage::totals(&telemetry.write_sites),
            writing: telemetry.writing.activity(),
            head_wait: shared.queue.longest_wait(now),
            queued: shared.queue.length(),
            wal_bytes: counters.wal_bytes.get(),
            unfinished: counters.consecutive_unfinished_checkpoints.get(),
            database: counters.size(),
            oldest: self.readers.oldest_read(),
            room: self.room(),
            full_for: counters.full_for().map(|site| site.to_string()),
            failing_backups: telemetry.backups.failing(),
            file_change: shared.file.look(),
        }
    }

    fn room(&self) -> Option<(u64, u64)> {
        let stat = rustix::fs::statvfs(self.shared.path.parent()?).ok()?;
        let (free, all) = (stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize);
        let wanted = self.options.wal_limit.saturating_mul(2).max((all / 20).min(5 * GIB));
        Some((free, wanted))
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
                    what = kind.description(),
                    site,
                    reason,
                    value = measurement.value,
                    threshold = measurement.threshold,
                    unit = measurement.unit,
                },
                "an alert begins"
            ),
            Change::IsOver(Condition { kind, site, .. }, lasted) => event!(
                info,
                "larder::alert",
                path,
                { alert = kind.name(), what = kind.description(), site, lasted_ms = lasted.as_millis() as u64 },
                "an alert is over"
            ),
        }
    }
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
            totals: HashMap::new(),
            active: BTreeMap::new(),
            ended: false,
        }
    }

    /// What is wrong now, the oldest first.
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

    /// What is wrong.
    fn compare(&mut self, sample: &Sample, options: &Settings) -> Vec<Condition> {
        self.rates.push_back(sample.rates);
        if self.rates.len() > WINDOW {
            self.rates.pop_front();
        }
        self.window.look(&sample.waits);
        let busiest_writer = self.busiest_writer(sample);
        let reader = sample.oldest.as_ref().map(|read| read.site.clone());
        let wal_limit = options.wal_limit.min(LARGE_WAL);
        let wait = self.window.p95.max(if sample.head_wait > HEAD_WAIT {
            sample.head_wait
        } else {
            Duration::ZERO
        });
        let age = sample.oldest.as_ref().map_or(Duration::ZERO, |read| read.age);
        let DatabaseStats { pages, free_pages, .. } = sample.database;
        let (free, wanted) = sample.room.unwrap_or((u64::MAX, 0));
        let writer = sample.full_for.clone().or(busiest_writer.clone());
        let mut found = Vec::new();
        let mut check = |kind, wrong, value: f64, threshold: f64, unit, site: &Option<String>| {
            if wrong {
                let (measurement, site) = (Measurement { value, threshold, unit }, site.clone());
                let reason = None;
                found.push(Condition {
                    kind,
                    measurement,
                    site,
                    reason,
                });
            }
        };
        let (waited, longest) = (wait.as_secs_f64(), LONG_WAIT.as_secs_f64());
        check(
            AlertKind::SlowQueue,
            wait > LONG_WAIT,
            waited,
            longest,
            "s",
            &busiest_writer,
        );
        let (queued, room) = (sample.queued as f64, options.queue_capacity as f64);
        check(
            AlertKind::QueueFull,
            queued >= room,
            queued,
            room,
            "writes",
            &busiest_writer,
        );
        // A log that was all moved is emptied by the next commit.
        let large = sample.wal_bytes > wal_limit && sample.unfinished > 0;
        check(
            AlertKind::LargeWal,
            large,
            sample.wal_bytes as f64,
            wal_limit as f64,
            "B",
            &reader,
        );
        let (age, oldest) = (age.as_secs_f64(), options.max_reader_age.as_secs_f64());
        check(AlertKind::OldRead, age > oldest, age, oldest, "s", &reader);
        let stuck = sample.unfinished >= STUCK_CHECKPOINTS;
        check(
            AlertKind::StuckCheckpoint,
            stuck,
            sample.unfinished as f64,
            STUCK_CHECKPOINTS as f64,
            "checkpoints",
            &reader,
        );
        let percent = 100.0 * free_pages as f64 / pages.max(1) as f64;
        check(
            AlertKind::FreePages,
            free_pages > FREE_PAGES && percent > 25.0,
            percent,
            25.0,
            "%",
            &None,
        );
        let full = free < wanted || sample.full_for.is_some();
        check(AlertKind::DiskFull, full, free as f64, wanted as f64, "B", &writer);
        found.extend(sample.failing_backups.as_ref().map(failing_backups));
        found.extend(sample.file_change.as_ref().map(changed_file));
        found
    }

    /// Whose writes keep the writer: the one that has run for long, or whose took most since the last look.
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

    /// Begins what is new, and ends what was not found for some looks.
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
                // Each old read is named.
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

fn failing_backups(failing: &FailingBackups) -> Condition {
    Condition {
        kind: AlertKind::BackupFailed,
        measurement: Measurement {
            value: failing.in_a_row as f64,
            threshold: 0.0,
            unit: "backups",
        },
        site: Some(failing.site.to_string()),
        reason: Some(failing.reason.clone()),
    }
}

fn changed_file(change: &FileChange) -> Condition {
    Condition {
        kind: match change {
            FileChange::Removed(..) | FileChange::Replaced(..) => AlertKind::FileMoved,
            FileChange::Unlocked(..) => AlertKind::LocksDropped,
        },
        measurement: Measurement {
            value: 1.0,
            threshold: 0.0,
            unit: "files",
        },
        site: None,
        reason: Some(change.to_string()),
    }
}

impl Active {
    /// Who was found first stays named, unless nobody was.
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
            self.p95 = Duration::from_nanos(new.p95);
            self.looks = 0;
            self.since = waits.clone();
        }
    }
}
