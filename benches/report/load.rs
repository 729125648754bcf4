//! The documents' two warnings, as load tests: a chat application, and sessions with thousands of concurrent writers.
//! In addition, the longest wait of 64 threads that only write, or read nine times out of ten.
//!
//! A chat message is sent at its time even if the previous one is not done, and its latency counts from that time, so a
//! store that falls behind shows it. The other side of the comparison has eight threads with one connection behind a
//! mutex, as many services do.

use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use larder::rusqlite::{self, Connection, params};
use larder::{Durability, Options, Pending, Store};

use crate::Run;
use crate::data::{self, Data, INSERT, Random, SELECT, USERS};
use crate::measure::Latencies;

/// The number of progress steps.
pub(crate) const STEPS: u64 = 6;

const MESSAGE: &str =
    "INSERT INTO messages(room, sent, body) VALUES (?1, ?2, 'a message of some forty characters, more or less')";
const SESSION: &str =
    "INSERT INTO sessions(id, user_id, seen, data) VALUES (?1, ?1, ?2, 'a token and what a session has besides')
     ON CONFLICT(id) DO UPDATE SET seen = excluded.seen";
const SENDERS: u64 = 8;
const WRITERS: usize = 2_000;
const THREADS: usize = 64;

/// The result of one load.
pub(crate) struct Load {
    pub(crate) name: String,
    /// Offered operations per second, if that is fixed.
    pub(crate) offered: Option<u64>,
    pub(crate) done: f64,
    pub(crate) errors: u64,
    pub(crate) latencies: Latencies,
}

impl Load {
    /// Both loads together, with the sum of their rates.
    pub(crate) fn join(self, other: Self) -> Self {
        Self {
            done: self.done + other.done,
            errors: self.errors + other.errors,
            latencies: self.latencies.join(other.latencies),
            ..self
        }
    }
}

pub(crate) fn measure(run: &Run, data: &Data) -> Vec<Load> {
    let mut loads = Vec::new();
    for offered in [800, 8_000, 80_000] {
        run.step("the chat application");
        let store = data.store("store.db", Options::new());
        loads.push(chat(run.load, offered, "larder", |number| submit(&store, number)));
        store.close().expect("the store closes");
        let conn = Mutex::new(data.connection("floor.db", Durability::Normal));
        loads.push(chat_locked(run.load, offered, &conn));
    }
    run.step("the session store");
    let store = data.store("store.db", Options::new());
    loads.push(closed_loop(
        run.load,
        WRITERS,
        "sessions, 2000 writers, larder",
        |_| (),
        |(), id, seen| store.write(move |tx| tx.execute(SESSION, params![id, seen])).is_ok(),
    ));
    let path = data.copy("floor.db");
    // Two thousand connections need more descriptors than a process usually gets.
    loads.push(closed_loop(
        run.load,
        THREADS,
        "sessions, 64 writers, 64 connections that may all write",
        |_| impatient(&path),
        |conn, id, seen| write_session(conn, id, seen).is_ok(),
    ));
    store.close().expect("the store closes");
    loads.extend(writers(run, data));
    loads.extend(mixed(run, data));
    loads
}

fn writers(run: &Run, data: &Data) -> [Load; 3] {
    run.step("64 writers");
    let store = data.store("store.db", Options::new());
    let mutex = Mutex::new(data.connection("floor.db", Durability::Normal));
    let path = data.copy("many.db");
    [
        closed_loop(
            run.long,
            THREADS,
            "64 writers, larder",
            |_| (),
            |(), _, _| store.write(|tx| tx.insert(INSERT, (1, "click"))).is_ok(),
        ),
        closed_loop(
            run.long,
            THREADS,
            "64 writers, Mutex<Connection>",
            |_| (),
            |(), _, _| insert(&mutex.lock().expect("nobody panicked")).is_ok(),
        ),
        closed_loop(
            run.long,
            THREADS,
            "64 writers, 64 connections that may all write",
            |_| impatient(&path),
            |conn, _, _| insert(conn).is_ok(),
        ),
    ]
}

/// Nine reads and a write.
fn mixed(run: &Run, data: &Data) -> [Load; 2] {
    run.step("reads and writes");
    let store = data.store("store.db", Options::new());
    let mutex = Mutex::new(data.connection("floor.db", Durability::Normal));
    [
        closed_loop(
            run.long,
            THREADS,
            "90 % reads, 64 threads, larder",
            |_| (),
            |(), user, roll| {
                if roll % 10 == 0 {
                    store.write(|tx| tx.insert(INSERT, (1, "click"))).is_ok()
                } else {
                    let name =
                        |tx: &larder::ReadTx<'_>| tx.query_row(SELECT, [user + 1], |row| row.get::<_, String>(0));
                    store.read(name).is_ok()
                }
            },
        ),
        closed_loop(
            run.long,
            THREADS,
            "90 % reads, 64 threads, Mutex<Connection>",
            |_| (),
            |(), user, roll| {
                let conn = mutex.lock().expect("nobody panicked");
                if roll % 10 == 0 {
                    insert(&conn).is_ok()
                } else {
                    let name = |statement: &mut rusqlite::CachedStatement<'_>| {
                        statement.query_row([user + 1], |row| row.get::<_, String>(0))
                    };
                    conn.prepare_cached(SELECT)
                        .and_then(|mut statement| name(&mut statement))
                        .is_ok()
                }
            },
        ),
    ]
}

