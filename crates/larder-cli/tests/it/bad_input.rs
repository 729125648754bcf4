//! What each verb does with files that it cannot use.

use larder::{Access, Options};
use tempfile::tempdir;

use crate::support::{Place, Run, set_mode};

/// Each verb that opens a database, with `DB` in its place.
const VERBS: [&str; 11] = [
    "check DB",
    "backup DB copy.db",
    "restore DB new.db",
    "stats DB",
    "advice DB",
    "sql DB SELECT(1)",
    "vacuum DB",
    "import DB owner.csv",
    "migrate status DB",
    "migrate up DB",
    "migrate down DB",
];

/// Those that write to it.
const WRITERS: [&str; 4] = ["vacuum DB", "import DB owner.csv", "migrate up DB", "migrate down DB"];

fn place() -> Place {
    let place = Place::with_database();
    place.write("owner.csv", "id,name\n7,Eve\n");
    place.write(
        "migrations/1_more.sql",
        "CREATE TABLE more(id INTEGER PRIMARY KEY) STRICT;",
    );
    place.write("migrations/1_more.down.sql", "DROP TABLE more;");
    place
}

#[track_caller]
fn refused(place: &Place, verb: &str, database: &str, parts: &[&str]) {
    let before = place.names();
    let line = verb.replace("DB", database);
    place.say(&line).assert_fails(3, &[parts, &[database]].concat());
    let error = &place.json(&line, 3)["error"];
    assert!(
        ["open", "restore"].contains(&error["kind"].as_str().unwrap()),
        "{line}: {error}"
    );
    assert_eq!(
        (&error["retryable"], error["message"].is_string()),
        (&false.into(), true),
        "{error}"
    );
    assert_eq!(place.names(), before, "{line}");
}

#[test]
fn missing_file_is_named_and_not_created() {
    let place = place();
    for verb in VERBS {
        let parts: &[&str] = match verb.starts_with("restore") {
            true => &["cannot be found"],
            false => &["there is no such file; check the path"],
        };
        refused(&place, verb, "missing.db", parts);
    }
    for verb in VERBS {
        let parts: &[&str] = match verb.starts_with("restore") {
            true => &["cannot be found"],
            false => &["there is no such file"],
        };
        refused(&place, verb, "nowhere/app.db", parts);
    }
}

#[test]
fn other_files_are_refused() {
    let place = place();
    place.write("text.db", "This is a text, and no database. ".repeat(100));
    place.write("short.db", "short");
    for verb in VERBS {
        refused(&place, verb, "text.db", &["not an SQLite database"]);
        refused(&place, verb, "short.db", &["not an SQLite database"]);
        let parts: &[&str] = match verb.starts_with("restore") {
            true => &["not a regular file"],
            false => &["it is a folder"],
        };
        refused(&place, verb, "migrations", parts);
    }
}

#[test]
fn locked_file_is_said_to_be_busy() {
    let place = place();
    let owner = Options::new()
        .access(Access::Exclusive)
        .open(place.path("app.db"))
        .unwrap();
    for verb in VERBS.iter().filter(|verb| !verb.starts_with("restore")) {
        let line = format!("{} --wait 50ms", verb.replace("DB", "app.db"));
        place
            .say(&line)
            .assert_fails(4, &["app.db", "locked by another process"]);
        let error = &place.json(&line, 4)["error"];
        assert_eq!(
            (&error["kind"], &error["retryable"]),
            (&"in_use".into(), &true.into()),
            "{line}"
        );
    }
    owner.close().unwrap();
    place.say("check app.db").assert_code(0);
}

#[test]
fn write_lock_of_another_process_is_waited_for() {
    let place = place();
    let conn = place.connect("app.db");
    conn.execute_batch("BEGIN IMMEDIATE").unwrap();
    for verb in WRITERS.iter().filter(|verb| !verb.contains("down")) {
        let line = format!("{} --wait 50ms", verb.replace("DB", "app.db"));
        let run = place.say(&line).assert_code(4);
        assert!(
            run.err.contains("another process") || run.err.contains("locked"),
            "{run:?}"
        );
    }
    // Reads do not wait.
    for verb in ["check DB", "stats DB", "sql DB SELECT(1)", "backup DB copy.db"] {
        place
            .say(&format!("{} --wait 50ms", verb.replace("DB", "app.db")))
            .assert_code(0);
    }
    conn.execute_batch("COMMIT").unwrap();
    place.say("import app.db owner.csv").assert_code(0);
    assert_eq!(place.count("app.db", "SELECT count(*) FROM owner"), 4);
}

