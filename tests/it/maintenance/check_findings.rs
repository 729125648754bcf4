//! What `integrity_check` says about data in sound pages: it is reported, and hinders no backup and no restore.

use std::path::{Path, PathBuf};

use larder::rusqlite::Connection;
use larder::rusqlite::functions::FunctionFlags;
use larder::{Error, Options, RestoreOptions, Role, Store};
use tempfile::{TempDir, tempdir};

use crate::support::names_in;

/// A database made by SQLite alone.
fn made_by(sql: &str) -> (TempDir, PathBuf) {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch(sql).unwrap();
    conn.close().unwrap();
    (folder, path)
}

/// A table whose statement is changed under its rows.
fn changed_to(sql: &str, to: &str) -> String {
    format!("{sql}; PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = '{to}' WHERE name = 't'")
}

/// How a database gets a finding, what that finding says, and the statement that mends it.
fn cases() -> Vec<(String, &'static str, Option<&'static str>)> {
    let rebuild = |table: &'static str| -> &'static str {
        match table {
            "four" => "INSERT INTO four(four) VALUES('rebuild')",
            _ => "INSERT INTO five(five) VALUES('rebuild')",
        }
    };
    vec![
        (
            "CREATE TABLE posts(id INTEGER PRIMARY KEY, body TEXT); INSERT INTO posts(body) VALUES ('one'), ('two');
             CREATE VIRTUAL TABLE four USING fts4(content='posts', body); INSERT INTO four(four) VALUES ('rebuild');
             UPDATE posts SET body = 'three' WHERE id = 2"
                .to_owned(),
            "four",
            Some(rebuild("four")),
        ),
        (
            "CREATE VIRTUAL TABLE five USING fts5(text); INSERT INTO five VALUES ('one two'), ('three');
             DELETE FROM five_data WHERE id > 10"
                .to_owned(),
            "five",
            Some(rebuild("five")),
        ),
        (
            "CREATE VIRTUAL TABLE five USING fts5(text); INSERT INTO five VALUES ('one two'), ('three');
             DELETE FROM five_docsize WHERE id = 2"
                .to_owned(),
            "five",
            Some(rebuild("five")),
        ),
        // SQLite cannot open it, and so fails the whole check.
        (
            "CREATE VIRTUAL TABLE five USING fts5(text); INSERT INTO five VALUES ('one two'), ('three');
             DELETE FROM five_config"
                .to_owned(),
            "five",
            None,
        ),
        (
            "CREATE TABLE u(x); PRAGMA writable_schema = ON;
             INSERT INTO sqlite_schema
             VALUES ('table', 'words', 'words', 0, 'CREATE VIRTUAL TABLE words USING fts5(x, tokenize=nobodys)')"
                .to_owned(),
            "the virtual table words cannot be checked",
            None,
        ),
        (
            "CREATE VIRTUAL TABLE boxes USING rtree(id, x0, x1); INSERT INTO boxes VALUES (1, 2, 3), (2, 3, 4);
             DELETE FROM boxes_rowid WHERE rowid = 1"
                .to_owned(),
            "boxes",
            None,
        ),
        // SQLite says that the database is damaged, and means the virtual table.
        (
            "CREATE VIRTUAL TABLE boxes USING rtree(id, x0, x1); INSERT INTO boxes VALUES (1, 2, 3), (2, 3, 4);
             DELETE FROM boxes_node"
                .to_owned(),
            "boxes",
            None,
        ),
        (
            "CREATE VIRTUAL TABLE four USING fts4(text); INSERT INTO four VALUES ('one two'), ('three');
             DROP TABLE four_content"
                .to_owned(),
            "four",
            None,
        ),
        (
            changed_to(
                "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT); INSERT INTO t(x) VALUES ('a'), (NULL)",
                "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT NOT NULL)",
            ),
            "NULL value in t.x",
            Some("UPDATE t SET x = ''"),
        ),
        (
            changed_to(
                "CREATE TABLE t(id INTEGER PRIMARY KEY, x INT); INSERT INTO t(x) VALUES (1), (-1)",
                "CREATE TABLE t(id INTEGER PRIMARY KEY, x INT CHECK (x > 0))",
            ),
            "CHECK constraint failed in t",
            Some("UPDATE t SET x = 1"),
        ),
        (
            changed_to(
                "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT); INSERT INTO t(x) VALUES ('1'), ('b')",
                "CREATE TABLE t(id INTEGER PRIMARY KEY, x INTEGER) STRICT",
            ),
            "non-INTEGER value in t.x",
            Some("UPDATE t SET x = 1"),
        ),
        (
            changed_to(
                "CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB); INSERT INTO t(x) VALUES ('1'), ('b')",
                "CREATE TABLE t(id INTEGER PRIMARY KEY, x INT)",
            ),
            "TEXT value in t.x",
            Some("UPDATE t SET x = 1"),
        ),
        (
            changed_to(
                "CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB); INSERT INTO t(x) VALUES (1), ('b')",
                "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT)",
            ),
            "NUMERIC value in t.x",
            Some("UPDATE t SET x = 'a'"),
        ),
    ]
}

