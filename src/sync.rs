//! The threads, locks and atomics of the queue and the hand-over, named in one place: `tests/model` puts others in
//! their place, and tries the schedules.

pub(crate) use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, atomic};
pub(crate) use std::thread;
