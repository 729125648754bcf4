//! The contents of a database, to compare a copy with its source: the number of rows of each table, and on request a
//! checksum of all rows. The rows are read one by one, and none is kept.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};
use sha2::{Digest, Sha256};

use crate::connection::sql_text::quoted;
use crate::runtime::hex::hex;

/// The tables of a database by name, including those that virtual tables create, and their contents. Tables whose name
/// is not UTF-8 are left out, because rusqlite takes no statement that names one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    tables: Vec<(String, i64)>,
    /// In hexadecimal digits.
    pub(super) checksum: Option<String>,
}

impl Fingerprint {
    pub(crate) fn read(conn: &Connection, with_checksum: bool) -> rusqlite::Result<Self> {
        let names = names(conn)?;
        if with_checksum {
            return Self::with_checksum(conn, names);
        }
        let count = |name: String| {
            let sql = format!("SELECT count(*) FROM main.{}", quoted(&name));
            Ok((name, conn.query_row(&sql, [], |row| row.get(0))?))
        };
        Ok(Self {
            tables: names.into_iter().map(count).collect::<rusqlite::Result<_>>()?,
            checksum: None,
        })
    }

    fn with_checksum(conn: &Connection, names: Vec<String>) -> rusqlite::Result<Self> {
        let mut hasher = Sha256::new();
        let mut tables = Vec::with_capacity(names.len());
        for name in names {
            let rows = hash_table(conn, &name, &mut hasher)?;
            tables.push((name, rows));
        }
        let checksum = hex(&hasher.finalize());
        Ok(Self {
            tables,
            checksum: Some(checksum),
        })
    }

    /// The number of rows in all tables except SQLite's internal ones.
    pub(crate) fn rows(&self) -> u64 {
        let own = |(name, _): &&(String, i64)| !name.starts_with("sqlite_");
        self.tables
            .iter()
            .filter(own)
            .map(|(_, rows)| rows.unsigned_abs())
            .sum()
    }

    /// Describes the first difference between the two.
    pub(crate) fn difference(&self, copy: &Self) -> Option<String> {
        if self == copy {
            return None;
        }
        let differs = self.tables.iter().find(|table| !copy.tables.contains(table));
        Some(match differs {
            Some((name, rows)) => format!("the table {name} has {rows} rows in the database"),
            None => "the copy has other tables or other values".to_owned(),
        })
    }
}

fn names(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let sql = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'shadow') ORDER BY name";
    let mut statement = conn.prepare(sql)?;
    let names = statement.query_map([], |row| utf8(row, 0))?;
    names.filter_map(Result::transpose).collect()
}

/// Returns a name if it is UTF-8.
fn utf8(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<String>> {
    Ok(row.get_ref(column)?.as_str().ok().map(ToOwned::to_owned))
}

/// Adds all rows of a table to the hash, and returns their number.
fn hash_table(conn: &Connection, name: &str, hasher: &mut Sha256) -> rusqlite::Result<i64> {
    add(hasher, b't', name.as_bytes());
    let mut statement = conn.prepare(&select_all(conn, name)?)?;
    let columns = statement.column_count();
    let mut rows = statement.query([])?;
    let mut count = 0;
    while let Some(row) = rows.next()? {
        hash_row(row, columns, hasher)?;
        count += 1;
    }
    Ok(count)
}

/// The statement that reads a table in the order of its own tree: by rowid, or by primary key where there is none.
/// ("NOT INDEXED": "no index shall be used", <https://sqlite.org/lang_indexedby.html>.) The values do not include the
/// rowid, because `VACUUM` may change it while it keeps the order. Generated columns that are not stored follow from
/// the others.
fn select_all(conn: &Connection, name: &str) -> rusqlite::Result<String> {
    if name == "sqlite_schema" {
        // The root page of a table is not content, and a VACUUM enters tables first.
        return Ok("SELECT type, name, tbl_name, sql FROM main.sqlite_schema ORDER BY type, name".into());
    }
    let mut statement =
        conn.prepare("SELECT name FROM pragma_table_xinfo(?1, 'main') WHERE hidden IN (0, 3) ORDER BY cid")?;
    let columns = statement
        .query_map([name], |row| Ok(utf8(row, 0)?.map(|name| quoted(&name))))?
        .collect::<rusqlite::Result<Option<Vec<_>>>>()?;
    // `*` includes the columns whose name is not UTF-8.
    let columns = columns.map_or_else(|| "*".to_owned(), |columns| columns.join(", "));
    let table = quoted(name);
    Ok(format!("SELECT {columns} FROM main.{table} NOT INDEXED"))
}

/// Adds each value with its type and its length, so that no two different rows produce the same bytes.
fn hash_row(row: &Row<'_>, columns: usize, hasher: &mut Sha256) -> rusqlite::Result<()> {
    hasher.update(b"r");
    for column in 0..columns {
        match row.get_ref(column)? {
            ValueRef::Null => hasher.update(b"n"),
            ValueRef::Integer(value) => add(hasher, b'i', &value.to_le_bytes()),
            ValueRef::Real(value) => add(hasher, b'f', &value.to_bits().to_le_bytes()),
            ValueRef::Text(value) => add(hasher, b's', value),
            ValueRef::Blob(value) => add(hasher, b'b', value),
        }
    }
    Ok(())
}

fn add(hasher: &mut Sha256, kind: u8, bytes: &[u8]) {
    hasher.update([kind]);
    hasher.update((bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}
