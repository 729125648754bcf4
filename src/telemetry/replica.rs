//! What a replicated store has reached, as figures.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::histogram::Amounts;
use super::stats::{LastVerify, ReplicaState, ReplicaStats};
use crate::runtime::sync::Mutex;

/// The figures of one store's replica. Its mutex is held for one read or one change, and no other lock is taken under it.
#[derive(Default)]
pub(crate) struct ReplicaFigures {
    state: Mutex<Option<State>>,
    upload_time: Amounts,
    writer_time: Amounts,
    /// The replies that wait for the replica.
    held: AtomicUsize,
    acknowledgement_time: Amounts,
}

#[derive(Default)]
struct State {
    replica: String,
    interval: Duration,
    sealed: u64,
    uploaded: u64,
    /// The sealed transactions that are not uploaded, and when they were sealed.
    waiting: VecDeque<(u64, Instant)>,
    /// Since when transactions cannot be sealed, and why.
    unsealed: Option<(Instant, String)>,
    /// Why a full file is needed, after the first.
    rebase: Option<String>,
    rebases: u64,
    dropped: Option<String>,
    /// Why writes are refused.
    refuses: Option<String>,
    fenced: Option<String>,
    diverged: Option<String>,
    /// How far the local clock is ahead of the storage's.
    clock_ahead: Option<Duration>,
    spool_bytes: u64,
    uploads: u64,
    uploaded_bytes: u64,
    failed_uploads: u64,
    /// Failures since the last success, and the reason of the last one.
    failing: Option<(u64, String)>,
    /// The file without which the newest state cannot be restored, until it can.
    damaged: Option<String>,
    /// When the last verification ended, and what it found.
    verified: Option<(SystemTime, Option<String>)>,
    /// Why none can be made.
    unverified: Option<String>,
    opened: ReplicaOpened,
    /// The time of the last sealed file, in milliseconds since 1970.
    timestamp: i64,
    /// When the newest snapshot was written, and when the next one is due.
    snapshots: (Option<SystemTime>, Option<SystemTime>),
}

/// What was found as the store was opened.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReplicaOpened {
    /// Whether writes have no conditions.
    pub(crate) unconditional: bool,
    pub(crate) snapshot_every: Duration,
    /// By how many milliseconds this machine's clock is behind the storage's, if it is.
    pub(crate) clock_behind: i64,
    /// The name of the database that was set aside.
    pub(crate) set_aside: Option<PathBuf>,
}

/// What the watchdog and advice look at.
#[derive(Clone, Debug)]
pub(crate) struct ReplicaSample {
    pub(crate) behind: Duration,
    /// Writes that are committed, and whose replies wait for the replica.
    pub(crate) waiting_writes: usize,
    pub(crate) interval: Duration,
    pub(crate) failures_in_a_row: u64,
    pub(crate) failing: Option<String>,
    pub(crate) dropped: Option<String>,
    pub(crate) refuses: Option<String>,
    pub(crate) rebase: Option<String>,
    pub(crate) fenced: Option<String>,
    pub(crate) diverged: Option<String>,
    pub(crate) clock_ahead: Option<Duration>,
    pub(crate) verify_failed: Option<String>,
    pub(crate) opened: ReplicaOpened,
    /// By how many milliseconds the last sealed file is after now.
    pub(crate) sealed_ahead: i64,
    /// How long a snapshot has been due.
    pub(crate) snapshot_overdue: Duration,
}

impl ReplicaFigures {
    /// A store begins to replicate. Transactions after `uploaded` wait in the spool.
    pub(crate) fn begin(&self, replica: String, interval: Duration, sealed: u64, uploaded: u64) {
        let now = Instant::now();
        let waiting = (sealed > uploaded).then_some((sealed, now));
        *self.state.lock() = Some(State {
            replica,
            interval,
            sealed,
            uploaded,
            waiting: waiting.into_iter().collect(),
            ..State::default()
        });
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        if let Some(state) = &mut *self.state.lock() {
            change(state);
        }
    }

    pub(crate) fn opened(&self, opened: ReplicaOpened) {
        self.change(|state| state.opened = opened);
    }

