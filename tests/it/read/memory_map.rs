//! Readers read the file through a memory map, which they keep when a snapshot sees a commit, and which always has the
//! size of the file.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;
use std::{fs, thread};

use larder::rusqlite::Connection;
use larder::{Access, Options, ReadTx, Result, Store};
use tempfile::{TempDir, tempdir};

use crate::support::child::{self, Child, PATIENCE, tell};

const MIB: u64 = 1 << 20;
const ROWS: i64 = 4_000;
const ROUNDS: i64 = 40;

/// A database of 8 MB whose log is empty.
fn database() -> (TempDir, PathBuf) {
    let folder = tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap().join("app.db");
    let store = Store::open(&path).unwrap();
    store
        .write(|tx| {
            tx.execute_batch(
                "CREATE TABLE t(id INTEGER PRIMARY KEY, n INTEGER NOT NULL, filler BLOB NOT NULL) STRICT",
            )?;
            for id in 1..=ROWS {
                add_row(tx, id)?;
            }
            Ok(())
        })
        .unwrap();
    store.close().unwrap();
    (folder, path)
}

fn add_row(conn: &Connection, id: i64) -> larder::rusqlite::Result<()> {
    let mut insert = conn.prepare_cached("INSERT INTO t VALUES (?1, 0, randomblob(1900))")?;
    insert.execute([id]).map(drop)
}

/// Another connection, as another program has it.
fn other(path: &Path) -> Connection {
    let conn = Connection::open(path).unwrap();
    conn.busy_timeout(PATIENCE).unwrap();
    conn
}

/// Moves the whole log into the file, and the file to its size. A checkpoint of the store may be in its way.
fn checkpoint(conn: &Connection) {
    let is_busy = || conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0));
    while is_busy().unwrap() {
        thread::yield_now();
    }
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

/// Reads every page of the table, and gives the number of rows.
fn read_all(store: &Store) -> i64 {
    let all = |tx: &ReadTx<'_>| tx.query_row("SELECT count(*), max(filler) FROM t", [], |row| row.get(0));
    store.read(all).unwrap()
}

fn n_of(store: &Store, id: i64) -> i64 {
    let n = move |tx: &ReadTx<'_>| tx.query_row("SELECT n FROM t WHERE id = ?1", [id], |row| row.get(0));
    store.read(n).unwrap()
}

/// A map of the database in this process, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Map {
    length: u64,
    /// How much of it has been used since it was made.
    resident: u64,
}

/// The map that was used most: that of the reader, since the writing connection has one, too.
fn most_used_map(path: &Path) -> Map {
    let maps = fs::read_to_string("/proc/self/smaps").unwrap();
    let path = path.to_str().unwrap();
    let mut found: Vec<Map> = Vec::new();
    let mut is_ours = false;
    for line in maps.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if let Some((from, to)) = first.split_once('-') {
            is_ours = line.ends_with(path);
            let number = |text| u64::from_str_radix(text, 16).unwrap();
            if is_ours {
                found.push(Map {
                    length: number(to) - number(from),
                    resident: 0,
                });
            }
        } else if is_ours && let Some(kib) = line.strip_prefix("Rss:") {
            let kib: u64 = kib.trim().strip_suffix(" kB").unwrap().parse().unwrap();
            found.last_mut().unwrap().resident = kib << 10;
        }
    }
    found.into_iter().max_by_key(|map| map.resident).unwrap_or_default()
}

/// In each round there is a commit, which the reader sees in its next snapshot.
fn keeps_its_map(options: Options, mut commit: impl FnMut(&Store, i64)) {
    let (_folder, path) = database();
    let store = options.readers(1).open(&path).unwrap();
    read_all(&store);
    let whole = most_used_map(&path);
    assert_eq!(whole.length, size(&path));
    assert!(whole.resident >= 7 * MIB, "{whole:?}");
    for round in 1..=20 {
        let id = round * 150;
        commit(&store, id);
        assert_eq!(n_of(&store, id), 1);
        let map = most_used_map(&path);
        assert!(map.resident >= whole.resident, "{map:?} in round {round}");
        assert_eq!(map.length, size(&path), "in round {round}");
    }
    store.close().unwrap();
    assert_eq!(most_used_map(&path), Map::default(), "closed");
}

