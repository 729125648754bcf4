//! Compaction, snapshots and retention, as an owner runs them, on a clock of its own.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use larder::replica::levels::{Due, LevelTimes, Levels, SNAPSHOTS};
use larder::replica::runtime;
use larder::replica::storage::{FileInfo, Layout, Storage, StorageError, Txids};
use larder::{Error, Replica, Store};

use super::File;
use super::litestream::{Litestream, Replicated};
use super::lying::{Lie, Lying};

/// The first second of the clock, the beginning of each period of the levels.
const BEGIN: u64 = 1_790_035_200;

fn at(second: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(BEGIN + second)
}

fn times() -> LevelTimes {
    LevelTimes {
        levels: [4, 16, 48].map(Duration::from_secs),
        l0_retention: Duration::from_secs(20),
        snapshot_every: Duration::from_secs(40),
        retention: Duration::from_secs(80),
    }
}

/// The owner of a replica, which makes a commit each second.
struct Owner {
    replicated: Replicated,
    /// The files with the second of their commit.
    files: Vec<Vec<u8>>,
    storage: Storage,
    levels: Option<Levels>,
    spool: PathBuf,
    claims: BTreeSet<u64>,
    deleted: usize,
}

impl Owner {
    fn new(commits: u32) -> Self {
        let replicated = Replicated::run(512, commits);
        let folder = replicated.database.folder.path();
        let (replica, spool) = (folder.join("replica"), folder.join("spool"));
        fs::create_dir_all(spool.join("tmp")).unwrap();
        let storage = Storage::connect(replica.to_str().unwrap()).unwrap();
        let files = replicated.files.iter().map(|bytes| {
            let mut file = File::decode(bytes.as_slice()).unwrap();
            file.header.timestamp = ((BEGIN + file.header.max_txid) * 1000).cast_signed();
            file.encode()
        });
        Self {
            files: files.collect(),
            storage,
            levels: None,
            spool,
            claims: BTreeSet::new(),
            deleted: 0,
            replicated,
        }
    }

    fn replica(&self) -> PathBuf {
        self.replicated.database.folder.path().join("replica")
    }

    fn open(&mut self) {
        let (storage, spool) = (self.storage.clone(), self.spool.clone());
        self.levels = Some(runtime::wait(Levels::open(storage, times(), spool)).unwrap().unwrap());
    }

    /// Uploads one transaction, in its second.
    fn upload(&mut self, txid: u64) {
        let bytes = self.files[txid as usize - 1].clone();
        let file = self.put(0, Txids { min: txid, max: txid }, txid, bytes);
        self.levels.as_mut().unwrap().uploaded(file);
    }

    fn put(&self, level: u8, txids: Txids, second: u64, bytes: Vec<u8>) -> FileInfo {
        let (storage, size) = (self.storage.clone(), bytes.len() as u64);
        let timestamp = ((BEGIN + second) * 1000).cast_signed();
        let put = async move { storage.put(level, txids, timestamp, Bytes::from(bytes)).await };
        runtime::wait(put).unwrap().unwrap();
        FileInfo {
            level,
            txids,
            size,
            modified: at(second),
        }
    }

    /// Does what is due.
    fn run(&mut self, second: u64) -> Result<(), StorageError> {
        while let Some(due) = self.levels.as_ref().unwrap().due(at(second)) {
            let mut levels = self.levels.take().unwrap();
            let claims = self.claims.clone();
            let (levels, done) = runtime::wait(async move {
                let done = match due {
                    Due::Merge(merge) => levels.merge(merge, &|| true).await.map(|_| 0),
                    Due::Snapshot => levels.snapshot(&|| true).await.map(|_| 0),
                    Due::Retain => {
                        let claims = async move { Ok(claims) };
                        levels.retain(at(second), claims, &|| true).await.map(|gone| gone.len())
                    }
                };
                (levels, done)
            })
            .unwrap();
            self.levels = Some(levels);
            self.deleted += done?;
        }
        Ok(())
    }

