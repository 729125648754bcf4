//! What an export does not make: views, triggers, full-text and other virtual tables; with SQL to review.

use super::report::ExportNote;
use super::schema::{Column, Other, Schema, Table, shortened};
use super::sql::{Token, group, spans, split, tokens};
use super::statements::{Names, differences};
use crate::connection::sql_text::{quoted, string};
use crate::postgres::types::PgType;

/// Notes about what is no table, and about comments that are not kept. The types of all columns are known.
pub(super) fn notes(schema: &Schema, target: &str) -> Vec<ExportNote> {
    let names = Names::of(schema);
    let full_texts: Vec<FullText> = schema.others.iter().filter_map(FullText::parse).collect();
    let note = |other: &Other| {
        let full_text = full_texts.iter().find(|known| known.name == other.name);
        let (instead, sql) = match (other.kind.as_str(), full_text) {
            ("view", _) => view(other, schema, &names, target),
            ("trigger", _) => trigger(other, &names, &full_texts),
            ("shadow", _) => (
                "not made, its rows neither: it belongs to a virtual table by its name".to_owned(),
                Some(other.sql.clone()),
            ),
            (_, Some(full_text)) => full_text.note(schema, target),
            _ => (
                "not made, its rows neither: a virtual table has no counterpart".to_owned(),
                Some(other.sql.clone()),
            ),
        };
        let rows = other.rows.map_or(String::new(), |rows| format!("; it has {rows} rows"));
        ExportNote {
            object: format!("{} {}", other.kind, other.name),
            instead: format!("{instead}{rows}"),
            sql,
        }
    };
    let unclear = schema.tables.iter().filter(|table| !table.comments.unclear.is_empty());
    let unclear = unclear.map(|table| ExportNote {
        object: format!("comments of table {}", table.name),
        instead: "not kept: it is not clear what they are about".to_owned(),
        sql: Some(
            table
                .comments
                .unclear
                .iter()
                .map(|text| format!("-- {}", text.replace('\n', "\n-- ")))
                .collect::<Vec<_>>()
                .join("\n"),
        ),
    });
    let marks = schema.marks.iter().map(|(name, number)| ExportNote {
        object: format!("PRAGMA {name} = {number}"),
        instead: "not there: keep it in a table if the program reads it".to_owned(),
        sql: None,
    });
    schema.others.iter().map(note).chain(unclear).chain(marks).collect()
}

fn listed(found: &[super::report::ExportDifference]) -> String {
    let listed = found.iter().map(|found| format!("{} ({})", found.what, found.instead));
    listed.collect::<Vec<_>>().join("; ")
}

/// A view: its statement for the server, if all of it means the same there.
fn view(view: &Other, schema: &Schema, names: &Names, target: &str) -> (String, Option<String>) {
    let own = || Some(view.sql.clone());
    let found = differences(&view.sql, names);
    if !found.is_empty() {
        return (
            format!("not made: write it in the server's SQL; it uses {}", listed(&found)),
            own(),
        );
    }
    let spans = spans(&view.sql);
    let mut depth = 0_usize;
    let begin = spans.iter().position(|span| {
        let Some(token) = &span.token else { return false };
        if token.is_mark("(") {
            depth += 1;
        } else if token.is_mark(")") {
            depth = depth.saturating_sub(1);
        }
        depth == 0 && token.is_word("as")
    });
    let body = begin.and_then(|at| spans.get(at + 1)).map(|span| &view.sql[span.at..]);
    let columns = begin.and_then(|end| {
        let head: Vec<Token> = spans[..end].iter().filter_map(|span| span.token.clone()).collect();
        let open = head.iter().position(|token| token.is_mark("("))?;
        let list: Option<Vec<String>> = split(group(&head[open..]))
            .iter()
            .map(|name| Some(quoted(name.first()?.name()?)))
            .collect();
        Some(format!(" ({})", list?.join(", ")))
    });
    match body {
        Some(body) if is_plain(&tokens(body), schema) => {
            let name = format!("{}.{}", quoted(target), quoted(&shortened(&view.name)));
            let columns = columns.unwrap_or_default();
            (
                "not made: this statement should mean the same, if its tables are in the search_path".to_owned(),
                Some(format!("CREATE VIEW {name}{columns} AS {body};")),
            )
        }
        _ => (
            "not made: write it in the server's SQL; some of it may mean something else there".to_owned(),
            own(),
        ),
    }
}

