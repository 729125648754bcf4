//! `SIGKILL` of a process whose store replicates itself. The child writes from several threads, flushes, vacuums, holds
//! snapshots, closes and reopens, and reports to its parent. Beside a shared store another process may write, run
//! checkpoints and vacuum, and is killed, too.
//!
//! After the kill the parent restores the replica, opens the store, and closes it. What must hold is at the top of
//! `replica.rs`. With exclusive access, a kill hardly ever makes a store begin its replica anew: `position` knows before a
//! checkpoint that the log may begin again. Only one between a full file and its position does, if the log is empty.

use std::collections::{HashMap, HashSet};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use larder::rusqlite::Connection;
use larder::{Access, Durability, Options, Outcome, Store, WriteOptions};

use super::OTHERS;
use crate::Arguments;
use crate::cases::{Bench, Suite, Summary, seed};
use crate::child::{Child, tell};
use crate::entries::{self, Entry, Id, Job, clean, copy, keep, look};
use crate::replicated::{self, Replicated, rebases};

const DATABASE: &str = "app.db";

/// States that may continue with each other's files.
const CHAIN: u64 = 8;

/// Number of states from which on each kind of moment must have been hit.
const MANY: u64 = 100;

/// A child without activity for this long hangs.
const PATIENCE: Duration = Duration::from_secs(20);

const THREADS: i64 = 4;

// ---- the child ----

/// Opens, works and closes, until it is killed.
pub fn child(arguments: &[String]) {
    let [path, seed, client, exclusive] = arguments else {
        panic!("replica: wrong arguments")
    };
    replicated::listen();
    replicated::tell_rebases();
    let mut rng = Rng::with_seed(seed.parse().expect("a number"));
    let client: i64 = client.parse().expect("a number");
    let options = options(Path::new(path), exclusive == "true", &mut rng);
    let counters: Vec<AtomicI64> = (0..THREADS).map(|_| AtomicI64::new(0)).collect();
    loop {
        tell("opening");
        let store = match options.clone().open(path) {
            Ok(store) => store,
            Err(error) => return tell(&format!("! opening: {error}")),
        };
        tell("opened");
        live(&store, client, &counters, &mut rng);
        tell("closing");
        match store.close() {
            Ok(report) if report.wal_truncated && report.replicated == Some(true) => tell("closed"),
            // The other process may hold the log.
            Ok(report) if exclusive == "false" => tell(&format!("kept {report}")),
            other => return tell(&format!("! closing: {other:?}")),
        }
    }
}

fn options(path: &Path, exclusive: bool, rng: &mut Rng) -> Options {
    let replica = Replicated::any(path.with_file_name("replica"), rng);
    let mut of = |list: &[u64]| list[rng.usize(0..list.len())];
    Options::new()
        .replicate_to(replica.options())
        .checkpoint_pages(of(&[1, 8, 8, 40, 100, 1000]) as u32)
        .wal_limit(of(&[64 << 10, 64 << 20, 64 << 20]))
        .page_size(of(&[512, 4096, 4096]))
        .cache_size(of(&[16 << 10, 64_000 << 10]))
        .mmap_size(of(&[0, 256 << 20]))
        .journal_size_limit(of(&[0, 64 << 20]))
        .durability(if of(&[0, 1]) == 0 {
            Durability::Normal
        } else {
            Durability::Full
        })
        .access(if exclusive { Access::Exclusive } else { Access::Shared })
        .migrations(entries::migrations())
        .readers(3)
}

