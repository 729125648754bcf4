//! The one thread that makes the requests of all replicas of the process, `larder-replica`, and the threads for blocking
//! work beside it, `larder-ltx`. No runtime of the user is touched, and none is asked for.
//!
//! The thread runs a current-thread runtime of tokio, from the first use on, as long as the process lives. Long work
//! (compression, merging) goes through [`blocking`], which lets `HEAVY` closures run at a time. The file operations of
//! a folder and the resolver of host names share the pool of threads with it, and have the other `POOL` - `HEAVY`
//! for themselves. So a closure in [`blocking`] may wait for a request: what the request needs is never behind it.
//!
//! [`wait`] blocks its caller until a future has ended. On `larder-replica` itself it would wait for its own thread, so
//! it is an error there. The caller sleeps on a channel whose sender the task owns: the answer is sent once, and a task
//! that panics carries its panic to the caller. No lock is held meanwhile: the mutex guards the handle alone.
//!
//! `run` is the same for tasks: its future is polled by any runtime. Dropped, it ends the one that it waits for. A
//! caller's waker is woken on a thread for short work, since it may be slow.
//!
//! A closure on a thread cannot be dropped with the future that began it. `Closures` counts those of a future, so that
//! the caller that drops it can wait for them.
//!
//! A forked child has neither thread. Its first use leaks the parent's runtime and starts one of its own.

use std::cell::{Cell, RefCell};
use std::future::{Future, pending};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
#[cfg(feature = "async")]
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::{mem, thread};

#[cfg(feature = "async")]
use futures_util::future::{Either, select};
use tokio::runtime::{Builder, Handle};
#[cfg(feature = "async")]
use tokio::sync::oneshot;
use tokio::sync::{Notify, Semaphore};

use crate::connection::forks;
use crate::runtime::fork::Process;
use crate::runtime::process_mutex::ProcessMutex;
use crate::runtime::sync::{Arc, Mutex};

/// Closures of [`blocking`] that run at a time.
const HEAVY: usize = 2;

/// Upper bound of the `larder-ltx` threads.
const POOL: usize = 6;

#[derive(Clone)]
struct Runtime {
    handle: Handle,
    heavy: Arc<Semaphore>,
}

struct Shared {
    /// The process that the threads belong to.
    process: Process,
    runtime: Option<Runtime>,
}

static SHARED: ProcessMutex<Shared> = ProcessMutex::new(Shared {
    process: Process::FIRST,
    runtime: None,
});

thread_local! {
    static IS_REPLICA: Cell<bool> = const { Cell::new(false) };
}

/// Runs a future on `larder-replica`, and blocks the caller until it has ended. Its panic is the caller's.
///
/// # Errors
///
/// The operating system refuses the thread; or the caller is `larder-replica`, which would wait for itself.
pub fn wait<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> io::Result<T> {
    if IS_REPLICA.get() {
        let message = "the thread larder-replica would wait for itself";
        return Err(io::Error::new(io::ErrorKind::Deadlock, message));
    }
    let runtime = runtime()?;
    let task = runtime.handle.spawn(future);
    let (tell, told) = channel();
    runtime.handle.spawn(async move {
        let _ = tell.send(task.await);
    });
    match told.recv() {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(ended)) => resume_unwind(ended.into_panic()),
        Err(_) => Err(io::Error::other("the thread larder-replica has ended")),
    }
}

/// Runs a future on `larder-replica`, and lets it go.
///
/// # Errors
///
/// The operating system refuses the thread.
pub fn spawn(future: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
    drop(runtime()?.handle.spawn(future));
    Ok(())
}

/// Runs a future on `larder-replica` for a task of any runtime, once it is polled, and until it is dropped.
///
/// # Errors
///
/// The operating system refuses the thread, or the future panics.
#[cfg(feature = "async")]
pub(super) async fn run<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> io::Result<T> {
    let (mut tell, told) = oneshot::channel();
    spawn(async move {
        let done = match select(pin!(future), pin!(tell.closed())).await {
            Either::Left((done, _)) => done,
            Either::Right(_) => return,
        };
        short(move || drop(tell.send(done))).await;
    })?;
    told.await
        .map_err(|_| io::Error::other("the thread larder-replica has ended"))
}

