//! The threads, locks, atomics and the clock of the queue and the hand-over, named in one place: `tests/model-check`
//! puts others in their place, and tries the schedules.

pub(crate) use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak, atomic};
pub(crate) use std::thread;
pub(crate) use std::time::Instant;

use std::time::Duration;

/// How often to look before the core is yielded: some 0.2 us, about as long as a yield takes.
pub(crate) const LOOKS: u32 = 256;

/// How long a task whose read is done waits for another to wake it, at most.
pub(crate) const RELAY_TIME: Duration = Duration::from_millis(5);