/// Several threads write for a while, one flushes, and one holds snapshots or vacuums.
fn live(store: &Store, client: i64, counters: &[AtomicI64], rng: &mut Rng) {
    let until = Instant::now() + Duration::from_micros(rng.u64(1000..60_000));
    let writers = rng.usize(1..=counters.len());
    let (newest, over) = (AtomicI64::new(0), AtomicBool::new(false));
    let (holds, vacuums, flushes) = (rng.u32(0..3) == 0, rng.u32(0..8) == 0, rng.u32(0..4) > 0);
    thread::scope(|scope| {
        let threads: Vec<_> = counters[..writers]
            .iter()
            .zip(client..)
            .map(|(k, client)| {
                let newest = &newest;
                let writer = Writer {
                    store,
                    client,
                    k,
                    newest,
                    rng: rng.fork(),
                };
                scope.spawn(move || writer.run(until))
            })
            .collect();
        if flushes {
            scope.spawn(|| flush(store, &newest, &over));
        }
        if holds {
            scope.spawn(|| hold(store, &over));
        }
        if vacuums {
            scope.spawn(|| store.vacuum().run().map(drop));
        }
        for thread in threads {
            thread.join().expect("a writer does not panic");
        }
        over.store(true, Ordering::SeqCst);
    });
}

fn flush(store: &Store, newest: &AtomicI64, over: &AtomicBool) {
    while !over.load(Ordering::SeqCst) {
        let acknowledged = newest.load(Ordering::SeqCst);
        match store.replica().and_then(|replica| replica.flush(PATIENCE)) {
            Ok(_) => tell(&format!("flushed {acknowledged}")),
            Err(error) => return tell(&format!("! flushing: {error}")),
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn hold(store: &Store, over: &AtomicBool) {
    while !over.load(Ordering::SeqCst) {
        let held = store.read(|tx| {
            tx.exists("SELECT 1 FROM entry", [])?;
            thread::sleep(Duration::from_millis(5));
            Ok(())
        });
        if let Err(error) = held {
            return tell(&format!("! reading: {error}"));
        }
    }
}

struct Writer<'a> {
    store: &'a Store,
    client: i64,
    k: &'a AtomicI64,
    newest: &'a AtomicI64,
    rng: Rng,
}

impl Writer<'_> {
    fn run(mut self, until: Instant) {
        while Instant::now() < until {
            let jobs: Vec<Job> = (0..1 + self.rng.u32(0..4) / 3 * 6).map(|_| self.job()).collect();
            let pending: Vec<_> = jobs
                .iter()
                .map(|job| self.store.submit_with(self.terms(), job.closure()))
                .collect();
            for (job, pending) in jobs.iter().zip(pending) {
                self.note(job, pending.and_then(|pending| pending.wait()));
            }
            if self.rng.u32(0..4) == 0 {
                thread::sleep(Duration::from_micros(self.rng.u64(0..4000)));
            }
        }
    }

    /// Failing jobs have negative numbers, from the same counter.
    fn job(&mut self) -> Job {
        let k = self.k.fetch_add(1, Ordering::SeqCst) + 1;
        let mut job = Job::any((self.client, k), &mut self.rng);
        if !job.commits() {
            job.id.1 = -k;
        }
        job
    }

    fn terms(&mut self) -> WriteOptions {
        let full = self.rng.u32(0..4) == 0;
        WriteOptions::new().durability(if full { Durability::Full } else { Durability::Normal })
    }

    fn note(&self, job: &Job, result: larder::Result<i64>) {
        let (client, k) = job.id;
        match result {
            Ok(n) if job.commits() => {
                tell(&format!("+ {client} {k} {n}"));
                self.newest.fetch_max(n, Ordering::SeqCst);
            }
            Err(error) if error.outcome() == Outcome::RolledBack => tell(&format!("- {client} {k}")),
            // The other process may hold the lock for longer than a write waits.
            Err(error) if error.outcome() == Outcome::NotStarted && error.is_retryable() => {
                tell(&format!("- {client} {k}"));
            }
            other => tell(&format!("! {job:?} came to {other:?}")),
        }
    }
}

/// Another process, which uses the file with SQLite alone.
pub fn other(arguments: &[String]) {
    let [path, seed] = arguments else {
        panic!("replica-other: wrong arguments")
    };
    let mut rng = Rng::with_seed(seed.parse().expect("a number"));
    loop {
        if let Ok(conn) = Connection::open(path) {
            for _ in 0..rng.usize(1..6) {
                // It may find the file busy.
                let _ = conn.execute_batch(OTHERS[rng.usize(0..OTHERS.len())]);
                thread::sleep(Duration::from_micros(rng.u64(0..6000)));
            }
        }
    }
}

// ---- the parent ----

/// Where the kills have landed, and how many openings began the replica anew.
#[derive(Default)]
struct Landed {
    opening: AtomicU64,
    closing: AtomicU64,
    at_work: AtomicU64,
    rebased: [AtomicU64; 2],
    states: [AtomicU64; 2],
}

pub fn run(arguments: &Arguments, states: u64) -> Summary {
    let suite = Suite::new("replica kill", arguments).expect("a folder for temporary files");
    let landed = Landed::default();
    let chain = |unit: u64, bench: &Bench<'_>, end: u64| {
        let mut chain = Chain::new(bench, arguments.seed, &landed);
        for state in unit * CHAIN..end {
            let case = state.to_string();
            let result = bench.attempt(&case, || chain.state(state));
            let result = result.map_err(|problem| problem + &keep(&chain.before, "replica-kill", &case));
            let failed = result.is_err();
            bench.note(&case, result, None);
            if failed || bench.is_enough() {
                return;
            }
        }
    };
    if let Some(case) = arguments.number_of_case() {
        return suite.run(1, case / CHAIN..case / CHAIN + 1, |unit, bench| {
            chain(unit, bench, case + 1)
        });
    }
    let units = arguments.from / CHAIN..states.div_ceil(CHAIN);
    let mut summary = suite.run(arguments.threads, units, |unit, bench| {
        chain(unit, bench, states.min((unit + 1) * CHAIN));
    });
    if let (Err(problem), true) = (landed.judge(), summary.passed >= MANY) {
        eprintln!("FAILED: {problem}");
        summary.failed += 1;
    }
    summary
}

