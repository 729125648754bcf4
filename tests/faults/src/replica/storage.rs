//! One store, whose storage loses requests and answers, delays and repeats them, cuts bodies short, and shows lists that
//! are out of date. The store writes, flushes, closes, is dropped, and opens again.
//!
//! What a flush or a close said to be in the replica is there, whatever the storage did; and so is what was acknowledged to
//! threads that write together and wait for the replica, as the storage goes away. The store is never fenced:
//! nobody else writes. Opening may fail while requests do, and says so; it succeeds once they do not. The store never
//! begins its replica again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use larder::{Access, Durability, Error, Options, Store, WriteOptions};
use object_store::memory::InMemory;

use super::kill::is_prefix;
use crate::Arguments;
use crate::cases::{Bench, Suite, Summary, seed};
use crate::entries::{self, Entry, Job, clean, look};
use crate::network::{Network, Weather, replica_in};
use crate::replicated::{self, Replicated, rebases, restore};

const DATABASE: &str = "app.db";

/// For a good network.
const LONG: Duration = Duration::from_secs(10);

/// So many threads write together.
const TOGETHER: usize = 8;

/// For one that is not.
const SHORT: Duration = Duration::from_millis(200);

pub fn run(arguments: &Arguments, states: u64) -> Summary {
    let suite = Suite::new("replica storage", arguments).expect("a folder for temporary files");
    let units = match arguments.number_of_case() {
        Some(case) => case..case + 1,
        None => arguments.from..states,
    };
    // The store waits in most cases.
    suite.run(4 * arguments.threads, units, |unit, bench| {
        let case = unit.to_string();
        let result = bench.attempt(&case, || {
            let mut rng = Rng::with_seed(seed(arguments.seed, unit, 61));
            clean(&bench.folder).map_err(|error| error.to_string())?;
            Case::new(bench, &mut rng).run(&mut rng)
        });
        bench.note(&case, result, None);
    })
}

struct Case {
    path: PathBuf,
    objects: Arc<InMemory>,
    network: Arc<Network>,
    options: Options,
    made: i64,
    /// The number of writes that were said to be in the replica.
    flushed: usize,
    /// The number of writes of each of the threads that write together.
    of_thread: [i64; TOGETHER],
}

impl Case {
    fn new(bench: &Bench<'_>, rng: &mut Rng) -> Self {
        let path = bench.folder.join(DATABASE);
        let objects = Arc::default();
        let name = format!("storage-{}", bench.folder.display());
        let network = Network::set(&name, &objects, rng.fork());
        let replica = Replicated {
            interval: Duration::ZERO,
            ..Replicated::any(bench.folder.join("replica"), rng)
        };
        let access = if rng.bool() { Access::Exclusive } else { Access::Shared };
        let options = Options::new()
            .replicate_to(replica.at(&format!("memory:{name}")).replicate_timeout(SHORT))
            .checkpoint_pages([1, 8, 1000][rng.usize(0..3)])
            .access(access)
            .migrations(entries::migrations())
            .close_timeout(SHORT)
            .readers(2);
        Self {
            path,
            objects,
            network,
            options,
            made: 0,
            flushed: 0,
            of_thread: [0; TOGETHER],
        }
    }

    fn run(mut self, rng: &mut Rng) -> Result<(), String> {
        for _ in 0..rng.usize(1..5) {
            self.network.turns(weather(rng));
            let has_closed = match self.open()? {
                Some(store) => self.live(store, rng)?,
                None => true,
            };
            self.compare(has_closed, rng)?;
        }
        self.network.turns(Weather::default());
        let store = self.options.clone().close_timeout(LONG).open(&self.path);
        let store = store.map_err(|error| format!("the storage is well again, and it does not open: {error}"))?;
        self.write(&store)?;
        let flushed = store.replica().and_then(|replica| replica.flush(LONG));
        flushed.map_err(|error| format!("the storage is well again, and flushing fails: {error}"))?;
        let report = store.close().map_err(|error| format!("closing: {error}"))?;
        if !report.wal_truncated || report.replicated != Some(true) {
            return Err(format!("the storage is well again, and closing: {report}"));
        }
        self.flushed = self.made as usize;
        let held = self.compare(true, rng)?;
        if held.len() != self.flushed {
            return Err(format!(
                "{} commits were made, and the replica has {}",
                self.made,
                held.len()
            ));
        }
        let contents = std::fs::read(&self.path).map_err(|error| error.to_string())?;
        let is_same = restore(&replica_in(&self.objects), None, &self.restored(), |_, restored| {
            Ok(std::fs::read(restored).is_ok_and(|restored| restored == contents))
        })?;
        if !is_same {
            return Err("the replica of the closed database is another one".into());
        }
        if let Some(reason) = rebases(&self.path).first() {
            return Err(format!("the replica was begun again: {reason}"));
        }
        self.network.judge()
    }

    /// `None` if the storage does not let it.
    fn open(&self) -> Result<Option<Store>, String> {
        match self.options.clone().open(&self.path) {
            Ok(store) => Ok(Some(store)),
            Err(Error::Replica { .. }) => Ok(None),
            Err(error) => Err(format!("opening: {error}")),
        }
    }

