//! The documents' numbers, on this machine: `cargo bench --bench report`.
//!
//! Writes `report.md`, `report.json` and three plots into `target/larder-report/`. Each row of the documents is
//! measured beside its floor, in turns: the same operation on a private rusqlite connection with larder's settings.
//! Ratios are printed only for two sides measured that way.
//!
//! `LARDER_BENCH_SECS` is the time for each row (default 10), `LARDER_BENCH_DIR` the folder of the databases (default:
//! the target folder). A folder in memory (tmpfs) is measured, and marked as such.

#[path = "../data/mod.rs"]
mod data;
mod load;
mod machine;
#[path = "../measure/mod.rs"]
mod measure;
mod memory;
#[path = "../plot/mod.rs"]
mod plot;
mod plots;
mod rows;
mod tasks;
mod write;

use std::path::PathBuf;
use std::time::{Duration, Instant};
use std::{env, fs};

use indicatif::{ProgressBar, ProgressStyle};

use data::Data;
use load::Load;
use machine::Machine;
use memory::Memory;
use rows::{Curve, Row};
use tasks::{LongReads, Parts};

/// The number of turns of each side of a pair.
const ROUNDS: u32 = 7;

/// All measurements.
struct Report {
    machine: Machine,
    rows: Vec<Row>,
    curves: Vec<Curve>,
    loads: Vec<Load>,
    tasks: Vec<Load>,
    long_reads: LongReads,
    alone: Vec<Parts>,
    memory: Vec<Memory>,
    took: Duration,
}

/// The durations of the measurements, and their progress.
struct Run {
    /// One side of one round.
    slice: Duration,
    /// One load test.
    load: Duration,
    /// One test for the longest wait.
    long: Duration,
    progress: ProgressBar,
}

impl Run {
    fn step(&self, what: &str) {
        self.progress.set_message(what.to_owned());
        self.progress.inc(1);
    }
}

fn main() {
    memory::look_if_asked();
    // `cargo test --benches` runs this, too, only to check that it works.
    let quick = env::args().any(|arg| arg == "--test");
    let seconds = env::var("LARDER_BENCH_SECS").ok().and_then(|s| s.parse().ok());
    let seconds: f64 = if quick { 0.05 } else { seconds.unwrap_or(10.0) };
    let began = Instant::now();
    let progress = ProgressBar::new(rows::STEPS + load::STEPS + tasks::STEPS + memory::STEPS + 2);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}").expect("the template is right");
    progress.set_style(style);
    let run = Run {
        slice: Duration::from_secs_f64(seconds / f64::from(ROUNDS) / 2.0),
        load: Duration::from_secs_f64(seconds / 2.0),
        long: Duration::from_secs_f64(seconds),
        progress,
    };
    run.step("making the rows");
    let data = Data::make();
    run.step("looking at the machine");
    let mut machine = Machine::look(data.folder());
    if let Some(warning) = &machine.warning {
        run.progress.println(format!("warning: {warning}"));
    }
    let (rows, curves) = rows::measure(&run, &data);
    let loads = load::measure(&run, &data);
    let (tasks, long_reads) = tasks::measure(&run, &data);
    let alone = tasks::alone(&run, &data);
    let memory = memory::measure(&run, &data);
    machine.round_trip.1 = measure::line();
    run.progress.finish_and_clear();
    let report = Report {
        machine,
        rows,
        curves,
        loads,
        tasks,
        long_reads,
        alone,
        memory,
        took: began.elapsed(),
    };
    let folder = folder();
    fs::create_dir_all(&folder).expect("the target folder can be written");
    let text = write::markdown(&report);
    fs::write(folder.join("report.md"), &text).expect("the report is written");
    fs::write(folder.join("report.json"), write::json(&report)).expect("the report is written");
    plots::throughput(&folder.join("throughput.svg"), &report.curves);
    plots::latencies(&folder.join("latencies.svg"), "latency under load", &report.loads);
    plots::latencies(&folder.join("tasks.svg"), "latency of tasks", &report.tasks);
    println!("{text}\nwritten to {}", folder.display());
}

/// `target/larder-report`, wherever the target folder is.
fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("larder-report")
}
