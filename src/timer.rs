//! One clock for all stores of the process: what is to be done later. What is done on its thread is short.

use std::sync::OnceLock;
use std::time::Instant;

use scheduled_thread_pool::ScheduledThreadPool;

pub(crate) fn at(deadline: Instant, f: impl FnOnce() + Send + 'static) {
    static CLOCK: OnceLock<ScheduledThreadPool> = OnceLock::new();
    let clock = CLOCK.get_or_init(|| {
        ScheduledThreadPool::builder()
            .num_threads(1)
            .thread_name_pattern("larder-timer")
            .build()
    });
    clock.execute_after(deadline.saturating_duration_since(Instant::now()), f);
}
