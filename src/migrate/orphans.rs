//! Rows whose foreign key refers to no row: orphans. A migration is refused for those that it makes, not for those that
//! were there before it.
//!
//! An orphan is the same as before if its table, its foreign key, its rowid (or its primary key, in a table without
//! rowids) and the values that refer are the same. A rebuild or a rename gives the same row another rowid, or its table
//! or column another name. So in a table that was redefined, an orphan is the same as one that was there before and
//! is not any more, if it refers to the same value.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{Hash, Hasher};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};

use super::references::References;
use crate::connection::authorizer::Touched;
use crate::connection::sql_text::{foreign_key_check, name, quoted};

/// The orphans of the tables that were looked at, and the tables that SQLite cannot check.
#[derive(Debug, Default)]
pub(crate) struct Violations {
    /// Tables whose parent has no unique index to refer to. SQLite returns an error for them, "foreign key mismatch",
    /// and does not check their rows. In lower case, with the error.
    pub(crate) mismatched: BTreeMap<String, rusqlite::Error>,
    /// The foreign keys that have orphans.
    keys: Vec<Key>,
    pub(crate) orphans: Vec<Orphan>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    child: String,
    parent: String,
}

/// One row. Values are kept as hashes: there may be many.
#[derive(Clone, Debug)]
pub(crate) struct Orphan {
    /// The place of its foreign key in `keys`.
    key: usize,
    rowid: Option<i64>,
    /// Everything that identifies the row and its foreign key.
    identity: u64,
    /// The values that refer to the parent.
    values: u64,
}

