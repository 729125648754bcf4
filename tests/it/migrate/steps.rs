//! Single migration steps: what each one keeps, refuses and undoes, and the state after a failure.

use larder::rusqlite::Connection;
use larder::{
    Access, Direction, Error, Migration, MigrationError, MigrationReport, Migrations, Options, Outcome, Result, Store,
};
use tracing::Level;

use crate::support::migrations::{
    FAMILY, after_first, applied, assert_has, contents, made_by, migration_error, numbers, pending, pragma_of_writer,
    rolled_back, set, steps, store_of, texts,
};
use crate::support::{count, log};

// ---- a rebuild ----

const CHILDREN: [&str; 4] = ["cascading", "nulling", "strictly", "late"];

/// The parent is rebuilt, and no child has noticed.
fn rebuilds_the_parent(rebuild: &'static str) {
    let store = after_first([FAMILY, rebuild]);
    store.migrate().unwrap();
    assert_eq!(
        texts(&store, "SELECT name || more FROM parent ORDER BY id"),
        ["anew", "bnew"]
    );
    for child in CHILDREN {
        let rows = store.read(|tx| {
            let sql = format!("SELECT p FROM {child} ORDER BY id");
            tx.query_map(&sql, [], |row| row.get::<_, Option<i64>>(0))
        });
        assert_eq!(rows.unwrap(), [Some(1), Some(2)], "{child}");
        let orphan = store.write(move |tx| tx.execute(&format!("INSERT INTO {child} VALUES (99, 99)"), []));
        assert_has(&orphan.unwrap_err().to_string(), &["FOREIGN KEY constraint failed"]);
    }
    store.write(|tx| tx.execute("DELETE FROM strictly", [])).unwrap();
    store.write(|tx| tx.execute("DELETE FROM late", [])).unwrap();
    store
        .write(|tx| tx.execute("DELETE FROM parent WHERE id = 1", []))
        .unwrap();
    assert_eq!(
        numbers(&store, "SELECT p FROM cascading"),
        [2],
        "the children's actions are there still"
    );
    assert_eq!(pragma_of_writer(&store, "foreign_keys"), 1);
    // With legacy_alter_table the view would keep the old name.
    let view = store.write(|tx| {
        tx.execute_batch("CREATE VIEW v AS SELECT * FROM parent; ALTER TABLE parent RENAME TO renamed")?;
        tx.query_row("SELECT sql FROM sqlite_schema WHERE name = 'v'", [], |row| {
            row.get::<_, String>(0)
        })
    });
    assert_has(&view.unwrap(), &["renamed"]);
}

#[test]
fn rebuild_of_parent_keeps_its_children() {
    rebuilds_the_parent(
        "CREATE TABLE parent_new(id INTEGER PRIMARY KEY, name TEXT, more TEXT NOT NULL) STRICT;
         INSERT INTO parent_new SELECT id, name, 'new' FROM parent;
         DROP TABLE parent;
         ALTER TABLE parent_new RENAME TO parent;",
    );
}

#[test]
fn rebuild_may_contain_the_usual_pragmas() {
    for settings in [
        [
            "PRAGMA foreign_keys=OFF;",
            "PRAGMA foreign_key_check; PRAGMA foreign_keys=ON;",
        ],
        [
            "PRAGMA foreign_keys = 0; PRAGMA foreign_keys;",
            "PRAGMA foreign_keys = 1;",
        ],
        ["PRAGMA foreign_keys=ON;", "PRAGMA foreign_keys=OFF;"],
        ["PRAGMA defer_foreign_keys=ON;", "PRAGMA foreign_key_check(parent);"],
        ["PRAGMA defer_foreign_keys=ON;", "PRAGMA defer_foreign_keys=OFF;"],
        [
            "PRAGMA legacy_alter_table=ON; PRAGMA foreign_keys=OFF;",
            "PRAGMA foreign_keys=ON;",
        ],
        ["PRAGMA journal_mode=WAL;", "PRAGMA integrity_check;"],
    ] {
        let rebuild = format!(
            "{}
             CREATE TABLE parent_new(id INTEGER PRIMARY KEY, name TEXT, more TEXT NOT NULL) STRICT;
             INSERT INTO parent_new SELECT id, name, 'new' FROM parent;
             DROP TABLE parent;
             ALTER TABLE parent_new RENAME TO parent;
             {}",
            settings[0], settings[1]
        );
        rebuilds_the_parent(rebuild.leak());
    }
}

/// Before 3.25 everybody renamed the old table first. With `legacy_alter_table` the children's references stay.
#[test]
fn rebuild_in_old_order_needs_legacy_alter_table() {
    rebuilds_the_parent(
        "PRAGMA legacy_alter_table=ON;
         ALTER TABLE parent RENAME TO parent_old;
         CREATE TABLE parent(id INTEGER PRIMARY KEY, name TEXT, more TEXT NOT NULL) STRICT;
         INSERT INTO parent SELECT id, name, 'new' FROM parent_old;
         DROP TABLE parent_old;",
    );
}

