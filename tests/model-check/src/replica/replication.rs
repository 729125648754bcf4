//! In place of larder's replication: what the task that uploads asks of it, with the same steps.

use std::collections::BTreeSet;
use std::future::ready;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex as Plain, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::fence::Fence;
use super::levels::Levels;
use super::nodes::{Reached, Weakness, linger};
use super::options::ReplicaOptions;
use super::spool::{Sealed, Spool, Transaction};
use super::storage::{Result, Storage};
use crate::sync::{Arc, Instant, Mutex, MutexGuard, Notify};
use crate::time::timeout;
use crate::write::Stopped;

/// Between two tries of what may not be done, or fails.
const AGAIN: Duration = Duration::from_secs(60);

/// Later than every file.
const LATER: Duration = Duration::from_secs(1 << 30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ownership {
    Owner,
    ToEnter,
    ToClaim,
    ToClaimOwn,
}

#[derive(Clone, Default)]
pub(super) struct Progress {
    pub(super) sealed: u64,
    pub(super) uploaded: u64,
    pub(super) trying: u64,
    pub(super) trying_since: Option<Instant>,
    pub(super) failing: Option<String>,
    pub(super) ended: bool,
    pub(super) compacted: bool,
}

impl Progress {
    pub(super) fn reaches_again(&mut self) {
        self.trying = 0;
        self.trying_since = None;
        self.failing = None;
    }
}

/// Nothing is shown.
pub(super) struct Figures;

impl Figures {
    pub(super) fn uploaded(&self, _: u64, _: u64, _: Duration, _: u64) {}
    pub(super) fn upload_failed(&self, _: &str) {}
    pub(super) fn found(&self, _: u64) {}
    pub(super) fn reached(&self) {}
}

pub(super) struct Clock;

impl Clock {
    pub(super) fn set(&self, _: SystemTime) {}
}

/// The last transaction before the opening, and its time.
pub(super) struct Resumed(pub(super) u64, pub(super) i64);

impl Resumed {
    pub(super) fn time_of(&self, txid: u64) -> Option<i64> {
        (self.0 == txid).then_some(self.1)
    }
}

pub(super) struct Replication {
    pub(super) path: PathBuf,
    pub(super) options: ReplicaOptions,
    pub(super) storage: Storage,
    pub(super) fence: Fence,
    pub(super) clock: Clock,
    pub(super) resumed: Resumed,
    pub(super) spool: Arc<Spool>,
    /// What the database has.
    pub(super) chain: Plain<Vec<Bytes>>,
    pub(super) inherited: u64,
    pub(super) announced: AtomicU64,
    pub(super) ownership: Plain<Ownership>,
    pub(super) lineage: AtomicU64,
    pub(super) sealed: Notify,
    pub(super) uploads: Plain<Vec<u64>>,
    pub(super) compact: Notify,
    pub(super) closing: OnceLock<Instant>,
    pub(super) progress: Mutex<Progress>,
    /// Wakes the node.
    pub(super) changed: Notify,
    pub(super) ended: AtomicBool,
}

impl Replication {
    pub(super) fn ownership(&self) -> Ownership {
        *self.ownership.lock().unwrap()
    }

    pub(super) fn set_ownership(&self, ownership: Ownership) {
        *self.ownership.lock().unwrap() = ownership;
        let is_claim = matches!(ownership, Ownership::ToClaim | Ownership::ToClaimOwn);
        if is_claim && self.is_inherited(self.progress().sealed) {
            // Page 1 once more.
            let _ = self.write();
        }
    }

    pub(super) fn is_inherited(&self, txid: u64) -> bool {
        txid <= self.inherited
    }

    pub(super) fn is_announced(&self, opening: u64) -> bool {
        self.announced.load(SeqCst) == opening
    }

    pub(super) fn set_announced(&self, opening: u64) {
        self.announced.store(opening, SeqCst);
    }

    pub(super) fn lineage(&self) -> u64 {
        self.lineage.load(SeqCst)
    }

    pub(super) fn set_lineage(&self, lineage: u64) {
        self.lineage.store(lineage, SeqCst);
    }

    pub(super) fn figures(&self) -> &Figures {
        &Figures
    }

    pub(super) fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock()
    }

    pub(super) fn reach(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress());
        self.changed.notify_one();
    }

    pub(super) fn next_upload(&self) -> Option<Sealed> {
        let mut progress = self.progress();
        let next = self.spool.first_from(progress.uploaded + 1);
        let next = next.filter(|next| next.txid == progress.uploaded + 1);
        progress.trying = next.map_or(0, |next| next.txid);
        progress.trying_since = next.map(|_| Instant::now());
        next
    }

    pub(super) async fn pause(&self, wake: &Notify, time: Duration) -> bool {
        timeout(time, wake.notified()).await.is_err()
    }

    pub(super) fn rebase_onto(&self, _: u64, _: &str) -> std::result::Result<(), String> {
        unreachable!("no store of the model begins its replica again")
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(SeqCst)
    }

    pub(super) fn is_poisoned(&self) -> bool {
        false
    }

    pub(super) fn go_on_after_upload(&self) {}

    pub(super) fn seal_after_upload(&self, _: u64, _: Duration) {}

    pub(super) fn tell(&self) {}

    /// No step of a schedule is between the two: what the store has under way as it learns that was begun before.
    pub(super) fn stop(&self, _: Stopped) {
        let before = self.ended.swap(true, SeqCst);
        assert!(!before, "a store stops once");
        Reached::Fenced.once_more();
        self.storage.process.has_stopped.store(true, SeqCst);
        self.changed.notify_one();
    }

    // ---- the node ----

    /// Commits and seals one write. `None`: writes are refused.
    pub(super) fn write(&self) -> Option<(u64, Bytes)> {
        if self.has_ended() {
            return None;
        }
        let mut chain = self.chain.lock().unwrap();
        let transaction = Transaction::after(&chain, self.fence.opening());
        let (txid, file) = (transaction.txid, transaction.bytes());
        chain.push(file.clone());
        self.spool.seal(txid, file.clone());
        drop(chain);
        self.reach(|progress| progress.sealed = txid);
        self.sealed.notify_one();
        Some((txid, file))
    }

    // ---- the task that compacts ----

    pub(super) fn to_compact(&self, sealed: Sealed) {
        self.uploads.lock().unwrap().push(sealed.txid);
        self.compact.notify_one();
    }

    pub(super) async fn compact_until_closed(self: Arc<Self>) {
        let mut levels = None;
        while self.closing.get().is_none() {
            if self.uploads.lock().unwrap().is_empty() {
                self.compact.notified().await;
            } else if self.compact_step(&mut levels).await != Ok(true) {
                self.pause(&self.compact, AGAIN).await;
            }
        }
        self.reach(|progress| progress.compacted = true);
    }

    /// Returns whether it might.
    async fn compact_step(&self, levels: &mut Option<Levels>) -> Result<bool, ()> {
        let may = || self.may_compact();
        if !may() && !Weakness::FencedSnapshot.is_given() {
            return Ok(false);
        }
        if levels.is_none() {
            *levels = Some(Levels::open(self.storage.clone()).await.map_err(drop)?);
        }
        let levels = levels.as_mut().expect("it is there");
        for txid in std::mem::take(&mut *self.uploads.lock().unwrap()) {
            levels.uploaded(txid);
        }
        let chain = self.chain.lock().unwrap().clone();
        levels.snapshot(&self.spool, &chain, &may).await.map_err(drop)?;
        let now = UNIX_EPOCH + LATER;
        if Weakness::ForgetsClaims.is_given() {
            levels.retain(now, ready(Ok(BTreeSet::new())), &may).await
        } else if Weakness::ClaimsBeforeList.is_given() {
            let claims = self.fence.claims(SystemTime::now()).await;
            linger(&self.storage.bucket).await;
            levels.retain(now, ready(claims), &may).await
        } else {
            levels.retain(now, self.fence.claims(SystemTime::now()), &may).await
        }
        .map_err(drop)?;
        Ok(true)
    }
}
