//! How cost grows with the rows of a table: `cargo bench --bench growth -- 100000 1000000 10000000`.
//!
//! To be run by hand: ten million rows take some minutes, and 6 GB in `LARDER_BENCH_DIR` (default: the target folder).
//! Without numbers it only checks that it works, on a few rows.
//!
//! Each number of rows is a table with an index, which is filled again. A read and a write choose their row at random,
//! so their pages come from everywhere; the write changes a column that the index has, so the number of rows stays. Beside
//! a store stands a private connection on a copy of the file, in turns, as in `ratios`. `LARDER_BENCH_SECS` is the time
//! for each pair (default 6). A plot is written to `target/larder-report/growth.svg`.

#[path = "../data/mod.rs"]
mod data;
#[path = "../measure/mod.rs"]
mod measure;
#[path = "../plot/mod.rs"]
mod plot;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use data::Random;
use larder::rusqlite::{self, Connection, params};
use larder::{Durability, Options, Store};
use measure::{Compared, compare, median, repeat, threads};
use plot::Plot;
use tempfile::TempDir;

const ROUNDS: u32 = 11;
const FEW: [i64; 2] = [1_000, 10_000];
const WRITERS: usize = 64;

const SCHEMA: &str = "
    CREATE TABLE posts(id INTEGER PRIMARY KEY, user_id INTEGER NOT NULL, likes INTEGER NOT NULL, body TEXT NOT NULL) STRICT;
    CREATE TABLE events(id INTEGER PRIMARY KEY, user_id INTEGER NOT NULL, kind TEXT NOT NULL) STRICT;
";
const SELECT: &str = "SELECT body FROM posts WHERE id = ?1";
const UPDATE: &str = "UPDATE posts SET likes = likes + 1 WHERE id = ?1";
const INSERT: &str = "INSERT INTO events(user_id, kind) VALUES (1, 'click')";

/// One operation, and the seconds that one takes by the number of rows.
struct Line {
    name: &'static str,
    seconds: Vec<(i64, f64)>,
}

fn main() {
    let numbers = std::env::args().filter_map(|arg| arg.parse().ok());
    let sizes: Vec<i64> = numbers.collect();
    let quick = sizes.is_empty();
    let sizes = if quick { FEW.to_vec() } else { sizes };
    let seconds = std::env::var("LARDER_BENCH_SECS").ok().and_then(|s| s.parse().ok());
    let seconds: f64 = if quick { 0.1 } else { seconds.unwrap_or(6.0) };
    let slice = Duration::from_secs_f64(seconds / f64::from(ROUNDS) / 2.0);
    println!("| operation | rows | larder | private connection | ratio (lowest to highest) |\n|---|---|---|---|---|");
    let mut lines = Vec::new();
    for rows in sizes {
        measure_size(rows, slice, &mut lines);
    }
    plot(&lines);
}

fn measure_size(rows: i64, slice: Duration, lines: &mut Vec<Line>) {
    let table = Table::make(rows);
    let mut record = |name: &'static str, found: &Compared| {
        print(name, rows, found);
        let line = match lines.iter().position(|line| line.name == name) {
            Some(at) => &mut lines[at],
            None => {
                lines.push(Line {
                    name,
                    seconds: Vec::new(),
                });
                lines.last_mut().expect("it was pushed")
            }
        };
        line.seconds.push((rows, 1.0 / found.ours));
    };
    let (ours, theirs) = (table.copy("store.db"), table.copy("floor.db"));
    record(
        "open, and read a row",
        &compare(ROUNDS, || 1.0 / open_store(&ours), || 1.0 / open_connection(&theirs)),
    );
    let store = Options::new().open(&ours).expect("the store opens");
    let conn = data::connect(&theirs, Durability::Normal);
    let [mut one, mut other] = [Random::new(), Random::new()];
    record(
        "read of a row",
        &compare(
            ROUNDS,
            || repeat(slice, || drop(read(&store, one.below(rows) + 1))),
            || repeat(slice, || drop(read_privately(&conn, other.below(rows) + 1))),
        ),
    );
    record(
        "lone write at the end of a table",
        &compare(
            ROUNDS,
            || repeat(slice, || write(&store, INSERT, None)),
            || repeat(slice, || write_privately(&conn, INSERT, None)),
        ),
    );
    record(
        "lone write of a row and its index",
        &compare(
            ROUNDS,
            || repeat(slice, || write(&store, UPDATE, Some(one.below(rows) + 1))),
            || repeat(slice, || write_privately(&conn, UPDATE, Some(other.below(rows) + 1))),
        ),
    );
    let conn = Mutex::new(conn);
    let start = |thread| Random::seeded(thread as u64);
    record(
        "the same by 64 writers, each write",
        &compare(
            ROUNDS,
            || {
                threads(slice, WRITERS, start, |ids| {
                    write(&store, UPDATE, Some(ids.below(rows) + 1))
                })
            },
            || {
                threads(slice, WRITERS, start, |ids| {
                    let conn = conn.lock().expect("nobody panicked");
                    write_privately(&conn, UPDATE, Some(ids.below(rows) + 1));
                })
            },
        ),
    );
    drop(conn);
    // A checked backup beside a plain copy of the same file.
    record(
        "backup, checked",
        &compare(3, || 1.0 / back_up(&store, &table), || 1.0 / copy_file(&table)),
    );
    store.close().expect("the store closes");
}

struct Table {
    folder: TempDir,
}