    /// When the newest snapshot was written, and when the next one is due.
    pub(crate) fn snapshots(&self, last: Option<SystemTime>, due: Option<SystemTime>) {
        self.change(|state| state.snapshots = (last, due));
    }

    /// A file of that time, in milliseconds since 1970.
    pub(crate) fn sealed(&self, txid: u64, timestamp: i64, spool_bytes: u64) {
        self.change(|state| {
            state.timestamp = timestamp;
            state.sealed = txid;
            state.spool_bytes = spool_bytes;
            state.unsealed = None;
            state.waiting.push_back((txid, Instant::now()));
        });
    }

    pub(crate) fn not_sealed(&self, reason: &str) {
        self.change(|state| {
            let since = state.unsealed.as_ref().map_or_else(Instant::now, |(since, _)| *since);
            state.unsealed = Some((since, reason.to_owned()));
        });
    }

    pub(crate) fn rebase(&self, reason: &str) {
        self.change(|state| {
            state.rebases += 1;
            state.rebase = Some(reason.to_owned());
        });
    }

    pub(crate) fn dropped(&self, reason: &str, last: u64, spool_bytes: u64) {
        self.change(|state| {
            state.sealed = last;
            state.spool_bytes = spool_bytes;
            state.dropped = Some(reason.to_owned());
            // They are in the full file, which is to come.
            let since = state
                .waiting
                .iter()
                .find(|(txid, _)| *txid > last)
                .map(|(_, since)| *since);
            state.waiting.retain(|(txid, _)| *txid <= last);
            state.unsealed = since.map(|since| (since, reason.to_owned()));
        });
    }

    /// Writes are refused for that reason, or not any more.
    pub(crate) fn refuses(&self, reason: Option<String>) {
        self.change(|state| state.refuses = reason);
    }

    /// The full file is sealed, and what waited for it is in it.
    pub(crate) fn whole_again(&self) {
        self.change(|state| {
            state.rebase = None;
            state.dropped = None;
        });
    }

    /// The writer has kept the log before a checkpoint.
    pub(crate) fn kept_by_writer(&self, time: Duration) {
        self.writer_time.add_time(time);
    }

    pub(crate) fn uploaded(&self, txid: u64, bytes: u64, time: Duration, spool_bytes: u64) {
        self.upload_time.add_time(time);
        self.change(|state| {
            state.uploaded = txid;
            state.uploads += 1;
            state.uploaded_bytes += bytes;
            state.spool_bytes = spool_bytes;
            state.failing = None;
            state.is_uploaded(txid);
        });
    }

    /// So many replies wait for the replica.
    pub(crate) fn holds(&self, replies: usize) {
        self.held.store(replies, Relaxed);
    }

    /// A write has waited so long for the replica, and is there.
    pub(crate) fn acknowledged(&self, waited: Duration) {
        self.acknowledgement_time.add_time(waited);
    }

    /// The replica ends with that transaction.
    pub(crate) fn found(&self, txid: u64) {
        self.change(|state| {
            state.uploaded = txid;
            state.is_uploaded(txid);
        });
    }

    /// The storage answers again.
    pub(crate) fn reached(&self) {
        self.change(|state| state.failing = None);
    }

    pub(crate) fn upload_failed(&self, reason: &str) {
        self.change(|state| {
            state.failed_uploads += 1;
            let before = state.failing.as_ref().map_or(0, |(failures, _)| *failures);
            state.failing = Some((before + 1, reason.to_owned()));
        });
    }

    pub(crate) fn fenced(&self, by: &str) {
        self.change(|state| state.fenced = Some(by.to_owned()));
    }

    pub(crate) fn diverged(&self, problem: &str) {
        self.change(|state| state.diverged = Some(problem.to_owned()));
    }

    pub(crate) fn clock_ahead(&self, ahead: Option<Duration>) {
        self.change(|state| state.clock_ahead = ahead);
    }

    pub(crate) fn damaged(&self, problem: Option<String>) {
        self.change(|state| state.damaged = problem);
    }

    /// A verification has ended.
    pub(crate) fn verified(&self, at: SystemTime, problem: Option<String>) {
        self.change(|state| {
            state.verified = Some((at, problem));
            state.unverified = None;
        });
    }

