//! Who wakes the tasks whose reads are done.
//!
//! To wake a task from a thread that is none of its runtime's costs a microsecond, as much as a short read: a lock and
//! some cache lines of the runtime's, and often a system call. On a thread of the runtime's own it costs a tenth. So a
//! reader thread wakes one task, and that one the others.
//!
//! The one that was woken, and has not come for its reply since, is the *leader*. While there is one, a reader thread
//! leaves its replies here. Who comes for a reply, or goes away without, and is the leader, wakes all who wait here;
//! the first of them is the next leader. It is found and entered under the lock: its waker is still at its slot, so it
//! has yet to come, and will see that it is the leader.
//!
//! A task may be slow to come, or never come: its runtime may be busy, and a future that was polled once may be kept and
//! not polled again. So replies do not wait for leaders alone. A reader thread wakes all who wait here, of whichever
//! thread's reads, when [`MAX_WAITING`] wait, and when it finds no job in the queue, before it does anything else. And
//! if all reader threads are in long reads, a timer does it after [`RELAY_TIME`](crate::runtime::sync::RELAY_TIME).
//!
//! `leader` is written under the lock of the waiting. It has a cache line of its own, as those that come look at it,
//! and reader threads hardly do. The only lock that is taken under this one is a slot's. No waker is woken, and no
//! reply dropped, under either.

use std::mem;

use crossbeam_utils::CachePadded;

use super::job::CompletedJob;
use crate::runtime::sync::atomic::AtomicUsize;
use crate::runtime::sync::atomic::Ordering::Relaxed;
use crate::runtime::sync::{Mutex, MutexGuard};

/// At most so many wait. Twice as many, or half, are 2 % slower with 64 tasks.
const MAX_WAITING: usize = 24;

const NO_LEADER: usize = 0;

#[derive(Default)]
pub(super) struct WakeRelay {
    waiting: CachePadded<Mutex<WaitingReplies>>,
    /// The [`CompletedJob::id`] of its job.
    leader: CachePadded<AtomicUsize>,
}

/// Nobody, if there is no leader.
#[derive(Default)]
struct WaitingReplies {
    replies: Vec<CompletedJob>,
    timer_is_set: bool,
}

/// What became of a reply.
pub(super) enum Delivery {
    /// Tasks were woken.
    Woken,
    /// It waits, and so do those before it.
    Waits,
    /// It waits, and a timer is to be set for it.
    SetTimer,
}

impl WakeRelay {
    /// Wakes the task that waits for that reply, or leaves it to others.
    pub(super) fn deliver(&self, completed: CompletedJob) -> Delivery {
        let mut waiting = self.waiting.lock();
        if self.leader.load(Relaxed) == NO_LEADER {
            self.leader.store(completed.id(), Relaxed);
            let waker = completed.take_waker();
            if waker.is_none() {
                self.leader.store(NO_LEADER, Relaxed);
            }
            drop(waiting);
            completed.wake(waker);
            return Delivery::Woken;
        }
        waiting.replies.push(completed);
        if waiting.replies.len() >= MAX_WAITING {
            self.wake(waiting);
            return Delivery::Woken;
        }
        if mem::replace(&mut waiting.timer_is_set, true) {
            Delivery::Waits
        } else {
            Delivery::SetTimer
        }
    }

    /// That job's task has its reply, or has gone away.
    pub(super) fn fetched(&self, id: usize) {
        if self.leader.load(Relaxed) == id {
            let waiting = self.waiting.lock();
            if self.leader.load(Relaxed) == id {
                self.wake(waiting);
            }
        }
    }

    /// Wakes all who wait.
    pub(super) fn wake_all(&self) {
        let waiting = self.waiting.lock();
        if !waiting.replies.is_empty() {
            self.wake(waiting);
        }
    }

    /// As [`wake_all`](Self::wake_all), when the timer rings.
    pub(super) fn ring(&self) {
        self.waiting.lock().timer_is_set = false;
        self.wake_all();
    }

    fn wake(&self, mut waiting: MutexGuard<'_, WaitingReplies>) {
        let mut replies = Vec::new();
        let mut waker = None;
        if !waiting.replies.is_empty() {
            replies = mem::replace(&mut waiting.replies, Vec::with_capacity(MAX_WAITING));
        }
        let next = replies.iter().position(|reply| {
            self.leader.store(reply.id(), Relaxed);
            waker = reply.take_waker();
            waker.is_some()
        });
        if next.is_none() {
            self.leader.store(NO_LEADER, Relaxed);
        }
        drop(waiting);
        for (place, reply) in replies.into_iter().enumerate() {
            let waker = if Some(place) == next {
                waker.take()
            } else {
                reply.take_waker()
            };
            reply.wake(waker);
        }
    }
}
