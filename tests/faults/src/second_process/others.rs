//! The other processes. Each writes a line `> what` when it begins an operation, so that it can be killed in the
//! middle, `+ client k n` for each write it has committed, `round` when it has opened and closed the file once more,
//! and `!` for a violation.

use std::collections::HashMap;
use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use larder::rusqlite::{self, Connection, OpenFlags, TransactionBehavior};
use larder::{Access, Error, Outcome, Store};

use super::{BUSY, PATIENCE, is_busy, is_locked, options};
use crate::child::{listen, tell};
use crate::entries::{Entry, Id, Job, look};

/// Activities in which a process must have been killed in a sufficiently long run.
pub const KILLED_IN: &[&str] = &[
    "opening",
    "reading",
    "reading for long",
    "writing",
    "writing for long",
    "a checkpoint",
    "a vacuum",
    "a change of the schema",
    "closing",
    "a store's opening",
    "a store's writing",
    "a store's vacuum",
    "a store's closing",
    "an attempt",
];

pub fn child(arguments: &[String]) {
    let [role, path, seed, client, rounds] = arguments else {
        panic!("second-process: wrong arguments")
    };
    let number = |text: &String| text.parse::<u64>().expect("a number");
    let mut rng = Rng::with_seed(number(seed));
    let other = Other {
        path: path.into(),
        patience: [Duration::ZERO, BUSY / 10, PATIENCE, PATIENCE][rng.usize(0..4)],
        rng,
        client: number(client) as i64,
        k: 0,
        mine: HashMap::new(),
    };
    let round = match role.as_str() {
        "client" => Other::use_as_client,
        "store" => Other::use_as_store,
        "intruder" => Other::intrude,
        holder => return other.hold(holder),
    };
    other.repeat(number(rounds), round);
}

type Result<T> = std::result::Result<T, String>;

struct Other {
    path: PathBuf,
    rng: Rng,
    /// The busy timeout.
    patience: Duration,
    client: i64,
    k: i64,
    /// The commits of this process, by write.
    mine: HashMap<Id, i64>,
}

fn begin(what: &str) {
    tell(&format!("> {what}"));
}

fn say(problem: impl Display) {
    tell(&format!("! {}", problem.to_string().replace('\n', " / ")));
}

impl Other {
    fn repeat(mut self, rounds: u64, round: fn(&mut Self) -> Result<()>) {
        for _ in 0..rounds {
            match round(&mut self) {
                Ok(()) => tell("round"),
                Err(problem) => return say(problem),
            }
        }
    }

    /// Whether the error is a lock met by a process that does not wait.
    fn is_excused(&self, error: &rusqlite::Error) -> bool {
        self.patience < PATIENCE && is_locked(error)
    }

    fn excuse(&self, what: &str, result: rusqlite::Result<()>) -> Result<()> {
        match result {
            Err(error) if !self.is_excused(&error) => Err(format!("{what}: {error}")),
            _ => Ok(()),
        }
    }

    fn job(&mut self) -> Job {
        self.k += 1;
        let mut job = Job::any((self.client, self.k), &mut self.rng);
        if !job.commits() {
            job.id.1 = -self.k;
        }
        job
    }

    fn acknowledged(&mut self, id: Id, n: i64) {
        self.mine.insert(id, n);
        tell(&format!("+ {} {} {n}", id.0, id.1));
    }

    /// Checks that the entries contain all commits of this process.
    fn sees_mine(&self, found: &[Entry]) -> Result<()> {
        let there = |id: &Id, n: i64| found.get(n as usize - 1).is_some_and(|entry| entry.id == *id);
        match self.mine.iter().find(|(id, n)| !there(id, **n)) {
            Some((id, n)) => Err(format!("{id:?} was commit {n}, and is not there")),
            None => Ok(()),
        }
    }

    // ---- with rusqlite alone ----

