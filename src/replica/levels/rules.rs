//! What is merged, kept and deleted, as pure functions over lists of files and a clock.
//!
//! # Merging
//!
//! A level's time is cut into periods: 30 seconds, 5 minutes, an hour, of which each has a whole number of the one
//! before. When a period is over, the files below whose last transaction lies in it become one file. So a file ends where
//! its period does, whenever it is made, and after an outage the grain is the same.
//!
//! # Retention
//!
//! "Now" is the time of the newest object, by the storage's clock, or the local clock's, whichever is earlier: a clock that
//! is ahead deletes nothing by itself. The *base* is the newest snapshot that is at least `retention` old. Everything
//! after it is kept, and so any time within `retention` can be restored. Older snapshots go, and the files of levels 1 to
//! 8 that the base covers. Files of level 0 go together with the others that the same file of level 1 has, when that is
//! older than `l0_retention`: one of them without those before it would make no state. Never deleted: the newest file of
//! a level, and claims.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::replica::storage::FileInfo;

/// The level of snapshots.
pub const SNAPSHOTS: u8 = 9;

/// The highest level that files are merged into.
pub(super) const HIGHEST: u8 = 3;

/// Files that are merged at a time. Each takes a page and its buffers in memory.
const MOST_INPUTS: usize = 64;

/// When files are merged, and how long they are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LevelTimes {
    /// The periods of levels 1 to 3. Each is a multiple of the one before.
    pub levels: [Duration; 3],
    /// How long a file of level 0 is kept at least.
    pub l0_retention: Duration,
    /// Time between two snapshots.
    pub snapshot_every: Duration,
    /// How far back any time can be restored.
    pub retention: Duration,
}

impl Default for LevelTimes {
    fn default() -> Self {
        const HOUR: Duration = Duration::from_secs(3600);
        Self {
            levels: [Duration::from_secs(30), Duration::from_secs(300), HOUR],
            l0_retention: HOUR,
            snapshot_every: 24 * HOUR,
            retention: 7 * 24 * HOUR,
        }
    }
}

/// Files of one level that become a file of the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merge {
    /// The level of the new file.
    pub to: u8,
    /// In the order of their transactions. Each goes on from the one before it.
    pub inputs: Vec<FileInfo>,
}

/// The next merge whose period is over. Lower levels come first.
pub fn next_merge(files: &[FileInfo], times: &LevelTimes, now: SystemTime) -> Option<Merge> {
    (1..=HIGHEST).find_map(|to| merge_into(files, to, times.period(to), now))
}

fn merge_into(files: &[FileInfo], to: u8, period: Duration, now: SystemTime) -> Option<Merge> {
    let waiting = waiting(files, to);
    let number = number(waiting.first()?.modified, period);
    let mut inputs: Vec<FileInfo> = Vec::new();
    for file in &waiting {
        let goes_on = inputs.last().is_none_or(|last| file.txids.min <= last.txids.max + 1);
        let is_in_time = self::number(file.modified, period) <= number;
        if !goes_on || !is_in_time || inputs.len() == MOST_INPUTS {
            break;
        }
        inputs.push(*file);
    }
    // Where a clock was ahead, its periods are not over for long.
    let is_over = number < self::number(now, period) || waiting.len() > MOST_INPUTS;
    is_over.then_some(Merge { to, inputs })
}

/// The files below a level that it does not have yet, without those that another one contains.
fn waiting(files: &[FileInfo], to: u8) -> Vec<FileInfo> {
    let reached = newest(files, to);
    let mut below: Vec<_> = files
        .iter()
        .filter(|file| file.level == to - 1 && file.txids.max > reached)
        .copied()
        .collect();
    below.sort_unstable_by_key(|file| file.txids);
    let mut covered = reached;
    below.retain(|file| {
        let extends = file.txids.max > covered;
        covered = covered.max(file.txids.max);
        extends
    });
    below
}

/// Whether it is time for a snapshot. A database without changes since the last one needs none.
pub fn snapshot_is_due(files: &[FileInfo], times: &LevelTimes, now: SystemTime) -> bool {
    snapshot_due_at(files, times).is_some_and(|due| due <= now)
}

pub(super) fn snapshot_due_at(files: &[FileInfo], times: &LevelTimes) -> Option<SystemTime> {
    let snapshots = files.iter().filter(|file| file.level == SNAPSHOTS);
    let last = snapshots.max_by_key(|file| file.txids.max);
    let (covered, since) = match last {
        Some(last) => (last.txids.max, last.modified),
        None => (1, files.iter().map(|file| file.modified).min()?),
    };
    (newest(files, 0) > covered).then(|| later(since, times.snapshot_every))
}

