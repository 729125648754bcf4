//! In place of larder's storage: objects in memory, behind a network that loses requests and answers, delays and repeats
//! writes, and shows lists that are a few changes old. After a number of requests it does so no more, so that each
//! schedule ends.
//!
//! The bucket sees the writes of all nodes in their order, and so it judges them: `History` says what must hold.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::fs::File;
use std::future::pending;
use std::io::{self, Cursor};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex as Plain, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use shuttle::future::yield_now;

use super::fence::Owner;
use super::nodes::{Reached, Weakness};
use super::spool::{Transaction, hash};
use crate::sync::Arc;
use crate::time::{below, one_in};

#[path = "../../../../src/replica/storage/listing.rs"]
mod listing;

pub(super) use self::listing::{all_files, newest};

pub(super) type Result<T, E = StorageError> = std::result::Result<T, E>;

/// The requests of a schedule to which something happens.
const STORMY: usize = 60;

/// How many changes a list may lack.
const STALE: usize = 3;

pub(super) const SNAPSHOTS: u8 = 9;

#[derive(Debug)]
pub(super) struct StorageError {
    kind: FailureKind,
    problem: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailureKind {
    NotFound,
    Transient,
    Permanent,
}

impl StorageError {
    fn new(kind: FailureKind, problem: impl Into<String>) -> Self {
        let problem = problem.into();
        Self { kind, problem }
    }

    pub(super) fn is_not_found(&self) -> bool {
        self.kind == FailureKind::NotFound
    }
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)
    }
}

