//! The types of PostgreSQL that larder knows ([`PgType`]), their binary form on the wire, and which values of SQLite fit
//! them ([`fit`]).
//!
//! The binary form is that of `COPY .. (FORMAT binary)`: integers and floats big endian, times in microseconds since
//! 2000-01-01, `numeric` in digits of base 10,000.

use std::ops::Range;

use rusqlite::types::ValueRef;

use super::canonical::{Microseconds, Value};
use super::json::{self, JsonError};

/// A type of PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PgType {
    /// `boolean`: the integers 0 and 1.
    Bool,
    /// `smallint`.
    Int2,
    /// `integer`.
    Int4,
    /// `bigint`.
    Int8,
    /// `real`: numbers with so few digits that a `real` has the same.
    Float4,
    /// `double precision`.
    Float8,
    /// `numeric`: numbers, and text as PostgreSQL writes a `numeric`.
    Numeric,
    /// `text`.
    Text,
    /// `bytea`.
    Bytea,
    /// `date`: `YYYY-MM-DD`.
    Date,
    /// `time`: `HH:MM`, with seconds and up to six digits of a fraction or without.
    Time,
    /// `timestamp`: a date and a time, without a zone.
    Timestamp,
    /// `timestamptz`: the same, in UTC unless it ends in an offset.
    Timestamptz,
    /// `uuid`: 16 bytes, or the text in lower case.
    Uuid,
    /// `json`: text that is JSON, which keeps its form. `jsonb` does not keep it, so alter the column after the export. A note
    /// of the report has the values that `jsonb` would refuse. JSON deeper than 6,400 levels does not fit.
    Json,
}

/// Microseconds of a day.
const DAY: i64 = 86_400_000_000;

/// The days since 2000-01-01 that a `date` has: from 4714-11-24 BC to 5874897-12-31.
const DATES: Range<i64> = -2_451_545..2_145_031_949;

/// The microseconds since 2000-01-01 that a `timestamp` and a `timestamptz` have: from 4714-11-24 BC to the end of 294276.
const TIMES: Range<i64> = -211_813_488_000_000_000..9_223_371_331_200_000_000;

/// Days from 1970-01-01 to 2000-01-01.
const EPOCH: i64 = 10_957;

impl PgType {
    /// Its name in SQL.
    pub(crate) fn sql(self) -> &'static str {
        match self {
            PgType::Bool => "boolean",
            PgType::Int2 => "smallint",
            PgType::Int4 => "integer",
            PgType::Int8 => "bigint",
            PgType::Float4 => "real",
            PgType::Float8 => "double precision",
            PgType::Numeric => "numeric",
            PgType::Text => "text",
            PgType::Bytea => "bytea",
            PgType::Date => "date",
            PgType::Time => "time",
            PgType::Timestamp => "timestamp",
            PgType::Timestamptz => "timestamptz",
            PgType::Uuid => "uuid",
            PgType::Json => "json",
        }
    }

    /// The type of a name in SQL, or why there is none.
    pub(crate) fn of_name(name: &str) -> Result<Self, String> {
        let name = name
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
            .to_ascii_lowercase();
        Ok(match name.as_str() {
            "bool" | "boolean" => PgType::Bool,
            "int2" | "smallint" => PgType::Int2,
            "int" | "int4" | "integer" => PgType::Int4,
            "int8" | "bigint" => PgType::Int8,
            "float4" | "real" => PgType::Float4,
            "float8" | "double precision" => PgType::Float8,
            "numeric" | "decimal" => PgType::Numeric,
            "text" => PgType::Text,
            "bytea" => PgType::Bytea,
            "date" => PgType::Date,
            "time" | "time without time zone" => PgType::Time,
            "timestamp" | "timestamp without time zone" => PgType::Timestamp,
            "timestamptz" | "timestamp with time zone" => PgType::Timestamptz,
            "uuid" => PgType::Uuid,
            "json" => PgType::Json,
            "jsonb" => {
                return Err(
                    "jsonb does not keep the text of JSON, so the rows could not be compared: export it as json, then ALTER \
                     TABLE .. ALTER COLUMN .. TYPE jsonb USING column::jsonb"
                        .to_owned(),
                );
            }
            _ => {
                return Err(format!(
                    "no type {name:?}: write boolean, smallint, integer, bigint, real, double precision, numeric, text, bytea, \
                     date, time, timestamp, timestamptz, uuid or json"
                ));
            }
        })
    }
}

