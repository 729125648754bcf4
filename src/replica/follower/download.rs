//! Files of the replica, here and checked, before SQLite's write lock is taken: no other write waits for the storage,
//! and no file that is damaged, or does not come, is found in the middle of a transaction.
//!
//! Small files are in memory, up to [`IN_MEMORY`] bytes of them; the others in files without names in the folder of the
//! spool. Whether the disk has room for that is asked before, and whether it has room for the pages once their number is
//! known.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek, Write};
use std::path::Path;

use super::Following;
use super::apply::Source;
use super::trouble::Trouble;
use crate::connection::filesystem::lacks;
use crate::replica::capture::log_of;
use crate::replica::open::cannot_spool;
use crate::replica::restore::apply::{ApplyError, decoder};
use crate::replica::restore::fetch::Fetch;
use crate::replica::restore::plan::Txid;
use crate::replica::storage::{FileInfo, ObjectReader};

/// Files are in memory up to so many bytes in all.
const IN_MEMORY: u64 = 8 << 20;

/// What is copied at a time.
const PIECE: usize = 256 << 10;

/// Before a page in the log stands so much.
const FRAME_HEADER: u64 = 24;

/// The files, oldest first, each of which was read to its end.
pub(super) struct Downloaded {
    files: Vec<(FileInfo, Contents)>,
    /// The size of the database after the last of them, in pages.
    pages: u32,
}

enum Contents {
    Memory(Vec<u8>),
    File(File),
}

impl Downloaded {
    pub(super) fn pages(&self) -> u32 {
        self.pages
    }

    pub(super) fn into_files(self) -> impl Iterator<Item = (FileInfo, Box<dyn Read>)> {
        self.files.into_iter().map(|(file, contents)| {
            let from: Box<dyn Read> = match contents {
                Contents::Memory(bytes) => Box::new(Cursor::new(bytes)),
                Contents::File(file) => Box::new(BufReader::with_capacity(PIECE, file)),
            };
            (file, from)
        })
    }
}

/// What the pages of the files take.
#[derive(Default)]
struct Pages {
    number: u64,
    size: u64,
    /// The size of the database after the last file, in pages.
    last: u32,
}

impl Following {
    /// Downloads files, and checks them. On the writer thread.
    pub(super) fn download(&self, source: Source) -> Result<Downloaded, Trouble> {
        let (mut downloaded, mut pages, mut in_memory) = (Vec::new(), Pages::default(), 0);
        self.each(source, |file, from| {
            in_memory += file.size;
            let mut contents = if in_memory <= IN_MEMORY {
                let mut bytes = Vec::new();
                let read = self.copy(from, &mut bytes);
                read.map_err(|error| self.not_read(file, error))?;
                Contents::Memory(bytes)
            } else {
                in_memory -= file.size;
                self.check_room(file.size, file)?;
                let mut to = self.spool.nameless().map_err(|error| self.not_written(error))?;
                self.copy(from, &mut to).map_err(|error| self.not_read(file, error))?;
                Contents::File(to)
            };
            self.check(file, &mut contents, &mut pages)?;
            downloaded.push((*file, contents));
            Ok(())
        })?;
        if let Some((last, _)) = downloaded.last() {
            // A page is in the log once, however many files have it. The log has its length, at least.
            let log = log_of(&self.path).metadata().map_or(0, |log| log.len());
            let growth = u64::from(pages.last.saturating_sub(self.position().pages)) * pages.size;
            let frames = pages.number.min(pages.last.into()) * (pages.size + FRAME_HEADER);
            self.check_room(frames.saturating_sub(log) + growth, last)?;
        }
        Ok(Downloaded {
            files: downloaded,
            pages: pages.last,
        })
    }

    /// Reads one file after another.
    fn each(
        &self,
        source: Source,
        mut f: impl FnMut(&FileInfo, ObjectReader) -> Result<(), Trouble>,
    ) -> Result<(), Trouble> {
        match source {
            Source::Opened(files) => files.into_iter().try_for_each(|(file, opened)| f(&file, opened)),
            Source::Planned(files) => {
                let mut fetch = Fetch::new(&self.storage, &files);
                while let Some((file, opened)) = fetch.next() {
                    if self.closes() {
                        return Err(Trouble::Closing);
                    }
                    let opened =
                        opened.map_err(|error| Trouble::of(file, ApplyError::Storage(error), &self.storage))?;
                    f(file, opened)?;
                }
                Ok(())
            }
        }
    }

    fn copy(&self, mut from: impl Read, to: &mut impl Write) -> Result<(), ApplyError> {
        let mut piece = vec![0; PIECE];
        loop {
            match from
                .read(&mut piece)
                .map_err(|error| ApplyError::from(crate::replica::ltx::LtxError::Io(error)))?
            {
                0 => return Ok(()),
                length => to.write_all(&piece[..length]).map_err(ApplyError::Writing)?,
            }
            if self.closes() {
                return Err(ApplyError::Reading(io::ErrorKind::Interrupted.into()));
            }
        }
    }

    /// Reads a file to its end.
    fn check(&self, file: &FileInfo, contents: &mut Contents, pages: &mut Pages) -> Result<(), Trouble> {
        let failed = |error| Trouble::of(file, error, &self.storage);
        let from: Box<dyn Read + '_> = match contents {
            Contents::Memory(bytes) => Box::new(Cursor::new(&bytes[..])),
            Contents::File(file) => {
                file.rewind().map_err(|error| self.not_written(error))?;
                Box::new(BufReader::with_capacity(PIECE, &*file))
            }
        };
        let mut decoder = decoder(from, file).map_err(failed)?;
        let header = *decoder.header();
        let mut page = vec![0; header.page_size as usize];
        while decoder
            .next_page(&mut page)
            .map_err(|error| failed(error.into()))?
            .is_some()
        {
            pages.number += 1;
        }
        (pages.size, pages.last) = (header.page_size.into(), header.commit);
        drop(decoder);
        if let Contents::File(file) = contents {
            file.rewind().map_err(|error| self.not_written(error))?;
        }
        Ok(())
    }

    fn check_room(&self, needed: u64, last: &FileInfo) -> Result<(), Trouble> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        match lacks(folder, needed) {
            None => Ok(()),
            Some(available) => Err(Trouble::NoRoom(format!(
                "{} has {available} bytes left, and the transactions up to {} may take {needed}: make room, and the \
                 follower goes on by itself",
                folder.display(),
                Txid(last.txids.max)
            ))),
        }
    }

    fn not_read(&self, file: &FileInfo, error: ApplyError) -> Trouble {
        match error {
            _ if self.closes() => Trouble::Closing,
            ApplyError::Writing(error) => self.not_written(error),
            error => Trouble::of(file, error, &self.storage),
        }
    }

    fn not_written(&self, error: io::Error) -> Trouble {
        Trouble::Local(cannot_spool(&self.path, error.into()))
    }
}
