//! The timer threads of the process, shared by all stores: they run the deadlines of queues, and periodic work such as
//! that of the watchdog.
//!
//! A timer task may run user code (a waker, a subscriber of events, a metrics recorder), or wait for a file system that
//! hangs. This delays no other task: before a thread runs a task, it ensures that a second thread waits for the next
//! one, and starts a thread if there is none. So each blocking task occupies one thread, of at most [`MAX_THREADS`].
//! Tasks wait for running ones only if the system refuses another thread, or if that limit is reached.
//!
//! One mutex guards the tasks, in the order of their times, and the counts of threads. It is held for short operations,
//! and while the first thread is started. No task runs, and none is dropped, under it. A thread counts as *idle* from
//! the moment when it is to be started until it takes a task. All idle threads sleep on one condition variable until
//! the first task is due.
//!
//! No wake-up is lost: a thread reads the time of the first task under the lock before it sleeps; an earlier task,
//! inserted under the lock, wakes an idle thread; and a thread that takes a task wakes another thread for the next one.
//!
//! A forked child has none of the threads: the first lock there resets the counts and leaks all tasks.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{io, mem, thread};

use super::clock::later;
use super::fork::{self, Process};
use super::panic::quietly;
use super::process_mutex::ProcessMutex;
use super::sync::{Arc, Condvar, MutexGuard};

/// Upper bound of the timer threads.
const MAX_THREADS: usize = 256;

/// Idle threads that stay: one waits while the other runs a task.
const IDLE_THREADS: usize = 2;

type Task = Box<dyn FnOnce() + Send>;

struct TimerState {
    /// The process that the threads belong to.
    process: Process,
    /// Ordered by time; the number distinguishes tasks of the same time.
    tasks: BTreeMap<(Instant, u64), Task>,
    /// The number of the next task.
    next: u64,
    threads: usize,
    idle: usize,
}

static STATE: ProcessMutex<TimerState> = ProcessMutex::new(TimerState {
    process: Process::FIRST,
    tasks: BTreeMap::new(),
    next: 0,
    threads: 0,
    idle: 0,
});
static CHANGED: Condvar = Condvar::new();

thread_local! {
    static IS_TIMER: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread is a timer thread, which must not wait for a store.
pub(crate) fn is_here() -> bool {
    IS_TIMER.get()
}

/// Starts the first thread, unless it runs already. It lives as long as the process.
///
/// # Errors
///
/// The operating system refuses the thread.
pub(crate) fn start() -> io::Result<()> {
    let mut state = lock();
    if state.threads == 0 {
        // The lock is kept, so that no caller counts on a thread that then cannot be started.
        spawn()?;
        state.threads = 1;
        state.idle = 1;
    }
    Ok(())
}

/// Runs `f` at that time. Requires an earlier [`start`].
pub(crate) fn at(deadline: Instant, f: impl FnOnce() + Send + 'static) {
    let task = Box::new(f);
    let mut state = lock();
    let number = state.next;
    state.next += 1;
    state.tasks.insert((deadline, number), task);
    let is_first = state.tasks.first_key_value().is_some_and(|(key, _)| key.1 == number);
    drop(state);
    if is_first {
        CHANGED.notify_one();
    }
}

/// Runs `f` periodically, with a pause of `interval` before each run.
pub(crate) fn every(interval: Duration, f: impl FnMut() + Send + 'static) -> Periodic {
    let cancelled = Arc::new(AtomicBool::new(false));
    run_after(interval, f, Arc::clone(&cancelled));
    Periodic { cancelled }
}

fn run_after(pause: Duration, mut f: impl FnMut() + Send + 'static, cancelled: Arc<AtomicBool>) {
    at(later(Instant::now(), pause), move || {
        if !cancelled.load(Ordering::Relaxed) {
            f();
            run_after(pause, f, cancelled);
        }
    });
}

/// A task that runs periodically.
pub(crate) struct Periodic {
    cancelled: Arc<AtomicBool>,
}

impl Periodic {
    /// Prevents further runs. Does not wait for a current run.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

fn spawn() -> io::Result<()> {
    let thread = thread::Builder::new().name("larder-timer".into());
    thread.spawn(serve).map(drop)
}

/// The main loop of a timer thread, which is counted as idle before it starts.
fn serve() {
    IS_TIMER.set(true);
    let mut state = lock();
    loop {
        let now = Instant::now();
        match state.tasks.first_entry() {
            Some(first) if first.key().0 <= now => {
                let task = first.remove();
                state = run(state, task);
                // Only a thread that was not asleep may end, because it has taken no other thread's wake-up.
                if state.idle > IDLE_THREADS {
                    state.idle -= 1;
                    state.threads -= 1;
                    return;
                }
            }
            Some(first) => {
                let left = first.key().0 - now;
                state = CHANGED.wait_timeout(state, left).0;
            }
            None => state = CHANGED.wait(state),
        }
    }
}

/// Runs a task, without the lock, while another thread waits for the next one.
fn run(mut state: MutexGuard<'static, TimerState>, task: Task) -> MutexGuard<'static, TimerState> {
    state.idle -= 1;
    if state.idle > 0 {
        drop(state);
        CHANGED.notify_one();
    } else if state.threads < MAX_THREADS {
        state.idle += 1;
        state.threads += 1;
        drop(state);
        if spawn().is_err() {
            let mut state = lock();
            state.idle -= 1;
            state.threads -= 1;
        }
    } else {
        drop(state);
    }
    quietly(task);
    let mut state = lock();
    state.idle += 1;
    state
}

fn lock() -> MutexGuard<'static, TimerState> {
    let mut state = STATE.lock();
    if state.process.is_left() {
        if is_here() {
            // A task has forked, and returned in the child.
            fork::end_child();
        }
        // The threads stayed in the parent, and the tasks belong to its stores.
        mem::forget(mem::take(&mut state.tasks));
        (state.threads, state.idle) = (0, 0);
        state.process = Process::current();
    }
    state
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn blocking_task_delays_no_other() {
        start().unwrap();
        let (tell, told) = channel();
        let mut gates = Vec::new();
        for n in 0..5 {
            let (open, gate) = channel::<()>();
            gates.push(open);
            let tell = tell.clone();
            at(Instant::now(), move || {
                tell.send(n).unwrap();
                let _ = gate.recv();
            });
            assert_eq!(told.recv_timeout(LONG).unwrap(), n, "while those before it block");
        }
        at(Instant::now(), move || tell.send(5).unwrap());
        assert_eq!(told.recv_timeout(LONG).unwrap(), 5);
        drop(gates);
    }

    #[test]
    fn task_never_runs_early() {
        start().unwrap();
        let (tell, told) = channel();
        let now = Instant::now();
        for ms in [40, 20, 1] {
            let tell = tell.clone();
            at(now + Duration::from_millis(ms), move || {
                tell.send((ms, now.elapsed())).unwrap()
            });
        }
        for _ in 0..3 {
            let (ms, after) = told.recv_timeout(LONG).unwrap();
            assert!(after >= Duration::from_millis(ms));
        }
    }

    #[test]
    fn periodic_task_runs_until_cancelled() {
        start().unwrap();
        let (tell, told) = channel();
        let periodic = every(Duration::from_millis(1), move || {
            let _ = tell.send(());
        });
        for _ in 0..3 {
            told.recv_timeout(LONG).unwrap();
        }
        periodic.cancel();
        // The closure, and with it the sender, is dropped at its next time.
        while told.recv_timeout(LONG).is_ok() {}
    }
}
