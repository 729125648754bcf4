//! `SIGKILL` at any moment of a real process under load. A child process opens a store, writes from several threads,
//! reads, checkpoints, makes and restores backups, closes and reopens until it is killed, and reports each
//! acknowledgement to its parent. The parent kills it, mostly at vulnerable moments: in a checkpoint, in recovery at
//! opening, in a backup, in a restore, in closing. It recognizes the moment from outside: by the index of the log,
//! which both processes can read, by the folders of unfinished copies, and by the reports of the child.
//!
//! Then the file must hold, at either durability, every acknowledged write under its commit number, each job complete
//! or absent, no failed write, no gap and no write out of order. A write found once must stay, since half of the states
//! continue with the files of the previous one. SQLite finds no damage, the store accepts a write and closes. The rules
//! for copies are at the top of `kill/copies.rs`.
//!
//! A kill says nothing about the disk, whose page cache survives the process (`power-cut` covers that). A seed and a
//! state repeat the same choices, not the same moment.

mod copies;

use std::fs::File;
use std::mem;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use larder::rusqlite::{Connection, OpenFlags};
use larder::{Access, Durability, Options, Store};

use self::copies::{Copier, Copies, Listing, Stage};
use crate::Arguments;
use crate::cases::{Bench, Suite, Summary, seed};
use crate::check;
use crate::child::{Child, tell};
use crate::entries::{self, Entry, Job, clean, copy, look};
use crate::writers::{Chain, Replies, THREADS, Writer, listen_until, run_chains};

const DATABASE: &str = "app.db";

/// Number of states from which on each kind of place must have been hit, or the suite has lost its aim.
const MANY: u64 = 200;

/// How long the parent waits for a place that the child reaches repeatedly, so that a busy machine does not spoil the
/// aim. After this the child is killed where it is.
const SEARCH: Duration = Duration::from_secs(5);

/// The recovery happens once, and may be over.
const BRIEF_SEARCH: Duration = Duration::from_millis(100);

// ---- the child ----

/// Opens, works and closes, until it is killed.
pub fn child(arguments: &[String]) {
    let [path, seed, client, aim, copying] = arguments else {
        panic!("kill: wrong arguments")
    };
    let mut rng = Rng::with_seed(seed.parse().expect("a number"));
    let client: i64 = client.parse().expect("a number");
    let mut options = options(&mut rng);
    let bulky = *aim == Aim::LongLog.name();
    if bulky {
        options = options.checkpoint_pages(100_000).wal_limit(64 << 20);
    } else if *aim == Aim::Checkpoint.name() {
        // Checkpoints often, and with a visible index: an exclusive store keeps its index in its own memory.
        let pages = [8, 100, 400][rng.usize(0..3)];
        options = options.access(Access::Shared).checkpoint_pages(pages);
    }
    let counters: Vec<AtomicI64> = (0..THREADS).map(|_| AtomicI64::new(0)).collect();
    let folder = Path::new(path).parent().expect("a folder");
    let mut copier = (copying == "true").then(|| Copier::new(folder, rng.fork()));
    loop {
        tell("opening");
        let store = match options.clone().open(path) {
            Ok(store) => store,
            Err(error) => return tell(&format!("! opening: {error}")),
        };
        tell("opened");
        let closed = thread::scope(|scope| {
            let schedule = match &mut copier {
                Some(copier) => {
                    let schedule = copier.schedule(&store);
                    scope.spawn(|| copier.run(&store));
                    schedule
                }
                None => Ok(None),
            };
            live(&store, client, &counters, bulky, &mut rng);
            tell("closing");
            // The close ends the copies in progress.
            let closed = store.close();
            schedule.map(drop).and(closed)
        });
        match closed {
            Ok(report) if report.wal_truncated => tell("closed"),
            other => return tell(&format!("! closing: {other:?}")),
        }
    }
}

