//! A schema of PostgreSQL, read from the statements of a dump.

use std::collections::{BTreeMap, BTreeSet};

use super::kind::TypeName;
use super::sql::{Token, shown, tokens};

/// A schema's name and an object's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Name {
    pub(super) schema: String,
    pub(super) name: String,
}

impl Name {
    /// As reports have it: without `public`.
    pub(super) fn shown(&self) -> String {
        match self.schema.as_str() {
            "public" | "" => self.name.clone(),
            schema => format!("{schema}.{}", self.name),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) tables: Vec<Table>,
    pub(super) enums: BTreeMap<Name, Vec<String>>,
    pub(super) domains: BTreeMap<Name, Domain>,
    pub(super) sequences: BTreeMap<Name, Sequence>,
    pub(super) views: Vec<View>,
    pub(super) indexes: Vec<Index>,
    /// Tables that others inherit from: a query of them has the rows of the others, too.
    pub(super) parents: BTreeSet<Name>,
    /// What has no counterpart: its kind, its name.
    pub(super) others: Vec<(&'static str, String)>,
}

#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: Name,
    pub(super) columns: Vec<Column>,
    pub(super) constraints: Vec<Constraint>,
    pub(super) comment: Option<String>,
    /// The table that this one is a partition of.
    pub(super) partition_of: Option<Name>,
}

#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) type_name: TypeName,
    pub(super) not_null: bool,
    pub(super) default: Option<Vec<Token>>,
    pub(super) is_identity: bool,
    pub(super) generated: Option<Vec<Token>>,
    pub(super) collation: Option<String>,
    pub(super) comment: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) struct Constraint {
    pub(super) name: Option<String>,
    pub(super) rule: Rule,
    pub(super) is_deferrable: bool,
    pub(super) is_deferred: bool,
    pub(super) is_valid: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Rule {
    PrimaryKey(Vec<String>),
    Unique {
        columns: Vec<String>,
        nulls_are_equal: bool,
    },
    Check(Vec<Token>),
    ForeignKey(ForeignKey),
    Other(&'static str),
}

#[derive(Clone, Debug)]
pub(super) struct ForeignKey {
    pub(super) columns: Vec<String>,
    pub(super) table: Name,
    pub(super) parents: Vec<String>,
    pub(super) on_delete: Option<String>,
    pub(super) on_update: Option<String>,
    pub(super) is_full: bool,
    /// `ON DELETE SET NULL (a)`: of some columns alone.
    pub(super) acts_on_some: bool,
}

#[derive(Debug)]
pub(super) struct Domain {
    pub(super) base: TypeName,
    pub(super) not_null: bool,
    pub(super) default: Option<Vec<Token>>,
    pub(super) checks: Vec<Vec<Token>>,
}

#[derive(Clone, Debug)]
pub(super) struct Sequence {
    pub(super) owner: Option<(Name, String)>,
    /// The value before the next one.
    pub(super) last: i64,
    pub(super) increment: i64,
}

impl Default for Sequence {
    fn default() -> Self {
        Self {
            owner: None,
            last: 0,
            increment: 1,
        }
    }
}

#[derive(Debug)]
pub(super) struct View {
    pub(super) name: Name,
    pub(super) columns: Vec<String>,
    pub(super) query: Vec<Token>,
}

#[derive(Debug)]
pub(super) struct Index {
    pub(super) name: Name,
    pub(super) table: Name,
    pub(super) unique: bool,
    pub(super) method: String,
    /// The parts between the commas.
    pub(super) keys: Vec<Vec<Token>>,
    pub(super) include: Vec<String>,
    pub(super) predicate: Option<Vec<Token>>,
    pub(super) nulls_are_equal: bool,
}

/// Statements that change neither the schema nor rows.
const IGNORED: &[&str] = &[
    "analyze", "begin", "cluster", "commit", "end", "lock", "refresh", "reindex", "reset", "start", "vacuum",
];

/// What is not read could change rows: it is no less than an error.
const NOT_OF_PG_DUMP: &str = "this is read as pg_dump writes it, and is a statement";

/// Objects that have no counterpart.
const OTHERS: &[(&[&str], &str)] = &[
    (&["materialized", "view"], "materialized view"),
    (&["foreign", "table"], "foreign table"),
    (&["event", "trigger"], "event trigger"),
    (&["constraint", "trigger"], "trigger"),
    (&["trigger"], "trigger"),
    (&["function"], "function"),
    (&["procedure"], "procedure"),
    (&["aggregate"], "aggregate"),
    (&["policy"], "row-level security policy"),
    (&["rule"], "rule"),
    (&["extension"], "extension"),
    (&["operator"], "operator"),
    (&["publication"], "publication"),
    (&["subscription"], "subscription"),
    (&["statistics"], "extended statistics"),
    (&["collation"], "collation"),
    (&["cast"], "cast"),
    (&["server"], "foreign server"),
    (&["text", "search", "configuration"], "text search object"),
    (&["text", "search", "dictionary"], "text search object"),
    (&["text", "search"], "text search object"),
];

impl Model {
    pub(super) fn table(&self, name: &Name) -> Option<&Table> {
        self.tables.iter().find(|table| table.name == *name)
    }

    fn table_mut(&mut self, name: &Name) -> Result<&mut Table, String> {
        let found = self.tables.iter_mut().find(|table| table.name == *name);
        found.ok_or_else(|| format!("the table {} was not created before", name.shown()))
    }

    /// The table whose rows those of this table are.
    pub(super) fn root(&self, name: &Name) -> Name {
        let mut name = name.clone();
        // No deeper than there are tables.
        for _ in &self.tables {
            match self.table(&name).and_then(|table| table.partition_of.clone()) {
                Some(parent) => name = parent,
                None => break,
            }
        }
        name
    }

    /// Takes a statement in. One that changes no schema is ignored.
    pub(super) fn apply(&mut self, sql: &str) -> Result<(), String> {
        let tokens = tokens(sql)?;
        let mut cursor = Cursor::new(&tokens);
        let result = self.statement(&mut cursor);
        result.map_err(|problem| format!("{problem}: {}", cut(sql)))
    }

    fn statement(&mut self, c: &mut Cursor<'_>) -> Result<(), String> {
        if c.take("set") {
            return setting(c);
        }
        if c.take("select") {
            return self.select(c);
        }
        if c.take("create") {
            return self.create(c);
        }
        if c.take("alter") {
            return self.alter(c);
        }
        if c.take("comment") {
            self.comment(c);
        } else if c.take("grant") || c.take("revoke") {
            self.other("privileges", "");
        } else if c.take_all(&["security", "label"]) {
            self.other("security label", "");
        } else if c.take("drop") {
            // `pg_dump --clean` drops what it makes after that.
            let made = c.take("table").then(|| {
                c.take_all(&["if", "exists"]);
                c.name()
            });
            if made.flatten().is_some_and(|name| self.table(&name).is_some()) {
                return Err(format!("{NOT_OF_PG_DUMP} that drops a table"));
            }
        } else if !IGNORED.iter().any(|word| c.take(word)) {
            return Err(NOT_OF_PG_DUMP.to_owned());
        }
        Ok(())
    }

    fn other(&mut self, kind: &'static str, name: &str) {
        let entry = (kind, name.to_owned());
        if !self.others.contains(&entry) {
            self.others.push(entry);
        }
    }

    /// `SELECT pg_catalog.setval('public.t_id_seq', 5, true)`
    fn select(&mut self, c: &mut Cursor<'_>) -> Result<(), String> {
        let rest = c.rest();
        if rest.iter().any(|token| token.is_word("set_config")) {
            let texts: Vec<&str> = rest.iter().filter_map(text_of).collect();
            return match texts.as_slice() {
                ["search_path", path, ..] => search_path(path),
                _ => Ok(()),
            };
        }
        let Some(at) = rest.iter().position(|token| token.is_word("setval")) else {
            let is_large =
                |token: &Token| matches!(token, Token::Word(word) if word.starts_with("lo_") || word == "lowrite");
            match rest.iter().any(is_large) {
                true => self.other("large objects", ""),
                false => self.other("call of a function", &shown(rest)),
            }
            return Ok(());
        };
        let Some(Token::Text(name)) = rest.get(at + 2) else {
            return Ok(());
        };
        let name = regclass(name)?;
        let numbers: String = rest[at + 3..].iter().map(ToString::to_string).collect();
        let mut parts = numbers.trim_start_matches(',').trim_end_matches(')').split(',');
        let value = parts.next().and_then(|value| value.parse::<i64>().ok());
        let value = value.ok_or("setval without a number")?;
        let sequence = self.sequences.entry(name).or_default();
        sequence.last = match parts.next() {
            Some("false") => value.saturating_sub(sequence.increment),
            _ => value,
        };
        Ok(())
    }

    fn create(&mut self, c: &mut Cursor<'_>) -> Result<(), String> {
        c.take_all(&["or", "replace"]);
        c.take("unlogged");
        if c.take("table") {
            return self.create_table(c);
        }
        if c.take("sequence") {
            c.take_all(&["if", "not", "exists"]);
            let name = c.name().ok_or("CREATE SEQUENCE without a name")?;
            self.sequences.insert(name, sequence_options(c.rest()));
            return Ok(());
        }
        if c.take("type") {
            return self.create_type(c);
        }
        if c.take("domain") {
            return self.create_domain(c);
        }
        c.take("recursive");
        if c.take("view") {
            return self.create_view(c);
        }
        let unique = c.take("unique");
        if c.take("index") {
            return self.create_index(c, unique);
        }
        for (words, kind) in OTHERS {
            if c.take_all(words) {
                c.take_all(&["if", "not", "exists"]);
                let notifies = c.rest().iter().any(|token| match token {
                    Token::Word(word) => word == "notify" || word == "pg_notify",
                    Token::Text(body) => body.to_lowercase().contains("notify"),
                    _ => false,
                });
                if notifies && matches!(*kind, "function" | "procedure") {
                    self.other("LISTEN and NOTIFY", "");
                }
                let name = c.name().map(|name| name.shown()).unwrap_or_default();
                self.other(kind, &name);
                break;
            }
        }
        Ok(())
    }

    fn create_table(&mut self, c: &mut Cursor<'_>) -> Result<(), String> {
        c.take_all(&["if", "not", "exists"]);
        let name = c.name().ok_or("CREATE TABLE without a name")?;
        let mut table = Table {
            name: name.clone(),
            columns: Vec::new(),
            constraints: Vec::new(),
            comment: None,
            partition_of: None,
        };
        if self.table(&name).is_some() {
            return Err(format!("the table {} is made twice", name.shown()));
        }
        if c.take_all(&["partition", "of"]) {
            let parent = c.name().ok_or("PARTITION OF without a name")?;
            table.columns.clone_from(&self.table_mut(&parent)?.columns);
            table.partition_of = Some(parent);
            self.tables.push(table);
            return Ok(());
        }
        let body = c.parenthesised().ok_or("CREATE TABLE without columns")?;
        for part in split(body) {
            let mut part = Cursor::new(part);
            if part.is_constraint() {
                table.constraints.push(part.constraint()?);
            } else {
                let (column, constraints) = part.column()?;
                table.columns.push(column);
                table.constraints.extend(constraints);
            }
        }
        if c.take("inherits") {
            let parents = c.parenthesised().ok_or("INHERITS without a table")?;
            let mut columns: Vec<Column> = Vec::new();
            for parent in split(parents) {
                let parent = Cursor::new(parent).name().ok_or("INHERITS without a table")?;
                self.parents.insert(parent.clone());
                let inherited = &self.table_mut(&parent)?.columns;
                for column in inherited {
                    let known = |there: &Column| there.name == column.name;
                    if !columns.iter().any(known) && !table.columns.iter().any(known) {
                        columns.push(column.clone());
                    }
                }
            }
            columns.append(&mut table.columns);
            table.columns = columns;
            self.other("inheritance", &name.shown());
        }
        self.tables.push(table);
        Ok(())
    }

    fn create_type(&mut self, c: &mut Cursor<'_>) -> Result<(), String> {
        let name = c.name().ok_or("CREATE TYPE without a name")?;
        if c.take_all(&["as", "enum"]) {
            let values = c.parenthesised().ok_or("an enum without values")?;
            let values = values.iter().filter_map(|token| match token {
                Token::Text(value) => Some(value.clone()),
                _ => None,
            });
            self.enums.insert(name, values.collect());
        }
        Ok(())
    }

    fn create_domain(&mut self, c: &mut Cursor<'_>) -> Result<(), String> {
        let name = c.name().ok_or("CREATE DOMAIN without a name")?;
        c.take("as");
        let base = c.type_name().ok_or("CREATE DOMAIN without a type")?;
        let mut domain = Domain {
            base,
            not_null: false,
            default: None,
            checks: Vec::new(),
        };
        while !c.rest().is_empty() {
            if c.take_all(&["not", "null"]) {
                domain.not_null = true;
            } else if c.take("default") {
                domain.default = Some(c.expression(&["constraint", "not", "null", "check"]).to_vec());
            } else if c.take("check") {
                let check = c.parenthesised().ok_or("CHECK without an expression")?;
                domain.checks.push(check.to_vec());
            } else {
                c.at += 1;
            }
        }
        self.domains.insert(name, domain);
        Ok(())
    }

    fn create_view(&mut self, c: &mut Cursor<'_>) -> Result<(), String> {
        let name = c.name().ok_or("CREATE VIEW without a name")?;
        let columns = c.parenthesised().map(names).unwrap_or_default();
        if c.take("with") {
            c.parenthesised();
        }
        c.take("as");
        let mut query = c.rest().to_vec();
        // WITH [CASCADED] CHECK OPTION is for views that are written to.
        let tail = query.len().saturating_sub(4);
        if query[tail..].iter().any(|token| token.is_word("option"))
            && let Some(at) = query[tail..].iter().position(|token| token.is_word("with"))
        {
            query.truncate(tail + at);
        }
        self.views.push(View { name, columns, query });
        Ok(())
    }

    fn create_index(&mut self, c: &mut Cursor<'_>, unique: bool) -> Result<(), String> {
        c.take_all(&["if", "not", "exists"]);
        let mut name = c.name().ok_or("CREATE INDEX without a name")?;
        c.take("on");
        c.take("only");
        let table = c.name().ok_or("CREATE INDEX without a table")?;
        name.schema.clone_from(&table.schema);
        let method = match c.take("using") {
            true => c.identifier().unwrap_or_default(),
            false => "btree".into(),
        };
        let keys = c.parenthesised().ok_or("CREATE INDEX without keys")?;
        let keys = split(keys).into_iter().map(<[Token]>::to_vec).collect();
        let mut index = Index {
            name,
            table,
            unique,
            method,
            keys,
            include: Vec::new(),
            predicate: None,
            nulls_are_equal: false,
        };
        while !c.rest().is_empty() {
            if c.take("include") {
                index.include = c.parenthesised().map(names).unwrap_or_default();
            } else if c.take_all(&["nulls", "not", "distinct"]) {
                index.nulls_are_equal = true;
            } else if c.take("where") {
                index.predicate = Some(c.rest().to_vec());
                break;
            } else {
                c.at += 1;
            }
        }
        self.indexes.push(index);
        Ok(())
    }

    fn alter(&mut self, c: &mut Cursor<'_>) -> Result<(), String> {
        if c.take("sequence") {
            let name = c.name().ok_or("ALTER SEQUENCE without a name")?;
            if c.take_all(&["owned", "by"])
                && let [schema, table, column] = c.path().as_slice()
            {
                let table = Name {
                    schema: schema.clone(),
                    name: table.clone(),
                };
                self.sequences.entry(name).or_default().owner = Some((table, column.clone()));
            }
            return Ok(());
        }
        if c.take_all(&["default", "privileges"]) {
            self.other("privileges", "");
            return Ok(());
        }
        if !c.take("table") {
            return Ok(());
        }
        c.take_all(&["if", "exists"]);
        c.take("only");
        let name = c.name().ok_or("ALTER TABLE without a name")?;
        let is_known = self.table(&name).is_some();
        if is_known && (c.begins_with(&["drop"]) || c.begins_with(&["rename"]) || c.begins_with(&["add", "column"])) {
            return Err(format!("{NOT_OF_PG_DUMP} that changes a table"));
        }
        if c.take("add") {
            let constraint = c.constraint()?;
            // A foreign table is none of these.
            if let Ok(table) = self.table_mut(&name) {
                table.constraints.push(constraint);
            }
        } else if c.take_all(&["attach", "partition"]) {
            let partition = c.name().ok_or("ATTACH PARTITION without a name")?;
            self.table_mut(&partition)?.partition_of = Some(name);
        } else if c.take("alter") {
            c.take("column");
            let column = c.identifier().ok_or("ALTER COLUMN without a name")?;
            self.alter_column(c, &name, &column);
        } else if c.take_all(&["enable", "row"]) || c.take_all(&["force", "row"]) {
            self.other("row-level security", &name.shown());
        } else if c.take("inherit") {
            self.parents.extend(c.name());
            self.other("inheritance", &name.shown());
        }
        Ok(())
    }

    fn alter_column(&mut self, c: &mut Cursor<'_>, table: &Name, column: &str) {
        let is_identity = c.take_all(&["add", "generated"]);
        let rest = c.rest();
        if is_identity
            && let Some(at) = rest.iter().position(|token| token.is_word("name"))
            && let Some(sequence) = Cursor::new(&rest[at + 1..]).name()
        {
            let mut options = sequence_options(rest);
            options.owner = Some((table.clone(), column.to_owned()));
            self.sequences.insert(sequence, options);
        }
        // A view's column may have a default, too.
        let Ok(table) = self.table_mut(table) else { return };
        let Some(found) = table.columns.iter_mut().find(|there| there.name == column) else {
            return;
        };
        if is_identity {
            found.is_identity = true;
        } else if c.take_all(&["set", "default"]) {
            found.default = Some(c.rest().to_vec());
        } else if c.take_all(&["set", "not", "null"]) {
            found.not_null = true;
        }
    }

    fn comment(&mut self, c: &mut Cursor<'_>) {
        c.take("on");
        let of_table = c.take("table");
        if !of_table && !c.take("column") {
            if !c.begins_with(&["extension"]) && !c.begins_with(&["schema"]) {
                self.other("comments on what is neither a table nor a column", "");
            }
            return;
        }
        let path = c.path();
        c.take("is");
        let (Some(Token::Text(text)), [schema, table, column @ ..]) = (c.rest().first(), path.as_slice()) else {
            return;
        };
        let name = Name {
            schema: schema.clone(),
            name: table.clone(),
        };
        let Ok(table) = self.table_mut(&name) else { return };
        if of_table {
            table.comment = Some(text.clone());
        } else if let [column] = column
            && let Some(column) = table.columns.iter_mut().find(|there| there.name == *column)
        {
            column.comment = Some(text.clone());
        }
    }
}

/// The settings that a reader depends on.
fn setting(c: &mut Cursor<'_>) -> Result<(), String> {
    let Some(name) = c.identifier() else { return Ok(()) };
    let value = c.rest().last().map(|token| match token {
        Token::Text(text) => text.to_lowercase(),
        token => token.to_string(),
    });
    if name == "search_path" {
        let path: Vec<String> = c.rest().iter().map(ToString::to_string).collect();
        return search_path(&path.join(" "));
    }
    match (name.as_str(), value.as_deref()) {
        ("client_encoding", Some(encoding)) if !["utf8", "utf-8", "unicode"].contains(&encoding) => Err(format!(
            "the dump is in {encoding}, and only UTF-8 is read; make it by pg_dump --encoding=UTF8"
        )),
        ("standard_conforming_strings", Some("off")) => {
            Err("the dump has standard_conforming_strings = off, whose strings are not read".into())
        }
        _ => Ok(()),
    }
}

/// Names without a schema are of `public`: another path would put rows into the wrong table.
fn search_path(path: &str) -> Result<(), String> {
    let plain = |c: char| !(c.is_alphanumeric() || c == '_');
    let other = path
        .split(plain)
        .find(|word| !["", "to", "public", "pg_catalog", "user"].contains(word));
    match other {
        None => Ok(()),
        Some(other) => Err(format!(
            "the search_path {other} is not read: make the dump by a pg_dump from 10.3 on, which writes the schema before each \
             name"
        )),
    }
}

fn text_of(token: &Token) -> Option<&str> {
    match token {
        Token::Text(text) => Some(text),
        _ => None,
    }
}

/// `START WITH .. INCREMENT BY ..`
fn sequence_options(tokens: &[Token]) -> Sequence {
    let number = |word: &str, skip: &str| {
        let at = tokens.iter().position(|token| token.is_word(word))? + 1;
        let mut rest = tokens[at..].iter().filter(|token| !token.is_word(skip));
        match rest.next()? {
            Token::Number(number) => number.parse().ok(),
            Token::Operator(_) => rest.next()?.to_string().parse::<i64>().ok().map(|number| -number),
            _ => None,
        }
    };
    let increment = number("increment", "by").unwrap_or(1);
    let start = number("start", "with").unwrap_or(1);
    Sequence {
        owner: None,
        last: start.saturating_sub(increment),
        increment,
    }
}

/// A name in a string: `'public.t_id_seq'`.
pub(super) fn regclass(text: &str) -> Result<Name, String> {
    let tokens = tokens(text)?;
    Cursor::new(&tokens).name().ok_or_else(|| format!("{text} is no name"))
}

fn cut(sql: &str) -> String {
    let line = sql.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(120) {
        Some((at, _)) => format!("{}..", &line[..at]),
        None => line,
    }
}

/// The parts between commas that are in no parenthesis.
pub(super) fn split(tokens: &[Token]) -> Vec<&[Token]> {
    let (mut parts, mut from, mut depth) = (Vec::new(), 0, 0_usize);
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::Mark('(' | '[') => depth += 1,
            Token::Mark(')' | ']') => depth = depth.saturating_sub(1),
            Token::Mark(',') if depth == 0 => {
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

pub(super) fn names(tokens: &[Token]) -> Vec<String> {
    let parts = split(tokens).into_iter();
    parts.filter_map(|part| Cursor::new(part).identifier()).collect()
}

/// A place in tokens.
pub(super) struct Cursor<'t> {
    tokens: &'t [Token],
    at: usize,
}

impl<'t> Cursor<'t> {
    pub(super) fn new(tokens: &'t [Token]) -> Self {
        Self { tokens, at: 0 }
    }

    pub(super) fn skip(&mut self, count: usize) {
        self.at += count;
    }

    pub(super) fn rest(&self) -> &'t [Token] {
        &self.tokens[self.at.min(self.tokens.len())..]
    }

    fn begins_with(&self, words: &[&str]) -> bool {
        let rest = self.rest();
        words.len() <= rest.len() && words.iter().zip(rest).all(|(word, token)| token.is_word(word))
    }

    pub(super) fn take(&mut self, word: &str) -> bool {
        self.take_all(&[word])
    }

    pub(super) fn take_all(&mut self, words: &[&str]) -> bool {
        let found = self.begins_with(words);
        if found {
            self.at += words.len();
        }
        found
    }

    pub(super) fn identifier(&mut self) -> Option<String> {
        match self.rest().first()? {
            Token::Word(name) | Token::Name(name) => {
                self.at += 1;
                Some(name.clone())
            }
            _ => None,
        }
    }

    /// Names with dots between them.
    pub(super) fn path(&mut self) -> Vec<String> {
        let mut path = Vec::new();
        while let Some(name) = self.identifier() {
            path.push(name);
            if !self.rest().first().is_some_and(|token| token.is_mark('.')) {
                break;
            }
            self.at += 1;
        }
        path
    }

    /// A name, with its schema or in `public`.
    pub(super) fn name(&mut self) -> Option<Name> {
        let mut path = self.path();
        let name = path.pop()?;
        let schema = path.pop().unwrap_or_else(|| "public".into());
        Some(Name { schema, name })
    }

    fn type_name(&mut self) -> Option<TypeName> {
        let (name, count) = TypeName::read(self.rest())?;
        self.at += count;
        Some(name)
    }

    /// What is in parentheses here.
    pub(super) fn parenthesised(&mut self) -> Option<&'t [Token]> {
        let rest = self.rest();
        if !rest.first()?.is_mark('(') {
            return None;
        }
        let mut depth = 0_usize;
        for (at, token) in rest.iter().enumerate() {
            match token {
                Token::Mark('(') => depth += 1,
                Token::Mark(')') => {
                    depth -= 1;
                    if depth == 0 {
                        self.at += at + 1;
                        return Some(&rest[1..at]);
                    }
                }
                _ => {}
            }
        }
        None
    }

    /// An expression until one of these words, outside of parentheses.
    fn expression(&mut self, ends: &[&str]) -> &'t [Token] {
        let rest = self.rest();
        let mut depth = 0_usize;
        let end = rest.iter().enumerate().position(|(at, token)| match token {
            Token::Mark('(' | '[') => {
                depth += 1;
                false
            }
            Token::Mark(')' | ']') => {
                depth = depth.saturating_sub(1);
                false
            }
            // DEFAULT NULL begins with such a word.
            Token::Word(word) => depth == 0 && at > 0 && ends.contains(&word.as_str()),
            _ => false,
        });
        let end = end.unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn is_constraint(&self) -> bool {
        const BEGINS: &[&[&str]] = &[
            &["constraint"],
            &["check"],
            &["unique"],
            &["exclude", "using"],
            &["primary", "key"],
            &["foreign", "key"],
        ];
        // `exclude` alone is the name of a column: PostgreSQL does not reserve it, and pg_dump does not quote it.
        let is_exclude = self.begins_with(&["exclude"]) && self.rest().get(1).is_some_and(|token| token.is_mark('('));
        is_exclude || BEGINS.iter().any(|words| self.begins_with(words))
    }

    fn column(&mut self) -> Result<(Column, Vec<Constraint>), String> {
        let name = self.identifier().ok_or("a column without a name")?;
        let type_name = self
            .type_name()
            .ok_or_else(|| format!("the column {name} has no type"))?;
        let mut column = Column {
            name: name.clone(),
            type_name,
            not_null: false,
            default: None,
            is_identity: false,
            generated: None,
            collation: None,
            comment: None,
        };
        let mut constraints = Vec::new();
        while !self.rest().is_empty() {
            if self.take("collate") {
                column.collation = self.name().map(|name| name.name);
            } else if self.take("default") {
                let ends = [
                    "not",
                    "constraint",
                    "check",
                    "generated",
                    "collate",
                    "primary",
                    "unique",
                ];
                column.default = Some(self.expression(&ends).to_vec());
            } else if self.take_all(&["not", "null"]) {
                column.not_null = true;
            } else if self.take_all(&["generated", "always", "as", "identity"])
                || self.take_all(&["generated", "by", "default", "as", "identity"])
            {
                column.is_identity = true;
                self.parenthesised();
            } else if self.take_all(&["generated", "always", "as"]) {
                column.generated = self.parenthesised().map(<[Token]>::to_vec);
                self.take("stored");
            } else if self.is_constraint() || self.begins_with(&["references"]) {
                let mut constraint = self.constraint()?;
                match &mut constraint.rule {
                    Rule::ForeignKey(key) => key.columns = vec![name.clone()],
                    Rule::PrimaryKey(columns) | Rule::Unique { columns, .. } => *columns = vec![name.clone()],
                    _ => {}
                }
                constraints.push(constraint);
            } else {
                self.at += 1;
            }
        }
        Ok((column, constraints))
    }

    fn constraint(&mut self) -> Result<Constraint, String> {
        let name = if self.take("constraint") {
            self.identifier()
        } else {
            None
        };
        let columns = |c: &mut Self| c.parenthesised().map(names).unwrap_or_default();
        let rule = if self.take_all(&["primary", "key"]) {
            Rule::PrimaryKey(columns(self))
        } else if self.take("unique") {
            let nulls_are_equal = self.take_all(&["nulls", "not", "distinct"]);
            Rule::Unique {
                columns: columns(self),
                nulls_are_equal,
            }
        } else if self.take("check") {
            Rule::Check(self.parenthesised().ok_or("CHECK without an expression")?.to_vec())
        } else if self.take_all(&["foreign", "key"]) || self.begins_with(&["references"]) {
            let own = columns(self);
            self.take("references");
            Rule::ForeignKey(ForeignKey {
                columns: own,
                table: self.name().ok_or("REFERENCES without a table")?,
                parents: columns(self),
                on_delete: None,
                on_update: None,
                is_full: false,
                acts_on_some: false,
            })
        } else {
            let exclude = self.begins_with(&["exclude"]);
            self.at = self.tokens.len();
            Rule::Other(if exclude {
                "EXCLUDE"
            } else {
                "a constraint of an unknown kind"
            })
        };
        let mut constraint = Constraint {
            name,
            rule,
            is_deferrable: false,
            is_deferred: false,
            is_valid: true,
        };
        loop {
            if self.take_all(&["not", "deferrable"])
                || self.take_all(&["initially", "immediate"])
                || self.take_all(&["no", "inherit"])
            {
            } else if self.take("deferrable") {
                constraint.is_deferrable = true;
            } else if self.take_all(&["initially", "deferred"]) {
                constraint.is_deferred = true;
            } else if self.take_all(&["not", "valid"]) {
                constraint.is_valid = false;
            } else if let Rule::ForeignKey(key) = &mut constraint.rule {
                if self.take_all(&["on", "delete"]) {
                    key.on_delete = self.action();
                    key.acts_on_some |= self.parenthesised().is_some();
                } else if self.take_all(&["on", "update"]) {
                    key.on_update = self.action();
                } else if self.take_all(&["match", "full"]) {
                    key.is_full = true;
                } else {
                    return Ok(constraint);
                }
            } else {
                return Ok(constraint);
            }
        }
    }

    fn action(&mut self) -> Option<String> {
        const ACTIONS: &[&[&str]] = &[
            &["cascade"],
            &["restrict"],
            &["set", "null"],
            &["set", "default"],
            &["no", "action"],
        ];
        let words = ACTIONS.iter().find(|words| self.take_all(words))?;
        Some(words.join(" ").to_uppercase())
    }
}

impl Constraint {
    pub(super) fn shown(&self) -> String {
        match (&self.name, &self.rule) {
            (Some(name), _) => name.clone(),
            (None, Rule::Check(check)) => format!("CHECK ({})", shown(check)),
            (None, _) => "a constraint".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn column_named_exclude_is_no_constraint() {
        let model = model(&[
            "CREATE TABLE public.t (id integer, exclude boolean, r int4range, EXCLUDE USING gist (r WITH &&), EXCLUDE (id \
             WITH =))",
        ]);
        let table = &model.tables[0];
        let names: Vec<_> = table.columns.iter().map(|column| column.name.as_str()).collect();
        assert_eq!(names, ["id", "exclude", "r"]);
        assert_eq!(table.constraints.len(), 2);
    }

    fn model(statements: &[&str]) -> Model {
        let mut model = Model::default();
        for sql in statements {
            model.apply(sql).unwrap();
        }
        model
    }

    #[test]
    fn tables_and_their_constraints_are_read() {
        let model = model(&[
            "CREATE TABLE public.film (id integer NOT NULL, title character varying(255) DEFAULT 'a, b'::character varying \
             NOT NULL, \"Odd \"\"one\" numeric(5,2) DEFAULT 0.0, total integer GENERATED ALWAYS AS ((id * 2)) STORED, \
             CONSTRAINT c CHECK ((id > 0)))",
            "ALTER TABLE ONLY public.film ADD CONSTRAINT film_pkey PRIMARY KEY (id)",
            "ALTER TABLE ONLY public.film ADD CONSTRAINT f FOREIGN KEY (id, title) REFERENCES s.other(a, b) ON UPDATE CASCADE \
             ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED",
            "ALTER TABLE public.film ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (SEQUENCE NAME public.film_id_seq \
             START WITH 1 INCREMENT BY 1 CACHE 1)",
            "SELECT pg_catalog.setval('public.film_id_seq', 41, true)",
            "COMMENT ON COLUMN public.film.title IS 'the name'",
        ]);
        let film = &model.tables[0];
        let names: Vec<_> = film.columns.iter().map(|column| column.name.as_str()).collect();
        assert_eq!(names, ["id", "title", "Odd \"one", "total"]);
        assert!(film.columns[1].not_null && film.columns[1].default.is_some());
        assert_eq!(film.columns[1].comment.as_deref(), Some("the name"));
        assert!(film.columns[0].is_identity && film.columns[3].generated.is_some());
        assert_eq!(film.constraints.len(), 3);
        let Rule::ForeignKey(key) = &film.constraints[2].rule else {
            panic!("{film:?}");
        };
        assert_eq!(
            (key.on_delete.as_deref(), key.on_update.as_deref()),
            (Some("SET NULL"), Some("CASCADE"))
        );
        assert!(film.constraints[2].is_deferred);
        let sequence = model.sequences.values().next().unwrap();
        assert_eq!((sequence.last, sequence.owner.as_ref().unwrap().1.as_str()), (41, "id"));
    }

    #[test]
    fn partitions_have_their_root() {
        let model = model(&[
            "CREATE TABLE public.m (id integer, day date) PARTITION BY RANGE (day)",
            "CREATE TABLE public.m_1 (id integer, day date)",
            "ALTER TABLE ONLY public.m ATTACH PARTITION public.m_1 FOR VALUES FROM ('2020-01-01') TO ('2021-01-01')",
        ]);
        assert_eq!(model.root(&regclass("public.m_1").unwrap()).name, "m");
    }

    #[test]
    fn other_objects_are_listed() {
        let model = model(&[
            "CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NOTIFY x; END $$",
            "ALTER TABLE public.t ENABLE ROW LEVEL SECURITY",
            "CREATE MATERIALIZED VIEW public.mv AS SELECT 1 AS a WITH NO DATA",
        ]);
        let kinds: Vec<_> = model.others.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(
            kinds,
            [
                "LISTEN and NOTIFY",
                "function",
                "row-level security",
                "materialized view"
            ]
        );
    }
}
