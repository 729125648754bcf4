//! In place of larder's writer: the same loop, with an in-memory log instead of SQLite.

use std::cell::RefCell;
use std::mem;
use std::time::Duration;

use crate::error::Error;
use crate::ledger::{Id, Log};
use crate::options::Durability;
use crate::queue::Slept;
use crate::queue::job::{Job, Resolution, Scope};
use crate::queue::pending::Queue;
use crate::read::Readers;
use crate::store::Shared;
use crate::sync::{Arc, Instant};
use crate::transaction::WriteTx;
use crate::write::closing::CloseReport;

#[path = "../../../src/write/closing.rs"]
pub(crate) mod closing;
#[path = "../../../src/write/context.rs"]
pub(crate) mod context;

use context::{Exclusive, Grouped, WriteJob};

const GROUP_JOBS: usize = 3;
const IDLE: Duration = Duration::from_secs(1);

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
        }
    }

    pub(crate) fn run(mut self) {
        self.shared.queue.become_worker();
        while let Some(job) = self.next() {
            match job {
                WriteJob::Grouped(job) => self.commit_group(job),
                WriteJob::Exclusive(job) => self.run_exclusive(job),
            }
        }
        self.close();
    }

    fn next(&mut self) -> Option<WriteJob> {
        loop {
            if self.shared.queue.is_closed() && self.time_to_close_is_over() {
                return None;
            }
            if let Some(job) = self.carried.take().or_else(|| self.queued()) {
                self.shared.queue.spin().set_hot(true);
                return Some(job);
            }
            if self.shared.queue.is_closed() {
                return self.queued();
            }
            if let Some(job) = self.wait() {
                return Some(job);
            }
        }
    }

    fn queued(&self) -> Option<WriteJob> {
        self.shared.queue.pop()
    }

    fn wait(&mut self) -> Option<WriteJob> {
        let queue = &self.shared.queue;
        if let Some(job) = queue.spin().spin_for_job(|| queue.pop()) {
            return Some(job);
        }
        let patience = self.checkpoint_is_due.then_some(IDLE);
        match queue.sleep(patience) {
            Slept::Job(job) => Some(job),
            Slept::Closed => None,
            Slept::Long => {
                let due = &mut self.checkpoint_is_due;
                queue.spin().blocking_section(|| *due = false);
                None
            }
        }
    }

    fn time_to_close_is_over(&self) -> bool {
        let deadline = self.shared.closing.deadline();
        deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    fn commit_group(&mut self, first: Job<Grouped>) {
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
            let alone = job.order().limit.is_some();
            if let Some(job) = self.claim(job, now) {
                self.run_job(job);
                now = Instant::now();
            }
            candidate = if alone || self.group.len() >= GROUP_JOBS {
                None
            } else {
                self.carried.take().or_else(|| self.queued())
            };
        }
        if !self.group.is_empty() {
            self.commit();
            self.reply(began);
        }
    }

    fn fits(&self, job: &Job<Grouped>) -> bool {
        let order = job.order();
        self.group.is_empty() || (order.limit.is_none() && order.durability <= self.durability)
    }

    fn claim<S: Scope>(&mut self, job: Job<S>, now: Instant) -> Option<Job<S>> {
        if !job.start() {
            return None;
        }
        let meta = job.meta();
        if now >= meta.deadline {
            let waited = now.saturating_duration_since(meta.asked);
            job.finish(Resolution::Failed(Error::QueueTimeout { waited }));
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
    }

    fn reply(&mut self, began: Instant) {
        let jobs = self.group.len();
        for job in self.group.drain(..) {
            job.finish(Resolution::Own);
        }
        self.shared.queue.spin().replied(jobs, began.elapsed());
    }

    fn close(mut self) {
        let carried = self.carried.take();
        let was_carried = carried.as_ref().is_some_and(|job| !job.is_withdrawn());
        drop(carried);
        self.shared.queue.discard();
        self.readers.close();
        self.shared.closing.report(CloseReport {
            finished: 0,
            never_started: self.shared.queue.discarded() + u64::from(was_carried),
            wal_truncated: true,
            wal_kept_because: None,
            duration: Duration::ZERO,
        });
    }
}
