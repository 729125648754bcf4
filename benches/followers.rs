//! How far a follower is behind its primary, and how fast it is read: `cargo bench --features replicate --bench followers`.
//!
//! The primary writes 1,000 rows a second, with the time in each, and replicates to a folder at the default interval. A
//! follower of that replica is in the same process.
//!
//! - **Lag:** each millisecond a thread reads the newest row on the follower. The lag is the age of that row.
//! - **`wait_for`:** from the acknowledgement of a write until the follower has it, one after another. The primary flushes
//!   nothing: this is the wait for the interval.
//! - **Reads:** two threads read rows by primary key, on the follower and on the primary in turns, while the writes go on.
//!
//! `LARDER_BENCH_SECS` is the time for each row (default 44), `LARDER_BENCH_DIR` the folder.

mod data;
mod measure;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use data::{Data, Random, SELECT};
use larder::rusqlite;
use larder::{Follower, Options, ReadTx, Result, Store};
use measure::{Compared, Latencies, compare, threads};

const ROUNDS: u32 = 11;
const READERS: usize = 2;
const BETWEEN_WRITES: Duration = Duration::from_millis(1);
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(60);
const WRITE: &str = "INSERT INTO messages(room, sent, body) VALUES (1, ?1, 'hello')";
const NEWEST: &str = "SELECT sent FROM messages ORDER BY id DESC LIMIT 1";

fn main() {
    // `cargo test --benches` runs this, too, only to check that it works.
    let quick = std::env::args().any(|arg| arg == "--test");
    let seconds = std::env::var("LARDER_BENCH_SECS").ok().and_then(|s| s.parse().ok());
    let time = Duration::from_secs_f64(if quick { 0.1 } else { seconds.unwrap_or(44.0) });

    let data = Data::make();
    let replica = data.folder().join("replica");
    let replica = replica.to_str().expect("the folder has a plain path");
    let primary = data.store("primary.db", Options::new().replicate_to(replica));
    write(&primary);
    primary
        .replica()
        .and_then(|r| r.flush(PATIENCE))
        .expect("it is uploaded");
    let follower = Options::new()
        .follow(replica, data.folder().join("follower.db"))
        .expect("the follower opens");

    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| write_until(&stop, &primary));
        print_waits("age of the newest row on the follower", &lag(time, &follower));
        print_waits("wait_for after a write", &waits(time, &primary, &follower));
        print_reads(&reads(time / ROUNDS / 2, &primary, &follower));
        stop.store(true, Relaxed);
    });
    println!("{}", follower.lag());
}

/// Writes a row with the time.
fn write(store: &Store) {
    store
        .write(|tx| tx.insert(WRITE, [nanos_now()]))
        .expect("the row is written");
}

/// One write after another, each when its time has come.
fn write_until(stop: &AtomicBool, store: &Store) {
    let mut next = Instant::now();
    while !stop.load(Relaxed) {
        write(store);
        next += BETWEEN_WRITES;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

fn lag(time: Duration, follower: &Follower) -> Latencies {
    let mut lags = Latencies::new();
    let began = Instant::now();
    while began.elapsed() < time {
        let newest = follower
            .read(|tx| Ok(tx.prepare_cached(NEWEST)?.query_row([], |row| row.get::<_, i64>(0))?))
            .expect("the row is there");
        lags.add(Duration::from_nanos((nanos_now() - newest).max(0) as u64));
        thread::sleep(BETWEEN_LOOKS);
    }
    lags
}

fn waits(time: Duration, primary: &Store, follower: &Follower) -> Latencies {
    let mut waits = Latencies::new();
    let began = Instant::now();
    while began.elapsed() < time {
        write(primary);
        let acknowledged = Instant::now();
        let token = primary.replica().expect("it is replicated").token();
        follower.wait_for(token, PATIENCE).expect("the follower gets there");
        waits.add(acknowledged.elapsed());
    }
    waits
}

fn reads(slice: Duration, primary: &Store, follower: &Follower) -> Compared {
    let select = |tx: &ReadTx<'_>, random: &mut Random| -> Result<String> {
        let found: rusqlite::Result<String> = tx.prepare_cached(SELECT)?.query_row([random.user()], |row| row.get(0));
        Ok(found?)
    };
    let seed = |number| Random::seeded(number as u64);
    let on_follower = || {
        threads(slice, READERS, seed, |random| {
            follower.read(|tx| select(tx, random)).expect("the row is there");
        })
    };
    let on_primary = || {
        threads(slice, READERS, seed, |random| {
            primary.read(|tx| select(tx, random)).expect("the row is there");
        })
    };
    compare(ROUNDS, on_follower, on_primary)
}

fn print_waits(name: &str, waits: &Latencies) {
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "{name:<40} p50 {:.0} ms, p99 {:.0} ms, worst {:.0} ms, of {}",
        millis(waits.at(0.5)),
        millis(waits.at(0.99)),
        millis(waits.longest),
        waits.count()
    );
}

fn print_reads(found: &Compared) {
    println!(
        "{:<40} {:.0}/s on the follower, {:.0}/s on the primary: {:.2}, {:.2}..{:.2} of {ROUNDS}",
        "point reads, 2 threads", found.ours, found.theirs, found.ratio, found.lowest, found.highest
    );
}

fn nanos_now() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.expect("the clock is set").as_nanos() as i64
}
