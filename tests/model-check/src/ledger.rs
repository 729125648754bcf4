//! A record of each call: its request, its progress and its reply. The properties are checked here.
//!
//! No operation here is a step of a schedule, except taking the log's lock.

use std::fmt::Debug;
use std::sync::Mutex as Plain;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::sync::{Arc, Condvar, Mutex};

/// A caller, and the number of its job.
pub(crate) type Id = (usize, usize);

/// The committed jobs, in order.
#[derive(Default)]
pub(crate) struct Log {
    commits: Mutex<Vec<Id>>,
    /// The number of commits at the last checkpoint.
    moved: Mutex<usize>,
    checkpoint: Condvar,
}

impl Log {
    pub(crate) fn commit(&self, ids: Vec<Id>) {
        self.commits.lock().extend(ids);
    }

    pub(crate) fn copy(&self) -> Vec<Id> {
        self.commits.lock().clone()
    }

    pub(crate) fn checkpoint(&self) {
        let commits = self.commits.lock().len();
        *self.moved.lock() = commits;
        self.checkpoint.notify_all();
    }

    /// Waits until a checkpoint has moved all commits made before the call.
    pub(crate) fn wait_for_checkpoint(&self) {
        let commits = self.commits.lock().len();
        let mut moved = self.moved.lock();
        while *moved < commits {
            moved = self.checkpoint.wait(moved);
        }
    }
}

/// A caller's knowledge of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    Done,
    /// The closure's own error: the job ran, and was rolled back.
    Undone,
    NotStarted,
    /// The caller dropped the future, and will never know.
    Gone,
    /// The caller dropped the `Pending` of a job, which still runs.
    LeftAlone,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Write,
    Read,
}

struct Entry {
    id: Id,
    kind: Kind,
    ran: u32,
    /// How often its closure was dropped, run or not.
    freed: u32,
    told: Told,
}

pub(crate) struct Ledger {
    pub(crate) log: Arc<Log>,
    entries: Plain<Vec<Entry>>,
    /// The started writes, in order.
    started: Plain<Vec<Id>>,
    /// Whether a caller has asked to close the store.
    closes: AtomicBool,
}

/// One job, as its caller holds it.
#[must_use]
pub(crate) struct Ticket {
    ledger: Arc<Ledger>,
    at: usize,
    id: Id,
    /// The minimum time that the job may wait.
    timeout: Duration,
}

/// The same job, as its closure holds it.
pub(crate) struct Held {
    ledger: Arc<Ledger>,
    at: usize,
    pub(crate) id: Id,
}

impl Ledger {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            log: Arc::default(),
            entries: Plain::default(),
            started: Plain::default(),
            closes: AtomicBool::new(false),
        })
    }

    pub(crate) fn write(self: &Arc<Self>, id: Id) -> (Ticket, Held) {
        self.enter(id, Kind::Write)
    }

    pub(crate) fn read(self: &Arc<Self>, id: Id) -> (Ticket, Held) {
        self.enter(id, Kind::Read)
    }

    fn enter(self: &Arc<Self>, id: Id, kind: Kind) -> (Ticket, Held) {
        let mut entries = self.entries.lock().unwrap();
        let at = entries.len();
        entries.push(Entry {
            id,
            kind,
            ran: 0,
            freed: 0,
            told: Told::Nothing,
        });
        let ledger = Arc::clone(self);
        let held = Held { ledger, at, id };
        let ledger = Arc::clone(self);
        let timeout = Duration::MAX;
        let ticket = Ticket {
            ledger,
            at,
            id,
            timeout,
        };
        (ticket, held)
    }

    pub(crate) fn closes(&self) {
        self.closes.store(true, SeqCst);
    }

    /// The number of jobs that did not start and never will: their closures have been dropped already.
    pub(crate) fn given_up(&self) -> usize {
        let entries = self.entries.lock().unwrap();
        let given_up = |entry: &&Entry| entry.told == Told::NotStarted && entry.ran == 0 && entry.freed == 1;
        entries.iter().filter(given_up).count()
    }

    /// Checks all jobs, once all other threads of the schedule have ended.
    pub(crate) fn balance(&self) {
        let log = self.log.copy();
        for entry in &*self.entries.lock().unwrap() {
            let Entry { id, ran, told, .. } = *entry;
            let times = log.iter().filter(|committed| **committed == id).count();
            let fits = match told {
                Told::Nothing => false,
                Told::Done | Told::LeftAlone => ran == 1,
                Told::Undone => ran == 1 && times == 0,
                Told::NotStarted => ran == 0 && times == 0,
                Told::Gone => ran <= 1,
            };
            assert!(fits, "{id:?}: told {told:?}, ran {ran} times, committed {times} times");
            assert_eq!(entry.freed, 1, "{id:?}: how often its closure was dropped");
            if entry.kind == Kind::Write && told != Told::Undone {
                assert_eq!(times, ran as usize, "{id:?}: what ran is committed once");
            }
        }
        for (n, later) in log.iter().enumerate() {
            let overtook = log[..n]
                .iter()
                .any(|earlier| earlier.0 == later.0 && earlier.1 > later.1);
            assert!(!overtook, "{later:?} came after a later one of its caller: {log:?}");
        }
        let started = self.started.lock().unwrap();
        let committed: Vec<_> = started.iter().filter(|id| log.contains(id)).copied().collect();
        assert_eq!(committed, log, "committed in the order of the starts");
    }
}

