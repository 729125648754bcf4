//! Restoring from a replica: what larder wrote, what Litestream wrote, and replicas with something wrong.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use larder::replica::ltx::{Decoder, lock_page};
use larder::replica::storage::Layout;
use larder::rusqlite::Connection;
use larder::{Error, Replica, ReplicaRestoreReport, ReplicaRestoreStage, Store};
use object_store::memory::InMemory;
use object_store::path::Path as Key;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use tempfile::TempDir;

use super::golden;
use super::litestream::{Litestream, Replicated, end, files, put, wait};
use super::log::Database;
use super::store::Place;
use super::{File, header};
use crate::support::child::PATIENCE;

/// What a restore makes, and its report.
struct Restored {
    bytes: Vec<u8>,
    report: ReplicaRestoreReport,
}

#[track_caller]
fn restore(replica: &Path, choose: impl FnOnce(larder::ReplicaRestore) -> larder::ReplicaRestore) -> Restored {
    try_restore(replica, choose).unwrap_or_else(|error| panic!("{error}"))
}

/// A restore with its check. Nothing is left behind but the database.
fn try_restore(
    replica: &Path,
    choose: impl FnOnce(larder::ReplicaRestore) -> larder::ReplicaRestore,
) -> Result<Restored, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap().join("restored.db");
    let made = choose(Store::restore_from(replica.to_str().unwrap())).to(&path);
    let names: BTreeSet<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let report = made.inspect_err(|_| assert!(names.is_empty(), "{names:?}"))?;
    // The folder has the position from which a store goes on with the replica.
    assert_eq!(names, ["restored.db", "restored.db-replica"].map(String::from).into());
    assert_eq!(report.path, path);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let bytes = fs::read(path).unwrap();
    assert_eq!(report.bytes(), bytes.len() as u64);
    Ok(Restored { bytes, report })
}

#[track_caller]
fn refusal(replica: &Path) -> String {
    let Err(error) = try_restore(replica, |restore| restore) else {
        panic!("it was restored")
    };
    assert!(matches!(error, Error::Restore { .. }), "{error:?}");
    error.to_string()
}

/// A replica that has some of the files in these levels: merged, but for those of level 0.
fn replica(replicated: &Replicated, levels: &[(u32, std::ops::Range<usize>)]) -> PathBuf {
    let folder = replicated.database.folder.path().join("replica");
    let _ = fs::remove_dir_all(&folder);
    for (level, range) in levels.iter().cloned() {
        if level == 0 {
            for bytes in &replicated.files[range] {
                put(&folder, 0, Decoder::new(bytes.as_slice()).unwrap().header(), bytes);
            }
        } else {
            let (header, bytes) = replicated.merged(range);
            put(&folder, level, &header, &bytes);
        }
    }
    folder
}

fn object(replica: &Path, level: u32, min: u64, max: u64) -> PathBuf {
    replica.join(format!("ltx/{level}/{min:016x}-{max:016x}.ltx"))
}

fn damage(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    fs::write(path, bytes).unwrap();
    fs::File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_modified(modified)
        .unwrap();
}

/// The header of the tests has this time and the transaction in milliseconds.
fn time_of(txid: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(1_790_000_000_000 + txid)
}

#[test]
fn every_state_is_restored_byte_for_byte() {
    for page_size in [512, 4096, 65536] {
        let replicated = Replicated::run(page_size, 12);
        let replica = replica(&replicated, &[(0, 0..13)]);
        let newest = restore(&replica, |restore| restore);
        assert!(newest.bytes == replicated.last(), "{page_size}");
        assert_eq!((newest.report.txid, newest.report.files), (13, 13));
        assert_eq!(newest.report.timestamp, time_of(13));
        assert!(newest.report.check.as_ref().unwrap().is_ok(), "{}", newest.report);
        for (txid, state) in (1..).zip(&replicated.states) {
            let exact = restore(&replica, |restore| restore.txid(txid).integrity_check(false));
            assert!(&exact.bytes == state, "{page_size}: {txid}");
            let before = restore(&replica, |restore| restore.at(time_of(txid) + Duration::from_nanos(1)));
            assert!(
                &before.bytes == state && before.report.txid == txid,
                "{page_size}: {txid}"
            );
        }
    }
}

