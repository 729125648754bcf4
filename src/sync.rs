//! The threads, locks, atomics and the clock of the queue and the hand-over, named in one place: `tests/model-check`
//! puts others in their place, and tries the schedules.

pub(crate) use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, atomic};
pub(crate) use std::thread;
pub(crate) use std::time::Instant;

/// How often to look before the core is yielded: some 0.2 us, about as long as a yield takes.
pub(crate) const LOOKS: u32 = 256;
