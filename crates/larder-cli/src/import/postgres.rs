//! `larder import postgres://.. app.db` and `larder import dump.sql app.db`: a whole database.

use std::path::Path;

use larder::{PostgresImport, PostgresImportProgress, PostgresImportStage, PostgresNan, Store};

use crate::args::{ImportArgs, NanValues, OnConflict};
use crate::export::refuse_password;
use crate::failure::{Failure, Result, Verdict};
use crate::output::Output;

/// Whether the first argument is a server or a dump, and not a database.
pub(super) fn is_source(path: &Path) -> bool {
    is_server(path) || is_dump(path)
}

fn is_server(path: &Path) -> bool {
    const KEYS: [&str; 8] = [
        "host", "hostaddr", "port", "dbname", "user", "password", "passfile", "sslmode",
    ];
    let text = path.to_str().unwrap_or_default();
    let is_pairs = text.split_once('=').is_some_and(|(key, _)| KEYS.contains(&key.trim()));
    text.starts_with("postgres://") || text.starts_with("postgresql://") || (is_pairs && !path.exists())
}

fn is_dump(path: &Path) -> bool {
    let text = path.to_str().unwrap_or_default();
    text.ends_with(".sql") || text.ends_with(".sql.gz")
}

pub(super) fn import(args: &ImportArgs, output: &Output) -> Result<Verdict> {
    let given = of_csv(args);
    if !given.is_empty() {
        return Err(Failure::Usage(format!(
            "{} is for CSV files: an import from PostgreSQL makes a new database by the schema of the source",
            given.join(", ")
        )));
    }
    let from = &args.database.database;
    let [to] = args.files.as_slice() else {
        return Err(Failure::Usage(
            "give one database to create, behind the server or the dump".into(),
        ));
    };
    let import: PostgresImport = match from.to_str().filter(|_| is_server(from)) {
        Some(url) => {
            refuse_password(url)?;
            Store::import_from_postgres(url, to)
        }
        None => Store::import_from_pg_dump(from, to),
    };
    let nan = match args.nan {
        NanValues::Fail => PostgresNan::Fail,
        NanValues::Null => PostgresNan::Null,
        NanValues::Text => PostgresNan::Text,
    };
    let mut progress = output.progress()?;
    let import = import.numeric_as_real(args.numeric_as_real).nan(nan);
    let report = import.progress(move |now| progress.show(|| line(now))).run()?;
    output.result(&report, |to| write!(to, "{report}"))?;
    Ok(Verdict::of(true))
}

/// The options that are for CSV files alone, and not as they are without them.
fn of_csv(args: &ImportArgs) -> Vec<&'static str> {
    let all = [
        ("--table", args.table.is_some()),
        ("--create-table", args.create_table),
        ("--create-database", args.create_database),
        ("--types", !args.types.is_empty()),
        ("--infer", args.infer),
        ("--primary-key", !args.primary_key.is_empty()),
        ("--map", !args.map.is_empty()),
        ("--skip", !args.skip.is_empty()),
        ("--header", !args.header.is_empty()),
        ("--delimiter", args.delimiter != b','),
        ("--null", !args.null.is_empty()),
        ("--on-conflict", args.on_conflict != OnConflict::Fail),
        ("--max-bad", args.max_bad != 0),
        ("--slices", args.slices),
        ("--resumable", args.resumable),
        ("--trusted-schema", args.database.trusted_schema),
        ("--double-quoted-strings", args.database.double_quoted_strings),
    ];
    let given = all.into_iter().filter(|(_, is_given)| *is_given);
    given.map(|(name, _)| name).collect()
}

/// Refuses the options of an import from PostgreSQL for one of CSV files.
pub(super) fn refuse_options(args: &ImportArgs) -> Result<()> {
    let all = [
        ("--numeric-as-real", args.numeric_as_real),
        ("--nan", args.nan != NanValues::Fail),
    ];
    match all.into_iter().find(|(_, is_given)| *is_given) {
        Some((name, _)) => Err(Failure::Usage(format!(
            "{name} is for an import from PostgreSQL: give its URL or a dump (.sql, .sql.gz) before the database"
        ))),
        None => Ok(()),
    }
}

fn line(now: &PostgresImportProgress) -> String {
    let stage = match now.stage {
        PostgresImportStage::Load => "loading",
        _ => "comparing",
    };
    format!("{stage}: {} rows, {:.0?}", now.rows, now.elapsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_from_databases() {
        assert!(is_source(Path::new("postgres://h/d")) && is_source(Path::new("x/dump.sql.gz")));
        assert!(is_source(Path::new("host=h dbname=d")) && is_source(Path::new("user = a host=h")));
        assert!(!is_source(Path::new("app.db")) && !is_source(Path::new("a=b.db")));
    }
}
