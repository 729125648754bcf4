//! A store under load, and one to four other processes that start and end in turn. The store is closed and reopened in
//! between.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use larder::{Access, Durability, Error, Outcome, Pending, Store, WriteOptions};

use super::others::judge;
use super::{CLIENTS, DATABASE, Journal, Met, OTHERS, PATIENCE, is_busy, options, start};
use crate::entries::{Job, look};
use crate::together::Together;

const WRITERS: i64 = 3;

/// The activities in which a process is killed, if it reaches them in time.
const AIMS: &[(&str, &[&str])] = &[
    (
        "client",
        &[
            "opening",
            "reading",
            "reading for long",
            "writing",
            "writing",
            "writing for long",
            "a checkpoint",
            "a checkpoint",
            "a vacuum",
            "a change of the schema",
            "a change of the schema",
            "closing",
        ],
    ),
    (
        "store",
        &[
            "a store's opening",
            "a store's writing",
            "a store's vacuum",
            "a store's closing",
        ],
    ),
];

/// A process is killed after this many lines in any case.
const LINES: u64 = 40;

pub fn live(folder: &Path, seed: u64, rounds: u64, met: &Met) -> Result<(), String> {
    let mut rng = Rng::with_seed(seed);
    let house = House {
        path: folder.join(DATABASE),
        met,
        store: RwLock::new(None),
        together: Together::default(),
        k: (0..WRITERS).map(|_| AtomicI64::new(0)).collect(),
        journal: Journal::default(),
        processes: AtomicI64::new(0),
        rounds: AtomicU64::new(0),
        foreign: AtomicU64::new(0),
        opened_at: AtomicI64::new(0),
    };
    house.open(&mut rng)?;
    let others = rng.u64(1..5);
    thread::scope(|scope| {
        let house = &house;
        for client in 0..WRITERS {
            let rng = rng.fork();
            scope.spawn(move || house.together.guard(|| house.write(client, rng)));
        }
        scope.spawn(|| house.together.guard(|| house.read()));
        let threads: Vec<_> = (0..others)
            .map(|_| {
                let rng = rng.fork();
                scope.spawn(move || house.together.guard(|| house.have_others(rounds, rng)))
            })
            .collect();
        for part in [rounds / 3, 2 * rounds / 3] {
            house.together.guard(|| house.close_and_open_at(part, &mut rng));
        }
        for thread in threads {
            let _ = thread.join();
        }
        house.together.end();
    });
    house.judge()
}

/// A store, its users, and the journal of all.
struct House<'a> {
    path: PathBuf,
    met: &'a Met,
    store: RwLock<Option<Store>>,
    together: Together,
    k: Vec<AtomicI64>,
    journal: Journal,
    /// Number of other processes that were started.
    processes: AtomicI64,
    /// How often others have opened and closed the file, or were killed.
    rounds: AtomicU64,
    /// Commits of others that the store has counted.
    foreign: AtomicU64,
    /// The last commit when the store was last opened, or a later one.
    opened_at: AtomicI64,
}

