//! SQL of the schema that needs double-quoted strings.
//!
//! SQLite takes `"x"` for a name, or for a string if no column has that name and the connection accepts such strings
//! (`SQLITE_DBCONFIG_DQS_DML`, `SQLITE_DBCONFIG_DQS_DDL`). Their default depends on how SQLite was built, and is mostly
//! *on*; larder turns both off. What the schema says already is another matter. SQLite resolves the names in a table or
//! an index as it reads the schema, always with strings accepted; but it resolves those in a view or a trigger when a
//! statement uses them, and `VACUUM` and `ALTER` parse all of the schema again, under the rules of the connection.
//!
//! Whether `"x"` is a name depends on everything that it could be the name of, so SQLite is asked: each object whose text
//! may have such a string is compiled on a scratch connection in memory, without and with them. If the results differ,
//! the object has one. The scratch connection has the tables and views of the schema, and stands in for functions,
//! collations and virtual tables that it does not know. An object that it can compile in neither way is not reported.

use std::collections::HashMap;

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::{SchemaObject, column_names, probes};
use crate::connection::authorizer::SqlGuard;
use crate::connection::c_api;
use crate::connection::connect::connect_to_nothing;
use crate::connection::sql_text::{quoted, tokens, unquoted};
use crate::error::message;

/// The maximum number of functions and collations that a scratch connection stands in for.
const MAX_STUBS: usize = 100;

/// Runs `f` with double-quoted strings accepted, which `VACUUM` and `ALTER TABLE` need for a schema that has some.
///
/// SQLite expires all statements of the connection when it changes a setting.
pub(crate) fn with_double_quoted_strings<T>(conn: &Connection, guard: &SqlGuard, f: impl FnOnce() -> T) -> T {
    struct Back<'a>(&'a Connection, &'a SqlGuard, [bool; 2]);
    impl Drop for Back<'_> {
        fn drop(&mut self) {
            accept(self.0, self.2);
            self.1.expired_statements();
        }
    }
    let before = accepted(conn);
    if before == [true; 2] {
        return f();
    }
    let _back = Back(conn, guard, before);
    accept(conn, [true; 2]);
    f()
}

/// Whether the connection accepts double-quoted strings in all SQL.
pub(crate) fn accepts_double_quoted_strings(conn: &Connection) -> bool {
    accepted(conn) == [true; 2]
}

const SETTINGS: [DbConfig; 2] = [DbConfig::SQLITE_DBCONFIG_DQS_DML, DbConfig::SQLITE_DBCONFIG_DQS_DDL];

fn accepted(conn: &Connection) -> [bool; 2] {
    SETTINGS.map(|setting| conn.db_config(setting).unwrap_or_default())
}

/// The setting fails only for an SQLite that does not know it.
fn accept(conn: &Connection, values: [bool; 2]) {
    for (setting, value) in SETTINGS.into_iter().zip(values) {
        let _ = conn.set_db_config(setting, value);
    }
}

/// The objects of the schema that have a double-quoted string.
pub(crate) fn with_strings(conn: &Connection) -> rusqlite::Result<Vec<SchemaObject>> {
    let any = "SELECT EXISTS (SELECT 1 FROM main.sqlite_schema WHERE instr(sql, '\"'))";
    if !conn.query_row(any, [], |row| row.get::<_, bool>(0))? {
        return Ok(Vec::new());
    }
    with_strings_among(conn, &SchemaObject::read(conn)?, |_| true)
}

/// Those of the wanted objects that have a double-quoted string, in a schema that consists of `all`. The connection
/// knows the columns of its virtual tables.
pub(crate) fn with_strings_among(
    conn: &Connection,
    all: &[SchemaObject],
    wanted: impl Fn(&SchemaObject) -> bool,
) -> rusqlite::Result<Vec<SchemaObject>> {
    let tables = all.iter().filter(|object| object.kind == "table");
    let tables: Tables<'_> = tables.map(|table| (table.name.to_ascii_lowercase(), table)).collect();
    let suspects = all
        .iter()
        .filter(|object| wanted(object) && object.may_have_string(&tables));
    let suspects: Vec<&SchemaObject> = suspects.collect();
    if suspects.is_empty() {
        return Ok(Vec::new());
    }
    let scratch = Scratch::new()?;
    if suspects.iter().any(|object| object.is_code()) {
        scratch.create_all(conn, all, &suspects);
    }
    let found = suspects
        .into_iter()
        .filter(|object| scratch.has_string(&tables, object));
    Ok(found.cloned().collect())
}

