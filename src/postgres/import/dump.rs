//! A plain dump of `pg_dump`, read as a stream: its statements, and the rows of each `COPY`.
//!
//! Memory holds one statement or one row, however large the dump is.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

/// A dump that is being read.
pub(super) struct Dump {
    from: Box<dyn BufRead + Send>,
    /// The line that was read last, from 1.
    line: u64,
    buffer: Vec<u8>,
    /// Whether its lines end with CR LF, once one was read.
    is_crlf: Option<bool>,
    /// Whether it begins as `pg_dump` begins a dump, and ends so.
    is_begun: bool,
    is_complete: bool,
}

/// A statement, without its `;`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Statement {
    pub(super) sql: String,
    /// Where it begins, from 1.
    pub(super) line: u64,
    /// Whether it has a line end in a string that may have been another one before.
    pub(super) has_changed_text: bool,
}

impl Dump {
    /// Opens a dump. A file that is compressed by gzip is known by its first bytes.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let failed = |error: io::Error| format!("the dump cannot be read: {error}");
        let of_pg_restore = |form: &str| {
            let path = path.display();
            Err(format!(
                "the dump {form}: make a plain one of it: pg_restore -f dump.sql {path}"
            ))
        };
        if path.is_dir() {
            return of_pg_restore("is a folder, as pg_dump -Fd makes it");
        }
        let mut file = BufReader::with_capacity(1 << 20, File::open(path).map_err(failed)?);
        let start = file.fill_buf().map_err(failed)?;
        let from: Box<dyn BufRead + Send> = match start {
            [0x1f, 0x8b, ..] => Box::new(BufReader::with_capacity(1 << 20, MultiGzDecoder::new(file))),
            _ => Box::new(file),
        };
        let mut dump = Self {
            from,
            line: 0,
            buffer: Vec::new(),
            is_crlf: None,
            is_begun: false,
            is_complete: false,
        };
        let start = dump.from.fill_buf().map_err(failed)?;
        if start.starts_with(b"PGDMP") {
            return of_pg_restore("has pg_dump's custom format");
        }
        if start.get(257..262) == Some(b"ustar") {
            return of_pg_restore("is a tar archive, as pg_dump -Ft makes it");
        }
        if start.contains(&0) {
            return Err("this is no plain dump: make one by pg_dump, without --format".into());
        }
        Ok(dump)
    }

    pub(super) fn line(&self) -> u64 {
        self.line
    }

    /// Reads a line into the buffer, without its end. Returns `false` at the end of the dump.
    fn read_line(&mut self) -> Result<bool, String> {
        self.buffer.clear();
        let read = self.from.read_until(b'\n', &mut self.buffer);
        if read.map_err(|error| format!("the dump cannot be read behind line {}: {error}", self.line))? == 0 {
            return Ok(false);
        }
        self.line += 1;
        if self.buffer.last() == Some(&b'\n') {
            self.buffer.pop();
        }
        let is_crlf = self.buffer.last() == Some(&b'\r');
        if *self.is_crlf.get_or_insert(is_crlf) {
            if !is_crlf {
                return Err(self.mixed());
            }
            self.buffer.pop();
        }
        Ok(true)
    }

    fn mixed(&self) -> String {
        format!(
            "line {}: some lines end with CR LF and some with LF: the line ends of the dump were changed on its way, and so may \
             be its values; copy it as it is",
            self.line
        )
    }

    /// The next statement. After a `COPY .. FROM stdin`, [`row`](Self::row) reads its rows.
    pub(super) fn statement(&mut self) -> Result<Option<Statement>, String> {
        let mut sql: Vec<u8> = Vec::new();
        let mut scan = Scan::default();
        let mut begins = 0;
        let mut has_changed_text = false;
        while self.read_line()? {
            if sql.is_empty() {
                // A command of psql: `\restrict`, `\unrestrict`, `\connect`.
                if self.buffer.starts_with(b"\\") {
                    if self.buffer.starts_with(b"\\connect") {
                        return Err(format!(
                            "line {}: the dump is of several databases, as pg_dumpall makes it: make one by pg_dump",
                            self.line
                        ));
                    }
                    let is_known = |known: &&[u8]| self.buffer.starts_with(known);
                    if ![b"\\restrict".as_slice(), b"\\unrestrict"].iter().any(is_known) {
                        let command = String::from_utf8_lossy(&self.buffer[..self.buffer.len().min(60)]).into_owned();
                        return Err(format!(
                            "line {}: {command} is a command of psql, and is not run here",
                            self.line
                        ));
                    }
                    continue;
                }
                if self.buffer.trim_ascii().is_empty() || self.buffer.starts_with(b"--") {
                    // Of several dumps in one file, each has its first and last line.
                    if self.buffer.trim_ascii() == b"-- PostgreSQL database dump" {
                        (self.is_begun, self.is_complete) = (true, false);
                    }
                    self.is_complete |= self.buffer.trim_ascii() == b"-- PostgreSQL database dump complete";
                    continue;
                }
                begins = self.line;
            }
            has_changed_text |= self.is_crlf == Some(true) && scan.is_in_text();
            sql.extend_from_slice(&self.buffer);
            sql.push(b'\n');
            if scan.ends(&sql) {
                while sql
                    .last()
                    .is_some_and(|byte| byte.is_ascii_whitespace() || *byte == b';')
                {
                    sql.pop();
                }
                let sql = String::from_utf8(sql)
                    .map_err(|_| format!("line {begins}: the dump is no UTF-8: make it by pg_dump --encoding=UTF8"))?;
                return Ok(Some(Statement {
                    sql,
                    line: begins,
                    has_changed_text,
                }));
            }
        }
        match sql.trim_ascii() {
            // Between two statements, too.
            [] if self.is_begun && !self.is_complete => Err(format!(
                "line {}: the dump is cut off: it has not the last line that pg_dump writes, `-- PostgreSQL database dump \
                 complete`",
                self.line
            )),
            [] => Ok(None),
            _ => Err(format!("line {begins}: the statement has no end: the dump is cut off")),
        }
    }

    /// The next row of a `COPY`, as it stands there. `None` after the last one.
    pub(super) fn row(&mut self) -> Result<Option<&[u8]>, String> {
        if !self.read_line()? {
            return Err(format!(
                "line {}: the rows of COPY have no end: the dump is cut off",
                self.line
            ));
        }
        // In a value it is `\r`.
        if self.buffer.contains(&b'\r') {
            return Err(self.mixed());
        }
        Ok((self.buffer != b"\\.").then_some(self.buffer.as_slice()))
    }
}

