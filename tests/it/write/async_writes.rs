//! Async writes wait in one queue with those of threads, and time out at their deadlines.

use std::future::Future;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use larder::{Error, Options, Outcome, ReadOptions, Result, Store, WhenFull, WriteOptions};

use super::groups::Gate;
use crate::support::tasks::{
    Call, HeldRead, PATIENCE, TellTale, begin, finish, finish_if_woken, hear, ids, insert, inserting, many_threads,
    one_thread, poll, store_with,
};
use crate::support::{count, read_or_fail, write_or_fail};

fn brief(ms: u64) -> WriteOptions {
    WriteOptions::new().queue_timeout(Duration::from_millis(ms))
}

/// A write that has so long to be started, and says that it has run.
fn within(store: &Store, time: Duration) -> Call<()> {
    let options = WriteOptions::new().queue_timeout(time);
    Box::pin(store.write_async_with(options, |tx| insert(tx, 1).map(drop)))
}

#[track_caller]
fn assert_too_late<T: std::fmt::Debug>(result: Result<T>, at_least: Duration) {
    match result {
        Err(error @ Error::QueueTimeout { waited, .. }) => {
            assert!(waited >= at_least, "{waited:?}");
            assert_eq!((error.outcome(), error.is_retryable()), (Outcome::NotStarted, true));
        }
        other => panic!("{other:?}"),
    }
}

// ---- a full queue ----

/// The thread that the first task would block is the one that lets it go.
#[test]
fn task_waiting_for_room_blocks_no_thread() {
    let store = store_with(Options::new().queue_capacity(1));
    let gate = Gate::hold(&store);
    let mut queued = inserting(&store, 1);
    begin(&mut queued);
    one_thread().block_on(async {
        let in_line = tokio::spawn(inserting(&store, 2));
        let other = tokio::spawn(async move {
            tokio::task::yield_now().await;
            gate.open();
        });
        assert_eq!(in_line.await.unwrap().unwrap(), 2);
        other.await.unwrap();
    });
    assert_eq!(finish(queued).unwrap(), 1);
}

#[test]
fn tasks_are_served_in_order_of_first_polls() {
    for queue in [1, 3, 100] {
        let store = store_with(Options::new().queue_capacity(queue));
        let gate = Gate::hold(&store);
        let served = Arc::new(Mutex::new(Vec::new()));
        let mut tasks: Vec<Call<()>> = (0..20)
            .map(|place| {
                let served = Arc::clone(&served);
                let write = store.write_async(move |_| {
                    served.lock().unwrap().push(place);
                    Ok(())
                });
                Box::pin(write) as Call<()>
            })
            .collect();
        // Made in one order, asked in another.
        for task in tasks.iter_mut().rev() {
            begin(task);
        }
        gate.open();
        tasks.into_iter().for_each(|task| finish(task).unwrap());
        assert_eq!(*served.lock().unwrap(), (0..20).rev().collect::<Vec<_>>(), "{queue}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn tasks_and_threads_are_served_in_order() {
    use crate::queue::order::Watched;
    let store = store_with(Options::new().queue_capacity(2));
    let gate = Gate::hold(&store);
    let served = Arc::new(Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        let mut tasks = Vec::new();
        for place in 0..40 {
            let seen = Arc::clone(&served);
            let serve = move |_: &larder::WriteTx<'_>| {
                seen.lock().unwrap().push(place);
                Ok(())
            };
            if place % 2 == 0 {
                let mut task = Box::pin(store.write_async(serve));
                begin(&mut task);
                tasks.push(task);
                continue;
            }
            let (here, is_here) = std::sync::mpsc::channel();
            let store = &store;
            scope.spawn(move || {
                here.send(Watched::this_thread()).unwrap();
                // The two ways of a thread to stand in line.
                if place % 4 == 1 {
                    store.write(serve).unwrap();
                } else {
                    store.submit(serve).and_then(larder::Pending::wait).unwrap();
                }
            });
            hear(&is_here).wait_until_asleep();
        }
        gate.open();
        tasks.into_iter().for_each(|task| finish(task).unwrap());
    });
    assert_eq!(*served.lock().unwrap(), (0..40).collect::<Vec<_>>());
}

