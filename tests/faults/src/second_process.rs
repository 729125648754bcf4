//! Another process beside a store under load, with rusqlite alone, as `sqlite3`, Litestream or a script of the
//! operator's would be: it opens the file, reads, writes, checkpoints and closes it, thousands of times, each time in
//! another mixture; now and then it holds the write lock for longer than the store waits. In the middle the store closes
//! and opens again beside it, so that each of both is at times the last to close, or the first.
//!
//! No acknowledged write of either side is lost, half, or another commit than it was said to be; each sees the other's
//! from the moment they are acknowledged; every error that a caller of the store's gets is a BUSY, was *not started*,
//! may be retried, and left nothing; the store counts that others have written; SQLite finds nothing wrong.
//!
//! It does not kill either side (`kill` does), and the other process behaves: it takes SQLite's locks.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use larder::rusqlite::{self, Connection, ErrorCode, OpenFlags, TransactionBehavior};
use larder::{Durability, Error, Options, Outcome, Store, WriteOptions};

use crate::Arguments;
use crate::cases::{Bench, Suite, Summary, seed};
use crate::child::{Child, tell};
use crate::entries::{self, Id, Job, clean, keep, look};
use crate::together::Together;

const DATABASE: &str = "app.db";

/// How often one process of the other side opens the file.
const ROUNDS: u64 = 50;

/// How long the store waits for a lock. The other side holds it for longer now and then.
const BUSY: Duration = Duration::from_millis(30);

const WRITERS: i64 = 3;
const OTHER: i64 = 100;

/// Nobody waits for so long, unless something hangs.
const PATIENCE: Duration = Duration::from_secs(20);

// ---- the other process ----

/// Opens, uses and closes the file so many times.
pub fn child(arguments: &[String]) {
    let [path, seed, rounds] = arguments else {
        panic!("second-process: wrong arguments")
    };
    let number = |text: &String| text.parse::<u64>().expect("a number");
    let mut other = Other {
        path: path.into(),
        rng: Rng::with_seed(number(seed)),
        k: 0,
        mine: HashMap::new(),
    };
    for _ in 0..number(rounds) {
        match other.round() {
            Ok(()) => tell("round"),
            Err(problem) => return tell(&format!("! {problem}")),
        }
    }
}

struct Other {
    path: PathBuf,
    rng: Rng,
    k: i64,
    /// What it has committed, as which commit.
    mine: HashMap<Id, i64>,
}

impl Other {
    fn round(&mut self) -> Result<(), String> {
        let conn = self.open().map_err(|error| format!("opening: {error}"))?;
        for _ in 0..self.rng.u32(1..4) {
            match self.rng.u32(0..8) {
                0..2 => self.read(&conn),
                2..5 => self.write(&conn, TransactionBehavior::Immediate),
                5 => self.write(&conn, TransactionBehavior::Deferred),
                6 => self.checkpoint(&conn),
                _ => Ok(thread::sleep(Duration::from_micros(self.rng.u64(0..2000)))),
            }?;
        }
        conn.close().map_err(|(_, error)| format!("closing: {error}"))
    }

    fn open(&mut self) -> rusqlite::Result<Connection> {
        let conn = Connection::open_with_flags(&self.path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        conn.busy_timeout(PATIENCE)?;
        let synchronous = if self.rng.bool() { "NORMAL" } else { "FULL" };
        conn.execute_batch(&format!("PRAGMA synchronous = {synchronous}"))?;
        if self.rng.u32(0..3) == 0 {
            conn.query_row("PRAGMA mmap_size = 268435456", [], |_| Ok(()))?;
        }
        Ok(conn)
    }

    /// A snapshot is whole, and has all that this process has committed.
    fn read(&self, conn: &Connection) -> Result<(), String> {
        let tx = conn.unchecked_transaction().map_err(|error| error.to_string())?;
        let found = look(&tx)?;
        match self
            .mine
            .iter()
            .find(|(id, n)| found.get(**n as usize - 1).is_none_or(|entry| entry.id != **id))
        {
            Some((id, n)) => Err(format!("{id:?} was commit {n}, and is not there")),
            None => Ok(()),
        }
    }

    fn write(&mut self, conn: &Connection, behavior: TransactionBehavior) -> Result<(), String> {
        self.k += 1;
        let mut job = Job::any((OTHER, self.k), &mut self.rng);
        if !job.commits() {
            job.id.1 = -self.k;
        }
        // Longer than the store waits.
        let stay = if self.rng.u32(0..15) == 0 {
            2 * BUSY
        } else {
            Duration::ZERO
        };
        match transact(conn, &job, behavior, stay) {
            Ok(n) => {
                self.mine.insert(job.id, n);
                tell(&format!("+ {} {n}", self.k));
                Ok(())
            }
            Err(_) if !job.commits() => Ok(()),
            // Somebody has written since the transaction read.
            Err(Error::Sqlite { source, .. })
                if matches!(behavior, TransactionBehavior::Deferred)
                    && source.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) =>
            {
                Ok(())
            }
            Err(error) => Err(format!("writing {job:?}: {error}")),
        }
    }

