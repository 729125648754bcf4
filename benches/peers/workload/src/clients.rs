use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::histogram::Histogram;
use crate::{BATCH, Case, Operation, Peer, Random, Result, THREADS};

/// The result of a slice.
pub(crate) struct Tally {
    /// Operations (for a batch, rows) that ended within the slice.
    pub(crate) done: u64,
    /// Latencies of every operation that ended in the slice or, having begun in it, after it.
    pub(crate) waits: Histogram,
}

impl Tally {
    fn new() -> Self {
        Self {
            done: 0,
            waits: Histogram::new(),
        }
    }
}

/// The execution of a peer's clients.
#[derive(Clone, Copy)]
pub(crate) enum Clients {
    Threads(usize),
    Tasks(usize),
}

impl fmt::Display for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Threads(1) => f.write_str("1 thread"),
            Self::Threads(threads) => write!(f, "{threads} threads"),
            Self::Tasks(1) => f.write_str("1 task"),
            Self::Tasks(tasks) => write!(f, "{tasks} tasks"),
        }
    }
}

impl Clients {
    pub(crate) fn of<P: Peer>(case: &Case) -> Self {
        if case.clients >= P::TASKS_FROM {
            Self::Tasks(case.clients)
        } else {
            Self::Threads(case.clients.min(THREADS))
        }
    }

    /// Runs a case: a quarter of its time to warm up, then the slice that counts.
    pub(crate) fn run<P: Peer>(self, runtime: &Runtime, peer: &Arc<P>, case: Case) -> Result<Tally> {
        let start = Instant::now() + case.time / 4;
        let slice = Slice {
            case,
            start,
            end: start + case.time,
        };
        let tallies: Vec<Result<Tally>> = match self {
            Self::Threads(clients) => thread::scope(|scope| {
                let spawn = |seed| scope.spawn(move || runtime.block_on(slice.client(&**peer, seed)));
                let threads: Vec<_> = (0..clients as u64).map(spawn).collect();
                let join = |thread: thread::ScopedJoinHandle<'_, _>| thread.join().expect("no client panics");
                threads.into_iter().map(join).collect()
            }),
            Self::Tasks(clients) => {
                let spawn = |seed| {
                    let peer = Arc::clone(peer);
                    runtime.spawn(async move { slice.client(&*peer, seed).await })
                };
                let tasks: Vec<_> = (0..clients as u64).map(spawn).collect();
                let join = |task: JoinHandle<_>| runtime.block_on(task).expect("no client panics");
                tasks.into_iter().map(join).collect()
            }
        };
        let mut all = Tally::new();
        for tally in tallies {
            let tally = tally?;
            all.done += tally.done;
            all.waits.add(&tally.waits);
        }
        Ok(all)
    }
}

#[derive(Clone, Copy)]
struct Slice {
    case: Case,
    start: Instant,
    end: Instant,
}

impl Slice {
    async fn client<P: Peer>(self, peer: &P, seed: u64) -> Result<Tally> {
        let mut random = Random::seeded(seed);
        let mut tally = Tally::new();
        let mut began = Instant::now();
        while began < self.end {
            let mut operations = 1;
            match self.case.operation {
                Operation::Read => drop(peer.read(random.user()).await?),
                Operation::Write => peer.write(random.user()).await?,
                Operation::Mixed if random.below(10) == 0 => peer.write(random.user()).await?,
                Operation::Mixed => drop(peer.read(random.user()).await?),
                Operation::Batch => {
                    peer.write_batch(BATCH).await?;
                    operations = BATCH as u64;
                }
            }
            let ended = Instant::now();
            if ended >= self.start {
                tally.waits.record(ended - began);
                if ended <= self.end {
                    tally.done += operations;
                }
            }
            began = ended;
        }
        Ok(tally)
    }
}
