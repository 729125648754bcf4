//! The task that keeps the levels of a store's replica: merges, snapshots, retention.
//!
//! It begins with the first upload after opening, so an idle store makes no list. What was uploaded since its last step
//! is in `uploads`, which the uploader fills once its Create has succeeded; the mutex is held for a push or a take. It
//! sleeps until a period of a level is over, or that of a new upload; a damaged file and closing wake it. What fails is tried
//! again after [`FIRST_PAUSE`], doubled up to [`LONGEST_PAUSE`]. `damaged` has what verifications found, and its mutex is
//! held as briefly.
//!
//! No step may write or delete while an upload has no answer, after a fence, or once the store closes
//! ([`Replication::may_compact`]). A step that runs as the store closes is dropped: what it wrote follows from the files
//! of level 0, so it is right or not there. What it has begun on `larder-ltx` threads is told to stop, and closing waits
//! for it: after that nothing of the store touches its files.

use std::io;
use std::time::{Duration, SystemTime};

use futures_util::future::{Either, select};

use super::levels::{Due, Levels};
use super::replication::Replication;
use super::runtime::{self, Closures};
use super::spool::Sealed;
use super::storage::{FailureKind, FileInfo, Result, Txids};
use crate::runtime::sync::{Arc, Instant};
use crate::telemetry::event::event;

const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// The shortest pause between two looks, should a clock not go on.
const SHORTEST: Duration = Duration::from_secs(1);

/// Between two looks at the clock of the storage, and at what unfinished uploads have left: a write, a read and a list.
const CLOCK_EVERY: Duration = Duration::from_secs(60 * 60);

/// An upload that has not come to its end after so long does not.
const LEFT_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// What the task knows between two steps.
#[derive(Default)]
struct Compaction {
    levels: Option<Levels>,
    /// When it looked at the clock of the storage.
    looked: Option<Instant>,
    /// Whether the newest state could not be restored.
    is_damaged: bool,
}

impl Replication {
    /// Takes note of a file that was uploaded.
    pub(super) fn to_compact(&self, sealed: Sealed) {
        let file = FileInfo {
            level: 0,
            txids: Txids::one(sealed.txid),
            size: sealed.bytes,
            modified: SystemTime::now(),
        };
        let has_every_page = self.progress().every_page == sealed.txid;
        self.uploads.lock().push((file, has_every_page));
        self.compact.notify_one();
    }

    /// Takes note of files that cannot be used, and why.
    pub(super) fn found_damaged(&self, damaged: Vec<(FileInfo, String)>) {
        self.damaged.lock().extend(damaged);
        self.compact.notify_one();
    }

    /// The life of the task.
    pub(super) async fn compact_until_closed(self: Arc<Self>) {
        let closures = Closures::default();
        closures.of(Arc::clone(&self).compact_until_closing()).await;
        closures.give_up().await;
        self.reach(|progress| progress.compacted = true);
    }

