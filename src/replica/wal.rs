//! The log that SQLite writes in WAL mode: which pages a range of its frames changed, and where their contents are. The
//! format is [SQLite's](https://sqlite.org/fileformat2.html#the_write_ahead_log).
//!
//! ```text
//! header, 32 bytes   magic  version  page size  sequence  salt 1  salt 2  checksum 1  checksum 2
//! frame: 24 bytes    page   pages of the database after a commit, else 0  salt 1  salt 2  checksum 1  checksum 2
//!        and a page
//! ```
//!
//! All numbers are big-endian, of 32 bits. The lowest bit of the magic gives the byte order of the words that are summed.
//! The checksum of a frame continues that of the frame before it; the first continues that of the header. It covers the
//! first eight bytes of the frame's header, and the page.
//!
//! After a restart of the log the new frames overwrite the old ones from the beginning, with other salts. So the length of
//! the file does not say where its frames end. Those who know the number of committed frames read up to it
//! ([`WalScan::read_to`]); any frame before it that is not valid is then an error. Others read up to the last commit
//! ([`WalScan::read_to_last_commit`]).
//!
//! Frames that are not committed yet may still change, checksums included: SQLite writes a page of a large transaction
//! again in its frame, and corrects the checksums behind it as it commits. So reading goes on from a commit only.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom};

/// The length of the header.
pub const HEADER_SIZE: usize = 32;
/// The length of what is before the page of each frame.
pub const FRAME_HEADER_SIZE: usize = 24;

/// So many bytes are read at once, less what is not a whole frame.
const PIECE: usize = 1 << 20;

const MAGIC: u32 = 0x377f_0682;
const VERSION: u32 = 3_007_000;

/// The header of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalHeader {
    /// Bytes in a page.
    pub page_size: u32,
    /// How many times the log was restarted.
    pub sequence: u32,
    /// They stand in each frame that belongs to this header.
    pub salts: [u32; 2],
    /// The byte order of the words that are summed.
    pub is_big_endian: bool,
    /// The checksum that the first frame continues.
    pub checksum: [u32; 2],
}

/// A place between two frames, where reading can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The number of frames before it.
    pub frames: u32,
    /// The running checksum up to it.
    pub checksum: [u32; 2],
}

