//! A process closes descriptors of its own database while other processes use the file, and is killed.
//!
//! Closing any descriptor of a file drops the process's POSIX locks on it. The suite verifies that larder does not
//! depend on SQLite's locks alone, and closes no descriptor itself. One round:
//!
//! | service | activity |
//! |---|---|
//! | `shared`, `exclusive` | a store writes with `Durability::Full`, reads and checkpoints, and between the writes opens and closes its database file. Its watchdog is off: it would stop the writes |
//! | `index` | the same with its `-shm`, or both, while no lock on the `-shm` is held |
//! | `plain` | a plain connection writes, in a process that opened and closed stores on the same file before |
//!
//! Meanwhile a process without larder opens the database, reads and closes it in a loop: if it took itself for the last
//! connection, it would delete the log or rebuild its index. Then the service is killed. No acknowledged write is lost
//! or incomplete, each read is consistent, and no process gets access beside an exclusive store.
//!
//! In `index` no read, write or checkpoint is in progress while a descriptor is closed. Its locks on the `-shm` would
//! be lost until its end, and no other lock can replace them: another process may then move a read mark, and the next
//! checkpoint overwrites pages that the read still needs. Without that precaution 1 to 2 of 2,000 rounds had a torn
//! read. The watchdog's alert is for that case, and the guide to operations describes it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use larder::rusqlite::{Connection, TransactionBehavior};
use larder::{Access, Durability, Options, Store};

use super::others::transact;
use super::{CLIENTS, DATABASE, Journal, PATIENCE, is_locked, options};
use crate::Arguments;
use crate::cases::{Suite, Summary, seed};
use crate::child::{Child, listen, tell};
use crate::entries::{End, Job, clean, keep, look};

/// Writes that are acknowledged before the others start.
const BEFORE: usize = 3;

/// How often the other process opens the database in one round.
const LOOKS: u32 = 6;

const CLIENT: i64 = 0;

const SERVICES: [&str; 4] = ["shared", "index", "exclusive", "plain"];

pub fn run(arguments: &Arguments) -> Summary {
    let suite = Suite::new("descriptors", arguments).expect("a folder for temporary files");
    let rounds = match arguments.number_of_case() {
        Some(case) => case..case + 1,
        None => arguments.from..arguments.states.unwrap_or(1000),
    };
    suite.run(arguments.threads, rounds, |round, bench| {
        let case = round.to_string();
        let result = bench.attempt(&case, || {
            clean(&bench.folder).map_err(|error| error.to_string())?;
            live(&bench.folder.join(DATABASE), seed(arguments.seed, round, 37))
        });
        let kept = |problem| format!("{problem}{}", keep(&bench.folder, "descriptors", &case));
        bench.note(&case, result.map_err(kept), None);
    })
}

fn start(role: &str, path: &Path, rng: &mut Rng) -> Result<Child, String> {
    let arguments = [role.to_owned(), path.display().to_string(), rng.u64(..).to_string()];
    Child::start("descriptors", &arguments).map_err(|error| error.to_string())
}

fn live(path: &Path, seed: u64) -> Result<(), String> {
    let mut rng = Rng::with_seed(seed);
    let role = SERVICES[rng.usize(0..SERVICES.len())];
    let journal = Journal::default();
    let wrong = |problem: String| format!("{role}: {problem}");
    let mut service = start(role, path, &mut rng)?;
    for _ in 0..BEFORE {
        hear(&journal, &service).map_err(wrong)?;
    }
    let looker = if role == "exclusive" { "intruder" } else { "looker" };
    let looker = start(looker, path, &mut rng)?;
    loop {
        match looker.line(PATIENCE) {
            Ok(line) if line == "look" => hear(&journal, &service).map_err(wrong)?,
            Ok(line) => return Err(format!("{role}: the other process: {line}")),
            Err(true) => break,
            Err(false) => return Err("the other process hangs".into()),
        }
    }
    let (_, status) = looker.rest();
    if !status.success() {
        return Err(format!("{role}: the other process: {status}"));
    }
    // A write acknowledged after the last open may be the one that is lost.
    for _ in 0..rng.u32(1..20) {
        hear(&journal, &service).map_err(wrong)?;
    }
    thread::sleep(Duration::from_micros(1 << rng.u32(0..12)).mul_f64(rng.f64()));
    service.kill();
    journal.note_killed(CLIENT);
    let (rest, _) = service.rest();
    for line in rest {
        note(&journal, &line).map_err(wrong)?;
    }
    journal.compare_file(path).map_err(wrong)
}

fn hear(journal: &Journal, service: &Child) -> Result<(), String> {
    match service.line(PATIENCE) {
        Ok(line) => note(journal, &line),
        Err(true) => Err("the service has ended".into()),
        Err(false) => Err("the service hangs".into()),
    }
}

fn note(journal: &Journal, line: &str) -> Result<(), String> {
    match journal.hear(line)? {
        Some(_) => Ok(()),
        None => Err(line.to_owned()),
    }
}

