//! Exports to a real server.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use larder::rusqlite::params;
use larder::{Error, ExportStage, ExportToPostgres, OnMisfit, Options, Outcome, PgType, Store};
use sha2::{Digest, Sha256};

use super::tables;
use crate::support::child::{Child, PATIENCE, Task, listen, tell};
use crate::support::hear;
use crate::support::postgres::{Postgres, chinook};

const SHOP: &str = "
    CREATE TABLE customers(
        id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL DEFAULT 'it''s', email TEXT COLLATE NOCASE UNIQUE,
        born TEXT DEFAULT CURRENT_TIMESTAMP, balance REAL CHECK (balance >= 0 OR balance IS NULL),
        boss INTEGER REFERENCES customers(id) ON DELETE SET NULL
    ) STRICT;
    CREATE TABLE orders(
        customer INTEGER, number INTEGER, note TEXT, amount NUMERIC(10,2), data BLOB,
        PRIMARY KEY (customer, number),
        FOREIGN KEY (customer) REFERENCES customers(id) ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED
    ) WITHOUT ROWID;
    CREATE TABLE log(at DATETIME, line TEXT);
    CREATE INDEX by_name ON customers(name DESC);
    CREATE UNIQUE INDEX by_mail ON customers(email COLLATE NOCASE);
    CREATE INDEX partly ON orders(note) WHERE note IS NOT NULL;
    CREATE VIEW names AS SELECT name FROM customers;
    CREATE TRIGGER t AFTER INSERT ON log BEGIN SELECT 1; END;
    CREATE VIRTUAL TABLE texts USING fts5(body);
    INSERT INTO customers(id, name, email, balance, boss) VALUES (7, 'Ada \u{1F600} \"''', 'Ada@x', 1e300, 7), (2, '', NULL, 0.1, NULL);
    INSERT INTO customers(id, name) VALUES (100, 'gone');
    DELETE FROM customers WHERE id = 100;
    INSERT INTO orders VALUES (7, -9223372036854775808, 'b', 12.5, x'00ff'), (7, 9223372036854775807, NULL, 3, x'');
    INSERT INTO log VALUES ('2024-01-01 00:00:00', 'b'), (NULL, 'a'), (NULL, 'a');
    INSERT INTO texts VALUES ('words');
";

fn shop() -> Store {
    let store = Store::open_temp().unwrap();
    store.write(|tx| tx.execute_batch(SHOP)).unwrap();
    store
}

#[test]
fn export_keeps_rows_keys_and_constraints_and_lists_the_rest() {
    let Some(server) = Postgres::start() else { return };
    let store = shop();
    let report = store.export_to_postgres(&server.database("shop")).run().unwrap();
    assert!(report.is_written && report.misfits.is_empty(), "{report}");
    assert_eq!(report.rows(), 7);
    assert!(
        report
            .tables
            .iter()
            .all(|table| table.sha256.as_ref().is_some_and(|hash| hash.len() == 64))
    );
    let run = |sql: &str| server.run("shop", sql);
    assert_eq!(
        run("SELECT id, name, email, balance FROM customers ORDER BY id"),
        "2|||0.1\n7|Ada \u{1F600} \"'|Ada@x|1e+300"
    );
    assert_eq!(
        run("SELECT number, amount, data FROM orders ORDER BY number"),
        "-9223372036854775808|12.5|\\x00ff\n9223372036854775807|3|\\x"
    );
    assert_eq!(
        run("INSERT INTO customers(email) VALUES ('x') RETURNING id, name, length(born)"),
        "101|it's|19"
    );
    let refused = [
        "INSERT INTO customers(name, balance) VALUES ('x', -1)",
        "INSERT INTO customers(email) VALUES ('ADA@X')",
        "INSERT INTO customers(name) VALUES (NULL)",
        "INSERT INTO orders VALUES (8, 1, NULL, 1, NULL)",
        "INSERT INTO orders VALUES (7, 9223372036854775807, NULL, 1, NULL)",
    ];
    for statement in refused {
        let statement = format!(
            "DO $$ BEGIN {statement}; SET CONSTRAINTS ALL IMMEDIATE; RAISE 'it was not refused'; EXCEPTION WHEN integrity_constraint_violation THEN END $$"
        );
        run(&statement);
    }
    assert_eq!(
        run("SELECT condeferred, confupdtype FROM pg_constraint WHERE conrelid = 'orders'::regclass AND contype = 'f'"),
        "t|c"
    );
    let text = report.to_string();
    for part in ["view names", "trigger t", "virtual texts", "tsvector", "NOCASE"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("by_name"), "{text}");
}

