//! A migration tool for a folder, to copy into your own project.
//!
//! ```sh
//! cargo run --example migrate -- app.db migrations status
//! cargo run --example migrate -- app.db migrations up             # all that are pending
//! cargo run --example migrate -- app.db migrations up 20260401120000
//! cargo run --example migrate -- app.db migrations down           # the newest one
//! cargo run --example migrate -- app.db migrations down 20260401120000   # all above this version; 0 for all
//! cargo run --example migrate -- app.db migrations dry-run        # on a copy of the file
//! cargo run --example migrate -- app.db migrations new add_users
//! ```
//!
//! The folder may hold migrations for Dbmate or Goose, or plain numbered files. Applied migrations are recorded in
//! Dbmate's table, so `dbmate status` shows the same.

use std::error::Error;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use larder::{DryRun, MigrationReport, Migrations, Options, Store};

const USAGE: &str = "usage: migrate DATABASE FOLDER status | up [VERSION] | down [VERSION] | dry-run | new NAME";

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("migrate: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[&str]) -> Result<()> {
    let [database, folder, command @ ..] = args else {
        return Err(USAGE.into());
    };
    if let ["new", name] = command {
        return new(Path::new(folder), name);
    }
    let version = match command {
        ["up" | "down", version] => Some(number(version)?),
        ["status" | "up" | "down" | "dry-run"] => None,
        _ => return Err(USAGE.into()),
    };
    let store = open(database, folder, command[0])?;
    match (command[0], version) {
        ("status", _) => status(&store)?,
        ("up", None) => tell(store.migrate()?),
        ("up", Some(version)) => tell(store.migrate_to(up_to(&store, version)?)?),
        ("down", None) => tell(store.migrate_to(version_before(&store)?)?),
        ("down", Some(version)) => tell(store.migrate_to(down_to(&store, version)?)?),
        _ => {
            tell(store.migrate_dry_run(DryRun::Backup)?);
            println!("(on a copy; the database is as it was)");
        }
    }
    store.close()?;
    Ok(())
}

/// The tool inspects before it migrates, so opening the store applies nothing.
fn open(database: &str, folder: &str, command: &str) -> Result<Store> {
    if !Path::new(database).exists() && command != "up" {
        return Err(format!("there is no {database}: `up` creates it").into());
    }
    let migrations = Migrations::folder(folder)?.at_open(false);
    Ok(Options::new().migrations(migrations).open(database)?)
}

fn status(store: &Store) -> Result<()> {
    let status = store.migrations()?;
    for migration in &status.applied {
        let when = migration.applied_at.as_deref().unwrap_or("by another tool");
        let took = migration
            .duration
            .map(|took| format!(", took {took:.1?}"))
            .unwrap_or_default();
        println!("[X] {} {} ({when}{took})", migration.version, migration.name);
    }
    for migration in &status.pending {
        println!("[ ] {} {}", migration.version, migration.name);
    }
    println!("\nApplied: {}\nPending: {}", status.applied.len(), status.pending.len());
    Ok(())
}

fn tell(report: MigrationReport) {
    for step in &report.steps {
        println!(
            "{} {} {} in {:.1?}",
            step.direction, step.version, step.name, step.duration
        );
    }
    if report.steps.is_empty() {
        println!("nothing to do");
    }
}

fn number(version: &str) -> Result<u64> {
    version
        .parse()
        .map_err(|_| format!("{version} is not a version: {USAGE}").into())
}

fn newest(store: &Store) -> Result<u64> {
    Ok(store
        .migrations()?
        .applied
        .last()
        .map_or(0, |migration| migration.version))
}

/// `up` never migrates down, and `down` never up: both are often typed by hand.
fn up_to(store: &Store, version: u64) -> Result<u64> {
    let newest = newest(store)?;
    if version < newest {
        return Err(format!("{newest} is applied already, which is above {version}: use down").into());
    }
    Ok(version)
}

fn down_to(store: &Store, version: u64) -> Result<u64> {
    let newest = newest(store)?;
    if version > newest {
        return Err(format!("the newest version applied is {newest}, below {version}: use up").into());
    }
    Ok(version)
}

fn version_before(store: &Store) -> Result<u64> {
    match store.migrations()?.applied.as_slice() {
        [] => Err("no migration is applied: there is nothing to undo".into()),
        [_] => Ok(0),
        [.., before, _] => Ok(before.version),
    }
}

/// Creates an empty migration in Dbmate's format, named after the time, to the second.
fn new(folder: &Path, name: &str) -> Result<()> {
    let fit = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || !name.chars().all(fit) {
        return Err(format!("{name:?} is no name for a file: use letters, digits, _ and -").into());
    }
    fs::create_dir_all(folder)?;
    loop {
        let version = unused_version(folder)?;
        let path = folder.join(format!("{version}_{name}.sql"));
        let mut file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        file.write_all(b"-- migrate:up\n\n\n-- migrate:down\n\n")?;
        let same = versions(folder)?.into_iter().filter(|other| *other == version);
        if same.count() == 1 {
            println!("created {}", path.display());
            return Ok(());
        }
        // Another process has made one of this second, too. It may do the same now.
        fs::remove_file(&path)?;
    }
}

/// The first second from now on that no migration of the folder has.
fn unused_version(folder: &Path) -> Result<String> {
    let taken = versions(folder)?;
    let clock = larder::rusqlite::Connection::open_in_memory()?;
    let mut statement = clock.prepare("SELECT strftime('%Y%m%d%H%M%S', 'now', ?1 || ' seconds')")?;
    for seconds in 0.. {
        let version = statement.query_row([seconds], |row| row.get(0))?;
        if !taken.contains(&version) {
            return Ok(version);
        }
    }
    Err("every second has a migration".into())
}

/// The digits at the start of each name.
fn versions(folder: &Path) -> Result<Vec<String>> {
    let version = |entry: io::Result<fs::DirEntry>| {
        let name = entry?.file_name().to_string_lossy().into_owned();
        Ok(name.chars().take_while(char::is_ascii_digit).collect())
    };
    let versions: io::Result<_> = fs::read_dir(folder)?.map(version).collect();
    Ok(versions?)
}
