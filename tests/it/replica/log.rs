//! Frames of SQLite's log, compared with what SQLite makes of the same log.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use larder::replica::wal::{Position, WalError, WalHeader, WalScan};
use larder::rusqlite::Connection;
use tempfile::TempDir;

const HEADER: usize = 32;
const FRAME: usize = 24;

/// A database in WAL mode that is never checkpointed by itself.
pub(super) struct Database {
    pub(super) folder: TempDir,
    pub(super) connection: Connection,
    pub(super) page_size: u32,
}

impl Database {
    pub(super) fn new(page_size: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let connection = Connection::open(folder.path().join("app.db")).unwrap();
        let setup = format!(
            "PRAGMA page_size = {page_size}; PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;
             PRAGMA wal_autocheckpoint = 0; CREATE TABLE entry(n INTEGER PRIMARY KEY, text TEXT, noise BLOB);"
        );
        connection.execute_batch(&setup).unwrap();
        Self {
            folder,
            connection,
            page_size,
        }
    }

    /// Makes the n-th commit: inserts, changes, deletes, growth and shrinking.
    pub(super) fn commit(&self, n: u32) {
        let noise = self.page_size / 3 * (n % 7);
        let sql = format!(
            "BEGIN;
             INSERT INTO entry(text, noise) VALUES ('commit {n}', randomblob({noise})), ('more', zeroblob({noise}));
             UPDATE entry SET text = text || '{n}' WHERE n % 5 = {n} % 5;
             DELETE FROM entry WHERE {n} % 4 = 3 AND n % 3 = 0;
             COMMIT;"
        );
        self.connection.execute_batch(&sql).unwrap();
        if n % 4 == 3 {
            self.connection.execute_batch("PRAGMA incremental_vacuum").unwrap();
        }
        if n % 9 == 8 {
            self.connection.execute_batch("VACUUM").unwrap();
        }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder.path().join("app.db")
    }

    pub(super) fn log(&self) -> Vec<u8> {
        fs::read(self.folder.path().join("app.db-wal")).unwrap()
    }

    /// The frames of a log that was never restarted.
    pub(super) fn frames(&self) -> u32 {
        let frame = FRAME + self.page_size as usize;
        ((self.log().len() - HEADER) / frame) as u32
    }

    /// What SQLite makes of the database and this log.
    pub(super) fn checkpointed(&self, log: &[u8]) -> Vec<u8> {
        checkpointed(&fs::read(self.path()).unwrap(), log)
    }
}

fn checkpointed(database: &[u8], log: &[u8]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("copy.db");
    fs::write(&path, database).unwrap();
    fs::write(folder.path().join("copy.db-wal"), log).unwrap();
    let connection = Connection::open(&path).unwrap();
    let busy: i64 = connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
        .unwrap();
    assert_eq!(busy, 0);
    fs::read(&path).unwrap()
}

fn scan(log: &[u8]) -> WalScan {
    let header = WalHeader::parse(log[..HEADER].try_into().unwrap()).unwrap();
    WalScan::new(header, header.start())
}

/// Writes the pages of the scan over the database.
fn applied(scan: &WalScan, log: &[u8], path: &Path) -> Vec<u8> {
    let header = WalHeader::parse(log[..HEADER].try_into().unwrap()).unwrap();
    let size = header.page_size as usize;
    let mut database = fs::read(path).unwrap();
    let length = scan.commit().unwrap() as usize * size;
    database.resize(database.len().max(length), 0);
    let mut log = Cursor::new(log);
    for (page, frame) in scan.pages() {
        let begin = (page as usize - 1) * size;
        header
            .read_page(&mut log, frame, &mut database[begin..begin + size])
            .unwrap();
    }
    database.truncate(length);
    database
}

/// The same log as a big-endian machine writes it: magic and checksums are others.
fn big_endian(log: &[u8], page_size: usize) -> Vec<u8> {
    let mut log = log.to_vec();
    log[3] |= 1;
    let mut sum = [0; 2];
    let (header, frames) = log.split_at_mut(HEADER);
    add(&mut sum, &header[..24]);
    put(&mut header[24..], sum);
    for frame in frames.chunks_exact_mut(FRAME + page_size) {
        add(&mut sum, &frame[..8]);
        add(&mut sum, &frame[FRAME..]);
        put(&mut frame[16..24], sum);
    }
    log
}

fn add(sum: &mut [u32; 2], bytes: &[u8]) {
    for (at, word) in bytes.chunks_exact(4).enumerate() {
        let other = sum[(at + 1) % 2];
        let word = u32::from_be_bytes(word.try_into().unwrap());
        sum[at % 2] = sum[at % 2].wrapping_add(word).wrapping_add(other);
    }
}

fn put(place: &mut [u8], sum: [u32; 2]) {
    place[..4].copy_from_slice(&sum[0].to_be_bytes());
    place[4..8].copy_from_slice(&sum[1].to_be_bytes());
}