/// No backup could be made of such a database, and `restore` refused the only one there was.
#[test]
fn finding_is_reported_and_copied() {
    for (sql, says, remedy) in cases() {
        let (folder, path) = made_by(&sql);
        let store = Store::open(&path).unwrap();
        for full in [false, true] {
            let check = store.check();
            let report = if full { check.full() } else { check }.run().unwrap();
            assert!(!report.is_damaged(), "{says}: {report:?}");
            assert_eq!(report.total_findings as usize, report.findings.len(), "{report:?}");
            assert!(!report.is_ok() && report.not_checked.is_empty(), "{says}: {report:?}");
            assert!(report.findings[0].contains(says), "{says}: {report:?}");
            assert!(report.to_string().contains("findings, the first: "), "{report}");
        }
        let backup = folder.path().join("backup");
        let made = store.backup(&backup).checksum(true).run().unwrap();
        let check = made.check.as_ref().unwrap();
        assert!(check.not_checked.is_empty(), "{check:?}");
        assert!(check.findings[0].contains(says), "{says}: {made:?}");
        assert!(made.to_string().contains(says) && made.is_verified(), "{made}");
        let compact = store.backup_compact(folder.path().join("compact")).run().unwrap();
        assert!(compact.check.unwrap().findings[0].contains(says), "{says}");

        let restored = Store::restore(&backup, folder.path().join("restored")).unwrap();
        assert!(
            restored.verified && restored.check.findings == check.findings,
            "{restored:?}"
        );
        assert_eq!(Some(&restored.checksum), made.checksum.as_ref());
        if let Some(remedy) = remedy {
            if remedy.contains("rebuild") {
                assert!(check.findings[0].contains(remedy), "{remedy}: {check:?}");
            }
            store.write(move |tx| tx.execute_batch(remedy)).unwrap();
            let mended = store.check().full().run().unwrap();
            assert!(mended.is_ok(), "{remedy}: {mended:?}");
        }
    }
}

