//! The commits of other processes, in total and over the last hour.
//!
//! The WAL index counts the commits of all processes. Those of the store's own writer are known, so the rest are
//! others'. Checkpoints are not counted. The writer thread reports at checkpoints, and the watchdog while the
//! writer's seat is free. The mutex is held for one comparison.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::runtime::sync::Mutex;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// Another process writes "all the time" if it has committed in so many minutes of the last hour.
const SUSTAINED_MINUTES: usize = 30;

#[derive(Debug, Default)]
pub(crate) struct ExternalCommits {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    total: u64,
    /// The difference between all commits and our own at the last report. Both count modulo 2^32.
    others: Option<u32>,
    /// When a commit of another process was first noticed.
    first: Option<Instant>,
    /// The commits by the minute in which they were noticed, those of the last hour.
    minutes: VecDeque<(Instant, u64)>,
}

/// The commits of other processes in the last hour.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct LastHour {
    pub(crate) commits: u64,
    /// Whether there were commits all the time, for an hour at least.
    pub(crate) is_sustained: bool,
}

impl ExternalCommits {
    /// Reports the commits of all processes, and those of the store's own writer.
    pub(crate) fn compare(&self, all: u32, own: u32, now: Instant) {
        let others = all.wrapping_sub(own);
        let mut state = self.state.lock();
        if let Some(before) = state.others.replace(others) {
            // Negative after a rebuild of the index, whose count starts again.
            let new = others.wrapping_sub(before).cast_signed();
            state.add(u64::try_from(new).unwrap_or_default(), now);
        }
    }

    /// Adds commits that were noticed without the index.
    pub(crate) fn add(&self, commits: u64, now: Instant) {
        self.state.lock().add(commits, now);
    }

    pub(crate) fn total(&self) -> u64 {
        self.state.lock().total
    }

    pub(crate) fn last_hour(&self, now: Instant) -> LastHour {
        let state = self.state.lock();
        let recent = state.minutes.iter().filter(|(minute, _)| now - *minute < HOUR);
        LastHour {
            commits: recent.clone().map(|(_, commits)| commits).sum(),
            is_sustained: recent.count() >= SUSTAINED_MINUTES && state.first.is_some_and(|first| now - first >= HOUR),
        }
    }
}

impl State {
    fn add(&mut self, commits: u64, now: Instant) {
        if commits == 0 {
            return;
        }
        self.total += commits;
        self.first.get_or_insert(now);
        match self.minutes.back_mut() {
            Some((minute, sum)) if now - *minute < MINUTE => *sum += commits,
            _ => self.minutes.push_back((now, commits)),
        }
        while self.minutes.front().is_some_and(|(minute, _)| now - *minute >= HOUR) {
            self.minutes.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_commits_are_not_external() {
        let (commits, now) = (ExternalCommits::default(), Instant::now());
        for (all, own) in [(7, 0), (9, 2), (9, 2), (12, 4), (2, 4), (3, 5)] {
            commits.compare(all, own, now);
        }
        assert_eq!(commits.total(), 1);
        let wrapping = ExternalCommits::default();
        wrapping.compare(u32::MAX, 3, now);
        wrapping.compare(1, 4, now);
        assert_eq!(wrapping.total(), 1);
    }

    #[test]
    fn external_writer_is_sustained_after_an_hour() {
        let (commits, start) = (ExternalCommits::default(), Instant::now());
        for minute in 0..=60 {
            let now = start + minute * MINUTE;
            commits.add(2, now);
            assert_eq!(commits.last_hour(now).is_sustained, minute == 60);
        }
        let end = start + 60 * MINUTE;
        assert_eq!(commits.last_hour(end).commits, 120);
        assert_eq!(commits.last_hour(end + HOUR), LastHour::default());
        assert_eq!(commits.total(), 122);
        // Twice, an hour apart.
        let seldom = ExternalCommits::default();
        seldom.add(1, start);
        seldom.add(1, end);
        let last = seldom.last_hour(end);
        assert_eq!((last.commits, last.is_sustained), (1, false));
    }
}
