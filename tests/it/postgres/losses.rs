//! What could be lost without a word is found, refused or listed by name.

use std::ops::ControlFlow;
use std::path::Path;

use larder::{Error, OnMisfit, Options, PgType, PostgresImportStage, Store};

use super::{before_insert, store_of, tables};
use crate::support::postgres::Postgres;

#[test]
fn rows_that_the_server_changes_are_found() {
    let Some(server) = Postgres::start() else { return };
    let with_key = "CREATE TABLE t(id INTEGER PRIMARY KEY, s TEXT, n REAL);
        INSERT INTO t VALUES (1, 'a', 0.5), (2, 'b', 1.5), (3, 'c', 2.5)";
    let without = "CREATE TABLE t(id INTEGER, s TEXT, n REAL);
        INSERT INTO t VALUES (1, 'a', 0.5), (2, 'b', 1.5), (3, 'c', 2.5)";
    let cases = [
        (
            with_key,
            "IF NEW.id = 2 THEN NEW.s := 'B'; END IF;",
            "row 2 (rowid 2 in the store) differs in s",
        ),
        (
            with_key,
            "IF NEW.id = 3 THEN NEW.n := 2.5000000000000004; END IF;",
            "row 3 (rowid 3 in the store) differs in n",
        ),
        (with_key, "IF NEW.id = 2 THEN NEW.s := NULL; END IF;", "differs in s"),
        (
            with_key,
            "IF NEW.id = 3 THEN RETURN NULL; END IF;",
            "row 3 (rowid 3 in the store) is not there",
        ),
        (
            without,
            "IF NEW.id = 2 THEN NEW.s := 'b '; END IF;",
            "has other rows at the server",
        ),
        (
            without,
            "IF NEW.id = 1 THEN RETURN NULL; END IF;",
            "it has 2 rows at the server, 3 in the store",
        ),
    ];
    for (at, (schema, body, wanted)) in cases.into_iter().enumerate() {
        let database = format!("spoil{at}");
        let url = server.database(&database);
        before_insert(&server, &database, "%", body);
        let error = store_of(schema).export_to_postgres(&url).run().unwrap_err().to_string();
        assert!(error.contains("table t") && error.contains(wanted), "{body}: {error}");
        assert_eq!(tables(&server, &database), "0", "{body}");
    }
}

#[test]
fn rows_that_lie_elsewhere_at_the_server_are_the_same() {
    let Some(server) = Postgres::start() else { return };
    // The second form of the row lies behind the others.
    let body = "IF NEW.id = 3 THEN UPDATE public.t SET s = s WHERE id = 1; END IF;";
    for (at, columns) in ["id INTEGER PRIMARY KEY, s TEXT", "id INTEGER, s TEXT"]
        .into_iter()
        .enumerate()
    {
        let store = Store::open_temp().unwrap();
        let rows = format!("CREATE TABLE t({columns}); INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')");
        store.write(move |tx| tx.execute_batch(&rows)).unwrap();
        let sha256 = |database: String, spoil: bool| {
            let url = server.database(&database);
            if spoil {
                before_insert(&server, &database, "%", body);
            }
            let report = store.export_to_postgres(&url).run().unwrap();
            let order = server.run(&database, "SELECT string_agg(id::text, ',') FROM t");
            assert_eq!(order, if spoil { "2,1,3" } else { "1,2,3" });
            report.tables[0].sha256.clone()
        };
        assert_eq!(sha256(format!("moved{at}"), true), sha256(format!("plain{at}"), false));
    }
}

#[test]
fn rows_that_a_trigger_stores_itself_are_the_same() {
    let Some(server) = Postgres::start() else { return };
    // The server counts one row less than it has got.
    let body = "IF NEW.id = 2 AND pg_trigger_depth() = 1 THEN INSERT INTO public.t SELECT NEW.*; RETURN NULL; END IF;";
    for (database, columns) in [
        ("itself", "id INTEGER PRIMARY KEY, s TEXT"),
        ("itself_sum", "id INTEGER, s TEXT"),
    ] {
        let store = Store::open_temp().unwrap();
        let rows = format!("CREATE TABLE t({columns}); INSERT INTO t VALUES (1, 'a'), (2, 'b')");
        store.write(move |tx| tx.execute_batch(&rows)).unwrap();
        let url = server.database(database);
        before_insert(&server, database, "%", body);
        store.export_to_postgres(&url).run().unwrap();
        assert_eq!(server.run(database, "SELECT id, s FROM t ORDER BY id"), "1|a\n2|b");
    }
}

