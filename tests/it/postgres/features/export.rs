//! From SQLite to PostgreSQL: larder and pgloader.

use std::fs;
use std::path::Path;
use std::process::Command;

use larder::Store;
use larder::rusqlite::Connection;

use super::{Verdict, check, line_of, runs};
use crate::support::postgres::Postgres;

struct Feature {
    name: &'static str,
    /// Of SQLite.
    sql: &'static str,
    /// What looks for it at the server, and its answer if it is there.
    probe: &'static str,
    wanted: &'static str,
    /// What larder's report or error says otherwise.
    named: &'static str,
    infers: bool,
}

const fn feature(name: &'static str, sql: &'static str, probe: &'static str, wanted: &'static str) -> Feature {
    Feature {
        name,
        sql,
        probe,
        wanted,
        named: "",
        infers: false,
    }
}

const fn named(feature: Feature, named: &'static str) -> Feature {
    Feature { named, ..feature }
}

const fn inferred(feature: Feature) -> Feature {
    Feature {
        infers: true,
        ..feature
    }
}

/// The answer that a server cannot give.
const NOT_POSSIBLE: &str = "not possible at the server";

const ROWS: &str = "SELECT string_agg(x::text, ',' ORDER BY id) FROM t";

fn features() -> Vec<Feature> {
    vec![
        feature(
            "`DEFAULT CURRENT_TIMESTAMP`",
            "CREATE TABLE t(id INTEGER PRIMARY KEY, made TEXT DEFAULT CURRENT_TIMESTAMP);
             INSERT INTO t VALUES (1, '2026-01-01 00:00:00')",
            "INSERT INTO t(id) VALUES (9) RETURNING (SELECT count(*) FROM t WHERE made::text LIKE '2026-01-01 00:00:00%'), made IS NOT NULL",
            "1|t",
        ),
        feature(
            "`DEFAULT 'it''s'`",
            "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT DEFAULT 'it''s', n INTEGER DEFAULT -7)",
            "INSERT INTO t(id) VALUES (9) RETURNING x, n",
            "it's|-7",
        ),
        named(
            feature(
                "`DEFAULT (strftime('%s', 'now'))`",
                "CREATE TABLE t(id INTEGER PRIMARY KEY, x INTEGER DEFAULT (strftime('%s', 'now')))",
                "INSERT INTO t(id) VALUES (9) RETURNING x IS NOT NULL",
                "t",
            ),
            "column t.x, DEFAULT",
        ),
        feature(
            "`STRICT`, `ANY` of one type",
            "CREATE TABLE t(id INTEGER PRIMARY KEY, x ANY) STRICT; INSERT INTO t VALUES (1, 'a'), (2, 'b')",
            ROWS,
            "a,b",
        ),
        named(
            feature(
                "`STRICT`, `ANY` of several types",
                "CREATE TABLE t(id INTEGER PRIMARY KEY, x ANY) STRICT; INSERT INTO t VALUES (1, 5), (2, 'b'), (3, x'00')",
                ROWS,
                "5,b,\\x00",
            ),
            "t.x",
        ),
        feature(
            "`NOT NULL`",
            "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT NOT NULL); INSERT INTO t VALUES (1, 'a')",
            "SELECT attnotnull FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'x'",
            "t",
        ),
        feature(
            "`CHECK`",
            "CREATE TABLE t(id INTEGER PRIMARY KEY, x INTEGER CHECK (x > 0), y TEXT, CHECK (length(y) < 9 OR x IN (1, 2)))",
            "SELECT count(*) FROM pg_constraint WHERE conrelid = 't'::regclass AND contype = 'c'",
            "2",
        ),
        named(
            feature(
                "`CHECK` by what SQLite alone has (`GLOB`)",
                "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT CHECK (x GLOB 'a*')); INSERT INTO t VALUES (1, 'ab')",
                "SELECT count(*) FROM pg_constraint WHERE conrelid = 't'::regclass AND contype = 'c'",
                "1",
            ),
            "check of table t",
        ),
        named(
            feature(
                "`CHECK` that a row breaks",
                "CREATE TABLE t(id INTEGER PRIMARY KEY, x INTEGER CHECK (x > 0)); PRAGMA ignore_check_constraints = ON;
                 INSERT INTO t VALUES (1, -1)",
                "SELECT (SELECT count(*) FROM t), count(*) FROM pg_constraint WHERE conrelid = 't'::regclass AND contype = 'c'",
                "1|1",
            ),
            "check of table t",
        ),
        feature(
            "`UNIQUE`, also of several columns",
            "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT UNIQUE, y TEXT, UNIQUE (y, x)); INSERT INTO t VALUES (1, NULL, 'a'),
             (2, NULL, 'a')",
            "SELECT (SELECT count(*) FROM t), count(*) FROM pg_index WHERE indrelid = 't'::regclass AND indisunique AND NOT indisprimary",
            "2|2",
        ),
        feature(
            "partial index",
            "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT); CREATE UNIQUE INDEX one ON t(x) WHERE id > 2;
             INSERT INTO t VALUES (1, 'a'), (2, 'a')",
            "SELECT (SELECT count(*) FROM t), count(*) FROM pg_index WHERE indrelid = 't'::regclass AND indpred IS NOT NULL",
            "2|1",
        ),
        feature(
            "index on an expression",
            "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT); CREATE INDEX lowered ON t(lower(x), id)",
            "SELECT count(*) FROM pg_index WHERE indrelid = 't'::regclass AND indexprs IS NOT NULL",
            "1",
        ),
        feature(
            "index with `DESC`",
            "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT, y TEXT); CREATE INDEX newest ON t(x, y DESC)",
            "SELECT count(*) FROM pg_index WHERE indrelid = 't'::regclass AND pg_get_indexdef(indexrelid) LIKE '%DESC%'",
            "1",
        ),
        feature(
            "generated column",
            "CREATE TABLE t(id INTEGER PRIMARY KEY, a INTEGER, x INTEGER AS (a * 2) STORED); INSERT INTO t(id, a) VALUES (1, 21)",
            "SELECT (SELECT x FROM t), attgenerated FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'x'",
            "42|s",
        ),
        named(
            feature(
                "generated column by what SQLite alone has",
                "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, x TEXT AS (hex(a))); INSERT INTO t(id, a) VALUES (1, 'k')",
                "SELECT (SELECT x FROM t), attgenerated FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'x'",
                "6B|s",
            ),
            "column t.x: an ordinary column",
        ),
        feature(
            "unique key with `NOCASE`",
            "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT COLLATE NOCASE UNIQUE); INSERT INTO t VALUES (1, 'ann')",
            "DO $$ BEGIN INSERT INTO t VALUES (9, 'ANN'); RAISE EXCEPTION 'ANN is accepted beside ann';
             EXCEPTION WHEN unique_violation THEN NULL; END $$; SELECT 'refused'",
            "refused",
        ),
        named(
            feature(
                "`ORDER BY` of a column with `NOCASE`",
                "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT COLLATE NOCASE); INSERT INTO t VALUES (1, 'a'), (2, 'B'), (3, 'c')",
                "SELECT string_agg(x, ',' ORDER BY x) FROM t",
                "a,B,c",
            ),
            "collation NOCASE of column t.x",
        ),
        feature(
            "foreign key with its actions",
            "CREATE TABLE p(id INTEGER PRIMARY KEY); INSERT INTO p VALUES (1);
             CREATE TABLE t(id INTEGER PRIMARY KEY, x INTEGER REFERENCES p(id) ON DELETE CASCADE ON UPDATE SET NULL);
             INSERT INTO t VALUES (1, 1)",
            "SELECT confdeltype, confupdtype FROM pg_constraint WHERE conrelid = 't'::regclass AND contype = 'f'",
            "c|n",
        ),
        feature(
            "foreign key, `DEFERRABLE INITIALLY DEFERRED`",
            "CREATE TABLE p(id INTEGER PRIMARY KEY);
             CREATE TABLE t(id INTEGER PRIMARY KEY, x INTEGER REFERENCES p(id) DEFERRABLE INITIALLY DEFERRED)",
            "SELECT condeferrable, condeferred FROM pg_constraint WHERE conrelid = 't'::regclass AND contype = 'f'",
            "t|t",
        ),
        feature(
            "foreign keys in a circle, with rows",
            "CREATE TABLE p(id INTEGER PRIMARY KEY, x INTEGER REFERENCES t(id));
             CREATE TABLE t(id INTEGER PRIMARY KEY, x INTEGER REFERENCES p(id), y INTEGER REFERENCES t(id));
             INSERT INTO p VALUES (1, 2); INSERT INTO t VALUES (2, 1, 2)",
            "SELECT (SELECT count(*) FROM p JOIN t ON t.id = p.x), count(*) FROM pg_constraint
             WHERE contype = 'f' AND connamespace = (SELECT relnamespace FROM pg_class WHERE oid = 't'::regclass)",
            "1|3",
        ),
        named(
            feature(
                "foreign key that a row breaks",
                "CREATE TABLE p(id INTEGER PRIMARY KEY); 
                 CREATE TABLE t(id INTEGER PRIMARY KEY, x INTEGER REFERENCES p(id)); INSERT INTO t VALUES (1, 7)",
                "SELECT (SELECT count(*) FROM t), count(*) FROM pg_constraint WHERE conrelid = 't'::regclass AND contype = 'f'",
                "1|1",
            ),
            "foreign key of table t",
        ),
        feature(
            "`WITHOUT ROWID`, key of two columns",
            "CREATE TABLE t(id TEXT, x INTEGER, PRIMARY KEY (x, id)) WITHOUT ROWID; INSERT INTO t VALUES ('a', 1), ('b', 1)",
            "SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM unnest(conkey)) FROM pg_constraint
             WHERE conrelid = 't'::regclass AND contype = 'p'",
            "2|2",
        ),
        named(
            feature(
                "rowid of a table without a key",
                "CREATE TABLE t(x TEXT); INSERT INTO t VALUES ('a')",
                "SELECT rowid FROM t",
                "1",
            ),
            "rowid of table t",
        ),
        feature(
            "next key of `INTEGER PRIMARY KEY`",
            "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT); INSERT INTO t VALUES (1, 'a'), (7, 'b')",
            "INSERT INTO t(x) VALUES ('c') RETURNING id",
            "8",
        ),
        feature(
            "next key of `AUTOINCREMENT`, once the last is deleted",
            "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, x TEXT); INSERT INTO t VALUES (1, 'a'), (7, 'b');
             DELETE FROM t WHERE id = 7",
            "INSERT INTO t(x) VALUES ('c') RETURNING id",
            "8",
        ),
        named(
            feature(
                "NULL in a `PRIMARY KEY`",
                "CREATE TABLE t(id TEXT PRIMARY KEY, x TEXT); INSERT INTO t VALUES (NULL, 'a'), ('k', 'b')",
                "SELECT count(*) FROM t",
                "2",
            ),
            "null in the primary key",
        ),
        named(
            feature(
                "text in an `INTEGER` column",
                "CREATE TABLE t(id INTEGER PRIMARY KEY, x INTEGER); INSERT INTO t VALUES (1, 1), (2, 'two'), (3, 3)",
                ROWS,
                "1,two,3",
            ),
            "t.x: 1 values do not fit bigint: text, first in row 2",
        ),
        named(
            feature(
                "a fraction in an `INTEGER` column",
                "CREATE TABLE t(id INTEGER PRIMARY KEY, x INTEGER); INSERT INTO t VALUES (1, 1), (2, 2.5)",
                ROWS,
                "1,2.5",
            ),
            "t.x: 1 values do not fit bigint: real, first in row 2",
        ),
        feature(
            "`DATE` column with one text that is none",
            "CREATE TABLE t(id INTEGER PRIMARY KEY, x DATE); INSERT INTO t VALUES (1, '2001-02-03'), (2, 'soon')",
            ROWS,
            "2001-02-03,soon",
        ),
        feature(
            "dates before Christ",
            "CREATE TABLE t(id INTEGER PRIMARY KEY, x DATE); INSERT INTO t VALUES (1, '-0043-03-15')",
            ROWS,
            "-0043-03-15",
        ),
        feature(
            "integers of 64 bits",
            "CREATE TABLE t(id INTEGER PRIMARY KEY, x INTEGER); INSERT INTO t VALUES (1, 9223372036854775807),
             (2, -9223372036854775808)",
            ROWS,
            "9223372036854775807,-9223372036854775808",
        ),
        feature(
            "`REAL` with all bits",
            "CREATE TABLE t(id INTEGER PRIMARY KEY, x REAL); INSERT INTO t VALUES (1, 0.1 + 0.2), (2, 123456789.123)",
            ROWS,
            "0.30000000000000004,123456789.123",
        ),
        feature(
            "infinity",
            "CREATE TABLE t(id INTEGER PRIMARY KEY, x REAL); INSERT INTO t VALUES (1, 9e999), (2, -9e999), (3, 1)",
            ROWS,
            "Infinity,-Infinity,1",
        ),
        named(
            feature(
                "text with U+0000",
                "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT); INSERT INTO t VALUES (1, 'a' || char(0) || 'b')",
                ROWS,
                NOT_POSSIBLE,
            ),
            "t.x: 1 values do not fit text: text with U+0000, first in row 1",
        ),
        named(
            feature(
                "text that is not UTF-8",
                "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT); INSERT INTO t VALUES (1, CAST(x'61ff' AS TEXT))",
                ROWS,
                NOT_POSSIBLE,
            ),
            "t.x: 1 values do not fit text: text that is not UTF-8, first in row 1",
        ),
        feature(
            "text with quotes, backslashes, line ends, 4-byte UTF-8",
            "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT);
             INSERT INTO t VALUES (1, 'it''s \"q\" \\ \\n \\N' || char(9, 10, 13) || '🎵'), (2, ''), (3, NULL)",
            "SELECT string_agg(coalesce(encode(convert_to(x, 'UTF8'), 'hex'), 'NULL'), ',' ORDER BY id) FROM t",
            "6974277320227122205c205c6e205c4e090a0df09f8eb5,,NULL",
        ),
        feature(
            "blob",
            "CREATE TABLE t(id INTEGER PRIMARY KEY, x BLOB); INSERT INTO t VALUES (1, x'00ff275c0a'), (2, x'')",
            "SELECT string_agg(encode(x, 'hex'), ',' ORDER BY id) FROM t",
            "00ff275c0a,",
        ),
        inferred(feature(
            "`CHECK (x IN (0, 1))`, as `boolean`",
            "CREATE TABLE t(id INTEGER PRIMARY KEY, x INTEGER CHECK (x IN (0, 1))); INSERT INTO t VALUES (1, 0), (2, 1), (3, NULL)",
            "SELECT string_agg(x::text || ' ' || pg_typeof(x), ',' ORDER BY id) FROM t",
            "false boolean,true boolean",
        )),
        inferred(feature(
            "`CHECK (json_valid(x))`, as `json`",
            "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT CHECK (json_valid(x))); INSERT INTO t VALUES (1, '{\"b\": 1.50, \"a\":2}')",
            "SELECT x::text || ' ' || pg_typeof(x) FROM t",
            "{\"b\": 1.50, \"a\":2} json",
        )),
        feature(
            "names that are keywords",
            "CREATE TABLE \"order\"(\"select\" INTEGER PRIMARY KEY, \"user\" TEXT); INSERT INTO \"order\" VALUES (1, 'x')",
            "SELECT \"select\", \"user\" FROM \"order\"",
            "1|x",
        ),
        feature(
            "names with blanks and quotes",
            "CREATE TABLE \"a b\"(id INTEGER PRIMARY KEY, \"c \"\"d\" TEXT); INSERT INTO \"a b\" VALUES (1, 'x')",
            "SELECT \"c \"\"d\" FROM \"a b\"",
            "x",
        ),
        feature(
            "names with capital letters",
            "CREATE TABLE Users(Id INTEGER PRIMARY KEY, Name TEXT); INSERT INTO Users VALUES (1, 'x')",
            "SELECT \"Name\" FROM \"Users\"",
            "x",
        ),
        feature(
            "names of 63 bytes, and two longer ones that begin alike",
            "CREATE TABLE t23456789012345678901234567890123456789012345678901234567890123(x TEXT);
             CREATE TABLE u23456789012345678901234567890123456789012345678901234567890123_one(x TEXT);
             CREATE TABLE u23456789012345678901234567890123456789012345678901234567890123_two(x TEXT);
             INSERT INTO t23456789012345678901234567890123456789012345678901234567890123 VALUES ('a');
             INSERT INTO u23456789012345678901234567890123456789012345678901234567890123_one VALUES ('b');
             INSERT INTO u23456789012345678901234567890123456789012345678901234567890123_two VALUES ('c')",
            "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relnamespace =
                (SELECT relnamespace FROM pg_class WHERE oid = 't23456789012345678901234567890123456789012345678901234567890123'::regclass)",
            "3",
        ),
        feature(
            "table without rows",
            "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT, y BLOB)",
            "SELECT count(*) FROM pg_attribute WHERE attrelid = 't'::regclass AND attnum > 0",
            "3",
        ),
        feature(
            "comments in the SQL of a table",
            "CREATE TABLE t(id INTEGER PRIMARY KEY,\n x TEXT -- the name\n)",
            "SELECT col_description('t'::regclass, 2)",
            "the name",
        ),
        named(
            feature(
                "`PRAGMA user_version`",
                "CREATE TABLE t(id INTEGER PRIMARY KEY); PRAGMA user_version = 7",
                "SELECT count(*) FROM t",
                NOT_POSSIBLE,
            ),
            "PRAGMA user_version = 7",
        ),
        named(
            feature(
                "`ON CONFLICT` of a constraint",
                "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT UNIQUE ON CONFLICT REPLACE); INSERT INTO t VALUES (1, 'a')",
                "INSERT INTO t VALUES (2, 'a') RETURNING (SELECT count(*) FROM t)",
                "1",
            ),
            "table t: ",
        ),
        named(
            feature(
                "view",
                "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT); CREATE VIEW v AS SELECT x FROM t WHERE id > 1",
                "SELECT count(*) FROM v",
                "0",
            ),
            "view v",
        ),
        named(
            feature(
                "trigger",
                "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT);
                 CREATE TRIGGER marks AFTER INSERT ON t BEGIN UPDATE t SET x = 'seen' WHERE id = NEW.id; END",
                "SELECT count(*) FROM pg_trigger WHERE tgrelid = 't'::regclass AND NOT tgisinternal",
                "1",
            ),
            "trigger marks",
        ),
        named(
            feature(
                "full-text table (FTS5)",
                "CREATE VIRTUAL TABLE f USING fts5(x); INSERT INTO f VALUES ('a word')",
                "SELECT x FROM f",
                "a word",
            ),
            "virtual f",
        ),
    ]
}

