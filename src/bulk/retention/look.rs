//! What a sweep reads, all of it by the index: whether the table can be swept, the form of its times, and the oldest rows.
//!
//! A sweep walks over the old rows once, in the order of their times, and those of the same time in the order of their
//! rowids: each look begins behind the last row of the one before. An index of the column alone has that order. If it has
//! other columns, too, rows of one time are sorted here: all of them, if they fit into one look, and otherwise as many as
//! [`AHEAD`], which SQLite finds among all of that time. They are kept for the next looks.

use std::collections::VecDeque;
use std::time::{Duration, UNIX_EPOCH};

use rusqlite::types::Value;

use super::RetainRule;
use crate::connection::sql_text::{quoted, readable};
use crate::error::{Error, Result};
use crate::runtime::date;
use crate::transaction::ReadTx;

/// From this number on, a time in seconds would be after the year 5138, and one in milliseconds is after March 1973. So
/// it divides the two.
const UNITS: i64 = 100_000_000_000;

/// From this number on, a time in milliseconds would be after the year 5138.
const TOO_LARGE: i64 = UNITS * 1000;

/// Below it an integer is no time in seconds that a table would have: March 1973. The same in milliseconds is [`UNITS`].
const EARLIEST: i64 = 100_000_000;

/// How much older than the limit all times of a column are, if they are not believed: another origin, such as 1980 or 2000,
/// makes more of a difference.
const STALE: Duration = Duration::from_secs(365 * 86_400);

/// Rows of one time that are read at once, if the index does not order them.
const AHEAD: u64 = if cfg!(test) { 700 } else { 50_000 };

/// The time of a row, and its rowid.
pub(super) type OldRow = (Value, i64);

/// The order of rows that have the same time.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ties {
    /// There are none.
    None,
    RowId,
    /// The index is descending, and so it is read backwards.
    RowIdDown,
    /// That of other columns.
    Unknown,
}

/// The last row over which a sweep has walked.
#[derive(Clone, Debug)]
pub(super) struct Position {
    time: Value,
    rowid: i64,
}

/// How far a sweep has walked.
#[derive(Default)]
pub(super) struct Walk {
    /// The last row that was tried.
    pub(super) position: Option<Position>,
    /// Rows of one time that were read for the next looks, in the order of their rowids.
    ahead: VecDeque<OldRow>,
}

impl Walk {
    /// Begins behind that row.
    pub(super) fn from(position: Option<Position>) -> Self {
        Self {
            position,
            ahead: VecDeque::new(),
        }
    }

    /// Goes on behind these rows.
    pub(super) fn pass(&mut self, rows: &[OldRow]) {
        if let Some((time, rowid)) = rows.last() {
            self.position = Some(Position {
                time: time.clone(),
                rowid: *rowid,
            });
        }
    }
}

/// The table, as its schema has it now.
pub(super) struct Target {
    /// Quoted, as the column.
    table: String,
    column: String,
    /// With the collation of the index.
    ordered: String,
    indexed: String,
    ties: Ties,
}

/// How old a column's times are, by the newest one that is not in the future: a date that stands for "never" proves nothing.
pub(super) enum Age {
    /// All are in the future, so none is old.
    Unknown,
    Recent,
    /// The newest one is far older than the limit, or no time.
    Refused(Refusal),
}

/// Why a table is not swept.
pub(super) struct Refusal {
    pub(super) problem: String,
    /// The statement that helps.
    pub(super) create_index: Option<String>,
    /// The tables whose rows keep old ones.
    pub(super) kept_by: Option<String>,
}

impl From<String> for Refusal {
    fn from(problem: String) -> Self {
        Self {
            problem,
            create_index: None,
            kept_by: None,
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Error::Options {
            option: "retain",
            problem: refusal.problem,
        }
    }
}

/// The form of a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Form {
    Number,
    /// `2026-04-01`
    Date,
    /// `2026-04-01 12:00:00`
    Space,
    /// `2026-04-01T12:00:00Z`
    T,
}

