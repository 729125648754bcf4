//! The command line, and two environment variables.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::failure::Result;
use crate::replica::Replica;

pub(crate) const USAGE: &str = "\
Opens a database with larder, loads CSV files into it, then reads and writes for five seconds and says how fast
that was.

usage: cargo run --release --example quickstart [-- [--replicate URL [--take-over]] DATABASE [CSV...]]

  DATABASE   an SQLite file; made if it is not there. It is written to (a table `larder_quickstart` is added, and
             WAL is switched on), so give a copy of a database that you care for.
  CSV        files with a header line, a new table each, named like the file. Types are inferred; an empty field
             and `NA` are NULL. Build with `--features csv`.

  --replicate URL   copies each change to a folder, or to s3://bucket/path, while it works; a missing DATABASE is
                    restored from there first. Build with `--features replicate`, for S3 with `--features s3`.
  --take-over       from an owner of the replica that will never write to it again.

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
    pub(crate) replica: Option<Replica>,
    /// Duration of the load.
    pub(crate) duration: Duration,
    /// Number of users to generate.
    pub(crate) users: u32,
}

impl Arguments {
    /// `None` if help was requested.
    pub(crate) fn parse() -> Result<Option<Self>> {
        let Some((paths, replica)) = split(env::args_os().skip(1))? else {
            return Ok(None);
        };
        let mut paths = paths.into_iter();
        let database = paths.next().map(refuse_csv).transpose()?;
        if replica.is_some() && database.is_none() {
            return Err("--replicate needs a DATABASE that stays: see --help".into());
        }
        Ok(Some(Self {
            database,
            csv: paths.collect(),
            replica,
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

/// The paths, and the replica; `None` if help was requested. After `--` nothing is a flag.
fn split(mut arguments: impl Iterator<Item = OsString>) -> Result<Option<(Vec<PathBuf>, Option<Replica>)>> {
    let (mut paths, mut url, mut take_over, mut flags) = (Vec::new(), None, false, true);
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--help" | "-h") if flags => return Ok(None),
            Some("--") if flags => flags = false,
            Some("--take-over") if flags => take_over = true,
            Some("--replicate") if flags => {
                let given = arguments.next().and_then(|url| url.into_string().ok());
                url = Some(given.ok_or("--replicate needs a URL, or a folder: see --help")?);
            }
            Some(flag) if flags && flag.starts_with('-') => {
                return Err(format!("unknown flag {flag}: see --help; a file of that name is ./{flag}").into());
            }
            _ => paths.push(argument.into()),
        }
    }
    if take_over && url.is_none() {
        return Err("--take-over is for a replica: add --replicate URL".into());
    }
    Ok(Some((paths, url.map(|url| Replica { url, take_over }))))
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
