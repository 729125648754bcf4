//! A read is one snapshot that contains every write acknowledged before it, and never waits for a write.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use larder::rusqlite::{self, Connection, ffi};
use larder::{Error, Options, Outcome, ReadOptions, ReadTx, Result, Role, Store, WhenFull};

use crate::support::{RaiseOnDrop, young};
use crate::write::groups::Gate;

fn store_with(options: Options) -> Store {
    let store = options.open_temp().unwrap();
    store
        .write(|tx| {
            tx.execute_batch(
                "CREATE TABLE t(id INTEGER PRIMARY KEY, n INTEGER NOT NULL) STRICT;
                 INSERT INTO t VALUES (1, 10), (2, 20), (3, 30);",
            )
        })
        .unwrap();
    store
}

fn rows(conn: &Connection) -> rusqlite::Result<i64> {
    conn.query_row("SELECT count(*) FROM t", [], |row| row.get(0))
}

#[test]
fn read_sees_every_write_acknowledged_before() {
    const THREADS: i64 = 8;
    const ROUNDS: i64 = 1250;
    let store = store_with(Options::new());
    store
        .write(|tx| {
            tx.execute(
                "INSERT INTO t SELECT 100 + id, 0 FROM (SELECT 0 AS id UNION VALUES (1),(2),(3),(4),(5),(6),(7))",
                [],
            )
        })
        .unwrap();
    let newest = AtomicI64::new(0);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (store, newest) = (&store, &newest);
            scope.spawn(move || {
                for round in 1..=ROUNDS {
                    let version = store
                        .write(move |tx| {
                            tx.execute("UPDATE t SET n = ?2 WHERE id = ?1", [100 + thread, round])?;
                            tx.execute("UPDATE t SET n = n + 1 WHERE id = 1", [])?;
                            tx.query_row("SELECT n FROM t WHERE id = 1", [], |row| row.get::<_, i64>(0))
                        })
                        .unwrap();
                    newest.fetch_max(version, Ordering::SeqCst);
                    // What any thread was told before this read began.
                    let at_least = newest.load(Ordering::SeqCst);
                    let (own, shared): (i64, i64) = store
                        .read(|tx| {
                            tx.query_row(
                                "SELECT (SELECT n FROM t WHERE id = ?1), (SELECT n FROM t WHERE id = 1)",
                                [100 + thread],
                                |row| Ok((row.get(0)?, row.get(1)?)),
                            )
                        })
                        .unwrap();
                    assert_eq!(own, round);
                    assert!(shared >= at_least, "a stale read: {shared} < {at_least}");
                }
            });
        }
    });
}

#[test]
fn snapshot_is_stable_while_the_writer_commits() {
    let store = store_with(Options::new());
    store
        .read(|tx| {
            let before = rows(tx)?;
            for n in 0..50 {
                let pending = store.submit(move |tx| tx.insert("INSERT INTO t(n) VALUES (?1)", [n]))?;
                pending.wait()?;
                assert_eq!(rows(tx)?, before);
            }
            assert_eq!(store.read(|tx| Ok(rows(tx)?))?, before + 50);
            Ok(())
        })
        .unwrap();
}

#[test]
fn open_read_blocks_no_write() {
    let store = store_with(Options::new());
    let (reading, is_reading) = channel();
    let (release, released) = channel::<()>();
    thread::scope(|scope| {
        let store = &store;
        let reader = scope.spawn(move || {
            store
                .read(|tx| {
                    assert_eq!(rows(tx)?, 3);
                    reading.send(()).unwrap();
                    let _ = released.recv();
                    Ok(rows(tx)?)
                })
                .unwrap()
        });
        is_reading.recv().unwrap();
        for n in 0..100 {
            store
                .write(move |tx| tx.insert("INSERT INTO t(n) VALUES (?1)", [n]))
                .unwrap();
        }
        drop(release);
        assert_eq!(reader.join().unwrap(), 3);
    });
}

