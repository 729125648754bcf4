//! [`Replication`]: an open store as its replica sees it. It keeps the log of the store (`write/log_keeper.rs`), and is
//! shared with the tasks that seal (here), upload (`upload.rs`) and compact (`compact.rs`).
//!
//! # Who does what
//!
//! - **The holder of the writer's seat** says what it has committed, with one store to `committed`. Before a checkpoint
//!   the writer thread captures what is not sealed yet, if that is at most [`OWN_FRAMES`] or the log has to be emptied.
//!   Otherwise it wakes the task that seals, and goes on writing.
//! - **The task that seals** captures every interval, and when it is woken. Reading, compressing and syncing run on a
//!   `larder-ltx` thread. Where a checkpoint waits for it, it then reads ahead what is committed meanwhile.
//! - **The task that uploads** puts one sealed file after another into the storage.
//! - **The task that acknowledges** replies to the writes that wait for the replica (`acknowledge.rs`).
//! - **The task that compacts** merges and deletes what is there (`compact.rs`).
//!
//! # The full file
//!
//! `phase` says how captures go on. It begins as `Full` for a new replica, and becomes `Full` again when transactions
//! are lost to the log. The task that seals summons the writer thread, which gives [`turn`](LogKeeper::turn): there the
//! snapshot begins, and the phase becomes `Copying`. The task writes the file from that snapshot, and the phase becomes
//! `Following`. As long as it is `Copying`, no checkpoint is allowed, and the log grows by what is written meanwhile.
//!
//! # The file of a claim
//!
//! The first file that this opening seals may have to be a claim ([`Ownership`]). Opening seals one where it knows that
//! (`open.rs`), and an idle store would never seal another. So where the claim turns out to be needed later, or another
//! process held SQLite's write lock, the task that seals asks for a turn in the same way, each interval until there is such
//! a file: in the turn nothing is committed by anybody, and page 1 is sealed once more. What is committed before the turn
//! makes the file instead, since the turn captures first. Whether one is lacking is not kept, but asked: of `ownership`,
//! which the task that uploads changes, and of `progress`. A change that the task that seals does not see is followed by
//! its wake-up.
//!
//! # Locks
//!
//! `capture` guards the reader of the log: only its holder captures. The writer thread only tries it unless
//! the log has to be emptied. A thread holds it during file I/O, never while it waits for the network, for the writer or
//! for SQLite's locks, but for `turn`: that is the writer thread itself, which takes SQLite's write lock under it. Who has
//! SQLite's write lock never waits for `capture`: a lone writer's caller only stores `committed`, and a checkpoint begins
//! after the keeper has answered. `progress` guards what was reached, for those who wait for it. It may be taken under
//! `capture`; the list of the spool and the figures, each for a look, are taken under it. `commits` is taken under either,
//! with nothing under it: the index of the log is read under it, so that no count is of an older index than the one before.
//!
//! # No wake-up is lost
//!
//! A reply that waits for the replica has its transaction captured at once, or after the upload that is under way: the
//! writer appends the reply and then looks at `progress`; the task that uploads changes `progress` and then looks for
//! replies. One of the two sees the other.
//!
//! A permit of `Notify` is kept until its task takes it. Each task looks for work after it was woken and before it waits
//! again. A caller that waits for `progress` checks it under the lock that every change takes.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::Notify;

use super::capture::{Capture, CaptureError, Committed, Full};
use super::clock::StorageClock;
use super::commits::Commits;
use super::fence::Fence;
use super::gather::Gather;
use super::options::{ReplicaOptions, WhenSpoolFull};
use super::position::{Position, Stamps};
use super::runtime;
use super::spool::{Sealed, Spool};
use super::storage::{FileInfo, Storage};
use super::token::Token;
use crate::error::{Error, Result};
use crate::options::Access;
use crate::read::DedicatedReader;
use crate::runtime::sync::{Arc, Condvar, Instant, Mutex, MutexGuard, Weak};
use crate::telemetry::Telemetry;
use crate::telemetry::call_site::CallSite;
use crate::telemetry::event::event;
use crate::telemetry::replica::ReplicaFigures;
use crate::write::closing::Replicated;
use crate::write::context::WriteJob;
use crate::write::held::{self, HeldReplies};
use crate::write::log_keeper::{CheckpointProgress, LogKeeper, Turn};
use crate::write::{Shared, Stopped};

/// The writer thread captures at most so many frames by itself before a checkpoint that does not have to be.
const OWN_FRAMES: u32 = 512;

/// With at most so many left, the task that seals reads no further ahead for it.
const FEW_FRAMES: u32 = 64;

/// So often it reads ahead at most: each time there is less to read, unless the writer is as fast as it.
const READS_AHEAD: u32 = 8;

/// The shortest pause between two captures: an interval of zero means this.
const SHORTEST: Duration = Duration::from_millis(5);

/// So often the commits of all processes are counted, while one of them is committing.
const LOOKS: u32 = 100;

/// As often before a capture, for which the writer thread may wait.
const FEW_LOOKS: u32 = 4;

/// A full file is given up so long before closing does.
const LAST_SECOND: Duration = Duration::from_secs(1);

/// A disk with less room than this is full if a write says so.
const LITTLE_ROOM: u64 = 64 << 20;

/// Emits an event about that database.
type Deferred = Box<dyn FnOnce(&Path) + Send>;

/// How captures go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Phase {
    /// From frame to frame.
    Following,
    /// The next file is a full one, and its snapshot is to be begun.
    Full,
    /// A full file is being written.
    Copying,
    /// The spool was full. Nothing is captured before an upload succeeds; then a full file is.
    Dropped,
    /// Nothing is captured any more: the store has closed, or may not go on.
    Ended,
}

/// Whether this store is the owner of its replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Ownership {
    Owner,
    /// The storage could not be asked at opening.
    ToEnter,
    /// The first upload is a claim.
    ToClaim,
    /// What waits first is in each copy of this spool, too: the first upload was a claim of it, or the replica was closed.
    /// So the first file that was sealed since the opening is a claim.
    ToClaimOwn,
}

