//! Power cuts at any event of a workload. Data that was not synced is lost, torn or turned to garbage.
//!
//! A workload runs once, on a disk that records it, and serves for [`STATES`] states: the store does not run again,
//! only its disk is set to a possible state.

use std::path::Path;

use fastrand::Rng;

use crate::Arguments;
use crate::cases::{Bench, Suite, Summary, seed};
use crate::check::{Expected, check};
use crate::disk::{Image, Mood, add_index, is_index, survive};
use crate::job::Job;
use crate::journal::{Journal, Said};
use crate::replicated;
use crate::settings::Settings;
use crate::trace::{Disk, Event};
use crate::workload::{DATABASE, Op, Run};

/// States made from one workload.
const STATES: u64 = 64;

pub fn run(arguments: &Arguments) -> Summary {
    let plan: Plan = |_, rng| (Settings::any(rng), operations(rng));
    cut_workloads("power-cut", arguments, arguments.states.unwrap_or(20_000), plan)
}

/// The settings and the operations of a workload, which begins in that folder.
type Plan = fn(&Path, &mut Rng) -> (Settings, Vec<Op>);

/// Checks that many states of workloads with these operations.
pub fn cut_workloads(name: &'static str, arguments: &Arguments, states: u64, plan: Plan) -> Summary {
    let suite = Suite::new(name, arguments).expect("a folder for temporary files");
    if let Some(case) = arguments.number_of_case() {
        return suite.run(1, case / STATES..case / STATES + 1, |unit, bench| {
            workload(plan, unit, arguments.seed, bench, case..case + 1);
        });
    }
    let units = arguments.from / STATES..states.div_ceil(STATES);
    suite.run(arguments.threads, units, |unit, bench| {
        workload(
            plan,
            unit,
            arguments.seed,
            bench,
            unit * STATES..((unit + 1) * STATES).min(states),
        );
    })
}

/// A recorded run: its events, and its journal.
pub struct Recording {
    pub base: Image,
    pub settings: Settings,
    pub events: Vec<Event>,
    pub journal: Journal,
    pub indexes: Vec<Vec<u8>>,
}

fn workload(plan: Plan, unit: u64, all: u64, bench: &Bench<'_>, states: std::ops::Range<u64>) {
    let first = states.start.to_string();
    let mut rng = Rng::with_seed(seed(all, unit, 0));
    let (settings, ops) = plan(&bench.folder, &mut rng);
    if bench.is_shown() {
        eprintln!("{settings:?}\n{ops:?}");
    }
    let recorded = bench.attempt(&first, || record(bench, Image::default(), &[], settings.clone(), &ops));
    let recording = match recorded {
        Ok(recording) => recording,
        Err(problem) => return bench.note(&first, Err(problem), None),
    };
    for state in states {
        let case = state.to_string();
        let mut last = Image::default();
        let result = bench.attempt(&case, || {
            let (image, result) = recording.cut(bench, &mut Rng::with_seed(seed(all, state, 1)));
            last = image;
            result
        });
        bench.note(&case, result, Some(&last));
    }
}

/// Runs the operations on an image: a database with these commits in it.
///
/// # Errors
///
/// A failure on a disk without faults.
pub fn record(
    bench: &Bench<'_>,
    base: Image,
    commits: &[Job],
    settings: Settings,
    ops: &[Op],
) -> Result<Recording, String> {
    base.write_to(&bench.folder).map_err(|error| error.to_string())?;
    // Those of the case before.
    replicated::rebases(&bench.folder.join(DATABASE));
    let disk = Disk::mount(&bench.folder, &base);
    let mut run = Run::new(&disk, &bench.folder, &settings);
    run.begin_with(commits);
    run.all(ops);
    run.step(&Op::Close);
    let recording = Recording {
        base,
        settings,
        events: disk.events(),
        journal: std::mem::take(&mut run.journal),
        indexes: disk.old_indexes(),
    };
    recording.went_well()?;
    let rebases = replicated::rebases(&bench.folder.join(DATABASE));
    if let (0, Some(reason)) = (recording.journal.others, rebases.first()) {
        return Err(format!("on a good disk, the replica was begun again: {reason}"));
    }
    recording.is_complete(&bench.folder)?;
    recording.check_copies(None, false, bench, &mut Rng::with_seed(0))?;
    Ok(recording)
}

impl Recording {
    fn went_well(&self) -> Result<(), String> {
        let Journal {
            told,
            open_errors,
            read_errors,
            close_errors,
            copies,
            ..
        } = &self.journal;
        if let Some(error) = open_errors.first().or(read_errors.first()) {
            return Err(format!("on a good disk: {error}"));
        }
        if let Some(error) = close_errors.first() {
            return Err(format!("on a good disk, closing: {error}"));
        }
        if let Some(reason) = self.journal.unreplicated.first() {
            return Err(format!("on a good disk, the replica: {reason}"));
        }
        let group_may_fail = told.iter().any(|told| told.job.end.ends_the_group());
        for told in told {
            let right = match (&told.said, told.job.end.commits()) {
                (Said::Committed, commits) => commits,
                (Said::RolledBack(_), commits) => !commits || group_may_fail,
                _ => false,
            };
            if !right {
                return Err(format!("on a good disk job {:?} was told {:?}", told.job, told.said));
            }
        }
        if let Some(copy) = copies.iter().find(|copy| copy.result.is_err()) {
            return Err(format!("on a good disk, {}: {:?}", copy.name, copy.result));
        }
        self.journal.commits().map(drop)
    }

