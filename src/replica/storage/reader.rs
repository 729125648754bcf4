//! An object as a stream for code that blocks, such as a decoder.
//!
//! A task fetches ahead of the reader, [`AHEAD`] pieces at most: it takes a permit before it fills a piece, and the
//! reader gives the permit back when the piece is used up. The reader waits on a channel whose sender the task owns, so
//! it wakes when a piece, an error or the end comes. Dropping the reader closes the semaphore, which ends the task.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, Sender, channel};

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt};
use tokio::sync::Semaphore;

use super::failure::StorageError;
use crate::replica::runtime;
use crate::runtime::sync::Arc;

/// Bytes that a piece has at least, but for the last.
const PIECE: usize = 256 << 10;

/// Pieces that are fetched and not read yet.
const AHEAD: usize = 4;

type Piece = Result<Bytes, StorageError>;

/// Reads an object from the storage. Its errors have the `StorageError` as their source.
#[derive(Debug)]
pub struct ObjectReader {
    piece: Bytes,
    size: u64,
    /// Bytes that the storage has not given yet.
    left: u64,
    is_over: bool,
    pieces: Receiver<Piece>,
    permits: Arc<Semaphore>,
}

impl ObjectReader {
    /// Reads a stream that must have this many bytes.
    pub(super) fn new(size: u64, stream: BoxStream<'static, Piece>) -> io::Result<Self> {
        let (tell, pieces) = channel();
        let permits = Arc::new(Semaphore::new(AHEAD));
        runtime::spawn(fetch(stream, tell, Arc::clone(&permits)))?;
        Ok(Self {
            piece: Bytes::new(),
            size,
            left: size,
            is_over: false,
            pieces,
            permits,
        })
    }

    /// The size of the object in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Waits for the next piece. An empty one is the end.
    fn next(&mut self) -> io::Result<()> {
        match self.pieces.recv() {
            Ok(Ok(piece)) => {
                self.permits.add_permits(1);
                self.left = self.left.checked_sub(piece.len() as u64).ok_or_else(wrong_length)?;
                self.piece = piece;
                Ok(())
            }
            Ok(Err(error)) => Err(io::Error::other(error)),
            Err(_) if self.left > 0 => Err(wrong_length()),
            Err(_) => {
                self.is_over = true;
                Ok(())
            }
        }
    }
}

impl Read for ObjectReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.is_over && !buffer.is_empty() {
            self.next()?;
        }
        let length = buffer.len().min(self.piece.len());
        buffer[..length].copy_from_slice(&self.piece.split_to(length));
        Ok(length)
    }
}

impl Drop for ObjectReader {
    fn drop(&mut self) {
        self.permits.close();
    }
}

/// Not the end of the file, which would be damage: the next request may bring all of it.
fn wrong_length() -> io::Error {
    io::Error::new(
        io::ErrorKind::ConnectionAborted,
        "the storage sent a body that is not as long as the object",
    )
}

async fn fetch(mut stream: BoxStream<'static, Piece>, tell: Sender<Piece>, permits: Arc<Semaphore>) {
    let mut gathered = Vec::new();
    loop {
        let Ok(permit) = permits.acquire().await else {
            return;
        };
        permit.forget();
        let piece = loop {
            match stream.next().await {
                Some(Ok(bytes)) if gathered.is_empty() && bytes.len() >= PIECE => break Some(Ok(bytes)),
                Some(Ok(bytes)) => gathered.extend_from_slice(&bytes),
                Some(Err(error)) => break Some(Err(error)),
                None => break None,
            }
            if gathered.len() >= PIECE {
                break Some(Ok(std::mem::take(&mut gathered).into()));
            }
        };
        let is_last = !matches!(piece, Some(Ok(_)));
        let last = (!gathered.is_empty() && is_last).then(|| Ok(std::mem::take(&mut gathered).into()));
        let is_gone = last.into_iter().chain(piece).any(|piece| tell.send(piece).is_err());
        if is_gone || is_last {
            return;
        }
    }
}
