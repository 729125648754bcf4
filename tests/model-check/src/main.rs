//! Checks larder's queue, hand-over and reply slots under schedules that years of tests would not produce.
//!
//! It includes larder's own files by their paths: the folder `queue/`, `write/closing.rs`, `write/context.rs` and
//! `read/context.rs` (the contents of the queues), `write/held.rs` (the replies that wait for the replica),
//! `write/seat.rs` (whose turn it is to write, and the writer thread), `write/handover.rs` (checkpoints beside bulk jobs), `read/worker.rs` (the work of a reader thread), `read/row_channel.rs`
//! (the rows of a stream) and `store/futures.rs`; and the fence between two primaries with what uses it: `replica/fence.rs`, `upload.rs`, `enter.rs`,
//! `levels/retain.rs`, `levels/rules.rs` and `storage/listing.rs`. They take threads, locks, atomics and the time from
//! `sync.rs`. This crate has another `sync.rs`, in which [shuttle](https://docs.rs/shuttle) decides at each step which
//! thread continues. Stand-ins replace the rest of larder, without SQLite: `write.rs` does in the writer's seat what
//! larder's writer does, and commits to a log in memory; `replica/acknowledge.rs` uploads it; `replica/storage.rs` is a
//! bucket behind a bad network; `store.rs` and `read.rs` call the included files as larder's do.
//!
//! ```text
//! cargo run --release --manifest-path tests/model-check/Cargo.toml             about a minute, all scenarios
//!     ... -- --schedules 1000000                                              that many, over all scenarios
//!     ... -- --seconds 600 --scenario closing                                 one scenario, for that time
//!     ... -- --scenario closing --replay 91022c...                            a failed schedule or seed, again
//!     ... -- --weakened ChangedBytes                                          a variant that must fail
//! ```
//!
//! # What holds in each schedule
//!
//! - Every caller gets exactly one reply, and every thread ends: a lost wake-up is a deadlock, which shuttle finds.
//! - A caller learns of success after the commit of its job. A job runs at most once, and is committed once, in the
//!   order of the starts, even if its future was dropped meanwhile. A job whose future was dropped before its start
//!   never runs.
//! - A write that waits for the replica is acknowledged once it is there, or its caller learns that it is committed
//!   here alone.
//! - A job whose caller got `QueueTimeout`, `ReadQueueTimeout`, `QueueFull` or `Closed` never ran and never will.
//! - Jobs of one caller start in order; and so do those of all callers, if they were submitted one after another.
//! - A read sees every write that was acknowledged before the read was submitted.
//! - While a job waits, at least one worker will wake, even if the awake ones are stuck.
//! - A task whose reply is ready is woken without a timer, unless a reader thread is stuck.
//! - A slice that waits for a checkpoint of another thread runs once that is over, or its job learns that the store closed.
//! - A stream's task is woken for each row that it waits for, and for the end, without a timer; its rows come once and in
//!   order; and it never looks complete if it was cut off.
//! - After the close no queue has a job left, and every closure has been dropped, once.
//! - No lock is held while a waker is woken or a closure dropped: they may call back into the store.
//! - Stores that share a replica have one history (`replica/nodes.rs`). There are weakened variants of that scenario,
//!   each without one thing that the proof in `fence.rs` rests on, and each must be found to fail.
//!
//! # Out of scope
//!
//! - SQLite, and the writer's handling of its errors; the pool of connections; panics, but for those of closures in the
//!   writer's seat. Tests with the real store cover them.
//! - Weak memory: shuttle has one order of all steps. Where larder's atomics are relaxed, its comments say why they may
//!   be.
//! - All schedules. These are random ones, half of them by priorities that change a few times
//!   ([PCT](https://docs.rs/shuttle/latest/shuttle/fn.check_pct.html)).

use std::io::{self, Write};
use std::panic;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};
use shuttle::{Config, Runner};

