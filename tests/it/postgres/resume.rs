//! Exports that go on where they were broken off.

use std::io::{BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{self, ChildStdin, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use larder::{Error, ExportReport, ExportStage, ExportToPostgres, OnMisfit, Outcome, Store};
use sha2::{Digest, Sha256};

use super::export::interrupted;
use super::{before_insert, store_of};
use crate::support::child::{Child, Task, listen, tell};
use crate::support::postgres::Postgres;

/// Rows of each table.
const ROWS: u64 = 20_000;

/// Three tables, by name: the third one refers to the first.
fn store(path: &Path) -> Store {
    let store = Store::open(path).unwrap();
    store
        .write(|tx| {
            tx.execute_batch(&format!(
                "CREATE TABLE IF NOT EXISTS a(id INTEGER PRIMARY KEY AUTOINCREMENT, s TEXT);
                 CREATE TABLE IF NOT EXISTS b(s TEXT, n);
                 CREATE TABLE IF NOT EXISTS c(id INTEGER PRIMARY KEY, a INTEGER REFERENCES a(id), s TEXT);
                 CREATE INDEX IF NOT EXISTS by_s ON c(s);
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})
                 INSERT INTO a SELECT i, 'row ' || i FROM n;
                 INSERT INTO b SELECT s, id FROM a;
                 INSERT INTO c SELECT id, id, s FROM a"
            ))
        })
        .unwrap();
    store
}

fn export<'s>(store: &'s Store, url: &str) -> ExportToPostgres<'s> {
    store.export_to_postgres(url).schema("app").resumable(true)
}

/// Breaks the export off once it has sent that many rows: with a multiple of [`ROWS`], at the start of a table.
fn broken_off(store: &Store, url: &str, rows: u64) -> Error {
    let export = export(store, url).progress(move |progress| match progress.stage {
        ExportStage::Copy if progress.rows >= rows => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    export.run().unwrap_err()
}

fn resumed(report: &ExportReport) -> Vec<bool> {
    report.tables.iter().map(|table| table.resumed).collect()
}

/// Tables of these schemas: those that are not complete are not seen by others.
fn tables(server: &Postgres, database: &str, schema: &str) -> String {
    let sql = format!(
        "SELECT coalesce(string_agg(relname, ' ' ORDER BY relname), '') FROM pg_class c
         JOIN pg_namespace n ON n.oid = c.relnamespace WHERE nspname = '{schema}' AND relkind = 'r'"
    );
    server.run(database, &sql)
}

/// Everything is in its schema, and nothing is left of the export.
fn is_whole(server: &Postgres, database: &str) {
    assert_eq!(tables(server, database, "app"), "a b c");
    let left = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'larder%'";
    assert_eq!(server.run(database, left), "0");
    let comments = "SELECT count(obj_description(oid, 'pg_class')) FROM pg_class WHERE relname IN ('a', 'b', 'c')";
    assert_eq!(server.run(database, comments), "0");
    let keys = "SELECT count(*) FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace WHERE nspname = 'app'";
    assert_eq!(server.run(database, keys), "3");
    assert_eq!(
        server.run(database, "SELECT count(*) FROM app.c WHERE s = 'row 7'"),
        "1"
    );
}

#[test]
fn broken_off_export_goes_on_with_the_tables_that_are_not_complete() {
    let Some(server) = Postgres::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder.path().join("app.db"));
    let url = server.database("on");
    let error = broken_off(&store, &url, ROWS);
    assert!(matches!(error, Error::Cancelled { .. }), "{error}");
    assert_eq!(tables(&server, "on", "app"), "");
    assert_eq!(tables(&server, "on", "larder_export_app"), "a");
    let report = export(&store, &url).run().unwrap();
    assert_eq!(resumed(&report), [true, false, false]);
    assert_eq!(report.rows(), 3 * ROWS);
    assert!(
        report.to_string().contains("a: 20000 rows, sent by an earlier run"),
        "{report}"
    );
    assert!(
        report
            .tables
            .iter()
            .all(|table| table.create.starts_with("CREATE TABLE \"app\"."))
    );
    is_whole(&server, "on");
    let next = "INSERT INTO app.a(s) VALUES ('x') RETURNING id";
    assert_eq!(server.run("on", next), (ROWS + 1).to_string());
    let error = export(&store, &url).run().unwrap_err();
    assert!(
        error.to_string().contains("app has a already: if an earlier run"),
        "{error}"
    );
}

#[test]
fn tables_that_have_changed_since_are_made_again() {
    let Some(server) = Postgres::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder.path().join("app.db"));
    let url = server.database("changed");
    broken_off(&store, &url, 2 * ROWS);
    assert_eq!(tables(&server, "changed", "larder_export_app"), "a b");
    store
        .write(|tx| tx.execute("UPDATE b SET s = 'other' WHERE rowid = 7000", []))
        .unwrap();
    // A table that is gone, and one that the server has changed.
    server.run("changed", "CREATE TABLE larder_export_app.old(x int)");
    server.run("changed", "UPDATE larder_export_app.a SET s = 'y' WHERE id = 5");
    let report = export(&store, &url).run().unwrap();
    assert_eq!(resumed(&report), [false, false, false]);
    is_whole(&server, "changed");
    assert_eq!(server.run("changed", "SELECT s FROM app.a WHERE id = 5"), "row 5");
    assert_eq!(
        server.run("changed", "SELECT count(*) FROM app.b WHERE s = 'other'"),
        "1"
    );
}

