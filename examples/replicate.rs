//! A service whose database is copied to a replica, and another one that follows it. What an operator does with the
//! replica is in the command `larder replicate`: status, points, verify, restore.
//!
//! ```sh
//! cargo run --example replicate --features replicate -- run app/app.db /mnt/backup/app
//! ```
//!
//! `run` writes as fast as it can and prints its last acknowledged row each second. Kill it, delete its folder, and start
//! it again: it says who owns the replica, and `--take-over` goes on from there.
//!
//! # In three terminals
//!
//! ```sh
//! cargo run --example replicate --features replicate -- run one/app.db /tmp/replica     # the primary
//! cargo run --example replicate --features replicate -- follow two/app.db /tmp/replica  # reads what it wrote
//! cargo run --example replicate --features replicate -- follow three/app.db /tmp/replica
//! ```
//!
//! Kill the primary (or do not), type `promote` in the second terminal, and Enter. The follower becomes the primary and
//! writes, and the one in the third terminal follows it. If the first one still runs, its next write says who took over.

use std::env;
use std::error::Error;
use std::io::{BufRead, stdin};
use std::path::Path;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use larder::rusqlite::params;
use larder::{Follower, Migration, Migrations, Options, ReplicaOptions, Store};

const USAGE: &str = "usage: replicate run DATABASE REPLICA [--take-over] | follow DATABASE REPLICA";

const SECOND: Duration = Duration::from_secs(1);

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["run", database, replica] => run(Path::new(database), replica, false),
        ["run", database, replica, "--take-over"] => run(Path::new(database), replica, true),
        ["follow", database, replica] => follow(Path::new(database), replica),
        _ => Err(USAGE.into()),
    };
    if let Err(error) = done {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

fn run(database: &Path, replica: &str, take_over: bool) -> Result<(), Box<dyn Error>> {
    make_folder(database)?;
    let replica = ReplicaOptions::to(replica)
        .restore_if_missing(true)
        .take_over(take_over);
    let schema = "CREATE TABLE reading(n INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, value REAL NOT NULL) STRICT";
    let store = Options::new()
        .replicate_to(replica)
        .migrations(Migrations::new([Migration::new(1, "readings", schema)]))
        .open(database)?;
    let (last, at): (i64, i64) = store.read(|tx| {
        tx.query_row(
            "SELECT coalesce(max(n), 0), coalesce(max(at_ms), 0) FROM reading",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
    })?;
    println!("opened with {last} rows, the last of {at} ms");
    write(&store)
}

/// Writes until a write fails.
fn write(store: &Store) -> Result<(), Box<dyn Error>> {
    let mut printed = Instant::now();
    loop {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_millis() as i64;
        let n = store.write(move |tx| {
            tx.insert(
                "INSERT INTO reading(at_ms, value) VALUES (?1, abs(random()) / 1e19)",
                params![now],
            )
        })?;
        if printed.elapsed() >= SECOND {
            printed = Instant::now();
            let replica = store.stats().replica.ok_or("the store is replicated")?;
            println!(
                "acknowledged row {n} of {now} ms; {:?}, {} uploads, {:.1?} behind",
                replica.state, replica.uploads, replica.behind
            );
        }
    }
}

/// Prints the newest row each second, until `promote` is typed.
fn follow(database: &Path, replica: &str) -> Result<(), Box<dyn Error>> {
    make_folder(database)?;
    let follower = Follower::open(replica, database)?;
    let (tell, typed) = channel();
    // Without a terminal the thread ends at once, and the channel stays open.
    let _open = tell.clone();
    thread::spawn(move || {
        for line in stdin().lock().lines().map_while(Result::ok) {
            let _ = tell.send(line);
        }
    });
    loop {
        match typed.recv_timeout(SECOND) {
            Ok(line) if line.trim() == "promote" => break,
            Ok(line) => println!("{line}: type promote to make this the primary"),
            Err(_) => {}
        }
        let newest: i64 =
            follower.read(|tx| tx.query_row("SELECT coalesce(max(n), 0) FROM reading", [], |row| row.get(0)))?;
        println!("row {newest}; {}", follower.lag());
        if let Some(error) = follower.stopped() {
            return Err(error.into());
        }
    }
    let store = follower.promote(Options::new())?;
    println!("this is the primary now");
    write(&store)
}

fn make_folder(database: &Path) -> std::io::Result<()> {
    match database.parent() {
        Some(folder) => std::fs::create_dir_all(folder),
        None => Ok(()),
    }
}
