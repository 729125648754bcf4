//! Values: from PostgreSQL's text to SQLite, and the canonical bytes of both, by which they are compared.
//!
//! The canonical bytes of a value of SQLite do not pass through the conversion: they are read from what is in the file.
//! So a wrong conversion shows as a difference.

use rusqlite::types::{Value, ValueRef};

use super::kind::Kind;

/// The value for a column, from the text that `COPY` writes.
pub(super) fn value(kind: &Kind, text: &[u8]) -> Result<Value, String> {
    Ok(match kind {
        Kind::Bool => Value::Integer(match text {
            b"t" | b"true" | b"TRUE" => 1,
            b"f" | b"false" | b"FALSE" => 0,
            _ => return Err(not_a("boolean", text)),
        }),
        Kind::Integer => Value::Integer(parsed(text, "an integer of 64 bits")?),
        Kind::Float | Kind::NumericReal => match float(text)? {
            number if number.is_nan() => Value::Text("NaN".into()),
            number => Value::Real(number),
        },
        Kind::Bytea => {
            let mut bytes = Vec::new();
            bytea(text, &mut bytes)?;
            Value::Blob(bytes)
        }
        Kind::Char(_) => Value::Text(utf8(text)?.trim_end_matches(' ').to_owned()),
        Kind::Date | Kind::Timestamp | Kind::TimestampTz => Value::Text(Moment::read(utf8(text)?)?.iso(kind)),
        Kind::Time => Value::Text(clock_text(clock(utf8(text)?).ok_or_else(|| not_a("time", text))?)),
        Kind::Interval => Value::Text(Interval::read(utf8(text)?)?.iso()),
        Kind::Array(element) => Value::Text(array_to_json(element, utf8(text)?)?),
        // The affinity of the column makes a number of it.
        Kind::NumericExact => Value::Text(utf8(text)?.to_owned()),
        Kind::Numeric | Kind::Text | Kind::Json | Kind::Uuid | Kind::AsText => Value::Text(utf8(text)?.to_owned()),
    })
}

/// The canonical bytes of a value of PostgreSQL.
pub(super) fn canonical_source(kind: &Kind, text: &[u8], to: &mut Vec<u8>) -> Result<(), String> {
    match kind {
        Kind::Bool => to.push(u8::from(matches!(text, b"t" | b"true" | b"TRUE"))),
        Kind::Float | Kind::NumericReal => real(float(text)?, to),
        Kind::NumericExact => to.extend_from_slice(decimal(utf8(text)?).as_bytes()),
        Kind::Bytea => bytea(text, to)?,
        Kind::Char(_) => {
            let end = text.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
            to.extend_from_slice(&text[..end]);
        }
        Kind::Date | Kind::Timestamp | Kind::TimestampTz => Moment::read(utf8(text)?)?.canonical(to),
        Kind::Time => micros(clock(utf8(text)?).ok_or_else(|| not_a("time", text))?, to),
        Kind::Interval => Interval::read(utf8(text)?)?.canonical(to),
        // Their text depends on the time zone of the dump.
        Kind::Array(element) if **element == Kind::TimestampTz => {
            let mut array = String::new();
            json_to_array(element, &array_to_json(element, utf8(text)?)?, &mut array)?;
            to.extend_from_slice(array.as_bytes());
        }
        Kind::Array(_) => to.extend_from_slice(without_bounds(utf8(text)?).as_bytes()),
        Kind::Integer => to.extend_from_slice(&parsed::<i64>(text, "an integer of 64 bits")?.to_be_bytes()),
        Kind::Numeric | Kind::Text | Kind::Json | Kind::Uuid | Kind::AsText => to.extend_from_slice(text),
    }
    Ok(())
}