/// Another thread checks the foreign keys, and what it finds is in the report.
#[test]
fn orphans_are_in_the_report() {
    let place = Place::new();
    let primary = Connection::open(place.database()).unwrap();
    primary
        .execute_batch(
            "PRAGMA foreign_keys = OFF;
             CREATE TABLE parent(id INTEGER PRIMARY KEY);
             CREATE TABLE child(id INTEGER PRIMARY KEY, parent INTEGER NOT NULL REFERENCES parent);
             INSERT INTO parent VALUES (1);
             INSERT INTO child VALUES (1, 1), (2, 7), (3, 1), (4, 8);",
        )
        .unwrap();
    drop(primary);
    let store = place.open();
    super::store::fill(&store, 1);
    super::store::close(store);
    let restored = restore(&place.replica(), |restore| restore);
    let check = restored.report.check.unwrap();
    assert_eq!(check.total_foreign_key_violations, 2, "{check}");
    assert!(!check.is_damaged(), "{check}");
}

#[test]
fn levels_make_the_state_of_their_files() {
    let replicated = Replicated::run(4096, 30);
    let replica = replica(
        &replicated,
        &[
            (9, 0..1),
            (9, 0..9),
            (3, 0..6),
            (2, 6..11),
            (2, 11..14),
            (1, 12..20),
            (1, 20..25),
            (0, 23..31),
        ],
    );
    let newest = restore(&replica, |restore| restore);
    assert!(newest.bytes == replicated.last());
    assert_eq!(newest.report.files, 11, "{}", newest.report);
    for txid in [1, 6, 9, 11, 14, 20, 25, 28, 31] {
        let restored = restore(&replica, |restore| restore.txid(txid));
        assert!(restored.bytes == replicated.states[txid as usize - 1], "{txid}");
    }
    let merged = try_restore(&replica, |restore| restore.txid(17)).map(|restored| restored.report);
    let error = merged.unwrap_err().to_string();
    assert!(
        error.contains("TXID 0000000000000011; the states next to it: 000000000000000e, 0000000000000014"),
        "{error}"
    );
    let by_time = restore(&replica, |restore| restore.at(time_of(18)));
    assert_eq!(by_time.report.txid, 14);
}

/// The real Litestream restores the same bytes: from its own replica, of each version, at the tip, older and by time.
#[test]
fn restores_of_litestream_replicas_equal_its_own() {
    for litestream in Litestream::all() {
        let database = Database::new(4096);
        let replica = database.folder.path().join("replica");
        let mut daemon = litestream.replicate(&database.path(), &replica);
        database.connection.busy_timeout(PATIENCE).unwrap();
        for n in 0..6 {
            let before = files(&replica, 0).len();
            database.commit(n);
            wait(|| files(&replica, 0).len() > before);
        }
        end(&mut daemon);
        let version = &litestream.version;
        let newest = restore(&replica, |restore| restore);
        assert!(newest.bytes == litestream.restore(&replica, None), "{version}");
        let headers = files(&replica, 0);
        let headers: Vec<_> = headers
            .iter()
            .map(|bytes| *Decoder::new(bytes.as_slice()).unwrap().header())
            .collect();
        assert!(headers.len() > 5, "{version}");
        for header in headers {
            let (txid, time) = (header.max_txid, header.timestamp.cast_unsigned() + 1);
            let wanted = litestream.restore(&replica, Some(txid));
            assert!(
                restore(&replica, |restore| restore.txid(txid)).bytes == wanted,
                "{version}: {txid}"
            );
            // Litestream takes no time after that of its last file.
            let time = UNIX_EPOCH + Duration::from_millis(time);
            let at = chrono::DateTime::<chrono::Utc>::from(time).to_rfc3339();
            let by_time = restore(&replica, |restore| restore.at(time));
            let wanted = litestream.restore_with(&replica, &["-timestamp".into(), at]);
            assert!(by_time.report.txid >= txid);
            match wanted {
                Ok(wanted) => assert!(by_time.bytes == wanted, "{version}: {txid}"),
                Err(told) => assert!(told.contains("timestamp does not exist"), "{version}: {told}"),
            }
        }
    }
}

