//! Migration sources and formats: parsing, statement splitting, line numbers in errors, what counts as a change, and
//! the adoption of another tool's record.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
#[cfg(target_os = "linux")]
use std::time::{Duration, Instant};

use include_dir::{Dir, include_dir};
use larder::rusqlite::{Connection, params};
use larder::{Adopt, Direction, DryRun, Migration, MigrationError, Migrations, Options, Store};
use tempfile::tempdir;

#[cfg(target_os = "linux")]
use crate::support::child::{Child, Task, tell};
use crate::support::migrations::{
    GOOSE_TABLE, applied, files, made_by, migration_error, names, number, pending, texts,
};
#[cfg(target_os = "linux")]
use crate::support::with_stalls;

static FOLDER: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/tests/migrations");

fn embedded() -> Migrations {
    let top = FOLDER.files();
    let all = top.chain(FOLDER.dirs().flat_map(|folder| folder.files()));
    Migrations::files(all.map(|file| (file.path(), file.contents()))).unwrap()
}

/// A new database with the files applied.
#[track_caller]
fn store_with(list: &[(&str, &str)]) -> Store {
    open(files(list)).unwrap()
}

fn open(set: Migrations) -> larder::Result<Store> {
    Options::new().migrations(set).open_temp()
}

/// The application's own tables.
fn tables(store: &Store) -> Vec<String> {
    texts(
        store,
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE '%\\_migrations' ESCAPE '\\'
         AND name NOT LIKE 'sqlite%' ORDER BY name",
    )
}

/// What Dbmate would read.
fn recorded(store: &Store) -> Vec<String> {
    texts(store, "SELECT version FROM schema_migrations ORDER BY rowid")
}

/// The line, where there is one, and the problem of a file that is refused.
#[track_caller]
fn refused_format(name: &str, text: &str) -> (Option<usize>, String) {
    match migration_error(Migrations::files([(name, text)])) {
        MigrationError::Format { file, line, problem } => {
            assert_eq!(file, name);
            (line, problem)
        }
        other => panic!("another error: {other:?}"),
    }
}

/// Where a migration failed, and why.
#[derive(Debug, PartialEq)]
struct Failure {
    file: String,
    line: usize,
    number: usize,
    statement: String,
    reason: String,
}

#[track_caller]
fn failure<T>(result: larder::Result<T>) -> Failure {
    let error = migration_error(result);
    let message = error.to_string();
    match error {
        MigrationError::Failed {
            file,
            line,
            number,
            statement,
            reason,
            kept,
            ..
        } => {
            assert_eq!(kept, 0);
            for told in [&file, &format!("line {line}:"), &statement, &reason] {
                assert!(message.contains(told), "{told:?} is not in {message:?}");
            }
            Failure {
                file,
                line,
                number,
                statement,
                reason,
            }
        }
        other => panic!("another error: {other:?}"),
    }
}

/// Of one file: the line and the reason.
#[track_caller]
fn line_and_reason(name: &str, text: &str) -> (usize, String) {
    let failure = failure(open(files(&[(name, text)])));
    assert_eq!(failure.file, name);
    (failure.line, failure.reason)
}

// ---- sources ----

#[test]
fn list_is_applied_in_order_of_versions() {
    let set = Migrations::new([
        Migration::new(3, "third", "INSERT INTO t VALUES ('third')"),
        Migration::new(1, "first", "CREATE TABLE t(name TEXT) STRICT"),
        Migration::new(2, "second", String::from("INSERT INTO t VALUES ('second')")),
    ]);
    let names: Vec<_> = set.iter().map(|m| (m.version(), m.name().to_owned())).collect();
    assert_eq!(names, [(1, "first".into()), (2, "second".into()), (3, "third".into())]);
    let store = open(set).unwrap();
    assert_eq!(texts(&store, "SELECT name FROM t ORDER BY rowid"), ["second", "third"]);
    assert_eq!(recorded(&store), ["1", "2", "3"]);
    assert_eq!(pending(&store), [0; 0]);
}

#[test]
fn files_embedded_by_include_dir_are_applied() {
    let set = Migrations::files(FOLDER.files().map(|file| (file.path(), file.contents()))).unwrap();
    let store = open(set).unwrap();
    assert_eq!(tables(&store), ["orders", "totals", "users"]);
    store
        .write(|tx| {
            tx.execute_batch("INSERT INTO users VALUES (1, 'ann'); INSERT INTO orders VALUES (1, 1, 30), (2, 1, 12)")
        })
        .unwrap();
    assert_eq!(number(&store, "SELECT cents FROM totals"), 42);
}

#[test]
fn folders_embedded_by_include_dir_are_migrations_too() {
    let store = open(embedded()).unwrap();
    assert_eq!(tables(&store), ["notes", "orders", "totals", "users"]);
    assert_eq!(names(&store), ["users", "orders", "totals", "notes"]);
    store.migrate_to(0).unwrap();
    assert_eq!(tables(&store), [""; 0]);
}

#[test]
fn folder_and_embedded_files_give_same_set() {
    let on_disk = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/migrations");
    let at_run_time = open(Migrations::folder(on_disk).unwrap()).unwrap();
    let packed = open(embedded()).unwrap();
    let all = "SELECT version || ' ' || name || ' ' || checksum FROM larder_migrations ORDER BY version";
    assert_eq!(texts(&at_run_time, all), texts(&packed, all));
    assert_eq!(tables(&at_run_time), tables(&packed));
    assert_eq!(recorded(&at_run_time), ["001", "002", "003", "004"]);
}

#[test]
fn embedded_files_continue_a_database_from_a_folder() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let on_disk = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/migrations");
    let set = Migrations::folder(on_disk).unwrap();
    Options::new().migrations(set).open(&path).unwrap().close().unwrap();
    let store = Options::new().migrations(embedded()).open(&path).unwrap();
    assert_eq!(store.migrate().unwrap().steps, []);
}

#[test]
fn files_accept_names_and_texts_of_any_type() {
    Migrations::files([("001_a.sql", "SELECT 1")]).unwrap();
    Migrations::files([(String::from("001_a.sql"), String::from("SELECT 1"))]).unwrap();
    Migrations::files([(Path::new("001_a.sql"), b"SELECT 1".as_slice())]).unwrap();
    Migrations::files(vec![("001_a.sql", b"SELECT 1".to_vec())]).unwrap();
}

#[test]
fn only_file_name_counts_errors_show_whole_path() {
    let store = store_with(&[("db/2024/001_a.sql", "CREATE TABLE a(n)")]);
    assert_eq!(recorded(&store), ["001"]);
    let failure = failure(open(files(&[("db/2024/001_a.sql", "SELEKT")])));
    assert_eq!(failure.file, "db/2024/001_a.sql");
}

#[test]
fn versions_are_sorted_as_numbers() {
    let names: Vec<_> = (1..=11).rev().map(|n| format!("{n}_step.sql")).collect();
    let set = Migrations::files(names.iter().map(|name| (name, "SELECT 1"))).unwrap();
    assert_eq!(recorded(&open(set).unwrap())[8..], ["9", "10", "11"]);
}

#[test]
fn formats_may_be_mixed_in_one_set() {
    let mixed = [
        ("001_plain.sql", "CREATE TABLE plain(n)"),
        ("001_plain.down.sql", "DROP TABLE plain"),
        ("002-folder/up.sql", "CREATE TABLE in_folder(n)"),
        ("002-folder/down.sql", "DROP TABLE in_folder"),
        (
            "00003_goose.sql",
            "-- +goose Up\nCREATE TABLE goose(n);\n-- +goose Down\nDROP TABLE goose;\n",
        ),
        ("000004_golang.up.sql", "CREATE TABLE golang(n)"),
        ("000004_golang.down.sql", "DROP TABLE golang"),
        (
            "20260401120000_dbmate.sql",
            "-- migrate:up\nCREATE TABLE dbmate(n);\n-- migrate:down\nDROP TABLE dbmate;\n",
        ),
    ];
    let store = store_with(&mixed);
    assert_eq!(tables(&store), ["dbmate", "golang", "goose", "in_folder", "plain"]);
    assert_eq!(recorded(&store), ["001", "002", "00003", "000004", "20260401120000"]);
    let report = store.migrate_to(0).unwrap();
    let undone: Vec<_> = report.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(undone, ["dbmate", "golang", "goose", "folder", "plain"]);
    assert!(report.steps.iter().all(|step| step.direction == Direction::Down));
    assert_eq!((tables(&store), recorded(&store)), (vec![], vec![]));
}

