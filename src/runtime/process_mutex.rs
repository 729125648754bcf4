//! The mutexes of the process, as opposed to those of a store, and how they get over a fork.
//!
//! A forked child has one thread, and a copy of every mutex. One that another thread of the parent had at that moment
//! stays locked in the child. So the forking thread takes all of them before the fork ([`hold`]), and releases
//! them after it in both processes. A static of larder's that a thread may wait for is therefore a [`ProcessMutex`]: not
//! a `Mutex`, and not a `OnceLock`, whose initialization is a lock as well. A test looks for others.
//!
//! None is taken under another, so their order does not matter.

use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Release};
use std::thread;
use std::time::{Duration, Instant};

use super::sync::{Mutex, MutexGuard};

/// A mutex of the process.
pub(crate) struct ProcessMutex<T> {
    mutex: Mutex<T>,
    is_listed: AtomicBool,
}

/// All that have been locked so far.
static LISTED: Mutex<Vec<&'static dyn Held>> = Mutex::new(Vec::new());

trait Held: Sync {
    fn try_hold(&'static self) -> Option<Box<dyn Any>>;
}

impl<T: Send + 'static> ProcessMutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self {
            mutex: Mutex::new(value),
            is_listed: AtomicBool::new(false),
        }
    }

    pub(crate) fn lock(&'static self) -> MutexGuard<'static, T> {
        if !self.is_listed.load(Acquire) {
            self.list();
        }
        self.mutex.lock()
    }

    #[cold]
    fn list(&'static self) {
        let mut listed = LISTED.lock();
        if !self.is_listed.load(Acquire) {
            listed.push(self);
            self.is_listed.store(true, Release);
        }
    }
}

impl<T: Send + 'static> Held for ProcessMutex<T> {
    fn try_hold(&'static self) -> Option<Box<dyn Any>> {
        Some(Box::new(self.mutex.try_lock()?))
    }
}

/// The guards of all mutexes of the process, or of those that could be had.
pub(crate) struct AllMutexes {
    /// Dropped before the list's: no thread that waits for that one has another.
    _guards: Vec<Option<Box<dyn Any>>>,
    _listed: Option<MutexGuard<'static, Vec<&'static dyn Held>>>,
    pub(crate) is_complete: bool,
}

/// Takes all mutexes of the process, and leaves out what another thread does not release until then.
pub(crate) fn hold(until: Instant) -> AllMutexes {
    let listed = try_until(until, || LISTED.try_lock());
    let all = listed.iter().flat_map(|listed| listed.iter());
    let guards: Vec<_> = all.map(|mutex| try_until(until, || mutex.try_hold())).collect();
    AllMutexes {
        is_complete: listed.is_some() && guards.iter().all(Option::is_some),
        _guards: guards,
        _listed: listed,
    }
}

/// Tries until it succeeds or the time is over.
pub(crate) fn try_until<T>(until: Instant, mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    const PAUSE: Duration = Duration::from_micros(50);
    loop {
        let done = attempt();
        if done.is_some() || Instant::now() >= until {
            return done;
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    static ONE: ProcessMutex<u32> = ProcessMutex::new(1);
    static OTHER: ProcessMutex<u32> = ProcessMutex::new(2);

    #[test]
    fn held_mutex_is_left_out_in_time() {
        drop(ONE.lock());
        let other = OTHER.lock();
        let soon = Instant::now() + Duration::from_millis(1);
        assert!(!thread::spawn(move || hold(soon).is_complete).join().unwrap());
        drop(other);
    }

    #[test]
    fn mutex_waits_until_all_are_released() {
        static MUTEX: ProcessMutex<u32> = ProcessMutex::new(0);
        drop(MUTEX.lock());
        let all = hold(Instant::now() + Duration::from_secs(60));
        let (tell, told) = channel();
        let waits = thread::spawn(move || {
            tell.send(()).unwrap();
            *MUTEX.lock()
        });
        told.recv().unwrap();
        assert!(MUTEX.mutex.try_lock().is_none());
        drop(all);
        assert_eq!(waits.join().unwrap(), 0);
    }
}
