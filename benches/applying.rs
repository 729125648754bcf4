//! Two ways to get a primary's pages into a file that is being read, beside each other: `sqlite_dbpage` in a transaction,
//! as a follower does it, and two files by turns.
//!
//! `cargo bench --bench applying`
//!
//! Four times a second some pages of a database of 50 MB are written again, while one thread reads rows by primary key.
//!
//! - **`sqlite_dbpage`:** one transaction in WAL, `synchronous=NORMAL`, then a passive checkpoint. The reader keeps its
//!   connection, and a snapshot for 5 ms, as larder's readers do together.
//! - **Two files:** the pages go into the file that is not read, which is synced; then readers open that file, and once
//!   the last one has left the other file, it gets the same pages. Nobody writes to a file while it is read, so the reader
//!   opens it as `immutable`, without locks.
//!
//! For each: the time until readers see the pages, the time of the whole turn, and the reader's rate beside the other
//! side's in the neighbouring slice. `LARDER_BENCH_SECS` is the time for each row (default 22).

mod data;
mod measure;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use data::{Data, Random, SELECT};
use larder::Durability;
use larder::rusqlite::{Connection, OpenFlags, params};
use measure::{compare, median};

const ROUNDS: u32 = 11;
const TURN: Duration = Duration::from_millis(250);
const SNAPSHOT: Duration = Duration::from_millis(5);
/// What a second of 1,000 small writes changes, and a bulk load.
const PAGES: [usize; 2] = [400, 4000];

/// A page's number and its bytes.
type Page = (u32, Vec<u8>);

/// The times of some turns, in milliseconds.
#[derive(Default)]
struct Times {
    seen: Vec<f64>,
    whole: Vec<f64>,
}

fn main() {
    let quick = std::env::args().any(|arg| arg == "--test");
    let seconds = std::env::var("LARDER_BENCH_SECS").ok().and_then(|s| s.parse().ok());
    let time = Duration::from_secs_f64(if quick { 0.1 } else { seconds.unwrap_or(22.0) });
    let data = Data::make();
    for count in PAGES {
        let one = data.copy("one.db");
        let files = Turns::new([data.copy("left.db"), data.copy("right.db")]);
        let pages = pages(&one, count);
        let (mut in_one, mut in_two) = (Times::default(), Times::default());
        let slice = time / ROUNDS / 2;
        let c = compare(
            ROUNDS,
            || by_dbpage(slice, &one, &pages, &mut in_one),
            || by_turns(slice, &files, &pages, &mut in_two),
        );
        println!(
            "{count} pages: sqlite_dbpage {:.0} reads/s, two files {:.0} reads/s: {:.2}, {:.2}..{:.2} of {ROUNDS}",
            c.ours, c.theirs, c.ratio, c.lowest, c.highest
        );
        in_one.print("sqlite_dbpage");
        in_two.print("two files");
    }
}

impl Times {
    fn add(&mut self, seen: Duration, whole: Duration) {
        self.seen.push(seen.as_secs_f64() * 1e3);
        self.whole.push(whole.as_secs_f64() * 1e3);
    }

    fn print(&mut self, name: &str) {
        let turns = self.seen.len();
        let (seen, whole) = (median(&mut self.seen), median(&mut self.whole));
        let last = turns - 1;
        println!(
            "    {name:<14} seen after {seen:.1} ms (worst {:.1}), whole turn {whole:.1} ms (worst {:.1}), {turns} turns",
            self.seen[last], self.whole[last]
        );
    }
}

/// Pages over the whole file, but not the first, which SQLite changes itself.
fn pages(path: &Path, count: usize) -> Vec<Page> {
    let file = File::open(path).expect("the database");
    let all = file.metadata().expect("its size").len() / 4096;
    let step = all / count as u64;
    (1..=count as u64)
        .map(|n| {
            let mut page = vec![0; 4096];
            let index = n * step - 1;
            file.read_exact_at(&mut page, index * 4096).expect("a page");
            (index as u32 + 1, page)
        })
        .filter(|(number, _)| *number > 1)
        .collect()
}

