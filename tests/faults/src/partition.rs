//! Two machines and a follower on a real S3 server, each behind a network of its own that is cut, loses answers, delays
//! and repeats, for some seconds at a time (`partition/proxy.rs`). Real processes (`partition/node.rs`) write with
//! `Durability::Replicated` as long as they believe that they are the primary. This process is the orchestrator, and a bad
//! one: it starts a machine, has it take over, promotes a follower, stops, kills or closes one whenever it likes, and so
//! there are often two primaries.
//!
//! What must hold:
//!
//! - One history. Each commit has the checksum of all commits before it, and the replica has one chain of them.
//! - Each acknowledged write is in it, as the commit that its writer was told.
//! - The follower is never torn and never back in time, also after it was killed; what it showed is in that history; and
//!   once the primaries have closed, it shows all of it.
//!
//! - No process stands still: each tells what it does, or is missed.
//! - All of this did happen: a run goes on until it has met each failure and each change of the primary, and fails if it
//!   does not. What comes of each is counted and printed.
//!
//! A failed run keeps its files, and in `events` what each process told and what was done to it, by the milliseconds since
//! the run began.
//!
//! The server is moto (`LARDER_MOTO`): without it the suite is skipped, which it says. It handles one write at a time,
//! since the conditions of two of moto's own are not atomic.

mod node;
mod proxy;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use larder::rusqlite::{Connection, OpenFlags};

pub use self::node::{follower, primary, restore};
use self::proxy::{Moto, Proxy, Weather};
use crate::Arguments;
use crate::cases::{Summary, seed};
use crate::child::Child;
use crate::entries::keep;

/// The bucket, and the credentials that moto does not look at.
const BUCKET: &str = "bucket";
const VARIABLES: [(&str, &str); 3] = [
    ("AWS_ACCESS_KEY_ID", "key"),
    ("AWS_SECRET_ACCESS_KEY", "secret"),
    ("AWS_REGION", "us-east-1"),
];

/// Longest wait for what comes once the network is well, and for a word of a process.
const PATIENCE: Duration = Duration::from_secs(120);

/// A run goes on for so long at most until it has met everything.
const LONGER: Duration = Duration::from_secs(240);

/// Half of those who take over are left alone for so long at most, until they write.
const ALONE: Duration = Duration::from_secs(6);

/// What happens from this number on changes the primary.
const CALM: u32 = 18;

/// The fewest writes that were acknowledged, and states that the follower has shown.
const FEWEST: (usize, usize) = (50, 10);

pub fn run(arguments: &Arguments) -> Summary {
    let folder = tempfile::Builder::new()
        .prefix("larder-partition-")
        .tempdir()
        .expect("a folder for temporary files");
    let seconds = arguments.seconds.unwrap_or(60);
    let Some(program) = std::env::var_os("LARDER_MOTO") else {
        println!("skipped: partition needs moto: set LARDER_MOTO to its moto_server (pip install 'moto[server]')");
        return Summary { passed: 1, failed: 0 };
    };
    let began = Instant::now();
    let run = || {
        let moto = Arc::new(Moto::start(&program, BUCKET)?);
        let mut partition = Partition::new(folder.path(), &moto, arguments.seed)?;
        let done = partition
            .disturb(Duration::from_secs(seconds))
            .and_then(|()| partition.judge());
        // The proxies have it, too, to the end of this process.
        moto.stop();
        done
    };
    let summary = match run() {
        Ok(passed) => Summary { passed, failed: 0 },
        Err(problem) => {
            let files = keep(folder.path(), "partition", &arguments.seed.to_string());
            eprintln!(
                "\nFAILED: {problem}{files}\n  again: {} --seconds {seconds}",
                arguments.command()
            );
            Summary { passed: 0, failed: 1 }
        }
    };
    println!(
        "partition: {} acknowledged writes passed, {} failed in {:.1?}",
        summary.passed,
        summary.failed,
        began.elapsed()
    );
    summary
}

/// A commit, as a process has told it: its number, and the checksum of all up to it.
type Commit = (i64, i64);

