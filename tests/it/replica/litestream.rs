//! The real `litestream`: it restores what is encoded here, and what it wrote is decoded here.

use std::env;
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use larder::replica::ltx::{Decoder, Header, merge};
use larder::replica::wal::{WalHeader, WalScan};

use super::log::Database;
use super::{File, header};
use crate::support::child::{self, PATIENCE};

/// A `litestream` that is installed.
pub(super) struct Litestream {
    program: PathBuf,
    pub(super) version: String,
}

impl Litestream {
    /// Those that `LARDER_LITESTREAM` lists like a `PATH`, or the one on the `PATH`. None is said visibly.
    pub(super) fn all() -> Vec<Self> {
        let listed = env::var_os("LARDER_LITESTREAM").unwrap_or_else(|| "litestream".into());
        let found: Vec<_> = env::split_paths(&listed).filter_map(Self::find).collect();
        if found.is_empty() {
            child::skipped("there is no litestream here: put it on the PATH, or paths into LARDER_LITESTREAM");
        }
        found
    }

    fn find(program: PathBuf) -> Option<Self> {
        let output = Command::new(&program).arg("version").output().ok()?;
        let version = String::from_utf8(output.stdout)
            .ok()?
            .trim()
            .trim_start_matches('v')
            .to_owned();
        output.status.success().then_some(Self { program, version })
    }

    #[cfg(feature = "s3")]
    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    /// The last number of its version, 0.5.17.
    pub(super) fn patch(&self) -> u32 {
        let patch = self.version.strip_prefix("0.5.").expect("a version of 0.5");
        patch.parse().expect("a number")
    }

    /// Versions before 0.5.16 know frames alone.
    pub(super) fn knows_blocks(&self) -> bool {
        self.patch() >= 16
    }

    /// The database that it restores, of the newest transaction or of this one.
    #[track_caller]
    pub(super) fn restore(&self, replica: &Path, txid: Option<u64>) -> Vec<u8> {
        let txid = txid.map(|txid| ["-txid".into(), format!("{txid:016x}")]);
        let restored = self.restore_with(replica, txid.as_ref().map_or(&[], |txid| txid));
        restored.unwrap_or_else(|told| panic!("{} restore: {told}", self.version))
    }

    /// The database that it restores with these arguments, or what it says.
    pub(super) fn restore_with(&self, replica: &Path, arguments: &[String]) -> Result<Vec<u8>, String> {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("restored.db");
        let mut command = Command::new(&self.program);
        command.arg("restore").arg("-o").arg(&target).args(arguments);
        let output = command.arg(url(replica)).output().unwrap();
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(fs::read(target).unwrap())
    }

    /// `restore -f`, until it is ended.
    pub(super) fn follow(&self, replica: &Path, target: &Path) -> Child {
        let mut command = Command::new(&self.program);
        command
            .args(["restore", "-f", "-follow-interval", "50ms", "-o"])
            .arg(target);
        command.arg(url(replica));
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    pub(super) fn replicate(&self, database: &Path, replica: &Path) -> Child {
        let mut command = Command::new(&self.program);
        command.arg("replicate").arg(database).arg(url(replica));
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }
}

pub(super) fn url(replica: &Path) -> String {
    format!("file://{}", replica.display())
}

/// Writes a file into the folder replica, with its timestamp.
pub(super) fn put(replica: &Path, level: u32, header: &Header, bytes: &[u8]) {
    let folder = replica.join(format!("ltx/{level}"));
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join(format!("{:016x}-{:016x}.ltx", header.min_txid, header.max_txid));
    fs::write(&path, bytes).unwrap();
    let time = UNIX_EPOCH + Duration::from_millis(header.timestamp.cast_unsigned());
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(time).unwrap();
}

/// The files of a level, in the order of their names.
pub(super) fn files(replica: &Path, level: u32) -> Vec<Vec<u8>> {
    let Ok(entries) = fs::read_dir(replica.join(format!("ltx/{level}"))) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "ltx"));
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// A database whose commits are encoded, a file each: the first as a snapshot, the others from the frames of the log.
pub(super) struct Replicated {
    pub(super) database: Database,
    pub(super) files: Vec<Vec<u8>>,
    /// The database after each of them, as SQLite makes it.
    pub(super) states: Vec<Vec<u8>>,
}

