//! `examples/quickstart` as a separate process, with CSV files. CI runs it without them, and without the feature.

use std::fs;
use std::process::{Command, Output, Stdio};

use larder::rusqlite::Connection;

use crate::support::child::example;

fn run(arguments: [&std::path::Path; 2]) -> Output {
    let mut command = Command::new(example("quickstart"));
    command.args(arguments).env("LARDER_QUICKSTART_SECS", "0.05");
    command.stdin(Stdio::null()).output().unwrap()
}

#[test]
fn quickstart_loads_csv_files_with_their_types() {
    let folder = tempfile::tempdir().unwrap();
    let (database, csv) = (folder.path().join("app.db"), folder.path().join("parts.csv"));
    // Codes keep their zeros, and one of the last lines has a code that is no number.
    let lines: String = (1..=500).map(|n| format!("{n},{:03},{n}.5\n", n % 7)).collect();
    fs::write(&csv, format!("id,code,price\n{lines}501,7B,\n502,\"8,\"\"C\",NA\n")).unwrap();

    let ran = run([&database, &csv]);
    let (out, err) = (
        String::from_utf8(ran.stdout).unwrap(),
        String::from_utf8(ran.stderr).unwrap(),
    );
    assert!(ran.status.success(), "{out}{err}");
    let loaded = out.lines().find(|line| line.trim_start().starts_with("parts "));
    assert!(loaded.is_some_and(|line| line.contains(" 502 rows in ")), "{out}");

    let conn = Connection::open(&database).unwrap();
    let column = |sql: &str| -> Vec<String> {
        let mut statement = conn.prepare(sql).unwrap();
        let values = statement.query_map([], |row| row.get(0)).unwrap();
        values.map(Result::unwrap).collect()
    };
    let types = "SELECT name || ' ' || type FROM pragma_table_info('parts')";
    assert_eq!(column(types), ["id INTEGER", "code TEXT", "price REAL"]);
    let codes = "SELECT code FROM parts WHERE id IN (1, 500, 501, 502) ORDER BY id";
    assert_eq!(column(codes), ["001", "003", "7B", "8,\"C"]);
    let sums = "SELECT count(*) || ' ' || sum(id) || ' ' || count(price) || ' ' || sum(price) FROM parts";
    assert_eq!(column(sums), ["502 126253 500 125500.0"]);

    // A second load would double the rows.
    let again = run([&database, &csv]);
    let err = String::from_utf8(again.stderr).unwrap();
    assert!(
        !again.status.success() && err.contains("has a table or an index `parts` already"),
        "{err}"
    );
    assert_eq!(column("SELECT count(*) || '' FROM parts"), ["502"]);
}