/// What has happened, and how often.
#[derive(Debug, Default)]
struct Met {
    /// The other machine came to write than the one before.
    taken_over: u64,
    /// A follower came to write.
    promoted: u64,
    /// A primary was told so.
    fenced: u64,
    killed: u64,
    stopped: u64,
    cut: u64,
    faulty: u64,
    /// Looks at which both machines wrote.
    two: u64,
    /// An opening or a promotion was refused. It may happen.
    refused: u64,
    /// A write was not known to be in the replica in time. It may happen.
    unsure: u64,
}

impl Met {
    /// What a run may not end without.
    fn everything(&self) -> bool {
        ![
            self.taken_over,
            self.promoted,
            self.fenced,
            self.killed,
            self.stopped,
            self.cut,
            self.faulty,
            self.two,
        ]
        .contains(&0)
    }
}

/// What happens, in a file.
#[derive(Clone)]
struct Events(Arc<(File, Instant)>);

impl Events {
    fn note(&self, who: &str, what: impl Display) {
        let (mut file, began) = (&self.0.0, self.0.1);
        // A disk that is full fails what is tested, too.
        let _ = writeln!(file, "{:>7} {who} {what}", began.elapsed().as_millis());
    }
}

/// A place for a process, with its own way to the server.
struct Machine {
    name: &'static str,
    events: Events,
    proxy: Proxy,
    process: Option<Process>,
    database: PathBuf,
}

struct Process {
    child: Child,
    role: &'static str,
    /// It follows, and was not told to promote itself.
    is_follower: bool,
    /// It believes that it is the primary.
    writes: bool,
    /// It is stopped until then.
    stopped: Option<Instant>,
    /// What it told last, and when.
    last: (String, Instant),
}

struct Partition {
    folder: PathBuf,
    machines: [Machine; 2],
    /// The follower that is never promoted.
    follower: Machine,
    rng: Rng,
    begun: u64,
    /// The machine that came to write last.
    writer: Option<usize>,
    /// Who wrote what, and as which commit.
    acknowledged: BTreeMap<(i64, i64), Commit>,
    seen: Vec<Commit>,
    met: Met,
}

