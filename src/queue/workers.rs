//! The workers of a queue: which of them sleep, and when one of them is called.
//!
//! Plain data, guarded by the lock of the jobs. To *call* a sleeper, a thread takes one off the count of sleepers and
//! records a call, under the lock, and then wakes any one sleeper. The first sleeper that wakes and finds a call
//! answers it. So no call is lost, even if it wakes another sleeper than intended, or one whose time ran out at that
//! moment.
//!
//! Not every job calls a sleeper. One worker that is awake serves many short jobs faster than two workers that have to
//! be woken. So a job that arrives, or is left in the queue, calls a sleeper only if
//!
//! - no worker is awake; or
//! - the queued jobs would keep the awake workers busy for longer than the wake-up of another takes; or
//! - no worker is on watch, and none is on its way.
//!
//! At most one sleeper is *on watch*. It checks every [`WATCH`] whether the awake workers have taken a job. If they
//! have not, and jobs are queued, all awake workers are stuck in long jobs, and the sleeper starts to work. So while
//! jobs are queued and a worker sleeps, one worker is on watch or on its way. A long job delays the jobs behind it by
//! two [`WATCH`]es and a wake-up at most: the first check may find that the long job itself was just taken.

use std::time::Duration;

/// How often the worker on watch checks.
pub(super) const WATCH: Duration = Duration::from_millis(1);

/// Waking a worker costs some 5 us, and 10 to 50 us pass until it works.
const CALL_NANOS: u64 = 20_000;

#[derive(Debug)]
pub(super) struct Workers {
    all: usize,
    /// Sleepers without a call.
    asleep: usize,
    /// Sleepers with a call.
    called: usize,
    on_watch: bool,
    /// Jobs ever taken.
    taken: u64,
    /// Nanoseconds of one job: about the median of recent jobs.
    job_nanos: u64,
}

/// How a worker sleeps.
pub(super) enum Sleep {
    /// On watch; holds the number of taken jobs at its last check.
    OnWatch(u64),
    UntilCalled,
}

impl Workers {
    pub(super) fn new(all: usize) -> Self {
        Self {
            all,
            asleep: 0,
            called: 0,
            on_watch: false,
            taken: 0,
            job_nanos: 0,
        }
    }

    /// Whether to wake a sleeper, now that so many jobs are queued.
    pub(super) fn call(&mut self, queued: usize) -> bool {
        if self.asleep == 0 || queued == 0 {
            return false;
        }
        let awake = (self.all - self.asleep) as u64;
        let nobody_watches = !self.on_watch && self.called == 0;
        let call = awake == 0 || nobody_watches || queued as u64 * self.job_nanos > awake * CALL_NANOS;
        call && self.call_any()
    }

    /// Calls a sleeper, whatever is queued. Returns whether there is one to wake.
    pub(super) fn call_any(&mut self) -> bool {
        let any = self.asleep > 0;
        if any {
            self.asleep -= 1;
            self.called += 1;
        }
        any
    }

    /// An awake worker has taken a job and left so many. Returns whether to wake another.
    pub(super) fn taken(&mut self, left: usize) -> bool {
        self.taken = self.taken.wrapping_add(1);
        self.call(left)
    }

    /// Records the time of one job, an average over the jobs of its group.
    ///
    /// `job_nanos` moves one step towards it, so it is about the median. A worker that lost its core makes a few jobs
    /// very long, and those would call more workers to cores that are busy already.
    pub(super) fn took(&mut self, nanos: u64) {
        if nanos > self.job_nanos {
            self.job_nanos += self.job_nanos / 8 + 1;
        } else {
            self.job_nanos -= self.job_nanos / 8;
        }
    }

    pub(super) fn fall_asleep(&mut self) -> Sleep {
        self.asleep += 1;
        if self.on_watch || self.asleep == self.all {
            return Sleep::UntilCalled;
        }
        self.on_watch = true;
        Sleep::OnWatch(self.taken)
    }

