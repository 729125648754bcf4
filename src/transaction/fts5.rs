//! Text that a user has typed, as queries of full-text tables.
//!
//! `MATCH` takes a query in a language of its own, in which quotes, parentheses, `-`, `*`, `:`, `^`, `AND`, `OR`, `NOT`
//! and `NEAR` have a meaning: text from a search box is often a syntax error there, or a query that the user did not
//! mean. The functions of this module make a query that is never one.
//!
//! | | finds the rows with | the text `new york` as a query |
//! |---|---|---|
//! | [`phrase`] | the words in this order, side by side | `"new york"` |
//! | [`all_words`] | all words, anywhere | `"new" "york"` |
//! | [`any_word`] | at least one of the words | `"new" OR "york"` |
//! | [`prefix`] | all words, the last of which may be a beginning: search as you type | `"new" "york" *` |
//!
//! ```
//! use larder::{Store, fts5};
//!
//! let store = Store::open_temp()?;
//! let sql = "CREATE VIRTUAL TABLE notes USING fts5(body);
//!            INSERT INTO notes VALUES ('a cat sat here'), ('the cat''s \"hat\"')";
//! store.write(|tx| tx.execute_batch(sql))?;
//!
//! let search = |query: String| {
//!     let sql = "SELECT rowid FROM notes WHERE notes MATCH ?1 ORDER BY rank";
//!     store.read(|tx| tx.scalars::<i64>(sql, [query]))
//! };
//! assert_eq!(search(fts5::all_words("\"HAT\" (cat"))?, [2]); // a syntax error as it is
//! assert_eq!(search(fts5::prefix("cat sa"))?, [1]);
//! assert!(search(fts5::phrase("sat cat"))?.is_empty());
//! assert_eq!(search(fts5::any_word("sat, hat"))?.len(), 2);
//! # Ok::<_, larder::Error>(())
//! ```
//!
//! # What is a word
//!
//! The text is split at white space, and each part is quoted; the table's tokenizer decides which words are in it. `C++`
//! is the word `c` for `unicode61`, and `don't` the two words `don` and `t`, side by side. A part without a word, as `&`,
//! is ignored. For `trigram` a part needs at least three characters; a shorter one is ignored.
//!
//! # An empty query finds nothing
//!
//! Text without a word (empty, white space, or only punctuation) becomes a query that matches no row, as it does for
//! FTS5. A service that shows everything while the search box is empty needs a query without `MATCH` for that:
//!
//! ```
//! # use larder::{ReadTx, Result, Store, fts5};
//! fn search(tx: &ReadTx<'_>, text: &str) -> Result<Vec<i64>> {
//!     if text.trim().is_empty() {
//!         return tx.scalars("SELECT rowid FROM notes ORDER BY rowid DESC LIMIT 50", []);
//!     }
//!     let sql = "SELECT rowid FROM notes WHERE notes MATCH ?1 ORDER BY rank LIMIT 50";
//!     tx.scalars(sql, [fts5::all_words(text)])
//! }
//! # let store = Store::open_temp()?;
//! # store.write(|tx| tx.execute_batch("CREATE VIRTUAL TABLE notes USING fts5(body); INSERT INTO notes VALUES ('a')"))?;
//! # assert_eq!(store.read(|tx| Ok((search(tx, " ")?, search(tx, "-")?)))?, (vec![1], vec![]));
//! # Ok::<_, larder::Error>(())
//! ```
//!
//! # Limits
//!
//! The first [`MAX_CHARS`] characters of the text count, up to the end of the last whole word in them; the rest is
//! ignored. Each word costs a walk through its entries in the index, so a text of thousands of words would take seconds. A
//! word that comes twice counts once, except in a phrase. U+0000, at which SQLite would end the query, is white space.
//! [`ReadOptions::execution_timeout`](crate::ReadOptions::execution_timeout) bounds the time.
//!
//! # Part of a larger query
//!
//! In parentheses a query can be part of another one: `format!("title : ({})", fts5::all_words(text))` searches one
//! column, and `format!("({}) NOT ({})", ..)` excludes rows. Inside of such a query, one without a word matches no row.

use std::borrow::Cow;
use std::collections::HashSet;

/// The number of characters of a text that count. See [Limits](self#limits).
pub const MAX_CHARS: usize = 256;

/// A query for the words of the text side by side, in this order.
///
/// ```
/// use larder::fts5;
///
/// assert_eq!(fts5::phrase("new york"), r#""new york""#);
/// assert_eq!(fts5::phrase(r#"say "hi" OR"#), r#""say ""hi"" OR""#);
/// assert_eq!(fts5::phrase(""), r#""""#); // matches no row
/// ```
pub fn phrase(text: &str) -> String {
    quoted(bounded(text))
}

