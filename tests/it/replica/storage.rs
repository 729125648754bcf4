//! Where a replica is kept: its keys, its conditional writes, what a folder has on the disk, and its errors.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::fs;
use std::future::Future;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use larder::replica::runtime;
use larder::replica::storage::{Created, FailureKind, FileInfo, Layout, Storage, StorageError, Txids, Written};
use larder::{Error, Options, Replica};
use tempfile::tempdir;

use super::lying::{Lie, Lying};
use crate::support::child::{self, Child, PATIENCE, Task, succeeds, tell};
use crate::support::log;

/// 2026-09-21T14:13:20.123Z
const TIME: i64 = 1_790_000_000_123;

fn wait<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    runtime::wait(future).unwrap()
}

/// Runs a request on a clone of the storage.
macro_rules! ask {
    ($storage:expr, $method:ident($($argument:expr),*)) => {{
        let storage = $storage.clone();
        wait(async move { storage.$method($($argument),*).await })
    }};
}

fn connect(url: impl AsRef<Path>) -> Storage {
    Storage::connect(url.as_ref().to_str().unwrap()).unwrap()
}

fn read(storage: &Storage, level: u8, txids: Txids) -> Vec<u8> {
    let mut contents = Vec::new();
    let mut reader = ask!(storage, reader(level, txids)).unwrap();
    reader.read_to_end(&mut contents).unwrap();
    assert_eq!(reader.size(), contents.len() as u64);
    contents
}

fn create(storage: &Storage, txid: u64, contents: &str) -> Result<Created, StorageError> {
    create_bytes(storage, txid, Bytes::from(contents.to_owned()))
}

fn create_bytes(storage: &Storage, txid: u64, bytes: Bytes) -> Result<Created, StorageError> {
    ask!(storage, create(0, Txids::one(txid), TIME, bytes))
}

fn txids(files: &[FileInfo]) -> Vec<(u64, u64)> {
    files.iter().map(|file| (file.txids.min, file.txids.max)).collect()
}

#[test]
fn files_come_back_from_every_place() {
    let folder = tempdir().unwrap();
    let url = format!("file://{}/b%20c", folder.path().display());
    for storage in [
        connect(folder.path().join("a")),
        Storage::connect(&url).unwrap(),
        Storage::connect("memory:storage").unwrap(),
        Storage::on(Lying::new(Lie::IgnoresVersions), Layout::Hex),
    ] {
        assert_eq!(ask!(storage, list(0)).unwrap(), []);
        for txid in [2, 0xff, 1] {
            assert_eq!(create(&storage, txid, &format!("file {txid}")).unwrap(), Created::New);
        }
        let merged = Txids { min: 1, max: 2 };
        for contents in ["first", "second and longer"] {
            ask!(storage, put(9, merged, TIME + 1, Bytes::from(contents))).unwrap();
        }

        let files = ask!(storage, list(0)).unwrap();
        assert_eq!(txids(&files), [(1, 1), (2, 2), (0xff, 0xff)], "{storage}");
        assert_eq!((files[0].level, files[0].size), (0, 6));
        assert_eq!(ask!(storage, get(0, Txids::one(2))).unwrap(), "file 2");
        assert_eq!(read(&storage, 0, Txids::one(0xff)), b"file 255");
        assert_eq!(read(&storage, 9, merged), b"second and longer");
        assert_eq!(ask!(storage, timestamp(0, Txids::one(2))).unwrap(), TIME, "{storage}");
        assert_eq!(ask!(storage, timestamp(9, merged)).unwrap(), TIME + 1, "{storage}");

        for _ in 0..2 {
            ask!(storage, delete(0, Txids::one(2))).unwrap();
        }
        assert_eq!(txids(&ask!(storage, list(0)).unwrap()), [(1, 1), (0xff, 0xff)]);
        let missing = ask!(storage, get(0, Txids::one(2))).unwrap_err();
        assert!(missing.is_not_found(), "{missing}");
        assert!(ask!(storage, reader(0, Txids::one(2))).unwrap_err().is_not_found());
        assert!(ask!(storage, timestamp(0, Txids::one(2))).unwrap_err().is_not_found());
        assert!(
            missing.to_string().contains("0000000000000002-0000000000000002.ltx"),
            "{missing}"
        );
    }
}

