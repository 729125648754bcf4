//! `migrate`. Formats, locks and kills are tested in the library.

use std::fs;

use crate::support::Place;

fn place() -> Place {
    let place = Place::new();
    place.write(
        "migrations/20260101000001_users.sql",
        "-- migrate:up\nCREATE TABLE users(id INTEGER PRIMARY KEY) STRICT;\n-- migrate:down\nDROP TABLE users;\n",
    );
    place.write(
        "migrations/20260101000002_email.sql",
        "-- migrate:up\nALTER TABLE users ADD COLUMN email TEXT;\n-- migrate:down\nALTER TABLE users DROP COLUMN email;\n",
    );
    place
}

const USERS: u64 = 20260101000001;
const EMAIL: u64 = 20260101000002;

#[test]
fn migrations_are_applied_listed_and_undone() {
    let place = place();
    place
        .say("migrate up app.db")
        .assert_fails(3, &["there is no such file"]);
    assert_eq!(place.names(), ["migrations"]);
    let report = place.json(&format!("migrate up app.db {USERS} --create-database"), 0);
    assert_eq!(
        (&report["steps"][0]["version"], &report["steps"][0]["direction"]),
        (&USERS.into(), &"up".into())
    );
    let status = place.json("migrate status app.db", 0);
    assert_eq!(
        (&status["ok"], &status["problem"]),
        (&true.into(), &serde_json::Value::Null)
    );
    assert_eq!(
        (&status["applied"][0]["name"], &status["pending"][0]["version"]),
        (&"users".into(), &EMAIL.into())
    );
    place.say("migrate status app.db --exit-code").assert_code(1);

    let dry = place.json("migrate up app.db --dry-run", 0);
    assert_eq!(
        (&dry["dry_run"], dry["steps"].as_array().unwrap().len()),
        (&true.into(), 1)
    );
    assert_eq!(place.count("app.db", "SELECT count(*) FROM schema_migrations"), 1);
    let run = place.say("migrate up app.db").assert_code(0);
    assert!(run.out.starts_with("up 20260101000002 email in "), "{run:?}");
    assert_eq!(place.say("migrate up app.db").assert_code(0).out, "nothing to do\n");
    place.say("migrate status app.db --exit-code").assert_code(0);

    place
        .say(&format!("migrate up app.db {USERS}"))
        .assert_fails(3, &["is applied already", "use down"]);
    let run = place.say("migrate down app.db").assert_code(0);
    assert!(run.out.starts_with("down 20260101000002 email in "), "{run:?}");
    place
        .say(&format!("migrate down app.db {EMAIL}"))
        .assert_fails(3, &["use up"]);
    place.say("migrate down app.db 0").assert_code(0);
    place.say("migrate down app.db").assert_fails(3, &["nothing to undo"]);
    place
        .say("migrate up app.db 7")
        .assert_fails(3, &["no migration has version 7"]);
}

