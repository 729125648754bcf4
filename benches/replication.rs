//! What replication costs, and how fast it restores: `cargo bench --features replicate --bench replication`.
//!
//! Two stores are open, one with a replica in a folder and one without, and work in turns: a slice of the one, then a
//! slice of the other. Before each slice the store writes for an interval, so that a slice has as many uploads as
//! another has; after it the replica catches up, so that the other store has the machine to itself. The output is the
//! median of the ratios of neighbouring slices, with the lowest and the highest, and the same for the waits of writers.
//!
//! The same load follows on two stores without a replica, one of them beside a thread that makes as many synced files: what
//! the disk alone costs.
//!
//! With `LARDER_LITESTREAM`, the path of a `litestream`, the same load follows beside the daemon, on a store with
//! `Checkpoints::Left`.
//!
//! Then come writes with `Durability::Replicated`, beside how long an upload takes. `LARDER_BENCH_REPLICA` is the URL of
//! their replicas, for example that of a bucket (with the feature `s3`), where each row leaves one below a prefix of its own;
//! the default is a folder.
//!
//! An argument after `--` selects the rows with that text in their name. `LARDER_BENCH_SECS` is the time for each row
//! without the intervals between the slices (default 44), `LARDER_BENCH_DIR` the folder.

mod data;
mod measure;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use data::{Data, INSERT};
use larder::{Checkpoints, Durability, Options, ReplicaOptions, Store};
use measure::{Compared, Latencies, compare, median};

const ROUNDS: u32 = 11;
/// The default interval of a replica.
const INTERVAL: Duration = Duration::from_secs(1);
/// The files of a busy store with a replica, about: one before each checkpoint.
const FILE_PAUSE: Duration = Duration::from_millis(250);
const FILE_BYTES: usize = 64 << 10;
const LONG: Duration = Duration::from_secs(600);
const DURABILITIES: [(&str, Durability); 2] = [("NORMAL", Durability::Normal), ("FULL", Durability::Full)];
const LOADS: [(&str, Load); 3] = [
    ("1 caller", Load::Callers(1)),
    ("64 callers", Load::Callers(64)),
    ("1024 submitted writes in flight", Load::InFlight(1024)),
];

#[derive(Clone, Copy)]
enum Load {
    Callers(usize),
    InFlight(usize),
}

struct Run {
    slice: Duration,
    interval: Duration,
    wanted: Option<String>,
}

fn main() {
    // `cargo test --benches` runs this, too, only to check that it works.
    let quick = std::env::args().any(|arg| arg == "--test");
    let seconds = std::env::var("LARDER_BENCH_SECS").ok().and_then(|s| s.parse().ok());
    let seconds: f64 = if quick { 0.1 } else { seconds.unwrap_or(44.0) };
    let run = Run {
        slice: Duration::from_secs_f64(seconds / f64::from(ROUNDS) / 2.0),
        interval: if quick { Duration::ZERO } else { INTERVAL },
        wanted: std::env::args().skip(1).find(|arg| !arg.starts_with("--")),
    };
    let data = Data::make();
    println!("a cache line from core to core and back: {:.0?}", measure::line());
    println!(
        "{:<62} {:>11} {:>11}  ratio, lowest..highest of {ROUNDS}",
        "", "with", "without"
    );
    for (name, durability) in DURABILITIES {
        for (load_name, load) in LOADS {
            writes(&run, &data, &format!("{load_name}, {name}"), durability, load);
            floor(&run, &data, &format!("{load_name}, {name}"), durability, load);
        }
    }
    for (load_name, load) in LOADS {
        acknowledged(&run, &data, load_name, load);
    }
    restore(&run, &data);
    println!("a cache line from core to core and back: {:.0?}", measure::line());
}

