//! `Access::Exclusive`: no other process can open the file while such a store is open, and the store does not open
//! while another process has the file open.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use larder::{Access, Store};

use super::others::{self, in_use, judge};
use super::{BUSY, CLIENTS, DATABASE, Journal, Met, OTHERS, PATIENCE, is_busy, next_line, options, start};
use crate::child::Child;
use crate::entries::{Job, look};
use crate::together::Together;

const WRITERS: i64 = 2;

/// Attempts of one intruder.
const ATTEMPTS: u64 = 8;

/// The processes that have the file open when a store asks for exclusive access.
const HOLDERS: &[&str] = &["connection", "reader", "writer", "shared store", "exclusive store"];

pub fn live(folder: &Path, seed: u64, rounds: u64, met: &Met) -> Result<(), String> {
    let mut scene = Scene {
        path: folder.join(DATABASE),
        met,
        rng: Rng::with_seed(seed),
        k: (0..=WRITERS).map(|_| AtomicI64::new(0)).collect(),
        journal: Journal::default(),
        processes: AtomicI64::new(0),
        rounds: AtomicU64::new(0),
    };
    scene.open(Access::Exclusive)?.close().map_err(in_words)?;
    while scene.rounds.load(Ordering::SeqCst) < rounds {
        scene.nobody_comes_in()?;
        for _ in 0..4 {
            scene.somebody_is_in()?;
        }
    }
    scene.journal.compare_file(&scene.path)
}

fn in_words(error: larder::Error) -> String {
    format!("{error:?}")
}

struct Scene<'a> {
    path: PathBuf,
    met: &'a Met,
    rng: Rng,
    k: Vec<AtomicI64>,
    journal: Journal,
    processes: AtomicI64,
    /// Attempts that were refused.
    rounds: AtomicU64,
}