/// SQLite stops after 100 lines. What came after a hundred old rows was not looked at.
#[test]
fn findings_hide_no_damage_behind_them() {
    let (folder, path) = made_by(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, x INT);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
         INSERT INTO t(x) SELECT NULL FROM n;
         CREATE TABLE zz(id INTEGER PRIMARY KEY, y INT); INSERT INTO zz VALUES (1, 1), (2, 2);
         CREATE INDEX ys ON zz(y);",
    );
    let by_new_connection = |sql: &str| {
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch(sql).unwrap();
        conn.close().unwrap();
    };
    by_new_connection(
        "PRAGMA writable_schema = ON;
         UPDATE sqlite_schema SET sql = 'CREATE TABLE t(id INTEGER PRIMARY KEY, x INT NOT NULL)' WHERE name = 't'",
    );
    let store = Store::open(&path).unwrap();
    let report = store.check().full().run().unwrap();
    assert_eq!(
        (report.total_findings, report.findings.len()),
        (1000, 100),
        "{report:?}"
    );
    assert!(!report.is_damaged());
    store.backup(folder.path().join("backup")).run().unwrap();
    drop(store);

    let by_schema = "PRAGMA writable_schema = ON;
        CREATE TABLE kept AS SELECT * FROM sqlite_schema WHERE name = 'ys'; DELETE FROM sqlite_schema WHERE name = 'ys'";
    by_new_connection(by_schema);
    by_new_connection("UPDATE zz SET y = 7 WHERE id = 1");
    by_new_connection("PRAGMA writable_schema = ON; INSERT INTO sqlite_schema SELECT * FROM kept; DROP TABLE kept");
    let store = Store::open(&path).unwrap();
    let report = store.check().full().run().unwrap();
    assert!(
        report.problems.contains(&"row 1 missing from index ys".to_owned()),
        "{report:?}"
    );
    let error = store.backup(folder.path().join("another")).run().unwrap_err();
    assert!(error.to_string().contains("damaged"), "{error}");
}

fn define_twice(conn: &Connection) -> larder::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
    Ok(conn.create_scalar_function("twice", 1, flags, |context| Ok(context.get::<i64>(0)? * 2))?)
}

fn with_function(defines: fn(Role) -> bool) -> Options {
    Options::new().on_connect(move |conn, role| if defines(role) { define_twice(conn) } else { Ok(()) })
}

/// "The copy cannot be checked", it said, and no more.
#[test]
fn missing_function_names_the_way_out() {
    let folder = tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let fill =
        "CREATE TABLE t(x INT CHECK (twice(x) > 0)); INSERT INTO t VALUES (1), (2); CREATE INDEX i ON t(twice(x))";
    let store = with_function(|_| true).open(path("app.db")).unwrap();
    store.write(move |tx| tx.execute_batch(fill)).unwrap();
    store.backup(path("backup")).run().unwrap();
    let names = names_in(folder.path());
    let error = Store::restore(path("backup"), path("restored")).unwrap_err();
    assert!(matches!(error, Error::Restore { .. }), "{error:?}");
    assert!(error.to_string().contains("Options::restore"), "{error}");
    assert!(error.to_string().contains("twice"), "{error}");
    assert_eq!(names_in(folder.path()), names);
    with_function(|_| true)
        .restore(path("backup"), path("restored"))
        .unwrap();
    drop(store);

    let store = with_function(|role| role != Role::Copy).open(path("app.db")).unwrap();
    let error = store.backup(path("another")).run().unwrap_err();
    assert!(error.to_string().contains("Role::Copy"), "{error}");
    let error = store.backup_compact(path("another")).run().unwrap_err();
    assert!(error.to_string().contains("Role::Copy"), "{error}");
    assert!(!Path::new(&path("another")).exists());
}

/// The check failed with SQLite's error, and said nothing of the tables that need no such name.
#[test]
fn missing_collation_is_named_and_no_damage() {
    check_without_collation(false);
    check_without_collation(true);
}

