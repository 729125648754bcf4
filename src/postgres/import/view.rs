//! Views of PostgreSQL as SQLite's, where they show the same rows. All others are refused with a reason.
//!
//! Read as the server writes them: names with their table, operators in parentheses, no `*`.

use super::expression::{Place, Query, Scope, comparable, is_comparable, sorted, translate, translate_with_kinds};
use super::kind::{Kind, TypeName};
use super::model::{Cursor, Name, split};
use super::sql::{Token, shown};
use crate::connection::sql_text::quoted;

/// A table or a view that a query reads.
#[derive(Clone, Debug)]
pub(super) struct Relation {
    /// Its name in SQLite.
    pub(super) name: String,
    pub(super) columns: Vec<RelationColumn>,
}

#[derive(Clone, Debug)]
pub(super) struct RelationColumn {
    /// Its name in PostgreSQL.
    pub(super) source: String,
    pub(super) name: String,
    /// `None` if it is not known: the column can be shown, and no more.
    pub(super) kind: Option<Kind>,
    pub(super) is_enum: bool,
}

impl RelationColumn {
    /// The kind of its values in an expression.
    fn operand(&self) -> Option<Kind> {
        if self.is_enum {
            Some(Kind::AsText)
        } else {
            self.kind.clone()
        }
    }

    /// Whether the values are told apart as PostgreSQL does.
    fn is_comparable(&self) -> bool {
        self.is_enum || self.kind.as_ref().is_some_and(is_comparable)
    }
}

/// What a query is translated with.
pub(super) struct Views<'v> {
    /// A table or a view that was made, or why there is none.
    pub(super) relation: &'v dyn Fn(&Name) -> Result<Relation, String>,
    /// The kind of a type, through domains and enums.
    pub(super) kind: &'v dyn Fn(&TypeName) -> Kind,
}

/// What the names in a query stand for.
#[derive(Default)]
struct Names<'o> {
    /// What is read, by its alias.
    relations: Vec<(String, Relation)>,
    /// The columns of USING, which have no table.
    merged: Vec<String>,
    /// The queries of WITH.
    ctes: Vec<(String, Relation)>,
    outer: Option<&'o Names<'o>>,
}

impl Names<'_> {
    fn find(&self, of: Option<&str>, name: &str) -> Option<(&RelationColumn, String)> {
        let mut found = self.relations.iter().filter_map(|(alias, relation)| {
            let column = relation.columns.iter().find(|column| column.source == name);
            let column = column.filter(|_| of.is_none_or(|of| of == alias))?;
            Some((alias, column))
        });
        let is_merged = of.is_none() && self.merged.iter().any(|merged| merged == name);
        match (found.next(), found.next()) {
            (Some((_, column)), _) if is_merged => Some((column, quoted(&column.name))),
            (Some((alias, column)), None) => Some((column, format!("{}.{}", quoted(alias), quoted(&column.name)))),
            // It is not known which one.
            (Some(_), Some(_)) => None,
            (None, _) => self.outer?.find(of, name),
        }
    }

    fn operand(&self, of: Option<&str>, name: &str) -> Option<(Kind, String)> {
        let (column, sql) = self.find(of, name)?;
        Some((column.operand()?, sql))
    }

    fn cte(&self, name: &str) -> Option<&Relation> {
        let own = self.ctes.iter().find(|(there, _)| there == name);
        own.map(|(_, relation)| relation).or_else(|| self.outer?.cte(name))
    }

    /// A column that stands alone.
    fn column(&self, tokens: &[Token]) -> Option<(&RelationColumn, String)> {
        match tokens {
            [Token::Mark('('), inner @ .., Token::Mark(')')] => self.column(inner),
            [Token::Word(name) | Token::Name(name)] => self.find(None, name),
            [
                Token::Word(of) | Token::Name(of),
                Token::Mark('.'),
                Token::Word(name) | Token::Name(name),
            ] => self.find(Some(of), name),
            _ => None,
        }
    }
}

/// A query in SQLite's SQL, with the columns that it shows.
type Translated = (String, Vec<RelationColumn>);

