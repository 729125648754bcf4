//! Up, down, up: what the check of a set finds, and names.

use larder::{Direction, Error, Migration, MigrationError, Migrations, Options, Result};

use crate::support::migrations::{assert_has, files, migration_error};

const USERS: &str = "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT";

fn users() -> Migration {
    Migration::new(1, "users", USERS).down("DROP TABLE users")
}

#[track_caller]
fn problems(result: Result<()>) -> Vec<MigrationError> {
    match migration_error(result) {
        MigrationError::Check { problems } => problems,
        other => panic!("another error: {other:?}"),
    }
}

#[test]
fn set_whose_ways_down_undo_its_ways_up_is_right() {
    let rebuild = "CREATE TABLE new(id INTEGER PRIMARY KEY, name TEXT NOT NULL CHECK (name <> '')) STRICT;
                   INSERT INTO new SELECT id, name FROM users; DROP TABLE users; ALTER TABLE new RENAME TO users";
    let back = "CREATE TABLE old(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT;
                INSERT INTO old SELECT id, name FROM users; DROP TABLE users; ALTER TABLE old RENAME TO users";
    let set = Migrations::new([
        users(),
        Migration::new(2, "rebuild", rebuild).down(back).without_transaction(),
        Migration::new(
            3,
            "email",
            "ALTER TABLE users ADD COLUMN email TEXT; CREATE INDEX by_email ON users(email)",
        )
        .down("DROP INDEX by_email; ALTER TABLE users DROP COLUMN email"),
        Migration::new(4, "rows", "INSERT INTO users(id, name) VALUES (1, 'Ada')")
            .down("DELETE FROM users WHERE id = 1"),
        Migration::new(
            5,
            "counter",
            "CREATE TABLE counted(id INTEGER PRIMARY KEY AUTOINCREMENT) STRICT; PRAGMA user_version = 5",
        )
        .down("DROP TABLE counted; PRAGMA user_version = 0"),
        Migration::new(
            6,
            "search",
            "CREATE VIRTUAL TABLE words USING fts5(word); INSERT INTO words VALUES ('ant')",
        )
        .down("DROP TABLE words"),
        Migration::new(7, "view", "CREATE VIEW names AS SELECT name FROM users; ANALYZE").down("DROP VIEW names"),
        Migration::new(8, "renamed", "ALTER TABLE users RENAME COLUMN name TO label; VACUUM")
            .down("ALTER TABLE users RENAME COLUMN label TO name")
            .without_transaction(),
    ]);
    set.check().unwrap();
    // Options of the set that are for a real database.
    let folder = tempfile::tempdir().unwrap();
    let set = set.backup_to(folder.path()).adopt(larder::Adopt::Goose).at_open(false);
    Options::new()
        .migrations(set)
        .require_strict(true)
        .check_migrations()
        .unwrap();
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        0,
        "no backup was made"
    );
}