fn check_without_collation(has_virtual_table: bool) {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let collating = |folded: &'static str| {
        Options::new().on_connect(move |conn, _| {
            define_twice(conn)?;
            Ok(conn.create_collation(folded, |a, b| a.to_lowercase().cmp(&b.to_lowercase()))?)
        })
    };
    let fill = "CREATE TABLE sound(id INTEGER PRIMARY KEY, x TEXT NOT NULL); CREATE INDEX of_sound ON sound(x);
        INSERT INTO sound(x) VALUES ('a'), ('b'), ('c');
        CREATE TABLE columns(id INTEGER PRIMARY KEY, x TEXT COLLATE folded UNIQUE); INSERT INTO columns(x) VALUES ('A'), ('b');
        CREATE TABLE listed(x TEXT); CREATE INDEX of_it ON listed(x COLLATE folded); INSERT INTO listed VALUES ('A');
        CREATE TABLE keys(x TEXT COLLATE folded PRIMARY KEY) WITHOUT ROWID; INSERT INTO keys VALUES ('A');
        CREATE TABLE children(x TEXT COLLATE folded REFERENCES columns(x)); INSERT INTO children VALUES ('a');
        CREATE TABLE expressions(x INT); CREATE INDEX of_x ON expressions(twice(x)); INSERT INTO expressions VALUES (1);";
    // SQLite checks a virtual table in another way.
    let words = "CREATE VIRTUAL TABLE words USING fts5(text); INSERT INTO words VALUES ('one');";
    let store = collating("folded").open(&path).unwrap();
    store
        .write(move |tx| {
            tx.execute_batch(fill)?;
            if has_virtual_table {
                tx.execute_batch(words)
            } else {
                Ok(())
            }
        })
        .unwrap();
    let report = store.check().full().run().unwrap();
    assert!(report.is_ok() && report.not_checked.is_empty(), "{report:?}");
    store.close().unwrap();

    // The rest of the database is checked, and an index that differs from its table is found.
    Connection::open(&path)
        .unwrap()
        .execute_batch(
            "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = 'CREATE INDEX of_sound ON sound(id)'
             WHERE name = 'of_sound'",
        )
        .unwrap();
    for full in [false, true] {
        let store = Store::open(&path).unwrap();
        let check = store.check();
        let report = if full { check.full() } else { check }.run().unwrap();
        let named = |table: &str, missing: &str| {
            report
                .not_checked
                .iter()
                .any(|said| said.starts_with(table) && said.contains(missing) && said.contains("Options::on_connect"))
        };
        for table in ["columns", "listed", "keys"] {
            let missing = "no such collation sequence: folded";
            assert!(named(&format!("the table {table}:"), missing), "{table}: {report:?}");
        }
        assert!(named("the foreign keys of children:", "folded"), "{report:?}");
        assert!(report.findings.is_empty() && report.tables >= 6, "{report:?}");
        assert!(
            !report.problems.iter().any(|problem| problem.contains("collation")),
            "{report:?}"
        );
        if full {
            assert!(named("the table expressions:", "twice"), "{report:?}");
        }
        assert_eq!(report.is_damaged(), full, "{report:?}");
        assert!(
            report.problems.iter().all(|problem| problem.contains("of_sound")),
            "{report:?}"
        );
        assert!(
            report.to_string().contains("not checked: the table columns"),
            "{report}"
        );
    }
    // A read that needs it says what to do, and a copy that cannot be checked does not count as checked.
    let store = Store::open(&path).unwrap();
    let error = store
        .read(|tx| tx.all::<(String,)>("SELECT x FROM columns ORDER BY x", []))
        .unwrap_err();
    assert!(
        error.to_string().contains("define it in Options::on_connect"),
        "{error}"
    );
    let error = store.backup(folder.path().join("backup")).run().unwrap_err();
    assert!(
        error.to_string().contains("folded") && error.to_string().contains("Role::Copy"),
        "{error}"
    );
}

/// SQLite passes over such a table without a word.
#[test]
fn virtual_table_without_module_is_not_checked() {
    let (folder, path) = made_by(
        "CREATE TABLE t(x); PRAGMA writable_schema = ON; INSERT INTO sqlite_schema
         VALUES ('table', 'vectors', 'vectors', 0, 'CREATE VIRTUAL TABLE vectors USING vec0(x)')",
    );
    let store = Store::open(&path).unwrap();
    let report = store.check().full().run().unwrap();
    assert!(report.is_ok(), "{report:?}");
    assert!(
        report.not_checked[0].contains("vectors: no such module: vec0"),
        "{report:?}"
    );
    let made = store.backup(folder.path().join("backup")).run().unwrap();
    assert_eq!(made.check.as_ref().unwrap().not_checked, report.not_checked);
    assert!(
        made.to_string().contains("not checked: the virtual table vectors"),
        "{made}"
    );
}

