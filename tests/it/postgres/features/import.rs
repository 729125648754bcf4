//! From PostgreSQL to SQLite: larder, and the recipe `pg_dump --data-only --inserts | sed | sqlite3`.
//!
//! As it is written, the recipe inserts no row of any table: `\restrict`, `SET` and `INSERT INTO public.t` do not parse. So
//! its `sed` gets what it lacks, and its tables are made by hand.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use larder::Store;
use larder::rusqlite::Connection;

use super::{Verdict, check, line_of, runs};
use crate::support::child::skipped;
use crate::support::postgres::Postgres;

struct Feature {
    name: &'static str,
    /// Of PostgreSQL.
    sql: &'static str,
    /// The tables that the recipe needs. Empty if the feature is one of the schema.
    by_hand: &'static str,
    /// What looks for it in SQLite, and its answer if it is there.
    probe: &'static str,
    wanted: &'static str,
    /// What larder's report or error says otherwise.
    named: &'static str,
    /// The first version of the server that has it, as `server_version_num`.
    since: u32,
}

/// A feature of rows.
const fn rows(
    name: &'static str,
    sql: &'static str,
    by_hand: &'static str,
    probe: &'static str,
    wanted: &'static str,
) -> Feature {
    Feature {
        name,
        sql,
        by_hand,
        probe,
        wanted,
        named: "",
        since: 0,
    }
}

/// A feature of the schema.
const fn schema(name: &'static str, sql: &'static str, probe: &'static str, wanted: &'static str) -> Feature {
    rows(name, sql, "", probe, wanted)
}

const fn since(version: u32, feature: Feature) -> Feature {
    Feature {
        since: version,
        ..feature
    }
}

/// What SQLite does not have: it is in the report.
const fn listed(name: &'static str, sql: &'static str, named: &'static str) -> Feature {
    Feature {
        named,
        ..schema(name, sql, "SELECT 'nothing'", "there")
    }
}

const T: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, x)";
const TEXT: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT)";
const REAL: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, x REAL)";
const ALL: &str = "SELECT group_concat(coalesce(x, 'NULL'), ';') FROM (SELECT x FROM t ORDER BY id)";