/// Words of a SELECT that mean the same, beside those of expressions.
const SELECT: [&str; 30] = [
    "select",
    "distinct",
    "all",
    "from",
    "where",
    "as",
    "join",
    "inner",
    "left",
    "outer",
    "cross",
    "on",
    "using",
    "group",
    "by",
    "having",
    "order",
    "asc",
    "desc",
    "nulls",
    "first",
    "last",
    "limit",
    "offset",
    "union",
    "except",
    "intersect",
    "exists",
    "true",
    "false",
];

/// Whether a SELECT has nothing but what means the same at the server.
fn is_plain(tokens: &[Token], schema: &Schema) -> bool {
    let columns: Vec<&Column> = schema.tables.iter().flat_map(|table| &table.columns).collect();
    let is_relation = |name: &str| {
        let tables = schema.tables.iter().map(|table| &table.name);
        let views = schema
            .others
            .iter()
            .filter(|other| other.kind == "view")
            .map(|other| &other.name);
        tables.chain(views).any(|known| known.eq_ignore_ascii_case(name))
    };
    // Names that are given here: behind AS, or behind the name of a table.
    let aliases: Vec<&str> = (1..tokens.len())
        .filter(|at| {
            let before = &tokens[at - 1];
            before.is_word("as") || before.is_mark(")") || before.name().is_some_and(is_relation)
        })
        .filter_map(|at| tokens[at].name())
        .filter(|name| !SELECT.iter().any(|word| word.eq_ignore_ascii_case(name)))
        .collect();
    let is_alias = |name: &str| aliases.iter().any(|alias| alias.eq_ignore_ascii_case(name));
    tokens.iter().enumerate().all(|(at, token)| match token {
        Token::Word(word) | Token::Name(word) => {
            let is_call = tokens.get(at + 1).is_some_and(|next| next.is_mark("("));
            let is_word = matches!(token, Token::Word(_));
            let counts = is_call && word.eq_ignore_ascii_case("count");
            let is_bool = columns
                .iter()
                .any(|column| column.name.eq_ignore_ascii_case(word) && column.kind == PgType::Bool);
            let is_known = is_relation(word)
                || is_alias(word)
                || (is_word && SELECT.iter().any(|known| known.eq_ignore_ascii_case(word)));
            let is_known = is_known || (is_word && counts);
            !is_bool
                && (is_known
                    || super::expression::translated(
                        &tokens[at..(at + 1 + usize::from(is_call)).min(tokens.len())],
                        &columns,
                    )
                    .is_some())
        }
        token => {
            token.is_mark(".")
                || token.is_mark(";")
                || super::expression::translated(std::slice::from_ref(token), &columns).is_some()
        }
    })
}

fn trigger(trigger: &Other, names: &Names, full_texts: &[FullText]) -> (String, Option<String>) {
    let all = tokens(&trigger.sql);
    let begin = all.iter().position(|token| token.is_word("begin")).unwrap_or(all.len());
    let body = &all[begin..];
    let writes = |at: usize, name: &str| {
        body.get(at)
            .and_then(Token::name)
            .is_some_and(|there| there.eq_ignore_ascii_case(name))
    };
    let targets = |word: &str| -> Vec<usize> {
        (1..body.len())
            .filter(|at| body[at - 1].is_word(word) && !body[*at].is_word("or"))
            .collect()
    };
    let written: Vec<usize> = [targets("into"), targets("update"), targets("from")].concat();
    let of_full_text = |at: &usize| full_texts.iter().any(|full_text| writes(*at, &full_text.name));
    let instead = if !written.is_empty() && written.iter().all(of_full_text) {
        "not made, and not needed: the generated column of the full-text search does its work".to_owned()
    } else {
        let found = differences(&trigger.sql, names);
        let raises = body.iter().any(|token| token.is_word("raise"));
        let raise = if raises {
            "; RAISE(ABORT, ..) is RAISE EXCEPTION there"
        } else {
            ""
        };
        let uses = if found.is_empty() {
            String::new()
        } else {
            format!("; it uses {}", listed(&found))
        };
        format!(
            "not made: write CREATE FUNCTION .. RETURNS trigger LANGUAGE plpgsql and CREATE TRIGGER .. EXECUTE FUNCTION, or do \
             its work in the program{raise}{uses}"
        )
    };
    (instead, Some(trigger.sql.clone()))
}

