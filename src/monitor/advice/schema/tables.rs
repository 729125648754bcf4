//! The tables of a database, with their indexes and foreign keys, as SQLite's PRAGMAs report them.
//!
//! Names are compared as SQLite compares them: ASCII letters without regard to case.

use std::collections::{BTreeMap, HashMap};

use rusqlite::Row;

use super::bookkeeping::is_bookkeeping;
use super::definition::Definition;
use crate::connection::sql_text::quoted;
use crate::error::Result;
use crate::transaction::ReadTx;

const TABLES: &str = "SELECT name, type, wr, strict FROM pragma_table_list WHERE schema = 'main'";

const PRIMARY_KEYS: &str = "
    SELECT t.name, c.name FROM pragma_table_list AS t, pragma_table_xinfo(t.name, 'main') AS c
    WHERE t.schema = 'main' AND t.type IN ('table', 'shadow') AND c.pk > 0
    ORDER BY t.name, c.pk";

const FOREIGN_KEYS: &str = "
    SELECT t.name, k.seq, k.\"table\", k.\"from\", k.\"to\"
    FROM pragma_table_list AS t, pragma_foreign_key_list(t.name, 'main') AS k
    WHERE t.schema = 'main' AND t.type = 'table'
    ORDER BY t.name, k.id, k.seq";

const INDEXES: &str = "
    SELECT t.name, c.seqno, c.name, c.\"desc\", c.coll, i.name, i.\"unique\", i.origin, i.partial
    FROM pragma_table_list AS t, pragma_index_list(t.name, 'main') AS i, pragma_index_xinfo(i.name, 'main') AS c
    WHERE t.schema = 'main' AND t.type IN ('table', 'shadow') AND c.key
    ORDER BY t.name, i.name, c.seqno";

const DEFINITIONS: &str = "SELECT name, rowid, sql FROM main.sqlite_schema WHERE type = 'index'";

/// All tables and views.
#[derive(Debug)]
pub(super) struct Schema {
    /// By name in lower case.
    tables: BTreeMap<String, Table>,
}

#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) kind: TableKind,
    pub(super) without_rowid: bool,
    pub(super) strict: bool,
    /// The columns of the primary key.
    pub(super) primary_key: Vec<String>,
    pub(super) indexes: Vec<Index>,
    pub(super) foreign_keys: Vec<ForeignKey>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum TableKind {
    Ordinary,
    View,
    Virtual,
    /// The storage of a virtual table.
    Shadow,
}

#[derive(Debug)]
pub(super) struct Index {
    pub(super) name: String,
    pub(super) unique: bool,
    pub(super) partial: bool,
    pub(super) origin: IndexOrigin,
    pub(super) columns: Vec<IndexColumn>,
    pub(super) definition: Definition,
    /// The order of creation: a later index has a greater number.
    pub(super) made: i64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum IndexOrigin {
    CreateIndex,
    Unique,
    PrimaryKey,
}

#[derive(Debug, PartialEq)]
pub(super) struct IndexColumn {
    /// `None` for an expression.
    pub(super) name: Option<String>,
    descending: bool,
    /// The name of the collation, in lower case.
    pub(super) collation: String,
}

#[derive(Debug)]
pub(super) struct ForeignKey {
    pub(super) parent: String,
    pub(super) columns: Vec<Reference>,
}

#[derive(Debug)]
pub(super) struct Reference {
    pub(super) from: String,
    /// `None`, in all columns of the key, means the parent's primary key.
    pub(super) to: Option<String>,
}

impl Schema {
    pub(super) fn read(tx: &ReadTx<'_>) -> Result<Self> {
        let tables = tx.query_map(TABLES, [], Table::from_row)?;
        let tables = tables.into_iter().map(|table| (table.name.to_ascii_lowercase(), table));
        let mut schema = Self {
            tables: tables.collect(),
        };
        tx.query_each(PRIMARY_KEYS, [], |row| {
            schema.with(row, |table| {
                table.primary_key.push(row.get(1)?);
                Ok(())
            })
        })?;
        tx.query_each(FOREIGN_KEYS, [], |row| {
            schema.with(row, |table| table.add_reference(row))
        })?;
        tx.query_each(INDEXES, [], |row| schema.with(row, |table| table.add_index_column(row)))?;
        schema.read_definitions(tx)?;
        Ok(schema)
    }

    /// Calls `f` with the table that the row belongs to.
    fn with(&mut self, row: &Row<'_>, f: impl FnOnce(&mut Table) -> rusqlite::Result<()>) -> rusqlite::Result<()> {
        let name: String = row.get(0)?;
        self.tables.get_mut(&name.to_ascii_lowercase()).map_or(Ok(()), f)
    }

