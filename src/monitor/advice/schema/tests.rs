//! Findings, and their absence, in schemas of a few lines.

use super::*;
use crate::options::AutoVacuum;
use crate::{Migration, Migrations, Options, Store};

/// Opens a store with these tables.
pub(super) fn with_schema(sql: &'static str) -> Store {
    with_options(Options::new(), sql)
}

pub(super) fn with_options(options: Options, sql: &'static str) -> Store {
    let store = options.open_temp().unwrap();
    store.write(move |tx| tx.execute_batch(sql)).unwrap();
    store
}

/// All findings except those that depend on how SQLite was built.
pub(super) fn all(store: &Store) -> Vec<Finding> {
    let all = store.read(look).unwrap();
    all.into_iter()
        .filter(|finding| finding.topic != "page_cache_mutex")
        .collect()
}

/// The findings of one topic.
pub(super) fn found(store: &Store, topic: &str) -> Vec<Finding> {
    all(store)
        .into_iter()
        .filter(|finding| finding.topic == topic)
        .collect()
}

/// Asserts one finding for each text, which its message contains.
#[track_caller]
pub(super) fn assert_found(sql: &'static str, topic: &str, expected: &[&str]) {
    let found = found(&with_schema(sql), topic);
    let told: Vec<String> = found.iter().map(Finding::to_string).collect();
    assert_eq!(told.len(), expected.len(), "{sql}: {told:#?}");
    for (told, expected) in told.iter().zip(expected) {
        assert!(told.contains(expected), "{sql}: {told}");
    }
}

/// Asserts that the one finding advises `statement`, and that running it removes the finding.
#[track_caller]
pub(super) fn assert_remedied(sql: &'static str, topic: &str, statement: &'static str) {
    let store = with_schema(sql);
    let before = found(&store, topic);
    assert!(
        before.len() == 1 && before[0].remedy.ends_with(statement),
        "{before:#?}"
    );
    store.write(move |tx| tx.execute_batch(statement)).unwrap();
    assert_eq!(found(&store, topic), [], "{sql}");
}

pub(super) const WITHOUT_INDEX: &str = "foreign_key_without_index";
pub(super) const MISMATCH: &str = "foreign_key_mismatch";
const DUPLICATE: &str = "duplicate_index";

#[test]
fn sound_schema_and_new_store_have_no_findings() {
    let store = Store::open_temp().unwrap();
    assert_eq!(all(&store), []);
    let store = with_schema(
        "CREATE TABLE authors(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
         CREATE TABLE books(isbn TEXT PRIMARY KEY, author INTEGER NOT NULL REFERENCES authors, year INTEGER,
             after TEXT REFERENCES books) STRICT, WITHOUT ROWID;
         CREATE INDEX by_author ON books(author, year);
         CREATE INDEX by_year ON books(year, author);
         CREATE INDEX by_after ON books(after) WHERE after IS NOT NULL;
         CREATE VIEW titles AS SELECT isbn FROM books;
         CREATE VIRTUAL TABLE boxes USING rtree(id, a, b);",
    );
    assert_eq!(all(&store), []);
}

#[test]
fn most_severe_finding_comes_first() {
    let store = with_schema(
        "CREATE TABLE p(id INTEGER PRIMARY KEY);
         CREATE TABLE c(a INTEGER REFERENCES p, b REFERENCES nobody);",
    );
    let topics: Vec<&str> = all(&store).iter().map(|finding| finding.topic).collect();
    assert_eq!(topics, [MISMATCH, WITHOUT_INDEX, "not_strict"]);
}

#[test]
fn tables_not_strict_are_one_finding() {
    const TOPIC: &str = "not_strict";
    assert_found("CREATE TABLE t(a INT) STRICT; CREATE VIEW v AS SELECT 1", TOPIC, &[]);
    assert_found("CREATE TABLE \"my t\"(a)", TOPIC, &["the table my t is not STRICT"]);
    assert_found(
        "CREATE TABLE g(a); CREATE TABLE b(a); CREATE TABLE C(a); CREATE TABLE a(a); CREATE TABLE f(a);
         CREATE TABLE e(a); CREATE TABLE d(a); CREATE TABLE s(a INT) STRICT;",
        TOPIC,
        &["7 tables are not STRICT, so their columns take values of any type: a, b, C, d, e and 2 more"],
    );
    // Tables that the application did not create.
    assert_found(
        "CREATE TABLE schema_migrations(version varchar(128) primary key);
         CREATE TABLE goose_db_version(id INTEGER PRIMARY KEY AUTOINCREMENT, version_id INT);
         CREATE VIRTUAL TABLE texts USING fts5(body);
         CREATE TEMP TABLE passing(a);
         ANALYZE;",
        TOPIC,
        &[],
    );
}