    fn checkpoint(&mut self, conn: &Connection) -> Result<(), String> {
        let mode = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][self.rng.usize(0..4)];
        conn.busy_timeout(BUSY).map_err(|error| error.to_string())?;
        // It says by its row that others were in the way.
        let done = conn.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| {
            row.get::<_, i64>(0)
        });
        conn.busy_timeout(PATIENCE).map_err(|error| error.to_string())?;
        match done {
            Err(error) if error.sqlite_error_code() != Some(ErrorCode::DatabaseBusy) => {
                Err(format!("checkpoint {mode}: {error}"))
            }
            _ => Ok(()),
        }
    }
}

fn transact(conn: &Connection, job: &Job, behavior: TransactionBehavior, stay: Duration) -> larder::Result<i64> {
    let tx = rusqlite::Transaction::new_unchecked(conn, behavior)?;
    let n = job.write(&tx)?;
    thread::sleep(stay);
    tx.commit()?;
    Ok(n)
}

// ---- the store's side ----

pub fn run(arguments: &Arguments) -> Summary {
    let suite = Suite::new("second-process", arguments).expect("a folder for temporary files");
    let busy = AtomicU64::new(0);
    let unit = |unit: u64, bench: &Bench<'_>, end: u64| {
        let case = (unit * ROUNDS).to_string();
        let rounds = end - unit * ROUNDS;
        let result = bench.attempt(&case, || {
            clean(&bench.folder).map_err(|error| error.to_string())?;
            House::new(&bench.folder, seed(arguments.seed, unit, 31)).live(rounds, &busy)
        });
        match result {
            Ok(()) => (0..rounds).for_each(|_| bench.note(&case, Ok(()), None)),
            Err(problem) => bench.note(
                &case,
                Err(problem + &keep(&bench.folder, "second-process", &case)),
                None,
            ),
        }
    };
    if let Some(case) = arguments.number_of_case() {
        return suite.run(1, case / ROUNDS..case / ROUNDS + 1, |one, bench| {
            unit(one, bench, (one + 1) * ROUNDS)
        });
    }
    let states = arguments.states.unwrap_or(1000);
    let mut summary = suite.run(
        arguments.threads,
        arguments.from / ROUNDS..states.div_ceil(ROUNDS),
        |one, bench| {
            unit(one, bench, states.min((one + 1) * ROUNDS));
        },
    );
    let busy = busy.load(Ordering::SeqCst);
    println!("second-process: {busy} writes met a lock and were not started");
    if busy == 0 && summary.passed >= 200 {
        eprintln!("FAILED: no write met a lock: the suite has lost its aim");
        summary.failed += 1;
    }
    summary
}

/// A store, who uses it, and the journal of both sides.
struct House {
    path: PathBuf,
    rng: Rng,
    store: RwLock<Option<Store>>,
    together: Together,
    k: Vec<AtomicI64>,
    /// Acknowledged, by either side, as which commit.
    journal: Mutex<HashMap<Id, i64>>,
    foreign: AtomicU64,
    /// The last commit when the store was last opened, or later.
    opened_at: AtomicI64,
}

impl House {
    fn new(folder: &Path, seed: u64) -> Self {
        Self {
            path: folder.join(DATABASE),
            rng: Rng::with_seed(seed),
            store: RwLock::new(None),
            together: Together::default(),
            k: (0..WRITERS).map(|_| AtomicI64::new(0)).collect(),
            journal: Mutex::default(),
            foreign: AtomicU64::new(0),
            opened_at: AtomicI64::new(0),
        }
    }

    fn options(rng: &mut Rng) -> Options {
        let mut of = |list: &[u64]| list[rng.usize(0..list.len())];
        Options::new()
            .checkpoint_pages(of(&[1, 16, 200, 1000]) as u32)
            .wal_limit(of(&[64 << 10, 1 << 20, 64 << 20]))
            .mmap_size(of(&[0, 256 << 20]))
            .journal_size_limit(of(&[0, 64 << 20]))
            .migrations(entries::migrations())
            .busy_timeout(BUSY)
            .readers(2)
    }

