//! `larder export`: to PostgreSQL.

use larder::{ExportProgress, ExportStage, OnMisfit};

use crate::args::{ExportArgs, Misfits};
use crate::failure::{Failure, Result, Verdict};
use crate::output::Output;

pub(crate) fn export(args: &ExportArgs, output: &Output) -> Result<Verdict> {
    refuse_password(&args.url)?;
    let mut progress = output.progress()?;
    let store = args.database.open_to_read()?;
    let export = store
        .export_to_postgres(&args.url)
        .schema(&args.schema)
        .infer_types(args.infer_types)
        .resumable(args.resumable)
        .on_misfit(match args.misfits {
            Misfits::Fail => OnMisfit::Fail,
            Misfits::Null => OnMisfit::Null,
            Misfits::Text => OnMisfit::Text,
            Misfits::Quarantine => OnMisfit::Quarantine,
        })
        .progress(move |now| progress.show(|| line(now)));
    let report = if args.plan { export.dry_run() } else { export.run() }?;
    output.result(&report, |to| {
        if args.plan {
            report
                .tables
                .iter()
                .try_for_each(|table| writeln!(to, "{};", table.create))?;
        }
        write!(to, "{report}")
    })?;
    Ok(Verdict::of(!args.plan || report.misfits.is_empty()))
}

fn line(now: &ExportProgress) -> String {
    let stage = match now.stage {
        ExportStage::Scan => "reading",
        ExportStage::Copy => "copying",
        ExportStage::Index => return format!("making keys and indexes, {:.0?}", now.elapsed),
        _ => "comparing",
    };
    format!("{stage}: {} rows, {:.0?}", now.rows, now.elapsed)
}

/// Refuses a password among the arguments.
pub(crate) fn refuse_password(url: &str) -> Result<()> {
    if !has_password(url) {
        return Ok(());
    }
    Err(Failure::Usage(
        "other users see the arguments of a command: give the password by PGPASSWORD or ~/.pgpass".into(),
    ))
}

/// Whether a URL has a password in it.
fn has_password(url: &str) -> bool {
    let schemes = ["postgres://", "postgresql://"];
    let Some(rest) = schemes.iter().find_map(|scheme| url.strip_prefix(scheme)) else {
        // `key=value` pairs, which may have blanks around the sign.
        let pairs: String = url.chars().filter(|c| !c.is_whitespace()).collect();
        return pairs.contains("password=");
    };
    // As the driver: what is before the first `@` is the user, whatever else it has.
    let (user, rest) = rest.split_once('@').unwrap_or(("", rest));
    user.contains(':') || rest.contains("password=")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_urls_are_seen() {
        assert!(has_password("postgres://a:b@h/d") && has_password("postgres://h/d?password=x"));
        assert!(has_password("postgres://ada:pa/ss@db/app") && has_password("postgres://ada:pa?ss@db/app"));
        assert!(has_password("postgresql://ada:x@db/app") && has_password("host=h?password=x"));
        assert!(has_password("host=h password = 'x'") && has_password("password=x sslrootcert=a://b"));
        assert!(!has_password("host=h user=a passfile=/x"));
        assert!(!has_password("postgres://a@h:5432/d") && !has_password("postgres://h/d?user=a"));
    }
}