#[test]
fn open_write_blocks_no_read() {
    let store = store_with(Options::new());
    let (writing, is_writing) = channel();
    let (release, released) = channel::<()>();
    let write = store
        .submit(move |tx| {
            tx.execute("DELETE FROM t", [])?;
            writing.send(()).unwrap();
            let _ = released.recv();
            Ok(())
        })
        .unwrap();
    is_writing.recv().unwrap();
    for _ in 0..100 {
        assert_eq!(store.read(|tx| Ok(rows(tx)?)).unwrap(), 3);
    }
    drop(release);
    write.wait().unwrap();
    assert_eq!(store.read(|tx| Ok(rows(tx)?)).unwrap(), 0);
}

#[test]
fn sixty_four_threads_never_see_busy() {
    // Of 64 threads one may wait for long.
    let patient = Duration::from_secs(60);
    let options = Options::new().queue_timeout(patient).read_queue_timeout(patient);
    let store = store_with(options.readers(8).checkpoint_pages(100));
    let until = Instant::now() + Duration::from_secs(5);
    let (reads, writes): (i64, i64) = thread::scope(|scope| {
        let threads: Vec<_> = (0..64_i64)
            .map(|thread| {
                let store = &store;
                scope.spawn(move || {
                    let (mut reads, mut writes) = (0, 0);
                    while Instant::now() < until {
                        // BUSY or any other error ends the test.
                        if (reads + writes + thread) % 3 == 0 {
                            store
                                .write(|tx| tx.execute("UPDATE t SET n = n + 1 WHERE id = 1", []))
                                .unwrap();
                            writes += 1;
                        } else {
                            store.read(|tx| Ok(rows(tx)?)).unwrap();
                            reads += 1;
                        }
                    }
                    (reads, writes)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .fold((0, 0), |(r, w), (reads, writes)| (r + reads, w + writes))
    });
    assert!(reads > 100 && writes > 100, "{reads} reads, {writes} writes");
    let n: i64 = store
        .read(|tx| tx.query_row("SELECT n FROM t WHERE id = 1", [], |row| row.get(0)))
        .unwrap();
    assert_eq!(n, 10 + writes);
    assert_eq!(store.stats().failed_writes, 0);
}

#[test]
fn query_row_gives_first_row_or_an_error() {
    let store = store_with(Options::new());
    store
        .read(|tx| {
            let first: i64 = tx.query_row("SELECT n FROM t ORDER BY id", [], |row| row.get(0))?;
            assert_eq!(first, 10);
            let none = tx.query_row("SELECT n FROM t WHERE id = ?1", [99], |row| row.get::<_, i64>(0));
            assert!(matches!(
                none,
                Err(Error::Sqlite {
                    source: rusqlite::Error::QueryReturnedNoRows,
                    ..
                })
            ));
            Ok(())
        })
        .unwrap();
}

#[test]
fn query_optional_gives_none_for_no_row() {
    let store = store_with(Options::new());
    store
        .read(|tx| {
            let get = |id: i64| tx.query_optional("SELECT n FROM t WHERE id = ?1", [id], |row| row.get::<_, i64>(0));
            assert_eq!(get(2)?, Some(20));
            assert_eq!(get(99)?, None);
            assert!(
                tx.query_optional("SELECT nothing FROM t", [], |row| row.get::<_, i64>(0))
                    .is_err()
            );
            Ok(())
        })
        .unwrap();
}

#[test]
fn query_map_stops_at_the_first_error() {
    let store = store_with(Options::new());
    store
        .read(|tx| {
            let all: Vec<i64> = tx.query_map("SELECT n FROM t ORDER BY id", [], |row| row.get(0))?;
            assert_eq!(all, [10, 20, 30]);
            let none: Vec<i64> = tx.query_map("SELECT n FROM t WHERE 0", [], |row| row.get(0))?;
            assert_eq!(none, [0; 0]);
            let mut seen = 0;
            let stopped = tx.query_map("SELECT n FROM t ORDER BY id", [], |row| {
                seen += 1;
                if seen == 2 {
                    return Err(rusqlite::Error::InvalidQuery);
                }
                row.get::<_, i64>(0)
            });
            assert!(stopped.is_err());
            assert_eq!(seen, 2);
            Ok(())
        })
        .unwrap();
}

#[test]
fn query_each_visits_every_row() {
    let store = store_with(Options::new());
    let mut sum = 0;
    store
        .read(|tx| {
            tx.query_each("SELECT n FROM t", [], |row| {
                sum += row.get::<_, i64>(0)?;
                Ok(())
            })
        })
        .unwrap();
    assert_eq!(sum, 60);
}

#[test]
fn exists_tells_whether_a_row_exists() {
    let store = store_with(Options::new());
    let both = store
        .read(|tx| {
            let sql = "SELECT 1 FROM t WHERE id = ?1";
            Ok((tx.exists(sql, [1])?, tx.exists(sql, [99])?))
        })
        .unwrap();
    assert_eq!(both, (true, false));
}

#[test]
fn function_of_connection_serves_reads_and_writes() {
    let store = store_with(Options::new());
    assert_eq!(store.read(|tx| Ok(rows(tx)?)).unwrap(), 3);
    let seen = store
        .write(|tx| {
            tx.execute("DELETE FROM t WHERE id = 1", [])?;
            Ok(rows(tx)?)
        })
        .unwrap();
    assert_eq!(seen, 2);
}

#[test]
fn read_may_borrow_its_surroundings() {
    let store = store_with(Options::new());
    let wanted = vec![1_i64, 3];
    let mut found = Vec::new();
    let longest: &str = store
        .read(|tx| {
            for id in &wanted {
                found.push(tx.query_row("SELECT n FROM t WHERE id = ?1", [id], |row| row.get::<_, i64>(0))?);
            }
            Ok("done")
        })
        .unwrap();
    assert_eq!((found.as_slice(), longest), ([10, 30].as_slice(), "done"));
}

#[test]
fn application_error_is_returned_by_a_read() {
    #[derive(Debug)]
    struct NotFound(i64);
    impl std::fmt::Display for NotFound {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "no row {}", self.0)
        }
    }
    impl std::error::Error for NotFound {}
    let store = store_with(Options::new());
    let error = store.read(|_| Err::<(), _>(Error::app(NotFound(7)))).unwrap_err();
    assert_eq!(error.downcast::<NotFound>().unwrap().0, 7);
}

#[test]
fn read_waits_for_a_busy_reader() {
    let store = store_with(Options::new().readers(1));
    let (reading, is_reading) = channel();
    let (release, released) = channel::<()>();
    thread::scope(|scope| {
        let store = &store;
        scope.spawn(move || {
            store.read(|_| {
                reading.send(()).unwrap();
                let _ = released.recv();
                Ok(())
            })
        });
        is_reading.recv().unwrap();
        let second = scope.spawn(|| store.read(|tx| Ok(rows(tx)?)));
        drop(release);
        assert_eq!(second.join().unwrap().unwrap(), 3);
    });
}

#[test]
fn read_without_waiting_fails_if_readers_are_busy() {
    let store = store_with(Options::new().readers(2));
    let patient = || ReadOptions::new().queue_timeout(Duration::from_secs(600));
    // A connection that still has to open is room.
    assert_eq!(
        store
            .read_with(patient().when_full(WhenFull::Fail), |tx| Ok(rows(tx)?))
            .unwrap(),
        3
    );
    let tried = || store.read_with(patient().when_full(WhenFull::Fail), |_| Ok(()));
    store
        .read(|_| {
            store.read_with(patient(), |_| {
                let error = thread::scope(|scope| scope.spawn(tried).join().unwrap()).unwrap_err();
                assert!(matches!(error, Error::QueueFull { capacity: 2, .. }), "{error:?}");
                assert_eq!((error.outcome(), error.is_retryable()), (Outcome::NotStarted, true));
                assert!(error.to_string().contains("Options::readers"), "{error}");
                // This thread holds them all: it would never be its turn.
                let own = tried().unwrap_err();
                assert!(matches!(own, Error::Reentrant { .. }), "{own:?}");
                Ok(())
            })
        })
        .unwrap();
    tried().unwrap();
}

#[test]
fn exhausted_pool_gives_read_queue_timeout() {
    let store = store_with(Options::new().readers(1).read_queue_timeout(Duration::from_millis(50)));
    // On a machine that is busy it takes longer than that to open the reader.
    let patient = ReadOptions::new().queue_timeout(Duration::from_secs(60));
    store
        .read_with(patient, |_| {
            let other = thread::scope(|scope| scope.spawn(|| store.read(|_| Ok(()))).join().unwrap());
            let error = other.unwrap_err();
            match &error {
                Error::ReadQueueTimeout {
                    waited,
                    readers: 1,
                    held_here: 0,
                    ..
                } => {
                    assert!(*waited >= Duration::from_millis(50), "{waited:?}");
                }
                other => panic!("{other:?}"),
            }
            assert!(error.is_retryable());
            assert_eq!(error.outcome(), Outcome::NotStarted);
            assert!(error.to_string().contains("Options::readers"), "{error}");
            Ok(())
        })
        .unwrap();
    assert_eq!(store.read(|tx| Ok(rows(tx)?)).unwrap(), 3);
}

#[test]
fn every_reader_can_be_in_use_at_once() {
    const READERS: usize = 6;
    let store = store_with(Options::new().readers(READERS as u32));
    let all_in = std::sync::Barrier::new(READERS);
    thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                store
                    .read(|tx| {
                        all_in.wait();
                        Ok(rows(tx)?)
                    })
                    .unwrap()
            });
        }
    });
}