fn options(rng: &mut Rng) -> Options {
    let mut of = |list: &[u64]| list[rng.usize(0..list.len())];
    let options = Options::new()
        .checkpoint_pages(of(&[1, 8, 100, 400, 1000, 100_000]) as u32)
        .wal_limit(of(&[64 << 10, 64 << 20, 64 << 20]))
        .page_size(of(&[512, 4096, 4096]))
        .cache_size(of(&[16 << 10, 64_000 << 10]))
        .mmap_size(of(&[0, 256 << 20]))
        .journal_size_limit(of(&[0, 64 << 20]))
        .durability(if of(&[0, 0, 1]) == 0 {
            Durability::Normal
        } else {
            Durability::Full
        })
        .access(if of(&[0, 0, 0, 0, 0, 0, 0, 1]) == 0 {
            Access::Shared
        } else {
            Access::Exclusive
        })
        .migrations(entries::migrations());
    options.readers(2)
}

/// Several threads write for a while, and one reads.
fn live(store: &Store, client: i64, counters: &[AtomicI64], bulky: bool, rng: &mut Rng) {
    let until = Instant::now() + Duration::from_micros(if bulky { 1_000_000 } else { rng.u64(2000..60_000) });
    let writers = rng.usize(1..=counters.len());
    let acknowledged = AtomicU64::new(0);
    let over = AtomicBool::new(false);
    let before = match commits(store) {
        Ok(before) => before,
        Err(error) => return tell(&format!("! reading: {error}")),
    };
    let count: &(dyn Fn(i64) + Sync) = &|_| {
        acknowledged.fetch_add(1, Ordering::SeqCst);
    };
    thread::scope(|scope| {
        let threads: Vec<_> = counters[..writers]
            .iter()
            .zip(client..)
            .map(|(k, client)| {
                let writer = Writer {
                    store,
                    client,
                    k,
                    rng: rng.fork(),
                    is_bulky: bulky,
                    is_alone: true,
                    acknowledged: count,
                };
                scope.spawn(move || writer.run(until))
            })
            .collect();
        scope.spawn(|| read(store, before, &acknowledged, &over));
        for thread in threads {
            thread.join().expect("a writer does not panic");
        }
        over.store(true, Ordering::SeqCst);
    });
}

fn commits(store: &Store) -> larder::Result<u64> {
    let count = |tx: &larder::ReadTx<'_>| tx.query_row("SELECT count(*) FROM entry", [], |row| row.get::<_, i64>(0));
    store.read(count).map(i64::unsigned_abs)
}

/// Checks that a snapshot is at least as new as the writes acknowledged before it.
fn read(store: &Store, before: u64, acknowledged: &AtomicU64, over: &AtomicBool) {
    while !over.load(Ordering::SeqCst) {
        let least = before + acknowledged.load(Ordering::SeqCst);
        match commits(store) {
            Ok(found) if found >= least => {}
            Ok(found) => {
                return tell(&format!(
                    "! a read finds {found} commits, and {least} were acknowledged"
                ));
            }
            Err(error) => return tell(&format!("! reading: {error}")),
        }
        thread::sleep(Duration::from_micros(300));
    }
}

// ---- the state of the child ----

/// The aim of a kill.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Aim {
    Anywhere,
    Checkpoint,
    Opening,
    Recovery,
    Closing,
    /// In this stage of a backup, or in a restore.
    Copy(Stage),
    /// At work, but only after the WAL is so long that its recovery takes some time.
    LongLog,
}

/// Bytes in such a WAL.
const LONG: u64 = 8 << 20;

impl Aim {
    fn any(kept: bool, rng: &mut Rng) -> Self {
        match rng.u32(0..13) {
            0..4 => Self::Checkpoint,
            4..8 => Self::Copy(Stage::OF_BACKUPS[rng.usize(0..Stage::OF_BACKUPS.len())]),
            8 => Self::Copy(Stage::Restoring),
            9 => Self::Closing,
            10 => Self::LongLog,
            // There is something to recover.
            11..13 if kept => Self::recovery(rng),
            _ => Self::Anywhere,
        }
    }