/// Why bytes are no log, or not the committed frames of one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalError {
    /// It begins with other bytes than a log.
    #[error("no log of SQLite: it begins with {0:#010x}")]
    Magic(u32),
    /// It has a version that SQLite never wrote.
    #[error("the log has version {0}, and {VERSION} is the only one")]
    Version(u32),
    /// SQLite has no pages of this size.
    #[error("the log has pages of {0} bytes")]
    PageSize(u32),
    /// The header is damaged.
    #[error("the header of the log has a wrong checksum")]
    HeaderChecksum,
    /// The log ends before a frame that was committed.
    #[error("the log ends before its frame {0}")]
    Truncated(u32),
    /// A frame is not of the log's header.
    #[error("frame {frame} of the log has the salts {found:08x?}, and the header has {wanted:08x?}")]
    Salts {
        /// Its number, counted from 0.
        frame: u32,
        /// Its salts.
        found: [u32; 2],
        /// Those of the header.
        wanted: [u32; 2],
    },
    /// A frame does not continue the one before it.
    #[error("frame {0} of the log has a wrong checksum")]
    FrameChecksum(u32),
    /// A frame has no page.
    #[error("frame {0} of the log is of page 0")]
    PageZero(u32),
    /// The last of the frames that were to be read does not commit.
    #[error("frame {0} of the log was to be the last of a transaction, and it is not")]
    NoCommit(u32),
    /// The position is beyond the frames that were to be read.
    #[error("{position} frames of the log were read, and {frames} are committed")]
    Passed {
        /// The frames that were read before.
        position: u32,
        /// The frames that were to be read.
        frames: u32,
    },
    /// Reading failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl WalHeader {
    /// Reads a header.
    ///
    /// # Errors
    ///
    /// It is not that of a log.
    pub fn parse(bytes: &[u8; HEADER_SIZE]) -> Result<Self, WalError> {
        let magic = be_u32(bytes, 0);
        if magic & !1 != MAGIC {
            return Err(WalError::Magic(magic));
        }
        let version = be_u32(bytes, 4);
        if version != VERSION {
            return Err(WalError::Version(version));
        }
        let header = Self {
            page_size: be_u32(bytes, 8),
            sequence: be_u32(bytes, 12),
            salts: [be_u32(bytes, 16), be_u32(bytes, 20)],
            is_big_endian: magic & 1 == 1,
            checksum: [be_u32(bytes, 24), be_u32(bytes, 28)],
        };
        if !(header.page_size.is_power_of_two() && (512..=65536).contains(&header.page_size)) {
            return Err(WalError::PageSize(header.page_size));
        }
        if header.sum([0, 0], &bytes[..24]) != header.checksum {
            return Err(WalError::HeaderChecksum);
        }
        Ok(header)
    }

    /// Where frame `frame`, counted from 0, begins in the log.
    #[must_use]
    pub fn offset(&self, frame: u32) -> u64 {
        HEADER_SIZE as u64 + u64::from(frame) * self.frame_size() as u64
    }

    /// The place before the first frame.
    #[must_use]
    pub fn start(&self) -> Position {
        Position {
            frames: 0,
            checksum: self.checksum,
        }
    }

    /// Reads the page of a frame.
    ///
    /// # Errors
    ///
    /// The log is shorter, or reading failed.
    ///
    /// # Panics
    ///
    /// If `contents` does not have the length of a page.
    pub fn read_page(&self, log: &mut (impl Read + Seek), frame: u32, contents: &mut [u8]) -> Result<(), WalError> {
        assert_eq!(contents.len(), self.page_size as usize, "room for a page");
        log.seek(SeekFrom::Start(self.offset(frame) + FRAME_HEADER_SIZE as u64))?;
        log.read_exact(contents).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => WalError::Truncated(frame),
            _ => error.into(),
        })
    }

    fn frame_size(&self) -> usize {
        FRAME_HEADER_SIZE + self.page_size as usize
    }

    fn sum(&self, from: [u32; 2], bytes: &[u8]) -> [u32; 2] {
        if self.is_big_endian {
            sum(from, bytes, u32::from_be_bytes)
        } else {
            sum(from, bytes, u32::from_le_bytes)
        }
    }
}

/// The pages that a range of frames changed. It goes on from commit to commit.
pub struct WalScan {
    header: WalHeader,
    /// The end of the last commit that was read.
    position: Position,
    /// The pages of the database after it.
    commit: Option<u32>,
    /// The number of commits.
    commits: u32,
    /// The last committed frame of each page.
    pages: BTreeMap<u32, u32>,
    piece: Vec<u8>,
}

impl WalScan {
    /// Begins at a position of the log with this header: [`WalHeader::start`], or one that was reached before.
    #[must_use]
    pub fn new(header: WalHeader, position: Position) -> Self {
        let frames = (PIECE / header.frame_size()).max(1);
        Self {
            piece: vec![0; frames * header.frame_size()],
            header,
            position,
            commit: None,
            commits: 0,
            pages: BTreeMap::new(),
        }
    }

    /// The header of the log.
    #[must_use]
    pub fn header(&self) -> &WalHeader {
        &self.header
    }

    /// The end of the last commit that was read.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// The pages of the database after the last commit, if there was one.
    #[must_use]
    pub fn commit(&self) -> Option<u32> {
        self.commit
    }

    /// The number of commits that were read.
    #[must_use]
    pub fn commits(&self) -> u32 {
        self.commits
    }

    /// The changed pages that the database still has after the last commit, ascending, each with its last frame.
    pub fn pages(&self) -> impl Iterator<Item = (u32, u32)> {
        let commit = self.commit.unwrap_or(0);
        self.pages.range(..=commit).map(|(&page, &frame)| (page, frame))
    }

    /// Forgets the pages. What is read from now on is another range.
    pub fn clear(&mut self) {
        self.pages.clear();
        self.commit = None;
        self.commits = 0;
    }

