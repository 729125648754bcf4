//! Rows a second to PostgreSQL: `cargo bench --features postgres --bench postgres`.
//!
//! A server is started as the tests start theirs, with its defaults but `fsync=off`. The ways take turns, each in a process
//! of its own, into a database of its own:
//!
//! - larder's export: its stages and the whole;
//! - a bare `COPY FROM` of the same rows by `psql \copy`, from a file in binary form and one in text form;
//! - `pgloader`, from the same SQLite file;
//! - the recipe `sqlite3 app.db .dump | psql`, on a tenth of the rows.
//!
//! The output has the medians of all rounds with the lowest and the highest, the ratios of neighbouring turns, and the
//! greatest peak memory of a process (`VmHWM`). Without a server, pgloader or sqlite3 it says `skipped:`.
//!
//! `LARDER_BENCH_ROWS` (default 1,000,000) or `LARDER_BENCH_GB`, the size of the SQLite file; `LARDER_BENCH_ROUNDS` (default
//! 5), `LARDER_BENCH_DIR` (default: the target folder), `LARDER_BENCH_WAYS` (names with `,` between: `larder`, `binary`,
//! `text`, `pgloader`, `recipe`). Whether memory grows with the rows:
//!
//! ```sh
//! LARDER_BENCH_GB=2 LARDER_BENCH_ROUNDS=1 LARDER_BENCH_WAYS=larder \
//!     cargo bench --features postgres --bench postgres
//! ```
//!
//! It takes three times that size on the disk: the file, the tables with their indexes, the log of the server.

mod child;
#[path = "../../tests/it/support/ports.rs"]
mod ports;
#[path = "../../tests/it/support/postgres.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod postgres;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use larder::rusqlite::Connection;
use larder::{ExportStage, Store};

use crate::child::skipped;
use crate::postgres::Postgres;

type Failure = Box<dyn std::error::Error>;

/// What pgloader and the recipe take too: no default, no blob, no number of more than 32 bits.
const SCHEMA: &str = "
    CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL);
    CREATE TABLE events(
        id INTEGER PRIMARY KEY, user_id INTEGER NOT NULL REFERENCES users(id), created TEXT NOT NULL, kind TEXT NOT NULL,
        amount REAL, note TEXT
    );";

/// Made after the rows, which is faster with many of them.
const INDEX: &str = "CREATE INDEX events_by_user ON events(user_id)";

const USERS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
    INSERT INTO users SELECT i, 'user number ' || i, 'user' || i || '@example.org' FROM n";

const EVENTS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
    INSERT INTO events SELECT i, 1 + (i * 7919) % ?2, datetime(1700000000 + i, 'unixepoch'),
        CASE i % 4 WHEN 0 THEN 'login' WHEN 1 THEN 'order' WHEN 2 THEN 'payment' ELSE 'logout' END,
        CASE WHEN i % 5 THEN (i * 37 % 100000) / 8.0 END,
        CASE WHEN i % 3 THEN 'the note of event ' || i || ' is a line of text of some length' END
    FROM n";

const TABLES: [&str; 2] = ["users", "events"];

/// So many bytes of the SQLite file are there for each row of `events`.
const BYTES: f64 = 106.0;

/// The part of the rows that the recipe gets, which takes long.
const RECIPE_PART: i64 = 10;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = env::args().collect();
    if let [_, way, path, url] = args.as_slice()
        && way == "--export"
    {
        return export(Path::new(path), url);
    }
    let is_bench = args.iter().any(|arg| arg == "--bench");
    let number = |name: &str, bench: i64, test: i64| {
        let given = env::var(name).ok().and_then(|text| text.parse().ok());
        given.unwrap_or(if is_bench { bench } else { test })
    };
    let rows = match env::var("LARDER_BENCH_GB") {
        Ok(size) => (size.parse::<f64>()? * 1e9 / BYTES) as i64,
        Err(_) => number("LARDER_BENCH_ROWS", 1_000_000, 1_000),
    };
    let rounds = number("LARDER_BENCH_ROUNDS", 5, 1);
    let Some(server) = Postgres::start_with_settings(&["fsync=off"]) else {
        return Ok(());
    };
    let folder = env::var_os("LARDER_BENCH_DIR").map_or_else(|| env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from);
    let folder = tempfile::Builder::new().prefix("postgres").tempdir_in(folder)?;
    let bench = Bench {
        server: &server,
        folder: folder.path(),
        rows,
    };
    bench.run(rounds)
}