#[test]
fn rows_set_aside_are_those_of_the_last_run() {
    let Some(server) = Postgres::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder.path().join("app.db"));
    store
        .write(|tx| {
            tx.execute_batch(
                "UPDATE a SET s = x'00' WHERE id IN (3, 4); UPDATE c SET s = x'00' WHERE id = 9; UPDATE b SET s = x'01' WHERE rowid = 1",
            )
        })
        .unwrap();
    let url = server.database("aside");
    let run = |rows: u64| {
        let export = export(&store, &url).on_misfit(OnMisfit::Quarantine);
        let export = export.progress(move |progress| match progress.stage {
            ExportStage::Copy if progress.rows >= rows => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        });
        export.run()
    };
    run(2 * ROWS).unwrap_err();
    assert_eq!(tables(&server, "aside", "larder_export_app"), "a b");
    store
        .write(|tx| tx.execute("UPDATE b SET s = 'mended' WHERE rowid = 1", []))
        .unwrap();
    let report = run(u64::MAX).unwrap();
    assert_eq!(resumed(&report), [true, false, false]);
    let aside: Vec<u64> = report.tables.iter().map(|table| table.quarantined).collect();
    assert_eq!(aside, [2, 0, 1]);
    let rows = "SELECT string_agg(table_name || row_id, ' ' ORDER BY table_name, row_id) FROM app.larder_quarantine";
    assert_eq!(server.run("aside", rows), "a3 a4 c9");
}

#[test]
fn table_is_kept_if_only_rows_set_aside_have_changed() {
    let Some(server) = Postgres::start() else { return };
    for (database, change, aside) in [
        (
            "aside_changed",
            "UPDATE a SET s = x'02' WHERE id = 3",
            "(3, x'02') (4, x'00')",
        ),
        ("aside_deleted", "DELETE FROM a WHERE id = 3", "(4, x'00')"),
        ("aside_all_deleted", "DELETE FROM a WHERE id IN (3, 4)", ""),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder.path().join("app.db"));
        let set = "UPDATE a SET s = x'00' WHERE id IN (3, 4); DELETE FROM c WHERE a IN (3, 4)";
        store.write(move |tx| tx.execute_batch(set)).unwrap();
        let url = server.database(database);
        let run = |rows: u64| {
            let export = export(&store, &url).on_misfit(OnMisfit::Quarantine);
            let export = export.progress(move |progress| match progress.stage {
                ExportStage::Copy if progress.rows >= rows => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            });
            export.run()
        };
        run(2 * ROWS).unwrap_err();
        assert_eq!(tables(&server, database, "larder_export_app"), "a b");
        store.write(move |tx| tx.execute_batch(change)).unwrap();
        let report = run(u64::MAX).unwrap();
        assert_eq!(resumed(&report), [true, true, false], "{database}");
        let count = aside.matches('(').count() as u64;
        assert_eq!(report.tables[0].quarantined, count, "{database}");
        if count > 0 {
            let rows = "SELECT string_agg(split_part(statement, ' VALUES ', 2), ' ' ORDER BY row_id)
                FROM app.larder_quarantine WHERE table_name = 'a'";
            assert_eq!(server.run(database, rows), aside);
        } else {
            assert_eq!(tables(&server, database, "app"), "a b c");
        }
        assert_eq!(
            server.run(database, "SELECT count(*) FROM app.a"),
            (ROWS - 2).to_string()
        );
    }
}

