//! The scan of an export: it reads all rows for the types of the columns, and for the values that do not fit them.

use std::collections::BTreeMap;

use rusqlite::Connection;
use rusqlite::types::ValueRef;

use super::schema::{self, Column, Table};
use super::{ExportMisfit, ExportNote, ExportStage, ExportToPostgres, OnMisfit, expression};
use crate::error::Result;
use crate::postgres::canonical::Value;
use crate::postgres::types::{Misfit, PgType, fit};

impl ExportToPostgres<'_> {
    /// Reads all rows of a table: for the types of its columns, and for the values that do not fit them.
    pub(super) fn scan(
        &self,
        conn: &Connection,
        table: &mut Table,
        scanned: &mut u64,
        notes: &mut Vec<ExportNote>,
    ) -> Result<(u64, Vec<ExportMisfit>, bool)> {
        let mut seen: Vec<Seen> = table.columns.iter().map(|_| Seen::default()).collect();
        each(conn, table, |_, values| {
            for (seen, value) in seen.iter_mut().zip(values) {
                seen.add(*value, self.infers);
            }
            self.step(ExportStage::Scan, scanned)
        })?;
        for (at, seen) in seen.iter().enumerate() {
            let column = &table.columns[at];
            let asked = self.types.get(&(table.name.clone(), column.name.clone())).copied();
            let kind = asked.unwrap_or_else(|| kind_of(&column.declared, &seen.classes));
            let inferred = match asked {
                None if self.infers => inferred(table, column, kind, seen),
                _ => None,
            };
            if let Some((kind, reason)) = inferred {
                notes.push(ExportNote {
                    object: format!("column {}.{}", table.name, column.name),
                    instead: format!("{}: {reason}", kind.sql()),
                });
            }
            let [_, integers, reals, ..] = seen.classes;
            if kind == PgType::Float8 && integers && reals {
                notes.push(ExportNote {
                    object: format!("column {}.{}", table.name, column.name),
                    instead: "integers and real numbers are all double precision: 1 is 1.0".into(),
                });
            }
            table.columns[at].kind = inferred.map_or(kind, |(kind, _)| kind);
        }
        let types = &self.types;
        let name = table.name.clone();
        table.generate(|column| types.contains_key(&(name.clone(), column.name.clone())));
        let (rows, found) = self.misfits(conn, table, scanned)?;
        let listed = |table: &Table, found: Found| -> Vec<ExportMisfit> {
            let misfits = found
                .into_iter()
                .map(|((at, misfit), (count, first_rowid))| ExportMisfit {
                    table: table.name.clone(),
                    column: table.columns[at].name.clone(),
                    target_type: table.columns[at].kind.sql().to_owned(),
                    reason: misfit.reason().to_owned(),
                    count,
                    first_rowid,
                });
            misfits.collect()
        };
        let mut misfits = listed(table, found.clone());
        let mut fatal = false;
        let mut as_text = false;
        for (at, misfit) in found.into_keys() {
            let in_key = table.key.contains(&at);
            let column = &mut table.columns[at];
            match self.on_misfit {
                OnMisfit::Quarantine => {}
                OnMisfit::Text if column.kind != PgType::Text && misfit != Misfit::NullKey => {
                    column.kind = PgType::Text;
                    column.as_text = true;
                    as_text = true;
                }
                // The other reasons of a column that is text by now.
                OnMisfit::Text if column.as_text => {}
                OnMisfit::Null if !in_key && !column.not_null => column.misfits_are_null = true,
                _ => fatal = true,
            }
        }
        if as_text {
            // Values that fitted before may not fit text: blobs, U+0000.
            let (_, found) = self.misfits(conn, table, scanned)?;
            fatal |= !found.is_empty();
            misfits.extend(listed(table, found));
            // An expression of numbers is none of text.
            table.columns.iter_mut().for_each(|column| column.generated = None);
        }
        Ok((rows, misfits, fatal))
    }

    /// Counts the rows, and the values that do not fit.
    fn misfits(&self, conn: &Connection, table: &Table, scanned: &mut u64) -> Result<(u64, Found)> {
        let mut found = Found::new();
        let mut rows = 0;
        each(conn, table, |rowid, values| {
            rows += 1;
            for (at, value) in values.iter().enumerate() {
                if let Err(misfit) = table.fit(at, *value) {
                    found.entry((at, misfit)).or_insert((0, rowid)).0 += 1;
                }
            }
            self.step(ExportStage::Scan, scanned)
        })?;
        Ok((rows, found))
    }
}

