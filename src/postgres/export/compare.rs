//! The verification of an export: the rows of the server are read back before the COMMIT, and compared as bytes of a binary
//! COPY with those of the store.
//!
//! - By the SHA-256 of what was sent, which was made as the store was read. The server sends the rows as they lie in the table,
//!   which is the order in which they came, and it has stored as many as were read.
//! - If one of the two is not so, if the server makes columns, or if other tables inherit from this one, the store is read
//!   again. The rows are compared one by one in the order of the key, which finds those that differ; or by the sum of their
//!   SHA-256, if the two sides have no common order.
//!
//! Two threads, and [`BLOCKS`] blocks that go round between them:
//!
//! ```text
//! larder-receive  owns the connection to the server while a COPY runs: puts what it reads into a block
//! larder-export   owns the snapshot of the store: adds the blocks to the SHA-256. Or steps its statement, writes each row
//!                 as the server would, compares it with the bytes of the block, and adds to the SHA-256. Without an order
//!                 of the rows, it adds up those of the store first, and then those of the blocks
//! ```
//!
//! Neither waits while it holds a lock. Whichever fails drops its end of both channels, which ends the wait of the other.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;

use postgres::{CancelToken, CopyOutReader, Transaction};
use rusqlite::Connection;
use sha2::{Digest, Sha256};

use super::copy::{BLOCK, BLOCKS, COPY_END, COPY_HEAD, Sent, Stream, recycle};
use super::scan::each;
use super::schema::{Column, Table};
use super::session::joined;
use super::{CALLBACK_INTERVAL, ExportStage, ExportToPostgres, OPERATION};
use crate::connection::sql_text::quoted;
use crate::error::{Error, Outcome, Result};
use crate::postgres::url::Server;
use crate::runtime::hex::hex;

/// So many differing rows of a table are named.
const MAX_NAMED: usize = 5;

/// How two sides of a table compare.
pub(super) enum Compared {
    /// They are the same, with this SHA-256.
    Same(String),
    /// What differs.
    Differs(String),
}