#[test]
fn read_past_its_age_limit_is_interrupted() {
    let age = Duration::from_millis(30);
    let store = store_with(
        Options::new()
            .readers(1)
            .max_reader_age(age)
            .interrupt_old_readers(true),
    );
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    let own = store.read(|tx| tx.query_row(endless, [], |row| row.get::<_, i64>(0)));
    assert!(
        matches!(own, Err(Error::Interrupted { limit, .. }) if limit == age),
        "{own:?}"
    );
    let raw = store.read(|tx| -> Result<i64> {
        let conn: &Connection = tx;
        Ok(conn.query_row(endless, [], |row| row.get(0))?)
    });
    assert!(
        matches!(raw, Err(Error::Interrupted { limit, .. }) if limit == age),
        "{raw:?}"
    );
    assert_eq!(
        young(|| store.read(|tx| Ok(rows(tx)?))),
        3,
        "the connection's next read is young"
    );
}

#[test]
fn foreign_interrupt_is_returned_unchanged() {
    let store = store_with(Options::new().readers(1));
    let (give, take) = channel::<rusqlite::InterruptHandle>();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let stop = &stop;
        let over = RaiseOnDrop(stop);
        scope.spawn(move || {
            let handle = take.recv().unwrap();
            while !stop.load(Ordering::SeqCst) {
                handle.interrupt();
                thread::yield_now();
            }
        });
        let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
        let result = store.read(|tx| {
            give.send(tx.get_interrupt_handle()).unwrap();
            tx.query_row(endless, [], |row| row.get::<_, i64>(0))
        });
        drop(over);
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Sqlite { .. }), "{error:?}");
        assert!(matches!(
            error.sqlite(),
            Some(rusqlite::Error::SqliteFailure(e, _)) if e.extended_code == ffi::SQLITE_INTERRUPT
        ));
    });
    assert_eq!(store.read(|tx| Ok(rows(tx)?)).unwrap(), 3);
}