    async fn compact_until_closing(self: Arc<Self>) {
        let mut compaction = Compaction::default();
        let (mut wake, mut pause, mut is_pause) = (None, FIRST_PAUSE, false);
        while self.sleep_until(wake, is_pause).await {
            let Some(done) = self.unless_closing(self.compact_step(&mut compaction)).await else {
                return;
            };
            let Some(looked) = self.unless_closing(Arc::clone(&self).look_after(&mut compaction)).await else {
                return;
            };
            let done = done.and_then(|next| looked.map(|()| next));
            is_pause = done.is_err();
            match done {
                Ok(next) => {
                    pause = FIRST_PAUSE;
                    wake = next;
                }
                Err(error) => {
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
    async fn compact_step(&self, compaction: &mut Compaction) -> Result<Option<SystemTime>> {
        let may = || self.may_compact();
        let now = SystemTime::now();
        if !may() {
            return Ok(Some(now + FIRST_PAUSE));
        }
        self.read_clock(compaction).await?;
        let levels = match &mut compaction.levels {
            Some(levels) => levels,
            none => {
                let (storage, spool) = (self.storage.clone(), self.spool.folder().to_owned());
                none.insert(Levels::open(storage, self.options.times, spool).await?)
            }
        };
        for (file, has_every_page) in std::mem::take(&mut *self.uploads.lock()) {
            match has_every_page {
                true => levels.uploaded_every_page(file),
                false => levels.uploaded(file),
            }
        }
        self.take_damaged(levels).await;
        levels.look_again().await?;
        self.figures().snapshots(levels.last_snapshot(), levels.snapshot_due());
        while let Some(due) = levels.due(now) {
            if !may() {
                return Ok(Some(now + FIRST_PAUSE));
            }
            let made = match due {
                Due::Merge(merge) => levels.merge(merge, &may).await?,
                Due::Snapshot => levels.snapshot(&may).await?,
                Due::Retain => {
                    levels.retain(now, self.fence.claims(now), &may).await?;
                    None
                }
            };
            if let Some(made) = made {
                self.was_made(made);
            }
        }
        self.figures().snapshots(levels.last_snapshot(), levels.snapshot_due());
        let soonest = now + SHORTEST.min(self.options.times.levels[0]);
        Ok(levels.next_due().map(|due| due.max(soonest)))
    }

    fn was_made(&self, file: FileInfo) {
        if file.level == 1 {
            // The last upload stays: by it an opening knows the replica for its own.
            let last = self.progress().uploaded.saturating_sub(1);
            let _ = self.spool.delete_to(file.txids.max.min(last));
        }
        event!(
            debug,
            "larder::replica",
            self.path,
            { replica = %self.storage, level = file.level, txids = %file.txids, bytes = file.size },
            "files of the replica were merged into one"
        );
    }

    /// Asks the storage for the time, and deletes what unfinished uploads have left, from time to time.
    async fn read_clock(&self, compaction: &mut Compaction) -> Result<()> {
        let every = if self.clock.ahead().is_some() {
            FIRST_PAUSE
        } else {
            CLOCK_EVERY
        };
        if compaction.looked.is_some_and(|looked| looked.elapsed() < every) {
            return Ok(());
        }
        let time = self.storage.time().await?;
        self.clock.set(time);
        self.figures().clock_ahead(self.clock.ahead());
        self.storage.delete_unfinished(time - LEFT_AFTER).await?;
        compaction.looked = Some(Instant::now());
        Ok(())
    }

    /// Writes the damaged files once more that the spool has, and leaves out the others.
    async fn take_damaged(&self, levels: &mut Levels) {
        let damaged = std::mem::take(&mut *self.damaged.lock());
        for (file, problem) in damaged {
            // This owner's, or proven to be the same at opening.
            let is_own = file.level == 0 && file.txids.max <= self.progress().uploaded;
            match is_own && self.write_again(levels, file, &problem).await {
                true => levels.are_whole(file.level, file.txids),
                false => levels.is_damaged(file, problem),
            }
        }
    }

    /// Writes the files of these transactions once more. Returns whether the spool had all of them.
    async fn write_again(&self, levels: &Levels, file: FileInfo, problem: &str) -> bool {
        for txids in (file.txids.min..=file.txids.max).map(Txids::one) {
            let file = FileInfo { txids, ..file };
            if !self.may_compact() || !levels.write_again(file).await.unwrap_or(false) {
                return false;
            }
            event!(
                warn,
                "larder::replica",
                self.path,
                { file = self.storage.name(0, txids), problem },
                "a file of the replica was damaged or missing, and was written once more"
            );
        }
        true
    }

    /// Tells what is wrong with the replica, and has a file with every page made if only that helps.
    ///
    /// # Errors
    ///
    /// The storage fails, or the spool: then the file is asked for again.
    async fn look_after(self: Arc<Self>, compaction: &mut Compaction) -> Result<()> {
        let Some(levels) = compaction.levels.as_mut().filter(|_| self.may_compact()) else {
            return Ok(());
        };
        let wanted = levels.wants_every_page().await?;
        let problem = levels.problem();
        self.figures().damaged(problem.clone());
        if problem.is_none() && compaction.is_damaged {
            event!(
                info,
                "larder::replica",
                self.path,
                { replica = %self.storage },
                "the newest state of the replica can be restored again"
            );
        }
        compaction.is_damaged = problem.is_some();
        if let Some(problem) = wanted {
            let (replication, reason) = (Arc::clone(&self), problem.clone());
            let asked = runtime::blocking(move || replication.upload_every_page(&reason)).await;
            let asked = asked.and_then(|asked| asked.map_err(io::Error::other));
            if let Err(error) = asked {
                levels.not_asked();
                let what = "the whole database could not be captured".to_owned();
                return Err(self.storage.failure(what, FailureKind::Transient, error.to_string()));
            }
            event!(
                warn,
                "larder::replica",
                self.path,
                { replica = %self.storage, problem },
                "the newest state of the replica cannot be restored, so the whole database is uploaded once more"
            );
        }
        Ok(())
    }

    /// Waits until that time, but not longer than until a new upload is to be merged, unless it is the pause after a failure;
    /// for the first upload if there is no time. `false`: the store closes.
    async fn sleep_until(&self, mut wake: Option<SystemTime>, is_pause: bool) -> bool {
        loop {
            let told = std::pin::pin!(self.compact.notified());
            if self.closing.get().is_some() {
                return false;
            }
            if !self.damaged.lock().is_empty() && self.may_compact() {
                return true;
            }
            let has_uploads = !self.uploads.lock().is_empty();
            if has_uploads && !is_pause {
                let merged = SystemTime::now() + self.options.times.levels[0];
                wake = wake.map(|wake| wake.min(merged));
            }
            let Some(wake) = wake else {
                if has_uploads {
                    return true;
                }
                told.await;
                continue;
            };
            let left = wake.duration_since(SystemTime::now()).unwrap_or_default();
            if left.is_zero() {
                return true;
            }
            // The system's clock may be set meanwhile.
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