/// The clauses behind FROM, in their order, and the words that begin other ones.
const CLAUSES: &[&[&str]] = &[
    &["from"],
    &["where"],
    &["group", "by"],
    &["having"],
    &["order", "by"],
    &["limit"],
    &["offset"],
    &["window"],
    &["fetch"],
    &["for"],
];

impl Views<'_> {
    /// Translates the query of a view.
    pub(super) fn translate(&self, query: &[Token]) -> Result<Translated, String> {
        self.query(query, None)
    }

    fn query(&self, tokens: &[Token], outer: Option<&Names<'_>>) -> Result<Translated, String> {
        let mut names = Names {
            outer,
            ..Names::default()
        };
        let mut cursor = Cursor::new(tokens);
        let mut with = Vec::new();
        if cursor.take("with") {
            if cursor.take("recursive") {
                return Err("a recursive query is not translated".into());
            }
            loop {
                let name = cursor.identifier().ok_or("WITH without a name")?;
                if cursor.rest().first().is_some_and(|token| token.is_mark('(')) {
                    return Err("WITH that names its columns is not translated".into());
                }
                cursor.take("as");
                cursor.take_all(&["not", "materialized"]);
                cursor.take("materialized");
                let inner = cursor.parenthesised().ok_or("WITH without a query")?;
                let (sql, columns) = self.query(inner, Some(&names))?;
                // The name of no table: SQLite would take a table of that name for this query, whatever its schema.
                let hidden = format!("with {name}");
                with.push(format!("{} AS ({sql})", quoted(&hidden)));
                let relation = Relation { name: hidden, columns };
                names.ctes.push((name, relation));
                match cursor.rest() {
                    [Token::Mark(','), ..] => cursor.skip(1),
                    _ => break,
                }
            }
        }
        let (sql, columns) = self.compound(cursor.rest(), &names)?;
        let with = match with.as_slice() {
            [] => String::new(),
            with => format!("WITH {} ", with.join(", ")),
        };
        Ok((format!("{with}{sql}"), columns))
    }

    /// SELECTs with UNION and the like between them.
    fn compound(&self, tokens: &[Token], outer: &Names<'_>) -> Result<Translated, String> {
        let mut parts = Vec::new();
        let (mut depth, mut from, mut at) = (0_usize, 0, 0);
        while let Some(token) = tokens.get(at) {
            match token {
                Token::Mark('(' | '[') => depth += 1,
                Token::Mark(')' | ']') => depth = depth.saturating_sub(1),
                Token::Word(word) if depth == 0 && ["union", "intersect", "except"].contains(&word.as_str()) => {
                    let all = tokens.get(at + 1).is_some_and(|token| token.is_word("all"));
                    parts.push((&tokens[from..at], word.as_str(), all));
                    at += usize::from(all);
                    from = at + 1;
                }
                _ => {}
            }
            at += 1;
        }
        if parts.is_empty() {
            return self.select(tokens, outer);
        }
        let (last, order) = clauses(&tokens[from..])?.split_order(&tokens[from..]);
        if !order.is_empty() {
            return Err("the order of a UNION is not translated".into());
        }
        // SQLite runs them from left to right, and has ALL for UNION alone.
        let first = parts[0].1;
        let is_plain = |(_, word, all): &(&[Token], &str, bool)| *word == first && (!all || *word == "union");
        if !parts.iter().all(is_plain) {
            return Err("UNION, INTERSECT and EXCEPT in one query are not translated".into());
        }
        let distinct = parts.iter().any(|(_, _, all)| !all);
        let (mut sql, mut columns) = self.select(parts[0].0, outer)?;
        let behind = parts[1..].iter().map(|(part, ..)| *part).chain([last]);
        for ((_, word, all), part) in parts.iter().zip(behind) {
            let (next, others) = self.select(part, outer)?;
            let same = |(one, other): (&RelationColumn, &RelationColumn)| one.kind.is_some() && one.kind == other.kind;
            if columns.len() != others.len() || !columns.iter().zip(&others).all(same) {
                return Err("the types of a UNION are not known to be the same".into());
            }
            for (column, other) in columns.iter_mut().zip(&others) {
                column.is_enum &= other.is_enum;
            }
            let all = if *all { " ALL" } else { "" };
            sql = format!("{sql} {}{all} {next}", word.to_uppercase());
        }
        if distinct && !columns.iter().all(RelationColumn::is_comparable) {
            return Err("a UNION compares values that may be the same with another text".into());
        }
        Ok((sql, columns))
    }

    fn select(&self, tokens: &[Token], outer: &Names<'_>) -> Result<Translated, String> {
        let mut cursor = Cursor::new(tokens);
        if !cursor.take("select") {
            return Err("a query that is no plain SELECT is not translated".into());
        }
        let distinct = cursor.take("distinct");
        if distinct && cursor.take("on") {
            return Err("DISTINCT ON has no counterpart".into());
        }
        let clauses = clauses(cursor.rest())?;
        let mut names = Names {
            outer: Some(outer),
            ..Names::default()
        };
        let from = match clauses.of("from") {
            Some(from) => format!(" FROM {}", self.from(from, &mut names)?),
            None => String::new(),
        };
        let names = names;
        let column = |of: Option<&str>, name: &str| names.operand(of, name);
        let query = |tokens: &[Token], has_value: bool| {
            let (sql, columns) = self.query(tokens, Some(&names))?;
            if !has_value {
                return Ok((sql, Vec::new()));
            }
            let kinds = columns
                .iter()
                .map(|column| column.operand().filter(|_| column.is_comparable()));
            let kinds: Option<Vec<Kind>> = kinds.collect();
            let kinds = kinds.ok_or("a query inside it has values that are compared otherwise here")?;
            Ok((sql, kinds))
        };
        let query: &Query<'_> = &query;
        let scope = |place| Scope {
            column: &column,
            kind: self.kind,
            place,
            query: Some(query),
        };
        let (value, condition) = (scope(Place::Value), scope(Place::Condition));
        let (mut items, mut columns) = (Vec::new(), Vec::new());
        for item in split(clauses.items) {
            let (sql, column) = item_of(item, &names, &value, distinct)?;
            let is_twice = |there: &RelationColumn| there.name.eq_ignore_ascii_case(&column.name);
            if columns.iter().any(is_twice) {
                return Err(format!(
                    "SQLite takes the name {} for that of another column",
                    column.name
                ));
            }
            items.push(format!("{sql} AS {}", quoted(&column.name)));
            columns.push(column);
        }
        let mut sql = format!(
            "SELECT {}{}{from}",
            if distinct { "DISTINCT " } else { "" },
            items.join(", ")
        );
        if let Some(tokens) = clauses.of("where") {
            sql.push_str(&format!(" WHERE {}", translate(tokens, &condition)?));
        }
        if let Some(tokens) = clauses.of("group") {
            let mut keys = Vec::new();
            for key in split(tokens) {
                keys.push(key_of(key, &names, &value)?);
            }
            sql.push_str(&format!(" GROUP BY {}", keys.join(", ")));
        }
        if let Some(tokens) = clauses.of("having") {
            sql.push_str(&format!(" HAVING {}", translate(tokens, &condition)?));
        }
        if let Some(tokens) = clauses.of("order") {
            sql.push_str(&format!(" ORDER BY {}", sorted(tokens, &value)?));
        }
        let limit = |name: &str| match clauses.of(name) {
            None => Ok(None),
            Some([Token::Number(number)]) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
                Ok(Some(number.clone()))
            }
            Some(_) => Err(format!("{} is read with a number alone", name.to_uppercase())),
        };
        match (limit("limit")?, limit("offset")?) {
            (None, None) => {}
            (limit, offset) => {
                let limit = limit.unwrap_or_else(|| "-1".into());
                let offset = offset.map(|offset| format!(" OFFSET {offset}")).unwrap_or_default();
                sql.push_str(&format!(" LIMIT {limit}{offset}"));
            }
        }
        Ok((sql, columns))
    }

    fn from(&self, tokens: &[Token], names: &mut Names<'_>) -> Result<String, String> {
        let mut parts = Vec::new();
        for (at, part) in split(tokens).into_iter().enumerate() {
            let mut cursor = Cursor::new(part);
            // In parentheses behind a comma: SQLite's comma is a JOIN like the others.
            let (sql, is_join) = self.joined(&mut cursor, names)?;
            parts.push(if is_join && at > 0 { format!("({sql})") } else { sql });
            if !cursor.rest().is_empty() {
                return Err(format!("{} is not translated", shown(cursor.rest())));
            }
        }
        Ok(parts.join(", "))
    }

    /// A table, or a JOIN.
    fn joined(&self, cursor: &mut Cursor<'_>, names: &mut Names<'_>) -> Result<(String, bool), String> {
        let (mut sql, mut is_join) = self.joinable(cursor, names)?;
        loop {
            let word = match () {
                () if cursor.take("join") || cursor.take_all(&["inner", "join"]) => "JOIN",
                () if cursor.take_all(&["left", "join"]) => "LEFT JOIN",
                () if cursor.take_all(&["right", "join"]) => "RIGHT JOIN",
                () if cursor.take_all(&["full", "join"]) => "FULL JOIN",
                () if cursor.take_all(&["cross", "join"]) => "CROSS JOIN",
                () => return Ok((sql, is_join)),
            };
            is_join = true;
            let (right, is_nested) = self.joinable(cursor, names)?;
            let right = if is_nested { format!("({right})") } else { right };
            sql = format!("{sql} {word} {right}");
            if cursor.take("on") {
                let on = cursor.parenthesised().ok_or("ON without a condition")?;
                sql.push_str(&format!(" ON {}", self.condition(on, names)?));
            } else if cursor.take("using") {
                let using = cursor.parenthesised().ok_or("USING without a column")?;
                let mut columns = Vec::new();
                for column in split(using) {
                    let [Token::Word(name) | Token::Name(name)] = column else {
                        return Err("USING without a column".into());
                    };
                    columns.push(quoted(&self.merge(name, names)?));
                }
                sql.push_str(&format!(" USING ({})", columns.join(", ")));
                if cursor.take("as") {
                    return Err("USING with a name is not translated".into());
                }
            }
        }
    }

    /// A column of USING, by its name in SQLite.
    fn merge(&self, name: &str, names: &mut Names<'_>) -> Result<String, String> {
        let columns = names.relations.iter().flat_map(|(_, relation)| &relation.columns);
        let columns: Vec<_> = columns.filter(|column| column.source == name).collect();
        let first = *columns.first().ok_or_else(|| format!("{name} is not known"))?;
        let same = |column: &&RelationColumn| column.name == first.name && column.kind == first.kind;
        if !columns.iter().all(same) || !first.is_comparable() {
            return Err(format!("the columns {name} of USING are compared otherwise here"));
        }
        let in_sqlite = first.name.clone();
        names.merged.push(name.to_owned());
        Ok(in_sqlite)
    }

    fn condition(&self, tokens: &[Token], names: &Names<'_>) -> Result<String, String> {
        let column = |of: Option<&str>, name: &str| names.operand(of, name);
        let scope = Scope {
            column: &column,
            kind: self.kind,
            place: Place::Condition,
            query: None,
        };
        translate(tokens, &scope)
    }

    /// What can be joined: a table, a view, a query of WITH, a query in parentheses, a JOIN in parentheses.
    fn joinable(&self, cursor: &mut Cursor<'_>, names: &mut Names<'_>) -> Result<(String, bool), String> {
        let begins_alias = |token: &Token| match token {
            Token::Name(_) => true,
            Token::Word(word) => ![
                "join",
                "inner",
                "left",
                "right",
                "full",
                "cross",
                "on",
                "using",
                "tablesample",
            ]
            .contains(&word.as_str()),
            _ => false,
        };
        if let Some(inner) = cursor.parenthesised() {
            let is_query = inner
                .first()
                .is_some_and(|token| token.is_word("select") || token.is_word("with"));
            if !is_query {
                let mut joined = Cursor::new(inner);
                let (sql, is_join) = self.joined(&mut joined, names)?;
                if !joined.rest().is_empty() || cursor.rest().first().is_some_and(begins_alias) {
                    return Err("a JOIN with a name is not translated".into());
                }
                return Ok((sql, is_join));
            }
            // It does not see what stands beside it.
            let (sql, columns) = self.query(inner, names.outer)?;
            let alias = cursor.identifier().ok_or("a query without a name")?;
            let relation = Relation {
                name: alias.clone(),
                columns,
            };
            let sql = format!("({sql}) AS {}", quoted(&alias));
            return self.add(alias, relation, sql, cursor, names);
        }
        cursor.take("only");
        let path = cursor.path();
        let relation = match path.as_slice() {
            [name] => match names.cte(name) {
                Some(relation) => relation.clone(),
                None => (self.relation)(&public(name))?,
            },
            [schema, name] => {
                let name = Name {
                    schema: schema.clone(),
                    name: name.clone(),
                };
                (self.relation)(&name)?
            }
            _ => return Err(format!("{} is not translated", shown(cursor.rest()))),
        };
        let alias = match cursor.rest().first().is_some_and(begins_alias) {
            true => cursor.identifier().unwrap_or_default(),
            false => path.last().cloned().unwrap_or_default(),
        };
        let sql = format!("{} AS {}", quoted(&relation.name), quoted(&alias));
        self.add(alias, relation, sql, cursor, names)
    }

    fn add(
        &self,
        alias: String,
        relation: Relation,
        sql: String,
        cursor: &Cursor<'_>,
        names: &mut Names<'_>,
    ) -> Result<(String, bool), String> {
        if cursor.rest().first().is_some_and(|token| token.is_mark('(')) {
            return Err("a function or a list of names in FROM is not translated".into());
        }
        if names
            .relations
            .iter()
            .any(|(there, _)| there.eq_ignore_ascii_case(&alias))
        {
            return Err(format!("SQLite takes the name {alias} for that of another table"));
        }
        names.relations.push((alias, relation));
        Ok((sql, false))
    }
}