fn features() -> Vec<Feature> {
    vec![
        rows(
            "identity: the next key, once the last is deleted",
            "CREATE TABLE t(id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, x text); INSERT INTO t(x) VALUES ('a'), ('b');
             DELETE FROM t WHERE id = 2",
            "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, x TEXT)",
            "INSERT INTO t(x) VALUES ('c') RETURNING id",
            "3",
        ),
        rows(
            "`serial`: the next key",
            "CREATE TABLE t(id serial PRIMARY KEY, x text); INSERT INTO t(x) VALUES ('a'); SELECT setval('t_id_seq', 41)",
            "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, x TEXT)",
            "INSERT INTO t(x) VALUES ('c') RETURNING id",
            "42",
        ),
        rows(
            "`numeric` 1234567890123456.7891",
            "CREATE TABLE t(id int PRIMARY KEY, x numeric(30,4)); INSERT INTO t VALUES (1, 1234567890123456.7891)",
            TEXT,
            ALL,
            "1234567890123456.7891",
        ),
        Feature {
            named: "NaN",
            ..rows(
                "`NaN` in `double precision`",
                "CREATE TABLE t(id int PRIMARY KEY, x float8); INSERT INTO t VALUES (1, 'NaN')",
                REAL,
                "SELECT typeof(x) FROM t",
                "not possible in SQLite",
            )
        },
        rows(
            "infinity in `double precision`",
            "CREATE TABLE t(id int PRIMARY KEY, x float8); INSERT INTO t VALUES (1, 'Infinity')",
            REAL,
            "SELECT typeof(x) || ' ' || (x > 1e308) FROM t",
            "real 1",
        ),
        rows(
            "`double precision` with all bits",
            "CREATE TABLE t(id int PRIMARY KEY, x float8); INSERT INTO t VALUES (1, 0.1::float8 + 0.2::float8), (2, 5e-324)",
            REAL,
            "SELECT count(*) FROM t WHERE x IN (0.1 + 0.2, 5e-324)",
            "2",
        ),
        rows(
            "`timestamptz`, read by `datetime`",
            "CREATE TABLE t(id int PRIMARY KEY, x timestamptz); INSERT INTO t VALUES (1, '2026-04-01 14:00:00+02')",
            TEXT,
            "SELECT datetime(x) FROM t",
            "2026-04-01 12:00:00",
        ),
        rows(
            "`timestamptz`, sorted",
            "CREATE TABLE t(id int PRIMARY KEY, x timestamptz); INSERT INTO t VALUES (1, '2026-04-01 12:00:00.5+00'),
             (2, '2026-04-01 12:00:00+00'), (3, '2026-04-01 12:00:00.25+00')",
            TEXT,
            "SELECT group_concat(id) FROM (SELECT id FROM t ORDER BY x)",
            "2,3,1",
        ),
        rows(
            "`timestamptz` and `date` of infinity, and before Christ",
            "CREATE TABLE t(id int PRIMARY KEY, x timestamptz, y date); INSERT INTO t VALUES (1, 'infinity', '-infinity'),
             (2, '4713-01-01 00:00:00+00 BC', '0044-03-15 BC')",
            "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT, y TEXT)",
            "SELECT group_concat(x || ' ' || y, ';') FROM t",
            "infinity -infinity;-4712-01-01T00:00:00.000000Z -0043-03-15",
        ),
        rows(
            "`interval`, as ISO 8601",
            "CREATE TABLE t(id int PRIMARY KEY, x interval); INSERT INTO t VALUES (1, '1 year 2 mons -3 days 04:05:06.789')",
            TEXT,
            ALL,
            "P1Y2M-3DT4H5M6.789S",
        ),
        rows(
            "`boolean`",
            "CREATE TABLE t(id int PRIMARY KEY, x boolean); INSERT INTO t VALUES (1, true), (2, false), (3, NULL)",
            "CREATE TABLE t(id INTEGER PRIMARY KEY, x INTEGER)",
            ALL,
            "1;0;NULL",
        ),
        rows(
            "text with `TRUE` in it",
            "CREATE TABLE t(id int PRIMARY KEY, x text); INSERT INTO t VALUES (1, 'Ann TRUE love')",
            TEXT,
            ALL,
            "Ann TRUE love",
        ),
        rows(
            "text with quotes, backslashes, line ends, 4-byte UTF-8",
            "CREATE TABLE t(id int PRIMARY KEY, x text); INSERT INTO t VALUES (1, E'it''s \"q\" \\\\ \\\\n \\\\N\\t\\n\\r🎵'), (2, ''), (3, NULL)",
            TEXT,
            "SELECT group_concat(iif(x IS NULL, 'NULL', hex(x)), ',') FROM (SELECT x FROM t ORDER BY id)",
            "6974277320227122205C205C6E205C4E090A0DF09F8EB5,,NULL",
        ),
        rows(
            "text with a line `SET x = 1;`",
            "CREATE TABLE t(id int PRIMARY KEY, x text); INSERT INTO t VALUES (1, E'a\\nSET x = 1;\\nb')",
            TEXT,
            "SELECT replace(x, char(10), ' ') FROM t",
            "a SET x = 1; b",
        ),
        rows(
            "`jsonb`",
            "CREATE TABLE t(id int PRIMARY KEY, x jsonb); INSERT INTO t VALUES (1, '{\"a\": [\"TRUE\", 1.50]}')",
            TEXT,
            ALL,
            "{\"a\": [\"TRUE\", 1.50]}",
        ),
        rows(
            "arrays",
            "CREATE TABLE t(id int PRIMARY KEY, x int[], y text[]); INSERT INTO t VALUES (1, '{1,2,NULL}', '{\"a,b\",NULL,\"NULL\"}')",
            "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT, y TEXT)",
            "SELECT json_extract(x, '$[1]') || json_extract(y, '$[0]') || json_extract(y, '$[2]') FROM t",
            "2a,bNULL",
        ),
        rows(
            "`bytea`",
            "CREATE TABLE t(id int PRIMARY KEY, x bytea); INSERT INTO t VALUES (1, '\\x00ff275c0a')",
            "CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB)",
            "SELECT hex(x) FROM t",
            "00FF275C0A",
        ),
        rows(
            "`uuid`",
            "CREATE TABLE t(id int PRIMARY KEY, x uuid); INSERT INTO t VALUES (1, '00112233-4455-6677-8899-aabbccddeeff')",
            TEXT,
            ALL,
            "00112233-4455-6677-8899-aabbccddeeff",
        ),
        rows(
            "enum",
            "CREATE TYPE mood AS ENUM ('sad', 'it''s'); CREATE TABLE t(id int PRIMARY KEY, x mood); INSERT INTO t VALUES (1, 'it''s')",
            TEXT,
            ALL,
            "it's",
        ),
        rows(
            "`inet`, ranges, `bit`, `money`, composite types, as their text",
            "CREATE TYPE pair AS (a int, b text); CREATE TABLE t(id int PRIMARY KEY, a inet, b int4range, c bit(3), d money, e pair);
             INSERT INTO t VALUES (1, '10.0.0.1/8', '[1,5)', '101', '12.50', '(1,x)')",
            "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b TEXT, c TEXT, d TEXT, e TEXT)",
            "SELECT a || ' ' || b || ' ' || c || ' ' || d || ' ' || e FROM t",
            "10.0.0.1/8 [1,5) 101 $12.50 (1,x)",
        ),
        rows(
            "rows of a table in another schema",
            "CREATE SCHEMA sales; CREATE TABLE sales.t(id int PRIMARY KEY, x text); INSERT INTO sales.t VALUES (1, 'a')",
            "CREATE TABLE sales_t(id INTEGER PRIMARY KEY, x TEXT)",
            "SELECT x FROM sales_t",
            "a",
        ),
        rows(
            "rows of partitions",
            "CREATE TABLE t(id int, x text) PARTITION BY RANGE (id); CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (0) TO (10);
             INSERT INTO t VALUES (1, 'a')",
            T,
            ALL,
            "a",
        ),
        since(
            120_000,
            rows(
                "generated column",
                "CREATE TABLE t(id int PRIMARY KEY, a int, x int GENERATED ALWAYS AS (a * 2) STORED); INSERT INTO t(id, a) VALUES (1, 21)",
                "CREATE TABLE t(id INTEGER PRIMARY KEY, a INTEGER, x INTEGER AS (a * 2))",
                ALL,
                "42",
            ),
        ),
        rows(
            "names that are keywords, or have blanks, quotes and capital letters",
            "CREATE TABLE \"Order\"(\"select\" int PRIMARY KEY, \"a \"\"b\" text); INSERT INTO \"Order\" VALUES (1, 'x')",
            "CREATE TABLE \"Order\"(\"select\" INTEGER PRIMARY KEY, \"a \"\"b\" TEXT)",
            "SELECT \"select\" || \"a \"\"b\" FROM \"Order\"",
            "1x",
        ),
        schema(
            "`NOT NULL`, `CHECK`, `UNIQUE`",
            "CREATE TABLE t(id int PRIMARY KEY, x int NOT NULL CHECK (x > 0) UNIQUE)",
            "SELECT instr(sql, 'NOT NULL') > 0 AND instr(sql, 'CHECK') > 0 AND (SELECT count(*) FROM pragma_index_list('t')) > 0
             FROM sqlite_schema WHERE name = 't'",
            "1",
        ),
        schema(
            "the values of an enum",
            "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE t(id int PRIMARY KEY, x mood)",
            "SELECT instr(sql, 'IN (''sad'', ''ok'')') > 0 FROM sqlite_schema WHERE name = 't'",
            "1",
        ),
        schema(
            "domain with a check",
            "CREATE DOMAIN positive AS int CHECK (VALUE > 0); CREATE TABLE t(id int PRIMARY KEY, x positive)",
            "SELECT instr(sql, 'CHECK') > 0 FROM sqlite_schema WHERE name = 't'",
            "1",
        ),
        schema(
            "length of `varchar(n)`",
            "CREATE TABLE t(id int PRIMARY KEY, x varchar(5))",
            "SELECT instr(sql, 'length') > 0 FROM sqlite_schema WHERE name = 't'",
            "1",
        ),
        schema(
            "defaults",
            "CREATE TABLE t(id int PRIMARY KEY, x text DEFAULT 'it''s', n int DEFAULT 7, b boolean DEFAULT true)",
            "INSERT INTO t(id) VALUES (1) RETURNING x || n || b",
            "it's71",
        ),
        schema(
            "foreign key with its actions, deferrable",
            "CREATE TABLE p(id int PRIMARY KEY); CREATE TABLE t(id int PRIMARY KEY, x int REFERENCES p ON DELETE CASCADE ON UPDATE SET NULL
             DEFERRABLE INITIALLY DEFERRED)",
            "SELECT on_delete || ' ' || on_update || ' ' || (SELECT instr(sql, 'INITIALLY DEFERRED') > 0 FROM sqlite_schema WHERE name = 't')
             FROM pragma_foreign_key_list('t')",
            "CASCADE SET NULL 1",
        ),
        schema(
            "partial index, index on an expression",
            "CREATE TABLE t(id int PRIMARY KEY, x text); CREATE UNIQUE INDEX one ON t(x) WHERE id > 2; CREATE INDEX two ON t((id + 1))",
            "SELECT sum(partial) || ' ' || count(*) FROM pragma_index_list('t') WHERE origin = 'c'",
            "1 2",
        ),
        schema(
            "view",
            "CREATE TABLE t(id int PRIMARY KEY, x text); INSERT INTO t VALUES (1, 'a'); CREATE VIEW v AS SELECT x FROM t WHERE id > 0",
            "SELECT x FROM v",
            "a",
        ),
        schema(
            "comments",
            "CREATE TABLE t(id int PRIMARY KEY); COMMENT ON TABLE t IS 'all of them'",
            "SELECT instr(sql, 'all of them') > 0 FROM sqlite_schema WHERE name = 't'",
            "1",
        ),
        listed(
            "view by what PostgreSQL alone has",
            "CREATE TABLE t(id int PRIMARY KEY, x timestamptz); CREATE VIEW v AS SELECT date_trunc('week', x) FROM t",
            "v: ",
        ),
        listed(
            "default by what PostgreSQL alone has",
            "CREATE TABLE t(id int PRIMARY KEY, x double precision DEFAULT random())",
            "t.x",
        ),
        listed(
            "check by what PostgreSQL alone has",
            "CREATE TABLE t(id int PRIMARY KEY, x text CHECK (x ~ '^a'))",
            "t: t_x_check: ",
        ),
        listed(
            "GIN, GiST and BRIN indexes",
            "CREATE TABLE t(id int PRIMARY KEY, x jsonb); CREATE INDEX fast ON t USING gin (x)",
            "index fast: ",
        ),
        since(
            150_000,
            listed(
                "`UNIQUE NULLS NOT DISTINCT`",
                "CREATE TABLE t(id int PRIMARY KEY, x int, CONSTRAINT one UNIQUE NULLS NOT DISTINCT (x))",
                "t: one: NULLS NOT DISTINCT",
            ),
        ),
        listed(
            "exclusion constraint",
            "CREATE TABLE t(id int PRIMARY KEY, x int4range, CONSTRAINT apart EXCLUDE USING gist (x WITH &&))",
            "t: apart: ",
        ),
        listed(
            "collation of a column",
            "CREATE COLLATION other FROM \"C\"; CREATE TABLE t(id int PRIMARY KEY, x text COLLATE other)",
            "t.x",
        ),
        listed(
            "`INHERITS`",
            "CREATE TABLE t(id int PRIMARY KEY); CREATE TABLE heir(x text) INHERITS (t)",
            "heir",
        ),
        listed(
            "materialised view",
            "CREATE TABLE t(id int PRIMARY KEY); CREATE MATERIALIZED VIEW m AS SELECT id FROM t",
            "materialized view",
        ),
        listed(
            "function and trigger",
            "CREATE TABLE t(id int PRIMARY KEY); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
             CREATE TRIGGER marks BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()",
            "marks: trigger",
        ),
        listed(
            "rule",
            "CREATE TABLE t(id int PRIMARY KEY); CREATE RULE keep AS ON DELETE TO t DO INSTEAD NOTHING",
            "keep: rule",
        ),
        listed(
            "row-level security",
            "CREATE TABLE t(id int PRIMARY KEY); ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON t USING (id > 0)",
            "own: row-level security policy",
        ),
        listed(
            "sequence of no column",
            "CREATE TABLE t(id int PRIMARY KEY); CREATE SEQUENCE numbers",
            "numbers",
        ),
        listed(
            "large objects",
            "CREATE TABLE t(id int PRIMARY KEY); SELECT lo_from_bytea(0, '\\x00ff')",
            "large object",
        ),
        listed(
            "foreign table",
            "CREATE TABLE t(id int PRIMARY KEY); CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER other FOREIGN DATA WRAPPER nothing;
             CREATE FOREIGN TABLE far(id int) SERVER other",
            "far: foreign table",
        ),
        listed(
            "rights (`GRANT`)",
            "CREATE TABLE t(id int PRIMARY KEY); GRANT SELECT ON t TO PUBLIC",
            "privileges: ",
        ),
        listed(
            "rights on the schema `public` (`REVOKE`)",
            "CREATE TABLE t(id int PRIMARY KEY); REVOKE USAGE ON SCHEMA public FROM PUBLIC",
            "privileges: ",
        ),
        listed(
            "rights on a type",
            "CREATE TABLE t(id int PRIMARY KEY); CREATE TYPE mood AS ENUM ('sad'); REVOKE USAGE ON TYPE mood FROM PUBLIC",
            "privileges: ",
        ),
        listed(
            "text search dictionary",
            "CREATE TABLE t(id int PRIMARY KEY); CREATE TEXT SEARCH DICTIONARY words (TEMPLATE = simple)",
            "words: text search object",
        ),
    ]
}

