//! The processes: a primary, a follower that may be promoted, and a restore.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use larder::replica::levels::LevelTimes;
use larder::rusqlite::{Connection, params};
use larder::{
    Durability, Error, Follower, FollowerOptions, Migration, Migrations, OnDivergence, Options, ReplicaOptions, Store,
    WriteOptions,
};

use crate::child::{listen, tell};

/// Threads that write.
const WRITERS: usize = 4;

/// The server handles one request at a time.
const INTERVAL: Duration = Duration::from_millis(100);

/// All is verified at one of so many looks.
const VERIFY: u32 = 40;

/// At one of so many looks a follower says that it looks.
const SAYS: u32 = 200;

static CLOSES: AtomicBool = AtomicBool::new(false);
static IS_PROMOTED: AtomicBool = AtomicBool::new(false);

/// Does what the parent says.
fn hear() {
    thread::spawn(|| {
        loop {
            match listen().as_str() {
                "promote" => IS_PROMOTED.store(true, SeqCst),
                "close" => CLOSES.store(true, SeqCst),
                _ => return,
            }
        }
    });
}

fn options(url: &str, take_over: bool) -> Options {
    let millis = Duration::from_millis;
    // What is uploaded is merged, and deleted, within seconds.
    let times = LevelTimes {
        levels: [1000, 3000, 9000].map(millis),
        l0_retention: millis(2000),
        snapshot_every: millis(4000),
        retention: millis(6000),
    };
    let replica = ReplicaOptions::to(url)
        .interval(INTERVAL)
        .replicate_timeout(millis(1500))
        .take_over(take_over)
        .restore_if_missing(true)
        .on_divergence(OnDivergence::Restore)
        .level_times(times);
    Options::new()
        .replicate_to(replica)
        .migrations(Migrations::new([Migration::new(
            1,
            "tables",
            "CREATE TABLE entry(n INTEGER PRIMARY KEY, who INTEGER NOT NULL, k INTEGER NOT NULL, sum INTEGER NOT NULL) STRICT;
             CREATE TABLE tally(one INTEGER PRIMARY KEY, n INTEGER NOT NULL, sum INTEGER NOT NULL) STRICT;
             INSERT INTO tally VALUES (1, 0, 0);",
        )]))
        .close_timeout(Duration::from_secs(5))
        .readers(2)
}

/// The checksum of all commits up to this one.
fn next(sum: i64, who: i64, k: i64) -> i64 {
    let mut word = sum.cast_unsigned() ^ who.cast_unsigned().rotate_left(40) ^ k.cast_unsigned();
    for _ in 0..3 {
        word = (word ^ (word >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    }
    word.cast_signed()
}

/// Whether the commits are a chain, and the tally is its end.
///
/// # Errors
///
/// They are not.
pub fn verify(conn: &Connection) -> Result<(), String> {
    let failed = |error: larder::rusqlite::Error| format!("reading: {error}");
    let mut statement = conn
        .prepare("SELECT n, who, k, sum FROM entry ORDER BY n")
        .map_err(failed)?;
    let mut rows = statement.query([]).map_err(failed)?;
    let (mut n, mut sum) = (0_i64, 0_i64);
    while let Some(row) = rows.next().map_err(failed)? {
        let of = |at: usize| row.get::<_, i64>(at);
        let [number, who, k, there] = [of(0), of(1), of(2), of(3)];
        n += 1;
        sum = next(sum, who.map_err(failed)?, k.map_err(failed)?);
        let (number, there) = (number.map_err(failed)?, there.map_err(failed)?);
        if (number, there) != (n, sum) {
            return Err(format!(
                "torn: commit {number} has the checksum {there}, and not as {n} {sum}"
            ));
        }
    }
    let tally = conn.query_row("SELECT n, sum FROM tally", [], |row| Ok((row.get(0)?, row.get(1)?)));
    let tally: (i64, i64) = tally.map_err(failed)?;
    if tally != (n, sum) {
        return Err(format!(
            "torn: the tally is {tally:?}, and the commits end with {n} {sum}"
        ));
    }
    Ok(())
}

/// Opens a store, and writes until it is closed or fenced.
pub fn primary(arguments: &[String]) {
    let [url, path, who, take_over] = arguments else {
        panic!("partition-primary: wrong arguments")
    };
    hear();
    match options(url, take_over == "true").open(path) {
        Ok(store) => write(&store, who.parse().expect("a number"), "opened"),
        Err(error) => refused(&error),
    }
}

/// Says why a store or a follower does not open. What another primary or the network has done is no failure.
fn refused(error: &Error) {
    match error {
        Error::ReplicaInUse { .. }
        | Error::Replica { .. }
        | Error::Restore { .. }
        | Error::Diverged { .. }
        | Error::Fenced { .. }
        | Error::Behind { .. }
        | Error::NotReplicated { .. } => tell(&format!("refused {}", one_line(error))),
        other => tell(&format!("! opening: {}", one_line(other))),
    }
}

fn one_line(error: &Error) -> String {
    error.to_string().replace('\n', " ")
}

/// `how` it came to write.
fn write(store: &Store, who: i64, how: &str) {
    tell(&format!("writes {how}"));
    let (k, is_fenced) = (AtomicI64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| {
                while !CLOSES.load(SeqCst) && !is_fenced.load(SeqCst) {
                    write_one(store, who, k.fetch_add(1, SeqCst), &is_fenced);
                }
            });
        }
    });
    if is_fenced.load(SeqCst) {
        tell("fenced");
    }
    match store.close() {
        Ok(_) => tell("closed"),
        Err(error) => tell(&format!("! closing: {}", one_line(&error))),
    }
}