/// The same load with replication and without, then with the daemon and without.
fn writes(run: &Run, data: &Data, load_name: &str, durability: Durability, load: Load) {
    let name = format!("{load_name}: replicated / not");
    let beside = format!("{load_name}: beside the daemon / not");
    if run.wants(&name) {
        let replica = data.folder().join("replica");
        let options = Options::new().durability(durability);
        let on = data.store("on.db", options.clone().replicate_to(path(&replica)));
        let caught_up = || flush(&on);
        caught_up();
        let before = files(&replica);
        let off = data.store("off.db", options);
        let written = pair(run, &name, load, (&on, caught_up), &off);
        cost(&before, &files(&replica), written);
        sealing(&on);
        drop((on, off));
        delete(&[&replica, &data.folder().join("on.db-replica")]);
    }
    if let Some(program) = std::env::var_os("LARDER_LITESTREAM").filter(|_| run.wants(&beside)) {
        let replica = data.folder().join("daemons");
        let options = Options::new().durability(durability);
        let on = data.store("daemon.db", options.clone().checkpoints(Checkpoints::Left));
        let daemon = Daemon::start(&program.into(), on.path(), &replica);
        // It has copied the database once.
        while files(&replica.join("ltx/9")).is_empty() {
            thread::sleep(INTERVAL / 10);
        }
        let off = data.store("off.db", options);
        // It copies each second.
        let caught_up = || thread::sleep(2 * run.interval);
        let before = files(&replica);
        let written = pair(run, &beside, load, (&on, caught_up), &off);
        cost(&before, &files(&replica), written);
        drop(on);
        drop(daemon);
        delete(&[&replica, &data.folder().join(".daemon.db-litestream")]);
    }
}

/// The same load with and without a thread that makes files, and does nothing with the store.
fn floor(run: &Run, data: &Data, load_name: &str, durability: Durability, load: Load) {
    let name = format!("{load_name}: beside synced files / not");
    if !run.wants(&name) {
        return;
    }
    let options = Options::new().durability(durability);
    let (on, off) = (data.store("on.db", options.clone()), data.store("off.db", options));
    let (spool, replica) = (data.folder().join("spool"), data.folder().join("replica"));
    for folder in [&spool, &replica] {
        fs::create_dir(folder).expect("it is a new folder");
    }
    let (makes, ended) = (AtomicBool::new(true), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                thread::sleep(FILE_PAUSE);
                if ended.load(Relaxed) {
                    break;
                }
                if makes.load(Relaxed) {
                    let name = format!("{number}.ltx");
                    for folder in [&spool, &replica] {
                        synced_file(folder, &name);
                    }
                    fs::remove_file(spool.join(name)).expect("it has just been made");
                }
            }
        });
        let (ours, theirs) = (RefCell::default(), RefCell::default());
        let found = compare(
            ROUNDS,
            || {
                makes.store(true, Relaxed);
                let rate = slice(run, load, &on, &ours);
                makes.store(false, Relaxed);
                thread::sleep(FILE_PAUSE.min(run.interval));
                rate
            },
            || slice(run, load, &off, &theirs),
        );
        ended.store(true, Relaxed);
        print_pair(&name, &found, &ours.into_inner(), &theirs.into_inner());
    });
    drop((on, off));
    delete(&[&spool, &replica]);
}

/// A file that is on the disk, with its name, as one of a replica is.
fn synced_file(folder: &Path, name: &str) {
    let unfinished = folder.join("unfinished");
    let mut file = fs::File::create(&unfinished).expect("the folder can be written");
    file.write_all(&[1; FILE_BYTES]).expect("the disk has room");
    file.sync_all().expect("it can be synced");
    fs::rename(&unfinished, folder.join(name)).expect("it is in the same folder");
    let folder = fs::File::open(folder).and_then(|folder| folder.sync_all());
    folder.expect("it can be synced");
}

/// Compares two stores under that load, and returns how many writes the first one has made. After a slice of it,
/// `caught_up` waits until what it has written is copied.
fn pair(run: &Run, name: &str, load: Load, (on, caught_up): (&Store, impl Fn()), off: &Store) -> u64 {
    let before = on.stats().committed_writes;
    let (ours, theirs) = (RefCell::default(), RefCell::default());
    let found = compare(
        ROUNDS,
        || {
            let rate = slice(run, load, on, &ours);
            caught_up();
            rate
        },
        || slice(run, load, off, &theirs),
    );
    print_pair(name, &found, &ours.into_inner(), &theirs.into_inner());
    on.stats().committed_writes - before
}

