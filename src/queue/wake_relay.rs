//! A woken task wakes the next: tasks whose reads are complete are woken in batches, by one of them.
//!
//! Waking a task from a thread outside its runtime costs a microsecond, as much as a short read: it takes a lock and
//! some cache lines of the runtime, and often a system call. On a thread of the runtime it costs a tenth. So a reader
//! thread wakes one task, and that task wakes the others.
//!
//! The *leader* is a task that was woken and has not fetched its reply since. While there is a leader, a reader thread
//! leaves its replies in the relay. When the leader fetches its reply, or goes away without it, it wakes all tasks that
//! wait here. The first of them is the next leader. A leader is chosen and stored under the lock: its waker is still in
//! its slot, so the task has yet to fetch its reply, and will then see that it is the leader.
//!
//! A task may fetch its reply late or never: its runtime may be busy, and a future that was polled once may be kept and
//! not polled again. So replies do not depend on leaders alone. A reader thread wakes all waiting tasks, whichever
//! thread ran their reads, when [`MAX_WAITING`] replies wait, and when it finds no job in the queue, before it does
//! anything else. If all reader threads are in long reads, a timer wakes them after
//! [`RELAY_TIME`](crate::runtime::sync::RELAY_TIME).
//!
//! `leader` is written under the lock of `waiting`. It has a cache line to itself, because fetching tasks read it and
//! reader threads hardly do. A slot's lock is the only lock that is taken under this one. No waker is woken, and no
//! reply dropped, under either.

use std::mem;

use crossbeam_utils::CachePadded;

use super::job::CompletedJob;
use crate::runtime::sync::atomic::AtomicUsize;
use crate::runtime::sync::atomic::Ordering::Relaxed;
use crate::runtime::sync::{Mutex, MutexGuard};

/// Upper bound of the waiting replies. Twice as many, or half, are 2 % slower with 64 tasks.
const MAX_WAITING: usize = 24;

const NO_LEADER: usize = 0;

#[derive(Default)]
pub(super) struct WakeRelay {
    waiting: CachePadded<Mutex<WaitingReplies>>,
    /// The [`CompletedJob::id`] of the leader's job.
    leader: CachePadded<AtomicUsize>,
}

/// Empty if there is no leader.
#[derive(Default)]
struct WaitingReplies {
    replies: Vec<CompletedJob>,
    timer_is_set: bool,
}

/// How a reply was delivered.
pub(super) enum Delivery {
    /// Tasks were woken.
    Woken,
    /// The reply waits, as do those before it.
    Waits,
    /// The reply waits, and the caller is to set a timer for it.
    SetTimer,
}

impl WakeRelay {
    /// Wakes the task that waits for that reply, or leaves the reply for the leader.
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

    /// The task of that job has its reply, or has gone away.
    pub(super) fn fetched(&self, id: usize) {
        if self.leader.load(Relaxed) == id {
            let waiting = self.waiting.lock();
            if self.leader.load(Relaxed) == id {
                self.wake(waiting);
            }
        }
    }

    /// Wakes all waiting tasks.
    pub(super) fn wake_all(&self) {
        let waiting = self.waiting.lock();
        if !waiting.replies.is_empty() {
            self.wake(waiting);
        }
    }

    /// Like [`wake_all`](Self::wake_all), for the timer.
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
