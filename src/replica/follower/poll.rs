//! The task that follows: it looks for files of the replica, and hands them to the writer thread, one job after another.
//!
//! A look is a GET of the next transaction, N + 1, and of those after it until one is not there. That costs a twelfth of a
//! LIST. Once there was none for [`LIST_AFTER`], or for [`LIST_AFTER_AWAITED`] while somebody waits for one, and where much
//! has to be caught up, the levels are listed: what was merged or deleted meanwhile is in the levels above, or in a snapshot
//! (`resync.rs`). A file that cannot be used is tried
//! once more, and then left out of the plan. Where the others do not lead on, the follower stays where it is, and says
//! which file it is.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use futures_util::future::{Either, select};
use rusqlite::ffi;

use super::Following;
use super::apply::Source;
use super::following::SHORTEST;
use super::local::Local;
use super::open::MOVE_AWAY;
use super::resync::WAY_OUT;
use super::trouble::Trouble;
use crate::error::{Error, is_damage, primary_code};
use crate::options::WhenFull;
use crate::queue::Submission;
use crate::queue::slot::Caller;
use crate::replica::fence::Fence;
use crate::replica::restore::plan::{SNAPSHOTS, Txid, plan_after};
use crate::replica::storage::{FileInfo, ObjectReader, Storage, Txids, all_files};
use crate::runtime::sync::{Arc, Instant};
use crate::telemetry::call_site::CallSite;
use crate::telemetry::event::event;
use crate::write::Writer;
use crate::write::context::Exclusive;

/// The levels are listed when the next transaction was not there for so long.
const LIST_AFTER: Duration = Duration::from_secs(30);

/// As long, while somebody waits for a transaction that is not here: it may have been merged and deleted already.
const LIST_AFTER_AWAITED: Duration = Duration::from_secs(2);

/// Files that are applied as one transaction, each the next transaction. They are in memory meanwhile, 2 MiB of each at
/// most.
const BATCH: usize = 8;

/// Files that lead over a long gap are applied as one transaction up to so many bytes of them: so much is downloaded at a
/// time, and the log has their pages until the next checkpoint. A larger file is a transaction by itself.
const PORTION: u64 = 16 << 20;

/// So many batches in a row, and the levels are listed.
const BATCHES: u32 = 4;

/// So often in one look the database is compared with the replica, while another program writes to it.
const RESYNCS: u32 = 3;

/// A pause after a failure. It doubles with each further failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// After a look that found something, and after a wake-up, so many looks are only a quarter of the interval apart. The
/// primary uploads at an interval of its own: with a whole interval between two looks, a follower of a busy primary would
/// add anything up to an interval to it.
const CLOSE_LOOKS: u32 = 6;

/// The longest pause after a failure while somebody waits for a transaction.
const LONGEST_WOKEN: Duration = Duration::from_secs(5);

/// The longest between two looks that were asked for, and found nothing.
const LONGEST_LEAST: Duration = Duration::from_secs(1);

/// A job of the follower waits for those before it, which are its own, and for checkpoints.
const PATIENCE: Duration = Duration::from_secs(3600);

/// A moment by both clocks: the first stands still while the machine sleeps, and the second may be set.
#[derive(Clone, Copy)]
struct Confirmed(Instant, SystemTime);

impl Confirmed {
    fn now() -> Self {
        Self(Instant::now(), SystemTime::now())
    }

    fn elapsed(self) -> Duration {
        self.0.elapsed().max(self.1.elapsed().unwrap_or_default())
    }
}

/// What the task knows between two looks.
pub(super) struct Poll {
    /// When the next transaction was there, or the levels were listed.
    confirmed: Confirmed,
    /// Whether the next look is a list.
    lists: bool,
    /// Files that could not be used in this look: how often, and why.
    failed: BTreeMap<(u8, Txids), (u32, String)>,
    /// Looks in a row that failed.
    failures: u32,
    /// How many looks are still to be close together.
    close: u32,
}

impl Poll {
    /// Begins with a list.
    pub(super) fn new() -> Self {
        Self {
            confirmed: Confirmed::now(),
            lists: true,
            failed: BTreeMap::new(),
            failures: 0,
            close: 0,
        }
    }

