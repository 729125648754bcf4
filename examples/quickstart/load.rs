//! The mixed load: threads that read and threads that write, all on one store.

use std::hint::black_box;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use larder::rusqlite::types::ValueRef;
use larder::rusqlite::{self, Row, params_from_iter};
use larder::{Stats, Store};

use crate::failure::{Context, Result};
use crate::lookups::{Lookup, Lookups};
use crate::progress;
use crate::random::Random;
use crate::replica;

/// The table of the writing threads.
pub(crate) const TABLE: &str = "larder_quickstart";
const CREATE: &str = "CREATE TABLE IF NOT EXISTS larder_quickstart(
    id INTEGER PRIMARY KEY, thread INTEGER NOT NULL, number INTEGER NOT NULL, at TEXT NOT NULL) STRICT";
const INSERT: &str = "INSERT INTO larder_quickstart(thread, number, at) VALUES (?1, ?2, datetime('now', 'subsec'))";

const THREADS_THAT_WRITE: usize = 2;
/// One read in this many is a join.
const JOIN_EVERY: u64 = 10;

pub(crate) struct Load {
    pub(crate) readers: usize,
    pub(crate) writers: usize,
    pub(crate) took: Duration,
    pub(crate) point_reads: Latencies,
    pub(crate) joins: Latencies,
    pub(crate) writes: Latencies,
    /// Statistics of the store that served the load.
    pub(crate) stats: Stats,
}

/// The newest row of the writing threads, and when it was written. `None` if there is none.
#[cfg(feature = "replicate")]
pub(crate) fn newest(store: &Store) -> Result<Option<(i64, String)>> {
    Ok(store.read(|tx| {
        let is_there = "SELECT 1 FROM sqlite_schema WHERE name = ?1";
        if tx.query_optional(is_there, [TABLE], |_| Ok(()))?.is_none() {
            return Ok(None);
        }
        let newest = format!("SELECT id, at FROM {TABLE} ORDER BY id DESC LIMIT 1");
        tx.query_optional(&newest, [], |row| Ok((row.get(0)?, row.get(1)?)))
    })?)
}

pub(crate) fn run(store: &Store, lookups: &Lookups, readers: usize, duration: Duration) -> Result<Load> {
    store
        .write(|tx| tx.execute_batch(CREATE))
        .context(|| format!("cannot make table `{TABLE}`"))?;
    // Without rows there is nothing to read.
    let readers = if lookups.point.is_some() { readers } else { 0 };
    let begun = Instant::now();
    let shift = Shift {
        until: begun + duration,
        broken_off: AtomicBool::new(false),
    };
    let (reads, writes) = thread::scope(|scope| {
        let shift = &shift;
        let reading: Vec<_> = (0..readers)
            .map(|seed| scope.spawn(move || read(store, lookups, seed as u64, shift)))
            .collect();
        let writing: Vec<_> = (0..THREADS_THAT_WRITE)
            .map(|thread| scope.spawn(move || write(store, thread, shift)))
            .collect();
        let shown = shift.show(store, duration);
        (shown.and_then(|()| join_all(reading)), join_all(writing))
    });
    let took = begun.elapsed();
    let (point_reads, joins) = reads?.into_iter().unzip();
    Ok(Load {
        readers,
        writers: THREADS_THAT_WRITE,
        took,
        point_reads: Latencies::merge(point_reads),
        joins: Latencies::merge(joins),
        writes: Latencies::merge(writes?),
        stats: store.stats(),
    })
}

/// The point reads and joins of one thread.
fn read(store: &Store, lookups: &Lookups, seed: u64, shift: &Shift) -> Result<(Latencies, Latencies)> {
    let mut random = Random::seeded(seed);
    let (mut point_reads, mut joins) = (Latencies::default(), Latencies::default());
    shift.repeat(|| {
        let join = if random.below(JOIN_EVERY) == 0 {
            random.pick(&lookups.joins)
        } else {
            None
        };
        match (join, &lookups.point) {
            (Some(join), _) => joins.time(|| look_up(store, join, &mut random)),
            (None, Some(point)) => point_reads.time(|| look_up(store, point, &mut random)),
            (None, None) => Ok(()),
        }
    })?;
    Ok((point_reads, joins))
}

