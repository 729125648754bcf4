//! One store, whose storage loses requests and answers, delays and repeats them, cuts bodies short, and shows lists that
//! are out of date. The store writes, flushes, closes, is dropped, and opens again.
//!
//! What a flush or a close said to be in the replica is there, whatever the storage did. The store is never fenced:
//! nobody else writes. Opening may fail while requests do, and says so; it succeeds once they do not. The store never
//! begins its replica anew.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use larder::{Access, Error, Options, Store};
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
            .replicate_to(replica.at(&format!("memory:{name}")))
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
            return Err(format!("the replica was begun anew: {reason}"));
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

    fn write(&mut self, store: &Store) -> Result<(), String> {
        let job = Job::plain((1, self.made + 1));
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
