//! What happens when the spool is full, by [`WhenSpoolFull`]: it is dropped, or writes are refused.
//!
//! The file that is being uploaded counts for nothing. It is never dropped, since the storage may have it already and not
//! have answered, and it may be a full file, larger than the limit.
//!
//! Writes are refused as they begin, by one flag that the holder of the writer's seat reads. It is set and cleared under
//! the lock of `progress`, with what it follows from: after a capture, which makes the spool larger, and after an upload,
//! which makes it smaller. So no upload is missed that would have cleared it. No write waits for the flag.
//!
//! On a full disk the spool gives way by [`WhenSpoolFull::Rebase`], because the database needs the room more. By
//! [`WhenSpoolFull::RefuseWrites`] it stays, and nothing is lost: what is committed is in the database and its log. The
//! capture is tried again every interval, and the first one that succeeds lets writes go on.

use std::sync::atomic::Ordering;

use super::capture::Capture;
use super::options::WhenSpoolFull;
use super::replication::{Progress, Replication};
use crate::error::Error;
use crate::telemetry::event::event;

const DISK_IS_FULL: &str = "the disk is full";

impl Replication {
    /// Called after each capture.
    pub(super) fn bound_spool(&self, capture: &mut Capture) {
        if self.options.when_full == WhenSpoolFull::RefuseWrites {
            return self.weigh_spool();
        }
        let waiting = self.waiting(&self.progress());
        if waiting > self.options.spool_limit {
            self.drop_spool(capture, "ReplicaOptions::spool_limit is reached");
        }
    }

    /// The disk has no room for the next file. Returns whether the spool has made some.
    pub(super) fn give_way(&self, capture: &mut Capture) -> bool {
        if self.options.when_full == WhenSpoolFull::Rebase {
            return self.drop_spool(capture, DISK_IS_FULL);
        }
        self.progress().disk_is_full = true;
        self.weigh_spool();
        false
    }

    /// Looks whether writes are to be refused from now on. Called whenever the spool has changed.
    pub(super) fn weigh_spool(&self) {
        if self.options.when_full != WhenSpoolFull::RefuseWrites {
            return;
        }
        let progress = self.progress();
        let bytes = self.waiting(&progress);
        let is_full = progress.disk_is_full || bytes > self.options.spool_limit;
        let was_full = self.refuses.swap(is_full, Ordering::AcqRel);
        if is_full == was_full {
            return;
        }
        let reason = is_full.then(|| why(&progress));
        self.figures().refuses(reason.clone());
        let (replica, limit) = (self.storage.to_string(), self.options.spool_limit);
        self.defer(move |path| match reason {
            Some(reason) => event!(
                warn,
                "larder::replica",
                path,
                { reason, bytes, limit, replica },
                "the spool is full, so writes are refused until uploads have made room"
            ),
            None => event!(
                info,
                "larder::replica",
                path,
                { bytes, limit, replica },
                "the spool has room again, so writes go on"
            ),
        });
    }

    /// The error of a write that is refused.
    pub(super) fn refuses_writes(&self) -> Option<Error> {
        if !self.refuses.load(Ordering::Acquire) {
            return None;
        }
        let progress = self.progress();
        Some(Error::SpoolFull {
            spool: self.spool.folder().to_owned(),
            bytes: self.waiting(&progress),
            limit: self.options.spool_limit,
            reason: why(&progress),
        })
    }

    /// The bytes that wait behind the file that is being uploaded, or is to be.
    fn waiting(&self, progress: &Progress) -> u64 {
        let first = self.spool.first_from(progress.trying.max(progress.uploaded + 1));
        first.map_or(0, |first| self.spool.bytes_from(first.txid + 1))
    }
}

fn why(progress: &Progress) -> String {
    match &progress.failing {
        _ if progress.disk_is_full => DISK_IS_FULL.to_owned(),
        Some(reason) => reason.clone(),
        None => "uploads take longer than writes".to_owned(),
    }
}
