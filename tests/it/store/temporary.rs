//! Where temporary stores are, and templates of them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use larder::{Checkpoints, Durability, Error, Migration, Migrations, Options, Role, Store, Template};

use crate::support::child::{self, Child, after_mounting, tell};
use crate::support::log;

pub(crate) fn child(task: &child::Task) {
    match task.role.as_str() {
        // Where its store is, what the event says, and whether a write of some megabytes fits there.
        "where" => {
            log::collect();
            let store = Options::new().durability(Durability::Full).open_temp().unwrap();
            tell(store.path().display());
            let event = log::events(|event| event.message.contains("the temporary store is not in memory"));
            tell(
                event
                    .first()
                    .map_or("no event".to_owned(), |event| format!("{event:?}")),
            );
            let large = "CREATE TABLE t(x); INSERT INTO t SELECT zeroblob(10000000)";
            store.write(move |tx| tx.execute_batch(large)).unwrap();
            let folder = store.path().parent().unwrap().to_owned();
            drop(store);
            tell(folder.exists());
        }
        role => panic!("no role {role}"),
    }
}

/// The path of the store, and its event.
fn place(mut command: Command, set: impl FnOnce(&mut Command)) -> (PathBuf, String) {
    command.env_remove("TMPDIR");
    set(&mut command);
    let child = Child::start_by(command, "store::temporary", "where", &[]);
    let place = (child.line().into(), child.line());
    child.expect("false");
    child.finish();
    place
}

fn this_binary() -> Command {
    Command::new(std::env::current_exe().unwrap())
}

#[test]
fn temporary_store_is_in_memory_where_there_is_room() {
    let mount = "mount -t tmpfs -o size=2g larder /dev/shm";
    let Some(command) = after_mounting(mount) else {
        return;
    };
    let (path, event) = place(command, |_| {});
    assert!(path.starts_with("/dev/shm"), "{}", path.display());
    assert_eq!(event, "no event");
}

/// As in a container, where 64 MiB are all.
#[test]
fn temporary_store_is_on_disk_where_memory_is_small_and_says_so() {
    let Some(command) = after_mounting("mount -t tmpfs -o size=64m larder /dev/shm") else {
        return;
    };
    let (path, event) = place(command, |_| {});
    assert!(path.starts_with("/tmp"), "{}", path.display());
    assert!(
        event.contains("/dev/shm has 64 MiB of free space, fewer than 1024"),
        "{event}"
    );
    assert!(event.contains(path.parent().unwrap().to_str().unwrap()), "{event}");
}

#[test]
fn temporary_store_is_on_disk_where_memory_cannot_be_written() {
    let Some(command) = after_mounting("mount -t tmpfs -o size=2g,ro larder /dev/shm") else {
        return;
    };
    let (path, event) = place(command, |_| {});
    assert!(path.starts_with("/tmp"), "{}", path.display());
    assert!(
        event.contains("no folder can be created in /dev/shm: Read-only file system"),
        "{event}"
    );
}

#[test]
fn folder_of_tmpdir_goes_before_memory() {
    let folder = tempfile::tempdir().unwrap();
    let (path, event) = place(this_binary(), |command| {
        command.env("TMPDIR", folder.path());
    });
    assert!(path.starts_with(folder.path()), "{}", path.display());
    assert_eq!(event, "no event");
}

// ---- templates ----

fn numbered(count: u64) -> Options {
    let table = |version| {
        Migration::new(
            version,
            "table",
            format!("CREATE TABLE t{version}(id INTEGER PRIMARY KEY) STRICT"),
        )
    };
    Options::new()
        .readers(1)
        .migrations(Migrations::new((1..=count).map(table)))
}

fn fill(store: &Store) -> larder::Result<()> {
    store.write(|tx| tx.execute_batch("INSERT INTO t1 VALUES (1), (2)"))
}

fn rows(store: &Store) -> i64 {
    store.read(|tx| tx.scalar("SELECT count(*) FROM t1", [])).unwrap()
}

#[test]
fn copies_of_template_are_migrated_filled_and_apart() {
    let template = numbered(20).template_with(fill).unwrap();
    let (one, other) = (template.open_temp().unwrap(), template.clone().open_temp().unwrap());
    assert_ne!(one.path(), other.path());
    one.write(|tx| tx.execute("DELETE FROM t1 WHERE id = 1", [])).unwrap();
    assert_eq!(
        (rows(&one), rows(&other), rows(&template.open_temp().unwrap())),
        (1, 2, 2)
    );
    for store in [&one, &other] {
        let status = store.migrations().unwrap();
        assert_eq!((status.applied.len(), status.pending.len()), (20, 0));
        assert!(store.check().run().unwrap().is_ok());
        let file = fs::metadata(store.path()).unwrap();
        assert_eq!(file.mode() & 0o777, 0o600);
    }
    let folder = one.path().parent().unwrap().to_owned();
    drop(one);
    assert!(!folder.exists());
    assert!(
        format!("{template:?}").starts_with("Template { bytes: "),
        "{template:?}"
    );
}