/// What was reached.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    /// The commits that are in sealed files.
    pub(super) commits: u32,
    /// The last transaction that was sealed.
    pub(super) sealed: u64,
    /// The last one that has every page, of those that this opening sealed.
    pub(super) every_page: u64,
    /// The last transaction that is in the replica.
    pub(super) uploaded: u64,
    /// How often transactions that were sealed were dropped, so that others have their numbers.
    dropped: u32,
    /// The transaction that is being uploaded, or that was tried last; 0 if it succeeded.
    pub(super) trying: u64,
    /// Since when.
    pub(super) trying_since: Option<Instant>,
    /// Why the last upload failed, until one succeeds.
    pub(super) failing: Option<String>,
    /// Why sealing fails, until it succeeds.
    pub(super) unsealed: Option<String>,
    /// Why nothing is uploaded any more.
    stopped: Option<String>,
    /// Whether the disk had no room for the last file.
    pub(super) disk_is_full: bool,
    /// The task that uploads has ended.
    pub(super) ended: bool,
    /// The task that compacts has ended.
    pub(super) compacted: bool,
}

impl Progress {
    /// The storage has answered, and nothing is being uploaded.
    pub(super) fn reaches_again(&mut self) {
        self.trying = 0;
        self.trying_since = None;
        self.failing = None;
    }
}

pub(crate) struct Replication {
    pub(super) shared: Weak<Shared>,
    telemetry: Arc<Telemetry>,
    pub(super) path: PathBuf,
    pub(super) options: ReplicaOptions,
    pub(super) storage: Storage,
    pub(super) fence: Fence,
    pub(super) clock: Arc<StorageClock>,
    ownership: AtomicU8,
    /// Where the opening found the database.
    pub(super) resumed: Position,
    /// The last transaction that was sealed before this opening, and not dropped since.
    inherited: AtomicU64,
    /// The opening of whose files the storage knows where they begin.
    announced: AtomicU64,
    pub(super) spool: Arc<Spool>,
    access: Access,
    capture: Mutex<Capture>,
    /// What all processes have committed, where others may.
    commits: Mutex<Commits>,
    /// What the writer has committed: frames in the lower half, commits in the upper.
    committed: AtomicU64,
    /// Whether the writer leaves a capture to the task that seals, for a checkpoint that is due.
    checkpoint_waits: AtomicBool,
    phase: AtomicU8,
    /// A full file whose snapshot has begun.
    full: Mutex<Option<Full>>,
    /// The commits that it has.
    full_commits: AtomicU32,
    /// Wakes the task that seals.
    wake: Notify,
    /// Wakes the task that uploads.
    pub(super) sealed: Notify,
    /// What was uploaded and is not in `levels` of the task that compacts, and whether it has every page.
    pub(super) uploads: Mutex<Vec<(FileInfo, bool)>>,
    /// Files of the replica that a verification found damaged, for the same task, and why.
    pub(super) damaged: Mutex<Vec<(FileInfo, String)>>,
    /// Wakes the task that compacts.
    pub(super) compact: Notify,
    /// When the store's closing is over. Set once.
    pub(super) closing: std::sync::OnceLock<Instant>,
    progress: Mutex<Progress>,
    changed: Condvar,
    /// The replies that wait for the replica.
    pub(super) held: HeldReplies,
    gather: Gather,
    /// Wakes the task that acknowledges.
    pub(super) reached: Notify,
    /// Whether writes are refused. Changed under the lock of `progress`.
    pub(super) refuses: AtomicBool,
    /// Events for when no lock is held.
    deferred: Mutex<Vec<Deferred>>,
}

fn pack(committed: Committed) -> u64 {
    u64::from(committed.commits) << 32 | u64::from(committed.frames)
}

fn unpack(packed: u64) -> Committed {
    Committed {
        frames: packed as u32,
        commits: (packed >> 32) as u32,
        salts: None,
    }
}

/// Why a full file is needed.
pub(super) enum Start {
    /// The replica is empty.
    New,
    /// The log goes on from the position.
    Goes,
    /// It does not, for this reason.
    Rebase(String),
}

impl Replication {
    pub(super) fn new(
        (shared, telemetry): (&Arc<Shared>, &Arc<Telemetry>),
        access: Access,
        options: ReplicaOptions,
        (fence, ownership, inherited): (Fence, Ownership, u64),
        (storage, spool): (Storage, Arc<Spool>),
        (capture, committed, uploaded): (Capture, Committed, u64),
        start: Start,
    ) -> Arc<Self> {
        let path = shared.path.clone();
        let phase = match &start {
            Start::Goes => Phase::Following,
            Start::New | Start::Rebase(_) => Phase::Full,
        };
        let figures = &telemetry.replica;
        let sealed = capture.position().txid;
        figures.begin(storage.to_string(), options.interval, sealed, uploaded);
        if let Start::Rebase(reason) = &start {
            figures.rebase(reason);
            tell_rebase(&path, reason);
        }
        let progress = Progress {
            commits: capture.commits(),
            sealed,
            uploaded,
            ..Progress::default()
        };
        let wake = Notify::new();
        wake.notify_one();
        let replication = Arc::new(Self {
            shared: Arc::downgrade(shared),
            telemetry: Arc::clone(telemetry),
            path,
            options,
            storage,
            fence,
            clock: Arc::clone(capture.clock()),
            ownership: AtomicU8::new(ownership as u8),
            resumed: *capture.position(),
            inherited: AtomicU64::new(inherited),
            announced: AtomicU64::new(0),
            spool,
            access,
            capture: Mutex::new(capture),
            commits: Mutex::new(Commits::new(committed)),
            committed: AtomicU64::new(pack(committed)),
            checkpoint_waits: AtomicBool::new(false),
            phase: AtomicU8::new(phase as u8),
            full: Mutex::new(None),
            full_commits: AtomicU32::new(0),
            wake,
            sealed: Notify::new(),
            uploads: Mutex::new(Vec::new()),
            damaged: Mutex::default(),
            compact: Notify::new(),
            closing: std::sync::OnceLock::new(),
            progress: Mutex::new(progress),
            changed: Condvar::new(),
            held: HeldReplies::default(),
            gather: Gather::default(),
            reached: Notify::new(),
            refuses: AtomicBool::new(false),
            deferred: Mutex::default(),
        });
        // What an earlier store has left may fill the spool.
        replication.weigh_spool();
        if let Some(at) = replication.spool.verified() {
            replication.figures().verified(at, None);
        }
        replication
    }

    fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Following,
            1 => Phase::Full,
            2 => Phase::Copying,
            3 => Phase::Dropped,
            _ => Phase::Ended,
        }
    }

    pub(super) fn ownership(&self) -> Ownership {
        match self.ownership.load(Ordering::Acquire) {
            0 => Ownership::Owner,
            1 => Ownership::ToEnter,
            2 => Ownership::ToClaim,
            _ => Ownership::ToClaimOwn,
        }
    }

    pub(super) fn set_ownership(&self, ownership: Ownership) {
        self.ownership.store(ownership as u8, Ordering::Release);
        // There may be no file for the claim.
        self.wake.notify_one();
    }

    /// Whether a file of this opening is to be a claim, and none was sealed.
    fn lacks_claim(&self) -> bool {
        matches!(self.ownership(), Ownership::ToClaim | Ownership::ToClaimOwn)
            && self.is_inherited(self.progress().sealed)
    }

    /// The storage could not be reached at opening. That is how uploads fail, too.
    pub(super) fn is_away(&self, reason: String) {
        self.figures().upload_failed(&reason);
        self.reach(|progress| progress.failing = Some(reason));
    }

    /// Whether a file was sealed before this opening. A copy of the spool may have it.
    pub(super) fn is_inherited(&self, txid: u64) -> bool {
        txid <= self.inherited.load(Ordering::Acquire)
    }

    /// Whether the storage knows where the files of that opening begin.
    pub(super) fn is_announced(&self, opening: u64) -> bool {
        self.announced.load(Ordering::Acquire) == opening
    }

    pub(super) fn set_announced(&self, opening: u64) {
        self.announced.store(opening, Ordering::Release);
    }

    /// Nothing leaves the end.
    fn set_phase(&self, phase: Phase) {
        let ended = Phase::Ended as u8;
        let change = |now| (now != ended).then_some(phase as u8);
        let _ = self.phase.fetch_update(Ordering::AcqRel, Ordering::Acquire, change);
    }

    /// Keeps an event for when no lock is held: a subscriber may be slow, or write to the store.
    pub(super) fn defer(&self, event: impl FnOnce(&Path) + Send + 'static) {
        self.deferred.lock().push(Box::new(event));
    }

    /// Emits the events that were kept. The caller holds no lock.
    pub(super) fn tell(&self) {
        let events = std::mem::take(&mut *self.deferred.lock());
        for event in events {
            event(&self.path);
        }
    }

    fn tell_rebase(&self, reason: &str) {
        self.figures().rebase(reason);
        let reason = reason.to_owned();
        self.defer(move |path| tell_rebase(path, &reason));
    }

    /// What is committed now, by whichever process. `None` if a process is committing at this moment.
    fn now_committed(&self) -> Option<Committed> {
        if self.access == Access::Shared
            && let Some(shared) = self.shared.upgrade()
            && shared.file.has_wal_index()
        {
            return self.wal_index().map(|(committed, _)| committed);
        }
        Some(unpack(self.committed.load(Ordering::Acquire)))
    }

    /// The same after a while, if a process is committing at this moment.
    fn committed_soon(&self, looks: u32) -> Option<Committed> {
        (0..looks).find_map(|look| {
            if look > 0 {
                std::thread::sleep(SHORTEST);
            }
            self.now_committed()
        })
    }

    /// The store, unless it has ended.
    pub(super) fn store(&self) -> Option<Arc<Shared>> {
        self.shared.upgrade()
    }

    pub(super) fn figures(&self) -> &ReplicaFigures {
        &self.telemetry.replica
    }

    /// What all processes have committed, and whether all of it is in the database file.
    fn wal_index(&self) -> Option<(Committed, bool)> {
        let shared = self.shared.upgrade()?;
        let mut commits = self.commits.lock();
        let index = shared.file.wal_index()?;
        Some((commits.count(index), !index.is_unmoved()))
    }

    pub(super) fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock()
    }

    /// Changes what was reached, and tells those who wait for it.
    pub(super) fn reach(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress());
        self.changed.notify_all();
        self.reached.notify_one();
    }

    /// Has the replies captured that wait for the replica, unless an upload is under way: what is committed meanwhile is
    /// in the next one.
    pub(super) fn seal_for_replies(&self) {
        if self.uploads_nothing() && self.gather.wakes(self.held.unsealed(), Instant::now()) {
            self.wake.notify_one();
        }
    }

    fn uploads_nothing(&self) -> bool {
        let progress = self.progress();
        progress.trying == 0 && progress.uploaded >= progress.sealed
    }

    /// The same after an upload that took this time, which is acknowledged next: those callers may come again.
    pub(super) fn seal_after_upload(&self, txid: u64, upload: Duration) {
        if !self.uploads_nothing() {
            return;
        }
        let (acknowledged, wait) = (self.held.in_files_up_to(txid), self.held.unsealed());
        self.gather.begin(acknowledged, wait, upload, Instant::now());
        if wait > 0 {
            self.wake.notify_one();
        }
    }

    /// Waits for more writes that wait for the replica (`gather.rs`).
    async fn gather(&self) {
        if self.held.unsealed() == 0 {
            return;
        }
        while let Some(left) = self.gather.time_left(self.held.unsealed(), Instant::now())
            && self.closing.get().is_none()
        {
            self.pause(&self.wake, left).await;
        }
        self.gather.end(self.held.unsealed());
    }

    /// Captures what is committed. The caller has the lock.
    fn capture_now(&self, capture: &mut Capture) -> Result<(), CaptureError> {
        if self.is_poisoned() {
            // What was committed last may never reach the disk, even if the log is synced once more.
            return Ok(());
        }
        let newest = self.held.newest();
        let Some(committed) = self.committed_soon(FEW_LOOKS) else {
            return Err(CaptureError::Committing);
        };
        let captured = capture.capture(committed);
        let result = captured.and_then(|sealed| {
            // Before the file can be uploaded.
            let is_first = self.held.seal(newest, capture.position().txid);
            match sealed {
                Some(sealed) => {
                    // Where replies wait for the upload, the position waits for the next checkpoint or interval.
                    if !is_first || self.progress().failing.is_some() {
                        capture.keep_position()?;
                    }
                    self.was_sealed(sealed, capture);
                }
                None => {
                    self.tell_of_last_seal(capture);
                    // What these have committed was in a file before.
                    if is_first {
                        self.reached.notify_one();
                    }
                    // No checkpoint runs without it, and that tells the error.
                    let lacked = !capture.has_kept_position() && self.progress().unsealed.is_some();
                    if capture.keep_position().is_ok() && lacked {
                        self.reach(|progress| {
                            progress.unsealed = None;
                            progress.disk_is_full = false;
                        });
                    }
                }
            }
            Ok(())
        });
        match &result {
            Ok(()) => {}
            Err(CaptureError::Lost(reason)) => self.rebase(capture, reason)?,
            Err(CaptureError::Unsynced(error)) => self.log_unsynced(error),
            Err(CaptureError::Spool(error))
                if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
                    && self.give_way(capture) => {}
            Err(error) => self.not_sealed(error),
        }
        if self.phase() == Phase::Following {
            self.bound_spool(capture);
        }
        result
    }

    /// The next file is a full one. An opening after a kill has to know that, too: the log may begin again from now on.
    fn rebase(&self, capture: &mut Capture, reason: &str) -> Result<(), CaptureError> {
        let txid = capture.position().txid;
        capture.fall_back(txid).map_err(CaptureError::Spool)?;
        self.tell_rebase(reason);
        self.set_phase(Phase::Full);
        self.wake.notify_one();
        Ok(())
    }

    /// The next file is to have every page, for this reason. If one is under way, that is it.
    ///
    /// # Errors
    ///
    /// The position cannot be written to the spool.
    pub(super) fn upload_every_page(&self, reason: &str) -> Result<(), CaptureError> {
        let mut capture = self.capture.lock();
        let begun = match self.phase() {
            Phase::Following => self.rebase(&mut capture, reason),
            _ => Ok(()),
        };
        drop(capture);
        self.tell();
        begun
    }

    /// Deletes what waits to be uploaded, but for the first file: the storage may have it already, and not have answered.
    /// Returns whether there was anything else.
    ///
    /// Which file that is, and what the uploader may still take, is decided under the lock of `progress`.
    pub(super) fn drop_spool(&self, capture: &mut Capture, reason: &str) -> bool {
        // Those that were uploaded take room, too. What cannot be deleted is told below.
        let uploaded = self.progress().uploaded;
        let _ = self.spool.delete_to(uploaded.saturating_sub(1));
        let (first, dropped) = {
            let progress = self.progress();
            let Some(first) = self.spool.first_from(progress.trying.max(progress.uploaded + 1)) else {
                return false;
            };
            (first, self.spool.forget_after(first.txid))
        };
        if dropped.is_empty() {
            return false;
        }
        let bytes: u64 = dropped.iter().map(|sealed| sealed.bytes).sum();
        if let Err(error) = self.fall_back_with_room(capture, first.txid, &dropped) {
            self.spool.take_back(dropped);
            self.not_sealed(&CaptureError::Spool(error));
            return false;
        }
        for sealed in &dropped {
            // A name that stays is deleted before the full file is written.
            let _ = self.spool.delete(*sealed);
        }
        self.held.unseal_after(first.txid);
        self.set_phase(Phase::Dropped);
        self.inherited.fetch_min(first.txid, Ordering::AcqRel);
        self.figures().dropped(reason, first.txid, self.spool.bytes());
        self.reach(|progress| {
            progress.sealed = first.txid;
            progress.dropped += 1;
            progress.unsealed = Some(format!("what waited to be uploaded was dropped: {reason}"));
        });
        let (reason, replica) = (reason.to_owned(), self.storage.to_string());
        self.defer(move |path| {
            event!(
                warn,
                "larder::replica",
                path,
                { reason, bytes, replica },
                "dropped what waited to be uploaded; once an upload succeeds, the whole database is uploaded"
            );
        });
        // The upload of the first may have succeeded before the phase changed.
        if self.progress().uploaded >= first.txid {
            self.go_on_after_upload();
        }
        true
    }

    /// Writes the position before the files are deleted: with all of them still there, an opening goes on from the newest.
    /// On a full disk that takes the room of some of them, the newest first. Once one of them is gone, there is no way back.
    ///
    /// # Errors
    ///
    /// The position cannot be written, and all files are there.
    fn fall_back_with_room(&self, capture: &mut Capture, txid: u64, dropped: &VecDeque<Sealed>) -> std::io::Result<()> {
        let mut newest = dropped.iter().rev();
        let mut is_there = true;
        loop {
            let error = match capture.fall_back(txid) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let is_full = matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
            match newest.next().filter(|_| is_full) {
                Some(sealed) => match self.spool.delete(*sealed) {
                    Ok(()) => is_there = false,
                    Err(error) if is_there => return Err(error),
                    Err(_) => {}
                },
                None if is_there => return Err(error),
                None => {
                    capture.fall_back_unwritten(txid);
                    return Ok(());
                }
            }
        }
    }

    /// Whether the last write of the database found the disk full, and it is: there may be other limits.
    fn database_has_no_room(&self) -> bool {
        self.telemetry.counters.full_for().is_some()
            && rustix::fs::statvfs(self.spool.folder())
                .is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) < LITTLE_ROOM)
    }

    /// Whether nothing is captured any more: the store has closed, or may not go on.
    pub(super) fn has_ended(&self) -> bool {
        self.phase() == Phase::Ended
    }

    /// The file that is to be uploaded now, never one with a gap before it. From here on it is not dropped.
    pub(super) fn next_upload(&self) -> Option<Sealed> {
        let mut progress = self.progress();
        let next = self.spool.first_from(progress.uploaded + 1);
        let next = next.filter(|next| next.txid == progress.uploaded + 1);
        progress.trying = next.map_or(0, |next| next.txid);
        progress.trying_since = next.map(|_| Instant::now());
        next
    }

    /// The replica goes on with this database, whatever it has behind that transaction: the next one has every page. What
    /// is in the spool is of another history. Fails while a full file is being written.
    pub(super) fn rebase_onto(&self, txid: u64, reason: &str) -> std::result::Result<(), String> {
        let mut capture = self.capture.lock();
        // Checked under the lock, under which it changes to that.
        if self.phase() == Phase::Copying {
            return Err("the whole database is being captured".into());
        }
        let done = capture.fall_back(txid);
        done.map_err(|error| CaptureError::Spool(error).to_string())?;
        for sealed in self.spool.forget_after(0) {
            let _ = self.spool.delete(sealed);
        }
        self.set_phase(Phase::Full);
        self.inherited.fetch_min(txid, Ordering::AcqRel);
        self.announced.store(0, Ordering::Release);
        // Before their numbers are others'.
        self.held.unseal_after(0);
        self.figures().found(txid);
        self.reach(|progress| {
            (progress.sealed, progress.uploaded) = (txid, txid);
            progress.dropped += 1;
        });
        self.tell_rebase(reason);
        drop(capture);
        self.wake.notify_one();
        self.tell();
        Ok(())
    }

    /// Called after each upload.
    pub(super) fn go_on_after_upload(&self) {
        let dropped = Phase::Dropped as u8;
        let full = Phase::Full as u8;
        let is_due = self
            .phase
            .compare_exchange(dropped, full, Ordering::AcqRel, Ordering::Acquire);
        if is_due.is_ok() {
            self.tell_rebase("what waited to be uploaded was dropped");
            self.wake.notify_one();
        }
        self.weigh_spool();
    }

    /// The last file was sealed, but its position could not be written, so that it counted as failed.
    fn tell_of_last_seal(&self, capture: &Capture) {
        let txid = capture.position().txid;
        if txid > self.progress().sealed
            && let Some(sealed) = self.spool.newest().filter(|newest| newest.txid == txid)
        {
            self.was_sealed(sealed, capture);
        }
    }

    fn was_sealed(&self, sealed: Sealed, capture: &Capture) {
        let commits = capture.commits();
        let timestamp = capture.position().timestamp;
        self.figures().sealed(sealed.txid, timestamp, self.spool.bytes());
        self.figures().clock_ahead(self.clock.ahead());
        self.reach(|progress| {
            progress.commits = commits;
            progress.sealed = sealed.txid;
            progress.unsealed = None;
            progress.disk_is_full = false;
        });
        self.sealed.notify_one();
    }

    pub(super) fn is_poisoned(&self) -> bool {
        self.shared.upgrade().is_some_and(|shared| shared.poison().is_some())
    }

    /// A log whose sync failed must not be appended to: `write/wal.rs` says why.
    fn log_unsynced(&self, error: &std::io::Error) {
        if let Some(shared) = self.shared.upgrade()
            && let Some(tell) = shared.log_sync_failed(error)
        {
            self.deferred.lock().push(tell);
        }
        let copy = std::io::Error::new(error.kind(), error.to_string());
        self.not_sealed(&CaptureError::Unsynced(copy));
    }

    fn not_sealed(&self, error: &CaptureError) {
        let reason = error.to_string();
        let (told, spool) = (reason.clone(), self.spool.folder().display().to_string());
        self.waits_because(reason, move |path| {
            event!(
                warn,
                "larder::replica",
                path,
                { error = told, spool },
                "the newest transactions could not be written to the spool; it is tried again, and the WAL grows meanwhile"
            );
        });
    }

    /// Nothing is sealed for this reason, which is told once.
    fn waits_because(&self, reason: String, tell: impl FnOnce(&Path) + Send + 'static) {
        let is_new = self.progress().unsealed.as_ref() != Some(&reason);
        if is_new {
            self.defer(tell);
        }
        self.figures().not_sealed(&reason);
        self.reach(|progress| progress.unsealed = Some(reason));
    }

    /// The life of the task that seals.
    pub(super) async fn seal_until_closed(self: Arc<Self>) {
        let interval = self.options.interval.max(SHORTEST);
        let mut pause = interval;
        while self.closing.get().is_none() {
            self.pause(&self.wake, pause).await;
            self.gather().await;
            let began = Instant::now();
            if self.shared.strong_count() == 0 {
                // The store ended without closing: its opening failed, or its writer panicked.
                let _ = self.closing.set(Instant::now());
                self.sealed.notify_one();
                self.compact.notify_one();
            }
            let this = Arc::clone(&self);
            if runtime::blocking(move || this.seal_step()).await.is_err() {
                // The system refuses a thread. The next interval tries again.
                tokio::time::sleep(interval).await;
            }
            // The next interval has begun with this capture.
            pause = interval.saturating_sub(began.elapsed()).max(SHORTEST);
        }
    }

    /// Ends when the time is over, or the task is woken. Returns whether the time is over.
    pub(super) async fn pause(&self, wake: &Notify, time: Duration) -> bool {
        tokio::time::timeout(time, wake.notified()).await.is_err()
    }

    /// The number of the replica.
    pub(super) fn lineage(&self) -> u64 {
        self.capture.lock().position().lineage
    }

    pub(super) fn set_lineage(&self, lineage: u64) {
        self.capture.lock().set_lineage(lineage);
    }

    /// One capture, or one full file. On a `larder-ltx` thread.
    fn seal_step(&self) {
        if self.is_poisoned() {
            return;
        }
        match self.phase() {
            Phase::Following => {
                let mut capture = self.capture.lock();
                // The store may have closed meanwhile, and another have opened the database.
                if self.phase() == Phase::Following {
                    // What went wrong is told, and is tried again.
                    if let Err(CaptureError::Committing) = self.capture_now(&mut capture) {
                        self.wake.notify_one();
                    }
                    if self.checkpoint_waits.swap(false, Ordering::AcqRel) {
                        self.read_ahead(&mut capture);
                    }
                    if self.phase() == Phase::Following
                        && self.options.when_full == WhenSpoolFull::Rebase
                        && self.database_has_no_room()
                    {
                        self.drop_spool(&mut capture, "the disk is full");
                    }
                }
                drop(capture);
                if self.wants_turn() {
                    self.summon();
                }
            }
            Phase::Full => self.summon(),
            Phase::Copying => {
                if let Some(full) = self.full.lock().take() {
                    self.write_full(full);
                }
            }
            Phase::Dropped | Phase::Ended => {}
        }
        self.tell();
    }

    /// Reads what the writer commits meanwhile, until it has little left to capture before its checkpoint.
    fn read_ahead(&self, capture: &mut Capture) {
        for _ in 0..READS_AHEAD {
            if self.is_poisoned() || self.phase() != Phase::Following {
                return;
            }
            // A log that begins again, and whose first commit is not counted yet, has the count of the one before.
            let committed = self.now_committed().filter(|now| now.commits != capture.commits());
            // With many pages the writer would leave the capture to this task once more.
            let is_worth_it = |now: &Committed| {
                capture.unread(now.frames) > FEW_FRAMES && capture.unsealed() + FEW_FRAMES <= OWN_FRAMES
            };
            let Some(committed) = committed.filter(is_worth_it) else {
                return;
            };
            match capture.read_ahead(committed) {
                Ok(()) => {}
                // The system tells it once.
                Err(CaptureError::Unsynced(error)) => return self.log_unsynced(&error),
                // The next capture finds it, too, and tells.
                Err(_) => return,
            }
        }
    }

    fn write_full(&self, mut full: Full) {
        let written = full.write(&self.spool, || self.closes_soon());
        let mut capture = self.capture.lock();
        if self.phase() != Phase::Copying {
            // The store has closed without it, or is fenced.
            return;
        }
        let followed = written.and_then(|unsealed| {
            let sealed = self.spool.seal(unsealed).map_err(CaptureError::Spool)?;
            capture.follow_full(&mut full);
            Ok(sealed)
        });
        match followed {
            Ok(sealed) => {
                self.figures().whole_again();
                self.progress().every_page = sealed.txid;
                self.was_sealed(sealed, &capture);
                // Only now: who sees the phase relies on what was reached, and waits for both.
                self.set_phase(Phase::Following);
                self.reach(|_| {});
                // What was committed meanwhile.
                let _ = self.capture_now(&mut capture);
            }
            Err(error) => {
                self.set_phase(Phase::Full);
                match &error {
                    CaptureError::Unsynced(error) => self.log_unsynced(error),
                    other => self.not_sealed(other),
                }
            }
        }
    }

    /// Whether there is little time left before closing gives up.
    fn closes_soon(&self) -> bool {
        let deadline = self.shared.upgrade().and_then(|shared| shared.closing.deadline());
        deadline.is_some_and(|deadline| Instant::now() + LAST_SECOND >= deadline)
    }

    fn summon(&self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.queue.summon();
        }
    }

    /// The replica is another primary's, or of another history: nothing is captured or written any more.
    pub(super) fn stop(&self, stopped: Stopped) {
        let reason = match &stopped {
            Stopped::Fenced { by, .. } => {
                self.figures().fenced(by);
                format!("the replica was taken over by {by}")
            }
            Stopped::Diverged { problem, .. } => {
                self.figures().diverged(problem);
                problem.clone()
            }
        };
        if let Some(shared) = self.shared.upgrade() {
            shared.stop(stopped);
        }
        // Only now: in this phase a checkpoint needs no capture, and a poisoned store makes none.
        self.set_phase(Phase::Ended);
        self.reach(|progress| progress.stopped = Some(reason));
    }

    /// What has everything that is committed now. Under the lock no capture is under way, so the next one has what the
    /// captures before it lack: the transaction is exact, and comes without a further write.
    pub(super) fn token(&self) -> Token {
        let committed = self.committed_soon(LOOKS);
        let capture = self.capture.lock();
        let position = capture.position();
        let has = |commits: u32| committed.is_some_and(|committed| is_reached(commits, committed.commits));
        let next = Token {
            lineage: position.lineage,
            txid: position.txid + 1,
            opening: self.fence.opening(),
            timestamp: position.timestamp + 1,
        };
        match self.phase() {
            Phase::Following | Phase::Ended if has(capture.commits()) => Token {
                txid: position.txid,
                ..capture.sealer().map_or_else(
                    || Token::plain(position.lineage, position.txid),
                    |opening| Token {
                        opening,
                        timestamp: position.timestamp,
                        ..next
                    },
                )
            },
            // The full file lacks it.
            Phase::Copying if !has(self.full_commits.load(Ordering::Acquire)) => Token {
                txid: position.txid + 2,
                timestamp: i64::MAX,
                ..next
            },
            _ => next,
        }
    }

    /// Waits until what is committed now is in the replica.
    ///
    /// # Errors
    ///
    /// What it waits for after that time.
    pub(super) fn flush(&self, until: Instant) -> std::result::Result<u64, String> {
        let wanted = loop {
            match self.now_committed() {
                Some(committed) => break committed.commits,
                None if Instant::now() >= until => return Err("another process is committing".to_owned()),
                None => std::thread::sleep(SHORTEST),
            }
        };
        // An upload that waits to be tried again is tried now.
        self.sealed.notify_one();
        self.wake.notify_one();
        let mut progress = self.progress();
        // The transaction that has them, once they are sealed.
        let (mut txid, mut dropped) = (None, progress.dropped);
        loop {
            if progress.dropped != dropped {
                (txid, dropped) = (None, progress.dropped);
            }
            if txid.is_none() && is_reached(progress.commits, wanted) && self.phase() == Phase::Following {
                txid = Some(progress.sealed);
            }
            if let Some(txid) = txid
                && progress.uploaded >= txid
            {
                return Ok(txid);
            }
            let left = until.saturating_duration_since(Instant::now());
            if progress.ended || left.is_zero() {
                return Err(waiting_for(&progress, txid));
            }
            progress = self.changed.wait_timeout(progress, left).0;
        }
    }
}