/// Without `legacy_alter_table` they are rewritten to the old table, which is dropped.
#[test]
fn rebuild_that_cuts_off_children_is_refused() {
    let store = after_first([
        FAMILY,
        "ALTER TABLE parent RENAME TO parent_old;
         CREATE TABLE parent(id INTEGER PRIMARY KEY, name TEXT) STRICT;
         INSERT INTO parent SELECT * FROM parent_old;
         DROP TABLE parent_old;",
    ]);
    let before = contents(&store);
    let message = rolled_back(store.migrate());
    assert_has(
        &message,
        &[
            "migration 2 (step 2) leaves foreign keys without a parent row: ",
            "cascading row 11 -> parent_old",
            "(12 in all); it was rolled back",
        ],
    );
    for child in CHILDREN {
        assert_has(
            &message,
            &[&format!(
                "{child} -> parent_old, which no longer exists (a rename changed the reference)"
            )],
        );
    }
    assert_eq!(contents(&store), before);
}

/// With no rows in them `foreign_key_check` finds nothing, and the first insert ever after failed.
#[test]
fn migration_that_orphans_empty_table_is_refused() {
    const EMPTY: &str = "
        CREATE TABLE parent(id INTEGER PRIMARY KEY) STRICT;
        CREATE TABLE child(id INTEGER PRIMARY KEY, p INTEGER REFERENCES parent(id)) STRICT;";
    for (sql, lost) in [
        (
            "ALTER TABLE parent RENAME TO parent_old;
             CREATE TABLE parent(id INTEGER PRIMARY KEY, name TEXT) STRICT;
             DROP TABLE parent_old;",
            "child -> parent_old, which no longer exists (a rename changed the reference)",
        ),
        (
            "ALTER TABLE parent RENAME TO a; ALTER TABLE a RENAME TO b; DROP TABLE b;
             CREATE TABLE parent(id INTEGER PRIMARY KEY) STRICT;
             CREATE TABLE forward(id INTEGER PRIMARY KEY, l INTEGER REFERENCES late(id)) STRICT;",
            "child -> b, which no longer exists (a rename changed the reference)",
        ),
    ] {
        let store = after_first([EMPTY, sql]);
        let before = contents(&store);
        let message = rolled_back(store.migrate());
        assert_has(
            &message,
            &["migration 2 (step 2) leaves foreign keys without a parent row: ", lost],
        );
        match migration_error(store.migrate()) {
            MigrationError::ForeignKeys {
                violations,
                total,
                before,
                kept,
                ..
            } => assert_eq!((&violations[..], total, before, kept), (&[lost.into()][..], 1, 0, 0)),
            other => panic!("{sql}: {other:?}"),
        }
        assert_eq!(contents(&store), before);
        assert_eq!(pending(&store), [2]);
    }
}

/// That a parent is dropped by its own name is what it says, and may be made again later.
#[test]
fn parent_without_referring_rows_may_be_dropped() {
    let store = after_first([
        "CREATE TABLE parent(id INTEGER PRIMARY KEY) STRICT;
         CREATE TABLE child(id INTEGER PRIMARY KEY, p INTEGER REFERENCES parent(id)) STRICT;
         INSERT INTO child VALUES (1, NULL);",
        "DROP TABLE parent",
        "SELECT 1",
        "CREATE TABLE parent(id INTEGER PRIMARY KEY, name TEXT) STRICT; INSERT INTO parent VALUES (7, 'a')",
        "UPDATE child SET p = 7",
        "DROP TABLE parent",
    ]);
    store.migrate_to(5).unwrap();
    let orphan = store.write(|tx| tx.execute("INSERT INTO child VALUES (2, 8)", []));
    assert_has(&orphan.unwrap_err().to_string(), &["FOREIGN KEY constraint failed"]);
    let message = rolled_back(store.migrate());
    assert_has(
        &message,
        &[
            "migration 6 (step 6)",
            "without a parent row: child row 1 -> parent (1 in all)",
        ],
    );
    assert_eq!(numbers(&store, "SELECT p FROM child"), [7]);
}

#[test]
fn table_may_be_dropped_with_its_parent() {
    for list in [
        ["DROP TABLE child; DROP TABLE parent", "SELECT 1"],
        ["DROP TABLE parent; DROP TABLE child", "SELECT 1"],
        [
            "CREATE TABLE early(id INTEGER PRIMARY KEY, l INTEGER REFERENCES late(id)) STRICT",
            "ALTER TABLE early RENAME TO earlier",
        ],
        [
            "CREATE TABLE early(id INTEGER PRIMARY KEY, l INTEGER REFERENCES late(id)) STRICT; DROP TABLE child",
            "CREATE TABLE late(id INTEGER PRIMARY KEY) STRICT",
        ],
        [
            "ALTER TABLE parent RENAME TO elder",
            "ALTER TABLE child RENAME TO younger",
        ],
    ] {
        let store = after_first([
            "CREATE TABLE parent(id INTEGER PRIMARY KEY) STRICT;
             CREATE TABLE child(id INTEGER PRIMARY KEY, p INTEGER REFERENCES parent(id)) STRICT;",
            list[0],
            list[1],
        ]);
        store.migrate().unwrap_or_else(|error| panic!("{list:?}: {error}"));
        assert_eq!(applied(&store), [1, 2, 3]);
    }
}

