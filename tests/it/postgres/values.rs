//! Hostile values and names of every type, in both directions, each looked at on the other side.

use std::fmt::Write as _;
use std::path::PathBuf;

use larder::rusqlite::types::Value;
use larder::{Options, PgType, Store};

use crate::support::postgres::Postgres;

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

/// Columns of PostgreSQL: a type, then literals with the value that each is in SQLite.
fn columns() -> Vec<(&'static str, Vec<(String, Value)>)> {
    let texts = |of: &[(&str, &str)]| -> Vec<(String, Value)> {
        of.iter().map(|(sql, value)| ((*sql).to_owned(), text(value))).collect()
    };
    let integers = |of: &[i64]| of.iter().map(|n| (format!("'{n}'"), Value::Integer(*n))).collect();
    let reals = |of: &[(&str, f64)]| {
        of.iter()
            .map(|(sql, n)| (format!("'{sql}'"), Value::Real(*n)))
            .collect()
    };
    let blob = |sql: &str, bytes: &[u8]| (sql.to_owned(), Value::Blob(bytes.to_vec()));
    vec![
        ("smallint", integers(&[-32_768, 32_767])),
        ("integer", integers(&[-2_147_483_648, 2_147_483_647])),
        ("bigint", integers(&[i64::MIN, i64::MAX, 0])),
        ("oid", integers(&[4_294_967_295])),
        (
            "boolean",
            vec![("true".into(), Value::Integer(1)), ("false".into(), Value::Integer(0))],
        ),
        (
            "real",
            reals(&[
                ("0.1", 0.1),
                ("-Infinity", f64::NEG_INFINITY),
                ("1e-45", 1e-45),
                ("-0", 0.0),
            ]),
        ),
        (
            "double precision",
            reals(&[
                ("5e-324", 5e-324),
                ("1.7976931348623157e308", f64::MAX),
                ("0.30000000000000004", 0.1 + 0.2),
                ("Infinity", f64::INFINITY),
                ("9007199254740993", 9_007_199_254_740_992.0),
            ]),
        ),
        (
            "numeric",
            texts(&[
                ("1234567890123456.7891", "1234567890123456.7891"),
                ("'NaN'", "NaN"),
                ("'-Infinity'", "-Infinity"),
                ("0.1000", "0.1000"),
                ("-0.00", "0.00"),
                ("1e40", "10000000000000000000000000000000000000000"),
                ("'1e-20'", "0.00000000000000000001"),
            ]),
        ),
        ("numeric(6,3)", texts(&[("12.5", "12.500")])),
        (
            "text",
            texts(&[
                ("''", ""),
                ("'null'", "null"),
                ("'NULL'", "NULL"),
                ("E'\\\\N'", "\\N"),
                ("E'\\\\.'", "\\."),
                ("E'\\\\.\\n\\\\.'", "\\.\n\\."),
                (
                    "E'a\\tb\\r\\nc\\bd\\fe\\x0bf\\x01\\x7f'",
                    "a\tb\r\nc\u{8}d\u{c}e\u{b}f\u{1}\u{7f}",
                ),
                ("'it''s \"so\" -- /* $$ ; \\'", "it's \"so\" -- /* $$ ; \\"),
                (
                    "E'\\U0001F600\\uFEFF\\uFFFF\\u0301'",
                    "\u{1F600}\u{FEFF}\u{FFFF}\u{301}",
                ),
                ("' \u{a0}x '", " \u{a0}x "),
                ("'INSERT INTO t VALUES (1);'", "INSERT INTO t VALUES (1);"),
                ("'1'", "1"),
            ]),
        ),
        ("varchar(4)", texts(&[("'äö😀'", "äö😀"), ("'a   '", "a   ")])),
        ("char(4)", texts(&[("'ab'", "ab"), ("''", "")])),
        ("\"char\"", texts(&[("'x'", "x"), ("'\\'", "\\")])),
        ("name", texts(&[("'it''s'", "it's")])),
        (
            "bytea",
            vec![
                blob("''", b""),
                blob("'\\x00'", b"\0"),
                blob("'\\x5c4e'", b"\\N"),
                blob("'\\x0a0d09005c2e0aff'", b"\n\r\t\0\\.\n\xff"),
                blob("'text'", b"text"),
            ],
        ),
        (
            "date",
            texts(&[
                ("'4713-01-01 BC'", "-4712-01-01"),
                ("'4714-11-24 BC'", "-4713-11-24"),
                ("'0001-12-31 BC'", "0000-12-31"),
                ("'0001-01-01'", "0001-01-01"),
                ("'2024-02-29'", "2024-02-29"),
                ("'5874897-12-31'", "+5874897-12-31"),
                ("'infinity'", "infinity"),
                ("'-infinity'", "-infinity"),
            ]),
        ),
        (
            "timestamp",
            texts(&[
                ("'4713-01-01 00:00:00.000001 BC'", "-4712-01-01T00:00:00.000001"),
                ("'294276-12-31 23:59:59.999999'", "+294276-12-31T23:59:59.999999"),
                ("'1969-12-31 23:59:59.999999'", "1969-12-31T23:59:59.999999"),
                ("'-infinity'", "-infinity"),
            ]),
        ),
        (
            "timestamptz",
            texts(&[
                ("'2024-03-10 02:30:00-05'", "2024-03-10T07:30:00.000000Z"),
                ("'1850-01-01 00:00:00 America/New_York'", "1850-01-01T04:56:02.000000Z"),
                ("'4713-01-01 00:00:00+00 BC'", "-4712-01-01T00:00:00.000000Z"),
                ("'infinity'", "infinity"),
            ]),
        ),
        (
            "time",
            texts(&[("'24:00'", "24:00:00.000000"), ("'00:00:00.000001'", "00:00:00.000001")]),
        ),
        ("timetz", texts(&[("'04:05:06.789-08:30'", "04:05:06.789-08:30")])),
        (
            "interval",
            texts(&[
                ("'-1 year 2 mons -3 days 04:05:06.789'", "P-10M-3DT4H5M6.789S"),
                ("'0'", "PT0S"),
                ("'178000000 years'", "P178000000Y"),
                ("'-838:59:59.999999'", "PT-838H-59M-59.999999S"),
            ]),
        ),
        (
            "uuid",
            texts(&[(
                "'A0EEBC99-9C0B4EF8BB6D6BB9BD380A11'",
                "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            )]),
        ),
        (
            "json",
            texts(&[
                (
                    "'{\"a\" :  1e400, \"a\": \"\\u0000\"}'",
                    "{\"a\" :  1e400, \"a\": \"\\u0000\"}",
                ),
                ("'null'", "null"),
                ("'\"x\\ny\"'", "\"x\\ny\""),
                (
                    "' [1,[2,[3,{\"d\":{\"e\":[null,true,\"é😀\"]}}]]]'",
                    " [1,[2,[3,{\"d\":{\"e\":[null,true,\"é😀\"]}}]]]",
                ),
            ]),
        ),
        (
            "jsonb",
            texts(&[
                ("'{\"b\": 1.50, \"a\": [null]}'", "{\"a\": [null], \"b\": 1.50}"),
                ("'1e3'", "1000"),
            ]),
        ),
        (
            "integer[]",
            texts(&[
                ("'{NULL,NULL}'", "[null,null]"),
                ("'{}'", "[]"),
                ("'{{1,NULL},{3,4}}'", "[[1,null],[3,4]]"),
                ("'[0:1]={1,2}'", "[1,2]"),
            ]),
        ),
        (
            "text[]",
            texts(&[(
                "ARRAY['a\"b', NULL, 'NULL', '', '{}', E'\\\\', E'\\n\\t\\x01', '😀', ',']",
                "[\"a\\\"b\",null,\"NULL\",\"\",\"{}\",\"\\\\\",\"\\u000a\\u0009\\u0001\",\"😀\",\",\"]",
            )]),
        ),
        ("boolean[]", texts(&[("'{t,NULL,f}'", "[true,null,false]")])),
        (
            "float8[]",
            texts(&[("'{NaN,-Infinity,1e308,-0}'", "[\"NaN\",\"-Infinity\",1e+308,-0]")]),
        ),
        (
            "numeric[]",
            texts(&[("'{1234567890123456.7891,NULL}'", "[\"1234567890123456.7891\",null]")]),
        ),
        (
            "bytea[]",
            texts(&[("ARRAY['\\x00ff'::bytea, NULL]", "[\"\\\\x00ff\",null]")]),
        ),
        (
            "jsonb[]",
            texts(&[(
                "ARRAY['{\"a\": [1, \"x,y\"]}'::jsonb, NULL]",
                "[{\"a\": [1, \"x,y\"]},null]",
            )]),
        ),
        (
            "date[]",
            texts(&[(
                "'{2024-02-29,infinity,\"0044-03-15 BC\"}'",
                "[\"2024-02-29\",\"infinity\",\"-0043-03-15\"]",
            )]),
        ),
        (
            "interval[]",
            texts(&[("'{\"1 mon -1 days\",NULL}'", "[\"P1M-1D\",null]")]),
        ),
        ("char(3)[]", texts(&[("'{a,abc}'", "[\"a\",\"abc\"]")])),
        ("mood", texts(&[("'it''s'", "it's"), ("''", "")])),
        (
            "mood[]",
            texts(&[("ARRAY['it''s', NULL, '']::mood[]", "[\"it's\",null,\"\"]")]),
        ),
        ("short", texts(&[("'ab'", "ab")])),
        ("short[]", texts(&[("ARRAY['ab', 'c']::short[]", "[\"ab\",\"c\"]")])),
        (
            "pair",
            texts(&[
                ("ROW(1, 'x \"y\"')", "(1,\"x \"\"y\"\"\")"),
                ("ROW(NULL, '')", "(,\"\")"),
            ]),
        ),
        ("inet", texts(&[("'10.0.0.1/8'", "10.0.0.1/8"), ("'::1'", "::1")])),
        ("cidr", texts(&[("'10.0.0.0/8'", "10.0.0.0/8")])),
        ("macaddr", texts(&[("'08002b:010203'", "08:00:2b:01:02:03")])),
        ("point", texts(&[("'(1,-2.5)'", "(1,-2.5)")])),
        ("box", texts(&[("'(1,2),(3,4)'", "(3,4),(1,2)")])),
        (
            "int4range",
            texts(&[("'[1,5]'", "[1,6)"), ("'empty'", "empty"), ("'(,)'", "(,)")]),
        ),
        (
            "tstzrange",
            texts(&[("'[2024-01-01 00:00:00+00,)'", "[\"2024-01-01 00:00:00+00\",)")]),
        ),
        ("int4multirange", texts(&[("'{[1,3),[5,7)}'", "{[1,3),[5,7)}")])),
        ("tsvector", texts(&[("'a:1 ''it''''s'':2'", "'a':1 'it''s':2")])),
        ("bit(3)", texts(&[("B'101'", "101")])),
        ("bit varying", texts(&[("B''", "")])),
        ("money", texts(&[("'-1234.5'", "-$1,234.50")])),
        ("xml", texts(&[("'<a b=\"c\">&amp;é</a>'", "<a b=\"c\">&amp;é</a>")])),
        ("pg_lsn", texts(&[("'16/B374D848'", "16/B374D848")])),
    ]
}

#[test]
fn every_type_of_postgres_arrives_with_its_values() {
    let Some(server) = Postgres::start() else { return };
    let url = server.database("values");
    let columns = columns();
    let mut sql = "SET lc_monetary = 'C'; ALTER DATABASE \"values\" SET timezone = 'UTC';
        CREATE TYPE mood AS ENUM ('it''s', '', 'ok'); CREATE DOMAIN short AS text CHECK (length(VALUE) < 3);
        CREATE TYPE pair AS (a integer, b text);"
        .to_owned();
    for (at, (kind, values)) in columns.iter().enumerate() {
        write!(sql, "CREATE TABLE t{at} (id integer PRIMARY KEY, v {kind});").unwrap();
        for (id, (literal, _)) in values.iter().enumerate() {
            write!(sql, "INSERT INTO t{at} VALUES ({id}, {literal});").unwrap();
        }
        write!(sql, "INSERT INTO t{at} VALUES (-1, NULL);").unwrap();
    }
    server.run("values", &sql);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| -> PathBuf { folder.path().join(name) };
    server.dump("values", &file("copy.sql"), &[]);
    server.dump("values", &file("inserts.sql"), &["--inserts"]);
    let imports = [
        Store::import_from_postgres(&url, file("live.db")),
        Store::import_from_pg_dump(file("copy.sql"), file("copy.db")),
        Store::import_from_pg_dump(file("inserts.sql"), file("inserts.db")),
    ];
    for import in imports {
        let what = format!("{import:?}");
        let report = import.run().unwrap();
        let store = Store::open(&report.path).unwrap();
        for (at, (kind, values)) in columns.iter().enumerate() {
            let sql = format!("SELECT v FROM t{at} ORDER BY id");
            let found: Vec<Value> = store.read(|tx| tx.query_map(&sql, [], |row| row.get(0))).unwrap();
            let wanted = [Value::Null]
                .into_iter()
                .chain(values.iter().map(|(_, value)| value.clone()));
            assert_eq!(found, wanted.collect::<Vec<_>>(), "{kind} of {what}");
        }
        assert!(store.check().run().unwrap().is_ok());
    }
}

/// A declared type, the type that is asked for, literals and what is at the server.
type Column = (&'static str, Option<PgType>, &'static [(&'static str, &'static str)]);

#[test]
fn every_type_of_sqlite_arrives_with_its_values() {
    let Some(server) = Postgres::start() else { return };
    let url = server.database("values");
    let columns: &[Column] = &[
        (
            "INTEGER",
            None,
            &[
                ("-9223372036854775808", "-9223372036854775808"),
                ("9223372036854775807", "9223372036854775807"),
            ],
        ),
        (
            "REAL",
            None,
            &[
                ("9e999", "Infinity"),
                ("-9e999", "-Infinity"),
                ("5e-324", "5e-324"),
                ("0.1 + 0.2", "0.30000000000000004"),
            ],
        ),
        (
            "TEXT",
            None,
            &[
                ("''", ""),
                ("'NULL'", "NULL"),
                ("'\\N'", "\\N"),
                ("'\\.'", "\\."),
                ("'it''s \"so\" $$ ; --'", "it's \"so\" $$ ; --"),
                ("char(128512, 65279, 65535, 769)", "\u{1F600}\u{FEFF}\u{FFFF}\u{301}"),
                (
                    "'a' || char(9, 8, 12, 11, 1, 127) || 'b'",
                    "a\t\u{8}\u{c}\u{b}\u{1}\u{7f}b",
                ),
            ],
        ),
        (
            "BLOB",
            None,
            &[("x''", "\\x"), ("x'00'", "\\x00"), ("x'5c4e0a00ff'", "\\x5c4e0a00ff")],
        ),
        (
            "NUMERIC",
            None,
            &[
                ("12.50", "12.5"),
                ("9007199254740993", "9007199254740993"),
                ("-0.25", "-0.25"),
            ],
        ),
        ("ANY", None, &[("'1'", "1"), ("'01'", "01")]),
        (
            "TEXT",
            Some(PgType::Numeric),
            &[
                ("'1234567890123456.7891'", "1234567890123456.7891"),
                ("'0.1000'", "0.1000"),
                ("'NaN'", "NaN"),
            ],
        ),
        (
            "TEXT",
            Some(PgType::Timestamptz),
            &[
                ("'-4712-01-01T00:00:00Z'", "4713-01-01 00:00:00+00 BC"),
                ("'2024-02-29T23:59:59.123456+02:00'", "2024-02-29 21:59:59.123456+00"),
                ("'infinity'", "infinity"),
            ],
        ),
        (
            "TEXT",
            Some(PgType::Date),
            &[("'-4712-01-01'", "4713-01-01 BC"), ("'2024-02-29'", "2024-02-29")],
        ),
        (
            "TEXT",
            Some(PgType::Json),
            &[
                ("'{\"a\" :  [1, {\"b\": null}]}'", "{\"a\" :  [1, {\"b\": null}]}"),
                ("'null'", "null"),
            ],
        ),
        ("INTEGER", Some(PgType::Bool), &[("0", "false"), ("1", "true")]),
        ("INTEGER", Some(PgType::Int2), &[("-32768", "-32768")]),
    ];
    let store = Store::open_temp().unwrap();
    let mut export = store.export_to_postgres(&url);
    for (at, (declared, kind, values)) in columns.iter().enumerate() {
        let mut sql = format!("CREATE TABLE t{at}(id INTEGER PRIMARY KEY, v {declared}) STRICT;");
        if *declared == "NUMERIC" {
            sql = sql.replace(" STRICT", "");
        }
        for (id, (literal, _)) in values.iter().enumerate() {
            write!(sql, "INSERT INTO t{at} VALUES ({id}, {literal});").unwrap();
        }
        write!(sql, "INSERT INTO t{at} VALUES (-1, NULL)").unwrap();
        store.write(move |tx| tx.execute_batch(&sql)).unwrap();
        if let Some(kind) = kind {
            export = export.column_type(format!("t{at}"), "v", *kind);
        }
    }
    let report = export.run().unwrap();
    assert!(report.misfits.is_empty(), "{report}");
    for (at, (declared, kind, values)) in columns.iter().enumerate() {
        let sql = format!("SET timezone = 'UTC'; SELECT coalesce(v::text, 'none') FROM t{at} ORDER BY id");
        let found = server.run("values", &sql);
        let wanted: Vec<&str> = ["none"]
            .into_iter()
            .chain(values.iter().map(|(_, value)| *value))
            .collect();
        let (found, wanted) = (found.trim_end(), wanted.join("\n"));
        assert_eq!(found, wanted.trim_end(), "{declared} {kind:?}");
    }
}

/// Names that need quotes, mean something, or are nearly the same.
fn names() -> Vec<String> {
    let mut names: Vec<String> = [
        "select",
        "table",
        "a\"b",
        "it's",
        "semi;colon",
        "new\nline",
        "tab\there",
        "ünï😀",
        "per%cent",
        "dot.dot",
        "back\\slash",
        " blank ",
        "rowid",
        "_rowid_",
        "sqlite_master",
        "Case",
        "cASE",
        "1st",
        "$1",
        "-- comment",
        "/*",
        "order",
        "exclude",
        "value",
    ]
    .map(str::to_owned)
    .to_vec();
    names.push("x".repeat(63));
    names.push(format!("{}y", "x".repeat(62)));
    // Of 63 bytes, which ends between two letters.
    names.push("ä".repeat(31));
    names
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[test]
fn hostile_names_of_postgres_arrive() {
    let Some(server) = Postgres::start() else { return };
    let url = server.database("names");
    let names = names();
    let mut sql = String::new();
    for (at, name) in names.iter().enumerate() {
        let (table, next) = (quoted(name), quoted(&names[(at + 1) % names.len()]));
        // A column of its own name, one of the next name, an index, a check.
        write!(
            sql,
            "CREATE TABLE {table} (id integer PRIMARY KEY, {table} text CHECK ({table} <> 'bad'), {next} integer);
             CREATE INDEX ON {table} ({next}, lower({table})) WHERE ({next} IS NOT NULL);
             COMMENT ON TABLE {table} IS 'of */ the name ''--';
             INSERT INTO {table} VALUES (1, 'of {at}', {at}), (2, NULL, NULL);"
        )
        .unwrap();
    }
    // Each refers to the next, in a circle, and to itself.
    for (at, name) in names.iter().enumerate() {
        let (table, next) = (quoted(name), quoted(&names[(at + 1) % names.len()]));
        write!(
            sql,
            "ALTER TABLE {table} ADD \"to next\" integer REFERENCES {next}(id), ADD \"to self\" integer REFERENCES {table}(id);
             UPDATE {table} SET \"to self\" = id, \"to next\" = 1;"
        )
        .unwrap();
    }
    server.run("names", &sql);
    let folder = tempfile::tempdir().unwrap();
    server.dump("names", &folder.path().join("d.sql"), &[]);
    server.dump("names", &folder.path().join("i.sql"), &["--column-inserts"]);
    let imports = [
        Store::import_from_postgres(&url, folder.path().join("live.db")),
        Store::import_from_pg_dump(folder.path().join("d.sql"), folder.path().join("d.db")),
        Store::import_from_pg_dump(folder.path().join("i.sql"), folder.path().join("i.db")),
    ];
    for import in imports {
        let report = import.run().unwrap();
        assert_eq!(report.tables.len(), names.len());
        let store = Store::open(&report.path).unwrap();
        for table in &report.tables {
            let at = names.iter().position(|name| *name == table.source).unwrap();
            let sql = format!("SELECT * FROM {} ORDER BY id", quoted(&table.table));
            let rows = store.read(|tx| {
                tx.query_map(&sql, [], |row| {
                    (0..5).map(|at| row.get::<_, Value>(at)).collect::<Result<Vec<_>, _>>()
                })
            });
            let at = i64::try_from(at).unwrap();
            let (one, two) = (Value::Integer(1), Value::Integer(2));
            let wanted = [
                vec![
                    one.clone(),
                    text(&format!("of {at}")),
                    Value::Integer(at),
                    one.clone(),
                    one.clone(),
                ],
                vec![two.clone(), Value::Null, Value::Null, one, two],
            ];
            assert_eq!(rows.unwrap(), wanted, "{:?}", table.source);
            let keys = format!(
                "SELECT count(*) FROM pragma_foreign_key_list('{}')",
                table.table.replace('\'', "''")
            );
            let indexes = format!(
                "SELECT count(*) FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL AND tbl_name = '{}'",
                table.table.replace('\'', "''")
            );
            let counts: (i64, i64) = store
                .read(|tx| Ok((tx.scalar(&keys, [])?, tx.scalar(&indexes, [])?)))
                .unwrap();
            assert_eq!(counts, (2, 1), "{:?}", table.source);
        }
    }
}

#[test]
fn hostile_names_of_sqlite_arrive() {
    let Some(server) = Postgres::start() else { return };
    let url = server.database("names");
    let store = Options::new().foreign_keys(false).open_temp().unwrap();
    let mut names = names();
    names.retain(|name| !name.starts_with("sqlite_") && name != "cASE");
    for name in ["x".repeat(64), format!("{}z", "x".repeat(64)), "ä".repeat(40)] {
        names.push(name);
    }
    for (at, name) in names.iter().enumerate() {
        let (table, next) = (quoted(name), quoted(&names[(at + 1) % names.len()]));
        let sql = format!(
            "CREATE TABLE {table}(id INTEGER PRIMARY KEY, {table} TEXT CHECK ({table} <> 'bad'), {next} INTEGER,
                \"to next\" INTEGER REFERENCES {next}(id), \"to self\" INTEGER REFERENCES {table}(id)) STRICT;
             CREATE INDEX \"i{at}\" ON {table}({next}) WHERE {next} IS NOT NULL;
             INSERT INTO {table} VALUES (1, 'of {at}', {at}, 1, 1), (2, NULL, NULL, 1, 2)"
        );
        store.write(move |tx| tx.execute_batch(&sql)).unwrap();
    }
    let report = store.export_to_postgres(&url).run().unwrap();
    assert_eq!(report.tables.len(), names.len(), "{report}");
    for table in &report.tables {
        let at = names.iter().position(|name| *name == table.name).unwrap();
        let rows = server.run("names", &format!("SELECT * FROM {} ORDER BY id", quoted(&table.target)));
        assert_eq!(rows, format!("1|of {at}|{at}|1|1\n2|||1|2"), "{:?}", table.name);
    }
    let keys = server.run("names", "SELECT count(*) FROM pg_constraint WHERE contype = 'f'");
    assert_eq!(keys, (2 * names.len()).to_string());
}

/// Mebibytes of a value: few in the suite of every change, 100 in the nightly one.
fn size() -> usize {
    let size = std::env::var("LARDER_BLOB_MB").ok();
    size.map_or(6, |size| size.parse().unwrap())
}

#[test]
fn large_values_arrive_in_both_directions() {
    let Some(server) = Postgres::start() else { return };
    let url = server.database("large");
    let size = size() << 20;
    let store = Store::open_temp().unwrap();
    store
        .write(move |tx| {
            tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, b BLOB, s TEXT) STRICT")?;
            // Bytes of which half need an escape as text, and text of letters with four bytes.
            let bytes: Vec<u8> = (0..size).map(|at| (at * 7 / 3) as u8).collect();
            let text = "\\😀'\n".repeat(size / 8);
            tx.execute("INSERT INTO t VALUES (1, ?1, ?2), (2, x'', '')", (bytes, text))
        })
        .unwrap();
    let sums = |store: &Store| -> (i64, i64, String, String) {
        store
            .read(|tx| {
                tx.query_row(
                    "SELECT length(b), length(s), hex(substr(b, -20)), substr(s, -20) FROM t WHERE id = 1",
                    [],
                    |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
                )
            })
            .unwrap()
    };
    let sent = store.export_to_postgres(&url).run().unwrap();
    let of_server = server.run(
        "large",
        "SELECT length(b), length(s), md5(b), md5(s) FROM t WHERE id = 1",
    );
    let folder = tempfile::tempdir().unwrap();
    server.dump("large", &folder.path().join("d.sql"), &[]);
    let imports = [
        Store::import_from_postgres(&url, folder.path().join("live.db")),
        Store::import_from_pg_dump(folder.path().join("d.sql"), folder.path().join("d.db")),
    ];
    for import in imports {
        let report = import.run().unwrap();
        let back = Store::open(&report.path).unwrap();
        assert_eq!(sums(&back), sums(&store));
        // To the server again: its bytes are the same.
        let database = report.path.file_stem().unwrap().to_str().unwrap().to_owned();
        let again = back.export_to_postgres(&server.database(&database)).run().unwrap();
        assert_eq!(again.tables[0].sha256, sent.tables[0].sha256);
        assert_eq!(
            server.run(
                &database,
                "SELECT length(b), length(s), md5(b), md5(s) FROM t WHERE id = 1"
            ),
            of_server
        );
    }
}
