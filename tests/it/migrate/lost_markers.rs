//! Comments that begin a way down, and comments that do not: a way down must not run right after the way up, and an
//! ordinary migration must not be refused for a word.

use larder::{Migration, MigrationError, Migrations, Options};

use crate::support::migrations::{applied, assert_has, files, migration_error};

/// Comments before a way down, in a file that has no marker that larder knows.
const MARKERS: &[&str] = &[
    // Tools.
    "-- +migrate Down",
    "-- +migrate Down notransaction",
    "-- +micrate Down",
    "-- rambler down",
    "-- !Downs",
    "--- !Downs",
    "-- //@UNDO",
    "-- @UNDO",
    "-- @down",
    "-- Down Migration",
    "---- create above / drop below ----",
    "  -- migrate:down",
    "-- migrate down",
    "-- MIGRATE:DOWN",
    "/* migrate:down */",
    // Headings.
    "-- Down",
    "-- DOWN:",
    "--down",
    "-- === DOWN ===",
    "-- [down]",
    "-----------\n-- Down\n-----------",
    "/* Down */",
    "/*\n * Down\n */",
    "-- Undo",
    "-- rollback",
    "-- ROLLBACK;",
    "-- Down (rollback)",
    "-- UNDO THE ABOVE",
    "-- Undo all of the above:",
    "-- Downgrade",
    "-- Downgrade:",
    "-- downgrade script",
    "-- 001 down",
    "-- 001_a down",
    "-- 001_a.down.sql",
    "-- To undo, run:",
    "-- To undo this migration, run the following:",
    "-- To roll back:",
    "-- Roll back",
    "-- Rollback script",
    "-- ROLLBACK SECTION",
    "-- For rollback, run",
    "-- In case of rollback:",
    "-- If this must be rolled back:",
    "-- Revert",
    "-- Revert a from sqlite",
    "-- Reverting:",
    "-- Reverse migration",
    "-- How to revert this",
    "-- Way down",
    "-- Down: removes the table",
    "-- Down - removes the table",
    "-- Rollback: drop the table",
    "-- Begin rollback",
    "-- and this is the way down for it",
    "-- the statements to undo it with",
];

/// Ways up and down of one migration.
const WAYS: &[(&str, &str)] = &[
    ("CREATE TABLE b(n INTEGER);", "DROP TABLE b;"),
    (
        "CREATE TABLE b(n);\nCREATE INDEX b_n ON b(n);",
        "DROP INDEX b_n;\nDROP TABLE IF EXISTS \"b\";",
    ),
    ("ALTER TABLE a ADD COLUMN m TEXT;", "ALTER TABLE a DROP COLUMN m;"),
    ("ALTER TABLE a RENAME TO c;", "ALTER TABLE c RENAME TO a;"),
    ("CREATE VIEW v AS SELECT n FROM a;", "DROP VIEW v;"),
    ("INSERT INTO a VALUES (1);", "DELETE FROM a WHERE n = 1;"),
];

/// Comments of ordinary migrations.
const COMMENTS: &[&str] = &[
    "-- prices that drop below zero",
    "-- Rollback: restore the backup",
    "-- rollback is by backup only",
    "-- Downtime: a minute",
    "-- How far down the tree a node is",
    "-- what comes below drops nothing",
    "-- a rollback of this is not meant",
    "-- and that is all for undo, too",
    "-- TODO: down the line, an index",
    "-- see https://example.com/users/down",
    "-- slow down",
    "-- 'down' is a column",
    "-- \"up\" or \"down\", nothing else",
    "-- undo log",
    "-- Undo history of the editor, newest first",
    "-- reverse chronological order",
    "-- reverse index",
    "-- Reverting a payment makes a row here",
    "-- breakdown by month",
    "/* Shut down. */",
    "/* Up\n * and down the tree\n */",
    "-- migrated by hand",
    "-- the goose goes up",
    "-- To undo this, restore the backup of that day",
    "-- down payments, in cents",
    "-- users that were rolled back to the free plan",
    "-- Downloads",
    "-- +migrate Up",
];

fn one(up: &str) -> Migrations {
    files(&[("001_a.sql", "CREATE TABLE a(n INTEGER)"), ("002_b.sql", up)])
}

#[track_caller]
fn refused(set: Migrations, comment: &str) {
    match migration_error(Options::new().migrations(set).open_temp()) {
        MigrationError::Format {
            line: Some(_), problem, ..
        } => {
            assert_has(&problem, &["looks like a marker", "Migrations::plain_comments([2])"]);
        }
        other => panic!("{comment:?}: {other:?}"),
    }
}

#[track_caller]
fn accepted(set: Migrations, comment: &str) {
    let opened = Options::new().migrations(set).open_temp();
    let store = opened.unwrap_or_else(|error| panic!("{comment:?}: {error}"));
    assert_eq!(applied(&store).last(), Some(&2), "{comment:?}");
}