#[test]
fn redundant_index_is_found() {
    let drop = "DROP INDEX \"i\"";
    for sql in [
        "CREATE TABLE t(a, b); CREATE INDEX z ON t(a, b); CREATE INDEX i ON T(A, B)",
        "CREATE TABLE t(a, b); CREATE INDEX i ON t(a); CREATE INDEX longer ON t(a, b)",
        "CREATE TABLE t(a, b); CREATE INDEX i ON t(a DESC, b); CREATE UNIQUE INDEX z ON t(a DESC, b)",
        // Constraints, which stay.
        "CREATE TABLE t(a UNIQUE, b); CREATE UNIQUE INDEX i ON t(a)",
        "CREATE TABLE t(a, b, PRIMARY KEY(a, b)); CREATE INDEX i ON t(a)",
        "CREATE TABLE t(a, b, PRIMARY KEY(b, a)) WITHOUT ROWID; CREATE INDEX i ON t(b, a)",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, b); CREATE INDEX i ON t(ID DESC)",
        // Expressions and conditions.
        "CREATE TABLE t(a, b); CREATE INDEX z ON t(lower(a), b); CREATE INDEX i ON t(Lower( \n a), b)",
        "CREATE TABLE t(a, b); CREATE INDEX z ON t(a) WHERE b > 1; CREATE INDEX i ON t(a) WHERE b>1",
    ] {
        assert_remedied(sql, DUPLICATE, drop);
    }
    assert_remedied(
        "CREATE TABLE \"a t\"(\"ä\"\"\", b); CREATE INDEX \"the \"\"i\" ON \"a t\"(\"ä\"\"\"); CREATE INDEX z ON \"a t\"(\"ä\"\"\", b)",
        DUPLICATE,
        "DROP INDEX \"the \"\"i\"",
    );
}

#[test]
fn index_without_replacement_is_not_redundant() {
    for sql in [
        "CREATE TABLE t(a, b); CREATE INDEX i ON t(a, b); CREATE INDEX z ON t(b, a)",
        "CREATE TABLE t(a, b); CREATE INDEX i ON t(a); CREATE INDEX z ON t(a DESC, b)",
        "CREATE TABLE t(a, b); CREATE INDEX i ON t(a); CREATE INDEX z ON t(a COLLATE NOCASE, b)",
        "CREATE TABLE t(a, b); CREATE UNIQUE INDEX i ON t(a); CREATE INDEX z ON t(a, b)",
        "CREATE TABLE t(a, b); CREATE INDEX i ON t(a); CREATE INDEX z ON t(a, b) WHERE b > 1",
        "CREATE TABLE t(a, b); CREATE INDEX i ON t(a) WHERE b > 1; CREATE INDEX z ON t(a, b)",
        "CREATE TABLE t(a, b); CREATE INDEX i ON t(a) WHERE b > 1; CREATE INDEX z ON t(a) WHERE b > 10",
        "CREATE TABLE t(a, b); CREATE INDEX i ON t(a + 1); CREATE INDEX z ON t(a + 2)",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, b); CREATE INDEX i ON t(id) WHERE b > 1; CREATE INDEX z ON t(id, b)",
        "CREATE TABLE t(a INTEGER PRIMARY KEY DESC, b); CREATE TABLE u(a); CREATE INDEX i ON u(a)",
        "CREATE TABLE t(a UNIQUE, UNIQUE(a COLLATE NOCASE), UNIQUE(a))",
    ] {
        assert_found(sql, DUPLICATE, &[]);
    }
}