impl Replication {
    /// Why the replica does not have everything that is committed now.
    pub(super) fn behind(&self) -> Option<String> {
        let committed = self.now_committed();
        let progress = self.progress();
        let is_sealed =
            committed.is_some_and(|now| is_reached(progress.commits, now.commits)) && progress.unsealed.is_none();
        let is_behind = !is_sealed || progress.uploaded < progress.sealed;
        is_behind.then(|| waiting_for(&progress, is_sealed.then_some(progress.sealed)))
    }
}

/// Whether a counter modulo 2^32 has come that far.
fn is_reached(counter: u32, wanted: u32) -> bool {
    counter.wrapping_sub(wanted) < u32::MAX / 2
}

/// What a caller that waits for the replica waits for.
fn waiting_for(progress: &Progress, txid: Option<u64>) -> String {
    if let Some(reason) = &progress.stopped {
        return reason.clone();
    }
    if txid.is_none() {
        return match &progress.unsealed {
            Some(reason) => reason.clone(),
            None => "the transactions are still being read from the WAL".to_owned(),
        };
    }
    match &progress.failing {
        Some(reason) => reason.clone(),
        None => format!(
            "the upload goes on: transaction {} of {} is in the replica",
            progress.uploaded, progress.sealed
        ),
    }
}

fn tell_rebase(path: &Path, reason: &str) {
    event!(
        warn,
        "larder::replica",
        path,
        { reason },
        "the next transaction of the replica has every page of the database"
    );
}

