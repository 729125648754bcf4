//! One history: two primaries cannot both add to a replica. The keys of level 0 are the fence; no clock is part of it.
//!
//! # The rules
//!
//! 1. Each file of level 0 is a Create, which never overwrites. A process goes on to N + 1 only after its Create of N has
//!    succeeded, or after it found its own file at N, byte for byte: the answer was lost then. A file's bytes are fixed
//!    before its first request, and each further request sends the same.
//! 2. To claim a replica whose owner has not closed it, a process (a) enters itself into `owner.json` by If-Match, with
//!    the claim C = its tip + 1; (b) lists level 0: its tip must be the newest; (c) creates C. If C is a file that it has
//!    made itself, and no process before it, it is the owner, and says so. If (b) or (c) fails, it gives the owner before
//!    it back, applies what is there, and begins again. A store that was killed claims its own replica, too. Only a process
//!    that was told to take over claims the replica of another store, and (a) sees whether that is it: another may have been
//!    told meanwhile.
//! 3. The file of a claim is not deleted, nor is the newest one. Retention lists first, then reads the claims, then
//!    deletes.
//!
//! # Why that holds
//!
//! Let B have claimed C: it saw the tip C - 1 after its claim was entered. All keys below C had been made by one chain. A
//! process A of before has to create K = its last success + 1, so K <= C. At K = C the claim stands: its Create fails, it
//! finds another's file, and it is fenced. At K < C the key was taken; if it was deleted meanwhile, then A had made it
//! itself, so a late request of its brings the same bytes back, after which A stands before C. A claimant that was
//! overtaken has its key among the claims since before it looked, so it cannot find that key free later. Between the
//! list and the deletions of retention a claimant may enter itself: it lists after that, so it sees the newest file,
//! which retention keeps, and its claim is beyond every file of retention's list; or it creates nothing, because a newer
//! one is there.
//!
//! # The owner before
//!
//! Between (a) and the answer of (c) `owner.json` names a process that may lose. So an entry keeps those `before` it, and
//! the last of them goes on as the owner: it finds itself displaced by its next Create, and not by an entry. The process
//! that has made its claim takes those before it away. One that has lost takes itself away, whatever was entered since. Its
//! claim stays, unless none had entered that one and the list shows that it is lost: then no Create of it is under way.
//!
//! # Whose transaction it was
//!
//! A process says with which transaction its own files begin, before it creates the first of them: `openings`. So what a
//! process had captured and not uploaded, as another one took over, is told from the other's transactions of these numbers
//! (`token.rs`).
//!
//! # A write whose answer was lost
//!
//! It may have been made, or may yet be made. A Create is tried again with the same bytes, and compared. A write of the
//! owner is read back: it was made if the owner is this process with the same epoch and claims. If not, it fails for
//! good once another one was made, because its version is then an old one.
//!
//! # A copied volume
//!
//! A spool is copied with its volume, and with it the number of its node and the files that wait in it. So the node says
//! whose store it was, and not which process it is. That says `opening`, a number that a process draws for itself, and
//! that is in `owner.json` and in each of its files. A process is the owner if both numbers are its own.
//!
//! What waits from an earlier opening has the bytes that this one may have sent, or may yet send. The first of these files
//! is claimed, too, so that no process of another history comes behind it; the others follow as that opening would have
//! sent them. None of them makes an owner: the earlier process, or a copy of it, would find its own files there and go on
//! behind them. The first file that this opening has made is a claim once more, and stops them all. That is so, too, where
//! the first of them needs no claim, because the owner has closed: the process that they were copied from may live.
//!
//! A copy that finds such a file in the replica cannot know whether itself or another copy has made it. So it claims
//! nothing before the claim of a process that has entered: that one had applied a file at this place.
//!
//! A clean close leaves `closed` behind, so the next opening enters itself without a claim. It reads the owner before it
//! lists: what was written in between changes the version, and with it the entry fails.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::ltx::Decoder;
use super::runtime;
use super::storage::{Body, Created, Result, Storage, Txids, Version, Written, newest};
use crate::runtime::{date, random};

/// A claim is let go after this time. A process that was suspended for longer is not fenced.
const CLAIM_AGE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Beyond so many claims those of a store over itself are let go: a service that is killed every few seconds claims as
/// often. A claim by which a store took the replica over from another stays.
const CLAIMS: usize = 1000;

