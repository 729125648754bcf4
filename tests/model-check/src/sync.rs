//! In place of larder's `sync.rs`: threads, locks and atomics whose every step shuttle schedules.
//!
//! Shuttle's own parking and condition variables have no timeouts. These do: a wait with a timeout sets a timer of the
//! model's clock (`time.rs`). Now and then a wait ends spuriously, as real ones may.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Mutex as Plain, PoisonError, TryLockError, atomic as plain};
use std::task::{Poll, Waker};
use std::time::Duration;

pub(crate) use std::sync::{Arc, Weak};

pub(crate) use shuttle::sync::atomic;

use crate::time::{self, HORIZON, one_in};

pub(crate) use crate::time::Instant;

/// As in larder, but each check is a step of a schedule.
pub(crate) const CHECKS_PER_YIELD: u32 = 2;

/// Never: a task that only the timer would wake is a deadlock.
pub(crate) const RELAY_TIME: Duration = HORIZON.saturating_mul(2);

/// One wait in this many ends spuriously.
const SPURIOUS: u32 = 16;

/// A flag that one thread sleeps for. Shuttle sees the sleep and the wake-up, and reports a deadlock if no other thread
/// can raise the flag.
#[derive(Debug, Default)]
struct Signal {
    raised: plain::AtomicBool,
    sleeper: Plain<Option<Waker>>,
}

impl Signal {
    fn raise(&self) {
        self.raised.store(true, SeqCst);
        if let Some(sleeper) = self.sleeper.lock().unwrap().take() {
            sleeper.wake();
        }
    }

    /// Sleeps until the flag is raised, and lowers it.
    fn wait(&self) {
        shuttle::future::block_on(poll_fn(|context| {
            if self.raised.swap(false, SeqCst) {
                return Poll::Ready(());
            }
            *self.sleeper.lock().unwrap() = Some(context.waker().clone());
            Poll::Pending
        }));
    }
}

#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

pub(crate) struct MutexGuard<'a, T> {
    guard: shuttle::sync::MutexGuard<'a, T>,
    mutex: &'a Mutex<T>,
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        let guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        MutexGuard { guard, mutex: self }
    }

    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let guard = match self.0.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(MutexGuard { guard, mutex: self })
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

#[derive(Debug, Default)]
pub(crate) struct Condvar {
    sleepers: Arc<Plain<Vec<Arc<Signal>>>>,
}

impl Condvar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.sleep(guard, None).0
    }

    pub(crate) fn wait_timeout<'a, T>(&self, guard: MutexGuard<'a, T>, timeout: Duration) -> (MutexGuard<'a, T>, bool) {
        self.sleep(guard, Some(timeout))
    }

    fn sleep<'a, T>(&self, guard: MutexGuard<'a, T>, timeout: Option<Duration>) -> (MutexGuard<'a, T>, bool) {
        let mutex = guard.mutex;
        // Shuttle may switch before the lock is released, but not between that and the sleep.
        drop(guard);
        let signal = Arc::new(Signal::default());
        self.sleepers.lock().unwrap().push(Arc::clone(&signal));
        let timed_out = Arc::new(plain::AtomicBool::new(false));
        let gives_up = |over: bool| {
            let (sleepers, signal, timed_out) =
                (Arc::clone(&self.sleepers), Arc::clone(&signal), Arc::clone(&timed_out));
            move || {
                let mut sleepers = sleepers.lock().unwrap();
                if let Some(at) = sleepers.iter().position(|sleeper| Arc::ptr_eq(sleeper, &signal)) {
                    sleepers.remove(at);
                    timed_out.store(over, SeqCst);
                    signal.raise();
                }
            }
        };
        let timer = timeout.map(|timeout| time::after(timeout, gives_up(true)));
        let spurious = one_in(SPURIOUS).then(|| time::after(Duration::ZERO, gives_up(false)));
        signal.wait();
        drop((timer, spurious));
        (mutex.lock(), timed_out.load(SeqCst))
    }

    /// Wakes any one waiter.
    pub(crate) fn notify_one(&self) {
        thread::switch();
        let mut sleepers = self.sleepers.lock().unwrap();
        if !sleepers.is_empty() {
            let any = time::below(sleepers.len());
            sleepers.remove(any).raise();
        }
    }

    pub(crate) fn notify_all(&self) {
        thread::switch();
        for sleeper in self.sleepers.lock().unwrap().drain(..) {
            sleeper.raise();
        }
    }
}

/// As tokio's, for one waiter.
#[derive(Default)]
pub(crate) struct Notify {
    permit: plain::AtomicBool,
    waiter: Plain<Option<Waker>>,
}