    /// Applies everything that is newer than the database.
    pub(super) async fn look(&mut self, following: &Arc<Following>) -> Result<(), Trouble> {
        // A file that was damaged may have been mended.
        self.failed.clear();
        let mut resyncs = 0;
        loop {
            let longest = match following.is_awaited() {
                true => LIST_AFTER_AWAITED,
                false => LIST_AFTER,
            };
            let lists = self.lists || self.confirmed.elapsed() >= longest;
            let looked = if lists {
                self.list(following).await
            } else {
                self.get_next(following).await
            };
            let looked = match looked {
                Err(Trouble::Changed(reason)) if resyncs < RESYNCS => {
                    resyncs += 1;
                    following.refuse_other_history().await?;
                    match following.resync(Some(reason)).await {
                        Ok(()) => continue,
                        failed => failed,
                    }
                }
                looked => looked,
            };
            match looked {
                Err(Trouble::OtherNode(node)) => following.check_lineage(node).await?,
                Err(Trouble::File(file, problem)) => {
                    let (times, last) = self.failed.entry((file.level, file.txids)).or_default();
                    (*times, *last) = (*times + 1, problem);
                    self.lists = true;
                }
                other => {
                    // Meanwhile the replica may have been begun again.
                    self.lists |= matches!(other, Err(Trouble::Storage(_)));
                    return other;
                }
            }
        }
    }

    /// Applies the next transactions, as long as they are there.
    async fn get_next(&mut self, following: &Arc<Following>) -> Result<(), Trouble> {
        for _ in 0..BATCHES {
            let (opened, asked) = following.open_next().await?;
            let is_tip = opened.len() < BATCH;
            if !opened.is_empty() {
                following.run(Source::Opened(opened)).await?;
                self.confirmed = Confirmed::now();
            }
            if is_tip {
                following.was_at_tip(asked);
                return Ok(());
            }
        }
        self.list(following).await
    }

    /// Lists the levels, and applies what leads on from the database.
    async fn list(&mut self, following: &Arc<Following>) -> Result<(), Trouble> {
        self.lists = true;
        let asked = Instant::now();
        let files = following.files().await?;
        let position = following.position();
        let tip = files.iter().map(|file| file.txids.max).max().unwrap_or(0);
        if tip < position.txid && !following.storage.has(0, Txids::one(position.txid)).await? {
            return Err(Trouble::Diverged(emptied(position.txid, tip)));
        }
        if tip > position.txid {
            following.refuse_other_history().await?;
        }
        let usable: Vec<_> = files.iter().filter(|file| !self.is_unusable(file)).copied().collect();
        let planned = plan_after(&usable, position.txid);
        let reached = planned.last().map_or(position.txid, |file| file.txids.max);
        let mut snapshots = usable.iter().filter(|file| file.level == SNAPSHOTS);
        if reached < tip && snapshots.any(|snapshot| snapshot.txids.max > reached) {
            following.resync(None).await?;
        } else {
            for files in following.portions(planned) {
                following.run(Source::Planned(files)).await?;
            }
        }
        if following.position().txid < tip {
            return Err(Trouble::Incomplete(self.missing(reached + 1, &following.storage)));
        }
        if following.reached().maker == 0
            && let (at, fence) = (following.position().txid, Fence::new(following.storage.clone(), 0))
            && let Ok(Some(seen)) = fence.owner().await
        {
            // A wait for a token asks for nothing then.
            following.knows(&seen.owner, at);
        }
        (self.confirmed, self.lists) = (Confirmed::now(), false);
        following.was_at_tip(asked);
        Ok(())
    }

    /// How long until the next look, after one that did not fail.
    fn pause(&mut self, interval: Duration, found: bool) -> Duration {
        if found {
            self.close = CLOSE_LOOKS;
        }
        if self.close == 0 {
            return interval;
        }
        self.close -= 1;
        interval / 4
    }

    /// Whether the file failed twice.
    fn is_unusable(&self, file: &FileInfo) -> bool {
        let failed = self.failed.get(&(file.level, file.txids));
        failed.is_some_and(|(times, _)| *times > 1)
    }

    fn missing(&self, txid: u64, storage: &Storage) -> String {
        let unusable = self.failed.iter().filter(|(_, (times, _))| *times > 1);
        let mut unusable: Vec<_> = unusable
            .map(|((level, txids), (_, problem))| format!("{}: {problem}", storage.name(*level, *txids)))
            .collect();
        if unusable.is_empty() {
            unusable.push(format!(
                "no file has transaction {}, and others have later ones",
                Txid(txid)
            ));
        }
        format!(
            "the follower stays before transaction {}, since the replica has no other files with it: {}. It goes on once \
             the replica has a snapshot of a later state (ReplicaOptions::snapshot_every)",
            Txid(txid),
            unusable.join("; ")
        )
    }
}