/// So many claims that are not made are known at a time. Those of killed processes go with the next that is.
const BEFORE: usize = 16;

/// So many openings are known. A service that is restarted every hour has them for six weeks.
const OPENINGS: usize = 1000;

/// How often an entry is tried again because another process changed the owner meanwhile.
const ENTRIES: u32 = 16;

/// So many bytes of a large file are compared at once.
const PIECE: usize = 1 << 18;

/// `larder/owner.json`: which process adds to the replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The number of the replica, which stays as long as it is not emptied.
    #[serde(with = "hex")]
    pub lineage: u64,
    /// How often an owner has entered itself.
    pub epoch: u64,
    /// The number of the spool of the store that owns it.
    #[serde(with = "hex")]
    pub node: u64,
    /// The number of the process's opening of that store.
    #[serde(default, with = "hex")]
    pub opening: u64,
    /// The opening that sealed the file of its claim, if an earlier one of that store did.
    #[serde(default, with = "hex", skip_serializing_if = "is_zero")]
    pub sealer: u64,
    /// The name of its machine and the number of its process, for people.
    pub host: String,
    /// When it entered itself.
    pub since: DateTime<Utc>,
    /// Whether it has closed, with everything uploaded that it had begun to upload.
    pub closed: bool,
    /// Transactions whose files are kept.
    pub claims: Vec<Claim>,
    /// The openings that have files of their own in the replica, oldest first.
    #[serde(default)]
    pub openings: Vec<Opening>,
    /// The opening that had entered before it, as long as the claim of this one may fail. The last one in this chain is the
    /// owner until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Box<Owner>>,
}

/// Where the files of an opening begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// The number of the opening.
    #[serde(with = "hex")]
    pub opening: u64,
    /// Its first transaction.
    pub first: u64,
    /// The time of the transaction before that, in milliseconds since 1970, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<i64>,
}

/// A transaction with which a process claimed the replica, or tried to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The transaction.
    pub txid: u64,
    /// The opening that claimed.
    #[serde(default, with = "hex")]
    pub opening: u64,
    /// Whether that store had the replica before: an opening of it was killed. So no other store has to find this
    /// transaction taken.
    #[serde(default)]
    pub is_again: bool,
    /// When it was entered.
    pub at: DateTime<Utc>,
}

/// The owner, as it was read.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The owner.
    pub owner: Owner,
    version: Version,
}

/// What became of an entry without a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// This process is the owner.
    Entered,
    /// The owner was changed meanwhile: look again.
    Changed,
    /// The owner has not closed the replica, or this process has begun to claim it: it takes a claim.
    NotClosed,
}

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimResult {
    /// The file is there, and this process is the owner.
    Made,
    /// The replica has gone on, or is another store's: apply what is there, and claim again.
    Moved,
}

/// What became of a file of level 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upload {
    /// It is there now.
    New,
    /// It was there, byte for byte: the answer to an earlier request was lost.
    Ours,
    /// Another process has this transaction.
    Fenced(Holder),
}

/// Who has the replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// This process.
    Us,
    /// The process in `owner.json`.
    Other {
        /// The name of its machine and the number of its process.
        host: String,
        /// When it entered itself.
        since: SystemTime,
    },
    /// A process that is not in `owner.json`, such as Litestream; or the file is not there.
    Unknown,
}

/// One opening of a store, before its replica.
#[derive(Clone, Debug)]
pub struct Fence {
    storage: Storage,
    node: u64,
    opening: u64,
    host: String,
}

impl Fence {
    /// A new opening of the store whose spool has that number.
    pub fn new(storage: Storage, node: u64) -> Self {
        let machine = rustix::system::uname();
        let host = format!(
            "{}, process {}",
            machine.nodename().to_string_lossy(),
            std::process::id()
        );
        Self {
            storage,
            node,
            opening: random::number(),
            host,
        }
    }

    /// The number of the spool.
    pub fn node(&self) -> u64 {
        self.node
    }

    /// The number of this opening, which is in its files.
    pub fn opening(&self) -> u64 {
        self.opening
    }

    /// Whether this opening is the owner.
    pub fn is_us(&self, owner: &Owner) -> bool {
        owner.node == self.node && owner.opening == self.opening
    }