#[test]
fn rows_that_a_deferred_trigger_changes_are_found() {
    let Some(server) = Postgres::start() else { return };
    let url = server.database("deferred");
    server.run(
        "deferred",
        "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            UPDATE public.t SET s = 'other' WHERE id = 2; RETURN NULL; END $$;
         CREATE FUNCTION on_table() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
            CREATE CONSTRAINT TRIGGER spoil AFTER INSERT ON public.t DEFERRABLE INITIALLY DEFERRED
                FOR EACH ROW EXECUTE FUNCTION public.spoil(); END $$;
         CREATE EVENT TRIGGER spoil ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION on_table()",
    );
    let store = store_of("CREATE TABLE t(id INTEGER, s TEXT); INSERT INTO t VALUES (1, 'a'), (2, 'b')");
    let error = store.export_to_postgres(&url).run().unwrap_err().to_string();
    assert!(
        error.contains("table t is not the same") && error.contains("other rows"),
        "{error}"
    );
    assert_eq!(tables(&server, "deferred"), "0");
}

#[test]
fn tables_without_one_order_of_text_have_the_sum_of_their_rows() {
    let Some(server) = Postgres::start() else { return };
    for (store_encoding, server_encoding, is_ordered) in [
        ("UTF-8", "UTF8", true),
        ("UTF-16le", "UTF8", false),
        ("UTF-16be", "UTF8", false),
        ("UTF-8", "WIN1252", false),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        // The three encodings have three orders of these. The server makes a column of the third table.
        let conn = larder::rusqlite::Connection::open(&path).unwrap();
        conn.execute_batch(&format!(
            "PRAGMA encoding = '{store_encoding}';
             CREATE TABLE keyed(s TEXT PRIMARY KEY, n INTEGER);
             CREATE TABLE plain(s TEXT, n INTEGER);
             CREATE TABLE made(s TEXT PRIMARY KEY, n INTEGER, m INTEGER AS (n + 1));
             INSERT INTO keyed VALUES ('b', 1), ('\u{e9}', 2), ('\u{20ac}', 3);
             INSERT INTO plain SELECT * FROM keyed;
             INSERT INTO made SELECT * FROM keyed"
        ))
        .unwrap();
        drop(conn);
        let store = Store::open(&path).unwrap();
        let database = format!("{store_encoding}_{server_encoding}");
        server.run(
            "postgres",
            &format!(
                "CREATE DATABASE \"{database}\" ENCODING '{server_encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
            ),
        );
        let report = store.export_to_postgres(&server.url(&database)).run().unwrap();
        let sum = |name: &str| {
            let table = report.tables.iter().find(|table| table.name == name);
            table.and_then(|table| table.sha256.clone()).unwrap()
        };
        assert_eq!(sum("keyed") != sum("plain"), is_ordered, "{database}: {report}");
        assert_eq!(server.run(&database, "SELECT m FROM made WHERE s = U&'\\20AC'"), "4");
    }
}

