//! Which files of a replica make a state of the database: the plan of Litestream 0.5 (`CalcRestorePlan` in its
//! [`replica.go`](https://github.com/benbjohnson/litestream/blob/v0.5.17/replica.go)).
//!
//! It begins with the newest snapshot that is not beyond the target. Then it adds, again and again, the file of any
//! level that begins with the next transaction or earlier and reaches furthest. No other choice reaches further: where
//! a file can follow, it can also follow everything that reaches further.
//!
//! Unlike Litestream's, a plan by time does not end silently before a gap: the transactions that are missing may have
//! been made before that time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;

use crate::replica::storage::{FileInfo, Txids};

/// The level of snapshots.
pub(crate) const SNAPSHOTS: u8 = 9;

/// The state that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The newest.
    Newest,
    /// That after this transaction.
    Txid(u64),
    /// The newest that was captured before this time, in milliseconds since 1970.
    Before(i64),
}

/// Why no files make the state.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PlanError {
    /// There is no file.
    Empty,
    /// No file has these transactions, and other files have later ones.
    Gap {
        missing: Txids,
        /// The last transaction before them that can be restored.
        reached: Option<u64>,
    },
    /// The transaction is there only together with others.
    Merged {
        txid: u64,
        before: Option<u64>,
        after: Option<u64>,
    },
    /// The newest transaction is an earlier one.
    Beyond { txid: u64, newest: u64 },
    /// Every file was captured later. `first` makes the oldest state.
    TooEarly { first: FileInfo },
}

/// Lists the files whose pages make the wanted state, in the order in which they are applied. `files` are those of all
/// levels. `timestamp` looks up when a file's last transaction was captured; it is called for targets by time alone,
/// and only for the files that would be used.
pub(crate) fn plan<E: From<PlanError>>(
    files: &[FileInfo],
    target: Target,
    mut timestamp: impl FnMut(&FileInfo) -> Result<i64, E>,
) -> Result<Vec<FileInfo>, E> {
    let mut is_allowed = |file: &FileInfo| match target {
        Target::Newest => Ok(true),
        Target::Txid(txid) => Ok(file.txids.max <= txid),
        Target::Before(time) => timestamp(file).map(|made| made < time),
    };
    let snapshot = newest_snapshot(files, &mut is_allowed)?.copied();
    let mut reached = snapshot.map_or(0, |file| file.txids.max);
    let mut planned = Vec::from_iter(snapshot);
    planned.extend(after(files, reached, is_allowed)?);
    reached = planned.last().map_or(reached, |file| file.txids.max);
    match refusal(files, target, reached) {
        Some(refusal) => Err(refusal.into()),
        None => Ok(planned),
    }
}

/// Lists the files that lead on from the state after a transaction, as far as they go.
pub(crate) fn plan_after(files: &[FileInfo], reached: u64) -> Vec<FileInfo> {
    let planned: Result<_, PlanError> = after(files, reached, |_| Ok(true));
    planned.expect("every file is allowed")
}

fn after<E>(
    files: &[FileInfo],
    mut reached: u64,
    mut is_allowed: impl FnMut(&FileInfo) -> Result<bool, E>,
) -> Result<Vec<FileInfo>, E> {
    let mut planned = Vec::new();
    let mut waiting = by_begin(files);
    let mut following = BinaryHeap::new();
    loop {
        while let Some(file) = waiting.pop_if(|file| file.txids.min <= reached.saturating_add(1)) {
            following.push(Candidate(file));
        }
        let Some(Candidate(best)) = following.pop() else { break };
        if best.txids.max <= reached {
            // So are all the others.
            following.clear();
        } else if is_allowed(best)? {
            planned.push(*best);
            reached = best.txids.max;
        }
    }
    Ok(planned)
}

/// The transactions after which the database can be restored, in ascending order.
pub(crate) fn restorable(files: &[FileInfo]) -> Vec<u64> {
    let mut by_end: Vec<Txids> = files.iter().map(|file| file.txids).collect();
    by_end.sort_unstable_by_key(|txids| (txids.max, txids.min));
    let mut found: Vec<u64> = Vec::new();
    for txids in by_end {
        // A file can be applied to any state from the one before its first transaction on. The empty database is one.
        let last_before = found.iter().rev().find(|txid| **txid < txids.max).copied().unwrap_or(0);
        if last_before.saturating_add(1) >= txids.min && found.last() != Some(&txids.max) {
            found.push(txids.max);
        }
    }
    found
}