#[test]
fn one_of_several_equal_indexes_is_kept() {
    let store = with_schema(
        "CREATE TABLE t(a, b, c);
         CREATE INDEX i1 ON t(a); CREATE INDEX i2 ON t(a); CREATE INDEX i3 ON t(a, b);
         CREATE UNIQUE INDEX i4 ON t(a, b); CREATE INDEX i5 ON t(a, b);",
    );
    for finding in found(&store, DUPLICATE) {
        let (_, statement) = finding.remedy.rsplit_once(": ").unwrap();
        let statement = statement.to_owned();
        store.write(move |tx| tx.execute_batch(&statement)).unwrap();
    }
    let left: Vec<String> = store
        .read(|tx| tx.query_map("SELECT name FROM pragma_index_list('t')", [], |row| row.get(0)))
        .unwrap();
    assert_eq!(left, ["i4"]);
}

/// Adds some 1200 pages.
fn fill(store: &Store) {
    let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1200)
               INSERT INTO t SELECT i, zeroblob(4000) FROM n";
    store.write(move |tx| tx.execute(sql, [])).unwrap();
}

#[test]
fn missing_statistics_are_found_in_large_file() {
    const TOPIC: &str = "analyze_never_run";
    let store = with_schema("CREATE TABLE t(a INT, b BLOB) STRICT; CREATE INDEX i ON t(a); ANALYZE");
    assert_eq!(found(&store, TOPIC), []);
    fill(&store);
    let missed = found(&store, TOPIC);
    let measurement = missed[0].measurement.unwrap();
    assert!(
        measurement.value >= 1200.0 && measurement.threshold == 1000.0,
        "{measurement}"
    );
    store.write(|tx| tx.execute_batch("ANALYZE")).unwrap();
    assert_eq!(found(&store, TOPIC), []);
    let without_index = with_schema("CREATE TABLE t(a INT, b BLOB) STRICT");
    fill(&without_index);
    assert_eq!(found(&without_index, TOPIC), []);
}

const STALE: &str = "stale_statistics";

/// Inserts so many rows whose key is `step` times their number.
fn insert(store: &Store, table: &'static str, rows: i64, step: i64) {
    let sql = format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
         INSERT INTO {table} SELECT (SELECT coalesce(max(k), 0) FROM {table}) + ?2 * i, i FROM n"
    );
    store.write(move |tx| tx.execute(&sql, [rows, step])).unwrap();
}

#[test]
fn tenfold_growth_since_analyze_is_found() {
    for (schema, then, more, step) in [
        (
            "CREATE TABLE \"t\"(k INTEGER PRIMARY KEY, v INT) STRICT; CREATE INDEX i ON t(v)",
            100,
            1000,
            1,
        ),
        (
            "CREATE TABLE t(k INT, v INT) STRICT; CREATE INDEX i ON t(v)",
            100,
            1000,
            1,
        ),
        (
            "CREATE TABLE t(k INT PRIMARY KEY, v INT) STRICT, WITHOUT ROWID",
            100,
            1000,
            1,
        ),
        // Keys far apart.
        (
            "CREATE TABLE t(k INTEGER PRIMARY KEY, v INT) STRICT; CREATE INDEX i ON t(v)",
            100,
            1000,
            1 << 40,
        ),
        // Too many to be counted.
        (
            "CREATE TABLE t(k INTEGER PRIMARY KEY, v INT) STRICT; CREATE INDEX i ON t(v)",
            3000,
            30_000,
            1,
        ),
        (
            "CREATE TABLE t(k INTEGER PRIMARY KEY, v INT) STRICT; CREATE INDEX i ON t(v)",
            3000,
            30_000,
            2,
        ),
    ] {
        let store = with_schema(schema);
        insert(&store, "t", then, step);
        store.write(|tx| tx.execute_batch("ANALYZE")).unwrap();
        assert_eq!(found(&store, STALE), [], "{schema}");
        insert(&store, "t", more, step);
        let stale = found(&store, STALE);
        assert_eq!(stale.len(), 1, "{schema}, {step}: {stale:?}");
        let (_, remedy) = stale[0].remedy.rsplit_once(": ").unwrap();
        assert_eq!(remedy, "ANALYZE main.\"t\"");
        let remedy = remedy.to_owned();
        store.write(move |tx| tx.execute_batch(&remedy)).unwrap();
        assert_eq!(found(&store, STALE), [], "{schema}");
    }
}

