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
//! A forked child has neither thread. Its first use leaks the parent's runtime and starts one of its own.

use std::cell::Cell;
use std::future::{Future, pending};
use std::io;
use std::panic::resume_unwind;
use std::sync::mpsc::channel;
use std::{mem, thread};

use tokio::runtime::{Builder, Handle};
use tokio::sync::Semaphore;

use crate::connection::forks;
use crate::runtime::fork::Process;
use crate::runtime::process_mutex::ProcessMutex;
use crate::runtime::sync::Arc;

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

/// Runs long work on a `larder-ltx` thread. Its panic is the caller's.
///
/// # Errors
///
/// The operating system refuses the thread.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let runtime = runtime()?;
    let permit = Arc::clone(&runtime.heavy).acquire_owned().await;
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
pub async fn short(work: impl FnOnce() + Send + 'static) {
    // A panic ends with its thread: it has been reported, and what the work owned is dropped.
    let _ = tokio::task::spawn_blocking(work).await;
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