impl Notify {
    pub(crate) fn notify_one(&self) {
        self.permit.store(true, SeqCst);
        if let Some(waiter) = self.waiter.lock().unwrap().take() {
            waiter.wake();
        }
    }

    pub(crate) fn notified(&self) -> impl Future<Output = ()> + '_ {
        poll_fn(|context| {
            if self.permit.swap(false, SeqCst) {
                return Poll::Ready(());
            }
            *self.waiter.lock().unwrap() = Some(context.waker().clone());
            Poll::Pending
        })
    }
}

pub(crate) mod thread {
    use std::io;

    use super::{Arc, Duration, SPURIOUS, Signal, one_in, plain, time};
    use crate::sync::SeqCst;

    /// The threads that a [`Builder`] has started and that have not ended, in this schedule.
    #[derive(Default)]
    struct Threads {
        alive: plain::AtomicUsize,
        begun: plain::AtomicUsize,
        ended: Signal,
    }

    shuttle::lazy_static! {
        static ref THREADS: Threads = Threads::default();
    }

    #[derive(Default)]
    pub(crate) struct Builder(shuttle::thread::Builder);

    impl Builder {
        pub(crate) fn new() -> Self {
            Self::default()
        }

        pub(crate) fn name(self, name: String) -> Self {
            Self(self.0.name(name))
        }

        pub(crate) fn spawn(self, f: impl FnOnce() + Send + 'static) -> io::Result<()> {
            THREADS.begun.fetch_add(1, SeqCst);
            THREADS.alive.fetch_add(1, SeqCst);
            self.0
                .spawn(|| {
                    f();
                    if THREADS.alive.fetch_sub(1, SeqCst) == 1 {
                        THREADS.ended.raise();
                    }
                })
                .map(drop)
        }
    }

    /// Counts a thread that was started otherwise, and is joined by its starter.
    pub(crate) fn count() {
        THREADS.begun.fetch_add(1, SeqCst);
    }

    /// Waits until all of them have ended. Returns their number.
    pub(crate) fn join_all() -> usize {
        while THREADS.alive.load(SeqCst) > 0 {
            THREADS.ended.wait();
        }
        THREADS.begun.load(SeqCst)
    }

    #[derive(Clone, Debug)]
    pub(crate) struct Thread(Arc<Signal>);

    shuttle::thread_local! {
        static THIS: Thread = Thread(Arc::default());
    }

    pub(crate) fn current() -> Thread {
        THIS.with(Clone::clone)
    }

    impl Thread {
        pub(crate) fn unpark(&self) {
            switch();
            self.0.raise();
        }
    }

    pub(crate) fn park() {
        let this = current();
        let raised = Arc::clone(&this.0);
        let spurious = one_in(SPURIOUS).then(|| time::after(Duration::ZERO, move || raised.raise()));
        this.0.wait();
        drop(spurious);
    }

    pub(crate) fn park_timeout(timeout: Duration) {
        let this = current();
        let raised = Arc::clone(&this.0);
        let timer = time::after(timeout, move || raised.raise());
        park();
        drop(timer);
    }

    /// The thread is scheduled again after a while, sometimes a long one.
    pub(crate) fn yield_now() {
        time::pass(Duration::from_micros(if one_in(8) { 600 } else { 20 }));
        shuttle::thread::yield_now();
    }

    /// Any other thread may run now.
    pub(crate) fn switch() {
        shuttle::thread::sleep(Duration::ZERO);
    }
}

/// The key that `thread_local!` makes here (see `main.rs`): shuttle's threads share one system thread.
pub(crate) struct LocalKey<T: 'static>(pub(crate) &'static shuttle::thread::LocalKey<T>);

impl<T> LocalKey<T> {
    pub(crate) fn with<R>(&self, f: impl FnOnce(&T) -> R) -> R {
        self.0.with(f)
    }

    pub(crate) fn try_with<R>(&self, f: impl FnOnce(&T) -> R) -> Result<R, shuttle::thread::AccessError> {
        self.0.try_with(f)
    }
}

impl<T: Copy> LocalKey<Cell<T>> {
    pub(crate) fn get(&self) -> T {
        self.0.with(Cell::get)
    }

    pub(crate) fn set(&self, value: T) {
        self.0.with(|cell| cell.set(value));
    }
}

impl<T: Default> LocalKey<RefCell<T>> {
    pub(crate) fn set(&self, value: T) {
        self.0.with(|cell| *cell.borrow_mut() = value);
    }
}
