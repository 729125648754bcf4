//! Foreign keys that cannot be checked, and foreign keys that are slow to check (`search.rs`).
//!
//! Both are reported only while foreign keys are on; otherwise SQLite ignores them.

mod search;
#[cfg(test)]
mod tests;

use std::ffi::CStr;

use rusqlite::Connection;

use super::tables::{ForeignKey, Index, Schema, Table, TableKind};
use super::told;
use crate::connection::sql_text::quoted;
use crate::error::Result;
use crate::monitor::advice::{Finding, Severity};
use crate::transaction::ReadTx;

pub(super) fn look(tx: &ReadTx<'_>, schema: &Schema) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    if !tx.query_row("PRAGMA foreign_keys", [], |row| row.get::<_, bool>(0))? {
        return Ok(findings);
    }
    for child in schema.of_the_application() {
        for key in &child.foreign_keys {
            let checker = KeyChecker { tx, schema, child, key };
            findings.extend(checker.judge()?);
        }
    }
    Ok(findings)
}

struct KeyChecker<'a> {
    tx: &'a ReadTx<'a>,
    schema: &'a Schema,
    child: &'a Table,
    key: &'a ForeignKey,
}

/// The target of a foreign key.
enum Parent<'a> {
    Key(&'a Table, Vec<&'a str>),
    /// The target does not exist: the reason, and the remedy.
    Mismatch(String, String),
}

impl<'a> KeyChecker<'a> {
    fn judge(&self) -> Result<Option<Finding>> {
        match self.parent()? {
            Parent::Mismatch(why, remedy) => Ok(Some(self.mismatch(&why, remedy))),
            Parent::Key(parent, columns) => self.search(parent, &columns),
        }
    }