    fn wants_every_page(&mut self) -> Option<String> {
        let mut levels = self.levels.take().unwrap();
        let (levels, wanted) = runtime::wait(async move {
            let wanted = levels.wants_every_page().await;
            (levels, wanted)
        })
        .unwrap();
        self.levels = Some(levels);
        wanted.unwrap()
    }

    /// The known files of a level.
    fn of_level(&self, level: u8) -> Vec<FileInfo> {
        let files = self.levels.as_ref().unwrap().files().iter();
        files.filter(|file| file.level == level).copied().collect()
    }

    /// Uploads the newest state as one transaction.
    fn upload_every_page(&mut self, txid: u64) {
        let state = self.state(txid - 1);
        let pages: Vec<_> = (1..).zip(state.chunks(512).map(<[u8]>::to_vec)).collect();
        let header = larder::replica::ltx::Header {
            timestamp: ((BEGIN + txid) * 1000).cast_signed(),
            ..super::header(512, pages.len() as u32, (txid, txid))
        };
        let file = self.put(0, Txids::one(txid), txid, File { header, pages }.encode());
        self.levels.as_mut().unwrap().uploaded_every_page(file);
    }

    fn state(&self, txid: u64) -> &[u8] {
        &self.replicated.states[txid as usize - 1]
    }
}

fn restored(replica: &Path, choose: impl FnOnce(larder::ReplicaRestore) -> larder::ReplicaRestore) -> (u64, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("restored.db");
    let report = choose(Store::restore_from(replica.to_str().unwrap()))
        .integrity_check(false)
        .to(&path);
    let report = report.unwrap_or_else(|error| panic!("{error}"));
    (report.txid, fs::read(path).unwrap())
}

/// Whatever is merged and deleted, the newest state, each point, and any time within the retention can be restored, by
/// larder and by Litestream.
#[test]
fn any_time_within_retention_stays_restorable() {
    let mut owner = Owner::new(199);
    owner.open();
    let replica = owner.replica();
    let litestreams: Vec<_> = Litestream::all().into_iter().filter(Litestream::knows_blocks).collect();
    owner.claims = [40, 122].into();
    for txid in 1..=200u64 {
        owner.upload(txid);
        owner.run(txid).unwrap();
        if txid % 7 == 0 {
            // Another owner: it knows only what is there.
            owner.open();
        }
        if txid % 67 != 0 && txid != 200 {
            continue;
        }
        assert!(
            restored(&replica, |restore| restore) == (txid, owner.state(txid).to_vec()),
            "{txid}"
        );
        for litestream in &litestreams {
            assert!(
                litestream.restore(&replica, None) == owner.state(txid),
                "{}: {txid}",
                litestream.version
            );
        }
        for time in (txid.saturating_sub(80).max(6)..=txid).step_by(11) {
            let (found, bytes) = restored(&replica, |restore| restore.at(at(time)));
            assert!(bytes == owner.state(found), "{txid}: {time}");
            // Within the retention of level 0 each transaction, then the period of level 1.
            let grain = if txid - time < 20 { 1 } else { 5 };
            assert!(
                found < time && time - found <= grain,
                "{txid}: at {time} the state {found}"
            );
        }
        let spans = Replica::open(replica.to_str().unwrap()).unwrap().points().unwrap();
        for point in spans.iter().flat_map(|span| [span.first, span.last]) {
            let (_, bytes) = restored(&replica, |restore| restore.txid(point.txid));
            assert!(bytes == owner.state(point.txid), "{txid}: {point}");
        }
        let verified = Replica::open(replica.to_str().unwrap())
            .unwrap()
            .verify()
            .run()
            .unwrap();
        assert!(verified.is_ok(), "{verified}");
    }
    let of = |level: u8| owner.of_level(level).len();
    println!("{:?}, {} deleted", (0..=9).map(of).collect::<Vec<_>>(), owner.deleted);
    assert!(owner.deleted > 150);
    assert!((3..=4).contains(&of(SNAPSHOTS)), "{}", of(SNAPSHOTS));
    let is_there = |txid| owner.of_level(0).iter().any(|file| file.txids.max == txid);
    assert!(
        is_there(40) && is_there(122) && !is_there(41) && !is_there(123),
        "claims stay"
    );
    // Nothing is left in the spool but what the next merges read.
    let left = |folder: &str| fs::read_dir(owner.spool.join(folder)).map_or(0, Iterator::count);
    assert!(
        left("1") < 8 && left("2") < 8 && left(".") == 2,
        "{} {} {}",
        left("1"),
        left("2"),
        left(".")
    );
}