/// Reads until `apply` has run each turn of the slice. Returns the reads a second.
fn beside(slice: Duration, mut apply: impl FnMut(), mut read: impl FnMut(&mut Random) + Send) -> f64 {
    let done = AtomicBool::new(false);
    let began = Instant::now();
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut ids, mut reads) = (Random::new(), 0_u32);
            while !done.load(SeqCst) {
                read(&mut ids);
                reads += 1;
            }
            f64::from(reads) / began.elapsed().as_secs_f64()
        });
        let mut next = began;
        while began.elapsed() < slice {
            apply();
            next += TURN;
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        done.store(true, SeqCst);
        reader.join().expect("the reader")
    })
}

fn select(conn: &Connection, ids: &mut Random) {
    let mut statement = conn.prepare_cached(SELECT).expect("the statement");
    let name: String = statement.query_row([ids.user()], |row| row.get(0)).expect("a row");
    std::hint::black_box(name);
}

fn by_dbpage(slice: Duration, path: &Path, pages: &[Page], times: &mut Times) -> f64 {
    let reader = data::connect(path, Durability::Normal);
    let writer = data::connect(path, Durability::Normal);
    let apply = || {
        let began = Instant::now();
        writer.execute_batch("BEGIN IMMEDIATE").expect("begun");
        let sql = "INSERT INTO sqlite_dbpage(pgno, data) VALUES (?1, ?2)";
        let mut insert = writer
            .prepare_cached(sql)
            .expect("the build has SQLITE_ENABLE_DBPAGE_VTAB");
        for (number, page) in pages {
            insert.execute(params![number, page]).expect("a page");
        }
        writer.execute_batch("COMMIT").expect("committed");
        let seen = began.elapsed();
        let checkpoint = "PRAGMA wal_checkpoint(PASSIVE)";
        writer.query_row(checkpoint, [], |_| Ok(())).expect("a checkpoint");
        times.add(seen, began.elapsed());
    };
    let mut begun = None;
    beside(slice, apply, move |ids| {
        let since = begun.get_or_insert_with(|| {
            reader.execute_batch("BEGIN").expect("a snapshot");
            Instant::now()
        });
        select(&reader, ids);
        if since.elapsed() > SNAPSHOT {
            reader.execute_batch("COMMIT").expect("it ends");
            begun = None;
        }
    })
}

/// Two copies of a database, of which one is read.
struct Turns {
    paths: [PathBuf; 2],
    /// Which one is read from now on.
    read: AtomicUsize,
    /// The lock of a file is held while it is read: by each read, where a follower would count its readers.
    in_use: [Mutex<()>; 2],
}

impl Turns {
    fn new(paths: [PathBuf; 2]) -> Self {
        Self {
            paths,
            read: AtomicUsize::new(0),
            in_use: Default::default(),
        }
    }

    fn write(&self, file: usize, pages: &[Page]) {
        let file = File::options()
            .write(true)
            .open(&self.paths[file])
            .expect("the database");
        for (number, page) in pages {
            file.write_all_at(page, u64::from(number - 1) * 4096).expect("a page");
        }
        file.sync_data().expect("it is synced");
    }

    fn open(&self, file: usize) -> Connection {
        let uri = format!("file:{}?immutable=1", self.paths[file].display());
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(uri, flags).expect("the database opens");
        conn.execute_batch("PRAGMA mmap_size = 268435456")
            .expect("it is mapped");
        conn
    }
}

fn by_turns(slice: Duration, files: &Turns, pages: &[Page], times: &mut Times) -> f64 {
    let apply = || {
        let began = Instant::now();
        let (old, new) = match files.read.load(SeqCst) {
            0 => (0, 1),
            _ => (1, 0),
        };
        files.write(new, pages);
        files.read.store(new, SeqCst);
        let seen = began.elapsed();
        drop(files.in_use[old].lock());
        files.write(old, pages);
        times.add(seen, began.elapsed());
    };
    let mut open: Option<(usize, Connection)> = None;
    beside(slice, apply, move |ids| {
        let wanted = files.read.load(SeqCst);
        let _in_use = files.in_use[wanted].lock();
        let conn = match open.take() {
            Some((file, conn)) if file == wanted => conn,
            _ => files.open(wanted),
        };
        select(&conn, ids);
        open = Some((wanted, conn));
    })
}
