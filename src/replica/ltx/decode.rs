//! Reads a file: the header, the pages one after another, and at the end everything that shows that it is whole.

use std::io::{self, BufReader, Read};

use lz4_flex::block::{decompress_into, decompress_into_with_dict};

use super::index::Record;
use super::{BLOCK, Checksum, HEADER_SIZE, Header, LtxError, PageOrder, PageProblem, be_u32, be_u64, longest_block};

/// Reads are made of so many bytes.
const READ_BUFFER: usize = 32 << 10;

/// Reads one file. What it gave counts once [`next_page`](Self::next_page) has returned `None`: only then is the
/// checksum known to be right.
pub struct Decoder<R> {
    from: Input<R>,
    header: Header,
    order: PageOrder,
    index: ExpectedIndex,
    compressed: Vec<u8>,
    is_over: bool,
}

/// The reader, the position in the file, and the checksum up to it.
struct Input<R> {
    from: BufReader<R>,
    checksum: Checksum,
    position: u64,
}

/// The index as it has to be: its length, and its checksum.
struct ExpectedIndex {
    length: u64,
    checksum: Checksum,
}

impl<R: Read> Decoder<R> {
    /// Reads the header. The reader need not be buffered.
    ///
    /// # Errors
    ///
    /// The file is not valid, or reading failed.
    pub fn new(from: R) -> Result<Self, LtxError> {
        let mut from = Input {
            from: BufReader::with_capacity(READ_BUFFER, from),
            checksum: Checksum::new(),
            position: 0,
        };
        let bytes: [u8; HEADER_SIZE] = from.take("the header")?;
        let header = Header::from_bytes(&bytes)?;
        Ok(Self {
            from,
            order: PageOrder::of(&header),
            index: ExpectedIndex {
                length: 0,
                checksum: Checksum::new(),
            },
            compressed: vec![0; longest_block(header.page_size) as usize],
            is_over: false,
            header,
        })
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Reads the next page into `contents`, which has the length of a page, and returns its number. `None`: there is no
    /// other page, and index, checksum and end of the file are as they have to be.
    ///
    /// # Errors
    ///
    /// The file is not valid, or reading failed. Nothing of the file may be used then.
    ///
    /// # Panics
    ///
    /// If `contents` has another length.
    pub fn next_page(&mut self, contents: &mut [u8]) -> Result<Option<u32>, LtxError> {
        assert_eq!(contents.len(), self.header.page_size as usize, "room for a page");
        if self.is_over {
            return Ok(None);
        }
        let begin = self.from.position;
        let head: [u8; 6] = self.from.take("the number of a page")?;
        if head == [0; 6] {
            self.end()?;
            return Ok(None);
        }
        let page = be_u32(&head, 0);
        let flags = u16::from_be_bytes([head[4], head[5]]);
        self.order.next(page)?;
        match flags {
            BLOCK => self.block(page, contents)?,
            0 => self.frame(page, contents)?,
            _ => return Err(problem(page, PageProblem::Flags(flags))),
        }
        self.from.checksum.add(contents);
        self.index.push(page, begin, self.from.position - begin);
        Ok(Some(page))
    }

    /// Reads a page that is one block of LZ4, with its length.
    fn block(&mut self, page: u32, contents: &mut [u8]) -> Result<(), LtxError> {
        let length = u32::from_be_bytes(self.from.take("the length of a page")?);
        let most = longest_block(self.header.page_size);
        if length > most {
            return Err(problem(page, PageProblem::Length { length, most }));
        }
        let block = &mut self.compressed[..length as usize];
        self.from.take_compressed(block)?;
        let size = decompress_into(block, contents).map_err(|_| problem(page, PageProblem::Compression))?;
        if size != contents.len() {
            return Err(problem(page, PageProblem::Size(size)));
        }
        Ok(())
    }

    /// Reads a page that is a frame of LZ4: <https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md>. Its own
    /// checksums are passed over, because that of the file covers the contents.
    fn frame(&mut self, page: u32, contents: &mut [u8]) -> Result<(), LtxError> {
        let invalid = || problem(page, PageProblem::Frame);
        let mut head = [0; 7];
        self.from.take_compressed(&mut head)?;
        let (is_frame, flags) = (head[..4] == FRAME_MAGIC, FrameFlags(head[4]));
        if !is_frame || !flags.are_known() {
            return Err(invalid());
        }
        let mut filled = 0;
        loop {
            let mut size = [0; 4];
            self.from.take_compressed(&mut size)?;
            let size = u32::from_le_bytes(size);
            if size == 0 {
                break;
            }
            let length = (size & !STORED) as usize;
            if length == 0 || length > self.compressed.len() {
                return Err(invalid());
            }
            let block = &mut self.compressed[..length];
            self.from.take_compressed(block)?;
            let (before, rest) = contents.split_at_mut(filled);
            filled += if size & STORED == 0 {
                decompress_into_with_dict(block, rest, before).map_err(|_| problem(page, PageProblem::Compression))?
            } else {
                rest.get_mut(..length).ok_or_else(invalid)?.copy_from_slice(block);
                length
            };
            if flags.has(FrameFlags::BLOCK_CHECKSUMS) {
                self.from.take_compressed(&mut [0; 4])?;
            }
        }
        if flags.has(FrameFlags::CONTENT_CHECKSUM) {
            self.from.take_compressed(&mut [0; 4])?;
        }
        if filled != contents.len() {
            return Err(problem(page, PageProblem::Size(filled)));
        }
        Ok(())
    }

    /// Reads what is behind the pages.
    fn end(&mut self) -> Result<(), LtxError> {
        self.order.end()?;
        self.index.compare(&mut self.from)?;
        let post_apply = u64::from_be_bytes(self.from.take("the trailer")?);
        if post_apply != 0 {
            return Err(LtxError::DatabaseChecksum(post_apply));
        }
        let found = self.from.checksum.value();
        let wanted = u64::from_be_bytes(self.from.take("the trailer")?);
        if found != wanted {
            return Err(LtxError::Checksum { found, wanted });
        }
        if self.from.from.read(&mut [0])? != 0 {
            return Err(LtxError::Trailing);
        }
        self.is_over = true;
        Ok(())
    }
}

const FRAME_MAGIC: [u8; 4] = 0x184D_2204_u32.to_le_bytes();

/// The bit of a block's length that says that it is not compressed.
const STORED: u32 = 1 << 31;

/// The flags of a frame.
#[derive(Clone, Copy)]
struct FrameFlags(u8);

impl FrameFlags {
    const BLOCK_CHECKSUMS: u8 = 1 << 4;
    const CONTENT_CHECKSUM: u8 = 1 << 2;
    /// The version, in the two highest bits, is 1. Blocks may depend on those before them, or not. The frame has no
    /// length of its contents and no dictionary, whose fields would change its header.
    const CHANGING: u8 = 0b1100_1011;