impl Violations {
    /// Whether no table of the whole database has any. One statement, as long as that is so.
    pub(crate) fn none_at_all(conn: &Connection) -> rusqlite::Result<bool> {
        match conn.prepare("PRAGMA main.foreign_key_check") {
            Ok(mut statement) => Ok(statement.query([])?.next()?.is_none()),
            Err(error) if is_mismatch(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads those of these tables.
    pub(crate) fn read<'t>(conn: &Connection, tables: impl Iterator<Item = &'t str>) -> rusqlite::Result<Self> {
        let mut violations = Self::default();
        for table in tables {
            // SQLite returns the error when the statement is prepared, before it reads any row.
            match conn.prepare(&foreign_key_check(table)) {
                Ok(mut statement) => {
                    if statement.query([])?.next()?.is_some() {
                        drop(statement);
                        violations.read_orphans(conn, table)?;
                    }
                }
                Err(error) if is_mismatch(&error) => {
                    violations.mismatched.insert(table.to_ascii_lowercase(), error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(violations)
    }

    pub(crate) fn are_none(&self) -> bool {
        self.mismatched.is_empty() && self.orphans.is_empty()
    }

    fn read_orphans(&mut self, conn: &Connection, table: &str) -> rusqlite::Result<()> {
        let row_key = RowKey::of(conn, table)?;
        for foreign_key in ForeignKey::all(conn, table)? {
            let mut statement = conn.prepare(&foreign_key.orphans(conn, table, &row_key)?)?;
            let mut rows = statement.query([])?;
            let mut key = None;
            while let Some(row) = rows.next()? {
                let key = *key.get_or_insert_with(|| self.key(table, &foreign_key.parent));
                self.orphans.push(Orphan::of(key, row, table, &foreign_key, &row_key)?);
            }
        }
        Ok(())
    }

    fn key(&mut self, child: &str, parent: &str) -> usize {
        let key = Key {
            child: child.to_owned(),
            parent: parent.to_owned(),
        };
        let known = self.keys.iter().position(|known| *known == key);
        known.unwrap_or_else(|| {
            self.keys.push(key);
            self.keys.len() - 1
        })
    }

    /// The orphans that were not there before.
    pub(crate) fn new_since<'v>(&'v self, before: &Self, tables: &Moved<'_>) -> Vec<&'v Orphan> {
        let mut gone: HashMap<u64, Vec<&Orphan>> = HashMap::new();
        for orphan in &before.orphans {
            gone.entry(orphan.identity).or_default().push(orphan);
        }
        let mut new: Vec<&Orphan> = Vec::new();
        for orphan in &self.orphans {
            if gone.get_mut(&orphan.identity).and_then(Vec::pop).is_none() {
                new.push(orphan);
            }
        }
        let mut moved: HashMap<u64, usize> = HashMap::new();
        for orphan in gone.values().flatten() {
            *moved.entry(orphan.values).or_default() += 1;
        }
        new.retain(|orphan| {
            let Key { child, parent } = &self.keys[orphan.key];
            let same = moved.get_mut(&orphan.values).filter(|left| **left > 0);
            match same {
                Some(left) if tables.may_have_moved(child, parent) => {
                    *left -= 1;
                    false
                }
                _ => true,
            }
        });
        new
    }

    /// The orphan, for an error.
    pub(crate) fn told(&self, orphan: &Orphan) -> String {
        let Key { child, parent } = &self.keys[orphan.key];
        let row = orphan.rowid.map_or_else(String::new, |rowid| format!(" row {rowid}"));
        format!("{child}{row} -> {parent}")
    }

    /// The tables with orphans, and the tables to which those refer.
    pub(crate) fn tables(&self) -> Vec<String> {
        let told = |key: &Key| format!("{} -> {}", key.child, key.parent);
        self.keys.iter().map(told).collect()
    }

    /// Takes the place of what was known of these tables, which are in lower case.
    pub(crate) fn replaces(&mut self, before: Self, tables: &BTreeSet<String>) {
        for (table, error) in before.mismatched {
            if !tables.contains(&table) {
                self.mismatched.insert(table, error);
            }
        }
        for mut orphan in before.orphans {
            let Key { child, parent } = &before.keys[orphan.key];
            if !tables.contains(&child.to_ascii_lowercase()) {
                orphan.key = self.key(child, parent);
                self.orphans.push(orphan);
            }
        }
    }
}

/// The tables in which the same row may have another rowid, or another name of its table or column.
pub(crate) struct Moved<'t> {
    pub(crate) touched: &'t Touched,
    /// The foreign keys before, if a table was altered.
    pub(crate) before: Option<&'t References>,
}

impl Moved<'_> {
    fn may_have_moved(&self, child: &str, parent: &str) -> bool {
        self.touched.vacuumed
            || self.touched.defined.contains(&child.to_ascii_lowercase())
            || self.before.is_some_and(|before| !before.has(child, parent))
    }
}

/// A foreign key of a table.
struct ForeignKey {
    parent: String,
    from: Vec<String>,
    /// The columns of the parent; `None` is its primary key.
    to: Option<Vec<String>>,
}

impl ForeignKey {
    fn all(conn: &Connection, table: &str) -> rusqlite::Result<Vec<Self>> {
        let mut statement = conn.prepare(
            "SELECT id, \"table\", \"from\", \"to\" FROM pragma_foreign_key_list(?1, 'main') ORDER BY id, seq",
        )?;
        let mut rows = statement.query([table])?;
        let mut all: BTreeMap<i64, Self> = BTreeMap::new();
        while let Some(row) = rows.next()? {
            let parent = name(row, 1)?;
            let key = all.entry(row.get(0)?).or_insert_with(|| Self {
                parent,
                from: Vec::new(),
                to: Some(Vec::new()),
            });
            key.from.push(name(row, 2)?);
            match (row.get_ref(3)?, &mut key.to) {
                (ValueRef::Null, to) => *to = None,
                (_, Some(to)) => to.push(name(row, 3)?),
                (_, None) => {}
            }
        }
        Ok(all.into_values().collect())
    }

    /// The query for the rows that refer to no row: the columns that identify them, then those that refer.
    ///
    /// SQLite compares "using the collating sequence associated with the parent key column", after "the affinity of the
    /// parent key column is applied to the child key value", <https://sqlite.org/foreignkeys.html>. The `+` takes the
    /// child's own affinity away.
    fn orphans(&self, conn: &Connection, table: &str, row_key: &RowKey) -> rusqlite::Result<String> {
        let child = |column: &String| format!("c.{}", quoted(column));
        let refer: Vec<_> = self.from.iter().map(child).collect();
        let columns: Vec<_> = row_key.columns.iter().map(child).chain(refer.iter().cloned()).collect();
        let set: Vec<_> = refer.iter().map(|column| format!("{column} IS NOT NULL")).collect();
        let mut sql = format!(
            "SELECT {} FROM main.{} AS c WHERE {}",
            columns.join(", "),
            quoted(table),
            set.join(" AND ")
        );
        if exists(conn, &self.parent)? {
            let to = match &self.to {
                Some(to) => to.clone(),
                None => primary_key(conn, &self.parent)?,
            };
            let equal: Vec<_> = to
                .iter()
                .zip(&refer)
                .map(|(to, from)| format!("p.{} = +{from}", quoted(to)))
                .collect();
            sql += &format!(
                " AND NOT EXISTS (SELECT 1 FROM main.{} AS p WHERE {})",
                quoted(&self.parent),
                equal.join(" AND ")
            );
        }
        Ok(sql)
    }
}

/// The columns that identify a row.
struct RowKey {
    columns: Vec<String>,
    is_rowid: bool,
}

impl RowKey {
    fn of(conn: &Connection, table: &str) -> rusqlite::Result<Self> {
        let without_rowid = "SELECT wr FROM pragma_table_list(?1) WHERE schema = 'main'";
        if conn.query_row(without_rowid, [table], |row| row.get(0))? {
            return Ok(Self {
                columns: primary_key(conn, table)?,
                is_rowid: false,
            });
        }
        // A column may have one of the names of the rowid.
        let columns = strings(conn, "SELECT name FROM pragma_table_xinfo(?1, 'main')", table)?;
        let free = |name: &&&str| !columns.iter().any(|column| column.eq_ignore_ascii_case(name));
        let rowid = ["rowid", "_rowid_", "oid"].iter().find(free);
        Ok(Self {
            columns: rowid.map(|name| (*name).to_owned()).into_iter().collect(),
            is_rowid: rowid.is_some(),
        })
    }
}

impl Orphan {
    fn of(
        key: usize,
        row: &Row<'_>,
        table: &str,
        foreign_key: &ForeignKey,
        row_key: &RowKey,
    ) -> rusqlite::Result<Self> {
        let (mut identity, mut values) = (DefaultHasher::new(), DefaultHasher::new());
        for name in [table, &foreign_key.parent]
            .into_iter()
            .chain(foreign_key.from.iter().map(String::as_str))
        {
            name.to_ascii_lowercase().hash(&mut identity);
        }
        let identifying = row_key.columns.len();
        for column in 0..identifying + foreign_key.from.len() {
            let value = row.get_ref(column)?;
            hash(value, &mut identity);
            if column >= identifying {
                hash(value, &mut values);
            }
        }
        Ok(Self {
            key,
            rowid: if row_key.is_rowid { row.get(0)? } else { None },
            identity: identity.finish(),
            values: values.finish(),
        })
    }
}

/// A rebuild may give a column another type, so a number and its text are the same.
fn hash(value: ValueRef<'_>, hasher: &mut DefaultHasher) {
    match value {
        ValueRef::Null => 0_u8.hash(hasher),
        ValueRef::Integer(number) => number.to_string().as_bytes().hash(hasher),
        ValueRef::Real(number) => number.to_string().as_bytes().hash(hasher),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.hash(hasher),
    }
}

fn is_mismatch(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::SqlInputError { msg, .. } | rusqlite::Error::SqliteFailure(_, Some(msg)) => {
            msg.starts_with("foreign key mismatch")
        }
        _ => false,
    }
}

fn exists(conn: &Connection, table: &str) -> rusqlite::Result<bool> {
    conn.prepare("SELECT 1 FROM pragma_table_list(?1) WHERE schema = 'main'")?
        .exists([table])
}

fn primary_key(conn: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    let sql = "SELECT name FROM pragma_table_xinfo(?1, 'main') WHERE pk > 0 ORDER BY pk";
    strings(conn, sql, table)
}

fn strings(conn: &Connection, sql: &str, table: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = conn.prepare(sql)?;
    let names = statement.query_map([table], |row| name(row, 0))?;
    names.collect()
}
