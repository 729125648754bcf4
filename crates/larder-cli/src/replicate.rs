//! `larder replicate`.

use std::time::{Duration, SystemTime};

use larder::{Options, Replica, ReplicaRestoreProgress, ReplicaRestoreStage, RestorePoint, RestoreSpan, VerifyReport};
use serde::Serialize;

use crate::args::{ReplicaRestoreArgs, ReplicaStatusArgs, ReplicateVerb, VerifyArgs};
use crate::failure::{Failure, Result, Verdict};
use crate::output::{Output, plain, size};
use crate::progress::share;

pub(crate) fn run(verb: &ReplicateVerb, output: &Output) -> Result<Verdict> {
    match verb {
        ReplicateVerb::Status(args) => status(args, output),
        ReplicateVerb::Points(args) => points(&args.replica, output),
        ReplicateVerb::Restore(args) => restore(args, output),
        ReplicateVerb::Verify(args) => verify(args, output),
    }
}

#[derive(Serialize)]
struct Status {
    ok: bool,
    newest: RestorePoint,
    /// Seconds since the newest state was captured.
    age: f64,
    oldest: RestorePoint,
    states: u64,
}

fn status(args: &ReplicaStatusArgs, output: &Output) -> Result<Verdict> {
    let spans = spans(&args.replica)?;
    let (Some(first), Some(last)) = (spans.first(), spans.last()) else {
        return Err(nothing(&args.replica));
    };
    let age = since(last.last.timestamp);
    let status = Status {
        ok: args.max_age.is_none_or(|most| age <= most),
        newest: last.last,
        age: age.as_secs_f64(),
        oldest: first.first,
        states: spans.iter().map(|span| span.states).sum(),
    };
    output.result(&status, |to| {
        let RestorePoint { txid, timestamp, .. } = status.newest;
        writeln!(to, "newest state  TXID {txid} of {}, {} ago", time(timestamp), ago(age))?;
        let oldest = status.oldest.timestamp;
        writeln!(to, "oldest state  {}, {} ago", time(oldest), ago(since(oldest)))?;
        writeln!(to, "states        {}", status.states)?;
        match args.max_age.filter(|_| !status.ok) {
            Some(most) => writeln!(to, "problem: the newest state is older than {}", ago(most)),
            None => Ok(()),
        }
    })?;
    Ok(Verdict::of(status.ok))
}

fn spans(replica: &str) -> Result<Vec<RestoreSpan>> {
    Ok(Replica::open(replica)?.points()?)
}

fn nothing(replica: &str) -> Failure {
    let replica = replica.split('?').next().unwrap_or_default();
    Failure::Other(format!(
        "replica {replica}: it has no state that can be restored; check the URL or the path, and see what `larder replicate \
         verify` says"
    ))
}

fn since(time: SystemTime) -> Duration {
    SystemTime::now().duration_since(time).unwrap_or_default()
}

fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time.max(SystemTime::UNIX_EPOCH)).to_string()
}

fn ago(age: Duration) -> String {
    humantime::format_duration(Duration::from_secs(age.as_secs())).to_string()
}

#[derive(Serialize)]
struct Points {
    spans: Vec<RestoreSpan>,
}

fn points(replica: &str, output: &Output) -> Result<Verdict> {
    let points = Points { spans: spans(replica)? };
    if points.spans.is_empty() {
        return Err(nothing(replica));
    }
    output.result(&points, |to| {
        points.spans.iter().try_for_each(|span| writeln!(to, "{span}"))
    })?;
    Ok(Verdict::Sound)
}

fn restore(args: &ReplicaRestoreArgs, output: &Output) -> Result<Verdict> {
    let mut progress = output.progress()?;
    let mut restore = Options::new()
        .restore_from(&args.replica)
        .integrity_check(!args.no_check)
        .progress(move |now| progress.show(|| line(now)));
    if let Some(time) = args.at {
        restore = restore.at(time);
    }
    if let Some(ago) = args.ago {
        let at = SystemTime::now().checked_sub(ago);
        restore = restore.at(at.ok_or_else(|| Failure::Usage("--ago is before all time".into()))?);
    }
    if let Some(txid) = args.txid {
        restore = restore.txid(txid);
    }
    let report = restore.to(&args.database)?;
    output.result(&report, |to| writeln!(to, "{report}"))?;
    Ok(Verdict::of(
        report.check.as_ref().is_none_or(|check| !check.is_damaged()),
    ))
}

#[derive(Serialize)]
struct Verified<'r> {
    ok: bool,
    #[serde(flatten)]
    report: &'r VerifyReport,
}

fn verify(args: &VerifyArgs, output: &Output) -> Result<Verdict> {
    let mut progress = output.progress()?;
    let replica = Replica::open(&args.replica)?;
    let mut verify = replica
        .verify()
        .restore(!args.files_only)
        .progress(move |now| progress.show(|| line(now)));
    if let Some(folder) = &args.folder {
        verify = verify.folder(folder);
    }
    let report = verify.run()?;
    let verified = Verified {
        ok: report.is_ok(),
        report: &report,
    };
    output.result(&verified, |to| {
        let problems = report.problems.iter();
        problems
            .clone()
            .try_for_each(|problem| writeln!(to, "problem: {}", plain(problem)))?;
        writeln!(to, "{}", plain(&report.to_string()))
    })?;
    Ok(Verdict::of(report.is_ok()))
}

fn line(now: &ReplicaRestoreProgress) -> String {
    match now.stage {
        ReplicaRestoreStage::Download if now.files_total > 0 => format!(
            "reading: {}, {}/s",
            share(now.bytes_done, now.bytes_total, "bytes"),
            size(now.bytes_per_second)
        ),
        ReplicaRestoreStage::Download => format!("reading, {:.0?}", now.elapsed),
        _ => format!("checking, {:.0?}", now.elapsed),
    }
}
