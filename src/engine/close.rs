//! Closing an [`Engine`]: by a call, within a time, or by the drop of the last clone.

use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Engine;
use crate::connection::open_files::Claim;
use crate::error::{Error, Outcome, Result};
use crate::queue::pending::Queue;
use crate::runtime::clock::later;
use crate::runtime::timer;
use crate::telemetry::event::event;
use crate::write::closing::CloseReport;

/// How long `close` waits beyond its deadline for the writer thread's report.
const LAST_WORDS: Duration = Duration::from_millis(100);

impl Engine {
    /// Refuses to close where closing would wait for its own thread.
    pub(crate) fn may_close(&self) -> Result<()> {
        let readers = &self.readers;
        if self.queue().is_left() {
            return Err(Error::forked());
        }
        if self.queue().is_worker() || readers.is_worker_thread() || readers.in_use_by_this_thread() {
            return Err(Error::Reentrant {
                call: "close",
                instead: "call it outside the closures of the same store",
                outcome: Outcome::NotStarted,
            });
        }
        Ok(())
    }

    /// Asks the writer thread to close.
    fn begin_close(&self, deadline: Instant) {
        let (readers, telemetry) = (Arc::downgrade(&self.readers), Arc::downgrade(&self.telemetry));
        let holder = move || {
            if let Some(write) = telemetry.upgrade()?.writing.activity() {
                return Some(format!("a write is running: {}, for {:.1?}", write.site, write.age));
            }
            let read = readers.upgrade()?.oldest()?;
            Some(format!("a read is running: {read}"))
        };
        Claim::closing(self.id, Arc::new(holder));
        self.shared.closing.ask(deadline);
        self.shared.queue.close();
    }

    /// Closes the store, and gives up the work that is not done in time.
    pub(crate) fn close(&self, timeout: Duration) -> CloseReport {
        let began = Instant::now();
        let deadline = later(began, timeout);
        self.begin_close(deadline);
        let closing = &self.shared.closing;
        if let Some(report) = closing.wait(deadline) {
            self.watch.end();
            return report;
        }
        // A write may never end. The jobs behind it are dropped now, and reply that they were not started.
        self.shared.queue.discard();
        closing
            .wait(later(deadline, LAST_WORDS))
            .unwrap_or_else(|| CloseReport {
                finished: self.telemetry.counters.finished_closing.get(),
                never_started: self.shared.queue.discarded(),
                wal_truncated: false,
                wal_kept_because: Some(
                    "a write or the last checkpoint is still running; the file is closed when it finishes".into(),
                ),
                replicated: self.shared.keeper().map(|_| false),
                not_replicated_because: self
                    .shared
                    .keeper()
                    .map(|_| "a write or the last checkpoint is still running".into()),
                duration: began.elapsed(),
            })
    }
}

/// Runs when the last clone is dropped.
impl Drop for Engine {
    fn drop(&mut self) {
        if self.shared.queue.is_left() {
            // The folder and the connections belong to the parent process.
            let rest = (
                Arc::clone(&self.shared),
                Arc::clone(&self.readers),
                Arc::clone(&self.seat),
            );
            mem::forget((self._folder.take(), rest));
            return;
        }
        // This thread would wait for itself, or others would wait for it. The writer thread closes the file once the
        // closure has ended. (A read on its caller's thread borrows the store, so the last clone is never dropped
        // inside one.)
        if self.shared.queue.is_worker() || self.readers.is_worker_thread() || timer::is_here() {
            return self.begin_close(later(Instant::now(), self.options.close_timeout));
        }
        // The thread that closed the store by a call has already waited for its timeout.
        let closed_by_hand = self.shared.closing.deadline().is_some();
        let timeout = if closed_by_hand {
            Duration::ZERO
        } else {
            self.options.close_timeout
        };
        let report = self.close(timeout);
        // The writer thread has closed the queue already, unless it is stuck or, by a bug in larder, dead.
        self.readers.close_queue();
        if !closed_by_hand && (report.failed_to_truncate() || report.replicated == Some(false)) {
            event!(warn, "larder::close", self.shared.path, { %report }, "the last clone was dropped");
        }
    }
}
