//! LTX files: the transactions of a replica, in the format of Litestream 0.5 (version 3 of
//! [LTX](https://github.com/superfly/ltx)).
//!
//! A file has the pages that the transactions `min_txid` to `max_txid` changed, each once, with its last contents. A file
//! whose `min_txid` is 1 is a snapshot: it has every page. To restore, the pages of a snapshot and of the files after it
//! are written one file after another; the database is then cut to the `commit` of the last.
//!
//! # The format
//!
//! Numbers are big-endian, but for the varints of the index (LEB128, seven bits a byte, the lowest first).
//!
//! ```text
//! header, 100 bytes
//!     0  magic "LTX1"
//!     4  flags             u32   2: no checksums of the database
//!     8  page_size         u32   a power of two, 512 to 65536
//!    12  commit            u32   pages of the database after the last transaction
//!    16  min_txid          u64   1 or more
//!    24  max_txid          u64   min_txid or more
//!    32  timestamp         i64   milliseconds since 1970
//!    40  pre-apply sum     u64   0
//!    48  wal_offset        i64   where the frames of the transaction begin in the log, or 0
//!    56  wal_size          i64   their length, or 0
//!    64  wal_salts         2 u32 of the log, or 0
//!    72  node_id           u64   who wrote the file, or 0
//!    80  20 zeros
//! page, once for each, ascending by number
//!     0  number            u32   1 to commit, never that of the lock page
//!     4  flags             u16   1: a block of LZ4 with its length before it; 0: a frame of LZ4
//!     6  length            u32   with flag 1 alone
//!        contents                a block or a frame that inflates to exactly one page
//! end of the pages         6 zeros
//! index, a record for each page
//!        number, offset, size    varints: where the page's number begins, and the bytes to the next page
//! end of the index         1 zero
//!        length            u64   of the records and their zero
//! trailer, 16 bytes
//!     0  post-apply sum    u64   0
//!     8  checksum          u64   the CRC of the file, with the highest bit set
//! ```
//!
//! The CRC is CRC-64/GO-ISO. It covers everything before it in the order of the file, but the contents of pages as they
//! are *inflated*. So some bits of compressed contents may change without an effect, and go unnoticed: those whose change
//! inflates to the same page. A frame's own header and checksums are such bits, too, since they are passed over. Every
//! other change is noticed.
//!
//! The lock page, the one at byte 2^30 of the database, is in no file. It is zeros in what is restored.
//!
//! Litestream 0.5.16 began to write blocks. The versions before it wrote frames, which [`Decoder`] reads and [`Encoder`]
//! does not write. Files with checksums of the database (flags 0), which LiteFS wrote, are refused: Litestream neither
//! writes nor restores them. A file of no pages at all (`commit` 0) is not valid either.
//!
//! # Memory
//!
//! Encoding keeps a few bytes for each page, most often three, until the index is written. Decoding keeps one page; a length in a
//! file is compared with the size of a page before anything is allocated. Merging keeps a page and a read buffer for each
//! of its files.

mod decode;
mod encode;
mod index;
mod merge;

use std::io;

pub use self::decode::Decoder;
pub use self::encode::Encoder;
pub use self::merge::{merge, merge_into_snapshot};

const HEADER_SIZE: usize = 100;

const MAGIC: &[u8; 4] = b"LTX1";
/// The flag of a file that has no checksums of the database.
const NO_CHECKSUMS: u32 = 2;
/// The flag of a page that is one block of LZ4, with its length.
const BLOCK: u16 = 1;
/// The highest bit of a checksum is always set, so that none is 0.
const CHECKSUM_BIT: u64 = 1 << 63;

/// The fields of a file's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes in a page.
    pub page_size: u32,
    /// Pages of the database after the last transaction.
    pub commit: u32,
    /// The first transaction.
    pub min_txid: u64,
    /// The last transaction.
    pub max_txid: u64,
    /// When the last transaction was captured, in milliseconds since 1970.
    pub timestamp: i64,
    /// Where the frames of the transaction begin in the log, or 0.
    pub wal_offset: u64,
    /// The length of these frames, or 0.
    pub wal_size: u64,
    /// The salts of that log, or 0.
    pub wal_salts: [u32; 2],
    /// Who wrote the file, or 0.
    pub node_id: u64,
}