/// Runs long work on a `larder-ltx` thread. Its panic is the caller's.
///
/// # Errors
///
/// The operating system refuses the thread.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let runtime = runtime()?;
    let permit = Arc::clone(&runtime.heavy).acquire_owned().await;
    let work = Closures::counted(work);
    let task = runtime.handle.spawn_blocking(move || {
        let _permit = permit;
        work()
    });
    match task.await {
        Ok(value) => Ok(value),
        Err(ended) if ended.is_panic() => resume_unwind(ended.into_panic()),
        Err(_) => Err(io::Error::other("the thread larder-replica has ended")),
    }
}

/// Runs short work that may call a user's code. Unlike [`blocking`], it never waits for long work of other stores.
/// Where the system refuses a thread, it runs here.
pub async fn short(work: impl FnOnce() + Send + 'static) {
    let work = Arc::new(Mutex::new(Some(work)));
    let taken = Arc::clone(&work);
    let run = move || {
        let work = taken.lock().take();
        if let Some(work) = work {
            work();
        }
    };
    // tokio panics if there is no thread for it. A panic of the work ends with its thread: it has been reported.
    match catch_unwind(AssertUnwindSafe(|| tokio::task::spawn_blocking(run))) {
        Ok(task) => drop(task.await),
        Err(_) => {
            let work = work.lock().take();
            if let Some(work) = work {
                let _ = catch_unwind(AssertUnwindSafe(work));
            }
        }
    }
}

/// The closures that a future has begun on `larder-ltx` threads.
#[derive(Clone, Debug, Default)]
pub(super) struct Closures(Arc<Running>);

#[derive(Debug, Default)]
struct Running {
    count: AtomicUsize,
    are_given_up: AtomicBool,
    /// Told when the count comes to zero.
    none: Notify,
}

tokio::task_local! {
    static BEGUN_BY: Closures;
}

thread_local! {
    /// Those that the closure on this thread is one of.
    static AMONG: RefCell<Option<Closures>> = const { RefCell::new(None) };
}

impl Closures {
    /// The future, whose closures are counted.
    pub(super) async fn of<T>(&self, future: impl Future<Output = T>) -> T {
        BEGUN_BY.scope(self.clone(), future).await
    }

    /// Tells those that go on that their result is not wanted, and waits until all have ended. Their future has been
    /// dropped, so no other one begins.
    pub(super) async fn give_up(&self) {
        self.0.are_given_up.store(true, Ordering::SeqCst);
        while self.0.count.load(Ordering::SeqCst) > 0 {
            self.0.none.notified().await;
        }
    }

    /// Whether the result of the closure that runs on this thread is not wanted any more.
    pub(super) fn is_given_up() -> bool {
        AMONG.with_borrow(|among| {
            among
                .as_ref()
                .is_some_and(|among| among.0.are_given_up.load(Ordering::SeqCst))
        })
    }

    /// The closure, counted from now on if a future counts the closures of this task.
    pub(super) fn counted<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
        let counted = BEGUN_BY.try_with(Counted::new).ok();
        move || {
            AMONG.set(counted.as_ref().map(|counted| counted.0.clone()));
            let done = work();
            drop(counted);
            done
        }
    }
}

/// One of the closures. It counts until it is dropped, also when it panics.
struct Counted(Closures);

impl Counted {
    fn new(closures: &Closures) -> Self {
        closures.0.count.fetch_add(1, Ordering::SeqCst);
        Self(closures.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        AMONG.set(None);
        if self.0.0.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.0.none.notify_one();
        }
    }
}