/// The canonical bytes of a value in the file: those of the value of PostgreSQL that it stands for.
pub(super) fn canonical_target(kind: &Kind, value: ValueRef<'_>, to: &mut Vec<u8>) -> Result<(), String> {
    match (kind, value) {
        (Kind::Bool, ValueRef::Integer(number @ (0 | 1))) => to.push(u8::from(number == 1)),
        (Kind::Integer, ValueRef::Integer(number)) => to.extend_from_slice(&number.to_be_bytes()),
        (Kind::Float | Kind::NumericReal, ValueRef::Real(number)) => real(number, to),
        (Kind::Float | Kind::NumericReal, ValueRef::Integer(number)) => real(number as f64, to),
        (Kind::Float | Kind::NumericReal, ValueRef::Text(b"NaN")) => real(f64::NAN, to),
        (Kind::NumericExact, ValueRef::Integer(number)) => to.extend_from_slice(number.to_string().as_bytes()),
        (Kind::NumericExact, ValueRef::Real(number)) => to.extend_from_slice(decimal(&digits(number)).as_bytes()),
        (Kind::NumericExact, ValueRef::Text(text)) => to.extend_from_slice(decimal(utf8(text)?).as_bytes()),
        (Kind::Bytea, ValueRef::Blob(bytes)) => to.extend_from_slice(bytes),
        (Kind::Date | Kind::Timestamp | Kind::TimestampTz, ValueRef::Text(text)) => {
            Moment::of_iso(utf8(text)?, kind)?.canonical(to);
        }
        (Kind::Time, ValueRef::Text(text)) => micros(clock(utf8(text)?).ok_or_else(|| not_a("time", text))?, to),
        (Kind::Interval, ValueRef::Text(text)) => Interval::of_iso(utf8(text)?)?.canonical(to),
        (Kind::Array(element), ValueRef::Text(text)) => {
            let mut array = String::new();
            json_to_array(element, utf8(text)?, &mut array)?;
            to.extend_from_slice(array.as_bytes());
        }
        (Kind::Numeric | Kind::Text | Kind::Json | Kind::Uuid | Kind::AsText | Kind::Char(_), ValueRef::Text(text)) => {
            to.extend_from_slice(text)
        }
        (kind, value) => return Err(format!("a value of {} in a column for {kind:?}", value.data_type())),
    }
    Ok(())
}

fn real(number: f64, to: &mut Vec<u8>) {
    // One zero and one NaN, as both databases compare them.
    let number = if number.is_nan() { f64::NAN } else { number + 0.0 };
    to.extend_from_slice(&number.to_bits().to_be_bytes());
}

/// The shortest digits that give the same number, as PostgreSQL writes a `numeric`.
fn digits(number: f64) -> String {
    match number {
        f64::INFINITY => "Infinity".into(),
        f64::NEG_INFINITY => "-Infinity".into(),
        number => format!("{number}"),
    }
}

/// A decimal number without the zeros that have no meaning.
fn decimal(text: &str) -> String {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    match (whole, fraction) {
        ("", "") => "0".into(),
        (whole, "") => format!("{sign}{whole}"),
        (whole, fraction) => format!("{sign}{whole}.{fraction}"),
    }
}

fn micros(micros: i64, to: &mut Vec<u8>) {
    to.extend_from_slice(&micros.to_be_bytes());
}

fn utf8(text: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(text).map_err(|_| "it is no UTF-8".to_owned())
}

fn not_a(what: &str, text: &[u8]) -> String {
    let text = String::from_utf8_lossy(&text[..text.len().min(60)]).into_owned();
    format!("{text:?} is no {what}")
}

fn parsed<T: std::str::FromStr>(text: &[u8], what: &str) -> Result<T, String> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| not_a(what, text))
}

fn float(text: &[u8]) -> Result<f64, String> {
    match text {
        b"Infinity" => Ok(f64::INFINITY),
        b"-Infinity" => Ok(f64::NEG_INFINITY),
        b"NaN" => Ok(f64::NAN),
        text => parsed(text, "number"),
    }
}