impl ExportToPostgres<'_> {
    /// Reads a table back, and the store again if need be. The SHA-256 of one with an order is that of
    /// `COPY (SELECT .. ORDER BY ..) TO STDOUT (FORMAT binary)`.
    pub(super) fn compare(
        &self,
        conn: &Connection,
        server: &Server,
        tx: &mut Transaction<'_>,
        table: &Table,
        sent: &Sent,
        compared: &mut u64,
    ) -> Result<Compared> {
        if !table.has_made_columns() && !self.has_children(server, tx, table)? {
            let (before, copy) = (*compared, table.copy_out_as_stored(self.working_schema()));
            let theirs = self.received(server, tx, table, &copy, |theirs| {
                self.digest(server, table, theirs, sent, compared)
            })?;
            // The server counts the rows by itself: a row that was counted here and left out of what was sent is missed there.
            if theirs == sent.stream.sha256 && sent.is_stored() {
                return Ok(Compared::Same(sent.shown().to_owned()));
            }
            *compared = before;
        }
        if !table.is_ordered() {
            return self.compare_sums(conn, server, tx, table, compared);
        }
        let copy = table.copy_out(self.working_schema());
        self.received(server, tx, table, &copy, |theirs| {
            self.in_order(conn, server, table, theirs, compared)
        })
    }

    /// Whether other tables inherit from it: COPY of a table leaves out their rows, and SELECT has them.
    fn has_children(&self, server: &Server, tx: &mut Transaction<'_>, table: &Table) -> Result<bool> {
        let found = "SELECT EXISTS (SELECT 1 FROM pg_inherits WHERE inhparent = $1::text::regclass)";
        let found = tx.query_one(found, &[&table.qualified(self.working_schema())]);
        let found = found.map_err(|error| {
            let what = format!("the children of table {}", table.name);
            server.error(&what, error, Outcome::RolledBack)
        })?;
        Ok(found.get(0))
    }

    /// Has a thread receive what the server sends for a COPY, while `read` reads it.
    fn received<T>(
        &self,
        server: &Server,
        tx: &mut Transaction<'_>,
        table: &Table,
        copy: &str,
        read: impl FnOnce(Blocks<'_>) -> Result<T>,
    ) -> Result<T> {
        let what = &format!("reading table {} back", table.name);
        let token = tx.cancel_token();
        let reader = tx.copy_out(copy);
        let reader = reader.map_err(|error| server.error(what, error, Outcome::RolledBack))?;
        let broken = move |error| server.broken(what, error);
        let (full, blocks) = channel();
        let (emptied, empty) = channel();
        for _ in 0..BLOCKS {
            // Its receiver is here.
            let _ = emptied.send(Vec::with_capacity(BLOCK));
        }
        thread::scope(|scope| {
            let receive = move || receive(reader, full, empty).map_err(broken);
            let receiver = self.start(scope, "larder-receive", receive)?;
            let read = read(Blocks {
                export: self,
                full: blocks,
                emptied,
                block: Vec::new(),
                at: 0,
            });
            if read.is_err() {
                self.cancel(server, &token);
            }
            // A failure of the other thread looks like the end of the rows here.
            joined(receiver).and(read)
        })
    }

    /// Ends the statement of the server if the export is cancelled. Otherwise the rollback would wait until the server has
    /// sent all rows. The connection is not used again, so it does no harm if the statement has ended meanwhile.
    fn cancel(&self, server: &Server, token: &CancelToken) {
        if self.poll().is_err() {
            server.cancel(token);
        }
    }

    /// The SHA-256 of all that the server sends.
    fn digest(
        &self,
        server: &Server,
        table: &Table,
        mut theirs: Blocks<'_>,
        sent: &Sent,
        compared: &mut u64,
    ) -> Result<String> {
        let (mut sha, mut bytes) = (Sha256::new(), 0);
        let before = *compared;
        loop {
            let block = theirs.fill_buf();
            let block = block.map_err(|error| server.broken(&format!("reading table {} back", table.name), error))?;
            if block.is_empty() {
                break;
            }
            sha.update(block);
            let count = block.len();
            bytes += count as u64;
            theirs.consume(count);
            *compared = before + part(sent.rows, bytes, &sent.stream);
            self.reach(ExportStage::Compare, *compared)?;
        }
        Ok(hex(&sha.finalize()))
    }

    /// Reads both sides of a table whose rows have no order, one after the other.
    fn compare_sums(
        &self,
        conn: &Connection,
        server: &Server,
        tx: &mut Transaction<'_>,
        table: &Table,
        compared: &mut u64,
    ) -> Result<Compared> {
        let here = self.sum(conn, server, table, compared)?;
        let there = self.sum_at_server(server, tx, table)?;
        let (rows, sha256) = (here.rows, here.finish());
        if rows != there.rows {
            let what = format!("it has {} rows at the server, {rows} in the store", there.rows);
            return Ok(Compared::Differs(what));
        }
        let other = there.finish();
        if sha256 != other {
            let what = format!("it has other rows at the server: SHA-256 {sha256} in the store, {other} there");
            return Ok(Compared::Differs(what));
        }
        Ok(Compared::Same(sha256))
    }

    /// An error of an export whose target has other rows.
    pub(super) fn differs(&self, server: &Server, table: &Table, what: &str) -> Error {
        server.failed(&format!(
            "table {} is not the same at the server: {what}; {}; look for triggers, event triggers and rules at the server",
            table.name,
            self.what_is_kept()
        ))
    }

    /// What the server keeps of an export that fails, for an error.
    pub(super) fn what_is_kept(&self) -> String {
        match &self.staging {
            None => "nothing was kept there".into(),
            Some(staging) => format!(
                "the schema {staging} keeps its tables, and the target is as it was: DROP SCHEMA {} CASCADE before the \
                 next export makes all of them again",
                quoted(staging)
            ),
        }
    }

    fn in_order(
        &self,
        conn: &Connection,
        server: &Server,
        table: &Table,
        mut theirs: Blocks<'_>,
        compared: &mut u64,
    ) -> Result<Compared> {
        let broken = |error| server.broken(&format!("reading table {} back", table.name), error);
        let mut sha = Sha256::new();
        sha.update(COPY_HEAD);
        let mut head = [0; COPY_HEAD.len()];
        theirs.read_exact(&mut head).map_err(broken)?;
        let columns: Vec<usize> = (0..table.columns.len()).collect();
        let (mut ours, mut other) = (Vec::new(), Vec::new());
        let mut differences: Vec<String> = Vec::new();
        let mut rows = 0_u64;
        let read = each(conn, &table.select(true), |row| {
            if self.is_set_aside(table, row)? {
                return self.step(ExportStage::Compare, compared);
            }
            rows += 1;
            ours.clear();
            table.append_row(server, row, &columns, &mut ours)?;
            sha.update(&ours);
            let same = theirs.same(&ours).map_err(broken)?;
            if same < ours.len() {
                // Their row begins with what was the same.
                other.clear();
                let found = next_row(&mut (&ours[..same]).chain(&mut theirs), columns.len(), &mut other);
                let found = found.map_err(broken)?;
                let rowid = row.rowid();
                let place = rowid.map_or(String::new(), |rowid| format!(" (rowid {rowid} in the store)"));
                let which = match found {
                    true => format!("differs in {}", differing(&ours, &other, &table.columns)),
                    false => "is not there".to_owned(),
                };
                differences.push(format!("row {rows}{place} {which}"));
                if !found || differences.len() == MAX_NAMED {
                    // No more of them are named.
                    return Err(Error::Cancelled { work: OPERATION });
                }
            }
            self.step(ExportStage::Compare, compared)
        });
        if !differences.is_empty() {
            return Ok(Compared::Differs(differences.join("; ")));
        }
        read?;
        if next_row(&mut theirs, columns.len(), &mut other).map_err(broken)? {
            return Ok(Compared::Differs(
                "it has more rows at the server than in the store".into(),
            ));
        }
        sha.update(COPY_END);
        Ok(Compared::Same(hex(&sha.finalize())))
    }

    /// Adds the rows of the store.
    fn sum(&self, conn: &Connection, server: &Server, table: &Table, compared: &mut u64) -> Result<Unordered> {
        let columns: Vec<usize> = (0..table.columns.len()).collect();
        let mut rows = Unordered::default();
        let mut bytes = Vec::new();
        each(conn, &table.select(false), |row| {
            if !self.is_set_aside(table, row)? {
                bytes.clear();
                table.append_row(server, row, &columns, &mut bytes)?;
                rows.add(&bytes);
            }
            self.step(ExportStage::Compare, compared)
        })?;
        Ok(rows)
    }

    /// Adds the rows of the server.
    pub(super) fn sum_at_server(&self, server: &Server, tx: &mut Transaction<'_>, table: &Table) -> Result<Unordered> {
        let copy = table.copy_out(self.working_schema());
        self.received(server, tx, table, &copy, |mut theirs| {
            let rows = sum(&mut theirs, table.columns.len());
            rows.map_err(|error| server.broken(&format!("reading table {} back", table.name), error))
        })
    }
}

