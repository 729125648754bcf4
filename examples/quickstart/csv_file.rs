//! A CSV file: its table, its columns and their types, and its rows as SQLite's values.
//!
//! The file is read twice. The first pass determines each column's type, which needs all of its values: a code that is
//! a number in a million lines may be `7B` in the next.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use csv::{Position, ReaderBuilder, StringRecord};
use indicatif::ProgressBarIter;
use larder::rusqlite::types::Value;

use crate::failure::{Context, Result};
use crate::load;
use crate::progress;

/// A file that passed the first read.
pub(crate) struct CsvFile {
    path: PathBuf,
    /// The table to create.
    pub(crate) table: String,
    pub(crate) columns: Vec<Column>,
}

pub(crate) struct Column {
    pub(crate) name: String,
    kind: Kind,
}

/// The types of a STRICT table that text can be parsed as.
#[derive(Clone, Copy)]
enum Kind {
    Integer,
    Real,
    Text,
}

/// Reads all files for the first time.
pub(crate) fn examine_all(paths: &[PathBuf]) -> Result<Vec<CsvFile>> {
    let files: Vec<_> = paths.iter().map(|path| CsvFile::examine(path)).collect::<Result<_>>()?;
    check_names(&files)?;
    Ok(files)
}

impl CsvFile {
    fn examine(path: &Path) -> Result<Self> {
        let table = table_name(path)?;
        let mut reader = open(path, "examining")?;
        let header = header(path, &mut reader)?;
        let mut guesses = vec![Guess::default(); header.len()];
        each_record(path, &mut reader, |record| {
            guesses
                .iter_mut()
                .zip(record)
                .for_each(|(guess, text)| guess.look_at(text));
            Ok(())
        })?;
        let columns = header.iter().zip(guesses).map(|(name, guess)| Column {
            name: name.into(),
            kind: guess.kind(),
        });
        Ok(Self {
            path: path.into(),
            table,
            columns: columns.collect(),
        })
    }

    /// Reads the file again, for its rows.
    pub(crate) fn each_row(&self, mut f: impl FnMut(Vec<Value>) -> Result<()>) -> Result<()> {
        let mut reader = open(&self.path, "loading")?;
        header(&self.path, &mut reader)?;
        each_record(&self.path, &mut reader, |record| {
            let values = self
                .columns
                .iter()
                .zip(record)
                .map(|(column, text)| column.kind.value(text));
            match values.collect::<Option<Vec<_>>>() {
                Some(row) if row.len() == self.columns.len() => f(row),
                _ => Err(format!("{}: it was changed meanwhile", place(&self.path, record.position())).into()),
            }
        })
    }
}

impl Column {
    /// The type's name in SQL.
    pub(crate) fn sql_type(&self) -> &'static str {
        match self.kind {
            Kind::Integer => "INTEGER",
            Kind::Real => "REAL",
            Kind::Text => "TEXT",
        }
    }
}

impl Kind {
    /// `None` if the text is not of this kind.
    fn value(self, text: &str) -> Option<Value> {
        if is_null(text) {
            return Some(Value::Null);
        }
        match self {
            Kind::Integer => text.parse().ok().map(Value::Integer),
            Kind::Real => text.parse().ok().map(Value::Real),
            Kind::Text => Some(Value::Text(text.into())),
        }
    }
}

/// The values of a column so far.
#[derive(Clone, Default)]
struct Guess {
    some: bool,
    not_integer: bool,
    not_real: bool,
}

impl Guess {
    fn look_at(&mut self, text: &str) {
        if is_null(text) {
            return;
        }
        self.some = true;
        self.not_integer |= !is_integer(text);
        self.not_real |= !is_real(text);
    }

    fn kind(&self) -> Kind {
        match self {
            Guess { some: false, .. } => Kind::Text,
            Guess { not_integer: false, .. } => Kind::Integer,
            Guess { not_real: false, .. } => Kind::Real,
            _ => Kind::Text,
        }
    }
}

fn is_null(text: &str) -> bool {
    text.is_empty() || text == "NA"
}

fn is_integer(text: &str) -> bool {
    is_plain(text) && text.parse::<i64>().is_ok()
}

fn is_real(text: &str) -> bool {
    // A whole number that a double cannot hold is an identifier, which must not be rounded.
    let whole = text
        .strip_prefix('-')
        .unwrap_or(text)
        .bytes()
        .all(|byte| byte.is_ascii_digit());
    let held = !whole || text.parse::<i64>().is_ok_and(|number| number.unsigned_abs() <= 1 << 53);
    is_plain(text) && held && text.parse().is_ok_and(f64::is_finite)
}