    /// The same, or it is the owner unless the claim of the one that has entered is made.
    fn is_still_us(&self, owner: &Owner) -> bool {
        owner.entered().any(|entered| self.is_us(entered))
    }

    /// Whether another store owns the replica, and has not closed it. A process that takes it over has to be told to.
    pub fn is_rival(&self, owner: &Owner) -> bool {
        let made = owner.made();
        !made.closed && made.node != self.node
    }

    /// Who owns the replica. `None` if no larder ever did.
    ///
    /// # Errors
    ///
    /// The storage fails, or the object is not larder's.
    pub async fn owner(&self) -> Result<Option<Seen>> {
        let Some((bytes, version)) = self.storage.read_owner().await? else {
            return Ok(None);
        };
        let owner = serde_json::from_slice(&bytes).map_err(|error| self.storage.foreign_owner(&error))?;
        Ok(Some(Seen { owner, version }))
    }

    /// Becomes the owner without a claim: of a replica that has none, or whose owner has closed. The caller has read the
    /// owner before it looked for the newest file. A new owner gets that lineage.
    ///
    /// # Errors
    ///
    /// The storage fails, and whether this process is entered is not known: look again.
    pub async fn enter(&self, seen: Option<&Seen>, lineage: u64, now: SystemTime) -> Result<Entry> {
        if let Some(Seen { owner, .. }) = seen.filter(|seen| !seen.owner.closed) {
            // An entry of ours whose answer was lost needs no claim, either. It is written once more: others may have come
            // after it since it was seen.
            let has_claimed = owner.claims.iter().any(|claim| claim.opening == self.opening);
            if has_claimed || !self.is_us(owner) {
                return Ok(Entry::NotClosed);
            }
        }
        let next = self.next(seen, lineage, now);
        let is_entered = self.replace(seen, &next).await?;
        Ok(if is_entered { Entry::Entered } else { Entry::Changed })
    }

    /// Becomes the owner of a replica whose owner has not closed it. `tip` is the newest transaction that the caller has
    /// applied; `body` is a file of the next one, such as page 1 once more, by this opening. Only one that was told to take
    /// the replica over claims it from another store: that may have become the owner since the caller looked. After an error
    /// the claim may have been made: call it again with the same bytes.
    ///
    /// # Errors
    ///
    /// The storage fails, or the owner changes all the time.
    pub async fn claim(
        &self,
        tip: u64,
        timestamp_ms: i64,
        body: impl Into<Body>,
        now: SystemTime,
        take_over: bool,
    ) -> Result<ClaimResult> {
        self.claim_for(self.begins(tip + 1), timestamp_ms, body, now, take_over)
            .await
    }

    /// The same, for a file of that opening: an earlier one of this store may have sealed it.
    pub(super) async fn claim_for(
        &self,
        own: Opening,
        timestamp_ms: i64,
        body: impl Into<Body>,
        now: SystemTime,
        take_over: bool,
    ) -> Result<ClaimResult> {
        let (tip, body) = (own.first - 1, body.into());
        let Some(is_new) = self.enter_claim(own, now, take_over).await? else {
            return Ok(ClaimResult::Moved);
        };
        let newest = self.newest(tip).await?;
        let is_made = if newest == tip {
            matches!(
                self.create(own.first, timestamp_ms, body).await?,
                Upload::New | Upload::Ours
            )
        } else {
            // What is there may be this process's own, by an earlier request. It is not created once more: a retention that
            // has read the claims before this one was entered may delete another's, and the key would be free.
            !is_new && self.has(own.first, body).await?
        };
        if is_made {
            self.confirm().await?;
            return Ok(ClaimResult::Made);
        }
        self.withdraw(own, is_new && newest != tip).await?;
        Ok(ClaimResult::Moved)
    }

    /// Whether there is such a file, byte for byte.
    async fn has(&self, txid: u64, body: Body) -> Result<bool> {
        match self.is_there(Txids::one(txid), body).await {
            Err(error) if error.is_not_found() => Ok(false),
            other => other,
        }
    }

    /// The files of this opening begin with that transaction.
    fn begins(&self, first: u64) -> Opening {
        Opening {
            opening: self.opening,
            first,
            after: None,
        }
    }

