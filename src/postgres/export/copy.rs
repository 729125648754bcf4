//! The rows of an export on their way to the server, by binary COPY.
//!
//! Two threads, and [`BLOCKS`] blocks of rows that go round between them:
//!
//! ```text
//! larder-export  owns the snapshot of the store: steps its statement, and writes rows into a block
//! larder-send    owns the connection to the server while a COPY runs: sends full blocks, adds them to the SHA-256 of what
//!                was sent, gives back empty ones
//! ```
//!
//! Neither waits while it holds a lock. The first one waits for an empty block, and calls the progress callback meanwhile;
//! the second one for a full block, or for the server. Whichever fails drops its end of both channels, which ends the wait of
//! the other. A COPY without [`Block::End`] is aborted. The first thread asks the server to end it, since one that waits for a
//! lock would keep the second thread, or the rollback.

use std::io::Write;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;

use postgres::{CopyInWriter, Transaction};
use rusqlite::Connection;
use sha2::{Digest, Sha256};

use super::compare::Unordered;
use super::scan::{TableRow, each};
use super::schema::Table;
use super::session::joined;
use super::{CALLBACK_INTERVAL, ExportStage, ExportToPostgres, OPERATION};
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
    pub(super) rows: u64,
    /// Rows that are set aside, and not sent.
    pub(super) set_aside: u64,
    pub(super) stream: Stream,
    /// The sum of the SHA-256 of the rows of a table without an order.
    sum: Option<String>,
}

impl Sent {
    /// Whether the server has stored as many rows as were read.
    pub(super) fn is_stored(&self) -> bool {
        self.stream.stored == self.rows
    }

    /// What the report has of the rows that were sent.
    pub(super) fn shown(&self) -> &str {
        self.sum.as_ref().unwrap_or(&self.stream.sha256)
    }
}

/// A binary COPY, as it was sent.
pub(super) struct Stream {
    pub(super) sha256: String,
    pub(super) bytes: u64,
    /// The rows that the server has stored, by its own count.
    pub(super) stored: u64,
}

/// Adds up a [`Stream`].
#[derive(Default)]
struct Streamed {
    sha: Sha256,
    bytes: u64,
}

impl Streamed {
    fn add(&mut self, bytes: &[u8]) {
        self.sha.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    fn finish(self, stored: u64) -> Stream {
        Stream {
            sha256: hex(&self.sha.finalize()),
            bytes: self.bytes,
            stored,
        }
    }
}

/// What was read for a COPY.
#[derive(Default)]
struct RowsRead {
    /// The columns that are sent.
    columns: Vec<usize>,
    rows: u64,
    set_aside: u64,
    /// The sum of [`Table::key_hash`].
    key_sum: u64,
    sum: Option<Unordered>,
}

impl RowsRead {
    fn new(table: &Table) -> Self {
        Self {
            columns: table.sent(),
            // Such a table is compared in another way.
            sum: (!table.is_ordered() && !table.has_made_columns()).then(Unordered::default),
            ..Self::default()
        }
    }

    /// Appends a row to `out` as it is sent, unless it is set aside.
    fn row(
        &mut self,
        export: &ExportToPostgres<'_>,
        server: &Server,
        table: &Table,
        row: &TableRow<'_>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        self.key_sum = self.key_sum.wrapping_add(table.key_hash(row)?);
        if export.is_set_aside(table, row)? {
            self.set_aside += 1;
            return Ok(());
        }
        let from = out.len();
        table.append_row(server, row, &self.columns, out)?;
        self.rows += 1;
        if let Some(sum) = &mut self.sum {
            sum.add(&out[from..]);
        }
        Ok(())
    }

    /// Fails if these are other rows than those of the scan, which does not read by the key.
    fn check(&self, server: &Server, table: &Table) -> Result<()> {
        let rows = self.rows + self.set_aside;
        let what = if rows != table.rows {
            format!(
                "table {} has {} rows, and {rows} by the index of its key",
                table.name, table.rows
            )
        } else if self.key_sum != table.key_sum {
            format!("table {} has other keys than the index of its key", table.name)
        } else {
            return Ok(());
        };
        Err(server.failed(&format!("{what}: check the store, and REINDEX the table")))
    }

    fn sent(self, stream: Stream) -> Sent {
        Sent {
            rows: self.rows,
            set_aside: self.set_aside,
            stream,
            sum: self.sum.map(Unordered::finish),
        }
    }
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
        let what = format!("the rows of table {}", table.name);
        let copy = table.copy_in(self.working_schema());
        let (read, stream) = self.sending(server, tx, &what, &copy, |filler| {
            let mut read = RowsRead::new(table);
            each(conn, &table.select(true), |row| {
                read.row(self, server, table, row, &mut filler.block)?;
                filler.end_row()?;
                self.step(ExportStage::Copy, copied)
            })?;
            Ok(read)
        })?;
        read.check(server, table)?;
        Ok(read.sent(stream))
    }