    /// Again, while the other process is in the way.
    fn open(&self, rng: &mut Rng) -> Result<(), String> {
        let options = Self::options(rng);
        for _ in 0..200 {
            match options.clone().open(&self.path) {
                Ok(store) => {
                    self.note_opening(&store)?;
                    *self.store.write().unwrap_or_else(PoisonError::into_inner) = Some(store);
                    return Ok(());
                }
                Err(error) if error.is_retryable() && error.outcome() == Outcome::NotStarted => {}
                Err(error) => return Err(format!("larder does not open it: {error:?}")),
            }
        }
        Err("larder does not open it, try after try".into())
    }

    /// By a write: the writer has looked at the file before its first one.
    fn note_opening(&self, store: &Store) -> Result<(), String> {
        loop {
            match store.write(|tx| tx.query_row("SELECT ifnull(max(n), 0) FROM entry", [], |row| row.get(0))) {
                Ok(last) => return Ok(self.opened_at.store(last, Ordering::SeqCst)),
                Err(error) if is_busy(&error) => {}
                Err(error) => return Err(format!("the first write: {error:?}")),
            }
        }
    }

    fn store(&self) -> Option<Store> {
        self.store.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn live(mut self, rounds: u64, busy: &AtomicU64) -> Result<(), String> {
        let mut rng = self.rng.fork();
        self.open(&mut rng)?;
        let arguments = [
            self.path.display().to_string(),
            rng.u64(..).to_string(),
            rounds.to_string(),
        ];
        let child = Child::start("second-process", &arguments).map_err(|error| error.to_string())?;
        let house = &self;
        thread::scope(|scope| {
            for client in 0..WRITERS {
                let rng = rng.fork();
                scope.spawn(move || house.together.guard(|| house.write(client, rng, busy)));
            }
            scope.spawn(|| house.together.guard(|| house.read()));
            house.together.guard(|| house.follow(child, rounds, &mut rng));
            house.together.end();
        });
        self.judge()
    }

    fn journal(&self, id: Id, n: i64) {
        self.journal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, n);
    }