#[test]
fn read_does_not_see_the_open_group() {
    let store = store_with(Options::new().max_group_time(Duration::from_secs(60)));
    let gate = Gate::hold(&store);
    let written = store.submit(|tx| tx.execute("DELETE FROM t", [])).unwrap();
    assert_eq!(store.read(|tx| Ok(rows(tx)?)).unwrap(), 3);
    gate.open();
    written.wait().unwrap();
    assert_eq!(store.read(|tx| Ok(rows(tx)?)).unwrap(), 0);
}

/// A gate in `on_connect`, for readers that are opened after [`shut`](Self::shut).
struct SlowOpening {
    store: Store,
    gate: Arc<(Mutex<bool>, Condvar)>,
    /// Whether `on_connect` waits there.
    waits: Arc<AtomicBool>,
}

impl SlowOpening {
    fn shut() -> Self {
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let waits = Arc::new(AtomicBool::new(false));
        let (at, begins) = (Arc::clone(&gate), Arc::clone(&waits));
        let options = Options::new().readers(2).on_connect(move |_, role| {
            let (shut, opened) = &*at;
            if role == Role::Reader {
                let shut = shut.lock().unwrap();
                begins.store(*shut, Ordering::SeqCst);
                drop(opened.wait_while(shut, |shut| *shut).unwrap());
            }
            Ok(())
        });
        let store = options.open_temp().unwrap();
        *gate.0.lock().unwrap() = true;
        Self { store, gate, waits }
    }