    /// Says where the files of an opening begin, before the first of them is created. Returns whether no other process is the
    /// owner.
    ///
    /// # Errors
    ///
    /// The storage fails, or the owner changes all the time.
    pub(super) async fn announce(&self, own: Opening) -> Result<bool> {
        for _ in 0..ENTRIES {
            let Some(seen) = self.owner().await? else {
                // It was deleted. The keys are the fence.
                return Ok(true);
            };
            if !self.is_still_us(&seen.owner) {
                return Ok(false);
            }
            let mut next = seen.owner.clone();
            // One that has entered comes after this process.
            let entered = || seen.owner.entered().take_while(|entered| !self.is_us(entered));
            let is_later = |opening: &Opening| entered().any(|entered| entered.opening == opening.opening);
            let later = next.openings.iter().position(is_later);
            let later = later.map_or_else(Vec::new, |at| next.openings.split_off(at));
            begin(&mut next.openings, own);
            next.openings.extend(later);
            if next == seen.owner || self.replace(Some(&seen), &next).await? {
                return Ok(true);
            }
        }
        Err(self.storage.contended())
    }

    /// Creates the file of the next transaction.
    ///
    /// # Errors
    ///
    /// The storage fails. The file may be there: call it again with the same bytes.
    pub async fn create(&self, txid: u64, timestamp_ms: i64, body: impl Into<Body>) -> Result<Upload> {
        let (txids, body) = (Txids::one(txid), body.into());
        if self.storage.create(0, txids, timestamp_ms, body.clone()).await? == Created::New {
            return Ok(Upload::New);
        }
        // One that was deleted meanwhile is an error here, and the next try tells.
        if self.is_there(txids, body).await? {
            return Ok(Upload::Ours);
        }
        Ok(self.fenced().await)
    }

    /// Whether the object of a transaction is that file, byte for byte.
    async fn is_there(&self, txids: Txids, body: Body) -> Result<bool> {
        let file = match body {
            Body::Memory(bytes) => return Ok(self.storage.get(0, txids).await? == bytes),
            Body::File(file) => file,
        };
        let there = self.storage.reader(0, txids).await?;
        let compared = runtime::blocking(move || is_same(there, &file)).await;
        let compared = compared.and_then(|same| same);
        compared.map_err(|error| self.storage.unread_object(txids, &error))
    }

    /// Whether the transaction of level 0 is this store's: its file, if the spool has it; otherwise one of that time, in
    /// milliseconds since 1970. One that is in higher levels alone is taken for it.
    ///
    /// # Errors
    ///
    /// The storage fails.
    pub(super) async fn is_at(&self, txid: u64, spooled: Option<Body>, timestamp_ms: Option<i64>) -> Result<bool> {
        let txids = Txids::one(txid);
        let is_there = match spooled {
            Some(file) => self.is_there(txids, file).await,
            None => self.has_timestamp(txids, timestamp_ms).await,
        };
        match is_there {
            Err(error) if error.is_not_found() => Ok(true),
            other => other,
        }
    }

    async fn has_timestamp(&self, txids: Txids, timestamp_ms: Option<i64>) -> Result<bool> {
        let there = self.storage.reader(0, txids).await?;
        let timestamp = runtime::blocking(move || {
            let decoder = Decoder::new(there).map_err(io::Error::other)?;
            Ok(decoder.header().timestamp)
        });
        let timestamp = timestamp.await.and_then(|timestamp| timestamp);
        let timestamp = timestamp.map_err(|error| self.storage.unread_object(txids, &error))?;
        Ok(timestamp_ms == Some(timestamp))
    }

    async fn fenced(&self) -> Upload {
        let seen = self.owner().await.unwrap_or_default();
        Upload::Fenced(match seen.map(|seen| self.holder(&seen.owner)) {
            Some(other @ Holder::Other { .. }) => other,
            _ => Holder::Unknown,
        })
    }

    /// Who owns the replica now. An owner that has nothing to upload asks from time to time. One that was displaced by a
    /// claim is the owner until the claim is made.
    ///
    /// # Errors
    ///
    /// The storage fails, or the object is not larder's.
    pub async fn look(&self) -> Result<Holder> {
        let Some(Seen { owner, .. }) = self.owner().await? else {
            return Ok(Holder::Unknown);
        };
        Ok(if self.is_still_us(&owner) {
            Holder::Us
        } else {
            self.holder(&owner)
        })
    }