/// Appends the bytes of a `bytea`.
fn bytea(text: &[u8], to: &mut Vec<u8>) -> Result<(), String> {
    let Some(hex) = text.strip_prefix(b"\\x") else {
        return Err("a bytea that is not in hexadecimal: set bytea_output = hex, and dump again".into());
    };
    let broken = || not_a("bytea", text);
    if !hex.len().is_multiple_of(2) {
        return Err(broken());
    }
    to.reserve(hex.len() / 2);
    for pair in hex.chunks_exact(2) {
        let (high, low) = (digit(pair[0]), digit(pair[1]));
        to.push(high.zip(low).map(|(high, low)| high << 4 | low).ok_or_else(broken)?);
    }
    Ok(())
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

// ---- time ----

const DAY: i64 = 86_400_000_000;

/// Days since 1970-01-01 of the Gregorian calendar, without a year zero left out: the year 0 is 1 BC.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    (year, month, of_year - (153 * shifted + 2) / 5 + 1)
}

/// The day of microseconds since 1970.
fn day_of(micros: i128) -> i64 {
    i64::try_from(micros.div_euclid(i128::from(DAY))).unwrap_or(i64::MAX / DAY)
}

/// The time of that day, in microseconds.
fn time_of(micros: i128) -> i64 {
    i64::try_from(micros.rem_euclid(i128::from(DAY))).unwrap_or_default()
}

/// A date or a time of a day, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    Past,
    /// Microseconds since 1970. A date may be too late for 64 bits.
    At(i128),
    Future,
}

impl Moment {
    /// Reads `2020-01-02 03:04:05.678+05:30`, `0044-03-15 BC`, `infinity`.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        match text {
            "infinity" => return Ok(Self::Future),
            "-infinity" => return Ok(Self::Past),
            _ => {}
        }
        let moment = || {
            let (text, before_christ) = match text.strip_suffix(" BC") {
                Some(text) => (text, true),
                None => (text, false),
            };
            let (date, time) = text.split_once(' ').unwrap_or((text, ""));
            let mut parts = date.split('-').map(|part| part.parse::<i32>().ok().map(i64::from));
            let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
            let year = if before_christ { 1 - year } else { year };
            let mut micros = i128::from(days(year, month, day)) * i128::from(DAY);
            if !time.is_empty() {
                let zone = time.rfind(['+', '-', 'Z']).unwrap_or(time.len());
                let (time, zone) = time.split_at(zone);
                micros += i128::from(clock(time)?) - i128::from(offset(zone)?);
            }
            Some(Self::At(micros))
        };
        moment().ok_or_else(|| not_a("date or time", text.as_bytes()))
    }

    /// What is in the file: sortable, of one width from the year 0 to 9999.
    fn iso(self, kind: &Kind) -> String {
        let micros = match self {
            Self::Past => return "-infinity".into(),
            Self::Future => return "infinity".into(),
            Self::At(micros) => micros,
        };
        let (year, month, day) = date(day_of(micros));
        let year = match year {
            0..=9999 => format!("{year:04}"),
            10_000.. => format!("+{year}"),
            _ => format!("-{:04}", -year),
        };
        let time = match kind {
            Kind::Date => String::new(),
            _ => format!("T{}", clock_text(time_of(micros))),
        };
        let zone = if *kind == Kind::TimestampTz { "Z" } else { "" };
        format!("{year}-{month:02}-{day:02}{time}{zone}")
    }

    fn of_iso(text: &str, kind: &Kind) -> Result<Self, String> {
        match text {
            "infinity" => return Ok(Self::Future),
            "-infinity" => return Ok(Self::Past),
            _ => {}
        }
        let moment = || {
            let (sign, rest) = match text.as_bytes().first()? {
                b'-' => (-1, &text[1..]),
                b'+' => (1, &text[1..]),
                _ => (1, text),
            };
            let text = match kind {
                Kind::TimestampTz => rest.strip_suffix('Z')?,
                _ => rest,
            };
            let (date, time) = match kind {
                Kind::Date => (text, "00:00:00"),
                _ => text.split_once('T')?,
            };
            let mut parts = date.split('-');
            let year = sign * i64::from(parts.next()?.parse::<i32>().ok()?);
            let mut number = || Some(i64::from(parts.next()?.parse::<i32>().ok()?));
            let (month, day) = (number()?, number()?);
            Some(Self::At(
                i128::from(days(year, month, day)) * i128::from(DAY) + i128::from(clock(time)?),
            ))
        };
        moment().ok_or_else(|| not_a("date or time", text.as_bytes()))
    }

    fn canonical(self, to: &mut Vec<u8>) {
        match self {
            Self::Past => to.extend_from_slice(b"-infinity"),
            Self::Future => to.extend_from_slice(b"infinity"),
            Self::At(at) => to.extend_from_slice(&at.to_be_bytes()),
        }
    }

    /// Whether its text sorts before and after that of others as it does.
    pub(super) fn sorts(self) -> bool {
        match self {
            Self::At(micros) => (0..=9999).contains(&date(day_of(micros)).0),
            _ => true,
        }
    }
}

