//! Opens a store on your data and measures it on this machine.
//!
//! ```text
//! cargo run --release --example quickstart [-- [--replicate URL [--take-over]] DATABASE [CSV...]]
//! ```
//!
//! It opens a store, loads CSV files into it, then reads and writes for five seconds and prints the results. Where to
//! look:
//!
//! - `made_up.rs`: many rows, by a bulk job; `csv_file.rs`: CSV files, with the feature `csv` (without it, `no_csv_file.rs`);
//! - `load.rs`: threads that share one store, each with its own reads or writes;
//! - `lookups.rs`: several queries in one snapshot, here about the schema;
//! - `replica.rs`: a replica, from which a lost machine is restored;
//! - `arguments.rs`, `failure.rs`, `report.rs`: everything else.

mod arguments;
#[cfg_attr(not(feature = "csv"), path = "no_csv_file.rs")]
mod csv_file;
mod failure;
mod load;
mod lookups;
mod made_up;
mod progress;
mod random;
mod replica;
mod report;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::thread::available_parallelism;
use std::time::Duration;

use larder::{Options, Store};
use tempfile::TempDir;

use crate::arguments::{Arguments, USAGE};
use crate::failure::{Context, Result};
use crate::lookups::Lookups;
use crate::made_up::Ingested;
use crate::replica::Replica;

fn main() -> ExitCode {
    match run(&mut std::io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quickstart: {}", failure::one_line(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(out: &mut impl Write) -> Result<()> {
    let Some(arguments) = Arguments::parse()? else {
        return Ok(out.write_all(USAGE.as_bytes())?);
    };
    let duration = arguments.duration;
    let Some(database) = &arguments.database else {
        // The folder is deleted, with the database in it, when this function returns, also with an error.
        let folder = temporary_folder()?;
        let database = folder.path().join("quickstart.db");
        return run_on((&database, None), duration, out, |store| {
            made_up::ingest(store, arguments.users)
        });
    };
    // Before the database is touched: most mistakes show here.
    csv_file::check(&arguments.csv)?;
    let opened = (database.as_path(), arguments.replica.as_ref());
    run_on(opened, duration, out, |store| csv_file::ingest(store, &arguments.csv))
}

fn run_on(
    (database, replica): (&Path, Option<&Replica>),
    duration: Duration,
    out: &mut impl Write,
    ingest: impl FnOnce(&Store) -> Result<Vec<Ingested>>,
) -> Result<()> {
    let mut store = open(database, replica)?;
    report::opened(out, &store)?;
    replica::tell(&store)?;
    let ingested = ingest(&store)?;
    if !ingested.is_empty() {
        report::ingested(out, &ingested)?;
        // The load gets its own store, so that the statistics cover the load alone.
        store.close()?;
        store = open(database, replica)?;
    }
    serve(&store, duration, out)
}

fn serve(store: &Store, duration: Duration, out: &mut impl Write) -> Result<()> {
    let lookups = Lookups::find(store)?;
    report::lookups(out, &lookups)?;
    let load = load::run(store, &lookups, threads_that_read(), duration)?;
    report::load(out, &load)?;
    let closed = store.close()?;
    report::closed(out, store.path(), &closed)
}

/// larder's defaults, with one exception: a connection for each reading thread, so that none waits for another.
fn open(database: &Path, replica: Option<&Replica>) -> Result<Store> {
    let options = Options::new().readers(threads_that_read() as u32);
    let options = match replica {
        Some(replica) => replica::replicate(options, replica)?,
        None => options,
    };
    Ok(options.open(database)?)
}

fn temporary_folder() -> Result<TempDir> {
    let folder = tempfile::Builder::new().prefix("larder-quickstart-").tempdir();
    folder.context(|| "cannot make a temporary folder".into())
}

fn threads_that_read() -> usize {
    cores().clamp(2, 1024)
}

fn cores() -> usize {
    available_parallelism().map_or(1, |cores| cores.get())
}
