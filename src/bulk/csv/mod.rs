//! CSV files into a table.
//!
//! ```text
//! input.rs    the bytes of the file: byte order mark, quotes that stay open, numbers of lines
//! columns.rs  the columns of the table and their types; a field as a value of its column
//! types.rs    the types of a table that is to be created, by the values of the file
//! create.rs   that table, created as the job begins
//! whole.rs    a file in one transaction of the caller's
//! ```
//!
//! A bad line is a row of the source like any other, which the slice leaves out or refuses. So a resumed job counts the
//! same rows, and the first error of the file is the one that is reported.

mod columns;
mod create;
mod input;
mod types;
mod whole;

use std::collections::BTreeSet;
#[cfg(feature = "async")]
use std::future::Future;
use std::io::Read;
use std::panic::Location;

use csv::{ByteRecord, Reader, ReaderBuilder};
use rusqlite::ToSql;
use rusqlite::types::Value;

use self::columns::{Column, Field, OnExisting, Wanted};
use self::create::NewTable;
use self::input::Input;
pub use self::types::CsvTypes;
use super::row::{self, BulkRow};
use super::{Bulk, BulkJob, BulkReport, OnViolation, Resume, Source, Step, sealed};
use crate::error::{Error, Result};

/// The default of [`BulkCsv::max_line`].
const MAX_LINE: u64 = 64 << 20;

/// How the fields of a column are read. See [`BulkCsv::types`].
#[cfg_attr(docsrs, doc(cfg(feature = "csv")))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CsvType {
    /// A whole number of 64 bits.
    Integer,
    /// A decimal number. `inf` and `nan` are none.
    Real,
    /// An integer or a decimal number if it is one, and otherwise text.
    Numeric,
    /// Text in UTF-8, as it stands: `007` keeps its zeros.
    Text,
    /// The bytes of the field.
    Blob,
}

/// A CSV file that is loaded into a table, in slices beside other writes. Made by [`Bulk::csv`].
///
/// The first line is the header: each name in it is a column of the table, and each column that is `NOT NULL` and has no
/// default is in it. A field becomes a value of the type of its column, by its declared type or affinity: an `INTEGER`
/// column gets an integer, and a `TEXT` column keeps `007`. An empty field is NULL ([`nulls`](Self::nulls)).
///
/// A line is bad if it has another number of fields than the header, a value that is none of its column's type, text that
/// is not in UTF-8, or a quote that is not closed. A bad line fails the job, or is left out and reported
/// ([`on_bad_line`](Self::on_bad_line)). Errors and [`Violation`](super::Violation)s have the number of the line in the
/// file; a line whose fields contain line ends has that of its first.
///
/// Quotes, line ends in quotes, `\r\n`, and a byte order mark are understood. Empty lines are left out.
///
/// ```
/// use larder::Store;
///
/// let store = Store::open_temp()?;
/// store.write(|tx| tx.execute_batch("CREATE TABLE airports(code TEXT PRIMARY KEY, name TEXT NOT NULL, alt INTEGER) STRICT"))?;
///
/// let file = "code,name,alt\nEWR,Newark Liberty Intl,18\nLGA,\"La Guardia\",22\n";
/// let report = store.bulk().csv(file.as_bytes()).into("airports").run()?;
/// assert_eq!(report.rows, 2);
///
/// let bad = "code,name,alt\nJFK,John F Kennedy Intl,thirteen\n";
/// let error = store.bulk().csv(bad.as_bytes()).into("airports").run().unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "the bulk job stopped at line 2 (row 1 of its source) with 0 rows committed: column alt: \"thirteen\" is no INTEGER"
/// );
/// # Ok::<_, larder::Error>(())
/// ```
#[cfg_attr(docsrs, doc(cfg(feature = "csv")))]
#[must_use = "nothing is done before `run`"]
pub struct BulkCsv<R> {
    bulk: Bulk,
    /// Until the header is read.
    reader: Option<R>,
    opened: Option<Opened<R>>,
    size: Option<u64>,
    table: Option<String>,
    create: Option<String>,
    columns: Option<Vec<String>>,
    has_header: bool,
    renamed: Vec<(String, String)>,
    ignored: Vec<String>,
    types: Vec<(String, CsvType)>,
    nulls: Vec<Vec<u8>>,
    delimiter: u8,
    quote: Option<u8>,
    on_bad_line: OnViolation,
    on_existing: OnExisting,
    max_line: u64,
}