fn print_pair(name: &str, found: &Compared, ours: &[[f64; 3]], theirs: &[[f64; 3]]) {
    println!(
        "{name:<62} {:>9.0}/s {:>9.0}/s  {:.2}  {:.2}..{:.2}",
        found.ours, found.theirs, found.ratio, found.lowest, found.highest
    );
    for (at, what) in [(0, "p50"), (1, "p99"), (2, "worst")] {
        let of = |waits: &[[f64; 3]]| waits.iter().map(|waits| waits[at]).collect::<Vec<_>>();
        let (mut ours, mut theirs) = (of(ours), of(theirs));
        let mut ratios: Vec<_> = ours.iter().zip(&theirs).map(|(a, b)| a / b).collect();
        println!(
            "    wait of a write, {what} of a slice: {:.0} us and {:.0} us, {:.2}",
            median(&mut ours),
            median(&mut theirs),
            median(&mut ratios)
        );
    }
}

/// Writes per second. Adds the p50, the p99 and the longest of the waits, in microseconds.
fn slice(run: &Run, load: Load, store: &Store, waits: &RefCell<Vec<[f64; 3]>>) -> f64 {
    let make = |time| match load {
        Load::Callers(callers) => called(time, callers, store),
        Load::InFlight(depth) => submitted(time, depth, store),
    };
    make(run.interval);
    let (rate, found) = make(run.slice);
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let found = [found.at(0.5), found.at(0.99), found.longest].map(micros);
    waits.borrow_mut().push(found);
    rate
}

/// Threads that each wait for their write.
fn called(time: Duration, callers: usize, store: &Store) -> (f64, Latencies) {
    let (stop, all) = (AtomicBool::new(false), Mutex::new(Latencies::new()));
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..callers {
            scope.spawn(|| {
                let mut waits = Latencies::new();
                while !stop.load(Relaxed) {
                    let before = Instant::now();
                    store.write(|tx| tx.insert(INSERT, (1, "click"))).expect("written");
                    waits.add(before.elapsed());
                }
                let mut all = all.lock().expect("nobody panicked");
                *all = std::mem::replace(&mut *all, Latencies::new()).join(waits);
            });
        }
        thread::sleep(time);
        stop.store(true, Relaxed);
    });
    let waits = all.into_inner().expect("nobody panicked");
    (waits.count() as f64 / began.elapsed().as_secs_f64(), waits)
}

/// One thread, with so many writes submitted and not yet waited for. The wait of a write is until its thread looks.
fn submitted(time: Duration, depth: usize, store: &Store) -> (f64, Latencies) {
    let submit = || {
        (
            Instant::now(),
            store.submit(|tx| tx.insert(INSERT, (1, "click"))).expect("queued"),
        )
    };
    let (mut pending, mut waits) = (VecDeque::with_capacity(depth), Latencies::new());
    let began = Instant::now();
    while began.elapsed() < time {
        while pending.len() < depth {
            pending.push_back(submit());
        }
        for (since, write) in pending.drain(..depth / 4) {
            write.wait().expect("written");
            waits.add(since.elapsed());
        }
    }
    for (since, write) in pending {
        write.wait().expect("written");
        waits.add(since.elapsed());
    }
    (waits.count() as f64 / began.elapsed().as_secs_f64(), waits)
}

/// What the writes have cost: each file in a replica is a request that writes it.
fn cost(before: &BTreeMap<PathBuf, u64>, after: &BTreeMap<PathBuf, u64>, writes: u64) {
    let new: Vec<u64> = after
        .iter()
        .filter(|(path, _)| !before.contains_key(*path))
        .map(|(_, bytes)| *bytes)
        .collect();
    let millions = writes as f64 / 1e6;
    println!(
        "    {writes} writes made {} files of {:.1} MB: {:.0} files and {:.0} MB a million writes",
        new.len(),
        new.iter().sum::<u64>() as f64 / 1e6,
        new.len() as f64 / millions,
        new.iter().sum::<u64>() as f64 / 1e6 / millions
    );
}

/// The time that the writer itself gave to the replica.
fn sealing(store: &Store) {
    let time = store.stats().replica.expect("it is replicated").writer_time;
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    println!(
        "    the writer before a checkpoint: p50 {:.0} us, p99 {:.0} us, worst {:.0} us, {} times",
        micros(time.p50),
        micros(time.p99),
        micros(time.max),
        time.count
    );
}

