//! The store works in the destructor of a thread-local, while its thread ends.
//!
//! A panic in such a destructor aborts the process, so each case runs in a separate process.

use std::cell::RefCell;
use std::path::Path;
use std::thread;
use std::time::Duration;

use larder::{Options, Pending, ReadOptions, Store, WriteOptions, WriteTx};
use tempfile::tempdir;

use crate::support::child::{self, Child, tell};
use crate::support::{count, write_or_fail};
use crate::write::groups::Gate;

thread_local! {
    static AT_END: RefCell<Option<AtEnd>> = const { RefCell::new(None) };
}

type Call = Box<dyn FnOnce()>;

/// Calls it as it is dropped.
struct AtEnd(Option<Call>);

impl Drop for AtEnd {
    fn drop(&mut self) {
        if let Some(call) = self.0.take() {
            call();
        }
    }
}

/// Has it called as this thread ends, after the destructors of the thread-locals that are used from now on.
fn at_end(call: impl FnOnce() + 'static) {
    AT_END.set(Some(AtEnd(Some(Box::new(call)))));
}

fn insert(tx: &WriteTx<'_>) -> larder::Result<usize> {
    tx.execute("INSERT INTO t VALUES (NULL)", [])
}

fn open(path: &Path) -> Store {
    // No caller stays awake: each one sleeps.
    let store = Options::new().spin_time(Duration::ZERO).open(path).unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY) STRICT"))
        .unwrap();
    store
}

/// Uses what a call uses of its thread, so that it has been destroyed when the call comes.
fn use_all(store: &Store) {
    store.write(insert).unwrap();
    store.submit(insert).unwrap().wait().unwrap();
    count(store);
    store.stats();
    tracing::info!(target: "test", "formatted on this thread");
}

/// Begins to sleep for its reply.
fn held(store: &Store) -> Pending<usize> {
    let gate = Gate::hold(store);
    let pending = store.submit(insert).unwrap();
    thread::spawn(move || gate.open());
    pending
}

fn call(name: &str, store: Store) {
    let folder = store.path().parent().unwrap().to_owned();
    match name {
        "write" => assert_eq!(store.write(insert).unwrap(), 1),
        "write_with" => {
            let options = WriteOptions::new().label("at the end").queue_timeout(child::PATIENCE);
            assert_eq!(store.write_with(options, insert).unwrap(), 1);
        }
        "write or fail" => assert_eq!(store.write_with(write_or_fail(), insert).unwrap(), 1),
        "wait" => assert_eq!(held(&store).wait().unwrap(), 1),
        "wait_timeout" => {
            let gate = Gate::hold(&store);
            let mut pending = store.submit(insert).unwrap();
            assert!(pending.wait_timeout(Duration::from_millis(10)).is_none());
            thread::spawn(move || gate.open());
            let result = loop {
                if let Some(result) = pending.wait_timeout(Duration::from_millis(10)) {
                    break result;
                }
            };
            assert_eq!(result.unwrap(), 1);
        }
        "submit in line" => {
            let narrow = Options::new()
                .queue_capacity(1)
                .spin_time(Duration::ZERO)
                .open(folder.join("narrow.db"))
                .unwrap();
            narrow
                .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY)"))
                .unwrap();
            let gate = Gate::hold(&narrow);
            let first = narrow.submit(insert).unwrap();
            thread::spawn(move || gate.open());
            let second = narrow.submit(insert).unwrap();
            first.wait().unwrap();
            second.wait().unwrap();
        }
        "read" => assert!(count(&store) > 0),
        "read that waits" => {
            let narrow = Options::new().readers(1).open(folder.join("narrow.db")).unwrap();
            let (running, runs) = std::sync::mpsc::channel();
            let other = narrow.clone();
            let reads = thread::spawn(move || {
                other
                    .read(|_| {
                        running.send(()).unwrap();
                        thread::sleep(Duration::from_millis(100));
                        Ok(())
                    })
                    .unwrap();
            });
            runs.recv().unwrap();
            narrow
                .read_with(ReadOptions::new().queue_timeout(child::PATIENCE), |_| Ok(()))
                .unwrap();
            reads.join().unwrap();
        }
        "panic" => {
            let panics = || store.write::<(), _>(|_| std::panic::resume_unwind(Box::new("its own")));
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).unwrap_err();
        }
        "maintenance" => {
            assert!(store.check().run().unwrap().is_ok());
            store.vacuum().run().unwrap();
            store.advice();
            let backup = folder.join("backup.db");
            store.backup(&backup).run().unwrap();
            Store::restore(&backup, folder.join("restored.db")).unwrap();
            let schedule = store.backup_every(Duration::from_secs(60), 1, &folder).unwrap();
            drop(schedule);
        }
        "open" => drop(open(&folder.join("other.db"))),
        "close" => assert!(store.close().unwrap().wal_truncated),
        "last drop" => drop(store),
        #[cfg(feature = "async")]
        "poll" => {
            use std::future::Future;
            use std::task::{Context, Poll, Waker};
            let mut calls: Vec<std::pin::Pin<Box<dyn Future<Output = larder::Result<i64>>>>> = vec![
                Box::pin(store.write_async(|tx| Ok(insert(tx)? as i64))),
                Box::pin(store.read_async(|tx| tx.query_row("SELECT 1", [], |row| row.get(0)))),
            ];
            for call in &mut calls {
                let result = loop {
                    if let Poll::Ready(result) = call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                        break result;
                    }
                    thread::yield_now();
                };
                assert_eq!(result.unwrap(), 1);
            }
            drop(store.write_async(insert));
        }
        other => panic!("no call {other:?}"),
    }
}

pub(crate) fn child(task: &child::Task) {
    let path = Path::new(&task.args[0]);
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let store = open(path);
    let name = task.role.clone();
    let run = move || {
        let inside = store.clone();
        at_end(move || {
            call(&name, inside);
            tell("done");
        });
        use_all(&store);
        drop(store);
    };
    thread::spawn(run).join().unwrap();
}

#[track_caller]
fn works_at_the_end(names: &[&str]) {
    for name in names {
        let folder = tempdir().unwrap();
        let path = folder.path().join("app.db");
        let child = Child::start("process::thread_locals", name, &[path.to_str().unwrap()]);
        assert_eq!(child.next().as_deref(), Some("done"), "{name}");
        child.finish();
    }
}

/// The write took its waker from a thread-local of larder's, which had been destroyed. The process aborted.
#[test]
fn write_in_destructor_of_thread_local_succeeds() {
    works_at_the_end(&[
        "write",
        "write_with",
        "write or fail",
        "wait",
        "wait_timeout",
        "submit in line",
    ]);
}

#[test]
fn read_in_destructor_of_thread_local_succeeds() {
    works_at_the_end(&["read", "read that waits"]);
}

#[test]
fn closure_panic_in_thread_local_destructor_is_caught() {
    works_at_the_end(&["panic"]);
}

#[test]
fn maintenance_in_destructor_of_thread_local_succeeds() {
    works_at_the_end(&["maintenance"]);
}

#[test]
fn opening_in_destructor_of_thread_local_succeeds() {
    works_at_the_end(&["open", "close", "last drop"]);
}

#[cfg(feature = "async")]
#[test]
fn polling_in_destructor_of_thread_local_succeeds() {
    works_at_the_end(&["poll"]);
}