#[test]
fn golden_replicas_of_both_kinds_are_restored() {
    for version in ["0.5.14", "0.5.17"] {
        let folder = tempfile::tempdir().unwrap();
        for bytes in golden::files(version) {
            put(
                folder.path(),
                0,
                Decoder::new(bytes.as_slice()).unwrap().header(),
                &bytes,
            );
        }
        assert!(
            restore(folder.path(), |restore| restore).bytes == golden::restored(version),
            "{version}"
        );
    }
}

/// Over 1 GiB there is a page that no file has. The database is no SQLite database, so it is not checked.
#[test]
fn lock_page_is_zeros_in_a_large_database() {
    let page_size = 65536;
    let lock_page = lock_page(page_size);
    let commit = lock_page + 2;
    let folder = tempfile::tempdir().unwrap();
    let page = |number: u32| vec![number as u8 | 1; if number > 0 { page_size as usize } else { 0 }];
    let mut encoder = larder::replica::ltx::Encoder::new(Vec::new(), header(page_size, commit, (1, 1))).unwrap();
    (1..=commit)
        .filter(|number| *number != lock_page)
        .for_each(|number| encoder.page(number, &page(number)).unwrap());
    put(
        folder.path(),
        0,
        &header(page_size, commit, (1, 1)),
        &encoder.finish().unwrap().0,
    );
    let second = File {
        header: header(page_size, commit + 1, (2, 2)),
        pages: vec![(lock_page - 1, page(5)), (commit + 1, page(7))],
    };
    put(folder.path(), 0, &second.header, &second.encode());
    let target = folder.path().join("restored.db");
    let restored = Store::restore_from(folder.path().to_str().unwrap())
        .integrity_check(false)
        .to(&target)
        .unwrap();
    assert_eq!(restored.pages, u64::from(commit) + 1);
    let read = |number: u32| {
        use std::os::unix::fs::FileExt;
        let mut contents = vec![1; page_size as usize];
        let offset = u64::from(number - 1) * u64::from(page_size);
        fs::File::open(&target)
            .unwrap()
            .read_exact_at(&mut contents, offset)
            .unwrap();
        contents
    };
    for (number, wanted) in [
        (1, page(1)),
        (lock_page - 2, page(lock_page - 2)),
        (lock_page - 1, page(5)),
        (lock_page, vec![0; page_size as usize]),
        (lock_page + 1, page(lock_page + 1)),
        (commit, page(commit)),
        (commit + 1, page(7)),
    ] {
        assert!(read(number) == wanted, "{number}");
    }
}

#[test]
fn damaged_file_is_replaced_by_others() {
    let replicated = Replicated::run(512, 9);
    let replica = replica(&replicated, &[(0, 0..10), (1, 0..4), (1, 4..9), (9, 0..6)]);
    let damaged = [object(&replica, 9, 1, 6), object(&replica, 1, 5, 9)];
    damaged.iter().for_each(|path| damage(path));
    let restored = restore(&replica, |restore| restore);
    assert!(restored.bytes == replicated.last());
    let unusable = &restored.report.unusable;
    assert_eq!(unusable.len(), 2, "{}", restored.report);
    for path in &damaged {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(
            unusable
                .iter()
                .any(|line| line.contains(name) && line.contains("checksum")),
            "{unusable:?}"
        );
    }
}

/// A change of a file, and what is said about it.
type Case<'c> = (&'c dyn Fn(&Path), &'c str);

#[test]
fn damaged_file_without_others_is_named() {
    let replicated = Replicated::run(512, 9);
    let cut = |path: &Path| fs::write(path, &fs::read(path).unwrap()[..120]).unwrap();
    let foreign = |path: &Path| fs::write(path, b"SQLite format 3\0".repeat(10)).unwrap();
    let other = |path: &Path| {
        fs::copy(object(path.ancestors().nth(3).unwrap(), 0, 3, 3), path)
            .map(drop)
            .unwrap()
    };
    let empty = |path: &Path| fs::write(path, "").unwrap();
    let cases: [Case<'_>; 5] = [
        (&damage, "checksum"),
        (&cut, "ends inside"),
        (&foreign, "no LTX file"),
        (
            &other,
            "it is a file of the transactions 0000000000000003-0000000000000003",
        ),
        (&empty, "ends inside the header"),
    ];
    for (change, problem) in cases {
        for txid in [1, 5, 10] {
            let replica = replica(&replicated, &[(0, 0..10)]);
            let path = object(&replica, 0, txid, txid);
            change(&path);
            let error = refusal(&replica);
            assert!(
                error.contains(path.to_str().unwrap()) && error.contains(problem),
                "{error}"
            );
            let before = format!("the state after TXID {:016x} can be restored", txid - 1);
            assert_eq!(error.contains(&before), txid > 1, "{error}");
        }
    }
}

