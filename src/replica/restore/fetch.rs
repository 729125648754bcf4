//! The files of a plan, one after another, with the next ones under way.
//!
//! Small files come many at once: up to [`AHEAD`] of them are opened before it is their turn, and then they are whole in
//! memory, since a reader holds more than [`SMALL`] bytes. A larger file is opened in its turn, so that no storage waits
//! for a body to be read on. The requests run on `larder-replica`. The reader's thread waits on a channel whose sender
//! goes with the request, so that it cannot wait for one that has ended.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{Receiver, channel};

use crate::replica::runtime;
use crate::replica::storage::{FileInfo, ObjectReader, Result, Storage};

/// Files that are opened at a time.
const AHEAD: usize = 16;

/// The largest file that is opened before it is its turn.
const SMALL: u64 = 512 << 10;

/// The files of a plan, in their order.
pub(in crate::replica) struct Fetch<'p> {
    storage: &'p Storage,
    /// The files that are not requested yet.
    files: &'p [FileInfo],
    under_way: VecDeque<(&'p FileInfo, io::Result<Receiver<Result<ObjectReader>>>)>,
}

impl<'p> Fetch<'p> {
    pub(in crate::replica) fn new(storage: &'p Storage, files: &'p [FileInfo]) -> Self {
        Self {
            storage,
            files,
            under_way: VecDeque::new(),
        }
    }

    /// The next file of the plan.
    pub(in crate::replica) fn next(&mut self) -> Option<(&'p FileInfo, Result<ObjectReader>)> {
        while self.under_way.len() < AHEAD
            && let [first, rest @ ..] = self.files
            && (self.under_way.is_empty() || first.size <= SMALL)
        {
            self.under_way.push_back((first, request(self.storage, *first)));
            self.files = rest;
        }
        let (file, told) = self.under_way.pop_front()?;
        let ended = |_| io::Error::other("the request has ended without an answer");
        let opened = told.and_then(|told| told.recv().map_err(ended));
        Some((file, opened.unwrap_or_else(|error| Err(self.storage.no_thread(error)))))
    }
}

fn request(storage: &Storage, file: FileInfo) -> io::Result<Receiver<Result<ObjectReader>>> {
    let (tell, told) = channel();
    let storage = storage.clone();
    runtime::spawn(async move {
        // The reader may have given up.
        let _ = tell.send(storage.reader(file.level, file.txids).await);
    })?;
    Ok(told)
}
