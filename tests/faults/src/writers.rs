//! What the suites share in which a process that writes is killed: the threads that write in the child, what the parent
//! was told of them and finds afterwards, and states that continue with each other's files.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use larder::{Durability, Error, Outcome, Store, WriteOptions};

use crate::Arguments;
use crate::cases::{Bench, Suite, Summary};
use crate::child::{Child, tell};
use crate::entries::{Entry, Id, Job, keep};

/// Threads that write in a child.
pub const THREADS: i64 = 4;

/// States on the same folder, one after another; some of them keep the files.
pub const CHAIN: u64 = 8;

/// A child without activity for this long hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

// ---- the child ----

/// A thread that writes, and reports each reply to the parent.
pub struct Writer<'a> {
    pub store: &'a Store,
    pub client: i64,
    pub k: &'a AtomicI64,
    pub rng: Rng,
    /// Whether some of its writes are large.
    pub is_bulky: bool,
    /// Whether no other process writes, which may hold the lock for longer than a write waits.
    pub is_alone: bool,
    /// Called with the number of each commit, after it was reported.
    pub acknowledged: &'a (dyn Fn(i64) + Sync),
}

impl Writer<'_> {
    pub fn run(mut self, until: Instant) {
        while Instant::now() < until {
            match self.rng.u32(0..3) {
                0 => self.group(),
                _ => {
                    let job = self.job();
                    let result = self.store.write_with(self.terms(), job.closure());
                    self.note(&job, result);
                }
            }
            if !self.is_bulky && self.rng.u32(0..8) == 0 {
                thread::sleep(Duration::from_micros(self.rng.u64(0..4000)));
            }
        }
    }

    fn group(&mut self) {
        let jobs: Vec<Job> = (0..self.rng.u32(2..12)).map(|_| self.job()).collect();
        let pending: Vec<_> = jobs
            .iter()
            .map(|job| self.store.submit_with(self.terms(), job.closure()))
            .collect();
        for (job, pending) in jobs.iter().zip(pending) {
            self.note(job, pending.and_then(|pending| pending.wait()));
        }
    }

    /// Failing jobs have negative numbers, from the same counter.
    fn job(&mut self) -> Job {
        let k = self.k.fetch_add(1, Ordering::SeqCst) + 1;
        let mut job = Job::any((self.client, k), &mut self.rng);
        if !job.commits() {
            job.id.1 = -k;
        }
        if self.is_bulky && self.rng.u32(0..4) == 0 {
            job.parts.push(self.rng.usize(50_000..300_000));
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
                (self.acknowledged)(n);
            }
            Err(error) if self.may_fail(job, &error) => tell(&format!("- {client} {k}")),
            other => tell(&format!("! {job:?} came to {other:?}")),
        }
    }

    /// Whether the job may fail with that error: a correct job fails only with its group.
    fn may_fail(&self, job: &Job, error: &Error) -> bool {
        let with_its_group = matches!(
            error,
            Error::RolledBack {
                caused_by_closure: false,
                ..
            }
        );
        match error.outcome() {
            Outcome::RolledBack => !job.commits() || with_its_group,
            Outcome::NotStarted => !self.is_alone && error.is_retryable(),
            _ => false,
        }
    }
}

// ---- what the parent is told, and finds ----

/// The replies to the writes of a child.
#[derive(Default)]
pub struct Replies {
    acknowledged: HashMap<Id, i64>,
    undone: HashSet<Id>,
}

impl Replies {
    /// Hears a line of a writer. Returns the number of the commit that it acknowledges; `None` if it does not, or is no
    /// such line.
    pub fn hear(&mut self, line: &str) -> Result<Option<i64>, String> {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<i64>().map_err(|_| format!("the child told {line:?}"));
        match (words[0], words.len()) {
            ("+", 4) => {
                let n = number(3)?;
                self.acknowledged.insert((number(1)?, number(2)?), n);
                Ok(Some(n))
            }
            ("-", 3) => {
                self.undone.insert((number(1)?, number(2)?));
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    /// Whether it is a line of a writer.
    pub fn is_one(line: &str) -> bool {
        line.starts_with("+ ") || line.starts_with("- ")
    }

    /// The last commit that was acknowledged.
    pub fn newest(&self) -> i64 {
        self.acknowledged.values().copied().max().unwrap_or(0)
    }

    /// Compares the commits that were found with the replies. `before` are those after the kill before, `client` is the
    /// first of the 16 that have written since.
    pub fn compare(&self, before: &[Entry], found: &[Entry], client: i64) -> Result<(), String> {
        for (n, before) in before.iter().enumerate() {
            if found.get(n).map(|entry| entry.id) != Some(before.id) {
                return Err(format!(
                    "commit {} was {:?} after the kill before this one",
                    n + 1,
                    before.id
                ));
            }
        }
        for (id, n) in &self.acknowledged {
            let there = found.get(*n as usize - 1).map(|entry| entry.id);
            if there != Some(*id) {
                return Err(format!("{id:?} was acknowledged as commit {n}, which is {there:?}"));
            }
        }
        let own = client..client + 16;
        for entry in &found[before.len()..] {
            if self.undone.contains(&entry.id) || !own.contains(&entry.id.0) {
                return Err(format!("{:?} is there, and was undone or made long ago", entry.id));
            }
        }
        Ok(())
    }
}

/// Hands each line of the child to `hear`, until it returns true.
///
/// # Errors
///
/// The child ends or hangs, or what `hear` returns.
pub fn listen_until(child: &Child, mut hear: impl FnMut(&str) -> Result<bool, String>) -> Result<(), String> {
    loop {
        match child.line(PATIENCE) {
            Ok(line) if hear(&line)? => return Ok(()),
            Ok(_) => {}
            Err(true) => return Err("the child died".into()),
            Err(false) => return Err("the child hangs".into()),
        }
    }
}

// ---- chains of states ----

/// States that continue with each other's files.
pub trait Chain {
    /// One state.
    fn state(&mut self, state: u64) -> Result<(), String>;
    /// The files as the last kill left them, kept after a failure.
    fn before(&self) -> PathBuf;
}

/// Runs chains of states, each begun by `begin`.
pub fn run_chains<C: Chain>(
    suite: &Suite,
    name: &str,
    arguments: &Arguments,
    states: u64,
    begin: impl Fn(&Bench<'_>) -> C + Sync,
) -> Summary {
    let chain = |bench: &Bench<'_>, states: Range<u64>| {
        let mut chain = begin(bench);
        for state in states {
            let case = state.to_string();
            let result = bench.attempt(&case, || chain.state(state));
            let result = result.map_err(|problem| problem + &keep(&chain.before(), name, &case));
            let failed = result.is_err();
            bench.note(&case, result, None);
            if failed || bench.is_enough() {
                return;
            }
        }
    };
    if let Some(case) = arguments.number_of_case() {
        // A case's choices depend on the previous ones of its chain.
        let unit = case / CHAIN;
        return suite.run(1, unit..unit + 1, |unit, bench| chain(bench, unit * CHAIN..case + 1));
    }
    let units = arguments.from / CHAIN..states.div_ceil(CHAIN);
    suite.run(arguments.threads, units, |unit, bench| {
        chain(bench, unit * CHAIN..states.min((unit + 1) * CHAIN));
    })
}