#[test]
fn missing_transactions_are_named() {
    let replicated = Replicated::run(512, 9);
    let replica = replica(&replicated, &[(0, 0..3), (0, 5..10)]);
    let error = refusal(&replica);
    assert!(
        error.contains("no file has 0000000000000004-0000000000000005"),
        "{error}"
    );
    assert!(
        error.contains("the last state before them is that after TXID 0000000000000003"),
        "{error}"
    );
    assert!(restore(&replica, |restore| restore.txid(3)).bytes == replicated.states[2]);
    let beyond = try_restore(&replica, |restore| restore.txid(11)).map(|restored| restored.report);
    assert!(beyond.is_err());
}

#[test]
fn foreign_places_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = refusal(folder.path());
    assert!(error.contains("the replica has no files; check the URL"), "{error}");
    let error = refusal(&folder.path().join("nowhere"));
    assert!(error.contains("the replica has no files"), "{error}");
    let old = folder.path().join("generations/0123456789abcdef/snapshots");
    fs::create_dir_all(&old).unwrap();
    fs::write(old.join("00000000.snapshot.lz4"), "x").unwrap();
    let error = refusal(folder.path());
    assert!(error.contains("Litestream 0.3"), "{error}");
    let Err(error) = Store::restore_from("ftp://somewhere/app").to(folder.path().join("x")) else {
        panic!()
    };
    assert!(error.to_string().contains("ftp"), "{error}");
}

#[test]
fn target_that_is_taken_is_kept() {
    let replicated = Replicated::run(512, 2);
    let replica = replica(&replicated, &[(0, 0..3)]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let refused = || Store::restore_from(replica.to_str().unwrap()).to(&path).unwrap_err();
    for taken in ["app.db", "app.db-wal", "app.db-journal", "app.db-shm"] {
        fs::write(folder.path().join(taken), "kept").unwrap();
        assert!(matches!(refused(), Error::Restore { .. }));
        assert_eq!(fs::read_to_string(folder.path().join(taken)).unwrap(), "kept");
        fs::remove_file(folder.path().join(taken)).unwrap();
    }
    let store = Store::open(&path).unwrap();
    assert!(matches!(refused(), Error::AlreadyOpen { .. }));
    store.close().unwrap();
    let both = Store::restore_from("/nowhere")
        .txid(1)
        .at(SystemTime::now())
        .to(folder.path().join("x"));
    assert!(matches!(both.unwrap_err(), Error::Options { option: "txid", .. }));
}

/// A state whose pages are not those of a sound database, as a file shows that was written by a damaged primary.
#[test]
fn damaged_database_is_restored_only_unchecked() {
    let replicated = Replicated::run(512, 6);
    let replica = replica(&replicated, &[(0, 0..7)]);
    let last = replicated.files.last().unwrap();
    let mut spoiled = File::decode(last.as_slice()).unwrap();
    spoiled.header = header(512, spoiled.header.commit, (8, 8));
    spoiled.pages = (2..spoiled.header.commit.min(9))
        .map(|page| (page, vec![0x55; 512]))
        .collect();
    put(&replica, 0, &spoiled.header, &spoiled.encode());
    let error = refusal(&replica);
    assert!(
        error.contains("the database in the replica is damaged; restore an older state"),
        "{error}"
    );
    let restored = restore(&replica, |restore| restore.integrity_check(false));
    assert!(restored.report.check.is_none() && restored.report.txid == 8);
    assert!(restored.report.to_string().contains("not checked"));
}

#[test]
fn restored_database_opens_as_a_store() {
    let replicated = Replicated::run(4096, 5);
    let replica = replica(&replicated, &[(9, 0..3), (0, 3..6)]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    Store::restore_from(replica.to_str().unwrap()).to(&path).unwrap();
    let store = Store::open(&path).unwrap();
    let count = |tx: &larder::ReadTx<'_>| tx.query_row("SELECT count(*) FROM entry", [], |row| row.get::<_, i64>(0));
    let wanted: i64 = replicated
        .database
        .connection
        .query_row("SELECT count(*) FROM entry", [], |row| row.get(0))
        .unwrap();
    assert_eq!(store.read(count).unwrap(), wanted);
    assert!(store.check().full().run().unwrap().is_ok());
}

/// Compaction moves files up while a restore reads.
#[derive(Debug)]
struct Compacting {
    store: InMemory,
    moves: Mutex<Vec<Move>>,
}

/// The first time that one of these keys is asked for, all of them are gone, and another one is there.
#[derive(Debug)]
struct Move {
    gone: BTreeSet<Key>,
    to: Key,
    bytes: Vec<u8>,
}

impl fmt::Display for Compacting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory")
    }
}

