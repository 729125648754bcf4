//! Retentions, by rounds of two kinds.
//!
//! **Kills.** A process with a retention is killed at any moment, and goes on, while another thread inserts rows. A row's
//! number is its time in milliseconds since the round began, so after each kill the file says which rows are gone: none
//! that is younger than the limit, none that a foreign key keeps, none without a time; and what was gone before is gone.
//! Now and then the record of the clock says that it was set ahead between two runs. In the end all old rows are gone.
//!
//! **Failing calls.** The Nth call of a sweep beside writes fails, once or from then on. No row is lost that is not old,
//! and once the disk is sound again, all old rows go, at the latest after the store is opened again.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fastrand::Rng;
use larder::rusqlite::{Connection, OptionalExtension, Row};
use larder::{Options, RetainOptions, Stats, Store};

use crate::Arguments;
use crate::cases::{Suite, Summary, seed};
use crate::child::{Child, tell};
use crate::disk::Image;
use crate::entries::{clean, keep};
use crate::scripts::KINDS;
use crate::trace::{Disk, Plan};

const DATABASE: &str = "app.db";

/// How long rows are kept. The table is looked at ten times a second.
const KEEP: Duration = Duration::from_secs(1);

/// Rows that are old as a round begins, in milliseconds.
const OLD: i64 = 20_000;

/// Each of these is kept by a foreign key, and each of those has no time.
const REFERRED: i64 = 500;
const TIMELESS: i64 = 701;

/// Kills of one round. After them the retention runs until all old rows are gone.
const MOST_KILLS: u32 = 5;

/// Longer than any wait takes.
const PATIENCE: Duration = Duration::from_secs(60);

const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, at INTEGER, pad TEXT NOT NULL) STRICT;
    CREATE INDEX IF NOT EXISTS t_by_at ON t(at);
    CREATE TABLE IF NOT EXISTS child(t INTEGER PRIMARY KEY REFERENCES t(id)) STRICT;
    CREATE TABLE IF NOT EXISTS last(id INTEGER NOT NULL) STRICT";

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

pub fn child(arguments: &[String]) {
    let [path, seed, epoch, end] = arguments else {
        panic!("retain: wrong arguments")
    };
    let number = |text: &String| text.parse().expect("a number");
    let rng = Rng::with_seed(number(seed));
    let done = work(Path::new(path), rng, number(epoch) as i64, end == "end");
    if let Err(error) = done {
        tell(&format!("! {error}"));
    }
}

fn work(path: &Path, mut rng: Rng, epoch: i64, is_end: bool) -> larder::Result<()> {
    let options = RetainOptions::new()
        .milliseconds(true)
        .rows_per_minute(rng.u64(100..2_000_000));
    let options = if is_end {
        options.rows_per_minute(u64::MAX)
    } else {
        options
    };
    let store = Options::new()
        .checkpoint_pages([1, 20, 200, 1000][rng.usize(0..4)])
        .cache_size([64 << 10, 8 << 20][rng.usize(0..2)])
        .retain_with(options, "t", "at", KEEP)
        .open(path)?;
    store.write(|tx| tx.execute_batch(SCHEMA))?;
    tell("opened");
    if is_end {
        return finish(&store, epoch);
    }
    loop {
        let upto = now() - epoch;
        let many = rng.i64(1..400);
        let last = store.write(move |tx| insert(tx, epoch, upto, many))?;
        tell(&format!("wrote {last}"));
        thread::sleep(Duration::from_micros(rng.u64(100..20_000)));
    }
}

/// Inserts the next rows up to that time, at most so many. Returns the last one.
fn insert(tx: &larder::WriteTx<'_>, epoch: i64, upto: i64, many: i64) -> larder::Result<i64> {
    let first: i64 = tx.scalar("SELECT coalesce(max(id), 0) + 1 FROM last", [])?;
    let last = upto.min(first + if first == 1 { OLD } else { many });
    tx.execute(
        "WITH RECURSIVE i(id) AS (SELECT ?1 WHERE ?1 <= ?2 UNION ALL SELECT id + 1 FROM i WHERE id < ?2)
         INSERT INTO t SELECT id, CASE WHEN id % ?4 THEN ?3 + id END, printf('%.*c', id % 300, 'x') FROM i",
        (first, last, epoch, TIMELESS),
    )?;
    tx.execute(
        "INSERT INTO child SELECT id FROM t WHERE id >= ?1 AND id % ?2 = 0",
        (first, REFERRED),
    )?;
    tx.execute("DELETE FROM last", [])?;
    tx.execute("INSERT INTO last VALUES (?1)", [last.max(first - 1)])?;
    Ok(last.max(first - 1))
}