    /// The name, for the child.
    fn name(self) -> String {
        format!("{self:?}")
    }

    fn recovery(rng: &mut Rng) -> Self {
        if rng.u32(0..3) == 0 {
            Self::Opening
        } else {
            Self::Recovery
        }
    }
}

/// The state in the WAL index: `WalIndexHdr` and `WalCkptInfo` in SQLite's `wal.c`.
#[derive(Clone, Copy, PartialEq)]
enum Index {
    /// The WAL is not recovered yet.
    Unready,
    /// Pages are on their way into the database file: `nBackfillAttempted` is ahead of `nBackfill`.
    Moving,
    Quiet,
}

fn index(file: &File) -> Option<Index> {
    let mut bytes = [0; 136];
    file.read_exact_at(&mut bytes, 0).ok()?;
    let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    Some(match (bytes[12], word(96), word(128)) {
        (0, ..) => Index::Unready,
        (_, moved, attempted) if attempted > moved => Index::Moving,
        _ => Index::Quiet,
    })
}

/// Where the kills have landed; one may have landed in a copy as well.
#[derive(Default)]
struct Landed {
    recovery: AtomicU64,
    checkpoint: AtomicU64,
    opening: AtomicU64,
    closing: AtomicU64,
    elsewhere: AtomicU64,
    backup: AtomicU64,
    restore: AtomicU64,
    all: AtomicU64,
    /// Kills in a checkpoint, the recovery, a backup or a restore.
    hurt: AtomicU64,
}

impl Landed {
    fn note(&self, phase: &str, index: Option<Index>, log: u64, (backup, restore): (bool, bool)) {
        let place = match (phase, index) {
            ("opening", Some(Index::Unready)) if log > 0 => &self.recovery,
            (_, Some(Index::Moving)) => &self.checkpoint,
            ("opening", _) => &self.opening,
            ("closing", _) => &self.closing,
            _ => &self.elsewhere,
        };
        let hurt = backup
            || restore
            || [&self.recovery, &self.checkpoint]
                .iter()
                .any(|hurt| ptr::eq(*hurt, place));
        let count = |place: &AtomicU64, so: bool| place.fetch_add(u64::from(so), Ordering::SeqCst);
        count(place, true);
        count(&self.backup, backup);
        count(&self.restore, restore);
        count(&self.hurt, hurt);
        count(&self.all, true);
    }

    /// Fails if the suite no longer hits its aims.
    fn judge(&self) -> Result<(), String> {
        let of = |place: &AtomicU64| place.load(Ordering::SeqCst);
        println!(
            "kill: killed {} in a checkpoint, {} in the recovery at opening, {} elsewhere in opening, {} in closing, {} \
             at work; at the same time {} in a backup, {} in a restore; {} of {} in a checkpoint, the recovery, a backup \
             or a restore",
            of(&self.checkpoint),
            of(&self.recovery),
            of(&self.opening),
            of(&self.closing),
            of(&self.elsewhere),
            of(&self.backup),
            of(&self.restore),
            of(&self.hurt),
            of(&self.all),
        );
        let aimed = [
            &self.checkpoint,
            &self.recovery,
            &self.closing,
            &self.elsewhere,
            &self.backup,
            &self.restore,
        ];
        if aimed.iter().any(|place| of(place) == 0) || of(&self.hurt) < of(&self.all) / 2 {
            Err("the suite has lost its aim".into())
        } else {
            Ok(())
        }
    }
}

// ---- the parent ----

pub fn run(arguments: &Arguments) -> Summary {
    let suite = Suite::new("kill", arguments).expect("a folder for temporary files");
    let landed = Landed::default();
    let states = arguments.states.unwrap_or(1000);
    let mut summary = run_chains(&suite, "kill", arguments, states, |bench| {
        Files::new(bench, arguments.seed, &landed)
    });
    if arguments.case.is_some() {
        return summary;
    }
    if let (Err(problem), true) = (landed.judge(), summary.passed >= MANY) {
        eprintln!("FAILED: {problem}");
        summary.failed += 1;
    }
    summary
}