#[test]
fn table_that_inherits_from_a_complete_one_is_found() {
    let Some(server) = Postgres::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder.path().join("app.db"));
    let url = server.database("inherits");
    broken_off(&store, &url, ROWS);
    server.run(
        "inherits",
        "CREATE TABLE child() INHERITS (larder_export_app.a); INSERT INTO child VALUES (0, 'more')",
    );
    // The table is to be made again, which the child prevents.
    let error = export(&store, &url).run().unwrap_err().to_string();
    assert!(error.contains("table a") && error.contains("depend"), "{error}");
    assert_eq!(tables(&server, "inherits", "app"), "");
    server.run("inherits", "DROP TABLE child");
    let report = export(&store, &url).run().unwrap();
    assert_eq!(resumed(&report), [true, true, true]);
    is_whole(&server, "inherits");
}

#[test]
fn rows_that_change_as_an_index_is_made_are_found() {
    let Some(server) = Postgres::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder.path().join("app.db"));
    let url = server.database("index");
    server.run(
        "index",
        "CREATE FUNCTION spoil() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
            IF to_regclass('larder_export_app.c') IS NOT NULL THEN
                UPDATE larder_export_app.c SET s = 'other' WHERE id = 5;
            END IF; END $$;
         CREATE EVENT TRIGGER spoil ON ddl_command_end WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION spoil()",
    );
    let error = export(&store, &url).run().unwrap_err().to_string();
    assert!(
        error.contains("table c is not the same") && error.contains("row 5 (rowid 5 in the store) differs in s"),
        "{error}"
    );
    assert_eq!(tables(&server, "index", "app"), "");
    server.run("index", "DROP EVENT TRIGGER spoil");
    assert_eq!(resumed(&export(&store, &url).run().unwrap()), [true, true, true]);
    is_whole(&server, "index");
}

#[test]
fn table_that_is_made_again_is_reported_as_it_was_made() {
    let Some(server) = Postgres::start() else { return };
    let store = Store::open_temp().unwrap();
    // The server has no such operator. A resumable export finds that again in its second run.
    let tables = "CREATE TABLE a(n INTEGER, s TEXT AS (n || n)); INSERT INTO a VALUES (1); CREATE TABLE b(n INTEGER)";
    store.write(move |tx| tx.execute_batch(tables)).unwrap();
    let url = server.database("again");
    broken_off(&store, &url, 1);
    store.write(|tx| tx.execute("INSERT INTO a VALUES (2)", [])).unwrap();
    let report = export(&store, &url).run().unwrap();
    assert_eq!(resumed(&report), [false, false]);
    assert!(!report.tables[0].create.contains("GENERATED"), "{report}");
    assert_eq!(server.run("again", "SELECT n FROM app.a ORDER BY n"), "1\n2");
}

