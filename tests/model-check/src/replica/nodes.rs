//! Nodes that share one replica: they open, restore, take over when told to, write, upload, close, are killed, and go on
//! from copies of one another's volumes.
//!
//! # What holds in each schedule
//!
//! - One history: no transaction is ever two files, each goes on from the one before, and snapshots have what level 0 had.
//! - What was acknowledged is in it; and at the end the replica restores to all of it.
//! - A store that has learned that it is fenced begins no write any more, of whichever level.
//! - A store that was not told to takes over from no other store that has not closed.
//!
//! # Weakened variants
//!
//! [`WEAKENED`] lists what the proof in `fence.rs` rests on. Without any one of them the model must find a schedule in
//! which something of that does not hold: otherwise it would prove nothing.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize};
use std::sync::{Mutex as Plain, OnceLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use shuttle::future::{JoinHandle, block_on, spawn, yield_now};

use super::fence::{Entry, Fence, Seen};
use super::options::{OnDivergence, ReplicaOptions};
use super::replication::{Clock, Ownership, Progress, Replication, Resumed};
use super::spool::{Spool, Transaction};
use super::storage::{Bucket, Process, Result as StorageResult, SNAPSHOTS, Storage, Txids, all_files, newest};
use crate::runtime::random;
use crate::sync::{Arc, Instant, Mutex, Notify, thread};
use crate::time::{self, below, one_in, timeout};

/// How long a write waits for the replica, and a store for its last upload.
const PATIENCE: Duration = Duration::from_secs(40);

/// What is left out or done in the wrong order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Weakness {
    None,
    /// A Create overwrites.
    Overwrites,
    /// The owner is written over whichever version is there.
    OwnerOverwrites,
    /// A further try sends other bytes.
    ChangedBytes,
    /// Retention deletes claims.
    ForgetsClaims,
    /// Retention reads the claims, and then lists: rare, some 60,000 schedules.
    ClaimsBeforeList,
    /// A snapshot of the local database is uploaded, by a fenced store, too.
    FencedSnapshot,
}

pub(crate) const WEAKENED: &[Weakness] = &[
    Weakness::Overwrites,
    Weakness::OwnerOverwrites,
    Weakness::ChangedBytes,
    Weakness::ForgetsClaims,
    Weakness::ClaimsBeforeList,
    Weakness::FencedSnapshot,
];

/// What some schedules have to come to.
#[derive(Clone, Copy, Debug)]
#[repr(usize)]
pub(crate) enum Reached {
    Acknowledged,
    TakenOver,
    Fenced,
    Deleted,
    Copied,
    OpenedLate,
}

static REACHED: [AtomicUsize; 6] = [const { AtomicUsize::new(0) }; 6];

impl Reached {
    const ALL: [Self; 6] = [
        Self::Acknowledged,
        Self::TakenOver,
        Self::Fenced,
        Self::Deleted,
        Self::Copied,
        Self::OpenedLate,
    ];

    pub(super) fn once_more(self) {
        REACHED[self as usize].fetch_add(1, SeqCst);
    }

    /// How often each was reached. `Err` if one never was.
    pub(crate) fn all() -> Result<String, String> {
        let number = |reached: Self| REACHED[reached as usize].load(SeqCst);
        let told: Vec<_> = Self::ALL
            .iter()
            .map(|reached| format!("{reached:?} {}", number(*reached)))
            .collect();
        match Self::ALL.iter().all(|reached| number(*reached) > 0) {
            true => Ok(told.join(", ")),
            false => Err(told.join(", ")),
        }
    }
}

static GIVEN: AtomicU8 = AtomicU8::new(Weakness::None as u8);

impl Weakness {
    pub(crate) fn give(self) {
        GIVEN.store(self as u8, SeqCst);
    }

    pub(super) fn is_given(self) -> bool {
        GIVEN.load(SeqCst) == self as u8
    }
}

/// Between two steps that are in the wrong order, until others have come between them.
pub(super) async fn linger(bucket: &Bucket) {
    let until = bucket.changes() + below(12) as u64;
    for _ in 0..1000 {
        if bucket.changes() >= until {
            break;
        }
        yield_now().await;
    }
}

/// A volume, while no store has it open.
#[derive(Clone)]
struct Volume {
    node: u64,
    lineage: u64,
    chain: Vec<Bytes>,
    spool: Spool,
}

impl Volume {
    fn new() -> Self {
        Self {
            node: random::number(),
            lineage: 0,
            chain: vec![],
            spool: Spool::default(),
        }
    }

    /// The volume of a store, at any moment.
    fn copy(store: &Replication) -> Self {
        let chain = store.chain.lock().unwrap();
        Self {
            node: store.fence.node(),
            lineage: store.lineage(),
            chain: chain.clone(),
            spool: Spool::clone(&store.spool),
        }
    }
}

/// Why a store does not open.
enum Refused {
    /// Another one has the replica, the storage is away, or the owner has changed.
    ForNow,
    Diverged,
}