/// The spool may have a transaction that another owner has forestalled: its levels would be of another history.
#[test]
fn forestalled_file_of_the_spool_is_not_merged() {
    let mut owner = Owner::new(19);
    for txid in 1..=20u64 {
        owner.put(
            0,
            Txids { min: txid, max: txid },
            txid,
            owner.files[txid as usize - 1].clone(),
        );
    }
    owner.open();
    owner.upload(15);
    fs::create_dir_all(owner.spool.join("0")).unwrap();
    for txid in 16..=20u64 {
        // Another file of that transaction: the one before it, with its number.
        let mut file = File::decode(owner.files[txid as usize - 2].as_slice()).unwrap();
        (file.header.min_txid, file.header.max_txid) = (txid, txid);
        let name = Txids { min: txid, max: txid }.file_name();
        fs::write(owner.spool.join("0").join(name), file.encode()).unwrap();
    }
    owner.run(60).unwrap();
    let replica = owner.replica();
    for level in ["1", "9"] {
        assert_ne!(
            fs::read_dir(replica.join("ltx").join(level)).unwrap().count(),
            0,
            "{level}"
        );
    }
    // Only what was merged is left.
    fs::remove_dir_all(replica.join("ltx/0")).unwrap();
    assert!(restored(&replica, |restore| restore) == (20, owner.state(20).to_vec()));
}

#[test]
fn owner_without_permit_writes_and_deletes_nothing() {
    let mut owner = Owner::new(99);
    owner.open();
    (1..=100).for_each(|txid| owner.upload(txid));
    let before = owner.levels.as_ref().unwrap().files().len();
    let mut levels = owner.levels.take().unwrap();
    let Some(Due::Merge(merge)) = levels.due(at(100)) else {
        panic!("a merge is due")
    };
    let (levels, merged) = runtime::wait(async move {
        let merged = levels.merge(merge, &|| false).await;
        (levels, merged)
    })
    .unwrap();
    assert_eq!(merged.unwrap(), None);
    assert_eq!(levels.files().len(), before);
    owner.levels = Some(levels);
    owner.run(100).unwrap();
    // Asked before each delete.
    let mut levels = owner.levels.take().unwrap();
    owner.upload_late(&mut levels);
    let asked = AtomicUsize::new(0);
    let deleted = runtime::wait(async move {
        let may = || asked.fetch_add(1, Ordering::Relaxed) < 3;
        levels.retain(at(100_000), async { Ok(BTreeSet::new()) }, &may).await
    });
    assert_eq!(deleted.unwrap().unwrap().len(), 3);
}

impl Owner {
    /// A transaction so late that the others are old.
    fn upload_late(&self, levels: &mut Levels) {
        let bytes = self.files[0].clone();
        levels.uploaded(self.put(0, Txids { min: 101, max: 101 }, 90_000, bytes));
    }
}