#[test]
fn files_other_than_sql_are_skipped() {
    let store = store_with(&[
        ("README.md", "CREATE TABLE readme(n)"),
        (".gitkeep", ""),
        ("001_a.sql", "CREATE TABLE a(n)"),
        ("001_a.sql.orig", "CREATE TABLE orig(n)"),
        ("001_a.sql~", "CREATE TABLE tilde(n)"),
        (".002_swap.sql", "CREATE TABLE swap(n)"),
        ("002_b.txt", "CREATE TABLE txt(n)"),
        ("Makefile", "all:"),
    ]);
    assert_eq!(
        (tables(&store), recorded(&store)),
        (vec!["a".into()], vec!["001".into()])
    );
}

/// `Migrations::files` looked whether a name is UTF-8 before it looked what the file is, and refused files that
/// `Migrations::folder` passes over.
#[test]
fn skipped_files_may_have_names_not_utf8() {
    let list = |name: &[u8]| Migrations::files([(Path::new(OsStr::from_bytes(name)), "CREATE TABLE a(n)")]);
    for name in [&b"caf\xe9.txt"[..], b"001_caf\xe9", b".caf\xe9.sql"] {
        assert_eq!(list(name).unwrap().iter().count(), 0);
    }
    let error = list(b"001_caf\xe9.sql").unwrap_err();
    assert!(error.to_string().contains("the name is not UTF-8"), "{error}");
}

#[test]
fn folder_skips_files_other_than_sql() {
    let folder = tempdir().unwrap();
    let write = |name: &str, contents: &[u8]| fs::write(folder.path().join(name), contents).unwrap();
    write("001_a.sql", b"CREATE TABLE a(n)");
    write("README.md", b"caf\xe9, which is Latin-1");
    write(".gitkeep", b"");
    write("app.db", b"\0\0\0");
    write(".hidden.sql", b"CREATE TABLE hidden(n)");
    fs::create_dir(folder.path().join("archive")).unwrap();
    write("archive/002_old.sql", b"CREATE TABLE old(n)");
    fs::create_dir(folder.path().join("002-b")).unwrap();
    write("002-b/up.sql", b"CREATE TABLE b(n)");
    write("002-b/notes.sql", b"CREATE TABLE notes(n)");
    let store = open(Migrations::folder(folder.path()).unwrap()).unwrap();
    assert_eq!(tables(&store), ["a", "b"]);
}

/// Emacs keeps a dangling link `.#001_a.sql` beside a file that is being edited, and that stopped the program.
#[test]
fn folder_does_not_read_skipped_files() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("001_a.sql"), "CREATE TABLE a(n)").unwrap();
    std::os::unix::fs::symlink("ann@host.4711", folder.path().join(".#001_a.sql")).unwrap();
    std::os::unix::fs::symlink("gone", folder.path().join("data.csv")).unwrap();
    let store = open(Migrations::folder(folder.path()).unwrap()).unwrap();
    assert_eq!(tables(&store), ["a"]);
}

#[test]
fn folder_is_read_once_when_named() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("001_a.sql"), "CREATE TABLE a(n)").unwrap();
    let set = Migrations::folder(folder.path()).unwrap();
    fs::write(folder.path().join("001_a.sql"), "CREATE TABLE other(n)").unwrap();
    fs::write(folder.path().join("002_b.sql"), "CREATE TABLE b(n)").unwrap();
    assert_eq!(tables(&open(set).unwrap()), ["a"]);
}

#[test]
fn folder_errors_show_the_path_on_disk() {
    let folder = tempdir().unwrap();
    fs::create_dir(folder.path().join("001-a")).unwrap();
    fs::write(folder.path().join("001-a/up.sql"), "CREATE TABLE a(n)").unwrap();
    fs::write(folder.path().join("001-a/down.sql"), "DROP TABLE a;\nDROP TABLE b;").unwrap();
    let store = open(Migrations::folder(folder.path()).unwrap()).unwrap();
    let failure = failure(store.migrate_to(0));
    assert_eq!((failure.file.as_str(), failure.line), ("001-a/down.sql", 2));
}

// ---- Dbmate ----

const DBMATE: &str = "20260401120000_users.sql";

#[test]
fn dbmate_parts_run_in_their_direction() {
    let store = store_with(&[(
        DBMATE,
        "-- migrate:up\nCREATE TABLE users(n);\nCREATE INDEX by_n ON users(n);\n\n-- migrate:down\nDROP TABLE users;\n",
    )]);
    assert_eq!(
        (tables(&store), recorded(&store)),
        (vec!["users".into()], vec!["20260401120000".into()])
    );
    let status = store.migrations().unwrap();
    assert_eq!(
        (status.applied[0].version, status.applied[0].name.as_str()),
        (20260401120000, "users")
    );
    store.migrate_to(0).unwrap();
    assert_eq!((tables(&store), recorded(&store)), (vec![], vec![]));
}

#[test]
fn dbmate_file_may_have_windows_line_ends() {
    let text = "\u{feff}-- migrate:up\r\nCREATE TABLE users(n);\r\n-- migrate:down\r\nDROP TABLE users;\r\n";
    let store = store_with(&[(DBMATE, text)]);
    assert_eq!(tables(&store), ["users"]);
    store.migrate_to(0).unwrap();
    assert_eq!(tables(&store), [""; 0]);
}

#[test]
fn dbmate_file_may_begin_with_comments_and_blanks() {
    let text = "\n-- Users, as agreed in March.\n   -- (see the wiki)\n\n-- migrate:up\nCREATE TABLE users(n);";
    assert_eq!(tables(&store_with(&[(DBMATE, text)])), ["users"]);
}

#[test]
fn comments_of_both_kinds_may_precede_first_marker() {
    for (name, up, down) in [
        (DBMATE, "-- migrate:up", "-- migrate:down"),
        (GOOSE, "-- +goose Up", "-- +goose Down"),
    ] {
        for before in [
            "/* Users. */\n",
            "/* Users;\n * as agreed; -- in March\n */\n\n-- See the wiki;\n",
            "-- /* Users\n/* SELECT 1; */ -- SELECT 2;\n",
            "\u{feff}/* Users */ /* and */\n\t-- more\n",
        ] {
            let text = format!("{before}{up}\nCREATE TABLE users(n);\n{down}\nDROP TABLE users;\n");
            for text in [text.replace('\n', "\r\n"), text] {
                let store = store_with(&[(name, &text)]);
                assert_eq!(tables(&store), ["users"], "{text:?}");
                store.migrate_to(0).unwrap();
                assert_eq!(tables(&store), [""; 0], "{text:?}");
            }
            let failing = format!("{before}{up}\nSELEKT 1;\n");
            assert_eq!(
                line_and_reason(name, &failing).0,
                before.lines().count() + 2,
                "{failing:?}"
            );
        }
    }
}

#[test]
fn dbmate_markers_may_be_spaced_as_in_dbmate() {
    let text = "--migrate:up\nCREATE TABLE users(n);\n--   migrate:down  \nDROP TABLE users;";
    let store = store_with(&[(DBMATE, text)]);
    assert_eq!(tables(&store), ["users"]);
    store.migrate_to(0).unwrap();
}

#[test]
fn missing_or_empty_down_part_cannot_be_undone() {
    const UP: &str = "-- migrate:up\nCREATE TABLE users(n);\n";
    for down in [
        "",
        "-- migrate:down",
        "-- migrate:down\n\n\n",
        "-- migrate:down\n-- nothing to undo\n/* really */ ;\n",
    ] {
        let store = store_with(&[(DBMATE, &format!("{UP}{down}"))]);
        let error = migration_error(store.migrate_to(0));
        assert!(
            matches!(&error, MigrationError::NoDown { file, .. } if file == DBMATE),
            "{down:?}: {error:?}"
        );
        assert_eq!((tables(&store), recorded(&store).len()), (vec!["users".into()], 1));
    }
}