#[test]
fn way_down_below_a_marker_is_refused() {
    for marker in MARKERS {
        for (up, down) in WAYS {
            let text = format!("{up}\n\n{marker}\n{down}\n");
            refused(one(&text), marker);
            refused(one(&text.replace('\n', "\r\n")), marker);
            let list = [
                Migration::new(1, "a", "CREATE TABLE a(n INTEGER)"),
                Migration::new(2, "b", &text),
            ];
            refused(Migrations::new(list), marker);
            refused(one(&format!("-- migrate:up\n{text}")), marker);
            refused(one(&format!("-- +goose Up\n{text}")), marker);
        }
    }
}

#[test]
fn comments_of_ordinary_migrations_are_accepted() {
    for comment in COMMENTS {
        for text in [
            format!("CREATE TABLE b(n);\n{comment}\nCREATE TABLE c(n);\n"),
            format!("{comment}\nCREATE TABLE b(n);\n"),
            format!("CREATE TABLE b(n);\n{comment}"),
            format!("CREATE TABLE b(n);\n{comment}\n/* none */ ;\n"),
            // A rebuild.
            format!(
                "CREATE TABLE new(n INTEGER NOT NULL);\nINSERT INTO new SELECT n FROM a;\n{comment}\nDROP TABLE a;\n\
                 ALTER TABLE new RENAME TO a;\n"
            ),
            format!("ALTER TABLE a ADD COLUMN m;\n{comment}\nUPDATE a SET m = 1;\nCREATE INDEX a_m ON a(m);\n"),
            format!("DELETE FROM a;\n{comment}\nINSERT INTO a VALUES (1);\n"),
            // A table of its own that is done with.
            format!("CREATE TABLE step(n);\nUPDATE a SET n = 1;\n{comment}\nUPDATE a SET n = 2;\n"),
        ] {
            accepted(one(&text), &text);
        }
    }
}

#[test]
fn marker_without_statements_below_is_a_comment() {
    for marker in MARKERS
        .iter()
        .filter(|marker| !marker.to_lowercase().contains("migrate:") && !marker.contains("+goose"))
    {
        for below in ["", "\n", "\n-- DROP TABLE b;\n", "\n/* DROP TABLE b; */ ;\n"] {
            accepted(one(&format!("CREATE TABLE b(n);\n{marker}{below}")), marker);
        }
    }
}

#[test]
fn comment_inside_a_statement_begins_nothing() {
    for text in [
        "CREATE TABLE b(\n  n INTEGER, -- down\n  m INTEGER -- Undo\n);",
        "CREATE TRIGGER t AFTER INSERT ON a BEGIN\n  -- rollback\n  DELETE FROM a WHERE n = 1;\n  -- Down\n  DELETE FROM a WHERE n = 2;\nEND;",
        "INSERT INTO a VALUES ('# Manual\n-- Down\n');\nDELETE FROM a;",
    ] {
        accepted(one(text), text);
    }
}

#[test]
fn comments_count_less_where_there_is_a_way_down() {
    for comment in [
        "-- Down",
        "-- Rollback: drop it",
        "-- To undo, run:",
        "-- UNDO THE ABOVE",
    ] {
        let up = format!("CREATE TABLE b(n);\n{comment}\nDROP TABLE b;\nCREATE TABLE b(n);\n");
        accepted(
            one(&format!("-- migrate:up\n{up}-- migrate:down\nDROP TABLE b;\n")),
            comment,
        );
        accepted(
            one(&format!("-- +goose Up\n{up}-- +goose Down\nDROP TABLE b;\n")),
            comment,
        );
        // A way down elsewhere tells nothing about this file.
        refused(
            files(&[
                ("001_a.sql", "SELECT 1"),
                ("002_b.sql", &up),
                ("002_b.down.sql", "DROP TABLE b"),
            ]),
            comment,
        );
        let list = [
            Migration::new(1, "a", "SELECT 1"),
            Migration::new(2, "b", &up).down("DROP TABLE b"),
        ];
        refused(Migrations::new(list), comment);
    }
    // A tool's marker stands there by mistake all the same.
    for marker in ["-- +migrate Down", "  -- migrate:down", "-- goose down"] {
        let up = format!("CREATE TABLE b(n);\n{marker}\nDROP TABLE b;\n");
        refused(
            one(&format!("-- migrate:up\n{up}-- migrate:down\nDROP TABLE b;\n")),
            marker,
        );
    }
}

/// The advice was to add words to the comment, which changes the file of a migration that is applied.
#[test]
fn plain_comments_are_declared_by_version() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let text = "INSERT INTO a VALUES (1);\n-- Down\nDELETE FROM a WHERE n > 1;\n";
    refused(one(text), text);
    refused(one(text).plain_comments([1, 3]), text);
    for _ in 0..2 {
        let set = one(text).plain_comments([2]);
        let store = Options::new().migrations(set).open(&path).unwrap();
        assert_eq!(applied(&store), [1, 2]);
        store.close().unwrap();
    }
    let changed = text.replace("-- Down", "-- Down, down");
    let error = migration_error(Options::new().migrations(one(&changed).plain_comments([2])).open(&path));
    assert!(matches!(error, MigrationError::Changed { .. }), "{error:?}");
}
