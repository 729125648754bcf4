//! All features at once, for a long time: threads that write alone and in groups, tasks whose futures are dropped at
//! any moment, readers, an occasional long read, checks, vacuums, backups that are restored (`soak/backups.rs`),
//! closing and reopening.
//!
//! Every five seconds it measures the process: memory, descriptors and threads must stay near their values in the first
//! part of the run, the log below its limits, the backups of a schedule within theirs. It also compares the sums of the
//! tables with each other and with the journal of acknowledged writes. At the end, when no thread writes any more, the
//! sums equal those of the journal, except for writes whose futures were dropped: those may have committed or not.
//!
//! It injects no failures (the other suites do), and finds only growth that shows within its time: a leak of a few
//! bytes an hour is below its resolution. Each measurement is a case.

mod backups;

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use fastrand::Rng;
use larder::rusqlite::{Connection, params};
use larder::{
    BackupSchedule, Durability, Error, Migration, Migrations, Options, Outcome, Store, WriteOptions, WriteTx,
};

use crate::Arguments;
use crate::cases::{Summary, seed};
use crate::check::sound;
use crate::entries::keep;
use crate::together::Together;
use backups::Backups;

const DATABASE: &str = "app.db";

/// Threads that write, then tasks.
const WRITERS: usize = 3;
const TASKS: usize = 2;

/// Items that each client keeps.
const KEPT: i64 = 300;

/// Bytes of the longest item.
const LONGEST: usize = 2000;

const LOOK: Duration = Duration::from_secs(5);

/// Samples of one measurement, and the time between them.
const SAMPLES: u32 = 4;
const SAMPLE: Duration = Duration::from_millis(50);

const WAL_LIMIT: u64 = 4 << 20;
const WAL_HARD_LIMIT: u64 = 24 << 20;

fn options() -> Options {
    Options::new()
        .migrations(Migrations::new([Migration::new(
            1,
            "tables",
            "CREATE TABLE tally(client INTEGER PRIMARY KEY, jobs INTEGER NOT NULL, sum INTEGER NOT NULL) STRICT;
             CREATE TABLE item(
                 client INTEGER NOT NULL REFERENCES tally(client), k INTEGER NOT NULL, value INTEGER NOT NULL,
                 data BLOB NOT NULL, PRIMARY KEY (client, k)
             ) STRICT;",
        )]))
        .readers(4)
        .wal_limit(WAL_LIMIT)
        .wal_hard_limit(WAL_HARD_LIMIT)
        .cache_size(4 << 20)
}

/// The journal of one client.
#[derive(Default)]
struct Client {
    /// Writes that were submitted, numbered from 1.
    asked: AtomicI64,
    acknowledged: AtomicI64,
    /// The sum of the acknowledged values.
    sum: AtomicI64,
    /// Writes whose futures were dropped.
    dropped: AtomicI64,
    sum_of_dropped: AtomicI64,
}

struct Soak {
    path: PathBuf,
    open: RwLock<Open>,
    clients: Vec<Client>,
    backups: Backups,
    together: Together,
}

/// The store, and its schedule of backups while it is open.
struct Open {
    store: Store,
    _schedule: BackupSchedule,
}

impl Open {
    fn new(path: &Path, backups: &Backups) -> Result<Self, String> {
        let store = options().open(path).map_err(|error| format!("opening: {error}"))?;
        let schedule = backups.schedule(&store);
        Ok(Self {
            store,
            _schedule: schedule.map_err(|error| format!("a schedule: {error}"))?,
        })
    }
}

pub fn run(arguments: &Arguments) -> Summary {
    let folder = tempfile::Builder::new()
        .prefix("larder-soak-")
        .tempdir()
        .expect("a folder for temporary files");
    let path = folder.path().canonicalize().expect("it is there").join(DATABASE);
    let seconds = arguments.seconds.unwrap_or(20);
    let began = Instant::now();
    let summary = match soak(&path, arguments.seed, Duration::from_secs(seconds)) {
        Ok(passed) => Summary { passed, failed: 0 },
        Err(problem) => {
            let files = keep(folder.path(), "soak", &arguments.seed.to_string());
            eprintln!(
                "\nFAILED: {problem}{files}\n  again: {} --seconds {seconds}",
                arguments.command()
            );
            Summary { passed: 0, failed: 1 }
        }
    };
    println!(
        "soak: {} passed, {} failed in {:.1?}",
        summary.passed,
        summary.failed,
        began.elapsed()
    );
    summary
}

