//! Other programs at the file of a store that writes: the `sqlite3` shell, Datasette, DuckDB. Each sees whole commits, and
//! the store sees theirs. `.ci/run` installs what it can; a test whose program is missing prints `skipped:`.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Child as Process, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{env, fs};

use larder::{Options, Store};
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use crate::support::child::{PATIENCE, skipped, succeeds};
use crate::support::ports::free_port;
use crate::support::serious;
use crate::support::stalls::unless_stalled;

const ACCOUNTS: i64 = 100;
const TOTAL: i64 = ACCOUNTS * 1000;

/// For how long no program may keep a store from writing: the default of [`Options::busy_timeout`].
const HOLD: Duration = Duration::from_secs(5);

/// Runs programs beside a bank. None of its transfers took [`HOLD`], or the machine was slow: then once more.
fn beside_a_bank(run: impl Fn(&mut Bank) -> Result<(), String>) {
    unless_stalled(HOLD / 5, || run(&mut Bank::open()));
}

/// A store with accounts, between which a thread transfers. The sum of all balances is the same after each commit.
struct Bank {
    folder: TempDir,
    store: Store,
    ends: Arc<AtomicBool>,
    transfers: Option<JoinHandle<larder::Result<Transfers>>>,
}

struct Transfers {
    made: i64,
    longest: Duration,
}