impl LogKeeper for Replication {
    fn committed(&self, frames: u32, commits: u32) {
        let committed = Committed {
            frames,
            commits,
            salts: None,
        };
        self.committed.store(pack(committed), Ordering::Release);
    }

    fn is_ready(&self, must: bool) -> bool {
        match self.phase() {
            // The writer waits for a capture once the log is too large: it would only grow otherwise.
            Phase::Following => must || self.capture.try_lock().is_some(),
            Phase::Full | Phase::Dropped | Phase::Ended => true,
            Phase::Copying => false,
        }
    }

    fn before_checkpoint(&self, must: bool) -> bool {
        let began = Instant::now();
        let may = self.keep_for_checkpoint(must);
        self.figures().kept_by_writer(began.elapsed());
        self.tell();
        may
    }

    fn give_up_log(&self) {
        let mut capture = self.capture.lock();
        if self.phase() == Phase::Following {
            let txid = capture.position().txid;
            // Otherwise an opening would take a log that is empty for one that was captured.
            let _ = capture.fall_back(txid);
        }
    }

    fn after_checkpoint(&self, progress: CheckpointProgress) {
        if self.access == Access::Exclusive || self.phase() != Phase::Following {
            return;
        }
        let mut capture = self.capture.lock();
        if self.phase() != Phase::Following {
            return;
        }
        // What another process has committed since is still in the log, unless it has begun again already.
        if self.capture_now(&mut capture).is_err() || self.is_poisoned() || !progress.finished() {
            return;
        }
        let all_moved = match self.wal_index() {
            Some((committed, all_moved)) => committed.commits == capture.commits() && all_moved,
            None => progress.log == capture.frames(),
        };
        if all_moved {
            // A position that is not written costs a full file after a kill, and nothing else.
            let _ = capture.emptied();
        }
    }