#[test]
fn full_queue_refuses_async_write_at_first_poll() {
    let store = store_with(Options::new().queue_capacity(1));
    let gate = Gate::hold(&store);
    let mut queued = inserting(&store, 1);
    begin(&mut queued);
    let (captured, dropped) = TellTale::new();
    let mut refused = Box::pin(store.write_async_with(write_or_fail(), move |_| {
        let _captured = captured;
        Ok(())
    }));
    let Poll::Ready(Err(error)) = poll(&mut refused) else {
        panic!("it does not wait");
    };
    assert!(matches!(error, Error::QueueFull { capacity: 1, .. }), "{error:?}");
    assert_eq!((error.outcome(), error.is_retryable()), (Outcome::NotStarted, true));
    dropped.try_recv().expect("its closure was dropped at once");
    let refused = poll(&mut Box::pin(
        store.write_async_with(brief(30).when_full(WhenFull::Fail), |_| Ok(())),
    ));
    assert!(
        matches!(refused, Poll::Ready(Err(Error::QueueFull { capacity: 1, .. }))),
        "it waits for no room, whatever its time"
    );
    gate.open();
    finish(queued).unwrap();
    finish(store.write_async_with(write_or_fail(), |tx| insert(tx, 2))).unwrap();
    assert_eq!(ids(&store), [1, 2]);
}

#[test]
fn full_queue_refuses_async_read_at_first_poll() {
    let store = store_with(Options::new().queue_capacity(1).readers(1));
    let held = HeldRead::hold(&store);
    let mut queued = Box::pin(store.read_async_with(read_or_fail(), |_| Ok(1)));
    begin(&mut queued);
    let labelled = read_or_fail().label("one more read");
    let Poll::Ready(Err(error)) = poll(&mut Box::pin(store.read_async_with(labelled, |_| Ok(2)))) else {
        panic!("it does not wait");
    };
    assert!(matches!(error, Error::QueueFull { capacity: 1, .. }), "{error:?}");
    let patient = ReadOptions::new().queue_timeout(PATIENCE);
    let refused = poll(&mut Box::pin(
        store.read_async_with(patient.when_full(WhenFull::Fail), |_| Ok(3)),
    ));
    assert!(
        matches!(refused, Poll::Ready(Err(Error::QueueFull { capacity: 1, .. }))),
        "it waits for no room, whatever its time"
    );
    // The writes have a queue of their own, and that is empty.
    store.write_with(write_or_fail(), |_| Ok(())).unwrap();
    held.let_go();
    assert_eq!(finish(queued).unwrap(), 1);
    assert!(!error.to_string().contains("write"), "{error}");
}

async fn ten_thousand_tasks(store: Store) {
    let runs = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..10_000)
        .map(|id| {
            let (store, runs) = (store.clone(), Arc::clone(&runs));
            tokio::spawn(store.write_async(move |tx| {
                runs.fetch_add(1, Ordering::SeqCst);
                insert(tx, id)
            }))
        })
        .collect();
    for (id, task) in (0..).zip(tasks) {
        assert_eq!(task.await.unwrap().unwrap(), id, "each gets its own reply");
    }
    assert_eq!(runs.load(Ordering::SeqCst), 10_000);
}

#[test]
fn ten_thousand_queued_tasks_finish_exactly_once_each() {
    for runtime in [one_thread(), many_threads()] {
        let store = store_with(Options::new().queue_capacity(16));
        runtime.block_on(ten_thousand_tasks(store.clone()));
        assert_eq!(count(&store), 10_000);
        assert_eq!(store.stats().failed_writes, 0);
    }
}

// ---- in time ----

/// Nobody but the alarm wakes it: the writer is stuck, and there is no other task.
#[test]
fn single_task_times_out_by_the_alarm() {
    for queue in [1, 100] {
        let store = store_with(Options::new().queue_capacity(queue));
        let gate = Gate::hold(&store);
        let mut queued = inserting(&store, 7);
        begin(&mut queued);
        let began = Instant::now();
        assert_too_late(
            finish(store.write_async_with(brief(30), |tx| insert(tx, 1))),
            Duration::from_millis(30),
        );
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        gate.open();
        finish(queued).unwrap();
        assert_eq!(ids(&store), [7]);
    }
}

/// `WhenFull::Fail` is about room in the queue alone: a call that found room waits there for its queue timeout.
#[test]
fn call_that_found_room_waits_for_queue_timeout() {
    let store = store_with(Options::new().readers(1));
    let (gate, held) = (Gate::hold(&store), HeldRead::hold(&store));
    let time = Duration::from_millis(30);
    let write = store.write_async_with(brief(30).when_full(WhenFull::Fail), |tx| insert(tx, 1));
    assert_too_late(finish(write), time);
    let read = finish(store.read_async_with(read_or_fail().queue_timeout(time), |_| Ok(())));
    assert!(
        matches!(read, Err(Error::ReadQueueTimeout { waited, .. }) if waited >= time),
        "{read:?}"
    );
    gate.open();
    held.let_go();
    store.write(|_| Ok(())).unwrap();
    assert_eq!(count(&store), 0);
}

