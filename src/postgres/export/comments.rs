//! Comments in the SQL of a table, as COMMENT ON TABLE and COMMENT ON COLUMN.
//!
//! A comment is taken where it is clear what it is about: inside the definition of a column or behind it, on a line with
//! no other column; beside the name of the table, or behind its last parenthesis. One on a line of its own may be about
//! what is above it or below it.

use super::schema::Table;
use super::sql::{Span, spans};
use crate::connection::sql_text::{quoted, string};

/// The comments of a table.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Comments {
    pub(super) table: Option<String>,
    /// By the name of the column.
    pub(super) columns: Vec<(String, String)>,
    pub(super) unclear: Vec<String>,
}

/// Where a comment is.
enum Place {
    Table,
    /// The number of an item between the commas.
    Item(usize),
    Unclear,
}

/// A definition between two commas.
#[derive(Default)]
struct Item {
    /// Its name, if it is a column.
    column: Option<String>,
    /// The lines of its tokens.
    lines: Vec<usize>,
    /// The position in the list of spans of its first token, and of what ends it.
    begin: usize,
    end: usize,
}

impl Comments {
    pub(super) fn parse(sql: &str) -> Self {
        let spans = spans(sql);
        let mut comments = Self::default();
        if spans.iter().all(|span| span.token.is_some()) {
            return comments;
        }
        let lines = lines(sql, &spans);
        let (open, items, close) = items(&spans, &lines);
        for (at, span) in spans.iter().enumerate().filter(|(_, span)| span.token.is_none()) {
            let text = text_of(span.text);
            if text.is_empty() {
                continue;
            }
            let place = match at {
                _ if at < open || at > close => Place::Table,
                _ => place(at, &lines, open, &items),
            };
            match place {
                Place::Table => append(comments.table.get_or_insert_default(), &text),
                Place::Item(item) => match &items[item].column {
                    Some(column) => match comments.columns.iter_mut().find(|(known, _)| known == column) {
                        Some((_, before)) => append(before, &text),
                        None => comments.columns.push((column.clone(), text)),
                    },
                    None => comments.unclear.push(text),
                },
                Place::Unclear => comments.unclear.push(text),
            }
        }
        comments
    }
}

/// The line of each span.
fn lines(sql: &str, spans: &[Span<'_>]) -> Vec<usize> {
    let (mut line, mut from) = (0, 0);
    let of = |span: &Span<'_>| {
        line += sql[from..span.at].matches('\n').count();
        from = span.at;
        line
    };
    spans.iter().map(of).collect()
}

