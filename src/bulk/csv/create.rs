//! The table of a file, created as its job begins.
//!
//! A resumable job is noted in `larder_bulk` by the transaction that creates its table, with the statement that writes its
//! rows. So a table that is there belongs to the job if the job is noted with that statement, and the table is still as its
//! statement makes it.

use super::columns::{Target, Wanted};
use super::refused;
use crate::bulk::cursor::Cursor;
use crate::connection::sql_text::{tokens, unquoted};
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

    /// Creates the table, unless the resumable job of that name has done so, and looks up its columns.
    pub(super) fn create(&self, tx: &WriteTx<'_>, wanted: &Wanted, job: Option<&str>) -> Result<Target> {
        if let Some(kind) = self.kind(tx)? {
            return self.created(tx, &kind, wanted, job);
        }
        tx.execute_batch(&self.statement)?;
        let target = wanted.find(tx)?;
        if let Some(name) = job {
            if !self.is_as_created(tx)? {
                return Err(refused(
                    "BulkCsv::create_table of a resumable job takes one CREATE TABLE with its columns, and no more"
                        .into(),
                ));
            }
            Cursor::begin(tx, name, &target.sql)?;
        }
        Ok(target)
    }

    /// The table that the job has created.
    fn created(&self, tx: &ReadTx<'_>, kind: &str, wanted: &Wanted, job: Option<&str>) -> Result<Target> {
        let table = &self.table;
        let exists = || {
            refused(format!(
                "there is a {kind} {table} already: leave BulkCsv::create_table out to add rows to it, or give another table"
            ))
        };
        let name = job.ok_or_else(exists)?;
        if !Cursor::is_known(tx, name)? {
            return Err(exists());
        }
        if !self.is_as_created(tx)? {
            return Err(refused(format!(
                "there is a {kind} {table} already, and it is not as this job creates it: it was altered, or another \
                 statement has created it. Leave BulkCsv::create_table out to go on with it, or give another table"
            )));
        }
        let target = wanted.find(tx)?;
        match Cursor::has_begun(tx, name, &target.sql)? {
            true => Ok(target),
            false => Err(exists()),
        }
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
    for first in [&["create", "table"][..], &["if", "not", "exists"]] {
        if has(&all, first) {
            all.drain(..first.len());
        }
    }
    if let [schema, ".", ..] = all[..]
        && unquoted(schema).eq_ignore_ascii_case("main")
    {
        all.drain(..2);
    }
    while all.pop_if(|last| *last == ";").is_some() {}
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
        for schema in ["\"main\"", "[MAIN]", "`main`"] {
            let given = format!("CREATE TABLE {schema}.\"a\"(x INTEGER) STRICT;;");
            assert_eq!(definition(&given), kept, "{schema}");
        }
        assert_ne!(definition("CREATE TABLE \"a\"(x TEXT) STRICT"), kept);
        assert_ne!(definition("CREATE TABLE \"a\"(x INTEGER)"), kept);
    }
}
