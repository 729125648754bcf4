//! SQLite runs out of memory: its Nth allocation fails, for each N until a run is clean; once, or every one from then
//! on; with SQLite's lookaside memory, as shipped, or without it, so that the small allocations can fail, too. Each
//! case runs in a child, because the harness must survive a crash; see also `memory.rs`.
//!
//! | script | operations |
//! |---|---|
//! | `new`, `old` | opening a new file, or one with a WAL to recover; migrating, single writes, a group, a write larger than the cache, reads, a check, checkpoints, closing |
//! | `vacuum` | a `VACUUM` between writes, with space to give back |
//! | `backup` | a backup, and a compact one with a checksum, between writes |
//! | `restore` | a database restored from a backup, beside an open store |
//! | `tasks` | awaited writes and reads, some of which are dropped on the way, and an awaited close |
//!
//! Acknowledged writes are there when the store is reopened with memory; those *not started* or *rolled back* are not;
//! *unknown* may be either and has poisoned the store. After the failure the store accepts writes or reports that it is
//! poisoned, and it serves reads. A backup, and a database restored from one, is whole or absent, and there is no other
//! file beside it. Nothing crashes, nothing panics except the call itself, nothing hangs.
//!
//! Rust's own allocations do not fail here: such a failure ends the process, which `kill` covers. With threads, N is
//! the same allocation in most runs, but not in all.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_executor::block_on;
use larder::rusqlite::{Connection, ErrorCode, OpenFlags};
use larder::{CloseReport, Durability, Error, Options, Outcome, Store, WriteOptions};

use crate::Arguments;
use crate::cases::{Bench, Suite, Summary};
use crate::check;
use crate::child::{Child, tell};
use crate::entries::{self, End, Id, Job, clean, copy, keep, look};
use crate::memory::{self, arm, disarm, was_hit};

const DATABASE: &str = "app.db";

/// The folder of a case's database.
const FILES: &str = "files";

/// A backup to restore.
const BACKUP: &str = "app.db.backup";

/// Cases per child.
const BLOCK: u64 = 40;

/// A case that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Read timeout if no more connections can be opened; otherwise [`LONG`].
const SHORT: Duration = Duration::from_millis(30);
const LONG: Duration = Duration::from_secs(5);

/// Attempts at a case whose read timed out although there was memory: the machine is busy.
const ATTEMPTS: u32 = 5;

// ---- the child ----

/// Runs cases one after another, and reports each.
pub fn child(arguments: &[String]) {
    let [folder, variant, from, to, step] = arguments else {
        panic!("oom: wrong arguments")
    };
    let number = |text: &String| text.parse::<i64>().expect("a number");
    let variant = Variant::named(variant).expect("a variant");
    memory::install(variant.lookaside);
    quiet();
    let folder = PathBuf::from(folder);
    let template = template(&folder).expect("a store with memory works");
    for nth in (number(from)..number(to)).step_by(number(step) as usize) {
        tell(&format!("case {nth}"));
        let mut result = Err(String::new());
        for attempt in 0..ATTEMPTS {
            let case = Case::begin(&folder, &template, variant).map_err(|error| error.to_string());
            result = case.and_then(|case| case.run(nth, SHORT * 4u32.pow(attempt)));
            let late = !was_hit()
                && result
                    .as_ref()
                    .is_err_and(|problem| problem.contains("ReadQueueTimeout"));
            disarm();
            if !late {
                break;
            }
        }
        match result {
            Ok(hit) => tell(&format!("ok {} {}", u8::from(hit), memory::count())),
            Err(problem) => tell(&format!("! {}", problem.replace('\n', " / "))),
        }
    }
    tell("end");
}

/// Silences panics: rusqlite panics in some places without memory. Each case judges whether a panic is allowed.
fn quiet() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if info.location().is_none_or(|place| !place.file().contains("rusqlite")) {
            before(info);
        }
    }));
}

/// Creates a database whose WAL must be recovered, and a backup of it.
fn template(folder: &Path) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let (made, template) = (folder.join("made"), folder.join("template"));
    clean(&made)?;
    clean(&template)?;
    let store = options(LONG).checkpoint_pages(100_000).open(made.join(DATABASE))?;
    for k in 1..=BEFORE {
        store.write(Job::plain((1, k)).closure())?;
    }
    // This drops the store's locks, which are no longer needed.
    copy(&made, &template)?;
    std::fs::remove_file(template.join("app.db-shm"))?;
    store.backup(template.join(BACKUP)).run()?;
    store.close()?;
    Ok(template)
}