#[test]
fn checksum_is_that_of_a_binary_copy() {
    let Some(server) = Postgres::start() else { return };
    let store = shop();
    store
        .write(|tx| {
            tx.execute_batch(
                "CREATE TABLE amounts(id TEXT PRIMARY KEY, n NUMERIC(10,2), t TEXT, f REAL);
                 INSERT INTO amounts VALUES ('b', 0, '0.00', -0.0), ('a', 100000000, '-12345.6700', 1.5), ('z', NULL, '0.0001', 9e999)",
            )
        })
        .unwrap();
    let url = server.database("sums");
    let export = store
        .export_to_postgres(&url)
        .column_type("amounts", "t", PgType::Numeric);
    let report = export.run().unwrap();
    for (table, columns, order) in [
        ("customers", "id, name, email, born, balance, boss", "id"),
        ("orders", "customer, number, note, amount, data", "customer, number"),
        ("amounts", "id, n, t, f", "id COLLATE \"C\""),
    ] {
        let copy = format!("COPY (SELECT {columns} FROM {table} ORDER BY {order}) TO STDOUT (FORMAT binary)");
        let output = server
            .client("psql")
            .args(["-X", "-q", "-d", &url, "-c", &copy])
            .output()
            .unwrap();
        let sum: String = Sha256::digest(&output.stdout)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let exported = report.tables.iter().find(|exported| exported.name == table).unwrap();
        assert_eq!(exported.sha256.as_ref(), Some(&sum), "{table}");
    }
}

#[test]
fn chinook_is_at_the_server_row_by_row() {
    let folder = tempfile::tempdir().unwrap();
    let Some(server) = Postgres::start() else { return };
    let store = chinook(folder.path());
    let report = store.export_to_postgres(&server.database("chinook")).run().unwrap();
    println!("{report}");
    assert!(report.misfits.is_empty() && report.tables.len() == 11, "{report}");
    for table in &report.tables {
        let count = format!("SELECT count(*) FROM \"{}\"", table.target);
        assert_eq!(server.run("chinook", &count), table.rows.to_string());
    }
    let keys = "SELECT count(*) FROM pg_constraint WHERE contype = 'f'";
    assert_eq!(server.run("chinook", keys), "11");
}

#[test]
fn misfits_are_named_before_anything_is_written() {
    let Some(server) = Postgres::start() else { return };
    let store = Store::open_temp().unwrap();
    store
        .write(|tx| {
            tx.execute_batch(
                "CREATE TABLE t(id INTEGER PRIMARY KEY, n INTEGER, s TEXT, r REAL, b BLOB);
                 INSERT INTO t(n) VALUES (1), ('one'), ('two'), (1.5), (x'00');
                 INSERT INTO t(s) VALUES ('a' || char(0) || 'b'), (x'ff'), (cast(x'ff' AS TEXT));
                 INSERT INTO t(r) VALUES (9e999), (-9e999), ('x'), (x'');
                 INSERT INTO t(b) VALUES ('text'), (1), (x'00')",
            )
        })
        .unwrap();
    let url = server.database("misfits");
    let plan = store.export_to_postgres(&url).dry_run().unwrap();
    let found: Vec<String> = plan.misfits.iter().map(ToString::to_string).collect();
    let wanted = [
        "t.n: 1 values do not fit bigint: blob, first in row 5",
        "t.n: 1 values do not fit bigint: real, first in row 4",
        "t.n: 2 values do not fit bigint: text, first in row 2",
        "t.s: 1 values do not fit text: blob, first in row 7",
        "t.s: 1 values do not fit text: text with U+0000, first in row 6",
        "t.s: 1 values do not fit text: text that is not UTF-8, first in row 8",
        "t.r: 1 values do not fit double precision: blob, first in row 12",
        "t.r: 1 values do not fit double precision: text, first in row 11",
        "t.b: 1 values do not fit bytea: integer, first in row 14",
        "t.b: 1 values do not fit bytea: text, first in row 13",
    ];
    assert_eq!(found, wanted);
    let error = store.export_to_postgres(&url).run().unwrap_err();
    assert!(
        error.to_string().contains("t.n: 2 values do not fit bigint: text"),
        "{error}"
    );
    assert_eq!(tables(&server, "misfits"), "0");
    let report = store.export_to_postgres(&url).on_misfit(OnMisfit::Null).run().unwrap();
    assert!(report.is_written);
    let left = "SELECT count(n), count(s), count(r), count(b), max(r), min(r) FROM t";
    assert_eq!(server.run("misfits", left), "1|0|2|1|Infinity|-Infinity");
}