#[test]
fn nothing_of_a_server_is_lost_without_a_word() {
    let Some(server) = Postgres::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let has_sqlite = runs("sqlite3");
    let version: u32 = server.run("postgres", "SHOW server_version_num").parse().unwrap();
    let (mut all, mut missing) = (Vec::new(), 0);
    for (at, feature) in features().iter().enumerate() {
        if version < feature.since {
            skipped(&format!("{}: the server has version {version}", feature.name));
            missing += 1;
            continue;
        }
        let database = format!("f{at}");
        let url = server.database(&database);
        server.run(&database, feature.sql);
        let file = |name: &str| folder.path().join(format!("{at}.{name}"));
        let ours = by_larder(feature, Store::import_from_postgres(&url, file("db")));
        // The rows of a dump have no values of generated columns, and the rest is the same.
        server.dump(&database, &file("sql"), &[]);
        let of_dump = by_larder(feature, Store::import_from_pg_dump(file("sql"), file("dump.db")));
        assert_eq!(ours.to_string(), of_dump.to_string(), "{} of a dump", feature.name);
        let theirs = match has_sqlite {
            true => by_recipe(&server, feature, &database, &file("recipe.db")),
            false => Verdict::NotRun,
        };
        all.push((feature.name, vec![ours, theirs]));
    }
    check("## What arrives in SQLite", &all, missing);
}