    fn use_as_client(&mut self) -> Result<()> {
        begin("opening");
        let conn = match self.open() {
            Ok(conn) => conn,
            Err(error) if self.is_excused(&error) => return Ok(()),
            Err(error) => return Err(format!("opening: {error}")),
        };
        for _ in 0..self.rng.u32(1..4) {
            match self.rng.u32(0..20) {
                0..4 => self.read(&conn, Duration::ZERO, "reading"),
                4 => self.read(&conn, BUSY.mul_f64(self.rng.clone().f64()), "reading for long"),
                5..11 => self.write(&conn, TransactionBehavior::Immediate, Duration::ZERO, "writing"),
                11..13 => self.write(&conn, TransactionBehavior::Deferred, Duration::ZERO, "writing"),
                // Longer than the store waits.
                13 => self.write(&conn, TransactionBehavior::Immediate, 2 * BUSY, "writing for long"),
                14..16 => self.checkpoint(&conn),
                16 => self.vacuum(&conn),
                17..19 => self.change_schema(&conn),
                _ => self.ask(&conn),
            }?;
        }
        begin("closing");
        conn.close().map_err(|(_, error)| format!("closing: {error}"))
    }

    fn open(&mut self) -> rusqlite::Result<Connection> {
        let conn = Connection::open_with_flags(&self.path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        conn.busy_timeout(self.patience)?;
        let synchronous = if self.rng.bool() { "NORMAL" } else { "FULL" };
        conn.execute_batch(&format!("PRAGMA synchronous = {synchronous}"))?;
        if self.rng.u32(0..3) == 0 {
            conn.query_row("PRAGMA mmap_size = 268435456", [], |_| Ok(()))?;
        }
        Ok(conn)
    }

    /// Checks that a snapshot is whole, and unchanged after a while in which it pins the WAL.
    fn read(&self, conn: &Connection, stay: Duration, what: &str) -> Result<()> {
        begin(what);
        let tx = conn.unchecked_transaction().map_err(|error| error.to_string())?;
        let begun = tx.query_row("SELECT count(*) FROM entry", [], |_| Ok(()));
        if begun.is_err() {
            return self.excuse(what, begun);
        }
        let found = look(&tx)?;
        self.sees_mine(&found)?;
        if !stay.is_zero() {
            thread::sleep(stay);
            if look(&tx)? != found {
                return Err("a snapshot has changed".into());
            }
        }
        Ok(())
    }

    fn write(&mut self, conn: &Connection, behavior: TransactionBehavior, stay: Duration, what: &str) -> Result<()> {
        let job = self.job();
        begin(what);
        match transact(conn, &job, behavior, stay) {
            Ok(n) => Ok(self.acknowledged(job.id, n)),
            Err(_) if !job.commits() => Ok(()),
            // Another process has written since the transaction read.
            Err(error) if matches!(behavior, TransactionBehavior::Deferred) && is_busy(&error) => Ok(()),
            Err(error) if self.patience < PATIENCE && is_busy(&error) => Ok(()),
            Err(error) => Err(format!("writing {job:?}: {error}")),
        }
    }

    fn checkpoint(&mut self, conn: &Connection) -> Result<()> {
        let mode = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"][self.rng.usize(0..4)];
        begin("a checkpoint");
        conn.busy_timeout(BUSY).map_err(|error| error.to_string())?;
        // The row tells whether others interfered.
        let done = conn.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()));
        conn.busy_timeout(self.patience).map_err(|error| error.to_string())?;
        match done {
            Err(error) if !is_locked(&error) => Err(format!("checkpoint {mode}: {error}")),
            _ => Ok(()),
        }
    }

    fn vacuum(&self, conn: &Connection) -> Result<()> {
        begin("a vacuum");
        match conn.execute_batch("VACUUM") {
            Err(error) if !is_locked(&error) => Err(format!("a vacuum: {error}")),
            _ => Ok(()),
        }
    }

    /// Invalidates every prepared statement of all processes.
    fn change_schema(&mut self, conn: &Connection) -> Result<()> {
        let changes = [
            "CREATE INDEX IF NOT EXISTS by_sum ON entry(sum)",
            "DROP INDEX IF EXISTS by_sum",
            "CREATE INDEX IF NOT EXISTS by_entry ON part(i, entry)",
            "DROP INDEX IF EXISTS by_entry",
            "CREATE TABLE IF NOT EXISTS other(x)",
            "DROP TABLE IF EXISTS other",
            "CREATE VIEW IF NOT EXISTS parts AS SELECT * FROM part",
            "DROP VIEW IF EXISTS parts",
        ];
        let change = changes[self.rng.usize(0..changes.len())];
        begin("a change of the schema");
        self.excuse(change, conn.execute_batch(change))
    }

    /// Checks that the file is in WAL mode: the store is there, or has left the file like that.
    fn ask(&self, conn: &Connection) -> Result<()> {
        match conn.query_row("PRAGMA journal_mode", [], |row| row.get::<_, String>(0)) {
            Ok(mode) if mode == "wal" => Ok(()),
            Ok(mode) => Err(format!("journal_mode is {mode}")),
            Err(error) => self.excuse("journal_mode", Err(error)),
        }
    }

    // ---- with its own store ----

    fn use_as_store(&mut self) -> Result<()> {
        begin("a store's opening");
        let store = match options(Access::Shared, &mut self.rng).open(&self.path) {
            Ok(store) => store,
            Err(error) if error.is_retryable() && error.outcome() == Outcome::NotStarted => return Ok(()),
            Err(error) => return Err(format!("a store does not open beside another: {error:?}")),
        };
        for _ in 0..self.rng.u32(1..6) {
            match self.rng.u32(0..10) {
                0..3 => self.read_by(&store),
                3 => self.vacuum_by(&store),
                _ => self.write_by(&store),
            }?;
        }
        begin("a store's closing");
        store
            .close()
            .map(drop)
            .map_err(|error| format!("a store's closing: {error:?}"))
    }

    fn read_by(&self, store: &Store) -> Result<()> {
        let found = store.read(|tx| Ok(look(tx)));
        self.sees_mine(&found.map_err(|error| format!("a store's read: {error:?}"))??)
    }

    fn write_by(&mut self, store: &Store) -> Result<()> {
        let job = self.job();
        begin("a store's writing");
        let (ran, result) = write(store, &job);
        match judge(&job, ran, result) {
            Ok(Some(n)) => Ok(self.acknowledged(job.id, n)),
            Ok(None) => Ok(()),
            Err(problem) => Err(format!("a store's write: {problem}")),
        }
    }

    fn vacuum_by(&self, store: &Store) -> Result<()> {
        begin("a store's vacuum");
        match store.vacuum().run() {
            Err(error) if !is_busy(&error) || error.outcome() != Outcome::NotStarted || !error.is_retryable() => {
                Err(format!("a store's vacuum: {error:?}"))
            }
            _ => Ok(()),
        }
    }

    // ---- beside an exclusive store ----

    /// Checks that every attempt is refused.
    fn intrude(&mut self) -> Result<()> {
        begin("an attempt");
        match self.rng.u32(0..5) {
            0 => self.is_in_use(Access::Shared),
            1 => self.is_in_use(Access::Exclusive),
            _ => self.is_locked_out(),
        }
    }

    fn is_in_use(&mut self, access: Access) -> Result<()> {
        match options(access, &mut self.rng).migration_timeout(BUSY).open(&self.path) {
            Err(error) => in_use(&error),
            Ok(_) => Err(format!("a store opened with {access:?} beside an exclusive one")),
        }
    }

    fn is_locked_out(&mut self) -> Result<()> {
        let conn = Connection::open(&self.path).map_err(|error| format!("opening: {error}"))?;
        conn.busy_timeout(BUSY / 10).map_err(|error| error.to_string())?;
        let attempts = [
            "SELECT count(*) FROM entry",
            "BEGIN IMMEDIATE",
            "DELETE FROM part",
            "CREATE TABLE other(x)",
            "VACUUM",
            "PRAGMA wal_checkpoint(TRUNCATE)",
            "PRAGMA journal_mode = DELETE",
            "PRAGMA locking_mode = EXCLUSIVE; DELETE FROM entry",
            "PRAGMA integrity_check",
        ];
        for _ in 0..self.rng.u32(1..4) {
            let attempt = attempts[self.rng.usize(0..attempts.len())];
            match conn.execute_batch(attempt) {
                Err(error) if is_locked(&error) => {}
                other => return Err(format!("beside an exclusive store {attempt:?} came to {other:?}")),
            }
        }
        conn.close().map_err(|(_, error)| format!("closing: {error}"))
    }

    // ---- has the file open until the parent says otherwise ----

    fn hold(mut self, how: &str) {
        self.patience = PATIENCE;
        let held = match how {
            "connection" | "reader" | "writer" => self.hold_connection(how),
            "shared store" => self.hold_store(Access::Shared),
            "exclusive store" => self.hold_store(Access::Exclusive),
            _ => panic!("second-process: no role {how:?}"),
        };
        match held {
            Ok(()) => tell("left"),
            Err(problem) => say(problem),
        }
    }

    fn hold_connection(&mut self, how: &str) -> Result<()> {
        let wrong = |error: rusqlite::Error| format!("a {how}: {error}");
        let conn = self.open().map_err(wrong)?;
        // The connection has the file's lock for as long as it is open, once it has read.
        self.read(&conn, Duration::ZERO, "reading")?;
        match how {
            "reader" => conn.execute_batch("BEGIN; SELECT count(*) FROM entry"),
            "writer" => conn.execute_batch("BEGIN IMMEDIATE"),
            _ => Ok(()),
        }
        .map_err(wrong)?;
        tell("in");
        while listen() == "write" {
            let job = self.plain();
            let n = if conn.is_autocommit() {
                transact(&conn, &job, TransactionBehavior::Immediate, Duration::ZERO)
            } else {
                conn.execute_batch("COMMIT; BEGIN IMMEDIATE")
                    .map_err(Error::from)
                    .and_then(|()| job.write(&conn))
                    .and_then(|n| Ok(conn.execute_batch("COMMIT; BEGIN IMMEDIATE").map(|()| n)?))
            };
            self.acknowledged(job.id, n.map_err(|error| format!("writing: {error:?}"))?);
        }
        conn.close().map_err(|(_, error)| wrong(error))
    }

    fn hold_store(&mut self, access: Access) -> Result<()> {
        let store = options(access, &mut self.rng)
            .open(&self.path)
            .map_err(|error| format!("opening: {error:?}"))?;
        tell("in");
        while listen() == "write" {
            let job = self.plain();
            let n = store.write(job.closure());
            self.acknowledged(job.id, n.map_err(|error| format!("writing: {error:?}"))?);
        }
        store.close().map(drop).map_err(|error| format!("closing: {error:?}"))
    }

    fn plain(&mut self) -> Job {
        self.k += 1;
        Job::plain((self.client, self.k))
    }
}

