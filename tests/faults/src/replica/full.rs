//! A store whose storage is away fills the disk with what waits to be uploaded: a small file system, real, in a namespace
//! of its own. The spool gives way before the database does. Once the storage is back and there is room, the replica
//! gets everything.
//!
//! Each state is a process, since a file system is mounted for it. Where that is not allowed, the part is skipped.

use std::fs;
use std::mem;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use larder::{Access, Options, Outcome, Store};
use object_store::memory::InMemory;

use crate::Arguments;
use crate::cases::{Bench, Suite, Summary, seed};
use crate::child::{self, Child, tell};
use crate::entries::{self, Job, clean};
use crate::network::{Network, Weather, replica_in};
use crate::replicated::{self, restore};

const DATABASE: &str = "app.db";

/// A child without an answer for this long hangs.
const PATIENCE: Duration = Duration::from_secs(25);

const MOUNT: &str = "mount -t tmpfs -o size=\"$1\" none \"$2\" && shift 2 && exec \"$@\"";

/// Writes that fill the disk at the latest.
const WRITES: i64 = 4000;

/// Writes in a row for which there is no room. The spool gives way meanwhile.
const FAILURES: u32 = 30;

/// Files that a spool keeps which gives way: the last that was uploaded, and the one that is being uploaded.
const KEPT: usize = 2;

pub fn run(arguments: &Arguments, states: u64) -> Summary {
    let suite = Suite::new("replica full", arguments).expect("a folder for temporary files");
    let units = match arguments.number_of_case() {
        Some(case) => case..case + 1,
        None => arguments.from..states,
    };
    if !can_mount() {
        println!("replica full: skipped: this machine allows no mounts in a namespace of their own");
        return Summary::default();
    }
    suite.run(arguments.threads, units, |unit, bench| {
        let case = unit.to_string();
        let result = bench.attempt(&case, || state(bench, seed(arguments.seed, unit, 71)));
        bench.note(&case, result, None);
    })
}

fn can_mount() -> bool {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c", MOUNT, "sh", "1m"])
        .arg(folder.path())
        .arg("true");
    command.output().is_ok_and(|output| output.status.success())
}

fn state(bench: &Bench<'_>, seed: u64) -> Result<(), String> {
    let mut rng = Rng::with_seed(seed);
    let folder = bench.folder.join("disk");
    clean(&folder).map_err(|error| error.to_string())?;
    let size = format!("{}k", rng.u32(600..4000));
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", MOUNT, "sh", &size]).arg(&folder);
    command.arg(child::program().map_err(|error| error.to_string())?);
    let arguments = [folder.display().to_string(), rng.u64(..).to_string()];
    let child = Child::start_by(command, "replica-full", &arguments).map_err(|error| error.to_string())?;
    match child.line(PATIENCE) {
        Ok(line) if line == "ok" => Ok(()),
        Ok(line) => Err(line),
        Err(true) => Err(format!("the process crashed: {}", child.rest().1)),
        Err(false) => Err("hangs".into()),
    }
}

pub fn child(arguments: &[String]) {
    let [folder, seed] = arguments else {
        panic!("replica-full: wrong arguments")
    };
    let rng = Rng::with_seed(seed.parse().expect("a number"));
    match fill(Path::new(folder), rng) {
        Ok(()) => tell("ok"),
        Err(problem) => tell(&problem.replace('\n', " / ")),
    }
}