/// Waits until all rows that are old by now are gone, but those that stay.
fn finish(store: &Store, epoch: i64) -> larder::Result<()> {
    let limit = now() - epoch - 1000;
    let until = Instant::now() + PATIENCE / 2;
    loop {
        let old = "SELECT count(*) FROM t WHERE at < ?1 AND id % ?2 <> 0";
        let old: i64 = store.read(|tx| tx.scalar(old, (epoch + limit, REFERRED)))?;
        if old == 0 {
            break;
        }
        if Instant::now() > until {
            tell(&format!("! {old} old rows stay: {:?}", store.stats().retention));
            return Ok(());
        }
        thread::sleep(Duration::from_millis(20));
    }
    store.close()?;
    tell("done");
    Ok(())
}

pub fn run(arguments: &Arguments) -> Summary {
    let suite = Suite::new("retain", arguments).expect("a folder for temporary files");
    let (kills, hits) = (AtomicU64::new(0), AtomicU64::new(0));
    let rounds = match arguments.number_of_case() {
        Some(case) => case..case + 1,
        None => arguments.from..arguments.states.unwrap_or(300),
    };
    let summary = suite.run(arguments.threads, rounds, |round, bench| {
        let case = round.to_string();
        let result = bench.attempt(&case, || {
            clean(&bench.folder).map_err(|error| error.to_string())?;
            let seed = seed(arguments.seed, round, 42);
            if round % 4 == 0 {
                live(&bench.folder.join(DATABASE), seed, &kills)
            } else {
                fail(&bench.folder, seed, &hits)
            }
        });
        let kept = |problem| format!("{problem}{}", keep(&bench.folder, "retain", &case));
        bench.note(&case, result.map_err(kept), None);
    });
    println!(
        "retain: {} kills, {} failing calls",
        kills.load(Ordering::SeqCst),
        hits.load(Ordering::SeqCst)
    );
    summary
}

// ---- kills ----

fn live(path: &Path, seed: u64, kills: &AtomicU64) -> Result<(), String> {
    let mut rng = Rng::with_seed(seed);
    let epoch = now() - OLD;
    let (mut written, mut gone) = (0, Vec::new());
    for _ in 0..MOST_KILLS {
        let mut child = start(path, &mut rng, epoch, "goes on")?;
        let mut hear = |line: &str| match line.strip_prefix("wrote ").map(str::parse) {
            Some(Ok(n)) => {
                written = n;
                Ok(())
            }
            _ if line == "opened" => Ok(()),
            _ => Err(format!("the child: {line}")),
        };
        for _ in 0..rng.u32(0..60) {
            match child.line(PATIENCE) {
                Ok(line) => hear(&line)?,
                Err(true) => return Err("the child has ended".into()),
                Err(false) => return Err("the child hangs".into()),
            }
        }
        thread::sleep(Duration::from_micros(rng.u64(0..5000)));
        child.kill();
        kills.fetch_add(1, Ordering::SeqCst);
        let (rest, _) = child.rest();
        rest.iter().try_for_each(|line| hear(line))?;
        check(path, epoch, written, &mut gone).map_err(|problem| format!("after a kill: {problem}"))?;
        if rng.u8(0..4) == 0 {
            set_ahead(path, &mut rng).map_err(|error| error.to_string())?;
        }
    }
    let child = start(path, &mut rng, epoch, "end")?;
    let (lines, status) = child.rest();
    if lines.last().map(String::as_str) != Some("done") {
        return Err(format!("the last run: {status}: {:?}", lines.last()));
    }
    check(path, epoch, written, &mut gone)
}

fn start(path: &Path, rng: &mut Rng, epoch: i64, end: &str) -> Result<Child, String> {
    let arguments = [
        path.display().to_string(),
        rng.u64(..).to_string(),
        epoch.to_string(),
        end.to_owned(),
    ];
    Child::start("retain", &arguments).map_err(|error| error.to_string())
}