#[test]
fn folder_has_litestreams_names_and_times() {
    let folder = tempdir().unwrap();
    let root = folder.path().join("replica");
    let storage = connect(&root);
    create(&storage, 10, "ten").unwrap();
    let path = root.join("ltx/0/000000000000000a-000000000000000a.ltx");
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    assert_eq!(modified, UNIX_EPOCH + Duration::from_millis(TIME.cast_unsigned()));
    assert_eq!(ask!(storage, list(0)).unwrap()[0].modified, modified);
    assert_eq!(
        fs::read_dir(root.join("larder/tmp")).unwrap().count(),
        0,
        "nothing is left"
    );
}

#[test]
fn names_of_other_programs_are_left_out() {
    let folder = tempdir().unwrap();
    let storage = connect(folder.path());
    create(&storage, 1, "one").unwrap();
    let level = folder.path().join("ltx/0");
    let name = |txid| format!("{0:016x}-{0:016x}.ltx", txid);
    for other in [
        name(2) + ".tmp",
        name(3).to_uppercase(),
        "a b#c?".to_owned(),
        ".nfs0001".to_owned(),
    ] {
        fs::write(level.join(other), "other").unwrap();
    }
    fs::create_dir(level.join(name(4))).unwrap();
    fs::write(level.join(name(4)).join(name(5)), "deeper").unwrap();
    std::os::unix::fs::symlink("/nowhere", level.join(name(6))).unwrap();
    use std::os::unix::ffi::OsStrExt;
    fs::write(level.join(std::ffi::OsStr::from_bytes(b"\xff.ltx")), "other").unwrap();
    fs::write(folder.path().join("ltx/00"), "other").unwrap();
    assert_eq!(txids(&ask!(storage, list(0)).unwrap()), [(1, 1)]);
}

#[test]
fn creators_of_one_key_have_one_winner() {
    let folder = tempdir().unwrap();
    let places = [folder.path().to_str().unwrap().to_owned(), "memory:creators".to_owned()];
    for url in &places {
        const CREATORS: usize = 4;
        let start = Barrier::new(CREATORS);
        let results: Vec<Vec<Created>> = thread::scope(|scope| {
            let creator = |number: usize| {
                let start = &start;
                scope.spawn(move || {
                    let storage = Storage::connect(url).unwrap();
                    let make = |txid| {
                        start.wait();
                        create(&storage, txid, &number.to_string()).unwrap()
                    };
                    (1..=50).map(make).collect()
                })
            };
            let creators: Vec<_> = (0..CREATORS).map(creator).collect();
            creators.into_iter().map(|creator| creator.join().unwrap()).collect()
        });
        let storage = Storage::connect(url).unwrap();
        for txid in 1..=50 {
            let is_winner = |number: &usize| results[*number][txid as usize - 1] == Created::New;
            let winners: Vec<_> = (0..CREATORS).filter(is_winner).collect();
            assert_eq!(winners.len(), 1, "of {txid} in {url}");
            assert_eq!(ask!(storage, get(0, Txids::one(txid))).unwrap(), winners[0].to_string());
        }
    }
}

#[test]
fn owner_is_written_over_its_version_alone() {
    let folder = tempdir().unwrap();
    for url in [folder.path().to_str().unwrap(), "memory:owner"] {
        let storage = Storage::connect(url).unwrap();
        assert!(ask!(storage, read_owner()).unwrap().is_none());
        let zero = || Bytes::from_static(b"0");
        let Written::Done(first) = ask!(storage, write_owner(zero(), None)).unwrap() else {
            panic!("it is new");
        };
        assert_eq!(ask!(storage, write_owner(zero(), None)).unwrap(), Written::Changed);
        assert_eq!(ask!(storage, read_owner()).unwrap().unwrap(), (zero(), first.clone()));

        // Each adds one, as often as it takes, so a write that is lost is missing in the end.
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let storage = Storage::connect(url).unwrap();
                    (0..25).for_each(|_| add_one(&storage));
                });
            }
        });
        assert_eq!(ask!(storage, read_owner()).unwrap().unwrap().0, "100", "{url}");
        assert_eq!(
            ask!(storage, write_owner(zero(), Some(first))).unwrap(),
            Written::Changed
        );
    }
}

