//! `backup`, `restore` and `vacuum`.

use std::fs;

use crate::support::Place;

#[test]
fn backup_is_restored_with_the_same_rows() {
    let place = Place::with_database();
    let made = place.json("backup app.db copy.db --checksum", 0);
    assert_eq!(made["rows"], 103);
    assert_eq!(
        made["path"].as_str().unwrap(),
        place.path("copy.db").canonicalize().unwrap().to_str().unwrap()
    );
    let restored = place.json("restore copy.db new.db", 0);
    assert_eq!((&restored["rows"], &restored["verified"]), (&103.into(), &true.into()));
    assert_eq!(restored["checksum"], made["checksum"]);
    let compact = place.json("backup app.db compact.db --compact --checksum", 0);
    assert_eq!(compact["checksum"], made["checksum"]);
    place.say("check new.db --full").assert_code(0);
    let text = place.say("backup app.db another.db").assert_code(0);
    assert!(text.out.contains("103 rows, verified"), "{text:?}");
    assert_eq!(text.err, "", "no progress without a terminal");
}

#[test]
fn existing_files_are_kept() {
    let place = Place::with_database();
    place.write("copy.db", "precious");
    place
        .say("backup app.db copy.db")
        .assert_fails(3, &["exists already", "--overwrite"]);
    place.say("restore app.db copy.db").assert_fails(3, &["exists already"]);
    assert_eq!(fs::read_to_string(place.path("copy.db")).unwrap(), "precious");
    place.say("backup app.db copy.db --overwrite").assert_code(0);
    place.say("backup app.db app.db --overwrite").assert_fails(3, &[]);
    assert_eq!(place.count("app.db", "SELECT count(*) FROM item"), 100);
}

#[test]
fn damaged_backup_is_restored_on_request_only() {
    let place = Place::with_database();
    place.say("backup app.db copy.db").assert_code(0);
    let mut bytes = fs::read(place.path("copy.db")).unwrap();
    let last = bytes.len() - 4096;
    bytes[last..last + 64].fill(0xff);
    fs::write(place.path("copy.db"), bytes).unwrap();
    place
        .say("restore copy.db new.db")
        .assert_fails(3, &["damaged", "--no-verify"]);
    assert!(!place.path("new.db").exists());
    let restored = place.json("restore copy.db new.db --no-verify", 1);
    assert_eq!(restored["verified"], false);
    assert_eq!(place.count("new.db", "SELECT count(*) FROM owner"), 3);
}

#[test]
fn vacuum_returns_free_pages() {
    let place = Place::with_database();
    place.execute(
        "app.db",
        "CREATE TABLE log(line TEXT) STRICT;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
         INSERT INTO log SELECT hex(zeroblob(500)) FROM n; DELETE FROM log",
    );
    let before = fs::metadata(place.path("app.db")).unwrap().len();
    let done = place.json("vacuum app.db", 0);
    let after = fs::metadata(place.path("app.db")).unwrap().len();
    assert!(after < before / 10, "{before} -> {after}");
    assert!(done["bytes_after"].as_u64().unwrap() < before / 10, "{done}");
    assert_eq!(done["wal_truncated"], true);
    let text = place.say("vacuum app.db").assert_code(0).out;
    assert!(text.contains(" KiB -> "), "{text}");
    assert_eq!(place.count("app.db", "SELECT count(*) FROM item"), 100);
}