/// Finds the end of a statement.
#[derive(Default)]
struct Scan {
    /// What was looked at.
    at: usize,
    state: State,
    parens: usize,
    /// Nested `BEGIN`s of a function whose body is SQL.
    blocks: usize,
    /// Whether the statement makes a function.
    routine: Option<bool>,
}

#[derive(Default)]
enum State {
    #[default]
    Normal,
    /// A quote, and whether a backslash escapes in it.
    Quote(u8, bool),
    /// The tag with its dollars.
    Dollar(Vec<u8>),
    LineComment,
    Comment(usize),
}

impl Scan {
    fn is_in_text(&self) -> bool {
        matches!(self.state, State::Quote(..) | State::Dollar(_))
    }

    /// Looks at what was added. Returns whether the statement ends there.
    fn ends(&mut self, sql: &[u8]) -> bool {
        while let Some(&byte) = sql.get(self.at) {
            let rest = &sql[self.at..];
            let mut step = 1;
            match &mut self.state {
                State::Normal => match byte {
                    b'\'' => {
                        let before = self.at.checked_sub(1).map(|at| sql[at]);
                        let word = self.at.checked_sub(2).map(|at| sql[at]);
                        let escapes = matches!(before, Some(b'e' | b'E'))
                            && !word.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
                        self.state = State::Quote(byte, escapes);
                    }
                    b'"' => self.state = State::Quote(byte, false),
                    b'-' if rest.starts_with(b"--") => self.state = State::LineComment,
                    b'/' if rest.starts_with(b"/*") => {
                        self.state = State::Comment(1);
                        step = 2;
                    }
                    b'$' => {
                        if let Some(tag) = dollar_tag(rest) {
                            step = tag.len();
                            self.state = State::Dollar(tag.to_vec());
                        }
                    }
                    b'(' => self.parens += 1,
                    b')' => self.parens = self.parens.saturating_sub(1),
                    b';' if self.parens == 0 && self.blocks == 0 => return true,
                    byte if byte.is_ascii_alphabetic() => {
                        step = rest
                            .iter()
                            .position(|byte| !(byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$')))
                            .unwrap_or(rest.len());
                        // The quote behind `E` is to see it.
                        let word = &rest[..step];
                        if *self.routine.get_or_insert_with(|| makes_routine(sql)) {
                            if word.eq_ignore_ascii_case(b"begin") || word.eq_ignore_ascii_case(b"case") {
                                self.blocks += 1;
                            } else if word.eq_ignore_ascii_case(b"end") {
                                self.blocks = self.blocks.saturating_sub(1);
                            }
                        }
                    }
                    _ => {}
                },
                State::Quote(quote, escapes) => {
                    if byte == b'\\' && *escapes {
                        step = 2;
                    } else if byte == *quote {
                        self.state = State::Normal;
                    }
                }
                State::Dollar(tag) => {
                    if rest.starts_with(tag) {
                        step = tag.len();
                        self.state = State::Normal;
                    }
                }
                State::LineComment => {
                    if byte == b'\n' {
                        self.state = State::Normal;
                    }
                }
                State::Comment(depth) => {
                    if rest.starts_with(b"/*") {
                        *depth += 1;
                        step = 2;
                    } else if rest.starts_with(b"*/") {
                        *depth -= 1;
                        step = 2;
                        if *depth == 0 {
                            self.state = State::Normal;
                        }
                    }
                }
            }
            self.at += step;
        }
        false
    }
}

/// `$tag$` at the start of a text.
fn dollar_tag(text: &[u8]) -> Option<&[u8]> {
    let end = 1 + text[1..].iter().position(|byte| *byte == b'$')?;
    let tag = &text[1..end];
    let named = tag.first().is_none_or(|byte| !byte.is_ascii_digit());
    let plain = tag
        .iter()
        .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_' || *byte >= 0x80);
    (named && plain).then(|| &text[..=end])
}

fn makes_routine(sql: &[u8]) -> bool {
    let start = String::from_utf8_lossy(&sql[..sql.len().min(200)]).to_ascii_lowercase();
    let mut words = start
        .split_ascii_whitespace()
        .filter(|word| !["or", "replace"].contains(word));
    words.next() == Some("create") && matches!(words.next(), Some("function" | "procedure"))
}

/// The fields of a row of `COPY`, in its text format. `None` is NULL.
pub(super) fn fields<'b>(
    row: &[u8],
    buffer: &'b mut Vec<u8>,
    ends: &mut Vec<Option<usize>>,
) -> Result<Fields<'b>, String> {
    buffer.clear();
    ends.clear();
    for field in row.split(|byte| *byte == b'\t') {
        if field == b"\\N" {
            ends.push(None);
            continue;
        }
        unescape(field, buffer)?;
        ends.push(Some(buffer.len()));
    }
    let mut fields = Vec::with_capacity(ends.len());
    let mut from = 0;
    for end in ends.iter() {
        fields.push(end.map(|end| {
            let field = &buffer[from..end];
            from = end;
            field
        }));
    }
    Ok(fields)
}