/// A query for all words of the text, in any order and anywhere in the row. The words of a part without white space,
/// such as `well-known`, must be side by side.
///
/// ```
/// use larder::fts5;
///
/// assert_eq!(fts5::all_words("new york"), r#""new" "york""#);
/// assert_eq!(fts5::all_words("NOT (well-known)"), r#""NOT" "(well-known)""#);
/// assert_eq!(fts5::all_words(" "), r#""""#); // matches no row
/// ```
pub fn all_words(text: &str) -> String {
    joined(text, " ")
}

/// A query for at least one word of the text. Order by `rank`: rows with more of the words, and with rarer ones, come
/// first.
///
/// ```
/// use larder::fts5;
///
/// assert_eq!(fts5::any_word("new york"), r#""new" OR "york""#);
/// assert_eq!(fts5::any_word(""), r#""""#); // matches no row
/// ```
pub fn any_word(text: &str) -> String {
    joined(text, " OR ")
}

/// A query for all words of the text, of which the last one may be the beginning of a word: for results while the user
/// types. With the option `prefix='2 3'` the table has an index for it.
///
/// With the tokenizer `porter` a beginning is reduced to its stem as if it were a word, so `runni` does not find
/// `running`, which is in the index as `run`. Use `unicode61` for search as you type.
///
/// ```
/// use larder::fts5;
///
/// assert_eq!(fts5::prefix("new yo"), r#""new" "yo" *"#);
/// assert_eq!(fts5::prefix(""), r#""" *"#); // matches no row
/// ```
pub fn prefix(text: &str) -> String {
    let mut query = joined(text, " ");
    query.push_str(" *");
    query
}

/// Each distinct part of the text in quotes, between them the operator.
fn joined(text: &str, operator: &str) -> String {
    let text = bounded(text);
    let parts: Vec<&str> = text.split(is_space).filter(|part| !part.is_empty()).collect();
    let mut seen = HashSet::new();
    // The last occurrence of each, since the last part of a prefix must stay the last.
    let mut distinct: Vec<&str> = parts.into_iter().rev().filter(|part| seen.insert(*part)).collect();
    distinct.reverse();
    if distinct.is_empty() {
        return quoted("");
    }
    let quoted: Vec<String> = distinct.into_iter().map(quoted).collect();
    quoted.join(operator)
}

/// A string of the query language.
fn quoted(text: &str) -> String {
    format!("\"{}\"", without_nul(text).replace('"', "\"\""))
}

fn without_nul(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        text.replace('\0', " ").into()
    } else {
        text.into()
    }
}

fn is_space(c: char) -> bool {
    c.is_whitespace() || c == '\0'
}

/// The part of the text that counts. Half a word would find other rows, so it ends at the end of a word if it has one.
fn bounded(text: &str) -> &str {
    if text.chars().nth(MAX_CHARS).is_none() {
        return text;
    }
    let text = text.trim_start_matches(is_space);
    let Some((end, next)) = text.char_indices().nth(MAX_CHARS) else {
        return text;
    };
    let counts = &text[..end];
    if is_space(next) {
        return counts;
    }
    let last_whole = counts
        .rfind(is_space)
        .or_else(|| counts.rfind(|c: char| !c.is_alphanumeric()));
    last_whole.map_or(counts, |end| &counts[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_ends_at_end_of_word() {
        let words = "word ".repeat(400);
        assert_eq!(bounded(&words), "word ".repeat(51).trim_end());
        let words = "ant bee ".repeat(400);
        assert!(
            bounded(&words).ends_with(" bee") || bounded(&words).ends_with(" ant"),
            "{}",
            bounded(&words)
        );
        // The last character that counts is the last of a word, or is in one.
        let exact = format!("{} end", "x".repeat(MAX_CHARS - 4));
        assert_eq!(bounded(&exact), exact);
        assert_eq!(bounded(&format!("{exact} more")), exact);
        assert_eq!(bounded(&format!("{exact}ing more")), "x".repeat(MAX_CHARS - 4));
        // One word alone is cut.
        assert_eq!(bounded(&format!(" {}", "x".repeat(5000))), "x".repeat(MAX_CHARS));
        assert_eq!(bounded(&format!("  {exact}")), exact);
        assert_eq!(bounded(&"x".repeat(5000)).len(), MAX_CHARS);
        assert_eq!(bounded(&"語".repeat(5000)).chars().count(), MAX_CHARS);
    }

    #[test]
    fn repeated_words_count_once() {
        assert_eq!(all_words("a b a  a\tb"), r#""a" "b""#);
        assert_eq!(any_word("a\0a"), r#""a""#);
        assert_eq!(prefix("new y new"), r#""y" "new" *"#);
        assert_eq!(phrase("the the"), r#""the the""#);
    }
}