impl House<'_> {
    /// Reopens the store, while others may interfere.
    fn open(&self, rng: &mut Rng) -> Result<(), String> {
        let options = options(Access::Shared, rng);
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

    /// Uses a write: the writer has checked the file before its first write.
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

    fn close(&self) -> Result<(), String> {
        let Some(store) = self.store.write().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(());
        };
        // The WAL stays if others have the file open.
        store.close().map_err(|error| format!("closing: {error}"))?;
        self.foreign.fetch_add(store.stats().external_commits, Ordering::SeqCst);
        Ok(())
    }

    fn close_and_open_at(&self, rounds: u64, rng: &mut Rng) -> Result<(), String> {
        while self.rounds.load(Ordering::SeqCst) < rounds {
            if self.together.is_over() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(1));
        }
        self.close()?;
        self.open(rng)
    }

    // ---- the others ----

    /// Runs one process after another, until all rounds are done.
    fn have_others(&self, rounds: u64, mut rng: Rng) -> Result<(), String> {
        while self.rounds.load(Ordering::SeqCst) < rounds && !self.together.is_over() {
            self.have_one(rounds, &mut rng)?;
        }
        Ok(())
    }

    fn have_one(&self, rounds: u64, rng: &mut Rng) -> Result<(), String> {
        let first = OTHERS + CLIENTS * self.processes.fetch_add(1, Ordering::SeqCst);
        let (role, aims) = AIMS[usize::from(rng.u32(0..3) == 0)];
        let aim = rng.bool().then(|| format!("> {}", aims[rng.usize(0..aims.len())]));
        let mut child = start(role, &self.path, first, rng.u64(1..rounds.max(2)), rng)?;
        let (mut doing, mut lines) = (String::from("> opening"), 0);
        loop {
            let line = match child.line(PATIENCE) {
                Ok(line) => line,
                Err(true) => break,
                Err(false) => return Err(format!("another process hangs, {doing}")),
            };
            self.hear(&line, &mut doing)?;
            lines += 1;
            let is_enough = self.rounds.load(Ordering::SeqCst) >= rounds || self.together.is_over();
            if is_enough || aim.as_ref().is_some_and(|aim| *aim == line || lines >= LINES) {
                thread::sleep(Duration::from_micros(1 << rng.u32(0..11)).mul_f64(rng.f64()));
                child.kill();
                let (rest, _) = child.rest();
                rest.iter().try_for_each(|line| self.hear(line, &mut doing))?;
                self.journal.note_killed(first);
                self.met.killed_in(doing.trim_start_matches("> "));
                self.rounds.fetch_add(1, Ordering::SeqCst);
                return Ok(());
            }
        }
        let (_, status) = child.rest();
        if status.success() {
            Ok(())
        } else {
            Err(format!("another process: {status}, {doing}"))
        }
    }

    fn hear(&self, line: &str, doing: &mut String) -> Result<(), String> {
        if line == "round" {
            self.rounds.fetch_add(1, Ordering::SeqCst);
        } else if line.starts_with("> ") {
            line.clone_into(doing);
        } else if let Some((id, n)) = self.journal.hear(line)? {
            return self.sees(id.0, id.1, n);
        } else {
            return Err(format!("another process: {line}"));
        }
        Ok(())
    }

    /// Checks that from now on a read sees another process's commit.
    fn sees(&self, client: i64, k: i64, n: i64) -> Result<(), String> {
        let Some(store) = self.store() else { return Ok(()) };
        let entry = "SELECT 1 FROM entry WHERE n = ?1 AND client = ?2 AND k = ?3";
        match store.read(|tx| tx.exists(entry, [n, client, k])) {
            Ok(true) | Err(Error::Closed) => Ok(()),
            Ok(false) => Err(format!("commit {n} of another process is not seen")),
            Err(error) => Err(format!("reading: {error:?}")),
        }
    }

    // ---- the store's own threads ----

    fn write(&self, client: i64, mut rng: Rng) -> Result<(), String> {
        while !self.together.is_over() {
            let Some(store) = self
                .store()
                .filter(|_| !self.journal.is_ahead_of(self.rounds.load(Ordering::SeqCst)))
            else {
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
                self.note(job, ran.load(Ordering::SeqCst), result)?;
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

    fn note(&self, job: &Job, ran: bool, result: larder::Result<i64>) -> Result<(), String> {
        match &result {
            Err(Error::Closed) if !ran => return Ok(()),
            Err(error) if is_busy(error) => drop(self.met.busy.fetch_add(1, Ordering::SeqCst)),
            _ => {}
        }
        if let Some(n) = judge(job, ran, result)? {
            self.journal.note(job.id, n);
        }
        Ok(())
    }

    /// Checks that snapshots are whole.
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

    fn judge(&self) -> Result<(), String> {
        self.together.judge()?;
        let store = self.store().ok_or("there is no store")?;
        self.journal.compare_with(&store)?;
        // The store detects others' commits at checkpoints and while idle; a store that closes before may never detect
        // them.
        if self.journal.has_others_after(self.opened_at.load(Ordering::SeqCst)) {
            self.notices(&store)?;
        }
        drop(store);
        self.close()?;
        self.journal.compare_file(&self.path)
    }

    fn notices(&self, store: &Store) -> Result<(), String> {
        for _ in 0..1500 {
            if self.foreign.load(Ordering::SeqCst) + store.stats().external_commits > 0 {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Err("the store has not noticed that another process wrote".into())
    }
}

/// Also returns whether the closure ran, to be read later.
fn submit(store: &Store, job: &Job, durability: Durability) -> (Arc<AtomicBool>, larder::Result<Pending<i64>>) {
    let ran = Arc::new(AtomicBool::new(false));
    let (seen, write) = (Arc::clone(&ran), job.closure());
    let pending = store.submit_with(WriteOptions::new().durability(durability), move |tx| {
        seen.store(true, Ordering::SeqCst);
        write(tx)
    });
    (ran, pending)
}
