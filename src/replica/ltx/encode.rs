//! Writes a file: the header, the pages in ascending order, then the index and the trailer.

use std::io::Write;

use lz4_flex::block::{CompressTable, compress_into_with_table};

use super::index::Index;
use super::{BLOCK, Checksum, HEADER_SIZE, Header, LtxError, PageOrder, PageProblem, longest_block};

/// Writes one file. A file without its trailer, because [`finish`](Self::finish) was not called, is not valid.
///
/// The writer gets a few small pieces for each page: buffer it.
pub struct Encoder<W> {
    to: W,
    header: Header,
    order: PageOrder,
    checksum: Checksum,
    index: Index,
    /// The bytes that were written.
    written: u64,
    /// The number, flags and length of a page, and then its block.
    page: Vec<u8>,
    table: CompressTable,
}

/// The bytes before a page's block.
const BEFORE_BLOCK: usize = 10;

impl<W: Write> Encoder<W> {
    /// Writes the header.
    ///
    /// # Errors
    ///
    /// A field of the header is not valid, or writing failed.
    pub fn new(mut to: W, header: Header) -> Result<Self, LtxError> {
        header.validate()?;
        let bytes = header.to_bytes();
        to.write_all(&bytes)?;
        let mut checksum = Checksum::new();
        checksum.add(&bytes);
        Ok(Self {
            to,
            order: PageOrder::of(&header),
            checksum,
            index: Index::default(),
            written: HEADER_SIZE as u64,
            page: vec![0; BEFORE_BLOCK + longest_block(header.page_size) as usize],
            table: CompressTable::default(),
            header,
        })
    }

    /// Writes a page. Its number is above that of the page before it; that of a snapshot is the next.
    ///
    /// # Errors
    ///
    /// The file cannot have this page now, or writing failed.
    pub fn page(&mut self, number: u32, contents: &[u8]) -> Result<(), LtxError> {
        if contents.len() != self.header.page_size as usize {
            let problem = PageProblem::Size(contents.len());
            return Err(LtxError::Page { page: number, problem });
        }
        self.order.next(number)?;
        let (head, block) = self.page.split_at_mut(BEFORE_BLOCK);
        let length = compress_into_with_table(contents, block, &mut self.table).expect("room for the longest block");
        head[..4].copy_from_slice(&number.to_be_bytes());
        head[4..6].copy_from_slice(&BLOCK.to_be_bytes());
        head[6..].copy_from_slice(&(length as u32).to_be_bytes());
        self.checksum.add(head);
        self.checksum.add(contents);
        let size = BEFORE_BLOCK + length;
        self.to.write_all(&self.page[..size])?;
        self.index.push(number, size as u64);
        self.written += size as u64;
        Ok(())
    }

    /// Writes the index and the trailer, and gives the writer back with the length of the file. It is not flushed.
    ///
    /// # Errors
    ///
    /// A snapshot lacks pages, or writing failed.
    pub fn finish(mut self) -> Result<(W, u64), LtxError> {
        self.order.end()?;
        self.put(&[0; 6])?;
        let begin = self.written;
        let index = std::mem::take(&mut self.index);
        for record in index.records(HEADER_SIZE as u64) {
            self.put(record.bytes())?;
        }
        self.put(&[0])?;
        self.put(&(self.written - begin).to_be_bytes())?;
        self.put(&[0; 8])?;
        let checksum = self.checksum.value();
        self.put(&checksum.to_be_bytes())?;
        Ok((self.to, self.written))
    }

    /// Writes bytes that the checksum covers as they are.
    fn put(&mut self, bytes: &[u8]) -> Result<(), LtxError> {
        self.to.write_all(bytes)?;
        self.checksum.add(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }
}
