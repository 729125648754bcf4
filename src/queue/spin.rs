//! Adaptive spinning: a caller and the writer thread meet without sleeping, while that pays.
//!
//! A sleeping thread takes 10 to 50 us to wake up, as long as several commits, and the writer thread spends some 5 us
//! on waking each caller. So a caller that has submitted a write, and a writer thread that has replied, first spin:
//! they check repeatedly, and yield their core between checks. A thread with work to do runs first, so spinning also
//! pays with more callers than cores: the threads take turns, and none needs a wake-up. Spinning does not pay when
//!
//! - the wait is long: the last group took longer than a caller's patience, or the writer thread runs a checkpoint;
//! - the load is low: the writer thread also waited for its last job, so there is time to sleep and to wake up;
//! - the machine is busy: a thread that yields to another program may get its core back a time slice later, several
//!   milliseconds. After one yield that took so long, all threads of the store sleep at once for a while. Each time the
//!   contention is found again, that while doubles.
//!
//! # What is shared
//!
//! The shared fields are relaxed atomics, and only speed depends on them. A thread whose patience has run out sleeps on
//! the queue or on the slot, whose locks ensure that no wake-up is lost. Only the thread in the writer's seat writes
//! `last_group` and `blocking`, and only workers write `hot`. Any thread writes `Contention`, and the last write wins.

use std::mem;
use std::time::Duration;

use crossbeam_utils::CachePadded;

use crate::runtime::sync::atomic::Ordering::Relaxed;
use crate::runtime::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use crate::runtime::sync::{CHECKS_PER_YIELD, Instant, thread};

/// The writer thread's share of a caller's patience. The writer thread spins in vain more often.
const WRITERS_SHARE: u32 = 10;

/// Number of waiting callers at which a caller's patience doubles: each would have to be woken.
const DOUBLING_CALLERS: u32 = 64;

/// A longer yield means that the core was lost to a program that does not yield.
const LONG_YIELD: Duration = Duration::from_micros(500);

/// Bounds of the time without spinning after a lost core.
const MIN_BACKOFF: Duration = Duration::from_millis(2);
const MAX_BACKOFF: Duration = Duration::from_millis(256);

#[derive(Debug)]
pub(crate) struct AdaptiveSpin {
    patience: Duration,
    /// Threads that wait for a reply.
    callers: CachePadded<AtomicUsize>,
    /// Nanoseconds of the last group, from its first job to its replies.
    last_group: CachePadded<AtomicU64>,
    /// Whether the writer thread found its last job without sleeping.
    hot: CachePadded<AtomicBool>,
    /// Odd while the writer thread does long work that no caller waits for.
    blocking: CachePadded<AtomicU64>,
    contention: CachePadded<Contention>,
}

/// Times are in nanoseconds since the store was opened.
#[derive(Debug)]
struct Contention {
    opened: Instant,
    /// The end of the pause: spinning is tried again then.
    until: AtomicU64,
    /// The length of the last pause.
    lasted: AtomicU64,
}

impl AdaptiveSpin {
    pub(crate) fn new(patience: Duration) -> Self {
        Self {
            patience,
            callers: CachePadded::default(),
            last_group: CachePadded::default(),
            hot: CachePadded::default(),
            blocking: CachePadded::default(),
            contention: CachePadded::new(Contention {
                opened: Instant::now(),
                until: AtomicU64::new(0),
                lasted: AtomicU64::new(0),
            }),
        }
    }

    /// Counts the calling thread as waiting for as long as the guard lives.
    pub(crate) fn wait(&self) -> SpinGuard<'_> {
        SpinGuard {
            callers: self.callers.fetch_add(1, Relaxed) + 1,
            spin: self,
        }
    }

    /// For the writer thread, once the queue is empty: spins for the next job.
    pub(crate) fn spin_for_job<T>(&self, check: impl FnMut() -> Option<T>) -> Option<T> {
        let found = self.stay_awake(self.patience / WRITERS_SHARE, None, check);
        self.set_hot(found.is_some());
        found
    }

    /// For the writer thread: records whether it found its job without sleeping.
    pub(crate) fn set_hot(&self, hot: bool) {
        // Written only when it changes, because every caller reads it.
        if self.hot.load(Relaxed) != hot {
            self.hot.store(hot, Relaxed);
        }
    }

    /// For the writer thread, after it has replied to a group.
    ///
    /// Callers that spin on its core have the next jobs, and cannot run before it yields.
    pub(crate) fn replied(&self, jobs: usize, took: Duration) {
        self.last_group.store(nanos(took), Relaxed);
        if jobs > 1 && !self.patience.is_zero() {
            let mut now = self.contention.now();
            if !self.contention.is_present(now) {
                self.contention.yield_core(&mut now);
            }
        }
    }

    /// For the writer thread: runs long work, during which no caller should spin.
    pub(crate) fn blocking_section<T>(&self, work: impl FnOnce() -> T) -> T {
        self.blocking.fetch_add(1, Relaxed);
        let done = work();
        self.blocking.fetch_add(1, Relaxed);
        done
    }

    fn stay_awake<T>(
        &self,
        patience: Duration,
        until: Option<Instant>,
        mut check: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        let blocking = self.blocking.load(Relaxed);
        if patience.is_zero() || blocking % 2 == 1 {
            return None;
        }
        let mut now = self.contention.now();
        if self.contention.is_present(now) {
            return None;
        }
        let end = now + nanos(patience);
        let end = until.map_or(end, |until| {
            end.min(nanos(until.saturating_duration_since(self.contention.opened)))
        });
        loop {
            for _ in 0..CHECKS_PER_YIELD {
                if let Some(found) = check() {
                    return Some(found);
                }
            }
            let lost = self.contention.yield_core(&mut now);
            if lost || now >= end || self.blocking.load(Relaxed) != blocking {
                return check();
            }
        }
    }
}