#[test]
fn rows_of_tables_that_inherit_are_found() {
    let Some(server) = Postgres::start() else { return };
    // Each table gets a child as soon as it is made.
    let on_table = "
        CREATE FUNCTION beget() RETURNS event_trigger LANGUAGE plpgsql AS $$ DECLARE r record; BEGIN
            FOR r IN SELECT * FROM pg_event_trigger_ddl_commands() WHERE command_tag = 'CREATE TABLE'
                AND object_identity = 'public.t' LOOP
                CREATE TABLE public.child() INHERITS (public.t);
                {insert}
            END LOOP;
        END $$;
        CREATE EVENT TRIGGER beget ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION beget()";
    let insert = "INSERT INTO public.child VALUES (9, 'more');";
    for (at, columns, insert, wanted) in [
        (
            0,
            "id INTEGER PRIMARY KEY, s TEXT",
            insert,
            Some("it has more rows at the server"),
        ),
        (
            1,
            "id INTEGER, s TEXT",
            insert,
            Some("it has 3 rows at the server, 2 in the store"),
        ),
        (2, "id INTEGER PRIMARY KEY, s TEXT", "", None),
        (3, "id INTEGER, s TEXT", "", None),
    ] {
        let store = Store::open_temp().unwrap();
        let rows = format!("CREATE TABLE t({columns}); INSERT INTO t VALUES (1, 'a'), (2, 'b')");
        store.write(move |tx| tx.execute_batch(&rows)).unwrap();
        let database = format!("child{at}");
        let url = server.database(&database);
        server.run(&database, &on_table.replace("{insert}", insert));
        let exported = store.export_to_postgres(&url).run();
        match wanted {
            Some(wanted) => {
                let error = exported.unwrap_err().to_string();
                assert!(error.contains("table t") && error.contains(wanted), "{error}");
                assert_eq!(tables(&server, &database), "0");
            }
            None => assert_eq!(exported.unwrap().tables[0].sha256.as_ref().map(String::len), Some(64)),
        }
    }
}

/// Makes an index of that name, and puts it in the place of the key's index of table `t`.
fn swap_index(path: &Path, create: &str, name: &str) {
    let conn = larder::rusqlite::Connection::open(path).unwrap();
    conn.execute_batch(&format!(
        "{create};
         PRAGMA writable_schema = ON;
         UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema WHERE name = '{name}')
             WHERE name = 'sqlite_autoindex_t_1';
         DELETE FROM sqlite_schema WHERE name = '{name}'"
    ))
    .unwrap();
}

#[test]
fn index_that_lost_a_row_of_its_table_is_found() {
    let Some(server) = Postgres::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let store = Store::open(&path).unwrap();
    store
        .write(|tx| {
            tx.execute_batch("CREATE TABLE t(s TEXT PRIMARY KEY, n INTEGER); INSERT INTO t VALUES ('a', 1), ('b', 2)")
        })
        .unwrap();
    store.close().unwrap();
    // It has fewer rows.
    swap_index(&path, "CREATE INDEX part ON t(s) WHERE n = 1", "part");
    let store = Store::open(&path).unwrap();
    let error = store
        .export_to_postgres(&server.database("index"))
        .run()
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("table t has 2 rows, and 1 by the index of its key"),
        "{error}"
    );
    assert_eq!(tables(&server, "index"), "0");
}

#[test]
fn index_with_another_key_than_its_table_is_found() {
    let Some(server) = Postgres::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let store = Store::open(&path).unwrap();
    store
        .write(|tx| {
            tx.execute_batch(
                "CREATE TABLE t(s TEXT PRIMARY KEY, n INTEGER); INSERT INTO t VALUES ('a', 1), ('b', 2);
                 CREATE TABLE u(s TEXT, n REAL, PRIMARY KEY (n, s)); INSERT INTO u VALUES ('a', 1), ('c', 2.5)",
            )
        })
        .unwrap();
    let url = server.database("key");
    store.export_to_postgres(&url).schema("sound").run().unwrap();
    store.close().unwrap();
    // It is one of the other table.
    swap_index(&path, "CREATE INDEX other ON u(s)", "other");
    let store = Store::open(&path).unwrap();
    let error = store.export_to_postgres(&url).run().unwrap_err().to_string();
    assert!(
        error.contains("table t has other keys than the index of its key"),
        "{error}"
    );
    assert_eq!(tables(&server, "key"), "0");
}

#[test]
fn text_policy_turns_no_value_into_null() {
    let Some(server) = Postgres::start() else { return };
    let url = server.database("text");
    for (sql, wanted) in [
        (
            "CREATE TABLE t(x BLOB); INSERT INTO t VALUES (x'00'), (1)",
            "t.x: 1 values do not fit text: blob",
        ),
        (
            "CREATE TABLE t(x INTEGER); INSERT INTO t VALUES (1), ('a' || char(0) || 'b')",
            "t.x: 1 values do not fit text: text with U+0000",
        ),
    ] {
        let export = || store_of(sql);
        let store = export();
        let plan = store
            .export_to_postgres(&url)
            .on_misfit(OnMisfit::Text)
            .dry_run()
            .unwrap();
        assert!(plan.to_string().contains(wanted), "{plan}");
        let error = store
            .export_to_postgres(&url)
            .on_misfit(OnMisfit::Text)
            .run()
            .unwrap_err();
        assert!(error.to_string().contains(wanted), "{error}");
        assert_eq!(tables(&server, "text"), "0");
    }
}

