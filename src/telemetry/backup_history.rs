//! The result of the last backup, and the schedules whose backups fail.

use std::collections::BTreeMap;
use std::time::Instant;

use super::call_site::CallSite;
use super::stats::LastBackup;
use crate::runtime::sync::Mutex;

/// The backups of one store. Its mutex is held for one read or one change, and no other lock is taken under it.
#[derive(Default)]
pub(crate) struct BackupHistory {
    state: Mutex<HistoryState>,
}

#[derive(Default)]
struct HistoryState {
    /// When the last backup ended, and its result.
    last: Option<(Instant, LastBackup)>,
    /// The failing schedules, by the schedule's number.
    failing: BTreeMap<u64, FailingBackups>,
}

/// A schedule whose last backup failed.
#[derive(Clone)]
pub(crate) struct FailingBackups {
    pub(crate) site: CallSite,
    pub(crate) in_a_row: u64,
    /// Contains no data from the database.
    pub(crate) reason: String,
}

impl BackupHistory {
    /// Replaces the last backup. Its `ago` is counted from now.
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

    /// Removes a schedule that made a backup or was stopped.
    pub(crate) fn forget(&self, schedule: u64) {
        self.state.lock().failing.remove(&schedule);
    }

    /// The schedule with the most failures in a row.
    pub(crate) fn failing(&self) -> Option<FailingBackups> {
        let state = self.state.lock();
        state.failing.values().max_by_key(|failing| failing.in_a_row).cloned()
    }
}
