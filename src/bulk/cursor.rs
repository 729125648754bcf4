//! How far a resumable job has come: one row of the table `larder_bulk`, written in the transaction of each slice. So
//! after a kill the row says exactly which rows are there.
//!
//! # Whose table is it
//!
//! A table that is dropped and created again has the same name, and often the same root page, but not the rows. SQLite keeps
//! no identity of a table. It keeps an order: a new table gets the highest rowid of `sqlite_schema`, and all that changes or
//! copies the schema (`ALTER TABLE`, `VACUUM`, `.dump`) leaves ordinary tables in that order. So `larder_bulk` is kept
//! *younger* than the tables of its jobs: a table that is younger than `larder_bulk` was created after its job's last run
//! began. [`make`] creates `larder_bulk` again when a job begins in such a table, and notes before which other jobs'
//! tables are younger than the old one (`is_replaced`).
//!
//! A job whose table was replaced begins from its first row if the table is empty. If it has rows, the table was most likely
//! rebuilt by a migration, which copies them: the job goes on, and an event says so. Virtual tables, views, and tables of
//! other databases have no place in that order and are not looked at.

use rusqlite::types::Value;

use super::Resume;
use super::handle::Handle;
use super::key::Key;
use crate::connection::sql_text::{quoted, written_table};
use crate::error::{Error, Result};
use crate::telemetry::event::event;
use crate::transaction::{ReadTx, WriteTx};

const CREATE: &str = "CREATE TABLE larder_bulk(
    name TEXT PRIMARY KEY, statement TEXT NOT NULL, rows INTEGER NOT NULL, last_key ANY, updated_at TEXT NOT NULL,
    target TEXT COLLATE NOCASE, is_replaced INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID";

#[derive(Clone)]
pub(super) struct Cursor {
    name: String,
    statement: String,
    /// The table that the statement writes, if it is an ordinary one of the main database.
    target: Option<String>,
}

impl Cursor {
    /// Returns the cursor of that job, and what earlier runs have done.
    pub(super) fn open(store: &Handle, name: &str, statement: &str) -> Result<(Self, Resume)> {
        let (name, statement) = (name.to_owned(), statement.to_owned());
        let (cursor, done, was_rebuilt) = store.write(move |tx| {
            let target = target(tx, &statement)?;
            make(tx, target.as_deref())?;
            let cursor = Self {
                name,
                statement,
                target,
            };
            let (done, was_rebuilt) = cursor.resume(tx)?;
            Ok((cursor, done, was_rebuilt))
        })?;
        if was_rebuilt {
            event!(
                warn,
                "larder::bulk",
                store.shared.path,
                { job = cursor.name, table = cursor.target.as_deref().unwrap_or_default(), rows = done.rows },
                "the table of a resumable job was created again and has rows: they are taken for those of the job, which goes \
                 on behind them; call Bulk::forget if they are others"
            );
        }
        Ok((cursor, done))
    }

    /// Returns what earlier runs have done, and whether their table was created again since, with rows.
    fn resume(&self, tx: &WriteTx<'_>) -> Result<(Resume, bool)> {
        let begun = "SELECT statement, rows, last_key, is_replaced FROM larder_bulk WHERE name = ?1";
        let begun: Option<(String, i64, Value, bool)> = tx.optional(begun, [&self.name])?;
        match begun {
            // It has created its table, or nothing yet. Whichever statement writes rows first is the job's.
            None | Some((_, 0, ..)) => Ok((Resume::default(), false)),
            Some((statement, rows, ..)) if statement != self.statement => {
                Err(has_another(&self.name, rows, &statement))
            }
            Some((.., true)) if is_empty(tx, self.target.as_deref())? => {
                begin_again(tx, &self.name, self.target.as_deref())?;
                Ok((Resume::default(), false))
            }
            Some((_, rows, key, was_rebuilt)) => {
                // A version that did not keep the target may have begun the job.
                let keep = "UPDATE larder_bulk SET target = ?2, is_replaced = 0
                            WHERE name = ?1 AND (target IS NULL OR is_replaced)";
                tx.execute(keep, (&self.name, &self.target))?;
                let done = Resume {
                    rows: rows.unsigned_abs(),
                    key: Key::from_value(key),
                };
                Ok((done, was_rebuilt))
            }
        }
    }

