//! The report of a run while it grows, and the callbacks that are called about it.

use std::time::Instant;

use super::report::{BulkProgress, BulkReport, Violation};
use super::{CALLBACK_INTERVAL, MAX_VIOLATIONS, OnSkip, Progress};

pub(super) struct Tracker {
    pub(super) report: BulkReport,
    progress: Option<Progress>,
    on_skip: Option<OnSkip>,
    began: Instant,
    /// The last call of the progress callback.
    told: Instant,
}

impl Tracker {
    pub(super) fn new(resumed_from: u64, progress: Option<Progress>, on_skip: Option<OnSkip>) -> Self {
        let now = Instant::now();
        Self {
            report: BulkReport::starting(resumed_from),
            progress,
            on_skip,
            began: now,
            told: now,
        }
    }

    /// Whether each row that is skipped has to be named, and not only the first ones.
    pub(super) fn names_all(&self) -> bool {
        self.on_skip.is_some()
    }

    /// Names rows that were skipped: to the callback, and the first ones in the report.
    pub(super) fn name(&mut self, skipped: Vec<Violation>) {
        if let Some(on_skip) = &mut self.on_skip {
            skipped.iter().for_each(on_skip);
        }
        let named = &mut self.report.violations;
        named.extend(skipped.into_iter().take(MAX_VIOLATIONS - named.len()));
    }

    /// Calls the progress callback, if it is due, with the number of rows that are left. Returns whether it cancels the job.
    pub(super) fn tell(&mut self, left: impl FnOnce() -> Option<u64>) -> bool {
        let Some(progress) = &mut self.progress else {
            return false;
        };
        if self.told.elapsed() < CALLBACK_INTERVAL {
            return false;
        }
        self.told = Instant::now();
        progress(&BulkProgress::of(&self.report, self.began.elapsed(), left())).is_break()
    }

    /// Calls the progress callback for the last time.
    pub(super) fn tell_end(&mut self) {
        if let Some(mut progress) = self.progress.take() {
            let _ = progress(&BulkProgress::of(&self.report, self.began.elapsed(), None));
        }
    }

    /// The report of a run that has ended.
    pub(super) fn finish(mut self) -> BulkReport {
        self.tell_end();
        self.report.duration = self.began.elapsed();
        self.report
    }
}
