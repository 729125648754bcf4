//! Other processes and a store on one file, thousands of times, each time in a different mixture (`second_process/`).
//!
//! | part | processes |
//! |---|---|
//! | `beside` | one to four others at a time beside a store under load: a client is plain rusqlite, like `sqlite3`, Litestream or an operator's script, with its own busy timeout; another is a store itself. They open the file, read, pin the WAL, write, hold the write lock for longer than the store waits, make checkpoints, vacuum, change the schema, and close; half of them are killed in the middle of one of these. The store closes and opens again meanwhile, so each process is sometimes the last to close, or the first |
//! | `alone` | `Access::Exclusive`: other processes try to open the file while such a store is under load, and such a store tries to open while others have the file open |
//!
//! No acknowledged write of any process is lost, partial, or a different commit than reported, and at most the last
//! write of a killed process is there unreported. Each process sees the others' writes from their acknowledgement on.
//! Every error that a store's caller gets is a BUSY, was *not started*, may be retried, and left nothing. The store
//! counts the commits of others, and SQLite finds nothing wrong. An exclusive store never gets a BUSY; a process that
//! is refused gets the error that the file is in use, and does no harm by trying; the store opens once the others have
//! closed.
//!
//! The other processes behave: they take SQLite's locks.

mod alone;
mod beside;
pub mod descriptors;
mod others;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use larder::rusqlite::{self, Connection, ErrorCode};
use larder::{Access, Error, Options, Store};

use self::others::KILLED_IN;
pub use self::others::child;
use crate::Arguments;
use crate::cases::{Bench, Suite, Summary, seed};
use crate::check;
use crate::child::Child;
use crate::entries::{self, Entry, Id, clean, keep, look};

const DATABASE: &str = "app.db";

/// How often others open the file in one unit, or try to.
const ROUNDS: u64 = 50;

/// Commits per round of the others: see [`Journal::is_ahead_of`].
const PACE: u64 = 40;

/// One unit in this many is `alone`.
const ALONE: u64 = 4;

/// Number of rounds from which on each kind of event must have happened, or the suite has lost its aim.
const MANY: u64 = 5000;

/// The store's busy timeout. Other processes sometimes hold a lock for longer.
const BUSY: Duration = Duration::from_millis(30);

/// A longer wait means that something hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// Clients from this number on belong to other processes.
const OTHERS: i64 = 100;

/// Clients of one process.
const CLIENTS: i64 = 4;

