//! The Nth call fails: N = 1, 2, .. until a run is clean; in every way that a disk can fail; once, and from then on.
//!
//! After each failure every error had the right outcome; the store is usable, or poisoned after a failure in COMMIT or
//! in a checkpoint; it opens again; and acknowledged writes are there, also after a power cut.

use std::collections::BTreeSet;

use fastrand::Rng;

use crate::Arguments;
use crate::cases::{Bench, Suite, Summary, seed};
use crate::check::check;
use crate::copies::Copy;
use crate::disk::{Image, Mood, survive};
use crate::job::Job;
use crate::journal::{Journal, Said, Told};
use crate::power_cut::{Recording, record};
use crate::scripts::{BACKUP, Base, Jobs, KINDS, Kind, SCRIPTS, Script, VARIANTS, Variant, one};
use crate::settings::{SHORT, Settings};
use crate::trace::{Class, Disk, Event, Hit, Plan};
use crate::workload::{Backup, Op, Run};

/// Power cuts after each failure.
const CUTS: usize = 2;

pub fn run(arguments: &Arguments) -> Summary {
    let suite = Suite::new("calls", arguments).expect("a folder for temporary files");
    let units: Vec<Unit> = Unit::all();
    if let Some(case) = &arguments.case {
        let (unit, n) = case.rsplit_once('/').expect("SCRIPT/VARIANT/KIND/once/N");
        let index = units
            .iter()
            .position(|known| known.name() == unit)
            .expect("a unit of that name") as u64;
        let n = n.parse().expect("a number");
        return suite.run(1, index..index + 1, |unit, bench| {
            let unit = &units[unit as usize];
            let bases = Bases::new(bench, unit);
            unit.case(n, &bases, arguments.seed, bench);
        });
    }
    // The store waits in some cases: for readers, for a lock.
    suite.run(
        2 * arguments.threads,
        arguments.from..units.len() as u64,
        |unit, bench| {
            let unit = &units[unit as usize];
            if arguments
                .only
                .as_ref()
                .is_some_and(|only| !unit.name().starts_with(only))
            {
                return;
            }
            let bases = Bases::new(bench, unit);
            let mut n = 1;
            while unit.case(n, &bases, arguments.seed, bench) && !bench.is_enough() {
                n += 1;
            }
        },
    )
}

/// All N of one script, with one kind of failure.
struct Unit {
    script: &'static Script,
    variant: &'static Variant,
    kind: &'static Kind,
    sticky: bool,
}

impl Unit {
    fn all() -> Vec<Self> {
        let mut units = Vec::new();
        for script in SCRIPTS {
            for variant in VARIANTS {
                for kind in KINDS {
                    for sticky in [false, true] {
                        units.push(Self {
                            script,
                            variant,
                            kind,
                            sticky,
                        });
                    }
                }
            }
        }
        units
    }

    fn name(&self) -> String {
        let often = if self.sticky { "sticky" } else { "once" };
        format!("{}/{}/{}/{often}", self.script.name, self.variant.0, self.kind.name)
    }

    fn settings(&self) -> Settings {
        let mut settings = Settings {
            patience: SHORT,
            ..Settings::default()
        };
        (self.script.settings)(&mut settings);
        (self.variant.1)(&mut settings);
        settings
    }

    /// Returns whether there was an Nth call.
    fn case(&self, n: u64, bases: &Bases, all: u64, bench: &Bench<'_>) -> bool {
        let case = format!("{}/{n}", self.name());
        let plan = Plan {
            fault: self.kind.fault,
            calls: self.kind.calls,
            files: self.kind.files,
            nth: n,
            sticky: self.sticky,
        };
        let outcome = bench.attempt(&case, || {
            let mut rng = Rng::with_seed(case.bytes().fold(all, |sum, byte| seed(sum, byte.into(), 2)));
            let case = Case {
                settings: self.settings(),
                image: &bases.image,
                commits: &bases.commits,
                before: &self.script.before,
                during: &self.script.during,
                plan,
                cuts: CUTS,
            };
            case.run(bench, &mut rng)
        });
        let (hit, result) = match outcome {
            Ok(hit) => (hit.is_some(), Ok(())),
            Err((hit, problem)) => (hit.is_some(), Err(format!("{problem}; what failed was {hit:?}"))),
        };
        bench.note(&case, result, None);
        hit
    }
}

