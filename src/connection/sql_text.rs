//! SQL that is put together or taken apart, and names that SQLite returns.

use std::borrow::Cow;
use std::ffi::CString;
use std::ops::Range;

use rusqlite::Row;

use super::c_api::is_keyword;

/// Quotes a name for SQL.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string in single quotes, which SQLite reads, and PostgreSQL with `standard_conforming_strings`.
#[cfg(feature = "postgres")]
pub(crate) fn string(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A name as people would write it: quoted where it has to be.
pub(crate) fn readable(name: &str) -> String {
    let mut chars = name.chars();
    let begins_well = chars
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == '_');
    let is_plain = begins_well && chars.all(|next| next.is_ascii_alphanumeric() || next == '_');
    if is_plain && !is_keyword(name) {
        return name.to_owned();
    }
    quoted(name)
}

/// The statement that returns each row of a table whose foreign key refers to no row.
pub(crate) fn foreign_key_check(table: &str) -> String {
    format!("PRAGMA main.foreign_key_check({})", quoted(table))
}

/// A name in a column. In a damaged database it may not be UTF-8, nor even text.
pub(crate) fn name(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    let bytes = row.get_ref(column)?.as_bytes().unwrap_or_default();
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

/// Refuses a text with a NUL: SQLite reads no further, so what follows would not run, without any error.
pub(crate) fn refuse_nul(sql: &str) -> rusqlite::Result<()> {
    if !sql.as_bytes().contains(&0) {
        return Ok(());
    }
    CString::new(sql).map(drop).map_err(rusqlite::Error::NulError)
}

/// Whether the text begins with an `ALTER`.
pub(crate) fn is_alter(sql: &str) -> bool {
    let first = sql.as_bytes().first();
    let may_be = first.is_some_and(|first| !first.is_ascii_alphabetic() || first.eq_ignore_ascii_case(&b'a'));
    may_be
        && tokens(sql)
            .next()
            .is_some_and(|word| word.eq_ignore_ascii_case("alter"))
}

/// Whether an `ALTER` may be anywhere in the text.
pub(crate) fn may_alter(sql: &str) -> bool {
    sql.as_bytes()
        .windows(5)
        .any(|word| word.eq_ignore_ascii_case(b"alter"))
}

/// Whether some SQL may delete rows that conflict with new ones: `REPLACE INTO`, `OR REPLACE`, `ON CONFLICT REPLACE`.
pub(crate) fn may_replace(sql: &str) -> bool {
    let mut before = "";
    tokens(sql).any(|token| {
        let is = |one: &str, word: &str| one.eq_ignore_ascii_case(word);
        let found = is(token, "replace") && (is(before, "or") || is(before, "conflict"))
            || is(token, "into") && is(before, "replace");
        before = token;
        found
    })
}

/// Where the statements of some SQL are, without their semicolons and without what is between them.
///
/// A semicolon ends a statement, as for `sqlite3_complete`: inside a trigger it has to come after `; END`.
pub(crate) fn statements(sql: &str) -> impl Iterator<Item = Range<usize>> {
    // SQLite skips a byte order mark.
    let begin = sql.len() - sql.trim_start_matches('\u{feff}').len();
    let mut tokens = tokens_from(sql, begin);
    std::iter::from_fn(move || {
        let (start, first) = tokens.by_ref().find(|(_, token)| *token != ";")?;
        let mut part = Part::Head.after(first);
        let mut end = start + first.len();
        for (at, token) in tokens.by_ref() {
            if token == ";" && part.may_end() {
                break;
            }
            part = part.after(token);
            end = at + token.len();
        }
        Some(start..end)
    })
}

/// The part of a statement before a token.
#[derive(Clone, Copy)]
enum Part {
    /// `EXPLAIN QUERY PLAN CREATE TEMP`, or less of it.
    Head,
    /// Any statement but a trigger.
    Plain,
    /// A trigger before its `BEGIN`.
    Trigger,
    Body,
    /// After a semicolon of the body.
    BetweenSteps,
    /// After the `END` that follows such a semicolon.
    AfterEnd,
}

impl Part {
    fn after(self, token: &str) -> Self {
        let is_one_of = |words: &[&str]| words.iter().any(|word| token.eq_ignore_ascii_case(word));
        match self {
            Self::Head if is_one_of(&["explain", "query", "plan", "create", "temp", "temporary"]) => Self::Head,
            Self::Head if is_one_of(&["trigger"]) => Self::Trigger,
            Self::Head | Self::Plain => Self::Plain,
            Self::Trigger if !is_one_of(&["begin"]) => Self::Trigger,
            Self::BetweenSteps if is_one_of(&["end"]) => Self::AfterEnd,
            _ if token == ";" => Self::BetweenSteps,
            _ => Self::Body,
        }
    }

    fn may_end(self) -> bool {
        !matches!(self, Self::Body | Self::BetweenSteps)
    }
}

/// The tokens of some SQL as they are written, without white space and comments.
pub(crate) fn tokens(sql: &str) -> impl Iterator<Item = &str> {
    tokens_from(sql, 0).map(|(_, token)| token)
}

/// The tokens from there on, each with its position.
fn tokens_from(sql: &str, begin: usize) -> impl Iterator<Item = (usize, &str)> {
    let mut next = begin;
    std::iter::from_fn(move || {
        loop {
            let (at, rest) = (next, &sql[next..]);
            let first = rest.chars().next()?;
            let token = &rest[..length(rest, first)];
            next += token.len();
            if !first.is_whitespace() && !token.starts_with("--") && !token.starts_with("/*") {
                return Some((at, token));
            }
        }
    })
}

/// The name in a token, if it is one: without its quotes, and with its own quotes undoubled.
pub(crate) fn unquoted(token: &str) -> Cow<'_, str> {
    let inside = || token.get(1..token.len().max(2) - 1).unwrap_or_default();
    match token.as_bytes().first() {
        Some(b'[') => inside().into(),
        Some(b'"' | b'`' | b'\'') => {
            let quote = &token[..1];
            inside().replace(&quote.repeat(2), quote).into()
        }
        _ => token.into(),
    }
}