#[test]
fn dbmate_part_may_ask_for_no_transaction() {
    let text = "-- migrate:up transaction:false\nCREATE TABLE a(n);\nBEGIN; INSERT INTO a VALUES (1); COMMIT;\n\
                -- migrate:down   transaction:false\nBEGIN;\nDROP TABLE a;\nCOMMIT;\n";
    let store = store_with(&[(DBMATE, text)]);
    assert_eq!(
        (tables(&store), number(&store, "SELECT n FROM a")),
        (vec!["a".into()], 1)
    );
    store.migrate_to(0).unwrap();
    assert_eq!((tables(&store), recorded(&store)), (vec![], vec![]));
}

#[test]
fn transaction_option_applies_to_its_dbmate_part_only() {
    let text = "-- migrate:up transaction:false\nCREATE TABLE a(n);\nBEGIN;\nCOMMIT;\n\
                -- migrate:down\nDROP TABLE a;\nBEGIN;\n";
    let store = store_with(&[(DBMATE, text)]);
    let failure = failure(store.migrate_to(0));
    assert_eq!(
        (failure.line, failure.number, failure.statement.as_str()),
        (7, 2, "BEGIN")
    );
    assert!(failure.reason.contains("transaction of its own"), "{}", failure.reason);
    assert_eq!(tables(&store), ["a"], "the DROP before it was rolled back");

    let text = "-- migrate:up transaction:true\nCREATE TABLE a(n);\nBEGIN;\n\
                -- migrate:down transaction:false\nCOMMIT;\n";
    assert_eq!(line_and_reason(DBMATE, text).0, 3);
}

/// It was refused as the ATTACH that SQLite runs inside it, and is what people ask for no transaction for.
#[test]
fn migration_outside_a_transaction_may_vacuum() {
    for (name, text) in [
        (
            DBMATE,
            "-- migrate:up transaction:false\nCREATE TABLE a(n);\nVACUUM;\n\
             -- migrate:down transaction:false\nVACUUM;\nDROP TABLE a;\n",
        ),
        (
            GOOSE,
            "-- +goose NO TRANSACTION\n-- +goose Up\nCREATE TABLE a(n);\nVACUUM;\n\
             -- +goose Down\nVACUUM;\nDROP TABLE a;\n",
        ),
    ] {
        let store = open(files(&[(name, text)])).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(tables(&store), ["a"]);
        store.migrate_to(0).unwrap();
        assert_eq!(tables(&store), [""; 0]);
    }
}

#[test]
fn vacuum_in_transaction_is_refused_with_advice() {
    let (line, reason) = line_and_reason(DBMATE, "-- migrate:up\nCREATE TABLE a(n);\n\nVACUUM;\n");
    assert_eq!(line, 4);
    for told in [
        "VACUUM is refused",
        "inside a transaction",
        "transaction:false",
        "-- +goose NO TRANSACTION",
        "Migration::without_transaction",
    ] {
        assert!(reason.contains(told), "{told:?} is not in {reason:?}");
    }
}

// ---- Goose ----

const GOOSE: &str = "00001_users.sql";

#[test]
fn goose_parts_run_in_their_direction() {
    let store = store_with(&[(
        GOOSE,
        "-- +goose Up\nCREATE TABLE users(n);\n\n-- +goose Down\nDROP TABLE users;\n",
    )]);
    assert_eq!(
        (tables(&store), recorded(&store)),
        (vec!["users".into()], vec!["00001".into()])
    );
    store.migrate_to(0).unwrap();
    assert_eq!((tables(&store), recorded(&store)), (vec![], vec![]));
}

#[test]
fn goose_statement_may_contain_semicolons() {
    let store = store_with(&[(
        GOOSE,
        "-- +goose Up
CREATE TABLE t(n INTEGER) STRICT;
-- +goose StatementBegin
CREATE TRIGGER twice AFTER INSERT ON t WHEN new.n < 100
BEGIN
    INSERT INTO t VALUES (new.n + 100);
    INSERT INTO t VALUES (new.n + 200);
END;
-- +goose StatementEnd
INSERT INTO t VALUES (1);
-- +goose Down
-- +goose StatementBegin
DROP TRIGGER twice;
DROP TABLE t;
-- +goose StatementEnd
",
    )]);
    assert_eq!(number(&store, "SELECT sum(n) FROM t"), 1 + 101 + 201);
    store.migrate_to(0).unwrap();
    assert_eq!(tables(&store), [""; 0]);
}

#[test]
fn goose_file_may_have_windows_line_ends() {
    let text = "\u{feff}-- +goose UP\r\n--+goose statementbegin\r\nCREATE TABLE a(n);\r\n--  +goose  STATEMENTEND\r\n\
                -- +goose down\r\nDROP TABLE a;\r\n";
    let store = store_with(&[(GOOSE, text)]);
    assert_eq!(tables(&store), ["a"]);
    store.migrate_to(0).unwrap();
    assert_eq!(tables(&store), [""; 0]);
}

#[test]
fn goose_no_transaction_covers_both_parts() {
    const UP: &str = "CREATE TABLE a(n); BEGIN; INSERT INTO a VALUES (1); COMMIT;";
    const DOWN: &str = "-- +goose Down\nBEGIN; DROP TABLE a; COMMIT;";
    for head in [
        "-- +goose NO TRANSACTION\n-- +goose Up\n",
        "-- +goose Up\n-- +goose no transaction\n",
    ] {
        let store = store_with(&[(GOOSE, &format!("{head}{UP}\n{DOWN}\n"))]);
        assert_eq!(
            (tables(&store), number(&store, "SELECT n FROM a")),
            (vec!["a".into()], 1)
        );
        store.migrate_to(0).unwrap();
        assert_eq!(tables(&store), [""; 0]);
    }
}

#[test]
fn goose_envsub_off_is_accepted_on_is_refused() {
    let off = "-- +goose ENVSUB OFF\n-- +goose Up\nCREATE TABLE a(t TEXT DEFAULT '${HOME}');\n-- +goose ENVSUB OFF\n";
    let store = store_with(&[(GOOSE, off)]);
    store
        .write(|tx| tx.execute("INSERT INTO a DEFAULT VALUES", []))
        .unwrap();
    assert_eq!(texts(&store, "SELECT t FROM a"), ["${HOME}"]);

    let (line, problem) = refused_format(GOOSE, "-- +goose Up\n-- +goose ENVSUB ON\nSELECT '${HOME}';\n");
    assert_eq!(line, Some(2));
    assert!(
        problem.contains("environment variables") && problem.contains("write the values literally"),
        "{problem}"
    );
}

#[test]
fn goose_annotations_must_be_in_order() {
    for (line, told, text) in [
        (
            Some(1),
            "Down comes before",
            "-- +goose Down\nSELECT 1;\n-- +goose Up\nSELECT 1;\n",
        ),
        (
            Some(1),
            "SQL before -- +goose Up",
            "SELECT 1;\n-- A comment.\n-- +goose Up\n",
        ),
        (
            Some(3),
            "second -- +goose Up",
            "-- +goose Up\nSELECT 1;\n-- +goose Up\nSELECT 2;\n",
        ),
        (
            Some(3),
            "second -- +goose Down",
            "-- +goose Up\n-- +goose Down\n-- +goose Down\n",
        ),
        (
            Some(1),
            "StatementBegin comes before",
            "-- +goose StatementBegin\n-- +goose Up\n",
        ),
        (
            Some(2),
            "StatementEnd is missing",
            "-- +goose Up\n-- +goose StatementBegin\nSELECT 1;\n",
        ),
        (
            Some(4),
            "StatementEnd is missing before -- +goose Down",
            "-- +goose Up\n-- +goose StatementBegin\nSELECT 1;\n-- +goose Down\n-- +goose StatementEnd\n",
        ),
        (
            Some(2),
            "without StatementBegin",
            "-- +goose Up\n-- +goose StatementEnd\n",
        ),
        (
            Some(3),
            "twice",
            "-- +goose Up\n-- +goose StatementBegin\n-- +goose StatementBegin\n-- +goose StatementEnd\n",
        ),
        (Some(2), "does not know the annotation", "-- +goose Up\n-- +goose Upp\n"),
        (
            None,
            "+goose Up is missing",
            "-- +goose NO TRANSACTION\n-- CREATE TABLE a(n);\n",
        ),
    ] {
        let (at, problem) = refused_format(GOOSE, text);
        assert!(at == line && problem.contains(told), "{text:?}: {at:?}, {problem}");
    }
}