/// Why a value of SQLite does not fit a type. It has no data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Misfit {
    /// A value of another storage class: `text`, say, in a column of integers.
    Class(&'static str),
    /// NULL in a primary key.
    NullKey,
    /// The number is out of the range of the type.
    Range,
    /// The text has U+0000, which PostgreSQL cannot store in text.
    Nul,
    /// The text is not UTF-8.
    Utf8,
    /// The text is not written as the type asks for.
    Form,
    /// The text is no JSON.
    Json,
    /// The text is JSON with more levels than a server reads.
    Depth,
}

impl Misfit {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Misfit::Class(class) => class,
            Misfit::NullKey => "null in the primary key",
            Misfit::Range => "out of range",
            Misfit::Nul => "text with U+0000",
            Misfit::Utf8 => "text that is not UTF-8",
            Misfit::Form => "text in another form",
            Misfit::Json => "text that is no JSON",
            Misfit::Depth => "JSON of more than 6400 levels",
        }
    }
}

/// The value as the type takes it, if nothing is lost by that.
pub(crate) fn fit(value: ValueRef<'_>, kind: PgType) -> Result<Value<'_>, Misfit> {
    let class = || Misfit::Class(class_of(value));
    match (kind, value) {
        (_, ValueRef::Null) => Ok(Value::Null),
        (PgType::Bool, ValueRef::Integer(number @ (0 | 1))) => Ok(Value::Bool(number == 1)),
        (PgType::Bool, ValueRef::Integer(_)) => Err(Misfit::Range),
        (PgType::Int2, ValueRef::Integer(number)) => in_range(number, i16::try_from(number).is_ok()),
        (PgType::Int4, ValueRef::Integer(number)) => in_range(number, i32::try_from(number).is_ok()),
        (PgType::Int8, ValueRef::Integer(number)) => Ok(Value::Integer(number)),
        // The shortest digits of a `real` are what both sides show of it: 0.1, not 0.10000000149.
        (PgType::Float4, ValueRef::Real(number)) if shortest(number as f32) == Some(number) => Ok(Value::Real(number)),
        (PgType::Float4, ValueRef::Real(_)) => Err(Misfit::Range),
        (PgType::Float8, ValueRef::Real(number)) => Ok(Value::Real(number)),
        // SQLite stores a whole number in a REAL column as a real. Elsewhere it may be an integer.
        (PgType::Float8, ValueRef::Integer(number)) if (number as f64) as i128 == i128::from(number) => {
            Ok(Value::Real(number as f64))
        }
        (PgType::Float8, ValueRef::Integer(_)) => Err(Misfit::Range),
        (PgType::Numeric, ValueRef::Integer(number)) => Ok(Value::Numeric(number.to_string())),
        // The shortest digits that give the same real again.
        // The server's zero has no sign.
        (PgType::Numeric, ValueRef::Real(number)) if number.is_finite() => {
            Ok(Value::Numeric(format!("{}", number + 0.0)))
        }
        (PgType::Numeric, ValueRef::Real(number)) => Ok(Value::Numeric(
            if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
        )),
        (PgType::Bytea, ValueRef::Blob(bytes)) => Ok(Value::Blob(bytes.into())),
        (PgType::Uuid, ValueRef::Blob(bytes)) => bytes.try_into().map(Value::Uuid).map_err(|_| Misfit::Form),
        (_, ValueRef::Text(bytes)) => of_text(std::str::from_utf8(bytes).map_err(|_| Misfit::Utf8)?, kind, class),
        _ => Err(class()),
    }
}

/// The number that has the shortest digits of a `real`.
fn shortest(number: f32) -> Option<f64> {
    number.to_string().parse().ok()
}

fn in_range<'a>(number: i64, fits: bool) -> Result<Value<'a>, Misfit> {
    if fits {
        Ok(Value::Integer(number))
    } else {
        Err(Misfit::Range)
    }
}

fn of_text(text: &str, kind: PgType, class: impl Fn() -> Misfit) -> Result<Value<'_>, Misfit> {
    let form = |value: Option<Value<'static>>| value.ok_or(Misfit::Form);
    match kind {
        PgType::Text | PgType::Json if text.contains('\0') => Err(Misfit::Nul),
        PgType::Text => Ok(Value::Text(text.into())),
        PgType::Json => match json::read(text) {
            Ok(_) => Ok(Value::Json(text.into())),
            Err(JsonError::Syntax) => Err(Misfit::Json),
            Err(JsonError::Depth) => Err(Misfit::Depth),
        },
        PgType::Numeric => form(is_numeric(text).then(|| Value::Numeric(text.to_owned()))),
        PgType::Date if text == "infinity" => Ok(Value::Date(i32::MAX)),
        PgType::Date if text == "-infinity" => Ok(Value::Date(i32::MIN)),
        PgType::Date => {
            let days = parse_date(text).ok_or(Misfit::Form)? - EPOCH;
            let days = DATES.contains(&days).then(|| i32::try_from(days).ok()).flatten();
            days.map(Value::Date).ok_or(Misfit::Range)
        }
        PgType::Time => form(parse_time(text).map(Value::Time)),
        PgType::Timestamp => of_time(parse_timestamp(text, false)).map(Value::Timestamp),
        PgType::Timestamptz => of_time(parse_timestamp(text, true)).map(Value::Timestamptz),
        PgType::Uuid => form(parse_uuid(text).map(Value::Uuid)),
        _ => Err(class()),
    }
}

