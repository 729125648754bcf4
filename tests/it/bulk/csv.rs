//! CSV files: which rows are there, and which lines are named.

use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use larder::rusqlite::Connection;
use larder::rusqlite::types::Value;
use larder::{BulkCsv, BulkReport, CsvType, Error, OnViolation, Options, Outcome, Store, Violation};

use crate::support::child::{Child, PATIENCE, Task, listen, tell};
use crate::support::{RaiseOnDrop, count};

const TABLE: &str = "CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, text TEXT, n REAL, raw BLOB) STRICT";

fn store() -> Store {
    with(TABLE)
}

fn with(schema: &'static str) -> Store {
    let store = Store::open_temp().unwrap();
    store.write(move |tx| tx.execute_batch(schema)).unwrap();
    store
}

fn csv<'a>(store: &Store, file: &'a (impl AsRef<[u8]> + ?Sized)) -> BulkCsv<&'a [u8]> {
    store.bulk().csv(file.as_ref()).into("t")
}

/// All rows of `t`, as SQLite prints their values.
fn rows(store: &Store) -> Vec<String> {
    let columns: Vec<String> = store
        .read(|tx| {
            tx.scalars(
                "SELECT 'quote(\"' || name || '\")' FROM pragma_table_info('t') ORDER BY cid",
                [],
            )
        })
        .unwrap();
    let select = format!("SELECT {} FROM t ORDER BY rowid", columns.join(" || ' ' || "));
    store.read(|tx| tx.scalars(&select, [])).unwrap()
}

/// The number of the line and the message.
fn refusal(result: larder::Result<BulkReport>) -> (Option<u64>, String) {
    match result.unwrap_err() {
        Error::Bulk { line, source, .. } => (line, source.to_string()),
        error @ Error::Csv { .. } => (None, error.to_string()),
        other => panic!("{other}"),
    }
}

fn line_of(result: larder::Result<BulkReport>) -> u64 {
    let (line, message) = refusal(result);
    line.unwrap_or_else(|| panic!("{message}"))
}

/// In another process: loads a file until it is killed.
pub(crate) fn child(task: &Task) {
    let store = Options::new().open(&task.args[0]).unwrap();
    store.write(|tx| tx.execute_batch(TABLE)).unwrap();
    tell("open");
    let file = File::open(&task.args[1]).unwrap();
    let job = store
        .bulk()
        .resumable("load")
        .csv(file)
        .into("t")
        .on_bad_line(OnViolation::Skip);
    let report = job.run().unwrap();
    tell(format!("done {}", report.resumed_from + report.rows));
    listen();
}

#[test]
fn values_have_the_types_of_their_columns() {
    let store = store();
    let file = "text,id,raw,n\n007,1,ab,2.5\n,2,,\n\"a \"\"b\"\", c\",3,\"x\ny\",1e3\n";
    let report = csv(&store, file).run().unwrap();
    assert_eq!((report.rows, report.changed, report.bad_lines), (3, 3, 0));
    assert_eq!(
        rows(&store),
        [
            "1 '007' 2.5 X'6162'",
            "2 NULL NULL NULL",
            "3 'a \"b\", c' 1000.0 X'780A79'"
        ]
    );
}

#[test]
fn affinities_of_tables_that_are_not_strict() {
    let store = with("CREATE TABLE t(a INT, b VARCHAR(9), c NUMERIC, d DATE, e)");
    csv(&store, "a,b,c,d,e\n01,01,01,2013-01-01,01\n").run().unwrap();
    assert_eq!(rows(&store), ["1 '01' 1 '2013-01-01' '01'"]);
    assert_eq!(
        refusal(csv(&store, "a\nx\n").run()),
        (Some(2), "column a: \"x\" is no INTEGER".into())
    );
    // The caller knows better.
    csv(&store, "a,e\nx,5\n")
        .types([("a", CsvType::Text), ("E", CsvType::Integer)])
        .run()
        .unwrap();
    assert_eq!(rows(&store)[1], "'x' NULL NULL NULL 5");
    let (_, message) = refusal(csv(&store, "a\nx\n").types([("b", CsvType::Text)]).run());
    assert!(message.contains("\"b\""), "{message}");
}

#[test]
fn nulls_are_what_was_given() {
    let store = store();
    let file = "id,text,n\n1,,NA\n2,NA,\n";
    csv(&store, file).nulls(["", "NA"]).run().unwrap();
    assert_eq!(rows(&store), ["1 NULL NULL NULL", "2 NULL NULL NULL"]);
    let (line, message) = refusal(csv(&store, "id,text,n\n3,,NA\n4,NA,\n").nulls(["NA"]).run());
    assert_eq!((line, &*message), (Some(3), "column n: \"\" is no REAL"));
    assert_eq!(rows(&store)[2], "3 '' NULL NULL");
}