// ---- plain SQL ----

#[test]
fn plain_file_may_have_a_separate_down_file() {
    for [up, down] in [
        ["001_users.sql", "001_users.down.sql"],
        ["001_users.up.sql", "001_users.down.sql"],
        ["001-users/up.sql", "001-users/down.sql"],
        ["1.users.SQL", "1.users.DOWN.SQL"],
        ["001 users.sql", "001 users.down.sql"],
    ] {
        for turned in [false, true] {
            let mut list = [(up, "CREATE TABLE users(n)"), (down, "DROP TABLE users")];
            if turned {
                list.reverse();
            }
            let store = store_with(&list);
            assert_eq!(tables(&store), ["users"], "{up}");
            assert_eq!(store.migrations().unwrap().applied[0].name, "users", "{up}");
            store.migrate_to(0).unwrap();
            assert_eq!(tables(&store), [""; 0], "{down}");
        }
    }
}

#[test]
fn plain_file_without_down_file_cannot_be_undone() {
    for list in [
        &[("001_users.sql", "CREATE TABLE users(n)")][..],
        &[
            ("001_users.sql", "CREATE TABLE users(n)"),
            ("001_users.down.sql", "-- none\n"),
        ],
        &[("20260401_users.sql", "CREATE TABLE users(n)")],
        &[("001.sql", "CREATE TABLE users(n)")],
    ] {
        let store = store_with(list);
        assert!(matches!(
            migration_error(store.migrate_to(0)),
            MigrationError::NoDown { .. }
        ));
        assert_eq!(tables(&store), ["users"]);
    }
}

#[test]
fn comment_that_mentions_down_is_a_comment() {
    let text =
        "-- How far down the tree a node is\nCREATE TABLE tree(depth INTEGER);\n-- and that is all for undo, too\n";
    assert_eq!(tables(&store_with(&[("001_tree.sql", text)])), ["tree"]);
}

// ---- statements ----

/// The rows of `t`, after a plain file has filled it.
fn rows_of_t(sql: &str) -> Vec<String> {
    let text = format!("CREATE TABLE t(x TEXT) STRICT;\n{sql}");
    texts(&store_with(&[("001_t.sql", &text)]), "SELECT x FROM t ORDER BY rowid")
}

#[test]
fn trigger_is_one_statement() {
    let rows = rows_of_t(
        "CREATE TABLE log(x TEXT) STRICT;
         CREATE TRIGGER a AFTER INSERT ON t BEGIN
             INSERT INTO log SELECT CASE WHEN new.x = 'a' THEN 'one; END;' ELSE 'other' END;
             DELETE FROM log WHERE x = 'nobody'; -- END;
         END;
         INSERT INTO t VALUES ('a');
         INSERT INTO t VALUES ('b');
         INSERT INTO t SELECT 'log: ' || group_concat(x, ', ') FROM log;",
    );
    assert_eq!(rows, ["a", "b", "log: one; END;, other"]);
}

#[test]
fn semicolons_and_dashes_in_strings_are_text() {
    let rows = rows_of_t(
        "INSERT INTO t VALUES ('a;b'), ('-- migrate?'), ('/* no comment */'), ('it''s; \"so\"');
         INSERT INTO t VALUES ('line one;
-- line two
line three');
         CREATE TABLE \"odd;name--\" ([a;b] TEXT, `c--d` TEXT);
         INSERT INTO \"odd;name--\" VALUES ('x', 'y');
         INSERT INTO t SELECT [a;b] || `c--d` FROM \"odd;name--\"",
    );
    assert_eq!(
        rows,
        [
            "a;b",
            "-- migrate?",
            "/* no comment */",
            "it's; \"so\"",
            "line one;\n-- line two\nline three",
            "xy"
        ]
    );
}

#[test]
fn comments_and_empty_statements_do_nothing() {
    let rows = rows_of_t(
        "-- INSERT INTO t VALUES ('no');
         /* INSERT INTO t VALUES ('no'); -- */ INSERT INTO t VALUES ('one'); -- and ; so on
         ;;; /**/ ; /* a
         ; b */
         INSERT INTO /* here, too; */ t -- or; here
         VALUES ('two');
         /* to the end",
    );
    assert_eq!(rows, ["one", "two"]);
}

#[test]
fn last_statement_needs_no_semicolon() {
    assert_eq!(rows_of_t("INSERT INTO t VALUES ('last')"), ["last"]);
    assert_eq!(rows_of_t("INSERT INTO t VALUES ('last') -- so"), ["last"]);
    assert_eq!(rows_of_t("INSERT INTO t VALUES ('last')\r\n\r\n"), ["last"]);
}

#[test]
fn thousand_statements_all_run() {
    let sql: String = (0..1000).map(|n| format!("INSERT INTO t VALUES ('{n}');\n")).collect();
    let rows = rows_of_t(&sql);
    assert!(rows.len() == 1000 && rows[999] == "999");
    let failure = failure(open(files(&[(
        "001_t.sql",
        &format!("CREATE TABLE t(x);\n{sql}SELEKT"),
    )])));
    assert_eq!((failure.line, failure.number), (1002, 1002));
}

/// Applies 20,000 small statements before one of 12 MB. Tells the time that this process has run for it, the time that it
/// took, and for how long the machine kept it waiting meanwhile, in milliseconds.
#[cfg(target_os = "linux")]
pub(crate) fn child(_: &Task) {
    const MANY: usize = 20_000;
    let sql: String = (0..MANY).map(|n| format!("INSERT INTO t VALUES ({n});\n")).collect();
    let text = format!(
        "CREATE TABLE t(n);\n{sql}INSERT INTO t VALUES ('{}');",
        "x".repeat(12 << 20)
    );
    let set = files(&[("001_t.sql", &text)]);
    let (began, ran) = (Instant::now(), time_run());
    let (store, lost) = with_stalls(|| open(set).unwrap());
    let (took, ran) = (began.elapsed(), time_run() - ran);
    assert_eq!(number(&store, "SELECT count(*) FROM t"), MANY as i64 + 1);
    assert_eq!(number(&store, "SELECT max(length(n)) FROM t"), 12 << 20);
    let waited = longest_wait() + lost;
    tell(format!(
        "{} {} {}",
        ran.as_millis(),
        took.as_millis(),
        waited.as_millis()
    ));
}

/// The longest time for which one of the threads of this process could have run, and had no core.
#[cfg(target_os = "linux")]
fn longest_wait() -> Duration {
    let threads = fs::read_dir("/proc/self/task").unwrap();
    let waits = threads.filter_map(|thread| {
        // A thread may end meanwhile. The time that it has run, that for which it waited, in nanoseconds, and more.
        let times = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        times.split_whitespace().nth(1)?.parse().ok()
    });
    waits.max().map(Duration::from_nanos).unwrap_or_default()
}

/// The time that all threads of this process have run, in user code and in the kernel.
#[cfg(target_os = "linux")]
fn time_run() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    // The name of the program, in parentheses, may have spaces.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks = fields.split_whitespace().skip(11).take(2);
    // A tick of /proc is 10 ms on each machine.
    ticks
        .map(|ticks| Duration::from_millis(10 * ticks.parse::<u64>().unwrap()))
        .sum()
}

/// SQLite copied all the rest of the text for each statement, 240 GB in all.
#[test]
#[cfg(target_os = "linux")]
fn small_statements_before_large_text_run_fast() {
    const LIMIT: u64 = 10_000;
    let child = Child::start("migrate::formats", "small statements", &[]);
    let line = child.line();
    child.finish();
    let times: Vec<u64> = line.split(' ').map(|time| time.parse().unwrap()).collect();
    let [ran, took, waited] = times[..] else {
        panic!("{line}")
    };
    assert!(ran < LIMIT, "it has run for {ran} ms");
    assert!(
        took < LIMIT + waited,
        "it took {took} ms, and the machine kept it waiting for {waited} ms of them"
    );
}

#[test]
fn text_of_any_language_and_blobs_are_kept() {
    let text = "CREATE TABLE größe(naïve TEXT, raw BLOB) STRICT;
        -- ein Kommentar: ß, 漢字, 🦀
        INSERT INTO größe VALUES ('Zürich; 東京 🦀', x'00ff3b2d2d');INSERT INTO größe VALUES ('é', zeroblob(3));";
    let store = store_with(&[("001_größe.sql", text)]);
    assert_eq!(
        texts(&store, "SELECT naïve FROM größe ORDER BY rowid"),
        ["Zürich; 東京 🦀", "é"]
    );
    let raw: Vec<Vec<u8>> = store
        .read(|tx| tx.query_map("SELECT raw FROM größe ORDER BY rowid", [], |row| row.get(0)))
        .unwrap();
    assert_eq!(raw, [vec![0, 0xff, 0x3b, 0x2d, 0x2d], vec![0; 3]]);
    assert_eq!(store.migrations().unwrap().applied[0].name, "größe");
}

#[test]
fn statement_that_returns_rows_runs_to_its_end() {
    let rows = rows_of_t(
        "SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3;
         PRAGMA foreign_key_list(t);
         INSERT INTO t VALUES ('a'), ('b'), ('c') RETURNING x;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50) SELECT i FROM n;
         UPDATE t SET x = x || '!' RETURNING x;",
    );
    assert_eq!(rows, ["a!", "b!", "c!"]);
    // Its last row is reached, and fails.
    let text = "SELECT 1;\nSELECT abs(n) FROM (SELECT 1 AS n UNION ALL SELECT -9223372036854775808);";
    let (line, reason) = line_and_reason("001_t.sql", text);
    assert!(line == 2 && reason.contains("integer overflow"), "{line}: {reason}");
}

#[test]
fn parameter_is_refused_unless_inside_a_string() {
    for parameter in ["?", "?1", ":name", "@name", "$name"] {
        let text = format!("CREATE TABLE t(x);\n\nINSERT INTO t\nVALUES ({parameter});\n");
        let failure = failure(open(files(&[("001_t.sql", &text)])));
        assert_eq!((failure.line, failure.number), (3, 2), "{parameter}");
        assert_eq!(failure.statement, "INSERT INTO t");
        assert!(
            failure.reason.contains("no parameters") && failure.reason.contains("quote a string"),
            "{}",
            failure.reason
        );
    }
    let rows = rows_of_t("INSERT INTO t VALUES ('?1'), (':name'), ('@name'), ('$name')");
    assert_eq!(rows, ["?1", ":name", "@name", "$name"]);
}

// ---- the line of an error ----

#[test]
fn syntax_error_is_named_by_its_own_line() {
    for (line, told, text) in [
        (1, "SELEKT", "SELEKT 1"),
        (3, "SELEKT", "CREATE TABLE t(x);\n\nSELEKT 1;\nSELECT 1;"),
        (
            4,
            "near \"t\"",
            "CREATE TABLE t(x);\nSELECT\n    x\nFORM t\nWHERE x = 1;",
        ),
        (
            5,
            "no such column: z",
            "CREATE TABLE t(x);\nUPDATE t\nSET\n    x = 1,\n    x = z;",
        ),
        (
            6,
            "near \"INSRT\"",
            "CREATE TABLE t(x);\n/* one\ntwo */\nCREATE TRIGGER a AFTER INSERT ON t\nBEGIN\n    INSRT INTO t;\nEND;",
        ),
        (
            3,
            "near \"TABEL\"",
            "SELECT 1; SELECT 2;\n-- ä; ß\nCREATE TABEL t(x);\n",
        ),
    ] {
        let (at, reason) = line_and_reason("001_t.sql", text);
        assert!(at == line && reason.contains(told), "{text:?}: line {at}, {reason}");
        let windows = text.replace('\n', "\r\n");
        assert_eq!(line_and_reason("001_t.sql", &windows).0, line, "with CRLF: {text:?}");
        let marked = format!("\u{feff}{text}");
        assert_eq!(line_and_reason("001_t.sql", &marked).0, line, "with a mark: {text:?}");
    }
}

