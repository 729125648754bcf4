//! A process with resumable bulk jobs is killed at any moment, and goes on. One round has a new file and these jobs, one
//! after another: an insertion, an update that adds one, and a deletion. Another thread writes beside them.
//!
//! After each kill the file holds exactly the rows that the cursors of the jobs say: the first rows of the source, and
//! one added to the rows up to the last key. In the end each row was inserted once, updated once, and deleted if it was
//! to go. No acknowledged write of the other thread is lost.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use larder::rusqlite::{Connection, OptionalExtension};
use larder::{Options, Store};

use crate::Arguments;
use crate::cases::{Suite, Summary, seed};
use crate::child::{Child, tell};
use crate::entries::{clean, keep};

const DATABASE: &str = "app.db";

/// Rows of a round.
const ROWS: i64 = 60_000;

/// Kills of one round. After them the jobs run to their end.
const MOST_KILLS: u32 = 6;

/// Longer than any job takes.
const PATIENCE: Duration = Duration::from_secs(25);

pub fn child(arguments: &[String]) {
    let [path, seed] = arguments else {
        panic!("bulk: wrong arguments")
    };
    if let Err(error) = work(Path::new(path), Rng::with_seed(seed.parse().expect("a number"))) {
        tell(&format!("! {error}"));
    }
}

fn work(path: &Path, mut rng: Rng) -> larder::Result<()> {
    let options = Options::new()
        .checkpoint_pages([1, 20, 200, 1000][rng.usize(0..4)])
        .cache_size([64 << 10, 8 << 20][rng.usize(0..2)]);
    let store = options.open(path)?;
    store.write(|tx| {
        tx.execute_batch(
            "CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, key INTEGER NOT NULL, n INTEGER NOT NULL) STRICT;
             CREATE INDEX IF NOT EXISTS t_by_key ON t(key);
             CREATE TABLE IF NOT EXISTS beside(n INTEGER PRIMARY KEY) STRICT",
        )
    })?;
    let next: i64 = store.read(|tx| tx.scalar("SELECT coalesce(max(n), 0) + 1 FROM beside", []))?;
    tell("opened");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let beside = scope.spawn(|| {
            for n in next.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                store.write(move |tx| tx.execute("INSERT INTO beside VALUES (?1)", [n]))?;
                tell(&format!("wrote {n}"));
                thread::sleep(Duration::from_micros(300));
            }
            Ok(())
        });
        let done = jobs(&store, &mut rng);
        over.store(true, Ordering::Relaxed);
        beside.join().expect("it does not panic").and(done)
    })?;
    store.close()?;
    tell("done");
    Ok(())
}

fn jobs(store: &Store, rng: &mut Rng) -> larder::Result<()> {
    let slice = Duration::from_micros(rng.u64(100..5000));
    let job = |name: &str| store.bulk().slice(slice).resumable(name);
    let rows = (0..ROWS).map(|id| (id, id * 7919 % ROWS));
    job("insert")
        .insert("INSERT INTO t(id, key, n) VALUES (?1, ?2, 0)", rows)
        .run()?;
    tell("update");
    job("update").update("t", "n = n + 1", "key >= ?1", (0,)).run()?;
    tell("delete");
    job("delete").delete("t", "key < ?1", (ROWS / 2,)).run()?;
    Ok(())
}

pub fn run(arguments: &Arguments) -> Summary {
    let suite = Suite::new("bulk", arguments).expect("a folder for temporary files");
    let kills = AtomicU64::new(0);
    let rounds = match arguments.number_of_case() {
        Some(case) => case..case + 1,
        None => arguments.from..arguments.states.unwrap_or(300),
    };
    let summary = suite.run(arguments.threads, rounds, |round, bench| {
        let case = round.to_string();
        let result = bench.attempt(&case, || {
            clean(&bench.folder).map_err(|error| error.to_string())?;
            live(&bench.folder.join(DATABASE), seed(arguments.seed, round, 41), &kills)
        });
        let kept = |problem| format!("{problem}{}", keep(&bench.folder, "bulk", &case));
        bench.note(&case, result.map_err(kept), None);
    });
    println!("bulk: {} kills", kills.load(Ordering::SeqCst));
    summary
}

