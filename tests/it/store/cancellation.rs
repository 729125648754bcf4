//! Futures that are dropped before they are ready: one test for each cell of the table in the documentation of `Store`.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use larder::rusqlite::{Connection, ffi};
use larder::{Error, Options, ReadTx, Result, Store, WriteTx};

use crate::support::tasks::{
    Call, Dice, ENDLESS, HeldRead, TellTale, begin, counting, finish, hear, ids, insert, inserting, many_threads,
    one_thread, poll, store_with,
};
use crate::support::{count, write_or_fail};
use crate::write::groups::Gate;

fn one_reader() -> Store {
    store_with(Options::new().readers(1))
}

/// The writer has finished everything that was asked for before.
fn catch_up(store: &Store) {
    store.write(|_| Ok(())).unwrap();
}

/// A write that says that it runs, and then waits to be told how to end.
fn held_write(store: &Store, end: Result<()>) -> (Call<TellTale>, Sender<()>, Receiver<()>) {
    let (result, dropped) = TellTale::new();
    let (running, runs) = channel();
    let (let_go, told) = channel::<()>();
    let mut write: Call<TellTale> = Box::pin(store.write_async(move |tx| {
        insert(tx, 1)?;
        running.send(()).unwrap();
        let _ = told.recv();
        end.map(|()| result)
    }));
    assert!(poll(&mut write).is_pending());
    hear(&runs);
    (write, let_go, dropped)
}

// ---- a write ----

#[test]
fn write_dropped_before_its_start_never_runs() {
    // In the queue, and in line for it.
    for queue in [100, 1] {
        let store = store_with(Options::new().queue_capacity(queue));
        let gate = Gate::hold(&store);
        let mut first = inserting(&store, 1);
        begin(&mut first);
        let captured = Arc::new(());
        let own = Arc::clone(&captured);
        let mut write = Box::pin(store.write_async(move |tx| {
            drop(own);
            insert(tx, 2)
        }));
        begin(&mut write);
        drop(write);
        assert_eq!(Arc::strong_count(&captured), 1, "what it captured goes at once");
        gate.open();
        assert_eq!(finish(first).unwrap(), 1);
        catch_up(&store);
        assert_eq!(ids(&store), [1]);
    }
}

#[test]
fn write_dropped_while_running_commits() {
    let store = store_with(Options::new());
    let (write, let_go, dropped) = held_write(&store, Ok(()));
    drop(write);
    drop(let_go);
    hear(&dropped);
    catch_up(&store);
    assert_eq!(ids(&store), [1]);
}

#[test]
fn failing_write_dropped_while_running_rolls_back() {
    let store = store_with(Options::new());
    let (write, let_go, dropped) = held_write(&store, Err(Error::app("no")));
    drop(write);
    drop(let_go);
    hear(&dropped);
    catch_up(&store);
    assert_eq!(count(&store), 0);
    assert_eq!(store.stats().failed_writes, 1);
}

#[test]
fn write_dropped_when_done_is_committed() {
    let store = store_with(Options::new());
    let (write, let_go, dropped) = held_write(&store, Ok(()));
    drop(let_go);
    catch_up(&store);
    assert!(dropped.try_recv().is_err(), "its result waits for the task");
    drop(write);
    hear(&dropped);
    assert_eq!(ids(&store), [1]);
}

#[test]
fn write_leaving_the_line_keeps_the_order() {
    // One, some, and so many that the line is swept.
    for leaving in [1, 7, 300] {
        let store = store_with(Options::new().queue_capacity(1));
        let gate = Gate::hold(&store);
        let served = Arc::new(Mutex::new(Vec::new()));
        let mut staying = Vec::new();
        let mut gone = Vec::new();
        for place in 0..leaving + 10 {
            let served = Arc::clone(&served);
            let mut write = Box::pin(store.write_async(move |_: &WriteTx<'_>| {
                served.lock().unwrap().push(place);
                Ok(())
            }));
            begin(&mut write);
            if place % 2 == 1 && gone.len() < leaving || place >= 20 {
                gone.push(write);
            } else {
                staying.push((place, write));
            }
        }
        drop(gone);
        gate.open();
        let (places, writes): (Vec<_>, Vec<_>) = staying.into_iter().unzip();
        writes.into_iter().for_each(|write| finish(write).unwrap());
        assert_eq!(*served.lock().unwrap(), places);
    }
}

