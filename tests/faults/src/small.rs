//! Every sequence of up to three operations out of a dozen, with a power cut before and after each sync.
//!
//! Random runs find defects that are frequent in long sequences. This finds rare ones in short sequences.

use fastrand::Rng;

use crate::Arguments;
use crate::calls::image_of;
use crate::cases::{Bench, Suite, Summary, seed};
use crate::disk::{Image, Mood};
use crate::job::{End, Job};
use crate::power_cut::{Recording, record};
use crate::scripts::{Base, Jobs, one};
use crate::settings::Settings;
use crate::workload::Op;

const LONGEST: usize = 3;

/// An operation, and its letter in the name of a case.
struct Operation {
    letter: char,
    ops: fn(&mut Jobs) -> Vec<Op>,
}

const OPERATIONS: &[Operation] = &[
    Operation {
        letter: 'w',
        ops: |jobs| vec![Op::Write(jobs.plain())],
    },
    Operation {
        letter: 'f',
        ops: |jobs| vec![Op::Write(jobs.full())],
    },
    Operation {
        letter: 'x',
        ops: |jobs| vec![Op::Write(jobs.ending(End::Constraint))],
    },
    Operation {
        letter: 's',
        ops: |jobs| vec![Op::Write(jobs.ending(End::CommitRest))],
    },
    Operation {
        letter: 'g',
        ops: |jobs| {
            vec![Op::Group(vec![
                jobs.plain(),
                jobs.ending(End::DeferredKey),
                jobs.plain(),
            ])]
        },
    },
    Operation {
        letter: 'h',
        ops: |jobs| vec![Op::Group(vec![jobs.plain(), jobs.full(), jobs.plain()])],
    },
    // Ends the transaction of all three.
    Operation {
        letter: 'r',
        ops: |jobs| {
            vec![Op::Group(vec![
                jobs.plain(),
                jobs.ending(End::OrRollback),
                jobs.plain(),
            ])]
        },
    },
    // More than a checkpoint's threshold, and than the cache.
    Operation {
        letter: 'l',
        ops: |jobs| vec![one(jobs.large())],
    },
    Operation {
        letter: 'd',
        ops: |jobs| {
            vec![one(Job {
                clear: Some(2),
                ..jobs.plain()
            })]
        },
    },
    Operation {
        letter: 'p',
        ops: |_| vec![Op::Pin],
    },
    Operation {
        letter: 'u',
        ops: |_| vec![Op::Unpin],
    },
    Operation {
        letter: 'c',
        ops: |_| vec![Op::Close, Op::Open],
    },
];

pub fn run(arguments: &Arguments) -> Summary {
    let suite = Suite::new("small", arguments).expect("a folder for temporary files");
    let sequences = sequences();
    if let Some(case) = &arguments.case {
        let mut parts = case.split('/');
        let letters = parts.next().expect("LETTERS/CUT");
        let cut = parts.next().map(|cut| cut.parse().expect("a number"));
        let known = sequences.iter().position(|sequence| name(sequence) == letters);
        let index = known.expect("letters of operations") as u64;
        return suite.run(1, index..index + 1, |unit, bench| {
            sequence(&sequences[unit as usize], arguments.seed, bench, cut);
        });
    }
    let end = arguments.states.unwrap_or(u64::MAX).min(sequences.len() as u64);
    suite.run(arguments.threads, arguments.from..end, |unit, bench| {
        sequence(&sequences[unit as usize], arguments.seed, bench, None);
    })
}

type Sequence = Vec<&'static Operation>;

fn name(sequence: &Sequence) -> String {
    sequence.iter().map(|operation| operation.letter).collect()
}

/// All sequences, the short ones first.
fn sequences() -> Vec<Sequence> {
    let mut all: Vec<Sequence> = vec![vec![]];
    let mut from = 0;
    for _ in 0..LONGEST {
        let to = all.len();
        for i in from..to {
            for operation in OPERATIONS {
                let mut longer = all[i].clone();
                longer.push(operation);
                all.push(longer);
            }
        }
        from = to;
    }
    all.remove(0);
    all
}

fn sequence(operations: &Sequence, all: u64, bench: &Bench<'_>, only: Option<usize>) {
    let name = name(operations);
    let recording = match bench.attempt(&name, || play(operations, bench)) {
        Ok(recording) => recording,
        Err(problem) => return bench.note(&name, Err(problem), None),
    };
    for cut in cuts(&recording).filter(|cut| only.is_none_or(|only| only == *cut)) {
        let case = format!("{name}/{cut}");
        let mut rng = Rng::with_seed(case.bytes().fold(all, |sum, byte| seed(sum, byte.into(), 6)));
        let mood = Mood::any(&mut rng);
        let mut last = Image::default();
        let result = bench.attempt(&case, || {
            let (image, result) = recording.cut_at(cut, mood, bench, &mut rng.clone());
            last = image;
            result
        });
        bench.note(&case, result, Some(&last));
    }
}

fn play(operations: &Sequence, bench: &Bench<'_>) -> Result<Recording, String> {
    let mut jobs = Jobs::after(&[]);
    let commits: Vec<Job> = (0..3).map(|_| jobs.plain()).collect();
    let image = image_of(bench, &commits, Base::Closed)?;
    let settings = Settings {
        checkpoint_pages: 8,
        wal_limit: 64 << 10,
        cache_size: 1 << 10,
        ..Settings::default()
    };
    let mut ops = vec![Op::Open];
    operations
        .iter()
        .for_each(|operation| ops.extend((operation.ops)(&mut jobs)));
    record(bench, image, &commits, settings, &ops)
}

/// The cuts right before each sync, right after it, and at the end.
fn cuts(recording: &Recording) -> impl Iterator<Item = usize> {
    let mut cuts: Vec<usize> = recording.syncs().flat_map(|sync| [sync, sync + 1]).collect();
    cuts.push(recording.events.len());
    cuts.dedup();
    cuts.into_iter()
}
