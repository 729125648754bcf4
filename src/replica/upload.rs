//! The task that uploads: one sealed file after another, in order, one request at a time.
//!
//! Each file is a Create: it never overwrites. The file N + 1 is tried only once N is in the replica, so no gap can come,
//! and a process that finds N taken by other bytes knows that another primary writes to the replica. The bytes of a file
//! are fixed before its first request, so a request whose answer was lost can be told from another's: the object is the
//! file, byte for byte.
//!
//! While the storage fails, the task tries again after [`FIRST_PAUSE`], doubled up to [`LONGEST_PAUSE`], and at once when
//! a caller flushes. It ends when the store has closed and everything is uploaded, or when the time for that is over.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::{Either, select};

use super::fence::{ClaimResult, Entry, Holder, Seen, Upload};
use super::replication::{Ownership, Replication};
use super::runtime;
use super::spool::Sealed;
use super::storage::{Result as StorageResult, all_files};
use crate::runtime::date;
use crate::runtime::sync::{Arc, Instant};
use crate::telemetry::event::event;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// From so many bytes on, a file is not read into memory.
const LARGE: u64 = 64 << 20;

/// How often an owner that has nothing to upload looks at `owner.json`.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Why a file was not uploaded.
enum Failed {
    /// It is tried again.
    ForNow(String),
    /// Another primary has the replica.
    Taken(Holder),
}