#[test]
fn each_missing_way_down_is_named() {
    let set = files(&[
        ("001_users.sql", USERS),
        ("001_users.down.sql", "DROP TABLE users"),
        ("002_email.sql", "ALTER TABLE users ADD COLUMN email TEXT"),
        ("003_age.sql", "ALTER TABLE users ADD COLUMN age INTEGER"),
        ("003_age.down.sql", "-- later"),
        ("004_orders.sql", "CREATE TABLE orders(id INTEGER PRIMARY KEY) STRICT"),
        ("004_orders.down.sql", "DROP TABLE orders"),
    ]);
    let problems = problems(set.check());
    let missing: Vec<_> = problems
        .iter()
        .map(|problem| match problem {
            MigrationError::NoDown { file, version, .. } => (file.as_str(), *version),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(missing, [("002_email.sql", 2), ("003_age.sql", 3)]);
    let text = set.check().unwrap_err().to_string();
    assert_has(
        &text,
        &[
            "migration 002_email.sql cannot be undone",
            "\nmigration 003_age.sql cannot be undone",
        ],
    );
}

#[test]
fn way_down_that_does_not_restore_schema_is_named_with_differences() {
    let set = Migrations::new([
        users(),
        Migration::new(2, "orders", "CREATE TABLE orders(user INTEGER) STRICT; CREATE INDEX by_user ON orders(user); ALTER TABLE users ADD COLUMN orders INTEGER")
            .down("DROP INDEX by_user"),
        Migration::new(3, "gone", "CREATE TABLE gone(id INTEGER) STRICT").down("DROP TABLE gone; DROP TABLE users"),
        Migration::new(4, "right", "CREATE TABLE last(id INTEGER) STRICT").down("DROP TABLE last"),
        Migration::new(5, "number", "PRAGMA user_version = 5; PRAGMA application_id = 7").down("PRAGMA user_version = 4"),
    ]);
    let problems = problems(set.check());
    let found: Vec<_> = problems
        .iter()
        .map(|problem| match problem {
            MigrationError::NotRestored {
                file,
                version,
                after: Direction::Down,
                differences,
            } => (file.as_str(), *version, differences.join("; ")),
            other => panic!("{other:?}"),
        })
        .collect();
    let wanted = [
        (
            "2 (orders)",
            2,
            "the table users was `NULL ) STRICT` and is `NULL , orders INTEGER ) STRICT`; the table orders is left",
        ),
        ("3 (gone)", 3, "the table users is missing"),
        (
            "5 (number)",
            5,
            "user_version was 0 and is 4; application_id was 0 and is 7",
        ),
    ];
    assert_eq!(
        found,
        wanted.map(|(file, version, text)| (file, version, text.to_owned()))
    );
}

#[test]
fn failing_ways_are_named_with_statement() {
    let set = Migrations::new([
        users(),
        Migration::new(2, "typo", "CREATE TABLE a(id INTEGER) STRICT").down("DROP TABLE b"),
        // Rows are left, so it cannot be applied again.
        Migration::new(3, "rows", "INSERT INTO users VALUES (1, 'Ada')").down("SELECT 1"),
        Migration::new(4, "fine", "CREATE TABLE c(id INTEGER) STRICT").down("DROP TABLE c"),
        Migration::new(5, "broken", "CREATE TABLE d(id INTEGER) STRICT; nonsense").down("DROP TABLE d"),
        Migration::new(6, "never reached", "CREATE TABLE e(id INTEGER) STRICT"),
    ]);
    let texts: Vec<_> = problems(set.check()).iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 3, "{texts:?}");
    assert_has(&texts[0], &["migration 2 (typo)", "no such table: b", "DROP TABLE b"]);
    assert_has(&texts[1], &["migration 3 (rows)", "UNIQUE constraint failed: users.id"]);
    assert_has(&texts[2], &["migration 5 (broken)", "nonsense", "statement 2"]);
}

/// Only the schema counts.
#[test]
fn rows_that_are_left_are_no_difference() {
    let set = Migrations::new([
        users(),
        Migration::new(2, "rows", "INSERT OR REPLACE INTO users VALUES (1, 'Ada')")
            .down("UPDATE users SET name = 'Bob'"),
    ]);
    set.check().unwrap();
}

#[test]
fn set_that_no_store_opens_with_is_refused() {
    let error = Migrations::new([]).check();
    assert!(matches!(migration_error(error), MigrationError::Empty { .. }));
    let gap = Migrations::new([users(), Migration::new(3, "gap", "SELECT 1")]).check();
    assert!(matches!(migration_error(gap), MigrationError::Gap { version: 2, .. }));
    Migrations::new([users(), Migration::new(3, "gap", "SELECT 1").down("SELECT 1")])
        .allow_gaps(true)
        .check()
        .unwrap();
    let error = Options::new().check_migrations().unwrap_err();
    assert!(
        matches!(
            error,
            Error::Options {
                option: "migrations",
                ..
            }
        ),
        "{error:?}"
    );
    for (option, options) in [
        ("create", Options::new().create(false)),
        ("read_only", Options::new().read_only(true)),
    ] {
        let error = options
            .migrations(Migrations::new([users()]))
            .check_migrations()
            .unwrap_err();
        assert!(
            matches!(&error, Error::Options { option: named, .. } if *named == option),
            "{error:?}"
        );
    }
}

#[test]
fn functions_of_on_connect_can_be_used() {
    use larder::rusqlite::functions::FunctionFlags;
    let set = Migrations::new([
        users(),
        Migration::new(2, "call", "INSERT INTO users VALUES (1, shout('ada'))").down("DELETE FROM users"),
    ]);
    let error = set.check().unwrap_err().to_string();
    assert_has(&error, &["no such function: shout"]);
    let options = Options::new().migrations(set).on_connect(|conn, _| {
        Ok(
            conn.create_scalar_function("shout", 1, FunctionFlags::SQLITE_UTF8, |context| {
                Ok(context.get::<String>(0)?.to_uppercase())
            })?,
        )
    });
    options.check_migrations().unwrap();
}