    /// Reads the frames from the position to `frames`, the number of those that are committed.
    ///
    /// # Errors
    ///
    /// One of these frames is not valid or not there, the last of them does not commit, or reading failed. The commits
    /// before it were read.
    pub fn read_to(&mut self, log: &mut (impl Read + Seek), frames: u32) -> Result<(), WalError> {
        if frames < self.position.frames {
            let position = self.position.frames;
            return Err(WalError::Passed { position, frames });
        }
        self.read(log, frames)?;
        if self.position.frames != frames {
            return Err(WalError::NoCommit(frames - 1));
        }
        Ok(())
    }

    /// Reads the frames from the position to the last commit that is there: to the end of the log, or to a frame that is
    /// not valid, such as one of before the log was restarted.
    ///
    /// # Errors
    ///
    /// Reading failed.
    pub fn read_to_last_commit(&mut self, log: &mut (impl Read + Seek)) -> io::Result<()> {
        match self.read(log, u32::MAX) {
            Err(WalError::Io(error)) => Err(error),
            _ => Ok(()),
        }
    }

    /// Reads in pieces. The position and the pages move from commit to commit.
    fn read(&mut self, log: &mut (impl Read + Seek), frames: u32) -> Result<(), WalError> {
        log.seek(SeekFrom::Start(self.header.offset(self.position.frames)))?;
        let mut piece = std::mem::take(&mut self.piece);
        let result = self.read_pieces(log, frames, &mut piece);
        self.piece = piece;
        result
    }

    fn read_pieces(&mut self, log: &mut impl Read, frames: u32, piece: &mut [u8]) -> Result<(), WalError> {
        let size = self.header.frame_size();
        let mut end = self.position;
        let mut uncommitted = Vec::new();
        while end.frames < frames {
            let wanted = (piece.len() / size).min((frames - end.frames) as usize) * size;
            let read = fill(log, &mut piece[..wanted])?;
            for frame in piece[..read].chunks_exact(size) {
                let (page, commit) = self.check(&mut end, frame)?;
                uncommitted.push((page, end.frames - 1));
                if commit != 0 {
                    self.pages.extend(uncommitted.drain(..));
                    (self.position, self.commit) = (end, Some(commit));
                    self.commits += 1;
                }
            }
            if read < wanted {
                return Err(WalError::Truncated(end.frames));
            }
        }
        Ok(())
    }

    /// Compares a frame with its checksum, and moves `end` past it. Returns its page and the size of the database if it
    /// commits.
    fn check(&self, end: &mut Position, frame: &[u8]) -> Result<(u32, u32), WalError> {
        let found = [be_u32(frame, 8), be_u32(frame, 12)];
        if found != self.header.salts {
            let wanted = self.header.salts;
            return Err(WalError::Salts {
                frame: end.frames,
                found,
                wanted,
            });
        }
        let checksum = self.header.sum(end.checksum, &frame[..8]);
        let checksum = self.header.sum(checksum, &frame[FRAME_HEADER_SIZE..]);
        if checksum != [be_u32(frame, 16), be_u32(frame, 20)] {
            return Err(WalError::FrameChecksum(end.frames));
        }
        let page = be_u32(frame, 0);
        if page == 0 {
            return Err(WalError::PageZero(end.frames));
        }
        *end = Position {
            frames: end.frames + 1,
            checksum,
        };
        Ok((page, be_u32(frame, 4)))
    }
}

/// Reads until the buffer is full or the log is over.
fn fill(log: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match log.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn sum(from: [u32; 2], bytes: &[u8], word: impl Fn([u8; 4]) -> u32) -> [u32; 2] {
    let word = |bytes: &[u8]| word(bytes.try_into().expect("four bytes"));
    bytes.chunks_exact(8).fold(from, |[one, two], pair| {
        let one = one.wrapping_add(word(&pair[..4])).wrapping_add(two);
        [one, two.wrapping_add(word(&pair[4..])).wrapping_add(one)]
    })
}

fn be_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