/// Excludes `+1` and `007`: telephone numbers, postcodes, and other digits that are not numbers.
fn is_plain(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text).as_bytes();
    !matches!(digits, [b'+', ..] | [b'0', b'0'..=b'9', ..])
}

type Reader = csv::Reader<ProgressBarIter<File>>;

fn open(path: &Path, doing: &str) -> Result<Reader> {
    let cannot = || format!("cannot read {}", path.display());
    let metadata = fs::metadata(path).context(cannot)?;
    if !metadata.is_file() {
        return Err("it is not a regular file, and it has to be read twice").context(cannot);
    }
    let file = File::open(path).context(cannot)?;
    let progress = progress::of_bytes(format!("{doing} {}", path.display()), metadata.len());
    Ok(ReaderBuilder::new()
        .buffer_capacity(64 * 1024)
        .from_reader(progress.wrap_read(file)))
}

/// The names of the columns.
fn header(path: &Path, reader: &mut Reader) -> Result<StringRecord> {
    let header = reader.headers().map_err(|error| explain(path, error))?.clone();
    if header.is_empty() {
        return Err(format!("{} is empty: {NAME_COLUMNS}", path.display()).into());
    }
    match problem_of_header(&header) {
        Some(problem) => Err(format!("{}: {problem}", place(path, header.position())).into()),
        None => Ok(header),
    }
}

const NAME_COLUMNS: &str = "the first line must name the columns";

fn problem_of_header(header: &StringRecord) -> Option<String> {
    if let Some(nameless) = header.iter().position(|name| name.trim().is_empty()) {
        return Some(format!("column {} has no name, and {NAME_COLUMNS}", nameless + 1));
    }
    if header.iter().all(|name| name.parse::<f64>().is_ok()) {
        return Some(format!("there are only numbers, and {NAME_COLUMNS}"));
    }
    // SQLite compares names as this does: ASCII letters without regard to case.
    let twice = header
        .iter()
        .enumerate()
        .find(|(index, name)| header.iter().take(*index).any(|other| other.eq_ignore_ascii_case(name)));
    twice.map(|(index, name)| format!("column {} is the second that is named `{name}`", index + 1))
}

fn each_record(path: &Path, reader: &mut Reader, mut f: impl FnMut(&StringRecord) -> Result<()>) -> Result<()> {
    let mut record = StringRecord::new();
    while reader.read_record(&mut record).map_err(|error| explain(path, error))? {
        f(&record)?;
    }
    Ok(())
}

/// Adds the file to an error of the `csv` crate, and names lines.
fn explain(path: &Path, error: csv::Error) -> String {
    let place = place(path, error.position());
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{place}: the number of fields is {len}, but {expected_len} in the header")
        }
        csv::ErrorKind::Utf8 { err, .. } => format!("{place}: field {} is not UTF-8", err.field() + 1),
        _ => format!("{place}: {error}"),
    }
}

fn place(path: &Path, position: Option<&Position>) -> String {
    match position {
        Some(position) => {
            let line = first_line(path, position).unwrap_or(position.line());
            format!("{}, line {line}", path.display())
        }
        None => path.display().to_string(),
    }
}

/// The line on which a record begins. The `csv` crate's position is the end of the previous record: before the `\n` of
/// a `\r\n`, and before empty lines.
fn first_line(path: &Path, position: &Position) -> io::Result<u64> {
    let mut line = 1;
    for (offset, byte) in (0..).zip(BufReader::new(File::open(path)?).bytes()) {
        let byte = byte?;
        if offset >= position.byte() && !matches!(byte, b'\r' | b'\n') {
            break;
        }
        line += u64::from(byte == b'\n');
    }
    Ok(line)
}

fn table_name(path: &Path) -> Result<String> {
    match path.file_stem().map(|stem| stem.to_str()) {
        Some(Some(name)) => Ok(name.into()),
        Some(None) => Err(format!("{}: its name, which the table gets, is not UTF-8", path.display()).into()),
        None => Err(format!("{}: it is a folder", path.display()).into()),
    }
}

/// Refuses names that no table can have, and two files with the same name.
fn check_names(files: &[CsvFile]) -> Result<()> {
    for (index, file) in files.iter().enumerate() {
        let (path, table) = (file.path.display(), &file.table);
        if table.eq_ignore_ascii_case(load::TABLE) || table.to_ascii_lowercase().starts_with("sqlite_") {
            return Err(format!("{path}: the table name `{table}` is reserved, so rename the file").into());
        }
        if let Some(other) = files[..index]
            .iter()
            .find(|other| other.table.eq_ignore_ascii_case(table))
        {
            let other = other.path.display();
            return Err(format!("{other} and {path} would be the same table, so rename one").into());
        }
    }
    Ok(())
}