/// A damaged file, which is also from the future, is named once. Merging goes on behind it, and no snapshot hides it.
#[test]
fn damaged_input_is_named_and_left_out() {
    let mut owner = Owner::new(59);
    owner.open();
    (1..=30).for_each(|txid| owner.upload(txid));
    let path = owner.replica().join(format!("ltx/0/{:016x}-{:016x}.ltx", 13, 13));
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = Error::from(owner.run(30).unwrap_err()).to_string();
    assert!(
        error.contains("000000000000000d-000000000000000d.ltx: the checksum"),
        "{error}"
    );
    for txid in 31..=39 {
        owner.upload(txid);
        owner.run(txid).unwrap();
    }
    (40..=60).for_each(|txid| owner.upload(txid));
    let error = Error::from(owner.run(60).unwrap_err()).to_string();
    assert!(
        error.contains("no file has 000000000000000d-000000000000000d"),
        "{error}"
    );
    assert!(restored(&owner.replica(), |restore| restore.txid(12)).1 == owner.state(12));
    let last = owner.of_level(1).iter().map(|file| file.txids.max).max();
    assert_eq!(last, Some(59));

    // Only a file with every page helps, and it is asked for once.
    let problem = owner.wants_every_page().unwrap();
    assert!(problem.contains("000000000000000d.ltx: the checksum"), "{problem}");
    assert_eq!(owner.wants_every_page(), None);
    owner.upload_every_page(61);
    owner.run(62).unwrap();
    assert_eq!(owner.levels.as_ref().unwrap().problem(), None);
    let snapshots: Vec<_> = owner.of_level(SNAPSHOTS).iter().map(|file| file.txids).collect();
    assert_eq!(snapshots, [Txids { min: 1, max: 61 }]);
    assert!(restored(&owner.replica(), |restore| restore) == (61, owner.state(60).to_vec()));
    for litestream in Litestream::all().iter().filter(|litestream| litestream.knows_blocks()) {
        assert!(litestream.restore(&owner.replica(), None) == owner.state(60));
    }
    // What was lost is not made up.
    let target = owner.spool.join("lost.db");
    let lost = Store::restore_from(owner.replica().to_str().unwrap())
        .txid(40)
        .to(&target);
    let lost = lost.unwrap_err().to_string();
    assert!(lost.contains("000000000000000d.ltx: the checksum"), "{lost}");
}

/// A list that is out of date lacks files that are there by their names.
#[test]
fn file_that_lists_hide_is_not_missing() {
    let mut owner = Owner::new(9);
    let lying = Lying::new(Lie::Hides);
    owner.storage = Storage::on(Arc::clone(&lying) as _, Layout::Decimal);
    let (first, late) = (1..=2, 3..=5);
    let put = |owner: &Owner, txid: u64| {
        owner.put(0, Txids::one(txid), txid, owner.files[txid as usize - 1].clone());
    };
    first.for_each(|txid| put(&owner, txid));
    owner.open();
    for txid in late {
        put(&owner, txid);
        lying.hide(format!("ltx/0/{}", Txids::one(txid).file_name()), u32::MAX);
    }
    owner.upload(6);
    assert!(
        owner
            .levels
            .as_ref()
            .unwrap()
            .problem()
            .unwrap()
            .contains("no file has the transactions")
    );
    assert_eq!(owner.wants_every_page(), None);
    assert_eq!(owner.levels.as_ref().unwrap().problem(), None);
    let mut known: Vec<_> = owner.of_level(0).iter().map(|file| file.txids.max).collect();
    known.sort_unstable();
    assert_eq!(known, [1, 2, 3, 4, 5, 6]);
    // One that is not there by its name, either, is missing.
    owner.upload(8);
    let problem = owner.wants_every_page().unwrap();
    assert!(
        problem.contains("no file has the transactions 0000000000000007"),
        "{problem}"
    );
}