/// Why bytes are no LTX file, or fields cannot be written as one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LtxError {
    /// The file ends too early.
    #[error("the file ends inside {0}")]
    Truncated(&'static str),
    /// The file goes on behind its trailer.
    #[error("the file goes on behind its trailer")]
    Trailing,
    /// The first four bytes are others.
    #[error("no LTX file: it begins with {0:02x?} instead of \"LTX1\"")]
    Magic([u8; 4]),
    /// A field of the header is not valid.
    #[error("the header's {field} is {value}: {problem}")]
    Header {
        /// Its name.
        field: &'static str,
        /// What it is.
        value: i128,
        /// What it has to be.
        problem: &'static str,
    },
    /// A page is not valid.
    #[error("page {page}: {problem}")]
    Page {
        /// Its number.
        page: u32,
        /// What is wrong with it.
        problem: PageProblem,
    },
    /// The snapshot ends before the last page of the database.
    #[error("the snapshot has pages up to {last} of {commit}")]
    Incomplete {
        /// The last page that it has.
        last: u32,
        /// The pages of the database.
        commit: u32,
    },
    /// The index does not list the pages of the file.
    #[error("the index of pages does not match the pages")]
    Index,
    /// The checksum of the database in the trailer is not 0.
    #[error("the trailer has a checksum of the database, {0:016x}, and the header says that there is none")]
    DatabaseChecksum(u64),
    /// The contents do not have the file's checksum.
    #[error("the checksum is {found:016x}, and {wanted:016x} in the trailer: the file is damaged")]
    Checksum {
        /// That of the contents.
        found: u64,
        /// That of the trailer.
        wanted: u64,
    },
    /// Files to merge do not follow one another.
    #[error("transactions {next:?} do not go on from {previous:?}")]
    Gap {
        /// First and last transaction of the one file.
        previous: (u64, u64),
        /// Those of the file after it.
        next: (u64, u64),
    },
    /// Files to merge have pages of different sizes.
    #[error("pages of {next} bytes follow pages of {previous} bytes")]
    PageSizes {
        /// Bytes in a page of the one file.
        previous: u32,
        /// Those of the file after it.
        next: u32,
    },
    /// A file to merge is not valid, or reading it failed.
    #[error("file {input} of those to merge: {source}")]
    OfInput {
        /// Its place among them, from 0 on.
        input: usize,
        /// What is wrong with it.
        source: Box<LtxError>,
    },
    /// There is no file to merge.
    #[error("there is no file to merge")]
    NoFiles,
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What is wrong with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PageProblem {
    /// It has no number.
    #[error("pages are counted from 1")]
    Zero,
    /// Its number is not above the one before it.
    #[error("it follows page {0}")]
    Order(u32),
    /// The snapshot leaves a page out.
    #[error("it follows page {0}, and a snapshot leaves no page out")]
    Skipped(u32),
    /// Its number is above the number of pages.
    #[error("the database has {0} pages")]
    BeyondCommit(u32),
    /// It is the lock page.
    #[error("the lock page is in no file")]
    LockPage,
    /// Its flags have no meaning.
    #[error("its flags are {0:#06x}")]
    Flags(u16),
    /// Its compressed length is more than a page can take.
    #[error("its compressed length is {length}, and {most} is the most for a page of this size")]
    Length {
        /// The length in the file.
        length: u32,
        /// The most that LZ4 makes of a page.
        most: u32,
    },
    /// It is not one page of the file's size.
    #[error("its contents have {0} bytes")]
    Size(usize),
    /// It is a frame of LZ4 with features that Litestream does not use.
    #[error("its LZ4 frame is not valid, or not of the kind that Litestream wrote")]
    Frame,
    /// LZ4 cannot inflate it.
    #[error("its contents are not valid LZ4")]
    Compression,
}

impl Header {
    /// Whether the file has every page of the database.
    #[must_use]
    pub fn is_snapshot(&self) -> bool {
        self.min_txid == 1
    }

    fn to_bytes(self) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        };
        put(MAGIC);
        put(&NO_CHECKSUMS.to_be_bytes());
        put(&self.page_size.to_be_bytes());
        put(&self.commit.to_be_bytes());
        put(&self.min_txid.to_be_bytes());
        put(&self.max_txid.to_be_bytes());
        put(&self.timestamp.to_be_bytes());
        put(&[0; 8]);
        put(&self.wal_offset.to_be_bytes());
        put(&self.wal_size.to_be_bytes());
        put(&self.wal_salts[0].to_be_bytes());
        put(&self.wal_salts[1].to_be_bytes());
        put(&self.node_id.to_be_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; HEADER_SIZE]) -> Result<Self, LtxError> {
        let magic = [bytes[0], bytes[1], bytes[2], bytes[3]];
        if &magic != MAGIC {
            return Err(LtxError::Magic(magic));
        }
        let flags = be_u32(bytes, 4);
        if flags != NO_CHECKSUMS {
            return Err(invalid(
                "flag word",
                flags,
                "only 2, a file without checksums of the database, is known",
            ));
        }
        let pre_apply = be_u64(bytes, 40);
        if pre_apply != 0 {
            return Err(invalid(
                "pre-apply checksum",
                pre_apply,
                "it has to be 0 in a file without checksums of the database",
            ));
        }
        let header = Self {
            page_size: be_u32(bytes, 8),
            commit: be_u32(bytes, 12),
            min_txid: be_u64(bytes, 16),
            max_txid: be_u64(bytes, 24),
            timestamp: be_u64(bytes, 32).cast_signed(),
            wal_offset: be_u64(bytes, 48),
            wal_size: be_u64(bytes, 56),
            wal_salts: [be_u32(bytes, 64), be_u32(bytes, 68)],
            node_id: be_u64(bytes, 72),
        };
        header.validate()?;
        Ok(header)
    }

    fn validate(&self) -> Result<(), LtxError> {
        if !is_page_size(self.page_size) {
            return Err(invalid(
                "page size",
                self.page_size,
                "it has to be a power of two from 512 to 65536",
            ));
        }
        if self.commit == 0 {
            return Err(invalid("commit", 0u32, "a database has a page"));
        }
        if self.min_txid == 0 {
            return Err(invalid("min TXID", 0u32, "transactions are counted from 1"));
        }
        if self.max_txid < self.min_txid {
            return Err(invalid("max TXID", self.max_txid, "it is below the min TXID"));
        }
        if self.wal_offset > i64::MAX as u64 {
            return Err(invalid("WAL offset", self.wal_offset, "no file is that long"));
        }
        if self.wal_size > i64::MAX as u64 {
            return Err(invalid("WAL size", self.wal_size, "no file is that long"));
        }
        if self.wal_offset == 0 && (self.wal_size != 0 || self.wal_salts != [0, 0]) {
            return Err(invalid("WAL offset", 0u32, "it is needed beside a WAL size or salts"));
        }
        Ok(())
    }
}

