//! How SQLite finds the child rows of a parent row.
//!
//! When a parent row is deleted, or its key changes, SQLite searches for its child rows: "if these queries cannot use
//! an index, they are forced to do a linear scan of the entire child table",
//! <https://sqlite.org/foreignkeys.html#fk_indexes>. An index is usable only if it holds the values in the order of the
//! comparison: "the collation sequence used for the comparison should be that of the parent key columns. The affinity
//! of the parent key column should be applied to each child key value" (`fkey.c`).

use super::KeyChecker;
use crate::connection::sql_text::quoted;
use crate::error::Result;
use crate::monitor::advice::schema::tables::{Index, IndexColumn, Table};
use crate::monitor::advice::{Finding, Severity};

const TOPIC: &str = "foreign_key_without_index";

/// A column of the child, as SQLite searches it for a parent's value.
struct Searched<'a> {
    name: &'a str,
    /// The collation of the comparison, in lower case.
    collation: String,
    /// Whether an index on the column has that collation by default.
    own_collation: bool,
    /// Whether any index can serve the search: an index on texts is not in the order of numbers.
    possible: bool,
}

impl<'a> KeyChecker<'a> {
    /// Reports the key if the search has no index. `columns` are the parent's.
    pub(super) fn search(&self, parent: &Table, columns: &[&str]) -> Result<Option<Finding>> {
        let pairs = self.key.columns.iter().zip(columns);
        let searched: Vec<Searched<'_>> = pairs
            .map(|(column, to)| self.searched(parent, to, &column.from))
            .collect::<Result<_>>()?;
        if !searched.iter().any(|column| column.possible) {
            return Ok(Some(self.unsearchable(parent)));
        }
        Ok((!self.is_served(&searched)).then(|| self.without_index(parent, &searched)))
    }

    fn searched(&self, parent: &Table, to: &str, from: &'a str) -> Result<Searched<'a>> {
        let (above, below) = (self.declared(parent, to)?, self.declared(self.child, from)?);
        // A rowid is a number, and contributes no collation.
        let collation = if parent.is_rowid_alias(to) {
            &below.collation
        } else {
            &above.collation
        };
        Ok(Searched {
            name: from,
            own_collation: *collation == below.collation,
            collation: collation.clone(),
            possible: below.numeric || !above.numeric,
        })
    }

    fn is_served(&self, columns: &[Searched<'_>]) -> bool {
        let by_rowid = columns
            .iter()
            .any(|column| column.possible && self.child.is_rowid_alias(column.name));
        by_rowid || self.child.indexes.iter().any(|index| serves(index, columns))
    }

    fn without_index(&self, parent: &Table, columns: &[Searched<'_>]) -> Finding {
        let mut indexes = self.child.indexes.iter();
        let (has, rows) = match indexes.find(|index| !leading(index, columns).is_empty()) {
            Some(part) => (
                format!("only {} for a part of its columns", part.name),
                "all rows with the same values in this part",
            ),
            None => ("no index".into(), "all rows"),
        };
        let message = format!("{} has {has}: {}", self.told(), self.reads(rows, parent));
        let columns = || columns.iter().filter(|column| column.possible);
        let list: Vec<String> = columns().map(Searched::indexed).collect();
        let names: Vec<&str> = columns().map(|column| column.name).collect();
        let remedy = self.create("CREATE INDEX", &self.child.name, &names, &list);
        Finding::new(Severity::Warning, TOPIC, message, remedy)
    }

    fn unsearchable(&self, parent: &Table) -> Finding {
        let message = format!(
            "{} goes from a column that is not declared as a number to one that is, so it cannot use an index: {}",
            self.told(),
            self.reads("all rows", parent)
        );
        let remedy = format!(
            "Rebuild {} in a migration, with the column type of {} and an index",
            self.child.name, parent.name
        );
        Finding::new(Severity::Warning, TOPIC, message, remedy)
    }

    fn reads(&self, rows: &str, parent: &Table) -> String {
        let (parent, child) = (&parent.name, &self.child.name);
        format!("each DELETE from {parent}, and each UPDATE of its key, reads {rows} of {child}")
    }
}

impl Searched<'_> {
    fn fits(&self, indexed: &IndexColumn) -> bool {
        self.possible && indexed.is(self.name) && indexed.collation == self.collation
    }

    /// The column in the syntax of `CREATE INDEX`.
    fn indexed(&self) -> String {
        match self.own_collation {
            true => quoted(self.name),
            false => format!("{} COLLATE {}", quoted(self.name), quoted(&self.collation)),
        }
    }
}

/// Whether the columns, in any order, are the first ones of the index. A UNIQUE index with no other columns finds at
/// most one row, so it need not contain the rest of the key.
fn serves(index: &Index, columns: &[Searched<'_>]) -> bool {
    let leading = leading(index, columns);
    let is_there = |searched: &Searched<'_>| leading.iter().any(|indexed| searched.fits(indexed));
    let all_there = columns.iter().all(|searched| is_there(searched) || !searched.possible);
    all_there || (index.unique && leading.len() == index.columns.len())
}

/// The leading columns of the index that the search uses.
fn leading<'i>(index: &'i Index, columns: &[Searched<'_>]) -> &'i [IndexColumn] {
    let names: Vec<&str> = columns.iter().map(|searched| searched.name).collect();
    if index.partial && !index.definition.excludes_only_null(&names) {
        return &[];
    }
    let is_searched = |indexed: &IndexColumn| columns.iter().any(|searched| searched.fits(indexed));
    let end = index.columns.iter().position(|indexed| !is_searched(indexed));
    &index.columns[..end.unwrap_or(index.columns.len())]
}
