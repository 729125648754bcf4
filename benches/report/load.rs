//! The documents' two warnings, as load tests: a chat application, and sessions with thousands of concurrent writers.
//!
//! A chat message is sent at its time whether the one before it is through or not, and its latency counts from that
//! time, so a store that falls behind shows it. The side it is compared with has eight threads with one connection behind
//! a mutex, as services are often written.

use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use larder::rusqlite::{Connection, params};
use larder::{Durability, Options, Pending, Store};

use crate::Run;
use crate::data::{self, Data, Random, USERS};
use crate::measure::Latencies;

/// How many steps of progress there are.
pub(crate) const STEPS: u64 = 4;

const MESSAGE: &str =
    "INSERT INTO messages(room, sent, body) VALUES (?1, ?2, 'a message of some forty characters, more or less')";
const SESSION: &str =
    "INSERT INTO sessions(id, user_id, seen, data) VALUES (?1, ?1, ?2, 'a token and what a session has besides')
     ON CONFLICT(id) DO UPDATE SET seen = excluded.seen";
const SENDERS: u64 = 8;
const WRITERS: usize = 2_000;

/// What came of one load.
pub(crate) struct Load {
    pub(crate) name: String,
    /// Offered a second, where that is set.
    pub(crate) offered: Option<u64>,
    pub(crate) done: f64,
    pub(crate) errors: u64,
    pub(crate) latencies: Latencies,
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
    loads.push(sessions(
        run.load,
        WRITERS,
        "larder",
        |_| (),
        |(), id, seen| store.write(move |tx| tx.execute(SESSION, params![id, seen])).is_ok(),
    ));
    let path = data.copy("floor.db");
    let connect = |_| {
        let conn = data::connect(&path, Durability::Normal);
        conn.busy_timeout(Duration::from_secs(5)).expect("the time-out is set");
        conn
    };
    // Two thousand connections are more than a process is usually given descriptors for.
    loads.push(sessions(
        run.load,
        64,
        "64 connections that may all write",
        connect,
        |conn, id, seen| write_session(conn, id, seen).is_ok(),
    ));
    loads
}

fn submit(store: &Store, number: u64) -> Pending<i64> {
    let write = store.submit(move |tx| tx.insert(MESSAGE, params![(number % 100) as i64, number as i64]));
    write.expect("there is room for it in time")
}

/// One thread sends, another waits for what was sent, so that nobody who waits delays what is to be sent.
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

/// Calls `f` so many times a second, each at its time or as soon after it as it can. One that falls behind for as long
/// again as the test lasts gives up.
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

fn sessions<T>(
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
    load(
        format!("sessions, {writers} writers, {name}"),
        None,
        start,
        errors,
        latencies,
    )
}

fn write_session(conn: &Connection, id: i64, seen: i64) -> larder::rusqlite::Result<()> {
    conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    conn.prepare_cached(SESSION)?.execute(params![id, seen])?;
    conn.prepare_cached("COMMIT")?.execute([])?;
    Ok(())
}

fn load(name: String, offered: Option<u64>, start: Instant, errors: u64, latencies: Latencies) -> Load {
    Load {
        name,
        offered,
        done: latencies.count() as f64 / start.elapsed().as_secs_f64(),
        errors,
        latencies,
    }
}
