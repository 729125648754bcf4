//! Two stores with one history, as when a volume was copied or a machine was started twice, write to one replica. What
//! both were told to be in the replica is there; what else is there is one store's alone; and that store is its replica,
//! byte for byte.

use std::path::{Path, PathBuf};
use std::time::Duration;

use fastrand::Rng;
use larder::{Access, Error, Options, Store};

use crate::Arguments;
use crate::cases::{Bench, Suite, Summary, seed};
use crate::entries::{self, Entry, Id, Job, clean, copy, look};
use crate::replicated::{self, Replicated, rebases};

const DATABASE: &str = "app.db";

/// The client of the commits before the copy.
const BEFORE: i64 = 100;

pub fn run(arguments: &Arguments, states: u64) -> Summary {
    let suite = Suite::new("replica fence", arguments).expect("a folder for temporary files");
    let units = match arguments.number_of_case() {
        Some(case) => case..case + 1,
        None => arguments.from..states,
    };
    suite.run(arguments.threads, units, |unit, bench| {
        let case = unit.to_string();
        let result = bench.attempt(&case, || {
            let mut rng = Rng::with_seed(seed(arguments.seed, unit, 51));
            state(bench, &mut rng)
        });
        bench.note(&case, result, None);
    })
}

/// One of the two.
struct Primary {
    path: PathBuf,
    client: i64,
    store: Store,
    made: i64,
    /// Its writes that were acknowledged before a flush that succeeded.
    replicated: Vec<Id>,
}

fn state(bench: &Bench<'_>, rng: &mut Rng) -> Result<(), String> {
    let [one, other] = ["one", "other"].map(|name| bench.folder.join(name));
    let replica = Replicated {
        interval: Duration::ZERO,
        ..Replicated::any(bench.folder.join("replica"), rng)
    };
    for folder in [&one, &replica.folder, &other] {
        clean(folder).map_err(|error| error.to_string())?;
    }
    let mut first = Primary::open(&one, BEFORE, &replica, rng)?;
    (0..rng.usize(1..20)).try_for_each(|_| first.write())?;
    first.close()?;
    copy(&one, &other).map_err(|error| error.to_string())?;
    let mut primaries = [
        Primary::open(&one, 1, &replica, rng)?,
        Primary::open(&other, 2, &replica, rng)?,
    ];
    for _ in 0..rng.usize(2..30) {
        let primary = &mut primaries[rng.usize(0..2)];
        match rng.u32(0..4) {
            0 => primary.flush(),
            _ => primary.write()?,
        }
    }
    let said = primaries.map(|primary| {
        (
            primary.client,
            primary.path.clone(),
            primary.replicated.clone(),
            primary.close(),
        )
    });
    judge(&replica, said, rng)
}

type Said = (i64, PathBuf, Vec<Id>, Result<(bool, bool), String>);

fn judge(replica: &Replicated, said: [Said; 2], rng: &mut Rng) -> Result<(), String> {
    let commits = |_: u64, restored: &Path| replicated::open(restored).and_then(|conn| look(&conn));
    let held: Vec<Entry> = replica.restored(None, commits)?.ok_or("the replica is empty")?;
    let ids: Vec<Id> = held.iter().map(|entry| entry.id).collect();
    let of = |client: i64| ids.iter().any(|id| id.0 == client);
    if of(1) && of(2) {
        return Err(format!("the replica has commits of both stores: {ids:?}"));
    }
    let mut is_one = false;
    for (client, path, replicated, closed) in said {
        if let Some(id) = replicated.iter().find(|id| !ids.contains(id)) {
            return Err(format!("{id:?} was said to be in the replica, and is not"));
        }
        let (has_written, is_replicated) = closed?;
        is_one |= is_replicated;
        // A store that has written nothing is in what the other has written.
        if has_written && is_replicated {
            let compared = replica.compare(&path, rng);
            compared.map_err(|problem| format!("store {client} closed with all of it in the replica: {problem}"))?;
        }
    }
    if is_one {
        Ok(())
    } else {
        Err("neither store is in the replica".into())
    }
}

impl Primary {
    fn open(folder: &Path, client: i64, replica: &Replicated, rng: &mut Rng) -> Result<Self, String> {
        let path = folder.join(DATABASE);
        let access = if rng.bool() { Access::Exclusive } else { Access::Shared };
        let options = Options::new()
            .replicate_to(replica.options().take_over(client != BEFORE))
            .checkpoint_pages([1, 8, 1000][rng.usize(0..3)])
            .access(access)
            .migrations(entries::migrations())
            .readers(2);
        let store = options
            .open(&path)
            .map_err(|error| format!("opening as {client}: {error}"))?;
        Ok(Self {
            path,
            client,
            store,
            made: 0,
            replicated: vec![],
        })
    }

    fn write(&mut self) -> Result<(), String> {
        self.made += 1;
        match self.store.write(Job::plain((self.client, self.made)).closure()) {
            Ok(_) => Ok(()),
            Err(Error::Fenced { .. }) => {
                self.made -= 1;
                Ok(())
            }
            Err(error) => Err(format!("a write of {}: {error}", self.client)),
        }
    }

    fn flush(&mut self) {
        let flushed = self
            .store
            .replica()
            .and_then(|replica| replica.flush(Duration::from_millis(300)));
        if flushed.is_ok() {
            self.replicated = (1..=self.made).map(|k| (self.client, k)).collect();
        }
    }

    /// Returns whether it has written, and whether all of it is in the replica.
    fn close(self) -> Result<(bool, bool), String> {
        let report = self
            .store
            .close()
            .map_err(|error| format!("closing {}: {error}", self.client))?;
        rebases(&self.path);
        Ok((self.made > 0, report.replicated == Some(true)))
    }
}