    /// Leaves `closed` for the next opening, which needs no claim then. Only after every upload had its answer. Returns
    /// whether this process was the owner.
    ///
    /// # Errors
    ///
    /// The storage fails. The next opening claims the replica then.
    pub async fn close(&self) -> Result<bool> {
        for _ in 0..ENTRIES {
            let Some(seen) = self.owner().await? else {
                return Ok(false);
            };
            if !self.is_us(&seen.owner) {
                return Ok(false);
            }
            let closed = Owner {
                closed: true,
                ..seen.owner.clone()
            };
            if self.replace(Some(&seen), &closed).await? {
                return Ok(true);
            }
        }
        Err(self.storage.contended())
    }

    /// The transactions whose files stay. Retention reads them after its list, and deletes nothing after an error: that is
    /// the answer, too, if another process owns the replica.
    ///
    /// # Errors
    ///
    /// The storage fails, or another process owns the replica.
    pub async fn claims(&self, now: SystemTime) -> Result<BTreeSet<u64>> {
        let Some(seen) = self.owner().await? else {
            return Err(self.storage.not_owned("no store owns it"));
        };
        if !self.is_still_us(&seen.owner) {
            let owner = format!("{} owns it since {}", seen.owner.host, date::utc(seen.owner.since()));
            return Err(self.storage.not_owned(&owner));
        }
        Ok(kept(&seen.owner.claims, now).iter().map(|claim| claim.txid).collect())
    }

    /// Step (a) of a claim. Returns whether it is new, so that no process has sent a Create of it; `None` if the replica has
    /// gone on, or is another store's.
    async fn enter_claim(&self, own: Opening, now: SystemTime, take_over: bool) -> Result<Option<bool>> {
        let claim = own.first;
        for _ in 0..ENTRIES {
            let seen = self.owner().await?;
            let is_this = |entered: &Claim| entered.txid == claim && entered.opening == self.opening;
            let owner = seen.as_ref().map(|seen| &seen.owner);
            let had_claimed = owner.is_some_and(|owner| owner.claims.iter().any(is_this));
            let entered = owner.filter(|owner| self.is_still_us(owner) && !owner.closed);
            if had_claimed && entered.is_some() {
                return Ok(Some(false));
            }
            if owner.is_some_and(|owner| owner.is_ahead(claim)) {
                return Ok(None);
            }
            if let Some(owner) = owner.filter(|_| !take_over)
                && (self.is_rival(owner) || self.is_behind(owner, claim).await?)
            {
                return Ok(None);
            }
            let is_new = owner.is_none_or(|owner| owner.claims.iter().all(|entered| entered.txid != claim));
            let mut next = match entered {
                // In its place: others may have entered behind its claim since.
                Some(owner) => Owner {
                    epoch: owner.epoch + 1,
                    ..owner.clone()
                },
                None => Owner {
                    before: owner.and_then(|owner| self.before(owner)),
                    sealer: if own.opening == self.opening { 0 } else { own.opening },
                    ..self.next(seen.as_ref(), self.node, now)
                },
            };
            next.claims = kept(&next.claims, now);
            next.claims.retain(|before| before.txid != claim);
            next.claims.push(Claim {
                txid: claim,
                opening: self.opening,
                is_again: owner.is_some_and(|owner| owner.entered().all(|entered| entered.node == self.node)),
                at: now.into(),
            });
            begin(&mut next.openings, own);
            if self.replace(seen.as_ref(), &next).await? {
                return Ok(Some(is_new));
            }
        }
        Err(self.storage.contended())
    }

    /// Whether a claim of that transaction goes on from a file of another store that has entered: that has made its claim
    /// then, though it has not said so yet.
    async fn is_behind(&self, owner: &Owner, claim: u64) -> Result<bool> {
        let is_another = |entered: &&Owner| entered.node != self.node && !entered.closed;
        let others: Vec<&Owner> = owner.entered().filter(is_another).collect();
        if others.is_empty() {
            return Ok(false);
        }
        let maker = self.maker(claim - 1).await?;
        // Zero: a program made it that is not larder.
        let maker = maker.filter(|maker| *maker != 0);
        Ok(maker.is_some_and(|maker| {
            others
                .iter()
                .any(|other| [other.opening, other.sealer].contains(&maker))
        }))
    }

