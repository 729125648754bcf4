//! Waiting for a token: until the follower has what it stands for, or it is known that the replica never will.
//!
//! A number is not enough. A primary that was lost had given out tokens of transactions that it had not uploaded, and the
//! next one has other transactions of these numbers. So a token names the opening that makes its transaction. If the
//! transaction that was applied last is of the same opening, everything before it is what that opening went on from, and
//! the numbers say all: this is what mostly happens, and needs no request. Otherwise `owner.json` tells where the files of each
//! opening begin. An opening is in it before its first file is in the replica. So what is read there after a transaction
//! was applied has every opening that can have made it.
//!
//! Times say what numbers cannot: if what waited for its upload was dropped, the next file has all of it, and its number may
//! be one that was given out before. Its time is later than that of every token before it.

use std::time::Duration;

use super::Following;
use super::following::Reached;
use crate::error::Error;
use crate::replica::fence::{Fence, Opening};
use crate::replica::ltx::Decoder;
use crate::replica::restore::plan::Txid;
use crate::replica::runtime;
use crate::replica::storage::{Result as StorageResult, Storage, StorageError, Txids};
use crate::replica::token::Token;
use crate::runtime::sync::{Arc, Instant};

/// What becomes of a token that is not of the opening whose transaction was applied last.
enum Verdict {
    /// It is here once the follower has come that far.
    From(u64),
    /// Its opening is not known.
    Unknown,
    /// Another opening has its transaction.
    Lost,
    /// The time was over before the storage answered.
    Late,
}

/// What the database has of a token.
enum Look {
    Here,
    NotYet,
    /// Whose the transaction is has to be asked.
    Ask {
        maker: u64,
        has: bool,
        at: u64,
    },
}

impl Following {
    /// Waits until everything is here that a token stands for. Blocks its thread.
    pub(super) fn wait_for(self: &Arc<Self>, token: Token, timeout: Duration) -> Result<(), Error> {
        if let Look::Here = self.look(token, None)? {
            return Ok(());
        }
        let this = Arc::clone(self);
        let waited = runtime::wait(async move { this.until_here(token, timeout).await });
        waited.map_err(|error| self.storage.no_thread(error))?
    }

    /// The same for a task. It waits no longer than until its future is dropped.
    #[cfg(feature = "async")]
    pub(super) async fn wait_for_async(self: Arc<Self>, token: Token, timeout: Duration) -> Result<(), Error> {
        if let Look::Here = self.look(token, None)? {
            return Ok(());
        }
        let this = Arc::clone(&self);
        let waited = runtime::run(async move { this.until_here(token, timeout).await }).await;
        waited.map_err(|error| self.storage.no_thread(error))?
    }

    /// On `larder-replica`.
    async fn until_here(&self, token: Token, timeout: Duration) -> Result<(), Error> {
        let began = Instant::now();
        let left = || timeout.saturating_sub(began.elapsed());
        let (mut waits, mut judged, mut unanswered) = (None, None, None);
        loop {
            // Before the look: what changes after it wakes this.
            let mut told = std::pin::pin!(self.told.notified());
            told.as_mut().enable();
            match self.look(token, judged)? {
                Look::Here => return Ok(()),
                Look::NotYet => {}
                Look::Ask { maker, has, at } => {
                    judged = Some((maker, has));
                    let verdict = self.judge(token, at, left()).await;
                    let before = unanswered.take();
                    match verdict {
                        Ok(Verdict::From(first)) if has && at >= first => return Ok(()),
                        // The opening would have been known before its file was here.
                        Ok(Verdict::Unknown) if has => return Err(self.lost(token)),
                        Ok(Verdict::Lost) => return Err(self.lost(token)),
                        Ok(Verdict::Late) => return Err(before.unwrap_or_else(|| self.behind(token, began.elapsed()))),
                        Ok(Verdict::From(_)) if has => judged = None,
                        Ok(Verdict::From(_) | Verdict::Unknown) => {}
                        // It is asked again once the task that follows has looked.
                        Err(error @ Error::Replica { retryable: true, .. }) => {
                            (judged, unanswered) = (None, Some(error));
                        }
                        Err(error) => return Err(error),
                    }
                    if unanswered.is_none() {
                        // What was asked is told, too.
                        told.set(self.told.notified());
                        told.as_mut().enable();
                        if self.position().txid != at {
                            continue;
                        }
                    }
                }
            }
            self.goes_on()?;
            let left = left();
            if left.is_zero() {
                return Err(unanswered.unwrap_or_else(|| self.behind(token, began.elapsed())));
            }
            if waits.is_none() || unanswered.is_some() {
                // Not before the next interval is it there, otherwise.
                waits = waits.or_else(|| Some(self.awaits()));
                self.wake.notify_one();
            }
            let _ = tokio::time::timeout(left, told).await;
        }
    }

