//! The foreign keys between tables: which table refers to which.
//!
//! They are read once in a run of migrations, and then follow what each migration does, because reading them all after
//! each of many migrations takes time that grows with the square of their number.

use std::collections::{BTreeMap, HashSet};
use std::mem;

use rusqlite::Connection;

use crate::connection::authorizer::Touched;
use crate::connection::sql_text::{name, quoted};

/// The foreign keys of all tables.
#[derive(Debug, Default)]
pub(crate) struct References {
    /// The tables that refer to others, by name in lower case.
    children: BTreeMap<String, Child>,
}

#[derive(Clone, Debug)]
struct Child {
    name: String,
    /// By name in lower case.
    parents: BTreeMap<String, Parent>,
}

#[derive(Clone, Debug)]
struct Parent {
    name: String,
    exists: bool,
}

impl References {
    pub(crate) fn read(conn: &Connection) -> rusqlite::Result<Self> {
        let (mut tables, mut candidates) = (HashSet::new(), Vec::new());
        let mut statement = conn.prepare("SELECT name, sql FROM main.sqlite_schema WHERE type = 'table'")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let table = name(row, 0)?;
            tables.insert(table.to_ascii_lowercase());
            // Only a definition that has the keyword has foreign keys.
            if has_keyword(row.get_ref(1)?.as_bytes().unwrap_or_default()) {
                candidates.push(table);
            }
        }
        let mut references = Self::default();
        for table in candidates {
            references.read_child(conn, &table, |parent| Ok(tables.contains(parent)))?;
        }
        Ok(references)
    }

    fn read_child(
        &mut self,
        conn: &Connection,
        table: &str,
        exists: impl Fn(&str) -> rusqlite::Result<bool>,
    ) -> rusqlite::Result<()> {
        // Not `pragma_foreign_key_list`, which prepares two statements.
        let mut statement = conn.prepare(&format!("PRAGMA main.foreign_key_list({})", quoted(table)))?;
        let mut rows = statement.query([])?;
        let mut parents = BTreeMap::new();
        while let Some(row) = rows.next()? {
            let name = name(row, 2)?;
            let lower = name.to_ascii_lowercase();
            let exists = exists(&lower)?;
            parents.entry(lower).or_insert(Parent { name, exists });
        }
        if !parents.is_empty() {
            let name = definition(conn, table)?.map_or_else(|| table.to_owned(), |definition| definition.name);
            self.children
                .insert(table.to_ascii_lowercase(), Child { name, parents });
        }
        Ok(())
    }

    /// Follows the statements of a migration.
    pub(crate) fn follow(&mut self, conn: &Connection, touched: &Touched) -> rusqlite::Result<Followed> {
        if touched.altered {
            let before = mem::replace(self, Self::read(conn)?);
            return Ok(Followed {
                turned: self.turned_since(&before.children),
                before: Some(before),
            });
        }
        let mut before = BTreeMap::new();
        for table in &touched.defined {
            before.extend(self.children.remove_entry(table));
        }
        for table in &touched.defined {
            self.read_child(conn, table, |parent| Ok(definition(conn, parent)?.is_some()))?;
        }
        if touched.defines_tables() {
            for (parent, told) in self.children.values_mut().flat_map(|child| &mut child.parents) {
                if touched.defined.contains(parent) {
                    told.exists = definition(conn, parent)?.is_some();
                }
            }
        }
        Ok(Followed {
            turned: self.turned_since(&before),
            before: None,
        })
    }

    /// Tables whose reference changed from an existing table to a missing one: `ALTER TABLE p RENAME TO p_old` updates
    /// the references of the children of `p`, and `DROP TABLE p_old` then leaves them without a parent. If they have no
    /// rows, `foreign_key_check` finds nothing. (A parent that was dropped directly, or is created later, is a
    /// different case.)
    fn turned_since(&self, before: &BTreeMap<String, Child>) -> Vec<String> {
        let mut turned = Vec::new();
        for (key, old) in before {
            let Some(now) = self.children.get(key) else { continue };
            let lost = |(parent, was): (&String, &Parent)| was.exists && !now.parents.contains_key(parent);
            if !old.parents.iter().any(lost) {
                continue;
            }
            for (key, parent) in &now.parents {
                if !parent.exists && !old.parents.contains_key(key) {
                    turned.push(format!(
                        "{} -> {}, which no longer exists (a rename changed the reference)",
                        now.name, parent.name
                    ));
                }
            }
        }
        turned
    }

    /// All tables that refer to others.
    pub(crate) fn children(&self) -> impl Iterator<Item = &str> {
        self.children.values().map(|child| child.name.as_str())
    }

    /// The tables whose foreign keys these statements may violate: they changed their rows, or those of a parent.
    pub(crate) fn affected<'r>(&'r self, touched: &'r Touched) -> impl Iterator<Item = &'r str> {
        let tables = &touched.tables;
        self.children
            .iter()
            .filter(|(key, child)| tables.contains(*key) || child.parents.keys().any(|parent| tables.contains(parent)))
            .map(|(_, child)| child.name.as_str())
    }

    /// Whether this table refers to that one.
    pub(crate) fn has(&self, child: &str, parent: &str) -> bool {
        let child = self.children.get(&child.to_ascii_lowercase());
        child.is_some_and(|child| child.parents.contains_key(&parent.to_ascii_lowercase()))
    }
}

/// What became of the foreign keys.
pub(crate) struct Followed {
    /// Tables whose reference changed from an existing table to a missing one, as an error tells them.
    pub(crate) turned: Vec<String>,
    /// What they were, if any of them may have changed. Otherwise only those of redefined tables have.
    pub(crate) before: Option<References>,
}

/// Whether the definition of a table has the keyword of a foreign key.
fn has_keyword(sql: &[u8]) -> bool {
    const KEYWORD: &[u8] = b"references";
    sql.windows(KEYWORD.len())
        .any(|word| word.eq_ignore_ascii_case(KEYWORD))
}

/// What SQLite lists of a table.
pub(super) struct Definition {
    /// As its definition spells it.
    pub(super) name: String,
    pub(super) is_strict: bool,
}

/// The definition of a table of this name, without a look at the others. `None` if there is none, or it is a view, a
/// virtual table or the storage of one.
pub(super) fn definition(conn: &Connection, table: &str) -> rusqlite::Result<Option<Definition>> {
    let mut statement = conn.prepare(&format!("PRAGMA main.table_list({})", quoted(table)))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if row.get_ref(0)?.as_bytes() == Ok(b"main") && row.get_ref(2)?.as_bytes() == Ok(b"table") {
            return Ok(Some(Definition {
                name: name(row, 1)?,
                is_strict: row.get(5)?,
            }));
        }
    }
    Ok(None)
}