/// Commits in the template.
const BEFORE: i64 = 5;

fn options(patience: Duration) -> Options {
    Options::new()
        .migrations(entries::migrations())
        .readers(2)
        .checkpoint_pages(4)
        .cache_size(64 << 10)
        .monitor_interval(Duration::ZERO)
        .busy_timeout(patience)
        .read_queue_timeout(patience)
        .close_timeout(Duration::from_secs(5))
}

/// The operations while memory fails.
struct Script {
    name: &'static str,
    /// Starts with the files of the template.
    old: bool,
    /// Whether memory may also fail while the store is opened.
    opening: bool,
    work: fn(&mut Case, &Store) -> Result<(), String>,
    close: fn(&Store) -> larder::Result<CloseReport>,
}

const SCRIPTS: &[Script] = &[
    Script {
        name: "new",
        old: false,
        opening: true,
        work: Case::everything,
        close: Store::close,
    },
    Script {
        name: "old",
        old: true,
        opening: true,
        work: Case::everything,
        close: Store::close,
    },
    Script {
        name: "vacuum",
        old: true,
        opening: false,
        work: Case::vacuum,
        close: Store::close,
    },
    Script {
        name: "backup",
        old: true,
        opening: false,
        work: Case::backup,
        close: Store::close,
    },
    Script {
        name: "restore",
        old: true,
        opening: false,
        work: Case::restore,
        close: Store::close,
    },
    Script {
        name: "tasks",
        old: true,
        opening: false,
        work: Case::tasks,
        close: |store| block_on(store.close_async()),
    },
];

/// A script, and the way in which memory fails in it.
#[derive(Clone, Copy)]
struct Variant {
    script: &'static Script,
    sticky: bool,
    lookaside: bool,
}

impl Variant {
    fn all() -> Vec<Self> {
        let ways = [(false, true), (true, true), (false, false), (true, false)];
        let of = |script| {
            ways.map(|(sticky, lookaside)| Self {
                script,
                sticky,
                lookaside,
            })
        };
        SCRIPTS.iter().flat_map(of).collect()
    }

    fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|variant| variant.name() == name)
    }

    fn name(&self) -> String {
        let often = if self.sticky { "sticky" } else { "once" };
        let bare = if self.lookaside { "" } else { "-bare" };
        format!("{}-{often}{bare}", self.script.name)
    }
}

// ---- one case ----

/// The state of one case: the result of each write.
struct Case {
    files: PathBuf,
    /// The folder for copies.
    copied: PathBuf,
    variant: Variant,
    acknowledged: HashMap<Id, i64>,
    undone: HashSet<Id>,
    unknown: HashSet<Id>,
    /// Writes whose futures were dropped.
    dropped: HashSet<Id>,
    /// Whether a call has returned an unknown outcome.
    may_be_poisoned: bool,
    /// The copies that were made, each with the writes acknowledged before it.
    copies: Vec<(&'static str, HashMap<Id, i64>)>,
    k: i64,
}

impl Case {
    fn begin(folder: &Path, template: &Path, variant: Variant) -> std::io::Result<Self> {
        let (files, copied) = (folder.join(FILES), folder.join("copied"));
        clean(&files)?;
        clean(&copied)?;
        let mut acknowledged = HashMap::new();
        if variant.script.old {
            copy(template, &files)?;
            acknowledged.extend((1..=BEFORE).map(|k| ((1, k), k)));
        }
        Ok(Self {
            files,
            copied,
            variant,
            acknowledged,
            undone: HashSet::new(),
            unknown: HashSet::new(),
            dropped: HashSet::new(),
            may_be_poisoned: false,
            copies: Vec::new(),
            k: 0,
        })
    }

    fn path(&self) -> PathBuf {
        self.files.join(DATABASE)
    }

    /// Returns whether the failure happened.
    fn run(mut self, nth: i64, short: Duration) -> Result<bool, String> {
        let Variant { script, sticky, .. } = self.variant;
        let patience = if sticky { short } else { LONG };
        if script.opening {
            arm(nth, sticky);
        }
        let opened = options(patience).open(self.path());
        if !script.opening {
            arm(nth, sticky);
        }
        match opened {
            Ok(store) => self.live(&store)?,
            Err(error) if !was_hit() => return Err(format!("opening: {error:?}")),
            // A store that failed to open has written nothing except its migrations.
            Err(error) if error.outcome() == Outcome::Unknown || is_of_memory(&error) => {}
            Err(error) => return Err(format!("opening fails by something else: {error:?}")),
        }
        let hit = was_hit();
        disarm();
        self.judge()?;
        Ok(hit)
    }

