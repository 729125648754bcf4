//! The scan of an export: it reads all rows for the types of the columns, and for the values that do not fit them.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};

use super::schema::{self, Column, Table};
use super::{ExportMisfit, ExportNote, ExportStage, ExportToPostgres, OnMisfit, expression};
use crate::error::Result;
use crate::postgres::canonical::Value;
use crate::postgres::json::{self, OnlyJson};
use crate::postgres::types::{Misfit, NULL, PgType, append, append_field, check, fit};
use crate::postgres::url::Server;

impl ExportToPostgres<'_> {
    /// Reads all rows of a table: for the types of its columns, and for the values that do not fit them. It reads them once,
    /// and again if the values of a column without a clear type have given it another one on the way. Returns the misfits, and
    /// whether one of them fails the export.
    pub(super) fn scan(
        &self,
        conn: &Connection,
        table: &mut Table,
        scanned: &mut u64,
        notes: &mut Vec<ExportNote>,
    ) -> Result<(Vec<ExportMisfit>, bool)> {
        let asked = |table: &str, column: &str| self.types.get(&(table.to_owned(), column.to_owned())).copied();
        let mut seen: Vec<Seen> = table.columns.iter().map(|_| Seen::default()).collect();
        let is_asked: Vec<bool> = table
            .columns
            .iter_mut()
            .map(|column| {
                let asked = asked(&table.name, &column.name);
                column.kind = asked.unwrap_or_else(|| kind_of(&column.declared, &[false; 5]));
                asked.is_some()
            })
            .collect();
        let mut json: Vec<Option<JsonSeen>> = (0..table.columns.len())
            .map(|at| self.is_json(table, at).then(JsonSeen::default))
            .collect();
        let (mut rows, mut key_sum) = (0, 0_u64);
        let (mut found, mut again) = (Found::new(), false);
        each(conn, &table.select(false), |row| {
            rows += 1;
            key_sum = key_sum.wrapping_add(table.key_hash(row)?);
            for (at, seen) in seen.iter_mut().enumerate() {
                let value = row.value(at)?;
                let had_values = seen.classes[1..] != [false; 4];
                if seen.add(value, self.infers) && !is_asked[at] {
                    let kind = kind_of(&table.columns[at].declared, &seen.classes);
                    again |= had_values && kind != table.columns[at].kind;
                    table.columns[at].kind = kind;
                }
                let is_json = match (&mut json[at], value) {
                    (Some(json), ValueRef::Text(text)) => json.add(text, row.rowid()),
                    _ => false,
                };
                // What was read as JSON is not read again.
                if is_json && table.columns[at].kind == PgType::Json {
                    continue;
                }
                if let Err(misfit) = table.check(at, value) {
                    found.entry((at, misfit)).or_insert((0, row.rowid())).0 += 1;
                }
            }
            self.step(ExportStage::Scan, scanned)
        })?;
        (table.rows, table.key_sum) = (rows, key_sum);
        if again {
            found = self.misfits(conn, table, scanned)?;
        }
        for (at, seen) in seen.iter().enumerate() {
            let column = &table.columns[at];
            let kind = column.kind;
            // All values fit a type that is inferred.
            let inferred = match is_asked[at] {
                false if self.infers => inferred(table, column, kind, seen, json[at].as_ref()),
                _ => None,
            };
            if let Some((kind, reason)) = inferred {
                notes.push(ExportNote {
                    sql: None,
                    object: format!("column {}.{}", table.name, column.name),
                    instead: format!("{}: {reason}", kind.sql()),
                });
            }
            let [_, integers, reals, texts, blobs] = seen.classes;
            if kind == PgType::Float8 && integers && reals {
                notes.push(ExportNote {
                    sql: None,
                    object: format!("column {}.{}", table.name, column.name),
                    instead: "integers and real numbers are all double precision: 1 is 1.0".into(),
                });
            }
            table.columns[at].kind = inferred.map_or(kind, |(kind, _)| kind);
            table.columns[at].is_mixed = texts && blobs;
        }
        let types = &self.types;
        let name = table.name.clone();
        table.generate(|column| types.contains_key(&(name.clone(), column.name.clone())));
        table.has_misfits = !found.is_empty();
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
            let found = self.misfits(conn, table, scanned)?;
            fatal |= !found.is_empty();
            misfits.extend(listed(table, found));
            // An expression of numbers is none of text.
            table.columns.iter_mut().for_each(|column| column.generated = None);
        }
        for (column, json) in table.columns.iter().zip(&json) {
            if let (PgType::Json, Some(json)) = (column.kind, json) {
                notes.extend(json.notes(&format!("column {}.{}", table.name, column.name)));
            }
        }
        Ok((misfits, fatal))
    }

    /// Whether the text of a column is looked at as JSON: the type is asked for, or may be inferred.
    fn is_json(&self, table: &Table, at: usize) -> bool {
        let column = &table.columns[at];
        match self.types.get(&(table.name.clone(), column.name.clone())) {
            Some(kind) => *kind == PgType::Json,
            None => self.infers && says(table, column, PgType::Json),
        }
    }

    /// Counts the values that do not fit.
    fn misfits(&self, conn: &Connection, table: &Table, scanned: &mut u64) -> Result<Found> {
        let mut found = Found::new();
        each(conn, &table.select(false), |row| {
            for at in 0..table.columns.len() {
                if let Err(misfit) = table.check(at, row.value(at)?) {
                    found.entry((at, misfit)).or_insert((0, row.rowid())).0 += 1;
                }
            }
            self.step(ExportStage::Scan, scanned)
        })?;
        Ok(found)
    }
}

