//! In place of larder's writer: the same steps in the seat, with an in-memory log instead of SQLite.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::mem;
use std::time::{Duration, SystemTime};

use crate::error::Error;
use crate::ledger::{Id, Log};
use crate::options::Durability;
use crate::queue::job::{Job, Resolution, Scope};
use crate::queue::pending::Queue;
use crate::read::Readers;
use crate::store::Shared;
use crate::sync::{Arc, Instant, thread};
use crate::time::one_in;
use crate::transaction::WriteTx;
use crate::write::closing::CloseReport;

#[expect(
    dead_code,
    reason = "larder's checkpoints and replication ask for more than the model does"
)]
#[path = "../../../src/write/closing.rs"]
pub(crate) mod closing;
#[expect(dead_code, reason = "no write of the model has a time limit")]
#[path = "../../../src/write/context.rs"]
pub(crate) mod context;
#[path = "../../../src/write/handover.rs"]
mod handover;
#[expect(dead_code, reason = "larder's tasks ask for more than the model does")]
#[path = "../../../src/write/held.rs"]
pub(crate) mod held;
#[path = "../../../src/write/seat.rs"]
pub(crate) mod seat;

use context::{Exclusive, Grouped, WriteJob};
use handover::Handover;
use seat::{LONE_GROUPS, Rest};

const GROUP_JOBS: usize = 3;
const IDLE: Duration = Duration::from_secs(1);
const LOOKS: Duration = Duration::from_millis(10);

pub(crate) struct Writer {
    shared: Arc<Shared>,
    readers: Arc<Readers>,
    log: Arc<Log>,
    carried: Option<WriteJob>,
    durability: Durability,
    group: Vec<Job<Grouped>>,
    /// The writes of the group's jobs.
    open: RefCell<Vec<Id>>,
    checkpoint_is_due: bool,
    /// Checkpoints on a thread of their own. In half of the schedules there are none.
    uses_side: bool,
    side: Option<Arc<Handover<()>>>,
    side_runs: bool,
    /// At random: whether slices wait for the checkpoint that runs.
    holds: bool,
    slices: VecDeque<WriteJob>,
    /// At random, where larder counts groups.
    serves_lone_caller: bool,
    last_used: Instant,
    /// Whether idle maintenance has been made. In half of the schedules there is none, so that no timer wakes the
    /// writer thread.
    maintained: bool,
    maintains: bool,
}

/// As larder's: why a store takes no more writes.
#[expect(dead_code, reason = "what is told to users")]
pub(crate) enum Stopped {
    Fenced { by: String, since: SystemTime },
    Diverged { url: String, problem: String },
}

enum Next {
    Job(WriteJob),
    Idle,
    Closed,
}