    fn live(&mut self, store: &Store) -> Result<(), String> {
        let script = self.variant.script;
        (script.work)(self, store)?;
        if was_hit() {
            disarm();
            self.is_usable(store)?;
        }
        // Failures of the close are in its report.
        (script.close)(store)
            .map(drop)
            .map_err(|error| format!("closing: {error:?}"))
    }

    // ---- the scripts ----

    fn everything(&mut self, store: &Store) -> Result<(), String> {
        self.read(store)?;
        self.single(store, Durability::Normal)?;
        self.group(store)?;
        self.read(store)?;
        self.single(store, Durability::Full)?;
        self.large(store)?;
        self.check(store)?;
        self.careless(store)?;
        self.single(store, Durability::Normal)
    }

    fn vacuum(&mut self, store: &Store) -> Result<(), String> {
        self.large(store)?;
        self.clear_last(store)?;
        let result = caught(|| store.vacuum().run());
        match result {
            Some(Ok(_)) => {}
            Some(Err(error)) if !was_hit() || !is_of_memory(&error) => return Err(format!("a vacuum: {error:?}")),
            Some(Err(error)) => self.note_outcome(store, &error)?,
            None if was_hit() => {}
            None => return Err("a vacuum panics".into()),
        }
        self.read(store)?;
        self.single(store, Durability::Normal)?;
        self.check(store)
    }

    fn backup(&mut self, store: &Store) -> Result<(), String> {
        self.single(store, Durability::Normal)?;
        self.copy("backup.db", |to| store.backup(to).run())?;
        self.single(store, Durability::Normal)?;
        self.copy("compact.db", |to| store.backup_compact(to).checksum(true).run())?;
        self.single(store, Durability::Normal)
    }

    fn restore(&mut self, store: &Store) -> Result<(), String> {
        let from = self.files.join(BACKUP);
        self.copy("restored.db", |to| options(LONG).restore(from, to))?;
        self.single(store, Durability::Normal)
    }

    fn tasks(&mut self, store: &Store) -> Result<(), String> {
        self.read_as_task(store)?;
        let single = self.job();
        let result = caught(|| block_on(store.write_async(single.closure())));
        self.note(store, &single, result)?;
        let mut jobs: Vec<Job> = (0..5).map(|_| self.job()).collect();
        jobs[1] = Job {
            id: (2, -jobs[1].id.1),
            end: End::AppError,
            ..jobs[1].clone()
        };
        let mut writes: Vec<_> = jobs
            .iter()
            .map(|job| Some(Box::pin(store.write_async(job.closure()))))
            .collect();
        let polled: Vec<_> = writes.iter_mut().flatten().map(poll_once).collect();
        for ((at, job), polled) in jobs.iter().enumerate().zip(polled) {
            let write = writes[at].take().expect("each is awaited once");
            let result = match polled {
                Polled::Ready(result) => result,
                Polled::Pending if at == 3 => {
                    drop(write);
                    self.dropped.insert(job.id);
                    continue;
                }
                Polled::Pending => caught(|| block_on(write)),
            };
            self.note(store, job, result)?;
        }
        // A read that is dropped while it is queued, or runs.
        let mut read = Box::pin(store.read_async(|tx| Ok(look(tx))));
        poll_once(&mut read);
        drop(read);
        self.read_as_task(store)
    }

    // ---- the operations ----

    /// A write larger than the cache.
    fn large(&mut self, store: &Store) -> Result<(), String> {
        let large = Job {
            parts: vec![60_000, 60_000],
            ..self.job()
        };
        let result = caught(|| store.write(large.closure()));
        self.note(store, &large, result)
    }

    /// Leaves free pages.
    fn clear_last(&mut self, store: &Store) -> Result<(), String> {
        let clearing = Job {
            clear: Some(self.acknowledged.values().max().copied().unwrap_or(0).unsigned_abs()),
            ..self.job()
        };
        let result = caught(|| store.write(clearing.closure()));
        self.note(store, &clearing, result)
    }