/// When something becomes due, if nothing is uploaded meanwhile.
pub fn next_due(files: &[FileInfo], times: &LevelTimes) -> Option<SystemTime> {
    let merges = (1..=HIGHEST).filter_map(|to| {
        let period = times.period(to);
        let first = *waiting(files, to).first()?;
        Some(later(first.modified, period - into(first.modified, period)))
    });
    merges.chain(snapshot_due_at(files, times)).min()
}

/// The files that retention deletes. `claims` are those of the owners.
pub fn expendable(files: &[FileInfo], claims: &BTreeSet<u64>, times: &LevelTimes, now: SystemTime) -> Vec<FileInfo> {
    let now = files
        .iter()
        .map(|file| file.modified)
        .max()
        .map_or(now, |newest| newest.min(now));
    let is_older = |file: &FileInfo, age: Duration| later(file.modified, age) < now;
    let snapshots = files.iter().filter(|file| file.level == SNAPSHOTS);
    let old = snapshots.filter(|file| is_older(file, times.retention));
    let base = old.map(|file| file.txids.max).max().unwrap_or(0);
    let of_level_1 = files.iter().filter(|file| file.level == 1);
    let in_level_1 = Covered::by(of_level_1.filter(|file| is_older(file, times.l0_retention)));
    let is_expendable = |file: &&FileInfo| {
        let txid = file.txids.max;
        match file.level {
            SNAPSHOTS => txid < base,
            0 => {
                let is_above = txid <= base || in_level_1.has(file);
                is_above && is_older(file, times.l0_retention) && !claims.contains(&txid)
            }
            _ => txid <= base,
        }
    };
    let newest: Vec<u64> = (0..=SNAPSHOTS).map(|level| newest(files, level)).collect();
    let is_newest = |file: &&FileInfo| newest[usize::from(file.level)] == file.txids.max;
    let known = files.iter().filter(|file| file.level <= SNAPSHOTS);
    known
        .filter(|file| is_expendable(file) && !is_newest(file))
        .copied()
        .collect()
}

/// The transactions that some files have, as ranges in ascending order.
struct Covered(Vec<(u64, u64)>);

impl Covered {
    fn by<'f>(files: impl Iterator<Item = &'f FileInfo>) -> Self {
        let mut sorted: Vec<_> = files.map(|file| (file.txids.min, file.txids.max)).collect();
        sorted.sort_unstable();
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for (min, max) in sorted {
            match ranges.last_mut() {
                Some(last) if min <= last.1 + 1 => last.1 = last.1.max(max),
                _ => ranges.push((min, max)),
            }
        }
        Self(ranges)
    }

    fn has(&self, file: &FileInfo) -> bool {
        let after = self.0.partition_point(|(min, _)| *min <= file.txids.min);
        after.checked_sub(1).is_some_and(|at| file.txids.max <= self.0[at].1)
    }
}

/// The newest transaction of a level, or 0.
fn newest(files: &[FileInfo], level: u8) -> u64 {
    let of_level = files.iter().filter(|file| file.level == level);
    of_level.map(|file| file.txids.max).max().unwrap_or(0)
}

impl LevelTimes {
    /// Says what is out of range.
    pub(in crate::replica) fn check(&self) -> Result<(), String> {
        const MINUTE: Duration = Duration::from_secs(60);
        let [first, ..] = self.levels;
        if first < Duration::from_secs(1) {
            return Err(format!("the first of the levels is {first:?}, and 1 s is the least"));
        }
        for pair in self.levels.windows(2) {
            if pair[1] <= pair[0] || !pair[1].as_nanos().is_multiple_of(pair[0].as_nanos()) {
                return Err(format!(
                    "a level of {:?} is no multiple of the one before it, {:?}",
                    pair[1], pair[0]
                ));
            }
        }
        for (name, value, least) in [
            ("l0_retention", self.l0_retention, MINUTE),
            ("snapshot_every", self.snapshot_every, MINUTE),
            ("retention", self.retention, 60 * MINUTE),
        ] {
            if value < least {
                return Err(format!("a {name} of {value:?} is below {least:?}"));
            }
        }
        Ok(())
    }

    fn period(&self, level: u8) -> Duration {
        self.levels[usize::from(level) - 1].max(Duration::from_millis(1))
    }
}

/// The number of the period that a time is in.
fn number(time: SystemTime, period: Duration) -> u128 {
    since_1970(time).as_nanos() / period.as_nanos()
}