/// States that continue with each other's files.
struct Files<'a> {
    folder: PathBuf,
    /// The files as the kill left them.
    before: PathBuf,
    seed: u64,
    landed: &'a Landed,
    /// The commits after the last kill, which must stay.
    found: Vec<Entry>,
    /// The copies that exist.
    copies: Copies,
    begun: bool,
}

/// The reports of a child.
#[derive(Default)]
struct Journal {
    phase: String,
    replies: Replies,
    /// The number of commits that are known to be there.
    commits: usize,
    copies: Copies,
}

impl Journal {
    /// The journal before the child starts.
    fn new(commits: usize, copies: Copies) -> Self {
        Self {
            commits,
            copies,
            ..Self::default()
        }
    }

    fn hear(&mut self, line: &str) -> Result<(), String> {
        if let Some(n) = self.replies.hear(line)? {
            self.commits = self.commits.max(n as usize);
        }
        let words: Vec<&str> = line.split(' ').collect();
        match (words[0], words.len()) {
            _ if Replies::is_one(line) => {}
            ("opening" | "opened" | "closing" | "closed", 1) => self.phase = line.to_owned(),
            ("begin" | "stage" | "done" | "stopped", _) => self.copies.hear(&words, self.commits)?,
            _ => return Err(format!("the child: {line}")),
        }
        Ok(())
    }
}

impl Journal {
    fn await_phase(&mut self, phase: &str, child: &Child) -> Result<(), String> {
        if self.phase == phase {
            return Ok(());
        }
        let heard = listen_until(child, |line| {
            self.hear(line)?;
            Ok(self.phase == phase)
        });
        heard.map_err(|problem| format!("{problem} {}", self.phase))
    }
}

impl Chain for Files<'_> {
    fn state(&mut self, state: u64) -> Result<(), String> {
        let result = self.try_state(state);
        // The files of a failure are not used again.
        self.begun &= result.is_ok();
        result
    }

    fn before(&self) -> PathBuf {
        self.before.clone()
    }
}