impl Replicated {
    pub(super) fn run(page_size: u32, commits: u32) -> Self {
        let database = Database::new(page_size);
        let mut log = Cursor::new(database.log());
        let wal = WalHeader::parse(log.get_ref()[..32].try_into().unwrap()).unwrap();
        let mut scan = WalScan::new(wal, wal.start());
        scan.read_to(&mut log, database.frames()).unwrap();
        let first = database.checkpointed(log.get_ref());
        let size = page_size as usize;
        let snapshot = File {
            header: header(page_size, (first.len() / size) as u32, (1, 1)),
            pages: (1..).zip(first.chunks(size).map(<[u8]>::to_vec)).collect(),
        };
        let (mut files, mut states) = (vec![snapshot.encode()], vec![first]);
        for n in 0..commits {
            database.commit(n);
            scan.clear();
            let begin = wal.offset(scan.position().frames);
            let mut log = Cursor::new(database.log());
            scan.read_to(&mut log, database.frames()).unwrap();
            let txid = u64::from(n) + 2;
            let page = |(page, frame)| {
                let mut contents = vec![0; size];
                wal.read_page(&mut log, frame, &mut contents).unwrap();
                (page, contents)
            };
            let file = File {
                pages: scan.pages().map(page).collect(),
                header: Header {
                    wal_offset: begin,
                    wal_size: wal.offset(scan.position().frames) - begin,
                    wal_salts: wal.salts,
                    node_id: 7,
                    ..header(page_size, scan.commit().unwrap(), (txid, txid))
                },
            };
            files.push(file.encode());
            states.push(database.checkpointed(log.get_ref()));
        }
        Self {
            database,
            files,
            states,
        }
    }

    pub(super) fn last(&self) -> &[u8] {
        self.states.last().unwrap()
    }

    pub(super) fn merged(&self, range: std::ops::Range<usize>) -> (Header, Vec<u8>) {
        let files = self.files[range].iter();
        let (bytes, _) = merge(
            files.map(|bytes| Decoder::new(bytes.as_slice()).unwrap()).collect(),
            Vec::new(),
        )
        .unwrap();
        (*Decoder::new(bytes.as_slice()).unwrap().header(), bytes)
    }
}

#[test]
fn litestream_restores_encoded_files() {
    for litestream in Litestream::all().iter().filter(|litestream| litestream.knows_blocks()) {
        for page_size in [512, 4096, 65536] {
            let replicated = Replicated::run(page_size, 20);
            let replica = replicated.database.folder.path().join("replica");
            for bytes in &replicated.files {
                put(&replica, 0, Decoder::new(bytes.as_slice()).unwrap().header(), bytes);
            }
            let version = &litestream.version;
            assert!(
                litestream.restore(&replica, None) == replicated.last(),
                "{version}, {page_size}"
            );
            for txid in [1, 2, 9, 14] {
                let restored = litestream.restore(&replica, Some(txid));
                assert!(
                    restored == replicated.states[txid as usize - 1],
                    "{version}, {page_size}: {txid}"
                );
            }
        }
    }
}

#[test]
fn litestream_restores_merged_files() {
    for litestream in Litestream::all().iter().filter(|litestream| litestream.knows_blocks()) {
        let replicated = Replicated::run(4096, 20);
        let replica = replicated.database.folder.path().join("replica");
        // A snapshot, a compacted file behind it, and one transaction of level 0.
        for (level, range) in [(9, 0..8), (1, 8..20), (0, 20..21)] {
            let (header, bytes) = replicated.merged(range);
            put(&replica, level, &header, &bytes);
        }
        assert!(
            litestream.restore(&replica, None) == replicated.last(),
            "{}",
            litestream.version
        );
    }
}

#[test]
fn litestream_daemon_files_make_the_restored_database() {
    for litestream in Litestream::all() {
        let database = Database::new(4096);
        let replica = database.folder.path().join("replica");
        let mut daemon = litestream.replicate(&database.path(), &replica);
        // It may lock the file for a moment.
        database.connection.busy_timeout(PATIENCE).unwrap();
        for n in 0..4 {
            let before = files(&replica, 0).len();
            database.commit(n);
            wait(|| files(&replica, 0).len() > before);
        }
        end(&mut daemon);
        let files = files(&replica, 0);
        let decoders = files
            .iter()
            .map(|bytes| Decoder::new(bytes.as_slice()).unwrap())
            .collect();
        let (merged, _) = merge(decoders, Vec::new()).unwrap();
        let (mut applied, mut at_once) = (Vec::new(), Vec::new());
        files
            .iter()
            .for_each(|bytes| File::decode(bytes.as_slice()).unwrap().apply(&mut applied));
        File::decode(merged.as_slice()).unwrap().apply(&mut at_once);
        let restored = litestream.restore(&replica, None);
        assert!(applied == restored && at_once == restored, "{}", litestream.version);
        assert!(restored.len() > 20 << 10, "it has the rows");
        println!("litestream {}: {} files", litestream.version, files.len());
    }
}

pub(super) fn wait(until: impl Fn() -> bool) {
    let begin = Instant::now();
    while !until() {
        assert!(begin.elapsed() < PATIENCE, "the daemon does not replicate");
        thread::sleep(Duration::from_millis(20));
    }
}

/// The daemon replicates what is left, and ends.
pub(super) fn end(daemon: &mut Child) {
    let pid = daemon.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    daemon.wait().unwrap();
}