/// Exports in this process, and prints the seconds of the stages.
fn export(path: &Path, url: &str) -> Result<(), Failure> {
    let store = Store::open(path)?;
    let entered = Arc::new(Mutex::new(Vec::<(ExportStage, Instant)>::new()));
    let seen = Arc::clone(&entered);
    let began = Instant::now();
    let report = store.export_to_postgres(url).progress(move |progress| {
        let mut entered = seen.lock().expect("no thread panics");
        if entered.last().is_none_or(|(stage, _)| *stage != progress.stage) {
            entered.push((progress.stage, Instant::now()));
        }
        ControlFlow::Continue(())
    });
    let report = report.run()?;
    let ended = Instant::now();
    let entered = entered.lock().expect("no thread panics");
    for (at, (stage, from)) in entered.iter().enumerate() {
        let until = entered.get(at + 1).map_or(ended, |(_, next)| *next);
        println!("{stage:?} {}", (until - *from).as_secs_f64());
    }
    println!("whole {}", (ended - began).as_secs_f64());
    assert!(report.misfits.is_empty(), "{report}");
    Ok(())
}

struct Bench<'a> {
    server: &'a Postgres,
    folder: &'a Path,
    rows: i64,
}

/// A process that has ended.
struct Ended {
    seconds: f64,
    /// In MB.
    peak: f64,
    output: String,
}

/// Rows a second by name, in the order of the rounds; and the greatest peak memory.
#[derive(Default)]
struct Figures {
    rates: BTreeMap<String, Vec<f64>>,
    peaks: BTreeMap<String, f64>,
}

impl Figures {
    fn add(&mut self, name: &str, rate: f64) {
        self.rates.entry(name.to_owned()).or_default().push(rate);
    }

    fn peak(&mut self, name: &str, peak: f64) {
        let known = self.peaks.entry(name.to_owned()).or_default();
        *known = known.max(peak);
    }

    fn print(&self) {
        println!("| way | rows/s | lowest..highest | peak MB |\n| --- | ---: | ---: | ---: |");
        for (name, rates) in &self.rates {
            let (median, lowest, highest) = spread(rates);
            let peak = self.peaks.get(name).map_or(String::new(), |peak| format!("{peak:.0}"));
            println!("| {name} | {median:.0} | {lowest:.0}..{highest:.0} | {peak} |");
        }
        println!();
        for (ours, theirs) in [
            ("larder, copy", "COPY FROM, binary"),
            ("larder, copy", "COPY FROM, text"),
            ("larder, verification", "larder, copy"),
            ("larder, copy", "pgloader, copy"),
            ("larder, copy and index", "pgloader, whole"),
            ("larder, whole", "pgloader, whole"),
            ("larder, whole", "recipe"),
        ] {
            let (Some(left), Some(right)) = (self.rates.get(ours), self.rates.get(theirs)) else {
                continue;
            };
            let ratios: Vec<f64> = left.iter().zip(right).map(|(left, right)| left / right).collect();
            let (median, lowest, highest) = spread(&ratios);
            println!("{ours} / {theirs}: {median:.2} ({lowest:.2}..{highest:.2})");
        }
    }
}

fn spread(values: &[f64]) -> (f64, f64, f64) {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2], values[0], values[values.len() - 1])
}

