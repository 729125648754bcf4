//! What the statements of a service use that PostgreSQL does otherwise, or not at all.
//!
//! It reads tokens, so that a word in a string or a comment does not count, and knows the names and types of the schema.
//! It parses no grammar: what depends on that (types of expressions, columns that GROUP BY determines) is left out where
//! it would be a guess.

use std::collections::{BTreeMap, BTreeSet};

use super::report::{ExportDifference, ExportNote, ExportStatement};
use super::schema::{Schema, shortened};
use super::sql::{Span, Token, group, spans, split};
use crate::connection::sql_text::{quoted, statements};
use crate::postgres::types::PgType;
use crate::telemetry::usage::OTHER;

/// How a text ends that the statistics have cut.
const CUT: &str = " .. (cut; ";

/// Functions of SQLite, and what takes their place.
const FUNCTIONS: &[(&str, &str)] = &[
    (
        "avg",
        "of bigint it is numeric there: cast the result, avg(x)::double precision",
    ),
    ("bm25", "ts_rank(column, query), which is greater for the better row"),
    ("changes", "the driver returns the number of rows of each statement"),
    ("char", "chr(x), of one number"),
    (
        "date",
        "columns of times are text there unless they are exported as date or timestamptz: (now() AT TIME ZONE 'UTC')::date",
    ),
    (
        "datetime",
        "to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') for text, now() for timestamptz; + interval '1 day' for modifiers",
    ),
    ("format", "format() knows %s, %I and %L alone; to_char() for numbers"),
    ("glob", "x ~ 'regular expression', or LIKE"),
    ("group_concat", "string_agg(x::text, ',' ORDER BY ..)"),
    ("hex", "upper(encode(x, 'hex')), of bytea"),
    ("highlight", "ts_headline(..)"),
    ("ifnull", "coalesce(x, y)"),
    ("iif", "CASE WHEN .. THEN .. ELSE .. END"),
    ("instr", "strpos(text, part)"),
    ("json", "x::jsonb, which does not keep the text"),
    ("json_array", "json_build_array(..)"),
    (
        "json_each",
        "jsonb_each(..) for objects, jsonb_array_elements(..) WITH ORDINALITY for arrays",
    ),
    (
        "json_extract",
        "x #>> '{a,b}' for text, x #> '{a,b}' for json; the column has to be json or jsonb",
    ),
    ("json_group_array", "json_agg(x)"),
    ("json_group_object", "json_object_agg(key, x)"),
    ("json_insert", "jsonb_insert(x, '{a}', value)"),
    ("json_object", "json_build_object(..)"),
    ("json_patch", "x || y of jsonb, which merges the first level alone"),
    ("json_quote", "to_json(x)::text"),
    ("json_remove", "x - 'key', or x #- '{a,b}', of jsonb"),
    ("json_replace", "jsonb_set(x, '{a}', value, false)"),
    ("json_set", "jsonb_set(x, '{a}', value)"),
    ("json_tree", "a recursive query, or jsonb_path_query(x, '$.**')"),
    ("json_type", "json_typeof(x), whose words differ"),
    (
        "json_valid",
        "x IS JSON from PostgreSQL 16 on; a column of json holds nothing else",
    ),
    ("julianday", "extract(julian FROM x), of timestamptz or date"),
    ("last_insert_rowid", "INSERT .. RETURNING id"),
    ("like", "x LIKE y, or ILIKE"),
    ("likelihood", "leave it out"),
    ("likely", "leave it out"),
    ("printf", "format() knows %s, %I and %L alone; to_char() for numbers"),
    ("quote", "quote_nullable(x)"),
    ("random", "it is a fraction from 0 to 1 there: (random() * n)::bigint"),
    (
        "randomblob",
        "gen_random_bytes(n) of the extension pgcrypto, or gen_random_uuid()",
    ),
    ("snippet", "ts_headline(..)"),
    ("sqlite_version", "version()"),
    (
        "strftime",
        "to_char(x, 'YYYY-MM-DD') or extract(..), of timestamptz; columns of times are text unless they are exported as such",
    ),
    ("sum", "of bigint it is numeric there: cast the result, sum(x)::bigint"),
    (
        "time",
        "x::time; columns of times are text unless they are exported as time or timestamptz",
    ),
    ("timediff", "age(x, y), of timestamptz"),
    ("total", "coalesce(sum(x), 0)::double precision"),
    (
        "total_changes",
        "the driver returns the number of rows of each statement",
    ),
    ("typeof", "pg_typeof(x): a column has one type there"),
    ("unhex", "decode(x, 'hex')"),
    ("unicode", "ascii(x)"),
    ("unixepoch", "extract(epoch FROM now())::bigint"),
    ("unlikely", "leave it out"),
    ("zeroblob", "decode(repeat('00', n), 'hex')"),
];

/// Names of the server's SQL that SQLite takes for those of columns and tables.
const RESERVED: &[&str] = &[
    "analyse",
    "array",
    "asymmetric",
    "authorization",
    "binary",
    "both",
    "concurrently",
    "current_catalog",
    "current_role",
    "current_user",
    "fetch",
    "freeze",
    "grant",
    "ilike",
    "lateral",
    "leading",
    "localtime",
    "localtimestamp",
    "only",
    "overlaps",
    "placing",
    "session_user",
    "similar",
    "some",
    "symmetric",
    "tablesample",
    "trailing",
    "user",
    "variadic",
    "verbose",
];

