//! `sql`.

use std::io::Write;
use std::process::Stdio;

use crate::support::{Place, Run};

#[test]
fn rows_are_printed() {
    let place = Place::with_database();
    let select = "SELECT id, name, price FROM item WHERE id IN (2, 10)";
    let run = place.run(&["sql", "app.db", select]).assert_code(0);
    let wanted = "id  name     price\n--  -------  -----\n 2  item 2     1.0\n10  item 10    5.0\n";
    assert_eq!(run.out, wanted);
    let run = place.run(&["sql", "app.db", "--csv", select]).assert_code(0);
    assert_eq!(run.out, "id,name,price\n2,item 2,1.0\n10,item 10,5.0\n");
    let values = "SELECT NULL, 'a,\"b', x'00ff', 9223372036854775807, 0.1, -9e999, CAST(x'ff' AS TEXT)";
    let rows = place.run(&["sql", "app.db", "--json", values]).assert_code(0).json();
    let wanted = r#"[null,"a,\"b",{"hex":"00ff"},9223372036854775807,0.1,"-Infinity",{"hex":"ff"}]"#;
    assert_eq!(rows["rows"][0].to_string(), wanted);
    let run = place
        .run(&["sql", "app.db", "SELECT 'a\u{1b}[2J' || char(10)"])
        .assert_code(0);
    assert!(run.out.contains("a\\u{1b}[2J\\n"), "{run:?}");
}

#[test]
fn statement_comes_from_stdin() {
    let place = Place::with_database();
    let mut command = place.command();
    let mut child = command
        .args(["sql", "app.db", "-", "--csv"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"SELECT count(*)\nFROM item;\n")
        .unwrap();
    let run = Run::of(child.wait_with_output().unwrap()).assert_code(0);
    assert_eq!(run.out, "count(*)\n100\n");
}

#[test]
fn rows_and_time_have_limits() {
    let place = Place::with_database();
    let run = place
        .run(&[
            "sql",
            "app.db",
            "SELECT id FROM item ORDER BY id",
            "--limit",
            "3",
            "--csv",
        ])
        .assert_code(0);
    assert_eq!(run.out, "id\n1\n2\n3\n");
    assert!(run.err.contains("there are more than 3 rows: raise --limit"), "{run:?}");
    let rows = place.run(&["sql", "app.db", "SELECT id FROM item", "--limit", "100", "--json"]);
    let rows = rows.assert_code(0).json();
    assert_eq!(
        (&rows["truncated"], rows["rows"].as_array().unwrap().len()),
        (&false.into(), 100)
    );
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    place
        .run(&["sql", "app.db", endless, "--timeout", "100ms"])
        .assert_fails(3, &["stopped after 100ms", "--timeout"]);
}

#[test]
fn nothing_is_written() {
    let place = Place::with_database();
    for sql in [
        "DELETE FROM item",
        "DROP TABLE item",
        "INSERT INTO owner VALUES (9, 'x') RETURNING id",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA user_version = 7",
        "VACUUM INTO 'copy.db'",
        "ATTACH 'other.db' AS other",
        "BEGIN IMMEDIATE",
    ] {
        let run = place.run(&["sql", "app.db", sql]);
        assert_eq!(run.code, Some(3), "{sql}: {run:?}");
    }
    assert_eq!(place.count("app.db", "SELECT count(*) FROM item"), 100);
    assert!(!place.path("copy.db").exists() && !place.path("other.db").exists());
}

#[test]
fn wrong_statements_are_explained() {
    let place = Place::with_database();
    let fails = |sql: &str, part: &str| {
        place.run(&["sql", "app.db", sql]).assert_fails(3, &[part]);
        let error = place.run(&["sql", "app.db", sql, "--json"]).assert_code(3).json();
        assert!(error["error"]["message"].as_str().unwrap().contains(part), "{error}");
    };
    fails("SELEC 1", "syntax error");
    fails("SELECT * FROM missing", "no such table: missing");
    fails("SELECT 1; SELECT 2", "ultiple");
    place.run(&["sql", "app.db", " "]).assert_fails(2, &["empty"]);
}
