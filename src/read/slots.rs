//! Idle connections beside the shared stack, one in each slot, so that threads that read all the time do not pass the
//! stack's lock, and a connection's data, from one core to another.
//!
//! Each thread has a slot, which several threads may share. A read takes the connection of its own slot first, then one
//! of the stack, then that of any other slot. A connection is returned to the slot of the thread that used it, unless
//! that is taken or a read sleeps.
//!
//! No connection is idle in a slot while a read sleeps. A read registers as a sleeper before it looks at all slots, each
//! under its lock. A thread that returns a connection puts it into its slot, under the same lock, before it looks for
//! sleepers. Whichever of the two takes the lock second sees what the other has done: the sleeper finds the connection,
//! or the returning thread finds the sleeper, and takes the connection back to wake it.
//!
//! The lock of a slot is held for a take or a put. Other locks may be held when it is taken, and none is taken under it.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::runtime::sync::Mutex;

/// More than there are connections by default.
const SLOTS: usize = 8;

pub(super) struct Slots<C>([Slot<C>; SLOTS]);

/// It has cache lines to itself.
#[repr(align(128))]
pub(super) struct Slot<C> {
    idle: Mutex<Option<C>>,
    /// Number of reads that threads of this slot have begun.
    reads: AtomicU64,
}

impl<C> Slots<C> {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| Slot {
            idle: Mutex::new(None),
            reads: AtomicU64::new(0),
        }))
    }

    /// The slot of the calling thread.
    pub(super) fn own(&self) -> &Slot<C> {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static NUMBER: Cell<Option<usize>> = const { Cell::new(None) };
        }
        let number = NUMBER.get().unwrap_or_else(|| {
            let next = THREADS.fetch_add(1, Relaxed);
            NUMBER.set(Some(next));
            next
        });
        &self.0[number % SLOTS]
    }

    /// Takes the connection of any slot.
    pub(super) fn take_any(&self) -> Option<C> {
        self.0.iter().find_map(Slot::take)
    }

    /// Number of reads.
    pub(super) fn reads(&self) -> u64 {
        self.0.iter().map(|slot| slot.reads.load(Relaxed)).sum()
    }
}

impl<C> Slot<C> {
    pub(super) fn take(&self) -> Option<C> {
        self.idle.lock().take()
    }

    /// Returns the connection if the slot is taken.
    pub(super) fn put(&self, connection: C) -> Option<C> {
        let mut idle = self.idle.lock();
        if idle.is_some() {
            return Some(connection);
        }
        *idle = Some(connection);
        None
    }

    pub(super) fn count(&self) {
        self.reads.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn slot_keeps_one_connection() {
        let slots = Slots::new();
        assert_eq!(slots.own().put(1), None);
        assert_eq!(slots.own().put(2), Some(2));
        let elsewhere = thread::scope(|scope| scope.spawn(|| slots.own().take()).join().unwrap());
        let anywhere = thread::scope(|scope| scope.spawn(|| slots.take_any()).join().unwrap());
        assert_eq!((elsewhere, anywhere, slots.own().take()), (None, Some(1), None));
    }

    #[test]
    fn reads_of_all_slots_are_counted() {
        let slots = Slots::<u32>::new();
        for _ in 0..2 * SLOTS {
            thread::scope(|scope| scope.spawn(|| slots.own().count()).join().unwrap());
        }
        assert_eq!(slots.reads(), 2 * SLOTS as u64);
    }
}
