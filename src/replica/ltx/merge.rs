//! Makes one file of several.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{Read, Write};

use super::{Decoder, Encoder, Header, LtxError};

/// Merges files into one that has the same effect as all of them, written one after another: each page with its last
/// contents, and no page that the database lost on the way. Returns the writer, not flushed, and the length of the file.
///
/// The files are in the order of their transactions. Each begins with the transaction after the last of the file before
/// it, or earlier, and ends later. The merged file has the timestamp of the last, and no position in a log.
///
/// Every file is read to its end and checked before the trailer of the merged file is written.
///
/// # Errors
///
/// A file is not valid, or does not go on from the one before it, or reading or writing failed.
pub fn merge<R: Read, W: Write>(files: Vec<Decoder<R>>, to: W) -> Result<(W, u64), LtxError> {
    let header = merged_header(&files)?;
    write(files, header, to)
}

/// As [`merge`], into a snapshot, which has all transactions from the first one on. The first file has every page of the
/// database, whichever transaction it begins with.
///
/// # Errors
///
/// As there, or a page is in none of the files.
pub fn merge_into_snapshot<R: Read, W: Write>(files: Vec<Decoder<R>>, to: W) -> Result<(W, u64), LtxError> {
    let header = Header {
        min_txid: 1,
        ..merged_header(&files)?
    };
    write(files, header, to)
}

fn write<R: Read, W: Write>(files: Vec<Decoder<R>>, header: Header, to: W) -> Result<(W, u64), LtxError> {
    let mut encoder = Encoder::new(to, header)?;
    let smallest = smallest_from(&files);
    let mut inputs: Vec<Input<R>> = files.into_iter().map(Input::new).collect();
    let mut next = BinaryHeap::new();
    for (at, input) in inputs.iter_mut().enumerate() {
        next.extend(input.advance(at)?.map(|page| Reverse((page, Reverse(at)))));
    }
    let mut last = 0;
    // Of inputs with the same page the latest comes first.
    while let Some(Reverse((page, Reverse(at)))) = next.pop() {
        let input = &mut inputs[at];
        if page != last {
            last = page;
            if page <= smallest[at] {
                encoder.page(page, &input.contents)?;
            }
        }
        next.extend(input.advance(at)?.map(|page| Reverse((page, Reverse(at)))));
    }
    encoder.finish()
}

struct Input<R> {
    file: Decoder<R>,
    contents: Vec<u8>,
}

impl<R: Read> Input<R> {
    fn new(file: Decoder<R>) -> Self {
        let contents = vec![0; file.header().page_size as usize];
        Self { file, contents }
    }

    fn advance(&mut self, input: usize) -> Result<Option<u32>, LtxError> {
        let next = self.file.next_page(&mut self.contents);
        next.map_err(|error| LtxError::OfInput {
            input,
            source: Box::new(error),
        })
    }
}

fn merged_header<R: Read>(files: &[Decoder<R>]) -> Result<Header, LtxError> {
    for (previous, next) in files.iter().zip(files.iter().skip(1)) {
        follows(previous.header(), next.header())?;
    }
    let (Some(first), Some(last)) = (files.first(), files.last()) else {
        return Err(LtxError::NoFiles);
    };
    Ok(Header {
        min_txid: first.header().min_txid,
        wal_offset: 0,
        wal_size: 0,
        wal_salts: [0, 0],
        node_id: 0,
        ..*last.header()
    })
}

fn follows(previous: &Header, next: &Header) -> Result<(), LtxError> {
    if previous.page_size != next.page_size {
        return Err(LtxError::PageSizes {
            previous: previous.page_size,
            next: next.page_size,
        });
    }
    let begins_in_time = next.min_txid <= previous.max_txid.saturating_add(1);
    if !begins_in_time || next.max_txid <= previous.max_txid {
        return Err(LtxError::Gap {
            previous: (previous.min_txid, previous.max_txid),
            next: (next.min_txid, next.max_txid),
        });
    }
    Ok(())
}

/// For each file the smallest size that the database had from that file on. A page beyond it was cut off later, even if
/// the database has grown since.
fn smallest_from<R: Read>(files: &[Decoder<R>]) -> Vec<u32> {
    let mut smallest = u32::MAX;
    let mut all: Vec<u32> = files
        .iter()
        .rev()
        .map(|file| {
            smallest = smallest.min(file.header().commit);
            smallest
        })
        .collect();
    all.reverse();
    all
}
