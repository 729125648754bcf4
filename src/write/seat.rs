//! The writer's seat: the one place from which a store is written.
//!
//! A [`Writer`] is the writing connection with its guard, its group and all that belongs to it. It is a value behind a
//! mutex, the seat. The thread that holds the mutex has the seat, so two threads never write at once, and what one of
//! them leaves in the `Writer` is seen by the next. In a lone write the caller takes the seat and commits on its own
//! thread. That saves the way to the writer thread and back: two wake-ups, or two cache lines that travel between
//! cores, and beside other programs the wait for a second core.
//!
//! # Who may hold the seat
//!
//! - **The writer thread**, whenever it is awake. It runs all queued jobs, and does everything that is not one caller's
//!   job: checkpoints, maintenance, events, the replacement of the connection (whose `on_connect` is not for callers'
//!   threads), closing. Before it sleeps it leaves the seat.
//! - **A caller of [`Store::write`](crate::Store::write)**, for its own job, as a group of one. It never waits for the
//!   seat: it takes the seat if that is free, and otherwise queues its job. With the seat in its hands it looks whether
//!   anything comes first: a queued job, one in line or carried over, closing, a connection that is to be replaced, a log
//!   over its hard limit. If so, it leaves and queues its job. (If BEGIN finds the file locked by another process, the
//!   queued jobs that have waited as long fail, too. The writer thread does that: it drops what their closures own.)
//!
//! Async callers, submitted writes and exclusive jobs never take it.
//!
//! # First come, first served
//!
//! A job leaves the queue only by the hands of the holder (or withdrawn, or dropped by closing). So while a caller
//! holds the seat, each job that arrived before is finished, or carried over, or in the queue, where the caller sees
//! it. For a job whose arrival the caller can know of, a relaxed load of `non_empty` is enough: it follows the store by
//! the job's thread, and only the job's departure is later.
//!
//! # Why no wake-up is lost
//!
//! The seat wakes no thread. The queue alone decides that the writer thread wakes, under its own lock: for a job, when
//! it is closed, or when it is summoned (`queue/mod.rs`). The writer thread leaves the seat first and looks for those
//! then, under that lock, before it sleeps. Once awake it waits for the seat as for any mutex, and no other thread
//! waits for it. So no fence between seat and queue is needed: a job that arrives while a caller has the seat wakes the
//! writer thread by itself, or finds it awake.
//!
//! A caller that leaves something to be done (a checkpoint that is due, events, an earlier time for the idle pause than
//! that for which the writer thread sleeps) summons the writer thread, after it has left the seat.
//!
//! A caller may be in the seat again and again before a waiting thread gets a mutex. So callers try only while the seat
//! is *offered*. The writer thread withdraws the offer before it waits, and so does a caller that summons it. The offer
//! is a hint: a caller that has seen an old one finds the mutex taken, or the seat free.
//!
//! # When it is offered
//!
//! Group commit needs a writer thread that keeps the seat while several callers write; a lone caller needs one that
//! does not even look for the next job with the seat in its hands. So the writer thread counts the groups in a row that
//! were one job of a blocked thread, with an empty queue after it. From [`LONE_GROUPS`] on, it leaves the seat at once
//! and offers it. One group of another kind, and it keeps the seat while it spins, and does not offer it when it
//! sleeps.
//!
//! # Replies, panics, closing
//!
//! A caller's job is finished by the same code as any, into its own slot, so it has one reply, which the caller takes
//! when it has left the seat. A closure's panic is such a reply. A panic of larder's own ends the store, on whatever
//! thread: the `Writer` is dropped, the queue is closed, and each job in it replies.
//!
//! Closing closes the queue, which wakes the writer thread, which waits for the caller in the seat as it would for a
//! job of its own: the closer's deadline does not depend on it. Then it takes the `Writer` out of the seat for good. In
//! a forked child no call gets as far as the seat.
//!
//! # What belongs to the thread
//!
//! A closure in the seat runs on a thread that may be doing other work for larder: an async read, or a write of another
//! store. The queue's mark of its workers therefore has several places, which is what `Reentrant` relies on; the token
//! that cancels an async read is put aside; and so is what the WAL hook of the other store has left
//! (`checkpointer.rs`).

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use crossbeam_utils::CachePadded;