#[test]
fn newer_and_changed_schemas_are_problems() {
    let place = place();
    place.say("migrate up app.db --create-database").assert_code(0);
    let file = place.path("migrations/20260101000002_email.sql");
    let text = fs::read_to_string(&file).unwrap();
    fs::remove_file(&file).unwrap();
    let run = place.say("migrate status app.db").assert_code(1);
    assert!(
        run.out.contains("problem: the database has migration 20260101000002"),
        "{run:?}"
    );
    assert_eq!(
        place.json("migrate status app.db", 1)["applied"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    for verb in ["up", "down"] {
        place
            .say(&format!("migrate {verb} app.db"))
            .assert_fails(3, &["the database has migration 20260101000002"]);
    }
    fs::write(&file, text.replace("email TEXT", "email ANY")).unwrap();
    let status = place.json("migrate status app.db", 1);
    assert!(
        status["problem"]
            .as_str()
            .unwrap()
            .contains("has changed since it was applied"),
        "{status}"
    );
    place.say("migrate up app.db").assert_fails(3, &["has changed"]);
    fs::write(&file, text).unwrap();
    place.say("migrate status app.db").assert_code(0);
}

#[test]
fn broken_migration_is_located_and_rolled_back() {
    let place = place();
    place.say("migrate up app.db --create-database").assert_code(0);
    place.write(
        "migrations/20260101000003_broken.sql",
        "-- migrate:up\nINSERT INTO users(id) VALUES (1);\n\nINSERT INTO nowhere VALUES (1);\n",
    );
    place.say("migrate up app.db").assert_fails(
        3,
        &[
            "20260101000003_broken.sql, line 4",
            "no such table: nowhere",
            "rolled back",
        ],
    );
    let error = place.json("migrate up app.db", 3)["error"].clone();
    assert_eq!(
        (&error["kind"], &error["outcome"]),
        (&"migration".into(), &"rolled_back".into())
    );
    assert_eq!(place.count("app.db", "SELECT count(*) FROM users"), 0);
}

#[test]
fn check_finds_ways_down_that_lack_or_leave_something() {
    let place = place();
    let check = place.json("migrate check", 0);
    assert_eq!((&check["ok"], &check["migrations"]), (&true.into(), &2.into()));
    assert_eq!(place.names(), ["migrations"]);

    place.write(
        "migrations/20260101000003_leaves.sql",
        "-- migrate:up\nCREATE TABLE a(x INTEGER) STRICT; CREATE TABLE b(x INTEGER) STRICT;\n-- migrate:down\nDROP TABLE a;\n",
    );
    let run = place.say("migrate check").assert_code(1);
    assert!(run.out.contains("problem: ") && run.out.contains(" b"), "{run:?}");
    assert_eq!(place.json("migrate check", 1)["ok"], false);

    place.write(
        "migrations/20260101000003_leaves.sql",
        "-- migrate:up\nCREATE TABLE a(x INTEGER) STRICT;\n-- migrate:down\n",
    );
    let run = place.say("migrate check").assert_code(1);
    assert!(
        run.out.contains("20260101000003_leaves.sql") && run.out.contains("down"),
        "{run:?}"
    );
    place.write(
        "migrations/20260101000003_leaves.sql",
        "-- migrate:up\nCREATE TABLE a(x);\n-- migrate:down\nDROP TABLE a;\n",
    );
    place.say("migrate check").assert_code(0);
    place.say("migrate check --require-strict").assert_code(1);
}

#[test]
fn new_files_are_found_by_the_next_verb() {
    let place = Place::new();
    place
        .say("migrate status app.db")
        .assert_fails(3, &["migrations cannot be read", "; --folder is the folder"]);
    let created = place.json("migrate new add_users --folder db", 0);
    let file = created["path"].as_str().unwrap();
    assert!(file.starts_with("db/") && file.ends_with("_add_users.sql"), "{file}");
    place
        .say("migrate up app.db --folder db --create-database")
        .assert_fails(3, &["the up script has no statement"]);
    assert_eq!(place.names(), ["db"]);
    place.write(
        file,
        "-- migrate:up\nCREATE TABLE users(id INTEGER PRIMARY KEY) STRICT;\n-- migrate:down\n",
    );
    place.say("migrate up app.db -f db --create-database").assert_code(0);
    place
        .say("migrate new ../up")
        .assert_fails(3, &["use letters, digits, _ and -"]);
    fs::create_dir(place.path("empty")).unwrap();
    place
        .say("migrate check -f empty")
        .assert_fails(3, &["there are no migrations in the folder empty"]);
}

#[test]
fn record_of_another_tool_is_adopted() {
    let place = place();
    place.execute(
        "app.db",
        "PRAGMA user_version = 1; CREATE TABLE users(id INTEGER PRIMARY KEY) STRICT",
    );
    place
        .say("migrate up app.db")
        .assert_fails(3, &["user_version", "--adopt", "user-version"]);
    let adopted = format!("--adopt-versions {USERS}");
    let report = place.json(&format!("migrate up app.db {adopted}"), 0);
    assert_eq!(report["steps"].as_array().unwrap().len(), 1);
}

#[test]
fn backup_is_made_before_the_first() {
    let place = place();
    fs::create_dir(place.path("backups")).unwrap();
    place
        .say(&format!("migrate up app.db {USERS} --create-database"))
        .assert_code(0);
    let report = place.json("migrate up app.db --backup-to backups", 0);
    let backup = report["backup"].as_str().unwrap();
    assert!(backup.contains("app.db.before-20260101000002"), "{backup}");
    let conn = larder::rusqlite::Connection::open(backup).unwrap();
    let applied: i64 = conn
        .query_row("SELECT count(*) FROM schema_migrations", [], |row| row.get(0))
        .unwrap();
    assert_eq!(applied, 1);
}
