//! A store that must exist: `Options::create(false)`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use larder::{Error, Options, Store};
use tempfile::tempdir;

use crate::support::names_in;

fn must_exist() -> Options {
    Options::new().create(false)
}

/// The reason why the file is not opened.
#[track_caller]
fn problem(opened: larder::Result<Store>, path: &Path) -> String {
    match opened {
        Err(Error::Open {
            path: named, problem, ..
        }) => {
            assert_eq!(named, path);
            problem
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn missing_file_is_refused_and_nothing_is_created() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("a?#% ü.db");
    for _ in 0..2 {
        let problem = problem(must_exist().open(&path), &path);
        assert!(
            problem.starts_with("it does not exist, and Options::create(false) creates no file"),
            "{problem}"
        );
        assert!(
            problem.contains("check the path, and that its volume is mounted"),
            "{problem}"
        );
        assert_eq!(names_in(folder.path()), Vec::<String>::new());
    }
    let inside = folder.path().join("none/app.db");
    assert!(problem(must_exist().open(&inside), &inside).contains("create it first"));
    assert_eq!(names_in(folder.path()), Vec::<String>::new());
    // The refusal has left no claim on the place.
    Store::open(&path).unwrap().close().unwrap();
}

#[test]
fn existing_store_opens_and_writes() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let create = |tx: &larder::WriteTx<'_>| tx.execute_batch("CREATE TABLE t(a INTEGER) STRICT");
    Store::open(&path).unwrap().write(create).unwrap();
    let store = must_exist().open(&path).unwrap();
    store.write(|tx| tx.execute("INSERT INTO t VALUES (1)", [])).unwrap();
    assert_eq!(crate::support::count(&store), 1);
}

#[test]
fn empty_file_is_a_database_without_tables() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    fs::write(&path, "").unwrap();
    let store = must_exist().open(&path).unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(a INTEGER) STRICT"))
        .unwrap();
}

#[test]
fn what_is_no_database_is_refused_as_always() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let link = folder.path().join("link.db");
    symlink(&path, &link).unwrap();
    assert!(problem(must_exist().open(&link), &link).contains("symbolic link"));
    fs::create_dir(&path).unwrap();
    assert!(problem(must_exist().open(&path), &path).contains("folder"));
    fs::remove_dir(&path).unwrap();
    fs::write(&path, "this is no database".repeat(100)).unwrap();
    assert!(problem(must_exist().open(&path), &path).contains("not an SQLite database"));
    assert_eq!(names_in(folder.path()), ["app.db", "link.db"]);
}

#[test]
fn temporary_store_that_must_exist_is_refused() {
    let error = must_exist().open_temp().unwrap_err();
    assert!(matches!(error, Error::Options { option: "create", .. }), "{error:?}");
}

#[test]
fn dry_run_of_migrations_makes_its_copy() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    drop(Store::open(&path).unwrap());
    let set = larder::Migrations::new([larder::Migration::new(1, "t", "CREATE TABLE t(a INTEGER) STRICT")]);
    let store = must_exist().migrations(set.at_open(false)).open(&path).unwrap();
    for on in [larder::DryRun::Schema, larder::DryRun::Backup] {
        assert_eq!(store.migrate_dry_run(on).unwrap().steps.len(), 1);
    }
}

#[cfg(feature = "replicate")]
mod replicated {
    use std::time::Duration;

    use larder::ReplicaOptions;

    use super::*;

    #[test]
    fn missing_file_is_restored_from_its_replica_only() {
        let folder = tempdir().unwrap();
        let (path, replica) = (folder.path().join("app.db"), folder.path().join("replica"));
        let to = || ReplicaOptions::to(replica.to_str().unwrap()).restore_if_missing(true);
        let refused = problem(must_exist().replicate_to(to()).open(&path), &path);
        assert!(refused.contains("it does not exist"), "{refused}");
        assert!(!names_in(folder.path()).iter().any(|name| name.starts_with("app.db")));
        let store = Options::new().replicate_to(to()).open(&path).unwrap();
        store
            .write(|tx| tx.execute_batch("CREATE TABLE t(a INTEGER) STRICT; INSERT INTO t VALUES (1)"))
            .unwrap();
        store.replica().unwrap().flush(Duration::from_secs(60)).unwrap();
        store.close().unwrap();
        drop(store);
        let away = folder.path().join("away");
        fs::create_dir(&away).unwrap();
        for name in names_in(folder.path())
            .into_iter()
            .filter(|name| name.starts_with("app.db"))
        {
            fs::rename(folder.path().join(&name), away.join(&name)).unwrap();
        }
        let store = must_exist().replicate_to(to()).open(&path).unwrap();
        assert_eq!(crate::support::count(&store), 1);
    }

    #[test]
    fn new_follower_makes_its_file() {
        let folder = tempdir().unwrap();
        let replica = folder.path().join("replica");
        let replica = replica.to_str().unwrap();
        let store = Options::new()
            .replicate_to(replica)
            .open(folder.path().join("app.db"))
            .unwrap();
        store
            .write(|tx| tx.execute_batch("CREATE TABLE t(a INTEGER) STRICT"))
            .unwrap();
        store.replica().unwrap().flush(Duration::from_secs(60)).unwrap();
        let follower = must_exist().follow(replica, folder.path().join("copy.db")).unwrap();
        follower.close().unwrap();
        store.close().unwrap();
    }
}