use super::context::Grouped;
use super::{Shared, Writer};
use crate::queue::job::Job;
use crate::runtime::sync::atomic::{AtomicBool, Ordering::Relaxed};
use crate::runtime::sync::{Arc, Mutex};

/// Lone groups in a row after which the writer thread offers the seat. A caller that meets another one in a while pays
/// for as many hops.
pub(super) const LONE_GROUPS: u32 = 8;

pub(crate) struct Seat {
    /// `None` once the writer thread has begun to close.
    writer: CachePadded<Mutex<Option<Writer>>>,
    is_offered: CachePadded<AtomicBool>,
}

/// How the writer thread leaves the seat.
pub(super) enum Rest {
    /// Nothing is to be done before another job arrives, or this time is over.
    Idle { patience: Option<Duration>, offers: bool },
    /// The store closes.
    Closed,
}

impl Seat {
    pub(crate) fn new(writer: Writer) -> Arc<Self> {
        Arc::new(Self {
            writer: CachePadded::new(Mutex::new(Some(writer))),
            is_offered: CachePadded::new(AtomicBool::new(true)),
        })
    }

    /// The life of the writer thread.
    pub(crate) fn serve(&self, shared: &Shared) {
        shared.queue.become_worker();
        loop {
            self.is_offered.store(false, Relaxed);
            let mut writer = self.writer.lock();
            let Some(rest) = hold(&mut writer, shared, Writer::work) else {
                return;
            };
            match rest {
                Rest::Idle { patience, offers } => {
                    self.is_offered.store(offers, Relaxed);
                    drop(writer);
                    shared.queue.rest(patience);
                }
                Rest::Closed => {
                    let leaving = writer.take();
                    drop(writer);
                    if let Err(bug) = catch_unwind(AssertUnwindSafe(|| leaving.map(Writer::close))) {
                        end_store(shared, bug);
                    }
                    return;
                }
            }
        }
    }

    /// For a blocking caller: takes the seat, if nothing comes first, and runs the job. Otherwise it does not ask for the
    /// job, and returns false.
    pub(super) fn run(&self, shared: &Shared, job: impl FnOnce() -> Job<Grouped>) -> bool {
        if !self.is_offered.load(Relaxed) {
            return false;
        }
        let Some(mut writer) = self.writer.try_lock() else {
            return false;
        };
        let queue = &shared.queue;
        if !queue.is_empty() || queue.is_closed() || !writer.as_ref().is_some_and(Writer::admits_caller) {
            return false;
        }
        let Some(works) = queue.work_here() else { return false };
        let job = job();
        let left_work = hold(&mut writer, shared, |writer| writer.run_here(job)) == Some(true);
        if left_work {
            self.is_offered.store(false, Relaxed);
        }
        drop(works);
        drop(writer);
        if left_work {
            queue.summon();
        }
        true
    }
}

/// Runs `f` as the holder of the seat. `None` if the `Writer` has left it for good.
fn hold<T>(writer: &mut Option<Writer>, shared: &Shared, f: impl FnOnce(&mut Writer) -> T) -> Option<T> {
    let held = writer.as_mut()?;
    match catch_unwind(AssertUnwindSafe(|| f(held))) {
        Ok(done) => Some(done),
        Err(bug) => {
            // The store ends first: what the `Writer` owns may panic as it is dropped, or take long.
            let broken = writer.take();
            shared.end_after_panic();
            let _ = catch_unwind(AssertUnwindSafe(|| drop(broken)));
            resume_unwind(bug)
        }
    }
}

fn end_store(shared: &Shared, bug: Box<dyn Any + Send>) -> ! {
    shared.end_after_panic();
    resume_unwind(bug)
}