#[test]
fn quarantined_rows_can_be_put_back() {
    let Some(server) = Postgres::start() else { return };
    let url = server.database("aside");
    let store = store_of(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, n INTEGER, s TEXT);
         INSERT INTO t VALUES (1, 1, 'one'), (2, 'two', 'it''s'), (3, 3, 'a' || char(0) || 'b'), (4, 1.5, NULL);
         CREATE TABLE u(k TEXT PRIMARY KEY); INSERT INTO u VALUES ('a'), (NULL)",
    );
    let report = store
        .export_to_postgres(&url)
        .on_misfit(OnMisfit::Quarantine)
        .run()
        .unwrap();
    assert!(
        report.to_string().contains("t: 4 rows, 3 of them set aside"),
        "{report}"
    );
    assert_eq!(server.run("aside", "SELECT id, n, s FROM t"), "1|1|one");
    assert_eq!(server.run("aside", "SELECT k FROM u"), "a");
    let reasons = "SELECT table_name, row_id, reasons FROM larder_quarantine ORDER BY table_name, row_id";
    assert_eq!(
        server.run("aside", reasons),
        "t|2|n: text\nt|3|s: text with U+0000\nt|4|n: real\nu|2|k: null in the primary key"
    );
    let statements = server.run(
        "aside",
        "SELECT statement FROM larder_quarantine WHERE table_name = 't'",
    );
    let other = Store::open_temp().unwrap();
    other
        .write(move |tx| {
            tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, n INTEGER, s TEXT)")?;
            tx.execute_batch(&statements.replace('\n', ";"))
        })
        .unwrap();
    let all = |store: &Store| {
        let sql = "SELECT typeof(n) || quote(n) || typeof(s) || hex(s) FROM t WHERE id > 1 ORDER BY id";
        store
            .read(|tx| tx.query_map(sql, [], |row| row.get::<_, String>(0)))
            .unwrap()
    };
    assert_eq!(all(&other), all(&store));
}

