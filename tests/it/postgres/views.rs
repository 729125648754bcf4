//! Views of a PostgreSQL database: those that are made show the same rows, and all others are listed.

use larder::{PostgresImportReport, Store};

use crate::support::postgres::Postgres;

const TABLES: &str = "
    CREATE SCHEMA sales;
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
    CREATE TABLE person (id integer PRIMARY KEY, \"Name\" text, boss integer REFERENCES person(id), mood mood, born date,
        seen timestamptz, share float8, active boolean, paid numeric(8,2), code char(4));
    CREATE TABLE sales.line (id integer PRIMARY KEY, person integer REFERENCES person(id), qty integer, price numeric(8,2),
        note text);
    CREATE TABLE part (id integer, day date) PARTITION BY RANGE (day);
    CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM ('2020-01-01') TO ('2030-01-01');
    CREATE TABLE parent (id integer); CREATE TABLE heir (more text) INHERITS (parent);
    INSERT INTO person VALUES (1, 'Ada', NULL, 'happy', '1815-12-10', '2024-01-01 00:00:00+00', 0.5, true, 12.50, 'ab'),
        (2, 'bob', 1, 'sad', NULL, '2024-06-01 00:00:00+02', NULL, false, 3, 'c'), (3, 'Eve', 1, NULL, '2000-01-01', NULL, -1.25,
        true, 0.10, NULL), (4, NULL, 2, 'ok', '1999-12-31', 'infinity', 2.75, NULL, NULL, 'ab');
    INSERT INTO sales.line VALUES (1, 1, 2, 1.50, 'a'), (2, 1, NULL, 2.00, NULL), (3, 2, -1, 0.01, 'b'), (4, NULL, 5, 1, 'a');
    INSERT INTO part VALUES (1, '2024-01-01');
    INSERT INTO parent VALUES (1); INSERT INTO heir VALUES (2, 'x');
";

/// A view, and its rows as SQLite shows them.
const MADE: &[(&str, &str)] = &[
    // As they are: numbers of numeric with their digits.
    (
        "plain",
        "SELECT id, \"Name\" AS name, paid, mood, born, seen, code FROM person",
    ),
    (
        "chosen",
        "SELECT id FROM person WHERE active AND paid > 1 AND \"Name\" LIKE 'A%' OR mood = 'sad'",
    ),
    (
        "lists",
        "SELECT id FROM person WHERE mood IN ('sad', 'ok') OR id NOT IN (1, 2, 4) OR born BETWEEN '1999-01-01' AND '1999-12-31'",
    ),
    (
        "joined",
        "SELECT p.id, b.\"Name\" AS boss, l.price FROM person p LEFT JOIN person b ON b.id = p.boss JOIN sales.line l ON l.person = p.id AND l.qty > 0",
    ),
    (
        "fully",
        "SELECT p.id AS person, l.id AS line FROM person p FULL JOIN sales.line l ON l.person = p.id",
    ),
    (
        "crossed",
        "SELECT a.id, b.id AS other FROM person a, person b WHERE a.id < b.id AND EXISTS (SELECT 1 FROM sales.line WHERE line.person = b.id)",
    ),
    (
        "merged",
        "SELECT id, p.\"Name\", l.qty FROM person p JOIN sales.line l USING (id)",
    ),
    (
        "counted",
        "SELECT mood, count(*) AS n, count(born) AS born, min(id) AS least, max(\"Name\") AS last, sum(id) AS total, avg(share) AS mean, bool_and(active) AS all_active FROM person GROUP BY mood HAVING count(*) > 0",
    ),
    (
        "sums",
        "SELECT person, sum(CASE WHEN note = 'a' THEN 1 ELSE 0 END) AS a, count(*) FILTER (WHERE qty > 0) AS some, string_agg(note, '+' ORDER BY id DESC) AS notes FROM sales.line GROUP BY person",
    ),
    ("sorted", "SELECT id, share FROM person ORDER BY share DESC, id LIMIT 3"),
    ("nulls", "SELECT id FROM person ORDER BY born, id OFFSET 1"),
    (
        "firsts",
        "SELECT id FROM person ORDER BY born NULLS FIRST, id DESC LIMIT 2",
    ),
    ("either", "SELECT id FROM person UNION SELECT qty FROM sales.line"),
    (
        "every",
        "SELECT \"Name\" FROM person UNION ALL SELECT note FROM sales.line",
    ),
    ("differ", "SELECT id FROM person EXCEPT SELECT person FROM sales.line"),
    ("names", "SELECT DISTINCT code, active FROM person"),
    (
        "flags",
        "SELECT id, id > 2 AS is_new, NOT active AS idle, boss IS NULL AS top, coalesce(\"Name\", '?') || '/' || id AS label, length(\"Name\") AS letters, CASE WHEN paid > 5 THEN 'much' ELSE 'little' END AS pays FROM person",
    ),
    (
        "with_it",
        "WITH big AS (SELECT id, paid FROM person WHERE paid > 1) SELECT b.id, b.paid FROM big b WHERE b.id IN (SELECT person FROM sales.line)",
    ),
    (
        "nested",
        "SELECT x.id FROM (SELECT id, qty * 2 AS twice FROM sales.line) x WHERE x.twice > 3",
    ),
    (
        "of_views",
        "SELECT c.id, p.paid FROM chosen c JOIN plain p ON p.id = c.id",
    ),
    (
        "distinctly",
        "SELECT id FROM person WHERE boss IS DISTINCT FROM 1 AND share IS NOT NULL",
    ),
    ("parts", "SELECT id, day FROM part"),
    (
        "ratios",
        "SELECT id, qty::float8 / 2::float8 = 2.5 AS is_half, id / 2 AS whole, qty::float8 / id::float8 = 1.25 AS is_ratio FROM sales.line",
    ),
    (
        "hidden",
        "WITH part AS (SELECT id FROM person WHERE id > 2), line AS (SELECT id FROM public.part) SELECT part.id, x.id AS other FROM part JOIN sales.line x ON x.id = part.id JOIN line ON true",
    ),
    ("paying", "SELECT count(paid) AS n FROM person"),
    (
        "youngest",
        "SELECT id FROM person WHERE born = (SELECT max(born) FROM person)",
    ),
    (
        "constants",
        "SELECT 1 AS one, 'it''s'::text AS quote, NULL::text AS none, true AS yes",
    ),
];

