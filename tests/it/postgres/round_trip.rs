//! There and back: the rows are the same afterwards, in their types too.

use std::path::Path;

use larder::{Migration, Migrations, Options, PgType, Store};

#[cfg(feature = "csv")]
use crate::support::child::skipped;
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

/// All statements that make the schema of a store.
fn schema(store: &Store) -> String {
    let schema = store.read(|tx| {
        tx.query_map(
            "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'",
            [],
            |row| row.get::<_, String>(0),
        )
    });
    schema.unwrap().into_iter().map(|sql| format!("{sql};\n")).collect()
}

/// The SHA-256 of each table, as a report has it: of what the server got, which is compared with the store.
fn hashes(server: &Postgres, database: &str, store: &Store) -> Vec<(String, u64, Option<String>)> {
    let report = store.export_to_postgres(&server.database(database)).run().unwrap();
    let tables = report.tables.into_iter();
    let mut hashes: Vec<_> = tables.map(|table| (table.name, table.rows, table.sha256)).collect();
    hashes.retain(|(table, ..)| !table.ends_with("_migrations"));
    hashes.sort();
    hashes
}

/// SQLite -> PostgreSQL -> SQLite is the identity: by all rows, and by the hash of each table.
fn assert_identity(server: &Postgres, store: &Store, folder: &Path) {
    let sql = schema(store);
    let back = there_and_back(server, "there", store, &sql, &folder.join("back.db"));
    assert_eq!(rows(&back), rows(store));
    let wanted = hashes(server, "again", store);
    assert!(wanted.iter().all(|(.., hash)| hash.is_some()), "{wanted:?}");
    assert_eq!(hashes(server, "back", &back), wanted);
}

#[test]
fn chinook_comes_back() {
    let Some(server) = Postgres::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    assert_identity(&server, &chinook(folder.path()), folder.path());
}

#[cfg(feature = "csv")]
const FLIGHTS: &str = "
    CREATE TABLE airlines(carrier TEXT PRIMARY KEY, name TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE airports(faa TEXT PRIMARY KEY, name TEXT, lat REAL, lon REAL, alt INTEGER, tz REAL, dst TEXT, tzone TEXT) STRICT;
    CREATE TABLE planes(tailnum TEXT PRIMARY KEY, year INTEGER, type TEXT, manufacturer TEXT, model TEXT, engines INTEGER,
        seats INTEGER, speed INTEGER, engine TEXT);
    CREATE TABLE weather(origin TEXT, year INTEGER, month INTEGER, day INTEGER, hour INTEGER, temp REAL, dewp REAL, humid REAL,
        wind_dir INTEGER, wind_speed REAL, wind_gust REAL, precip REAL, pressure REAL, visib REAL, time_hour DATETIME);
    CREATE INDEX by_hour ON weather(origin, time_hour);
";

#[cfg(feature = "csv")]
#[test]
fn nycflights_come_back() {
    let Ok(data) = std::env::var("LARDER_NYCFLIGHTS") else {
        skipped("LARDER_NYCFLIGHTS names no folder with the tables of nycflights13 as CSV");
        return;
    };
    let Some(server) = Postgres::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("app.db")).unwrap();
    store.write(|tx| tx.execute_batch(FLIGHTS)).unwrap();
    for table in ["airlines", "airports", "planes", "weather"] {
        let file = std::fs::File::open(Path::new(&data).join(format!("{table}.csv"))).unwrap();
        store.bulk().csv(file).into(table).nulls(["", "NA"]).run().unwrap();
    }
    assert_identity(&server, &store, folder.path());
}