/// Microseconds of `03:04:05.678`. 24:00:00 is one.
fn clock(text: &str) -> Option<i64> {
    let mut parts = text.split(':');
    let mut number = || Some(i64::from(parts.next()?.parse::<u32>().ok()?));
    let (hours, minutes) = (number()?, number()?);
    let seconds = seconds(parts.next().unwrap_or("0"))?;
    Some((hours * 60 + minutes) * 60_000_000 + seconds)
}

/// Microseconds of `5.678`.
fn seconds(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 6 || whole.starts_with(['-', '+']) {
        return None;
    }
    let fraction: i64 = format!("{fraction:0<6}").parse().ok()?;
    Some(i64::from(whole.parse::<u32>().ok()?) * 1_000_000 + fraction)
}

fn clock_text(micros: i64) -> String {
    let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
    format!(
        "{:02}:{:02}:{:02}.{micros:06}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// Microseconds of `+05:30`, `-03`, `+01:23:45`.
fn offset(text: &str) -> Option<i64> {
    let (sign, rest) = match text.as_bytes().first() {
        None | Some(b'Z') => return Some(0),
        Some(b'-') => (-1, &text[1..]),
        Some(_) => (1, &text[1..]),
    };
    let mut parts = rest.split(':').map(|part| part.parse::<i64>());
    let mut micros = 0;
    for unit in [3600, 60, 1] {
        micros += match parts.next() {
            Some(part) => part.ok()? * unit * 1_000_000,
            None => 0,
        };
    }
    Some(sign * micros)
}

/// An interval has three parts that do not add up: a month has no fixed length, and a day may have 23 hours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Interval {
    months: i64,
    days: i64,
    micros: i64,
}

impl Interval {
    /// Reads `1 year 2 mons -3 days +04:05:06.789`, the style `postgres`.
    fn read(text: &str) -> Result<Self, String> {
        let interval = || {
            let mut this = Self::default();
            let mut words = text.split(' ').peekable();
            while let Some(word) = words.next() {
                if word.contains(':') {
                    let (sign, time) = match word.as_bytes().first()? {
                        b'-' => (-1, &word[1..]),
                        b'+' => (1, &word[1..]),
                        _ => (1, word),
                    };
                    this.micros = sign * clock(time)?;
                    continue;
                }
                let number = i64::from(word.parse::<i32>().ok()?);
                match words.next()?.trim_end_matches('s') {
                    "year" => this.months += number * 12,
                    "mon" => this.months += number,
                    "day" => this.days += number,
                    _ => return None,
                }
            }
            Some(this)
        };
        interval().ok_or_else(|| {
            let problem = not_a("interval", text.as_bytes());
            format!("{problem} in the style of intervals that pg_dump writes")
        })
    }

    /// ISO 8601: `P1Y2M-3DT4H5M6.789S`.
    fn iso(self) -> String {
        let mut text = String::from("P");
        let mut part = |number: i64, unit: char| {
            if number != 0 {
                text.push_str(&format!("{number}{unit}"));
            }
        };
        part(self.months / 12, 'Y');
        part(self.months % 12, 'M');
        part(self.days, 'D');
        if self.micros != 0 {
            text.push('T');
            let mut part = |number: i64, unit: char| {
                if number != 0 {
                    text.push_str(&format!("{number}{unit}"));
                }
            };
            part(self.micros / 3_600_000_000, 'H');
            part(self.micros / 60_000_000 % 60, 'M');
            let seconds = self.micros % 60_000_000;
            if seconds != 0 {
                let sign = if seconds < 0 { "-" } else { "" };
                let (whole, fraction) = (seconds.abs() / 1_000_000, seconds.abs() % 1_000_000);
                let fraction = match fraction {
                    0 => String::new(),
                    fraction => format!(".{fraction:06}").trim_end_matches('0').to_owned(),
                };
                text.push_str(&format!("{sign}{whole}{fraction}S"));
            }
        }
        if text == "P" { "PT0S".into() } else { text }
    }

    fn of_iso(text: &str) -> Result<Self, String> {
        let interval = || {
            let mut this = Self::default();
            let rest = text.strip_prefix('P')?;
            let (date, time) = rest.split_once('T').unwrap_or((rest, ""));
            for (part, in_time) in [(date, false), (time, true)] {
                let mut from = 0;
                for (at, unit) in part.char_indices().filter(|(_, c)| c.is_ascii_alphabetic()) {
                    let number = &part[from..at];
                    from = at + 1;
                    if unit == 'S' {
                        let (sign, number) = match number.strip_prefix('-') {
                            Some(number) => (-1, number),
                            None => (1, number),
                        };
                        this.micros += sign * seconds(number)?;
                        continue;
                    }
                    let number: i64 = number.parse().ok()?;
                    match (unit, in_time) {
                        ('Y', false) => this.months += number * 12,
                        ('M', false) => this.months += number,
                        ('D', false) => this.days += number,
                        ('H', true) => this.micros += number * 3_600_000_000,
                        ('M', true) => this.micros += number * 60_000_000,
                        _ => return None,
                    }
                }
            }
            Some(this)
        };
        interval().ok_or_else(|| not_a("interval", text.as_bytes()))
    }

    fn canonical(self, to: &mut Vec<u8>) {
        for part in [self.months, self.days, self.micros] {
            micros(part, to);
        }
    }
}

// ---- arrays ----

/// An array without the bounds of `[0:1]={1,2}`.
fn without_bounds(text: &str) -> &str {
    match text.starts_with('[') {
        true => text.split_once('=').map_or(text, |(_, array)| array),
        false => text,
    }
}

/// Whether an array does not begin at 1.
pub(super) fn has_bounds(text: &[u8]) -> bool {
    text.starts_with(b"[")
}

/// `{1,NULL,"a b"}` as JSON.
fn array_to_json(element: &Kind, text: &str) -> Result<String, String> {
    let text = without_bounds(text);
    let mut json = String::with_capacity(text.len());
    let mut chars = text.char_indices().peekable();
    let broken = || not_a("array", text.as_bytes());
    while let Some((at, c)) = chars.next() {
        match c {
            '{' => json.push('['),
            '}' => json.push(']'),
            ',' => json.push(','),
            '"' => {
                let mut item = String::new();
                loop {
                    match chars.next().ok_or_else(broken)?.1 {
                        '"' => break,
                        '\\' => item.push(chars.next().ok_or_else(broken)?.1),
                        c => item.push(c),
                    }
                }
                json_item(element, &item, &mut json)?;
            }
            _ => {
                let mut end = at + c.len_utf8();
                while let Some((next, c)) = chars.peek()
                    && !matches!(c, ',' | '}' | '{')
                {
                    end = next + c.len_utf8();
                    chars.next();
                }
                match &text[at..end] {
                    "NULL" => json.push_str("null"),
                    item => json_item(element, item, &mut json)?,
                }
            }
        }
    }
    Ok(json)
}

fn json_item(element: &Kind, item: &str, to: &mut String) -> Result<(), String> {
    match element {
        Kind::Bool => to.push_str(if item == "t" { "true" } else { "false" }),
        Kind::Integer | Kind::Json => to.push_str(item),
        Kind::Float if !matches!(item, "NaN" | "Infinity" | "-Infinity") => to.push_str(item),
        Kind::Date | Kind::Timestamp | Kind::TimestampTz | Kind::Time | Kind::Interval | Kind::Char(_) => {
            match value(element, item.as_bytes())? {
                Value::Text(text) => json_string(&text, to),
                _ => return Err(not_a("array", item.as_bytes())),
            }
        }
        _ => json_string(item, to),
    }
    Ok(())
}

fn json_string(text: &str, to: &mut String) {
    to.push('"');
    for c in text.chars() {
        match c {
            '"' => to.push_str("\\\""),
            '\\' => to.push_str("\\\\"),
            c if u32::from(c) < 0x20 => to.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => to.push(c),
        }
    }
    to.push('"');
}

/// The array of PostgreSQL that a JSON array stands for, as PostgreSQL writes it.
fn json_to_array(element: &Kind, json: &str, to: &mut String) -> Result<(), String> {
    let broken = || not_a("JSON array", json.as_bytes());
    let bytes = json.as_bytes();
    let (mut at, mut depth) = (0, 0_usize);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'[' if depth == 0 || *element != Kind::Json => {
                depth += 1;
                to.push('{');
                at += 1;
            }
            b']' => {
                depth = depth.checked_sub(1).ok_or_else(broken)?;
                to.push('}');
                at += 1;
            }
            b',' => {
                to.push(',');
                at += 1;
            }
            _ => {
                let end = at + json_value(&bytes[at..]).ok_or_else(broken)?;
                array_item(element, &json[at..end], to)?;
                at = end;
            }
        }
    }
    Ok(())
}