/// The runtime of this process, started if need be.
fn runtime() -> io::Result<Runtime> {
    let mut shared = SHARED.lock();
    if shared.process.is_left() {
        mem::forget(shared.runtime.take());
        shared.process = Process::current();
    }
    if shared.runtime.is_none() {
        shared.runtime = Some(start()?);
    }
    Ok(shared.runtime.clone().expect("it was just set"))
}

fn start() -> io::Result<Runtime> {
    forks::see();
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(POOL)
        .thread_name("larder-ltx")
        .build()?;
    let handle = runtime.handle().clone();
    let thread = thread::Builder::new().name("larder-replica".into());
    thread.spawn(move || {
        IS_REPLICA.set(true);
        runtime.block_on(pending::<()>());
    })?;
    Ok(Runtime {
        handle,
        heavy: Arc::new(Semaphore::new(HEAVY)),
    })
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Barrier;
    use std::time::Duration;

    use super::*;

    fn thread_name() -> String {
        thread::current().name().unwrap_or_default().to_owned()
    }

    #[test]
    fn future_runs_on_the_replica_thread() {
        assert_eq!(wait(async { thread_name() }).unwrap(), "larder-replica");
        let on_pool = wait(async { blocking(thread_name).await.unwrap() });
        assert_eq!(on_pool.unwrap(), "larder-ltx");
    }

    #[test]
    fn waiting_for_its_own_thread_is_an_error() {
        let inner = wait(async { wait(async { 1 }) }).unwrap();
        assert_eq!(inner.unwrap_err().kind(), io::ErrorKind::Deadlock);
    }

    #[test]
    fn panic_reaches_the_waiting_caller() {
        let panics = |future: fn() -> u32| {
            let result = catch_unwind(AssertUnwindSafe(|| wait(async move { future() })));
            *result.unwrap_err().downcast::<&str>().unwrap()
        };
        assert_eq!(panics(|| panic!("in the future")), "in the future");
        let work = catch_unwind(|| wait(async { blocking(|| panic!("in the work")).await }));
        assert_eq!(*work.unwrap_err().downcast::<&str>().unwrap(), "in the work");
        assert_eq!(wait(async { 7 }).unwrap(), 7, "the thread goes on");
    }

    #[test]
    fn heavy_work_may_wait_for_requests() {
        // Both places are taken by closures that wait for blocking operations of the runtime.
        let both = Arc::new(Barrier::new(HEAVY));
        let works: Vec<_> = (0..HEAVY)
            .map(|_| {
                let both = Arc::clone(&both);
                thread::spawn(move || {
                    wait(blocking(move || {
                        both.wait();
                        wait(async { tokio::task::spawn_blocking(thread_name).await.unwrap() }).unwrap()
                    }))
                })
            })
            .collect();
        for work in works {
            assert_eq!(work.join().unwrap().unwrap().unwrap(), "larder-ltx");
        }
    }

    #[test]
    fn closures_of_a_dropped_future_are_waited_for() {
        let (begun, began) = channel();
        let (release, released) = channel::<()>();
        let (end, ended) = channel();
        let closures = Closures::default();
        let of = closures.clone();
        let work = async move {
            let work = blocking(move || {
                begun.send(()).unwrap();
                released.recv().unwrap();
                while !Closures::is_given_up() {
                    thread::yield_now();
                }
                end.send(()).unwrap();
            });
            of.of(work).await
        };
        wait(async move {
            let mut work = Box::pin(work);
            while began.try_recv().is_err() {
                let moment = Box::pin(tokio::time::sleep(Duration::from_millis(1)));
                drop(futures_util::future::select(&mut work, moment).await);
            }
            drop(work);
            release.send(()).unwrap();
            closures.give_up().await;
            ended.try_recv().unwrap();
        })
        .unwrap();
    }

    #[test]
    fn timer_and_detached_task_run() {
        let (tell, told) = channel();
        spawn(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            tell.send(thread_name()).unwrap();
        })
        .unwrap();
        assert_eq!(told.recv_timeout(Duration::from_secs(60)).unwrap(), "larder-replica");
    }
}