fn write_one(store: &Store, who: i64, k: i64, is_fenced: &AtomicBool) {
    let options = WriteOptions::new().durability(Durability::Replicated);
    let written = store.write_with(options, move |tx| {
        let (n, sum) = tx.query_row("SELECT n + 1, sum FROM tally", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
        })?;
        let sum = next(sum, who, k);
        tx.execute("INSERT INTO entry VALUES (?1, ?2, ?3, ?4)", params![n, who, k, sum])?;
        tx.execute("UPDATE tally SET n = ?1, sum = ?2", params![n, sum])?;
        Ok((n, sum))
    });
    match written {
        Ok((n, sum)) => tell(&format!("acked {who} {k} {n} {sum}")),
        Err(Error::NotReplicated { .. }) => tell("unsure"),
        Err(Error::Fenced { .. } | Error::Diverged { .. }) => is_fenced.store(true, SeqCst),
        Err(error) if error.is_retryable() => tell("unsure"),
        Err(error) => tell(&format!("! a write: {}", one_line(&error))),
    }
}

/// Follows, and shows what it sees; then writes, if it is promoted. `who` is 0 for one that never is.
pub fn follower(arguments: &[String]) {
    let [url, path, who, n, sum] = arguments else {
        panic!("partition-follower: wrong arguments")
    };
    let number = |text: &String| text.parse::<i64>().expect("a number");
    let (who, mut last) = (number(who), (number(n), number(sum)));
    hear();
    let following = FollowerOptions::of(url).interval(INTERVAL);
    let follower = match Options::new().readers(2).follow(following, path) {
        Ok(follower) => follower,
        Err(error @ Error::Diverged { .. }) if who == 0 => {
            return tell(&format!("! the follower does not open: {}", one_line(&error)));
        }
        Err(error) => return refused(&error),
    };
    let mut looks = 0;
    while !CLOSES.load(SeqCst) && !IS_PROMOTED.load(SeqCst) {
        looks += 1;
        match look(&follower, last, looks % VERIFY == 1) {
            Ok(seen) if seen != last => {
                last = seen;
                tell(&format!("seen {} {}", seen.0, seen.1));
            }
            Ok(_) if looks % SAYS == 0 => tell("looks"),
            Ok(_) => {}
            Err(problem) => return tell(&format!("! the follower: {problem}")),
        }
        if let Some(error) = follower.stopped() {
            return tell(&format!("! the follower has stopped: {}", one_line(&error)));
        }
        thread::sleep(Duration::from_millis(5));
    }
    if CLOSES.load(SeqCst) {
        let _ = follower.close();
        return tell("closed");
    }
    match follower.promote(options(url, true)) {
        Ok(store) => promoted(&store, who, last),
        Err(error) => refused(&error),
    }
}

/// A promoted follower has all that it has shown.
fn promoted(store: &Store, who: i64, last: (i64, i64)) {
    let has = store.read(|tx| {
        tx.exists(
            "SELECT 1 FROM entry WHERE n = ?1 AND sum = ?2 UNION ALL SELECT 1 WHERE ?1 = 0",
            params![last.0, last.1],
        )
    });
    if !has.unwrap_or(false) {
        return tell(&format!("! the promoted follower has lost commit {last:?}"));
    }
    write(store, who, "promoted");
}

/// One snapshot: its newest commit. It has what was seen before, and is not torn.
fn look(follower: &Follower, last: (i64, i64), verifies: bool) -> Result<(i64, i64), String> {
    let looked = follower.read(move |tx| {
        if !tx.exists("SELECT 1 FROM sqlite_schema WHERE name = 'tally'", [])? {
            return Ok((0, 0, 0, 0, Ok(())));
        }
        let row = tx.query_row(
            "SELECT n, sum, (SELECT count(*) FROM entry),
                    ifnull((SELECT sum FROM entry WHERE n = tally.n), 0), ifnull((SELECT sum FROM entry WHERE n = ?1), 0)
             FROM tally",
            [last.0],
            |row| Ok([row.get::<_, i64>(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?]),
        )?;
        let [n, sum, count, sum_there, before] = row;
        let whole = match verifies {
            true => verify(tx),
            false => Ok(()),
        };
        let whole = whole.and(match (n, sum) == (count, sum_there) {
            true => Ok(()),
            false => Err(format!("torn: {row:?}")),
        });
        Ok((n, sum, count, before, whole))
    });
    let (n, sum, _, before, whole) = looked.map_err(|error| format!("reading: {}", one_line(&error)))?;
    whole?;
    if n < last.0 || before != last.1 {
        return Err(format!(
            "back in time: it showed {last:?}, and now {n} {sum}, with {before} there"
        ));
    }
    Ok((n, sum))
}

pub fn restore(arguments: &[String]) {
    let [url, to] = arguments else {
        panic!("partition-restore: wrong arguments")
    };
    match Store::restore_from(url).to(Path::new(to)) {
        Ok(_) => tell("restored"),
        Err(error) => tell(&format!("! {}", one_line(&error))),
    }
}