#[test]
fn delimiters_quotes_marks_and_line_ends() {
    let store = store();
    let file = b"\xef\xbb\xbfid;text\r\n1;'a;b'\r\n\r\n2;\"c\"\r\n";
    csv(&store, file).delimiter(b';').quote(Some(b'\'')).run().unwrap();
    csv(&store, "id\ttext\n3\t\"open\n")
        .delimiter(b'\t')
        .quote(None)
        .run()
        .unwrap();
    // A byte order mark before a first line that is none.
    csv(&store, b"\xef\xbb\xbf4,x")
        .columns(["id", "text"])
        .has_header(false)
        .run()
        .unwrap();
    assert_eq!(
        rows(&store),
        [
            "1 'a;b' NULL NULL",
            "2 '\"c\"' NULL NULL",
            "3 '\"open' NULL NULL",
            "4 'x' NULL NULL"
        ]
    );
    let utf_16: Vec<u8> = "\u{feff}id,text\n1,a\n"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let (_, message) = refusal(csv(&store, &utf_16).run());
    assert!(message.contains("UTF-16"), "{message}");
}

#[test]
fn header_is_mapped_to_columns() {
    let store = store();
    let file = "No,Text, notes ,notes\n1,a,x,y\n";
    csv(&store, file).rename("No", "id").ignore(["notes"]).run().unwrap();
    csv(&store, file)
        .columns(["n", "TEXT", "id", "other"])
        .ignore(["other"])
        .types([("id", CsvType::Numeric)])
        .on_bad_line(OnViolation::Skip)
        .run()
        .unwrap_err();
    csv(&store, "any,names\n2,b\n").columns(["id", "text"]).run().unwrap();
    assert_eq!(rows(&store), ["1 'a' NULL NULL", "2 'b' NULL NULL"]);
}

#[test]
fn headers_that_do_not_fit_are_refused_with_names() {
    let store = with(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT NOT NULL, kind TEXT NOT NULL DEFAULT 'x', up TEXT AS (upper(name)));
         CREATE TABLE parent(id INTEGER PRIMARY KEY);
         CREATE TABLE pair(a INTEGER, b INTEGER, PRIMARY KEY(a, b)) STRICT, WITHOUT ROWID;
         CREATE VIEW v AS SELECT * FROM t",
    );
    for (header, named) in [
        ("", "empty"),
        ("\n\n", "empty"),
        (
            "id,name,colour\n1,a,red",
            "no column \"colour\"; it has id, name, kind, up",
        ),
        ("id,kind\n1,a", "no field is for name"),
        ("id,name,id\n1,a,2", "\"id\" twice"),
        ("id,name,NAME\n1,a,b", "two fields are for the column name"),
        ("name,up\na,A", "the column up of t is generated"),
        ("name,\"kind\na,b\n", "quote that is not closed"),
        ("name,k\u{0}nd\na,b\n", "NUL byte"),
        ("name,\na,b\n", "field 2 of the header has no name"),
    ] {
        let (line, message) = refusal(csv(&store, header).run());
        assert!(line.is_none() && message.contains(named), "{header:?}: {message}");
    }
    let (_, message) = refusal(csv(&store, b"name,h\xf6he\na,b\n").run());
    assert!(message.contains("UTF-8"), "{message}");
    let (_, message) = refusal(csv(&store, "name\na\n").rename("nam", "name").run());
    assert!(message.contains("no field \"nam\""), "{message}");
    let (_, message) = refusal(csv(&store, "name\na\n").ignore(["name"]).run());
    assert!(message.contains("left out"), "{message}");
    let (_, message) = refusal(csv(&store, "name\na\n").columns(["id", "name"]).run());
    assert!(message.contains("2 columns are given"), "{message}");
    for (table, named) in [("missing", "no table missing"), ("v", "is a view")] {
        let (_, message) = refusal(store.bulk().csv("name\na\n".as_bytes()).into(table).run());
        assert!(message.contains(named), "{message}");
    }
    let (_, message) = refusal(store.bulk().csv("a\n1\n".as_bytes()).into("pair").run());
    assert!(message.contains("no field is for b"), "{message}");
    let error = store.bulk().csv("a\n1\n".as_bytes()).run().unwrap_err();
    assert!(
        matches!(
            error,
            Error::Options {
                option: "BulkCsv::into",
                ..
            }
        ),
        "{error}"
    );
    let error = csv(&store, "a\n").has_header(false).run().unwrap_err();
    assert!(
        matches!(
            error,
            Error::Options {
                option: "BulkCsv::columns",
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(error.outcome(), Outcome::NotStarted);
    assert_eq!(count(&store), 0);
}

/// Its index makes it a column like any other, to which SQLite gives no value.
#[test]
fn key_that_is_no_rowid_is_required() {
    let store = with("CREATE TABLE t(id INTEGER NOT NULL PRIMARY KEY DESC, text TEXT)");
    let (_, message) = refusal(csv(&store, "text\na\n").run());
    assert!(message.contains("no field is for id"), "{message}");
    let store = with("CREATE TABLE t(id INTEGER NOT NULL PRIMARY KEY, text TEXT)");
    assert_eq!(csv(&store, "text\na\n").run().unwrap().rows, 1);
}

const CREATE: &str = "CREATE TABLE made(n INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT";

#[test]
fn table_is_created_with_its_job() {
    let store = Store::open_temp().unwrap();
    let load = |name: Option<&str>, file: &str, create: &str| {
        let bulk = match name {
            Some(name) => store.bulk().resumable(name),
            None => store.bulk(),
        };
        let csv = bulk.csv(file.as_bytes()).into("made").create_table(create);
        csv.run()
    };
    let rows = || -> i64 { store.read(|tx| tx.scalar("SELECT count(*) FROM made", [])).unwrap() };
    // A header that does not fit leaves no table.
    let (_, message) = refusal(load(None, "n,other\n1,a\n", CREATE));
    assert!(message.contains("no column \"other\""), "{message}");
    // The row that fails the job is behind the table.
    let error = load(Some("load"), "n,text\n1,a\n2,\n", CREATE).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Bulk {
                rows: 1,
                line: Some(3),
                ..
            }
        ),
        "{error}"
    );
    let report = load(Some("load"), "n,text\n1,a\n2,b\n", &format!("{CREATE};")).unwrap();
    assert_eq!((report.resumed_from, report.rows, rows()), (1, 1, 2));
    // Neither a job without a name nor one of another name has created it.
    for name in [None, Some("other")] {
        let (_, message) = refusal(load(name, "n,text\n3,c\n", CREATE));
        assert!(
            message.contains("there is a table made already: leave BulkCsv::create_table out"),
            "{message}"
        );
    }
    let other = "CREATE TABLE made(n INTEGER PRIMARY KEY, text TEXT) STRICT";
    let (_, message) = refusal(load(Some("load"), "n,text\n1,a\n2,b\n3,c\n", other));
    assert!(message.contains("not as this job creates it"), "{message}");
    // The rows are gone with the table, and so is what the job knew of them.
    store.write(|tx| tx.execute_batch("DROP TABLE made")).unwrap();
    let report = load(Some("load"), "n,text\n1,a\n2,b\n", CREATE).unwrap();
    assert_eq!((report.resumed_from, report.rows, rows()), (0, 2, 2));
    // A statement that creates another table changes nothing.
    store.write(|tx| tx.execute_batch("DROP TABLE made")).unwrap();
    let (_, message) = refusal(load(Some("load"), "n,text\n1,a\n", "CREATE TABLE else_where(n)"));
    assert!(message.contains("no table made"), "{message}");
    assert!(
        !store
            .read(|tx| tx.exists("SELECT 1 FROM sqlite_schema WHERE name = 'else_where'", []))
            .unwrap()
    );
}