/// A rental of films: enum, domain, arrays, full-text vectors, partitions, keys in a circle.
const RENTAL: &str = r#"
    CREATE TYPE rating AS ENUM ('G', 'PG-13', 'NC''17');
    CREATE DOMAIN year AS integer CHECK (VALUE BETWEEN 1901 AND 2155);
    CREATE TABLE language (id serial PRIMARY KEY, name char(20) NOT NULL, updated timestamptz DEFAULT now() NOT NULL);
    CREATE TABLE film (id serial PRIMARY KEY, title text NOT NULL, release year, language_id integer NOT NULL REFERENCES language,
        original_id integer REFERENCES language, days smallint DEFAULT 3 NOT NULL, rate numeric(4,2) DEFAULT 4.99 NOT NULL,
        cost numeric, rating rating DEFAULT 'G', features text[], words tsvector, length interval, seen int4range, score real[],
        parts jsonb, poster bytea);
    CREATE TABLE actor (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, first_name text, last_name varchar(45), born date);
    CREATE TABLE film_actor (film_id integer REFERENCES film ON DELETE CASCADE, actor_id integer REFERENCES actor,
        PRIMARY KEY (actor_id, film_id));
    CREATE TABLE staff (id serial PRIMARY KEY, name text, shop_id integer, active boolean DEFAULT true NOT NULL, picture bytea,
        key uuid DEFAULT gen_random_uuid());
    CREATE TABLE shop (id serial PRIMARY KEY, manager_id integer NOT NULL REFERENCES staff DEFERRABLE INITIALLY DEFERRED);
    ALTER TABLE staff ADD FOREIGN KEY (shop_id) REFERENCES shop DEFERRABLE INITIALLY DEFERRED;
    CREATE TABLE rental (id bigserial PRIMARY KEY, film_id integer NOT NULL REFERENCES film, staff_id integer REFERENCES staff,
        at timestamp NOT NULL, back timestamptz, price float8, UNIQUE (film_id, at));
    CREATE TABLE payment (rental_id bigint NOT NULL REFERENCES rental, paid_at timestamptz NOT NULL, amount numeric(5,2) NOT NULL)
        PARTITION BY RANGE (paid_at);
    CREATE TABLE payment_1 PARTITION OF payment FOR VALUES FROM ('2022-01-01') TO ('2022-07-01');
    CREATE TABLE payment_2 PARTITION OF payment DEFAULT;
    INSERT INTO language (name) SELECT 'Language ' || i FROM generate_series(1, 6) i;
    INSERT INTO film (title, release, language_id, original_id, rate, cost, rating, features, words, length, seen, score, parts, poster)
        SELECT 'Film ''' || i || E''' \\ \t😀', nullif(1901 + i % 250, 1950), i % 6 + 1, nullif(i % 7, 0), i % 1000 / 100.0,
            CASE i % 3 WHEN 0 THEN NULL WHEN 1 THEN i * 1234567890123456.7891 ELSE 'NaN'::numeric END,
            (ARRAY['G', 'PG-13', 'NC''17'])[i % 3 + 1]::rating,
            CASE i % 4 WHEN 0 THEN NULL WHEN 1 THEN '{}' ELSE ARRAY['Trailers', 'a "b", c', NULL, ''] END,
            to_tsvector('simple', 'film number ' || i), make_interval(mins => i, days => i % 2), int4range(i, 2 * i),
            ARRAY[i / 4.0, NULL]::real[], jsonb_build_object('n', i, 'deep', jsonb_build_array(NULL, jsonb_build_object('x', 'é'))),
            decode(md5(i::text), 'hex')
        FROM generate_series(1, 1000) i;
    INSERT INTO actor (first_name, last_name, born) SELECT 'First ' || i, nullif('Last ' || i, 'Last 7'), date '1900-01-01' + i * 99
        FROM generate_series(1, 200) i;
    INSERT INTO film_actor SELECT i, i * 7 % 200 + 1 FROM generate_series(1, 1000) i;
    BEGIN;
    INSERT INTO staff (name, shop_id, picture) VALUES ('Ada', 1, '\x89504e47'), ('Bob', 2, NULL);
    INSERT INTO shop (manager_id) VALUES (2), (1);
    COMMIT;
    INSERT INTO rental (film_id, staff_id, at, back, price) SELECT i % 1000 + 1, nullif(i % 3, 0),
        timestamp '2022-01-01' + i * interval '1 hour 1.5 seconds',
        CASE WHEN i % 5 > 0 THEN timestamptz '2022-01-02 00:00:00+02' + i * interval '1 hour' END, i / 7.0
        FROM generate_series(1, 5000) i;
    INSERT INTO payment SELECT i, timestamptz '2022-01-01 00:00:00+00' + i * interval '2 hours', i % 900 / 100.0
        FROM generate_series(1, 5000) i;
    DELETE FROM film_actor WHERE film_id > 990; DELETE FROM payment WHERE rental_id > 4990; DELETE FROM rental WHERE id > 4990;
"#;

/// The type that a column of this type is exported as again. All others are text, or what their values are.
fn type_of(kind: &str) -> Option<PgType> {
    Some(match kind {
        "boolean" => PgType::Bool,
        "smallint" => PgType::Int2,
        "integer" => PgType::Int4,
        "numeric" => PgType::Numeric,
        "date" => PgType::Date,
        "timestamp without time zone" => PgType::Timestamp,
        "timestamp with time zone" => PgType::Timestamptz,
        "uuid" => PgType::Uuid,
        "jsonb" => PgType::Json,
        _ => return None,
    })
}

#[test]
fn rental_of_films_comes_back_from_a_server_and_from_a_dump() {
    let Some(server) = Postgres::start() else { return };
    let url = server.database("rental");
    server.run("rental", RENTAL);
    let columns = server.run(
        "rental",
        "SELECT table_name, column_name, data_type FROM information_schema.columns
         WHERE table_schema = 'public' AND table_name NOT LIKE 'payment\\_%' ORDER BY 1, ordinal_position",
    );
    let columns: Vec<Vec<&str>> = columns.lines().map(|line| line.split('|').collect()).collect();
    let folder = tempfile::tempdir().unwrap();
    let dump = folder.path().join("d.sql");
    server.dump("rental", &dump, &[]);
    let imports = [
        ("live", Store::import_from_postgres(&url, folder.path().join("live.db"))),
        (
            "dumped",
            Store::import_from_pg_dump(&dump, folder.path().join("dumped.db")),
        ),
    ];
    let mut tables: Vec<&str> = columns.iter().map(|column| column[0]).collect();
    tables.dedup();
    assert_eq!(tables.len(), 8);
    for (schema, import) in imports {
        let report = import.run().unwrap();
        let store = Store::open(&report.path).unwrap();
        let mut export = store.export_to_postgres(&url).schema(schema);
        for column in &columns {
            if let Some(kind) = type_of(column[2]) {
                export = export.column_type(column[0], column[1], kind);
            }
        }
        let sent = export.run().unwrap();
        assert!(sent.misfits.is_empty(), "{sent}");
        for table in &tables {
            // The text of each value: in larder's form where the type did not come back.
            let text = |is_back: bool| {
                let of_table = columns.iter().filter(|column| column[0] == *table);
                let parts = of_table.map(|column| match column[2] {
                    "ARRAY" if !is_back => format!("array_to_json({})::text", column[1]),
                    "jsonb" => format!("{}::jsonb::text", column[1]),
                    "character" => format!("rtrim({}::text)", column[1]),
                    _ => format!("{}::text", column[1]),
                });
                let parts: Vec<_> = parts.map(|part| format!("coalesce({part}, 'none')")).collect();
                parts.join(" || '|' || ")
            };
            let hash = |schema: &str, is_back: bool| {
                let sql = format!(
                    "SET intervalstyle = 'iso_8601'; SET timezone = 'UTC';
                     SELECT count(*), md5(string_agg(line, E'\\n' ORDER BY line COLLATE \"C\"))
                     FROM (SELECT {} AS line FROM {schema}.{table}) x",
                    text(is_back)
                );
                server.run("rental", &sql)
            };
            assert_eq!(hash(schema, true), hash("public", false), "{table} by {schema}");
        }
    }
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
