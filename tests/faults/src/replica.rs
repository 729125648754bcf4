//! A store that replicates itself while power is cut, calls fail, processes are killed, other primaries write, the
//! storage misbehaves, and the disk is full.
//!
//! | part | what it does |
//! |---|---|
//! | `cut` | As `power-cut`, on a disk with the database, the spool and the replica. Other connections write, checkpoint and vacuum |
//! | `calls` | The Nth call of larder on the spool, the replica or the log fails, once or from then on. An answer that is lost is a folder whose sync fails after the rename |
//! | `kill` | SIGKILL of real processes (`replica/kill.rs`) |
//! | `fence` | Two stores with one history write to one replica (`replica/fence.rs`) |
//! | `storage` | The storage loses, delays and repeats requests, and gives wrong answers (`replica/storage.rs`) |
//! | `full` | What waits for the storage fills the disk (`replica/full.rs`) |
//! | `follower` | A follower is killed, its disk loses power, or calls on it fail (`replica/follower.rs`) |
//!
//! What holds in addition to what is at the top of `main.rs`:
//!
//! - The replica, restored, is a prefix of the store's commits, and so is each of its transactions. It has all that a
//!   flush or a close said it has.
//! - The database is never behind its replica.
//! - The store opens, goes on with its replica, and closes. Then the replica is the database, byte for byte.
//! - On a good disk, and where no other connection writes, no transaction but the first has to have every page.
//!
//! The parts share the states. A part runs alone with `--only`. larder's threads for replicas depend on time, so a seed
//! and a case repeat the same choices, not the same moments.

mod fence;
mod follower;
mod full;
mod kill;
mod storage;

use std::path::Path;
use std::time::Duration;

use fastrand::Rng;
use larder::Access;

pub use self::follower::child as follow;
pub use self::full::child as fill;
pub use self::kill::{child, other};
use crate::Arguments;
use crate::calls::Case;
use crate::cases::{Bench, Suite, Summary, seed};
use crate::disk::Image;
use crate::job::Job;
use crate::power_cut::{cut_workloads, operations};
use crate::replicated::{self, Replicated, listen, rebases};
use crate::scripts::{Jobs, one};
use crate::settings::{LONG, SHORT, Settings};
use crate::trace::{Call, Class, Fault, Plan, calls};
use crate::workload::{DATABASE, Op};

/// A part, with its share of the states in percent.
struct Part {
    name: &'static str,
    share: u64,
    run: fn(&Arguments, u64) -> Summary,
}

/// States from which on each kind of file must have been met.
const MANY: u64 = 1000;

const PARTS: &[Part] = &[
    Part {
        name: "cut",
        share: 59,
        run: |arguments, states| cut_workloads("replica cut", arguments, states, plan),
    },
    Part {
        name: "calls",
        share: 15,
        run: fail_calls,
    },
    Part {
        name: "kill",
        share: 10,
        run: kill::run,
    },
    Part {
        name: "fence",
        share: 4,
        run: fence::run,
    },
    Part {
        name: "storage",
        share: 5,
        run: storage::run,
    },
    Part {
        name: "full",
        share: 1,
        run: full::run,
    },
    Part {
        name: "follower",
        share: 6,
        run: follower::run,
    },
];

pub fn run(arguments: &Arguments) -> Summary {
    listen();
    let states = arguments.states.unwrap_or(2000);
    let chosen = |part: &&Part| arguments.only.as_ref().is_none_or(|only| only == part.name);
    let parts: Vec<&Part> = PARTS.iter().filter(chosen).collect();
    assert!(
        !parts.is_empty(),
        "--only cut, calls, kill, fence, storage, full or follower"
    );
    assert!(
        arguments.case.is_none() || parts.len() == 1,
        "a case is one of a part: --only cut, calls, kill, fence, storage, full or follower"
    );
    let of_all: u64 = parts.iter().map(|part| part.share).sum();
    let mut all = Summary::default();
    for part in parts {
        let arguments = Arguments {
            only: Some(part.name.to_owned()),
            ..arguments.clone()
        };
        let summary = (part.run)(&arguments, (states * part.share).div_ceil(of_all));
        all.passed += summary.passed;
        all.failed += summary.failed;
        if all.failed >= arguments.failures {
            break;
        }
    }
    let [merged, snapshots, deleted] = replicated::levels();
    println!(
        "replica: {} passed, {} failed; of replicas that were compared {merged} had merged files, {snapshots} snapshots, and \
         {deleted} had lost their first transaction to retention",
        all.passed, all.failed
    );
    // The others compare no folders.
    let compares = arguments
        .only
        .as_ref()
        .is_none_or(|only| ["cut", "calls", "kill"].contains(&only.as_str()));
    if compares && all.passed >= MANY && replicated::levels().contains(&0) {
        eprintln!("FAILED: no store has merged or deleted its uploads, or made a snapshot: the suite has lost its aim");
        all.failed += 1;
    }
    all
}

// ---- power cuts ----

const OTHERS: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS other(x); INSERT INTO other VALUES (randomblob(3000))",
    "CREATE TABLE IF NOT EXISTS other(x); INSERT INTO other VALUES (randomblob(3000)); PRAGMA wal_checkpoint(TRUNCATE);
     INSERT INTO other VALUES (randomblob(9000))",
    "CREATE TABLE IF NOT EXISTS other(x); INSERT INTO other VALUES (randomblob(300)); PRAGMA wal_checkpoint(RESTART);
     INSERT INTO other VALUES (randomblob(300)); DELETE FROM other WHERE rowid % 2",
    "PRAGMA wal_checkpoint(PASSIVE)",
    "PRAGMA wal_checkpoint(RESTART)",
    "PRAGMA wal_checkpoint(TRUNCATE)",
    "VACUUM",
];

