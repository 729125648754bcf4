//! How far a resumable job has come: one row of the table `larder_bulk`, written in the transaction of each slice. So
//! after a kill the row says exactly which rows are there.

use rusqlite::types::Value;

use super::Resume;
use super::handle::Handle;
use super::key::Key;
use crate::error::{Error, Result};
use crate::transaction::{ReadTx, WriteTx};

const CREATE: &str = "CREATE TABLE IF NOT EXISTS larder_bulk(
    name TEXT PRIMARY KEY, statement TEXT NOT NULL, rows INTEGER NOT NULL, last_key ANY, updated_at TEXT NOT NULL
) STRICT, WITHOUT ROWID";

#[derive(Clone)]
pub(super) struct Cursor {
    name: String,
    statement: String,
}

impl Cursor {
    /// Returns the cursor of that job, and what earlier runs have done.
    pub(super) fn open(store: &Handle, name: &str, statement: &str) -> Result<(Self, Resume)> {
        let cursor = Self {
            name: name.to_owned(),
            statement: statement.to_owned(),
        };
        let asked = cursor.clone();
        let done = store.write(move |tx| {
            tx.execute_batch(CREATE)?;
            let begun = "SELECT statement, rows, last_key FROM larder_bulk WHERE name = ?1";
            let begun: Option<(String, i64, Value)> = tx.optional(begun, [&asked.name])?;
            match begun {
                // It has created its table, or nothing yet. Whichever statement writes rows first is the job's.
                None | Some((_, 0, _)) => Ok(Resume::default()),
                Some((statement, rows, key)) if statement == asked.statement => Ok(Resume {
                    rows: rows.unsigned_abs(),
                    key: Key::from_value(key),
                }),
                Some((statement, rows, _)) => Err(has_another(&asked.name, rows, &statement)),
            }
        })?;
        Ok((cursor, done))
    }

    /// In the transaction that creates the table of a job: it has begun, and written nothing. What an earlier run has
    /// written with the same statement is gone with its table.
    ///
    /// # Errors
    ///
    /// The job has written rows with another statement: they may be in another table.
    #[cfg(feature = "csv")]
    pub(super) fn begin(tx: &WriteTx<'_>, name: &str, statement: &str) -> Result<()> {
        tx.execute_batch(CREATE)?;
        let begin = "INSERT INTO larder_bulk(name, statement, rows, updated_at)
                     VALUES (?1, ?2, 0, strftime('%Y-%m-%dT%H:%M:%fZ'))
                     ON CONFLICT(name) DO UPDATE
                     SET statement = excluded.statement, rows = 0, last_key = NULL, updated_at = excluded.updated_at
                     WHERE larder_bulk.rows = 0 OR larder_bulk.statement = excluded.statement";
        match tx.execute(begin, (name, statement))? {
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
        let first = "INSERT INTO larder_bulk(name, statement, rows, last_key, updated_at)
                     VALUES (?1, ?2, ?3, ?4, strftime('%Y-%m-%dT%H:%M:%fZ'))
                     ON CONFLICT(name) DO UPDATE
                     SET statement = excluded.statement, rows = excluded.rows, last_key = excluded.last_key,
                         updated_at = excluded.updated_at
                     WHERE larder_bulk.rows = 0";
        let next = "UPDATE larder_bulk
                    SET rows = ?3, last_key = ?4, updated_at = strftime('%Y-%m-%dT%H:%M:%fZ')
                    WHERE name = ?1 AND statement = ?2 AND rows = ?5";
        let key = done.key.map(|key| key.to_value());
        let (name, statement, rows) = (&self.name, &self.statement, done.rows as i64);
        let saved = match before {
            0 => tx.execute(first, (name, statement, rows, key))?,
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

fn has_table(tx: &ReadTx<'_>) -> Result<bool> {
    tx.exists(
        "SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = 'larder_bulk'",
        [],
    )
}