#[test]
fn schema_that_no_export_has_made_is_left_alone() {
    let Some(server) = Postgres::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder.path().join("app.db"));
    let url = server.database("theirs");
    server.run(
        "theirs",
        "CREATE SCHEMA larder_export_app; CREATE TABLE larder_export_app.mine(x int)",
    );
    let error = export(&store, &url).run().unwrap_err();
    assert!(error.to_string().contains("no export has made it"), "{error}");
    assert_eq!(error.outcome(), Outcome::RolledBack);
    assert_eq!(tables(&server, "theirs", "larder_export_app"), "mine");
}

#[test]
fn names_that_move_along_and_are_there_are_refused_before_the_rows() {
    let Some(server) = Postgres::start() else { return };
    let store = Store::open_temp().unwrap();
    // The server chooses the names of constraints and sequences, and of indexes on expressions.
    let tables = "CREATE TABLE a(id INTEGER PRIMARY KEY, s TEXT); CREATE TABLE b(s TEXT); CREATE TABLE c(s TEXT);
        CREATE INDEX by_s ON c(s); INSERT INTO a VALUES (1, 'a');
        CREATE TABLE d(id INTEGER PRIMARY KEY, s TEXT COLLATE NOCASE, n INTEGER, UNIQUE (s, n))";
    store.write(move |tx| tx.execute_batch(tables)).unwrap();
    for (at, (make, name)) in [
        (
            "CREATE TABLE app.theirs(x int); CREATE INDEX by_s ON app.theirs(x)",
            "by_s",
        ),
        (
            "CREATE TABLE app.theirs(x int); CREATE INDEX a_pkey ON app.theirs(x)",
            "a_pkey",
        ),
        ("CREATE SEQUENCE app.a_id_seq", "a_id_seq"),
        ("CREATE VIEW app.d_s_n_key AS SELECT 1", "d_s_n_key"),
        ("CREATE SEQUENCE app.d_lower_n_idx", "d_lower_n_idx"),
        ("CREATE TYPE app.b AS ENUM ('x')", "b"),
        ("CREATE TYPE app._c AS (x int)", "_c"),
    ]
    .into_iter()
    .enumerate()
    {
        let database = format!("named{at}");
        let url = server.database(&database);
        server.run(&database, &format!("CREATE SCHEMA app; {make}"));
        let error = export(&store, &url).run().unwrap_err();
        assert!(
            error.to_string().contains(&format!("app has {name} already")),
            "{name}: {error}"
        );
        let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'larder%'";
        assert_eq!(server.run(&database, schemas), "0", "{name}");
        export(&store, &url).schema("other").run().unwrap();
    }
    let url = server.database("types");
    server.run("types", "CREATE SCHEMA app; CREATE TYPE app.by_s AS ENUM ('x')");
    export(&store, &url).run().unwrap();
}

#[test]
fn table_with_the_name_of_an_earlier_key_is_refused_before_the_rows() {
    let Some(server) = Postgres::start() else { return };
    let store = Store::open_temp().unwrap();
    let tables = "CREATE TABLE t(a TEXT UNIQUE); CREATE TABLE t_a_key(x TEXT); INSERT INTO t VALUES ('a')";
    store.write(move |tx| tx.execute_batch(tables)).unwrap();
    let url = server.database("keys");
    let error = export(&store, &url).run().unwrap_err().to_string();
    assert!(
        error.contains("table t_a_key") && error.contains("rename the table, or export without resumable"),
        "{error}"
    );
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'larder%'";
    assert_eq!(server.run("keys", schemas), "0");
    export(&store, &url).resumable(false).run().unwrap();
}

