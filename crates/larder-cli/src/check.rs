//! `larder check`.

use larder::{CheckProgress, CheckReport, CheckStage};
use serde::Serialize;

use crate::args::CheckArgs;
use crate::failure::{Result, Verdict};
use crate::output::{Output, plain};
use crate::progress::{INTERVAL, share};

#[derive(Serialize)]
struct Checked<'r> {
    ok: bool,
    damaged: bool,
    #[serde(flatten)]
    report: &'r CheckReport,
}

pub(crate) fn check(args: &CheckArgs, output: &Output) -> Result<Verdict> {
    let mut progress = output.progress()?;
    let store = args.database.open_to_read()?;
    let mut check = store.check().progress(INTERVAL, move |now| progress.show(|| line(now)));
    if args.full {
        check = check.full();
    }
    let report = check.run()?;
    let checked = Checked {
        ok: report.is_ok(),
        damaged: report.is_damaged(),
        report: &report,
    };
    output.result(&checked, |to| {
        let kinds = [("damage", &report.problems), ("finding", &report.findings)];
        for (kind, said) in kinds {
            said.iter()
                .try_for_each(|said| writeln!(to, "{kind}: {}", plain(said)))?;
        }
        for violation in &report.foreign_key_violations {
            writeln!(to, "no parent row: {}", plain(&violation.to_string()))?;
        }
        for what in &report.not_checked {
            writeln!(to, "not checked: {}", plain(what))?;
        }
        writeln!(to, "{}: {}", store.path().display(), summary(&report))
    })?;
    Ok(Verdict::of(report.is_ok()))
}

fn line(now: &CheckProgress) -> String {
    match now.stage {
        CheckStage::ForeignKeys {
            tables_done,
            tables_total,
        } => format!(
            "checking foreign keys: {}",
            share(tables_done as u64, tables_total as u64, "tables")
        ),
        _ => format!("checking, {:.0?}", now.elapsed),
    }
}

fn summary(report: &CheckReport) -> String {
    let check = if report.full { "full check" } else { "quick check" };
    let said = if report.is_ok() {
        "ok".to_owned()
    } else {
        format!(
            "{} problems, {} findings, {} foreign keys without a parent row",
            report.problems.len(),
            report.total_findings,
            report.total_foreign_key_violations
        )
    };
    format!("{check} of {} tables, {said} ({:.1?})", report.tables, report.duration)
}
