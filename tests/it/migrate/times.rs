//! File names that begin with a time, with separators in it, and databases on which only its year was recorded.

use std::path::Path;

use larder::{Direction, Migration, MigrationError, Migrations, Options, Store};

use crate::support::migrations::{applied, files, made_by, migration_error, names, steps, texts};

const A: &str = "CREATE TABLE a(n INTEGER)";
const B: &str = "CREATE TABLE b(n INTEGER)";

fn open(path: &Path, set: Migrations) -> larder::Result<Store> {
    Options::new().migrations(set).open(path)
}

#[test]
fn times_with_separators_are_versions() {
    for (first, second, versions) in [
        (
            "2024-03-05-101500_a/up.sql",
            "2024-03-05-101501_b/up.sql",
            [20240305101500, 20240305101501],
        ),
        (
            "2024_03_05_101500_a.sql",
            "2024_04_01_000000_b.sql",
            [20240305101500, 20240401000000],
        ),
        (
            "20240305T101500_a.sql",
            "20240305T101600Z_b.sql",
            [20240305101500, 20240305101600],
        ),
        (
            "2024-03-05T10:15:00Z-a.sql",
            "2024-03-05T10:15:01Z-b.sql",
            [20240305101500, 20240305101501],
        ),
        (
            "20240305_101500_a.sql",
            "20240305_101501_b.sql",
            [20240305101500, 20240305101501],
        ),
        (
            "20240305-101500-a.sql",
            "20240305-101501-b.sql",
            [20240305101500, 20240305101501],
        ),
        ("2024-03-05_a.sql", "2024-03-06_b.sql", [20240305, 20240306]),
        ("2024.03.05_a.sql", "2024.12.06_b.sql", [20240305, 20241206]),
        (
            "2024-03-05-101500-0000_a/up.sql",
            "2024-03-05-101500-0001_b/up.sql",
            [202403051015000000, 202403051015000001],
        ),
        ("2024-03-05-01_a.sql", "2024-03-05-02_b.sql", [2024030501, 2024030502]),
        ("001_a.sql", "2024-03-06_b.sql", [1, 20240306]),
    ] {
        let store = Options::new()
            .migrations(files(&[(second, B), (first, A)]))
            .open_temp()
            .unwrap();
        assert_eq!(applied(&store), versions, "{first}");
        assert_eq!(names(&store), ["a", "b"], "{first}");
        let digits: Vec<_> = versions.iter().map(|version| format!("{version:03}")).collect();
        assert_eq!(
            texts(&store, "SELECT version FROM schema_migrations ORDER BY rowid"),
            digits
        );
    }
}

#[test]
fn ways_down_are_found_by_the_same_time() {
    let set = files(&[
        ("2024-03-05-101500_a/up.sql", A),
        ("2024-03-05-101500_a/down.sql", "DROP TABLE a"),
        ("2024-03-05-101501_b.up.sql", B),
        ("2024-03-05-101501_b.down.sql", "DROP TABLE b"),
    ]);
    let store = Options::new().migrations(set).open_temp().unwrap();
    let report = store.migrate_to(0).unwrap();
    assert_eq!(
        steps(&report),
        [(20240305101501, Direction::Down), (20240305101500, Direction::Down)]
    );
}

/// What an earlier release recorded of this file: the year is the version, the rest is the name.
fn recorded_as(path: &Path, version: &str, name: &str, sql: &str) {
    let list = [Migration::new(version.parse().unwrap(), name.to_owned(), sql)];
    open(path, Migrations::new(list)).unwrap().close().unwrap();
}