/// A row of [`Table::select`].
pub(super) struct TableRow<'r>(pub(super) &'r Row<'r>);

impl<'r> TableRow<'r> {
    pub(super) fn rowid(&self) -> Option<i64> {
        self.0.get_ref(0).ok()?.as_i64().ok()
    }

    /// The value of a column, by its position in the table.
    pub(super) fn value(&self, at: usize) -> Result<ValueRef<'r>> {
        Ok(self.0.get_ref(at + 1)?)
    }
}

/// Calls `f` with each row of [`Table::select`].
pub(super) fn each(conn: &Connection, select: &str, mut f: impl FnMut(&TableRow<'_>) -> Result<()>) -> Result<()> {
    let mut statement = conn.prepare(select)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        f(&TableRow(row))?;
    }
    Ok(())
}

/// Misfits by column and reason: their number, the first rowid.
type Found = BTreeMap<(usize, Misfit), (u64, Option<i64>)>;

impl Table {
    /// Whether a value of a column fits it.
    pub(super) fn check(&self, at: usize, value: ValueRef<'_>) -> std::result::Result<(), Misfit> {
        let column = &self.columns[at];
        match value {
            ValueRef::Null if self.key.contains(&at) => Err(Misfit::NullKey),
            ValueRef::Integer(_) | ValueRef::Real(_) if column.as_text => Ok(()),
            value => check(value, column.kind),
        }
    }

    /// Appends a value of a column as a field of a binary COPY.
    fn append(&self, at: usize, value: ValueRef<'_>, out: &mut Vec<u8>) -> std::result::Result<(), Misfit> {
        let column = &self.columns[at];
        match value {
            ValueRef::Null if self.key.contains(&at) => return Err(Misfit::NullKey),
            ValueRef::Integer(number) if column.as_text => {
                append_field(&Value::Text(number.to_string().into()), column.kind, out);
            }
            ValueRef::Real(number) if column.as_text => {
                append_field(&Value::Text(format!("{number:?}").into()), column.kind, out);
            }
            // The server checks text as well.
            value => return append(value, column.kind, !self.has_misfits, out),
        }
        Ok(())
    }

    /// Appends a row of a binary COPY with these columns. A value that does not fit is an error, as the scan of the same
    /// rows has found them all, unless it becomes NULL.
    pub(super) fn append_row(
        &self,
        server: &Server,
        row: &TableRow<'_>,
        columns: &[usize],
        out: &mut Vec<u8>,
    ) -> Result<()> {
        out.extend_from_slice(&(columns.len() as i16).to_be_bytes());
        for at in columns {
            match self.append(*at, row.value(*at)?, out) {
                Ok(()) => {}
                Err(_) if self.columns[*at].misfits_are_null => out.extend_from_slice(&NULL),
                Err(misfit) => {
                    let (column, reason) = (&self.columns[*at].name, misfit.reason());
                    let what = format!(
                        "{}.{column}: {reason}, which the scan of the same rows has not found",
                        self.name
                    );
                    return Err(server.failed(&what));
                }
            }
        }
        Ok(())
    }

    /// A hash of the rowid and the key of a row, which the index of the key has too. 0 where the table itself is in the order
    /// of the key.
    pub(super) fn key_hash(&self, row: &TableRow<'_>) -> Result<u64> {
        if !self.has_rowid || self.has_identity || self.key.is_empty() {
            return Ok(0);
        }
        let mut hasher = DefaultHasher::new();
        row.rowid().hash(&mut hasher);
        for at in &self.key {
            let value = row.value(*at)?;
            class_index(value).hash(&mut hasher);
            match value {
                ValueRef::Null => {}
                ValueRef::Integer(number) => number.hash(&mut hasher),
                ValueRef::Real(number) => number.to_bits().hash(&mut hasher),
                ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.hash(&mut hasher),
            }
        }
        Ok(hasher.finish())
    }