/// Views that would show something else, and a part of the reason.
const LEFT: &[(&str, &str, &str)] = &[
    ("amounts", "SELECT sum(paid) AS s FROM person", "more digits"),
    ("product", "SELECT qty * price AS p FROM sales.line", "more digits"),
    ("mean", "SELECT avg(id) AS a FROM person", "avg of this type"),
    ("fees", "SELECT id FROM person WHERE paid + 0.2 = 0.30", "more digits"),
    (
        "same_price",
        "SELECT p.id FROM person p JOIN sales.line l ON l.price = p.paid",
        "more digits",
    ),
    (
        "since",
        "SELECT id FROM person WHERE seen > (SELECT min(born) FROM person)",
        "two types",
    ),
    ("codes", "SELECT id FROM person WHERE code LIKE 'ab'", "blanks"),
    (
        "by_constant",
        "SELECT 2 AS two, id FROM person ORDER BY 1 LIMIT 2",
        "constant",
    ),
    ("prices", "SELECT DISTINCT price FROM sales.line", "another text"),
    ("by_mood", "SELECT id FROM person ORDER BY mood", "compared otherwise"),
    ("moods", "SELECT id FROM person WHERE mood > 'sad'", "sorts otherwise"),
    (
        "upper_case",
        "SELECT upper(\"Name\") AS u FROM person",
        "letters of ASCII",
    ),
    (
        "recent",
        "SELECT id FROM person WHERE seen > now() - interval '7 days'",
        "now",
    ),
    ("day", "SELECT seen::date AS d FROM person", "cast"),
    (
        "ages",
        "SELECT born - date '2000-01-01' AS days FROM person",
        "text here",
    ),
    (
        "ranked",
        "SELECT id, row_number() OVER (ORDER BY id) AS n FROM person",
        "row_number",
    ),
    ("texts", "SELECT active || 'x' AS t FROM person", "another here"),
    ("one_part", "SELECT id FROM part_1", "part_1"),
    ("heirs", "SELECT id FROM parent", "parent"),
    ("matched", "SELECT id FROM person WHERE \"Name\" ~ '^A'", "~"),
    (
        "series",
        "SELECT g AS i FROM generate_series(1, 3) g",
        "it reads generate_series",
    ),
    (
        "tree",
        "WITH RECURSIVE r AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM r WHERE i < 3) SELECT i FROM r",
        "recursive",
    ),
    ("upon", "SELECT u.u FROM upper_case u", "upper_case"),
    (
        "first_of",
        "SELECT DISTINCT ON (boss) boss, id FROM person ORDER BY boss, id",
        "DISTINCT ON",
    ),
];