    /// The opening that made the file of a transaction, if it is there; zero if a program did that is not larder.
    pub(super) async fn maker(&self, txid: u64) -> Result<Option<u64>> {
        let txids = Txids::one(txid);
        let there = match self.storage.reader(0, txids).await {
            Err(error) if error.is_not_found() => return Ok(None),
            other => other?,
        };
        let maker = runtime::blocking(move || {
            let decoder = Decoder::new(there).map_err(io::Error::other)?;
            Ok(Some(decoder.header().node_id))
        });
        let maker = maker.await.and_then(|maker| maker);
        maker.map_err(|error| self.storage.unread_object(txids, &error))
    }

    /// Those before a claim that is entered now. An earlier claim of this process is forgotten, unless it was made.
    fn before(&self, owner: &Owner) -> Option<Box<Owner>> {
        if self.is_us(owner) {
            return owner.before.clone();
        }
        let mut chain = owner.chain();
        let last = chain.pop();
        chain.retain(|entered| !self.is_us(entered));
        chain.truncate(BEFORE);
        chain.extend(last);
        Owner::stack(chain).map(Box::new)
    }

    /// The claim is made: no process before this one can add to the replica.
    async fn confirm(&self) -> Result<()> {
        self.change_chain(|chain, at| chain.truncate(at + 1), |_| true, |_| true)
            .await
    }

    /// Takes an entry back whose claim has failed; and the claim, if no process has sent a Create of it.
    async fn withdraw(&self, own: Opening, is_new: bool) -> Result<()> {
        let is_other = |entered: &Claim| !is_new || entered.opening != self.opening || entered.txid != own.first;
        let remove = |chain: &mut Vec<Owner>, at: usize| drop(chain.remove(at));
        self.change_chain(remove, is_other, |opening| *opening != own).await
    }

    /// Changes the owner and those before it at the place of this process, unless it is the last: then it is the owner, or
    /// a later claim is made.
    async fn change_chain(
        &self,
        change: impl Fn(&mut Vec<Owner>, usize),
        claims: impl Fn(&Claim) -> bool,
        openings: impl Fn(&Opening) -> bool,
    ) -> Result<()> {
        for _ in 0..ENTRIES {
            let Some(seen) = self.owner().await? else { return Ok(()) };
            let mut chain = seen.owner.chain();
            let at = chain.iter().position(|entered| self.is_us(entered));
            let Some(at) = at.filter(|at| at + 1 < chain.len()) else {
                return Ok(());
            };
            change(&mut chain, at);
            let next = Owner {
                epoch: seen.owner.epoch + 1,
                claims: seen
                    .owner
                    .claims
                    .iter()
                    .filter(|claim| claims(claim))
                    .cloned()
                    .collect(),
                openings: seen
                    .owner
                    .openings
                    .iter()
                    .filter(|opening| openings(opening))
                    .copied()
                    .collect(),
                ..Owner::stack(chain).expect("it has the last")
            };
            if self.replace(Some(&seen), &next).await? {
                return Ok(());
            }
        }
        Err(self.storage.contended())
    }

    /// The newest transaction of level 0, zero if there is none. One is known that may be there.
    async fn newest(&self, known: u64) -> Result<u64> {
        let files = self.storage.list(0).await?;
        newest(&self.storage, &files, known).await
    }

    /// This process as the owner after that one.
    fn next(&self, seen: Option<&Seen>, lineage: u64, now: SystemTime) -> Owner {
        let Some(Seen { owner, .. }) = seen else {
            return self.first(lineage, now);
        };
        Owner {
            epoch: owner.epoch + 1,
            claims: owner.claims.clone(),
            openings: owner.openings.clone(),
            ..self.first(owner.lineage, now)
        }
    }

    /// This process as the first owner.
    fn first(&self, lineage: u64, now: SystemTime) -> Owner {
        Owner {
            lineage,
            epoch: 1,
            node: self.node,
            opening: self.opening,
            sealer: 0,
            host: self.host.clone(),
            since: now.into(),
            closed: false,
            claims: Vec::new(),
            openings: Vec::new(),
            before: None,
        }
    }