/// Tables that only SQLite has.
const SYSTEM_TABLES: &[&str] = &[
    "sqlite_master",
    "sqlite_schema",
    "sqlite_sequence",
    "sqlite_stat1",
    "sqlite_stat4",
    "sqlite_temp_master",
    "sqlite_temp_schema",
    "sqlite_dbpage",
    "dbstat",
];

/// The names of a schema, without case.
pub(super) struct Names {
    /// With their names at the server.
    tables: BTreeMap<String, String>,
    columns: BTreeMap<String, Vec<Known>>,
    /// What else has a name: views, virtual tables.
    others: BTreeSet<String>,
}

/// A column of some table.
struct Known {
    table: String,
    target: String,
    kind: PgType,
    is_nullable: bool,
    /// The one column of the primary key.
    is_key: bool,
}

impl Names {
    pub(super) fn of(schema: &Schema) -> Self {
        let mut columns: BTreeMap<String, Vec<Known>> = BTreeMap::new();
        for table in &schema.tables {
            for (at, column) in table.columns.iter().enumerate() {
                let in_key = table.key.contains(&at);
                columns.entry(lower(&column.name)).or_default().push(Known {
                    table: lower(&table.name),
                    target: column.target.clone(),
                    kind: column.kind,
                    is_nullable: !column.not_null && !in_key,
                    is_key: in_key && table.key.len() == 1,
                });
            }
        }
        let tables = schema.tables.iter();
        Self {
            tables: tables.map(|table| (lower(&table.name), table.target.clone())).collect(),
            columns,
            others: schema.others.iter().map(|other| lower(&other.name)).collect(),
        }
    }

    fn columns(&self, name: &str) -> &[Known] {
        self.columns.get(&lower(name)).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether every column of that name is so.
    fn all(&self, name: &str, is_so: impl Fn(&Known) -> bool) -> bool {
        let columns = self.columns(name);
        !columns.is_empty() && columns.iter().all(is_so)
    }

    fn has(&self, name: &str) -> bool {
        let lower = lower(name);
        self.tables.contains_key(&lower) || self.columns.contains_key(&lower) || self.others.contains(&lower)
    }
}

fn lower(name: &str) -> String {
    name.to_ascii_lowercase()
}

/// The statements that use what the server does otherwise, those that run most often first, and the number of all.
pub(super) fn look(texts: &[(String, u64)], names: &Names) -> (Vec<ExportStatement>, u64) {
    let mut all: BTreeMap<&str, u64> = BTreeMap::new();
    for (text, calls) in texts {
        for range in statements(text).filter(|_| text != OTHER) {
            *all.entry(&text[range]).or_default() += calls;
        }
    }
    let seen = all.len() as u64;
    let found = all.into_iter().map(|(sql, calls)| ExportStatement {
        sql: sql.to_owned(),
        calls,
        differences: differences(sql, names),
    });
    let mut found: Vec<ExportStatement> = found.filter(|statement| !statement.differences.is_empty()).collect();
    found.sort_by_key(|statement| std::cmp::Reverse(statement.calls));
    (found, seen)
}

/// A note about parameters, which have another form there.
pub(super) fn parameters(texts: &[(String, u64)]) -> Option<ExportNote> {
    let has = |text: &str| {
        spans(text).iter().any(|span| match &span.token {
            Some(Token::Mark(mark)) => ["?", ":", "@"].contains(&mark.as_str()),
            Some(Token::Word(word)) => word.starts_with('$'),
            _ => false,
        })
    };
    let all = texts
        .iter()
        .flat_map(|(text, _)| statements(text).map(|range| &text[range]));
    let count = all
        .collect::<BTreeSet<&str>>()
        .into_iter()
        .filter(|text| has(text))
        .count();
    (count > 0).then(|| ExportNote {
        object: format!("parameters of {count} statements"),
        instead: "they are $1, $2 and so on there, for ?1, ? and :name".to_owned(),
        sql: None,
    })
}

/// What one statement uses that the server does otherwise.
pub(super) fn differences(sql: &str, names: &Names) -> Vec<ExportDifference> {
    let is_cut = sql.ends_with(')') && sql.contains(CUT);
    let text = match sql.rsplit_once(CUT) {
        Some((text, _)) if is_cut => text,
        _ => sql,
    };
    let spans: Vec<Span<'_>> = spans(text).into_iter().filter(|span| span.token.is_some()).collect();
    let tokens: Vec<Token> = spans.iter().filter_map(|span| span.token.clone()).collect();
    let mut looking = Looking {
        tokens: &tokens,
        names,
        found: Vec::new(),
        folded: BTreeSet::new(),
        reserved: BTreeSet::new(),
        strings: BTreeSet::new(),
        unquoted: false,
    };
    for (at, span) in spans.iter().enumerate() {
        looking.token(at, span.text);
    }
    looking.clauses();
    looking.names();
    if is_cut {
        looking.add("its end", "not looked at: the statistics keep 2 KiB of a text");
    }
    looking.found
}

struct Looking<'a> {
    tokens: &'a [Token],
    names: &'a Names,
    found: Vec<ExportDifference>,
    /// Names that the server would look for in lower case, as they are written here and there.
    folded: BTreeSet<String>,
    reserved: BTreeSet<String>,
    /// In double quotes, and no name.
    strings: BTreeSet<String>,
    /// Whether there is a name in backquotes or brackets.
    unquoted: bool,
}