fn write(store: &Store, id: i64) {
    let n = store.write(move |tx| tx.execute("UPDATE t SET n = n + 1 WHERE id = ?1", [id]));
    assert_eq!(n.unwrap(), 1);
}

#[test]
fn reader_keeps_its_map_over_commits() {
    if cfg!(feature = "sqlcipher") {
        return; // It maps no file.
    }
    keeps_its_map(Options::new(), write);
    keeps_its_map(Options::new().access(Access::Exclusive), write);
}

#[test]
fn reader_keeps_its_map_over_checkpoints() {
    if cfg!(feature = "sqlcipher") {
        return; // It maps no file.
    }
    keeps_its_map(Options::new().checkpoint_pages(1), write);
}

#[test]
fn reader_keeps_its_map_over_foreign_commits() {
    if cfg!(feature = "sqlcipher") {
        return; // It maps no file.
    }
    let mut child = None;
    keeps_its_map(Options::new(), |store, id| {
        let path = store.path().to_str().unwrap();
        let child = child.get_or_insert_with(|| Child::start("read::memory_map", "updates", &[path]));
        child.say(&id.to_string());
        child.expect("updated");
    });
    child.unwrap().finish();
}

#[test]
fn map_has_the_size_of_the_file() {
    let (_folder, path) = database();
    let store = Options::new().readers(1).open(&path).unwrap();
    let other = other(&path);
    let mut rows = ROWS;
    for round in 0..6 {
        let before = size(&path);
        if round % 2 == 0 {
            other.execute_batch("BEGIN").unwrap();
            for id in rows + 1..=rows + 2_000 {
                add_row(&other, id).unwrap();
            }
            other.execute_batch("COMMIT").unwrap();
            rows += 2_000;
        } else {
            rows -= 3_000;
            other.execute("DELETE FROM t WHERE id > ?1", [rows]).unwrap();
            other.execute_batch("VACUUM").unwrap();
        }
        checkpoint(&other);
        assert_eq!(size(&path) > before, round % 2 == 0);
        assert_eq!(read_all(&store), rows);
        let map = most_used_map(&path);
        assert_eq!(map.length, size(&path), "in round {round}");
        // The first page, and those of the schema and of free pages, are not all read.
        assert!(map.resident >= map.length - MIB / 2, "{map:?} in round {round}");
    }
}

#[test]
fn map_is_no_larger_than_its_limit() {
    let (_folder, path) = database();
    let store = Options::new().readers(1).mmap_size(MIB).open(&path).unwrap();
    for id in 1..=20 {
        write(&store, id);
        assert_eq!(read_all(&store), ROWS);
        assert_eq!(n_of(&store, id), 1);
        let map = most_used_map(&path);
        assert_eq!(map.length, MIB);
        assert!(map.resident >= MIB / 2, "{map:?}");
    }
    store.close().unwrap();

    let store = Options::new().mmap_size(0).open(&path).unwrap();
    assert_eq!(read_all(&store), ROWS);
    write(&store, 1);
    assert_eq!(n_of(&store, 1), 2);
    assert_eq!(most_used_map(&path), Map::default());
}

