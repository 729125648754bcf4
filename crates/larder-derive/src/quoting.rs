//! Names of columns as SQL has them.

/// The keywords of SQLite, <https://sqlite.org/lang_keywords.html>, and the two names that it takes for numbers. Some of
/// them are names of columns also without quotes; with quotes all are.
const WORDS: &str = "
    abort action add after all alter always analyze and as asc attach autoincrement before begin between by cascade case
    cast check collate column commit conflict constraint create cross current current_date current_time current_timestamp
    database default deferrable deferred delete desc detach distinct do drop each else end escape except exclude exclusive
    exists explain fail false filter first following for foreign from full generated glob group groups having if ignore
    immediate in index indexed initially inner insert instead intersect into is isnull join key last left like limit match
    materialized natural no not nothing notnull null nulls of offset on or order others outer over partition plan pragma
    preceding primary query raise range recursive references regexp reindex release rename replace restrict returning
    right rollback row rows savepoint select set table temp temporary then ties to transaction trigger true unbounded
    union unique update using vacuum values view virtual when where window with within without";

/// The name, in quotes if it needs them.
pub(crate) fn quoted(name: &str) -> String {
    if is_plain(name) && !is_word(name) {
        return name.to_owned();
    }
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn is_plain(name: &str) -> bool {
    let may_begin = |first: u8| first.is_ascii_alphabetic() || first == b'_';
    name.bytes().next().is_some_and(may_begin) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn is_word(name: &str) -> bool {
    WORDS
        .split_ascii_whitespace()
        .any(|word| word.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn names_are_quoted_where_sql_needs_it() {
        for plain in ["id", "created_at", "_", "createdAt", "x1", "orders", "withs"] {
            assert_eq!(quoted(plain), plain);
        }
        let quotes = [
            ("order", r#""order""#),
            ("Group", r#""Group""#),
            ("two words", r#""two words""#),
            ("kebab-case", r#""kebab-case""#),
            ("1st", r#""1st""#),
            ("größe", r#""größe""#),
            (r#"say "hi""#, r#""say ""hi""""#),
            ("", r#""""#),
        ];
        for (name, expected) in quotes {
            assert_eq!(quoted(name), expected);
        }
    }
}
