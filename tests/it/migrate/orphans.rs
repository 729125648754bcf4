//! Foreign keys without a parent row: those that a migration makes are refused, those from before it are told.

use larder::{MigrationError, Migrations, Options, Store};
use tracing::Level;

use crate::support::log;
use crate::support::migrations::{applied, assert_has, made_by, migration_error, numbers, rolled_back, set};

/// A database that another program made, with an orphan of each kind: by rowid, without rowids, of two columns, of a
/// missing table, of a table without the key that it refers to.
const OLD: &str = "
    PRAGMA foreign_keys = OFF;
    CREATE TABLE p(id INTEGER PRIMARY KEY, k TEXT COLLATE NOCASE UNIQUE, l INTEGER, UNIQUE (k, l));
    CREATE TABLE c(id INTEGER PRIMARY KEY, p INTEGER REFERENCES p(id));
    CREATE TABLE by_text(k TEXT REFERENCES p(k));
    CREATE TABLE w(a TEXT, b TEXT, p INTEGER REFERENCES p, PRIMARY KEY (a, b)) WITHOUT ROWID;
    CREATE TABLE two(k TEXT, l INTEGER, FOREIGN KEY (k, l) REFERENCES p(k, l));
    CREATE TABLE lost(id INTEGER PRIMARY KEY, m INTEGER REFERENCES missing(id));
    CREATE TABLE mismatched(id INTEGER PRIMARY KEY, l INTEGER REFERENCES p(l));
    INSERT INTO p VALUES (1, 'one', 1), (2, 'two', 2);
    INSERT INTO c VALUES (1, 1), (7, 70), (8, 2), (9, NULL);
    INSERT INTO by_text VALUES ('ONE'), ('none'), (NULL);
    INSERT INTO w VALUES ('x', 'y', 1), ('x', 'z', 70);
    INSERT INTO two VALUES ('one', 1), ('one', 2), ('one', NULL);
    INSERT INTO lost VALUES (1, NULL), (2, 5);
    INSERT INTO mismatched VALUES (1, 99);";

fn open(path: &std::path::Path, migrations: Migrations) -> larder::Result<Store> {
    Options::new().migrations(migrations.at_open(true)).open(path)
}

/// What the migration says to the old database.
fn migrate(sql: &'static str) -> larder::Result<(Store, tempfile::TempDir)> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    made_by(&path, OLD);
    open(&path, set([sql])).map(|store| (store, folder))
}

