//! The printed report: aligned text, in human-readable units.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use indicatif::{BinaryBytes, HumanCount};
use larder::rusqlite;
use larder::{CloseReport, Store};

use crate::failure::Result;
use crate::load::{Latencies, Load};
use crate::lookups::{Lookup, Lookups};
use crate::made_up::Ingested;

pub(crate) fn opened(out: &mut impl Write, store: &Store) -> Result<()> {
    writeln!(out, "SQLite        {}", rusqlite::version())?;
    writeln!(out, "cores         {}", crate::cores())?;
    writeln!(out, "database      {}", store.path().display())?;
    writeln!(out, "durability    {}", durability(store)?)?;
    Ok(())
}

/// Read back from the writing connection.
fn durability(store: &Store) -> Result<&'static str> {
    let synchronous: i64 = store.write(|tx| tx.scalar("PRAGMA synchronous", []))?;
    Ok(match synchronous {
        1 => "NORMAL (a power failure may lose the newest commits)",
        2 => "FULL (a commit is on the disk when it is acknowledged)",
        _ => "unknown",
    })
}

pub(crate) fn ingested(out: &mut impl Write, tables: &[Ingested]) -> Result<()> {
    writeln!(out, "\ningested")?;
    let width = tables
        .iter()
        .map(|table| table.table.chars().count())
        .max()
        .unwrap_or(0);
    for Ingested { table, rows, took } in tables {
        writeln!(
            out,
            "  {table:width$} {:>11} rows in {:>8}, {:>11} a second",
            count(*rows),
            human(*took),
            rate(*rows, *took),
        )?;
    }
    Ok(())
}

pub(crate) fn lookups(out: &mut impl Write, lookups: &Lookups) -> Result<()> {
    writeln!(out)?;
    for table in &lookups.skipped {
        writeln!(out, "skipped       {table}")?;
    }
    match &lookups.point {
        Some(Lookup { name, .. }) => writeln!(out, "point reads   {name}")?,
        None => writeln!(
            out,
            "point reads   none: no table has rows to look up, so this only writes"
        )?,
    }
    for Lookup { name, .. } in &lookups.joins {
        writeln!(out, "joins         {name}")?;
    }
    if lookups.point.is_some() && lookups.joins.is_empty() {
        writeln!(
            out,
            "joins         none: the schema declares no foreign keys between tables with rows"
        )?;
    }
    writeln!(out, "writes        single rows into {}", crate::load::TABLE)?;
    Ok(())
}

pub(crate) fn load(out: &mut impl Write, load: &Load) -> Result<()> {
    writeln!(
        out,
        "\n{} with {} threads that read and {} that write",
        human(load.took),
        load.readers,
        load.writers
    )?;
    writeln!(
        out,
        "  {:11} {:>11} {:>11} {:>9} {:>9} {:>9}",
        "", "count", "a second", "p50", "p95", "p99"
    )?;
    row(out, "point reads", &load.point_reads, load.took)?;
    row(out, "joins", &load.joins, load.took)?;
    row(out, "writes", &load.writes, load.took)?;
    let stats = &load.stats;
    let mean_group = stats.committed_writes as f64 / stats.groups.max(1) as f64;
    writeln!(out, "\nlargest queue wait        {}", human(stats.queue_wait.max))?;
    writeln!(
        out,
        "writes in a commit        {mean_group:.2} (mean), {} (largest)",
        stats.group_size.max
    )?;
    writeln!(
        out,
        "largest write-ahead log   {}",
        BinaryBytes(stats.largest_wal_bytes)
    )?;
    Ok(())
}

fn row(out: &mut impl Write, name: &str, latencies: &Latencies, took: Duration) -> Result<()> {
    let operations = latencies.count() as u64;
    let percentile = |percent| latencies.percentile(percent).map_or("-".into(), human);
    writeln!(
        out,
        "  {name:11} {:>11} {:>11} {:>9} {:>9} {:>9}",
        count(operations),
        rate(operations, took),
        percentile(50),
        percentile(95),
        percentile(99),
    )?;
    Ok(())
}

pub(crate) fn closed(out: &mut impl Write, database: &Path, report: &CloseReport) -> Result<()> {
    let size = fs::metadata(database)?.len();
    writeln!(out, "database                  {}", BinaryBytes(size))?;
    writeln!(out, "closed                    {report}")?;
    Ok(())
}

fn count(n: u64) -> String {
    HumanCount(n).to_string()
}

fn rate(n: u64, took: Duration) -> String {
    count((n as f64 / took.as_secs_f64()) as u64)
}

fn human(time: Duration) -> String {
    format!("{time:.1?}")
}
