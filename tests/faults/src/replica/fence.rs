//! Two stores with one history, as when a volume was copied or a machine was started twice, write to one replica, each
//! over a network of its own. What both were told to be in the replica is there; what else is there is one store's
//! alone; and that store is its replica, byte for byte. A store that knows that it is fenced writes no levels and
//! deletes nothing.
//!
//! A store that was cut off for so long that what the other wrote meanwhile was merged and deleted still finds the
//! other's claim.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use larder::replica::levels::LevelTimes;
use larder::{Access, Error, Options, Store};
use object_store::memory::InMemory;

use crate::Arguments;
use crate::cases::{Bench, Suite, Summary, seed};
use crate::entries::{self, Entry, Id, Job, clean, copy, look};
use crate::network::{Network, Weather, replica_in};
use crate::replicated::{self, Replicated, rebases, restore};

const DATABASE: &str = "app.db";

/// The client of the commits before the copy.
const BEFORE: i64 = 100;

/// Requests that a store may have under way as it learns that it is fenced.
const UNDER_WAY: u64 = 1;

pub fn run(arguments: &Arguments, states: u64) -> Summary {
    let suite = Suite::new("replica fence", arguments).expect("a folder for temporary files");
    let units = match arguments.number_of_case() {
        Some(case) => case..case + 1,
        None => arguments.from..states,
    };
    // The stores wait in most cases.
    suite.run(2 * arguments.threads, units, |unit, bench| {
        let case = unit.to_string();
        let result = bench.attempt(&case, || {
            let mut rng = Rng::with_seed(seed(arguments.seed, unit, 51));
            state(bench, &mut rng)
        });
        bench.note(&case, result, None);
    })
}

/// The replica that both write to.
struct Place<'a> {
    bench: &'a Bench<'a>,
    objects: Arc<InMemory>,
    replica: Replicated,
}

/// One of the two.
struct Primary {
    path: PathBuf,
    client: i64,
    store: Store,
    network: Arc<Network>,
    made: i64,
    /// Its writes that were acknowledged before a flush that succeeded.
    replicated: Vec<Id>,
    /// The number of its requests for levels, when it knew that it is fenced.
    fenced: Option<u64>,
}

fn state(bench: &Bench<'_>, rng: &mut Rng) -> Result<(), String> {
    let [one, other] = ["one", "other"].map(|name| bench.folder.join(name));
    for folder in [&one, &other] {
        clean(folder).map_err(|error| error.to_string())?;
    }
    let place = Place::new(bench, rng);
    let mut first = Primary::open(&one, BEFORE, &place, rng)?;
    (0..rng.usize(1..20)).try_for_each(|_| first.write())?;
    // Without its owner's word that it has closed, the replica is that of a store that was killed.
    let leaves_word = rng.bool();
    if !leaves_word {
        first.flush(Duration::from_secs(10));
        first.network.turns(Weather {
            is_down: true,
            ..Weather::default()
        });
    }
    first.close()?;
    copy(&one, &other).map_err(|error| error.to_string())?;
    let mut primaries = Vec::new();
    for (folder, client) in [(&one, 1), (&other, 2)] {
        primaries.extend(Primary::go_on(folder, client, &place, rng)?);
    }
    let flush = Duration::from_millis(if rng.bool() { 300 } else { 20 });
    for _ in 0..rng.usize(2..30) {
        let number = primaries.len();
        let primary = &mut primaries[rng.usize(0..number)];
        match rng.u32(0..16) {
            0..4 => primary.flush(flush),
            4 => primary.network.turns(Weather {
                is_down: true,
                ..Weather::default()
            }),
            5 => primary.network.turns(Weather {
                faults: 25,
                ..Weather::default()
            }),
            6 | 7 => primary.network.turns(Weather::default()),
            8 => thread::sleep(Duration::from_millis(rng.u64(0..20))),
            _ => primary.write()?,
        }
    }
    for primary in &mut primaries {
        primary.network.turns(Weather::default());
        primary.flush(flush);
        primary.write()?;
    }
    if primaries.iter().any(|primary| primary.fenced.is_some()) && rng.u32(0..4) == 0 {
        // Time in which a store could merge what it knows.
        thread::sleep(Duration::from_millis(200));
    }
    let said = primaries.into_iter().map(Primary::end).collect();
    judge(&place, said, rng)
}

struct Said {
    client: i64,
    path: PathBuf,
    replicated: Vec<Id>,
    /// Whether it has written, and whether all of it is in the replica.
    closed: Result<(bool, bool), String>,
}

fn judge(place: &Place<'_>, said: Vec<Said>, rng: &mut Rng) -> Result<(), String> {
    let to = place.bench.folder.join("restored.db");
    let replica = replica_in(&place.objects);
    let commits = |_: u64, restored: &Path| {
        let conn = replicated::open(restored)?;
        let there = conn.table_exists(None, "entry").map_err(|error| error.to_string())?;
        if there { look(&conn) } else { Ok(vec![]) }
    };
    let held: Vec<Entry> = restore(&replica, None, &to, commits)?;
    let ids: Vec<Id> = held.iter().map(|entry| entry.id).collect();
    let of = |client: i64| ids.iter().any(|id| id.0 == client);
    if of(1) && of(2) {
        return Err(format!("the replica has commits of both stores: {ids:?}"));
    }
    let points = replica.points().map_err(|error| error.to_string())?;
    if let Some(earlier) = replicated::earlier(&points, u64::MAX, rng) {
        let earlier = restore(&replica, Some(earlier), &to, |txid, restored| {
            commits(txid, restored).map(|entries| (txid, entries))
        })?;
        super::kill::is_prefix(&earlier.1, &held)
            .map_err(|problem| format!("transaction {} of the replica: {problem}", earlier.0))?;
    }
    let mut is_one = false;
    for Said {
        client,
        path,
        replicated,
        closed,
    } in said
    {
        if let Some(id) = replicated.iter().find(|id| !ids.contains(id)) {
            return Err(format!("{id:?} was said to be in the replica, and is not"));
        }
        let (has_written, is_replicated) = closed?;
        is_one |= is_replicated;
        // A store that has written nothing is in what the other has written.
        if has_written && is_replicated {
            let contents = std::fs::read(&path).map_err(|error| error.to_string())?;
            let is_same = restore(&replica, None, &to, |_, restored| {
                Ok(std::fs::read(restored).is_ok_and(|restored| restored == contents))
            })?;
            if !is_same {
                return Err(format!(
                    "store {client} closed with all of it in the replica, which is not the database"
                ));
            }
        }
    }
    if is_one {
        Ok(())
    } else {
        Err("neither store is in the replica".into())
    }
}

