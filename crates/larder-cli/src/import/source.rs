//! A CSV file or stdin: its header, its lines.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use csv::{ByteRecord, ErrorKind, Reader, ReaderBuilder};

use crate::args::ImportArgs;
use crate::failure::{Failure, Result};

pub(crate) fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

pub(crate) fn display(path: &Path) -> String {
    match is_stdin(path) {
        true => "stdin".to_owned(),
        false => path.display().to_string(),
    }
}

pub(crate) struct Source {
    path: PathBuf,
    reader: Reader<Padded>,
    header: Vec<String>,
    record: ByteRecord,
    /// Lines that were read before it was their turn.
    ahead: VecDeque<ByteRecord>,
    /// Where the line begins in which a quote is open at the end of the file.
    open_quote: Option<u64>,
}

/// A file with two more line ends. The reader leaves out empty lines, but in a field in quotes: a line that takes both of
/// them has a quote that is open.
struct Padded {
    from: Box<dyn Read + Send>,
    length: u64,
    is_at_end: bool,
    left: usize,
}

const PADDING: &[u8] = b"\n\n";

impl Padded {
    fn new(from: Box<dyn Read + Send>) -> Self {
        Self {
            from,
            length: 0,
            is_at_end: false,
            left: PADDING.len(),
        }
    }

    /// Whether what was read up to this position has taken all of the padding.
    fn is_taken_at(&self, position: u64) -> bool {
        self.is_at_end && position >= self.length + PADDING.len() as u64
    }
}

impl Read for Padded {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if !self.is_at_end {
            let read = self.from.read(to)?;
            self.length += read as u64;
            self.is_at_end = read == 0 && !to.is_empty();
            if !self.is_at_end {
                return Ok(read);
            }
        }
        let read = self.left.min(to.len());
        to[..read].copy_from_slice(&PADDING[..read]);
        self.left -= read;
        Ok(read)
    }
}

/// A field of the file, and the name of the column that it is for.
pub(crate) struct Named {
    pub(crate) field: usize,
    pub(crate) name: String,
}

impl Source {
    pub(crate) fn open(path: &Path, args: &ImportArgs) -> Result<Self> {
        let name = display(path);
        let from: Box<dyn Read + Send> = if is_stdin(path) {
            Box::new(io::stdin())
        } else {
            let file = File::open(path).map_err(|error| Failure::io(format!("{name} cannot be read"), error))?;
            if file.metadata().is_ok_and(|file| file.is_dir()) {
                return Err(Failure::Other(format!("{name} is a folder: give the files in it")));
            }
            Box::new(file)
        };
        let mut reader = ReaderBuilder::new()
            .delimiter(args.delimiter)
            .has_headers(args.header.is_empty())
            // A line of another length is a bad line, and not the end.
            .flexible(true)
            .from_reader(Padded::new(from));
        let header = if args.header.is_empty() {
            let header = reader.byte_headers().map_err(|error| unreadable(&name, error))?.clone();
            if !header.is_empty() && reader.get_ref().is_taken_at(reader.position().byte()) {
                return Err(Failure::Other(format!(
                    "{name}: the header has a quote that is not closed until the end of the file"
                )));
            }
            names(&header, &name)?
        } else {
            args.header.clone()
        };
        if header.iter().all(String::is_empty) {
            return Err(Failure::Other(format!(
                "{name} is empty: it lacks the header with the names of the columns"
            )));
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = header.iter().find(|column| !seen.insert(*column)) {
            return Err(Failure::Other(format!("{name}: the header has {twice:?} twice")));
        }
        Ok(Self {
            path: path.to_owned(),
            reader,
            header,
            record: ByteRecord::new(),
            ahead: VecDeque::new(),
            open_quote: None,
        })
    }

    pub(crate) fn name(&self) -> &Path {
        &self.path
    }

    /// The fields that are imported, with the names of their columns.
    pub(crate) fn mapped(&self, map: &[(String, String)], skip: &[String]) -> Result<Vec<Named>> {
        let named = map.iter().map(|(name, _)| name).chain(skip);
        if let Some(missing) = named.clone().find(|name| !self.header.contains(name)) {
            return Err(Failure::Other(format!(
                "{}: the header has no {missing:?}; it has {}",
                display(&self.path),
                self.header.join(", ")
            )));
        }
        let kept = self.header.iter().enumerate().filter(|(_, name)| !skip.contains(name));
        if kept.clone().next().is_none() {
            return Err(Failure::Usage(format!(
                "{}: no column is left: --skip has all names of the header",
                display(&self.path)
            )));
        }
        let column = |name: &String| {
            let given = map.iter().find(|(from, _)| from == name);
            given.map_or(name, |(_, to)| to).clone()
        };
        Ok(kept
            .map(|(field, name)| Named {
                field,
                name: column(name),
            })
            .collect())
    }

    /// Reads lines until so many wait, none is left, or it is to stop. Returns how many wait.
    pub(crate) fn read_ahead(&mut self, lines: u64, stop: impl Fn() -> bool) -> Result<u64> {
        while (self.ahead.len() as u64) < lines && !stop() {
            let mut record = ByteRecord::new();
            if !self.read_into(&mut record)? {
                break;
            }
            self.ahead.push_back(record);
        }
        Ok(self.ahead.len() as u64)
    }

    /// Goes on to the next line. Returns `false` at the end.
    pub(crate) fn next(&mut self) -> Result<bool> {
        if let Some(record) = self.ahead.pop_front() {
            self.record = record;
            return Ok(true);
        }
        let mut record = std::mem::take(&mut self.record);
        let read = self.read_into(&mut record);
        self.record = record;
        read
    }

    fn read_into(&mut self, record: &mut ByteRecord) -> Result<bool> {
        let read = self.reader.read_byte_record(record);
        let read = read.map_err(|error| unreadable(&display(&self.path), error))?;
        if read && self.reader.get_ref().is_taken_at(self.reader.position().byte()) {
            self.open_quote = record.position().map(csv::Position::byte);
        }
        Ok(read)
    }

    /// The number of the line that was read, from 1. It is that of its first line, if a field has several.
    pub(crate) fn line(&self) -> u64 {
        self.record.position().map_or(0, csv::Position::line)
    }

    /// The fields of the line, or what is wrong with them.
    pub(crate) fn fields(&self) -> std::result::Result<&ByteRecord, String> {
        if self.open_quote.is_some() && self.open_quote == self.record.position().map(csv::Position::byte) {
            return Err("a quote of this line is not closed until the end of the file".into());
        }
        let (fields, wanted) = (self.record.len(), self.header.len());
        if fields == wanted {
            return Ok(&self.record);
        }
        Err(format!(
            "the number of its fields is {fields}, and that of the header {wanted}"
        ))
    }
}

/// The names of the header, without the byte order mark that spreadsheets put before it.
fn names(header: &ByteRecord, file: &str) -> Result<Vec<String>> {
    let name = |(at, field): (usize, &[u8])| {
        let field = match at {
            0 => field.strip_prefix(b"\xef\xbb\xbf").unwrap_or(field),
            _ => field,
        };
        let text = std::str::from_utf8(field);
        text.map(|text| text.trim().to_owned()).map_err(|_| {
            Failure::Other(format!(
                "{file}: the header is not in UTF-8: convert the file, with iconv"
            ))
        })
    };
    header.iter().enumerate().map(name).collect()
}

fn unreadable(name: &str, error: csv::Error) -> Failure {
    let what = format!("{name} cannot be read");
    match error.into_kind() {
        ErrorKind::Io(error) => Failure::io(what, error),
        other => Failure::Other(format!("{what}: {other:?}")),
    }
}