    /// Verifications fail again and again, and say nothing about the replica.
    pub(crate) fn not_verified(&self, reason: String) {
        self.change(|state| state.unverified = Some(reason));
    }

    pub(crate) fn stats(&self) -> Option<ReplicaStats> {
        let state = self.state.lock();
        let state = state.as_ref()?;
        Some(ReplicaStats {
            replica: state.replica.clone(),
            state: state.state(),
            sealed: state.sealed,
            uploaded: state.uploaded,
            behind: state.behind(),
            spool_bytes: state.spool_bytes,
            uploads: state.uploads,
            uploaded_bytes: state.uploaded_bytes,
            failed_uploads: state.failed_uploads,
            upload_time: self.upload_time.latency(),
            writer_time: self.writer_time.latency(),
            waiting_writes: self.held.load(Relaxed),
            acknowledgement_time: self.acknowledgement_time.latency(),
            rebases: state.rebases,
            last_verify: state.verified.as_ref().map(|(at, problem)| LastVerify {
                ago: at.elapsed().unwrap_or_default(),
                problem: problem.clone(),
            }),
            last_snapshot: state.snapshots.0.map(|last| last.elapsed().unwrap_or_default()),
            set_aside: state.opened.set_aside.clone(),
            problem: state.problem(),
        })
    }

    pub(crate) fn sample(&self) -> Option<ReplicaSample> {
        let state = self.state.lock();
        let state = state.as_ref()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
        let overdue = state.snapshots.1.and_then(|due| due.elapsed().ok());
        Some(ReplicaSample {
            behind: state.behind(),
            waiting_writes: self.held.load(Relaxed),
            interval: state.interval,
            failures_in_a_row: state.failing.as_ref().map_or(0, |(failures, _)| *failures),
            failing: state.failing.as_ref().map(|(_, reason)| reason.clone()),
            dropped: state.dropped.clone(),
            refuses: state.refuses.clone(),
            rebase: state.rebase.clone(),
            fenced: state.fenced.clone(),
            diverged: state.diverged.clone(),
            clock_ahead: state.clock_ahead,
            verify_failed: state.damaged.clone().or_else(|| state.verify_failed()),
            opened: state.opened.clone(),
            sealed_ahead: state.timestamp.saturating_sub(now),
            snapshot_overdue: overdue.unwrap_or_default(),
        })
    }
}

impl State {
    fn is_uploaded(&mut self, txid: u64) {
        let done = self.waiting.iter().take_while(|(waiting, _)| *waiting <= txid).count();
        self.waiting.drain(..done);
    }

    fn behind(&self) -> Duration {
        let waiting = self.waiting.front().map(|(_, since)| *since);
        let unsealed = self.unsealed.as_ref().map(|(since, _)| *since);
        let oldest = waiting.into_iter().chain(unsealed).min();
        oldest.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn verify_failed(&self) -> Option<String> {
        let found = self.verified.as_ref().and_then(|(_, problem)| problem.clone());
        let unverified = self.unverified.as_ref();
        found.or_else(|| unverified.map(|reason| format!("no verification was possible: {reason}")))
    }

    fn state(&self) -> ReplicaState {
        if self.fenced.is_some() {
            ReplicaState::Fenced
        } else if self.diverged.is_some() {
            ReplicaState::Diverged
        } else if self.failing.is_some() {
            ReplicaState::StorageAway
        } else if self.rebase.is_some() || self.dropped.is_some() {
            ReplicaState::Rebasing
        } else if self.sealed > self.uploaded {
            ReplicaState::Uploading
        } else {
            ReplicaState::Idle
        }
    }

    fn problem(&self) -> Option<String> {
        let failing = self.failing.as_ref().map(|(_, reason)| reason);
        let unsealed = self.unsealed.as_ref().map(|(_, reason)| reason);
        let stopped = self.fenced.as_ref().or(self.diverged.as_ref());
        if let Some(reason) = self.refuses.as_ref().filter(|_| stopped.is_none()) {
            return Some(format!("writes are refused, because the spool is full: {reason}"));
        }
        let problem = stopped.or(failing).or(unsealed).or(self.dropped.as_ref());
        problem.or(self.rebase.as_ref()).or(self.damaged.as_ref()).cloned()
    }
}