impl Replication {
    /// The life of the task.
    pub(super) async fn upload_until_closed(self: Arc<Self>) {
        let mut pause = FIRST_PAUSE;
        loop {
            let next = self.next_upload();
            let began = Instant::now();
            let uploaded = match next {
                Some(sealed) => self
                    .until_deadline(self.upload(sealed))
                    .await
                    .map(|done| (sealed, done)),
                None if self.closing.get().is_some() => None,
                None => {
                    if self.pause(&self.sealed, LOOK_EVERY).await {
                        self.look().await;
                    }
                    continue;
                }
            };
            match uploaded {
                // Closed, and done or out of time.
                None => break,
                Some((sealed, Ok(()))) => {
                    pause = FIRST_PAUSE;
                    self.was_uploaded(sealed, began.elapsed());
                    self.tell();
                }
                Some((sealed, Err(Failed::ForNow(reason)))) => {
                    self.failed(sealed, reason);
                    self.pause(&self.sealed, pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    if self.is_over() {
                        break;
                    }
                }
                Some((_, Err(Failed::Taken(holder)))) => {
                    self.fenced(&holder);
                    break;
                }
            }
        }
        self.leave().await;
        self.reach(|progress| progress.ended = true);
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
        let unreadable = |error: io::Error| {
            let path = self.spool.path(sealed.txid);
            Failed::ForNow(format!("{} cannot be read: {error}", path.display()))
        };
        let path = self.spool.path(sealed.txid);
        let made = if sealed.bytes > LARGE && self.ownership() == Ownership::Owner {
            let opened = runtime::blocking(move || open(&path)).await;
            let (file, timestamp) = opened.and_then(|opened| opened).map_err(unreadable)?;
            self.fence.create_file(sealed.txid, timestamp, file).await
        } else {
            let read = runtime::blocking(move || fs::read(path)).await;
            let bytes = Bytes::from(read.and_then(|read| read).map_err(unreadable)?);
            self.create(sealed, timestamp_of(&bytes), bytes).await
        };
        match made.map_err(|error| Failed::ForNow(error.to_string()))? {
            Upload::New | Upload::Ours => Ok(()),
            Upload::Fenced(holder) => Err(Failed::Taken(holder)),
        }
    }

    /// Creates the file. The first one may have to make this store the owner.
    async fn create(&self, sealed: Sealed, timestamp: i64, bytes: Bytes) -> StorageResult<Upload> {
        let now = SystemTime::now();
        match self.ownership() {
            Ownership::Owner => {}
            Ownership::ToEnter => {
                if let Some(other) = self.enter(now).await? {
                    return Ok(Upload::Fenced(other));
                }
                if self.progress().uploaded >= sealed.txid {
                    return Ok(Upload::Ours);
                }
            }
            Ownership::ToClaim => {
                let made = self.fence.claim(sealed.txid - 1, timestamp, bytes, now).await?;
                if made == ClaimResult::Moved {
                    return self.fence.look().await.map(Upload::Fenced);
                }
                self.is_owner_now();
                return Ok(Upload::New);
            }
        }
        self.fence.create(sealed.txid, timestamp, bytes).await
    }

    /// Enters this store as the owner, as opening would have done. Returns who has the replica, if it does not end where
    /// this store left it.
    async fn enter(&self, now: SystemTime) -> StorageResult<Option<Holder>> {
        loop {
            if !self.options.unconditional {
                self.storage.probe().await?;
            }
            // The owner first: what is written after that changes its version.
            let seen = self.fence.owner().await?;
            if !self.is_its_replica(seen.as_ref()).await? {
                let holder = seen.map_or(Holder::Unknown, |seen| self.fence.holder(&seen.owner));
                return Ok(Some(holder));
            }
            match self.fence.enter(seen.as_ref(), self.lineage(), now).await? {
                Entry::Entered => {
                    self.is_owner_now();
                    return Ok(None);
                }
                Entry::Changed => {}
                Entry::NotClosed => return self.fence.look().await.map(Some),
            }
        }
    }

    /// Whether the replica is the one that this store goes on with: it has its number, and ends with its last upload, or
    /// with one whose answer was lost.
    async fn is_its_replica(&self, seen: Option<&Seen>) -> StorageResult<bool> {
        let lineage = self.lineage();
        if seen.is_some_and(|seen| lineage != 0 && seen.owner.lineage != lineage) {
            return Ok(false);
        }
        let newest = all_files(&self.storage)
            .await?
            .into_iter()
            .map(|file| file.txids.max)
            .max();
        let tip = newest.unwrap_or(0);
        let (uploaded, sealed) = {
            let progress = self.progress();
            (progress.uploaded, progress.sealed)
        };
        if tip < uploaded || tip > sealed {
            return Ok(false);
        }
        if tip > 0 && !self.fence.is_at(tip, self.spool.path(tip), None).await? {
            return Ok(false);
        }
        self.reach(|progress| progress.uploaded = tip);
        Ok(true)
    }

    /// An owner that has nothing to upload looks whether it still is one, before it writes.
    async fn look(&self) {
        if self.ownership() == Ownership::Owner
            && let Ok(other @ Holder::Other { .. }) = self.fence.look().await
        {
            self.fenced(&other);
        }
    }

    /// Says that the next opening needs no claim, if everything is uploaded.
    async fn leave(&self) {
        let is_done = {
            let progress = self.progress();
            progress.failing.is_none() && progress.uploaded >= progress.sealed
        };
        if is_done && self.ownership() == Ownership::Owner {
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
        // This one stays until the next is uploaded: by it an opening knows the replica for its own. One that cannot be
        // deleted takes room, and is deleted later.
        let _ = self.spool.delete_to(sealed.txid - 1);
        self.figures()
            .uploaded(sealed.txid, sealed.bytes, time, self.spool.bytes());
        self.reach(|progress| {
            progress.uploaded = sealed.txid;
            progress.trying = 0;
            progress.trying_since = None;
            progress.failing = None;
        });
        // After that: a spool that is dropped now sees it, or is seen here.
        self.go_on_after_upload();
        self.seal_for_replies();
    }

    fn failed(&self, sealed: Sealed, reason: String) {
        let is_new = self.progress().failing.is_none();
        if is_new {
            event!(
                warn,
                "larder::replica",
                self.path,
                { replica = %self.storage, txid = sealed.txid, reason },
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
            Holder::Us | Holder::Unknown => ("a process that is not in its owner.json".to_owned(), SystemTime::now()),
        };
        event!(
            error,
            "larder::replica",
            self.path,
            { replica = %self.storage, by, "error.type" = "fenced" },
            "another process has taken the replica over, so this store takes no more writes"
        );
        self.fence_store(by, since);
    }
}

/// A sealed file that is too large for memory, and its timestamp.
fn open(path: &Path) -> io::Result<(Arc<File>, i64)> {
    let file = File::open(path)?;
    let mut head = [0; 40];
    file.read_exact_at(&mut head, 0)?;
    Ok((Arc::new(file), timestamp_of(&head)))
}

/// The timestamp in the header of a sealed file.
fn timestamp_of(file: &[u8]) -> i64 {
    let bytes = file.get(32..40).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, i64::from_be_bytes)
}