/// A damaged file that others can stand in for needs a snapshot, and no file with every page.
#[test]
fn damaged_merge_is_replaced_by_a_snapshot() {
    let mut owner = Owner::new(29);
    owner.open();
    for txid in 1..=20 {
        owner.upload(txid);
        owner.run(txid).unwrap();
    }
    let merged = owner.of_level(1)[0];
    let levels = owner.levels.as_mut().unwrap();
    levels.is_damaged(merged, "for a test".into());
    assert_eq!(owner.wants_every_page(), None);
    let problem = owner.levels.as_ref().unwrap().problem();
    assert!(problem.unwrap().ends_with(".ltx: for a test"));
    owner.run(20).unwrap();
    assert_eq!(owner.levels.as_ref().unwrap().problem(), None);
    assert_eq!(owner.of_level(SNAPSHOTS)[0].txids, Txids { min: 1, max: 20 });
    assert!(restored(&owner.replica(), |restore| restore) == (20, owner.state(20).to_vec()));
}

/// The spool has the bytes that were uploaded, and no others are written.
#[test]
fn damaged_upload_is_written_again_from_the_spool() {
    let mut owner = Owner::new(9);
    owner.open();
    (1..=5).for_each(|txid| owner.upload(txid));
    let (name, files) = (
        Txids::one(3).file_name(),
        owner.levels.as_ref().unwrap().files().to_vec(),
    );
    let (object, copy) = (
        owner.replica().join("ltx/0").join(&name),
        owner.spool.join("0").join(&name),
    );
    fs::create_dir(owner.spool.join("0")).unwrap();
    let write_again = |owner: &mut Owner| {
        let levels = owner.levels.take().unwrap();
        let file = *files.iter().find(|file| file.txids == Txids::one(3)).unwrap();
        let (levels, done) = runtime::wait(async move {
            let done = levels.write_again(file).await;
            (levels, done)
        })
        .unwrap();
        owner.levels = Some(levels);
        done.unwrap()
    };
    fs::write(&object, "damaged").unwrap();
    assert!(!write_again(&mut owner), "the spool does not have it");
    for other in [
        b"no file".to_vec(),
        owner.files[3].clone(),
        owner.files[2][..200].to_vec(),
    ] {
        fs::write(&copy, other).unwrap();
        assert!(!write_again(&mut owner), "it is not whole, or another file");
        assert_eq!(fs::read(&object).unwrap(), b"damaged");
    }
    fs::write(&copy, &owner.files[2]).unwrap();
    assert!(write_again(&mut owner));
    assert!(fs::read(&object).unwrap() == owner.files[2]);
    assert_eq!(fs::metadata(&object).unwrap().modified().unwrap(), at(3));
}

/// A file that does not fit into one part.
#[test]
fn large_merged_file_is_written_in_parts() {
    let mut owner = Owner::new(0);
    owner.open();
    let noise = |seed: u64| {
        let mut state = seed | 1;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        (0..65536).map(|_| next()).collect::<Vec<u8>>()
    };
    let file = |txid: u64, pages: std::ops::RangeInclusive<u32>| File {
        header: larder::replica::ltx::Header {
            timestamp: ((BEGIN + txid) * 1000).cast_signed(),
            ..super::header(65536, 600, (txid, txid))
        },
        pages: pages.map(|page| (page, noise(u64::from(page) * 10 + txid))).collect(),
    };
    owner.files = vec![file(1, 1..=600).encode(), file(2, 20..=60).encode()];
    (1..=2).for_each(|txid| owner.upload(txid));
    owner.run(7).unwrap();
    let merged = owner.of_level(1)[0];
    assert!(merged.size > 2 * (16 << 20), "{merged:?}");
    let path = owner.replica().join(format!("ltx/1/{}", merged.txids.file_name()));
    assert_eq!(fs::metadata(&path).unwrap().len(), merged.size);
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), at(2));
    let mut wanted = Vec::new();
    owner
        .files
        .iter()
        .for_each(|bytes| File::decode(bytes.as_slice()).unwrap().apply(&mut wanted));
    owner.files.iter().zip(1..).for_each(|(_, txid)| {
        fs::remove_file(owner.replica().join(format!("ltx/0/{txid:016x}-{txid:016x}.ltx"))).unwrap()
    });
    assert!(restored(&owner.replica(), |restore| restore).1 == wanted);
}