#[derive(Clone, Debug)]
pub(super) enum Body {
    Memory(Bytes),
    #[expect(dead_code, reason = "no file of the model is large")]
    File(Arc<File>),
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Memory(bytes)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Txids {
    pub(super) min: u64,
    pub(super) max: u64,
}

impl Txids {
    pub(super) fn one(txid: u64) -> Self {
        Self { min: txid, max: txid }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileInfo {
    pub(super) level: u8,
    pub(super) txids: Txids,
    pub(super) modified: SystemTime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Created {
    New,
    Exists,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version(u64);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Written {
    Done(Version),
    Changed,
}

/// Whether the writes of a schedule are shown, which is replayed.
pub(crate) static IS_SHOWN: AtomicBool = AtomicBool::new(false);

/// A process that makes requests.
pub(super) struct Process {
    pub(super) opening: AtomicU64,
    pub(super) may_take_over: bool,
    /// It was killed: nothing is answered any more.
    pub(super) is_dead: AtomicBool,
    /// Its store has learned that it may not go on.
    pub(super) has_stopped: AtomicBool,
}

#[derive(Clone)]
enum Write {
    Create(Key, Bytes),
    Put(Key, Bytes),
    Delete(Key),
    Owner(Bytes, Option<u64>),
}

#[derive(Debug)]
enum Answer {
    Done,
    Refused,
    Version(u64),
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(key, file) => write!(f, "create {key:?} {:?}", Transaction::parse(file)),
            Self::Put(key, _) => write!(f, "put {key:?}"),
            Self::Delete(key) => write!(f, "delete {key:?}"),
            Self::Owner(bytes, expected) => write!(f, "owner {expected:?} {}", String::from_utf8_lossy(bytes)),
        }
    }
}

type Key = (u8, Txids);

#[derive(Default)]
pub(super) struct Bucket {
    state: Plain<State>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<Key, (Bytes, SystemTime)>,
    owner: Option<(Bytes, u64)>,
    changes: u64,
    /// The lists before the last changes.
    past: VecDeque<Vec<FileInfo>>,
    /// Writes that arrive later, though their processes were answered or are gone.
    late: Vec<(Write, Arc<Process>)>,
    requests: usize,
    history: History,
}

/// What the bucket has taken, and may not take back.
#[derive(Default)]
pub(super) struct History {
    /// The file of each transaction.
    files: Vec<Bytes>,
}

impl History {
    /// One file for each transaction, which goes on from the one before.
    fn accept(&mut self, txid: u64, file: &Bytes) {
        let at = usize::try_from(txid - 1).expect("few transactions");
        if let Some(there) = self.files.get(at) {
            assert_eq!(there, file, "FORK: transaction {txid} was another file before");
            return;
        }
        assert_eq!(at, self.files.len(), "GAP: transaction {txid} has none before it");
        let parent = Transaction::parse(file).parent;
        assert_eq!(
            parent,
            hash(&self.files),
            "FORK: transaction {txid} goes on from another history"
        );
        self.files.push(file.clone());
    }

    fn accept_snapshot(&self, txids: Txids, snapshot: &Bytes) {
        let files = Transaction::split(snapshot);
        let is_ours = txids.max as usize == files.len() && self.files.starts_with(&files);
        assert!(is_ours, "FORK: the snapshot {txids:?} is of another history");
    }
}

impl State {
    fn list(&self) -> Vec<FileInfo> {
        let file = |(key, (_, modified)): (&Key, &(Bytes, SystemTime))| FileInfo {
            level: key.0,
            txids: key.1,
            modified: *modified,
        };
        self.objects.iter().map(file).collect()
    }

    fn changes(&mut self) -> SystemTime {
        let list = self.list();
        self.past.push_back(list);
        if self.past.len() > STALE {
            self.past.pop_front();
        }
        self.changes += 1;
        UNIX_EPOCH + Duration::from_secs(self.changes)
    }

    /// A write takes effect.
    fn apply(&mut self, write: &Write, by: &Process) -> Answer {
        if IS_SHOWN.load(SeqCst) {
            eprint!("{:016x}: {write} ", by.opening.load(SeqCst));
        }
        let answer = self.try_apply(write, by);
        if IS_SHOWN.load(SeqCst) {
            eprintln!("{answer:?}");
        }
        answer
    }

    fn try_apply(&mut self, write: &Write, by: &Process) -> Answer {
        match write {
            Write::Create(key, _) if self.objects.contains_key(key) && !Weakness::Overwrites.is_given() => {
                Answer::Refused
            }
            Write::Create(key, file) => {
                self.history.accept(key.1.max, file);
                let modified = self.changes();
                self.objects.insert(*key, (file.clone(), modified));
                Answer::Done
            }
            Write::Put(key, snapshot) => {
                self.history.accept_snapshot(key.1, snapshot);
                let modified = self.changes();
                self.objects.insert(*key, (snapshot.clone(), modified));
                Answer::Done
            }
            Write::Delete(key) => {
                if self.objects.contains_key(key) {
                    Reached::Deleted.once_more();
                    self.changes();
                    self.objects.remove(key);
                }
                Answer::Done
            }
            Write::Owner(bytes, expected) => {
                let there = self.owner.as_ref().map(|(_, version)| *version);
                if there != *expected && !Weakness::OwnerOverwrites.is_given() {
                    return Answer::Refused;
                }
                self.judge_owner(bytes, by);
                self.changes += 1;
                self.owner = Some((bytes.clone(), self.changes));
                Answer::Version(self.changes)
            }
        }
    }

    /// Nobody takes over without being told. As long as a claim is not made, the owner is the one before it.
    fn judge_owner(&self, next: &Bytes, by: &Process) {
        let parse = |bytes: &Bytes| {
            let owner = serde_json::from_slice::<Owner>(bytes).expect("an owner");
            owner.made().clone()
        };
        let Some(before) = self.owner.as_ref().map(|(bytes, _)| parse(bytes)) else {
            return;
        };
        let next = parse(next);
        let takes_over = !before.closed && before.node != next.node;
        if takes_over {
            Reached::TakenOver.once_more();
        }
        assert!(
            !takes_over || by.may_take_over,
            "TAKEN OVER: a store that was not told to has taken over"
        );
    }

    fn deliver_late(&mut self) {
        if !self.late.is_empty() {
            let any = below(self.late.len());
            let (write, by) = self.late.swap_remove(any);
            self.apply(&write, &by);
        }
    }
}

impl Bucket {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of changes so far.
    pub(super) fn changes(&self) -> u64 {
        self.state().changes
    }

    /// A write of that file was acknowledged.
    pub(super) fn acknowledges(&self, txid: u64, file: &Bytes) {
        let state = self.state();
        let at = txid as usize;
        assert_eq!(
            state.history.files.get(at - 1),
            Some(file),
            "LOST: transaction {txid} was acknowledged, and is not in the replica"
        );
        Reached::Acknowledged.once_more();
    }

    /// The end: what is late arrives, and the replica is restored.
    pub(super) fn judge(&self) {
        let mut state = self.state();
        while !state.late.is_empty() {
            state.deliver_late();
        }
        let of_level = |level: u8| state.objects.range((level, Txids::one(0))..(level + 1, Txids::one(0)));
        let newest = of_level(SNAPSHOTS).next_back();
        let mut restored = newest.map_or(vec![], |(_, (snapshot, _))| Transaction::split(snapshot));
        while let Some((file, _)) = state.objects.get(&(0, Txids::one(restored.len() as u64 + 1))) {
            restored.push(file.clone());
        }
        assert_eq!(
            restored, state.history.files,
            "LOST: the replica does not restore to its history"
        );
    }
}

/// The bucket, as a process reaches it.
#[derive(Clone)]
pub(super) struct Storage {
    pub(super) bucket: Arc<Bucket>,
    pub(super) process: Arc<Process>,
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory:")
    }
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Storage {
    /// On the way there, or back. Meanwhile something late may arrive, and the process may be killed.
    async fn travel(&self) {
        yield_now().await;
        if self.process.is_dead.load(SeqCst) {
            pending::<()>().await;
        }
        if one_in(4) {
            self.bucket.state().deliver_late();
        }
    }

    /// One of so many fates, 0 once the network is calm.
    fn fate(&self) -> usize {
        let mut state = self.bucket.state();
        state.requests += 1;
        if state.requests > STORMY { 0 } else { below(16) }
    }

    async fn write(&self, write: Write) -> Result<Answer> {
        assert!(
            !self.process.has_stopped.load(SeqCst),
            "WRITES: a store that has learned that it is fenced begins another write"
        );
        let lost = || Err(StorageError::new(FailureKind::Transient, "the answer was lost"));
        let fate = self.fate();
        let put_off = |write: &Write| {
            let late = (write.clone(), Arc::clone(&self.process));
            self.bucket.state().late.push(late);
        };
        match fate {
            // It arrives whatever becomes of the process.
            15 => put_off(&write),
            14 => {}
            _ => {
                self.travel().await;
                let answer = self.bucket.state().apply(&write, &self.process);
                if fate == 13 {
                    put_off(&write);
                }
                self.travel().await;
                return if matches!(fate, 10..13) { lost() } else { Ok(answer) };
            }
        }
        self.travel().await;
        lost()
    }

    async fn read<T>(&self, read: impl FnOnce(&State) -> T) -> Result<T> {
        self.travel().await;
        if self.fate() == 15 {
            return Err(StorageError::new(FailureKind::Transient, "the request was lost"));
        }
        let found = read(&self.bucket.state());
        self.travel().await;
        Ok(found)
    }

    pub(super) async fn list(&self, level: u8) -> Result<Vec<FileInfo>> {
        if ![0, SNAPSHOTS].contains(&level) {
            return Ok(vec![]);
        }
        let age = if self.fate() < 12 { 0 } else { below(STALE + 1) };
        let mut files = self
            .read(|state| match state.past.len().checked_sub(age) {
                Some(at) if age > 0 => state.past[at].clone(),
                _ => state.list(),
            })
            .await?;
        files.retain(|file| file.level == level);
        Ok(files)
    }

    pub(super) async fn find(&self, level: u8, txids: Txids) -> Result<Option<FileInfo>> {
        let file = |(_, modified): &(Bytes, SystemTime)| FileInfo {
            level,
            txids,
            modified: *modified,
        };
        self.read(|state| state.objects.get(&(level, txids)).map(file)).await
    }

    pub(super) async fn get(&self, level: u8, txids: Txids) -> Result<Bytes> {
        let found = self
            .read(|state| state.objects.get(&(level, txids)).map(|(bytes, _)| bytes.clone()))
            .await?;
        found.ok_or_else(|| StorageError::new(FailureKind::NotFound, "there is no such object"))
    }

    pub(super) async fn reader(&self, level: u8, txids: Txids) -> Result<Cursor<Bytes>> {
        self.get(level, txids).await.map(Cursor::new)
    }

    pub(super) async fn create(&self, level: u8, txids: Txids, _: i64, body: impl Into<Body>) -> Result<Created> {
        let Body::Memory(file) = body.into() else {
            unreachable!("no file of the model is large")
        };
        match self.write(Write::Create((level, txids), file)).await? {
            Answer::Refused => Ok(Created::Exists),
            _ => Ok(Created::New),
        }
    }

    pub(super) async fn put(&self, level: u8, txids: Txids, snapshot: Bytes) -> Result<()> {
        self.write(Write::Put((level, txids), snapshot)).await.map(drop)
    }

    pub(super) async fn delete(&self, level: u8, txids: Txids) -> Result<()> {
        self.write(Write::Delete((level, txids))).await.map(drop)
    }

    pub(super) async fn read_owner(&self) -> Result<Option<(Bytes, Version)>> {
        let found = self.read(|state| state.owner.clone()).await?;
        Ok(found.map(|(bytes, version)| (bytes, Version(version))))
    }

    pub(super) async fn write_owner(&self, bytes: Bytes, expected: Option<Version>) -> Result<Written> {
        let expected = expected.map(|version| version.0);
        match self.write(Write::Owner(bytes, expected)).await? {
            Answer::Version(version) => Ok(Written::Done(Version(version))),
            _ => Ok(Written::Changed),
        }
    }

    pub(super) async fn probe(&self) -> Result<SystemTime> {
        self.time().await
    }

    pub(super) async fn time(&self) -> Result<SystemTime> {
        self.read(|_| UNIX_EPOCH).await
    }

    pub(super) fn foreign_owner(&self, error: &serde_json::Error) -> StorageError {
        unreachable!("every owner is larder's: {error}")
    }

    pub(super) fn not_owned(&self, owner: &str) -> StorageError {
        StorageError::new(FailureKind::Permanent, owner)
    }

    pub(super) fn unread_object(&self, _: Txids, error: &io::Error) -> StorageError {
        StorageError::new(FailureKind::Transient, error.to_string())
    }

    pub(super) fn contended(&self) -> StorageError {
        StorageError::new(FailureKind::Transient, "the owner changes all the time")
    }
}