#[derive(Default)]
struct World {
    bucket: Arc<Bucket>,
    /// All stores that were ever opened.
    stores: Plain<Vec<Arc<Replication>>>,
}

/// An open store, and its two tasks.
struct Open {
    store: Arc<Replication>,
    tasks: [JoinHandle<()>; 2],
}

/// What the storage says.
struct There {
    seen: Option<Seen>,
    tip: u64,
}

async fn ask(storage: &Storage, fence: &Fence, known: u64) -> StorageResult<There> {
    storage.probe().await?;
    let seen = fence.owner().await?;
    let files = all_files(storage).await?;
    let tip = newest(storage, &files, known).await?;
    Ok(There { seen, tip })
}

/// The newest state: a snapshot, and the files after it.
async fn restore(storage: &Storage) -> StorageResult<Vec<Bytes>> {
    loop {
        let snapshots = storage.list(SNAPSHOTS).await?;
        let snapshot = match snapshots.last() {
            Some(newest) => storage.get(SNAPSHOTS, newest.txids).await,
            None => Ok(Bytes::new()),
        };
        let Ok(snapshot) = snapshot else { continue };
        let mut chain = Transaction::split(&snapshot);
        let files = all_files(storage).await?;
        let tip = newest(storage, &files, 0).await?;
        while (chain.len() as u64) < tip {
            match storage.get(0, Txids::one(chain.len() as u64 + 1)).await {
                Ok(file) => chain.push(file),
                Err(_) => break,
            }
        }
        // What was deleted meanwhile is in a newer snapshot.
        if chain.len() as u64 >= tip {
            return Ok(chain);
        }
    }
}

/// As larder's `open.rs` goes on with a replica.
async fn open(world: &World, mut volume: Volume, take_over: bool) -> Result<Open, Refused> {
    let process = Arc::new(Process {
        opening: AtomicU64::new(0),
        may_take_over: take_over,
        is_dead: AtomicBool::new(false),
        has_stopped: AtomicBool::new(false),
    });
    let storage = Storage {
        bucket: Arc::clone(&world.bucket),
        process,
    };
    let fence = Fence::new(storage.clone(), volume.node);
    storage.process.opening.store(fence.opening(), SeqCst);
    let known = volume.spool.first_from(1).map_or(0, |oldest| oldest.txid);
    let mut ownership = Ownership::ToEnter;
    let there = match ask(&storage, &fence, known).await {
        Ok(there) => Some(there),
        Err(_) if !volume.chain.is_empty() => {
            Reached::OpenedLate.once_more();
            None
        }
        Err(_) => return Err(Refused::ForNow),
    };
    let mut uploaded = match &there {
        Some(there) => there.tip,
        None => match volume.spool.first_from(1) {
            Some(oldest) => oldest.txid - 1,
            None => volume.chain.len() as u64,
        },
    };
    if let Some(there) = there {
        (ownership, uploaded) = go_on(&storage, &fence, there, &mut volume, take_over).await?;
    }
    let position = volume.chain.len() as u64;
    let sealed = position;
    let next = volume.spool.first_from(uploaded + 1);
    assert!(
        next.map_or(uploaded == sealed, |next| next.txid == uploaded + 1),
        "STUCK: transaction {} is to be uploaded next, and the spool begins with {next:?}",
        uploaded + 1
    );
    let timestamp = volume.chain.last().map(|file| Transaction::parse(file).timestamp);
    let store = Arc::new(Replication {
        path: "app.db".into(),
        options: ReplicaOptions {
            take_over,
            unconditional: false,
            on_divergence: OnDivergence::Refuse,
        },
        storage,
        fence,
        clock: Clock,
        resumed: Resumed(sealed, timestamp.unwrap_or(0)),
        spool: Arc::new(volume.spool),
        chain: Plain::new(volume.chain),
        inherited: position,
        announced: AtomicU64::new(0),
        ownership: Plain::new(ownership),
        lineage: AtomicU64::new(volume.lineage),
        sealed: Notify::default(),
        uploads: Plain::default(),
        compact: Notify::default(),
        closing: OnceLock::new(),
        progress: Mutex::new(Progress {
            sealed,
            uploaded,
            ..Progress::default()
        }),
        changed: Notify::default(),
        ended: AtomicBool::new(false),
    });
    world.stores.lock().unwrap().push(Arc::clone(&store));
    if matches!(ownership, Ownership::ToClaim | Ownership::ToClaimOwn) {
        // Page 1 once more.
        let _ = store.write();
    }
    thread::count();
    thread::count();
    let tasks = [
        spawn(Arc::clone(&store).upload_until_closed()),
        spawn(Arc::clone(&store).compact_until_closed()),
    ];
    Ok(Open { store, tasks })
}

