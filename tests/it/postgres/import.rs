//! Imports from a real server, and from dumps that its `pg_dump` makes.

use std::fs;
use std::path::PathBuf;

use larder::{Error, Options, PostgresImportReport, PostgresNan, Store};
use tempfile::TempDir;

use crate::support::names_in;
use crate::support::postgres::Postgres;

/// A schema like that of a shop: enum, domain, arrays, indexes of all kinds, keys that refer to each other.
const SHOP: &str = r#"
CREATE TYPE rating AS ENUM ('G', 'it''s', 'R');
CREATE DOMAIN year AS integer CHECK (VALUE >= 1901 AND VALUE <= 2155);
CREATE SCHEMA sales;
CREATE TABLE staff (
    id serial PRIMARY KEY,
    name varchar(20) NOT NULL,
    boss integer REFERENCES staff(id) ON DELETE SET NULL,
    store_id integer,
    active boolean NOT NULL DEFAULT true
);
CREATE TABLE store (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    manager integer NOT NULL REFERENCES staff(id) DEFERRABLE INITIALLY DEFERRED
);
ALTER TABLE staff ADD FOREIGN KEY (store_id) REFERENCES store(id);
CREATE TABLE film (
    id bigserial PRIMARY KEY,
    title text NOT NULL CHECK (title <> ''),
    release year,
    rate numeric(6,2) DEFAULT 4.99 NOT NULL CHECK (rate >= 0),
    rating rating DEFAULT 'G',
    features text[],
    length integer,
    twice integer GENERATED ALWAYS AS (length * 2) STORED,
    document jsonb DEFAULT '{}',
    added timestamptz DEFAULT now() NOT NULL,
    status text CHECK (status IN ('new', 'old')),
    CONSTRAINT title_matches CHECK (title ~ '^.*$')
);
CREATE INDEX film_title ON film (lower(title));
CREATE UNIQUE INDEX film_new ON film (title) WHERE status = 'new';
CREATE INDEX film_text ON film USING gin (to_tsvector('english', title));
CREATE TABLE sales.payment (
    film bigint NOT NULL REFERENCES film(id),
    day date NOT NULL,
    amount numeric(5,2),
    PRIMARY KEY (film, day)
) PARTITION BY RANGE (day);
CREATE TABLE sales.payment_1 PARTITION OF sales.payment FOR VALUES FROM ('2020-01-01') TO ('2020-07-01');
CREATE TABLE sales.payment_2 PARTITION OF sales.payment FOR VALUES FROM ('2020-07-01') TO ('2021-01-01');
CREATE VIEW films AS SELECT id, title FROM film;
CREATE MATERIALIZED VIEW film_count AS SELECT count(*) FROM film;
CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NOTIFY films; RETURN NEW; END $$;
CREATE TRIGGER shout AFTER INSERT ON film FOR EACH ROW EXECUTE FUNCTION shout();
ALTER TABLE film ENABLE ROW LEVEL SECURITY;
COMMENT ON COLUMN film.title IS 'as on the poster';
BEGIN;
INSERT INTO staff (name) VALUES ('Ada'), ('Bob');
INSERT INTO store (manager) VALUES (1);
UPDATE staff SET boss = 1, store_id = 1 WHERE id = 2;
COMMIT;
INSERT INTO film (title, release, rate, rating, features, length, document, status) VALUES
    ('Ann TRUE love', 2006, 0.99, 'it''s', '{"Trailers","a \"b\", c",NULL,""}', 90, '{"a": [1, {"b": null}]}', 'new'),
    (E'tab\there\nline \\ back', 1901, 1234.50, 'R', NULL, NULL, NULL, NULL),
    ('😀 ''quoted''', NULL, 0.00, 'G', '{}', 0, '[]', 'old');
DELETE FROM film WHERE id = 3;
INSERT INTO sales.payment VALUES (1, '2020-01-01', 1.00), (1, '2020-12-31', NULL), (2, '2020-06-30', -0.01);
"#;

struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn names(&self) -> Vec<String> {
        names_in(self.folder.path())
    }
}

