//! Lookups in an unknown database: its largest table by key, and its largest table with foreign keys joined with each
//! parent.
//!
//! All of it is found in one read, so in one snapshot: the counts and the keys must match.

use std::sync::Arc;

use larder::rusqlite::types::Value;
use larder::{ReadTx, Store};

use crate::failure::{Context, Result};
use crate::load;
use crate::progress;

/// The number of keys that a lookup rotates through.
const KEYS: i64 = 100_000;

#[derive(Default)]
pub(crate) struct Lookups {
    /// Rows of the largest table, by key. `None` if no table has rows.
    pub(crate) point: Option<Lookup>,
    /// Rows of one table, each with the row that its foreign key refers to. Empty if no foreign key is declared.
    pub(crate) joins: Vec<Lookup>,
    /// Tables that SQLite cannot read here, and why.
    pub(crate) skipped: Vec<String>,
}

/// The keys, shared by the lookups of one table.
type Keys = Arc<[Vec<Value>]>;

/// A query for one row, and keys that exist.
pub(crate) struct Lookup {
    /// The name to print.
    pub(crate) name: String,
    pub(crate) sql: String,
    pub(crate) keys: Keys,
}

impl Lookups {
    pub(crate) fn find(store: &Store) -> Result<Self> {
        let mut lookups = Self::default();
        let _progress = progress::of_unknown("counting rows");
        store
            .read(|tx| {
                let tables = tables(tx, &mut lookups.skipped)?;
                if let Some(largest) = tables.first() {
                    lookups.point = point(tx, largest)?;
                }
                lookups.joins = joins(tx, &tables)?;
                Ok(())
            })
            .context(|| "cannot find out what to read".into())?;
        Ok(lookups)
    }
}

/// An ordinary table with rows.
struct Table {
    name: String,
    rows: i64,
    /// The columns that identify a row.
    key: Vec<String>,
    primary_key: Vec<String>,
}

