//! What a dry run says beyond rows: statements that change, time, and the SQL to review. And what shows a running export.

use std::ops::ControlFlow;

use larder::{ExportStage, Options, Store};
use tracing::Level;

use super::store_of;
use crate::support::log;
use crate::support::postgres::Postgres;

/// A dry run looks for no server.
const NOWHERE: &str = "host=nowhere.invalid user=ada dbname=app";

/// What no event, no figure and no error may have in it.
const SECRET: &str = "canary-pg-77c1";

#[test]
fn statements_of_the_service_are_in_its_plan() {
    let store = Options::new().max_statements(100).open_temp().unwrap();
    store
        .write(|tx| {
            tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, s TEXT NOT NULL)")?;
            for id in 0..3 {
                tx.execute("INSERT OR IGNORE INTO t VALUES (?1, 'rowid')", [id])?;
            }
            tx.query_row("SELECT count(*) FROM t WHERE s = ?1", ["rowid"], |_| Ok(()))
        })
        .unwrap();
    let plan = store.export_to_postgres(NOWHERE).dry_run().unwrap();
    let [statement] = plan.statements.as_slice() else {
        panic!("{plan}")
    };
    assert_eq!((statement.calls, plan.statements_seen), (3, 2), "{plan}");
    assert_eq!(statement.sql, "INSERT OR IGNORE INTO t VALUES (?1, 'rowid')");
    let used: Vec<&str> = statement.differences.iter().map(|found| found.what.as_str()).collect();
    assert_eq!(used, ["INSERT OR IGNORE"]);
    assert!(
        plan.notes
            .iter()
            .any(|note| note.object == "parameters of 2 statements"),
        "{plan}"
    );
}

#[test]
fn estimate_scales_with_the_rows_of_a_sample() {
    let store = store_of(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, s TEXT NOT NULL);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40000)
         INSERT INTO t SELECT i * 3, printf('%0100d', i) FROM n;
         CREATE TABLE empty(id INTEGER PRIMARY KEY);
         CREATE TABLE keyed(k TEXT PRIMARY KEY, b BLOB) WITHOUT ROWID;
         INSERT INTO keyed VALUES ('a', zeroblob(3000000)), ('b', x'00')",
    );
    let plan = store.export_to_postgres(NOWHERE).dry_run().unwrap();
    let estimate = plan.estimate.unwrap();
    // 10,000 of 40,000 rows, in bytes of 1 MiB at most; of the other table the first row, which is longer than that.
    assert!((5_000..=10_001).contains(&estimate.sample_rows), "{estimate:?}");
    // 2 bytes for the number of fields, twice 4 for the lengths, 8 and 100 for the values.
    let (rows, keyed) = (40_000 * 118, 2 * (2 + 4 + 1 + 4 + 3_000_000));
    let wanted = rows + keyed;
    assert!(estimate.bytes.abs_diff(wanted) < 200, "{estimate:?}, {wanted}");
    assert!(estimate.server.is_none() && estimate.here.as_nanos() > 0);
    assert!(plan.to_string().contains("which was not measured"), "{plan}");
}

#[test]
fn probe_has_no_generated_column_of_a_table_with_one_that_the_server_refuses() {
    let Some(server) = Postgres::start() else { return };
    let store = store_of(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a INTEGER, b INTEGER, s TEXT AS (a || b), n INTEGER AS (a + b), UNIQUE (a, b));
         CREATE INDEX joined ON t(a || b); INSERT INTO t(a, b) VALUES (1, 2), (3, 4);
         CREATE TABLE u(id INTEGER PRIMARY KEY, s TEXT); INSERT INTO u VALUES (1, 'a')",
    );
    let export = store.export_to_postgres(&server.database("generated"));
    let plan = export.probe(true).dry_run().unwrap();
    assert!(plan.estimate.unwrap().server.is_some(), "{plan}");
    let create = &plan.tables[0].create;
    assert!(create.contains("\"n\" bigint"), "{create}");
    assert!(create.contains("\"s\" text"), "{create}");
    assert!(!create.contains("GENERATED ALWAYS"), "{create}");
    for column in ["s", "n"] {
        let note = format!(
            "column t.{column}: an ordinary column with the values of now, since the server refused a generated column of \
             this table: operator does not exist"
        );
        assert!(plan.to_string().contains(&note), "{plan}");
    }
}

