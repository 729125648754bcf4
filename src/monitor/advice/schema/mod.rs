//! Findings about the schema, and about the file's header.
//!
//! No check but `stale_statistics` reads an entry of an application's table, so the cost is the same for an empty database
//! and for one of 100 GB: 0.15 ms for 11 tables, 18 ms for a thousand with 2300 indexes and as many foreign keys as
//! tables, and three times that if the connection has not read the schema yet *(measured)*. That one reads the two ends
//! of each table with statistics, and of few tables more (`statistics.rs`).
//!
//! | topic | severity | |
//! |---|---|---|
//! | `foreign_key_mismatch` | critical | its parent key does not exist: `monitor/advice/schema/keys/mod.rs` |
//! | `foreign_key_without_index` | warning | a delete in the parent reads all of the child: `monitor/advice/schema/keys/mod.rs` |
//! | `double_quoted_string` | critical or note | a view or a trigger fails: `stored_sql.rs` |
//! | `unsafe_function` | critical | a view, a trigger or a table fails: `stored_sql.rs` |
//! | `duplicate_index` | warning | another index makes it redundant: `duplicates.rs` |
//! | `implicit_rowid` | warning | VACUUM may give rows other rowids, which a full-text table keeps: `rowids.rs` |
//! | `auto_vacuum_off` | warning | much of the file is empty and stays so |
//! | `stale_statistics` | warning | a table has grown tenfold since the query planner's statistics: `statistics.rs` |
//! | `sqlite_with_known_bugs` | note | full-text tables, and an SQLite version that can corrupt their index |
//! | `not_strict` | note | any column takes any type |
//! | `analyze_never_run` | note | the query planner guesses |
//! | `page_cache_mutex` | note | readers wait for one another |

mod bookkeeping;
pub(super) mod definition;
mod duplicates;
mod keys;
mod rowids;
mod statistics;
mod stored_sql;
mod tables;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;

#[cfg(test)]
pub(crate) use self::bookkeeping::is_bookkeeping;
pub(crate) use self::bookkeeping::{DIESEL, GOOSE, MIGRATION_TOOLS, REFINERY, SQLX};
use self::tables::Schema;
use super::{Finding, Severity};
use crate::connection::sql_text::quoted;
use crate::connection::{FIRST_FULL_TEXT_TABLE, FULL_TEXT_MENDED, HAS_PAGE_CACHE_MUTEX};
use crate::error::Result;
use crate::transaction::ReadTx;

/// A smaller file takes little time to read in full: without statistics, and with its empty pages.
const SMALL_PAGES: u32 = 1000;

/// Threshold for the empty part of a file, in per cent.
const EMPTY_PERCENT: f64 = 25.0;

/// The maximum number of names in a message.
const MAX_REPORTED: usize = 5;

/// All findings about the schema, the most severe first.
pub(crate) fn look(tx: &ReadTx<'_>) -> Result<Vec<Finding>> {
    let schema = Schema::read(tx)?;
    let mut findings = keys::look(tx, &schema)?;
    findings.extend(stored_sql::look(tx)?);
    findings.extend(duplicates::look(&schema));
    findings.extend(rowids::look(tx, &schema)?);
    findings.extend(auto_vacuum_off(tx)?);
    findings.extend(sqlite_with_known_bugs(tx)?);
    findings.extend(not_strict(&schema));
    findings.extend(analyze_never_run(tx, &schema)?);
    findings.extend(statistics::look(tx, &schema)?);
    findings.extend(page_cache_mutex(tx)?);
    // The sort is stable: findings of equal severity stay in the order of topics and of table names.
    findings.sort_by_key(|finding| Reverse(finding.severity));
    Ok(findings)
}

/// "Other developers are aghast at SQLite's flagrant rule-breaking and prefer the traditional rigid type system",
/// <https://sqlite.org/stricttables.html>, and a Rust type fails on a string in a column of numbers.
fn not_strict(schema: &Schema) -> Option<Finding> {
    let tables: Vec<&str> = schema
        .of_the_application()
        .filter(|table| !table.strict)
        .map(|table| table.name.as_str())
        .collect();
    let message = match tables.as_slice() {
        [] => return None,
        [table] => format!("the table {table} is not STRICT: its columns take values of any type"),
        tables => format!(
            "{} tables are not STRICT, so their columns take values of any type: {}",
            tables.len(),
            first_few(tables)
        ),
    };
    let remedy = "Create new tables with STRICT: CREATE TABLE t(..) STRICT. Rebuild an existing table in a migration: \
                  create, copy, drop, rename";
    Some(Finding::new(Severity::Note, "not_strict", message, remedy))
}

fn first_few(names: &[&str]) -> String {
    match names.len().checked_sub(MAX_REPORTED) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..MAX_REPORTED].join(", ")),
    }
}

