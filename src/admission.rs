//! First come, first served: the line in front of the bounded queue.
//!
//! A full crossbeam channel is unfair: its blocked senders race for each place that comes free. So nobody ever
//! blocks in `send`. Who finds the channel full gets in line, and the job itself stands there, not its thread:
//! whoever makes room moves jobs from the front of the line into the channel, in order. Blocking and async
//! callers differ only in how they wait for the reply.
//!
//! What is shared:
//! - `line`, a mutex around the jobs in line. It is held for a push, or for as many moves as there is room. The
//!   only lock that may be taken under it is a slot's (`pending.rs`), when a job leaves the line. No closure is
//!   ever dropped under it, since a closure's drop may call back into the store.
//! - `waiting`, how many stand in line; written under `line`, read by anyone.
//! - `closed`; written once, read by anyone, and again under `line` by those who get in line.
//!
//! Nobody overtakes: a newcomer that sees somebody in line gets in line too. A job in line is never forgotten:
//! the one who gets in line first writes `waiting`, then looks for room; the writer first makes room, then
//! reads `waiting`; both with a SeqCst fence in between. At least one of them sees the other.
//!
//! Nothing is lost at closing: after `closed` is set nobody gets in line. `discard` takes every job out of the line and
//! the channel and drops it, and a job that is dropped tells its caller `Closed`. The writer discards what is left when
//! it ends, after it has set `ended`; a closer discards when its time is over, though the writer still runs a job. A
//! sender that raced with the end first sends, then reads `ended`, and discards, too: either it sees the flag or the
//! writer sees its job.

use std::cell::Cell;
use std::collections::VecDeque;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::error::{Error, Result};
use crate::handoff::Handoff;
use crate::job::Job;

pub(crate) enum Message {
    Job(Job),
    /// Look up: the store is closing.
    Wake,
}

#[derive(Default)]
struct Line {
    jobs: VecDeque<Job>,
    /// About how many of them were withdrawn.
    withdrawn: usize,
}

pub(crate) struct Admission {
    store: u64,
    sender: Sender<Message>,
    receiver: Receiver<Message>,
    capacity: usize,
    closed: AtomicBool,
    ended: AtomicBool,
    /// Jobs that were discarded.
    discarded: AtomicU64,
    waiting: AtomicUsize,
    line: Mutex<Line>,
    handoff: Handoff,
}

thread_local! {
    /// The store whose writer this thread is; 0 for none.
    static WRITES_FOR: Cell<u64> = const { Cell::new(0) };
}

impl Admission {
    pub(crate) fn new(store: u64, capacity: usize, handoff: Handoff) -> Self {
        let (sender, receiver) = bounded(capacity);
        Self {
            store,
            sender,
            receiver,
            capacity,
            closed: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            discarded: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            line: Mutex::default(),
            handoff,
        }
    }

    /// Queues the job, or puts it in line.
    pub(crate) fn enqueue(&self, job: Job) -> Result<()> {
        let job = match self.send(job) {
            Ok(()) => return Ok(()),
            Err(refused) => refused?,
        };
        job.get_in_line();
        let mut line = self.lock();
        if self.is_closed() {
            drop(line);
            return Err(Error::Closed);
        }
        line.jobs.push_back(job);
        let unwanted = self.refill(&mut line);
        drop(line);
        drop(unwanted);
        self.discard_if_ended();
        Ok(())
    }

    /// Queues the job if there is room for it and nobody in line.
    pub(crate) fn try_enqueue(&self, job: Job) -> Result<()> {
        match self.send(job) {
            Ok(()) => Ok(()),
            Err(refused) => {
                drop(refused?);
                Err(Error::QueueFull {
                    capacity: self.capacity,
                })
            }
        }
    }

    /// Gives the job back where there is no room, or the error where there never will be.
    #[allow(clippy::result_large_err)]
    fn send(&self, job: Job) -> std::result::Result<(), Result<Job>> {
        if self.is_closed() {
            return Err(Err(Error::Closed));
        }
        if self.waiting.load(Ordering::SeqCst) > 0 {
            return Err(Ok(job));
        }
        match self.sender.try_send(Message::Job(job)) {
            Ok(()) => {
                self.discard_if_ended();
                Ok(())
            }
            Err(TrySendError::Full(Message::Job(job))) => Err(Ok(job)),
            Err(_) => Err(Err(Error::Closed)),
        }
    }

