//! Objects of the schema that use what an untrusted schema may not use.
//!
//! With `trusted_schema` off, SQLite refuses a function in a view, a trigger, a constraint, a generated column or an index
//! unless it is marked `SQLITE_INNOCUOUS`, and so for virtual tables. It says so when a statement is prepared that needs
//! the object: "unsafe use of f()". So the statements that need a suspect are prepared, on the connection that has the
//! functions.

use std::collections::BTreeSet;

use rusqlite::{Connection, ffi};

use super::{SchemaObject, probes};
use crate::connection::sql_text::{name, tokens, unquoted};
use crate::error::message;

/// How SQLite's message begins.
const UNSAFE: &str = "unsafe use of ";

/// An object, and what it uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnsafeUse {
    pub(crate) object: SchemaObject,
    /// `f()`, or `virtual table "v"`.
    pub(crate) used: String,
}

/// The objects that SQLite refuses to use, as this connection is set.
pub(crate) fn unsafe_uses(conn: &Connection) -> rusqlite::Result<Vec<UnsafeUse>> {
    let all = SchemaObject::read(conn)?;
    let names = Names::read(conn, &all)?;
    let suspects: Vec<&SchemaObject> = all.iter().filter(|object| names.are_in(object)).collect();
    // A view has its own statement. The others are needed by the statements of their table.
    let tables: BTreeSet<&str> = suspects.iter().map(|object| object.table.as_str()).collect();
    let mut found = Vec::new();
    for table in tables {
        let refused = refused(conn, table);
        let suspects = suspects.iter().filter(|object| object.table == table);
        found.extend(suspects.filter_map(|object| names.used_by(object, &refused)));
    }
    Ok(found)
}

/// Refuses a schema whose tables or indexes SQLite cannot rebuild, as `VACUUM` does. SQLite's own error would be a
/// damaged database, and it would not load the schema again.
pub(crate) fn refuse_unsafe_tables(conn: &Connection) -> rusqlite::Result<()> {
    let found = unsafe_uses(conn)?;
    match found.iter().find(|found| !found.object.is_code()) {
        None => Ok(()),
        Some(found) => {
            let message = format!("{UNSAFE}{}", found.used);
            Err(rusqlite::Error::SqliteFailure(
                ffi::Error::new(ffi::SQLITE_ERROR),
                Some(message),
            ))
        }
    }
}

/// What SQLite refuses in the statements that need the table or view.
fn refused(conn: &Connection, table: &str) -> BTreeSet<String> {
    let refused = probes(conn, table).into_iter().filter_map(|sql| {
        let error = conn.prepare(&sql).err()?;
        Some(message(&error).strip_prefix(UNSAFE)?.to_owned())
    });
    refused.collect()
}

/// Names of functions and virtual tables, in lower case.
struct Names {
    /// The functions that are not marked as innocuous.
    functions: BTreeSet<String>,
    virtual_tables: BTreeSet<String>,
}

impl Names {
    fn read(conn: &Connection, all: &[SchemaObject]) -> rusqlite::Result<Self> {
        let functions = format!(
            "SELECT name FROM pragma_function_list WHERE NOT flags & {}",
            ffi::SQLITE_INNOCUOUS
        );
        let mut virtual_tables = lower_names(conn, "SELECT name FROM pragma_module_list")?;
        let of_schema = all.iter().filter(|object| object.is_virtual());
        virtual_tables.extend(of_schema.map(|object| object.name.to_ascii_lowercase()));
        Ok(Self {
            functions: lower_names(conn, &functions)?,
            virtual_tables,
        })
    }

    /// Whether the object may use one of them.
    fn are_in(&self, object: &SchemaObject) -> bool {
        !object.is_virtual()
            && (self.function_in(object).is_some()
                || object.is_code() && words(object).any(|word| self.is_virtual_table(&word)))
    }

    /// The first of the functions that the object calls.
    fn function_in(&self, object: &SchemaObject) -> Option<String> {
        let called = tokens(&object.sql).zip(tokens(&object.sql).skip(1));
        called
            .filter(|(_, next)| *next == "(")
            .map(|(name, _)| unquoted(name).to_ascii_lowercase())
            .find(|name| self.functions.contains(name))
    }

    /// SQLite has a virtual table for each PRAGMA that only reads, and knows it from its first use on.
    fn is_virtual_table(&self, word: &str) -> bool {
        word.starts_with("pragma_") || self.virtual_tables.contains(word)
    }

    /// What the object uses, if SQLite refuses anything for its table. SQLite names one thing in each statement, and
    /// there may be more.
    fn used_by(&self, object: &SchemaObject, refused: &BTreeSet<String>) -> Option<UnsafeUse> {
        let is_named = |used: &&String| match used.strip_prefix("virtual table ") {
            Some(table) => words(object).any(|word| word.eq_ignore_ascii_case(&unquoted(table))),
            None => false,
        };
        let function = || self.function_in(object).map(|function| format!("{function}()"));
        let function = refused.iter().any(|used| used.ends_with("()")).then(function).flatten();
        let used = function.or_else(|| refused.iter().find(is_named).cloned())?;
        Some(UnsafeUse {
            object: object.clone(),
            used,
        })
    }
}