/// It was refused: "child -> late, which no longer exists (a rename changed the reference)".
#[test]
fn table_may_get_second_parent_made_later() {
    let store = after_first([
        "CREATE TABLE parent(id INTEGER PRIMARY KEY) STRICT;
         CREATE TABLE child(id INTEGER PRIMARY KEY, p INTEGER REFERENCES parent(id)) STRICT;",
        "ALTER TABLE child ADD COLUMN l INTEGER REFERENCES late(id)",
        "CREATE TABLE late(id INTEGER PRIMARY KEY) STRICT",
    ]);
    store.migrate().unwrap();
    assert_eq!(applied(&store), [1, 2, 3]);
}

#[test]
fn rebuild_of_self_referring_table_keeps_rows() {
    let store = after_first([
        "CREATE TABLE t(id INTEGER PRIMARY KEY, up INTEGER REFERENCES t(id) ON DELETE CASCADE) STRICT;
         INSERT INTO t VALUES (1, NULL), (2, 1), (3, 2), (4, 4);",
        "CREATE TABLE t_new(id INTEGER PRIMARY KEY, up INTEGER REFERENCES t_new(id) ON DELETE CASCADE, more) STRICT;",
        "CREATE TABLE t_new(id INTEGER PRIMARY KEY, up INTEGER REFERENCES t_new(id) ON DELETE CASCADE, n ANY) STRICT;
         INSERT INTO t_new(id, up) SELECT id, up FROM t ORDER BY id DESC;
         DROP TABLE t;
         ALTER TABLE t_new RENAME TO t;",
    ]);
    assert_has(&rolled_back(store.migrate()), &["missing datatype"]);
    let store = after_first([
        "CREATE TABLE t(id INTEGER PRIMARY KEY, up INTEGER REFERENCES t(id) ON DELETE CASCADE) STRICT;
         INSERT INTO t VALUES (1, NULL), (2, 1), (3, 2), (4, 4);",
        "CREATE TABLE t_new(id INTEGER PRIMARY KEY, up INTEGER REFERENCES t_new(id) ON DELETE CASCADE, n ANY) STRICT;
         INSERT INTO t_new(id, up) SELECT id, up FROM t ORDER BY id DESC;
         DROP TABLE t;
         ALTER TABLE t_new RENAME TO t;",
    ]);
    store.migrate().unwrap();
    assert_eq!(numbers(&store, "SELECT id FROM t ORDER BY id"), [1, 2, 3, 4]);
    store.write(|tx| tx.execute("DELETE FROM t WHERE id = 1", [])).unwrap();
    assert_eq!(
        numbers(&store, "SELECT id FROM t"),
        [4],
        "the reference is to the table itself"
    );
}

#[test]
fn rebuild_keeps_views_triggers_and_indexes() {
    let store = after_first([
        "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT) STRICT;
         CREATE TABLE log(x TEXT) STRICT;
         CREATE INDEX t_x ON t(lower(x));
         CREATE VIEW v AS SELECT x FROM t;
         CREATE TRIGGER noting AFTER INSERT ON t BEGIN INSERT INTO log VALUES (new.x); END;
         INSERT INTO t VALUES (1, 'a;b');",
        "PRAGMA legacy_alter_table=ON; -- a view refers to the table that is dropped
         CREATE TABLE t_new(id INTEGER PRIMARY KEY, x TEXT NOT NULL) STRICT;
         INSERT INTO t_new SELECT * FROM t;
         DROP TABLE t;
         ALTER TABLE t_new RENAME TO t;
         CREATE INDEX t_x ON t(lower(x));
         CREATE TRIGGER noting AFTER INSERT ON t BEGIN
             INSERT INTO log VALUES ('; ' || new.x);
             SELECT 1;
         END;
         /* done; */",
    ]);
    store.migrate().unwrap();
    store
        .write(|tx| tx.execute("INSERT INTO t(x) VALUES ('c')", []))
        .unwrap();
    assert_eq!(texts(&store, "SELECT x FROM v"), ["a;b", "c"]);
    assert_eq!(texts(&store, "SELECT x FROM log"), ["a;b", "; c"]);
    assert_eq!(
        texts(
            &store,
            "SELECT name FROM sqlite_schema WHERE type = 'index' AND tbl_name = 't'"
        ),
        ["t_x"]
    );
}

// ---- foreign keys that point nowhere ----

