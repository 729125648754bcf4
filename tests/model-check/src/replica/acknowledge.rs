//! In place of larder's replication: one thread that captures, uploads and acknowledges, with the same steps.

use std::time::Duration;

use crate::ledger::{Id, Log};
use crate::sync::{Arc, Condvar, Instant, Mutex, thread};
use crate::time::one_in;
use crate::write::context::WriteJob;
use crate::write::held::{self, HeldReplies};

/// How long a write waits for the replica.
pub(crate) const PATIENCE: Duration = Duration::from_millis(50);

pub(crate) struct Replica {
    log: Arc<Log>,
    held: HeldReplies,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The commits that are in the replica. Their number stands for a transaction of it.
    uploaded: Vec<Id>,
    woken: bool,
    is_closing: bool,
    has_ended: bool,
}

impl Replica {
    pub(crate) fn new(log: Arc<Log>) -> Self {
        Self {
            log,
            held: HeldReplies::default(),
            state: Mutex::default(),
            changed: Condvar::default(),
        }
    }

    pub(crate) fn has(&self, id: Id) -> bool {
        self.state.lock().uploaded.contains(&id)
    }

    pub(crate) fn held(&self) -> usize {
        self.held.length()
    }

    pub(crate) fn wait_for_room(&self, capacity: usize, timeout: Duration) -> bool {
        self.held.wait_for_room(capacity, timeout)
    }

    pub(crate) fn hold(&self, jobs: Vec<WriteJob>) {
        let refused = self.held.hold(jobs, PATIENCE);
        for job in refused {
            held::refuse(job, Duration::ZERO, "the store was closed");
        }
        self.state.lock().woken = true;
        self.changed.notify_all();
    }

    /// Called by the writer once nothing is committed any more. Returns when the last upload has ended.
    pub(crate) fn closed(&self) {
        let mut state = self.state.lock();
        state.is_closing = true;
        self.changed.notify_all();
        while !state.has_ended {
            state = self.changed.wait(state);
        }
    }

    pub(crate) fn upload_until_closed(&self) {
        loop {
            let is_closing = self.wait_for_work();
            // Sometimes the storage does not answer before closing.
            if one_in(4) {
                thread::park_timeout(PATIENCE);
            }
            self.upload();
            self.acknowledge();
            if is_closing {
                break;
            }
        }
        for held in self.held.end() {
            held.refuse("the store was closed");
        }
        self.state.lock().has_ended = true;
        self.changed.notify_all();
    }

    /// Returns whether the store closes.
    fn wait_for_work(&self) -> bool {
        let mut state = self.state.lock();
        while !state.woken && !state.is_closing {
            state = self.changed.wait(state);
        }
        state.woken = false;
        state.is_closing
    }

    /// One capture and its upload, which fails now and then.
    fn upload(&self) {
        let newest = self.held.newest();
        let captured = self.log.copy();
        self.held.seal(newest, captured.len() as u64);
        thread::switch();
        if one_in(4) {
            // What was captured is dropped, and captured again.
            self.held.unseal_after(self.state.lock().uploaded.len() as u64);
            let mut state = self.state.lock();
            state.woken = true;
            return;
        }
        self.state.lock().uploaded = captured;
    }

    fn acknowledge(&self) {
        let uploaded = self.state.lock().uploaded.len() as u64;
        let ready = self.held.take(uploaded, Instant::now());
        for held in ready.replicated {
            held.acknowledge();
        }
        for held in ready.late {
            held.refuse("the storage does not answer");
        }
    }
}