fn look_up(store: &Store, lookup: &Lookup, random: &mut Random) -> Result<()> {
    let Some(key) = random.pick(&lookup.keys) else {
        return Ok(());
    };
    store
        // A row that another process deleted meanwhile is no failure.
        .read(|tx| tx.query_optional(&lookup.sql, params_from_iter(key), use_row))
        .context(|| format!("cannot read {}", lookup.name))?;
    Ok(())
}

/// Reads every value, because SQLite decodes a value only on access.
fn use_row(row: &Row<'_>) -> rusqlite::Result<()> {
    for column in 0..row.as_ref().column_count() {
        black_box::<ValueRef<'_>>(row.get_ref(column)?);
    }
    Ok(())
}

/// The inserts of one thread, one row per transaction.
fn write(store: &Store, thread: usize, shift: &Shift) -> Result<Latencies> {
    let mut writes = Latencies::default();
    let mut number = 0_i64;
    shift.repeat(|| {
        number += 1;
        let row = (thread as i64, number);
        writes
            .time(|| Ok(store.write(move |tx| tx.execute(INSERT, row))?))
            .context(|| format!("cannot insert into `{TABLE}`"))?;
        Ok(())
    })?;
    Ok(writes)
}

fn join_all<T>(threads: Vec<ScopedJoinHandle<'_, Result<T>>>) -> Result<Vec<T>> {
    let joined = threads
        .into_iter()
        .map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
    joined.collect()
}

/// The end of the load: all threads stop at the same time, or as soon as one has failed.
struct Shift {
    until: Instant,
    broken_off: AtomicBool,
}

impl Shift {
    fn repeat(&self, mut once: impl FnMut() -> Result<()>) -> Result<()> {
        while self.goes_on() {
            once().inspect_err(|_| self.broken_off.store(true, Relaxed))?;
        }
        Ok(())
    }

    fn goes_on(&self) -> bool {
        Instant::now() < self.until && !self.broken_off.load(Relaxed)
    }

    /// Shows the progress until the end.
    fn show(&self, store: &Store, duration: Duration) -> Result<()> {
        let millis = |time: Duration| time.as_millis() as u64;
        let progress = progress::of_time("reading and writing".into(), millis(duration));
        let mut told = Instant::now();
        while self.goes_on() {
            if told.elapsed() >= Duration::from_secs(1) {
                told = Instant::now();
                progress.suspend(|| replica::tell(store))?;
            }
            let left = self.until.saturating_duration_since(Instant::now());
            progress.set_position(millis(duration.saturating_sub(left)));
            thread::sleep(left.min(Duration::from_millis(100)));
        }
        Ok(())
    }
}

/// Latencies of many operations, in nanoseconds; 4.3 s stands for anything longer.
#[derive(Default)]
pub(crate) struct Latencies(Vec<u32>);

impl Latencies {
    fn time<T>(&mut self, operation: impl FnOnce() -> Result<T>) -> Result<T> {
        let begun = Instant::now();
        let result = operation()?;
        self.0
            .push(u32::try_from(begun.elapsed().as_nanos()).unwrap_or(u32::MAX));
        Ok(result)
    }

    fn merge(threads: Vec<Self>) -> Self {
        let mut all: Vec<u32> = threads.into_iter().flat_map(|latencies| latencies.0).collect();
        all.sort_unstable();
        Self(all)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The latency that `percent` of them did not exceed. `None` if there are none.
    pub(crate) fn percentile(&self, percent: usize) -> Option<Duration> {
        let rank = (self.0.len() * percent).div_ceil(100);
        let nanos = self.0.get(rank.checked_sub(1)?)?;
        Some(Duration::from_nanos((*nanos).into()))
    }
}
