//! Parses the text of a `CREATE INDEX`: the PRAGMAs report neither its expressions nor its condition.

use crate::connection::sql_text::{self, unquoted};

/// The indexed columns and the condition of a partial index, as comparable tokens: `a IS NOT NULL` and `a  is /* always
/// */ not null` give the same tokens.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Definition {
    pub(super) columns: Vec<String>,
    pub(super) condition: Vec<String>,
}

impl Definition {
    /// Parses `CREATE [UNIQUE] INDEX name ON table(columns) [WHERE condition]`, a statement that SQLite has accepted.
    pub(super) fn parse(sql: &str) -> Self {
        let mut tokens = tokens(sql);
        let Some(open) = tokens.iter().position(|token| token == "(") else {
            return Self::default();
        };
        let mut columns = tokens.split_off(open + 1);
        let mut condition = columns.split_off(closing(&columns));
        // The parenthesis, and WHERE.
        condition.drain(..condition.len().min(2));
        Self { columns, condition }
    }

    /// Whether the condition excludes only rows with a NULL in one of these columns.
    ///
    /// A search for a value in them can then use the index: "if a term in X is of the form 'z IS NOT NULL' and if a
    /// term in W is a comparison operator on 'z' other than 'IS', then those terms match",
    /// <https://sqlite.org/partialindex.html>.
    pub(super) fn excludes_only_null(&self, columns: &[&str]) -> bool {
        let condition = without_parentheses(&self.condition);
        condition.split(|token| token == "and").all(|term| {
            let column = not_null(without_parentheses(term));
            column.is_some_and(|tested| columns.iter().any(|column| column.eq_ignore_ascii_case(tested)))
        })
    }
}

/// The position of the parenthesis that closes the one before the first token.
fn closing(tokens: &[String]) -> usize {
    let mut open = 1;
    let closes = |token: &String| {
        open += i32::from(token == "(") - i32::from(token == ")");
        open == 0
    };
    tokens.iter().position(closes).unwrap_or(tokens.len())
}

fn without_parentheses(mut tokens: &[String]) -> &[String] {
    while let [first, inside @ .., last] = tokens
        && first == "("
        && last == ")"
    {
        tokens = inside;
    }
    tokens
}

/// The column of a condition that consists of a NOT NULL test.
fn not_null(condition: &[String]) -> Option<&str> {
    let (column, rest) = condition.split_first()?;
    let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
    matches!(rest[..], ["is", "not", "null"] | ["not", "null"] | ["notnull"]).then(|| bare(column))
}

/// Removes the quotes that `tokens` put around a name.
fn bare(token: &str) -> &str {
    let inside = token.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    inside.unwrap_or(token)
}

/// Splits SQL into words and names in lower case, quoted names as `"name"`, strings unchanged, and single characters.
pub(in crate::monitor::advice) fn tokens(sql: &str) -> Vec<String> {
    let normal = |token: &str| match token.as_bytes()[0] {
        b'"' | b'`' | b'[' => format!("\"{}\"", unquoted(token).to_ascii_lowercase()),
        b'\'' => token.to_owned(),
        _ => token.to_ascii_lowercase(),
    };
    sql_text::tokens(sql).map(normal).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_ignore_spelling() {
        let one = Definition::parse("CREATE INDEX i ON t(a, lower(\"B\")) WHERE a > 1");
        let other =
            Definition::parse("create unique index \"(\" on [t(] (A,Lower ( [b] )) -- why\n Where/* so */a>1 -- end");
        assert_eq!(one, other);
        assert_eq!(one.columns.join(" "), "a , lower ( \"b\" )");
        assert_eq!(one.condition.join(" "), "a > 1");
    }

    #[test]
    fn different_conditions_differ() {
        let condition = |condition: &str| Definition::parse(&format!("CREATE INDEX i ON t(a) WHERE {condition}"));
        assert_ne!(condition("a = 'x'"), condition("a = 'X'"));
        assert_ne!(condition("a = 'it''s'"), condition("a = 'its'"));
        assert_ne!(condition("a > 1"), condition("a > 10"));
        assert_ne!(condition("ä > 1"), condition("Ä > 1"));
    }

    #[test]
    fn condition_that_excludes_only_null_is_recognized() {
        let excludes_only_null = |condition: &str| {
            let definition = Definition::parse(&format!("CREATE INDEX i ON t(a) WHERE {condition}"));
            definition.excludes_only_null(&["A", "b \"c"])
        };
        for yes in [
            "a IS NOT NULL",
            "A notnull",
            "(\"a\" NOT NULL)",
            "[b \"c] is not null AND (`a` is not null)",
            "\"b \"\"c\" IS NOT NULL",
        ] {
            assert!(excludes_only_null(yes), "{yes}");
        }
        for no in [
            "x IS NOT NULL",
            "a IS NULL",
            "a IS (NOT NULL)",
            "a IS NOT NULL AND x > 1",
            "a IS NOT NULL OR x > 1",
            "a > 1",
            "(a) IS NOT (NULL)",
            "'a' IS NOT NULL",
        ] {
            assert!(!excludes_only_null(no), "{no}");
        }
    }
}