impl Contention {
    fn is_present(&self, now: u64) -> bool {
        now < self.until.load(Relaxed)
    }

    /// Yields the core, and returns whether the core was lost for long.
    fn yield_core(&self, now: &mut u64) -> bool {
        thread::yield_now();
        let before = mem::replace(now, self.now());
        let lost = now.saturating_sub(before) > nanos(LONG_YIELD);
        if lost {
            self.note(*now);
        }
        lost
    }

    fn note(&self, now: u64) {
        let (until, lasted) = (self.until.load(Relaxed), self.lasted.load(Relaxed));
        if now < until {
            return;
        }
        let again = now - until < 2 * lasted;
        let next = if again { 2 * lasted } else { nanos(MIN_BACKOFF) };
        let next = next.min(nanos(MAX_BACKOFF));
        self.lasted.store(next, Relaxed);
        self.until.store(now + next, Relaxed);
    }

    fn now(&self) -> u64 {
        nanos(self.opened.elapsed())
    }
}

/// Enough for five centuries.
fn nanos(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}

pub(crate) struct SpinGuard<'a> {
    spin: &'a AdaptiveSpin,
    callers: usize,
}

impl SpinGuard<'_> {
    /// Spins for the reply, until `until` at the latest.
    pub(crate) fn spin_for_reply(&self, until: Instant, mut done: impl FnMut() -> bool) {
        let spin = self.spin;
        let callers = u32::try_from(self.callers)
            .unwrap_or(DOUBLING_CALLERS)
            .min(DOUBLING_CALLERS);
        let patience = spin.patience + spin.patience * callers / DOUBLING_CALLERS;
        if spin.hot.load(Relaxed) && Duration::from_nanos(spin.last_group.load(Relaxed)) <= patience {
            spin.stay_awake(patience, Some(until), || done().then_some(()));
        }
    }
}

impl Drop for SpinGuard<'_> {
    fn drop(&mut self) {
        self.spin.callers.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn contention() -> Contention {
        AdaptiveSpin::new(Duration::from_micros(500)).contention.into_inner()
    }

    #[test]
    fn repeated_contention_doubles_the_pause() {
        let contention = contention();
        let mut now = 1000 * MS;
        for lasts in [2, 4, 8, 16, 32, 64, 128, 256, 256, 256] {
            contention.note(now);
            assert_eq!(contention.until.load(Relaxed), now + lasts * MS);
            // Spinning is tried again, and the core is lost at once.
            now += (lasts + 1) * MS;
        }
    }

    #[test]
    fn past_contention_is_forgotten() {
        let contention = contention();
        contention.note(1000 * MS);
        contention.note(1003 * MS);
        assert_eq!(contention.until.load(Relaxed), 1007 * MS);
        contention.note(1100 * MS);
        assert_eq!(contention.until.load(Relaxed), 1102 * MS);
    }

    #[test]
    fn threads_that_share_contention_do_not_prolong_it() {
        let contention = contention();
        for late in 0..5 {
            contention.note(1000 * MS + late);
        }
        assert_eq!(contention.until.load(Relaxed), 1002 * MS);
    }

    #[test]
    fn zero_spin_time_never_spins() {
        let spin = AdaptiveSpin::new(Duration::ZERO);
        spin.set_hot(true);
        assert_eq!(spin.spin_for_job(|| -> Option<()> { panic!("it looked") }), None);
        spin.set_hot(true);
        spin.wait()
            .spin_for_reply(Instant::now() + Duration::from_secs(1), || panic!("it looked"));
    }

    #[test]
    fn caller_does_not_spin_during_long_work() {
        let spin = AdaptiveSpin::new(Duration::from_millis(1));
        spin.set_hot(true);
        let later = Instant::now() + Duration::from_secs(1);
        spin.blocking_section(|| spin.wait().spin_for_reply(later, || panic!("it looked")));
        let mut looks = 0;
        spin.wait().spin_for_reply(later, || {
            looks += 1;
            true
        });
        assert_eq!(looks, 1);
    }
}