    fn hold(&self, jobs: Vec<WriteJob>) {
        let refused = self.held.hold(jobs, self.options.replicate_timeout);
        if !refused.is_empty() {
            let reason = self.why_not_replicated();
            for job in refused {
                held::refuse(job, Duration::ZERO, &reason);
            }
            return;
        }
        self.figures().holds(self.held.length());
        // The task that acknowledges has a deadline to wait for.
        self.reached.notify_one();
        self.seal_for_replies();
    }

    fn held(&self) -> usize {
        self.held.length()
    }

    fn wait_for_room(&self, capacity: usize, timeout: Duration) -> bool {
        self.held.wait_for_room(capacity, timeout)
    }

    fn poisoned(&self) {
        self.reached.notify_one();
    }

    fn refusal(&self) -> Option<Error> {
        self.refuses_writes()
    }

    fn wants_turn(&self) -> bool {
        match self.phase() {
            Phase::Full => true,
            Phase::Following => self.lacks_claim(),
            Phase::Copying | Phase::Dropped | Phase::Ended => false,
        }
    }

    fn turn(&self, turn: &Turn<'_>) {
        let mut capture = self.capture.lock();
        if self.phase() == Phase::Following {
            self.seal_claim(turn, &mut capture);
            drop(capture);
            return self.tell();
        }
        match self.begin_full(turn, &mut capture) {
            Ok(full) => {
                *self.full.lock() = Some(full);
                self.set_phase(Phase::Copying);
                self.wake.notify_one();
            }
            Err(reason) => {
                let told = reason.clone();
                self.waits_because(reason, move |path| {
                    event!(
                        warn,
                        "larder::replica",
                        path,
                        { reason = told },
                        "the whole database could not be read for its replica; it is tried again"
                    );
                });
            }
        }
        drop(capture);
        self.tell();
    }