    /// Makes a copy of the database, whole or not at all.
    fn copy<T>(&mut self, name: &'static str, make: impl FnOnce(PathBuf) -> larder::Result<T>) -> Result<(), String> {
        let before = self.acknowledged.clone();
        match caught(|| make(self.copied.join(name))) {
            Some(Ok(_)) => self.copies.push((name, before)),
            Some(Err(error)) if was_hit() && is_of_memory(&error) => {}
            Some(Err(error)) => return Err(format!("{name}: {error:?}")),
            None if was_hit() => {}
            None => return Err(format!("{name}: it panics")),
        }
        Ok(())
    }

    fn job(&mut self) -> Job {
        self.k += 1;
        Job::plain((2, self.k))
    }

    fn single(&mut self, store: &Store, durability: Durability) -> Result<(), String> {
        let job = self.job();
        let terms = WriteOptions::new().durability(durability);
        let result = caught(|| store.write_with(terms, job.closure()));
        self.note(store, &job, result)
    }

    /// A closure that ignores an error, after which SQLite may have ended its transaction.
    fn careless(&mut self, store: &Store) -> Result<(), String> {
        let job = self.job();
        let (write, swallowed) = (job.closure(), "UPDATE tally SET bytes = bytes + 0 WHERE client > ?1");
        let result = caught(|| {
            store.write(move |tx| {
                let n = write(tx)?;
                let _ = tx.execute(swallowed, [0]);
                let _ = tx.execute("CREATE TABLE IF NOT EXISTS later(x)", []);
                Ok(n)
            })
        });
        // The closure itself caused this one.
        let result = match result {
            Some(Err(error @ Error::RolledBack { .. })) if was_hit() => {
                self.undone.insert(job.id);
                return if error.outcome() == Outcome::RolledBack {
                    Ok(())
                } else {
                    Err(format!("{error:?}"))
                };
            }
            other => other,
        };
        self.note(store, &job, result)
    }

    /// Jobs queued while the writer is busy, so that they share a transaction.
    fn group(&mut self, store: &Store) -> Result<(), String> {
        let (go, gone) = channel::<()>();
        let gate = store.submit(move |_| Ok(gone.recv().is_ok()));
        let mut jobs: Vec<Job> = (0..6).map(|_| self.job()).collect();
        for (at, end) in [(1, End::AppError), (3, End::Constraint), (4, End::OrRollback)] {
            jobs[at] = Job {
                id: (2, -jobs[at].id.1),
                end,
                ..jobs[at].clone()
            };
        }
        let pending: Vec<_> = jobs.iter().map(|job| store.submit(job.closure())).collect();
        drop(go);
        if let Ok(gate) = gate {
            let _ = caught(|| gate.wait());
        }
        for (job, pending) in jobs.iter().zip(pending) {
            let result = caught(|| pending.and_then(|pending| pending.wait()));
            self.note(store, job, result)?;
        }
        Ok(())
    }

    fn note(&mut self, store: &Store, job: &Job, result: Caught<i64>) -> Result<(), String> {
        match result {
            Some(Ok(n)) if job.commits() => drop(self.acknowledged.insert(job.id, n)),
            Some(Ok(_)) => return Err(format!("{job:?} was acknowledged")),
            // A closure's panic reaches its caller, and rolls the job back.
            None => drop(self.undone.insert(job.id)),
            Some(Err(error)) => {
                if job.commits() && !is_of_memory(&error) {
                    return Err(format!("{job:?} fails by something else: {error:?}"));
                }
                self.note_outcome(store, &error)
                    .map_err(|problem| format!("{job:?}: {problem}"))?;
                let fate = match error.outcome() {
                    Outcome::Unknown => &mut self.unknown,
                    _ => &mut self.undone,
                };
                fate.insert(job.id);
            }
        }
        Ok(())
    }

    /// Records an outcome. An unknown one must have poisoned the store.
    fn note_outcome(&mut self, store: &Store, error: &Error) -> Result<(), String> {
        match error.outcome() {
            Outcome::NotStarted | Outcome::RolledBack => Ok(()),
            Outcome::Unknown if store.poisoned().is_some() => Ok(self.may_be_poisoned = true),
            outcome => Err(format!("{outcome:?}, and the store is not poisoned: {error:?}")),
        }
    }

    fn read(&self, store: &Store) -> Result<(), String> {
        self.finds(caught(|| store.read(|tx| Ok(look(tx)))))
    }

