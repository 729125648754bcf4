//! `Store::migrate_up_to`, `Store::migrate_down_to` and `Migrations::create`.

use std::fs;

use larder::{Direction, Error, Migration, MigrationError, Migrations, Options, Store};
use tempfile::tempdir;

fn set() -> Migrations {
    let list = (1..=4).map(|version| {
        let name = format!("t{version}");
        let create = format!("CREATE TABLE {name}(a INTEGER) STRICT");
        Migration::new(version, name.clone(), create).down(format!("DROP TABLE {name}"))
    });
    Migrations::new(list).at_open(false)
}

fn applied(store: &Store) -> Vec<u64> {
    let status = store.migrations().unwrap();
    status.applied.iter().map(|migration| migration.version).collect()
}

#[track_caller]
fn assert_other_direction(result: larder::Result<larder::MigrationReport>, wanted: (u64, u64, Direction)) {
    match result.unwrap_err() {
        Error::Migration(error) => match *error {
            MigrationError::OtherDirection {
                version,
                newest,
                direction,
            } => assert_eq!((version, newest, direction), wanted),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn up_never_undoes_and_down_never_applies() {
    let store = Options::new().migrations(set()).open_temp().unwrap();
    assert_eq!(store.migrate_up_to(3).unwrap().steps.len(), 3);
    assert_eq!(applied(&store), [1, 2, 3]);
    assert!(store.migrate_up_to(3).unwrap().steps.is_empty());
    assert_other_direction(store.migrate_up_to(2), (2, 3, Direction::Down));
    assert_other_direction(store.migrate_down_to(4), (4, 3, Direction::Up));
    assert_eq!(applied(&store), [1, 2, 3]);
    let undone = store.migrate_down_to(1).unwrap();
    let undone: Vec<_> = undone.steps.iter().map(|step| (step.version, step.direction)).collect();
    assert_eq!(undone, [(3, Direction::Down), (2, Direction::Down)]);
    assert_eq!(store.migrate_down_to(0).unwrap().steps.len(), 1);
    assert!(store.migrate_down_to(0).unwrap().steps.is_empty());
    for version in [7, u64::MAX - 1] {
        let error = store.migrate_up_to(version).unwrap_err();
        assert!(error.to_string().contains("no migration has version"), "{error}");
        store.migrate_down_to(version).unwrap_err();
    }
    assert!(applied(&store).is_empty());
}

/// With gaps allowed, one may be pending below those that are applied.
#[test]
fn down_applies_no_earlier_one() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let only = set()
        .iter()
        .filter(|migration| migration.version() != 2)
        .cloned()
        .collect::<Vec<_>>();
    let gap = Migrations::new(only).allow_gaps(true).at_open(false);
    let store = Options::new().migrations(gap).open(&path).unwrap();
    store.migrate().unwrap();
    store.close().unwrap();
    drop(store);
    let store = Options::new().migrations(set().allow_gaps(true)).open(&path).unwrap();
    assert_eq!(store.migrate_down_to(3).unwrap().steps.len(), 1);
    assert_eq!(applied(&store), [1, 3]);
    assert_eq!(store.migrate_up_to(4).unwrap().steps.len(), 2);
    assert_eq!(applied(&store), [1, 2, 3, 4]);
}

#[test]
fn report_and_status_print_themselves() {
    let store = Options::new().migrations(set()).open_temp().unwrap();
    assert_eq!(store.migrate_down_to(0).unwrap().to_string(), "nothing to do");
    let said = store.migrate_up_to(2).unwrap().to_string();
    let steps: Vec<_> = said.lines().map(|line| line.split(" in ").next().unwrap()).collect();
    assert_eq!(steps, ["up 1 t1", "up 2 t2"]);
    let status = store.migrations().unwrap().to_string();
    let lines: Vec<_> = status.lines().collect();
    assert!(
        lines[0].starts_with("[X] 1 t1 (20") && lines[0].contains(", took "),
        "{status}"
    );
    assert_eq!(lines[2..], ["[ ] 3 t3", "[ ] 4 t4", "", "Applied: 2", "Pending: 2"]);
}

#[test]
fn created_file_is_read_by_the_next_set() {
    let place = tempdir().unwrap();
    let folder = place.path().join("db/migrations");
    let paths: Vec<_> = (0..3).map(|_| Migrations::create(&folder, "same").unwrap()).collect();
    for path in &paths {
        let text = fs::read_to_string(path).unwrap();
        fs::write(path, text.replacen("up\n", "up\nSELECT 1;\n", 1)).unwrap();
    }
    let versions: Vec<_> = Migrations::folder(&folder)
        .unwrap()
        .iter()
        .map(Migration::version)
        .collect();
    assert_eq!(versions.len(), 3);
    assert!(versions.windows(2).all(|pair| pair[0] < pair[1]), "{versions:?}");
    for name in ["", "a b", "../up", "ä", "a.sql"] {
        let error = Migrations::create(&folder, name).unwrap_err();
        assert!(error.to_string().contains("use letters, digits, _ and -"), "{error}");
    }
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 3);
    let file = place.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Migrations::create(&file, "users").unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("file cannot be created") && said.contains("check the path"),
        "{error}"
    );
}
