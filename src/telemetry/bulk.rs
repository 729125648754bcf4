//! The bulk jobs of a store: which ones run, and how far they are.

use std::time::{Duration, Instant};

use super::stats::BulkStats;
use crate::runtime::sync::{Arc, Mutex};

/// What the site of a retention begins with, before its table.
pub(crate) const RETAINS: &str = "larder: retain ";

#[derive(Default)]
pub(crate) struct BulkFigures {
    jobs: Arc<Mutex<Jobs>>,
}

#[derive(Default)]
struct Jobs {
    last: u64,
    /// Rows of all jobs, also of those that have ended.
    rows: u64,
    running: Vec<Job>,
}

struct Job {
    id: u64,
    name: Option<String>,
    site: String,
    since: Instant,
    rows: u64,
    /// Time on the writer thread.
    writing: Duration,
    /// When the slice was submitted that is not committed yet.
    submitted: Option<Instant>,
}

/// A job whose slice is not committed yet.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WaitingJob {
    pub(crate) name: Option<String>,
    pub(crate) site: String,
    /// Time since the slice was submitted.
    pub(crate) age: Duration,
}

/// A job is in the list until this is dropped.
pub(crate) struct Running {
    jobs: Arc<Mutex<Jobs>>,
    id: u64,
}

impl BulkFigures {
    /// Adds a job, unless one of that name runs.
    pub(crate) fn begin(&self, name: Option<&str>, site: String) -> Option<Running> {
        let mut jobs = self.jobs.lock();
        if name.is_some_and(|name| jobs.is_running(name)) {
            return None;
        }
        jobs.last += 1;
        let id = jobs.last;
        jobs.running.push(Job {
            id,
            name: name.map(str::to_owned),
            site,
            since: Instant::now(),
            rows: 0,
            writing: Duration::ZERO,
            submitted: None,
        });
        drop(jobs);
        Some(Running {
            jobs: Arc::clone(&self.jobs),
            id,
        })
    }

    pub(crate) fn rows(&self) -> u64 {
        self.jobs.lock().rows
    }

    /// Whether a job of that name runs.
    pub(crate) fn is_running(&self, name: &str) -> bool {
        self.jobs.lock().is_running(name)
    }

    /// The job whose slice was submitted first, of those that are not committed yet.
    pub(crate) fn waiting(&self) -> Option<WaitingJob> {
        let jobs = self.jobs.lock();
        let waiting = jobs.running.iter().filter_map(|job| Some((job.submitted?, job)));
        let (since, job) = waiting.min_by_key(|(since, _)| *since)?;
        Some(WaitingJob {
            name: job.name.clone(),
            site: job.site.clone(),
            age: since.elapsed(),
        })
    }

    pub(crate) fn running(&self) -> Vec<BulkStats> {
        let now = Instant::now();
        let jobs = self.jobs.lock();
        let stats = jobs.running.iter().map(|job| {
            let age = now - job.since;
            let per_second = |amount: f64| if age.is_zero() { 0.0 } else { amount / age.as_secs_f64() };
            BulkStats {
                name: job.name.clone(),
                site: job.site.clone(),
                age,
                rows: job.rows,
                rows_per_second: per_second(job.rows as f64),
                share: per_second(job.writing.as_secs_f64()).min(1.0),
            }
        });
        stats.collect()
    }
}

impl Running {
    /// As a slice is submitted, for the first time or again.
    pub(crate) fn submitted(&self) {
        let mut jobs = self.jobs.lock();
        if let Some(job) = jobs.of(self.id) {
            job.submitted.get_or_insert_with(Instant::now);
        }
    }

    /// After a slice: its rows, and the time that it took on the writer thread.
    pub(crate) fn note(&self, rows: u64, took: Duration) {
        let mut jobs = self.jobs.lock();
        jobs.rows += rows;
        if let Some(job) = jobs.of(self.id) {
            job.rows += rows;
            job.writing += took;
            job.submitted = None;
        }
    }
}

impl Jobs {
    fn is_running(&self, name: &str) -> bool {
        self.running.iter().any(|job| job.name.as_deref() == Some(name))
    }

    fn of(&mut self, id: u64) -> Option<&mut Job> {
        self.running.iter_mut().find(|job| job.id == id)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.jobs.lock().running.retain(|job| job.id != self.id);
    }
}
