//! What arrives, feature by feature: the tables of `docs/guide/postgres.md`, by real runs.
//!
//! Each feature has a schema or a database of its own, so that one does not hide another. Nothing may be lost without a word by
//! larder.
//! This prints the tables with the columns of the other programs:
//!
//! ```sh
//! LARDER_FEATURES=1 cargo test --features full --test it -- postgres::features --nocapture
//! ```

mod export;
mod import;

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::child::skipped;

/// How a feature arrives.
#[derive(Clone, Debug, PartialEq)]
enum Verdict {
    Kept,
    /// Not as it was, and the report says so.
    Reported(String),
    /// Nothing arrives, and the error says why.
    Refused(String),
    /// It does not arrive, and the other program prints an error.
    Failed(String),
    /// The value that is there instead.
    Lost(String),
    /// It is in the schema, which has to be written by hand.
    ByHand,
    /// The other program had to be ended.
    Endless,
    NotRun,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cell = |text: &str| without_numbers_of_indexes(text).replace('|', "\\|").replace('\n', " ");
        match self {
            Verdict::Kept => f.write_str("kept"),
            Verdict::Reported(_) => f.write_str("reported"),
            Verdict::Refused(_) => f.write_str("refused"),
            Verdict::Failed(_) => f.write_str("lost, with an error"),
            Verdict::Lost(found) if found.is_empty() => f.write_str("no word: nothing"),
            Verdict::Lost(found) => write!(f, "no word: `{}`", cell(found.trim_start_matches("ERROR:  "))),
            Verdict::ByHand => f.write_str("by hand"),
            Verdict::Endless => f.write_str("does not end"),
            Verdict::NotRun => f.write_str("-"),
        }
    }
}

/// The names that pgloader gives to indexes have a number, which is another one in each run: `idx_17400_by_s`.
fn without_numbers_of_indexes(text: &str) -> String {
    let mut parts = text.split("idx_");
    let mut made = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        let number = if rest.len() < part.len() && rest.starts_with('_') {
            "N"
        } else {
            &part[..part.len() - rest.len()]
        };
        made.push_str("idx_");
        made.push_str(number);
        made.push_str(rest);
    }
    made
}

/// Whether the tables are printed, with the columns of the other programs.
fn prints() -> bool {
    std::env::var_os("LARDER_FEATURES").is_some()
}

/// Whether another program runs too: asked for, and it is here.
fn runs(program: &str) -> bool {
    let runs = prints() && Command::new(program).arg("--version").output().is_ok();
    if prints() && !runs {
        skipped(&format!("there is no {program} here"));
    }
    runs
}

/// The last line of a report that has this text.
fn line_of(report: &str, text: &str) -> String {
    let line = report.lines().rev().find(|line| line.contains(text));
    line.unwrap_or_default().trim().to_owned()
}

/// Prints a table, and compares the column of larder with that of the guide. Some rows may be missing, where the server is
/// too old for them.
fn check(heading: &str, rows: &[(&str, Vec<Verdict>)], missing: usize) {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/guide/postgres.md");
    let guide = fs::read_to_string(guide).unwrap();
    let (_, table) = guide.split_once(heading).expect("the heading of the table");
    let lines = table.lines().skip_while(|line| !line.starts_with("|---"));
    let lines: Vec<&str> = lines.skip(1).take_while(|line| line.starts_with('|')).collect();
    let mut problems = Vec::new();
    let mut made = Vec::new();
    for (name, verdicts) in rows {
        let cells: Vec<String> = verdicts.iter().map(ToString::to_string).collect();
        made.push(format!("| {name} | {} |", cells.join(" | ")));
        if prints() {
            for verdict in verdicts {
                if let Verdict::Reported(reason) | Verdict::Refused(reason) | Verdict::Failed(reason) = verdict {
                    println!("{name}: {}", reason.lines().next().unwrap_or_default());
                }
            }
        }
        if let Some(Verdict::Lost(found)) = verdicts.first() {
            problems.push(format!("larder loses {name} without a word: {found}"));
        }
        let row = format!("| {name} | {} |", cells[0]);
        if !lines.iter().any(|line| line.starts_with(&row)) {
            problems.push(format!("the guide has no row {row}"));
        }
    }
    if prints() {
        println!("{heading}\n{}", made.join("\n"));
    }
    if lines.len() != rows.len() + missing {
        problems.push(format!("the guide has {} rows, {} were run", lines.len(), rows.len()));
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
