//! Measures rates: for a slice of time, on one thread or many, and two sides in turns.

#![allow(dead_code, reason = "each bench uses a part of it")]

use std::collections::VecDeque;
use std::fs::File;
use std::future::Future;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::thread;
use std::time::{Duration, Instant};

use larder::Store;
use tokio::runtime::Runtime;

/// Two sides, measured in turns.
pub(crate) struct Compared {
    /// Medians, per second.
    pub(crate) ours: f64,
    pub(crate) theirs: f64,
    /// The median of the ratios of neighbouring slices, the lowest and the highest.
    pub(crate) ratio: f64,
    pub(crate) lowest: f64,
    pub(crate) highest: f64,
    /// The rounds by the distance of the two cores.
    pub(crate) near: Rounds,
    pub(crate) far: Rounds,
}

/// Some of the rounds of a comparison.
#[derive(Clone, Copy)]
pub(crate) struct Rounds {
    pub(crate) number: usize,
    /// The median of their ratios, if there were any.
    pub(crate) ratio: f64,
    /// The median round trip of a cache line before each.
    pub(crate) line: Duration,
}

/// From this round trip of a cache line on, two cores are far apart.
const FAR: Duration = Duration::from_nanos(200);

/// Runs both sides in turns, and looks before each turn how far the cores are apart.
pub(crate) fn compare(rounds: u32, mut ours: impl FnMut() -> f64, mut theirs: impl FnMut() -> f64) -> Compared {
    let (mut left, mut right, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let (mut near, mut far) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let line = distance();
        let (a, b) = (ours(), theirs());
        left.push(a);
        right.push(b);
        ratios.push(a / b);
        match line {
            Some(line) if line < FAR => near.push((line, a / b)),
            Some(line) => far.push((line, a / b)),
            None => {}
        }
    }
    let ratio = median(&mut ratios);
    Compared {
        ours: median(&mut left),
        theirs: median(&mut right),
        ratio,
        lowest: ratios[0],
        highest: ratios[ratios.len() - 1],
        near: Rounds::of(&near),
        far: Rounds::of(&far),
    }
}

impl Rounds {
    fn of(rounds: &[(Duration, f64)]) -> Self {
        let mut lines: Vec<_> = rounds.iter().map(|(line, _)| *line).collect();
        lines.sort();
        let mut ratios: Vec<_> = rounds.iter().map(|(_, ratio)| *ratio).collect();
        Self {
            number: rounds.len(),
            ratio: if rounds.is_empty() {
                f64::NAN
            } else {
                median(&mut ratios)
            },
            line: lines.get(lines.len() / 2).copied().unwrap_or_default(),
        }
    }
}

/// Sorts the values, and returns the median.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Operations per second of one thread.
pub(crate) fn repeat(slice: Duration, mut f: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut done = 0_u32;
    while start.elapsed() < slice {
        f();
        done += 1;
    }
    f64::from(done) / start.elapsed().as_secs_f64()
}

/// Operations per second of this many threads together. Each thread gets its number.
pub(crate) fn threads<T>(
    slice: Duration,
    count: usize,
    start: impl Fn(usize) -> T + Sync,
    f: impl Fn(&mut T) + Sync,
) -> f64 {
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for number in 0..count {
            let (start, f, stop, done) = (&start, &f, &stop, &done);
            scope.spawn(move || {
                let mut state = start(number);
                let mut mine = 0;
                while !stop.load(Relaxed) {
                    f(&mut state);
                    mine += 1;
                }
                done.fetch_add(mine, Relaxed);
            });
        }
        std::thread::sleep(slice);
        stop.store(true, Relaxed);
    });
    done.load(Relaxed) as f64 / began.elapsed().as_secs_f64()
}

/// Writes per second with this many submitted and not yet waited for.
pub(crate) fn submitted(slice: Duration, depth: usize, store: &Store, sql: &'static str) -> f64 {
    let submit = || store.submit(move |tx| tx.insert(sql, (1, "click"))).expect("queued");
    let mut pending = VecDeque::with_capacity(depth);
    let start = Instant::now();
    let mut done = 0_u32;
    while start.elapsed() < slice {
        while pending.len() < depth {
            pending.push_back(submit());
        }
        for write in pending.drain(..depth / 4) {
            write.wait().expect("written");
            done += 1;
        }
    }
    for write in pending {
        write.wait().expect("written");
        done += 1;
    }
    f64::from(done) / start.elapsed().as_secs_f64()
}

/// Latencies in microseconds, with an error of at most 1.6 %: 64 buckets per power of two.
pub(crate) struct Latencies {
    counts: Vec<u64>,
    pub(crate) longest: Duration,
}

impl Latencies {
    const STEPS: u64 = 64;

    pub(crate) fn new() -> Self {
        Self {
            counts: vec![0; 64 * 40],
            longest: Duration::ZERO,
        }
    }