/// A file whose header is read.
struct Opened<R> {
    lines: Lines<R>,
    /// The names of all fields.
    names: Vec<String>,
}

impl Bulk {
    /// Loads a CSV file into a table: see [`BulkCsv`].
    ///
    /// `reader` is a file, the output of a process, a slice of bytes. It is read in large pieces, so it needs no
    /// `BufReader`, on the thread that calls [`run`](BulkCsv::run). No transaction is open while it blocks.
    ///
    /// A [resumable](Self::resumable) job counts the lines of the file, bad ones too, and goes on behind those of earlier
    /// runs: give it the same file, from its beginning. A last line without a line feed counts as a whole line: of a file
    /// that another program appends to, give the part up to its last line feed.
    #[cfg_attr(docsrs, doc(cfg(feature = "csv")))]
    pub fn csv<R: Read>(self, reader: R) -> BulkCsv<R> {
        BulkCsv {
            bulk: self,
            reader: Some(reader),
            opened: None,
            size: None,
            table: None,
            create: None,
            columns: None,
            has_header: true,
            renamed: Vec::new(),
            ignored: Vec::new(),
            types: Vec::new(),
            nulls: vec![Vec::new()],
            delimiter: b',',
            quote: Some(b'"'),
            on_bad_line: OnViolation::default(),
            on_existing: OnExisting::default(),
            max_line: MAX_LINE,
        }
    }
}

impl<R: Read> BulkCsv<R> {
    /// The table, in the main database: it exists already, or [`create_table`](Self::create_table) creates it. It must be
    /// given.
    pub fn into(mut self, table: impl Into<String>) -> Self {
        self.table = Some(table.into());
        self
    }

    /// Creates the table as the job begins, by this `CREATE TABLE` statement: one of your own, or that of
    /// [`CsvTypes::create_table`]. A table of that name that is there already is refused.
    ///
    /// A [resumable](Bulk::resumable) job notes in the same transaction that it has begun. So a later run of the same name
    /// and with the same statement knows the table for its own, and goes on behind the lines that are there, also after
    /// a kill in between. If the table was dropped since, it is created once more and loaded from the first line. A table
    /// whose definition is another one by then is refused.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// let file = b"carrier,name\n9E,Endeavor Air Inc.\nAA,American Airlines Inc.\n";
    /// let load = || {
    ///     let csv = store.bulk().resumable("airlines").csv(&file[..]).into("airlines");
    ///     csv.create_table("CREATE TABLE airlines(carrier TEXT PRIMARY KEY, name TEXT) STRICT").run()
    /// };
    /// assert_eq!(load()?.rows, 2);
    /// let again = load()?;
    /// assert_eq!((again.resumed_from, again.rows), (2, 0));
    /// # Ok::<_, larder::Error>(())
    /// ```
    pub fn create_table(mut self, statement: impl Into<String>) -> Self {
        self.create = Some(statement.into());
        self
    }

    /// The columns of the fields, in their order, in the place of the names in the header. Give
    /// [`has_header(false)`](Self::has_header), too, if the file has no header.
    pub fn columns<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.columns = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// Whether the first line is a header. The default is `true`. A file without one needs [`columns`](Self::columns).
    pub fn has_header(mut self, has_header: bool) -> Self {
        self.has_header = has_header;
        self
    }

    /// The field with this name in the header is for that column.
    pub fn rename(mut self, field: impl Into<String>, column: impl Into<String>) -> Self {
        self.renamed.push((field.into(), column.into()));
        self
    }

    /// Leaves out the fields with these names.
    pub fn ignore<N: Into<String>>(mut self, fields: impl IntoIterator<Item = N>) -> Self {
        self.ignored.extend(fields.into_iter().map(Into::into));
        self
    }

    /// How the fields of these columns are read, in the place of the types of the table: `Text` for a column of integers
    /// that may contain words, for example.
    pub fn types<N: Into<String>>(mut self, types: impl IntoIterator<Item = (N, CsvType)>) -> Self {
        self.types
            .extend(types.into_iter().map(|(name, kind)| (name.into(), kind)));
        self
    }

