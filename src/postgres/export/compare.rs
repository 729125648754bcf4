//! The verification of an export: both sides are read row by row, in the transaction that wrote them.

use std::io::Read;

use postgres::Transaction;
use rusqlite::Connection;
use sha2::{Digest, Sha256};

use super::copy::value_at;
use super::scan::each;
use super::schema::{Column, Table};
use super::{ExportStage, ExportToPostgres, OnMisfit};
use crate::error::{Error, Outcome, Result};
use crate::postgres::canonical::{TableHash, Value};
use crate::postgres::types::of_binary;
use crate::postgres::url::Server;

/// So many differing rows of a table are named.
const MAX_NAMED: usize = 5;

impl ExportToPostgres<'_> {
    /// Reads both sides of a table, and gives the SHA-256 of its rows.
    pub(super) fn compare(
        &self,
        conn: &Connection,
        server: &Server,
        tx: &mut Transaction<'_>,
        table: &Table,
        compared: &mut u64,
    ) -> Result<String> {
        let what = format!("reading table {} back", table.name);
        let reader = tx.copy_out(&table.copy_out(&self.schema));
        let reader = reader.map_err(|error| server.error(&what, error, Outcome::RolledBack))?;
        let broken = |error| server.broken(&what, error);
        let mut theirs = CopyRows::begin(reader).map_err(broken)?;
        let is_ordered = table.is_ordered();
        let (mut here, mut there) = (Rows::new(is_ordered), Rows::new(is_ordered));
        let (mut ours, mut other) = (Row::default(), Row::default());
        let mut differences: Vec<String> = Vec::new();
        let count = table.columns.len();
        let read = each(conn, table, |rowid, values| {
            if self.on_misfit == OnMisfit::Quarantine && table.is_set_aside(values) {
                return self.step(ExportStage::Compare, compared);
            }
            ours.clear();
            for (at, value) in values.iter().enumerate() {
                ours.push(&value_at(server, table, at, *value)?);
            }
            let found = theirs.next(&table.columns, &mut other).map_err(broken)?;
            if !found || (is_ordered && ours.bytes != other.bytes) {
                let row = here.rows() + 1;
                let place = rowid.map_or(String::new(), |rowid| format!(" (rowid {rowid} in the store)"));
                let columns = match found {
                    true => format!("differs in {}", ours.differing(&other, &table.columns)),
                    false => "is not there".to_owned(),
                };
                differences.push(format!("row {row}{place} {columns}"));
                if !found || differences.len() == MAX_NAMED {
                    return Err(differs(server, table, &differences));
                }
            }
            here.add(count, &ours.bytes);
            there.add(count, &other.bytes);
            self.step(ExportStage::Compare, compared)
        });
        read?;
        if !differences.is_empty() {
            return Err(differs(server, table, &differences));
        }
        if theirs.next(&table.columns, &mut other).map_err(broken)? {
            return Err(server.failed(&format!(
                "table {} has more rows at the server than in the store; nothing was kept there",
                table.name
            )));
        }
        let (here, there) = (here.finish(), there.finish());
        if here != there {
            return Err(server.failed(&format!(
                "table {} has other rows at the server: SHA-256 {here} in the store, {there} there; nothing was kept there",
                table.name
            )));
        }
        Ok(here)
    }
}

fn differs(server: &Server, table: &Table, differences: &[String]) -> Error {
    server.failed(&format!(
        "table {} is not the same at the server, so nothing was kept there: {}; look for triggers, event triggers and \
         rules at the server",
        table.name,
        differences.join("; ")
    ))
}

/// The canonical values of a row.
#[derive(Default)]
pub(super) struct Row {
    pub(super) bytes: Vec<u8>,
    /// Where each value ends.
    ends: Vec<usize>,
}

impl Row {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    pub(super) fn push(&mut self, value: &Value<'_>) {
        value.append_to(&mut self.bytes);
        self.ends.push(self.bytes.len());
    }

    fn value(&self, at: usize) -> &[u8] {
        let from = at.checked_sub(1).and_then(|before| self.ends.get(before)).copied();
        let end = self.ends.get(at).copied().unwrap_or_default();
        self.bytes.get(from.unwrap_or_default()..end).unwrap_or_default()
    }

    /// The names of the columns in which it differs.
    fn differing(&self, other: &Row, columns: &[Column]) -> String {
        let differ = columns
            .iter()
            .enumerate()
            .filter(|(at, _)| self.value(*at) != other.value(*at));
        let names: Vec<&str> = differ.map(|(_, column)| column.name.as_str()).collect();
        names.join(", ")
    }
}

/// The rows of one side.
pub(super) enum Rows {
    /// In the order of the key.
    Ordered(TableHash),
    /// In any order: the sum of the rows' SHA-256, as four numbers that wrap around, and the number of rows.
    Unordered([u64; 4], u64),
}

impl Rows {
    pub(super) fn new(ordered: bool) -> Self {
        if ordered {
            Rows::Ordered(TableHash::default())
        } else {
            Rows::Unordered([0; 4], 0)
        }
    }

    pub(super) fn add(&mut self, columns: usize, row: &[u8]) {
        match self {
            Rows::Ordered(hash) => hash.add(columns, row),
            Rows::Unordered(sums, rows) => {
                *rows += 1;
                let digest = Sha256::digest(row);
                for (sum, part) in sums.iter_mut().zip(digest.chunks(8)) {
                    let part = part.iter().fold(0, |part, byte| part << 8 | u64::from(*byte));
                    *sum = sum.wrapping_add(part);
                }
            }
        }
    }

    pub(super) fn rows(&self) -> u64 {
        match self {
            Rows::Ordered(hash) => hash.rows(),
            Rows::Unordered(_, rows) => *rows,
        }
    }

    pub(super) fn finish(self) -> String {
        match self {
            Rows::Ordered(hash) => hash.finish(),
            Rows::Unordered(sums, rows) => {
                let mut sha = Sha256::new();
                sums.iter().for_each(|sum| sha.update(sum.to_be_bytes()));
                sha.update(rows.to_be_bytes());
                crate::runtime::hex::hex(&sha.finalize())
            }
        }
    }
}

/// The rows of a binary COPY.
pub(super) struct CopyRows<R> {
    reader: R,
    field: Vec<u8>,
}

impl<R: Read> CopyRows<R> {
    pub(super) fn begin(mut reader: R) -> std::io::Result<Self> {
        let mut head = [0; 19];
        reader.read_exact(&mut head)?;
        Ok(Self {
            reader,
            field: Vec::new(),
        })
    }

    /// Reads the canonical values of the next row into `out`. False at the end.
    pub(super) fn next(&mut self, columns: &[Column], out: &mut Row) -> std::io::Result<bool> {
        out.clear();
        let mut count = [0; 2];
        self.reader.read_exact(&mut count)?;
        if i16::from_be_bytes(count) < 0 {
            return Ok(false);
        }
        for column in columns {
            let mut length = [0; 4];
            self.reader.read_exact(&mut length)?;
            let length = usize::try_from(i32::from_be_bytes(length)).ok();
            self.field.resize(length.unwrap_or(0), 0);
            self.reader.read_exact(&mut self.field)?;
            let value = of_binary(column.kind, length.map(|_| self.field.as_slice()));
            let unknown = || std::io::Error::other(format!("a value of column {} in another form", column.name));
            out.push(&value.ok_or_else(unknown)?);
        }
        Ok(true)
    }
}
