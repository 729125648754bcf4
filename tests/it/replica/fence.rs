//! One history: no two processes add to a replica side by side, whatever the network does to their requests.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::stream::TryStreamExt;
use larder::replica::fence::{ClaimResult, Entry, Fence, Holder, Upload};
use larder::replica::runtime;
use larder::replica::storage::{FailureKind, FileInfo, Layout, Storage, Txids, Written};
use larder::{Options, Store, WriteTx};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tempfile::tempdir;

use super::lying::{Lie, Lying};
use super::simulated::{Random, Simulated};
use crate::support::child::PATIENCE;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

macro_rules! ask {
    ($storage:expr, $method:ident($($argument:expr),*)) => {{
        let storage = $storage.clone();
        runtime::wait(async move { storage.$method($($argument),*).await }).unwrap()
    }};
}

fn now() -> SystemTime {
    SystemTime::now()
}

/// Becomes the owner of a replica that nobody owns.
fn enter(fence: &Fence) {
    let seen = ask!(fence, owner()).unwrap();
    let fence = fence.clone();
    let entry = runtime::wait(async move { fence.enter(seen.as_ref(), 7, now()).await }).unwrap();
    assert_eq!(entry.unwrap(), Entry::Entered);
}

fn create(fence: &Fence, txid: u64, contents: &str) -> Upload {
    let bytes = Bytes::from(contents.to_owned());
    ask!(fence, create(txid, 0, bytes)).unwrap()
}

fn claim(fence: &Fence, tip: u64, contents: &str) -> ClaimResult {
    let bytes = Bytes::from(contents.to_owned());
    ask!(fence, claim(tip, 0, bytes, now(), true)).unwrap()
}

fn folder() -> (tempfile::TempDir, Storage) {
    let folder = tempdir().unwrap();
    let storage = Storage::connect(folder.path().to_str().unwrap()).unwrap();
    (folder, storage)
}

