//! Foreign keys, judged by larder and by SQLite.

use crate::Options;
use crate::monitor::advice::Finding;
use crate::monitor::advice::schema::tests::{
    MISMATCH, WITHOUT_INDEX, all, assert_found, assert_remedied, found, with_options, with_schema,
};

/// Asserts larder's verdict against SQLite's query plan for a delete in the parent `p`: a search of the child, or a
/// full scan.
#[track_caller]
fn assert_as_sqlite_does(sql: &'static str) -> bool {
    let store = with_schema(sql);
    let opcodes: Vec<String> = store
        .write(|tx| tx.query_map("EXPLAIN DELETE FROM p WHERE rowid = 1", [], |row| row.get("opcode")))
        .unwrap();
    let scans = opcodes.iter().any(|opcode| opcode == "Rewind");
    let found = found(&store, WITHOUT_INDEX);
    assert_eq!(!found.is_empty(), scans, "{sql}: {found:#?}");
    scans
}

#[test]
fn foreign_key_with_usable_index_is_indexed() {
    for sql in [
        "CREATE TABLE p(id INTEGER PRIMARY KEY); CREATE TABLE c(p INTEGER REFERENCES p UNIQUE)",
        "CREATE TABLE p(id INTEGER PRIMARY KEY); CREATE TABLE c(id INTEGER PRIMARY KEY REFERENCES p)",
        "CREATE TABLE p(id INTEGER PRIMARY KEY); CREATE TABLE c(p INT REFERENCES p, x, PRIMARY KEY(p, x)) WITHOUT ROWID",
        "CREATE TABLE p(id INTEGER PRIMARY KEY); CREATE TABLE c(P INT REFERENCES p(ID), x); CREATE INDEX i ON C(p, x)",
        "CREATE TABLE p(id INTEGER PRIMARY KEY, up INT REFERENCES p); CREATE INDEX i ON p(up DESC)",
        "CREATE TABLE p(id INT PRIMARY KEY); CREATE TABLE c(p INT REFERENCES p); CREATE INDEX i ON c(p) WHERE p NOTNULL",
        "CREATE TABLE p(a, b, PRIMARY KEY(a, b)); CREATE TABLE c(x, a, b, FOREIGN KEY(a, b) REFERENCES p);
         CREATE INDEX i ON c(b, a, x) WHERE \"B\" IS NOT NULL AND a NOT NULL",
        // By y alone, although x is not NULL.
        "CREATE TABLE p(a INT, b TEXT, PRIMARY KEY(a, b)); CREATE TABLE c(x TEXT, y TEXT, FOREIGN KEY(x, y) REFERENCES p);
         CREATE INDEX i ON c(y) WHERE x IS NOT NULL",
        // A search that finds at most one row.
        "CREATE TABLE p(a, b, PRIMARY KEY(a, b)); CREATE TABLE c(a PRIMARY KEY, b, FOREIGN KEY(a, b) REFERENCES p)",
        "CREATE TABLE p(id TEXT COLLATE NOCASE PRIMARY KEY); CREATE TABLE c(p TEXT REFERENCES p);
         CREATE INDEX i ON c(p COLLATE NOCASE)",
        "CREATE TABLE p(id TEXT PRIMARY KEY); CREATE TABLE c(p INT REFERENCES p); CREATE INDEX i ON c(p)",
        "CREATE TABLE p(id ANY PRIMARY KEY) STRICT; CREATE TABLE c(p TEXT REFERENCES p); CREATE INDEX i ON c(p)",
        "CREATE TABLE p(id INTEGER PRIMARY KEY); CREATE TABLE c(j TEXT, p INT AS (j ->> 1) REFERENCES p);
         CREATE INDEX i ON c(p)",
    ] {
        assert!(!assert_as_sqlite_does(sql), "{sql}");
    }
}