    /// The fields that are NULL, exactly as they stand. The default is the empty field, in quotes or not. With
    /// `["", "NA"]` it is `NA`, too; with `["NA"]` an empty field is an empty text, and a bad line in a column of numbers.
    pub fn nulls<N: Into<Vec<u8>>>(mut self, fields: impl IntoIterator<Item = N>) -> Self {
        self.nulls = fields.into_iter().map(Into::into).collect();
        self
    }

    /// The byte between two fields. The default is a comma.
    pub fn delimiter(mut self, delimiter: u8) -> Self {
        self.delimiter = delimiter;
        self
    }

    /// The byte around fields that contain delimiters and line ends; doubled inside of them, it stands for itself. The
    /// default is `"`. With `None` no byte has that meaning.
    pub fn quote(mut self, quote: Option<u8>) -> Self {
        self.quote = quote;
        self
    }

    /// What the job does with a bad line. The default is [`OnViolation::Fail`]. For rows that violate a constraint, see
    /// [`Bulk::on_violation`].
    pub fn on_bad_line(mut self, policy: OnViolation) -> Self {
        self.on_bad_line = policy;
        self
    }

    /// Updates the row with the same primary key, if there is one: the columns of the file get its values, and all else
    /// stays, rows of other tables that refer to it, too (`ON CONFLICT .. DO UPDATE`).
    pub fn upsert(mut self) -> Self {
        self.on_existing = OnExisting::Update;
        self
    }

    /// Leaves out a line if its primary key, or another value that must be unique, is in the table already
    /// (`ON CONFLICT DO NOTHING`). [`BulkReport::unchanged`] counts these lines. It takes the place of
    /// [`upsert`](Self::upsert).
    pub fn keep_existing(mut self) -> Self {
        self.on_existing = OnExisting::Keep;
        self
    }

    /// The size of the file in bytes, for [`BulkProgress::eta`](super::BulkProgress::eta).
    pub fn size(mut self, bytes: u64) -> Self {
        self.size = Some(bytes);
        self
    }

    /// The largest line, in bytes, about: 64 MiB by default. A quote that is never closed makes one line of the rest of the
    /// file, and it is held in memory. A longer line fails the job.
    pub fn max_line(mut self, bytes: u64) -> Self {
        self.max_line = bytes;
        self
    }

    /// Reads the header, and returns the columns that get a field: renamed, and without those that are ignored. Give
    /// [`delimiter`](Self::delimiter), [`quote`](Self::quote), [`columns`](Self::columns),
    /// [`has_header`](Self::has_header) and [`max_line`](Self::max_line) before it.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// let mut csv = store.bulk().csv(&b"faa,name,tz\n04G,Lansdowne Airport,-5\n"[..]).rename("faa", "code").ignore(["tz"]);
    /// assert_eq!(csv.header()?, ["code", "name"]);
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Csv`]: the header cannot be read, has a name twice or an empty one, or lacks a name that is renamed or
    /// ignored. [`Error::Options`]: a file without a header needs [`columns`](Self::columns).
    pub fn header(&mut self) -> Result<Vec<String>> {
        Ok(self.fields()?.into_iter().map(|field| field.name).collect())
    }

    fn fields(&mut self) -> Result<Vec<Field>> {
        let names = self.open()?.names.clone();
        fields(names, &self.renamed, &self.ignored)
    }

    /// Reads the whole file, and returns the narrowest type of each column: see [`CsvTypes`]. Nothing is written. Lines with
    /// another number of fields than the header are left out.
    ///
    /// ```
    /// # let store = larder::Store::open_temp()?;
    /// let file = b"faa,lat,alt\n04G,41.13,1044\n06A,32.46,NA\n";
    /// let types = store.bulk().csv(&file[..]).nulls(["", "NA"]).infer()?;
    /// let create = types.create_table("airports");
    /// assert_eq!(create, r#"CREATE TABLE "airports"("faa" TEXT, "lat" REAL, "alt" INTEGER) STRICT"#);
    /// store.write(move |tx| tx.execute_batch(&create))?;
    /// let report = store.bulk().csv(&file[..]).nulls(["", "NA"]).into("airports").run()?;
    /// assert_eq!(report.rows, 2);
    /// # Ok::<_, larder::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`header`](Self::header), and [`Error::Csv`] if the file cannot be read to its end.
    pub fn infer(mut self) -> Result<CsvTypes> {
        let fields = self.fields()?;
        let mut types = CsvTypes::new(fields.iter().map(|field| field.name.clone()).collect());
        let nulls = std::mem::take(&mut self.nulls);
        let lines = &mut self.open()?.lines;
        while lines.read()? {
            if lines.is_whole() {
                let values = fields.iter().map(|field| &lines.record[field.at]);
                types.look(values, &nulls);
            }
        }
        Ok(types)
    }