#[test]
fn awaited_submitted_write_times_out() {
    let store = store_with(Options::new());
    let gate = Gate::hold(&store);
    let pending = store.submit_with(brief(30), |tx| insert(tx, 1)).unwrap();
    assert_too_late(finish(pending), Duration::from_millis(30));
    gate.open();
    store.write(|_| Ok(())).unwrap();
    assert_eq!(count(&store), 0);
}

#[test]
fn queue_timeout_of_options_applies_to_tasks() {
    let options = Options::new()
        .queue_timeout(Duration::from_millis(30))
        .read_queue_timeout(Duration::from_millis(40));
    let store = options.readers(1).open_temp().unwrap();
    let (gate, held) = (Gate::hold(&store), HeldRead::hold(&store));
    assert_too_late(finish(store.write_async(|_| Ok(()))), Duration::from_millis(30));
    let read = finish(store.read_async(|_| Ok(())));
    assert!(
        matches!(read, Err(Error::ReadQueueTimeout { waited, .. }) if waited >= Duration::from_millis(40)),
        "{read:?}"
    );
    gate.open();
    held.let_go();
}

#[test]
fn tasks_time_out_at_their_own_deadlines() {
    let store = store_with(Options::new().queue_capacity(2).readers(1));
    let (gate, held) = (Gate::hold(&store), HeldRead::hold(&store));
    let times = [400, 10, 200, 60, 10, 130, 300, 1].map(Duration::from_millis);
    one_thread().block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for time in times {
            let write = within(&store, time);
            tasks.spawn(async move { assert_too_late(write.await, time) });
            let read = store.read_async_with(ReadOptions::new().queue_timeout(time), |_| Ok(()));
            tasks.spawn(async move {
                let read = read.await;
                assert!(
                    matches!(read, Err(Error::ReadQueueTimeout { waited, .. }) if waited >= time),
                    "{read:?}"
                );
            });
        }
        let all = async { while tasks.join_next().await.transpose().unwrap().is_some() {} };
        tokio::time::timeout(PATIENCE, all).await.expect("each is told");
    });
    gate.open();
    held.let_go();
    assert_eq!(count(&store), 0);
}

#[test]
fn tasks_of_several_stores_each_time_out() {
    let stores: Vec<_> = (0..5).map(|_| store_with(Options::new())).collect();
    let gates: Vec<_> = stores.iter().map(Gate::hold).collect();
    one_thread().block_on(async {
        let tasks: Vec<_> = stores
            .iter()
            .zip([90, 70, 50, 30, 10].map(Duration::from_millis))
            .map(|(store, time)| (tokio::spawn(within(store, time)), time))
            .collect();
        for (task, time) in tasks {
            assert_too_late(task.await.unwrap(), time);
        }
    });
    gates.into_iter().for_each(Gate::open);
}

#[test]
fn deadline_passed_at_first_poll_is_reported() {
    let store = store_with(Options::new().readers(1));
    let (gate, held) = (Gate::hold(&store), HeldRead::hold(&store));
    for ns in [0, 1] {
        let time = Duration::from_nanos(ns);
        assert_too_late(finish(within(&store, time)), time);
        let options = ReadOptions::new().queue_timeout(time);
        let read = finish(store.read_async_with(options, |_| Ok(())));
        assert!(matches!(read, Err(Error::ReadQueueTimeout { .. })), "{read:?}");
    }
    gate.open();
    held.let_go();
    assert_eq!(count(&store), 0);
}

/// The writer reads its clock once for several jobs, so it may be a moment behind; the task and the table agree.
#[test]
fn write_with_zero_timeout_has_one_correct_reply() {
    let store = store_with(Options::new());
    let mut made = Vec::new();
    for id in 0..200 {
        match finish(store.write_async_with(brief(0), move |tx| insert(tx, id))) {
            Ok(id) => made.push(id),
            late => assert_too_late(late, Duration::ZERO),
        }
    }
    assert_eq!(ids(&store), made);
}

/// How a program that wants no time-out may say so.
const FOR_EVER: [Duration; 7] = [
    Duration::MAX,
    Duration::from_secs(u64::MAX),
    Duration::from_secs(i64::MAX as u64),
    Duration::from_secs(u32::MAX as u64),
    Duration::from_millis(u64::MAX),
    Duration::from_micros(u64::MAX),
    Duration::from_nanos(u64::MAX),
];

