//! The task that keeps the levels of a store's replica: merges, snapshots, retention.
//!
//! It begins with the first upload after opening, so an idle store makes no list. What was uploaded since its last step
//! is in `uploads`, which the uploader fills once its Create has succeeded; the mutex is held for a push or a take. It
//! sleeps until a period of a level is over, and nothing but closing wakes it before that. What fails is tried again after
//! [`FIRST_PAUSE`], doubled up to [`LONGEST_PAUSE`].
//!
//! No step may write or delete while an upload has no answer, after a fence, or once the store closes
//! ([`Replication::may_compact`]). A step that runs as the store closes is dropped: what it wrote follows from the files
//! of level 0, so it is right or not there.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use futures_util::future::{Either, select};

use super::levels::{Due, Levels};
use super::replication::Replication;
use super::spool::Sealed;
use super::storage::{FailureKind, FileInfo, Result, Txids};
use crate::runtime::sync::Arc;
use crate::telemetry::event::event;

const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// The shortest pause between two looks, should a clock not go on.
const SHORTEST: Duration = Duration::from_secs(1);

impl Replication {
    /// Takes note of a file that was uploaded.
    pub(super) fn to_compact(&self, sealed: Sealed) {
        self.uploads.lock().push(FileInfo {
            level: 0,
            txids: Txids::one(sealed.txid),
            size: sealed.bytes,
            modified: SystemTime::now(),
        });
        self.compact.notify_one();
    }

    /// The life of the task.
    pub(super) async fn compact_until_closed(self: Arc<Self>) {
        let (mut levels, mut wake, mut pause) = (None, None, FIRST_PAUSE);
        while self.sleep_until(wake).await {
            match self.unless_closing(self.compact_step(&mut levels)).await {
                None => return,
                Some(Ok(next)) => {
                    pause = FIRST_PAUSE;
                    wake = next;
                }
                Some(Err(error)) => {
                    event!(
                        warn,
                        "larder::replica",
                        self.path,
                        { replica = %self.storage, %error, again_ms = pause.as_millis() as u64 },
                        "the levels of the replica could not be brought up to date; it is tried again"
                    );
                    wake = Some(SystemTime::now() + pause);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Does what is due, and returns when something will be.
    async fn compact_step(&self, levels: &mut Option<Levels>) -> Result<Option<SystemTime>> {
        let may = || self.may_compact();
        if !may() {
            return Ok(Some(SystemTime::now() + FIRST_PAUSE));
        }
        let levels = match levels {
            Some(levels) => levels,
            none => {
                let (storage, spool) = (self.storage.clone(), self.spool.folder().to_owned());
                none.insert(Levels::open(storage, self.options.times, spool).await?)
            }
        };
        let uploads = std::mem::take(&mut *self.uploads.lock());
        uploads.into_iter().for_each(|file| levels.uploaded(file));
        let now = SystemTime::now();
        while let Some(due) = levels.due(now) {
            if !may() {
                return Ok(Some(now + FIRST_PAUSE));
            }
            match due {
                Due::Merge(merge) => drop(levels.merge(merge, &may).await?),
                Due::Snapshot => drop(levels.snapshot(&may).await?),
                Due::Retain => drop(levels.retain(now, self.claims(), &may).await?),
            }
        }
        Ok(levels.next_due().map(|due| due.max(now + SHORTEST)))
    }

    /// The transactions whose files are kept: those with which owners claimed the replica. An error if this store does
    /// not own it.
    async fn claims(&self) -> Result<BTreeSet<u64>> {
        let owner = self.fence.owner().await?.map(|seen| seen.owner);
        if let Some(owner) = owner.as_ref().filter(|owner| owner.node != self.fence.node()) {
            let reason = format!("a process on {} owns the replica", owner.host);
            let what = "nothing was deleted".to_owned();
            return Err(self.storage.failure(what, FailureKind::Transient, reason));
        }
        let claims = owner.map(|owner| owner.claims).unwrap_or_default();
        Ok(claims.iter().map(|claim| claim.txid).collect())
    }

    /// Waits until that time, or for the first upload if there is none. `false`: the store closes.
    async fn sleep_until(&self, wake: Option<SystemTime>) -> bool {
        loop {
            let told = std::pin::pin!(self.compact.notified());
            if self.closing.get().is_some() {
                return false;
            }
            let Some(wake) = wake else {
                if !self.uploads.lock().is_empty() {
                    return true;
                }
                told.await;
                continue;
            };
            let left = wake.duration_since(SystemTime::now()).unwrap_or_default();
            if left.is_zero() {
                return true;
            }
            // The system's clock may be set meanwhile. Uploads wake this, too, and have their time.
            let sleep = std::pin::pin!(tokio::time::sleep(left.min(LONGEST_PAUSE)));
            select(sleep, told).await;
        }
    }

    /// `None` if the store closes first.
    async fn unless_closing<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        loop {
            let told = std::pin::pin!(self.compact.notified());
            if self.closing.get().is_some() {
                return None;
            }
            if let Either::Left((done, _)) = select(&mut work, told).await {
                return Some(done);
            }
        }
    }
}