/// A connection with a common busy timeout.
fn impatient(path: &Path) -> Connection {
    let conn = data::connect(path, Durability::Normal);
    conn.busy_timeout(Duration::from_secs(5)).expect("the time-out is set");
    conn
}

fn submit(store: &Store, number: u64) -> Pending<i64> {
    let write = store.submit(move |tx| tx.insert(MESSAGE, params![(number % 100) as i64, number as i64]));
    write.expect("there is room for it in time")
}

/// One thread sends, another waits for the replies, so that the wait never delays the next message.
fn chat(time: Duration, offered: u64, name: &str, submit: impl Fn(u64) -> Pending<i64> + Sync) -> Load {
    let start = Instant::now();
    let per_sender = offered / SENDERS;
    let latencies = thread::scope(|scope| {
        let senders: Vec<_> = (0..SENDERS)
            .map(|_| {
                let (send, receive) = channel::<(Instant, Pending<i64>)>();
                let waiter = scope.spawn(move || {
                    let mut latencies = Latencies::new();
                    for (due, pending) in receive {
                        pending.wait().expect("written");
                        latencies.add(due.elapsed());
                    }
                    latencies
                });
                let submit = &submit;
                scope.spawn(move || {
                    paced(start, time, per_sender, |due, number| {
                        let _ = send.send((due, submit(number)));
                    });
                });
                waiter
            })
            .collect();
        let joined = senders.into_iter().map(|waiter| waiter.join().expect("nobody panics"));
        joined.fold(Latencies::new(), Latencies::join)
    });
    load(format!("chat, {offered}/s, {name}"), Some(offered), start, 0, latencies)
}

fn chat_locked(time: Duration, offered: u64, conn: &Mutex<Connection>) -> Load {
    let start = Instant::now();
    let latencies = thread::scope(|scope| {
        let senders: Vec<_> = (0..SENDERS)
            .map(|_| {
                scope.spawn(|| {
                    let mut latencies = Latencies::new();
                    paced(start, time, offered / SENDERS, |due, number| {
                        let conn = conn.lock().expect("nobody panicked");
                        let mut insert = conn.prepare_cached(MESSAGE).expect("prepared");
                        insert
                            .insert(params![(number % 100) as i64, number as i64])
                            .expect("written");
                        latencies.add(due.elapsed());
                    });
                    latencies
                })
            })
            .collect();
        let joined = senders.into_iter().map(|sender| sender.join().expect("nobody panics"));
        joined.fold(Latencies::new(), Latencies::join)
    });
    load(
        format!("chat, {offered}/s, Mutex<Connection>"),
        Some(offered),
        start,
        0,
        latencies,
    )
}

/// Calls `f` at this rate, each call at its time or as soon as possible after it. Gives up once it is behind by the
/// duration of the test.
fn paced(start: Instant, time: Duration, rate: u64, mut f: impl FnMut(Instant, u64)) {
    let count = (time.as_secs_f64() * rate as f64) as u64;
    for number in 0..count {
        let due = start + Duration::from_secs_f64(number as f64 / rate as f64);
        let now = Instant::now();
        if now < due {
            thread::sleep(due - now);
        } else if now > start + time * 2 {
            return;
        }
        f(due, number);
    }
}

/// Threads that each start the next operation as soon as the last one is done.
fn closed_loop<T>(
    time: Duration,
    writers: usize,
    name: &str,
    connect: impl Fn(usize) -> T + Sync,
    write: impl Fn(&T, i64, i64) -> bool + Sync,
) -> Load {
    let start = Instant::now();
    let (latencies, errors) = thread::scope(|scope| {
        let writers: Vec<_> = (0..writers)
            .map(|number| {
                let (connect, write) = (&connect, &write);
                let work = move || {
                    let (mut latencies, mut errors) = (Latencies::new(), 0);
                    let (conn, mut random) = (connect(number), Random::seeded(number as u64));
                    while start.elapsed() < time {
                        let began = Instant::now();
                        errors += u64::from(!write(&conn, random.below(USERS), random.below(1 << 30)));
                        latencies.add(began.elapsed());
                    }
                    (latencies, errors)
                };
                let thread = thread::Builder::new().stack_size(256 * 1024);
                thread
                    .spawn_scoped(scope, work)
                    .expect("the system gives so many threads")
            })
            .collect();
        let joined = writers.into_iter().map(|writer| writer.join().expect("nobody panics"));
        joined.fold((Latencies::new(), 0), |(all, errors), (latencies, more)| {
            (all.join(latencies), errors + more)
        })
    });
    load(name.to_owned(), None, start, errors, latencies)
}

fn write_session(conn: &Connection, id: i64, seen: i64) -> rusqlite::Result<()> {
    in_transaction(conn, |conn| conn.prepare_cached(SESSION)?.execute(params![id, seen]))
}

fn insert(conn: &Connection) -> rusqlite::Result<()> {
    in_transaction(conn, |conn| conn.prepare_cached(INSERT)?.execute((1, "click")))
}

fn in_transaction(conn: &Connection, f: impl Fn(&Connection) -> rusqlite::Result<usize>) -> rusqlite::Result<()> {
    conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    f(conn)?;
    conn.prepare_cached("COMMIT")?.execute([])?;
    Ok(())
}

pub(crate) fn load(name: String, offered: Option<u64>, start: Instant, errors: u64, latencies: Latencies) -> Load {
    Load {
        name,
        offered,
        done: latencies.count() as f64 / start.elapsed().as_secs_f64(),
        errors,
        latencies,
    }
}