#[test]
fn probe_measures_the_server_and_leaves_nothing() {
    let Some(server) = Postgres::start() else { return };
    let store = store_of(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, s TEXT UNIQUE, n INTEGER CHECK (n IN (0, 1)), twice AS (n * 2));
         CREATE INDEX by_n ON t(n DESC) WHERE s IS NOT NULL;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
         INSERT INTO t(s, n) SELECT 's ' || i, i % 2 FROM n;
         CREATE TABLE other(t INTEGER REFERENCES t(id), at DATETIME)",
    );
    let url = server.database("probed");
    let export = store.export_to_postgres(&url).infer_types(true);
    let plan = export.probe(true).dry_run().unwrap();
    let estimate = plan.estimate.unwrap();
    assert!(estimate.server.unwrap().as_nanos() > 0, "{plan}");
    assert_eq!(estimate.total(), estimate.here + estimate.server.unwrap());
    assert!(plan.to_string().contains("at the server"), "{plan}");
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'larder%'";
    assert_eq!(server.run("probed", schemas), "0");
    assert_eq!(server.run("probed", "SELECT count(*) FROM pg_stat_user_tables"), "0");
    let gone = url.replace("/probed", "/gone");
    let error = store.export_to_postgres(&gone).probe(true).dry_run().unwrap_err();
    assert_eq!(error.kind(), "postgres", "{error}");
}

const DOCS: &str = "
    CREATE TABLE docs(id INTEGER PRIMARY KEY, title TEXT, body TEXT, pages INTEGER NOT NULL);
    CREATE VIRTUAL TABLE texts USING fts5(title, body, content='docs', content_rowid='id', tokenize='porter unicode61');
    CREATE VIRTUAL TABLE notes USING fts5(body, author UNINDEXED);
    CREATE VIRTUAL TABLE parts USING fts5(title, content=docs, tokenize = \"trigram\");
    CREATE VIRTUAL TABLE bare USING fts5(x, content='');
    CREATE TRIGGER added AFTER INSERT ON docs BEGIN
        INSERT INTO texts(rowid, title, body) VALUES (new.id, new.title, new.body);
    END;
    CREATE TRIGGER removed AFTER DELETE ON docs BEGIN
        INSERT INTO texts(texts, rowid, title, body) VALUES ('delete', old.id, old.title, old.body);
    END;
    CREATE TRIGGER guard BEFORE UPDATE ON docs WHEN new.pages < 0 BEGIN SELECT RAISE(ABORT, 'no pages'); END;
    CREATE VIEW long(id, name) AS SELECT d.id, upper(d.title) AS name FROM docs AS d WHERE d.pages > 100 OR d.title IS NULL;
    CREATE VIEW recent AS SELECT rowid, title FROM docs WHERE title LIKE 'a%';
    CREATE VIEW odd AS SELECT id, median(pages) OVER (PARTITION BY title) FROM docs;
    INSERT INTO docs VALUES (1, 'Running wolves', 'A cat ran', 120), (2, 'Cats', 'No wolf here', 3);
    INSERT INTO notes VALUES ('a note', 'Ann');
";

#[test]
fn drafts_for_what_is_not_made_run_at_the_server() {
    let Some(server) = Postgres::start() else { return };
    let store = store_of(DOCS);
    let report = store.export_to_postgres(&server.database("docs")).run().unwrap();
    let note = |object: &str| {
        let found = report.notes.iter().find(|note| note.object == object);
        found.unwrap_or_else(|| panic!("{object}: {report}"))
    };
    let run = |sql: &str| server.run("docs", sql);
    for object in ["virtual texts", "virtual notes", "view long"] {
        run(note(object).sql.as_ref().unwrap());
    }
    // The stems of English words, and a weight as the filter of a column.
    let search = |query: &str| {
        run(&format!(
            "SELECT id FROM docs WHERE texts_search @@ {query} ORDER BY id"
        ))
    };
    assert_eq!(search("websearch_to_tsquery('english', 'cat')"), "1\n2");
    assert_eq!(search("to_tsquery('english', 'cats:A')"), "2");
    assert!(note("virtual texts").instead.contains("ts_rank"), "{report}");
    run("INSERT INTO notes VALUES (1, 'a note', 'Ann')");
    let found = "SELECT author FROM notes WHERE search @@ websearch_to_tsquery('simple', 'note')";
    assert_eq!(run(found), "Ann");
    assert_eq!(
        run("SELECT count(*) FROM notes WHERE search @@ to_tsquery('simple', 'ann')"),
        "0"
    );
    assert!(note("virtual notes").instead.contains("it has 1 rows"), "{report}");
    assert!(
        note("virtual parts").sql.as_ref().unwrap().contains("gin_trgm_ops"),
        "{report}"
    );
    assert!(note("virtual bare").instead.contains("it has no text"), "{report}");
    assert_eq!(run("SELECT * FROM long"), "1|RUNNING WOLVES");
    let recent = note("view recent");
    assert!(
        recent.instead.contains("rowid") && recent.instead.contains("LIKE"),
        "{report}"
    );
    assert!(
        recent.sql.as_ref().unwrap().starts_with("CREATE VIEW recent"),
        "{report}"
    );
    assert!(
        note("view odd").instead.contains("write it in the server's SQL"),
        "{report}"
    );
    for trigger in ["trigger added", "trigger removed"] {
        assert!(note(trigger).instead.contains("not needed"), "{report}");
    }
    let guard = note("trigger guard");
    assert!(guard.instead.contains("RAISE EXCEPTION"), "{report}");
    assert!(
        guard.sql.as_ref().unwrap().contains("RAISE(ABORT, 'no pages')"),
        "{report}"
    );
}

#[test]
fn comments_are_kept_where_they_are_clear() {
    let Some(server) = Postgres::start() else { return };
    let store = store_of(
        "CREATE TABLE t( -- people's names
             id INTEGER PRIMARY KEY, -- never \"reused\"
             -- names
             name TEXT /* as it is written */, n INTEGER
         )",
    );
    let report = store.export_to_postgres(&server.database("comments")).run().unwrap();
    let run = |sql: &str| server.run("comments", sql);
    assert_eq!(run("SELECT obj_description('t'::regclass)"), "people's names");
    assert_eq!(run("SELECT col_description('t'::regclass, 1)"), "never \"reused\"");
    assert_eq!(run("SELECT col_description('t'::regclass, 2)"), "as it is written");
    let unclear = report
        .notes
        .iter()
        .find(|note| note.object == "comments of table t")
        .unwrap();
    assert_eq!(unclear.sql.as_deref(), Some("-- names"));
    assert_eq!(report.notes.len(), 1, "{report}");
}