fn add_one(storage: &Storage) {
    loop {
        let (bytes, version) = ask!(storage, read_owner()).unwrap().unwrap();
        let number: u32 = std::str::from_utf8(&bytes).unwrap().parse().unwrap();
        let next = Bytes::from((number + 1).to_string());
        if ask!(storage, write_owner(next, Some(version))).unwrap() != Written::Changed {
            return;
        }
    }
}

#[test]
fn owner_that_was_deleted_is_changed() {
    let folder = tempdir().unwrap();
    let storage = connect(folder.path());
    let Written::Done(version) = ask!(storage, write_owner(Bytes::from_static(b"a"), None)).unwrap() else {
        panic!("it is new");
    };
    fs::remove_file(folder.path().join("larder/owner.json")).unwrap();
    let again = ask!(storage, write_owner(Bytes::from_static(b"b"), Some(version))).unwrap();
    assert_eq!(again, Written::Changed);
}

#[test]
fn probe_finds_ignored_conditions() {
    let folder = tempdir().unwrap();
    for storage in [connect(folder.path()), Storage::connect("memory:probe").unwrap()] {
        // The second time the object of the first is there.
        for _ in 0..3 {
            ask!(storage, probe()).unwrap();
        }
    }
    for (lie, condition) in [
        (Lie::IgnoresConditions, "If-None-Match"),
        (Lie::IgnoresVersions, "If-Match"),
    ] {
        let storage = Storage::on(Lying::new(lie), Layout::Hex);
        for _ in 0..2 {
            let error = ask!(storage, probe()).unwrap_err();
            assert_eq!(error.kind(), FailureKind::Permanent);
            let error = error.to_string();
            assert!(
                error.contains(condition) && error.contains("unconditional(true)"),
                "{error}"
            );
        }
    }
}

#[test]
fn bodies_of_another_length_are_errors() {
    for lie in [Lie::CutsBodies, Lie::StretchesBodies] {
        let storage = Storage::on(Lying::new(lie), Layout::Decimal);
        create(&storage, 1, &"long ".repeat(100_000)).unwrap();
        let error = ask!(storage, get(0, Txids::one(1))).unwrap_err();
        assert!(error.to_string().contains("bytes"), "{error}");
        let mut reader = ask!(storage, reader(0, Txids::one(1))).unwrap();
        let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{error}");
    }
}

/// The names of single transactions are known. A merged file is found by one more list.
#[test]
fn files_that_a_list_hides_are_found() {
    let lying = Lying::new(Lie::Hides);
    let storage = Storage::on(Arc::clone(&lying) as _, Layout::Decimal);
    for txid in 4..=9 {
        create(&storage, txid, "transaction").unwrap();
    }
    let merged = Txids { min: 1, max: 3 };
    ask!(storage, put(1, merged, 3000, Bytes::from_static(b"merged"))).unwrap();
    let replica = Replica::on(Arc::clone(&lying) as _, Layout::Decimal);
    let states = || -> Vec<_> {
        let spans = replica.points().unwrap();
        let ends = spans.iter().map(|span| (span.first.txid, span.last.txid, span.states));
        ends.collect()
    };
    let all = states();
    assert_eq!(all.iter().map(|(_, _, states)| states).sum::<u64>(), 7, "{all:?}");
    for hidden in [&[9][..], &[8, 9], &[5], &[4, 5, 6, 8]] {
        for txid in hidden {
            lying.hide(format!("ltx/0/{}", Txids::one(*txid).file_name()), 1);
        }
        assert_eq!(states(), all, "{hidden:?}");
    }
    for txid in 4..=6 {
        lying.hide(format!("ltx/0/{}", Txids::one(txid).file_name()), u32::MAX);
    }
    lying.hide(format!("ltx/1/{}", merged.file_name()), 1);
    assert_eq!(states(), all);
}

