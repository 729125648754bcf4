//! `Options::open`: what it sets up, and what it refuses. A refused file is left unchanged.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};
use std::{fs, thread};

use larder::rusqlite::Connection;
use larder::{AutoVacuum, Durability, Error, Options, ReadOptions, ReadTx, Role, Store};
use tempfile::{TempDir, tempdir};

use crate::support::child::{self, Child, as_ordinary_user, as_user, is_root, set_mode, skipped, succeeds, tell};
use crate::support::timeout_after_failed_opening;

pub(crate) fn child(task: &child::Task) {
    match task.role.as_str() {
        "open" => tell(open_and_describe(&task.args[0])),
        "read in rollback mode" => {
            let conn = Connection::open(&task.args[0]).unwrap();
            conn.execute_batch("BEGIN; SELECT count(*) FROM t").unwrap();
            let rows: i64 = conn.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
            tell(rows);
            child::listen();
            conn.execute_batch("COMMIT").unwrap();
        }
        "write in rollback mode" => {
            let conn = Connection::open(&task.args[0]).unwrap();
            conn.execute_batch("BEGIN EXCLUSIVE").unwrap();
            tell("holding");
            child::listen();
            conn.execute_batch("COMMIT").unwrap();
        }
        "temporary" => {
            let store = Store::open_temp().unwrap();
            tell(store.path().display());
            child::listen();
        }
        "use with few threads" => loop {
            tell(std::process::id());
            match child::listen().as_str() {
                "" => return,
                folder => {
                    let path = Path::new(folder).join("app.db");
                    tell(use_store(&path).map_or_else(|error| error.to_string(), |()| "done".into()));
                }
            }
        },
        other => panic!("no role {other:?}"),
    }
}

/// What needs a thread of larder's: all of it, in the order in which it starts them.
fn use_store(path: &Path) -> larder::Result<()> {
    let store = Options::new()
        .readers(2)
        .mmap_size(0)
        .monitor_interval(Duration::from_millis(1))
        .open(path)?;
    store.write(|tx| tx.execute_batch("CREATE TABLE IF NOT EXISTS t(n)"))?;
    store.read(|tx| tx.exists("SELECT 1 FROM t", []))?;
    #[cfg(feature = "async")]
    {
        futures_executor::block_on(store.write_async(|tx| tx.execute("INSERT INTO t VALUES (1)", [])))?;
        futures_executor::block_on(store.read_async(|tx| tx.exists("SELECT 1 FROM t", [])))?;
        futures_executor::block_on(store.close_async())?;
    }
    store.close()?;
    Ok(())
}

/// A running process whose limits can be set, by `prlimit`.
struct Limited {
    child: Child,
    pid: String,
    folder: TempDir,
    user: u32,
}

impl Limited {
    /// A child of that user that uses a store whenever it is told to; `None`, said visibly, if its limits cannot be set.
    fn start(user: u32) -> Option<Self> {
        let folder = tempdir().unwrap();
        let command = as_user(user, folder.path())?;
        let child = Child::start_by(command, "store::opening", "use with few threads", &[]);
        let pid = child.line();
        let limited = Self {
            child,
            pid,
            folder,
            user,
        };
        if !limited.limit("nproc", &limited.hard("processes")) {
            skipped("prlimit cannot limit another process");
            return None;
        }
        Some(limited)
    }

    /// Sets a soft limit.
    fn limit(&self, resource: &str, limit: &str) -> bool {
        let mut command = Command::new("prlimit");
        if is_root() {
            // Root may not be allowed to limit the process of another user.
            let user = [format!("--reuid={}", self.user), format!("--regid={}", self.user)];
            command = Command::new("setpriv");
            command.args(user).args(["--clear-groups", "prlimit"]);
        }
        succeeds(command.args(["--pid", &self.pid, &format!("--{resource}={limit}:")]))
    }

    /// The hard limit, up to which the soft one may be raised.
    fn hard(&self, resource: &str) -> String {
        let limits = fs::read_to_string(format!("/proc/{}/limits", self.pid)).unwrap();
        let line = limits
            .lines()
            .find_map(|line| line.strip_prefix(&format!("Max {resource}")));
        line.unwrap().split_whitespace().nth(1).unwrap().to_owned()
    }

    /// A number out of `/proc`.
    fn status(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_matches([':', '\t', ' ', 'k', 'B']).parse().unwrap()
    }

    /// What using a store comes to.
    fn use_store(&mut self) -> String {
        let folder = self.folder.path().to_str().unwrap().to_owned();
        self.child.say(&folder);
        let result = self.child.line();
        assert_eq!(self.child.line(), self.pid);
        result
    }
}

/// `Store::open` and the first poll of a task panicked where the system refused a thread.
#[test]
fn open_under_thread_limit_names_the_cause() {
    if !is_root() {
        return skipped("a user that has no other process needs root and setpriv");
    }
    // The limit counts all threads of a user.
    let Some(mut limited) = Limited::start(61_017) else {
        return;
    };
    let threads = limited.status("Threads");
    let mut refused = Vec::new();
    for more in 0..20 {
        assert!(limited.limit("nproc", &(threads + more).to_string()));
        let result = limited.use_store();
        if result == "done" {
            break;
        }
        let named = result.contains("refused a thread for its") && result.contains("ulimit -u");
        assert!(named, "{more}: {result}");
        refused.push(result);
    }
    assert!(refused[0].contains("for its timer"), "{refused:?}");
    assert!(
        refused.iter().any(|result| result.contains("for its writer")),
        "{refused:?}"
    );
    assert!(limited.limit("nproc", &limited.hard("processes")));
    assert_eq!(limited.use_store(), "done");
    limited.child.finish();
}

