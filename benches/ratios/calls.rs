//! System calls of a read, counted by `strace`, which starts this program once more for it.
//!
//! Each side is counted twice, with few reads and with many. The difference is what reads cost, without opening,
//! warming up and closing. With an empty log SQLite asks the system for the size of the file in each transaction.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use larder::{Durability, Options, Store};

use crate::data::{self, Data, Random, SELECT};
use crate::larder_write;

const FEW: u64 = 2_000;
const MANY: u64 = 22_000;

/// Prints the calls of each side, by threads that read.
pub(crate) fn print(data: &Data) {
    if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
        println!("system calls a read: skipped, there is no strace");
        return;
    }
    let path = data.copy("calls.db");
    for log in ["empty", "written"] {
        for threads in [1, 2] {
            for side in ["private", "larder"] {
                let name = format!("system calls a read, {threads} threads, {log} log, {side}");
                match calls(side, threads, log, &path) {
                    Some(calls) => println!("{name:<62} {}", listed(&calls)),
                    None => println!("{name}: skipped, strace cannot trace here"),
                }
            }
        }
    }
}

/// The sum, and the calls by name.
fn listed(calls: &BTreeMap<String, f64>) -> String {
    let all: f64 = calls.values().sum();
    let mut names: Vec<_> = calls.iter().filter(|(_, calls)| **calls >= 0.01).collect();
    names.sort_by(|one, other| other.1.total_cmp(one.1));
    let names: Vec<_> = names.iter().map(|(name, calls)| format!("{name} {calls:.2}")).collect();
    format!("{all:>11.2}  {}", names.join(", "))
}

/// Calls of a read by name.
fn calls(side: &str, threads: u64, log: &str, path: &Path) -> Option<BTreeMap<String, f64>> {
    let [few, many] = [FEW, MANY].map(|reads| traced(side, threads, log, reads, path));
    let (few, many) = (few?, many?);
    let reads = ((MANY - FEW) * threads) as f64;
    let each = |(name, calls): (String, u64)| {
        let calls = calls as f64 - few.get(&name).copied().unwrap_or_default() as f64;
        (name, calls.max(0.0) / reads)
    };
    Some(many.into_iter().map(each).collect())
}

/// Calls of a process that makes this many reads on each thread.
fn traced(side: &str, threads: u64, log: &str, reads: u64, path: &Path) -> Option<BTreeMap<String, u64>> {
    let program = std::env::current_exe().expect("this program has a path");
    let counted = Command::new("strace")
        .args(["-f", "-c", "-U", "calls,name"])
        .arg(program)
        .args(["--reads", side, log, &threads.to_string(), &reads.to_string()])
        .arg(path)
        .output()
        .ok()?;
    if !counted.status.success() {
        return None;
    }
    let text = String::from_utf8_lossy(&counted.stderr).into_owned();
    let call = |line: &str| {
        let (calls, name) = line.trim().split_once(char::is_whitespace)?;
        let name = name.trim();
        (name != "total").then_some((name.to_owned(), calls.parse().ok()?))
    };
    Some(text.lines().filter_map(call).collect())
}

/// Reads, if this process is one that is traced, and ends.
pub(crate) fn make_reads_if_asked() {
    let args: Vec<_> = std::env::args().collect();
    let Some(at) = args.iter().position(|arg| arg == "--reads") else {
        return;
    };
    let [side, log, threads, reads, path] = &args[at + 1..] else {
        panic!("--reads SIDE LOG THREADS READS PATH");
    };
    let (threads, reads): (u64, u64) = (threads.parse().expect("a number"), reads.parse().expect("a number"));
    let path = Path::new(path);
    if side == "larder" {
        let store = Options::new().open(path).expect("the store opens");
        if log == "written" {
            larder_write(&store);
        }
        let read = |store: &Store, user| store.read(|tx| tx.query_row(SELECT, [user], |row| row.get::<_, String>(0)));
        make(
            threads,
            reads,
            || store.clone(),
            |store, user| drop(read(store, user).expect("found")),
        );
    } else {
        let connect = || data::connect(path, Durability::Normal);
        // Stays open, so that the log does.
        let writer = connect();
        if log == "written" {
            data::write_in_transaction(&writer);
        }
        make(threads, reads, connect, |conn, user| {
            drop(data::read_in_transaction(conn, user))
        });
    }
    std::process::exit(0);
}

fn make<T>(threads: u64, reads: u64, start: impl Fn() -> T + Sync, read: impl Fn(&T, i64) + Sync) {
    let (start, read) = (&start, &read);
    std::thread::scope(|scope| {
        for number in 0..threads {
            scope.spawn(move || {
                let (state, mut ids) = (start(), Random::seeded(number));
                for _ in 0..reads {
                    read(&state, ids.user());
                }
            });
        }
    });
}