impl Partition {
    fn new(folder: &Path, moto: &Arc<Moto>, of: u64) -> Result<Self, String> {
        let folder = folder.canonicalize().map_err(|error| error.to_string())?;
        let mut rng = Rng::with_seed(seed(of, 1, 71));
        let events = File::create(folder.join("events")).map_err(|error| error.to_string())?;
        let events = Events(Arc::new((events, Instant::now())));
        let machine = |name: &'static str, rng: &mut Rng| {
            let database = folder.join(name).join("app.db");
            fs::create_dir_all(folder.join(name)).map_err(|error| error.to_string())?;
            Ok::<_, String>(Machine {
                name,
                events: events.clone(),
                proxy: Proxy::start(moto, rng.fork()).map_err(|error| format!("a proxy: {error}"))?,
                process: None,
                database,
            })
        };
        let machines = [machine("one", &mut rng)?, machine("two", &mut rng)?];
        let follower = machine("follower", &mut rng)?;
        Ok(Self {
            machines,
            follower,
            folder,
            rng,
            begun: 0,
            writer: None,
            acknowledged: BTreeMap::new(),
            seen: vec![],
            met: Met::default(),
        })
    }

    /// For that time, and until it has met everything, something happens to one of them again and again.
    fn disturb(&mut self, time: Duration) -> Result<(), String> {
        let began = Instant::now();
        self.start(0, false)?;
        // The replica has something before it is followed.
        while self.acknowledged.is_empty() {
            self.hear_for(Duration::from_millis(20))?;
            if began.elapsed() > PATIENCE {
                return Err("the first primary writes nothing".into());
            }
        }
        while began.elapsed() < time || !self.has_met_everything() {
            if began.elapsed() > time + LONGER {
                let (met, acknowledged, seen) = (&self.met, self.acknowledged.len(), self.seen.len());
                return Err(format!(
                    "the run has lost its aim: {acknowledged} writes were acknowledged, the follower showed {seen} states, \
                     and nothing may be 0 here but what was refused or unsure: {met:?}"
                ));
            }
            if self.follower.process.is_none() {
                self.follow()?;
            }
            // Past its time it only looks for what it has not met: who is killed as it begins takes nothing over.
            let least = if began.elapsed() < time { 0 } else { CALM };
            self.happens(least)?;
            let pause = Duration::from_millis(self.rng.u64(50..700));
            self.hear_for(pause)?;
        }
        Ok(())
    }

    fn has_met_everything(&self) -> bool {
        self.met.everything() && self.acknowledged.len() >= FEWEST.0 && self.seen.len() >= FEWEST.1
    }

    fn hear_for(&mut self, time: Duration) -> Result<(), String> {
        let began = Instant::now();
        loop {
            self.hear()?;
            if began.elapsed() >= time {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn happens(&mut self, least: u32) -> Result<(), String> {
        let which = self.rng.usize(0..2);
        match self.rng.u32(least..40) {
            0..12 => {
                let (weather, time) = Weather::any(&mut self.rng);
                self.met.cut += u64::from(weather.is_cut);
                self.met.faulty += u64::from(weather.faults > 0);
                match self.rng.u32(0..8) {
                    0 => self.follower.turns(weather, time),
                    _ => self.machines[which].turns(weather, time),
                }
            }
            12 => self.met.killed += self.machines[which].kill(),
            13 => self.met.killed += self.follower.kill(),
            14..17 => {
                let time = Duration::from_millis(self.rng.u64(100..3000));
                self.met.stopped += self.machines[which].stop(time);
            }
            17 => self.machines[which].say("close"),
            CALM.. => match &mut self.machines[which].process {
                None if self.rng.bool() => self.start_follower(which)?,
                None => {
                    let take_over = self.rng.u32(0..3) > 0;
                    if take_over {
                        self.isolate(1 - which);
                    }
                    self.start(which, take_over)?;
                    self.leave_alone(which)?;
                }
                Some(process) if process.is_follower => {
                    // Told once.
                    process.is_follower = false;
                    self.isolate(1 - which);
                    self.machines[which].say("promote");
                    self.leave_alone(which)?;
                }
                Some(_) => {}
            },
        }
        Ok(())
    }

    fn leave_alone(&mut self, which: usize) -> Result<(), String> {
        let until = Instant::now() + if self.rng.bool() { ALONE } else { Duration::ZERO };
        let waits = |machine: &Machine| machine.process.as_ref().is_some_and(|process| !process.writes);
        while Instant::now() < until && waits(&self.machines[which]) {
            self.hear_for(Duration::from_millis(20))?;
        }
        Ok(())
    }

    /// In most cases a machine is replaced because it is not heard of, and does not hear of that.
    fn isolate(&mut self, which: usize) {
        let time = Duration::from_millis(self.rng.u64(500..6000));
        match self.rng.u32(0..4) {
            0 => {}
            1 => self.met.stopped += self.machines[which].stop(time),
            _ => {
                self.met.cut += 1;
                self.machines[which].turns(Weather::CUT, time);
            }
        }
    }

    fn start(&mut self, which: usize, take_over: bool) -> Result<(), String> {
        self.begun += 1;
        let arguments = [self.begun.to_string(), take_over.to_string()];
        self.machines[which].start("partition-primary", &arguments, false)
    }

    /// A follower that may be promoted, with a database of its own.
    fn start_follower(&mut self, which: usize) -> Result<(), String> {
        self.begun += 1;
        let folder = self.folder.join(format!("machine-{}", self.begun));
        fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        self.machines[which].database = folder.join("app.db");
        let arguments = [self.begun.to_string(), "0".into(), "0".into()];
        self.machines[which].start("partition-follower", &arguments, true)
    }

    fn follow(&mut self) -> Result<(), String> {
        let (n, sum) = self.seen.last().copied().unwrap_or_default();
        let arguments = ["0".into(), n.to_string(), sum.to_string()];
        self.follower.start("partition-follower", &arguments, true)
    }

    /// Reads what all processes have told.
    fn hear(&mut self) -> Result<(), String> {
        let Self {
            machines,
            follower,
            writer,
            acknowledged,
            seen,
            met,
            ..
        } = self;
        for (which, machine) in machines.iter_mut().enumerate() {
            machine.hear(|line| {
                if line.starts_with("writes") {
                    met.promoted += u64::from(line == "writes promoted");
                    met.taken_over += u64::from(writer.replace(which).is_some_and(|before| before != which));
                }
                note(line, acknowledged, None, met)
            })?;
        }
        follower.hear(|line| note(line, acknowledged, Some(seen), met))?;
        let writing = machines
            .iter()
            .flat_map(|machine| &machine.process)
            .filter(|process| process.writes);
        met.two += u64::from(writing.count() == 2);
        Ok(())
    }

    /// The network is well, and all close. Returns the number of acknowledged writes.
    fn judge(&mut self) -> Result<u64, String> {
        for machine in self.machines.iter().chain([&self.follower]) {
            machine.turns(Weather::default(), Duration::ZERO);
        }
        self.close_primaries()?;
        let to = self.folder.join("restored.db");
        let url = self.follower.proxy.url();
        let child = start("partition-restore", &[url, to.display().to_string()])?;
        let told = child.line(PATIENCE);
        if told.as_deref() != Ok("restored") {
            return Err(format!("the replica cannot be restored: {told:?}"));
        }
        let history = chain(&to)?;
        let met = &self.met;
        println!(
            "partition: {} commits, {} acknowledged, {} unsure; {} take-overs, {} promotions, {} fenced, {} refused; {} killed, \
             {} stopped, {} cut off, {} networks with faults; two primaries at {} looks; the follower showed {} states",
            history.len(),
            self.acknowledged.len(),
            met.unsure,
            met.taken_over,
            met.promoted,
            met.fenced,
            met.refused,
            met.killed,
            met.stopped,
            met.cut,
            met.faulty,
            met.two,
            self.seen.len(),
        );
        for ((who, k), (n, sum)) in &self.acknowledged {
            let there = history.get(n);
            if there != Some(&(*who, *k, *sum)) {
                return Err(format!(
                    "write {k} of process {who} was acknowledged as commit {n} with checksum {sum}, and the replica has there \
                     {there:?}"
                ));
            }
        }
        self.follower_shows(&history)?;
        for (n, sum) in &self.seen {
            let there = history.get(n).map(|there| there.2);
            if there != Some(*sum) {
                return Err(format!(
                    "the follower showed commit {n} with checksum {sum}, and the replica has {there:?}"
                ));
            }
        }
        Ok(self.acknowledged.len() as u64)
    }

    fn close_primaries(&mut self) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        self.machines.iter_mut().for_each(|machine| machine.say("close"));
        while self.machines.iter().any(|machine| machine.process.is_some()) {
            self.hear()?;
            thread::sleep(Duration::from_millis(20));
            if Instant::now() > until {
                let open: Vec<String> = self.machines.iter().filter_map(Machine::describe).collect();
                return Err(format!(
                    "the network is well, and after {PATIENCE:?} this does not close: {}",
                    open.join("; ")
                ));
            }
        }
        Ok(())
    }

    /// Waits until the follower shows the newest commit.
    fn follower_shows(&mut self, history: &BTreeMap<i64, (i64, i64, i64)>) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        let newest = history.last_key_value().map(|(n, (_, _, sum))| (*n, *sum));
        while self.seen.last().copied() != newest {
            if self.follower.process.is_none() {
                self.follow()?;
            }
            self.hear()?;
            thread::sleep(Duration::from_millis(20));
            if Instant::now() > until {
                return Err(format!(
                    "the newest commit is {newest:?}, and the follower still shows {:?}",
                    self.seen.last()
                ));
            }
        }
        Ok(())
    }
}