impl SchemaObject {
    /// Whether some `"x"` in it may be a string, by a look at its tokens.
    fn may_have_string(&self, tables: &Tables<'_>) -> bool {
        if !self.sql.contains('"') || self.is_virtual() {
            return false;
        }
        let is = |word: &'static [&str]| move |token: &&str| !word.iter().any(|word| token.eq_ignore_ascii_case(word));
        match self.kind.as_str() {
            "view" => tokens(&self.sql).skip_while(is(&["as"])).any(is_double_quoted),
            "trigger" => tokens(&self.sql)
                .skip_while(is(&["when", "begin"]))
                .any(is_double_quoted),
            // In an expression, the name of a column of the table is that column.
            _ => {
                let columns = tables
                    .get(&self.table.to_ascii_lowercase())
                    .map(|table| columns_of(&table.sql));
                let columns = columns.unwrap_or_default();
                let mut inside = expressions(&self.sql, self.kind == "table");
                inside.any(|token| is_double_quoted(token) && !columns.contains(&unquoted(token).to_ascii_lowercase()))
            }
        }
    }
}

fn is_double_quoted(token: &str) -> bool {
    token.starts_with('"')
}

/// The tokens in parentheses; of a table, those within two, because the first hold its columns. What follows the
/// parentheses of an index is its condition.
fn expressions(sql: &str, of_table: bool) -> impl Iterator<Item = &str> {
    let (mut depth, mut deepest) = (0, 0);
    tokens(sql).filter(move |token| {
        depth += i32::from(*token == "(") - i32::from(*token == ")");
        deepest = deepest.max(depth);
        if of_table { depth > 1 } else { deepest > 0 }
    })
}

/// The columns that a `CREATE TABLE` defines, in lower case.
fn columns_of(sql: &str) -> Vec<String> {
    const CONSTRAINTS: [&str; 5] = ["constraint", "primary", "unique", "check", "foreign"];
    let (mut depth, mut begins) = (0, false);
    let mut columns = Vec::new();
    for token in tokens(sql) {
        if begins && depth == 1 && !CONSTRAINTS.iter().any(|keyword| token.eq_ignore_ascii_case(keyword)) {
            columns.push(unquoted(token).to_ascii_lowercase());
        }
        begins = depth <= 1 && (token == "(" || token == ",");
        depth += i32::from(token == "(") - i32::from(token == ")");
    }
    columns
}

/// Tables by their names in lower case.
type Tables<'a> = HashMap<String, &'a SchemaObject>;

/// A connection in memory on which objects of a schema are compiled.
struct Scratch {
    conn: Connection,
}

