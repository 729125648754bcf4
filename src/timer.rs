//! One clock for all stores of the process: what is to be done later. What is done on its thread is short.

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::Instant;

use scheduled_thread_pool::ScheduledThreadPool;

thread_local! {
    static IS_CLOCK: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread is that of the clock, which must not wait for anything.
pub(crate) fn is_here() -> bool {
    IS_CLOCK.get()
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
        f();
    });
}