#[test]
fn folder_without_permission_to_write_is_read() {
    let (place, bin) = (place(), tempdir().unwrap());
    let Some(_) = place.as_ordinary_user(&bin) else { return };
    let outside = tempdir().unwrap();
    set_mode(outside.path(), 0o777);
    set_mode(&place.path("app.db"), 0o444);
    set_mode(&place.path("owner.csv"), 0o444);
    set_mode(place.folder.path(), 0o555);
    let run = |line: &str| {
        let mut command = place.as_ordinary_user(&bin).expect("as before");
        Run::of(command.args(line.split_whitespace()).output().unwrap())
    };
    run("check app.db").assert_code(0);
    run("stats app.db").assert_code(0);
    let rows = run("sql app.db SELECT(7) --json").assert_code(0).json();
    assert_eq!(rows["rows"][0][0], 7);
    let copy = outside.path().join("copy.db");
    run(&format!("backup app.db {}", copy.display())).assert_code(0);
    run("backup app.db copy.db").assert_fails(3, &["copy.db"]);
    run("restore app.db new.db").assert_fails(3, &["new.db"]);
    run("migrate new more").assert_fails(3, &["cannot be created"]);
    for verb in WRITERS {
        run(&verb.replace("DB", "app.db")).assert_fails(3, &["app.db"]);
    }
    set_mode(place.folder.path(), 0o755);
    assert_eq!(place.count("app.db", "SELECT count(*) FROM owner"), 3);
}

#[test]
fn wrong_arguments_exit_with_2() {
    let place = place();
    for line in [
        "",
        "sideways",
        "check",
        "check app.db app.db",
        "check app.db --wait 5",
        "check app.db --wait soon",
        "backup app.db",
        "backup app.db copy.db --checksum --no-verify",
        "sql app.db",
        "sql app.db SELECT(1) --limit many",
        "sql app.db SELECT(1) --csv --json",
        "import app.db",
        "import app.db owner.csv --types id=INTEGER",
        "import app.db owner.csv --create-table --types id=NUMBER",
        "import app.db owner.csv --create-table --types id",
        "import app.db owner.csv --delimiter ab",
        "import app.db owner.csv --resumable",
        "import new.db owner.csv --create-database",
        "import app.db - -",
        "import app.db -",
        "migrate",
        "migrate sideways app.db",
        "migrate up app.db two",
        "migrate up app.db --dry-run 1",
        "migrate up app.db --dry-run --create-database",
        "migrate status app.db --adopt rails",
        "migrate status app.db --adopt goose --adopt-versions 1",
    ] {
        let run = place.say(line).assert_code(2);
        assert_eq!(run.out, "", "{run:?}");
        assert!(!run.err.contains("panicked"), "{run:?}");
    }
    assert!(!place.path("new.db").exists() && !place.path("copy.db").exists());
}

#[test]
fn help_of_each_verb_is_printed() {
    let place = Place::new();
    let verbs = [
        "check",
        "backup",
        "restore",
        "migrate",
        "vacuum",
        "stats",
        "advice",
        "import",
        "sql",
        "migrate status",
        "migrate up",
        "migrate down",
        "migrate new",
        "migrate check",
    ];
    for verb in verbs {
        let run = place.say(&format!("{verb} --help")).assert_code(0);
        assert!(
            run.out.contains("Usage: larder") && run.out.contains("--json"),
            "{run:?}"
        );
        assert_eq!(run.err, "");
    }
    assert!(place.say("--help").assert_code(0).out.contains("Exit codes:"));
    assert!(place.say("--version").assert_code(0).out.starts_with("larder "));
}

#[test]
fn switch_to_the_log_is_said_once() {
    let place = place();
    let said = "app.db had a rollback journal, and is in WAL mode from now on";
    for line in [
        "vacuum app.db",
        "migrate up app.db --adopt nothing",
        "import app.db owner.csv",
    ] {
        place.execute("app.db", "PRAGMA journal_mode = DELETE");
        place.say("stats app.db").assert_code(0);
        let run = place.say(line).assert_code(0);
        assert!(run.err.contains(said), "{run:?}");
    }
    let run = place.say("vacuum app.db").assert_code(0);
    assert_eq!(run.err, "");
}