    /// Writes the owner over the one that was seen. Returns whether it is there.
    async fn replace(&self, seen: Option<&Seen>, next: &Owner) -> Result<bool> {
        let bytes = serde_json::to_vec(next).expect("an owner is JSON");
        let version = seen.map(|seen| seen.version.clone());
        let written = self.storage.write_owner(bytes.into(), version).await;
        if let Ok(Written::Done(_)) = written {
            return Ok(true);
        }
        // It was changed, or the answer was lost: perhaps by and to this very write.
        let is_there = match self.owner().await {
            Ok(seen) => seen.is_some_and(|seen| seen.owner == *next),
            Err(error) => return Err(written.err().unwrap_or(error)),
        };
        match written {
            Ok(_) => Ok(is_there),
            Err(_) if is_there => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// That owner, as it is told.
    pub fn holder(&self, owner: &Owner) -> Holder {
        if self.is_us(owner) {
            return Holder::Us;
        }
        Holder::Other {
            host: owner.host.clone(),
            since: owner.since(),
        }
    }
}

impl Owner {
    /// The one that has entered last, then those before it.
    fn entered(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |owner| owner.before.as_deref())
    }

    /// Each by itself, without what is the replica's.
    fn chain(&self) -> Vec<Self> {
        let alone = |owner: &Self| Self {
            claims: Vec::new(),
            openings: Vec::new(),
            before: None,
            ..owner.clone()
        };
        self.entered().map(alone).collect()
    }

    /// The first of them, with those before it.
    fn stack(chain: Vec<Self>) -> Option<Self> {
        let stacked = |before: Option<Self>, owner| {
            let before = before.map(Box::new);
            Some(Self { before, ..owner })
        };
        chain.into_iter().rev().fold(None, stacked)
    }

    /// Whether a process that has entered may make a claim beyond that one. It had applied a file at this place. That may be
    /// the very file that is to be created, if it was sealed by an earlier opening: then it was created by a copy of the
    /// spool, and finding it there would pass for having made it.
    fn is_ahead(&self, claim: u64) -> bool {
        self.before.is_some() && self.claims.iter().any(|entered| entered.txid > claim)
    }

    /// The owner whose claim is made.
    pub fn made(&self) -> &Self {
        self.entered().last().unwrap_or(self)
    }

    /// When it entered itself.
    pub fn since(&self) -> SystemTime {
        let since = self.since.timestamp_millis().max(0).cast_unsigned();
        UNIX_EPOCH + Duration::from_millis(since)
    }
}

/// The files of that opening come next.
fn begin(openings: &mut Vec<Opening>, own: Opening) {
    if openings
        .last()
        .is_some_and(|last| last.opening == own.opening && last.first <= own.first)
    {
        return;
    }
    openings.retain(|before| before.opening != own.opening);
    openings.push(own);
    let oldest = openings.len().saturating_sub(OPENINGS);
    openings.drain(..oldest);
}

/// Whether an object is the file, byte for byte.
fn is_same(mut object: impl Read, file: &File) -> io::Result<bool> {
    let (mut theirs, mut ours) = (vec![0; PIECE], vec![0; PIECE]);
    let mut at = 0;
    loop {
        let read = object.read(&mut theirs)?;
        if read == 0 {
            return Ok(at == file.metadata()?.len());
        }
        match file.read_exact_at(&mut ours[..read], at) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            other => other?,
        }
        if theirs[..read] != ours[..read] {
            return Ok(false);
        }
        at += read as u64;
    }
}

