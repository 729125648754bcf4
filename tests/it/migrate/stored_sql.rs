//! Migrations of schemas that were made elsewhere, and migrations that would make such schemas.

use std::path::Path;

use larder::rusqlite::Connection;
use larder::rusqlite::config::DbConfig;
use larder::rusqlite::functions::FunctionFlags;
use larder::{DryRun, Error, Migration, MigrationError, Migrations, Options, Store};
use tempfile::tempdir;

use crate::support::migrations::{contents, set, texts};

/// A database whose schema has double-quoted strings.
fn make(path: &Path) {
    let conn = Connection::open(path).unwrap();
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, true).unwrap();
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, true).unwrap();
    conn.execute_batch(
        "CREATE TABLE orders(id INTEGER PRIMARY KEY, state TEXT CHECK (state <> \"gone\"));
         CREATE TABLE log(line);
         CREATE INDEX by_state ON orders(state) WHERE state <> \"done\";
         CREATE VIEW open_orders AS SELECT id, \"open\" AS kind FROM orders;
         CREATE TRIGGER logged AFTER INSERT ON log BEGIN INSERT INTO orders(state) VALUES (\"new\"); END;
         INSERT INTO orders VALUES (1, 'new');",
    )
    .unwrap();
}

#[test]
fn migration_alters_and_vacuums_schema_with_strings() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    make(&path);
    let migrations = Migrations::new([
        Migration::new(
            1,
            "alter",
            "-- comments may precede it
             ALTER TABLE orders RENAME COLUMN state TO status;
             /* and */ alter table log ADD COLUMN \"at\" TEXT DEFAULT \"none\";
             ALTER TABLE log RENAME TO journal;
             ALTER TABLE orders RENAME TO \"all orders\";",
        )
        .down(
            "ALTER TABLE \"all orders\" RENAME TO orders; ALTER TABLE journal RENAME TO log;
             ALTER TABLE log DROP COLUMN \"at\"; ALTER TABLE orders RENAME COLUMN status TO state",
        ),
        Migration::new(2, "vacuum", "VACUUM").without_transaction(),
        Migration::new(
            3,
            "rebuild",
            "CREATE TABLE \"new\"(\"id\" INTEGER PRIMARY KEY, \"status\" TEXT CHECK (\"status\" <> 'gone')) STRICT;
             INSERT INTO \"new\" SELECT \"id\", \"status\" FROM \"all orders\";
             DROP VIEW open_orders; DROP TRIGGER logged;
             DROP TABLE \"all orders\"; ALTER TABLE \"new\" RENAME TO \"all orders\";
             CREATE VIEW open_orders AS SELECT \"id\", 'open' AS \"kind\" FROM \"all orders\";",
        ),
    ])
    .at_open(false);
    let store = Options::new().migrations(migrations).open(&path).unwrap();
    for copy in [DryRun::Schema, DryRun::Backup] {
        assert_eq!(store.migrate_dry_run(copy).unwrap().steps.len(), 3);
    }
    store.migrate_to(1).unwrap();
    store.migrate_to(0).unwrap();
    store.migrate().unwrap();
    assert_eq!(texts(&store, "SELECT kind FROM open_orders"), ["open"]);
    let advice = store.advice();
    assert!(
        advice.iter().all(|finding| finding.topic != "double_quoted_string"),
        "{advice:#?}"
    );
    let misspelt = store.read(|tx| tx.query_row("SELECT \"nothing\" FROM journal", [], |_| Ok(())));
    assert!(misspelt.unwrap_err().to_string().contains("no such column"));
}

#[test]
fn migration_that_creates_double_quoted_string_is_refused() {
    const TABLE: &str = "CREATE TABLE t(a); CREATE VIEW good AS SELECT \"a\" FROM t";
    for (sql, object) in [
        ("CREATE VIEW v AS SELECT \"x\" FROM t", "the view v"),
        (
            "CREATE VIEW IF NOT EXISTS main.\"my view\" AS SELECT \"x\"",
            "the view my view",
        ),
        (
            "create trigger r AFTER INSERT ON t BEGIN UPDATE t SET a = \"x\"; END",
            "the trigger r",
        ),
        (
            "CREATE TRIGGER r AFTER DELETE ON t WHEN old.a = \"x\" BEGIN SELECT 1; END",
            "the trigger r",
        ),
        ("ALTER TABLE t ADD COLUMN b CHECK (b <> \"x\")", "the table t"),
        ("CREATE TABLE u(a, CHECK (a <> \"x\"))", "\"x\""),
        ("CREATE INDEX i ON t(a) WHERE a = \"x\"", "\"x\""),
        ("CREATE INDEX i ON t(\"x\")", "\"x\""),
        (
            "SELECT 1; DROP VIEW good; CREATE VIEW good AS SELECT \"x\" FROM t; SELECT 2",
            "the view good",
        ),
    ] {
        let store = Options::new().migrations(set([TABLE, sql])).open_temp().unwrap();
        store.migrate_to(1).unwrap();
        let before = contents(&store);
        let error = store.migrate().unwrap_err();
        let told = error.to_string();
        assert!(
            told.contains(object) && told.contains("Options::double_quoted_strings"),
            "{sql}: {told}"
        );
        let Error::Migration(error) = error else {
            panic!("{error:?}")
        };
        assert!(
            matches!(
                *error,
                MigrationError::Failed {
                    version: 2,
                    kept: 0,
                    ..
                }
            ),
            "{error:?}"
        );
        assert_eq!(contents(&store), before, "{sql}");
        let options = Options::new().double_quoted_strings(true).migrations(set([TABLE, sql]));
        let store = options.open_temp().unwrap();
        store.migrate().unwrap();
    }
}