/// The position of the first parenthesis, the definitions behind it, and the position of the last one.
fn items(spans: &[Span<'_>], lines: &[usize]) -> (usize, Vec<Item>, usize) {
    const CONSTRAINTS: [&str; 5] = ["constraint", "primary", "unique", "check", "foreign"];
    let (mut items, mut open, mut depth) = (vec![Item::default()], None, 0_usize);
    for (at, span) in spans.iter().enumerate() {
        let Some(token) = &span.token else { continue };
        if token.is_mark("(") {
            depth += 1;
        } else if token.is_mark(")") {
            depth = depth.saturating_sub(1);
        }
        let Some(item) = items.last_mut() else { break };
        match open {
            None if depth == 1 => open = Some(at),
            None => {}
            Some(open) if depth == 0 => {
                item.end = at;
                return (open, items, at);
            }
            Some(_) if depth == 1 && token.is_mark(",") => {
                item.end = at;
                items.push(Item::default());
            }
            Some(_) => {
                if item.lines.is_empty() {
                    item.begin = at;
                    let is_constraint = CONSTRAINTS.iter().any(|word| token.is_word(word));
                    item.column = token.name().filter(|_| !is_constraint).map(str::to_owned);
                }
                item.lines.push(lines[at]);
            }
        }
    }
    (spans.len(), items, spans.len())
}

fn place(at: usize, lines: &[usize], open: usize, items: &[Item]) -> Place {
    let line = lines[at];
    let mut there = items.iter().enumerate().filter(|(_, item)| item.lines.contains(&line));
    let (first, second) = (there.next(), there.next());
    let inside = items
        .iter()
        .position(|item| item.begin < at && at < item.end && item.lines.contains(&line));
    match (inside, first, second) {
        (Some(item), ..) => Place::Item(item),
        // Behind the comma of the only definition on the line.
        (None, Some((number, item)), None) if item.end < at => Place::Item(number),
        (None, None, _) if lines.get(open) == Some(&line) => Place::Table,
        _ => Place::Unclear,
    }
}

/// A comment without its marks.
fn text_of(comment: &str) -> String {
    let text = match comment.strip_prefix("/*") {
        Some(text) => text.strip_suffix("*/").unwrap_or(text),
        None => comment.trim_start_matches('-'),
    };
    text.trim().to_owned()
}

fn append(to: &mut String, text: &str) {
    if !to.is_empty() {
        to.push('\n');
    }
    to.push_str(text);
}

impl Table {
    /// The statements of its comments, and what they are about.
    pub(super) fn comments(&self, schema: &str) -> Vec<(String, Option<String>)> {
        let qualified = self.qualified(schema);
        let of_table = self.comments.table.iter().map(|text| {
            let statement = format!("COMMENT ON TABLE {qualified} IS {}", string(text));
            (format!("comment on table {}", self.name), Some(statement))
        });
        let of_column = |(name, text): &(String, String)| {
            let column = self
                .columns
                .iter()
                .find(|column| column.name.eq_ignore_ascii_case(name))?;
            let target = quoted(&column.target);
            let statement = format!("COMMENT ON COLUMN {qualified}.{target} IS {}", string(text));
            Some((
                format!("comment on column {}.{}", self.name, column.name),
                Some(statement),
            ))
        };
        of_table
            .chain(self.comments.columns.iter().filter_map(of_column))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(comments: &Comments) -> Vec<(&str, &str)> {
        let columns = comments.columns.iter();
        columns.map(|(name, text)| (name.as_str(), text.as_str())).collect()
    }

    #[test]
    fn comments_beside_one_column_are_its_own() {
        let comments = Comments::parse(
            "CREATE TABLE t -- people
             (
                 -- the keys
                 id INTEGER PRIMARY KEY, -- never reused
                 name TEXT NOT NULL /* as it is
                     written */ CHECK (name <> '--' /* empty */ AND \"name\" > 'a, b'),
                 a INTEGER, b INTEGER, -- both
                 \"c d\" TEXT --- a last one
                 -- and more
                 , e TEXT,
                 UNIQUE (a) -- once
             ) -- since 2020
             STRICT",
        );
        assert_eq!(comments.table.as_deref(), Some("people\nsince 2020"));
        let wanted = [
            ("id", "never reused"),
            ("name", "as it is\n                     written\nempty"),
            ("c d", "a last one"),
        ];
        assert_eq!(columns(&comments), wanted);
        assert_eq!(comments.unclear, ["the keys", "both", "and more", "once"]);
    }

    #[test]
    fn comments_on_one_line_belong_to_what_they_are_in() {
        let comments = Comments::parse("CREATE TABLE t(/* first */ id INTEGER /* key */, n TEXT /* name */)");
        assert_eq!(columns(&comments), [("id", "key"), ("n", "name")]);
        assert_eq!((comments.table, comments.unclear), (None, vec!["first".to_owned()]));
        let comments = Comments::parse(
            "CREATE TABLE t ( /* shops */\n    \"id\" INTEGER PRIMARY KEY /* key */,\n \"n\" TEXT\n) STRICT",
        );
        assert_eq!(comments.table.as_deref(), Some("shops"));
        assert_eq!(columns(&comments), [("id", "key")]);
        assert_eq!(Comments::parse("CREATE TABLE t(a, b)"), Comments::default());
        assert_eq!(
            Comments::parse("CREATE TABLE t(a, b -- ").unclear,
            <[String; 0]>::default()
        );
    }
}