#[test]
fn misfits_as_text_keep_their_digits() {
    let Some(server) = Postgres::start() else { return };
    let store = Store::open_temp().unwrap();
    let rows = "CREATE TABLE t(id INTEGER PRIMARY KEY, n INTEGER); INSERT INTO t(n) VALUES (1), ('one'), (1.5)";
    store.write(move |tx| tx.execute_batch(rows)).unwrap();
    let export = store.export_to_postgres(&server.database("text"));
    export.on_misfit(OnMisfit::Text).run().unwrap();
    assert_eq!(server.run("text", "SELECT n FROM t ORDER BY id"), "1\none\n1.5");
}

#[test]
fn column_types_are_those_that_were_asked_for() {
    let Some(server) = Postgres::start() else { return };
    let store = Store::open_temp().unwrap();
    store
        .write(|tx| {
            tx.execute_batch("CREATE TABLE t(u TEXT PRIMARY KEY, at TEXT, done INTEGER, n TEXT) STRICT")?;
            let insert = "INSERT INTO t VALUES (?1, ?2, ?3, ?4)";
            tx.execute(
                insert,
                params![
                    "00112233-4455-6677-8899-aabbccddeeff",
                    "2024-02-29T23:59:59.123456+02:00",
                    1,
                    "1234567890123456.7891"
                ],
            )?;
            tx.execute(
                insert,
                params!["ffffffff-4455-6677-8899-aabbccddeeff", "2024-02-29 00:00", 0, "-0.10"],
            )
        })
        .unwrap();
    let export = || {
        let export = store.export_to_postgres(&server.url("types"));
        export
            .column_type("t", "u", PgType::Uuid)
            .column_type("t", "done", PgType::Bool)
    };
    server.database("types");
    let export = export()
        .column_type("t", "at", PgType::Timestamptz)
        .column_type("t", "n", PgType::Numeric);
    export.run().unwrap();
    assert_eq!(
        server.run("types", "SET timezone = 'UTC'; SELECT * FROM t ORDER BY u"),
        "00112233-4455-6677-8899-aabbccddeeff|2024-02-29 21:59:59.123456+00|t|1234567890123456.7891\n\
         ffffffff-4455-6677-8899-aabbccddeeff|2024-02-29 00:00:00+00|f|-0.10"
    );
    let error = store
        .export_to_postgres(&server.url("types"))
        .column_type("t", "x", PgType::Bool)
        .run()
        .unwrap_err();
    assert!(error.to_string().contains("no column x"), "{error}");
}