/// "The ANALYZE command gathers statistics about tables and indices and stores the collected information in internal
/// tables of the database where the query optimizer can access the information",
/// <https://sqlite.org/lang_analyze.html>.
fn analyze_never_run(tx: &ReadTx<'_>, schema: &Schema) -> Result<Option<Finding>> {
    let pages = number(tx, "page_count")?;
    let indexed = schema.of_the_application().any(|table| !table.indexes.is_empty());
    if pages < SMALL_PAGES || !indexed || has_statistics(tx, schema)? {
        return Ok(None);
    }
    let message = "the query planner has no statistics, so it guesses which of two usable indexes is better";
    // Unlike ANALYZE without a limit, larder reads some 2000 rows of an index.
    let remedy = "larder gathers them, with a bound on the rows, once a day and when the store closes. To gather all of \
                  them now, reading every index while other writes wait: store.write(|tx| \
                  tx.execute_batch(\"ANALYZE\"))";
    let finding = Finding::new(Severity::Note, "analyze_never_run", message.into(), remedy);
    Ok(Some(finding.with_measurement(
        pages.into(),
        SMALL_PAGES.into(),
        "pages",
    )))
}

fn has_statistics(tx: &ReadTx<'_>, schema: &Schema) -> Result<bool> {
    // ANALYZE creates the table, but adds no rows while the other tables are empty.
    Ok(schema.table("sqlite_stat1").is_some() && tx.exists("SELECT 1 FROM main.sqlite_stat1", [])?)
}

/// "When auto-vacuum is disabled and data is deleted data from a database, the database file remains the same size",
/// <https://sqlite.org/pragma.html#pragma_auto_vacuum>.
fn auto_vacuum_off(tx: &ReadTx<'_>) -> Result<Option<Finding>> {
    let (pages, empty) = (number(tx, "page_count")?, number(tx, "freelist_count")?);
    let percent = 100.0 * f64::from(empty) / f64::from(pages.max(1));
    let off = number(tx, "auto_vacuum")? == 0;
    if !off || empty < SMALL_PAGES || percent <= EMPTY_PERCENT {
        return Ok(None);
    }
    let message = format!(
        "auto_vacuum is off, so the {empty} free pages of {pages} in the file are reused, but never returned to the \
         file system"
    );
    // "When in write-ahead log mode, only the auto_vacuum support property can be changed using VACUUM",
    // <https://sqlite.org/lang_vacuum.html>, and VACUUM cannot be in a transaction.
    let remedy = "If the file will not grow into them again, shrink it once in a migration outside a transaction \
                  (Migration::without_transaction), with twice its size free on the disk, while other writes wait: \
                  PRAGMA auto_vacuum = INCREMENTAL; VACUUM";
    let finding = Finding::new(Severity::Warning, "auto_vacuum_off", message, remedy);
    Ok(Some(finding.with_measurement(percent, EMPTY_PERCENT, "%")))
}

/// Reads a PRAGMA whose value is a number.
fn number(tx: &ReadTx<'_>, pragma: &str) -> Result<u32> {
    tx.query_row(&format!("PRAGMA main.{pragma}"), [], |row| row.get(0))
}

fn sqlite_with_known_bugs(tx: &ReadTx<'_>) -> Result<Option<Finding>> {
    if rusqlite::version_number() >= FULL_TEXT_MENDED {
        return Ok(None);
    }
    let table: Option<String> = tx.query_optional(FIRST_FULL_TEXT_TABLE, [], |row| row.get(0))?;
    Ok(table.map(|table| {
        let message = format!(
            "{table} is a full-text table, and SQLite {} can corrupt its index; 3.54.0 has the fix",
            rusqlite::version()
        );
        let name = quoted(&table);
        let remedy = format!(
            "Nothing is wrong yet. From time to time, check the index: INSERT INTO {name}({name}) \
             VALUES('integrity-check')"
        );
        Finding::new(Severity::Note, "sqlite_with_known_bugs", message, remedy)
    }))
}

fn page_cache_mutex(tx: &ReadTx<'_>) -> Result<Option<Finding>> {
    let finding = || {
        let message = "SQLite was built with SQLITE_ENABLE_MEMORY_MANAGEMENT, so all page caches of the process share \
                        one mutex, and readers contend for it";
        let remedy = "Set LIBSQLITE3_FLAGS = \"-USQLITE_ENABLE_MEMORY_MANAGEMENT\" under [env] in .cargo/config.toml";
        Finding::new(Severity::Note, "page_cache_mutex", message.into(), remedy)
    };
    Ok(tx.exists(HAS_PAGE_CACHE_MUTEX, [])?.then(finding))
}

/// A table and some of its columns, as messages print them: `albums(artist_id)`.
fn told<'a>(table: &str, columns: impl IntoIterator<Item = &'a str>) -> String {
    let columns: Vec<&str> = columns.into_iter().collect();
    format!("{table}({})", columns.join(", "))
}