/// A late request of an earlier store changes the owner between two requests of an opening.
#[test]
fn opening_looks_again_if_the_owner_changes() {
    let lying = Lying::new(Lie::ChangesOwner);
    Storage::set_memory("changes-owner", Arc::clone(&lying) as _);
    let folder = tempdir().unwrap();
    let options = Options::new().replicate_to("memory:changes-owner");
    let open = || options.clone().open(folder.path().join("app.db"));
    open().unwrap().close().unwrap();
    lying.change_owner(3);
    let store = open().unwrap();
    store.write(|tx| tx.execute_batch("CREATE TABLE t(x)")).unwrap();
    store.replica().unwrap().flush(PATIENCE).unwrap();
    store.close().unwrap();
    lying.change_owner(100);
    let error = open().unwrap_err();
    assert!(error.is_retryable(), "{error}");
    assert!(error.to_string().contains("owner.json"), "{error}");
}

#[test]
fn large_file_is_read_in_pieces() {
    let folder = tempdir().unwrap();
    let storage = connect(folder.path());
    // No piece of it is like another.
    let contents: Bytes = (0..3_000_001_u32).flat_map(u32::to_le_bytes).collect();
    create_bytes(&storage, 1, contents.clone()).unwrap();
    assert!(read(&storage, 0, Txids::one(1)) == contents);
    // A reader that stops early leaves nobody waiting.
    let mut reader = ask!(storage, reader(0, Txids::one(1))).unwrap();
    let mut first = [0; 8];
    reader.read_exact(&mut first).unwrap();
    assert_eq!(first, contents[..8]);
    drop(reader);
    assert_eq!(create(&storage, 2, "next").unwrap(), Created::New);
}

#[test]
fn error_of_reading_reaches_the_reader() {
    let folder = tempdir().unwrap();
    let storage = connect(folder.path());
    ask!(storage, create(0, Txids::one(1), TIME, Bytes::from(vec![1; 8 << 20]))).unwrap();
    let mut reader = ask!(storage, reader(0, Txids::one(1))).unwrap();
    let path = folder.path().join("ltx/0/0000000000000001-0000000000000001.ltx");
    fs::File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(5 << 20)
        .unwrap();
    let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
    let inner = error.get_ref().unwrap().downcast_ref::<StorageError>().unwrap();
    assert!(
        inner.to_string().contains("0000000000000001.ltx could not be read"),
        "{inner}"
    );
}

#[test]
fn killed_writer_leaves_whole_files_alone() {
    let folder = tempdir().unwrap();
    let root = folder.path().join("replica");
    let mut at = 1;
    for round in 0..8 {
        let writer = Child::start("replica::storage", "create", &[root.to_str().unwrap(), &at.to_string()]);
        for _ in 0..=round {
            writer.line();
        }
        let told = writer.kill().len() as u64 + round + 1;
        let storage = connect(&root);
        let files = ask!(storage, list(0)).unwrap();
        assert!(files.len() as u64 >= at - 1 + told, "what was told is there");
        for file in &files {
            let txids = file.txids;
            let bytes = ask!(storage, get(0, txids)).unwrap();
            assert!(bytes == large(file.txids.min), "{}", file.txids);
        }
        at = files.last().unwrap().txids.max + 1;
        // The first write of a process removes what the killed one left.
        create(&storage, 1 << 40 | at, "one").unwrap();
        assert_eq!(fs::read_dir(root.join("larder/tmp")).unwrap().count(), 0);
        ask!(storage, delete(0, Txids::one(1 << 40 | at))).unwrap();
    }
}

fn large(txid: u64) -> Vec<u8> {
    txid.to_le_bytes().repeat(100_000)
}

