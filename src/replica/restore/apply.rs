//! Writes the pages of one file into a database.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use crate::backup::Failure;
use crate::replica::ltx::{Decoder, Header, LtxError};
use crate::replica::storage::{FileInfo, StorageError};

/// Pages with successive numbers are written together, up to so many bytes.
const RUN: usize = 256 << 10;

/// Why the pages of a file could not be written.
#[derive(Debug)]
pub(in crate::replica) enum ApplyError {
    /// The file is not valid, or not the one that its name says.
    Invalid(String),
    /// The storage did not give it.
    Storage(StorageError),
    /// Something else failed while it was read.
    Reading(io::Error),
    /// The database cannot be written.
    Writing(io::Error),
    /// There is no room for the database.
    Target(Failure),
}

/// Reads a file to its end, and writes its pages to `to`, which then has the size after the file's last transaction. On
/// an error some of the pages may have been written.
///
/// `prepare` looks at the header before the first page is written.
pub(super) fn apply(
    from: impl Read,
    file: &FileInfo,
    to: &File,
    prepare: impl FnOnce(&Header) -> Result<(), ApplyError>,
) -> Result<Header, ApplyError> {
    let mut decoder = decoder(from, file)?;
    let header = *decoder.header();
    prepare(&header)?;
    write_pages(&mut decoder, to)?;
    let size = u64::from(header.commit) * u64::from(header.page_size);
    to.set_len(size).map_err(ApplyError::Writing)?;
    Ok(header)
}

/// Reads a file to its end, and checks everything.
pub(in crate::replica) fn read_through(from: impl Read, file: &FileInfo) -> Result<Header, ApplyError> {
    let mut decoder = decoder(from, file)?;
    let mut page = vec![0; decoder.header().page_size as usize];
    while decoder.next_page(&mut page)?.is_some() {}
    Ok(*decoder.header())
}

/// Begins to read a file, which has the transactions that its name says.
pub(in crate::replica) fn decoder<R: Read>(from: R, file: &FileInfo) -> Result<Decoder<R>, ApplyError> {
    let decoder = Decoder::new(from)?;
    let header = decoder.header();
    let (min, max) = (header.min_txid, header.max_txid);
    if (min, max) != (file.txids.min, file.txids.max) {
        let problem = format!("it is a file of the transactions {min:016x}-{max:016x}");
        return Err(ApplyError::Invalid(problem));
    }
    Ok(decoder)
}

fn write_pages<R: Read>(decoder: &mut Decoder<R>, to: &File) -> Result<(), ApplyError> {
    let mut run = Run::new(decoder.header().page_size as usize);
    while let Some(page) = decoder.next_page(run.room())? {
        run.add(page, to).map_err(ApplyError::Writing)?;
    }
    run.write(to).map_err(ApplyError::Writing)
}

/// Pages with successive numbers that are not written yet.
struct Run {
    page_size: usize,
    /// The number of the first page.
    first: u32,
    pages: usize,
    /// The pages, and room for one more.
    bytes: Vec<u8>,
}

impl Run {
    fn new(page_size: usize) -> Self {
        Self {
            page_size,
            first: 0,
            pages: 0,
            bytes: vec![0; RUN + page_size],
        }
    }

    /// The room for the next page.
    fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.pages * self.page_size..][..self.page_size]
    }

    /// Adds the page that was put into the room.
    fn add(&mut self, number: u32, to: &File) -> io::Result<()> {
        let at = self.pages * self.page_size;
        if self.pages > 0 && (number as usize != self.first as usize + self.pages || at >= RUN) {
            self.write(to)?;
            self.bytes.copy_within(at..at + self.page_size, 0);
        }
        if self.pages == 0 {
            self.first = number;
        }
        self.pages += 1;
        Ok(())
    }

    fn write(&mut self, to: &File) -> io::Result<()> {
        let length = std::mem::take(&mut self.pages) * self.page_size;
        let offset = u64::from(self.first.saturating_sub(1)) * self.page_size as u64;
        to.write_all_at(&self.bytes[..length], offset)
    }
}

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ApplyError::Invalid(problem) => f.write_str(problem),
            ApplyError::Storage(error) => error.fmt(f),
            ApplyError::Reading(error) | ApplyError::Writing(error) => error.fmt(f),
            ApplyError::Target(failure) => f.write_str(&failure.sentence()),
        }
    }
}

impl From<LtxError> for ApplyError {
    fn from(error: LtxError) -> Self {
        match error {
            LtxError::Io(error) => match error.downcast::<StorageError>() {
                Ok(error) => ApplyError::Storage(error),
                Err(error) => ApplyError::Reading(error),
            },
            invalid => ApplyError::Invalid(invalid.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Runs of every length, with gaps between them, across the bound of a run.
    #[test]
    fn runs_write_each_page_at_its_place() {
        for page_size in [512, 65536] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("pages");
            let file = File::create(&path).unwrap();
            let most = (2 * RUN / page_size + 5) as u32;
            let numbers: Vec<u32> = (1..=most).filter(|number| *number < 4 || number % 700 != 5).collect();
            let mut run = Run::new(page_size);
            for number in &numbers {
                run.room().fill(*number as u8);
                run.add(*number, &file).unwrap();
            }
            run.write(&file).unwrap();
            file.set_len(u64::from(most) * page_size as u64).unwrap();
            let written = fs::read(&path).unwrap();
            for (page, number) in written.chunks(page_size).zip(1..) {
                let wanted = if numbers.contains(&number) { number as u8 } else { 0 };
                assert!(page.iter().all(|byte| *byte == wanted), "{page_size}: {number}");
            }
        }
    }
}