#[test]
fn table_of_another_program_in_the_place_of_rows_set_aside_is_not_used() {
    let Some(server) = Postgres::start() else { return };
    let server = Arc::new(server);
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder.path().join("app.db"));
    let set = "UPDATE a SET s = x'00' WHERE id IN (3, 4); DELETE FROM c WHERE a IN (3, 4)";
    store.write(move |tx| tx.execute_batch(set)).unwrap();
    let url = server.database("taken");
    // It is there before the last transaction makes its own.
    let (observed, mut is_made) = (Arc::clone(&server), false);
    let take = "CREATE TABLE larder_export_app.larder_quarantine(table_name text, row_id bigint, reasons text, statement text);
        INSERT INTO larder_export_app.larder_quarantine VALUES ('a', 5, '', '')";
    let export_of = export(&store, &url).on_misfit(OnMisfit::Quarantine);
    let export_of = export_of.progress(move |progress| {
        if progress.stage == ExportStage::Copy && progress.rows >= ROWS && !std::mem::replace(&mut is_made, true) {
            observed.run("taken", take);
        }
        ControlFlow::Continue(())
    });
    let error = export_of.run().unwrap_err();
    let advice =
        "table larder_quarantine (the next export drops a table of that name in the schema larder_export_app): ";
    assert!(
        error.to_string().contains(advice) && error.to_string().contains("already exists"),
        "{error}"
    );
    assert_eq!(error.outcome(), Outcome::RolledBack);
    assert_eq!(tables(&server, "taken", "app"), "");
    assert_eq!(tables(&server, "taken", "larder_export_app"), "a b c larder_quarantine");
    // The next run drops it, as any table that is not in the store.
    let report = export(&store, &url).on_misfit(OnMisfit::Quarantine).run().unwrap();
    assert_eq!(resumed(&report), [true, true, true]);
    let rows = "SELECT string_agg(row_id || table_name || reasons, ',' ORDER BY row_id) || count(statement)
        FROM app.larder_quarantine";
    assert_eq!(server.run("taken", rows), "3as: blob,4as: blob2");
}

#[test]
fn rows_set_aside_are_there_once_though_the_last_transaction_is_repeated() {
    let Some(server) = Postgres::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder.path().join("app.db"));
    let set = "UPDATE a SET s = x'00' WHERE id IN (3, 4); DELETE FROM c WHERE a IN (3, 4);
        UPDATE c SET s = x'00' WHERE id = 9";
    store.write(move |tx| tx.execute_batch(set)).unwrap();
    let url = server.database("repeated");
    let run = |flow: ControlFlow<()>| {
        let comparisons = Arc::new(AtomicUsize::new(0));
        let (counted, mut before) = (Arc::clone(&comparisons), ExportStage::Scan);
        let export = export(&store, &url).on_misfit(OnMisfit::Quarantine);
        let export = export.progress(move |progress| {
            let is_next = before != progress.stage;
            before = progress.stage;
            if progress.stage != ExportStage::Compare {
                return ControlFlow::Continue(());
            }
            counted.fetch_add(usize::from(is_next), Ordering::Relaxed);
            flow
        });
        (export.run(), comparisons.load(Ordering::Relaxed))
    };
    // They are sent, and not yet compared.
    let (broken, comparisons) = run(ControlFlow::Break(()));
    assert!(matches!(broken, Err(Error::Cancelled { .. })), "{broken:?}");
    assert_eq!(comparisons, 1);
    assert_eq!(tables(&server, "repeated", "app"), "");
    assert_eq!(tables(&server, "repeated", "larder_export_app"), "a b c");

    server.run("repeated", "UPDATE larder_export_app.b SET s = 'other' WHERE n = 7");
    let (report, comparisons) = run(ControlFlow::Continue(()));
    let report = report.unwrap();
    assert_eq!(comparisons, 2);
    assert_eq!(resumed(&report), [true, false, true]);
    let aside: Vec<u64> = report.tables.iter().map(|table| table.quarantined).collect();
    assert_eq!(aside, [2, 0, 1]);
    assert_eq!(tables(&server, "repeated", "app"), "a b c larder_quarantine");
    let rows = "SELECT string_agg(table_name || row_id, ' ' ORDER BY table_name, row_id) FROM app.larder_quarantine";
    assert_eq!(server.run("repeated", rows), "a3 a4 c9");
    let counts = "SELECT (SELECT count(*) FROM app.a), (SELECT count(*) FROM app.b), (SELECT count(*) FROM app.c)";
    assert_eq!(
        server.run("repeated", counts),
        format!("{}|{ROWS}|{}", ROWS - 2, ROWS - 3)
    );
    assert_eq!(server.run("repeated", "SELECT s FROM app.b WHERE n = 7"), "row 7");
}