    /// For the writer, after it has taken something out of the channel.
    pub(crate) fn made_room(&self) {
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            let mut line = self.lock();
            let unwanted = self.refill(&mut line);
            drop(line);
            drop(unwanted);
        }
    }

    /// Moves jobs from the line into the channel while there is room. Gives back those that nobody wants any
    /// more, to be dropped without the lock.
    #[must_use]
    fn refill(&self, line: &mut Line) -> Vec<Job> {
        let mut unwanted = Vec::new();
        self.waiting.store(line.jobs.len(), Ordering::SeqCst);
        fence(Ordering::SeqCst);
        while !self.sender.is_full()
            && let Some(job) = line.jobs.pop_front()
        {
            if !job.leave_line() {
                line.withdrawn = line.withdrawn.saturating_sub(1);
                unwanted.push(job);
                continue;
            }
            match self.sender.try_send(Message::Job(job)) {
                Ok(()) => {}
                // A newcomer that saw nobody in line took the place; the job stays the first.
                Err(TrySendError::Full(Message::Job(job))) => {
                    line.jobs.push_front(job);
                    break;
                }
                // Not while the receiver is in the same hands.
                Err(_) => break,
            }
        }
        self.waiting.store(line.jobs.len(), Ordering::SeqCst);
        unwanted
    }

    /// A caller has withdrawn a job that stands in line. They are swept out once they are many, so that a stuck
    /// writer and impatient callers do not make the line grow without end.
    pub(crate) fn withdrawn_from_line(&self) {
        let mut line = self.lock();
        line.withdrawn += 1;
        if line.withdrawn < 64 || line.withdrawn < line.jobs.len() / 2 {
            return;
        }
        let (gone, kept) = line.jobs.drain(..).partition(|job| job.is_withdrawn());
        let gone: VecDeque<Job> = gone;
        line.jobs = kept;
        line.withdrawn = 0;
        self.waiting.store(line.jobs.len(), Ordering::SeqCst);
        drop(line);
        drop(gone);
    }

    /// No further jobs. What is queued or in line stays.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        // A full channel needs no wake-up: the writer is awake, and looks at `closed` when it has emptied it.
        let _ = self.sender.try_send(Message::Wake);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    pub(crate) fn nobody_in_line(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) == 0
    }

    /// The writer takes nothing more.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.discard();
    }

    /// Drops every job that is queued or in line, each of which tells its caller that it was not started.
    pub(crate) fn discard(&self) {
        let mut line = self.lock();
        let mut rest = mem::take(&mut line.jobs);
        self.waiting.store(0, Ordering::SeqCst);
        drop(line);
        while let Ok(message) = self.receiver.try_recv() {
            if let Message::Job(job) = message {
                rest.push_back(job);
            }
        }
        let wanted = rest.iter().filter(|job| !job.is_withdrawn()).count();
        self.discarded.fetch_add(wanted as u64, Ordering::SeqCst);
        drop(rest);
    }

    fn discard_if_ended(&self) {
        fence(Ordering::SeqCst);
        if self.ended.load(Ordering::SeqCst) {
            self.discard();
        }
    }

    /// How many jobs were discarded.
    pub(crate) fn discarded(&self) -> u64 {
        self.discarded.load(Ordering::SeqCst)
    }

    /// For the writer: where jobs come out.
    pub(crate) fn receiver(&self) -> &Receiver<Message> {
        &self.receiver
    }

    pub(crate) fn handoff(&self) -> &Handoff {
        &self.handoff
    }

    /// Marks the calling thread as this store's writer.
    pub(crate) fn become_writer_thread(&self) {
        WRITES_FOR.set(self.store);
    }

    /// Whether the calling thread is this store's writer.
    pub(crate) fn is_writer_thread(&self) -> bool {
        WRITES_FOR.get() == self.store
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