impl Scratch {
    fn new() -> rusqlite::Result<Self> {
        let conn = connect_to_nothing()?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, true)?;
        accept(&conn, [true; 2]);
        Ok(Self { conn })
    }

    /// Creates all tables, views and triggers but the triggers that are to be looked at. What cannot be created is left
    /// out; then nothing that needs it compiles.
    fn create_all(&self, real: &Connection, all: &[SchemaObject], suspects: &[&SchemaObject]) {
        for object in all {
            match object.kind.as_str() {
                "table" => self.create_table(real, object),
                "view" => drop(self.try_execute(&object.sql)),
                _ => {}
            }
        }
        for object in all {
            if object.kind == "trigger" && !suspects.contains(&object) {
                let _ = self.try_execute(&object.sql);
            }
        }
    }

    /// A virtual table is represented by a table with the same columns, which only the real connection knows.
    fn create_table(&self, real: &Connection, table: &SchemaObject) {
        if !table.is_virtual() && self.try_execute(&table.sql).is_ok() {
            return;
        }
        let columns = column_names(real, &table.name, "<> -1").unwrap_or_default();
        let columns: Vec<_> = columns.iter().map(|column| quoted(column)).collect();
        let _ = self.try_execute(&format!("CREATE TABLE {}({})", quoted(&table.name), columns.join(",")));
    }

    /// Whether the object compiles differently without double-quoted strings.
    fn has_string(&self, tables: &Tables<'_>, object: &SchemaObject) -> bool {
        let name = quoted(&object.name);
        match object.kind.as_str() {
            "view" => self.differs(|| self.try_prepare(&format!("SELECT * FROM {name}"))),
            "trigger" => {
                if self.try_execute(&object.sql).is_err() {
                    return false;
                }
                let found = probes(&self.conn, &object.table)
                    .iter()
                    .any(|sql| self.differs(|| self.try_prepare(sql)));
                let _ = self.conn.execute_batch(&format!("DROP TRIGGER {name}"));
                found
            }
            kind => {
                let table = tables.get(&object.table.to_ascii_lowercase());
                if let Some(table) = table.filter(|_| kind == "index") {
                    // It may be there already.
                    let _ = self.try_execute(&table.sql);
                }
                let _ = self.conn.execute_batch(&format!("DROP {kind} IF EXISTS {name}"));
                self.differs(|| self.try_execute(&object.sql))
            }
        }
    }

    /// Whether `compile` fails without double-quoted strings, and succeeds or fails in another way with them.
    fn differs(&self, compile: impl Fn() -> rusqlite::Result<()>) -> bool {
        accept(&self.conn, [false; 2]);
        let without = compile();
        accept(&self.conn, [true; 2]);
        without.is_err() && without != compile()
    }

    fn try_prepare(&self, sql: &str) -> rusqlite::Result<()> {
        self.with_stubs(|| self.conn.prepare(sql).map(drop))
    }

    fn try_execute(&self, sql: &str) -> rusqlite::Result<()> {
        self.with_stubs(|| self.conn.prepare(sql)?.raw_execute().map(drop))
    }

    /// Runs `compile` until it fails for another reason than an unknown function or collation.
    fn with_stubs(&self, compile: impl Fn() -> rusqlite::Result<()>) -> rusqlite::Result<()> {
        for _ in 0..MAX_STUBS {
            match compile() {
                Err(error) if self.stand_in(&error) => {}
                other => return other,
            }
        }
        compile()
    }

    /// Defines the function or the collation that the error misses.
    fn stand_in(&self, error: &rusqlite::Error) -> bool {
        let message = message(error);
        let after = |prefix| message.strip_prefix(prefix);
        let function = after("no such function: ").or(after("wrong number of arguments to function "));
        let defined = if let Some(function) = function {
            c_api::define_stub_function(&self.conn, function.trim_end_matches("()"))
        } else if let Some(collation) = after("no such collation sequence: ") {
            c_api::define_stub_collation(&self.conn, collation)
        } else {
            return false;
        };
        defined.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::options::Role;

    /// A connection whose schema was made with double-quoted strings accepted.
    fn made(sql: &str) -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        accept(&conn, [true; 2]);
        conn.execute_batch(sql).unwrap();
        accept(&conn, [false; 2]);
        conn
    }

    #[track_caller]
    fn assert_found(sql: &str, expected: &[&str]) {
        let found = with_strings(&made(sql)).unwrap();
        let told: Vec<_> = found.iter().map(SchemaObject::described).collect();
        assert_eq!(told, expected, "{sql}");
    }

    #[test]
    fn object_with_double_quoted_string_is_found() {
        for (sql, expected) in [
            ("CREATE TABLE t(a, CHECK (a <> \"x\"))", "the table t"),
            ("CREATE TABLE t(a, CHECK (a <> \"t\"))", "the table t"),
            ("CREATE TABLE t(a, b AS (a || \"x\"))", "the table t"),
            (
                "CREATE TABLE t(a, b GENERATED ALWAYS AS (coalesce(a, \"x\")) STORED)",
                "the table t",
            ),
            ("CREATE TABLE t(a, b); CREATE INDEX i ON t(\"c\")", "the index i"),
            (
                "CREATE TABLE t(a, b); CREATE INDEX i ON t(a, b || \"c\")",
                "the index i",
            ),
            (
                "CREATE TABLE t(a, b); CREATE INDEX i ON t(a) WHERE b = \"c\"",
                "the index i",
            ),
            (
                "CREATE TABLE t(a); CREATE VIEW v AS SELECT * FROM t WHERE a = \"x\"",
                "the view v",
            ),
            (
                "CREATE TABLE t(a); CREATE VIEW v(\"x\") AS SELECT \"y\" FROM t",
                "the view v",
            ),
            ("CREATE VIEW v AS SELECT \"y\"", "the view v"),
            (
                "CREATE TABLE t(a, x); CREATE TABLE u(a); CREATE VIEW v AS SELECT u.a, \"x\" FROM u",
                "the view v",
            ),
            (
                "CREATE TABLE t(a); CREATE TRIGGER r AFTER INSERT ON t BEGIN UPDATE t SET a = \"x\"; END",
                "the trigger r",
            ),
            (
                "CREATE TABLE t(a); CREATE TRIGGER r BEFORE DELETE ON t WHEN old.a = \"x\" BEGIN SELECT 1; END",
                "the trigger r",
            ),
            (
                "CREATE TABLE t(a, b AS (a)); CREATE TRIGGER r AFTER UPDATE OF a ON t BEGIN SELECT \"x\"; END",
                "the trigger r",
            ),
            (
                "CREATE TABLE t(a); CREATE VIEW v AS SELECT a FROM t;
                 CREATE TRIGGER r INSTEAD OF INSERT ON v BEGIN INSERT INTO t VALUES (\"x\"); END",
                "the trigger r",
            ),
        ] {
            assert_found(sql, &[expected]);
        }
    }

    #[test]
    fn name_in_double_quotes_is_no_string() {
        assert_found(
            "CREATE TABLE \"t\"(\"a\" INTEGER PRIMARY KEY, \"b c\" TEXT NOT NULL DEFAULT \"\" COLLATE \"NOCASE\",
                \"d\" \"NUMERIC\" REFERENCES \"t\" (\"a\"), \"e\" AS (\"a\" + \"d\"), \"f\" DEFAULT \"none\",
                CONSTRAINT \"one\" CHECK (\"d\" >= 0 AND \"B C\" <> ''), CONSTRAINT \"two\" UNIQUE (\"d\", \"b c\"),
                FOREIGN KEY (\"d\") REFERENCES \"t\" (\"a\"));
             CREATE TABLE \"other\"([a], `b`, 'c', \"rowid\", CHECK (\"a\" + \"b\" + \"c\" + \"oid\"));
             CREATE INDEX \"i\" ON \"t\" (\"d\" DESC, lower(\"b c\")) WHERE \"d\" IS NOT NULL;
             CREATE VIEW \"v\" AS SELECT \"t\".\"a\" AS \"x\", \"s\".\"d\", max(\"s\".\"e\") OVER \"w\" FROM \"t\" AS \"s\"
                JOIN \"t\" USING (\"a\") WHERE \"x\" > 1 WINDOW \"w\" AS (PARTITION BY \"s\".\"a\");
             CREATE VIEW \"of cte\" AS WITH \"c\" (\"n\") AS (SELECT \"a\" FROM \"t\") SELECT \"n\" FROM \"c\";
             CREATE TRIGGER \"r\" AFTER UPDATE OF \"d\" ON \"t\" WHEN \"new\".\"d\" > \"old\".\"d\" BEGIN
                INSERT INTO \"t\" (\"a\", \"b c\") SELECT \"a\", \"new\".\"b c\" FROM \"t\" WHERE \"d\" = \"new\".\"a\";
                DELETE FROM \"t\" WHERE \"a\" = \"old\".\"a\"; END;
             CREATE TRIGGER \"r2\" INSTEAD OF INSERT ON \"v\" BEGIN
                INSERT INTO \"t\" (\"a\") VALUES (\"new\".\"x\"); END;
             CREATE VIRTUAL TABLE \"f\" USING fts5(\"body\", tokenize = \"porter\");
             CREATE VIEW \"g\" AS SELECT \"body\", \"rank\" FROM \"f\" WHERE \"f\" MATCH 'a';
             CREATE TRIGGER \"r3\" AFTER DELETE ON \"t\" BEGIN
                INSERT INTO \"f\" (\"f\", \"rowid\", \"body\") VALUES ('delete', \"old\".\"a\", \"old\".\"b c\"); END;",
            &[],
        );
    }

    #[test]
    fn broken_object_is_not_reported_as_string() {
        let conn = made(
            "CREATE TABLE t(a); CREATE VIEW gone AS SELECT \"a\", nosuch FROM t;
             CREATE VIEW of_nothing AS SELECT \"a\" FROM nowhere;
             CREATE TRIGGER r AFTER INSERT ON t BEGIN INSERT INTO nowhere VALUES (\"new\".\"a\"); END",
        );
        assert_eq!(with_strings(&conn).unwrap(), []);
    }

    #[test]
    fn each_object_is_judged_alone() {
        assert_found(
            "CREATE TABLE t(a);
             CREATE VIEW bad AS SELECT \"x\" AS y FROM t;
             CREATE VIEW good AS SELECT \"a\" FROM t;
             CREATE TRIGGER r1 AFTER INSERT ON t BEGIN SELECT \"new\".\"a\"; END;
             CREATE TRIGGER r2 AFTER INSERT ON t BEGIN SELECT \"x\"; END;
             CREATE TRIGGER r3 AFTER INSERT ON t BEGIN SELECT 'x' FROM \"t\"; END;",
            &["the view bad", "the trigger r2"],
        );
    }

    #[test]
    fn unknown_functions_and_collations_do_not_hide_strings() {
        let conn = made("CREATE TABLE t(a)");
        c_api::define_stub_function(&conn, "mine").unwrap();
        c_api::define_stub_function(&conn, "abs").unwrap();
        c_api::define_stub_collation(&conn, "by length").unwrap();
        accept(&conn, [true; 2]);
        conn.execute_batch(
            "CREATE TABLE u(b COLLATE \"by length\", CHECK (mine(b, 1) <> \"x\"), CHECK (\"b\" <> mine()));
             CREATE TABLE w(b COLLATE \"by length\", CHECK (mine(\"b\", 1)));
             CREATE VIEW v AS SELECT abs(a, mine(), \"x\") FROM t ORDER BY a COLLATE \"by length\";
             CREATE TRIGGER r AFTER INSERT ON w BEGIN SELECT mine(\"x\"); END;",
        )
        .unwrap();
        let found = with_strings(&conn).unwrap();
        let told: Vec<_> = found.iter().map(SchemaObject::described).collect();
        assert_eq!(told, ["the table u", "the view v", "the trigger r"]);
    }

    #[test]
    fn vacuum_and_rename_accept_strings_of_schema() {
        let conn = made(
            "CREATE TABLE t(a, b, CHECK (a <> \"x\")); CREATE INDEX i ON t(b) WHERE a = \"y\";
             CREATE VIEW v AS SELECT \"z\" AS z FROM t",
        );
        let guard = SqlGuard::install(&conn, Role::Writer, BTreeSet::new()).unwrap();
        let run = |sql: &str| guard.as_internal(|| conn.execute_batch(sql));
        assert!(run("VACUUM").is_err());
        assert!(run("ALTER TABLE t RENAME COLUMN b TO c").is_err());
        with_double_quoted_strings(&conn, &guard, || run("VACUUM")).unwrap();
        with_double_quoted_strings(&conn, &guard, || run("ALTER TABLE t RENAME COLUMN b TO c")).unwrap();
        assert!(!accepts_double_quoted_strings(&conn));
        assert!(conn.prepare("SELECT \"nothing\" FROM t").is_err());
    }
}
