//! A service whose database is copied to a replica, and what an operator does with that replica.
//!
//! ```sh
//! cargo run --example replicate --features replicate -- run app/app.db /mnt/backup/app
//! cargo run --example replicate --features replicate -- points /mnt/backup/app
//! cargo run --example replicate --features replicate -- verify /mnt/backup/app
//! cargo run --example replicate --features replicate -- restore /mnt/backup/app restored.db [SECONDS_AGO]
//! ```
//!
//! `run` writes as fast as it can and prints its last acknowledged row each second. Kill it, delete its folder, and start
//! it again: it says who owns the replica, and `--take-over` goes on from there.

use std::env;
use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use larder::rusqlite::params;
use larder::{Migration, Migrations, Options, Replica, ReplicaOptions, Store};

const USAGE: &str = "usage: replicate run DATABASE REPLICA [--take-over] | points REPLICA | verify REPLICA | \
                     restore REPLICA DATABASE [SECONDS_AGO]";

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["run", database, replica] => run(Path::new(database), replica, false),
        ["run", database, replica, "--take-over"] => run(Path::new(database), replica, true),
        ["points", replica] => points(replica),
        ["verify", replica] => verify(replica),
        ["restore", replica, database] => restore(replica, database, None),
        ["restore", replica, database, ago] => restore(replica, database, Some(ago)),
        _ => Err(USAGE.into()),
    };
    if let Err(error) = done {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

fn run(database: &Path, replica: &str, take_over: bool) -> Result<(), Box<dyn Error>> {
    if let Some(folder) = database.parent() {
        std::fs::create_dir_all(folder)?;
    }
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
    let mut printed = Instant::now();
    loop {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_millis() as i64;
        let n = store.write(move |tx| {
            tx.insert(
                "INSERT INTO reading(at_ms, value) VALUES (?1, abs(random()) / 1e19)",
                params![now],
            )
        })?;
        if printed.elapsed() >= Duration::from_secs(1) {
            printed = Instant::now();
            let replica = store.stats().replica.ok_or("the store is replicated")?;
            println!(
                "acknowledged row {n} of {now} ms; {:?}, {} uploads, {:.1?} behind",
                replica.state, replica.uploads, replica.behind
            );
        }
    }
}

fn points(replica: &str) -> Result<(), Box<dyn Error>> {
    for span in Replica::open(replica)?.points()? {
        println!("{span}");
    }
    Ok(())
}

fn verify(replica: &str) -> Result<(), Box<dyn Error>> {
    let report = Replica::open(replica)?.verify().restore(true).run()?;
    println!("{report}");
    if report.is_ok() {
        Ok(())
    } else {
        Err("do not rely on this replica".into())
    }
}

fn restore(replica: &str, database: &str, ago: Option<&str>) -> Result<(), Box<dyn Error>> {
    let mut restore = Store::restore_from(replica);
    if let Some(seconds) = ago {
        restore = restore.at(SystemTime::now() - Duration::from_secs(seconds.parse()?));
    }
    println!("{}", restore.to(database)?);
    Ok(())
}