    fn last_turn(&self, turn: &Turn<'_>) {
        if self.phase() != Phase::Following {
            return;
        }
        let mut capture = self.capture.lock();
        let is_captured = self.phase() == Phase::Following
            && self.capture_now(&mut capture).is_ok()
            && capture.keep_position().is_ok();
        if !is_captured || !turn.all_moved {
            return;
        }
        let stamped = self.locked_out_of_writing(turn, || {
            let unchanged = self.now_committed()?.commits == capture.commits();
            let database = self.shared.upgrade()?.file.database_file()?;
            unchanged.then(|| Stamps::take(&database)).flatten()
        });
        if let Ok(Some(stamps)) = stamped {
            // Without them the next opening begins with a full file.
            let _ = capture.set_stamps(stamps);
        }
    }

    fn closed(&self, deadline: Instant) -> Option<Replicated> {
        let _ = self.closing.set(deadline);
        self.wake.notify_one();
        self.sealed.notify_one();
        self.compact.notify_one();
        let mut progress = self.progress();
        while !(progress.ended && progress.compacted) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            progress = self.changed.wait_timeout(progress, left).0;
        }
        let is_sealed = self.phase() == Phase::Following && progress.unsealed.is_none();
        let because = if is_sealed && self.is_poisoned() {
            Some("the store is poisoned, so what it committed last was not read from the WAL".to_owned())
        } else if is_sealed && progress.uploaded >= progress.sealed {
            None
        } else {
            Some(waiting_for(&progress, is_sealed.then_some(progress.sealed)))
        };
        drop(progress);
        // A capture that is under way ends first.
        let capture = self.capture.lock();
        self.set_phase(Phase::Ended);
        self.spool.release();
        drop(capture);
        self.tell();
        Some(Replicated { because })
    }
}

