//! Power cuts during backups: new ones, replacements of older ones, compact ones, and restored databases, with writes
//! in between.
//!
//! As `power-cut`, with the rules for copies (`copies.rs`): once a backup was reported as done it is there, complete,
//! byte for byte; before that the older one is there, or none; and the next backup removes unfinished ones.

use fastrand::Rng;

use crate::Arguments;
use crate::cases::Summary;
use crate::job::Job;
use crate::power_cut::cut_workloads;
use crate::settings::Settings;
use crate::workload::{Backup, Op};

pub fn run(arguments: &Arguments) -> Summary {
    cut_workloads("backups", arguments, arguments.states.unwrap_or(2000), |_, rng| {
        (Settings::any(rng), operations(rng))
    })
}

/// A service with a busy operator.
fn operations(rng: &mut Rng) -> Vec<Op> {
    let mut next = 0;
    let mut job = |rng: &mut Rng| {
        next += 1;
        Job::any(next, rng)
    };
    let mut made: Vec<String> = vec![];
    let mut ops = vec![Op::Open];
    for number in 0..rng.usize(6..16) {
        match rng.u32(0..16) {
            0..4 => ops.push(Op::Write(job(rng))),
            4..7 => ops.push(Op::Group((0..rng.usize(1..5)).map(|_| job(rng)).collect())),
            7..13 => {
                let older = rng.choice(&made).filter(|_| rng.bool()).cloned();
                let backup = match older {
                    Some(name) => Backup::over(&name),
                    None => {
                        made.push(format!("app.db.{number}"));
                        Backup::new(&made[made.len() - 1])
                    }
                };
                let backup = if rng.u32(0..3) == 0 { backup.compact() } else { backup };
                let during: Vec<Job> = (0..rng.usize(0..4)).map(|_| job(rng)).collect();
                ops.push(Op::Backup(backup.during(during)));
            }
            13 | 14 => {
                if let Some(from) = rng.choice(&made).cloned() {
                    let to = format!("restored.{number}");
                    ops.push(Op::Restore { from, to });
                }
            }
            _ => ops.push(Op::Close),
        }
    }
    ops
}