    /// Whether a row has a value that does not fit.
    pub(super) fn is_misfit(&self, row: &TableRow<'_>) -> Result<bool> {
        for at in 0..self.columns.len() {
            if self.check(at, row.value(at)?).is_err() {
                return Ok(true);
            }
        }
        Ok(false)
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
    /// Returns whether it is the first value of its storage class.
    fn add(&mut self, value: ValueRef<'_>, infers: bool) -> bool {
        let is_first = !std::mem::replace(&mut self.classes[class_index(value)], true);
        self.is_bool &= !matches!(value, ValueRef::Integer(number) if !(0..=1).contains(&number));
        if infers && matches!(value, ValueRef::Text(_)) {
            for (fits, kind) in self.fits.iter_mut().zip(BY_TEXT) {
                *fits = *fits && fit(value, kind).is_ok();
            }
        }
        is_first
    }
}

/// What was seen of a column of JSON.
#[derive(Default)]
struct JsonSeen {
    /// Whether there is text that is no JSON.
    is_broken: bool,
    /// Values that `jsonb` refuses: their number, and the first rowid.
    only_json: BTreeMap<OnlyJson, (u64, Option<i64>)>,
}

impl JsonSeen {
    /// Returns whether the text is JSON.
    fn add(&mut self, text: &[u8], rowid: Option<i64>) -> bool {
        let Ok(Ok(only_json)) = std::str::from_utf8(text).map(json::read) else {
            self.is_broken = true;
            return false;
        };
        if let Some(reason) = only_json {
            self.only_json.entry(reason).or_insert((0, rowid)).0 += 1;
        }
        true
    }

    fn notes(&self, object: &str) -> Vec<ExportNote> {
        let note = |(reason, (count, first)): (&OnlyJson, &(u64, Option<i64>))| {
            let first = first.map_or(String::new(), |rowid| format!(", first in row {rowid}"));
            ExportNote {
                sql: None,
                object: object.to_owned(),
                instead: format!(
                    "{count} values {}{first}: json takes them, and jsonb does not",
                    reason.reason()
                ),
            }
        };
        self.only_json.iter().map(note).collect()
    }
}

/// Whether a CHECK allows values of a type alone.
fn says(table: &Table, column: &Column, kind: PgType) -> bool {
    let mut as_kind = column.clone();
    as_kind.kind = kind;
    let of_column = std::slice::from_ref(&as_kind);
    let mut checks = table.checks.iter();
    checks.any(|check| expression::is_implied(check, of_column))
}

/// A narrower type that all values fit, and the reason.
fn inferred(
    table: &Table,
    column: &Column,
    kind: PgType,
    seen: &Seen,
    json: Option<&JsonSeen>,
) -> Option<(PgType, &'static str)> {
    if kind == PgType::Int8 && says(table, column, PgType::Bool) && seen.is_bool && seen.classes[2..] == [false; 3] {
        return Some((PgType::Bool, "a CHECK allows 0 and 1 alone"));
    }
    if kind != PgType::Text || seen.classes[1..] != [false, false, true, false] {
        return None;
    }
    let at = table.columns.iter().position(|known| known.name == column.name);
    let in_index = |index: &schema::Index| index.columns.iter().any(|(column, ..)| *column == at);
    // The server has no order of json, so no key or index either.
    let in_key = table.key.iter().any(|key| Some(*key) == at) || table.indexes.iter().any(in_index);
    if let Some(json) = json {
        // A value that broke the CHECK before it was there, or that SQLite alone reads.
        let fits = !json.is_broken && !in_key;
        return fits.then_some((PgType::Json, "a CHECK allows JSON alone"));
    }
    // Two texts may be one instant: in a key, the second one would be a duplicate. A foreign key has the type of its parent.
    let is_unique = |index: &schema::Index| index.is_unique && in_index(index);
    let refers = |(known, _): &(String, Option<String>)| known.eq_ignore_ascii_case(&column.name);
    let keeps_text = table.key.iter().any(|key| Some(*key) == at)
        || table.indexes.iter().any(is_unique)
        || table.foreign_keys.iter().any(|key| key.columns.iter().any(refers));
    let fitting = seen.fits.iter().zip(BY_TEXT);
    let mut fitting = fitting.filter(|(fits, kind)| **fits && !(*kind == PgType::Timestamptz && keeps_text));
    fitting
        .next()
        .map(|(_, kind)| (kind, "all values fit; their text is written in one form from now on"))
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
