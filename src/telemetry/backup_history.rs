//! The result of the last backup, and the running schedules: which of them fail.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
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
    /// The running schedules, by their numbers.
    schedules: BTreeMap<u64, ScheduleState>,
}

struct ScheduleState {
    site: CallSite,
    folder: PathBuf,
    /// Failures in a row, and the reason of the last one.
    in_a_row: u64,
    reason: String,
    /// A backup whose time is after now.
    later: Option<PathBuf>,
}

/// A schedule whose last backup failed.
#[derive(Clone)]
pub(crate) struct FailingBackups {
    pub(crate) site: CallSite,
    pub(crate) in_a_row: u64,
    /// With the folder. Contains no data from the database.
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

    /// Enters a schedule that begins.
    ///
    /// # Errors
    ///
    /// The call site of the schedule that makes backups into this folder already.
    pub(crate) fn begin(&self, schedule: u64, site: &CallSite, folder: &Path) -> Result<(), CallSite> {
        let mut state = self.state.lock();
        let mut others = state.schedules.values();
        if let Some(other) = others.find(|other| other.folder == folder) {
            return Err(other.site.clone());
        }
        let begun = ScheduleState {
            site: site.clone(),
            folder: folder.to_owned(),
            in_a_row: 0,
            reason: String::new(),
            later: None,
        };
        state.schedules.insert(schedule, begun);
        Ok(())
    }

    pub(crate) fn failed(&self, schedule: u64, reason: String) {
        if let Some(state) = self.state.lock().schedules.get_mut(&schedule) {
            state.in_a_row += 1;
            state.reason = reason;
        }
    }

    pub(crate) fn succeeded(&self, schedule: u64) {
        if let Some(state) = self.state.lock().schedules.get_mut(&schedule) {
            state.in_a_row = 0;
        }
    }

    /// Records a backup whose time is after now, and returns whether that is news.
    pub(crate) fn note_later(&self, schedule: u64, later: Option<&Path>) -> bool {
        let mut state = self.state.lock();
        let Some(state) = state.schedules.get_mut(&schedule) else {
            return false;
        };
        let is_news = state.later.as_deref() != later;
        state.later = later.map(Path::to_owned);
        is_news
    }

    /// Removes a schedule that was stopped.
    pub(crate) fn forget(&self, schedule: u64) {
        self.state.lock().schedules.remove(&schedule);
    }

    /// The schedule with the most failures in a row.
    pub(crate) fn failing(&self) -> Option<FailingBackups> {
        let state = self.state.lock();
        let failing = state.schedules.values().filter(|schedule| schedule.in_a_row > 0);
        let worst = failing.max_by_key(|failing| failing.in_a_row)?;
        Some(FailingBackups {
            site: worst.site.clone(),
            in_a_row: worst.in_a_row,
            reason: format!("backups to {}: {}", worst.folder.display(), worst.reason),
        })
    }

    /// The backups whose time is after now.
    pub(crate) fn later(&self) -> Vec<PathBuf> {
        let state = self.state.lock();
        state
            .schedules
            .values()
            .filter_map(|schedule| schedule.later.clone())
            .collect()
    }
}