impl Landed {
    fn judge(&self) -> Result<(), String> {
        let of = |count: &AtomicU64| count.load(Ordering::SeqCst);
        println!(
            "replica kill: killed {} in opening, {} in closing, {} at work; the replica was begun anew in {} of {} shared \
             states and {} of {} exclusive ones",
            of(&self.opening),
            of(&self.closing),
            of(&self.at_work),
            of(&self.rebased[0]),
            of(&self.states[0]),
            of(&self.rebased[1]),
            of(&self.states[1]),
        );
        if [&self.opening, &self.closing, &self.at_work]
            .into_iter()
            .any(|place| of(place) == 0)
        {
            return Err("the suite has lost its aim".into());
        }
        if of(&self.rebased[1]) > 2 + of(&self.states[1]) / 50 {
            return Err("exclusive stores begin their replica anew too often".into());
        }
        Ok(())
    }
}

/// States that continue with each other's files.
struct Chain<'a> {
    folder: PathBuf,
    /// The files as the kill left them.
    before: PathBuf,
    seed: u64,
    landed: &'a Landed,
    /// The commits after the last kill, which must stay.
    found: Vec<Entry>,
    begun: bool,
}

/// The reports of a child.
#[derive(Default)]
struct Journal {
    phase: String,
    acknowledged: HashMap<Id, i64>,
    undone: HashSet<Id>,
    /// The number of commits that the replica was said to have.
    flushed: usize,
    rebased: Vec<String>,
}

impl Journal {
    fn hear(&mut self, line: &str) -> Result<(), String> {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<i64>().map_err(|_| format!("the child told {line:?}"));
        match (words[0], words.len()) {
            ("+", 4) => drop(self.acknowledged.insert((number(1)?, number(2)?), number(3)?)),
            ("-", 3) => drop(self.undone.insert((number(1)?, number(2)?))),
            ("flushed", 2) => self.flushed = self.flushed.max(number(1)? as usize),
            ("closed", 1) => {
                self.phase = line.to_owned();
                let newest = self.acknowledged.values().max();
                self.flushed = self.flushed.max(newest.map_or(0, |n| *n as usize));
            }
            ("opening" | "opened" | "closing", 1) => self.phase = line.to_owned(),
            ("kept", _) => {}
            ("rebased", _) => self.rebased.push(line.to_owned()),
            _ => return Err(format!("the child: {line}")),
        }
        Ok(())
    }
}