/// The newest snapshot that is allowed.
fn newest_snapshot<E>(
    files: &[FileInfo],
    mut is_allowed: impl FnMut(&FileInfo) -> Result<bool, E>,
) -> Result<Option<&FileInfo>, E> {
    let mut snapshots: Vec<_> = files
        .iter()
        .filter(|file| file.level == SNAPSHOTS && file.txids.min == 1)
        .collect();
    snapshots.sort_unstable_by_key(|file| Reverse(file.txids.max));
    for snapshot in snapshots {
        if is_allowed(snapshot)? {
            return Ok(Some(snapshot));
        }
    }
    Ok(None)
}

/// The files of the other levels. The one that begins first is last.
fn by_begin(files: &[FileInfo]) -> Vec<&FileInfo> {
    let mut sorted: Vec<_> = files.iter().filter(|file| file.level < SNAPSHOTS).collect();
    sorted.sort_unstable_by_key(|file| Reverse(file.txids.min));
    sorted
}

/// A file in the order of Litestream's choice: the greatest is the best.
struct Candidate<'f>(&'f FileInfo);

impl Candidate<'_> {
    fn key(&self) -> (u64, Reverse<u64>, u8) {
        (self.0.txids.max, Reverse(self.0.txids.min), self.0.level)
    }
}

impl Ord for Candidate<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialOrd for Candidate<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Candidate<'_> {}

/// Why the state that was reached is not the wanted one.
fn refusal(files: &[FileInfo], target: Target, reached: u64) -> Option<PlanError> {
    let Some(newest) = files.iter().map(|file| file.txids.max).max() else {
        return Some(PlanError::Empty);
    };
    if reached > 0 && target == Target::Txid(reached) {
        return None;
    }
    if let Some(gap) = gap_after(files, reached) {
        return Some(gap);
    }
    match target {
        Target::Newest => None,
        Target::Before(_) => (reached == 0).then(|| PlanError::TooEarly {
            first: *oldest_state(files),
        }),
        Target::Txid(txid) if txid > newest => Some(PlanError::Beyond { txid, newest }),
        Target::Txid(txid) => Some(PlanError::Merged {
            txid,
            before: (reached > 0).then_some(reached),
            after: restorable(files).into_iter().find(|found| *found > txid),
        }),
    }
}

/// The gap behind what was reached, if no file has the next transaction and one has a later one.
fn gap_after(files: &[FileInfo], reached: u64) -> Option<PlanError> {
    let next = reached.saturating_add(1);
    let begins_later = files.iter().map(|file| file.txids.min).filter(|min| *min > next);
    let resumes = begins_later.min()?;
    let is_there = files
        .iter()
        .any(|file| (file.txids.min..=file.txids.max).contains(&next));
    (!is_there).then_some(PlanError::Gap {
        missing: Txids {
            min: next,
            max: resumes - 1,
        },
        reached: (reached > 0).then_some(reached),
    })
}

/// The file that makes the oldest state. There is one, since the next transaction after none is there.
fn oldest_state(files: &[FileInfo]) -> &FileInfo {
    let whole = files.iter().filter(|file| file.txids.min == 1);
    whole
        .min_by_key(|file| file.txids.max)
        .expect("a file begins with the first transaction")
}

/// A transaction as the names of files and Litestream have it.
pub(crate) struct Txid(pub(crate) u64);