#[test]
fn hostile_names_and_circular_keys_are_exported() {
    let Some(server) = Postgres::start() else { return };
    let store = Options::new().foreign_keys(false).open_temp().unwrap();
    let long = "x".repeat(70);
    let other = format!("{}y", "x".repeat(69));
    let schema = format!(
        "CREATE TABLE \"select\"(\"a\"\"b\" INTEGER PRIMARY KEY, \"Group\" TEXT, \"{long}\" TEXT, \"{other}\" TEXT);
         CREATE TABLE \"{long}\"(id INTEGER PRIMARY KEY, other INTEGER REFERENCES \"{other}\"(id));
         CREATE TABLE \"{other}\"(id INTEGER PRIMARY KEY, other INTEGER REFERENCES \"{long}\"(id));
         INSERT INTO \"select\" VALUES (1, 'g', 'l', 'o');
         INSERT INTO \"{long}\" VALUES (1, 1); INSERT INTO \"{other}\" VALUES (1, 1);"
    );
    store.write(move |tx| tx.execute_batch(&schema)).unwrap();
    let report = store.export_to_postgres(&server.database("names")).run().unwrap();
    assert!(report.notes.is_empty(), "{report}");
    assert_eq!(
        server.run("names", "SELECT \"a\"\"b\", \"Group\" FROM \"select\""),
        "1|g"
    );
    assert_eq!(
        server.run("names", "SELECT count(*) FROM pg_constraint WHERE contype = 'f'"),
        "2"
    );
}

#[test]
fn failed_export_leaves_the_target_as_it_was() {
    let Some(server) = Postgres::start() else { return };
    let store = shop();
    let url = server.database("there");
    server.run("there", "CREATE TABLE orders(x int)");
    let error = store.export_to_postgres(&url).run().unwrap_err();
    assert!(
        error
            .to_string()
            .contains("the schema public has orders already: export to another schema"),
        "{error}"
    );
    assert_eq!((error.outcome(), error.kind()), (Outcome::RolledBack, "postgres"));
    assert_eq!(tables(&server, "there"), "1");
}

#[test]
fn cancelled_export_leaves_nothing() {
    let Some(server) = Postgres::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let store = many_rows(&folder.path().join("app.db"));
    let url = server.database("cancelled");
    let export = store
        .export_to_postgres(&url)
        .progress(|progress| match progress.stage {
            ExportStage::Compare => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        });
    let error = export.run().unwrap_err();
    assert!(matches!(error, Error::Cancelled { work: "export" }), "{error}");
    assert_eq!(tables(&server, "cancelled"), "0");
}