#[test]
fn runtime_error_is_named_by_statements_first_line() {
    for (line, number, told, text) in [
        (
            2,
            2,
            "UNIQUE constraint failed: t.n",
            "CREATE TABLE t(n UNIQUE);\nINSERT INTO t\nVALUES\n  (1),\n  (1);",
        ),
        (
            7,
            4,
            "NOT NULL constraint failed: t.n",
            "CREATE TABLE t(\n  n NOT NULL\n);\nINSERT INTO t\nVALUES (1); INSERT INTO t VALUES (2);\n\n  \
             INSERT INTO t VALUES (NULL);",
        ),
        (
            4,
            2,
            "table t already exists",
            "CREATE TABLE t(n);\n-- again\n/* and\nso on */ CREATE TABLE t(n);",
        ),
        (
            3,
            3,
            "CHECK constraint failed",
            "CREATE TABLE t(n CHECK (n > 0));\nSELECT ';\n';INSERT INTO t VALUES (0)",
        ),
    ] {
        for text in [text.to_owned(), text.replace('\n', "\r\n")] {
            let failure = failure(open(files(&[("001_t.sql", &text)])));
            assert_eq!((failure.line, failure.number), (line, number), "{text:?}");
            assert!(failure.reason.contains(told), "{}", failure.reason);
        }
    }
}

#[test]
fn line_numbers_count_from_start_of_file() {
    let dbmate_up = "-- Users.\n\n-- migrate:up\n\nCREATE TABLE t(n);\nSELEKT 1;\n-- migrate:down\nDROP TABLE t;\n";
    assert_eq!(line_and_reason(DBMATE, dbmate_up).0, 6);
    let goose_up =
        "-- +goose NO TRANSACTION\n-- +goose Up\n-- +goose StatementBegin\nSELEKT 1;\n-- +goose StatementEnd\n";
    let error = migration_error(open(files(&[(GOOSE, goose_up)])));
    assert!(
        matches!(error, MigrationError::Failed { line: 4, number: 1, .. }),
        "{error:?}"
    );

    for (name, down) in [
        (
            DBMATE,
            "-- migrate:up\r\nCREATE TABLE t(n);\r\n\r\n-- migrate:down\r\n\r\nDROP TABLE\r\n  u;\r\n",
        ),
        (
            GOOSE,
            "-- +goose Up\nCREATE TABLE t(n);\n\n-- +goose Down\n-- +goose StatementBegin\nDROP TABLE u;\n",
        ),
    ] {
        let text = match name {
            GOOSE => format!("{down}-- +goose StatementEnd\n"),
            _ => down.to_owned(),
        };
        let store = store_with(&[(name, &text)]);
        let failure = failure(store.migrate_to(0));
        assert_eq!((failure.file.as_str(), failure.line, failure.number), (name, 6, 1));
        assert_eq!(failure.reason, "no such table: u");
        assert_eq!(applied(&store).len(), 1);
    }
}

#[test]
fn error_in_separate_down_file_names_that_file() {
    for [up, down] in [
        ["001_t.sql", "001_t.down.sql"],
        ["001_t.up.sql", "001_t.down.sql"],
        ["001-t/up.sql", "001-t/down.sql"],
    ] {
        let store = store_with(&[
            (up, "\n\n\nCREATE TABLE t(n)"),
            (down, "-- back\r\nDROP TABLE t;\r\nDROP TABEL u;\r\n"),
        ]);
        let failure = failure(store.migrate_to(0));
        assert_eq!((failure.file.as_str(), failure.line, failure.number), (down, 3, 2));
        assert_eq!(
            (failure.reason.as_str(), failure.statement.as_str()),
            ("near \"TABEL\": syntax error", "DROP TABEL u")
        );
        assert_eq!(tables(&store), ["t"]);
    }
}

#[test]
fn error_in_list_names_version_and_name() {
    let set = Migrations::new([
        Migration::new(1, "users", "CREATE TABLE users(n)").down("DROP TABLE users;\nDROP TABLE users;"),
        Migration::new(2, "email", "ALTER TABLE users\nADD COLUMN email TEXT;\nSELEKT 1"),
    ]);
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let up = failure(Options::new().migrations(set.clone()).open(&path));
    assert_eq!((up.file.as_str(), up.line, up.number), ("2 (email)", 3, 2));
    let store = Options::new().migrations(set.at_open(false)).open(&path).unwrap();
    assert_eq!(applied(&store), [1], "what came before it stays applied");
    let down = failure(store.migrate_to(0));
    assert_eq!((down.file.as_str(), down.line, down.number), ("1 (users)", 2, 2));
}

