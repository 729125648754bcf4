//! Text of users as queries of full-text tables: never a syntax error, and they find the row that has the text.

use larder::rusqlite::{self, params};
use larder::{Result, Store, WriteTx, fts5};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// For each, a table and one whose tokens can be counted.
const TOKENIZERS: [(&str, &str); 5] = [
    ("plain", "unicode61"),
    ("folded", "unicode61 remove_diacritics 2"),
    ("signs", "unicode61 tokenchars '-_.@'"),
    ("stems", "porter unicode61"),
    ("parts", "trigram"),
];

type Query = fn(&str) -> String;

const QUERIES: [(&str, Query); 4] = [
    ("phrase", fts5::phrase),
    ("all_words", fts5::all_words),
    ("any_word", fts5::any_word),
    ("prefix", fts5::prefix),
];

/// What has a meaning in the language of queries, in SQL, or for a tokenizer.
const PIECES: &[&str] = &[
    "\"",
    "\"\"",
    "'",
    "(",
    ")",
    "{",
    "}",
    "[",
    "]",
    "*",
    "^",
    "-",
    "+",
    ":",
    ",",
    ".",
    ";",
    "\\",
    "%",
    "_",
    "@",
    "?1",
    "\0",
    "\u{1a}",
    "\u{1}",
    "\u{7f}",
    "\t",
    "\n",
    "\r\n",
    " ",
    "  ",
    "\u{a0}",
    "\u{3000}",
    "\u{200b}",
    "\u{feff}",
    "\u{301}",
    "\u{202e}",
    "\u{fffd}",
    "\u{e000}",
    "\u{10ffff}",
    "AND",
    "OR",
    "NOT",
    "NEAR",
    "NEAR(",
    "NEAR(a b, 2)",
    "and",
    "title",
    "title:",
    "{title body} :",
    "- title :",
    "rank",
    "rowid",
    "--",
    "/*",
    "*/",
    "a",
    "b",
    "ab",
    "abc",
    "running",
    "Universities",
    "don't",
    "C++",
    "e-mail@example.com",
    "1.5",
    "é",
    "e\u{301}",
    "ß",
    "İ",
    "Σ",
    "語",
    "全文検索",
    "สวัสดี",
    "한국어",
    "עברית",
    "👩‍👩‍👧‍👦",
    "🇩🇪",
    "😀",
];

fn store() -> Store {
    let store = Store::open_temp().unwrap();
    store
        .write(|tx| {
            for (table, tokenizer) in TOKENIZERS {
                tx.execute_batch(&format!(
                    "CREATE VIRTUAL TABLE {table} USING fts5(title, body, tokenize=\"{tokenizer}\");
                     CREATE VIRTUAL TABLE {table}_probe USING fts5(text, tokenize=\"{tokenizer}\");
                     CREATE VIRTUAL TABLE {table}_tokens USING fts5vocab({table}_probe, instance);"
                ))?;
            }
            Ok(())
        })
        .unwrap();
    store
}

fn found(tx: &WriteTx<'_>, table: &str, query: &str) -> Result<Vec<i64>> {
    let sql = format!("SELECT rowid FROM {table} WHERE {table} MATCH ?1 ORDER BY rowid");
    tx.scalars(&sql, [query])
}

/// Whether the tokenizer of the table finds a word in one of the texts.
fn has_token<'a>(tx: &WriteTx<'_>, table: &str, texts: impl IntoIterator<Item = &'a str>) -> Result<bool> {
    tx.execute(&format!("DELETE FROM {table}_probe"), [])?;
    for text in texts {
        tx.execute(&format!("INSERT INTO {table}_probe VALUES (?1)"), [text])?;
    }
    tx.scalar(&format!("SELECT EXISTS (SELECT 1 FROM {table}_tokens)"), [])
}

/// Checks the queries of one text against a row that has it, and one that has not.
fn check(tx: &WriteTx<'_>, text: &str) -> Result<()> {
    let has_nul = text.contains('\0');
    for (table, _) in TOKENIZERS {
        tx.execute(&format!("DELETE FROM {table}"), [])?;
        let sql = format!("INSERT INTO {table}(rowid, title, body) VALUES (1, 'qqq', ?1), (2, 'zzz', 'zzz')");
        tx.execute(&sql, [text])?;
        let in_whole = has_token(tx, table, [text.replace('\0', " ").as_str()])?;
        let in_parts = has_token(tx, table, text.split(|c: char| c.is_whitespace() || c == '\0'))?;
        for (name, query) in QUERIES {
            let query = query(text);
            let explained = format!("{name}({text:?}) = {query:?} in {table}");
            let rows = found(tx, table, &query).unwrap_or_else(|error| panic!("{explained}: {error}"));
            let is_found = if name == "phrase" { in_whole } else { in_parts };
            // In the index, `trigram` ends a text at U+0000.
            if !(has_nul && table == "parts") {
                assert_eq!(rows.contains(&1), is_found, "{explained}");
            }
            // As a part of a larger query.
            let part = |query: String| found(tx, table, &query).unwrap_or_else(|error| panic!("{explained}: {error}"));
            assert_eq!(
                part(format!("body : ({query})")).contains(&1),
                rows.contains(&1),
                "{explained}"
            );
            assert_eq!(
                part(format!("({query}) AND ({query})")).contains(&1),
                rows.contains(&1),
                "{explained}"
            );
            assert!(part(format!("\"zzz\" OR ({query})")).contains(&2), "{explained}");
            assert!(!part(format!("({query}) NOT ({query})")).contains(&1), "{explained}");
            assert_eq!(
                part(format!("\"qqq\" NOT ({query})")).contains(&1),
                !rows.contains(&1),
                "{explained}"
            );
        }
    }
    Ok(())
}