#[test]
fn table_that_has_not_grown_is_not_stale() {
    for (schema, then, more, step) in [
        (
            "CREATE TABLE t(k INTEGER PRIMARY KEY, v INT) STRICT; CREATE INDEX i ON t(v)",
            100,
            800,
            1,
        ),
        (
            "CREATE TABLE t(k INTEGER PRIMARY KEY, v INT) STRICT; CREATE INDEX i ON t(v)",
            200,
            1000,
            1 << 40,
        ),
        (
            "CREATE TABLE t(k INTEGER PRIMARY KEY, v INT) STRICT; CREATE INDEX i ON t(v)",
            3000,
            1000,
            1 << 40,
        ),
        (
            "CREATE TABLE t(k INT PRIMARY KEY, v INT) STRICT, WITHOUT ROWID",
            200,
            1000,
            1,
        ),
        // So few that nothing matters.
        (
            "CREATE TABLE t(k INTEGER PRIMARY KEY, v INT) STRICT; CREATE INDEX i ON t(v)",
            2,
            500,
            1,
        ),
        // Statistics of no rows.
        (
            "CREATE TABLE t(k INTEGER PRIMARY KEY, v INT) STRICT; CREATE INDEX i ON t(v) WHERE v < 0",
            100,
            700,
            1,
        ),
    ] {
        let store = with_schema(schema);
        insert(&store, "t", then, step);
        store.write(|tx| tx.execute_batch("ANALYZE")).unwrap();
        insert(&store, "t", more, step);
        // A row far beyond the others.
        store
            .write(move |tx| tx.execute("INSERT INTO t VALUES (?1, 0)", [i64::MAX]))
            .unwrap();
        assert_eq!(found(&store, STALE), [], "{schema}, {step}");
    }
}

#[test]
fn file_that_cannot_shrink_is_found_and_fixed() {
    const TOPIC: &str = "auto_vacuum_off";
    let shrink = Migration::new(1, "shrink", "PRAGMA auto_vacuum = INCREMENTAL; VACUUM").without_transaction();
    let migrations = Migrations::new([shrink]).at_open(false);
    let options = Options::new().auto_vacuum(AutoVacuum::None).migrations(migrations);
    let store = with_options(options, "CREATE TABLE t(a INT, b BLOB) STRICT");
    fill(&store);
    assert_eq!(found(&store, TOPIC), []);
    store.write(|tx| tx.execute("DELETE FROM t WHERE a > 10", [])).unwrap();
    let empty = found(&store, TOPIC);
    let measurement = empty[0].measurement.unwrap();
    assert!(
        measurement.value > 90.0 && measurement.threshold == 25.0,
        "{measurement}"
    );
    store.migrate().unwrap();
    assert_eq!(found(&store, TOPIC), []);
    let pages: i64 = store
        .read(|tx| tx.query_row("PRAGMA page_count", [], |row| row.get(0)))
        .unwrap();
    assert!(pages < 30, "{pages}");
    // From now on deletes put pages on the freelist, from which PRAGMA incremental_vacuum takes them.
    fill(&store);
    store.write(|tx| tx.execute("DELETE FROM t WHERE a > 10", [])).unwrap();
    assert_eq!(found(&store, TOPIC), []);
}

#[test]
fn full_text_tables_sqlite_may_damage_are_reported() {
    const TOPIC: &str = "sqlite_with_known_bugs";
    let store = with_schema("CREATE VIRTUAL TABLE \"my texts\" USING fts5(body); CREATE TABLE fts(a INT) STRICT");
    let found_there = found(&store, TOPIC);
    assert_eq!(found_there.is_empty(), rusqlite::version_number() >= FULL_TEXT_MENDED);
    for finding in found_there {
        let (_, check) = finding.remedy.rsplit_once(": ").unwrap();
        let check = check.to_owned();
        store.write(move |tx| tx.execute_batch(&check)).unwrap();
    }
    assert_found("CREATE TABLE fts(a INT) STRICT", TOPIC, &[]);
}

#[test]
fn page_cache_mutex_is_found_if_compiled_in() {
    let store = Store::open_temp().unwrap();
    let sql = "SELECT sqlite_compileoption_used('ENABLE_MEMORY_MANAGEMENT')";
    let there: bool = store.read(|tx| tx.query_row(sql, [], |row| row.get(0))).unwrap();
    let found = store.read(look).unwrap();
    assert_eq!(found.iter().any(|finding| finding.topic == "page_cache_mutex"), there);
}
