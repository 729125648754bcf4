//! Many rows into new tables, a thousand per transaction.

use std::sync::Arc;
use std::time::{Duration, Instant};

use larder::Store;
use larder::rusqlite::params_from_iter;
use larder::rusqlite::types::Value;

use crate::csv_file::CsvFile;
use crate::failure::{Context, Result};
use crate::lookups::quoted;

/// Enough rows to make the cost of a commit negligible, and few enough that no other write waits long.
const ROWS_A_BATCH: usize = 1000;

pub(crate) struct Ingested {
    pub(crate) table: String,
    pub(crate) rows: u64,
    pub(crate) took: Duration,
}

/// Loads each file into a table.
pub(crate) fn ingest(store: &Store, files: &[CsvFile]) -> Result<Vec<Ingested>> {
    // All names are checked first: a taken name must not be found after an hour of loading.
    files.iter().try_for_each(|file| refuse_taken(store, &file.table))?;
    files.iter().map(|file| ingest_file(store, file)).collect()
}

fn ingest_file(store: &Store, file: &CsvFile) -> Result<Ingested> {
    let table = &file.table;
    let begun = Instant::now();
    let create = create_table(file);
    store
        .write(move |tx| tx.execute_batch(&create))
        .context(|| format!("cannot make table `{table}`"))?;
    let mut batches = Batches::new(store, table, file.columns.len());
    file.each_row(|row| batches.push(row))
        .and_then(|()| batches.flush())
        .context(|| {
            let rows = batches.inserted;
            format!("table `{table}` has only the first {rows} rows, so drop it before you try again")
        })?;
    Ok(Ingested {
        table: table.clone(),
        rows: batches.inserted,
        took: begun.elapsed(),
    })
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

fn create_table(file: &CsvFile) -> String {
    let columns = file.columns.iter();
    let columns: Vec<_> = columns
        .map(|c| format!("{} {}", quoted(&c.name), c.sql_type()))
        .collect();
    format!("CREATE TABLE {}({}) STRICT", quoted(&file.table), columns.join(", "))
}

/// Collects rows and inserts them together. A batch starts after the previous one is committed, so the table always
/// holds the first rows without a gap.
pub(crate) struct Batches<'a> {
    store: &'a Store,
    insert: Arc<str>,
    waiting: Vec<Vec<Value>>,
    pub(crate) inserted: u64,
}

impl<'a> Batches<'a> {
    pub(crate) fn new(store: &'a Store, table: &str, columns: usize) -> Self {
        let values = vec!["?"; columns].join(", ");
        Self {
            store,
            insert: format!("INSERT INTO {} VALUES ({values})", quoted(table)).into(),
            waiting: Vec::with_capacity(ROWS_A_BATCH),
            inserted: 0,
        }
    }

    pub(crate) fn push(&mut self, row: Vec<Value>) -> Result<()> {
        self.waiting.push(row);
        if self.waiting.len() < ROWS_A_BATCH {
            return Ok(());
        }
        self.flush()
    }

    /// Inserts the collected rows.
    pub(crate) fn flush(&mut self) -> Result<()> {
        let rows = std::mem::replace(&mut self.waiting, Vec::with_capacity(ROWS_A_BATCH));
        let insert = Arc::clone(&self.insert);
        // The closure runs on the writer thread, so it owns its rows.
        self.inserted += self.store.write(move |tx| {
            let count = rows.len() as u64;
            for row in rows {
                // The same text for all rows: it is prepared once and then comes from the statement cache.
                tx.execute(&insert, params_from_iter(row))?;
            }
            Ok(count)
        })?;
        Ok(())
    }
}
