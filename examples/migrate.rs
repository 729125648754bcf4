//! A migration tool in a few lines, to build into your own program. The command `larder migrate` does more; see its guide.
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

use std::error::Error;
use std::process::ExitCode;

use larder::{DryRun, Migrations, Options, Store};

const USAGE: &str = "usage: migrate DATABASE FOLDER status | up [VERSION] | down [VERSION] | dry-run | new NAME";

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match run(&args) {
        Ok(said) => println!("{said}"),
        Err(error) => {
            eprintln!("migrate: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn run(args: &[&str]) -> Result<String> {
    let open = |create| open(args[0], args[1], create);
    Ok(match *args {
        [_, folder, "new", name] => format!("created {}", Migrations::create(folder, name)?.display()),
        [_, _, "status"] => open(false)?.migrations()?.to_string(),
        [_, _, "up"] => open(true)?.migrate()?.to_string(),
        [_, _, "up", version] => {
            let version = number(version)?;
            open(true)?.migrate_up_to(version)?.to_string()
        }
        [_, _, "down"] => down(&open(false)?)?,
        [_, _, "down", version] => {
            let version = number(version)?;
            open(false)?.migrate_down_to(version)?.to_string()
        }
        [_, _, "dry-run"] => {
            let report = open(false)?.migrate_dry_run(DryRun::Backup)?;
            format!("{report}\n(on a copy; the database is as it was)")
        }
        _ => return Err(USAGE.into()),
    })
}

/// The tool inspects before it migrates, so opening the store applies nothing.
fn open(database: &str, folder: &str, create: bool) -> Result<Store> {
    if !create && !std::path::Path::new(database).exists() {
        return Err(format!("there is no {database}: `up` creates it").into());
    }
    let migrations = Migrations::folder(folder)?.at_open(false);
    Ok(Options::new().create(create).migrations(migrations).open(database)?)
}

/// Undoes the newest migration.
fn down(store: &Store) -> Result<String> {
    let before = match store.migrations()?.applied.as_slice() {
        [] => return Err("no migration is applied: there is nothing to undo".into()),
        [_] => 0,
        [.., before, _] => before.version,
    };
    Ok(store.migrate_down_to(before)?.to_string())
}

fn number(version: &str) -> Result<u64> {
    let wrong = |_| format!("{version} is not a version: {USAGE}");
    Ok(version.parse().map_err(wrong)?)
}