    fn read_as_task(&self, store: &Store) -> Result<(), String> {
        self.finds(caught(|| block_on(store.read_async(|tx| Ok(look(tx))))))
    }

    /// Checks that a read found the expected entries, or had no memory.
    fn finds(&self, result: Caught<Found>) -> Result<(), String> {
        match result {
            Some(Ok(Ok(found))) => self.sees_all(&found),
            Some(Ok(Err(problem))) if was_hit() && problem.contains("out of memory") => Ok(()),
            Some(Ok(Err(problem))) => Err(problem),
            // `look` reports SQLite's errors as text, so the store believes that the closure swallowed them.
            Some(Err(error)) if was_hit() && (is_of_memory(&error) || is_ended(&error)) => Ok(()),
            Some(Err(error)) => Err(format!("reading: {error:?}")),
            None if was_hit() => Ok(()),
            None => Err("reading panics".into()),
        }
    }

    fn sees_all(&self, found: &[entries::Entry]) -> Result<(), String> {
        self.sees(found, &self.acknowledged)
    }

    fn sees(&self, found: &[entries::Entry], acknowledged: &HashMap<Id, i64>) -> Result<(), String> {
        let there = |id: &Id, n: i64| found.get(n as usize - 1).is_some_and(|entry| entry.id == *id);
        if let Some((id, n)) = acknowledged.iter().find(|(id, n)| !there(id, **n)) {
            return Err(format!("{id:?} was acknowledged as commit {n}, and is not there"));
        }
        match found.iter().find(|entry| self.undone.contains(&entry.id)) {
            Some(entry) => Err(format!("{:?} was said to be undone, and is there", entry.id)),
            None => Ok(()),
        }
    }

    fn check(&self, store: &Store) -> Result<(), String> {
        match caught(|| store.check().full().run()) {
            Some(Ok(report)) if report.is_ok() => Ok(()),
            // integrity_check reports a lack of memory like any other problem.
            Some(Ok(report)) if was_hit() && report.to_string().contains("out of memory") => Ok(()),
            Some(Ok(report)) => Err(report.to_string()),
            Some(Err(error)) if was_hit() && is_of_memory(&error) => Ok(()),
            Some(Err(error)) => Err(format!("checking: {error:?}")),
            None if was_hit() => Ok(()),
            None => Err("checking panics".into()),
        }
    }

    /// Checks that the store works once memory is available again.
    fn is_usable(&mut self, store: &Store) -> Result<(), String> {
        let job = self.job();
        match store.write(job.closure()) {
            Ok(n) => drop(self.acknowledged.insert(job.id, n)),
            Err(error @ Error::Poisoned { .. }) if self.may_be_poisoned || is_of_settings(&error) => {
                self.undone.insert(job.id);
            }
            Err(error) => {
                let poisoned = store.poisoned();
                return Err(format!(
                    "there is memory again, and a write fails: {error:?}; poisoned: {poisoned:?}"
                ));
            }
        }
        let found = store.read(|tx| Ok(look(tx)));
        let found = found.map_err(|error| format!("there is memory again, and a read fails: {error:?}"))??;
        self.sees_all(&found)
    }