/// A time that the server takes. The ends of the range of the number are the infinities.
fn of_time(time: Option<Microseconds>) -> Result<Microseconds, Misfit> {
    match time.ok_or(Misfit::Form)? {
        time if TIMES.contains(&time) || time == i64::MAX || time == i64::MIN => Ok(time),
        _ => Err(Misfit::Range),
    }
}

/// The storage class, as `typeof` names it.
fn class_of(value: ValueRef<'_>) -> &'static str {
    match value {
        ValueRef::Null => "null",
        ValueRef::Integer(_) => "integer",
        ValueRef::Real(_) => "real",
        ValueRef::Text(_) => "text",
        ValueRef::Blob(_) => "blob",
    }
}

/// Digits with a sign and a point, as PostgreSQL writes a `numeric`: so that the text comes back as it was.
fn is_numeric(text: &str) -> bool {
    if ["NaN", "Infinity", "-Infinity"].contains(&text) {
        return true;
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let all = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let plain = whole == "0" || !whole.starts_with('0');
    let is_negative_zero = text.starts_with('-') && text.bytes().all(|byte| b"-0.".contains(&byte));
    all(whole) && all(fraction) && plain && !is_negative_zero && whole.len() <= 131_072 && fraction.len() <= 16_383
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let bytes = text.as_bytes();
    if bytes.len() != 36 || [8, 13, 18, 23].iter().any(|at| bytes[*at] != b'-') {
        return None;
    }
    let digits: Vec<u8> = bytes.iter().copied().filter(|byte| *byte != b'-').collect();
    // Lower case, as PostgreSQL writes it: otherwise the text would not come back.
    if digits.len() != 32 || !digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    u128::from_str_radix(std::str::from_utf8(&digits).ok()?, 16)
        .ok()
        .map(u128::to_be_bytes)
}

/// Days since 1970-01-01 of `YYYY-MM-DD`, by the Gregorian calendar. A year before 0 or after 9999 has a sign, as ISO 8601
/// has it: the year 0 is 1 BC.
fn parse_date(text: &str) -> Option<i64> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    let (year, rest) = digits.split_once('-')?;
    let has_sign = digits.len() < text.len();
    let is_year = if has_sign {
        (4..=7).contains(&year.len())
    } else {
        year.len() == 4
    };
    if !is_year || rest.len() != 5 || rest.as_bytes()[2] != b'-' {
        return None;
    }
    let (year, month, day) = (sign * number(year)?, number(rest.get(..2)?)?, number(rest.get(3..)?)?);
    // They would come back without their sign.
    if has_sign && (0..=9999).contains(&year) {
        return None;
    }
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if !(1..=12).contains(&month) || !(1..=last).contains(&day) {
        return None;
    }
    // Years from March on, so that the leap day is the last one.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let era = |years: i64| year.div_euclid(years);
    Some(365 * year + era(4) - era(100) + era(400) + (153 * month + 2) / 5 + day - 1 - 719_468)
}

/// Microseconds since midnight of `HH:MM`, `HH:MM:SS` or `HH:MM:SS.ffffff`.
fn parse_time(text: &str) -> Option<i64> {
    let part = |range: std::ops::Range<usize>, limit: i64| number(text.get(range)?).filter(|part| *part < limit);
    if let Some(rest) = text.strip_prefix("24:00") {
        // The end of a day.
        let is_end = rest.is_empty() || rest.starts_with(":00") && rest[3..].bytes().all(|byte| b".0".contains(&byte));
        return (is_end && rest.len() <= 10).then_some(DAY);
    }
    let (hours, minutes) = (part(0..2, 24)?, part(3..5, 60)?);
    let seconds = if text.len() > 5 { part(6..8, 60)? } else { 0 };
    let bytes = text.as_bytes();
    let marks = bytes[2] == b':' && (text.len() == 5 || bytes[5] == b':');
    let fraction = match text.get(8..).unwrap_or_default() {
        "" => 0,
        digits => {
            let digits = digits
                .strip_prefix('.')
                .filter(|digits| (1..=6).contains(&digits.len()))?;
            number(digits)? * 10_i64.pow(6 - digits.len() as u32)
        }
    };
    marks.then_some(((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + fraction)
}

/// A date and a time with `T` or a space between them. With `zone` it may end in `Z` or an offset; without one it is UTC,
/// as SQLite's own times are.
fn parse_timestamp(text: &str, zone: bool) -> Option<Microseconds> {
    match text {
        "infinity" => return Some(i64::MAX),
        "-infinity" => return Some(i64::MIN),
        _ => {}
    }
    let (date, rest) = text.split_once(['T', ' '])?;
    let zone_at = rest.find(['Z', '+', '-']).unwrap_or(rest.len());
    let (time, offset) = rest.split_at(zone_at);
    let offset = match offset {
        "" => 0,
        _ if !zone => return None,
        "Z" => 0,
        offset => {
            let sign = if offset.starts_with('-') { -1 } else { 1 };
            sign * parse_time(offset.get(1..).filter(|offset| offset.len() == 5)?)?
        }
    };
    let midnight = (parse_date(date)? - EPOCH).saturating_mul(DAY);
    let time = midnight.saturating_add(parse_time(time)? - offset);
    // The ends are the infinities. What is next to them is out of range.
    Some(time.clamp(i64::MIN + 1, i64::MAX - 1))
}

fn number(digits: &str) -> Option<i64> {
    digits
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| digits.parse().ok())
        .flatten()
}

/// Whether a value fits. As [`fit`], without the value.
pub(crate) fn check(value: ValueRef<'_>, kind: PgType) -> Result<(), Misfit> {
    match (kind, value) {
        (PgType::Numeric, ValueRef::Integer(_) | ValueRef::Real(_)) => Ok(()),
        _ => fit(value, kind).map(drop),
    }
}

/// Appends a value as a field of a binary COPY, if it fits. Nothing is appended otherwise. Text that `is_checked` is not
/// looked at again.
pub(crate) fn append(value: ValueRef<'_>, kind: PgType, is_checked: bool, out: &mut Vec<u8>) -> Result<(), Misfit> {
    let fixed = |out: &mut Vec<u8>, bytes: [u8; 8]| {
        let [a, b, c, d, e, f, g, h] = bytes;
        out.extend_from_slice(&[0, 0, 0, 8, a, b, c, d, e, f, g, h]);
    };
    let sized = |out: &mut Vec<u8>, bytes: &[u8]| {
        out.extend_from_slice(&(bytes.len() as i32).to_be_bytes());
        out.extend_from_slice(bytes);
    };
    match (kind, value) {
        (_, ValueRef::Null) => out.extend_from_slice(&NULL),
        (PgType::Int8, ValueRef::Integer(number)) => fixed(out, number.to_be_bytes()),
        (PgType::Float8, ValueRef::Real(number)) => fixed(out, number.to_be_bytes()),
        (PgType::Bytea, ValueRef::Blob(bytes)) => sized(out, bytes),
        (PgType::Text | PgType::Json, ValueRef::Text(bytes)) if is_checked => sized(out, bytes),
        (PgType::Text, ValueRef::Text(bytes)) => {
            let text = std::str::from_utf8(bytes).map_err(|_| Misfit::Utf8)?;
            if text.contains('\0') {
                return Err(Misfit::Nul);
            }
            sized(out, bytes);
        }
        _ => append_field(&fit(value, kind)?, kind, out),
    }
    Ok(())
}

/// NULL as a field of a binary COPY.
pub(crate) const NULL: [u8; 4] = (-1_i32).to_be_bytes();

/// Appends a field of a binary COPY: its length in 4 bytes and the value.
pub(crate) fn append_field(value: &Value<'_>, kind: PgType, out: &mut Vec<u8>) {
    if matches!(value, Value::Null) {
        out.extend(NULL);
        return;
    }
    let at = out.len();
    out.extend([0; 4]);
    match (value, kind) {
        (Value::Bool(value), _) => out.push(u8::from(*value)),
        (Value::Integer(value), PgType::Int2) => out.extend((*value as i16).to_be_bytes()),
        (Value::Integer(value), PgType::Int4) => out.extend((*value as i32).to_be_bytes()),
        (Value::Integer(value), _) => out.extend(value.to_be_bytes()),
        (Value::Real(value), PgType::Float4) => out.extend((*value as f32).to_be_bytes()),
        (Value::Real(value), _) => out.extend(value.to_be_bytes()),
        (Value::Text(text) | Value::Json(text), _) => out.extend(text.as_bytes()),
        (Value::Blob(bytes), _) => out.extend(bytes.iter()),
        (Value::Uuid(bytes), _) => out.extend(bytes),
        (Value::Date(days), _) => out.extend(days.to_be_bytes()),
        (Value::Time(time) | Value::Timestamp(time) | Value::Timestamptz(time), _) => out.extend(time.to_be_bytes()),
        (Value::Numeric(digits), _) => append_numeric(digits, out),
        (Value::Null, _) => {}
    }
    let length = (out.len() - at - 4) as i32;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

fn append_numeric(text: &str, out: &mut Vec<u8>) {
    let head = |out: &mut Vec<u8>, groups: u16, weight: i16, sign: u16, scale: u16| {
        out.extend(groups.to_be_bytes());
        out.extend(weight.to_be_bytes());
        out.extend(sign.to_be_bytes());
        out.extend(scale.to_be_bytes());
    };
    match text {
        "NaN" => return head(out, 0, 0, 0xC000, 0),
        "Infinity" => return head(out, 0, 0, 0xD000, 0),
        "-Infinity" => return head(out, 0, 0, 0xF000, 0),
        _ => {}
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let padded = whole.len().next_multiple_of(4);
    let mut all = format!("{whole:0>padded$}{fraction}");
    let weight = (padded / 4) as i16 - 1;
    all.extend(std::iter::repeat_n('0', all.len().next_multiple_of(4) - all.len()));
    let groups = all.as_bytes().chunks(4);
    let mut groups: Vec<u16> = groups
        .map(|group| group.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0')))
        .collect();
    let first = groups.iter().position(|group| *group != 0).unwrap_or(groups.len());
    groups.drain(..first);
    while groups.last() == Some(&0) {
        groups.pop();
    }
    let sign = if text.starts_with('-') { 0x4000 } else { 0 };
    // Zero has no weight, whatever its scale: as the server writes it.
    let weight = if groups.is_empty() { 0 } else { weight - first as i16 };
    head(out, groups.len() as u16, weight, sign, fraction.len() as u16);
    groups.iter().for_each(|group| out.extend(group.to_be_bytes()));
}

/// Reads a value in its binary form. `None` if the bytes are none of that type.
#[cfg(test)]
fn of_binary(kind: PgType, bytes: Option<&[u8]>) -> Option<Value<'_>> {
    let Some(bytes) = bytes else {
        return Some(Value::Null);
    };
    let text = |bytes| std::str::from_utf8(bytes).ok().map(std::borrow::Cow::Borrowed);
    Some(match kind {
        PgType::Bool => Value::Bool(*bytes.first()? != 0),
        PgType::Int2 => Value::Integer(i16::from_be_bytes(bytes.try_into().ok()?).into()),
        PgType::Int4 => Value::Integer(i32::from_be_bytes(bytes.try_into().ok()?).into()),
        PgType::Int8 => Value::Integer(i64::from_be_bytes(bytes.try_into().ok()?)),
        PgType::Float4 => Value::Real(shortest(f32::from_be_bytes(bytes.try_into().ok()?))?),
        PgType::Float8 => Value::Real(f64::from_be_bytes(bytes.try_into().ok()?)),
        PgType::Numeric => Value::Numeric(read_numeric(bytes)?),
        PgType::Text => Value::Text(text(bytes)?),
        PgType::Json => Value::Json(text(bytes)?),
        PgType::Bytea => Value::Blob(bytes.into()),
        PgType::Date => Value::Date(i32::from_be_bytes(bytes.try_into().ok()?)),
        PgType::Time => Value::Time(i64::from_be_bytes(bytes.try_into().ok()?)),
        PgType::Timestamp => Value::Timestamp(i64::from_be_bytes(bytes.try_into().ok()?)),
        PgType::Timestamptz => Value::Timestamptz(i64::from_be_bytes(bytes.try_into().ok()?)),
        PgType::Uuid => Value::Uuid(bytes.try_into().ok()?),
    })
}

#[cfg(test)]
fn read_numeric(bytes: &[u8]) -> Option<String> {
    let word = |at: usize| Some(u16::from_be_bytes(bytes.get(2 * at..2 * at + 2)?.try_into().ok()?));
    let (count, weight, sign, scale) = (word(0)?, word(1)? as i16, word(2)?, usize::from(word(3)?));
    match sign {
        0xC000 => return Some("NaN".into()),
        0xD000 => return Some("Infinity".into()),
        0xF000 => return Some("-Infinity".into()),
        _ => {}
    }
    let group = |power: i64| -> Option<u16> {
        let at = i64::from(weight) - power;
        if (0..i64::from(count)).contains(&at) {
            word(4 + at as usize)
        } else {
            Some(0)
        }
    };
    let mut whole = String::new();
    for power in (0..=i64::from(weight.max(0))).rev() {
        whole.push_str(&format!("{:04}", group(power)?));
    }
    let mut fraction = String::new();
    for power in 1..=scale.div_ceil(4) as i64 {
        fraction.push_str(&format!("{:04}", group(-power)?));
    }
    fraction.truncate(scale);
    let whole = whole.trim_start_matches('0');
    let sign = if sign == 0x4000 { "-" } else { "" };
    let whole = if whole.is_empty() { "0" } else { whole };
    let point = if scale > 0 { "." } else { "" };
    Some(format!("{sign}{whole}{point}{fraction}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_from_their_binary_form() {
        let text = |text: &'static str| ValueRef::Text(text.as_bytes());
        let cases = [
            (PgType::Bool, ValueRef::Integer(1)),
            (PgType::Int2, ValueRef::Integer(-32768)),
            (PgType::Int4, ValueRef::Integer(i64::from(i32::MIN))),
            (PgType::Int8, ValueRef::Integer(i64::MIN)),
            (PgType::Float8, ValueRef::Real(f64::NEG_INFINITY)),
            (PgType::Numeric, text("1234567890123456.7891")),
            (PgType::Numeric, text("-0.00012300")),
            (PgType::Numeric, text("100000000.0")),
            (PgType::Numeric, text("0")),
            (PgType::Text, text("'\u{1F600}\"\\")),
            (PgType::Bytea, ValueRef::Blob(&[0, 255])),
            (PgType::Date, text("0001-01-01")),
            (PgType::Date, text("-4713-11-24")),
            (PgType::Date, text("+5874897-12-31")),
            (PgType::Timestamp, text("-4713-11-24 00:00:00")),
            (PgType::Timestamp, text("+294276-12-31 23:59:59.999999")),
            (PgType::Timestamptz, text("-4713-11-24T01:00:00+01:00")),
            (PgType::Timestamptz, text("+294277-01-01T00:59:59.999999+01:00")),
            (PgType::Time, text("24:00:00.000000")),
            (PgType::Timestamptz, text("2024-02-29T23:59:59.999999+02:00")),
            (PgType::Uuid, text("00112233-4455-6677-8899-aabbccddeeff")),
            (PgType::Json, text("{\"a\":[null,1.50]}")),
        ];
        for (kind, given) in cases {
            let value = fit(given, kind).unwrap();
            let mut field = Vec::new();
            append_field(&value, kind, &mut field);
            assert_eq!(of_binary(kind, Some(&field[4..])), Some(value));
            let mut appended = Vec::new();
            append(given, kind, false, &mut appended).unwrap();
            assert_eq!(appended, field);
            assert_eq!(check(given, kind), Ok(()));
        }
    }

    #[test]
    fn values_that_would_change_do_not_fit() {
        let text = |text: &'static str| ValueRef::Text(text.as_bytes());
        let cases = [
            (PgType::Int8, text("1"), Misfit::Class("text")),
            (PgType::Int4, ValueRef::Integer(1 << 31), Misfit::Range),
            (PgType::Float8, ValueRef::Integer(i64::MAX), Misfit::Range),
            (PgType::Text, text("a\0b"), Misfit::Nul),
            (PgType::Text, ValueRef::Text(&[0xff]), Misfit::Utf8),
            (PgType::Text, ValueRef::Blob(b"x"), Misfit::Class("blob")),
            (PgType::Bool, ValueRef::Integer(2), Misfit::Range),
            (PgType::Date, text("2023-02-29"), Misfit::Form),
            (PgType::Date, text("-4713-11-23"), Misfit::Range),
            (PgType::Date, text("+5874898-01-01"), Misfit::Range),
            (PgType::Date, text("+9999999-01-01"), Misfit::Range),
            (PgType::Timestamp, text("-4713-11-23 23:59:59.999999"), Misfit::Range),
            (PgType::Timestamp, text("+294277-01-01 00:00:00"), Misfit::Range),
            (PgType::Timestamp, text("+9999999-01-01 00:00:00"), Misfit::Range),
            (PgType::Timestamp, text("-9999999-01-01 00:00:00"), Misfit::Range),
            (PgType::Timestamptz, text("-4713-11-24T00:59:59+01:00"), Misfit::Range),
            (PgType::Timestamptz, text("+294276-12-31T23:00:00-01:00"), Misfit::Range),
            (PgType::Timestamptz, text("2024-01-01T00:00:00.1234567Z"), Misfit::Form),
            (PgType::Timestamp, text("+2024-11-24 00:00:00"), Misfit::Form),
            (PgType::Time, text("24:00:01"), Misfit::Form),
            (PgType::Uuid, text("00112233-4455-6677-8899-AABBCCDDEEFF"), Misfit::Form),
            (PgType::Numeric, text("1e3"), Misfit::Form),
        ];
        for (kind, value, misfit) in cases {
            assert_eq!(fit(value, kind), Err(misfit), "{kind:?} {value:?}");
            let mut out = Vec::new();
            assert_eq!(append(value, kind, false, &mut out), Err(misfit));
            assert_eq!(check(value, kind), Err(misfit));
            assert!(out.is_empty());
        }
    }
}