/// Replaces the standard library's macro: a thread of the model has its own variables.
macro_rules! thread_local {
    ($(#[$doc:meta])* static $name:ident: $type:ty = const { $init:expr };) => {
        thread_local! { $(#[$doc])* static $name: $type = $init; }
    };
    ($(#[$doc:meta])* static $name:ident: $type:ty = $init:expr;) => {
        $(#[$doc])*
        static $name: crate::sync::LocalKey<$type> = {
            shuttle::thread_local! {
                static KEY: $type = $init;
            }
            crate::sync::LocalKey(&KEY)
        };
    };
}

/// The included files. More are in `read.rs`, `store.rs` and `write.rs`.
#[path = "../../../src"]
mod larder {
    #[expect(dead_code, reason = "larder's statistics ask for more than the model does")]
    pub(crate) mod queue;
    pub(crate) mod runtime {
        #[expect(dead_code, reason = "the connection's interrupt asks for more than the model does")]
        pub(crate) mod cancellation;
        pub(crate) mod date;
        pub(crate) mod panic;
        pub(crate) use crate::stand_ins::{clock, fork, random, timer};
        pub(crate) use crate::sync;
    }
    pub(crate) mod telemetry {
        pub(crate) mod call_site;
        pub(crate) mod event;
    }
}

// `tokio::time` and `tokio::sync` are the model's.
extern crate self as tokio;

mod bulk;
mod ledger;
mod read;
mod replica;
mod scenarios;
mod stand_ins;
mod store;
mod sync;
mod time;
mod write;

pub(crate) use larder::{queue, runtime, telemetry};
pub(crate) use stand_ins::{error, options, transaction};

use replica::{Reached, WEAKENED, Weakness};
use scenarios::{SCENARIOS, Scenario};

const BATCH: usize = 500;

/// The scenario of which there are weakened variants.
const HISTORY: &str = "one_history";

/// In so many schedules one must be found in which a weakened variant fails.
const WEAKENED_SCHEDULES: usize = 2_000_000;

/// How often priorities change in a schedule.
const DEPTHS: [usize; 3] = [2, 3, 5];

#[derive(Default)]
struct Arguments {
    schedules: Option<usize>,
    seconds: Option<u64>,
    scenario: Option<String>,
    replay: Option<String>,
    weakened: Option<String>,
}

impl Arguments {
    fn parse() -> Result<Self, String> {
        let mut parsed = Self::default();
        let mut given = std::env::args().skip(1);
        while let Some(name) = given.next() {
            let value = given.next().ok_or(format!("{name} wants a value"))?;
            let number = || value.parse().map_err(|error| format!("{name} {value}: {error}"));
            match name.as_str() {
                "--schedules" => parsed.schedules = Some(number()? as usize),
                "--seconds" => parsed.seconds = Some(number()?),
                "--scenario" => parsed.scenario = Some(value),
                "--replay" => parsed.replay = Some(value),
                "--weakened" => parsed.weakened = Some(value),
                _ => {
                    return Err(format!(
                        "{name} is not known: --schedules, --seconds, --scenario, --replay, --weakened"
                    ));
                }
            }
        }
        Ok(parsed)
    }
}

fn main() -> ExitCode {
    let arguments = match Arguments::parse() {
        Ok(arguments) => arguments,
        Err(problem) => return fail(&problem),
    };
    if let Some(name) = &arguments.weakened {
        return run_weakened(name);
    }
    let wanted = |scenario: &&Scenario| arguments.scenario.as_ref().is_none_or(|name| *name == scenario.name);
    let chosen: Vec<_> = SCENARIOS.iter().filter(wanted).collect();
    if chosen.is_empty() {
        let names: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        return fail(&format!("the scenarios are: {}", names.join(", ")));
    }
    if let Some(schedule) = &arguments.replay {
        let [scenario] = chosen[..] else {
            return fail("--replay wants its --scenario");
        };
        replica::IS_SHOWN.store(true, Ordering::Relaxed);
        // Shuttle names a random schedule by its seed, and others by their steps.
        match schedule.parse() {
            Ok(seed) => Runner::new(RandomScheduler::new_from_seed(seed, 1), config()).run(scenario.run),
            Err(_) => Runner::new(ReplayScheduler::new_from_encoded(schedule), config()).run(scenario.run),
        };
        return ExitCode::SUCCESS;
    }
    let seconds = match (arguments.seconds, arguments.schedules) {
        (None, None) => Some(55),
        (seconds, _) => seconds,
    };
    let share = Share {
        time: seconds.map(|seconds| Duration::from_secs(seconds) / chosen.len() as u32),
        schedules: arguments.schedules.map(|schedules| schedules.div_ceil(chosen.len())),
    };
    let shown = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        scenarios::note_panic();
        shown(info);
    }));
    let began = Instant::now();
    let (mut schedules, mut failed) = (0, Vec::new());
    for scenario in &chosen {
        match share.run(scenario) {
            Some(made) => schedules += made,
            None => failed.push(scenario.name),
        }
    }
    let scenarios = chosen.len();
    println!(
        "{schedules} schedules of {scenarios} scenarios in {:.1?}",
        began.elapsed()
    );
    if chosen.iter().any(|scenario| scenario.name == HISTORY) && !failed.contains(&HISTORY) {
        let reached = Reached::all();
        println!("{HISTORY}: {}", reached.as_ref().unwrap_or_else(|told| told));
        // Within seconds there is no time for the rare one.
        let is_rare = |weakness: &&Weakness| **weakness == Weakness::ClaimsBeforeList;
        let has_time = arguments.schedules.is_some();
        let mut tried = WEAKENED.iter().filter(|weakness| has_time || !is_rare(weakness));
        if reached.is_err() || !tried.all(|weakness| is_caught(*weakness)) {
            failed.push(HISTORY);
        }
    }
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    fail(&format!(
        "failed: {}. To see one again: --scenario NAME --replay SCHEDULE",
        failed.join(", ")
    ))
}

/// Looks for a schedule in which a weakened variant fails. In a process of its own, whose stderr shuttle fills.
fn is_caught(weakness: Weakness) -> bool {
    let _ = io::stdout().flush();
    let this = std::env::current_exe().expect("the path of this program");
    let mut child = Command::new(this);
    child
        .args(["--weakened", &format!("{weakness:?}")])
        .stderr(Stdio::null());
    child.status().is_ok_and(|status| status.success())
}

/// That process.
fn run_weakened(name: &str) -> ExitCode {
    let Some(weakness) = WEAKENED.iter().find(|weakness| format!("{weakness:?}") == name) else {
        return fail(&format!("the weakened variants are: {WEAKENED:?}"));
    };
    let run = SCENARIOS
        .iter()
        .find(|scenario| scenario.name == HISTORY)
        .expect("it is one")
        .run;
    let began = Instant::now();
    let mut config = config();
    config.ungraceful_shutdown_config.immediately_return_on_panic = true;
    weakness.give();
    for (batch, made) in (1..).zip((BATCH..=WEAKENED_SCHEDULES).step_by(BATCH)) {
        let config = config.clone();
        let ran = panic::catch_unwind(move || match batch % 2 {
            0 => Runner::new(PctScheduler::new(DEPTHS[batch / 2 % DEPTHS.len()], BATCH), config).run(run),
            _ => Runner::new(RandomScheduler::new(BATCH), config).run(run),
        });
        if let Err(panic) = ran {
            let told = panic.downcast_ref::<String>().map(String::as_str);
            let told = told.or_else(|| panic.downcast_ref::<&str>().copied());
            let told = told.and_then(|told| told.lines().next()).unwrap_or("it panicked");
            let took = began.elapsed();
            println!("  {name:<18} is caught within {made} schedules, {took:.1?}: {told}");
            return ExitCode::SUCCESS;
        }
    }
    println!("  {name:<18} FAILED: it is not caught in {WEAKENED_SCHEDULES} schedules");
    ExitCode::FAILURE
}

fn fail(problem: &str) -> ExitCode {
    eprintln!("{problem}");
    ExitCode::FAILURE
}

/// The share of one scenario.
struct Share {
    time: Option<Duration>,
    schedules: Option<usize>,
}

impl Share {
    /// The number of schedules, or `None` if one of them failed.
    fn run(&self, scenario: &Scenario) -> Option<usize> {
        print!("{:<16}", scenario.name);
        let _ = io::stdout().flush();
        scenarios::panicked();
        let began = Instant::now();
        let schedules = panic::catch_unwind(|| {
            let mut made = self.run_with(scenario, 2, RandomScheduler::new);
            for depth in DEPTHS {
                made += self.run_with(scenario, 2 * DEPTHS.len(), |most| PctScheduler::new(depth, most));
            }
            made
        });
        let took = began.elapsed();
        let threads = scenarios::most_threads();
        match schedules {
            // The share was nothing, or the scenario does not end.
            Ok(made) if made == 0 || threads == 0 => {
                println!(" FAILED: {made} schedules, {threads} threads; that checks nothing");
                None
            }
            Ok(made) => {
                let each = took / made.max(1) as u32;
                println!("{made:>8} schedules  {threads:>2} threads  {took:>7.1?}  {each:.0?} each");
                Some(made)
            }
            Err(_) => {
                println!(" FAILED after {took:.1?}; its schedule is above");
                None
            }
        }
    }

    /// Runs one part of the share, a batch at a time: shuttle treats a stopped scheduler as a failed one. At least one
    /// batch runs, however little time there is.
    fn run_with<S>(&self, scenario: &Scenario, parts: usize, scheduler: impl Fn(usize) -> S) -> usize
    where
        S: Scheduler + 'static,
    {
        let began = Instant::now();
        let time = self.time.map_or(Duration::MAX, |time| time / parts as u32);
        let most = self.schedules.map_or(usize::MAX, |schedules| schedules.div_ceil(parts));
        let mut made = 0;
        loop {
            let batch = BATCH.min(most - made);
            let ran = Runner::new(scheduler(batch), config()).run(scenario.run);
            assert_eq!(ran, batch, "shuttle makes as many schedules as it is asked for");
            made += ran;
            if made >= most || began.elapsed() >= time {
                return made;
            }
        }
    }
}

fn config() -> Config {
    let mut config = Config::new();
    config.stack_size = 0x20000;
    config.max_steps = shuttle::MaxSteps::FailAfter(1_000_000);
    // The header lists what it warns of.
    config.silence_warnings = true;
    config
}