impl Bench<'_> {
    fn run(&self, rounds: i64) -> Result<(), Failure> {
        let wanted = env::var("LARDER_BENCH_WAYS").unwrap_or("larder,binary,text,pgloader,recipe".to_owned());
        let is_wanted = |way: &str| wanted.split(',').any(|part| part == way);
        let path = self.folder.join("app.db");
        self.make(&path, self.rows)?;
        let size = fs::metadata(&path)?.len() as f64 / 1e6;
        println!(
            "{} rows, {size:.0} MB, {rounds} rounds, {} cores; {}",
            self.all(self.rows),
            thread::available_parallelism()?,
            self.server.run("postgres", "SELECT version()"),
        );
        let has = |program: &str, way: &str| {
            let found = Command::new(program).arg("--version").output().is_ok();
            if !found && is_wanted(way) {
                skipped(&format!("there is no {program} here"));
            }
            found && is_wanted(way)
        };
        let has_pgloader = has("pgloader", "pgloader");
        let has_recipe = has("sqlite3", "recipe");
        let small = self.folder.join("small.db");
        if has_recipe {
            self.make(&small, self.rows / RECIPE_PART)?;
        }
        if is_wanted("binary") || is_wanted("text") {
            self.prepare(&path)?;
        }
        let mut figures = Figures::default();
        for round in 0..rounds {
            println!("round {} of {rounds}", round + 1);
            if is_wanted("larder") {
                self.larder(&path, &mut figures)?;
            }
            for form in ["binary", "text"] {
                if is_wanted(form) {
                    self.copy(form, &mut figures)?;
                }
            }
            if has_pgloader {
                self.pgloader(&path, &mut figures)?;
            }
            if has_recipe {
                self.recipe(&small, &mut figures)?;
            }
        }
        figures.print();
        Ok(())
    }

    /// Rows of both tables.
    fn all(&self, rows: i64) -> i64 {
        rows + rows / 10
    }

    fn make(&self, path: &Path, rows: i64) -> Result<(), Failure> {
        let conn = Connection::open(path)?;
        conn.execute_batch("PRAGMA synchronous = OFF; PRAGMA cache_size = -100000; BEGIN")?;
        conn.execute_batch(SCHEMA)?;
        conn.execute(USERS, [rows / 10])?;
        conn.execute(EVENTS, [rows, rows / 10])?;
        conn.execute_batch(INDEX)?;
        conn.execute_batch("COMMIT")?;
        Ok(())
    }

    fn larder(&self, path: &Path, figures: &mut Figures) -> Result<(), Failure> {
        let url = self.database();
        let mut command = Command::new(env::current_exe()?);
        command.arg("--export").arg(path).arg(url);
        let ended = run(&mut command, None)?;
        self.check(self.rows)?;
        let mut without = 0.0;
        for line in ended.output.lines() {
            let (stage, seconds) = line.split_once(' ').ok_or("a stage and its seconds")?;
            let seconds: f64 = seconds.parse()?;
            let name = match stage {
                "Compare" => "verification".to_owned(),
                stage => stage.to_lowercase(),
            };
            if matches!(stage, "Copy" | "Index") {
                without += seconds;
            }
            figures.add(&format!("larder, {name}"), self.all(self.rows) as f64 / seconds);
        }
        figures.add("larder, copy and index", self.all(self.rows) as f64 / without);
        figures.peak("larder, whole", ended.peak);
        Ok(())
    }

    /// Writes the files of the bare COPY, by an export.
    fn prepare(&self, path: &Path) -> Result<(), Failure> {
        let store = Store::open(path)?;
        store.export_to_postgres(&self.database()).run()?;
        store.close()?;
        for (table, form) in TABLES.iter().flat_map(|table| [(table, "binary"), (table, "text")]) {
            let file = self.folder.join(format!("{table}.{form}"));
            self.psql(&format!(r"\copy {table} TO '{}' (FORMAT {form})", file.display()))?;
        }
        Ok(())
    }

    fn copy(&self, form: &str, figures: &mut Figures) -> Result<(), Failure> {
        self.database();
        self.psql(
            "CREATE TABLE users(id bigint, name text COLLATE \"C\" NOT NULL, email text COLLATE \"C\" NOT NULL);
             CREATE TABLE events(id bigint, user_id bigint NOT NULL, created text COLLATE \"C\" NOT NULL,
                 kind text COLLATE \"C\" NOT NULL, amount double precision, note text COLLATE \"C\")",
        )?;
        let (mut seconds, mut peak) = (0.0, 0.0_f64);
        for table in TABLES {
            let file = self.folder.join(format!("{table}.{form}"));
            let ended = self.psql(&format!(r"\copy {table} FROM '{}' (FORMAT {form})", file.display()))?;
            seconds += ended.seconds;
            peak = peak.max(ended.peak);
        }
        self.check(self.rows)?;
        let name = format!("COPY FROM, {form}");
        figures.add(&name, self.all(self.rows) as f64 / seconds);
        figures.peak(&name, peak);
        Ok(())
    }

    fn pgloader(&self, path: &Path, figures: &mut Figures) -> Result<(), Failure> {
        self.database();
        let (socket, port) = (self.server.file(""), self.server.port());
        let script = format!(
            "LOAD DATABASE FROM sqlite://{} INTO postgresql://larder@unix:{}:{port}/bench
             WITH include drop, create tables, create indexes, reset sequences;",
            path.display(),
            socket.to_string_lossy().trim_end_matches('/')
        );
        let file = self.folder.join("pgloader.load");
        fs::write(&file, script)?;
        let ended = run(Command::new("pgloader").arg(&file).current_dir(self.folder), None)?;
        if let Err(error) = self.check(self.rows) {
            println!("pgloader: {error}\n{}", ended.output);
            return Ok(());
        }
        figures.add("pgloader, whole", self.all(self.rows) as f64 / ended.seconds);
        if let Some(seconds) = copy_of_pgloader(&ended.output) {
            figures.add("pgloader, copy", self.all(self.rows) as f64 / seconds);
        }
        figures.peak("pgloader, whole", ended.peak);
        Ok(())
    }

    fn recipe(&self, path: &Path, figures: &mut Figures) -> Result<(), Failure> {
        self.database();
        let rows = self.rows / RECIPE_PART;
        let mut dump = Command::new("sqlite3")
            .arg(path)
            .arg(".dump")
            .stdout(Stdio::piped())
            .spawn()?;
        let from = dump.stdout.take().ok_or("a pipe")?;
        let mut psql = self.server.client("psql");
        psql.args(["-X", "-q", "-d"]).arg(self.server.url("bench"));
        let ended = run(&mut psql, Some(from.into()))?;
        dump.wait()?;
        if let Err(error) = self.check(rows) {
            println!("recipe: {error}");
            return Ok(());
        }
        figures.add("recipe", self.all(rows) as f64 / ended.seconds);
        figures.peak("recipe", ended.peak);
        Ok(())
    }

    /// An empty database, with nothing left to do for the server.
    fn database(&self) -> String {
        self.server.run("postgres", "DROP DATABASE IF EXISTS bench");
        self.server.run("postgres", "CHECKPOINT");
        self.server.database("bench")
    }

    fn check(&self, rows: i64) -> Result<(), Failure> {
        let sql = "SELECT (SELECT count(*) FROM users) + (SELECT count(*) FROM events)";
        let mut psql = self.server.client("psql");
        psql.args(["-X", "-A", "-t", "-q", "-c", sql, "-d"])
            .arg(self.server.url("bench"));
        let output = psql.output()?;
        let found = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if found == self.all(rows).to_string() {
            return Ok(());
        }
        let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(format!("{found} of {} rows are there {error}", self.all(rows)).into())
    }

    fn psql(&self, sql: &str) -> Result<Ended, Failure> {
        let mut psql = self.server.client("psql");
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d"])
            .arg(self.server.url("bench"));
        run(psql.arg("-c").arg(sql), None)
    }
}