impl Following {
    /// The life of the task.
    pub(super) async fn follow_until_closed(self: Arc<Self>, mut poll: Poll) {
        let _ended = Ended(&self);
        let (mut least, mut pause) = (Duration::ZERO, self.interval);
        loop {
            let rested = self.rest(least, pause).await;
            if rested {
                poll.close = CLOSE_LOOKS;
            }
            if let Some(poisoned) = self.poison() {
                return self.stop_poisoned(&poisoned);
            }
            let before = self.position().txid;
            let Some((looked, was_woken)) = self.unless_closing(poll.look(&self)).await else {
                return;
            };
            pause = match looked {
                Err(Trouble::Closing) => return,
                Err(Trouble::Diverged(problem)) => return self.stop(problem),
                Err(doubtful @ Trouble::Doubtful(_)) => return self.stop(doubtful.describe()),
                Err(Trouble::Local(error)) if is_unreadable(&error) => return self.stop(unreadable(&error)),
                Err(Trouble::Local(poisoned @ Error::Poisoned { .. })) => return self.stop_poisoned(&poisoned),
                // It may have been woken for that.
                _ if self.poison().is_some() => Duration::ZERO,
                Ok(()) => {
                    poll.failures = 0;
                    self.reach(|reached| reached.problem = None);
                    self.figures().problem(None);
                    let found = self.position().txid > before;
                    // Those who wait for what is not there have it looked for less and less often.
                    least = match rested && !found {
                        true => (least * 2).clamp(SHORTEST, LONGEST_LEAST).min(self.interval),
                        false => Duration::ZERO,
                    };
                    if was_woken {
                        poll.close = CLOSE_LOOKS;
                        least
                    } else {
                        poll.pause(self.interval, found).max(least)
                    }
                }
                Err(other) => {
                    let pause = FIRST_PAUSE.max(self.interval) * 2u32.pow(poll.failures.min(5));
                    poll.failures += 1;
                    self.failed(&other.describe(), pause.min(LONGEST_PAUSE));
                    least = pause.min(LONGEST_WOKEN);
                    pause.min(LONGEST_PAUSE)
                }
            };
        }
    }

    /// Sleeps for that pause, or until the task is woken, but no less than `least`. Returns whether it was woken.
    async fn rest(&self, least: Duration, pause: Duration) -> bool {
        let (began, mut was_woken) = (Instant::now(), false);
        while !self.closes() {
            let until = if was_woken { least } else { pause };
            let left = until.saturating_sub(began.elapsed());
            if left.is_zero() {
                break;
            }
            was_woken |= tokio::time::timeout(left, self.wake.notified()).await.is_ok();
        }
        was_woken
    }

    /// `None` if the follower closes first. Also says whether the task was woken meanwhile: what it was woken for may have
    /// come after the look.
    async fn unless_closing<T>(&self, work: impl Future<Output = T>) -> Option<(T, bool)> {
        let (mut work, mut was_woken) = (std::pin::pin!(work), false);
        loop {
            let told = std::pin::pin!(self.wake.notified());
            if self.closes() {
                return None;
            }
            match select(&mut work, told).await {
                Either::Left((done, _)) => return Some((done, was_woken)),
                Either::Right(_) => was_woken = true,
            }
        }
    }

    /// Nothing is applied any more. Reads go on.
    fn stop(&self, problem: String) {
        let error = self.diverged(problem.clone());
        self.figures().stopped(&problem);
        self.reach(|reached| reached.stopped = Some(problem));
        self.has_stopped(&error.to_string());
    }

    /// The database takes no more writes: its files were moved, SQLite's locks were dropped, or the disk has failed.
    fn stop_poisoned(&self, error: &Error) {
        let problem = match error.sqlite().and_then(primary_code) {
            // The message is larder's own, and has the way out.
            Some(ffi::SQLITE_READONLY) => error.to_string(),
            // SQLite's message may quote data.
            _ => format!(
                "the database is {}: close the follower, look at the disk, and open it again",
                error.without_data()
            ),
        };
        self.figures().stopped(&problem);
        self.has_stopped(&problem);
    }

    fn has_stopped(&self, error: &str) {
        event!(
            error,
            "larder::follow",
            self.path,
            { replica = %self.storage, error },
            "the follower has stopped: reads go on, and see no newer state"
        );
    }