    /// Checks the reopened store, with memory.
    fn judge(&mut self) -> Result<(), String> {
        let again = |error: Error| format!("again, with memory: {error:?}");
        self.judge_copies()?;
        let store = options(LONG).open(self.path()).map_err(again)?;
        let found = store.read(|tx| Ok(look(tx))).map_err(again)??;
        self.sees_all(&found)
            .map_err(|problem| format!("again, with memory: {problem}"))?;
        let told =
            |id: &Id| self.acknowledged.contains_key(id) || self.unknown.contains(id) || self.dropped.contains(id);
        if let Some(entry) = found.iter().find(|entry| !told(&entry.id)) {
            return Err(format!("{:?} is there, and nobody was told", entry.id));
        }
        let report = store.check().full().run().map_err(again)?;
        if !report.is_ok() {
            return Err(report.to_string());
        }
        let job = self.job();
        store.write(job.closure()).map_err(again)?;
        let report = store.close().map_err(again)?;
        if report.wal_truncated {
            Ok(())
        } else {
            Err(format!("closing with memory: {report}"))
        }
    }
}

impl Case {
    /// Checks that each reported copy is there and whole, and that there is nothing else.
    fn judge_copies(&self) -> Result<(), String> {
        let mut names = names(&self.copied).map_err(|error| error.to_string())?;
        names.retain(|name| !self.copies.iter().any(|(made, _)| made == name));
        if let Some(name) = names.first() {
            return Err(format!("{name} is left of a copy that failed"));
        }
        for (name, acknowledged) in &self.copies {
            let wrong = |problem: String| format!("{name}: {problem}");
            let conn = Connection::open_with_flags(self.copied.join(name), OpenFlags::SQLITE_OPEN_READ_ONLY);
            let conn = conn.map_err(|error| wrong(error.to_string()))?;
            check::sound(&conn).map_err(wrong)?;
            self.sees(&look(&conn).map_err(wrong)?, acknowledged).map_err(wrong)?;
        }
        Ok(())
    }
}

fn names(folder: &Path) -> std::io::Result<Vec<String>> {
    std::fs::read_dir(folder)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}

/// The result of reading the tables.
type Found = Result<Vec<entries::Entry>, String>;

enum Polled<T> {
    Ready(Caught<T>),
    Pending,
}

fn poll_once<T>(future: &mut Pin<Box<impl Future<Output = larder::Result<T>>>>) -> Polled<T> {
    let mut context = Context::from_waker(Waker::noop());
    let polled = panic::catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut context)));
    match polled {
        Ok(Poll::Pending) => Polled::Pending,
        Ok(Poll::Ready(result)) => Polled::Ready(Some(result)),
        Err(_) => Polled::Ready(None),
    }
}

/// `None` for a panic.
type Caught<T> = Option<larder::Result<T>>;

fn caught<T>(call: impl FnOnce() -> larder::Result<T>) -> Caught<T> {
    panic::catch_unwind(AssertUnwindSafe(call)).ok()
}

/// Whether the error may come from a lack of memory.
fn is_of_memory(error: &Error) -> bool {
    no_memory(error)
        || matches!(
            error,
            Error::RolledBack {
                caused_by_closure: false,
                ..
            } | Error::Poisoned { .. }
                | Error::ReadQueueTimeout { .. }
        )
}

/// Whether the writer had no memory to restore its PRAGMAs after a migration, so that it must not write.
fn is_of_settings(error: &Error) -> bool {
    error.sqlite().and_then(larder::rusqlite::Error::sqlite_error_code) == Some(ErrorCode::InternalMalfunction)
}

/// Whether the error says "SQLite has ended this transaction after the error of an earlier statement".
fn is_ended(error: &Error) -> bool {
    error.sqlite().and_then(larder::rusqlite::Error::sqlite_error_code) == Some(ErrorCode::OperationAborted)
}

fn no_memory(error: &Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        let code = error
            .downcast_ref()
            .and_then(larder::rusqlite::Error::sqlite_error_code);
        if code == Some(ErrorCode::OutOfMemory) {
            return true;
        }
        source = error.source();
    }
    error.sqlite().and_then(larder::rusqlite::Error::sqlite_error_code) == Some(ErrorCode::OutOfMemory)
}

// ---- the parent ----

/// Consecutive cases of one variant.
#[derive(Clone, Copy)]
struct Block {
    variant: Variant,
    from: u64,
    to: u64,
    step: u64,
}

pub fn run(arguments: &Arguments) -> Summary {
    let suite = Suite::new("oom", arguments).expect("a folder for temporary files");
    if let Some(case) = &arguments.case {
        let (variant, nth) = case.split_once(':').expect("a case is VARIANT:N");
        let (variant, nth) = (
            Variant::named(variant).expect("a variant"),
            nth.parse().expect("a number"),
        );
        let block = Block {
            variant,
            from: nth,
            to: nth + 1,
            step: 1,
        };
        return suite.run(1, 0..1, |_, bench| {
            block.run(bench);
        });
    }
    let (blocks, all) = blocks(arguments);
    let clean: Mutex<HashMap<String, u64>> = Mutex::default();
    let mut summary = suite.run(arguments.threads, 0..blocks.len() as u64, |unit, bench| {
        let block = blocks[unit as usize];
        let runs = block.run(bench);
        *clean
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(block.variant.name())
            .or_default() += runs;
    });
    let clean = clean.into_inner().unwrap_or_else(PoisonError::into_inner);
    let unended = chosen(arguments)
        .iter()
        .map(Variant::name)
        .find(|name| clean.get(name).is_none_or(|runs| *runs == 0));
    if let (true, Some(name)) = (all, unended) {
        eprintln!("FAILED: no run of {name} was clean: there are more allocations than were counted");
        summary.failed += 1;
    }
    summary
}