impl Drop for Writer {
    /// Also after a panic in the seat, which waits for nothing.
    fn drop(&mut self) {
        if let Some(side) = &self.side {
            side.end();
        }
    }
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, readers: Arc<Readers>, log: Arc<Log>) -> Self {
        Self {
            shared,
            readers,
            log,
            carried: None,
            durability: Durability::Normal,
            group: Vec::new(),
            open: RefCell::default(),
            checkpoint_is_due: false,
            uses_side: one_in(2),
            side: None,
            side_runs: false,
            holds: false,
            slices: VecDeque::new(),
            serves_lone_caller: LONE_GROUPS > 0,
            last_used: Instant::now(),
            maintained: true,
            maintains: one_in(2),
        }
    }

    fn work(&mut self) -> Rest {
        loop {
            self.take_side_checkpoint();
            if self.side_runs {
                // The next one waits for it.
            } else if mem::take(&mut self.checkpoint_is_due) && !self.hand_over() {
                self.shared.queue.spin().blocking_section(|| self.log.checkpoint());
            }
            match self.next() {
                Next::Job(WriteJob::Grouped(job)) => self.commit_group(job, GROUP_JOBS),
                Next::Job(WriteJob::Exclusive(job)) => self.run_exclusive(job),
                Next::Idle if self.is_idle() => self.maintained = true,
                Next::Idle => {
                    self.serves_lone_caller = one_in(2);
                    return Rest::Idle {
                        patience: (!self.maintained).then_some(IDLE),
                        offers: self.serves_lone_caller,
                    };
                }
                Next::Closed => return Rest::Closed,
            }
        }
    }

    /// Whether idle maintenance is due.
    fn is_idle(&self) -> bool {
        !self.maintained && self.last_used.elapsed() >= IDLE
    }

    fn run_here(&mut self, job: Job<Grouped>) -> bool {
        self.commit_group(job, 1);
        self.carried.is_some() || self.checkpoint_is_due && !self.side_runs
    }

    fn admits_caller(&self) -> bool {
        self.carried.is_none()
    }

    fn next(&mut self) -> Next {
        let queue = &self.shared.queue;
        if queue.is_closed() && self.time_to_close_is_over() {
            return Next::Closed;
        }
        let mut next = self.take_next();
        if next.is_none() && !self.slices.is_empty() && self.shared.queue.is_closed() {
            if !self.side_checkpoint_ends_in_time() {
                return Next::Closed;
            }
            next = self.take_next();
        }
        if let Some(job) = next {
            self.shared.queue.spin().set_hot(true);
            return Next::Job(job);
        }
        let queue = &self.shared.queue;
        if self.holds_slices() && !queue.is_closed() {
            return Next::Idle;
        }
        if queue.is_closed() {
            return queue.pop().map_or(Next::Closed, Next::Job);
        }
        if self.serves_lone_caller {
            queue.spin().set_hot(false);
            return Next::Idle;
        }
        queue.spin().spin_for_job(|| queue.pop()).map_or(Next::Idle, Next::Job)
    }

    fn hand_over(&mut self) -> bool {
        if !self.uses_side || one_in(3) {
            return false;
        }
        let side = self.side.get_or_insert_with(|| {
            let side = Arc::new(Handover::new());
            let (its_side, shared, log) = (Arc::clone(&side), Arc::clone(&self.shared), Arc::clone(&self.log));
            let serve = move || {
                while its_side.next() {
                    log.checkpoint();
                    its_side.done(());
                    shared.queue.summon();
                }
            };
            thread::Builder::new().spawn(serve).expect("the model starts threads");
            side
        });
        side.ask();
        self.side_runs = true;
        self.holds = one_in(2);
        true
    }

    fn take_side_checkpoint(&mut self) {
        if self.side_runs && self.side.as_ref().is_some_and(|side| side.take().is_some()) {
            self.side_runs = false;
        }
    }

    fn side_checkpoint_ends_in_time(&mut self) -> bool {
        if self.side_runs {
            while !self.side.as_ref().is_some_and(|side| side.is_over_within(LOOKS)) {
                if self.time_to_close_is_over() {
                    return false;
                }
            }
        }
        self.finish_side_checkpoint();
        true
    }

    fn finish_side_checkpoint(&mut self) {
        if self.side_runs {
            if one_in(2) {
                while !self.side.as_ref().is_some_and(|side| side.is_over_within(IDLE)) {}
            }
            let done = self.side.as_ref().and_then(|side| side.wait());
            assert_eq!(done, Some(()), "a checkpoint that runs has a result");
            self.side_runs = false;
        }
    }

    fn end_side_checkpoints(&mut self) {
        self.finish_side_checkpoint();
        if let Some(side) = self.side.take() {
            side.end();
        }
    }

    fn holds_slices(&self) -> bool {
        self.side_runs && self.holds
    }

    fn take_job(&mut self) -> Option<WriteJob> {
        loop {
            match self.carried.take().or_else(|| self.queued())? {
                WriteJob::Grouped(job) if job.order().is_slice && self.holds_slices() => {
                    self.slices.push_back(job.into());
                }
                other => return Some(other),
            }
        }
    }

    fn take_next(&mut self) -> Option<WriteJob> {
        if !self.slices.is_empty() && !self.holds_slices() {
            match self.carried.take() {
                Some(WriteJob::Grouped(job)) if job.order().is_slice => self.slices.push_back(job.into()),
                Some(other) => return Some(other),
                None => {}
            }
            return self.slices.pop_front();
        }
        self.take_job()
    }

    fn queued(&self) -> Option<WriteJob> {
        self.shared.queue.pop()
    }

    fn time_to_close_is_over(&self) -> bool {
        let deadline = self.shared.closing.deadline();
        deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    fn commit_group(&mut self, first: Job<Grouped>, most: usize) {
        let began = Instant::now();
        let mut now = began;
        let mut candidate = Some(WriteJob::Grouped(first));
        while let Some(job) = candidate {
            let job = match job {
                WriteJob::Grouped(job) if self.fits(&job) => job,
                other => {
                    self.carried = Some(other);
                    break;
                }
            };
            let alone = job.order().is_alone;
            if let Some(job) = self.claim(job, now) {
                self.run_job(job);
                now = Instant::now();
            }
            candidate = if alone || most == 1 || self.group.len() >= most {
                None
            } else {
                self.take_job()
            };
        }
        if !self.group.is_empty() {
            self.commit();
            self.reply(began);
        }
    }

    fn fits(&self, job: &Job<Grouped>) -> bool {
        let order = job.order();
        self.group.is_empty() || (!order.is_alone && order.durability <= self.durability && !order.is_slice)
    }

    fn claim<S: Scope>(&mut self, job: Job<S>, now: Instant) -> Option<Job<S>> {
        if !job.start() {
            return None;
        }
        let meta = job.meta();
        if now >= meta.deadline {
            let waited = now.saturating_duration_since(meta.asked);
            job.finish(Resolution::Failed(Error::QueueTimeout { waited, context: None }));
            return None;
        }
        Some(job)
    }

    fn run_job(&mut self, job: Job<Grouped>) {
        if self.group.is_empty() {
            self.durability = job.order().durability;
        }
        let savepoint = self.open.borrow().len();
        let result = job.run(&WriteTx {
            open: &self.open,
            job: &*job,
        });
        match result {
            Ok(()) => self.group.push(job),
            Err(_) => {
                self.open.borrow_mut().truncate(savepoint);
                job.finish(Resolution::Own);
            }
        }
    }

    fn run_exclusive(&mut self, job: Job<Exclusive>) {
        if let Some(job) = self.claim(job, Instant::now()) {
            self.end_side_checkpoints();
            let _ = job.run(self);
            job.finish(Resolution::Own);
        }
    }

    /// Commits an exclusive job.
    pub(crate) fn commit_own(&mut self, id: Id) {
        self.open.borrow_mut().push(id);
        self.commit();
    }

    fn commit(&mut self) {
        self.log.commit(mem::take(&mut *self.open.borrow_mut()));
        self.checkpoint_is_due = true;
        self.last_used = Instant::now();
        self.maintained = !self.maintains;
    }

    fn reply(&mut self, began: Instant) {
        let jobs = self.group.len();
        let mut held = Vec::new();
        for job in self.group.drain(..) {
            if job.order().durability == Durability::Replicated {
                held.push(WriteJob::Grouped(job));
            } else {
                job.finish(Resolution::Own);
            }
        }
        if !held.is_empty() {
            self.shared.replica.hold(held);
        }
        self.shared.queue.spin().replied(jobs, began.elapsed());
    }

    pub(crate) fn close(mut self) {
        let left = self.carried.take().into_iter().chain(mem::take(&mut self.slices));
        let discarded = left.filter(|job| !job.is_withdrawn()).count() as u64;
        self.shared.queue.discard();
        self.end_side_checkpoints();
        self.readers.close();
        self.shared.replica.closed();
        self.shared.closing.report(CloseReport {
            finished: 0,
            never_started: self.shared.queue.discarded() + discarded,
            wal_truncated: true,
            wal_kept_because: None,
            replicated: None,
            not_replicated_because: None,
            duration: Duration::ZERO,
        });
    }
}