    /// `judged` is what was asked before.
    fn look(&self, token: Token, judged: Option<(u64, bool)>) -> Result<Look, Error> {
        let reached = self.reached();
        let lineage = reached.position.lineage;
        if lineage != token.lineage && lineage != 0 && token.lineage != 0 {
            return Err(self.diverged(format!(
                "the token {token} is of another replica, and this one has the number {lineage:016x}. Follow the replica of \
                 the primary that the token is from"
            )));
        }
        let (maker, has) = (reached.maker, has(&token, &reached));
        Ok(if token.opening == 0 || token.opening == maker {
            if has { Look::Here } else { Look::NotYet }
        } else if judged == Some((maker, has)) {
            Look::NotYet
        } else {
            let at = reached.position.txid;
            Look::Ask { maker, has, at }
        })
    }

    fn goes_on(&self) -> Result<(), Error> {
        match self.stopped() {
            Some(stopped) => Err(stopped),
            None if self.reached().ended => Err(Error::Closed),
            None => Ok(()),
        }
    }

    fn behind(&self, token: Token, waited: Duration) -> Error {
        let reached = self.reached();
        Error::Behind {
            wanted: token.txid,
            reached: reached.position.txid,
            waited,
            reason: reached.problem.clone(),
        }
    }

    fn lost(&self, token: Token) -> Error {
        self.diverged(format!(
            "what the token {token} stands for may be lost: the primary that has given it out had not uploaded transaction \
             {} when another process, or another start of it, went on with the replica. Read from the primary what it has, \
             and take a new token there",
            Txid(token.txid)
        ))
    }

    /// Whose the transaction of the token is. The follower had come to `at` before.
    async fn judge(&self, token: Token, at: u64, left: Duration) -> Result<Verdict, Error> {
        // What came after an opening stays so.
        let known = self.reached().openings.clone();
        if let Verdict::From(first) = among(&known, token)
            && known.last().is_some_and(|last| last.opening != token.opening)
        {
            return Ok(Verdict::From(first));
        }
        let (storage, fence) = (&self.storage, Fence::new(self.storage.clone(), 0));
        let asking = async {
            let owner = fence.owner().await?.map(|seen| seen.owner);
            let Some(mut owner) = owner else { return Ok(None) };
            // A claim that is entered and not made comes after none.
            while let (Verdict::Lost, Some(next)) = (among(&owner.openings, token), after(&owner.openings, token)) {
                let (made, opening) = (owner.openings[next], maker(storage, owner.openings[next].first).await?);
                let is_none = opening.is_none() && owner.before.is_some() && next + 1 == owner.openings.len();
                if opening != Some(token.opening) && !is_none {
                    break;
                }
                owner.openings.retain(|opening| *opening != made);
            }
            Ok::<_, StorageError>(Some(owner))
        };
        let asked = match tokio::time::timeout(left, asking).await {
            Ok(asked) => Some(asked?),
            Err(_) => None,
        };
        let Some(owner) = asked else {
            return Ok(Verdict::Late);
        };
        let Some(owner) = owner else {
            return Ok(Verdict::Unknown);
        };
        self.knows(&owner, at);
        Ok(among(&owner.openings, token))
    }
}

/// Whether the follower has come as far as the token.
fn has(token: &Token, reached: &Reached) -> bool {
    reached.position.txid >= token.txid || reached.position.timestamp >= token.timestamp
}

/// The place of the opening after that of the token, which has the token's transaction.
fn after(openings: &[Opening], token: Token) -> Option<usize> {
    let own = openings.iter().position(|opening| opening.opening == token.opening)?;
    (own + 1 < openings.len()).then_some(own + 1)
}

fn among(openings: &[Opening], token: Token) -> Verdict {
    let Some(own) = openings.iter().find(|opening| opening.opening == token.opening) else {
        return Verdict::Unknown;
    };
    match after(openings, token).map(|next| openings[next]) {
        Some(next) if token.txid >= next.first && next.after.is_none_or(|after| after < token.timestamp) => {
            Verdict::Lost
        }
        _ => Verdict::From(own.first),
    }
}

/// The opening that has made that transaction, if it is still there by itself.
async fn maker(storage: &Storage, txid: u64) -> StorageResult<Option<u64>> {
    let opened = match storage.reader(0, Txids::one(txid)).await {
        Err(error) if error.is_not_found() => return Ok(None),
        other => other?,
    };
    let read = runtime::blocking(move || Decoder::new(opened).ok().map(|decoder| decoder.header().node_id)).await;
    read.map_err(|error| storage.no_thread(error))
}
