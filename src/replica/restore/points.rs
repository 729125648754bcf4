//! What can be restored: spans of the past, each with its grain.
//!
//! A list shows when an object was written, which for a compacted file may be long after its last transaction. So the
//! time of a state is that of the earliest file that ends with it, and the ends of the spans are looked up.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use super::plan::{SNAPSHOTS, Txid, restorable};
use super::time;
use crate::replica::storage::{FileInfo, Result, Storage, Txids, all_files, gaps, request};

/// A state that can be restored, by [`ReplicaRestore::txid`](crate::ReplicaRestore::txid).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct RestorePoint {
    /// The transaction after which the database was in this state.
    pub txid: u64,
    /// When that transaction was captured.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::time"))]
    pub timestamp: SystemTime,
}

/// A span of the past in which states lie equally dense. See [`Replica::points`](crate::Replica::points).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct RestoreSpan {
    /// The oldest state.
    pub first: RestorePoint,
    /// The newest state.
    pub last: RestorePoint,
    /// Number of states that can be restored.
    pub states: u64,
    /// The longest time between two neighbouring states that have others between them, which are not kept by
    /// themselves. Zero: each transaction can be restored. Of a replica in a bucket, to the precision of its list.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::runtime::serde_units::seconds"))]
    pub grain: Duration,
}

/// Lists the spans, from the oldest to the newest.
pub(crate) fn points(storage: &Storage) -> Result<Vec<RestoreSpan>> {
    let listing = storage.clone();
    let files = request(storage, async move { all_files(&listing).await })?;
    let mut found = spans(&files);
    for span in &mut found {
        for point in [&mut span.first, &mut span.last] {
            point.timestamp = timestamp(storage, &files, point.txid)?;
        }
    }
    Ok(found)
}

/// The timestamp of the finest file that ends with a transaction.
fn timestamp(storage: &Storage, files: &[FileInfo], txid: u64) -> Result<SystemTime> {
    let ending = files.iter().filter(|file| file.txids.max == txid);
    let file = ending.min_by_key(|file| file.level).expect("a state ends a file");
    let (level, txids, storage_of_it) = (file.level, file.txids, storage.clone());
    let found = request(storage, async move { storage_of_it.timestamp(level, txids).await });
    match found {
        // It was compacted away meanwhile.
        Err(error) if error.is_not_found() => Ok(file.modified),
        found => found.map(time::from_millis),
    }
}

fn spans(files: &[FileInfo]) -> Vec<RestoreSpan> {
    let ends = ends(files);
    let gaps = gaps(files);
    let mut spans: Vec<(u8, RestoreSpan)> = Vec::new();
    for txid in restorable(files) {
        let (level, timestamp) = ends[&txid];
        let point = RestorePoint { txid, timestamp };
        match spans.last_mut() {
            Some((span_level, span)) if belongs(*span_level, span, level, point, &gaps) => {
                if txid > span.last.txid + 1 {
                    span.grain = span.grain.max(between(span.last, point));
                }
                span.last = point;
                span.states += 1;
            }
            _ => spans.push((
                level,
                RestoreSpan {
                    first: point,
                    last: point,
                    states: 1,
                    grain: Duration::ZERO,
                },
            )),
        }
    }
    spans.into_iter().map(|(_, span)| span).collect()
}

/// For each transaction that ends a file, the finest level of such a file, and when the first of them was written.
fn ends(files: &[FileInfo]) -> BTreeMap<u64, (u8, SystemTime)> {
    let mut ends = BTreeMap::new();
    for file in files {
        let end = ends.entry(file.txids.max).or_insert((file.level, file.modified));
        *end = (end.0.min(file.level), end.1.min(file.modified));
    }
    ends
}

/// Whether a state belongs to the span before it. A snapshot belongs to the files around it.
fn belongs(span_level: u8, span: &RestoreSpan, level: u8, point: RestorePoint, gaps: &[Txids]) -> bool {
    let is_parted = gaps.iter().any(|gap| gap.min > span.last.txid && gap.max < point.txid);
    !is_parted && (level == span_level || level == SNAPSHOTS)
}

fn between(earlier: RestorePoint, later: RestorePoint) -> Duration {
    later.timestamp.duration_since(earlier.timestamp).unwrap_or_default()
}

impl fmt::Display for RestorePoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (TXID {})", time::of(self.timestamp), Txid(self.txid))
    }
}

impl fmt::Display for RestoreSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            first,
            last,
            states,
            grain,
        } = self;
        match *states {
            1 => return write!(f, "{first}"),
            states => write!(f, "{first} to {last}: {states} states")?,
        }
        if grain.is_zero() {
            write!(f, ", each transaction")
        } else {
            write!(f, ", at most {grain:.1?} apart")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn file(level: u8, min: u64, max: u64, second: u64) -> FileInfo {
        FileInfo {
            level,
            txids: Txids { min, max },
            size: 1000,
            modified: UNIX_EPOCH + Duration::from_secs(second),
        }
    }

    fn shown(files: &[FileInfo]) -> Vec<(u64, u64, u64, u64)> {
        let spans = spans(files).into_iter();
        spans
            .map(|span| (span.first.txid, span.last.txid, span.states, span.grain.as_secs()))
            .collect()
    }

    #[test]
    fn spans_have_the_grain_of_their_files() {
        // Merged files of 30 seconds with a snapshot among them, and the newest transactions, each a second.
        let mut files: Vec<_> = (0..10u64)
            .map(|n| file(1, n * 20 + 1, n * 20 + 20, n * 30 + 30))
            .collect();
        files.push(file(9, 1, 110, 170));
        files.extend((181..=210).map(|txid| file(0, txid, txid, 150 + txid)));
        assert_eq!(shown(&files), [(20, 180, 10, 30), (181, 210, 30, 0)]);
        assert_eq!(shown(&[file(9, 1, 7, 3)]), [(7, 7, 1, 0)]);
        assert_eq!(shown(&[]), []);
    }

    #[test]
    fn gap_ends_a_span() {
        let files = [
            file(0, 1, 1, 1),
            file(0, 2, 2, 2),
            file(0, 4, 4, 4),
            file(9, 1, 4, 9),
            file(0, 5, 5, 5),
        ];
        // The snapshot bridges it.
        assert_eq!(shown(&files), [(1, 5, 4, 2)]);
        assert_eq!(shown(&files[..3]), [(1, 2, 2, 0)]);
    }
}