/// A thread needs memory for its stack.
#[test]
fn open_under_memory_limit_names_the_cause() {
    let Some(mut limited) = Limited::start(61_018) else {
        return;
    };
    let room = 1024 * limited.status("VmSize") + 1_900_000;
    assert!(limited.limit("as", &room.to_string()));
    let result = limited.use_store();
    let named = result.contains("refused a thread for its timer") && result.contains("ulimit -v");
    assert!(named, "{result}");
    assert!(limited.limit("as", &limited.hard("address space")));
    assert_eq!(limited.use_store(), "done");
    limited.child.finish();
}

/// Opens, writes and closes; one line about how that went.
fn open_and_describe(path: &str) -> String {
    let opened = Options::new().busy_timeout(Duration::from_millis(200)).open(path);
    match opened.and_then(|store| {
        store.write(|tx| tx.execute_batch("CREATE TABLE IF NOT EXISTS opened(n)"))?;
        store.close()
    }) {
        Ok(_) => "opened".into(),
        Err(Error::Open { problem, .. }) => format!("Open: {problem}"),
        Err(other) => format!("another error: {other}"),
    }
}

fn patient_for_200_ms() -> Options {
    Options::new().busy_timeout(Duration::from_millis(200))
}

/// A database that larder had no part in: rollback mode, pages of 1024 bytes, three rows.
fn made_by_others(path: &Path) {
    let conn = Connection::open(path).unwrap();
    conn.execute_batch(
        "PRAGMA page_size = 1024; PRAGMA journal_mode = DELETE;
         CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT); INSERT INTO t(name) VALUES ('ant'), ('bee'), ('cat')",
    )
    .unwrap();
    conn.close().unwrap();
}

fn names(store: &Store) -> Vec<String> {
    store
        .read(|tx| tx.query_map("SELECT name FROM t ORDER BY id", [], |row| row.get(0)))
        .unwrap()
}

fn pragma(tx: &ReadTx<'_>, name: &str) -> larder::Result<String> {
    tx.query_row(&format!("PRAGMA {name}"), [], |row| {
        Ok(match row.get_ref(0)? {
            larder::rusqlite::types::ValueRef::Integer(n) => n.to_string(),
            other => other.as_str()?.to_owned(),
        })
    })
}

/// Which of them are not as they should be.
fn wrong(tx: &ReadTx<'_>, wanted: &[(&str, &str)]) -> larder::Result<Vec<String>> {
    let mut wrong = Vec::new();
    for (name, value) in wanted {
        let got = pragma(tx, name)?;
        if got != *value {
            wrong.push(format!("{name}: {got} instead of {value}"));
        }
    }
    Ok(wrong)
}

