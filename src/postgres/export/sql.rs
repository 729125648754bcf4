//! SQLite's SQL as tokens, and what PRAGMAs do not say about a table or an index: checks, deferred keys, ON CONFLICT,
//! collations, the expressions of generated columns and of indexes.

use crate::connection::sql_text::{quoted, string};

/// A token. Comments and white space are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A keyword or a name without quotes, as it is written.
    Word(String),
    /// A name in double quotes, backquotes or brackets, without them.
    Name(String),
    /// A string, without its quotes.
    Text(String),
    /// `x'00'`, as it is written.
    Blob(String),
    Number(String),
    /// An operator or another mark.
    Mark(String),
}

impl Token {
    pub(super) fn is_word(&self, word: &str) -> bool {
        matches!(self, Token::Word(there) if there.eq_ignore_ascii_case(word))
    }

    pub(super) fn is_mark(&self, mark: &str) -> bool {
        matches!(self, Token::Mark(there) if there == mark)
    }

    /// The name that it is, in quotes or not.
    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Token::Word(name) | Token::Name(name) | Token::Text(name) => Some(name),
            _ => None,
        }
    }
}

/// Operators of more than one character.
const OPERATORS: [&str; 9] = ["->>", "->", "||", "==", "<>", "<=", ">=", "!=", "<<"];

/// A part of a text: a token, or a comment, which has none.
pub(super) struct Span<'s> {
    pub(super) token: Option<Token>,
    /// As it is written, with its quotes.
    pub(super) text: &'s str,
    /// Where it begins, in bytes.
    pub(super) at: usize,
}

/// The tokens of a text.
pub(super) fn tokens(sql: &str) -> Vec<Token> {
    spans(sql).into_iter().filter_map(|span| span.token).collect()
}

/// The tokens and comments of a text, which need not be valid.
pub(super) fn spans(sql: &str) -> Vec<Span<'_>> {
    let mut found = Vec::new();
    let mut rest = sql;
    while let Some(first) = rest.chars().next() {
        let mut is_comment = false;
        let (token, length) = match first {
            c if c.is_whitespace() => (None, c.len_utf8()),
            '-' if rest.starts_with("--") => {
                is_comment = true;
                (None, rest.find('\n').unwrap_or(rest.len()))
            }
            '/' if rest.starts_with("/*") => {
                is_comment = true;
                (None, rest[2..].find("*/").map_or(rest.len(), |at| at + 4))
            }
            '\'' => {
                let (text, length) = quoted_text(rest, '\'');
                (Some(Token::Text(text)), length)
            }
            '"' | '`' => {
                let (text, length) = quoted_text(rest, first);
                (Some(Token::Name(text)), length)
            }
            '[' => {
                let end = rest.find(']').unwrap_or(rest.len());
                (Some(Token::Name(rest[1..end].to_owned())), (end + 1).min(rest.len()))
            }
            'x' | 'X' if rest[1..].starts_with('\'') => {
                let (_, length) = quoted_text(&rest[1..], '\'');
                (Some(Token::Blob(rest[..=length].to_owned())), length + 1)
            }
            c if c.is_ascii_digit() || (c == '.' && rest[1..].starts_with(|c: char| c.is_ascii_digit())) => {
                let length = number(rest);
                (Some(Token::Number(rest[..length].to_owned())), length)
            }
            c if is_of_word(c) => {
                let length = rest.find(|c: char| !is_of_word(c)).unwrap_or(rest.len());
                (Some(Token::Word(rest[..length].to_owned())), length)
            }
            c => {
                let operator = OPERATORS.iter().find(|operator| rest.starts_with(**operator));
                let length = operator.map_or(c.len_utf8(), |operator| operator.len());
                (Some(Token::Mark(rest[..length].to_owned())), length)
            }
        };
        if token.is_some() || is_comment {
            found.push(Span {
                token,
                text: &rest[..length],
                at: sql.len() - rest.len(),
            });
        }
        rest = &rest[length..];
    }
    found
}

fn is_of_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '$' || !c.is_ascii()
}

/// What is between the quotes with which the text begins, and its length with them.
fn quoted_text(text: &str, quote: char) -> (String, usize) {
    let mut found = String::new();
    let mut at = 1;
    loop {
        let Some(end) = text[at..].find(quote).map(|end| at + end) else {
            found.push_str(&text[at..]);
            return (found, text.len());
        };
        found.push_str(&text[at..end]);
        at = end + 1;
        if !text[at..].starts_with(quote) {
            return (found, at);
        }
        found.push(quote);
        at += 1;
    }
}

