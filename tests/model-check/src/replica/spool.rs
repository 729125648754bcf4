//! In place of larder's spool: sealed files in memory. Each has one write, and the hash of all files before it.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::sync::{Mutex as Plain, MutexGuard};

use bytes::Bytes;

use super::nodes::Weakness;
use super::storage::Body;
use crate::time::below;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sealed {
    pub(super) txid: u64,
    pub(super) bytes: u64,
}

/// A file of level 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Transaction {
    pub(super) timestamp: i64,
    pub(super) txid: u64,
    pub(super) node_id: u64,
    /// The hash of the files before it.
    pub(super) parent: u64,
}

impl Transaction {
    const SIZE: usize = 32;

    pub(super) fn after(chain: &[Bytes], opening: u64) -> Self {
        Self {
            // No two files of a schedule have the same.
            timestamp: i64::from(u32::try_from(below(1 << 30)).expect("30 bits")),
            txid: chain.len() as u64 + 1,
            node_id: opening,
            parent: hash(chain),
        }
    }

    pub(super) fn bytes(&self) -> Bytes {
        let words = [self.timestamp.cast_unsigned(), self.txid, self.node_id, self.parent];
        words
            .iter()
            .flat_map(|word| word.to_be_bytes())
            .collect::<Vec<_>>()
            .into()
    }

    pub(super) fn parse(bytes: &[u8]) -> Self {
        let word = |at: usize| u64::from_be_bytes(bytes[8 * at..8 * at + 8].try_into().expect("8 bytes"));
        Self {
            timestamp: word(0).cast_signed(),
            txid: word(1),
            node_id: word(2),
            parent: word(3),
        }
    }

    /// The files in a snapshot.
    pub(super) fn split(snapshot: &Bytes) -> Vec<Bytes> {
        let files = (0..snapshot.len()).step_by(Self::SIZE);
        files.map(|at| snapshot.slice(at..at + Self::SIZE)).collect()
    }
}

pub(super) fn hash(chain: &[Bytes]) -> u64 {
    let mut hasher = DefaultHasher::new();
    chain.hash(&mut hasher);
    hasher.finish()
}

#[derive(Default)]
pub(super) struct Spool {
    files: Plain<VecDeque<(Sealed, Bytes)>>,
}

impl Clone for Spool {
    fn clone(&self) -> Self {
        Self {
            files: Plain::new(self.files().clone()),
        }
    }
}

impl Spool {
    fn files(&self) -> MutexGuard<'_, VecDeque<(Sealed, Bytes)>> {
        self.files.lock().unwrap()
    }

    pub(super) fn seal(&self, txid: u64, file: Bytes) -> Sealed {
        let bytes = file.len() as u64;
        let sealed = Sealed { txid, bytes };
        self.files().push_back((sealed, file));
        sealed
    }

    pub(super) fn body(&self, txid: u64) -> Option<Body> {
        let files = self.files();
        let (_, file) = files.iter().find(|(sealed, _)| sealed.txid == txid)?;
        Some(file.clone().into())
    }

    pub(super) fn read(&self, sealed: Sealed) -> io::Result<(Body, (i64, u64))> {
        let Some(Body::Memory(file)) = self.body(sealed.txid) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let mut read = Transaction::parse(&file);
        if Weakness::ChangedBytes.is_given() {
            read.timestamp += below(1000) as i64;
        }
        Ok((read.bytes().into(), (read.timestamp, read.node_id)))
    }

    pub(super) fn first_from(&self, txid: u64) -> Option<Sealed> {
        let files = self.files();
        let mut all = files.iter().map(|(sealed, _)| *sealed);
        all.find(|sealed| sealed.txid >= txid)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.files().iter().map(|(sealed, _)| sealed.bytes).sum()
    }

    pub(super) fn delete_to(&self, txid: u64) -> io::Result<()> {
        let mut files = self.files();
        while files.len() > 1 && files[0].0.txid <= txid {
            files.pop_front();
        }
        Ok(())
    }

    pub(super) fn keep_at_most(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
}