#[test]
fn database_that_recorded_the_year_continues() {
    for (file, version, name, later) in [
        (
            "2024-03-05-101500_a/up.sql",
            "2024",
            "03-05-101500_a",
            "2024-04-05-101500_b/up.sql",
        ),
        ("2024_03_05_a.sql", "2024", "03_05_a", "2024_03_06_b.sql"),
        ("20240305_101500_a.sql", "20240305", "101500_a", "20240305_101501_b.sql"),
        (
            "20240305T101500_a.sql",
            "20240305",
            "T101500_a",
            "20240305T101501_b.sql",
        ),
        (
            "2024-03-05-101500_a.sql",
            "2024",
            "03-05-101500_a",
            "2023-03-05-101500_b.sql",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        recorded_as(&path, version, name, A);
        let down = file.replace("up.sql", "down.sql").replace("_a.sql", "_a.down.sql");
        let set = || files(&[(file, A), (&down, "DROP TABLE a"), (later, B)]).allow_gaps(true);
        let status = open(&path, set().at_open(false)).unwrap();
        assert_eq!(status.migrations().unwrap().pending.len(), 1, "{file}");
        assert_eq!(status.migrations().unwrap().applied[0].name, "a", "{file}");
        status.close().unwrap();
        for _ in 0..2 {
            let store = open(&path, set()).unwrap_or_else(|error| panic!("{file}: {error}"));
            assert_eq!(applied(&store).len(), 2, "{file}");
            assert!(
                texts(&store, "SELECT version FROM schema_migrations").contains(&version.to_owned()),
                "{file}"
            );
            store.close().unwrap();
        }
        let only = || files(&[(file, A), (&down, "DROP TABLE a")]);
        made_by(
            &path,
            &format!("DROP TABLE b; DELETE FROM schema_migrations WHERE version <> '{version}'"),
        );
        let store = open(&path, only()).unwrap();
        assert_eq!(store.migrate_to(0).unwrap().steps.len(), 1, "{file}");
        assert_eq!(texts(&store, "SELECT version FROM schema_migrations"), [""; 0]);
        assert_eq!(store.migrate().unwrap().steps.len(), 1);
    }
}

#[test]
fn changed_file_of_a_year_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    recorded_as(&path, "2024", "03-05-101500_a", A);
    let error = migration_error(open(&path, files(&[("2024-03-05-101500_a.sql", "CREATE TABLE a(m)")])));
    assert!(matches!(error, MigrationError::Changed { .. }), "{error:?}");
    // Under another name it is known by its text.
    let renamed = files(&[
        ("2024-03-01_first.sql", "SELECT 1"),
        ("2024-03-05-101500_renamed.sql", A),
    ]);
    let store = open(&path, renamed.allow_gaps(true)).unwrap();
    assert_eq!(applied(&store), [20240301, 20240305101500]);
    store.close().unwrap();
    let other = files(&[("2024-05-05-101500_b.sql", B)]);
    let error = migration_error(open(&path, other));
    assert!(matches!(error, MigrationError::Gap { .. }), "{error:?}");
}

/// Dbmate records no name.
#[test]
fn year_without_a_name_is_the_first_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    made_by(
        &path,
        "CREATE TABLE schema_migrations(version varchar(128) primary key);
         INSERT INTO schema_migrations VALUES ('2024'); CREATE TABLE a(n INTEGER)",
    );
    let set = files(&[("2024-03-05-101500_a.sql", A), ("2024-03-06-101500_b.sql", B)]);
    let store = open(&path, set).unwrap();
    assert_eq!(applied(&store), [20240305101500, 20240306101500]);
}

#[test]
fn plain_number_like_a_year_is_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let set = || files(&[("2023_a.sql", A), ("2024_b.sql", B)]);
    open(&path, set()).unwrap().close().unwrap();
    let store = open(&path, set()).unwrap();
    assert_eq!(applied(&store), [2023, 2024]);
    store.close().unwrap();
    // A time of the same year is another migration.
    let later = files(&[("2023_a.sql", A), ("2024_b.sql", B), ("2024-03-05_c.sql", "SELECT 1")]);
    let store = open(&path, later).unwrap();
    assert_eq!(applied(&store), [2023, 2024, 20240305]);
}