impl Machine {
    fn start(&mut self, role: &'static str, arguments: &[String], is_follower: bool) -> Result<(), String> {
        let mut all = vec![self.proxy.url(), self.database.display().to_string()];
        all.extend_from_slice(arguments);
        self.events.note(self.name, format_args!("<- {role} {arguments:?}"));
        self.process = Some(Process {
            child: start(role, &all)?,
            role,
            is_follower,
            writes: false,
            stopped: None,
            last: ("nothing".into(), Instant::now()),
        });
        Ok(())
    }

    /// Returns how many processes were killed.
    fn kill(&mut self) -> u64 {
        let Some(process) = &mut self.process else { return 0 };
        process.child.kill();
        self.events.note(self.name, "<- is killed");
        1
    }

    fn say(&mut self, word: &str) {
        if let Some(process) = &mut self.process {
            self.events.note(self.name, format_args!("<- {word}"));
            // It may have ended.
            let _ = process.child.say(word);
        }
    }

    fn turns(&self, weather: Weather, time: Duration) {
        self.events.note(self.name, format_args!("<- {weather:?} for {time:?}"));
        self.proxy.turns(weather, time);
    }

    /// Stops the process for that time. Returns how many were.
    fn stop(&mut self, time: Duration) -> u64 {
        let running = self.process.as_mut().filter(|process| process.stopped.is_none());
        let Some(process) = running else { return 0 };
        self.events.note(self.name, format_args!("<- is stopped for {time:?}"));
        process.child.stop();
        process.stopped = Some(Instant::now() + time);
        1
    }

