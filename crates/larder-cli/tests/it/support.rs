//! The binary, and databases for it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use larder::rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_larder");

/// Long enough for any machine; past it the other side hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A folder for the files of one test. The binary runs in it.
pub(crate) struct Place {
    pub(crate) folder: TempDir,
}

/// What the binary did.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Run {
    pub(crate) fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Self {
            code: output.status.code(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }

    #[track_caller]
    pub(crate) fn assert_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    /// It failed, printed nothing but these parts of a message, and no panic.
    #[track_caller]
    pub(crate) fn assert_fails(self, code: i32, parts: &[&str]) -> Self {
        let run = self.assert_code(code);
        assert_eq!(run.out, "", "{run:?}");
        assert!(run.err.starts_with("larder: "), "{run:?}");
        for part in parts {
            assert!(run.err.contains(part), "{part}: {run:?}");
        }
        run
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.out.lines().count(), 1, "{self:?}");
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("its folder")).expect("the folder");
        fs::write(path, contents).expect("the file");
    }

    /// A command in this folder.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(BINARY);
        command.current_dir(self.folder.path());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Run {
        Run::of(self.command().args(args).output().expect("it runs"))
    }

    /// Runs a command line without quotes.
    pub(crate) fn say(&self, line: &str) -> Run {
        self.run(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// Runs it with `--json`, and parses what it prints.
    #[track_caller]
    pub(crate) fn json(&self, line: &str, code: i32) -> Value {
        let args: Vec<&str> = line.split_whitespace().chain(["--json"]).collect();
        self.run(&args).assert_code(code).json()
    }

    pub(crate) fn connect(&self, name: &str) -> Connection {
        let conn = Connection::open(self.path(name)).expect("it opens");
        conn.busy_timeout(PATIENCE).expect("it waits");
        conn
    }

    pub(crate) fn execute(&self, name: &str, sql: &str) {
        let conn = self.connect(name);
        conn.execute_batch(sql).expect("it runs");
        conn.close().expect("it closes");
    }

    #[track_caller]
    pub(crate) fn count(&self, name: &str, sql: &str) -> i64 {
        self.connect(name)
            .query_row(sql, [], |row| row.get(0))
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// A database `app.db` in WAL mode: two tables, one of which refers to the other, with 3 and 100 rows.
    pub(crate) fn with_database() -> Self {
        let place = Self::new();
        place.execute(
            "app.db",
            "PRAGMA journal_mode = WAL;
             CREATE TABLE owner(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT;
             CREATE TABLE item(
                 id INTEGER PRIMARY KEY, owner INTEGER NOT NULL REFERENCES owner, name TEXT, price REAL
             ) STRICT;
             CREATE INDEX item_owner ON item(owner);
             INSERT INTO owner VALUES (1, 'Ada'), (2, 'Bob'), (3, 'Cy');
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100)
             INSERT INTO item SELECT i, 1 + i % 3, 'item ' || i, i / 2.0 FROM n;",
        );
        place
    }

    /// The names of the files in the folder.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).expect("the folder");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// The binary as a user to whom file modes mean something, or `None` (said visibly).
    pub(crate) fn as_ordinary_user(&self, bin: &TempDir) -> Option<Command> {
        if fs::metadata(self.folder.path()).expect("its metadata").uid() != 0 {
            return Some(self.command());
        }
        let user = ["--reuid=65534", "--regid=65534", "--clear-groups"];
        let able = Command::new("setpriv").args(user).arg("true").status();
        if !able.is_ok_and(|status| status.success()) {
            println!("skipped: root needs setpriv to become an ordinary user");
            return None;
        }
        set_mode(bin.path(), 0o755);
        let copy = bin.path().join("larder");
        let copied = Command::new("cp").args([OsStr::new(BINARY), copy.as_os_str()]).status();
        assert!(copied.expect("cp runs").success());
        let mut command = Command::new("setpriv");
        command.args(user).arg(copy).current_dir(self.folder.path());
        Some(command)
    }
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("the mode can be set");
}
