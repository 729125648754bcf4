//! The memory that a store takes. Each case is looked at in a process of its own, because an allocator keeps what earlier
//! measurements have left.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use larder::{Durability, Options, Store};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::Run;
use crate::data::{self, Data, INSERT, Random, SELECT};

/// The number of progress steps.
pub(crate) const STEPS: u64 = 1;

const TASKS: u64 = 1024;
/// Writes that are queued and not yet run.
const QUEUED: usize = 100_000;

/// Bytes that became resident.
pub(crate) struct Memory {
    pub(crate) name: String,
    /// Anonymous memory.
    pub(crate) own: f64,
    /// Pages of mapped files.
    pub(crate) mapped: f64,
}

pub(crate) fn measure(run: &Run, data: &Data) -> Vec<Memory> {
    run.step("memory");
    let mut found = Vec::new();
    for case in ["connection", "store", "tasks", "queued"] {
        let path = data.copy("memory.db");
        let program = std::env::current_exe().expect("this program has a path");
        let looked = Command::new(program)
            .args(["--memory", case])
            .arg(path)
            .arg(run.load.as_secs_f64().to_string())
            .output()
            .expect("this program can be started again");
        assert!(looked.status.success(), "{}", String::from_utf8_lossy(&looked.stderr));
        let answer: Vec<Value> = serde_json::from_slice(&looked.stdout).expect("the answer is JSON");
        found.extend(answer.into_iter().map(|one| Memory {
            name: one["name"].as_str().expect("a name").to_owned(),
            own: one["own"].as_f64().expect("a number"),
            mapped: one["mapped"].as_f64().expect("a number"),
        }));
    }
    found
}

/// Looks, if this process was started for it, and ends.
pub(crate) fn look_if_asked() {
    let args: Vec<_> = std::env::args().collect();
    let Some(at) = args.iter().position(|arg| arg == "--memory") else {
        return;
    };
    let [case, path, seconds] = &args[at + 1..] else {
        panic!("--memory CASE PATH SECONDS");
    };
    let (path, seconds) = (Path::new(path), seconds.parse().expect("a number"));
    let found = match case.as_str() {
        "connection" => connection(path),
        "store" => store(path),
        "tasks" => tasks(path, Duration::from_secs_f64(seconds)),
        _ => queued(path),
    };
    println!("{}", Value::from(found));
    std::process::exit(0);
}

fn connection(path: &Path) -> Vec<Value> {
    let before = Resident::now();
    let conn = data::connect(path, Durability::Normal);
    drop(data::read_in_transaction(&conn, 1));
    vec![
        Resident::now()
            .since(before)
            .named("a private connection that has read a row", 1),
    ]
}

fn store(path: &Path) -> Vec<Value> {
    let before = Resident::now();
    let store = Options::new().open(path).expect("the store opens");
    settle();
    let opened = Resident::now().since(before);
    read(&store, 1);
    settle();
    let has_read = Resident::now().since(before);
    vec![
        opened.named("an idle store", 1),
        has_read.named("an idle store that has read a row", 1),
    ]
}

fn tasks(path: &Path, time: Duration) -> Vec<Value> {
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(async { tokio::task::yield_now().await });
    let before = Resident::now();
    let store = Options::new().open(path).expect("the store opens");
    let clients = |writes: i64| {
        let end = Instant::now() + time;
        (0..TASKS)
            .map(|seed| runtime.spawn(client(store.clone(), seed, end, writes)))
            .collect::<Vec<_>>()
    };
    let mut found = Vec::new();
    for (writes, what) in [(0, "reads"), (1, "reads and a tenth writes")] {
        let running = Arc::new(AtomicBool::new(true));
        let sampler = {
            let running = Arc::clone(&running);
            thread::spawn(move || {
                let mut most = Resident::default();
                while running.load(Relaxed) {
                    most = most.most(Resident::now().since(before));
                    thread::sleep(Duration::from_millis(5));
                }
                most
            })
        };
        for client in clients(writes) {
            runtime.block_on(client).expect("no task panics");
        }
        running.store(false, Relaxed);
        let most = sampler.join().expect("the sampler does not panic");
        found.push(most.named(&format!("at most, under {TASKS} tasks: {what}"), 1));
    }
    settle();
    found.push(Resident::now().since(before).named("the same store, idle again", 1));
    found
}

async fn client(store: Store, seed: u64, end: Instant, writes: i64) {
    let mut random = Random::seeded(seed);
    while Instant::now() < end {
        let user = random.user();
        if random.below(10) < writes {
            let write = store.write_async(move |tx| tx.insert(INSERT, (user, "click")));
            write.await.expect("written");
        } else {
            let read = store.read_async(move |tx| tx.query_row(SELECT, [user], |row| row.get::<_, String>(0)));
            drop(read.await.expect("found"));
        }
    }
}

/// A write holds the writer while others queue behind it.
fn queued(path: &Path) -> Vec<Value> {
    let store = Options::new()
        .queue_capacity(QUEUED)
        .open(path)
        .expect("the store opens");
    let ((begun, has_begun), (go_on, may_go_on)) = (channel(), channel::<()>());
    let first = store.submit(move |_| {
        begun.send(()).expect("somebody waits");
        may_go_on.recv().expect("somebody sends");
        Ok(())
    });
    let first = first.expect("queued");
    has_begun.recv().expect("it begins");
    let mut pending = Vec::with_capacity(QUEUED);
    // Its pages are resident before they are counted.
    pending.extend((0..QUEUED).map(|_| None));
    let before = Resident::now();
    for (user, pending) in pending.iter_mut().enumerate() {
        let write = store.submit(move |tx| tx.insert(INSERT, (user as i64, "click")));
        *pending = Some(write.expect("queued"));
    }
    let found = Resident::now().since(before);
    go_on.send(()).expect("it waits");
    first.wait().expect("it ends");
    for write in pending.into_iter().flatten() {
        write.wait().expect("written");
    }
    vec![found.named("a queued write with a small closure", QUEUED)]
}

fn read(store: &Store, user: i64) {
    let name = store.read(|tx| tx.query_row(SELECT, [user], |row| row.get::<_, String>(0)));
    drop(name.expect("found"));
}

/// Gives what a store does after it was used the time to end.
fn settle() {
    thread::sleep(Duration::from_millis(300));
}

#[derive(Clone, Copy, Default)]
struct Resident {
    own: i64,
    mapped: i64,
}

impl Resident {
    fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<i64>().ok())
        };
        let bytes = |name| kib(name).unwrap_or_default() * 1024;
        Self {
            own: bytes("RssAnon:"),
            mapped: bytes("RssFile:") + bytes("RssShmem:"),
        }
    }

    fn since(self, before: Self) -> Self {
        Self {
            own: self.own - before.own,
            mapped: self.mapped - before.mapped,
        }
    }

    fn most(self, other: Self) -> Self {
        Self {
            own: self.own.max(other.own),
            mapped: self.mapped.max(other.mapped),
        }
    }

    fn named(self, name: &str, count: usize) -> Value {
        let each = |bytes: i64| bytes as f64 / count as f64;
        json!({ "name": name, "own": each(self.own), "mapped": each(self.mapped) })
    }
}
