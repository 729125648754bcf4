//! Text in columns of `json`: what the server would refuse is found before anything is written.

use larder::rusqlite::Connection;
use larder::{ExportReport, OnMisfit, PgType, Store};

use crate::support::postgres::Postgres;

/// A dry run looks for no server.
const NOWHERE: &str = "host=nowhere.invalid user=ada dbname=app";

/// `t.x` has each text once. `u.x` has the same as text.
fn store_of(texts: &[String]) -> Store {
    let store = Store::open_temp().unwrap();
    let texts = texts.to_vec();
    store
        .write(move |tx| {
            tx.execute_batch(
                "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT); CREATE TABLE u(id INTEGER PRIMARY KEY, x TEXT)",
            )?;
            let mut insert = tx.prepare("INSERT INTO u(x) VALUES (?1)")?;
            for text in &texts {
                insert.execute([text])?;
            }
            tx.execute_batch("INSERT INTO t SELECT * FROM u")
        })
        .unwrap();
    store
}

/// JSON, text that is nearly JSON, and what is made of them by random changes, the same in each run.
fn texts() -> Vec<String> {
    let mut texts: Vec<String> = [
        "1",
        " 1\t\r\n",
        "-0",
        "1e+5",
        "01",
        "-",
        "1.",
        ".5",
        "1e",
        "+1",
        "1 2",
        "0x1",
        "1_0",
        "-1.5E-3",
        "1e5x",
        "true",
        "TRUE",
        "nul",
        "nulls",
        "truefalse",
        "\"\"",
        "\"a",
        "\"\t\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u00e9\"",
        "\"\u{7f}\u{1f3b5}\"",
        "\"\\u0000\"",
        "\"\\ud800\"",
        "\"\\udc00\"",
        "\"\\ud83c\\udfb5\"",
        "\"\\ud800\\u0041\"",
        "\"\\ud800\\n\"",
        "{\"\\u0000\":1}",
        "\"\\\\u0000\"",
        "NaN",
        "Infinity",
        "-Infinity",
        "",
        " ",
        "[]",
        "[ ]",
        "{}",
        "[1,]",
        "[,]",
        "[1 2]",
        "{,}",
        "{\"a\"}",
        "{1:2}",
        "{\"a\":1,\"a\":2}",
        "{\"a\":1,}",
        "{'a':1}",
        "[}",
        "{]",
        "[[[[]]]]",
        "[1}",
        "/**/1",
        "1e131071",
        "1e131072",
        "1e-16383",
        "1e-16384",
        "0e-20000",
        "0e999999",
        "0e1073741823",
        "1e99999999999",
        "1.0e-16383",
        "0.1e131073",
        "0.1e131072",
        "0.00e131075",
        "0.05e131074",
        "10e131071",
        "1.5e131071",
        "\u{feff}1",
        "\u{a0}1",
        "{\"a\" : [null, true, false, -12.50e3, \"x\\n\\\"\\/\", {\"b\":{}}]}",
    ]
    .map(str::to_owned)
    .to_vec();
    let digits = |count: usize| "1".repeat(count);
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    texts.extend([
        digits(131_072),
        digits(131_073),
        format!("0.{}", digits(16_383)),
        format!("0.{}", digits(16_384)),
    ]);
    texts.extend([nested(1_000), nested(6_400), nested(100_000)]);
    let signs: Vec<char> = "{}[],:\"\\u0e-+.19tf nd8c".chars().collect();
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut below = |limit: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % limit as u64) as usize
    };
    let short: Vec<String> = texts.iter().filter(|text| text.len() < 80).cloned().collect();
    for _ in 0..1_500 {
        let mut text: Vec<char> = short[below(short.len())].chars().collect();
        for _ in 0..=below(3) {
            let (at, sign) = (below(text.len() + 1), signs[below(signs.len())]);
            match below(3) {
                0 if at < text.len() => drop(text.remove(at)),
                1 if at < text.len() => text[at] = sign,
                _ => text.insert(at, sign),
            }
        }
        texts.push(text.into_iter().collect());
    }
    texts
}

