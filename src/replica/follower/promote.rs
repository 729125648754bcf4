//! A follower claims its replica, before its database is opened as a store.
//!
//! The claim is a file of one transaction, page 1 once more, and nothing is written to the database. So a claim that is
//! lost leaves everything as it was: the follower goes on, and `owner.json` names the owner before (`fence.rs`). A claim
//! that is made leaves a replica that this spool owns and has closed, so the store enters it without another one.
//!
//! The writer thread makes the claim, as one job, so that nothing is applied meanwhile. It holds SQLite's write lock while
//! it reads page 1 and looks whether another program has changed the database, and not while it waits for the storage.

use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::trouble::Trouble;
use super::{Follower, Following};
use crate::connection::raw_pages;
use crate::error::{Error, Result};
use crate::replica::clock::StorageClock;
use crate::replica::fence::{ClaimResult, Fence, Owner};
use crate::replica::ltx::{Encoder, Header, LtxError};
use crate::replica::open::unfenced;
use crate::replica::options::{OnDivergence, ReplicaOptions};
use crate::replica::position::Position;
use crate::replica::runtime;
use crate::replica::storage::{FailureKind, Result as StorageResult, Storage, all_files, request};
use crate::runtime::clock::later;
use crate::runtime::date;
use crate::runtime::sync::{Arc, Instant};
use crate::write::Writer;

/// Between two requests of a claim that the storage did not answer.
const PAUSE: Duration = Duration::from_millis(500);

/// A replica that this database's spool has claimed.
pub(crate) struct Claimed {
    storage: Storage,
    node: u64,
    following: Arc<Following>,
}

impl Claimed {
    /// The error of a store that did not open after the claim. Another process may have claimed the replica meanwhile.
    pub(crate) fn not_opened(&self, error: Error) -> Error {
        let now = match error {
            Error::Diverged { .. } | Error::ReplicaInUse { .. } => owner(&self.storage).ok().flatten(),
            _ => None,
        };
        match now.filter(|now| now.node != self.node) {
            Some(by) => self.following.diverged(format!(
                "this database had claimed the replica, and {}, since {}, has gone on with it at once. That process is the \
                 primary, and this database has nothing that the replica lacks: Options::follow opens it again",
                by.host,
                date::utc(by.since())
            )),
            None => error,
        }
    }
}

impl Follower {
    /// Makes the spool of this database the owner of the replica, with everything applied that is in it. `None` if the
    /// store is to find out by itself how it goes on.
    pub(crate) fn claim(&self, replica: &ReplicaOptions, patience: Duration) -> Result<Option<Claimed>> {
        self.engine().may_close()?;
        replica.validate()?;
        let until = later(Instant::now(), patience);
        let left = || until.saturating_duration_since(Instant::now());
        let following = &self.inner.following;
        let storage = Storage::connect(&replica.url)?;
        let storage = match replica.unconditional {
            true => storage.unconditional(),
            false => storage,
        };
        self.catch_up(left())?;
        self.check_is_ours()?;
        following.refuse_elsewhere(&storage)?;
        let Some(before) = following.to_replace(replica, &storage)? else {
            return Ok(None);
        };
        let node = following.spool.own_node().map_err(|error| following.unkept(error))?;
        let fence = Fence::new(storage.clone(), node);
        let clock = StorageClock::new();
        let probed = storage.clone();
        clock.set(request(&storage, async move { probed.probe().await })?);
        let clock = Arc::new(clock);
        loop {
            let (this, claiming, clock) = (Arc::clone(following), fence.clone(), Arc::clone(&clock));
            let claimed = runtime::wait(async move {
                let working = Arc::clone(&this);
                this.job(move |writer| working.claim(writer, &claiming, &clock, until))
                    .await
            });
            match claimed.map_err(|error| storage.no_thread(error))? {
                Ok(()) => break,
                Err(Trouble::Overtaken) => {}
                Err(Trouble::Local(error)) => return Err(error),
                Err(Trouble::Storage(error)) => return Err(error.into()),
                Err(Trouble::Closing) => return Err(Error::Closed),
                Err(other) => return Err(following.diverged(other.describe())),
            }
            self.catch_up(left())?;
            let maker = following.reached().maker;
            let is_another = maker != 0 && maker != before.opening;
            let now = owner(&storage)?;
            if is_another || now.is_none_or(|now| now.opening != before.opening) || left().is_zero() {
                return Err(following.overtaken(&storage)?);
            }
            // The old primary was faster, or a program that no claim stops.
            following.to_replace(replica, &storage)?;
        }
        // Without it the store claims once more, as one that was killed.
        let _ = request(&storage, async move { fence.close().await });
        Ok(Some(Claimed {
            storage,
            node,
            following: Arc::clone(following),
        }))
    }
}

impl Following {
    /// Refuses a replica elsewhere that is not empty, if the one that is followed has no number: Litestream writes it, so
    /// nothing tells whether the two are of one database, and their transactions have the same numbers.
    fn refuse_elsewhere(&self, storage: &Storage) -> Result<()> {
        if self.position().lineage != 0 || storage.is_place_of(&self.storage) {
            return Ok(());
        }
        let Some(there) = request(storage, {
            let storage = storage.clone();
            async move { storage.anything().await }
        })?
        else {
            return Ok(());
        };
        Err(self.diverged(format!(
            "this follower is of {}, which has no owner of larder's, so nothing shows that {storage} is a replica of the same \
             database; it is not empty ({there}), and the promotion would go on with it. Promote to the URL that is \
             followed, or to one with nothing in it and ReplicaOptions::on_divergence(OnDivergence::Rebase). If the two are \
             one replica by two names of its server, follow it by the URL to which the follower is to be promoted",
            self.storage
        )))
    }