fn by_larder(feature: &Feature, import: larder::PostgresImport) -> Verdict {
    let is_named = |text: &str| !feature.named.is_empty() && text.contains(feature.named);
    match import.run() {
        Err(error) if is_named(&error.to_string()) => Verdict::Refused(error.to_string()),
        Err(error) => panic!("{}: {error}", feature.name),
        Ok(report) => match probe(&report.path, feature.probe) {
            Ok(found) if found == feature.wanted => Verdict::Kept,
            _ if report.notes.iter().any(|note| is_named(&note.to_string())) => {
                Verdict::Reported(line_of(&report.to_string(), feature.named))
            }
            Ok(found) | Err(found) => Verdict::Lost(found),
        },
    }
}

/// The recipe, with a `sed` that takes out what SQLite does not parse.
fn by_recipe(server: &Postgres, feature: &Feature, database: &str, to: &Path) -> Verdict {
    if feature.by_hand.is_empty() {
        return Verdict::ByHand;
    }
    let dump = to.with_extension("sql");
    server.dump(database, &dump, &["--data-only", "--inserts"]);
    let mut sed = Command::new("sed");
    let script =
        "s/TRUE/1/g; s/FALSE/0/g; /^\\\\/d; /^SET /d; /^SELECT pg_catalog/d; s/^INSERT INTO public\\./INSERT INTO /;
        s/ OVERRIDING SYSTEM VALUE / /";
    let sql = sed.arg(script).arg(&dump).output().unwrap().stdout;
    let mut sqlite = Command::new("sqlite3");
    let mut sqlite = sqlite
        .arg(to)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = sqlite.stdin.take().unwrap();
    input.write_all(feature.by_hand.as_bytes()).unwrap();
    input.write_all(b";\n").unwrap();
    input.write_all(&sql).unwrap();
    drop(input);
    let output = sqlite.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match probe(to, feature.probe) {
        Ok(found) if found == feature.wanted => Verdict::Kept,
        _ if !said.is_empty() => Verdict::Failed(said),
        Ok(found) | Err(found) => Verdict::Lost(found),
    }
}

fn probe(path: &Path, sql: &str) -> Result<String, String> {
    assert!(fs::exists(path).unwrap());
    let conn = Connection::open(path).unwrap();
    let found = conn.query_row(sql, [], |row| {
        Ok(match row.get_ref(0)? {
            larder::rusqlite::types::ValueRef::Integer(number) => number.to_string(),
            larder::rusqlite::types::ValueRef::Null => "NULL".to_owned(),
            value => value.as_str()?.to_owned(),
        })
    });
    found.map_err(|error| error.to_string())
}
