//! `larder backup`, `restore` and `vacuum`.

use larder::{BackupProgress, BackupStage, Options, RestoreOptions, VacuumProgress};

use crate::args::{BackupArgs, RestoreArgs, VacuumArgs};
use crate::failure::{Result, Verdict};
use crate::output::{Output, size};
use crate::progress::{INTERVAL, share};

pub(crate) fn backup(args: &BackupArgs, output: &Output) -> Result<Verdict> {
    let mut progress = output.progress()?;
    let store = args.database.open_to_read()?;
    let backup = if args.compact {
        store.backup_compact(&args.target)
    } else {
        store.backup(&args.target)
    };
    let mut backup = backup
        .overwrite(args.overwrite)
        .checksum(args.checksum)
        .verify(!args.no_verify)
        .pause(args.pause)
        .progress(move |now| progress.show(|| line(now)));
    if let Some(timeout) = args.timeout {
        backup = backup.timeout(timeout);
    }
    let report = backup.run()?;
    output.result(&report, |to| {
        if let Some(checksum) = &report.checksum {
            writeln!(to, "sha256 of all rows: {checksum}")?;
        }
        writeln!(to, "{report}")
    })?;
    Ok(Verdict::Sound)
}

pub(crate) fn restore(args: &RestoreArgs, output: &Output) -> Result<Verdict> {
    let mut progress = output.progress()?;
    let options = RestoreOptions::new()
        .verify(!args.no_verify)
        .progress(move |now| progress.show(|| line(now)));
    let report = Options::new().restore_with(options, &args.backup, &args.database)?;
    output.result(&report, |to| writeln!(to, "{report}"))?;
    Ok(Verdict::of(!report.check.is_damaged()))
}

pub(crate) fn vacuum(args: &VacuumArgs, output: &Output) -> Result<Verdict> {
    let mut progress = output.progress()?;
    let store = args.database.open_to_write(|options| options, output)?;
    let line = |now: &VacuumProgress| format!("building the compact copy, {:.0?}", now.elapsed);
    let report = store
        .vacuum()
        .progress(INTERVAL, move |now| progress.show(|| line(now)))
        .run()?;
    store.close()?;
    output.result(&report, |to| {
        let (before, after) = (size(report.bytes_before), size(report.bytes_after));
        write!(to, "{}: {before} -> {after}", args.database.database.display())?;
        if !report.wal_truncated {
            write!(to, "; the file shrinks when its log can be reset")?;
        }
        writeln!(to, " ({:.1?})", report.duration)
    })?;
    Ok(Verdict::Sound)
}

fn line(now: &BackupProgress) -> String {
    match now.stage {
        BackupStage::Copy => format!(
            "copying: {}, {}/s",
            share(now.pages_done, now.pages_total, "pages"),
            size(now.bytes_per_second)
        ),
        BackupStage::Compact => format!("compacting, {:.0?}", now.elapsed),
        _ => format!("checking, {:.0?}", now.elapsed),
    }
}