impl<'a> Chain<'a> {
    fn new(bench: &Bench<'_>, seed: u64, landed: &'a Landed) -> Self {
        Self {
            folder: bench.folder.join("files"),
            before: bench.folder.join("before"),
            seed,
            landed,
            found: Vec::new(),
            begun: false,
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.join(DATABASE)
    }

    fn state(&mut self, state: u64) -> Result<(), String> {
        let result = self.try_state(state);
        // The files of a failure are not used again.
        self.begun &= result.is_ok();
        result
    }

    fn try_state(&mut self, state: u64) -> Result<(), String> {
        let mut rng = Rng::with_seed(seed(self.seed, state, 41));
        if rng.bool() || !self.begun {
            clean(&self.folder).map_err(|error| error.to_string())?;
            self.found.clear();
        }
        self.begun = true;
        let client = state as i64 * 16;
        let exclusive = rng.bool();
        let has_other = !exclusive && rng.u32(0..3) == 0;
        let mut journal = Journal::default();
        for life in 0..1 + i64::from(rng.u32(0..4) == 0) {
            self.kill(&mut journal, client + life * THREADS, exclusive, has_other, &mut rng)?;
        }
        clean(&self.before)
            .and_then(|()| copy(&self.folder, &self.before))
            .map_err(|error| error.to_string())?;
        self.check(&mut journal, client, exclusive, &mut rng)?;
        let (all, rebased) = (&self.landed.states, &self.landed.rebased);
        all[usize::from(exclusive)].fetch_add(1, Ordering::SeqCst);
        if !journal.rebased.is_empty() {
            rebased[usize::from(exclusive)].fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }

    /// One life of a child.
    fn kill(
        &self,
        journal: &mut Journal,
        client: i64,
        exclusive: bool,
        has_other: bool,
        rng: &mut Rng,
    ) -> Result<(), String> {
        let path = self.path().display().to_string();
        let arguments = [
            path.clone(),
            rng.u64(..).to_string(),
            client.to_string(),
            exclusive.to_string(),
        ];
        journal.phase = "starting".into();
        let mut child = Child::start("replica", &arguments).map_err(|error| error.to_string())?;
        let phase = ["opening", "opened", "opened", "opened", "closing"][rng.usize(0..5)];
        let lives = if rng.u32(0..3) == 0 { 2 } else { 1 };
        let mut other = None;
        for _ in 0..lives {
            journal.phase.clear();
            while journal.phase != phase {
                match child.line(PATIENCE) {
                    Ok(line) => journal.hear(&line)?,
                    Err(true) => return Err(format!("the child died {}", journal.phase)),
                    Err(false) => return Err(format!("the child hangs {}", journal.phase)),
                }
                if has_other && other.is_none() && journal.phase == "opened" {
                    let arguments = [path.clone(), rng.u64(..).to_string()];
                    let started = Child::start("replica-other", &arguments);
                    other = Some(started.map_err(|error| error.to_string())?);
                }
            }
        }
        let most = if phase == "opened" { 60_000 } else { 8000 };
        thread::sleep(Duration::from_micros(rng.u64(0..most)));
        child.kill();
        drop(other);
        let (lines, status) = child.rest();
        lines.iter().try_for_each(|line| journal.hear(line))?;
        if status.signal() != Some(libc::SIGKILL) {
            return Err(format!("the child ended by itself {}: {status}", journal.phase));
        }
        let place = match journal.phase.as_str() {
            "opening" => &self.landed.opening,
            "closing" => &self.landed.closing,
            _ => &self.landed.at_work,
        };
        place.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    // ---- what must hold ----

    fn check(&mut self, journal: &mut Journal, client: i64, exclusive: bool, rng: &mut Rng) -> Result<(), String> {
        let replica = Replicated::any(self.folder.join("replica"), rng);
        let held = self.held(&replica, journal.flushed, rng)?;
        rebases(&self.path());
        let store = options(&self.path(), exclusive, rng)
            .open(self.path())
            .map_err(|error| format!("larder does not open it: {error}"))?;
        let found = store
            .read(|tx| Ok(look(tx)))
            .map_err(|error| format!("reading: {error}"))??;
        self.compare(&found, journal, client)?;
        is_prefix(&held, &found).map_err(|problem| format!("the replica and the database: {problem}"))?;
        let n = store
            .write(Job::plain((client + 15, 1)).closure())
            .map_err(|error| format!("a write after it: {error}"))?;
        if n != found.len() as i64 + 1 {
            return Err(format!(
                "a write after it is commit {n}, and {} were found",
                found.len()
            ));
        }
        if rng.bool() {
            let flushed = store.replica().and_then(|replica| replica.flush(PATIENCE));
            flushed.map_err(|error| format!("flushing: {error}"))?;
        }
        let report = store.close().map_err(|error| format!("closing: {error}"))?;
        if !report.wal_truncated || report.replicated != Some(true) {
            return Err(format!("closing: {report}"));
        }
        replica
            .compare(&self.path(), rng)
            .map_err(|problem| format!("the replica of the closed database: {problem}"))?;
        journal.rebased.extend(rebases(&self.path()));
        self.found = replicated::open(&self.path()).and_then(|conn| look(&conn))?;
        Ok(())
    }

    /// The commits in the replica. Each of its transactions has a prefix of them.
    fn held(&self, replica: &Replicated, flushed: usize, rng: &mut Rng) -> Result<Vec<Entry>, String> {
        let commits = |txid: u64, restored: &Path| {
            let conn = replicated::open(restored)?;
            let there = conn.table_exists(None, "entry").map_err(|error| error.to_string())?;
            // The first transaction may have come before the migration.
            Ok((txid, if there { look(&conn)? } else { vec![] }))
        };
        let (txid, held) = replica.restored(None, commits)?.unwrap_or_default();
        if held.len() < flushed {
            return Err(format!(
                "the replica has {} commits, and {flushed} were said to be there",
                held.len()
            ));
        }
        if txid > 1 {
            let earlier = replica.restored(Some(rng.u64(1..txid)), commits)?;
            let (txid, earlier) = earlier.unwrap_or_default();
            is_prefix(&earlier, &held).map_err(|problem| format!("transaction {txid} of the replica: {problem}"))?;
        }
        Ok(held)
    }

    fn compare(&self, found: &[Entry], journal: &Journal, client: i64) -> Result<(), String> {
        for (n, before) in self.found.iter().enumerate() {
            if found.get(n).map(|entry| entry.id) != Some(before.id) {
                return Err(format!(
                    "commit {} was {:?} after the kill before this one",
                    n + 1,
                    before.id
                ));
            }
        }
        for (id, n) in &journal.acknowledged {
            let there = found.get(*n as usize - 1).map(|entry| entry.id);
            if there != Some(*id) {
                return Err(format!("{id:?} was acknowledged as commit {n}, which is {there:?}"));
            }
        }
        let own = client..client + 16;
        for entry in &found[self.found.len()..] {
            if journal.undone.contains(&entry.id) || !own.contains(&entry.id.0) {
                return Err(format!("{:?} is there, and was undone or made long ago", entry.id));
            }
        }
        Ok(())
    }
}

/// Whether these commits are the first of those.
pub fn is_prefix(these: &[Entry], those: &[Entry]) -> Result<(), String> {
    if these.len() > those.len() {
        return Err(format!("{} commits, and then {}", these.len(), those.len()));
    }
    let as_of = these.len() as i64;
    match (0..these.len()).find(|n| these[*n] != those[*n].as_of(as_of)) {
        None => Ok(()),
        Some(n) => Err(format!("commit {} is {:?}, and {:?}", n + 1, these[n], those[n])),
    }
}