/// A job that has created its table and written nothing is begun, whatever follows.
#[test]
fn job_that_has_only_created_its_table_goes_on() {
    let store = Store::open_temp().unwrap();
    let load = |file: &str| {
        let csv = store.bulk().resumable("load").csv(file.as_bytes()).into("made");
        csv.create_table(CREATE).run()
    };
    assert_eq!(load("n,text\n").unwrap().rows, 0);
    assert!(load("n,text\nbad,a\n").is_err());
    assert_eq!(load("n,text\n1,a\n").unwrap().rows, 1);
    assert_eq!(store.bulk().forget("load").unwrap(), Some(1));
    let (_, message) = refusal(load("n,text\n1,a\n"));
    assert!(message.contains("there is a table made already"), "{message}");
}

/// A job is noted with its statement, so its name does not stand for what it has done to another table.
#[test]
fn one_name_is_of_one_table() {
    let store = Store::open_temp().unwrap();
    let create = |table: &str| format!("CREATE TABLE {table}(n INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT");
    let load = |table: &str, file: &str| {
        let csv = store.bulk().resumable("load").csv(file.as_bytes()).into(table);
        csv.create_table(create(table)).run()
    };
    let exists = |table: &str| store.read(|tx| tx.exists("SELECT 1 FROM sqlite_schema WHERE name = ?1", [table]));
    // Begun in one table, and without rows: neither that nor a table of the same definition makes the other one its own.
    assert_eq!(load("a", "n,text\n").unwrap().rows, 0);
    let made = create("b");
    store.write(move |tx| tx.execute_batch(&made)).unwrap();
    let (_, message) = refusal(load("b", "n,text\n1,a\n"));
    assert!(message.contains("there is a table b already"), "{message}");
    store.write(|tx| tx.execute_batch("DROP TABLE b")).unwrap();
    assert_eq!(load("a", "n,text\n1,a\n2,b\n").unwrap().rows, 2);
    // With rows in one table, the job is no other's, whether that is there or not.
    for is_there in [false, true] {
        if is_there {
            let made = create("b");
            store.write(move |tx| tx.execute_batch(&made)).unwrap();
        }
        let error = load("b", "n,text\n1,a\n").unwrap_err();
        assert!(matches!(error, Error::Options { .. }), "{error}");
        assert!(error.to_string().contains("2 rows with another statement"), "{error}");
        assert_eq!(exists("b").unwrap(), is_there);
    }
    let report = load("a", "n,text\n1,a\n2,b\n3,c\n").unwrap();
    assert_eq!((report.resumed_from, report.rows), (2, 1));
    // A load into the second table begins the job, if it has no rows.
    store.bulk().forget("load").unwrap();
    store
        .write(|tx| tx.execute_batch("DROP TABLE a; DROP TABLE b"))
        .unwrap();
    assert_eq!(load("a", "n,text\n").unwrap().rows, 0);
    assert_eq!(load("b", "n,text\n1,a\n").unwrap().rows, 1);
    assert!(load("a", "n,text\n1,a\n").is_err());
}

