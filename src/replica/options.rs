//! [`ReplicaOptions`]: where a store is replicated to, and how.

use std::fmt;
use std::time::Duration;

use super::levels::LevelTimes;
use super::storage::Storage;
use crate::error::{Error, Result};

const MIB: u64 = 1024 * 1024;

/// A replica: its place, and how a store is copied to it. It is given to
/// [`Options::replicate_to`](crate::Options::replicate_to), which also takes a URL as it is.
///
/// ```
/// # let folder = tempfile::tempdir().unwrap();
/// # let (path, backups) = (folder.path().join("app.db"), folder.path().join("replica"));
/// use std::time::Duration;
/// use larder::{Options, ReplicaOptions};
///
/// let replica = ReplicaOptions::to(backups.to_str().unwrap()).interval(Duration::from_secs(5));
/// let store = Options::new().replicate_to(replica).open(&path)?;
/// # store.close()?;
/// # Ok::<_, larder::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct ReplicaOptions {
    pub(super) url: String,
    pub(super) interval: Duration,
    pub(super) replicate_timeout: Duration,
    pub(super) spool_limit: u64,
    pub(super) when_full: WhenSpoolFull,
    pub(super) restore_if_missing: bool,
    pub(super) take_over: bool,
    pub(super) on_divergence: OnDivergence,
    pub(super) unconditional: bool,
    pub(super) verify_every: Option<Duration>,
    pub(super) times: LevelTimes,
    /// Whether `times` may be out of their ranges.
    any_times: bool,
}

/// What happens when the spool is full. See [`ReplicaOptions::when_full`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenSpoolFull {
    /// What waits is dropped, and the whole database is uploaded once the storage is back. Writes go on. What was
    /// committed in between cannot be restored by itself then.
    #[default]
    Rebase,
    /// Writes are refused with [`Error::SpoolFull`] before they start, until uploads have made room. Reads go on, and so
    /// do writes that have begun. Nothing is dropped, on a full disk either, so each point in time can be restored. What
    /// other processes write cannot be refused, and is kept beyond the limit.
    RefuseWrites,
}

/// What opening does if the database file does not go on from where the replica ends.
///
/// If the file was replicated to another replica before, the URL is that of another database, or of a branch, and opening
/// fails with [`Error::Diverged`] whatever is set: neither of the two takes the other's place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnDivergence {
    /// Nothing: opening fails with [`Error::Diverged`], which describes both.
    #[default]
    Refuse,
    /// The replica goes on with the file: its next transaction has every page of it. What the replica had before can
    /// still be restored. That is also the way to go on after the replica was emptied. A replica that another program wrote
    /// last, such as the daemon of Litestream, takes [`ReplicaOptions::take_over`] as well, unless this store wrote to it
    /// before.
    Rebase,
    /// The database goes on with the replica: its file is set aside, and the replica is restored in its place. So is a
    /// file that does not exist, as with [`ReplicaOptions::restore_if_missing`].
    ///
    /// What was committed to the file alone is then in the file that was set aside: `app.db.diverged-20260401T120000Z`,
    /// with what SQLite keeps beside it, and the folder `-replica`. It is never deleted. An event names it, and
    /// [`ReplicaStats::set_aside`](crate::ReplicaStats::set_aside) does.
    Restore,
}

