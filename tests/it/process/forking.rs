//! A process that forks without `exec` while a store is open. The child has no writer thread and shares the parent's
//! files: its calls fail at once, and it does no harm.

use crate::support::{RaiseOnDrop, write_or_fail};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::channel;
use std::time::Duration;
use std::{fs, thread};

use larder::{Access, Error, Options, Outcome, Result, Store, WriteOptions};
use tempfile::tempdir;

#[cfg(feature = "replicate")]
use crate::support::child::PATIENCE;
use crate::support::child::{self, Child, has_python, tell};
use crate::support::fork::{end_child, fork_here, in_forked_child, with_lock_of_open_files};
use crate::support::stalls::unless_stalled;

const SIGABRT: i32 = 6;
const LOCKED: &str = "database is locked";

fn open(path: &Path, access: Access) -> Result<Store> {
    // Far longer than a test takes: nothing in the child waits for one of these.
    let long = Duration::from_secs(600);
    let options = Options::new()
        .queue_timeout(long)
        .read_queue_timeout(long)
        .close_timeout(long);
    options.access(access).open(path)
}

fn insert(store: &Store) -> Result<i64> {
    store.write(|tx| tx.insert("INSERT INTO t VALUES (NULL)", []))
}

fn count(store: &Store) -> i64 {
    store
        .read(|tx| tx.query_row("SELECT count(*) FROM t", [], |row| row.get(0)))
        .unwrap()
}

fn access_of(name: &str) -> Access {
    if name == "Exclusive" {
        Access::Exclusive
    } else {
        Access::Shared
    }
}

/// Has a process open a store and fork, and looks how the child ended. Then another process looks at the database, as a
/// last connection would delete the log; the parent writes on, and is killed. Nothing that was acknowledged is lost.
fn fork_in(role: &str, access: Access, expected_status: i32) {
    if !has_python() {
        return;
    }
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let path = path.to_str().unwrap();
    let mut parent = Child::start("process::forking", role, &[path, &format!("{access:?}")]);
    let status: i32 = parent.line().parse().unwrap();
    assert_eq!(status & 0xff7f, expected_status, "{role}, {access:?}");
    let rows: i64 = parent.line().parse().unwrap();
    let look = "
try:
    conn = sqlite3.connect(args[0], timeout=float(args[1]))
    tell(conn.execute('SELECT count(*) FROM t').fetchone()[0])
    conn.close()
except sqlite3.OperationalError as error:
    tell(error)
";
    let seen = || {
        let python = Child::python(look, &[path, "0.1"]);
        let seen = python.line();
        python.finish();
        seen
    };
    match access {
        // The parent may have a lock for a moment, which a slow machine makes long.
        Access::Shared => unless_stalled(Duration::from_millis(50), || match seen() {
            locked if locked == LOCKED => Err(locked),
            seen => {
                assert_eq!(seen, rows.to_string(), "{role}");
                Ok(())
            }
        }),
        _ => assert_eq!(seen(), LOCKED, "{role}"),
    }
    parent.say("go on");
    parent.expect(&(rows + 100).to_string());
    parent.kill();
    let store = open(Path::new(path), Access::Shared).unwrap();
    assert_eq!(count(&store), rows + 100);
    assert!(store.check().run().unwrap().is_ok());
}

/// A write in a forked child waited for its queue time-out, since nobody took it; a drop waited for the close time-out.
#[test]
fn calls_in_forked_child_fail_at_once() {
    fork_in("calls", Access::Shared, 0);
    fork_in("calls", Access::Exclusive, 0);
}

#[test]
fn drop_in_forked_child_keeps_parents_locks() {
    fork_in("drop", Access::Shared, 0);
    fork_in("drop", Access::Exclusive, 0);
}

/// The child would have gone on as the writer thread, and committed the parent's transaction a second time.
#[test]
fn write_closure_returning_in_forked_child_exits() {
    fork_in("closure of a write", Access::Shared, SIGABRT);
    fork_in("closure of a write", Access::Exclusive, SIGABRT);
    fork_in("closure of a lone write", Access::Shared, SIGABRT);
}

#[test]
fn read_closure_returning_in_forked_child_is_harmless() {
    fork_in("closure of a read", Access::Shared, 0);
    fork_in("closure of a read", Access::Exclusive, 0);
}

/// SQLite's mutexes were copied while other threads had them, and the child waited for them for ever.
#[test]
fn child_of_busy_process_opens_own_store() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let parent = Child::start("process::forking", "busy", &[path.to_str().unwrap(), "Shared"]);
    for n in 0..FORKS {
        assert_eq!(parent.line(), "0", "of child {n}");
    }
    parent.finish();
}