    pub(crate) fn add(&mut self, time: Duration) {
        let at = Self::bucket(time.as_nanos() as u64);
        self.counts[at] += 1;
        self.longest = self.longest.max(time);
    }

    fn bucket(nanos: u64) -> usize {
        let nanos = nanos.max(Self::STEPS);
        let power = u64::from(nanos.ilog2()) - 6;
        let step = (nanos >> power) - Self::STEPS;
        ((power * Self::STEPS + step) as usize).min(64 * 40 - 1)
    }

    pub(crate) fn join(mut self, other: Self) -> Self {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts) {
            *mine += theirs;
        }
        self.longest = self.longest.max(other.longest);
        self
    }

    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The latency that this share of the operations did not exceed.
    pub(crate) fn at(&self, share: f64) -> Duration {
        let wanted = (self.count() as f64 * share) as u64;
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen > wanted {
                let (power, step) = (at as u64 / Self::STEPS, at as u64 % Self::STEPS);
                return Duration::from_nanos((Self::STEPS + step + 1) << power).min(self.longest);
            }
        }
        self.longest
    }
}

/// `fdatasync` of 4 KiB appended: median, 99th percentile.
pub(crate) fn fsync(folder: &Path) -> (Duration, Duration) {
    let mut file = File::create(folder.join("fsync")).expect("the folder can be written");
    let mut times: Vec<_> = (0..300)
        .map(|_| {
            file.write_all(&[0; 4096]).expect("the folder can be written");
            let began = Instant::now();
            file.sync_data().expect("the folder can be synced");
            began.elapsed()
        })
        .collect();
    times.sort();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

/// The average round trip of a cache line between two threads, if they soon get a core each. Virtual cores may be far
/// apart at one time and close at another, and every hand-over between threads takes this path.
pub(crate) fn round_trip(trips: u64) -> Option<Duration> {
    const END: u64 = u64::MAX;
    let (ball, deadline) = (AtomicU64::new(0), Instant::now() + Duration::from_millis(500));
    // False if the other thread has given up, or does not come.
    let await_turn = |turn: u64| {
        let mut looks = 0_u32;
        loop {
            match ball.load(Acquire) {
                found if found == turn => return true,
                END => return false,
                _ => looks += 1,
            }
            if looks.is_multiple_of(10_000) {
                if Instant::now() > deadline {
                    return false;
                }
                thread::yield_now();
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            for trip in 0..=trips {
                if !await_turn(2 * trip + 1) {
                    return;
                }
                ball.store(2 * trip + 2, Release);
            }
        });
        let play = |trip| {
            ball.store(2 * trip + 1, Release);
            await_turn(2 * trip + 2)
        };
        // The first trip waits for the start of the other thread.
        let mut goes_on = play(0);
        let began = Instant::now();
        for trip in 1..=trips {
            goes_on = goes_on && play(trip);
        }
        let took = began.elapsed();
        ball.store(END, Release);
        goes_on.then(|| took / trips as u32)
    })
}

/// The round trip, as the lowest of three short measurements, unless other threads had the cores all the time.
fn distance() -> Option<Duration> {
    let lines = (0..3).filter_map(|_| round_trip(1_000));
    lines.min().filter(|line| *line < Duration::from_micros(2))
}

/// The round trip, measured for longer; zero if the threads did not get a core each.
pub(crate) fn line() -> Duration {
    (0..4).filter_map(|_| round_trip(50_000)).min().unwrap_or_default()
}

/// A process that computes without a pause until this is dropped: this program with `--busy`, whose `main` calls
/// [`be_busy_if_asked`].
pub(crate) struct Busy(Child);

impl Busy {
    pub(crate) fn start() -> Self {
        let program = std::env::current_exe().expect("this program has a path");
        let child = Command::new(program).arg("--busy").stdin(Stdio::piped()).spawn();
        Self(child.expect("this program can be started again"))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Computes, if this process is one of [`Busy`], until the one that started it has ended.
pub(crate) fn be_busy_if_asked() {
    if std::env::args().any(|arg| arg == "--busy") {
        thread::spawn(|| {
            let _ = std::io::stdin().read(&mut [0]);
            std::process::exit(0);
        });
        loop {
            std::hint::spin_loop();
        }
    }
}

/// Operations per second of this many tasks together. Each gets its number and the end of the slice, and returns how
/// many operations it did.
pub(crate) fn tasks<F>(runtime: &Runtime, slice: Duration, count: usize, client: impl Fn(u64, Instant) -> F) -> f64
where
    F: Future<Output = u64> + Send + 'static,
{
    let began = Instant::now();
    let clients: Vec<_> = (0..count as u64)
        .map(|number| runtime.spawn(client(number, began + slice)))
        .collect();
    let done: u64 = clients
        .into_iter()
        .map(|client| runtime.block_on(client).expect("no task panics"))
        .sum();
    done as f64 / began.elapsed().as_secs_f64()
}