fn public(name: &str) -> Name {
    Name {
        schema: "public".into(),
        name: name.to_owned(),
    }
}

/// What a SELECT shows: its SQL and its column.
fn item_of(
    item: &[Token],
    names: &Names<'_>,
    scope: &Scope<'_>,
    distinct: bool,
) -> Result<(String, RelationColumn), String> {
    let (expression, alias) = match item {
        [expression @ .., word, Token::Word(name) | Token::Name(name)] if word.is_word("as") => {
            (expression, Some(name))
        }
        item => (item, None),
    };
    let (sql, mut column) = match names.column(expression) {
        Some((column, sql)) => (sql, column.clone()),
        None => {
            let (sql, kinds) = translate_with_kinds(expression, scope)?;
            // As PostgreSQL calls it.
            let unnamed = "?column?".to_owned();
            let name = alias.unwrap_or(&unnamed);
            let kind = match kinds.as_slice() {
                [first, others @ ..] if others.iter().all(|kind| kind == first) => Some(first.clone()),
                _ => None,
            };
            let column = RelationColumn {
                source: name.clone(),
                name: name.clone(),
                kind: kind.filter(|kind| *kind != Kind::AsText),
                is_enum: false,
            };
            (sql, column)
        }
    };
    if let Some(name) = alias {
        column.source.clone_from(name);
        column.name.clone_from(name);
    }
    if distinct && !column.is_comparable() {
        return Err(format!(
            "DISTINCT of {}, whose values may be the same with another text",
            shown(expression)
        ));
    }
    Ok((sql, column))
}