/// A table that no later run would know again is not created.
#[test]
fn resumable_job_creates_one_table_alone() {
    let store = Store::open_temp().unwrap();
    let load = |create: &str, file: &str| {
        let csv = store.bulk().resumable("load").csv(file.as_bytes()).into("made");
        csv.create_table(create).run()
    };
    for create in [
        "CREATE TABLE made(n INTEGER, text TEXT); CREATE INDEX made_by_n ON made(n)",
        "CREATE TABLE made AS SELECT 1 AS n, 'a' AS text",
        "CREATE TABLE made(n INTEGER, text TEXT); INSERT INTO made VALUES (9, 'z')",
    ] {
        let (_, message) = refusal(load(create, "n,text\n1,a\n"));
        assert!(
            message.contains("takes one CREATE TABLE with its columns"),
            "{create}: {message}"
        );
        let is_there = "SELECT 1 FROM sqlite_schema WHERE name = 'made'";
        assert!(!store.read(|tx| tx.exists(is_there, [])).unwrap(), "{create}");
    }
    let create = "CREATE TABLE \"main\".\"made\"(n INTEGER PRIMARY KEY, text TEXT); ;";
    assert_eq!(load(create, "n,text\n1,a\n").unwrap().rows, 1);
    let report = load(create, "n,text\n1,a\n2,b\n").unwrap();
    assert_eq!((report.resumed_from, report.rows), (1, 1));
}

#[test]
fn table_is_created_in_the_transaction_of_its_load() {
    let store = Store::open_temp().unwrap();
    let file = "n,text\n1,a\n2,b\n";
    let csv = || store.bulk().csv(file.as_bytes()).into("made").create_table(CREATE);
    let first = csv();
    let failed: larder::Result<()> = store.write(move |tx| {
        first.run_in(tx)?;
        tx.execute("INSERT INTO nothing VALUES (1)", []).map(drop)
    });
    assert!(failed.is_err());
    let second = csv();
    assert_eq!(store.write(move |tx| second.run_in(tx)).unwrap().rows, 2);
    let third = csv();
    let (_, message) = refusal(store.write(move |tx| third.run_in(tx)));
    assert!(message.contains("there is a table made already"), "{message}");
}

#[test]
fn file_with_a_header_alone_has_no_rows() {
    let store = store();
    for file in ["id,text", "id,text\n", "id,text\r\n\r\n"] {
        let report = csv(&store, file).run().unwrap();
        assert_eq!((report.rows, report.slices), (0, 0));
    }
}

#[test]
fn bad_line_fails_with_its_number_and_keeps_those_before() {
    let store = store();
    let mut file = String::from("id,text\n");
    for id in 1..=5000 {
        // Each row takes two lines.
        file.push_str(&format!("{id},\"a\nb\"\n"));
    }
    file.push_str("5001,a,b\n5002,c\n");
    let error = csv(&store, &file).run().unwrap_err();
    assert_eq!(
        error.to_string(),
        "the bulk job stopped at line 10002 (row 5001 of its source) with 5000 rows committed: the number of its fields is \
         3, and that of the header 2"
    );
    assert_eq!(
        (error.outcome(), error.kind(), error.is_retryable()),
        (Outcome::Partial, "csv", false)
    );
    assert_eq!(count(&store), 5000);
}

#[test]
fn bad_lines_are_skipped_and_named() {
    let store = store();
    let file = b"id,text,n\n1,a,1\n2,b\n3,c,x\n4,\xe9t\xe9,1\n1,again,1\n5,\"e\n\n6,f,1\n";
    let report = store
        .bulk()
        .on_violation(OnViolation::Skip)
        .csv(&file[..])
        .into("t")
        .on_bad_line(OnViolation::Skip)
        .run()
        .unwrap();
    assert_eq!((report.rows, report.skipped, report.bad_lines), (6, 5, 4));
    let named: Vec<(u64, Option<u64>, &str)> = report
        .violations
        .iter()
        .map(|violation| (violation.row, violation.line, &*violation.error))
        .collect();
    let [ragged, typed, latin_1, twice, open] = named[..] else {
        panic!("{named:?}")
    };
    assert_eq!(
        ragged,
        (2, Some(3), "the number of its fields is 2, and that of the header 3")
    );
    assert_eq!(typed, (3, Some(4), "column n: \"x\" is no REAL"));
    assert!(
        (latin_1.0, latin_1.1) == (4, Some(5)) && latin_1.2.contains("UTF-8"),
        "{latin_1:?}"
    );
    assert!(
        (twice.0, twice.1) == (5, Some(6)) && twice.2.contains("UNIQUE"),
        "{twice:?}"
    );
    assert!(
        (open.0, open.1) == (6, Some(7)) && open.2.contains("not closed"),
        "{open:?}"
    );
    assert_eq!(rows(&store), ["1 'a' 1.0 NULL"]);
    assert!(report.to_string().contains("5 skipped (4 bad lines)"), "{report}");
    // The first hundred are named, and all are counted.
    let bad = "id\n".to_owned() + &"x\n".repeat(3000);
    let report = csv(&store, &bad).on_bad_line(OnViolation::Skip).run().unwrap();
    assert_eq!((report.bad_lines, report.violations.len()), (3000, 100));
    assert_eq!(report.violations[99].line, Some(101));
}