    fn failed(&self, problem: &str, again: Duration) {
        let is_new = self.reached().problem.as_deref() != Some(problem);
        self.figures().problem(Some(problem));
        self.reach(|reached| reached.problem = Some(problem.to_owned()));
        if is_new {
            event!(
                warn,
                "larder::follow",
                self.path,
                { replica = %self.storage, error = problem, again_ms = again.as_millis() as u64 },
                "the follower could not go on; it is tried again"
            );
        }
    }

    pub(super) fn was_at_tip(&self, at: Instant) {
        self.figures().at_tip(at);
    }

    /// Opens the files of the next transactions, up to the first that is not there, and says when it was asked for.
    async fn open_next(&self) -> Result<(Vec<(FileInfo, ObjectReader)>, Instant), Trouble> {
        let first = self.position().txid + 1;
        let mut opened = Vec::new();
        loop {
            let txids = Txids::one(first + opened.len() as u64);
            let asked = Instant::now();
            if opened.len() == BATCH {
                return Ok((opened, asked));
            }
            match self.storage.reader(0, txids).await {
                Ok(reader) => {
                    let file = FileInfo {
                        level: 0,
                        txids,
                        size: reader.size(),
                        modified: SystemTime::now(),
                    };
                    opened.push((file, reader));
                }
                Err(error) if error.is_not_found() => return Ok((opened, asked)),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The files of all levels; those of level 0 alone, if it ends where the follower is.
    async fn files(&self) -> Result<Vec<FileInfo>, Trouble> {
        let files = self.storage.list(0).await?;
        if files
            .last()
            .is_some_and(|newest| newest.txids.max == self.position().txid)
        {
            return Ok(files);
        }
        Ok(all_files(&self.storage).await?)
    }

    /// Whether the replica is still the one that is followed. A process has written to it that had not written before.
    pub(super) async fn check_lineage(&self, node: u64) -> Result<(), Trouble> {
        let (owner, at) = (Fence::new(self.storage.clone(), 0), self.position().txid);
        let owner = owner.owner().await?.map(|seen| seen.owner);
        let there = owner.as_ref().map_or(0, |owner| owner.lineage);
        let ours = self.position().lineage;
        if ours != 0 && there != ours {
            return Err(Trouble::Diverged(other_lineage(ours, there)));
        }
        if let Some(owner) = owner {
            self.knows(&owner, at);
        }
        self.reach(|reached| {
            reached.position.lineage = there;
            reached.nodes.insert(node);
        });
        Ok(())
    }

    /// Refuses a replica that does not go on from what was applied, however its files are numbered: it has another number,
    /// or another transaction in the place of the last one. Merged files do not say whose they are.
    async fn refuse_other_history(&self) -> Result<(), Trouble> {
        let position = self.position();
        if position.lineage == 0 {
            // Litestream writes it.
            return Ok(());
        }
        let fence = Fence::new(self.storage.clone(), 0);
        let there = fence.owner().await?.map_or(0, |seen| seen.owner.lineage);
        if there != position.lineage {
            return Err(Trouble::Diverged(other_lineage(position.lineage, there)));
        }
        let spooled = self.spool.body(position.txid);
        // A file that cannot be read says nothing.
        match fence.is_at(position.txid, spooled, Some(position.timestamp)).await {
            Ok(false) => Err(Trouble::Diverged(other_transaction(position.txid))),
            _ => Ok(()),
        }
    }

    /// Divides files into transactions. What is behind the position has to be written again by the first of them, so that one
    /// has all files then.
    fn portions(&self, files: Vec<FileInfo>) -> Vec<Vec<FileInfo>> {
        let is_behind = match &self.reached().local {
            Local::Ours { .. } => false,
            Local::Behind { pages, .. } => !pages.is_empty(),
            Local::Unknown(_) => true,
        };
        if is_behind {
            return vec![files];
        }
        portions(files)
    }

    /// Has the writer thread apply files, and waits for that.
    pub(super) async fn run(self: &Arc<Self>, source: Source) -> Result<(), Trouble> {
        let this = Arc::clone(self);
        self.job(move |writer| this.apply(writer, source)).await
    }

    /// Has the writer thread do something, and waits for that.
    pub(super) async fn job(
        &self,
        work: impl FnOnce(&mut Writer) -> Result<(), Trouble> + Send + 'static,
    ) -> Result<(), Trouble> {
        let submission = Submission {
            call: "follow",
            site: CallSite::Label("larder: follow".into()),
            timeout: PATIENCE,
            caller: Caller::Task,
            when_full: WhenFull::Wait,
        };
        let shared = self.shared.upgrade().ok_or(Trouble::Closing)?;
        let pending = shared.enqueue::<Exclusive, _, _>(submission, (), move |writer: &mut Writer| Ok(work(writer)))?;
        drop(shared);
        pending.await?
    }
}

/// Files in portions of [`PORTION`] bytes at most, or of one file. There is always one, if only an empty one.
fn portions(files: Vec<FileInfo>) -> Vec<Vec<FileInfo>> {
    let (mut portions, mut size) = (vec![Vec::new()], 0);
    for file in files {
        if size > 0 && size + file.size > PORTION {
            portions.push(Vec::new());
            size = 0;
        }
        size += file.size;
        portions.last_mut().expect("there is one").push(file);
    }
    portions
}

/// Says that the task has ended, also after a panic.
struct Ended<'f>(&'f Following);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.reach(|reached| reached.ended = true);
    }
}