#[test]
fn nothing_of_a_store_is_lost_without_a_word() {
    let Some(server) = Postgres::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let has_pgloader = runs("pgloader");
    server.database("features");
    let mut rows = Vec::new();
    for (at, feature) in features().iter().enumerate() {
        let path = folder.path().join(format!("{at}.db"));
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
        conn.execute_batch(feature.sql).unwrap();
        drop(conn);
        let ours = by_larder(&server, feature, &path, &format!("s{at}"));
        let theirs = match has_pgloader {
            true => by_pgloader(&server, feature, &path, &format!("p{at}")),
            false => Verdict::NotRun,
        };
        rows.push((feature.name, vec![ours, theirs]));
    }
    check("## What arrives at the server", &rows, 0);
}

fn by_larder(server: &Postgres, feature: &Feature, path: &Path, schema: &str) -> Verdict {
    let store = Store::open(path).unwrap();
    let export = store.export_to_postgres(&server.url("features")).schema(schema);
    let is_named = |text: &str| !feature.named.is_empty() && text.contains(feature.named);
    match export.infer_types(feature.infers).run() {
        Err(error) if is_named(&error.to_string()) => {
            let schemas = format!("SELECT count(*) FROM pg_namespace WHERE nspname = '{schema}'");
            assert_eq!(server.run("features", &schemas), "0", "{}", feature.name);
            Verdict::Refused(error.to_string())
        }
        Err(error) => panic!("{}: {error}", feature.name),
        Ok(report) => {
            let probe = format!("SET search_path = {schema}; {}", feature.probe);
            match server.try_run("features", &probe) {
                Ok(found) if found == feature.wanted => Verdict::Kept,
                _ if is_named(&report.to_string()) => Verdict::Reported(line_of(&report.to_string(), feature.named)),
                Ok(found) | Err(found) => Verdict::Lost(found),
            }
        }
    }
}