/// Calls `f` with each row of a table: its rowid and its values.
pub(super) fn each(
    conn: &Connection,
    table: &Table,
    mut f: impl FnMut(Option<i64>, &[ValueRef<'_>]) -> Result<()>,
) -> Result<()> {
    let mut statement = conn.prepare(&table.select())?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let rowid = row.get_ref(0)?.as_i64().ok();
        let values: rusqlite::Result<Vec<_>> = (1..=table.columns.len()).map(|at| row.get_ref(at)).collect();
        f(rowid, &values?)?;
    }
    Ok(())
}

/// Misfits by column and reason: their number, the first rowid.
type Found = BTreeMap<(usize, Misfit), (u64, Option<i64>)>;

impl Table {
    /// The value of a column as the server takes it.
    pub(super) fn fit<'v>(&self, at: usize, value: ValueRef<'v>) -> std::result::Result<Value<'v>, Misfit> {
        let column = &self.columns[at];
        match value {
            ValueRef::Null if self.key.contains(&at) => Err(Misfit::NullKey),
            ValueRef::Integer(number) if column.as_text => Ok(Value::Text(number.to_string().into())),
            ValueRef::Real(number) if column.as_text => Ok(Value::Text(format!("{number:?}").into())),
            value => fit(value, column.kind),
        }
    }

    /// Whether a row has a value that does not fit.
    pub(super) fn is_set_aside(&self, values: &[ValueRef<'_>]) -> bool {
        values
            .iter()
            .enumerate()
            .any(|(at, value)| self.fit(at, *value).is_err())
    }
}

/// What was seen of a column.
struct Seen {
    classes: [bool; 5],
    /// Whether all text was a UUID, a date, a time with a date.
    fits: [bool; 3],
    /// Whether all integers were 0 or 1.
    is_bool: bool,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            classes: [false; 5],
            fits: [true; 3],
            is_bool: true,
        }
    }
}

const BY_TEXT: [PgType; 3] = [PgType::Uuid, PgType::Date, PgType::Timestamptz];

impl Seen {
    fn add(&mut self, value: ValueRef<'_>, infers: bool) {
        self.classes[class_index(value)] = true;
        self.is_bool &= !matches!(value, ValueRef::Integer(number) if !(0..=1).contains(&number));
        if infers && matches!(value, ValueRef::Text(_)) {
            for (fits, kind) in self.fits.iter_mut().zip(BY_TEXT) {
                *fits = *fits && fit(value, kind).is_ok();
            }
        }
    }
}

/// A narrower type that all values fit, and the reason.
fn inferred(table: &Table, column: &Column, kind: PgType, seen: &Seen) -> Option<(PgType, &'static str)> {
    let says = |kind: PgType| {
        let mut as_kind = column.clone();
        as_kind.kind = kind;
        let of_column = std::slice::from_ref(&as_kind);
        table
            .checks
            .iter()
            .any(|check| expression::is_implied(check, of_column))
    };
    if kind == PgType::Int8 && says(PgType::Bool) && seen.is_bool && seen.classes[2..] == [false; 3] {
        return Some((PgType::Bool, "a CHECK allows 0 and 1 alone"));
    }
    if kind != PgType::Text || seen.classes[1..] != [false, false, true, false] {
        return None;
    }
    let at = table.columns.iter().position(|known| known.name == column.name);
    let in_index = |index: &schema::Index| index.columns.iter().any(|(column, ..)| *column == at);
    // The server has no order of json, so no key or index either.
    let in_key = table.key.iter().any(|key| Some(*key) == at) || table.indexes.iter().any(in_index);
    if says(PgType::Json) && in_key {
        return None;
    }
    if says(PgType::Json) {
        return Some((PgType::Json, "a CHECK allows JSON alone"));
    }
    let fitting = seen.fits.iter().zip(BY_TEXT).find(|(fits, _)| **fits);
    fitting.map(|(_, kind)| (kind, "all values fit; their text is written in one form from now on"))
}

fn class_index(value: ValueRef<'_>) -> usize {
    match value {
        ValueRef::Null => 0,
        ValueRef::Integer(_) => 1,
        ValueRef::Real(_) => 2,
        ValueRef::Text(_) => 3,
        ValueRef::Blob(_) => 4,
    }
}

/// The type for a column: by the affinity of its declared type (<https://sqlite.org/datatype3.html>), and by the values
/// where that leaves it open.
fn kind_of(declared: &str, seen: &[bool; 5]) -> PgType {
    let declared = declared.to_ascii_uppercase();
    let has = |parts: &[&str]| parts.iter().any(|part| declared.contains(part));
    let [_, integer, real, text, blob] = *seen;
    if has(&["INT"]) {
        return PgType::Int8;
    }
    if has(&["CHAR", "CLOB", "TEXT"]) {
        return PgType::Text;
    }
    let is_open = declared.is_empty() || declared == "ANY";
    if has(&["BLOB"]) || is_open {
        return match (integer, real, text, blob) {
            (_, _, _, true) => PgType::Bytea,
            (_, _, true, _) => PgType::Text,
            (_, true, ..) => PgType::Float8,
            (true, ..) => PgType::Int8,
            _ if is_open => PgType::Text,
            _ => PgType::Bytea,
        };
    }
    if has(&["REAL", "FLOA", "DOUB"]) {
        return PgType::Float8;
    }
    match (integer, real, text) {
        _ if has(&["NUMERIC", "DECIMAL"]) => PgType::Numeric,
        (false, false, true) => PgType::Text,
        (_, true, _) => PgType::Float8,
        (true, ..) => PgType::Int8,
        _ if has(&["DATE", "TIME"]) => PgType::Text,
        _ => PgType::Int8,
    }
}
