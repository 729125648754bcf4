//! The head of the WAL index, the `-shm` file: what all processes have committed to the log, and how much of it is in
//! the database file. Reading it takes no lock and calls no SQLite, so any thread may ask at any time.
//!
//! The format is SQLite's, <https://sqlite.org/walformat.html#the_wal_index_file_format>: two equal copies of a header
//! of 48 bytes, in native byte order, then the number of frames that were moved. A process that commits writes the
//! second copy first, so two copies that differ mean a commit at this moment.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// "The format version number. Always 3007000."
const VERSION: u32 = 3_007_000;

const HEADER: usize = 48;

/// The attempts to read the two copies between two commits.
const ATTEMPTS: u32 = 10;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct WalIndex {
    /// "A counter incremented with each transaction" of any process. A checkpoint leaves it.
    pub(crate) changes: u32,
    page_size: u32,
    /// Number of frames in the log.
    pub(crate) frames: u32,
    /// The running checksum up to the last of them.
    pub(crate) checksum: [u32; 2],
    /// The salts of the log, to which these frames belong.
    pub(crate) salts: [u32; 2],
    /// Number of frames that are in the database file, too.
    moved: u32,
    /// Size of the database in pages.
    pub(crate) pages: u32,
}

impl WalIndex {
    /// `None` if the index is being rebuilt, or is not as expected.
    pub(crate) fn read(index: &File) -> Option<Self> {
        (0..ATTEMPTS).find_map(|_| {
            let mut bytes = [0; 2 * HEADER + 4];
            index.read_exact_at(&mut bytes, 0).ok()?;
            Self::parse(&bytes)
        })
    }

    fn parse(bytes: &[u8; 2 * HEADER + 4]) -> Option<Self> {
        let number = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let is_init = bytes[12] == 1;
        if bytes[..HEADER] != bytes[HEADER..2 * HEADER] || number(0) != VERSION || !is_init {
            return None;
        }
        let page_size = u32::from(u16::from_ne_bytes([bytes[14], bytes[15]]));
        Some(Self {
            changes: number(8),
            // "The value 1 represents a page size of 65536."
            page_size: if page_size == 1 { 65536 } else { page_size },
            frames: number(16),
            checksum: [number(24), number(28)],
            // Copied from the log, which is big-endian.
            salts: [number(32), number(36)].map(u32::from_be),
            moved: number(2 * HEADER),
            pages: number(20),
        })
    }

    /// Number of bytes in use in the log: each frame has a header of 24 bytes.
    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.frames) * (u64::from(self.page_size) + 24)
    }

    /// Whether a part of the log is not in the database file.
    pub(crate) fn is_unmoved(&self) -> bool {
        self.moved < self.frames
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    /// The index, as `-shm` has it.
    fn index(path: &std::path::Path) -> WalIndex {
        let mut shm = path.as_os_str().to_owned();
        shm.push("-shm");
        WalIndex::read(&File::open(shm).unwrap()).unwrap()
    }

    #[test]
    fn index_counts_commits_and_frames() {
        for page_size in [512_u32, 4096, 65536] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("app.db");
            let conn = Connection::open(&path).unwrap();
            conn.execute_batch(&format!(
                "PRAGMA page_size = {page_size}; PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0;
                 CREATE TABLE t(data);"
            ))
            .unwrap();
            let before = index(&path);
            for _ in 0..5 {
                conn.execute("INSERT INTO t VALUES (zeroblob(1000))", []).unwrap();
            }
            let after = index(&path);
            assert_eq!(after.changes.wrapping_sub(before.changes), 5);
            let wal = std::fs::metadata(folder.path().join("app.db-wal")).unwrap().len();
            assert_eq!(after.bytes(), wal - 32);
            assert!(after.is_unmoved());
            let moved = "PRAGMA wal_checkpoint(TRUNCATE)";
            conn.query_row(moved, [], |_| Ok(())).unwrap();
            let empty = index(&path);
            assert_eq!((empty.changes, empty.bytes()), (after.changes, 0));
            assert!(!empty.is_unmoved());
            let pages: u32 = conn.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
            assert_eq!(empty.pages, pages);
        }
    }
}