#[test]
fn table_of_rows_set_aside_is_seen_by_no_other_program_and_has_its_name() {
    let Some(server) = Postgres::start() else { return };
    let server = Arc::new(server);
    let store = store_of("CREATE TABLE a(id INTEGER PRIMARY KEY, n INTEGER); INSERT INTO a VALUES (1, 1), (2, 'x')");
    for (database, resumable, table) in [
        ("moved", true, "larder_export_app.larder_quarantine"),
        ("at_once", false, "app.larder_quarantine"),
    ] {
        let url = server.database(database);
        server.run(database, "CREATE SCHEMA app");
        let (observed, has_tried) = (Arc::clone(&server), Arc::new(AtomicBool::new(false)));
        let tried = Arc::clone(&has_tried);
        let export = export(&store, &url).resumable(resumable);
        let export = export.on_misfit(OnMisfit::Quarantine).progress(move |progress| {
            let is_made = match progress.stage {
                ExportStage::Scan => false,
                // A resumable export makes it in its last transaction.
                ExportStage::Copy => !resumable,
                _ => true,
            };
            if !is_made {
                return ControlFlow::Continue(());
            }
            for (sql, refused) in [
                (format!("INSERT INTO {table} VALUES ('a', 3, '', '')"), "does not exist"),
                // It waits for the name.
                (
                    format!("SET lock_timeout = 10; CREATE TABLE {table}(x int)"),
                    "lock timeout",
                ),
            ] {
                let error = observed.try_run(database, &sql).unwrap_err();
                assert!(error.contains(refused), "{error}");
            }
            tried.store(true, Ordering::Relaxed);
            ControlFlow::Continue(())
        });
        export.run().unwrap();
        assert!(has_tried.load(Ordering::Relaxed));
        assert_eq!(server.run(database, "SELECT row_id FROM app.larder_quarantine"), "2");
    }
}

#[test]
fn rows_set_aside_that_a_trigger_changes_are_found() {
    let Some(server) = Postgres::start() else { return };
    let store = Store::open_temp().unwrap();
    let table = "CREATE TABLE a(id INTEGER PRIMARY KEY, n INTEGER); INSERT INTO a VALUES (1, 1), (2, 'x'), (3, 'y')";
    store.write(move |tx| tx.execute_batch(table)).unwrap();
    for (at, change) in ["NEW.statement := 'other'; RETURN NEW;", "RETURN NULL;"]
        .iter()
        .enumerate()
    {
        for resumable in [false, true] {
            let database = format!("spoiled{at}{resumable}");
            let url = server.database(&database);
            let change = format!("IF NEW.row_id = 2 THEN {change} END IF;");
            before_insert(&server, &database, "larder_quarantine", &change);
            let export = export(&store, &url).resumable(resumable);
            let error = export.on_misfit(OnMisfit::Quarantine).run().unwrap_err();
            assert!(
                error.to_string().contains("table larder_quarantine is not the same"),
                "{error}"
            );
            assert_eq!(error.outcome(), Outcome::RolledBack);
            assert_eq!(tables(&server, &database, "app"), "");
        }
    }
}

/// Another program, which has run `sql` at the server. Its session ends with the pipe.
fn other_program(server: &Postgres, url: &str, sql: &str) -> (process::Child, ChildStdin) {
    let mut other = server.client("psql");
    other.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", url]);
    let mut other = other.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut commands = other.stdin.take().unwrap();
    writeln!(commands, "{sql}; SELECT 'done';").unwrap();
    let mut answer = String::new();
    let mut answers = BufReader::new(other.stdout.take().unwrap());
    answers.read_line(&mut answer).unwrap();
    assert_eq!(answer.trim(), "done", "{sql}");
    (other, commands)
}