#[test]
fn orphans_from_before_stop_no_migration() {
    for sql in [
        "CREATE TABLE more(x INTEGER) STRICT",
        "SELECT 1",
        "ALTER TABLE c ADD COLUMN note TEXT",
        "ALTER TABLE c RENAME COLUMN p TO parent",
        "ALTER TABLE c RENAME TO kid",
        "ALTER TABLE p RENAME TO parent",
        "ALTER TABLE p RENAME COLUMN id TO number",
        "ALTER TABLE w RENAME TO v; ALTER TABLE v RENAME COLUMN a TO aa",
        "INSERT INTO c VALUES (10, 1); INSERT INTO w VALUES ('y', 'y', 2); INSERT INTO by_text VALUES ('Two')",
        "UPDATE c SET id = id",
        "UPDATE p SET k = upper(k)",
        "CREATE INDEX c_p ON c(p)",
        // Mends one.
        "DELETE FROM c WHERE id = 7",
        "INSERT INTO p(id) VALUES (70)",
        "UPDATE w SET p = 1",
        // Rebuilds, with other rowids, and another type.
        "CREATE TABLE c_new(id INTEGER PRIMARY KEY, p INTEGER REFERENCES p(id), more TEXT) STRICT;
         INSERT INTO c_new(id, p) SELECT id, p FROM c; DROP TABLE c; ALTER TABLE c_new RENAME TO c",
        "CREATE TABLE n(k TEXT REFERENCES p(k)); INSERT INTO n SELECT k FROM by_text ORDER BY k DESC;
         DROP TABLE by_text; ALTER TABLE n RENAME TO by_text",
        "CREATE TABLE n(a TEXT, p TEXT REFERENCES p, b TEXT, PRIMARY KEY (b, a)) WITHOUT ROWID;
         INSERT INTO n SELECT a, p, b FROM w; DROP TABLE w; ALTER TABLE n RENAME TO w",
        "CREATE TABLE p_new(id INTEGER PRIMARY KEY, k TEXT COLLATE NOCASE UNIQUE, l INTEGER, UNIQUE (k, l));
         INSERT INTO p_new SELECT * FROM p; DROP TABLE p; ALTER TABLE p_new RENAME TO p",
        "CREATE TEMP TABLE keep AS SELECT * FROM c; DROP TABLE c;
         CREATE TABLE c(id INTEGER PRIMARY KEY, p INTEGER REFERENCES p(id)); INSERT INTO c SELECT * FROM keep",
        "CREATE TABLE missing(id INTEGER PRIMARY KEY); INSERT INTO missing VALUES (5)",
        "CREATE TABLE missing(id INTEGER PRIMARY KEY)",
        "DROP TABLE c; DROP TABLE w",
    ] {
        let (store, _folder) = migrate(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_eq!(applied(&store), [1], "{sql}");
    }
}

#[test]
fn new_orphans_are_refused_beside_old_ones() {
    for (sql, total, before, first) in [
        ("INSERT INTO c VALUES (10, 71)", 1, 5, "c row 10 -> p"),
        ("DELETE FROM p WHERE id = 1", 4, 5, "by_text row 1 -> p"),
        // As many as before.
        (
            "DELETE FROM c WHERE id = 7; INSERT INTO c VALUES (10, 71)",
            1,
            4,
            "c row 10 -> p",
        ),
        (
            "DELETE FROM c WHERE id = 7; INSERT INTO c VALUES (10, 70)",
            1,
            4,
            "c row 10 -> p",
        ),
        ("UPDATE c SET p = 71 WHERE id = 7", 1, 4, "c row 7 -> p"),
        ("UPDATE c SET p = 70 WHERE id IN (1, 7)", 1, 5, "c row 1 -> p"),
        (
            "INSERT INTO p(id) VALUES (70); DELETE FROM p WHERE id = 2",
            1,
            3,
            "c row 8 -> p",
        ),
        ("UPDATE w SET p = CASE b WHEN 'y' THEN 70 ELSE 1 END", 1, 4, "w -> p"),
        (
            "DELETE FROM w WHERE b = 'z'; INSERT INTO w VALUES ('x', 'a', 70)",
            1,
            4,
            "w -> p",
        ),
        ("INSERT INTO two VALUES ('two', 1)", 1, 5, "two row 4 -> p"),
        ("UPDATE two SET l = 3 WHERE l = 2", 1, 4, "two row 2 -> p"),
        ("UPDATE lost SET m = 5", 1, 5, "lost row 1 -> missing"),
        (
            "ALTER TABLE c ADD COLUMN q INTEGER DEFAULT 70 REFERENCES p(id)",
            4,
            5,
            "c row 1 -> p",
        ),
        (
            "CREATE TABLE n(id INTEGER PRIMARY KEY, p INTEGER REFERENCES p(id));
             INSERT INTO n SELECT id, coalesce(p, 70) FROM c; DROP TABLE c; ALTER TABLE n RENAME TO c",
            1,
            5,
            "c row 9 -> p",
        ),
        (
            "CREATE TABLE n(id INTEGER PRIMARY KEY, p INTEGER REFERENCES p(id));
             INSERT INTO n SELECT id, p + 1 FROM c WHERE p = 70; DROP TABLE c; ALTER TABLE n RENAME TO c",
            1,
            4,
            "c row 7 -> p",
        ),
    ] {
        let error = match migrate(sql) {
            Err(error) => error,
            Ok(_) => panic!("{sql}"),
        };
        let message = error.to_string();
        match migration_error(Err::<(), _>(error)) {
            MigrationError::ForeignKeys {
                total: new,
                before: old,
                violations,
                kept: 0,
                ..
            } => {
                assert_eq!((new, old), (total, before), "{sql}: {violations:?}");
                assert_eq!(violations[0], first, "{sql}");
            }
            other => panic!("{sql}: {other:?}"),
        }
        assert_has(
            &message,
            &[
                "migration 1 (step 1) leaves",
                first,
                "were there before it, which do not count",
            ],
        );
    }
}

#[test]
fn parent_that_loses_its_key_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let tables = "CREATE TABLE p(k TEXT, l TEXT); CREATE UNIQUE INDEX p_k ON p(k);
                  CREATE TABLE c(k TEXT REFERENCES p(k), l TEXT); CREATE TABLE bad(l TEXT REFERENCES p(l));";
    made_by(&path, tables);
    for sql in ["DROP INDEX p_k", "ALTER TABLE c ADD COLUMN m TEXT REFERENCES p(l)"] {
        let message = rolled_back(open(&path, set(["SELECT 1", sql])));
        assert_has(
            &message,
            &["2 (step 2)", "foreign key mismatch", "\"c\" referencing \"p\""],
        );
    }
    // `bad` was so before, and a key that is made mends it.
    let more = [
        "SELECT 1",
        "INSERT INTO bad VALUES ('x')",
        "DELETE FROM bad",
        "CREATE UNIQUE INDEX p_l ON p(l)",
    ];
    let store = open(&path, set(more)).unwrap();
    assert_eq!(applied(&store), [1, 2, 3, 4]);
    store.close().unwrap();
    let [one, two, three, four] = more;
    let message = rolled_back(open(
        &path,
        set([one, two, three, four, "INSERT INTO bad VALUES ('x')"]),
    ));
    assert_has(&message, &["bad row 1 -> p (1 in all)"]);
}