impl Ticket {
    pub(crate) fn id(&self) -> Id {
        self.id
    }

    pub(crate) fn within(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// The caller has its reply.
    pub(crate) fn told<T: Debug>(self, result: &Result<T>) {
        let told = match result {
            Ok(_) => Told::Done,
            Err(Error::App) => Told::Undone,
            Err(Error::QueueTimeout { waited, .. } | Error::ReadQueueTimeout { waited, .. }) => {
                assert!(*waited >= self.timeout, "{:?} was told so after {waited:?}", self.id);
                Told::NotStarted
            }
            Err(Error::QueueFull { .. }) => Told::NotStarted,
            Err(Error::Closed) => {
                assert!(
                    self.ledger.closes.load(SeqCst),
                    "{:?}: nobody closes the store",
                    self.id
                );
                Told::NotStarted
            }
            Err(error) => panic!("{:?} was told {error:?}", self.id),
        };
        let kind = self.ledger.entries.lock().unwrap()[self.at].kind;
        // A write may join a group whose writer read the clock before the write was submitted.
        let late = self.timeout.is_zero() && kind == Kind::Read;
        assert!(!late || told == Told::NotStarted, "{:?} had no time at all", self.id);
        if told == Told::Done && kind == Kind::Write {
            let committed = self.ledger.log.copy().contains(&self.id);
            assert!(committed, "{:?} was told of its success before its commit", self.id);
        }
        self.settle(told);
    }

    pub(crate) fn gone(self) {
        self.settle(Told::Gone);
    }

    /// As [`gone`](Self::gone), before the job can have started.
    pub(crate) fn gone_in_time(self) {
        self.settle(Told::NotStarted);
    }

    pub(crate) fn left_alone(self) {
        self.settle(Told::LeftAlone);
    }

    fn settle(&self, told: Told) {
        let before = std::mem::replace(&mut self.ledger.entries.lock().unwrap()[self.at].told, told);
        assert_eq!(before, Told::Nothing, "{:?} was told twice", self.id);
    }
}

impl Held {
    /// The closure runs, and sees whether its caller has gone.
    pub(crate) fn runs(&self, caller_has_gone: bool) {
        let gone = self.ledger.entries.lock().unwrap()[self.at].told == Told::Gone;
        assert!(!gone || caller_has_gone, "{:?}: dropped before its start", self.id);
        let mut entries = self.ledger.entries.lock().unwrap();
        entries[self.at].ran += 1;
        if entries[self.at].kind == Kind::Write {
            self.ledger.started.lock().unwrap().push(self.id);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.ledger.entries.lock().unwrap()[self.at].freed += 1;
    }
}