    /// Checks that the trace is complete: the events must result in the contents of the folder.
    pub fn is_complete(&self, folder: &Path) -> Result<(), String> {
        let there = Image::read(folder).map_err(|error| error.to_string())?;
        let mut traced = survive(&self.base, &self.events, Mood::Kept, &mut Rng::with_seed(0));
        traced.files.retain(|name, _| !is_index(name));
        match there.difference(&traced) {
            Some(name) => Err(format!("{name} is not what the trace comes to")),
            None => Ok(()),
        }
    }

    /// One state of the disk after a power cut, and whether all guarantees hold in it.
    pub fn cut(&self, bench: &Bench<'_>, rng: &mut Rng) -> (Image, Result<(), String>) {
        let cut = self.moment(rng);
        self.cut_at(cut, Mood::any(rng), bench, rng)
    }

    /// One state after this many events.
    pub fn cut_at(&self, cut: usize, mood: Mood, bench: &Bench<'_>, rng: &mut Rng) -> (Image, Result<(), String>) {
        let mut image = survive(&self.base, &self.events[..cut], mood, rng);
        add_index(&mut image, DATABASE, &self.indexes, rng);
        let result = self.look_at(&image, cut, bench, rng);
        if result.is_err() && bench.is_shown() {
            self.show();
            let sizes = image
                .files
                .iter()
                .map(|(name, data)| format!("{name}: {} bytes", data.len()));
            eprintln!("  left after {cut}: {}", sizes.collect::<Vec<_>>().join(", "));
        }
        let of = self.events.len();
        (
            image,
            result.map_err(|problem| format!("cut after {cut} of {of} events, {mood:?}: {problem}")),
        )
    }

    fn look_at(&self, image: &Image, cut: usize, bench: &Bench<'_>, rng: &mut Rng) -> Result<(), String> {
        self.have_copies_survived(image, cut)?;
        image.write_to(&bench.folder).map_err(|error| error.to_string())?;
        check(&bench.folder, &self.settings, &self.expected(cut)?, rng)?;
        self.back_up_again(&bench.folder)
    }

    pub fn expected(&self, cut: usize) -> Result<Expected<'_>, String> {
        let commits = self.journal.commits()?.into_iter().chain(self.journal.unknown());
        Ok(Expected {
            jobs: commits.map(|told| &told.job).collect(),
            least: self.journal.durable_at(cut)?,
            in_replica: self.journal.replicated_at(cut),
        })
    }

    /// Any event, or one near a sync or a reply, where it matters.
    pub fn moment(&self, rng: &mut Rng) -> usize {
        let last = self.last_moment();
        let near = match rng.u32(0..4) {
            0 | 1 => return rng.usize(0..=last),
            2 => {
                let syncs: Vec<usize> = self.syncs().filter(|sync| *sync < last).collect();
                rng.choice(syncs).unwrap_or(0)
            }
            _ => rng.choice(&self.journal.told).map_or(0, |told| told.at.min(last)),
        };
        (near + rng.usize(0..3)).min(last)
    }

    /// The end; or, if a sync has failed and the store could not leave its marker, the next open. From then on SQLite
    /// recovers the WAL from the page cache, which contains pages that are not on the disk and never will be: the
    /// machine should have been restarted before that service, and an event has said so.
    fn last_moment(&self) -> usize {
        let opened = |failed: usize| self.journal.opens.iter().copied().find(|open| *open > failed);
        let no_word = |event: &Event| matches!(event, Event::CreateFailed { name } if name.ends_with("-unsynced"));
        let failed = |event: &Event| matches!(event, Event::SyncFailed { .. });
        let events = self.events.iter().enumerate();
        let syncs = events.filter(|(_, event)| failed(event)).map(|(at, _)| at);
        let mut ends = syncs.filter_map(|at| opened(at).filter(|end| self.events[at..*end].iter().any(no_word)));
        ends.next().unwrap_or(self.events.len())
    }

    /// Prints the trace, with the replies at their places.
    pub fn show(&self) {
        for (i, event) in self.events.iter().enumerate() {
            for told in self.journal.told.iter().filter(|told| told.at == i) {
                eprintln!(
                    "         job {} as commit {}: {:?}, durable: {}",
                    told.job.id, told.number, told.said, told.durable
                );
            }
            if self.journal.emptied.contains(&i) {
                eprintln!("         closed, the log is empty");
            }
            eprintln!("  {i:>5}  {}", event.show());
        }
    }

    /// The events that are syncs.
    pub fn syncs(&self) -> impl Iterator<Item = usize> {
        let sync =
            |(i, event): (usize, &Event)| matches!(event, Event::Sync { .. } | Event::SyncFolder { .. }).then_some(i);
        self.events.iter().enumerate().filter_map(sync)
    }
}

/// A service's day, in a few dozen operations.
pub fn operations(rng: &mut Rng) -> Vec<Op> {
    let mut next = 0;
    let mut job = |rng: &mut Rng| {
        next += 1;
        Job::any(next, rng)
    };
    let mut ops = vec![Op::Open];
    for _ in 0..rng.usize(4..24) {
        match rng.u32(0..25) {
            0..11 => ops.push(Op::Write(job(rng))),
            11..18 => ops.push(Op::Group((0..rng.usize(1..7)).map(|_| job(rng)).collect())),
            18 => ops.push(Op::Read),
            19 => ops.push(Op::Pin),
            20 | 21 => ops.push(Op::Unpin),
            22 => ops.push(Op::Close),
            23 => ops.push(Op::Bulk),
            _ => ops.push(Op::Drop),
        }
    }
    ops
}