    fn has(self, flag: u8) -> bool {
        self.0 & flag != 0
    }

    fn are_known(self) -> bool {
        self.0 & Self::CHANGING == 0b0100_0000
    }
}

fn problem(page: u32, problem: PageProblem) -> LtxError {
    LtxError::Page { page, problem }
}

impl<R: Read> Input<R> {
    /// Reads bytes that the checksum covers as they are. `what` says where the file ends if it does.
    fn take<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], LtxError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes, what)?;
        self.checksum.add(&bytes);
        Ok(bytes)
    }

    /// Reads bytes that the checksum covers in another form.
    fn take_compressed(&mut self, bytes: &mut [u8]) -> Result<(), LtxError> {
        self.fill(bytes, "a page")
    }

    fn fill(&mut self, bytes: &mut [u8], what: &'static str) -> Result<(), LtxError> {
        self.from.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => LtxError::Truncated(what),
            _ => error.into(),
        })?;
        self.position += bytes.len() as u64;
        Ok(())
    }
}

impl ExpectedIndex {
    fn push(&mut self, page: u32, offset: u64, size: u64) {
        let record = Record::new(page.into(), offset, size);
        self.length += record.bytes().len() as u64;
        self.checksum.add(record.bytes());
    }

    /// Reads the index, and compares it with the pages that there were.
    fn compare<R: Read>(&mut self, from: &mut Input<R>) -> Result<(), LtxError> {
        let mut found = Checksum::new();
        let mut left = self.length;
        let mut piece = [0; 1024];
        while left > 0 {
            let length = left.min(piece.len() as u64) as usize;
            let piece = &mut piece[..length];
            from.fill(piece, "the index of pages")?;
            from.checksum.add(piece);
            found.add(piece);
            left -= length as u64;
        }
        let end: [u8; 9] = from.take("the index of pages")?;
        let is_end = end[0] == 0 && be_u64(&end, 1) == self.length + 1;
        if !is_end || found.value() != self.checksum.value() {
            return Err(LtxError::Index);
        }
        Ok(())
    }
}
