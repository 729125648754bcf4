//! The model's clock: the time depends on the schedule.
//!
//! A dedicated task takes the earliest timer, sets the clock to it, and lets it ring. Shuttle decides when that task
//! runs, so a deadline passes at any moment, or only once all others wait. Timers ring in order. A timer beyond the
//! [`HORIZON`] never rings: a lost wake-up then waits for ever, and shuttle reports a deadlock.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::ops::{Add, Sub};
use std::pin::pin;
use std::sync::{Arc, Mutex as Plain};
use std::task::{Poll, Waker};
use std::time::Duration;

use shuttle::rand::{Rng, thread_rng};

/// Later than any schedule lasts.
pub(crate) const HORIZON: Duration = Duration::from_secs(3600);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instant(Duration);

impl Instant {
    /// Each reading of the clock takes a nanosecond, so no two are equal.
    pub(crate) fn now() -> Self {
        CLOCK.with_borrow_mut(|clock| {
            clock.now.0 += Duration::from_nanos(1);
            clock.now
        })
    }

    pub(crate) fn elapsed(self) -> Duration {
        Self::now() - self
    }

    pub(crate) fn saturating_duration_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, by: Duration) -> Self {
        Self(self.0 + by)
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.saturating_duration_since(earlier)
    }
}

type Ring = Box<dyn FnOnce() + Send>;

struct Clock {
    now: Instant,
    timers: BTreeMap<(Instant, u64), Ring>,
    set: u64,
    /// The waker of the task that fires the timers.
    idle: Option<Waker>,
}

impl Clock {
    const NEW: Self = Self {
        now: Instant(Duration::ZERO),
        timers: BTreeMap::new(),
        set: 0,
        idle: None,
    };
}

std::thread_local! {
    /// Shuttle runs all threads of a schedule on one system thread.
    static CLOCK: RefCell<Clock> = const { RefCell::new(Clock::NEW) };
}

/// Starts the clock of a schedule.
pub(crate) fn begin() {
    let last = CLOCK.replace(Clock::NEW);
    drop(last);
    // The pace of the clock relative to the other threads: it slows down, so that they come to an end.
    let mut pace = 8 * [0, 2, 15][below(3)];
    drop(shuttle::future::spawn(async move {
        loop {
            wait_for_timer().await;
            for _ in 0..pace / 8 {
                shuttle::future::yield_now().await;
            }
            pace += 1;
            let ring = CLOCK.with_borrow_mut(|clock| {
                let ((at, _), ring) = clock.timers.pop_first()?;
                clock.now = clock.now.max(at);
                Some(ring)
            });
            if let Some(ring) = ring {
                ring();
            }
            shuttle::future::yield_now().await;
        }
    }));
}

async fn wait_for_timer() {
    poll_fn(|context| {
        CLOCK.with_borrow_mut(|clock| {
            if clock.timers.is_empty() {
                clock.idle = Some(context.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(())
        })
    })
    .await;
}

/// A timer that is set until this is dropped.
pub(crate) struct Timer(Option<(Instant, u64)>);

pub(crate) fn after(wait: Duration, ring: impl FnOnce() + Send + 'static) -> Timer {
    if wait >= HORIZON {
        return Timer(None);
    }
    let (key, idle) = CLOCK.with_borrow_mut(|clock| {
        clock.set += 1;
        let key = (clock.now + wait, clock.set);
        clock.timers.insert(key, Box::new(ring));
        (key, clock.idle.take())
    });
    if let Some(idle) = idle {
        idle.wake();
    }
    Timer(Some(key))
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(key) = self.0 {
            let ring = CLOCK.with_borrow_mut(|clock| clock.timers.remove(&key));
            drop(ring);
        }
    }
}

/// The time was over first.
#[derive(Debug)]
pub(crate) struct Elapsed;

/// As tokio's.
pub(crate) async fn timeout<T>(limit: Duration, work: impl Future<Output = T>) -> Result<T, Elapsed> {
    let over = Arc::new(Plain::new((false, None::<Waker>)));
    let rings = Arc::clone(&over);
    let _timer = after(limit, move || {
        let mut over = rings.lock().unwrap();
        over.0 = true;
        let waiting = over.1.take();
        drop(over);
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    });
    let mut work = pin!(work);
    poll_fn(|context| {
        if let Poll::Ready(done) = work.as_mut().poll(context) {
            return Poll::Ready(Ok(done));
        }
        let mut over = over.lock().unwrap();
        if over.0 {
            return Poll::Ready(Err(Elapsed));
        }
        over.1 = Some(context.waker().clone());
        Poll::Pending
    })
    .await
}

/// As tokio's.
pub(crate) async fn timeout_at<T>(deadline: Instant, work: impl Future<Output = T>) -> Result<T, Elapsed> {
    timeout(deadline.saturating_duration_since(Instant::now()), work).await
}

/// Advances the clock without a waiter.
pub(crate) fn pass(by: Duration) {
    CLOCK.with_borrow_mut(|clock| clock.now = clock.now + by);
}

/// A number below `end`, chosen by the schedule.
pub(crate) fn below(end: usize) -> usize {
    thread_rng().gen_range(0..end)
}

pub(crate) fn one_in(n: u32) -> bool {
    thread_rng().gen_ratio(1, n)
}