/// The tables, the largest first.
fn tables(tx: &ReadTx<'_>, skipped: &mut Vec<String>) -> larder::Result<Vec<Table>> {
    // Without virtual tables, their shadow tables, SQLite's own tables, and the quickstart's.
    let sql = "SELECT name, wr FROM pragma_table_list
                WHERE schema = 'main' AND type = 'table'
                  AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name <> ?1 COLLATE NOCASE";
    let names: Vec<(String, bool)> = tx.query_map(sql, [load::TABLE], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut tables = Vec::new();
    for (name, without_rowid) in names {
        // The table may need a function, a collation or an extension that only its own application has.
        match table(tx, &name, without_rowid) {
            Ok(table) => tables.extend(table.filter(|table| table.rows > 0)),
            Err(error) => skipped.push(format!("{name}: {error}")),
        }
    }
    tables.sort_by_key(|table| std::cmp::Reverse(table.rows));
    Ok(tables)
}

/// `None` if only a full scan would find a row.
fn table(tx: &ReadTx<'_>, name: &str, without_rowid: bool) -> larder::Result<Option<Table>> {
    let rows = tx.query_row(&format!("SELECT count(*) FROM {}", quoted(name)), [], |row| row.get(0))?;
    tx.prepare(&format!("SELECT * FROM {}", quoted(name)))?;
    let primary_key = primary_key(tx, name)?;
    let key = if without_rowid {
        Some(primary_key.clone())
    } else {
        rowid(tx, name)?.map(|rowid| vec![rowid])
    };
    Ok(key.map(|key| Table {
        name: name.into(),
        rows,
        key,
        primary_key,
    }))
}

fn primary_key(tx: &ReadTx<'_>, table: &str) -> larder::Result<Vec<String>> {
    let sql = "SELECT name FROM pragma_table_info(?1) WHERE pk > 0 ORDER BY pk";
    tx.scalars(sql, [table])
}

/// The name of the rowid: the INTEGER PRIMARY KEY that is an alias for it, or one of SQLite's three names for it that
/// is not a column.
fn rowid(tx: &ReadTx<'_>, table: &str) -> larder::Result<Option<String>> {
    // Any other primary key, including `INTEGER PRIMARY KEY DESC`, has its own index.
    let sql = "SELECT name FROM pragma_table_info(?1)
                WHERE pk = 1 AND type = 'INTEGER' COLLATE NOCASE
                  AND NOT EXISTS (SELECT 1 FROM pragma_index_list(?1) WHERE origin = 'pk')
                  AND NOT EXISTS (SELECT 1 FROM pragma_table_info(?1) WHERE pk = 2)";
    if let Some(alias) = tx.query_optional(sql, [table], |row| row.get(0))? {
        return Ok(Some(alias));
    }
    let sql = "SELECT name FROM pragma_table_xinfo(?1)";
    let columns: Vec<String> = tx.scalars(sql, [table])?;
    let is_free = |name: &&str| !columns.iter().any(|column| column.eq_ignore_ascii_case(name));
    Ok(["rowid", "_rowid_", "oid"].into_iter().find(is_free).map(String::from))
}

fn point(tx: &ReadTx<'_>, table: &Table) -> larder::Result<Option<Lookup>> {
    let keys = keys(tx, table)?;
    Ok((!keys.is_empty()).then(|| Lookup {
        name: format!("{} by {}", table.name, table.key.join(", ")),
        sql: format!(
            "SELECT * FROM {} AS t WHERE {}",
            quoted(&table.name),
            by_key("t", table)
        ),
        keys,
    }))
}

/// The joins of the largest table that has foreign keys.
fn joins(tx: &ReadTx<'_>, tables: &[Table]) -> larder::Result<Vec<Lookup>> {
    for child in tables {
        let foreign_keys = foreign_keys(tx, &child.name)?;
        let joins = foreign_keys
            .iter()
            .filter_map(|foreign_key| join(tx, child, foreign_key, tables));
        let joins: Vec<_> = joins.collect();
        if joins.is_empty() {
            continue;
        }
        let keys = keys(tx, child)?;
        let lookup = |(name, sql)| Lookup {
            name,
            sql,
            keys: Arc::clone(&keys),
        };
        return Ok(joins.into_iter().map(lookup).collect());
    }
    Ok(Vec::new())
}

struct ForeignKey {
    parent: String,
    from: Vec<String>,
    /// `None` means the parent's primary key.
    to: Option<Vec<String>>,
}

fn foreign_keys(tx: &ReadTx<'_>, table: &str) -> larder::Result<Vec<ForeignKey>> {
    // SQLite numbers them from the last declared to the first, with one row for each column.
    let sql = r#"SELECT seq, "table", "from", "to" FROM pragma_foreign_key_list(?1) ORDER BY id DESC, seq"#;
    let mut foreign_keys: Vec<ForeignKey> = Vec::new();
    tx.query_each(sql, [table], |row| {
        let (seq, from, to): (u32, String, Option<String>) = (row.get(0)?, row.get(2)?, row.get(3)?);
        match foreign_keys.last_mut() {
            Some(key) if seq > 0 => {
                key.from.push(from);
                key.to.iter_mut().for_each(|columns| columns.extend(to.clone()));
            }
            _ => foreign_keys.push(ForeignKey {
                parent: row.get(1)?,
                from: vec![from],
                to: to.map(|column| vec![column]),
            }),
        }
        Ok(())
    })?;
    Ok(foreign_keys)
}

/// The join's name and its SQL. `None` if the foreign key refers to nothing: SQLite accepts any declaration, and checks
/// it only on use.
fn join(tx: &ReadTx<'_>, child: &Table, foreign_key: &ForeignKey, tables: &[Table]) -> Option<(String, String)> {
    let is_parent = |table: &&Table| table.name.eq_ignore_ascii_case(&foreign_key.parent);
    let parent = tables.iter().find(is_parent)?;
    let to = foreign_key.to.as_ref().unwrap_or(&parent.primary_key);
    if to.len() != foreign_key.from.len() || parent.name == child.name {
        return None;
    }
    let columns = foreign_key.from.iter().zip(to);
    let on = columns.map(|(from, to)| format!("parent.{} = child.{}", quoted(to), quoted(from)));
    let sql = format!(
        "SELECT child.*, parent.* FROM {} AS child JOIN {} AS parent ON {} WHERE {}",
        quoted(&child.name),
        quoted(&parent.name),
        on.collect::<Vec<_>>().join(" AND "),
        by_key("child", child),
    );
    let name = format!("{} with {} by {}", child.name, parent.name, foreign_key.from.join(", "));
    tx.prepare(&sql).is_ok().then_some((name, sql))
}

fn by_key(table: &str, of: &Table) -> String {
    let columns = of.key.iter().enumerate();
    let terms = columns.map(|(index, column)| format!("{table}.{} = ?{}", quoted(column), index + 1));
    terms.collect::<Vec<_>>().join(" AND ")
}

/// Keys from all over the table: all of them, or [`KEYS`].
fn keys(tx: &ReadTx<'_>, table: &Table) -> larder::Result<Keys> {
    let columns: Vec<_> = table.key.iter().map(|column| quoted(column)).collect();
    let sql = format!("SELECT {} FROM {}", columns.join(", "), quoted(&table.name));
    let step = (table.rows + KEYS - 1) / KEYS;
    let (mut keys, mut row_number) = (Vec::new(), 0);
    tx.query_each(&sql, [], |row| {
        if row_number % step == 0 {
            // Text that is not UTF-8 cannot be a parameter, so that row is left out.
            let key = (0..columns.len()).map(|column| row.get(column));
            keys.extend(key.collect::<Result<Vec<Value>, _>>());
        }
        row_number += 1;
        Ok(())
    })?;
    Ok(keys.into())
}

/// Quotes any name as an SQL identifier.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