fn by_pgloader(server: &Postgres, feature: &Feature, path: &Path, database: &str) -> Verdict {
    server.database(database);
    let (socket, port) = (server.file(""), server.port());
    let script = format!(
        "LOAD DATABASE FROM sqlite://{} INTO postgresql://larder@unix:{}:{port}/{database}
         WITH include drop, create tables, create indexes, reset sequences;",
        path.display(),
        socket.to_string_lossy().trim_end_matches('/')
    );
    let file = path.with_extension("load");
    fs::write(&file, script).unwrap();
    let folder = path.parent().unwrap();
    // It does not end after some of its errors.
    let mut pgloader = Command::new("timeout");
    pgloader.args(["-k", "1", "30", "pgloader"]).arg(&file);
    let output = pgloader.current_dir(folder).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let error = said
        .lines()
        .find(|line| line.contains("ERROR") || line.contains("FATAL"));
    let is_over = output.status.code().is_some_and(|code| ![124, 137].contains(&code));
    match (server.try_run(database, feature.probe), error) {
        _ if !is_over => Verdict::Endless,
        (Ok(found), _) if found == feature.wanted => Verdict::Kept,
        (_, Some(error)) => Verdict::Failed(error.to_owned()),
        (Ok(found) | Err(found), None) => Verdict::Lost(found),
    }
}
