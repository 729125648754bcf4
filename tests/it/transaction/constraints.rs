//! [`Error::constraint`]: which constraint was violated, whatever its names are.

use larder::rusqlite::Connection;
use larder::{Constraint, Error, Options, Store, WriteTx};

fn store(schema: &str) -> Store {
    let store = Options::new().open_temp().unwrap();
    let schema = schema.to_owned();
    store.write(move |tx| tx.execute_batch(&schema)).unwrap();
    store
}

#[track_caller]
fn fails(store: &Store, sql: &str) -> Error {
    let sql = sql.to_owned();
    store.write(move |tx| tx.execute(&sql, [])).unwrap_err()
}

#[track_caller]
fn violated(schema: &str, sql: &str) -> Constraint {
    let error = fails(&store(schema), sql);
    error.constraint().unwrap_or_else(|| panic!("{error:?}"))
}

fn unique(table: &str, columns: &[&str]) -> Constraint {
    Constraint::Unique {
        table: table.into(),
        columns: columns.iter().map(ToString::to_string).collect(),
    }
}

fn primary_key(table: &str, columns: &[&str]) -> Constraint {
    Constraint::PrimaryKey {
        table: table.into(),
        columns: columns.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn unique_constraint_names_table_and_columns() {
    for (schema, sql, table, columns) in [
        (
            "CREATE TABLE t(a UNIQUE)",
            "INSERT INTO t VALUES (1), (1)",
            "t",
            &["a"][..],
        ),
        (
            "CREATE TABLE T(b, A, UNIQUE (A, b))",
            "INSERT INTO t VALUES (1, 2), (1, 2)",
            "T",
            &["A", "b"],
        ),
        (
            "CREATE TABLE \"a.b\"(c UNIQUE)",
            "INSERT INTO \"a.b\" VALUES (1), (1)",
            "a.b",
            &["c"],
        ),
        (
            "CREATE TABLE t(\"x, y\" UNIQUE)",
            "INSERT INTO t VALUES (1), (1)",
            "t",
            &["x, y"],
        ),
        (
            "CREATE TABLE t(\"b, t.c\" UNIQUE)",
            "INSERT INTO t VALUES (1), (1)",
            "t",
            &["b, t.c"],
        ),
        (
            "CREATE TABLE \"it's\"(\"a \"\"b\"\"\" UNIQUE)",
            "INSERT INTO \"it's\" VALUES (1), (1)",
            "it's",
            &["a \"b\""],
        ),
        (
            "CREATE TABLE \"select\"(\"from\", \"\", UNIQUE(\"from\", \"\"))",
            "INSERT INTO \"select\" VALUES (1, 1), (1, 1)",
            "select",
            &["from", ""],
        ),
        (
            "CREATE TABLE größe(süß UNIQUE)",
            "INSERT INTO größe VALUES (1), (1)",
            "größe",
            &["süß"],
        ),
        (
            "CREATE TABLE t(a, g AS (a + 1) UNIQUE)",
            "INSERT INTO t VALUES (1), (1)",
            "t",
            &["g"],
        ),
        (
            "CREATE TABLE t(a); CREATE UNIQUE INDEX \"i.j\" ON t(a) WHERE a > 0",
            "INSERT INTO t VALUES (1), (1)",
            "t",
            &["a"],
        ),
        (
            "CREATE TABLE t(a UNIQUE); INSERT INTO t VALUES (1), (2)",
            "UPDATE t SET a = 1 WHERE a = 2",
            "t",
            &["a"],
        ),
        (
            "CREATE TABLE t(a UNIQUE, b UNIQUE); INSERT INTO t VALUES (1, 1)",
            "INSERT INTO t VALUES (2, 1) ON CONFLICT(a) DO NOTHING",
            "t",
            &["b"],
        ),
        (
            "CREATE TABLE t(a UNIQUE); CREATE TABLE s(a); INSERT INTO s VALUES (1), (1)",
            "INSERT INTO t SELECT a FROM s",
            "t",
            &["a"],
        ),
        // By a trigger.
        (
            "CREATE TABLE t(a UNIQUE); CREATE TABLE s(a); INSERT INTO t VALUES (1);
          CREATE TRIGGER copy AFTER INSERT ON s BEGIN INSERT INTO t VALUES (new.a); END",
            "INSERT INTO s VALUES (1)",
            "t",
            &["a"],
        ),
    ] {
        assert_eq!(violated(schema, sql), unique(table, columns), "{sql}");
    }
}

/// `a.b, a.c`, `a.b.c` and the like can be read in several ways.
#[test]
fn names_that_look_alike_are_told_apart() {
    let both = "CREATE TABLE a(b, c, \"b, a.c\"); CREATE UNIQUE INDEX i ON a(\"b, a.c\")";
    assert_eq!(
        violated(both, "INSERT INTO a VALUES (1, 2, 3), (4, 5, 3)"),
        unique("a", &["b, a.c"])
    );
    let both = "CREATE TABLE a(b, c, \"b, a.c\"); CREATE UNIQUE INDEX i ON a(b, c)";
    assert_eq!(
        violated(both, "INSERT INTO a VALUES (1, 2, 3), (1, 2, 4)"),
        unique("a", &["b", "c"])
    );
    let tables = "CREATE TABLE a(\"b.c\" UNIQUE); CREATE TABLE \"a.b\"(c UNIQUE)";
    assert_eq!(violated(tables, "INSERT INTO a VALUES (1), (1)"), unique("a", &["b.c"]));
    assert_eq!(
        violated(tables, "INSERT INTO \"a.b\" VALUES (1), (1)"),
        unique("a.b", &["c"])
    );
    // What cannot be told apart is not guessed.
    let equal = "CREATE TABLE a(b, c, \"b, a.c\", UNIQUE (b, c), UNIQUE (\"b, a.c\"))";
    let error = fails(&store(equal), "INSERT INTO a VALUES (1, 2, 3), (1, 2, 4)");
    assert!(matches!(error.constraint(), Some(Constraint::Other { message }) if message.ends_with("a.b, a.c")));
    assert!(error.is_unique_violation());
}

#[test]
fn primary_keys_and_rowids_are_named() {
    for (schema, sql, table, columns) in [
        (
            "CREATE TABLE t(id INTEGER PRIMARY KEY)",
            "INSERT INTO t VALUES (1), (1)",
            "t",
            &["id"][..],
        ),
        (
            "CREATE TABLE t(id TEXT PRIMARY KEY)",
            "INSERT INTO t VALUES (1), (1)",
            "t",
            &["id"],
        ),
        (
            "CREATE TABLE t(a, b, PRIMARY KEY (b, a)) WITHOUT ROWID",
            "INSERT INTO t VALUES (1, 2), (1, 2)",
            "t",
            &["b", "a"],
        ),
        (
            "CREATE TABLE \"t.u\"(\"i.d\" INTEGER PRIMARY KEY) STRICT",
            "INSERT INTO \"t.u\" VALUES (1), (1)",
            "t.u",
            &["i.d"],
        ),
    ] {
        let error = fails(&store(schema), sql);
        assert_eq!(error.constraint(), Some(primary_key(table, columns)), "{sql}");
        assert!(error.is_unique_violation());
    }
    let rowid = violated("CREATE TABLE \"a.b\"(c)", "INSERT INTO \"a.b\"(rowid) VALUES (1), (1)");
    assert_eq!(rowid, Constraint::RowId { table: "a.b".into() });
}

#[test]
fn unique_index_on_expressions_has_its_name() {
    for (index, name) in [("i", "i"), ("\"it's; a.b\"", "it's; a.b")] {
        let schema = format!("CREATE TABLE users(mail); CREATE UNIQUE INDEX {index} ON users(lower(mail))");
        assert_eq!(
            violated(&schema, "INSERT INTO users VALUES ('A'), ('a')"),
            Constraint::UniqueIndex {
                index: name.into(),
                table: Some("users".into())
            }
        );
    }
}

#[test]
fn other_constraints_have_their_names() {
    let named = |table: &str, column: &str| (table.to_owned(), column.to_owned());
    for (schema, sql, (table, column)) in [
        (
            "CREATE TABLE t(a NOT NULL)",
            "INSERT INTO t VALUES (NULL)",
            named("t", "a"),
        ),
        (
            "CREATE TABLE \"t.u\"(\"a, b.c\" NOT NULL)",
            "INSERT INTO \"t.u\" VALUES (NULL)",
            named("t.u", "a, b.c"),
        ),
        (
            "CREATE TABLE t(a, b NOT NULL DEFAULT 1, PRIMARY KEY (a)) WITHOUT ROWID",
            "INSERT INTO t VALUES (1, NULL)",
            named("t", "b"),
        ),
    ] {
        let error = fails(&store(schema), sql);
        assert_eq!(error.constraint(), Some(Constraint::NotNull { table, column }), "{sql}");
        assert!(error.is_not_null_violation());
    }
    for (schema, sql, name) in [
        ("CREATE TABLE t(a CHECK (a > 0))", "INSERT INTO t VALUES (0)", "a > 0"),
        (
            "CREATE TABLE t(a, CONSTRAINT \"is: it's, a.b\" CHECK (a > 0))",
            "INSERT INTO t VALUES (0)",
            "is: it's, a.b",
        ),
    ] {
        let error = fails(&store(schema), sql);
        assert_eq!(
            error.constraint(),
            Some(Constraint::Check { name: name.into() }),
            "{sql}"
        );
        assert!(error.is_check_violation() && !error.is_unique_violation());
    }
    let strict = "CREATE TABLE \"a column b\"(\"c column d.e\" INTEGER) STRICT";
    assert_eq!(
        violated(strict, "INSERT INTO \"a column b\" VALUES ('x')"),
        Constraint::DataType {
            table: "a column b".into(),
            column: "c column d.e".into()
        }
    );
    let trigger = "CREATE TABLE t(a); CREATE TRIGGER refuse BEFORE INSERT ON t
                   BEGIN SELECT RAISE(ABORT, 'UNIQUE constraint failed: t.a'); END";
    let message = "UNIQUE constraint failed: t.a".into();
    assert_eq!(
        violated(trigger, "INSERT INTO t VALUES (1)"),
        Constraint::Trigger { message }
    );
    let tree = "CREATE VIRTUAL TABLE boxes USING rtree(id, x0, x1)";
    assert!(matches!(
        violated(tree, "INSERT INTO boxes VALUES (1, 2, 1)"),
        Constraint::Other { message } if message.contains("rtree constraint failed")
    ));
    assert_eq!(
        violated(tree, "INSERT INTO boxes VALUES (1, 1, 2), (1, 1, 2)"),
        unique("boxes", &["id"])
    );
}

const SHOP: &str = "
    CREATE TABLE items(id INTEGER PRIMARY KEY, name TEXT) STRICT;
    CREATE TABLE customers(id INTEGER PRIMARY KEY) STRICT;
    CREATE TABLE orders(id INTEGER PRIMARY KEY, item INTEGER REFERENCES items, customer INTEGER REFERENCES customers(id)) STRICT;
    CREATE TABLE lines(\"order\" INTEGER REFERENCES orders ON DELETE CASCADE, n INTEGER) STRICT;
    CREATE TABLE notes(item INTEGER REFERENCES items ON DELETE RESTRICT) STRICT;
    INSERT INTO items VALUES (1, 'flour'), (2, 'salt'), (3, 'oil');
    INSERT INTO customers VALUES (1);
    INSERT INTO orders VALUES (1, 1, 1);
    INSERT INTO lines VALUES (1, 1);
    INSERT INTO notes VALUES (2);";

/// The keys that a violation can be about, in order.
#[track_caller]
fn keys_of(error: &Error) -> Vec<String> {
    let Some(Constraint::ForeignKey { keys }) = error.constraint() else {
        panic!("{error:?}");
    };
    let mut keys: Vec<_> = keys.iter().map(ToString::to_string).collect();
    keys.sort();
    keys
}

/// SQLite says no more than that a key was violated.
#[test]
fn foreign_keys_are_those_that_the_statement_touches() {
    let store = store(SHOP);
    for (sql, keys) in [
        (
            "INSERT INTO lines VALUES (9, 1)",
            &["lines(order) refers to orders"][..],
        ),
        (
            "INSERT INTO orders VALUES (2, 9, 1)",
            &["orders(item) refers to items", "orders(customer) refers to customers"],
        ),
        ("UPDATE orders SET item = 9", &["orders(item) refers to items"]),
        ("UPDATE orders SET id = 9", &["lines(order) refers to orders"]),
        (
            "UPDATE lines SET n = 2, \"order\" = 7",
            &["lines(order) refers to orders"],
        ),
        ("DELETE FROM customers", &["orders(customer) refers to customers"]),
        (
            "DELETE FROM items WHERE id = 1",
            &["orders(item) refers to items", "notes(item) refers to items"],
        ),
        // `RESTRICT` is a trigger of SQLite's own.
        (
            "DELETE FROM items WHERE id = 2",
            &["orders(item) refers to items", "notes(item) refers to items"],
        ),
        (
            "UPDATE items SET id = 9, name = 'x' WHERE id = 1",
            &["orders(item) refers to items", "notes(item) refers to items"],
        ),
    ] {
        let error = fails(&store, sql);
        assert!(error.is_foreign_key_violation(), "{error:?}");
        let mut keys = keys.to_vec();
        keys.sort_unstable();
        assert_eq!(keys_of(&error), keys, "{sql}");
        let first = error.to_string();
        assert!(keys.iter().any(|key| first.contains(key)), "{first}");
    }
}

/// SQLite does not ask the authorizer about the rows that REPLACE deletes.
#[test]
fn keys_to_replaced_rows_are_named() {
    let schema = |conflict: &str| {
        format!(
            "CREATE TABLE p(id INTEGER PRIMARY KEY, replaced_at TEXT);
             CREATE TABLE q(id INTEGER PRIMARY KEY, name TEXT UNIQUE {conflict}, p INTEGER REFERENCES p);
             CREATE TABLE r(q INTEGER REFERENCES q);
             CREATE TABLE log(n INTEGER);
             CREATE TRIGGER logged AFTER INSERT ON log BEGIN REPLACE INTO q VALUES (3, 'x', 1); END;
             INSERT INTO p VALUES (1, NULL);
             INSERT INTO q VALUES (1, 'x', 1), (2, 'y', 1);
             INSERT INTO r VALUES (1)"
        )
    };
    let (plain, replacing) = (store(&schema("")), store(&schema("ON CONFLICT REPLACE")));
    let (child, parent) = ("q(p) refers to p", "r(q) refers to q");
    for (store, sql, keys) in [
        (&replacing, "INSERT INTO q VALUES (4, 'x', 1)", &[child, parent][..]),
        (&replacing, "UPDATE q SET name = 'x' WHERE id = 2", &[parent]),
        (&plain, "INSERT OR REPLACE INTO q VALUES (4, 'x', 1)", &[child, parent]),
        (&plain, "replace into q VALUES (4, 'x', 1)", &[child, parent]),
        (&plain, "UPDATE OR REPLACE q SET name = 'x' WHERE id = 2", &[parent]),
        (&plain, "INSERT INTO log VALUES (1)", &[child, parent]),
        // Nothing is replaced by these, whatever is in the schema.
        (&plain, "INSERT INTO q VALUES (4, 'z', 9)", &[child]),
        (&plain, "INSERT INTO q VALUES (4, replace('a', 'a', 'z'), 9)", &[child]),
        (&replacing, "INSERT INTO r VALUES (9)", &[parent]),
    ] {
        assert_eq!(keys_of(&fails(store, sql)), keys, "{sql}");
    }
}

#[test]
fn foreign_key_of_a_trigger_is_among_the_keys() {
    let store = store(&format!(
        "{SHOP} CREATE TABLE log(n INTEGER) STRICT;
         CREATE TRIGGER logged AFTER INSERT ON log BEGIN INSERT INTO lines VALUES (new.n, 1); END"
    ));
    let error = fails(&store, "INSERT INTO log VALUES (9)");
    let Some(Constraint::ForeignKey { keys }) = error.constraint() else {
        panic!("{error:?}");
    };
    assert_eq!(
        (keys.len(), keys[0].table.as_str(), keys[0].parent.as_str()),
        (1, "lines", "orders")
    );
    assert_eq!(keys[0].columns, ["order"]);
}

#[test]
fn deferred_foreign_key_is_found_at_the_end() {
    let store = store(
        "CREATE TABLE parent(id INTEGER PRIMARY KEY);
         CREATE TABLE other(p REFERENCES parent);
         CREATE TABLE child(p REFERENCES parent DEFERRABLE INITIALLY DEFERRED)",
    );
    let error = fails(&store, "INSERT INTO child VALUES (9)");
    let Some(Constraint::ForeignKey { keys }) = error.constraint() else {
        panic!("{error:?}");
    };
    assert_eq!(keys.iter().map(|key| key.table.as_str()).collect::<Vec<_>>(), ["child"]);
    assert!(error.is_foreign_key_violation());
    assert!(error.site().unwrap().contains("constraints.rs:"), "{error}");
    assert!(error.to_string().contains("child(p) refers to parent"), "{error}");
}

/// rusqlite's own methods name no statement, but the closure's end still knows the schema.
#[test]
fn errors_of_rusqlite_methods_are_read_with_the_schema() {
    let store = store(
        "CREATE TABLE \"a.b\"(\"c, d\" UNIQUE); CREATE TABLE p(id INTEGER PRIMARY KEY); CREATE TABLE f(p REFERENCES p)",
    );
    let raw = |sql: &'static str| move |tx: &WriteTx<'_>| Ok(Connection::execute(tx, sql, [])?);
    let error = store.write(raw("INSERT INTO \"a.b\" VALUES (1), (1)")).unwrap_err();
    assert_eq!(error.constraint(), Some(unique("a.b", &["c, d"])));
    let error = store.write(raw("INSERT INTO f VALUES (1)")).unwrap_err();
    assert!(
        matches!(error.constraint(), Some(Constraint::ForeignKey { keys }) if keys.is_empty()),
        "{error:?}"
    );

    // Before the closure has returned, plain words are read, and nothing is guessed.
    store
        .write(move |tx| {
            tx.execute_batch("CREATE TABLE plain(a UNIQUE)")?;
            let told = |sql| Error::from(Connection::execute(tx, sql, []).unwrap_err());
            let plain = told("INSERT INTO plain VALUES (1), (1)");
            assert_eq!(plain.constraint(), Some(unique("plain", &["a"])));
            let quoted = told("INSERT INTO \"a.b\" VALUES (1), (1)");
            assert!(
                matches!(quoted.constraint(), Some(Constraint::Other { .. })),
                "{quoted:?}"
            );
            assert!(quoted.is_unique_violation());
            Ok(())
        })
        .unwrap();
}

#[test]
fn other_errors_violate_no_constraint() {
    let store = store("CREATE TABLE t(a)");
    for error in [
        fails(&store, "SELEKT"),
        fails(&store, "INSERT INTO missing VALUES (1)"),
        Error::app("UNIQUE constraint failed: t.a"),
        Error::Closed,
    ] {
        assert_eq!(error.constraint(), None, "{error:?}");
        assert!(!error.is_unique_violation() && !error.is_foreign_key_violation());
        assert!(!error.is_not_null_violation() && !error.is_check_violation());
    }
}