#[async_trait]
impl ObjectStore for Compacting {
    async fn put_opts(
        &self,
        location: &Key,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.store.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Key,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Key, options: GetOptions) -> object_store::Result<GetResult> {
        let moved = {
            let mut moves = self.moves.lock().unwrap();
            let at = moves.iter().position(|moved| moved.gone.contains(location));
            at.map(|at| moves.remove(at))
        };
        if let Some(Move { gone, to, bytes }) = moved {
            self.store.put(&to, bytes.into()).await?;
            for key in gone {
                self.store.delete(&key).await?;
            }
        }
        self.store.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Key>>,
    ) -> BoxStream<'static, object_store::Result<Key>> {
        self.store.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> object_store::Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Key, to: &Key, options: CopyOptions) -> object_store::Result<()> {
        self.store.copy_opts(from, to, options).await
    }
}

#[test]
fn file_compacted_away_makes_a_new_plan() {
    let replicated = Replicated::run(512, 12);
    let key = |level: u32, min: usize, max: usize| Key::from(format!("{level:04x}/{min:016x}-{max:016x}.ltx"));
    let merged = |range: std::ops::Range<usize>| replicated.merged(range).1;
    let moved = |gone, to, bytes| Move { gone, to, bytes };
    let single = |range: std::ops::RangeInclusive<usize>| range.map(|txid| key(0, txid, txid)).collect();
    let store = Compacting {
        store: InMemory::new(),
        moves: Mutex::new(vec![
            moved(single(4..=6), key(1, 4, 6), merged(3..6)),
            moved([key(1, 4, 6)].into(), key(2, 4, 8), merged(3..8)),
            moved(single(9..=12), key(1, 9, 12), merged(8..12)),
        ]),
    };
    let fill = async {
        for (txid, bytes) in (1..).zip(&replicated.files) {
            store
                .store
                .put(&key(0, txid, txid), bytes.clone().into())
                .await
                .unwrap();
        }
    };
    futures_executor::block_on(fill);
    let replica = Replica::on(Arc::new(store), Layout::Hex);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("restored.db");
    let report = replica.restore().to(&path).unwrap();
    assert!(fs::read(&path).unwrap() == replicated.last());
    assert_eq!((report.txid, report.files), (13, 6), "{report}");
    assert!(report.unusable.is_empty(), "{report}");
}

