//! [`Lag`]: how far a follower has come.

use std::fmt;
use std::time::{Duration, SystemTime};

use crate::replica::restore::plan::Txid;
use crate::replica::restore::time;
use crate::telemetry::stats::FollowerStats;

/// How far a follower has come. See [`Follower::lag`](crate::Follower::lag).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lag {
    /// The last transaction of the replica that was applied.
    pub txid: u64,
    /// When that transaction was captured, by the primary's clock. An idle primary makes no newer one.
    pub committed: SystemTime,
    /// Since when the follower is not known to have had everything that was in the replica. It is at most an interval and
    /// a request while all is well, also while the primary is idle.
    pub behind: Duration,
}

impl Lag {
    pub(super) fn of(stats: &FollowerStats) -> Self {
        Self {
            txid: stats.txid,
            committed: stats.committed,
            behind: stats.behind,
        }
    }
}

impl fmt::Display for Lag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            txid,
            committed,
            behind,
        } = self;
        write!(
            f,
            "at transaction {} of {}, known to be the newest {behind:.1?} ago",
            Txid(*txid),
            time::of(*committed)
        )
    }
}
