//! The rows of an export on their way to the server, by binary COPY.
//!
//! Two threads, and [`BLOCKS`] blocks of rows that go round between them:
//!
//! ```text
//! larder-export  owns the snapshot of the store: steps its statement, and writes rows into a block
//! larder-send    owns the connection to the server while a COPY runs: sends full blocks, gives back empty ones
//! ```
//!
//! Neither waits while it holds a lock. The first one waits for an empty block, and calls the progress callback meanwhile;
//! the second one for a full block, or for the server. Whichever fails drops its end of both channels, which ends the wait of
//! the other. A COPY without [`Block::End`] is aborted.

use std::io::Write;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;

use postgres::{CopyInWriter, Transaction};
use rusqlite::Connection;
use sha2::{Digest, Sha256};

use super::quarantine::append_aside;
use super::scan::each;
use super::schema::Table;
use super::{CALLBACK_INTERVAL, ExportStage, ExportToPostgres, OPERATION, OnMisfit};
use crate::error::{Error, Outcome, Result};
use crate::postgres::url::Server;
use crate::runtime::hex::hex;

/// How a binary COPY begins.
pub(super) const COPY_HEAD: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// How a binary COPY ends.
pub(super) const COPY_END: [u8; 2] = (-1_i16).to_be_bytes();

/// From this size on, in bytes, a block of rows is handed on.
pub(super) const BLOCK: usize = 128 * 1024;

/// How many blocks go round.
pub(super) const BLOCKS: usize = 4;

/// What is sent.
enum Block {
    Rows(Vec<u8>),
    /// The COPY is complete.
    End,
}

/// What was sent.
pub(super) struct Sent {
    /// Rows that are set aside, and not sent.
    pub(super) set_aside: u64,
    /// SHA-256 of what was sent, and of the rows that were set aside, as the quarantine has them.
    pub(super) sha256: String,
}