/// Writes that wait for the replica.
fn acknowledged(run: &Run, data: &Data, load_name: &str, load: Load) {
    let name = format!("{load_name}, acknowledged in the replica");
    if !run.wants(&name) {
        return;
    }
    let folder = data.folder().join("replica");
    let url = match std::env::var("LARDER_BENCH_REPLICA") {
        Ok(url) => {
            let (prefix, query) = url.split_at(url.find('?').unwrap_or(url.len()));
            // A prefix of its own: a replica of an earlier run would be merged and deleted meanwhile.
            let began = SystemTime::UNIX_EPOCH.elapsed().expect("it is after 1970").as_millis();
            format!("{prefix}/{}-{began}{query}", load_name.replace(' ', "-"))
        }
        Err(_) => path(&folder).to_owned(),
    };
    let options = Options::new().durability(Durability::Replicated);
    let store = data.store("on.db", options.replicate_to(ReplicaOptions::to(url)));
    flush(&store);
    let waits = RefCell::default();
    let mut rates: Vec<_> = (0..ROUNDS).map(|_| slice(run, load, &store, &waits)).collect();
    let rate = median(&mut rates);
    println!(
        "{name:<62} {rate:>9.0}/s  {:.0}..{:.0} of {ROUNDS}",
        rates[0],
        rates[rates.len() - 1]
    );
    let upload = store.stats().replica.expect("it is replicated").upload_time;
    let of = |at: usize| {
        median(
            &mut waits
                .borrow()
                .iter()
                .map(|waits: &[f64; 3]| waits[at])
                .collect::<Vec<_>>(),
        )
    };
    println!(
        "    wait of a write, medians of slices: p50 {:.0} us, p99 {:.0} us, worst {:.0} us; an upload: p50 {:.0} us; {:.2}",
        of(0),
        of(1),
        of(2),
        upload.p50.as_secs_f64() * 1e6,
        of(0) / (upload.p50.as_secs_f64() * 1e6)
    );
    drop(store);
    delete(&[&folder, &data.folder().join("on.db-replica")]);
}

/// Of a full file and the changes of some seconds.
fn restore(run: &Run, data: &Data) {
    let name = "restore from a folder";
    if !run.wants(name) {
        return;
    }
    let replica = data.folder().join("replica");
    let store = data.store("on.db", Options::new().replicate_to(path(&replica)));
    called(3 * run.interval.max(run.slice), 64, &store);
    flush(&store);
    drop(store);
    let to = data.folder().join("restored.db");
    for (check, what) in [(false, "without integrity_check"), (true, "with integrity_check")] {
        let mut rates = Vec::new();
        for _ in 0..ROUNDS {
            let report = Store::restore_from(path(&replica))
                .integrity_check(check)
                .to(&to)
                .expect("it is restored");
            rates.push((report.pages * report.page_size) as f64 / 1e6 / report.duration.as_secs_f64());
            fs::remove_file(&to).expect("it is there");
            delete(&[&data.folder().join("restored.db-replica")]);
        }
        let rate = median(&mut rates);
        println!(
            "{name}, {what:<40} {rate:>9.0} MB/s  {:.0}..{:.0} of {ROUNDS}",
            rates[0],
            rates[rates.len() - 1]
        );
    }
    delete(&[&replica]);
}

/// Waits until the replica has everything.
fn flush(store: &Store) {
    let replica = store.replica().expect("it is replicated");
    replica.flush(LONG).expect("the folder can be written");
}

/// Every file of a replica, or of one of its folders, and its size.
fn files(replica: &Path) -> BTreeMap<PathBuf, u64> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![replica.to_owned()]);
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => folders.push(path),
                Ok(metadata) if path.extension().is_some_and(|end| end == "ltx") => {
                    found.insert(path, metadata.len());
                }
                _ => {}
            }
        }
    }
    found
}

fn delete(folders: &[&Path]) {
    for folder in folders {
        let _ = fs::remove_dir_all(folder);
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("the folder has a plain path")
}

/// The daemon of Litestream, until it is dropped.
struct Daemon(Child);

impl Daemon {
    fn start(program: &PathBuf, database: &Path, replica: &Path) -> Self {
        let mut command = Command::new(program);
        command
            .arg("replicate")
            .arg(database)
            .arg(format!("file://{}", replica.display()));
        let started = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self(started.expect("LARDER_LITESTREAM is a litestream"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Run {
    fn wants(&self, name: &str) -> bool {
        self.wanted.as_ref().is_none_or(|wanted| name.contains(wanted))
    }
}