/// About how many rows so many bytes of a stream are.
fn part(rows: u64, bytes: u64, of: &Stream) -> u64 {
    let part = u128::from(rows) * u128::from(bytes.min(of.bytes)) / u128::from(of.bytes.max(1));
    u64::try_from(part).unwrap_or(rows)
}

/// Reads a COPY into blocks until its end, or until they are not wanted any more.
fn receive(mut reader: CopyOutReader<'_>, full: Sender<Vec<u8>>, empty: Receiver<Vec<u8>>) -> io::Result<()> {
    while let Ok(mut block) = empty.recv() {
        while block.len() < BLOCK {
            let read = reader.fill_buf()?;
            if read.is_empty() {
                let _ = full.send(block);
                return Ok(());
            }
            block.extend_from_slice(read);
            let read = read.len();
            reader.consume(read);
        }
        if full.send(block).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// The blocks of the server's side.
struct Blocks<'a> {
    export: &'a ExportToPostgres<'a>,
    full: Receiver<Vec<u8>>,
    emptied: Sender<Vec<u8>>,
    block: Vec<u8>,
    /// What was read of it.
    at: usize,
}

impl Blocks<'_> {
    /// Reads as many bytes as are the same.
    fn same(&mut self, wanted: &[u8]) -> io::Result<usize> {
        let mut same = 0;
        while same < wanted.len() {
            let left = &wanted[same..];
            let block = self.fill_buf()?;
            let count = block.len().min(left.len());
            if block[..count] == left[..count] && count > 0 {
                self.consume(count);
                same += count;
                continue;
            }
            let count = block.iter().zip(left).take_while(|(one, other)| one == other).count();
            self.consume(count);
            return Ok(same + count);
        }
        Ok(same)
    }
}