fn fill(folder: &Path, mut rng: Rng) -> Result<(), String> {
    replicated::listen();
    let path = folder.join(DATABASE);
    let objects: Arc<InMemory> = Arc::default();
    let network = Network::set("full", &objects, rng.fork());
    let replica = replicated::Replicated {
        interval: Duration::ZERO,
        ..replicated::Replicated::any(folder.join("replica"), &mut rng)
    };
    let options = Options::new()
        .replicate_to(replica.at("memory:full"))
        .access(if rng.bool() { Access::Exclusive } else { Access::Shared })
        .checkpoint_pages([1, 8, 1000][rng.usize(0..3)])
        .migrations(entries::migrations())
        .readers(2);
    let store = options.open(&path).map_err(|error| format!("opening: {error}"))?;
    let mut made = 0;
    let filled = fill_and_recover(&store, &network, folder, &mut made, &mut rng);
    if filled.is_err() {
        // Closing would wait for the storage.
        mem::forget(store);
        return filled;
    }
    let report = store.close().map_err(|error| format!("closing: {error}"))?;
    if !report.wal_truncated || report.replicated != Some(true) {
        return Err(format!("closing: {report}"));
    }
    let contents = fs::read(&path).map_err(|error| error.to_string())?;
    let to = std::env::temp_dir().join(format!("larder-faults-full-{}.db", std::process::id()));
    restore(&replica_in(&objects), None, &to, |_, restored| {
        let conn = replicated::open(restored)?;
        let found = entries::look(&conn)?.len() as i64;
        if found != made {
            return Err(format!("{made} commits were made, and the replica has {found}"));
        }
        match fs::read(restored) {
            Ok(restored) if restored == contents => Ok(()),
            _ => Err("the replica of the closed database is another one".into()),
        }
    })?;
    network.judge()
}

fn fill_and_recover(
    store: &Store,
    network: &Network,
    folder: &Path,
    made: &mut i64,
    rng: &mut Rng,
) -> Result<(), String> {
    let ballast = folder.join("ballast");
    for _ in 0..rng.usize(0..4) {
        write(store, made, rng)?;
    }
    flush(store)?;
    // The room for the whole database, once it has grown.
    fs::write(&ballast, vec![0; free(folder)? * 2 / 3]).map_err(|error| format!("the ballast: {error}"))?;
    network.turns(Weather {
        is_down: true,
        ..Weather::default()
    });
    fill_up(store, made, rng)?;
    let kept = fs::read_dir(folder.join("app.db-replica/0")).map_or(0, Iterator::count);
    if kept > KEPT {
        return Err(format!(
            "the database has no room, and {kept} files are kept for its replica"
        ));
    }
    fs::remove_file(&ballast).map_err(|error| error.to_string())?;
    network.turns(Weather::default());
    write(store, made, rng).map_err(|problem| format!("there is room again: {problem}"))?;
    flush(store)
}

/// Writes until there is no room, not even what the spool had.
fn fill_up(store: &Store, made: &mut i64, rng: &mut Rng) -> Result<(), String> {
    let mut failed = 0;
    for _ in 0..WRITES {
        match write(store, made, rng) {
            Ok(()) => failed = 0,
            Err(problem) if store.poisoned().is_some() => return Err(format!("the store is poisoned after {problem}")),
            Err(_) if failed == FAILURES => return Ok(()),
            Err(_) => {
                failed += 1;
                thread::sleep(Duration::from_millis(5));
            }
        }
    }
    Err("the disk was never full: the part has lost its aim".into())
}

fn write(store: &Store, made: &mut i64, rng: &mut Rng) -> Result<(), String> {
    let job = Job {
        parts: vec![rng.usize(0..12_000), rng.usize(0..400)],
        ..Job::plain((1, *made + 1))
    };
    match store.write(job.closure()) {
        Ok(n) if n == *made + 1 => {
            *made = n;
            Ok(())
        }
        Ok(n) => Err(format!("a write is commit {n}, and it is the {}th", *made + 1)),
        Err(error) if [Outcome::RolledBack, Outcome::NotStarted].contains(&error.outcome()) => {
            Err(format!("a write: {error}"))
        }
        Err(error) => Err(format!("a write, whose outcome is {:?}: {error}", error.outcome())),
    }
}

fn flush(store: &Store) -> Result<(), String> {
    let flushed = store.replica().and_then(|replica| replica.flush(PATIENCE / 2));
    flushed.map(drop).map_err(|error| format!("flushing: {error}"))
}

fn free(folder: &Path) -> Result<usize, String> {
    let output = Command::new("df").args(["--output=avail", "-B1"]).arg(folder).output();
    let output = output.map_err(|error| format!("df: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let free = said.lines().last().and_then(|line| line.trim().parse().ok());
    free.ok_or_else(|| format!("df says {said}"))
}
