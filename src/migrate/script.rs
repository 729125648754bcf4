//! The SQL of one direction of a migration, run statement by statement, so that an error can say where it is.

use std::borrow::Cow;

use rusqlite::fallible_iterator::FallibleIterator as _;
use rusqlite::{Batch, Connection, ffi};
use sha2::{Digest, Sha256};

use crate::error::Error;

/// How much of a statement's text stands in an error, in characters.
const EXCERPT: usize = 80;

#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) file: Cow<'static, str>,
    /// The line of the file at which the SQL begins, counted from 1.
    line: usize,
    sql: Cow<'static, str>,
    /// Whether it is run in a transaction.
    pub(crate) transaction: bool,
}

/// Where in a script something is.
#[derive(Clone, Debug)]
pub(crate) struct Spot {
    pub(crate) line: usize,
    /// Which statement, counted from 1.
    pub(crate) number: usize,
    pub(crate) statement: String,
}

/// A statement that did not go well.
pub(crate) struct Stop {
    pub(crate) spot: Spot,
    pub(crate) error: StopError,
}

pub(crate) enum StopError {
    Sqlite(rusqlite::Error),
    /// It has a parameter, and nobody is there to give it a value.
    Parameter,
    Other(Error),
}

impl Script {
    pub(crate) fn new(
        file: impl Into<Cow<'static, str>>,
        line: usize,
        sql: impl Into<Cow<'static, str>>,
        transaction: bool,
    ) -> Self {
        Self {
            file: file.into(),
            line,
            sql: sql.into(),
            transaction,
        }
    }

    /// Whether there is no statement in it.
    pub(crate) fn is_blank(&self) -> bool {
        skip_blank(&self.sql) == self.sql.len()
    }

    /// SHA-256 of the SQL, in hexadecimal. How lines end, and white space at the very end, makes no difference: tools
    /// and checkouts change it.
    pub(crate) fn checksum(&self) -> String {
        let mut hasher = Sha256::new();
        for line in self.sql.trim_end().lines() {
            hasher.update(line);
            hasher.update("\n");
        }
        let digest = hasher.finalize();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Runs every statement to its end, and calls `after` after each. Gives the spot after the last.
    pub(crate) fn run(
        &self,
        conn: &Connection,
        mut after: impl FnMut(&Spot) -> Result<(), Error>,
    ) -> Result<Spot, Box<Stop>> {
        let mut at = 0;
        let mut number = 0;
        loop {
            number += 1;
            at += skip_blank(&self.sql[at..]);
            let rest = &self.sql[at..];
            if rest.is_empty() {
                return Ok(Spot {
                    line: self.line_at(self.sql.trim_end().len()),
                    number,
                    statement: "its end".to_owned(),
                });
            }
            let mut spot = Spot {
                line: self.line_at(at),
                number,
                statement: excerpt(rest),
            };
            let ran = run_first(conn, rest);
            let failed = match ran {
                Ok(length) => {
                    let ended = after(&spot).map_err(StopError::Other);
                    at += length;
                    ended
                }
                Err(error) => Err(error),
            };
            if let Err(error) = failed {
                if let StopError::Sqlite(rusqlite::Error::SqlInputError { offset, .. }) = &error
                    && let Ok(offset) = usize::try_from(*offset)
                {
                    spot.line = self.line_at(at + offset.min(rest.len()));
                }
                return Err(Box::new(Stop { spot, error }));
            }
        }
    }

    fn line_at(&self, at: usize) -> usize {
        self.line + self.sql.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count()
    }
}

/// Runs the statement that the text begins with, and says how long it is.
fn run_first(conn: &Connection, sql: &str) -> Result<usize, StopError> {
    let Some(mut statement) = Batch::new(conn, sql).next().map_err(StopError::Sqlite)? else {
        return Ok(sql.len());
    };
    if statement.parameter_count() > 0 {
        return Err(StopError::Parameter);
    }
    // Without parameters there is nothing to expand: this is the text that SQLite took for the statement.
    let length = statement.expanded_sql().map_or(0, |text| text.len());
    if length == 0 {
        let no_memory = ffi::Error::new(ffi::SQLITE_NOMEM);
        return Err(StopError::Sqlite(rusqlite::Error::SqliteFailure(no_memory, None)));
    }
    let mut rows = statement.query([]).map_err(StopError::Sqlite)?;
    while rows.next().map_err(StopError::Sqlite)?.is_some() {}
    Ok(length)
}

/// How many bytes come before the next statement: white space, comments and empty statements.
fn skip_blank(sql: &str) -> usize {
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

/// The first line of the statement, or as much of it as is told.
fn excerpt(sql: &str) -> String {
    let line = sql.lines().next().unwrap_or_default().trim_end();
    match line.char_indices().nth(EXCERPT) {
        Some((end, _)) => format!("{} ..", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_are_white_space_comments_and_empty_statements() {
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
}
