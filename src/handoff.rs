//! How a caller and the writer thread find each other without sleeping, while that pays.
//!
//! A thread that parks takes 10 to 30 us to wake up, as long as several commits. So a caller that has just
//! handed over a write, and a writer that has just replied, look again and again for a few microseconds
//! before they park. That only pays while nobody else could use the core: with more callers than cores to
//! spare, spinning keeps the writer itself from running. Nobody spins either when commits take longer than
//! the spin, as they do when each one is synced.
//!
//! Nothing depends on what these counters say but speed: whoever stops spinning parks on the queue or on the
//! reply slot, whose own locks see to it that no wake-up is lost.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::apart::Apart;
use crate::options::cores;

#[derive(Debug)]
pub(crate) struct Handoff {
    spin: Duration,
    /// Cores that are left when the writer has one.
    spare: usize,
    /// Threads that wait for a reply.
    callers: Apart<AtomicUsize>,
    /// Nanoseconds that the last group took, from its first job to its replies.
    last_group: Apart<AtomicU64>,
}

impl Handoff {
    pub(crate) fn new(spin: Duration) -> Self {
        Self {
            spin,
            spare: cores() - 1,
            callers: Apart::default(),
            last_group: Apart::default(),
        }
    }

    /// Counts the calling thread among those who wait, for as long as the guard lives.
    pub(crate) fn wait(&self) -> Waiting<'_> {
        Waiting {
            callers: self.callers.fetch_add(1, Relaxed) + 1,
            handoff: self,
        }
    }

    /// For the writer, after a group of so many jobs: looks for the next one.
    pub(crate) fn spin_for_job<T>(&self, last_group: usize, look: impl FnMut() -> Option<T>) -> Option<T> {
        // Not `callers`: reading it here would take its cache line from the caller that is just coming back.
        if last_group > self.spare {
            return None;
        }
        self.spin(look)
    }

    pub(crate) fn group_took(&self, time: Duration) {
        self.last_group.store(time.as_nanos() as u64, Relaxed);
    }

    fn spin<T>(&self, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        if self.spin.is_zero() || u128::from(self.last_group.load(Relaxed)) > 2 * self.spin.as_nanos() {
            return None;
        }
        let start = Instant::now();
        loop {
            // No PAUSE in between (`std::hint::spin_loop`): it made no difference that could be measured, and this ends
            // after some microseconds anyway.
            for _ in 0..64 {
                if let Some(found) = look() {
                    return Some(found);
                }
            }
            if start.elapsed() >= self.spin {
                return None;
            }
        }
    }
}

pub(crate) struct Waiting<'a> {
    handoff: &'a Handoff,
    callers: usize,
}

impl Waiting<'_> {
    /// Looks for the reply, if this is a caller that may.
    pub(crate) fn spin(&self, mut done: impl FnMut() -> bool) {
        if self.callers <= self.handoff.spare {
            self.handoff.spin(|| done().then_some(()));
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.handoff.callers.fetch_sub(1, Relaxed);
    }
}