/// The length of the JSON value at the start of a text.
fn json_value(text: &[u8]) -> Option<usize> {
    let (mut at, mut depth) = (0, 0_usize);
    loop {
        match text.get(at) {
            Some(b'"') => {
                at += 1;
                while *text.get(at)? != b'"' {
                    at += if text[at] == b'\\' { 2 } else { 1 };
                }
            }
            Some(b'{' | b'[') => depth += 1,
            Some(b'}' | b']') if depth > 0 => depth -= 1,
            Some(b',' | b']') if depth == 0 => return (at > 0).then_some(at),
            None => return (depth == 0 && at > 0).then_some(at),
            Some(_) => {}
        }
        at += 1;
    }
}

fn array_item(element: &Kind, item: &str, to: &mut String) -> Result<(), String> {
    if item == "null" && *element != Kind::Json {
        to.push_str("NULL");
        return Ok(());
    }
    let text = match element {
        Kind::Json if item == "null" => "NULL".to_owned(),
        Kind::Json => item.to_owned(),
        Kind::Bool => (if item == "true" { "t" } else { "f" }).to_owned(),
        _ if item.starts_with('"') => unescape_json(item)?,
        _ => item.to_owned(),
    };
    if *element == Kind::Json && text == "NULL" {
        to.push_str("NULL");
        return Ok(());
    }
    let text = match element {
        Kind::Date | Kind::Timestamp | Kind::TimestampTz | Kind::Time | Kind::Interval | Kind::Char(_) => {
            postgres_text(element, &text)?
        }
        _ => text,
    };
    array_text(&text, to);
    Ok(())
}

