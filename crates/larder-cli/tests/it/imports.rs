//! `import`.

use std::io::{ErrorKind, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{PATIENCE, Place, Run};

/// Runs the binary with this text on its stdin.
fn piped(place: &Place, line: &str, text: &str) -> Run {
    let mut child = place
        .command()
        .args(line.split_whitespace())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    Run::of(child.wait_with_output().unwrap())
}

fn rows(place: &Place, sql: &str) -> Value {
    place.run(&["sql", "app.db", sql, "--json"]).assert_code(0).json()["rows"].clone()
}

#[test]
fn values_get_the_types_of_the_table() {
    let place = Place::with_database();
    // A byte order mark, another order and case, quotes, CR LF, a field of two lines, no end of the last line.
    let text = "\u{feff}Price,NAME,owner,id\r\n1.5,\"a \"\"b\"\", c\",1,201\r\n2,\"two\nlines\",2,202\r\n,,3,203";
    place.write("item.csv", text);
    let run = place.say("import app.db item.csv").assert_code(0);
    assert_eq!(run.out, "item.csv -> item: 3 lines, 0 bad\n3 rows imported\n");
    assert_eq!(run.err, "");
    let found = rows(
        &place,
        "SELECT id, owner, name, price, typeof(price) FROM item WHERE id > 200 ORDER BY id",
    );
    let wanted = r#"[[201,1,"a \"b\", c",1.5,"real"],[202,2,"two\nlines",2.0,"real"],[203,3,null,null,"null"]]"#;
    assert_eq!(found.to_string(), wanted);
}

#[test]
fn bad_lines_are_counted_and_named_and_nothing_is_imported() {
    let place = Place::with_database();
    let text =
        "id,owner,name,price\n201,1,a,1\nx,1,b,1\n203,1,c\n204,1,d,1,2\n205,77,e,1\n1,1,f,1\n207,1,g,much\n208,,h,1\n";
    place.write("item.csv", text);
    let run = place.say("import app.db item.csv").assert_code(1);
    for part in [
        "item.csv:3: column id: \"x\" is no INTEGER",
        "item.csv:4: the number of its fields is 3, and that of the header 4",
        "item.csv:5: the number of its fields is 5",
        "item.csv:6: FOREIGN KEY constraint failed",
        "item.csv:7: UNIQUE constraint failed: item.id",
        "item.csv:8: column price: \"much\" is no REAL",
        "item.csv:9: NOT NULL constraint failed: item.owner",
    ] {
        assert!(run.err.contains(part), "{part}: {run:?}");
    }
    assert!(
        run.out
            .contains("nothing was imported: 7 bad lines, and --max-bad allows 0"),
        "{run:?}"
    );
    let imported = place.json("import app.db item.csv", 1);
    assert_eq!(
        (&imported["ok"], &imported["rows"], &imported["bad"]),
        (&false.into(), &0.into(), &7.into())
    );
    let file = &imported["files"][0];
    assert_eq!((&file["lines"], &file["rows"]), (&8.into(), &0.into()));
    let lines: Vec<_> = file["bad_lines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|bad| bad["line"].as_u64().unwrap())
        .collect();
    assert_eq!(lines, [3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(place.count("app.db", "SELECT count(*) FROM item"), 100);

    place.say("import app.db item.csv --max-bad 6").assert_code(1);
    assert_eq!(place.count("app.db", "SELECT count(*) FROM item"), 100);
    let imported = place.json("import app.db item.csv --max-bad 7", 0);
    assert_eq!(
        (&imported["ok"], &imported["rows"], &imported["bad"]),
        (&true.into(), &1.into(), &7.into())
    );
    assert_eq!(place.count("app.db", "SELECT count(*) FROM item"), 101);
}

/// It would take all lines after it into one field.
#[test]
fn quote_that_is_not_closed_is_a_bad_line() {
    let place = Place::with_database();
    for end in [
        "8,\"Bo\n9,Cy\n",
        "8,\"Bo\n9,Cy",
        "8,\"",
        "8,\"\n",
        "8,\"Bo \"\"\r\n\r\n",
        "8,\"Bo\r",
    ] {
        place.write("owner.csv", format!("id,name\n7,Eve\n{end}"));
        let run = place.say("import app.db owner.csv").assert_code(1);
        let said = "owner.csv:3: a quote of this line is not closed until the end of the file";
        assert!(run.err.contains(said), "{end:?}: {run:?}");
        assert!(
            run.out.starts_with("owner.csv -> owner: 2 lines, 1 bad\n"),
            "{end:?}: {run:?}"
        );
    }
    assert_eq!(place.count("app.db", "SELECT count(*) FROM owner"), 3);
    // These are closed, or are no quotes.
    let ends = [
        "10,\"Bo\"",
        "11,\"Bo\n\n\"\n\n\n",
        "12,\"Bo\"\r\n",
        "13,5\"",
        "15,\"Bo\n\"\r",
        "16,x\r\n\r\n",
    ];
    for end in ends {
        place.write("owner.csv", format!("id,name\n{end}"));
        let run = place.say("import app.db owner.csv").assert_code(0);
        assert!(
            run.out.starts_with("owner.csv -> owner: 1 lines, 0 bad\n"),
            "{end:?}: {run:?}"
        );
    }
    let found = rows(&place, "SELECT name FROM owner WHERE id > 9 ORDER BY id");
    let wanted = r#"[["Bo"],["Bo\n\n"],["Bo"],["5\""],["Bo\n"],["x"]]"#;
    assert_eq!(found.to_string(), wanted);
    for text in ["id,\"name\n7,Eve\n", "\"id", "\""] {
        place.write("owner.csv", text);
        let run = place.say("import app.db owner.csv");
        run.assert_fails(3, &["the header has a quote that is not closed"]);
    }
    for text in ["", "\n", "\r\n\n"] {
        place.write("owner.csv", text);
        place
            .say("import app.db owner.csv")
            .assert_fails(3, &["owner.csv: the file is empty"]);
    }
}

#[test]
fn text_that_is_no_utf8_is_a_bad_line() {
    let place = Place::with_database();
    place.write("owner.csv", b"id,name\n8,caf\xe9\n9,ok\n");
    let run = place.say("import app.db owner.csv").assert_code(1);
    assert!(
        run.err.contains("owner.csv:2: column name: the text is not in UTF-8"),
        "{run:?}"
    );
    place.write("owner.csv", b"id,n\xe4me\n8,x\n");
    place
        .say("import app.db owner.csv")
        .assert_fails(3, &["the header is not in UTF-8"]);
}

#[test]
fn many_bad_lines_are_summed_up() {
    let place = Place::with_database();
    let lines: String = (0..500).map(|n| format!("x{n},name\n")).collect();
    place.write("owner.csv", format!("id,name\n{lines}"));
    let run = place.say("import app.db owner.csv").assert_code(1);
    assert_eq!(run.err.lines().count(), 21, "{run:?}");
    assert!(run.err.contains("owner.csv: and 480 more bad lines"), "{run:?}");
    let imported = place.json("import app.db owner.csv", 1);
    assert_eq!(imported["bad"], 500);
    assert_eq!(imported["files"][0]["bad_lines"].as_array().unwrap().len(), 100);
}

#[test]
fn one_bad_file_keeps_all_from_being_imported() {
    let place = Place::with_database();
    place.write("owner.csv", "id,name\n7,Eve\n");
    place.write("item.csv", "id,owner\n300,7\n301,8\n");
    place.say("import app.db owner.csv item.csv").assert_code(1);
    assert_eq!(place.count("app.db", "SELECT count(*) FROM owner"), 3);
    place
        .say("import app.db owner.csv missing.csv")
        .assert_fails(3, &["missing.csv cannot be read"]);
    assert_eq!(place.count("app.db", "SELECT count(*) FROM owner"), 3);
    place.write("item.csv", "id,owner\n300,7\n");
    let run = place.say("import app.db owner.csv item.csv").assert_code(0);
    assert!(run.out.ends_with("2 rows imported\n"), "{run:?}");
}

#[test]
fn header_is_mapped_to_columns() {
    let place = Place::with_database();
    place.write("people.csv", "Nr;Full name;born\n8;Dee;1990\n");
    let base = "import app.db people.csv --table owner --delimiter ;";
    place.say(base).assert_fails(
        3,
        &[
            "has no column \"Nr\"",
            "it has id, name",
            "--map NAME=COLUMN or --skip NAME",
        ],
    );
    let args = ["import", "app.db", "people.csv", "--table", "owner", "--delimiter", ";"];
    let mapped = ["--map", "Nr=id,Full name=name", "--skip", "born"];
    place.run(&[&args[..], &mapped].concat()).assert_code(0);
    assert_eq!(
        rows(&place, "SELECT name FROM owner WHERE id = 8").to_string(),
        r#"[["Dee"]]"#
    );
    place
        .run(&[&args[..], &["--skip", "nothing"]].concat())
        .assert_fails(3, &["there is no field \"nothing\"; the fields are Nr"]);
    place
        .run(&[&args[..], &["--map", "Nr=id,Full name=ID", "--skip", "born"]].concat())
        .assert_fails(3, &["two fields are for the column id"]);
    place.write("people.csv", "9;Eve\n");
    place
        .run(&[&args[..], &["--header", "id,name"]].concat())
        .assert_code(0);
    assert_eq!(place.count("app.db", "SELECT count(*) FROM owner"), 5);
}

#[test]
fn wrong_files_and_tables_are_explained() {
    let place = Place::with_database();
    place.execute(
        "app.db",
        "CREATE VIEW seen AS SELECT id FROM item; CREATE TABLE made(a INTEGER, b INTEGER AS (a + 1)) STRICT",
    );
    for (name, text, parts) in [
        ("owner.csv", "", &["owner.csv: the file is empty"][..]),
        ("owner.csv", "id,id\n1,2\n", &["the header has \"id\" twice"]),
        (
            "owner.csv",
            "<html><body>Not found</body></html>\n",
            &["has no column", "--map"],
        ),
        (
            "nothing.csv",
            "id\n1\n",
            &["there is no table nothing", "--create-table"],
        ),
        ("seen.csv", "id\n1\n", &["seen is a view"]),
        ("made.csv", "a,b\n1,2\n", &["the column b of made is generated"]),
    ] {
        place.write(name, text);
        place.say(&format!("import app.db {name}")).assert_fails(3, parts);
    }
    place.write("folder/owner.csv", "");
    place
        .say("import app.db folder --table owner")
        .assert_fails(3, &["folder is a folder"]);
    place.write("owner.csv", "id,name\n");
    place.say("import app.db owner.csv").assert_code(0);
}

#[test]
fn null_is_the_empty_field_or_what_is_given() {
    let place = Place::with_database();
    place.execute("app.db", "CREATE TABLE t(a TEXT, b INTEGER) STRICT");
    place.write("t.csv", "a,b\n,NA\n-,1\nNA,2\n");
    let run = place.say("import app.db t.csv --null NA --null -").assert_code(0);
    assert_eq!(run.err, "");
    let found = rows(&place, "SELECT a, b FROM t ORDER BY rowid");
    assert_eq!(found.to_string(), r#"[["",null],[null,1],[null,2]]"#);
    place.say("import app.db t.csv").assert_code(1);
}

#[test]
fn conflicts_fail_are_skipped_or_replace() {
    let place = Place::with_database();
    let text = "id,name\n1,New\n9,Nine\n";
    place.write("owner.csv", text);
    place.say("import app.db owner.csv").assert_code(1);
    let skipped = place.json("import app.db owner.csv --on-conflict skip", 0);
    assert_eq!((&skipped["rows"], &skipped["skipped"]), (&1.into(), &1.into()));
    assert_eq!(
        rows(&place, "SELECT name FROM owner WHERE id = 1").to_string(),
        r#"[["Ada"]]"#
    );
    // Rows refer to this one, and would go with it.
    place
        .say("import app.db owner.csv --on-conflict replace")
        .assert_code(0);
    assert_eq!(
        rows(&place, "SELECT name FROM owner WHERE id = 1").to_string(),
        r#"[["New"]]"#
    );
    assert_eq!(place.count("app.db", "SELECT count(*) FROM item"), 100);
}

#[test]
fn conflict_clause_of_the_schema_is_overruled() {
    let place = Place::with_database();
    place.execute(
        "app.db",
        "CREATE TABLE t(id INTEGER PRIMARY KEY ON CONFLICT REPLACE, a TEXT NOT NULL ON CONFLICT IGNORE) STRICT;
         INSERT INTO t VALUES (1, 'old');
         CREATE TABLE seen(id INTEGER PRIMARY KEY) STRICT;
         INSERT INTO seen VALUES (9);
         CREATE TRIGGER owner_seen AFTER INSERT ON owner BEGIN INSERT OR IGNORE INTO seen VALUES (new.id); END",
    );
    place.write("t.csv", "id,a\n1,new\n2,\n3,three\n");
    let run = place.say("import app.db t.csv --max-bad 2").assert_code(0);
    for part in [
        "t.csv:2: UNIQUE constraint failed: t.id",
        "t.csv:3: NOT NULL constraint failed: t.a",
    ] {
        assert!(run.err.contains(part), "{part}: {run:?}");
    }
    let found = rows(&place, "SELECT id, a FROM t ORDER BY id");
    assert_eq!(found.to_string(), r#"[[1,"old"],[3,"three"]]"#);
    let skipped = place.json("import app.db t.csv --on-conflict skip --max-bad 1", 0);
    assert_eq!((&skipped["skipped"], &skipped["bad"]), (&2.into(), &1.into()));
    // That of a trigger holds, for a table without one.
    place.write("owner.csv", "id,name\n9,Nine\n");
    place.say("import app.db owner.csv").assert_code(0);
}

#[test]
fn replaced_row_is_updated_and_not_deleted() {
    let place = Place::with_database();
    place.execute(
        "app.db",
        "CREATE TABLE doc(
             part TEXT, id INTEGER, text TEXT, code TEXT UNIQUE, kept TEXT DEFAULT 'default', PRIMARY KEY (part, id)
         ) STRICT;
         INSERT INTO doc VALUES ('a', 1, 'old', 'x', 'mine'), ('a', 2, 'two', 'y', 'mine');
         CREATE TABLE child(id INTEGER PRIMARY KEY, part TEXT, doc INTEGER,
             FOREIGN KEY (part, doc) REFERENCES doc ON DELETE CASCADE) STRICT;
         INSERT INTO child VALUES (1, 'a', 1);
         CREATE VIRTUAL TABLE found USING fts5(text, content = 'doc');
         INSERT INTO found(found) VALUES ('rebuild');
         CREATE TRIGGER doc_insert AFTER INSERT ON doc BEGIN
             INSERT INTO found(rowid, text) VALUES (new.rowid, new.text);
         END;
         CREATE TRIGGER doc_delete AFTER DELETE ON doc BEGIN
             INSERT INTO found(found, rowid, text) VALUES ('delete', old.rowid, old.text);
         END;
         CREATE TRIGGER doc_update AFTER UPDATE ON doc BEGIN
             INSERT INTO found(found, rowid, text) VALUES ('delete', old.rowid, old.text);
             INSERT INTO found(rowid, text) VALUES (new.rowid, new.text);
         END;
         CREATE TABLE loose(a TEXT) STRICT",
    );
    place.write("doc.csv", "id,part,text,code\n1,a,new,x\n2,a,two,x\n3,a,three,z\n");
    let run = place
        .say("import app.db doc.csv --on-conflict replace --max-bad 1")
        .assert_code(0);
    assert!(
        run.err.contains("doc.csv:3: UNIQUE constraint failed: doc.code"),
        "{run:?}"
    );
    let found = rows(&place, "SELECT id, text, code, kept FROM doc ORDER BY id");
    let wanted = r#"[[1,"new","x","mine"],[2,"two","y","mine"],[3,"three","z","default"]]"#;
    assert_eq!(found.to_string(), wanted);
    assert_eq!(place.count("app.db", "SELECT count(*) FROM child"), 1);
    let matches = |word: &str| {
        let sql = format!("SELECT count(*) FROM found WHERE found MATCH '{word}'");
        place.count("app.db", &sql)
    };
    assert_eq!((matches("old"), matches("new")), (0, 1));

    // Only the key: there is nothing to update.
    place.write("doc.csv", "id,part\n1,a\n");
    let skipped = place.json("import app.db doc.csv --on-conflict replace", 0);
    assert_eq!((&skipped["rows"], &skipped["skipped"]), (&0.into(), &1.into()));
    place.write("doc.csv", "id,text\n1,newer\n");
    place.say("import app.db doc.csv --on-conflict replace").assert_fails(
        3,
        &["doc.csv: --on-conflict replace: no field is for part, a column of the primary key of doc"],
    );
    place.write("loose.csv", "a\n1\n");
    place
        .say("import app.db loose.csv --on-conflict replace")
        .assert_fails(3, &["the table loose has no primary key"]);
}

#[test]
fn table_is_created_with_declared_and_inferred_types() {
    let place = Place::with_database();
    place.write(
        "trip.csv",
        "id,zip,km,note,when\n1,01234,1,,2026-04-01\n2,99999,1.5,,2026-04-02\n",
    );
    let line = "import app.db trip.csv --create-table --infer --types when=any --primary-key id";
    let run = place.say(line).assert_code(0);
    assert!(
        run.out.starts_with("trip.csv -> trip, created: 2 lines, 0 bad\n"),
        "{run:?}"
    );
    let columns = rows(&place, "SELECT name, type, pk FROM pragma_table_info('trip')");
    let wanted = r#"[["id","INTEGER",1],["zip","TEXT",0],["km","REAL",0],["note","TEXT",0],["when","ANY",0]]"#;
    assert_eq!(columns.to_string(), wanted);
    assert_eq!(
        rows(&place, "SELECT zip FROM trip ORDER BY id").to_string(),
        r#"[["01234"],["99999"]]"#
    );
    place
        .say(line)
        .assert_fails(3, &["there is a table trip already", "--create-table"]);
    place.say("import app.db trip.csv").assert_code(1);
    // What is not said is TEXT.
    place
        .say("import app.db trip.csv --table plain --create-table")
        .assert_code(0);
    assert_eq!(
        rows(&place, "SELECT typeof(id) FROM plain LIMIT 1").to_string(),
        r#"[["text"]]"#
    );
    place
        .say("import app.db trip.csv --table third --create-table --types nothing=TEXT")
        .assert_fails(3, &["no field is for the column \"nothing\""]);
    // Two files for one table.
    place.write("a.csv", "x\n1\n");
    place.write("b.csv", "x\n2.5\n");
    place
        .say("import app.db a.csv b.csv --table both --create-table --infer")
        .assert_code(0);
    assert_eq!(rows(&place, "SELECT x FROM both").to_string(), "[[1.0],[2.5]]");
}

#[test]
fn database_is_created_on_request() {
    let place = Place::new();
    place.write("a.csv", "x,y\n1\n");
    place
        .say("import new.db a.csv --create-table")
        .assert_fails(3, &["there is no such file"]);
    place
        .say("import new.db a.csv --create-table --create-database")
        .assert_code(1);
    // Another process may have opened it: it stays, and is empty.
    assert_eq!(place.names(), ["a.csv", "new.db"]);
    assert_eq!(place.count("new.db", "SELECT count(*) FROM sqlite_schema"), 0);
    place.write("a.csv", "x,y\n1,2\n");
    place
        .say("import new.db a.csv --create-table --create-database")
        .assert_code(0);
    assert_eq!(place.names(), ["a.csv", "new.db"]);
    assert_eq!(place.count("new.db", "SELECT count(*) FROM a"), 1);
}

#[test]
fn new_database_with_committed_slices_is_kept() {
    let place = Place::new();
    place.write("a.csv", "x\n1\n2\n3\n4,5\n");
    let line = "import new.db a.csv --create-table --create-database --slices";
    let imported = place.json(line, 1);
    assert_eq!(
        (&imported["rows"], &imported["files"][0]["created"]),
        (&3.into(), &true.into())
    );
    assert_eq!(place.count("new.db", "SELECT count(*) FROM a"), 3);
}

#[test]
fn lines_before_a_bad_one_are_committed_in_slices() {
    let place = Place::with_database();
    let lines: String = (10..3000).map(|n| format!("{n},name\n")).collect();
    place.write("owner.csv", format!("id,name\n{lines}bad,name\n4000,name\n"));
    let run = place.say("import app.db owner.csv --slices").assert_code(1);
    assert!(
        run.err.contains("owner.csv:2992: column id: \"bad\" is no INTEGER"),
        "{run:?}"
    );
    let said = "owner.csv -> owner: 2991 lines, 1 bad\nstopped after 2990 rows, which are committed: 1 bad lines, and --max-bad \
                allows 0\n";
    assert_eq!(run.out, said);
    assert_eq!(place.count("app.db", "SELECT count(*) FROM owner"), 2993);
    let run = place
        .say("import app.db owner.csv --slices --on-conflict skip --max-bad 1")
        .assert_code(0);
    let said = "owner.csv -> owner: 2992 lines, 2990 skipped, 1 bad\n1 rows imported\n";
    assert_eq!(run.out, said);
}

#[test]
fn bad_lines_are_skipped_up_to_the_limit_in_slices() {
    let place = Place::with_database();
    let lines: String = (10..2000)
        .map(|n| {
            if n % 4 == 0 {
                "1,there\n".to_owned()
            } else {
                format!("{n},name\n")
            }
        })
        .collect();
    place.write("owner.csv", format!("id,name\n{lines}"));
    let imported = place.json("import app.db owner.csv --slices --max-bad 497", 0);
    assert_eq!((&imported["rows"], &imported["bad"]), (&1493.into(), &497.into()));
    let named = imported["files"][0]["bad_lines"].as_array().unwrap();
    assert_eq!(
        (named.len(), &named[0]["line"], &named[99]["line"]),
        (100, &4.into(), &400.into())
    );
    assert_eq!(named[0]["problem"], "UNIQUE constraint failed: owner.id");

    // The limit is for all files together, and the line after it is the last one.
    place.execute("app.db", "DELETE FROM owner WHERE id > 9");
    place.write("more.csv", "id,name\n5000,a\n1,b\n5002,c\n");
    let line = "import app.db owner.csv more.csv --table owner --slices --max-bad 497";
    let imported = place.json(line, 1);
    assert_eq!((&imported["rows"], &imported["bad"]), (&1494.into(), &498.into()));
    assert_eq!(imported["files"][1]["bad_lines"][0]["line"], 3);
    assert_eq!(place.count("app.db", "SELECT count(*) FROM owner WHERE id > 5000"), 0);
}

/// The same command goes on with the lines that were added to a file.
#[test]
fn resumable_import_goes_on_behind_the_lines_of_earlier_runs() {
    let place = Place::with_database();
    place.execute("app.db", "CREATE TABLE log(n INTEGER) STRICT");
    let lines = |to: u32| (0..to).map(|n| format!("{n}\n")).collect::<String>();
    place.write("log.csv", format!("n\n{}", lines(2000)));
    let line = "import app.db log.csv --slices --resumable";
    place.say(line).assert_code(0);
    let run = place.say(line).assert_code(0);
    assert_eq!(
        run.out,
        "log.csv -> log: 0 lines, 0 bad, after 2000 of earlier runs\n0 rows imported\n"
    );
    place.write("log.csv", format!("n\n{}", lines(2500)));
    // The same file, by another path.
    let imported = place.json("import app.db ./log.csv --slices --resumable", 0);
    assert_eq!(
        (&imported["rows"], &imported["files"][0]["resumed_from"]),
        (&500.into(), &2000.into())
    );
    let found = rows(&place, "SELECT count(*), count(DISTINCT n) FROM log");
    assert_eq!(found.to_string(), "[[2500,2500]]");
    place.write("log.csv", "n\n1\n");
    place.say(line).assert_fails(3, &["it is another file"]);
    place.say("import app.db log.csv --resumable").assert_code(2);
    place
        .say("import app.db - --table log --slices --resumable")
        .assert_fails(2, &["stdin", "--resumable"]);
}

/// A resumable import knows the table that it has created, and no other one.
#[test]
fn resumable_import_goes_on_in_the_table_that_it_has_created() {
    let place = Place::with_database();
    let lines = |to: u32| (0..to).map(|n| format!("{n}\n")).collect::<String>();
    place.write("log.csv", format!("n\n{}", lines(2000)));
    let line = "import app.db log.csv --slices --resumable --create-table --types n=INTEGER";
    let imported = place.json(line, 0);
    assert_eq!(imported["files"][0]["created"], true);
    place.write("log.csv", format!("n\n{}", lines(2500)));
    let imported = place.json(line, 0);
    let file = &imported["files"][0];
    assert_eq!((&file["created"], &file["resumed_from"]), (&false.into(), &2000.into()));
    assert_eq!(place.count("app.db", "SELECT count(DISTINCT n) FROM log"), 2500);

    // With another definition, of the command or of the table, it is not the table of this import.
    place
        .say("import app.db log.csv --slices --resumable --create-table")
        .assert_fails(
            3,
            &["table log already", "not as this import creates it", "--create-table"],
        );
    place.execute("app.db", "ALTER TABLE log ADD COLUMN more TEXT");
    place.say(line).assert_fails(3, &["it was altered"]);
    place
        .say("import app.db log.csv --slices --resumable --types n=INTEGER")
        .assert_code(2);
    let imported = place.json("import app.db log.csv --slices --resumable", 0);
    assert_eq!((&imported["rows"], &imported["ok"]), (&0.into(), &true.into()));

    // The rows are gone with the table, so the new one gets all of them.
    place.execute("app.db", "DROP TABLE log");
    let imported = place.json(line, 0);
    assert_eq!(
        (&imported["rows"], &imported["files"][0]["created"]),
        (&2500.into(), &true.into())
    );

    // Another import has no part in it, and neither has a table that another program made.
    place.write("other.csv", "n\n1\n");
    place
        .say("import app.db other.csv --table log --slices --resumable --create-table --types n=INTEGER")
        .assert_fails(
            3,
            &[
                "there is a table log already: leave --create-table out",
                "another --table",
            ],
        );
    place.execute("app.db", "CREATE TABLE \"other\"(\n    \"n\" INTEGER\n) STRICT");
    place
        .say("import app.db other.csv --slices --resumable --create-table --types n=INTEGER")
        .assert_fails(3, &["there is a table other already"]);
    place.execute("app.db", "CREATE VIEW seen AS SELECT 1 AS n");
    place
        .say("import app.db other.csv --table seen --slices --resumable --create-table")
        .assert_fails(3, &["there is a view seen already"]);
    assert_eq!(place.count("app.db", "SELECT count(*) FROM log"), 2500);
    assert_eq!(place.count("app.db", "SELECT count(*) FROM other"), 0);
}

/// The rows of all files are gone with their table, and so is how far each of them had come.
#[test]
fn new_table_gets_the_rows_of_all_files() {
    let place = Place::with_database();
    place.write("a.csv", "n\n1\n2\n");
    place.write("b.csv", "n\n3\n4\n5\n");
    place.write("other.csv", "n\n1\n");
    place.json("import app.db other.csv --slices --resumable --create-table", 0);
    let line = "import app.db a.csv b.csv --table t --slices --resumable --create-table";
    for round in 0..2 {
        let imported = place.json(line, 0);
        assert_eq!(imported["rows"], 5, "{round}");
        assert_eq!(imported["files"][1]["resumed_from"], 0, "{round}");
        assert_eq!(place.count("app.db", "SELECT count(DISTINCT n) FROM t"), 5);
        // In the table that is there, each goes on.
        assert_eq!(place.json(line, 0)["rows"], 0, "{round}");
        place.execute("app.db", "DROP TABLE t");
    }
    // With other columns, too, and no other table's file is forgotten.
    place.write("a.csv", "n,m\n1,1\n");
    place.write("b.csv", "n,m\n3,1\n");
    assert_eq!(place.json(line, 0)["rows"], 2);
    let imported = place.json("import app.db other.csv --slices --resumable --create-table", 0);
    assert_eq!(imported["files"][0]["resumed_from"], 1);
}

/// What the files before are is said, since it is committed.
#[test]
fn table_that_exists_stops_an_import_in_slices_behind_the_file_before() {
    let place = Place::with_database();
    place.execute("app.db", "CREATE TABLE b(n TEXT) STRICT");
    place.write("a.csv", "n\n1\n2\n3\n");
    place.write("b.csv", "n\n1\n");
    place
        .say("import app.db a.csv b.csv --slices --create-table")
        .assert_fails(
            3,
            &[
                "b.csv",
                "there is a table b already",
                "the 3 rows before it are committed",
            ],
        );
    assert_eq!(place.count("app.db", "SELECT count(*) FROM a"), 3);
    assert_eq!(place.count("app.db", "SELECT count(*) FROM b"), 0);
    // In one transaction nothing is.
    place.execute("app.db", "DROP TABLE a");
    let run = place.say("import app.db a.csv b.csv --create-table");
    let run = run.assert_fails(3, &["b.csv", "there is a table b already"]);
    assert!(!run.err.contains("committed"), "{run:?}");
    assert_eq!(
        place.count("app.db", "SELECT count(*) FROM sqlite_schema WHERE name = 'a'"),
        0
    );
}

#[test]
fn files_that_are_no_csv_are_named() {
    let place = Place::with_database();
    for (text, part) in [
        (&b"\x1f\x8b\x08\0\0\0\0\0\0\x03id,name"[..], "gunzip -c"),
        (b"PK\x03\x04\x14\0\x06\0\x08\0", "workbook"),
        (b"\xff\xfei\0d\0", "UTF-16"),
        (b"i\0d\0,\0n\0a\0m\0e\0\n\0", "NUL byte"),
        (b"SQLite format 3\0\x10\0", "SQLite database"),
        (b"id,\n1,a\n", "field 2 of the header has no name"),
        (b"id,ID\n1,a\n", "two fields are for the column id"),
    ] {
        place.write("owner.csv", text);
        for slices in ["", " --slices"] {
            let run = place.say(&format!("import app.db owner.csv{slices}"));
            run.assert_fails(3, &["owner.csv: ", part]);
        }
    }
    assert_eq!(place.count("app.db", "SELECT count(*) FROM owner"), 3);
}

#[test]
fn names_of_columns_may_be_keywords_and_quotes() {
    let place = Place::with_database();
    place.write("select.csv", "order,\"or\"\"der\",group by\n1,2,\n2,b\0c,d\n");
    place
        .say("import app.db select.csv --create-table --infer")
        .assert_code(0);
    // A NUL byte is kept.
    let sql = r#"SELECT length(CAST("or""der" AS BLOB)) FROM "select" WHERE "order" = 2 AND "group by" = 'd'"#;
    assert_eq!(place.count("app.db", sql), 3);
}

#[test]
fn stdin_is_imported() {
    let place = Place::with_database();
    let run = piped(&place, "import app.db - --table owner", "id,name\n7,Eve\n").assert_code(0);
    assert_eq!(run.out, "stdin -> owner: 1 lines, 0 bad\n1 rows imported\n");
    let run = piped(&place, "import app.db - --table owner --json", "id,name\n7,Eve\n").assert_code(1);
    assert_eq!(run.json()["files"][0]["file"], "stdin");
}

/// Begins an import from stdin, and waits until slices are committed. The last lines wait for their turn.
fn begin_in_slices(place: &Place, more: &[&str]) -> (Child, ChildStdin) {
    let mut child = place
        .command()
        .args(["import", "app.db", "-", "--table", "owner", "--slices"])
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = child.stdin.take().unwrap();
    let text: String = (1000..20_000).map(|n| format!("{n},name\n")).collect();
    lines.write_all(format!("id,name\n{text}").as_bytes()).unwrap();
    let began = Instant::now();
    // One connection: the close of the last one takes the lock.
    let conn = place.connect("app.db");
    let committed = || -> i64 {
        let sql = "SELECT count(*) FROM owner WHERE id >= 1000";
        conn.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    while committed() < 1000 {
        assert!(began.elapsed() < PATIENCE, "no slice is committed");
        std::thread::sleep(Duration::from_millis(2));
    }
    (child, lines)
}

/// Between two slices the database is not locked, however long the next lines take.
#[test]
fn slow_source_keeps_no_lock_between_slices() {
    let place = Place::with_database();
    let (child, mut lines) = begin_in_slices(&place, &["--wait", "60s"]);
    let conn = place.connect("app.db");
    conn.execute("INSERT INTO owner(id, name) VALUES (601, 'of the service')", [])
        .unwrap();
    lines.write_all(b"504,d\n").unwrap();
    drop(lines);
    Run::of(child.wait_with_output().unwrap()).assert_code(0);
    assert_eq!(place.count("app.db", "SELECT count(*) FROM owner"), 3 + 19_000 + 2);
}

/// What fails after a slice keeps its kind and its exit code.
#[test]
fn failure_after_a_slice_can_be_tried_again() {
    let place = Place::with_database();
    let (child, mut lines) = begin_in_slices(&place, &["--wait", "1s", "--json"]);
    let conn = place.connect("app.db");
    let began = Instant::now();
    conn.execute_batch("BEGIN IMMEDIATE").unwrap();
    // A slice of the lines before may have waited for the lock in vain, and the command have ended.
    if let Err(error) = lines.write_all(b"504,d\n") {
        assert_eq!(error.kind(), ErrorKind::BrokenPipe, "{error}");
    }
    drop(lines);
    let run = Run::of(child.wait_with_output().unwrap()).assert_code(4);
    assert!(began.elapsed() >= Duration::from_secs(1), "it has not waited: {run:?}");
    conn.execute_batch("ROLLBACK").unwrap();
    let error = &run.json()["error"];
    assert_eq!(error["retryable"], true, "{error}");
    assert_ne!(error["kind"], "refused", "{error}");
    let message = error["message"].as_str().unwrap();
    let rows = place.count("app.db", "SELECT count(*) FROM owner WHERE id > 500");
    assert!(
        message.ends_with(&format!("(the {rows} rows before it are committed)")),
        "{rows}: {error}"
    );
}

#[test]
fn last_column_cannot_be_skipped() {
    let place = Place::with_database();
    place.write("owner.csv", "id,name\n7,Eve\n");
    for create in ["", " --table new --create-table", " --table new --create-table --infer"] {
        place
            .say(&format!("import app.db owner.csv --skip id,name{create}"))
            .assert_fails(3, &["owner.csv: all fields are left out", "--skip"]);
    }
}

/// The place of a call in the source says nothing to a user.
#[test]
fn errors_name_no_line_of_the_source() {
    let place = Place::with_database();
    place.execute(
        "app.db",
        "CREATE TABLE log(owner INTEGER) STRICT;
         CREATE TRIGGER logged AFTER INSERT ON owner BEGIN INSERT INTO log VALUES (new.id); END;
         PRAGMA writable_schema = ON;
         DELETE FROM sqlite_schema WHERE name = 'log'",
    );
    place.write("owner.csv", "id,name\n7,Eve\n");
    let run = place.say("import app.db owner.csv");
    let run = run.assert_fails(3, &["no such table: main.log"]);
    assert!(!run.err.contains("at larder") && !run.err.contains(".rs:"), "{run:?}");
    let run = place.say("sql app.db nonsense");
    let run = run.assert_fails(3, &["syntax error"]);
    assert!(!run.err.contains("at larder") && !run.err.contains(".rs:"), "{run:?}");
}