#[test]
fn tasks_that_give_up_leave_room_for_others() {
    let store = store_with(Options::new().queue_capacity(4));
    let gate = Gate::hold(&store);
    for _ in 0..1000 {
        let mut write = Box::pin(store.write_async(|_| -> Result<()> { panic!("it was dropped") }));
        begin(&mut write);
    }
    let mut patient = inserting(&store, 1);
    begin(&mut patient);
    gate.open();
    assert_eq!(finish(patient).unwrap(), 1);
}

// ---- a read ----

#[test]
fn read_dropped_before_its_start_never_runs() {
    for queue in [100, 1] {
        let store = store_with(Options::new().readers(1).queue_capacity(queue));
        let held = HeldRead::hold(&store);
        let mut first = counting(&store);
        begin(&mut first);
        let captured = Arc::new(());
        let own = Arc::clone(&captured);
        let (run, has_run) = channel();
        let mut read = Box::pin(store.read_async(move |_| {
            drop(own);
            run.send(()).unwrap();
            Ok(())
        }));
        begin(&mut read);
        drop(read);
        assert_eq!(Arc::strong_count(&captured), 1, "what it captured goes at once");
        held.let_go();
        assert_eq!(finish(first).unwrap(), 0);
        assert_eq!(finish(counting(&store)).unwrap(), 0);
        assert!(has_run.recv().is_err());
    }
}

/// Its reader thread has taken it, and waits for a connection.
#[test]
fn read_dropped_while_waiting_for_connection_never_runs() {
    let store = one_reader();
    let (all_in, release) = (Barrier::new(2), Barrier::new(2));
    let captured = Arc::new(());
    thread::scope(|scope| {
        scope.spawn(|| {
            store.read(|_| {
                all_in.wait();
                release.wait();
                Ok(())
            })
        });
        all_in.wait();
        for _ in 0..10 {
            let own = Arc::clone(&captured);
            let mut read = Box::pin(store.read_async(move |_| -> Result<()> {
                let _own = own;
                panic!("it was dropped")
            }));
            begin(&mut read);
            thread::yield_now();
            drop(read);
            assert_eq!(Arc::strong_count(&captured), 1, "what it captured goes at once");
        }
        let mut patient = counting(&store);
        begin(&mut patient);
        release.wait();
        assert_eq!(finish(patient).unwrap(), 0);
    });
}

