//! How a caller and the writer thread find each other without sleeping, while that pays.
//!
//! A thread that sleeps takes 10 to 50 us to wake up, as long as several commits, and the writer spends some 5 us on
//! waking each caller. So a caller that has handed over a write, and a writer that has replied, first stay awake: they
//! look again and again, and in between they yield their core. Whoever has work to do on it goes first, so this pays
//! with more callers than cores, too: they take turns, and none of them needs to be woken. It does not pay when
//!
//! - the wait is long: the last group took longer than a caller's patience, or the writer makes a checkpoint;
//! - nobody is in a hurry: the writer, too, had to wait for its last job, so there is time to sleep and to wake up;
//! - the machine is busy: who yields to others than ours may get the core back a time slice later, several
//!   milliseconds. One yield that took so long, and all threads of the store sleep at once for a while. As long as it
//!   is found again, that while doubles.
//!
//! # What is shared
//!
//! Atomics, each relaxed, and nothing depends on what they say but speed: whoever is tired of looking sleeps on the
//! queue or on the reply slot, whose own locks see to it that no wake-up is lost. Only the writer thread writes
//! `last_group` and `blocking`, only workers `hot`; anybody writes the `Contention`, and the last one wins.

use std::mem;
use std::time::Duration;

use crossbeam_utils::CachePadded;

use crate::runtime::sync::atomic::Ordering::Relaxed;
use crate::runtime::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use crate::runtime::sync::{CHECKS_PER_YIELD, Instant, thread};

/// The writer's patience is this share of a caller's. It has more often to wait for nothing.
const WRITERS_SHARE: u32 = 10;

/// With so many callers waiting a caller's patience doubles: each would have to be woken.
const DOUBLING_CALLERS: u32 = 64;

/// A yield that takes longer has lost the core to somebody who does not yield.
const LONG_YIELD: Duration = Duration::from_micros(500);

/// How long nobody stays awake after that.
const MIN_BACKOFF: Duration = Duration::from_millis(2);
const MAX_BACKOFF: Duration = Duration::from_millis(256);

#[derive(Debug)]
pub(crate) struct AdaptiveSpin {
    patience: Duration,
    /// Threads that wait for a reply.
    callers: CachePadded<AtomicUsize>,
    /// Nanoseconds that the last group took, from its first job to its replies.
    last_group: CachePadded<AtomicU64>,
    /// Whether the writer found its last job without sleeping.
    hot: CachePadded<AtomicBool>,
    /// Odd while the writer does something long that no caller waits for.
    blocking: CachePadded<AtomicU64>,
    contention: CachePadded<Contention>,
}

/// Times are in nanoseconds since the store was opened.
#[derive(Debug)]
struct Contention {
    opened: Instant,
    /// When staying awake is tried again.
    until: AtomicU64,
    /// How long it was not tried the last time.
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

    /// Counts the calling thread among those who wait, for as long as the guard lives.
    pub(crate) fn wait(&self) -> SpinGuard<'_> {
        SpinGuard {
            callers: self.callers.fetch_add(1, Relaxed) + 1,
            spin: self,
        }
    }

    /// For the writer, once the queue is empty: looks for the next job.
    pub(crate) fn spin_for_job<T>(&self, check: impl FnMut() -> Option<T>) -> Option<T> {
        let found = self.stay_awake(self.patience / WRITERS_SHARE, None, check);
        self.set_hot(found.is_some());
        found
    }

    /// For the writer: whether it found its job without sleeping.
    pub(crate) fn set_hot(&self, hot: bool) {
        // Written only when it changes, since every caller reads it.
        if self.hot.load(Relaxed) != hot {
            self.hot.store(hot, Relaxed);
        }
    }

    /// For the writer, after it has replied to a group.
    ///
    /// Those callers that stay awake on its core cannot run before it yields, and they have the next jobs.
    pub(crate) fn replied(&self, jobs: usize, took: Duration) {
        self.last_group.store(nanos(took), Relaxed);
        if jobs > 1 && !self.patience.is_zero() {
            let mut now = self.contention.now();
            if !self.contention.is_present(now) {
                self.contention.yield_core(&mut now);
            }
        }
    }

    /// For the writer: it does something now that no caller should wait for awake.
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

    /// Yields the core, and says whether it was lost for long.
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

/// Good for five centuries.
fn nanos(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}

pub(crate) struct SpinGuard<'a> {
    spin: &'a AdaptiveSpin,
    callers: usize,
}

impl SpinGuard<'_> {
    /// Looks for the reply, until then at the latest.
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
            // Staying awake is tried again, and the core is lost at once.
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