#[test]
fn long_statement_is_shown_truncated() {
    let text = format!("SELEKT '{}',\n  'secret'", "ä".repeat(200));
    let failure = failure(open(files(&[("001_t.sql", &text)])));
    assert_eq!(failure.statement, format!("SELEKT '{} ..", "ä".repeat(72)));
    let message = migration_error(open(files(&[("001_t.sql", &text)]))).to_string();
    assert!(!message.contains("secret"), "{message}");
}

#[test]
fn failed_statement_is_shown_whole_on_one_line() {
    for (told, text) in [
        (
            "INSERT INTO t VALUES (1), (1)",
            "CREATE TABLE t(n UNIQUE);\nINSERT INTO t\n    VALUES (1),\n\t(1)\n;\nSELECT 'next';\n",
        ),
        (
            "INSERT INTO t VALUES (1), (1)",
            "CREATE TABLE t(n UNIQUE); INSERT INTO t VALUES (1), (1); SELECT 'next'",
        ),
        (
            "INSERT INTO t VALUES (1), (1)",
            "CREATE TABLE t(n UNIQUE);\n-- Twice\n/* the same */ INSERT INTO t VALUES (1), (1) ;;",
        ),
        (
            "INSERT INTO t -- so VALUES (1), (1)",
            "CREATE TABLE t(n UNIQUE);\nINSERT INTO t -- so\nVALUES (1), (1);\n-- next\n",
        ),
        (
            "SELECT abs( -9223372036854775808 )",
            "SELECT 1;\nSELECT abs(\n  -9223372036854775808\n)\n",
        ),
    ] {
        for text in [text.replace('\n', "\r\n"), text.to_owned()] {
            assert_eq!(
                failure(open(files(&[("001_t.sql", &text)]))).statement,
                told,
                "{text:?}"
            );
        }
    }
    let long = format!(
        "CREATE TABLE t(n UNIQUE);\nINSERT INTO t\nVALUES {}",
        "(1),\n".repeat(100)
    );
    let text = format!("{long}('secret')");
    let failure = failure(open(files(&[("001_t.sql", &text)])));
    let beginning = format!("INSERT INTO t VALUES {}", "(1), ".repeat(20));
    assert_eq!(failure.statement, format!("{} ..", &beginning[..80]));
}

#[test]
fn statement_with_syntax_error_shows_first_line() {
    for (told, text) in [
        ("SELEKT 1", "SELEKT 1;"),
        ("SELEKT 1", "SELECT 0;\n\n  SELEKT   1 ;\nSELECT 2;\n"),
        ("SELECT x", "SELECT x\nFORM t;\n"),
        ("CREATE TABLE t(", "CREATE TABLE t(\n  n INTEGER,\n);\n"),
        (
            "CREATE TABLE",
            "CREATE TABLE t(n);\nCREATE TABLE\n  t(n);\nCREATE TABLE u(n);",
        ),
    ] {
        for text in [text.replace('\n', "\r\n"), text.to_owned()] {
            assert_eq!(
                failure(open(files(&[("001_t.sql", &text)]))).statement,
                told,
                "{text:?}"
            );
        }
    }
}

// ---- what counts as a change ----

/// Applies one text, then opens with another of the same version.
fn then(name: &str, first: &str, second: &str) -> larder::Result<()> {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let open = |text| Options::new().migrations(files(&[(name, text)])).open(&path);
    open(first).unwrap().close().unwrap();
    open(second).map(drop)
}

#[test]
fn line_ends_and_trailing_whitespace_are_no_change() {
    let unix = "CREATE TABLE t(\n  n INTEGER\n);\n";
    for other in [
        "CREATE TABLE t(\r\n  n INTEGER\r\n);\r\n",
        "CREATE TABLE t(\n  n INTEGER\n);",
        "CREATE TABLE t(\n  n INTEGER\n); \t\n\n\r\n",
        "\u{feff}CREATE TABLE t(\n  n INTEGER\n);\n",
    ] {
        then("001_t.sql", unix, other).unwrap();
        then("001_t.sql", other, unix).unwrap();
    }
    let marked = "-- migrate:up\nCREATE TABLE t(n);\n-- migrate:down\nDROP TABLE t;\n";
    then(DBMATE, marked, &marked.replace('\n', "\r\n")).unwrap();
    then(
        DBMATE,
        marked,
        &marked.replace("-- migrate:down", "\n\n\n-- migrate:down"),
    )
    .unwrap();
}

#[test]
fn any_other_edit_of_applied_migration_is_change() {
    let first = "-- Users.\nCREATE TABLE t(n INTEGER);\n";
    for second in [
        "-- Users.\nCREATE TABLE t(n TEXT);\n",
        "-- users.\nCREATE TABLE t(n INTEGER);\n",
        "-- Users.\nCREATE TABLE t(n  INTEGER);\n",
        "-- Users.\n\nCREATE TABLE t(n INTEGER);\n",
        "-- Users.\nCREATE TABLE t(n INTEGER); SELECT 1;\n",
        "CREATE TABLE t(n INTEGER);\n",
    ] {
        let error = migration_error(then("001_t.sql", first, second));
        let MigrationError::Changed { file, version } = &error else {
            panic!("another error: {error:?}");
        };
        assert_eq!((file.as_str(), version.as_str()), ("001_t.sql", "001"), "{second:?}");
    }
}

#[test]
fn edit_of_pending_migration_is_no_change() {
    let first = "-- migrate:up\nCREATE TABLE t(n);\n-- migrate:down\nDROP TABLE t;\n";
    for second in [
        "-- migrate:up\nCREATE TABLE t(n);\n-- migrate:down\nDROP TABLE IF EXISTS t;\n",
        "-- migrate:up\nCREATE TABLE t(n);\n",
        "-- A comment before the marker.\n-- migrate:up\nCREATE TABLE t(n);\n",
        "CREATE TABLE t(n);\n",
        "-- +goose Up\nCREATE TABLE t(n);\n-- +goose Down\nDROP TABLE t;\n",
    ] {
        then("001_t.sql", first, second).unwrap();
    }
}

#[test]
fn new_name_or_leading_zeros_are_no_change() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let open = |name| {
        Options::new()
            .migrations(files(&[(name, "CREATE TABLE t(n)")]))
            .open(&path)
    };
    open("01_t.sql").unwrap().close().unwrap();
    let store = open("00001-things/up.sql").unwrap();
    assert_eq!(store.migrations().unwrap().applied[0].name, "things");
    assert_eq!(recorded(&store), ["01"], "as it was recorded");
}

#[test]
fn repaired_down_part_is_the_one_used() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let set = |down| files(&[("001_t.sql", "CREATE TABLE t(n)"), ("001_t.down.sql", down)]);
    let store = Options::new().migrations(set("DROP TABLE typo")).open(&path).unwrap();
    store.migrate_to(0).unwrap_err();
    store.close().unwrap();
    let store = Options::new().migrations(set("DROP TABLE t")).open(&path).unwrap();
    store.migrate_to(0).unwrap();
    assert_eq!(tables(&store), [""; 0]);
}

#[test]
fn migration_by_another_tool_is_checked_once_seen() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    made_by(
        &path,
        "CREATE TABLE \"schema_migrations\" (version varchar(128) primary key);
             CREATE TABLE t(n); INSERT INTO schema_migrations VALUES ('001')",
    );
    let open = |text| Options::new().migrations(files(&[("001_t.sql", text)])).open(&path);
    let store = open("CREATE TABLE t(n)").unwrap();
    let seen = &store.migrations().unwrap().applied[0];
    assert_eq!((seen.version, seen.applied_at.as_ref(), seen.duration), (1, None, None));
    store.close().unwrap();
    assert!(matches!(
        migration_error(open("CREATE TABLE t(m)")),
        MigrationError::Changed { .. }
    ));
}

// ---- another tool's record ----