/// Returns the number of measurements.
fn soak(path: &Path, all: u64, time: Duration) -> Result<u64, String> {
    let backups = Backups::beside(path).map_err(|error| error.to_string())?;
    let soak = Soak {
        path: path.to_owned(),
        open: RwLock::new(Open::new(path, &backups)?),
        backups,
        clients: (0..WRITERS + TASKS).map(|_| Client::default()).collect(),
        together: Together::default(),
    };
    let mut rng = Rng::with_seed(seed(all, 0, 41));
    let looks = thread::scope(|scope| {
        for client in 0..WRITERS + TASKS {
            let rng = rng.fork();
            let soak = &soak;
            scope.spawn(move || {
                soak.together.guard(|| {
                    if client < WRITERS {
                        soak.write(client, rng)
                    } else {
                        soak.tasks(client, rng)
                    }
                })
            });
        }
        for _ in 0..2 {
            scope.spawn(|| soak.together.guard(|| soak.read()));
        }
        let (rng, soak) = (rng.fork(), &soak);
        scope.spawn(move || soak.together.guard(|| soak.look_after(rng)));
        scope.spawn(move || soak.together.guard(|| soak.back_up(time)));
        let looks = soak.measure(time);
        soak.together.end();
        looks
    });
    soak.together.judge()?;
    let looks = looks?;
    soak.end()?;
    Ok(looks + 1)
}

impl Soak {
    fn store(&self) -> Store {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.store.clone()
    }

    fn acknowledged(&self) -> Vec<i64> {
        let of = |client: &Client| client.acknowledged.load(Ordering::SeqCst);
        self.clients.iter().map(of).collect()
    }

    fn asked(&self) -> Vec<i64> {
        let of = |client: &Client| client.asked.load(Ordering::SeqCst);
        self.clients.iter().map(of).collect()
    }

    // ---- the writers ----

    fn write(&self, client: usize, mut rng: Rng) -> Result<(), String> {
        while !self.together.is_over() {
            let store = self.store();
            let write = self.backups.beside.begin_write();
            let pending: Vec<_> = (0..rng.u32(1..8))
                .map(|_| {
                    let (value, job) = self.job(client, &mut rng);
                    (value, store.submit_with(terms(&mut rng), job))
                })
                .collect();
            for (value, pending) in pending {
                self.note(client, value, pending.and_then(|pending| pending.wait()))?;
            }
            self.backups.beside.end_write(write);
            thread::sleep(Duration::from_micros(rng.u64(0..2000)));
        }
        Ok(())
    }

    /// Futures, of which a third is dropped, before or after they have begun.
    fn tasks(&self, client: usize, mut rng: Rng) -> Result<(), String> {
        while !self.together.is_over() {
            let store = self.store();
            let (value, job) = self.job(client, &mut rng);
            let future = store.write_async_with(terms(&mut rng), job);
            let patience = match rng.u32(0..6) {
                0 => Duration::ZERO,
                1 => Duration::from_micros(rng.u64(0..500)),
                _ => Duration::from_secs(60),
            };
            match block_on(future, patience) {
                Some(result) => self.note(client, value, result)?,
                None => {
                    self.clients[client].dropped.fetch_add(1, Ordering::SeqCst);
                    self.clients[client].sum_of_dropped.fetch_add(value, Ordering::SeqCst);
                }
            }
            // A read whose future is dropped is interrupted.
            let read = store.read_async(|tx| {
                tx.query_row("SELECT sum(length(data)) FROM item", [], |row| {
                    row.get::<_, Option<i64>>(0)
                })
            });
            let _ = block_on(read, Duration::from_micros(rng.u64(0..1000)));
        }
        Ok(())
    }

    /// A write of a random value.
    fn job(
        &self,
        client: usize,
        rng: &mut Rng,
    ) -> (i64, impl FnOnce(&WriteTx<'_>) -> larder::Result<()> + Send + 'static) {
        let k = self.clients[client].asked.fetch_add(1, Ordering::SeqCst) + 1;
        let (value, length, fails) = (rng.i64(1..1000), rng.usize(0..LONGEST), rng.u32(0..20) == 0);
        let client = client as i64;
        let job = move |tx: &WriteTx<'_>| {
            tx.execute(
                "INSERT INTO tally VALUES (?1, 1, ?2)
                 ON CONFLICT DO UPDATE SET jobs = jobs + 1, sum = sum + excluded.sum",
                [client, value],
            )?;
            tx.execute(
                "INSERT INTO item VALUES (?1, ?2, ?3, ?4)",
                params![client, k, value, vec![7u8; length]],
            )?;
            tx.execute("DELETE FROM item WHERE client = ?1 AND k <= ?2", [client, k - KEPT])?;
            if fails { Err(Error::app("wanted")) } else { Ok(()) }
        };
        (value, job)
    }