    /// Has a thread send the rows that `rows` appends to the blocks of a [`Filler`].
    pub(super) fn sending<T>(
        &self,
        server: &Server,
        tx: &mut Transaction<'_>,
        what: &str,
        copy: &str,
        rows: impl FnOnce(&mut Filler<'_>) -> Result<T>,
    ) -> Result<(T, Stream)> {
        let token = tx.cancel_token();
        let writer = tx.copy_in(copy);
        let writer = writer.map_err(|error| server.error(what, error, Outcome::RolledBack))?;
        let (full, to_send) = channel();
        let (emptied, empty) = channel();
        for _ in 0..BLOCKS {
            // Its receiver is here.
            let _ = emptied.send(Vec::with_capacity(BLOCK));
        }
        thread::scope(|scope| {
            let sender = self.start(scope, "larder-send", move || {
                send(writer, to_send, emptied).map_err(|error| server.broken(what, error))
            })?;
            let mut filler = Filler {
                export: self,
                full,
                empty,
                block: Vec::new(),
                is_over: false,
            };
            let filled = filler.fill(rows);
            let is_over = filler.is_over;
            if filled.is_err() && !is_over {
                server.cancel(&token);
            }
            drop(filler);
            match joined(sender) {
                // The thread that sends says why.
                Err(error) if is_over => Err(error),
                sent => filled.and_then(|filled| Ok((filled, sent?))),
            }
        })
    }

    /// Whether a row goes to the quarantine.
    pub(super) fn is_set_aside(&self, table: &Table, row: &TableRow<'_>) -> Result<bool> {
        Ok(self.sets_aside(table) && table.is_misfit(row)?)
    }

    /// What [`copy`](Self::copy) would have sent. An earlier run has kept a table only if all of its rows were stored.
    pub(super) fn hash(&self, conn: &Connection, server: &Server, table: &Table, copied: &mut u64) -> Result<Sent> {
        self.report(ExportStage::Copy, *copied)?;
        let (mut stream, mut read) = (Streamed::default(), RowsRead::new(table));
        let mut bytes = Vec::new();
        stream.add(COPY_HEAD);
        each(conn, &table.select(true), |row| {
            bytes.clear();
            read.row(self, server, table, row, &mut bytes)?;
            stream.add(&bytes);
            self.step(ExportStage::Copy, copied)
        })?;
        stream.add(&COPY_END);
        read.check(server, table)?;
        let stream = stream.finish(read.rows);
        Ok(read.sent(stream))
    }
}

/// The end of both channels of the thread that reads.
pub(super) struct Filler<'a> {
    export: &'a ExportToPostgres<'a>,
    full: Sender<Block>,
    empty: Receiver<Vec<u8>>,
    pub(super) block: Vec<u8>,
    /// Whether nothing sends blocks any more. All that needs one is an error then.
    is_over: bool,
}

impl Filler<'_> {
    /// Hands on a whole COPY, with these rows, and waits until the server has it.
    fn fill<T>(&mut self, rows: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.next_block()?;
        self.block.extend_from_slice(COPY_HEAD);
        let read = rows(self)?;
        self.block.extend_from_slice(&COPY_END);
        self.hand_on()?;
        self.send(Block::End)?;
        while self.received()?.is_some() {}
        Ok(read)
    }

    /// Hands the block on if it is full. Call it after each row.
    pub(super) fn end_row(&mut self) -> Result<()> {
        if self.block.len() < BLOCK {
            return Ok(());
        }
        self.hand_on()?;
        self.next_block()
    }

    fn hand_on(&mut self) -> Result<()> {
        let rows = std::mem::take(&mut self.block);
        self.send(Block::Rows(rows))
    }

    fn send(&mut self, block: Block) -> Result<()> {
        match self.full.send(block) {
            Ok(()) => Ok(()),
            Err(_) => Err(self.over()),
        }
    }

    /// Waits for an empty block.
    fn next_block(&mut self) -> Result<()> {
        match self.received()? {
            Some(block) => {
                self.block = block;
                Ok(())
            }
            None => Err(self.over()),
        }
    }

    /// Waits for an empty block, and calls the progress callback meanwhile. `None` once the thread that sends has ended.
    fn received(&self) -> Result<Option<Vec<u8>>> {
        loop {
            match self.empty.recv_timeout(CALLBACK_INTERVAL) {
                Ok(block) => return Ok(Some(block)),
                Err(RecvTimeoutError::Timeout) => self.export.poll()?,
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
            }
        }
    }

    fn over(&mut self) -> Error {
        self.is_over = true;
        Error::Cancelled { work: OPERATION }
    }
}

/// Sends blocks until the end.
fn send(mut writer: CopyInWriter<'_>, full: Receiver<Block>, emptied: Sender<Vec<u8>>) -> std::io::Result<Stream> {
    let (mut stream, mut stored) = (Streamed::default(), 0);
    while let Ok(block) = full.recv() {
        match block {
            Block::Rows(mut rows) => {
                stream.add(&rows);
                writer.write_all(&rows)?;
                writer.flush()?;
                recycle(&mut rows);
                // The other thread may need no more of them.
                let _ = emptied.send(rows);
            }
            Block::End => {
                stored = writer.finish().map_err(std::io::Error::other)?;
                break;
            }
        }
    }
    Ok(stream.finish(stored))
}

/// Empties a block, and does not keep the memory of a very large row.
pub(super) fn recycle(block: &mut Vec<u8>) {
    block.clear();
    block.shrink_to(2 * BLOCK);
}
