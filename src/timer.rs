//! One clock for all stores of the process: what is to be done later. What is done on its thread is short.
//!
//! A panic ends here: its payload may panic as it is dropped, and that would end the thread, which all stores share.

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use scheduled_thread_pool::{JobHandle, ScheduledThreadPool};

use crate::panics::{caught, quietly};

thread_local! {
    static IS_CLOCK: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread is one of the clock's, which must not wait for a store.
pub(crate) fn is_here() -> bool {
    IS_CLOCK.get()
}

/// Does it again and again, on a thread apart from that of the alarms: it may take long. `None` if the operating system
/// gave no thread, for which the pool panics.
pub(crate) fn every(interval: Duration, mut f: impl FnMut() + Send + 'static) -> Option<JobHandle> {
    static WATCH: OnceLock<ScheduledThreadPool> = OnceLock::new();
    let start = || {
        ScheduledThreadPool::builder()
            .num_threads(1)
            .thread_name_pattern("larder-watch")
            .build()
    };
    let watch = caught(|| WATCH.get_or_init(start))?;
    let handle = watch.execute_with_fixed_delay(interval, interval, move || {
        IS_CLOCK.set(true);
        quietly(&mut f);
    });
    Some(handle)
}

pub(crate) fn at(deadline: Instant, f: impl FnOnce() + Send + 'static) {
    static CLOCK: OnceLock<ScheduledThreadPool> = OnceLock::new();
    let clock = CLOCK.get_or_init(|| {
        ScheduledThreadPool::builder()
            .num_threads(1)
            .thread_name_pattern("larder-timer")
            .build()
    });
    clock.execute_after(deadline.saturating_duration_since(Instant::now()), || {
        IS_CLOCK.set(true);
        quietly(f);
    });
}