impl<'a> Place<'a> {
    fn new(bench: &'a Bench<'a>, rng: &mut Rng) -> Self {
        let millis = Duration::from_millis;
        let times = LevelTimes {
            levels: [5, 40, 120].map(millis),
            l0_retention: millis(10),
            snapshot_every: millis(50),
            retention: millis([20, 3_600_000][rng.usize(0..2)]),
        };
        let replica = Replicated {
            interval: Duration::ZERO,
            times: (rng.u32(0..4) > 0).then_some(times),
            ..Replicated::any(bench.folder.join("replica"), rng)
        };
        Self {
            bench,
            objects: Arc::default(),
            replica,
        }
    }

    /// The name of a store's network: each bench has its own.
    fn name(&self, client: i64) -> String {
        format!("fence-{}-{client}", self.bench.folder.display())
    }
}

impl Primary {
    fn open(folder: &Path, client: i64, place: &Place<'_>, rng: &mut Rng) -> Result<Self, String> {
        let network = Network::set(&place.name(client), &place.objects, rng.fork());
        let opened = Self::open_over(network, folder, client, place, rng);
        opened.map_err(|error| format!("opening as {client}: {error}"))
    }

    /// Opens a copy, perhaps while its network is down. `None` if the other one has gone on already, or does meanwhile.
    fn go_on(folder: &Path, client: i64, place: &Place<'_>, rng: &mut Rng) -> Result<Option<Self>, String> {
        let network = Network::set(&place.name(client), &place.objects, rng.fork());
        network.turns(Weather {
            is_down: rng.u32(0..3) == 0,
            ..Weather::default()
        });
        match Self::open_over(network, folder, client, place, rng) {
            Ok(primary) => Ok(Some(primary)),
            Err(Error::Diverged { .. } | Error::Fenced { .. }) if client == 2 => Ok(None),
            Err(error) => Err(format!("opening as {client}: {error}")),
        }
    }

    fn open_over(
        network: Arc<Network>,
        folder: &Path,
        client: i64,
        place: &Place<'_>,
        rng: &mut Rng,
    ) -> larder::Result<Self> {
        let path = folder.join(DATABASE);
        let access = if rng.bool() { Access::Exclusive } else { Access::Shared };
        let name = place.name(client);
        let replica = place.replica.at(&format!("memory:{name}"));
        let options = Options::new()
            .replicate_to(replica.take_over(client != BEFORE))
            .checkpoint_pages([1, 8, 1000][rng.usize(0..3)])
            .access(access)
            .migrations(entries::migrations())
            // The first may close while its network is down.
            .close_timeout(Duration::from_millis(if client == BEFORE { 300 } else { 10_000 }))
            .readers(2);
        Ok(Self {
            store: options.open(&path)?,
            path,
            client,
            network,
            made: 0,
            replicated: vec![],
            fenced: None,
        })
    }

    fn write(&mut self) -> Result<(), String> {
        self.made += 1;
        match self.store.write(Job::plain((self.client, self.made)).closure()) {
            Ok(_) => Ok(()),
            Err(error) if is_stopped(&error) => {
                self.made -= 1;
                let before = self.network.level_writes();
                self.fenced.get_or_insert(before);
                Ok(())
            }
            Err(error) => Err(format!("a write of {}: {error}", self.client)),
        }
    }

    fn flush(&mut self, patience: Duration) {
        let flushed = self.store.replica().and_then(|replica| replica.flush(patience));
        if flushed.is_ok() {
            self.replicated = (1..=self.made).map(|k| (self.client, k)).collect();
        }
    }

    fn end(self) -> Said {
        Said {
            client: self.client,
            path: self.path.clone(),
            replicated: self.replicated.clone(),
            closed: self.close(),
        }
    }

    /// Returns whether it has written, and whether all of it is in the replica.
    fn close(self) -> Result<(bool, bool), String> {
        let report = self
            .store
            .close()
            .map_err(|error| format!("closing {}: {error}", self.client))?;
        rebases(&self.path);
        let written = self.network.level_writes();
        if let Some(before) = self.fenced
            && written > before + UNDER_WAY
        {
            return Err(format!(
                "store {} was fenced, and has made {} requests for levels after that",
                self.client,
                written - before
            ));
        }
        self.network.judge()?;
        Ok((self.made > 0, report.replicated == Some(true)))
    }
}

/// Whether the store takes no more writes because the replica is another primary's: it was fenced, or the storage was away
/// as it opened, and it has asked since.
fn is_stopped(error: &Error) -> bool {
    match error {
        Error::Fenced { .. } => true,
        Error::Diverged { problem, .. } => problem.contains("the storage was away as the store opened"),
        _ => false,
    }
}
