//! There and back: the rows are the same afterwards, in their types too.

use std::path::Path;

use larder::{Migration, Migrations, Options, PgType, Store};

use crate::support::postgres::{Postgres, chinook};

/// Every row of every table with the classes of its values, in the order of its text.
fn rows(store: &Store) -> Vec<(String, Vec<String>)> {
    let tables = store
        .read(|tx| {
            tx.query_map(
                "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'
                 AND name NOT LIKE '%_migrations' ORDER BY name",
                [],
                |row| row.get::<_, String>(0),
            )
        })
        .unwrap();
    let of_table = |table: String| {
        let rows = store.read(|tx| {
            let columns: Vec<String> =
                tx.query_map("SELECT name FROM pragma_table_info(?1)", [&table], |row| row.get(0))?;
            let parts: Vec<String> = columns
                .iter()
                .map(|name| format!("typeof(\"{name}\") || quote(\"{name}\")"))
                .collect();
            let sql = format!(
                "SELECT {} AS line FROM \"{table}\" ORDER BY line",
                parts.join(" || ',' || ")
            );
            tx.query_map(&sql, [], |row| row.get(0))
        });
        (table, rows.unwrap())
    };
    tables.into_iter().map(of_table).collect()
}

/// SQLite -> PostgreSQL -> SQLite, into the schema that `sql` makes.
fn there_and_back(server: &Postgres, database: &str, store: &Store, sql: &str, to: &Path) -> Store {
    let url = server.database(database);
    let report = store.export_to_postgres(&url).run().unwrap();
    println!("{report}");
    let migrations = || Migrations::new([Migration::new(1, "schema", sql)]);
    let import = Options::new().migrations(migrations()).import_from_postgres(&url, to);
    println!("{}", import.data_only(true).run().unwrap());
    Options::new().migrations(migrations()).open(to).unwrap()
}

const EVERY_CLASS: &str = "
    CREATE TABLE strict_ones(
        id INTEGER PRIMARY KEY AUTOINCREMENT, i INTEGER, r REAL, t TEXT COLLATE NOCASE, b BLOB,
        twice INTEGER GENERATED ALWAYS AS (id * 2) STORED, small TEXT AS (lower(t)) VIRTUAL,
        parent INTEGER REFERENCES strict_ones(id)
    ) STRICT;
    CREATE TABLE loose_ones(
        code VARCHAR(20) NOT NULL, \"group\" INT NOT NULL, price DECIMAL(10,2), share NUMERIC, on_day DATE, done BOOLEAN,
        PRIMARY KEY (code, \"group\")
    ) WITHOUT ROWID;
    CREATE TABLE keyless(a TEXT, b FLOAT);
    CREATE INDEX by_code ON loose_ones(lower(code)) WHERE price > 1;
";

#[test]
fn every_class_of_sqlite_comes_back() {
    let Some(server) = Postgres::start() else { return };
    let store = Store::open_temp().unwrap();
    store
        .write(|tx| {
            tx.execute_batch(EVERY_CLASS)?;
            tx.execute_batch(
                "INSERT INTO strict_ones(id, i, r, t, b, parent) VALUES
                    (1, -9223372036854775808, 1e308, 'Ann TRUE love', x'', 1),
                    (2, 9223372036854775807, -9e999, '', x'00ff', 1), (-3, 0, 5e-324, '😀''\"\\\n\t', NULL, 2),
                    (9007199254740993, NULL, 3, NULL, zeroblob(100000), NULL);
                 INSERT INTO loose_ones VALUES ('a', 1, 12.5, 3, '2024-01-01', 1), ('a', -1, 0.1, -0.25, NULL, 0),
                    ('Z', 1, 1e15, 9007199254740993, 'x', NULL), ('é', 1, NULL, NULL, '', 1);
                 INSERT INTO keyless VALUES ('x', 1), ('x', 1), (NULL, NULL), ('ä', 0.1)",
            )?;
            Ok(())
        })
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let back = there_and_back(&server, "classes", &store, EVERY_CLASS, &folder.path().join("back.db"));
    assert_eq!(rows(&back), rows(&store));
    let next = |store: &Store| store.write(|tx| tx.insert("INSERT INTO strict_ones(t) VALUES ('next')", []));
    assert_eq!(next(&back).unwrap(), next(&store).unwrap());
}

#[test]
fn chinook_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let Some(store) = chinook(folder.path()) else { return };
    let Some(server) = Postgres::start() else { return };
    let schema = store.read(|tx| {
        tx.query_map(
            "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'",
            [],
            |row| row.get::<_, String>(0),
        )
    });
    let schema: String = schema.unwrap().into_iter().map(|sql| format!("{sql};\n")).collect();
    let back = there_and_back(&server, "chinook", &store, &schema, &folder.path().join("back.db"));
    assert_eq!(rows(&back), rows(&store));
}

/// The columns with a type that an export knows, and their type there.
const TYPES: [(&str, PgType); 15] = [
    ("b", PgType::Bool),
    ("i2", PgType::Int2),
    ("i4", PgType::Int4),
    ("f4", PgType::Float4),
    ("n", PgType::Numeric),
    ("n2", PgType::Numeric),
    ("by", PgType::Bytea),
    ("d", PgType::Date),
    ("tm", PgType::Time),
    ("ts", PgType::Timestamp),
    ("tz", PgType::Timestamptz),
    ("u", PgType::Uuid),
    ("j", PgType::Json),
    ("t", PgType::Text),
    ("f8", PgType::Float8),
];