impl Trouble {
    /// What went wrong, for people.
    pub(super) fn describe(&self) -> String {
        match self {
            Trouble::File(file, problem) => format!("{}: {problem}", file.txids),
            Trouble::Storage(error) => error.to_string(),
            Trouble::Incomplete(problem)
            | Trouble::Changed(problem)
            | Trouble::Diverged(problem)
            | Trouble::NoRoom(problem) => problem.clone(),
            Trouble::Doubtful(reason) => format!(
                "the database cannot be shown to be as the follower left it: {reason}; and the replica has what came since in \
                 a snapshot alone, so a change by another program would not be noticed. {WAY_OUT}"
            ),
            Trouble::Overtaken => "another process was faster".into(),
            Trouble::OtherNode(_) => "the owner of the replica changes all the time".into(),
            // SQLite's message may quote data.
            Trouble::Local(error) if error.sqlite().is_some() => error.without_data(),
            Trouble::Local(error) => error.to_string(),
            Trouble::Closing => Error::Closed.to_string(),
        }
    }
}

/// Whether SQLite does not take the file for a sound database.
pub(super) fn is_unreadable(error: &Error) -> bool {
    let opening = || match error {
        Error::Open { source, .. } => source.as_ref()?.downcast_ref(),
        _ => None,
    };
    error.sqlite().or_else(opening).is_some_and(is_damage)
}

/// The same for people. Whatever is in the file, the replica has more.
pub(super) fn unreadable(error: &Error) -> String {
    let by_sqlite = match error {
        // No statement has run.
        Error::Open {
            source: Some(source), ..
        } => source.to_string(),
        _ => error.without_data(),
    };
    format!(
        "it is damaged, or no database any more, so another program or the disk has changed it ({by_sqlite}). {WAY_OUT}"
    )
}

/// The way out where a replica seems to be gone.
const MOUNT: &str = "If it is to be mounted, do that, and open the follower again";

fn emptied(here: u64, tip: u64) -> String {
    format!(
        "the follower is at transaction {}, and the replica ends with transaction {}: it was emptied, or begun again by \
         another database, or its file system is not mounted. {MOUNT}. Follow another URL; or {MOVE_AWAY}, and open the \
         follower again, which restores what the replica has now",
        Txid(here),
        Txid(tip)
    )
}

fn other_transaction(txid: u64) -> String {
    format!(
        "transaction {} of the replica is not the one that the follower has applied: the replica was begun again, from an \
         older state or by OnDivergence::Rebase. To follow it, {MOVE_AWAY}, and open the follower again, which restores \
         what the replica has now",
        Txid(txid)
    )
}

pub(super) fn other_lineage(ours: u64, there: u64) -> String {
    let there = match there {
        0 => format!(
            "it has no owner any more: it was emptied, or another program writes it, or its file system is not mounted. {MOUNT}"
        ),
        there => format!("it has the number {there:016x}: another database was replicated there"),
    };
    format!(
        "the follower is of the replica with the number {ours:016x}, and {there}. Follow another URL; or {MOVE_AWAY}, and \
         open the follower again, which restores what the replica has now"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portions_have_all_files_in_order() {
        let file = |txid, size| FileInfo {
            level: 0,
            txids: Txids::one(txid),
            size,
            modified: SystemTime::UNIX_EPOCH,
        };
        assert_eq!(portions(Vec::new()), [Vec::new()]);
        let half = PORTION / 2;
        let files = [half, half, 1, 3 * PORTION, 1, half].map(|size| file(size, size));
        let divided = portions(files.to_vec());
        let lengths: Vec<_> = divided.iter().map(Vec::len).collect();
        assert_eq!(lengths, [2, 1, 1, 2]);
        assert_eq!(divided.concat(), files);
    }
}