    /// A sleeper has woken up. Returns whether there was a call, meant for it or for another sleeper, that it answers.
    pub(super) fn answer_call(&mut self, sleep: &Sleep) -> bool {
        if self.called == 0 {
            return false;
        }
        self.called -= 1;
        self.leave_watch(sleep);
        true
    }

    /// A sleeper has woken up without a call, and starts to work.
    pub(super) fn wake_up(&mut self, sleep: &Sleep) {
        self.asleep -= 1;
        self.leave_watch(sleep);
    }

    /// The check of the worker on watch. Returns whether jobs are queued and no worker takes them.
    pub(super) fn look(&mut self, sleep: &mut Sleep, queued: usize) -> bool {
        let Sleep::OnWatch(seen) = *sleep else { return false };
        if seen != self.taken {
            *sleep = Sleep::OnWatch(self.taken);
            return false;
        }
        if queued == 0 {
            // The awake workers are busy, or go to sleep as well. The next job calls a sleeper.
            self.leave_watch(sleep);
            *sleep = Sleep::UntilCalled;
        }
        queued > 0
    }

    fn leave_watch(&mut self, sleep: &Sleep) {
        if matches!(sleep, Sleep::OnWatch(_)) {
            self.on_watch = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asleep(all: usize) -> (Workers, Vec<Sleep>) {
        let mut workers = Workers::new(all);
        let sleeps = (0..all).map(|_| workers.fall_asleep()).collect();
        (workers, sleeps)
    }

    #[test]
    fn first_job_wakes_one_worker_second_wakes_none() {
        let (mut workers, _) = asleep(4);
        workers.took(8_000);
        assert!(workers.call(1), "nobody is awake");
        assert!(!workers.call(2), "one is on its way");
    }

    #[test]
    fn one_sleeping_worker_watches_while_another_is_awake() {
        let mut workers = Workers::new(3);
        let first = workers.fall_asleep();
        let second = workers.fall_asleep();
        assert!(matches!(first, Sleep::OnWatch(0)));
        assert!(matches!(second, Sleep::UntilCalled));
        assert!(!workers.call(1), "the watch looks to it");
    }

    #[test]
    fn last_worker_to_sleep_does_not_watch() {
        assert!(matches!(Workers::new(1).fall_asleep(), Sleep::UntilCalled));
    }

    #[test]
    fn leftover_job_wakes_worker_if_none_watches() {
        let (mut workers, _sleeps) = asleep(4);
        // All workers slept but one, which was on watch and checked in vain.
        let mut workers_sleep = Sleep::OnWatch(0);
        workers.on_watch = true;
        assert!(workers.call(2));
        assert!(workers.answer_call(&Sleep::UntilCalled));
        assert!(!workers.look(&mut workers_sleep, 0));
        assert!(workers.taken(1), "the watch is over, and one is left behind");
        assert!(!workers.taken(1), "one is on its way");
    }

    #[test]
    fn long_jobs_wake_one_worker_each() {
        let (mut workers, _) = asleep(4);
        for _ in 0..100 {
            workers.took(10_000_000);
        }
        assert_eq!((1..=6).filter(|queued| workers.call(*queued)).count(), 4);
    }

    #[test]
    fn watching_worker_takes_jobs_left_in_queue() {
        let mut workers = Workers::new(2);
        let mut sleep = workers.fall_asleep();
        workers.taken(1);
        assert!(!workers.look(&mut sleep, 1), "one was taken since");
        assert!(workers.look(&mut sleep, 1));
        workers.wake_up(&sleep);
        assert_eq!((workers.asleep, workers.on_watch), (0, false));
    }

    #[test]
    fn call_is_answered_once() {
        let (mut workers, _) = asleep(2);
        assert!(workers.call(1));
        assert!(workers.answer_call(&Sleep::UntilCalled));
        assert!(!workers.answer_call(&Sleep::UntilCalled));
    }
}