#[test]
fn migration_leaving_dangling_foreign_keys_is_refused() {
    let store = after_first([FAMILY, "DELETE FROM parent WHERE id = 2"]);
    let before = contents(&store);
    let message = rolled_back(store.migrate());
    assert_has(
        &message,
        &[
            "migration 2 (step 2) leaves foreign keys without a parent row: ",
            "cascading row 12 -> parent",
            "nulling row 22 -> parent",
            "strictly row 32 -> parent",
            "late row 42 -> parent",
            "(4 in all); it was rolled back",
        ],
    );
    assert!(!message.contains("were there before"), "{message}");
    match migration_error(store.migrate()) {
        MigrationError::ForeignKeys {
            version,
            violations,
            total,
            before,
            kept,
            ..
        } => {
            assert_eq!((version, total, before, kept), (2, 4, 0, 0));
            assert_eq!(violations.len(), 4);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(contents(&store), before);
    let orphan = store.write(|tx| tx.execute("INSERT INTO cascading VALUES (99, 99)", []));
    orphan.unwrap_err();
}

#[test]
fn dangling_foreign_keys_few_named_all_counted() {
    let store = after_first([
        "CREATE TABLE p(id INTEGER PRIMARY KEY) STRICT;
         CREATE TABLE c(k TEXT PRIMARY KEY, p INTEGER REFERENCES p(id)) STRICT, WITHOUT ROWID;",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1000)
         INSERT INTO c SELECT 'k' || i, i FROM n",
    ]);
    match migration_error(store.migrate()) {
        MigrationError::ForeignKeys { violations, total, .. } => {
            assert_eq!(total, 1000);
            assert_eq!(violations, ["c -> p"; 5], "a table without rowids has none to name");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn foreign_keys_are_not_checked_when_off() {
    let migrations = set([FAMILY, "DELETE FROM parent WHERE id = 2"]);
    let options = Options::new().foreign_keys(false).migrations(migrations);
    let store = options.open_temp().unwrap();
    store.migrate().unwrap();
    assert_eq!(numbers(&store, "SELECT p FROM cascading"), [1, 2]);
    assert_eq!(pragma_of_writer(&store, "foreign_keys"), 0);
}

// ---- failures ----

/// Every way for a migration to fail in its transaction, and what its message has.
const FAILURES: &[(&str, &[&str])] = &[
    (
        "INSERT INTO t VALUES (3);\n\nINSERT INTO missing VALUES (1)",
        &["line 3", "no such table: missing"],
    ),
    (
        "UPDATE t SET id = id + 10;\nINSERT INTO t VALUES\n(3),\n(11)",
        &["line 2", "UNIQUE constraint failed: t.id"],
    ),
    (
        "CREATE TABLE more(x INTEGER) STRICT; SELEC 1",
        &["near \"SELEC\": syntax error", "statement 2"],
    ),
    (
        "WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n LIMIT 90)
         INSERT INTO t SELECT iif(i = 50, 'x', i) FROM n",
        &["line 1", "datatype mismatch"],
    ),
    ("DROP TABLE t; SELECT abs(-9223372036854775808)", &["integer overflow"]),
    (
        "INSERT OR ROLLBACK INTO t VALUES (5), (1)",
        &["UNIQUE constraint failed: t.id"],
    ),
    ("INSERT INTO guarded VALUES (1); SELECT 1", &["keep out"]),
    (
        "PRAGMA user_version = 9; DROP TABLE t; SELECT * FROM t",
        &["no such table: t"],
    ),
    (
        "PRAGMA foreign_keys=ON; DELETE FROM schema_migrations; DELETE FROM larder_migrations; SELECT x",
        &["column: x"],
    ),
    ("INSERT INTO t VALUES (?1)", &["no parameters"]),
    (
        "INSERT INTO t VALUES (3); COMMIT",
        &["COMMIT is refused", "in a transaction of its own"],
    ),
    (
        "INSERT INTO t VALUES (3); COMMIT; INSERT INTO t VALUES (4)",
        &["COMMIT is refused"],
    ),
    ("END", &["COMMIT is refused"]),
    (
        "BEGIN; INSERT INTO t VALUES (3); COMMIT",
        &["BEGIN is refused", "line 1", "statement 1: BEGIN"],
    ),
    ("BEGIN IMMEDIATE", &["BEGIN is refused"]),
    ("INSERT INTO t VALUES (3); ROLLBACK", &["ROLLBACK is refused"]),
    ("SAVEPOINT s; RELEASE s", &["SAVEPOINT is refused"]),
    ("RELEASE larder", &["RELEASE is refused"]),
    ("ROLLBACK TO s", &["ROLLBACK TO is refused"]),
    (
        "INSERT INTO t VALUES (3); VACUUM",
        &["VACUUM is refused", "transaction:false"],
    ),
    ("VACUUM INTO '/nowhere/x.db'", &["VACUUM is refused"]),
    ("ATTACH ':memory:' AS other", &["ATTACH is refused"]),
    ("DETACH main", &["DETACH is refused"]),
    ("PRAGMA writable_schema = ON", &["PRAGMA writable_schema is refused"]),
    ("PRAGMA journal_mode = DELETE", &["PRAGMA journal_mode is refused"]),
    ("PRAGMA synchronous = OFF", &["PRAGMA synchronous is refused"]),
    ("PRAGMA auto_vacuum = FULL", &["PRAGMA auto_vacuum is refused"]),
    (
        "INSERT INTO sqlite_schema VALUES ('table', 'x', 'x', 0, 'CREATE TABLE x(y)')",
        &["may not be modified"],
    ),
];

#[test]
fn failure_leaves_file_unchanged_and_names_the_place() {
    for (sql, parts) in FAILURES {
        let store = after_first([
            "CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT;
             CREATE TABLE guarded(x INTEGER) STRICT;
             CREATE TRIGGER guard BEFORE INSERT ON guarded BEGIN SELECT RAISE(ROLLBACK, 'keep out'); END;
             INSERT INTO t VALUES (1), (2);
             PRAGMA user_version = 3;",
            sql,
        ]);
        let before = contents(&store);
        let message = rolled_back(store.migrate());
        assert_has(&message, parts);
        assert_has(&message, &["migration 2 (step 2), line ", "it was rolled back"]);
        assert_eq!(contents(&store), before, "{sql}");
        assert_eq!((applied(&store), pending(&store)), (vec![1], vec![2]), "{sql}");
        assert_eq!(pragma_of_writer(&store, "foreign_keys"), 1, "{sql}");
        store.write(|tx| tx.execute("INSERT INTO t VALUES (77)", [])).unwrap();
        assert_eq!(numbers(&store, "SELECT id FROM t ORDER BY id"), [1, 2, 77], "{sql}");
        assert!(store.close().unwrap().wal_truncated, "{sql}");
    }
}

#[test]
fn failed_first_migration_leaves_empty_file_empty() {
    let store = store_of(set([
        "CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT; INSERT INTO t VALUES ('x')",
    ]));
    rolled_back(store.migrate());
    assert_eq!(texts(&store, "SELECT name FROM sqlite_schema"), [""; 0]);
}

#[test]
fn failed_open_keeps_earlier_migrations_and_continues() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let open = |third| {
        let list = [
            "CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT",
            "INSERT INTO t VALUES (1)",
            third,
            "INSERT INTO t VALUES (4)",
        ];
        Options::new().migrations(set(list).at_open(true)).open(&path)
    };
    for _ in 0..2 {
        let message = rolled_back(open("INSERT INTO t VALUES (3); INSERT INTO t VALUES (1)"));
        assert_has(&message, &["migration 3 (step 3)", "statement 2"]);
    }
    let store = open("INSERT INTO t VALUES (3)").unwrap();
    assert_eq!(numbers(&store, "SELECT id FROM t ORDER BY id"), [1, 3, 4]);
    assert_eq!(applied(&store), [1, 2, 3, 4]);
}

#[test]
fn failed_open_releases_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    for access in [Access::Shared, Access::Exclusive] {
        let options = Options::new().access(access);
        let failed = options.clone().migrations(set(["SELEC 1"]).at_open(true)).open(&path);
        assert_has(&rolled_back(failed), &["syntax error"]);
        options.open(&path).unwrap();
    }
    let left: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, ["app.db"], "no log is left");
}

#[test]
fn temporary_table_of_migration_is_gone_afterwards() {
    let store = after_first([
        "CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT; INSERT INTO t VALUES (1)",
        "CREATE TEMP TABLE keep AS SELECT id FROM t;
         CREATE TEMP TABLE schema_migrations(version);
         CREATE TEMP TABLE t(id);
         INSERT INTO main.t SELECT id + 1 FROM keep;",
        "CREATE TABLE keep(id INTEGER) STRICT; INSERT INTO t VALUES (3)",
    ]);
    store.migrate().unwrap();
    let temporary =
        store.write(|tx| tx.query_map("SELECT name FROM temp.sqlite_schema", [], |row| row.get::<_, String>(0)));
    assert_eq!(temporary.unwrap(), [""; 0]);
    assert_eq!(numbers(&store, "SELECT id FROM t"), [1, 2, 3]);
    assert_eq!(texts(&store, "SELECT version FROM schema_migrations"), ["1", "2", "3"]);
}

#[test]
fn temporary_table_of_failed_migration_is_gone() {
    let store = after_first([
        "CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT",
        "CREATE TEMP TABLE t(id); SELEC 1",
    ]);
    rolled_back(store.migrate());
    store.write(|tx| tx.execute("INSERT INTO t VALUES (1)", [])).unwrap();
    assert_eq!(count(&store), 1);
}

#[test]
fn migration_may_set_user_version() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let options = Options::new().migrations(set(["PRAGMA user_version = 5"]).at_open(true));
    for _ in 0..2 {
        let store = options.clone().open(&path).unwrap();
        assert_eq!(numbers(&store, "PRAGMA user_version"), [5]);
        assert_eq!(applied(&store), [1]);
    }
}

#[test]
fn migrations_work_with_exclusive_access() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let options = || Options::new().access(Access::Exclusive);
    let first = options().migrations(set([FAMILY]).at_open(true)).open(&path).unwrap();
    first.close().unwrap();
    let rebuild = "CREATE TABLE parent_new(id INTEGER PRIMARY KEY) STRICT;
                   INSERT INTO parent_new SELECT id FROM parent;
                   DROP TABLE parent;
                   ALTER TABLE parent_new RENAME TO parent;";
    let store = options()
        .migrations(set([FAMILY, rebuild]).at_open(true))
        .open(&path)
        .unwrap();
    assert_eq!(numbers(&store, "SELECT p FROM cascading"), [1, 2]);
    assert_eq!(applied(&store), [1, 2]);
}

