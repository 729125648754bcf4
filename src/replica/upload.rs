//! The task that uploads: one sealed file after another, in order, one request at a time.
//!
//! Each file is a Create: it never overwrites. The file N + 1 is tried only once N is in the replica, so no gap can come,
//! and a process that finds N taken by other bytes knows that another primary writes to the replica. The bytes of a file
//! are fixed before its first request, so a request whose answer was lost can be told from another's: the object is the
//! file, byte for byte.
//!
//! While the storage fails, the task tries again after [`FIRST_PAUSE`], doubled up to [`LONGEST_PAUSE`], and at once when
//! a caller flushes. It ends when the store has closed and everything is uploaded, or when the time for that is over.
//!
//! If the storage was away as the store opened, the first thing is to enter this store as the owner (`enter.rs`), whether
//! there is something to upload or not.

use std::time::{Duration, SystemTime};

use futures_util::future::{Either, select};

use super::fence::{ClaimResult, Holder, Opening, Upload};
use super::replication::{Ownership, Replication};
use super::runtime;
use super::spool::Sealed;
use super::storage::{Body, Result as StorageResult, StorageError};
use crate::runtime::date;
use crate::runtime::sync::{Arc, Instant};
use crate::telemetry::event::event;
use crate::write::Stopped;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// An upload without an answer for so long may be another primary's turn by now.
const DOUBTFUL: Duration = Duration::from_secs(5);

/// Uploads stay in the spool up to so many bytes, until they are merged.
const KEPT: u64 = 64 << 20;

/// How often an owner that has nothing to upload looks at `owner.json`.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Why a file was not uploaded.
pub(super) enum Failed {
    /// It is tried again.
    ForNow(String),
    /// Another primary has the replica.
    Taken(Holder),
    /// The replica is not the one that the store goes on with.
    Diverged(String),
}

impl From<StorageError> for Failed {
    fn from(error: StorageError) -> Self {
        Self::ForNow(error.to_string())
    }
}

impl Replication {
    /// The life of the task.
    pub(super) async fn upload_until_closed(self: Arc<Self>) {
        let mut pause = FIRST_PAUSE;
        loop {
            let next = self.next_upload();
            let began = Instant::now();
            let done = match next {
                None if self.closing.get().is_some() => None,
                _ if self.ownership() == Ownership::ToEnter => self.until_deadline(self.enter()).await,
                None => {
                    if !self.pause(&self.sealed, LOOK_EVERY).await {
                        continue;
                    }
                    match self.look().await {
                        Some(other) => Some(Err(Failed::Taken(other))),
                        None => continue,
                    }
                }
                Some(sealed) => {
                    let uploaded = self.until_deadline(self.upload(sealed)).await;
                    if let Some(Ok(())) = uploaded {
                        self.was_uploaded(sealed, began.elapsed());
                    }
                    uploaded
                }
            };
            match done {
                // Closed, and done or out of time.
                None => break,
                Some(Ok(())) => {
                    pause = FIRST_PAUSE;
                    self.tell();
                }
                Some(Err(Failed::ForNow(reason))) => {
                    self.failed(next, reason);
                    self.pause(&self.sealed, self.pause_now(pause)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    if self.is_over() {
                        break;
                    }
                }
                Some(Err(Failed::Taken(holder))) => {
                    self.fenced(&holder);
                    break;
                }
                Some(Err(Failed::Diverged(problem))) => {
                    self.diverged(problem);
                    break;
                }
            }
        }
        self.leave().await;
        self.reach(|progress| progress.ended = true);
    }

    /// While the store closes, the storage is tried until the time is over.
    fn pause_now(&self, pause: Duration) -> Duration {
        match self.closing.get() {
            Some(deadline) => FIRST_PAUSE.min(deadline.saturating_duration_since(Instant::now())),
            None => pause,
        }
    }

    fn is_over(&self) -> bool {
        self.closing.get().is_some_and(|deadline| Instant::now() >= *deadline)
    }

    /// `None` if the store is closing, and its time is over first.
    async fn until_deadline<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        loop {
            if let Some(deadline) = self.closing.get() {
                return tokio::time::timeout_at((*deadline).into(), work).await.ok();
            }
            match select(&mut work, std::pin::pin!(self.sealed.notified())).await {
                Either::Left((done, _)) => return Some(done),
                // The store is closing, perhaps.
                Either::Right(_) => {}
            }
        }
    }

    async fn upload(&self, sealed: Sealed) -> Result<(), Failed> {
        let spool = Arc::clone(&self.spool);
        let read = runtime::blocking(move || spool.read(sealed)).await;
        let read = read.and_then(|read| read);
        let (body, head) = read.map_err(|error| Failed::ForNow(error.to_string()))?;
        match self.create(sealed.txid, head, body).await? {
            Upload::New | Upload::Ours => Ok(()),
            Upload::Fenced(holder) => Err(Failed::Taken(holder)),
        }
    }

