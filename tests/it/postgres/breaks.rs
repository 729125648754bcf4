//! Moves that are killed, cut off or run out of room: there is no half of a database.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::ops::ControlFlow;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, mpsc};
use std::{fs, thread};

use larder::{Error, Outcome, PostgresImportStage, Store};
use tempfile::TempDir;

use crate::support::child::{Child, Task, after_mounting, listen, tell};
use crate::support::postgres::Postgres;
use crate::support::{hear, names_in};

const ROWS: u64 = 50_000;

/// 1 MB on the wire.
const MANY: &str = "CREATE TABLE t AS SELECT i, 'row ' || i AS s FROM generate_series(1, 50000) i";

fn stage_of(role: &str) -> PostgresImportStage {
    match role {
        "load" => PostgresImportStage::Load,
        _ => PostgresImportStage::Compare,
    }
}

pub(crate) fn child(task: &Task) {
    let [source, to] = task.args.as_slice() else {
        panic!("a source and a target");
    };
    if task.role == "fill" {
        fill_the_disk(source, Path::new(to));
        return;
    }
    let import = match source.starts_with("postgres") {
        true => Store::import_from_postgres(source, to),
        false => Store::import_from_pg_dump(source, to),
    };
    let stage = stage_of(&task.role);
    let import = import.progress(move |now| {
        // Of a stage that ends before it is seen, at the start of the next one.
        if now.stage == stage && now.rows > 0 || now.stage == PostgresImportStage::Compare {
            tell("in the middle");
            listen();
        }
        ControlFlow::Continue(())
    });
    let _ = import.run();
}

#[test]
fn killed_import_leaves_no_file_and_the_next_one_takes_its_folder_away() {
    let Some(server) = Postgres::start() else { return };
    let url = server.database("killed");
    server.run("killed", MANY);
    let sources = tempfile::tempdir().unwrap();
    let dump = sources.path().join("d.sql");
    server.dump("killed", &dump, &[]);
    for source in [url.as_str(), dump.to_str().unwrap()] {
        for role in ["load", "compare"] {
            let folder = tempfile::tempdir().unwrap();
            let to = folder.path().join("app.db");
            let child = Child::start("postgres::breaks", role, &[source, to.to_str().unwrap()]);
            child.expect("in the middle");
            child.kill();
            let names = names_in(folder.path());
            assert!(!to.exists() && names.len() == 1, "{source}, {role}: {names:?}");
            let import = match source.starts_with("postgres") {
                true => Store::import_from_postgres(source, &to),
                false => Store::import_from_pg_dump(source, &to),
            };
            assert_eq!(import.run().unwrap().tables[0].rows, ROWS);
            assert_eq!(names_in(folder.path()), ["app.db"], "{source}, {role}");
        }
    }
}

#[test]
fn server_that_stops_in_the_middle_leaves_no_file() {
    let Some(mut server) = Postgres::start() else { return };
    let url = server.database("stopped");
    server.run("stopped", MANY);
    let folder = tempfile::tempdir().unwrap();
    for role in ["load", "compare"] {
        let (there, is_there) = mpsc::channel();
        let (go, goes) = mpsc::channel::<()>();
        let import = Store::import_from_postgres(&url, folder.path().join("app.db"));
        let mut waits = true;
        let import = import.progress(move |now| {
            if now.stage == stage_of(role) && std::mem::take(&mut waits) {
                there.send(()).unwrap();
                hear(&goes);
            }
            ControlFlow::Continue(())
        });
        let error = thread::scope(|scope| {
            let running = scope.spawn(|| import.run().unwrap_err());
            hear(&is_there);
            server.stop_at_once();
            go.send(()).unwrap();
            running.join().unwrap()
        });
        assert!(matches!(error, Error::Postgres { .. }), "{role}: {error}");
        assert_eq!(error.outcome(), Outcome::RolledBack, "{role}: {error}");
        assert!(names_in(folder.path()).is_empty(), "{role}");
        server.start_again();
    }
    let report = Store::import_from_postgres(&url, folder.path().join("app.db"))
        .run()
        .unwrap();
    assert_eq!(report.tables[0].rows, ROWS);
}