const THREE: [(&str, &str); 3] = [
    (
        "001_a.sql",
        "-- migrate:up\nCREATE TABLE a(n);\n-- migrate:down\nDROP TABLE a;\n",
    ),
    (
        "002_b.sql",
        "-- migrate:up\nCREATE TABLE b(n);\n-- migrate:down\nDROP TABLE b;\n",
    ),
    (
        "003_c.sql",
        "-- migrate:up\nCREATE TABLE c(n);\n-- migrate:down\nDROP TABLE c;\n",
    ),
];

/// As Goose leaves it after these steps: a version, and whether up or down.
fn made_by_goose(path: &Path, history: &[(i64, bool)]) {
    made_by(path, GOOSE_TABLE);
    let conn = Connection::open(path).unwrap();
    for (version, up) in history {
        let (name, _) = THREE[*version as usize - 1];
        let table = &name[4..5];
        conn.execute_batch(&if *up {
            format!("CREATE TABLE {table}(n)")
        } else {
            format!("DROP TABLE {table}")
        })
        .unwrap();
        let row = "INSERT INTO goose_db_version(version_id, is_applied, tstamp) VALUES (?1, ?2, '2026-04-01 12:00:00')";
        conn.execute(row, params![version, up]).unwrap();
    }
    conn.close().unwrap();
}

fn adopting(from: Adopt) -> Options {
    Options::new().migrations(files(&THREE).adopt(from))
}

#[test]
fn goose_record_is_adopted_and_pending_applied() {
    for (history, was_applied) in [
        (&[][..], 0),
        (&[(1, true)], 1),
        (&[(1, true), (2, true)], 2),
        (&[(1, true), (2, true), (2, false)], 1),
        (&[(1, true), (2, true), (2, false), (1, false), (1, true), (2, true)], 2),
        (&[(1, true), (2, true), (3, true)], 3),
    ] {
        let folder = tempdir().unwrap();
        let path = folder.path().join("app.db");
        made_by_goose(&path, history);
        let store = adopting(Adopt::Goose).open(&path).unwrap();
        assert_eq!(
            (tables(&store).len(), recorded(&store)),
            (4, vec!["001".into(), "002".into(), "003".into()])
        );
        let by_larder = store.migrations().unwrap().applied;
        let by_larder = by_larder
            .iter()
            .filter(|migration| migration.duration.is_some())
            .count();
        assert_eq!(by_larder, 3 - was_applied, "{history:?}");
        let rows = number(&store, "SELECT count(*) FROM goose_db_version");
        assert_eq!(rows as usize, 1 + history.len(), "Goose's record is left as it is");
    }
}

#[test]
fn goose_rows_deleted_at_undo_are_understood() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    made_by_goose(&path, &[(1, true), (2, true)]);
    made_by(&path, "DROP TABLE b; DELETE FROM goose_db_version WHERE version_id = 2");
    let store = adopting(Adopt::Goose).open(&path).unwrap();
    assert_eq!(tables(&store), ["a", "b", "c", "goose_db_version"]);
}

#[test]
fn user_version_is_adopted_and_pending_applied() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    made_by(&path, "CREATE TABLE a(n); CREATE TABLE b(n); PRAGMA user_version = 2");
    let store = adopting(Adopt::UserVersion).open(&path).unwrap();
    assert_eq!((tables(&store).len(), recorded(&store).len()), (3, 3));
    let applied = store.migrations().unwrap().applied;
    assert!(applied[0].applied_at.is_none() && applied[1].duration.is_none() && applied[2].duration.is_some());
    assert_eq!(number(&store, "PRAGMA user_version"), 2, "it is left as it is");
}

#[test]
fn new_database_has_nothing_to_adopt() {
    for from in [Adopt::Goose, Adopt::UserVersion, Adopt::Nothing] {
        let store = adopting(from.clone()).open_temp().unwrap();
        assert_eq!(tables(&store), ["a", "b", "c"], "{from:?}");
    }
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    made_by_goose(&path, &[]);
    let store = Options::new().migrations(files(&THREE)).open(&path).unwrap();
    assert_eq!(
        tables(&store).len(),
        4,
        "a Goose that has applied nothing is in nobody's way"
    );
}

#[test]
fn nothing_is_adopted_unless_asked_for() {
    for (sql, told) in [
        (
            format!("{GOOSE_TABLE} INSERT INTO goose_db_version(version_id, is_applied) VALUES (1, 1)"),
            "Adopt::Goose",
        ),
        ("PRAGMA user_version = 1".into(), "Adopt::UserVersion"),
    ] {
        let folder = tempdir().unwrap();
        let path = folder.path().join("app.db");
        made_by(&path, &format!("CREATE TABLE a(n); {sql}"));
        let error = migration_error(Options::new().migrations(files(&THREE)).open(&path));
        let message = error.to_string();
        assert!(matches!(error, MigrationError::NotAdopted { .. }), "{error:?}");
        assert!(
            message.contains(told) && message.contains("Adopt::Nothing"),
            "{message}"
        );
        let conn = Connection::open(&path).unwrap();
        let tables: i64 = conn
            .query_row(
                "SELECT count(*) FROM sqlite_schema WHERE name LIKE '%\\_migrations' ESCAPE '\\'",
                [],
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!(tables, 0);
        conn.execute_batch("DROP TABLE a").unwrap();
        conn.close().unwrap();
        adopting(Adopt::Nothing).open(&path).unwrap();
    }
}

#[test]
fn adopted_record_is_ignored_afterwards() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    made_by_goose(&path, &[(1, true)]);
    let first_two = || files(&THREE[..2]);
    let store = Options::new()
        .migrations(first_two().adopt(Adopt::Goose))
        .open(&path)
        .unwrap();
    assert_eq!(applied(&store), [1, 2]);
    store.close().unwrap();

    made_by(
        &path,
        "INSERT INTO goose_db_version(version_id, is_applied) VALUES (1, 0), (3, 1); PRAGMA user_version = 9",
    );
    for set in [
        first_two(),
        first_two().adopt(Adopt::Goose),
        first_two().adopt(Adopt::UserVersion),
    ] {
        let store = Options::new().migrations(set).open(&path).unwrap();
        assert_eq!((applied(&store), pending(&store)), (vec![1, 2], vec![]));
        store.close().unwrap();
    }
    let store = Options::new().migrations(files(&THREE)).open(&path).unwrap();
    assert_eq!(applied(&store), [1, 2, 3]);
    assert!(tables(&store).contains(&"c".into()), "it was run, whatever Goose says");
}

#[test]
fn dbmate_record_takes_precedence_over_others() {
    for from in [None, Some(Adopt::Goose), Some(Adopt::UserVersion), Some(Adopt::Nothing)] {
        let folder = tempdir().unwrap();
        let path = folder.path().join("app.db");
        made_by_goose(&path, &[(1, true)]);
        made_by(
            &path,
            "CREATE TABLE schema_migrations(version varchar(128) primary key);
             INSERT INTO schema_migrations VALUES ('001');
             INSERT INTO goose_db_version(version_id, is_applied) VALUES (2, 1), (9, 1); PRAGMA user_version = 3",
        );
        let mut set = files(&THREE);
        if let Some(from) = from.clone() {
            set = set.adopt(from);
        }
        let store = Options::new()
            .migrations(set.clone().at_open(false))
            .open(&path)
            .unwrap();
        assert_eq!((applied(&store), pending(&store)), (vec![1], vec![2, 3]), "{from:?}");
        store.close().unwrap();
        let store = Options::new().migrations(set).open(&path).unwrap();
        assert_eq!(tables(&store), ["a", "b", "c", "goose_db_version"], "{from:?}");
    }
}

#[test]
fn empty_dbmate_table_is_no_record() {
    let empty = "CREATE TABLE schema_migrations(version varchar(128) primary key)";
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    made_by_goose(&path, &[(1, true), (2, true)]);
    made_by(&path, empty);
    let error = migration_error(Options::new().migrations(files(&THREE)).open(&path));
    assert!(matches!(error, MigrationError::NotAdopted { .. }), "{error:?}");
    let store = adopting(Adopt::Goose).open(&path).unwrap();
    assert_eq!(tables(&store), ["a", "b", "c", "goose_db_version"]);

    let path = folder.path().join("other.db");
    made_by(&path, &format!("{empty}; CREATE TABLE a(n); PRAGMA user_version = 1"));
    let error = migration_error(Options::new().migrations(files(&THREE)).open(&path));
    assert!(matches!(error, MigrationError::NotAdopted { .. }), "{error:?}");
    let store = adopting(Adopt::UserVersion).open(&path).unwrap();
    assert_eq!(tables(&store), ["a", "b", "c"]);
}

