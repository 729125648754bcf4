//! `larder export`: to PostgreSQL.

use std::path::Path;

use larder::{ExportProgress, ExportStage, ExportToPostgres, OnMisfit};
use serde_json::Value;

use crate::args::{ExportArgs, Misfits};
use crate::failure::{Failure, Result, Verdict, with_flags};
use crate::output::Output;

pub(crate) fn export(args: &ExportArgs, output: &Output) -> Result<Verdict> {
    refuse_password(&args.url)?;
    let mut progress = output.progress()?;
    let statements = args.statements.as_deref().map(statements).transpose()?;
    let store = args.database.open_to_read()?;
    let mut export = store
        .export_to_postgres(&args.url)
        .schema(&args.schema)
        .infer_types(args.infer_types)
        .resumable(args.resumable)
        .probe(args.probe)
        .on_misfit(match args.misfits {
            Misfits::Fail => OnMisfit::Fail,
            Misfits::Null => OnMisfit::Null,
            Misfits::Text => OnMisfit::Text,
            Misfits::Quarantine => OnMisfit::Quarantine,
        })
        .progress(move |now| progress.show(|| line(now)));
    for (sql, calls) in statements.unwrap_or_default() {
        export = export.statement(sql, calls);
    }
    let export = with_types(export, args)?;
    let made = if args.plan { export.dry_run() } else { export.run() };
    let report = made.map_err(|error| match error {
        // The URL, or a column that is not there.
        larder::Error::Options { .. } => Failure::Usage(error.to_string()),
        error => error.into(),
    })?;
    output.result(&report, |to| {
        if args.plan {
            report
                .tables
                .iter()
                .try_for_each(|table| writeln!(to, "{};", table.create))?;
        }
        write!(to, "{}", with_flags(report.to_string()))
    })?;
    Ok(Verdict::of(!args.plan || report.misfits.is_empty()))
}

/// The types that were asked for: those of the file, then those of the arguments.
fn with_types<'s>(mut export: ExportToPostgres<'s>, args: &ExportArgs) -> Result<ExportToPostgres<'s>> {
    if let Some(file) = &args.types {
        let usage = |error: larder::Error| Failure::Usage(format!("{}: {error}", file.display()));
        export = export.types(&read(file)?).map_err(usage)?;
    }
    for rule in &args.column_types {
        let usage = |error: larder::Error| Failure::Usage(format!("--type {rule}: {error}"));
        export = export.types(rule).map_err(usage)?;
    }
    Ok(export)
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).map_err(|error| Failure::io(format!("{} cannot be read", file.display()), error))
}

/// The statements of a file, and how often each ran.
fn statements(file: &Path) -> Result<Vec<(String, u64)>> {
    let text = read(file)?;
    if !text.trim_start().starts_with(['{', '[']) {
        return Ok(vec![(text, 0)]);
    }
    let usage = |problem: String| Failure::Usage(format!("{}: {problem}", file.display()));
    let json: Value = serde_json::from_str(&text).map_err(|error| usage(error.to_string()))?;
    of_json(&json).ok_or_else(|| {
        usage(
            "it has no list of statements: write the JSON of Store::stats, whose list is not empty if Options::max_statements \
             is set, or a list of texts"
                .into(),
        )
    })
}

/// The statements of `Stats`, of its list of them, or of a list of texts.
fn of_json(json: &Value) -> Option<Vec<(String, u64)>> {
    let list = json.as_array().or_else(|| json.get("statements")?.as_array())?;
    let statement = |one: &Value| match one {
        Value::String(sql) => Some((sql.clone(), 0)),
        one => Some((one.get("sql")?.as_str()?.to_owned(), one.get("calls")?.as_u64()?)),
    };
    list.iter().map(statement).collect()
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
    fn statements_are_read_from_the_forms_of_json() {
        let of = |text: &str| of_json(&serde_json::from_str(text).unwrap());
        let two = Some(vec![("SELECT 1".to_owned(), 3), ("SELECT 2".to_owned(), 0)]);
        let list = r#"[{"sql": "SELECT 1", "calls": 3, "rows": 1}, {"sql": "SELECT 2", "calls": 0}]"#;
        assert_eq!(of(list), two);
        assert_eq!(of(&format!(r#"{{"groups": 1, "statements": {list}}}"#)), two);
        assert_eq!(of(r#"["SELECT 2"]"#), Some(vec![("SELECT 2".to_owned(), 0)]));
        for other in [r#"{"tables": []}"#, r#"[1]"#, r#"{"statements": [{"calls": 1}]}"#] {
            assert_eq!(of(other), None, "{other}");
        }
    }

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