/// Runs a process to its end, and looks at its peak memory meanwhile.
fn run(command: &mut Command, input: Option<Stdio>) -> Result<Ended, Failure> {
    let began = Instant::now();
    let command = command.stdin(input.unwrap_or_else(Stdio::null)).stdout(Stdio::piped());
    let mut process = command.stderr(Stdio::piped()).spawn()?;
    let status = format!("/proc/{}/status", process.id());
    let watched = thread::spawn(move || {
        let mut peak = 0.0;
        while let Some(kb) = fs::read_to_string(&status).ok().and_then(|text| peak_of(&text)) {
            peak = kb / 1024.0;
            thread::sleep(Duration::from_millis(5));
        }
        peak
    });
    let mut errors = process.stderr.take().ok_or("a pipe")?;
    let errors = thread::spawn(move || {
        let mut text = Vec::new();
        std::io::Read::read_to_end(&mut errors, &mut text).map(|_| text)
    });
    let output = process.wait_with_output()?;
    let seconds = began.elapsed().as_secs_f64();
    let peak = watched.join().map_err(|_| "the watching thread panicked")?;
    let errors = errors.join().map_err(|_| "the reading thread panicked")??;
    if !output.status.success() {
        std::io::stderr().write_all(&errors)?;
        return Err(format!("{command:?}: {}", output.status).into());
    }
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(Ended { seconds, peak, output })
}

/// The time of its COPY threads, as its summary has it: `COPY Threads Completion  0  4  3.120s`.
fn copy_of_pgloader(summary: &str) -> Option<f64> {
    let line = summary.lines().find(|line| line.contains("COPY Threads Completion"))?;
    line.split_whitespace().last()?.strip_suffix('s')?.parse().ok()
}

fn peak_of(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}
