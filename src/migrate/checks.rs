//! Checks after a migration: foreign keys, tables that are not STRICT, and double-quoted strings.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;

use crate::connection::sql_text::{foreign_key_check, may_alter, name};
use crate::connection::stored_sql::{SchemaObject, accepts_double_quoted_strings, with_strings_among};

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

/// The search for objects with a double-quoted string that a migration creates: such a view or trigger could not be used.
///
/// SQLite itself refuses a `CREATE TABLE` and a `CREATE INDEX` with such a string. But it resolves no name in a view or
/// a trigger as it creates it, and those of an added column as if they were in the schema already.
pub(crate) struct NewStrings {
    /// Whether there can be any.
    possible: bool,
    /// The tables before the migration, if it may add a column.
    tables: Vec<SchemaObject>,
}

impl NewStrings {
    pub(crate) fn before(conn: &Connection, sql: &str) -> rusqlite::Result<Self> {
        let possible = sql.contains('"') && !accepts_double_quoted_strings(conn);
        let mut tables = Vec::new();
        if possible && may_alter(sql) {
            tables = SchemaObject::read(conn)?;
            tables.retain(SchemaObject::is_table);
        }
        Ok(Self { possible, tables })
    }

    /// The objects found, after a migration that has created the views and triggers `made`.
    pub(crate) fn find(&self, conn: &Connection, made: &[String]) -> rusqlite::Result<Vec<SchemaObject>> {
        if !self.possible || (made.is_empty() && self.tables.is_empty()) {
            return Ok(Vec::new());
        }
        let is_made = |object: &SchemaObject| object.is_code() && made.contains(&object.name);
        let is_altered =
            |object: &SchemaObject| !self.tables.is_empty() && object.is_table() && !self.tables.contains(object);
        let now = SchemaObject::read(conn)?;
        let mut found = with_strings_among(conn, &now, |object| is_made(object) || is_altered(object))?;
        if found.iter().any(SchemaObject::is_table) {
            // Those that had a string before, under this name or another.
            let old = with_strings_among(conn, &self.tables, |_| true)?;
            let is_there = |table: &SchemaObject| now.iter().any(|now| now.is_table() && now.name == table.name);
            let renamed = old.iter().any(|table| !is_there(table));
            found.retain(|new| !new.is_table() || !(renamed || old.iter().any(|old| old.name == new.name)));
        }
        Ok(found)
    }
}