impl Scene<'_> {
    /// Opens while no other process has the file open.
    fn open(&mut self, access: Access) -> Result<Store, String> {
        options(access, &mut self.rng)
            .open(&self.path)
            .map_err(|error| format!("nobody else is there, and {access:?} does not open: {error:?}"))
    }

    fn first_client(&self) -> i64 {
        OTHERS + CLIENTS * self.processes.fetch_add(1, Ordering::SeqCst)
    }

    fn note_refusal(&self, count: &AtomicU64) {
        self.rounds.fetch_add(1, Ordering::SeqCst);
        count.fetch_add(1, Ordering::SeqCst);
    }

    // ---- an exclusive store under load ----

    fn nobody_comes_in(&mut self) -> Result<(), String> {
        let store = self.open(Access::Exclusive)?;
        let together = Together::default();
        let rngs: Vec<_> = (0..self.rng.u32(1..4)).map(|_| self.rng.fork()).collect();
        let mut own: Vec<_> = (0..WRITERS).map(|_| self.rng.fork()).collect();
        thread::scope(|scope| {
            let (scene, store, together) = (&*self, &store, &together);
            for client in 0..WRITERS {
                let mut rng = own.pop().expect("one for each");
                scope.spawn(move || {
                    together.guard(|| {
                        while !together.is_over() {
                            if scene.journal.is_ahead_of(scene.rounds.load(Ordering::SeqCst)) {
                                thread::sleep(Duration::from_millis(1));
                            } else {
                                scene.write(store, client, &mut rng)?;
                            }
                        }
                        Ok(())
                    })
                });
            }
            scope.spawn(move || {
                together.guard(|| {
                    while !together.is_over() {
                        store.read(|tx| Ok(look(tx))).map_err(in_words)??;
                    }
                    Ok(())
                })
            });
            let intruders: Vec<_> = rngs
                .into_iter()
                .map(|rng| scope.spawn(move || together.guard(|| scene.have_intruder(rng))))
                .collect();
            for intruder in intruders {
                let _ = intruder.join();
            }
            together.end();
        });
        together.judge()?;
        self.journal.compare_with(&store)?;
        let report = store.close().map_err(in_words)?;
        if !report.wal_truncated {
            return Err(format!("an exclusive store closes, and {report}"));
        }
        self.others_come_in()
    }

    /// Writes. No lock of another process may ever interfere.
    fn write(&self, store: &Store, client: i64, rng: &mut Rng) -> Result<(), String> {
        let k = self.k[client as usize].fetch_add(1, Ordering::SeqCst) + 1;
        let mut job = Job::any((client, k), rng);
        if !job.commits() {
            job.id.1 = -k;
        }
        let (ran, result) = others::write(store, &job);
        match &result {
            Err(error) if is_busy(error) => return Err(format!("an exclusive store meets a lock: {error:?}")),
            _ => {}
        }
        if let Some(n) = judge(&job, ran, result)? {
            self.journal.note(job.id, n);
        }
        Ok(())
    }

    /// Starts a process that tries repeatedly to open the file, and may be killed while it tries.
    fn have_intruder(&self, mut rng: Rng) -> Result<(), String> {
        let mut child = start("intruder", &self.path, self.first_client(), ATTEMPTS, &mut rng)?;
        let killed_after = rng.bool().then(|| rng.u64(0..2 * ATTEMPTS));
        for lines in 0.. {
            if killed_after == Some(lines) {
                thread::sleep(Duration::from_micros(1 << rng.u32(0..12)).mul_f64(rng.f64()));
                child.kill();
                let (rest, _) = child.rest();
                self.met.killed_in("an attempt");
                return rest.iter().try_for_each(|line| self.hear(line));
            }
            match child.line(PATIENCE) {
                Ok(line) => self.hear(&line)?,
                Err(true) => break,
                Err(false) => return Err("an intruder hangs".into()),
            }
        }
        let (_, status) = child.rest();
        if status.success() {
            Ok(())
        } else {
            Err(format!("an intruder: {status}"))
        }
    }

    fn hear(&self, line: &str) -> Result<(), String> {
        match line {
            "round" => Ok(self.note_refusal(&self.met.refused)),
            "> an attempt" => Ok(()),
            _ => Err(format!("an intruder: {line}")),
        }
    }

    /// Checks that others can open the file once the store has closed.
    fn others_come_in(&mut self) -> Result<(), String> {
        let how = HOLDERS[self.rng.usize(0..HOLDERS.len())];
        let mut holder = self.let_in(how)?;
        self.has_written(&mut holder)?;
        self.leaves(holder)
    }

    // ---- another process has the file open ----

    fn somebody_is_in(&mut self) -> Result<(), String> {
        let how = HOLDERS[self.rng.usize(0..HOLDERS.len())];
        let wrong = |problem: String| format!("a {how} is in: {problem}");
        let mut holder = self.let_in(how).map_err(wrong)?;
        let accesses: &[Access] = if how == "exclusive store" {
            &[Access::Shared, Access::Exclusive]
        } else {
            &[Access::Exclusive]
        };
        for _ in 0..self.rng.u32(1..3) {
            for access in accesses {
                self.is_refused(*access).map_err(wrong)?;
            }
            self.has_written(&mut holder).map_err(wrong)?;
        }
        let access = accesses[self.rng.usize(0..accesses.len())];
        let store = if self.rng.bool() {
            self.waits_until_it_leaves(access, holder).map_err(wrong)?
        } else {
            self.leaves(holder).map_err(wrong)?;
            self.open(access)?
        };
        let mut rng = self.rng.fork();
        self.write(&store, WRITERS, &mut rng)?;
        self.journal.compare_with(&store)?;
        store.close().map(drop).map_err(in_words)
    }

    fn let_in(&mut self, how: &str) -> Result<Holder, String> {
        let client = self.first_client();
        let child = start(how, &self.path, client, 0, &mut self.rng)?;
        loop {
            match next_line(&child)?.as_str() {
                "in" => return Ok(Holder { child, client }),
                line if line.starts_with("> ") => {}
                line => return Err(format!("a {how} does not come in: {line}")),
            }
        }
    }

    fn is_refused(&mut self, access: Access) -> Result<(), String> {
        let options = options(access, &mut self.rng)
            .busy_timeout(BUSY / 3)
            .migration_timeout(BUSY / 3);
        match options.open(&self.path) {
            Err(error) => in_use(&error)?,
            Ok(_) => return Err(format!("{access:?} opens")),
        }
        self.note_refusal(&self.met.in_use);
        Ok(())
    }

    /// Checks that the refused attempt did no harm to the process that has the file open.
    fn has_written(&self, holder: &mut Holder) -> Result<(), String> {
        holder.child.say("write").map_err(|error| error.to_string())?;
        let line = next_line(&holder.child)?;
        match self.journal.hear(&line)? {
            Some(_) => Ok(()),
            None => Err(line),
        }
    }

    /// Ends the holder, by itself or by SIGKILL.
    fn leaves(&mut self, mut holder: Holder) -> Result<(), String> {
        if self.rng.bool() {
            self.journal.note_killed(holder.client);
            holder.child.kill();
            holder.child.rest();
            return Ok(());
        }
        holder.child.say("leave").map_err(|error| error.to_string())?;
        match holder.child.rest() {
            (lines, status) if status.success() && lines == ["left"] => Ok(()),
            (lines, status) => Err(format!("leaving: {lines:?}, {status}")),
        }
    }

    /// Opens while another process has the file open, and succeeds once that has closed.
    fn waits_until_it_leaves(&mut self, access: Access, holder: Holder) -> Result<Store, String> {
        let options = options(access, &mut self.rng).busy_timeout(PATIENCE);
        let path = self.path.clone();
        let waiting = thread::spawn(move || options.open(path));
        thread::sleep(Duration::from_micros(self.rng.u64(0..8000)));
        let left = self.leaves(holder);
        let opened = waiting.join().map_err(|_| "opening panics")?;
        left?;
        opened.map_err(|error| format!("it has left, and {access:?}, which waited, does not open: {error:?}"))
    }
}

struct Holder {
    child: Child,
    client: i64,
}