/// Runs `f` on every connection of the pool at once.
fn on_every_reader<T: Send>(
    store: &Store,
    readers: usize,
    f: impl Fn(&ReadTx<'_>) -> larder::Result<T> + Sync,
) -> Vec<T> {
    let all_have_one = Barrier::new(readers);
    let patient = || ReadOptions::new().queue_timeout(Duration::from_secs(60));
    thread::scope(|scope| {
        let threads: Vec<_> = (0..readers)
            .map(|_| {
                scope.spawn(|| {
                    store.read_with(patient(), |tx| {
                        all_have_one.wait();
                        f(tx)
                    })
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap().unwrap()).collect()
    })
}

#[track_caller]
fn open_problem<T>(result: larder::Result<T>) -> String {
    match result {
        Err(Error::Open { problem, .. }) => problem,
        Err(other) => panic!("another error: {other:?}"),
        Ok(_) => panic!("it was opened"),
    }
}

// ---- settings ----

#[test]
fn writer_pragmas_are_in_effect_by_default() {
    let store = Store::open_temp().unwrap();
    let wrong = store.write(|tx| {
        wrong(
            tx,
            &[
                ("busy_timeout", "5000"),
                ("page_size", "4096"),
                ("auto_vacuum", "2"),
                ("journal_mode", "wal"),
                ("synchronous", "1"),
                ("cache_size", "-64000"),
                ("mmap_size", "268435456"),
                ("foreign_keys", "1"),
                ("journal_size_limit", "67108864"),
                ("temp_store", "2"),
                ("wal_autocheckpoint", "0"),
                ("trusted_schema", "0"),
                ("query_only", "0"),
            ],
        )
    });
    assert_eq!(wrong.unwrap(), [""; 0]);
}

#[test]
fn reader_pragmas_are_in_effect_by_default() {
    let store = Options::new().readers(4).open_temp().unwrap();
    let all = on_every_reader(&store, 4, |tx| {
        wrong(
            tx,
            &[
                ("busy_timeout", "5000"),
                ("page_size", "4096"),
                ("journal_mode", "wal"),
                ("cache_size", "-64000"),
                ("mmap_size", "268435456"),
                ("foreign_keys", "1"),
                ("temp_store", "2"),
                ("trusted_schema", "0"),
                ("query_only", "1"),
            ],
        )
    });
    assert_eq!(all.concat(), [""; 0]);
}

#[test]
fn options_reach_every_connection() {
    let store = Options::new()
        .readers(3)
        .busy_timeout(Duration::from_millis(1234))
        .page_size(8192)
        .auto_vacuum(AutoVacuum::Full)
        .durability(Durability::Full)
        .cache_size(2 << 20)
        .mmap_size(0)
        .foreign_keys(false)
        .journal_size_limit(1 << 20)
        .open_temp()
        .unwrap();
    const COMMON: &[(&str, &str)] = &[
        ("busy_timeout", "1234"),
        ("page_size", "8192"),
        ("cache_size", "-2048"),
        ("mmap_size", "0"),
        ("foreign_keys", "0"),
    ];
    let on_writer = store.write(|tx| {
        let own = [
            ("auto_vacuum", "1"),
            ("synchronous", "2"),
            ("journal_size_limit", "1048576"),
        ];
        Ok([wrong(tx, COMMON)?, wrong(tx, &own)?].concat())
    });
    assert_eq!(on_writer.unwrap(), [""; 0]);
    assert_eq!(on_every_reader(&store, 3, |tx| wrong(tx, COMMON)).concat(), [""; 0]);
}

#[test]
fn auto_vacuum_can_be_off() {
    let store = Options::new().auto_vacuum(AutoVacuum::None).open_temp().unwrap();
    assert_eq!(store.write(|tx| pragma(tx, "auto_vacuum")).unwrap(), "0");
}

/// A process was killed while it created the file: the first pages are in it, and so is the journal that takes them back.
/// The file was not taken for a new one, since it had bytes, and so got SQLite's own page size and no auto-vacuum. Once the
/// first page was written, the connection kept its settings, and opening failed (found by the `replica` suite).
#[test]
fn interrupted_creation_restarts_with_its_options() {
    for before_first_page in [true, false] {
        let folder = tempdir().unwrap();
        let (making, cut_off) = (folder.path().join("making.db"), folder.path().join("app.db"));
        let conn = Connection::open(&making).unwrap();
        // A page that finds no room in the cache is written before the commit.
        conn.execute_batch(
            "PRAGMA page_size = 512; PRAGMA cache_size = 1; BEGIN; CREATE TABLE t(data);
             INSERT INTO t VALUES (zeroblob(100000))",
        )
        .unwrap();
        fs::copy(
            folder.path().join("making.db-journal"),
            folder.path().join("app.db-journal"),
        )
        .unwrap();
        if !before_first_page {
            conn.execute_batch("COMMIT").unwrap();
        }
        fs::copy(&making, &cut_off).unwrap();
        let starts_with = fs::read(&cut_off).unwrap()[..6].to_vec();
        assert_eq!(starts_with == b"SQLite", !before_first_page);
        let options = Options::new().page_size(8192).auto_vacuum(AutoVacuum::Full);
        let store = options.open(&cut_off).unwrap();
        let settings = store.read(|tx| {
            Ok([
                pragma(tx, "page_size")?,
                pragma(tx, "auto_vacuum")?,
                pragma(tx, "page_count")?,
            ])
        });
        assert_eq!(settings.unwrap(), ["8192", "1", "1"], "{before_first_page}");
    }
}

#[test]
fn double_quoted_misspelling_is_an_error() {
    let store = Store::open_temp().unwrap();
    let typo = |tx: &ReadTx<'_>| tx.query_row(r#"SELECT "typo""#, [], |row| row.get::<_, String>(0));
    let on_writer = store.write(move |tx| typo(tx)).unwrap_err();
    let on_reader = store.read(typo).unwrap_err();
    let in_schema = store
        .write(|tx| tx.execute_batch(r#"CREATE TABLE t(a TEXT CHECK (a <> "typo"))"#))
        .unwrap_err();
    for error in [on_writer, on_reader, in_schema] {
        assert!(error.to_string().contains("no such column"), "{error}");
    }
}

#[test]
fn schema_and_shadow_tables_cannot_be_written() {
    let store = Store::open_temp().unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE VIRTUAL TABLE ft USING fts5(x)"))
        .unwrap();
    for sql in ["DELETE FROM ft_data", "DELETE FROM sqlite_schema"] {
        let error = store.write(move |tx| tx.execute(sql, [])).unwrap_err();
        assert!(error.to_string().contains("may not be modified"), "{sql}: {error}");
    }
}

#[test]
fn hostile_schema_is_confined_to_its_tables() {
    // Which a trusted one may: by a view over a table-valued function that is not marked as harmless.
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let look = "SELECT count(*) FROM v";
    let trusting = Connection::open(&path).unwrap();
    trusting
        .execute_batch("CREATE VIEW v AS SELECT * FROM pragma_compile_options")
        .unwrap();
    trusting.query_row(look, [], |_| Ok(())).unwrap();
    trusting.close().unwrap();

    let store = Store::open(&path).unwrap();
    let in_write = store.write(move |tx| tx.query_row(look, [], |_| Ok(()))).unwrap_err();
    let in_read = store.read(|tx| tx.query_row(look, [], |_| Ok(()))).unwrap_err();
    for error in [in_write, in_read] {
        assert!(error.to_string().contains("unsafe use of"), "{error}");
    }
}

#[test]
fn new_file_is_private_to_its_owner() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("new.db");
    let store = Store::open(&path).unwrap();
    store.write(|tx| tx.execute_batch("CREATE TABLE t(n)")).unwrap();
    for name in ["new.db", "new.db-wal", "new.db-shm"] {
        let mode = fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn existing_file_keeps_its_mode() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("old.db");
    made_by_others(&path);
    set_mode(&path, 0o640);
    let store = Store::open(&path).unwrap();
    store.close().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
}

// ---- paths ----

#[test]
fn absolute_name_like_a_uri_is_a_name() {
    let folder = tempdir().unwrap();
    for name in ["file:x?nolock=1", "file:y.db?mode=memory", "file:z.db?immutable=1"] {
        let absolute = folder.path().join(name);
        let store = Store::open(&absolute).unwrap();
        store.write(|tx| tx.execute_batch("CREATE TABLE t(n)")).unwrap();
        assert!(fs::metadata(&absolute).unwrap().len() > 0 && store.path().ends_with(name));
    }
}

#[test]
fn relative_name_like_a_uri_is_a_name() {
    let folder = tempdir().unwrap();
    let name = "file:x.db?mode=memory&nolock=1";
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.current_dir(folder.path());
    let child = Child::start_by(command, "store::opening", "open", &[name]);
    child.expect("opened");
    child.finish();
    assert!(fs::metadata(folder.path().join(name)).unwrap().len() > 0);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn name_not_utf8_works() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempdir().unwrap();
    let path = folder.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9.db"));
    let store = Store::open(&path).unwrap();
    store.write(|tx| tx.execute_batch("CREATE TABLE t(n)")).unwrap();
    store
        .read(|tx| tx.query_optional("SELECT n FROM t", [], |_| Ok(())))
        .unwrap();
    assert!(fs::metadata(&path).unwrap().len() > 0);
    store.close().unwrap();
}

#[test]
fn path_with_nul_byte_is_refused() {
    let folder = tempdir().unwrap();
    let problem = open_problem(Store::open(folder.path().join("a\0b.db")));
    assert!(problem.contains("NUL"), "{problem}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn memory_database_is_refused_suggesting_open_temp() {
    for path in ["", ":memory:"] {
        let problem = open_problem(Store::open(path));
        assert!(problem.contains("open_temp"), "{path:?}: {problem}");
    }
}

#[test]
fn missing_parent_folder_is_named() {
    let folder = tempdir().unwrap();
    let error = Store::open(folder.path().join("no/such/app.db")).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("no/such") && message.contains("create it first"),
        "{message}"
    );
    assert!(matches!(error, Error::Open { source: Some(_), .. }));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn file_as_parent_folder_is_refused() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("file"), "text").unwrap();
    open_problem(Store::open(folder.path().join("file/app.db")));
    assert_eq!(fs::read(folder.path().join("file")).unwrap(), b"text");
}

#[test]
fn a_folder_is_refused() {
    let folder = tempdir().unwrap();
    for path in [
        folder.path().to_owned(),
        folder.path().join("."),
        folder.path().join(".."),
        "/".into(),
    ] {
        let problem = open_problem(Store::open(&path));
        assert!(problem.contains("folder"), "{}: {problem}", path.display());
    }
}

#[test]
fn special_file_is_refused() {
    let problem = open_problem(Options::new().allow_unsupported_filesystem(true).open("/dev/null"));
    assert!(problem.contains("not a regular file"), "{problem}");
}

#[test]
fn symbolic_link_is_refused_and_target_untouched() {
    let folder = tempdir().unwrap();
    let target = folder.path().join("target.db");
    made_by_others(&target);
    let before = fs::read(&target).unwrap();
    let link = folder.path().join("link.db");
    symlink(&target, &link).unwrap();
    let problem = open_problem(Store::open(&link));
    assert!(problem.contains("symbolic link"), "{problem}");
    assert_eq!(fs::read(&target).unwrap(), before);
}

#[test]
fn dangling_symbolic_link_creates_nothing() {
    let folder = tempdir().unwrap();
    let target = folder.path().join("target.db");
    let link = folder.path().join("link.db");
    symlink(&target, &link).unwrap();
    let problem = open_problem(Store::open(&link));
    assert!(problem.contains("symbolic link"), "{problem}");
    assert!(!target.exists());
}

#[test]
fn linked_parent_folder_is_resolved() {
    let folder = tempdir().unwrap();
    fs::create_dir(folder.path().join("real")).unwrap();
    symlink(folder.path().join("real"), folder.path().join("link")).unwrap();
    let store = Store::open(folder.path().join("link/app.db")).unwrap();
    store.write(|tx| tx.execute_batch("CREATE TABLE t(n)")).unwrap();
    let real = folder.path().canonicalize().unwrap().join("real/app.db");
    assert_eq!(store.path(), real);
    assert!(real.exists());
}

// ---- files that exist ----

#[test]
fn empty_file_is_a_new_database() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("empty.db");
    fs::write(&path, "").unwrap();
    let store = Options::new().page_size(16384).open(&path).unwrap();
    let wrong = store.write(|tx| wrong(tx, &[("page_size", "16384"), ("auto_vacuum", "2")]));
    assert_eq!(wrong.unwrap(), [""; 0]);
}

#[test]
fn file_not_a_database_is_refused_and_unchanged() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("letter.txt");
    // Short and long: SQLite judges a file by its first page.
    for text in ["Dear Ada,\n".to_owned(), "Dear Ada, how are you?\n".repeat(1000)] {
        fs::write(&path, &text).unwrap();
        let problem = open_problem(Store::open(&path));
        assert!(problem.contains("not an SQLite database"), "{problem}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "no -wal, no -shm, no -journal"
        );
    }
}

#[test]
fn damaged_database_is_refused_suggesting_a_backup() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("damaged.db");
    made_by_others(&path);
    let mut bytes = fs::read(&path).unwrap();
    // The type of the schema's first page, after the header of 100 bytes.
    bytes[100] = 0x77;
    fs::write(&path, &bytes).unwrap();
    let problem = open_problem(Store::open(&path));
    assert!(problem.contains("damaged") && problem.contains("backup"), "{problem}");
}

#[test]
fn rollback_mode_database_is_switched_and_keeps_rows() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("old.db");
    made_by_others(&path);
    let store = Options::new().page_size(4096).open(&path).unwrap();
    let wrong = store.write(|tx| {
        wrong(
            tx,
            &[("journal_mode", "wal"), ("page_size", "1024"), ("auto_vacuum", "0")],
        )
    });
    assert_eq!(wrong.unwrap(), [""; 0]);
    assert_eq!(names(&store), ["ant", "bee", "cat"]);
}

#[test]
fn rollback_mode_database_with_reader_is_not_switched() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("old.db");
    made_by_others(&path);
    let child = Child::start("store::opening", "read in rollback mode", &[path.to_str().unwrap()]);
    child.expect("3");
    let before = fs::read(&path).unwrap();

    let error = patient_for_200_ms().open(&path).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Pragma {
                name: "journal_mode",
                ..
            }
        ),
        "{error:?}"
    );
    let message = error.to_string();
    assert!(
        message.contains("could not switch to WAL") && message.contains("stop that process"),
        "{message}"
    );

    child.finish();
    assert_eq!(fs::read(&path).unwrap(), before);
    let store = patient_for_200_ms().open(&path).unwrap();
    assert_eq!(names(&store), ["ant", "bee", "cat"]);
}