/// Whether an export waits for a lock in a statement like this.
fn waits(server: &Postgres, database: &str, statement: &str) -> bool {
    let waiting = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'larder' AND datname = current_database()
         AND wait_event_type = 'Lock' AND query LIKE '{statement}'"
    );
    server.run(database, &waiting) != "0"
}

/// Begins the transaction of another program. If nothing ends it, it does not hold the test up for more than some minutes.
const BEGIN: &str = "SET idle_in_transaction_session_timeout = '10min'; BEGIN";

#[test]
fn waits_for_a_lock_of_the_server_are_cancelled() {
    let Some(server) = Postgres::start() else { return };
    let server = Arc::new(server);
    let store = store_of("CREATE TABLE a(id INTEGER PRIMARY KEY, n INTEGER); INSERT INTO a VALUES (1, 1), (2, 'x')");
    for (database, made, lock, statement, resumes) in [
        ("schema", "", "CREATE SCHEMA app", "CREATE SCHEMA%", false),
        (
            "aside",
            "",
            "CREATE TABLE larder_export_app.larder_quarantine(x int)",
            "CREATE TABLE%larder_quarantine%",
            true,
        ),
        (
            "dropped",
            "CREATE TABLE larder_export_app.old(x int)",
            "LOCK TABLE larder_export_app.old",
            "DROP TABLE%old%",
            true,
        ),
        (
            "sequence",
            "",
            "ALTER SEQUENCE larder_export_app.a_id_seq CACHE 2",
            "SELECT setval%",
            true,
        ),
    ] {
        let url = server.database(database);
        let export = || export(&store, &url).resumable(resumes).on_misfit(OnMisfit::Quarantine);
        if resumes {
            // The schema and the complete table of an earlier run.
            let earlier = export().progress(|progress| match progress.stage {
                ExportStage::Index => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            });
            earlier.run().unwrap_err();
        }
        server.run(database, made);
        let (mut other, commands) = other_program(&server, &url, &format!("{BEGIN}; {lock}"));
        let observed = Arc::clone(&server);
        let export = export().progress(move |_| match waits(&observed, database, statement) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        });
        let error = export.run().unwrap_err();
        assert!(matches!(error, Error::Cancelled { .. }), "{database}: {error}");
        assert!(!waits(&server, database, "%"), "{database}");
        drop(commands);
        assert!(other.wait().unwrap().success());
    }
}