/// Many pieces of 1 MiB with each page size, from commit to commit and at once.
#[test]
fn scanned_pages_are_those_of_a_checkpoint() {
    for page_size in [512, 4096, 65536] {
        let database = Database::new(page_size);
        let mut stepwise = scan(&database.log());
        for n in 0..30 {
            database.commit(n);
            stepwise
                .read_to(&mut Cursor::new(database.log()), database.frames())
                .unwrap();
        }
        let log = database.log();
        assert!(page_size == 512 || log.len() > 2 << 20, "{page_size}: {}", log.len());
        let wanted = database.checkpointed(&log);
        assert!(applied(&stepwise, &log, &database.path()) == wanted, "{page_size}");
        let big_endian = big_endian(&log, page_size as usize);
        assert!(database.checkpointed(&big_endian) == wanted, "SQLite reads it, too");
        for log in [log, big_endian] {
            let mut at_once = scan(&log);
            at_once.read_to(&mut Cursor::new(&log), database.frames()).unwrap();
            let mut unknown = scan(&log);
            unknown.read_to_last_commit(&mut Cursor::new(&log)).unwrap();
            assert_eq!(at_once.position(), unknown.position());
            for scan in [at_once, unknown] {
                assert_eq!(scan.position().frames, database.frames());
                assert!(scan.pages().eq(stepwise.pages()), "{page_size}");
                assert!(applied(&scan, &log, &database.path()) == wanted, "{page_size}");
            }
        }
    }
}

#[test]
fn cleared_scan_has_later_commits_alone() {
    let database = Database::new(512);
    database.commit(1);
    let mut scan = scan(&database.log());
    scan.read_to(&mut Cursor::new(database.log()), database.frames())
        .unwrap();
    let first = database.frames();
    scan.clear();
    assert_eq!((scan.commit(), scan.pages().count()), (None, 0));
    database
        .connection
        .execute_batch("UPDATE entry SET text = 'x' WHERE n = 1")
        .unwrap();
    scan.read_to(&mut Cursor::new(database.log()), database.frames())
        .unwrap();
    let pages: Vec<_> = scan.pages().collect();
    assert!(
        !pages.is_empty() && pages.iter().all(|(_, frame)| *frame >= first),
        "{pages:?}"
    );
    let nothing_new = scan.position();
    scan.read_to(&mut Cursor::new(database.log()), database.frames())
        .unwrap();
    assert_eq!(scan.position(), nothing_new);
}

#[test]
fn frames_of_before_a_restart_are_left_out() {
    let database = Database::new(512);
    (0..8).for_each(|n| database.commit(n));
    let old = database.frames();
    database
        .connection
        .query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()))
        .unwrap();
    database
        .connection
        .execute_batch("UPDATE entry SET text = 'x' WHERE n = 1")
        .unwrap();
    let log = database.log();
    assert_eq!(database.frames(), old, "the file keeps its length");
    let mut scan = scan(&log);
    scan.read_to_last_commit(&mut Cursor::new(&log)).unwrap();
    let new = scan.position().frames;
    assert!((1..old).contains(&new), "{new} of {old}");
    assert!(applied(&scan, &log, &database.path()) == database.checkpointed(&log));
    let error = scan.read_to(&mut Cursor::new(&log), new + 1).unwrap_err();
    assert!(
        matches!(error, WalError::Salts { frame, .. } if frame == new),
        "{error}"
    );
    let error = scan.read_to(&mut Cursor::new(&log), new - 1).unwrap_err();
    assert!(matches!(error, WalError::Passed { .. }), "{error}");
}

#[test]
fn count_inside_a_transaction_is_refused() {
    let database = Database::new(512);
    let log = database.log();
    let mut scan = scan(&log);
    let error = scan.read_to(&mut Cursor::new(&log), 1).unwrap_err();
    assert!(matches!(error, WalError::NoCommit(0)), "{error}");
    assert_eq!((scan.position().frames, scan.pages().count()), (0, 0));
    scan.read_to(&mut Cursor::new(&log), database.frames()).unwrap();
}

#[test]
fn frames_without_commit_are_left_out() {
    let database = Database::new(512);
    database.commit(1);
    let committed = database.frames();
    let spill = "PRAGMA cache_size = 5; BEGIN; INSERT INTO entry(noise) SELECT randomblob(9000) FROM entry;";
    database.connection.execute_batch(spill).unwrap();
    let all = database.frames();
    assert!(all > committed, "the transaction has spilled");
    let log = database.log();
    let mut scan = scan(&log);
    scan.read_to_last_commit(&mut Cursor::new(&log)).unwrap();
    assert_eq!(scan.position().frames, committed);
    assert!(scan.pages().all(|(_, frame)| frame < committed));
    let error = scan.read_to(&mut Cursor::new(&log), all).unwrap_err();
    // SQLite wrote some of the frames again, and corrects the checksums of those behind them as it commits.
    let is_named = matches!(error, WalError::FrameChecksum(frame) if frame >= committed);
    assert!(
        is_named || matches!(error, WalError::NoCommit(frame) if frame == all - 1),
        "{error}"
    );
    database.connection.execute_batch("COMMIT").unwrap();
    scan.read_to(&mut Cursor::new(database.log()), database.frames())
        .unwrap();
    assert!(applied(&scan, &database.log(), &database.path()) == database.checkpointed(&database.log()));
}