fn number(text: &str) -> usize {
    if text.starts_with("0x") || text.starts_with("0X") {
        return text.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(text.len());
    }
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let sign = matches!(byte, b'+' | b'-') && at > 0 && matches!(bytes[at - 1], b'e' | b'E');
        if !(byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'e' | b'E') || sign) {
            break;
        }
        at += 1;
    }
    at
}

/// When a foreign key is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Deferral {
    #[default]
    Immediate,
    Deferrable,
    Deferred,
}

/// What the text of a table says beyond its PRAGMAs.
#[derive(Debug, Default)]
pub(super) struct TableText {
    /// The expressions of its CHECK constraints.
    pub(super) checks: Vec<Vec<Token>>,
    /// One for each foreign key, in the order of the text.
    pub(super) deferrals: Vec<Deferral>,
    /// What ON CONFLICT says: `UNIQUE ON CONFLICT REPLACE`.
    pub(super) conflicts: Vec<String>,
    /// Columns with a collation.
    pub(super) collations: Vec<(String, String)>,
    /// Columns with the expression that makes them.
    pub(super) generated: Vec<(String, Vec<Token>)>,
}

impl TableText {
    pub(super) fn parse(sql: &str) -> Self {
        let all = tokens(sql);
        let begin = all.iter().position(|token| token.is_mark("(")).unwrap_or(all.len());
        let mut text = Self::default();
        for item in split(group(&all[begin..])) {
            text.item(item);
        }
        text
    }

    /// A column with its constraints, or constraints of the table.
    fn item(&mut self, item: &[Token]) {
        let starts = ["constraint", "primary", "unique", "check", "foreign"];
        let is_column = !item
            .first()
            .is_some_and(|token| starts.iter().any(|word| token.is_word(word)));
        let column = item.first().filter(|_| is_column).and_then(Token::name);
        let mut last = String::new();
        let mut at = usize::from(is_column);
        while let Some(token) = item.get(at) {
            let next = |word: &str| item.get(at + 1).is_some_and(|token| token.is_word(word));
            if token.is_mark("(") {
                at += group(&item[at..]).len() + 2;
                continue;
            }
            let in_parens = item.get(at + 1).is_some_and(|token| token.is_mark("("));
            match token {
                token if token.is_word("check") && in_parens => self.checks.push(group(&item[at + 1..]).to_vec()),
                token if token.is_word("references") => self.deferrals.push(Deferral::default()),
                token if token.is_word("deferrable") => {
                    let is_not = at > 0 && item[at - 1].is_word("not");
                    let is_deferred =
                        next("initially") && item.get(at + 2).is_some_and(|token| token.is_word("deferred"));
                    if let Some(deferral) = self.deferrals.last_mut().filter(|_| !is_not) {
                        *deferral = if is_deferred {
                            Deferral::Deferred
                        } else {
                            Deferral::Deferrable
                        };
                    }
                }
                token if token.is_word("on") && next("conflict") => {
                    let action = item.get(at + 2).and_then(Token::name).unwrap_or_default();
                    // That is what both do anyway.
                    if !action.eq_ignore_ascii_case("abort") {
                        let column = column.map_or(String::new(), |column| format!("{column}: "));
                        self.conflicts
                            .push(format!("{column}{last} ON CONFLICT {}", action.to_ascii_uppercase()));
                    }
                }
                token if token.is_word("collate") => {
                    if let (Some(column), Some(name)) = (column, item.get(at + 1).and_then(Token::name)) {
                        self.collations.push((column.to_owned(), name.to_ascii_uppercase()));
                    }
                }
                token if token.is_word("as") && in_parens => {
                    if let Some(column) = column {
                        self.generated
                            .push((column.to_owned(), group(&item[at + 1..]).to_vec()));
                    }
                }
                Token::Word(word)
                    if ["unique", "null", "key", "check"].contains(&word.to_ascii_lowercase().as_str()) =>
                {
                    last = match word.to_ascii_uppercase().as_str() {
                        "NULL" => "NOT NULL".into(),
                        "KEY" => "PRIMARY KEY".into(),
                        word => word.to_owned(),
                    };
                }
                _ => {}
            }
            at += 1;
        }
    }
}

/// The keys of an index and its predicate, from its text.
pub(super) fn index_parts(sql: &str) -> (Vec<Vec<Token>>, Option<Vec<Token>>) {
    let all = tokens(sql);
    let begin = all.iter().position(|token| token.is_mark("(")).unwrap_or(all.len());
    let keys = group(&all[begin..]);
    let after = all.get(begin + keys.len() + 2..).unwrap_or_default();
    let predicate = match after {
        [first, predicate @ ..] if first.is_word("where") => Some(predicate.to_vec()),
        _ => None,
    };
    let keys = split(keys).into_iter().map(|key| without_order(key).to_vec());
    (keys.collect(), predicate)
}

