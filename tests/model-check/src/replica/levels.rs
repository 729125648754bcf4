//! In place of larder's levels: snapshots of what was uploaded. What retention deletes, and in which order it asks, is
//! larder's own.

use std::time::SystemTime;

use bytes::Bytes;

use super::nodes::Weakness;
use super::spool::Spool;
use super::storage::{FileInfo, Result, SNAPSHOTS, Storage, Txids, all_files};

#[path = "../../../../src/replica/levels/retain.rs"]
mod retain;
#[expect(dead_code, reason = "larder's levels ask for more than the model does")]
#[path = "../../../../src/replica/levels/rules.rs"]
mod rules;

pub(super) use self::rules::{LevelTimes, expendable};

pub(super) trait Permit: Send + Sync {
    fn is_given(&self) -> bool;
}

impl<F: Fn() -> bool + Send + Sync> Permit for F {
    fn is_given(&self) -> bool {
        self()
    }
}

pub(super) struct Levels {
    storage: Storage,
    times: LevelTimes,
    files: Vec<FileInfo>,
    own: u64,
    damaged: Vec<(FileInfo, String)>,
    retained: SystemTime,
}

impl Levels {
    pub(super) async fn open(storage: Storage) -> Result<Self> {
        let files = all_files(&storage).await?;
        let nothing = std::time::Duration::ZERO;
        Ok(Self {
            storage,
            // All that can be deleted is, at once.
            times: LevelTimes {
                l0_retention: nothing,
                retention: nothing,
                ..LevelTimes::default()
            },
            files,
            own: 0,
            damaged: vec![],
            retained: SystemTime::UNIX_EPOCH,
        })
    }

    pub(super) fn uploaded(&mut self, txid: u64) {
        self.own = self.own.max(txid);
    }

    /// The files that were uploaded up to this owner's last one: copies in the spool, or objects. `chain` has all that
    /// its database has.
    pub(super) async fn snapshot(&self, spool: &Spool, chain: &[Bytes], permit: &dyn Permit) -> Result<()> {
        let snapshots = self.files.iter().filter(|file| file.level == SNAPSHOTS);
        let base = snapshots
            .max_by_key(|file| file.txids.max)
            .filter(|file| file.txids.max <= self.own);
        let mut snapshot = match base {
            Some(base) => self.storage.get(SNAPSHOTS, base.txids).await?.to_vec(),
            None => vec![],
        };
        let covered = base.map_or(0, |base| base.txids.max);
        for txid in covered + 1..=self.own {
            let file = match spool.body(txid) {
                Some(super::storage::Body::Memory(file)) => file,
                _ => self.storage.get(0, Txids::one(txid)).await?,
            };
            snapshot.extend_from_slice(&file);
        }
        let mut max = self.own;
        if Weakness::FencedSnapshot.is_given() {
            (snapshot, max) = (chain.concat(), chain.len() as u64);
        } else if !permit.is_given() {
            return Ok(());
        }
        if max > covered {
            self.storage
                .put(SNAPSHOTS, Txids { min: 1, max }, snapshot.into())
                .await?;
        }
        Ok(())
    }
}