    /// Creates the file. The first one may have to claim the replica, and the first that was sealed since the opening,
    /// which is announced in any case.
    async fn create(&self, txid: u64, (timestamp, sealer): (i64, u64), body: Body) -> StorageResult<Upload> {
        let is_inherited = self.is_inherited(txid);
        let own = Opening {
            opening: sealer,
            first: txid,
            after: self.resumed.time_of(txid - 1),
        };
        let take_over = match self.ownership() {
            Ownership::ToClaim => self.options.take_over,
            // It has taken over already. Who came after that was told later.
            Ownership::ToClaimOwn if !is_inherited => false,
            Ownership::ToClaimOwn | Ownership::Owner | Ownership::ToEnter => {
                if !self.is_announced(sealer) {
                    if !self.fence.announce(own).await? {
                        return self.fence.look().await.map(Upload::Fenced);
                    }
                    self.set_announced(sealer);
                }
                return self.fence.create(txid, timestamp, body).await;
            }
        };
        let claim = self.fence.claim_for(own, timestamp, body, SystemTime::now(), take_over);
        if claim.await? == ClaimResult::Moved {
            return self.fence.look().await.map(Upload::Fenced);
        }
        self.set_announced(sealer);
        self.set_ownership(if is_inherited {
            Ownership::ToClaimOwn
        } else {
            Ownership::Owner
        });
        Ok(Upload::New)
    }

    /// An owner that has nothing to upload looks whether it still is one, before it writes. Returns who is.
    async fn look(&self) -> Option<Holder> {
        if self.ownership() != Ownership::Owner {
            return None;
        }
        let holder = self.fence.look().await.ok();
        holder.filter(|holder| matches!(holder, Holder::Other { .. }))
    }

    /// Whether the levels may be written: this store owns the replica and is not fenced, and no upload is without an answer
    /// for long.
    pub(super) fn may_compact(&self) -> bool {
        let progress = self.progress();
        let waits = progress.trying_since.is_some_and(|since| since.elapsed() > DOUBTFUL);
        let is_sure = self.ownership() == Ownership::Owner && progress.failing.is_none() && !waits;
        drop(progress);
        is_sure && !self.has_ended() && self.closing.get().is_none() && !self.is_poisoned()
    }

    /// Says that the next opening needs no claim, if everything is uploaded.
    async fn leave(&self) {
        let (is_done, uploaded) = {
            let progress = self.progress();
            let is_done = progress.failing.is_none() && progress.uploaded >= progress.sealed;
            (is_done, progress.uploaded)
        };
        // The last one stays: by it an opening knows the replica for its own.
        let _ = self.spool.delete_to(uploaded.saturating_sub(1));
        // A store that was fenced says nothing more there.
        if is_done && self.ownership() == Ownership::Owner && !self.has_ended() {
            // After an error the next opening takes this store for one that was killed.
            let _ = self.until_deadline(self.fence.close()).await;
        }
    }

    fn was_uploaded(&self, sealed: Sealed, time: Duration) {
        let was_failing = self.progress().failing.is_some();
        if was_failing {
            event!(
                info,
                "larder::replica",
                self.path,
                { replica = %self.storage, txid = sealed.txid },
                "uploads to the replica succeed again"
            );
        }
        self.to_compact(sealed);
        // They stay for the merge. One that cannot be deleted takes room, and is deleted later.
        let _ = self.spool.keep_at_most(KEPT, sealed.txid);
        self.figures()
            .uploaded(sealed.txid, sealed.bytes, time, self.spool.bytes());
        self.reach(|progress| {
            progress.uploaded = progress.uploaded.max(sealed.txid);
            progress.reaches_again();
        });
        // After that: a spool that is dropped now sees it, or is seen here.
        self.go_on_after_upload();
        self.seal_after_upload(sealed.txid, time);
    }

    fn failed(&self, sealed: Option<Sealed>, reason: String) {
        let is_new = self.progress().failing.is_none();
        let txid = sealed.map(|sealed| sealed.txid);
        if is_new {
            event!(
                warn,
                "larder::replica",
                self.path,
                { replica = %self.storage, txid, reason },
                "an upload to the replica failed; it is tried again until it succeeds"
            );
        }
        self.figures().upload_failed(&reason);
        self.reach(|progress| progress.failing = Some(reason));
    }
}

impl Replication {
    fn fenced(&self, holder: &Holder) {
        let (by, since) = match holder {
            Holder::Other { host, since } => (format!("{host}, since {}", date::utc(*since)), *since),
            Holder::Us => {
                let former = "its former owner, which has uploaded since this store read it";
                (former.to_owned(), SystemTime::now())
            }
            Holder::Unknown => ("a process that is not in its owner.json".to_owned(), SystemTime::now()),
        };
        event!(
            error,
            "larder::replica",
            self.path,
            { replica = %self.storage, by, "error.type" = "fenced" },
            "another process has taken the replica over, so this store takes no more writes"
        );
        self.stop(Stopped::Fenced { by, since });
    }

    fn diverged(&self, problem: String) {
        event!(
            error,
            "larder::replica",
            self.path,
            { replica = %self.storage, problem, "error.type" = "diverged" },
            "the replica is not the one that the store goes on with, so it takes no more writes"
        );
        let url = self.storage.to_string();
        self.stop(Stopped::Diverged { url, problem });
    }
}