/// An item of an array, in quotes where PostgreSQL writes them.
fn array_text(text: &str, to: &mut String) {
    let special = |c: char| {
        matches!(
            c,
            '{' | '}' | ',' | '"' | '\\' | ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c'
        )
    };
    if !text.is_empty() && !text.contains(special) && !text.eq_ignore_ascii_case("null") {
        to.push_str(text);
        return;
    }
    to.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            to.push('\\');
        }
        to.push(c);
    }
    to.push('"');
}

fn unescape_json(item: &str) -> Result<String, String> {
    let inner = &item[1..item.len() - 1];
    let mut text = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            text.push(c);
            continue;
        }
        match chars.next() {
            Some('u') => {
                let code: String = chars.by_ref().take(4).collect();
                let code = u32::from_str_radix(&code, 16).ok().and_then(char::from_u32);
                text.push(code.ok_or_else(|| not_a("JSON string", item.as_bytes()))?);
            }
            Some(c) => text.push(c),
            None => return Err(not_a("JSON string", item.as_bytes())),
        }
    }
    Ok(text)
}

/// The text that PostgreSQL writes for a value in the file, with the time zone UTC.
fn postgres_text(kind: &Kind, text: &str) -> Result<String, String> {
    Ok(match kind {
        Kind::Date | Kind::Timestamp | Kind::TimestampTz => match Moment::of_iso(text, kind)? {
            Moment::Past => "-infinity".into(),
            Moment::Future => "infinity".into(),
            Moment::At(micros) => {
                let (year, month, day) = date(day_of(micros));
                let (year, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
                let time = match kind {
                    Kind::Date => String::new(),
                    _ => format!(" {}", short_clock(time_of(micros))),
                };
                let zone = if *kind == Kind::TimestampTz { "+00" } else { "" };
                format!("{year:04}-{month:02}-{day:02}{time}{zone}{era}")
            }
        },
        Kind::Time => short_clock(clock(text).ok_or_else(|| not_a("time", text.as_bytes()))?),
        Kind::Interval => {
            let interval = Interval::of_iso(text)?;
            let mut parts = Vec::new();
            let mut negative = false;
            for (number, unit) in [
                (interval.months / 12, "year"),
                (interval.months % 12, "mon"),
                (interval.days, "day"),
            ] {
                if number != 0 {
                    let plural = if number == 1 { "" } else { "s" };
                    // A sign after a negative part says that this one is not.
                    let sign = if negative && number > 0 { "+" } else { "" };
                    parts.push(format!("{sign}{number} {unit}{plural}"));
                    negative = number < 0;
                }
            }
            if interval.micros != 0 || parts.is_empty() {
                let sign = match interval.micros {
                    ..0 => "-",
                    _ if negative => "+",
                    _ => "",
                };
                parts.push(format!("{sign}{}", short_clock(interval.micros.abs())));
            }
            parts.join(" ")
        }
        Kind::Char(length) => format!("{text:<length$}"),
        _ => text.to_owned(),
    })
}

fn short_clock(micros: i64) -> String {
    let text = clock_text(micros);
    let text = text.trim_end_matches('0');
    text.strip_suffix('.').unwrap_or(text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(kind: &Kind, from: &str) -> String {
        match value(kind, from.as_bytes()).unwrap() {
            Value::Text(text) => text,
            other => panic!("{other:?}"),
        }
    }

    /// What is in the file, and that both sides are the same.
    fn round(kind: &Kind, from: &str, wanted: &str) {
        assert_eq!(text(kind, from), wanted, "{kind:?} {from}");
        let (mut source, mut target) = (Vec::new(), Vec::new());
        canonical_source(kind, from.as_bytes(), &mut source).unwrap();
        canonical_target(kind, ValueRef::Text(wanted.as_bytes()), &mut target).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&source),
            String::from_utf8_lossy(&target),
            "{kind:?} {from}"
        );
    }

    #[test]
    fn times_in_arrays_may_have_any_zone() {
        let kind = Kind::Array(Box::new(Kind::TimestampTz));
        round(
            &kind,
            "{\"2020-01-02 03:04:05+05:30\",NULL,infinity}",
            r#"["2020-01-01T21:34:05.000000Z",null,"infinity"]"#,
        );
    }

    #[test]
    fn times_are_utc_and_of_one_width() {
        round(
            &Kind::TimestampTz,
            "2020-01-02 03:04:05.678+05:30",
            "2020-01-01T21:34:05.678000Z",
        );
        round(
            &Kind::TimestampTz,
            "1883-11-18 12:03:58-04:56:02",
            "1883-11-18T17:00:00.000000Z",
        );
        round(
            &Kind::Timestamp,
            "2000-02-29 23:59:59.999999",
            "2000-02-29T23:59:59.999999",
        );
        round(
            &Kind::Timestamp,
            "4713-01-01 00:00:00 BC",
            "-4712-01-01T00:00:00.000000",
        );
        round(
            &Kind::Timestamp,
            "294276-12-31 23:59:59.999999",
            "+294276-12-31T23:59:59.999999",
        );
        round(&Kind::Date, "0001-12-31 BC", "0000-12-31");
        round(&Kind::Date, "5874897-12-31", "+5874897-12-31");
        round(&Kind::Date, "4714-11-24 BC", "-4713-11-24");
        round(&Kind::Date, "-infinity", "-infinity");
        round(&Kind::Time, "24:00:00", "24:00:00.000000");
        assert!(Moment::read("yesterday").is_err());
    }

    #[test]
    fn decimals_are_the_same_without_zeros() {
        for (text, number) in [
            ("12.50", 12.5),
            ("-0.10", -0.1),
            ("0.00", 0.0),
            ("1000", 1000.0),
            ("-0", -0.0),
        ] {
            let (mut source, mut target) = (Vec::new(), Vec::new());
            canonical_source(&Kind::NumericExact, text.as_bytes(), &mut source).unwrap();
            canonical_target(&Kind::NumericExact, ValueRef::Real(number), &mut target).unwrap();
            assert_eq!(source, target, "{text}");
        }
        assert_ne!(
            decimal("1234567890123456.7891"),
            decimal(&digits("1234567890123456.7891".parse().unwrap()))
        );
    }

    #[test]
    fn intervals_are_durations() {
        round(
            &Kind::Interval,
            "1 year 2 mons -3 days +04:05:06.789",
            "P1Y2M-3DT4H5M6.789S",
        );
        round(
            &Kind::Interval,
            "-1 years -2 mons +3 days -00:00:00.5",
            "P-1Y-2M3DT-0.5S",
        );
        round(&Kind::Interval, "00:00:00", "PT0S");
        round(&Kind::Interval, "178000000 years", "P178000000Y");
        round(&Kind::Interval, "-100:00:01", "PT-100H-1S");
    }

    #[test]
    fn arrays_are_json() {
        let array = |kind| Kind::Array(Box::new(kind));
        round(&array(Kind::Integer), "{1,NULL,-3}", "[1,null,-3]");
        round(&array(Kind::Integer), "{}", "[]");
        round(&array(Kind::Integer), "{{1,2},{3,4}}", "[[1,2],[3,4]]");
        round(&array(Kind::Integer), "[0:1]={1,2}", "[1,2]");
        round(
            &array(Kind::Text),
            r#"{a,"b c",NULL,"NULL","",null1,"q\"u\\o","{x}","ä,😀"}"#,
            r#"["a","b c",null,"NULL","","null1","q\"u\\o","{x}","ä,😀"]"#,
        );
        round(&array(Kind::Bool), "{t,f,NULL}", "[true,false,null]");
        round(&array(Kind::Float), "{1.5,NaN,-Infinity}", r#"[1.5,"NaN","-Infinity"]"#);
        round(
            &array(Kind::Numeric),
            "{1234567890123456.7891}",
            r#"["1234567890123456.7891"]"#,
        );
        round(
            &array(Kind::Json),
            r#"{"{\"a\": [1, 2]}",NULL,3}"#,
            r#"[{"a": [1, 2]},null,3]"#,
        );
        round(
            &array(Kind::TimestampTz),
            r#"{"2020-01-02 03:04:05+00","0044-03-15 00:00:00+00 BC"}"#,
            r#"["2020-01-02T03:04:05.000000Z","-0043-03-15T00:00:00.000000Z"]"#,
        );
        round(
            &array(Kind::Interval),
            r#"{"10 mons 3 days",00:00:01}"#,
            r#"["P10M3D","PT1S"]"#,
        );
    }

    #[test]
    fn numbers_and_bytes() {
        assert_eq!(
            value(&Kind::Integer, b"-9223372036854775808").unwrap(),
            Value::Integer(i64::MIN)
        );
        assert!(value(&Kind::Integer, b"9223372036854775808").is_err());
        assert_eq!(
            value(&Kind::Float, b"-Infinity").unwrap(),
            Value::Real(f64::NEG_INFINITY)
        );
        assert_eq!(value(&Kind::Bytea, b"\\x00fF").unwrap(), Value::Blob(vec![0, 255]));
        assert!(value(&Kind::Bytea, b"abc").is_err());
        assert_eq!(text(&Kind::Numeric, "1234567890123456.7891"), "1234567890123456.7891");
        assert_eq!(text(&Kind::Char(5), "ab   "), "ab");
    }
}