#[test]
fn copy_that_waits_for_a_lock_of_the_server_is_cancelled() {
    let Some(server) = Postgres::start() else { return };
    let server = Arc::new(server);
    // The wait begins when all rows are handed on, or when no more of them are taken.
    for (of, rows) in [
        ("a", 2),
        ("a", 200_000),
        ("larder_quarantine", 2),
        ("larder_quarantine", 200_000),
    ] {
        let store = Store::open_temp().unwrap();
        let table = format!(
            "CREATE TABLE a(id INTEGER PRIMARY KEY, n INTEGER);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
             INSERT INTO a SELECT i, iif(i % 2, i, 'x') FROM n"
        );
        store.write(move |tx| tx.execute_batch(&table)).unwrap();
        for resumable in [false, true] {
            let database = format!("{of}{rows}{resumable}");
            let url = server.database(&database);
            before_insert(&server, &database, of, "PERFORM pg_advisory_xact_lock(7);");
            let lock = format!("{BEGIN}; DO $$ BEGIN PERFORM pg_advisory_xact_lock(7); END $$");
            let (mut other, commands) = other_program(&server, &url, &lock);
            let (observed, at, mut before) = (Arc::clone(&server), database.clone(), None);
            let statement = format!("COPY%{of}%");
            let export = export(&store, &url).resumable(resumable);
            let export = export.on_misfit(OnMisfit::Quarantine).progress(move |progress| {
                let stands_still = before.replace(progress.rows) == Some(progress.rows);
                match stands_still && waits(&observed, &at, &statement) {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            });
            let error = export.run().unwrap_err();
            assert!(matches!(error, Error::Cancelled { .. }), "{database}: {error}");
            assert!(!waits(&server, &database, "%"), "{database}");
            assert_eq!(tables(&server, &database, "app"), "", "{database}");
            drop(commands);
            assert!(other.wait().unwrap().success());
        }
    }
}

#[test]
fn export_waits_for_the_lock_of_another_one() {
    let Some(server) = Postgres::start() else { return };
    let server = Arc::new(server);
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder.path().join("app.db"));
    let url = server.database("locked");
    let digest = Sha256::digest("larder_export_app");
    let key = i64::from_be_bytes(*digest.first_chunk().unwrap());
    let lock = format!("DO $$ BEGIN PERFORM pg_advisory_lock({key}); END $$");
    let (mut other, commands) = other_program(&server, &url, &lock);
    let has_begun = Arc::new(AtomicBool::new(false));
    let (observed, begun) = (Arc::clone(&server), Arc::clone(&has_begun));
    let export_of = export(&store, &url).progress(move |progress| {
        if progress.stage != ExportStage::Scan {
            begun.store(true, Ordering::Relaxed);
            return ControlFlow::Continue(());
        }
        // It connects once it has read all rows. From then on, it waits for the lock.
        let connected = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'larder'";
        match observed.run("locked", connected).as_str() {
            "0" => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    });
    let error = export_of.run().unwrap_err();
    assert!(matches!(error, Error::Cancelled { .. }), "{error}");
    assert!(!has_begun.load(Ordering::Relaxed));
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname = 'larder_export_app'";
    assert_eq!(server.run("locked", schemas), "0");

    drop(commands);
    assert!(other.wait().unwrap().success());
    export(&store, &url).run().unwrap();
    is_whole(&server, "locked");
}

#[test]
fn server_that_stops_in_the_middle_keeps_complete_tables() {
    let Some(mut server) = Postgres::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder.path().join("app.db"));
    let url = server.database("stopped");
    let error = interrupted(export(&store, &url), ROWS, || server.stop_at_once());
    assert!(matches!(error, Error::Postgres { .. }), "{error}");
    assert_eq!(error.outcome(), Outcome::RolledBack);
    server.start_again();
    assert_eq!(tables(&server, "stopped", "app"), "");
    assert_eq!(tables(&server, "stopped", "larder_export_app"), "a");
    let report = export(&store, &url).run().unwrap();
    assert_eq!(resumed(&report), [true, false, false]);
    is_whole(&server, "stopped");
}

#[test]
fn broken_connection_keeps_complete_tables() {
    let Some(server) = Postgres::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder.path().join("app.db"));
    let url = server.database("broken");
    let end = "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE application_name = 'larder'";
    let error = interrupted(export(&store, &url), ROWS, || {
        assert_eq!(server.run("broken", end), "t")
    });
    assert!(
        error.is_retryable() && error.outcome() == Outcome::RolledBack,
        "{error}"
    );
    assert_eq!(tables(&server, "broken", "app"), "");
    assert_eq!(resumed(&export(&store, &url).run().unwrap()), [true, false, false]);
    is_whole(&server, "broken");
}

#[test]
fn killed_export_is_resumed() {
    let Some(server) = Postgres::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    store(&path).close().unwrap();
    let url = server.database("killed");
    for _ in 0..2 {
        let child = Child::start("postgres::resume", "export", &[path.to_str().unwrap(), &url]);
        child.expect("copying");
        child.kill();
        assert_eq!(tables(&server, "killed", "app"), "");
    }
    let store = Store::open(&path).unwrap();
    let report = export(&store, &url).run().unwrap();
    assert!(report.tables[0].resumed, "{report}");
    is_whole(&server, "killed");
}

/// Exports until the second table, of which the parent hears; and whether the first one is complete.
pub(crate) fn child(task: &Task) {
    let store = Store::open(&task.args[0]).unwrap();
    let export = export(&store, &task.args[1]).progress(|progress| {
        if progress.stage == ExportStage::Copy && progress.rows >= ROWS {
            tell("copying");
            listen();
        }
        ControlFlow::Continue(())
    });
    let _ = export.run();
}
