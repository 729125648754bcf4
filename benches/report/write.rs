//! The report as text and as JSON.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::Report;
use crate::load::Load;
use crate::measure::Compared;
use crate::memory::Memory;
use crate::rows::{Row, Unit};
use crate::tasks::{LongReads, Parts};

pub(crate) fn markdown(report: &Report) -> String {
    let machine = &report.machine;
    let mut text = String::from("# larder beside the documents and the floor\n\n");
    let mut line = |line: String| writeln!(text, "{line}").expect("a string takes it");
    if let Some(warning) = &machine.warning {
        line(format!("**{warning}**\n"));
    }
    line(format!(
        "{} cores, {}, Linux {}; {}; fdatasync of 4 KiB {:.0?} (p99 {:.0?}); a cache line from core \
         to core and back {:.0?}, and {:.0?} at the end; SQLite {}; measured in {:.0?} by `cargo bench \
         --bench report`.\n",
        machine.cores,
        machine.cpu,
        machine.kernel,
        machine.disk,
        machine.fsync.0,
        machine.fsync.1,
        machine.round_trip.0,
        machine.round_trip.1,
        machine.sqlite,
        report.took
    ));
    line("Medians of slices in turns; *of the floor* is the median of the ratios of neighbouring slices.\n".into());
    line(
        "| where the figure comes from | operation | figure | here | of the floor (lowest to highest) | the floor |"
            .into(),
    );
    line("|---|---|---|---|---|---|".into());
    for row in &report.rows {
        line(format!(
            "| {} | {} | {} | {} | {} | {} |",
            row.source,
            row.operation,
            row.figure,
            here(row),
            ratio(&row.found),
            row.against
        ));
    }
    line("\nThe claims about settings have a private connection on both sides; *of the floor* is then how many times as fast \
          it is with the setting.\n"
        .into());
    line("## Under load\n".into());
    line(table(&report.loads));
    line("## Tasks\n".into());
    line(table(&report.tasks));
    line(long_reads(&report.long_reads));
    line("## One at a time\n".into());
    line(alone(&report.alone));
    line("## Memory\n".into());
    line(memory(&report.memory));
    line("## Writes a second by blocking clients\n".into());
    let clients: Vec<_> = report
        .curves
        .first()
        .map(|curve| &curve.points[..])
        .unwrap_or_default()
        .to_vec();
    let head: Vec<_> = clients.iter().map(|(clients, _)| clients.to_string()).collect();
    line(format!("| | {} |", head.join(" | ")));
    line(format!("|---|{}", "---|".repeat(head.len())));
    for curve in &report.curves {
        let points: Vec<_> = curve.points.iter().map(|(_, rate)| count(*rate)).collect();
        line(format!("| {} | {} |", curve.name, points.join(" | ")));
    }
    line(
        "\nPlots: `throughput.svg`, `latencies.svg`, `tasks.svg`. SQLite's compile options are in `report.json`."
            .into(),
    );
    text
}

fn table(loads: &[Load]) -> String {
    let mut text = String::from(
        "| | offered/s | done/s | errors | p50 | p99 | p99.9 | worst |\n|---|---|---|---|---|---|---|---|\n",
    );
    for load in loads {
        let at = |share| time(load.latencies.at(share));
        let line = format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            load.name,
            load.offered.map(|n| count(n as f64)).unwrap_or_default(),
            count(load.done),
            load.errors,
            at(0.5),
            at(0.99),
            at(0.999),
            time(load.latencies.longest)
        );
        writeln!(text, "{line}").expect("a string takes it");
    }
    text
}

fn long_reads(found: &LongReads) -> String {
    let ms = |seconds: f64| format!("{:.3} ms", seconds * 1000.0);
    format!(
        "{} long reads, the median one of {}: the p99 of the others is {} with them and {} without, medians of slices in \
         turns. They add {} ({} to {}), the median of what neighbouring slices differ by.\n",
        found.number,
        ms(found.length),
        ms(found.with),
        ms(found.without),
        ms(found.added),
        ms(found.lowest),
        ms(found.highest)
    )
}