/// The words of an object's text, in lower case and without quotes.
fn words(object: &SchemaObject) -> impl Iterator<Item = String> {
    tokens(&object.sql).map(|token| unquoted(token).to_ascii_lowercase())
}

fn lower_names(conn: &Connection, sql: &str) -> rusqlite::Result<BTreeSet<String>> {
    let mut statement = conn.prepare(sql)?;
    let names = statement.query_map([], |row| Ok(name(row, 0)?.to_ascii_lowercase()))?;
    names.collect()
}

#[cfg(test)]
mod tests {
    use rusqlite::config::DbConfig;
    use rusqlite::functions::FunctionFlags;

    use super::*;

    fn connection(sql: &str) -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
        conn.create_scalar_function("mine", -1, flags, |_| Ok(1)).unwrap();
        conn.create_scalar_function("harmless", -1, flags | FunctionFlags::SQLITE_INNOCUOUS, |_| Ok(1))
            .unwrap();
        conn.execute_batch(sql).unwrap();
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)
            .unwrap();
        conn
    }

    fn found(conn: &Connection) -> Vec<String> {
        let found = unsafe_uses(conn).unwrap();
        found
            .iter()
            .map(|found| format!("{}: {}", found.object.described(), found.used))
            .collect()
    }

    #[test]
    fn unsafe_function_is_found_wherever_schema_calls_it() {
        for (sql, expected) in [
            ("CREATE VIEW v AS SELECT mine(1)", "the view v: mine()"),
            ("CREATE VIEW v AS SELECT \"MINE\" /* so */ (1)", "the view v: mine()"),
            ("CREATE TABLE t(a CHECK (mine(a)))", "the table t: mine()"),
            ("CREATE TABLE t(a, b AS (mine(a)))", "the table t: mine()"),
            ("CREATE TABLE t(a, b AS (mine(a)) STORED)", "the table t: mine()"),
            ("CREATE TABLE t(a DEFAULT (mine()), b)", "the table t: mine()"),
            ("CREATE TABLE t(a); CREATE INDEX i ON t(mine(a))", "the index i: mine()"),
            (
                "CREATE TABLE t(a); CREATE INDEX i ON t(a) WHERE mine(a)",
                "the index i: mine()",
            ),
            (
                "CREATE TABLE t(a); CREATE TRIGGER r AFTER UPDATE OF a ON t BEGIN SELECT mine(new.a); END",
                "the trigger r: mine()",
            ),
            (
                "CREATE TABLE t(a); CREATE TRIGGER r BEFORE DELETE ON t WHEN mine(old.a) BEGIN SELECT 1; END",
                "the trigger r: mine()",
            ),
            (
                "CREATE VIEW v AS SELECT 1 AS a; CREATE TRIGGER r INSTEAD OF INSERT ON v BEGIN SELECT mine(new.a); END",
                "the trigger r: mine()",
            ),
            (
                "CREATE VIEW v AS SELECT name FROM pragma_table_list",
                "the view v: virtual table \"pragma_table_list\"",
            ),
            (
                "CREATE VIEW v AS SELECT * FROM dbstat",
                "the view v: virtual table \"dbstat\"",
            ),
            (
                "CREATE VIRTUAL TABLE f USING fts5(a); CREATE VIEW v AS SELECT snippet(f, 0, '', '', '', 5) FROM f",
                "the view v: snippet()",
            ),
        ] {
            assert_eq!(found(&connection(sql)), [expected], "{sql}");
        }
    }

    #[test]
    fn harmless_functions_and_names_are_not_reported() {
        let conn = connection(
            "CREATE TABLE mine(a, b AS (harmless(a)), CHECK (upper(a) <> 'mine(1)'));
             CREATE INDEX i ON mine(lower(a)) WHERE harmless(a);
             CREATE VIEW v AS SELECT mine.a FROM mine, json_each('[1]');
             CREATE VIRTUAL TABLE f USING fts5(a);
             CREATE TRIGGER r AFTER INSERT ON mine BEGIN INSERT INTO mine (a) VALUES (1); INSERT INTO f VALUES (new.a); END",
        );
        assert_eq!(found(&conn), [""; 0]);
    }

    #[test]
    fn trusted_schema_has_only_direct_functions_reported() {
        let conn = connection("CREATE VIEW v AS SELECT mine(1)");
        let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DIRECTONLY;
        conn.create_scalar_function("direct", 0, flags, |_| Ok(1)).unwrap();
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, true)
            .unwrap();
        assert_eq!(found(&conn), [""; 0]);
        conn.execute_batch("CREATE VIEW w AS SELECT direct()").unwrap();
        assert_eq!(found(&conn), ["the view w: direct()"]);
    }
}
