//! Rules for the types of columns, as text: `table.column = uuid`, one a line.

use std::collections::BTreeMap;

use super::sql::{Span, Token, spans};
use crate::error::{Error, Result};
use crate::postgres::types::PgType;

/// The rules of a text, by table and column.
pub(super) fn parse(text: &str) -> Result<BTreeMap<(String, String), PgType>> {
    let mut rules = BTreeMap::new();
    for (at, line) in text.lines().enumerate() {
        let failed = |problem: String| Error::Options {
            option: "types",
            problem: format!("line {}: {problem}", at + 1),
        };
        let Some((table, column, kind)) = rule(line).map_err(failed)? else {
            continue;
        };
        let kind = PgType::of_name(&kind).map_err(failed)?;
        if rules.insert((table.clone(), column.clone()), kind).is_some() {
            return Err(failed(format!(
                "{table}.{column} has a type already: leave one of the two rules out"
            )));
        }
    }
    Ok(rules)
}

/// The table, the column and the name of the type. `None` for a line with a comment alone.
fn rule(line: &str) -> std::result::Result<Option<(String, String, String)>, String> {
    let before_comment = comment(line).map_or(line, |at| &line[..at]);
    if before_comment.trim().is_empty() {
        return Ok(None);
    }
    let wanted = || {
        "write it as table.column = type, with double quotes around a name that has a blank or a sign in it".to_owned()
    };
    let spans: Vec<Span<'_>> = spans(before_comment)
        .into_iter()
        .filter(|span| span.token.is_some())
        .collect();
    let [table, dot, column, is, kind @ ..] = spans.as_slice() else {
        return Err(wanted());
    };
    let name = |span: &Span<'_>| match &span.token {
        Some(Token::Word(name) | Token::Name(name)) => Some(name.clone()),
        _ => None,
    };
    let is_mark = |span: &Span<'_>, mark: &str| span.token.as_ref().is_some_and(|token| token.is_mark(mark));
    match (name(table), name(column)) {
        (Some(table), Some(column)) if is_mark(dot, ".") && is_mark(is, "=") && !kind.is_empty() => {
            let kind: Vec<&str> = kind.iter().map(|span| span.text).collect();
            Ok(Some((table, column, kind.join(" "))))
        }
        _ => Err(wanted()),
    }
}

/// Where the comment of a line begins: `#`, which is in no quotes, or `--`.
fn comment(line: &str) -> Option<usize> {
    let mut in_quotes = false;
    let mut chars = line.char_indices();
    chars.find_map(|(at, c)| {
        in_quotes ^= c == '"';
        let begins = c == '#' || line[at..].starts_with("--");
        (begins && !in_quotes).then_some(at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_name_columns_around_comments_and_quotes() {
        let rules = parse(
            "# identifiers\n\nusers.id = uuid   # all of them\nusers.born=date -- by hand\n\"a.b\".\"c # d\" = double  precision\n",
        )
        .unwrap();
        let wanted = [
            ("a.b", "c # d", PgType::Float8),
            ("users", "born", PgType::Date),
            ("users", "id", PgType::Uuid),
        ];
        let wanted = wanted.map(|(table, column, kind)| ((table.to_owned(), column.to_owned()), kind));
        assert_eq!(rules, wanted.into_iter().collect());
    }

    #[test]
    fn bad_rules_are_named_by_their_line() {
        let cases = [
            ("\nusers = uuid", "line 2: write it as table.column = type"),
            ("users.id", "line 1: write it as"),
            ("users.id =", "line 1: write it as"),
            ("users.id = # uuid", "line 1: write it as"),
            ("a.b = uuid\na.c = colour", "line 2: no type \"colour\""),
            ("a.b = jsonb", "line 1: jsonb does not keep"),
            ("a.b = uuid\na.b = text", "line 2: a.b has a type already"),
            ("'a'.b = uuid", "line 1: write it as"),
        ];
        for (text, wanted) in cases {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}