/// The bound is 1,000 characters; these are far below it.
fn any_text() -> impl Strategy<Value = String> {
    let pieces = prop::collection::vec(prop::sample::select(PIECES), 0..12).prop_map(|pieces| pieces.concat());
    let spaced = prop::collection::vec(prop::sample::select(PIECES), 0..8).prop_map(|pieces| pieces.join(" "));
    let chars = prop::collection::vec(any::<char>(), 0..40).prop_map(String::from_iter);
    let ascii = prop::collection::vec(0..128_u8, 0..40).prop_map(|bytes| bytes.into_iter().map(char::from).collect());
    prop_oneof![pieces, spaced, chars, ascii, any::<String>()]
}

#[test]
fn any_text_is_query_that_finds_row_with_it() {
    let store = store();
    let config = Config {
        cases: 120,
        failure_persistence: None,
        ..Config::default()
    };
    let run = |text: String| {
        store.write(move |tx| check(tx, &text)).unwrap();
        Ok(())
    };
    TestRunner::new(config).run(&any_text(), run).unwrap();
}

#[test]
fn each_piece_alone_and_all_together_are_queries() {
    let store = store();
    store
        .write(|tx| {
            for text in PIECES {
                check(tx, text)?;
            }
            check(tx, "")?;
            check(tx, &PIECES.concat())?;
            check(tx, &PIECES.join(" "))
        })
        .unwrap();
}

#[test]
fn text_without_words_finds_nothing() {
    let store = store();
    for text in [
        "", " ", "\t\n", "!?", "\"", "\"\"", "\0", "*", "()", "-", "😀", "\u{301}", "& - &",
    ] {
        store
            .write(move |tx| {
                for table in ["plain", "stems", "parts"] {
                    tx.execute(&format!("INSERT INTO {table} VALUES ('some', 'text')"), [])?;
                    for (name, query) in QUERIES {
                        assert!(
                            found(tx, table, &query(text))?.is_empty(),
                            "{name}({text:?}) in {table}"
                        );
                    }
                }
                Ok(())
            })
            .unwrap();
    }
}

#[test]
fn words_that_are_operators_are_words() {
    let store = store();
    store
        .write(|tx| {
            tx.execute_batch(
                "INSERT INTO plain(rowid, title, body) VALUES (1, 'x', 'this or that'), (2, 'this', 'that')",
            )?;
            assert_eq!(found(tx, "plain", &fts5::all_words("this OR that"))?, [1]);
            assert_eq!(found(tx, "plain", &fts5::all_words("this -that"))?, [1, 2]);
            assert_eq!(found(tx, "plain", &fts5::all_words("title:this"))?, [0_i64; 0]);
            assert_eq!(found(tx, "plain", &fts5::phrase("THIS or"))?, [1]);
            assert_eq!(found(tx, "plain", &fts5::phrase("or this"))?, [0_i64; 0]);
            assert_eq!(found(tx, "plain", &fts5::all_words("that this"))?, [1, 2]);
            assert_eq!(found(tx, "plain", &fts5::any_word("or nothing"))?, [1]);
            assert_eq!(found(tx, "plain", &fts5::prefix("this o"))?, [1]);
            assert_eq!(found(tx, "plain", &fts5::prefix("o this"))?, [0_i64; 0]);
            assert_eq!(found(tx, "plain", &fts5::all_words("thi*"))?, [0_i64; 0]);
            Ok(())
        })
        .unwrap();
}

/// A text of some megabytes in the search box is neither an error nor seconds of work.
#[test]
fn very_long_text_is_query_of_its_beginning() {
    let store = store();
    let texts = [
        "ant ".repeat(1_000_000),
        (0..500_000).map(|word| format!("w{word} ")).collect(),
        "a-".repeat(1_000_000),
        "x".repeat(4_000_000),
        "\"".repeat(4_000_000),
        "語".repeat(1_000_000),
        "\0".repeat(4_000_000),
    ];
    for text in texts {
        for (name, query) in QUERIES {
            let query = query(&text);
            // Quotes double, and an operator is between two words.
            assert!(query.len() < 10 * fts5::MAX_CHARS, "{name}: {}", query.len());
            store
                .read(|tx| {
                    for (table, _) in TOKENIZERS {
                        let sql = format!("SELECT count(*) FROM {table} WHERE {table} MATCH ?1");
                        tx.scalar::<i64>(&sql, [&query])?;
                    }
                    Ok(())
                })
                .unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
    let mut words: String = (0..400).map(|word| format!("w{word} ")).collect();
    store
        .write(move |tx| {
            tx.execute(
                "INSERT INTO plain(rowid, title, body) VALUES (9, '', ?1)",
                params![words],
            )?;
            words.push_str("not in the row");
            for query in [fts5::all_words(&words), fts5::phrase(&words), fts5::prefix(&words)] {
                assert_eq!(found(tx, "plain", &query)?, [9]);
            }
            Ok(())
        })
        .unwrap();
}

/// The text of a user as it is fails: this is what the functions are for.
#[test]
fn text_as_it_is_can_be_syntax_error() {
    let store = store();
    for text in ["\"", "(", "c++", "AND", "", "nothing:", "it's"] {
        let read = store.read(|tx| tx.scalars::<i64>("SELECT rowid FROM plain WHERE plain MATCH ?1", [text]));
        let error = read.unwrap_err();
        assert!(
            matches!(error.sqlite(), Some(rusqlite::Error::SqliteFailure(..))),
            "{text:?}: {error:?}"
        );
    }
}