    /// In the transaction that creates the table of a job: it has begun, and written nothing. What an earlier run has
    /// written with the same statement is gone with its table.
    ///
    /// # Errors
    ///
    /// The job has written rows with another statement: they may be in another table.
    #[cfg(feature = "csv")]
    pub(super) fn begin(tx: &WriteTx<'_>, name: &str, statement: &str) -> Result<()> {
        let target = target(tx, statement)?;
        make(tx, target.as_deref())?;
        begin_again(tx, name, target.as_deref())?;
        let begin = "INSERT INTO larder_bulk(name, statement, rows, updated_at, target)
                     VALUES (?1, ?2, 0, strftime('%Y-%m-%dT%H:%M:%fZ'), ?3)
                     ON CONFLICT(name) DO UPDATE
                     SET statement = excluded.statement, rows = 0, last_key = NULL, updated_at = excluded.updated_at,
                         target = excluded.target, is_replaced = 0
                     WHERE larder_bulk.rows = 0 OR larder_bulk.statement = excluded.statement";
        match tx.execute(begin, (name, statement, target))? {
            0 => Err(Self::other_statement(tx, name)?),
            _ => Ok(()),
        }
    }

    /// Whether a job of that name has begun with that statement.
    ///
    /// # Errors
    ///
    /// It has written rows with another one.
    #[cfg(feature = "csv")]
    pub(super) fn has_begun(tx: &ReadTx<'_>, name: &str, statement: &str) -> Result<bool> {
        if !Self::is_known(tx, name)? {
            return Ok(false);
        }
        let begun = "SELECT statement = ?2, rows FROM larder_bulk WHERE name = ?1";
        match tx.optional(begun, (name, statement))? {
            Some((true, _)) => Ok(true),
            None | Some((false, 0_i64)) => Ok(false),
            Some((false, _)) => Err(Self::other_statement(tx, name)?),
        }
    }

    /// Whether a job of that name has begun.
    #[cfg(feature = "csv")]
    pub(super) fn is_known(tx: &ReadTx<'_>, name: &str) -> Result<bool> {
        Ok(has_table(tx)? && tx.exists("SELECT 1 FROM larder_bulk WHERE name = ?1", [name])?)
    }

    #[cfg(feature = "csv")]
    fn other_statement(tx: &ReadTx<'_>, name: &str) -> Result<Error> {
        let begun = "SELECT rows, statement FROM larder_bulk WHERE name = ?1";
        let begun: Option<(i64, String)> = tx.optional(begun, [name])?;
        let (rows, statement) = begun.unwrap_or_default();
        Ok(has_another(name, rows, &statement))
    }

    /// In the transaction of a slice that began at `before`. Fails if the row is elsewhere: another process runs the job.
    pub(super) fn save(&self, tx: &WriteTx<'_>, before: u64, done: Resume) -> Result<()> {
        let first = "INSERT INTO larder_bulk(name, statement, rows, last_key, updated_at, target)
                     VALUES (?1, ?2, ?3, ?4, strftime('%Y-%m-%dT%H:%M:%fZ'), ?5)
                     ON CONFLICT(name) DO UPDATE
                     SET statement = excluded.statement, rows = excluded.rows, last_key = excluded.last_key,
                         updated_at = excluded.updated_at, target = excluded.target, is_replaced = 0
                     WHERE larder_bulk.rows = 0";
        let next = "UPDATE larder_bulk
                    SET rows = ?3, last_key = ?4, updated_at = strftime('%Y-%m-%dT%H:%M:%fZ')
                    WHERE name = ?1 AND statement = ?2 AND rows = ?5";
        let key = done.key.map(|key| key.to_value());
        let (name, statement, rows) = (&self.name, &self.statement, done.rows as i64);
        let saved = match before {
            0 => tx.execute(first, (name, statement, rows, key, &self.target))?,
            before => tx.execute(next, (name, statement, rows, key, before as i64))?,
        };
        match saved {
            1 => Ok(()),
            _ => Err(self.moved()),
        }
    }

    /// Fails, as [`save`](Self::save) does, if the row is elsewhere than at `before`.
    pub(super) fn check(&self, tx: &ReadTx<'_>, before: u64) -> Result<()> {
        let rows = "SELECT rows FROM larder_bulk WHERE name = ?1";
        let rows: Option<i64> = tx.optional_scalar(rows, [&self.name])?;
        match rows.unwrap_or_default() == before as i64 {
            true => Ok(()),
            false => Err(self.moved()),
        }
    }

    fn moved(&self) -> Error {
        Error::Options {
            option: "Bulk::resumable",
            problem: format!(
                "the job {:?} is not where this run has left it: another process runs it, too, or it was forgotten. Run it in \
                 one process at a time",
                self.name
            ),
        }
    }