// ---- STRICT ----

/// An old table that is not STRICT, made before anybody asked.
const OLD: &str = "CREATE TABLE old(id INTEGER PRIMARY KEY, x INTEGER); INSERT INTO old VALUES (1, 2)";

fn strict_after_old(next: &'static str) -> (tempfile::TempDir, Result<Store>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let options = |list| Options::new().migrations(Migrations::new(list));
    let first = Migration::new(1, "old", OLD);
    options(vec![first.clone()]).open(&path).unwrap();
    let opened = options(vec![first, Migration::new(2, "next", next)])
        .require_strict(true)
        .open(&path);
    (folder, opened)
}

#[test]
fn table_not_strict_is_refused_with_its_line() {
    for (sql, line, table) in [
        (
            "CREATE TABLE a(x INTEGER) STRICT;\n\nCREATE TABLE b(x INTEGER);\nCREATE TABLE c(x INTEGER)",
            3,
            "b",
        ),
        ("CREATE TABLE \"a b\"(x INTEGER PRIMARY KEY) WITHOUT ROWID", 1, "a b"),
        ("\nCREATE TABLE IF NOT EXISTS a(x)", 2, "a"),
        ("CREATE TABLE a AS SELECT * FROM old", 1, "a"),
        ("ALTER TABLE old RENAME TO older; CREATE TABLE old(x INTEGER)", 1, "old"),
        ("DROP TABLE old;\nCREATE TABLE old(x INTEGER)", 2, "old"),
        (
            "CREATE TABLE old_new(id INTEGER PRIMARY KEY, x INTEGER NOT NULL);
             INSERT INTO old_new SELECT * FROM old;
             DROP TABLE old;
             ALTER TABLE old_new RENAME TO old",
            1,
            "old_new",
        ),
    ] {
        let (_folder, opened) = strict_after_old(sql);
        let error = opened.unwrap_err();
        assert_eq!(error.outcome(), Outcome::RolledBack);
        assert_has(&error.to_string(), &["2 (next)", "STRICT"]);
        match migration_error(Err::<(), _>(error)) {
            MigrationError::NotStrict {
                line: l,
                table: t,
                version: 2,
                ..
            } => assert_eq!((l, &*t), (line, table), "{sql}"),
            other => panic!("{sql}: {other:?}"),
        }
    }
}

