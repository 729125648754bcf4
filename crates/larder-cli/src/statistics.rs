//! `larder stats` and `larder advice`.

use std::io::{self, Write};

use larder::{Finding, Severity, Stats, Store};
use serde::Serialize;

use crate::args::{AdviceArgs, StatsArgs};
use crate::failure::{Result, Verdict};
use crate::output::{Output, plain, size};

/// The figures of the files. Those of a running service are in that service: `Store::stats`.
#[derive(Serialize)]
struct Figures {
    path: String,
    bytes: u64,
    page_size: u64,
    pages: u64,
    free_pages: u64,
    wal_bytes: u64,
    seen: Option<larder::ReadOnly>,
    journal_mode: String,
    auto_vacuum: &'static str,
    encoding: String,
    user_version: i64,
    application_id: i64,
    schema_version: i64,
    sqlite_version: &'static str,
    tables: Vec<Table>,
}

#[derive(Serialize)]
struct Table {
    name: String,
    strict: bool,
    without_rowid: bool,
    indexes: i64,
    triggers: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<i64>,
}

pub(crate) fn stats(args: &StatsArgs, output: &Output) -> Result<Verdict> {
    let store = args.database.open_to_read()?;
    let figures = figures(&store, args.rows)?;
    output.result(&figures, |to| print(to, &figures))?;
    Ok(Verdict::Sound)
}

fn figures(store: &Store, with_rows: bool) -> Result<Figures> {
    let stats: Stats = store.stats();
    let (tables, mut figures) = store.query(|tx| -> Result<_, larder::Error> {
        let one = |pragma: &str| tx.scalar::<i64>(&format!("SELECT {pragma} FROM pragma_{pragma}"), []);
        let word = |pragma: &str| tx.scalar::<String>(&format!("SELECT {pragma} FROM pragma_{pragma}"), []);
        let auto_vacuum = match one("auto_vacuum")? {
            0 => "none",
            1 => "full",
            _ => "incremental",
        };
        let (page_size, pages) = (one("page_size")? as u64, one("page_count")? as u64);
        let figures = Figures {
            path: store.path().display().to_string(),
            bytes: page_size * pages,
            page_size,
            pages,
            free_pages: one("freelist_count")? as u64,
            wal_bytes: stats.wal_bytes,
            seen: stats.read_only,
            journal_mode: word("journal_mode")?,
            auto_vacuum,
            encoding: word("encoding")?,
            user_version: one("user_version")?,
            application_id: one("application_id")?,
            schema_version: one("schema_version")?,
            sqlite_version: stats.sqlite_version,
            tables: Vec::new(),
        };
        let tables = tx.query_map(
            "SELECT name, strict, wr,
                 (SELECT count(*) FROM sqlite_schema WHERE type = 'index' AND tbl_name = list.name),
                 (SELECT count(*) FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = list.name)
             FROM pragma_table_list AS list
             WHERE schema = 'main' AND type IN ('table', 'virtual') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
             ORDER BY name",
            [],
            |row| {
                Ok(Table {
                    name: row.get(0)?,
                    strict: row.get(1)?,
                    without_rowid: row.get(2)?,
                    indexes: row.get(3)?,
                    triggers: row.get(4)?,
                    rows: None,
                })
            },
        )?;
        Ok((tables, figures))
    })?;
    for mut table in tables {
        if with_rows {
            let count = format!("SELECT count(*) FROM \"{}\"", table.name.replace('"', "\"\""));
            // Each in a snapshot of its own: a long one would keep a service's log from its restart.
            table.rows = Some(store.read(|tx| tx.scalar(&count, []))?);
        }
        figures.tables.push(table);
    }
    Ok(figures)
}

fn print(to: &mut dyn Write, figures: &Figures) -> io::Result<()> {
    let seen = match figures.seen {
        Some(larder::ReadOnly::Snapshot) => ", a snapshot: no process writes to it",
        Some(larder::ReadOnly::SnapshotWithLog) => ", a snapshot and its log: no process writes to it",
        _ => "",
    };
    writeln!(to, "{}{seen}", figures.path)?;
    let Figures { pages, page_size, .. } = figures;
    writeln!(
        to,
        "size          {} ({pages} pages of {page_size} bytes)",
        size(figures.bytes)
    )?;
    let free = figures.free_pages * page_size;
    writeln!(to, "free pages    {} ({})", figures.free_pages, size(free))?;
    writeln!(to, "log           {}", size(figures.wal_bytes))?;
    writeln!(to, "journal mode  {}", figures.journal_mode)?;
    writeln!(to, "auto-vacuum   {}", figures.auto_vacuum)?;
    writeln!(to, "encoding      {}", figures.encoding)?;
    writeln!(to, "user version  {}", figures.user_version)?;
    writeln!(to, "SQLite        {}", figures.sqlite_version)?;
    writeln!(to, "tables        {}", figures.tables.len())?;
    let names: Vec<String> = figures.tables.iter().map(|table| plain(&table.name)).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    for (name, table) in names.iter().zip(&figures.tables) {
        let mut said = vec![number(table.indexes, "index", "indexes")];
        said.extend(table.rows.map(|rows| number(rows, "row", "rows")));
        if table.triggers > 0 {
            said.push(number(table.triggers, "trigger", "triggers"));
        }
        if table.strict {
            said.push("strict".into());
        }
        if table.without_rowid {
            said.push("without rowid".into());
        }
        writeln!(to, "  {name:width$}  {}", said.join(", "))?;
    }
    Ok(())
}

fn number(number: i64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[derive(Serialize)]
struct Advice<'f> {
    ok: bool,
    findings: &'f [Finding],
}

pub(crate) fn advice(args: &AdviceArgs, output: &Output) -> Result<Verdict> {
    let store = args.database.open_to_read()?;
    let findings = store.advice();
    let ok = findings.iter().all(|finding| finding.severity == Severity::Note);
    let advice = Advice {
        ok,
        findings: &findings,
    };
    output.result(&advice, |to| {
        if findings.is_empty() {
            return writeln!(to, "nothing to advise");
        }
        findings
            .iter()
            .try_for_each(|finding| writeln!(to, "{}", plain(&finding.to_string())))
    })?;
    Ok(Verdict::of(ok))
}
