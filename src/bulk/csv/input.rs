//! The bytes of a CSV file, as the parser gets them: without a byte order mark, and with two more line ends. A file that
//! is compressed, or in UTF-16, is refused by its first bytes.
//!
//! The line ends show a quote that is never closed. The parser leaves out empty lines, but in a field in quotes: a record
//! that takes both of them has such a quote.
//!
//! The parser counts a line where it has read a line feed. Of `\r\n` it reads the line feed with the next record, so the
//! number of a record's first line is found from the byte that ended it.

use std::io::{self, ErrorKind, Read};

const PADDING: &[u8] = b"\n\n";

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// How files begin that are no CSV, and what to do with them.
const FOREIGN: &[(&[u8], &str)] = &[
    (b"\xff\xfe", "the file is in UTF-16: convert it to UTF-8, with iconv"),
    (b"\xfe\xff", "the file is in UTF-16: convert it to UTF-8, with iconv"),
    (
        b"\x1f\x8b",
        "the file is compressed with gzip: read the output of gunzip -c",
    ),
    (
        b"\x28\xb5\x2f\xfd",
        "the file is compressed with zstd: read the output of zstd -dc",
    ),
    (
        b"\xfd7zXZ\0",
        "the file is compressed with xz: read the output of xz -dc",
    ),
    (
        b"PK\x03\x04",
        "the file is a ZIP archive or a workbook: unpack it, or save the sheet as CSV",
    ),
    (
        b"SQLite format 3\0",
        "the file is an SQLite database: see Bulk::copy_from",
    ),
];

/// The longest of these beginnings.
const HEAD: usize = 16;

/// Whether more bytes may make a beginning that is looked for.
fn is_begun(head: &[u8]) -> bool {
    let bzip2 = b"BZh_1AY&SY";
    let is_bzip2 = head.len() < bzip2.len() && head.iter().zip(bzip2).enumerate().all(|(at, (a, b))| at == 3 || a == b);
    let mut all = FOREIGN.iter().map(|(begin, _)| *begin).chain([BYTE_ORDER_MARK]);
    is_bzip2 || all.any(|begin| begin.len() > head.len() && begin.starts_with(head))
}

/// Why a file that begins with these bytes is refused.
fn foreign(head: &[u8]) -> Option<&'static str> {
    // A header may begin with BZh, too.
    if head.starts_with(b"BZh") && head.get(4..10) == Some(b"1AY&SY") {
        return Some("the file is compressed with bzip2: read the output of bunzip2 -c");
    }
    let found = FOREIGN.iter().find(|(begin, _)| head.starts_with(begin));
    found.map(|(_, problem)| *problem)
}

pub(super) struct Input<R> {
    from: R,
    /// The first bytes, until they are given.
    head: Option<Vec<u8>>,
    /// Bytes that were given, without the padding.
    length: u64,
    is_at_end: bool,
    /// Bytes of the padding that are left.
    padding: usize,
    /// The last bytes that were given.
    last: Vec<u8>,
    /// Where the current record begins, and its largest size.
    record_at: u64,
    max_record: u64,
    is_too_long: bool,
}

impl<R: Read> Input<R> {
    pub(super) fn new(from: R, max_record: u64) -> Self {
        Self {
            from,
            head: None,
            length: 0,
            is_at_end: false,
            padding: PADDING.len(),
            last: Vec::new(),
            record_at: 0,
            max_record,
            is_too_long: false,
        }
    }

    /// A record begins at this position.
    pub(super) fn begin_record(&mut self, at: u64) {
        self.record_at = at;
    }

    /// Whether a record was refused for its size.
    pub(super) fn is_too_long(&self) -> bool {
        self.is_too_long
    }

    /// Whether a record that ends here has a quote that is open at the end of the file.
    pub(super) fn has_open_quote(&self, end: u64) -> bool {
        self.is_at_end && end >= self.length + PADDING.len() as u64
    }

    /// Whether the byte before this position is a line feed. The position is in what was given last.
    pub(super) fn ends_with_line_feed(&self, end: u64) -> bool {
        let given = self.length + (PADDING.len() - self.padding) as u64;
        let back = given.saturating_sub(end) as usize;
        let at = self.last.len().checked_sub(back + 1);
        at.and_then(|at| self.last.get(at)) == Some(&b'\n')
    }

    /// Reads the first bytes, and drops a byte order mark.
    fn read_head(&mut self) -> io::Result<Vec<u8>> {
        let mut head = Vec::new();
        let mut buffer = [0; HEAD];
        // No more than it takes: a source may wait after its first line.
        while head.len() < HEAD && is_begun(&head) {
            match self.from.read(&mut buffer[head.len()..]) {
                Ok(0) => break,
                Ok(read) => {
                    let from = head.len();
                    head.extend_from_slice(&buffer[from..from + read]);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if let Some(problem) = foreign(&head) {
            return Err(io::Error::new(ErrorKind::InvalidData, problem));
        }
        if head.starts_with(BYTE_ORDER_MARK) {
            head.drain(..BYTE_ORDER_MARK.len());
        }
        Ok(head)
    }

    fn read_file(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let head = match self.head.take() {
            Some(head) => head,
            None => self.read_head()?,
        };
        if head.is_empty() {
            self.head = Some(head);
            loop {
                match self.from.read(to) {
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    read => return read,
                }
            }
        }
        let given = head.len().min(to.len());
        to[..given].copy_from_slice(&head[..given]);
        self.head = Some(head[given..].to_vec());
        Ok(given)
    }
}

impl<R: Read> Read for Input<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if to.is_empty() {
            return Ok(0);
        }
        if self.length.saturating_sub(self.record_at) > self.max_record {
            self.is_too_long = true;
            return Err(io::Error::new(ErrorKind::InvalidData, "a line is too long"));
        }
        let mut given = 0;
        if !self.is_at_end {
            given = self.read_file(to)?;
            self.length += given as u64;
            self.is_at_end = given == 0;
        }
        if self.is_at_end {
            let begin = PADDING.len() - self.padding;
            given = self.padding.min(to.len());
            to[..given].copy_from_slice(&PADDING[begin..begin + given]);
            self.padding -= given;
        }
        if given > 0 {
            self.last.clear();
            self.last.extend_from_slice(&to[..given]);
        }
        Ok(given)
    }
}