#[test]
fn require_strict_covers_tables_the_migration_creates() {
    for sql in [
        "CREATE TABLE IF NOT EXISTS old(id INTEGER PRIMARY KEY, x INTEGER)",
        "CREATE TABLE a(x INTEGER) STRICT; CREATE TABLE b(x INTEGER PRIMARY KEY) WITHOUT ROWID, STRICT",
        "CREATE VIRTUAL TABLE words USING fts5(word); CREATE VIRTUAL TABLE boxes USING rtree(id, l, r)",
        "CREATE TEMP TABLE a(x); CREATE TABLE temp.b(x); CREATE TEMP TABLE c AS SELECT 1",
        "CREATE TABLE IF NOT EXISTS schema_migrations(version varchar(128) primary key)",
        "CREATE TABLE a(id INTEGER PRIMARY KEY AUTOINCREMENT) STRICT; ANALYZE",
        "ALTER TABLE old ADD COLUMN y INTEGER; ALTER TABLE old RENAME COLUMN x TO z; ALTER TABLE old DROP COLUMN z",
        "ALTER TABLE old RENAME TO older",
        "CREATE INDEX old_x ON old(x); DROP TABLE old",
        "CREATE VIEW v AS SELECT * FROM old",
        "CREATE TABLE old_new(id INTEGER PRIMARY KEY, x INTEGER) STRICT;
         INSERT INTO old_new SELECT * FROM old;
         DROP TABLE old;
         ALTER TABLE old_new RENAME TO old",
    ] {
        let (_folder, opened) = strict_after_old(sql);
        let store = opened.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_eq!(applied(&store), [1, 2], "{sql}");
    }
}