impl<'a> Looking<'a> {
    fn add(&mut self, what: &str, instead: &str) {
        if self.found.iter().all(|found| found.what != what) {
            self.found.push(ExportDifference {
                what: what.to_owned(),
                instead: instead.to_owned(),
            });
        }
    }

    fn at(&self, at: usize) -> Option<&'a Token> {
        self.tokens.get(at)
    }

    fn before(&self, at: usize) -> Option<&'a Token> {
        at.checked_sub(1).and_then(|at| self.tokens.get(at))
    }

    fn is_word(&self, at: usize, word: &str) -> bool {
        self.at(at).is_some_and(|token| token.is_word(word))
    }

    fn is_mark(&self, at: usize, mark: &str) -> bool {
        self.at(at).is_some_and(|token| token.is_mark(mark))
    }

    fn is_after(&self, at: usize, words: &[&str]) -> bool {
        self.before(at)
            .is_some_and(|token| words.iter().any(|word| token.is_word(word)))
    }

    /// Whether the token is a name, by what is beside it, whatever word it is.
    fn is_named(&self, at: usize, word: &str) -> bool {
        let is_rowid = ["rowid", "_rowid_", "oid"].contains(&word);
        let follows = self
            .before(at)
            .is_some_and(|token| token.is_word("as") || (token.is_mark(".") && !is_rowid));
        follows || self.is_mark(at + 1, ".")
    }

    fn token(&mut self, at: usize, text: &str) {
        match &self.tokens[at] {
            Token::Word(word) => {
                self.name(at, word);
                let word = lower(word);
                if !self.is_named(at, &word) {
                    self.word(at, &word);
                }
            }
            Token::Name(name) if text.starts_with('"') => self.quoted_name(at, name),
            Token::Name(_) => self.unquoted = true,
            Token::Blob(_) => self.add("x'..'", "'\\x00ff'::bytea: x'..' is a bit string there"),
            Token::Mark(mark) => self.mark(at, &mark.clone()),
            Token::Text(_) | Token::Number(_) => {}
        }
    }

    /// A name without quotes: the server folds it to lower case.
    fn name(&mut self, at: usize, word: &str) {
        if self.is_after(at, &["as"]) {
            return;
        }
        let is_call = self.is_mark(at + 1, "(");
        let table = self.names.tables.get(&lower(word));
        let column = self.names.columns(word).first().filter(|_| !is_call);
        let Some(target) = table.or(column.map(|column| &column.target)) else {
            return;
        };
        if *target != lower(word) {
            self.folded.insert(quoted(target));
        } else if RESERVED.contains(&target.as_str()) && !self.before(at).is_some_and(|token| token.is_mark(".")) {
            self.reserved.insert(quoted(target));
        }
    }

    fn quoted_name(&mut self, at: usize, name: &str) {
        if self.names.has(name) {
            let table = self.names.tables.get(&lower(name));
            let column = self.names.columns(name).first();
            let targets: Vec<&String> = table.into_iter().chain(column.map(|column| &column.target)).collect();
            if !targets.is_empty() && targets.iter().all(|target| **target != shortened(name)) {
                self.folded.insert(quoted(targets[0]));
            }
        } else if !is_system(name) && !self.is_qualified(at) && !self.is_defined(name) {
            self.strings.insert(quoted(name));
        }
    }

    fn is_qualified(&self, at: usize) -> bool {
        self.before(at).is_some_and(|token| token.is_mark(".")) || self.is_mark(at + 1, ".")
    }

    /// Whether a name is made somewhere in the statement, or is where no string can be.
    fn is_defined(&self, name: &str) -> bool {
        const BEFORE: [&str; 18] = [
            "as",
            "table",
            "index",
            "view",
            "trigger",
            "exists",
            "savepoint",
            "to",
            "release",
            "pragma",
            "constraint",
            "collate",
            "with",
            "window",
            "from",
            "join",
            "into",
            "update",
        ];
        let makes = ["create", "alter", "drop"].iter().any(|word| self.is_word(0, word));
        makes
            || self.tokens.iter().enumerate().any(|(at, token)| {
                let is_it = token.name().is_some_and(|there| there.eq_ignore_ascii_case(name));
                let is_cte = self.is_word(at + 1, "as") && self.is_mark(at + 2, "(");
                // The alias of a table or of a subquery.
                let is_alias = self.before(at).is_some_and(|before| match before {
                    Token::Word(word) | Token::Name(word) => self.names.has(word),
                    token => token.is_mark(")"),
                });
                is_it && (is_cte || is_alias || self.is_after(at, &BEFORE))
            })
    }

    fn word(&mut self, at: usize, word: &str) {
        let is_call = self.is_mark(at + 1, "(");
        let is_name = self.names.has(word) && !is_call;
        if is_call {
            self.call(at, word);
        }
        match word {
            _ if is_name => {}
            "or" if self.is_after(at, &["insert", "update"]) => {
                let action = self.at(at + 1).and_then(Token::name).map(str::to_ascii_uppercase);
                let verb = self.before(at).and_then(Token::name).map(str::to_ascii_uppercase);
                let (action, verb) = (action.unwrap_or_default(), verb.unwrap_or_default());
                let instead = match action.as_str() {
                    "REPLACE" => REPLACE,
                    "IGNORE" => {
                        "INSERT .. ON CONFLICT DO NOTHING; a row that violates NOT NULL or CHECK is an error there, and left \
                         out here"
                    }
                    "ABORT" => {
                        "leave OR ABORT out: an error undoes the statement, and ends the whole transaction there"
                    }
                    _ => "no counterpart: an error ends the whole transaction there, unless a SAVEPOINT is before it",
                };
                self.add(&format!("{verb} OR {action}"), instead);
            }
            "replace" if self.is_word(at + 1, "into") && !self.is_after(at, &["or"]) => {
                self.add("REPLACE INTO", REPLACE)
            }
            "rowid" | "_rowid_" | "oid" if !self.is_after(at, &["without"]) => {
                self.add(
                    word,
                    "not there: use the key of the table, or RETURNING behind an INSERT",
                );
            }
            "like" if !is_call => self.add(
                "LIKE",
                "it tells case apart there: ILIKE, or lower(x) LIKE lower(y); a backslash in the pattern escapes there",
            ),
            "glob" if !is_call => self.add(
                "GLOB",
                "x ~ 'regular expression', or LIKE, which tells case apart there",
            ),
            "regexp" if !is_call => self.add("REGEXP", "x ~ 'regular expression'"),
            "match" if !is_call && at > 0 => self.add(
                "MATCH",
                "column @@ websearch_to_tsquery('simple', ..), of a tsvector with a GIN index",
            ),
            "is" => self.is(at),
            "in" => self.is_in(at),
            "indexed" if self.is_word(at + 1, "by") => {
                self.add("INDEXED BY", "leave it out: the planner chooses the index")
            }
            "indexed" if self.is_after(at, &["not"]) => {
                self.add("NOT INDEXED", "leave it out: the planner chooses the index");
            }
            "collate" => {
                let name = self.at(at + 1).and_then(Token::name).map(str::to_ascii_uppercase);
                match name.as_deref() {
                    Some("NOCASE") => self.add("COLLATE NOCASE", "lower(x), which its unique index there has too"),
                    Some("RTRIM") => self.add("COLLATE RTRIM", "rtrim(x, ' ')"),
                    Some("BINARY") => self.add("COLLATE BINARY", "COLLATE \"C\""),
                    _ => {}
                }
            }
            "conflict" if self.is_word(at + 1, "do") && self.is_word(at + 2, "update") => self.add(
                "ON CONFLICT without columns",
                "name the columns of the key: ON CONFLICT (..) DO UPDATE",
            ),
            "current_timestamp" => self.add(
                "CURRENT_TIMESTAMP",
                "a timestamptz there; as text: to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS')",
            ),
            "autoincrement" => self.add("AUTOINCREMENT", "GENERATED BY DEFAULT AS IDENTITY"),
            "without" if self.is_word(at + 1, "rowid") => self.add("WITHOUT ROWID", "leave it out"),
            "strict" if self.is_word(0, "create") && at > 0 => self.add("STRICT", "leave it out: all tables are"),
            "virtual" if self.is_after(at, &["create"]) => {
                self.add(
                    "CREATE VIRTUAL TABLE",
                    "no counterpart; full-text search: a tsvector column and a GIN index",
                );
            }
            "limit" => self.limit(at),
            _ if SYSTEM_TABLES.contains(&word) => self.add(word, "pg_catalog or information_schema"),
            _ if word.starts_with("pragma_") => self.add(word, "pg_catalog or information_schema"),
            _ => self.first_word(at, word),
        }
    }

    /// Words that count as the first of a statement.
    fn first_word(&mut self, at: usize, word: &str) {
        if at > 0 && !(word == "query" && self.is_after(at, &["explain"])) {
            return;
        }
        match word {
            "pragma" => self.add("PRAGMA", "SET or SHOW for settings, pg_catalog for the schema"),
            "attach" | "detach" => self.add(
                &word.to_ascii_uppercase(),
                "a database is one connection there: use schemas of one database",
            ),
            "vacuum" if self.tokens.iter().any(|token| token.is_word("into")) => self.add("VACUUM INTO", "pg_dump"),
            "query" => self.add("EXPLAIN QUERY PLAN", "EXPLAIN"),
            "begin" => {
                if let Some(word) = ["immediate", "exclusive", "deferred", "concurrent"]
                    .iter()
                    .find(|word| self.is_word(at + 1, word))
                {
                    self.add(
                        &format!("BEGIN {}", word.to_ascii_uppercase()),
                        "BEGIN ISOLATION LEVEL SERIALIZABLE, and try again at SQLSTATE 40001: several writers run at once there",
                    );
                }
            }
            _ => {}
        }
    }

    fn call(&mut self, at: usize, word: &str) {
        // A table of such a name.
        if self.names.tables.contains_key(word)
            && self.is_after(at, &["into", "table", "references", "join", "from", "on"])
        {
            return;
        }
        let arguments = group(&self.tokens[at + 1..]);
        let count = split(arguments).len();
        if let Some((name, instead)) = FUNCTIONS.iter().find(|(name, _)| *name == word) {
            self.add(&format!("{name}()"), instead);
        }
        match word {
            "min" | "max" if count > 1 => {
                let there = if word == "min" { "least" } else { "greatest" };
                self.add(
                    &format!("{word}() of several values"),
                    &format!("{there}(..), which leaves NULLs out, where {word}() is NULL"),
                );
            }
            "round" if count > 1 => self.add("round() with digits", "round(x::numeric, n)"),
            "substr" | "substring"
                if split(arguments)
                    .get(1)
                    .is_some_and(|from| from.first().is_some_and(|token| token.is_mark("-"))) =>
            {
                self.add("substr() from the end", "right(x, n)");
            }
            "cast" => {
                let to = arguments.iter().rposition(|token| token.is_word("as"));
                let to = to.and_then(|at| arguments.get(at + 1)).and_then(Token::name).map(lower);
                let is_number = ["int", "real", "floa", "doub", "num", "dec"];
                if to.is_some_and(|to| is_number.iter().any(|part| to.contains(part))) {
                    self.add(
                        "CAST to a number",
                        "text that is no number is an error there, and 0 here; a fraction is rounded there, and cut here",
                    );
                }
            }
            _ if word.starts_with("jsonb_")
                && [
                    "jsonb_extract",
                    "jsonb_group_array",
                    "jsonb_group_object",
                    "jsonb_patch",
                    "jsonb_remove",
                    "jsonb_replace",
                    "jsonb_array",
                    "jsonb_each",
                    "jsonb_tree",
                ]
                .contains(&word) =>
            {
                self.add(
                    &format!("{word}()"),
                    "another function there: see that of the same name with json",
                );
            }
            _ => {}
        }
    }

    /// `x IS y`, which is IS NOT DISTINCT FROM there.
    fn is(&mut self, at: usize) {
        let next = if self.is_word(at + 1, "not") { at + 2 } else { at + 1 };
        let both = ["null", "true", "false", "distinct", "unknown"];
        if self.at(next).is_some() && !both.iter().any(|word| self.is_word(next, word)) {
            self.add(
                "IS between values",
                "x IS NOT DISTINCT FROM y, and x IS DISTINCT FROM y for IS NOT",
            );
        }
    }

    fn is_in(&mut self, at: usize) {
        if self.is_mark(at + 1, "(") && self.is_mark(at + 2, ")") {
            self.add(
                "IN ()",
                "an empty list is an error there: write false, or x = ANY($1) with an array",
            );
        } else if self.at(at + 1).and_then(Token::name).is_some() && !self.is_mark(at + 2, "(") {
            self.add("IN without parentheses", "IN (SELECT .. FROM ..)");
        }
    }

    fn limit(&mut self, at: usize) {
        let rest = &self.tokens[at + 1..];
        let mut depth = 0_usize;
        let here = rest.iter().take_while(|token| {
            match token {
                token if token.is_mark("(") => depth += 1,
                token if token.is_mark(")") && depth == 0 => return false,
                token if token.is_mark(")") => depth -= 1,
                _ => {}
            }
            !token.is_mark(";")
        });
        let here: Vec<Token> = here.cloned().collect();
        if split(&here).len() > 1 {
            self.add("LIMIT x, y", "LIMIT y OFFSET x");
        }
        if here.first().is_some_and(|token| token.is_mark("-")) {
            self.add("LIMIT -1", "LIMIT ALL: a negative limit is an error there");
        }
    }

    fn mark(&mut self, at: usize, mark: &str) {
        match mark {
            "==" => self.add("==", "="),
            "/" | "%" => self.add(
                &format!("x {mark} y"),
                &format!("a division by zero is an error there, and NULL here: x {mark} nullif(y, 0)"),
            ),
            "->" | "->>" => self.add(
                mark,
                "the column has to be json or jsonb, and a path is a key, 'name' for '$.name', or #>> '{a,b}'",
            ),
            "||" => {
                let is_number = |token: Option<&Token>| match token {
                    Some(Token::Number(_)) => true,
                    Some(Token::Word(name) | Token::Name(name)) => self
                        .names
                        .all(name, |known| known.kind != PgType::Text && known.kind != PgType::Bytea),
                    _ => false,
                };
                if is_number(self.before(at)) && is_number(self.at(at + 1)) {
                    self.add("|| of numbers", "one side has to be text there: x::text || y");
                }
            }
            "=" | "<>" | "!=" | "<" | ">" => self.compared(at),
            _ => {}
        }
    }

    /// `done = 1`, where the column is a boolean there.
    fn compared(&mut self, at: usize) {
        let is_bool = |token: Option<&Token>| match token {
            Some(Token::Word(name) | Token::Name(name)) => self.names.all(name, |known| known.kind == PgType::Bool),
            _ => false,
        };
        let is_number = |token: Option<&Token>| matches!(token, Some(Token::Number(_)));
        let (left, right) = (self.before(at), self.at(at + 1));
        let of = match () {
            () if is_bool(left) && is_number(right) => left,
            () if is_number(left) && is_bool(right) => right,
            () => None,
        };
        if let Some(name) = of.and_then(Token::name) {
            self.add(
                &format!("a number compared with {name}"),
                "the column is boolean there: compare it with true and false",
            );
        }
    }

    /// ORDER BY of NULLs, and columns that GROUP BY does not determine.
    fn clauses(&mut self) {
        for at in 0..self.tokens.len() {
            if self.is_word(at, "order") && self.is_word(at + 1, "by") {
                let terms = self.until(
                    at + 2,
                    &[
                        "limit",
                        "rows",
                        "range",
                        "groups",
                        "union",
                        "except",
                        "intersect",
                        "returning",
                    ],
                );
                for term in split(terms) {
                    self.ordered(term);
                }
            }
            if self.is_word(at, "select") {
                self.select(at);
            }
        }
    }

    /// The tokens up to one of these words, or the end of the parentheses that they are in.
    fn until(&self, from: usize, words: &[&str]) -> &'a [Token] {
        let mut depth = 0_usize;
        let rest = &self.tokens[from.min(self.tokens.len())..];
        for (at, token) in rest.iter().enumerate() {
            let ends = token.is_mark(";") || words.iter().any(|word| token.is_word(word));
            if depth == 0 && (ends || token.is_mark(")")) {
                return &rest[..at];
            }
            if token.is_mark("(") {
                depth += 1;
            } else if token.is_mark(")") {
                depth -= 1;
            }
        }
        rest
    }

    fn ordered(&mut self, term: &[Token]) {
        let is_direction = |token: &Token| token.is_word("asc") || token.is_word("desc");
        let descends = term.last().is_some_and(|token| token.is_word("desc"));
        let term = match term {
            [before @ .., last] if is_direction(last) => before,
            term => term,
        };
        let Some(name) = column_of(term) else { return };
        if self.names.all(name, |known| known.is_nullable) {
            let (order, add) = if descends {
                ("first", "NULLS LAST")
            } else {
                ("last", "NULLS FIRST")
            };
            self.add(
                &format!("ORDER BY {name}"),
                &format!("NULLs come {order} there: add {add}, if the column has any"),
            );
        }
    }

    /// Columns that are neither aggregated nor determined by GROUP BY.
    fn select(&mut self, at: usize) {
        const ENDS: [&str; 8] = [
            "union",
            "except",
            "intersect",
            "order",
            "limit",
            "having",
            "window",
            "returning",
        ];
        let items = self.until(at + 1, &["from", "union", "except", "intersect"]);
        let whole = self.until(at + 1, &["union", "except", "intersect"]);
        let mut depth = 0_usize;
        let by = whole.iter().enumerate().find(|(at, token)| {
            if token.is_mark("(") {
                depth += 1;
            } else if token.is_mark(")") {
                depth = depth.saturating_sub(1);
            }
            depth == 0 && token.is_word("group") && whole.get(at + 1).is_some_and(|next| next.is_word("by"))
        });
        let Some((by, _)) = by else { return };
        let keys = self.until(at + 1 + by + 2, &ENDS);
        let keys: Vec<&[Token]> = split(keys);
        let names: Vec<&str> = keys.iter().filter_map(|key| column_of(key)).collect();
        // An expression or a number may be any column.
        if names.len() < keys.len() {
            return;
        }
        let key_tables: Vec<&str> = names
            .iter()
            .flat_map(|name| self.names.columns(name).iter().filter(|known| known.is_key))
            .map(|known| known.table.as_str())
            .collect();
        for item in split(items) {
            let (item, alias) = match item {
                [before @ .., word, alias] if word.is_word("as") => (before, alias.name()),
                item => (item, None),
            };
            let Some(name) = column_of(item) else { continue };
            let in_keys = names.iter().any(|key| {
                key.eq_ignore_ascii_case(name) || alias.is_some_and(|alias| key.eq_ignore_ascii_case(alias))
            });
            let is_free = self
                .names
                .all(name, |known| !key_tables.contains(&known.table.as_str()));
            if !in_keys && is_free {
                self.add(
                    &format!("{name} beside GROUP BY"),
                    "an error there, unless the key of its table is in GROUP BY: add the column, or min(..)",
                );
            }
        }
    }

    /// What was seen of names.
    fn names(&mut self) {
        let list = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(", ");
        let (folded, reserved, strings) = (list(&self.folded), list(&self.reserved), list(&self.strings));
        if !folded.is_empty() {
            self.add(
                &format!("names with capital letters: {folded}"),
                "write them in double quotes, as they are here: the server folds other names to lower case",
            );
        }
        if !reserved.is_empty() {
            self.add(
                &format!("words of the server's SQL as names: {reserved}"),
                "write them in double quotes: without, some mean something else there",
            );
        }
        if !strings.is_empty() {
            self.add(
                &format!("a string in double quotes: {strings}"),
                "write it in single quotes: it is a name there",
            );
        }
        if self.unquoted {
            self.add("names in backquotes or brackets", "write them in double quotes");
        }
    }
}