#[test]
fn undone_migrations_are_not_adopted_again() {
    for from in [None, Some(Adopt::Goose), Some(Adopt::UserVersion)] {
        for by_dbmate in [false, true] {
            let folder = tempdir().unwrap();
            let path = folder.path().join("app.db");
            made_by_goose(&path, &[(1, true), (2, true)]);
            made_by(&path, "PRAGMA user_version = 2");
            let first = adopting(from.clone().unwrap_or(Adopt::Goose)).open(&path).unwrap();
            if !by_dbmate {
                assert_eq!(first.migrate_to(0).unwrap().steps.len(), 3);
            }
            first.close().unwrap();
            if by_dbmate {
                made_by(
                    &path,
                    "DROP TABLE a; DROP TABLE b; DROP TABLE c; DELETE FROM schema_migrations",
                );
            }
            let mut set = files(&THREE);
            if let Some(from) = from.clone() {
                set = set.adopt(from);
            }
            let store = Options::new().migrations(set.at_open(false)).open(&path).unwrap();
            assert_eq!(pending(&store), [1, 2, 3], "{from:?}, {by_dbmate}");
            assert_eq!(store.migrate().unwrap().steps.len(), 3, "{from:?}, {by_dbmate}");
            let all = store.migrations().unwrap().applied;
            assert!(all.iter().all(|migration| migration.duration.is_some()), "{all:?}");
        }
    }
}

#[test]
fn record_that_does_not_fit_is_not_adopted() {
    let row = "INSERT INTO goose_db_version(version_id, is_applied) VALUES";
    for (sql, from, wanted) in [
        (format!("{GOOSE_TABLE} {row} (1, 1), (4, 1)"), Adopt::Goose, "Newer"),
        (format!("{GOOSE_TABLE} {row} (1, 1), (3, 1)"), Adopt::Goose, "Gap"),
        ("PRAGMA user_version = 4".into(), Adopt::UserVersion, "Newer"),
    ] {
        let folder = tempdir().unwrap();
        let path = folder.path().join("app.db");
        made_by(&path, &sql);
        let error = migration_error(adopting(from).open(&path));
        match wanted {
            "Newer" => assert!(
                matches!(error, MigrationError::Newer { version: 4, newest: 3 }),
                "{error:?}"
            ),
            _ => assert!(matches!(error, MigrationError::Gap { version: 2, .. }), "{error:?}"),
        }
        let conn = Connection::open(&path).unwrap();
        let exists = conn
            .prepare("SELECT 1 FROM sqlite_schema WHERE name = 'schema_migrations'")
            .unwrap()
            .exists([]);
        assert!(!exists.unwrap());
    }
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    made_by(&path, "PRAGMA user_version = 2");
    let dated = files(&[("20260401_a.sql", "SELECT 1"), ("20260402_b.sql", "SELECT 1")]);
    let error = migration_error(Options::new().migrations(dated.adopt(Adopt::UserVersion)).open(&path));
    assert!(matches!(error, MigrationError::NotAdopted { .. }), "{error:?}");
    assert!(error.to_string().contains("no migration has that version"), "{error}");
}

/// The record is empty after that, and the other one was taken over again in the middle of the call.
#[test]
fn adopted_migrations_can_all_be_undone() {
    for from in [Adopt::Goose, Adopt::UserVersion] {
        let folder = tempdir().unwrap();
        let path = folder.path().join("app.db");
        made_by_goose(&path, &[(1, true), (2, true)]);
        made_by(&path, "PRAGMA user_version = 2");
        let store = adopting(from.clone()).open(&path).unwrap();
        let undone = store.migrate_to(0).map(|report| report.steps.len());
        assert_eq!(undone.map_err(|error| error.to_string()), Ok(3), "{from:?}");
        assert_eq!(
            (tables(&store), recorded(&store)),
            (vec!["goose_db_version".into()], vec![])
        );
    }
}

/// `user_version` was taken for another tool's as soon as the record was empty.
#[test]
fn migrations_that_set_user_version_can_be_undone() {
    let up = "CREATE TABLE a(n); PRAGMA user_version = 7";
    let store = store_with(&[("001_a.sql", up), ("001_a.down.sql", "DROP TABLE a")]);
    let undone = store.migrate_to(0).map(|report| report.steps.len());
    assert_eq!(undone.map_err(|error| error.to_string()), Ok(1));
}

/// Goose writes `2026-04-01 12:00:00`, and it came through like that.
#[test]
fn time_recorded_by_goose_is_converted() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    made_by_goose(&path, &[(1, true)]);
    let store = adopting(Adopt::Goose).open(&path).unwrap();
    let when = store.migrations().unwrap().applied[0].applied_at.clone();
    assert_eq!(when.as_deref(), Some("2026-04-01T12:00:00.000Z"));
}

/// The copy of the schema had no rows of `goose_db_version`, so all migrations were pending there, and failed.
#[test]
fn dry_run_before_adoption_matches_the_real_run() {
    for from in [Adopt::Goose, Adopt::UserVersion] {
        for on in [DryRun::Schema, DryRun::Backup] {
            let folder = tempdir().unwrap();
            let path = folder.path().join("app.db");
            made_by_goose(&path, &[(1, true), (2, true)]);
            made_by(&path, "PRAGMA user_version = 2");
            let set = files(&THREE).adopt(from.clone()).at_open(false);
            let store = Options::new().migrations(set).open(&path).unwrap();
            let steps = |report: larder::Result<larder::MigrationReport>| match report {
                Ok(report) => report.steps.iter().map(|step| step.version).collect(),
                Err(error) => panic!("{from:?}, {on:?}: {error}"),
            };
            let dry: Vec<u64> = steps(store.migrate_dry_run(on));
            assert_eq!((dry, steps(store.migrate())), (vec![3], vec![3]), "{from:?}, {on:?}");
        }
    }
}

/// A tool that first wanted to look was told that everything is pending.
#[test]
fn status_before_adoption_shows_pending_migrations() {
    for (from, when) in [
        (Adopt::Goose, Some("2026-04-01T12:00:00.000Z".to_owned())),
        (Adopt::UserVersion, None),
    ] {
        let folder = tempdir().unwrap();
        let path = folder.path().join("app.db");
        made_by_goose(&path, &[(1, true), (2, true)]);
        made_by(&path, "PRAGMA user_version = 2");
        let set = files(&THREE).adopt(from.clone()).at_open(false);
        let store = Options::new().migrations(set).open(&path).unwrap();
        let before = store.migrations().unwrap();
        let told: Vec<_> = before
            .applied
            .iter()
            .map(|migration| {
                let larder::AppliedMigration {
                    version,
                    name,
                    applied_at,
                    duration,
                    ..
                } = migration.clone();
                (version, name, applied_at, duration)
            })
            .collect();
        assert_eq!(told, [(1, "a".into(), when.clone(), None), (2, "b".into(), when, None)]);
        let pending: Vec<_> = before
            .pending
            .iter()
            .map(|migration| (migration.version, &*migration.name))
            .collect();
        assert_eq!(pending, [(3, "c")]);
        let record = "SELECT count(*) FROM sqlite_schema WHERE name LIKE '%\\_migrations' ESCAPE '\\'";
        assert_eq!(number(&store, record), 0, "to look changes nothing");
        store.migrate_to(2).unwrap();
        assert_eq!(store.migrations().unwrap(), before, "and so it is, {from:?}");
    }
}

#[test]
fn status_after_another_tool_needs_adopt_option() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    made_by_goose(&path, &[(1, true)]);
    let set = files(&THREE).at_open(false);
    let store = Options::new().migrations(set.clone()).open(&path).unwrap();
    let error = migration_error(store.migrations());
    assert!(matches!(error, MigrationError::NotAdopted { .. }), "{error:?}");
    store.close().unwrap();
    let store = Options::new()
        .migrations(set.adopt(Adopt::Nothing))
        .open(&path)
        .unwrap();
    assert_eq!((applied(&store), pending(&store)), (vec![], vec![1, 2, 3]));
}