impl Bank {
    fn open() -> Self {
        let folder = tempdir().unwrap();
        let options = Options::new().busy_timeout(PATIENCE).queue_timeout(PATIENCE);
        let store = options.open(folder.path().join("bank.db")).unwrap();
        store
            .write(|tx| {
                tx.execute_batch(
                    "CREATE TABLE accounts(id INTEGER PRIMARY KEY, balance INTEGER NOT NULL) STRICT;
                     CREATE TABLE notes(id INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT;",
                )?;
                for _ in 0..ACCOUNTS {
                    tx.insert("INSERT INTO accounts(balance) VALUES (1000)", [])?;
                }
                Ok(())
            })
            .unwrap();
        let ends = Arc::new(AtomicBool::new(false));
        let (writer, told) = (store.clone(), Arc::clone(&ends));
        let transfers = thread::spawn(move || -> larder::Result<Transfers> {
            let (mut made, mut longest) = (0, Duration::ZERO);
            while !told.load(Ordering::Relaxed) {
                let (from, to) = (made % ACCOUNTS + 1, (made * 7 + 3) % ACCOUNTS + 1);
                let began = Instant::now();
                writer.write(move |tx| {
                    tx.execute("UPDATE accounts SET balance = balance - 1 WHERE id = ?1", [from])?;
                    tx.execute("UPDATE accounts SET balance = balance + 1 WHERE id = ?1", [to])
                })?;
                longest = longest.max(began.elapsed());
                made += 1;
            }
            Ok(Transfers { made, longest })
        });
        Self {
            folder,
            store,
            ends,
            transfers: Some(transfers),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("bank.db")
    }

    fn notes(&self) -> Vec<String> {
        self.store
            .read(|tx| tx.scalars("SELECT text FROM notes ORDER BY id", []))
            .unwrap()
    }

    /// Ends the transfers. The store was never stopped, and is sound. An error if a transfer failed or took [`HOLD`].
    fn end(&mut self) -> Result<(), String> {
        self.ends.store(true, Ordering::Relaxed);
        let transfers = self.transfers.take().expect("it is ended once").join().unwrap();
        let sum: i64 = self
            .store
            .read(|tx| tx.scalar("SELECT sum(balance) FROM accounts", []))
            .unwrap();
        assert_eq!(sum, TOTAL);
        assert_eq!(serious(&self.store.stats()), []);
        assert!(self.store.poisoned().is_none());
        assert!(self.store.check().run().unwrap().is_ok());
        self.store.close().unwrap();
        let Transfers { made, longest } = transfers.map_err(|error| format!("a transfer failed: {error}"))?;
        assert!(made > 0);
        let is_short = longest < HOLD;
        is_short
            .then_some(())
            .ok_or_else(|| format!("a transfer took {longest:?}"))
    }
}

impl Drop for Bank {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

fn said(command: &mut Command) -> String {
    let run = command.stdin(Stdio::null()).output().unwrap();
    let errors = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{errors}");
    String::from_utf8(run.stdout).unwrap()
}

/// The program that the variable names; if it names none, the test is skipped.
fn program(variable: &str, what: &str) -> Option<OsString> {
    let named = env::var_os(variable);
    if named.is_none() {
        skipped(&format!("{variable} is not set: {what}"));
    }
    named
}

#[test]
fn sqlite3_shell_reads_and_writes_a_store() {
    let shell = env::var_os("LARDER_SQLITE3").unwrap_or_else(|| "sqlite3".into());
    if !succeeds(Command::new(&shell).arg("--version")) {
        return skipped("there is no sqlite3 shell here");
    }
    let run = |database: &Path, sql: &str| {
        said(
            Command::new(&shell)
                .args(["-bail", "-cmd", ".timeout 60000"])
                .arg(database)
                .arg(sql),
        )
    };
    beside_a_bank(|bank| {
        for n in 0..20 {
            assert_eq!(
                run(&bank.path(), "SELECT sum(balance) FROM accounts").trim(),
                TOTAL.to_string()
            );
            run(
                &bank.path(),
                &format!("INSERT INTO notes(text) VALUES ('from the shell {n}')"),
            );
        }
        assert_eq!(bank.notes().len(), 20);
        // Its own backup of the open database, and ours, which it opens.
        let copies = [bank.folder.path().join("theirs.db"), bank.folder.path().join("ours.db")];
        run(&bank.path(), &format!(".backup '{}'", copies[0].display()));
        bank.store.backup(&copies[1]).run().unwrap();
        for copy in copies {
            let looked = run(
                &copy,
                "PRAGMA integrity_check; SELECT sum(balance) FROM accounts; SELECT count(*) FROM notes",
            );
            assert_eq!(looked, format!("ok\n{TOTAL}\n20\n"));
        }
        bank.end()?;
        let closed = run(&bank.path(), "SELECT sum(balance) FROM accounts");
        assert_eq!(closed.trim(), TOTAL.to_string());
        Ok(())
    });
}

/// Datasette at the file of a bank. It is killed with the test.
struct Datasette {
    process: Process,
    url: String,
}

impl Datasette {
    /// Waits until it replies. Another process may take its port before it does: then it starts again at another one.
    fn start(program: &OsStr, bank: &Bank) -> Self {
        let log = bank.folder.path().join("datasette.log");
        for _ in 0..5 {
            let port = free_port();
            let mut command = Command::new(program);
            command
                .args(["serve", "--host", "127.0.0.1", "--port", &port.to_string()])
                .arg(bank.path())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(File::create(&log).unwrap());
            let mut datasette = Self {
                process: command.spawn().unwrap(),
                url: format!("http://127.0.0.1:{port}/bank.json"),
            };
            if datasette.replies(&log) {
                return datasette;
            }
        }
        panic!("each port was taken");
    }

    /// `false` if its port was taken.
    fn replies(&mut self, log: &Path) -> bool {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let has_ended = self.process.try_wait().unwrap();
            if let Some(status) = has_ended {
                let said = fs::read_to_string(log).unwrap();
                assert!(said.contains("address already in use"), "{status}: {said}");
                return false;
            }
            match self.ask("SELECT sum(balance) FROM accounts") {
                Ok(sum) => {
                    assert_eq!(sum, json!([TOTAL]));
                    return true;
                }
                // It does not listen yet.
                Err(ureq::Error::Io(error)) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) => panic!("{error}"),
            }
            assert!(Instant::now() < give_up, "datasette does not reply");
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn ask(&self, sql: &str) -> Result<Value, ureq::Error> {
        let asked = ureq::get(&self.url).query("sql", sql).query("_shape", "arrayfirst");
        asked.call()?.body_mut().read_json()
    }
}

impl Drop for Datasette {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn datasette_serves_a_store() {
    let Some(program) = program("LARDER_DATASETTE", "the program datasette (PyPI)") else {
        return;
    };
    beside_a_bank(|bank| {
        let datasette = Datasette::start(&program, bank);
        for n in 0..20_u64 {
            assert_eq!(
                datasette.ask("SELECT sum(balance) FROM accounts").unwrap(),
                json!([TOTAL])
            );
            bank.store
                .write(move |tx| tx.insert("INSERT INTO notes(text) VALUES (?1)", [n.to_string()]))
                .unwrap();
            assert_eq!(
                datasette.ask("SELECT count(*) FROM notes").unwrap(),
                json!([n + 1]),
                "it sees each commit"
            );
        }
        let refused = datasette.ask("DELETE FROM notes");
        assert!(
            matches!(refused, Err(ureq::Error::StatusCode(400))),
            "it only reads: {refused:?}"
        );
        bank.end()
    });
}

/// `LARDER_DUCKDB` is a Python with `duckdb` and its SQLite scanner. In the process of the service it would open the file by
/// a second SQLite, and close it, which drops the locks of the first.
#[test]
fn duckdb_reads_and_writes_a_store() {
    let Some(python) = program("LARDER_DUCKDB", "a Python with duckdb and its SQLite scanner (PyPI)") else {
        return;
    };
    let script = "
import sys, time, duckdb
path, total = sys.argv[1], int(sys.argv[2])
con = duckdb.connect()
con.execute('LOAD sqlite_scanner')
con.execute(f\"ATTACH '{path}' AS bank (TYPE sqlite)\")
for n in range(20):
    seen = con.execute('SELECT sum(balance), count(*) FROM bank.accounts').fetchone()
    assert (int(seen[0]), seen[1]) == (total, 100), seen
    until = time.monotonic() + 60
    while True:
        try:
            con.execute('INSERT INTO bank.notes(id, text) VALUES (?, ?)', [n + 1, f'from duckdb {n}'])
            break
        except duckdb.Error as error:
            assert 'locked' in str(error) and time.monotonic() < until, error
            time.sleep(0.005)
print(con.execute('SELECT count(*) FROM bank.notes').fetchone()[0])
con.close()
";
    beside_a_bank(|bank| {
        let seen = said(
            Command::new(&python)
                .args(["-c", script])
                .arg(bank.path())
                .arg(TOTAL.to_string()),
        );
        assert_eq!(seen, "20\n");
        assert_eq!(bank.notes()[19], "from duckdb 19");
        bank.end()
    });
}

/// The table *Works with* of the README has each crate of `tests/companions`, at the version that is tested there.
#[test]
fn readme_has_the_tested_companions() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = |name: &str| fs::read_to_string(root.join(name)).unwrap();
    let manifest = text("tests/companions/Cargo.toml");
    let (_, dependencies) = manifest.split_once("\n[dependencies]\n").expect("its table");
    let of_the_tests = ["larder", "serde", "tempfile", "tokio", "tower-sessions"];
    let tested: BTreeMap<&str, &str> = dependencies
        .lines()
        .filter_map(|line| line.split_once(" = "))
        .map(|(name, version)| {
            (
                name,
                version.split('"').nth(1).unwrap_or_default().trim_start_matches('='),
            )
        })
        .filter(|(name, _)| !of_the_tests.contains(name))
        .collect();
    let readme = text("README.md");
    let (_, section) = readme.split_once("\n## Works with\n").expect("its heading");
    let section = section.split("\n## ").next().unwrap_or_default();
    let listed: BTreeMap<&str, &str> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` "))
        .map(|(name, rest)| (name, rest.split([' ', '|']).next().unwrap_or_default()))
        .filter(|(_, version)| version.starts_with(|first: char| first.is_ascii_digit()))
        .collect();
    assert_eq!(listed, tested);
}