/// The order on the disk: the contents, then the name, then the folder of the name.
#[cfg(target_os = "linux")]
#[test]
fn folder_syncs_contents_then_the_name() {
    if !succeeds(Command::new("strace").arg("-V")) {
        return child::skipped("there is no strace here");
    }
    let folder = tempdir().unwrap();
    let trace = folder.path().join("trace");
    let mut strace = Command::new("strace");
    strace.args([
        "-f",
        "-y",
        "-e",
        "trace=write,fsync,fdatasync,rename,renameat,renameat2,link,linkat,mkdir,mkdirat",
    ]);
    strace.arg("-o").arg(&trace).arg(std::env::current_exe().unwrap());
    let root = folder.path().join("replica");
    Child::start_by(strace, "replica::storage", "once", &[root.to_str().unwrap()]).finish();

    let trace = fs::read_to_string(trace).unwrap();
    let calls: Vec<_> = trace.lines().collect();
    let after = |from: usize, what: &[&str]| {
        let is_it = |call: &&str| what.iter().all(|part| call.contains(part)) && !call.contains("= -1");
        let at = calls[from..].iter().position(is_it);
        from + at.unwrap_or_else(|| panic!("no {what:?} after call {from} of\n{trace}")) + 1
    };
    let level = root.join("ltx/0").display().to_string();
    let made = after(0, &["mkdir", "replica\""]);
    after(made, &["fsync", &format!("{}>", folder.path().display())]);
    let written = after(0, &["write(", "larder/tmp/", "contents"]);
    let synced = after(written, &["fsync", "larder/tmp/"]);
    let named = after(
        synced,
        &["rename", "larder/tmp/", "0000000000000001.ltx", "RENAME_NOREPLACE"],
    );
    let durable = after(named, &["fsync", &format!("{level}>")]);
    after(durable, &["write(", "it is there"]);
    // The folders of the name were made durable before.
    let made = after(0, &["mkdir", "ltx/0"]);
    let above = after(made, &["fsync", "replica/ltx>"]);
    assert!(above < named);
}

#[test]
fn missing_parent_is_named() {
    let folder = tempdir().unwrap();
    let storage = connect(folder.path().join("mount/replica"));
    let parent = folder.path().join("mount");
    // It is not an empty replica.
    for error in [
        create(&storage, 1, "one").unwrap_err(),
        ask!(storage, list(0)).unwrap_err(),
        ask!(storage, read_owner()).unwrap_err(),
    ] {
        assert_eq!(error.kind(), FailureKind::Transient, "it may be mounted later");
        let error = error.to_string();
        assert!(
            error.contains(&format!("the folder {} does not exist", parent.display())),
            "{error}"
        );
    }
    assert!(!parent.exists());
    fs::create_dir(parent).unwrap();
    assert_eq!(ask!(storage, list(0)).unwrap(), [], "an empty replica");
    create(&storage, 1, "one").unwrap();
}

#[test]
fn file_in_the_place_of_a_folder_is_named() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "contents").unwrap();
    for root in [file.clone(), file.join("replica")] {
        let storage = connect(&root);
        for error in [
            create(&storage, 1, "one").unwrap_err(),
            ask!(storage, list(0)).unwrap_err(),
        ] {
            assert_eq!(error.kind(), FailureKind::Permanent, "{error}");
            let error = error.to_string();
            assert!(
                error.contains(&format!("{} is a file where a folder", file.display())),
                "{error}"
            );
        }
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "contents");
}

#[test]
fn foreign_folder_is_refused_with_the_user() {
    let folder = tempdir().unwrap();
    let Some(command) = child::as_ordinary_user(folder.path()) else {
        return;
    };
    let root = folder.path().join("replica");
    create(&connect(&root), 1, "one").unwrap();
    child::set_mode(&root.join("ltx/0"), 0o555);
    child::set_mode(&root.join("larder/tmp"), 0o555);
    let told = Child::start_by(command, "replica::storage", "once", &[root.to_str().unwrap()])
        .finish()
        .join("\n");
    let expected = if child::is_root() { "uid 65534" } else { "uid " };
    assert!(told.contains("Permission denied") && told.contains(expected), "{told}");
    child::set_mode(&root.join("ltx/0"), 0o755);
}

#[cfg(target_os = "linux")]
#[test]
fn read_only_file_system_is_named() {
    let folder = tempdir().unwrap();
    let root = folder.path().join("replica");
    create(&connect(&root), 1, "one").unwrap();
    let Some(command) = child::with_read_only_mount(folder.path()) else {
        return;
    };
    let told = Child::start_by(command, "replica::storage", "once", &[root.to_str().unwrap()])
        .finish()
        .join("\n");
    assert!(
        told.contains("Read-only file system") && told.contains("mount the file system for writing"),
        "{told}"
    );
}

#[test]
fn errors_name_the_replica_for_users() {
    let folder = tempdir().unwrap();
    let storage = connect(folder.path().join("no/replica"));
    let error = Error::from(create(&storage, 1, "one").unwrap_err());
    assert!(
        matches!(&error, Error::Replica { url, .. } if *url == storage.to_string()),
        "{error:?}"
    );
    assert!(
        error.to_string().starts_with(&format!("replica {storage}: ltx/0/")),
        "{error}"
    );
    assert_eq!(error.outcome(), larder::Outcome::NotStarted);
    assert!(error.source().is_none());
    let debug = format!("{storage:?}");
    assert!(debug.contains("Decimal"), "{debug}");
}