impl Table {
    fn make(rows: i64) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("larder-growth")
            .tempdir_in(data::parent())
            .expect("LARDER_BENCH_DIR can be written");
        let table = Self { folder };
        let conn = Connection::open(table.path("base.db")).expect("the file opens");
        let fast = "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF";
        conn.execute_batch(fast)
            .and_then(|()| conn.execute_batch(SCHEMA))
            .and_then(|()| fill(&conn, rows))
            .and_then(|()| conn.execute_batch("CREATE INDEX posts_user ON posts(user_id, likes); ANALYZE"))
            .and_then(|()| conn.execute_batch("PRAGMA journal_mode = WAL"))
            .expect("the rows are made");
        conn.close().expect("the file closes");
        let bytes = fs::metadata(table.path("base.db")).map_or(0, |file| file.len());
        eprintln!("{rows} rows, {} MiB", bytes >> 20);
        table
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A copy of the rows that is on the disk, as in `data`.
    fn copy(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::copy(self.path("base.db"), &path)
            .and_then(|_| File::open(&path)?.sync_all())
            .expect("the rows can be copied");
        path
    }
}

fn fill(conn: &Connection, rows: i64) -> rusqlite::Result<()> {
    let mut random = Random::new();
    conn.execute_batch("BEGIN")?;
    let mut posts = conn.prepare("INSERT INTO posts VALUES (?1, ?2, ?3, ?4)")?;
    for id in 1..=rows {
        let (user, likes) = (random.below(rows / 10), random.below(100));
        posts.execute(params![
            id,
            user,
            likes,
            format!("{id}: {:0>100}", random.below(1 << 40))
        ])?;
    }
    conn.execute_batch("COMMIT")
}

/// Seconds until a row of the opened store is read.
fn open_store(path: &Path) -> f64 {
    let began = Instant::now();
    let store = Options::new().open(path).expect("the store opens");
    drop(read(&store, 1));
    let took = began.elapsed().as_secs_f64();
    store.close().expect("the store closes");
    took
}

fn open_connection(path: &Path) -> f64 {
    let began = Instant::now();
    let conn = data::connect(path, Durability::Normal);
    drop(read_privately(&conn, 1));
    began.elapsed().as_secs_f64()
}

fn read(store: &Store, id: i64) -> String {
    let body = store.read(|tx| tx.query_row(SELECT, [id], |row| row.get(0)));
    body.expect("found")
}

fn read_privately(conn: &Connection, id: i64) -> String {
    let run = || -> rusqlite::Result<_> {
        conn.prepare_cached("BEGIN")?.execute([])?;
        let body = conn.prepare_cached(SELECT)?.query_row([id], |row| row.get(0))?;
        conn.prepare_cached("COMMIT")?.execute([])?;
        Ok(body)
    };
    run().expect("found")
}

fn write(store: &Store, sql: &'static str, id: Option<i64>) {
    let written = store.write(move |tx| match id {
        Some(id) => tx.execute(sql, [id]),
        None => tx.execute(sql, []),
    });
    assert_eq!(written.expect("written"), 1);
}

fn write_privately(conn: &Connection, sql: &str, id: Option<i64>) {
    let run = || -> rusqlite::Result<_> {
        conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let mut statement = conn.prepare_cached(sql)?;
        let written = match id {
            Some(id) => statement.execute([id])?,
            None => statement.execute([])?,
        };
        conn.prepare_cached("COMMIT")?.execute([])?;
        Ok(written)
    };
    assert_eq!(run().expect("written"), 1);
}

/// Seconds of a backup, which is checked and compared with the database.
fn back_up(store: &Store, table: &Table) -> f64 {
    let began = Instant::now();
    let to = table.path("backup.db");
    store.backup(&to).overwrite(true).run().expect("the backup is made");
    let took = began.elapsed().as_secs_f64();
    fs::remove_file(to).expect("the backup can be deleted");
    took
}

/// Seconds of a plain copy that is synced, of a file that no store has open.
fn copy_file(table: &Table) -> f64 {
    let began = Instant::now();
    let to = table.copy("copy.db");
    let took = began.elapsed().as_secs_f64();
    fs::remove_file(to).expect("the copy can be deleted");
    took
}

fn print(name: &str, rows: i64, found: &Compared) {
    println!(
        "| {name} | {rows} | {} | {} | {:.2} ({:.2} to {:.2}) |",
        time(1.0 / found.ours),
        time(1.0 / found.theirs),
        found.ratio,
        found.lowest,
        found.highest
    );
}

fn time(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 1e-3 => format!("{:.1} us", seconds * 1e6),
        seconds if seconds < 1.0 => format!("{:.1} ms", seconds * 1e3),
        seconds => format!("{seconds:.1} s"),
    }
}

/// How many times as long an operation takes as with the fewest rows.
fn plot(lines: &[Line]) {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("larder-report");
    fs::create_dir_all(&folder).expect("the target folder can be written");
    let path = folder.join("growth.svg");
    let times = |line: &Line| {
        let first = line.seconds[0].1;
        let point = |(rows, seconds): &(i64, f64)| ((*rows as f64).log10(), seconds / first);
        line.seconds.iter().map(point).collect::<Vec<_>>()
    };
    let mut left: Vec<_> = lines.iter().map(|line| (line.seconds[0].0 as f64).log10()).collect();
    Plot {
        title: "time of an operation, as many times that with the fewest rows",
        axes: ("rows of the table", "times as long"),
        left: median(&mut left),
        ticks: 3,
        label: |power| format!("{:.0}", 10_f64.powf(*power)),
        lines: lines.iter().map(|line| (line.name, times(line))).collect(),
    }
    .draw(&path);
    eprintln!("plot: {}", path.display());
}