/// Bytes in small pieces, as of a pipe.
struct Pieces<'a>(&'a [u8], usize);

impl Read for Pieces<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.0.len() % 3 == 1 {
            self.1 += 1;
            if self.1 % 2 == 1 {
                return Err(io::ErrorKind::Interrupted.into());
            }
        }
        let piece = self.0.len().min(to.len()).min(self.1 % 5 + 1);
        to[..piece].copy_from_slice(&self.0[..piece]);
        self.0 = &self.0[piece..];
        self.1 += 1;
        Ok(piece)
    }
}

/// Whatever ends the lines, and wherever the reader's pieces end.
#[test]
fn lines_are_numbered_as_editors_do() {
    let store = store();
    for end in ["\n", "\r\n"] {
        let lines = ["id,text", "1,a", "", "2,\"x", "", "y\"", "", "bad,b", ""];
        for with_last in [true, false] {
            let mut file = lines.join(end);
            file.truncate(file.len() - if with_last { 0 } else { end.len() });
            let skip = || csv(&store, &file).upsert();
            assert_eq!(line_of(skip().run()), 8, "{file:?}");
            let pieces = store.bulk().csv(Pieces(file.as_bytes(), 0)).into("t").upsert();
            assert_eq!(line_of(pieces.run()), 8, "{file:?}");
            let twice = file.replace("bad", "1");
            let (line, message) = refusal(csv(&store, &twice).run());
            assert!(line == Some(2) && message.contains("UNIQUE"), "{line:?} {message}");
        }
    }
    // A large file, whose lines end anywhere in the reader's buffers.
    let mut file = String::from("id,text\r\n");
    for id in 10..20_000 {
        file.push_str(&format!("{id},\"{}\r\n\"\r\n", "x".repeat(id % 97)));
    }
    file.push_str("bad,b\r\n");
    assert_eq!(line_of(csv(&store, &file).run()), 2 + 2 * 19_990);
}

#[test]
fn large_fields_and_nuls_are_kept() {
    let store = store();
    let long = "é\"\n,".repeat(200_000);
    let file = format!("id,text\n1,\"{}\"\n2,a\0b\n", long.replace('"', "\"\""));
    csv(&store, &file).run().unwrap();
    let read: String = store
        .read(|tx| tx.scalar("SELECT text FROM t WHERE id = 1", []))
        .unwrap();
    assert!(read == long);
    let nul: Value = store
        .read(|tx| tx.scalar("SELECT text FROM t WHERE id = 2", []))
        .unwrap();
    assert_eq!(nul, Value::Text("a\0b".into()));
}

#[test]
fn line_that_is_too_long_fails_the_job_after_those_before() {
    let store = store();
    let file = format!("id,text\n1,a\n2,\"{}\n3,b\n", "x\n".repeat(1 << 20));
    let (line, message) = refusal(
        csv(&store, &file)
            .max_line(1 << 16)
            .on_bad_line(OnViolation::Skip)
            .run(),
    );
    assert!(line.is_none() && message.contains("BulkCsv::max_line"), "{message}");
    assert_eq!(rows(&store), ["1 'a' NULL NULL"]);
}

#[test]
fn error_of_the_reader_keeps_the_lines_before() {
    let store = store();
    let broken = "id,text\n1,a\n2,b\n".as_bytes().chain(Broken);
    let (line, message) = refusal(store.bulk().csv(broken).into("t").run());
    assert!(line.is_none() && message.contains("the cable"), "{message}");
    assert_eq!(count(&store), 2);
}

struct Broken;

impl Read for Broken {
    fn read(&mut self, _to: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("the cable is cut"))
    }
}