pub(super) type Fields<'b> = Vec<Option<&'b [u8]>>;

fn unescape(field: &[u8], to: &mut Vec<u8>) -> Result<(), String> {
    let mut rest = field;
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        to.extend_from_slice(&rest[..at]);
        let escape = *rest.get(at + 1).ok_or("a field ends with a backslash")?;
        rest = &rest[at + 2..];
        match escape {
            b'b' => to.push(8),
            b'f' => to.push(12),
            b'n' => to.push(b'\n'),
            b'r' => to.push(b'\r'),
            b't' => to.push(b'\t'),
            b'v' => to.push(11),
            b'0'..=b'7' => {
                let mut value = u32::from(escape - b'0');
                for _ in 0..2 {
                    match rest.first() {
                        Some(digit @ b'0'..=b'7') => {
                            value = value * 8 + u32::from(digit - b'0');
                            rest = &rest[1..];
                        }
                        _ => break,
                    }
                }
                to.push(value.to_le_bytes()[0]);
            }
            b'x' if rest.first().is_some_and(u8::is_ascii_hexdigit) => {
                let mut value = 0;
                for _ in 0..2 {
                    match rest.first().and_then(|byte| char::from(*byte).to_digit(16)) {
                        Some(digit) => {
                            value = value * 16 + digit;
                            rest = &rest[1..];
                        }
                        None => break,
                    }
                }
                to.push(value.to_le_bytes()[0]);
            }
            other => to.push(other),
        }
    }
    to.extend_from_slice(rest);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn dump(text: &str) -> Dump {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        Dump::open(file.path()).unwrap()
    }

    #[test]
    fn statements_end_at_their_semicolon() {
        let text = "\\restrict abc\n-- comment\nSET x = 'a;b';\n\nCREATE FUNCTION f() RETURNS int\n LANGUAGE sql\n BEGIN ATOMIC\n \
                    SELECT 1;\n SELECT CASE WHEN true THEN 2 END;\nEND;\nSELECT E'it\\'s;', $x$;$x$, \"a;\";\nCOPY t (a) FROM \
                    stdin;\n1\n2\\n\n\\.\nSELECT 1;\n\\unrestrict abc\n";
        let mut dump = dump(text);
        let mut next = || {
            dump.statement()
                .unwrap()
                .map(|statement| (statement.line, statement.sql))
        };
        assert_eq!(next().unwrap(), (3, "SET x = 'a;b'".into()));
        assert_eq!(next().unwrap().0, 5);
        assert_eq!(next().unwrap().1, "SELECT E'it\\'s;', $x$;$x$, \"a;\"");
        assert_eq!(next().unwrap().1, "COPY t (a) FROM stdin");
        assert_eq!(dump.row().unwrap(), Some(&b"1"[..]));
        assert_eq!(dump.row().unwrap(), Some(&b"2\\n"[..]));
        assert_eq!(dump.row().unwrap(), None);
        assert_eq!(dump.statement().unwrap().unwrap().sql, "SELECT 1");
        assert_eq!(dump.statement().unwrap(), None);
    }

    #[test]
    fn cut_dumps_are_refused() {
        assert!(dump("SELECT 1").statement().unwrap_err().contains("cut off"));
        let whole = "-- PostgreSQL database dump\n-- PostgreSQL database dump complete\n";
        assert_eq!(dump(&format!("{whole}{whole}")).statement().unwrap(), None);
        let mut second = dump(&format!("{whole}-- PostgreSQL database dump\nSELECT 1;\n"));
        second.statement().unwrap();
        assert!(second.statement().unwrap_err().contains("cut off"));
        let mut cut = dump("COPY t (a) FROM stdin;\n1\n");
        cut.statement().unwrap();
        cut.row().unwrap();
        assert!(cut.row().unwrap_err().contains("cut off"));
    }

    #[test]
    fn fields_are_unescaped() {
        let (mut buffer, mut ends) = (Vec::new(), Vec::new());
        let read = fields(b"a\\tb\t\\N\t\t\\\\N\t\\101\\x42\\.", &mut buffer, &mut ends).unwrap();
        let wanted: [Option<&[u8]>; 5] = [Some(b"a\tb"), None, Some(b""), Some(b"\\N"), Some(b"AB.")];
        assert_eq!(read, wanted);
    }

    #[test]
    fn gzip_and_other_formats_are_known() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut gzip = flate2::write::GzEncoder::new(&mut file, flate2::Compression::fast());
        gzip.write_all(b"SELECT 1;\n").unwrap();
        gzip.finish().unwrap();
        assert_eq!(
            Dump::open(file.path()).unwrap().statement().unwrap().unwrap().sql,
            "SELECT 1"
        );
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"PGDMP\0").unwrap();
        assert!(Dump::open(file.path()).err().unwrap().contains("pg_restore"));
    }
}