/// SQLite ignores CHECK constraints on a connection that may only read, and so did a check.
#[test]
fn check_constraints_are_checked_or_reported() {
    let (_folder, path) = made_by(&changed_to(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, x INT); INSERT INTO t(x) VALUES (1), (-1), (2)",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, x INT CHECK (twice(x) > 0))",
    ));
    let check_of = |options: Options| {
        let store = options.open(&path).unwrap();
        store.check().full().run().unwrap()
    };
    let report = check_of(with_function(|_| true));
    assert!(
        report.findings[0].starts_with("CHECK constraint failed in t"),
        "{report:?}"
    );
    assert_eq!((report.total_findings, report.not_checked.len()), (1, 0), "{report:?}");
    // The function is not there, or the database is larger than the memory for it.
    for (options, says) in [
        (Options::new(), "twice"),
        (
            with_function(|_| true).cache_size(1024),
            "larger than Options::cache_size",
        ),
    ] {
        let report = check_of(options);
        assert!(report.is_ok(), "{report:?}");
        assert!(report.not_checked[0].starts_with("CHECK constraints"), "{report:?}");
        assert!(report.to_string().contains(says), "{says}: {report}");
    }
}

/// SQLite says of every such table that it cannot be validated, and larder called it damaged.
#[test]
fn full_text_without_text_is_not_checked() {
    let (folder, path) = made_by(
        "CREATE VIRTUAL TABLE hidden USING fts4(content=\"\", body); INSERT INTO hidden(docid, body) VALUES (1, 'one two');
         CREATE TABLE t(x)",
    );
    let store = Store::open(&path).unwrap();
    let report = store.check().full().run().unwrap();
    assert!(report.is_ok(), "{report:?}");
    assert_eq!(report.not_checked, ["the full-text index hidden, which keeps no text"]);
    let backup = folder.path().join("backup");
    let made = store.backup(&backup).run().unwrap();
    assert_eq!(made.check.unwrap().not_checked, report.not_checked);
    let restored = Store::restore(&backup, folder.path().join("restored")).unwrap();
    assert!(restored.verified && restored.check.is_ok(), "{restored:?}");

    // A segment is gone: SQLite can tell no more.
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch("PRAGMA writable_schema = ON; DELETE FROM hidden_segdir")
        .unwrap();
    conn.close().unwrap();
    assert_eq!(store.check().full().run().unwrap().not_checked, report.not_checked);
}

/// A collation of the program that has changed leaves such an index. The way out was to restore an older backup, which
/// has the same index.
#[test]
fn index_beside_its_table_is_mended_by_reindex() {
    let (folder, path) = made_by(
        "CREATE TABLE t(x); INSERT INTO t VALUES ('B'), ('a'), ('c'); CREATE INDEX i ON t(x);
         PRAGMA writable_schema = ON;
         UPDATE sqlite_schema SET sql = 'CREATE INDEX i ON t(x COLLATE NOCASE)' WHERE name = 'i'",
    );
    let to = |name: &str| folder.path().join(name);
    let error = Store::restore(&path, to("restored")).unwrap_err().to_string();
    assert!(error.contains("REINDEX") && error.contains("verify(false)"), "{error}");
    let unverified = RestoreOptions::new().verify(false);
    Options::new().restore_with(unverified, &path, to("restored")).unwrap();
    for path in [path, to("restored")] {
        let store = Store::open(&path).unwrap();
        let report = store.check().full().run().unwrap();
        assert_eq!(report.problems, ["row 1 missing from index i"]);
        let back_up = || store.backup(to("backup")).overwrite(true).run();
        let error = back_up().unwrap_err().to_string();
        assert!(error.contains("REINDEX"), "{error}");
        store.write(|tx| tx.execute_batch("REINDEX i")).unwrap();
        assert!(store.check().full().run().unwrap().is_ok());
        assert!(back_up().unwrap().is_verified());
    }
}