#[test]
fn closed_replica_is_entered_without_claim() {
    let (folder, storage) = folder();
    let (first, second) = (Fence::new(storage.clone(), 1), Fence::new(storage.clone(), 2));
    assert_eq!(ask!(first, look()).unwrap(), Holder::Unknown);
    enter(&first);
    assert_eq!(ask!(first, look()).unwrap(), Holder::Us);
    assert_eq!(create(&first, 1, "one"), Upload::New);
    assert!(!ask!(second, close()).unwrap(), "it is not the owner");
    assert!(ask!(first, close()).unwrap());
    let owner = ask!(second, owner()).unwrap().unwrap().owner;
    assert!(owner.closed && owner.lineage == 7 && owner.epoch == 1 && owner.node == 1);

    enter(&second);
    assert_eq!(create(&second, 2, "two"), Upload::New);
    let owner = ask!(second, owner()).unwrap().unwrap().owner;
    assert!(!owner.closed && owner.lineage == 7 && owner.epoch == 2 && owner.claims.is_empty());
    let Holder::Other { host, since } = ask!(first, look()).unwrap() else {
        panic!("it is the second")
    };
    assert!(host.ends_with(&format!(", process {}", std::process::id())), "{host}");
    assert!(since <= now() && since > now() - Duration::from_secs(600));

    // The object can be read, and its numbers are exact.
    let json = std::fs::read_to_string(folder.path().join("larder/owner.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["node"], &json["epoch"]), (&"0000000000000002".into(), &2.into()));
}

#[test]
fn entry_over_a_changed_owner_fails() {
    let (_folder, storage) = folder();
    let fences: Vec<_> = (1..=2).map(|node| Fence::new(storage.clone(), node)).collect();
    let seen: Vec<_> = fences.iter().map(|fence| ask!(fence, owner()).unwrap()).collect();
    let entries: Vec<_> = fences
        .into_iter()
        .zip(seen)
        .map(|(fence, seen)| {
            runtime::wait(async move { fence.enter(seen.as_ref(), 7, now()).await })
                .unwrap()
                .unwrap()
        })
        .collect();
    assert_eq!(entries, [Entry::Entered, Entry::Changed]);
    // The owner has to close it first.
    let third = Fence::new(storage, 3);
    let seen = ask!(third, owner()).unwrap();
    let entry = runtime::wait(async move { third.enter(seen.as_ref(), 7, now()).await }).unwrap();
    assert_eq!(entry.unwrap(), Entry::NotClosed);
}

/// It was seen, and another process has claimed the replica since.
#[test]
fn own_entry_that_was_overtaken_is_none() {
    let (_folder, storage) = folder();
    let (old, new) = (Fence::new(storage.clone(), 1), Fence::new(storage, 2));
    enter(&old);
    let seen = ask!(old, owner()).unwrap();
    assert_eq!(claim(&new, 0, "new"), ClaimResult::Made);
    let overtaken = old.clone();
    let entry = runtime::wait(async move { overtaken.enter(seen.as_ref(), 7, now()).await }).unwrap();
    assert_eq!(entry.unwrap(), Entry::Changed);
    let again = ask!(old, owner()).unwrap();
    let entry = runtime::wait(async move { old.enter(again.as_ref(), 7, now()).await }).unwrap();
    assert_eq!(entry.unwrap(), Entry::NotClosed);
}

#[test]
fn claim_fences_the_owner_before() {
    let (_folder, storage) = folder();
    let (old, new) = (Fence::new(storage.clone(), 1), Fence::new(storage.clone(), 2));
    enter(&old);
    (1..=3).for_each(|txid| assert_eq!(create(&old, txid, &format!("old {txid}")), Upload::New));
    assert_eq!(claim(&new, 2, "new"), ClaimResult::Moved, "it has not applied 3");
    assert_eq!(claim(&new, 3, "new"), ClaimResult::Made);
    assert_eq!(claim(&new, 3, "new"), ClaimResult::Made, "its answer was lost");
    match create(&old, 4, "old 4") {
        Upload::Fenced(Holder::Other { host, .. }) => assert!(!host.is_empty()),
        other => panic!("{other:?}"),
    }
    assert_eq!(create(&new, 5, "new 5"), Upload::New);
    assert_eq!(create(&new, 5, "new 5"), Upload::Ours);
    let owner = ask!(new, owner()).unwrap().unwrap().owner;
    let claims: Vec<_> = owner.claims.iter().map(|claim| claim.txid).collect();
    assert_eq!((claims, owner.node, owner.lineage), (vec![4], 2, 7));
    assert!(!ask!(old, close()).unwrap());
    let error = ask!(old, claims(now())).unwrap_err();
    assert!(error.to_string().contains("so this process deletes nothing"), "{error}");
}

/// It was told to claim its own replica, as the store of a process that was killed; another store was told to take over
/// meanwhile.
#[test]
fn claim_over_another_store_has_to_be_told() {
    let (_folder, storage) = folder();
    let (old, again) = (Fence::new(storage.clone(), 1), Fence::new(storage.clone(), 1));
    enter(&old);
    assert_eq!(create(&old, 1, "old"), Upload::New);
    let own = |txid: u64| {
        let bytes = Bytes::from(format!("again {txid}"));
        ask!(again, claim(txid - 1, 0, bytes, now(), false)).unwrap()
    };
    assert_eq!(own(2), ClaimResult::Made);
    let new = Fence::new(storage.clone(), 2);
    assert_eq!(claim(&new, 2, "new"), ClaimResult::Made);
    assert_eq!(own(4), ClaimResult::Moved);
    assert_eq!(ask!(new, look()).unwrap(), Holder::Us);
    assert_eq!(ask!(storage, list(0)).unwrap().len(), 3);
}

/// Claims of a store over itself may be let go, when there are many. The one over an owner that had entered without a
/// claim is not among them, though the claim before it is by the same store.
#[test]
fn claim_over_an_owner_without_a_claim_is_no_repeated_one() {
    let (_folder, storage) = folder();
    let opening = |node: u64| Fence::new(storage.clone(), node);
    let (first, killed, closed, entered, back) = (opening(1), opening(1), opening(1), opening(2), opening(1));
    enter(&first);
    assert_eq!(claim(&killed, 0, "killed"), ClaimResult::Made);
    assert_eq!(claim(&closed, 1, "closed"), ClaimResult::Made);
    assert!(ask!(closed, close()).unwrap());
    enter(&entered);
    assert_eq!(claim(&back, 2, "back"), ClaimResult::Made);
    let owner = ask!(back, owner()).unwrap().unwrap().owner;
    let claims: Vec<_> = owner.claims.iter().map(|claim| (claim.txid, claim.is_again)).collect();
    assert_eq!(claims, [(1, true), (2, true), (3, false)]);
}

/// The replica of a store that still writes is restored on a new machine. It stood still for good: it waited for the
/// file behind the one that it had seen first.
#[test]
fn primary_goes_on_while_its_replica_is_restored() {
    let objects = Arc::new(InMemory::new());
    Storage::set_memory("goes-on", Arc::clone(&objects) as _);
    let folder = tempdir().unwrap();
    let open = |name: &str, url: &str| {
        let replica = super::store::unmerged(url).restore_if_missing(true).take_over(true);
        Options::new()
            .replicate_to(replica)
            .open(folder.path().join(name))
            .unwrap()
    };
    let upload = |store: &Store, n: u32| {
        let insert = move |tx: &WriteTx<'_>| {
            tx.execute_batch("CREATE TABLE IF NOT EXISTS t(n)")?;
            tx.execute("INSERT INTO t VALUES (?1)", [n])
        };
        store.write(insert).unwrap();
        store.replica().unwrap().flush(PATIENCE).unwrap()
    };
    let all = || {
        let list = objects.list(None).try_collect::<Vec<_>>();
        let objects: Vec<_> = futures_executor::block_on(list).unwrap();
        objects
            .into_iter()
            .map(|object| object.location)
            .collect::<BTreeSet<_>>()
    };
    let read = |path: &Path| {
        let bytes = async { objects.get(path).await.unwrap().bytes().await };
        futures_executor::block_on(bytes).unwrap()
    };
    let old = open("old.db", "memory:goes-on");
    upload(&old, 1);
    let lying = Lying::new(Lie::GoesOn);
    let before = all();
    for path in &before {
        futures_executor::block_on(lying.store.put(path, read(path).into())).unwrap();
    }
    upload(&old, 2);
    let next = all().into_iter().find(|path| !before.contains(path)).unwrap();
    *lying.later.lock().unwrap() = Some((next.clone(), read(&next)));
    Storage::set_memory("goes-on-new", Arc::clone(&lying) as _);
    let new = open("new.db", "memory:goes-on-new");
    assert!(lying.later.lock().unwrap().is_none(), "it has arrived meanwhile");
    upload(&new, 3);
    let sum = new.read(|tx| tx.query_row("SELECT sum(n) FROM t", [], |row| row.get::<_, u32>(0)));
    assert_eq!(sum.unwrap(), 6);
}

/// The owner before it goes on as one, and is not fenced by an entry.
#[test]
fn lost_claim_gives_the_replica_back() {
    let (_folder, storage) = folder();
    let fences: Vec<_> = (1..=3).map(|node| Fence::new(storage.clone(), node)).collect();
    let [old, new, third] = &fences[..] else { panic!() };
    enter(old);
    (1..=3).for_each(|txid| assert_eq!(create(old, txid, "old"), Upload::New));
    let before = ask!(old, owner()).unwrap().unwrap().owner;
    for rival in [new, third, new] {
        assert_eq!(claim(rival, 2, "late"), ClaimResult::Moved);
        let after = ask!(old, owner()).unwrap().unwrap().owner;
        assert_eq!(
            larder::replica::fence::Owner {
                epoch: before.epoch,
                ..after
            },
            before
        );
        assert_eq!(ask!(old, look()).unwrap(), Holder::Us);
    }
    assert_eq!(create(old, 4, "old"), Upload::New);
    assert!(ask!(old, close()).unwrap());
    assert_eq!(claim(new, 4, "new"), ClaimResult::Made);
    assert_eq!(claim(third, 4, "third"), ClaimResult::Moved);
    assert_eq!(ask!(new, look()).unwrap(), Holder::Us);
    let owner = ask!(new, owner()).unwrap().unwrap().owner;
    assert!(new.is_us(&owner) && owner.before.is_none(), "{owner:?}");
    assert_eq!(
        owner.openings.iter().map(|opening| opening.first).collect::<Vec<_>>(),
        [5]
    );
}

/// A file of the disk is compared a piece at a time.
#[test]
fn large_claim_is_made_once() {
    let (_folder, storage) = folder();
    let (old, new) = (Fence::new(storage.clone(), 1), Fence::new(storage.clone(), 2));
    enter(&old);
    assert_eq!(create(&old, 1, "old"), Upload::New);
    let large = |more: u64| {
        let file = tempfile::tempfile().unwrap();
        file.set_len((64 << 20) + more).unwrap();
        Arc::new(file)
    };
    let file = large(1);
    for (file, made) in [
        (Arc::clone(&file), ClaimResult::Made),
        (file, ClaimResult::Made),
        (large(2), ClaimResult::Moved),
    ] {
        assert_eq!(ask!(new, claim(1, 0, file, now(), true)).unwrap(), made);
    }
    assert_eq!(ask!(storage, list(0)).unwrap()[1].size, (64 << 20) + 1);
}

#[test]
fn claims_and_the_newest_file_stay() {
    let (_folder, storage) = folder();
    let (old, new) = (Fence::new(storage.clone(), 1), Fence::new(storage.clone(), 2));
    enter(&old);
    (1..=3).for_each(|txid| assert_eq!(create(&old, txid, "old"), Upload::New));
    assert_eq!(claim(&new, 3, "new"), ClaimResult::Made);
    (5..=7).for_each(|txid| assert_eq!(create(&new, txid, "new"), Upload::New));
    assert_eq!(ask!(new, claims(now())).unwrap(), BTreeSet::from([4]));
    assert_eq!(
        ask!(new, claims(now() + 31 * DAY)).unwrap(),
        BTreeSet::new(),
        "it is let go"
    );
    let left = || -> Vec<_> {
        ask!(storage, list(0))
            .unwrap()
            .iter()
            .map(|file| file.txids.max)
            .collect()
    };
    let (fence, place) = (new.clone(), storage.clone());
    let deleted = runtime::wait(async move { retain(&place, &fence, |file| file.txids.max != 2).await });
    assert_eq!((deleted.unwrap().unwrap(), left()), (4, vec![2, 4, 7]));
}

/// A copied volume: the same spool, and the same file in it.
#[test]
fn copy_of_a_spool_is_another_owner() {
    let (_folder, storage) = folder();
    let (first, copy) = (Fence::new(storage.clone(), 1), Fence::new(storage.clone(), 1));
    enter(&first);
    (1..=3).for_each(|txid| assert_eq!(create(&first, txid, "old"), Upload::New));
    assert_eq!(claim(&copy, 3, "waits"), ClaimResult::Made);
    assert_eq!(claim(&copy, 4, "of the copy"), ClaimResult::Made);
    assert!(matches!(ask!(first, look()).unwrap(), Holder::Other { .. }));
    assert!(
        !ask!(first, close()).unwrap(),
        "it does not close the replica of the other"
    );
    assert!(ask!(first, claims(now())).is_err(), "it deletes nothing");
    assert_eq!(create(&first, 4, "waits"), Upload::Ours, "as if it had made it");
    assert!(matches!(create(&first, 5, "of the first"), Upload::Fenced(_)));
    assert_eq!(create(&copy, 6, "of the copy"), Upload::New);
    let owner = ask!(copy, owner()).unwrap().unwrap().owner;
    assert!(!owner.closed && copy.is_us(&owner) && !first.is_us(&owner));
    assert_eq!(owner.claims.iter().map(|claim| claim.txid).collect::<Vec<_>>(), [4, 5]);
}

/// Retention: lists, reads the claims, deletes. Returns how many.
async fn retain(storage: &Storage, fence: &Fence, is_old: impl Fn(&FileInfo) -> bool) -> Option<usize> {
    let mut files = storage.list(0).await.ok()?;
    files.pop();
    let claims = fence.claims(now()).await.ok()?;
    files.retain(|file| is_old(file) && !claims.contains(&file.txids.max));
    for file in &files {
        storage.delete(0, file.txids).await.ok()?;
    }
    Some(files.len())
}

/// A replica of Litestream has no owner. It is entered, and files of another are told from ours all the same.
#[test]
fn file_of_an_unknown_process_fences() {
    let (_folder, storage) = folder();
    ask!(storage, create(0, Txids::one(1), 0, Bytes::from_static(b"theirs"))).unwrap();
    let fence = Fence::new(storage, 1);
    assert_eq!(create(&fence, 1, "ours"), Upload::Fenced(Holder::Unknown));
    enter(&fence);
    assert_eq!(
        create(&fence, 1, "ours"),
        Upload::Fenced(Holder::Unknown),
        "and not: by ourselves"
    );
}

#[test]
fn owner_of_another_program_is_an_error() {
    let (_folder, storage) = folder();
    let Written::Done(_) = ask!(storage, write_owner(Bytes::from_static(b"hello"), None)).unwrap() else {
        panic!("it is new");
    };
    let fence = Fence::new(storage, 1);
    let error = ask!(fence, owner()).unwrap_err();
    assert_eq!(error.kind(), FailureKind::Permanent);
    let error = error.to_string();
    assert!(
        error.contains("larder/owner.json could not be read: it is not larder's"),
        "{error}"
    );
    assert!(ask!(fence, claim(0, 0, Bytes::new(), now(), true)).is_err());
}

/// A file of the schedules: its transaction, who made it, and the hash of the chain that it goes on from.
fn file(txid: u64, node: u64, parent: &[Bytes]) -> Bytes {
    let before = parent
        .last()
        .map_or(String::new(), |file| String::from_utf8_lossy(file).into_owned());
    let before = before.split(' ').next().unwrap_or_default().to_owned();
    format!("{txid}.{node} {before}").into()
}

/// Whether the file goes on from the chain. An opening refuses a replica that ends with another's file.
fn goes_on(file: &Bytes, chain: &[Bytes]) -> bool {
    let first = |file: &Bytes| {
        String::from_utf8_lossy(file)
            .split(' ')
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    let parent = String::from_utf8_lossy(file)
        .split(' ')
        .next_back()
        .unwrap_or_default()
        .to_owned();
    chain.last().is_some_and(|last| first(last) == parent)
}

/// What all processes of a schedule have done.
#[derive(Default)]
struct History {
    /// The files that a process was told to have made.
    acknowledged: BTreeMap<u64, BTreeSet<Bytes>>,
    /// The last transaction of the newest snapshot. A process may delete what it covers, though another one made it.
    covered: u64,
    claims: usize,
    fenced: usize,
    deleted: usize,
}

impl History {
    /// One file for each transaction, each going on from the one before.
    fn check(&self, seed: u64) {
        let mut before: Option<(u64, String)> = None;
        for (txid, files) in &self.acknowledged {
            assert_eq!(files.len(), 1, "seed {seed}: transaction {txid} forks: {files:?}");
            let text = String::from_utf8_lossy(files.first().unwrap()).into_owned();
            let (name, parent) = text.split_once(' ').unwrap();
            if let Some((_, last)) = before.filter(|(last, _)| last + 1 == *txid) {
                assert_eq!(
                    parent, last,
                    "seed {seed}: transaction {txid} does not go on from the one before"
                );
            }
            before = Some((*txid, name.to_owned()));
        }
    }
}

type Shared = Arc<Mutex<History>>;

/// The file that was tried last, by the spool that has it.
type Spools = Arc<Mutex<BTreeMap<u64, (u64, Bytes)>>>;

/// One opening of a store, from the restore to its end. Its spool may be that of a store that was killed, or a copy.
async fn process(
    storage: Storage,
    (node, opening): (u64, u64),
    spools: Spools,
    history: Shared,
    mut random: Random,
) -> Option<()> {
    let fence = Fence::new(storage.clone(), node);
    let left = spools.lock().unwrap().get(&node).cloned();
    let mut chain = Vec::new();
    let mut is_owner = false;
    for _ in 0..12 {
        let seen = fence.owner().await.ok()?;
        restore(&storage, &mut chain).await?;
        if let Some((txid, bytes)) = left.as_ref().filter(|(_, bytes)| goes_on(bytes, &chain)) {
            let claim = fence.claim(*txid - 1, 0, bytes.clone(), now(), true).await;
            if !claim.is_ok_and(|claim| claim == ClaimResult::Made) {
                continue;
            }
            acknowledge(&history, *txid, bytes);
            chain.push(bytes.clone());
        }
        let entry = fence.enter(seen.as_ref(), node, now()).await;
        if !matches!(entry, Ok(Entry::NotClosed)) {
            is_owner = matches!(entry, Ok(Entry::Entered));
        } else {
            let txid = chain.len() as u64 + 1;
            let bytes = file(txid, opening, &chain);
            spools.lock().unwrap().insert(node, (txid, bytes.clone()));
            let claim = fence.claim(chain.len() as u64, 0, bytes.clone(), now(), true).await;
            if claim.is_ok_and(|claim| claim == ClaimResult::Made) {
                acknowledge(&history, txid, &bytes);
                history.lock().unwrap().claims += 1;
                chain.push(bytes);
                is_owner = true;
            }
        }
        if is_owner {
            break;
        }
    }
    if !is_owner {
        return None;
    }
    for _ in 0..random.below(12) {
        let txid = chain.len() as u64 + 1;
        let bytes = file(txid, opening, &chain);
        spools.lock().unwrap().insert(node, (txid, bytes.clone()));
        upload(&fence, txid, &bytes, &history).await?;
        acknowledge(&history, txid, &bytes);
        chain.push(bytes);
        if random.one_in(2) {
            snapshot(&storage, &chain, &history).await?;
            let is_covered = |file: &FileInfo| file.txids.max <= history.lock().unwrap().covered;
            if let Some(number) = retain(&storage, &fence, is_covered).await {
                history.lock().unwrap().deleted += number;
            }
        }
    }
    if random.one_in(2) {
        let _ = fence.close().await;
    }
    Some(())
}

async fn upload(fence: &Fence, txid: u64, bytes: &Bytes, history: &Shared) -> Option<()> {
    loop {
        match fence.create(txid, 0, bytes.clone()).await {
            Ok(Upload::New | Upload::Ours) => return Some(()),
            Ok(Upload::Fenced(_)) => {
                history.lock().unwrap().fenced += 1;
                return None;
            }
            Err(_) => {}
        }
    }
}

fn acknowledge(history: &Shared, txid: u64, bytes: &Bytes) {
    history
        .lock()
        .unwrap()
        .acknowledged
        .entry(txid)
        .or_default()
        .insert(bytes.clone());
}

/// The files of all transactions so far, as one object.
async fn snapshot(storage: &Storage, chain: &[Bytes], history: &Shared) -> Option<()> {
    let contents = chain.join(&b'\n');
    let max = chain.len() as u64;
    storage
        .put(9, Txids { min: 1, max }, 0, Bytes::from(contents))
        .await
        .ok()?;
    let mut history = history.lock().unwrap();
    history.covered = history.covered.max(max);
    Some(())
}

/// The newest snapshot, then each file after it.
async fn restore(storage: &Storage, chain: &mut Vec<Bytes>) -> Option<()> {
    loop {
        let Ok(snapshots) = storage.list(9).await else { continue };
        chain.clear();
        if let Some(newest) = snapshots.last() {
            let Ok(contents) = storage.get(9, newest.txids).await else {
                continue;
            };
            chain.extend(contents.split(|byte| *byte == b'\n').map(Bytes::copy_from_slice));
        }
        let Ok(files) = storage.list(0).await else { continue };
        let newest = files.last().map_or(0, |file| file.txids.max);
        let mut is_whole = true;
        while is_whole && (chain.len() as u64) < newest {
            match storage.get(0, Txids::one(chain.len() as u64 + 1)).await {
                Ok(bytes) => chain.push(bytes),
                Err(_) => is_whole = false,
            }
        }
        if is_whole {
            return Some(());
        }
    }
}

/// A process that runs, or pauses until that step.
struct Running {
    future: Pin<Box<dyn Future<Output = Option<()>>>>,
    paused_until: usize,
}

/// Runs one schedule: processes that begin, pause, and are killed, over a network that does what it likes.
fn schedule(seed: u64) -> History {
    let mut random = Random::new(seed);
    let store = Simulated::default();
    let history = Shared::default();
    let spools = Spools::default();
    let mut processes: Vec<Running> = Vec::new();
    let mut begun = 0;
    let last = 2 + random.below(6) as u64;
    let mut context = Context::from_waker(Waker::noop());
    for step in 0..12_000 {
        if step == 9000 {
            store.calm();
        }
        match random.below(200) {
            0 if begun < last => {
                begun += 1;
                let storage = Storage::on(Arc::new(store.clone()), Layout::Hex);
                // With the spool of one that was killed, or a copy of it.
                let node = if random.one_in(3) { begun.max(2) - 1 } else { begun };
                let of_process = Random::new(seed ^ begun << 32);
                processes.push(Running {
                    future: Box::pin(process(
                        storage,
                        (node, begun),
                        Arc::clone(&spools),
                        Arc::clone(&history),
                        of_process,
                    )),
                    paused_until: 0,
                });
            }
            // Killed: its requests go on without it.
            1 if processes.len() > 1 && random.one_in(8) => drop(processes.swap_remove(random.below(processes.len()))),
            2..4 if !processes.is_empty() => {
                let at = random.below(processes.len());
                processes[at].paused_until = step + random.below(2000);
            }
            4..100 => store.step(&mut random),
            _ if !processes.is_empty() => {
                let at = random.below(processes.len());
                let process = &mut processes[at];
                if process.paused_until <= step && process.future.as_mut().poll(&mut context).is_ready() {
                    drop(processes.swap_remove(at));
                }
            }
            _ => {}
        }
        if begun == last && processes.is_empty() && store.under_way() == 0 {
            break;
        }
    }
    drop(processes);
    Arc::into_inner(history).unwrap().into_inner().unwrap()
}

/// `LARDER_SCHEDULES` says how many, for a long run.
#[test]
fn schedules_have_one_history() {
    let number = env::var("LARDER_SCHEDULES").map_or(400, |number| number.parse().unwrap());
    // The time limits of requests are never reached: no timer of it runs.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let _entered = runtime.enter();
    let mut all = History::default();
    let mut acknowledged = 0;
    for seed in 1..=number {
        let history = schedule(seed);
        history.check(seed);
        acknowledged += history.acknowledged.len();
        all.claims += history.claims;
        all.fenced += history.fenced;
        all.deleted += history.deleted;
    }
    println!(
        "{number} schedules: {acknowledged} acknowledgements, {} claims, {} fenced, {} files deleted",
        all.claims, all.fenced, all.deleted
    );
    // The schedules do reach what they are to try.
    for reached in [acknowledged, all.claims, all.fenced, all.deleted] {
        assert!(
            reached > number as usize / 20,
            "{acknowledged} {} {} {}",
            all.claims,
            all.fenced,
            all.deleted
        );
    }
}