/// Two processes on one folder: the versions of the owner are theirs in turn, and none is lost.
#[test]
fn processes_update_the_owner_in_turn() {
    let folder = tempdir().unwrap();
    let storage = connect(folder.path());
    ask!(storage, write_owner(Bytes::from_static(b"0"), None)).unwrap();
    let root = folder.path().to_str().unwrap().to_owned();
    let adders: Vec<_> = (0..3)
        .map(|_| Child::start("replica::storage", "add", &[&root]))
        .collect();
    adders.into_iter().for_each(|adder| drop(adder.finish()));
    assert_eq!(ask!(storage, read_owner()).unwrap().unwrap().0, "150");
    let entries: BTreeMap<PathBuf, u64> = fs::read_dir(folder.path().join("larder"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into(), entry.metadata().unwrap().len()))
        .collect();
    assert_eq!(
        entries.keys().count(),
        3,
        "the owner, the lock and the folder for unfinished files: {entries:?}"
    );
}

/// The other process.
pub(crate) fn child(task: &Task) {
    let storage = connect(&task.args[0]);
    match task.role.as_str() {
        "create" => {
            for txid in task.args[1].parse().unwrap().. {
                let bytes = Bytes::from(large(txid));
                ask!(storage, create(0, Txids::one(txid), TIME, bytes)).unwrap();
                tell(txid);
            }
        }
        "once" => match create(&storage, 1, "contents") {
            Ok(_) => match create(&storage, 2, "more") {
                Ok(_) => tell("it is there"),
                Err(error) => tell(error),
            },
            Err(error) => tell(error),
        },
        "add" => (0..50).for_each(|_| add_one(&storage)),
        other => panic!("no role {other}"),
    }
}

/// No text that a user or a log may see has a secret of a URL, however the URL is written.
#[test]
fn no_credential_of_a_url_is_shown() {
    use larder::{At, FollowerOptions, Options, Replica, ReplicaOptions, Store};
    log::collect();
    let folder = tempdir().unwrap();
    for url in [
        "s3://AKIA:canary@bucket/app",
        "S3://AKIA:canary@bucket/app",
        "s3:/AKIA:canary@bucket/app",
        "s3:AKIA:canary@bucket/app",
        " s3://AKIA:canary@bucket/app",
        "s3//AKIA://canary@bucket/app",
        "https://AKIA:canary@host/app",
        "ftp://canary@host/app",
        "s3://AKIA:x?canary@bucket/app",
        "s3://AKIA:x#canary@bucket/app",
        "s3://AKIA:x/canary@bucket/app",
        "s3://AKIA:a@canary@bucket/app",
        "s3://bucket/app?secret-access-key=canary",
        " s3://bucket/app?secret-access-key=canary",
        "s3://bucket/app?endpoint=http://AKIA:canary@host",
        "s3://bucket/app#canary",
        "abs://account:canary@container/app",
        "gs://AKIA:canary@bucket/app",
        "file:///tmp/app?canary",
    ] {
        let (to, of) = (ReplicaOptions::to(url), FollowerOptions::of(url));
        let options = Options::new().replicate_to(to.clone());
        let mut shown = vec![
            format!("{to:?}"),
            format!("{of:?}"),
            format!("{options:?} {options:#?}"),
        ];
        let errors = [
            options.open(folder.path().join("app.db")).map(drop),
            Options::new().follow(of, folder.path().join("follower.db")).map(drop),
            Replica::open(url).map(drop),
            Store::restore_from(url).to(folder.path().join("restored.db")).map(drop),
            Replica::open("memory:canaries")
                .unwrap()
                .branch(At::Newest, url)
                .map(drop),
        ];
        for error in errors {
            let error = error.expect_err(url);
            shown.push(format!("{error} {error:?} {error:#?}"));
        }
        for shown in shown {
            assert!(!shown.contains("canary"), "{url}: {shown}");
        }
    }
    let events = log::events(|event| event.mentions("canary@") || event.mentions("=canary"));
    assert!(events.is_empty(), "{events:?}");
}
