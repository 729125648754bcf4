//! `larder import postgres://.. app.db` and `larder import dump.sql app.db`: a whole database.

use std::path::Path;

use larder::{PostgresImport, PostgresImportProgress, PostgresImportStage, PostgresNan, Store};

use crate::args::{ImportArgs, NanValues};
use crate::export::refuse_password;
use crate::failure::{Failure, Result, Verdict};
use crate::output::Output;

/// Whether the first argument is a server or a dump, and not a database.
pub(super) fn is_source(path: &Path) -> bool {
    is_server(path) || is_dump(path)
}

fn is_server(path: &Path) -> bool {
    let text = path.to_str().unwrap_or_default();
    text.starts_with("postgres://") || text.starts_with("postgresql://")
}

fn is_dump(path: &Path) -> bool {
    let text = path.to_str().unwrap_or_default();
    text.ends_with(".sql") || text.ends_with(".sql.gz")
}

pub(super) fn import(args: &ImportArgs, output: &Output) -> Result<Verdict> {
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
        assert!(!is_source(Path::new("app.db")));
    }
}
