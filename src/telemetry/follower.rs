//! What a follower has reached, as figures.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::stats::FollowerStats;
use crate::runtime::sync::Mutex;

/// The figures of one follower. Its mutex is held for one read or one change, and no other lock is taken under it.
#[derive(Default)]
pub(crate) struct FollowerFigures {
    state: Mutex<Option<State>>,
}

struct State {
    replica: String,
    interval: Duration,
    txid: u64,
    /// In milliseconds since 1970.
    timestamp: i64,
    at_tip: Instant,
    transactions: u64,
    pages: u64,
    bytes: u64,
    resyncs: u64,
    problem: Option<String>,
    stopped: Option<String>,
}

/// What the watchdog looks at.
#[derive(Clone, Debug)]
pub(crate) struct FollowerSample {
    pub(crate) behind: Duration,
    pub(crate) interval: Duration,
    pub(crate) problem: Option<String>,
    pub(crate) has_stopped: bool,
}

impl FollowerFigures {
    pub(crate) fn begin(&self, replica: String, interval: Duration, txid: u64, timestamp: i64) {
        *self.state.lock() = Some(State {
            replica,
            interval,
            txid,
            timestamp,
            at_tip: Instant::now(),
            transactions: 0,
            pages: 0,
            bytes: 0,
            resyncs: 0,
            problem: None,
            stopped: None,
        });
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        if let Some(state) = &mut *self.state.lock() {
            change(state);
        }
    }

    pub(crate) fn applied(&self, txid: u64, timestamp: i64, pages: u64, bytes: u64) {
        self.change(|state| {
            state.transactions += txid.saturating_sub(state.txid);
            state.txid = txid;
            state.timestamp = timestamp;
            state.pages += pages;
            state.bytes += bytes;
        });
    }

    /// Everything was here that was in the replica at that time.
    pub(crate) fn at_tip(&self, at: Instant) {
        self.change(|state| state.at_tip = at);
    }

    pub(crate) fn resynced(&self) {
        self.change(|state| state.resyncs += 1);
    }

    pub(crate) fn problem(&self, problem: Option<&str>) {
        self.change(|state| state.problem = problem.map(str::to_owned));
    }

    pub(crate) fn stopped(&self, problem: &str) {
        self.change(|state| state.stopped = Some(problem.to_owned()));
    }

    pub(crate) fn stats(&self) -> Option<FollowerStats> {
        let state = self.state.lock();
        let state = state.as_ref()?;
        Some(FollowerStats {
            replica: state.replica.clone(),
            txid: state.txid,
            committed: UNIX_EPOCH + Duration::from_millis(state.timestamp.max(0).cast_unsigned()),
            behind: state.at_tip.elapsed(),
            transactions: state.transactions,
            pages: state.pages,
            bytes: state.bytes,
            resyncs: state.resyncs,
            has_stopped: state.stopped.is_some(),
            problem: state.stopped.as_ref().or(state.problem.as_ref()).cloned(),
        })
    }

    pub(crate) fn sample(&self) -> Option<FollowerSample> {
        let state = self.state.lock();
        let state = state.as_ref()?;
        Some(FollowerSample {
            behind: state.at_tip.elapsed(),
            interval: state.interval,
            problem: state.stopped.as_ref().or(state.problem.as_ref()).cloned(),
            has_stopped: state.stopped.is_some(),
        })
    }
}

impl Default for FollowerStats {
    fn default() -> Self {
        Self {
            replica: String::new(),
            txid: 0,
            committed: SystemTime::UNIX_EPOCH,
            behind: Duration::ZERO,
            transactions: 0,
            pages: 0,
            bytes: 0,
            resyncs: 0,
            has_stopped: false,
            problem: None,
        }
    }
}