/// A full-text table.
struct FullText {
    name: String,
    columns: Vec<String>,
    /// Those that are not searched.
    unindexed: Vec<String>,
    /// `None` for one that has its own rows, and an empty name for one that has none.
    content: Option<String>,
    tokenizer: String,
}

impl FullText {
    fn parse(other: &Other) -> Option<Self> {
        let all = tokens(&other.sql);
        let using = all.iter().position(|token| token.is_word("using"))?;
        let module = all.get(using + 1)?.name()?.to_ascii_lowercase();
        if other.kind != "virtual" || !module.starts_with("fts") {
            return None;
        }
        let mut found = Self {
            name: other.name.clone(),
            columns: Vec::new(),
            unindexed: Vec::new(),
            content: None,
            tokenizer: String::new(),
        };
        for part in split(group(&all[using + 2..])) {
            match part {
                [Token::Word(option), is, value, ..] if is.is_mark("=") => {
                    let value = value.name().unwrap_or_default();
                    match option.to_ascii_lowercase().as_str() {
                        "content" => found.content = Some(value.to_owned()),
                        // FTS3 and FTS4 have no quotes around it.
                        "tokenize" => found.tokenizer = value.to_ascii_lowercase(),
                        _ => {}
                    }
                }
                [column, rest @ ..] => {
                    let name = column.name()?.to_owned();
                    if rest.iter().any(|token| token.is_word("unindexed")) {
                        found.unindexed.push(name.clone());
                    }
                    found.columns.push(name);
                }
                [] => {}
            }
        }
        Some(found)
    }

    /// What takes its place, and the draft of its statements.
    fn note(&self, schema: &Schema, target: &str) -> (String, Option<String>) {
        let content = self.content.as_deref();
        let of_content = schema
            .tables
            .iter()
            .find(|table| content.is_some_and(|content| table.name.eq_ignore_ascii_case(content)));
        let trigram = self.tokenizer.contains("trigram");
        match (of_content, content) {
            (Some(table), _) => {
                let columns: Option<Vec<&Column>> = self.searched().map(|name| column(table, name)).collect();
                let Some(columns) = columns else {
                    return (
                        format!(
                            "not made: table {} lacks a column of it, so write the search for the server",
                            table.name
                        ),
                        None,
                    );
                };
                let qualified = table.qualified(target);
                let columns: Vec<(String, bool)> = columns
                    .iter()
                    .map(|column| (quoted(&column.target), column.kind == PgType::Text))
                    .collect();
                let search = self.column_beside(table);
                let mut sql = String::new();
                if !trigram {
                    sql = format!(
                        "ALTER TABLE {qualified} ADD COLUMN {search} tsvector GENERATED ALWAYS AS ({}) STORED;\n",
                        self.vector(&columns)
                    );
                }
                sql.push_str(&self.index(&qualified, &search, &columns));
                (
                    format!(
                        "not made: a generated column of table {} and an index; {}",
                        table.name,
                        self.queries(&search)
                    ),
                    Some(sql),
                )
            }
            (None, Some("")) => (
                "not made: it has no text, so write the text from the program into a table with a tsvector column"
                    .to_owned(),
                None,
            ),
            (None, Some(content)) => (
                format!("not made: its text is in {content}, which is no table; write the search for the server"),
                None,
            ),
            (None, None) => {
                let qualified = format!("{}.{}", quoted(target), quoted(&shortened(&self.name)));
                let all: Vec<String> = self
                    .columns
                    .iter()
                    .map(|name| format!("{} text", quoted(&shortened(name))))
                    .collect();
                let columns: Vec<(String, bool)> =
                    self.searched().map(|name| (quoted(&shortened(name)), true)).collect();
                let search = quoted("search");
                let vector = match trigram {
                    true => String::new(),
                    false => format!(
                        ", {search} tsvector GENERATED ALWAYS AS ({}) STORED",
                        self.vector(&columns)
                    ),
                };
                let sql = format!(
                    "CREATE TABLE {qualified} (\"rowid\" bigint PRIMARY KEY, {}{vector});\n{}",
                    all.join(", "),
                    self.index(&qualified, &search, &columns)
                );
                (
                    format!(
                        "not made, its rows neither: a table with a generated column and an index, for the rows of SELECT rowid, * \
                         FROM {}; {}",
                        self.name,
                        self.queries(&search)
                    ),
                    Some(sql),
                )
            }
        }
    }