/// Where a [`Proxy`] cuts a connection.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// Once so many bytes came from the server.
    FromServer(i64),
    /// Once so many bytes came from the client.
    FromClient(i64),
    BeforeCommit,
    /// Once the server has replied to COMMIT. The reply does not pass.
    AfterCommit,
    /// The same, with the error of a pooler that has lost the server.
    CrashAfterCommit,
}

/// A socket in a folder of its own, from which bytes go to a server until the connection is cut.
struct Proxy {
    folder: TempDir,
    ends: Arc<AtomicBool>,
}

/// What the two directions of one connection share.
struct Wire {
    client: UnixStream,
    server: UnixStream,
    cut: Cut,
    left: AtomicI64,
}

const COMMIT: &[u8] = b"COMMIT\0";

/// An ErrorResponse with its length, severity, code and message.
const CRASHED: &[u8] = b"E\0\0\0\x2aSFATAL\0VFATAL\0C08P01\0Mserver crashed\0\0";

impl Proxy {
    fn start(server: PathBuf, cut: Cut) -> Self {
        let folder = tempfile::Builder::new().prefix("pg").tempdir_in("/tmp").unwrap();
        let listener = UnixListener::bind(folder.path().join(".s.PGSQL.5432")).unwrap();
        let ends = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&ends);
        thread::spawn(move || {
            for client in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let wire = Arc::new(Wire {
                    client: client.unwrap(),
                    server: UnixStream::connect(&server).unwrap(),
                    cut,
                    left: AtomicI64::new(match cut {
                        Cut::FromServer(bytes) | Cut::FromClient(bytes) => bytes,
                        Cut::BeforeCommit | Cut::AfterCommit | Cut::CrashAfterCommit => i64::MAX,
                    }),
                });
                let other = Arc::clone(&wire);
                thread::spawn(move || wire.forward(true));
                thread::spawn(move || other.forward(false));
            }
        });
        Self { folder, ends }
    }

    fn url(&self, database: &str) -> String {
        let folder = self.folder.path().to_str().unwrap().replace('/', "%2F");
        format!("postgres://larder@{folder}/{database}")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        let _ = UnixStream::connect(self.folder.path().join(".s.PGSQL.5432"));
    }
}