/// Where the storage answers. Returns what was uploaded.
async fn go_on(
    storage: &Storage,
    fence: &Fence,
    There { seen, tip }: There,
    volume: &mut Volume,
    take_over: bool,
) -> Result<(Ownership, u64), Refused> {
    let away = |_| Refused::ForNow;
    let is_rival = seen.as_ref().is_some_and(|seen| fence.is_rival(&seen.owner));
    if is_rival && !take_over {
        return Err(Refused::ForNow);
    }
    let position = volume.chain.len() as u64;
    let mut uploaded = tip;
    let lineage = seen.as_ref().map_or(0, |seen| seen.owner.lineage);
    if tip > 0 && volume.chain.is_empty() {
        volume.chain = restore(storage).await.map_err(away)?;
        uploaded = volume.chain.len() as u64;
    } else {
        let last = volume.chain.last().filter(|_| tip == position);
        let timestamp = last.map(|file| Transaction::parse(file).timestamp);
        let is_other = tip > position
            || tip == 0 && position > 0 && volume.spool.first_from(1).is_none_or(|first| first.txid > 1)
            || ![0, lineage].contains(&volume.lineage) && lineage != 0
            || tip > 0
                && !fence
                    .is_at(tip, volume.spool.body(tip), timestamp)
                    .await
                    .map_err(away)?;
        if is_other {
            return Err(Refused::Diverged);
        }
    }
    if is_rival {
        volume.lineage = lineage;
        return Ok((Ownership::ToClaim, uploaded));
    }
    let own = match volume.lineage {
        0 => random::number(),
        own => own,
    };
    let entry = fence.enter(seen.as_ref(), own, SystemTime::now()).await.map_err(away)?;
    volume.lineage = seen.map_or(own, |seen| seen.owner.lineage);
    match entry {
        Entry::Entered if volume.spool.first_from(tip + 1).is_some() => Ok((Ownership::ToClaimOwn, uploaded)),
        Entry::Entered => Ok((Ownership::Owner, uploaded)),
        Entry::NotClosed => Ok((Ownership::ToClaim, uploaded)),
        Entry::Changed => Err(Refused::ForNow),
    }
}

impl Open {
    async fn work(&self) {
        for _ in 0..below(5) {
            match below(4) {
                0 => drop(timeout(PATIENCE / 40, std::future::pending::<()>()).await),
                how => {
                    let Some((txid, file)) = self.store.write() else { return };
                    if how == 1 {
                        self.replicated(txid, &file).await;
                    }
                }
            }
            yield_now().await;
        }
    }

    /// Waits as a write with `Durability::Replicated` does.
    async fn replicated(&self, txid: u64, file: &Bytes) {
        loop {
            if self.store.progress().uploaded >= txid {
                return self.store.storage.bucket.acknowledges(txid, file);
            }
            if self.store.has_ended() || timeout(PATIENCE, self.store.changed.notified()).await.is_err() {
                return;
            }
        }
    }

    async fn close(self) {
        let _ = self.store.closing.set(Instant::now() + PATIENCE);
        self.store.sealed.notify_one();
        self.store.compact.notify_one();
        for task in self.tasks {
            task.await.expect("it is not given up");
        }
    }

    fn kill(self) {
        self.store.storage.process.is_dead.store(true, SeqCst);
        for task in self.tasks {
            task.abort();
        }
    }
}

async fn node(world: Arc<World>) {
    let mut volume = Volume::new();
    // Stores that nobody has closed: processes that were paused, or forgotten.
    let mut forgotten = Vec::new();
    for _ in 0..1 + below(3) {
        if one_in(6)
            && let Some(store) = any(&world)
        {
            Reached::Copied.once_more();
            volume = Volume::copy(&store);
        }
        let opened = match open(&world, volume.clone(), one_in(3)).await {
            Ok(opened) => opened,
            Err(Refused::ForNow) => continue,
            Err(Refused::Diverged) => {
                volume = Volume::new();
                continue;
            }
        };
        opened.work().await;
        let store = Arc::clone(&opened.store);
        match below(4) {
            0 => opened.kill(),
            1 => {
                forgotten.push(opened);
                volume = Volume::new();
                continue;
            }
            _ => opened.close().await,
        }
        volume = Volume::copy(&store);
    }
    for opened in forgotten {
        let _ = opened.store.write();
        opened.close().await;
    }
}

fn any(world: &World) -> Option<Arc<Replication>> {
    let stores = world.stores.lock().unwrap();
    (!stores.is_empty()).then(|| Arc::clone(&stores[below(stores.len())]))
}

/// Two or three nodes, and one history. Returns the number of tasks.
pub(crate) fn one_history() -> usize {
    time::begin();
    let world = Arc::new(World::default());
    let nodes: Vec<_> = (0..2 + below(2))
        .map(|_| {
            thread::count();
            spawn(node(Arc::clone(&world)))
        })
        .collect();
    block_on(async {
        for node in nodes {
            node.await.expect("a node is not given up");
        }
    });
    world.bucket.judge();
    thread::join_all()
}