// ---- the children ----

pub fn child(arguments: &[String]) {
    let [role, path, seed] = arguments else {
        panic!("descriptors: wrong arguments")
    };
    let path = PathBuf::from(path);
    let mut rng = Rng::with_seed(seed.parse().expect("a number"));
    let ended = match role.as_str() {
        "shared" => serve(&path, Access::Shared, &[""], &mut rng),
        "index" => serve(&path, Access::Shared, &["", "-shm"], &mut rng),
        "exclusive" => serve(&path, Access::Exclusive, &[""], &mut rng),
        "plain" => write_beside_stores(&path, &mut rng),
        "looker" => look_often(&path, false),
        "intruder" => look_often(&path, true),
        _ => Err("no such role".to_owned()),
    };
    if let Err(problem) = ended {
        tell(&format!("! {}", problem.replace('\n', " / ")));
        listen();
    }
}

fn any_commit(k: i64, rng: &mut Rng) -> Job {
    let mut job = Job::any((CLIENT, k), rng);
    job.end = End::Commit;
    job
}

fn acknowledged(k: i64, n: i64) {
    tell(&format!("+ {CLIENT} {k} {n}"));
}

fn open(access: Access, path: &Path, without_checkpoints: bool, rng: &mut Rng) -> Result<Store, String> {
    let mut options: Options = options(access, rng);
    if without_checkpoints {
        options = options.checkpoint_pages(1_000_000).wal_limit(1 << 40);
    }
    let opened = options
        .durability(Durability::Full)
        .monitor_interval(Duration::ZERO)
        .open(path);
    opened.map_err(|error| format!("opening: {error:?}"))
}

/// `files` are the suffixes of the files that it closes.
fn serve(path: &Path, access: Access, files: &[&str], rng: &mut Rng) -> Result<(), String> {
    let closes_index = files.contains(&"-shm");
    let store = open(access, path, closes_index, rng)?;
    let reader = store.clone();
    let reading = Arc::new(RwLock::new(()));
    let closing = Arc::clone(&reading);
    thread::spawn(move || {
        loop {
            let under_way = reading.read().unwrap_or_else(PoisonError::into_inner);
            let read = reader.read(|tx| Ok(look(tx)));
            drop(under_way);
            if let Err(problem) = read.unwrap_or_else(|error| Err(format!("{error:?}"))) {
                tell(&format!("! a read: {}", problem.replace('\n', " / ")));
            }
        }
    });
    for k in 1.. {
        if k == 1 || rng.u32(0..3) == 0 {
            let _nobody_reads = closes_index.then(|| closing.write().unwrap_or_else(PoisonError::into_inner));
            close_descriptors(path, files, rng);
        }
        let job = any_commit(k, rng);
        let n = store
            .write(job.closure())
            .map_err(|error| format!("{job:?}: {error:?}"))?;
        acknowledged(k, n);
    }
    Ok(())
}

/// Opens and closes files, like a service that reads its own database, or copies its folder.
fn close_descriptors(path: &Path, files: &[&str], rng: &mut Rng) {
    let first = rng.usize(0..files.len());
    for suffix in &files[first..] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        drop(File::open(name));
    }
}

fn write_beside_stores(path: &Path, rng: &mut Rng) -> Result<(), String> {
    let in_words = |error: larder::Error| format!("{error:?}");
    open(Access::Shared, path, false, rng)?.close().map_err(in_words)?;
    let plain = Connection::open(path).map_err(|error| error.to_string())?;
    plain
        .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0")
        .map_err(|error| error.to_string())?;
    let mut k = 0;
    let mut write = |rng: &mut Rng| {
        k += 1;
        let job = any_commit(k, rng);
        let n = transact(&plain, &job, TransactionBehavior::Immediate, Duration::ZERO).map_err(in_words)?;
        acknowledged(k, n);
        Ok::<_, String>(())
    };
    write(rng)?;
    for _ in 0..3 {
        open(Access::Shared, path, false, rng)?.close().map_err(in_words)?;
    }
    loop {
        write(rng)?;
    }
}

fn look_often(path: &Path, is_locked_out: bool) -> Result<(), String> {
    for _ in 0..LOOKS {
        let conn = Connection::open(path).map_err(|error| error.to_string())?;
        conn.busy_timeout(Duration::from_millis(u64::from(!is_locked_out) * 5))
            .map_err(|error| error.to_string())?;
        let seen = conn.query_row("SELECT count(*) FROM entry", [], |row| row.get::<_, i64>(0));
        match seen {
            Ok(_) if is_locked_out => return Err("it came in beside an exclusive store".into()),
            Ok(_) => {}
            Err(error) if is_locked(&error) => {}
            Err(error) => return Err(format!("looking: {error}")),
        }
        conn.close().map_err(|(_, error)| format!("closing: {error}"))?;
        tell("look");
    }
    Ok(())
}

const _: () = assert!(CLIENT < CLIENTS);