/// The warnings about tables that are not STRICT.
fn warnings(store: &Store) -> Vec<String> {
    let path = store.path().to_str().unwrap();
    let wanted = |e: &log::Event| {
        e.target == "larder::migrate" && e.level == Level::WARN && e.field("db.namespace") == Some(path)
    };
    log::events(wanted)
        .iter()
        .map(|event| event.expect("tables").to_owned())
        .collect()
}

#[test]
fn tables_not_strict_give_one_warning_otherwise() {
    log::collect();
    let store = store_of(set([
        "CREATE TABLE a(x INTEGER); CREATE TABLE b(x INTEGER) STRICT",
        "CREATE TABLE c(x INTEGER); CREATE TEMP TABLE d(x)",
        "CREATE VIRTUAL TABLE e USING fts5(word)",
        "CREATE TABLE f AS SELECT 1 AS x",
    ]));
    store.migrate().unwrap();
    assert_eq!(warnings(&store), ["a, c, f"]);
    store.migrate().unwrap();
    store.write(|tx| tx.execute_batch("CREATE TABLE g(x)")).unwrap();
    assert_eq!(warnings(&store).len(), 1);
}

#[test]
fn strict_tables_give_no_warning() {
    log::collect();
    let store = store_of(set([
        "CREATE TABLE a(x INTEGER) STRICT",
        "ALTER TABLE a ADD COLUMN y TEXT",
    ]));
    store.migrate().unwrap();
    assert_eq!(warnings(&store), [""; 0]);
}

/// Forty old migrations on a new database: the warning named tables that were not there any more, or were STRICT.
#[test]
fn warning_names_each_remaining_table_once() {
    log::collect();
    let store = store_of(set([
        "CREATE TABLE a(x INTEGER); CREATE TABLE b(x INTEGER); CREATE TABLE c(x INTEGER)",
        "DROP TABLE b",
        "CREATE TABLE a_new(x INTEGER) STRICT; DROP TABLE a; ALTER TABLE a_new RENAME TO a",
        "CREATE TABLE c_new(x INTEGER, y INTEGER); DROP TABLE c; ALTER TABLE c_new RENAME TO c",
    ]));
    store.migrate().unwrap();
    assert_eq!(warnings(&store), ["c"]);
}

#[test]
fn warning_names_table_made_twice_once() {
    log::collect();
    let store = store_of(set([
        "CREATE TABLE a(x INTEGER)",
        "DROP TABLE a",
        "CREATE TABLE a(x INTEGER); CREATE TABLE b(x INTEGER)",
        "SELEC 1",
    ]));
    rolled_back(store.migrate());
    assert_eq!(warnings(&store), ["a, b"], "also if a later one fails");
}

/// It was not named at all.
#[test]
fn warning_names_renamed_table_by_final_name() {
    log::collect();
    let store = store_of(set(["CREATE TABLE a(x INTEGER)", "ALTER TABLE a RENAME TO b"]));
    store.migrate().unwrap();
    assert_eq!(warnings(&store), ["b"]);
}

// ---- what a migration may spoil ----

/// The record was empty again then, and `user_version` was taken for another tool's: the last step said NotAdopted.
#[test]
fn all_can_be_undone_after_user_version_change() {
    let list =
        [Migration::new(1, "t", "CREATE TABLE t(id INTEGER) STRICT; PRAGMA user_version = 5").down("DROP TABLE t")];
    let store = store_of(Migrations::new(list));
    assert_eq!(steps(&store.migrate_to(0).unwrap()), [(1, Direction::Down)]);
    assert_eq!(steps(&store.migrate().unwrap()), [(1, Direction::Up)]);
}

/// `migrate_to(0)` undid all, then took `user_version` over once more, and undid again what was not there.
#[test]
fn adopted_and_undone_migration_is_not_adopted_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    made_by(
        &path,
        "CREATE TABLE a(x INTEGER) STRICT; CREATE TABLE b(x INTEGER) STRICT; PRAGMA user_version = 2",
    );
    let list = [
        Migration::new(1, "a", "CREATE TABLE a(x INTEGER) STRICT").down("DROP TABLE a"),
        Migration::new(2, "b", "CREATE TABLE b(x INTEGER) STRICT").down("DROP TABLE b"),
    ];
    let migrations = Migrations::new(list).adopt(larder::Adopt::UserVersion);
    let store = Options::new().migrations(migrations).open(&path).unwrap();
    assert_eq!(applied(&store), [1, 2]);
    let report = store.migrate_to(0).unwrap();
    assert_eq!(steps(&report), [(2, Direction::Down), (1, Direction::Down)]);
    assert_eq!(
        steps(&store.migrate().unwrap()),
        [(1, Direction::Up), (2, Direction::Up)]
    );
}

/// `dbmate dump` ends in the versions that were applied. Of a migration made of one, only SQLite's error was told.
#[test]
fn migration_that_records_itself_is_named() {
    let store = after_first([
        "CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT",
        "INSERT INTO schema_migrations(version) VALUES ('2')",
    ]);
    let before = contents(&store);
    let message = rolled_back(store.migrate());
    assert_has(
        &message,
        &[
            "migration 2 (step 2), line 1",
            "a change of schema_migrations is refused",
        ],
    );
    assert_eq!(contents(&store), before);
}

