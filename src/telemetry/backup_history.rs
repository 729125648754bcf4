//! What became of the last backup, and which schedules fail.

use std::collections::BTreeMap;
use std::time::Instant;

use super::call_site::CallSite;
use super::stats::LastBackup;
use crate::runtime::sync::Mutex;

/// One mutex, held for a look or a change. Nobody takes another under it.
#[derive(Default)]
pub(crate) struct BackupHistory {
    state: Mutex<HistoryState>,
}

#[derive(Default)]
struct HistoryState {
    /// When it ended, and what it came to.
    last: Option<(Instant, LastBackup)>,
    /// By the number of the schedule.
    failing: BTreeMap<u64, FailingBackups>,
}

/// A schedule whose last backup failed.
#[derive(Clone)]
pub(crate) struct FailingBackups {
    pub(crate) site: CallSite,
    pub(crate) in_a_row: u64,
    /// Without data.
    pub(crate) reason: String,
}

impl BackupHistory {
    /// Takes the place of the last backup. Its `ago` is counted from now.
    pub(crate) fn note(&self, last: LastBackup) {
        self.state.lock().last = Some((Instant::now(), last));
    }

    pub(crate) fn last(&self) -> Option<LastBackup> {
        let state = self.state.lock();
        let (ended, last) = state.last.as_ref()?;
        Some(LastBackup {
            ago: ended.elapsed(),
            ..last.clone()
        })
    }

    pub(crate) fn failed(&self, schedule: u64, site: &CallSite, reason: String) {
        let mut state = self.state.lock();
        let failing = state.failing.entry(schedule).or_insert_with(|| FailingBackups {
            site: site.clone(),
            in_a_row: 0,
            reason: String::new(),
        });
        failing.in_a_row += 1;
        failing.reason = reason;
    }

    /// It has made one, or was stopped.
    pub(crate) fn forget(&self, schedule: u64) {
        self.state.lock().failing.remove(&schedule);
    }

    /// The schedule that has failed for longest of those that fail.
    pub(crate) fn failing(&self) -> Option<FailingBackups> {
        let state = self.state.lock();
        state.failing.values().max_by_key(|failing| failing.in_a_row).cloned()
    }
}
