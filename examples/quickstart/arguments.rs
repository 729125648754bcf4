//! The command line, and two environment variables.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::failure::Result;

pub(crate) const USAGE: &str = "\
Opens a database with larder, loads CSV files into it, then reads and writes for five seconds and says how fast
that was.

usage: cargo run --release --example quickstart [-- DATABASE [CSV...]]

  DATABASE   an SQLite file; made if it is not there. It is written to (a table `larder_quickstart` is added, and
             WAL is switched on), so give a copy of a database that you care for.
  CSV        files with a header line, a new table each, named like the file. Types are inferred; an empty field
             and `NA` are NULL.

With no arguments: made-up users and posts, in a temporary folder that is removed afterwards.

environment:
  LARDER_QUICKSTART_SECS    how long to read and write, in seconds (5)
  LARDER_QUICKSTART_USERS   how many users to make up; posts are ten times as many (50000)
";

const SECS: &str = "LARDER_QUICKSTART_SECS";
const USERS: &str = "LARDER_QUICKSTART_USERS";

pub(crate) struct Arguments {
    /// `None`: a temporary database with generated rows.
    pub(crate) database: Option<PathBuf>,
    pub(crate) csv: Vec<PathBuf>,
    /// Duration of the load.
    pub(crate) duration: Duration,
    /// Number of users to generate.
    pub(crate) users: u32,
}

impl Arguments {
    /// `None` if help was requested.
    pub(crate) fn parse() -> Result<Option<Self>> {
        let Some(paths) = paths(env::args_os().skip(1))? else {
            return Ok(None);
        };
        let mut paths = paths.into_iter();
        Ok(Some(Self {
            database: paths.next().map(refuse_csv).transpose()?,
            csv: paths.collect(),
            duration: duration()?,
            users: users()?,
        }))
    }
}

/// Catches the most likely mistake: CSV files without a database before them.
fn refuse_csv(database: PathBuf) -> Result<PathBuf> {
    let extension = database.extension();
    if extension.is_some_and(|extension| extension.eq_ignore_ascii_case("csv")) {
        let path = database.display();
        return Err(format!("the first argument is the DATABASE, and {path} looks like a CSV file: see --help").into());
    }
    Ok(database)
}

/// The arguments that are not flags, or `None` if help was requested. After `--` nothing is a flag.
fn paths(arguments: impl Iterator<Item = OsString>) -> Result<Option<Vec<PathBuf>>> {
    let mut paths = Vec::new();
    let mut flags = true;
    for argument in arguments {
        match argument.to_str() {
            Some("--help" | "-h") if flags => return Ok(None),
            Some("--") if flags => flags = false,
            Some(flag) if flags && flag.starts_with('-') => {
                return Err(format!("unknown flag {flag}: see --help; a file of that name is ./{flag}").into());
            }
            _ => paths.push(argument.into()),
        }
    }
    Ok(Some(paths))
}

fn duration() -> Result<Duration> {
    let wanted = "give a number of seconds from 0.01 to 300";
    let secs = variable(SECS, wanted, 5.0)?;
    // No longer, because every latency is kept in memory until the end.
    if (0.01..=300.0).contains(&secs) {
        return Ok(Duration::from_secs_f64(secs));
    }
    Err(format!("{SECS} is {secs}: {wanted}").into())
}

fn users() -> Result<u32> {
    let wanted = "give a whole number from 1 to 10000000";
    let users = variable(USERS, wanted, 50_000)?;
    if (1..=10_000_000).contains(&users) {
        return Ok(users);
    }
    Err(format!("{USERS} is {users}: {wanted}").into())
}

fn variable<T: std::str::FromStr>(name: &str, wanted: &str, default: T) -> Result<T> {
    let Some(value) = env::var_os(name) else {
        return Ok(default);
    };
    let value = value.to_string_lossy();
    value
        .parse()
        .map_err(|_| format!("{name} is `{value}`: {wanted}").into())
}