impl<'a> Files<'a> {
    fn new(bench: &Bench<'_>, seed: u64, landed: &'a Landed) -> Self {
        let (folder, before) = (bench.folder.join("files"), bench.folder.join("before"));
        Self {
            folder,
            before,
            seed,
            landed,
            found: Vec::new(),
            copies: Copies::default(),
            begun: false,
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.join(DATABASE)
    }

    fn try_state(&mut self, state: u64) -> Result<(), String> {
        let mut rng = Rng::with_seed(seed(self.seed, state, 21));
        let kept = rng.u32(0..7) < 4 && self.begun;
        if !kept {
            clean(&self.folder)
                .and_then(|()| copies::make_folders(&self.folder))
                .map_err(|error| error.to_string())?;
            self.found.clear();
            self.copies = Copies::default();
        }
        self.begun = true;
        let client = state as i64 * 16;
        let aim = Aim::any(kept, &mut rng);
        let journal = Journal::new(self.found.len(), mem::take(&mut self.copies));
        let mut journal = self.kill_at(aim, journal, client, &mut rng)?;
        // A second child, which is killed in its recovery, before any check of the first kill's files.
        if aim == Aim::LongLog || rng.u32(0..4) == 0 {
            journal = self.kill_at(Aim::recovery(&mut rng), journal, client + THREADS, &mut rng)?;
        }
        clean(&self.before)
            .and_then(|()| copy(&self.folder, &self.before))
            .map_err(|error| error.to_string())?;
        self.check(&journal, client, &mut rng)?;
        self.copies = journal.copies;
        // Every operation on such a large file would take long.
        self.begun = aim != Aim::LongLog;
        Ok(())
    }

    /// One life of a child.
    fn kill_at(&self, aim: Aim, mut journal: Journal, client: i64, rng: &mut Rng) -> Result<Journal, String> {
        let copying = matches!(aim, Aim::Copy(_)) || rng.bool();
        let arguments = [
            self.path().display().to_string(),
            rng.u64(..).to_string(),
            client.to_string(),
            aim.name(),
            copying.to_string(),
        ];
        let before = Listing::of(&self.folder)?;
        let mut child = Child::start("kill", &arguments).map_err(|error| error.to_string())?;
        // The journal may be that of another life, whose last phase is over.
        journal.phase = "starting".into();
        self.await_moment(aim, &child, &mut journal, rng)?;
        child.kill();
        let (lines, status) = child.rest();
        lines.iter().try_for_each(|line| journal.hear(line))?;
        if status.signal() != Some(libc::SIGKILL) {
            return Err(format!("the child ended by itself {}: {status}", journal.phase));
        }
        let log = self.log();
        let unfinished = Listing::of(&self.folder)?.unfinished_since(&before);
        self.landed.note(&journal.phase, self.index(), log, unfinished);
        journal.copies.settle(&self.folder)?;
        Ok(journal)
    }

    fn log(&self) -> u64 {
        std::fs::metadata(self.folder.join("app.db-wal")).map_or(0, |log| log.len())
    }

    /// Returns when the child is to be killed.
    fn await_moment(&self, aim: Aim, child: &Child, journal: &mut Journal, rng: &mut Rng) -> Result<(), String> {
        let phase = match aim {
            Aim::Opening | Aim::Recovery => "opening",
            Aim::Closing => "closing",
            Aim::Anywhere | Aim::Checkpoint | Aim::Copy(_) | Aim::LongLog => "opened",
        };
        journal.await_phase(phase, child)?;
        match aim {
            Aim::Anywhere => thread::sleep(Duration::from_micros(rng.u64(0..80_000))),
            Aim::LongLog => {
                let until = Instant::now() + Duration::from_millis(900);
                while self.log() < LONG && Instant::now() < until {
                    thread::sleep(Duration::from_millis(1));
                }
            }
            // Most targets are short.
            Aim::Opening | Aim::Closing => sleep_exactly(short(rng)),
            Aim::Copy(stage) => self.stop_in_copy(stage, child, journal, rng)?,
            Aim::Checkpoint => {
                thread::sleep(Duration::from_micros(rng.u64(0..20_000)));
                self.stop_in_checkpoint(child, journal)?;
            }
            Aim::Recovery => {
                self.await_index(Index::Unready, Instant::now() + BRIEF_SEARCH, child, journal)?;
                if rng.bool() {
                    sleep_exactly(Duration::from_micros(1 << rng.u32(0..12)).mul_f64(rng.f64()));
                }
            }
        }
        Ok(())
    }

    /// Reads the WAL index from outside, which costs the child no lock: locks belong to a process. Returns when the
    /// index is as wanted, or when the wait is over.
    fn await_index(&self, wanted: Index, until: Instant, child: &Child, journal: &mut Journal) -> Result<(), String> {
        while Instant::now() < until {
            child.told().try_for_each(|line| journal.hear(&line))?;
            // Closing removes the index, and opening creates a new one.
            let Ok(file) = File::open(self.index_path()) else {
                continue;
            };
            for _ in 0..50 {
                if index(&file) == Some(wanted) {
                    return Ok(());
                }
            }
            // The child may need the core.
            thread::yield_now();
        }
        Ok(())
    }

    fn index_path(&self) -> PathBuf {
        self.folder.join("app.db-shm")
    }

    fn index(&self) -> Option<Index> {
        index(&File::open(self.index_path()).ok()?)
    }

    /// A checkpoint may be over before a signal arrives. So the child is stopped, and continued if it is in no
    /// checkpoint.
    fn stop_in_checkpoint(&self, child: &Child, journal: &mut Journal) -> Result<(), String> {
        let until = Instant::now() + SEARCH;
        loop {
            self.await_index(Index::Moving, until, child, journal)?;
            child.stop();
            if self.index() == Some(Index::Moving) || Instant::now() > until {
                return Ok(());
            }
            child.go_on();
        }
    }

    /// Stops the child at a random time after the start of the stage, if it is still in a copy then.
    fn stop_in_copy(&self, stage: Stage, child: &Child, journal: &mut Journal, rng: &mut Rng) -> Result<(), String> {
        let before = Listing::of(&self.folder)?;
        let until = Instant::now() + SEARCH;
        loop {
            await_stage(stage, until, child, journal)?;
            sleep_exactly(short(rng).mul_f64(rng.f64()));
            child.stop();
            if Listing::of(&self.folder)?.unfinished_since(&before) != (false, false) || Instant::now() > until {
                return Ok(());
            }
            child.go_on();
        }
    }

    // ---- what must hold ----

    fn check(&mut self, journal: &Journal, client: i64, rng: &mut Rng) -> Result<(), String> {
        if rng.u32(0..3) == 0 && self.path().exists() {
            raw(&self.path()).map_err(|problem| format!("rusqlite, before larder: {problem}"))?;
        }
        let store = options(rng)
            .open(self.path())
            .map_err(|error| format!("larder does not open it: {error}"))?;
        let found = store
            .read(|tx| Ok(look(tx)))
            .map_err(|error| format!("reading: {error}"))??;
        journal.replies.compare(&self.found, &found, client)?;
        journal.copies.check(&self.folder, &found)?;
        copies::check_next(&store, &self.folder, &found)?;
        let report = store
            .check()
            .full()
            .run()
            .map_err(|error| format!("checking: {error}"))?;
        if !report.is_ok() {
            return Err(report.to_string());
        }
        let job = Job::plain((client + 15, 1));
        let n = store
            .write(job.closure())
            .map_err(|error| format!("a write after it: {error}"))?;
        if n != found.len() as i64 + 1 {
            return Err(format!(
                "a write after it is commit {n}, and {} were found",
                found.len()
            ));
        }
        let report = store.close().map_err(|error| format!("closing: {error}"))?;
        if !report.wal_truncated {
            return Err(format!("closing: {report}"));
        }
        self.found = raw(&self.path()).map_err(|problem| format!("rusqlite, after larder: {problem}"))?;
        if self.found.len() as i64 != n {
            return Err(format!(
                "{n} commits were made, and {} are there after closing",
                self.found.len()
            ));
        }
        Ok(())
    }
}

/// Returns at the stage, or when it has not come: not every backup has every stage.
fn await_stage(wanted: Stage, until: Instant, child: &Child, journal: &mut Journal) -> Result<(), String> {
    loop {
        child.told().try_for_each(|line| journal.hear(&line))?;
        if journal.copies.stage == wanted {
            return Ok(());
        }
        match child.line(until.saturating_duration_since(Instant::now())) {
            Ok(line) => journal.hear(&line)?,
            Err(true) => return Err(format!("the child died {}", journal.phase)),
            Err(false) => return Ok(()),
        }
    }
}

fn short(rng: &mut Rng) -> Duration {
    Duration::from_micros(1 << rng.u32(4..14)).mul_f64(rng.f64())
}

/// Sleeps exactly; a system sleep is too long by some 50 us.
fn sleep_exactly(time: Duration) {
    let until = Instant::now() + time;
    if let Some(most) = time.checked_sub(Duration::from_micros(200)) {
        thread::sleep(most);
    }
    while Instant::now() < until {
        std::hint::spin_loop();
    }
}

/// Reads the entries with rusqlite alone, as an operator's tool would.
fn raw(path: &Path) -> Result<Vec<Entry>, String> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).map_err(|error| error.to_string())?;
    check::sound(&conn)?;
    let there: bool = conn
        .query_row(
            "SELECT count(*) > 0 FROM sqlite_schema WHERE name = 'entry'",
            [],
            |row| row.get(0),
        )
        .map_err(|error| error.to_string())?;
    // The kill may have come before the migration.
    if there { look(&conn) } else { Ok(Vec::new()) }
}