/// All variants, or those whose name has the given prefix.
fn chosen(arguments: &Arguments) -> Vec<Variant> {
    let only = arguments.only.as_deref().unwrap_or("");
    let mut variants = Variant::all();
    variants.retain(|variant| variant.name().starts_with(only));
    variants
}

/// All N, up to somewhat more than were counted; or, for fewer states, an evenly spaced selection. Returns whether it
/// is every N.
fn blocks(arguments: &Arguments) -> (Vec<Block>, bool) {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let counted: Vec<_> = chosen(arguments)
        .into_iter()
        .map(|variant| (variant, count(variant, folder.path())))
        .collect();
    let told: Vec<_> = counted
        .iter()
        .map(|(variant, count)| format!("{} {count}", variant.name()))
        .collect();
    println!("oom: allocations of a clean run: {}", told.join(", "));
    let last = |count: u64| count + count / 10 + BLOCK;
    let total: u64 = counted.iter().map(|(_, count)| last(*count)).sum();
    let step = arguments.states.map_or(1, |states| total.div_ceil(states.max(1)));
    let mut blocks = Vec::new();
    for (variant, count) in counted {
        // The seed selects the offset.
        let mut from = 1 + arguments.seed % step;
        while from <= last(count) {
            let to = (from + BLOCK * step).min(last(count) + 1);
            blocks.push(Block {
                variant,
                from,
                to,
                step,
            });
            from += BLOCK * step;
        }
    }
    (blocks, step == 1)
}

/// The number of allocations of a clean run.
fn count(variant: Variant, folder: &Path) -> u64 {
    let none = i64::MAX.unsigned_abs() - 1;
    let block = Block {
        variant,
        from: none,
        to: none + 1,
        step: 1,
    };
    let child = block.start(none, folder).expect("a child");
    let (lines, _) = child.rest();
    let words: Vec<_> = lines
        .iter()
        .find_map(|line| line.strip_prefix("ok 0 "))
        .into_iter()
        .collect();
    let [count] = words[..] else {
        panic!("a run without failures: {lines:?}")
    };
    count.parse().expect("a number")
}

impl Block {
    fn start(&self, from: u64, folder: &Path) -> std::io::Result<Child> {
        let numbers = [from, self.to, self.step].map(|number| number.to_string());
        let mut arguments = vec![folder.display().to_string(), self.variant.name()];
        arguments.extend(numbers);
        Child::start("oom", &arguments)
    }

    /// Returns the number of clean runs. After a crash another child continues behind it.
    fn run(&self, bench: &Bench<'_>) -> u64 {
        let (mut from, clean) = (self.from, AtomicU64::new(0));
        while from < self.to {
            let case = format!("{}:{from}", self.variant.name());
            from = match bench.attempt(&case, || self.follow(from, bench, &clean)) {
                Ok(()) => self.to,
                Err((at, problem)) => {
                    let case = format!("{}:{at}", self.variant.name());
                    bench.note(
                        &case,
                        Err(problem + &keep(&bench.folder.join(FILES), "oom", &case)),
                        None,
                    );
                    at + self.step
                }
            };
        }
        clean.into_inner()
    }

    /// Follows a child until its end, or until a case fails, which it returns.
    fn follow(&self, from: u64, bench: &Bench<'_>, clean: &AtomicU64) -> Result<(), (u64, String)> {
        let child = self
            .start(from, &bench.folder)
            .map_err(|error| (from, error.to_string()))?;
        let mut at = from;
        loop {
            let line = match child.line(PATIENCE) {
                Ok(line) => line,
                Err(true) => return Err((at, format!("the process crashed: {}", child.rest().1))),
                Err(false) => return Err((at, "hangs".into())),
            };
            match line.split_once(' ') {
                Some(("case", nth)) => at = nth.parse().expect("a number"),
                Some(("ok", rest)) => {
                    clean.fetch_add(u64::from(rest.starts_with('0')), Ordering::SeqCst);
                    bench.note(&format!("{}:{at}", self.variant.name()), Ok(()), None);
                }
                _ if line == "end" => return Ok(()),
                _ => return Err((at, line)),
            }
        }
    }
}
