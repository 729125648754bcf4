//! `larder sql`.
//!
//! The rows are read, then the snapshot ends, then they are printed: a pager that waits for its user must not keep the
//! log of a running service from its restart.

use std::io::{self, Write};
use std::time::Duration;

use larder::ReadOptions;
use larder::rusqlite::types::ValueRef;
use serde::Serialize;
use serde_json::{Number, Value, json};

use crate::args::SqlArgs;
use crate::failure::{Failure, Result, Verdict};
use crate::output::{Output, plain};

#[derive(Default, Serialize)]
struct Rows {
    columns: Vec<String>,
    rows: Vec<Vec<Value>>,
    /// Whether there are more than the limit.
    truncated: bool,
}

pub(crate) fn sql(args: &SqlArgs, output: &Output) -> Result<Verdict> {
    let sql = match args.sql.as_str() {
        "-" => io::read_to_string(io::stdin()).map_err(|error| Failure::io("stdin cannot be read", error))?,
        sql => sql.to_owned(),
    };
    if sql.trim().is_empty() {
        return Err(Failure::Usage("the statement is empty".into()));
    }
    let store = args.database.open_to_read()?;
    let limit = args.limit;
    let options = ReadOptions::new().execution_timeout(args.timeout.max(Duration::from_millis(1)));
    let rows = store.read_with(options, |tx| {
        let mut statement = tx.prepare(&sql)?;
        let columns: Vec<String> = statement.column_names().into_iter().map(str::to_owned).collect();
        let width = columns.len();
        let mut found = Rows {
            columns,
            ..Rows::default()
        };
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            if found.rows.len() == limit {
                found.truncated = true;
                break;
            }
            let values = (0..width).map(|column| Ok(value(row.get_ref(column)?)));
            found.rows.push(values.collect::<larder::Result<_>>()?);
        }
        Ok(found)
    })?;
    output.result(&rows, |to| match args.csv {
        true => csv(to, &rows),
        false => table(to, &rows),
    })?;
    if rows.truncated {
        output.note(&format!("there are more than {limit} rows: raise --limit to see them"));
    }
    Ok(Verdict::Sound)
}

/// Text that is no UTF-8, and blobs, are hexadecimal digits.
fn value(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => number.into(),
        ValueRef::Real(number) => match Number::from_f64(number) {
            Some(number) => Value::Number(number),
            None if number > 0.0 => "Infinity".into(),
            None => "-Infinity".into(),
        },
        ValueRef::Text(text) => match std::str::from_utf8(text) {
            Ok(text) => text.into(),
            Err(_) => hex(text),
        },
        ValueRef::Blob(blob) => hex(blob),
    }
}

fn hex(bytes: &[u8]) -> Value {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    json!({ "hex": digits })
}

/// The text of a value; `null` is that of NULL.
fn text(value: &Value, null: &str) -> String {
    match value {
        Value::Null => null.to_owned(),
        Value::String(text) => text.clone(),
        Value::Object(object) => match object.get("hex").and_then(Value::as_str) {
            Some(digits) => format!("x'{digits}'"),
            None => value.to_string(),
        },
        value => value.to_string(),
    }
}

fn csv(to: &mut dyn Write, rows: &Rows) -> io::Result<()> {
    let mut to = csv::Writer::from_writer(to);
    to.write_record(&rows.columns).map_err(of_stream)?;
    for row in &rows.rows {
        to.write_record(row.iter().map(|value| text(value, "")))
            .map_err(of_stream)?;
    }
    to.flush()
}

/// The error of the stream itself, whose kind tells a broken pipe.
fn of_stream(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}

fn table(to: &mut dyn Write, rows: &Rows) -> io::Result<()> {
    let head: Vec<String> = rows.columns.iter().map(|column| plain(column)).collect();
    let cells: Vec<Vec<String>> = rows
        .rows
        .iter()
        .map(|row| row.iter().map(|value| plain(&text(value, "NULL"))).collect())
        .collect();
    let width_of = |column: usize| {
        let lines = cells.iter().map(|row| &row[column]).chain([&head[column]]);
        lines.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width_of).collect();
    let numbers: Vec<bool> = (0..head.len())
        .map(|column| {
            rows.rows
                .iter()
                .all(|row| row[column].is_number() || row[column].is_null())
        })
        .collect();
    let mut line = |cells: &[String]| {
        let mut line = String::new();
        for (column, cell) in cells.iter().enumerate() {
            let gap = if column > 0 { "  " } else { "" };
            let width = widths[column];
            line += &match numbers[column] {
                true => format!("{gap}{cell:>width$}"),
                false => format!("{gap}{cell:width$}"),
            };
        }
        writeln!(to, "{}", line.trim_end())
    };
    line(&head)?;
    line(&widths.iter().map(|width| "-".repeat(*width)).collect::<Vec<_>>())?;
    cells.iter().try_for_each(|row| line(row))
}