impl Wire {
    fn forward(&self, from_client: bool) {
        let (mut from, mut to) = match from_client {
            true => (&self.client, &self.server),
            false => (&self.server, &self.client),
        };
        let mut buffer = vec![0; 1 << 16];
        let mut tail = Vec::new();
        while let Ok(read) = from.read(&mut buffer)
            && read > 0
        {
            let bytes = &buffer[..read];
            // It may arrive in two parts. The server's reply has the same text.
            tail.extend_from_slice(bytes);
            let commits = tail.windows(COMMIT.len()).any(|part| part == COMMIT);
            if commits && matches!((self.cut, from_client), (Cut::CrashAfterCommit, false)) {
                let _ = to.write_all(CRASHED);
                break;
            }
            tail.drain(..tail.len().saturating_sub(COMMIT.len() - 1));
            if commits
                && matches!(
                    (self.cut, from_client),
                    (Cut::BeforeCommit, true) | (Cut::AfterCommit, false)
                )
            {
                break;
            }
            let counts = matches!(
                (self.cut, from_client),
                (Cut::FromClient(_), true) | (Cut::FromServer(_), false)
            );
            let size = i64::try_from(read).unwrap();
            if counts && self.left.fetch_sub(size, Ordering::SeqCst) < size {
                break;
            }
            if to.write_all(bytes).is_err() {
                break;
            }
        }
        for end in [&self.client, &self.server] {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

#[test]
fn import_whose_connection_breaks_leaves_no_file() {
    let Some(server) = Postgres::start() else { return };
    server.database("broken");
    server.run("broken", MANY);
    let folder = tempfile::tempdir().unwrap();
    // While it connects, as it reads the schema, the rows, and the rows for the second time.
    for bytes in [10, 1_500, 250_000, 1_500_000] {
        let proxy = Proxy::start(server.file(".s.PGSQL.5432"), Cut::FromServer(bytes));
        let import = Store::import_from_postgres(&proxy.url("broken"), folder.path().join("app.db"));
        let error = import.run().unwrap_err();
        assert!(matches!(error, Error::Postgres { .. }), "{bytes}: {error}");
        assert_ne!(error.outcome(), Outcome::Unknown, "{bytes}: {error}");
        assert!(names_in(folder.path()).is_empty(), "{bytes}");
    }
    let proxy = Proxy::start(server.file(".s.PGSQL.5432"), Cut::FromServer(i64::MAX));
    let import = Store::import_from_postgres(&proxy.url("broken"), folder.path().join("app.db"));
    assert_eq!(import.run().unwrap().tables[0].rows, ROWS);
}

#[test]
fn export_whose_connection_breaks_leaves_nothing_or_says_that_it_is_unknown() {
    let Some(server) = Postgres::start() else { return };
    let store = Store::open_temp().unwrap();
    store
        .write(|tx| {
            tx.execute_batch(
                "CREATE TABLE t(id INTEGER PRIMARY KEY, s TEXT);
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000)
                 INSERT INTO t SELECT i, 'row ' || i FROM n",
            )
        })
        .unwrap();
    let cuts = [
        (Cut::FromClient(300), Some(false)),
        (Cut::FromClient(500_000), Some(false)),
        // As both sides are compared.
        (Cut::FromServer(500_000), Some(false)),
        (Cut::BeforeCommit, None),
        (Cut::AfterCommit, Some(true)),
        (Cut::CrashAfterCommit, Some(true)),
    ];
    for (at, (cut, is_there)) in cuts.into_iter().enumerate() {
        let database = format!("broken{at}");
        server.database(&database);
        let proxy = Proxy::start(server.file(".s.PGSQL.5432"), cut);
        let error = store.export_to_postgres(&proxy.url(&database)).run().unwrap_err();
        assert!(matches!(error, Error::Postgres { .. }), "{cut:?}: {error}");
        let at_commit = matches!(cut, Cut::BeforeCommit | Cut::AfterCommit | Cut::CrashAfterCommit);
        assert_eq!(error.outcome() == Outcome::Unknown, at_commit, "{cut:?}: {error}");
        drop(proxy);
        // The server sees by then that the connection is broken, or it has committed.
        let tables = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'";
        let wanted = if is_there == Some(true) { "1" } else { "0" };
        assert_eq!(server.run(&database, tables), wanted, "{cut:?}");
        if is_there == Some(true) {
            assert_eq!(server.run(&database, "SELECT count(*) FROM t"), ROWS.to_string());
        }
    }
}

#[test]
fn full_disk_leaves_no_file() {
    let Some(server) = Postgres::start() else { return };
    let url = server.database("full");
    server.run(
        "full",
        "CREATE TABLE t AS SELECT i, repeat(md5(i::text), 100) AS s FROM generate_series(1, 10000) i",
    );
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().to_str().unwrap();
    let Some(command) = after_mounting(&format!("mount -t tmpfs -o size=8m larder '{disk}'")) else {
        return;
    };
    let child = Child::start_by(command, "postgres::breaks", "fill", &[&url, disk]);
    child.expect("done");
    child.finish();
}

/// The rows have 32 MB, and the disk 8.
fn fill_the_disk(url: &str, disk: &Path) {
    let to = disk.join("app.db");
    let error = Store::import_from_postgres(url, &to).run().unwrap_err();
    assert!(error.to_string().contains("full"), "{error}");
    assert!(names_in(disk).is_empty(), "{:?}", names_in(disk));
    // The room is free again.
    fs::write(disk.join("ballast"), vec![1; 6 << 20]).unwrap();
    tell("done");
}
