//! CSV files: a new table each, with the narrowest types that its values have.
//!
//! Each file is read twice. The first pass finds the types, which needs all values: a code that is a number in a million
//! lines may be `7B` in the next. The second one loads the rows, in slices beside whatever else writes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;

use indicatif::ProgressBarIter;
use larder::{BulkCsv, CsvTypes, Store};

use crate::failure::{Context, Result, one_line};
use crate::made_up::Ingested;
use crate::{load, progress};

/// Finds the most likely mistakes before the database is touched.
pub(crate) fn check(paths: &[PathBuf]) -> Result<()> {
    let mut tables: Vec<(String, &Path)> = Vec::new();
    for path in paths {
        open(path, "examining")?;
        let table = table_name(path)?;
        if table.eq_ignore_ascii_case(load::TABLE) || table.to_ascii_lowercase().starts_with("sqlite_") {
            let path = path.display();
            return Err(format!("{path}: the table name `{table}` is reserved, so rename the file").into());
        }
        let same = tables.iter().find(|(other, _)| other.eq_ignore_ascii_case(&table));
        if let Some((_, other)) = same {
            let (other, path) = (other.display(), path.display());
            return Err(format!("{other} and {path} would be the same table, so rename one").into());
        }
        tables.push((table, path));
    }
    Ok(())
}

/// Loads each file into a table.
pub(crate) fn ingest(store: &Store, paths: &[PathBuf]) -> Result<Vec<Ingested>> {
    // All files are examined first: a taken name must not be found after an hour of loading.
    let mut examined = Vec::new();
    for path in paths {
        let table = table_name(path)?;
        refuse_taken(store, &table)?;
        let types = csv(store, path, "examining")?.infer();
        examined.push((path.as_path(), table, types.context(|| path.display().to_string())?));
    }
    let load = |(path, table, types)| load_file(store, path, table, &types);
    examined.into_iter().map(load).collect()
}

fn load_file(store: &Store, path: &Path, table: String, types: &CsvTypes) -> Result<Ingested> {
    let begun = Instant::now();
    let create = types.create_table(&table);
    store
        .write(move |tx| tx.execute_batch(&create))
        .context(|| format!("cannot make table `{table}`"))?;
    match csv(store, path, "loading")?.into(&table).run() {
        Ok(report) => Ok(Ingested {
            table,
            rows: report.rows,
            took: begun.elapsed(),
        }),
        Err(error) => {
            let (path, error) = (path.display(), one_line(&error));
            Err(format!("{path}: {error}; drop the table `{table}` before you try again").into())
        }
    }
}

/// A file as larder reads it. An empty field and `NA` are NULL.
fn csv(store: &Store, path: &Path, doing: &str) -> Result<BulkCsv<ProgressBarIter<File>>> {
    Ok(store.bulk().csv(open(path, doing)?).nulls(["", "NA"]))
}

fn open(path: &Path, doing: &str) -> Result<ProgressBarIter<File>> {
    let cannot = || format!("cannot read {}", path.display());
    let metadata = fs::metadata(path).context(cannot)?;
    if !metadata.is_file() {
        return Err("it is not a regular file, and it has to be read twice").context(cannot);
    }
    let file = File::open(path).context(cannot)?;
    let progress = progress::of_bytes(format!("{doing} {}", path.display()), metadata.len());
    Ok(progress.wrap_read(file))
}

/// Appending could duplicate the existing rows, and dropping could lose them.
fn refuse_taken(store: &Store, table: &str) -> Result<()> {
    let sql = "SELECT 1 FROM sqlite_schema WHERE name = ?1 COLLATE NOCASE AND type <> 'trigger'";
    if store.read(|tx| tx.exists(sql, [table]))? {
        let database = store.path().display();
        return Err(format!(
            "{database} has a table or an index `{table}` already: name a DATABASE that does not exist yet, or rename \
             the CSV file"
        )
        .into());
    }
    Ok(())
}

fn table_name(path: &Path) -> Result<String> {
    match path.file_stem().map(|stem| stem.to_str()) {
        Some(Some(name)) => Ok(name.into()),
        Some(None) => Err(format!("{}: its name, which the table gets, is not UTF-8", path.display()).into()),
        None => Err(format!("{}: it is a folder", path.display()).into()),
    }
}