/// As if the machine had been off, and its clock were set ahead.
fn set_ahead(path: &Path, rng: &mut Rng) -> larder::rusqlite::Result<()> {
    let conn = Connection::open(path)?;
    if exists(&conn, "larder_retention")? {
        let sql = "UPDATE larder_retention SET boot = 'another', time_ms = time_ms - ?1";
        conn.execute(sql, [rng.i64(0..1_000_000)])?;
    }
    Ok(())
}

fn exists(conn: &Connection, table: &str) -> larder::rusqlite::Result<bool> {
    let found = conn.query_row("SELECT 1 FROM sqlite_schema WHERE name = ?1", [table], |_| Ok(()));
    found.optional().map(|found| found.is_some())
}

/// Compares the rows with the numbers that were inserted. `gone` are those that were missing before.
fn check(path: &Path, epoch: i64, written: i64, gone: &mut Vec<i64>) -> Result<(), String> {
    let in_words = |error: larder::rusqlite::Error| error.to_string();
    // The process is gone, so what is missing was old by then.
    let limit = now() - epoch - 1000;
    let conn = Connection::open(path).map_err(in_words)?;
    if !exists(&conn, "last").map_err(in_words)? {
        return if written == 0 {
            Ok(())
        } else {
            Err("the tables are lost".into())
        };
    }
    let number = |sql: &str, of: &[i64]| {
        let values = larder::rusqlite::params_from_iter(of);
        let read = |row: &Row<'_>| row.get::<_, Option<i64>>(0).map(Option::unwrap_or_default);
        conn.query_row(sql, values, read)
            .map_err(|error| format!("{sql}: {error}"))
    };
    let last = number("SELECT max(id) FROM last", &[])?;
    if last < written {
        return Err(format!("row {written} was acknowledged, and the last one is {last}"));
    }
    let missing = "WITH RECURSIVE i(id) AS (SELECT 1 WHERE ?1 > 0 UNION ALL SELECT id + 1 FROM i WHERE id < ?1)
                   SELECT id FROM i WHERE id NOT IN (SELECT id FROM t)";
    let missing: Vec<i64> = conn
        .prepare(missing)
        .and_then(|mut missing| missing.query_map([last], |row| row.get(0))?.collect())
        .map_err(in_words)?;
    if let Some(young) = missing.iter().find(|id| **id >= limit) {
        return Err(format!("row {young} is gone, and the limit is {limit}"));
    }
    if let Some(kept) = missing.iter().find(|id| *id % REFERRED == 0 || *id % TIMELESS == 0) {
        return Err(format!(
            "row {kept} is gone, which has no time, or which another refers to"
        ));
    }
    if let Some(back) = gone.iter().find(|id| missing.binary_search(id).is_err()) {
        return Err(format!("row {back} was deleted, and is there again"));
    }
    *gone = missing;
    let changed = "SELECT count(*) FROM t WHERE at IS NOT CASE WHEN id % ?2 THEN ?1 + id END
                       OR pad <> printf('%.*c', id % 300, 'x') OR id > ?3 OR id < 1";
    let changed = number(changed, &[epoch, TIMELESS, last])?;
    if changed > 0 {
        return Err(format!("{changed} rows have other values"));
    }
    is_sound(&conn)
}

fn is_sound(conn: &Connection) -> Result<(), String> {
    let sound: String = conn
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .map_err(|error| error.to_string())?;
    if sound == "ok" { Ok(()) } else { Err(sound) }
}

// ---- failing calls ----

/// Old rows, and young ones.
const ROWS: i64 = 3000;