/// How long the period of a time has lasted then.
fn into(time: SystemTime, period: Duration) -> Duration {
    let nanos = since_1970(time).as_nanos() % period.as_nanos();
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn later(time: SystemTime, by: Duration) -> SystemTime {
    // A time that cannot be named does not come.
    time.checked_add(by)
        .unwrap_or(UNIX_EPOCH + Duration::from_secs(u64::from(u32::MAX) * 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::storage::Txids;

    /// A day's beginning.
    const DAY: u64 = 1_790_035_200;

    fn at(second: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(DAY + second)
    }

    fn file(level: u8, min: u64, max: u64, second: u64) -> FileInfo {
        FileInfo {
            level,
            txids: Txids { min, max },
            size: 1000,
            modified: at(second),
        }
    }

    /// A transaction each second.
    fn singles(range: std::ops::RangeInclusive<u64>) -> Vec<FileInfo> {
        range.map(|txid| file(0, txid, txid, txid)).collect()
    }

    fn merged(files: &[FileInfo], second: u64) -> Option<(u8, u64, u64)> {
        let merge = next_merge(files, &LevelTimes::default(), at(second))?;
        let (first, last) = (merge.inputs.first().unwrap(), merge.inputs.last().unwrap());
        Some((merge.to, first.txids.min, last.txids.max))
    }

    #[test]
    fn files_of_a_period_are_merged_once_it_is_over() {
        let mut files = singles(1..=75);
        assert_eq!(merged(&singles(1..=29), 29), None);
        assert_eq!(merged(&files, 75), Some((1, 1, 29)));
        files.push(file(1, 1, 29, 29));
        assert_eq!(merged(&files, 75), Some((1, 30, 59)));
        files.push(file(1, 30, 59, 59));
        assert_eq!(merged(&files, 75), None);
        // The others wait for their period, and then for that of level 2.
        assert_eq!(next_due(&files, &LevelTimes::default()), Some(at(90)));
        assert_eq!(merged(&files, 89), None);
        assert_eq!(merged(&files, 90), Some((1, 60, 75)));
        files.push(file(1, 60, 75, 75));
        assert_eq!(
            (merged(&files, 299), next_due(&files, &LevelTimes::default())),
            (None, Some(at(300)))
        );
        assert_eq!(merged(&files, 300), Some((2, 1, 75)));
        files.push(file(2, 1, 75, 75));
        assert_eq!(merged(&files, 3599), None);
        assert_eq!(merged(&files, 3600), Some((3, 1, 75)));
        files.push(file(3, 1, 75, 75));
        assert_eq!(merged(&files, 1_000_000), None);
        assert_eq!(
            next_due(&files, &LevelTimes::default()),
            Some(at(1 + 86400)),
            "the first snapshot"
        );
    }

    #[test]
    fn files_with_a_gap_are_not_merged_together() {
        let files: Vec<_> = singles(3..=5).into_iter().chain(singles(8..=9)).collect();
        assert_eq!(merged(&files, 100), Some((1, 3, 5)));
        let files: Vec<_> = files.into_iter().chain([file(1, 3, 5, 5)]).collect();
        assert_eq!(merged(&files, 100), Some((1, 8, 9)));
    }

    #[test]
    fn merge_has_bounded_inputs_even_before_its_time() {
        let burst: Vec<_> = (1..=200).map(|txid| file(0, txid, txid, 7)).collect();
        assert_eq!(merged(&burst, 8), Some((1, 1, 64)));
        assert_eq!(merged(&burst[..64], 8), None);
        // A clock that was far ahead.
        let ahead: Vec<_> = (1..=200).map(|txid| file(0, txid, txid, 1_000_000)).collect();
        assert_eq!(merged(&ahead, 8), Some((1, 1, 64)));
    }

    #[test]
    fn contained_files_are_not_merged_twice() {
        // Two owners merged to different ends.
        let files = [
            file(1, 1, 20, 20),
            file(1, 1, 25, 25),
            file(1, 21, 23, 23),
            file(1, 26, 40, 40),
        ];
        let merge = next_merge(&files, &LevelTimes::default(), at(300)).unwrap();
        let inputs: Vec<_> = merge
            .inputs
            .iter()
            .map(|file| (file.txids.min, file.txids.max))
            .collect();
        assert_eq!(inputs, [(1, 20), (1, 25), (26, 40)]);
    }

    #[test]
    fn snapshot_is_due_after_its_time_and_changes() {
        let times = LevelTimes::default();
        let due = |files: &[FileInfo], second| snapshot_is_due(files, &times, at(second));
        assert!(!due(&[], 1_000_000));
        assert!(!due(&[file(0, 1, 1, 0)], 1_000_000), "it has every page");
        let files = [file(0, 1, 1, 0), file(0, 2, 2, 10)];
        assert!(!due(&files, 86399) && due(&files, 86400));
        let files = [file(9, 1, 2, 86400), file(0, 2, 2, 10)];
        assert!(!due(&files, 1_000_000));
        let files = [file(9, 1, 2, 86400), file(0, 3, 3, 90000)];
        assert!(!due(&files, 2 * 86400 - 1) && due(&files, 2 * 86400));
    }

    fn kept(files: &[FileInfo], claims: &[u64]) -> Vec<(u8, u64, u64)> {
        let claims = claims.iter().copied().collect();
        let gone = expendable(files, &claims, &LevelTimes::default(), at(20 * 86400));
        let kept = files.iter().filter(|file| !gone.contains(file));
        kept.map(|file| (file.level, file.txids.min, file.txids.max)).collect()
    }

    #[test]
    fn level_0_goes_once_it_is_old_and_in_level_1() {
        let mut files = singles(1..=10);
        files.push(file(0, 11, 11, 5000));
        assert_eq!(kept(&files, &[]).len(), files.len(), "level 1 has none of them");
        files.push(file(1, 1, 6, 6));
        files.push(file(1, 7, 10, 2000));
        let level_0 = |claims: &[u64]| -> Vec<u64> {
            let kept = kept(&files, claims).into_iter().filter(|(level, ..)| *level == 0);
            kept.map(|(_, min, _)| min).collect()
        };
        assert_eq!(level_0(&[]), [7, 8, 9, 10, 11]);
        assert_eq!(level_0(&[3, 9]), [3, 7, 8, 9, 10, 11]);
        // The newest object is 3600 seconds younger than the others at most: nothing is old.
        let young: Vec<_> = singles(1..=10)
            .into_iter()
            .chain([file(1, 1, 10, 10), file(0, 11, 11, 3600)])
            .collect();
        assert_eq!(kept(&young, &[]).len(), young.len());
        // Without writes the newest stays, whatever the clock says.
        let idle: Vec<_> = singles(1..=2).into_iter().chain([file(1, 1, 2, 2)]).collect();
        assert_eq!(kept(&idle, &[]).len(), idle.len());
    }

    #[test]
    fn any_time_within_retention_keeps_its_base() {
        const DAY: u64 = 86400;
        let mut files = vec![file(0, 1, 1, 0)];
        for day in 0..10 {
            let (first, last) = (day * 100 + 2, day * 100 + 101);
            files.push(file(1, first, last - 50, day * DAY + 1000));
            files.push(file(1, last - 49, last, day * DAY + 2000));
            files.push(file(3, first, last, day * DAY + 2000));
            files.push(file(9, 1, last, (day + 1) * DAY));
        }
        files.push(file(0, 1002, 1002, 10 * DAY + 10));
        let kept = kept(&files, &[]);
        // The snapshot of day 2 is the newest that is seven days old.
        let snapshots: Vec<_> = kept
            .iter()
            .filter(|(level, ..)| *level == 9)
            .map(|(.., max)| *max)
            .collect();
        assert_eq!(snapshots, [301, 401, 501, 601, 701, 801, 901, 1001]);
        let merged: Vec<_> = kept.iter().filter(|(level, ..)| [1, 3].contains(level)).collect();
        assert_eq!(merged.len(), 7 * 3);
        assert!(merged.iter().all(|(_, min, _)| *min > 301), "{merged:?}");
        assert!(!kept.contains(&(0, 1, 1)), "the base has it");
        let first_week: Vec<_> = files.into_iter().filter(|file| file.modified < at(7 * DAY)).collect();
        assert_eq!(
            self::kept(&first_week, &[]).len(),
            first_week.len(),
            "no snapshot is old enough"
        );
    }

    /// The other files are as old as the newest one says only if the local clock says so, too.
    #[test]
    fn clock_that_was_ahead_deletes_nothing() {
        let mut files = singles(1..=10);
        files.extend([file(1, 1, 10, 10), file(9, 1, 9, 9), file(9, 1, 10, 10)]);
        files.push(file(0, 11, 11, 1_000_000_000));
        let gone = |now| expendable(&files, &BTreeSet::new(), &LevelTimes::default(), now).len();
        assert_eq!((gone(at(20)), gone(at(2_000_000_000))), (0, 11));
    }

    #[test]
    fn newest_file_of_each_level_stays() {
        let week = 8 * 86400;
        let files = [
            file(0, 5, 5, 10),
            file(1, 1, 5, 10),
            file(2, 1, 5, 10),
            file(9, 1, 5, 20),
            // Something newer in a level of its own, so that time goes on.
            file(8, 6, 6, week),
        ];
        assert_eq!(kept(&files, &[]).len(), files.len());
    }
}