impl BufRead for Blocks<'_> {
    /// Waits for a block, and calls the progress callback before each and meanwhile.
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at == self.block.len() {
            // The reporter says why it stops.
            self.export.poll().map_err(io::Error::other)?;
            match self.full.recv_timeout(CALLBACK_INTERVAL) {
                Ok(next) => {
                    let mut block = std::mem::replace(&mut self.block, next);
                    self.at = 0;
                    // The first one was never filled.
                    if block.capacity() > 0 {
                        recycle(&mut block);
                        // The other thread may need no more of them.
                        let _ = self.emptied.send(block);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        Ok(&self.block[self.at..])
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
    }
}

impl Read for Blocks<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut block = self.fill_buf()?;
        let count = block.read(out)?;
        self.consume(count);
        Ok(count)
    }
}

/// Appends the next row of a binary COPY to `out`, as it is. False at the end.
fn next_row(reader: &mut impl Read, columns: usize, out: &mut Vec<u8>) -> io::Result<bool> {
    let mut count = [0; 2];
    reader.read_exact(&mut count)?;
    if count == COPY_END {
        return Ok(false);
    }
    if usize::from(u16::from_be_bytes(count)) != columns {
        return Err(io::Error::other("a row with another number of columns"));
    }
    out.extend_from_slice(&count);
    for _ in 0..columns {
        let mut length = [0; 4];
        reader.read_exact(&mut length)?;
        out.extend_from_slice(&length);
        // NULL is -1.
        if let Ok(length) = usize::try_from(i32::from_be_bytes(length)) {
            let from = out.len();
            out.resize(from + length, 0);
            reader.read_exact(&mut out[from..])?;
        }
    }
    Ok(true)
}

/// The names of the columns in which two rows of a binary COPY differ.
fn differing(ours: &[u8], theirs: &[u8], columns: &[Column]) -> String {
    let (ours, theirs) = (fields(ours), fields(theirs));
    let differ = columns
        .iter()
        .enumerate()
        .filter(|(at, _)| ours.get(*at) != theirs.get(*at));
    let names: Vec<&str> = differ.map(|(_, column)| column.name.as_str()).collect();
    names.join(", ")
}

/// The fields of a row, with their lengths.
fn fields(row: &[u8]) -> Vec<&[u8]> {
    let mut rest = row.get(2..).unwrap_or_default();
    let mut fields = Vec::new();
    while let Some(length) = rest.first_chunk::<4>() {
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        let Some((field, left)) = rest.split_at_checked(4 + length) else {
            break;
        };
        fields.push(field);
        rest = left;
    }
    fields
}

/// Rows in any order: the sum of their SHA-256, as four numbers that wrap around.
#[derive(Default)]
pub(super) struct Unordered {
    sums: [u64; 4],
    rows: u64,
}

impl Unordered {
    pub(super) fn add(&mut self, row: &[u8]) {
        self.rows += 1;
        let digest = Sha256::digest(row);
        for (sum, part) in self.sums.iter_mut().zip(digest.chunks(8)) {
            let part = part.iter().fold(0, |part, byte| part << 8 | u64::from(*byte));
            *sum = sum.wrapping_add(part);
        }
    }

    pub(super) fn finish(self) -> String {
        let mut sha = Sha256::new();
        self.sums.iter().for_each(|sum| sha.update(sum.to_be_bytes()));
        sha.update(self.rows.to_be_bytes());
        hex(&sha.finalize())
    }
}

/// Adds the rows of a COPY.
fn sum(reader: &mut impl Read, columns: usize) -> io::Result<Unordered> {
    let mut head = [0; COPY_HEAD.len()];
    reader.read_exact(&mut head)?;
    let mut rows = Unordered::default();
    let mut row = Vec::new();
    while next_row(reader, columns, &mut row)? {
        rows.add(&row);
        row.clear();
    }
    // What follows the end of the rows: the end of the COPY.
    io::copy(reader, &mut io::sink())?;
    Ok(rows)
}