/// A key of GROUP BY.
fn key_of(key: &[Token], names: &Names<'_>, scope: &Scope<'_>) -> Result<String, String> {
    match names.column(key) {
        Some((column, sql)) if column.is_enum => Ok(sql),
        _ => comparable(key, scope, "groups by"),
    }
}

/// The parts of a SELECT.
struct Clauses<'t> {
    items: &'t [Token],
    others: Vec<(&'static str, &'t [Token])>,
}

impl<'t> Clauses<'t> {
    fn of(&self, name: &str) -> Option<&'t [Token]> {
        let found = self.others.iter().find(|(there, _)| *there == name);
        found.map(|(_, tokens)| *tokens)
    }

    /// What is before ORDER BY and LIMIT, and they.
    fn split_order(&self, tokens: &'t [Token]) -> (&'t [Token], &'t [Token]) {
        let behind = self
            .others
            .iter()
            .filter(|(name, _)| ["order", "limit", "offset"].contains(name));
        let least = behind
            .map(|(name, of)| of.len() + if *name == "order" { 2 } else { 1 })
            .sum::<usize>();
        tokens.split_at(tokens.len() - least)
    }
}

fn clauses(tokens: &[Token]) -> Result<Clauses<'_>, String> {
    let (mut depth, mut at) = (0_usize, 0);
    let mut begins: Vec<(&'static str, usize, usize)> = Vec::new();
    while let Some(token) = tokens.get(at) {
        match token {
            Token::Mark('(' | '[') => depth += 1,
            Token::Mark(')' | ']') => depth = depth.saturating_sub(1),
            _ if depth == 0 => {
                let begins_here = |words: &&&[&'static str]| {
                    let here = tokens.get(at..at + words.len()).unwrap_or_default();
                    here.len() == words.len() && here.iter().zip(**words).all(|(token, word)| token.is_word(word))
                };
                if let Some(words) = CLAUSES.iter().find(begins_here) {
                    begins.push((words[0], at, at + words.len()));
                    at += words.len() - 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    if let Some((name, ..)) = begins
        .iter()
        .find(|(name, ..)| ["window", "fetch", "for"].contains(name))
    {
        return Err(format!("{} is not translated", name.to_uppercase()));
    }
    let ends = begins.iter().skip(1).map(|(_, begin, _)| *begin).chain([tokens.len()]);
    let others = begins
        .iter()
        .zip(ends)
        .map(|((name, _, from), to)| (*name, &tokens[*from..to]));
    Ok(Clauses {
        items: &tokens[..begins.first().map_or(tokens.len(), |(_, begin, _)| *begin)],
        others: others.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::sql::tokens;
    use super::*;

    fn translated(query: &str) -> Result<String, String> {
        let column = |name: &str, kind: Kind| RelationColumn {
            source: name.into(),
            name: if name == "Id" { "Id_2".into() } else { name.into() },
            is_enum: name == "rating",
            kind: Some(kind),
        };
        let relation = |name: &Name| match name.name.as_str() {
            "film" => Ok(Relation {
                name: "film".into(),
                columns: vec![
                    column("id", Kind::Integer),
                    column("Id", Kind::Integer),
                    column("title", Kind::Text),
                    column("rate", Kind::Numeric),
                    column("rating", Kind::AsText),
                    column("added", Kind::TimestampTz),
                    column("day", Kind::Date),
                    column("share", Kind::Float),
                ],
            }),
            "cast" => Ok(Relation {
                name: "cast".into(),
                columns: vec![
                    column("film", Kind::Integer),
                    column("id", Kind::Integer),
                    column("name", Kind::Text),
                ],
            }),
            other => Err(format!("{other} is not made")),
        };
        let views = Views {
            relation: &relation,
            kind: &|name| Kind::of_builtin(name, false),
        };
        Ok(views.translate(&tokens(query).unwrap())?.0)
    }

    #[test]
    fn queries_that_mean_the_same_are_translated() {
        for (query, wanted) in [
            (
                " SELECT film.id,\n    film.title AS name,\n rate FROM public.film WHERE (film.rate > (1)::numeric)",
                r#"SELECT "film"."id" AS "id", "film"."title" AS "name", "film"."rate" AS "rate" FROM "film" AS "film" WHERE (CAST("film"."rate" AS REAL) > (1))"#,
            ),
            (
                "SELECT f.title, count(*) AS n, min(c.name) AS first FROM (public.film f LEFT JOIN public.\"cast\" c ON \
                 ((c.film = f.\"Id\"))) GROUP BY f.id, f.rating HAVING (count(c.id) > 1) ORDER BY (count(*)) DESC, f.title LIMIT 10",
                r#"SELECT "f"."title" AS "title", count(*) AS "n", min("c"."name") AS "first" FROM "film" AS "f" LEFT JOIN "cast" AS "c" ON ("c"."film" = "f"."Id_2") GROUP BY "f"."id", "f"."rating" HAVING (count("c"."id") > 1) ORDER BY (count(*)) DESC NULLS FIRST, "f"."title" NULLS LAST LIMIT 10"#,
            ),
            (
                "SELECT sum( CASE WHEN (f.rating = 'G'::public.rating) THEN 1 ELSE 0 END) AS g FROM public.film f",
                r#"SELECT sum(CASE WHEN ("f"."rating" = 'G') THEN 1 ELSE 0 END) AS "g" FROM "film" AS "f""#,
            ),
            (
                "WITH x AS ( SELECT id FROM public.film) SELECT x.id FROM x WHERE (EXISTS ( SELECT 1 AS one FROM public.\"cast\" c \
                 WHERE (c.film = x.id)))",
                r#"WITH "with x" AS (SELECT "film"."id" AS "id" FROM "film" AS "film") SELECT "x"."id" AS "id" FROM "with x" AS "x" WHERE (EXISTS (SELECT 1 AS "one" FROM "cast" AS "c" WHERE ("c"."film" = "x"."id")))"#,
            ),
            (
                "SELECT film.title FROM public.film UNION SELECT c.name FROM public.\"cast\" c",
                r#"SELECT "film"."title" AS "title" FROM "film" AS "film" UNION SELECT "c"."name" AS "name" FROM "cast" AS "c""#,
            ),
            (
                "SELECT id FROM (public.film JOIN public.\"cast\" USING (id))",
                r#"SELECT "id" AS "id" FROM "film" AS "film" JOIN "cast" AS "cast" USING ("id")"#,
            ),
        ] {
            assert_eq!(translated(query).as_deref(), Ok(wanted), "{query}");
        }
    }

    #[test]
    fn other_queries_are_refused() {
        for query in [
            "SELECT sum(film.rate) AS s FROM public.film",
            "SELECT (film.rate * (2)::numeric) AS s FROM public.film",
            "SELECT (film.id * 1.5) AS s FROM public.film",
            "SELECT avg(film.id) AS a FROM public.film",
            "SELECT DISTINCT film.rate FROM public.film",
            "SELECT count(DISTINCT film.rate) AS n FROM public.film",
            "SELECT film.title FROM public.film ORDER BY film.rating",
            "SELECT film.title FROM public.film GROUP BY film.rate",
            "SELECT max(film.rating) AS m FROM public.film",
            "SELECT lower(film.title) AS t FROM public.film",
            "SELECT film.title FROM public.film WHERE (film.added > now())",
            "SELECT film.title FROM public.film WHERE (film.added > (now() - '7 days'::interval))",
            "SELECT (film.added)::date AS d FROM public.film",
            "SELECT row_number() OVER (ORDER BY film.id) AS n FROM public.film",
            "SELECT other.id FROM public.other",
            "SELECT DISTINCT ON (film.id) film.id FROM public.film",
            "SELECT film.id, film.\"Id\" AS \"ID\" FROM public.film",
            "SELECT f.id FROM public.film f, public.\"cast\" \"F\"",
            "SELECT film.id FROM public.film UNION ALL SELECT film.rate FROM public.film",
            "SELECT film.id FROM public.film UNION SELECT film.id FROM public.film EXCEPT SELECT 1 AS id",
            "SELECT g.i FROM generate_series(1, 3) g(i)",
            "SELECT film.id FROM public.film WHERE (film.rate IN ( SELECT film.rate FROM public.film))",
            "SELECT film.id FROM public.film FOR UPDATE",
            "SELECT film.id FROM public.film LIMIT ( SELECT 1)",
            "WITH RECURSIVE x AS ( SELECT 1 AS i) SELECT x.i FROM x",
            "VALUES (1)",
        ] {
            assert!(translated(query).is_err(), "{query}: {:?}", translated(query));
        }
    }
}
