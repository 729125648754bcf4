//! The SQL of one direction of a migration, run statement by statement, so that an error can name its place.

use std::borrow::Cow;

use rusqlite::fallible_iterator::FallibleIterator as _;
use rusqlite::{Batch, Connection, ffi};
use sha2::{Digest, Sha256};

use crate::connection::authorizer::{Privilege, SqlGuard};
use crate::connection::sql_text::is_alter;
use crate::connection::stored_sql::{refuse_unsafe_tables, with_double_quoted_strings};
use crate::connection::with_temporary_files;
use crate::error::Error;
use crate::runtime::hex::hex;

/// The length of a statement's excerpt in an error, in characters.
const EXCERPT: usize = 80;

#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) file: Cow<'static, str>,
    /// The line of the file at which the SQL begins, counted from 1.
    line: usize,
    /// The SQL with a NUL at its end. Without it, SQLite would copy the rest of the text for each statement: "there is
    /// a small performance advantage to passing an nByte parameter that is the number of bytes in the input string
    /// including the nul-terminator", <https://sqlite.org/c3ref/prepare.html>.
    sql: String,
    /// Whether the script runs in a transaction.
    pub(crate) transaction: bool,
}

/// One line of a comment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CommentLine<'s> {
    /// Its number in the file.
    pub(crate) line: usize,
    /// Without the signs of a comment.
    pub(crate) text: &'s str,
    /// Where the whole comment starts in the script, and where it ends.
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// A place in a script.
#[derive(Clone, Debug)]
pub(crate) struct Spot {
    pub(crate) line: usize,
    /// The number of the statement, counted from 1.
    pub(crate) number: usize,
    pub(crate) statement: String,
    /// Whether SQLite calls the statement read-only, as it does for BEGIN and COMMIT.
    pub(crate) only_reads: bool,
}

/// A statement that failed.
pub(crate) struct ScriptStop {
    pub(crate) spot: Spot,
    pub(crate) error: StopError,
}

pub(crate) enum StopError {
    Sqlite(rusqlite::Error),
    /// The statement has a parameter, and a migration has no values for parameters.
    Parameter,
    Other(Error),
}

impl Script {
    pub(crate) fn new(file: impl Into<Cow<'static, str>>, line: usize, sql: &str, transaction: bool) -> Self {
        Self {
            file: file.into(),
            line,
            sql: format!("{sql}\0"),
            transaction,
        }
    }

    /// The SQL, without the NUL.
    pub(crate) fn text(&self) -> &str {
        &self.sql[..self.sql.len() - 1]
    }

    /// The lines of all comments.
    pub(crate) fn comments(&self) -> impl Iterator<Item = CommentLine<'_>> {
        let text = self.text();
        comments(text).flat_map(move |(start, comment)| {
            let first = self.line + newlines(&text[..start]);
            // After the comment's two characters and its text.
            let end = start + 2 + comment.len();
            let end = if text[start..].starts_with("/*") {
                (end + 2).min(text.len())
            } else {
                end
            };
            (first..)
                .zip(comment.lines())
                .map(move |(line, text)| CommentLine { line, text, start, end })
        })
    }

    /// Whether no statement follows that place.
    pub(crate) fn rest_is_blank(&self, from: usize) -> bool {
        let rest = &self.text()[from..];
        skip_blank(rest) == rest.len()
    }

    /// Whether the script has no statement.
    pub(crate) fn is_blank(&self) -> bool {
        skip_blank(self.text()) == self.text().len()
    }

    /// SHA-256 of the SQL, in hexadecimal. Line endings, and white space at the very end, make no difference, because
    /// tools and checkouts change them.
    pub(crate) fn checksum(&self) -> String {
        let mut hasher = Sha256::new();
        for line in self.text().trim_end().lines() {
            hasher.update(line);
            hasher.update("\n");
        }
        hex(&hasher.finalize())
    }

    /// The spot before the first statement.
    pub(crate) fn start(&self) -> Spot {
        Spot {
            line: self.line + newlines(&self.text()[..skip_blank(self.text())]),
            number: 1,
            statement: "its start".into(),
            only_reads: true,
        }
    }

    /// Runs every statement to its end, and calls `after` after each. Returns the spot after the last.
    pub(crate) fn run(
        &self,
        conn: &Connection,
        guard: &SqlGuard,
        privilege: Privilege,
        mut after: impl FnMut(&Spot) -> Result<(), Error>,
    ) -> Result<Spot, Box<ScriptStop>> {
        let text = self.text();
        let mut at = skip_blank(text);
        let mut spot = self.start();
        while at < text.len() {
            let rest = &self.sql[at..];
            let privilege = privilege_of(rest, privilege);
            if privilege == Privilege::Vacuum {
                spot.statement = "VACUUM".into();
                let possible = guard.as_internal(|| refuse_unsafe_tables(conn));
                possible.map_err(|error| spot.stop(StopError::Sqlite(error)))?;
            }
            let mut run = || guard.with_privilege(privilege, || run_first(conn, rest, &mut spot));
            let length = match privilege {
                Privilege::Vacuum => with_double_quoted_strings(conn, guard, || with_temporary_files(conn, guard, run)),
                _ if is_alter(rest) => with_double_quoted_strings(conn, guard, run),
                _ => run(),
            }?;
            if let Err(error) = after(&spot) {
                return Err(spot.stop(StopError::Other(error)));
            }
            let next = at + length + skip_blank(&text[at + length..]);
            spot.line += newlines(&text[at..next]);
            spot.number += 1;
            at = next;
        }
        spot.statement = "its end".into();
        Ok(spot)
    }
}

