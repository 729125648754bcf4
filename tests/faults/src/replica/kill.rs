//! `SIGKILL` of a process whose store replicates itself. The child writes from several threads, flushes, waits for the
//! replica with `Durability::Replicated`, vacuums, holds snapshots, closes and reopens, and reports to its parent. Beside a shared store another process may write, run
//! checkpoints and vacuum, and is killed, too.
//!
//! After the kill the parent restores the replica, opens the store, and closes it. What must hold is at the top of
//! `replica.rs`. With exclusive access, no kill makes a store begin its replica again: `position` knows before a checkpoint
//! that the log may begin again, and before a full file of an empty log what the database file is.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use larder::rusqlite::Connection;
use larder::{Access, Durability, Options, Store, WriteOptions};

use super::OTHERS;
use crate::Arguments;
use crate::cases::{Bench, Suite, Summary, seed};
use crate::child::{Child, tell};
use crate::entries::{self, Entry, Job, clean, copy, look};
use crate::replicated::{self, Replicated, rebases};
use crate::writers::{Chain, PATIENCE, Replies, THREADS, Writer, listen_until, run_chains};

const DATABASE: &str = "app.db";

/// Number of states from which on each kind of moment must have been hit.
const MANY: u64 = 100;

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
        live(&store, client, &counters, exclusive == "true", &mut rng);
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
fn live(store: &Store, client: i64, counters: &[AtomicI64], is_alone: bool, rng: &mut Rng) {
    let until = Instant::now() + Duration::from_micros(rng.u64(1000..60_000));
    let writers = rng.usize(1..=counters.len());
    let (newest, over) = (AtomicI64::new(0), AtomicBool::new(false));
    let (holds, vacuums, flushes) = (rng.u32(0..3) == 0, rng.u32(0..8) == 0, rng.u32(0..2) > 0);
    // More than one: a write may come while the capture for another is under way.
    let replicates = rng.usize(0..4);
    let acknowledged: &(dyn Fn(i64) + Sync) = &|n| {
        newest.fetch_max(n, Ordering::SeqCst);
    };
    thread::scope(|scope| {
        let threads: Vec<_> = counters[..writers]
            .iter()
            .zip(client..)
            .map(|(k, client)| {
                let writer = Writer {
                    store,
                    client,
                    k,
                    rng: rng.fork(),
                    is_bulky: false,
                    is_alone,
                    acknowledged,
                };
                scope.spawn(move || writer.run(until))
            })
            .collect();
        if flushes {
            scope.spawn(|| flush(store, &newest, &over));
        }
        for _ in 0..replicates {
            scope.spawn(|| replicate(store, &over));
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

/// A write that waits for the replica, and changes nothing: what it has seen is there once it is acknowledged.
fn replicate(store: &Store, over: &AtomicBool) {
    while !over.load(Ordering::SeqCst) {
        let options = WriteOptions::new().durability(Durability::Replicated);
        let seen = store.write_with(options, |tx| {
            tx.query_row("SELECT count(*) FROM entry", [], |row| row.get::<_, i64>(0))
        });
        match seen {
            Ok(commits) => tell(&format!("flushed {commits}")),
            // A write of the same group made SQLite end the transaction.
            Err(error) if error.is_retryable() => {}
            Err(error) => return tell(&format!("! replicating: {error}")),
        }
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

/// Where the kills have landed, and how many openings began the replica again.
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
    let mut summary = run_chains(&suite, "replica-kill", arguments, states, |bench| {
        Files::new(bench, arguments.seed, &landed)
    });
    if arguments.case.is_some() {
        return summary;
    }
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
            "replica kill: killed {} in opening, {} in closing, {} at work; the replica was begun again in {} of {} shared \
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
        Ok(())
    }
}

/// States that continue with each other's files.
struct Files<'a> {
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
    replies: Replies,
    /// The number of commits that the replica was said to have.
    flushed: usize,
    rebased: Vec<String>,
}

impl Journal {
    fn hear(&mut self, line: &str) -> Result<(), String> {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<i64>().map_err(|_| format!("the child told {line:?}"));
        match (words[0], words.len()) {
            _ if Replies::is_one(line) => drop(self.replies.hear(line)?),
            ("flushed", 2) => self.flushed = self.flushed.max(number(1)? as usize),
            ("closed", 1) => {
                self.phase = line.to_owned();
                self.flushed = self.flushed.max(self.replies.newest() as usize);
            }
            ("opening" | "opened" | "closing", 1) => self.phase = line.to_owned(),
            ("kept", _) => {}
            ("rebased", _) => self.rebased.push(line.to_owned()),
            _ => return Err(format!("the child: {line}")),
        }
        Ok(())
    }
}

impl Chain for Files<'_> {
    fn state(&mut self, state: u64) -> Result<(), String> {
        let result = self.try_state(state);
        // The files of a failure are not used again.
        self.begun &= result.is_ok();
        result
    }

    fn before(&self) -> PathBuf {
        self.before.clone()
    }
}

impl<'a> Files<'a> {
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
        let Some(reason) = journal.rebased.first() else {
            return Ok(());
        };
        rebased[usize::from(exclusive)].fetch_add(1, Ordering::SeqCst);
        match exclusive {
            true => Err(format!("no other process has written: {reason}")),
            false => Ok(()),
        }
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
            let heard = listen_until(&child, |line| {
                journal.hear(line)?;
                if has_other && other.is_none() && journal.phase == "opened" {
                    let arguments = [path.clone(), rng.u64(..).to_string()];
                    let started = Child::start("replica-other", &arguments);
                    other = Some(started.map_err(|error| error.to_string())?);
                }
                Ok(journal.phase == phase)
            });
            heard.map_err(|problem| format!("{problem} {}", journal.phase))?;
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
        journal.replies.compare(&self.found, &found, client)?;
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
        if let Some(earlier) = replica.earlier(txid, rng)? {
            let earlier = replica.restored(Some(earlier), commits)?;
            let (txid, earlier) = earlier.unwrap_or_default();
            is_prefix(&earlier, &held).map_err(|problem| format!("transaction {txid} of the replica: {problem}"))?;
        }
        Ok(held)
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