#[test]
fn upsert_keeps_child_rows_and_other_columns() {
    let store = with(
        "CREATE TABLE t(code TEXT PRIMARY KEY, name TEXT, seen INTEGER NOT NULL DEFAULT 0) STRICT;
         CREATE TABLE child(code TEXT REFERENCES t(code) ON DELETE CASCADE) STRICT;
         INSERT INTO t VALUES ('EWR', 'old', 7);
         INSERT INTO child VALUES ('EWR')",
    );
    let report = csv(&store, "code,name\nEWR,Newark\nLGA,La Guardia\nEWR,Newark Liberty\n")
        .upsert()
        .run()
        .unwrap();
    assert_eq!(report.rows, 3);
    assert_eq!(rows(&store), ["'EWR' 'Newark Liberty' 7", "'LGA' 'La Guardia' 0"]);
    let children: i64 = store.read(|tx| tx.scalar("SELECT count(*) FROM child", [])).unwrap();
    assert_eq!(children, 1);
    let (_, message) = refusal(csv(&store, "name\nx\n").upsert().run());
    assert!(message.contains("no field is for code"), "{message}");
    let keyless = with("CREATE TABLE t(a TEXT) STRICT");
    let (_, message) = refusal(csv(&keyless, "a\nx\n").upsert().run());
    assert!(message.contains("no primary key"), "{message}");
    csv(&with("CREATE TABLE t(a TEXT PRIMARY KEY) STRICT"), "a\nx\nx\n")
        .upsert()
        .run()
        .unwrap();
}

/// The clause of the table would delete the other row.
#[test]
fn conflict_clause_of_the_table_is_overruled() {
    let store = with(
        "CREATE TABLE t(id INTEGER PRIMARY KEY ON CONFLICT REPLACE, text TEXT) STRICT; INSERT INTO t VALUES (1, 'kept')",
    );
    assert_eq!(line_of(csv(&store, "id,text\n1,lost\n").run()), 2);
    assert_eq!(rows(&store), ["1 'kept'"]);
}

#[test]
fn resumed_file_goes_on_behind_its_lines() {
    let store = store();
    let file = "id,text\n1,a\nbad,b\n3,c\n";
    let load = |file: &'static str| {
        store
            .bulk()
            .resumable("load")
            .csv(file.as_bytes())
            .into("t")
            .on_bad_line(OnViolation::Skip)
            .run()
    };
    let report = load(file).unwrap();
    assert_eq!((report.rows, report.bad_lines), (3, 1));
    let report = load(file).unwrap();
    assert_eq!((report.resumed_from, report.rows, report.bad_lines), (3, 0, 0));
    let report = load("id,text\n1,a\nbad,b\n3,c\nbad,d\n5,e\n").unwrap();
    assert_eq!((report.resumed_from, report.rows, report.bad_lines), (3, 2, 1));
    assert_eq!(report.violations[0].line, Some(5));
    let error = load("id,text\n1,a\n").unwrap_err();
    assert!(error.to_string().contains("another file"), "{error}");
    assert_eq!(rows(&store), ["1 'a' NULL NULL", "3 'c' NULL NULL", "5 'e' NULL NULL"]);
}

#[test]
fn killed_load_goes_on_and_writes_each_line_once() {
    const TOTAL: i64 = 60_000;
    let folder = tempfile::tempdir().unwrap();
    let (path, file) = (folder.path().join("app.db"), folder.path().join("rows.csv"));
    let mut text = String::from("id,text\n");
    for id in 0..TOTAL {
        text.push_str(&format!("{id},\"line\n{id}\"\n"));
        if id % 10 == 0 {
            text.push_str("bad\n");
        }
    }
    fs::write(&file, text).unwrap();
    let start = || {
        let args = [path.to_str().unwrap(), file.to_str().unwrap()];
        let child = Child::start("bulk::csv", "load", &args);
        child.expect("open");
        child
    };
    let written = |path: &Path| {
        let conn = Connection::open(path).unwrap();
        conn.query_row("SELECT count(*), coalesce(sum(id), 0) FROM t", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
        })
        .unwrap()
    };
    for at in [1, 10_000, 30_000] {
        let child = start();
        let began = Instant::now();
        while written(&path).0 < at && began.elapsed() < PATIENCE {
            thread::yield_now();
        }
        child.kill();
        let (rows, sum) = written(&path);
        assert_eq!(sum, (0..rows).sum::<i64>(), "at {at}");
    }
    let child = start();
    child.expect(&format!("done {}", TOTAL + TOTAL / 10));
    child.finish();
    assert_eq!(written(&path), (TOTAL, (0..TOTAL).sum()));
}

#[test]
fn files_of_other_kinds_are_named() {
    let store = store();
    for (file, named) in [
        (&b"\x1f\x8b\x08\0\0\0\0\0\0\x03"[..], "gunzip -c"),
        (b"\x28\xb5\x2f\xfd\x04\0", "zstd -dc"),
        (b"\xfd7zXZ\0\0\x04", "xz -dc"),
        (b"BZh91AY&SY\x01\x02", "bunzip2 -c"),
        (b"PK\x03\x04\x14\0\x06\0", "workbook"),
        (b"\xff\xfei\0d\0\n\0", "UTF-16"),
        (b"i\0d\0\n\x001\0\n\0", "NUL byte"),
        (b"SQLite format 3\0\x10\0\x01\x01", "copy_from"),
    ] {
        let (line, message) = refusal(csv(&store, file).run());
        assert!(line.is_none() && message.contains(named), "{named}: {message}");
    }
    // It is no archive that begins so.
    let (_, message) = refusal(csv(&store, "BZh\n1\n").run());
    assert!(message.contains("no column \"BZh\""), "{message}");
    assert_eq!(count(&store), 0);
}