impl ExportToPostgres<'_> {
    /// Sends the rows of a table but those that are set aside.
    pub(super) fn copy(
        &self,
        conn: &Connection,
        server: &Server,
        tx: &mut Transaction<'_>,
        table: &Table,
        copied: &mut u64,
    ) -> Result<Sent> {
        self.report(ExportStage::Copy, *copied)?;
        let what = &format!("the rows of table {}", table.name);
        let writer = tx.copy_in(&table.copy_in(self.working_schema(), true));
        let writer = writer.map_err(|error| server.error(what, error, Outcome::RolledBack))?;
        let (full, to_send) = channel();
        let (emptied, empty) = channel();
        for _ in 0..BLOCKS {
            // Its receiver is here.
            let _ = emptied.send(Vec::with_capacity(BLOCK));
        }
        thread::scope(|scope| {
            let sender = thread::Builder::new().name("larder-send".to_owned());
            let sender = sender.spawn_scoped(scope, move || {
                send(writer, to_send, emptied).map_err(|error| server.broken(what, error))
            });
            let sender = sender.map_err(|error| Error::no_thread(self.engine.path(), "an export", error))?;
            let block = Vec::new();
            let read = self.fill(conn, server, table, copied, Filler { full, empty, block });
            let sent = sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            match read {
                // The thread that sends says why.
                Ok(None) => Err(sent.err().unwrap_or(Error::Cancelled { work: OPERATION })),
                Ok(Some(read)) => sent.map(|()| read),
                Err(error) => Err(error),
            }
        })
    }

    /// Reads the rows and hands them on. `None` if nothing sends them any more.
    fn fill(
        &self,
        conn: &Connection,
        server: &Server,
        table: &Table,
        copied: &mut u64,
        mut filler: Filler,
    ) -> Result<Option<Sent>> {
        let columns = table.sent();
        let (mut sha, mut aside) = (Sha256::new(), Vec::new());
        let mut set_aside = 0;
        let mut is_over = !self.next_block(&mut filler)?;
        filler.block.extend_from_slice(COPY_HEAD);
        each(conn, &table.select(true), |row| {
            if self.is_set_aside(table, row)? {
                set_aside += 1;
                if self.resumes {
                    aside.clear();
                    append_aside(table, row, &mut aside)?;
                    sha.update(&aside);
                }
                return self.step(ExportStage::Copy, copied);
            }
            let block = &mut filler.block;
            let from = block.len();
            table.append_row(server, row, &columns, block)?;
            if self.resumes {
                sha.update(&block[from..]);
            }
            if block.len() >= BLOCK {
                is_over |= !filler.hand_on() || !self.next_block(&mut filler)?;
            }
            if is_over {
                return Err(Error::Cancelled { work: OPERATION });
            }
            self.step(ExportStage::Copy, copied)
        })
        .or_else(|error| if is_over { Ok(()) } else { Err(error) })?;
        filler.block.extend_from_slice(&COPY_END);
        if is_over || !filler.hand_on() || filler.full.send(Block::End).is_err() {
            return Ok(None);
        }
        let sha256 = hex(&sha.finalize());
        Ok(Some(Sent { set_aside, sha256 }))
    }

    /// Waits for an empty block. False if nothing sends blocks any more.
    fn next_block(&self, filler: &mut Filler) -> Result<bool> {
        loop {
            match filler.empty.recv_timeout(CALLBACK_INTERVAL) {
                Ok(block) => {
                    filler.block = block;
                    return Ok(true);
                }
                Err(RecvTimeoutError::Timeout) => self.poll()?,
                Err(RecvTimeoutError::Disconnected) => return Ok(false),
            }
        }
    }

    /// Whether a row goes to the quarantine.
    pub(super) fn is_set_aside(&self, table: &Table, row: &super::scan::TableRow<'_>) -> Result<bool> {
        if self.on_misfit != OnMisfit::Quarantine || !table.has_misfits {
            return Ok(false);
        }
        table.is_misfit(row)
    }

    /// What [`copy`](Self::copy) would have sent.
    pub(super) fn hash(&self, conn: &Connection, server: &Server, table: &Table, copied: &mut u64) -> Result<Sent> {
        self.report(ExportStage::Copy, *copied)?;
        let columns = table.sent();
        let mut sha = Sha256::new();
        let mut bytes = Vec::new();
        let mut set_aside = 0;
        each(conn, &table.select(true), |row| {
            bytes.clear();
            if self.is_set_aside(table, row)? {
                set_aside += 1;
                append_aside(table, row, &mut bytes)?;
            } else {
                table.append_row(server, row, &columns, &mut bytes)?;
            }
            sha.update(&bytes);
            self.step(ExportStage::Copy, copied)
        })?;
        let sha256 = hex(&sha.finalize());
        Ok(Sent { set_aside, sha256 })
    }
}

/// The end of both channels of the thread that reads.
struct Filler {
    full: Sender<Block>,
    empty: Receiver<Vec<u8>>,
    block: Vec<u8>,
}

impl Filler {
    /// Returns whether something sends it.
    fn hand_on(&mut self) -> bool {
        self.full.send(Block::Rows(std::mem::take(&mut self.block))).is_ok()
    }
}

/// Sends blocks until the end.
fn send(mut writer: CopyInWriter<'_>, full: Receiver<Block>, emptied: Sender<Vec<u8>>) -> std::io::Result<()> {
    while let Ok(block) = full.recv() {
        match block {
            Block::Rows(mut rows) => {
                writer.write_all(&rows)?;
                writer.flush()?;
                recycle(&mut rows);
                // The other thread may need no more of them.
                let _ = emptied.send(rows);
            }
            Block::End => {
                return writer.finish().map(drop).map_err(std::io::Error::other);
            }
        }
    }
    Ok(())
}

/// Empties a block, and does not keep the memory of a very large row.
pub(super) fn recycle(block: &mut Vec<u8>) {
    block.clear();
    block.shrink_to(2 * BLOCK);
}