/// The claims that are not too old, and not too many.
fn kept(claims: &[Claim], now: SystemTime) -> Vec<Claim> {
    let now = DateTime::<Utc>::from(now);
    let is_kept = |claim: &&Claim| (now - claim.at).to_std().is_ok_and(|age| age <= CLAIM_AGE) || claim.at > now;
    let mut kept: Vec<Claim> = claims.iter().filter(is_kept).cloned().collect();
    let mut spare = kept.len().saturating_sub(CLAIMS);
    kept.retain(|claim| {
        let is_let_go = claim.is_again && spare > 0;
        spare -= usize::from(is_let_go);
        !is_let_go
    });
    kept
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Numbers as sixteen hexadecimal digits: JSON's own numbers are not exact beyond 2^53 everywhere.
mod hex {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{number:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let digits = String::deserialize(deserializer)?;
        u64::from_str_radix(&digits, 16).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::super::ltx::{Encoder, Header};
    use super::*;

    /// The file of a claim is made, and its process has not said so yet. No other store comes behind it without being told
    /// to take over: whichever opening has sealed that file.
    #[test]
    fn made_claim_that_is_not_confirmed_has_an_owner() {
        let folder = tempfile::tempdir().expect("a folder");
        let storage = Storage::connect(folder.path().to_str().expect("UTF-8")).expect("a folder is a storage");
        let before = Fence::new(storage.clone(), 1);
        let earlier = Fence::new(storage.clone(), 2).opening();
        let claimant = Fence::new(storage.clone(), 2);
        let other = Fence::new(storage, 3);
        runtime::wait(async move {
            let now = SystemTime::now();
            assert_eq!(before.enter(None, 7, now).await.unwrap(), Entry::Entered);
            before.create(1, 0, file(1, before.opening())).await.unwrap();
            assert!(before.close().await.unwrap());

            for (txid, sealer) in [(2, earlier), (3, claimant.opening())] {
                let own = Opening {
                    opening: sealer,
                    first: txid,
                    after: None,
                };
                assert_eq!(claimant.enter_claim(own, now, false).await.unwrap(), Some(true));
                assert_eq!(claimant.create(txid, 0, file(txid, sealer)).await.unwrap(), Upload::New);
                let owner = claimant.owner().await.unwrap().unwrap().owner;
                assert!(owner.made().closed, "it is not confirmed");
                let body = file(txid + 1, other.opening());
                let claimed = other.claim(txid, 0, body, now, false).await.unwrap();
                assert_eq!(claimed, ClaimResult::Moved, "transaction {txid}");
                claimant.withdraw(own, false).await.unwrap();
            }
        })
        .unwrap();
    }

    /// Two stores go on from copies of one spool, whose next file waits. The first creates it, and another store claims
    /// behind it. The second finds that file there, byte for byte, and has not made it.
    #[test]
    fn file_of_a_copied_spool_takes_nothing_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let storage = Storage::connect(folder.path().to_str().expect("UTF-8")).expect("a folder is a storage");
        let opening = |node: u64| Fence::new(storage.clone(), node);
        let (killed, first, second, other) = (opening(1), opening(1), opening(1), opening(2));
        runtime::wait(async move {
            let now = SystemTime::now();
            assert_eq!(killed.enter(None, 7, now).await.unwrap(), Entry::Entered);
            let waits = file(1, killed.opening());
            let own = Opening {
                opening: killed.opening(),
                first: 1,
                after: None,
            };
            let made = first.claim_for(own, 0, waits.clone(), now, false).await.unwrap();
            assert_eq!(made, ClaimResult::Made);
            let beyond = other.begins(2);
            assert_eq!(other.enter_claim(beyond, now, true).await.unwrap(), Some(true));
            for take_over in [false, true] {
                let made = second.claim_for(own, 0, waits.clone(), now, take_over).await.unwrap();
                assert_eq!(made, ClaimResult::Moved);
            }
            let body = file(2, other.opening());
            assert_eq!(other.claim(1, 0, body, now, true).await.unwrap(), ClaimResult::Made);
            assert_eq!(other.look().await.unwrap(), Holder::Us);
        })
        .unwrap();
    }

    /// The header of a file of that opening.
    fn file(txid: u64, opening: u64) -> bytes::Bytes {
        let header = Header {
            page_size: 4096,
            commit: 1,
            min_txid: txid,
            max_txid: txid,
            timestamp: 1,
            wal_offset: 0,
            wal_size: 0,
            wal_salts: [0; 2],
            node_id: opening,
        };
        let mut file = Vec::new();
        Encoder::new(&mut file, header).expect("a valid header");
        file.into()
    }

    /// A process that was suspended before the second store took over must find the key of that claim taken, however often
    /// the second store was killed since.
    #[test]
    fn claim_that_took_over_outlasts_a_crash_loop() {
        let now = SystemTime::now();
        let claim = |txid: u64| Claim {
            txid,
            opening: txid,
            is_again: ![0, 3].contains(&txid),
            at: now.into(),
        };
        let all: Vec<Claim> = (0..5000).map(claim).collect();
        let left: Vec<u64> = kept(&all, now).iter().map(|claim| claim.txid).collect();
        assert_eq!(left[..2], [0, 3], "those over another store");
        assert_eq!(left.len(), CLAIMS);
        assert_eq!(left.last(), Some(&4999));
        let days = |n: u64| now + Duration::from_secs(n * 24 * 3600);
        assert_eq!(kept(&all[..5], days(29)).len(), 5);
        assert!(kept(&all[..5], days(31)).is_empty());
    }
}
