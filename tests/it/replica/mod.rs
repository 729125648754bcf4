//! Replication: the formats of its files, and where they are kept.

#[cfg(all(feature = "s3", feature = "azure"))]
mod azure;
mod beside_daemon;
mod branch;
mod compaction;
mod copied_volume;
mod daemon;
mod damage;
#[cfg(feature = "async")]
mod edge_example;
pub(crate) mod far_behind;
mod fence;
pub(crate) mod follower;
mod format;
mod golden;
mod hooked;
pub(crate) mod late;
mod levels;
mod litestream;
mod log;
mod log_index;
mod lying;
mod promotion;
mod reopened;
pub(crate) mod replicated;
mod restore;
mod restored_instead;
#[cfg(feature = "s3")]
mod s3;
#[cfg(feature = "s3")]
pub(crate) mod s3_follower;
#[cfg(feature = "s3")]
mod servers;
mod simulated;
pub(crate) mod storage;
pub(crate) mod store;
mod token;
mod verify_every;
#[cfg(feature = "async")]
mod wait_async;
mod when_full;

use std::io::{self, Read};

use larder::replica::ltx::{Decoder, Encoder, Header, LtxError};

/// Pages by number.
type Pages = Vec<(u32, Vec<u8>)>;

/// A file, in memory.
#[derive(Clone, Debug, PartialEq)]
struct File {
    header: Header,
    pages: Pages,
}

impl File {
    fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new(), self.header).unwrap();
        for (number, contents) in &self.pages {
            encoder.page(*number, contents).unwrap();
        }
        let (bytes, length) = encoder.finish().unwrap();
        assert_eq!(bytes.len() as u64, length);
        bytes
    }

    fn decode(bytes: impl Read) -> Result<Self, LtxError> {
        let mut decoder = Decoder::new(bytes)?;
        let header = *decoder.header();
        let mut contents = vec![0; header.page_size as usize];
        let mut pages = Vec::new();
        while let Some(number) = decoder.next_page(&mut contents)? {
            pages.push((number, contents.clone()));
        }
        assert_eq!(decoder.next_page(&mut contents)?, None, "it stays at the end");
        Ok(Self { header, pages })
    }

    /// Writes the pages into a database, and cuts it to the size after the last transaction.
    fn apply(&self, database: &mut Vec<u8>) {
        let size = self.header.page_size as usize;
        database.resize(database.len().max(self.header.commit as usize * size), 0);
        for (number, contents) in &self.pages {
            let begin = (*number as usize - 1) * size;
            database[begin..begin + size].copy_from_slice(contents);
        }
        database.truncate(self.header.commit as usize * size);
    }
}

/// A header of transactions, with no position in a log.
fn header(page_size: u32, commit: u32, (min_txid, max_txid): (u64, u64)) -> Header {
    Header {
        page_size,
        commit,
        min_txid,
        max_txid,
        timestamp: 1_790_000_000_000 + max_txid.cast_signed(),
        wal_offset: 0,
        wal_size: 0,
        wal_salts: [0, 0],
        node_id: 0,
    }
}

/// Gives a byte at a time.
struct Slow<'a>(&'a [u8]);

impl Read for Slow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let one = buffer.len().min(1);
        self.0.read(&mut buffer[..one])
    }
}
