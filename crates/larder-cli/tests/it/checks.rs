//! `check`, `stats` and `advice`.

use std::fs;

use crate::support::Place;

#[test]
fn sound_database_is_ok() {
    let place = Place::with_database();
    let run = place.say("check app.db").assert_code(0);
    assert!(run.out.contains("quick check of 2 tables, ok"), "{run:?}");
    assert_eq!(run.err, "");
    let checked = place.json("check app.db --full", 0);
    assert_eq!(checked["ok"], true);
    assert_eq!((&checked["damaged"], &checked["full"]), (&false.into(), &true.into()));
    assert_eq!(checked["tables"], 2);
    assert!(checked["duration"].as_f64().unwrap() > 0.0);
}

#[test]
fn damage_is_a_problem() {
    let place = Place::with_database();
    let path = place.path("app.db");
    let mut bytes = fs::read(&path).unwrap();
    // The last page, and so one of the table or of its index.
    let last = bytes.len() - 4096;
    bytes[last..last + 64].fill(0xff);
    fs::write(&path, bytes).unwrap();
    let run = place.say("check app.db --full").assert_code(1);
    assert!(run.out.starts_with("damage: "), "{run:?}");
    let checked = place.json("check app.db --full", 1);
    assert_eq!((&checked["ok"], &checked["damaged"]), (&false.into(), &true.into()));
    assert!(!checked["problems"].as_array().unwrap().is_empty());
    // A damaged database has no backup.
    place.say("backup app.db copy.db").assert_fails(3, &["copy.db"]);
    assert!(!place.path("copy.db").exists());
}

#[test]
fn foreign_key_without_parent_is_a_problem() {
    let place = Place::with_database();
    place.execute("app.db", "PRAGMA foreign_keys = OFF; DELETE FROM owner WHERE id = 2");
    let run = place.say("check app.db").assert_code(1);
    assert!(
        run.out.contains("no parent row: item row 1 (owner) -> owner"),
        "{run:?}"
    );
    let checked = place.json("check app.db", 1);
    assert_eq!((&checked["ok"], &checked["damaged"]), (&false.into(), &false.into()));
    assert_eq!(checked["total_foreign_key_violations"], 34);
    assert_eq!(checked["foreign_key_violations"][0]["parent"], "owner");
}

#[test]
fn stats_list_tables() {
    let place = Place::with_database();
    let stats = place.json("stats app.db --rows", 0);
    assert_eq!(
        (&stats["journal_mode"], &stats["page_size"]),
        (&"wal".into(), &4096.into())
    );
    let tables = stats["tables"].as_array().unwrap();
    let named = |at: usize| {
        (
            tables[at]["name"].as_str().unwrap(),
            tables[at]["rows"].as_i64().unwrap(),
        )
    };
    assert_eq!((named(0), named(1)), (("item", 100), ("owner", 3)));
    assert_eq!((&tables[0]["strict"], &tables[0]["indexes"]), (&true.into(), &1.into()));
    assert_eq!(
        stats["bytes"].as_u64().unwrap(),
        stats["pages"].as_u64().unwrap() * 4096
    );
    let text = place.say("stats app.db --rows").assert_code(0).out;
    assert!(text.contains("item   1 index, 100 rows, strict"), "{text}");
    // Without the flag no row is read.
    assert!(place.json("stats app.db", 0)["tables"][0].get("rows").is_none());
}

#[test]
fn names_cannot_move_the_cursor() {
    let place = Place::new();
    place.execute("app.db", "CREATE TABLE \"a\u{1b}[2Jb\nc\"(x INTEGER) STRICT");
    let text = place.say("stats app.db --rows").assert_code(0).out;
    assert!(text.contains("a\\u{1b}[2Jb\\nc"), "{text:?}");
}

#[test]
fn advice_beyond_a_note_is_a_problem() {
    let place = Place::with_database();
    assert_eq!(place.json("advice app.db", 0)["ok"], true);
    place.execute("app.db", "DROP INDEX item_owner");
    let advice = place.json("advice app.db", 1);
    let findings = advice["findings"].as_array().unwrap();
    let finding = findings
        .iter()
        .find(|finding| finding["topic"] == "foreign_key_without_index");
    assert!(
        finding.is_some_and(|finding| finding["severity"] == "warning"),
        "{advice}"
    );
    let run = place.say("advice app.db").assert_code(1);
    assert!(
        run.out.contains("warning: ") && run.out.contains("CREATE INDEX"),
        "{run:?}"
    );
}