/// The file grows and shrinks all the time, by the commits and checkpoints of another process.
#[test]
fn mapped_reads_are_right_while_the_file_changes() {
    let (_folder, path) = database();
    let store = Options::new().readers(2).open(&path).unwrap();
    let (enough, round) = (path.with_extension("enough"), path.with_extension("round"));
    let args = [&path, &enough, &round].map(|path| path.to_str().unwrap());
    let child = Child::start("read::memory_map", "changes the size", &args);
    let (sees, seen) = channel();
    let read = |sees: Sender<()>| {
        let mut sizes = 0;
        let mut last = None;
        loop {
            // A read that begins after a round was committed sees it.
            let committed = fs::read_to_string(&round).map_or(0, |round| round.parse().unwrap());
            let (read, rows, is_over) = store.read(is_consistent).unwrap();
            assert!(read >= committed, "round {read} is read after {committed}");
            if last.replace(rows) != Some(rows) {
                sizes += 1;
                if sizes == 6 {
                    sees.send(()).unwrap();
                }
            }
            if is_over {
                return;
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..2 {
            let sees = sees.clone();
            scope.spawn(move || read(sees));
        }
        drop(sees);
        // Only then may the child end. Each read sees the newest size, so that takes no longer than some rounds, unless a
        // reader or the child hangs.
        let both = (0..2).all(|_| seen.recv_timeout(PATIENCE).is_ok());
        fs::write(&enough, "").unwrap();
        child.expect("done");
        assert!(both, "they saw the file change");
    });
    child.finish();
    assert!(most_used_map(&path).resident > 0);
}

/// The numbers add up to nothing, and another table has the number of rows. Gives the round of the last change, the rows,
/// and whether it was the last one.
fn is_consistent(tx: &ReadTx<'_>) -> Result<(i64, i64, bool)> {
    let (sum, rows, bytes): (i64, i64, i64) =
        tx.query_row("SELECT sum(n), count(*), sum(length(filler)) FROM t", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?;
    assert_eq!((sum, bytes), (0, rows * 1900));
    if !tx.exists("SELECT 1 FROM sqlite_schema WHERE name = 'told'", [])? {
        return Ok((0, rows, false));
    }
    let (told, round, is_over): (i64, i64, bool) = tx.one("SELECT rows, round, is_over FROM told", [])?;
    assert_eq!(rows, told);
    Ok((round, rows, is_over))
}

pub(crate) fn child(task: &child::Task) {
    let conn = other(Path::new(&task.args[0]));
    match task.role.as_str() {
        "updates" => loop {
            let id = child::listen();
            if id.is_empty() {
                return;
            }
            conn.execute("UPDATE t SET n = n + 1 WHERE id = ?1", [id]).unwrap();
            tell("updated");
        },
        "changes the size" => change_the_size(&conn, Path::new(&task.args[1]), Path::new(&task.args[2])),
        other => panic!("no role {other:?}"),
    }
    tell("done");
}

/// Until the file `enough` is there, but not less than so many rounds. The number of those that are committed is in the file
/// `told`.
fn change_the_size(conn: &Connection, enough: &Path, told: &Path) {
    conn.execute_batch(
        "BEGIN; CREATE TABLE told(rows, round, is_over); INSERT INTO told SELECT count(*), 0, 0 FROM t; COMMIT",
    )
    .unwrap();
    let mut round = 0;
    let mut is_over = false;
    while !is_over {
        round += 1;
        is_over = round >= ROUNDS && enough.exists();
        conn.execute_batch("BEGIN IMMEDIATE").unwrap();
        if round % 2 == 0 {
            conn.execute("DELETE FROM t WHERE id > ?1", [ROWS / 2 - round % ROUNDS])
                .unwrap();
        } else {
            let last: i64 = conn.query_row("SELECT max(id) FROM t", [], |row| row.get(0)).unwrap();
            for id in last + 1..=last + 1_000 {
                add_row(conn, id).unwrap();
            }
        }
        conn.execute("UPDATE t SET n = iif(id % 2, ?1, -?1) WHERE id <= 1000", [round])
            .unwrap();
        conn.execute(
            "UPDATE told SET rows = (SELECT count(*) FROM t), round = ?1, is_over = ?2",
            (round, is_over),
        )
        .unwrap();
        conn.execute_batch("COMMIT").unwrap();
        // In one step, so that no reader finds half of it.
        let unfinished = told.with_extension("unfinished");
        fs::write(&unfinished, round.to_string()).unwrap();
        fs::rename(&unfinished, told).unwrap();
        conn.execute_batch("PRAGMA incremental_vacuum").unwrap();
        let kind = ["PASSIVE", "FULL", "TRUNCATE"][round as usize % 3];
        // Readers that overlap keep it from its end for good.
        conn.busy_timeout(Duration::from_millis(20)).unwrap();
        conn.query_row(&format!("PRAGMA wal_checkpoint({kind})"), [], |_| Ok(()))
            .unwrap();
        conn.busy_timeout(PATIENCE).unwrap();
    }
}