    /// Loads the file, and blocks until it is done.
    ///
    /// # Errors
    ///
    /// - [`Error::Csv`]: the header does not fit the table, or cannot be read, or the table that is to be
    ///   [created](Self::create_table) is there already. Nothing was written.
    /// - [`Error::Bulk`]: a line failed the job. It has the number of the line, how many rows are committed, and the reason:
    ///   [`Error::Csv`] for a bad line, otherwise see [`BulkJob::run`].
    /// - [`Error::Options`]: [`into`](Self::into) is missing, or the errors of [`BulkJob::run`].
    ///
    /// # Panics
    ///
    /// If the reader or the progress callback panics.
    #[track_caller]
    pub fn run(self) -> Result<BulkReport> {
        let caller = Location::caller();
        self.job()?.run_at(caller)
    }

    /// Looks up the table in a snapshot, or creates it.
    fn job(self) -> Result<BulkJob<Lines<R>>> {
        self.bulk.check()?;
        let Prepared {
            bulk,
            mut lines,
            wanted,
            create,
        } = self.prepare()?;
        let target = match create {
            None => bulk.store.read(|tx| wanted.find(tx))?,
            Some(new) => {
                bulk.check_name()?;
                let job = bulk.name.clone();
                bulk.store.write(move |tx| new.create(tx, &wanted, job.as_deref()))?
            }
        };
        lines.columns = target.columns;
        Ok(bulk.job(target.sql, lines))
    }

    /// Reads the header.
    fn open(&mut self) -> Result<&mut Opened<R>> {
        if let Some(reader) = self.reader.take() {
            if !self.has_header && self.columns.is_none() {
                return Err(missing(
                    "BulkCsv::columns",
                    "a file without a header needs the names of its columns",
                ));
            }
            let mut lines = Lines {
                reader: ReaderBuilder::new()
                    .delimiter(self.delimiter)
                    .quote(self.quote.unwrap_or(b'"'))
                    .quoting(self.quote.is_some())
                    .has_headers(false)
                    // A line of another length is a bad line, and not the end.
                    .flexible(true)
                    .from_reader(Input::new(reader, self.max_line)),
                record: ByteRecord::new(),
                line: 1,
                count: 0,
                size: None,
                has_open_quote: false,
                width: 0,
                columns: Vec::new(),
                nulls: Vec::new(),
                on_bad_line: OnViolation::default(),
            };
            let names = lines.names(self.has_header, self.columns.take())?;
            lines.width = names.len();
            self.opened = Some(Opened { lines, names });
        }
        let opened = self.opened.as_mut();
        opened.ok_or_else(|| refused("the header of this file was not read".into()))
    }

    /// Reads the header, if it is not read yet.
    fn prepare(mut self) -> Result<Prepared<R>> {
        let table = self
            .table
            .take()
            .ok_or_else(|| missing("BulkCsv::into", "give the table of the rows"))?;
        self.open()?;
        let opened = self.opened.take();
        let Opened { mut lines, names } =
            opened.ok_or_else(|| refused("the header of this file was not read".into()))?;
        lines.nulls = self.nulls;
        lines.on_bad_line = self.on_bad_line;
        lines.size = self.size;
        let create = self.create.map(|statement| NewTable::new(&table, statement));
        Ok(Prepared {
            bulk: self.bulk,
            lines,
            create,
            wanted: Wanted {
                table,
                fields: fields(names, &self.renamed, &self.ignored)?,
                types: self.types,
                on_existing: self.on_existing,
            },
        })
    }
}