impl Target {
    /// Finds the table, the column, and an index that begins with it.
    pub(super) fn find(tx: &ReadTx<'_>, rule: &RetainRule) -> Result<Result<Self, Refusal>> {
        let table = "SELECT name, type, wr, EXISTS(SELECT 1 FROM pragma_table_xinfo(t.name, 'main') AS c
                         WHERE c.name = 'rowid' COLLATE NOCASE AND NOT (c.pk = 1 AND c.type = 'INTEGER' COLLATE NOCASE
                             AND NOT EXISTS(SELECT 1 FROM pragma_index_list(t.name, 'main') WHERE origin = 'pk')))
                     FROM pragma_table_list AS t WHERE schema = 'main' AND name = ?1 COLLATE NOCASE";
        let table: Option<(String, String, bool, bool)> = tx.optional(table, [&rule.table])?;
        let Some((table, kind, without_rowid, hides_rowid)) = table else {
            return Ok(Err(format!("there is no table {}", readable(&rule.table)).into()));
        };
        let shown = readable(&table);
        if kind != "table" || without_rowid || hides_rowid {
            let why = match (kind.as_str(), without_rowid) {
                ("table", true) => "is WITHOUT ROWID",
                ("table", false) => "has a column named rowid, which hides the key of the rows",
                _ => "is no ordinary table",
            };
            return Ok(Err(
                format!("{shown} {why}: delete its old rows with Store::write").into()
            ));
        }
        let column = "SELECT name, pk = 1 AND type = 'INTEGER' COLLATE NOCASE
                          AND NOT EXISTS(SELECT 1 FROM pragma_index_list(?1, 'main') WHERE origin = 'pk')
                      FROM pragma_table_xinfo(?1, 'main') WHERE name = ?2 COLLATE NOCASE AND hidden <> 1";
        let column: Option<(String, bool)> = tx.optional(column, (&table, &rule.column))?;
        let Some((column, is_rowid)) = column else {
            let problem = format!("the table {shown} has no column {}", readable(&rule.column));
            return Ok(Err(problem.into()));
        };
        let name = quoted(&column);
        if is_rowid {
            return Ok(Ok(Self {
                ordered: name.clone(),
                column: name,
                indexed: "NOT INDEXED".to_owned(),
                table: quoted(&table),
                ties: Ties::None,
            }));
        }
        // These order times alike. What a collation of the application's does is not known.
        let index = "SELECT i.name, x.coll, x.desc, (SELECT count(*) FROM pragma_index_info(i.name, 'main')) AS columns
                     FROM pragma_index_list(?1, 'main') AS i JOIN pragma_index_xinfo(i.name, 'main') AS x
                     WHERE NOT i.partial AND x.seqno = 0 AND x.name = ?2 COLLATE NOCASE
                         AND upper(x.coll) IN ('BINARY', 'NOCASE', 'RTRIM')
                     ORDER BY columns > 1, x.coll, i.name LIMIT 1";
        let index: Option<(String, String, bool, i64)> = tx.optional(index, (&table, &column))?;
        let Some((index, collation, is_descending, columns)) = index else {
            let index = readable(&free_name(tx, &format!("{table}_by_{column}"))?);
            let create_index = format!("CREATE INDEX {index} ON {shown}({})", readable(&column));
            let problem = format!(
                "the column {} of {shown} has no index that begins with it, so each look for old rows would read the whole \
                 table. Run: {create_index}",
                readable(&column)
            );
            return Ok(Err(Refusal {
                problem,
                create_index: Some(create_index),
                kept_by: None,
            }));
        };
        Ok(Ok(Self {
            ordered: format!("{name} COLLATE {collation}"),
            column: name,
            indexed: format!("INDEXED BY {}", quoted(&index)),
            table: quoted(&table),
            ties: match (columns, is_descending) {
                (1, false) => Ties::RowId,
                (1, true) => Ties::RowIdDown,
                _ => Ties::Unknown,
            },
        }))
    }

    /// The statement that deletes one row, if it still has the time that was looked at.
    pub(super) fn delete(&self) -> String {
        let Self { table, column, .. } = self;
        format!("DELETE FROM main.{table} WHERE rowid = ?2 AND {column} IS ?1")
    }

    /// The number of these rows that are still there with their time.
    pub(super) fn count_of(&self, tx: &ReadTx<'_>, rows: &[OldRow]) -> Result<u64> {
        let Self { table, column, .. } = self;
        let row = format!("SELECT 1 FROM main.{table} WHERE rowid = ?2 AND {column} IS ?1");
        let mut count = 0;
        for (time, rowid) in rows {
            count += u64::from(tx.exists(&row, (time, rowid))?);
        }
        Ok(count)
    }

    fn end(&self, direction: &str) -> String {
        let Self {
            table,
            column,
            ordered,
            indexed,
            ..
        } = self;
        format!(
            "SELECT {column} FROM main.{table} {indexed} WHERE {column} IS NOT NULL ORDER BY {ordered} {direction} LIMIT 1"
        )
    }

    /// The oldest rows that are older than `?1`, at most `?2` of them; with `is_later` only those that are younger than `?3`.
    fn oldest(&self, is_later: bool) -> String {
        let Self {
            table,
            column,
            ordered,
            indexed,
            ties,
        } = self;
        let later = if is_later {
            format!(" AND {ordered} > ?3")
        } else {
            String::new()
        };
        let ties = match ties {
            Ties::None | Ties::Unknown => "",
            Ties::RowId => ", rowid",
            Ties::RowIdDown => ", rowid DESC",
        };
        format!(
            "SELECT {column}, rowid FROM main.{table} {indexed} WHERE {ordered} < ?1{later} ORDER BY {ordered}{ties} LIMIT ?2"
        )
    }

    /// The rows that are as old as `?3` and older than `?1`, at most `?2` of them, in the order of their rowids: those behind
    /// the rowid `?4`, or all if that is NULL and the index does not order them.
    fn tied(&self) -> Option<String> {
        let Self {
            table,
            column,
            ordered,
            indexed,
            ties,
        } = self;
        let behind = match ties {
            Ties::None => return None,
            Ties::RowId => "AND rowid > ?4 ORDER BY rowid",
            Ties::RowIdDown => "AND rowid < ?4 ORDER BY rowid DESC",
            Ties::Unknown => "AND (?4 IS NULL OR rowid > ?4) ORDER BY rowid",
        };
        Some(format!(
            "SELECT {column}, rowid FROM main.{table} {indexed} WHERE {ordered} = ?3 AND ?3 < ?1 {behind} LIMIT ?2"
        ))
    }

    /// The newest time that is not after `?1`.
    fn newest(&self) -> String {
        let Self {
            table,
            column,
            ordered,
            indexed,
            ..
        } = self;
        format!("SELECT {column} FROM main.{table} {indexed} WHERE {ordered} <= ?1 ORDER BY {ordered} DESC LIMIT 1")
    }

    /// Finds the form of the times, by the oldest and the newest. `None` if there is none.
    pub(super) fn times(&self, tx: &ReadTx<'_>, rule: &RetainRule) -> Result<Result<Option<Form>, Refusal>> {
        let (first, newest): (Option<Value>, Option<Value>) = (
            tx.optional_scalar(&self.end("ASC"), [])?,
            tx.optional_scalar(&self.end("DESC"), [])?,
        );
        let (Some(first), Some(newest)) = (first, newest) else {
            return Ok(Ok(None));
        };
        let milliseconds = rule.options.milliseconds;
        let checked = self.form(&first, milliseconds).and_then(|form| {
            self.check(&newest, form, milliseconds)?;
            Ok(form)
        });
        Ok(checked.map(Some))
    }

    /// How old the times of that form are. It is asked of a column until they are recent once.
    pub(super) fn age(&self, tx: &ReadTx<'_>, rule: &RetainRule, now: Duration, form: Form) -> Result<Age> {
        let milliseconds = rule.options.milliseconds;
        let until = threshold(form, milliseconds, now, Duration::ZERO);
        let newest: Option<Value> = tx.optional_scalar(&self.newest(), [&until])?;
        let Some(newest) = newest else { return Ok(Age::Unknown) };
        let stale = threshold(form, milliseconds, now, rule.keep.saturating_add(STALE));
        Ok(match self.check(&newest, form, milliseconds) {
            Err(refusal) => Age::Refused(refusal),
            Ok(()) if is_before(&newest, &stale) => Age::Refused(self.refuse_stale(&newest, milliseconds, now)),
            Ok(()) => Age::Recent,
        })
    }

    /// A column all of whose times are far too old is refused when it is first looked at.
    fn refuse_stale(&self, newest: &Value, milliseconds: bool, now: Duration) -> Refusal {
        let (newest, now) = (shown(newest, milliseconds), shown_time(now));
        self.refusal(&format!(
            "has no time of the last year before rows are too old: the newest is {newest}, the clock says {now}. Is it \
             right? If so, the numbers of the column may count from another time than 1970, or be no times at all. If all \
             rows are really that old and are to go, set RetainOptions::stale, which Options::retain_with and \
             Store::retain_with take"
        ))
    }

    /// Checks the time of one row that is as old as the oldest, if the rule keeps it no longer. It sorts nothing.
    pub(super) fn check_oldest(
        &self,
        tx: &ReadTx<'_>,
        rule: &RetainRule,
        now: Duration,
        form: Form,
    ) -> Result<Result<(), Refusal>> {
        let milliseconds = rule.options.milliseconds;
        let before = threshold(form, milliseconds, now, rule.keep);
        let oldest = self.later(tx, &before, None, 1)?;
        let checked = oldest
            .iter()
            .try_for_each(|(time, _)| self.check(time, form, milliseconds));
        Ok(checked)
    }

    /// Returns the oldest rows that are older than the rule keeps them, at most so many, from there on.
    pub(super) fn old_rows(
        &self,
        tx: &ReadTx<'_>,
        rule: &RetainRule,
        now: Duration,
        form: Form,
        walk: &mut Walk,
        limit: u64,
    ) -> Result<Result<Vec<OldRow>, Refusal>> {
        let milliseconds = rule.options.milliseconds;
        let before = threshold(form, milliseconds, now, rule.keep);
        let rows = match self.ties {
            Ties::Unknown => self.sorted(tx, &before, walk, limit)?,
            _ => self.ordered(tx, &before, walk.position.as_ref(), limit)?,
        };
        let bad = rows
            .iter()
            .find_map(|(time, _)| self.check(time, form, milliseconds).err());
        Ok(bad.map_or(Ok(rows), Err))
    }

    /// By an index whose order is that of the walk.
    fn ordered(&self, tx: &ReadTx<'_>, before: &Value, position: Option<&Position>, limit: u64) -> Result<Vec<OldRow>> {
        let mut rows: Vec<OldRow> = match (position, self.tied()) {
            (Some(position), Some(tied)) => tx.all(&tied, (before, whole(limit), &position.time, position.rowid))?,
            _ => Vec::new(),
        };
        let left = limit.saturating_sub(rows.len() as u64);
        if left > 0 {
            rows.extend(self.later(tx, before, position, left)?);
        }
        Ok(rows)
    }

    /// By an index that orders rows of one time by other columns.
    fn sorted(&self, tx: &ReadTx<'_>, before: &Value, walk: &mut Walk, limit: u64) -> Result<Vec<OldRow>> {
        let Walk { position, ahead } = walk;
        let most = usize::try_from(limit).unwrap_or(usize::MAX);
        let is_behind = |row: &OldRow, position: &Position| row.0 == position.time && row.1 > position.rowid;
        if let Some(position) = position.as_ref() {
            ahead.retain(|row| is_behind(row, position));
            // The clock may have been set back.
            if ahead.front().is_some_and(|(time, _)| !is_before(time, before)) {
                ahead.clear();
            }
            if ahead.is_empty() {
                *ahead = self.of_time(tx, before, &position.time, Some(position.rowid), limit)?;
            }
            if !ahead.is_empty() {
                return Ok(ahead.iter().take(most).cloned().collect());
            }
        }
        let mut rows = self.later(tx, before, position.as_ref(), limit)?;
        if let Some((last, _)) = rows.last().filter(|_| rows.len() >= most) {
            // There may be more of that time, of which these are any.
            let last = last.clone();
            let of_others = rows.iter().take_while(|(time, _)| *time != last).count();
            rows.truncate(of_others);
            if rows.is_empty() {
                *ahead = self.of_time(tx, before, &last, None, limit)?;
                return Ok(ahead.iter().take(most).cloned().collect());
            }
        }
        rows.chunk_by_mut(|one, other| one.0 == other.0)
            .for_each(|of_time| of_time.sort_unstable_by_key(|(_, rowid)| *rowid));
        Ok(rows)
    }

    /// Rows of one time, sorted, for this look and some more.
    fn of_time(
        &self,
        tx: &ReadTx<'_>,
        before: &Value,
        time: &Value,
        behind: Option<i64>,
        limit: u64,
    ) -> Result<VecDeque<OldRow>> {
        let Some(tied) = self.tied() else {
            return Ok(VecDeque::new());
        };
        let rows: Vec<OldRow> = tx.all(&tied, (before, whole(limit.max(AHEAD)), time, behind))?;
        Ok(rows.into())
    }

    /// The oldest rows that are younger than the position.
    fn later(&self, tx: &ReadTx<'_>, before: &Value, position: Option<&Position>, limit: u64) -> Result<Vec<OldRow>> {
        let oldest = self.oldest(position.is_some());
        match position {
            None => tx.all(&oldest, (before, whole(limit))),
            Some(position) => tx.all(&oldest, (before, whole(limit), &position.time)),
        }
    }

    fn check(&self, value: &Value, wanted: Form, milliseconds: bool) -> Result<(), Refusal> {
        let form = self.form(value, milliseconds)?;
        if form == wanted {
            return Ok(());
        }
        let problem = "has times of two forms, of which each sorts by itself: bring them into one";
        Err(self.refusal(problem))
    }

    /// The form of a time.
    fn form(&self, value: &Value, milliseconds: bool) -> Result<Form, Refusal> {
        let problem = match value {
            Value::Integer(time) if milliseconds && (1..UNITS).contains(time) => {
                "has a time that is in seconds rather than in milliseconds: leave RetainOptions::milliseconds out, or \
                 correct it"
            }
            Value::Integer(TOO_LARGE..) => {
                "has a time that is neither in seconds nor in milliseconds, but larger: correct it, or make it NULL, if it \
                 stands for never"
            }
            Value::Integer(UNITS..) if !milliseconds => {
                "has a time that is in milliseconds rather than in seconds: set RetainOptions::milliseconds, or correct it, \
                 or make it NULL, if it stands for never"
            }
            Value::Integer(..EARLIEST) => {
                "has an integer that is no time in seconds since 1970, or one before March 1973, such as a key, a number of \
                 days or 0 for never: name another column, or make it NULL"
            }
            Value::Integer(_) => return Ok(Form::Number),
            Value::Text(text) if text.as_str() < "1970" => {
                "has a time before 1970, such as 0001-01-01 for never: make it NULL"
            }
            Value::Text(text) => match text_form(text) {
                Some(form) => return Ok(form),
                None => {
                    "has a text that is no time in UTC, such as 2026-04-01T12:00:00Z or 2026-04-01 12:00:00: correct it. \
                     SQLite's datetime() makes such a text of one with an offset, such as +02:00"
                }
            },
            Value::Real(_) => {
                "has a number with a fraction, such as a Julian day or unixepoch('subsec'), which is neither an integer nor \
                 a text: store whole seconds, or milliseconds with RetainOptions::milliseconds"
            }
            _ => "has a blob, which is neither an integer nor a text: correct it",
        };
        Err(self.refusal(problem))
    }

    fn refusal(&self, problem: &str) -> Refusal {
        let Self { table, column, .. } = self;
        format!("the column {column} of {table} {problem}. No row is deleted until then").into()
    }
}

