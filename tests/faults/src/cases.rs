//! Thousands of cases: the threads that run them, a progress line, a watchdog for each, and the summary.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::Arguments;
use crate::disk::Image;

/// A case that takes longer hangs. Time in which the whole process was suspended does not count.
const LONGEST: Duration = Duration::from_secs(30);

/// A thread that asked to sleep for [`LOOK`] and slept this long was not scheduled: a paused virtual machine, a
/// suspended laptop. Timeouts of the store in that time prove nothing.
const FREEZE: Duration = Duration::from_millis(500);

/// Attempts at a case that failed while the process was suspended.
const ATTEMPTS: u32 = 3;

const LOOK: Duration = Duration::from_millis(50);

/// Progress intervals: on a terminal, in a log.
const SHOW: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(10)];

/// The maximum number of failures reported in full.
const TOLD: u64 = 10;

/// The result of a suite.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    pub passed: u64,
    pub failed: u64,
}

/// The workplace of one thread.
pub struct Bench<'a> {
    pub folder: PathBuf,
    suite: &'a Suite,
    watched: usize,
}

struct Watched {
    case: String,
    /// How long the case has been running, not counting suspensions of the process.
    running: Option<Duration>,
}

/// The cases of one suite.
pub struct Suite {
    name: &'static str,
    /// The command that runs this suite, without the case's own arguments.
    command: String,
    passed: AtomicU64,
    failed: AtomicU64,
    watched: Mutex<Vec<Watched>>,
    over: AtomicBool,
    /// Number of suspensions of the whole process.
    freezes: AtomicU64,
    /// Number of the watchdog's checks.
    looks: AtomicU64,
    root: tempfile::TempDir,
    shown: bool,
    most_failures: u64,
}

