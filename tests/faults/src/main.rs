//! Tests larder's guarantees on a disk that fails and loses power.
//!
//! The store under test is the store as shipped. A VFS around SQLite's own is the default of this process (`shim.rs`),
//! and this program defines the functions of the C library by which larder creates, syncs, renames and removes files
//! (`system.rs`). Both pass every call through, record the changes to the disk, and fail the calls that a plan names.
//! At the end the contents of the folder must equal the record.
//!
//! ```text
//! cargo run --release -p faults -- power-cut --states 20000 --seed 7      at any event of a workload
//!                                  calls                                  the Nth call fails, N = 1, 2, ..
//!                                  backups --states 2000                  at any event of a workload with backups
//!                                  compound --states 10000                the recovery from a power cut fails
//!                                  small                                  every sequence of 3 operations of a dozen
//!                                  mutants                                larder is broken, and a suite detects it
//!                                  passages                               the source has what the mutants change
//!                                  kill --states 200                      a process is killed at any moment
//!                                  bulk --states 40                       a process with bulk jobs is killed
//!                                  retain --states 40                     a retention is killed, or its calls fail
//!                                  second-process --states 200            other processes use the file
//!                                  replica                                a store with a replica: cuts, kills, ..
//!                                  partition --seconds 60                 two primaries, a follower, a bad network
//!                                  oom                                    the Nth allocation fails, N = 1, 2, ..
//!                                  found                                  the defects that these suites have found
//!                                  soak --seconds 60                      everything at once, for a long time
//! ```
//!
//! `--seed` determines everything except the interleaving of threads, which has no effect: groups form while the writer
//! is held. `--from` continues a run that was stopped, `--threads` sets how many cases run at once, `--failures` the
//! number of failures after which the run stops. A failure prints the command with its `--case`, which shows the whole
//! trace, and keeps the files. `--only` selects the part of `calls` whose name has this prefix
//! (`restart/exclusive/io`). `--omit` leaves a sync out, so that failures must appear: `checkpoint-sync`,
//! `header-sync`.
//!
//! # What holds after each case (`check.rs`)
//!
//! - The store opens without intervention, and so does rusqlite alone. `integrity_check` and `foreign_key_check` find
//!   nothing.
//! - The tables hold, to the byte, a prefix of the commits in their order (`Model`). Each job writes to three tables
//!   and has a number, so no job is there in part, out of order, or after it was rolled back or refused.
//! - Writes acknowledged at FULL are there; writes acknowledged at NORMAL are, unless the power was cut; all writes are
//!   that were acknowledged before a close that emptied the WAL.
//! - The next write succeeds and has the next number, and the store closes with an empty WAL.
//! - After a failed call, in addition: errors had the right outcome; the store continues, or is poisoned and says so,
//!   and is poisoned only after a failure in COMMIT or in a checkpoint; a poisoned store does not touch the database as
//!   it closes.
//! - The header of `copies.rs` says what holds of backups, and of databases restored from them.
//! - Nothing hangs: a watchdog aborts and names the case.
//!
//! # Out of scope
//!
//! - The header of `disk.rs` says what a disk may do. Media that lie about fsync are not covered.
//! - Folders of temporary stores, and reading the entries of an open folder (`readdir`), which does not fail.
//! - Memory faults: a page of a mapped file that cannot be read is a SIGBUS.
//!
//! # Adding a suite
//!
//! Add a file with `pub fn run(&Arguments) -> Summary`, and a line in [`SUITES`]. `Suite::run` has the threads, the
//! progress, the watchdog and the summary; `Run` the workload and the journal; `check` the checks.

mod answer;
mod backups;
mod bulk;
mod calls;
mod cases;
mod check;
mod child;
mod compound;
mod copies;
mod disk;
mod entries;
mod found;
mod job;
mod journal;
mod kill;
mod memory;
mod model;
mod mutants;
mod network;
mod oom;
mod partition;
mod power_cut;
mod replica;
mod replicated;
mod retain;
mod scripts;
mod second_process;
mod settings;
mod shim;
mod small;
mod soak;
mod system;
mod together;
mod trace;
mod workload;
mod writers;

use std::process::ExitCode;

use cases::Summary;

/// A suite, by its name.
struct Entry {
    name: &'static str,
    what: &'static str,
    run: fn(&Arguments) -> Summary,
}

