//! Verifies the replica of an open store at an interval: [`ReplicaOptions::verify_every`](super::ReplicaOptions).
//!
//! The thread `larder-verify` owns nothing of its store and keeps it from nothing. Between two verifications it sleeps on
//! the readers' census, which closing wakes. A verification holds a reader beside the pool as long as it reads the rows
//! of a snapshot, as a backup does, and no lock. Closing stops it: within the rows of the snapshot, so that closing need
//! not wait for that reader, between two pieces of a file, and in the check of what was restored.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use super::replication::Replication;
use super::restore::progress::{ReplicaRestoreProgress, RestoreReporter};
use super::restore::verify::ReplicaVerify;
use super::store_replica::snapshot;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::options::Settings;
use crate::read::Readers;
use crate::runtime::clock::uptime;
use crate::runtime::panic::caught;
use crate::telemetry::event::event;

/// How often the thread looks at the clock: its sleep does not advance while the machine is suspended.
const CLOCK_CHECK: Duration = Duration::from_secs(60);

/// How long after opening a verification may begin that is overdue.
const AFTER_OPENING: Duration = Duration::from_secs(60);

/// A verification that was not possible is tried again after this time, doubled up to an hour, or the interval.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// So many in a row raise the alert.
const FAILURES: u32 = 3;

struct Verifier {
    replication: Arc<Replication>,
    readers: Arc<Readers>,
    settings: Settings,
    every: Duration,
}

/// Starts the thread, if the options ask for it.
pub(crate) fn start(engine: &Engine, replication: &Arc<Replication>) -> Result<()> {
    let Some(every) = replication.options.verify_every else {
        return Ok(());
    };
    let verifier = Verifier {
        replication: Arc::clone(replication),
        readers: Arc::clone(&engine.readers),
        settings: engine.options.clone(),
        every,
    };
    let thread = thread::Builder::new().name("larder-verify".into());
    let started = thread.spawn(move || verifier.run());
    started
        .map(drop)
        .map_err(|error| Error::no_thread(engine.path(), "the verification of its replica", error))
}

impl Verifier {
    fn run(self) {
        let mut due = uptime().saturating_add(first(self.replication.spool.verified(), SystemTime::now(), self.every));
        let mut failures = 0;
        while self.sleep_until(due) {
            // A panic of `on_connect` or of a subscriber does not end the thread.
            let wait = match caught(|| self.verify()) {
                Some(Err(Error::Closed | Error::Fenced { .. } | Error::Diverged { .. })) => return,
                Some(Ok(())) => {
                    failures = 0;
                    self.every
                }
                Some(Err(error)) => {
                    failures += 1;
                    self.failed(reason(&error), failures)
                }
                None => {
                    failures += 1;
                    self.failed("it panicked".to_owned(), failures)
                }
            };
            due = uptime().saturating_add(wait);
        }
    }

    fn verify(&self) -> Result<()> {
        let shared = self.replication.store().ok_or(Error::Closed)?;
        let reporter = RestoreReporter::new(ReplicaRestoreProgress::NOTHING);
        let readers = Arc::clone(&self.readers);
        reporter.set_limit(move || readers.is_closed().then_some(Error::Closed));
        let compared = reporter.handle();
        let verified = ReplicaVerify::new(&self.replication.storage, self.settings.clone())
            .note(|problem, restored| self.replication.was_verified(problem, restored))
            .damaged(|files| self.replication.found_damaged(files))
            .watched_by(reporter)
            .restore(true)
            .compare(|| snapshot(&self.replication, &shared, &self.settings, &compared))
            .run();
        match verified {
            Err(_) if self.readers.is_closed() => Err(Error::Closed),
            other => other.map(drop),
        }
    }

    /// Tells of a verification that was not possible. Returns how long until the next.
    fn failed(&self, reason: String, failures: u32) -> Duration {
        let doubled = FIRST_PAUSE.saturating_mul(1 << (failures - 1).min(16));
        let wait = doubled.min(LONGEST_PAUSE).min(self.every);
        if failures >= FAILURES {
            self.replication.figures().not_verified(reason.clone());
        }
        event!(
            warn,
            "larder::replica",
            self.replication.path,
            { replica = %self.replication.storage, reason, again_ms = wait.as_millis() as u64 },
            "the replica could not be verified; it is tried again"
        );
        wait
    }

    /// Sleeps until `due`. Returns whether the store is still open.
    fn sleep_until(&self, due: Duration) -> bool {
        loop {
            if self.readers.is_closed() {
                return false;
            }
            let left = due.saturating_sub(uptime());
            if left.is_zero() {
                return true;
            }
            self.readers.pause(left.min(CLOCK_CHECK), || false);
        }
    }
}

impl Replication {
    /// A verification has ended, and has found this problem or none. One that restored nothing stands in for no other.
    pub(super) fn was_verified(&self, problem: Option<String>, restored: bool) {
        let now = SystemTime::now();
        if problem.is_none() && restored {
            // Without it the next opening verifies sooner.
            let _ = self.spool.keep_verified(now);
        }
        self.figures().verified(now, problem);
    }
}

/// Why a verification was not possible.
fn reason(error: &Error) -> String {
    match error {
        Error::Replica { .. } | Error::NotReplicated { .. } => error.to_string(),
        Error::Restore { problem, .. } => (*problem).to_owned(),
        // Without SQLite's message.
        other => other.without_data(),
    }
}

/// The time until the first verification.
fn first(last: Option<SystemTime>, now: SystemTime, every: Duration) -> Duration {
    let age = last.map_or(every, |last| now.duration_since(last).unwrap_or_default());
    every.saturating_sub(age).max(AFTER_OPENING.min(every))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_verification_waits_for_its_interval() {
        let day = Duration::from_secs(86_400);
        let now = SystemTime::now();
        assert_eq!(first(None, now, day), AFTER_OPENING);
        assert_eq!(first(Some(now - day / 4), now, day), day * 3 / 4);
        assert_eq!(first(Some(now - 9 * day), now, day), AFTER_OPENING);
        // The clock was set back.
        assert_eq!(first(Some(now + day), now, day), day);
        assert_eq!(first(None, now, Duration::from_secs(1)), Duration::from_secs(1));
    }
}