#[test]
fn tables_and_keys_that_sqlite_names_otherwise_are_exported() {
    let Some(server) = Postgres::start() else { return };
    let url = server.database("names");
    let store = store_of(
        // SQLite refuses to write to it once it has the name of a shadow table.
        "CREATE TABLE docs_content(id INTEGER PRIMARY KEY, body TEXT);
         INSERT INTO docs_content VALUES (1, 'mine');
         CREATE VIRTUAL TABLE docs USING fts5(body, content = 'docs_content', content_rowid = 'id');
         CREATE TABLE k(k TEXT, email TEXT, xmin INTEGER, j TEXT UNIQUE CHECK (json_valid(j)),
            PRIMARY KEY (k COLLATE rtrim), UNIQUE (email COLLATE nocase));
         INSERT INTO k VALUES ('a', 'x', 7, '{}')",
    );
    let report = store.export_to_postgres(&url).infer_types(true).run().unwrap();
    let run = |sql: &str| server.run("names", sql);
    assert_eq!(run("SELECT body FROM docs_content"), "mine");
    assert_eq!(run("SELECT xmin_column, j FROM k"), "7|{}");
    for values in ["('a  ', 'y')", "('b', 'X')"] {
        run(&format!(
            "DO $$ BEGIN INSERT INTO k(k, email) VALUES {values}; RAISE 'it was not refused'; EXCEPTION WHEN unique_violation \
             THEN END $$"
        ));
    }
    let text = report.to_string();
    for part in [
        "its name is xmin_column there",
        "shadow docs_data",
        "collation RTRIM of column k in the primary key of table k",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn collation_of_a_key_that_the_server_does_not_have_is_listed() {
    let options = Options::new()
        .on_connect(|conn, _| Ok(conn.create_collation("digits", |a, b| a.len().cmp(&b.len()).then(a.cmp(b)))?));
    let store = options.open_temp().unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(k TEXT, n INTEGER, PRIMARY KEY (n, k COLLATE digits))"))
        .unwrap();
    let plan = store.export_to_postgres("host=nowhere").dry_run().unwrap().to_string();
    assert!(
        plan.contains("collation DIGITS of column k in the primary key of table t"),
        "{plan}"
    );
    assert!(!plan.contains("BINARY") && !plan.contains("column n"), "{plan}");
}

#[test]
fn what_pragmas_do_not_say_is_exported_or_listed() {
    let Some(server) = Postgres::start() else { return };
    let url = server.database("text");
    let store = store_of(
        "CREATE TABLE p(id INTEGER PRIMARY KEY, Code TEXT UNIQUE COLLATE NOCASE);
         CREATE TABLE t( -- don't read CHECK (id > 100) here
            id INTEGER PRIMARY KEY,
            n INTEGER CHECK (n > 0 AND n <> 7), /* it's ( */
            twice INTEGER GENERATED ALWAYS AS (n * 2) STORED, odd INTEGER AS (n % 2),
            s TEXT UNIQUE ON CONFLICT REPLACE, r TEXT COLLATE RTRIM,
            a INTEGER REFERENCES P(ID) DEFERRABLE INITIALLY DEFERRED,
            b INTEGER REFERENCES p(id),
            CHECK (s GLOB 'x*' OR s IS NULL)
         );
         CREATE INDEX partly ON t(n) WHERE s IS NOT NULL;
         CREATE UNIQUE INDEX folded ON t(lower(s), n + 1 DESC);
         CREATE INDEX by_glob ON t(s) WHERE s GLOB 'x*';
         CREATE VIRTUAL TABLE f USING fts5(body); INSERT INTO f VALUES ('only here'), ('and here');
         CREATE TABLE bare(x);
         INSERT INTO p VALUES (1, 'a'); INSERT INTO t(id, n, s, a, b) VALUES (1, 3, 'xA', 1, 1), (2, NULL, NULL, NULL, NULL)",
    );
    let plan = store.export_to_postgres(&url).dry_run().unwrap();
    let report = store.export_to_postgres(&url).run().unwrap();
    let run = |sql: &str| server.run("text", sql);
    assert_eq!(run("SELECT n, twice, odd FROM t ORDER BY id"), "3|6|1\n||");
    assert_eq!(run("INSERT INTO t(n) VALUES (5) RETURNING twice"), "10");
    let refused = [
        "INSERT INTO t(n) VALUES (7)",
        "INSERT INTO t(s, n) VALUES ('XA', 3)",
        "INSERT INTO p(\"Code\") VALUES ('A')",
        "INSERT INTO t(b) VALUES (99)",
    ];
    for statement in refused {
        run(&format!(
            "DO $$ BEGIN {statement}; RAISE 'it was not refused'; EXCEPTION WHEN integrity_constraint_violation THEN END $$"
        ));
    }
    assert_eq!(
        run("SELECT condeferred FROM pg_constraint WHERE conrelid = 't'::regclass AND contype = 'f' ORDER BY conkey"),
        "t\nf"
    );
    let predicate = run("SELECT indexdef FROM pg_indexes WHERE indexname = 'partly'");
    assert!(predicate.contains("WHERE (s IS NOT NULL)"), "{predicate}");
    assert_eq!(
        run("SELECT collation_name FROM information_schema.columns WHERE table_name = 'p' AND column_name = 'Code'"),
        "C"
    );
    let (plan, text) = (plan.to_string(), report.to_string());
    for part in [
        "column t.odd: an ordinary column",
        "s: UNIQUE ON CONFLICT REPLACE",
        "collation RTRIM of column t.r",
        "collation NOCASE of column p.Code",
        "check of table t: s GLOB 'x*' OR s IS NULL",
        "index by_glob",
        "virtual f",
        "it has 2 rows",
        "rowid of table bare",
    ] {
        assert!(text.contains(part), "{part}: {text}");
        assert!(plan.contains(part), "{part}: {plan}");
    }
    for part in ["partly", "folded", "twice", "foreign key"] {
        assert!(!text.contains(part), "{part}: {text}");
        assert!(!plan.contains(part), "{part}: {plan}");
    }
}

#[test]
fn types_are_inferred_only_if_every_value_fits() {
    let Some(server) = Postgres::start() else { return };
    let url = server.database("types");
    let store = store_of(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, done INTEGER CHECK (done IN (0, 1)), j TEXT CHECK (json_valid(j)), u TEXT,
            at TEXT, day TEXT, almost TEXT, empty TEXT, free INTEGER);
         CREATE INDEX undone ON t(id) WHERE done = 0;
         INSERT INTO t VALUES (1, 0, '{\"b\": 1, \"a\":  1.50}', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '2024-01-01 10:00:00',
            '2024-01-01', '2024-01-01', NULL, 0),
            (2, 1, NULL, NULL, '2024-01-01T10:00:00.5+02:00', '0001-02-03', '2024-1-1', NULL, 1)",
    );
    let report = store.export_to_postgres(&url).infer_types(true).run().unwrap();
    let kinds = "SELECT string_agg(column_name || ' ' || data_type, ',' ORDER BY ordinal_position)
        FROM information_schema.columns WHERE table_name = 't'";
    assert_eq!(
        server.run("types", kinds),
        "id bigint,done boolean,j json,u uuid,at timestamp with time zone,day date,almost text,empty text,free bigint"
    );
    assert_eq!(
        server.run("types", "SELECT j FROM t WHERE id = 1"),
        "{\"b\": 1, \"a\":  1.50}"
    );
    assert_eq!(
        server.run("types", "SELECT at AT TIME ZONE 'UTC' FROM t WHERE id = 2"),
        "2024-01-01 08:00:00.5"
    );
    let text = report.to_string();
    assert!(text.contains("column t.done: boolean: a CHECK"), "{text}");
    assert!(
        !text.contains("index undone") && !text.contains("check of table"),
        "{text}"
    );
    // A value that came past the CHECK.
    let loose = Options::new().open_temp().unwrap();
    loose
        .write(|tx| {
            tx.execute_batch(
                "CREATE TABLE t(x INTEGER); INSERT INTO t VALUES (2); CREATE TABLE s(u TEXT); INSERT INTO s VALUES ('A')",
            )
        })
        .unwrap();
    let plan = loose.export_to_postgres(&url).infer_types(true).dry_run().unwrap();
    assert!(
        plan.misfits.is_empty() && plan.tables[1].create.contains("\"x\" bigint"),
        "{plan}"
    );
}

#[test]
fn dumps_that_lost_their_end_or_do_more_are_refused() {
    let Some(server) = Postgres::start() else { return };
    server.database("app");
    server.run(
        "app",
        "CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1); CREATE TABLE b (t text); INSERT INTO b VALUES ('x');
         SELECT lo_create(4711)",
    );
    let folder = tempfile::tempdir().unwrap();
    let dump = folder.path().join("d.sql");
    server.dump("app", &dump, &[]);
    let whole = std::fs::read_to_string(&dump).unwrap();
    let to = folder.path().join("app.db");
    let run = |text: &str| {
        std::fs::write(&dump, text).unwrap();
        Store::import_from_pg_dump(&dump, &to).run()
    };
    let rows_of_b = whole.find("COPY public.b").unwrap();
    let end = "--\n-- PostgreSQL database dump complete";
    let with = |statement: &str| whole.replace(end, &format!("{statement}\n{end}"));
    for (text, wanted) in [
        // Between two statements: all that is there can be read.
        (whole[..rows_of_b].to_owned(), "cut off"),
        (with("UPDATE public.b SET t = 'y';"), "UPDATE public.b"),
        (with("DELETE FROM public.b;"), "DELETE FROM public.b"),
        (with("INSERT INTO public.b SELECT 'z';"), "VALUES alone"),
        (with("DROP TABLE public.b;"), "drops a table"),
        (with("ALTER TABLE public.b RENAME TO c;"), "changes a table"),
        (with("\\copy public.b from 'x.csv'"), "a command of psql"),
        (with("DO $$ BEGIN DELETE FROM public.b; END $$;"), "DO $$"),
        (with("SET search_path = sales, pg_catalog;"), "search_path sales"),
        (with("CREATE TABLE public.b (t text);"), "made twice"),
    ] {
        let error = run(&text).unwrap_err().to_string();
        assert!(error.contains(wanted), "{wanted}: {error}");
        assert!(!to.exists(), "{wanted}");
    }
    let report = run(&whole).unwrap();
    assert!(report.to_string().contains("large objects"), "{report}");
    let live = Store::import_from_postgres(&server.url("app"), folder.path().join("live.db"))
        .run()
        .unwrap();
    assert!(live.to_string().contains("large objects"), "{live}");
}

#[test]
fn cancelled_import_leaves_nothing() {
    let Some(server) = Postgres::start() else { return };
    let url = server.database("many");
    server.run(
        "many",
        "CREATE TABLE t AS SELECT i, 'row ' || i AS s FROM generate_series(1, 200000) i",
    );
    let folder = tempfile::tempdir().unwrap();
    for stage in [PostgresImportStage::Load, PostgresImportStage::Compare] {
        let import = Store::import_from_postgres(&url, folder.path().join("a.db"));
        let import = import.progress(move |now| match now.stage == stage {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        });
        let error = import.run().unwrap_err();
        assert!(matches!(error, Error::Cancelled { work: "import" }), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

#[test]
fn table_before_one_with_a_refused_generated_column_is_exported() {
    let Some(server) = Postgres::start() else { return };
    let store = store_of(
        "CREATE TABLE a(id INTEGER PRIMARY KEY); CREATE TABLE b(n INTEGER, t TEXT AS (lower(n)));
         INSERT INTO a VALUES (1), (2); INSERT INTO b(n) VALUES (3)",
    );
    for (database, resumable) in [("refused", false), ("refused_by_table", true)] {
        let export = store.export_to_postgres(&server.database(database));
        let report = export.resumable(resumable).run().unwrap();
        let note = report.notes.iter().find(|note| note.object == "column b.t");
        assert!(
            note.is_some_and(|note| note.instead.contains("the server refused")),
            "{report}"
        );
        assert_eq!(server.run(database, "SELECT count(*) FROM a"), "2");
        assert_eq!(server.run(database, "SELECT n, t FROM b"), "3|3");
    }
}

#[test]
fn times_in_keys_stay_text_if_types_are_inferred() {
    let Some(server) = Postgres::start() else { return };
    let store = store_of(
        "CREATE TABLE a(at TEXT PRIMARY KEY); CREATE TABLE b(at TEXT, free TEXT); CREATE UNIQUE INDEX once ON b(at);
         CREATE TABLE c(at TEXT REFERENCES a(at));
         INSERT INTO a VALUES ('2024-01-01T10:00:00Z'), ('2024-01-01T11:00:00+01:00');
         INSERT INTO b SELECT at, at FROM a; INSERT INTO c SELECT at FROM a",
    );
    let report = store.export_to_postgres(&server.database("instants")).infer_types(true);
    let report = report.run().unwrap();
    assert_eq!(report.rows(), 6);
    let kinds =
        "SELECT string_agg(table_name || '.' || column_name || ' ' || data_type, ',' ORDER BY table_name, column_name)
        FROM information_schema.columns WHERE table_schema = 'public'";
    assert_eq!(
        server.run("instants", kinds),
        "a.at text,b.at text,b.free timestamp with time zone,c.at text"
    );
    let keys = "SELECT count(*) FROM pg_constraint WHERE contype = 'f'";
    assert_eq!(server.run("instants", keys), "1");
}

#[test]
fn key_of_uuids_in_both_forms_is_compared_without_an_order() {
    let Some(server) = Postgres::start() else { return };
    let store = store_of(
        "CREATE TABLE t(id PRIMARY KEY, n INTEGER) WITHOUT ROWID;
         INSERT INTO t VALUES (x'00112233445566778899aabbccddeeff', 1), ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 2),
            (x'ff112233445566778899aabbccddeeff', 3), ('00eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 4)",
    );
    let export = store.export_to_postgres(&server.database("uuids"));
    let report = export.column_type("t", "id", PgType::Uuid).run().unwrap();
    assert_eq!(report.rows(), 4);
    let order = "SELECT string_agg(n::text, '' ORDER BY id) FROM t";
    assert_eq!(server.run("uuids", order), "1423");
}