    fn searched(&self) -> impl Iterator<Item = &str> {
        let columns = self.columns.iter().filter(|column| !self.unindexed.contains(column));
        columns.map(String::as_str)
    }

    /// Words as they are, or their stems, as the tokenizer has it.
    fn configuration(&self) -> &'static str {
        if self.tokenizer.contains("porter") {
            "'english'"
        } else {
            "'simple'"
        }
    }

    /// The expression of the generated column. Up to four columns have a weight each, by which a query can name one.
    fn vector(&self, columns: &[(String, bool)]) -> String {
        const WEIGHTS: [&str; 4] = ["A", "B", "C", "D"];
        let configuration = self.configuration();
        let of_column = |(at, (name, is_text)): (usize, &(String, bool))| {
            let cast = if *is_text { "" } else { "::text" };
            let vector = format!("to_tsvector({configuration}, coalesce({name}{cast}, ''))");
            match columns.len() {
                2..=4 => format!("setweight({vector}, {})", string(WEIGHTS[at])),
                _ => vector,
            }
        };
        columns
            .iter()
            .enumerate()
            .map(of_column)
            .collect::<Vec<_>>()
            .join(" || ")
    }

    fn index(&self, qualified: &str, search: &str, columns: &[(String, bool)]) -> String {
        if !self.tokenizer.contains("trigram") {
            return format!("CREATE INDEX ON {qualified} USING gin ({search});");
        }
        let columns: Vec<String> = columns.iter().map(|(name, _)| format!("{name} gin_trgm_ops")).collect();
        format!(
            "CREATE EXTENSION IF NOT EXISTS pg_trgm;\nCREATE INDEX ON {qualified} USING gin ({});",
            columns.join(", ")
        )
    }

    /// What a query is there.
    fn queries(&self, search: &str) -> String {
        if self.tokenizer.contains("trigram") {
            return "MATCH 'part' is column ILIKE '%part%' there, by the index of trigrams".to_owned();
        }
        let name = &self.name;
        let query = format!("websearch_to_tsquery({}, $1)", self.configuration());
        let weights = match self.searched().count() {
            2..=4 => format!(
                "; a column filter is a weight, to_tsquery({}, 'word:A') for the first column",
                self.configuration()
            ),
            _ => String::new(),
        };
        let unaccented =
            "; letters with and without accents differ there, unless the extension unaccent is in the configuration";
        format!(
            "{name} MATCH ?1 ORDER BY rank is {search} @@ {query} ORDER BY ts_rank({search}, {query}) DESC{weights}{unaccented}"
        )
    }

    /// A name for the generated column that the table does not have yet.
    fn column_beside(&self, table: &Table) -> String {
        let mut name = shortened(&format!("{}_search", self.name));
        while column(table, &name).is_some() {
            name = shortened(&format!("{name}_"));
        }
        quoted(&name)
    }
}

fn column<'t>(table: &'t Table, name: &str) -> Option<&'t Column> {
    table
        .columns
        .iter()
        .find(|column| column.name.eq_ignore_ascii_case(name))
}