/// A thread that stays inside SQLite, as in a file system that hangs, neither keeps the process from forking nor the
/// child from answering.
#[test]
fn lock_left_in_child_is_an_error() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let parent = Child::start(
        "process::forking",
        "stuck in SQLite",
        &[path.to_str().unwrap(), "Shared"],
    );
    parent.expect("0");
    parent.finish();
}

/// A callback that SQLite calls under its mutex forks: the child has the mutex itself, and releases it.
#[test]
fn fork_under_lock_of_sqlite_goes_on() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let parent = Child::start("process::forking", "inside SQLite", &[path.to_str().unwrap(), "Shared"]);
    parent.expect("0");
    parent.finish();
}

/// The threads of replication stay in the parent. The child has its own for its own stores.
#[cfg(feature = "replicate")]
#[test]
fn child_of_replicated_store_replicates_its_own() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let parent = Child::start("process::forking", "replicated", &[path.to_str().unwrap(), "Shared"]);
    parent.expect("0");
    parent.finish();
}

/// How often a busy process forks.
const FORKS: usize = 200;

fn create(path: &Path, access: Access) -> Store {
    let store = open(path, access).unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY)"))
        .unwrap();
    insert(&store).unwrap();
    store
}

/// Reads often enough for the connection that holds a snapshot for the readers to open, on a timer thread.
fn read_often(store: &Store) {
    for _ in 0..500 {
        assert_eq!(count(store), 1);
    }
}

/// Forks while threads read, write, open stores and close them.
fn fork_often(path: &Path, store: &Store) {
    let done = AtomicBool::new(false);
    let while_needed = |mut work: Box<dyn FnMut() + Send + '_>| {
        while !done.load(Relaxed) {
            work();
        }
    };
    thread::scope(|scope| {
        let _over = RaiseOnDrop(&done);
        for _ in 0..2 {
            scope.spawn(|| while_needed(Box::new(|| assert!(count(store) > 0))));
        }
        scope.spawn(|| while_needed(Box::new(|| assert!(insert(store).is_ok()))));
        scope.spawn(|| {
            let path = path.with_extension("other");
            drop(create(&path, Access::Shared));
            while_needed(Box::new(move || read_often(&open(&path, Access::Shared).unwrap())));
        });
        for _ in 0..FORKS {
            let own = path.with_extension("own");
            tell(in_forked_child(|| use_own(&own)));
            // Whatever of them the child has left.
            for suffix in ["", "-wal", "-shm"] {
                let _ = fs::remove_file(format!("{}{suffix}", own.display()));
            }
        }
    });
}

/// Forks while another thread has one of SQLite's mutexes and does not release it.
fn fork_beside_stuck(path: &Path) {
    let (holds, held) = channel();
    let (release, released) = channel::<()>();
    let stuck = thread::spawn(move || {
        with_lock_of_open_files(|| {
            holds.send(()).unwrap();
            let _ = released.recv();
        });
    });
    held.recv().unwrap();
    tell(in_forked_child(|| {
        let error = open(&path.with_extension("own"), Access::Shared).unwrap_err();
        assert!(error.to_string().contains("forked while another thread"), "{error}");
        assert_eq!(error.outcome(), Outcome::NotStarted);
    }));
    drop(release);
    stuck.join().unwrap();
    use_own(&path.with_extension("own"));
}

/// Forks while this thread has one of SQLite's mutexes.
fn fork_inside(path: &Path) {
    match with_lock_of_open_files(fork_here) {
        None => end_child(|| use_own(&path.with_extension("own"))),
        Some(child) => tell(child.wait()),
    }
    use_own(&path.with_extension("another"));
}

#[cfg(feature = "replicate")]
fn look(replica: &Path) -> Vec<larder::RestoreSpan> {
    let replica = larder::Replica::open(replica.to_str().unwrap()).unwrap();
    replica.points().unwrap()
}

/// Forks while the store is replicated, by threads of its process.
#[cfg(feature = "replicate")]
fn fork_replicated(path: &Path) {
    let replicated = |name: &str| {
        let replica = path.with_extension(format!("{name}-storage"));
        let options = Options::new().replicate_to(replica.to_str().unwrap());
        let store = options.open(path.with_extension(name)).unwrap();
        store
            .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY)"))
            .unwrap();
        store
    };
    // The first use of the threads, before any of SQLite.
    let nowhere = path.with_extension("nowhere");
    assert!(look(&nowhere).is_empty());
    assert_eq!(in_forked_child(|| assert!(look(&nowhere).is_empty())), 0);
    let store = replicated("parents");
    let handle = store.replica().unwrap();
    for n in 1..=20 {
        insert(&store).unwrap();
        let ended = in_forked_child(|| {
            let errors = [store.replica().err(), handle.flush(PATIENCE).err()];
            for error in errors {
                assert!(matches!(error, Some(Error::Forked { .. })), "{error:?}");
            }
            let own = replicated(&format!("childs-{n}"));
            insert(&own).unwrap();
            own.replica().unwrap().flush(PATIENCE).unwrap();
            assert_eq!(own.close().unwrap().replicated, Some(true));
            drop(store.clone());
        });
        assert_eq!(ended, 0, "child {n}");
    }
    handle.flush(PATIENCE).unwrap();
    assert_eq!(store.close().unwrap().replicated, Some(true));
    tell(0);
}