/// The length of the token or comment at the start of the text.
fn length(text: &str, first: char) -> usize {
    let until = |end: &str| text[1..].find(end).map_or(text.len(), |at| 1 + at + end.len());
    match first {
        '[' => until("]"),
        '"' | '`' | '\'' => quoted_length(text, first),
        '-' if text.starts_with("--") => until("\n"),
        '/' if text.starts_with("/*") => text[2..].find("*/").map_or(text.len(), |at| at + 4),
        _ if is_of_a_word(first) => text.find(|c| !is_of_a_word(c)).unwrap_or(text.len()),
        _ => first.len_utf8(),
    }
}

/// The length of a quoted token. A doubled quote does not end it.
fn quoted_length(text: &str, quote: char) -> usize {
    let mut at = 1;
    while let Some(found) = text[at..].find(quote) {
        at += found + 1;
        if !text[at..].starts_with(quote) {
            return at;
        }
        at += 1;
    }
    text.len()
}

/// Whether a name may contain the character. That includes "any other character larger than u007f",
/// <https://sqlite.org/draft/tokenreq.html>.
fn is_of_a_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '$' || !c.is_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_words_names_strings_and_signs() {
        let told = |sql| tokens(sql).collect::<Vec<_>>();
        assert_eq!(
            told("a.b>='it''s' -- c\n+/* d */1"),
            ["a", ".", "b", ">", "=", "'it''s'", "+", "1"]
        );
        assert_eq!(told("\"a \"\"b\" [c \"d] `e`"), ["\"a \"\"b\"", "[c \"d]", "`e`"]);
        assert_eq!(told("ä$1 \"open"), ["ä$1", "\"open"]);
        assert_eq!(told(" -- only\n /* comments"), [""; 0]);
    }

    #[test]
    fn statements_end_at_semicolons_outside_triggers() {
        fn told(sql: &str) -> Vec<&str> {
            statements(sql).map(|at| &sql[at]).collect()
        }
        assert_eq!(
            told("\u{feff} ;; SELECT ';', \"a;b\" -- ;\n , 1 /* ; */ ; -- only\n ; COMMIT"),
            ["SELECT ';', \"a;b\" -- ;\n , 1", "COMMIT"]
        );
        let trigger = "create temp trigger t after insert on a when 1 begin
                       select case 1 when 1 then 2 end; delete from b; end";
        for before in ["", "EXPLAIN ", "explain query plan "] {
            let trigger = format!("{before}{trigger}");
            let both = format!("{trigger}; SELECT 1;");
            assert_eq!(told(&both), [trigger.as_str(), "SELECT 1"]);
        }
        let all = "CREATE TABLE trigger_begin(a); BEGIN; SELECT 1; END; SELECT 2";
        assert_eq!(
            told(all),
            ["CREATE TABLE trigger_begin(a)", "BEGIN", "SELECT 1", "END", "SELECT 2"]
        );
        assert_eq!(
            told("CREATE TRIGGER broken; SELECT 1"),
            ["CREATE TRIGGER broken", "SELECT 1"]
        );
        assert_eq!(told(" -- nothing\n;"), [""; 0]);
    }

    #[test]
    fn replacing_is_told_from_other_words() {
        for sql in [
            "REPLACE INTO t VALUES (1)",
            "insert or/**/replace into t VALUES (1)",
            "CREATE TABLE t(a UNIQUE ON CONFLICT REPLACE)",
        ] {
            assert!(may_replace(sql), "{sql}");
        }
        for sql in [
            "SELECT replace(a, 'OR REPLACE', '')",
            "CREATE TABLE t(replace, into_it) -- ON CONFLICT REPLACE",
        ] {
            assert!(!may_replace(sql), "{sql}");
        }
    }

    #[test]
    fn names_lose_their_quotes() {
        for (token, name) in [
            ("a", "a"),
            ("\"a \"\"b\"", "a \"b"),
            ("[a \"b]", "a \"b"),
            ("`a``b`", "a`b"),
            ("''", ""),
            ("\"", ""),
            ("ä", "ä"),
            ("\"ä", ""),
            ("", ""),
        ] {
            assert_eq!(unquoted(token), name, "{token}");
        }
    }

    #[test]
    fn alter_is_recognized_behind_comments() {
        for sql in ["ALTER TABLE t", " alter/**/table", "-- why\n/* so */Alter", "\n\tALTER"] {
            assert!(is_alter(sql) && may_alter(sql), "{sql}");
        }
        for sql in ["", "ANALYZE", "SELECT 'alter'", "alters", "-- ALTER", "\"alter\""] {
            assert!(!is_alter(sql), "{sql}");
        }
    }

    #[test]
    fn nul_in_sql_is_refused_with_its_place() {
        assert_eq!(refuse_nul("SELECT 1"), Ok(()));
        let error = refuse_nul("SELECT 1\0; SELECT 2").unwrap_err();
        assert!(error.to_string().contains('8'), "{error}");
    }
}