    /// Finds the target by SQLite's own rules, <https://sqlite.org/foreignkeys.html#fk_indexes>.
    fn parent(&self) -> Result<Parent<'a>> {
        let name = &self.key.parent;
        let Some(parent) = self.schema.table(name) else {
            let remedy = format!(
                "Create the table {name}, or rebuild {} without the key",
                self.child.name
            );
            return Ok(Parent::Mismatch(format!("there is no table {name}"), remedy));
        };
        let not_a_table = match parent.kind {
            TableKind::View => "a view",
            TableKind::Virtual => "a virtual table",
            TableKind::Ordinary | TableKind::Shadow => return self.parent_columns(parent),
        };
        let remedy = format!("Rebuild {} with a key that refers to a table", self.child.name);
        Ok(Parent::Mismatch(format!("{name} is {not_a_table}"), remedy))
    }

    fn parent_columns(&self, parent: &'a Table) -> Result<Parent<'a>> {
        let named: Option<Vec<&str>> = self.key.columns.iter().map(|column| column.to.as_deref()).collect();
        match named {
            Some(columns) => self.named_columns(parent, columns),
            None => Ok(self.implied_columns(parent)),
        }
    }

    fn implied_columns(&self, parent: &'a Table) -> Parent<'a> {
        let (has, needs) = (parent.primary_key.len(), self.key.columns.len());
        if has == needs {
            return Parent::Key(parent, parent.primary_key.iter().map(String::as_str).collect());
        }
        let why = match has {
            0 => format!("{} has no primary key", parent.name),
            _ => format!(
                "the primary key of {} has a different number of columns, {has}",
                parent.name
            ),
        };
        let remedy = format!(
            "Rebuild {} with a key that names the columns of the parent",
            self.child.name
        );
        Parent::Mismatch(why, remedy)
    }

    fn named_columns(&self, parent: &'a Table, columns: Vec<&'a str>) -> Result<Parent<'a>> {
        if let [column] = columns[..]
            && parent.is_rowid_alias(column)
        {
            return Ok(Parent::Key(parent, columns));
        }
        for index in &parent.indexes {
            if self.is_parent_key(parent, index, &columns)? {
                return Ok(Parent::Key(parent, columns));
            }
        }
        for column in &columns {
            if !self.conn().column_exists(Some("main"), parent.name.as_str(), column)? {
                let remedy = format!("Add the column, or rebuild {} without the key", self.child.name);
                return Ok(Parent::Mismatch(
                    format!("{} has no column {column}", parent.name),
                    remedy,
                ));
            }
        }
        let why = format!(
            "no primary key and no UNIQUE constraint covers exactly {}",
            told(&parent.name, columns.iter().copied())
        );
        let list: Vec<String> = columns.iter().map(|column| quoted(column)).collect();
        let remedy = self.create("CREATE UNIQUE INDEX", &parent.name, &columns, &list);
        Ok(Parent::Mismatch(why, remedy))
    }

    /// "If the parent key columns have a UNIQUE index, then that index must use the collation sequences that are
    /// specified in the CREATE TABLE statement for the parent table", as above.
    fn is_parent_key(&self, parent: &Table, index: &Index, columns: &[&str]) -> Result<bool> {
        if !index.unique || index.partial || index.columns.len() != columns.len() {
            return Ok(false);
        }
        for column in &index.columns {
            let Some(name) = columns.iter().find(|name| column.is(name)) else {
                return Ok(false);
            };
            if column.collation != self.declared(parent, name)?.collation {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// "Such errors prevent the application from preparing SQL statements that modify the content of the child or
    /// parent tables in ways that use the foreign keys", <https://sqlite.org/foreignkeys.html#fk_indexes>.
    fn mismatch(&self, why: &str, remedy: String) -> Finding {
        let message = format!(
            "{} has no valid parent key: {why}, so SQLite fails every INSERT into {} and every DELETE from it",
            self.told(),
            self.child.name
        );
        Finding::new(Severity::Critical, "foreign_key_mismatch", message, remedy)
    }

    /// The statement that creates the index, with an unused name.
    fn create(&self, what: &str, table: &str, columns: &[&str], list: &[String]) -> String {
        let name = format!("{table}_{}", columns.join("_"));
        let (mut free, mut number) = (name.clone(), 1);
        while self.schema.has_name(&free) {
            number += 1;
            free = format!("{name}_{number}");
        }
        format!("{what} {} ON {}({})", quoted(&free), quoted(table), list.join(", "))
    }

    fn told(&self) -> String {
        let from = self.key.columns.iter().map(|column| column.from.as_str());
        let to = self.key.columns.iter().filter_map(|column| column.to.as_deref());
        let parent = match self.key.columns.first().and_then(|column| column.to.as_ref()) {
            Some(_) => told(&self.key.parent, to),
            None => self.key.parent.clone(),
        };
        format!("the foreign key {} -> {parent}", told(&self.child.name, from))
    }

    fn conn(&self) -> &Connection {
        self.tx
    }

    fn declared(&self, table: &Table, column: &str) -> Result<Declared> {
        let (kind, collation, ..) = self.conn().column_metadata(Some("main"), table.name.as_str(), column)?;
        let text = |text: Option<&CStr>| text.map(|text| text.to_string_lossy().to_ascii_lowercase());
        Ok(Declared {
            collation: text(collation).unwrap_or_else(|| "binary".into()),
            numeric: is_numeric(&text(kind).unwrap_or_default(), table.strict),
        })
    }
}

/// The declaration of a column.
struct Declared {
    collation: String,
    numeric: bool,
}

/// Whether the type, in lower case, has affinity INTEGER, REAL or NUMERIC, by the rules of
/// <https://sqlite.org/datatype3.html#determination_of_column_affinity>, in their order.
fn is_numeric(declared: &str, strict: bool) -> bool {
    let has = |parts: &[&str]| parts.iter().any(|part| declared.contains(part));
    if has(&["int"]) {
        return true;
    }
    let any = strict && declared == "any";
    !(has(&["char", "clob", "text", "blob"]) || declared.is_empty() || any)
}