pub(crate) fn child(task: &child::Task) {
    let path = Path::new(&task.args[0]);
    #[cfg(feature = "replicate")]
    if task.role == "replicated" {
        return fork_replicated(path);
    }
    let store = create(path, access_of(&task.args[1]));
    match task.role.as_str() {
        "busy" => return fork_often(path, &store),
        "stuck in SQLite" => return fork_beside_stuck(path),
        "inside SQLite" => return fork_inside(path),
        _ => read_often(&store),
    }
    match task.role.as_str() {
        "calls" => {
            let pending = store.submit(|tx| tx.insert("INSERT INTO t VALUES (NULL)", [])).unwrap();
            let ended = in_forked_child(|| {
                let error = pending.wait().unwrap_err();
                assert!(matches!(error, Error::Forked { .. }), "{error:?}");
                assert_eq!(error.outcome(), Outcome::Unknown);
                use_in_child(&store, path);
                drop(store.clone());
            });
            tell(ended);
        }
        "drop" => match fork_here() {
            None => end_child(|| drop(store)),
            Some(child) => tell(child.wait()),
        },
        "closure of a write" => {
            let pending = store.submit(|tx| {
                tx.insert("INSERT INTO t VALUES (NULL)", [])?;
                let forked = fork_here();
                Ok(forked.map(|child| child.wait()))
            });
            tell(pending.unwrap().wait().unwrap().expect("this is the parent"));
        }
        "closure of a lone write" => {
            // Most likely on this thread, which is then the only one in the child.
            let forked = store.write(|tx| {
                tx.insert("INSERT INTO t VALUES (NULL)", [])?;
                Ok(fork_here().map(|child| child.wait()))
            });
            tell(forked.unwrap().expect("this is the parent"));
        }
        "closure of a read" => {
            let forked = store.read(|_| Ok(fork_here())).unwrap();
            match forked {
                None => end_child(|| use_in_child(&store, path)),
                Some(child) => tell(child.wait()),
            }
        }
        other => panic!("no role {other:?}"),
    }
    tell(insert(&store).unwrap());
    assert_eq!(child::listen(), "go on");
    for _ in 0..100 {
        insert(&store).unwrap();
    }
    tell(count(&store));
    child::listen();
}

/// Each call says that it is in a forked child. A store of the child's own works.
fn use_in_child(store: &Store, path: &Path) {
    #[track_caller]
    fn refused<T>(result: Result<T>) {
        let error = result.err().expect("it is refused");
        assert!(matches!(error, Error::Forked { .. }), "{error:?}");
        assert_eq!(error.outcome(), Outcome::NotStarted);
        assert!(!error.is_retryable());
        assert!(error.to_string().contains("forked"), "{error}");
    }
    refused(insert(store));
    refused(store.write_with(write_or_fail(), |_| Ok(())));
    refused(store.write_with(WriteOptions::new(), |_| Ok(())));
    refused(store.submit(|_| Ok(())).map(drop));
    refused(store.read(|_| Ok(())));
    #[cfg(feature = "async")]
    {
        refused(futures_executor::block_on(store.write_async(|_| Ok(()))));
        refused(futures_executor::block_on(store.read_async(|_| Ok(()))));
        let mut stream = store.read_stream::<(i64,)>("SELECT 1", []);
        refused(futures_executor::block_on(stream.next()).expect("an error"));
        refused(futures_executor::block_on(store.close_async()));
    }
    refused(store.close());
    refused(store.vacuum().run());
    refused(store.check().run());
    refused(store.backup(path.with_extension("backup")).run());
    refused(store.backup_every(Duration::from_secs(60), 1, path.parent().unwrap()));
    refused(open(path, Access::Shared));

    use_own(&path.with_extension("own"));
}

fn use_own(path: &Path) {
    let own = create(path, Access::Shared);
    read_often(&own);
    #[cfg(feature = "async")]
    futures_executor::block_on(own.read_async(|_| Ok(()))).unwrap();
    own.close().unwrap();
}