/// The name, or with a number if something has it.
fn free_name(tx: &ReadTx<'_>, name: &str) -> Result<String> {
    let mut free = name.to_owned();
    for number in 2.. {
        let is_taken = "SELECT 1 FROM sqlite_schema WHERE name = ?1 COLLATE NOCASE";
        if !tx.exists(is_taken, [&free])? {
            break;
        }
        free = format!("{name}_{number}");
    }
    Ok(free)
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The form of a time as text: to the day, the second or a part of it, in UTC, with a `Z` or without.
fn text_form(text: &str) -> Option<Form> {
    let text = text.strip_suffix('Z').filter(|text| text.contains('T')).unwrap_or(text);
    let (date, time) = text.split_at_checked(10)?;
    // A day in the place of the month would be noticed.
    if !is_like(date, "0000-00-00") || !is_within(date, 5, 1, 12) || !is_within(date, 8, 1, 31) {
        return None;
    }
    let Some(separator) = time.chars().next() else {
        return Some(Form::Date);
    };
    let form = match separator {
        ' ' => Form::Space,
        'T' => Form::T,
        _ => return None,
    };
    let (time, fraction) = time[1..].split_once('.').unwrap_or((&time[1..], "0"));
    let is_fraction = !fraction.is_empty() && fraction.bytes().all(|byte| byte.is_ascii_digit());
    let is_time = is_like(time, "00:00:00") && is_within(time, 0, 0, 23) && is_within(time, 3, 0, 59);
    (is_time && is_fraction).then_some(form)
}

/// Whether the two digits at that place are in the range.
fn is_within(text: &str, at: usize, least: u8, most: u8) -> bool {
    let number = text.get(at..at + 2).and_then(|digits| digits.parse().ok());
    number.is_some_and(|number: u8| (least..=most).contains(&number))
}

/// Whether a time is before another of the same form.
fn is_before(time: &Value, other: &Value) -> bool {
    match (time, other) {
        (Value::Integer(time), Value::Integer(other)) => time < other,
        (Value::Text(time), Value::Text(other)) => time < other,
        _ => false,
    }
}

/// The tables whose foreign keys can keep rows of a table: those that refer to it, or to a table whose rows would go with
/// them.
pub(super) fn children(tx: &ReadTx<'_>, table: &str) -> Result<Vec<String>> {
    tx.scalars(
        "WITH RECURSIVE
             keys(child, parent, on_delete) AS MATERIALIZED (
                 SELECT t.name, k.\"table\", k.on_delete
                 FROM pragma_table_list AS t JOIN pragma_foreign_key_list(t.name, 'main') AS k
                 WHERE t.schema = 'main' AND t.type = 'table' AND k.seq = 0),
             gone(name) AS (
                 SELECT ?1 UNION SELECT child FROM keys JOIN gone ON parent = gone.name COLLATE NOCASE
                 WHERE on_delete = 'CASCADE')
         SELECT DISTINCT child FROM keys JOIN gone ON parent = gone.name COLLATE NOCASE
         WHERE on_delete <> 'CASCADE' ORDER BY child",
        [table],
    )
}

/// Whether the text has a digit wherever the pattern has a zero, and is equal to it elsewhere.
fn is_like(text: &str, pattern: &str) -> bool {
    text.len() == pattern.len()
        && text.bytes().zip(pattern.bytes()).all(|(byte, like)| {
            if like == b'0' {
                byte.is_ascii_digit()
            } else {
                byte == like
            }
        })
}

/// A time of a column, for a message.
fn shown(time: &Value, milliseconds: bool) -> String {
    match time {
        Value::Integer(time) => {
            let time = time.unsigned_abs();
            shown_time(if milliseconds {
                Duration::from_millis(time)
            } else {
                Duration::from_secs(time)
            })
        }
        Value::Text(text) => text.clone(),
        _ => "no time".to_owned(),
    }
}

fn shown_time(time: Duration) -> String {
    date::utc(UNIX_EPOCH + time)
}

/// The time, in the form of the column, before which rows are too old. `now` is the time since 1970. A text is rounded down
/// to the second or the day, so that rows of that second or day stay.
fn threshold(form: Form, milliseconds: bool, now: Duration, keep: Duration) -> Value {
    let seconds = now.saturating_sub(keep).as_secs();
    let (year, month, day) = date::of_day(seconds / 86_400);
    let second = seconds % 86_400;
    let day = format!("{year:04}-{month:02}-{day:02}");
    let time = format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60);
    match form {
        Form::Number => {
            let whole = |time: Duration| {
                let time = if milliseconds {
                    time.as_millis()
                } else {
                    time.as_secs().into()
                };
                i64::try_from(time).unwrap_or(i64::MAX)
            };
            // Rounded up, so that no row goes before its time.
            let keep = if milliseconds || keep.subsec_nanos() == 0 {
                whole(keep)
            } else {
                whole(keep).saturating_add(1)
            };
            Value::Integer(whole(now).saturating_sub(keep))
        }
        Form::Date => Value::Text(day),
        Form::Space => Value::Text(format!("{day} {time}")),
        Form::T => Value::Text(format!("{day}T{time}")),
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    #[test]
    fn texts_have_one_of_three_forms_in_utc() {
        for (text, form) in [
            ("2026-04-01", Some(Form::Date)),
            ("2026-04-01 12:00", None),
            ("2026-04-01 12:00:00", Some(Form::Space)),
            ("2026-04-01 12:00:00.123", Some(Form::Space)),
            ("2026-04-01T12:00:00", Some(Form::T)),
            ("2026-04-01T12:00Z", None),
            ("2026-04-01T12:00:00.123456Z", Some(Form::T)),
            ("2026-04-01T12:00:00+02:00", None),
            ("2026-04-01 12:00:00.", None),
            ("2026-04-01 12:00.5", None),
            ("2026-04-01Z", None),
            ("2026-13-04", None),
            ("2026-00-04", None),
            ("2026-04-32", None),
            ("2026-04-01 24:00:00", None),
            ("2026-04-01 12:60:00", None),
            ("2026-4-1", None),
            ("20260401T120000Z", None),
            ("01.04.2026", None),
            ("1775044805", None),
            ("2026-04-0\u{e9}", None),
            ("now", None),
            ("", None),
        ] {
            assert_eq!(text_form(text), form, "{text}");
        }
    }

    #[test]
    fn threshold_has_the_form_of_the_column() {
        let (now, hour) = (Duration::from_millis(1_775_044_805_500), Duration::from_secs(3600));
        let at = |form, milliseconds| threshold(form, milliseconds, now, hour);
        assert_eq!(at(Form::Number, false), Value::Integer(1_775_041_205));
        assert_eq!(at(Form::Number, true), Value::Integer(1_775_041_205_500));
        assert_eq!(at(Form::Date, false), Value::Text("2026-04-01".into()));
        assert_eq!(at(Form::Space, false), Value::Text("2026-04-01 11:00:05".into()));
        assert_eq!(at(Form::T, false), Value::Text("2026-04-01T11:00:05".into()));
        // A row of the same second is not older.
        assert!("2026-04-01T11:00:05Z" > "2026-04-01T11:00:05" && "2026-04-01T11:00Z" > "2026-04-01T11:00:05");
        assert_eq!(
            threshold(Form::Number, false, now, Duration::from_millis(1500)),
            Value::Integer(1_775_044_803)
        );
        assert_eq!(
            threshold(Form::T, false, now, Duration::MAX),
            Value::Text("1970-01-01T00:00:00".into())
        );
    }

    #[test]
    fn no_look_scans_or_sorts() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(
            "CREATE TABLE t(at TEXT COLLATE NOCASE, n INTEGER, key INTEGER PRIMARY KEY, any);
             CREATE INDEX by_at ON t(at DESC, n); CREATE INDEX by_n ON t(n); CREATE INDEX by_any ON t(any DESC)",
        )
        .unwrap();
        let target = |column: &str, ordered: &str, indexed: &str, ties: Ties| Target {
            table: "t".into(),
            column: column.into(),
            ordered: ordered.into(),
            indexed: indexed.into(),
            ties,
        };
        for target in [
            target("at", "at COLLATE NOCASE", "INDEXED BY by_at", Ties::Unknown),
            target("n", "n COLLATE BINARY", "INDEXED BY by_n", Ties::RowId),
            target("any", "any COLLATE BINARY", "INDEXED BY by_any", Ties::RowIdDown),
            target("key", "key", "NOT INDEXED", Ties::None),
        ] {
            let mut looks = vec![target.end("ASC"), target.end("DESC"), target.newest(), target.delete()];
            looks.extend([target.oldest(false), target.oldest(true)]);
            looks.extend(target.tied());
            for sql in looks {
                let mut plan = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
                let mut rows = plan.raw_query();
                while let Some(row) = rows.next().unwrap() {
                    let step: String = row.get("detail").unwrap();
                    // In the order of the rowids, of which LIMIT takes one.
                    // Of the rows of one time, by as many as are kept.
                    if target.ties == Ties::Unknown && sql.contains("rowid > ?4") && step.starts_with("USE TEMP B-TREE")
                    {
                        continue;
                    }
                    let is_end_of_table = sql.ends_with("LIMIT 1") && step == "SCAN main.t" && target.column == "key";
                    assert!(step.starts_with("SEARCH ") || is_end_of_table, "{sql}: {step}");
                    let is_by_rowid = step.ends_with("=? AND rowid>?)") || step.ends_with("=? AND rowid<?)");
                    let is_behind = sql.contains("rowid > ?4") || sql.contains("rowid < ?4");
                    let is_sorted = target.ties == Ties::Unknown;
                    assert!(is_by_rowid || is_sorted || !is_behind, "{sql}: {step}");
                }
            }
        }
    }
}