impl Replication {
    /// The last transaction, and a reader of the state after it. `None` if another process has committed meanwhile.
    pub(super) fn freeze(&self, turn: &Turn<'_>) -> std::result::Result<Option<(u64, DedicatedReader)>, String> {
        let mut capture = self.capture.lock();
        if self.phase() != Phase::Following {
            return Err("the whole database is being captured".into());
        }
        self.capture_now(&mut capture).map_err(|error| error.to_string())?;
        if self.phase() != Phase::Following {
            return Err("what waited to be uploaded was dropped".into());
        }
        let site = CallSite::Label("larder: verify".into());
        let reader = turn.readers.dedicated(site).map_err(|error| error.to_string())?;
        let is_same = self.now_committed().is_some_and(|now| now.commits == capture.commits());
        Ok(is_same.then(|| (capture.position().txid, reader)))
    }

    /// Whether a checkpoint may run without a capture. `None` if the log is to be captured first.
    fn may_checkpoint_uncaptured(&self) -> Option<bool> {
        match self.phase() {
            Phase::Following => None,
            // All of it is to be read once more in any case.
            Phase::Full | Phase::Dropped | Phase::Ended => Some(true),
            Phase::Copying => Some(false),
        }
    }

    /// What a capture would have to read and write: frames, and pages that were read ahead.
    fn left(&self, capture: &Capture) -> u32 {
        let own = || unpack(self.committed.load(Ordering::Acquire));
        let committed = self.now_committed().unwrap_or_else(own);
        if committed.commits == capture.commits() {
            return 0;
        }
        capture.unread(committed.frames) + capture.unsealed()
    }

    fn keep_for_checkpoint(&self, must: bool) -> bool {
        if let Some(may) = self.may_checkpoint_uncaptured() {
            return may;
        }
        let capture = if must {
            Some(self.capture.lock())
        } else {
            self.capture.try_lock()
        };
        let Some(mut capture) = capture else { return false };
        // Its holder may have changed the phase.
        if let Some(may) = self.may_checkpoint_uncaptured() {
            return may;
        }
        if !must && self.left(&capture) > OWN_FRAMES {
            self.checkpoint_waits.store(true, Ordering::Release);
            self.wake.notify_one();
            return false;
        }
        match self.capture_now(&mut capture) {
            Ok(()) => {}
            // The position on the disk says that a full file follows.
            Err(CaptureError::Lost(_)) => return true,
            Err(_) => return false,
        }
        // Then nothing was captured.
        if self.is_poisoned() {
            return false;
        }
        // Written before the checkpoint, a killed process cannot leave a log that has begun again and a position that
        // does not know it. Where others write, too, only the checkpoint tells whether it moved what they had written.
        let written = if self.access == Access::Exclusive {
            capture.emptied()
        } else {
            capture.keep_position()
        };
        match written {
            Ok(()) => true,
            Err(error) => {
                self.not_sealed(&error);
                false
            }
        }
    }

    /// Seals the file of a claim, unless what was committed meanwhile is one. It is tried again where another process
    /// commits.
    fn seal_claim(&self, turn: &Turn<'_>, capture: &mut Capture) {
        if self.capture_now(capture).is_err() || self.phase() != Phase::Following || !self.lacks_claim() {
            return;
        }
        let touched = self.locked_out_of_writing(turn, || {
            let is_same = self.now_committed().is_some_and(|now| now.commits == capture.commits());
            is_same.then(|| capture.touch())
        });
        match touched {
            Ok(Some(Ok(sealed))) => self.was_sealed(sealed, capture),
            Ok(Some(Err(error))) => self.not_sealed(&error),
            Ok(None) | Err(_) => {}
        }
    }

    fn begin_full(&self, turn: &Turn<'_>, capture: &mut Capture) -> std::result::Result<Full, String> {
        let planned = self.locked_out_of_writing(turn, || {
            let reader = turn.readers.dedicated(CallSite::Label("larder: replicate".into()));
            let reader = reader.map_err(|error| error.to_string())?;
            let pages =
                reader.with_conn(|conn| conn.query_row("PRAGMA main.page_count", [], |row| row.get::<_, u32>(0)));
            let pages = pages.map_err(|error| error.to_string())?;
            let committed = self.now_committed().ok_or("another process is committing")?;
            self.full_commits.store(committed.commits, Ordering::Release);
            let all_moved = match self.wal_index() {
                Some((_, all_moved)) => all_moved,
                None => turn.all_moved,
            };
            // Here as well: once others may write, the log may be another.
            let planned = capture.plan_full(reader, committed, pages, all_moved);
            planned.map_err(|error| error.to_string())
        });
        planned.map_err(|error| error.to_string())?
    }

    /// Runs `f` while no other process commits, either.
    fn locked_out_of_writing<T>(&self, turn: &Turn<'_>, f: impl FnOnce() -> T) -> rusqlite::Result<T> {
        if self.access == Access::Exclusive {
            return Ok(f());
        }
        let run = |sql: &str| turn.guard.as_internal(|| Connection::execute_batch(turn.conn, sql));
        run("BEGIN IMMEDIATE")?;
        let done = f();
        run("ROLLBACK")?;
        Ok(done)
    }
}