    fn note(&self, client: usize, value: i64, result: larder::Result<()>) -> Result<(), String> {
        match result {
            Ok(()) => {
                self.clients[client].sum.fetch_add(value, Ordering::SeqCst);
                self.clients[client].acknowledged.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
            // Expected errors: the store is closed and reopened, and a long read may fill the WAL.
            Err(Error::App(_) | Error::Closed | Error::WalFull { .. } | Error::QueueTimeout { .. }) => Ok(()),
            Err(error) if error.outcome() == Outcome::NotStarted && error.is_retryable() => Ok(()),
            Err(error) => Err(format!("writing: {error:?}")),
        }
    }

    // ---- readers and maintenance ----

    fn read(&self) -> Result<(), String> {
        while !self.together.is_over() {
            self.compare()?;
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Checks in one snapshot that each client's tally is at least the number acknowledged before it, at most the
    /// number submitted by its end, and equals the client's items.
    fn compare(&self) -> Result<(), String> {
        let least = self.acknowledged();
        let found = match self.store().read(|tx| tallies(tx)) {
            Ok(found) => found,
            Err(Error::Closed) => return Ok(()),
            Err(error) => return Err(format!("reading: {error:?}")),
        };
        for (client, least) in least.iter().enumerate() {
            let most = self.clients[client].asked.load(Ordering::SeqCst);
            let (jobs, ..) = found.get(client).copied().unwrap_or_default();
            if jobs < *least || jobs > most {
                return Err(format!(
                    "client {client} has {jobs} writes, and it must be {least} to {most}"
                ));
            }
        }
        Ok(())
    }

    /// Occasional long reads, checks, vacuums, and closes.
    fn look_after(&self, mut rng: Rng) -> Result<(), String> {
        let (mut closed, mut turn) = (Instant::now(), 0);
        while !self.together.is_over() {
            turn += 1;
            let store = self.store();
            let done = match turn % 4 {
                1 => store
                    .check()
                    .run()
                    .and_then(|report| report_of(report.is_ok(), &report)),
                2 => store.read(|tx| self.read_for_long(tx)),
                3 => store.vacuum().run().map(drop),
                _ => Ok(self.pause(Duration::from_millis(rng.u64(0..1000)))),
            };
            match done {
                Err(Error::App(problem)) => return Err(problem.to_string()),
                Err(error) if !matches!(error, Error::Closed) && !error.is_retryable() => {
                    return Err(format!("turn {turn}: {error:?}"));
                }
                _ => self.pause(Duration::from_millis(500)),
            }
            drop(store);
            if closed.elapsed() > Duration::from_secs(if turn < 30 { 8 } else { 30 }) {
                self.close_and_open()?;
                closed = Instant::now();
            }
        }
        Ok(())
    }

    fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        while !self.together.is_over() && Instant::now() < until {
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Checks that a snapshot does not change.
    fn read_for_long(&self, tx: &Connection) -> larder::Result<()> {
        let first = tallies(tx)?;
        self.pause(Duration::from_secs(2));
        report_of(tallies(tx)? == first, &"a snapshot has changed")
    }

    fn close_and_open(&self) -> Result<(), String> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        let report = open.store.close().map_err(|error| format!("closing: {error}"))?;
        if !report.wal_truncated {
            return Err(format!("closing: {report}"));
        }
        let conn = Connection::open(&self.path).map_err(|error| error.to_string())?;
        sound(&conn)?;
        conn.close().map_err(|(_, error)| error.to_string())?;
        *open = Open::new(&self.path, &self.backups)?;
        Ok(())
    }

    // ---- measuring ----

    fn measure(&self, time: Duration) -> Result<u64, String> {
        let began = Instant::now();
        let settling = (time / 3).min(Duration::from_secs(60));
        let (mut first, mut looks) = (Usage::default(), 0);
        while (began.elapsed() < time || !self.backups.are_enough()) && !self.together.is_over() {
            self.pause(time.saturating_sub(began.elapsed()).clamp(SAMPLE, LOOK));
            let (usage, log) = (self.usage(), self.log());
            looks += 1;
            self.compare()?;
            let age = began.elapsed();
            let writes: i64 = self.acknowledged().iter().sum();
            let scheduled = self.backups.look_at_scheduled()?;
            eprintln!(
                "soak: {:>4} s, {writes} writes, {usage}, log {} KB, {scheduled} backups by the schedule",
                age.as_secs(),
                log >> 10
            );
            // A group may exceed the limit, and a vacuum writes the whole database.
            if log > 2 * WAL_HARD_LIMIT {
                return Err(format!("the log has {log} bytes"));
            }
            if age <= settling + LOOK {
                first = first.most(usage);
            } else {
                usage.judge(first)?;
            }
        }
        Ok(looks)
    }

    /// Measured between the turns of backups, as the minimum of some samples: a scheduled backup has files open only
    /// for a while.
    fn usage(&self) -> Usage {
        let _between = self.backups.pause();
        let mut least = Usage::now();
        for _ in 1..SAMPLES {
            self.pause(SAMPLE);
            least = least.least(Usage::now());
        }
        least
    }

    fn log(&self) -> u64 {
        let mut log = self.path.clone().into_os_string();
        log.push("-wal");
        fs::metadata(log).map_or(0, |log| log.len())
    }

    /// The final check, without writers.
    fn end(&self) -> Result<(), String> {
        self.back_up_once()
            .map_err(|error| format!("the last backup: {error}"))?;
        self.store().close().map_err(|error| format!("closing: {error}"))?;
        self.backups.judge_scheduled()?;
        let conn = Connection::open(&self.path).map_err(|error| error.to_string())?;
        sound(&conn)?;
        let found = tallies(&conn).map_err(|error| error.to_string())?;
        for (at, client) in self.clients.iter().enumerate() {
            let of = |value: &AtomicI64| value.load(Ordering::SeqCst);
            let (jobs, sum) = found.get(at).copied().unwrap_or_default();
            let told = (of(&client.acknowledged), of(&client.sum));
            let most = (told.0 + of(&client.dropped), told.1 + of(&client.sum_of_dropped));
            if jobs < told.0 || jobs > most.0 || sum < told.1 || sum > most.1 {
                return Err(format!(
                    "client {at} has {jobs} writes of {sum}, told were {told:?}, at most {most:?}"
                ));
            }
        }
        Ok(())
    }
}

fn report_of(ok: bool, report: &dyn std::fmt::Display) -> larder::Result<()> {
    if ok {
        Ok(())
    } else {
        Err(Error::app(report.to_string()))
    }
}

fn terms(rng: &mut Rng) -> WriteOptions {
    let full = rng.u32(0..10) == 0;
    WriteOptions::new().durability(if full { Durability::Full } else { Durability::Normal })
}

/// Each client's writes and their sum, in the order of the clients.
///
/// # Errors
///
/// Also if a client's items do not match its tally.
fn tallies(conn: &Connection) -> larder::Result<Vec<(i64, i64)>> {
    let mut statement = conn.prepare_cached(
        "SELECT client, jobs, sum, (SELECT count(*) FROM item WHERE item.client = tally.client),
                (SELECT ifnull(sum(value), 0) FROM item WHERE item.client = tally.client)
         FROM tally ORDER BY client",
    )?;
    let mut rows = statement.query([])?;
    let mut tallies = vec![(0, 0); WRITERS + TASKS];
    while let Some(row) = rows.next()? {
        let (client, jobs, sum): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let (items, value): (i64, i64) = (row.get(3)?, row.get(4)?);
        // Failing writes leave gaps in the kept items.
        let all_kept = jobs == items;
        if items > jobs.min(KEPT) || value > sum || (all_kept && value != sum) {
            let problem = format!("client {client}: {items} items of {value}, and the tally says {jobs} of {sum}");
            return Err(Error::app(problem));
        }
        tallies[client as usize] = (jobs, sum);
    }
    Ok(tallies)
}

// ---- the process ----

/// The resources of the process that must not grow.
#[derive(Clone, Copy, Default)]
struct Usage {
    memory: u64,
    descriptors: u64,
    threads: u64,
}

impl Usage {
    /// Zero where the system does not report it.
    fn now() -> Self {
        let count = |folder: &str| fs::read_dir(folder).map_or(0, |entries| entries.count() as u64);
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let memory = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let memory = memory.and_then(|text| text.trim().split(' ').next()?.parse::<u64>().ok());
        Self {
            memory: memory.unwrap_or(0) << 10,
            descriptors: count("/proc/self/fd"),
            threads: count("/proc/self/task"),
        }
    }

    fn least(self, other: Self) -> Self {
        Self {
            memory: self.memory.min(other.memory),
            descriptors: self.descriptors.min(other.descriptors),
            threads: self.threads.min(other.threads),
        }
    }

    fn most(self, other: Self) -> Self {
        Self {
            memory: self.memory.max(other.memory),
            descriptors: self.descriptors.max(other.descriptors),
            threads: self.threads.max(other.threads),
        }
    }

    /// Allows some growth: the first measurement was at a random point of the work.
    fn judge(self, first: Self) -> Result<(), String> {
        let too_much = self.memory > first.memory + first.memory / 4 + (8 << 20)
            || self.descriptors > first.descriptors + 4
            || self.threads > first.threads + 4;
        if too_much {
            Err(format!("it has grown: {self}, at first {first} at most"))
        } else {
            Ok(())
        }
    }
}

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} KB of memory, {} descriptors, {} threads",
            self.memory >> 10,
            self.descriptors,
            self.threads
        )
    }
}

// ---- futures ----

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The future's value, or `None` if it was dropped after its time. It is polled at least once.
fn block_on<T>(future: impl Future<Output = T>, patience: Duration) -> Option<T> {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    let until = Instant::now() + patience;
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(value);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        thread::park_timeout(left);
    }
}