#[test]
fn foreign_key_without_usable_index_is_unindexed() {
    for sql in [
        "CREATE TABLE p(id INTEGER PRIMARY KEY); CREATE TABLE c(p INTEGER REFERENCES p)",
        "CREATE TABLE p(id INTEGER PRIMARY KEY); CREATE TABLE c(p INT REFERENCES p, x); CREATE INDEX i ON c(x, p)",
        "CREATE TABLE p(id INTEGER PRIMARY KEY, up INT REFERENCES p)",
        "CREATE TABLE p(id INT PRIMARY KEY); CREATE TABLE c(p INT REFERENCES p); CREATE INDEX i ON c(p) WHERE p > 7",
        "CREATE TABLE p(id INT PRIMARY KEY); CREATE TABLE c(p INT REFERENCES p); CREATE INDEX i ON c(p + 1)",
        "CREATE TABLE p(id TEXT COLLATE NOCASE PRIMARY KEY); CREATE TABLE c(p TEXT REFERENCES p); CREATE INDEX i ON c(p)",
        // No index serves: the parent's value is a number, and the child's column is not.
        "CREATE TABLE p(id INTEGER PRIMARY KEY); CREATE TABLE c(p REFERENCES p); CREATE INDEX i ON c(p)",
        "CREATE TABLE p(id REAL UNIQUE); CREATE TABLE c(p TEXT REFERENCES p(id)); CREATE INDEX i ON c(p)",
        "CREATE TABLE p(id INTEGER PRIMARY KEY) STRICT; CREATE TABLE c(p ANY REFERENCES p) STRICT; CREATE INDEX i ON c(p)",
    ] {
        assert!(assert_as_sqlite_does(sql), "{sql}");
    }
}