/// The ways in which a read can go on for ever in SQL. Each gives the error that stopped it.
const FOR_EVER: [fn(&ReadTx<'_>) -> Error; 6] = [
    |tx| tx.query_row(ENDLESS, [], |_| Ok(())).unwrap_err(),
    |tx| {
        let conn: &Connection = tx;
        conn.query_row(ENDLESS, [], |_| Ok(())).unwrap_err().into()
    },
    |tx| {
        loop {
            if let Err(error) = tx.query_row("SELECT 1", [], |_| Ok(())) {
                return error;
            }
        }
    },
    |tx| {
        let conn: &Connection = tx;
        let mut statement = conn.prepare("SELECT count(*) FROM t").unwrap();
        loop {
            if let Err(error) = statement.query_row([], |_| Ok(())) {
                return error.into();
            }
        }
    },
    // Prepared again each time, it comes to no progress handler.
    |tx| {
        let conn: &Connection = tx;
        loop {
            if let Err(error) = conn.query_row("SELECT 1", [], |_| Ok(())) {
                return error.into();
            }
        }
    },
    |tx| {
        let mut statement = tx.prepare_cached("SELECT 1").unwrap();
        loop {
            thread::sleep(Duration::from_millis(10));
            if let Err(error) = statement.query_row([], |_| Ok(())) {
                return error.into();
            }
        }
    },
];

/// A read that runs, and goes on for ever.
fn endless_read(store: &Store, how: fn(&ReadTx<'_>) -> Error) -> (Call<()>, Receiver<Error>) {
    let (running, runs) = channel();
    let (stopped, is_stopped) = channel();
    let mut read: Call<()> = Box::pin(store.read_async(move |tx| {
        running.send(()).unwrap();
        stopped.send(how(tx)).unwrap();
        Ok(())
    }));
    begin(&mut read);
    hear(&runs);
    (read, is_stopped)
}

#[test]
fn read_dropped_while_running_is_interrupted() {
    for how in FOR_EVER {
        let store = one_reader();
        let (read, stopped) = endless_read(&store, how);
        drop(read);
        let error = hear(&stopped);
        let code = error
            .sqlite()
            .and_then(|error| error.sqlite_error())
            .map(|e| e.extended_code);
        assert_eq!(code, Some(ffi::SQLITE_INTERRUPT), "{error:?}");
        assert_eq!(finish(counting(&store)).unwrap(), 0);
        assert!(store.close().unwrap().wal_truncated);
    }
}

#[test]
fn interrupt_does_not_reach_next_read_on_connection() {
    let store = one_reader();
    for round in 0..200 {
        let (read, stopped) = endless_read(&store, FOR_EVER[round % FOR_EVER.len()]);
        drop(read);
        // Either may be the next one; a statement each, and one of some length.
        if round % 2 == 0 {
            let long =
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 20000) SELECT max(i) FROM n";
            let read = store.read_async(move |tx| tx.query_row(long, [], |row| row.get::<_, i64>(0)));
            assert_eq!(finish(read).unwrap(), 20_000);
        } else {
            assert_eq!(count(&store), 0);
        }
        hear(&stopped);
    }
}

#[test]
fn interrupt_does_not_reach_neighbour_in_queue() {
    let store = one_reader();
    let held = HeldRead::hold(&store);
    let mut before = counting(&store);
    begin(&mut before);
    let (running, runs) = channel();
    let mut endless = Box::pin(store.read_async(move |tx| {
        running.send(()).unwrap();
        tx.query_row(ENDLESS, [], |_| Ok(()))
    }));
    begin(&mut endless);
    let mut after: Vec<_> = (0..10).map(|_| counting(&store)).collect();
    after.iter_mut().for_each(begin);
    held.let_go();
    hear(&runs);
    drop(endless);
    assert_eq!(finish(before).unwrap(), 0);
    after.into_iter().for_each(|read| assert_eq!(finish(read).unwrap(), 0));
}

/// The drop meets the read before its start, at any moment of it, and after its end.
#[test]
fn read_dropped_at_any_moment_harms_no_other() {
    let store = one_reader();
    let some = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 3000) SELECT max(i) FROM n";
    let mut dice = Dice::new(7);
    for _ in 0..2000 {
        let mut read = Box::pin(store.read_async(move |tx| tx.query_row(some, [], |_| Ok(()))));
        let _ = poll(&mut read);
        for _ in 0..dice.roll(20) * 1000 {
            std::hint::spin_loop();
        }
        drop(read);
        let next = store.read_async(move |tx| tx.query_row(some, [], |row| row.get::<_, i64>(0)));
        assert_eq!(finish(next).unwrap(), 3000);
    }
}

#[test]
fn read_dropped_when_done_drops_its_result() {
    let store = one_reader();
    let held = HeldRead::hold(&store);
    let (result, dropped) = TellTale::new();
    let mut read = Box::pin(store.read_async(move |_| Ok(result)));
    assert!(poll(&mut read).is_pending());
    held.let_go();
    // It was asked for later, and there is one thread.
    finish(counting(&store)).unwrap();
    assert!(dropped.try_recv().is_err(), "its result waits for the task");
    drop(read);
    hear(&dropped);
}