impl fmt::Display for Txid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;

    fn file(level: u8, min: u64, max: u64) -> FileInfo {
        FileInfo {
            level,
            txids: Txids { min, max },
            size: 1000,
            modified: UNIX_EPOCH + Duration::from_secs(max),
        }
    }

    /// Each transaction was captured at the millisecond of its number.
    fn files_for(files: &[FileInfo], target: Target) -> Result<Vec<(u8, u64, u64)>, PlanError> {
        let planned = plan(files, target, |file| Ok(file.txids.max.cast_signed()))?;
        let names = planned.iter().map(|file| (file.level, file.txids.min, file.txids.max));
        Ok(names.collect())
    }

    #[test]
    fn newest_state_takes_snapshot_then_longest_files() {
        let files = [
            file(0, 8, 8),
            file(0, 9, 9),
            file(0, 10, 10),
            file(1, 1, 4),
            file(1, 5, 9),
            file(2, 1, 7),
            file(9, 1, 2),
            file(9, 1, 6),
        ];
        let wanted = [(9, 1, 6), (1, 5, 9), (0, 10, 10)];
        assert_eq!(files_for(&files, Target::Newest).unwrap(), wanted);
        assert_eq!(files_for(&files, Target::Txid(10)).unwrap(), wanted);
        let wanted = [(9, 1, 2), (1, 1, 4)];
        assert_eq!(files_for(&files, Target::Txid(4)).unwrap(), wanted);
        assert_eq!(files_for(&files, Target::Before(5)).unwrap(), wanted);
        let wanted = [(9, 1, 6), (2, 1, 7), (0, 8, 8)];
        assert_eq!(files_for(&files, Target::Before(9)).unwrap(), wanted);
        assert_eq!(files_for(&files, Target::Before(1000)).unwrap().len(), 3);
    }

    #[test]
    fn transaction_that_was_merged_names_its_neighbours() {
        let files = [file(0, 1, 1), file(1, 1, 4), file(1, 5, 9), file(0, 9, 9)];
        let refused = |txid| files_for(&files, Target::Txid(txid)).unwrap_err();
        let merged = |txid, before, after| PlanError::Merged { txid, before, after };
        assert_eq!(refused(3), merged(3, Some(1), Some(4)));
        assert_eq!(refused(8), merged(8, Some(4), Some(9)));
        assert_eq!(refused(10), PlanError::Beyond { txid: 10, newest: 9 });
        let files = [file(9, 1, 7)];
        assert_eq!(
            files_for(&files, Target::Txid(2)).unwrap_err(),
            merged(2, None, Some(7))
        );
    }

    #[test]
    fn gap_is_named_whatever_the_target() {
        let files = [file(0, 1, 1), file(0, 2, 2), file(0, 5, 5), file(0, 6, 6)];
        let gap = PlanError::Gap {
            missing: Txids { min: 3, max: 4 },
            reached: Some(2),
        };
        for target in [
            Target::Newest,
            Target::Txid(4),
            Target::Txid(6),
            Target::Before(6),
            // What is missing may be older.
            Target::Before(4),
        ] {
            assert_eq!(files_for(&files, target).unwrap_err(), gap, "{target:?}");
        }
        assert_eq!(files_for(&files, Target::Txid(2)).unwrap().len(), 2);
        assert_eq!(files_for(&files, Target::Before(2)).unwrap().len(), 1);
        assert_eq!(
            files_for(&files[1..], Target::Newest).unwrap_err(),
            PlanError::Gap {
                missing: Txids { min: 1, max: 1 },
                reached: None
            }
        );
    }

    /// A claim stays in level 0 when the files around it are deleted. They are in a file of level 1, which is later.
    #[test]
    fn claim_among_deleted_files_is_no_gap() {
        let files = [file(1, 1, 4), file(1, 5, 9), file(0, 7, 7), file(0, 10, 10)];
        assert_eq!(files_for(&files, Target::Before(8)).unwrap(), [(1, 1, 4)]);
        assert_eq!(
            files_for(&files, Target::Newest).unwrap(),
            [(1, 1, 4), (1, 5, 9), (0, 10, 10)]
        );
    }

    #[test]
    fn time_before_every_file_names_the_first() {
        let files = [file(1, 1, 4), file(9, 1, 6), file(1, 5, 9)];
        let first = files[0];
        assert_eq!(
            files_for(&files, Target::Before(4)).unwrap_err(),
            PlanError::TooEarly { first }
        );
        assert_eq!(files_for(&[], Target::Newest).unwrap_err(), PlanError::Empty);
    }

    /// Looking up a timestamp may be a request.
    #[test]
    fn timestamps_are_looked_up_only_where_they_count() {
        let mut files: Vec<_> = (1..=1000).map(|txid| file(0, txid, txid)).collect();
        files.extend((0..10).map(|n| file(1, n * 100 + 1, n * 100 + 100)));
        files.extend((0..5).map(|n| file(9, 1, n * 200 + 1)));
        let mut looks = 0;
        let planned = plan::<PlanError>(&files, Target::Before(906), |file| {
            looks += 1;
            Ok(file.txids.max.cast_signed())
        });
        assert_eq!(planned.unwrap().last().unwrap().txids, Txids { min: 905, max: 905 });
        assert!(looks < 120, "{looks}");
        plan::<PlanError>(&files, Target::Newest, |_| panic!("no time was asked for")).unwrap();
    }

    /// A hundred thousand files, as a year without compaction has them.
    #[test]
    fn many_files_are_planned_quickly() {
        let files: Vec<_> = (1..=100_000).map(|txid| file(0, txid, txid)).collect();
        assert_eq!(files_for(&files, Target::Newest).unwrap().len(), files.len());
        assert_eq!(restorable(&files).len(), files.len());
    }

    /// Every transaction that some sequence of files ends with, tried one after another.
    fn reference(files: &[FileInfo]) -> Vec<u64> {
        let mut found = vec![0];
        loop {
            let follows = |file: &&FileInfo| {
                let begins = |txid: &u64| (file.txids.min - 1..file.txids.max).contains(txid);
                !found.contains(&file.txids.max) && found.iter().any(begins)
            };
            match files.iter().find(follows) {
                Some(file) => found.push(file.txids.max),
                None => break,
            }
        }
        found.remove(0);
        found.sort_unstable();
        found
    }

    fn any_files() -> impl Strategy<Value = Vec<FileInfo>> {
        let any_file = (0..=3u8, 1..16u64, 0..6u64, any::<bool>()).prop_map(|(level, min, more, is_snapshot)| {
            if is_snapshot && level == 3 {
                file(SNAPSHOTS, 1, min)
            } else {
                file(level, min, if level == 0 { min } else { min + more })
            }
        });
        let distinct = |mut files: Vec<FileInfo>| {
            files.sort_by_key(|file| (file.level, file.txids));
            files.dedup();
            files
        };
        prop::collection::vec(any_file, 0..14).prop_map(distinct)
    }

    fn follow_one_another(planned: &[FileInfo]) -> bool {
        let mut reached = 0;
        planned.iter().all(|file| {
            let follows = file.txids.min <= reached + 1 && file.txids.max > reached;
            reached = file.txids.max;
            follows
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn plans_reach_what_some_sequence_reaches(files in any_files(), number in 0..22u64) {
            let all = reference(&files);
            prop_assert_eq!(restorable(&files), all.clone());
            let time = |file: &FileInfo| Ok(file.txids.max.cast_signed());
            let last = |planned: Vec<FileInfo>| {
                assert!(follow_one_another(&planned), "{planned:?}");
                planned.last().map(|file| file.txids.max)
            };
            let has = |txid: u64| files.iter().any(|file| (file.txids.min..=file.txids.max).contains(&txid));
            let goes_on = |reached: u64| has(reached + 1) || files.iter().all(|file| file.txids.max <= reached);

            let newest = plan::<PlanError>(&files, Target::Newest, time).map(last);
            match all.last() {
                Some(txid) if files.iter().all(|file| file.txids.max <= *txid) => {
                    prop_assert_eq!(newest, Ok(Some(*txid)));
                }
                _ => prop_assert!(newest.is_err()),
            }
            let exact = plan::<PlanError>(&files, Target::Txid(number), time).map(last);
            prop_assert_eq!(exact.is_ok(), all.contains(&number), "{:?}", exact);
            prop_assert!(exact.is_err() || exact == Ok(Some(number)));

            let early: Vec<_> = files.iter().filter(|file| file.txids.max < number).copied().collect();
            let before = plan::<PlanError>(&files, Target::Before(number.cast_signed()), time).map(last);
            match reference(&early).last() {
                Some(txid) if goes_on(*txid) => prop_assert_eq!(before, Ok(Some(*txid))),
                _ => prop_assert!(before.is_err()),
            }
        }
    }
}