/// The databases that the scripts begin with.
struct Bases {
    image: Image,
    /// The commits in the image.
    commits: Vec<Job>,
}

impl Bases {
    fn new(bench: &Bench<'_>, unit: &Unit) -> Self {
        let mut jobs = Jobs::after(&[]);
        let commits: Vec<Job> = (0..3).map(|_| jobs.plain()).collect();
        let image = match unit.script.base {
            Base::Nothing => {
                return Self {
                    image: Image::default(),
                    commits: vec![],
                };
            }
            base => bench.attempt(&format!("{}/base", unit.name()), || image_of(bench, &commits, base)),
        };
        Self {
            image: image.expect("a good disk"),
            commits,
        }
    }
}

/// The image of a database with these commits.
pub fn image_of(bench: &Bench<'_>, commits: &[Job], base: Base) -> Result<Image, String> {
    let mut ops = vec![Op::Open];
    ops.extend(commits.iter().cloned().map(one));
    let recording = record(bench, Image::default(), &[], Settings::default(), &ops)?;
    let last = match base {
        Base::Killed => recording.journal.told.last().map_or(0, |told| told.at),
        Base::Closed | Base::Nothing => recording.events.len(),
    };
    let mut rng = Rng::with_seed(0);
    Ok(survive(
        &recording.base,
        &recording.events[..last],
        Mood::Kept,
        &mut rng,
    ))
}

/// A store on a disk that fails.
pub struct Case<'a> {
    pub settings: Settings,
    pub image: &'a Image,
    /// The commits in the image.
    pub commits: &'a [Job],
    pub before: &'a dyn Fn(&mut Jobs) -> Vec<Op>,
    /// The operations while the plan is active.
    pub during: &'a dyn Fn(&mut Jobs) -> Vec<Op>,
    pub plan: Plan,
    pub cuts: usize,
}

pub type Failed = (Option<Hit>, String);

impl Case<'_> {
    pub fn run(&self, bench: &Bench<'_>, rng: &mut Rng) -> Result<Option<Hit>, Failed> {
        self.image
            .write_to(&bench.folder)
            .map_err(|error| (None, error.to_string()))?;
        let disk = Disk::mount(&bench.folder, self.image);
        let mut run = Run::new(&disk, &bench.folder, &self.settings);
        run.begin_with(self.commits);
        let mut jobs = Jobs::after(self.commits);
        run.all(&(self.before)(&mut jobs));
        disk.arm(self.plan);
        run.all(&(self.during)(&mut jobs));
        let hit = disk.disarm();
        let failed = |problem: String| (hit.clone(), problem);
        afterwards(&mut run, hit.as_ref(), &mut jobs).map_err(failed)?;
        let recording = Recording {
            base: self.image.clone(),
            settings: self.settings.clone(),
            events: disk.events(),
            journal: std::mem::take(&mut run.journal),
            indexes: disk.old_indexes(),
        };
        drop(run);
        drop(disk);
        recording.is_complete(&bench.folder).map_err(failed)?;
        recording.is_truthful().map_err(failed)?;
        recording.check_closes().map_err(failed)?;
        let expected = recording.expected_without_power_cut().map_err(failed)?;
        check(&bench.folder, &recording.settings, &expected, rng)
            .map_err(|problem| failed(format!("reopened: {problem}")))?;
        let judged = recording.check_copies(hit.as_ref(), self.plan.sticky, bench, rng);
        judged.map_err(failed)?;
        // A write reported as rolled back stays so, even if everything was on the disk.
        if let Some(undone) = recording.journal.first_undone() {
            let (_, result) = recording.cut_at(undone.at, Mood::Kept, bench, rng);
            result.map_err(failed)?;
        }
        for _ in 0..self.cuts {
            recording.cut(bench, rng).1.map_err(failed)?;
        }
        Ok(hit)
    }
}