fn texts(store: &Store, sql: &str) -> Vec<String> {
    let rows = store.read(|tx| tx.query_map(sql, [], |row| row.get::<_, Option<String>>(0)));
    rows.unwrap()
        .into_iter()
        .map(|text| text.unwrap_or_else(|| "NULL".into()))
        .collect()
}

fn hashes(report: &PostgresImportReport) -> Vec<(String, u64)> {
    report
        .tables
        .iter()
        .map(|table| (table.table.clone(), table.rows))
        .collect()
}

#[test]
fn schema_and_rows_are_the_same_from_a_server_and_from_its_dumps() {
    let Some(server) = Postgres::start() else { return };
    let url = server.database("shop");
    server.run("shop", SHOP);
    let place = Place::new();
    let live = Store::import_from_postgres(&url, place.file("live.db")).run().unwrap();
    println!("{live}");
    server.dump("shop", &place.file("copy.sql"), &[]);
    server.dump("shop", &place.file("inserts.sql"), &["--inserts"]);
    server.dump(
        "shop",
        &place.file("columns.sql"),
        &["--column-inserts", "--rows-per-insert=3"],
    );
    server.dump("shop", &place.file("copy.sql.gz"), &["-Z", "6"]);
    let wanted = [("film", 2), ("payment", 3), ("staff", 2), ("store", 1)];
    let mut stores = vec![Store::open(place.file("live.db")).unwrap()];
    for name in ["copy.sql", "inserts.sql", "columns.sql", "copy.sql.gz"] {
        let to = place.file(&format!("{name}.db"));
        let report = Store::import_from_pg_dump(place.file(name), &to).run().unwrap();
        let mut found = hashes(&report);
        found.sort();
        let names = found
            .iter()
            .map(|(name, rows)| (name.trim_start_matches("sales_"), *rows));
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        assert_eq!(names, wanted, "{name}");
        stores.push(Store::open(to).unwrap());
    }
    for store in &stores {
        let schema = texts(store, "SELECT sql FROM sqlite_schema WHERE name = 'film'").remove(0);
        for part in [
            "\"id\" INTEGER PRIMARY KEY AUTOINCREMENT",
            "CHECK (\"rating\" IN ('G', 'it''s', 'R'))",
            "DEFAULT '4.99'",
            "GENERATED ALWAYS AS",
            "as on the poster",
            "\"status\" IN ('new' , 'old')",
            "STRICT",
        ] {
            assert!(schema.contains(part), "{part} in {schema}");
        }
        let titles = texts(store, "SELECT title FROM film ORDER BY id");
        assert_eq!(titles, ["Ann TRUE love", "tab\there\nline \\ back"]);
        assert_eq!(
            texts(store, "SELECT features FROM film ORDER BY id"),
            [r#"["Trailers","a \"b\", c",null,""]"#, "NULL"]
        );
        assert_eq!(texts(store, "SELECT rate FROM film ORDER BY id"), ["0.99", "1234.50"]);
        assert_eq!(
            texts(store, "SELECT CAST(twice AS TEXT) FROM film ORDER BY id"),
            ["180", "NULL"]
        );
        let indexes = texts(
            store,
            "SELECT name FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL ORDER BY name",
        );
        assert_eq!(indexes, ["film_new", "film_title"]);
        // The sequence goes on behind the row that was deleted.
        let add = "INSERT INTO film(title) VALUES ('next')";
        assert_eq!(store.write(move |tx| tx.insert(add, [])).unwrap(), 4);
        let bad = store.write(|tx| tx.execute("UPDATE film SET rating = 'X'", []));
        assert!(bad.is_err());
        let orphan = store.write(|tx| tx.execute("UPDATE staff SET boss = 99 WHERE id = 1", []));
        assert!(orphan.is_err());
        assert!(store.check().run().unwrap().is_ok());
    }
    let text = live.to_string();
    for part in [
        "film: title_matches",
        "film_text",
        "materialized view",
        "LISTEN and NOTIFY",
        "row-level security",
        "film.rate",
        "view films",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn hostile_values_arrive_as_they_are() {
    let Some(server) = Postgres::start() else { return };
    let url = server.database("hostile");
    server.run(
        "hostile",
        r#"CREATE TABLE v (
            i8 bigint, i2 smallint, n numeric, f8 double precision, f4 real, t text, c char(5), b bytea, d date, ts timestamp,
            tz timestamptz, tm time, iv interval, u uuid, j json, jb jsonb, ia integer[], ta text[][], fa float8[], ba boolean[],
            tza timestamptz[], ip inet, r int4range, p point, bits bit varying(8), m money, x xml);
        INSERT INTO v VALUES (-9223372036854775808, -32768, 1234567890123456.7891, 'Infinity', 0.1, E'\\N\t\n\r\\.''"', 'a',
            '\x00ff00', '4713-01-01 BC', '4713-01-01 00:00:00 BC', 'infinity', '24:00:00',
            '-1 year 2 mons -3 days 04:05:06.789', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{"a" :  1e400}',
            '{"deep": {"er": [null, {"x": "\u00e9"}]}}', '{NULL,1,NULL}', '{{"a","NULL"},{NULL,"{}\\\""}}', '{NaN,-0,1e308}',
            '{t,NULL,f}', '{"2020-01-01 00:00:00+00",infinity}', '10.0.0.1/8', '[1,5)', '(1,2)', '101', 12.5, '<a>b</a>');
        INSERT INTO v (f8, f4, n, t, d, ts, b) VALUES ('-Infinity', '-0', 'NaN', '', '5874897-12-31',
            '294276-12-31 23:59:59.999999', '');
        INSERT INTO v (t, ia) VALUES ('😀ä', '[0:1]={1,2}');
        INSERT INTO v DEFAULT VALUES;
        CREATE TABLE big (id integer PRIMARY KEY, b bytea, t text);
        INSERT INTO big SELECT 1, decode(repeat('00ff', 500000), 'hex'), repeat('x''y😀', 100000);
        CREATE TABLE empty ();
        "#,
    );
    let place = Place::new();
    server.dump("hostile", &place.file("d.sql"), &[]);
    server.dump("hostile", &place.file("i.sql"), &["--inserts"]);
    let imports = [
        Store::import_from_postgres(&url, place.file("live.db")),
        Store::import_from_pg_dump(place.file("d.sql"), place.file("d.db")),
        Store::import_from_pg_dump(place.file("i.sql"), place.file("i.db")),
    ];
    for import in imports {
        let report = import.run().unwrap();
        let store = Store::open(&report.path).unwrap();
        let first = |column: &str| texts(&store, &format!("SELECT CAST({column} AS TEXT) FROM v")).remove(0);
        assert_eq!(first("i8"), i64::MIN.to_string());
        assert_eq!(first("n"), "1234567890123456.7891");
        assert_eq!(first("f8"), "Inf");
        assert_eq!(first("t"), "\\N\t\n\r\\.'\"");
        assert_eq!(first("d"), "-4712-01-01");
        assert_eq!(first("tz"), "infinity");
        assert_eq!(first("iv"), "P-10M-3DT4H5M6.789S");
        assert_eq!(first("ia"), "[null,1,null]");
        assert_eq!(first("ta"), r#"[["a","NULL"],[null,"{}\\\""]]"#);
        assert_eq!(first("ip"), "10.0.0.1/8");
        let bytes: i64 = store.read(|tx| tx.scalar("SELECT length(b) FROM big", [])).unwrap();
        assert_eq!(bytes, 1_000_000);
        let notes = report.to_string();
        for part in ["inet is kept as PostgreSQL's text", "v.ia: 1 arrays", "v.d: 2 values"] {
            assert!(notes.contains(part), "{part} in {notes}");
        }
    }
}

#[test]
fn generated_values_that_sqlite_would_compute_otherwise_are_kept() {
    let Some(server) = Postgres::start() else { return };
    let url = server.database("generated");
    server.run(
        "generated",
        "CREATE TABLE t (id int PRIMARY KEY, price numeric(8,2), qty int, name text, exclude int,
            total numeric GENERATED ALWAYS AS (price * qty) STORED,
            big text GENERATED ALWAYS AS (upper(name)) STORED,
            tail text GENERATED ALWAYS AS (substr(name, -3)) STORED,
            twice int GENERATED ALWAYS AS (qty * 2) STORED);
         INSERT INTO t VALUES (1, 12.50, 2, 'ärger', 7)",
    );
    let place = Place::new();
    server.dump("generated", &place.file("d.sql"), &[]);
    let live = Store::import_from_postgres(&url, place.file("live.db")).run().unwrap();
    let dump = Store::import_from_pg_dump(place.file("d.sql"), place.file("d.db"))
        .run()
        .unwrap();
    let sql = "SELECT concat_ws('|', exclude, twice, total, tail) FROM t";
    assert_eq!(texts(&Store::open(&live.path).unwrap(), sql), ["7|4|25.00|ärger"]);
    assert_eq!(texts(&Store::open(&dump.path).unwrap(), sql), ["7|4"]);
    for column in ["total", "big", "tail"] {
        let missing = format!("t.{column}: is not computed, and is NULL, since a dump has no values of it");
        assert!(dump.to_string().contains(&missing), "{dump}");
    }
}

#[test]
fn nan_is_what_was_chosen() {
    let Some(server) = Postgres::start() else { return };
    let url = server.database("nan");
    server.run(
        "nan",
        "CREATE TABLE t (id int PRIMARY KEY, f float8); INSERT INTO t VALUES (1, 1.5), (2, 'NaN')",
    );
    let place = Place::new();
    let error = Store::import_from_postgres(&url, place.file("a.db")).run().unwrap_err();
    assert!(error.to_string().contains("t.f: NaN"), "{error}");
    assert_eq!(place.names(), Vec::<String>::new());
    for (nan, wanted) in [(PostgresNan::Null, "null"), (PostgresNan::Text, "text")] {
        let to = place.file(wanted);
        Store::import_from_postgres(&url, &to).nan(nan).run().unwrap();
        let store = Store::open(&to).unwrap();
        assert_eq!(texts(&store, "SELECT typeof(f) FROM t ORDER BY id"), ["real", wanted]);
    }
}

#[test]
fn names_that_sqlite_takes_for_the_same_are_told_apart() {
    let Some(server) = Postgres::start() else { return };
    let url = server.database("names");
    let long = "x".repeat(63);
    server.run(
        "names",
        &format!(
            r#"CREATE TABLE "Users" (id int PRIMARY KEY, "Id" int, "select" text, "a""b" text, rowid int, "{long}" text);
            CREATE TABLE users ("order" text PRIMARY KEY, "group" int REFERENCES "Users"(id));
            CREATE TABLE "sqlite_x" (a int);
            CREATE INDEX "Users_i" ON "Users" ("Id", "select" DESC NULLS LAST);
            INSERT INTO "Users" VALUES (1, 2, 's', 'q', 3, 'l'); INSERT INTO users VALUES ('o', 1);
            INSERT INTO sqlite_x VALUES (5)"#
        ),
    );
    let place = Place::new();
    let report = Store::import_from_postgres(&url, place.file("a.db")).run().unwrap();
    let notes = report.to_string();
    assert!(notes.contains("is the table users_2"), "{notes}");
    assert!(notes.contains("Users.Id: is the column Id_2"), "{notes}");
    let store = Store::open(&report.path).unwrap();
    assert_eq!(texts(&store, "SELECT CAST(\"Id_2\" AS TEXT) FROM \"Users\""), ["2"]);
    assert_eq!(texts(&store, "SELECT CAST(a AS TEXT) FROM pg_sqlite_x"), ["5"]);
}

#[test]
fn failed_imports_leave_nothing() {
    let Some(mut server) = Postgres::start() else { return };
    let url = server.database("app");
    server.run(
        "app",
        "CREATE TABLE t (id int PRIMARY KEY, t text); INSERT INTO t VALUES (1, 'a'), (2, 'b')",
    );
    let place = Place::new();
    let dump = place.file("d.sql");
    server.dump("app", &dump, &[]);
    let whole = fs::read_to_string(&dump).unwrap();
    // Cut in the middle of the rows.
    let rows = whole.find("2\tb").unwrap();
    fs::write(&dump, &whole[..rows]).unwrap();
    let error = Store::import_from_pg_dump(&dump, place.file("a.db")).run().unwrap_err();
    assert!(error.to_string().contains("cut off"), "{error}");
    // Rows that violate the key.
    fs::write(&dump, whole.replace("2\tb", "1\tb")).unwrap();
    let error = Store::import_from_pg_dump(&dump, place.file("a.db")).run().unwrap_err();
    assert!(error.to_string().contains("UNIQUE"), "{error}");
    assert_eq!(place.names(), ["d.sql"]);
    // A file that is there stays.
    fs::write(place.file("a.db"), "mine").unwrap();
    let error = Store::import_from_postgres(&url, place.file("a.db")).run().unwrap_err();
    assert!(matches!(error, Error::Postgres { .. }), "{error:?}");
    let wanted = format!("importing to {} failed", place.file("a.db").display());
    assert!(error.to_string().contains(&wanted), "{error}");
    assert_eq!(fs::read_to_string(place.file("a.db")).unwrap(), "mine");
    server.stop_at_once();
    let error = Options::new()
        .import_from_postgres(&url, place.file("b.db"))
        .run()
        .unwrap_err();
    assert!(
        error.is_retryable() && matches!(error, Error::Postgres { .. }),
        "{error:?}"
    );
    assert_eq!(place.names(), ["a.db", "d.sql"]);
}

#[test]
fn import_in_a_task_of_a_runtime_returns_its_error() {
    let place = Place::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let import = Store::import_from_postgres("host=/nowhere dbname=app", place.file("app.db"));
    let error = runtime.block_on(async { import.run() }).unwrap_err();
    assert!(
        matches!(&error, Error::Postgres { what, .. } if what.contains("the connection failed")),
        "{error}"
    );
}

#[test]
fn what_sqlite_does_not_have_of_columns_is_listed() {
    let Some(server) = Postgres::start() else { return };
    let url = server.database("columns");
    server.run(
        "columns",
        "CREATE TYPE level AS ENUM ('low', 'high'); CREATE TYPE letter AS ENUM ('a', 'b'); CREATE DOMAIN grade AS level;
         CREATE SEQUENCE loose START 5;
         CREATE TABLE t (id integer PRIMARY KEY, number serial, other integer GENERATED ALWAYS AS IDENTITY (START WITH 10),
            level level, grade grade, letter letter, levels level[], spans tstzrange, wait interval, by_two integer);
         CREATE SEQUENCE by_two INCREMENT 2 OWNED BY t.by_two;
         CREATE VIEW v AS SELECT id FROM t;
         COMMENT ON TABLE t IS 'the table'; COMMENT ON COLUMN t.level IS 'the level'; COMMENT ON VIEW v IS 'the view';
         INSERT INTO t (id, levels) VALUES (1, '{low,NULL}'), (2, NULL)",
    );
    let place = Place::new();
    server.dump("columns", &place.file("d.sql"), &[]);
    let imports = [
        Store::import_from_postgres(&url, place.file("live.db")),
        Store::import_from_pg_dump(place.file("d.sql"), place.file("d.db")),
    ];
    for import in imports {
        let what = format!("{import:?}");
        let report = import.run().unwrap();
        let notes: Vec<String> = report.notes.iter().map(ToString::to_string).collect();
        for part in [
            "t.number: has no sequence: SQLite counts the key alone; the last value is 2",
            "t.other: has no sequence: SQLite counts the key alone; the last value is 11",
            "t.level: sorts by its text, and not in the order of the values of level",
            "t.grade: sorts by its text, and not in the order of the values of grade",
            "t.levels: its items are not checked against the values of level",
            "t.spans: tstzrange is kept as PostgreSQL's text",
            "loose: the sequence is left out; its last value is 4",
            "by_two: counts by 2",
            "comments on what is neither a table nor a column",
        ] {
            assert!(
                notes.iter().any(|note| note.starts_with(part)),
                "{part} of {what}: {notes:#?}"
            );
        }
        assert!(!notes.iter().any(|note| note.starts_with("t.letter")), "{notes:#?}");
        let store = Store::open(&report.path).unwrap();
        let schema = texts(&store, "SELECT sql FROM sqlite_schema WHERE name = 't'").remove(0);
        assert!(
            schema.contains("/* the table */") && schema.contains("/* the level */"),
            "{schema}"
        );
        assert_eq!(
            texts(&store, "SELECT levels FROM t ORDER BY id"),
            ["[\"low\",null]", "NULL"]
        );
    }
}