#[test]
fn every_type_of_postgres_comes_back() {
    let Some(server) = Postgres::start() else { return };
    let url = server.database("types");
    server.run(
        "types",
        r#"CREATE TABLE v (id integer PRIMARY KEY, b boolean, i2 smallint, i4 integer, i8 bigint, f4 real,
            f8 double precision, n numeric, n2 numeric(20,4), t text, by bytea, d date, tm time, ts timestamp, tz timestamptz,
            u uuid, j json);
        INSERT INTO v VALUES
        (1, true, -32768, -2147483648, -9223372036854775808, 0.1, 'Infinity', 1234567890123456.7891, 0.1000,
            E'\\N\t\n\r\\.''"😀', '\x00ff', '4713-01-01 BC', '24:00:00', '4713-01-01 00:00:00 BC', 'infinity',
            'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{"a" :  1e400, "é": [null]}'),
        (2, false, 32767, 2147483647, 9223372036854775807, '-Infinity', 5e-324, 'NaN', -99.9900, '', '', '5874897-12-31',
            '00:00:00.000001', '294276-12-31 23:59:59.999999', '0001-01-01 00:00:00+00',
            '00000000-0000-0000-0000-000000000000', 'null'),
        (3, NULL, NULL, NULL, NULL, NULL, NULL, 1e100, NULL, NULL, NULL, 'infinity', NULL, '-infinity', NULL, NULL, NULL);
        CREATE TABLE child (v integer REFERENCES v(id), n bigint);
        INSERT INTO child VALUES (1, 1), (1, 1), (2, NULL)"#,
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("types.db");
    println!("{}", Store::import_from_postgres(&url, &path).run().unwrap());
    let store = Store::open(&path).unwrap();
    let mut export = store.export_to_postgres(&url).schema("back");
    for (column, kind) in TYPES {
        export = export.column_type("v", column, kind);
    }
    let export = export
        .column_type("v", "id", PgType::Int4)
        .column_type("child", "v", PgType::Int4);
    println!("{}", export.run().unwrap());
    for (table, order) in [("v", "id"), ("child", "t::text")] {
        let hash = |schema: &str| {
            let sql =
                format!("SELECT md5(string_agg(t::text, E'\\n' ORDER BY {order})), count(*) FROM {schema}.{table} t");
            server.run("types", &sql)
        };
        assert_eq!(hash("back"), hash("public"), "{table}");
    }
}

#[test]
fn dump_goes_into_the_schema_of_migrations() {
    let Some(server) = Postgres::start() else { return };
    server.database("app");
    server.run(
        "app",
        "CREATE TABLE users (id serial PRIMARY KEY, name text NOT NULL, paid numeric(10,2));
         CREATE TABLE schema_migrations (version text); INSERT INTO schema_migrations VALUES ('1');
         CREATE TABLE secrets (x text); INSERT INTO secrets VALUES ('s');
         INSERT INTO users(name, paid) VALUES ('Ada', 12.50), ('Bob', 3)",
    );
    let folder = tempfile::tempdir().unwrap();
    let dump = folder.path().join("d.sql");
    server.dump("app", &dump, &[]);
    let to = folder.path().join("app.db");
    let import = |sql: &'static str| {
        let options = Options::new().migrations(Migrations::new([Migration::new(1, "users", sql)]));
        options.import_from_pg_dump(&dump, &to).data_only(true)
    };
    let good = "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL, paid DECIMAL, seen INTEGER DEFAULT 0)";
    let error = import(good).run().unwrap_err().to_string();
    assert!(error.contains("there is no table secrets"), "{error}");
    let report = import(good).skip_table("secrets").run().unwrap();
    let text = report.to_string();
    assert!(
        text.contains("secrets: is left out") && text.contains("schema_migrations: is left out"),
        "{text}"
    );
    let store = Store::open(&to).unwrap();
    assert_eq!(
        rows(&store)[0].1,
        [
            "integer1,text'Ada',real12.5,integer0",
            "integer2,text'Bob',integer3,integer0"
        ]
    );
    drop(store);
    for (sql, wanted) in [
        (
            "CREATE TABLE users(id INTEGER PRIMARY KEY, paid DECIMAL)",
            "no column name",
        ),
        (
            "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT, paid TEXT); INSERT INTO users VALUES (1, 'x', 1)",
            "1 rows already",
        ),
        // A trigger that changes what arrives.
        (
            "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT, paid DECIMAL);
             CREATE TRIGGER t AFTER INSERT ON users BEGIN UPDATE users SET name = upper(name) WHERE id = new.id; END",
            "users: row 1, column name",
        ),
        // A rule that a row violates.
        (
            "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT, paid INTEGER CHECK (paid > 5))",
            "CHECK",
        ),
    ] {
        std::fs::remove_file(&to).ok();
        let error = import(sql).skip_table("secrets").run().unwrap_err().to_string();
        assert!(error.contains(wanted), "{wanted}: {error}");
        assert!(!to.exists());
    }
}