const REPLACE: &str = "INSERT .. ON CONFLICT (key) DO UPDATE SET ..; REPLACE deletes the other row first, with what its \
                       foreign keys do then, and empties the columns that are not named";

fn is_system(name: &str) -> bool {
    ["rowid", "_rowid_", "oid", "main", "temp"].contains(&lower(name).as_str())
}

/// The column that an item is, with or without its table.
fn column_of(item: &[Token]) -> Option<&str> {
    match item {
        [Token::Word(name) | Token::Name(name)] => Some(name),
        [
            Token::Word(_) | Token::Name(_),
            dot,
            Token::Word(name) | Token::Name(name),
        ] if dot.is_mark(".") => Some(name),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        let conn = rusqlite::Connection::open_in_memory().unwrap();
        conn.execute_batch(
            "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL, born TEXT, age INTEGER NOT NULL, done INTEGER NOT NULL);
             CREATE TABLE \"Orders\"(\"OrderId\" INTEGER PRIMARY KEY, user INTEGER NOT NULL, data TEXT NOT NULL, a INTEGER NOT NULL,
                 b INTEGER NOT NULL);
             CREATE VIEW recent AS SELECT * FROM users",
        )
        .unwrap();
        let mut schema = Schema::read(&conn).unwrap();
        for column in schema.tables.iter_mut().flat_map(|table| &mut table.columns) {
            column.kind = match column.name.as_str() {
                "name" | "born" | "data" => PgType::Text,
                "done" => PgType::Bool,
                _ => PgType::Int8,
            };
        }
        Names::of(&schema)
    }

    fn found(sql: &str) -> Vec<String> {
        let found = differences(sql, &names());
        found.into_iter().map(|difference| difference.what).collect()
    }

    #[test]
    fn differences_are_found() {
        let cases = [
            ("INSERT OR REPLACE INTO users(id) VALUES (1)", "INSERT OR REPLACE"),
            ("insert or ignore into users(id) values (1)", "INSERT OR IGNORE"),
            ("UPDATE OR ABORT users SET age = 1", "UPDATE OR ABORT"),
            ("REPLACE INTO users(id) VALUES (1)", "REPLACE INTO"),
            ("SELECT rowid, name FROM users", "rowid"),
            ("SELECT u._rowid_ FROM users u", "_rowid_"),
            ("SELECT strftime('%Y', born) FROM users", "strftime()"),
            ("SELECT name FROM users WHERE born < date('now')", "date()"),
            ("SELECT datetime ('now')", "datetime()"),
            ("SELECT julianday(born) FROM users", "julianday()"),
            ("SELECT name FROM users WHERE name GLOB 'a*'", "GLOB"),
            ("SELECT name FROM users WHERE name LIKE 'a%'", "LIKE"),
            ("SELECT name FROM users WHERE name NOT LIKE 'a%'", "LIKE"),
            ("SELECT id FROM recent WHERE recent MATCH 'a'", "MATCH"),
            ("SELECT json_extract(data, '$.a') FROM \"Orders\"", "json_extract()"),
            ("SELECT data ->> '$.a' FROM \"Orders\"", "->>"),
            ("PRAGMA user_version", "PRAGMA"),
            ("SELECT age || a FROM users, \"Orders\"", "|| of numbers"),
            ("SELECT 1 / age FROM users", "x / y"),
            ("SELECT group_concat(name) FROM users", "group_concat()"),
            ("SELECT ifnull(born, '') FROM users", "ifnull()"),
            ("SELECT last_insert_rowid()", "last_insert_rowid()"),
            (
                "SELECT name FROM users WHERE name = \"ann\"",
                "a string in double quotes: \"ann\"",
            ),
            ("SELECT name FROM users INDEXED BY by_name", "INDEXED BY"),
            ("SELECT name FROM users NOT INDEXED", "NOT INDEXED"),
            ("ATTACH 'a.db' AS a", "ATTACH"),
            (
                "SELECT OrderId FROM \"Orders\"",
                "names with capital letters: \"OrderId\"",
            ),
            ("SELECT a FROM orders", "names with capital letters: \"Orders\""),
            (
                "SELECT user FROM \"Orders\"",
                "words of the server's SQL as names: \"user\"",
            ),
            ("SELECT name FROM `users`", "names in backquotes or brackets"),
            ("SELECT name FROM users ORDER BY born DESC", "ORDER BY born"),
            (
                "SELECT name FROM users ORDER BY age, users.born LIMIT 3",
                "ORDER BY born",
            ),
            ("SELECT name, count(*) FROM users GROUP BY age", "name beside GROUP BY"),
            ("SELECT name FROM users WHERE done = 1", "a number compared with done"),
            ("SELECT name FROM users WHERE 0 <> done", "a number compared with done"),
            ("SELECT name FROM users LIMIT 5, 10", "LIMIT x, y"),
            ("SELECT name FROM users LIMIT -1", "LIMIT -1"),
            ("SELECT name FROM users WHERE id IN ()", "IN ()"),
            ("SELECT name FROM users WHERE born IS ?1", "IS between values"),
            ("SELECT name FROM users WHERE id == 1", "=="),
            ("SELECT max(age, 3) FROM users", "max() of several values"),
            ("SELECT CAST(name AS INTEGER) FROM users", "CAST to a number"),
            ("SELECT x'00'", "x'..'"),
            (
                "SELECT name FROM users WHERE name = 'A' COLLATE NOCASE",
                "COLLATE NOCASE",
            ),
            (
                "INSERT INTO users(id) VALUES (1) ON CONFLICT DO UPDATE SET age = 1",
                "ON CONFLICT without columns",
            ),
            ("CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT)", "AUTOINCREMENT"),
            ("BEGIN IMMEDIATE", "BEGIN IMMEDIATE"),
            ("SELECT name FROM sqlite_schema", "sqlite_schema"),
            ("SELECT name FROM pragma_table_info('users')", "pragma_table_info"),
            ("EXPLAIN QUERY PLAN SELECT 1", "EXPLAIN QUERY PLAN"),
            ("SELECT current_timestamp", "CURRENT_TIMESTAMP"),
            ("SELECT round(age, 2) FROM users", "round() with digits"),
            (
                "SELECT substr(name, -2), substr(name,,1), substr() FROM users",
                "substr() from the end",
            ),
            ("SELECT sum(age) FROM users", "sum()"),
            ("SELECT iif(age > 1, 2, 3) FROM users", "iif()"),
        ];
        let others = cases.iter().map(|(sql, wanted)| (sql, wanted, found(sql)));
        let others: Vec<_> = others.filter(|(_, wanted, found)| found != &[**wanted]).collect();
        assert!(others.is_empty(), "{others:#?}");
    }

    #[test]
    fn what_is_the_same_is_not_listed() {
        let cases = [
            "SELECT id, name FROM users WHERE id = ?1 AND name <> 'rowid GLOB x' -- strftime(x) LIKE y",
            "SELECT 'INSERT OR REPLACE', 'date(''now'')' /* PRAGMA; ATTACH */ FROM users",
            "SELECT u.name AS rowid FROM users AS u WHERE u.born IS NOT NULL AND u.id IN (1, 2)",
            "INSERT INTO users(id, name) VALUES (:id, :name) ON CONFLICT (id) DO UPDATE SET name = excluded.name",
            "INSERT INTO users(id) VALUES (1) ON CONFLICT DO NOTHING RETURNING id",
            "SELECT name, count(*) FROM users GROUP BY name ORDER BY name",
            "SELECT name FROM users GROUP BY id",
            "SELECT max(age), coalesce(born, 'x') || name, replace(name, 'a', 'b') FROM users",
            "SELECT \"name\" AS \"shown\" FROM \"users\" ORDER BY \"shown\"",
            "SELECT \"OrderId\", \"user\", o.user FROM \"Orders\" o ORDER BY \"OrderId\"",
            "SELECT name FROM users ORDER BY born NULLS FIRST LIMIT 10 OFFSET 5",
            "SELECT name || 1 FROM users WHERE done",
            "WITH \"x\" AS (SELECT 1 AS one) SELECT one FROM \"x\"",
            "UPDATE users SET age = age + 1 WHERE born IS NOT DISTINCT FROM ?",
            "",
            "'",
            "/*",
        ];
        let others = cases.map(|sql| (sql, found(sql)));
        let others: Vec<_> = others.iter().filter(|(_, found)| !found.is_empty()).collect();
        assert!(others.is_empty(), "{others:#?}");
    }

    #[test]
    fn texts_are_split_merged_and_sorted() {
        let texts = [
            ("SELECT rowid FROM users; SELECT 1;".to_owned(), 2),
            ("SELECT rowid FROM users".to_owned(), 3),
            ("SELECT last_insert_rowid()".to_owned(), 9),
            (OTHER.to_owned(), 5),
        ];
        let (found, seen) = look(&texts, &names());
        let found: Vec<_> = found.iter().map(|found| (found.sql.as_str(), found.calls)).collect();
        assert_eq!(
            found,
            [("SELECT last_insert_rowid()", 9), ("SELECT rowid FROM users", 5)]
        );
        assert_eq!(seen, 3);
        assert_eq!(parameters(&texts), None);
        let texts = [("SELECT ?1; SELECT :a; SELECT '?'; SELECT $b".to_owned(), 1)];
        assert!(parameters(&texts).unwrap().object.contains("3 statements"));
    }

    #[test]
    fn end_that_the_statistics_have_cut_is_told() {
        let long = format!("SELECT name FROM users WHERE name IN ({})", "'rowid', ".repeat(400));
        let kept = crate::telemetry::usage::bounded_sql(&long);
        assert_eq!(found(&kept), ["its end"]);
    }
}