fn plan(folder: &Path, rng: &mut Rng) -> (Settings, Vec<Op>) {
    let settings = Settings {
        replica: Some(Replicated::any(folder.join("replica"), rng)),
        patience: LONG,
        ..Settings::any(rng)
    };
    let has_others = settings.access == Access::Shared && rng.u32(0..3) == 0;
    let mut ops = operations(rng);
    for _ in 0..rng.usize(0..6) {
        let op = match rng.u32(0..3) {
            0 if has_others => Op::Other(OTHERS[rng.usize(0..OTHERS.len())]),
            1 => Op::Pause(Duration::from_millis(rng.u64(0..12))),
            _ => Op::Flush,
        };
        ops.insert(rng.usize(1..=ops.len()), op);
    }
    (settings, ops)
}

// ---- failing calls ----

const WRITES: u32 = calls(&[Call::Create, Call::MakeFolder, Call::WriteFile]);
const SYNCS: u32 = calls(&[Call::SyncFile, Call::SyncFolder]);
const NAMES: u32 = calls(&[Call::Rename, Call::Link, Call::Remove]);
const LOOKS: u32 = calls(&[Call::Look, Call::OpenFolder]);

/// How calls fail: on which files, which calls, and what they are told.
const FAILURES: &[(fn(Class) -> bool, u32, Fault)] = &[
    (spool, WRITES, Fault::Full),
    (spool, WRITES | SYNCS | NAMES, Fault::Io),
    (spool, SYNCS, Fault::Io),
    (spool, NAMES, Fault::Io),
    (spool, LOOKS, Fault::Io),
    (replica, WRITES, Fault::Full),
    (replica, WRITES | SYNCS | NAMES | LOOKS, Fault::Io),
    // The object has its name: its answer is lost.
    (replica, calls(&[Call::SyncFolder]), Fault::Io),
    (replica, calls(&[Call::SyncFolder]), Fault::Io),
    (replica, calls(&[Call::Rename]), Fault::Unsupported),
    (log, SYNCS, Fault::Io),
    // The whole disk.
    (
        |_| true,
        WRITES | calls(&[Call::Write, Call::SizeHint, Call::Truncate]),
        Fault::Full,
    ),
    (
        |_| true,
        WRITES | SYNCS | NAMES | calls(&[Call::Write, Call::Sync]),
        Fault::Io,
    ),
];

fn spool(class: Class) -> bool {
    class == Class::Spool
}

fn replica(class: Class) -> bool {
    class == Class::Replica
}

fn log(class: Class) -> bool {
    class == Class::Wal
}

fn fail_calls(arguments: &Arguments, states: u64) -> Summary {
    let suite = Suite::new("replica calls", arguments).expect("a folder for temporary files");
    let units = match arguments.number_of_case() {
        Some(case) => case..case + 1,
        None => arguments.from..states,
    };
    // The store waits in some cases.
    suite.run(2 * arguments.threads, units, |unit, bench| {
        let case = unit.to_string();
        let result = bench.attempt(&case, || {
            let mut rng = Rng::with_seed(seed(arguments.seed, unit, 31));
            fail_a_call(bench, &mut rng)
        });
        bench.note(&case, result, None);
    })
}

fn fail_a_call(bench: &Bench<'_>, rng: &mut Rng) -> Result<(), String> {
    let mut replica = Replicated::any(bench.folder.join("replica"), rng);
    let is_outage = rng.u32(0..12) == 0;
    if is_outage {
        replica.spool_limit = 1 << 20;
        replica.interval = Duration::ZERO;
    }
    let settings = Settings {
        replica: Some(replica),
        patience: SHORT,
        ..Settings::any(rng)
    };
    let (files, calls, fault) = if is_outage {
        FAILURES[7]
    } else {
        FAILURES[rng.usize(0..FAILURES.len())]
    };
    let most = 1 << rng.u32(0..6);
    let plan = Plan {
        fault,
        calls,
        files,
        nth: 1 + rng.u64(0..most),
        sticky: is_outage || rng.bool(),
    };
    let (before, during) = (rng.fork(), rng.fork());
    let case = Case {
        settings,
        image: &Image::default(),
        commits: &[],
        before: &|jobs| match before.clone().u32(0..4) {
            0 => vec![],
            1 => vec![Op::Open, one(jobs.plain())],
            _ => vec![Op::Open, one(jobs.plain()), Op::Flush],
        },
        during: &|jobs| match is_outage {
            true => outage(jobs),
            false => work(jobs, &mut during.clone()),
        },
        plan,
        cuts: 1,
    };
    let result = case.run(bench, rng);
    rebases(&bench.folder.join(DATABASE));
    match result {
        Ok(_) => Ok(()),
        Err((hit, problem)) => Err(format!("{problem}; {plan:?} hit {hit:?}")),
    }
}

fn work(jobs: &mut Jobs, rng: &mut Rng) -> Vec<Op> {
    let op = |_| match rng.u32(0..12) {
        0 => Op::Close,
        1 => Op::Drop,
        2 | 3 => Op::Flush,
        4 => Op::Pause(Duration::from_millis(rng.u64(0..12))),
        5 => one(jobs.large()),
        6 => one(jobs.full()),
        7 => Op::Group(vec![jobs.plain(), jobs.plain(), jobs.full()]),
        _ => one(jobs.plain()),
    };
    (0..8).map(op).collect()
}

/// More than the spool may have.
fn outage(jobs: &mut Jobs) -> Vec<Op> {
    let mut large = || {
        one(Job {
            parts: vec![100_000, 60_000],
            ..jobs.plain()
        })
    };
    (0..10)
        .flat_map(|_| [large(), Op::Pause(Duration::from_millis(8))])
        .collect()
}