    /// What the other process tells; half-way, the store closes and opens again beside it.
    fn follow(&self, child: Child, rounds: u64, rng: &mut Rng) -> Result<(), String> {
        let mut done = 0;
        while done < rounds && !self.together.is_over() {
            let line = child
                .line(PATIENCE)
                .map_err(|died| format!("the other process died: {died}"))?;
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["round"] => done += 1,
                ["+", k, n] => self.sees(k.parse().expect("a number"), n.parse().expect("a number"))?,
                _ => return Err(format!("the other process: {line}")),
            }
            if line == "round" && (done == rounds / 3 || done == 2 * rounds / 3) {
                self.close()?;
                self.open(rng)?;
            }
        }
        self.together.end();
        let (_, status) = child.rest();
        if status.success() {
            Ok(())
        } else {
            Err(format!("the other process: {status}"))
        }
    }

    /// What the other side has committed is seen by a read from now on.
    fn sees(&self, k: i64, n: i64) -> Result<(), String> {
        self.journal((OTHER, k), n);
        let Some(store) = self.store() else { return Ok(()) };
        let seen = store.read(|tx| {
            tx.exists(
                "SELECT 1 FROM entry WHERE n = ?1 AND client = ?2 AND k = ?3",
                [n, OTHER, k],
            )
        });
        match seen {
            Ok(true) => Ok(()),
            Ok(false) => Err(format!("commit {n} of the other process is not seen")),
            Err(error) => Err(format!("reading: {error}")),
        }
    }

    fn close(&self) -> Result<(), String> {
        let Some(store) = self.store.write().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(());
        };
        // The log stays where the other side is in the way.
        store.close().map_err(|error| format!("closing: {error}"))?;
        self.foreign.fetch_add(store.stats().foreign_commits, Ordering::SeqCst);
        Ok(())
    }

    fn write(&self, client: i64, mut rng: Rng, busy: &AtomicU64) -> Result<(), String> {
        while !self.together.is_over() {
            let Some(store) = self.store() else {
                thread::sleep(Duration::from_millis(1));
                continue;
            };
            let jobs: Vec<Job> = (0..rng.u32(1..4)).map(|_| self.job(client, &mut rng)).collect();
            let durability = if rng.u32(0..4) == 0 {
                Durability::Full
            } else {
                Durability::Normal
            };
            let pending: Vec<_> = jobs.iter().map(|job| submit(&store, job, durability)).collect();
            for (job, (ran, pending)) in jobs.iter().zip(pending) {
                let result = pending.and_then(|pending| pending.wait());
                self.note(job, ran.load(Ordering::SeqCst), result, busy)?;
            }
        }
        Ok(())
    }

    fn job(&self, client: i64, rng: &mut Rng) -> Job {
        let k = self.k[client as usize].fetch_add(1, Ordering::SeqCst) + 1;
        let mut job = Job::any((client, k), rng);
        if !job.commits() {
            job.id.1 = -k;
        }
        job
    }

    fn note(&self, job: &Job, ran: bool, result: larder::Result<i64>, busy: &AtomicU64) -> Result<(), String> {
        let problem = match result {
            Ok(n) if job.commits() => return Ok(self.journal(job.id, n)),
            Err(Error::Closed) if !ran => return Ok(()),
            Err(error) if is_busy(&error) => {
                busy.fetch_add(1, Ordering::SeqCst);
                if error.outcome() == Outcome::NotStarted && error.is_retryable() && !ran {
                    return Ok(());
                }
                format!("BUSY is {:?}, the closure ran: {ran}: {error:?}", error.outcome())
            }
            Err(error) if error.outcome() == Outcome::RolledBack => {
                if !job.commits() || matches!(error, Error::RolledBack { own_doing: false, .. }) {
                    return Ok(());
                }
                format!("{error:?}")
            }
            other => format!("{other:?}"),
        };
        Err(format!("{job:?}: {problem}"))
    }

    /// Snapshots are whole.
    fn read(&self) -> Result<(), String> {
        while !self.together.is_over() {
            if let Some(store) = self.store() {
                match store.read(|tx| Ok(look(tx))) {
                    Ok(found) => drop(found?),
                    Err(Error::Closed) => {}
                    Err(error) => return Err(format!("reading: {error:?}")),
                }
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    // ---- what must hold ----

    fn judge(self) -> Result<(), String> {
        self.together.judge()?;
        let journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.compare(&journal)?;
        // Noticed at checkpoints and while it is idle: perhaps never, by a store that closes before.
        let last = self.opened_at.load(Ordering::SeqCst);
        if journal.iter().any(|(id, n)| id.0 == OTHER && *n > last) {
            self.notices()?;
        }
        self.close()?;
        let conn = Connection::open(&self.path).map_err(|error| error.to_string())?;
        entries::sound(&conn)?;
        match look(&conn)?.len() {
            found if found == journal.len() => Ok(()),
            found => Err(format!(
                "{} commits were acknowledged, and {found} are there after closing",
                journal.len()
            )),
        }
    }

    /// Every write was told of, so the journal is complete.
    fn compare(&self, journal: &HashMap<Id, i64>) -> Result<(), String> {
        let store = self.store().ok_or("there is no store")?;
        let found = store
            .read(|tx| Ok(look(tx)))
            .map_err(|error| format!("reading: {error}"))??;
        for (n, entry) in found.iter().enumerate() {
            if journal.get(&entry.id) != Some(&(n as i64 + 1)) {
                return Err(format!(
                    "commit {} is {:?}, which was told otherwise: {:?}",
                    n + 1,
                    entry.id,
                    journal.get(&entry.id)
                ));
            }
        }
        if found.len() != journal.len() {
            return Err(format!(
                "{} commits were acknowledged, and {} are there",
                journal.len(),
                found.len()
            ));
        }
        let report = store
            .check()
            .full()
            .run()
            .map_err(|error| format!("checking: {error}"))?;
        if report.is_ok() {
            Ok(())
        } else {
            Err(report.to_string())
        }
    }

    fn notices(&self) -> Result<(), String> {
        let store = self.store().ok_or("there is no store")?;
        for _ in 0..200 {
            if self.foreign.load(Ordering::SeqCst) + store.stats().foreign_commits > 0 {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Err("the store has not noticed that another process wrote".into())
    }
}

fn is_busy(error: &Error) -> bool {
    error.sqlite().and_then(rusqlite::Error::sqlite_error_code) == Some(ErrorCode::DatabaseBusy)
}

/// Also says later whether the closure was run.
fn submit(store: &Store, job: &Job, durability: Durability) -> (Arc<AtomicBool>, larder::Result<larder::Pending<i64>>) {
    let ran = Arc::new(AtomicBool::new(false));
    let (seen, write) = (Arc::clone(&ran), job.closure());
    let pending = store.submit_with(WriteOptions::new().durability(durability), move |tx| {
        seen.store(true, Ordering::SeqCst);
        write(tx)
    });
    (ran, pending)
}