/// VACUUM attaches a database without a name, which no other statement may.
fn privilege_of(sql: &str, privilege: Privilege) -> Privilege {
    let is_vacuum = sql.get(..6).is_some_and(|word| word.eq_ignore_ascii_case("VACUUM"));
    match privilege {
        Privilege::NoTransaction if is_vacuum => Privilege::Vacuum,
        other => other,
    }
}

impl Spot {
    fn stop(&self, error: StopError) -> Box<ScriptStop> {
        let spot = self.clone();
        Box::new(ScriptStop { spot, error })
    }
}

/// Runs the first statement of the text, which ends with a NUL, and returns the statement's length.
fn run_first(conn: &Connection, sql: &str, spot: &mut Spot) -> Result<usize, Box<ScriptStop>> {
    spot.statement = excerpt(sql.lines().next().unwrap_or_default());
    let prepared = Batch::new(conn, sql).next();
    if let Err(rusqlite::Error::SqlInputError { offset, .. }) = &prepared
        && let Ok(offset) = usize::try_from(*offset)
        && let Some(before) = sql.get(..offset)
    {
        spot.line += newlines(before);
    }
    let prepared = prepared.map_err(|error| spot.stop(StopError::Sqlite(without_nul(error))))?;
    let Some(mut statement) = prepared else {
        return Ok(sql.len() - 1);
    };
    // Without parameters the expansion changes nothing: this is the text of the statement.
    if statement.parameter_count() > 0 {
        return Err(spot.stop(StopError::Parameter));
    }
    let Some(text) = statement.expanded_sql() else {
        let no_memory = ffi::Error::new(ffi::SQLITE_NOMEM);
        return Err(spot.stop(StopError::Sqlite(rusqlite::Error::SqliteFailure(no_memory, None))));
    };
    spot.statement = excerpt(&text);
    spot.only_reads = statement.readonly();
    let ran = (|| {
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
        Ok(())
    })();
    ran.map_err(|error| spot.stop(StopError::Sqlite(error)))?;
    Ok(text.len())
}

/// The error for the text without its NUL.
fn without_nul(error: rusqlite::Error) -> rusqlite::Error {
    match error {
        rusqlite::Error::SqlInputError {
            error,
            msg,
            mut sql,
            offset,
        } => {
            sql.truncate(sql.trim_end_matches('\0').len());
            rusqlite::Error::SqlInputError {
                error,
                msg,
                sql,
                offset,
            }
        }
        other => other,
    }
}

fn newlines(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'\n').count()
}

/// The comments in some SQL, each with its position. Quoted text contains no comments.
fn comments(sql: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while let Some(skipped) = sql[at..].find(['-', '/', '\'', '"', '`', '[']) {
            let from = at + skipped;
            let rest = &sql[from..];
            let quoted = |end: char| rest[1..].find(end).map_or(rest.len(), |length| length + 2);
            let (length, comment) = if rest.starts_with("--") {
                let length = rest.find('\n').unwrap_or(rest.len());
                (length, Some(&rest[2..length]))
            } else if let Some(inside) = rest.strip_prefix("/*") {
                let length = inside.find("*/").unwrap_or(inside.len());
                ((length + 4).min(rest.len()), Some(&inside[..length]))
            } else {
                let length = match rest.as_bytes()[0] {
                    // A doubled quote ends one string and begins another, which has the same effect.
                    quote @ (b'\'' | b'"' | b'`') => quoted(quote.into()),
                    b'[' => quoted(']'),
                    _ => 1,
                };
                (length, None)
            };
            at = from + length;
            if let Some(comment) = comment {
                return Some((from, comment));
            }
        }
        None
    })
}

/// The number of bytes before the next statement: white space, comments and empty statements.
pub(super) fn skip_blank(sql: &str) -> usize {
    let mut at = 0;
    loop {
        let rest = &sql[at..];
        let skipped = if rest.starts_with("--") {
            rest.find('\n').map_or(rest.len(), |end| end + 1)
        } else if let Some(comment) = rest.strip_prefix("/*") {
            comment.find("*/").map_or(rest.len(), |end| end + 4)
        } else {
            rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r', '\u{c}', ';']).len()
        };
        if skipped == 0 {
            return at;
        }
        at += skipped;
    }
}

/// The statement on one line, shortened.
fn excerpt(sql: &str) -> String {
    let mut words = sql
        .trim_end_matches(['\0', ';', ' ', '\t', '\r', '\n'])
        .split_whitespace();
    let mut told = words.next().unwrap_or_default().to_owned();
    for word in words.take(EXCERPT) {
        told.push(' ');
        told.push_str(word);
    }
    match told.char_indices().nth(EXCERPT) {
        Some((end, _)) => format!("{} ..", &told[..end]),
        None => told,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_are_whitespace_comments_and_empty_statements() {
        for blank in [
            "",
            " \n\t",
            "-- a comment",
            "-- one\n-- two\n",
            "/* a; b */ ;;\r\n",
            "/* open",
        ] {
            assert_eq!(skip_blank(blank), blank.len(), "{blank:?}");
        }
        assert_eq!(skip_blank("-- a\n /* b */;SELECT 1 -- c"), 14);
        assert_eq!(skip_blank("- 1"), 0);
    }

    #[test]
    fn comments_are_found_outside_quotes_only() {
        let found = |sql| comments(sql).map(|(_, comment)| comment).collect::<Vec<_>>();
        assert_eq!(found("-- one\nSELECT 1 - 2 -- two"), [" one", " two"]);
        assert_eq!(found("/* a\nb */ SELECT 4 / 2 /* open"), [" a\nb ", " open"]);
        assert_eq!(found("'it''s -- no' \"-- no\" `/* no */` [-- no] /**/ '-- open"), [""]);
        assert_eq!(found("--"), [""]);
        assert!(found("ü - é / 'ß").is_empty());
    }
}