fn alone(parts: &[Parts]) -> String {
    let mut text = String::from(
        "Medians of an operation that has nothing beside it. *Before* the closure is the way to its thread, and for a write \
         BEGIN; *after* it COMMIT, and the way back.\n\n| | before | closure | after | whole |\n|---|---|---|---|---|\n",
    );
    for part in parts {
        let us = [part.before, part.inside, part.after, part.whole].map(|time| format!("{:.2} us", micros(time)));
        writeln!(text, "| {} | {} |", part.name, us.join(" | ")).expect("a string takes it");
    }
    text
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn memory(found: &[Memory]) -> String {
    let mut text = String::from(
        "Resident memory that is added to the process. *Own* is its own memory, *mapped* are pages of the file that it \
         has mapped, which are the system's cache.\n\n| | own | mapped |\n|---|---|---|\n",
    );
    for found in found {
        writeln!(
            text,
            "| {} | {} | {} |",
            found.name,
            size(found.own),
            size(found.mapped)
        )
        .expect("a string takes it");
    }
    text
}

fn size(bytes: f64) -> String {
    match bytes {
        bytes if bytes < 10_000.0 => format!("{bytes:.0} bytes"),
        bytes if bytes < 10_000_000.0 => format!("{:.0} KiB", bytes / 1024.0),
        bytes => format!("{:.0} MiB", bytes / 1024.0 / 1024.0),
    }
}

fn here(row: &Row) -> String {
    match row.unit {
        Unit::Rate => format!("{}/s", count(row.found.ours)),
        Unit::Rows => format!("{} rows/s", count(row.found.ours * 1000.0)),
        Unit::Milliseconds => time(Duration::from_secs_f64(1.0 / row.found.ours)),
        Unit::Calls => format!("{:.2} for {:.2}", row.found.ours, row.found.theirs),
        Unit::Times => format!("{:.1} times", row.found.ratio),
    }
}

fn ratio(found: &Compared) -> String {
    format!("{:.2} ({:.2} to {:.2})", found.ratio, found.lowest, found.highest)
}

/// Three significant digits, with commas.
fn count(number: f64) -> String {
    let unit = 10_f64.powf((number.max(1.0).log10().floor() - 2.0).max(0.0));
    let digits = ((number / unit).round() * unit).to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn time(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1000.0)
}

pub(crate) fn json(report: &Report) -> String {
    let us = |seconds: f64| (seconds * 1e6).round() as i64;
    let machine = &report.machine;
    let rows: Vec<_> = report.rows.iter().map(row).collect();
    let loads: Vec<_> = report.loads.iter().map(load).collect();
    let tasks: Vec<_> = report.tasks.iter().map(load).collect();
    let curves: Vec<_> = report
        .curves
        .iter()
        .map(|curve| json!({ "name": curve.name, "writes_per_second_by_clients": curve.points }))
        .collect();
    let report = json!({
        "machine": {
            "cpu": machine.cpu,
            "cores": machine.cores,
            "kernel": machine.kernel,
            "disk": machine.disk,
            "fdatasync_us": { "median": machine.fsync.0.as_micros() as u64, "p99": machine.fsync.1.as_micros() as u64 },
            "cache_line_round_trip_ns": [machine.round_trip.0.as_nanos() as u64, machine.round_trip.1.as_nanos() as u64],
            "sqlite": machine.sqlite,
            "compile_options": machine.options,
            "warning": machine.warning,
        },
        "rows": rows,
        "loads": loads,
        "tasks": tasks,
        "long_reads": {
            "number": report.long_reads.number,
            "median_us": us(report.long_reads.length),
            "others_p99_us": { "with": us(report.long_reads.with), "without": us(report.long_reads.without) },
            "added_us": {
                "median": us(report.long_reads.added),
                "lowest": us(report.long_reads.lowest),
                "highest": us(report.long_reads.highest),
            },
        },
        "alone": report.alone.iter().map(parts).collect::<Vec<_>>(),
        "memory": report.memory.iter().map(resident).collect::<Vec<_>>(),
        "curves": curves,
        "seconds": report.took.as_secs_f64(),
    });
    serde_json::to_string_pretty(&report).expect("it is plain data")
}

fn parts(parts: &Parts) -> Value {
    json!({
        "name": parts.name,
        "us": {
            "before": micros(parts.before), "closure": micros(parts.inside), "after": micros(parts.after),
            "whole": micros(parts.whole),
        },
    })
}

fn resident(found: &Memory) -> Value {
    json!({ "name": found.name, "own_bytes": found.own, "mapped_bytes": found.mapped })
}

fn row(row: &Row) -> Value {
    json!({
        "source": row.source,
        "operation": row.operation,
        "documents": row.figure,
        "against": row.against,
        "per_second": row.found.ours,
        "floor_per_second": row.found.theirs,
        "ratio": { "median": row.found.ratio, "lowest": row.found.lowest, "highest": row.found.highest },
    })
}

fn load(load: &Load) -> Value {
    let us = |share| load.latencies.at(share).as_micros() as u64;
    json!({
        "name": load.name,
        "offered_per_second": load.offered,
        "done_per_second": load.done,
        "errors": load.errors,
        "latency_us": {
            "p50": us(0.5), "p99": us(0.99), "p999": us(0.999), "worst": load.latencies.longest.as_micros() as u64,
        },
    })
}