#[test]
fn verify_names_what_is_wrong() {
    let replicated = Replicated::run(512, 9);
    let replica = replica(&replicated, &[(9, 0..2), (1, 0..5), (0, 2..10)]);
    let verify = || {
        Replica::open(replica.to_str().unwrap())
            .unwrap()
            .verify()
            .restore(true)
            .run()
            .unwrap()
    };
    let sound = verify();
    println!("{sound}");
    assert!(sound.is_ok(), "{sound}");
    assert_eq!((sound.files(), sound.newest), (10, Some(10)));
    let restored = sound.restored.unwrap();
    let rows = |table: &str| {
        let sql = format!("SELECT count(*) FROM {table}");
        replicated
            .database
            .connection
            .query_row(&sql, [], |row| row.get::<_, i64>(0))
            .unwrap()
            .unsigned_abs()
    };
    assert_eq!((restored.txid, restored.rows), (10, rows("entry")));
    // It is in level 1, too.
    damage(&object(&replica, 0, 4, 4));
    let report = verify();
    assert_eq!(report.problems.len(), 1, "{report}");
    assert!(
        report.problems[0].contains("0000000000000004-0000000000000004.ltx: the checksum"),
        "{report}"
    );
    assert_eq!(report.restored.unwrap().txid, 10);
    fs::remove_file(object(&replica, 0, 7, 7)).unwrap();
    let report = verify();
    println!("{report}");
    let gap = "no file has the transactions 0000000000000007-0000000000000007";
    assert!(report.problems.iter().any(|problem| problem == gap), "{report}");
    assert!(report.restored.is_none());
    let empty: TempDir = tempfile::tempdir().unwrap();
    let report = Replica::open(empty.path().to_str().unwrap())
        .unwrap()
        .verify()
        .run()
        .unwrap();
    assert!(report.to_string().contains("the replica has no files"), "{report}");
}

#[test]
fn points_have_times_and_grain() {
    let replicated = Replicated::run(512, 20);
    let replica = replica(
        &replicated,
        &[(9, 0..1), (1, 0..5), (1, 5..12), (9, 0..12), (0, 11..21)],
    );
    let points = Replica::open(replica.to_str().unwrap()).unwrap().points().unwrap();
    let shown: Vec<_> = points.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "2026-09-21T14:13:20.001Z (TXID 0000000000000001)",
            "2026-09-21T14:13:20.005Z (TXID 0000000000000005)",
            "2026-09-21T14:13:20.012Z (TXID 000000000000000c) to 2026-09-21T14:13:20.021Z (TXID 0000000000000015): \
             10 states, each transaction",
        ]
    );
    for point in points.iter().flat_map(|span| [span.first, span.last]) {
        let restored = restore(&replica, |restore| restore.txid(point.txid));
        assert!(restored.bytes == replicated.states[point.txid as usize - 1]);
        assert_eq!(restored.report.timestamp, point.timestamp);
    }
}

#[test]
fn progress_counts_files_and_bytes() {
    let replicated = Replicated::run(4096, 12);
    let replica = replica(&replicated, &[(0, 0..13)]);
    let calls = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&calls);
    let restored = restore(&replica, |restore| {
        restore.progress(move |progress| {
            seen.lock().unwrap().push(*progress);
            ControlFlow::Continue(())
        })
    });
    assert!(restored.bytes == replicated.last());
    let calls = calls.lock().unwrap();
    let (first, last) = (calls[0], calls[calls.len() - 1]);
    let bytes: u64 = replicated.files.iter().map(|file| file.len() as u64).sum();
    assert_eq!(
        (first.files_done, first.files_total, first.bytes_done, first.bytes_total),
        (0, 13, 0, bytes)
    );
    assert_eq!((last.files_done, last.bytes_done), (13, bytes));
    assert_eq!(
        (first.stage, last.stage),
        (ReplicaRestoreStage::Download, ReplicaRestoreStage::Check)
    );
    assert!(calls.is_sorted_by_key(|progress| (progress.bytes_done, progress.files_done, progress.elapsed)));
}

#[test]
fn cancelled_restore_leaves_nothing() {
    let replicated = Replicated::run(4096, 12);
    let replica = replica(&replicated, &[(0, 0..13)]);
    for stage in [ReplicaRestoreStage::Download, ReplicaRestoreStage::Check] {
        let cancelled = try_restore(&replica, |restore| {
            restore.progress(move |progress| match progress.stage {
                now if now == stage => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            })
        });
        let Err(error) = cancelled else {
            panic!("it was restored")
        };
        assert!(matches!(error, Error::Cancelled { work: "restore" }), "{error}");
    }
    let panics = || try_restore(&replica, |restore| restore.progress(|_| panic!("of the callback"))).map(drop);
    let panicked = std::panic::catch_unwind(AssertUnwindSafe(panics)).unwrap_err();
    assert_eq!(panicked.downcast_ref(), Some(&"of the callback"));
    assert!(restore(&replica, |restore| restore).bytes == replicated.last());
}