impl Suite {
    /// The folder is in memory where a file system exists for it: the cost of a sync on the real disk proves nothing
    /// here.
    pub fn new(name: &'static str, arguments: &Arguments) -> io::Result<Self> {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() {
            memory.to_owned()
        } else {
            std::env::temp_dir()
        };
        Ok(Self {
            name,
            command: arguments.command(),
            shown: arguments.case.is_some(),
            most_failures: arguments.failures,
            passed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            watched: Mutex::default(),
            over: AtomicBool::new(false),
            freezes: AtomicU64::new(0),
            looks: AtomicU64::new(0),
            root: tempfile::Builder::new().prefix("larder-faults-").tempdir_in(parent)?,
        })
    }

    /// Runs the units one after another on this many threads.
    pub fn run(&self, threads: usize, units: std::ops::Range<u64>, unit: impl Fn(u64, &Bench<'_>) + Sync) -> Summary {
        let next = AtomicU64::new(units.start);
        let began = Instant::now();
        thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|_| {
                    let bench = self.bench().expect("a folder to work in");
                    let (next, unit, end) = (&next, &unit, units.end);
                    scope.spawn(move || {
                        loop {
                            let mine = next.fetch_add(1, Ordering::SeqCst);
                            if mine >= end || self.is_enough() {
                                return;
                            }
                            bench.guarded(mine, unit);
                        }
                    })
                })
                .collect();
            scope.spawn(|| self.watch(began));
            for worker in workers {
                worker.join().expect("a worker's panics are caught");
            }
            self.over.store(true, Ordering::SeqCst);
        });
        self.summary(began)
    }

    /// Whether the limit of failures is reached.
    pub fn is_enough(&self) -> bool {
        self.failed.load(Ordering::SeqCst) >= self.most_failures
    }

    fn bench(&self) -> io::Result<Bench<'_>> {
        let mut watched = self.lock();
        let number = watched.len();
        watched.push(Watched {
            case: String::new(),
            running: None,
        });
        // SQLite knows a file by its path without symbolic links.
        let folder = self.root.path().canonicalize()?.join(number.to_string());
        fs::create_dir(&folder)?;
        Ok(Bench {
            folder,
            suite: self,
            watched: number,
        })
    }

    /// Shows progress, and aborts a case that hangs.
    fn watch(&self, began: Instant) {
        let shown = io::stderr().is_terminal();
        let (mut last, mut looked) = (Instant::now(), Instant::now());
        while !self.over.load(Ordering::SeqCst) {
            thread::sleep(LOOK);
            if looked.elapsed() > FREEZE {
                self.freezes.fetch_add(1, Ordering::SeqCst);
            }
            looked = Instant::now();
            self.looks.fetch_add(1, Ordering::SeqCst);
            for watched in &mut *self.lock() {
                let Some(running) = &mut watched.running else { continue };
                *running += LOOK;
                if *running > LONGEST {
                    eprintln!("\nHANGS: {} --case {}", self.command, watched.case);
                    process::abort();
                }
            }
            if last.elapsed() >= SHOW[usize::from(!shown)] {
                last = Instant::now();
                self.show_progress(began, shown);
            }
        }
        if shown {
            eprint!("\r\x1b[K");
        }
    }

    fn show_progress(&self, began: Instant, overwrite: bool) {
        let (passed, failed) = (self.passed.load(Ordering::SeqCst), self.failed.load(Ordering::SeqCst));
        let rate = (passed + failed) as f64 / began.elapsed().as_secs_f64();
        let (before, after) = if overwrite { ("\r\x1b[K", "") } else { ("", "\n") };
        eprint!(
            "{before}{}: {passed} passed, {failed} failed, {rate:.0} a second{after}",
            self.name
        );
        let _ = io::stderr().flush();
    }

    fn summary(&self, began: Instant) -> Summary {
        let summary = Summary {
            passed: self.passed.load(Ordering::SeqCst),
            failed: self.failed.load(Ordering::SeqCst),
        };
        let took = began.elapsed();
        let rate = (summary.passed + summary.failed) as f64 / took.as_secs_f64();
        println!(
            "{}: {} passed, {} failed in {took:.1?} ({rate:.0} a second)",
            self.name, summary.passed, summary.failed
        );
        summary
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Watched>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bench<'_> {
    fn guarded(&self, mine: u64, unit: &(impl Fn(u64, &Bench<'_>) + Sync)) {
        if let Err(payload) = panic::catch_unwind(AssertUnwindSafe(|| unit(mine, self))) {
            let text = payload.downcast_ref::<String>().cloned();
            let text = text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let case = self.suite.lock()[self.watched].case.clone();
            self.fail(&case, &format!("panicked: {}", text.unwrap_or_default()), None);
        }
        self.done();
    }

    /// Whether one case runs alone, and a failure is shown in full.
    pub fn is_shown(&self) -> bool {
        self.suite.shown
    }

    /// See [`Suite::is_enough`].
    pub fn is_enough(&self) -> bool {
        self.suite.is_enough()
    }

    /// Runs one case under the watchdog; again, if it failed while the process was suspended.
    pub fn attempt<T, E>(&self, case: &str, mut run: impl FnMut() -> Result<T, E>) -> Result<T, E> {
        let mut attempts = 1;
        loop {
            let before = self.freezes();
            self.begin(case);
            let result = run();
            if result.is_ok() || attempts == ATTEMPTS {
                return result;
            }
            self.await_look();
            if self.freezes() == before {
                return result;
            }
            attempts += 1;
        }
    }

    /// Waits until the watchdog has slept and checked: only then is a suspension in the meantime known.
    fn await_look(&self) {
        let looks = || self.suite.looks.load(Ordering::SeqCst);
        let before = looks();
        while looks() < before + 2 {
            thread::yield_now();
        }
    }

    fn freezes(&self) -> u64 {
        self.suite.freezes.load(Ordering::SeqCst)
    }

    fn begin(&self, case: &str) {
        let mut watched = self.suite.lock();
        watched[self.watched].case.clear();
        watched[self.watched].case.push_str(case);
        watched[self.watched].running = Some(Duration::ZERO);
    }

    fn done(&self) {
        self.suite.lock()[self.watched].running = None;
    }

    /// Counts the case. A failure is reported with the command that repeats it, and its files are kept.
    pub fn note(&self, case: &str, result: Result<(), String>, image: Option<&Image>) {
        match result {
            Ok(()) => drop(self.suite.passed.fetch_add(1, Ordering::SeqCst)),
            Err(problem) => self.fail(case, &problem, image),
        }
    }

    fn fail(&self, case: &str, problem: &str, image: Option<&Image>) {
        if self.suite.failed.fetch_add(1, Ordering::SeqCst) >= TOLD {
            return;
        }
        eprintln!("\nFAILED: {problem}\n  again: {} --case {case}", self.suite.command);
        if let Some(image) = image {
            let folder = std::env::temp_dir().join(format!("larder-faults-failed/{}/{case}", self.suite.name));
            if fs::create_dir_all(&folder)
                .and_then(|()| image.write_to(&folder))
                .is_ok()
            {
                eprintln!("  the files it began with: {}", folder.display());
            }
        }
    }
}

/// Derives a seed for one part from the seed of the run.
pub fn seed(all: u64, one: u64, part: u64) -> u64 {
    let mut word =
        all ^ one.rotate_left(32).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ part.wrapping_mul(0xd6e8_feb8_6659_fd93);
    for _ in 0..3 {
        word = (word ^ (word >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    }
    word ^ (word >> 32)
}