impl ReplicaOptions {
    /// The replica at a URL: the path of a folder, or `file:///folder`. It is created by the first store.
    pub fn to(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            interval: Duration::from_secs(1),
            replicate_timeout: Duration::from_secs(30),
            spool_limit: 1024 * MIB,
            when_full: WhenSpoolFull::default(),
            restore_if_missing: false,
            take_over: false,
            on_divergence: OnDivergence::default(),
            unconditional: false,
            verify_every: None,
            times: LevelTimes::default(),
            any_times: false,
        }
    }

    /// How long a commit may wait until its upload begins. The default is 1 s: what the loss of the machine costs is
    /// this and one upload. From 0 to 1 h; with 0, an upload begins as soon as the one before it has ended.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// How long a write with [`Durability::Replicated`](crate::Durability::Replicated) waits for the replica after its
    /// commit. The default is 30 s. From 1 ms to 1 h. After that it is
    /// [`Error::NotReplicated`](crate::Error::NotReplicated): it is committed here, and goes up later.
    pub fn replicate_timeout(mut self, timeout: Duration) -> Self {
        self.replicate_timeout = timeout;
        self
    }

    /// The most bytes that wait beside the database while the storage is away, in the folder `app.db-replica`. The
    /// default is 1 GiB. The file that is being uploaded does not count. [`when_full`](Self::when_full) says what happens
    /// beyond it. At least 1 MiB. Up to 64 MiB of uploads stay there as well, until they are merged.
    pub fn spool_limit(mut self, bytes: u64) -> Self {
        self.spool_limit = bytes;
        self
    }

    /// What happens when the spool is full: [`spool_limit`](Self::spool_limit) is reached, or the disk is full. The
    /// default is [`WhenSpoolFull::Rebase`]: the service goes on.
    pub fn when_full(mut self, then: WhenSpoolFull) -> Self {
        self.when_full = then;
        self
    }

    /// Restores the database from the replica if its file does not exist, so that a service starts on a new machine with
    /// the same options. The default is `false`: then a missing file beside a replica that has data is an error, since
    /// an empty volume that was mounted by mistake would look the same.
    ///
    /// A replica whose owner has not closed it may still be written by that owner: see
    /// [`take_over`](Self::take_over). So may one that larder has never written, or not last, by the daemon of Litestream,
    /// which leaves no word as it ends.
    pub fn restore_if_missing(mut self, restore: bool) -> Self {
        self.restore_if_missing = restore;
        self
    }

    /// Takes the replica over from an owner that has not closed it, and will never write to it again: what it commits
    /// from now on is not replicated, and its writes fail once it notices. The default is `false`. Not for every start:
    /// two supervisors that both take over would fence each other in turn.
    pub fn take_over(mut self, take: bool) -> Self {
        self.take_over = take;
        self
    }

    /// What opening does if the file does not go on from where the replica ends. The default is
    /// [`OnDivergence::Refuse`].
    pub fn on_divergence(mut self, then: OnDivergence) -> Self {
        self.on_divergence = then;
        self
    }

    /// Replicates to a storage without conditional writes. The default is `false`. Such a storage cannot tell two
    /// primaries apart: use it only where one process ever replicates to the place.
    pub fn unconditional(mut self, allow: bool) -> Self {
        self.unconditional = allow;
        self
    }

    /// How far back any time can be restored. The default is 7 days. At least 1 h.
    ///
    /// What is older than the newest snapshot of that age is deleted from the replica.
    pub fn retention(mut self, retention: Duration) -> Self {
        self.times.retention = retention;
        self
    }

    /// Time between two snapshots: files that have the whole database, with which a restore begins. The default is 24 h.
    /// At least 1 min. A shorter time makes restores faster, and takes more room.
    pub fn snapshot_every(mut self, every: Duration) -> Self {
        self.times.snapshot_every = every;
        self
    }

    /// How long each upload is kept by itself. The default is 1 h. At least 1 min. Before that time the past can be
    /// restored to the periods of [`levels`](Self::levels).
    pub fn l0_retention(mut self, retention: Duration) -> Self {
        self.times.l0_retention = retention;
        self
    }

    /// The periods whose uploads are merged into one file, and these into one again. The default is 30 s, 5 min and
    /// 1 h: a restore reads fewer files, and any 30 s of [`retention`](Self::retention) can be restored. Each is a
    /// multiple of the one before it, the first at least 1 s.
    pub fn levels(mut self, levels: [Duration; 3]) -> Self {
        self.times.levels = levels;
        self
    }

    /// Verifies the replica in the background at this interval, as `verify().restore(true)` of [`StoreReplica`] does. The
    /// default is never, because of what it costs. At least 1 s; a day or a week is usual.
    ///
    /// Each verification reads every file of the replica, restores the newest state into the folder for temporary files
    /// (`TMPDIR`), and compares all rows with those of the store. So it downloads the replica once and the newest state
    /// once more, takes the room of the database, and reads the database from a snapshot, behind which the log is kept.
    /// The result is in [`ReplicaStats::last_verify`](crate::ReplicaStats::last_verify); a problem raises the alert
    /// [`AlertKind::VerifyFailed`](crate::AlertKind::VerifyFailed). The time of the last one is kept beside the database,
    /// so a service that restarts often does not verify more often. Closing the store stops it.
    ///
    /// [`StoreReplica`]: crate::StoreReplica
    pub fn verify_every(mut self, every: Duration) -> Self {
        self.verify_every = Some(every);
        self
    }

    /// All times of compaction and retention, also shorter ones than users may have: for the fault harness.
    #[doc(hidden)]
    pub fn level_times(mut self, times: LevelTimes) -> Self {
        (self.times, self.any_times) = (times, true);
        self
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let wrong = |option, problem: String| Err(Error::Options { option, problem });
        if self.interval > Duration::from_secs(3600) {
            return wrong(
                "replicate_to",
                format!("an interval of {:?} is longer than 1 h", self.interval),
            );
        }
        if !(Duration::from_millis(1)..=Duration::from_secs(3600)).contains(&self.replicate_timeout) {
            let timeout = self.replicate_timeout;
            let problem = format!("a replicate_timeout of {timeout:?} is out of range: from 1 ms to 1 h");
            return wrong("replicate_to", problem);
        }
        if self.spool_limit < MIB {
            return wrong(
                "replicate_to",
                format!("a spool_limit of {} bytes is below 1 MiB", self.spool_limit),
            );
        }
        if let Some(every) = self.verify_every.filter(|every| *every < Duration::from_secs(1)) {
            return wrong("replicate_to", format!("a verify_every of {every:?} is below 1 s"));
        }
        if self.any_times {
            return Ok(());
        }
        self.times.check().or_else(|problem| wrong("replicate_to", problem))
    }
}

impl From<&str> for ReplicaOptions {
    fn from(url: &str) -> Self {
        Self::to(url)
    }
}

impl From<String> for ReplicaOptions {
    fn from(url: String) -> Self {
        Self::to(url)
    }
}

/// Without the query of the URL.
impl fmt::Debug for ReplicaOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicaOptions")
            .field("url", &Storage::shown(&self.url))
            .field("interval", &self.interval)
            .field("replicate_timeout", &self.replicate_timeout)
            .field("spool_limit", &self.spool_limit)
            .field("when_full", &self.when_full)
            .field("restore_if_missing", &self.restore_if_missing)
            .field("take_over", &self.take_over)
            .field("on_divergence", &self.on_divergence)
            .field("unconditional", &self.unconditional)
            .field("verify_every", &self.verify_every)
            .field("times", &self.times)
            .finish()
    }
}