/// The rows of a view in PostgreSQL, as the types of an import have them.
fn of_server(server: &Postgres, view: &str) -> Vec<String> {
    let columns = server.run(
        "views",
        &format!(
            "SELECT string_agg(CASE WHEN format_type(atttypid, NULL) = 'boolean' THEN format('%I::integer', attname)
                WHEN format_type(atttypid, NULL) = 'timestamp with time zone' THEN format('CASE WHEN isfinite(%1$I) THEN
                    to_char(%1$I AT TIME ZONE ''UTC'', ''YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'') ELSE %1$I::text END', attname)
                ELSE format('%I::text', attname) END, ', ' ORDER BY attnum)
             FROM pg_attribute WHERE attrelid = '{view}'::regclass AND attnum > 0"
        ),
    );
    let rows = server.run("views", &format!("SELECT concat_ws('|', 'row', {columns}) FROM {view}"));
    rows.lines().map(str::to_owned).collect()
}

fn of_store(server: &Postgres, store: &Store, view: &str) -> Vec<String> {
    let columns = server.run(
        "views",
        &format!(
            "SELECT string_agg(format('%I', attname), ', ' ORDER BY attnum) FROM pg_attribute
             WHERE attrelid = '{view}'::regclass AND attnum > 0"
        ),
    );
    let sql = format!("SELECT concat_ws('|', 'row', {columns}) FROM {view}");
    store.read(|tx| tx.query_map(&sql, [], |row| row.get(0))).unwrap()
}

fn noted<'r>(report: &'r PostgresImportReport, view: &str) -> Option<&'r str> {
    let mut notes = report.notes.iter();
    notes.find(|note| note.object == view).map(|note| note.problem.as_str())
}

#[test]
fn views_show_the_same_rows_or_are_listed() {
    let Some(server) = Postgres::start() else { return };
    let url = server.database("views");
    server.run("views", TABLES);
    for (name, query) in MADE {
        server.run("views", &format!("CREATE VIEW {name} AS {query}"));
    }
    for (name, query, _) in LEFT {
        server.run("views", &format!("CREATE VIEW {name} AS {query}"));
    }
    // A view that is older than what it reads.
    server.run("views", "CREATE VIEW later AS SELECT id FROM person");
    server.run("views", "CREATE OR REPLACE VIEW plain AS SELECT id, \"Name\" AS name, paid, mood, born, seen, code FROM person WHERE id IN (SELECT id FROM later)");
    server.run(
        "views",
        "CREATE VIEW sales.line_of AS SELECT id FROM sales.line WITH CHECK OPTION",
    );
    let folder = tempfile::tempdir().unwrap();
    let dump = folder.path().join("d.sql");
    server.dump("views", &dump, &[]);
    let imports = [
        Store::import_from_postgres(&url, folder.path().join("live.db")),
        Store::import_from_pg_dump(&dump, folder.path().join("d.db")),
    ];
    for import in imports {
        let what = format!("{import:?}");
        let report = import.run().unwrap();
        let store = Store::open(&report.path).unwrap();
        for (name, _) in MADE.iter().chain(&[("later", "")]) {
            assert!(
                report.views.iter().any(|view| view == name),
                "{name} of {what}: {:?}",
                noted(&report, name)
            );
            let (mut wanted, mut found) = (of_server(&server, name), of_store(&server, &store, name));
            if !["sorted", "nulls", "firsts"].contains(name) {
                wanted.sort();
                found.sort();
            }
            assert!(!wanted.is_empty(), "{name}");
            assert_eq!(found, wanted, "{name} of {what}");
        }
        assert!(report.views.contains(&"sales_line_of".to_owned()), "{report}");
        for (name, query, reason) in LEFT {
            let note = noted(&report, name).unwrap_or_else(|| panic!("{name}: {query} was made"));
            assert!(
                note.contains(reason) && note.contains("the view is left out"),
                "{name}: {note}"
            );
            assert!(!report.views.iter().any(|view| view == name), "{name}");
        }
        let views: i64 = store
            .read(|tx| tx.scalar("SELECT count(*) FROM sqlite_schema WHERE type = 'view'", []))
            .unwrap();
        assert_eq!(views, i64::try_from(report.views.len()).unwrap());
    }
}

#[test]
fn view_of_a_table_that_is_left_out_is_listed() {
    let Some(server) = Postgres::start() else { return };
    let url = server.database("views");
    server.run(
        "views",
        "CREATE TABLE a (id integer PRIMARY KEY); CREATE TABLE b (id integer PRIMARY KEY); INSERT INTO a VALUES (1);
         CREATE VIEW of_a AS SELECT id FROM a; CREATE VIEW of_b AS SELECT id FROM b",
    );
    let folder = tempfile::tempdir().unwrap();
    let import = Store::import_from_postgres(&url, folder.path().join("app.db"));
    let report = import.skip_table("b").run().unwrap();
    assert_eq!(report.views, ["of_a"]);
    assert!(
        noted(&report, "of_b").is_some_and(|note| note.contains("no such table")),
        "{report}"
    );
    assert!(report.to_string().contains("view of_a"), "{report}");
}