    fn describe(&self) -> Option<String> {
        let process = self.process.as_ref()?;
        let (last, at) = &process.last;
        let (role, database, ago) = (process.role, self.database.display(), at.elapsed());
        Some(format!("{role} of {database}, which told {last:?} {ago:.0?} ago"))
    }

    /// Reads what the process has told. One that has ended is forgotten.
    fn hear(&mut self, mut note: impl FnMut(&str) -> Result<(), String>) -> Result<(), String> {
        let Some(process) = &mut self.process else {
            return Ok(());
        };
        if process.stopped.is_some_and(|until| Instant::now() >= until) {
            process.child.go_on();
            process.stopped = None;
            process.last.1 = Instant::now();
        }
        let has_ended = loop {
            let line = match process.child.line(Duration::ZERO) {
                Ok(line) => line,
                Err(has_ended) => break has_ended,
            };
            if line.starts_with("writes") {
                process.writes = true;
            }
            self.events.note(self.name, &line);
            note(&line).map_err(|problem| format!("{} of {}: {problem}", process.role, self.database.display()))?;
            process.last = (line, Instant::now());
        };
        let is_silent = process.stopped.is_none() && process.last.1.elapsed() > PATIENCE;
        if has_ended {
            self.events.note(self.name, "has ended");
            self.process = None;
        } else if is_silent {
            return Err(format!("it stands still: {}", self.describe().unwrap_or_default()));
        }
        Ok(())
    }
}

fn start(role: &str, arguments: &[String]) -> Result<Child, String> {
    let program = crate::child::program().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.envs(VARIABLES);
    Child::start_by(command, role, arguments).map_err(|error| format!("{role}: {error}"))
}

/// Takes note of what a process has told.
fn note(
    line: &str,
    acknowledged: &mut BTreeMap<(i64, i64), Commit>,
    seen: Option<&mut Vec<Commit>>,
    met: &mut Met,
) -> Result<(), String> {
    let words: Vec<&str> = line.split(' ').collect();
    let number = |at: usize| {
        let word = words.get(at).and_then(|word| word.parse::<i64>().ok());
        word.ok_or_else(|| format!("the process told {line:?}"))
    };
    match words[0] {
        "acked" => {
            let commit = (number(3)?, number(4)?);
            acknowledged.insert((number(1)?, number(2)?), commit);
        }
        "seen" => {
            let commit = (number(1)?, number(2)?);
            if let Some(seen) = seen {
                seen.push(commit);
            }
        }
        "fenced" => met.fenced += 1,
        "refused" => met.refused += 1,
        "unsure" => met.unsure += 1,
        "closed" | "writes" | "looks" => {}
        _ => return Err(format!("the process: {line}")),
    }
    Ok(())
}

/// The commits of a database: who, which of that process's, and the checksum. Each goes on from the one before.
fn chain(database: &Path) -> Result<BTreeMap<i64, (i64, i64, i64)>, String> {
    let failed = |error: larder::rusqlite::Error| format!("reading what was restored: {error}");
    let conn = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(failed)?;
    node::verify(&conn)?;
    let mut statement = conn
        .prepare("SELECT n, who, k, sum FROM entry ORDER BY n")
        .map_err(failed)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?, row.get(3)?))));
    rows.map_err(failed)?.collect::<Result<_, _>>().map_err(failed)
}