    /// The owner that is to be replaced. `None` if the store is to find out by itself how it goes on. Another database's
    /// replica is refused whatever `on_divergence` says, as the store would refuse it (`replica/open.rs`).
    fn to_replace(&self, replica: &ReplicaOptions, storage: &Storage) -> Result<Option<Owner>> {
        let owner = owner(storage)?;
        let listed = storage.clone();
        let files = request(storage, async move { all_files(&listed).await })?;
        let ours = self.position().lineage;
        if let Some(owner) = owner.as_ref().filter(|owner| ![0, owner.lineage].contains(&ours)) {
            return Err(self.diverged(super::poll::other_lineage(ours, owner.lineage)));
        }
        let tip = files.iter().map(|file| file.txids.max).max().unwrap_or(0);
        if tip > 0
            && !replica.take_over
            && let Some(why) = unfenced(storage, owner.is_some(), tip)?
        {
            return Err(Error::Replica {
                what: format!(
                    "{why}. Stop that program for good, and then call promote with ReplicaOptions::take_over(true)"
                ),
                url: storage.to_string(),
                retryable: false,
                source: None,
            });
        }
        if owner.is_none() && files.is_empty() && !self.begins_empty(replica) {
            return Err(self.diverged(format!(
                "{storage} is empty, and this database was replicated up to transaction {}. Check the URL; or replicate \
                 the database to it from its beginning, with ReplicaOptions::on_divergence(OnDivergence::Rebase)",
                self.position().txid
            )));
        }
        Ok(owner)
    }

    /// Whether the store begins a replica that is empty.
    fn begins_empty(&self, replica: &ReplicaOptions) -> bool {
        let has_first = self.spool.first_from(1).is_some_and(|first| first.txid == 1);
        has_first || replica.on_divergence == OnDivergence::Rebase
    }

    /// One claim of the transaction after the one that is applied. On the writer thread.
    fn claim(&self, writer: &mut Writer, fence: &Fence, clock: &StorageClock, until: Instant) -> Result<(), Trouble> {
        let position = self.position();
        let header = Header {
            page_size: position.page_size,
            commit: position.pages,
            min_txid: position.txid + 1,
            max_txid: position.txid + 1,
            timestamp: clock.after(position.timestamp),
            wal_offset: 0,
            wal_size: 0,
            wal_salts: [0, 0],
            node_id: fence.opening(),
        };
        let file = self.page_one(writer, header)?;
        loop {
            let (claiming, file) = (fence.clone(), file.clone());
            let made = request(&self.storage, async move {
                claiming
                    .claim(header.min_txid - 1, header.timestamp, file, SystemTime::now(), true)
                    .await
            });
            match made {
                Ok(ClaimResult::Made) => break,
                Ok(ClaimResult::Moved) => return Err(Trouble::Overtaken),
                // It may have been made.
                Err(error) if error.kind() == FailureKind::Transient && Instant::now() < until => {
                    std::thread::sleep(PAUSE);
                }
                Err(error) => return Err(error.into()),
            }
        }
        let position = Position {
            txid: header.max_txid,
            timestamp: header.timestamp,
            ..position
        };
        // Without it the next opening finds the file in the replica.
        let _ = self.spool.write_position(&position, true);
        self.figures()
            .applied(position.txid, position.timestamp, 0, file.len() as u64);
        self.reach(|reached| {
            reached.position = position;
            reached.maker = fence.opening();
        });
        Ok(())
    }

    /// A file of page 1, as it is in a database that no other program has changed.
    fn page_one(&self, writer: &mut Writer, header: Header) -> Result<Bytes, Trouble> {
        let patience = writer.options().busy_timeout;
        writer.begin_immediate(patience)?;
        let conn = writer.conn();
        let read = writer.guard().as_internal(|| {
            self.beyond()?;
            raw_pages::with_pages::<_, Trouble>(conn, |pages| Ok(pages.read(1)?))
        });
        writer.roll_back_own();
        let page = read?;
        let encoded = || -> Result<Vec<u8>, LtxError> {
            let mut encoder = Encoder::new(Vec::new(), header)?;
            encoder.page(1, &page)?;
            Ok(encoder.finish()?.0)
        };
        let encoded = encoded().map_err(|error| Trouble::Changed(error.to_string()))?;
        Ok(encoded.into())
    }

    /// The claim was lost, and the follower is as it was.
    fn overtaken(&self, storage: &Storage) -> Result<Error> {
        let by = owner(storage)?.map_or_else(
            || "a process that is not in its owner.json".to_owned(),
            |owner| format!("{}, since {}", owner.host, date::utc(owner.since())),
        );
        Ok(self.diverged(format!(
            "the replica was not claimed, because {by}, has gone on with it meanwhile. That process is the primary, and \
             nothing was changed here: the follower goes on, and Options::follow opens it again. Stop that process before \
             you promote a follower in its place"
        )))
    }

    fn unkept(&self, error: std::io::Error) -> Error {
        crate::replica::open::cannot_spool(&self.path, error.into())
    }
}

/// The owner, also if another has entered since.
fn owner(storage: &Storage) -> StorageResult<Option<Owner>> {
    let fence = Fence::new(storage.clone(), 0);
    let seen = request(storage, async move { fence.owner().await })?;
    Ok(seen.map(|seen| seen.owner.made().clone()))
}