const SUITES: &[Entry] = &[
    Entry {
        name: "power-cut",
        what: "the power is cut at any event of a workload",
        run: power_cut::run,
    },
    Entry {
        name: "calls",
        what: "the Nth call fails, in every way, once and from then on",
        run: calls::run,
    },
    Entry {
        name: "backups",
        what: "the power is cut at any event of a workload with backups",
        run: backups::run,
    },
    Entry {
        name: "compound",
        what: "the recovery from a power cut fails, or is cut itself",
        run: compound::run,
    },
    Entry {
        name: "small",
        what: "every short sequence of operations, cut before and after each sync",
        run: small::run,
    },
    Entry {
        name: "mutants",
        what: "larder is broken on purpose, and a suite has to notice",
        run: mutants::run,
    },
    Entry {
        name: "passages",
        what: "the source still has the passages that the mutants change",
        run: mutants::passages,
    },
    Entry {
        name: "kill",
        what: "a process that writes, checkpoints, recovers, backs up, restores or closes is killed",
        run: kill::run,
    },
    Entry {
        name: "bulk",
        what: "a process with resumable bulk jobs is killed, and goes on: each row once",
        run: bulk::run,
    },
    Entry {
        name: "retain",
        what: "a process with a retention is killed, or its calls fail: no row goes that is not old",
        run: retain::run,
    },
    Entry {
        name: "replica",
        what: "a store with a replica: power cuts, failing calls, kills, other primaries",
        run: replica::run,
    },
    Entry {
        name: "partition",
        what: "two machines and a follower on an S3 server, each cut off now and then: one history",
        run: partition::run,
    },
    Entry {
        name: "second-process",
        what: "other processes use the file beside the store, try to, or are killed as they do",
        run: second_process::run,
    },
    Entry {
        name: "descriptors",
        what: "a process closes descriptors of its own database while others look at it, and is killed",
        run: second_process::descriptors::run,
    },
    Entry {
        name: "oom",
        what: "the Nth allocation of SQLite's fails, once and from then on",
        run: oom::run,
    },
    Entry {
        name: "found",
        what: "each defect that the harness has found, by its smallest case",
        run: found::run,
    },
    Entry {
        name: "soak",
        what: "everything at once, for long: nothing grows, and the sums are right",
        run: soak::run,
    },
];

/// Suites with real processes on real files, without the shim.
const PLAIN: &[&str] = &[
    "bulk",
    "kill",
    "partition",
    "second-process",
    "descriptors",
    "oom",
    "soak",
];

/// The command line.
#[derive(Clone)]
pub struct Arguments {
    suite: String,
    /// The number of cases, for a suite without a natural end.
    pub states: Option<u64>,
    /// The duration, for a suite that is limited by time.
    pub seconds: Option<u64>,
    pub seed: u64,
    /// The case at which to continue an earlier run.
    pub from: u64,
    pub threads: usize,
    /// Runs this case alone.
    pub case: Option<String>,
    /// Selects the named cases with this prefix.
    pub only: Option<String>,
    /// The number of failures after which the run stops.
    pub failures: u64,
    pub omit: Option<String>,
}

impl Arguments {
    fn parse() -> Result<Self, String> {
        let mut given = std::env::args().skip(1);
        let mut parsed = Self {
            suite: given.next().ok_or_else(usage)?,
            states: None,
            seconds: None,
            seed: 1,
            from: 0,
            threads: std::thread::available_parallelism().map_or(2, Into::into),
            case: None,
            only: None,
            failures: u64::MAX,
            omit: None,
        };
        while let Some(name) = given.next() {
            let value = given.next().ok_or(format!("{name} wants a value"))?;
            let number = || value.parse::<u64>().map_err(|error| format!("{name} {value}: {error}"));
            match name.as_str() {
                "--states" => parsed.states = Some(number()?),
                "--seconds" => parsed.seconds = Some(number()?),
                "--seed" => parsed.seed = number()?,
                "--from" => parsed.from = number()?,
                "--threads" => parsed.threads = number()?.max(1) as usize,
                "--only" => parsed.only = Some(value),
                "--failures" => parsed.failures = number()?,
                "--case" => parsed.case = Some(value),
                "--omit" => parsed.omit = Some(value),
                _ => return Err(usage()),
            }
        }
        Ok(parsed)
    }

    /// The command that repeats this run, without the case.
    pub fn command(&self) -> String {
        let omit = self
            .omit
            .as_ref()
            .map_or(String::new(), |name| format!(" --omit {name}"));
        let only = match &self.only {
            Some(part) if self.suite == "replica" => format!(" --only {part}"),
            _ => String::new(),
        };
        format!(
            "cargo run --release -p faults -- {} --seed {}{only}{omit}",
            self.suite, self.seed
        )
    }

    pub fn number_of_case(&self) -> Option<u64> {
        self.case
            .as_ref()
            .map(|case| case.parse().expect("this suite's cases are numbers"))
    }
}

fn usage() -> String {
    let suites: Vec<_> = SUITES
        .iter()
        .map(|suite| format!("  {:<16}{}", suite.name, suite.what))
        .collect();
    format!(
        "faults SUITE [--states N] [--seconds N] [--seed S] [--threads T] [--failures N] [--only NAME] [--case CASE] [--omit WHAT] [--from N]\n{}",
        suites.join("\n")
    )
}

fn main() -> ExitCode {
    if let Some(code) = child::work() {
        return code;
    }
    let arguments = match Arguments::parse() {
        Ok(arguments) => arguments,
        Err(problem) => return fail(&problem),
    };
    match arguments.omit.as_deref() {
        None => {}
        Some("checkpoint-sync") => trace::omit(trace::Omission::CheckpointSync),
        Some("header-sync") => trace::omit(trace::Omission::HeaderSync),
        Some(_) => return fail("--omit checkpoint-sync, or --omit header-sync"),
    }
    let Some(suite) = SUITES.iter().find(|suite| suite.name == arguments.suite) else {
        return fail(&usage());
    };
    if !PLAIN.contains(&suite.name) {
        shim::install();
        system::install();
    }
    let summary = (suite.run)(&arguments);
    if summary.failed == 0 && summary.passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn fail(problem: &str) -> ExitCode {
    eprintln!("{problem}");
    ExitCode::from(2)
}