#[test]
fn load_in_a_transaction_is_all_or_nothing() {
    let store = store();
    let report = store
        .write({
            let first = csv(&store, "id,text\n1,a\n2,b\n");
            let second = csv(&store, "id,text\n3,c\n");
            move |tx| {
                tx.execute("INSERT INTO t(id) VALUES (0)", [])?;
                let mut report = first.run_in(tx)?;
                report.rows += second.run_in(tx)?.rows;
                Ok(report)
            }
        })
        .unwrap();
    assert_eq!((report.rows, report.changed, report.slices), (3, 2, 1));
    assert_eq!(count(&store), 4);

    let bad = csv(&store, "id,text\n4,d\n5,e,f\n6,g\n");
    let error = store.write(move |tx| bad.run_in(tx)).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Bulk {
                rows: 0,
                line: Some(3),
                ..
            }
        ),
        "{error}"
    );
    let twice = csv(&store, "id,text\n7,d\n1,e\n");
    let error = store.write(move |tx| twice.run_in(tx)).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Bulk {
                row: Some(2),
                line: Some(3),
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(count(&store), 4);

    // What is skipped is told, and the rest is there.
    let skipping = store
        .bulk()
        .on_violation(OnViolation::Skip)
        .csv(&b"id,text\n1,there\n8,h\n9,i,j\n"[..])
        .into("t")
        .on_bad_line(OnViolation::Skip);
    let report = store.write(move |tx| skipping.run_in(tx)).unwrap();
    let lines: Vec<_> = report.violations.iter().map(|violation| violation.line).collect();
    assert_eq!((report.rows, report.skipped, report.bad_lines), (3, 2, 1));
    assert_eq!(lines, [Some(2), Some(4)]);
    assert_eq!(count(&store), 5);

    let named = store.bulk().resumable("x").csv(&b"id\n20\n"[..]).into("t");
    let error = store.write(move |tx| named.run_in(tx)).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Options {
                option: "Bulk::resumable",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn table_of_the_same_transaction_is_loaded() {
    let store = Store::open_temp().unwrap();
    let file = "faa,lat,alt,zip,big\n04G,41.13,1044,01234,9007199254740993\n06A,32,NA,99999,0.5\nshort\n";
    let mut types = store.bulk().csv(file.as_bytes()).nulls(["NA"]).infer().unwrap();
    let kinds: Vec<_> = types
        .iter()
        .map(|(name, kind)| format!("{name} {}", kind.name()))
        .collect();
    assert_eq!(kinds, ["faa TEXT", "lat REAL", "alt INTEGER", "zip TEXT", "big TEXT"]);
    types.merge(store.bulk().csv("alt\n0.5\n".as_bytes()).infer().unwrap());
    assert_eq!(types.get("alt"), Some(CsvType::Real));
    let create = types.create_table("select \"x\"");
    let csv = store
        .bulk()
        .csv(file.as_bytes())
        .nulls(["NA"])
        .into("select \"x\"")
        .on_bad_line(OnViolation::Skip);
    let report = store
        .write(move |tx| {
            tx.execute_batch(&create)?;
            csv.run_in(tx)
        })
        .unwrap();
    assert_eq!((report.rows, report.bad_lines), (3, 1));
    let sum: f64 = store
        .read(|tx| tx.scalar("SELECT sum(lat) FROM \"select \"\"x\"\"\"", []))
        .unwrap();
    assert_eq!(sum, 73.13);
}

#[test]
fn header_is_read_before_the_run() {
    let store = store();
    let mut csv = csv(&store, "Nr;x;text\n1;2;a\n")
        .delimiter(b';')
        .rename("Nr", "id")
        .ignore(["x"]);
    assert_eq!(csv.header().unwrap(), ["id", "text"]);
    assert_eq!(csv.header().unwrap(), ["id", "text"]);
    csv.run().unwrap();
    assert_eq!(rows(&store), ["1 'a' NULL NULL"]);
    let mut empty = store.bulk().csv(&b""[..]).into("t");
    assert!(empty.header().is_err());
    let (_, message) = refusal(empty.run());
    assert!(message.contains("was not read"), "{message}");
}

#[test]
fn existing_rows_are_kept_and_counted() {
    let store = store();
    csv(&store, "id,text\n1,old\n").run().unwrap();
    let report = csv(&store, "id,text\n1,new\n2,new\n").keep_existing().run().unwrap();
    assert_eq!(
        (report.rows, report.changed, report.unchanged, report.skipped),
        (2, 1, 1, 0)
    );
    assert!(report.to_string().contains(", 1 unchanged"), "{report}");
    assert_eq!(rows(&store), ["1 'old' NULL NULL", "2 'new' NULL NULL"]);
}

#[test]
fn line_after_the_last_that_may_be_skipped_fails_the_job() {
    let store = store();
    let file: String = (0..1000)
        .map(|n| if n % 3 == 0 { "x\n".to_owned() } else { format!("{n}\n") })
        .collect();
    let file = format!("id\n{file}");
    let load = |most: u64| {
        let named: Arc<Mutex<Vec<Violation>>> = Arc::default();
        let told: Arc<Mutex<(u64, u64)>> = Arc::default();
        let (names, last) = (Arc::clone(&named), Arc::clone(&told));
        let bulk = store
            .bulk()
            .max_skipped(most)
            .on_skip(move |violation| names.lock().unwrap().push(violation.clone()))
            .progress(move |now| {
                *last.lock().unwrap() = (now.rows, now.skipped);
                ControlFlow::Continue(())
            });
        let result = bulk
            .csv(file.as_bytes())
            .into("t")
            .on_bad_line(OnViolation::Skip)
            .keep_existing()
            .run();
        let named = named.lock().unwrap().clone();
        let told = *told.lock().unwrap();
        (result, named, told)
    };
    // The 201st of them is in line 602.
    let (result, named, told) = load(200);
    let error = result.unwrap_err();
    assert!(
        matches!(
            error,
            Error::Bulk {
                rows: 600,
                line: Some(602),
                ..
            }
        ),
        "{error}"
    );
    assert_eq!((named.len(), named[199].line, named[199].row), (200, Some(599), 598));
    assert_eq!(told, (600, 200));
    assert_eq!(count(&store), 400);
    let (result, named, told) = load(334);
    let report = result.unwrap();
    assert_eq!((report.rows, report.bad_lines, report.unchanged), (1000, 334, 400));
    assert_eq!((named.len(), report.violations.len(), told), (334, 100, (1000, 334)));
    assert_eq!(count(&store), 666);
}

/// Another process, here another connection, writes in the pauses, although it tries again only now and then.
#[test]
fn pause_lets_other_connections_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let store = Store::open(&path).unwrap();
    store.write(|tx| tx.execute_batch(TABLE)).unwrap();
    let (over, written) = (AtomicBool::new(false), AtomicI64::new(0));
    let is_running = Arc::new(AtomicBool::new(false));
    let within = thread::scope(|scope| {
        let raised = RaiseOnDrop(&over);
        scope.spawn(|| {
            let conn = Connection::open(&path).unwrap();
            conn.busy_timeout(PATIENCE).unwrap();
            while !over.load(Relaxed) {
                let rows = conn.execute("INSERT INTO t(text) VALUES ('other')", []).unwrap();
                written.fetch_add(rows as i64, Relaxed);
                // As a service: it does not hold the lock all the time.
                thread::sleep(Duration::from_millis(1));
            }
        });
        let pause = Duration::from_millis(10);
        // The thread above may begin late. Its writes count from the first slice to the last line.
        let (began, mut lines) = (Instant::now(), 0);
        let (mut before, mut within) = (None, 0);
        let goes_on = |n: &u64| {
            if is_running.load(Relaxed) {
                let now = written.load(Relaxed);
                within = now - *before.get_or_insert(now);
            }
            *n < 100_000 || within == 0 && began.elapsed() < PATIENCE
        };
        let rows = (0..).take_while(goes_on).inspect(|_| lines += 1);
        let file = Lines {
            lines: std::iter::once("id,text\n".to_owned()).chain(rows.map(|n| format!("{n},text\n"))),
            line: io::Cursor::default(),
        };
        let runs = Arc::clone(&is_running);
        let bulk = store.bulk().pause(pause).progress(move |progress| {
            runs.store(progress.rows > 0, Relaxed);
            ControlFlow::Continue(())
        });
        let report = bulk.csv(file).into("t").keep_existing().run().unwrap();
        assert_eq!(report.rows, lines);
        assert!(report.slices > 1);
        let pauses = pause * (report.slices - 1) as u32;
        assert!(report.duration >= pauses, "{report:?}");
        drop(raised);
        within
    });
    assert!(within > 0, "it wrote before the job or after it");
    let others: i64 = store
        .read(|tx| tx.scalar("SELECT count(*) FROM t WHERE text = 'other'", []))
        .unwrap();
    assert_eq!(others, written.into_inner());
}

/// A file that is made line by line.
struct Lines<I> {
    lines: I,
    line: io::Cursor<String>,
}

impl<I: Iterator<Item = String>> Read for Lines<I> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.line.position() as usize == self.line.get_ref().len() {
            self.line = io::Cursor::new(self.lines.next().unwrap_or_default());
        }
        self.line.read(to)
    }
}

/// No byte behind the first line is waited for.
#[test]
fn header_of_a_source_that_waits_is_read() {
    let store = store();
    for first in ["id\n", "\u{feff}id\n", "BZ,id\n"] {
        let waits = WaitsAfter(first.as_bytes());
        let mut csv = store.bulk().csv(waits).into("t");
        assert!(csv.header().unwrap().contains(&"id".to_owned()), "{first}");
    }
}

/// Fails where a pipe would block.
struct WaitsAfter<'a>(&'a [u8]);

impl Read for WaitsAfter<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        match self.0.is_empty() {
            true => Err(io::Error::other("it would block")),
            false => self.0.read(to),
        }
    }
}