#[test]
fn running_export_is_in_statistics_and_events_without_its_password() {
    let Some(server) = Postgres::start() else { return };
    log::collect();
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("shown.db")).unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(n INTEGER); INSERT INTO t VALUES (1), (2)"))
        .unwrap();
    let url = server
        .database("shown")
        .replace("larder@", &format!("larder:{SECRET}@"));
    let path = store.path().display().to_string();
    let (seen, is_seen) = std::sync::mpsc::channel();
    let watched = store.clone();
    let export = store.export_to_postgres(&url).progress(move |progress| {
        if progress.stage == ExportStage::Compare {
            // Whether anyone listens is seen below.
            let _ = seen.send(watched.stats().exports);
        }
        ControlFlow::Continue(())
    });
    assert!(!format!("{export:?}").contains(SECRET));
    let report = export.run().unwrap();
    assert!(!report.to_string().contains(SECRET), "{report}");
    let running = is_seen.try_recv().expect("it was compared");
    let [running] = running.as_slice() else {
        panic!("{running:?}")
    };
    assert_eq!((running.stage, running.is_dry_run), ("compare", false));
    assert!(
        running.site.contains("plan.rs") && running.server.contains("shown"),
        "{running:?}"
    );
    let stats = store.stats();
    assert!(
        stats.exports.is_empty() && stats.exported_rows == 2,
        "{:?}",
        stats.exports
    );
    let last = stats.last_export.clone().unwrap();
    assert_eq!((last.rows, last.error.as_deref()), (2, None));

    // The table is there by now.
    let error = store.export_to_postgres(&url).run().unwrap_err();
    let failed = store.stats();
    let last = failed.last_export.clone().unwrap();
    assert_eq!((last.rows, last.error.as_deref()), (0, Some("postgres")));
    assert_eq!(failed.exported_rows, 2);
    store.export_to_postgres(&url).dry_run().unwrap();

    let told = |message: &str| {
        log::events(|event| {
            event.target == "larder::export" && event.field("db.namespace") == Some(&path) && event.message == message
        })
    };
    let finished = told("export finished");
    assert_eq!(finished.len(), 1, "{finished:?}");
    assert_eq!((finished[0].expect("rows"), finished[0].expect("tables")), ("2", "1"));
    let broken = told("an export failed");
    assert_eq!((broken.len(), broken[0].level), (1, Level::WARN), "{broken:?}");
    assert_eq!(broken[0].expect("error.type"), "postgres");

    let copy = folder.path().join("copy.db");
    Store::import_from_postgres(&url, &copy).run().unwrap();
    let again = Store::import_from_postgres(&url, &copy).run().unwrap_err();
    let of_copy = |message: &str| {
        let copy = copy.display().to_string();
        log::events(|event| {
            event.target == "larder::import" && event.field("db.namespace") == Some(&copy) && event.message == message
        })
    };
    let imported = of_copy("import finished");
    assert_eq!(imported.len(), 1);
    assert_eq!(imported[0].expect("rows"), "2");
    assert_eq!(of_copy("an import failed").len(), 1);

    for text in [
        error.to_string(),
        format!("{error:?}"),
        again.to_string(),
        format!("{again:?}"),
    ] {
        assert!(!text.contains(SECRET), "{text}");
    }
    for stats in [stats, failed] {
        assert!(!format!("{stats:?}").contains(SECRET), "{stats:?}");
    }
    let leaks = log::events(|event| event.mentions(SECRET));
    assert!(leaks.is_empty(), "{leaks:#?}");
}