#[test]
fn read_dropped_while_running_drops_its_result_later() {
    let store = one_reader();
    let (result, dropped) = TellTale::new();
    let (running, runs) = channel();
    let (let_go, told) = channel::<()>();
    let mut read = Box::pin(store.read_async(move |_| {
        running.send(()).unwrap();
        let _ = told.recv();
        Ok(result)
    }));
    assert!(poll(&mut read).is_pending());
    hear(&runs);
    drop(read);
    assert!(dropped.try_recv().is_err(), "Rust code is not interrupted");
    drop(let_go);
    hear(&dropped);
}

// ---- closing ----

#[test]
fn close_dropped_before_its_start_leaves_store_open() {
    let store = store_with(Options::new());
    drop(store.close_async());
    finish(inserting(&store, 1)).unwrap();
    assert_eq!(finish(counting(&store)).unwrap(), 1);
}

#[test]
fn close_dropped_while_running_continues() {
    let store = store_with(Options::new().queue_capacity(1));
    let gate = Gate::hold(&store);
    let mut queued = inserting(&store, 1);
    begin(&mut queued);
    let mut closing = Box::pin(store.close_async());
    begin(&mut closing);
    // It is on its way, on a thread of its own.
    while !matches!(store.write_with(write_or_fail(), |_| Ok(())), Err(Error::Closed)) {
        thread::yield_now();
    }
    drop(closing);
    gate.open();
    assert_eq!(finish(queued).unwrap(), 1);
    let report = store.close().unwrap();
    assert!(report.wal_truncated, "{report}");
    assert_eq!(report.finished, 2, "the first close has set the hour");
}

#[test]
fn close_dropped_when_done_has_closed() {
    let store = store_with(Options::new());
    let mut closing = Box::pin(store.close_async());
    let _ = poll(&mut closing);
    let report = finish(store.close_async()).unwrap();
    drop(closing);
    assert_eq!(store.close().unwrap(), report);
    assert!(matches!(finish(counting(&store)), Err(Error::Closed)));
}

// ---- as programs do it ----

#[test]
fn runtime_timeout_select_and_abort_drop_the_call() {
    let store = one_reader();
    let (gate, held) = (Gate::hold(&store), HeldRead::hold(&store));
    one_thread().block_on(async {
        let soon = Duration::from_millis(10);
        assert!(tokio::time::timeout(soon, inserting(&store, 1)).await.is_err());
        assert!(tokio::time::timeout(soon, counting(&store)).await.is_err());
        tokio::select! {
            biased;
            _ = inserting(&store, 2) => panic!("the writer is held"),
            _ = counting(&store) => panic!("the reader is held"),
            () = tokio::task::yield_now() => {}
        }
        let spawned = tokio::spawn(inserting(&store, 3));
        tokio::task::yield_now().await;
        spawned.abort();
        assert!(spawned.await.unwrap_err().is_cancelled());
    });
    gate.open();
    held.let_go();
    catch_up(&store);
    assert_eq!(finish(counting(&store)).unwrap(), 0);
}

#[test]
fn dropped_runtime_drops_its_tasks_calls() {
    for runtime in [one_thread(), many_threads()] {
        let store = one_reader();
        let (gate, held) = (Gate::hold(&store), HeldRead::hold(&store));
        let captured = Arc::new(());
        for id in 0..10 {
            let own = Arc::clone(&captured);
            runtime.spawn(store.write_async(move |tx| {
                drop(own);
                insert(tx, id)
            }));
            let own = Arc::clone(&captured);
            runtime.spawn(store.read_async(move |_| {
                drop(own);
                Ok(())
            }));
        }
        runtime.block_on(tokio::task::yield_now());
        drop(runtime);
        assert_eq!(Arc::strong_count(&captured), 1);
        gate.open();
        held.let_go();
        catch_up(&store);
        assert_eq!(finish(counting(&store)).unwrap(), 0);
    }
}