pub fn run(arguments: &Arguments) -> Summary {
    let suite = Suite::new("second-process", arguments).expect("a folder for temporary files");
    let met = Met::default();
    let unit = |unit: u64, bench: &Bench<'_>, end: u64| {
        let alone = unit % ALONE == ALONE - 1;
        let name = if alone { "alone" } else { "beside" };
        if arguments.only.as_ref().is_some_and(|only| !name.starts_with(only)) {
            return;
        }
        let case = (unit * ROUNDS).to_string();
        let rounds = end - unit * ROUNDS;
        let result = bench.attempt(&case, || {
            clean(&bench.folder).map_err(|error| error.to_string())?;
            let seed = seed(arguments.seed, unit, 31);
            if alone {
                alone::live(&bench.folder, seed, rounds, &met)
            } else {
                beside::live(&bench.folder, seed, rounds, &met)
            }
        });
        match result {
            Ok(()) => (0..rounds).for_each(|_| bench.note(&case, Ok(()), None)),
            Err(problem) => bench.note(
                &case,
                Err(format!(
                    "{name}: {problem}{}",
                    keep(&bench.folder, "second-process", &case)
                )),
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
    if let (Err(problem), true) = (met.judge(), summary.passed >= MANY && arguments.only.is_none()) {
        eprintln!("FAILED: {problem}");
        summary.failed += 1;
    }
    summary
}

/// The events of all units. Each kind must have happened, or the suite proves nothing.
#[derive(Default)]
struct Met {
    /// The store's writes that met another process's lock.
    busy: AtomicU64,
    /// Other processes that were refused beside an exclusive store.
    refused: AtomicU64,
    /// Exclusive stores refused beside others, and stores refused beside an exclusive one.
    in_use: AtomicU64,
    /// What processes were doing when they were killed.
    killed: Mutex<BTreeMap<String, u64>>,
}

impl Met {
    fn killed_in(&self, what: &str) {
        *lock(&self.killed).entry(what.to_owned()).or_default() += 1;
    }

    fn judge(&self) -> Result<(), String> {
        let of = |count: &AtomicU64| count.load(Ordering::SeqCst);
        let killed = lock(&self.killed);
        let told: Vec<_> = killed
            .iter()
            .map(|(what, count)| format!("{count} in {what}"))
            .collect();
        println!(
            "second-process: {} writes met a lock and were not started; killed {}; {} attempts beside an exclusive store \
             were refused, {} of exclusive stores beside others",
            of(&self.busy),
            told.join(", "),
            of(&self.refused),
            of(&self.in_use),
        );
        let counts = [&self.busy, &self.refused, &self.in_use];
        if counts.iter().any(|count| of(count) == 0) {
            return Err("the suite has lost its aim".into());
        }
        match KILLED_IN.iter().find(|what| !killed.contains_key(**what)) {
            Some(what) => Err(format!("the suite has lost its aim: nobody was killed in {what}")),
            None => Ok(()),
        }
    }
}

/// The writes that all processes have reported.
#[derive(Default)]
struct Journal {
    /// The acknowledged writes, with their commits.
    told: Mutex<HashMap<Id, i64>>,
    /// The clients of processes that were killed.
    killed: Mutex<HashSet<i64>>,
}

impl Journal {
    fn note(&self, id: Id, n: i64) {
        lock(&self.told).insert(id, n);
    }

    /// Whether the store should wait for the others: on a machine that schedules the store and not them, the tables
    /// would grow without limit, and all processes read them from one end to the other.
    fn is_ahead_of(&self, rounds: u64) -> bool {
        lock(&self.told).len() as u64 > PACE * (rounds + 1)
    }

    /// Records the clients of a killed process.
    fn note_killed(&self, first: i64) {
        lock(&self.killed).extend(first..first + CLIENTS);
    }

    /// Whether others have reported writes after a commit.
    fn has_others_after(&self, n: i64) -> bool {
        lock(&self.told).iter().any(|(id, told)| id.0 >= OTHERS && *told > n)
    }

    /// Checks that the entries are the reported ones, plus at most the last write of each killed client.
    fn compare(&self, found: &[Entry]) -> Result<(), String> {
        let told = lock(&self.told);
        let mut killed = lock(&self.killed).clone();
        let last = |client: i64| {
            told.keys()
                .filter(|id| id.0 == client)
                .map(|id| id.1)
                .max()
                .unwrap_or(0)
        };
        let mut untold = 0;
        for (entry, n) in found.iter().zip(1..) {
            let (client, k) = entry.id;
            match told.get(&entry.id) {
                Some(there) if *there == n => {}
                None if k > last(client) && killed.remove(&client) => untold += 1,
                other => {
                    return Err(format!(
                        "commit {n} is {:?}, which was told otherwise: {other:?}",
                        entry.id
                    ));
                }
            }
        }
        if found.len() == told.len() + untold {
            Ok(())
        } else {
            Err(format!(
                "{} commits were acknowledged, {untold} were made by processes that were killed before they told, and \
                 {} are there",
                told.len(),
                found.len()
            ))
        }
    }

    /// Compares through an open store.
    fn compare_with(&self, store: &Store) -> Result<(), String> {
        let found = store
            .read(|tx| Ok(look(tx)))
            .map_err(|error| format!("reading: {error:?}"))??;
        self.compare(&found)?;
        let report = store
            .check()
            .full()
            .run()
            .map_err(|error| format!("checking: {error:?}"))?;
        if report.is_ok() {
            Ok(())
        } else {
            Err(report.to_string())
        }
    }

    /// Compares with rusqlite alone, after all processes have closed.
    fn compare_file(&self, path: &Path) -> Result<(), String> {
        let conn = Connection::open(path).map_err(|error| error.to_string())?;
        check::sound(&conn)?;
        self.compare(&look(&conn)?)
            .map_err(|problem| format!("after closing: {problem}"))
    }

    /// Parses a line of another process that reports a write.
    fn hear(&self, line: &str) -> Result<Option<(Id, i64)>, String> {
        let words: Vec<&str> = line.split(' ').collect();
        let ["+", client, k, n] = words[..] else {
            return Ok(None);
        };
        let number = |word: &str| {
            word.parse::<i64>()
                .map_err(|_| format!("another process told {line:?}"))
        };
        let (id, n) = ((number(client)?, number(k)?), number(n)?);
        self.note(id, n);
        Ok(Some((id, n)))
    }
}

/// The options of a store, in any process.
fn options(access: Access, rng: &mut Rng) -> Options {
    let mut of = |list: &[u64]| list[rng.usize(0..list.len())];
    Options::new()
        .access(access)
        .checkpoint_pages(of(&[1, 16, 200, 1000]) as u32)
        .wal_limit(of(&[64 << 10, 1 << 20, 64 << 20]))
        .mmap_size(of(&[0, 256 << 20]))
        .journal_size_limit(of(&[0, 64 << 20]))
        .migrations(entries::migrations())
        .busy_timeout(BUSY)
        .readers(2)
}

/// Starts another process, in a role of `others.rs`.
fn start(role: &str, path: &Path, first_client: i64, rounds: u64, rng: &mut Rng) -> Result<Child, String> {
    let arguments = [
        role.to_owned(),
        path.display().to_string(),
        rng.u64(..).to_string(),
        first_client.to_string(),
        rounds.to_string(),
    ];
    Child::start("second-process", &arguments).map_err(|error| error.to_string())
}

/// The next line of another process, which must arrive.
fn next_line(child: &Child) -> Result<String, String> {
    child.line(PATIENCE).map_err(|ended| {
        let what = if ended { "has ended" } else { "hangs" };
        format!("another process {what}")
    })
}

fn is_busy(error: &Error) -> bool {
    error.sqlite().is_some_and(is_locked)
}

fn is_locked(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