/// The number of the page that no file has: the one at byte 2^30, which SQLite locks.
#[must_use]
pub fn lock_page(page_size: u32) -> u32 {
    (1 << 30) / page_size + 1
}

/// Whether SQLite has pages of this size.
pub(super) fn is_page_size(size: u32) -> bool {
    size.is_power_of_two() && (512..=65536).contains(&size)
}

fn invalid(field: &'static str, value: impl Into<i128>, problem: &'static str) -> LtxError {
    let value = value.into();
    LtxError::Header { field, value, problem }
}

/// The most bytes that LZ4 makes of a page: a little more than the page.
fn longest_block(page_size: u32) -> u32 {
    lz4_flex::block::get_maximum_output_size(page_size as usize) as u32
}

fn be_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn be_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The running checksum of a file.
struct Checksum(crc_fast::Digest);

impl Checksum {
    fn new() -> Self {
        Self(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64GoIso))
    }

    fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn value(&self) -> u64 {
        self.0.finalize() | CHECKSUM_BIT
    }
}

/// Checks that pages come in an order that a file may have.
struct PageOrder {
    commit: u32,
    lock_page: u32,
    is_snapshot: bool,
    last: u32,
}

impl PageOrder {
    fn of(header: &Header) -> Self {
        Self {
            commit: header.commit,
            lock_page: lock_page(header.page_size),
            is_snapshot: header.is_snapshot(),
            last: 0,
        }
    }

    fn next(&mut self, page: u32) -> Result<(), LtxError> {
        let problem = if page == 0 {
            Some(PageProblem::Zero)
        } else if page > self.commit {
            Some(PageProblem::BeyondCommit(self.commit))
        } else if page == self.lock_page {
            Some(PageProblem::LockPage)
        } else if page <= self.last {
            Some(PageProblem::Order(self.last))
        } else if self.is_snapshot && page != self.after(self.last) {
            Some(PageProblem::Skipped(self.last))
        } else {
            None
        };
        if let Some(problem) = problem {
            return Err(LtxError::Page { page, problem });
        }
        self.last = page;
        Ok(())
    }

    fn end(&self) -> Result<(), LtxError> {
        if self.is_snapshot && self.after(self.last) <= self.commit {
            return Err(LtxError::Incomplete {
                last: self.last,
                commit: self.commit,
            });
        }
        Ok(())
    }

    /// The next page but for the lock page. No file has the page 2^32 - 1 before another.
    fn after(&self, page: u32) -> u32 {
        let next = page.saturating_add(1);
        if next == self.lock_page { next + 1 } else { next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(page_size: u32, commit: u32) -> Header {
        Header {
            page_size,
            commit,
            min_txid: 1,
            max_txid: 1,
            timestamp: 0,
            wal_offset: 0,
            wal_size: 0,
            wal_salts: [0, 0],
            node_id: 0,
        }
    }

    /// The pages of a whole snapshot that ends before, at or behind the lock page.
    #[test]
    fn snapshot_leaves_out_the_lock_page_only() {
        let lock_page = lock_page(65536);
        for commit in lock_page - 2..lock_page + 3 {
            let mut order = PageOrder::of(&header(65536, commit));
            for page in (1..=commit).filter(|page| *page != lock_page) {
                assert!(order.end().is_err(), "{page} of {commit}");
                order.next(page).unwrap();
            }
            order.end().unwrap();
            assert!(order.next(lock_page).is_err());
        }
    }

    #[test]
    fn last_page_number_does_not_overflow() {
        let mut order = PageOrder::of(&Header {
            min_txid: 2,
            max_txid: 2,
            ..header(512, u32::MAX)
        });
        order.next(u32::MAX).unwrap();
        assert!(order.next(u32::MAX).is_err());
        order.end().unwrap();
    }
}
