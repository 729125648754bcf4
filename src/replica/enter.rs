//! How a store that opened while its storage was away becomes the owner of its replica, once the storage answers.
//!
//! What opening would have asked is asked here, and the answers are the same, but that the store is open: where opening
//! would have failed, it takes no more writes.
//!
//! | the replica | then |
//! |---|---|
//! | ends with a transaction that this store uploaded, or was about to | this store is its owner, and uploads what waits |
//! | the same, and another store owns it and has not closed it | [`Error::Fenced`](crate::Error::Fenced), or a claim if `take_over` says so |
//! | has another number | [`Error::Diverged`](crate::Error::Diverged) |
//! | lacks what was uploaded, has more than was captured, or ends with another's transaction | the same, or a full file if `on_divergence` says so |
//!
//! It runs on the task that uploads, so nothing is uploaded meanwhile. Nothing is written to the storage before the answer
//! is known: an empty folder where a volume is to be mounted stays empty.

use std::time::SystemTime;

use super::fence::{Entry, Holder, Seen};
use super::open::{is_other_replica, other_replica, ways_out};
use super::options::OnDivergence;
use super::replication::{Ownership, Replication};
use super::storage::{Result as StorageResult, all_files, newest};
use super::upload::Failed;
use crate::runtime::random;
use crate::telemetry::event::event;

impl Replication {
    /// Makes this store the owner of the replica, or finds why it cannot be.
    pub(super) async fn enter(&self) -> Result<(), Failed> {
        loop {
            // The owner first: what is written after that changes its version.
            let seen = self.fence.owner().await?;
            let files = all_files(&self.storage).await?;
            let uploaded = self.progress().uploaded;
            let tip = newest(&self.storage, &files, uploaded).await?;
            self.compare(seen.as_ref(), tip).await?;
            self.clock.set(if self.options.unconditional {
                self.storage.time().await?
            } else {
                self.storage.probe().await?
            });
            let lineage = match self.lineage() {
                0 => random::number(),
                lineage => lineage,
            };
            match self.fence.enter(seen.as_ref(), lineage, SystemTime::now()).await? {
                Entry::Changed => continue,
                Entry::Entered if self.is_inherited(tip + 1) => self.set_ownership(Ownership::ToClaimOwn),
                Entry::Entered => self.set_ownership(Ownership::Owner),
                // An earlier opening of this store was killed; or another's replica is taken over.
                Entry::NotClosed => self.set_ownership(Ownership::ToClaim),
            }
            self.set_lineage(seen.map_or(lineage, |seen| seen.owner.lineage));
            self.figures().reached();
            self.reach(|progress| progress.reaches_again());
            event!(
                info,
                "larder::replica",
                self.path,
                { replica = %self.storage, txid = tip },
                "the replica, which could not be reached at opening, is there, and the store goes on with it"
            );
            return Ok(());
        }
    }

    /// Makes sure that this store may go on with the replica, which ends with that transaction.
    async fn compare(&self, seen: Option<&Seen>, tip: u64) -> Result<(), Failed> {
        let (known, there) = (self.lineage(), seen.map_or(0, |seen| seen.owner.lineage));
        if is_other_replica(known, there) {
            return Err(Failed::Diverged(format!(
                "the storage was away as the store opened, and {}",
                other_replica(&self.path, known, there)
            )));
        }
        let difference = self.difference(tip).await?;
        // An earlier opening of this store was killed.
        let is_rival = |seen: &&Seen| self.fence.is_rival(&seen.owner);
        let rival = seen.filter(is_rival).filter(|_| !self.options.take_over);
        let rival = rival.map(|seen| self.fence.holder(&seen.owner));
        if let Some(rival @ Holder::Other { .. }) = rival {
            return Err(Failed::Taken(rival));
        }
        let on_divergence = self.options.on_divergence;
        match difference {
            None => {
                self.figures().found(tip);
                self.reach(|progress| progress.uploaded = progress.uploaded.max(tip));
                Ok(())
            }
            Some(difference) if on_divergence == OnDivergence::Rebase => {
                self.rebase_onto(tip, &difference).map_err(Failed::ForNow)
            }
            Some(difference) => Err(Failed::Diverged(format!(
                "the storage was away as the store opened, and {difference}. {}",
                ways_out(&self.path, on_divergence, tip)
            ))),
        }
    }

    /// How the replica differs from what this store knows of it.
    async fn difference(&self, tip: u64) -> StorageResult<Option<String>> {
        let (uploaded, sealed) = {
            let progress = self.progress();
            (progress.uploaded, progress.sealed)
        };
        if tip == 0 && uploaded > 0 {
            return Ok(Some(format!(
                "the database was replicated up to transaction {uploaded}, and the replica has been emptied"
            )));
        }
        if !(uploaded..=sealed).contains(&tip) {
            let known = tip.clamp(uploaded, sealed);
            return Ok(Some(format!(
                "the database was replicated up to transaction {known}, and the replica ends with transaction {tip}"
            )));
        }
        let timestamp = self.resumed.time_of(tip);
        let is_known = tip == 0 || self.fence.is_at(tip, self.spool.body(tip), timestamp).await?;
        Ok((!is_known).then(|| format!("its newest transaction, {tip}, was written by another process")))
    }
}