#[test]
fn unindexed_foreign_key_comes_with_create_index() {
    assert_remedied(
        "CREATE TABLE artists(id INTEGER PRIMARY KEY); CREATE TABLE albums(artist_id INTEGER REFERENCES artists)",
        WITHOUT_INDEX,
        "CREATE INDEX \"albums_artist_id\" ON \"albums\"(\"artist_id\")",
    );
    assert_remedied(
        "CREATE TABLE \"the \"\"Käufer\"\"\"(\"Nr.\" INT, b INT, UNIQUE(b, \"Nr.\"));
         CREATE TABLE \"a'b[c\"(\"x y\" INT, \"select\" INT,
             FOREIGN KEY(\"X Y\", \"Select\") REFERENCES \"THE \"\"Käufer\"\"\"(\"nr.\", B))",
        WITHOUT_INDEX,
        "CREATE INDEX \"a'b[c_x y_select\" ON \"a'b[c\"(\"x y\", \"select\")",
    );
    assert_remedied(
        "CREATE TABLE p(id TEXT COLLATE NOCASE PRIMARY KEY); CREATE TABLE c(p TEXT REFERENCES p);
         CREATE TABLE C_P(a); CREATE INDEX c_p_2 ON c_p(a)",
        WITHOUT_INDEX,
        "CREATE INDEX \"c_p_3\" ON \"c\"(\"p\" COLLATE \"nocase\")",
    );
    assert_found(
        "CREATE TABLE p(id INTEGER PRIMARY KEY); CREATE TABLE b(y INT REFERENCES p, x INT REFERENCES p(id));
         CREATE TABLE a(x REFERENCES p)",
        WITHOUT_INDEX,
        &[
            "a(x) -> p goes from a column that",
            "b(x) -> p(id) has no index",
            "b(y) -> p has no index",
        ],
    );
}

#[test]
fn index_on_part_of_foreign_key_is_insufficient() {
    let schema = "CREATE TABLE p(a INT, b INT, PRIMARY KEY(a, b));
                  CREATE TABLE c(id INTEGER PRIMARY KEY, a INT, b INT, FOREIGN KEY(a, b) REFERENCES p);
                  CREATE INDEX tenant ON c(a)";
    assert_found(
        schema,
        WITHOUT_INDEX,
        &["c(a, b) -> p has only tenant for a part of its columns"],
    );
    assert_remedied(schema, WITHOUT_INDEX, "CREATE INDEX \"c_a_b\" ON \"c\"(\"a\", \"b\")");
}

#[test]
fn foreign_keys_are_not_judged_when_off() {
    let schema = "CREATE TABLE p(id INTEGER PRIMARY KEY); CREATE TABLE c(a INT REFERENCES p, b REFERENCES nobody)";
    assert_eq!(all(&with_schema(schema)).len(), 3);
    let store = with_options(Options::new().foreign_keys(false), schema);
    assert_eq!(all(&store).len(), 1);
}

/// The cases of the manual, <https://sqlite.org/foreignkeys.html#fk_indexes>, and some more.
#[test]
fn dangling_foreign_key_is_found_as_in_sqlite() {
    const PARENT: &str = "CREATE TABLE parent(a PRIMARY KEY, b UNIQUE, c, d, e, f, g COLLATE NOCASE UNIQUE);
                          CREATE UNIQUE INDEX i1 ON parent(c, d);
                          CREATE INDEX i2 ON parent(e);
                          CREATE UNIQUE INDEX i3 ON parent(f COLLATE nocase);
                          CREATE UNIQUE INDEX i4 ON parent(e) WHERE e > 1;
                          CREATE UNIQUE INDEX i5 ON parent(e + 1);
                          CREATE TABLE parent2(a, b, PRIMARY KEY(a, b));
                          CREATE TABLE parent3(a);
                          CREATE TABLE rows(id INTEGER PRIMARY KEY, x);
                          CREATE TABLE pairs(a, b, PRIMARY KEY(b, a)) WITHOUT ROWID;
                          CREATE VIEW seen AS SELECT a FROM parent;
                          CREATE VIRTUAL TABLE boxes USING rtree(id, x, y);";
    for (key, why) in [
        ("(x) REFERENCES parent(A)", None),
        ("(x) REFERENCES parent(b)", None),
        ("(x, y) REFERENCES parent(d, c)", None),
        (
            "(x) REFERENCES parent(e)",
            Some("no primary key and no UNIQUE constraint covers exactly parent(e)"),
        ),
        (
            "(x) REFERENCES parent(f)",
            Some("no primary key and no UNIQUE constraint covers exactly parent(f)"),
        ),
        ("(x) REFERENCES parent(g)", None),
        ("(x, y) REFERENCES parent(b, c)", Some("no primary key and no UNIQUE")),
        ("(x) REFERENCES parent(c)", Some("no primary key and no UNIQUE")),
        ("(x, y) REFERENCES parent2", None),
        (
            "(x) REFERENCES parent2",
            Some("the primary key of parent2 has a different number of columns, 2"),
        ),
        ("(x, y, z) REFERENCES parent2", Some("a different number of columns")),
        ("(x) REFERENCES parent3", Some("parent3 has no primary key")),
        (
            "(x) REFERENCES parent3(A)",
            Some("CREATE UNIQUE INDEX \"parent3_A\" ON \"parent3\"(\"A\")"),
        ),
        ("(x) REFERENCES rows", None),
        ("(x) REFERENCES ROWS(ID)", None),
        ("(x) REFERENCES rows(rowid)", Some("no primary key and no UNIQUE")),
        ("(x, y) REFERENCES pairs", None),
        ("(x, y) REFERENCES pairs(a, b)", None),
        ("(x) REFERENCES seen(a)", Some("seen is a view")),
        ("(x) REFERENCES boxes(id)", Some("boxes is a virtual table")),
        ("(x) REFERENCES parent(missing)", Some("parent has no column missing")),
        ("(x) REFERENCES nobody", Some("there is no table nobody")),
        (
            "(x) REFERENCES c(x)",
            Some("no primary key and no UNIQUE constraint covers exactly c(x)"),
        ),
    ] {
        let store = with_schema(PARENT);
        let child = format!("CREATE TABLE c(x, y, z, FOREIGN KEY{key})");
        store.write(move |tx| tx.execute_batch(&child)).unwrap();
        let prepared = store.write(|tx| Ok(tx.prepare("INSERT INTO c DEFAULT VALUES").map(drop)?));
        let found: Vec<String> = found(&store, MISMATCH).iter().map(Finding::to_string).collect();
        assert_eq!(
            found.len(),
            usize::from(prepared.is_err()),
            "{key}: {prepared:?}, {found:?}"
        );
        assert_eq!(found.len(), usize::from(why.is_some()), "{key}: {found:?}");
        assert!(found.iter().all(|told| told.contains(why.unwrap())), "{key}: {found:?}");
    }
}

#[test]
fn dangling_foreign_key_can_be_repaired() {
    assert_remedied(
        "CREATE TABLE \"P p\"(a, \"b\"\"b\"); CREATE TABLE c(x, y, FOREIGN KEY(x, y) REFERENCES \"p P\"(\"B\"\"b\", a))",
        MISMATCH,
        "CREATE UNIQUE INDEX \"P p_B\"\"b_a\" ON \"P p\"(\"B\"\"b\", \"a\")",
    );
}