fn live(path: &Path, seed: u64, kills: &AtomicU64) -> Result<(), String> {
    let mut rng = Rng::with_seed(seed);
    let mut written = 0;
    for _ in 0..MOST_KILLS {
        let mut child = start(path, &mut rng)?;
        let mut hear = |line: &str| match line.strip_prefix("wrote ").map(str::parse) {
            Some(Ok(n)) => {
                written = n;
                Ok(())
            }
            _ if ["opened", "update", "delete", "done"].contains(&line) => Ok(()),
            _ => Err(format!("the child: {line}")),
        };
        // After a number of writes beside it, and a part of the time of one.
        let mut is_over = false;
        for _ in 0..rng.u32(0..40) {
            match child.line(PATIENCE) {
                Ok(line) => hear(&line)?,
                Err(true) => {
                    is_over = true;
                    break;
                }
                Err(false) => return Err("the child hangs".into()),
            }
        }
        thread::sleep(Duration::from_micros(rng.u64(0..2000)));
        child.kill();
        kills.fetch_add(u64::from(!is_over), Ordering::SeqCst);
        let (rest, _) = child.rest();
        rest.iter().try_for_each(|line| hear(line))?;
        check(path, written).map_err(|problem| format!("after a kill: {problem}"))?;
    }
    let child = start(path, &mut rng)?;
    let (lines, status) = child.rest();
    if lines.last().map(String::as_str) != Some("done") {
        return Err(format!("the last run: {status}: {:?}", lines.last()));
    }
    check(path, written)?;
    let conn = Connection::open(path).map_err(|error| error.to_string())?;
    let left = numbers(&conn, "SELECT count(*), min(key), sum(n) FROM t")?;
    if left != [ROWS / 2, ROWS / 2, ROWS / 2] {
        return Err(format!("rows, least key and updates in the end: {left:?}"));
    }
    Ok(())
}

fn start(path: &Path, rng: &mut Rng) -> Result<Child, String> {
    let arguments = [path.display().to_string(), rng.u64(..).to_string()];
    Child::start("bulk", &arguments).map_err(|error| error.to_string())
}

fn numbers(conn: &Connection, sql: &str) -> Result<[i64; 3], String> {
    let number = |row: &larder::rusqlite::Row<'_>, at| row.get::<_, Option<i64>>(at).map(Option::unwrap_or_default);
    conn.query_row(sql, [], |row| Ok([number(row, 0)?, number(row, 1)?, number(row, 2)?]))
        .map_err(|error| format!("{sql}: {error}"))
}

/// Compares the rows with the cursors.
fn check(path: &Path, written: i64) -> Result<(), String> {
    let conn = Connection::open(path).map_err(|error| error.to_string())?;
    let exists = "SELECT 1 FROM sqlite_schema WHERE name = 'beside'";
    let exists = conn.query_row(exists, [], |_| Ok(())).optional();
    if exists.map_err(|error| error.to_string())?.is_none() {
        return if written == 0 {
            Ok(())
        } else {
            Err("the tables are lost".into())
        };
    }
    let [beside, ..] = numbers(&conn, "SELECT max(n), 0, 0 FROM beside")?;
    if beside < written {
        return Err(format!(
            "write {written} beside the job was acknowledged, and the last one is {beside}"
        ));
    }
    let begun = "SELECT 1 FROM sqlite_schema WHERE name = 'larder_bulk'";
    let begun = conn.query_row(begun, [], |_| Ok(())).optional();
    let cursor = |name: &str| -> Result<[i64; 3], String> {
        if begun.as_ref().map_err(ToString::to_string)?.is_none() {
            return Ok([0; 3]);
        }
        let sql = format!("SELECT sum(rows), max(last_key), count(*) FROM larder_bulk WHERE name = '{name}'");
        numbers(&conn, &sql)
    };
    let ([inserted, ..], [updated, last, has_begun], [deleted, ..]) =
        (cursor("insert")?, cursor("update")?, cursor("delete")?);
    let [rows, sum, below] = numbers(
        &conn,
        &format!("SELECT count(*), sum(id), sum(key < {}) FROM t", ROWS / 2),
    )?;
    if deleted == 0 && (rows, sum) != (inserted, inserted * (inserted - 1) / 2) {
        return Err(format!(
            "{inserted} rows are inserted, and {rows} are there with the sum {sum}"
        ));
    }
    if rows != inserted - deleted || deleted > 0 && below != ROWS / 2 - deleted {
        return Err(format!(
            "{inserted} rows are inserted, {deleted} deleted, and {rows} are there"
        ));
    }
    let wrong = format!("SELECT count(*), 0, 0 FROM t WHERE n <> (id <= {last} AND {has_begun})");
    let [wrong, ..] = numbers(&conn, &wrong)?;
    if wrong > 0 {
        return Err(format!(
            "{updated} rows are updated, up to {last}, and {wrong} rows say otherwise"
        ));
    }
    let sound: String = conn
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .map_err(|error| error.to_string())?;
    if sound == "ok" { Ok(()) } else { Err(sound) }
}