/// A log that must not be read past a place.
struct Guarded {
    log: Cursor<Vec<u8>>,
    end: u64,
}

impl Read for Guarded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        assert!(self.log.position() + buffer.len() as u64 <= self.end);
        assert!(buffer.len() <= 1 << 20);
        self.log.read(buffer)
    }
}

impl Seek for Guarded {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.log.seek(to)
    }
}

#[test]
fn frames_beyond_the_count_are_not_read() {
    let database = Database::new(4096);
    (0..3).for_each(|n| database.commit(n));
    let committed = database.frames();
    let mut log = database.log();
    let end = log.len() as u64;
    log.resize(log.len() + (3 << 20), 7);
    let mut scan = scan(&log);
    let mut log = Guarded {
        log: Cursor::new(log),
        end,
    };
    scan.read_to(&mut log, committed).unwrap();
    assert_eq!(scan.position().frames, committed);
}

#[test]
fn every_flipped_bit_of_a_log_is_noticed() {
    let database = Database::new(512);
    let log = database.log();
    let frames = database.frames();
    assert!(log.len() < 8 << 10, "{}", log.len());
    for bit in 0..log.len() * 8 {
        let mut log = log.clone();
        log[bit / 8] ^= 1 << (bit % 8);
        let noticed = match WalHeader::parse(log[..HEADER].try_into().unwrap()) {
            Err(_) => true,
            Ok(header) => {
                let mut scan = WalScan::new(header, header.start());
                let result = scan.read_to(&mut Cursor::new(&log), frames);
                // What was read is a prefix, up to a commit before the damage.
                let frame = (bit / 8 - HEADER) / (FRAME + 512);
                assert!(scan.position().frames as usize <= frame, "bit {bit}");
                result.is_err()
            }
        };
        assert!(noticed, "bit {bit}");
    }
}

#[test]
fn log_cut_anywhere_ends_at_a_commit() {
    let database = Database::new(512);
    (1..3).for_each(|n| database.commit(n));
    let log = database.log();
    let mut whole = scan(&log);
    whole.read_to(&mut Cursor::new(&log), database.frames()).unwrap();
    let mut ends = BTreeSet::new();
    for length in HEADER..log.len() {
        let mut scan = scan(&log);
        scan.read_to_last_commit(&mut Cursor::new(&log[..length])).unwrap();
        ends.insert(scan.position().frames);
        let error = scan
            .read_to(&mut Cursor::new(&log[..length]), database.frames())
            .unwrap_err();
        let frame = ((length - HEADER) / (FRAME + 512)) as u32;
        assert!(
            matches!(error, WalError::Truncated(at) if at == frame),
            "{length}: {error}"
        );
        // It goes on where it was once the rest is there.
        scan.read_to(&mut Cursor::new(&log), database.frames()).unwrap();
        assert_eq!(scan.position(), whole.position());
        assert!(scan.pages().eq(whole.pages()));
    }
    assert!(ends.len() >= 3, "{ends:?}");
}

#[test]
fn header_of_no_log_is_named() {
    let good: [u8; HEADER] = Database::new(512).log()[..HEADER].try_into().unwrap();
    let parse = |at: usize, value: u32| {
        let mut bytes = good;
        bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
        WalHeader::parse(&bytes).unwrap_err().to_string()
    };
    assert_eq!(parse(0, 0x1234_5678), "no log of SQLite: it begins with 0x12345678");
    assert_eq!(parse(4, 3), "the log has version 3, and 3007000 is the only one");
    assert_eq!(parse(8, 1000), "the log has pages of 1000 bytes");
    assert_eq!(parse(8, 131_072), "the log has pages of 131072 bytes");
    assert_eq!(parse(16, 7), "the header of the log has a wrong checksum");
}

#[test]
fn position_beyond_the_log_is_truncated() {
    let log = Database::new(512).log();
    let header = WalHeader::parse(log[..HEADER].try_into().unwrap()).unwrap();
    let position = Position {
        frames: u32::MAX - 1,
        checksum: [1, 2],
    };
    let mut scan = WalScan::new(header, position);
    let error = scan.read_to(&mut Cursor::new(&log), u32::MAX).unwrap_err();
    assert!(
        matches!(error, WalError::Truncated(frame) if frame == u32::MAX - 1),
        "{error}"
    );
    let mut page = [0; 512];
    let error = header
        .read_page(&mut Cursor::new(&log), u32::MAX, &mut page)
        .unwrap_err();
    assert!(matches!(error, WalError::Truncated(u32::MAX)), "{error}");
}