/// Each copy is set up as any store is, and migrations are not applied again.
#[test]
fn copy_of_template_has_options_of_template() {
    static WRITERS: AtomicU32 = AtomicU32::new(0);
    let options = numbered(3)
        .durability(Durability::Full)
        .page_size(8192)
        .checkpoints(Checkpoints::Left)
        .on_connect(|conn, role| {
            if role == Role::Writer {
                WRITERS.fetch_add(1, Relaxed);
            }
            Ok(conn.execute_batch("PRAGMA recursive_triggers = ON")?)
        });
    let template = options.template_with(fill).unwrap();
    assert_eq!(WRITERS.load(Relaxed), 1);
    let store = template.open_temp().unwrap();
    assert_eq!(WRITERS.load(Relaxed), 2);
    assert_eq!(store.stats().committed_writes, 0);
    let pragma = |name: &str| -> i64 { store.write_pragma(name) };
    assert_eq!(
        ["synchronous", "page_size", "recursive_triggers"].map(pragma),
        [2, 8192, 1]
    );
    assert_eq!(
        rows(&store),
        2,
        "what was written is in the file, and not in the log alone"
    );
    assert_eq!(store.migrate().unwrap().steps, []);
}

trait WritePragma {
    fn write_pragma(&self, name: &str) -> i64;
}

impl WritePragma for Store {
    fn write_pragma(&self, name: &str) -> i64 {
        let sql = format!("SELECT * FROM pragma_{name}");
        self.write(move |tx| tx.scalar(&sql, [])).unwrap()
    }
}

#[test]
fn migrations_that_are_not_applied_at_open_are_pending_in_copies() {
    let set =
        Migrations::new([Migration::new(1, "t", "CREATE TABLE t1(id INTEGER PRIMARY KEY) STRICT")]).at_open(false);
    let template = Options::new().migrations(set.clone()).template().unwrap();
    let store = template.open_temp().unwrap();
    assert_eq!(store.migrations().unwrap().pending.len(), 1);
    let migrated = Options::new()
        .migrations(set)
        .template_with(|store| store.migrate().map(drop))
        .unwrap();
    assert!(migrated.open_temp().unwrap().migrations().unwrap().pending.is_empty());
}

#[test]
fn template_that_cannot_be_made_says_why() {
    let broken = Options::new().migrations(Migrations::new([Migration::new(1, "broken", "nonsense")]));
    let error = broken.template().unwrap_err().to_string();
    assert!(error.contains("migration 1 (broken)"), "{error}");
    let error = numbered(1)
        .template_with(|_| Err(Error::app("no fixtures")))
        .unwrap_err();
    assert_eq!(error.to_string(), "no fixtures");
    for (named, options) in [
        ("readers", Options::new().readers(0)),
        ("create", Options::new().create(false)),
    ] {
        match options.template().unwrap_err() {
            Error::Options { option, .. } => assert_eq!(option, named),
            other => panic!("{other:?}"),
        }
    }
    let closed = numbered(1).template_with(|store| {
        store.close()?;
        fill(store)
    });
    assert!(matches!(closed, Err(Error::Closed)), "{closed:?}");
}

/// A read that pins the log keeps commits out of the file.
#[test]
fn template_whose_log_cannot_be_emptied_is_refused() {
    let keep: std::sync::Mutex<Option<larder::rusqlite::Connection>> = std::sync::Mutex::default();
    let options = Options::new().close_timeout(std::time::Duration::from_millis(200));
    let made = options.template_with(|store| {
        store.write(|tx| tx.execute_batch("CREATE TABLE t1(id INTEGER PRIMARY KEY) STRICT"))?;
        let reader = larder::rusqlite::Connection::open(store.path())?;
        reader.execute_batch("BEGIN; SELECT count(*) FROM t1")?;
        store.write(|tx| tx.execute_batch("INSERT INTO t1 VALUES (1)"))?;
        *keep.lock().unwrap() = Some(reader);
        Ok(())
    });
    let error = made.unwrap_err().to_string();
    assert!(
        error.contains("no template can be made: the store did not close as a whole"),
        "{error}"
    );
}

#[cfg(feature = "replicate")]
#[test]
fn template_of_replicated_store_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options::new().replicate_to(folder.path().to_str().unwrap());
    let error = options.template().unwrap_err();
    assert!(
        matches!(
            error,
            Error::Options {
                option: "replicate_to",
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn templates_are_shared_between_threads() {
    fn shared<T: Clone + Send + Sync + std::fmt::Debug>(_: &T) {}
    let template: Template = numbered(1).template().unwrap();
    shared(&template);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let store = template.open_temp().unwrap();
                fill(&store).unwrap();
                assert_eq!(rows(&store), 2);
            });
        }
    });
    assert!(Path::new(template.open_temp().unwrap().path()).is_absolute());
}