/// A file whose header is read, and what is to be done with it.
struct Prepared<R> {
    bulk: Bulk,
    lines: Lines<R>,
    wanted: Wanted,
    create: Option<NewTable>,
}

#[cfg(feature = "async")]
impl<R: Read + Send + 'static> BulkCsv<R> {
    /// As [`run`](Self::run), but on threads of its own: see [`BulkJob::run_async`].
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run).
    #[cfg_attr(docsrs, doc(cfg(all(feature = "async", feature = "csv"))))]
    #[track_caller]
    pub fn run_async(self) -> impl Future<Output = Result<BulkReport>> + Send + use<R> {
        let caller = Location::caller();
        let cancel = self.bulk.cancelled_by();
        super::futures::on_a_thread(cancel, move || self.job()?.run_apart(caller))
    }
}

fn missing(option: &'static str, problem: &str) -> Error {
    Error::Options {
        option,
        problem: problem.into(),
    }
}

fn refused(problem: String) -> Error {
    Error::Csv { problem, source: None }
}

/// The fields that are loaded.
fn fields(names: Vec<String>, renamed: &[(String, String)], ignored: &[String]) -> Result<Vec<Field>> {
    let given = renamed.iter().map(|(name, _)| name).chain(ignored);
    if let Some(missing) = given.clone().find(|name| !names.contains(name)) {
        return Err(refused(format!(
            "there is no field {missing:?}; the fields are {}",
            names.join(", ")
        )));
    }
    let mut seen = BTreeSet::new();
    let mut fields = Vec::new();
    for (at, name) in names.iter().enumerate().filter(|(_, name)| !ignored.contains(name)) {
        if name.is_empty() {
            return Err(refused(format!(
                "field {} of the header has no name: give BulkCsv::columns",
                at + 1
            )));
        }
        if !seen.insert(name) {
            return Err(refused(format!("the header has {name:?} twice: give BulkCsv::columns")));
        }
        let other = renamed.iter().find(|(from, _)| from == name);
        fields.push(Field {
            at,
            name: other.map_or(name, |(_, to)| to).clone(),
        });
    }
    if fields.is_empty() {
        return Err(refused("all fields are left out: see BulkCsv::ignore".into()));
    }
    Ok(fields)
}

/// The lines of a file as a source.
pub(super) struct Lines<R> {
    reader: Reader<Input<R>>,
    record: ByteRecord,
    /// The number of the line that was read.
    line: u64,
    /// How many lines were read, without the header.
    count: u64,
    /// The size of the file, if it is known.
    size: Option<u64>,
    has_open_quote: bool,
    /// Number of fields in a line.
    width: usize,
    columns: Vec<Column>,
    nulls: Vec<Vec<u8>>,
    on_bad_line: OnViolation,
}

/// A line of the file.
pub(super) struct Line {
    number: u64,
    values: Result<Vec<Value>, String>,
    on_bad_line: OnViolation,
}

impl BulkRow for Line {
    fn with_values<T>(&self, f: impl FnOnce(&[&dyn ToSql]) -> T) -> T {
        let values = self.values.as_ref().map_or(&[] as &[Value], Vec::as_slice);
        let values: Vec<&dyn ToSql> = values.iter().map(|value| value as &dyn ToSql).collect();
        f(&values)
    }

    fn line(&self) -> Option<u64> {
        Some(self.number)
    }

    fn problem(&self) -> Option<(&str, OnViolation)> {
        let problem = self.values.as_ref().err()?;
        Some((problem, self.on_bad_line))
    }
}

