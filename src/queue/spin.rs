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
//! `last_group` and `long_work`, only workers `hurry`; anybody writes the `Crowd`, and the last one wins.

use std::mem;
use std::time::Duration;

use crossbeam_utils::CachePadded;

use crate::runtime::sync::atomic::Ordering::Relaxed;
use crate::runtime::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use crate::runtime::sync::{Instant, LOOKS, thread};

/// The writer's patience is this share of a caller's. It has more often to wait for nothing.
const WRITERS_SHARE: u32 = 10;

/// With so many callers waiting a caller's patience doubles: each would have to be woken.
const MANY: u32 = 64;

/// A yield that takes longer has lost the core to somebody who does not yield.
const LONG_YIELD: Duration = Duration::from_micros(500);

/// How long nobody stays awake after that.
const SHORTEST_CROWD: Duration = Duration::from_millis(2);
const LONGEST_CROWD: Duration = Duration::from_millis(256);

#[derive(Debug)]
pub(crate) struct Handoff {
    patience: Duration,
    /// Threads that wait for a reply.
    callers: CachePadded<AtomicUsize>,
    /// Nanoseconds that the last group took, from its first job to its replies.
    last_group: CachePadded<AtomicU64>,
    /// Whether the writer found its last job without sleeping.
    hurry: CachePadded<AtomicBool>,
    /// Odd while the writer does something long that no caller waits for.
    long_work: CachePadded<AtomicU64>,
    crowd: CachePadded<Crowd>,
}

/// Times are in nanoseconds since the store was opened.
#[derive(Debug)]
struct Crowd {
    opened: Instant,
    /// When staying awake is tried again.
    until: AtomicU64,
    /// How long it was not tried the last time.
    lasted: AtomicU64,
}

impl Handoff {
    pub(crate) fn new(patience: Duration) -> Self {
        Self {
            patience,
            callers: CachePadded::default(),
            last_group: CachePadded::default(),
            hurry: CachePadded::default(),
            long_work: CachePadded::default(),
            crowd: CachePadded::new(Crowd {
                opened: Instant::now(),
                until: AtomicU64::new(0),
                lasted: AtomicU64::new(0),
            }),
        }
    }

    /// Counts the calling thread among those who wait, for as long as the guard lives.
    pub(crate) fn wait(&self) -> Waiting<'_> {
        Waiting {
            callers: self.callers.fetch_add(1, Relaxed) + 1,
            handoff: self,
        }
    }

    /// For the writer, once the queue is empty: looks for the next job.
    pub(crate) fn await_job<T>(&self, look: impl FnMut() -> Option<T>) -> Option<T> {
        let found = self.stay_awake(self.patience / WRITERS_SHARE, None, look);
        self.hurry(found.is_some());
        found
    }

    /// For the writer: whether it found its job without sleeping.
    pub(crate) fn hurry(&self, hurry: bool) {
        // Written only when it changes, since every caller reads it.
        if self.hurry.load(Relaxed) != hurry {
            self.hurry.store(hurry, Relaxed);
        }
    }

    /// For the writer, after it has replied to a group.
    ///
    /// Those callers that stay awake on its core cannot run before it yields, and they have the next jobs.
    pub(crate) fn replied(&self, jobs: usize, took: Duration) {
        self.last_group.store(nanos(took), Relaxed);
        if jobs > 1 && !self.patience.is_zero() {
            let mut now = self.crowd.now();
            if !self.crowd.is_there(now) {
                self.crowd.yield_core(&mut now);
            }
        }
    }

    /// For the writer: it does something now that no caller should wait for awake.
    pub(crate) fn long_work<T>(&self, work: impl FnOnce() -> T) -> T {
        self.long_work.fetch_add(1, Relaxed);
        let done = work();
        self.long_work.fetch_add(1, Relaxed);
        done
    }

    fn stay_awake<T>(
        &self,
        patience: Duration,
        until: Option<Instant>,
        mut look: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        let long_work = self.long_work.load(Relaxed);
        if patience.is_zero() || long_work % 2 == 1 {
            return None;
        }
        let mut now = self.crowd.now();
        if self.crowd.is_there(now) {
            return None;
        }
        let end = now + nanos(patience);
        let end = until.map_or(end, |until| {
            end.min(nanos(until.saturating_duration_since(self.crowd.opened)))
        });
        loop {
            for _ in 0..LOOKS {
                if let Some(found) = look() {
                    return Some(found);
                }
            }
            let lost = self.crowd.yield_core(&mut now);
            if lost || now >= end || self.long_work.load(Relaxed) != long_work {
                return look();
            }
        }
    }
}

impl Crowd {
    fn is_there(&self, now: u64) -> bool {
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
        let next = if again { 2 * lasted } else { nanos(SHORTEST_CROWD) };
        let next = next.min(nanos(LONGEST_CROWD));
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

pub(crate) struct Waiting<'a> {
    handoff: &'a Handoff,
    callers: usize,
}

impl Waiting<'_> {
    /// Looks for the reply, until then at the latest.
    pub(crate) fn await_reply(&self, until: Instant, mut done: impl FnMut() -> bool) {
        let handoff = self.handoff;
        let callers = u32::try_from(self.callers).unwrap_or(MANY).min(MANY);
        let patience = handoff.patience + handoff.patience * callers / MANY;
        if handoff.hurry.load(Relaxed) && Duration::from_nanos(handoff.last_group.load(Relaxed)) <= patience {
            handoff.stay_awake(patience, Some(until), || done().then_some(()));
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.handoff.callers.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn crowd() -> Crowd {
        Handoff::new(Duration::from_micros(500)).crowd.into_inner()
    }

    #[test]
    fn a_crowd_that_is_found_again_and_again_is_left_alone_for_longer_and_longer() {
        let crowd = crowd();
        let mut now = 1000 * MS;
        for lasts in [2, 4, 8, 16, 32, 64, 128, 256, 256, 256] {
            crowd.note(now);
            assert_eq!(crowd.until.load(Relaxed), now + lasts * MS);
            // Staying awake is tried again, and the core is lost at once.
            now += (lasts + 1) * MS;
        }
    }

    #[test]
    fn a_crowd_that_went_away_is_forgotten() {
        let crowd = crowd();
        crowd.note(1000 * MS);
        crowd.note(1003 * MS);
        assert_eq!(crowd.until.load(Relaxed), 1007 * MS);
        crowd.note(1100 * MS);
        assert_eq!(crowd.until.load(Relaxed), 1102 * MS);
    }

    #[test]
    fn threads_that_find_the_same_crowd_do_not_make_it_last() {
        let crowd = crowd();
        for late in 0..5 {
            crowd.note(1000 * MS + late);
        }
        assert_eq!(crowd.until.load(Relaxed), 1002 * MS);
    }

    #[test]
    fn who_has_no_patience_does_not_look() {
        let handoff = Handoff::new(Duration::ZERO);
        handoff.hurry(true);
        assert_eq!(handoff.await_job(|| -> Option<()> { panic!("it looked") }), None);
        handoff.hurry(true);
        handoff
            .wait()
            .await_reply(Instant::now() + Duration::from_secs(1), || panic!("it looked"));
    }

    #[test]
    fn a_caller_does_not_look_while_the_writer_does_something_long() {
        let handoff = Handoff::new(Duration::from_millis(1));
        handoff.hurry(true);
        let later = Instant::now() + Duration::from_secs(1);
        handoff.long_work(|| handoff.wait().await_reply(later, || panic!("it looked")));
        let mut looks = 0;
        handoff.wait().await_reply(later, || {
            looks += 1;
            true
        });
        assert_eq!(looks, 1);
    }
}