    /// Forgets the job. Returns the number of rows that it had written.
    pub(super) fn forget(store: &Handle, name: &str) -> Result<Option<u64>> {
        if store.telemetry.bulk.is_running(name) {
            return Err(Error::Options {
                option: "Bulk::forget",
                problem: format!("the job {name:?} is running in this store: cancel it first"),
            });
        }
        let name = name.to_owned();
        store.write(move |tx| {
            if !has_table(tx)? {
                return Ok(None);
            }
            let rows: Option<i64> =
                tx.optional_scalar("DELETE FROM larder_bulk WHERE name = ?1 RETURNING rows", [&name])?;
            Ok(rows.map(i64::unsigned_abs))
        })
    }
}

fn has_another(name: &str, rows: i64, statement: &str) -> Error {
    Error::Options {
        option: "Bulk::resumable",
        problem: format!(
            "the job {name:?} has written {rows} rows with another statement ({statement}): use another name, or call \
             Bulk::forget to begin from the first row"
        ),
    }
}

/// Creates `larder_bulk`, or creates it again if the table of a job that begins is younger.
fn make(tx: &WriteTx<'_>, target: Option<&str>) -> Result<()> {
    if !has_table(tx)? {
        return tx.execute_batch(CREATE);
    }
    let keeps_targets = "SELECT 1 FROM pragma_table_info('larder_bulk', 'main') WHERE name = 'is_replaced'";
    let keeps_targets = tx.exists(keeps_targets, [])?;
    let is_younger = tx.exists(&format!("{YOUNGER} AND of.name = ?1"), [target])?;
    if keeps_targets && !is_younger {
        return Ok(());
    }
    if keeps_targets {
        let mark = format!("UPDATE larder_bulk SET is_replaced = 1 WHERE target IN ({YOUNGER})");
        tx.execute(&mark, [])?;
    }
    // Not by RENAME, which changes the views and triggers that read it.
    let kept = match keeps_targets {
        true => "SELECT name, statement, rows, last_key, updated_at, target, is_replaced FROM larder_bulk",
        false => "SELECT name, statement, rows, last_key, updated_at, NULL, 0 FROM larder_bulk",
    };
    let kept: Vec<Kept> = tx.all(kept, [])?;
    tx.execute_batch("DROP TABLE larder_bulk")?;
    tx.execute_batch(CREATE)?;
    let again = "INSERT INTO larder_bulk VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    for row in kept {
        tx.execute(again, row)?;
    }
    Ok(())
}

/// The columns of `larder_bulk`.
type Kept = (String, String, i64, Value, String, Option<String>, bool);

/// The names of the ordinary tables that were created after `larder_bulk`.
const YOUNGER: &str = "SELECT of.name FROM main.sqlite_schema AS of JOIN main.sqlite_schema AS own
    ON own.type = 'table' AND own.name = 'larder_bulk' AND of.rowid > own.rowid
    WHERE of.type = 'table' AND of.rootpage > 0";

/// In a table that was created again and is empty, what any job has written before is gone.
fn begin_again(tx: &WriteTx<'_>, name: &str, target: Option<&str>) -> Result<()> {
    let forget = "UPDATE larder_bulk SET rows = 0, last_key = NULL, is_replaced = 0
                  WHERE is_replaced AND (name = ?1 OR target = ?2)";
    tx.execute(forget, (name, target)).map(drop)
}

/// Whether that table is empty, or there is none.
fn is_empty(tx: &ReadTx<'_>, table: Option<&str>) -> Result<bool> {
    let Some(table) = table else { return Ok(true) };
    Ok(!tx.exists(&format!("SELECT 1 FROM main.{}", quoted(table)), [])?)
}

/// The ordinary table of the main database that the statement writes, by the name with which it was created.
fn target(tx: &ReadTx<'_>, statement: &str) -> Result<Option<String>> {
    let Some((schema, table)) = written_table(statement) else {
        return Ok(None);
    };
    match schema {
        Some(schema) if !schema.eq_ignore_ascii_case("main") => return Ok(None),
        Some(_) => {}
        None => {
            let temporary = "SELECT 1 FROM temp.sqlite_schema WHERE name = ?1 COLLATE NOCASE";
            if tx.exists(temporary, [&table])? {
                return Ok(None);
            }
        }
    }
    let look = "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND rootpage > 0 AND name = ?1 COLLATE NOCASE";
    tx.optional_scalar(look, [&table])
}

fn has_table(tx: &ReadTx<'_>) -> Result<bool> {
    tx.exists(
        "SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = 'larder_bulk'",
        [],
    )
}
