//! A failure in the recovery from a power cut: a call fails, or the power is cut again.

use fastrand::Rng;

use crate::Arguments;
use crate::calls::Case;
use crate::cases::{Bench, Suite, Summary, seed};
use crate::check::look;
use crate::disk::{Image, Mood, add_index, survive};
use crate::job::Job;
use crate::power_cut::{Recording, operations, record};
use crate::scripts::{Jobs, KINDS, one};
use crate::settings::{LONG, SHORT, Settings};
use crate::trace::Plan;
use crate::workload::{DATABASE, Op};

/// First power cuts of one workload.
const FIRST: u64 = 8;

/// States made from each: half of them by a second power cut, half by a failing call.
const SECOND: u64 = 8;

const UNIT: u64 = FIRST * SECOND;

pub fn run(arguments: &Arguments) -> Summary {
    let suite = Suite::new("compound", arguments).expect("a folder for temporary files");
    if let Some(case) = arguments.number_of_case() {
        return suite.run(1, case / UNIT..case / UNIT + 1, |unit, bench| {
            workload(unit, arguments.seed, bench, case..case + 1);
        });
    }
    let states = arguments.states.unwrap_or(10_000);
    suite.run(
        arguments.threads,
        arguments.from / UNIT..states.div_ceil(UNIT),
        |unit, bench| {
            workload(
                unit,
                arguments.seed,
                bench,
                unit * UNIT..((unit + 1) * UNIT).min(states),
            );
        },
    )
}

fn workload(unit: u64, all: u64, bench: &Bench<'_>, states: std::ops::Range<u64>) {
    let first = states.start.to_string();
    let mut rng = Rng::with_seed(seed(all, unit, 3));
    let settings = Settings {
        patience: LONG,
        ..Settings::any(&mut rng)
    };
    let ops = operations(&mut rng);
    let recording = match bench.attempt(&first, || record(bench, Image::default(), &[], settings.clone(), &ops)) {
        Ok(recording) => recording,
        Err(problem) => return bench.note(&first, Err(problem), None),
    };
    for cut in states.start / SECOND..states.end.div_ceil(SECOND) {
        let mine = (cut * SECOND).max(states.start)..((cut + 1) * SECOND).min(states.end);
        let case = mine.start.to_string();
        match bench.attempt(&case, || Wreck::new(&recording, bench, seed(all, cut, 4))) {
            Ok(wreck) => mine.for_each(|state| wreck.state(state, all, bench)),
            Err(problem) => bench.note(&case, Err(problem), None),
        }
    }
}

/// The state after the first power cut.
struct Wreck {
    image: Image,
    settings: Settings,
    /// The commits that can be recovered from it. Once recovered, they must stay.
    commits: Vec<Job>,
    recovery: Recording,
}

fn recover(jobs: &mut Jobs) -> Vec<Op> {
    vec![Op::Open, Op::Read, one(jobs.plain()), one(jobs.full()), Op::Close]
}

impl Wreck {
    fn new(recording: &Recording, bench: &Bench<'_>, seed: u64) -> Result<Self, String> {
        let mut rng = Rng::with_seed(seed);
        let cut = recording.moment(&mut rng);
        let mut image = survive(&recording.base, &recording.events[..cut], Mood::any(&mut rng), &mut rng);
        add_index(&mut image, DATABASE, &recording.indexes, &mut rng);
        let settings = recording.settings.clone();
        let commits = commits(recording, &image, cut, bench)?;
        let ops = recover(&mut Jobs::after(&commits));
        let recovery = record(bench, image.clone(), &commits, settings.clone(), &ops)?;
        Ok(Self {
            image,
            settings,
            commits,
            recovery,
        })
    }

    fn state(&self, state: u64, all: u64, bench: &Bench<'_>) {
        let case = state.to_string();
        let result = bench.attempt(&case, || {
            let mut rng = Rng::with_seed(seed(all, state, 5));
            if state.is_multiple_of(2) {
                self.recovery.cut(bench, &mut rng).1
            } else {
                self.fail(bench, &mut rng)
            }
        });
        bench.note(&case, result, Some(&self.image));
    }

    /// Fails one call of the recovery, or all calls from one on.
    fn fail(&self, bench: &Bench<'_>, rng: &mut Rng) -> Result<(), String> {
        let kind = &KINDS[rng.usize(0..KINDS.len())];
        // Half of the failures hit the first calls, which recover the WAL.
        let nth = if rng.bool() { rng.u64(1..20) } else { rng.u64(1..200) };
        let plan = Plan {
            fault: kind.fault,
            calls: kind.calls,
            files: kind.files,
            nth,
            sticky: rng.bool(),
        };
        let case = Case {
            settings: Settings {
                patience: SHORT,
                ..self.settings.clone()
            },
            image: &self.image,
            commits: &self.commits,
            before: &|_| vec![],
            during: &recover,
            plan,
            cuts: 1,
        };
        case.run(bench, rng)
            .map(drop)
            .map_err(|(hit, problem)| format!("{problem}; {} {plan:?} hit {hit:?}", kind.name))
    }
}

/// The commits that can be recovered.
fn commits(recording: &Recording, image: &Image, cut: usize, bench: &Bench<'_>) -> Result<Vec<Job>, String> {
    image.write_to(&bench.folder).map_err(|error| error.to_string())?;
    let expected = recording.expected(cut)?;
    let store = recording.settings.options().open(bench.folder.join(DATABASE));
    let store = store.map_err(|error| format!("after the first power cut: {error}"))?;
    let found = look(&store, &expected)?;
    store.close().map_err(|error| error.to_string())?;
    Ok(expected.jobs[..found].iter().map(|job| (*job).clone()).collect())
}