/// What one step has left is what the next one compares with.
#[test]
fn each_step_is_compared_with_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    made_by(&path, OLD);
    let list = [
        "SELECT 1",
        "CREATE TABLE d(id INTEGER PRIMARY KEY, c INTEGER REFERENCES c(id))",
        "INSERT INTO d VALUES (1, 7)",
        "DELETE FROM c WHERE id = 8",
        "UPDATE w SET p = 1",
        "INSERT INTO p(id) VALUES (70)",
    ];
    let store = open(&path, set(list)).unwrap();
    assert_eq!(applied(&store).len(), 6);
    store.close().unwrap();
    let [a, b, c, d, e, f] = list;
    for (sql, told) in [
        ("UPDATE w SET p = 71", "w -> p; w -> p (2 in all"),
        ("DELETE FROM p WHERE id = 70", "c row 7 -> p (1 in all"),
        ("DELETE FROM c", "d row 1 -> c (1 in all"),
        ("DROP TABLE c", "d row 1 -> c (1 in all"),
    ] {
        let message = rolled_back(open(&path, set([a, b, c, d, e, f, sql])));
        assert_has(&message, &["7 (step 7)", told]);
        // In one run with the others.
        let again = folder.path().join("again.db");
        let _ = std::fs::remove_file(&again);
        made_by(&again, OLD);
        let message = rolled_back(open(&again, set([a, b, c, d, e, f, sql])));
        assert_has(&message, &["7 (step 7)", told]);
    }
}

#[test]
fn rows_changed_by_triggers_are_checked() {
    let list = [
        "CREATE TABLE p(id INTEGER PRIMARY KEY) STRICT;
         CREATE TABLE c(p INTEGER REFERENCES p(id)) STRICT;
         CREATE TABLE other(n INTEGER) STRICT;
         CREATE VIEW v AS SELECT n FROM other;
         CREATE TRIGGER t AFTER INSERT ON other BEGIN INSERT INTO c VALUES (new.n); END;
         CREATE TRIGGER u INSTEAD OF INSERT ON v BEGIN INSERT INTO other VALUES (new.n); END;",
        "INSERT INTO p VALUES (1)",
    ];
    for third in [
        "INSERT INTO other VALUES (5)",
        "INSERT INTO v VALUES (5)",
        "REPLACE INTO v VALUES (5)",
    ] {
        let store = Options::new()
            .migrations(set([list[0], list[1], third]))
            .open_temp()
            .unwrap();
        assert_has(
            &rolled_back(store.migrate()),
            &["3 (step 3)", "c row 1 -> p (1 in all)"],
        );
        assert_eq!(applied(&store), [1, 2]);
    }
}

#[test]
fn writes_between_runs_are_seen() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let list = [
        "CREATE TABLE p(id INTEGER PRIMARY KEY) STRICT",
        "SELECT 1",
        "INSERT INTO p VALUES (1)",
    ];
    let store = Options::new().migrations(set(list)).open(&path).unwrap();
    store.migrate_to(2).unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE c(p INTEGER REFERENCES p(id)) STRICT"))
        .unwrap();
    store.close().unwrap();
    made_by(&path, "PRAGMA foreign_keys = OFF; INSERT INTO c VALUES (9)");
    let store = Options::new().migrations(set(list)).open(&path).unwrap();
    let report = store.migrate().unwrap();
    assert_eq!((report.steps.len(), report.orphans), (1, 1));
}

#[test]
fn old_orphans_are_told_by_report_and_event() {
    log::collect();
    let (store, _folder) = migrate("CREATE TABLE more(x INTEGER) STRICT").unwrap();
    let path = store.path().to_str().unwrap();
    let told = |e: &log::Event| {
        e.target == "larder::migrate" && e.field("db.namespace") == Some(path) && e.message.contains("refers to no row")
    };
    let events = log::events(told);
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].level, events[0].expect("rows")), (Level::WARN, "5"));
    assert_has(events[0].expect("tables"), &["c -> p", "w -> p", "lost -> missing"]);
    assert_eq!(store.migrate().unwrap().orphans, 0, "nothing was done");
    store.close().unwrap();
}

#[test]
fn orphans_of_before_do_not_stop_vacuum() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    // Other rowids after a VACUUM.
    made_by(&path, &[OLD, "DELETE FROM by_text WHERE k = 'ONE'"].concat());
    let list = [
        larder::Migration::new(1, "vacuum", "VACUUM").without_transaction(),
        larder::Migration::new(2, "rows", "INSERT INTO c VALUES (10, 71)").without_transaction(),
    ];
    let store = open(&path, Migrations::new(list).at_open(false)).unwrap_err();
    assert_has(&store.to_string(), &["2 (rows)", "c row 10 -> p (1 in all"]);
    let store = larder::Store::open(&path).unwrap();
    assert_eq!(numbers(&store, "SELECT count(*) FROM c WHERE id = 10"), [1]);
}