pub fn transact(conn: &Connection, job: &Job, behavior: TransactionBehavior, stay: Duration) -> larder::Result<i64> {
    let tx = rusqlite::Transaction::new_unchecked(conn, behavior)?;
    let n = job.write(&tx)?;
    thread::sleep(stay);
    tx.commit()?;
    Ok(n)
}

/// One write through a store. Also returns whether its closure ran.
pub fn write(store: &Store, job: &Job) -> (bool, larder::Result<i64>) {
    let ran = Arc::new(AtomicBool::new(false));
    let (seen, write) = (Arc::clone(&ran), job.closure());
    let result = store.write(move |tx| {
        seen.store(true, Ordering::SeqCst);
        write(tx)
    });
    (ran.load(Ordering::SeqCst), result)
}

/// The commit of a write; `None` if there is a good reason for none: the job fails by itself, or meets another
/// process's lock and did not start.
pub fn judge(job: &Job, ran: bool, result: larder::Result<i64>) -> Result<Option<i64>> {
    let problem = match result {
        Ok(n) if job.commits() => return Ok(Some(n)),
        Err(error) if is_busy(&error) => {
            if error.outcome() == Outcome::NotStarted && error.is_retryable() && !ran {
                return Ok(None);
            }
            format!("BUSY is {:?}, the closure ran: {ran}: {error:?}", error.outcome())
        }
        Err(error) if error.outcome() == Outcome::RolledBack => {
            if !job.commits()
                || matches!(
                    error,
                    Error::RolledBack {
                        caused_by_closure: false,
                        ..
                    }
                )
            {
                return Ok(None);
            }
            format!("{error:?}")
        }
        other => format!("{other:?}"),
    };
    Err(format!("{job:?}: {problem}"))
}

/// Checks the error of a store that may not open.
pub fn in_use(error: &Error) -> Result<()> {
    let told = error.to_string();
    let is_clear = told.contains("another process") && told.contains("try again");
    match error {
        Error::InUse { .. } if is_clear && error.is_retryable() && error.outcome() == Outcome::NotStarted => Ok(()),
        _ => Err(format!("a file that another process has is refused by {error:?}")),
    }
}