#[test]
fn migration_with_quoted_names_is_no_string() {
    let migrations = set([
        "CREATE TABLE \"t\"(\"id\" INTEGER PRIMARY KEY, \"a\" TEXT DEFAULT \"none\" CHECK (\"a\" <> '')) STRICT",
        "ALTER TABLE \"t\" ADD COLUMN \"b\" INTEGER CHECK (\"b\" > 0); CREATE INDEX \"i\" ON \"t\"(\"b\") WHERE \"a\" > ''",
        "CREATE VIEW \"v\" AS SELECT \"x\".\"a\" AS \"c\" FROM \"t\" AS \"x\" WHERE \"c\" IS NOT NULL ORDER BY \"c\"",
        "CREATE TRIGGER \"r\" AFTER UPDATE OF \"a\" ON \"t\" WHEN \"new\".\"b\" > 1 BEGIN
             UPDATE \"t\" SET \"b\" = \"new\".\"b\" + 1 WHERE \"id\" = \"old\".\"id\"; END",
        "ALTER TABLE \"t\" RENAME COLUMN \"b\" TO \"d\"; ALTER TABLE \"t\" RENAME TO \"u\"",
        "CREATE VIRTUAL TABLE \"f\" USING fts5(\"body\"); CREATE VIEW \"w\" AS SELECT \"body\", \"rank\" FROM \"f\"",
    ]);
    let store = Options::new().migrations(migrations).open_temp().unwrap();
    store.migrate().unwrap();
}

#[test]
fn unsafe_function_in_migration_is_explained() {
    let migrations = Migrations::new([Migration::new(
        1,
        "pages",
        "CREATE VIEW pages AS SELECT * FROM dbstat; CREATE TABLE t AS SELECT * FROM pages",
    )]);
    let error = Options::new().migrations(migrations).open_temp().unwrap_err();
    let told = error.to_string();
    assert!(
        told.contains("unsafe use of virtual table") && told.contains("Options::trusted_schema"),
        "{told}"
    );
}

#[test]
fn vacuum_of_unsafe_tables_is_explained() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let define = |conn: &Connection| {
        let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
        conn.create_scalar_function("mine", 1, flags, |_| Ok(1))
    };
    let conn = Connection::open(&path).unwrap();
    define(&conn).unwrap();
    conn.execute_batch("CREATE TABLE t(a CHECK (mine(a))); INSERT INTO t VALUES (1)")
        .unwrap();
    drop(conn);
    let vacuum = Migration::new(1, "vacuum", "SELECT 1; VACUUM").without_transaction();
    let migrations = Migrations::new([vacuum]).at_open(false);
    let options = Options::new().migrations(migrations);
    let options = options.on_connect(move |conn, _| Ok(define(conn)?));
    let store = options.clone().open(&path).unwrap();
    let told = store.migrate().unwrap_err().to_string();
    for text in ["unsafe use of mine()", "Options::trusted_schema", "VACUUM"] {
        assert!(told.contains(text), "{told}");
    }
    assert!(!told.contains("restore"), "{told}");
    // Nothing is lost: the store works as before.
    let count =
        |store: &Store| store.write(|tx| tx.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)));
    assert_eq!(count(&store).unwrap(), 1);
    store.close().unwrap();
    let store = options.trusted_schema(true).open(&path).unwrap();
    store.migrate().unwrap();
    assert_eq!(count(&store).unwrap(), 1);
}

#[test]
fn nul_in_migration_is_refused_in_both_directions() {
    let up = Migration::new(1, "up", "CREATE TABLE t(a);\0CREATE TABLE u(a)");
    let down = Migration::new(1, "down", "CREATE TABLE t(a)").down("SELECT 1;\0DROP TABLE t");
    for migration in [up, down] {
        let error = Options::new()
            .migrations(Migrations::new([migration]))
            .open_temp()
            .unwrap_err();
        assert!(error.to_string().contains("NUL"), "{error}");
    }
    let file = ("001_t.sql", "CREATE TABLE t(a);\0CREATE TABLE u(a)");
    let refused = Migrations::files([file]).and_then(|set| Options::new().migrations(set).open_temp());
    assert!(refused.map(|_: Store| ()).unwrap_err().to_string().contains("NUL"));
}