/// Only a row in `schema_migrations`, or the table `larder_migrations`, is a record.
#[test]
fn empty_dbmate_table_is_no_record_larders_is() {
    let empty = "CREATE TABLE schema_migrations(version varchar(128) primary key)";
    let own = "CREATE TABLE larder_migrations(version TEXT NOT NULL PRIMARY KEY, name TEXT NOT NULL,
                   checksum TEXT NOT NULL, applied_at TEXT, duration_us INTEGER,
                   unfinished INTEGER NOT NULL DEFAULT 0) STRICT, WITHOUT ROWID";
    let row = "INSERT INTO schema_migrations VALUES ('1')";
    for (record, adopted, then) in [
        (vec![empty], true, vec![1, 2]),
        (vec![own], false, vec![]),
        (vec![empty, own], false, vec![]),
        (vec![empty, row], false, vec![1]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        let other = Connection::open(&path).unwrap();
        other.execute_batch("PRAGMA user_version = 2").unwrap();
        for sql in &record {
            other.execute_batch(sql).unwrap();
        }
        other.close().unwrap();
        let list = ["SELECT 1", "SELECT 2", "SELECT 3"];
        let store = Options::new().migrations(set(list)).open(&path).unwrap();
        match store.migrate_to(if adopted { 2 } else { then.len() as u64 }) {
            Err(Error::Migration(error)) if adopted => {
                assert!(
                    matches!(*error, MigrationError::NotAdopted { .. }),
                    "{record:?}: {error}"
                );
            }
            Ok(report) if !adopted => assert_eq!(report, MigrationReport::default(), "{record:?}"),
            other => panic!("{record:?}: {other:?}"),
        }
        store.close().unwrap();
        let adopting = set(list).adopt(larder::Adopt::UserVersion);
        let store = Options::new().migrations(adopting).open(&path).unwrap();
        assert_eq!(applied(&store), then, "{record:?}");
    }
}

#[test]
fn migration_that_alters_the_record_is_refused() {
    for (sql, reason) in [
        (
            "DELETE FROM schema_migrations",
            "a change of schema_migrations is refused",
        ),
        (
            "INSERT INTO schema_migrations VALUES ('9')",
            "a change of schema_migrations is refused",
        ),
        (
            "UPDATE schema_migrations SET version = '5'",
            "a change of schema_migrations is refused",
        ),
        (
            "DROP TABLE schema_migrations",
            "a change of schema_migrations is refused",
        ),
        (
            "ALTER TABLE schema_migrations ADD COLUMN at TEXT",
            "the table schema_migrations is not a valid record of migrations",
        ),
        (
            "INSERT INTO schema_migrations VALUES ('x')",
            "the table schema_migrations is not a valid record of migrations",
        ),
        (
            "CREATE TRIGGER no BEFORE INSERT ON schema_migrations BEGIN SELECT RAISE(ABORT, 'keep out'); END",
            "keep out",
        ),
        (
            "DROP TABLE larder_migrations; CREATE TABLE larder_migrations(x INTEGER) STRICT",
            "the table larder_migrations is not a valid record of migrations",
        ),
    ] {
        let store = after_first(["CREATE TABLE t(id INTEGER PRIMARY KEY) STRICT", sql]);
        let before = contents(&store);
        let message = rolled_back(store.migrate());
        assert_has(
            &message,
            &["migration 2 (step 2), line 1: ", reason, "it was rolled back"],
        );
        let error = migration_error(store.migrate());
        assert!(
            matches!(
                &error,
                MigrationError::Failed {
                    version: 2,
                    kept: 0,
                    ..
                }
            ),
            "{sql}: {error:?}"
        );
        assert_eq!(contents(&store), before, "{sql}");
        store.write(|tx| tx.execute("INSERT INTO t VALUES (1)", [])).unwrap();
    }
}

#[test]
fn each_applied_migration_emits_an_event() {
    log::collect();
    let list = [
        Migration::new(1, "tables", FAMILY).down("DROP TABLE parent"),
        Migration::new(2, "bad", "SELEC 1"),
    ];
    let store = store_of(Migrations::new(list).at_open(false));
    store.migrate().unwrap_err();
    store.migrate_to(0).unwrap_err();
    let path = store.path().to_str().unwrap();
    let made = |e: &log::Event| e.message == "migration finished" && e.field("db.namespace") == Some(path);
    let made = log::events(made);
    assert_eq!(made.len(), 1, "the others were not made: {made:?}");
    assert_eq!((made[0].level, made[0].target), (Level::INFO, "larder::migrate"));
    for (field, value) in [("version", "1"), ("migration", "1 (tables)"), ("direction", "up")] {
        assert_eq!(made[0].expect(field), value);
    }
}