    fn read_definitions(&mut self, tx: &ReadTx<'_>) -> Result<()> {
        let mut definitions = HashMap::new();
        tx.query_each(DEFINITIONS, [], |row| {
            let (name, made, sql): (String, i64, Option<String>) = (row.get(0)?, row.get(1)?, row.get(2)?);
            definitions.insert(name, (made, sql.map(|sql| Definition::parse(&sql)).unwrap_or_default()));
            Ok(())
        })?;
        for index in self.tables.values_mut().flat_map(|table| &mut table.indexes) {
            // The primary key of a WITHOUT ROWID table has no definition: it is the table.
            (index.made, index.definition) = definitions.remove(&index.name).unwrap_or_default();
        }
        Ok(())
    }

    pub(super) fn table(&self, name: &str) -> Option<&Table> {
        self.tables.get(&name.to_ascii_lowercase())
    }

    /// The application's own tables, by name.
    pub(super) fn of_the_application(&self) -> impl Iterator<Item = &Table> {
        self.tables
            .iter()
            .filter(|(name, table)| {
                table.kind == TableKind::Ordinary && !name.starts_with("sqlite_") && !is_bookkeeping(&table.name)
            })
            .map(|(_, table)| table)
    }

    /// Whether a table, a view or an index has the name: they share one namespace.
    pub(super) fn has_name(&self, name: &str) -> bool {
        let mut indexes = self.tables.values().flat_map(|table| &table.indexes);
        self.table(name).is_some() || indexes.any(|index| index.name.eq_ignore_ascii_case(name))
    }
}

impl Table {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        let kind: String = row.get(1)?;
        Ok(Self {
            name: row.get(0)?,
            kind: match kind.as_str() {
                "view" => TableKind::View,
                "virtual" => TableKind::Virtual,
                "shadow" => TableKind::Shadow,
                _ => TableKind::Ordinary,
            },
            without_rowid: row.get(2)?,
            strict: row.get(3)?,
            primary_key: Vec::new(),
            indexes: Vec::new(),
            foreign_keys: Vec::new(),
        })
    }

    /// Adds one column of a foreign key. The row holds its position in the key, parent, child column, parent column.
    fn add_reference(&mut self, row: &Row<'_>) -> rusqlite::Result<()> {
        if row.get::<_, i64>(1)? == 0 {
            self.foreign_keys.push(ForeignKey {
                parent: row.get(2)?,
                columns: Vec::new(),
            });
        }
        let reference = Reference {
            from: row.get(3)?,
            to: row.get(4)?,
        };
        if let Some(key) = self.foreign_keys.last_mut() {
            key.columns.push(reference);
        }
        Ok(())
    }

    /// Adds one column of an index. The row holds its position in the index, name, direction, collation, and the index.
    fn add_index_column(&mut self, row: &Row<'_>) -> rusqlite::Result<()> {
        if row.get::<_, i64>(1)? == 0 {
            self.indexes.push(Index::from_row(row)?);
        }
        let column = IndexColumn {
            name: row.get(2)?,
            descending: row.get(3)?,
            collation: row.get::<_, String>(4)?.to_ascii_lowercase(),
        };
        if let Some(index) = self.indexes.last_mut() {
            index.columns.push(column);
        }
        Ok(())
    }

    /// A name of the rowid, as SQL. (A table with a column of the name `_rowid_` gives its values.)
    pub(super) fn rowid_name(&self) -> String {
        let alias = self.primary_key.iter().find(|column| self.is_rowid_alias(column));
        alias.map_or_else(|| "_rowid_".to_owned(), |alias| quoted(alias))
    }

    /// Whether the column is the INTEGER PRIMARY KEY, which "becomes an alias for the rowid",
    /// <https://sqlite.org/lang_createtable.html#rowid>. Every other primary key has an index, including one declared
    /// `INTEGER PRIMARY KEY DESC`.
    pub(super) fn is_rowid_alias(&self, column: &str) -> bool {
        let indexed = || self.indexes.iter().any(|index| index.origin == IndexOrigin::PrimaryKey);
        match self.primary_key.as_slice() {
            [only] => only.eq_ignore_ascii_case(column) && !self.without_rowid && !indexed(),
            _ => false,
        }
    }
}

impl Index {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        let origin: String = row.get(7)?;
        Ok(Self {
            name: row.get(5)?,
            unique: row.get(6)?,
            partial: row.get(8)?,
            origin: match origin.as_str() {
                "pk" => IndexOrigin::PrimaryKey,
                "u" => IndexOrigin::Unique,
                _ => IndexOrigin::CreateIndex,
            },
            columns: Vec::new(),
            definition: Definition::default(),
            made: 0,
        })
    }

    pub(super) fn has_expression(&self) -> bool {
        self.columns.iter().any(|column| column.name.is_none())
    }
}

impl IndexColumn {
    pub(super) fn is(&self, column: &str) -> bool {
        self.name.as_ref().is_some_and(|name| name.eq_ignore_ascii_case(column))
    }
}