/// A key of an index without COLLATE, ASC and DESC, which its PRAGMA has.
fn without_order(key: &[Token]) -> &[Token] {
    match key {
        [before @ .., last] if !before.is_empty() && (last.is_word("asc") || last.is_word("desc")) => {
            without_order(before)
        }
        [before @ .., collate, _] if !before.is_empty() && collate.is_word("collate") => without_order(before),
        key => key,
    }
}

/// What is in the parentheses with which the tokens begin.
pub(super) fn group(tokens: &[Token]) -> &[Token] {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate() {
        if token.is_mark("(") {
            depth += 1;
        } else if token.is_mark(")") {
            depth = depth.saturating_sub(1);
            if depth == 0 {
                return &tokens[1..at];
            }
        }
    }
    &[]
}

/// The parts between commas that are in no parentheses.
pub(super) fn split(tokens: &[Token]) -> Vec<&[Token]> {
    let (mut parts, mut from, mut depth) = (Vec::new(), 0, 0_usize);
    for (at, token) in tokens.iter().enumerate() {
        match token {
            token if token.is_mark("(") => depth += 1,
            token if token.is_mark(")") => depth = depth.saturating_sub(1),
            token if token.is_mark(",") && depth == 0 => {
                parts.push(&tokens[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    if from < tokens.len() {
        parts.push(&tokens[from..]);
    }
    parts
}

/// Tokens as one line, for reports.
pub(super) fn shown(tokens: &[Token]) -> String {
    let mut text = String::new();
    let mut tight = true;
    for token in tokens {
        let part = match token {
            Token::Word(part) | Token::Blob(part) | Token::Number(part) | Token::Mark(part) => part.clone(),
            Token::Name(name) => quoted(name),
            Token::Text(text) => string(text),
        };
        if !tight && !matches!(part.as_str(), ")" | "," | "(") {
            text.push(' ');
        }
        tight = part == "(";
        text.push_str(&part);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_table_is_read_around_comments_and_quotes() {
        let sql = "CREATE TABLE \"a(b\"( -- don't, CHECK (x > 1)
            id INTEGER PRIMARY KEY, /* ( ' */
            n VARCHAR(10) NOT NULL ON CONFLICT IGNORE CHECK (n <> ')' AND n <> 'it''s') COLLATE nocase,
            \"check\" INTEGER REFERENCES p(id) DEFERRABLE INITIALLY DEFERRED,
            twice INTEGER GENERATED ALWAYS AS (id * (2)) STORED, v AS (id + 1),
            [b c] TEXT DEFAULT (lower('CHECK (1)')) REFERENCES p ON DELETE CASCADE NOT DEFERRABLE INITIALLY DEFERRED,
            CONSTRAINT c CHECK(id > -1) UNIQUE (n) ON CONFLICT REPLACE
            FOREIGN KEY (v) REFERENCES p(id) DEFERRABLE
        ) STRICT";
        let text = TableText::parse(sql);
        let checks: Vec<String> = text.checks.iter().map(|check| shown(check)).collect();
        assert_eq!(checks, ["n <> ')' AND n <> 'it''s'", "id > - 1"]);
        assert_eq!(
            text.deferrals,
            [Deferral::Deferred, Deferral::Immediate, Deferral::Deferrable]
        );
        assert_eq!(
            text.conflicts,
            ["n: NOT NULL ON CONFLICT IGNORE", "UNIQUE ON CONFLICT REPLACE"]
        );
        assert_eq!(text.collations, [("n".to_owned(), "NOCASE".to_owned())]);
        let generated: Vec<_> = text
            .generated
            .iter()
            .map(|(name, made)| (name.as_str(), shown(made)))
            .collect();
        assert_eq!(generated, [("twice", "id *(2)".to_owned()), ("v", "id + 1".to_owned())]);
    }

    #[test]
    fn keys_and_predicate_of_an_index_are_apart() {
        let (keys, predicate) = index_parts(
            "CREATE UNIQUE INDEX IF NOT EXISTS i ON t(a COLLATE NOCASE DESC, lower(b || ','), (c)) WHERE a IN (1, 2) AND b > 1e-3",
        );
        let keys: Vec<String> = keys.iter().map(|key| shown(key)).collect();
        assert_eq!(keys, ["a", "lower(b || ',')", "(c)"]);
        assert_eq!(shown(&predicate.unwrap()), "a IN(1, 2) AND b > 1e-3");
    }
}
