//! A writer beside two threads that read: at a fixed rate, and as fast as they can.
//!
//! A store whose reads become quicker gives the writer's core to readers in the second case, so writes a second say
//! little there. What must not grow is the writer's wait.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use larder::{Durability, Options};

use crate::data::{self, Data, Random};
use crate::measure::{Latencies, compare, median};
use crate::{ROUNDS, Run, larder_read, larder_write};

const READERS: u64 = 2;
/// Reads per second of all readers together, of which one core makes several times as many.
const OFFERED: f64 = 50_000.0;
/// A reader with a rate makes the reads that are due, and sleeps for this long.
const PAUSE: Duration = Duration::from_millis(1);

pub(crate) fn print(run: &Run, data: &Data) {
    for (offered, reads) in [
        (Some(OFFERED), "50,000 reads/s offered"),
        (None, "reads in a closed loop"),
    ] {
        let name = format!("writes of one row, NORMAL, beside {reads} / private");
        if run.wants(&name) {
            pair(run, data, &name, offered);
        }
    }
}

fn pair(run: &Run, data: &Data, name: &str, offered: Option<f64>) {
    let store = data.store("store.db", Options::new());
    let path = data.copy("floor.db");
    let writer = data::connect(&path, Durability::Normal);
    let (ours, theirs) = (Side::default(), Side::default());
    let found = compare(
        ROUNDS,
        || {
            ours.run(
                run.slice,
                offered,
                || store.clone(),
                |store, user| drop(larder_read(store, user)),
                || larder_write(&store),
            )
        },
        || {
            theirs.run(
                run.slice,
                offered,
                || data::connect(&path, Durability::Normal),
                |conn, user| drop(data::read_in_transaction(conn, user)),
                || data::write_in_transaction(&writer),
            )
        },
    );
    crate::print(name, &found);
    let [(our_wait, our_reads), (their_wait, their_reads)] = [ours, theirs].map(Side::medians);
    println!(
        "    the writer's p99 wait {our_wait:.0} us and {their_wait:.0} us; reads {our_reads:.0}/s and {their_reads:.0}/s"
    );
}

/// The p99 of the writer's waits in microseconds, and reads per second, of each slice.
#[derive(Default)]
struct Side(RefCell<Vec<(f64, f64)>>);

impl Side {
    /// Writes per second of a slice.
    fn run<T>(
        &self,
        slice: Duration,
        offered: Option<f64>,
        start: impl Fn() -> T + Sync,
        read: impl Fn(&T, i64) + Sync,
        mut write: impl FnMut(),
    ) -> f64 {
        let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
        let mut waits = Latencies::new();
        let began = Instant::now();
        thread::scope(|scope| {
            for number in 0..READERS {
                let (start, read, stop, reads) = (&start, &read, &stop, &reads);
                let rate = offered.map(|offered| offered / READERS as f64);
                scope.spawn(move || {
                    let (state, mut ids, mut done) = (start(), Random::seeded(number), 0_u64);
                    let began = Instant::now();
                    while !stop.load(Relaxed) {
                        if rate.is_some_and(|rate| done as f64 > began.elapsed().as_secs_f64() * rate) {
                            thread::sleep(PAUSE);
                            continue;
                        }
                        read(&state, ids.user());
                        done += 1;
                    }
                    reads.fetch_add(done, Relaxed);
                });
            }
            while began.elapsed() < slice {
                let before = Instant::now();
                write();
                waits.add(before.elapsed());
            }
            stop.store(true, Relaxed);
        });
        let seconds = began.elapsed().as_secs_f64();
        let wait = waits.at(0.99).as_secs_f64() * 1e6;
        self.0.borrow_mut().push((wait, reads.into_inner() as f64 / seconds));
        waits.count() as f64 / seconds
    }

    fn medians(self) -> (f64, f64) {
        let (mut waits, mut reads): (Vec<_>, Vec<_>) = self.0.into_inner().into_iter().unzip();
        (median(&mut waits), median(&mut reads))
    }
}