#[test]
fn rollback_mode_database_with_writer_is_in_use() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("old.db");
    made_by_others(&path);
    let child = Child::start("store::opening", "write in rollback mode", &[path.to_str().unwrap()]);
    child.expect("holding");
    let error = patient_for_200_ms().open(&path).unwrap_err();
    assert!(matches!(error, Error::InUse { .. }), "{error:?}");
    child.finish();
    assert_eq!(names(&patient_for_200_ms().open(&path).unwrap()), ["ant", "bee", "cat"]);
}

// ---- one store a file ----

#[track_caller]
fn assert_already_open<T>(result: larder::Result<T>) {
    match result.map(drop) {
        Err(error @ Error::AlreadyOpen { .. }) => {
            assert!(error.to_string().contains("clone the Store"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn second_store_is_refused_under_any_name() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let store = Store::open(&path).unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT)"))
        .unwrap();
    fs::hard_link(&path, folder.path().join("hard.db")).unwrap();
    symlink(folder.path(), folder.path().join("folder")).unwrap();

    assert_already_open(Store::open(&path));
    assert_already_open(Store::open(folder.path().join("hard.db")));
    assert_already_open(Store::open(folder.path().join("folder/app.db")));
    assert_already_open(Store::open(
        folder
            .path()
            .join("folder/../")
            .join(folder.path().file_name().unwrap())
            .join("app.db"),
    ));

    // The refusals have not cost the first store its locks: SQLite's are POSIX locks, gone with any descriptor.
    let other = Connection::open(&path).unwrap();
    other.busy_timeout(Duration::ZERO).unwrap();
    let refused = store
        .write(move |_tx| Ok(other.execute_batch("BEGIN IMMEDIATE").unwrap_err().to_string()))
        .unwrap();
    assert_eq!(refused, "database is locked");
    store
        .write(|tx| tx.insert("INSERT INTO t(name) VALUES ('ant')", []))
        .unwrap();
    assert_eq!(names(&store), ["ant"]);
}

#[test]
fn refused_second_store_keeps_other_processes_out() {
    // A second `open` of the file must not touch it: closing any descriptor of it would drop the locks that the
    // first store's connections hold, and another process could then delete the live log.
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    made_by_others(&path);
    let store = Options::new().access(larder::Access::Exclusive).open(&path).unwrap();
    assert_already_open(Store::open(&path));
    let child = Child::start("store::opening", "open", &[path.to_str().unwrap()]);
    let line = child.line();
    assert!(line.contains("locked by another process"), "{line}");
    child.finish();
    assert_eq!(names(&store), ["ant", "bee", "cat"]);
}

#[test]
fn simultaneous_opens_of_new_file_give_one_store() {
    for _ in 0..20 {
        let folder = tempdir().unwrap();
        let path = folder.path().join("app.db");
        let start = Barrier::new(8);
        let opened: Vec<Store> = thread::scope(|scope| {
            let open = || {
                start.wait();
                Store::open(&path)
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            let results = threads.into_iter().map(|t| t.join().unwrap());
            let keep = |result| match result {
                Ok(store) => Some(store),
                Err(Error::AlreadyOpen { .. }) => None,
                Err(other) => panic!("{other:?}"),
            };
            // All of them are kept, so that none is closed before the last has been judged.
            results.collect::<Vec<_>>().into_iter().filter_map(keep).collect()
        });
        assert_eq!(opened.len(), 1);
        opened[0].write(|tx| tx.execute_batch("CREATE TABLE t(n)")).unwrap();
    }
}

#[test]
fn open_right_after_drop_works_a_hundred_times() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    for round in 0..100 {
        let store = Store::open(&path).unwrap();
        store
            .write(move |tx| {
                tx.execute_batch("CREATE TABLE IF NOT EXISTS t(n INTEGER)")?;
                tx.execute("INSERT INTO t VALUES (?1)", [round])
            })
            .unwrap();
        let rows: i64 = store
            .read(|tx| tx.query_row("SELECT count(*) FROM t", [], |row| row.get(0)))
            .unwrap();
        assert_eq!(rows, round + 1);
    }
}

#[test]
fn open_waits_for_close_on_the_writer_thread() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let store = Store::open(&path).unwrap();
    store
        .write(|tx| tx.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT)"))
        .unwrap();
    let (let_go, told_to_let_go) = channel::<()>();
    let (gone, has_gone) = channel();
    let clone = store.clone();
    let pending = store
        .submit(move |tx| {
            told_to_let_go.recv().unwrap();
            drop(clone);
            gone.send(()).unwrap();
            // The subject: the store is closing, and not closed for a while.
            thread::sleep(Duration::from_millis(100));
            tx.insert("INSERT INTO t(name) VALUES ('last')", [])
        })
        .unwrap();
    let mine = store.clone();
    drop(store);
    let dropped = thread::spawn(move || {
        // From here on the job's clone is the last.
        drop(mine);
        let_go.send(()).unwrap();
    });
    // `mine` closes the store only if the job has let go first, and it cannot have: it waits to be told.
    dropped.join().unwrap();
    has_gone.recv().unwrap();
    let again = Store::open(&path).unwrap();
    assert_eq!(names(&again), ["last"]);
    pending.wait().unwrap();
}

#[test]
fn second_store_is_refused_after_double_close() {
    // The story: every `close`, and the drop, marked the file as "closing", also when another store had been
    // opened on it in between. A third `open` then waited for the whole busy timeout for a store that was not
    // closing at all.
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    let patience = Duration::from_secs(20);
    let first = Store::open(&path).unwrap();
    first.close().unwrap();
    let _second = Options::new().busy_timeout(patience).open(&path).unwrap();
    first.close().unwrap();
    drop(first);
    let began = Instant::now();
    assert_already_open(Options::new().busy_timeout(patience).open(&path));
    assert!(
        began.elapsed() < patience / 2,
        "it waited for a store that is not closing"
    );
}

// ---- permissions ----

/// Lets an ordinary user open `path` and gives the line about it, or `None` if there is no such user here.
fn opened_by_an_ordinary_user(path: &Path) -> Option<String> {
    let binary = tempdir().unwrap();
    let command = as_ordinary_user(binary.path())?;
    let child = Child::start_by(command, "store::opening", "open", &[path.to_str().unwrap()]);
    let line = child.line();
    child.finish();
    Some(line)
}

/// A folder that anybody may enter, with a database in WAL mode in it.
fn folder_for_anybody() -> (TempDir, std::path::PathBuf) {
    let folder = tempdir().unwrap();
    set_mode(folder.path(), 0o777);
    let path = folder.path().join("app.db");
    made_by_others(&path);
    Store::open(&path).unwrap().close().unwrap();
    (folder, path)
}

#[test]
fn unreadable_file_is_refused_with_owner_and_mode() {
    let (_folder, path) = folder_for_anybody();
    set_mode(&path, 0o000);
    let Some(line) = opened_by_an_ordinary_user(&path) else {
        return;
    };
    assert!(
        line.starts_with("Open: ") && line.contains("check owner and mode"),
        "{line}"
    );
}

#[test]
fn read_only_file_is_refused() {
    let (_folder, path) = folder_for_anybody();
    set_mode(&path, 0o444);
    let Some(line) = opened_by_an_ordinary_user(&path) else {
        return;
    };
    assert!(line.starts_with("Open: ") && line.contains("mode"), "{line}");
}

#[test]
fn read_only_file_in_rollback_mode_is_refused() {
    let folder = tempdir().unwrap();
    set_mode(folder.path(), 0o777);
    let path = folder.path().join("old.db");
    made_by_others(&path);
    set_mode(&path, 0o444);
    let Some(line) = opened_by_an_ordinary_user(&path) else {
        return;
    };
    assert!(line.starts_with("Open: ") && line.contains("mode"), "{line}");
}

#[test]
fn unwritable_folder_is_refused() {
    let (folder, path) = folder_for_anybody();
    set_mode(&path, 0o666);
    set_mode(folder.path(), 0o555);
    let existing = opened_by_an_ordinary_user(&path);
    let new = opened_by_an_ordinary_user(&folder.path().join("new.db"));
    set_mode(folder.path(), 0o777);
    for line in [existing, new].into_iter().flatten() {
        assert!(line.starts_with("Open: "), "{line}");
        assert!(line.contains("folder") || line.contains("cannot be created"), "{line}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn read_only_file_system_is_refused() {
    if !is_root() {
        return skipped("only root can mount a folder read-only");
    }
    let (folder, path) = folder_for_anybody();
    let mount = format!(
        "mount --bind '{0}' '{0}' && mount -o remount,bind,ro '{0}'",
        folder.path().display()
    );
    for path in [path, folder.path().join("new.db")] {
        let Some(command) = child::after_mounting(&mount) else {
            return;
        };
        let child = Child::start_by(command, "store::opening", "open", &[path.to_str().unwrap()]);
        let line = child.line();
        assert!(line.starts_with("Open: ") && line.contains("read-only"), "{line}");
        child.finish();
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

// ---- on_connect ----

#[test]
fn on_connect_runs_once_for_each_connection() {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&calls);
    let store = Options::new()
        .readers(3)
        .on_connect(move |conn, role| {
            // A reader's connection is one that SQLite itself keeps from writing.
            seen.lock()
                .unwrap()
                .push((role, conn.is_readonly(larder::rusqlite::MAIN_DB)?));
            conn.execute_batch("PRAGMA recursive_triggers = ON")?;
            Ok(())
        })
        .open_temp()
        .unwrap();
    let readers = on_every_reader(&store, 3, |tx| pragma(tx, "recursive_triggers"));
    assert_eq!(readers, ["1", "1", "1"]);
    assert_eq!(store.write(|tx| pragma(tx, "recursive_triggers")).unwrap(), "1");

    let calls = calls.lock().unwrap();
    assert_eq!(calls[0], (Role::Writer, false));
    assert!(calls[1..].iter().all(|call| *call == (Role::Reader, true)), "{calls:?}");
    // One more: the first reader is opened and closed again by hand, to see its error as it is.
    assert!((3..=4).contains(&calls[1..].len()), "{calls:?}");
}

#[derive(Debug)]
struct WrongKey(Role);

impl std::fmt::Display for WrongKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the key is wrong")
    }
}

impl std::error::Error for WrongKey {}

#[test]
fn open_returns_error_of_on_connect_unchanged() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    for failing in [Role::Writer, Role::Reader] {
        let error = Options::new()
            .on_connect(move |_, role| {
                if role == failing {
                    Err(Error::app(WrongKey(role)))
                } else {
                    Ok(())
                }
            })
            .open(&path)
            .unwrap_err();
        assert_eq!(error.to_string(), "the key is wrong");
        assert_eq!(error.downcast::<WrongKey>().unwrap().0, failing);
        Store::open(&path).unwrap().close().unwrap();
    }
}

/// It was the error of SQLite alone, as if a query had failed.
#[test]
fn failed_statement_of_on_connect_is_named_with_its_role() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("app.db");
    Store::open(&path).unwrap().close().unwrap();
    for (failing, sql, says) in [
        (Role::Reader, "CREATE TABLE t(n)", "Role::Writer, or in Store::write"),
        (Role::Reader, "SELECT * FROM missing", "with its migrations"),
        (Role::Writer, "SELECT * FROM missing", "with its migrations"),
        (Role::Writer, "SELECT", "must succeed on each connection"),
        (Role::Reader, "SELECT", "must succeed on each connection"),
    ] {
        let error = Options::new()
            .on_connect(move |conn, role| {
                if role == failing {
                    conn.prepare(sql)?.raw_query().next()?;
                }
                Ok(())
            })
            .open(&path)
            .unwrap_err();
        let text = error.to_string();
        let site = format!("Options::on_connect for Role::{failing:?}");
        assert!(text.contains(&site) && text.contains(says), "{sql}: {text}");
        assert_eq!(error.site(), Some(site.as_str()));
        assert!(matches!(error, Error::Sqlite { .. }), "{error:?}");
        Store::open(&path).unwrap().close().unwrap();
    }
}

/// The error of a read that waits so long while a reader is opened whose `on_connect` fails. The first reader is the one that
/// `open` looks at.
fn timeout_of_failing_reader(
    timeout: Duration,
    fail: impl Fn(&Connection) -> larder::Result<()> + Send + Sync + 'static,
) -> Error {
    let (readers, failing) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let begun = Arc::clone(&failing);
    let store = Options::new()
        .read_queue_timeout(timeout)
        .on_connect(move |conn, role| {
            if role == Role::Reader && readers.fetch_add(1, Ordering::SeqCst) > 0 {
                begun.fetch_add(1, Ordering::SeqCst);
                return fail(conn);
            }
            Ok(())
        })
        .open_temp()
        .unwrap();
    let error = timeout_after_failed_opening(&failing, || store.read(|_| Ok(())).unwrap_err());
    store.write(|tx| tx.execute_batch("CREATE TABLE t(n)")).unwrap();
    error
}

#[test]
fn read_timeout_names_the_role_whose_on_connect_failed() {
    let writes = |conn: &Connection| Ok(conn.execute_batch("CREATE TABLE t(n)")?);
    let error = timeout_of_failing_reader(Duration::from_millis(200), writes);
    let text = error.to_string();
    for part in [
        "readonly",
        "Options::on_connect for Role::Reader",
        "Role::Writer, or in Store::write",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn read_timeout_names_failure_of_on_connect() {
    let refuses = |_: &Connection| Err(Error::app("no more readers today"));
    let error = timeout_of_failing_reader(Duration::from_secs(1), refuses);
    assert!(error.to_string().contains("no more readers today"), "{error}");
}

#[test]
fn larders_pragmas_override_those_of_on_connect() {
    let store = Options::new()
        .on_connect(|conn, _| {
            conn.execute_batch(
                "PRAGMA query_only = OFF; PRAGMA synchronous = OFF; PRAGMA foreign_keys = OFF; PRAGMA cache_size = 10;
                 PRAGMA temp_store = FILE; PRAGMA wal_autocheckpoint = 7",
            )?;
            Ok(())
        })
        .open_temp()
        .unwrap();
    const COMMON: &[(&str, &str)] = &[("foreign_keys", "1"), ("cache_size", "-64000"), ("temp_store", "2")];
    let on_writer = store.write(|tx| {
        Ok([
            wrong(tx, COMMON)?,
            wrong(tx, &[("synchronous", "1"), ("wal_autocheckpoint", "0")])?,
        ]
        .concat())
    });
    assert_eq!(on_writer.unwrap(), [""; 0]);
    let on_reader = store.read(|tx| Ok([wrong(tx, COMMON)?, wrong(tx, &[("query_only", "1")])?].concat()));
    assert_eq!(on_reader.unwrap(), [""; 0]);
}

#[test]
fn busy_timeout_of_options_overrides_on_connect() {
    // The story: it was set first of all, before on_connect, and not again.
    let store = Options::new()
        .on_connect(|conn, _| Ok(conn.busy_timeout(Duration::ZERO)?))
        .open_temp()
        .unwrap();
    assert_eq!(store.write(|tx| pragma(tx, "busy_timeout")).unwrap(), "5000");
    assert_eq!(store.read(|tx| pragma(tx, "busy_timeout")).unwrap(), "5000");
}

#[test]
fn on_connect_cannot_make_schema_table_writable() {
    let store = Options::new()
        .on_connect(|conn, _| Ok(conn.execute_batch("PRAGMA writable_schema = ON")?))
        .open_temp()
        .unwrap();
    let error = store
        .write(|tx| tx.execute("DELETE FROM sqlite_schema", []))
        .unwrap_err();
    assert!(error.to_string().contains("may not be modified"), "{error}");
}

#[test]
fn open_names_transaction_left_open_by_on_connect() {
    // The story: on the writer it came out as "another process uses the file in rollback mode", and on a reader as
    // no error at all, until every read failed with "cannot start a transaction within a transaction".
    for unfinished in [Role::Writer, Role::Reader] {
        let error = Options::new()
            .on_connect(move |conn, role| {
                if role == unfinished {
                    conn.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema")?;
                }
                Ok(())
            })
            .open_temp()
            .expect_err("the connection cannot be used");
        assert!(error.to_string().contains("on_connect"), "{error}");
    }
}

// ---- open_temp ----

#[test]
fn failed_temporary_store_leaves_no_folder() {
    let folder = Arc::new(Mutex::new(None));
    let seen = Arc::clone(&folder);
    Options::new()
        .on_connect(move |conn, role| {
            *seen.lock().unwrap() = conn.path().map(|file| Path::new(file).parent().unwrap().to_owned());
            if role == Role::Reader {
                Err(Error::app("no"))
            } else {
                Ok(())
            }
        })
        .open_temp()
        .unwrap_err();
    let folder = folder.lock().unwrap().take().expect("on_connect saw the path");
    assert!(!folder.exists(), "{}", folder.display());
}

#[test]
fn temporary_database_of_killed_process_is_removed() {
    let folder = tempdir().unwrap();
    let start = || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env("TMPDIR", folder.path());
        let child = Child::start_by(command, "store::opening", "temporary", &[]);
        let path = child.line();
        (child, std::path::PathBuf::from(path))
    };
    let (killed, left) = start();
    let (lives, in_use) = start();
    assert!(left.exists(), "it was in use");
    killed.kill();
    assert!(left.exists());
    let (another, path) = start();
    assert!(!left.parent().unwrap().exists() && in_use.exists() && path.exists());
    lives.finish();
    another.finish();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn temporary_folder_is_private_to_its_owner() {
    let store = Store::open_temp().unwrap();
    let folder = fs::metadata(store.path().parent().unwrap()).unwrap();
    assert_eq!(folder.mode() & 0o777, 0o700);
}
