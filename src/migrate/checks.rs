//! Checks after a migration: foreign keys, and tables that are not STRICT.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;

use crate::connection::sql_text::{foreign_key_check, name};

/// The tables that are not STRICT. The record is exempt, because Dbmate creates it that way.
pub(crate) fn tables_not_strict(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = conn.prepare(
        "SELECT name FROM pragma_table_list
         WHERE schema = 'main' AND type = 'table' AND NOT strict
           AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name <> 'schema_migrations'
         ORDER BY name",
    )?;
    let names = statement.query_map([], |row| name(row, 0))?;
    names.collect()
}

/// Rows whose foreign key points nowhere.
#[derive(Debug, PartialEq)]
pub(crate) struct Dangling {
    /// The first few: table, rowid, and the parent table.
    pub(crate) first: Vec<String>,
    pub(crate) total: u64,
}

impl Dangling {
    /// Checks every table with a foreign key, except those that could not be checked before either.
    pub(crate) fn read(conn: &Connection, now: &References, before: &References) -> rusqlite::Result<Self> {
        const MAX_REPORTED: usize = 5;
        let (mut first, mut total) = (Vec::new(), 0);
        for table in now.children().filter(|table| !before.mismatched.contains(*table)) {
            let mut statement = conn.prepare(&foreign_key_check(table))?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                total += 1;
                if first.len() < MAX_REPORTED {
                    let (table, rowid, parent): (String, Option<i64>, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
                    let row = rowid.map_or_else(String::new, |rowid| format!(" row {rowid}"));
                    first.push(format!("{table}{row} -> {parent}"));
                }
            }
        }
        Ok(Self { first, total })
    }
}

/// The foreign keys between tables.
#[derive(Debug, Default)]
pub(crate) struct References {
    /// Child and parent, and whether the parent exists.
    all: BTreeMap<(String, String), bool>,
    /// Children whose parent has no unique index to refer to. SQLite returns an error for them, "foreign key mismatch",
    /// and does not check their rows.
    mismatched: BTreeSet<String>,
}

impl References {
    pub(crate) fn read(conn: &Connection) -> rusqlite::Result<Self> {
        let mut statement = conn.prepare(
            "SELECT DISTINCT child.name, key.\"table\",
                    EXISTS (SELECT 1 FROM main.sqlite_schema AS parent
                            WHERE parent.type = 'table' AND parent.name = key.\"table\" COLLATE NOCASE)
             FROM main.sqlite_schema AS child, pragma_foreign_key_list(child.name, 'main') AS key
             WHERE child.type = 'table'",
        )?;
        let all = statement.query_map([], |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?)))?;
        let mut references = Self {
            all: all.collect::<rusqlite::Result<_>>()?,
            mismatched: BTreeSet::new(),
        };
        // SQLite returns the error when the statement is prepared, before it reads any row.
        let mismatched = references
            .children()
            .filter(|table| conn.prepare(&foreign_key_check(table)).is_err());
        references.mismatched = mismatched.cloned().collect();
        Ok(references)
    }

    fn children(&self) -> impl Iterator<Item = &String> {
        let children: BTreeSet<_> = self.all.keys().map(|(child, _)| child).collect();
        children.into_iter()
    }

    /// Tables whose reference changed from an existing table to a missing one: `ALTER TABLE p RENAME TO p_old` updates
    /// the references of the children of `p`, and `DROP TABLE p_old` then leaves them without a parent. If they have no
    /// rows, `foreign_key_check` finds nothing. (A parent that was dropped directly, or is created later, is a
    /// different case.)
    pub(crate) fn turned_since(&self, before: &Self) -> Vec<String> {
        let lost = |child: &str| {
            let lost = |((table, parent), there): (&(String, String), &bool)| {
                *there && table == child && !self.all.contains_key(&(table.clone(), parent.clone()))
            };
            before.all.iter().any(lost)
        };
        let gone = self
            .all
            .iter()
            .filter(|(reference, there)| !**there && !before.all.contains_key(*reference));
        gone.filter(|((child, _), _)| lost(child))
            .map(|((child, parent), _)| {
                format!("{child} -> {parent}, which no longer exists (a rename changed the reference)")
            })
            .collect()
    }
}