#[test]
fn endless_timeout_is_waited_out() {
    for time in FOR_EVER {
        let store = store_with(Options::new().readers(1));
        let (gate, held) = (Gate::hold(&store), HeldRead::hold(&store));
        let mut write = within(&store, time);
        let mut read = Box::pin(store.read_async_with(ReadOptions::new().queue_timeout(time), |_| Ok(())));
        begin(&mut write);
        begin(&mut read);
        gate.open();
        held.let_go();
        finish(write).unwrap();
        finish(read).unwrap();
        finish(store.read_async_with(ReadOptions::new().queue_timeout(time), |_| Ok(()))).unwrap();
        assert_eq!(count(&store), 1);
    }
}

/// The alarm is set for the earliest deadline. One that is centuries away must not be taken for an early one.
#[test]
fn task_with_endless_timeout_delays_no_other_deadline() {
    for time in FOR_EVER {
        let store = store_with(Options::new());
        let gate = Gate::hold(&store);
        let mut patient = within(&store, time);
        begin(&mut patient);
        let impatient = within(&store, Duration::from_millis(30));
        let told = finish_if_woken(impatient, PATIENCE);
        gate.open();
        finish(patient).unwrap();
        let told = told.unwrap_or_else(|| panic!("nobody wakes it, since another waits for {time:?}"));
        assert_too_late(told, Duration::from_millis(30));
    }
}

/// A waker is code of the runtime's.
#[test]
fn panicking_waker_delays_no_other_deadline() {
    struct PanicOnWake;
    impl Wake for PanicOnWake {
        fn wake(self: Arc<Self>) {
            resume_unwind(Box::new("woken"));
        }
    }
    let store = store_with(Options::new());
    let gate = Gate::hold(&store);
    let waker = Waker::from(Arc::new(PanicOnWake));
    let time = Duration::from_millis(100);
    let mut panicking = within(&store, time);
    assert!(
        Pin::new(&mut panicking)
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
    );
    // Late at the same ring, or at the one that is set after it.
    let told = finish_if_woken(within(&store, time), PATIENCE);
    let told_later = finish_if_woken(within(&store, time), PATIENCE);
    gate.open();
    assert_too_late(told_later.expect("it is woken"), time);
    assert_too_late(
        told.expect("it is woken, though another's waker panicked before it"),
        time,
    );
}

/// One thread woke the tasks of all stores at their deadlines. A waker that blocked held up the others for as long.
#[test]
fn blocking_waker_delays_no_other_stores_deadline() {
    struct Blocking(Mutex<Receiver<()>>, Sender<()>);
    impl Wake for Blocking {
        fn wake(self: Arc<Self>) {
            self.1.send(()).unwrap();
            let _ = self.0.lock().unwrap().recv();
        }
    }
    let (store, other) = (store_with(Options::new()), store_with(Options::new()));
    let (gate, other_gate) = (Gate::hold(&store), Gate::hold(&other));
    let (go_on, gone_on) = channel();
    let (blocks, is_blocking) = channel();
    let waker = Waker::from(Arc::new(Blocking(Mutex::new(gone_on), blocks)));
    let time = Duration::from_millis(20);
    let mut blocking = within(&store, time);
    assert!(
        Pin::new(&mut blocking)
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
    );
    hear(&is_blocking);
    let told = finish_if_woken(within(&other, time), PATIENCE);
    drop(go_on);
    gate.open();
    other_gate.open();
    assert_too_late(told.expect("it is woken while the other store's waker blocks"), time);
}

#[test]
fn tasks_with_short_timeouts_get_one_reply_each() {
    // Deadlines race with starts: whichever wins, the task and the table must agree.
    let store = store_with(Options::new().queue_capacity(4));
    let done = many_threads().block_on(async {
        let tasks: Vec<_> = (0..16_i64)
            .map(|task| {
                let store = store.clone();
                tokio::spawn(async move {
                    let mut done = Vec::new();
                    for id in (0..200).map(|n| task * 200 + n) {
                        let time = Duration::from_micros(20 + 37 * (id as u64 % 11));
                        let options = WriteOptions::new().queue_timeout(time);
                        match store.write_async_with(options, move |tx| insert(tx, id)).await {
                            Ok(inserted) => done.push(inserted),
                            Err(Error::QueueTimeout { .. }) => {}
                            Err(other) => panic!("{other:?}"),
                        }
                    }
                    done
                })
            })
            .collect();
        let mut done = Vec::new();
        for task in tasks {
            done.extend(tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap());
        }
        done
    });
    let mut done = done;
    done.sort_unstable();
    assert_eq!(ids(&store), done);
}