/// The disk works again, and the store continues, or is poisoned for a valid reason.
fn afterwards(run: &mut Run, hit: Option<&Hit>, jobs: &mut Jobs) -> Result<(), String> {
    run.take_time();
    let errors = run.journal.open_errors.len();
    run.step(&Op::Open);
    if let Some(error) = run.journal.open_errors.get(errors) {
        return Err(format!("the disk is well again, and it does not open: {error}"));
    }
    // A read that began before may fail now.
    run.step(&Op::Unpin);
    let errors = run.journal.read_errors.len();
    run.step(&Op::Read);
    run.step(&Op::Read);
    if let Some(error) = run.journal.read_errors.get(errors) {
        return Err(format!("the disk is well again, and a read fails: {error}"));
    }
    run.step(&one(jobs.plain()));
    let last = run.journal.told.last().expect("it was told something");
    match &last.said {
        Said::Committed => {}
        Said::NotStarted(_) if run.journal.poisoned => run.journal.may_be_poisoned(hit)?,
        other => return Err(format!("the disk is well again, and a write is told {other:?}")),
    }
    run.look_at_schema()?;
    if !run.journal.copies.is_empty() {
        run.step(&Op::Backup(Backup::over(BACKUP)));
        match run.journal.copies.last() {
            Some(Copy {
                result: Ok(()),
                has_left: false,
                ..
            }) => {}
            other => return Err(format!("the disk is well again, and a backup is {other:?}")),
        }
    }
    let errors = run.journal.close_errors.len();
    run.step(&Op::Close);
    if run.disk.has_lost_a_sync() {
        run.all(&[Op::Open, one(jobs.full()), one(jobs.full()), Op::Close]);
    }
    match run.journal.close_errors.get(errors) {
        Some(error) => Err(format!("the disk is well again, and closing fails: {error}")),
        None => Ok(()),
    }
}

impl Journal {
    /// The first write that failed for no reason of its own and was reported as rolled back.
    fn first_undone(&self) -> Option<&Told> {
        let is_undone = |told: &&Told| matches!(told.said, Said::RolledBack(_)) && told.job.end.commits();
        self.told.iter().find(is_undone)
    }

    /// Checks that only a failure in COMMIT or in a checkpoint poisons: one with an unknown outcome, or one while no
    /// write ran.
    fn may_be_poisoned(&self, hit: Option<&Hit>) -> Result<(), String> {
        let unknown = self.told.iter().any(|told| matches!(told.said, Said::Unknown(_)));
        if unknown || hit.is_some_and(|hit| hit.in_checkpoint) {
            return Ok(());
        }
        Err("the store is poisoned, and neither a COMMIT nor a checkpoint has failed".into())
    }
}

impl Recording {
    /// Checks that no failing job was acknowledged, and that the unknown jobs come after all acknowledged ones.
    fn is_truthful(&self) -> Result<(), String> {
        for told in &self.journal.told {
            if told.said == Said::Committed && !told.job.end.commits() {
                return Err(format!("job {} fails, and was acknowledged", told.job.id));
            }
        }
        let commits = self.journal.commits()?.len();
        for (i, told) in self.journal.unknown().iter().enumerate() {
            if told.number as usize != commits + i + 1 {
                return Err(format!("job {} is unknown, and was not the last", told.job.id));
            }
        }
        Ok(())
    }

    fn expected_without_power_cut(&self) -> Result<crate::check::Expected<'_>, String> {
        let mut expected = self.expected(self.events.len())?;
        expected.least = self.journal.commits()?.len();
        Ok(expected)
    }

    /// Checks that a poisoned store does not touch the database: the contents of its WAL may not be on the disk.
    fn check_closes(&self) -> Result<(), String> {
        let databases: BTreeSet<_> = self.databases().collect();
        let touches = |event: &Event| match event {
            Event::Write { inode, .. } | Event::Resize { inode, .. } | Event::Sync { inode } => {
                databases.contains(inode)
            }
            Event::Delete { name } => Class::of(name) == Class::Wal,
            _ => false,
        };
        for (from, to, emptied) in &self.journal.poisoned_closes {
            if *emptied || self.events[*from..*to].iter().any(touches) {
                return Err("a poisoned store made a checkpoint as it closed".into());
            }
        }
        Ok(())
    }

    fn databases(&self) -> impl Iterator<Item = u32> {
        let named = self.base.files.keys().enumerate();
        let named = named
            .filter(|(_, name)| Class::of(name) == Class::Database)
            .map(|(i, _)| i as u32);
        named.chain(self.events.iter().filter_map(|event| match event {
            Event::Create { name, inode } if Class::of(name) == Class::Database => Some(*inode),
            _ => None,
        }))
    }
}
