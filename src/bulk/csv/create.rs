//! The table of a file, created as its job begins.
//!
//! A resumable job is noted in `larder_bulk` by the transaction that creates its table. So a table that is there belongs
//! to the job if the job is noted, and the table is still as its statement makes it.

use super::refused;
use crate::bulk::cursor::Cursor;
use crate::connection::sql_text::tokens;
use crate::error::Result;
use crate::transaction::{ReadTx, WriteTx};

pub(super) struct NewTable {
    table: String,
    statement: String,
}

impl NewTable {
    pub(super) fn new(table: &str, statement: String) -> Self {
        Self {
            table: table.to_owned(),
            statement,
        }
    }

    /// Creates the table, unless the resumable job of that name has done so.
    pub(super) fn create(&self, tx: &WriteTx<'_>, job: Option<&str>) -> Result<()> {
        let Some(kind) = self.kind(tx)? else {
            tx.execute_batch(&self.statement)?;
            return match job {
                Some(name) => Cursor::begin(tx, name),
                None => Ok(()),
            };
        };
        let table = &self.table;
        let has_begun = match job {
            Some(name) => Cursor::has_begun(tx, name)?,
            None => false,
        };
        if !has_begun {
            return Err(refused(format!(
                "there is a {kind} {table} already: leave BulkCsv::create_table out to add rows to it, or give another table"
            )));
        }
        if !self.is_as_created(tx)? {
            return Err(refused(format!(
                "there is a {kind} {table} already, and it is not as this job creates it: it was altered, or another \
                 statement has created it. Leave BulkCsv::create_table out to go on with it, or give another table"
            )));
        }
        Ok(())
    }

    fn kind(&self, tx: &ReadTx<'_>) -> Result<Option<String>> {
        let look = "SELECT type FROM pragma_table_list WHERE schema = 'main' AND name = ?1 COLLATE NOCASE";
        tx.optional_scalar(look, [&self.table])
    }

    fn is_as_created(&self, tx: &ReadTx<'_>) -> Result<bool> {
        let look = "SELECT sql FROM main.sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE";
        let sql: Option<String> = tx.optional_scalar(look, [&self.table])?;
        Ok(sql.is_some_and(|sql| definition(&sql) == definition(&self.statement)))
    }
}

/// The tokens of a `CREATE TABLE` that SQLite keeps: from the name of the table to the end.
fn definition(sql: &str) -> Vec<&str> {
    let mut all: Vec<&str> = tokens(sql).collect();
    let has = |all: &[&str], first: &[&str]| {
        all.len() >= first.len()
            && all
                .iter()
                .zip(first)
                .all(|(one, other)| one.eq_ignore_ascii_case(other))
    };
    for first in [&["create", "table"][..], &["if", "not", "exists"], &["main", "."]] {
        if has(&all, first) {
            all.drain(..first.len());
        }
    }
    if all.last() == Some(&";") {
        all.pop();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_are_compared_from_the_name_on() {
        let kept = definition("CREATE TABLE \"a\"(x INTEGER) STRICT");
        assert_eq!(
            definition("create table if not exists main.\"a\" (x INTEGER) STRICT;"),
            kept
        );
        assert_ne!(definition("CREATE TABLE \"a\"(x TEXT) STRICT"), kept);
        assert_ne!(definition("CREATE TABLE \"a\"(x INTEGER)"), kept);
    }
}