    /// The text of the error of a read that waits for 200 ms. On a busy machine the opening may begin late in the time of the
    /// first; the next one begins after it.
    fn timeout(&self, read: impl Fn(ReadOptions) -> Error) -> String {
        let give_up = Instant::now() + Duration::from_secs(60);
        loop {
            let had_begun = self.waits.load(Ordering::SeqCst);
            let error = read(ReadOptions::new().queue_timeout(Duration::from_millis(200)));
            assert!(matches!(error, Error::ReadQueueTimeout { .. }), "{error:?}");
            let text = error.to_string();
            if had_begun || text.contains("on_connect") {
                return text;
            }
            assert!(text.contains("a connection is being opened"), "{text}");
            assert!(Instant::now() < give_up, "no connection is opened: {text}");
        }
    }

    fn open(&self) {
        *self.gate.0.lock().unwrap() = false;
        self.gate.1.notify_all();
    }
}

impl Drop for SlowOpening {
    fn drop(&mut self) {
        self.open();
    }
}

/// One thread opened the readers of all stores of the process. While `on_connect` of one store slept, reads of another
/// failed after 5 s, with the advice to look for slow reads.
#[test]
fn slow_opening_delays_no_other_stores_read() {
    let slow: Vec<_> = (0..4).map(|_| SlowOpening::shut()).collect();
    for slow in &slow {
        let text = slow.timeout(|brief| slow.store.read_with(brief, |_| Ok(())).unwrap_err());
        assert!(text.contains("on_connect") && !text.contains("slow reads"), "{text}");
    }
    let other = store_with(Options::new());
    let patient = ReadOptions::new().queue_timeout(Duration::from_secs(60));
    assert_eq!(other.read_with(patient.clone(), |tx| Ok(rows(tx)?)).unwrap(), 3);
    for slow in &slow {
        slow.open();
        slow.store.read_with(patient.clone(), |_| Ok(())).unwrap();
    }
}

#[cfg(feature = "async")]
#[test]
fn async_read_timeout_names_slow_opening() {
    let slow = SlowOpening::shut();
    let text = slow.timeout(|brief| {
        let read = slow.store.read_async_with(brief, |_| Ok(()));
        futures_executor::block_on(read).unwrap_err()
    });
    assert!(text.contains("on_connect"), "{text}");
}

/// The connections of the pool are opened one after another, as long as reads wait for them.
#[test]
fn pool_opens_as_many_connections_as_reads_wait() {
    let store = store_with(Options::new().readers(4));
    let barrier = Barrier::new(4);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let patient = ReadOptions::new().queue_timeout(Duration::from_secs(60));
                let met = |_: &ReadTx<'_>| {
                    barrier.wait();
                    Ok(())
                };
                store.read_with(patient, met).unwrap();
            });
        }
    });
    assert_eq!(store.stats().readers.open, 4);
}
