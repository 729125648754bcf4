//! Expressions that mean the same in PostgreSQL: of CHECK constraints, of indexes and their predicates, of generated
//! columns.

use super::schema::Column;
use super::sql::Token;
use crate::connection::sql_text::{quoted, string};
use crate::postgres::types::PgType;

/// Words that both sides read in the same way.
const WORDS: [&str; 13] = [
    "AND", "OR", "NOT", "IS", "NULL", "IN", "BETWEEN", "CASE", "WHEN", "THEN", "ELSE", "END", "NOTNULL",
];

/// Functions that mean the same. `lower` and `upper` fold the letters of ASCII alone, as those of SQLite do, since columns
/// of text are made with the collation "C".
const FUNCTIONS: [&str; 6] = ["abs", "coalesce", "length", "lower", "nullif", "upper"];

/// Operators that mean the same. A division by zero is NULL in SQLite and an error at the server.
const MARKS: [&str; 14] = [
    "(", ")", "=", "<>", "!=", "<", ">", "<=", ">=", "+", "-", "*", ",", "||",
];

/// The expression for PostgreSQL, or `None` if it has anything that may mean something else there. Whether its types fit
/// is left to the server.
pub(super) fn translated(tokens: &[Token], columns: &[&Column]) -> Option<String> {
    let mut parts: Vec<String> = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let is_call = tokens.get(at + 1).is_some_and(|token| token.is_mark("("));
        parts.push(match token {
            Token::Word(word) => {
                let known = |known: &&&str| known.eq_ignore_ascii_case(word);
                let keyword = || WORDS.iter().find(known).map(ToString::to_string);
                let function = || {
                    FUNCTIONS
                        .iter()
                        .find(known)
                        .filter(|_| is_call)
                        .map(ToString::to_string)
                };
                function().or_else(|| named(word, columns)).or_else(keyword)?
            }
            // SQLite takes a name that it does not know for a string.
            Token::Name(name) => named(name, columns)?,
            Token::Text(text) if !text.contains('\0') => string(text),
            Token::Number(number) if !number.contains(['x', 'X', '_']) => number.clone(),
            Token::Mark(mark) if mark == "==" => "=".into(),
            Token::Mark(mark) if MARKS.contains(&mark.as_str()) => mark.clone(),
            _ => return None,
        });
    }
    Some(parts.join(" "))
}

/// Whether the type of a column already says what a check says: `x IN (0, 1)` of a boolean.
pub(super) fn is_implied(tokens: &[Token], columns: &[Column]) -> bool {
    let kind = |token: &Token| {
        let name = token_name(token)?;
        Some(
            columns
                .iter()
                .find(|column| column.name.eq_ignore_ascii_case(name))?
                .kind,
        )
    };
    match tokens {
        [column, word, open, Token::Number(a), comma, Token::Number(b), close] => {
            kind(column) == Some(PgType::Bool)
                && word.is_word("in")
                && open.is_mark("(")
                && comma.is_mark(",")
                && close.is_mark(")")
                && [("0", "1"), ("1", "0")].contains(&(a.as_str(), b.as_str()))
        }
        [word, open, column, close] => {
            kind(column) == Some(PgType::Json) && word.is_word("json_valid") && open.is_mark("(") && close.is_mark(")")
        }
        _ => false,
    }
}

fn token_name(token: &Token) -> Option<&str> {
    match token {
        Token::Word(name) | Token::Name(name) => Some(name),
        _ => None,
    }
}

fn named(word: &str, columns: &[&Column]) -> Option<String> {
    let column = columns.iter().find(|column| column.name.eq_ignore_ascii_case(word))?;
    Some(match column.kind {
        // A number, as the expression takes it.
        PgType::Bool => format!("{}::integer", quoted(&column.target)),
        _ => quoted(&column.target),
    })
}