#[test]
fn cancellation_ends_the_statement_of_the_server_that_makes_an_index() {
    let Some(server) = Postgres::start() else { return };
    let server = Arc::new(server);
    let url = server.database("slow");
    // An index takes ten minutes.
    server.run(
        "slow",
        "CREATE FUNCTION wait() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(600); END $$;
         CREATE EVENT TRIGGER slow ON ddl_command_start WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION wait()",
    );
    let store = Store::open_temp().unwrap();
    let table =
        "CREATE TABLE t(id INTEGER PRIMARY KEY, s TEXT); CREATE INDEX by_s ON t(s); INSERT INTO t VALUES (1, 'a')";
    store.write(move |tx| tx.execute_batch(table)).unwrap();
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    let observed = Arc::clone(&server);
    let began = Instant::now();
    let export = store.export_to_postgres(&url).progress(move |progress| {
        match progress.stage == ExportStage::Index && observed.run("slow", sleeping) == "1" {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    let error = export.run().unwrap_err();
    assert!(matches!(error, Error::Cancelled { work: "export" }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(300), "{:?}", began.elapsed());
    assert_eq!(server.run("slow", sleeping), "0");
    assert_eq!(tables(&server, "slow"), "0");
}

fn many_rows(path: &std::path::Path) -> Store {
    let store = Store::open(path).unwrap();
    store
        .write(|tx| {
            tx.execute_batch(
                "CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, s TEXT);
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000)
                 INSERT OR IGNORE INTO t SELECT i, 'row ' || i FROM n",
            )
        })
        .unwrap();
    store
}

/// Runs an export that waits until `interrupt` was called once it has sent that many rows, and returns its error.
pub(super) fn interrupted(export: ExportToPostgres<'_>, rows: u64, interrupt: impl FnOnce()) -> Error {
    let (copying, is_copying) = channel();
    let (go, goes) = channel::<()>();
    thread::scope(|scope| {
        let export = scope.spawn(move || {
            let mut waits = true;
            let export = export.progress(move |progress| {
                let is_there = progress.stage == ExportStage::Copy && progress.rows >= rows;
                if is_there && std::mem::take(&mut waits) {
                    copying.send(()).unwrap();
                    // The other side may be gone, if its assertion has failed.
                    let told = goes.recv_timeout(PATIENCE);
                    assert_ne!(told, Err(RecvTimeoutError::Timeout), "nothing lets the export go on");
                }
                ControlFlow::Continue(())
            });
            export.run().unwrap_err()
        });
        hear(&is_copying);
        interrupt();
        go.send(()).unwrap();
        export.join().unwrap()
    })
}

#[test]
fn server_that_stops_in_the_middle_has_nothing() {
    let Some(mut server) = Postgres::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let store = many_rows(&folder.path().join("app.db"));
    let url = server.database("stopped");
    let error = interrupted(store.export_to_postgres(&url), 0, || server.stop_at_once());
    assert!(matches!(error, Error::Postgres { .. }), "{error}");
    assert_eq!(error.outcome(), Outcome::RolledBack);
    server.start_again();
    assert_eq!(tables(&server, "stopped"), "0");
}

#[test]
fn broken_connection_leaves_nothing_and_can_be_tried_again() {
    let Some(server) = Postgres::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let store = many_rows(&folder.path().join("app.db"));
    let url = server.database("broken");
    let end = "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE application_name = 'larder'";
    let error = interrupted(store.export_to_postgres(&url), 0, || {
        assert_eq!(server.run("broken", end), "t")
    });
    assert!(
        error.is_retryable() && error.outcome() == Outcome::RolledBack,
        "{error}"
    );
    assert_eq!(tables(&server, "broken"), "0");
    assert_eq!(store.export_to_postgres(&url).run().unwrap().rows(), 300_000);
}

#[test]
fn killed_export_leaves_nothing_at_the_server() {
    let Some(server) = Postgres::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    many_rows(&path).close().unwrap();
    let url = server.database("killed");
    let child = Child::start("postgres::export", "export", &[path.to_str().unwrap(), &url]);
    child.expect("copying");
    child.kill();
    let give_up = Instant::now() + PATIENCE;
    let ours = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'larder'";
    while server.run("killed", ours) != "0" {
        assert!(Instant::now() < give_up, "the server ends the session");
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(tables(&server, "killed"), "0");
    let store = Store::open(&path).unwrap();
    assert_eq!(store.export_to_postgres(&url).run().unwrap().rows(), 300_000);
}

pub(crate) fn child(task: &Task) {
    let store = Store::open(&task.args[0]).unwrap();
    let export = store.export_to_postgres(&task.args[1]).progress(|progress| {
        if progress.stage == ExportStage::Copy {
            tell("copying");
            listen();
        }
        ControlFlow::Continue(())
    });
    let _ = export.run();
}

#[test]
fn cancellation_ends_the_comparison_and_leaves_the_target_as_it_was() {
    let Some(server) = Postgres::start() else { return };
    // It is a multiple of 256, the steps of the progress.
    let count = 512_000;
    for (database, columns, count, from) in [
        // Its bytes alone are read, which is faster.
        ("cancelled", "i INTEGER PRIMARY KEY, s TEXT", 4 * count, 1),
        // Those of which both sides are read.
        (
            "cancelled_order",
            "i INTEGER PRIMARY KEY, s TEXT, g INTEGER AS (i + 1)",
            count,
            1,
        ),
        // Those that are read one after the other: the store, and the server.
        ("cancelled_sum", "i INTEGER, s TEXT, g INTEGER AS (i + 1)", count, 1),
        (
            "cancelled_sum_there",
            "i INTEGER, s TEXT, g INTEGER AS (i + 1)",
            count,
            count,
        ),
    ] {
        let store = Store::open_temp().unwrap();
        // Reading them takes longer than the callback is apart.
        let rows = format!(
            "CREATE TABLE t({columns});
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
             INSERT INTO t(i, s) SELECT i, 'row ' || i FROM n"
        );
        store.write(move |tx| tx.execute_batch(&rows)).unwrap();
        let export = store.export_to_postgres(&server.database(database));
        let export = export.progress(move |progress| match progress.stage {
            ExportStage::Compare if progress.rows >= from => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        });
        let error = export.run().unwrap_err();
        assert!(matches!(error, Error::Cancelled { .. }), "{error}");
        assert_eq!(tables(&server, database), "0");
    }
}