impl<R: Read> Lines<R> {
    /// The names of the fields.
    fn names(&mut self, has_header: bool, given: Option<Vec<String>>) -> Result<Vec<String>> {
        if !has_header {
            return Ok(given.unwrap_or_default());
        }
        let is_there = self.read()?;
        self.count = 0;
        if !is_there {
            return Err(refused(
                "the file is empty: it lacks the header with the names of the columns".into(),
            ));
        }
        if self.has_open_quote {
            return Err(refused(
                "the header has a quote that is not closed until the end of the file".into(),
            ));
        }
        if let Some(given) = given {
            if given.len() != self.record.len() {
                return Err(refused(format!(
                    "{} columns are given (BulkCsv::columns), and the header has {} fields",
                    given.len(),
                    self.record.len()
                )));
            }
            return Ok(given);
        }
        let name = |field: &[u8]| {
            let text = std::str::from_utf8(field);
            let text = text.map_err(|_| refused("the header is not in UTF-8: convert the file, with iconv".into()))?;
            if text.contains('\0') {
                return Err(refused(
                    "the header contains a NUL byte: the file is no text in UTF-8; if it is in UTF-16, convert it, with iconv"
                        .into(),
                ));
            }
            Ok(text.trim().to_owned())
        };
        self.record.iter().map(name).collect()
    }

    /// Reads a line. Returns false at the end.
    fn read(&mut self) -> Result<bool> {
        let begin = self.reader.position().byte();
        self.reader.get_mut().begin_record(begin);
        let read = self.reader.read_byte_record(&mut self.record);
        let is_there = read.map_err(|error| self.unreadable(error))?;
        if is_there {
            let position = self.reader.position();
            let input = self.reader.get_ref();
            self.has_open_quote = input.has_open_quote(position.byte());
            let inside = self.record.as_slice().iter().filter(|byte| **byte == b'\n').count() as u64;
            let ended = !self.has_open_quote && input.ends_with_line_feed(position.byte());
            self.line = position.line() - inside - u64::from(ended);
            self.count += 1;
        }
        Ok(is_there)
    }

    fn unreadable(&self, error: csv::Error) -> Error {
        let line = self.reader.position().line();
        if self.reader.get_ref().is_too_long() {
            return refused(format!(
                "a line that ends after line {} is too long: a quote may not be closed; otherwise raise BulkCsv::max_line",
                line - 1
            ));
        }
        let after = match line {
            1 => String::new(),
            line => format!(" after line {}", line - 1),
        };
        Error::Csv {
            problem: format!("the file cannot be read{after}: {error}"),
            source: Some(Box::new(error)),
        }
    }

    /// Whether the line has as many fields as the header.
    fn is_whole(&self) -> bool {
        !self.has_open_quote && self.record.len() == self.width
    }

    /// The line that was read, as a row.
    fn row(&self) -> Line {
        Line {
            number: self.line,
            values: self.values(),
            on_bad_line: self.on_bad_line,
        }
    }

    /// How many lines are left, by the size of those that were read.
    fn lines_left(&self) -> Option<u64> {
        let read = self.reader.position().byte();
        let rest = u128::from(self.size?.checked_sub(read)?);
        if self.count == 0 {
            return None;
        }
        let left = (u128::from(self.count) * rest).checked_div(u128::from(read))?;
        u64::try_from(left).ok()
    }

    /// The values of the line, or what is wrong with it.
    fn values(&self) -> Result<Vec<Value>, String> {
        if self.has_open_quote {
            return Err("a quote of this line is not closed until the end of the file".into());
        }
        if self.record.len() != self.width {
            return Err(format!(
                "the number of its fields is {}, and that of the header {}",
                self.record.len(),
                self.width
            ));
        }
        self.columns
            .iter()
            .map(|column| column.value(&self.record[column.at()], &self.nulls))
            .collect()
    }
}

impl<R> sealed::Sealed for Lines<R> {}

impl<R: Read> Source for Lines<R> {
    type Row = Line;

    fn next(&mut self, _is_committed: bool) -> Result<Step<Line>> {
        if !self.read()? {
            return Ok(Step::End);
        }
        let row = self.row();
        let bytes = row::bytes(&row);
        Ok(Step::Row(row, bytes))
    }

    fn left(&self) -> Option<u64> {
        self.lines_left()
    }

    fn resume(&mut self, done: Resume, is_over: &dyn Fn() -> bool) -> Result<()> {
        for at in 0..done.rows {
            if is_over() {
                return Ok(());
            }
            if !self.read()? {
                return Err(refused(format!(
                    "earlier runs have read {} lines behind the header, and this file has {at}: it is another file, and \
                     Bulk::forget lets the job begin from the first line",
                    done.rows
                )));
            }
        }
        Ok(())
    }
}