    /// Returns whether the store has closed; otherwise it closes by itself.
    fn live(&mut self, store: Store, rng: &mut Rng) -> Result<bool, String> {
        for _ in 0..rng.usize(1..16) {
            match rng.u32(0..12) {
                0..3 => {
                    let flushed = store.replica().and_then(|replica| replica.flush(SHORT));
                    if flushed.is_ok() {
                        self.flushed = self.made as usize;
                    }
                }
                3 => self.network.turns(weather(rng)),
                4 => thread::sleep(Duration::from_millis(rng.u64(0..12))),
                5 => self.write_together(&store, rng)?,
                _ => self.write(&store)?,
            }
        }
        if rng.u32(0..3) == 0 {
            drop(store);
            return Ok(false);
        }
        let report = store.close().map_err(|error| format!("closing: {error}"))?;
        if report.replicated == Some(true) {
            self.flushed = self.made as usize;
        }
        Ok(true)
    }

    /// Threads write, each of which waits for the replica, until the storage goes away at some moment. What was
    /// acknowledged until then is in the replica, though the store uploads nothing more.
    fn write_together(&mut self, store: &Store, rng: &mut Rng) -> Result<(), String> {
        let pause = Duration::from_micros(rng.u64(0..40_000));
        let (is_over, acknowledged) = (AtomicBool::new(false), AtomicI64::new(0));
        self.network.turns(Weather {
            faults: [0, 20][rng.usize(0..2)],
            ..Weather::default()
        });
        let (is_over, acknowledged) = (&is_over, &acknowledged);
        let made = thread::scope(|scope| {
            let writers: Vec<_> = (2..)
                .zip(&mut self.of_thread)
                .map(|(client, k)| {
                    scope.spawn(move || -> Result<i64, String> {
                        let mut made = 0;
                        while !is_over.load(Ordering::SeqCst) {
                            *k += 1;
                            let options = WriteOptions::new().durability(Durability::Replicated);
                            match store.write_with(options, Job::plain((client, *k)).closure()) {
                                Ok(n) => drop(acknowledged.fetch_max(n, Ordering::SeqCst)),
                                Err(Error::NotReplicated { .. }) => {}
                                Err(error) => return Err(format!("a write that waits for the replica: {error}")),
                            }
                            made += 1;
                        }
                        Ok(made)
                    })
                })
                .collect();
            thread::sleep(pause);
            self.network.turns(Weather {
                is_down: true,
                ..Weather::default()
            });
            is_over.store(true, Ordering::SeqCst);
            let made = writers
                .into_iter()
                .map(|writer| writer.join().expect("a writer does not panic"));
            made.sum::<Result<i64, _>>()
        })?;
        self.made += made;
        self.flushed = self.flushed.max(acknowledged.load(Ordering::SeqCst) as usize);
        self.compare(false, rng)?;
        self.network.turns(weather(rng));
        Ok(())
    }

    fn write(&mut self, store: &Store) -> Result<(), String> {
        let alone = self.made - self.of_thread.iter().sum::<i64>();
        let job = Job::plain((1, alone + 1));
        let n = store
            .write(job.closure())
            .map_err(|error| format!("a write: {error}"))?;
        self.made += 1;
        if n != self.made {
            return Err(format!("a write is commit {n}, and it is the {}th", self.made));
        }
        Ok(())
    }

    fn restored(&self) -> PathBuf {
        self.path.with_file_name("restored.db")
    }

    /// Compares what is in the replica with what was said to be there. Returns its commits. Nothing is deleted there
    /// once the store has closed.
    fn compare(&self, has_closed: bool, rng: &mut Rng) -> Result<Vec<Entry>, String> {
        let replica = replica_in(&self.objects);
        let points = replica.points().map_err(|error| error.to_string())?;
        if points.is_empty() {
            return match self.flushed {
                0 => Ok(vec![]),
                flushed => Err(format!(
                    "the replica is empty, and {flushed} commits were said to be there"
                )),
            };
        }
        let commits = |txid: u64, restored: &Path| {
            let conn = replicated::open(restored)?;
            let there = conn.table_exists(None, "entry").map_err(|error| error.to_string())?;
            Ok((txid, if there { look(&conn)? } else { vec![] }))
        };
        let (txid, held) = restore(&replica, None, &self.restored(), commits)?;
        if held.len() < self.flushed || held.len() > self.made as usize {
            return Err(format!(
                "the replica has {} commits, and {} to {} must be there",
                held.len(),
                self.flushed,
                self.made
            ));
        }
        if has_closed && let Some(earlier) = replicated::earlier(&points, txid, rng) {
            let (txid, earlier) = restore(&replica, Some(earlier), &self.restored(), commits)?;
            is_prefix(&earlier, &held).map_err(|problem| format!("transaction {txid} of the replica: {problem}"))?;
        }
        Ok(held)
    }
}

fn weather(rng: &mut Rng) -> Weather {
    Weather {
        is_down: rng.u32(0..6) == 0,
        faults: [0, 5, 20, 50][rng.usize(0..4)],
        stale: [0, 0, 30][rng.usize(0..3)],
    }
}