fn fail(folder: &Path, seed: u64, hits: &AtomicU64) -> Result<(), String> {
    let mut rng = Rng::with_seed(seed);
    let path = folder.join(DATABASE);
    let disk = Disk::mount(folder, &Image::default());
    let store = filled(&path, &mut rng).map_err(|error| format!("{error:?}"))?;
    let kind = KINDS[rng.usize(0..KINDS.len())];
    let latest = [8, 60, 400][rng.usize(0..3)];
    let plan = Plan {
        fault: kind.fault,
        calls: kind.calls,
        files: kind.files,
        nth: rng.u64(1..latest),
        sticky: rng.bool(),
    };
    let in_words = |problem: String| format!("{problem}; {} at {}, sticky: {}", kind.name, plan.nth, plan.sticky);
    let written = disturbed(&store, &disk, plan, hits).map_err(in_words)?;
    let swept = |stats: &Stats| {
        let swept = stats.retention.first();
        swept.is_some_and(|retention| retention.rows_kept == 0 && retention.last_sweep_ago.is_some())
    };
    // The store has stopped for good after a failing sync, or an error of a checkpoint.
    let retention = store.retain_with(ancient(), "t", "at", KEEP);
    if let Ok(_retention) = retention
        && store.write(|tx| tx.execute_batch("DELETE FROM child")).is_ok()
    {
        wait(|| swept(&store.stats()) || store.write(|_| Ok(())).is_err()).map_err(in_words)?;
    }
    drop(store);
    let store = options(&mut rng)
        .retain_with(ancient(), "t", "at", KEEP)
        .open(&path)
        .map_err(|error| in_words(format!("opening again: {error:?}")))?;
    store
        .write(|tx| tx.execute_batch("DELETE FROM child"))
        .map_err(|error| in_words(format!("a write after it: {error:?}")))?;
    wait(|| old_rows(&store) == Ok(0)).map_err(in_words)?;
    drop(store);
    let conn = Connection::open(&path).map_err(|error| in_words(error.to_string()))?;
    let young: i64 = conn
        .query_row("SELECT count(*) FROM t WHERE at IS NOT 1000000000", [], |row| {
            row.get(0)
        })
        .map_err(|error| in_words(error.to_string()))?;
    if young < ROWS + written {
        return Err(in_words(format!("{young} of {} young rows are there", ROWS + written)));
    }
    is_sound(&conn).map_err(in_words)
}

fn options(rng: &mut Rng) -> Options {
    Options::new()
        .checkpoint_pages([1, 20, 200, 1000][rng.usize(0..4)])
        .cache_size([64 << 10, 8 << 20][rng.usize(0..2)])
        .monitor_interval(Duration::ZERO)
}

/// Its old rows are of 2001, and no others are of the past.
fn ancient() -> RetainOptions {
    RetainOptions::new().stale(true)
}

/// Half of the rows are old, a few of which another table refers to.
fn filled(path: &Path, rng: &mut Rng) -> larder::Result<Store> {
    let store = options(rng).open(path)?;
    store.write(|tx| {
        tx.execute_batch(SCHEMA)?;
        let fill = "WITH RECURSIVE i(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM i WHERE id < 2 * ?1)
                    INSERT INTO t SELECT id, iif(id % 2, 1000000000, unixepoch() + 86400), printf('%.100c', 'x') FROM i";
        tx.execute(fill, [ROWS])?;
        tx.execute("INSERT INTO child SELECT id FROM t WHERE id % ?1 = 1", [REFERRED])
    })?;
    Ok(store)
}

/// Deletes old rows beside writes while calls fail. Returns the number of rows that were written, each of them young.
fn disturbed(store: &Store, disk: &Disk, plan: Plan, hits: &AtomicU64) -> Result<i64, String> {
    let over = AtomicBool::new(false);
    let mut written = 0;
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut written = 0;
            while !over.load(Ordering::SeqCst) {
                let young = "INSERT INTO t(at, pad) VALUES (unixepoch() + 86400, 'beside')";
                written += i64::from(store.write(move |tx| tx.execute(young, [])).is_ok());
                thread::sleep(Duration::from_millis(1));
            }
            written
        });
        disk.arm(plan);
        let retention = store.retain_with(ancient(), "t", "at", KEEP);
        let ended = match &retention {
            // A sweep that fails, or one that leaves what cannot go.
            Ok(_) => wait(|| {
                let stats = store.stats();
                stats
                    .retention
                    .first()
                    .is_none_or(|retention| retention.last_error.is_some())
            }),
            Err(_) => Ok(()),
        };
        hits.fetch_add(u64::from(disk.disarm().is_some()), Ordering::SeqCst);
        over.store(true, Ordering::SeqCst);
        written = writer.join().expect("it does not panic");
        ended
    })?;
    Ok(written)
}

fn old_rows(store: &Store) -> Result<i64, String> {
    store
        .read(|tx| tx.scalar("SELECT count(*) FROM t WHERE at = 1000000000", []))
        .map_err(|error| error.to_string())
}

fn wait(mut is_so: impl FnMut() -> bool) -> Result<(), String> {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        if Instant::now() > until {
            return Err("the retention hangs".into());
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