/// How many values `jsonb` would refuse, as the notes say it.
fn only_json(report: &ExportReport) -> u64 {
    let notes = report.notes.iter().filter(|note| note.object == "column t.x");
    let counts = notes.filter_map(|note| {
        let (count, _) = note.instead.split_once(" values ")?;
        count.parse::<u64>().ok()
    });
    counts.sum()
}

#[test]
fn json_is_what_the_server_takes() {
    let Some(server) = Postgres::start() else { return };
    let store = store_of(&texts());
    let url = server.database("json");
    let export = store.export_to_postgres(&url).column_type("t", "x", PgType::Json);
    let report = export.on_misfit(OnMisfit::Quarantine).run().unwrap();
    for kind in ["json", "jsonb"] {
        let make = format!(
            "CREATE FUNCTION is_{kind}(x text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM x::{kind}; RETURN true;
             EXCEPTION WHEN OTHERS THEN RETURN false; END $$"
        );
        server.run("json", &make);
    }
    // By their beginning, for a failure.
    let differing = "SELECT coalesce(string_agg(left(x, 40), E'\\n'), '') FROM u WHERE is_json(x) <> EXISTS
        (SELECT 1 FROM t WHERE t.id = u.id)";
    assert_eq!(server.run("json", differing), "");
    let refused = server.run("json", "SELECT count(*) FROM t WHERE NOT is_jsonb(x::text)");
    assert_eq!(only_json(&report).to_string(), refused, "{report}");
    assert_ne!(refused, "0");
    assert!(server.run("json", "SELECT count(*) FROM t").parse::<u32>().unwrap() > 100);
}

#[test]
fn broken_json_is_found_by_a_dry_run() {
    let texts = ["{\"a\":1}", "{a:1}", "[1,]", "\"\\u0000\"", "[\"\\u0000\", 1e999999]"];
    let store = store_of(&texts.map(str::to_owned));
    let deep = "UPDATE t SET x = printf('%.*c%.*c', 6401, '[', 6401, ']') WHERE id = 1";
    store.write(move |tx| tx.execute(deep, [])).unwrap();
    let export = || store.export_to_postgres(NOWHERE).column_type("t", "x", PgType::Json);
    let plan = export().dry_run().unwrap();
    let misfits: Vec<String> = plan.misfits.iter().map(ToString::to_string).collect();
    let wanted = [
        "t.x: 2 values do not fit json: text that is no JSON, first in row 2",
        "t.x: 1 values do not fit json: JSON of more than 6400 levels, first in row 1",
    ];
    assert_eq!(misfits, wanted);
    let note = "column t.x: 2 values have \\u0000 in a string, first in row 4: json takes them, and jsonb does not";
    assert!(plan.to_string().contains(note), "{plan}");
    // It would connect if nothing was wrong.
    let error = export().run().unwrap_err().to_string();
    assert!(
        error.contains("nothing was written") && error.contains(wanted[0]),
        "{error}"
    );
    let plan = export().on_misfit(OnMisfit::Text).dry_run().unwrap();
    assert!(plan.tables[0].create.contains("\"x\" text"), "{plan}");
    assert!(!plan.to_string().contains("jsonb"), "{plan}");
}

#[test]
fn json_is_inferred_if_all_text_is_json_at_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch(
        "CREATE TABLE good(id INTEGER PRIMARY KEY, x TEXT CHECK (json_valid(x)));
         INSERT INTO good VALUES (1, '{\"a\":\"\\u0000\"}'), (2, NULL);
         CREATE TABLE bad(id INTEGER PRIMARY KEY, x TEXT CHECK (json_valid(x)));
         PRAGMA ignore_check_constraints = ON;
         INSERT INTO bad VALUES (1, '[]'), (2, 'broken')",
    )
    .unwrap();
    drop(conn);
    let store = Store::open(&path).unwrap();
    let plan = store.export_to_postgres(NOWHERE).infer_types(true).dry_run().unwrap();
    assert!(plan.misfits.is_empty(), "{plan}");
    let [bad, good] = plan.tables.as_slice() else {
        panic!("{plan}")
    };
    assert!(
        bad.create.contains("\"x\" text") && good.create.contains("\"x\" json"),
        "{plan}"
    );
    let note = "column good.x: 1 values have \\u0000 in a string, first in row 1";
    assert!(plan.to_string().contains(note), "{plan}");
}
